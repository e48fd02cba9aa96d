"""The filter keeper: one process per node that builds the filter file and rebuilds it aside when it has aged.

It rebuilds when there is no usable file, when additions since the build pass a tenth of its capacity, when the journal
no longer reaches back to it, when the file is gone or was replaced by another, and daily, so that lifted people stop
being false positives. A worker that starts needs the file and all of the journal after it, so a file that only the
running workers could do without is as good as none. Workers never build: a scan of millions of keys would sit in the
way of checks.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from checker.core import container
from checker.core.filter import DigestFilter, Overlaid
from checker.core.key import DigestKey
from checker.core.rules import Rulebook
from checker.errors import IndexUnavailable
from checker.index.base import ExactIndex, Position
from checker.serving import filter_file
from checker.serving.settle import wall_clock_ms

DAY_MS = 86_400_000
BLOCK_S = 1.0
"""Between two looks at the file, and how long the journal is waited for."""
REACH_S = 60.0
"""Between two looks whether the journal still reaches back to the file."""
_log = logging.getLogger("checker.keeper")


class Keeper:
    """See the module. `ensure` makes the first file; `run` keeps it young until cancelled."""

    def __init__(
        self,
        index: ExactIndex,
        key: DigestKey,
        rulebook: Rulebook,
        path: Path,
        error_rate: float,
        clock_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self._index = index
        self._key = key
        self._rulebook = rulebook
        self._path = path
        self._error_rate = error_rate
        self._clock_ms = clock_ms
        self._base = Position(b"", 0)  # the journal's end when the file was built
        self._position = self._base
        self._stamp = (0, 0)
        self._built_ms = 0
        self._reached = 0.0  # monotonic time of the last look whether the journal reaches back to the file
        self._since = Overlaid(None)  # keys added since the build: the same rule of fullness as the workers'

    async def ensure(self) -> None:
        """A usable file is there when this returns; retries while index or disk are out of reach."""
        pause = 0.3
        while True:
            try:
                if not await self._usable():
                    await self._build()
                return
            except (IndexUnavailable, OSError) as error:
                pause = await _wait(error, pause)

    async def run(self) -> None:
        """Follow the journal, counting; rebuild when due."""
        pause = 0.5
        while True:
            try:
                page = await self._index.journal_read(self._position, BLOCK_S)
                if not page.reset:
                    for key in page.keys:
                        self._since.add(key)
                    self._position = page.position
                if page.reset or await self._due():
                    await self._build()
                pause = 0.5
            except (IndexUnavailable, OSError) as error:
                pause = await _wait(error, pause)

    async def _due(self) -> bool:
        if self._since.overfull() or self._clock_ms() - self._built_ms > DAY_MS:
            return True
        if filter_file.stamp(self._path) != self._stamp and not await self._usable():
            _log.warning("the filter file was removed or replaced by one of no use here: building another")
            return True
        if time.monotonic() - self._reached < REACH_S:
            return False
        self._reached = time.monotonic()
        return (await self._index.journal_read(self._base, 0)).reset

    async def _usable(self) -> bool:
        stamp = filter_file.stamp(self._path)
        try:
            header, base = await asyncio.to_thread(filter_file.load, self._path, self._key)
        except (OSError, container.BadContainer):
            return False
        position = Position(header.journal_id, header.journal_position)
        page = await self._index.journal_read(position, 0)
        if page.reset or base.error_rate > self._error_rate:
            return False
        self._adopt(header, base, stamp)
        return True

    async def _build(self) -> None:
        start = time.monotonic()
        header, built = await filter_file.build(
            self._index, self._key, self._rulebook, self._error_rate, self._clock_ms
        )
        await asyncio.to_thread(filter_file.write, self._path, header, built)
        self._adopt(header, built, filter_file.stamp(self._path))
        seconds = round(time.monotonic() - start, 3)
        _log.info("filter built", extra={"keys": header.parameters.count, "seconds": seconds})

    def _adopt(self, header: container.Header, base: DigestFilter, stamp: tuple[int, int]) -> None:
        self._base = self._position = Position(header.journal_id, header.journal_position)
        self._built_ms = header.built_ms
        self._stamp = stamp
        self._reached = time.monotonic()
        self._since = Overlaid(base)


async def _wait(error: IndexUnavailable | OSError, pause: float) -> float:
    """Say what is in the way and wait; longer each time for a full disk, since trying again is a scan of the index."""
    if isinstance(error, IndexUnavailable):
        _log.warning("filter waits for the index: %s", error)
        await asyncio.sleep(0.5)
        return pause
    _log.error("filter file cannot be written, the old one stays: %s", error.strerror)
    await asyncio.sleep(pause)
    return min(pause * 2, 60.0)
