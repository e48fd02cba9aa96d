"""Claims about the filter file: it holds every key in force when the scan began, and only our own file is believed."""

import os
from pathlib import Path

import pytest

from checker.core import container
from checker.core.key import Algorithm, DigestKey
from checker.index.base import Position
from checker.serving import filter_file
from tests.builders import KEY, NOW, rulebook
from tests.index.builders import digest
from tests.serving.stand import Shelf, a_shelf


async def a_file(shelf: Shelf, path: Path) -> container.Header:
    """The file a keeper would write now."""
    header, built = await filter_file.build(shelf, KEY, rulebook(), 1e-3, lambda: NOW)
    filter_file.write(path, header, built)
    return header


async def test_a_file_holds_all_keys_in_force_and_says_what_it_is(tmp_path: Path) -> None:
    """What is read back knows every key in force, no lifted one, and names key, rulebook, feed and journal position."""
    shelf = await a_shelf()
    for number in range(1, 301):
        await shelf.add(number, number, number + 1)  # neighbours share a key
    await shelf.lift(301, "M300")
    path = filter_file.path_in(tmp_path)
    await a_file(shelf, path)

    header, loaded = filter_file.load(path, KEY)

    assert all(digest(number) in loaded for number in range(1, 301))
    assert header.parameters.count == 300  # each key counted once, 301 lifted
    assert (header.key_id, header.key_check) == (KEY.key_id, KEY.check_value)
    assert (header.feed_sequence, header.feed_time_ms, header.built_ms) == (301, NOW, NOW)
    assert (header.rulebook_version, header.rulebook_sha256) == (rulebook().version, rulebook().sha256)
    assert Position(header.journal_id, header.journal_position) == await shelf.journal_end()
    assert path.stat().st_mode & 0o777 == 0o600


async def test_an_empty_index_has_a_file(tmp_path: Path) -> None:
    """Serving starts before the first import: the file of an empty index knows nobody and can be read."""
    path = tmp_path / "filter"
    await a_file(await a_shelf(), path)

    header, loaded = filter_file.load(path, KEY)

    assert header.parameters.count == 0
    assert digest(1) not in loaded


async def test_additions_during_the_scan_are_in_the_file_or_in_the_journal_after_it(tmp_path: Path) -> None:
    """The position is noted before the scan: a key added meanwhile is never lost between file and journal."""
    shelf = await a_shelf()
    await shelf.add(1, 1)

    class Growing(Shelf):
        async def scan(self):  # type: ignore[no-untyped-def] # as its base
            async for batch in super().scan():
                yield batch
            await self.add(2, 2)

    growing = Growing(shelf._store)
    await growing.open(*[shelf._store.key], create=False)  # type: ignore[arg-type]
    path = tmp_path / "filter"
    await a_file(growing, path)
    header, loaded = filter_file.load(path, KEY)

    page = await growing.journal_read(Position(header.journal_id, header.journal_position), 0)

    assert digest(2) in page.keys
    assert digest(2) not in loaded
    assert header.feed_sequence == 1


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "foreign", "longer"])
async def test_a_damaged_file_is_refused_with_its_fault(tmp_path: Path, damage: str) -> None:
    """Empty, cut, changed by one bit, longer or none of ours: refused before anything is believed of it."""
    shelf = await a_shelf()
    await shelf.add(1, 1)
    path = tmp_path / "filter"
    await a_file(shelf, path)
    raw = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "cut": raw[:-1],
            "flipped": raw[:200] + bytes([raw[200] ^ 1]) + raw[201:],
            "foreign": b"no filter at all" * 100,
            "longer": raw + b"\0",
        }[damage]
    )

    with pytest.raises(container.BadContainer):
        filter_file.load(path, KEY)


@pytest.mark.parametrize(
    "other",
    [
        DigestKey("test-2", Algorithm.BLAKE2B_128, bytes(range(32))),
        DigestKey("test-1", Algorithm.BLAKE2B_128, bytes(32)),
    ],
    ids=["id", "secret"],
)
async def test_a_file_under_another_key_is_refused(tmp_path: Path, other: DigestKey) -> None:
    """A filter of another digest key, though it bears the same id, would clear everybody: refused by name."""
    path = tmp_path / "filter"
    await a_file(await a_shelf(), path)

    with pytest.raises(container.BadContainer, match="another digest key"):
        filter_file.load(path, other)


async def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    """A reader never sees half a file, and what could not be written leaves no litter."""
    shelf = await a_shelf()
    path = tmp_path / "filter"
    await a_file(shelf, path)
    header, built = await filter_file.build(shelf, KEY, rulebook(), 1e-3, lambda: NOW)
    aside = tmp_path / "taken"
    aside.mkdir()
    (aside / "x").touch()

    with pytest.raises(OSError, match="directory"):
        filter_file.write(aside, header, built)

    assert sorted(os.listdir(tmp_path)) == ["filter", "taken"]
    filter_file.load(path, KEY)


async def test_a_stamp_tells_one_file_from_the_next(tmp_path: Path) -> None:
    """Another file in the same place has another stamp; none has (0, 0)."""
    shelf = await a_shelf()
    path = tmp_path / "filter"
    assert filter_file.stamp(path) == (0, 0)
    await a_file(shelf, path)
    first = filter_file.stamp(path)
    await a_file(shelf, path)

    assert len({(0, 0), first, filter_file.stamp(path)}) == 3
    assert filter_file.stamp(path / "below") == (0, 0)
