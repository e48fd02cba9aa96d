"""What every command has in common, checker's and edge's: its parser, its errors, its exit codes.

Errors go to standard error, one line per problem, each starting with the program's name. What goes wrong on purpose
(`CheckerError`) is one line per problem with its remedy; a wrong flag, file or setting exits 2, everything else 1.
"""

import argparse
import contextlib
import io
import os
import re
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NoReturn

from checker.errors import CheckerError, UsageError

FAILED, USAGE, INTERRUPTED, PIPE_CLOSED = 1, 2, 130, 141
_OURS = frozenset({"proto", "checker", "edge", "loadtest"})
_REMEDY = "an edge's install lacks what the service needs: pip install 'xianxiao[checker]'"
_QUOTED_VALUE = re.compile(
    r"""(invalid\ choice|ignored\ explicit\ argument|invalid\ \w+\ value):?\ ('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""",
    re.VERBOSE,
)
_OPTION = re.compile(r"--?[a-z][a-z-]*")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line and never repeat what was typed: it may be a document number or a name."""

    def __init__(self, *args: object, **options: object) -> None:
        options.setdefault("allow_abbrev", False)  # what is typed today must mean the same after an upgrade
        super().__init__(*args, **options)  # type: ignore[arg-type]  # argparse's own signature, passed through

    def error(self, message: str) -> NoReturn:
        """Say it in one line, with where to read on; exit 2."""
        program = self.prog.partition(" ")[0]
        self.exit(USAGE, f"{program}: {_unquoted(message)} (see `{self.prog} --help`)\n")


def _unquoted(message: str) -> str:
    problem, _, rest = message.partition(": ")
    if problem == "unrecognized arguments":
        options = [word for word in (each.partition("=")[0] for each in rest.split()) if _OPTION.fullmatch(word)]
        return f"unknown option: {', '.join(options)}" if options else "there are more arguments than expected"
    return _QUOTED_VALUE.sub(r"\1", message)


def complain(text: str, code: int, program: str = "checker") -> int:
    """Print each line of `text` as an error of its own; returns `code`."""
    for line in text.splitlines() or ["unexplained"]:
        print(f"{program}: {line}", file=sys.stderr)
    return code


def run_command(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    """Parse, call the command's `run(args)`, and return the exit code; `argv` None: the process's own arguments."""
    _accept_any_text()
    try:
        args = parser.parse_args(argv)
        code = int(args.run(args))
        sys.stdout.flush()
    except SystemExit as asked:  # argparse: 0 after --help, 2 after an error
        return asked.code if isinstance(asked.code, int) else FAILED
    except UsageError as error:
        return complain(str(error), USAGE, parser.prog)
    except CheckerError as error:
        return complain(str(error), FAILED, parser.prog)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in _OURS:
            raise
        return complain(f"the package {package!r} is not installed: {_REMEDY}", FAILED, parser.prog)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader has gone, as in `checker rulebook | head`
        with contextlib.suppress(OSError, ValueError):  # a replaced standard output has no descriptor
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it exits
        return PIPE_CLOSED
    return code


def require_packages(*names: str) -> None:
    """Raises ModuleNotFoundError for the first that is not installed: now, not in the middle of the work."""
    for name in names:
        if find_spec(name) is None:
            raise ModuleNotFoundError(name=name)


def _accept_any_text() -> None:
    """A terminal that cannot show Chinese gets escapes, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
