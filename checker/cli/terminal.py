"""How commands show facts and tables: on standard output, through rich.

It counts a Chinese character as two columns; colours appear on a terminal only (and not with NO_COLOR). Without a
terminal lines are 100 columns wide unless COLUMNS says otherwise.
"""

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

WIDTH_OF_A_FILE = 100


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
