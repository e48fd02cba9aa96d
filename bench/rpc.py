"""What a check costs the server's processor: unary and in batches of 100, beside a bare echo of the same sizes.

CPU seconds of the server process (user and system, from the kernel) per call, client in this process, 32 calls in
flight. Rounds of ours and the echo alternate, so that both see the same machine; ratios are medians of the rounds'.
"""

import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import uvloop

from bench.result import Result
from proto.checker.v1 import check_pb2 as pb

IN_FLIGHT = 32
BATCH = 100


def check_request(number: int) -> pb.CheckRequest:
    """A valid resident ID of 18xx that no feed here lists, on a train a measure could forbid."""
    return pb.CheckRequest(
        item_id=str(number),
        subject=pb.Subject(document=pb.Document(type="DOCUMENT_TYPE_RESIDENT_ID", number=resident_id(number))),
        purchase=pb.Purchase(train=pb.TrainSeat(train_code="G1", seat_code="O", seat_name="二等座")),
    )


def resident_id(number: int) -> str:
    """A valid synthetic resident ID, born 1880, one of a thousand."""
    body = f"44052418800101{number % 1000:03d}"
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    total = sum(int(digit) * weight for digit, weight in zip(body, weights, strict=True))
    return body + "10X98765432"[total % 11]


@contextlib.contextmanager
def _process(command: list[str], *, capture: bool) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE if capture else None, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()


@contextlib.contextmanager
def checker(index: str, *more: str) -> Iterator[tuple[str, int]]:
    """A running checker: its address and the pid of its parent process."""
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.json"
        command = [sys.executable, "-m", "checker", "serve", "--index", index, "--listen", "127.0.0.1:0"]
        command += ["--ready-file", str(ready), "--log-level", "warning", "--state-dir", folder, *more]
        command += ["--drain-pause-ms", "0"]  # there is no load balancer to tell
        with _process(command, capture=False) as process:
            until = time.monotonic() + 60
            while not ready.exists():
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError("checker serve did not start")
                time.sleep(0.02)
            yield json.loads(ready.read_text())["address"], process.pid


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process and its children so far; by the scheduler, in nanoseconds, where the kernel tells."""
    parent = psutil.Process(pid)
    family = [parent, *parent.children(recursive=True)]
    try:
        spent = [
            file.read_text().split()[0] for one in family for file in Path(f"/proc/{one.pid}/task").glob("*/schedstat")
        ]
        return sum(map(int, spent)) / 1e9
    except OSError:
        return sum(times.user + times.system for times in (one.cpu_times() for one in family))


async def _drive(call: Any, requests: list[bytes], calls: int) -> float:
    """Make `calls` calls, IN_FLIGHT at a time; returns wall seconds."""
    left = iter(range(calls))

    async def one_after_another() -> None:
        for number in left:
            await call(requests[number % len(requests)])

    start = time.perf_counter()
    await asyncio.gather(*(one_after_another() for _ in range(IN_FLIGHT)))
    return time.perf_counter() - start


async def _cost(address: str, pid: int, method: str, requests: list[bytes], calls: int) -> tuple[float, float]:
    """CPU seconds of the server per call, and calls per wall second."""
    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(f"/checker.v1.CheckService/{method}")
        await _drive(call, requests, calls // 10)
        before = cpu_seconds(pid)
        wall = await _drive(call, requests, calls)
        return (cpu_seconds(pid) - before) / calls, calls / wall


async def _sizes(address: str, unary: bytes, batch: bytes) -> tuple[int, int]:
    async with grpc.aio.insecure_channel(address) as channel:
        one: Any = channel.unary_unary("/checker.v1.CheckService/Check")
        many: Any = channel.unary_unary("/checker.v1.CheckService/BatchCheck")
        single, whole = await one(unary), await many(batch)
    answer = pb.CheckResponse.FromString(single)
    assert answer.outcome == pb.OUTCOME_ALLOWED
    assert answer.reason == pb.REASON_NOT_LISTED
    answers = pb.BatchCheckResponse.FromString(whole).items
    assert [item.item_id for item in answers] == [str(number) for number in range(BATCH)]
    assert {item.reason for item in answers} == {pb.REASON_NOT_LISTED}
    return len(single), len(whole)


def run(rounds: int = 25, calls: int = 1500) -> list[Result]:
    """Measure; answers are decoded and checked before. The index is in memory and empty: every check is a miss."""
    unary = [check_request(number).SerializeToString() for number in range(1000)]
    batch = [pb.BatchCheckRequest(items=[check_request(number) for number in range(BATCH)]).SerializeToString()]
    with checker("memory:") as (address, pid):
        sizes = uvloop.run(_sizes(address, unary[0], batch[0]))
        command = [sys.executable, "-m", "bench.echo_server", *map(str, sizes)]
        with _process(command, capture=True) as echo:
            assert echo.stdout is not None
            echo_address = echo.stdout.readline().strip()
            measured: dict[str, list[tuple[float, float]]] = {
                name: [] for name in ("ours", "echo", "many", "echo_many")
            }
            for _ in range(rounds):
                for name, where, family, method, requests, count in (
                    ("ours", address, pid, "Check", unary, calls),
                    ("echo", echo_address, echo.pid, "Check", unary, calls),
                    ("many", address, pid, "BatchCheck", batch, calls // 20),
                    ("echo_many", echo_address, echo.pid, "BatchCheck", batch, calls // 20),
                ):
                    measured[name].append(uvloop.run(_cost(where, family, method, requests, count)))
    ours, echo_cost = _cpu_of(measured["ours"]), _cpu_of(measured["echo"])
    many, echo_many = _cpu_of(measured["many"]), _cpu_of(measured["echo_many"])
    ratios = [a[0] / b[0] for a, b in zip(measured["ours"], measured["echo"], strict=True)]
    cheaper = [a[0] / (b[0] / BATCH) for a, b in zip(measured["ours"], measured["many"], strict=True)]
    rate = statistics.median(rate for _, rate in measured["ours"])
    many_rate = statistics.median(rate for _, rate in measured["many"]) * BATCH
    return [
        Result("unary check, server CPU", ours * 1e6, "µs", "bare grpc.aio echo, same sizes", echo_cost * 1e6,
               statistics.median(ratios), "≤ 1.2", f"{rate:,.0f} checks/s at {IN_FLIGHT} in flight"),
        Result("check in a batch of 100, server CPU", many / BATCH * 1e6, "µs", "our unary check", ours * 1e6,
               statistics.median(cheaper), "≥ 20 × cheaper", f"{many_rate:,.0f} checks/s"),
        Result("batch of 100, server CPU", many * 1e6, "µs", "bare echo, same sizes", echo_many * 1e6,
               many / echo_many, "", ""),
    ]  # fmt: skip


def _cpu_of(measured: list[tuple[float, float]]) -> float:
    return statistics.median(cost for cost, _ in measured)


if __name__ == "__main__":
    for result in run():
        print(result)
