"""Claims about `checker.lists.reload`: what serves is whole at every moment, and no lift is lost."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from checker.index import generations
from checker.index.redis import RedisIndex
from checker.index.urls import open_index
from checker.lists.importer import Summary, import_feeds
from checker.lists.manifest import FeedRefused
from checker.lists.reload import reload_feeds
from tests.index.servers import Server
from tests.lists.builders import INDEX_KEY, KEY, NOW_MS, add, an_options, exempt, heartbeat, is_active, remove, write


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A private server for the whole module."""
    server = Server()
    yield server
    server.close()


def client(server: Server) -> RedisIndex:
    """A patient client."""
    index = open_index(server.url, 5.0)
    assert isinstance(index, RedisIndex)
    return index


@pytest.fixture
async def index(server: Server) -> AsyncIterator[RedisIndex]:
    """An open, empty index."""
    server.command("FLUSHALL")
    index = client(server)
    await index.open(INDEX_KEY, create=True)
    yield index
    await index.close()


@pytest.fixture
async def worker(index: RedisIndex, server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RedisIndex]:
    """A worker that notices each switch at once."""
    monkeypatch.setattr(generations, "SETTLE_S", 0.0)
    worker = client(server)
    await worker.open(INDEX_KEY, create=False)
    await worker.report("w1")
    readers = RedisIndex.readers

    async def told(asking: RedisIndex) -> int:
        await worker.report("w1")
        return await readers(asking)

    monkeypatch.setattr(RedisIndex, "readers", told)
    yield worker
    await worker.close()


async def import_(index: RedisIndex, folder: Path, *lines: dict[str, Any]) -> Summary:
    return await import_feeds(index, KEY, [write(folder / "daily", lines)], an_options(folder, batch_keys=2))


async def reload(index: RedisIndex, folder: Path, *lines: dict[str, Any], **more: Any) -> Summary:
    return await reload_feeds(index, KEY, [write(folder / "full", lines)], an_options(folder, batch_keys=2), **more)


async def active(index: RedisIndex, *serials: int) -> list[bool]:
    return [await is_active(index, serial) for serial in serials]


def generations_kept(server: Server) -> set[bytes]:
    with server.client() as there:
        return {name.split(b":")[1] for name in there.scan_iter("xx:[0-9]*", count=1000)}


async def test_the_courts_list_takes_the_place_of_what_was_there(
    index: RedisIndex, worker: RedisIndex, server: Server, tmp_path: Path
) -> None:
    """Whoever it no longer names is free and stays so when an old file is sent; whom the index lacked is listed."""
    daily = [add(number, f"M{number}", number) for number in range(1, 41)]
    await import_(index, tmp_path, *daily)
    summary = await reload(index, tmp_path, *daily[:-1], heartbeat(40), add(41, "M41", 41))
    assert (summary.exit_code, summary.old_kept, summary.feed_sequence) == (0, False, 41)
    assert await active(worker, 1, 39, 40, 41) == [True, True, False, True]
    assert generations_kept(server) == {b"2"}
    assert (await index.head()).feed_sequence == 41
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["changes-2.log"]

    assert (await import_(index, tmp_path, *daily, remove(42, "M1"))).exit_code == 0
    assert await active(worker, 1, 2, 40) == [False, True, False]
    assert (await reload(index, tmp_path, *daily, heartbeat(41), remove(42, "M1"))).exit_code == 0
    assert generations_kept(server) == {b"3"}
    assert await active(worker, 1, 2, 40, 41) == [False, True, True, False]


async def test_what_is_not_the_whole_list_changes_nothing(
    index: RedisIndex, worker: RedisIndex, server: Server, tmp_path: Path
) -> None:
    """A gap, a feed that ends early, one much shorter: refused with the reason, and nothing is left of it."""
    await import_(index, tmp_path, *(add(number, f"M{number}", number) for number in range(1, 41)))
    head = await index.head()
    refused: tuple[tuple[list[dict[str, Any]], str], ...] = (
        ([add(1, "M1", 1), add(3, "M3", 3)], "sequence 2 is missing"),
        ([add(1, "M1", 1), heartbeat(2)], "ends at sequence 2, the index knows it up to 40"),
        ([add(40, "M1", 1), heartbeat(41)], "lists 1 keys, over 5% fewer than the 40"),
        ([], "ends at sequence 0"),
    )
    for lines, why in refused:
        with pytest.raises(FeedRefused, match=why):
            await reload(index, tmp_path, *lines)
        assert generations_kept(server) == {b"1"}
        assert await index.head() == head
        assert await active(worker, 1, 40) == [True, True]
    await reload(index, tmp_path, add(40, "M1", 1), heartbeat(41), allow_drop=True)
    assert await active(worker, 1, 40) == [True, False]


async def test_lifts_behind_a_gap_are_carried_over(index: RedisIndex, worker: RedisIndex, tmp_path: Path) -> None:
    """They came before the feed got so far: they hold, the gap stays open, and without the log nothing is reloaded."""
    daily = [add(1, "M1", 1), add(2, "M2", 2), add(3, "M3", 3)]
    await import_(index, tmp_path, *daily)
    await import_(index, tmp_path, remove(7, "M1"), exempt(8, "M2"))
    with pytest.raises(FeedRefused, match="seen lines up to 8"):
        await reload_feeds(index, KEY, [write(tmp_path / "full", daily)], an_options(tmp_path / "elsewhere"))
    summary = await reload(index, tmp_path, *daily, heartbeat(4))
    assert (summary.exit_code, summary.first_missing) == (1, 5)
    assert await active(worker, 1, 2, 3) == [False, True, True]
    head = await index.head()
    assert (head.feed_sequence, head.gap_since_ms, head.seen_up_to) == (4, NOW_MS, 8)
    assert (await import_(index, tmp_path, *(heartbeat(number) for number in range(5, 9)))).exit_code == 0
    assert await active(worker, 1, 2, 3) == [False, True, True]


async def test_a_store_that_lost_what_was_reloaded_is_cured(
    index: RedisIndex, worker: RedisIndex, server: Server, tmp_path: Path
) -> None:
    """The change log holds all that a generation was loaded with, and nothing of the one before."""
    await import_(index, tmp_path, add(1, "M1", 1), add(2, "M2", 2))
    await reload(index, tmp_path, add(1, "M1", 1), heartbeat(2), allow_drop=True)
    with server.client() as there:
        for name in there.scan_iter("xx:2:[km]:*", count=1000):
            there.delete(name)
        there.delete("xx:runs")
    assert (await import_(index, tmp_path)).replayed == 1
    assert await active(index, 1, 2) == [True, False]
