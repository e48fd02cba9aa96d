"""Time-outs that are a silent peer's fault, not those of a process that stood still.

A process that could not run for a while (a busy machine, a blocking call in the same event loop) finds its timers due
and the answer in its socket, and the event loop may run the timers first. Here a few turns pass before a time-out
counts, in which what has come is read.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

TURNS: Final = 10
"""Of the event loop. From its socket to whoever waits, an answer of the store takes one, one through gRPC four."""


def after_turns(callback: Callable[..., object], *args: Any, turns: int = TURNS) -> None:
    """Call back after so many: a timer calls this in place of `callback`."""
    if turns:
        asyncio.get_running_loop().call_soon(lambda: after_turns(callback, *args, turns=turns - 1))
    else:
        callback(*args)


class timeout_at:  # noqa: N801 - as asyncio's
    """`asyncio.timeout_at`, after `TURNS`. Raises TimeoutError on leaving."""

    __slots__ = ("_left", "_limit", "_timer", "_when")

    def __init__(self, when: float) -> None:
        self._when = when
        self._limit = asyncio.timeout(None)
        self._left = False
        self._timer: asyncio.TimerHandle

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()
        self._timer = asyncio.get_running_loop().call_at(self._when, after_turns, self._expire)

    async def __aexit__(self, *error: Any) -> None:
        self._timer.cancel()
        self._left = True
        await self._limit.__aexit__(*error)

    def _expire(self) -> None:
        if not self._left:  # in one of the turns
            self._limit.reschedule(asyncio.get_running_loop().time())
