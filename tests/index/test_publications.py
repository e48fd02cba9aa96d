"""What every store of published epochs must do: tests run in memory, on one server and on a three-master cluster."""

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from redis.crc import key_slot

from checker import faults
from checker.errors import IndexRefused
from checker.index import base, memory, publications, redis
from checker.index.base import CHUNK_BYTES, ExactIndex, Position, Publication
from checker.index.node import pack
from checker.index.redis import RedisIndex
from checker.index.urls import open_index
from tests.index.builders import KEY, a_removal, an_addition, digest
from tests.index.servers import ClusterServers, Server

MakeIndex = Callable[[], ExactIndex]
DAY_S = 86_400
on_servers = pytest.mark.parametrize("make_index", ["single", "cluster"], indirect=True)
"""The claim is about what lies on a server."""


def chunks_of(epoch: int, count: int = 3) -> list[bytes]:
    """A snapshot of no meaning in pieces, the last one shorter; no two epochs share one."""
    block = hashlib.blake2b(epoch.to_bytes(8, "big")).digest()
    return [block * (CHUNK_BYTES // len(block))] * (count - 1) + [block]


async def a_publication(index: ExactIndex, epoch: int, **changes: Any) -> Publication:
    """What goes with it."""
    manifest = b"manifest %d" % epoch
    centre_id, position = await index.publications.centre_id(), await index.journal_end()
    made = Publication(epoch, centre_id, manifest, b"s" * 64, "规则".encode(), 7 * epoch, position)
    return made._replace(**changes)


async def publish(index: ExactIndex, epoch: int, **changes: Any) -> Publication:
    """Publish an epoch."""
    made = await a_publication(index, epoch, **changes)
    assert await index.publications.publish(made, chunks_of(epoch))
    return made


async def download(index: ExactIndex, published: Publication) -> list[bytes | None]:
    """All its chunks."""
    return [await index.publications.chunk(published.centre_id, published.epoch, number) for number in range(3)]


def lives_of_chunks(request: pytest.FixtureRequest) -> list[int]:
    """Of each stored chunk, in how many seconds it expires; -1: never."""
    kind = request.node.callspec.params["make_index"]
    if kind == "cluster":
        cluster: ClusterServers = request.getfixturevalue("cluster")
        servers = cluster.servers
    else:
        one: Server = request.getfixturevalue("server")
        servers = [one]
    return sorted(server.command("TTL", name) for server in servers for name in server.command("KEYS", "xx:s:*"))


async def test_nothing_is_published_in_the_beginning(index: ExactIndex) -> None:
    """No epoch, no chunk, no edge; but a centre with an identity that stays."""
    assert await index.publications.latest() is None
    centre_id = await index.publications.centre_id()
    assert len(centre_id) == 16
    assert await index.publications.centre_id() == centre_id
    assert await index.publications.chunk(centre_id, 1, 0) is None
    assert await index.publications.edges() == []


async def test_what_is_published_comes_back_everywhere(make_index: MakeIndex) -> None:
    """Every client of the store gets the publication and each chunk as they were given, and nothing behind the last."""
    one, two = make_index(), make_index()
    await one.open(KEY, create=True)
    await two.open(KEY, create=False)
    published = await publish(one, 1)

    assert await two.publications.latest() == published
    assert await download(two, published) == chunks_of(1)
    assert await two.publications.chunk(published.centre_id, 1, 3) is None
    assert await two.publications.chunk(bytes(16), 1, 0) is None


async def test_a_reader_sees_the_next_epoch(make_index: MakeIndex) -> None:
    """What one client remembers of an epoch does not hide another's newer one."""
    one, two = make_index(), make_index()
    await one.open(KEY, create=True)
    await two.open(KEY, create=False)
    for epoch in (1, 2, 3):
        published = await publish(one, epoch)
        assert await two.publications.latest() == published


@pytest.mark.parametrize("epoch", [0, 1, 3, 7])
async def test_only_the_next_epoch_is_published(index: ExactIndex, epoch: int) -> None:
    """An epoch that is not the one after the latest, or of another centre, changes nothing."""
    first = await publish(index, 1)

    assert not await index.publications.publish(await a_publication(index, epoch), chunks_of(epoch))
    assert not await index.publications.publish(await a_publication(index, 2, centre_id=bytes(16)), chunks_of(2))
    assert await index.publications.latest() == first
    assert await download(index, first) == chunks_of(1)


async def test_of_two_at_once_one_wins_whole(make_index: MakeIndex) -> None:
    """Nodes that publish the same epoch at once never mix their chunks: one wins, and its bytes are served."""
    indexes = [make_index() for _ in range(4)]
    for each in indexes:
        await each.open(KEY, create=True)
    for epoch in range(1, 6):
        made = [
            await a_publication(each, epoch, manifest=b"%d by %d" % (epoch, number))
            for number, each in enumerate(indexes)
        ]
        won = await asyncio.gather(
            *(
                each.publications.publish(publication, chunks_of(100 * epoch + number))
                for number, (each, publication) in enumerate(zip(indexes, made, strict=True))
            )
        )
        assert won.count(True) == 1
        winner = won.index(True)
        latest = await indexes[0].publications.latest()
        assert latest == made[winner]
        assert await download(indexes[1], made[winner]) == chunks_of(100 * epoch + winner)


@on_servers
async def test_losers_leave_no_chunk(make_index: MakeIndex, request: pytest.FixtureRequest) -> None:
    """What was written in vain is gone when the loser is told."""
    one, two = make_index(), make_index()
    await one.open(KEY, create=True)
    await two.open(KEY, create=True)
    made = await a_publication(one, 1)
    won = await asyncio.gather(*(each.publications.publish(made, chunks_of(1)) for each in (one, two)))

    assert won.count(True) == 1
    assert lives_of_chunks(request) == [-1] * 3


@on_servers
async def test_the_last_two_epochs_stay_and_older_ones_expire(
    index: ExactIndex, request: pytest.FixtureRequest
) -> None:
    """Whoever downloads an older epoch ends it; without readers its chunks expire after a day."""
    published = [await publish(index, epoch) for epoch in (1, 2, 3, 4)]

    assert [await download(index, each) for each in published] == [chunks_of(epoch) for epoch in (1, 2, 3, 4)]
    lives = lives_of_chunks(request)
    assert lives[:6] == [-1] * 6
    assert all(DAY_S - 60 <= seconds <= DAY_S for seconds in lives[6:])
    assert len(lives) == 12


@on_servers
async def test_reading_an_old_epoch_keeps_all_of_it(make_index: MakeIndex, request: pytest.FixtureRequest) -> None:
    """A slow edge that reads its first chunk late finds the last one a day later, and the kept epochs never expire."""
    index, late = make_index(), make_index()
    await index.open(KEY, create=True)
    await late.open(KEY, create=True)
    first = await publish(index, 1)
    for epoch in (2, 3):
        await publish(index, epoch)
    shorten(request, 100)
    assert lives_of_chunks(request)[-1] <= 100
    assert await late.publications.chunk(first.centre_id, 1, 0) == chunks_of(1)[0]

    lives = lives_of_chunks(request)
    assert lives[:6] == [-1] * 6
    assert min(lives[6:]) > DAY_S - 60


def shorten(request: pytest.FixtureRequest, seconds: int) -> None:
    """Let what expires at all expire in so many seconds."""
    kind = request.node.callspec.params["make_index"]
    servers = request.getfixturevalue("cluster").servers if kind == "cluster" else [request.getfixturevalue("server")]
    for server in servers:
        for name in server.command("KEYS", "xx:s:*"):
            server.command("EXPIRE", name, seconds, "XX")


@on_servers
async def test_an_expired_epoch_is_gone_and_forgotten(index: ExactIndex, request: pytest.FixtureRequest) -> None:
    """Its chunks are None, and the next publication leaves no word of it behind."""
    published = [await publish(index, epoch) for epoch in (1, 2, 3)]
    shorten(request, 0)
    assert await download(index, published[0]) == [None] * 3
    await publish(index, 4)

    assert isinstance(index, RedisIndex)
    name = index._store.name("snapshots")
    fields = await index._store.one(name, pack((b"HKEYS", name)))
    assert not [one for one in fields if one.endswith((b":1", b":2")) and not one.startswith(b"chunks:")]
    assert sorted(one[-2:] for one in fields if one.startswith(b"chunks:")) == [b":2", b":3", b":4"]


@on_servers
async def test_an_abandoned_attempt_is_swept(
    index: ExactIndex, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed publisher left is deleted by a later publication, once it can be nobody's work any more."""
    monkeypatch.setattr(faults, "point", fail_at("publications.chunks-synced"))
    with pytest.raises(RuntimeError):
        await publish(index, 1)
    monkeypatch.undo()
    assert await index.publications.latest() is None
    await publish(index, 1)
    assert len(lives_of_chunks(request)) == 6  # it might still be at work
    monkeypatch.setattr(publications, "_ABANDONED_MS", -1)
    await publish(index, 2)

    assert lives_of_chunks(request) == [-1] * 6


def fail_at(name: str) -> Callable[[str], None]:
    """Stops at one fault point."""

    def point(passed: str) -> None:
        if passed == name:
            raise RuntimeError(name)

    return point


@on_servers
async def test_cut_short_before_the_pointer_the_old_epoch_stays(
    index: ExactIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks alone make no epoch; behind the pointer there is one."""
    first = await publish(index, 1)
    for name in ("publications.chunks-written", "publications.chunks-synced"):
        monkeypatch.setattr(faults, "point", fail_at(name))
        with pytest.raises(RuntimeError):
            await publish(index, 2)
        assert await index.publications.latest() == first
    monkeypatch.setattr(faults, "point", fail_at("publications.pointed"))
    with pytest.raises(RuntimeError):
        await publish(index, 2)
    latest = await index.publications.latest()
    assert latest is not None
    assert latest.epoch == 2


async def test_a_renewed_centre_goes_on_counting(index: ExactIndex) -> None:
    """After a restore: another identity, another journal, the next number; the old epoch stays until then."""
    first = await publish(index, 1)
    end = await index.journal_end()
    made = await index.publications.renew_centre_id()

    assert made != first.centre_id
    assert await index.publications.centre_id() == made
    assert await index.publications.latest() == first
    assert (await index.journal_read(end, 0)).reset
    second = await publish(index, 2)
    assert (second.centre_id, await index.publications.latest()) == (made, second)
    assert await download(index, first) == chunks_of(1)


async def test_the_journal_is_trimmed_to_the_older_kept_epoch(
    index: ExactIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Edges on either kept epoch can follow; who is further behind is reset."""
    for module in (memory, redis):
        monkeypatch.setattr(module, "JOURNAL_KEPT", 1)
    positions = [await index.journal_end()]
    for epoch in (1, 2, 3):
        for number in range(3):
            sequence = 10 * epoch + number
            await index.apply([an_addition(sequence, f"M{sequence}", sequence)])
        published = await publish(index, epoch)
        positions.append(published.position)

    assert [(await index.journal_read(position, 0)).reset for position in positions] == [True, True, False, False]
    page = await index.journal_read(positions[2], 0)
    assert page.keys == [digest(number) for number in (30, 31, 32)]


async def test_the_journal_keeps_what_filter_files_may_need(index: ExactIndex) -> None:
    """A short journal is never trimmed by publishing: a node's own filter file may be older than the epochs."""
    assert base.JOURNAL_KEPT == 100_000
    start = await index.journal_end()
    for epoch in (1, 2, 3):
        await index.apply([an_addition(epoch, f"M{epoch}", epoch)])
        await publish(index, epoch)
    assert len((await index.journal_read(start, 0)).keys) == 3


async def test_one_builds_at_a_time(make_index: MakeIndex) -> None:
    """A claim keeps others out until it is let go or runs out; whoever has it may go on."""
    one, two = make_index(), make_index()
    await one.open(KEY, create=True)
    await two.open(KEY, create=True)
    assert await one.publications.claim("one", 60)
    assert not await two.publications.claim("two", 60)
    assert await one.publications.claim("one", 60)
    assert await one.publications.claim("one", 0)
    assert await two.publications.claim("two", 60)
    assert not await one.publications.claim("one", 0.001)


async def test_a_claim_runs_out(index: ExactIndex) -> None:
    """A builder that was killed holds nobody up for long."""
    assert await index.publications.claim("one", 0.02)
    while not await index.publications.claim("two", 60):  # noqa: ASYNC110 - the store's clock sets no event
        await asyncio.sleep(0.005)


async def test_edges_are_kept_by_name_with_the_time(index: ExactIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last report of each edge counts; one that has not been heard of for long is forgotten."""
    for status in (b"old", b"new", bytes(range(256))):
        await index.publications.report_edge("booking a", status)
    await index.publications.report_edge("booking b", b"")
    rows = await index.publications.edges()

    assert sorted(status for _, status in rows) == [b"", bytes(range(256))]
    assert all(1_700_000_000_000 < at < 4_000_000_000_000 for at, _ in rows)
    monkeypatch.setattr(publications, "EDGE_S", -1)
    assert await index.publications.edges() == []
    monkeypatch.undo()
    assert await index.publications.edges() == []


@on_servers
async def test_leftovers_of_an_index_that_lost_its_description_are_refused(
    make_index: MakeIndex, request: pytest.FixtureRequest
) -> None:
    """Published epochs without an index mean lost data; reports of edges alone mean nothing."""
    index = make_index()
    await index.open(KEY, create=True)
    await index.publications.report_edge("booking a", b"status")
    for server in _servers(request):
        for name in server.command("KEYS", "xx:*"):
            if name != b"xx:edges":
                server.command("DEL", name)
    await make_index().open(KEY, create=True)
    await publish(index, 1)
    for server in _servers(request):
        for name in server.command("KEYS", "xx:*"):
            if not name.startswith(b"xx:s"):
                server.command("DEL", name)
    with pytest.raises(IndexRefused, match="has lost its description"):
        await make_index().open(KEY, create=True)


def _servers(request: pytest.FixtureRequest) -> list[Server]:
    if request.node.callspec.params["make_index"] == "cluster":
        return list(request.getfixturevalue("cluster").servers)
    return [request.getfixturevalue("server")]


async def test_chunks_are_spread_over_a_cluster(cluster: ClusterServers) -> None:
    """No primary holds all of a snapshot: nothing in the chunks' names ties them to one slot."""
    for each in cluster.servers:
        each.command("FLUSHALL")
    index = open_index(cluster.url)
    await index.open(KEY, create=True)
    try:
        made = await a_publication(index, 1)
        assert await index.publications.publish(made, chunks_of(1, 60))
        held = [server.command("KEYS", "xx:s:*") for server in cluster.servers]
    finally:
        await index.close()
    assert sum(map(len, held)) == 60
    assert max(map(len, held)) < 60
    assert len({key_slot(name) for names in held for name in names}) > 50  # of 16 384: two may meet


# ---------------------------------------------------------------------------------------- lifted, identity, journal


async def test_lifted_counts_keys_that_got_a_tombstone(index: ExactIndex) -> None:
    """Removals count, and documents that an addition names no longer; additions and repetitions do not."""
    assert await index.lifted() == 0
    await index.apply([an_addition(1, "M1", 1, 2, 3), an_addition(2, "M2", 4)])
    assert await index.lifted() == 0
    await index.apply([a_removal(3, "M1")])
    assert await index.lifted() == 3
    await index.apply([a_removal(3, "M1"), an_addition(1, "M1", 1, 2, 3), a_removal(4, "unknown")])
    assert await index.lifted() == 3
    await index.apply([an_addition(5, "M2", 5)])
    assert await index.lifted() == 4
    await index.apply([an_addition(6, "M3", 6), a_removal(7, "M3")])
    assert await index.lifted() == 5


async def test_identity_stays_while_nothing_happens(make_index: MakeIndex) -> None:
    """Two clients and two moments see the same servers, whatever is written meanwhile."""
    one = make_index()
    await one.open(KEY, create=True)
    before = await one.identity()
    await one.apply([an_addition(1, "M1", 1)])
    assert before
    assert await one.identity() == before


async def test_a_restarted_server_has_another_identity() -> None:
    """A scan across a restart can be told."""
    server = Server()
    index = open_index(server.url)
    try:
        await index.open(KEY, create=True)
        before = await index.identity()
        server.kill()
        server.start()
        assert await index.identity() != before
    finally:
        await index.close()
        server.close()


async def test_reading_without_waiting_is_never_held_up(index: ExactIndex) -> None:
    """While one call waits for additions, others of the same client look at the journal, several at a time."""
    end = await index.journal_end()
    waiting = asyncio.create_task(index.journal_read(end, 30))
    await asyncio.sleep(0.05)
    pages = await asyncio.wait_for(asyncio.gather(*(index.journal_read(end, 0) for _ in range(10))), 5)
    assert [page.position for page in pages] == [end] * 10
    assert not waiting.done()
    await index.apply([an_addition(1, "M1", 1)])
    assert (await asyncio.wait_for(waiting, 10)).keys == [digest(1)]


async def test_the_key_is_the_one_it_was_opened_with(index: ExactIndex) -> None:
    """Whoever builds from an index can ask which digest key its keys were made with."""
    assert index.key == KEY
    assert (await index.journal_end()) == Position((await index.journal_end()).journal_id, 0)
