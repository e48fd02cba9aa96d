"""`checker fleet`: how every edge is doing, by its own last report; who lags is named below the table."""

import argparse
import asyncio
import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from checker.cli.index_arguments import add_index_arguments, load_keys, require_index

if TYPE_CHECKING:
    from checker.index.base import Publication
    from proto.checker.v1.filter_pb2 import EdgeStatus

LATE_S = 60
"""Lag or silence beyond which an edge is named: its answers rest on the stand-in table from here on (design.md §8)."""
_CENTRE = {0: "unknown", 1: "reachable", 2: "unreachable", 3: "signed off"}


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = commands.add_parser(
        "fleet",
        help="how the edges are doing",
        description="Print what each edge last reported: its snapshot, how far it is behind, what it answers from. "
        "Edges that lag, are silent, miss the canary or raise an alarm are named below the table. An edge that has not "
        "reported for a week is forgotten.",
        epilog="examples:\n  checker fleet --index embedded:./index\n"
        "  checker fleet --index redis://127.0.0.1:6379/0 --json | jq '.edges[] | select(.attention != [])'",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_index_arguments(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object with every field")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the fleet; 0 also when an edge lags."""
    url = require_index(args)
    key = load_keys(args).digest_key
    published, reports = asyncio.run(_gather(url, key.key_id, key.check_value))
    fleet = report(published, reports, time.time_ns() // 1_000_000)
    if args.json:
        print(json.dumps(fleet, ensure_ascii=False, indent=2))
    else:
        _print(fleet)
    return 0


async def _gather(url: str, key_id: str, check_value: bytes) -> "tuple[Publication | None, list[tuple[int, bytes]]]":
    from checker.index.base import IndexKey
    from checker.index.urls import open_index

    index = open_index(url)
    try:
        await index.open(IndexKey(key_id, check_value), create=False)
        return await index.publications.latest(), await index.publications.edges()
    finally:
        await index.close()


def report(published: "Publication | None", reports: list[tuple[int, bytes]], now_ms: int) -> dict[str, Any]:
    """What --json prints. `reports`: (milliseconds since the epoch, serialised EdgeStatus)."""
    from proto.checker.v1.filter_pb2 import EdgeStatus

    edges = [_edge(EdgeStatus.FromString(raw), heard_ms, published, now_ms) for heard_ms, raw in reports]
    return {
        "centre_id": published.centre_id.hex() if published is not None else None,
        "epoch": published.epoch if published is not None else 0,
        "edges": sorted(edges, key=lambda edge: (edge["name"], edge["edge_id"])),
    }


def _edge(status: "EdgeStatus", heard_ms: int, published: "Publication | None", now_ms: int) -> dict[str, Any]:
    lag_s = status.lag.ToMilliseconds() / 1000 if status.HasField("lag") else None
    edge = {
        "name": status.name,
        "edge_id": status.edge_id,
        "version": status.version,
        "centre_id": status.centre_id.hex(),
        "epoch": status.epoch,
        "position": {"journal_id": status.position.journal_id.hex(), "entry": status.position.entry},
        "feed_sequence": status.feed_sequence,
        "lag_seconds": lag_s,
        "centre": _CENTRE.get(status.centre, "unknown"),
        "checks": status.checks,
        "hits": status.hits,
        "hit_ratio": _ratio(status.hits, status.checks),
        "false_positives": status.false_positives,
        "false_positive_ratio": _ratio(status.false_positives, status.checks),
        "stand_ins": status.stand_ins,
        "advice_waiting": status.advice_waiting,
        "advice_dropped": status.advice_dropped,
        "canary_in_filter": status.canary_in_filter,
        "canary_time": _iso(status.canary_time.ToMilliseconds()) if status.HasField("canary_time") else None,
        "rulebook_version": status.rulebook_version,
        "overlay": status.overlay,
        "alarms": list(status.alarms),
        "heard": _iso(heard_ms),
        "heard_seconds_ago": max(0.0, round((now_ms - heard_ms) / 1000, 1)),
    }
    return edge | {"attention": _attention(edge, published)}


def _attention(edge: dict[str, Any], published: "Publication | None") -> list[str]:
    """Why somebody should look at this edge."""
    found: list[str] = list(edge["alarms"])
    if edge["heard_seconds_ago"] > LATE_S:
        found.append(f"not heard of for {_time(edge['heard_seconds_ago'])}")
    if edge["lag_seconds"] is None:
        found.append("it has no filter yet")
    else:
        if edge["lag_seconds"] > LATE_S:
            found.append(f"its filter is {_time(edge['lag_seconds'])} behind")
        if not edge["canary_in_filter"]:
            found.append("the canary is not in its filter: what the feed lists does not reach it")
    if published is not None and edge["epoch"]:
        if edge["centre_id"] != published.centre_id.hex():
            found.append("its snapshot is another centre's")
        elif edge["epoch"] < published.epoch - 1:
            found.append(f"its epoch {edge['epoch']} is older than the last two")
    return found


def _ratio(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


def _iso(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _time(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def _print(fleet: dict[str, Any]) -> None:
    from rich.table import Table

    from checker.cli.terminal import emit

    if not fleet["edges"]:
        print("no edge has reported within a week")
        return
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="bold")
    table.add_column("edge", overflow="fold", min_width=8)
    table.add_column("version", overflow="fold")
    for number in ("epoch", "behind", "feed"):
        table.add_column(number, justify="right")
    table.add_column("centre")
    for number in ("checks", "hits", "false pos.", "advice"):
        table.add_column(number, justify="right")
    table.add_column("canary")
    table.add_column("heard", justify="right")
    for edge in fleet["edges"]:
        table.add_row(
            f"{'! ' if edge['attention'] else ''}{_called(edge)}",
            edge["version"],
            str(edge["epoch"]),
            "-" if edge["lag_seconds"] is None else _time(edge["lag_seconds"]),
            f"{edge['feed_sequence']:,}",
            edge["centre"],
            f"{edge['checks']:,}",
            f"{edge['hit_ratio']:.2%}",
            f"{edge['false_positive_ratio']:.3%}",
            f"{edge['advice_waiting']:,}",
            "yes" if edge["canary_in_filter"] else "missing",
            f"{_time(edge['heard_seconds_ago'])} ago",
        )
    emit(table)
    for edge in fleet["edges"]:
        for reason in edge["attention"]:
            print(f"! {_called(edge)}: {reason}")


def _called(edge: dict[str, Any]) -> str:
    """Name and the beginning of the id: two edges may have one name."""
    return f"{edge['name']} {edge['edge_id'][:8]}".strip()
