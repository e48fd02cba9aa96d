"""Keeps what an edge knows in step with its centre, and never makes it worse.

Four tasks, none of which ever ends by itself: one follows the journal, one fetches newer snapshots, one looks after
directory and clock, one proves the whole road with the canary key. A failure of any of them leaves the last good state
in use, which then shows its age.

Two kinds of new snapshot:
- *of the same centre and journal*: what has followed on the filter in use is carried over, so the new filter knows all
  that the old one knew, at once and for the same position. Nothing is replayed, the stream goes on.
- *of another journal, or after a Reset*: it becomes the candidate. The stream turns to the candidate's position and
  catches up; the filter in use stays, learns the same keys, and ages. The first heartbeat for the candidate's position
  makes it the filter in use. So no key is missing at any moment, and no age is shown that is not true.

A heartbeat is believed only if its seal fits, its position is ours, its centre is our snapshot's, and it was sent after
the one before it. It names its epoch by number only, which a centre that was restored from a backup gives once more, to
another snapshot: so whenever the centre was out of sight, its manifest is compared with ours before it is believed.

Of the processes that share a data directory one downloads and keeps the log; each follows the journal for itself, and
maps what the writer put there.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from checker import wire
from checker.core.changes import Heartbeat, Position
from checker.core.container import Header
from checker.core.decision import AnsweredBy, Outcome
from checker.core.document import DocumentType
from checker.core.freshness import AsOf
from checker.core.purchase import Flight
from checker.errors import CheckerError, Overloaded, UsageError
from checker.keys import EdgeKeys
from edge import journal
from edge.canary import Arrivals
from edge.centre import Centre
from edge.journal import Additions, Page
from edge.live import Live, wall_clock_ms
from edge.question import Ask, Question
from edge.snapshot_store import Download, Loaded, Refused, Snapshot, SnapshotStore, Unwritable, as_of, not_older
from proto.checker.v1 import filter_pb2 as pb
from proto.checker.v1 import filter_pb2_grpc

_REFUSALS = ("manifest", "key", "epoch", "download", "disk")
_THERE = (grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND)  # to a call for the manifest: nothing may be published yet
_CLOCK_MS = 10_000  # senders whose clock differs by more: lag is told too high, or only by our own steady clock
_AHEAD_BYTES = 1024 * 1024  # of a download: gRPC's own measure would fill memory whenever the disk is slow
_LOG_BYTES = 4 * 1024 * 1024  # heartbeats add up: beyond this, and twice what is worth keeping, the log is begun anew
_log = logging.getLogger("edge.sync")
_T = TypeVar("_T")


class Pace(NamedTuple):
    """Times in seconds. `jitter`: within which edges that have a usable filter fetch a newer one, each at its own time.
    `silence`: without a heartbeat, before the stream is taken for dead. `chunk`: for the next piece of a download.
    `spoilt`: before a snapshot that was fetched for nothing is fetched again, doubled each time up to `longest_spoilt`.
    `canary`: between two proofs of the road; `arrival`: for additions, or the canary, while the feed advances.
    """

    jitter: float = 30.0
    silence: float = 5.0
    first_retry: float = 0.05
    longest_retry: float = 10.0
    look: float = 1.0
    log_beat: float = 5.0
    canary: float = 60.0
    call: float = 10.0
    chunk: float = 60.0
    spoilt: float = 10.0
    longest_spoilt: float = 900.0
    arrival: float = 300.0


class Synced(NamedTuple):
    """What `Sync.once` reached."""

    centre_id: bytes
    epoch: int
    position: Position
    keys: int  # in the snapshot
    added: int  # since
    as_of: AsOf
    downloaded: bool


class SyncFailed(CheckerError):
    """The centre could not be followed, or not this time; the message names the address and why."""

    status = grpc.StatusCode.UNAVAILABLE


class _NothingYet(SyncFailed):
    """The centre is there and has published no snapshot so far."""


class _Displaced(SyncFailed):
    """The journal does not know our position."""


class _EpochGone(SyncFailed):
    """The epoch being downloaded is no longer served, or not to its end."""


class _Spoilt(NamedTuple):
    """The snapshot that was last fetched for nothing, why, and the event-loop time before which it is left alone."""

    manifest: bytes
    error: CheckerError
    until_s: float


class _Held:
    """A snapshot and how far it has been followed. `pages`: what came since."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.header = snapshot.header
        self.key = snapshot.key
        self.position = snapshot.position
        self.pages: list[Page] = []
        self.beat: Heartbeat | None = None

    @classmethod
    def loaded(cls, loaded: Loaded) -> "_Held":
        held = cls(loaded.snapshot)
        held.position, held.pages, held.beat = loaded.position, loaded.pages, loaded.beat
        return held

    def continued_by(self, other: Snapshot) -> bool:
        """Whether the other snapshot and what has followed on ours hold all that ours and that hold: same centre and
        journal, and not an earlier place in it."""
        same = (self.header.centre_id, self.position.journal_id) == (other.header.centre_id, other.header.journal_id)
        return same and self.snapshot.position.entry <= other.position.entry

    def take(self, added: Additions) -> None:
        """Additions that follow on our position."""
        self.pages.append(Page(added.base.entry, added.raw))
        self.position = added.position

    def at_snapshot(self) -> bool:
        """Whether nothing has followed yet."""
        return self.position == self.snapshot.position and not self.pages

    def doubtful(self) -> bool:
        """Whether the centre judges by other rules than this edge has."""
        unread = self.snapshot.rulebook is None
        return unread or (self.beat is not None and self.beat.rulebook_sha256 != self.header.rulebook_sha256)


class Sync:
    """See the module. `canary_ask` is set by whoever puts the edge together; without it the road is not proved.

    `name`: what the edge's operator calls it.
    """

    def __init__(
        self,
        live: Live,
        store: SnapshotStore,
        keys: EdgeKeys,
        centre: Centre,
        *,
        name: str = "",
        pace: Pace | None = None,
        clock_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self.live = live
        self.store = store
        self.name = name
        self.canary_ask: Ask | None = None
        self.canary_ms = 0
        """When the centre last confirmed the canary; 0: not yet."""
        self.swaps = 0
        self._keys = keys
        self._centre = centre
        self._pace = pace or Pace()
        self._clock_ms = clock_ms
        self._held: _Held | None = None
        self._candidate: _Held | None = None
        self._leads = False
        self._fetch_at: float | None = None  # event-loop time; None: nothing newer is known of
        self._fetch_wanted = asyncio.Event()
        self._fetch_failures = 0
        self._arrivals = Arrivals(self._pace.arrival)
        self._nothing_yet = ""  # what a centre said that has published nothing
        self._spoils = 0  # downloads thrown away since one was put in place
        self._spoilt: _Spoilt | None = None
        self._watch_failures = 0
        self._address = random.randrange(len(centre.addresses))  # noqa: S311 - spreads load
        self._log_due = True
        self._logged_ms = 0  # how young our knowledge is by the heartbeat that was last written down
        self._last_beat: tuple[Position, bytes] | None = None
        self._newest = (b"", 0)  # centre and epoch that the last heartbeat named
        # Whether the centre may have been restored since our snapshot: while it is out of sight, and until it has shown
        # that ours is its newest. What it publishes then may not follow on ours: nothing of ours is carried over to it.
        self._estranged = True
        self._disowned: Header | None = None  # a snapshot of ours whose number the centre has given to another
        self._usable = asyncio.Event()
        self._turned = asyncio.Event()  # there is another snapshot to follow
        self._tasks: list[asyncio.Task[None]] = []
        # Files are read, hashed and written here: one at a time, beside the event loop.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="edge-sync")

    # What it knows

    @property
    def position(self) -> Position | None:
        """How far the filter in use has followed the journal; None: there is none."""
        return None if self._held is None else self._held.position

    @property
    def snapshot(self) -> Snapshot | None:
        """The snapshot in use."""
        return None if self._held is None else self._held.snapshot

    @property
    def leads(self) -> bool:
        """Whether this process downloads and keeps the log."""
        return self._leads

    @property
    def canary_in_filter(self) -> bool:
        """Whether the canary key is in the filter."""
        return self._held is not None and self.live.may_list([self._held.key.canary])

    # Life

    async def start(self, wait_s: float) -> None:
        """Use what is on disk, begin to follow, and return once there is a filter or `wait_s` have passed."""
        await self._open()
        self._tasks = [
            asyncio.create_task(self._keep(step, name), name=name)
            for step, name in (
                (self._watch, "journal"),
                (self._fetch, "snapshot"),
                (self._look, "directory"),
                (self._prove, "canary"),
            )
        ]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._usable.wait()

    async def stop(self) -> None:
        """Stop following; the log then says how far. What is under way on the disk is ended first."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await asyncio.to_thread(self._thread.shutdown)
        if self._held is not None and self._last_beat is not None and self._last_beat[0] == self._held.position:
            self._log(self._last_beat[1])
        self.store.close()

    async def once(self, timeout_s: float = 120.0) -> Synced:
        """Get the newest snapshot and all that followed on it, then stop. Raises CheckerError: why not."""
        try:
            await self._open()
            if not self._leads:
                raise UsageError(
                    f"another process keeps the data directory {self.store.directory} in step: there is nothing to do"
                )
            async with asyncio.timeout(timeout_s):
                return await self._once()
        except TimeoutError:
            why = f" ({self._nothing_yet})" if self._nothing_yet else ""
            text = f"the centre could not be caught up with in {timeout_s:g} s: try again{why}"
            raise SyncFailed(text) from None
        finally:
            await self.stop()

    async def _once(self) -> Synced:
        before = self.snapshot
        failures = 0
        while True:
            address = self._next_address()
            try:
                while await self._refresh(address):
                    pass
                await self._follow(address, until_beat=True)
            except _NothingYet as error:  # as a centre that has just been started
                self._nothing_yet = str(error)
                await asyncio.sleep(self._pace.look * random.uniform(0.5, 1))  # noqa: S311 - spreads load
                continue
            except (SyncFailed, Overloaded) as error:
                failures += 1
                if failures > 2 * len(self._centre.addresses):
                    raise
                await asyncio.sleep(self._retry_s(failures, error))
                continue
            held = self._held
            if held is not None and self._candidate is None and held.beat is not None and not self._behind():
                newer = before is None or before.header != held.header
                keys, added = self.live.size
                reached = as_of(held.header, held.beat)
                return Synced(held.header.centre_id, held.header.epoch, held.position, keys, added, reached, newer)

    async def _open(self) -> None:
        self._lead()
        loaded = await self._in_thread(self.store.load)
        self._alarm("snapshot", self.store.refused)
        if loaded is None:
            self._want(0)
        else:
            self._use(_Held.loaded(loaded), loaded.synced_ms, continues=False)

    async def _keep(self, step: Callable[[], Awaitable[None]], name: str) -> None:
        while True:
            try:
                await step()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                await asyncio.sleep(self._pace.look)  # a channel that was closed cancels its readers
            except Exception as error:  # noqa: BLE001 - see the module: it goes on, whatever this was
                _log.error("%s: unexpected error", name, exc_info=error)
                await asyncio.sleep(self._pace.look)

    async def _in_thread(self, work: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    # Following the journal

    def _target(self) -> _Held | None:
        return self._candidate or self._held

    async def _watch(self) -> None:
        if self._target() is None:
            await self._call_on()
            return
        began_s = asyncio.get_running_loop().time()
        address = self._next_address()
        try:
            await self._follow(address)
            self._watch_failures = 0
            return
        except (SyncFailed, Overloaded) as error:
            _log.info("%s", error)
            failure = error
        if asyncio.get_running_loop().time() - began_s > self._pace.silence:
            self._watch_failures = 0  # it was a stream, and has come to its end
        else:
            self._watch_failures += 1
            if not isinstance(failure, _Displaced):
                self._lose_centre()
        self._turned.clear()
        with contextlib.suppress(TimeoutError):  # what is new need not wait for the end of a pause
            async with asyncio.timeout(self._retry_s(self._watch_failures, failure)):
                await self._turned.wait()

    async def _call_on(self) -> None:
        """Without a snapshot there is no stream and no heartbeat: hear whether the centre is there by asking for its
        manifest now and then, whatever it says. Returns after a while, or when there is a snapshot."""
        self._turned.clear()
        address = self._next_address()
        stub = filter_pb2_grpc.FilterServiceStub(self._centre.channel(address, "watch"))
        code = grpc.StatusCode.OK
        try:
            await stub.GetManifest(pb.GetManifestRequest(), timeout=self._pace.silence)
        except grpc.aio.AioRpcError as error:
            code = error.code()
        if self._turned.is_set():
            return  # from now on heartbeats tell
        if code in _THERE:
            self.live.centre, self._watch_failures = pb.CENTRE_STATE_REACHABLE, 0
            pause_s = self._pace.longest_retry * random.uniform(0.5, 1)  # noqa: S311 - spreads load
        else:
            self._lose_centre()
            self._watch_failures += 1
            pause_s = self._retry_s(self._watch_failures)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._turned.wait()

    def _lose_centre(self) -> None:
        if self.live.centre != pb.CENTRE_STATE_SIGNED_OFF:
            self.live.centre = pb.CENTRE_STATE_UNREACHABLE

    async def _follow(self, address: str, *, until_beat: bool = False) -> None:
        """Watch from the target's position. Returns when the target has turned elsewhere; raises SyncFailed."""
        target = self._target()
        if target is None:
            return
        position = target.position
        stub = filter_pb2_grpc.FilterServiceStub(self._centre.channel(address, "watch"))
        call = stub.WatchChanges(pb.WatchChangesRequest(position=journal.position_message(position)))
        met = False
        sent_ms = 0
        clock_s = asyncio.get_running_loop().time
        alive_s = clock_s()
        try:
            while True:
                async with asyncio.timeout_at(alive_s + self._pace.silence):
                    event = await call.read()
                if event is grpc.aio.EOF:
                    raise SyncFailed(f"centre {address}: the stream of changes has ended")
                assert isinstance(event, pb.WatchChangesResponse)  # noqa: S101 - for the type checker
                if not met and event.WhichOneof("event") != "reset":
                    await self._meet(stub)
                    met = True
                target = self._target()
                if target is None or target.position != position:
                    return
                kind = event.WhichOneof("event")
                if kind == "additions":
                    added = journal.additions_of(event, target.key)
                    if added is None or added.base != position:
                        raise SyncFailed(f"centre {address}: additions that do not fit their seal or our position")
                    self._add(target, added)
                    position = added.position
                elif kind == "heartbeat":
                    beat = journal.heartbeat_of(event, target.key)
                    if beat is None:
                        raise SyncFailed(f"centre {address}: a heartbeat that does not fit its seal")
                    if beat.position != position or beat.sent_ms <= sent_ms:
                        continue  # late, repeated, or of another stream: nothing can be said by it
                    sent_ms = beat.sent_ms
                    self._hear(target, beat, event)
                    if until_beat:
                        return
                elif kind == "reset":
                    self._reset(target)
                    raise _Displaced(f"centre {address}: the journal does not know our position")
                alive_s = clock_s()
        except TimeoutError:
            self._lose_centre()
            raise SyncFailed(f"centre {address}: no heartbeat for {self._pace.silence:g} s") from None
        except grpc.aio.AioRpcError as error:
            raise _failed(address, error) from None
        finally:
            self._estranged = True
            call.cancel()

    async def _meet(self, stub: "filter_pb2_grpc.FilterServiceAsyncStub") -> None:
        """Hear from a centre that was out of sight what it has published. Raises AioRpcError."""
        response = await stub.GetManifest(pb.GetManifestRequest(), timeout=self._pace.silence)
        target = self._target()
        try:
            manifest = self.store.offer(response).manifest
        except Refused:
            return  # no word of the centre's; whoever fetches it tells the operator
        if target is None or (manifest.centre_id, manifest.epoch) != (target.header.centre_id, target.header.epoch):
            return  # heartbeats tell, or it has published meanwhile
        self._estranged = self._is_news(manifest, target.header)
        self._disowned = target.header if self._estranged else None

    def _add(self, target: _Held, added: Additions) -> None:
        target.take(added)
        keys = list(added.keys)
        self._arrivals.added(asyncio.get_running_loop().time(), canary=target.key.canary in keys)
        self.live.add(keys)  # while a candidate catches up, the filter in use learns the same keys
        if target is self._held:
            self._log(added.raw)
            self._check_canary()

    def _hear(self, target: _Held, beat: Heartbeat, event: pb.WatchChangesResponse) -> None:
        skew_ms = abs(self._clock_ms() - beat.sent_ms)
        self._alarm(
            "clock",
            f"this machine's clock and the centre's differ by {skew_ms // 1000} s, or the connection is as slow: "
            "set the clocks by one time server"
            if skew_ms > _CLOCK_MS
            else "",
        )
        header = target.header
        gone_back = beat.as_of.snapshot_epoch < header.epoch or header == self._disowned
        if gone_back or beat.centre_id != header.centre_id:
            # A restored backup: its journal may have the id and the numbers of ours and another content.
            self._estranged = True
            self.live.centre = pb.CENTRE_STATE_REACHABLE
            self._want(self._pace.jitter / 6)
            return
        target.beat = beat
        if target is self._candidate:
            self._use(target, beat.sent_ms - beat.silence_ms, continues=False)
        self.live.doubt(doubtful=target.doubtful())
        self.live.beat(beat, as_of(target.header, beat))
        missing = self._arrivals.missing(beat.as_of.feed_sequence, asyncio.get_running_loop().time())
        self._alarm(
            "feed",
            "the court's feed advances, but additions do not reach this edge, nor does the canary key that ends each "
            "import: an import that broke off must be run again; otherwise find out where they are lost"
            if missing
            else "",
        )
        self._newest = (beat.centre_id, beat.as_of.snapshot_epoch)
        if self._behind():
            self._want(self._pace.jitter)
        self._log_beat(target, event.SerializeToString())

    def _behind(self) -> bool:
        """Whether the centre has published a newer snapshot than the one in use."""
        centre_id, epoch = self._newest
        header = None if self._held is None else self._held.header
        return header is not None and centre_id == header.centre_id and epoch > header.epoch

    def _reset(self, target: _Held) -> None:
        """The journal does not know our place: go back to the snapshot's, and see whether there is a newer one."""
        _log.warning("the centre's journal does not know our position; the filter in use stays and ages")
        self.live.reset()
        if not target.at_snapshot():
            self._candidate = _Held(target.snapshot)
        self._want(self._pace.jitter / 6)

    # Fetching a newer snapshot

    def _want(self, within_s: float) -> None:
        """Fetch the newest snapshot, at some moment within so many seconds."""
        if self._fetch_at is None:
            self._fetch_at = asyncio.get_running_loop().time() + random.uniform(0, within_s)  # noqa: S311 - spreads load
            self._fetch_wanted.set()

    async def _fetch(self) -> None:
        await self._fetch_wanted.wait()
        clock_s = asyncio.get_running_loop().time
        if not self._leads:
            await asyncio.sleep(self._pace.look)  # whoever leads fetches it; `_look` sees when that is done
            return
        if self._fetch_at is not None:
            await asyncio.sleep(self._fetch_at - clock_s())
        self._fetch_at = None
        self._fetch_wanted.clear()
        try:
            again = await self._refresh(self._next_address())
        except (CheckerError, OSError) as error:
            if isinstance(error, Refused):
                self._alarm(error.about, str(error))
                self._estranged = self._estranged or error.about == "epoch"
            elif isinstance(error, Unwritable):
                self._alarm("disk", str(error))
            _log.warning("no newer snapshot: %s", error)
            self._fetch_failures += 1
            self._fetch_at = clock_s() + self._retry_s(self._fetch_failures, error)
            self._fetch_wanted.set()
            return
        self._fetch_failures = 0
        for about in _REFUSALS:
            self._alarm(about, "")
        self._alarm("snapshot", self.store.refused)
        if again:
            self._want(0)

    async def _refresh(self, address: str) -> bool:
        """Install the newest snapshot unless it is there; whether there may be a newer one yet. Raises CheckerError."""
        stub = filter_pb2_grpc.FilterServiceStub(self._centre.channel(address, "download", ahead=_AHEAD_BYTES))
        target = self._target()
        in_use = None if target is None else target.header
        download = await self._in_thread(self.store.resume)
        if download is not None and not self._is_news(download.manifest, in_use):
            await self._in_thread(self.store.discard, download)
            download = None
        if download is None:
            try:
                response = await stub.GetManifest(pb.GetManifestRequest(), timeout=self._pace.call)
            except grpc.aio.AioRpcError as error:
                raise _failed(address, error) from None
            offer = self.store.offer(response)
            not_older(offer.manifest.centre_id, offer.manifest.epoch, in_use)
            if not self._is_news(offer.manifest, in_use) and not self.store.refused:
                return False
            self._leave_spoilt_alone(offer.manifest)
            download = await self._in_thread(self.store.begin, offer, in_use)
        try:
            await self._download(stub, address, download)
            snapshot = await self._in_thread(self.store.install, download, in_use)
        except _EpochGone as error:
            _log.info("%s: the newest is fetched", error)
            await self._in_thread(self.store.discard, download)
            self._spoil(download.manifest, error)
            return True
        except Refused as error:
            self._spoil(download.manifest, error)
            raise
        self._spoils, self._spoilt = 0, None
        self._adopt(snapshot)
        return True

    def _spoil(self, manifest: pb.Manifest, error: CheckerError) -> None:
        """A download was thrown away: the same snapshot is not fetched again soon. The manifest is asked for as often
        as ever, so another one is."""
        self._spoils += 1
        self._fetch_failures = self._spoils
        longest = min(self._pace.longest_spoilt, self._pace.spoilt * 2 ** min(self._spoils - 1, 16))
        until_s = asyncio.get_running_loop().time() + longest * random.uniform(0.5, 1)  # noqa: S311 - spreads load
        self._spoilt = _Spoilt(manifest.SerializeToString(deterministic=True), error, until_s)

    def _leave_spoilt_alone(self, manifest: pb.Manifest) -> None:
        """Raises what was wrong with this snapshot, for some time after it was found out."""
        spoilt = self._spoilt
        if spoilt is None or spoilt.until_s <= asyncio.get_running_loop().time():
            return
        if spoilt.manifest == manifest.SerializeToString(deterministic=True):
            raise spoilt.error.with_traceback(None)

    @staticmethod
    def _is_news(manifest: pb.Manifest, in_use: Header | None) -> bool:
        """Whether it is another snapshot than the one in use, and no older epoch of the same centre."""
        if in_use is None or manifest.centre_id != in_use.centre_id:
            return True
        built = (manifest.position.journal_id, manifest.position.entry, manifest.build_time.ToMilliseconds())
        same = manifest.epoch == in_use.epoch and built == (in_use.journal_id, in_use.journal_position, in_use.built_ms)
        return manifest.epoch >= in_use.epoch and not same

    async def _download(self, stub: "filter_pb2_grpc.FilterServiceAsyncStub", address: str, download: Download) -> None:
        manifest = download.manifest
        request = pb.GetSnapshotRequest(epoch=manifest.epoch, offset=download.offset, centre_id=manifest.centre_id)
        call = stub.GetSnapshot(request)
        began = download.offset
        try:
            while download.offset < manifest.size:
                async with asyncio.timeout(self._pace.chunk):
                    chunk = await call.read()
                if chunk is grpc.aio.EOF and download.offset == began:
                    raise _EpochGone(f"centre {address}: the snapshot is shorter than its manifest says")
                if chunk is grpc.aio.EOF:
                    raise SyncFailed(f"centre {address}: the snapshot ended early")
                assert isinstance(chunk, pb.SnapshotChunk)  # noqa: S101 - for the type checker
                data = chunk.data  # once: each look at it is a copy
                room = manifest.size - download.offset
                if chunk.offset != download.offset or not 0 < len(data) <= room:
                    raise SyncFailed(f"centre {address}: a piece of the snapshot does not belong where it came")
                await self._in_thread(download.write, data)
                self._fetch_failures = 0  # there is progress: no reason to wait longer and longer for the rest
        except TimeoutError:
            raise SyncFailed(f"centre {address}: the download stands still") from None
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise _EpochGone(f"centre {address}: the epoch is gone") from None
            raise _failed(address, error) from None
        finally:
            call.cancel()

    def _adopt(self, snapshot: Snapshot) -> None:
        """A verified snapshot that is news: use it at once where it continues what is in use, else make it catch up."""
        held = self._held
        fresh = _Held(snapshot)
        if held is None:
            self._estranged = False
            self._use(fresh, snapshot.header.built_ms, continues=False)
            return
        if held.header.centre_id != snapshot.header.centre_id:
            self._alarm(
                "centre",
                "the centre has a new identity, as after a restore from a backup: its snapshot is accepted since its "
                "signature is right; if nobody restored it, find out who signs with its key",
            )
        elif self._candidate is None:
            self._alarm("centre", "")
        if self._candidate is not None or self._estranged or not held.continued_by(snapshot):
            self._candidate, self._estranged = fresh, False
            self._turned.set()
            return
        fresh.beat = held.beat
        if held.position.entry >= fresh.position.entry:
            fresh.pages = journal.pages_after(held.pages, fresh.position.entry)
            fresh.position = held.position
        self._use(fresh, snapshot.header.built_ms, continues=True)

    def _use(self, held: _Held, synced_ms: int, *, continues: bool) -> None:
        """The swap: from here on checks see this filter and its rulebook."""
        snapshot, live = held.snapshot, self.live
        doubtful = held.doubtful()
        live.swap(
            snapshot.base,
            journal.keys_of(held.pages),
            as_of(held.header, held.beat),
            held.key,
            snapshot.rulebook or live.view.rulebook,
            synced_ms,
            doubtful=doubtful,
            continues=continues,
        )
        self._held, self._candidate = held, None
        self._arrivals.adopted(live.view.as_of.feed_sequence, asyncio.get_running_loop().time())
        self.swaps += 1
        self._log_due = True
        self._alarm(
            "rulebook",
            ""
            if snapshot.rulebook is not None
            else f"the centre's rulebook {held.header.rulebook_version} cannot be read by this version, so the centre "
            "is asked about everything: upgrade this edge",
        )
        self._check_canary()
        self._usable.set()
        self._turned.set()
        _log.info(
            "snapshot in use",
            extra={"epoch": held.header.epoch, "keys": snapshot.base.count, "added": len(held.pages)},
        )

    # The directory

    def _lead(self) -> bool:
        try:
            self._leads = self.store.lead()
        except Unwritable as error:
            self._alarm("disk", str(error))
        return self._leads

    async def _look(self) -> None:
        await asyncio.sleep(self._pace.look)
        self.live.refresh()
        if not self._leads and self._lead():
            _log.info("this process keeps the data directory from now on")
            if self._target() is None:
                self._want(0)
        if not await self._in_thread(self.store.changed):
            return
        snapshot = await self._in_thread(self.store.snapshot)
        self._alarm("snapshot", self.store.refused)
        if self.store.refused:
            self._want(self._pace.jitter)  # the one in use is on no disk any more
        target = self._target()
        if snapshot is None or (target is not None and target.header == snapshot.header):
            return
        try:
            not_older(snapshot.header.centre_id, snapshot.header.epoch, None if target is None else target.header)
        except Refused as error:
            self._alarm(error.about, str(error))
            return
        self._adopt(snapshot)
        if not self._leads:
            self._fetch_at = None
            self._fetch_wanted.clear()

    def _log(self, raw: bytes) -> None:
        try:
            self.store.log.append(raw)
        except OSError as error:
            self._log_failed(error)

    def _log_beat(self, held: _Held, raw: bytes) -> None:
        """Write down the heartbeat, at times; the whole log anew for another snapshot, or when it is too long."""
        self._last_beat = (held.position, raw)
        known_ms = 0 if held.beat is None else held.beat.sent_ms - held.beat.silence_ms
        # By what it says, not by when it came: the first heartbeat after catching up makes us younger by all of that.
        if not self._leads or not (self._log_due or abs(known_ms - self._logged_ms) >= self._pace.log_beat * 1000):
            return
        self._logged_ms = known_ms
        log = self.store.log
        if not self._log_due and log.is_open:
            self._log(raw)
            self._log_due = log.size > _LOG_BYTES and log.size > 2 * sum(len(page.raw) for page in held.pages)
            return
        try:
            log.begin(held.header.centre_id, held.pages, raw)
            self._log_due = False
            self._alarm("log", "")
        except OSError as error:
            self._log_failed(error)

    def _log_failed(self, error: OSError) -> None:
        self._log_due = False  # tried again with the next heartbeat that would be written
        self._alarm(
            "log",
            f"data directory {self.store.directory} cannot be written: {error.strerror}: free space or correct its "
            "owner; without it a restart begins from the last snapshot",
        )

    # Alarms and the canary

    def _alarm(self, about: str, text: str) -> None:
        """Tell the operator; "": what it was about is cured."""
        known = self.live.alarms.get(about, "")
        if text:
            self.live.alarms[about] = text
            if not known:
                _log.error("an alarm: %s", text)
        elif known:
            del self.live.alarms[about]
            _log.info("an alarm is over: %s", known)

    def _check_canary(self) -> None:
        missing = self.live.size != (0, 0) and not self.canary_in_filter
        self._alarm(
            "canary in filter",
            "the filter lacks the canary key that each import lists: the centre's importer or this edge's key file is "
            "older than the other"
            if missing
            else "",
        )

    async def _prove(self) -> None:
        await asyncio.sleep(self._pace.canary * random.uniform(0.5, 1.5))  # noqa: S311 - spreads load
        ask, held = self.canary_ask, self._held
        if ask is None or held is None:
            return
        question = Question(
            held.key.canary, held.key.key_id, int(DocumentType.OTHER), False, b"", wire.purchase_message(Flight())
        )
        try:
            verdict = await ask(question, asyncio.get_running_loop().time() + 1.0)
        except CheckerError:
            return  # nobody answered: that is told elsewhere
        if verdict.outcome is Outcome.UNKNOWN:
            return  # nor did the centre's index
        there = verdict.answered_by is AnsweredBy.INDEX and not verdict.nothing_listed
        if there:
            self.canary_ms = self._clock_ms()
        self._alarm(
            "canary",
            ""
            if there
            else "the centre does not know the canary key that each import lists: what is imported does not reach it",
        )

    # Small things

    def _next_address(self) -> str:
        self._address = (self._address + 1) % len(self._centre.addresses)
        return self._centre.addresses[self._address]

    def _retry_s(self, failures: int, error: Exception | None = None) -> float:
        """Full jitter (each waits a random part of a growing time), or a little more than the centre asked for."""
        if isinstance(error, Overloaded) and error.retry_s:
            return float(error.retry_s) * random.uniform(1, 1.5)  # noqa: S311 - spreads load
        longest = min(self._pace.longest_retry, self._pace.first_retry * 2 ** min(failures, 16))
        return random.uniform(0, longest)  # noqa: S311 - spreads load


def _failed(address: str, error: grpc.aio.AioRpcError) -> CheckerError:
    text = f"centre {address}: {error.code().name}: {(error.details() or '')[:200]}"
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Overloaded(text, _retry_info_s(error))
    return _NothingYet(text) if error.code() is grpc.StatusCode.NOT_FOUND else SyncFailed(text)


def _retry_info_s(error: grpc.aio.AioRpcError) -> float:
    """What google.rpc.RetryInfo says, in seconds; 0: nothing."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            with contextlib.suppress(DecodeError):
                for detail in status_pb2.Status.FromString(value).details:
                    found = error_details_pb2.RetryInfo()
                    if detail.Unpack(found):
                        delay: float = found.retry_delay.seconds + found.retry_delay.nanos / 1e9
                        return max(0.0, delay)
    return 0.0
