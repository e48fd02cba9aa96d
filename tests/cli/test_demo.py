"""Claims about `checker demo`, what `make run` does: it works alone in its folder, and leaves nothing running."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from tests.waiting import until


def _demo(folder: Path, log: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "checker", "demo", "--people", "300", "--dir", str(folder)]
    command += ["--listen", "127.0.0.1:0", "--edge-listen", "127.0.0.1:0"]
    with log.open("wb") as out:
        # SIGINT is ignored, as in a shell's background.
        environment = os.environ | {"RUN_SECONDS": "120"}
        return subprocess.Popen(
            ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command],
            stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
        )  # fmt: skip


def test_a_second_demo_is_refused_and_a_stopped_one_leaves_nothing(tmp_path: Path) -> None:
    """The first goes on as if nothing had been; SIGTERM, too, ends its servers with it."""
    folder, log = tmp_path / "demo", tmp_path / "log"
    with _demo(folder, log) as first:
        try:
            until(lambda: "Stops after" in log.read_text() or first.poll() is not None, 90)
            assert first.poll() is None, log.read_text()
            served = [psutil.Process(json.loads((folder / name).read_text())["pid"])
                      for name in ("ready.json", "edge-ready.json")]  # fmt: skip
            family = served + [child for each in served for child in each.children(recursive=True)]
            with _demo(folder, tmp_path / "second") as second:
                assert second.wait(30) == 2
            assert f"--dir {folder}: another demo runs there" in (tmp_path / "second").read_text()
            assert (folder / "feed" / "people.csv").exists()
            assert all(each.is_running() for each in served)
        finally:
            first.send_signal(signal.SIGTERM)
            code = first.wait(60)
    assert code == 0, log.read_text()
    until(lambda: not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in family), 20)
