"""What an edge answers in the centre's place: design.md §8's table, cell by cell."""

import itertools

import pytest

from checker.core.decision import Advisory, AnsweredBy, Outcome, Reason
from checker.core.purchase import DomesticTour, Flight, Lodging
from checker.core.stand_in import Age, EdgeLimits, Failure, is_asked, stand_in
from tests.builders import NOW, rulebook

ASKED, ALLOWED, REMARKED, UNKNOWN = "asked", "ALLOWED", "ALLOWED + STALE_DATA", "UNKNOWN"
# age, filter hit -> centre reachable, centre out of reach; written from the page, not from the code
TABLE = {
    (Age.FRESH, False): (ALLOWED, ALLOWED),
    (Age.FRESH, True): (ASKED, UNKNOWN),
    (Age.STALE, False): (ASKED, REMARKED),
    (Age.STALE, True): (ASKED, UNKNOWN),
    (Age.OLD, False): (ASKED, UNKNOWN),
    (Age.OLD, True): (ASKED, UNKNOWN),
}
FLIGHT = rulebook().screen(Flight(), NOW)
CELLS = [
    pytest.param(age, hit, failure, id=f"{age.value}-{'hit' if hit else 'miss'}-{failure.name.lower()}")
    for (age, hit), failure in itertools.product(TABLE, Failure)
]


def in_words(outcome: Outcome, advisories: tuple[Advisory, ...]) -> str:
    """An answer as the table words it."""
    return " + ".join([outcome.name, *(advisory.name for advisory in advisories)])


@pytest.mark.parametrize(("age", "hit", "failure"), CELLS)
def test_without_the_centre(age: Age, hit: bool, failure: Failure) -> None:
    """Each cell of the column "unreachable, late or signed off" says what the page says, and why."""
    decision = stand_in(FLIGHT, age, failure, hit=hit)
    assert in_words(decision.outcome, decision.advisories) == TABLE[age, hit][1]
    assert decision.rule_id == FLIGHT.row.rule_id
    if decision.outcome is Outcome.UNKNOWN:
        assert decision.reason is failure.value
        assert decision.answered_by is AnsweredBy.STAND_IN
    elif age is not Age.FRESH:
        assert (decision.reason, decision.answered_by) == (Reason.NOT_LISTED, AnsweredBy.STAND_IN)
    else:
        assert decision == FLIGHT.miss


@pytest.mark.parametrize(("age", "hit"), TABLE)
def test_with_the_centre(age: Age, hit: bool) -> None:
    """Each cell of the column "reachable": everybody is asked about but a miss of a fresh filter."""
    assert is_asked(age, hit=hit) == (TABLE[age, hit][0] == ASKED)


def test_no_cell_bars() -> None:
    """Whatever the purchase, the age, the filter, the failure and the rulebook's strictness: never BARRED."""
    for purchase in (Flight(), Lodging(5), Lodging(0), DomesticTour(is_package=True)):
        screened = rulebook().screen(purchase, NOW)
        for age, failure, hit, strict in itertools.product(Age, Failure, (True, False), (True, False)):
            decision = stand_in(screened, age, failure, hit=hit, strict=strict)
            assert decision.outcome in (Outcome.ALLOWED, Outcome.UNKNOWN)


@pytest.mark.parametrize("hit", [False, True])
def test_strict_turns_a_stale_miss_into_unknown(hit: bool) -> None:
    """Where the rulebook is strict about a kind of purchase, only fresh data clear anybody."""
    said = {age: stand_in(FLIGHT, age, Failure.LATE, hit=hit, strict=True).outcome for age in Age}
    fresh = Outcome.UNKNOWN if hit else Outcome.ALLOWED
    assert said == {Age.FRESH: fresh, Age.STALE: Outcome.UNKNOWN, Age.OLD: Outcome.UNKNOWN}


def test_a_purchase_nobody_can_be_barred_from_stays_allowed() -> None:
    """Asked only because the rules were in doubt: without the centre the rules at hand decide, with a remark."""
    screened = rulebook().screen(Lodging(0), NOW)
    for age, failure, hit in itertools.product(Age, Failure, (True, False)):
        decision = stand_in(screened, age, failure, hit=hit, strict=True)
        assert (decision.outcome, decision.reason) == (Outcome.ALLOWED, Reason.PURCHASE_NOT_RESTRICTED)
        assert Advisory.STALE_DATA in decision.advisories


@pytest.mark.parametrize(
    ("lag_ms", "age"),
    [
        (0, Age.FRESH),
        (60_000, Age.FRESH),
        (60_001, Age.STALE),
        (86_400_000, Age.STALE),
        (86_400_001, Age.OLD),
        (float("inf"), Age.OLD),
    ],
)
def test_the_rows_begin_where_the_page_says(lag_ms: float, age: Age) -> None:
    """Fresh up to 60 s of lag, stale up to 24 hours, both ends included; without a filter, old."""
    assert EdgeLimits().age(lag_ms) is age
