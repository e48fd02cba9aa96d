"""What holds for every test: Ctrl-C reaches what is started, and long files are begun first."""

import signal
from pathlib import Path

import pytest

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would theirs

FIRST = ("paths", "loadtest", "edge", "index", "cli", "docs")
"""Folders whose files take longest: begun first, so that no process ends alone with one of them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; within a file the order stays."""
    here = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(here).parts[0]
        return FIRST.index(folder) if folder in FIRST else len(FIRST)

    items.sort(key=place)
