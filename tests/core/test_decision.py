"""How several verdicts become one answer: the whole truth table."""

from itertools import combinations_with_replacement, permutations

import pytest

from checker.core.decision import Advisory, AnsweredBy, Outcome, Reason, Verdict, combine

# What the index can say of a measure, in the order in which it decides (design.md §3).
ORDER = [
    (Reason.MEASURE_IN_FORCE, Outcome.BARRED),
    (Reason.DATA_STALE, Outcome.UNKNOWN),
    (Reason.INDEX_UNREACHABLE, Outcome.UNKNOWN),
    (Reason.NAME_REQUIRED, Outcome.UNKNOWN),
    (Reason.EXEMPTED, Outcome.ALLOWED),
    (Reason.OUT_OF_SCOPE, Outcome.ALLOWED),
    (Reason.NOT_IN_FORCE, Outcome.ALLOWED),
    (Reason.NOT_LISTED, Outcome.ALLOWED),
]
RANK = {reason: rank for rank, (reason, _) in enumerate(ORDER)}
OUTCOME = dict(ORDER)


@pytest.mark.parametrize("reasons", list(combinations_with_replacement(RANK, 3)), ids=str)
def test_truth_table(reasons: tuple[Reason, ...]) -> None:
    """For every three verdicts, in whatever order they come, the first of the fixed order decides."""
    first = min(reasons, key=RANK.__getitem__)
    for order in permutations(reasons):
        decision = combine([Verdict(reason, None, f"M{at}") for at, reason in enumerate(order)], "row")
        assert (decision.reason, decision.outcome) == (first, OUTCOME[first])


def test_no_measure_is_not_listed() -> None:
    """A key under which nothing stands is ALLOWED, NOT_LISTED, answered by the index."""
    decision = combine([], "row")
    assert (decision.outcome, decision.reason, decision.answered_by) == (
        Outcome.ALLOWED,
        Reason.NOT_LISTED,
        AnsweredBy.INDEX,
    )


def test_only_a_measure_in_force_bars() -> None:
    """No set of verdicts without MEASURE_IN_FORCE is BARRED: doubt never adds up to a refusal."""
    doubts = [reason for reason in RANK if reason is not Reason.MEASURE_IN_FORCE]
    for reasons in combinations_with_replacement(doubts, 4):
        assert combine([Verdict(reason, None, "M") for reason in reasons], "row").outcome is not Outcome.BARRED


def test_the_measures_named_are_those_that_decided() -> None:
    """Evidence names the barring measures only, and an ALLOWED names none."""
    verdicts = [
        Verdict(Reason.EXEMPTED, None, "A"),
        Verdict(Reason.MEASURE_IN_FORCE, None, "B"),
        Verdict(Reason.MEASURE_IN_FORCE, None, "C"),
    ]
    assert combine(verdicts, "row").measures == ("B", "C")
    assert combine(verdicts[:1], "row").measures == ()


def test_advisories_are_kept_once_each() -> None:
    """Remarks of all measures are kept, sorted and without repeats."""
    verdicts = [
        Verdict(Reason.NOT_LISTED, Advisory.NAME_MISMATCH, "A"),
        Verdict(Reason.OUT_OF_SCOPE, Advisory.MINOR, "B"),
        Verdict(Reason.NOT_LISTED, Advisory.NAME_MISMATCH, "C"),
    ]
    assert combine(verdicts, "row").advisories == (Advisory.NAME_MISMATCH, Advisory.MINOR)
