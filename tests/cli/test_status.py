"""`checker status` as an operator types it: when it asks somebody to look."""

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from checker.cli.main import main
from checker.index.urls import open_index
from tests.cli import console
from tests.lists.builders import add, write


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """An empty embedded index whose server stays up."""
    attached = open_index(f"embedded:{tmp_path / 'index'}")
    yield f"embedded:{tmp_path / 'index'}"
    attached._on_close()  # type: ignore[attr-defined]  # it was never opened


def fed(index: str, feed: Path, sequence: int, hours: float) -> int:
    """Import one line that is so many hours old; the exit code."""
    moment = (datetime.now(UTC) - timedelta(hours=hours)).isoformat(timespec="seconds")
    return main(["import", "--index", index, str(write(feed, [add(sequence, "M1", 1, time=moment)]))])


Status = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def status(index: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Status:
    """`checker status --check` in this process: its exit code, and the warnings about the feed."""

    def status(*flags: str | Path, **environment: str) -> tuple[int, list[str]]:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            code = main(["status", "--index", index, "--check", "--json", *map(str, flags)])
        return code, warnings(capsys.readouterr().out)

    return status


def warnings(told: str) -> list[str]:
    """Those about the feed."""
    return [warning for warning in json.loads(told)["warnings"] if "feed" in warning]


def test_the_limits_are_the_services(index: str, status: Status, tmp_path: Path) -> None:
    """How long a feed may be silent, and a gap open, is read where `checker serve` reads it: flag, variable, file."""
    assert fed(index, tmp_path / "feed", 1, hours=3) == 0
    silent = "the court feed has been silent for over"
    ran = console.run("status", "--index", index, "--check", "--json")
    assert (ran.code, warnings(ran.out)) == status() == (1, [f"{silent} 15 minutes"])
    assert status("--feed-warn-minutes", "170") == (1, [f"{silent} 170 minutes"])
    assert status("--feed-warn-minutes", "240") == (0, [])
    assert status(CHECKER_FEED_WARN_MINUTES="240") == (0, [])
    assert status("--feed-warn-minutes", "100", CHECKER_FEED_WARN_MINUTES="240")[0] == 1
    file = tmp_path / "settings.toml"
    file.write_text("feed_warn_minutes = 60\nfeed_stop_hours = 2\nworkers = 4\n")
    stopped = [f"{silent} 2 hours: nobody is barred until it speaks"]
    assert status("--config", file) == status(CHECKER_CONFIG=str(file)) == (1, stopped)
    assert status("--config", file, "--feed-stop-hours", "4", "--feed-warn-minutes", "200") == (0, [])

    wrong = console.run("status", "--index", index, "--feed-stop-hours", "soon")
    assert (wrong.code, "--feed-stop-hours: must be a whole number" in wrong.err) == (2, True)

    assert fed(index, tmp_path / "ahead", 9, hours=0) == 1
    time.sleep(0.1)  # a gap is told in tenths of a second
    code, told = status(CHECKER_FEED_WARN_MINUTES="240")
    assert code == 1
    assert "from sequence 2 on" in told[0]
    assert "nobody is barred" not in told[0]
    code, told = status(CHECKER_FEED_WARN_MINUTES="240", CHECKER_GAP_GRACE_MINUTES="0")
    assert code == 1
    assert told[0].endswith("and nobody is barred meanwhile")
