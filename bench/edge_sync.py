"""How an edge keeps in step: ten million keys from centre to use, from disk to use, swapped under checks; additions.

Centre, store and wire are real (`bench.centre`); the edge is in this process, beside the checks whose time is told.
"During a swap" is from the first byte asked of the centre to the swap itself: download, verification and all. A check
falls due every 200 µs. What its caller waits for it is one figure; how long after it fell due it ended is another, in
which whatever holds up the event loop counts for every check that it made late.
"""

import asyncio
import contextlib
import hashlib
import os
import socket
import statistics
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import uvloop

from bench.centre import Centre, centre, listed, until
from bench.importing import additions
from bench.result import Result
from bench.rpc import resident_id
from checker.keys import load_edge
from edge import DocumentType, EdgeClient, Train
from edge.snapshot_store import MANIFEST, SNAPSHOT, SnapshotStore
from edge.sync import Pace
from proto.checker.v1.filter_pb2 import CENTRE_STATE_REACHABLE

KEYS = 10_000_000
ADDED = 1000
_EVERY_NS = 200_000
_SEAT = Train("G1", "O", "二等座")


class _Check(NamedTuple):
    """Wall clock, nanoseconds."""

    due: int
    began: int
    ended: int


def run(rounds: int = 4) -> list[Result]:
    """Measure all of it before one centre."""
    with centre(listed(KEYS)) as one:
        return uvloop.run(_measure(one, rounds))


async def _measure(one: Centre, rounds: int) -> list[Result]:
    directory = one.folder / "edge-0"
    sync_s = statistics.median([await _sync(one, one.folder / f"edge-{number}") for number in range(rounds)])
    load_s = statistics.median([_load(one, directory) for _ in range(rounds)])
    snapshot = (directory / SNAPSHOT).read_bytes()
    bare_s = statistics.median([_bare(snapshot, one.folder / "bare") for _ in range(rounds)])
    hash_s = statistics.median([_hash(snapshot) for _ in range(rounds)])
    wire = await _additions(one, directory)
    quiet, during, swap_s = await _swaps(one, directory, rounds)
    waited = [_p99([check.ended - check.began for check in checks]) for checks in (quiet, during)]
    late = [_p99([check.ended - check.due for check in checks]) for checks in (quiet, during)]
    size = f"{KEYS:,} keys, {len(snapshot):,} bytes"
    return [
        Result("edge: a snapshot from nothing to use", sync_s, "s", "its bytes by a bare socket to disk", bare_s,
               sync_s / bare_s, "≤ 2 s", f"{size}; manifest, download, verification, swap; median of {rounds}"),
        Result("edge: load and verify at start", load_s, "s", "SHA-256 alone", hash_s, load_s / hash_s, "≤ 1 s",
               f"{size}; median of {rounds}"),
        Result("edge: check during a swap, p99", waited[1], "µs", "without a swap", waited[0], waited[1] / waited[0],
               "invisible", f"{len(during):,} checks in {rounds} swaps of {swap_s:.2f} s, download included"),
        Result("edge: the same from when it fell due", late[1], "µs", "without a swap", late[0], late[1] / late[0], "",
               "a busy event loop counts; edge and centre share the processors"),
        Result(f"edge: {ADDED:,} additions on the wire", wire, "B", "16 bytes a key", 16 * ADDED, wire / (16 * ADDED),
               "≤ 20 000 B", "all bytes from the centre meanwhile, heartbeats too"),
    ]  # fmt: skip


def _p99(nanoseconds: list[int]) -> float:
    """In microseconds."""
    return sorted(nanoseconds)[len(nanoseconds) * 99 // 100] / 1000


async def _sync(one: Centre, directory: Path) -> float:
    """Seconds until an edge that has nothing uses the centre's snapshot."""
    client = EdgeClient(one.address, directory, one.edge_key)
    start = time.perf_counter()
    await client.open()
    took = time.perf_counter() - start
    assert client.status().epoch == 1
    await client.close()
    return took


def _load(one: Centre, directory: Path) -> float:
    start = time.perf_counter()
    loaded = SnapshotStore(directory, load_edge(one.edge_key)).load()
    took = time.perf_counter() - start
    assert loaded is not None
    return took


def _hash(data: bytes) -> float:
    start = time.perf_counter()
    hashlib.sha256(data)
    return time.perf_counter() - start


def _bare(data: bytes, path: Path) -> float:
    """Seconds for these bytes over loopback into a file, fsynced."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def send() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(data)

        sender = threading.Thread(target=send)
        sender.start()
        start = time.perf_counter()
        with socket.create_connection(server.getsockname()) as connection, path.open("wb") as file:
            while piece := connection.recv(256 * 1024):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        took = time.perf_counter() - start
        sender.join()
    return took


async def _additions(one: Centre, directory: Path) -> int:
    """Bytes that an edge gets from its centre until it has ADDED keys more."""
    async with _counted(one.address) as (address, count), EdgeClient(address, directory, one.edge_key) as client:
        await until(lambda: client.status().centre == CENTRE_STATE_REACHABLE)  # it has caught up
        async with one.index() as index:
            before = count[0]
            await index.apply(additions(ADDED))
            await until(lambda: client.status().overlay >= ADDED)
            return count[0] - before


@contextlib.asynccontextmanager
async def _counted(target: str) -> AsyncIterator[tuple[str, list[int]]]:
    """An address that leads to `target`, and the number of bytes that came back from there."""
    host, _, port = target.rpartition(":")
    count = [0]
    writers: list[asyncio.StreamWriter] = []

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, back: bool) -> None:
        while data := await reader.read(65_536):
            count[0] += len(data) if back else 0
            writer.write(data)
            await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        writers.extend((writer, far_writer))
        await asyncio.gather(
            carry(reader, far_writer, back=False), carry(far_reader, writer, back=True), return_exceptions=True
        )

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", count
        for writer in writers:
            writer.transport.abort()


async def _swaps(one: Centre, directory: Path, rounds: int) -> tuple[list[_Check], list[_Check], float]:
    """Checks without a swap, and during swaps; median seconds from asking for a snapshot to its use."""
    quiet: list[_Check] = []
    during: list[_Check] = []
    seconds = []
    async with EdgeClient(one.address, directory, one.edge_key) as client:
        client.edge.sync._pace = Pace(jitter=0)
        swapped: list[int] = []
        client.edge.live.on_reset.append(lambda: swapped.append(time.time_ns()))
        checks: list[_Check] = []
        selling = asyncio.create_task(_sell(client, checks))
        for _ in range(rounds):
            checks.clear()
            await asyncio.sleep(0.5)
            quiet += checks
            checks.clear()
            swapped.clear()
            await asyncio.to_thread(uvloop.run, one.publish(listed(KEYS)))
            await until(lambda: bool(swapped))
            began_ns = (directory / MANIFEST).stat().st_mtime_ns  # written as the download begins
            await asyncio.sleep(0.05)
            during += [check for check in checks if began_ns <= check.due <= swapped[0] + 10_000_000]
            seconds.append((swapped[0] - began_ns) / 1e9)
        selling.cancel()
    return quiet, during, statistics.median(seconds)


async def _sell(client: EdgeClient, checks: list[_Check]) -> None:
    """A check whenever one is due; between them the event loop turns and does nothing else."""
    numbers = [resident_id(number) for number in range(1000)]
    clock = time.time_ns
    due = clock()
    while True:
        for number in numbers:
            while clock() < due:  # noqa: ASYNC110 - that the loop turns is the point
                await asyncio.sleep(0)
            began = clock()
            await client.check(_SEAT, DocumentType.RESIDENT_ID, number)
            checks.append(_Check(due, began, clock()))
            due += _EVERY_NS
            await asyncio.sleep(0)


if __name__ == "__main__":
    for result in run():
        print(result)
