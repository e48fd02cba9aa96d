"""`checker status`: how far the feed is known, how large the index is, how full the filter, how old the epoch."""

import argparse
import asyncio
import json
import os
import time
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from checker.cli.index_arguments import add_index_arguments, load_keys, require_index, state_dir
from checker.config import PREFIX, Settings
from checker.config import load as load_settings
from checker.core.freshness import HOUR_MS, MINUTE_MS, Limits

_LIMITS = ("feed_warn_minutes", "feed_stop_hours", "gap_grace_minutes")


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = commands.add_parser(
        "status",
        help="feed, index and filter at a glance",
        description="Print how far the court feed is known and how old it is, what the index holds, the node's "
        "filter, the epoch that edges get, and every warning about weaker persistence than promised.",
        epilog="examples:\n  checker status --index embedded:./index\n"
        "  checker status --index redis://127.0.0.1:6379/0 --check     for a monitor: exit 1 when somebody must look",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_index_arguments(parser)
    parser.add_argument("--config", type=Path, metavar="FILE", help="the service's TOML file, for the limits below")
    for item in fields(Settings):
        if item.name in _LIMITS:
            flag, text = f"--{item.name.replace('_', '-')}", f"as the service has it: {item.metadata['help']}"
            parser.add_argument(flag, metavar="N", help=f"{text} (default {item.default})")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--check", action="store_true", help="exit 1 when the feed is overdue or has a gap")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the status; with --check, 1 when somebody must look."""
    index_url = require_index(args)
    limits = _limits(args, index_url)
    keys = load_keys(args)
    report = asyncio.run(_gather(index_url, keys.digest_key.key_id, keys.digest_key.check_value))
    report["filter"] = _filter(state_dir(args), keys)
    report["warnings"] = _warnings(report, limits)
    if args.json:
        print(json.dumps(report, ensure_ascii=False, indent=2))
    else:
        _print(report)
    return 1 if args.check and report["attention"] else 0


def _limits(args: argparse.Namespace, index_url: str) -> Limits:
    """How old a feed or a gap may be, from where the service has it: flags, variables, settings file."""
    file = os.environ.get(f"{PREFIX}CONFIG")
    flags = {"index": index_url} | {name: getattr(args, name) for name in _LIMITS}
    return load_settings(flags, os.environ, args.config or (Path(file) if file else None)).limits


async def _gather(url: str, key_id: str, check_value: bytes) -> dict[str, Any]:
    from checker.index.base import IndexKey
    from checker.index.urls import open_index

    index = open_index(url)
    try:
        await index.open(IndexKey(key_id, check_value), create=False)
        head, stats = await index.head(), await index.stats()
        unreconciled = await index.primaries_unreconciled()
        published = await index.publications.latest()
    finally:
        await index.close()
    now = time.time()
    return {
        "feed": {
            "sequence": head.feed_sequence,
            "time": _iso(head.feed_time_ms),
            "age_seconds": round(now - head.feed_time_ms / 1000, 1) if head.feed_time_ms else None,
            "gap_seconds": round(now - head.gap_since_ms / 1000, 1) if head.gap_since_ms else 0,
            "first_missing": head.feed_sequence + 1 if head.gap_since_ms else 0,
            "seen_up_to": head.seen_up_to,
        },
        "index": {
            "keys": stats.keys,
            "memory_bytes": stats.memory_bytes,
            "generation": stats.generation,
            "primaries": stats.primaries,
            "unreconciled": unreconciled,
            "journal": {
                "id": stats.journal.journal_id.hex(),
                "end": stats.journal.entry,
                "entries": stats.journal_entries,
            },
            "digest_key": key_id,
        },
        "snapshot": None if published is None else _snapshot(published.manifest, now),
        "persistence": list(stats.warnings),
    }


def _snapshot(serialised: bytes, now: float) -> dict[str, Any]:
    from checker.core import filter_builder
    from proto.checker.v1.filter_pb2 import Manifest

    manifest = Manifest.FromString(serialised)
    return {
        "epoch": manifest.epoch,
        "centre_id": manifest.centre_id.hex(),
        "keys": manifest.count,
        "fill": round(manifest.count / filter_builder.capacity(manifest.count), 4),
        "error_rate": manifest.error_rate,
        "bytes": manifest.size,
        "feed_sequence": manifest.feed_sequence,
        "journal_position": manifest.position.entry,
        "rulebook": manifest.rulebook_version,
        "built": _iso(manifest.build_time.ToMilliseconds()),
        "age_seconds": round(now - manifest.build_time.ToMilliseconds() / 1000, 1),
    }


def _filter(state: Path, keys: Any) -> dict[str, Any] | None:
    from checker.core import container
    from checker.serving import filter_file

    try:
        header, loaded = filter_file.load(filter_file.path_in(state), keys.digest_key)
    except FileNotFoundError:
        return None
    except container.BadContainer as error:
        return {"refused": str(error)}
    parameters = header.parameters
    return {
        "epoch": header.epoch,
        "keys": parameters.count,
        "capacity": parameters.capacity,
        "fill": round(parameters.count / parameters.capacity, 4),
        "error_rate": parameters.error_rate,
        "bytes": loaded.num_bits // 8,
        "feed_sequence": header.feed_sequence,
        "journal_position": header.journal_position,
        "built": _iso(header.built_ms),
    }


def _warnings(report: dict[str, Any], limits: Limits) -> list[str]:
    found = list(report.pop("persistence"))
    feed = report["feed"]
    attention = []
    if feed["age_seconds"] is None:
        found.append("nothing has been imported yet: run `checker import`")
    elif feed["age_seconds"] > limits.stop_ms / 1000:
        hours = limits.stop_ms // HOUR_MS
        attention.append(f"the court feed has been silent for over {hours} hours: nobody is barred until it speaks")
    elif feed["age_seconds"] > limits.warn_ms / 1000:
        attention.append(f"the court feed has been silent for over {limits.warn_ms // MINUTE_MS} minutes")
    if feed["gap_seconds"]:
        unbarred = ", and nobody is barred meanwhile" if feed["gap_seconds"] > limits.gap_grace_ms / 1000 else ""
        attention.append(
            f"lines of the court feed are missing, from sequence {feed['first_missing']} on: import the missing file "
            f"together with those behind it; additions wait for it{unbarred}"
        )
    if report["index"]["unreconciled"]:
        attention.append("a primary has restarted or failed over: run `checker import` to write the change log again")
    report["attention"] = bool(attention)
    return attention + found


def _iso(milliseconds: int) -> str | None:
    if not milliseconds:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _print(report: dict[str, Any]) -> None:
    from checker.cli.terminal import facts

    feed, index, built = report["feed"], report["index"], report["filter"]
    age = "never" if feed["age_seconds"] is None else f"{feed['age_seconds']:,.0f} s ago"
    rows = [
        ("feed", f"known up to sequence {feed['sequence']:,}, {age}"),
        ("gap", _gap(feed)),
        ("index", f"{index['keys']:,} keys, {index['memory_bytes'] / 1e6:,.1f} MB, generation {index['generation']}"),
        ("primaries", str(index["primaries"])),
        ("journal", f"entry {index['journal']['end']:,}, {index['journal']['entries']:,} kept"),
        ("digest key", index["digest_key"]),
    ]
    if built is None:
        rows.append(("filter", "none built on this node yet"))
    elif "refused" in built:
        rows.append(("filter", f"refused: {built['refused']}"))
    else:
        rows.append(
            (
                "filter",
                f"{built['keys']:,} of {built['capacity']:,} keys ({built['fill']:.0%} full), epoch {built['epoch']}, "
                f"error rate {built['error_rate']:g}, {built['bytes'] / 1e6:.1f} MB, built {built['built']}",
            )
        )
    rows.append(("snapshot", _epoch(report["snapshot"])))
    facts(rows)
    for warning in report["warnings"]:
        print(f"! {warning}")


def _gap(feed: dict[str, Any]) -> str:
    if not feed["gap_seconds"]:
        return "none"
    seen = f", lines up to {feed['seen_up_to']:,} were seen" if feed["seen_up_to"] else ""
    return f"open for {feed['gap_seconds']:,.0f} s: sequence {feed['first_missing']:,} is missing{seen}"


def _epoch(snapshot: dict[str, Any] | None) -> str:
    if snapshot is None:
        return "none published yet"
    return (
        f"epoch {snapshot['epoch']:,}, {snapshot['keys']:,} keys ({snapshot['fill']:.0%} full), "
        f"{snapshot['bytes'] / 1e6:.1f} MB, {snapshot['age_seconds']:,.0f} s old"
    )
