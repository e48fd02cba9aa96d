"""A full reload: a generation loaded beside the one that serves, switched once, the old one deleted last."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from checker.core.measure import State
from checker.errors import IndexRefused
from checker.index import generations
from checker.index.base import Applied, Head
from checker.index.node import pack
from checker.index.redis import RedisIndex
from checker.index.store import Store
from checker.index.urls import open_index
from tests.index.builders import KEY, a_removal, an_addition, an_exemption, digest
from tests.index.servers import ClusterServers, Server

APPLIED, SUPERSEDED = Applied.APPLIED, Applied.SUPERSEDED


@pytest.fixture(params=["single", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    """An empty store."""
    if request.param == "single":
        server: Server = request.getfixturevalue("server")
        server.command("FLUSHALL")
        return server.url
    cluster: ClusterServers = request.getfixturevalue("cluster")
    for each in cluster.servers:
        each.command("FLUSHALL")
    return cluster.url


def client(url: str) -> RedisIndex:
    """A patient client."""
    index = open_index(url, 5.0)
    assert isinstance(index, RedisIndex)
    return index


@pytest.fixture
async def importer(url: str) -> AsyncIterator[RedisIndex]:
    """The importer's client, on an empty index."""
    index = client(url)
    await index.open(KEY, create=True)
    yield index
    await index.close()


@pytest.fixture
async def worker(url: str, importer: RedisIndex) -> AsyncIterator[RedisIndex]:
    """A worker's client."""
    index = client(url)
    await index.open(KEY, create=False)
    yield index
    await index.close()


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """No look-up is ever under way when a worker switches."""
    monkeypatch.setattr(generations, "SETTLE_S", 0.0)


async def bars(index: RedisIndex, number: int) -> list[str] | None:
    """Measures that bar under one key, or None."""
    found = (await index.get_many([digest(number)], 5))[0]
    return None if found is None else [m.measure_id for m in found if m.state == State.ACTIVE]


async def test_reload(importer: RedisIndex, worker: RedisIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way: nobody sees the new generation before the switch, everybody after; lifts hold on both."""
    monkeypatch.setattr(generations, "SETTLE_S", 3600.0)
    async with importer.lease("importer") as lease:
        await importer.apply([an_addition(n, f"M{n}", n) for n in range(1, 6)])
        await lease.advance(Head(5, 0, 0))
        await worker.report("w1")
        old_journal = await worker.journal_end()

        reload = await importer.new_generation(5)
        assert await bars(worker, 1) == ["M1"]
        await reload.apply([an_addition(n, f"M{n}", n) for n in range(1, 5)])  # the court's list no longer has M5
        # The feed goes on meanwhile, to both.
        assert (
            await importer.apply([a_removal(6, "M1"), an_addition(7, "M7", 7), an_exemption(8, "M2")]) == [APPLIED] * 3
        )
        assert {key async for batch in reload.scan() for key in batch} == {digest(n) for n in (2, 3, 4, 7)}
        assert await bars(worker, 5) == ["M5"]
        assert await bars(worker, 1) == []

        await importer.switch(reload.number)
        assert (await importer.stats()).generation == 2
        assert [await bars(importer, n) for n in range(1, 8)] == [[], ["M2"], ["M3"], ["M4"], [], [], ["M7"]]

        # A worker that has not noticed reads the old one, which removals still reach.
        assert worker._current().number == 1
        assert await importer.apply([a_removal(9, "M3")]) == [APPLIED]
        assert await bars(worker, 3) == []
        assert await bars(importer, 3) == []
        await worker.report("w1")
        assert not await importer.retire()

        # It notices with its next head, and reports it when no look-up of before can be under way.
        assert (await worker.head()).feed_sequence == 5
        assert await bars(worker, 5) == []
        assert (await worker.journal_read(old_journal, 0)).reset
        await worker.report("w1")
        assert not await importer.retire()
        monkeypatch.setattr(generations, "SETTLE_S", 0.0)
        await worker.report("w1")
        assert await importer.retire()
        assert await importer.retire()
        assert {key async for batch in worker.scan() for key in batch} == {digest(n) for n in (2, 4, 7)}
        assert (await importer.stats()).keys <= 6

        # What the list was loaded from can not come back from an old file.
        assert await importer.apply([an_addition(5, "M5", 5), an_addition(10, "M5", 5)]) == [SUPERSEDED, APPLIED]
        assert await bars(worker, 5) == ["M5"]


async def test_importer_that_starts_anew_goes_on(importer: RedisIndex, url: str) -> None:
    """An importer killed in a reload is followed by one whose changes still reach both generations."""
    async with importer.lease("first"):
        await importer.apply([an_addition(1, "M1", 1), an_addition(2, "M2", 2)])
        reload = await importer.new_generation(2)
        await reload.apply([an_addition(1, "M1", 1), an_addition(2, "M2", 2)])
    second = client(url)
    await second.open(KEY, create=True)
    async with second.lease("second"):
        await second.apply([a_removal(3, "M1")])
        await second.switch(reload.number)
        assert await bars(second, 1) == []
        assert await bars(second, 2) == ["M2"]
        reader = client(url)
        await reader.open(KEY, create=False)
        await reader.report("a worker")
        assert await second.retire()
        await reader.close()
    await second.close()


async def test_abandoned_reload_is_thrown_away(importer: RedisIndex) -> None:
    """A second reload starts empty, under a new number, and the first can no longer be switched to."""
    async with importer.lease("importer"):
        first = await importer.new_generation(1)
        await first.apply([an_addition(1, "M1", 1)])
        second = await importer.new_generation(1)
        assert second.number > first.number
        assert [batch async for batch in second.scan()] == []
        assert [batch async for batch in first.scan()] == []
        with pytest.raises(IndexRefused, match="not the one being loaded"):
            await importer.switch(first.number)
        await importer.switch(second.number)
        third = await importer.new_generation(1)
        with pytest.raises(IndexRefused, match="still retires"):
            await importer.switch(third.number)


async def test_reload_needs_the_lease(importer: RedisIndex) -> None:
    """Without the importer's lease nothing is begun, switched or deleted."""
    for attempt in (importer.new_generation(1), importer.switch(2), importer.retire()):
        with pytest.raises(IndexRefused, match="lease"):
            await attempt


async def test_worker_that_lost_touch_answers_nothing(worker: RedisIndex, importer: RedisIndex) -> None:
    """A worker that reported once and then could not for long does not trust the generation it reads."""
    await importer.apply([an_addition(1, "M1", 1)])
    assert await bars(worker, 1) == ["M1"]
    await worker.report("w1")
    worker._reported_at = time.monotonic() - generations.WORKER_TRUST_S - 0.1
    assert await bars(worker, 1) is None
    await worker.report("w1")
    assert await bars(worker, 1) == ["M1"]


async def test_worker_that_is_gone_holds_nothing_up(
    importer: RedisIndex, worker: RedisIndex, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker's report runs out: one that died does not keep an old generation for ever."""
    ttl_s = generations.WORKER_TTL_S
    monkeypatch.setattr(generations, "WORKER_TTL_S", 0.2)
    async with importer.lease("importer"):
        await worker.report("dying")
        reload = await importer.new_generation(1)
        await importer.switch(reload.number)
        assert not await importer.retire()
        await asyncio.sleep(0.25)
        monkeypatch.setattr(generations, "WORKER_TTL_S", ttl_s)
        await importer.report("alive")
        assert await importer.retire()


async def test_as_long_as_nobody_reports_the_old_one_stays(
    importer: RedisIndex, worker: RedisIndex, settled: None
) -> None:
    """Who has not reported yet, or never does, may be reading it: it goes when all report the new one."""
    await importer.apply([an_addition(1, "M1", 1)])
    async with importer.lease("importer"):
        reload = await importer.new_generation(1)
        await importer.switch(reload.number)
        assert not await importer.retire()
        assert await bars(worker, 1) == ["M1"]
        await importer.report("another")
        await worker.report("w1")
        assert await importer.retire()


async def test_a_worker_that_left_is_not_waited_for(importer: RedisIndex, worker: RedisIndex, settled: None) -> None:
    """It gave its report back, and what it is asked afterwards it does not answer."""
    await importer.apply([an_addition(1, "M1", 1)])
    async with importer.lease("importer"):
        await worker.report("w1")
        await importer.switch((await importer.new_generation(1)).number)
        await importer.report("another")
        assert not await importer.retire()
        await worker.leave("w1")
        assert await importer.retire()
    assert await bars(worker, 1) is None


async def test_a_worker_answers_only_from_what_is_kept_for_it(
    importer: RedisIndex, worker: RedisIndex, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that starts while its generation is switched away and deleted answers nothing before it reads the new one."""
    await importer.apply([an_addition(1, "M1", 1)])
    reports = generations.report

    async def late(*report: object) -> None:
        monkeypatch.setattr(generations, "report", reports)
        async with importer.lease("importer"):
            reload = await importer.new_generation(1)
            await reload.apply([an_addition(1, "M1", 1)])
            await importer.switch(reload.number)
            await importer.report("another")
            assert await importer.retire()
        await reports(*report)  # type: ignore[arg-type]

    monkeypatch.setattr(generations, "report", late)
    await worker.report("w1")
    assert await bars(worker, 1) is None
    await worker.report("w1")
    assert await bars(worker, 1) == ["M1"]


async def test_reports_are_few_and_those_of_the_dead_are_forgotten(
    importer: RedisIndex, worker: RedisIndex, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report that still counts is not written again; a worker that starts finds room, whoever was killed before."""
    calls: list[str] = []
    reports = generations.report

    async def counted(store: Store, worker_id: str, number: int) -> None:
        calls.append(worker_id)
        await reports(store, worker_id, number)

    monkeypatch.setattr(generations, "report", counted)
    monkeypatch.setattr(generations, "WORKER_TTL_S", 0.1)
    for _ in range(10):
        await worker.report("killed")
    assert calls == ["killed"]
    await asyncio.sleep(0.15)
    await importer.report("w2")
    name = worker._store.name("workers")
    assert await worker._store.one(name, pack((b"HKEYS", name))) == [b"w2"]
