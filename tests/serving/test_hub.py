"""Claims about the journal as edges get it: whole and in order from wherever they stand, at once, and never fresher
than it is."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checker.core.changes import Position
from checker.core.freshness import AsOf
from checker.index.urls import open_index
from checker.rpc.client import open_channel
from checker.serving import follower, hub
from proto.checker.v1 import filter_pb2 as pb
from proto.checker.v1 import filter_pb2_grpc
from tests.index.builders import an_addition, digest
from tests.index.servers import Server
from tests.serving.centre import Centre, Watcher, a_centre, message_of, position_of, publish
from tests.serving.stand import INDEX_KEY, Shelf, a_hub, a_live, a_shelf
from tests.waiting import eventually


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "POLL_S", 0.02)
    monkeypatch.setattr(hub, "BEAT_S", 0.1)
    monkeypatch.setattr(hub, "PUBLICATION_S", 0.05)


@pytest.fixture
async def shelf() -> Shelf:
    return await a_shelf()


@pytest.fixture
async def centre(shelf: Shelf, tmp_path: Path) -> AsyncIterator[Centre]:
    async with a_centre(shelf, tmp_path / "filter") as made:
        yield made


@pytest.fixture
async def stub(centre: Centre) -> AsyncIterator[Any]:
    async with open_channel(centre.address) as channel:
        yield filter_pb2_grpc.FilterServiceStub(channel)


def keys_of(*numbers: int) -> set[bytes]:
    return {digest(number) for number in numbers}


async def test_a_watcher_is_told_at_once_how_far_the_feed_is_known(shelf: Shelf, centre: Centre, stub: Any) -> None:
    """The first message for who is up to date is a heartbeat: position, feed, epoch, centre, rulebook; as old as is
    said of it."""
    added_ms, added_s = time.time_ns() // 1_000_000, time.monotonic()
    await shelf.add(1, 1)
    await eventually(lambda: centre.live.view.as_of.feed_sequence == 1)
    published, _ = await publish(shelf, 1, 100)
    await eventually(lambda: centre.hub._publication is not None)

    watcher = Watcher(stub, await shelf.journal_end())
    beat = await watcher.beat()

    assert watcher.messages == len(watcher.beats)
    assert beat.as_of == centre.live.view.as_of._replace(snapshot_epoch=1)
    assert beat.centre_id == published.centre_id
    assert beat.rulebook_sha256 == centre.live.view.rulebook.sha256
    assert added_ms <= beat.sent_ms <= time.time_ns() // 1_000_000
    assert 0 <= beat.silence_ms <= (time.monotonic() - added_s) * 1000  # before, nobody knew of line 1
    assert not beat.signing_off
    await watcher.close()


async def test_heartbeats_go_on(shelf: Shelf, stub: Any) -> None:
    """One each BEAT_S, to each watcher, and no more."""
    start = time.monotonic()
    watchers = [Watcher(stub, await shelf.journal_end()) for _ in range(30)]
    await eventually(lambda: all(len(watcher.beats) > 5 for watcher in watchers))
    taken = time.monotonic() - start

    assert max(len(watcher.beats) for watcher in watchers) <= taken / hub.BEAT_S + 2
    for watcher in watchers:
        await watcher.close()


async def test_an_addition_reaches_a_watcher_before_its_head_does(shelf: Shelf, centre: Centre, stub: Any) -> None:
    """Every key the head covers has arrived before a heartbeat claims the head, however fast they come."""
    watcher = Watcher(stub, await shelf.journal_end())
    for sequence in range(1, 200):
        await shelf.add(sequence, sequence)
        await asyncio.sleep(0.001)
        known = watcher.beats[-1].as_of.feed_sequence if watcher.beats else 0
        assert watcher.keys >= keys_of(*range(1, known + 1))
    await eventually(lambda: watcher.beats and watcher.beats[-1].as_of.feed_sequence == 199)
    assert watcher.keys == keys_of(*range(1, 200))
    assert watcher.position == await shelf.journal_end()
    await watcher.close()


async def test_a_watcher_gets_every_key_from_wherever_it_stands(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From each position, in and before the ring, at the edges of pages and within them, nothing is missing."""
    monkeypatch.setattr(hub, "RING_BYTES", 4000)
    draw = random.Random(7)
    sequence = 0
    for _ in range(60):
        sequence += 1
        await shelf.add(sequence, *range(sequence * 10, sequence * 10 + draw.randint(1, 5)))
    async with a_centre(shelf, tmp_path / "filter") as centre, open_channel(centre.address) as channel:
        stub = filter_pb2_grpc.FilterServiceStub(channel)
        for _ in range(40):
            for _ in range(draw.randint(1, 6)):
                sequence += 1
                await shelf.add(sequence, *range(sequence * 10, sequence * 10 + draw.randint(1, 5)))
            end = await shelf.journal_end()
            await eventually(lambda end=end: centre.hub._end == end)  # type: ignore[misc]
        assert 1 < len(centre.hub._ring) < 40
        assert centre.hub._bases[0] > 60
        end = await shelf.journal_end()
        for entry in range(end.entry + 1):
            position = Position(end.journal_id, entry)
            watcher = Watcher(stub, position)
            await eventually(lambda watcher=watcher: watcher.position == end)  # type: ignore[misc]
            wanted = {key for number in range(entry + 1, end.entry + 1) for key in shelf._store.journal[number]}
            assert watcher.keys >= wanted
            await watcher.close()


async def test_a_watcher_ahead_of_this_worker_is_believed_if_the_index_knows_its_place(
    shelf: Shelf, centre: Centre, stub: Any
) -> None:
    """An edge comes from a quicker worker: it is no stranger, gets no key it lacks late, and none is missing."""
    await shelf.add(1, 1)
    end = await shelf.journal_end()
    await eventually(lambda: centre.hub._end == end)
    shelf.journal_goes.clear()
    await shelf.add(2, 2, 3)
    ahead = await shelf.journal_end()
    watcher = Watcher(stub, ahead)
    await eventually(lambda: centre.hub.watchers)
    await shelf.add(3, 4)
    shelf.journal_goes.set()

    await eventually(lambda: watcher.keys >= keys_of(4) and watcher.beats)
    assert watcher.position == await shelf.journal_end()
    assert not watcher.reset
    await watcher.close()


@pytest.mark.parametrize("which", ["another journal", "beyond the end", "trimmed away"])
async def test_a_position_the_journal_does_not_know_is_reset(which: str, tmp_path: Path) -> None:
    """It ends with Reset, and no addition that would follow on something else."""
    shelf = await a_shelf(journal_entries=10)
    for sequence in range(1, 31):
        await shelf.add(sequence, sequence)
    end = await shelf.journal_end()
    position = {
        "another journal": Position(bytes(8), 3),
        "beyond the end": end._replace(entry=99),
        "trimmed away": end._replace(entry=5),
    }[which]
    async with a_centre(shelf, tmp_path / "filter") as centre, open_channel(centre.address) as channel:
        watcher = Watcher(filter_pb2_grpc.FilterServiceStub(channel), position)
        await watcher.end()
        assert watcher.reset
        assert watcher.messages == 1
        assert watcher.ended is None


async def test_every_watcher_is_reset_when_the_journal_is_another(shelf: Shelf, centre: Centre, stub: Any) -> None:
    """A new journal id ends all streams of the old one, also of who is in step; the new one can be watched at once."""
    await shelf.add(1, 1)
    old = await shelf.journal_end()
    watchers = [Watcher(stub, old) for _ in range(5)]
    await asyncio.gather(*(watcher.beat() for watcher in watchers))
    store = shelf._store
    store.journal_id, store.journal_end = b"another!", 0
    store.journal.clear()
    store.journal_grown.set()

    for watcher in watchers:
        await watcher.end()
        assert watcher.reset
    fresh = Watcher(stub, await shelf.journal_end())
    await fresh.beat()
    await shelf.add(2, 2)  # the follower has no filter of this journal: the hub goes on without it
    await eventually(lambda: fresh.keys == keys_of(2))
    await eventually(lambda: fresh.beats[-1].as_of.feed_sequence == 2)
    late = Watcher(stub, old)
    await late.end()
    assert late.reset
    await fresh.close()


async def test_a_worker_cut_off_does_not_look_fresh(shelf: Shelf, centre: Centre, stub: Any) -> None:
    """While the index is out of reach heartbeats go on and `silence` grows with the clock; afterwards it is small."""
    watcher = Watcher(stub, await shelf.journal_end())
    await watcher.beat()
    shelf.lost = True
    cut = time.monotonic()
    await eventually(lambda: watcher.beats[-1].silence_ms > 400)
    heard = centre.hub._beliefs[0].heard_s
    assert heard <= cut
    for _ in range(3):
        now = time.monotonic()
        await eventually(lambda now=now: heard + watcher.beats[-1].silence_ms / 1000 > now)  # type: ignore[misc]
        assert heard + watcher.beats[-1].silence_ms / 1000 <= time.monotonic()
    assert centre.hub._beliefs[0].heard_s == heard
    shelf.lost = False
    await eventually(lambda: watcher.beats[-1].silence_ms < 200)
    await watcher.close()


async def test_who_lags_behind_is_told_its_own_age(shelf: Shelf, centre: Centre) -> None:
    """A watcher that takes its time hears of no line whose keys it lacks."""
    written: list[pb.WatchChangesResponse] = []
    may_go = asyncio.Event()
    may_go.set()

    async def write(raw: bytes) -> None:
        await may_go.wait()
        written.append(pb.WatchChangesResponse.FromString(raw))

    watching = asyncio.create_task(centre.hub.watch(await shelf.journal_end(), write))
    await eventually(lambda: written)
    may_go.clear()
    await shelf.add(1, 1)
    await eventually(lambda: centre.live.view.as_of.feed_sequence == 1)
    await asyncio.sleep(0.3)
    may_go.set()
    await eventually(lambda: written[-1].heartbeat.feed_sequence == 1)
    keys: set[bytes] = set()
    sequences: list[int] = []
    for message in written:
        keys.update(message.additions.keys)
        if message.HasField("heartbeat"):
            sequences.append(message.heartbeat.feed_sequence)
            assert (sequences[-1] == 1) == (digest(1) in keys)
    watching.cancel()


async def test_a_slow_watcher_makes_nobody_wait_and_holds_nothing(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that stops reading keeps the service from nothing, falls out of the ring, and gets all it missed later."""
    monkeypatch.setattr(hub, "RING_BYTES", 100_000)
    async with (
        a_centre(shelf, tmp_path / "filter") as centre,
        open_channel(centre.address) as channel,
        open_channel(centre.address, ahead=65_536) as narrow,  # else gRPC buffers megabytes first
    ):
        start = await shelf.journal_end()
        quick = Watcher(filter_pb2_grpc.FilterServiceStub(channel), start)
        request = pb.WatchChangesRequest(position=message_of(start))
        slow = filter_pb2_grpc.FilterServiceStub(narrow).WatchChanges(request)
        first = await slow.read()
        assert isinstance(first, pb.WatchChangesResponse)
        sequence, end = 0, start

        def behind() -> bool:
            positions = [watcher.position.entry for slot in centre.hub._slots for watcher in slot]
            return bool(centre.hub._bases) and min(positions) < centre.hub._bases[0]

        while not behind():
            sequence += 1
            assert sequence < 5000
            await shelf.add(sequence, *range(sequence * 1000, sequence * 1000 + 1000))
            end = await shelf.journal_end()
            await eventually(lambda end=end: quick.position == end)  # type: ignore[misc]
        assert centre.hub._ring_bytes <= 100_000
        caught = Watcher.__new__(Watcher)
        caught.position, caught.keys, caught.beats = start, set(), []
        caught.bytes = caught.messages = 0
        while caught.position != end:
            message = await slow.read()
            assert isinstance(message, pb.WatchChangesResponse)
            caught.take(message)
        assert caught.keys == quick.keys
        slow.cancel()
        await quick.close()


async def test_a_thousand_additions_are_less_than_twenty_kilobytes(shelf: Shelf, centre: Centre, stub: Any) -> None:
    """A burst of 1 000 additions in lines of their own, one key each: 18 B a key and little more."""
    watcher = Watcher(stub, await shelf.journal_end())
    await watcher.beat()
    before = watcher.bytes
    beats = len(watcher.beats)
    for sequence in range(1, 1001):
        await shelf.add(sequence, sequence)
        if sequence % 50 == 0:
            await asyncio.sleep(0.001)
    await eventually(lambda: len(watcher.keys) == 1000)
    spent = watcher.bytes - before - 170 * (len(watcher.beats) - beats)
    print(f"\n1 000 additions: {spent} B in {watcher.messages} messages")  # noqa: T201 - a figure
    assert spent <= 20_000
    await watcher.close()


async def test_no_message_holds_more_than_a_thousand_keys(shelf: Shelf, centre: Centre, stub: Any) -> None:
    """A page of thousands is split; whoever breaks off in the midst of it starts again at its beginning."""
    start = await shelf.journal_end()
    await shelf.add(1, *range(3500))
    await eventually(lambda: centre.hub._end.entry == 1)
    call = stub.WatchChanges(pb.WatchChangesRequest(position=message_of(start)))
    sizes, places = [], []
    for _ in range(4):
        message = await call.read()
        assert isinstance(message, pb.WatchChangesResponse)
        sizes.append(len(message.additions.keys))
        places.append(position_of(message.additions.position).entry)
    assert sizes == [1000, 1000, 1000, 500]
    assert places == [0, 0, 0, 1]
    call.cancel()


async def test_far_behind_together_the_index_is_read_once(shelf: Shelf, tmp_path: Path) -> None:
    """Edges that come with the same snapshot share the pages that lead them to the present."""
    for sequence in range(1, 2501):
        await shelf.apply([an_addition(sequence, f"M{sequence}", sequence)])
    reads = 0
    read = shelf.journal_read

    async def counted(position: Position, block_s: float) -> object:
        nonlocal reads
        reads += block_s == 0
        return await read(position, block_s)

    async with a_centre(shelf, tmp_path / "filter") as centre, open_channel(centre.address) as channel:
        shelf.journal_read = counted  # type: ignore[assignment,method-assign]
        stub = filter_pb2_grpc.FilterServiceStub(channel)
        start = (await shelf.journal_end())._replace(entry=0)
        watchers = [Watcher(stub, start) for _ in range(50)]
        await eventually(lambda: all(len(watcher.keys) == 2500 for watcher in watchers))
        assert reads == 3
        assert centre.hub.watchers == 50
        for watcher in watchers:
            await watcher.close()


async def test_streams_end_by_themselves_each_at_another_time(
    shelf: Shelf, centre: Centre, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its lifetime a stream ends with UNAVAILABLE; each has another one, of two thirds of the longest and more."""
    monkeypatch.setattr(hub, "LIFETIME_S", 0.6)
    monkeypatch.setattr(hub, "BEAT_S", 0.05)
    drawn: list[float] = []

    def uniform(least: float, most: float) -> float:
        assert (least, most) == (2 / 3, 1)
        drawn.append(random.uniform(least, most))
        return drawn[-1]

    monkeypatch.setattr(hub, "random", SimpleNamespace(uniform=uniform))

    async def one(watcher: Watcher, began: float, share: float) -> None:
        await watcher.end()
        assert time.monotonic() - began >= 0.6 * share
        assert watcher.ended is not None
        assert watcher.ended.code() is grpc.StatusCode.UNAVAILABLE

    async with asyncio.TaskGroup() as watching:
        for number in range(50):
            began = time.monotonic()
            watcher = Watcher(stub, await shelf.journal_end())
            await eventually(lambda number=number: len(drawn) > number)  # type: ignore[misc]
            watching.create_task(one(watcher, began, drawn[number]))
    assert len(set(drawn)) == len(drawn) == 50
    assert centre.hub.watchers == 0


async def test_a_stopping_service_says_so_and_ends_the_streams(shelf: Shelf, centre: Centre, stub: Any) -> None:
    """At a drain each watcher's last message is a heartbeat that signs off; then UNAVAILABLE."""
    watchers = [Watcher(stub, await shelf.journal_end()) for _ in range(20)]
    await asyncio.gather(*(watcher.beat() for watcher in watchers))
    draining = asyncio.create_task(centre.server.drain())
    for watcher in watchers:
        await watcher.end()
        assert watcher.beats[-1].signing_off
        assert not watcher.beats[-2].signing_off
        assert watcher.ended is not None
        assert watcher.ended.code() is grpc.StatusCode.UNAVAILABLE
    assert await draining == 0


async def test_who_comes_while_the_service_stops_is_sent_away(shelf: Shelf, centre: Centre, stub: Any) -> None:
    """UNAVAILABLE, and no word about a position that nobody has looked up."""
    await centre.hub.sign_off()
    watcher = Watcher(stub, Position(b"whatever", 3))
    await watcher.end()
    assert watcher.messages == 0
    assert watcher.ended is not None
    assert watcher.ended.code() is grpc.StatusCode.UNAVAILABLE


STEPS = st.lists(
    st.sampled_from([*["add", "read", "beat"] * 2, "reload", "lose", "head", "watch", "stall", "go"]), max_size=80
)


@settings(max_examples=150)
@given(STEPS, st.randoms(use_true_random=False))
async def test_whatever_the_follower_goes_through_no_watcher_is_told_more_than_it_holds(
    steps: list[str], draw: random.Random
) -> None:
    """Additions, pages read or jumped over, a position lost, heads heard early or late, watchers anywhere and slow:
    every message follows on what a watcher holds, every heartbeat is covered by its keys, and in the end all have all.

    The oracle is the journal itself: the feed's sequence is the number of its entries when the head was asked for.
    """
    shelf = await a_shelf()
    made = a_hub(shelf, a_live())
    at = await shelf.journal_end()
    made.know(a_live().view.as_of, at, time.monotonic())
    made.follow(at)
    following = True
    watchers: list[_Model] = []
    for number, step in enumerate([*steps, "go", "follow", "head"], start=1):
        end = await shelf.journal_end()
        if step == "add":
            await shelf.add(number, *range(number * 10, number * 10 + draw.randint(1, 3)))
        elif step == "read" and following:
            page = await shelf.journal_read(at, 0)
            made.page(at, page)
            at = page.position
        elif step == "reload" or (step == "follow" and not following):  # another filter file is caught up with
            base, following = end._replace(entry=draw.randint(0, end.entry)), True
            page = await shelf.journal_read(base, 0)
            made.page(base, page)
            at = page.position
            made.follow(at)
        elif step == "follow":
            made.page(at, await shelf.journal_read(at, 0))
        elif step == "lose":
            made.lose(end)
            following = False
        elif step == "head":
            made.know(AsOf(end.entry, 1, 0, 0), end, time.monotonic())
        elif step == "watch":
            watchers.append(_Model(shelf, made, end._replace(entry=draw.randint(0, end.entry))))
        elif step == "beat":
            for slot in made._slots:
                made._wake(slot, due=True)
        elif step == "stall" and watchers:
            draw.choice(watchers).may_go.clear()
        elif step == "go":
            for watcher in watchers:
                watcher.may_go.set()
        for _ in range(draw.randint(0, 4)):
            await asyncio.sleep(0)
    end = await shelf.journal_end()
    for watcher in watchers:
        await eventually(lambda watcher=watcher: watcher.position == end or watcher.task.done(), 5)  # type: ignore[misc]
        assert not watcher.task.done()
        watcher.task.cancel()
    await made.stop()


class _Model:
    """A watcher without a socket, that holds each message against the journal."""

    def __init__(self, shelf: Shelf, made: hub.Hub, position: Position) -> None:
        self._journal = shelf._store.journal
        self._start = position.entry
        self.position = position
        self.keys: set[bytes] = set()
        self.may_go = asyncio.Event()
        self.may_go.set()
        self.task = asyncio.create_task(made.watch(position, self._write))

    def _holds(self, entry: int) -> bool:
        return all(self.keys.issuperset(self._journal[each]) for each in range(self._start + 1, entry + 1))

    async def _write(self, raw: bytes) -> None:
        await self.may_go.wait()
        message = pb.WatchChangesResponse.FromString(raw)
        if message.HasField("additions"):
            assert position_of(message.additions.base) == self.position
            self.keys.update(message.additions.keys)
            self.position = position_of(message.additions.position)
            assert self._holds(self.position.entry)
        else:
            assert position_of(message.heartbeat.position) == self.position
            assert message.heartbeat.feed_sequence <= self.position.entry


async def test_late_news_of_a_former_journal_changes_nothing(shelf: Shelf) -> None:
    """A head asked for before the journal changed and answered after it does not bring the old journal back."""
    made = a_hub(shelf, a_live())
    old, new = Position(b"o" * 8, 7), Position(b"n" * 8, 1)
    as_of = a_live().view.as_of
    made.know(as_of, old, 1.0)
    made.follow(new)
    made.know(as_of, old, 2.0)
    assert made._end == new
    assert not made._beliefs


async def test_over_a_real_store_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a Valkey server: a watcher from the beginning and one from the end get what is added, long before the next
    look at the head; a crash of the server shows as silence, and what begins a new journal resets both."""
    monkeypatch.setattr(follower, "POLL_S", 1.0)
    server = Server()
    index, importer = open_index(server.url), open_index(server.url)
    try:
        for each in (index, importer):
            await each.open(INDEX_KEY, create=True)
        start = await importer.journal_end()
        await importer.apply([an_addition(1, "M1", 1)])
        async with a_centre(index, tmp_path / "filter") as centre, open_channel(centre.address) as channel:
            stub = filter_pb2_grpc.FilterServiceStub(channel)
            early, late = Watcher(stub, start), Watcher(stub, await importer.journal_end())
            await asyncio.gather(early.beat(), late.beat())
            assert early.keys == keys_of(1)
            delays = []
            for sequence in range(2, 52):
                await importer.apply([an_addition(sequence, f"M{sequence}", sequence)])
                acknowledged = time.monotonic()
                await eventually(lambda: digest(sequence) in late.keys and digest(sequence) in early.keys)  # noqa: B023
                delays.append(time.monotonic() - acknowledged)
            assert late.keys == keys_of(*range(2, 52))
            assert sum(delays) < 10  # half a second each, if each waited for the next look
            monkeypatch.setattr(follower, "POLL_S", 0.02)
            await eventually(lambda: late.beats[-1].silence_ms < 200)
            server.kill()
            await eventually(lambda: late.beats[-1].silence_ms > 300)
            server.start()
            await eventually(lambda: late.beats[-1].silence_ms < 200)
            async with importer.lease("test"):
                assert await importer.primaries_unreconciled()
                await importer.mark_reconciled()  # what was lost may be in no journal: a new one begins
            await asyncio.gather(early.end(), late.end())
            assert early.reset
            assert late.reset
    finally:
        await index.close()
        await importer.close()
        server.close()
