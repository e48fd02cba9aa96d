"""`edge fetch-keys`: the key file from the centre. `edge serve` does the same when it is missing."""

import argparse
import asyncio

from checker.errors import UsageError
from edge.cli.common import add_settings, settings_of


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = commands.add_parser(
        "fetch-keys",
        help="fetch the key file from the centre",
        description="Fetch the key file from the centre and write it with mode 600. Only over mutual TLS, with a "
        "certificate that has role edge there, or from this very machine: it is as secret as the list. Never replaces "
        "a file.",
        epilog="examples:\n  edge fetch-keys --centre 127.0.0.1:50051 --key-file ./edge/key.json\n"
        "  edge fetch-keys --centre check.example:443 --centre-ca ca.pem --centre-cert me.pem --centre-key me.key \\\n"
        "      --key-file /etc/edge/key.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_settings(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fetch; 0 once it is written."""
    from edge.node import fetch_keys, require_keys

    settings = settings_of(args)
    if not require_keys(settings.keys, settings.centres, settings.centre_tls):
        raise UsageError(f"key file {settings.keys} is there already: move it away to fetch another")
    asyncio.run(fetch_keys(settings.keys, settings.centres, settings.centre_tls))
    print(f"wrote {settings.keys}: guard it, for with this edge's data directory it discloses most of the list")
    return 0
