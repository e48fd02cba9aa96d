"""A second opinion on locust's percentiles: a small open-loop prober on grpc.aio, in a process of its own.

gRPC's maintainers do not recommend its gevent mode, and a busy loader delays its own calls. So while locust drives the
load, this process makes the same kind of orders at a low rate that follows the same profile (else the two would weigh a
sale opening differently), by another implementation of client and event loop, and `compare` says where they disagree:
where locust's percentile lies outside the range in which the prober's true percentile lies with 99 % confidence (from
the ranks of its own calls, so few calls make a wide range), widened by TOLERANCE and SLACK_MS, since the two differ a
little in what they send.

    python -m loadtest.probe --target ADDR --people people.csv --sla FILE --rate 20 --seconds 60 --out probe.json
"""

import argparse
import asyncio
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from loadtest import sla as slas
from loadtest.channels import Tls, add_options
from loadtest.measured import Recorder, Series, matched
from loadtest.workload import BATCH, CHECK, PROFILES, STREAM, Item, Order, People, batch_request, orders, with_item_id
from proto.checker.v1 import check_pb2 as pb

TOLERANCE = 0.25
"""Share by which the two may differ beyond the range."""
SLACK_MS = 1.0
"""Milliseconds by which they may differ beside it: a process more on a busy core."""
PERCENTILES = (50.0, 95.0, 99.0)
_Z = 2.576  # 99 % of a normal distribution lie within as many standard deviations
_LEAD_S = 0.2
_WAIT_S = 120.0


class Opinion(NamedTuple):
    """One percentile as locust and as the prober saw it, milliseconds; `low` to `high`: what would agree."""

    percentile: float
    locust_ms: float
    probe_ms: float
    low_ms: float
    high_ms: float

    @property
    def agrees(self) -> bool:
        """Whether locust's figure lies in the range."""
        return self.low_ms <= self.locust_ms <= self.high_ms


def compare(locust: Recorder, probe: Recorder) -> list[Opinion]:
    """Both on the calls that both made most of; percentiles that rest on fewer than ten of the prober's calls are left
    out."""
    shared = [key for key in probe.series if key in locust.series]
    if not shared:
        return []
    key = max(shared, key=lambda each: probe.series[each].calls)
    mine, theirs = probe.series[key], locust.series[key]
    opinions = []
    for percentile in PERCENTILES:
        if mine.calls * (1 - percentile / 100) < 10:
            continue
        low, high = _range_ms(mine, percentile)
        opinions.append(
            Opinion(
                percentile,
                _ms(theirs, percentile),
                _ms(mine, percentile),
                max(0.0, low * (1 - TOLERANCE) - SLACK_MS),
                high * (1 + TOLERANCE) + SLACK_MS,
            )
        )
    return opinions


def _ms(series: Series, percentile: float) -> float:
    return (series.percentile_us(percentile) or 0.0) / 1000


def _range_ms(series: Series, percentile: float) -> tuple[float, float]:
    """Where the true percentile lies: the calls whose ranks are 2.6 standard deviations of a binomial away."""
    share, calls = percentile / 100, series.calls
    spread = _Z * math.sqrt(share * (1 - share) / calls)
    return _ms(series, max(0.0, share - spread) * 100), _ms(series, min(1.0, share + spread) * 100)


# --------------------------------------------------------------------------------------------------------------------
# The process
# --------------------------------------------------------------------------------------------------------------------


class _Prober:
    def __init__(self, targets: Sequence[str], deadline_s: float, tls: Tls) -> None:
        self.recorder = Recorder()
        self._deadline_s = deadline_s
        self._calls: list[dict[str, Any]] = []
        for target in targets:
            channel = tls.aio_channel(target)
            service = "/checker.v1.CheckService/"
            self._calls.append(
                {
                    CHECK: channel.unary_unary(service + CHECK),
                    BATCH: channel.unary_unary(service + BATCH),
                    STREAM: channel.stream_stream(service + STREAM),
                }
            )
        self._turn = 0

    async def run(self, schedule: Iterator[Order]) -> None:
        """Every order at its time, however many are in flight: the rate is low."""
        start = time.perf_counter() + _LEAD_S
        async with asyncio.TaskGroup() as tasks:
            for order in schedule:
                due = start + order.at_s
                if (left := due - time.perf_counter()) > 0:
                    await asyncio.sleep(left)
                parts = [(item,) for item in order.items] if order.rpc == CHECK else [order.items]
                for items in parts:
                    tasks.create_task(self._ask(order, items, start, due))

    async def _ask(self, order: Order, items: Sequence[Item], start: float, due: float) -> None:
        self._turn += 1
        call = self._calls[self._turn % len(self._calls)][order.rpc]
        try:
            if order.rpc == STREAM:
                requests = [with_item_id(item.request, str(place)) for place, item in enumerate(items)]
                received = [answer async for answer in call(iter(requests), timeout=self._deadline_s)]
            else:
                body = items[0].request if order.rpc == CHECK else batch_request(items)
                received = [await call(body, timeout=self._deadline_s)]
        except grpc.RpcError as error:
            ended = time.perf_counter()
            self.recorder.failed(
                order.tenant, order.rpc, (ended - due) * 1e6, ended - start, len(items), error.code().name
            )
            return
        ended = time.perf_counter()
        answers: Sequence[pb.CheckResponse]
        if order.rpc == BATCH:
            answers = list(pb.BatchCheckResponse.FromString(received[0]).items)
        else:
            answers = [pb.CheckResponse.FromString(each) for each in received]
        if order.rpc == STREAM:
            items, answers = matched(items, answers)
        outcomes = [answer.outcome for answer in answers]
        self.recorder.answered(order.tenant, order.rpc, (ended - due) * 1e6, ended - start, items, outcomes)


async def _probe(args: argparse.Namespace, sla: slas.Sla, people: People) -> Recorder:
    prober = _Prober(args.target.split(","), sla.deadline_ms / 1000, Tls.of(args))
    schedule = orders(
        people,
        sla.tenants,
        rate_per_s=args.rate,
        seconds=args.seconds,
        seed=f"probe {args.seed}",
        profile=args.load_profile,
    )
    await prober.run(schedule)
    prober.recorder.seconds = args.seconds
    return prober.recorder


def _wait(told: Path) -> None:
    """Wait until locust has told when its schedule starts, and until then. Raises TimeoutError."""
    until = time.monotonic() + _WAIT_S
    while not told.exists() or not (first := told.read_text("utf-8").partition("\n"))[1]:
        if time.monotonic() > until:
            raise TimeoutError(f"{told} says nothing")
        time.sleep(0.05)
    time.sleep(max(0.0, json.loads(first[0])["start_at"] - time.time()))


def main() -> int:
    """Probe and write what was measured."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.probe", description="A low rate by grpc.aio.")
    parser.add_argument("--target", required=True, metavar="ADDR[,ADDR]")
    parser.add_argument("--people", required=True, type=Path, metavar="FILE")
    parser.add_argument("--sla", required=True, type=Path, metavar="FILE")
    parser.add_argument("--rate", required=True, type=float, metavar="R", help="checks per second")
    parser.add_argument("--seconds", required=True, type=float, metavar="S")
    parser.add_argument("--load-profile", default="steady", choices=PROFILES, help="how locust's rate changes")
    parser.add_argument("--seed", default="1")
    add_options(parser.add_argument)
    parser.add_argument("--after", type=Path, metavar="FILE", help="locust's progress: start when it does")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE")
    args = parser.parse_args()
    sla, people = slas.read(args.sla), People.read(args.people)
    if args.after is not None:
        _wait(args.after)
    recorder = asyncio.run(_probe(args, sla, people))
    args.out.write_text(json.dumps(recorder.to_json()), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
