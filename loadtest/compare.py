"""`loadtest compare A B`: whether two deployments really differ, from repeated runs of each.

Strategy: one run says little, since the same deployment measured twice differs too. Each side is a set of runs of the
same workload; per figure, each run gives one value, and Welch's t-interval over their logarithms gives the ratio B / A
with its 95 % confidence interval (unequal variances; logarithms because latencies differ by factors, not by amounts).
Intervals that hold 1 are "not told apart". With three to ten runs a t-interval keeps its promise better than a
bootstrap, which has too few values to draw from.

Four figures at 95 % each: in one comparison of six, some figure looks real by chance alone. Run again what surprises.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, variance
from typing import Final, NamedTuple

from loadtest.measured import Run

FEWEST: Final = 3
"""Runs a side must have."""
RUN: Final = "run.json"

_RESOLUTION: Final = 0.002  # the histograms tell three digits: two values closer than two of their steps are one

_T_975: Final = (
    # Student's t, 97.5 %, for 1 to 30 degrees of freedom; rounding these down keeps the interval honest
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""A table, since a quantile function would be a library of its own."""


class CannotCompare(Exception):
    """The runs cannot be compared; the text says why and what to do."""


class Figure(NamedTuple):
    """What is compared. `higher_is_better`: of the rate."""

    name: str
    unit: str
    of: Callable[[Run], float | None]
    higher_is_better: bool = False


class Difference(NamedTuple):
    """One figure on both sides: geometric means, and the ratio B / A with its 95 % confidence interval."""

    figure: Figure
    a: float
    b: float
    low: float
    high: float

    @property
    def ratio(self) -> float:
        """B / A."""
        return self.b / self.a

    @property
    def real(self) -> bool:
        """Whether the interval leaves 1 out."""
        return self.low > 1 or self.high < 1

    @property
    def worse(self) -> bool:
        """Whether B is really the worse."""
        return self.high < 1 if self.figure.higher_is_better else self.low > 1

    @property
    def verdict(self) -> str:
        """In words."""
        interval = f"(95 % CI {_percent(self.low)} to {_percent(self.high)})"
        if not self.real:
            return f"not told apart {interval}"
        return f"real: B {'worse' if self.worse else 'better'} by {abs(self.ratio - 1) * 100:.1f} % {interval}"


def _percent(ratio: float) -> str:
    return f"{(ratio - 1) * 100:+.1f} %"


def _percentile(percentile: float) -> Callable[[Run], float | None]:
    def milliseconds(run: Run) -> float | None:
        value = run.recorder.select().percentile_us(percentile)
        return None if value is None else value / 1000

    return milliseconds


def _rate(run: Run) -> float | None:
    return run.recorder.select().answered / run.recorder.seconds if run.recorder.seconds else None


FIGURES: Final = (
    Figure("p50", "ms", _percentile(50)),
    Figure("p99", "ms", _percentile(99)),
    Figure("rate", "checks/s", _rate, higher_is_better=True),
    Figure("server CPU", "µs/check", lambda run: run.server_cpu_us),
)


def runs_in(place: Path) -> list[Run]:
    """The runs below a folder: every run.json, or the one file named. Raises CannotCompare, OSError."""
    files = sorted(place.rglob(RUN)) if place.is_dir() else [place]
    runs = []
    for file in files:
        try:
            runs.append(Run.from_json(json.loads(file.read_text(encoding="utf-8"))))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CannotCompare(
                f"{file}: is no {RUN} of this version; measure again with `loadtest run --out`"
            ) from None
    return runs


def compare(a: Sequence[Run], b: Sequence[Run]) -> list[Difference]:
    """Each figure that every run has, on both sides. Raises CannotCompare."""
    for side, runs in (("A", a), ("B", b)):
        if len(runs) < FEWEST:
            raise CannotCompare(
                f"{side} has {len(runs)} runs, needs {FEWEST} or more: repeat `loadtest run --out {side}/run-N`"
            )
    workloads = {_workload(run) for run in (*a, *b)}
    if len(workloads) > 1:
        raise CannotCompare(
            f"the runs differ in what was driven ({'; '.join(sorted(workloads))}): compare runs of one workload"
        )
    differences = []
    for figure in FIGURES:
        values_a, values_b = ([figure.of(run) for run in runs] for runs in (a, b))
        known_a, known_b = ([value for value in values if value] for values in (values_a, values_b))
        if len(known_a) == len(a) and len(known_b) == len(b):
            differences.append(difference(figure, known_a, known_b))
    if not differences:
        raise CannotCompare("some of the runs measured nothing: look at their reports")
    return differences


def _workload(run: Run) -> str:
    return f"{run.sla}, {run.profile}, {run.loop} loop, {run.rate_per_s:g} checks/s"


def difference(figure: Figure, a: Sequence[float], b: Sequence[float]) -> Difference:
    """One figure's ratio B / A and its interval, from positive values, two or more a side."""
    logs_a, logs_b = [math.log(value) for value in a], [math.log(value) for value in b]
    mean_a, mean_b = fmean(logs_a), fmean(logs_b)
    part_a, part_b = variance(logs_a) / len(a), variance(logs_b) / len(b)
    reach = _RESOLUTION
    if part_a + part_b:
        # Welch and Satterthwaite's degrees of freedom
        freedom = (part_a + part_b) ** 2 / (part_a**2 / (len(a) - 1) + part_b**2 / (len(b) - 1))
        reach = max(reach, _t(freedom) * math.sqrt(part_a + part_b))
    middle = mean_b - mean_a
    return Difference(figure, math.exp(mean_a), math.exp(mean_b), math.exp(middle - reach), math.exp(middle + reach))


def _t(freedom: float) -> float:
    whole = int(freedom + 1e-9)  # of a side that does not spread it is a whole number, but for the last digits
    return _T_975[min(len(_T_975), max(1, whole)) - 1]


def wrong_answers(runs: Sequence[Run]) -> int:
    """Wrong answers of all the runs."""
    return sum(run.recorder.select().wrong for run in runs)


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "compare",
        help="whether a change is real, from repeated runs before and after",
        description="Compare repeated runs of one workload: p50, p99, rate and server CPU per check, each with the "
        f"95 % confidence interval of the ratio B / A. Each side needs {FEWEST} runs or more. Exit 0 when B is not "
        "worse, 1 when a figure is really worse or B gave wrong answers, 2 when the runs cannot be compared.",
        epilog="example:\n  for n in 1 2 3 4 5; do loadtest run --sla rail-peak --target ADDR --out before/$n; done\n"
        "  (change something)\n"
        "  for n in 1 2 3 4 5; do loadtest run --sla rail-peak --target ADDR --out after/$n; done\n"
        "  loadtest compare before after",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("a", type=Path, metavar="A", help="folder with the runs before")
    parser.add_argument("b", type=Path, metavar="B", help="folder with the runs after")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare and print; see the verb's help for the exit codes."""
    try:
        a, b = runs_in(args.a), runs_in(args.b)
        differences = compare(a, b)
    except CannotCompare as error:
        print(f"loadtest compare: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"loadtest compare: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    print(f"A {args.a}: {len(a)} runs; B {args.b}: {len(b)} runs; {_workload(a[0])}")
    measured = {one.figure.name: one for one in differences}
    for figure in FIGURES:
        one = measured.get(figure.name)
        if one is None:
            print(f"{figure.name:<11} not measured in every run")
        else:
            print(f"{figure.name:<11} A {one.a:>10,.3f}  B {one.b:>10,.3f} {figure.unit:<9} {one.verdict}")
    wrong_a, wrong_b = wrong_answers(a), wrong_answers(b)
    if wrong_a or wrong_b:
        print(f"wrong answers: A {wrong_a:,}, B {wrong_b:,}")
    return 1 if wrong_b or any(one.worse for one in differences) else 0
