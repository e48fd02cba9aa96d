"""The road to the centre: batches of questions over CheckService.BatchCheck, to whichever address answers.

All addresses of a centre front the same index and checks only read, so any address may be asked, and asked again. What
keeps that from making trouble worse:

- **Deadline**: the caller's, at most `timeout_s`. Nothing here outlives it.
- **Order**: addresses are tried as they were named, the nearest first. Each has several connections, taken in turn, so
  that several workers of the centre are met.
- **Breaker**, one per address: after a few failures in a row it is not asked for a jittered pause, then by one batch as
  a probe; each failed probe doubles the pause. With all shut the answer is "unreachable", at once.
- **Hedge**: when the answer is later than 95 % of recent ones, the batch goes to a second address as well, the first
  good answer wins and the other call is cancelled. At most one call in twenty, probes aside.
- **Retry**: a call that died with its connection (UNAVAILABLE, CANCELLED) is made once more, at another address if
  there is one. At most one call in ten, probes aside; gRPC's own retries are off for these channels.

Failures are values: an answer or a `CentreFailed` for each question. What the centre refuses needs a person: it is
logged, and stands among the edge's alarms until the centre has answered without it for a minute.
"""

import asyncio
import logging
import random
from bisect import insort
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import grpc.aio
from google.protobuf.message import DecodeError

from checker.core.decision import Advisory, AnsweredBy, Outcome, Reason
from checker.core.freshness import AsOf
from checker.core.stand_in import Failure
from edge.centre import Centre
from edge.question import CentreFailed, Question, Verdict
from proto.checker.v1 import check_pb2 as pb
from proto.checker.v1 import filter_pb2

Q = TypeVar("Q")
A = TypeVar("A")
TIMEOUT_S = 0.1
CONNECTIONS = 2
HEDGE_SHARE, HEDGE_BURST = 0.05, 5.0
RETRY_SHARE, RETRY_BURST = 0.10, 10.0
HEDGE_FLOOR_S = 0.003
FAILURES_TO_SHUT = 3
PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0
ALARM_S = 60.0
_METHOD = "/checker.v1.CheckService/BatchCheck"
_LATENCIES = 128
_log = logging.getLogger("edge.remote")

_SHUTTING = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})
_BROKEN = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
_REMEDIES = {
    grpc.StatusCode.PERMISSION_DENIED: "give this edge's certificate, in the centre's roles file, the role edge and "
    "every kind of purchase it is to ask about",
    grpc.StatusCode.UNAUTHENTICATED: "give this edge a client certificate that the centre accepts",
    grpc.StatusCode.UNIMPLEMENTED: "what listens there is not a checker: correct the centre's address",
    grpc.StatusCode.INVALID_ARGUMENT: "edge and centre differ in their version of the contract: upgrade the older one",
}
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Budget:
    """A token bucket that calls fill: `share` of them may be spent on more, `burst` at once."""

    __slots__ = ("_burst", "_share", "_tokens")

    def __init__(self, share: float, burst: float) -> None:
        self._share = share
        self._burst = self._tokens = burst

    def earn(self) -> None:
        """One call more was made on somebody's behalf."""
        self._tokens = min(self._burst, self._tokens + self._share)

    def spend(self) -> bool:
        """Whether one more call may be made on our own."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Latencies:
    """The 95th percentile of the last calls, in seconds; `unknown` until there are some."""

    __slots__ = ("_floor", "_recent", "_sorted", "_unknown")

    def __init__(self, floor: float, unknown: float) -> None:
        self._floor = floor
        self._unknown = unknown
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, seconds: float) -> None:
        """One call was answered after so long."""
        self._recent.append(seconds)
        insort(self._sorted, seconds)
        if len(self._recent) > _LATENCIES:
            self._sorted.remove(self._recent.popleft())

    @property
    def p95(self) -> float:
        """Never below the floor."""
        count = len(self._sorted)
        if count < 20:
            return self._unknown
        return max(self._floor, self._sorted[count * 95 // 100])


class _Missed(NamedTuple):
    """A call without an answer."""

    failure: Failure
    code: grpc.StatusCode | None  # None: an answer that cannot be read
    text: str


class _Address:
    """One address: its connections, and its breaker. Open while `shut_until` is 0."""

    def __init__(self, name: str, connections: int) -> None:
        self.name = name
        self.shut_until = 0.0
        self._connections = connections
        self._calls: list[Any] = []
        self._turn = 0
        self._failures = 0
        self._pause = PAUSE_S
        self._probing = False

    def usable(self, now: float) -> bool:
        """Whether a call may be made: the breaker is open, or it is time for a probe."""
        return not self.shut_until or (now >= self.shut_until and not self._probing)

    def enter(self) -> bool:
        """A call begins, `usable` having said yes; whether it is a probe."""
        self._probing = bool(self.shut_until)
        return self._probing

    def call(self, centre: Centre, raw: bytes, timeout: float) -> Any:
        """The call itself, on the next connection."""
        if not self._calls:
            self._calls = [
                centre.channel(self.name, f"check {number}").unary_unary(_METHOD) for number in range(self._connections)
            ]
        self._turn = (self._turn + 1) % self._connections
        return self._calls[self._turn](raw, timeout=timeout)

    def answered(self) -> None:
        """It answers: whatever was held against it is forgotten."""
        if self.shut_until:
            _log.info("an address of the centre answers again", extra={"address": self.name})
        self.shut_until, self._failures, self._pause, self._probing = 0.0, 0, PAUSE_S, False

    def failed(self, now: float, *, probe: bool) -> None:
        """It did not: a few of these in a row, or one as a probe, and it is left alone for a while."""
        self._failures += 1
        if probe or self._failures >= FAILURES_TO_SHUT:
            self.back_off(now, probe=probe)

    def back_off(self, now: float, *, probe: bool) -> None:
        """Leave it alone, longer each time. What was sent before the breaker shut does not shut it again."""
        if self.shut_until and not probe:
            return
        if not self.shut_until:
            _log.warning("an address of the centre is left alone for a while", extra={"address": self.name})
        self.shut_until = now + self._pause * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        self._pause = min(LONGEST_PAUSE_S, self._pause * 2)
        self._probing = False

    def heard(self, now: float) -> None:
        """Its centre was heard of by another way: the pause is over."""
        self.shut_until = min(self.shut_until, now)


class Known(Protocol):
    """What is known of the centre by other ways, and where its operator's alarms are kept."""

    centre: filter_pb2.CentreState
    alarms: dict[str, str]


class Road(Generic[Q, A]):
    """See the module. `send` is what `exact.Coalescer` sends with.

    `request`: questions as a serialised BatchCheckRequest; `read`: an answer that is no error, in the asker's terms.
    """

    def __init__(
        self,
        centre: Centre,
        live: Known,
        request: Callable[[Sequence[Q]], bytes],
        read: Callable[[pb.CheckResponse], A],
        *,
        timeout_s: float = TIMEOUT_S,
        connections: int = CONNECTIONS,
    ) -> None:
        self.calls = 0
        self.hedges = 0
        self.retries = 0
        self._centre = centre
        self._live = live
        self._request = request
        self._read_one = read
        self._timeout_s = timeout_s
        self._addresses = [_Address(name, connections) for name in centre.addresses]
        self._hedge_budget = Budget(HEDGE_SHARE, HEDGE_BURST)
        self._retry_budget = Budget(RETRY_SHARE, RETRY_BURST)
        self._latencies = Latencies(HEDGE_FLOOR_S, timeout_s / 4)
        self._was_reachable = False
        self._alarmed: dict[str, float] = {}  # what our alarms are about -> when last raised

    async def send(self, questions: Sequence[Q], deadline: float) -> list[A | CentreFailed]:
        """An answer or a failure for each of 1 to 1000 questions, in order, by `deadline` (`loop.time()`)."""
        now = asyncio.get_running_loop().time()
        until = min(deadline, now + self._timeout_s)
        self._listen(now)
        first = self._choose(now, None)
        if first is None:
            return self._fail(questions, Failure.UNREACHABLE, "no address of the centre answers")
        if until <= now:
            return self._fail(questions, Failure.LATE, "no time is left to ask the centre")
        self.calls += 1
        self._hedge_budget.earn()
        self._retry_budget.earn()
        answers = await self._ask(first, self._request(questions), len(questions), until)
        if isinstance(answers, _Missed):
            return self._fail(questions, answers.failure, answers.text)
        return self._read(answers)

    # The calls

    async def _ask(self, first: _Address, raw: bytes, count: int, until: float) -> Sequence[pb.CheckResponse] | _Missed:
        """The first good answer to a call, its hedge and its retry; else how the last of them failed."""
        probing = bool(first.shut_until)  # bounded by its pause, so its hedge and its retry cost no budget
        if len(self._addresses) == 1:
            answer = await self._call(first, raw, count, until, probe=first.enter())
        else:
            answer = await self._hedged(first, raw, count, until)
        if not isinstance(answer, _Missed):
            return answer
        now = asyncio.get_running_loop().time()
        again = self._again(answer, first, now) if now < until else None
        if again is None or not (probing or self._retry_budget.spend()):
            return answer
        self.retries += 1
        return await self._call(again, raw, count, until, probe=again.enter())

    async def _hedged(
        self, first: _Address, raw: bytes, count: int, until: float
    ) -> Sequence[pb.CheckResponse] | _Missed:
        """The first good answer to a call and, if that is later than usual, to one at another address."""
        loop = asyncio.get_running_loop()
        probing = bool(first.shut_until)
        began = loop.time()
        hedge_at = min(until, began + self._latencies.p95)

        def start(address: _Address) -> "asyncio.Task[Sequence[pb.CheckResponse] | _Missed]":
            return loop.create_task(self._call(address, raw, count, until, probe=address.enter()))

        first_call = start(first)
        calls = {first_call}
        try:
            done, calls = await asyncio.wait(calls, timeout=hedge_at - loop.time())
            if not done:
                second = self._choose(loop.time(), first)
                if second is not None and (probing or self._hedge_budget.spend()):
                    self.hedges += 1
                    calls.add(start(second))
                done, calls = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            while True:
                answers = [task.result() for task in done]
                good = next((answer for answer in answers if not isinstance(answer, _Missed)), None)
                if good is not None and first_call in calls:
                    # It took at least so long. Left out, the 95th percentile would be that of the quick calls alone,
                    # ever more calls would count as late, and the budget would be spent before an address hangs.
                    self._latencies.add(loop.time() - began)
                if good is not None or not calls:
                    return good if good is not None else answers[0]
                done, calls = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in calls:
                task.cancel()

    def _again(self, missed: _Missed, asked: _Address, now: float) -> _Address | None:
        """Where to ask once more after such a failure; None: nowhere."""
        if missed.code in _BROKEN:
            return self._choose(now, asked) or (asked if asked.usable(now) else None)
        if missed.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return self._choose(now, asked)
        return None

    async def _call(
        self, address: _Address, raw: bytes, count: int, until: float, *, probe: bool
    ) -> Sequence[pb.CheckResponse] | _Missed:
        """One call: its answers, or how it failed; the address's breaker learns of either."""
        time = asyncio.get_running_loop().time
        start = time()
        allowed = until - start
        try:
            answers = pb.BatchCheckResponse.FromString(await address.call(self._centre, raw, allowed)).items
        except asyncio.CancelledError:  # another call won, or nobody waits any more
            if probe:
                address.failed(time(), probe=True)
            raise
        except grpc.aio.AioRpcError as error:
            return self._missed(address, error, allowed, probe=probe)
        except DecodeError:
            answers = None
        except grpc.aio.UsageError:  # the channel was closed
            return _Missed(Failure.UNREACHABLE, None, "the edge is closing")
        if answers is None or len(answers) != count:
            address.failed(time(), probe=probe)
            text = "the centre's answer cannot be read: upgrade whichever of edge and centre is older"
            self._alarm("centre answer", text)
            return _Missed(Failure.UNREACHABLE, None, text)
        self._latencies.add(time() - start)
        address.answered()
        return answers

    def _missed(self, address: _Address, error: grpc.aio.AioRpcError, allowed: float, *, probe: bool) -> _Missed:
        now = asyncio.get_running_loop().time()
        code = error.code()
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            # A caller in more of a hurry than we are says nothing against the centre.
            if probe or allowed >= self._timeout_s / 2:
                address.failed(now, probe=probe)
            return _Missed(Failure.LATE, code, "the centre did not answer in time")
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            address.back_off(now, probe=probe)
            return _Missed(Failure.UNREACHABLE, code, "the centre has no room for more questions")
        if code in _REMEDIES:
            address.answered()
            self._alarm(f"centre {code.name}", f"the centre refuses our questions, {code.name}: {_REMEDIES[code]}")
            return _Missed(Failure.UNREACHABLE, code, "the centre refuses our questions")
        if probe or code in _SHUTTING:
            address.failed(now, probe=probe)
        return _Missed(Failure.UNREACHABLE, code, "the centre cannot be reached")

    def _choose(self, now: float, besides: _Address | None) -> _Address | None:
        for address in self._addresses:
            if address is not besides and address.usable(now):
                return address
        return None

    def _listen(self, now: float) -> None:
        """When heartbeats arrive again the centre is worth asking, whatever the pauses say."""
        reachable = self._live.centre == filter_pb2.CENTRE_STATE_REACHABLE
        if reachable and not self._was_reachable:
            for address in self._addresses:
                address.heard(now)
        self._was_reachable = reachable

    # The answers

    def _read(self, answers: Sequence[pb.CheckResponse]) -> list[A | CentreFailed]:
        known: dict[bytes, A | CentreFailed] = {}  # the answers of a batch are mostly alike: equal ones are read once
        found: list[A | CentreFailed] = []
        for answer in answers:
            raw = answer.SerializeToString()
            said = known.get(raw)
            if said is None:
                said = known[raw] = self._refused(answer) if answer.HasField("error") else self._read_one(answer)
            found.append(said)
        if self._alarmed:
            self._drop_alarms()
        return found

    def _refused(self, answer: pb.CheckResponse) -> CentreFailed:
        code = _CODES.get(answer.error.code, grpc.StatusCode.UNKNOWN)
        remedy = _REMEDIES.get(code, "the centre's log says more")
        self._alarm(f"question {code.name}", f"the centre refuses a question, {code.name}: {remedy}")
        return CentreFailed(Failure.UNREACHABLE, f"the centre refuses this question, {code.name}")

    def _fail(self, questions: Sequence[Q], failure: Failure, text: str) -> list[A | CentreFailed]:
        if self._live.centre == filter_pb2.CENTRE_STATE_SIGNED_OFF:
            failure, text = Failure.SIGNED_OFF, "the centre has signed off"
        return [CentreFailed(failure, text) for _ in questions]

    def _alarm(self, about: str, text: str) -> None:
        if about not in self._alarmed:
            _log.error("an alarm: %s", text)
        self._alarmed[about] = asyncio.get_running_loop().time()
        self._live.alarms[about] = text

    def _drop_alarms(self) -> None:
        oldest = asyncio.get_running_loop().time() - ALARM_S
        for about in [about for about, raised in self._alarmed.items() if raised < oldest]:
            del self._alarmed[about]
            self._live.alarms.pop(about, None)


class Remote(Road[Question, Verdict]):
    """The road for an edge's questions."""

    def __init__(
        self, centre: Centre, live: Known, *, timeout_s: float = TIMEOUT_S, connections: int = CONNECTIONS
    ) -> None:
        super().__init__(centre, live, _request, verdict, timeout_s=timeout_s, connections=connections)


def _request(questions: Sequence[Question]) -> bytes:
    """A serialised BatchCheckRequest."""
    request = pb.BatchCheckRequest()
    add = request.items.add
    for question in questions:
        item = add()
        subject = item.subject
        key = subject.key
        key.key_id = question.key_id
        key.digest = question.key
        key.document_type = question.document_type  # type: ignore[assignment] # an open enum
        if question.name_required:
            key.name_required = True
        if question.name_key:
            subject.name_key = question.name_key
        item.purchase.MergeFromString(question.purchase)
        if question.act_ms:
            _set_time(item.act_time, question.act_ms)
        if question.service_ms:
            _set_time(item.service_time, question.service_ms)
        if question.min_feed_sequence:
            item.min_feed_sequence = question.min_feed_sequence
    return request.SerializeToString()


def _set_time(stamp: Any, ms: int) -> None:
    stamp.seconds, rest = divmod(ms, 1000)
    stamp.nanos = rest * 1_000_000


_OUTCOMES = {int(outcome): outcome for outcome in (Outcome.ALLOWED, Outcome.BARRED, Outcome.UNKNOWN)}
_REASONS = {int(reason): reason for reason in Reason}
_SOURCES = {int(source): source for source in AnsweredBy}
_ADVISORIES = {int(advisory): advisory for advisory in Advisory}
_PLAIN = {
    Outcome.ALLOWED: Reason.NOT_LISTED,
    Outcome.BARRED: Reason.MEASURE_IN_FORCE,
    Outcome.UNKNOWN: Reason.INDEX_UNREACHABLE,
}
"""The reason read where the centre gives one that this version does not know."""


def verdict(answer: pb.CheckResponse) -> Verdict:
    """A CheckResponse in core's terms. What this version does not know never bars and is never remembered.

    An outcome it does not know is UNKNOWN, and so is a BARRED that does not come from the exact index.
    """
    outcome = _OUTCOMES.get(answer.outcome, Outcome.UNKNOWN)
    source = _SOURCES.get(answer.answered_by, AnsweredBy.FILTER)
    if outcome is Outcome.BARRED and source is not AnsweredBy.INDEX:
        outcome = Outcome.UNKNOWN
    reason = _REASONS.get(answer.reason) if int(answer.outcome) == int(outcome) else None
    advisories = tuple([_ADVISORIES[one] for one in answer.advisory if one in _ADVISORIES]) if answer.advisory else ()
    if outcome is Outcome.ALLOWED and (reason is None or len(advisories) < len(answer.advisory)):
        source = AnsweredBy.FILTER  # there is more to it than we can read
    as_of = answer.data_as_of
    return Verdict(
        outcome,
        reason or _PLAIN[outcome],
        source,
        advisories,
        answer.decision_id,
        AsOf(
            as_of.feed_sequence,
            as_of.feed_time.seconds * 1000 + as_of.feed_time.nanos // 1_000_000,
            0,
            as_of.snapshot_epoch,
        ),
    )
