"""The `checker` command: one module per verb.

Each command module has `add(commands)`, which registers its parser, and `run(args)`, which returns the exit code and
does its own heavy imports, so that `--help` stays quick. Errors and exit codes are those of `checker.terminal`.
"""

import argparse
from collections.abc import Sequence

from checker.cli import build_snapshot, check, demo, explain, fleet, health, import_, keys, rulebook, serve, status
from checker.terminal import Parser, run_command

COMMANDS = (serve, import_, build_snapshot, check, status, fleet, health, explain, rulebook, keys, demo)

_DESCRIPTION = "Answers, at the moment of sale, whether a Chinese court's consumption restriction (限消) forbids it."
_EPILOG = """\
a first round on one machine:
  checker demo                                                      made people, real answers; nothing to set up
  checker import --index embedded:./index feed.jsonl                a court feed into an index
  checker serve  --index embedded:./index                           answer over gRPC on 127.0.0.1:50051
  checker check  train G1 O                                         ask it; the document comes from a prompt

exit codes: 0 done, 1 it failed, 2 wrong usage or settings, 130 interrupted; `checker check` has more.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `argv` defaults to the process's own arguments."""
    return run_command(_parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="checker",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    for command in COMMANDS:
        command.add(commands)
    return parser
