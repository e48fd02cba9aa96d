"""What tests of whole runs share."""

import pytest


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report's charts are made, but not drawn: a second of processor time for a page that nobody reads."""
    monkeypatch.setattr("loadtest.charts._svg", lambda figure: "<svg></svg>")
