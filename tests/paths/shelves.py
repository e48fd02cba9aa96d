"""Where a centre's index is kept, in memory or on a real server, and what may become of it: lost, copied, restored."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

from checker.core.measure import Measure
from checker.errors import IndexUnavailable
from checker.index.base import ExactIndex, IndexKey
from checker.index.memory import MemoryIndex, MemoryStore
from checker.index.urls import open_index
from tests.index.servers import Server
from tests.paths.proxy import Proxy


class Plugged(MemoryIndex):
    """A connection that can be lost."""

    lost = False

    async def get_many(self, keys: Sequence[bytes], timeout_s: float) -> list[tuple[Measure, ...] | None]:
        return [None] * len(keys) if self.lost else await super().get_many(keys, timeout_s)

    def _must_be_open(self) -> None:
        super()._must_be_open()
        if self.lost:
            raise IndexUnavailable("the index is out of reach")


class Shelf:
    """Where the centre's index is kept, in memory."""

    def __init__(self, key: IndexKey) -> None:
        self._key = key
        self._store = MemoryStore()
        self._worker: Plugged | None = None

    async def open_for_worker(self) -> ExactIndex:
        """A connection that `lose` ends."""
        index = Plugged(self._store)
        await index.open(self._key, create=True)
        self._worker = index
        return index

    def lose(self, *, lost: bool) -> None:
        """Whether the worker is cut off from the index."""
        if self._worker is not None:
            self._worker.lost = lost

    async def open(self) -> ExactIndex:
        """One more connection."""
        index = MemoryIndex(self._store)
        await index.open(self._key, create=True)
        return index

    def copy(self) -> Any:
        """A backup."""
        published = copy.deepcopy(self._store.published)
        kept = [
            field.name for field in dataclasses.fields(MemoryStore) if field.name not in ("journal_grown", "published")
        ]
        return {name: copy.deepcopy(getattr(self._store, name)) for name in kept}, published

    def restore(self, backup: Any) -> None:
        """Go back to a backup; nobody is connected."""
        fields, published = copy.deepcopy(backup)
        self._store = MemoryStore(**fields, published=published)

    def trim(self) -> None:
        """The journal forgets all but its last entry."""
        for entry in range(self._store.journal_end - len(self._store.journal) + 1, self._store.journal_end):
            del self._store.journal[entry]


class ServerShelf(Shelf):
    """The same on a real server."""

    def __init__(self, key: IndexKey, server: Server, road: Proxy) -> None:
        self._key = key
        self._server = server
        self._road = road
        server.command("FLUSHALL")

    async def open_for_worker(self) -> ExactIndex:
        index = open_index(f"redis://{self._road.address}", 5.0)
        await index.open(self._key, create=True)
        return index

    def lose(self, *, lost: bool) -> None:
        self._road.refusing = lost
        if lost:
            self._road.cut()

    async def open(self) -> ExactIndex:
        index = open_index(self._server.url, 5.0)
        await index.open(self._key, create=True)
        return index

    def copy(self) -> Any:
        with self._server.client() as client:
            return {name: client.dump(name) for name in client.keys("*")}

    def restore(self, backup: Any) -> None:
        with self._server.client() as client:
            client.flushall()
            for name, value in backup.items():
                client.restore(name, 0, value)

    def trim(self) -> None:
        self._server.command("XTRIM", "xx:1:j", "MAXLEN", "1")

    def restart(self) -> None:
        """As after a crash."""
        self._server.kill()
        self._server.start()
