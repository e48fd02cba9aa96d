"""One figure: measured beside its floor in the same run."""

from typing import NamedTuple


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
