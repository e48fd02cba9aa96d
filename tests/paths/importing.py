"""An importer that stays attached to a stand's index, so that lifts and additions follow each other by milliseconds."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from checker import keys as key_files
from checker.core.key import DigestKey
from checker.index.base import ExactIndex, IndexKey
from checker.index.urls import open_index
from checker.lists.importer import ImportOptions, import_feeds
from tests.paths.stand import Stand


class Importer:
    """`send` is `checker import` without its start: acknowledged when it returns, and it returns that moment."""

    def __init__(self, stand: Stand, index: ExactIndex, key: DigestKey) -> None:
        self._stand = stand
        self._index = index
        self._key = key

    async def send(self, *lines: dict[str, Any]) -> float:
        """Import these lines; the steady clock's time of their acknowledgement."""
        feed = self._stand.feed(f"sent-{lines[0]['seq']}.jsonl", *lines)
        summary = await import_feeds(self._index, self._key, [feed], ImportOptions(state_dir=self._stand.state))
        acknowledged = time.monotonic()
        assert summary.exit_code == 0, summary.text()
        return acknowledged


@asynccontextmanager
async def importing(stand: Stand) -> AsyncIterator[Importer]:
    """An importer in this event loop."""
    key = key_files.load(stand.key_file).digest_key
    index = open_index(stand.index)
    try:
        await index.open(IndexKey(key.key_id, key.check_value), create=False)
        yield Importer(stand, index, key)
    finally:
        await index.close()
