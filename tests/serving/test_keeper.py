"""Claims about the filter keeper: a worker that starts always finds a file it can use, and old files are replaced."""

import asyncio
import os
from pathlib import Path

import pytest

from checker.core import filter as filters
from checker.serving import filter_file, keeper
from tests.builders import KEY, NOW, rulebook
from tests.index.builders import digest
from tests.serving.stand import a_keeper, a_shelf, keeping
from tests.waiting import eventually


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "BLOCK_S", 0.01)


def holds(path: Path, number: int) -> bool:
    """Whether the file there may know this key."""
    return digest(number) in filter_file.load(path, KEY)[1]


async def test_ensure_makes_a_file_once(tmp_path: Path) -> None:
    """The first keeper builds; the next one, after a restart, goes on with the same file."""
    shelf, path = await a_shelf(), tmp_path / "filter"
    await shelf.add(1, 1)
    await a_keeper(shelf, path).ensure()
    first = filter_file.stamp(path)
    await shelf.add(2, 2)
    await a_keeper(shelf, path).ensure()

    assert filter_file.stamp(path) == first
    assert holds(path, 1)
    assert not holds(path, 2)


async def test_a_file_of_a_worse_error_rate_is_built_again(tmp_path: Path) -> None:
    """Who asks for fewer false positives gets them at the next start."""
    shelf, path = await a_shelf(), tmp_path / "filter"
    await a_keeper(shelf, path).ensure()
    first = filter_file.stamp(path)
    await keeper.Keeper(shelf, KEY, rulebook(), path, 1e-5).ensure()

    assert filter_file.stamp(path) != first
    assert filter_file.load(path, KEY)[1].error_rate == 1e-5


@pytest.mark.parametrize("fault", ["broken", "empty", "trimmed", "gone"])
async def test_ensure_replaces_a_file_of_no_use(tmp_path: Path, fault: str) -> None:
    """A file that is broken, or that the journal no longer reaches back to, is no file."""
    shelf, path = await a_shelf(journal_entries=2), tmp_path / "filter"
    await shelf.add(1, 1)
    await a_keeper(shelf, path).ensure()
    if fault == "trimmed":
        for number in range(2, 9):
            await shelf.add(number, number)
    elif fault == "gone":
        path.unlink()
    else:
        path.write_bytes(b"broken" if fault == "broken" else b"")
    await a_keeper(shelf, path).ensure()

    assert holds(path, 1)


async def test_ensure_waits_for_the_index(tmp_path: Path) -> None:
    """A store that is still starting is waited for, not failed on."""
    shelf, path = await a_shelf(), tmp_path / "filter"
    shelf.lost = True
    await a_keeper(await a_shelf(), path).ensure()  # another index's file lies there
    ensuring = asyncio.create_task(a_keeper(shelf, path).ensure())
    await asyncio.sleep(0.05)
    assert not ensuring.done()
    shelf.lost = False
    await asyncio.wait_for(ensuring, 10)


async def test_a_full_overlay_is_built_into_the_next_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Additions beyond a tenth of the capacity make another file, which holds them."""
    monkeypatch.setattr(filters, "OVERLAY_FLOOR", 50)
    shelf, path = await a_shelf(), tmp_path / "filter"
    async with keeping(a_keeper(shelf, path)):
        first = filter_file.stamp(path)
        await shelf.add(1, *range(100))  # an empty filter is sized for a thousand: up to a hundred wait
        await asyncio.sleep(0.05)
        assert filter_file.stamp(path) == first
        await shelf.add(2, 100)
        await eventually(lambda: filter_file.stamp(path) != first)

        assert all(holds(path, number) for number in range(101))


async def test_a_day_later_the_lifted_are_no_false_positives_any_more(tmp_path: Path) -> None:
    """The daily file is built from who is still listed."""
    shelf, path = await a_shelf(), tmp_path / "filter"
    await shelf.add(1, 1, measure_id="lifted")
    await shelf.add(2, 2)
    now = [NOW]
    async with keeping(a_keeper(shelf, path, clock_ms=lambda: now[0])):
        await shelf.lift(3, "lifted")
        first = filter_file.stamp(path)
        now[0] += keeper.DAY_MS
        await asyncio.sleep(0.05)
        assert filter_file.stamp(path) == first
        now[0] += 1
        await eventually(lambda: filter_file.stamp(path) != first)

        assert holds(path, 2)
        assert not holds(path, 1)


async def test_a_journal_that_lost_the_keeper_makes_another_file(tmp_path: Path) -> None:
    """A keeper that was too slow for the journal scans again instead of guessing."""
    shelf, path = await a_shelf(journal_entries=2), tmp_path / "filter"
    async with keeping(a_keeper(shelf, path)):
        first = filter_file.stamp(path)
        shelf.journal_goes.clear()
        for number in range(1, 9):
            await shelf.add(number, number)
        shelf.journal_goes.set()
        await eventually(lambda: filter_file.stamp(path) != first)

        assert all(holds(path, number) for number in range(1, 9))


async def test_a_file_the_journal_no_longer_reaches_is_replaced_before_a_worker_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A keeper that kept up still builds when the journal is trimmed behind its file: no new worker could use it."""
    monkeypatch.setattr(keeper, "REACH_S", 0.0)
    shelf, path = await a_shelf(journal_entries=2), tmp_path / "filter"
    async with keeping(a_keeper(shelf, path)) as kept:
        for number in range(1, 9):
            await shelf.add(number, number)
            await eventually(lambda: kept._position.entry == shelf._store.journal_end)  # it never falls behind
        await eventually(lambda: holds(path, 6))


@pytest.mark.parametrize("fault", ["gone", "broken"])
async def test_a_file_that_is_lost_while_serving_is_made_again(tmp_path: Path, fault: str) -> None:
    """A file removed or overwritten by accident is replaced: a worker that starts would wait for it for ever."""
    shelf, path = await a_shelf(), tmp_path / "filter"
    await shelf.add(1, 1)
    async with keeping(a_keeper(shelf, path)):
        path.unlink()
        if fault == "broken":
            path.write_bytes(b"broken")

        def whole() -> bool:
            try:
                return holds(path, 1)
            except (OSError, ValueError):
                return False

        await eventually(whole)


async def test_another_keepers_file_is_taken_as_ones_own(tmp_path: Path) -> None:
    """Two nodes on one state directory do not build in turns."""
    shelf, path = await a_shelf(), tmp_path / "filter"
    async with keeping(a_keeper(shelf, path)):
        path.unlink()
        other = a_keeper(shelf, path)
        await other._build()
        second = filter_file.stamp(path)
        await asyncio.sleep(0.1)

        assert filter_file.stamp(path) == second


async def test_a_disk_that_takes_no_file_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A failed write is said and tried again; the keeper does not die of it."""
    shelf, folder = await a_shelf(), tmp_path / "state"
    await shelf.add(1, 1)
    ensuring = asyncio.create_task(a_keeper(shelf, folder / "filter").ensure())
    await eventually(lambda: "filter file cannot be written" in caplog.text)
    folder.mkdir()
    await asyncio.wait_for(ensuring, 10)

    assert os.listdir(folder) == ["filter"]


async def test_an_index_out_of_reach_ends_nothing(tmp_path: Path) -> None:
    """The keeper outlives its index's absence and builds when it is due."""
    shelf, path = await a_shelf(), tmp_path / "filter"
    now = [NOW]
    async with keeping(a_keeper(shelf, path, clock_ms=lambda: now[0])):
        first = filter_file.stamp(path)
        shelf.lost = True
        now[0] += keeper.DAY_MS + 1
        await asyncio.sleep(0.05)
        assert filter_file.stamp(path) == first
        shelf.lost = False
        await eventually(lambda: filter_file.stamp(path) != first)
