"""Peers a user might pick instead, side by side in one run.

Those that answer calls get the same load from the same loader and are compared as checks per second of the server's
processor time, at 8 and at 80 in flight, target and loader on different cores. Rounds alternate between targets, so
that all see the same machine; ratios are medians of the rounds' ratios, with their quartiles. Those that live in or
beside the caller's process are in `local`.
"""

import asyncio
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import uvloop

from bench.peers import cerbos, h2load, local
from bench.peers.h2load import Measured, Target
from bench.result import Result, compared
from bench.rpc import BATCH, check_request, cpu_seconds, resident_id
from edge import DocumentType, Reason, RemoteChecker, Train
from loadtest.stand import Stand
from proto.checker.v1 import check_pb2 as pb

IN_FLIGHT = (8, 80)
_CALLS = 3200
_PEER = "Cerbos, unary"
_GOALS = {"unary": "≥ 1 × Cerbos", "batch of 100": "≥ 10 × Cerbos", "coalesced": "≥ 10 × Cerbos at 80"}
_SYNC_S = 60


def run(rounds: int = 7, calls: int = _CALLS, keys: int = 1_000_000, checks: int = 5000) -> list[Result]:
    """Measure; `keys` and `checks` as in `local.run`. What cannot be installed gets a row that says so."""
    return [*_servers(rounds, calls), *local.run(rounds, keys, checks)]


def _servers(rounds: int, calls: int) -> list[Result]:
    if not h2load.installed():
        return [Result.not_measured("peers that answer calls", "h2load is not on PATH: apt-get install nghttp2-client")]
    missing: list[Result] = []
    with contextlib.ExitStack() as stack:
        with h2load.on_core(h2load.cores()[0]):
            targets = stack.enter_context(_ours())
            targets.append(stack.enter_context(_echo(targets)))
            try:
                targets += stack.enter_context(cerbos.serving(cerbos.install()))
            except cerbos.Unavailable as error:
                missing = [Result.not_measured("Cerbos", str(error))]
        measured: dict[tuple[str, int], list[Measured]] = {}
        for target in targets:
            h2load.load(target, IN_FLIGHT[-1], max(80, calls // 4 // target.checks))  # warm
        for _ in range(rounds):
            for in_flight in IN_FLIGHT:
                for target in targets:
                    # A batch's calls are fewer and longer; as many checks as elsewhere would be too few to time.
                    count = calls if target.checks == 1 else max(in_flight, calls // 20)
                    measured.setdefault((target.name, in_flight), []).append(h2load.load(target, in_flight, count))
                measured.setdefault(("coalesced", in_flight), []).append(_coalesced(targets[0], in_flight, calls))
    peer = _PEER if not missing else "bare grpc.aio echo"
    return missing + [_row(name, in_flight, rows, peer, measured[peer, in_flight])
                      for (name, in_flight), rows in measured.items() if name != peer]  # fmt: skip


def _row(name: str, in_flight: int, rows: list[Measured], peer: str, floors: list[Measured]) -> Result:
    ratio, spread = compared([each.per_cpu_s for each in rows], [each.per_cpu_s for each in floors])
    value, floor = (statistics.median(each.per_cpu_s for each in many) for many in (rows, floors))
    rate, floor_rate = (statistics.median(each.per_s for each in many) for many in (rows, floors))
    note = f"by the clock {rate:,.0f} checks/s beside {floor_rate:,.0f}"
    ours = name in ("unary", "batch of 100", "edge node, unary", "coalesced")
    return Result(
        f"{name}, {in_flight} in flight",
        value,
        "checks per CPU-second",
        peer,
        floor,
        ratio,
        _GOALS.get(name, "") if peer == _PEER else "",
        local.noted(note, ratio) if ours else note,
        spread,
    )


@contextlib.contextmanager
def _ours() -> Iterator[list[Target]]:
    """A centre with a small list in memory and an edge beside it, asked about somebody who is not listed."""
    unary = check_request(0).SerializeToString()
    batch = pb.BatchCheckRequest(items=[check_request(number) for number in range(BATCH)]).SerializeToString()
    with (
        tempfile.TemporaryDirectory(prefix="xx-") as folder,
        Stand(Path(folder), people=2000, memory=True, edge=True) as stand,
    ):
        centre, node = stand.centre, stand.target
        check, many = "/checker.v1.CheckService/Check", "/checker.v1.CheckService/BatchCheck"
        targets = [
            Target("unary", centre.address, centre.pid, check, unary, 1, _not_listed),
            Target("batch of 100", centre.address, centre.pid, many, batch, BATCH, _none_listed),
            Target("edge node, unary", node.address, node.pid, check, unary, 1, _by_filter),
        ]
        until = time.monotonic() + _SYNC_S
        while True:  # until the edge has its filter, it asks the centre
            try:
                targets[2].ask()
                break
            except AssertionError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)
        yield targets


def _not_listed(raw: bytes) -> None:
    answer = pb.CheckResponse.FromString(raw)
    assert (answer.outcome, answer.reason) == (pb.OUTCOME_ALLOWED, pb.REASON_NOT_LISTED)


def _by_filter(raw: bytes) -> None:
    _not_listed(raw)
    assert pb.CheckResponse.FromString(raw).answered_by == pb.ANSWERED_BY_FILTER


def _none_listed(raw: bytes) -> None:
    answers = pb.BatchCheckResponse.FromString(raw).items
    assert [answer.item_id for answer in answers] == [str(number) for number in range(BATCH)]
    assert {(answer.outcome, answer.reason) for answer in answers} == {(pb.OUTCOME_ALLOWED, pb.REASON_NOT_LISTED)}


@contextlib.contextmanager
def _echo(targets: list[Target]) -> Iterator[Target]:
    """The floor of a Python service: it answers with bytes of the same size and reads nothing."""
    sizes = [len(target.ask()) for target in targets[:2]]
    command = [sys.executable, "-m", "bench.echo_server", *map(str, sizes)]

    def verify(raw: bytes) -> None:
        assert raw == bytes(sizes[0])

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            yield targets[0]._replace(name="bare grpc.aio echo", address=address, pid=process.pid, verify=verify)
        finally:
            process.terminate()


def _coalesced(target: Target, callers: int, checks: int) -> Measured:
    """The centre's cost when callers of one process ask one by one through `edge.RemoteChecker`."""
    with h2load.on_core(h2load.cores()[1]):
        before = cpu_seconds(target.pid)
        seconds = uvloop.run(_ask_together(target.address, callers, checks))
        return Measured(checks / (cpu_seconds(target.pid) - before), checks / seconds)


async def _ask_together(address: str, callers: int, checks: int) -> float:
    seat = Train("G1", "O", "二等座")
    left = iter(range(checks))
    async with RemoteChecker(address, timeout_ms=10_000) as remote:

        async def caller() -> None:
            for number in left:
                answer = await remote.check(seat, DocumentType.RESIDENT_ID, resident_id(number))
                assert answer.reason is Reason.NOT_LISTED

        start = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(callers)))
        return time.perf_counter() - start
