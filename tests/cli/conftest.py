"""What every test of a command shares."""

import pytest


@pytest.fixture(autouse=True)
def _a_wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The width of whatever runs the tests must not decide where a table folds; tests of folding set their own."""
    monkeypatch.setenv("COLUMNS", "100")
