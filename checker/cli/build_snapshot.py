"""`checker build-snapshot`: publish an epoch for edges now."""

import argparse
import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checker.cli.index_arguments import add_index_arguments, load_keys, require_index

if TYPE_CHECKING:
    from checker.core.rules import Rulebook
    from checker.keys import KeyFile

_EPILOG = """\
A running `checker serve` publishes by itself: at first, daily, and whenever the rulebook changes or many were added or
lifted. This command is for the cases that it leaves to a person:

  --allow-drop      it refuses a snapshot with over 5 % fewer keys than the last one. Make sure that nothing was lost
                    (`checker status`, the last imports); then allow it once.
  --new-centre-id   after the index was restored from a backup: edges then accept a snapshot that is older than theirs,
                    with an alarm, and follow the journal from its beginning.

examples:
  checker build-snapshot --index embedded:./index
  checker build-snapshot --index redis://127.0.0.1:6379/0 --key-file keys.json --new-centre-id
"""


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = commands.add_parser(
        "build-snapshot",
        help="publish a snapshot of the filter for edges now",
        description="Scan the index into a filter, check it, sign it and publish it to edges as the next epoch, with "
        "the rulebook. When anything is wrong with it, nothing is published and edges keep the last one.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_index_arguments(parser)
    parser.add_argument("--allow-drop", action="store_true", help="publish although over 5 %% of the keys are gone")
    parser.add_argument(
        "--new-centre-id", action="store_true", help="give the centre a new identity first, after a restore"
    )
    parser.add_argument(
        "--rulebook",
        type=Path,
        metavar="FILE",
        default=os.environ.get("CHECKER_RULEBOOK") or None,
        help="the rulebook that `checker serve` is started with (default: the one that ships; CHECKER_RULEBOOK)",
    )
    parser.add_argument(
        "--filter-error-rate",
        type=float,
        metavar="RATE",
        default=os.environ.get("CHECKER_FILTER_ERROR_RATE") or 1e-4,
        help="false positives, as for `checker serve` (default 0.0001; CHECKER_FILTER_ERROR_RATE)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Publish; returns the exit code."""
    from checker import rulebooks
    from checker.errors import UsageError

    url = require_index(args)
    if not 1e-7 <= args.filter_error_rate <= 0.1:
        raise UsageError("--filter-error-rate: must be from 0.0000001 to 0.1")
    keys, rulebook = load_keys(args), rulebooks.load(Path(args.rulebook) if args.rulebook else None)
    published = asyncio.run(_publish(args, url, keys, rulebook))
    if args.json:
        print(json.dumps(published, indent=2))
    else:
        _print(published)
    return 0


async def _publish(args: argparse.Namespace, url: str, keys: "KeyFile", rulebook: "Rulebook") -> dict[str, Any]:
    from checker.index.base import IndexKey
    from checker.index.urls import open_index
    from checker.serving.publisher import Publisher

    key = keys.digest_key
    index = open_index(url)
    try:
        await index.open(IndexKey(key.key_id, key.check_value), create=False)
        if args.new_centre_id:
            await index.publications.renew_centre_id()
        publisher = Publisher(index, keys, rulebook, args.filter_error_rate, hours=24)
        published = await publisher.publish_once(allow_drop=args.allow_drop)
    finally:
        await index.close()
    built = publisher.built
    return {
        "epoch": published.epoch,
        "centre_id": published.centre_id.hex(),
        "keys": built.keys,
        "bytes": built.size,
        "error_rate_measured": built.error_rate,
        "rulebook": rulebook.version,
        "seconds": round(built.seconds, 3),
    }


def _print(published: dict[str, Any]) -> None:
    from checker.cli.terminal import facts

    facts(
        [
            ("epoch", str(published["epoch"])),
            ("centre", published["centre_id"]),
            ("keys", f"{published['keys']:,}"),
            ("size", f"{published['bytes'] / 1e6:,.1f} MB"),
            ("error rate", f"{published['error_rate_measured']:g} measured"),
            ("rulebook", published["rulebook"]),
            ("seconds", f"{published['seconds']:.1f}"),
        ]
    )
