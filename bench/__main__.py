"""`make bench`: every figure beside its floor, in one run; prints the table and writes docs/performance.md from it, and
docs/performance.json with the same figures.

Ratios travel between machines, times do not: read the ratio column. Nothing here asserts a time.
"""

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import ModuleType

from rich.console import Console
from rich.table import Table

from bench import begin, coalescing, edge_check, edge_memory, edge_sync, importing, peers, plot, rpc, scale
from bench import filter as prefilter
from bench.result import Result

ROOT = Path(__file__).parent.parent
_GOALS = {
    "filter build": "≥ 10 × faster",
    "filter load": "< 50 ms",
    "filter errors at capacity": "≤ 1.1 × configured",
}


def _filter(n: int = 10_000_000, millions: int = 16) -> list[Result]:
    rows = prefilter.run(n, millions)
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


def _scaled(suite: ModuleType, run: Callable[[], list[Result]], **sizes: float) -> list[Result]:
    """A suite whose sizes are constants of its module, with other ones."""
    for name, size in sizes.items():
        setattr(suite, name, size)
    return run()


SUITES: dict[str, Callable[[], list[Result]]] = {
    "begin": begin.run,
    "rpc": rpc.run,
    "edge": edge_check.run,
    "edge-sync": edge_sync.run,
    "edge-memory": edge_memory.run,
    "coalescing": coalescing.run,
    "import": importing.run_rate,
    "memory": importing.run_memory,
    "filter": _filter,
    "peers": peers.run,
}

# Minutes of load, so run only when named: `python -m bench scale`.
BY_NAME: dict[str, Callable[[], list[Result]]] = {"scale": scale.run}

# Enough to see that everything still runs and that no figure is off by a multiple; too little for docs/performance.md.
QUICK: dict[str, Callable[[], list[Result]]] = {
    "begin": partial(begin.run, keys=100_000, rounds=10),
    "rpc": partial(rpc.run, rounds=3, calls=400),
    "edge": partial(_scaled, edge_check, edge_check.run, LARGE=2_000_000, _ROUNDS=3),
    "edge-sync": partial(_scaled, edge_sync, partial(edge_sync.run, 1), KEYS=500_000),
    "edge-memory": partial(_scaled, edge_memory, edge_memory.run, SMALL=100_000, LARGE=500_000, ADDED=2000, REST_S=0.2),
    "coalescing": partial(coalescing.run, rounds=1),
    "import": partial(importing.run_rate, measures=2000, people=2000, rounds=1),
    "memory": partial(importing.run_memory, keys=20_000),
    "filter": partial(_scaled, prefilter, partial(_filter, 200_000, 1), REPEATS=2, STOCK_ADDS=50_000, ASKED=50_000),
    "peers": partial(peers.run, rounds=2, calls=200, keys=20_000, checks=1000),
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


def _table(results: Sequence[Result]) -> list[str]:
    """The rows of the page."""
    lines = []
    for result in results:
        floor = f"{_number(result.floor_value)} ({result.floor})"
        measured = f"{_number(result.value)} {result.unit}".strip()
        lines.append(f"| {result.name} | {measured} | {floor} | {_ratio(result)} | {result.goal} | {result.note} |")
    return lines


def _json(results: Sequence[Result]) -> str:
    return json.dumps([_plain(result) for result in results], ensure_ascii=False, indent=2) + "\n"


def _write(results: list[Result], path: Path) -> None:
    """The page, its figures as JSON beside it, and its picture."""
    path.with_suffix(".json").write_text(_json(results), "utf-8")
    lines = [
        "# Performance",
        "",
        "Written by `make bench`; every figure is measured beside its floor in the same run. Read the ratios: they",
        "travel between machines, the times do not. [performance.json](performance.json) holds the same figures.",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {platform.system()}.",
        "",
        "| figure | measured | floor | ratio | goal | note |",
        "| --- | ---: | --- | ---: | --- | --- |",
        *_table(results),
    ]
    picture = path.with_suffix(".svg")
    if plot.peers(results, picture):
        lines += ["", f"![Checks per second of the server's processor time, peers side by side]({picture.name})"]
    path.write_text("\n".join([*lines, "", *_READING, ""]), "utf-8")


_READING = [
    "## How to read it",
    "",
    "- *in-process check*: `lookup.begin` for a valid resident ID that the filter does not hold, as it runs in a",
    "  booking system's own process. Validation, rule, keyed digest, filter and decision; no network.",
    "- *EdgeClient.check* is the same as a booking system calls it: arguments checked, awaited, an answer made. Beside",
    "  it a GET costs what both ends of its connection spend, since both are on this machine.",
    "- *edge: a snapshot ...* is elapsed time, from a real checker process over loopback until checks use it; *load*:",
    "  from the edge's own disk, bytes in the page cache. *During a swap* is from the first byte asked of the centre",
    "  to the change of filters, in the process that answers checks, where all of it is done; on a busy machine both",
    "  columns show the neighbours. *When it fell due*: one is due every 200 µs and its time counts from then, so that",
    "  whatever holds up the event loop counts for each check that it made late.",
    "- *additions on the wire* are counted by a proxy between centre and edge: HTTP/2, seals and heartbeats included.",
    "- *edge memory* is Pss, where a page that two processes share counts once: of two processes over one data",
    "  directory together, per listed key between two sizes of list. What a key added since the snapshot costs is told",
    "  apart: it is each process's own, and gone with the next snapshot.",
    "- *exact questions* go from an edge's stack to a server that answers from ready bytes: the roads are compared.",
    "- *server CPU*: user and system seconds of the server process per call, from the kernel, at 32 calls in flight,",
    "  client in another process. The echo answers with bytes of the same size and parses nothing.",
    "- *filter* figures are for 10 million keys at an error rate of 1e-4; pybloom-live's own `add` is timed on part of",
    "  them and scaled.",
    "- *peers* that answer calls get the same load from h2load and are compared as checks per second of the server's",
    "  processor time; in brackets the quartiles of the rounds' ratios. Cerbos is told by its caller whether a measure",
    "  is in force, and keeps no list. *Coalesced*: callers of one process ask one at a time, by `edge.RemoteChecker`.",
    "- *caller's CPU*: of the process that asks. Redis, SQLite and pybloom-live look ready bytes up;",
    "  `EdgeClient.check` validates a number, looks the rule up, makes the digest, asks its filter, makes an answer.",
    "- *memory* without *edge* is the index server's own count after the import, against an empty server.",
]


def main() -> int:
    """Run the suites named, or all; print the table; write it when all ran."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "suite",
        nargs="*",
        metavar="SUITE",
        help=f"{', '.join(SUITES)}; none = all, and docs/performance.md; by name only: {', '.join(BY_NAME)}",
    )
    parser.add_argument(
        "--quick", action="store_true", help="each on a small scale, all below a minute; writes no page"
    )
    args = parser.parse_args()
    chosen, suites = args.suite, QUICK if args.quick else SUITES | BY_NAME
    if unknown := set(chosen) - set(suites):
        parser.error(f"no suite {', '.join(sorted(unknown))}; suites are {', '.join(suites)}")
    results: list[Result] = []
    seconds: dict[str, float] = {}
    for name in chosen or SUITES:
        print(f"· {name}", file=sys.stderr, flush=True)
        start = time.monotonic()
        results += suites[name]()
        seconds[name] = time.monotonic() - start
    table = Table()
    for heading in ("figure", "measured", "floor", "ratio", "goal"):
        table.add_column(heading, overflow="fold")
    for result in results:
        floor = f"{_number(result.floor_value)} ({result.floor})"
        table.add_row(result.name, f"{_number(result.value)} {result.unit}", floor, _ratio(result), result.goal)
    Console().print(table)
    kept = ROOT / "bench" / "results"
    kept.mkdir(parents=True, exist_ok=True)
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    (kept / f"{stamp}{'-quick' if args.quick else ''}.json").write_text(_json(results), "utf-8")
    if not chosen and not args.quick:
        _write(results, ROOT / "docs" / "performance.md")
    each = ", ".join(f"{name} {took:.0f}" for name, took in seconds.items())
    print(f"done in {sum(seconds.values()):.0f} s: {each}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
