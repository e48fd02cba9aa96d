"""Fans the journal out to the edges that watch this worker.

One follower reads the journal for all. Each page it reads is built, sealed and serialised once, kept in a bounded
ring, and written as ready bytes to every watcher. A watcher is a position and nothing else: whoever is slow finds its
pages in the ring, or reads them from the index again, and never makes anything wait or grow.

Positions are entries of the journal, but pages end wherever a read happened to end, and edges come from other workers.
So a watcher may stand inside a page: it gets the whole page, sealed as following on its own position. Keys it has
already do no harm, and from there on it is in step.

Heartbeats say how far whoever has read up to a position knows the feed. What this worker heard of the feed is kept
with the end the journal had at that moment; a watcher is told the newest of it that its position covers, and `silence`
is the time since. So a worker cut off from the index, and a watcher that lags behind, look as old as they are.

Pages that follow each other closely are gathered, the longer the more are watching: at a thousand watchers each write
is a tenth of a second of processor time, which checks need too. The first page after a pause goes out at once.
"""

import asyncio
import contextlib
import logging
import random
import time
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from checker.core.changes import Heartbeat, Position, additions_seal, heartbeat_seal
from checker.core.freshness import AsOf
from checker.core.key import DigestKey
from checker.errors import CheckerError
from checker.index.base import ExactIndex, JournalPage, Publication, Publications
from checker.rpc.interceptors import StreamEnded
from checker.rpc.servicer import HasView
from proto.checker.v1 import filter_pb2 as pb

BEAT_S = 1.0
"""Between two heartbeats of a watcher."""
LIFETIME_S = 270.0
"""The longest a watcher stays; it ends by itself somewhere in the last third, so that not all come back at once."""
MAX_KEYS = 1000
"""Keys in one message."""
RING_BYTES = 8 * 1024 * 1024
"""Of recent pages; as much again of older ones that were read for watchers far behind."""
GATHER_S = 0.002
GATHER_PER_WATCHER_S = 0.0002
PUBLICATION_S = 1.0
"""Between two looks at what is published."""
_SLOTS = 20  # watchers get their heartbeats in turns, so that no moment is busier than another
_BELIEFS = 120  # at two a second: a watcher may lag a minute behind and still be told its age
_log = logging.getLogger("checker.hub")

Write = Callable[[bytes], Awaitable[None]]


class _Page(NamedTuple):
    """Messages that lead from entry `base` to entry `end`."""

    base: int
    end: int
    messages: tuple[bytes, ...]
    size: int


class _Belief(NamedTuple):
    """Whoever has read up to `end` knows the feed this far; heard when the steady clock said `heard_s`."""

    as_of: AsOf
    end: Position
    heard_s: float


class _Beat(NamedTuple):
    """A heartbeat as last made, and what it was made of."""

    position: Position
    belief: _Belief
    made_s: float
    message: bytes


class _Watcher:
    __slots__ = ("due", "known", "position", "woken")

    def __init__(self, position: Position) -> None:
        self.position = position
        self.known = False  # the index, or the ring, has the position
        self.due = True  # a heartbeat is
        self.woken = asyncio.Event()


class _Gone(Exception):
    """The journal does not know a position."""


class Hub:
    """One worker's hub: `follow`, `page`, `lose` and `know` are the follower's, `watch` the service's."""

    def __init__(self, index: ExactIndex, publications: Publications, key: DigestKey, live: HasView) -> None:
        self._index = index
        self._publications = publications
        self._key = key
        self._live = live
        self._end = Position(b"", 0)  # of what has been handed to watchers
        self._following = False  # pages arrive; else watchers read the index for themselves
        self._former: deque[bytes] = deque(maxlen=16)  # ids of journals that are no more
        self._bases: list[int] = []  # of the ring's pages, for searching
        self._ring: list[_Page] = []
        self._ring_bytes = 0
        self._older: OrderedDict[int, _Page] = OrderedDict()  # read for watchers behind the ring, by base
        self._older_bytes = 0
        self._reading = asyncio.Lock()  # who is far behind waits in line: the index serves checks as well
        self._gathered: list[bytes] = []
        self._gathered_to = 0
        self._sealed_s = 0.0
        self._flushing: asyncio.TimerHandle | None = None
        self._beliefs: deque[_Belief] = deque(maxlen=_BELIEFS)  # newest first
        self._beat: _Beat | None = None
        self._slots: tuple[set[_Watcher], ...] = tuple(set() for _ in range(_SLOTS))
        self._to_wake = 0  # slots that have not heard of the latest yet
        self._all_left: asyncio.Event | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._publication: Publication | None = None
        self._published_s = 0.0  # when that was read
        self._reading_publication = asyncio.Lock()
        self.leaving = False

    @property
    def watchers(self) -> int:
        """How many are watching."""
        return sum(map(len, self._slots))

    async def start(self) -> None:
        """Begin to send heartbeats."""
        with contextlib.suppress(CheckerError):
            await self.latest()
        self._tasks = [
            asyncio.create_task(self._keep_beating(), name="heartbeats"),
            asyncio.create_task(self._keep_looking(), name="publications"),
        ]

    async def stop(self) -> None:
        """End."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._flushing is not None:
            self._flushing.cancel()

    async def sign_off(self, patience_s: float = 1.0) -> None:
        """Tell every watcher that the service is stopping, and let it go; who comes later is sent away at once."""
        self.leaving = True
        self._beat = None
        if self.watchers:
            self._all_left = asyncio.Event()
            self._wake_all()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self._all_left.wait()

    # What the follower tells

    def follow(self, position: Position) -> None:
        """The follower stands here, and hands over every page from here on."""
        if not self._same_journal(position):
            return
        self._following = True
        if position.entry > self._gathered_to:
            self._jump(position.entry)

    def page(self, base: Position, page: JournalPage) -> None:
        """Keys that were read after `base`. A page that overlaps what is known already is welcome."""
        end = page.position
        if end.journal_id != self._end.journal_id or end.entry <= self._gathered_to:
            return
        if base.entry > self._gathered_to:
            self._jump(base.entry)
        self._gathered += page.keys
        self._gathered_to = end.entry
        if self._flushing is None:
            wait = self._sealed_s + GATHER_S + GATHER_PER_WATCHER_S * self.watchers - time.monotonic()
            if wait <= 0:
                self._flush()
            else:
                self._flushing = asyncio.get_running_loop().call_later(wait, self._flush)

    def lose(self, end: Position) -> None:
        """The journal does not know the follower's position any more; it ends here."""
        if self._same_journal(end):
            self._following = False
            self._jump(end.entry)

    def know(self, as_of: AsOf, end: Position, heard_s: float) -> None:
        """Whoever has read up to `end` knows the feed this far; asked for at `heard_s` of the steady clock."""
        if not self._same_journal(end):
            return
        if not self._following and end.entry > self._gathered_to:
            self._jump(end.entry)
        self._beliefs.appendleft(_Belief(as_of, end, heard_s))

    def _same_journal(self, position: Position) -> bool:
        """Turn to another journal when it is new; False for one that is no more, of which late news may come."""
        if position.journal_id == self._end.journal_id:
            return True
        if position.journal_id in self._former:
            return False
        if self._end.journal_id:
            _log.warning("the journal is another one: every watcher starts from a snapshot")
            self._former.append(self._end.journal_id)
        self._end = Position(position.journal_id, 0)
        self._following = False
        self._beliefs.clear()
        self._older.clear()
        self._older_bytes = 0
        self._jump(position.entry)
        return True

    def _jump(self, entry: int) -> None:
        """Go on from here: whoever is further behind reads the index."""
        self._bases.clear()
        self._ring.clear()
        self._ring_bytes = 0
        self._gathered.clear()
        self._gathered_to = entry
        self._end = self._end._replace(entry=entry)
        self._wake_all()

    def _flush(self) -> None:
        """Hand what was gathered to the watchers."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        if self._gathered_to == self._end.entry:
            return
        page = self._sealed(self._end, self._gathered_to, self._gathered)
        self._gathered = []
        self._bases.append(page.base)
        self._ring.append(page)
        self._ring_bytes += page.size
        drop = 0
        while self._ring_bytes > RING_BYTES:
            self._ring_bytes -= self._ring[drop].size
            drop += 1
        del self._ring[:drop], self._bases[:drop]
        self._end = self._end._replace(entry=page.end)
        self._sealed_s = time.monotonic()
        self._wake_all()

    def _wake_all(self) -> None:
        """One slot after the other, so that checks come in between: a write to each takes its time."""
        if not self._to_wake:
            asyncio.get_running_loop().call_soon(self._wake_next)
        self._to_wake = _SLOTS

    def _wake_next(self) -> None:
        self._to_wake -= 1
        self._wake(self._slots[self._to_wake], due=False)
        if self._to_wake:
            asyncio.get_running_loop().call_soon(self._wake_next)

    def _wake(self, slot: set[_Watcher], *, due: bool) -> None:
        for watcher in slot:
            watcher.due |= due
            watcher.woken.set()

    # What watchers get

    async def watch(self, position: Position, write: Write) -> None:
        """Write what follows on `position`, and heartbeats, for as long as this service lets a watcher stay.

        Returns after a Reset. Raises StreamEnded at the end of its time or of the service, IndexUnavailable when the
        watcher is behind and the index cannot be read.
        """
        watcher = _Watcher(position)
        slot = min(self._slots, key=len)
        slot.add(watcher)
        until = time.monotonic() + LIFETIME_S * random.uniform(2 / 3, 1)  # noqa: S311 - spreads load
        try:
            while not self.leaving and time.monotonic() < until:
                watcher.woken.clear()
                try:
                    await self._catch_up(watcher, write)
                except _Gone:
                    await write(_RESET)
                    return
                await self._beat_to(watcher, write)
                await watcher.woken.wait()
            if self.leaving and watcher.known:
                watcher.due = True
                await self._beat_to(watcher, write)
            raise StreamEnded("this stream is at its lifetime or the service is stopping: watch again")
        finally:
            slot.discard(watcher)
            if self._all_left is not None and not self.watchers:
                self._all_left.set()

    async def _catch_up(self, watcher: _Watcher, write: Write) -> None:
        while not self.leaving:
            page = await self._next(watcher)
            watcher.known = True
            if page is None:
                return
            for message in page.messages:
                await write(message)
            watcher.position = watcher.position._replace(entry=page.end)
            if watcher.due:  # a long way to catch up is no silence
                await self._beat_to(watcher, write)

    async def _next(self, watcher: _Watcher) -> _Page | None:
        """The page after the watcher's position, None at the end of what is known. Raises _Gone."""
        position, end = watcher.position, self._end
        if position.journal_id in self._former:
            raise _Gone
        if position.journal_id == end.journal_id:
            if position.entry == end.entry:
                return None
            if position.entry < end.entry:
                page = self._in_ring(position)
                return page if page is not None else await self._from_index(position)
        # It is ahead of us, or of a journal that we have not heard of yet: the index knows.
        return None if watcher.known else await self._from_index(position)

    def _in_ring(self, position: Position) -> _Page | None:
        at = bisect_right(self._bases, position.entry) - 1
        if at < 0:
            return None
        page = self._ring[at]
        if page.base == position.entry:
            return page
        keys = [key for raw in page.messages for key in pb.WatchChangesResponse.FromString(raw).additions.keys]
        return self._sealed(position, page.end, keys)

    async def _from_index(self, position: Position) -> _Page | None:
        async with self._reading:
            of_ours = position.journal_id == self._end.journal_id
            page = self._older.get(position.entry) if of_ours else None
            if page is not None:
                self._older.move_to_end(position.entry)
                return page
            read = await self._index.journal_read(position, 0)
            if read.reset:
                raise _Gone
            if read.position == position:
                return None
            page = self._sealed(position, read.position.entry, read.keys)
            if position.journal_id == self._end.journal_id:
                self._older[position.entry] = page
                self._older_bytes += page.size
                while self._older_bytes > RING_BYTES:
                    self._older_bytes -= self._older.popitem(last=False)[1].size
            return page

    def _sealed(self, base: Position, end: int, keys: Sequence[bytes]) -> _Page:
        """Messages of at most MAX_KEYS keys; all but the last leave a watcher where it was, within the page."""
        messages = []
        for at in range(0, len(keys) or 1, MAX_KEYS):
            some = keys[at : at + MAX_KEYS]
            position = base._replace(entry=end) if at + MAX_KEYS >= len(keys) else base
            additions = pb.Additions(keys=some, base=_position(base), position=_position(position))
            additions.seal = additions_seal(self._key, base, position, some)
            messages.append(pb.WatchChangesResponse(additions=additions).SerializeToString())
        return _Page(base.entry, end, tuple(messages), sum(map(len, messages)) + 500)

    async def _beat_to(self, watcher: _Watcher, write: Write) -> None:
        if watcher.due:
            message = self._heartbeat(watcher.position)
            if message is not None:
                watcher.due = False
                await write(message)

    def _heartbeat(self, position: Position) -> bytes | None:
        """What is known at this position; None while nothing is."""
        for belief in self._beliefs:
            if belief.end.journal_id == position.journal_id and belief.end.entry <= position.entry:
                break
        else:
            return None
        now_s = time.monotonic()
        beat = self._beat
        if (
            beat is None
            or beat.position != position
            or beat.belief is not belief
            or now_s - beat.made_s > BEAT_S / _SLOTS
        ):
            message = self._make_heartbeat(position, belief, now_s)
            self._beat = beat = _Beat(position, belief, now_s, message)
        return beat.message

    def _make_heartbeat(self, position: Position, belief: _Belief, now_s: float) -> bytes:
        published = self._publication
        beat = Heartbeat(
            position,
            belief.as_of._replace(snapshot_epoch=published.epoch if published else 0),
            sent_ms=time.time_ns() // 1_000_000,
            silence_ms=max(0, int((now_s - belief.heard_s) * 1000)),
            centre_id=published.centre_id if published else bytes(16),
            rulebook_sha256=self._live.view.rulebook.sha256,
            signing_off=self.leaving,
        )
        as_of = beat.as_of
        message = pb.Heartbeat(
            position=_position(position),
            feed_sequence=as_of.feed_sequence,
            epoch=as_of.snapshot_epoch,
            centre_id=beat.centre_id,
            rulebook_sha256=beat.rulebook_sha256,
            signing_off=beat.signing_off,
            seal=heartbeat_seal(self._key, beat),
        )
        message.sent_time.FromMilliseconds(beat.sent_ms)
        message.silence.FromMilliseconds(beat.silence_ms)
        if as_of.feed_time_ms:
            message.feed_time.FromMilliseconds(as_of.feed_time_ms)
        if as_of.gap_since_ms:
            message.gap_since.FromMilliseconds(as_of.gap_since_ms)
        return pb.WatchChangesResponse(heartbeat=message).SerializeToString()

    async def _keep_beating(self) -> None:
        while True:
            if not self.watchers:  # twenty turns a second for nobody would be half of an idle worker's work
                await asyncio.sleep(BEAT_S / 4)
                continue
            for slot in self._slots:
                await asyncio.sleep(BEAT_S / _SLOTS)
                self._wake(slot, due=True)

    # What is published

    async def latest(self) -> Publication | None:
        """The newest epoch, at most about a second old. Raises IndexUnavailable."""
        kept_s = PUBLICATION_S if self._publication is not None else PUBLICATION_S / 20
        if time.monotonic() - self._published_s > kept_s:
            async with self._reading_publication:
                if time.monotonic() - self._published_s > kept_s:
                    self._publication = await self._publications.latest()
                    self._published_s = time.monotonic()
        return self._publication

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(PUBLICATION_S)
            try:
                await self.latest()
            except CheckerError as error:
                _log.warning("publications: %s", error)
            except Exception as error:  # noqa: BLE001 - heartbeats must go on, whatever this was
                _log.error("publications: unexpected error", exc_info=error)


def _position(position: Position) -> pb.Position:
    return pb.Position(journal_id=position.journal_id, entry=position.entry)


_RESET = pb.WatchChangesResponse(
    reset=pb.Reset(reason="the journal does not know this position: start from the newest snapshot")
).SerializeToString()
