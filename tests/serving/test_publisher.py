"""Claims about publishing: an epoch goes out when it is due, only whole and true, and never twice."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from checker import keys as key_files
from checker.core import container, filter_builder
from checker.core import filter as filters
from checker.core.changes import Position, signed_manifest
from checker.core.filter import DigestFilter
from checker.core.key import Algorithm
from checker.core.measure import Addition, Removal, State, encode_record
from checker.core.rules import Rulebook
from checker.errors import IndexRefused, IndexUnavailable
from checker.index.base import CHUNK_BYTES, ExactIndex, Head, IndexKey, Publication
from checker.index.memory import MemoryIndex, MemoryStore
from checker.serving import filter_file, publisher
from checker.serving.publisher import NotPublished, Publisher, self_check
from proto.checker.v1 import filter_pb2 as pb
from tests.builders import NOW, a_measure, rulebook
from tests.index.builders import digest
from tests.waiting import eventually

KEYS = key_files.new(Algorithm.BLAKE2B_128, "test-keys")
INDEX_KEY = IndexKey(KEYS.digest_key.key_id, KEYS.digest_key.check_value)
HOUR_MS = 3_600_000


class Shelf(MemoryIndex):
    """A memory index on which things may happen during a scan."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        super().__init__(store)
        self.scans = 0
        self.seen_as = "this process"
        self.during: Callable[[], Any] = lambda: None
        self.lost = False
        self.doubtful: list[str] = []

    async def primaries_unreconciled(self) -> list[str]:
        return self.doubtful

    async def scan(self) -> AsyncIterator[list[bytes]]:
        if self.lost:
            raise IndexUnavailable("the index is out of reach")
        self.scans += 1
        async for batch in super().scan():
            yield batch
        happening = self.during()
        if happening is not None:
            await happening

    async def identity(self) -> tuple[str, ...]:
        return (self.seen_as,)

    async def add(self, sequence: int, *numbers: int, measure_id: str = "") -> None:
        """An order in force against these keys, acknowledged."""
        record = encode_record(a_measure()._replace(sequence=sequence))
        records = {digest(number): record for number in numbers}
        await self.apply([Addition(sequence, measure_id or f"M{sequence}", records, "", "")])
        self._store.head = Head(sequence, NOW, 0)

    async def lift(self, sequence: int, measure_id: str) -> None:
        """The end of a measure."""
        await self.apply([Removal(sequence, measure_id, State.SHIELDED, "paid")])


@pytest.fixture
async def shelf() -> Shelf:
    """An open, empty index."""
    made = Shelf()
    await made.open(INDEX_KEY, create=True)
    return made


def a_publisher(index: ExactIndex, book: Rulebook | None = None, **options: Any) -> Publisher:
    """A publisher of daily epochs."""
    return Publisher(index, KEYS, book or rulebook(), 1e-3, 24, **{"clock_ms": lambda: NOW, **options})


@asynccontextmanager
async def publishing(made: Publisher) -> AsyncIterator[None]:
    """A publisher at work."""
    task = asyncio.create_task(made.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def manifest_of(published: Publication) -> pb.Manifest:
    """What edges read."""
    return pb.Manifest.FromString(published.manifest)


async def snapshot_of(index: ExactIndex, published: Publication) -> bytes:
    """What edges download."""
    chunks: list[bytes] = []
    while (chunk := await index.publications.chunk(published.centre_id, published.epoch, len(chunks))) is not None:
        chunks.append(chunk)
    return b"".join(chunks)


def verified(snapshot: bytes) -> tuple[container.Header, DigestFilter]:
    """A snapshot as an edge loads it."""
    public = KEYS.signing_key.public_key()
    return container.load(memoryview(snapshot), lambda text, signature: key_files.verify(public, text, signature))


async def latest(index: ExactIndex) -> Publication:
    """The epoch in force."""
    published = await index.publications.latest()
    assert published is not None
    return published


async def test_an_epoch_is_whole_signed_and_described(shelf: Shelf) -> None:
    """Manifest, signature, rulebook and snapshot belong together, and the snapshot holds exactly who is listed."""
    await shelf.add(1, *range(1, 3000))
    await shelf.add(2, 5000, measure_id="lifted")
    await shelf.lift(3, "lifted")
    made = a_publisher(shelf)
    published = await made.publish_once()
    snapshot, manifest = await snapshot_of(shelf, published), manifest_of(published)
    header, loaded = verified(snapshot)

    public = KEYS.signing_key.public_key()
    assert published == await latest(shelf)
    assert key_files.verify(public, signed_manifest(published.manifest), published.signature)
    assert not key_files.verify(public, published.manifest, published.signature)
    assert published.rulebook == rulebook().source
    assert manifest.rulebook_sha256 == rulebook().sha256
    assert (manifest.epoch, manifest.count, manifest.size) == (1, 2999, len(snapshot))
    assert manifest.sha256 == hashlib.sha256(snapshot).digest()
    assert manifest.centre_id == header.centre_id == await shelf.publications.centre_id()
    assert (manifest.feed_sequence, manifest.feed_time.ToMilliseconds()) == (2, NOW)
    assert Position(manifest.position.journal_id, manifest.position.entry) == await shelf.journal_end()
    assert published.position == await shelf.journal_end()
    assert manifest.build_time.ToMilliseconds() == NOW
    assert header.epoch == 1
    assert all(digest(number) in loaded for number in range(1, 3000))
    assert published.lifted == 1
    assert made.built.keys == 2999
    assert made.built.error_rate < 5e-3


async def test_an_epoch_of_several_chunks_is_cut_where_edges_expect_it(shelf: Shelf) -> None:
    """All pieces but the last have the agreed length."""
    await shelf.add(1, *range(200_000))
    published = await a_publisher(shelf).publish_once()
    first = await shelf.publications.chunk(published.centre_id, 1, 0)
    second = await shelf.publications.chunk(published.centre_id, 1, 1)
    assert first is not None
    assert second is not None
    assert len(first) == CHUNK_BYTES
    assert len(first) + len(second) == manifest_of(published).size


async def test_an_empty_index_has_an_epoch_too(shelf: Shelf) -> None:
    """Edges may start before the first import: nobody is listed, and the journal tells the rest."""
    published = await a_publisher(shelf).publish_once()
    assert manifest_of(published).count == 0
    assert not manifest_of(published).HasField("feed_time")
    assert digest(1) not in verified(await snapshot_of(shelf, published))[1]


async def test_what_is_added_during_the_scan_is_behind_the_position(shelf: Shelf) -> None:
    """Position, head and lifted count are noted before the scan: nothing falls between snapshot and journal."""
    await shelf.add(1, *range(100), measure_id="M1")
    shelf.during = lambda: shelf.add(2, 1000)
    published = await a_publisher(shelf).publish_once()

    assert manifest_of(published).feed_sequence == 1
    assert (await shelf.journal_read(published.position, 0)).keys == [digest(1000)]


async def test_a_scan_across_a_change_of_servers_is_thrown_away(shelf: Shelf) -> None:
    """A primary that restarted meanwhile may have hidden keys: the scan is made again."""
    await shelf.add(1, *range(100))

    def restart_once() -> None:
        shelf.seen_as = "another process"

    shelf.during = restart_once
    published = await a_publisher(shelf).publish_once()
    assert (published.epoch, shelf.scans) == (1, 2)


async def test_servers_that_never_rest_are_an_error(shelf: Shelf) -> None:
    """What cannot be scanned in one piece is not published."""

    def restart() -> None:
        shelf.seen_as += "!"

    shelf.during = restart
    with pytest.raises(IndexUnavailable, match="try again when they are at rest"):
        await a_publisher(shelf).publish_once()
    assert await shelf.publications.latest() is None


async def test_a_store_that_may_have_lost_keys_publishes_nothing(shelf: Shelf) -> None:
    """Before it is reconciled an epoch would clear those whose records it lost; the message says what to do."""
    await shelf.add(1, *range(100))
    shelf.doubtful = ["a primary"]
    with pytest.raises(IndexUnavailable, match=r"a primary restarted .* run `checker import`"):
        await a_publisher(shelf).publish_once()
    assert shelf.scans == 0
    shelf.doubtful = []
    assert (await a_publisher(shelf).publish_once()).epoch == 1


async def test_who_is_overtaken_throws_its_epoch_away(shelf: Shelf) -> None:
    """Of two that build the same epoch one publishes it; the other builds the next."""
    await shelf.add(1, *range(100))
    other = Shelf(shelf._store)
    await other.open(INDEX_KEY, create=False)
    first: list[Publication] = []

    async def overtake() -> None:
        shelf.during = lambda: None
        first.append(await a_publisher(other).publish_once())

    shelf.during = overtake
    published = await a_publisher(shelf).publish_once()
    assert [first[0].epoch, published.epoch] == [1, 2]
    assert shelf.scans == 2


async def test_another_digest_key_publishes_nothing(shelf: Shelf) -> None:
    """A snapshot under the key file's new key, made of keys under the old one, would clear everybody."""
    rotated = key_files.with_digest_key(KEYS, Algorithm.BLAKE2B_128, "new-keys")
    with pytest.raises(IndexRefused, match="publish with the key file the index was written with"):
        await Publisher(shelf, rotated, rulebook(), 1e-3, 24).publish_once()
    assert await shelf.publications.latest() is None


# ------------------------------------------------------------------------------------------------------- self-check


async def a_snapshot(shelf: Shelf, fault: str = "") -> tuple[bytes, container.Header, filter_file.Scan]:
    """A snapshot of 3000 keys as the publisher makes it, with one thing wrong."""
    await shelf.add(1, *range(3000))
    scanned = await filter_file.scan(shelf)
    keys = scanned.keys
    built = filter_builder.build(keys[:-1] if fault == "a key is missing" else keys, 1e-3)
    if fault == "a key is missing" or fault == "the count is wrong":
        built.count += 1
    elif fault == "too many bits":
        built = filter_builder.build(keys, 1e-3)
        rest = np.frombuffer(np.random.default_rng(1).bytes(16 * 4000), dtype=np.uint8).reshape(-1, 16)
        filter_builder.add_many(built, rest)
        built.count = len(keys)
    header = filter_file.header(built, KEYS.digest_key, rulebook(), scanned, NOW, centre_id=b"c" * 16, epoch=1)
    sign = (
        key_files.new(Algorithm.BLAKE2B_128, "x").signing_key.sign
        if fault == "another signer"
        else KEYS.signing_key.sign
    )
    snapshot = container.pack(header, built.bits(), sign)
    if fault == "a bit fell over":
        snapshot = snapshot[:-1] + bytes([snapshot[-1] ^ 1])
    if fault == "another header":
        header = replace(header, epoch=2)
    return snapshot, header, scanned


async def test_a_good_snapshot_passes(shelf: Shelf) -> None:
    """The check says what it measured."""
    snapshot, header, scanned = await a_snapshot(shelf)
    assert self_check(snapshot, header, KEYS, scanned) < 2e-3


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("a key is missing", "denies keys that are listed"),
        ("the count is wrong", "says it holds 3001 keys, 3000 are listed"),
        ("too many bits", "error rate is"),
        ("another signer", r"cannot be read back \(signature"),
        ("a bit fell over", r"cannot be read back \(checksum"),
        ("another header", "header is not what was written"),
    ],
)
async def test_a_faulty_snapshot_does_not(shelf: Shelf, fault: str, said: str) -> None:
    """Whatever broke between scan and bytes, edges never get it."""
    snapshot, header, scanned = await a_snapshot(shelf, fault)
    with pytest.raises(NotPublished, match=said):
        self_check(snapshot, header, KEYS, scanned)


async def test_a_failed_check_leaves_the_last_epoch(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that denies a member is not published."""
    await shelf.add(1, *range(3000))
    first = await a_publisher(shelf).publish_once()
    build = filter_builder.build
    monkeypatch.setattr(filter_builder, "build", lambda keys, rate: build(keys, rate).__class__(len(keys), rate))
    with pytest.raises(NotPublished):
        await a_publisher(shelf).publish_once()
    assert await latest(shelf) == first


@pytest.mark.parametrize("error_rate", [0.1, 1e-2, 1e-4, 1e-7])
def test_the_bound_gives_no_false_alarm(error_rate: float) -> None:
    """A filter of twice the configured rate is refused less than once in a million: the exact binomial tail."""
    most, rate = publisher._most_hits(error_rate), 2 * error_rate
    hits = np.arange(int(most) + 1, publisher.PROBES + 1)
    logs = np.cumsum(np.log(np.arange(1, publisher.PROBES + 1)))
    choose = logs[-1] - logs[hits - 1] - np.concatenate(([0.0], logs))[publisher.PROBES - hits]
    tail = np.exp(choose + hits * np.log(rate) + (publisher.PROBES - hits) * np.log1p(-rate)).sum()
    assert tail < 1e-6
    assert most < 3 * rate * publisher.PROBES + 15  # and what is much worse is seen


async def test_a_drop_of_more_than_a_twentieth_needs_an_operator(shelf: Shelf) -> None:
    """Losing keys is stopped, with the remedy in the message; 5 % is not, and allowed anything goes."""
    for number in range(100):
        await shelf.add(number + 1, number)
    first = await a_publisher(shelf).publish_once()
    for number in range(5):
        await shelf.lift(1000 + number, f"M{number + 1}")
    second = await a_publisher(shelf).publish_once()
    assert manifest_of(second).count == 95
    for number in range(5, 10):
        await shelf.lift(1000 + number, f"M{number + 1}")
    with pytest.raises(NotPublished, match="checker build-snapshot --allow-drop"):
        await a_publisher(shelf).publish_once()
    assert await latest(shelf) == second
    third = await a_publisher(shelf).publish_once(allow_drop=True)
    assert [first.epoch, second.epoch, third.epoch] == [1, 2, 3]
    assert manifest_of(third).count == 90


# ------------------------------------------------------------------------------------------------------------- when


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "LOOK_S", 0.01)


async def epoch_is(index: ExactIndex, number: int) -> None:
    """Wait until this epoch is in force."""
    async with asyncio.timeout(10):
        while True:
            published = await index.publications.latest()
            if published is not None and published.epoch >= number:
                assert published.epoch == number
                return
            await asyncio.sleep(0.002)


async def rests(shelf: Shelf, made: Publisher) -> None:
    """Nothing is due."""
    assert await made._due() == ""


async def test_the_first_epoch_comes_at_once_and_no_second(shelf: Shelf) -> None:
    """An index without an epoch gets one, and then nothing is due."""
    await shelf.add(1, 1)
    made = a_publisher(shelf)
    async with publishing(made):
        await epoch_is(shelf, 1)
        await asyncio.sleep(0.1)
        assert shelf.scans == 1
    await rests(shelf, made)
    await rests(shelf, a_publisher(shelf))  # after a restart neither


async def test_a_new_rulebook_is_told_once(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    """A node that starts with another rulebook publishes it; nodes that differ do not publish in turns."""
    other = rulebook(('version = "', 'version = "x'))
    old, new = a_publisher(shelf), a_publisher(shelf, other)
    async with publishing(old):
        await epoch_is(shelf, 1)
        async with publishing(new):
            await epoch_is(shelf, 2)
            await eventually(lambda: "another node publishes another rulebook" in caplog.text)
            await asyncio.sleep(0.1)
    assert shelf.scans == 2
    assert manifest_of(await latest(shelf)).rulebook_sha256 == other.sha256
    assert (await latest(shelf)).rulebook == other.source
    assert caplog.text.count("another node publishes another rulebook") == 1


async def test_a_rulebook_that_was_in_force_gives_way_too(shelf: Shelf) -> None:
    """A node that never had to publish its rulebook does not bring it back when a newer one comes."""
    await a_publisher(shelf).publish_once()
    looking = a_publisher(shelf)
    await rests(shelf, looking)
    await a_publisher(shelf, rulebook(('version = "', 'version = "x'))).publish_once()
    await rests(shelf, looking)


async def test_an_old_epoch_is_replaced(shelf: Shelf) -> None:
    """After the configured hours, and not before."""
    now = [NOW]
    made = a_publisher(shelf, clock_ms=lambda: now[0])
    await made.publish_once()
    now[0] += 24 * HOUR_MS
    await rests(shelf, made)
    now[0] += 1
    assert "old" in await made._due()


async def test_many_lifted_make_an_epoch(shelf: Shelf) -> None:
    """More than two in a hundred of a short list."""
    for number in range(500):
        await shelf.add(number + 1, number)
    made = a_publisher(shelf)
    await made.publish_once()
    for number in range(10):
        await shelf.lift(1000 + number, f"M{number + 1}")
    await rests(shelf, made)
    await shelf.lift(1010, "M11")
    assert "lifted" in await made._due()
    await made.publish_once()
    await rests(shelf, made)


@pytest.mark.parametrize(
    ("listed", "lifted"),
    [(1_000, 20), (20_000, 400), (50_000, 1_000), (70_000, 1_000), (100_000, 1_000), (300_000, 3_000)],
)
async def test_a_long_list_needs_a_hundredth_and_a_thousand(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, listed: int, lifted: int
) -> None:
    """So many lifted keys make no epoch yet, one more does."""
    await shelf.add(1, *range(min(listed, 20_000)))
    made = a_publisher(shelf)
    await made.publish_once()
    await rests(shelf, made)
    made._manifest.count = listed  # of the long ones all that counts here
    counted = lifted

    async def count() -> int:
        return counted

    monkeypatch.setattr(shelf, "lifted", count)
    await rests(shelf, made)
    counted += 1
    assert "lifted" in await made._due()


@pytest.mark.parametrize("listed", [40, 150, 700, 2_000])
async def test_lifts_one_by_one_never_need_an_operator(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, listed: int
) -> None:
    """However short the list, epochs come in time: the share that stops one is never reached, until few are left."""
    monkeypatch.setattr(publisher, "PROBES", 2_000)
    for number in range(listed):
        await shelf.add(number + 1, number)
    made = a_publisher(shelf)
    first = await made.publish_once()
    for number in range(listed - 20):
        await shelf.lift(10_000 + number, f"M{number + 1}")
        if await made._due():
            await made.publish_once()
    assert (await latest(shelf)).epoch > first.epoch


async def test_many_additions_make_an_epoch(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a tenth of the capacity; the same key again and again is one."""
    monkeypatch.setattr(filters, "OVERLAY_FLOOR", 50)
    made = a_publisher(shelf)
    await made.publish_once()
    for sequence in range(1, 200):
        await shelf.add(sequence, 1, measure_id="again")
    await rests(shelf, made)
    await shelf.add(500, *range(1, 101))  # an empty filter is sized for a thousand
    await rests(shelf, made)
    restarted = a_publisher(shelf)
    await rests(shelf, restarted)
    await shelf.add(501, 101)
    assert "added" in await made._due()
    assert "added" in await restarted._due()


async def test_a_journal_that_begins_anew_makes_an_epoch(shelf: Shelf) -> None:
    """Edges that hold the last epoch could not follow any more: they must not wait a day."""
    made = a_publisher(shelf)
    await made.publish_once()
    shelf._store.journal_id = b"new one."
    assert "journal" in await made._due()
    await made.publish_once()
    await rests(shelf, made)


async def test_a_journal_that_lost_its_beginning_makes_an_epoch(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A publisher has read on and could follow; an edge that has just loaded the epoch could not."""
    monkeypatch.setattr(publisher, "REACH_S", 0.0)
    made = a_publisher(shelf)
    await made.publish_once()
    for sequence in range(1, 5):
        await shelf.add(sequence, sequence)
    await rests(shelf, made)
    assert not (await shelf.journal_read(made._position, 0)).reset
    for entry in range(1, 4):
        del shelf._store.journal[entry]
    assert not (await shelf.journal_read(made._position, 0)).reset
    assert "does not reach back" in await made._due()
    await made.publish_once()
    await rests(shelf, made)


async def test_a_renewed_centre_makes_an_epoch(shelf: Shelf) -> None:
    """What an operator declared after a restore reaches the edges at once."""
    made = a_publisher(shelf)
    first = await made.publish_once()
    renewed = await shelf.publications.renew_centre_id()
    assert "identity" in await made._due()
    second = await made.publish_once()
    assert (first.epoch, second.epoch, second.centre_id) == (1, 2, renewed)
    await rests(shelf, made)


async def test_lost_chunks_make_an_epoch(shelf: Shelf) -> None:
    """A fail-over that lost a part of the snapshot is noticed when the servers change, or at a start."""
    made = a_publisher(shelf)
    published = await made.publish_once()
    await rests(shelf, made)
    shelf._store.published.snapshots[published.centre_id, 1].chunks = []
    await rests(shelf, made)  # nobody looks every second
    assert "chunks" in await a_publisher(shelf)._due()
    shelf.seen_as = "another process"
    assert "chunks" in await made._due()
    await made.publish_once()
    await rests(shelf, made)


async def test_two_nodes_build_each_epoch_once(shelf: Shelf) -> None:
    """While one scans, the other waits and then finds nothing due."""
    other = Shelf(shelf._store)
    await other.open(INDEX_KEY, create=False)
    for each in (shelf, other):
        each.during = lambda: asyncio.sleep(0.05)
    async with publishing(a_publisher(shelf)), publishing(a_publisher(other)):
        await epoch_is(shelf, 1)
        await asyncio.sleep(0.1)
    assert shelf.scans + other.scans == 1


async def test_a_failure_is_said_and_tried_again(
    shelf: Shelf, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index out of reach, a failed check, a bug: none ends the publisher, and the next try publishes."""
    shelf.lost = True
    build = filter_builder.build
    caplog.set_level(logging.INFO)

    def broken(*_: object) -> DigestFilter:
        raise ZeroDivisionError

    await shelf.add(1, *range(2000))
    async with publishing(a_publisher(shelf)):
        await eventually(lambda: "publishing waits for the index" in caplog.text)
        monkeypatch.setattr(filter_builder, "build", broken)
        shelf.lost = False
        await eventually(lambda: "unexpected error" in caplog.text)
        monkeypatch.setattr(filter_builder, "build", lambda keys, rate: build(keys[1:], rate))
        await eventually(lambda: "it says it holds 1999 keys, 2000 are listed" in caplog.text)
        monkeypatch.setattr(filter_builder, "build", build)
        await epoch_is(shelf, 1)


async def test_nodes_that_fail_by_turns_try_ever_more_seldom(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each try is a scan of the index. That another node is at it, which fails as we do, is no reason to hurry."""
    await shelf.add(1, *range(1000))
    await a_publisher(shelf).publish_once()
    await shelf.lift(2, "M1")
    pauses: list[float] = []

    async def no_wait(pause: float, longest: float) -> float:
        pauses.append(pause)
        assert await shelf.publications.claim("another", 0.03)
        return min(2 * pause, longest)

    monkeypatch.setattr(publisher, "_wait", no_wait)
    async with publishing(a_publisher(shelf)):
        await eventually(lambda: len(pauses) == 5)
    assert pauses == [publisher.LOOK_S * 2**number for number in range(5)]


def test_keys_that_a_scan_saw_twice_count_once() -> None:
    """Also where two keys agree in one half only."""
    one, two = b"a" * 8 + b"x" * 8, b"a" * 8 + b"y" * 8
    others = [digest(number) for number in range(100)]
    seen = bytearray(b"".join([one, *others, two, one, others[7], two, one]))
    found = filter_file._distinct(seen)
    assert sorted(bytes(key) for key in found) == sorted([one, two, *others])
    assert len(filter_file._distinct(bytearray())) == 0
