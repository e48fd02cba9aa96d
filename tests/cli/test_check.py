"""`checker check`: the real script against a real server that answers as told and keeps what it was asked."""

import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import grpc
import pytest
from google.protobuf.json_format import ParseDict
from google.rpc import code_pb2, error_details_pb2, status_pb2

from checker.cli import check_answer
from checker.cli.check import EXIT_CODES
from checker.cli.check_answer import ADVISORIES, ANSWERED_BY, REASONS, span
from checker.cli.check_kinds import KINDS
from checker.cli.main import main
from proto.checker.v1 import check_pb2 as pb
from proto.checker.v1 import check_pb2_grpc
from tests.cli.console import SCRIPT, Ran, environment, run
from tests.rpc.certificates import Authority

NUMBER = "440524188001010014"
NAME = "张三丰"
DOCUMENT = ("--document", f"RESIDENT_ID:{NUMBER}")

BARRED = pb.CheckResponse(
    outcome=pb.OUTCOME_BARRED,
    reason=pb.REASON_MEASURE_IN_FORCE,
    advisory=[pb.ADVISORY_DISPUTED],
    legal_basis="SPC-C 3(1)(9)",
    decision_id="01KAV7Q3N2E5V0T8Y4R6M1X9ZC",
    rulebook_version="2026.1",
    answered_by=pb.ANSWERED_BY_INDEX,
    notice=pb.Text(zh="此项目不能售予该旅客。", en="This item cannot be sold to this passenger."),
    alternatives=[pb.Text(zh="可购二等座", en="Second class may be sold")],
    trace=[pb.TraceStep(step="rules", detail="row train.g.second: BAR C", nanoseconds=1500)],
)
BARRED.data_as_of.feed_sequence = 12345
BARRED.data_as_of.feed_time.FromJsonString("2026-01-02T03:04:05Z")
BARRED.data_as_of.snapshot_epoch = 7


class Canned(check_pb2_grpc.CheckServiceServicer):
    """Answers `answer`, or fails with `failure`, or is silent until `released`; keeps every request."""

    def __init__(self) -> None:
        self.answer = pb.CheckResponse(outcome=pb.OUTCOME_ALLOWED, reason=pb.REASON_NOT_LISTED)
        self.failure: tuple[grpc.StatusCode, str, bytes] | None = None
        self.requests: list[pb.CheckRequest] = []
        self.released = threading.Event()
        self.released.set()

    def Check(self, request: pb.CheckRequest, context: Any) -> pb.CheckResponse:  # noqa: N802 - the contract's name
        self.requests.append(request)
        self.released.wait()
        if self.failure is not None:
            code, text, details = self.failure
            context.set_trailing_metadata((("grpc-status-details-bin", details),) if details else ())
            context.abort(code, text)
        return self.answer

    BatchCheck = StreamCheck = GetRulebook = None  # type: ignore[assignment]  # this command asks one question at a time


class Service(NamedTuple):
    """A canned service and where it listens. In threads, so that commands can run in this process beside it."""

    address: str
    canned: Canned


@contextmanager
def served(credentials: grpc.ServerCredentials | None = None) -> Iterator[Service]:
    """A canned service on a free loopback port."""
    canned = Canned()
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        check_pb2_grpc.add_CheckServiceServicer_to_server(canned, server)
        if credentials is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        try:
            yield Service(f"127.0.0.1:{port}", canned)
        finally:
            canned.released.set()
            server.stop(0).wait()


@pytest.fixture
def service() -> Iterator[Service]:
    with served() as serving:
        yield serving


class Command(Protocol):
    """`checker ARGUMENTS`, in this process."""

    def __call__(self, *arguments: str | Path) -> Ran: ...


@pytest.fixture
def checker(capsys: pytest.CaptureFixture[str]) -> Command:
    """The command without the cost of a process; `run` is the script itself."""

    def ran(*arguments: str | Path) -> Ran:
        code = main([str(argument) for argument in arguments])
        return Ran(code, *capsys.readouterr())

    return ran


PURCHASES: list[tuple[str, dict[str, Any]]] = [
    ("train G1 O", {"train": {"train_code": "G1", "seat_code": "O"}}),
    (
        "train K1 O --seat-name 二等座 --emu --standing",
        {
            "train": {
                "train_code": "K1",
                "seat_code": "O",
                "seat_name": "二等座",
                "is_emu": True,
                "is_standing": True,
            }
        },
    ),
    ("flight", {"flight": {}}),
    ("flight CA1234", {"flight": {"carrier": "CA", "flight_number": "1234"}}),
    ("flight charter", {"flight": {"flight_number": "charter"}}),
    ("ship 二等", {"ship": {"berth_class": "二等"}}),
    ("lodging 5", {"lodging": {"star_rating": 5}}),
    ("lodging 0", {"lodging": {}}),
    ("venue nightclub", {"venue": {"kind": "VENUE_KIND_NIGHTCLUB"}}),
    ("venue golf", {"venue": {"kind": "VENUE_KIND_GOLF"}}),
    (
        "outbound-tour --group --by-agency --destination THA",
        {"outbound_tour": {"is_group": True, "sold_by_agency": True, "destination": "THA"}},
    ),
    ("outbound-tour", {"outbound_tour": {}}),
    (
        "outbound-service visa --by-agency",
        {"outbound_service": {"kind": "OUTBOUND_SERVICE_KIND_VISA", "sold_by_agency": True}},
    ),
    (
        "outbound-service transfer --destination JPN",
        {"outbound_service": {"kind": "OUTBOUND_SERVICE_KIND_TRANSFER", "destination": "JPN"}},
    ),
    ("domestic-tour", {"domestic_tour": {}}),
    ("domestic-tour --package", {"domestic_tour": {"is_package": True}}),
    (
        "resort --amount 5000 --region BJ --grade 国家级",
        {"resort": {"amount": {"currency_code": "CNY", "units": 5000}, "region": "BJ", "grade": "国家级"}},
    ),
    (
        "school --private --fee 120,000.50 --region SH --payer-named",
        {
            "school": {
                "is_private": True,
                "fee": {"currency_code": "CNY", "units": 120000, "nanos": 500000000},
                "region": "SH",
                "payer_named_by_order": True,
            }
        },
    ),
    ("school", {"school": {}}),
    (
        "insurance --cash-value --premium 0.000000001 --region GD",
        {
            "insurance": {
                "has_cash_value": True,
                "annual_premium": {"currency_code": "CNY", "nanos": 1},
                "region": "GD",
            }
        },
    ),
    ("real-estate exchange", {"real_estate": {"deal": "REAL_ESTATE_DEAL_EXCHANGE"}}),
    (
        "construction decoration --luxury",
        {"construction": {"kind": "CONSTRUCTION_KIND_DECORATION", "is_luxury": True}},
    ),
    ("construction new-build", {"construction": {"kind": "CONSTRUCTION_KIND_NEW_BUILD"}}),
    (
        "vehicle --use non-operating e-bike",
        {"vehicle": {"use": "VEHICLE_USE_NON_OPERATING", "kind": "VEHICLE_KIND_E_BIKE"}},
    ),
    ("office-lease", {"office_lease": {}}),
    ("office-lease 甲级", {"office_lease": {"grade": "甲级"}}),
]


@pytest.mark.parametrize(("words", "fields"), PURCHASES, ids=[words for words, _ in PURCHASES])
def test_every_kind_of_purchase_reaches_the_service_as_its_own_message(
    words: str, fields: dict[str, Any], service: Service, checker: Command
) -> None:
    """Each sub-command, with each of its arguments, becomes exactly the contract's message for that kind."""
    ran = checker("check", "--target", service.address, *DOCUMENT, *words.split())

    assert (ran.code, ran.err) == (0, "")
    assert [ParseDict(fields, pb.Purchase())] == [request.purchase for request in service.canned.requests]


def test_the_kinds_cover_the_contract() -> None:
    """There is a sub-command for every kind of the Purchase oneof, and only for those; every field can be given."""
    oneof = pb.Purchase.DESCRIPTOR.oneofs_by_name["kind"]

    assert {field.name for field in oneof.fields} == {kind.kind for kind in KINDS}
    for kind in KINDS:
        message = pb.Purchase.DESCRIPTOR.fields_by_name[kind.kind].message_type
        assert message is not None
        filled = {argument.field for argument in kind.arguments} | ({"carrier"} if kind.kind == "flight" else set())
        assert {field.name for field in message.fields} == filled
        for argument in kind.arguments:
            enum = message.fields_by_name[argument.field].enum_type
            if enum is not None:
                words = {value.name for value in enum.values if value.number}
                prefix = enum.values[0].name.removesuffix("UNSPECIFIED")
                assert words == {prefix + w.upper().replace("-", "_") for w in argument.options["choices"]}


def test_every_word_of_the_contract_is_explained() -> None:
    """No outcome is without exit code, and no reason, advisory or source of an answer without a sentence."""

    def words(enum: Any, prefix: str) -> set[str]:
        return {word.removeprefix(prefix) for word, number in enum.items() if number}

    assert words(pb.Outcome, "OUTCOME_") == EXIT_CODES.keys()
    assert words(pb.Reason, "REASON_") == REASONS.keys()
    assert words(pb.Advisory, "ADVISORY_") == ADVISORIES.keys()
    assert words(pb.AnsweredBy, "ANSWERED_BY_") == ANSWERED_BY.keys()


@pytest.mark.parametrize(
    ("outcome", "code"),
    [("ALLOWED", 0), ("BARRED", 3), ("UNKNOWN", 4), ("INVALID_DOCUMENT", 5), ("UNSPECIFIED", 1)],
)
def test_the_exit_code_says_the_outcome(outcome: str, code: int, service: Service, checker: Command) -> None:
    """Scripts can branch on the outcome; an answer without one is a failure, never a zero."""
    service.canned.answer = pb.CheckResponse(outcome=f"OUTCOME_{outcome}")
    plain = run("check", "--target", service.address, *DOCUMENT, "flight")
    as_json = checker("check", "--target", service.address, *DOCUMENT, "--json", "flight")

    assert (code, code) == (plain.code, as_json.code)
    assert bool(code == 1) == plain.err.startswith("checker: the service answered with outcome UNSPECIFIED")


def test_a_refusal_is_shown_with_all_that_lies_behind_it(service: Service, checker: Command) -> None:
    """The table holds outcome, reason, basis, both notices, alternatives, decision id, data age, rulebook and trace."""
    service.canned.answer = BARRED
    ran = checker("check", "--target", service.address, *DOCUMENT, "--trace", "train", "G1", "O")

    assert ran.out.startswith("BARRED: do not sell this item to this person")
    for text in (
        "MEASURE_IN_FORCE: a measure in force names this purchase",
        "DISPUTED",
        "SPC-C 3(1)(9)",
        "此项目不能售予该旅客。",
        "This item cannot be sold to this passenger.",
        "可购二等座",
        "Second class may be sold",
        "01KAV7Q3N2E5V0T8Y4R6M1X9ZC",
        "feed sequence 12,345 of 2026-01-02 11:04:05+08:00",
        "filter snapshot 7",
        "INDEX: the exact index",
        "2026.1",
        "row train.g.second: BAR C",
        "1.5",
    ):
        assert text in ran.out, text
    assert "\x1b" not in ran.out, "no colours where there is no terminal"
    assert service.canned.requests[0].with_trace


def test_an_allowed_answer_says_how_long_it_holds(
    service: Service, checker: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ALLOWED shows when it expires, in Beijing time and from now; what the answer leaves out is not shown."""
    monkeypatch.setattr(check_answer, "time", SimpleNamespace(time=lambda: 1_800_000_000.0))
    service.canned.answer.expire_time.FromSeconds(1_800_000_290)
    ran = checker("check", "--target", service.address, *DOCUMENT, "train", "K1", "1")

    assert ran.out.startswith("ALLOWED: sell")
    assert re.search(r"^expires +2027-01-15 16:04:50\+08:00, in 4 min 50 s$", ran.out, re.MULTILINE), ran.out
    assert "nothing imported yet" in ran.out
    for label in ("decision id", "say", "may be sold", "legal basis", "advisory"):
        assert not re.search(f"^{label}", ran.out, re.MULTILINE)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.4, "59 s"), (60, "1 min"), (3_661, "1 h 1 min"), (90_000, "1 d 1 h"), (-61, "-1 min 1 s")],
)
def test_lengths_of_time_are_two_words(seconds: float, words: str) -> None:
    """A length of time is given in its two largest units; what lies ahead of the clock is negative."""
    assert span(seconds) == words


def test_json_is_the_message_itself(service: Service, checker: Command) -> None:
    """--json prints the answer with the contract's field names: reading it back gives the same message."""
    service.canned.answer = BARRED
    ran = checker("check", "--target", service.address, *DOCUMENT, "train", "G1", "O", "--json")

    shown = json.loads(ran.out)
    assert ParseDict(shown, pb.CheckResponse()) == BARRED
    assert shown["data_as_of"]["feed_sequence"] == "12345"


@pytest.mark.parametrize(
    ("stdin", "subject"),
    [
        (f"RESIDENT_ID:{NUMBER}\n", pb.Subject(document=pb.Document(type=pb.DOCUMENT_TYPE_RESIDENT_ID, number=NUMBER))),
        (
            f"\ufeffresident-id：{NUMBER}",
            pb.Subject(document=pb.Document(type=pb.DOCUMENT_TYPE_RESIDENT_ID, number=NUMBER)),
        ),
        (f"{NUMBER}\n{NAME}\n", pb.Subject(document=pb.Document(number=NUMBER), name=NAME)),
        ("", pb.Subject()),
    ],
)
def test_standard_input_gives_the_document(stdin: str, subject: pb.Subject, service: Service, checker: Command) -> None:
    """The first line is the document with or without its type, the second the name; nothing at all is no subject."""
    ran = run("check", "--target", service.address, "train", "G1", "O", stdin=stdin)

    assert (ran.code, ran.err) == (0, "")
    assert subject == service.canned.requests[0].subject


def test_options_may_stand_on_either_side_and_reach_the_request(service: Service, checker: Command) -> None:
    """Times without an offset are Beijing time; options before and after KIND count alike, the later one wins."""
    passport = ("--document", "FOREIGN_PASSPORT:AB1234567", "--country", "xaa", "--name", "DOE/JANE")
    times = ("--act-time", "2026-03-31T23:59", "--service-time", "2026-04-01")
    before = checker("check", "--target", service.address, *passport, *times, "--min-feed-sequence", "9", "flight")
    after = checker("check", "flight", "--min-feed-sequence", "9", *times, *passport, "--target", service.address)
    both = checker("check", "--target", "127.0.0.1:1", *DOCUMENT, "flight", "--target", service.address)

    assert [before.code, after.code, both.code] == [0, 0, 0]
    request = pb.CheckRequest(min_feed_sequence=9)
    request.purchase.flight.SetInParent()
    request.act_time.FromJsonString("2026-03-31T15:59:00Z")
    request.service_time.FromJsonString("2026-03-31T16:00:00Z")
    request.subject.name = "DOE/JANE"
    request.subject.document.MergeFrom(
        pb.Document(type=pb.DOCUMENT_TYPE_FOREIGN_PASSPORT, number="AB1234567", country="XAA")
    )
    assert [request, request] == service.canned.requests[:2]


def test_nothing_printed_holds_the_number_or_the_name(service: Service, checker: Command) -> None:
    """Whatever the outcome or the mistake, neither output names the document or the person, even misplaced ones."""
    asked = ("check", "--name", NAME)
    wrong = [
        ("check", NUMBER),
        ("check", f"RESIDENT_ID:{NUMBER}", "train", "G1"),
        ("check", "--documant", f"RESIDENT_ID:{NUMBER}", "flight"),
        ("check", f"--documant=RESIDENT_ID:{NUMBER}", "flight"),
        ("check", f"-{NUMBER[:17]}X", "flight"),
        (*asked, "--document", f"RESIDENT:{NUMBER}", "flight"),
        (*asked, "--country", "\udcff", "--document", NUMBER, "flight"),
        ("check", "venue", NAME),
        ("check", "venue", f"it's {NAME}"),
        ("check", "flight", "CA1234", NAME, NUMBER),
        ("check", f"--trace={NUMBER}", "flight"),
        ("check", "--act-time", NUMBER, "flight"),
        ("check", "--min-feed-sequence", f"{NUMBER}X", "flight"),
        ("check", "lodging", f"{NUMBER}X"),
        ("check", "resort", "--amount", NAME),
        (NUMBER,),
    ]
    service.canned.answer = BARRED
    good = run(*asked, *DOCUMENT, "--target", service.address, "--trace", "train", "G1", "O")
    as_json = run(*asked, *DOCUMENT, "--target", service.address, "--json", "train", "G1", "O")
    bad = [checker(*words) for words in wrong]

    assert [good.code, as_json.code] == [3, 3]
    assert [2] * len(wrong) == [each.code for each in bad], [each.err for each in bad]
    for each in (good, as_json, *bad):
        assert NUMBER[:17] not in each.out + each.err, each
        assert NAME not in each.out + each.err, each
    for each in bad:
        assert each.err.startswith("checker: "), each.err
        assert each.err.count("\n") == 1, each.err


def test_a_malformed_request_is_explained_field_by_field(service: Service, checker: Command) -> None:
    """INVALID_ARGUMENT exits 2 with one line per field violation, the document in this command's own words."""
    details = error_details_pb2.BadRequest()
    details.field_violations.add(field="purchase.lodging.star_rating", description="must be 1 to 5 official stars")
    details.field_violations.add(field="subject", description="is required for this purchase")
    status = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message="both")
    status.details.add().Pack(details)
    service.canned.failure = (grpc.StatusCode.INVALID_ARGUMENT, "both", status.SerializeToString())
    ran = checker("check", "--target", service.address, *DOCUMENT, "lodging", "9")
    service.canned.failure = (grpc.StatusCode.INVALID_ARGUMENT, "without details", b"")
    bare = checker("check", "--target", service.address, *DOCUMENT, "lodging", "9")

    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines() == [
        "checker: purchase.lodging.star_rating: must be 1 to 5 official stars",
        "checker: the document (standard input, the prompt, or --document): is required for this purchase",
    ]
    assert (bare.code, bare.err) == (2, "checker: without details\n")


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, "refuses this caller: needs the operator role"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "answered RESOURCE_EXHAUSTED: needs the operator role"),
        (grpc.StatusCode.UNIMPLEMENTED, "serves no checker.v1.CheckService: is it the right address?"),
    ],
)
def test_a_refused_call_is_one_line(status: grpc.StatusCode, said: str, service: Service, checker: Command) -> None:
    """What the service says is shown in one line on standard error, and the command exits 1."""
    service.canned.failure = (status, "needs the operator role", b"")
    ran = checker("check", "--target", service.address, *DOCUMENT, "flight")

    assert Ran(1, "", f"checker: {service.address} {said}\n") == ran


def test_a_silent_service_is_given_up_after_the_timeout(service: Service, checker: Command) -> None:
    """--timeout bounds the wait, and the message says how long it was."""
    service.canned.released.clear()
    ran = checker("check", "--target", service.address, "--timeout", "0.3", *DOCUMENT, "flight")

    assert Ran(1, "", f"checker: {service.address} gave no answer within 0.3 s: try a longer --timeout\n") == ran


def test_nobody_there_is_one_line() -> None:
    """An address where nothing listens is named together with what to start."""
    ran = run("check", "--target", "127.0.0.1:1", *DOCUMENT, "flight")

    assert ran.code == 1
    assert (
        ran.err == "checker: cannot reach 127.0.0.1:1: is `checker serve` running there? or does it want TLS (--ca)?\n"
    )


def test_mutual_tls(tmp_path: Path, checker: Command) -> None:
    """With authority, certificate and key the call gets through; without them, or half of them, one line says so."""
    authority = Authority(tmp_path)
    server, client = authority.issue("node", server=True), authority.issue("me", uri="xianxiao:booking/me")
    pair = (server.key.read_bytes(), server.cert.read_bytes())
    credentials = grpc.ssl_server_credentials([pair], authority.cert.read_bytes(), require_client_auth=True)
    with served(credentials) as (address, _):
        asked = ("check", "--target", address, *DOCUMENT, "flight")
        tls = ("--ca", authority.cert, "--cert", client.cert)
        good = checker(*asked, *tls, "--key", client.key, "--server-name", "localhost")
        other = run(*asked, *tls, "--key", client.key, "--server-name", "elsewhere")
        plain = run(*asked)
        half = checker(*asked, *tls)
        missing = checker(*asked, "--ca", tmp_path / "none.pem")

    assert (good.code, good.err) == (0, "")
    assert (plain.code, other.code) == (1, 1)
    assert other.err.endswith("does it trust --cert and match --ca?\n")
    assert other.err.count("\n") == 1
    assert plain.err.count("\n") == 1
    assert "or does it want TLS (--ca)?" in plain.err
    assert (half.code, missing.code) == (2, 2)
    assert "give both or neither" in half.err
    assert "none.pem: cannot be read" in missing.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("school --private", "checker: --private needs --fee YUAN"),
        ("insurance --cash-value", "checker: --cash-value needs --premium YUAN"),
        ("resort", "the following arguments are required: --amount"),
        ("resort --amount -1", "must be an amount in yuan"),
        ("resort --amount nan", "must be an amount in yuan"),
        ("resort --amount 1e30", "must be an amount in yuan"),
        ("resort --amount 0.0000000001", "must be an amount in yuan"),
        ("lodging 99999999999", "beyond 32 bits"),
        ("flight --timeout 0", "must be a number of seconds above 0"),
        ("flight --act-time yesterday", "must be a time such as"),
        ("flight --min-feed-sequence -1", "must be a whole number, 0 or more"),
        ("cruise", "KIND: invalid choice (choose from"),
        ("", "required: KIND"),
    ],
)
def test_wrong_arguments_are_refused_before_any_call(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong flag exits 2 with one line that names it; no service is needed to learn that."""
    code = main(["check", "--target", "127.0.0.1:1", *DOCUMENT, *words.split()])

    shown = capsys.readouterr()
    assert (code, shown.out) == (2, "")
    assert said in shown.err
    assert shown.err.count("\n") == 1


_WITH_TERMINAL = """
import fcntl, os, sys, termios  # a session of its own, whose controlling terminal is standard input
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_at_a_terminal_the_document_is_asked_for_hidden_and_the_outcome_shown_in_colour(service: Service) -> None:
    """On a terminal the prompt takes document and name without echo, and the outcome is coloured."""
    service.canned.answer = BARRED
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            [sys.executable, "-c", _WITH_TERMINAL, SCRIPT, "check", "--target", service.address, "train", "G1", "O"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment(TERM="xterm-256color"),
        ) as process:
            os.close(theirs)
            shown = _converse(ours, [("Document", f"RESIDENT_ID:{NUMBER}\n"), ("Name", f"{NAME}\n")])
            code = process.wait(60)
    finally:
        os.close(ours)

    assert code == 3
    subject = service.canned.requests[0].subject
    assert subject.document == pb.Document(type=pb.DOCUMENT_TYPE_RESIDENT_ID, number=NUMBER)
    assert subject.name == NAME
    assert "B A R R E D" in shown
    assert "\x1b[1;37;41m" in shown, "white on red"
    assert NUMBER not in shown
    assert NAME not in shown


def _converse(terminal: int, lines: list[tuple[str, str]]) -> str:
    """Answer each prompt once it is shown; returns all that was shown until the other side closed."""
    shown = b""
    waiting = list(lines)
    while True:
        try:
            shown += os.read(terminal, 65536)
        except OSError:  # Linux: the last process with the terminal has gone
            return shown.decode()
        if waiting and waiting[0][0].encode() in shown:
            os.write(terminal, waiting.pop(0)[1].encode())


def test_a_closed_pipe_is_no_traceback() -> None:
    """When whoever reads the output has gone, as after `checker rulebook | head`, the command ends quietly."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as gone:
        ran = subprocess.run(
            [SCRIPT, "rulebook"], stdout=gone, stderr=subprocess.PIPE, timeout=60, check=False, env=environment()
        )

    assert (ran.returncode, ran.stderr) == (141, b"")


@pytest.mark.parametrize("command", [[], ["check"], ["check", "train"], ["rulebook"], ["keys"], ["keys", "rotate"]])
def test_help_shows_examples_or_meaning(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Help exits 0, has no over-long line in its own text, and says more than the flags."""
    code = main([*command, "--help"])

    out = capsys.readouterr().out
    assert code == 0
    assert len(out.splitlines()) > 10
    assert max(map(len, out.splitlines())) <= 120
