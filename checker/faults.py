"""Fault points: where a test may kill the process between two writes. Free of cost and effect unless asked for.

`CHECKER_FAULT_POINT="name:n"` in the environment at import makes the n-th pass of `point(name)` end the process with
SIGKILL: no handler runs, nothing is flushed, as in a power cut of this process.
"""

import os
import signal
from collections.abc import Callable


def _armed(setting: str) -> Callable[[str], None]:
    wanted, _, count = setting.rpartition(":")
    left = int(count)

    def point(name: str) -> None:
        nonlocal left
        if name == wanted:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return point


def _idle(name: str) -> None:
    pass


_setting = os.environ.get("CHECKER_FAULT_POINT", "")
point: Callable[[str], None] = _armed(_setting) if _setting else _idle
"""Marks a place between two writes by name; kills the process there when the environment says so."""
