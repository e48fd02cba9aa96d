"""What only a cluster can do: spread keys, lose one shard, move slots under our feet."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from redis.crc import key_slot

from checker.core.measure import Change, State
from checker.errors import IndexRefused, IndexUnavailable
from checker.index.base import READ_TIMEOUT_S, Applied
from checker.index.reading import Ask
from checker.index.redis import RedisIndex
from checker.index.store import WRITE_LINES
from checker.index.urls import open_index
from tests.index.builders import KEY, a_removal, an_addition, digest
from tests.index.conftest import patient
from tests.index.servers import ClusterServers, Server


@pytest.fixture
async def index(cluster: ClusterServers) -> AsyncIterator[RedisIndex]:
    """An open, empty index on the cluster, with patient reads."""
    for server in cluster.servers:
        server.command("FLUSHALL")
    index = patient(open_index(cluster.url))
    assert isinstance(index, RedisIndex)
    await index.open(KEY, create=True)
    yield index
    await index.close()


async def bars(index: RedisIndex, number: int) -> list[str] | None:
    """Measures that bar under one key, or None."""
    found = (await index.get_many([digest(number)], 5))[0]
    return None if found is None else [m.measure_id for m in found if m.state == State.ACTIVE]


async def until(check: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(10):
        while True:
            if await check():
                return
            await asyncio.sleep(0.01)


async def until_bars(index: RedisIndex, number: int, expected: list[str]) -> None:
    """Wait until a key is answered so."""
    deadline = time.monotonic() + 10
    while (found := await bars(index, number)) != expected:
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.01)


def home(cluster: ClusterServers, name: bytes) -> Server:
    """The master that owns a key's slot."""
    slot = key_slot(name)
    for first, last, primary, *_ in cluster.servers[0].command("CLUSTER SLOTS"):
        if first <= slot <= last:
            return next(server for server in cluster.servers if server.port == primary[1])
    raise AssertionError("a slot without owner")


def name_of(number: int) -> bytes:
    """The stored name of a lookup key."""
    return b"xx:1:k:" + digest(number)


async def test_keys_spread_over_the_masters(index: RedisIndex, cluster: ClusterServers) -> None:
    """Each of three masters holds between a quarter and 42 % of the keys: nothing in their names ties them together."""
    await index.apply([an_addition(n, f"M{n:010d}", 2 * n, 2 * n + 1) for n in range(1, 2001)])
    sizes = [server.command("DBSIZE") for server in cluster.servers]
    assert sum(sizes) >= 6000
    assert all(0.25 < size / sum(sizes) < 0.42 for size in sizes)
    stats = await index.stats()
    assert stats.primaries == 3
    assert stats.keys == pytest.approx(4000, rel=0.1)


async def test_one_sick_shard(index: RedisIndex, cluster: ClusterServers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of a frozen master are None; those of the others are answered as ever, also in the same question."""
    await index.apply([an_addition(n, f"M{n}", n) for n in range(1, 301)])
    sick = cluster.servers[2]  # it also has the index's description
    there = [n for n in range(1, 301) if home(cluster, name_of(n)) is sick]
    elsewhere = [n for n in range(1, 301) if n not in there]
    assert len(there) > 50
    sick_node = index._routing.by_address("127.0.0.1", sick.port)
    reader = index._reader(sick_node)

    async with index.lease("importer"):
        sick.freeze()
        try:
            index._read_timeout_s = reader._timeout_s = READ_TIMEOUT_S
            assert [await bars(index, n) for n in there[:3]] == [None] * 3
            index._read_timeout_s = reader._timeout_s = 5.0
            assert reader.broken
            waited: list[Ask] = []
            with monkeypatch.context() as patch:
                patch.setattr(reader, "late", waited.append)
                for n in elsewhere[:100]:
                    mixed = await index.get_many([digest(n), digest(there[0])], 5)
                    assert [found is None for found in mixed] == [False, True]
            assert (reader.broken, waited) == (True, [])
            for use in WRITE_LINES:
                sick_node.line(use)._timeout_s = 0.2
            changes: list[Change] = [a_removal(1000, f"M{there[0]}"), an_addition(1001, "N", *there[:5])]
            with pytest.raises(IndexUnavailable, match="did not answer in time"):
                await index.apply(changes)
        finally:
            sick.thaw()
        for use in WRITE_LINES:
            sick_node.line(use)._timeout_s = 10
        await until_bars(index, there[9], [f"M{there[9]}"])
        assert Applied.SUPERSEDED not in await index.apply(changes)
        await until_bars(index, there[0], ["N"])


async def test_slot_moves(index: RedisIndex, cluster: ClusterServers) -> None:
    """While a slot moves and afterwards writes follow it; reads of its keys are answered again by themselves."""
    number = 1
    slot = key_slot(name_of(number))
    source = home(cluster, name_of(number))
    target = next(server for server in cluster.servers if server is not source)
    source_id, target_id = (server.command("CLUSTER", "MYID").decode() for server in (source, target))
    await index.apply([an_addition(1, "M1", number)])
    assert await bars(index, number) == ["M1"]

    target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
    source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
    source.command("MIGRATE", "127.0.0.1", target.port, name_of(number), 0, 5000)
    await index.apply([an_addition(2, "M2", number)])  # the source answers ASK
    for server in (target, source, *cluster.servers):
        server.command("CLUSTER", "SETSLOT", slot, "NODE", target_id)
    await index.apply([an_addition(3, "M3", number)])  # the source answers MOVED
    await until_bars(index, number, ["M1", "M2", "M3"])
    await index.apply([a_removal(4, "M1")])
    await until_bars(index, number, ["M2", "M3"])


async def test_single_url_for_a_cluster(cluster: ClusterServers) -> None:
    """The URL of one server of a cluster is refused with the form to use."""
    index = open_index(cluster.servers[0].url)
    with pytest.raises(IndexRefused, match=r"use redis\+cluster://"):
        await index.open(KEY, create=True)
    await index.close()


async def test_reader_starts_beside_a_dead_shard(index: RedisIndex, cluster: ClusterServers) -> None:
    """A worker that starts while one shard is frozen serves the other shards' keys."""
    await index.apply([an_addition(n, f"M{n}", n) for n in range(1, 101)])
    needed = {home(cluster, name).port for name in (b"xx:gen", b"xx:1:info", b"xx:runs")}
    spare = next(server for server in cluster.servers if server.port not in needed)
    reader = open_index(cluster.url)
    assert isinstance(reader, RedisIndex)
    spare.freeze()
    try:
        await reader.open(KEY, create=False)
        dead = [home_port(cluster, n, spare) == spare.port for n in range(1, 101)]
        assert any(dead)

        async def only_the_dead_shard_is_silent() -> bool:  # a busy machine may be late once or twice
            answered = await reader.get_many([digest(n) for n in range(1, 101)], 5)
            assert all(found is None for found, silent in zip(answered, dead, strict=True) if silent)
            return [found is None for found in answered] == dead

        await until(only_the_dead_shard_is_silent)
    finally:
        spare.thaw()
        await reader.close()


def home_port(cluster: ClusterServers, number: int, frozen: Server) -> int:
    """Like `home`, asked of a server that answers."""
    slot = key_slot(name_of(number))
    alive = next(server for server in cluster.servers if server is not frozen)
    for first, last, primary, *_ in alive.command("CLUSTER SLOTS"):
        if first <= slot <= last:
            return int(primary[1])
    raise AssertionError("a slot without owner")
