"""`edge status`: how an edge is doing, asked of a running node or read from its data directory."""

import argparse
import asyncio
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from checker.errors import CheckerError
from edge.cli.common import facts
from proto.checker.v1 import filter_pb2 as pb

_DEFAULT_TARGET = "127.0.0.1:50061"
_CENTRE = {
    pb.CENTRE_STATE_REACHABLE: "reachable",
    pb.CENTRE_STATE_UNREACHABLE: "unreachable",
    pb.CENTRE_STATE_SIGNED_OFF: "signed off",
}


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = commands.add_parser(
        "status",
        help="snapshot, lag, centre, numbers and alarms at a glance",
        description="Print how an edge is doing. --target asks a running node; --data reads a data directory, whether "
        "or not anything runs there, and says whether its snapshot may be used.",
        epilog="examples:\n  edge status\n"
        "  edge status --target edge.example:443 --ca ca.pem --cert me.pem --key me.key\n"
        "  edge status --data ./edge --key-file ./edge/key.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--target",
        metavar="ADDR",
        default=os.environ.get("EDGE_TARGET") or _DEFAULT_TARGET,
        help=f"HOST:PORT or unix:PATH of the node (default {_DEFAULT_TARGET}; EDGE_TARGET)",
    )
    parser.add_argument("--timeout", metavar="S", type=float, default=2.0, help="seconds to wait (default 2)")
    parser.add_argument("--ca", metavar="FILE", type=Path, help="PEM of the node certificate's authority: TLS")
    parser.add_argument("--cert", metavar="FILE", type=Path, help="PEM of your certificate: mutual TLS")
    parser.add_argument("--key", metavar="FILE", type=Path, help="PEM of its private key")
    parser.add_argument("--server-name", metavar="NAME", help="the name in the node's certificate, if not its host")
    parser.add_argument("--data", metavar="DIR", type=Path, help="read this data directory instead")
    parser.add_argument("--key-file", metavar="FILE", type=Path, help="the directory's keys (default: DIR/key.json)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the status; 1 when there is none to print."""
    if args.data is not None:
        report, rows = _stored(args.data, args.key_file or args.data / "key.json")
    else:
        report = as_json(asyncio.run(_ask(args)))
        rows = list(_rows(report))
    if args.json:
        print(json.dumps(report, ensure_ascii=False, indent=2))
        return 0
    facts(rows)
    for alarm in report["alarms"]:
        print(f"! {alarm}")
    return 0


async def _ask(args: argparse.Namespace) -> pb.EdgeStatus:
    import grpc

    from checker.rpc.client import open_channel
    from proto.checker.v1 import edge_pb2, edge_pb2_grpc

    async with open_channel(
        args.target, ca=args.ca, cert=args.cert, key=args.key, server_name=args.server_name
    ) as channel:
        try:
            response = await edge_pb2_grpc.EdgeServiceStub(channel).GetStatus(
                edge_pb2.GetStatusRequest(), timeout=args.timeout
            )
        except grpc.aio.AioRpcError as error:
            why = f"{args.target}: no status ({error.code().name})"
            if error.code() in {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED}:
                raise CheckerError(f"{why}: {error.details()}") from None
            raise CheckerError(f"{why}: is `edge serve` running there?") from None
    return response.status


def as_json(status: pb.EdgeStatus) -> dict[str, Any]:
    """What --json prints."""
    return {
        "edge_id": status.edge_id,
        "name": status.name,
        "version": status.version,
        "centre": _CENTRE.get(status.centre, "unknown"),
        "centre_id": status.centre_id.hex(),
        "epoch": status.epoch,
        "position": {"journal_id": status.position.journal_id.hex(), "entry": status.position.entry},
        "feed_sequence": status.feed_sequence,
        "lag_seconds": status.lag.ToMilliseconds() / 1000 if status.HasField("lag") else None,
        "overlay": status.overlay,
        "rulebook_version": status.rulebook_version,
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
        "alarms": list(status.alarms),
    }


def _rows(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "edge", f"{report['name'] or 'no name'}, {report['edge_id']}, version {report['version']}"
    yield "centre", report["centre"]
    if report["lag_seconds"] is None:
        yield "snapshot", "none yet: the centre is asked about everybody"
    else:
        yield (
            "snapshot",
            f"epoch {report['epoch']}, {report['overlay']:,} keys added since, up to entry "
            f"{report['position']['entry']:,}, rulebook {report['rulebook_version']}",
        )
        yield "lag", f"{report['lag_seconds']:,.1f} s"
    yield "feed", f"known up to sequence {report['feed_sequence']:,}"
    canary = "in the filter" if report["canary_in_filter"] else "not in the filter"
    confirmed = f"confirmed by the centre {report['canary_time']}" if report["canary_time"] else "not yet confirmed"
    yield "canary", f"{canary}, {confirmed}"
    yield "checks", f"{report['checks']:,}, {report['hits']:,} of them not cleared by the filter ({_percent(report)})"
    yield (
        "false positives",
        f"{report['false_positives']:,}" + _share(report["false_positive_ratio"]),
    )
    yield "stand-ins", f"{report['stand_ins']:,} answers without the centre"
    yield "advice", f"{report['advice_waiting']:,} waiting to be asked again, {report['advice_dropped']:,} dropped"


def _stored(directory: Path, key_file: Path) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """What a data directory holds."""
    from checker import keys
    from edge.journal import keys_of
    from edge.snapshot_store import SnapshotStore

    if not directory.is_dir():
        raise CheckerError(f"--data {directory}: is no directory")
    store = SnapshotStore(directory, keys.load_edge(key_file))
    loaded = store.load()
    if loaded is None:
        report: dict[str, Any] = {
            "edge_id": store.edge_id,
            "snapshot": None,
            "alarms": [store.refused] * bool(store.refused),
        }
        return report, [("edge", store.edge_id), ("snapshot", "refused" if store.refused else "none yet")]
    header = loaded.snapshot.header
    added = len(set(keys_of(loaded.pages)))
    report = {
        "edge_id": store.edge_id,
        "snapshot": {
            "centre_id": header.centre_id.hex(),
            "epoch": header.epoch,
            "keys": header.parameters.count,
            "built": _iso(header.built_ms),
            "rulebook_version": header.rulebook_version,
        },
        "position": {"journal_id": loaded.position.journal_id.hex(), "entry": loaded.position.entry},
        "overlay": added,
        "feed_sequence": loaded.as_of.feed_sequence,
        "in_step_at": _iso(loaded.synced_ms),
        "alarms": [],
    }
    return report, [
        ("edge", store.edge_id),
        ("snapshot", f"epoch {header.epoch}, {header.parameters.count:,} keys, built {_iso(header.built_ms)}"),
        ("since then", f"{added:,} keys added, up to entry {loaded.position.entry:,}"),
        ("in step at", f"{_iso(loaded.synced_ms)}, by the centre's clock"),
        ("feed", f"known up to sequence {loaded.as_of.feed_sequence:,}"),
        ("rulebook", header.rulebook_version),
    ]


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None


def _percent(report: dict[str, Any]) -> str:
    return f"{report['hit_ratio']:.2%}" if report["hit_ratio"] is not None else "none yet"


def _share(ratio: float | None) -> str:
    return f" ({ratio:.3%} of checks)" if ratio is not None else ""


def _iso(milliseconds: int) -> str | None:
    if not milliseconds:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
