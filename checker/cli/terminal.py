"""What every command shows the same way: errors, facts, tables.

Errors go to standard error, one line per problem, each starting with `checker:`. Facts and tables go to standard
output through rich, which counts a Chinese character as two columns; colours appear on a terminal only (and not with
NO_COLOR). Without a terminal lines are 100 columns wide unless COLUMNS says otherwise.
"""

import argparse
import os
import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

WIDTH_OF_A_FILE = 100
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
        self.exit(2, f"checker: {_unquoted(message)} (see `{self.prog} --help`)\n")


def _unquoted(message: str) -> str:
    problem, _, rest = message.partition(": ")
    if problem == "unrecognized arguments":
        options = [word for word in (each.partition("=")[0] for each in rest.split()) if _OPTION.fullmatch(word)]
        return f"unknown option: {', '.join(options)}" if options else "there are more arguments than expected"
    return _QUOTED_VALUE.sub(r"\1", message)


def complain(text: str, code: int) -> int:
    """Print each line of `text` as an error of its own; returns `code`."""
    for line in text.splitlines() or ["unexplained"]:
        print(f"checker: {line}", file=sys.stderr)
    return code


def console() -> "Console":
    """Standard output, with colours on a terminal only."""
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would exit by itself, with 1; `main` knows better

    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else WIDTH_OF_A_FILE
    return Plain(highlight=False, markup=False, emoji=False, width=width)


def emit(*shown: "RenderableType") -> None:
    """Print texts and tables; what goes to a file or a pipe carries no blanks at line ends."""
    out = console()
    if out.is_terminal:
        for each in shown:
            out.print(each)
        return
    with out.capture() as captured:
        for each in shown:
            out.print(each)
    for line in captured.get().splitlines():
        print(line.rstrip())


def facts(rows: Iterable[tuple[str, str]]) -> None:
    """Print labels and what they say in two columns, long texts folded under their own column."""
    emit(facts_table(rows))


def facts_table(rows: Iterable[tuple[str, str]]) -> "Table":
    """The two columns of `facts`, to be printed with other things."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in rows:
        table.add_row(label, text)
    return table
