"""The `checker` command: one module per verb, one place for exit codes.

Each command module has `add(commands)`, which registers its parser, and `run(args)`, which returns the exit code and
does its own heavy imports, so that `--help` stays quick. What goes wrong on purpose (`CheckerError`) is one line per
problem on standard error, each with its remedy; a wrong flag, file or setting exits 2, everything else 1.
"""

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Sequence

from checker.cli import check, demo, explain, health, import_, keys, rulebook, serve, status
from checker.cli.terminal import Parser, complain
from checker.errors import CheckerError, UsageError

COMMANDS = (serve, import_, check, status, health, explain, rulebook, keys, demo)
FAILED, USAGE, INTERRUPTED, PIPE_CLOSED = 1, 2, 130, 141

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
    _accept_any_text()
    try:
        args = _parser().parse_args(argv)
        code = int(args.run(args))
        sys.stdout.flush()
    except SystemExit as asked:  # argparse: 0 after --help, 2 after an error
        return asked.code if isinstance(asked.code, int) else FAILED
    except UsageError as error:
        return complain(str(error), USAGE)
    except CheckerError as error:
        return complain(str(error), FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader has gone, as in `checker rulebook | head`
        with contextlib.suppress(OSError, ValueError):  # a replaced standard output has no descriptor
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it exits
        return PIPE_CLOSED
    return code


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


def _accept_any_text() -> None:
    """A terminal that cannot show Chinese gets escapes, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
