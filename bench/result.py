"""One figure: measured beside its floor in the same run."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple, Self


class Result(NamedTuple):
    """`ratio` is ours against the floor, in the sense that `goal` words it."""

    name: str
    value: float
    unit: str
    floor: str  # what it was measured beside
    floor_value: float
    ratio: float
    goal: str  # "" where there is none
    note: str
    spread: tuple[float, float] | None = None
    """Quartiles of the rounds' ratios; None where rounds were not compared one by one."""

    @classmethod
    def not_measured(cls, name: str, why: str) -> Self:
        """A row that says what could not be measured, and why: its numbers are NaN."""
        return cls(name, math.nan, "", "not measured", math.nan, math.nan, "", why)


def compared(ours: Sequence[float], floors: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Median and quartiles of the ratios of rounds that alternated; at least two of each."""
    ratios = [own / floor for own, floor in zip(ours, floors, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return middle, (low, high)
