"""Where the capacity plan's costs come from: results of `make bench`, or a quick look at a stand on this machine.

A measurement drives a checker with an embedded index by calls of one kind, and takes the processor time of the
checker's processes and of its Redis from the kernel, so that a busy machine disturbs little. Rounds of all kinds
alternate, figures are medians. What neither says is the figure of docs/performance.md or, where that has none, assumed;
the plan tells which is which.
"""

import asyncio
import contextlib
import itertools
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import psutil

from loadtest.capacity import Costs, Predicted, predict
from loadtest.drive import Plan, drive
from loadtest.meter import Group
from loadtest.sla import read as read_sla
from loadtest.stand import Stand, StandFailed
from loadtest.workload import BATCH, BY_NAME, CHECK, Item, People, batch_request, orders
from proto.checker.v1 import check_pb2 as pb

_BENCH: dict[str, tuple[str, Callable[[float], float]]] = {
    "EdgeClient.check to a filter miss": ("in_process_us", float),
    "unary check, server CPU": ("unary_us", float),
    "check in a batch of 100, server CPU": ("batch_us", float),
    "coalesced, 80 in flight": ("coalesced_us", lambda per_cpu_s: 1e6 / per_cpu_s),
    "memory, all told": ("key_bytes", float),
}
"""Names of bench rows -> the cost they give, and how."""
PERFORMANCE = Path(__file__).parent.parent / "docs" / "performance.json"
"""The results behind docs/performance.md; in a checkout only."""

_PEOPLE = 5_000
_ROUNDS = 3
_IN_FLIGHT = 32
_PAUSE_S = 0.01
_SLA = """\
name = "capacity"
about = "What the plan predicts, measured"
[workload]
tenants = ["rail"]
profile = "steady"
rate = 100
seconds = 10
loop = "open"
warmup_s = 1
deadline_ms = 5000
[[target]]
error_share = 0.05
"""
_SEED = "capacity"


class BadCosts(ValueError):
    """A file that holds no results of `make bench`; the text says why."""


@dataclass(frozen=True)
class Known:
    """Costs, and in words where each comes from."""

    costs: Costs
    sources: dict[str, str]

    @classmethod
    def defaults(cls) -> "Known":
        """Those of docs/performance.md, `default`, and where it has none, or is not there, `assumed` ones."""
        assumed = cls(Costs(), dict.fromkeys(Costs._fields, "assumed"))
        return assumed.replaced(read(PERFORMANCE), "default") if PERFORMANCE.exists() else assumed

    def replaced(self, found: dict[str, float], source: str) -> "Known":
        """With newer ones."""
        return Known(self.costs._replace(**found), self.sources | dict.fromkeys(found, source))


def read(path: Path) -> dict[str, float]:
    """The costs that a results file of `make bench` holds. Raises BadCosts, OSError."""
    try:
        rows = json.loads(path.read_text("utf-8"))
        found = {}
        for row in rows:
            if row["name"] in _BENCH and row["value"] is not None:
                name, change = _BENCH[row["name"]]
                if not (math.isfinite(row["value"]) and row["value"] > 0):
                    raise BadCosts(f"{row['name']!r} is {row['value']}; a cost is above 0")
                found[name] = change(row["value"])
    except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError):
        raise BadCosts("is no results file of `make bench`") from None
    if not found:
        raise BadCosts(f"holds none of the figures that are needed: {', '.join(_BENCH)}")
    if "unary_us" in found:  # the bench keeps many calls in flight; the usual proportion to a single one
        found["unary_alone_us"] = found["unary_us"] * Costs().unary_alone_us / Costs().unary_us
    return found


# --------------------------------------------------------------------------------------------------------------------
# Measured at a stand
# --------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def standing() -> Iterator["Bench"]:
    """A checker with an embedded index and some thousand people on loopback. Raises StandFailed."""
    with tempfile.TemporaryDirectory(prefix="xx-") as made, Stand(Path(made), people=_PEOPLE) as stand:
        yield Bench(stand)


class Bench:
    """What is measured at one stand."""

    def __init__(self, stand: Stand) -> None:
        self._stand = stand
        self._people = People.read(stand.people)
        self._checker = Group((stand.centre.pid,))
        self._redis = Group(tuple(_servers_of(stand.folder)))

    def costs(self, calls: int = 1000) -> dict[str, float]:
        """Measure; some ten seconds. Answers are compared with the right ones. Raises StandFailed."""
        clear, listed = self._clear(500), self._listed()
        idle_s = self._idle()
        rounds: dict[str, list[float]] = {}
        redis: dict[str, list[float]] = {}
        kinds: tuple[tuple[str, Sequence[Item], int, int, int], ...] = (
            ("unary", clear, 1, _IN_FLIGHT, calls),
            ("alone", clear, 1, 0, 100),
            ("batch", clear, 100, 4, calls // 10),
            ("listed", listed, 100, 4, calls // 30),
        )
        for turn in range(_ROUNDS + 1):
            for name, items, size, in_flight, count in kinds:
                own, theirs = self._spent(items, size, in_flight, count, idle_s)
                if turn:  # the first warms up
                    rounds.setdefault(name, []).append(own)
                    redis.setdefault(name, []).append(theirs)
        middle = {name: statistics.median(each) for name, each in rounds.items()}
        return {
            "unary_us": middle["unary"],
            "unary_alone_us": max(middle["unary"], middle["alone"]),
            "batch_us": middle["batch"],
            "lookup_us": max(1.0, middle["listed"] - middle["batch"]),
            "idle_cores": idle_s,
            "redis_us": max(0.1, statistics.median(redis["listed"])),
        }

    def validate(self, costs: Costs, rates: Sequence[float], seconds: float) -> list["Compared"]:
        """Drive each rate as an open loop, by locust, and compare what a check cost with what was predicted.

        Raises DriveFailed, Unreachable.
        """
        found = []
        tenant = BY_NAME["rail"]
        sla = self._stand.folder / "capacity.toml"
        sla.write_text(_SLA, "utf-8")
        for number, rate in enumerate(rates):
            out = self._stand.folder / f"rate-{number}"
            out.mkdir()
            idle_s = self._idle()
            driven = drive(
                Plan(
                    sla=read_sla(sla),
                    sla_file=sla,
                    targets=(self._stand.centre.address,),
                    people=self._stand.people,
                    rate=rate,
                    seconds=seconds,
                    seed=_SEED,
                    probe=False,
                    pids=(self._stand.centre.pid,),
                ),
                out,
            )
            whole = driven.recorder.select()
            asked = driven.checks / driven.recorder.seconds
            measured = (driven.server_cpu_us or 0.0) - idle_s / asked * 1e6
            calls = whole.calls / whole.checks
            found.append(Compared(rate, asked, predict(asked, calls, tenant.hit_share, costs), measured, whole.wrong))
        return found

    def _idle(self, seconds: float = 3.0) -> float:
        """Processor seconds that the checker spends each second when nobody asks."""
        before = _cpu(self._checker)
        time.sleep(seconds)
        return (_cpu(self._checker) - before) / seconds

    def _spent(
        self, items: Sequence[Item], size: int, in_flight: int, calls: int, idle_s: float
    ) -> tuple[float, float]:
        """Microseconds per check of the checker, beside what it spends when idle, and of Redis."""
        own, theirs, start = _cpu(self._checker), _cpu(self._redis), time.perf_counter()
        asyncio.run(_drive(self._stand.centre.address, items, size, in_flight, calls))
        checks = calls * size / 1e6
        spent = _cpu(self._checker) - own - idle_s * (time.perf_counter() - start)
        return spent / checks, (_cpu(self._redis) - theirs) / checks

    def _clear(self, count: int) -> list[Item]:
        """Checks on rail that the index need not answer."""
        rail = BY_NAME["rail"]._replace(hit_share=0.0, invalid_share=0.0)
        made = orders(self._people, (rail,), rate_per_s=1000, seconds=60, seed=_SEED)
        return list(itertools.islice((item for order in made for item in order.items), count))

    def _listed(self) -> list[Item]:
        rows = self._people.kinds["train"]
        return [*rows.barred, *rows.looked_up]


@dataclass(frozen=True)
class Compared:
    """One rate: predicted and measured microseconds of the checker per check."""

    rate: float  # checks per second that were intended
    asked: float  # that were asked
    predicted: Predicted
    measured_us: float
    wrong: int

    @property
    def error(self) -> float:
        """The prediction's, as a share of what was measured; above 0 it was too high."""
        return self.predicted.us_per_check / self.measured_us - 1 if self.measured_us > 0 else math.nan


def _cpu(group: Group) -> float:
    """Processor seconds, in nanoseconds where the kernel tells: the meter's clock ticks are too coarse for a round."""
    spent = 0
    for pid in group.roots:
        with contextlib.suppress(psutil.Error):
            for process in (root := psutil.Process(pid), *root.children(recursive=True)):
                for file in Path(f"/proc/{process.pid}/task").glob("*/schedstat"):
                    with contextlib.suppress(OSError):
                        spent += int(file.read_text().split()[0])
    return spent / 1e9 if spent else group.read()[0]


def _servers_of(folder: Path) -> Iterator[int]:
    """The stand's own Redis, which belongs to a supervisor: known by its working directory."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "-server" in process.name() and Path(process.cwd()).is_relative_to(folder):
                yield process.pid


async def _drive(address: str, items: Sequence[Item], size: int, in_flight: int, calls: int) -> None:
    """Make the calls, each when one before it was answered; compares the outcomes. Raises StandFailed.

    `in_flight` 0: one at a time, with a pause in which the worker falls asleep and other work takes its caches.
    """
    turn = itertools.cycle(items)
    groups = [list(itertools.islice(turn, size)) for _ in range(min(calls, max(1, 2000 // size)))]
    bodies = [group[0].request if size == 1 else batch_request(group) for group in groups]
    left = iter(range(calls))
    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(f"/checker.v1.CheckService/{CHECK if size == 1 else BATCH}")

        async def caller() -> None:
            for number in left:
                place = number % len(bodies)
                if not in_flight:
                    await asyncio.sleep(_PAUSE_S)
                raw = await call(bodies[place], timeout=30)
                if number < len(bodies):
                    _compare(raw, groups[place])

        await asyncio.gather(*(caller() for _ in range(max(1, in_flight))))


def _compare(raw: bytes, items: Sequence[Item]) -> None:
    answers = (
        [pb.CheckResponse.FromString(raw)] if len(items) == 1 else list(pb.BatchCheckResponse.FromString(raw).items)
    )
    said = [pb.Outcome.Name(answer.outcome).removeprefix("OUTCOME_") for answer in answers]
    if any(word not in (item.expected, "UNKNOWN") for word, item in zip(said, items, strict=True)):
        raise StandFailed("the checker answered wrongly while costs were measured: `loadtest run --stand` shows where")
