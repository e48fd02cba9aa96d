"""What a booking system might keep in or beside its own process instead: processor time of that process per check.

Every peer knows the same keys and is asked about others. Each does less than `EdgeClient.check`, which validates the
number, looks the rule up, makes the digest and answers with a record; they look ready bytes up. Rounds alternate.
"""

import contextlib
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import pybloom_live
import redis
import uvloop

from bench import edge_check
from bench.result import Result, compared
from bench.rpc import cpu_seconds
from checker.core.filter_builder import build
from checker.index.embedded import find_server
from edge import DocumentType, EdgeClient, Item, Train

_TOGETHER = 100
_SEAT = Train("G1", "O", "二等座")


def run(rounds: int = 9, keys: int = 1_000_000, checks: int = 5000) -> list[Result]:
    """Measure with `keys` keys, `checks` in a round."""
    with tempfile.TemporaryDirectory(prefix="xx-") as made, edge_check.without_centre():
        return uvloop.run(_measure(Path(made), rounds, keys, checks))


async def _measure(folder: Path, rounds: int, keys: int, checks: int) -> list[Result]:
    random = np.random.default_rng(1).integers(0, 256, (keys, 16), dtype=np.uint8)
    members = [row.tobytes() for row in random]
    asked = [row.tobytes() for row in np.random.default_rng(2).integers(0, 256, (checks, 16), dtype=np.uint8)]
    built = build(random)
    edge_keys = edge_check._keys(folder)
    numbers = edge_check._numbers(edge_keys, built) * (checks // 1000 + 1)
    bloom = pybloom_live.BloomFilter(keys, 1e-4)
    for member in members:
        bloom.add(member)
    table = _table(folder / "keys.sqlite", members)
    with _redis(folder, members) as (client, pid):
        async with EdgeClient("127.0.0.1:1", folder / "edge", edge_keys) as edge:
            edge_check._swap(edge.edge.live, built)

            async def check() -> None:
                for number in numbers[:checks]:
                    await edge.check(_SEAT, DocumentType.RESIDENT_ID, number)

            async def check_many() -> None:
                for start in range(0, checks, _TOGETHER):
                    items = [Item(_SEAT, DocumentType.RESIDENT_ID, number) for number in numbers[start:][:_TOGETHER]]
                    await edge.check_many(items)

            async def get() -> None:
                assert not any(client.get(key) for key in asked)

            async def mget() -> None:
                for start in range(0, checks, _TOGETHER):
                    assert not any(client.mget(asked[start : start + _TOGETHER]))

            async def probe() -> None:
                assert sum(key in bloom for key in asked) < checks / 100

            async def select() -> None:
                for key in asked:
                    assert table.execute("SELECT 1 FROM keys WHERE key = ?", (key,)).fetchone() is None

            async def filtered() -> None:
                assert sum(key in built for key in asked) < checks / 100

            works = {"check": check, "check_many": check_many, "filter": filtered, "get": get, "mget": mget,
                     "pybloom": probe, "sqlite": select}  # fmt: skip
            spent: dict[str, list[float]] = {name: [] for name in works}
            servers: dict[str, list[float]] = {"get": [], "mget": []}
            _check_members(client, bloom, table, members[:100])
            for work in works.values():
                await work()
            for _ in range(rounds):
                for name, work in works.items():
                    before = cpu_seconds(pid) if name in servers else 0.0
                    spent[name].append(await _per_check_us(work, checks))
                    if name in servers:
                        servers[name].append((cpu_seconds(pid) - before) / checks * 1e6)
            _check_members(client, bloom, table, members[:100])
            assert edge.status().hits == 0
    table.close()
    redis_us = {name: f"Redis itself spends {np.median(each):.1f} µs more" for name, each in servers.items()}
    whole, many, bare = "EdgeClient.check", f"EdgeClient.check_many of {_TOGETHER}", "its filter alone, ready bytes"
    return [
        _row(whole, "redis-py GET", spent["check"], spent["get"], redis_us["get"]),
        _row(whole, "SQLite, stdlib", spent["check"], spent["sqlite"], f"by primary key, {keys:,} keys, all in memory"),
        _row(whole, "pybloom-live, unmodified", spent["check"], spent["pybloom"], "a probe is no answer"),
        _row(many, f"redis-py MGET of {_TOGETHER}", spent["check_many"], spent["mget"], redis_us["mget"]),
        _row(bare, f"redis-py MGET of {_TOGETHER}", spent["filter"], spent["mget"], redis_us["mget"]),
        _row(bare, "SQLite, stdlib", spent["filter"], spent["sqlite"], ""),
        _row(bare, "pybloom-live, unmodified", spent["filter"], spent["pybloom"], ""),
    ]


def _row(name: str, peer: str, ours: list[float], theirs: list[float], note: str) -> Result:
    ratio, spread = compared(theirs, ours)
    value, floor = float(np.median(ours)), float(np.median(theirs))
    return Result(f"{name}, caller's CPU", value, "µs", peer, floor, ratio, "", noted(note, ratio), spread)


def noted(note: str, ratio: float) -> str:
    """The note; where the peer is cheaper, it says so."""
    return note if ratio >= 1 else f"{note}; the peer is cheaper".removeprefix("; ")


async def _per_check_us(work: Callable[[], Awaitable[None]], checks: int) -> float:
    start = time.process_time()
    await work()
    return (time.process_time() - start) / checks * 1e6


def _check_members(client: "redis.Redis", bloom: pybloom_live.BloomFilter, table: sqlite3.Connection,
                   members: list[bytes]) -> None:  # fmt: skip
    """Every peer knows who is listed."""
    assert all(client.mget(members))
    assert all(member in bloom for member in members)
    assert all(table.execute("SELECT 1 FROM keys WHERE key = ?", (member,)).fetchone() for member in members)


def _table(path: Path, members: list[bytes]) -> sqlite3.Connection:
    table = sqlite3.connect(path)
    table.execute("CREATE TABLE keys (key BLOB PRIMARY KEY) WITHOUT ROWID")
    table.execute("PRAGMA cache_size = -200000")  # kB: the whole table
    table.executemany("INSERT INTO keys VALUES (?)", ((member,) for member in sorted(members)))
    table.commit()
    return table


@contextlib.contextmanager
def _redis(folder: Path, members: list[bytes]) -> Iterator[tuple["redis.Redis", int]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [find_server(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL) as server:
        try:
            client = redis.Redis(port=port)
            until = time.monotonic() + 30
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    if time.monotonic() > until:
                        raise
                    time.sleep(0.02)
            for start in range(0, len(members), 10_000):
                client.mset(dict.fromkeys(members[start : start + 10_000], b"1"))
            yield client, server.pid
            client.close()
        finally:
            server.terminate()
