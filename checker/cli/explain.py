"""`checker explain`: what lay behind a refusal, for the operator who must tell the person or the court."""

import argparse
import asyncio
import getpass
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from checker.cli.index_arguments import add_index_arguments, load_keys, state_dir
from checker.errors import CheckerError, UsageError


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = commands.add_parser(
        "explain",
        help="what lay behind a decision id",
        description="Show the record of a BARRED or UNKNOWN: outcome, rule, rulebook, measures (with court and case "
        "when --index is given), times and data freshness. It holds keyed digests only. Each look goes to access.log.",
        epilog="example:\n  checker explain 01KAV7Q3N2E5V0T8Y4R6M1X9ZC --index embedded:./index",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("decision_id", metavar="DECISION_ID", help="as given with the answer; case does not matter")
    add_index_arguments(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the record; 1 when there is none."""
    from checker.rpc.decision_id import canonical
    from checker.serving import evidence

    try:
        decision_id = canonical(args.decision_id)
    except ValueError as error:
        raise UsageError(f"DECISION_ID: {error}") from None
    keys = load_keys(args)
    directory = state_dir(args) / "evidence"
    if not directory.is_dir():
        raise UsageError(f"no evidence in {directory}: give the --index or --state-dir of the service that answered")
    _note_access(directory, decision_id)
    record = evidence.find(directory, keys.evidence_key, decision_id)
    if record is None:
        raise CheckerError(
            "no record of this decision here: was it given by another node, or longer ago than evidence is kept?"
        )
    if args.index and record["measures"]:
        record["court_records"] = asyncio.run(_measures(args.index, keys, record["measures"]))
    if args.json:
        print(json.dumps(record, ensure_ascii=False, indent=2))
    else:
        _print(record)
    return 0


async def _measures(url: str, keys: Any, measure_ids: list[str]) -> list[dict[str, Any]]:
    from checker.index.base import IndexKey
    from checker.index.urls import open_index

    index = open_index(url)
    try:
        await index.open(IndexKey(keys.digest_key.key_id, keys.digest_key.check_value), create=False)
        found = [await index.measure(measure_id) for measure_id in measure_ids]
    finally:
        await index.close()
    return [info._asdict() for info in found if info is not None]


def _note_access(directory: Path, decision_id: str) -> None:
    """Who looked at what, when: an append-only line, on disk before anything is shown (domain.md R15)."""
    line = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "user": getpass.getuser(),
        "decision_id": decision_id,
    }
    handle = os.open(directory / "access.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        os.write(handle, (json.dumps(line) + "\n").encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def _print(record: dict[str, Any]) -> None:
    from checker.cli.terminal import facts

    as_of = record["data_as_of"]
    rows = [
        ("decision", record["decision_id"]),
        ("answered", f"{record['outcome']}, {record['reason']}, at {record['time']} to {record['caller']}"),
        ("purchase", f"{record['purchase']}; act {record['act_time']}, service {record['service_time']}"),
        ("rule", f"{record['rule'] or 'none reached'} of rulebook {record['rulebook_version']}"),
        ("measures", ", ".join(record["measures"]) or "none"),
        ("feed", f"known up to sequence {as_of['feed_sequence']:,} of {as_of['feed_time']}"),
        ("digests", ", ".join(record["keys"]) + f" (key {record['key_id']})" if record["keys"] else "none"),
    ]
    for measure in record.get("court_records", []):
        state = "lifted since" if measure["removed_sequence"] else "in the index"
        text = f"{measure['court']} {measure['case_number']}, {state}, added by line {measure['added_sequence']:,}"
        rows.append((measure["measure_id"], text))
    facts(rows)
