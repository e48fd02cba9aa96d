"""Claims about a worker's view: additions are seen without a rebuild, no failure unlearns anything, and no miss claims
to know more of the feed than the filter does."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from checker.core.lookup import EVERYTHING
from checker.index.memory import MemoryStore
from checker.serving import filter_file, follower
from tests.builders import KEY, NOW, rulebook
from tests.index.builders import digest
from tests.serving.stand import INDEX_KEY, Shelf, a_hub, a_keeper, a_live, a_shelf, following
from tests.waiting import eventually


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "POLL_S", 0.01)


async def a_filter(shelf: Shelf, path: Path) -> None:
    """The file a keeper leaves there."""
    header, built = await filter_file.build(shelf, KEY, rulebook(), 1e-3, lambda: NOW)
    filter_file.write(path, header, built)


async def test_what_was_added_before_the_start_is_known_at_the_start(tmp_path: Path) -> None:
    """File and journal after it together: nothing acknowledged is missing when `start` returns."""
    shelf, path = await a_shelf(), tmp_path / "filter"
    await shelf.add(1, 1)
    await a_filter(shelf, path)
    await shelf.add(2, 2, 3)

    async with following(shelf, path) as (following_, live):
        assert live.ready
        assert all(digest(number) in live.view.filter for number in (1, 2, 3))
        assert digest(4) not in live.view.filter
        assert live.size == (1, 2)
        assert live.view.as_of.feed_sequence == 2
        assert following_.swaps == 1


async def test_start_waits_for_a_usable_file(tmp_path: Path) -> None:
    """Without a file, or with a broken one, a worker is not ready; it is once the keeper's is there."""
    shelf, path = await a_shelf(), tmp_path / "filter"
    path.write_bytes(b"broken")
    live = a_live()
    late = follower.Follower(shelf, live, a_hub(shelf, live), KEY, path)
    starting = asyncio.create_task(late.start())
    await eventually(lambda: late._stamp != (0, 0))
    assert not starting.done()
    assert live.view.filter is EVERYTHING

    await a_filter(shelf, path)
    await asyncio.wait_for(starting, 10)

    assert live.ready
    await late.stop()


async def test_an_addition_is_seen_without_a_rebuild(tmp_path: Path) -> None:
    """A key acknowledged while serving is a hit, and only then does the view say that its line is known."""
    shelf, path = await a_shelf(), tmp_path / "filter"
    await a_filter(shelf, path)
    async with following(shelf, path) as (following_, live):
        await shelf.add(1, 1)
        await eventually(lambda: live.view.as_of.feed_sequence == 1)

        assert digest(1) in live.view.filter
        assert following_.swaps == 1


async def test_no_miss_claims_lines_whose_keys_are_still_on_their_way(tmp_path: Path) -> None:
    """While the journal lags behind, the head is not believed: `min_feed_sequence` would be answered wrongly."""
    shelf, path = await a_shelf(), tmp_path / "filter"
    await a_filter(shelf, path)
    async with following(shelf, path) as (_, live):
        shelf.journal_goes.clear()
        await shelf.add(1, 1)
        seen = shelf.heads_read
        await eventually(lambda: shelf.heads_read > seen + 3)
        assert digest(1) not in live.view.filter
        assert live.view.as_of.feed_sequence == 0

        shelf.journal_goes.set()
        await eventually(lambda: live.view.as_of.feed_sequence == 1)
        assert digest(1) in live.view.filter


async def test_the_head_is_believed_under_a_steady_stream_of_additions(tmp_path: Path) -> None:
    """A feed that never pauses does not keep the view from getting fresher, nor lets it run ahead of the filter."""
    shelf, path = await a_shelf(), tmp_path / "filter"
    await a_filter(shelf, path)
    async with following(shelf, path) as (_, live):
        believed: set[int] = set()
        sequence = 0
        while len(believed) < 5:
            sequence += 1
            assert sequence < 200_000
            await shelf.add(sequence, sequence)
            known = live.view.as_of.feed_sequence
            believed.add(known)
            assert all(digest(number) in live.view.filter for number in range(max(1, known - 20), known + 1))
            await asyncio.sleep(0)


async def test_an_index_out_of_reach_unlearns_nothing(tmp_path: Path) -> None:
    """Filter, freshness and overlay stay as they are while the index is away; then it is followed again."""
    shelf, path = await a_shelf(), tmp_path / "filter"
    await shelf.add(1, 1)
    await a_filter(shelf, path)
    async with following(shelf, path) as (following_, live):
        view = live.view
        contact = following_.last_contact
        shelf.lost = True
        put_again(path)
        await shelf.add(2, 2)
        seen = shelf.heads_read
        await asyncio.sleep(0.1)
        assert live.view == view
        assert shelf.heads_read == seen
        shelf.lost = False
        await eventually(lambda: live.view.as_of.feed_sequence == 2)
        assert digest(2) in live.view.filter
        assert following_.last_contact > contact


def put_again(path: Path) -> None:
    """The same file, put there again: a reload is due that needs the journal."""
    raw = path.read_bytes()
    aside = path.with_name("aside")
    aside.write_bytes(raw)
    os.rename(aside, path)


async def test_an_error_nobody_thought_of_does_not_end_the_following(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that stopped following would let the newly listed pass for good: it goes on after any error."""
    shelf, path = await a_shelf(), tmp_path / "filter"
    await a_filter(shelf, path)
    async with following(shelf, path) as (_, live):
        shelf.bug = RuntimeError("a bug")
        await eventually(lambda: "journal: unexpected error" in caplog.text and "head: unexpected" in caplog.text)
        shelf.bug = None
        await shelf.add(1, 1)
        await eventually(lambda: live.view.as_of.feed_sequence == 1)

        assert digest(1) in live.view.filter


@pytest.mark.parametrize("fault", ["corrupt", "truncated", "empty", "foreign key", "gone", "directory", "unreadable"])
async def test_a_file_of_no_use_is_refused_and_the_old_one_stays(tmp_path: Path, fault: str) -> None:
    """Whatever takes the place of the filter file, the one in use stays and goes on being kept current."""
    shelf, path = await a_shelf(), tmp_path / "filter"
    await shelf.add(1, 1)
    await a_filter(shelf, path)
    async with following(shelf, path) as (following_, live):
        used = live.view.filter
        raw = path.read_bytes()
        path.unlink()
        if fault == "directory":
            path.mkdir()
        elif fault == "unreadable":
            os.symlink(path, path)  # a loop: ELOOP
        elif fault == "foreign key":
            header, built = await filter_file.build(shelf, KEY, rulebook(), 1e-3, lambda: NOW)
            filter_file.write(path, replace(header, key_id="another"), built)
        elif fault != "gone":
            path.write_bytes({"corrupt": raw[:-4] + b"oops", "truncated": raw[:100], "empty": b""}[fault])
        await shelf.add(2, 2)
        await eventually(lambda: live.view.as_of.feed_sequence == 2)

        assert live.view.filter is used
        assert digest(1) in live.view.filter
        assert digest(2) in live.view.filter
        assert following_.swaps == 1


async def test_a_swap_keeps_what_was_added_while_the_file_was_built(tmp_path: Path) -> None:
    """Another file is caught up from the journal before it is used, and drops what was lifted before it was built."""
    shelf, path = await a_shelf(), tmp_path / "filter"
    await shelf.add(1, 1, measure_id="lifted")
    await a_filter(shelf, path)
    async with following(shelf, path) as (following_, live):
        await shelf.lift(2, "lifted")
        header, built = await filter_file.build(shelf, KEY, rulebook(), 1e-3, lambda: NOW)
        await shelf.add(3, 3)
        await eventually(lambda: digest(3) in live.view.filter)
        assert digest(1) in live.view.filter  # a filter never forgets, the next one never knew
        filter_file.write(path, header, built)
        await eventually(lambda: following_.swaps == 2)

        assert digest(3) in live.view.filter
        assert digest(1) not in live.view.filter
        assert live.size == (0, 1)


async def test_a_journal_that_lost_our_position_ends_the_filters_authority(tmp_path: Path) -> None:
    """After a reset every key is asked of the index, and the next file ends that."""
    shelf, path = await a_shelf(journal_entries=3), tmp_path / "filter"
    await shelf.add(1, 1)
    await a_filter(shelf, path)
    async with following(shelf, path) as (following_, live):
        shelf.journal_goes.clear()
        for number in range(2, 12):
            await shelf.add(number, number)
        shelf.journal_goes.set()
        await eventually(lambda: live.view.filter is EVERYTHING)
        assert not live.ready
        await eventually(lambda: live.view.as_of.feed_sequence == 11)  # the index itself knows that far
        await shelf.add(12, 12)
        await a_filter(shelf, path)
        await eventually(lambda: live.ready)

        assert all(digest(number) in live.view.filter for number in range(1, 13))
        assert digest(13) not in live.view.filter
        assert following_.swaps == 2


async def test_a_file_of_another_journal_is_not_used(tmp_path: Path) -> None:
    """A file another index wrote, under the same key, cannot be caught up: the one in use stays."""
    shelf, path = await a_shelf(), tmp_path / "filter"
    await shelf.add(1, 1)
    await a_filter(shelf, path)
    other = Shelf(MemoryStore())
    await other.open(INDEX_KEY, create=True)
    async with following(shelf, path) as (following_, live):
        used = live.view.filter
        await a_filter(other, path)
        await eventually(lambda: following_._stamp == filter_file.stamp(path))

        assert live.view.filter is used
        assert following_.swaps == 1


async def test_keeper_and_follower_meet_on_one_file(tmp_path: Path) -> None:
    """What a keeper builds from nothing is what a follower uses."""
    shelf, path = await a_shelf(), tmp_path / "filter"
    await shelf.add(1, 1)
    await a_keeper(shelf, path).ensure()
    async with following(shelf, path) as (_, live):
        assert digest(1) in live.view.filter
        assert digest(2) not in live.view.filter
