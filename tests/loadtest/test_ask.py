"""Claims about `loadtest ask`: a wrong answer is found, told by its line, never by its document, and fails the run."""

import csv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from loadtest import ask
from loadtest.cli import main
from loadtest.make_feed import COLUMNS, Row
from proto.checker.v1 import check_pb2 as pb
from proto.checker.v1 import check_pb2_grpc
from tests.builders import DEBTOR

CLEAR = "710000188001010018"


def a_row(
    number: str = DEBTOR, purchase: str = "flight", outcome: str = "BARRED", reason: str = "", service_time: str = ""
) -> Row:
    """The debtor's flight, unless said otherwise."""
    usual = {"BARRED": "MEASURE_IN_FORCE", "ALLOWED": "NOT_LISTED"}[outcome]
    return Row(
        person="1",
        document_type="RESIDENT_ID",
        number=number,
        country="",
        name="张三",
        purchase=purchase,
        service_time=service_time,
        outcome=outcome,
        reason=reason or usual,
        why="listed; order",
    )


def a_people(folder: Path, rows: list[Row]) -> Path:
    path = folder / "people.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    return path


class Fixed(check_pb2_grpc.CheckServiceServicer):
    """Bars the debtor's flights and allows the rest; can be told to answer badly."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.asked: list[pb.CheckRequest] = []
        self.fault = ""

    def _answer(self, request: pb.CheckRequest) -> pb.CheckResponse:
        self.asked.append(request)
        if self.fault == "error":
            answer = pb.CheckResponse()
            answer.error.code, answer.error.message = 3, "purchase: is required"
            return answer
        if self.fault == "newer":
            return pb.CheckResponse(outcome=99, reason=99, answered_by=99)  # type: ignore[arg-type]
        barred = request.subject.document.number == DEBTOR and self.fault != "wrong"
        if barred:
            return pb.CheckResponse(outcome=pb.OUTCOME_BARRED, reason=pb.REASON_MEASURE_IN_FORCE)
        return pb.CheckResponse(outcome=pb.OUTCOME_ALLOWED, reason=pb.REASON_NOT_LISTED)

    def Check(self, request: pb.CheckRequest, context: Any) -> pb.CheckResponse:  # noqa: N802 - the contract's name
        return self._answer(request)

    def BatchCheck(self, request: pb.BatchCheckRequest, context: Any) -> pb.BatchCheckResponse:  # noqa: N802 - likewise
        self.batches.append(len(request.items))
        answers = [self._answer(item) for item in request.items]
        return pb.BatchCheckResponse(items=answers[1:] if self.fault == "short" else answers)

    def StreamCheck(self, request_iterator: Any, context: Any) -> Iterator[pb.CheckResponse]:  # noqa: N802 - likewise
        return map(self._answer, request_iterator)

    def GetRulebook(self, request: Any, context: Any) -> pb.GetRulebookResponse:  # noqa: N802 - likewise
        return pb.GetRulebookResponse(version="1")


@contextmanager
def _served(folder: Path) -> Iterator[tuple[str, Fixed]]:
    servicer = Fixed()
    server = grpc.server(ThreadPoolExecutor(2))
    check_pb2_grpc.add_CheckServiceServicer_to_server(servicer, server)
    target = f"unix:{folder}/s"
    server.add_insecure_port(target)
    server.start()
    try:
        yield target, servicer
    finally:
        server.stop(None).wait()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Fixed]]:
    """A service on a Unix socket, whose answers are known."""
    with _served(tmp_path) as pair:
        yield pair


ROWS = [a_row(), a_row(CLEAR, outcome="ALLOWED"), a_row(CLEAR, "lodging star_rating=5", "ALLOWED")]


def test_right_answers_are_counted_and_exit_0(
    served: tuple[str, Fixed], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every row is asked once, in order, and the outcomes are told by number."""
    target, servicer = served
    code = main(["ask", "--target", target, "--people", str(a_people(tmp_path, ROWS))])

    assert code == 0
    told = capsys.readouterr().out
    assert "asked 3 in" in told
    assert "ALLOWED 2, BARRED 1; wrong: 0" in told
    assert [item.subject.document.number for item in servicer.asked] == [DEBTOR, CLEAR, CLEAR]
    assert [str(item.purchase.WhichOneof("kind")) for item in servicer.asked] == ["flight", "flight", "lodging"]


def test_a_row_becomes_the_whole_question() -> None:
    """Document, country, name, purchase with its attributes and service time are those of the row."""
    row = a_row(
        purchase="resort amount.currency_code=CNY amount.units=5 region=HI", service_time="2026-04-01T00:00:00Z"
    )
    asked = ask.request(row._replace(document_type="FOREIGN_PASSPORT", country="XAA"))

    assert (asked.subject.document.type, asked.subject.document.country) == (pb.DOCUMENT_TYPE_FOREIGN_PASSPORT, "XAA")
    assert asked.subject.name == "张三"
    assert (asked.purchase.resort.amount.units, asked.purchase.resort.region) == (5, "HI")
    assert asked.service_time.ToJsonString() == "2026-04-01T00:00:00Z"
    assert not ask.request(a_row()).HasField("service_time")


def test_a_question_is_its_own_although_its_purchase_is_read_once() -> None:
    """The same purchase is parsed once for many rows, and changing one question changes no other."""
    first, before = ask.request(a_row()), ask._purchase.cache_info()
    wanted = first.purchase.SerializeToString()
    first.purchase.lodging.SetInParent()
    assert ask.request(a_row()).purchase.SerializeToString() == wanted
    assert ask._purchase.cache_info().hits == before.hits + 1


@pytest.mark.parametrize(("fault", "got"), [("wrong", "ALLOWED, NOT_LISTED"), ("error", "error purchase: is required")])
def test_a_wrong_answer_fails_the_run_by_line(
    served: tuple[str, Fixed], tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str, got: str
) -> None:
    """Line, purchase, expected and got are told; the document and the name are not."""
    target, servicer = served
    servicer.fault = fault
    code = main(["ask", "--target", target, "--people", str(a_people(tmp_path, ROWS[:1]))])
    told = "".join(capsys.readouterr())

    assert code == 1
    assert "line 2: flight (listed; order): expected BARRED, MEASURE_IN_FORCE; got " in told
    assert got in told
    assert "wrong: 1" in told
    assert DEBTOR not in told
    assert "张三" not in told


@pytest.mark.parametrize("fault", ["newer", "short"])
def test_an_answer_nobody_expected_is_a_wrong_one(served: tuple[str, Fixed], tmp_path: Path, fault: str) -> None:
    """An outcome of a newer contract, or an answer that is missing, is wrong; it does not end the asking."""
    target, servicer = served
    servicer.fault = fault
    result = ask.ask_all(target, a_people(tmp_path, ROWS[:1]))

    assert len(result.wrong) == 1
    assert ask.show_telling(target, a_people(tmp_path, ROWS[:1]), 1) == (fault == "newer")


def test_a_right_outcome_for_another_reason_is_wrong() -> None:
    """The reason counts too; where several are right, any of them."""
    answer = pb.CheckResponse(outcome=pb.OUTCOME_ALLOWED, reason=pb.REASON_EXEMPTED)

    assert not ask.is_right(a_row(outcome="ALLOWED"), answer)
    assert ask.is_right(a_row(outcome="ALLOWED", reason="NOT_LISTED|EXEMPTED"), answer)
    assert not ask.is_right(a_row(outcome="BARRED", reason="EXEMPTED"), answer)


def test_rows_are_asked_in_batches_and_up_to_the_limit(served: tuple[str, Fixed], tmp_path: Path) -> None:
    """Five hundred a call, the rest in the last one; `limit` asks the first rows only."""
    target, servicer = served
    people = a_people(tmp_path, [a_row()] * 1001)

    assert ask.ask_all(target, people).asked == 1001
    assert servicer.batches == [500, 500, 1]
    assert ask.ask_all(target, people, limit=501).asked == 501
    assert servicer.batches[3:] == [500, 1]


def test_telling_rows_differ(tmp_path: Path) -> None:
    """One of each outcome and reason in turn, each with another kind of purchase where there is one."""
    rows = [a_row()] * 50 + [a_row(purchase="train train_code=G1")] + [a_row(CLEAR, outcome="ALLOWED")] * 50
    rows += [a_row(CLEAR, "lodging star_rating=5", "ALLOWED")]
    told = ask.telling(a_people(tmp_path, rows), 4)

    assert [row.outcome for row in told] == ["BARRED", "ALLOWED", "BARRED", "ALLOWED"]
    assert {row.purchase for row in told} == {"flight", "lodging star_rating=5", "train train_code=G1"}
    assert len(ask.telling(a_people(tmp_path, rows), 99)) == 4


def test_the_table_tells_no_number_and_no_name(
    served: tuple[str, Fixed], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--telling` prints purchases, reasons and times; whom it asked about it keeps to itself."""
    target, servicer = served
    people = str(a_people(tmp_path, ROWS))
    assert main(["ask", "--target", target, "--people", people, "--telling", "3"]) == 0
    servicer.fault = "wrong"
    assert main(["ask", "--target", target, "--people", people, "--telling", "3"]) == 1
    told = capsys.readouterr().out

    assert "BARRED" in told
    assert "lodging" in told
    assert not any(secret in told for secret in (DEBTOR, CLEAR, "张三"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "does not exist: make it with"),
        ("", "line 1 is not of this version"),
        ("a,b,c\n", "line 1 is not of this version"),
        (",".join(COLUMNS) + "\n", "holds nobody to ask about"),
        (",".join(COLUMNS) + f"\n1,RESIDENT_ID,{DEBTOR}\n", "line 2 is not of this version"),
        (",".join(COLUMNS) + f"\n1,NO_TYPE,{DEBTOR},,张三,flight,,BARRED,X,why\n", "line 2 is not of this version"),
        (",".join(COLUMNS) + f"\n1,RESIDENT_ID,{DEBTOR},,张三,rocket,,BARRED,X,why\n", "line 2 is not of this version"),
        (",".join(COLUMNS) + f"\n1,RESIDENT_ID,{DEBTOR},,张三,flight,soon,BARRED,X,why\n", "line 2 is not of this"),
    ],
)
def test_a_file_that_cannot_be_asked_is_said(
    served: tuple[str, Fixed], tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, says: str
) -> None:
    """Missing, empty or of another shape: exit 2 with the file and the line on standard error, and nothing quoted."""
    people = tmp_path / "people.csv"
    if content is not None:
        people.write_text(content, "utf-8")
    for more in ([], ["--telling", "2"]):
        assert main(["ask", "--target", served[0], "--people", str(people), *more]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert says in told.err
        assert DEBTOR not in told.err
        assert "张三" not in told.err


def test_a_service_out_of_reach_is_exit_3(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """Nobody there: told in a line with the address and the status, once the time to wait is over."""
    monkeypatch.setattr(ask, "WAIT_S", 0.2)
    code = main(["ask", "--target", f"unix:{tmp_path}/none", "--people", str(a_people(tmp_path, ROWS))])

    assert code == 3
    assert "cannot be asked" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["0", "-1", "x", "1.5", ""])
@pytest.mark.parametrize("flag", ["--limit", "--telling"])
def test_a_number_of_rows_below_one_is_wrong_usage(flag: str, number: str, tmp_path: Path) -> None:
    """Asking nobody proves nothing: refused before anything is asked."""
    with pytest.raises(SystemExit) as ended:
        main(["ask", "--target", "x", "--people", str(tmp_path / "people.csv"), f"{flag}={number}"])
    assert ended.value.code == 2
