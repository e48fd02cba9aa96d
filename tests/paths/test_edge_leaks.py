"""No document number and no name is on an edge's disk, in its logs, or in what it sends its centre (design.md §1, 5).

Every byte from edges to centre goes through a proxy that keeps it, in plaintext, so that it can be searched. Searched
too: data directories while the centre is away and UNKNOWNs wait, and after a kill; logs at debug level, the node's and
those of the client in this process; error texts; command lines. Planting proves the search.
"""

import asyncio
import contextlib
import io
import json
import logging
import sqlite3
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest

from edge import DocumentType, EdgeClient, Flight, Item
from loadtest import ask
from loadtest.make_feed import Row, read_people
from proto.checker.v1 import check_pb2 as pb
from proto.checker.v1 import check_pb2_grpc
from tests.paths.edges import PATIENT, fixed_listen, in_step
from tests.paths.proxy import Proxy
from tests.paths.search import Secrets
from tests.paths.stand import Stand, aside, wait_for
from tests.paths.test_leaks import NAME, NUMBER, _ask_wrongly, _used, found_in
from tests.waiting import eventually

PEOPLE = 1_000
LOUD = ("--log-format", "json", "--log-level", "debug", "--centre-timeout-ms", "20000")


CLIENT_LOG = "log of the client"


class _Kept(logging.StreamHandler[io.StringIO]):
    """Every record with all that it carries, shown or not: the words, the arguments, further fields, a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{super().format(record)}\n{record.__dict__}"


@contextlib.contextmanager
def logged() -> Iterator[io.StringIO]:
    """What this process logs meanwhile, at debug level, whoever logs it."""
    text = io.StringIO()
    handler, root = _Kept(text), logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield text
    finally:
        root.setLevel(before)
        root.removeHandler(handler)


class Run(NamedTuple):
    """A finished run: what must not be found, and everything the edges left and sent, by place."""

    rows: list[Row]
    secrets: Secrets
    left: dict[str, bytes]
    centre: str


@pytest.fixture(scope="module")
def run(stand_of: Callable[..., Stand], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A node and a library client asked everything, rightly and wrongly, with their centre and without."""
    with logged() as log:
        run = asyncio.run(_run(stand_of(), tmp_path_factory.mktemp("inbox")))
    run.left[CLIENT_LOG] = log.getvalue().encode()
    return run


async def _run(stand: Stand, inbox: Path) -> Run:
    made = ("--people", str(PEOPLE), "--seed", "11", "--out", inbox / "feed")
    assert stand.run("loadtest", "make-feed", *made).code == 0
    feed, people = inbox / "feed" / "feed.jsonl", inbox / "feed" / "people.csv"
    rows = list(read_people(people))
    stand.import_(feed)
    listen = fixed_listen()
    centre = stand.serve("--index-timeout-ms", "10000", listen=listen)
    proxy = Proxy(listen)
    node = stand.edge(proxy.address, *LOUD)
    data = stand.folder / "client"
    left: dict[str, bytes] = {}

    wait_for("the edge in step", node.in_step)
    result = await aside(ask.ask_all, node.address, people)
    assert result.wrong == []
    async with EdgeClient(proxy.address, data, stand.key_for_edges(), settings=PATIENT) as client:
        await in_step(client)
        await client.check_many(questions(rows))

        await aside(centre.stop)
        left["error texts"] = "\n".join(await aside(lambda: list(_ask_wrongly(node.address, rows[:25])))).encode()
        left["answers"] = await aside(answers, node.address, rows)
        await client.check_many(questions(rows))
        await client.edge.advice.flush()
        assert on_disk(data) > 0
        await aside(wait_for, "all on the disk", lambda: on_disk(node.data) == node.status().advice_waiting > 0)
        left |= files("while the centre is away", node.data, data)
        left["command lines"] = "\n".join(" ".join(one.cmdline()) for one in (node.process, *node.children())).encode()
        left["status"] = node.status().SerializeToString() + client.status().SerializeToString()

        stand.serve("--index-timeout-ms", "10000", listen=listen)
        await eventually(lambda: client.status().advice_waiting == 0, 120)
        await aside(wait_for, "the end of the questions", lambda: node.status().advice_waiting == 0, 120)
    left |= files("when it is back", node.data, data)
    await aside(node.kill)
    left |= files("after a kill", node.data, data)
    for words in (("edge", "status", "--target", node.address), ("edge", "rules")):
        stand.run(*words)
    for log in stand.logs.glob("*edge*"):
        left[f"log {log.name}"] = log.read_bytes()
    proxy.close()
    left["sent to the centre"] = bytes(proxy.to_centre)
    return Run(rows, Secrets(_used(feed, rows)), left, listen)


def questions(rows: list[Row]) -> list[Item]:
    """Residents of the feed and a name each."""
    residents = (row for row in rows if row.document_type == "RESIDENT_ID" and row.outcome != "INVALID_DOCUMENT")
    return [
        Item(Flight(), DocumentType.RESIDENT_ID, row.number, name=row.name or NAME) for row in islice(residents, 500)
    ]


def answers(address: str, rows: list[Row]) -> bytes:
    """Every answer as it is on the wire, with its trace; the centre is away."""
    found = b""
    with grpc.insecure_channel(address) as channel:
        stub = check_pb2_grpc.CheckServiceStub(channel)
        for start in range(0, len(rows), 500):
            batch = pb.BatchCheckRequest(items=[ask.request(row) for row in rows[start : start + 500]])
            for item in batch.items:
                item.with_trace = True
            found += stub.BatchCheck(batch, timeout=60).SerializeToString()
    return found


def on_disk(data: Path) -> int:
    """How many UNKNOWNs wait there."""
    with contextlib.closing(sqlite3.connect(f"file:{data / 'advice.sqlite3'}?mode=ro", uri=True, timeout=10)) as file:
        return int(file.execute("SELECT count(*) FROM asked").fetchone()[0])


def files(when: str, *folders: Path) -> dict[str, bytes]:
    """Every file of these directories."""
    found = {}
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                found[f"{when}: {folder.name}/{path.relative_to(folder)}"] = path.read_bytes()
    return found


def test_no_number_and_no_name_leaves_an_edge_or_stays_there(run: Run) -> None:
    """Of thousands of numbers and names that edges were asked about, none is in any file, log, error text or byte that
    went to the centre, in any form."""
    assert run.secrets.count > PEOPLE
    assert found_in(run.secrets, run.left)[:20] == []


def test_the_run_left_something_to_search(run: Run) -> None:
    """The claim above is not about empty places: questions went to the centre, and waited on the disk."""
    sent = run.left["sent to the centre"]
    assert sent.count(b"/checker.v1.") > 0
    assert len(sent) > 100_000
    places = " ".join(run.left)
    for name in ("snapshot.xxf", "additions.log", "advice.sqlite3", "edge.json", "manifest.bin", "rulebook-", "run-"):
        assert name in places, f"no {name}"
    waiting = [text for place, text in run.left.items() if place.startswith("while") and "advice" in place]
    assert max(map(len, waiting)) > 50_000
    assert b"edge.sync" in run.left[CLIENT_LOG]
    assert b"'levelname': 'DEBUG'" in run.left[CLIENT_LOG]
    logs = [text for place, text in run.left.items() if place.endswith("edge-serve.err")]
    for line in logs[0].splitlines():
        assert "event" in json.loads(line)


@pytest.mark.parametrize(
    "place", ["sent to the centre", "advice.sqlite3", "additions.log", "edge-serve.err", CLIENT_LOG]
)
@pytest.mark.parametrize("secret", [NUMBER, NAME])
def test_what_is_planted_is_found(run: Run, place: str, secret: str) -> None:
    """A number or a name written in the middle of any of these is found there, and nothing else is."""
    name = next(one for one in run.left if one.endswith(place))
    text = run.left[name]
    planted = text[: len(text) // 2] + b"\0" + secret.encode() + b"\0" + text[len(text) // 2 :]
    assert {found.secret for found in run.secrets.find(name, planted)} == {secret}


@pytest.mark.parametrize("level", [logging.DEBUG, logging.ERROR])
@pytest.mark.parametrize("secret", [NUMBER, NAME])
@pytest.mark.parametrize("place", ["words", "field", "error"])
def test_what_a_client_would_log_is_found(level: int, secret: str, place: str) -> None:
    """In the words of a line of the library's, a field beside them, an error's text: it is in what is searched."""
    logger = logging.getLogger("edge.sync")
    with logged() as log:
        if place == "words":
            logger.log(level, "asked about %s", secret)
        elif place == "field":
            logger.log(level, "asked", extra={"about": secret})
        else:
            logger.log(level, "failed", exc_info=ValueError(f"not {secret}"))
    found = Secrets([NUMBER, NAME]).find(CLIENT_LOG, log.getvalue().encode())
    assert {one.secret for one in found} == {secret}


def test_a_seller_that_asks_the_centre_itself_is_found(run: Run) -> None:
    """The proxy's record shows a document when one is sent: what a caller without an edge sends is found in it."""
    proxy = Proxy(run.centre)
    try:
        with grpc.insecure_channel(proxy.address) as channel:
            document = pb.Document(type=pb.DOCUMENT_TYPE_RESIDENT_ID, number="440524188001010014")
            request = pb.CheckRequest(
                subject=pb.Subject(document=document, name=NAME), purchase=pb.Purchase(flight=pb.Flight())
            )
            check_pb2_grpc.CheckServiceStub(channel).Check(request, timeout=20)
    finally:
        proxy.close()
    found = Secrets(["440524188001010014", NAME]).find("sent", bytes(proxy.to_centre))
    assert {one.secret for one in found} == {"440524188001010014", NAME}
