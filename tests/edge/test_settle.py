"""How an edge concludes what its filter could not clear: with the centre's word, or by the stand-in table."""

import asyncio
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pytest

from checker.core.decision import Advisory, AnsweredBy, Decision, Outcome, Reason
from checker.core.document import DocumentType
from checker.core.lookup import EVERYTHING, LookupKey, NeedExact, Query, begin
from checker.core.purchase import Flight, Lodging, Purchase
from checker.core.stand_in import Age, Failure
from checker.rpc import interceptors
from checker.rpc.decision_id import time_of
from checker.rpc.interceptors import Call
from checker.rpc.roles import Caller, Role
from edge.centre import Centre
from edge.live import Live
from edge.question import Ask, CentreFailed, Question, Verdict
from edge.settle import EdgeSettler, questions_of
from edge.stack import build
from tests.builders import DEBTOR, KEY, NOW, rulebook
from tests.edge.asking import AS_OF, BARRED, NOTHING, Clock, Ready, Scripted, a_key, a_live, a_verdict, beat, ticks
from tests.edge.centres import a_centre
from tests.paths.people import resident_id

UNREAD = a_verdict(Outcome.UNKNOWN, Reason.INDEX_UNREACHABLE, decision_id="CENTRE-2")
STALE = a_verdict(Outcome.UNKNOWN, Reason.DATA_STALE, decision_id="CENTRE-3")
NAMELESS = a_verdict(Outcome.UNKNOWN, Reason.NAME_REQUIRED, decision_id="CENTRE-4")
NO_KEY = a_verdict(Outcome.UNKNOWN, Reason.UNKNOWN_KEY, AnsweredBy.RULES, decision_id="CENTRE-5")


class Kept(NamedTuple):
    decision_id: str
    caller: str
    questions: Sequence[Question]
    asked_ms: int


class Waiting:
    """The advice queue's place: what was put there."""

    def __init__(self) -> None:
        self.kept: list[Kept] = []

    def put(self, decision_id: str, caller: str, questions: Sequence[Question], asked_ms: int) -> None:
        self.kept.append(Kept(decision_id, caller, questions, asked_ms))


class Edge:
    """An edge whose clock and centre are the test's."""

    def __init__(self, ask: Ask, *, listed: Sequence[bytes] = (), strict: bool = False) -> None:
        self.clock = Clock()
        book = rulebook(("stand_in_strict = []", 'stand_in_strict = ["flight"]')) if strict else rulebook()
        self.live = a_live(self.clock, listed, book)
        self.advice = Waiting()
        self.settle = EdgeSettler(self.live, ask, self.advice, clock_ms=self.clock.wall_ms)

    async def one(self, need: NeedExact, deadline: float = math.inf) -> Decision:
        settled = await self.settle([need], deadline)
        return settled.decisions[0]


def need(
    live: Live,
    purchase: Purchase | None = None,
    *,
    number: str = DEBTOR,
    document_type: int = DocumentType.RESIDENT_ID,
    name: str = "",
    act_ms: int = 0,
    min_feed_sequence: int = 0,
    key: LookupKey | None = None,
) -> NeedExact:
    """What `begin` lacks for this document, whatever the filter says."""
    query = Query(
        purchase or Flight(),
        0 if key else document_type,
        "" if key else number,
        "",
        key,
        name,
        b"",
        act_ms,
        0,
        min_feed_sequence,
    )
    step = begin(query, live.view._replace(filter=EVERYTHING), NOW)
    assert isinstance(step, NeedExact)
    return step


# --- the question ------------------------------------------------------------------------------------------------


def test_a_question_holds_key_and_purchase_and_no_document() -> None:
    """One question, with the digest of number and name, and neither of the two in any form."""
    live = a_live()
    (question,) = questions_of(need(live, name="张三", act_ms=NOW, min_feed_sequence=7))
    assert question.key_id == KEY.key_id
    assert (question.document_type, len(question.key), len(question.name_key)) == (1, 16, 16)
    assert (question.act_ms, question.min_feed_sequence) == (NOW, 7)
    assert DEBTOR not in repr(question)
    assert "张三" not in repr(question)


def test_an_ambiguous_number_is_one_question_for_each_key() -> None:
    """A number that may be of several types: each key with its type, and none bars without a name."""
    live = a_live()
    asked = need(live, number=AMBIGUOUS, document_type=0)
    questions = questions_of(asked)
    assert [question.key for question in questions] == list(asked.keys)
    assert len({question.document_type for question in questions}) == len(questions) > 1
    assert all(question.name_required for question in questions)


def test_a_key_asked_of_the_edge_goes_on_as_it_is() -> None:
    """Asked by key, an edge does not know the document's type, and needs none."""
    live = a_live()
    (question,) = questions_of(need(live, key=LookupKey(KEY.key_id, a_key(5), name_required=True)))
    assert (question.key, question.document_type, question.name_required) == (a_key(5), 0, True)


AMBIGUOUS = "00001234"


# --- the centre's word -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "verdict",
    [NOTHING, BARRED, UNREAD, STALE, NAMELESS, NO_KEY, a_verdict(Outcome.ALLOWED, Reason.EXEMPTED)],
)
async def test_the_centres_word_is_passed_on(verdict: Verdict) -> None:
    """Outcome, reason, source and decision id as the centre gave them; the rule that was reached is ours to name."""
    edge = Edge(Ready(verdict))
    asked = need(edge.live)
    decision = await edge.one(asked)
    assert decision[:4] == verdict[:4]
    assert decision.decision_id == verdict.decision_id
    assert decision.rule_id == asked.screened.row.rule_id
    assert edge.live.numbers.stand_ins == 0


@pytest.mark.parametrize(
    ("verdict", "queued"),
    [(NOTHING, False), (BARRED, False), (NAMELESS, False), (NO_KEY, False), (UNREAD, True), (STALE, True)],
)
async def test_what_the_centre_may_know_later_is_asked_again(verdict: Verdict, queued: bool) -> None:
    """Its index was out of reach, or its feed too old: the question waits under the centre's decision id. A missing
    name stays missing."""
    edge = Edge(Ready(verdict))
    asked = need(edge.live)
    await edge.one(asked)
    expected = [Kept(verdict.decision_id, "", questions_of(asked), NOW)] if queued else []
    assert edge.advice.kept == expected


async def test_each_answer_is_as_fresh_as_what_is_behind_it() -> None:
    """Two answers of different age in a batch: each one's own feed position, under the epoch of our own filter."""

    class Ageing(Ready):
        async def __call__(self, question: Question, deadline: float) -> Verdict:
            await super().__call__(question, deadline)
            return a_verdict(as_of=AS_OF._replace(feed_sequence=100 - len(self.asked), snapshot_epoch=1))

    edge = Edge(Ageing())
    settled = await edge.settle([need(edge.live), need(edge.live, number=resident_id(5))], math.inf)
    assert settled.as_of == [AS_OF._replace(feed_sequence=sequence) for sequence in (99, 98)]


async def test_a_batch_is_asked_together_and_answered_in_order() -> None:
    """All questions of a batch are under way before the first is answered."""
    ask = Scripted()
    edge = Edge(ask)
    needs = [need(edge.live, number=resident_id(number)) for number in range(5)]
    settling = asyncio.create_task(edge.settle(needs, math.inf))
    await ticks()
    assert len(ask.asked) == 5
    for number in range(5):
        ask.answer(BARRED if number == 3 else NOTHING)
    settled = await settling
    assert [decision.outcome is Outcome.BARRED for decision in settled.decisions] == [False] * 3 + [True, False]
    assert edge.live.numbers.hits == 5


# --- several keys ------------------------------------------------------------------------------------------------

SAID: Mapping[str, Verdict | Failure] = {
    "barred": BARRED,
    "nameless": NAMELESS,
    "unread": UNREAD,
    "exempted": a_verdict(reason=Reason.EXEMPTED),
    "not in force": a_verdict(reason=Reason.NOT_IN_FORCE),
    "nothing": NOTHING,
    "late": Failure.LATE,
}
EXPECTED = {
    frozenset({"barred", "late"}): Reason.MEASURE_IN_FORCE,
    frozenset({"barred", "unread"}): Reason.MEASURE_IN_FORCE,
    frozenset({"barred", "nothing"}): Reason.MEASURE_IN_FORCE,
    frozenset({"nameless", "unread"}): Reason.INDEX_UNREACHABLE,
    frozenset({"nameless", "nothing"}): Reason.NAME_REQUIRED,
    frozenset({"unread", "nothing"}): Reason.INDEX_UNREACHABLE,
    frozenset({"exempted", "not in force"}): Reason.EXEMPTED,
    frozenset({"not in force", "nothing"}): Reason.NOT_IN_FORCE,
    frozenset({"nothing", "late"}): Reason.CENTRE_LATE,
    frozenset({"exempted", "late"}): Reason.CENTRE_LATE,
    frozenset({"nameless", "late"}): Reason.CENTRE_LATE,
}


@pytest.mark.parametrize("pair", [pytest.param(pair, id=" and ".join(sorted(pair))) for pair in EXPECTED])
@pytest.mark.parametrize("turned", [False, True])
async def test_several_keys_have_one_answer(pair: frozenset[str], turned: bool) -> None:
    """Any BARRED bars, else any UNKNOWN is UNKNOWN, in the fixed order of reasons, whichever key comes first. A key the
    centre did not answer, and the filter holds, is UNKNOWN."""
    said = [SAID[word] for word in sorted(pair, reverse=turned)]

    async def ask(question: Question, deadline: float) -> Verdict:
        answer = said[asked.keys.index(question.key)]
        if isinstance(answer, Failure):
            raise CentreFailed(answer, "scripted")
        return answer

    asked = need(a_live(), number=AMBIGUOUS, document_type=0)
    asked = asked._replace(keys=asked.keys[:2], types=asked.types[:2])
    edge = Edge(ask, listed=asked.keys)
    decision = await edge.one(asked)
    assert decision.reason is EXPECTED[pair]
    for verdict in said:
        if isinstance(verdict, Verdict) and verdict.reason is decision.reason:
            assert decision.decision_id == verdict.decision_id


# --- standing in -------------------------------------------------------------------------------------------------

LAG_S = {Age.FRESH: 30, Age.STALE: 3600, Age.OLD: 25 * 3600}
ALLOWED_CELLS = {(Age.FRESH, False): (), (Age.STALE, False): (Advisory.STALE_DATA,)}


@pytest.mark.parametrize("failure", Failure)
@pytest.mark.parametrize("hit", [False, True])
@pytest.mark.parametrize("age", Age)
async def test_without_the_centre_the_table_answers(age: Age, hit: bool, failure: Failure) -> None:
    """Each cell: ALLOWED leaves a counter and nothing else; UNKNOWN has a decision id and waits to be asked again."""
    edge = Edge(Ready(failure))
    asked = need(edge.live)
    if hit:
        edge.live.add(asked.keys)
    edge.clock.forward(LAG_S[age])
    assert edge.live.age() is age
    decision = await edge.one(asked)
    assert edge.live.numbers.stand_ins == 1
    if (age, hit) in ALLOWED_CELLS:
        assert decision.outcome is Outcome.ALLOWED
        assert (decision.decision_id, edge.advice.kept) == ("", [])
        assert set(ALLOWED_CELLS[age, hit]) <= set(decision.advisories)
    else:
        assert (decision.outcome, decision.reason) == (Outcome.UNKNOWN, failure.value)
        assert decision.answered_by is AnsweredBy.STAND_IN
        assert time_of(decision.decision_id) == edge.clock.ms
        assert edge.advice.kept == [Kept(decision.decision_id, "", questions_of(asked), edge.clock.ms)]


async def test_a_demand_of_freshness_beyond_ours_is_unknown_whatever_the_filter_says() -> None:
    """The caller wants the feed known to line 101, we know 100: a miss of the freshest filter proves nothing."""
    edge = Edge(Ready(Failure.UNREACHABLE))
    decision = await edge.one(need(edge.live, min_feed_sequence=101))
    assert (decision.outcome, decision.reason) == (Outcome.UNKNOWN, Reason.CENTRE_UNREACHABLE)
    beat(edge.live, edge.clock, AS_OF._replace(feed_sequence=101))
    assert (await edge.one(need(edge.live, min_feed_sequence=101))).outcome is Outcome.ALLOWED


async def test_a_strict_rulebook_clears_nobody_on_stale_data() -> None:
    """The kind of purchase is among `stand_in_strict`: UNKNOWN at a stale miss; another kind is cleared."""
    edge = Edge(Ready(Failure.LATE), strict=True)
    edge.clock.forward(3600)
    assert (await edge.one(need(edge.live))).outcome is Outcome.UNKNOWN
    assert (await edge.one(need(edge.live, Lodging(5)))).outcome is Outcome.ALLOWED


async def test_an_unrestricted_purchase_under_doubtful_rules_stays_allowed() -> None:
    """Asked because our rules may be old; without the centre they decide, with a remark, and nothing is kept."""
    edge = Edge(Ready(Failure.UNREACHABLE))
    edge.live.doubt(doubtful=True)
    decision = await edge.one(need(edge.live, Lodging(0)))
    assert (decision.outcome, decision.reason) == (Outcome.ALLOWED, Reason.PURCHASE_NOT_RESTRICTED)
    assert decision.advisories == (Advisory.STALE_DATA,)
    assert edge.advice.kept == []


async def test_a_bar_by_newer_rules_names_no_rule_of_ours() -> None:
    """The centre bars what our older rules leave free: BARRED, without the basis of a row that bars nobody."""
    edge = Edge(Ready(BARRED))
    edge.live.doubt(doubtful=True)
    decision = await edge.one(need(edge.live, Lodging(0)))
    assert (decision.outcome, decision.rule_id) == (Outcome.BARRED, "")


async def test_no_failure_at_any_age_bars() -> None:
    """Every age, hit or miss, every failure, strict or not: never BARRED."""
    for age, hit, failure, strict in itertools.product(Age, (True, False), Failure, (True, False)):
        edge = Edge(Ready(failure), strict=strict)
        asked = need(edge.live)
        if hit:
            edge.live.add(asked.keys)
        edge.clock.forward(LAG_S[age])
        assert (await edge.one(asked)).outcome in (Outcome.ALLOWED, Outcome.UNKNOWN)


async def test_a_nodes_caller_is_who_hears_of_it_later() -> None:
    """In a call, the caller's name goes with the question."""
    edge = Edge(Ready(Failure.LATE))
    token = interceptors._current.set(Call(Caller("rail", Role.BOOKING), math.inf))
    try:
        await edge.one(need(edge.live, min_feed_sequence=999))
    finally:
        interceptors._current.reset(token)
    assert [kept.caller for kept in edge.advice.kept] == ["rail"]


# --- over the whole stack ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.001, 0.05])
async def test_the_answer_is_there_before_the_deadline(seconds: float) -> None:
    """A centre that never answers, or a deadline too short to ask at all: the stand-in is ready in time, as LATE."""

    async def never(request: object, context: object) -> None:
        await asyncio.sleep(3600)

    async with a_centre(never) as server:  # type: ignore[arg-type]
        centre = Centre([server.address])
        live = a_live()
        stack = build(live, centre, timeout_s=3600)
        settle = EdgeSettler(live, stack, Waiting(), timeout_s=3600)
        asked = need(live)
        live.add(asked.keys)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(30):  # not the centre's time, an hour
            settled = await settle([asked], loop.time() + seconds)
        assert settled.decisions[0].reason is Reason.CENTRE_LATE
        await stack.close()
        await centre.close()


async def test_the_stack_asks_the_centre_once_for_a_batch_of_false_positives() -> None:
    """A hundred checks of ten persons the index does not hold: one call of ten items; asked again, none."""
    async with a_centre() as server:
        centre = Centre([server.address])
        live = a_live()
        stack = build(live, centre, timeout_s=5.0)
        settle = EdgeSettler(live, stack, Waiting(), timeout_s=5.0)
        needs = [need(live, number=resident_id(number % 10)) for number in range(100)]
        for one in needs:
            live.add(one.keys)
        for _ in range(2):
            settled = await settle(needs, math.inf)
            assert {decision.outcome for decision in settled.decisions} == {Outcome.ALLOWED}
        assert [len(request.items) for request in server.requests] == [10]
        assert (live.numbers.hits, live.numbers.false_positives) == (200, 200)
        await stack.close()
        await centre.close()
