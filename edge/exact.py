"""The layers between `NeedExact` and the road to the centre, each an `Ask` over what lies below it.

- `VerdictCache` remembers for whom the exact index holds nothing although our filter says "perhaps": such a person is
  asked about again with every ticket. Nothing else is ever remembered; a refusal least of all.
- `SingleFlight` lets equal questions share one, as long as it has not been sent.
- `Coalescer` lets all questions of one event-loop tick share one call: the call is what costs.

A lift applies at once (design.md §1): an answer may be given only to whoever asked before its question left. That is
why `Coalescer` says when a batch leaves (`on_sent`) and `SingleFlight` lets nobody join from then on. And an addition
is never covered up: `VerdictCache` forgets a key as soon as the journal names it, and does not keep an answer that was
under way when it did.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import chain
from typing import Generic, NamedTuple, TypeVar

from checker import patience
from checker.core.stand_in import Age, Failure
from checker.wire import MAX_BATCH
from edge.live import Live
from edge.question import Ask, CentreFailed, Question, Verdict

Q = TypeVar("Q")
A = TypeVar("A")
Send = Callable[[Sequence[Q], float], Awaitable[Sequence[A | CentreFailed]]]
"""Ask questions together, to be answered by this event-loop time: an answer or a failure for each, in order."""

CACHE_KEYS = 65_536
CACHE_S = 300.0
BATCHES_IN_FLIGHT = 4
"""Few, so that under load batches grow instead of growing many."""
HALVED_FROM = 16
"""Questions of one tick that leave as two batches when none is under way. Each call costs as much as some twenty
questions, so two cost more than one, but then centre and edge both work, in place of waiting for each other."""
SHORTEST_S = 0.005
"""With less time left nobody is asked: the centre refuses less (`checker.rpc.interceptors.Limits.min_budget`)."""

_TIMER_S = 0.001
"""The event loop's timers may be early by so much."""


class _Asking:
    """A key that is being asked about, by how many, and whether it was named in the journal meanwhile."""

    __slots__ = ("askers", "overtaken")

    def __init__(self) -> None:
        self.askers = 0
        self.overtaken = False


class VerdictCache:
    """See the module. One event loop; at most `keys` keys, the oldest go first; each for `seconds`."""

    def __init__(
        self,
        ask: Ask,
        live: Live,
        *,
        keys: int = CACHE_KEYS,
        seconds: float = CACHE_S,
        steady_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._live = live
        self._keys = keys
        self._seconds = seconds
        self._steady_s = steady_s
        self._kept: dict[bytes, tuple[float, Verdict]] = {}  # in order of storing, which is that of ageing
        self._asking: dict[bytes, _Asking] = {}
        live.on_added.append(self._added)
        live.on_reset.append(self._reset)

    def __len__(self) -> int:
        return len(self._kept)

    async def __call__(self, question: Question, deadline: float) -> Verdict:
        verdict = self._remembered(question)
        if verdict is not None:
            self._live.numbers.false_positives += 1
            return verdict
        key = question.key
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = _Asking()
        asking.askers += 1
        try:
            verdict = await self._ask(question, deadline)
        finally:
            asking.askers -= 1
            if not asking.askers and self._asking.get(key) is asking:
                del self._asking[key]
        if verdict.not_confirmed and self._live.may_list((key,)):
            self._live.numbers.false_positives += 1
            if verdict.nothing_listed and not asking.overtaken and self._following():
                self._keep(key, verdict)
        return verdict

    def _following(self) -> bool:
        """Whether additions reach us as they should, so that silence about a key means something."""
        return self._live.age() is Age.FRESH and not self._live.view.doubtful

    def _remembered(self, question: Question) -> Verdict | None:
        kept = self._kept.get(question.key)
        if kept is None or not self._following():
            return None
        as_of = self._live.view.as_of
        if question.min_feed_sequence > as_of.feed_sequence:
            return None
        until, verdict = kept
        if self._steady_s() >= until:
            del self._kept[question.key]
            return None
        return verdict._replace(as_of=as_of)  # the journal up to here has not named the key

    def _keep(self, key: bytes, verdict: Verdict) -> None:
        self._kept.pop(key, None)
        self._kept[key] = (self._steady_s() + self._seconds, verdict)
        if len(self._kept) > self._keys:
            del self._kept[next(iter(self._kept))]

    def _added(self, keys: Sequence[bytes]) -> None:
        for key in keys:
            self._kept.pop(key, None)
            asking = self._asking.pop(key, None)
            if asking is not None:
                asking.overtaken = True

    def _reset(self) -> None:
        self._kept.clear()
        for asking in self._asking.values():
            asking.overtaken = True
        self._asking.clear()


class SingleFlight:
    """See the module. `sent` must be told what leaves: from then on a question is nobody else's."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._unsent: dict[Question, list[asyncio.Future[Verdict | None]]] = {}  # question -> who joined it

    def sent(self, questions: Sequence[Question]) -> None:
        """These have left: nobody joins them any more."""
        for question in questions:
            self._unsent.pop(question, None)

    async def __call__(self, question: Question, deadline: float) -> Verdict:
        while (joined := self._unsent.get(question)) is not None:
            waiting: asyncio.Future[Verdict | None] = asyncio.get_running_loop().create_future()
            joined.append(waiting)
            try:
                async with patience.timeout_at(deadline):
                    verdict = await waiting
            except TimeoutError:
                raise CentreFailed(Failure.LATE, "the centre did not answer in time") from None
            if verdict is not None:
                return verdict
        joined = self._unsent[question] = []
        try:
            verdict = await self._ask(question, deadline)
        except CentreFailed as failed:
            for waiting in joined:
                if waiting.done():
                    continue
                if failed.failure is Failure.LATE:  # by the first one's deadline; theirs may be later
                    waiting.set_result(None)
                else:
                    waiting.set_exception(CentreFailed(failed.failure, str(failed)))
            raise
        else:
            for waiting in joined:
                if not waiting.done():
                    waiting.set_result(verdict)
            return verdict
        finally:
            if self._unsent.get(question) is joined:
                del self._unsent[question]
            for waiting in joined:  # whoever asked for all has gone: the others ask by themselves
                if not waiting.done():
                    waiting.set_result(None)


class _Waiting(NamedTuple, Generic[Q, A]):
    question: Q
    deadline: float
    answer: asyncio.Future[A]


class Coalescer(Generic[Q, A]):
    """See the module. Beyond `in_flight` batches questions wait and make the next one larger, of at most `largest`.

    `halved_from`: so many leave as two batches when none is under way; None: always as one.
    `on_sent`: told of each batch at the moment it leaves.
    """

    def __init__(
        self,
        send: Send[Q, A],
        *,
        in_flight: int = BATCHES_IN_FLIGHT,
        largest: int = MAX_BATCH,
        halved_from: int | None = None,
    ) -> None:
        self.on_sent: list[Callable[[Sequence[Q]], None]] = []
        self._send = send
        self._limit = in_flight
        self._largest = largest
        self._halved_from = halved_from or math.inf
        self._waiting: deque[_Waiting[Q, A]] = deque()
        self._due = False
        self._under_way: dict[asyncio.Task[None], list[_Waiting[Q, A]]] = {}
        self._look_at = math.inf  # the earliest deadline of all, or earlier: when `_look` runs next
        self._timer: asyncio.TimerHandle | None = None

    async def __call__(self, question: Q, deadline: float) -> A:
        loop = asyncio.get_running_loop()
        if deadline - loop.time() < SHORTEST_S:
            raise CentreFailed(Failure.LATE, "too little time is left to ask the centre")
        answer: asyncio.Future[A] = loop.create_future()
        self._waiting.append(_Waiting(question, deadline, answer))
        if not self._due and len(self._under_way) < self._limit:
            self._due = True
            loop.call_soon(self._depart)  # after everybody who runs in this tick
        if deadline < self._look_at:
            self._look_again(deadline)
        return await answer

    async def close(self) -> None:
        """Give up what waits and what is under way: whoever asked sees the centre as unreachable."""
        if self._timer is not None:
            self._timer.cancel()
        waiting, self._waiting = self._waiting, deque()
        _hand_out(waiting, [CentreFailed(Failure.UNREACHABLE, _CLOSING) for _ in waiting])
        under_way = list(self._under_way)
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    def _depart(self) -> None:
        self._due = False
        largest, count = self._largest, len(self._waiting)
        if count >= self._halved_from and not self._under_way:
            largest = min(largest, (count + 1) // 2)
        while self._waiting and len(self._under_way) < self._limit:
            batch: list[_Waiting[Q, A]] = []
            while self._waiting and len(batch) < largest:
                one = self._waiting.popleft()
                if not one.answer.done():  # else its asker has gone
                    batch.append(one)
            if batch:
                questions = [one.question for one in batch]
                for told in self.on_sent:
                    told(questions)
                task = asyncio.get_running_loop().create_task(self._carry(batch, questions))
                self._under_way[task] = batch
                task.add_done_callback(self._arrived)

    def _arrived(self, task: asyncio.Task[None]) -> None:
        del self._under_way[task]
        self._depart()

    # Deadlines: one timer for all, since a timer each would cost as much as the rest of a question.

    def _look_again(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._look_at = at
        self._timer = asyncio.get_running_loop().call_at(at, patience.after_turns, self._look)

    def _look(self) -> None:
        """Whoever's deadline has come hears that the centre is late."""
        now = asyncio.get_running_loop().time() + _TIMER_S
        self._look_at, self._timer = math.inf, None
        earliest = math.inf
        for one in chain(self._waiting, *self._under_way.values()):
            if one.answer.done():
                continue
            if one.deadline <= now:
                one.answer.set_exception(CentreFailed(Failure.LATE, "the centre did not answer in time"))
            elif one.deadline < earliest:
                earliest = one.deadline
        if earliest < math.inf:
            self._look_again(earliest)

    async def _carry(self, batch: Sequence[_Waiting[Q, A]], questions: Sequence[Q]) -> None:
        try:
            _hand_out(batch, await self._send(questions, max(one.deadline for one in batch)))
        except asyncio.CancelledError:
            _hand_out(batch, [CentreFailed(Failure.UNREACHABLE, _CLOSING) for _ in batch])
            raise
        except Exception as error:  # noqa: BLE001 - whoever asked must hear of it, whatever it is
            _hand_out(batch, [error] * len(batch))


_CLOSING = "the edge is closing"


def _hand_out(batch: Iterable[_Waiting[Q, A]], answers: Iterable[A | Exception]) -> None:
    for one, answer in zip(batch, answers, strict=True):
        if one.answer.done():  # its asker has gone
            continue
        if isinstance(answer, Exception):
            one.answer.set_exception(answer)
        else:
            one.answer.set_result(answer)
