"""Keeps one worker's view current: filter file, journal of additions, freshness.

Two tasks. One reads the journal and puts additions into the overlay within milliseconds of their acknowledgement; when
a newer filter file appears it catches that one up from the journal and swaps. The other asks every half second how far
the feed is known. The head is believed only once the journal has been read as far as it reached when the head was asked
for: a miss must never claim to know lines whose keys are still on their way to the overlay.

What is read and heard is also handed to the hub, for the edges that watch this worker. And with every head the index is
told which of its generations this worker reads: it keeps that one as long as anybody does.

Neither ever empties the filter because a refresh failed: what is known stays in use, and answers say how old it is.
Only a journal that no longer knows our position ends the filter's authority; until the keeper's next file is there,
every key is asked of the index. Neither task ends before `stop`, whatever goes wrong: a worker that no longer followed
would let the newly listed pass without a sign of it.
"""

import asyncio
import contextlib
import logging
import os
import socket
import time
from pathlib import Path

from checker.core import container
from checker.core.freshness import AsOf
from checker.core.key import DigestKey
from checker.errors import CheckerError
from checker.index.base import ExactIndex, Head, Position
from checker.rpc.live_filter import LiveFilter
from checker.serving import filter_file
from checker.serving.hub import Hub

POLL_S = 0.5
"""Between two looks at the feed's head and at the filter file."""
LEAVE_S = 1.0
"""How long a store that does not answer may hold up a worker that stops."""
_log = logging.getLogger("checker.follower")


class Follower:
    """One worker's follower. `start` returns once a filter is in use."""

    def __init__(self, index: ExactIndex, live: LiveFilter, hub: Hub, key: DigestKey, path: Path) -> None:
        self._index = index
        self._live = live
        self._hub = hub
        self._key = key
        self._path = path
        self._name = f"{socket.gethostname()} {os.getpid()} {os.urandom(4).hex()}"
        self._position: Position | None = None
        self._stamp: tuple[int, int] = (0, 0)  # inode and mtime of the file in use
        self._heads: tuple[Head, Position] | None = None  # a head, and the journal's end when it was read
        self._tasks: list[asyncio.Task[None]] = []
        self.last_contact = 0.0  # monotonic time of the last answer from the index
        self.swaps = 0

    async def start(self) -> None:
        """Load the filter, catch up, and follow from there. Waits for the keeper's file; raises nothing meanwhile."""
        while not await self._reload():  # noqa: ASYNC110 - a file made by another process sets no event
            await asyncio.sleep(0.05)
        with contextlib.suppress(CheckerError):
            await self._index.report(self._name)
        with contextlib.suppress(CheckerError):
            await self._poll_head()
        self._tasks = [
            asyncio.create_task(self._follow_journal(), name="journal"),
            asyncio.create_task(self._follow_head(), name="head"),
        ]

    async def stop(self) -> None:
        """Stop following, when nobody asks any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(CheckerError, TimeoutError):  # else the report runs out by itself
            async with asyncio.timeout(LEAVE_S):
                await self._index.leave(self._name)

    async def _follow_journal(self) -> None:
        pause = 0.05
        while True:
            try:
                if self._changed():
                    await self._reload()
                if self._position is None:
                    await asyncio.sleep(0.05)
                    continue
                page = await self._index.journal_read(self._position, POLL_S)
                self.last_contact = time.monotonic()
                pause = 0.05
                if page.reset:
                    _log.warning("the journal does not know our position: the index is asked for every key")
                    self._live.drop()
                    self._position = None
                    self._hub.lose(page.position)
                else:
                    self._live.add(page.keys)
                    self._hub.page(self._position, page)
                    self._position = page.position
                self._believe()
            except Exception as error:  # noqa: BLE001 - see the module: the following goes on
                _complain("journal", error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)

    async def _follow_head(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await self._poll_head()
                await self._index.report(self._name)
            except Exception as error:  # noqa: BLE001 - see the module: the following goes on
                _complain("head", error)

    async def _poll_head(self) -> None:
        asked = time.monotonic()
        head = await self._index.head()
        end = await self._index.journal_end()  # after the head: what it covers was in the journal before it
        self._hub.know(_as_of(head), end, asked)
        if self._heads is None or self._heads[1].journal_id != end.journal_id:
            self._heads = (head, end)  # else the one waited for comes first, so that there is always progress
        self._believe()

    def _believe(self) -> None:
        """Let answers say how far the feed is known, once every key up to there is in the filter."""
        if self._heads is None:
            return
        head, end = self._heads
        # Without a position every key is asked of the index itself, which knows all that it acknowledged.
        if self._position is None or (
            self._position.journal_id == end.journal_id and self._position.entry >= end.entry
        ):
            self._live.known(_as_of(head))
            self._heads = None

    def _changed(self) -> bool:
        """Whether another filter file lies there than the one in use."""
        return self._stamp != filter_file.stamp(self._path)

    async def _reload(self) -> bool:
        """Catch the filter file up from the journal and use it; False (and nothing changed) when that cannot be."""
        stamp = filter_file.stamp(self._path)
        try:
            header, base = await asyncio.to_thread(filter_file.load, self._path, self._key)
        except FileNotFoundError:
            return False
        except (OSError, container.BadContainer) as error:
            if stamp != self._stamp:
                _log.error("filter file refused, the one in use stays: %s", error)
            self._stamp = stamp
            return False
        position = Position(header.journal_id, header.journal_position)
        added: set[bytes] = set()
        try:
            while True:
                page = await self._index.journal_read(position, 0)
                if page.reset:
                    # The keeper sees the same and builds another; this one is no use to anybody.
                    self._stamp = stamp
                    return False
                if page.position == position:
                    break
                added.update(page.keys)
                self._live.add(page.keys)  # the filter in use keeps up meanwhile
                self._hub.page(position, page)
                position = page.position
        except CheckerError as error:
            _log.warning("filter file waits for the journal: %s", error)
            await asyncio.sleep(0.2)
            return False
        self.last_contact = time.monotonic()
        self._live.swap(base, added, self._live.view.as_of)
        self._position = position
        self._hub.follow(position)
        self._stamp = stamp
        self.swaps += 1
        _log.info("filter in use", extra={"keys": header.parameters.count, "overlay": len(added)})
        return True


def _as_of(head: Head) -> AsOf:
    return AsOf(head.feed_sequence, head.feed_time_ms, head.gap_since_ms, 0)


def _complain(what: str, error: Exception) -> None:
    """A store out of reach is a sentence; anything else is a bug, logged with its frames."""
    if isinstance(error, CheckerError):
        _log.warning("%s: %s", what, error)
    else:
        _log.error("%s: unexpected error", what, exc_info=error)
