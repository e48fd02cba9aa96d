"""Waiting for a condition, never for luck."""

import asyncio
import time
from collections.abc import Callable


def until(condition: Callable[[], object], seconds: float = 10.0, pause: float = 0.002) -> None:
    """Return once the condition holds; fails after `seconds`. `pause`: longer where a look takes processor time."""
    end = time.monotonic() + seconds
    while True:
        last = time.monotonic() > end  # before the look: a machine that stood still gets one more
        if condition():
            return
        assert not last, "waited in vain"
        time.sleep(pause)


async def eventually(
    condition: Callable[[], object],
    seconds: float = 10.0,
    pause: float = 0.002,
    what: Callable[[], str] = lambda: "waited in vain",
) -> None:
    """The same on an event loop. `what`: what to fail with."""
    end = time.monotonic() + seconds
    while True:
        last = time.monotonic() > end
        if condition():
            return
        assert not last, what()
        await asyncio.sleep(pause)
