"""Running the real console script, as a person or a program would."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

SCRIPT = str(Path(sys.executable).parent / "checker")
_OURS = ("CHECKER_", "COLUMNS", "NO_COLOR", "FORCE_COLOR", "GRPC_")


class Ran(NamedTuple):
    """A finished command."""

    code: int
    out: str
    err: str


def environment(**more: str) -> dict[str, str]:
    """The environment without anything that changes how `checker` speaks."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)} | more


def run(*arguments: str | Path, stdin: str | bytes = "", cwd: str | Path = ".", **more: str) -> Ran:
    """Run `checker ARGUMENTS` to its end; standard input is a pipe. `cwd`: the directory it runs in."""
    raw = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run(
        [SCRIPT, *map(str, arguments)],
        input=raw,
        capture_output=True,
        timeout=60,
        check=False,
        cwd=cwd,
        env=environment(**more),
    )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())
