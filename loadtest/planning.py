"""`loadtest capacity`: what a national load needs, from measured costs, with its assumptions and its own error.

The arithmetic is `loadtest.capacity`, where costs come from is `loadtest.costs`; here are options, table and page.
"""

import argparse
import html
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loadtest import capacity, costs, report
from loadtest.capacity import Costs, Load, Machine, Plan, Point
from loadtest.costs import BadCosts, Compared, Known
from loadtest.meter import environment
from loadtest.run import PASSED, InputError, guarded

MOST_CHECKS = 1_000_000.0
PAGE = "capacity.html"
_RATES = "300,600,1200"
_MB, _GB = 1e6, 2.0**30

_CAPACITY = """\
Compute what a load needs: cores and machines by place, Redis memory, bandwidth to the edges, growth of cost.

Costs come from results of `make bench` (--costs), from a quick measurement on this machine (--measure), or are those of
docs/performance.json; the page says which is which, and what else is assumed. --validate measures, predicts what a
checker on this machine spends at three rates, drives each in an open loop, and prints the error.
"""
_EXAMPLES = """\
examples:
  loadtest capacity
  loadtest capacity --rate 1000000 --keys 80000000 --edges 5000
  loadtest capacity --costs docs/performance.json --in-process 0.5 --node 0.4
  loadtest capacity --validate --rates 300,600,1200 --seconds 10
"""


@dataclass(frozen=True)
class _Option:
    """A number on the command line: its field of Load or Machine, its bounds."""

    flag: str
    of: str
    least: float
    most: float
    help: str
    scale: float = 1.0
    whole: bool = field(default=False)


_LOAD = (
    _Option("--rate", "checks_per_s", 1, MOST_CHECKS, "checks per second in the busiest second", whole=True),
    _Option("--measures", "measures", 1, 1e9, "measures in force", whole=True),
    _Option("--keys", "keys", 1, 2e9, "document keys in the index; default: two for each measure", whole=True),
    _Option("--edges", "edges", 0, 1e6, "edges that hold the filter", whole=True),
    _Option("--hit-share", "hit_share", 0, 1, "share of checks the exact index must answer"),
    _Option("--in-process", "in_process", 0, 1, "share decided in the seller's process"),
    _Option("--node", "node", 0, 1, "share asked of edge nodes; the rest asks the centre"),
    _Option("--batched", "batched", 0, 1, "of the checks at nodes and the centre, share in batches"),
    _Option("--batch-size", "batch_size", 1, 1000, "checks in such a batch"),
    _Option("--changes", "changes_per_day", 0, 1e9, "changes of the list in a day", whole=True),
    _Option("--burst", "burst_per_s", 0, 1e6, "changes in the busiest second", whole=True),
)
_MACHINE = (
    _Option("--cores", "cores", 1, 1024, "cores of a machine", whole=True),
    _Option("--memory", "memory_bytes", 1, 65536, "GiB of a machine", scale=_GB),
    _Option("--used", "used", 0.05, 0.95, "share of cores and memory that is planned for"),
    _Option("--spare", "spare", 0, 100, "machines more at the centre", whole=True),
)


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "capacity",
        help="what a national load needs: machines, memory, bandwidth",
        description=_CAPACITY,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for options, made in ((_LOAD, Load()), (_MACHINE, Machine())):
        group = parser.add_argument_group("the load" if options is _LOAD else "the machines")
        for option in options:
            default = getattr(made, option.of) / option.scale
            group.add_argument(option.flag, type=float, metavar="N", help=f"{option.help} ({default:,.10g})")
    parser.add_argument(
        "--costs", type=Path, action="append", default=[], metavar="FILE", help="results of make bench; may repeat"
    )
    parser.add_argument("--measure", action="store_true", help="measure a checker on this machine, some 20 s")
    parser.add_argument("--validate", action="store_true", help="the same, and predict and measure at --rates")
    parser.add_argument("--rates", default=_RATES, metavar="R,R,R", help=f"checks per second to validate at ({_RATES})")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="of each of them (10)")
    parser.add_argument("--json", action="store_true", help="print JSON, not the table")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"for {PAGE} (default run/capacity-TIME)")
    parser.set_defaults(run=guarded(_capacity))


def _capacity(args: argparse.Namespace) -> int:
    load, machine = _load(args), Machine(**_given(args, _MACHINE))
    rates = _rates(args.rates)
    if not 2 <= args.seconds <= 600:
        raise InputError("--seconds must be 2 to 600")
    known, compared = _known(args, rates)
    points = capacity.curve(load, known.costs, machine)
    plan = capacity.plan(load, known.costs, machine)
    assumed = capacity.assumptions(load, known.costs, machine)
    out = args.out or Path("run") / f"capacity-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    out.mkdir(parents=True, exist_ok=True)
    (out / PAGE).write_text(to_html(plan, known, machine, points, assumed, compared), "utf-8")
    if args.json:
        print(json.dumps(to_json(plan, known, machine, points, assumed, compared), indent=1, ensure_ascii=False))
    else:
        print("\n".join(to_text(plan, known, points, assumed, compared)))
        print(out / PAGE)
    return PASSED


def _load(args: argparse.Namespace) -> Load:
    given = _given(args, _LOAD)
    if "keys" not in given and "measures" in given:
        given["keys"] = given["measures"] * capacity.KEYS_PER_MEASURE
    load = Load(**given)
    if load.in_process + load.node > 1 + 1e-9:
        raise InputError("--in-process and --node are shares of all checks: together at most 1")
    if load.node and not load.edges:
        raise InputError("--node needs --edges: without an edge nobody can ask one; give --node 0")
    return load


def _given(args: argparse.Namespace, options: Sequence[_Option]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for option in options:
        value = getattr(args, option.flag.removeprefix("--").replace("-", "_"))
        if value is None:
            continue
        if not (math.isfinite(value) and option.least <= value <= option.most):
            raise InputError(f"{option.flag} must be {option.least:,.10g} to {option.most:,.10g}")
        if option.whole and value != int(value):
            raise InputError(f"{option.flag} must be a whole number")
        given[option.of] = int(value) if option.of == "spare" else value * option.scale
    return given


def _rates(text: str) -> list[float]:
    try:
        rates = [float(word) for word in text.split(",")]
    except ValueError:
        raise InputError(f"--rates {text!r}: give checks per second, as in {_RATES}") from None
    if not all(1 <= rate <= 100_000 for rate in rates) or len(rates) > 10:
        raise InputError("--rates takes up to 10 rates of 1 to 100 000 checks per second")
    return rates


def _known(args: argparse.Namespace, rates: Sequence[float]) -> tuple[Known, list[Compared]]:
    """The costs, and with --validate what came of predicting with them. Raises InputError."""
    known = Known.defaults()
    for path in args.costs:
        try:
            known = known.replaced(costs.read(path), path.name)
        except BadCosts as error:
            raise InputError(f"--costs {path}: {error}") from None
        except OSError as error:
            raise InputError(f"--costs {path}: {error.strerror}; `make bench` writes bench/results") from None
    if not (args.measure or args.validate):
        return known, []
    with costs.standing() as bench:
        known = known.replaced(bench.costs(), "measured now")
        return known, bench.validate(known.costs, rates, args.seconds) if args.validate else []


# --------------------------------------------------------------------------------------------------------------------
# Told
# --------------------------------------------------------------------------------------------------------------------

_PLACES = ("place", "cores busy", "machines", "memory each", "for")
_CURVE = ("checks/s", "cores", "µs per check", "centre machines", "Redis machines", "every check a call")
_VALID = ("checks/s", "asked", "predicted µs per check", "measured µs per check", "error")


def _size(count: float) -> str:
    return f"{count / _GB:,.1f} GiB" if count >= _GB else f"{count / 2**20:,.0f} MiB"


def _places(plan: Plan) -> list[tuple[str, ...]]:
    return [
        (
            place.name,
            f"{place.cores:,.2f}",
            f"{place.machines:,}" if place.machines else "–",
            _size(place.memory_bytes),
            place.why,
        )
        for place in plan.places
    ]


def _sizes(plan: Plan) -> list[tuple[str, str]]:
    mbit = 8 / _MB
    return [
        ("processor time per check, all places", f"{plan.us_per_check:,.1f} µs"),
        ("Redis memory, without copies", _size(plan.redis_bytes)),
        ("a snapshot of the filter", _size(plan.snapshot_bytes)),
        ("changes to all edges, mean day", f"{plan.sync_bytes_per_s * mbit:,.1f} Mbit/s"),
        ("changes to all edges, busiest second", f"{plan.burst_bytes_per_s * mbit:,.1f} Mbit/s"),
        ("a snapshot to every edge within a day", f"{plan.snapshots_bytes_per_s * mbit:,.1f} Mbit/s"),
    ]


def _curve(points: Sequence[Point]) -> list[tuple[str, ...]]:
    return [
        (
            f"{point.rate:,.0f}",
            f"{point.plan.cores:,.1f}",
            f"{point.plan.us_per_check:,.1f}",
            f"{point.plan.centre.machines:,}",
            f"{point.plan.redis.machines:,}",
            f"{point.unary_cores:,.1f} cores",
        )
        for point in points
    ]


def _validated(compared: Sequence[Compared]) -> list[tuple[str, ...]]:
    return [
        (
            f"{each.rate:,.0f}",
            f"{each.asked:,.0f}",
            f"{each.predicted.us_per_check:,.1f}",
            f"{each.measured_us:,.1f}",
            f"{each.error:+.0%}",
        )
        for each in compared
    ]


def _costs(known: Known) -> list[tuple[str, ...]]:
    return [(name, f"{getattr(known.costs, name):,.4g}", known.sources[name]) for name in Costs._fields]


def _columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[place]) for row in (heads, *rows)) for place in range(len(heads))]
    return ["  " + "  ".join(f"{cell:<{wide}}" for cell, wide in zip(row, widths, strict=True)).rstrip()
            for row in (heads, *rows)]  # fmt: skip


def to_text(
    plan: Plan, known: Known, points: Sequence[Point], assumed: Sequence[str], compared: Sequence[Compared]
) -> list[str]:
    """The plan as lines of a terminal."""
    load = plan.load
    lines = [f"{load.checks_per_s:,.0f} checks/s, {load.measures:,.0f} measures, {load.keys:,.0f} document keys, "
             f"{load.edges:,.0f} edges", *_columns(_PLACES, _places(plan)), ""]  # fmt: skip
    lines += [f"  {name}: {value}" for name, value in _sizes(plan)]
    lines += ["", "growth", *_columns(_CURVE, _curve(points)), "", "assumed", *(f"  - {text}" for text in assumed)]
    lines += ["", "costs", *_columns(("cost", "value", "from"), _costs(known)), ""]
    if compared:
        lines += ["predicted and measured on this machine", *_columns(_VALID, _validated(compared)), ""]
    return lines


def to_json(
    plan: Plan,
    known: Known,
    machine: Machine,
    points: Sequence[Point],
    assumed: Sequence[str],
    compared: Sequence[Compared],
) -> dict[str, Any]:
    """The plan for machines. Bytes, seconds, microseconds."""
    return {
        "load": plan.load._asdict(),
        "machine": machine._asdict(),
        "places": [place._asdict() for place in plan.places],
        "cores": plan.cores,
        "us_per_check": plan.us_per_check,
        "redis_bytes": plan.redis_bytes,
        "snapshot_bytes": plan.snapshot_bytes,
        "sync_bytes_per_s": plan.sync_bytes_per_s,
        "burst_bytes_per_s": plan.burst_bytes_per_s,
        "snapshots_bytes_per_s": plan.snapshots_bytes_per_s,
        "curve": [
            {
                "checks_per_s": point.rate,
                "cores": {place.name: place.cores for place in point.plan.places},
                "us_per_check": point.plan.us_per_check,
                "unary_cores": point.unary_cores,
            }
            for point in points
        ],
        "assumptions": list(assumed),
        "costs": {name: {"value": getattr(known.costs, name), "from": known.sources[name]} for name in Costs._fields},
        "validation": [
            asdict(each) | {"predicted": each.predicted._asdict(), "error": each.error} for each in compared
        ],
        "environment": environment(),
    }


def to_html(
    plan: Plan,
    known: Known,
    machine: Machine,
    points: Sequence[Point],
    assumed: Sequence[str],
    compared: Sequence[Compared],
) -> str:
    """The plan as one page that opens offline."""
    from loadtest import charts  # Matplotlib takes a second to load

    load = plan.load
    verdict = (
        f"{load.checks_per_s:,.0f} checks/s: {plan.cores:,.1f} cores busy; {plan.centre.machines} machines at the "
        f"centre, {plan.redis.machines} for Redis"
    )
    about = f"{load.measures:,.0f} measures, {load.keys:,.0f} document keys, {load.edges:,.0f} edges"
    parts = [
        "<h1>Capacity</h1>",
        f'<p class="about">{html.escape(about)}</p>',
        report.verdict_box(verdict, passed=True),
        report.table(_PLACES, _places(plan)),
        report.table(("", ""), _sizes(plan)),
        "<h2>How it grows</h2>",
        report.chart(charts.growth(points), "Cores busy against checks per second; both scales logarithmic."),
        report.chart(charts.cost_per_check(points), "Processor time of all places for each check."),
        report.table(_CURVE, _curve(points)),
    ]
    if compared:
        parts += ["<h2>Predicted and measured on this machine</h2>", report.table(_VALID, _validated(compared))]
    parts += ["<h2>Assumed</h2>", *(f"<p>{html.escape(text)}</p>" for text in assumed)]
    parts += ["<h2>Costs</h2>", report.table(("cost", "value", "from"), _costs(known))]
    parts += ["<h2>Environment</h2>", report.environment_table(environment())]
    return report.page("Capacity", parts)
