"""`make bench`: every figure beside its floor, in one run; prints the table and writes docs/performance.md from it.

Ratios travel between machines, times do not: read the ratio column. Nothing here asserts a time.
"""

import argparse
import json
import math
import os
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import begin, coalescing, edge_check, filter, importing, peers, rpc  # noqa: A004 - the module is named for what it measures
from bench.result import Result

ROOT = Path(__file__).parent.parent
_GOALS = {
    "filter build": "≥ 10 × faster",
    "filter load": "< 50 ms",
    "filter errors at capacity": "≤ 1.1 × configured",
}


def _filter() -> list[Result]:
    rows = filter.run()
    return [
        Result(
            str(row["name"]),
            float(str(row["value"])),
            str(row["unit"]),
            "see note",
            float(str(row["floor"])),
            float(str(row["ratio"])),
            _GOALS.get(str(row["name"]), ""),
            str(row["note"]),
        )
        for row in rows
    ]


SUITES: dict[str, Callable[[], list[Result]]] = {
    "begin": begin.run,
    "rpc": rpc.run,
    "edge": edge_check.run,
    "coalescing": coalescing.run,
    "import": importing.run_rate,
    "memory": importing.run_memory,
    "filter": _filter,
    "peers": peers.run,
}


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _ratio(result: Result) -> str:
    """The ratio as its goal words it: "faster" and "cheaper" count upwards; with quartiles where there are any."""
    if math.isnan(result.ratio):
        return "–"
    ratio = 1 / result.ratio if "faster" in result.goal else result.ratio
    spread = " ({:.3g} to {:.3g})".format(*result.spread) if result.spread else ""
    return f"{ratio:.3g}{spread}"


def _plain(result: Result) -> dict[str, object]:
    """For JSON, which knows no NaN."""
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in result._asdict().items()
    }


def _write(results: list[Result], path: Path) -> None:
    lines = [
        "# Performance",
        "",
        "Written by `make bench`; every figure is measured beside its floor in the same run. Read the ratios: they",
        "travel between machines, the times do not.",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {platform.system()}.",
        "",
        "| figure | measured | floor | ratio | goal | note |",
        "| --- | ---: | --- | ---: | --- | --- |",
    ]
    for result in results:
        floor = f"{_number(result.floor_value)} ({result.floor})"
        measured = f"{_number(result.value)} {result.unit}".strip()
        lines.append(f"| {result.name} | {measured} | {floor} | {_ratio(result)} | {result.goal} | {result.note} |")
    path.write_text("\n".join([*lines, "", *_READING, ""]), "utf-8")


_READING = [
    "## How to read it",
    "",
    "- *in-process check*: `lookup.begin` for a valid resident ID that the filter does not hold, as it runs in a",
    "  booking system's own process. Validation, rule, keyed digest, filter and decision; no network.",
    "- *EdgeClient.check* is the same as a booking system calls it: arguments checked, awaited, an answer made.",
    "- *server CPU*: user and system seconds of the server process per call, from the kernel, at 32 calls in flight,",
    "  client in another process. The echo answers with bytes of the same size and parses nothing.",
    "- *filter* figures are for 10 million keys at an error rate of 1e-4; pybloom-live's own `add` is timed on part of",
    "  them and scaled.",
    "- *peers* that answer calls get the same load from h2load and are compared as checks per second of the server's",
    "  processor time; in brackets the quartiles of the rounds' ratios. Cerbos is told by its caller whether a measure",
    "  is in force, and keeps no list. *Coalesced*: callers of one process ask one at a time, by `edge.RemoteChecker`.",
    "- *caller's CPU*: of the process that asks. Redis, SQLite and pybloom-live look ready bytes up;",
    "  `EdgeClient.check` validates a number, looks the rule up, makes the digest, asks its filter, makes an answer.",
    "- *memory* is the server's own count after the import, against an empty server.",
]


def main() -> int:
    """Run the suites named, or all; print the table; write it when all ran."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "suite", nargs="*", metavar="SUITE", help=f"{', '.join(SUITES)}; none = all, and docs/performance.md"
    )
    chosen = parser.parse_args().suite
    if unknown := set(chosen) - set(SUITES):
        parser.error(f"no suite {', '.join(sorted(unknown))}; suites are {', '.join(SUITES)}")
    results: list[Result] = []
    for name in chosen or SUITES:
        print(f"· {name}", file=sys.stderr, flush=True)
        results += SUITES[name]()
    table = Table()
    for heading in ("figure", "measured", "floor", "ratio", "goal"):
        table.add_column(heading, overflow="fold")
    for result in results:
        floor = f"{_number(result.floor_value)} ({result.floor})"
        table.add_row(result.name, f"{_number(result.value)} {result.unit}", floor, _ratio(result), result.goal)
    Console().print(table)
    kept = ROOT / "bench" / "results"
    kept.mkdir(exist_ok=True)
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    (kept / f"{stamp}.json").write_text(
        json.dumps([_plain(result) for result in results], ensure_ascii=False, indent=2)
    )
    if not chosen:
        _write(results, ROOT / "docs" / "performance.md")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
