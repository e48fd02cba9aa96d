"""Claims about keeping in step: against a real server on loopback that does what each test orders."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from checker.core.changes import Position
from checker.core.decision import AnsweredBy, Outcome, Reason
from checker.core.freshness import AsOf
from checker.core.lookup import EVERYTHING
from checker.errors import CheckerError, Overloaded, UsageError
from edge.centre import Centre
from edge.live import Live
from edge.question import Question, Verdict
from edge.report import Reporter
from edge.snapshot_store import SnapshotStore
from edge.sync import Pace, Sync
from proto.checker.v1 import filter_pb2 as pb
from tests.builders import NOW, rulebook
from tests.edge.scripted import CHUNK, KEYS, ScriptedCentre, a_key, edge_keys, now_ms, serving
from tests.waiting import eventually

QUICK = Pace(
    jitter=0.05,
    silence=5.0,
    first_retry=0.01,
    longest_retry=0.1,
    look=0.05,
    log_beat=0.05,
    canary=0.05,
    chunk=60.0,
    spoilt=0.02,
    longest_spoilt=0.1,
)

IMPATIENT = QUICK._replace(silence=0.3)
"""Takes a stream for dead that a busy machine may only have held up."""


@pytest.fixture
def centre() -> ScriptedCentre:
    """A centre with a hundred keys and one epoch."""
    made = ScriptedCentre()
    made.add(*map(a_key, range(100)))
    made.publish()
    return made


class Edge:
    """An edge on a directory, and what its filter says."""

    def __init__(self, path: Path, *addresses: str, pace: Pace = QUICK, clock: Callable[[], int] = now_ms) -> None:
        keys = edge_keys()
        self.live = Live(keys.digest_key, rulebook())
        self.centre = Centre(addresses)
        self.store = SnapshotStore(path / "edge", keys)
        self.sync = Sync(self.live, self.store, keys, self.centre, name="desk", pace=pace, clock_ms=clock)

    def holds(self, *numbers: int) -> bool:
        """Whether every one of these keys may be listed."""
        return self.live.size != (0, 0) and all(self.live.may_list([a_key(number)]) for number in numbers)

    @property
    def fresh(self) -> bool:
        """Whether misses are believed."""
        return self.live.view.filter is not EVERYTHING

    @property
    def epoch(self) -> int:
        """Of the snapshot in use."""
        return self.sync.snapshot.header.epoch if self.sync.snapshot else 0

    async def stop(self) -> None:
        """End it properly."""
        await self.sync.stop()
        await self.centre.close()


@asynccontextmanager
async def running(path: Path, *addresses: str, wait_s: float = 5.0, **options: Any) -> AsyncIterator[Edge]:
    """An edge that follows."""
    edge = Edge(path, *addresses, **options)
    await edge.sync.start(wait_s)
    try:
        yield edge
    finally:
        await edge.stop()


# The usual


async def test_an_edge_gets_the_snapshot_and_what_follows(centre: ScriptedCentre, tmp_path: Path) -> None:
    """Keys of the snapshot, then keys as they are acknowledged; answers say how far the feed is known."""
    async with serving(centre) as address, running(tmp_path, address) as edge:
        await eventually(lambda: edge.fresh)
        assert edge.holds(*range(100))
        assert not edge.holds(1000)
        centre.add(a_key(1000), a_key(1001))
        await eventually(lambda: edge.holds(1000, 1001))
        await eventually(lambda: edge.live.view.as_of == AsOf(102, NOW, 0, 1))
        assert edge.live.lag_ms() < 5_000
        assert edge.live.centre == pb.CENTRE_STATE_REACHABLE
        assert edge.sync.position == centre.end
        assert edge.sync.canary_in_filter
        assert not edge.live.alarms


async def test_a_start_without_a_centre_uses_what_is_on_disk(centre: ScriptedCentre, tmp_path: Path) -> None:
    """Snapshot, additions, position and feed are those of before, and the age goes on from there."""
    async with serving(centre) as address, running(tmp_path, address) as edge:
        await eventually(lambda: edge.fresh)
        centre.add(a_key(1000))
        await eventually(lambda: edge.live.view.as_of.feed_sequence == 101)
        known = edge.live.view.as_of, edge.sync.position
    async with running(tmp_path, address, wait_s=0.5) as edge:
        assert edge.holds(*range(100), 1000)
        assert (edge.live.view.as_of, edge.sync.position) == known
        assert 0 < edge.live.lag_ms() < 10_000
        await eventually(lambda: edge.live.centre == pb.CENTRE_STATE_UNREACHABLE)


async def test_a_kill_loses_nothing_that_was_logged(centre: ScriptedCentre, tmp_path: Path) -> None:
    """Without a clean stop the additions are there, and the age is that of the last heartbeat on disk."""
    async with serving(centre) as address:
        edge = Edge(tmp_path, address)
        await edge.sync.start(5)
        await eventually(lambda: edge.fresh and edge.store.log.is_open)
        centre.add(a_key(1000))
        await eventually(lambda: edge.holds(1000))
        other = SnapshotStore(tmp_path / "edge", edge_keys())  # what a process would find that started at this moment
        loaded = other.load()
        assert loaded is not None
        assert loaded.position == centre.end
        assert loaded.synced_ms <= now_ms()
        await edge.stop()


async def test_nothing_is_there_and_the_centre_is_away(tmp_path: Path) -> None:
    """The start returns when its time is over; everything is asked. When the centre comes, the edge has its filter."""
    centre = ScriptedCentre()
    centre.away = True
    async with serving(centre) as address, running(tmp_path, address, wait_s=0.1) as edge:
        assert edge.live.view.filter is EVERYTHING
        centre.away = False
        await asyncio.sleep(0.1)
        assert edge.live.view.filter is EVERYTHING  # nothing is published
        centre.add(a_key(1))
        centre.publish()
        await eventually(lambda: edge.fresh and edge.holds(1))


async def test_a_newer_epoch_is_taken_while_additions_go_on(centre: ScriptedCentre, tmp_path: Path) -> None:
    """Through several epochs every acknowledged key is in the filter at every moment, and the stream is not left."""
    async with serving(centre) as address, running(tmp_path, address) as edge:
        await eventually(lambda: edge.fresh)
        number = 1000
        for epoch in range(2, 6):
            centre.publish()
            while edge.epoch < epoch:
                centre.add(a_key(number))
                await eventually(lambda: edge.sync.position == centre.end)
                assert edge.holds(*range(100), *range(1000, number + 1))
                assert edge.fresh
                number += 1
        assert len(centre.watched) == 1
        assert edge.live.size[1] < number - 1000  # what the new snapshots hold is not carried along
        await eventually(lambda: edge.live.view.as_of.snapshot_epoch == 5)


async def test_what_is_written_down_is_no_older_than_what_is_known(centre: ScriptedCentre, tmp_path: Path) -> None:
    """Heartbeats are written seldom. The first that says much more than the one on the disk is written at once: an edge
    that had to catch up, killed and started without its centre, does not look as old as before."""
    centre.silence_ms = 600_000
    pace = QUICK._replace(log_beat=60.0)
    async with serving(centre) as address, running(tmp_path, address, pace=pace) as edge:
        await eventually(lambda: 500_000 < edge.live.lag_ms() < 700_000 and edge.store.log.is_open)
        size = edge.store.log.size
        centre.silence_ms = 0
        await eventually(lambda: edge.live.lag_ms() < 60_000)
        await eventually(lambda: edge.store.log.size > size)
        size = edge.store.log.size
        sent = centre.sent_bytes
        await eventually(lambda: centre.sent_bytes > sent + 2_000)  # a dozen heartbeats
        assert edge.store.log.size == size  # what says no more is not written
        edge.sync._last_beat = None  # killed: nothing is written at the end
        centre.away = True
    async with running(tmp_path, address, wait_s=0.01) as edge:
        assert edge.live.lag_ms() < 60_000


# Downloads


async def test_a_broken_download_goes_on_where_it_stopped(centre: ScriptedCentre, tmp_path: Path) -> None:
    """Cut after each two pieces, by restarts of the edge as well: no piece is asked for twice."""
    centre.add(*map(a_key, range(100, 20_000)))
    centre.publish()
    pieces = itertools.count(1)
    centre.between_chunks = lambda offset: next(pieces) % 3 != 0
    size = len(centre.served[centre.centre_id, 2][0])
    async with serving(centre) as address:
        while not centre.downloads or len(centre.downloads) < 4:
            async with running(tmp_path, address, wait_s=0.05):
                pass
        async with running(tmp_path, address) as edge:
            await eventually(lambda: edge.fresh)
            assert edge.holds(0, 19_999)
    offsets = [offset for _, offset in centre.downloads]
    assert offsets == sorted(offsets)
    assert max(offsets) > size - 4 * CHUNK
    assert len(set(offsets)) > 4


async def test_a_slow_edge_ends_its_download_while_epochs_pass(centre: ScriptedCentre, tmp_path: Path) -> None:
    """While its epoch is served it goes on with it, however many newer ones there are; then it takes the newest."""
    centre.add(*map(a_key, range(100, 20_000)))
    centre.publish()

    async def pass_an_epoch() -> None:
        if centre.epoch < 12:
            centre.add(a_key(100_000 + centre.epoch))
            centre.publish(keep=100)

    centre.between_chunks = lambda offset: pass_an_epoch() if offset else False if len(centre.downloads) == 1 else None
    async with serving(centre) as address, running(tmp_path, address) as edge:
        await eventually(lambda: edge.fresh)
        await eventually(lambda: edge.epoch == 12)
        assert edge.holds(*range(0, 20_000, 100))
    assert [epoch for epoch, _ in centre.downloads] == [2, 2, 12]


async def test_an_epoch_that_vanishes_is_given_up_for_the_newest(centre: ScriptedCentre, tmp_path: Path) -> None:
    """Cut in the middle, and gone when it is asked for again: the next is fetched from its beginning."""
    centre.add(*map(a_key, range(100, 20_000)))
    centre.publish()

    def vanish(offset: int) -> bool:
        if centre.epoch == 2 and offset > 2 * CHUNK:
            centre.publish(keep=1)
            return False
        return True

    centre.between_chunks = vanish
    async with serving(centre) as address, running(tmp_path, address) as edge:
        await eventually(lambda: edge.fresh)
        assert edge.epoch == 3
    assert [epoch for epoch, _ in centre.downloads] == [2, 2, 3]
    assert centre.downloads[-1] == (3, 0)


async def test_a_full_centre_is_asked_again_when_it_said(centre: ScriptedCentre, tmp_path: Path) -> None:
    """RESOURCE_EXHAUSTED with a RetryInfo: not before that, whatever our own backoff would be."""
    times: list[float] = []

    def refuse_twice(_: int) -> float | None:
        times.append(asyncio.get_running_loop().time())
        return 0.3 if len(times) <= 2 else None

    centre.between_chunks = refuse_twice
    async with serving(centre) as address, running(tmp_path, address) as edge:
        await eventually(lambda: edge.fresh)
    assert times[1] - times[0] >= 0.29
    assert times[2] - times[1] >= 0.29


async def test_a_centre_whose_manifest_is_refused_is_there(centre: ScriptedCentre, tmp_path: Path) -> None:
    """Without a snapshot nothing is heard of heartbeats: what the centre answers to a call for its manifest tells."""
    centre.manifest = _forged
    async with serving(centre) as address, running(tmp_path, address, wait_s=0.01) as edge:
        for away, state in ((False, "REACHABLE"), (True, "UNREACHABLE"), (False, "REACHABLE")):
            centre.away = away
            wanted = pb.CentreState.Value(f"CENTRE_STATE_{state}")
            await eventually(lambda: edge.live.centre == wanted)  # noqa: B023 - called in this round
        await eventually(lambda: "manifest" in edge.live.alarms)
        assert edge.epoch == 0


@pytest.mark.parametrize(
    "wrong",
    [
        lambda chunk: pb.SnapshotChunk(offset=chunk.offset, data=chunk.data[:-1] + b"\x5a"),
        lambda chunk: pb.SnapshotChunk(offset=chunk.offset + 1, data=chunk.data),
        lambda chunk: pb.SnapshotChunk(offset=chunk.offset, data=chunk.data + b"more"),
        lambda chunk: pb.SnapshotChunk(offset=chunk.offset, data=b""),
    ],
    ids=["changed", "misplaced", "too long", "empty"],
)
async def test_a_corrupt_download_leaves_the_old_one(
    wrong: Callable[[pb.SnapshotChunk], pb.SnapshotChunk], centre: ScriptedCentre, tmp_path: Path
) -> None:
    """The snapshot in use stays and follows; when the pieces are right again the newer one is taken, the alarm ends."""
    async with serving(centre) as address, running(tmp_path, address) as edge:
        await eventually(lambda: edge.fresh)
        centre.chunk = wrong
        centre.add(a_key(1000))
        centre.publish()
        await eventually(lambda: len(centre.downloads) > 3)
        assert edge.epoch == 1
        assert edge.fresh
        await eventually(lambda: edge.holds(*range(100), 1000))
        centre.chunk = lambda chunk: chunk
        await eventually(lambda: edge.epoch == 2)
        await eventually(lambda: not edge.live.alarms)


def _spoils(chunk: pb.SnapshotChunk) -> pb.SnapshotChunk:
    return pb.SnapshotChunk(offset=chunk.offset, data=bytes(len(chunk.data)))


async def test_a_snapshot_that_was_refused_is_left_alone_longer_each_time(
    centre: ScriptedCentre, tmp_path: Path
) -> None:
    """Each download of all its bytes comes later than the one before it, whatever progress each of them made."""
    centre.chunk = _spoils
    times: list[float] = []
    centre.between_chunks = lambda offset: None if offset else times.append(asyncio.get_running_loop().time())
    pace = QUICK._replace(spoilt=0.1, longest_spoilt=60)
    async with serving(centre) as address, running(tmp_path, address, pace=pace, wait_s=0.01) as edge:
        await eventually(lambda: len(times) == 5, 60)
        assert "download" in edge.live.alarms
        assert centre.manifests >= len(times)
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(wait >= 0.5 * 0.1 * 2**place for place, wait in enumerate(waits))
    assert [offset for _, offset in centre.downloads] == [0] * len(centre.downloads)


@pytest.mark.parametrize("first", [True, False], ids=["its first", "a newer one"])
async def test_a_refused_snapshot_does_not_hold_up_the_next(
    centre: ScriptedCentre, tmp_path: Path, *, first: bool
) -> None:
    """The refused one is left alone for an hour, while its manifest is asked for again and again; the epoch published
    after it is fetched at once, and the alarm ends."""
    pace = QUICK._replace(spoilt=7200, longest_spoilt=7200)
    async with serving(centre) as address:
        if not first:
            async with running(tmp_path, address, pace=pace) as edge:
                await eventually(lambda: edge.fresh)
        downloads = len(centre.downloads)
        centre.chunk = _spoils
        centre.publish()
        async with running(tmp_path, address, pace=pace, wait_s=0.01) as edge:
            await eventually(lambda: "download" in edge.live.alarms)
            asked = centre.manifests
            await eventually(lambda: centre.manifests > asked + 5)
            assert len(centre.downloads) == downloads + 1
            assert "download" in edge.live.alarms
            centre.chunk = lambda chunk: chunk
            centre.publish()
            await eventually(lambda: edge.epoch == 3 and not edge.live.alarms)
            assert len(centre.downloads) == downloads + 2


async def test_an_epoch_that_is_named_but_not_there_is_left_alone(centre: ScriptedCentre, tmp_path: Path) -> None:
    """Its manifest is served, its bytes are gone, or end before they should: it is not asked for in a hot loop."""
    pace = QUICK._replace(spoilt=7200, longest_spoilt=7200)
    for wrong in ({"epoch": 7}, {"size": 1_000_000}):
        centre.manifest = _lying(**wrong)
        downloads = len(centre.downloads)
        async with serving(centre) as address, running(tmp_path / str(wrong), address, pace=pace, wait_s=0.01) as edge:
            await eventually(lambda: len(centre.downloads) > downloads)  # noqa: B023 - called in this round
            asked = centre.manifests
            await eventually(lambda: centre.manifests > asked + 5)  # noqa: B023 - likewise
            assert len(centre.downloads) <= downloads + 2  # whole, and what seems to be missing of it
            centre.manifest = lambda response: response
            await eventually(lambda: edge.fresh)


async def test_pauses_grow_and_are_spread(centre: ScriptedCentre, tmp_path: Path) -> None:
    """A thousand edges that failed at one moment come back all over a time that doubles, up to the longest."""
    edge = Edge(tmp_path, "127.0.0.1:1", pace=Pace(first_retry=0.05, longest_retry=10))
    for failures, longest in ((1, 0.1), (2, 0.2), (5, 1.6), (8, 10), (5000, 10)):
        waits = sorted(edge.sync._retry_s(failures) for _ in range(1000))
        assert waits[-1] <= longest
        for place in range(10):  # about a tenth of them in each tenth of the time
            low, high = longest * place / 10, longest * (place + 1) / 10
            assert 40 < sum(low <= wait < high for wait in waits) < 250
    told = [edge.sync._retry_s(1, Overloaded("full", 4.0)) for _ in range(1000)]
    assert min(told) >= 4
    assert max(told) - min(told) > 1
    await edge.stop()


def _forged(response: pb.GetManifestResponse) -> pb.GetManifestResponse:
    return pb.GetManifestResponse(manifest=response.manifest, signature=bytes(64), rulebook=response.rulebook)


def _lying(**fields: Any) -> Callable[[pb.GetManifestResponse], pb.GetManifestResponse]:
    def lie(response: pb.GetManifestResponse) -> pb.GetManifestResponse:
        manifest = pb.Manifest.FromString(response.manifest)
        for name, value in fields.items():
            setattr(manifest, name, value)
        raw = manifest.SerializeToString()
        signature = KEYS.signing_key.sign(b"xianxiao/manifest/1\0" + raw)
        return pb.GetManifestResponse(manifest=raw, signature=signature, rulebook=response.rulebook)

    return lie


@pytest.mark.parametrize(
    ("wrong", "about", "says"),
    [
        (_forged, "manifest", "not signed by the centre"),
        (_lying(key_id="k-unknown"), "key", "fetch a new key file"),
        (_lying(key_check=bytes(16)), "key", "another digest key"),
        (_lying(derivation="triple/1"), "manifest", "upgrade this edge"),
        (_lying(rulebook_sha256=bytes(32)), "manifest", "another rulebook"),
        (_lying(epoch=0), "epoch", "older"),
        (_lying(sha256=bytes(32)), "download", "not the one"),
    ],
)
async def test_a_manifest_that_must_not_be_used_is_refused_by_its_reason(
    wrong: Callable[[pb.GetManifestResponse], pb.GetManifestResponse],
    about: str,
    says: str,
    centre: ScriptedCentre,
    tmp_path: Path,
) -> None:
    """The old snapshot stays and follows, the alarm names reason and remedy, and ends with the next good one."""
    async with serving(centre) as address, running(tmp_path, address) as edge:
        await eventually(lambda: edge.fresh)
        centre.manifest = wrong
        centre.add(a_key(1000))
        centre.publish()
        await eventually(lambda: about in edge.live.alarms)
        assert says in edge.live.alarms[about]
        assert edge.epoch == 1
        assert edge.fresh
        await eventually(lambda: edge.holds(1000))
        centre.manifest = lambda response: response
        await eventually(lambda: edge.epoch == 2 and not edge.live.alarms)


# The stream


def _additions(change: Callable[[pb.WatchChangesResponse], Any]) -> Callable[[Any], Any]:
    """A fault in messages with additions."""

    def faulty(message: pb.WatchChangesResponse) -> pb.WatchChangesResponse | None:
        if not message.HasField("additions"):
            return message
        changed = pb.WatchChangesResponse.FromString(message.SerializeToString())
        return None if change(changed) is None else changed

    return faulty


def _swap_key(message: pb.WatchChangesResponse) -> bool:
    message.additions.keys[0] = bytes(16)
    return True


def _drop_key(message: pb.WatchChangesResponse) -> bool:
    del message.additions.keys[0]
    return True


def _shift(message: pb.WatchChangesResponse) -> bool:
    message.additions.base.entry += 1
    return True


@pytest.mark.parametrize("change", [_swap_key, _drop_key, _shift, lambda _: None])
async def test_additions_that_were_changed_or_lost_are_never_taken_for_right(
    change: Callable[[pb.WatchChangesResponse], Any], centre: ScriptedCentre, tmp_path: Path
) -> None:
    """The position does not move and no heartbeat beyond it is believed; once the road is sound the key arrives."""
    async with serving(centre) as address, running(tmp_path, address, pace=IMPATIENT) as edge:
        await eventually(lambda: edge.fresh)
        before = edge.sync.position
        centre.message = _additions(change)
        centre.add(a_key(1000))
        await eventually(lambda: len(centre.watched) > 3)
        assert edge.sync.position == before
        assert edge.live.view.as_of.feed_sequence == 100
        centre.message = lambda message: message
        await eventually(lambda: edge.holds(1000) and edge.live.view.as_of.feed_sequence == 101)


async def test_a_forged_or_repeated_heartbeat_is_not_believed(centre: ScriptedCentre, tmp_path: Path) -> None:
    """Other numbers under the old seal break the stream; an earlier one sent again tells nothing."""
    async with serving(centre) as address, running(tmp_path, address) as edge:
        await eventually(lambda: edge.fresh)

        def forged(message: pb.WatchChangesResponse) -> pb.WatchChangesResponse:
            message.heartbeat.feed_sequence += 1
            return message

        centre.message = forged
        watched = len(centre.watched)
        await eventually(lambda: len(centre.watched) > watched + 3)
        assert edge.live.view.as_of.feed_sequence == 100
        kept: list[pb.WatchChangesResponse] = []

        def repeated(message: pb.WatchChangesResponse) -> pb.WatchChangesResponse:
            kept.append(message)
            return kept[0] if len(kept) > 1 else message

        centre.message = repeated
        centre.cut()
        await eventually(lambda: len(kept) > 5)
        now = now_ms()  # before it is asked: time goes on
        assert edge.live.lag_ms() >= now - kept[0].heartbeat.sent_time.ToMilliseconds()


async def test_what_follows_on_a_lost_message_is_not_applied(centre: ScriptedCentre, tmp_path: Path) -> None:
    """The second of two additions, rightly sealed, follows on what we lack: it waits until the first was sent again."""
    lost: list[pb.WatchChangesResponse] = []

    def lose_one(message: pb.WatchChangesResponse) -> pb.WatchChangesResponse | None:
        if message.HasField("additions") and not lost:
            lost.append(message)
            return None
        return message

    async with serving(centre) as address, running(tmp_path, address) as edge:
        await eventually(lambda: edge.fresh)
        centre.message = lose_one
        centre.add(a_key(1000))
        await eventually(lambda: lost)
        assert edge.sync.position == Position(centre.journal_id, 100)
        centre.add(a_key(1001))
        await eventually(lambda: edge.sync.position == centre.end)
        assert edge.holds(1000, 1001)
        assert len(centre.watched) == 2


async def test_a_repeated_heartbeat_makes_nothing_younger(centre: ScriptedCentre, tmp_path: Path) -> None:
    """Our clock is an hour behind, so only our steady clock tells the lag: the same heartbeat again does not set it."""
    async with serving(centre) as address:
        edge = Edge(tmp_path, address)
        edge.live._clock_ms = lambda: now_ms() - 3_600_000
        kept: list[pb.WatchChangesResponse] = []

        def repeated(message: pb.WatchChangesResponse) -> pb.WatchChangesResponse:
            kept.append(message)
            return kept[0]

        centre.message = repeated
        await edge.sync.start(5)
        await eventually(lambda: edge.live.centre == pb.CENTRE_STATE_REACHABLE)
        heard_s, seen = time.monotonic(), len(kept)
        await eventually(lambda: len(kept) > seen + 15 and time.monotonic() > heard_s + 0.2)
        assert edge.live.lag_ms() > 200
        await edge.stop()


async def test_silence_breaks_the_stream(centre: ScriptedCentre, tmp_path: Path) -> None:
    """A connection that is open and says nothing is left, and the age shown meanwhile is true."""
    async with serving(centre) as address, running(tmp_path, address, pace=IMPATIENT) as edge:
        await eventually(lambda: edge.fresh)
        watched = len(centre.watched)
        centre.beating = False
        silent_since = now_ms()
        await eventually(lambda: len(centre.watched) > watched)
        await eventually(lambda: edge.live.centre == pb.CENTRE_STATE_UNREACHABLE)
        now = now_ms()  # before it is asked: time goes on
        assert edge.live.lag_ms() >= now - silent_since
        assert edge.holds(*range(100))
        centre.beating = True
        await eventually(lambda: edge.live.centre == pb.CENTRE_STATE_REACHABLE)


async def test_another_address_is_tried_each_time(centre: ScriptedCentre, tmp_path: Path) -> None:
    """With one of two addresses dead, the other keeps the edge in step."""
    async with serving(ScriptedCentre()) as dead:
        pass
    async with serving(centre) as address, running(tmp_path, dead, address) as edge:
        await eventually(lambda: edge.fresh)
        for number in range(1000, 1005):
            centre.cut()
            centre.add(a_key(number))
            await eventually(lambda number=number: edge.holds(number))  # type: ignore[misc]


async def test_signing_off_is_told_apart(centre: ScriptedCentre, tmp_path: Path) -> None:
    """A centre that says it is stopping has signed off, and stays so until it is heard again."""
    async with serving(centre) as address, running(tmp_path, address) as edge:
        await eventually(lambda: edge.fresh)
        centre.signing_off = True
        await eventually(lambda: edge.live.centre == pb.CENTRE_STATE_SIGNED_OFF)
        centre.away = True
        centre.cut()
        await asyncio.sleep(0.2)
        assert edge.live.centre == pb.CENTRE_STATE_SIGNED_OFF
        centre.away = centre.signing_off = False
        await eventually(lambda: edge.live.centre == pb.CENTRE_STATE_REACHABLE)


async def test_a_wrong_clock_is_an_alarm(centre: ScriptedCentre, tmp_path: Path) -> None:
    """More than ten seconds apart, either way; gone when it is set right."""
    async with serving(centre) as address, running(tmp_path, address) as edge:
        await eventually(lambda: edge.fresh)
        centre.clock_off_ms = -60_000
        centre.cut()  # a sender whose clock goes back is not believed on the same stream
        await eventually(lambda: "clock" in edge.live.alarms)
        centre.clock_off_ms = 0
        await eventually(lambda: not edge.live.alarms)


# Reset, other journals, other centres


async def test_a_trimmed_journal_starts_from_the_newest_snapshot(centre: ScriptedCentre, tmp_path: Path) -> None:
    """An edge that was away too long: what it remembered is void, its filter stays until the new one has caught up."""
    async with serving(centre) as address:
        async with running(tmp_path, address) as edge:
            await eventually(lambda: edge.fresh)
        centre.add(*map(a_key, range(1000, 1100)))
        centre.publish()
        centre.trimmed = 150
        centre.add(a_key(2000))
        async with running(tmp_path, address) as edge:
            resets: list[int] = []
            edge.live.on_reset.append(lambda: resets.append(1))
            assert edge.holds(*range(100))
            await eventually(lambda: edge.epoch == 2)
            assert edge.holds(*range(100), *range(1000, 1100))
            await eventually(lambda: edge.holds(2000) and edge.live.view.as_of.feed_sequence == 201)
            assert resets


async def test_another_generation_is_caught_up_with_before_it_is_used(centre: ScriptedCentre, tmp_path: Path) -> None:
    """A new journal: the old filter stays and ages truthfully while the new one catches up, and no key is missing."""
    async with serving(centre) as address, running(tmp_path, address) as edge:
        await eventually(lambda: edge.fresh)
        centre.add(a_key(1000))
        await eventually(lambda: edge.holds(1000))
        centre.new_journal()
        centre.publish()
        centre.add(*map(a_key, range(2000, 2010)))
        centre.beating = False
        await eventually(lambda: edge.holds(*range(2000, 2010)))
        assert edge.epoch == 1  # not yet: nobody said that this was all
        assert edge.holds(*range(100), 1000)
        centre.beating = True
        centre.wake()
        await eventually(lambda: edge.epoch == 2)
        assert edge.holds(*range(100), 1000, *range(2000, 2010))
        assert not edge.live.alarms


async def test_a_restored_centre_is_accepted_with_an_alarm(centre: ScriptedCentre, tmp_path: Path) -> None:
    """A lower epoch of a new identity under the same signing key; the journal has our id and other entries."""
    centre.publish()
    centre.publish()
    async with serving(centre) as address, running(tmp_path, address) as edge:
        await eventually(lambda: edge.fresh and edge.epoch == 3)
        del centre.entries[80:]  # restored from a backup
        del centre.acknowledged[80:]
        centre.served.clear()
        centre.centre_id, centre.epoch = b"d" * 16, 0
        centre.publish()
        centre.add(*map(a_key, range(3000, 3050)))  # the entries 81 to 130: the edge stood at 100
        centre.cut()
        await eventually(lambda: edge.epoch == 1 and edge.fresh)
        assert edge.holds(*range(80), *range(3000, 3050))
        assert "new identity" in edge.live.alarms["centre"]
        centre.publish()
        await eventually(lambda: edge.epoch == 2)
        assert not edge.live.alarms


async def test_the_same_identity_with_older_epochs_is_refused(centre: ScriptedCentre, tmp_path: Path) -> None:
    """A centre restored without a new identity would take keys away: the edge keeps its own and says so."""
    centre.publish()
    async with serving(centre) as address, running(tmp_path, address) as edge:
        await eventually(lambda: edge.fresh and edge.epoch == 2)
        centre.served.clear()
        centre.epoch = 0
        centre.new_journal()
        centre.publish()
        await eventually(lambda: "epoch" in edge.live.alarms)
        assert edge.epoch == 2
        assert edge.holds(*range(100))


@pytest.mark.parametrize("heard", [True, False], ids=["its heartbeats heard", "its manifest only"])
async def test_a_centre_that_forgot_our_epoch_is_not_believed(
    centre: ScriptedCentre, tmp_path: Path, *, heard: bool
) -> None:
    """Restored from a backup without a new identity: its journal soon has our numbers again, for other keys. Its
    heartbeats make nothing younger; once it publishes beyond our epoch, the journal is read anew from there."""
    async with serving(centre) as address, running(tmp_path, address) as edge:
        await eventually(lambda: edge.fresh)
        restored, kept = list(centre.served.items()), centre.acknowledged[:80]
        centre.publish()
        centre.add(*map(a_key, range(2000, 2005)))
        await eventually(lambda: edge.fresh and edge.epoch == 2 and edge.holds(2004))
        centre.served = dict(restored)
        centre.epoch, centre.entries, centre.acknowledged = 1, list(kept), list(kept)
        centre.add(*map(a_key, range(3000, 3050)))  # the entries 81 to 130: the edge stands at 105
        centre.cut()
        forgot_ms = now_ms()
        await eventually(lambda: "epoch" in edge.live.alarms)
        if heard:
            await eventually(lambda: len(centre.watched) > 1)
            await asyncio.sleep(0.2)  # ten heartbeats
        now = now_ms()  # before it is asked: time goes on
        assert edge.live.lag_ms() >= now - forgot_ms
        centre.epoch = 2
        centre.publish(late=28)  # from entry 102
        await eventually(lambda: edge.epoch == 3 and edge.fresh)
        assert edge.holds(*range(80), *range(3000, 3050))


@pytest.mark.parametrize(
    ("epochs", "late"), [(1, 28), (1, 30), (2, 28)], ids=["our number", "our number and place", "beyond our number"]
)
@pytest.mark.parametrize("down", [False, True], ids=["it was cut off", "it was down"])
async def test_a_centre_that_counted_up_to_our_epoch_again_is_not_taken_for_the_one_we_knew(
    centre: ScriptedCentre, tmp_path: Path, *, epochs: int, late: int, down: bool
) -> None:
    """Restored without a new identity, it has published again before the edge is back, which stands at entry 105 of a
    journal whose entries 81 to 130 are other keys now. The edge never says that it knows them before it does, and what
    it has of the old journal takes the place of nothing in the new one."""
    new = (*range(80), *range(3000, 3050))

    def restore() -> None:
        restored, kept = centre.served[centre.centre_id, 1], centre.acknowledged[:80]
        centre.served = {(centre.centre_id, 1): restored}
        centre.epoch, centre.entries, centre.acknowledged = 1, list(kept), list(kept)
        centre.add(*map(a_key, range(3000, 3050)))
        for _ in range(epochs):
            centre.publish(late=late)
        centre.between_chunks = lambda _: asyncio.sleep(0.2)

    async def told(edge: Edge) -> None:
        def in_step() -> bool:
            if epochs == 1 and edge.live.view.as_of.feed_sequence > 105:
                assert edge.holds(*new)
            return edge.epoch == centre.epoch and edge.live.view.as_of.feed_sequence == 130

        await eventually(in_step)
        assert edge.fresh
        assert edge.holds(*new)
        centre.between_chunks = lambda _: None
        centre.publish()
        await eventually(lambda: edge.epoch == centre.epoch)
        assert edge.holds(*new)

    async with serving(centre) as address:
        async with running(tmp_path, address) as edge:
            await eventually(lambda: edge.fresh)
            centre.publish()
            await eventually(lambda: edge.epoch == 2)
            centre.add(*map(a_key, range(2000, 2005)))
            await eventually(lambda: edge.holds(2004) and edge.live.view.as_of.feed_sequence == 105)
            if not down:
                restore()
                centre.cut()
                await told(edge)
        if down:
            restore()
            async with running(tmp_path, address) as edge:
                await told(edge)


# Rulebooks


async def test_other_rules_at_the_centre_put_ours_in_doubt(centre: ScriptedCentre, tmp_path: Path) -> None:
    """From the heartbeat that names them until the snapshot that brings them everything is asked."""
    newer = rulebook().source + b"\n# newer\n"
    async with serving(centre) as address, running(tmp_path, address) as edge:
        await eventually(lambda: edge.fresh)
        centre.beat_book = newer
        await eventually(lambda: edge.live.view.doubtful)
        assert edge.live.view.filter is EVERYTHING
        centre.book = newer
        centre.publish()
        await eventually(lambda: edge.fresh)
        assert edge.live.view.rulebook.source == newer
        assert not edge.live.view.doubtful


async def test_rules_that_this_version_cannot_read_are_never_guessed(centre: ScriptedCentre, tmp_path: Path) -> None:
    """The snapshot is used, but everything is asked, after a restart too; an alarm says to upgrade."""
    async with serving(centre) as address:
        centre.book = b"format = 99\n"
        centre.publish()
        async with running(tmp_path, address) as edge:
            await eventually(lambda: edge.live.centre == pb.CENTRE_STATE_REACHABLE)
            assert edge.live.view.doubtful
            assert edge.live.view.filter is EVERYTHING
            assert "upgrade this edge" in edge.live.alarms["rulebook"]
            assert edge.holds(*range(100))
        async with running(tmp_path, address) as edge:
            await eventually(lambda: edge.live.centre == pb.CENTRE_STATE_REACHABLE)
            assert edge.live.view.doubtful
            centre.book = rulebook().source
            centre.publish()
            await eventually(lambda: edge.fresh)
            assert not edge.live.alarms


# Disk


async def test_a_corrupt_snapshot_is_reported_and_replaced(centre: ScriptedCentre, tmp_path: Path) -> None:
    """Found at the start: named in an alarm, everything asked, until the good one is there."""
    async with serving(centre) as address:
        async with running(tmp_path, address) as edge:
            await eventually(lambda: edge.fresh)
        path = tmp_path / "edge" / "snapshot.xxf"
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
        centre.away = True
        async with running(tmp_path, address, wait_s=0.1) as edge:
            assert "checksum" in edge.live.alarms["snapshot"]
            assert edge.live.view.filter is EVERYTHING
            centre.away = False
            await eventually(lambda: edge.fresh)
            assert edge.holds(*range(100))
            await eventually(lambda: not edge.live.alarms)


async def test_a_snapshot_that_decays_on_the_disk_is_fetched_again(centre: ScriptedCentre, tmp_path: Path) -> None:
    """The one in use goes on; the same epoch is downloaded anew, so that the next start finds it."""
    async with serving(centre) as address, running(tmp_path, address) as edge:
        await eventually(lambda: edge.fresh)
        path = tmp_path / "edge" / "snapshot.xxf"
        other = path.with_name("other")
        other.write_bytes(path.read_bytes()[:-100])
        other.rename(path)
        await eventually(lambda: len(centre.downloads) == 2 and edge.sync.swaps == 2)
        assert edge.fresh
        assert edge.holds(*range(100))
        await eventually(lambda: not edge.live.alarms)
        assert SnapshotStore(tmp_path / "edge", edge_keys()).load() is not None


async def test_a_disk_that_cannot_be_written_stops_nothing(centre: ScriptedCentre, tmp_path: Path) -> None:
    """Downloads and log fail with an alarm, the filter follows; when there is room again both go on."""
    async with serving(centre) as address, running(tmp_path, address) as edge:
        await eventually(lambda: edge.fresh)
        part = tmp_path / "edge" / "snapshot.part"
        part.mkdir()  # whoever runs the tests may write anywhere: a directory in the way does what a full disk does
        (part / "in the way").touch()
        centre.add(a_key(1000))
        centre.publish()
        await eventually(lambda: "disk" in edge.live.alarms)
        centre.add(a_key(1001))
        await eventually(lambda: edge.holds(1000, 1001) and edge.fresh)
        assert edge.epoch == 1
        (part / "in the way").unlink()
        part.rmdir()
        await eventually(lambda: edge.epoch == 2 and not edge.live.alarms)


async def test_processes_share_a_directory_and_one_writes(centre: ScriptedCentre, tmp_path: Path) -> None:
    """One downloads, all use it and follow for themselves; when the writer is gone another takes its place."""
    async with serving(centre) as address:
        first = Edge(tmp_path, address)
        await first.sync.start(5)
        async with running(tmp_path, address) as second, running(tmp_path, address) as third:
            edges = (first, second, third)
            await eventually(lambda: all(edge.fresh for edge in edges))
            assert [edge.sync.leads for edge in edges] == [True, False, False]
            centre.add(a_key(1000))
            centre.publish()
            await eventually(lambda: all(edge.epoch == 2 and edge.holds(1000) for edge in edges))
            assert len(centre.downloads) == 2
            await first.stop()
            await eventually(lambda: second.sync.leads or third.sync.leads)
            centre.add(a_key(1001))
            centre.publish()
            await eventually(lambda: all(edge.epoch == 3 and edge.holds(1001) for edge in (second, third)))
            assert len(centre.downloads) == 3
            centre.add(a_key(1002))
            await eventually(lambda: all(edge.holds(1002) for edge in (second, third)))
        loaded = SnapshotStore(tmp_path / "edge", edge_keys()).load()
        assert loaded is not None
        assert loaded.position == centre.end


# sync-once, canary, report


async def test_once_gets_everything_and_leaves_it_on_disk(centre: ScriptedCentre, tmp_path: Path) -> None:
    """A summary of what was reached; the next start has it without a centre. The second time nothing is downloaded."""
    centre.add(a_key(1000))
    async with serving(centre) as address:
        edge = Edge(tmp_path, address)
        done = await edge.sync.once()
        await edge.centre.close()
        assert (done.epoch, done.position, done.keys, done.added) == (1, centre.end, 101, 1)
        assert done.as_of.feed_sequence == 101
        assert done.downloaded
        edge = Edge(tmp_path, address)
        assert not (await edge.sync.once()).downloaded
        await edge.centre.close()
    loaded = SnapshotStore(tmp_path / "edge", edge_keys()).load()
    assert loaded is not None
    assert loaded.position == centre.end
    assert loaded.beat is not None


async def test_once_waits_for_the_first_snapshot_of_a_new_centre(centre: ScriptedCentre, tmp_path: Path) -> None:
    """A centre that has just been started has published nothing: it is asked again until it has, or the time is over,
    which then is what the error says."""
    served = dict(centre.served)
    centre.served.clear()
    async with serving(centre) as address:
        edge = Edge(tmp_path, address)
        with pytest.raises(CheckerError, match=r"not be caught up with in 3 s.*nothing is published yet"):
            await edge.sync.once(3)
        await edge.centre.close()
        edge = Edge(tmp_path, address)
        asked = centre.manifests
        once = asyncio.create_task(edge.sync.once())
        await eventually(lambda: centre.manifests >= asked + 5)  # more often than other failures are borne
        assert not once.done()
        centre.served.update(served)
        assert (await once).epoch == 1
        await edge.centre.close()


async def test_once_says_why_it_could_not(centre: ScriptedCentre, tmp_path: Path) -> None:
    """Centre away; manifest forged; another process at work: each by its own sentence."""
    async with serving(centre) as address:
        centre.away = True
        edge = Edge(tmp_path, address)
        with pytest.raises(CheckerError, match="UNAVAILABLE"):
            await edge.sync.once(5)
        await edge.centre.close()
        centre.away = False
        centre.manifest = _forged
        edge = Edge(tmp_path, address)
        with pytest.raises(CheckerError, match="not signed by the centre"):
            await edge.sync.once(5)
        await edge.centre.close()
        centre.manifest = lambda response: response
        async with running(tmp_path, address):
            edge = Edge(tmp_path, address)
            with pytest.raises(UsageError, match="another process"):
                await edge.sync.once(5)
            await edge.centre.close()


async def test_the_canary_proves_the_road(centre: ScriptedCentre, tmp_path: Path) -> None:
    """Only the record in the index confirms, by a time; nothing there, or a filter that misses, is an alarm."""
    answer = (Outcome.UNKNOWN, Reason.INDEX_UNREACHABLE, AnsweredBy.INDEX)
    asked: list[Question] = []

    async def ask(question: Question, _: float) -> Verdict:
        asked.append(question)
        return Verdict(*answer, (), "", AsOf(1, 1, 0, 0))

    async with serving(centre) as address, running(tmp_path, address) as edge:
        edge.sync.canary_ask = ask
        await eventually(lambda: len(asked) > 2)
        assert edge.sync.canary_ms == 0
        assert not edge.live.alarms  # an index out of reach says nothing
        for lost in (AnsweredBy.INDEX, AnsweredBy.FILTER):
            answer = (Outcome.ALLOWED, Reason.NOT_LISTED, lost)
            await eventually(lambda: "canary" in edge.live.alarms)
            assert edge.sync.canary_ms == 0
            seen = len(asked)
            await eventually(lambda: len(asked) > seen + 1)  # noqa: B023 - called before the next round
            assert "canary" in edge.live.alarms
        answer = (Outcome.ALLOWED, Reason.OUT_OF_SCOPE, AnsweredBy.INDEX)
        await eventually(lambda: edge.sync.canary_ms > 0)
        assert not edge.live.alarms
        assert asked[0].key == KEYS.digest_key.canary


async def test_additions_that_do_not_arrive_are_an_alarm(centre: ScriptedCentre, tmp_path: Path) -> None:
    """The feed advances and nothing is journalled: heartbeats go on, the lag is small, and yet the operator is told,
    until the canary comes or another snapshot is there."""
    pace = QUICK._replace(arrival=0.1)
    async with serving(centre) as address, running(tmp_path, address, pace=pace) as edge:
        await eventually(lambda: edge.fresh)
        await asyncio.sleep(pace.arrival)  # what the feed tells just after the start may be in the snapshot

        async def lose_an_import() -> None:
            centre.acknowledged.append(a_key(999))
            await eventually(lambda: "feed" in edge.live.alarms)
            assert edge.fresh
            assert not {"canary", "canary in filter"} & set(edge.live.alarms)
            assert "must be run again" in Reporter(edge.sync, edge.centre).status().alarms[0]

        await lose_an_import()
        centre.end_import()
        await eventually(lambda: not edge.live.alarms)
        await asyncio.sleep(pace.arrival)
        await lose_an_import()
        centre.add(a_key(2000))
        await eventually(lambda: edge.holds(2000) and edge.live.view.as_of.feed_sequence == 103)
        assert "feed" in edge.live.alarms
        centre.publish()
        await eventually(lambda: edge.epoch == 2 and not edge.live.alarms)


async def test_an_edge_reports_how_it_is_doing(centre: ScriptedCentre, tmp_path: Path) -> None:
    """Its numbers arrive at the centre; without a centre they are counted as failed, and nothing else happens."""
    async with serving(centre) as address, running(tmp_path, address) as edge:
        reporter = Reporter(edge.sync, edge.centre, advice=lambda: (3, 4), every_s=0.02)
        await eventually(lambda: edge.fresh and edge.live.centre == pb.CENTRE_STATE_REACHABLE)
        reporter.start()
        await eventually(lambda: centre.reports)
        report = centre.reports[0]
        assert (report.edge_id, report.name) == (edge.store.edge_id, "desk")
        assert (report.epoch, report.position.entry, report.feed_sequence) == (1, 100, 100)
        assert (report.advice_waiting, report.advice_dropped) == (3, 4)
        assert report.canary_in_filter
        assert report.HasField("lag")
        assert report.centre == pb.CENTRE_STATE_REACHABLE
        centre.away = True
        await eventually(lambda: reporter.failed > 0)
        await reporter.stop()
