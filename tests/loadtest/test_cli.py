"""Claims about the `loadtest` command: what it prints, what it refuses, and that the printed time repeats a run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from loadtest.cli import main


def _pem(path: Path, *, ed25519: bool) -> str:
    key = Ed25519PrivateKey.generate() if ed25519 else generate_private_key(SECP256R1())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return str(path)


def test_the_printed_time_repeats_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --as-of the time is now, printed; with that time given the bytes are the same."""
    assert main(["make-feed", "--people", "300", "--seed", "5", "--out", str(tmp_path / "a")]) == 0
    printed = capsys.readouterr().out
    again = re.search(r"--as-of (\S+)", printed)
    assert again is not None
    assert "checker import" in printed

    arguments = ["make-feed", "--people", "300", "--seed", "5", "--as-of", again[1], "--out", str(tmp_path / "b")]
    assert main(arguments) == 0
    for name in ("feed.jsonl", "feed.jsonl.manifest.json", "people.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_key_signs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With an Ed25519 key and a court's name the manifest is signed and the summary says so."""
    key = _pem(tmp_path / "court.pem", ed25519=True)
    out = tmp_path / "out"
    arguments = ["make-feed", "--people", "5", "--seed", "5", "--sign-with", key, "--court", "杭州", "--out", str(out)]

    assert main(arguments) == 0
    assert "signed for 杭州" in capsys.readouterr().out
    assert '"signature"' in (out / "feed.jsonl.manifest.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["--people", "0"], "must be 1 to"),
        (["--people", "99999999"], "must be 1 to"),
        (["--broken", "11"], "must be 0 to --people"),
        (["--broken", "-1"], "must be 0 to --people"),
        (["--as-of", "yesterday"], "write it like"),
        (["--as-of", "2025-06-01T12:00:00"], "names no time zone"),
        (["--as-of", "1999-06-01T12:00:00Z"], "2010 to 2098"),
        (["--sign-with", "missing.pem", "--court", "x"], "openssl genpkey"),
        (["--sign-with", "missing.pem"], "needs --court"),
    ],
)
def test_wrong_input_is_one_line_with_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], remedy: str
) -> None:
    """Exit 2, one line that names the remedy, and nothing written."""
    out = tmp_path / "out"

    assert main(["make-feed", "--people", "10", "--seed", "1", *arguments, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert remedy in error
    assert not out.exists()


def test_a_key_of_another_kind_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An elliptic-curve key, and a file that is no key, are refused with the command that makes a right one."""
    (tmp_path / "text.pem").write_text("hello")
    for key in (_pem(tmp_path / "ec.pem", ed25519=False), str(tmp_path / "text.pem")):
        arguments = ["--people", "1", "--seed", "1", "--sign-with", key, "--court", "x", "--out", str(tmp_path / "o")]
        assert main(["make-feed", *arguments]) == 2
        assert "openssl genpkey -algorithm ed25519" in capsys.readouterr().err


def test_a_folder_in_use_is_kept_unless_forced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that is not empty is left alone; --force writes into it and keeps foreign files."""
    (tmp_path / "mine.txt").write_text("mine")
    arguments = ["make-feed", "--people", "5", "--seed", "1", "--out", str(tmp_path)]

    assert main(arguments) == 2
    assert "--force" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
    assert main([*arguments, "--force"]) == 0
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert (tmp_path / "people.csv").exists()


def test_a_file_is_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--out naming a file, or a folder below a file, is refused in one line."""
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert main(["make-feed", "--people", "5", "--seed", "1", "--out", str(out)]) == 2
        assert "is a file; name a folder" in capsys.readouterr().err


def test_help_tells_what_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    """--help names every file and column and gives an example."""
    with pytest.raises(SystemExit) as left:
        main(["make-feed", "--help"])
    text = capsys.readouterr().out

    assert left.value.code == 0
    for word in ("feed.jsonl", "manifest", "people.csv", "broken.csv", "service_time", "examples:"):
        assert word in text


def test_the_module_runs_as_a_command(tmp_path: Path) -> None:
    """`python -m loadtest` is the same command, exit code included."""
    done = subprocess.run(
        [sys.executable, "-m", "loadtest", "make-feed", "--people", "0", "--seed", "1", "--out", str(tmp_path / "o")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert "loadtest make-feed: --people" in done.stderr


def test_a_reader_that_leaves_early_spoils_nothing(tmp_path: Path) -> None:
    """With its output closed, as by `| head`, the files are complete, the exit code 0 and standard error empty."""
    command = [sys.executable, "-m", "loadtest", "make-feed", "--people", "20", "--seed", "1", "--out", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        errors = running.stderr.read()

    assert (running.returncode, errors) == (0, b"")
    assert (tmp_path / "feed.jsonl.manifest.json").exists()
