"""`checker import` as an operator types it: what it leaves alone, and what it shows on a terminal."""

import os
import pty
import subprocess
import threading
from pathlib import Path

from tests.cli import console
from tests.lists.builders import add, write


def test_a_feed_that_cannot_be_read_makes_no_index(tmp_path: Path) -> None:
    """Each such file is named, with exit code 2; neither folder nor key file is made, for whatever was mistyped."""
    good = write(tmp_path / "good.jsonl", [add(1, "M1", 1)])
    index, state, key = (tmp_path / name for name in ("index", "state", "key.json"))
    where = ("--index", f"embedded:{index}", "--state-dir", state, "--key-file", key)
    ran = console.run("import", *where, good, tmp_path / "nowhere.jsonl", tmp_path)
    assert ran.code == 2
    assert "nowhere.jsonl: No such file or directory" in ran.err
    assert f"{tmp_path}: Is a directory" in ran.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good.jsonl"]

    assert console.run("import", *where, good).code == 0
    assert index.is_dir()
    assert key.is_file()


def on_a_terminal(*arguments: str | Path) -> tuple[int, str, str]:
    """Run `checker ARGUMENTS` with a terminal for standard error; exit code, standard output, what the terminal got."""
    ours, theirs = pty.openpty()
    shown = bytearray()

    def watch() -> None:
        while True:
            try:
                read = os.read(ours, 4096)
            except OSError:  # the other side is closed
                return
            if not read:
                return
            shown.extend(read)

    try:
        process = subprocess.Popen(
            [console.SCRIPT, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            env=console.environment(TERM="xterm"),
        )
    finally:
        os.close(theirs)
    watching = threading.Thread(target=watch)
    watching.start()
    try:
        printed, _ = process.communicate(timeout=60)
        watching.join(60)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return process.returncode, printed.decode(), shown.decode()


def test_progress_is_for_terminals(tmp_path: Path) -> None:
    """A bar on a terminal's standard error, gone when it is done; none without a terminal, or if none is wanted."""
    feed = write(tmp_path / "feed.jsonl", [add(number, f"M{number}", number) for number in range(1, 200)])
    where = ("import", "--index", f"embedded:{tmp_path / 'index'}", feed)

    code, printed, shown = on_a_terminal(*where)
    assert code == 0
    assert "importing" in shown
    assert "kB" in shown
    assert "importing" not in printed
    assert "199 lines" in printed

    for option in ("--quiet", "--json"):
        code, _, shown = on_a_terminal(*where, option)
        assert (code, shown) == (0, "")
    ran = console.run(*where)
    assert (ran.code, ran.err) == (0, "")
    assert "importing" not in ran.out
