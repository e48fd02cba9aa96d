"""`edge sync-once`: bring a data directory up to date, then stop."""

import argparse
import asyncio
import json

from edge.cli.common import add_settings, facts, settings_of


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = commands.add_parser(
        "sync-once",
        help="fetch the newest snapshot and what followed on it, then stop",
        description="Fetch the newest snapshot and all that followed on it into the data directory, then stop: to "
        "prepare a machine before it serves, or to prove that the road to the centre works.",
        epilog="examples:\n  edge sync-once --centre 127.0.0.1:50051 --data ./edge --key-file ./edge/key.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_settings(parser)
    parser.add_argument("--timeout", metavar="S", type=float, default=120.0, help="seconds it may take (default 120)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Sync; 0 once the directory holds everything the centre had acknowledged."""
    from checker import keys, rulebooks
    from edge.centre import Centre
    from edge.live import Live
    from edge.snapshot_store import SnapshotStore
    from edge.sync import Sync, Synced

    settings = settings_of(args)
    held = keys.load_edge(settings.keys)

    async def sync() -> Synced:
        centre = Centre(settings.centres, settings.centre_tls)
        try:
            live = Live(held.digest_key, rulebooks.load(None))
            return await Sync(live, SnapshotStore(settings.directory, held), held, centre).once(args.timeout)
        finally:
            await centre.close()

    done = asyncio.run(sync())
    if args.json:
        report = {
            "centre_id": done.centre_id.hex(),
            "epoch": done.epoch,
            "position": {"journal_id": done.position.journal_id.hex(), "entry": done.position.entry},
            "feed_sequence": done.as_of.feed_sequence,
            "keys": done.keys,
            "added": done.added,
            "downloaded": done.downloaded,
        }
        print(json.dumps(report, indent=2))
        return 0
    facts(
        [
            ("snapshot", f"epoch {done.epoch}, {done.keys:,} keys, {'fetched' if done.downloaded else 'was there'}"),
            ("since then", f"{done.added:,} keys added, up to entry {done.position.entry:,}"),
            ("feed", f"known up to sequence {done.as_of.feed_sequence:,}"),
        ]
    )
    return 0
