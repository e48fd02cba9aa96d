"""The `edge` command: one module per verb, each with `add(commands)` and `run(args)`; see `checker.terminal`."""

import argparse
from collections.abc import Sequence

from checker.terminal import Parser, run_command
from edge.cli import fetch_keys, rules, serve, status, sync_once

COMMANDS = (serve, status, sync_once, rules, fetch_keys)

_DESCRIPTION = """\
Answers checks beside a booking system, in microseconds, with or without the centre. It sends the centre keyed digests
and purchases, never a document number or a name.
"""
_EPILOG = """\
a first round on one machine, with `checker serve --index embedded:./index` running:
  edge serve  --centre 127.0.0.1:50051 --data ./edge            answer over gRPC on 127.0.0.1:50061
  checker check --target 127.0.0.1:50061 train G1 O             ask it, as one asks the checker
  edge status                                                   snapshot, lag, centre, numbers, alarms

inside a booking system's own process: `from edge import EdgeClient` (see `pydoc edge`).

exit codes: 0 done, 1 it failed, 2 wrong usage or settings, 130 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `argv` defaults to the process's own arguments."""
    return run_command(_parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="edge", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    for command in COMMANDS:
        command.add(commands)
    return parser
