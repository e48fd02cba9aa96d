"""A node's list side in one process: a memory index, its filter file on a real disk, keeper and follower."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from checker.core.freshness import AsOf
from checker.core.lookup import EVERYTHING
from checker.core.measure import Addition, Removal, State, encode_record
from checker.errors import IndexUnavailable
from checker.index.base import Head, IndexKey, JournalPage, Position
from checker.index.memory import MemoryIndex, MemoryStore
from checker.rpc.live_filter import LiveFilter
from checker.serving.follower import Follower
from checker.serving.hub import Hub
from checker.serving.keeper import Keeper
from tests.builders import KEY, NOW, a_measure, a_view, rulebook
from tests.index.builders import digest

INDEX_KEY = IndexKey(KEY.key_id, KEY.check_value)


class Shelf(MemoryIndex):
    """The memory index with a plug to pull and a journal that can be held back."""

    def __init__(self, store: MemoryStore | None = None, *, journal_entries: int = 1_000_000) -> None:
        super().__init__(store, journal_entries=journal_entries)
        self.lost = False
        self.journal_goes = asyncio.Event()
        self.journal_goes.set()
        self.heads_read = 0
        self.bug: Exception | None = None

    async def journal_read(self, position: Position, block_s: float) -> JournalPage:
        await self.journal_goes.wait()
        self._reach()
        return await super().journal_read(position, min(block_s, 0.01))

    async def head(self) -> Head:
        self._reach()
        self.heads_read += 1
        return await super().head()

    def _reach(self) -> None:
        if self.bug is not None:
            raise self.bug
        if self.lost:
            raise IndexUnavailable("the index is out of reach")

    async def add(self, sequence: int, *numbers: int, measure_id: str = "") -> None:
        """An order in force against these keys, acknowledged."""
        record = encode_record(a_measure()._replace(sequence=sequence))
        keys = {digest(number): record for number in numbers}
        await self.apply([Addition(sequence, measure_id or f"M{sequence}", keys, "", "")])
        await self.acknowledge(sequence)

    async def lift(self, sequence: int, measure_id: str) -> None:
        """The end of a measure, acknowledged."""
        await self.apply([Removal(sequence, measure_id, State.SHIELDED, "paid")])
        await self.acknowledge(sequence)

    async def acknowledge(self, sequence: int) -> None:
        """The head as an importer advances it."""
        self._store.head = Head(sequence, NOW, 0)


async def a_shelf(journal_entries: int = 1_000_000) -> Shelf:
    """An open, empty index."""
    shelf = Shelf(journal_entries=journal_entries)
    await shelf.open(INDEX_KEY, create=True)
    return shelf


def a_keeper(shelf: MemoryIndex, path: Path, **options: object) -> Keeper:
    """A keeper of the file at `path`."""
    return Keeper(shelf, KEY, rulebook(), path, 1e-3, **options)  # type: ignore[arg-type]


def a_live() -> LiveFilter:
    """What a worker starts with: no filter, nothing known."""
    return LiveFilter(a_view(as_of=AsOf(0, 0, 0, 0))._replace(filter=EVERYTHING))


def a_hub(shelf: MemoryIndex, live: LiveFilter) -> Hub:
    """A worker's hub."""
    return Hub(shelf, shelf.publications, KEY, live)


@asynccontextmanager
async def following(shelf: MemoryIndex, path: Path) -> AsyncIterator[tuple[Follower, LiveFilter]]:
    """A worker's follower at work."""
    live = a_live()
    follower = Follower(shelf, live, a_hub(shelf, live), KEY, path)
    await follower.start()
    try:
        yield follower, live
    finally:
        await follower.stop()


@asynccontextmanager
async def keeping(keeper: Keeper) -> AsyncIterator[Keeper]:
    """A keeper at work, once its file is there."""
    await keeper.ensure()
    task = asyncio.create_task(keeper.run())
    try:
        yield keeper
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
