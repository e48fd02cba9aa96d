"""Claims about docs/performance.md: its figures are kept as JSON beside it, and others name them rightly."""

import json
import math
from pathlib import Path

import pytest

from bench import __main__ as bench
from bench.result import Result
from loadtest.costs import _BENCH, PERFORMANCE

PAGE = bench.ROOT / "docs" / "performance.md"
SOURCES = "".join(path.read_text("utf-8") for path in sorted((bench.ROOT / "bench").rglob("*.py")))


def kept() -> list[Result]:
    """The rows of docs/performance.json."""
    rows = json.loads(PERFORMANCE.read_text("utf-8"))
    numbers = ("value", "floor_value", "ratio")
    plain = [row | {name: math.nan for name in numbers if row[name] is None} for row in rows]
    return [Result(**row | {"spread": tuple(row["spread"]) if row["spread"] else None}) for row in plain]


def test_the_page_shows_the_figures_that_are_kept() -> None:
    """Every row of the table comes from the JSON, in its order, and no other."""
    shown = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    assert shown[2:] == bench._table(kept())


def test_one_command_writes_both(tmp_path: Path) -> None:
    """The JSON that belongs to a page is written with it."""
    rows = [Result("a", 1.5, "µs", "b", 3.0, 0.5, "", ""), Result.not_measured("c", "why")]
    bench._write(rows, tmp_path / "performance.md")

    assert json.loads((tmp_path / "performance.json").read_text("utf-8")) == [bench._plain(row) for row in rows]
    assert bench._table(rows)[0] in (tmp_path / "performance.md").read_text("utf-8")


def test_a_run_tells_how_long_it_took_and_keeps_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A quick run of one suite ends with its seconds, all and of each suite, leaves its results and writes no page."""
    suites = {"one": lambda: [Result("a", 1.5, "µs", "b", 3.0, 0.5, "", "")]}
    for name in ("SUITES", "QUICK"):
        monkeypatch.setattr(bench, name, suites)
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["bench", "--quick"])

    assert bench.main() == 0
    assert capsys.readouterr().out.endswith("done in 0 s: one 0\n")
    assert [path.name[-11:] for path in (tmp_path / "bench" / "results").iterdir()] == ["-quick.json"]
    assert not (tmp_path / "docs").exists()


@pytest.mark.parametrize("name", _BENCH)
def test_the_costs_of_a_plan_go_by_real_rows(name: str) -> None:
    """A row that the bench names otherwise, or that is not kept, would leave its cost assumed without a word."""
    assert name in {row.name for row in kept()}
    suite, _, in_flight = name.rpartition(", ")  # peers put theirs together
    assert f'"{name}"' in SOURCES or (f'"{suite}"' in SOURCES and in_flight.endswith(" in flight"))
