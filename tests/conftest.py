"""What holds for every test: Ctrl-C reaches what is started, no example is timed, and long files are begun first."""

import signal
from pathlib import Path

import hypothesis
import pytest

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would theirs

# A machine that stood still for a fifth of a second is no finding, and no test claims an example's time.
hypothesis.settings.register_profile(
    "untimed", hypothesis.settings(), deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")

FIRST = ("paths", "loadtest", "edge", "index", "cli", "docs")
"""Folders whose files take longest: begun first, so that no process ends alone with one of them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; within a file the order stays."""
    here = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(here).parts[0]
        return FIRST.index(folder) if folder in FIRST else len(FIRST)

    items.sort(key=place)
