"""Claims about a thousand edges at once, on `checker serve` itself: checks go on, all are served, nothing grows."""

import asyncio
import hashlib
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc.aio
import psutil

from checker import keys as key_files
from checker.core.key import Algorithm
from checker.index.base import CHUNK_BYTES, ExactIndex, Head, IndexKey
from checker.index.urls import open_index
from checker.rpc.client import open_channel
from proto.checker.v1 import check_pb2, check_pb2_grpc
from tests.builders import rulebook
from tests.cli.console import SCRIPT, environment
from tests.index.builders import an_addition
from tests.index.servers import Server
from tests.ports import free_port
from tests.serving.centre import publish
from tests.serving.test_filter_service import TRAIN
from tests.waiting import eventually

EDGES, BEHIND = 1200, 1500
PIPE = asyncio.subprocess.PIPE


class Checks:
    """Two callers that ask one check after the other; any error fails the test at `stop`.

    Where the machine is so busy with other work that calls pile up, gRPC cancels what is beyond its bound
    (`ServerSettings.max_pending`): such a check is asked again, as sellers do, and the wait counts from its beginning.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._done = asyncio.Event()
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(2)]
        self.waits: list[float] = []
        self.cancelled = 0

    async def _ask(self) -> None:
        async with open_channel(self._address) as channel:
            stub = check_pb2_grpc.CheckServiceStub(channel)
            while not self._done.is_set():
                start = time.perf_counter()
                answer = await self._answer(stub)
                self.waits.append(time.perf_counter() - start)
                assert answer.outcome == check_pb2.OUTCOME_ALLOWED

    async def _answer(self, stub: "check_pb2_grpc.CheckServiceAsyncStub") -> check_pb2.CheckResponse:
        async with asyncio.timeout(60):
            while True:
                try:
                    return await stub.Check(TRAIN, timeout=30)
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.CANCELLED:
                        raise
                    self.cancelled += 1

    async def figures(self, at_least: int = 50) -> str:
        """Median and p99 since the last look."""
        await eventually(lambda: len(self.waits) >= at_least)
        some = sorted(self.waits)
        self.waits.clear()
        return f"median {some[len(some) // 2] * 1000:.1f} ms, p99 {some[len(some) * 99 // 100] * 1000:.1f} ms"

    async def stop(self) -> None:
        """No more."""
        self._done.set()
        await asyncio.gather(*self._tasks)


async def an_index(url: str, keys: key_files.KeyFile) -> ExactIndex:
    """An index with a journal and an acknowledged head."""
    index = open_index(url)
    await index.open(IndexKey(keys.active, keys.digest_key.check_value), create=True)
    for start in range(1, BEHIND + 1, 100):
        await index.apply([an_addition(number, f"M{number}", number) for number in range(start, start + 100)])
    async with index.lease("test") as lease:
        await lease.advance(Head(BEHIND, time.time_ns() // 1_000_000, 0))
    return index


def metric(port: int, name: str) -> float:
    """The sum of a metric's samples."""
    with urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{"))


def memory(pid: int) -> int:
    """Resident bytes of a process and its children."""
    parent = psutil.Process(pid)
    total: int = sum(each.memory_info().rss for each in (parent, *parent.children()))
    return total


async def tell(process: asyncio.subprocess.Process, line: str) -> Any:
    """One line to the edges, and theirs back."""
    assert process.stdin is not None
    assert process.stdout is not None
    if line:
        process.stdin.write(f"{line}\n".encode())
    return json.loads(await asyncio.wait_for(process.stdout.readline(), 60))


async def test_a_thousand_edges_at_once_do_not_disturb_the_checks(tmp_path: Path) -> None:
    """Every check is answered while 1 200 edges come at once, watch, ask what is published and download; each is served
    in the end, and a watcher costs some kilobytes that do not grow. When the service stops, each is told so."""
    store, keys = Server(), key_files.new(Algorithm.BLAKE2B_128, "k-many")
    key_files.save(tmp_path / "key.json", keys)
    ready, port = tmp_path / "ready.json", free_port()
    index = await an_index(store.url, keys)
    serving = await asyncio.create_subprocess_exec(
        *(SCRIPT, "serve", "--index", store.url, "--state-dir", str(tmp_path), "--listen", "127.0.0.1:0"),
        *("--ready-file", str(ready), "--max-downloads", "4", "--metrics-listen", f"127.0.0.1:{port}"),
        *("--drain-pause-ms", "200"),
        env=environment(),
    )
    edges = None
    try:
        await eventually(ready.exists, 60)
        served = json.loads(ready.read_text())
        while (published := await index.publications.latest()) is None:  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.05)
        epoch = published.epoch + 1
        _, snapshot = await publish(index, epoch, 16 * CHUNK_BYTES, rulebook().source)
        checks = Checks(served["address"])
        figures = [f"alone {await checks.figures()}"]
        before = memory(served["pid"])
        job = {
            "address": served["address"],
            "edges": EDGES,
            "journal_id": (await index.journal_end()).journal_id.hex(),
            "keys": BEHIND,
            "downloads": 100,
            "epoch": epoch,
            "sha256": hashlib.sha256(snapshot).hexdigest(),
            "manifest_bytes": len(rulebook().source),
        }
        edges = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.serving.edges", json.dumps(job)), stdin=PIPE, stdout=PIPE
        )
        came = await tell(edges, "")
        figures.append(f"as they come {await checks.figures()}")
        assert came["refused"] > 0
        assert came["manifests"] >= EDGES
        await eventually(lambda: metric(port, "checker_edges_watching") == EDGES)
        await eventually(lambda: metric(port, "checker_edges_refused_total") == came["refused"])
        each = (memory(served["pid"]) - before) / EDGES
        spread = []
        for number in range(BEHIND + 1, BEHIND + 11):
            await index.apply([an_addition(number, f"M{number}", number)])
            added = time.time()
            spread.append((await tell(edges, "addition"))["reached"] - added)
        figures.append(f"as they are told {await checks.figures()}")
        later = (memory(served["pid"]) - before) / EDGES
        await checks.stop()
        serving.send_signal(signal.SIGTERM)
        assert await tell(edges, "end") == {"signed_off": EDGES, "unavailable": EDGES}
        assert await asyncio.wait_for(serving.wait(), 30) == 0
    finally:
        for process in (edges, serving):
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()
        await index.close()
        store.close()
    print(  # noqa: T201 - figures
        f"\n{EDGES} edges served in {came['seconds']:.1f} s; {came['refused']} refusals, {came['again']} retries, "
        f"{came['manifests']} manifests\n"
        f"{each:.0f} B per watcher, {later:.0f} B ten additions later; an addition reaches all in "
        f"{sorted(spread)[5] * 1000:.0f} ms (median of ten in a row)\n"
        f"checks: {'; '.join(figures)}; {checks.cancelled} cancelled"
    )
    assert each < 60_000
    assert later < each + 10_000
