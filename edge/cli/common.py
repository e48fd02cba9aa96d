"""What several commands of the edge take and show: which centre, which directory; facts and tables in plain text."""

import argparse
import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from checker.settings import given
from edge.config import PREFIX, Settings, load

_SHARED = ("centre", "data", "key_file", "centre_ca", "centre_cert", "centre_key", "centre_server_name")


def add_settings(parser: argparse.ArgumentParser, names: Sequence[str] = _SHARED) -> None:
    """Flags for some of the settings of `edge serve`, and --config."""
    items = {name: Settings.__dataclass_fields__[name] for name in names}
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file of settings, as for `edge serve`")
    for name, item in items.items():
        metavar = item.metadata["metavar"] or ("FILE" if item.type == Path | None else "N")
        parser.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, help=item.metadata["help"])
    if "centre" in names:
        parser.add_argument("--insecure-plaintext", action="store_true", help=_plaintext())


def settings_of(args: argparse.Namespace) -> Settings:
    """The settings in force: of flags, EDGE_* variables and the file. Raises UsageError."""
    for name in Settings.__dataclass_fields__:
        if not hasattr(args, name):
            setattr(args, name, None)
    flags, config = given(args, Settings, PREFIX)
    return load(flags, os.environ, config)


def _plaintext() -> str:
    text: str = Settings.__dataclass_fields__["insecure_plaintext"].metadata["help"]
    return text


def facts(rows: Iterable[tuple[str, str]]) -> None:
    """Labels and what they say, in two columns."""
    table([list(row) for row in rows])


def table(rows: Sequence[Sequence[str]], *, head: bool = False) -> None:
    """Rows in columns as wide as they need; a Chinese character takes two. `head`: the first row names them."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    for place, row in enumerate(rows):
        print("  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)).rstrip())
        if head and place == 0:
            print("  ".join("-" * width for width in widths))


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
