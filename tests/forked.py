"""Processes to be killed, many of them: forked off one that has loaded their modules, so that none pays for that anew.

`python -m tests.forked MODULE` runs the module's coroutine `main` for each line on its standard input, a JSON list of
fault point (perhaps empty) and arguments, in a child of its own, and writes the child's exit code, as `subprocess` has
it. The kill is as real as in a process started by itself: nothing but the loaded modules is shared. Not for modules
that use gRPC, whose threads no fork takes along.
"""

import asyncio
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from checker import faults

_MOST_S = 60


class Forked:
    """That process, seen from a test; a context manager."""

    def __init__(self, module: str) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-m", "tests.forked", module],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, fault: str = "") -> int:
        """One process, perhaps killed at a fault point; its exit code."""
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(json.dumps([fault, *arguments]) + "\n")
        self._parent.stdin.flush()
        return int(self._parent.stdout.readline())

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, *_: object) -> None:
        self._parent.communicate()


def _child(main: Any, fault: str, arguments: list[str]) -> None:
    code = 1
    try:
        signal.alarm(_MOST_S)
        if fault:
            faults.point = faults._armed(fault)
        code = asyncio.run(main(*arguments)) or 0
    except BaseException:  # noqa: BLE001 # the child must end here
        traceback.print_exc()
    finally:
        os._exit(code)


def _serve(main: Any) -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            fault, *arguments = json.loads(line)
            _child(main, fault, arguments)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.stdout.write(f"{code}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve(importlib.import_module(sys.argv[1]).main)
