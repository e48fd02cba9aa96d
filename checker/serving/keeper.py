"""The filter keeper: one process per node that builds the filter file and rebuilds it aside when it has aged.

It rebuilds when there is no usable file, when additions since the build pass a tenth of its capacity, when the journal
no longer reaches back to it, and daily, so that lifted people stop being false positives. Workers never build: a scan
of millions of keys would sit in the way of checks.
"""

import asyncio
import logging
import time
from pathlib import Path

from checker.core import container
from checker.core.filter import Overlaid
from checker.core.key import DigestKey
from checker.core.rules import Rulebook
from checker.errors import IndexUnavailable
from checker.index.base import ExactIndex, Position
from checker.serving import filter_file
from checker.serving.settle import wall_clock_ms

DAY_MS = 86_400_000
_log = logging.getLogger("checker.keeper")


class Keeper:
    """See the module. `ensure` makes the first file; `run` keeps it young until cancelled."""

    def __init__(self, index: ExactIndex, key: DigestKey, rulebook: Rulebook, path: Path, error_rate: float) -> None:
        self._index = index
        self._key = key
        self._rulebook = rulebook
        self._path = path
        self._error_rate = error_rate
        self._position = Position(b"", 0)
        self._built_ms = 0
        self._since = Overlaid(None)  # keys added since the build: the same rule of fullness as the workers'

    async def ensure(self) -> None:
        """A usable file is there when this returns; retries while the index is out of reach."""
        while True:
            try:
                if not await self._usable():
                    await self._build()
                return
            except IndexUnavailable as error:
                _log.warning("filter waits for the index: %s", error)
                await asyncio.sleep(0.3)

    async def run(self) -> None:
        """Follow the journal, counting; rebuild when due."""
        while True:
            try:
                page = await self._index.journal_read(self._position, 1.0)
                if not page.reset:
                    for key in page.keys:
                        self._since.add(key)
                    self._position = page.position
                if page.reset or self._since.overfull() or wall_clock_ms() - self._built_ms > DAY_MS:
                    await self._build()
            except IndexUnavailable as error:
                _log.warning("journal: %s", error)
                await asyncio.sleep(0.5)

    async def _usable(self) -> bool:
        try:
            header, base = await asyncio.to_thread(filter_file.load, self._path, self._key)
        except (FileNotFoundError, container.BadContainer):
            return False
        position = Position(header.journal_id, header.journal_position)
        page = await self._index.journal_read(position, 0)
        if page.reset or base.error_rate > self._error_rate:
            return False
        self._position = position
        self._built_ms = header.built_ms
        self._since = Overlaid(base)
        return True

    async def _build(self) -> None:
        start = time.monotonic()
        header, built = await filter_file.build(self._index, self._key, self._rulebook, self._error_rate, wall_clock_ms)
        await asyncio.to_thread(filter_file.write, self._path, header, built)
        self._position = Position(header.journal_id, header.journal_position)
        self._built_ms = header.built_ms
        self._since = Overlaid(built)
        seconds = round(time.monotonic() - start, 3)
        _log.info("filter built", extra={"keys": header.parameters.count, "seconds": seconds})
