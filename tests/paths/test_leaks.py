"""After a full run no document number and no name is in anything that stays (design.md §1, 5).

Searched: every file of the centre (append-only file, change log, filter, evidence, rejects, logs), every value in the
store, decrypted evidence, the metrics page, answers, error texts and command lines. Planting proves the search.
"""

import json
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
import redis

from checker import keys as key_files
from checker.core.measure import decode
from checker.index.embedded import attach
from checker.serving import evidence
from loadtest import ask
from loadtest.make_feed import Row, read_people
from proto.checker.v1 import check_pb2 as pb
from proto.checker.v1 import check_pb2_grpc
from tests.paths.search import Secrets, forms
from tests.paths.stand import Checker, Stand, wait_for
from tests.ports import free_port

PEOPLE = 2_000
NAME = "章试试"
NUMBER = "71000018800101001X"


class Run(NamedTuple):
    """A finished run: its stand, what must not be found, and everything it left, by place."""

    stand: Stand
    secrets: Secrets
    left: dict[str, bytes]


@pytest.fixture(scope="module")
def run(stand_of: Callable[..., Stand], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A feed with broken lines imported twice and served; everybody asked about, and everything asked wrongly."""
    stand = stand_of()
    inbox = tmp_path_factory.mktemp("inbox")  # what came from outside is not ours to search
    made = ("--people", str(PEOPLE), "--seed", "7", "--broken", "64", "--out", inbox / "feed")
    assert stand.run("loadtest", "make-feed", *made).code == 0
    feed = inbox / "feed" / "feed.jsonl"
    rows = list(read_people(inbox / "feed" / "people.csv"))
    page = f"127.0.0.1:{free_port()}"

    first = stand.import_(feed, code=1)
    assert first["rejected"]
    again = stand.run("checker", "import", *stand.where, feed)
    assert again.code == 1
    flags = ("--metrics-listen", page, "--log-format", "json", "--log-level", "debug", "--index-timeout-ms", "10000")
    checker = stand.serve(*flags, workers=2)
    assert ask.ask_all(checker.address, inbox / "feed" / "people.csv").wrong == []
    left = {
        "answers": b"".join(_answers(checker.address, rows)),
        "error texts": "\n".join(_ask_wrongly(checker.address, rows[:25])).encode(),
        "command lines": _command_lines(stand, checker),
    }
    _use_commands(stand, checker, rows)
    with urllib.request.urlopen(f"http://{page}/metrics", timeout=10) as answer:
        left["metrics"] = answer.read()
    assert checker.stop() == 0
    with attach(stand.folder / "index") as attachment:
        left |= _stored(str(attachment.socket_path))
    left |= _evidence(stand)
    left |= {f"rejects {path.name}": path.read_bytes() for path in feed.parent.glob("*.rejects.jsonl")}
    left |= _files(stand)
    return Run(stand, Secrets(_used(feed, rows)), left)


def _used(feed: Path, rows: list[Row]) -> set[str]:
    """Every number and name that went in: of the feed, also of its broken lines, and of the questions."""
    used = {NUMBER, NAME}
    for row in rows:
        used |= {row.number, row.name}
    for raw in feed.read_bytes().split(b"\n"):
        with suppress(ValueError):
            line = json.loads(raw)
            for subject in line.get("subjects", ()) if isinstance(line, dict) else ():
                used |= {subject.get("name", ""), subject.get("name_latin", "")}
                used |= {paper["number"] for paper in subject.get("documents", ())}
    return {text for text in used if len(text.encode()) >= 6}


def _answers(address: str, rows: list[Row]) -> Iterator[bytes]:
    """Every answer as it is on the wire, with its trace."""
    with grpc.insecure_channel(address) as channel:
        stub = check_pb2_grpc.CheckServiceStub(channel)
        for start in range(0, len(rows), 100):
            batch = pb.BatchCheckRequest(items=[ask.request(row) for row in rows[start : start + 100]])
            for item in batch.items:
                item.with_trace = True
            yield stub.BatchCheck(batch, timeout=30).SerializeToString()


def _ask_wrongly(address: str, rows: list[Row]) -> Iterator[str]:
    """What the service says to questions spoiled in every way that could make it quote them."""
    with grpc.insecure_channel(address, options=[("grpc.primary_user_agent", NUMBER)]) as channel:
        stub = check_pb2_grpc.CheckServiceStub(channel)
        for row in rows:
            for spoiled in _spoiled(row):
                yield _failure(partial(stub.Check, spoiled, timeout=10))
                answer = stub.BatchCheck(pb.BatchCheckRequest(items=[spoiled]), timeout=10)
                yield str(answer.items[0].error) + answer.items[0].error.SerializeToString().decode("latin-1")
            metadata = (("x-passenger", row.number), ("x-passenger-bin", row.name.encode()))
            yield _failure(partial(stub.Check, ask.request(row), timeout=0.001, metadata=metadata))
            for method in ("Check", "BatchCheck", row.number if row.number.isascii() else NUMBER):
                send: Any = channel.unary_unary(f"/checker.v1.CheckService/{method}")
                yield _failure(partial(send, f"{row.number} {row.name}".encode(), timeout=10))


def _spoiled(row: Row) -> Iterator[pb.CheckRequest]:
    def made() -> pb.CheckRequest:
        request = ask.request(row)
        request.purchase.CopyFrom(pb.Purchase(flight=pb.Flight(carrier=row.number, flight_number=row.name)))
        return request

    wrong = made()
    wrong.subject.document.type = 99  # type: ignore[assignment] # a client of a later contract
    yield wrong
    wrong = made()
    wrong.subject.name = row.name * 200 + row.number * 20
    yield wrong
    wrong = made()
    wrong.subject.name_key = row.number.encode()
    yield wrong
    wrong = made()
    wrong.item_id = row.number * 20
    yield wrong
    wrong = made()
    wrong.subject.key.CopyFrom(pb.LookupKey(key_id=row.number, digest=row.number.encode()))
    yield wrong
    wrong = made()
    wrong.purchase.CopyFrom(pb.Purchase(ship=pb.ShipBerth(berth_class=row.number * 30)))
    yield wrong
    wrong = made()
    wrong.subject.document.type = pb.DOCUMENT_TYPE_FOREIGN_PASSPORT
    wrong.subject.document.country = row.number
    wrong.subject.document.number = row.number * 40
    yield wrong
    wrong = made()
    wrong.act_time.seconds = 2**60
    yield wrong


def _failure(call: Callable[[], Any]) -> str:
    """What a caller reads of a failed call; an answer's own text when it did not fail."""
    try:
        return str(call())
    except grpc.RpcError as error:
        said: Any = error  # a failed call is its own error
        return f"{said.code().name} {said.details()} {said.trailing_metadata()!r}"


def _command_lines(stand: Stand, checker: Checker) -> bytes:
    processes = [checker.process, *checker.children(), *stand.store()]
    return "\n".join(" ".join(process.cmdline()) for process in processes).encode()


def _use_commands(stand: Stand, checker: Checker, rows: list[Row]) -> None:
    """The operator's commands, rightly and wrongly; what they print lands in the stand's logs."""
    target = ("--target", checker.address)
    decisions = []
    for outcome, code in {"BARRED": 3, "UNKNOWN": 4, "INVALID_DOCUMENT": 5, "ALLOWED": 0}.items():
        plain = (row for row in rows if row.purchase == "flight" and not row.service_time)
        row = next(row for row in plain if row.outcome == outcome and row.document_type != "UNSPECIFIED")
        typed = f"{row.document_type}:{row.number}\n{row.name}\n"
        country = ("--country", row.country) if row.country else ()
        assert stand.run("checker", "check", *target, *country, "flight", stdin=typed).code == code, row.why
        checked = stand.run("checker", "check", *target, *country, "--json", "--trace", "flight", stdin=typed)
        assert checked.code == code
        decisions.append(json.loads(checked.out).get("decision_id"))
    for typed in (f"PASPORT:{NUMBER}\n{NAME}\n", f"RESIDENT_ID {NUMBER} {NAME}\n", f"{NAME}\n{NUMBER}\n"):
        assert stand.run("checker", "check", *target, "flight", stdin=typed).code not in (0, 3)
    assert stand.run("checker", "explain", decisions[0], *stand.where, "--json").code == 0
    assert stand.run("checker", "explain", decisions[0], *stand.where).code == 0
    assert stand.run("checker", "status", *stand.where).code == 0
    assert stand.run("checker", "rulebook").code == 0


def _stored(socket: str) -> dict[str, bytes]:
    """Every key, field and value in the store, raw and as we decode it."""
    parts: list[bytes] = []
    with redis.Redis(unix_socket_path=socket, protocol=2, socket_timeout=30) as client:
        for name in client.scan_iter(count=1000):
            parts.append(name)
            kind = client.type(name)
            if kind == b"hash":
                fields = client.hgetall(name)
                parts += [part for pair in fields.items() for part in pair]
                if b":k:" in name:
                    parts.append(repr(decode(fields)).encode())
            elif kind == b"stream":
                parts += [value for _, entry in client.xrange(name) for pair in entry.items() for value in pair]
            elif kind == b"string":
                parts.append(client.get(name))  # of a snapshot for edges: bits of keyed digests
            else:
                raise AssertionError(f"a {kind!r} in the store: say here how it is searched")
        parts.append(repr(client.function_list()).encode())
    assert len(parts) > PEOPLE
    return {"values of the store": b"\n".join(parts)}


def _evidence(stand: Stand) -> dict[str, bytes]:
    """The evidence as the operator reads it."""
    key = key_files.load(stand.key_file).evidence_key
    spools = list((stand.state / "evidence").glob("*.spool"))
    records = [record for spool in spools for record in evidence.read(spool, key)]
    assert len(records) > PEOPLE / 10
    return {"evidence, decrypted": json.dumps(records, ensure_ascii=False).encode()}


def _files(stand: Stand) -> dict[str, bytes]:
    """Every file of the centre."""
    files = [path for path in stand.folder.rglob("*") if path.is_file()]
    names = " ".join(path.name for path in files)
    for expected in (".aof", "changes.log", "filter.xxf", ".spool", "-checker-serve.err", "valkey.log", "access.log"):
        assert expected in names, f"no {expected} among {names}"
    return {f"file {path.relative_to(stand.folder)}": path.read_bytes() for path in files}


def found_in(secrets: Secrets, left: dict[str, bytes]) -> list[Any]:
    return [found for place, text in left.items() for found in secrets.find(place, text)]


def test_no_number_and_no_name_is_anywhere(run: Run) -> None:
    """Of thousands of numbers and names that went in, none is in any file, value, log, metric, answer or error text."""
    assert run.secrets.count > PEOPLE
    assert sum(map(len, run.left.values())) > 5_000_000
    assert found_in(run.secrets, run.left)[:20] == []


def test_the_run_left_something_to_search(run: Run) -> None:
    """The claim above is not about empty places: each holds what it should, and the logs are JSON."""
    assert all(text for place, text in run.left.items() if not place.startswith("file "))
    assert b"checker_answers_total" in run.left["metrics"]
    assert b"INVALID_ARGUMENT" in run.left["error texts"]
    assert b"DEADLINE_EXCEEDED" in run.left["error texts"]
    rejects = [text for place, text in run.left.items() if place.startswith("rejects")]
    assert len(rejects[0].splitlines()) == 64
    logs = [text for place, text in run.left.items() if place.endswith("checker-serve.err")]
    for line in logs[0].splitlines():
        assert "event" in json.loads(line)


def test_what_is_planted_in_the_store_is_found(run: Run, tmp_path: Path) -> None:
    """A number and a name written into the store are found in its values and its append-only file, rewritten or not."""
    copy = tmp_path / "index"
    shutil.copytree(run.stand.folder / "index", copy)
    secrets = Secrets([NUMBER[:-1] + "3", NAME])  # all digits: the store packs it as an integer
    with attach(copy) as attachment, redis.Redis(unix_socket_path=str(attachment.socket_path)) as client:
        assert found_in(secrets, _stored(str(attachment.socket_path))) == []
        name = next(client.scan_iter(match="*:k:*"))
        client.hset(name, "planted", NUMBER[:-1] + "3")
        client.hset(name, "planted too", NAME)
        with suppress(Exception):  # our own decoder must not read a foreign field; the raw values are enough
            decode(client.hgetall(name))
        values = b"".join(part for pair in client.hgetall(name).items() for part in pair)
        assert {found.secret for found in secrets.find("values", values)} == {NUMBER[:-1] + "3", NAME}
        written = {found.form for path in copy.rglob("*.aof") for found in secrets.find(path.name, path.read_bytes())}
        assert written == {"as given"}
        client.bgrewriteaof()
        wait_for("the rewrite", lambda: not client.info("persistence")["aof_rewrite_in_progress"])
        wait_for("its file", lambda: len(list(copy.rglob("*.base.*"))) == 1)
        (base,) = copy.rglob("*.base.*")
        rewritten = {found.form for found in secrets.find(base.name, base.read_bytes())}
        assert rewritten == {"as given", "integer"}


@pytest.mark.parametrize("secret", [NUMBER, "440524188001010014", NAME, "E00001234", "IVANOV/PETR"])
def test_every_form_of_a_planted_secret_is_found(run: Run, secret: str) -> None:
    """In any encoding, in upper or lower case, packed or hashed without a key: planted into a copy, it is found."""
    secrets = Secrets([secret])
    tree = max(run.left.values(), key=len)[:20_000]
    middle = len(tree) // 2
    assert secrets.find("tree", tree) == []
    for form, raw in forms(secret):
        for written in (raw, raw.upper(), raw.lower()):
            planted = tree[:middle] + b" " + written + b" " + tree[middle:]
            assert [found.offset for found in secrets.find("tree", planted)] == [middle + 1], form


def test_a_planted_record_and_log_line_are_found(run: Run) -> None:
    """A name inside a decrypted evidence record and a number inside a log line are found among all that is there."""
    evidence_place = "evidence, decrypted"
    log_place = next(place for place in run.left if place.endswith("checker-serve.err"))
    planted = {
        evidence_place: run.left[evidence_place].replace(b'"caller": ', f'"name": "{NAME}", "caller": '.encode(), 1),
        log_place: run.left[log_place] + json.dumps({"event": f"checked {NUMBER}"}).encode(),
    }
    assert {found.place for found in found_in(run.secrets, planted)} == {evidence_place, log_place}
