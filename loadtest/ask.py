"""`loadtest ask`: asks a service everything in people.csv and compares each answer with what it must be.

Asks in batches over one connection. A wrong answer is printed by its row number in people.csv, never by its document,
and fails the run. `--telling N` instead asks N rows that differ in what they show, one by one, and prints them as a
table: the quickest look at a running service.
"""

import argparse
import csv
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.timestamp_pb2 import Timestamp

from loadtest.make_feed import COLUMNS, Row, purchase_fields, read_people
from proto.checker.v1 import check_pb2 as pb
from proto.checker.v1 import check_pb2_grpc

BATCH = 500
WAIT_S = 30.0
"""Time a batch may take, the wait for the service to come up included."""
_SHOWN = 20


class Result(NamedTuple):
    """What asking a people.csv gave."""

    asked: int
    wrong: list[str]  # one line each: row, purchase, expected, got
    outcomes: dict[str, int]
    seconds: float


class BadPeople(Exception):
    """people.csv cannot be asked; the text says why and names the line, never what stands in it."""


def _rows(people: Path) -> Iterator[tuple[int, Row, pb.CheckRequest]]:
    """Each line of people.csv with its number and the question it stands for. Raises BadPeople, OSError."""
    with people.open(encoding="utf-8", errors="replace") as file:
        if file.readline().strip() != ",".join(COLUMNS):
            raise BadPeople("line 1 is not of this version: make it again with `loadtest make-feed`")
    rows = read_people(people)
    line = 2
    while True:
        try:
            row = next(rows, None)
            question = request(row) if row is not None else None
        except (ValueError, TypeError, csv.Error, ParseError):
            raise BadPeople(f"line {line} is not of this version: make it again with `loadtest make-feed`") from None
        if row is None or question is None:
            break
        yield line, row, question
        line += 1
    if line == 2:
        raise BadPeople("holds nobody to ask about: make it with `loadtest make-feed`")


def request(row: Row) -> pb.CheckRequest:
    """The question that a row of people.csv stands for."""
    document = pb.Document(type=f"DOCUMENT_TYPE_{row.document_type}", number=row.number, country=row.country)
    made = pb.CheckRequest(purchase=_purchase(row.purchase), subject=pb.Subject(document=document, name=row.name))
    if row.service_time:
        moment = Timestamp()
        moment.FromJsonString(row.service_time)
        made.service_time.CopyFrom(moment)
    return made


@lru_cache(maxsize=4096)
def _purchase(text: str) -> pb.Purchase:
    """To be copied, not changed: a feed asks for some hundreds of purchases, each many times."""
    return ParseDict(purchase_fields(text), pb.Purchase())


def outcome_of(answer: pb.CheckResponse) -> str:
    """The answer's outcome as people.csv writes it."""
    return _word(pb.Outcome, answer.outcome).removeprefix("OUTCOME_")


def reason_of(answer: pb.CheckResponse) -> str:
    """The answer's reason as people.csv writes it."""
    return _word(pb.Reason, answer.reason).removeprefix("REASON_")


def _word(enum: Any, number: int) -> str:
    """An enum's word, or the number where the service knows one more than we do: a wrong answer, no crash."""
    return enum.Name(number) if number in enum.values() else str(number)


def is_right(row: Row, answer: pb.CheckResponse) -> bool:
    """Whether the answer is what the row says it must be, as a caller reads it that may see every reason."""
    return outcome_of(answer) == row.outcome and reason_of(answer) in row.reasons


def ask_all(target: str, people: Path, *, limit: int | None = None) -> Result:
    """Ask every row (or the first `limit`) in batches. Raises grpc.RpcError when the service cannot be reached."""
    start = time.monotonic()
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    asked = 0
    with grpc.insecure_channel(target) as channel:
        stub = check_pb2_grpc.CheckServiceStub(channel)
        rows = islice(_rows(people), limit)
        while batch := list(islice(rows, BATCH)):
            response = stub.BatchCheck(
                pb.BatchCheckRequest(items=[question for _, _, question in batch]), timeout=WAIT_S, wait_for_ready=True
            )
            answers = list(response.items) + [pb.CheckResponse()] * (len(batch) - len(response.items))
            for (line, row, _), answer in zip(batch, answers, strict=False):
                asked += 1
                outcomes[outcome_of(answer)] += 1
                if not is_right(row, answer):
                    got = f"{outcome_of(answer)}, {reason_of(answer)}"
                    if answer.HasField("error"):
                        got += f", error {answer.error.message}"
                    expected = f"{row.outcome}, {row.reason}"
                    wrong.append(f"line {line}: {row.purchase} ({row.why}): expected {expected}; got {got}")
    return Result(asked, wrong, dict(outcomes), time.monotonic() - start)


def telling(people: Path, count: int) -> list[Row]:
    """Rows that differ in what they show: one of each outcome and reason in turn, each with another purchase kind."""
    first: dict[tuple[str, str, str], Row] = {}
    for _, row, _ in islice(_rows(people), 50_000):
        first.setdefault((row.outcome, row.reason, row.purchase.partition(" ")[0]), row)
    groups: dict[tuple[str, str], list[Row]] = {}
    for (outcome, reason, _), row in first.items():
        groups.setdefault((outcome, reason), []).append(row)
    return list(islice(_in_turn(list(groups.values())), count))


def _in_turn(groups: list[list[Row]]) -> Iterator[Row]:
    used: Counter[str] = Counter()
    while groups:
        for rows in groups:
            rows.sort(key=lambda row: used[row.purchase.partition(" ")[0]])
            row = rows.pop(0)
            used[row.purchase.partition(" ")[0]] += 1
            yield row
        groups = [rows for rows in groups if rows]


def _in_short(purchase: str) -> str:
    """A purchase text for people: its kind and values, enums without their prefix, only what is true."""
    kind, *pairs = purchase.split(" ")
    words = [kind.replace("_", " ")]
    for pair in pairs:
        name, _, value = pair.partition("=")
        if value == "true":
            words.append(name.replace("_", " "))
        elif value != "false":
            words.append(_ENUM_PREFIX.sub("", value))
    return " ".join(words)


_ENUM_PREFIX = re.compile(r"^[A-Z_]+_(?:KIND|USE|DEAL)_")
_WIDTH = 110  # where no terminal says its own


def show_telling(target: str, people: Path, count: int) -> int:
    """Ask `count` telling rows one by one and print them as a table; returns how many answers were wrong."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{count} telling checks, asked one by one of {target}", title_justify="left")
    for heading in ("asked for", "about", "answer", "reason", "answered by"):
        table.add_column(heading, overflow="fold")
    table.add_column("µs", justify="right")
    wrong = 0
    with grpc.insecure_channel(target) as channel:
        stub = check_pb2_grpc.CheckServiceStub(channel)
        stub.GetRulebook(pb.GetRulebookRequest(), timeout=10, wait_for_ready=True)
        for row in telling(people, count):
            question = request(row)
            start = time.perf_counter()
            answer: Any = stub.Check(question, timeout=5)
            spent = (time.perf_counter() - start) * 1e6
            right = is_right(row, answer)
            wrong += not right
            said = outcome_of(answer) if right else f"{outcome_of(answer)} (expected {row.outcome}, {row.reason})"
            by = _word(pb.AnsweredBy, answer.answered_by).removeprefix("ANSWERED_BY_")
            purchase = _in_short(row.purchase)
            table.add_row(purchase, row.why.partition(";")[0], said, reason_of(answer), by, f"{spent:,.0f}")
    Console(width=None if sys.stdout.isatty() else _WIDTH).print(table)
    return wrong


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "ask",
        help="ask a service everything in people.csv and compare",
        description="Ask a service (plaintext, loopback: a role that may see every reason) everything in people.csv, "
        "in batches, and compare. Exit 0 when every answer is right, 1 when one is wrong, 3 when it is out of reach.",
        epilog="example:\n  loadtest ask --target 127.0.0.1:50051 --people feed/people.csv",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--target", required=True, metavar="ADDR", help="HOST:PORT or unix:PATH")
    parser.add_argument("--people", required=True, type=Path, metavar="FILE", help="people.csv of `loadtest make-feed`")
    parser.add_argument("--limit", type=_count, metavar="N", help="only the first N rows")
    parser.add_argument(
        "--telling", type=_count, metavar="N", help="instead: N rows that differ in what they show, as a table"
    )
    parser.set_defaults(run=run)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError("must be a whole number from 1")
    return int(text)


def _complain(text: str, code: int) -> int:
    print(f"loadtest ask: {text}", file=sys.stderr)
    return code


def run(args: argparse.Namespace) -> int:
    """Ask and report; see the verb's help for the exit codes."""
    try:
        if args.telling is not None:
            return 1 if show_telling(args.target, args.people, args.telling) else 0
        result = ask_all(args.target, args.people, limit=args.limit)
    except FileNotFoundError:
        return _complain(f"{args.people} does not exist: make it with `loadtest make-feed`", 2)
    except OSError as error:
        return _complain(f"{args.people}: {error.strerror}", 2)
    except BadPeople as error:
        return _complain(f"{args.people}: {error}", 2)
    except grpc.RpcError as error:
        return _complain(f"{args.target} cannot be asked ({error.code().name}): is `checker serve` running there?", 3)
    for line in result.wrong[:_SHOWN]:
        print(line)
    counts = ", ".join(f"{outcome} {number:,}" for outcome, number in sorted(result.outcomes.items()))
    print(f"asked {result.asked:,} in {result.seconds:.1f} s: {counts}; wrong: {len(result.wrong):,}")
    return 1 if result.wrong else 0
