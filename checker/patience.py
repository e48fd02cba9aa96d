"""Time-outs that are a silent peer's fault, not those of a process that stood still.

A process that could not run for a while (a busy machine, a blocking call in the same event loop) finds its timers due
and the answer in its socket, and the event loop may run the timers first. Here a few turns pass before a time-out
counts, in which what has come is read.
"""

import asyncio
from typing import Any, Final

TURNS: Final = 10
"""Of the event loop. From its socket to whoever waits, an answer of the store takes one, one through gRPC four."""


class timeout_at:  # noqa: N801 - as asyncio's
    """`asyncio.timeout_at`, after `TURNS`. Raises TimeoutError on leaving."""

    __slots__ = ("_handle", "_limit", "_when")

    def __init__(self, when: float) -> None:
        self._when = when
        self._limit = asyncio.timeout(None)
        self._handle: asyncio.Handle

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()
        self._handle = asyncio.get_running_loop().call_at(self._when, self._turn, TURNS)

    async def __aexit__(self, *error: Any) -> None:
        self._handle.cancel()
        await self._limit.__aexit__(*error)

    def _turn(self, left: int) -> None:
        loop = asyncio.get_running_loop()
        if left:
            self._handle = loop.call_soon(self._turn, left - 1)
        else:
            self._limit.reschedule(loop.time())
