"""What was true when, and everything an edge said meanwhile: each answer is held against the truth of its moment.

The truth knows, of each measure, when it was sent and when it was acknowledged, and the same of its lift. A question
has a moment of asking and a moment of answering. What was in force during all of that must not be denied by an edge
that says it knows; what was in force at no moment of it must not bar.

What an edge says it knows is its lag: "I hold all that was acknowledged up to now less the lag". The largest such claim
stands until the end of its life. So one false lag shows in the answers: nobody listed before it may be ALLOWED.
"""

import asyncio
import math
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import grpc
import grpc.aio

from checker.rpc.client import open_channel
from proto.checker.v1 import check_pb2 as pb
from proto.checker.v1 import check_pb2_grpc, edge_pb2, edge_pb2_grpc, filter_pb2
from tests.paths.importing import Importer
from tests.paths.people import add, flight, remove, resident_id
from tests.waiting import eventually

BATCH = 40
PAUSE_S = 0.04  # so that those who are watched get some of the processors
LOOK_S = 0.05  # likewise
CLEAR = range(20_000, 20_040)  # nobody ever lists these
_CLOCK_S = 0.002  # the lag is told in whole milliseconds


def person(number: int) -> str:
    """The `number`th person's resident ID. One that ends in 000 would need the name: it looks like a damaged table."""
    return _PEOPLE[number]


_PEOPLE = [number for number in map(resident_id, range(26_000)) if not number.endswith("000")]
_NEVER = math.inf


class Standing:
    """One person's measure in seconds of `time.monotonic`: may bar from `sent`, bars from `added`; so the lift."""

    __slots__ = ("added", "lift_sent", "lifted", "sent")

    def __init__(self, sent: float = _NEVER, added: float = _NEVER) -> None:
        self.sent = sent
        self.added = added
        self.lift_sent = _NEVER
        self.lifted = _NEVER


class Truth:
    """Who is listed when. `first` people are listed from the beginning, by `lines`; others by `add`."""

    def __init__(self, first: int = 0) -> None:
        self.of = {number: Standing(-_NEVER, -_NEVER) for number in range(1, first + 1)}
        self.of |= {number: Standing() for number in CLEAR}
        self._first = first
        self._sequence = first
        self._next = first

    def lines(self) -> Iterator[dict[str, object]]:
        """The feed of those listed from the beginning."""
        return (add(number, f"M{number}", person(number)) for number in range(1, self._first + 1))

    def sequence(self) -> int:
        """The feed's next number."""
        self._sequence += 1
        return self._sequence

    def listed(self) -> list[int]:
        """Who is listed now."""
        return [number for number, one in self.of.items() if one.added < _NEVER and one.lift_sent == _NEVER]

    async def add(self, importer: Importer, count: int = 1) -> list[int]:
        """List so many more, acknowledged when this returns."""
        people = [self._next + place for place in range(1, count + 1)]
        self._next += count
        lines = [add(self.sequence(), f"M{number}", person(number)) for number in people]
        sent = time.monotonic()
        self.of |= {number: Standing(sent) for number in people}
        acknowledged = await importer.send(*lines)
        for number in people:
            self.of[number].added = acknowledged
        return people

    async def lift(self, importer: Importer, *people: int) -> None:
        """Lift these, acknowledged when this returns."""
        lines = [remove(self.sequence(), f"M{number}") for number in people]
        sent = time.monotonic()
        for number in people:
            self.of[number].lift_sent = sent
        acknowledged = await importer.send(*lines)
        for number in people:
            self.of[number].lifted = acknowledged

    def go_back(self, lost: Sequence[int], lifted: Sequence[int]) -> None:
        """To a backup from before these were listed, and those lifted."""
        for number in lost:
            self.of[number] = Standing()
        for number in lifted:
            self.of[number] = Standing(-_NEVER, -_NEVER)
        self._sequence -= len(lost) + len(lifted)


class Said(NamedTuple):
    """One answer: about whom, when asked, when it came."""

    person: int
    at: float
    came: float
    outcome: pb.Outcome
    reason: pb.Reason
    source: pb.AnsweredBy
    stale: bool

    def __str__(self) -> str:
        outcome, reason = pb.Outcome.Name(self.outcome), pb.Reason.Name(self.reason)
        source = pb.AnsweredBy.Name(self.source)
        words = [word.partition("_")[2] for word in (outcome, reason)] + [source.removeprefix("ANSWERED_BY_")]
        return f"person {self.person} {' '.join(words)}{' STALE_DATA' if self.stale else ''}"


class Look(NamedTuple):
    """What an edge said of itself between two moments."""

    began: float
    ended: float
    status: filter_pb2.EdgeStatus

    @property
    def lag(self) -> float:
        """In seconds; inf: it has no filter."""
        status = self.status
        return status.lag.seconds + status.lag.nanos / 1e9 if status.HasField("lag") else _NEVER

    @property
    def claim(self) -> float:
        """It says it holds all that was acknowledged before this."""
        return self.began - self.lag


class Witness:
    """Asks one edge about everybody, without pause, and looks at its status, until the end of the block.

    `fresh`: the edge's own limit in seconds, beyond which it must not clear anybody by itself without a remark.
    """

    def __init__(self, address: str, truth: Truth, *, callers: int = 2, fresh: float = 60.0) -> None:
        self.answers: list[Said] = []
        self.looks: list[Look] = []
        self.failures: list[str] = []
        self._address = address
        self._truth = truth
        self._fresh = fresh
        self._rounds = [0] * callers
        self._stop = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Witness":
        self._tasks = [asyncio.create_task(self._ask(number)) for number in range(len(self._rounds))]
        self._tasks.append(asyncio.create_task(self._look()))
        await self.until("it is looked at", lambda: bool(self.looks))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)

    # Asking

    async def _ask(self, number: int) -> None:
        async with open_channel(self._address) as channel:
            stub = check_pb2_grpc.CheckServiceStub(channel)
            place = number * BATCH // 2
            while not self._stop:
                people = list(self._truth.of)
                if place >= len(people):
                    place = 0
                    self._rounds[number] += 1
                asked = people[place : place + BATCH]
                place += BATCH
                await self._batch(stub, asked)

    async def _batch(self, stub: "check_pb2_grpc.CheckServiceAsyncStub", asked: Sequence[int]) -> None:
        batch = pb.BatchCheckRequest(items=[flight(person(number)) for number in asked])
        at = time.monotonic()
        try:
            response = await stub.BatchCheck(batch, timeout=60, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            self.failures.append(f"{error.code().name}: {error.details()}")
            await asyncio.sleep(0.05)
            return
        came = time.monotonic()
        for who, one in zip(asked, response.items, strict=True):
            stale = pb.ADVISORY_STALE_DATA in one.advisory
            self.answers.append(Said(who, at, came, one.outcome, one.reason, one.answered_by, stale))
        await asyncio.sleep(PAUSE_S)

    async def _look(self) -> None:
        async with open_channel(self._address) as channel:
            stub = edge_pb2_grpc.EdgeServiceStub(channel)
            while not self._stop:
                began = time.monotonic()
                try:
                    response = await stub.GetStatus(edge_pb2.GetStatusRequest(), timeout=60, wait_for_ready=True)
                except grpc.aio.AioRpcError as error:
                    self.failures.append(f"status {error.code().name}: {error.details()}")
                else:
                    self.looks.append(Look(began, time.monotonic(), response.status))
                await asyncio.sleep(LOOK_S)

    # Waiting

    async def until(self, what: str, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        """Wait for something to show."""
        await eventually(condition, seconds, 0.02, lambda: f"not within {seconds:g} s: {what}; last {self.last.status}")

    async def rounds(self, count: int = 1) -> None:
        """Wait until everybody was asked about so many more times."""
        goals = [done + count + 1 for done in self._rounds]
        await self.until("rounds", lambda: all(map(int.__ge__, self._rounds, goals)))

    async def in_step(self, seconds: float = 60.0) -> float:
        """Wait until the edge hears its centre and nothing is UNKNOWN any more; how many seconds that took."""
        start = time.monotonic()
        await self.until("it hears its centre", lambda: self.hears(start), seconds)
        while True:
            seen = len(self.answers)
            await self.rounds()
            if not any(one.outcome == pb.OUTCOME_UNKNOWN for one in self.answers[seen:]):
                return time.monotonic() - start
            assert time.monotonic() < start + seconds, f"UNKNOWN for {seconds:g} s: {self.last.status}"

    def hears(self, since: float) -> bool:
        """Whether it said after that moment that it knows all that was acknowledged by then."""
        look = self.last
        return look.claim > since and look.status.centre == filter_pb2.CENTRE_STATE_REACHABLE

    @property
    def last(self) -> Look:
        """What it said of itself most lately."""
        return self.looks[-1]

    # Judging

    def since(self, moment: float) -> list[Said]:
        """Answers to questions put after that moment."""
        return [one for one in self.answers if one.at >= moment]

    def outcomes(self, people: Sequence[int], since: float = -_NEVER) -> Counter[str]:
        """What was said about these, as words."""
        wanted = set(people)
        return Counter(
            pb.Outcome.Name(one.outcome).removeprefix("OUTCOME_")
            for one in self.answers
            if one.person in wanted and one.at >= since
        )

    def wrong(self) -> list[str]:
        """Every answer that was not right at its moment, with the reason; and calls that failed."""
        claims: list[float] = []
        best = -_NEVER
        for look in self.looks:
            best = max(best, look.claim - _CLOCK_S)
            claims.append(best)
        ends = [look.ended for look in self.looks]
        found: list[str] = []
        for one in self.answers:
            seen = bisect_right(ends, one.at)
            found += self._wrong(one, claims[seen - 1] if seen else -_NEVER)
        unknown = {one.person for one in self.answers if one.outcome == pb.OUTCOME_UNKNOWN and one.person in CLEAR}
        if self._is_fresh() and len(unknown) > 1:  # one may be a false positive of the filter
            found.append(f"UNKNOWN for {len(unknown)} whom a fresh filter clears")
        return found[:20] + self.failures

    def _wrong(self, one: Said, claim: float) -> Iterator[str]:
        standing = self._truth.of[one.person]
        if one.outcome == pb.OUTCOME_BARRED:
            if one.came < standing.sent:
                yield f"{one}: is not listed"
            if one.at >= standing.lifted:
                yield f"{one}: was lifted {one.at - standing.lifted:.3f} s before"
            if one.source != pb.ANSWERED_BY_INDEX:
                yield f"{one}: not from the index"
        elif one.outcome == pb.OUTCOME_ALLOWED:
            listed = one.at - standing.added
            if one.came > standing.lift_sent or listed < 0:
                return
            if standing.added <= claim:
                yield f"{one}: listed {listed:.3f} s before, and the edge had said it knew that"
            elif not one.stale and listed > self._fresh + 1:
                yield f"{one}: listed {listed:.3f} s before, the edge's data were no longer fresh"
        elif one.outcome != pb.OUTCOME_UNKNOWN:
            yield f"{one}: no outcome of such a question"

    def _is_fresh(self) -> bool:
        return all(look.lag < self._fresh - 1 for look in self.looks)
