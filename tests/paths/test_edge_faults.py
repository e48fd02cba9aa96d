"""The centre dies, stops, is replaced, or is restored from a backup while an edge answers without pause.

No answer is wrong in any of it, nothing crashes, the lag shown is true, and the edge is in step again by itself.
"""

import asyncio
import contextlib
import json
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proto.checker.v1 import check_pb2 as pb
from proto.checker.v1 import edge_pb2, edge_pb2_grpc, filter_pb2
from tests.paths.edges import fixed_listen
from tests.paths.importing import Importer, importing
from tests.paths.people import flight
from tests.paths.stand import Caller, Checker, EdgeNode, Stand, aside, wait_for
from tests.paths.witness import CLEAR, Truth, Witness, person

LISTED = 200
PATIENT = ("--index-timeout-ms", "10000")
SOON = 30.0  # an edge tries again within 10 s, and the machine may be busy


class House:
    """A centre that can be started again where it was, and an edge before it."""

    edge: EdgeNode

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        self.truth = Truth(LISTED)
        self.listen = fixed_listen()
        stand.import_(stand.feed("first.jsonl", *self.truth.lines()))
        self.centre = self.start()

    def edge_in_step(self) -> EdgeNode:
        """An edge before the centre."""
        edge = self.stand.edge(self.listen, "--centre-timeout-ms", "20000")
        wait_for("the edge in step", edge.in_step)
        return edge

    def start(self) -> Checker:
        """Start the centre where it was."""
        self.centre = self.stand.serve(*PATIENT, listen=self.listen)
        return self.centre

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[tuple[Witness, Importer]]:
        """An importer, and the edge asked without pause, in step at first; at the end no answer was wrong."""
        async with importing(self.stand) as importer, Witness(self.edge.address, self.truth) as witness:
            await witness.in_step()
            yield witness, importer
            await self.truth.add(importer, 5)
            await self.truth.lift(importer, *self.truth.listed()[:5])
            took = await witness.in_step(SOON)
            print(f"\nin step after {took:.2f} s; {len(witness.answers):,} answers, {len(witness.looks)} looks")  # noqa: T201
        assert witness.wrong() == []
        assert self.edge.process.poll() is None
        assert "Traceback" not in self.edge.log.read_text("utf-8")


@pytest.fixture(scope="module")
def house(stand_of: Callable[..., Stand]) -> House:
    """LISTED people, a centre, an edge in step."""
    house = House(stand_of())
    house.edge = house.edge_in_step()
    return house


async def test_a_centre_killed_and_started_again(house: House) -> None:
    """kill -9 while people are added and lifted, started again on the same address: no wrong answer; who is listed is
    UNKNOWN meanwhile and who is not is ALLOWED; what was imported while it was away arrives with it."""
    async with house.watched() as (witness, importer):
        for _ in range(3):
            await house.truth.add(importer, 10)
            await house.truth.lift(importer, *house.truth.listed()[:10])
        await witness.in_step()  # what it has not heard of when the centre dies it may clear, for a minute
        await aside(house.centre.kill)
        dead = time.monotonic()
        await witness.rounds()
        listed = house.truth.listed()
        meanwhile = await house.truth.add(importer, 10)
        await house.truth.lift(importer, *listed[:10])
        await witness.rounds(2)
        assert set(witness.outcomes(listed[10:], dead + 0.5)) == {"UNKNOWN"}
        assert set(witness.outcomes(CLEAR, dead)) == {"ALLOWED"}
        assert witness.last.status.centre == filter_pb2.CENTRE_STATE_UNREACHABLE
        assert witness.last.claim <= dead + 0.1, "it claims to know more than it can"
        await aside(house.start)
        back = time.monotonic()
        await witness.in_step(SOON)
        await witness.rounds()
        assert witness.outcomes(meanwhile, back)["BARRED"] > 0


async def test_a_centre_that_signs_off_and_comes_back(house: House) -> None:
    """SIGTERM: the edge says SIGNED_OFF and stands in with that reason; when the centre is back it follows again."""
    async with house.watched() as (witness, importer):
        assert await aside(house.centre.stop) == 0
        stopped = time.monotonic()
        await witness.until(
            "it is signed off", lambda: witness.last.status.centre == filter_pb2.CENTRE_STATE_SIGNED_OFF
        )
        signed_off = time.monotonic()  # before, a connection may have ended that it had not been told of
        await witness.rounds()
        added = await house.truth.add(importer, 10)
        await witness.rounds(2)
        unknown = {one.reason for one in witness.since(signed_off) if one.outcome == pb.OUTCOME_UNKNOWN}
        assert unknown == {pb.REASON_CENTRE_SIGNED_OFF}
        assert set(witness.outcomes(added, stopped)) == {"ALLOWED"}  # as the table says: fresh, and not heard of yet
        assert witness.last.claim <= stopped
        await aside(house.start)
        await witness.in_step(SOON)
        assert witness.last.status.centre == filter_pb2.CENTRE_STATE_REACHABLE


async def test_a_centre_with_a_newer_epoch(house: House) -> None:
    """Additions, lifts and a new epoch while the edge hears nothing: it is right as soon as it hears, and swaps to the
    new epoch in the middle of all the questions."""
    async with house.watched() as (witness, importer):
        await aside(house.centre.kill)
        before = witness.last.status.epoch
        added = await house.truth.add(importer, 50)
        await house.truth.lift(importer, *added[:25], *house.truth.listed()[:25])
        epoch = await aside(an_epoch, house.stand)
        assert epoch > before
        await aside(house.start)
        await witness.in_step(SOON)
        await witness.until("the new epoch", lambda: witness.last.status.epoch == epoch)  # each edge at its own time
        swapped = time.monotonic()
        await witness.rounds()
        assert set(witness.outcomes(added[25:], swapped)) == {"BARRED"}


def test_a_centre_restored_from_a_backup(tmp_path: Path) -> None:
    """Without a new identity its older epoch is refused and its word is not believed: the edge keeps its snapshot, says
    so, and nobody who was listed is cleared. With `--new-centre-id` it is accepted, with an alarm, and followed."""
    stand = Stand(tmp_path / "centre")
    try:
        asyncio.run(_restored(stand))
    finally:
        stand.close()


def an_epoch(stand: Stand, *flags: str) -> int:
    """Publish one by hand; its number."""
    published = stand.run("checker", "build-snapshot", *flags, *stand.where, "--json")
    assert published.code == 0, published
    epoch: int = json.loads(published.out)["epoch"]
    return epoch


async def _restored(stand: Stand) -> None:
    house = House(stand)
    truth = house.truth
    older = await aside(an_epoch, stand)  # the backup has one
    await aside(house.centre.kill)
    await aside(wait_for, "the end of the index", lambda: not stand.store())
    assert stand.embedded is not None
    backup = stand.folder / "backup"
    shutil.copytree(stand.embedded, backup)
    epoch = await aside(an_epoch, stand)
    assert epoch > older
    await aside(house.start)
    edge = await aside(house.edge_in_step)
    assert edge.status().epoch == epoch
    lifted = truth.listed()[:10]
    async with importing(stand) as importer, Witness(edge.address, truth) as witness:
        lost = await truth.add(importer, 20)
        await truth.lift(importer, *lifted)
        await witness.in_step()
    assert witness.wrong() == []
    await aside(house.centre.kill)
    await aside(wait_for, "the end of the index", lambda: not stand.store())
    shutil.rmtree(stand.embedded)
    shutil.copytree(backup, stand.embedded)
    truth.go_back(lost, lifted)

    back = time.monotonic()
    await aside(house.start)
    async with importing(stand) as importer, Witness(edge.address, truth) as witness:
        await truth.add(importer, 40)  # its journal has the edge's numbers again, for others
        await witness.until("an alarm", lambda: "--new-centre-id" in " ".join(witness.last.status.alarms))
        await witness.rounds()
        await witness.until("another heartbeat", lambda: witness.last.began > back + 3)
        assert witness.last.status.epoch == epoch
        assert witness.last.claim < back, "it believes a centre that has gone back"
    assert witness.wrong() == []

    await aside(house.centre.kill)
    await aside(an_epoch, stand, "--new-centre-id")
    await aside(house.start)
    async with Witness(edge.address, truth) as witness, importing(stand) as importer:
        await witness.in_step()
        assert "new identity" in " ".join(witness.last.status.alarms)
        await truth.add(importer, 5)
        await truth.lift(importer, *truth.listed()[:5])
        await witness.in_step()
    assert witness.wrong() == []
    assert "Traceback" not in edge.log.read_text("utf-8")


async def test_unknowns_of_an_outage_come_out_as_advice(house: House) -> None:
    """Whoever was UNKNOWN while the centre was away is told of by WatchAdvice when it is back: refused if still listed,
    cleared if lifted meanwhile. Then nothing of the questions is left in the data directory."""
    truth = house.truth
    edge = await aside(house.edge_in_step)  # of its own: the other one still has outcomes of all the outages before
    database = edge.data / "advice.sqlite3"
    async with importing(house.stand) as importer, Caller(edge.address) as caller:
        await aside(house.centre.kill)
        people = truth.listed()[:30]
        asked = {number: await caller.ask(flight(person(number))) for number in people}
        assert {answer.outcome for answer in asked.values()} == {"UNKNOWN"}
        ids = {answer.response.decision_id: number for number, answer in asked.items()}
        assert len(ids) == len(people)
        await aside(wait_for, "all of them on the disk", lambda: waiting(database) >= len(people))
        kept = bodies(database)
        await truth.lift(importer, *people[:10])

        stub = edge_pb2_grpc.EdgeServiceStub(caller.channel)
        watch = stub.WatchAdvice(edge_pb2.WatchAdviceRequest())
        await aside(house.start)
        told: dict[int, pb.CheckResponse] = {}
        async with asyncio.timeout(60):
            async for advice in watch:
                if advice.decision_id in ids:
                    assert ids[advice.decision_id] not in told, "told twice"
                    told[ids[advice.decision_id]] = advice.answer
                if len(told) == len(people):
                    break
        watch.cancel()
    assert {told[number].outcome for number in people[:10]} == {pb.OUTCOME_ALLOWED}
    for number in people[10:]:  # an outcome that took more than a second to get here means "ask again"
        answer = told[number]
        stale = (answer.outcome, answer.reason) == (pb.OUTCOME_UNKNOWN, pb.REASON_DATA_STALE)
        assert answer.outcome == pb.OUTCOME_BARRED or stale
        assert answer.decision_id
    await aside(wait_for, "the end of the questions", lambda: waiting(database) == 0)
    left = b"".join(path.read_bytes() for path in edge.data.rglob("*") if path.is_file())
    assert kept
    assert not [body for body in kept if body in left]


def waiting(database: Path) -> int:
    """Answers that wait to be asked again, on the disk."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)) as file:
        return int(file.execute("SELECT count(*) FROM asked").fetchone()[0])


def bodies(database: Path) -> list[bytes]:
    """What the file keeps of each question, encrypted and sealed."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)) as file:
        found = [row for (row,) in file.execute("SELECT body FROM waiting UNION ALL SELECT seal FROM waiting")]
        return found + [row for (row,) in file.execute("SELECT body FROM asked")]
