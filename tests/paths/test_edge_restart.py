"""Edges killed at every step of a swap, restarted without their centre, old in every way, with two workers: what they
answer from their disk is right at once, as old as it says, and never a refusal.
"""

import asyncio
import contextlib
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from checker import keys as key_files
from checker import rulebooks
from checker.core.document import Document, DocumentType
from checker.keys import EdgeKeys
from edge import EdgeClient, EdgeSettings, Flight, Item
from edge.centre import Centre
from edge.live import Live
from edge.snapshot_store import SnapshotStore
from edge.sync import Sync, Synced
from proto.checker.v1 import check_pb2 as pb
from proto.checker.v1 import filter_pb2
from tests.edge.scripted import a_snapshot, now_ms
from tests.paths.edges import PATIENT, fixed_listen, in_step
from tests.paths.importing import importing
from tests.paths.people import flight
from tests.paths.proxy import Proxy
from tests.paths.stand import Caller, Checker, EdgeNode, Stand, _script, aside, wait_for
from tests.paths.witness import CLEAR, Truth, Witness, person
from tests.ports import free_port

LISTED = 200
SOON = 30.0
PATIENTLY = ("--centre-timeout-ms", "20000")
EDGE = Path(__file__).parents[2] / "edge"
POINTS = sorted(
    {name for source in EDGE.glob("*.py") for name in re.findall(r'point\("(edge\.[a-z.]+)"\)', source.read_text())}
)


class House(NamedTuple):
    """A centre and its people. `before`: an edge's directory with the first epoch and what followed; a second epoch
    with more people is published."""

    stand: Stand
    truth: Truth
    centre: Checker
    before: Path
    known: list[int]  # listed since the first epoch, in the log of `before`
    news: list[int]  # listed since, which `before` has not heard of

    def nowhere(self) -> str:
        """An address where no centre is."""
        return f"127.0.0.1:{free_port()}"

    def copy(self, name: str) -> Path:
        """A directory like `before`."""
        folder = self.stand.folder / name
        shutil.copytree(self.before, folder)
        return folder

    def sync_once(self, folder: Path, point: str = "") -> int:
        """`edge sync-once`, killed at a point; its exit code."""
        command = [_script("edge"), "sync-once", "--centre", self.centre.address, "--data", str(folder)]
        done = subprocess.run(
            [*command, "--key-file", str(self.stand.key_for_edges())],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
            check=False,
            env=self.stand.environment | ({"CHECKER_FAULT_POINT": f"{point}:1"} if point else {}),
        )
        (self.stand.logs / f"sync-once {folder.name}.err").write_bytes(done.stderr)
        return done.returncode

    async def sync(self, folder: Path) -> Synced:
        """The same in this process."""
        keys = key_files.load_edge(self.stand.key_for_edges())
        centre, live = Centre([self.centre.address]), Live(keys.digest_key, rulebooks.load(None))
        try:
            return await Sync(live, SnapshotStore(folder, keys), keys, centre).once()
        finally:
            await centre.close()


@pytest.fixture(scope="module")
def house(stand_of: Callable[..., Stand]) -> House:
    stand, truth = stand_of(), Truth(LISTED)
    stand.import_(stand.feed("first.jsonl", *truth.lines()))
    centre = stand.serve("--index-timeout-ms", "10000", listen=fixed_listen())
    made = House(stand, truth, centre, stand.folder / "before", [], [])

    async def prepare() -> None:
        async with importing(stand) as importer:
            assert await aside(made.sync_once, made.before) == 0
            made.known.extend(await truth.add(importer, 20))
            assert await aside(made.sync_once, made.before) == 0
            made.news.extend(await truth.add(importer, 20))
            await truth.lift(importer, *truth.listed()[:4])  # so few make no epoch due by themselves

    asyncio.run(prepare())
    published = stand.run("checker", "build-snapshot", *stand.where)
    assert published.code == 0, published
    return made


def about(number: int) -> Item:
    """May this person buy a flight?"""
    return Item(Flight(), DocumentType.RESIDENT_ID, person(number))


async def ask(client: EdgeClient, *people: int) -> set[str]:
    """What the client says about these."""
    answers = await client.check_many([about(number) for number in people])
    return {answer.outcome.name for answer in answers}


def test_the_points_are_there() -> None:
    """The steps of a swap: download, manifest, rulebook, install, log."""
    assert len(POINTS) >= 10, POINTS


@pytest.fixture(scope="module")
def killed(house: House) -> dict[str, Path]:
    """For each point: a directory in which an edge was killed there, on its way from the first epoch to the second."""
    folders = {point: house.copy(point) for point in POINTS}
    with ThreadPoolExecutor(3) as pool:
        codes = dict(zip(POINTS, pool.map(house.sync_once, folders.values(), POINTS), strict=True))
    assert codes == dict.fromkeys(POINTS, -signal.SIGKILL)
    return folders


@pytest.mark.parametrize("point", POINTS)
async def test_an_edge_killed_in_the_middle_of_a_swap(house: House, killed: dict[str, Path], point: str) -> None:
    """It starts again on the old snapshot or the new one, whole, with all it had heard, and answers at once without its
    centre: nobody it knew to be listed is cleared, nobody else is held up. With its centre it is in step again."""
    key = house.stand.key_for_edges()
    listed = [number for number in house.truth.listed() if number not in house.news]
    async with EdgeClient(house.nowhere(), killed[point], key) as edge:
        status = edge.status()
        assert status.epoch in (1, 2)
        assert not [alarm for alarm in status.alarms if "snapshot" in alarm]
        assert await ask(edge, *listed) == {"UNKNOWN"}
        assert await ask(edge, *CLEAR) == {"ALLOWED"}
        if status.epoch == 2:
            assert await ask(edge, *house.news) == {"UNKNOWN"}
    async with EdgeClient(house.centre.address, killed[point], key, settings=PATIENT) as edge:
        await in_step(edge)
        assert await ask(edge, *house.truth.listed()) == {"BARRED"}
        assert await ask(edge, *CLEAR) == {"ALLOWED"}
    if point == POINTS[0]:
        assert await aside(house.sync_once, killed[point]) == 0
    else:
        assert (await house.sync(killed[point])).epoch == 2
    async with EdgeClient(house.nowhere(), killed[point], key) as edge:
        assert edge.status().epoch == 2
        assert await ask(edge, *house.truth.listed()) == {"UNKNOWN"}


async def test_a_node_whose_worker_dies_with_every_addition(house: House) -> None:
    """Killed in the middle of its log, started again by its parent, killed again: no answer is wrong, nothing lost."""
    crash = {"CHECKER_FAULT_POINT": "edge.log.appended:3"}
    node = await aside(
        house.stand.edge,
        house.centre.address,
        *PATIENTLY,
        data=house.copy("dying"),
        environment=crash,
    )
    async with importing(house.stand) as importer, Witness(node.address, house.truth) as witness:
        await witness.in_step(SOON)
        for _ in range(3):
            (worker,) = await aside(lambda: [child.pid for child in node.answering()])
            end = time.monotonic() + 60
            while psutil.pid_exists(worker):
                assert time.monotonic() < end, "it does not die"
                await house.truth.add(importer, 1)
                await asyncio.sleep(0.2)
            await aside(wait_for, "another worker", lambda: node.answering())
        for _ in range(20):  # each is killed by its third heartbeat that is written down, too
            pids = {child.pid for child in await aside(node.answering)}
            witness.failures.clear()  # calls to one that died
            await witness.in_step(SOON)
            wrong = witness.wrong()
            if pids == {child.pid for child in await aside(node.answering)} != set():
                break
        else:
            raise AssertionError("each dies before it is in step")
    assert wrong == []
    assert await aside(node.stop) == 0


async def test_an_edge_restarted_without_its_centre(house: House) -> None:
    """Killed with all its processes and started where no centre is: it answers at once, is as old as it really is, says
    STALE_DATA once its data are no longer fresh, and knows no more than it heard."""
    proxy = Proxy(house.centre.address)
    limits = ("--fresh-seconds", "5", *PATIENTLY)
    try:
        data, keys = house.copy("restarted"), key_files.load_edge(house.stand.key_for_edges())
        await house.sync(data)  # it has no newer snapshot to fetch, nor therefore a log to begin anew
        node = await aside(house.stand.edge, proxy.address, *limits, data=data)
        async with importing(house.stand) as importer:
            async with Witness(node.address, house.truth, fresh=5) as witness:
                await witness.in_step(SOON)
                began, began_ms = time.monotonic(), now_ms()
                # One in 5 s is written down.
                await witness.until("a later heartbeat on the disk", lambda: on_disk_ms(data, keys) > began_ms)
            known = house.truth.listed()
            assert witness.wrong() == []
            await aside(node.kill)
            killed = time.monotonic()
            proxy.refusing = True
            added = await house.truth.add(importer, 10)
            node = await aside(house.stand.edge, proxy.address, *limits, data=data)
            async with Witness(node.address, house.truth, fresh=5) as witness:
                assert witness.last.claim <= killed
                assert witness.last.claim > began - 1, "the log was lost"
                await witness.until("it is stale", lambda: witness.last.lag > 6)
                stale = time.monotonic()
                await witness.rounds(2)
                assert set(witness.outcomes(known, stale)) == {"UNKNOWN"}
                assert set(witness.outcomes([*CLEAR, *added], stale)) == {"ALLOWED"}
                late = [one for one in witness.since(stale) if one.outcome == pb.OUTCOME_ALLOWED]
                assert {(one.source, one.stale) for one in late} == {(pb.ANSWERED_BY_STAND_IN, True)}
                proxy.refusing = False
                await witness.in_step(SOON)
            assert witness.wrong() == []
            assert await aside(node.stop) == 0
    finally:
        proxy.close()


def on_disk_ms(data: Path, keys: EdgeKeys) -> float:
    """Up to when an edge that starts on this directory knows everything, in milliseconds since the epoch."""
    loaded = SnapshotStore(data, keys).load()
    assert loaded is not None
    return loaded.synced_ms


@pytest.mark.parametrize(
    ("hours", "clear"), [(0.001, "ALLOWED"), (2, "ALLOWED STALE_DATA"), (23.9, "ALLOWED STALE_DATA"), (24.1, "UNKNOWN")]
)
async def test_an_old_snapshot_answers_by_the_table(house: House, tmp_path: Path, hours: float, clear: str) -> None:
    """A snapshot built so many hours ago, by the centre's own key, and no centre: as old as its signed header says."""
    keys = key_files.load(house.stand.key_file)
    built_ms = now_ms() - int(hours * 3_600_000)
    numbers = [person(number) for number in house.truth.listed()]
    listed = [keys.digest_key.document(Document(DocumentType.RESIDENT_ID, number, "")) for number in numbers]
    raw, response = a_snapshot(listed, keys=keys, built_ms=built_ms)
    data = tmp_path / "edge"
    data.mkdir(mode=0o700)
    (data / "snapshot.xxf").write_bytes(raw)
    manifest = filter_pb2.Manifest.FromString(response.manifest)
    (data / f"rulebook-{manifest.rulebook_sha256.hex()[:16]}.toml").write_bytes(response.rulebook)
    settings = EdgeSettings(feed_warn_minutes=60 * 24 * 365 * 100)  # its feed time is the tests' own
    async with EdgeClient(house.nowhere(), data, house.stand.key_for_edges(), settings=settings) as edge:
        before_ms = now_ms()
        lag_ms = edge.status().lag.ToMilliseconds()
        assert before_ms - built_ms <= lag_ms <= now_ms() - built_ms
        (answer,) = await edge.check_many([about(CLEAR[0])])
        stale = any(advisory.name == "STALE_DATA" for advisory in answer.advisories)
        assert f"{answer.outcome.name}{' STALE_DATA' * stale}" == clear
        assert await ask(edge, *house.truth.listed()) == {"UNKNOWN"}


async def test_two_workers_share_a_directory(house: House) -> None:
    """Both follow. One is killed: the other goes on. The one that writes is killed: another writes from then on, and
    what is added afterwards is on the disk."""
    stand, truth = house.stand, house.truth
    node = await aside(stand.edge, house.centre.address, *PATIENTLY, data=house.copy("shared"), workers=2)
    async with importing(stand) as importer:
        await both_know(node, await truth.add(importer, 5))
        for _ in range(2):
            (writer,) = await aside(writers, node)
            other = next(child for child in await aside(node.answering) if child.pid != writer)
            other.kill()
            await both_know(node, await truth.add(importer, 5))
            psutil.Process(writer).kill()
            await aside(wait_for, "another writer", lambda gone=writer: set(writers(node)) - {gone})
            await both_know(node, await truth.add(importer, 5))
    assert await aside(node.stop) == 0
    async with EdgeClient(house.nowhere(), node.data, stand.key_for_edges()) as edge:
        assert await ask(edge, *truth.listed()) == {"UNKNOWN"}
        assert await ask(edge, *CLEAR) == {"ALLOWED"}


def writers(node: EdgeNode) -> list[int]:
    """The process that holds the writer's lock."""
    found = []
    for child in node.children():
        with contextlib.suppress(psutil.Error):
            if any(Path(file.path).name == "writer.lock" for file in child.open_files()):
                found.append(child.pid)
    return found


async def both_know(node: EdgeNode, people: list[int]) -> None:
    """Both workers serve, and by whichever of many connections: these are BARRED, others are not."""
    await aside(wait_for, "two workers", lambda: len(node.answering()) == 2, SOON)
    end = time.monotonic() + SOON
    for _ in range(12):
        async with Caller(node.address) as caller:
            for number in people:
                while (answer := await caller.ask(flight(person(number)))).outcome != "BARRED":
                    assert time.monotonic() < end, answer
                    await asyncio.sleep(0.05)
            assert (await caller.ask(flight(person(CLEAR[0])))).outcome == "ALLOWED"
