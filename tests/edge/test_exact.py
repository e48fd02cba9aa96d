"""Cache, single flight and coalescing, each alone and in their order, against an `Ask` or `Send` run by the test."""

import asyncio
import math
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checker.core.decision import Advisory, AnsweredBy, Outcome, Reason
from checker.core.purchase import Flight, Lodging
from checker.core.stand_in import Failure
from edge.exact import HALVED_FROM, Coalescer, SingleFlight, VerdictCache
from edge.question import CentreFailed, Question, Verdict
from tests.edge.asking import (
    AS_OF,
    BARRED,
    NOTHING,
    Clock,
    Ready,
    Scripted,
    a_key,
    a_live,
    a_question,
    a_verdict,
    beat,
    ticks,
)

SOON = 3600.0


def later() -> float:
    """A deadline nobody reaches."""
    return asyncio.get_running_loop().time() + SOON


# --- VerdictCache ------------------------------------------------------------------------------------------------


async def test_a_false_positive_is_asked_once() -> None:
    """Whom the index does not hold is asked once, whatever is bought, and each check counts as a false positive."""
    live = a_live(listed=[a_key(1)])
    ask = Ready()
    cache = VerdictCache(ask, live)
    assert await cache(a_question(1), later()) == NOTHING
    assert await cache(a_question(1, purchase=Lodging(5)), later()) == NOTHING
    assert len(ask.asked) == 1
    assert live.numbers.false_positives == 2


@pytest.mark.parametrize(
    "verdict",
    [
        BARRED,
        a_verdict(Outcome.UNKNOWN, Reason.INDEX_UNREACHABLE),
        a_verdict(Outcome.UNKNOWN, Reason.NAME_REQUIRED),
        a_verdict(reason=Reason.EXEMPTED),
        a_verdict(reason=Reason.NOT_IN_FORCE),
        a_verdict(reason=Reason.OUT_OF_SCOPE),
        a_verdict(reason=Reason.PURCHASE_NOT_RESTRICTED),
        a_verdict(answered_by=AnsweredBy.FILTER),
        a_verdict(answered_by=AnsweredBy.STAND_IN),
        a_verdict(Outcome.ALLOWED, Reason.NOT_LISTED, AnsweredBy.INDEX, Advisory.NAME_MISMATCH),
        a_verdict(Outcome.ALLOWED, Reason.NOT_LISTED, AnsweredBy.INDEX, Advisory.STALE_DATA),
        Failure.LATE,
    ],
)
async def test_nothing_else_is_remembered(verdict: Verdict | Failure) -> None:
    """A refusal, a doubt, a failure, or an ALLOWED about somebody listed is asked anew each time."""
    live = a_live(listed=[a_key(1)])
    ask = Ready(verdict)
    cache = VerdictCache(ask, live)
    for _ in range(2):
        if isinstance(verdict, Failure):
            with pytest.raises(CentreFailed):
                await cache(a_question(1), later())
        else:
            assert await cache(a_question(1), later()) == verdict
    assert len(ask.asked) == 2


@pytest.mark.parametrize(
    ("verdict", "counted"),
    [
        (NOTHING, 1),
        (a_verdict(answered_by=AnsweredBy.FILTER), 1),
        (a_verdict(Outcome.ALLOWED, Reason.NOT_LISTED, AnsweredBy.FILTER, Advisory.OPEN_RULE, Advisory.STALE_DATA), 1),
        (a_verdict(Outcome.ALLOWED, Reason.NOT_LISTED, AnsweredBy.INDEX, Advisory.STALE_DATA), 1),
        (a_verdict(Outcome.ALLOWED, Reason.NOT_LISTED, AnsweredBy.INDEX, Advisory.NAME_MISMATCH), 0),
        (a_verdict(answered_by=AnsweredBy.STAND_IN), 0),
        (a_verdict(reason=Reason.EXEMPTED), 0),
        (a_verdict(reason=Reason.NOT_IN_FORCE), 0),
        (a_verdict(reason=Reason.OUT_OF_SCOPE), 0),
        (a_verdict(reason=Reason.PURCHASE_NOT_RESTRICTED), 0),
        (a_verdict(Outcome.UNKNOWN, Reason.INDEX_UNREACHABLE), 0),
        (a_verdict(Outcome.UNKNOWN, Reason.NAME_REQUIRED), 0),
        (BARRED, 0),
    ],
)
async def test_a_hit_the_centre_does_not_confirm_is_a_false_positive(verdict: Verdict, counted: int) -> None:
    """Whoever the centre says is not listed counts, whether its index said so or its filter; nobody else does."""
    live = a_live(listed=[a_key(1)])
    await VerdictCache(Ready(verdict), live)(a_question(1), later())
    assert live.numbers.false_positives == counted


async def test_only_what_the_filter_holds_is_remembered() -> None:
    """Asked for another reason than the filter's "perhaps", a key takes no room."""
    live = a_live()
    cache = VerdictCache(Ready(), live)
    await cache(a_question(1), later())
    assert len(cache) == 0
    assert live.numbers.false_positives == 0


async def test_an_addition_of_the_key_ends_it() -> None:
    """The journal names the key: the next check is asked, and hears BARRED."""
    live = a_live(listed=[a_key(1), a_key(2)])
    ask = Ready()
    cache = VerdictCache(ask, live)
    await cache(a_question(1), later())
    await cache(a_question(2), later())
    live.add([a_key(1)])
    ask.verdict = BARRED
    assert await cache(a_question(1), later()) == BARRED
    assert (await cache(a_question(2), later())).outcome is Outcome.ALLOWED


@pytest.mark.parametrize("event", ["addition", "reset", "swap"])
async def test_an_answer_overtaken_on_its_way_is_not_kept(event: str) -> None:
    """The key is added, or the journal is lost, between question and answer: the answer is given but not kept."""
    clock = Clock()
    live = a_live(clock, listed=[a_key(1)])
    ask = Scripted()
    cache = VerdictCache(ask, live)
    asking = asyncio.create_task(cache(a_question(1), later()))
    await ticks()
    if event == "addition":
        live.add([a_key(1)])
    elif event == "reset":
        live.reset()
    else:
        base = live._overlaid.base if live._overlaid else None
        assert base is not None
        live.swap(base, [a_key(1)], AS_OF, live.view.key, live.view.rulebook, clock.ms)
    ask.answer(NOTHING)
    assert await asking == NOTHING
    assert len(cache) == 0


async def test_another_asker_of_the_key_does_not_hide_the_addition() -> None:
    """Two under way for one key when it is added, one asked after: only the last one's answer may be kept."""
    live = a_live(listed=[a_key(1)])
    ask = Scripted()
    cache = VerdictCache(ask, live)
    before = [asyncio.create_task(cache(a_question(1), later())) for _ in range(2)]
    await ticks()
    live.add([a_key(1)])
    after = asyncio.create_task(cache(a_question(1), later()))
    await ticks()
    for _ in before:
        ask.answer(NOTHING)
    await asyncio.gather(*before)
    assert len(cache) == 0
    ask.answer(NOTHING)
    await after
    assert len(cache) == 1


async def test_a_reset_empties_it() -> None:
    """Without a place in the journal nothing remembered can be trusted."""
    live = a_live(listed=[a_key(1)])
    cache = VerdictCache(Ready(), live)
    await cache(a_question(1), later())
    live.reset()
    assert len(cache) == 0


async def test_it_is_silent_while_the_filter_is_not_fresh_or_the_rules_are_in_doubt() -> None:
    """Lag beyond a minute, or rules that may be old: everybody is asked. Fresh again, memory serves again."""
    clock = Clock()
    live = a_live(clock, listed=[a_key(1)])
    ask = Ready()
    cache = VerdictCache(ask, live)
    await cache(a_question(1), later())
    clock.forward(61)
    await cache(a_question(1), later())
    beat(live, clock)
    live.doubt(doubtful=True)
    await cache(a_question(1), later())
    assert len(ask.asked) == 3
    live.doubt(doubtful=False)
    await cache(a_question(1), later())
    assert len(ask.asked) == 3


async def test_it_answers_only_as_far_as_the_feed_is_known() -> None:
    """`min_feed_sequence` beyond what we know is asked; up to it, memory serves, as of what is known now."""
    clock = Clock()
    live = a_live(clock, listed=[a_key(1)])
    ask = Ready()
    cache = VerdictCache(ask, live)
    await cache(a_question(1), later())
    await cache(a_question(1, min_feed_sequence=101), later())
    assert len(ask.asked) == 2
    beat(live, clock, AS_OF._replace(feed_sequence=150))
    verdict = await cache(a_question(1, min_feed_sequence=150), later())
    assert len(ask.asked) == 2
    assert verdict.as_of.feed_sequence == 150


async def test_it_is_bounded_in_number_and_time() -> None:
    """The oldest goes for the newest; five minutes later nothing is remembered."""
    clock = Clock()
    live = a_live(clock, listed=[a_key(number) for number in range(4)])
    ask = Ready()
    cache = VerdictCache(ask, live, keys=3, steady_s=clock.steady_s)
    for number in range(4):
        await cache(a_question(number), later())
    assert len(cache) == 3
    await cache(a_question(3), later())
    assert len(ask.asked) == 4
    await cache(a_question(0), later())
    assert len(ask.asked) == 5
    clock.forward(300)
    beat(live, clock)
    await cache(a_question(0), later())
    assert len(ask.asked) == 6


async def test_cancelled_askers_leave_nothing_behind() -> None:
    """The book of what is being asked does not grow with askers who go."""
    live = a_live(listed=[a_key(1)])
    cache = VerdictCache(Scripted(), live)
    asking = asyncio.create_task(cache(a_question(1), later()))
    await ticks()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert cache._asking == {}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["ask", "add"]), st.integers(0, 1)),
        st.tuples(st.just("answer"), st.integers(0, 3)),
        st.tuples(st.sampled_from(["reset", "beat"]), st.just(0)),
        st.tuples(st.just("wait"), st.sampled_from([1, 50, 200])),
    ),
    min_size=10,
    max_size=40,
)


class _Sent(NamedTuple):
    number: int
    listed: bool  # when the question left
    answer: asyncio.Future[Verdict]


@settings(max_examples=300)
@given(STEPS)
def test_no_interleaving_lets_memory_hide_an_addition(steps: list[tuple[str, int]]) -> None:
    """Whatever the order of asking, answering, additions, Resets and time: once the journal has named a key, an edge
    that is fresh never again says of it "not listed" from memory."""

    async def run() -> None:
        clock = Clock()
        live = a_live(clock, listed=[a_key(0), a_key(1)])
        listed: set[int] = set()
        sent: list[_Sent] = []
        tasks: list[asyncio.Task[Verdict]] = []

        async def ask(question: Question, deadline: float) -> Verdict:
            number = 0 if question.key == a_key(0) else 1
            sent.append(_Sent(number, number in listed, asyncio.get_running_loop().create_future()))
            return await sent[-1].answer

        cache = VerdictCache(ask, live, steady_s=clock.steady_s)
        for what, number in steps:
            if what == "ask":
                before = len(sent)
                tasks.append(asyncio.create_task(cache(a_question(number), math.inf)))
                await ticks(2)
                if number in listed:
                    assert len(sent) == before + 1, "answered from memory after the addition"
            elif what == "add":
                listed.add(number)
                live.add([a_key(number)])
            elif what == "answer" and sent:
                one = sent.pop(min(number, len(sent) - 1))
                one.answer.set_result(BARRED if one.listed else NOTHING)
                await ticks(3)
            elif what == "reset":
                live.reset()
            elif what == "beat":
                beat(live, clock)
            elif what == "wait":
                clock.forward(number)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())


# --- SingleFlight ------------------------------------------------------------------------------------------------


async def test_equal_questions_share_one_until_it_is_sent() -> None:
    """Two ask the same before it has left: one question, two answers. A third asks after it has left: a second one."""
    ask = Scripted()
    single = SingleFlight(ask)
    first, second = (asyncio.create_task(single(a_question(1), later())) for _ in range(2))
    await ticks()
    assert len(ask.asked) == 1
    single.sent(ask.asked)
    third = asyncio.create_task(single(a_question(1), later()))
    await ticks()
    assert len(ask.asked) == 2
    ask.answer(BARRED)
    assert await asyncio.gather(*[first, second]) == [BARRED, BARRED]
    assert not third.done()
    ask.answer(NOTHING)
    assert await third == NOTHING


async def test_only_wholly_equal_questions_share() -> None:
    """Another purchase, or another demand of freshness, is another question."""
    ask = Scripted()
    single = SingleFlight(ask)
    questions = [a_question(1), a_question(1, purchase=Lodging(5)), a_question(1, min_feed_sequence=5), a_question(2)]
    tasks = [asyncio.create_task(single(question, later())) for question in questions]
    await ticks()
    assert ask.asked == questions
    for _ in tasks:
        ask.answer()
    await asyncio.gather(*tasks)
    assert single._unsent == {}


async def test_whoever_joined_lives_on_when_the_first_goes() -> None:
    """The first asker is cancelled: the second asks by itself, the third joins the second."""
    ask = Scripted()
    single = SingleFlight(ask)
    first, second, third = (asyncio.create_task(single(a_question(1), later())) for _ in range(3))
    await ticks()
    first.cancel()
    await ticks()
    assert len(ask.asked) == 2
    ask.answer()
    assert await asyncio.gather(*[second, third]) == [NOTHING, NOTHING]
    assert single._unsent == {}


async def test_a_failure_is_everybodys_but_a_deadline_is_ones_own() -> None:
    """Unreachable for one is unreachable for all; late by the first one's deadline, the others ask again."""
    ask = Scripted()
    single = SingleFlight(ask)
    tasks = [asyncio.create_task(single(a_question(1), later())) for _ in range(2)]
    await ticks()
    ask.answer(Failure.UNREACHABLE)
    failed = await asyncio.gather(*tasks, return_exceptions=True)
    assert [one.failure for one in failed if isinstance(one, CentreFailed)] == [Failure.UNREACHABLE] * 2
    first, second = (asyncio.create_task(single(a_question(1), later())) for _ in range(2))
    await ticks()
    ask.answer(Failure.LATE)
    await ticks()
    ask.answer(NOTHING)
    with pytest.raises(CentreFailed):
        await first
    assert await second == NOTHING


async def test_who_joined_waits_no_longer_than_its_own_deadline() -> None:
    """An earlier deadline than the first asker's is kept."""
    single = SingleFlight(Scripted())
    first = asyncio.create_task(single(a_question(1), later()))
    await ticks()
    with pytest.raises(CentreFailed) as failed:
        await single(a_question(1), asyncio.get_running_loop().time() + 0.01)
    assert failed.value.failure is Failure.LATE
    first.cancel()


# --- Coalescer ---------------------------------------------------------------------------------------------------


class Batches:
    """A `Send`: records batches, and answers when told to."""

    def __init__(self) -> None:
        self.sent: list[Sequence[Question]] = []
        self.deadlines: list[float] = []
        self.open: list[asyncio.Future[Sequence[Verdict | CentreFailed]]] = []

    async def __call__(self, questions: Sequence[Question], deadline: float) -> Sequence[Verdict | CentreFailed]:
        self.sent.append(questions)
        self.deadlines.append(deadline)
        self.open.append(asyncio.get_running_loop().create_future())
        return await self.open[-1]

    def answer(self, *answers: Verdict | CentreFailed) -> None:
        """Answer the oldest open batch; by default NOTHING for each."""
        place = len(self.sent) - len(self.open)
        self.open.pop(0).set_result(answers or [NOTHING] * len(self.sent[place]))


async def test_the_questions_of_a_tick_share_a_batch_and_each_gets_its_own_answer() -> None:
    """Sixteen ask in one tick: one batch, in order, and no answer goes astray."""
    send = Batches()
    ask = Coalescer(send)
    tasks = [asyncio.create_task(ask(a_question(number), later())) for number in range(16)]
    await ticks()
    assert [len(batch) for batch in send.sent] == [16]
    verdicts = [a_verdict(decision_id=str(number)) for number in range(16)]
    send.answer(*verdicts)
    assert await asyncio.gather(*tasks) == verdicts


async def test_one_items_error_fails_nobody_else() -> None:
    """A failure among the answers is its asker's alone."""
    send = Batches()
    ask = Coalescer(send)
    tasks = [asyncio.create_task(ask(a_question(number), later())) for number in range(3)]
    await ticks()
    send.answer(NOTHING, CentreFailed(Failure.UNREACHABLE, "refused"), BARRED)
    first, second, third = await asyncio.gather(*tasks, return_exceptions=True)
    assert (first, third) == (NOTHING, BARRED)
    assert isinstance(second, CentreFailed)


async def test_beyond_the_limit_the_next_batch_grows() -> None:
    """With two under way, whatever is asked waits and leaves together when one is back."""
    send = Batches()
    ask = Coalescer(send, in_flight=2)
    tasks = []
    for number in range(6):
        tasks.append(asyncio.create_task(ask(a_question(number), later())))
        await ticks()
    assert [len(batch) for batch in send.sent] == [1, 1]
    send.answer()
    await ticks()
    assert [len(batch) for batch in send.sent] == [1, 1, 4]
    send.answer()
    send.answer()
    assert await asyncio.gather(*tasks) == [NOTHING] * 6


async def test_a_batch_is_never_larger_than_the_contract_allows() -> None:
    """2 500 in one tick: 1000, 1000, 500."""
    send = Batches()
    ask = Coalescer(send)
    tasks = [asyncio.create_task(ask(a_question(number), later())) for number in range(2500)]
    await ticks()
    assert [len(batch) for batch in send.sent] == [1000, 1000, 500]
    for _ in range(3):
        send.answer()
    assert len(await asyncio.gather(*tasks)) == 2500


async def test_many_questions_leave_as_two_batches_when_none_is_under_way() -> None:
    """Fifteen are one batch and sixteen two of eight, in order; with one under way they are one, however many."""
    send = Batches()
    ask = Coalescer(send, halved_from=HALVED_FROM)
    for count, batches in ((HALVED_FROM - 1, [15]), (HALVED_FROM, [8, 8]), (HALVED_FROM + 1, [9, 8])):
        send.sent.clear()
        tasks = [asyncio.create_task(ask(a_question(number), later())) for number in range(count)]
        await ticks()
        assert [len(batch) for batch in send.sent] == batches
        assert [question for batch in send.sent for question in batch] == [*map(a_question, range(count))]
        if count > HALVED_FROM:
            tasks += [asyncio.create_task(ask(a_question(number), later())) for number in range(100, 140)]
            await ticks()
            assert [len(batch) for batch in send.sent[2:]] == [40]
        while send.open:
            send.answer()
        assert await asyncio.gather(*tasks) == [NOTHING] * len(tasks)


async def test_who_has_gone_is_not_asked_about() -> None:
    """Cancelled before the batch leaves: not in it. An empty batch does not leave."""
    send = Batches()
    ask = Coalescer(send, in_flight=1)
    first = asyncio.create_task(ask(a_question(0), later()))
    await ticks()
    gone = asyncio.create_task(ask(a_question(1), later()))
    stays = asyncio.create_task(ask(a_question(2), later()))
    await ticks()
    gone.cancel()
    await ticks()
    send.answer()
    await ticks()
    assert send.sent == [[a_question(0)], [a_question(2)]]
    send.answer()
    assert await asyncio.gather(*[first, stays]) == [NOTHING] * 2


async def test_waiting_for_a_batch_is_bounded_by_ones_own_deadline() -> None:
    """Nobody is back, a question waits: LATE at its deadline; and what has too little time is not asked at all."""
    send = Batches()
    ask = Coalescer(send, in_flight=1)
    first = asyncio.create_task(ask(a_question(0), later()))
    await ticks()
    start = asyncio.get_running_loop().time()
    with pytest.raises(CentreFailed) as failed:
        async with asyncio.timeout(30):  # not the first one's deadline, an hour
            await ask(a_question(1), start + 0.02)
    assert failed.value.failure is Failure.LATE
    assert asyncio.get_running_loop().time() - start > 0.015
    with pytest.raises(CentreFailed):
        await ask(a_question(1), asyncio.get_running_loop().time() + 0.001)
    send.answer()
    await first
    await ticks()
    assert len(send.sent) == 1


async def test_a_batch_has_the_time_of_its_most_patient_asker(monkeypatch: pytest.MonkeyPatch) -> None:
    """One short deadline does not cut the others' short."""
    monkeypatch.setattr("edge.exact.SHORTEST_S", -math.inf)  # it is asked about, however late this machine comes to it
    send = Batches()
    ask = Coalescer(send)
    now = asyncio.get_running_loop().time()
    short = asyncio.create_task(ask(a_question(0), now + 0.02))
    long = asyncio.create_task(ask(a_question(1), now + 60))
    with pytest.raises(CentreFailed):
        await short
    assert send.deadlines == [now + 60]
    send.answer()
    assert await long == NOTHING


async def test_closing_fails_whoever_waits() -> None:
    """Under way or waiting: each asker hears that the centre is out of reach, and no batch leaves any more."""
    send = Batches()
    ask = Coalescer(send, in_flight=1)
    tasks = [asyncio.create_task(ask(a_question(0), later()))]
    await ticks()
    tasks.append(asyncio.create_task(ask(a_question(1), later())))
    await ticks()
    await ask.close()
    failed = await asyncio.gather(*tasks, return_exceptions=True)
    assert [one.failure for one in failed if isinstance(one, CentreFailed)] == [Failure.UNREACHABLE] * 2
    assert len(send.sent) == 1


# --- together ----------------------------------------------------------------------------------------------------

MOMENTS = st.lists(st.sampled_from(["ask", "tick", "lift", "list", "answer"]), min_size=10, max_size=40)


@settings(max_examples=300)
@given(MOMENTS, st.integers(1, 2))
def test_no_interleaving_lets_an_old_refusal_reach_a_later_check(moments: list[str], in_flight: int) -> None:
    """Whoever asks after a lift never hears BARRED, and whoever asks after an addition that the journal has brought
    never hears "not listed", whatever was cached, joined, waiting or under way. The centre reads its index as early as
    it can: when the batch leaves."""

    async def run() -> None:
        live = a_live(listed=[a_key(1)])
        barred = False
        read: list[Verdict] = []
        open_: list[asyncio.Future[None]] = []
        asked: list[tuple[bool, asyncio.Task[Verdict]]] = []

        async def send(questions: Sequence[Question], deadline: float) -> Sequence[Verdict | CentreFailed]:
            read.append(BARRED if barred else NOTHING)
            said = read[-1]
            open_.append(asyncio.get_running_loop().create_future())
            await open_[-1]
            return [said] * len(questions)

        coalescer = Coalescer(send, in_flight=in_flight)
        single = SingleFlight(coalescer)
        coalescer.on_sent.append(single.sent)
        cache = VerdictCache(single, live)
        changed = [0]
        for moment in moments:
            if moment == "ask":
                asked.append((len(changed) % 2 == 0, asyncio.create_task(cache(a_question(1), later()))))
                await asyncio.sleep(0)  # it has been received: it runs up to its first wait
            elif moment == "tick":
                await ticks(3)
            elif moment == "lift" and barred:
                barred = False
                changed.append(len(asked))
            elif moment == "list" and not barred:
                barred = True
                live.add([a_key(1)])
                changed.append(len(asked))
            elif moment == "answer" and open_:
                open_.pop(0).set_result(None)
                await ticks(3)
        while open_ or any(not task.done() for _, task in asked):
            await ticks(3)
            if open_:
                open_.pop(0).set_result(None)
        # Between two changes the state stood still from asking on; an answer may differ only if it changed later.
        changed.append(len(asked))
        for place, (was_barred, task) in enumerate(asked):
            verdict = await task
            stood_still = place >= changed[-2]
            if stood_still:
                assert (verdict.outcome is Outcome.BARRED) == was_barred
            elif not was_barred and "list" not in moments[_index(moments, place) :]:
                assert verdict.outcome is not Outcome.BARRED

    asyncio.run(run())


def _index(moments: list[str], place: int) -> int:
    """Where in the moments the `place`th question was asked."""
    return [number for number, moment in enumerate(moments) if moment == "ask"][place]


def test_questions_of_different_purchases_are_different() -> None:
    """The words a question is compared by tell purchases apart."""
    assert a_question(1, purchase=Flight()) != a_question(1, purchase=Lodging(5))
