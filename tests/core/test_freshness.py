"""Claims about the feed's age: stale data may only favour the person, and exactly from the moment it says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checker.core.freshness import HOUR_MS, MINUTE_MS, AsOf, Limits, is_stale, may_bar
from tests.builders import NOW

LIMITS = Limits()


@pytest.mark.parametrize(
    ("silent_ms", "stale", "bars"),
    [
        (0, False, True),
        (15 * MINUTE_MS, False, True),
        (15 * MINUTE_MS + 1, True, True),
        (24 * HOUR_MS, True, True),
        (24 * HOUR_MS + 1, True, False),
        (-HOUR_MS, False, True),  # the feed's clock runs ahead of ours
    ],
)
def test_a_silent_feed(silent_ms: int, stale: bool, bars: bool) -> None:
    """Silence earns STALE_DATA after 15 minutes and bars nobody after 24 hours, to the millisecond."""
    as_of = AsOf(1, NOW - silent_ms, 0, 0)

    assert (stale, bars) == (is_stale(as_of, LIMITS, NOW), may_bar(as_of, LIMITS, NOW))


@pytest.mark.parametrize(("open_ms", "bars"), [(1, True), (15 * MINUTE_MS, True), (15 * MINUTE_MS + 1, False)])
def test_a_gap_in_the_feed(open_ms: int, bars: bool) -> None:
    """A gap may hold a removal, so one open for longer than its grace bars nobody, however fresh the feed is."""
    assert may_bar(AsOf(1, NOW, NOW - open_ms, 0), LIMITS, NOW) is bars


def test_an_index_that_never_saw_a_feed_bars_nobody() -> None:
    """Nothing imported: stale, and no ground to refuse anybody."""
    assert is_stale(AsOf(0, 0, 0, 0), LIMITS, NOW)
    assert not may_bar(AsOf(0, 0, 0, 0), LIMITS, NOW)


@given(
    st.builds(AsOf, st.integers(0, 9), st.integers(0, NOW), st.integers(0, NOW), st.just(0)),
    st.builds(Limits, st.integers(0, NOW), st.integers(0, NOW), st.integers(0, NOW)),
    st.integers(0, NOW),
    st.integers(0, NOW),
)
def test_time_alone_never_makes_data_fit_again(as_of: AsOf, limits: Limits, at: int, later: int) -> None:
    """With nothing new heard, what is stale stays stale, and who may not be barred now may not be barred later."""
    now, then = NOW + at, NOW + at + later

    assert not is_stale(as_of, limits, now) or is_stale(as_of, limits, then)
    assert may_bar(as_of, limits, now) or not may_bar(as_of, limits, then)
