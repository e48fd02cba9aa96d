"""The check itself: domain.md §8 case by case, and what doubt does. All in memory: the core asks nobody."""

from collections.abc import Mapping
from typing import Any

import pytest

from checker.core import purchase as p
from checker.core import trace
from checker.core.decision import Advisory, AnsweredBy, Decision, Outcome, Reason
from checker.core.document import Document, DocumentType
from checker.core.freshness import AsOf, Limits
from checker.core.lookup import LookupKey, NeedExact, Query, View, begin, finish
from checker.core.measure import Item, Kind, Measure, Role, State, Window
from checker.core.rules import DAY_MS
from tests.builders import DEBTOR, KEY, MINOR, NOW, a_measure, a_view, ms, rulebook

ALLOWED, BARRED, UNKNOWN = Outcome.ALLOWED, Outcome.BARRED, Outcome.UNKNOWN
G1 = p.Train("G1", "O", "", False, False)


def ask(
    purchase: p.Purchase,
    *measures: Measure,
    view: View | None = None,
    now: int = NOW,
    number: str = DEBTOR,
    document_type: int = DocumentType.RESIDENT_ID,
    country: str = "",
    name: str = "",
    act: int = 0,
    service: int = 0,
    as_of: AsOf | None = None,
    min_feed_sequence: int = 0,
) -> Decision:
    """Ask with these measures under every key of the document."""
    view = view or a_view(as_of=as_of)
    query = Query(purchase, document_type, number, country, None, name, b"", act, service, min_feed_sequence)
    step = begin(query, view, now)
    if isinstance(step, Decision):
        return step
    found: Mapping[bytes, tuple[Measure, ...] | None] = dict.fromkeys(step.keys, measures)
    return finish(step, found, as_of or view.as_of, now)


def train(code: str, seat: str, name: str = "", *, standing: bool = False) -> p.Train:
    return p.Train(code, seat, name, False, standing)


P = a_measure()
LIFTED = a_measure(state=State.SHIELDED)
T = NOW - 60_000
"""When the order of case 13 was removed: wall-clock times of asking ("Decided" 12)."""
OLDER = AsOf(90, T - 1, 0, 0)

CASES = [
    ("1", G1, [P], {}, BARRED, ()),
    ("2", train("G1", "O", standing=True), [P], {}, BARRED, ()),
    ("3 O", train("D301", "O"), [P], {}, ALLOWED, ()),
    ("3 J", train("D301", "J"), [P], {}, ALLOWED, ()),
    ("3 F", train("D301", "F"), [P], {}, BARRED, ()),
    ("3 M", train("D301", "M"), [P], {}, BARRED, ()),
    ("3 D", train("D301", "D", "优选一等座"), [P], {}, BARRED, ()),
    ("4 O", train("C2001", "O"), [P], {}, ALLOWED, ()),
    ("4 M", train("C2001", "M"), [P], {}, BARRED, ()),
    ("5 2", train("T109", "2"), [P], {}, ALLOWED, ()),
    ("5 3", train("T109", "3"), [P], {}, ALLOWED, ()),
    ("5 4", train("T109", "4"), [P], {}, BARRED, ()),
    ("5 6", train("T109", "6"), [P], {}, BARRED, ()),
    ("6", train("1461", "1", standing=True), [P], {}, ALLOWED, ()),
    ("6 full-width", train("ｋ５１２次", "4"), [P], {}, BARRED, ()),
    ("7 new", train("D301", "S", "二等包座"), [P], {}, ALLOWED, ()),
    ("7 old", train("D301", "S", "一等包座"), [P], {}, BARRED, ()),
    ("7 none", train("D301", "S"), [P], {}, ALLOWED, (Advisory.OPEN_RULE,)),
    ("8", train("D301", "0"), [P], {}, ALLOWED, (Advisory.OPEN_RULE,)),
    ("9 second", p.Ship("二等"), [P], {}, BARRED, ()),
    ("9 third", p.Ship("三等"), [P], {}, ALLOWED, ()),
    ("9 VIP", p.Ship("VIP"), [P], {}, ALLOWED, (Advisory.OPEN_RULE,)),
    ("10 five stars", p.Lodging(5), [P], {}, BARRED, ()),
    ("10 two stars", p.Lodging(2), [P], {}, BARRED, ()),
    ("10 unrated", p.Lodging(0), [P], {}, ALLOWED, ()),
    ("11", p.School(True, p.Money("CNY", 1), "BJ", False), [P], {}, ALLOWED, (Advisory.OPEN_RULE,)),
    ("13 before", p.Flight(), [P], {"now": T - 1}, BARRED, ()),
    ("13 at", p.Flight(), [LIFTED], {"now": T}, ALLOWED, ()),
    ("13 after", p.Flight(), [LIFTED], {"now": T + 1000}, ALLOWED, ()),
    ("13 bought before", p.Flight(), [LIFTED], {"now": T + 1000, "act": T - 1}, ALLOWED, ()),
    ("13 older snapshot", p.Flight(), [LIFTED], {"now": T + 1000, "view": a_view(as_of=OLDER)}, ALLOWED, ()),
    ("15", p.Flight(), [P], {"name": "李四"}, ALLOWED, (Advisory.NAME_MISMATCH,)),
    ("16", p.Flight(), [P], {"number": "4405241880****0014"}, Outcome.INVALID_DOCUMENT, ()),  # asked; loaded: test_feed
    ("17 old", p.Flight(), [a_measure(role=Role.LEGAL_REP, state=State.SHIELDED)], {}, ALLOWED, ()),
    ("17 new", p.Flight(), [], {}, ALLOWED, ()),
    ("20", p.DomesticTour(True), [a_measure(items=Item.FLIGHT | Item.TRAIN)], {}, ALLOWED, ()),
    ("23", p.Flight(), [], {"name": "李四"}, ALLOWED, ()),
    ("25 related", p.Resort("国家级", p.Money("CNY", 1), "BJ"), [a_measure(role=Role.CONTROLLER)], {}, ALLOWED,
     (Advisory.OPEN_RULE,)),
    ("25 no cap", p.Resort("国家级", p.Money("CNY", 1), "BJ"), [P], {}, ALLOWED, (Advisory.OPEN_RULE,)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("purchase", "measures", "asked", "outcome", "advisories"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_domain_cases(
    purchase: p.Purchase,
    measures: list[Measure],
    asked: dict[str, Any],
    outcome: Outcome,
    advisories: tuple[Advisory, ...],
) -> None:
    """The case of domain.md §8 with this number is answered as written there ("Decided" 2 for hotels)."""
    decision = ask(purchase, *measures, **asked)
    assert (decision.outcome, decision.advisories) == (outcome, advisories)


def test_case_12_exemption_covers_the_service_time() -> None:
    """A temporary lift 03-01 to 03-31 covers a flight at 03-31 23:59, not one at 04-01 00:00, and no hotel."""
    lift = Window(Item.FLIGHT | Item.TRAIN, ms("2026-03-01"), ms("2026-04-01"))
    measure = a_measure(exemptions=(lift,))
    assert ask(p.Flight(), measure, service=ms("2026-03-31T23:59:00")).reason is Reason.EXEMPTED
    assert ask(p.Flight(), measure, service=ms("2026-04-01")).outcome is BARRED
    assert ask(p.Flight(), measure, service=ms("2026-02-28T23:59:59.999")).outcome is BARRED
    assert ask(p.Lodging(5), measure, service=ms("2026-03-15")).outcome is BARRED


def test_case_14_an_order_outlives_the_list_record() -> None:
    """A list record removed by 终本 leaves the order, which bars."""
    record = a_measure("L1", kind=Kind.LIST, state=State.SHIELDED)
    assert ask(G1, record, a_measure("O1")).outcome is BARRED
    assert ask(G1, record).reason is Reason.NOT_IN_FORCE


def test_case_18_a_minor_is_never_barred() -> None:
    """At 17 years 364 days the order rests, with MINOR; on the 18th birthday it bars."""
    birthday = ms("2028-12-31")
    measure = a_measure(adult_from_day=(birthday + 8 * 3_600_000) // DAY_MS)
    fresh = AsOf(100, birthday, 0, 0)
    before = ask(G1, measure, now=birthday - 1, as_of=fresh)
    assert (before.outcome, before.reason, before.advisories) == (ALLOWED, Reason.OUT_OF_SCOPE, (Advisory.MINOR,))
    assert ask(G1, measure, now=birthday, as_of=fresh).outcome is BARRED
    # Judged at the earlier of both: neither an early act nor a late asking makes a minor an adult.
    assert ask(G1, measure, now=birthday, act=birthday - 1, as_of=fresh).outcome is ALLOWED
    assert ask(G1, measure, now=birthday - 1, act=birthday, as_of=fresh).outcome is ALLOWED


def test_case_19_an_exemption_touches_its_own_measure_only() -> None:
    """One court's exemption leaves another court's order as it is."""
    window = Window(0xFFFF, ms("2026-01-01"), ms("2027-01-01"))
    exempted = a_measure("A", exemptions=(window,))
    assert ask(G1, exempted).reason is Reason.EXEMPTED
    assert ask(G1, exempted, a_measure("B")).outcome is BARRED


def known(document_type: int, number: str, *measures: Measure) -> dict[bytes, tuple[Measure, ...] | None]:
    """What the index holds of one document."""
    step = begin(Query(p.Flight(), document_type, number, name="张三"), a_view(), NOW)
    assert isinstance(step, NeedExact)
    return dict.fromkeys(step.keys, measures)


def test_case_21_one_barred_in_five_leaves_four() -> None:
    """A batch of five read from the index at once: the one listed is barred, the four others are sold."""
    others = ("11010519491231002X", "810000199408230021", "830000199201300022", MINOR)
    queries = [Query(p.Flight(), DocumentType.RESIDENT_ID, number) for number in (*others[:2], DEBTOR, *others[2:])]
    steps = [begin(query, a_view(), NOW) for query in queries]
    index = known(DocumentType.RESIDENT_ID, DEBTOR, P)
    found = {key: index.get(key, ()) for step in steps if isinstance(step, NeedExact) for key in step.keys}

    answers = [finish(step, found, a_view().as_of, NOW) for step in steps if isinstance(step, NeedExact)]
    assert [answer.outcome for answer in answers] == [ALLOWED, ALLOWED, BARRED, ALLOWED, ALLOWED]


def test_case_24_a_renewed_passport_is_unknown_to_the_feed() -> None:
    """The index holds the old passport; asked with the new number the sale goes on, a gap that is accepted."""
    index = known(DocumentType.PRC_PASSPORT, "E00001234", P)

    outcomes = []
    for number in ("E00001234", "E00005678"):
        step = begin(Query(p.Flight(), DocumentType.PRC_PASSPORT, number, name="张三"), a_view(), NOW)
        assert isinstance(step, NeedExact)
        outcomes.append(finish(step, {key: index.get(key, ()) for key in step.keys}, a_view().as_of, NOW).outcome)
    assert outcomes == [BARRED, ALLOWED]


def test_case_22_a_feed_silent_for_25_hours_bars_nobody() -> None:
    """A hit on data older than 24 hours is UNKNOWN, DATA_STALE; at 24 hours it still bars; misses are untouched."""
    hour = 3_600_000
    stale = ask(G1, P, as_of=AsOf(100, NOW - 25 * hour, 0, 0))
    assert (stale.outcome, stale.reason, stale.advisories) == (UNKNOWN, Reason.DATA_STALE, (Advisory.STALE_DATA,))
    assert ask(G1, P, as_of=AsOf(100, NOW - 24 * hour, 0, 0)).outcome is BARRED
    assert ask(G1, as_of=AsOf(100, NOW - 25 * hour, 0, 0)).outcome is ALLOWED
    # A measure that would not bar anyway stays what it is.
    lifted = a_measure(state=State.REVOKED)
    assert ask(G1, lifted, as_of=AsOf(100, NOW - 25 * hour, 0, 0)).reason is Reason.NOT_IN_FORCE


def test_a_gap_bars_nobody_after_its_grace() -> None:
    """With lines of the feed missing for longer than the grace a hit is UNKNOWN: the person may have been freed."""
    minute = 60_000
    assert ask(G1, P, as_of=AsOf(100, NOW, NOW - 15 * minute, 0)).outcome is BARRED
    assert ask(G1, P, as_of=AsOf(100, NOW, NOW - 16 * minute, 0)).reason is Reason.DATA_STALE


def test_a_past_act_time_never_revives_a_measure() -> None:
    """A measure bars only if in force both at the act and now: ended since, or begun since, it does not."""
    ended = a_measure(effective_to="2026-03-01")
    begun = a_measure(effective_from="2026-03-05")
    before = ms("2026-02-01")
    assert ask(G1, ended, act=before).reason is Reason.NOT_IN_FORCE
    assert ask(G1, begun, act=before).reason is Reason.NOT_IN_FORCE
    assert ask(G1, begun).outcome is BARRED
    assert ask(G1, a_measure(state=State.SHIELDED), act=before).reason is Reason.NOT_IN_FORCE


def test_period_boundaries() -> None:
    """A period is in force from its first millisecond to the last before its end."""
    measure = a_measure(effective_from="2026-03-01", effective_to="2026-04-01")
    first, end = ms("2026-03-01"), ms("2026-04-01")
    for moment, outcome in [(first - 1, ALLOWED), (first, BARRED), (end - 1, BARRED), (end, ALLOWED)]:
        assert ask(G1, measure, now=moment, as_of=AsOf(1, moment, 0, 0)).outcome is outcome


@pytest.mark.parametrize(
    ("kind", "items", "purchase", "outcome"),
    [
        (Kind.LIST, None, G1, BARRED),
        (Kind.LIST, None, p.Flight(), BARRED),
        (Kind.LIST, None, p.Ship("二等"), ALLOWED),
        (Kind.LIST, None, p.DomesticTour(True), ALLOWED),
        (Kind.LIST, None, p.OfficeLease("甲级"), ALLOWED),
        (Kind.ORDER, None, p.Ship("二等"), BARRED),
        (Kind.ORDER, None, p.DomesticTour(True), BARRED),
        (Kind.ORDER, None, p.OfficeLease("甲级"), ALLOWED),
        (Kind.ORDER, Item.OFFICE_LEASE, p.OfficeLease("甲级"), BARRED),
        (Kind.ORDER, Item.FLIGHT, G1, ALLOWED),
        (Kind.ORDER, Item.OUTBOUND_SERVICE, p.OutboundTour(False, True, ""), BARRED),
        (Kind.ORDER, Item.OUTBOUND_SERVICE, p.OutboundTour(True, True, ""), ALLOWED),
    ],
)
def test_what_each_measure_reaches(kind: Kind, items: Item | None, purchase: p.Purchase, outcome: Outcome) -> None:
    """An order bars its items, a list record the policy's categories, and an office only an order that names it."""
    assert ask(purchase, a_measure(kind=kind, items=items)).outcome is outcome


def test_resort_cap_binds_the_debtor_only() -> None:
    """With a cap set, spending above it is barred for the listed debtor and not for a related person (case 25)."""
    view = a_view(rulebook(("[parameters.resort_cap_cny]", "[parameters.resort_cap_cny]\nBJ = 1000")))
    spend = p.Resort("国家级", p.Money("CNY", 1001 * 10**9), "BJ")
    named = Item.RESORT_SPEND
    assert ask(spend, a_measure(items=named), view=view).outcome is BARRED
    assert ask(spend, a_measure(items=named, role=Role.LEGAL_REP), view=view).reason is Reason.OUT_OF_SCOPE


@pytest.mark.parametrize(
    ("document_type", "number", "country", "required"),
    [
        (DocumentType.RESIDENT_ID, DEBTOR, "", False),
        (DocumentType.HMT_RESIDENCE_PERMIT, "810000199408230021", "", False),
        (DocumentType.PRC_PASSPORT, "E00001234", "", True),
        (DocumentType.HK_MACAU_TRAVEL_PERMIT, "H00001234", "", True),
        (DocumentType.FOREIGN_PASSPORT, "X0000123", "XAA", True),
        (DocumentType.UNSPECIFIED, "00001234", "", True),
    ],
)
def test_name_required(document_type: int, number: str, country: str, required: bool) -> None:
    """Without a name a resident ID or permit bars; any other document, or an ambiguous number, is UNKNOWN."""
    without = ask(G1, P, document_type=document_type, number=number, country=country)
    agreeing = ask(G1, P, document_type=document_type, number=number, country=country, name="张 三")
    differing = ask(G1, P, document_type=document_type, number=number, country=country, name="李四")
    expected = (UNKNOWN, Reason.NAME_REQUIRED) if required else (BARRED, Reason.MEASURE_IN_FORCE)
    assert (without.outcome, without.reason) == expected
    assert agreeing.outcome is BARRED
    assert (differing.outcome, differing.advisories) == (ALLOWED, (Advisory.NAME_MISMATCH,))


def test_a_missing_name_on_a_measure_that_would_not_bar_is_no_doubt() -> None:
    """Out of scope or exempted, a passport hit without a name is ALLOWED: the seller is not sent asking for nothing."""
    window = Window(0xFFFF, ms("2026-01-01"), ms("2027-01-01"))
    for measure, reason in [
        (a_measure(items=Item.HOTEL), Reason.OUT_OF_SCOPE),
        (a_measure(exemptions=(window,)), Reason.EXEMPTED),
    ]:
        decision = ask(G1, measure, document_type=DocumentType.PRC_PASSPORT, number="E00001234")
        assert (decision.outcome, decision.reason) == (ALLOWED, reason)


def test_rules_come_before_the_document() -> None:
    """An unrestricted purchase with a bad number is ALLOWED: nobody is looked at."""
    decision = ask(train("K512", "3"), P, number="nonsense")
    assert (decision.outcome, decision.reason, decision.answered_by) == (
        ALLOWED,
        Reason.PURCHASE_NOT_RESTRICTED,
        AnsweredBy.RULES,
    )


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        ("440524188001010015", Reason.BAD_CHECKSUM),
        ("440524188002300013", Reason.BAD_DATE),
        ("990524188001010011", Reason.BAD_FORMAT),
        ("", Reason.BAD_FORMAT),
    ],
)
def test_a_malformed_document_is_an_answer(number: str, reason: Reason) -> None:
    """A number that cannot be one is INVALID_DOCUMENT with its fault, not an error and not a refusal."""
    decision = ask(G1, P, number=number)
    assert (decision.outcome, decision.reason) == (Outcome.INVALID_DOCUMENT, reason)
    assert number not in decision.hint or not number


def test_an_unread_key_is_doubt_but_another_key_may_bar() -> None:
    """A key the index could not read is UNKNOWN; if another key of the same document bars, it bars."""
    view = a_view()
    step = begin(Query(G1, DocumentType.UNSPECIFIED, "H00001234", name="张三"), view, NOW)
    assert isinstance(step, NeedExact)
    assert len(step.keys) > 1
    first, *rest = step.keys
    unread: dict[bytes, tuple[Measure, ...] | None] = dict.fromkeys(rest, ())
    assert finish(step, {**unread, first: None}, view.as_of, NOW).reason is Reason.INDEX_UNREACHABLE
    barred = finish(step, {first: None, **dict.fromkeys(rest, (P,))}, view.as_of, NOW)
    assert barred.outcome is BARRED
    assert finish(step, {}, view.as_of, NOW).outcome is UNKNOWN


def test_min_feed_sequence_is_honoured() -> None:
    """An answer that must know the feed further than the index does is UNKNOWN, also at a filter miss."""
    view = a_view(as_of=AsOf(100, NOW, 0, 0))._replace(filter=frozenset())
    step = begin(Query(G1, DocumentType.RESIDENT_ID, DEBTOR, min_feed_sequence=101), view, NOW)
    assert isinstance(step, NeedExact)
    assert step.fresh
    assert finish(step, dict.fromkeys(step.keys, ()), AsOf(100, NOW, 0, 0), NOW).reason is Reason.DATA_STALE
    assert finish(step, dict.fromkeys(step.keys, ()), AsOf(101, NOW, 0, 0), NOW).outcome is ALLOWED
    assert ask(train("K1", "3"), min_feed_sequence=999).outcome is ALLOWED


def test_keys_of_an_edge() -> None:
    """A lookup key answers as its document does; one under another digest key is UNKNOWN, never NOT_LISTED."""
    view = a_view()
    document = begin(Query(G1, DocumentType.RESIDENT_ID, DEBTOR, name="张三"), view, NOW)
    assert isinstance(document, NeedExact)
    key = LookupKey(KEY.key_id, document.keys[0], name_required=False)
    by_key = begin(Query(G1, key=key, name_key=document.name_key), view, NOW)
    assert isinstance(by_key, NeedExact)
    assert (by_key.keys, by_key.name_key) == (document.keys, document.name_key)
    other = begin(Query(G1, key=key._replace(key_id="other")), view, NOW)
    assert isinstance(other, Decision)
    assert (other.outcome, other.reason) == (UNKNOWN, Reason.UNKNOWN_KEY)


def test_a_filter_miss_ends_the_check() -> None:
    """What the filter does not hold is ALLOWED, NOT_LISTED, by the filter; STALE_DATA when the feed is silent."""
    view = a_view()._replace(filter=frozenset())
    query = Query(G1, DocumentType.RESIDENT_ID, DEBTOR)
    miss = begin(query, view, NOW)
    assert isinstance(miss, Decision)
    assert (miss.outcome, miss.reason, miss.answered_by, miss.advisories) == (
        ALLOWED,
        Reason.NOT_LISTED,
        AnsweredBy.FILTER,
        (),
    )
    late = begin(query, view, NOW + Limits().warn_ms + 1)
    assert isinstance(late, Decision)
    assert late.advisories == (Advisory.STALE_DATA,)


def test_a_disputed_record_says_so() -> None:
    """A disputed record still bars, and the operator can see that it is disputed."""
    decision = ask(G1, a_measure(disputed=True))
    assert (decision.outcome, decision.advisories) == (BARRED, (Advisory.DISPUTED,))


def test_replaying_a_decision_gives_the_same_answer() -> None:
    """The same question on the same rulebook, records and times is answered alike, however often and whenever asked."""
    book = rulebook()
    again = rulebook(("min_star = 1", "min_star = 1 "))
    purchases: list[p.Purchase] = [G1, p.Lodging(3), p.OfficeLease("甲级"), train("D301", "M")]
    for purchase in purchases:
        answers = {ask(purchase, P, view=a_view(one), act=NOW - 5, service=NOW + 5) for one in (book, again, book)}
        assert len(answers) == 1


def test_a_trace_tells_the_steps_and_nothing_of_the_person() -> None:
    """The steps of a check are named in order; no detail holds the number, the name or the digest."""
    view = a_view()
    query = Query(G1, DocumentType.RESIDENT_ID, DEBTOR, name="张三")
    ticks = iter(range(0, 1000, 7))
    steps = trace.steps(query, view, NOW, lambda: next(ticks))
    assert [step.step for step in steps] == ["rules", "document", "key", "filter"]
    told = " ".join(step.detail for step in steps)
    step = begin(query, view, NOW)
    assert isinstance(step, NeedExact)
    assert not any(secret in told for secret in (DEBTOR, "张三", step.keys[0].hex()))
    assert [step.step for step in trace.steps(Query(train("K1", "3")), view, NOW, lambda: 0)] == ["rules"]
    invalid = trace.steps(query._replace(number=DEBTOR[:-1] + "5"), view, NOW, lambda: 0)
    assert [step.step for step in invalid] == ["rules", "document"]


def test_minor_by_number_of_the_leap_day() -> None:
    """A minor's number is a valid document: validity says nothing about age, the record does."""
    assert ask(G1, number=MINOR).outcome is ALLOWED


# An edge's questions


def test_a_question_says_the_type_behind_each_key() -> None:
    """What an edge sends the centre beside a key is the canonical type: 81 is a permit whatever was declared."""
    step = begin(Query(G1, DocumentType.RESIDENT_ID, "810000199408230021"), a_view(), NOW)
    assert isinstance(step, NeedExact)
    assert step.types == (DocumentType.HMT_RESIDENCE_PERMIT,)
    step = begin(Query(G1, DocumentType.UNSPECIFIED, "E00001234"), a_view(), NOW)
    assert isinstance(step, NeedExact)
    assert len(step.types) == len(step.keys)


def test_under_doubtful_rules_even_a_free_purchase_is_asked() -> None:
    """A hard seat is free by the rules at hand; where those may be old it is a question, if a person is named."""
    free, view = train("K101", "1", "硬座"), a_view()._replace(doubtful=True)
    by_rules = rulebook().screen(free, NOW).unrestricted
    assert begin(Query(free, DocumentType.RESIDENT_ID, DEBTOR), a_view(), NOW) == by_rules
    asked = begin(Query(free, DocumentType.RESIDENT_ID, DEBTOR), view, NOW)
    assert isinstance(asked, NeedExact)
    assert asked.keys == (KEY.document(Document(DocumentType.RESIDENT_ID, DEBTOR, "")),)
    assert begin(Query(free), view, NOW) == by_rules
    assert begin(Query(free, DocumentType.RESIDENT_ID, DEBTOR[:-1] + "5"), view, NOW) == by_rules
