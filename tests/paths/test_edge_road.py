"""The road between an edge and its centre is cut, blocked, held up, broken off or corrupted, and people are asked about
all the while.

No answer is wrong in any of it, the lag shown is true, and the edge is in step again soon after.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from proto.checker.v1 import filter_pb2
from tests.paths.importing import Importer, importing
from tests.paths.people import NAME, add, resident_id
from tests.paths.proxy import Proxy
from tests.paths.stand import EdgeNode, Stand, aside, wait_for
from tests.paths.witness import CLEAR, Truth, Witness
from tests.rpc.certificates import Authority

LISTED = 200
SOON = 30.0  # an edge tries again within 10 s, and the machine may be busy
EDGE_URI = "spiffe://xianxiao.example/edge"


class Road(NamedTuple):
    """A centre, the road from it, and the edge at its end."""

    stand: Stand
    truth: Truth
    proxy: Proxy
    edge: EdgeNode

    def repair(self) -> None:
        """As good as new."""
        proxy = self.proxy
        proxy.corrupt_one_in, proxy.truncate_after, proxy.delay_s = 0, 0, 0.0
        proxy.passing, proxy.refusing = True, False

    async def refuses(self, enough: int, refused: Callable[[], int]) -> None:
        """Wait for so many refusals of what is corrupted. Where a length was changed, gRPC would wait for what is never
        sent, for a minute: after some seconds the connections are cut."""
        seen, since = 0, time.monotonic()
        end = since + 300  # an edge that is refused again and again comes back ever later
        while seen < enough:
            assert time.monotonic() < end, f"only {seen} refusals"
            await asyncio.sleep(0.2)
            if refused() > seen:
                seen, since = refused(), time.monotonic()
            elif time.monotonic() > since + 3:
                since = time.monotonic()
                await aside(self.proxy.cut)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[tuple[Witness, Importer]]:
        """An importer, and the edge asked without pause, in step at first and, with a good road, in the end. No answer
        was wrong."""
        try:
            async with importing(self.stand) as importer, Witness(self.edge.address, self.truth) as witness:
                await witness.in_step()
                yield witness, importer
                self.repair()
                await self.truth.add(importer, 5)
                await self.truth.lift(importer, *self.truth.listed()[:5])
                took = await witness.in_step(SOON)
                print(f"\nin step after {took:.2f} s; {len(witness.answers):,} answers, {len(witness.looks)} looks")  # noqa: T201
        finally:
            self.repair()
        assert witness.wrong() == []
        assert self.edge.process.poll() is None
        assert "Traceback" not in self.edge.log.read_text("utf-8")


class House(NamedTuple):
    """One index, served in plaintext and over mutual TLS; an edge before each."""

    plain: Road
    secured: Road


def crowd(truth: Truth) -> Iterator[dict[str, Any]]:
    """65 000 documents nobody asks about: a snapshot of two pieces, at 34 bits each."""
    numbers = iter(range(27_000, 27_000 + 160 * 400))
    for _ in range(160):
        sequence = truth.sequence()
        line = add(sequence, f"CROWD{sequence}")
        for _ in range(8):
            papers = [{"type": "RESIDENT_ID", "number": resident_id(next(numbers))} for _ in range(50)]
            line["subjects"] += [{"role": "DEBTOR_PERSON", "name": NAME, "documents": papers}]
        yield line | {"subjects": line["subjects"][1:]}


@pytest.fixture(scope="module")
def house(stand_of: Callable[..., Stand], tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """LISTED people, two centres over one index, two edges in step."""
    stand, truth = stand_of(), Truth(LISTED)
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority(folder)
    server, edge = authority.issue("server", server=True), authority.issue("edge", uri=EDGE_URI)
    roles = folder / "roles.toml"
    roles.write_text(f'[[caller]]\nuri = "{EDGE_URI}"\nrole = "edge"\n')
    listener = ("--tls-cert", server.cert, "--tls-key", server.key, "--tls-client-ca", authority.cert, "--roles", roles)
    ours = ("--centre-ca", authority.cert, "--centre-cert", edge.cert, "--centre-key", edge.key)
    stand.import_(stand.feed("first.jsonl", *truth.lines(), *crowd(truth)))
    roads = []
    try:
        for flags, more in (((), ()), (listener, ours)):
            centre = stand.serve(*flags, "--index-timeout-ms", "10000", "--filter-error-rate", "1e-7")
            proxy = Proxy(centre.address)
            # Short: on a road that is slow or swallows everything each question would take it.
            node = stand.edge(proxy.address, "--centre-timeout-ms", "3000", *more)
            roads.append(Road(stand, truth, proxy, node))
        for road in roads:
            wait_for("the edge in step", road.edge.in_step)
        yield House(*roads)
    finally:
        for road in roads:
            road.proxy.close()


async def test_a_road_that_is_cut(house: House) -> None:
    """Every connection breaks, again and again, while people are added and lifted."""
    road = house.plain
    async with road.watched() as (_, importer):
        for _ in range(10):
            await road.truth.add(importer, 5)
            await aside(road.proxy.cut)
            await road.truth.lift(importer, *road.truth.listed()[:5])


async def test_a_road_that_swallows_everything(house: House) -> None:
    """Connections stay open and nothing passes: nobody waits for ever, the lag grows from the last moment on, who is
    listed is UNKNOWN and who is not is ALLOWED."""
    road = house.plain
    async with road.watched() as (witness, importer):
        road.proxy.passing = False
        blocked = time.monotonic()
        added = await road.truth.add(importer, 10)
        listed = road.truth.listed()[:20]
        await road.truth.lift(importer, *listed[:10])
        unreachable = filter_pb2.CENTRE_STATE_UNREACHABLE
        await witness.until("it is out of reach", lambda: witness.last.status.centre == unreachable)
        noticed = time.monotonic()
        await witness.rounds(2)
        assert all(look.claim <= blocked + 0.5 for look in witness.looks), "it claims to know more than it can"
        assert set(witness.outcomes(listed[10:], noticed)) == {"UNKNOWN"}
        assert set(witness.outcomes(added, noticed)) == {"ALLOWED"}  # fresh, and not heard of: as the table says
        assert set(witness.outcomes(CLEAR, noticed)) == {"ALLOWED"}


async def test_a_road_that_is_slow(house: House) -> None:
    """Everything from the centre comes two seconds late: the lag says at least so, and answers are right."""
    road = house.plain
    async with road.watched() as (witness, importer):
        road.proxy.delay_s = 2.0
        slow = time.monotonic()
        added = await road.truth.add(importer, 10)
        listed = time.monotonic()
        await witness.until("all of it came late", lambda: witness.last.claim > listed)
        late = [look for look in witness.looks if look.claim > slow + 0.1]
        assert min(look.lag for look in late) >= 2.0
        heard = time.monotonic()
        await witness.rounds()
        assert "ALLOWED" not in witness.outcomes(added, heard)  # the centre may be too late to say BARRED


async def test_a_road_that_breaks_off(house: House) -> None:
    """Each connection ends after two thousand bytes, in the middle of whatever they are."""
    road = house.plain
    async with road.watched() as (witness, importer):
        road.proxy.truncate_after = 2000
        before = road.proxy.connections
        await aside(road.proxy.cut)
        for _ in range(5):
            await road.truth.add(importer, 20)
            await road.truth.lift(importer, *road.truth.listed()[:20])
            await witness.rounds()
        await witness.until("connections broke off", lambda: road.proxy.connections > before + 10)


async def test_a_road_that_corrupts_what_is_not_encrypted(house: House) -> None:
    """One byte in five hundred is changed, in plaintext. Nobody is asked about meanwhile, since answers are as open to
    it; afterwards, with the road closed, the filter itself is looked at: it holds all it says and clears the others."""
    road = house.plain
    started, before = road.proxy.lost, len(road.edge.log.read_text("utf-8"))

    def refused() -> int:
        """Messages that did not fit their seal, and connections that did not survive."""
        return road.edge.log.read_text("utf-8")[before:].count("fit") + road.proxy.lost - started

    try:
        async with importing(road.stand) as importer:
            road.proxy.corrupt_one_in = 500
            added: list[int] = []
            for _ in range(20):
                added += await road.truth.add(importer, 3)
                await asyncio.sleep(0.2)  # so that heartbeats come between them
            await road.refuses(5, refused)
            road.proxy.refusing = True
            road.proxy.corrupt_one_in = 0
            await aside(road.proxy.cut)
            async with Witness(road.edge.address, road.truth) as witness:
                await witness.rounds(3)
        assert witness.wrong() == []  # nobody is cleared whom the lag says it knows
        assert set(witness.outcomes(CLEAR)) == {"ALLOWED"}
        assert witness.outcomes(road.truth.listed())["BARRED"] == 0
    finally:
        road.repair()
    async with road.watched() as (witness, _):
        mended = time.monotonic()
        await witness.rounds()
        assert set(witness.outcomes(added, mended)) == {"BARRED"}


async def test_a_download_goes_on_where_it_broke_off(house: House) -> None:
    """No connection lives long enough for the whole snapshot: it arrives all the same."""
    road = house.plain
    size = (road.edge.data / "snapshot.xxf").stat().st_size
    road.proxy.truncate_after = size - 1000
    try:
        node = await aside(road.stand.edge, road.proxy.address, "--centre-timeout-ms", "20000")
        await aside(wait_for, "a snapshot", lambda: node.status().epoch > 0, 120)
        assert (node.data / "snapshot.xxf").read_bytes() == (road.edge.data / "snapshot.xxf").read_bytes()
    finally:
        road.repair()
    await judged(road._replace(edge=node))


async def test_a_download_that_is_corrupted_is_refused(house: House) -> None:
    """One byte in ten thousand: whatever arrives, nothing is used but the very bytes that the centre signed."""
    road = house.plain
    road.proxy.corrupt_one_in = 10_000
    try:
        node = await aside(road.stand.edge, road.proxy.address, "--centre-timeout-ms", "20000")
        await road.refuses(6, lambda: node.log.read_text("utf-8").count("no newer snapshot"))
        assert node.status().epoch == 0
    finally:
        road.repair()
        await aside(road.proxy.cut)
    await judged(road._replace(edge=node), 120)  # what it fetched for nothing it leaves alone for a while


async def judged(road: Road, seconds: float = SOON) -> None:
    """The new edge comes in step, and no answer is wrong on the way."""
    async with Witness(road.edge.address, road.truth) as witness:
        await witness.in_step(seconds)
    assert witness.wrong() == []
    assert await aside(road.edge.stop) == 0


async def test_a_road_that_corrupts_what_is_encrypted(house: House) -> None:
    """The same over mutual TLS, with everybody asked about: what was changed is not taken for anything."""
    road = house.secured
    async with road.watched() as (witness, importer):
        started = road.proxy.connections
        road.proxy.corrupt_one_in = 3000
        for _ in range(10):
            await road.truth.add(importer, 5)
            await road.truth.lift(importer, *road.truth.listed()[:5])
            await witness.rounds()
        assert road.proxy.connections > started + 5, "nothing was refused"


@pytest.mark.parametrize("fault", ["cut", "swallowed", "broken off"])
async def test_a_secured_road_fails_as_an_open_one(house: House, fault: str) -> None:
    """Cut, swallowed and broken off under mutual TLS."""
    road = house.secured
    async with road.watched() as (witness, importer):
        if fault == "swallowed":
            road.proxy.passing = False
        elif fault == "broken off":
            road.proxy.truncate_after = 5000
        await aside(road.proxy.cut)
        await road.truth.add(importer, 10)
        await road.truth.lift(importer, *road.truth.listed()[:10])
        await witness.rounds(2)
