"""The search for the highest rate at which an SLA still holds: pure, by doubling and bisection."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

CLOSE = 0.05
"""The gap, as a share of the rate, at which the search has found its answer."""


class Trial(NamedTuple):
    """One step: what was driven and what came of it."""

    rate: float  # checks per second that were intended
    held: bool  # the SLA
    tester_limited: bool
    asked: float  # checks per second that were asked
    p50_ms: float
    p99_ms: float
    server_cpu_us: float | None  # per check


def search(first: float, most: int, trials: Sequence[Trial]) -> Iterator[float]:
    """The rates to try. The caller appends each result to `trials` before it asks for the next.

    Doubles while the SLA holds, then halves the gap between the highest rate kept and the lowest broken. Ends after
    `most` trials, or when the gap is closed.
    """
    rate = first
    while len(trials) < most:
        yield rate
        high = min((trial.rate for trial in trials if not trial.held), default=None)
        # A rate that held above one that did not says nothing: the lower one is in doubt.
        low = max((trial.rate for trial in trials if trial.held and (high is None or trial.rate < high)), default=0.0)
        if high is None:
            rate = 2 * low
        elif high - low <= CLOSE * high:
            return
        else:
            rate = (low + high) / 2


def highest(trials: Sequence[Trial]) -> float | None:
    """The highest rate kept with none broken below it; None where there is none."""
    broken = min((trial.rate for trial in trials if not trial.held), default=float("inf"))
    return max((trial.rate for trial in trials if trial.held and trial.rate < broken), default=None)
