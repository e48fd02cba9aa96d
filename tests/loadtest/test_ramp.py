"""Claims about the search for the highest rate: it finds the knee, wherever it is, in few trials."""

from hypothesis import given
from hypothesis import strategies as st

from loadtest.ramp import CLOSE, Trial, highest, search


def a_trial(rate: float, held: bool) -> Trial:
    """A trial with this result."""
    return Trial(rate, held, False, rate, 1.0, 5.0, 80.0)


def searched(first: float, knee: float, most: int = 30) -> list[Trial]:
    """The trials against a target that holds below `knee`."""
    trials: list[Trial] = []
    for rate in search(first, most, trials):
        trials.append(a_trial(rate, rate < knee))  # noqa: PERF401 - the search reads it as it grows
    return trials


@given(first=st.floats(1, 1e5), knee=st.floats(1, 1e6))
def test_the_knee_is_found_within_five_percent(first: float, knee: float) -> None:
    """The highest rate kept lies below the knee, and the lowest broken one is not further away than the gap allows."""
    trials = searched(first, knee, most=60)
    found = highest(trials)
    broken = min(trial.rate for trial in trials if not trial.held)

    assert found is not None
    assert found < knee <= broken
    assert broken - found <= CLOSE * broken


@given(first=st.floats(1, 1e5), knee=st.floats(1, 1e6), most=st.integers(1, 12))
def test_the_search_is_bounded(first: float, knee: float, most: int) -> None:
    """Never more trials than asked for."""
    assert len(searched(first, knee, most)) <= most


def test_a_rate_that_held_above_a_broken_one_does_not_count() -> None:
    """With noise, only what lies below every broken rate is shown."""
    assert highest([a_trial(100, True), a_trial(200, False), a_trial(300, True)]) == 100
    assert highest([a_trial(200, False), a_trial(300, True)]) is None
