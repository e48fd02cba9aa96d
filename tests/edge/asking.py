"""Questions, verdicts, an edge's `Live`, and an `Ask` that answers when the test says so."""

import asyncio
from collections.abc import Iterable

from checker.core.changes import Heartbeat, Position
from checker.core.decision import Advisory, AnsweredBy, Outcome, Reason
from checker.core.filter import DigestFilter
from checker.core.freshness import AsOf
from checker.core.purchase import Flight, Purchase
from checker.core.rules import Rulebook
from checker.core.stand_in import Failure
from checker.wire import purchase_message
from edge.live import Live
from edge.question import CentreFailed, Question, Verdict
from tests.builders import KEY, NOW, rulebook

AS_OF = AsOf(100, NOW, 0, 7)


def a_key(number: int) -> bytes:
    """A lookup key nobody's document has."""
    return KEY.seal(b"test", number.to_bytes(4, "big"))


def a_question(number: int = 1, *, purchase: Purchase | None = None, min_feed_sequence: int = 0) -> Question:
    """A question about the `number`th key."""
    return Question(
        key=a_key(number),
        key_id=KEY.key_id,
        document_type=1,
        name_required=False,
        name_key=b"",
        purchase=purchase_message(purchase or Flight()),
        min_feed_sequence=min_feed_sequence,
    )


def a_verdict(
    outcome: Outcome = Outcome.ALLOWED,
    reason: Reason = Reason.NOT_LISTED,
    answered_by: AnsweredBy = AnsweredBy.INDEX,
    *advisories: Advisory,
    decision_id: str = "",
    as_of: AsOf = AS_OF,
) -> Verdict:
    """By default the one that may be remembered."""
    return Verdict(outcome, reason, answered_by, advisories, decision_id, as_of)


NOTHING = a_verdict()
BARRED = a_verdict(Outcome.BARRED, Reason.MEASURE_IN_FORCE, decision_id="CENTRE-1")


class Clock:
    """Both clocks of an edge, moved by hand."""

    def __init__(self) -> None:
        self.ms = NOW

    def wall_ms(self) -> int:
        return self.ms

    def steady_s(self) -> float:
        return self.ms / 1000

    def forward(self, seconds: float) -> None:
        self.ms += int(seconds * 1000)


def a_live(clock: Clock | None = None, listed: Iterable[bytes] = (), book: Rulebook | None = None) -> Live:
    """An edge that holds a fresh filter with these keys, of a centre that is there."""
    clock = clock or Clock()
    live = Live(KEY, book or rulebook(), clock_ms=clock.wall_ms, steady_s=clock.steady_s)
    live.swap(DigestFilter(1000, 1e-4), listed, AS_OF, KEY, live.view.rulebook, clock.ms)
    beat(live, clock)
    return live


def beat(live: Live, clock: Clock, as_of: AsOf = AS_OF, *, signing_off: bool = False) -> None:
    """A heartbeat, sent now."""
    position = Position(bytes(8), 1)
    live.beat(Heartbeat(position, as_of, clock.ms, 0, bytes(16), bytes(32), signing_off), as_of)


class Scripted:
    """An `Ask`: records what it is asked, and answers when told to."""

    def __init__(self) -> None:
        self.asked: list[Question] = []
        self._open: list[tuple[Question, asyncio.Future[Verdict]]] = []

    async def __call__(self, question: Question, deadline: float) -> Verdict:
        answer: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self.asked.append(question)
        self._open.append((question, answer))
        return await answer

    def answer(self, verdict: Verdict | Failure = NOTHING) -> None:
        """Answer the oldest open question."""
        while True:
            _, answer = self._open.pop(0)
            if not answer.done():
                break
        if isinstance(verdict, Verdict):
            answer.set_result(verdict)
        else:
            answer.set_exception(CentreFailed(verdict, "scripted"))


class Ready:
    """An `Ask` that answers at once, the same to everybody."""

    def __init__(self, verdict: Verdict | Failure = NOTHING) -> None:
        self.verdict = verdict
        self.asked: list[Question] = []

    async def __call__(self, question: Question, deadline: float) -> Verdict:
        self.asked.append(question)
        if isinstance(self.verdict, Failure):
            raise CentreFailed(self.verdict, "scripted")
        return self.verdict


async def ticks(count: int = 5) -> None:
    """Let the event loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)
