"""A check in the booking system's own process: `EdgeClient.check` to a filter miss, its await included.

Beside it, in the same run, what a cache on the same machine would cost it: a redis-py GET over loopback, at both ends.
And the same miss with ten times the keys, in threads, and in `check_many`. CPU seconds, best of several rounds.
"""

import asyncio
import contextlib
import logging
import socket
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import redis
import uvloop

from bench.centre import listed
from bench.result import Result
from bench.rpc import cpu_seconds, resident_id
from checker import keys as key_files
from checker.core.document import parse
from checker.core.filter import DigestFilter
from checker.core.freshness import AsOf
from checker.core.key import Algorithm
from checker.index.embedded import find_server
from checker.keys import EdgeKeys
from edge import BlockingEdgeClient, DocumentType, EdgeClient, Item, Train, assembly
from edge.live import Live

SMALL, LARGE = 1_000_000, 10_000_000
_NUMBER = 2_000  # 20 ms: a neighbour disturbs some of the rounds, not all
_ROUNDS = 50
_SEAT = Train("G1", "O", "二等座")


@contextlib.contextmanager
def without_centre() -> Iterator[None]:
    """Edges of this process have no centre: they do not wait for its first snapshot, and do not say so."""
    logger = logging.getLogger("edge")
    before = logger.level, assembly.FIRST_WAIT_S
    logger.setLevel(logging.CRITICAL)
    assembly.FIRST_WAIT_S = 0.0
    try:
        yield
    finally:
        logger.setLevel(before[0])
        assembly.FIRST_WAIT_S = before[1]


def _swap(live: Live, built: DigestFilter) -> None:
    now_ms = time.time_ns() // 1_000_000
    live.swap(built, (), AsOf(1, now_ms, 0, 1), live.view.key, live.view.rulebook, now_ms)


async def _us(work: Callable[[], Awaitable[object]], checks: int) -> float:
    """CPU microseconds of this process per check."""
    start = time.process_time()
    await work()
    return (time.process_time() - start) / checks * 1e6


def _keys(folder: Path) -> EdgeKeys:
    path = folder / "key.json"
    key_files.export_edge(path, key_files.new(Algorithm.BLAKE2B_128, "bench"))
    return key_files.load_edge(path)


def run() -> list[Result]:
    """Measure with filters of SMALL and of LARGE keys."""
    small, large = listed(SMALL), listed(LARGE)
    with tempfile.TemporaryDirectory() as made, without_centre():
        folder = Path(made)
        keys = _keys(folder)
        caller_us, server_us = _get_us(folder)
        one_us, many_us, large_us = uvloop.run(_measure(folder, keys, small, large))
        thread_us = _blocking(folder, keys, small)
    get_us = caller_us + server_us
    get = "redis-py GET over loopback, both ends"
    return [
        Result("EdgeClient.check to a filter miss", one_us, "µs", get, get_us, get_us / one_us,
               "≤ 8 µs, ≥ 5 × cheaper",
               f"{1e6 / one_us:,.0f} checks/s on one core; of the GET, {caller_us:.3g} µs are its caller's"),
        Result("the same in check_many of 100", many_us, "µs", "one by one", one_us, one_us / many_us, "", ""),
        Result(f"the same with {LARGE // 1_000_000} M keys", large_us, "µs", f"with {SMALL // 1_000_000} M", one_us,
               large_us / one_us, "< 1.2 ×", ""),
        Result("BlockingEdgeClient.check to a filter miss", thread_us, "µs", get, get_us,
               get_us / thread_us, "", "decided in the caller's thread"),
    ]  # fmt: skip


def _numbers(keys: EdgeKeys, *filters: DigestFilter) -> list[str]:
    """A thousand that no filter holds, false positives left out."""
    digest = keys.digest_key.document
    found = []
    for number in map(resident_id, range(1100)):
        documents = parse(1, number, "", 20300101).documents  # type: ignore[union-attr] # they are valid
        if not any(digest(documents[0]) in one for one in filters):
            found.append(number)
    return found[:1000]


async def _measure(
    folder: Path, keys: EdgeKeys, small: DigestFilter, large: DigestFilter
) -> tuple[float, float, float]:
    numbers = _numbers(keys, small, large) * (_NUMBER // 1000)
    items = [Item(_SEAT, DocumentType.RESIDENT_ID, number) for number in numbers]
    async with EdgeClient("127.0.0.1:1", folder / "edge", keys) as client:

        async def singly() -> None:
            for number in numbers:
                await client.check(_SEAT, DocumentType.RESIDENT_ID, number)

        async def together() -> None:
            for start in range(0, len(items), 100):
                await client.check_many(items[start : start + 100])

        best = dict.fromkeys(("one", "many", "large"), float("inf"))
        for _ in range(_ROUNDS):
            for name, held, work in (("one", small, singly), ("many", small, together), ("large", large, singly)):
                _swap(client.edge.live, held)
                best[name] = min(best[name], await _us(work, _NUMBER))
        assert client.status().hits == 0
    return best["one"], best["many"], best["large"]


def _blocking(folder: Path, keys: EdgeKeys, small: DigestFilter) -> float:
    numbers = _numbers(keys, small) * (_NUMBER // 1000)
    with BlockingEdgeClient("127.0.0.1:1", folder / "blocking", keys) as client:
        _swap(client._client.edge.live, small)

        async def singly() -> None:
            for number in numbers:
                client.check(_SEAT, DocumentType.RESIDENT_ID, number)

        return min(asyncio.run(_us(singly, _NUMBER)) for _ in range(_ROUNDS))


def _get_us(folder: Path) -> tuple[float, float]:
    """Of the caller's process, and of the server's."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [find_server(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL) as server:
        try:
            client = redis.Redis(port=port)
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    time.sleep(0.02)
            keys = [f"k:{number:032x}" for number in range(1000)]

            async def gets() -> None:
                for _ in range(_NUMBER // len(keys)):
                    for key in keys:
                        client.get(key)

            rounds = []
            for _ in range(_ROUNDS):
                before = cpu_seconds(server.pid)
                caller_us = asyncio.run(_us(gets, _NUMBER))
                rounds.append((caller_us, (cpu_seconds(server.pid) - before) / _NUMBER * 1e6))
            client.close()
            return min(rounds, key=sum)
        finally:
            server.terminate()
