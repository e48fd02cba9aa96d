"""An edge's install has the `checker` and `loadtest` commands too, without the packages that most of them need."""

import subprocess
import sys
from pathlib import Path

import pytest

_WITHOUT = """
import sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""
CHECKER = ("redis", "hiredis", "numpy", "opencc", "pypinyin", "prometheus_client", "rich")
LOADTEST = ("locust", "hdrh", "matplotlib", "psutil", "rich")


def without(missing: tuple[str, ...], program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A command in a process that lacks these packages."""
    code = _WITHOUT.format(missing=missing) + f"from {program}.cli import main\nsys.exit(main({list(words)!r}))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "words",
    [
        ("serve", "--index", "memory:"),
        ("import", "--index", "embedded:index", "feed.jsonl"),
        ("status", "--index", "embedded:index"),
        ("build-snapshot", "--index", "embedded:index"),
        ("fleet", "--index", "redis://127.0.0.1:1"),
        ("rulebook",),
    ],
)
def test_a_command_that_lacks_packages_says_which_install_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """One line with the remedy, no traceback, exit 1; nothing was made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "feed.jsonl").touch()
    (tmp_path / "index").mkdir(mode=0o700)
    assert without(CHECKER, "checker", "keys", "new", "--key-file", "key.json").returncode == 0
    flags = () if words[0] == "rulebook" else ("--key-file", "key.json")
    before = sorted(tmp_path.rglob("*"))
    done = without(CHECKER, "checker", *words, *flags)
    assert done.returncode == 1, done
    assert done.stderr.startswith("checker: the package '")
    assert done.stderr.count("\n") == 1
    assert "pip install 'xianxiao[checker]'" in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_what_an_edge_needs_of_checker_is_there(tmp_path: Path) -> None:
    """Health, a check by hand and key files need no more than the base."""
    key = tmp_path / "key.json"
    assert without(CHECKER, "checker", "keys", "new", "--key-file", str(key)).returncode == 0
    assert key.exists()
    for words in (["health", "--target", "127.0.0.1:1"], ["check", "--target", "127.0.0.1:1", "flight"]):
        done = without(CHECKER, "checker", *words)
        assert "package" not in done.stderr, done
        assert "Traceback" not in done.stderr, done


def test_the_load_tester_says_which_install_has_it() -> None:
    """One line with the remedy."""
    done = without(LOADTEST, "loadtest", "run")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "pip install 'xianxiao[loadtest]'" in done.stderr
