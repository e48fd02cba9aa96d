"""What coalescing gains: exact questions through the edge's stack, beside unary calls to the same server.

The server is trivial (it answers "not listed" from ready bytes, and not in a way that would be remembered), so that
what is compared is the road. Callers ask one after another, as sellers do; rounds of both alternate, figures are
medians of the rounds.
"""

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import grpc.aio
import uvloop

from bench.result import Result
from bench.rpc import cpu_seconds
from checker.core.filter import DigestFilter
from checker.core.freshness import AsOf
from checker.core.key import Algorithm, DigestKey
from checker.core.purchase import Flight
from checker.rulebooks import load
from checker.wire import delimited, purchase_message
from edge.centre import Centre
from edge.live import Live, wall_clock_ms
from edge.question import Question
from edge.stack import build
from proto.checker.v1 import check_pb2 as pb

KEYS = 2000
ROUND_S = 0.5


class _Round(NamedTuple):
    rate: float  # checks per second
    p99_ms: float
    cpu_us: float  # of asker and server together, per check


async def _serve() -> None:
    one = pb.CheckResponse(outcome="OUTCOME_ALLOWED", reason="REASON_NOT_LISTED").SerializeToString()
    many = delimited(one)

    async def check(raw: bytes, context: Any) -> bytes:
        return one

    async def batch(raw: bytes, context: Any) -> bytes:
        return many * len(pb.BatchCheckRequest.FromString(raw).items)

    handlers: dict[str, Any] = {
        "Check": grpc.unary_unary_rpc_method_handler(check),
        "BatchCheck": grpc.unary_unary_rpc_method_handler(batch),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("checker.v1.CheckService", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


async def _drive(ask: Callable[[int], Awaitable[object]], server: int, callers: int, seconds: float) -> _Round:
    spent: list[float] = []
    before = time.process_time() + cpu_seconds(server)
    end = time.perf_counter() + seconds

    async def caller(number: int) -> None:
        while (start := time.perf_counter()) < end:
            await ask(number % KEYS)
            number += 1
            spent.append(time.perf_counter() - start)

    await asyncio.gather(*(caller(number * KEYS // callers) for number in range(callers)))
    cpu_us = (time.process_time() + cpu_seconds(server) - before) / len(spent) * 1e6
    spent.sort()
    return _Round(len(spent) / seconds, spent[len(spent) * 99 // 100] * 1000, cpu_us)


async def _measure(address: str, server: int, callers: int, rounds: int) -> tuple[list[_Round], list[_Round]]:
    """Unary and through the stack; `server`: its process id."""
    key = DigestKey("bench", Algorithm.BLAKE2B_128, bytes(32))
    rulebook = load(None)
    live = Live(key, rulebook)
    live.swap(DigestFilter(1000, 1e-4), (), AsOf(1, wall_clock_ms(), 0, 1), key, rulebook, wall_clock_ms())
    questions = [
        Question(key.seal(b"bench", number.to_bytes(2, "big")), "bench", 1, False, b"", purchase_message(Flight()))
        for number in range(KEYS)
    ]
    requests = []
    for question in questions:
        request = pb.CheckRequest(purchase=pb.Purchase.FromString(question.purchase))
        request.subject.key.key_id, request.subject.key.digest = "bench", question.key
        requests.append(request)
    centre = Centre([address])
    stack = build(live, centre, timeout_s=5.0)
    unary: Any = centre.channel(address, "unary").unary_unary("/checker.v1.CheckService/Check")
    loop_time = asyncio.get_running_loop().time

    async def ask_unary(number: int) -> object:
        return pb.CheckResponse.FromString(await unary(requests[number].SerializeToString(), timeout=5.0))

    async def ask_stack(number: int) -> object:
        return await stack(questions[number], loop_time() + 5.0)

    plain, stacked = [], []
    for ask in (ask_unary, ask_stack):
        await _drive(ask, server, callers, ROUND_S / 3)
    for _ in range(rounds):
        plain.append(await _drive(ask_unary, server, callers, ROUND_S))
        stacked.append(await _drive(ask_stack, server, callers, ROUND_S))
    await stack.close()
    await centre.close()
    return plain, stacked


def run(rounds: int = 8) -> list[Result]:
    """Measure at 16 and at 256 concurrent callers."""
    results = []
    command = [sys.executable, "-m", "bench.coalescing"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            for callers in (16, 256):
                plain, stacked = uvloop.run(_measure(address, server.pid, callers, rounds))
                floor, rate = (statistics.median(one.rate for one in many) for many in (plain, stacked))
                slow, quick = (statistics.median(one.p99_ms for one in many) for many in (plain, stacked))
                spent, spared = (statistics.median(one.cpu_us for one in many) for many in (stacked, plain))
                cpu = f"CPU of both ends {spent:.0f} µs a check, unary {spared:.0f}"
                gains = [a.rate / b.rate for a, b in zip(stacked, plain, strict=True)]
                results.append(
                    Result(
                        f"exact questions, {callers} callers",
                        rate,
                        "checks/s",
                        "unary calls",
                        floor,
                        statistics.median(gains),
                        "≥ 5 ×, lower p99" if callers == 16 else "",
                        f"p99 {quick:.2f} ms, unary {slow:.2f} ms; {cpu}",
                    )
                )
        finally:
            server.terminate()
    return results


if __name__ == "__main__":
    uvloop.run(_serve())
