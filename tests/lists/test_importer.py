"""Claims about `checker.lists.importer`: sequence, gaps, removals first, rejects, and crashes at any moment."""

import json
import os
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from checker import faults
from checker.core.decision import Outcome, Reason
from checker.core.feed import HELP, MAX_LINE_BYTES, Cause
from checker.core.freshness import AsOf, Limits
from checker.core.lookup import EVERYTHING, LookupKey, NeedExact, Query, View, begin, finish
from checker.core.measure import CANARY, Change, Removal
from checker.core.purchase import Flight
from checker.errors import IndexRefused, UsageError
from checker.index.base import Applied, ExactIndex, Head
from checker.index.memory import MemoryIndex, MemoryStore
from checker.index.urls import open_index
from checker.lists.change_log import ChangeLog
from checker.lists.importer import CHANGE_LOG, ImportOptions, Summary, import_feeds
from checker.lists.manifest import FeedRefused
from checker.lists.rejects import beside as beside_rejects
from tests.builders import rulebook
from tests.forked import Forked
from tests.index.servers import Server
from tests.lists.builders import (
    COURT,
    COURT_KEY,
    INDEX_KEY,
    KEY,
    NOW_MS,
    add,
    an_options,
    describe,
    exempt,
    heartbeat,
    is_active,
    measures,
    remove,
    resident,
    write,
)

MARCH_2 = 1_772_380_800_000  # 2026-03-02T00:00:00+08:00


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A private server for the whole module."""
    server = Server()
    yield server
    server.close()


@pytest.fixture
async def index() -> AsyncIterator[MemoryIndex]:
    """An open, empty index."""
    index = MemoryIndex()
    await index.open(INDEX_KEY, create=True)
    yield index
    await index.close()


async def run(index: ExactIndex, folder: Path, *feeds: Path, **options: Any) -> Summary:
    """Import at NOW_MS, two keys a batch."""
    return await import_feeds(index, KEY, feeds, an_options(folder, **{"batch_keys": 2, **options}))


def rejects(feed: Path) -> list[dict[str, Any]]:
    """What stands in a feed's rejects file."""
    path = beside_rejects(feed)
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


async def test_a_good_feed_is_in_force_when_the_import_ends(index: MemoryIndex, tmp_path: Path) -> None:
    """Every kind of line does what it says, and the head is at the last."""
    lines = [add(1, "M1", 1, 2), add(2, "M2", 3), exempt(3, "M1"), remove(4, "M2"), heartbeat(5)]
    summary = await run(index, tmp_path, write(tmp_path / "f", lines))

    assert [await is_active(index, serial) for serial in (1, 2, 3)] == [True, True, False]
    assert len((await measures(index, 1))[0].exemptions) == 1
    assert await index.head() == Head(5, MARCH_2 + 12 * 3_600_000, 0)
    assert (summary.lines, summary.keys, summary.exit_code, summary.feed_sequence) == (5, 3, 0, 5)
    assert {op: dict(found) for op, found in summary.counts.items()} == {
        "add": {"applied": 1, "superseded": 1},
        "exempt": {"applied": 1},
        "remove": {"applied": 1},
        "heartbeat": {"applied": 1},
    }
    assert not beside_rejects(tmp_path / "f").exists()
    info = await index.measure("M1")
    assert info is not None
    assert (info.court, info.case_number, info.keys) == ("合成市第一人民法院", "（2026）京0105执1号", 2)


async def test_importing_again_changes_nothing(index: MemoryIndex, tmp_path: Path) -> None:
    """A replay counts unchanged and leaves store and head as they were; the change log does not grow."""
    feed = write(tmp_path / "f", [add(1, "M1", 1), remove(2, "M9"), exempt(3, "M1"), heartbeat(4)])
    await run(index, tmp_path, feed)
    store, head = repr(index._store.records), await index.head()
    size = (tmp_path / "state" / CHANGE_LOG).stat().st_size

    summary = await run(index, tmp_path, feed)

    assert {op: dict(found) for op, found in summary.counts.items()} == {
        "add": {"unchanged": 1},
        "remove": {"unchanged": 1},
        "exempt": {"unchanged": 1},
        "heartbeat": {"unchanged": 1},
    }
    assert (repr(index._store.records), await index.head()) == (store, head)
    assert (tmp_path / "state" / CHANGE_LOG).stat().st_size == size


async def test_an_old_file_never_revives_a_removed_measure(index: MemoryIndex, tmp_path: Path) -> None:
    """Replaying January after February's removal leaves the person free."""
    january = write(tmp_path / "january", [add(1, "M1", 1), heartbeat(2)])
    february = write(tmp_path / "february", [remove(3, "M1")])
    await run(index, tmp_path, january)
    assert await is_active(index, 1)
    await run(index, tmp_path, february)
    summary = await run(index, tmp_path, january)
    assert not await is_active(index, 1)
    assert summary.counts["add"] == {"superseded": 1}
    assert (await index.head()).feed_sequence == 3


async def test_files_are_taken_in_the_order_of_their_sequences(index: MemoryIndex, tmp_path: Path) -> None:
    """Whatever the order of the arguments, there is no gap between files that follow one another."""
    first = write(tmp_path / "z", [add(1, "M1", 1), add(2, "M2", 2)])
    second = write(tmp_path / "a", [add(3, "M3", 3)])
    summary = await run(index, tmp_path, second, first)
    assert (summary.exit_code, (await index.head()).feed_sequence) == (0, 3)


class _Watched(MemoryIndex):
    """Compares each acknowledgement with what has been applied by then."""

    def __init__(self, additions: set[int]) -> None:
        super().__init__()
        self._pending = additions
        self.heads: list[int] = []

    async def apply(self, changes: Sequence[Change]) -> list[Applied]:
        applied = await super().apply(changes)
        self._pending -= {change.sequence for change in changes}
        return applied

    @asynccontextmanager
    async def lease(self, holder: str) -> AsyncIterator[Any]:
        async with super().lease(holder) as lease:

            class Watching:
                async def advance(_, head: Head) -> None:  # noqa: N805 -- `self` is the index
                    assert not [sequence for sequence in self._pending if sequence <= head.feed_sequence]
                    self.heads.append(head.feed_sequence)
                    await lease.advance(head)

            yield Watching()


@pytest.mark.parametrize("seed", range(8))
async def test_lines_in_any_order_are_one_sequence(seed: int, tmp_path: Path) -> None:
    """The sequence numbers count, not the places in the file, and the head never passes what is not yet applied."""
    index = _Watched(set(range(1, 40)))
    await index.open(INDEX_KEY, create=True)
    lines = [add(number, f"M{number}", number) for number in range(1, 40)]
    if seed:
        random.Random(seed).shuffle(lines)
    summary = await run(index, tmp_path, write(tmp_path / "f", lines))
    assert (summary.exit_code, (await index.head()).feed_sequence) == (0, 39)
    assert all([await is_active(index, number) for number in range(1, 40)])
    assert index.heads == sorted(index.heads)
    assert len(index.heads) > 10 or seed


async def test_a_rebinding_addition_frees_what_it_no_longer_names(index: MemoryIndex, tmp_path: Path) -> None:
    """An `add` for a known measure replaces it whole."""
    await run(index, tmp_path, write(tmp_path / "f", [add(1, "M1", 1, 2), add(2, "M1", 2, 3)]))
    assert [await is_active(index, serial) for serial in (1, 2, 3)] == [False, True, True]


async def test_beyond_a_gap_additions_freeze_and_the_rest_applies(index: MemoryIndex, tmp_path: Path) -> None:
    """Additions wait for the missing line; removals and exemptions do not; hits learn of the gap; filling it thaws."""
    await run(index, tmp_path, write(tmp_path / "f0", [add(1, "M1", 1), add(2, "M2", 2)]))
    later = write(tmp_path / "f2", [add(4, "M4", 4), remove(5, "M1"), exempt(6, "M2")])

    summary = await run(index, tmp_path, later)
    assert (summary.exit_code, summary.frozen, summary.first_missing) == (1, 1, 3)
    assert "sequence 3 is missing" in summary.text()
    assert [await is_active(index, serial) for serial in (1, 2, 4)] == [False, True, False]
    assert (await measures(index, 2))[0].exemptions
    assert await index.head() == Head(2, MARCH_2 + 2_000, NOW_MS, 6)

    # Seen again an hour later, the gap is as old as it was.
    await run(index, tmp_path, later, clock=lambda: NOW_MS + 3_600_000)
    assert (await index.head()).gap_since_ms == NOW_MS

    # A replay of what was known before fills nothing.
    await run(index, tmp_path, tmp_path / "f0")
    assert (await index.head()).gap_since_ms == NOW_MS

    missing = write(tmp_path / "f1", [add(3, "M3", 3)])
    summary = await run(index, tmp_path, missing, later)
    assert summary.exit_code == 0
    assert [await is_active(index, serial) for serial in (1, 2, 3, 4)] == [False, True, True, True]
    assert ((await index.head()).feed_sequence, (await index.head()).gap_since_ms) == (6, 0)


async def test_a_gap_filled_in_part_stays_open(index: MemoryIndex, tmp_path: Path) -> None:
    """It ends when all that was ever seen is known: not with part of what is missing, nor while frozen lines wait."""
    await run(index, tmp_path, write(tmp_path / "1-2", [add(1, "M1", 1), add(2, "M2", 2)]))
    await run(index, tmp_path, write(tmp_path / "7-8", [add(7, "M7", 7), heartbeat(8)]))

    parts: tuple[tuple[list[dict[str, Any]], int], ...]
    parts = (([add(3, "M3", 3), heartbeat(4)], 4), ([remove(5, "M1"), heartbeat(6)], 6), ([], 6))
    for place, (part, known) in enumerate(parts):
        later = NOW_MS + (place + 1) * 60_000
        summary = await run(index, tmp_path, write(tmp_path / f"{place}", part), clock=lambda now=later: now)
        assert (summary.exit_code, summary.first_missing, summary.seen_up_to, summary.frozen) == (1, known + 1, 8, 0)
        assert f"sequence {known + 1} is missing, up to 8 were seen" in summary.text()
        head = await index.head()
        assert (head.feed_sequence, head.gap_since_ms, head.seen_up_to) == (known, NOW_MS, 8)
    assert [await is_active(index, serial) for serial in (1, 2, 3, 7)] == [False, True, True, False]

    summary = await run(index, tmp_path, tmp_path / "7-8")
    assert (summary.exit_code, summary.first_missing) == (0, 0)
    assert await index.head() == Head(8, MARCH_2 + 12 * 3_600_000, 0)
    assert await is_active(index, 7)


async def test_the_courts_word_ends_a_gap_behind_which_there_is_nothing(index: MemoryIndex, tmp_path: Path) -> None:
    """A line of a number that was a mistake keeps a gap open, until it is said that the feed ends before it. What was
    rightly seen is still waited for, and nothing is forgotten that is known."""
    await run(index, tmp_path, write(tmp_path / "1-2", [add(1, "M1", 1), heartbeat(2)]))
    await run(index, tmp_path, write(tmp_path / "wrong", [heartbeat(900_000)]))
    await run(index, tmp_path, write(tmp_path / "4", [add(4, "M4", 4)]))
    third = write(tmp_path / "3", [add(3, "M3", 3)])
    assert (await run(index, tmp_path, third)).first_missing == 4

    with pytest.raises(FeedRefused, match="cannot end at sequence 2: the index knows it up to 3"):
        await run(index, tmp_path, third, ends_at=2)
    summary = await run(index, tmp_path, third, ends_at=4)
    assert (summary.exit_code, summary.first_missing, summary.seen_up_to) == (1, 4, 4)
    summary = await run(index, tmp_path, tmp_path / "4")
    assert (summary.exit_code, summary.first_missing) == (0, 0)
    assert (await index.head())[2:] == (0, 0)
    assert await is_active(index, 4)

    await run(index, tmp_path, tmp_path / "wrong")
    assert (await index.head()).gap_since_ms
    assert (await run(index, tmp_path, tmp_path / "4", ends_at=4)).exit_code == 0
    assert (await index.head())[2:] == (0, 0)


async def test_an_import_killed_as_it_closed_a_gap_leaves_none(
    index: MemoryIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last lines acknowledged, the gap not yet: running it again closes the gap."""
    late = write(tmp_path / "3", [add(3, "M3", 3)])
    await run(index, tmp_path, write(tmp_path / "1", [add(1, "M1", 1)]))
    await run(index, tmp_path, late)
    missing = write(tmp_path / "2", [add(2, "M2", 2)])

    def dies(name: str) -> None:
        if name == "importer.batch-acknowledged":
            raise RuntimeError(name)

    monkeypatch.setattr(faults, "point", dies)
    with pytest.raises(RuntimeError):
        await run(index, tmp_path, missing, late)
    assert ((await index.head()).feed_sequence, (await index.head()).gap_since_ms) == (3, NOW_MS)
    monkeypatch.undo()
    assert (await run(index, tmp_path, missing, late)).exit_code == 0
    assert await index.head() == Head(3, MARCH_2 + 3_000, 0)


async def test_an_empty_index_begins_where_the_feed_does(index: MemoryIndex, tmp_path: Path) -> None:
    """The first feed need not be sequence 1, and the summary says that nothing is known before it."""
    summary = await run(index, tmp_path, write(tmp_path / "f", [add(500, "M1", 1), add(501, "M2", 2)]))
    assert (summary.exit_code, summary.began_at, (await index.head()).feed_sequence) == (0, 500, 501)
    assert "begins at sequence 500" in summary.text()


class _Recording(MemoryIndex):
    """Remembers the order in which changes came."""

    def __init__(self) -> None:
        super().__init__()
        self.applied: list[Change] = []

    async def apply(self, changes: Sequence[Change]) -> list[Applied]:
        self.applied += changes
        return await super().apply(changes)


async def test_a_removal_overtakes_every_addition(tmp_path: Path) -> None:
    """A removal at the very end is applied before the first addition: its person is never barred in between."""
    index = _Recording()
    await index.open(INDEX_KEY, create=True)
    lines = [*(add(number, f"M{number}", number) for number in range(1, 30)), remove(30, "M7")]
    await run(index, tmp_path, write(tmp_path / "f", lines))
    assert isinstance(index.applied[0], Removal)
    assert not await is_active(index, 7)


async def test_rejects_name_the_place_and_nothing_else(index: MemoryIndex, tmp_path: Path) -> None:
    """File, line, byte offset, sequence, path, cause and help, exactly; good lines around them are applied."""
    masked = add(2, "M2", 2)
    masked["subjects"][0]["documents"][0]["number"] = "4405241880****0014"
    lines = [json.dumps(each, ensure_ascii=False).encode() for each in (add(1, "M1", 1), masked, add(3, "M3", 3))]
    broken = lines[2][:50]
    feed = write(tmp_path / "f", [lines[0], b"", lines[1], lines[2], broken])

    summary = await run(index, tmp_path, feed)

    second = len(lines[0]) + 2
    last = second + len(lines[1]) + len(lines[2]) + 2
    assert rejects(feed) == [
        {
            "file": str(feed),
            "line": 3,
            "offset": second,
            "sequence": 2,
            "path": "subjects[0].documents[0].number",
            "cause": "MASKED_NUMBER",
            "help": HELP[Cause.MASKED_NUMBER],
        },
        {
            "file": str(feed),
            "line": 5,
            "offset": last,
            "sequence": None,
            "path": "",
            "cause": "BAD_JSON",
            "help": HELP[Cause.BAD_JSON],
        },
    ]
    assert feed.read_bytes()[second:].startswith(lines[1])
    assert summary.exit_code == 1
    assert summary.rejected == {"MASKED_NUMBER": 1, "BAD_JSON": 1}
    assert [await is_active(index, serial) for serial in (1, 2, 3)] == [True, False, True]
    assert (await index.head()).feed_sequence == 3


async def test_rejects_go_where_the_operator_says(index: MemoryIndex, tmp_path: Path) -> None:
    """One file for all feeds; it describes the last import only; a feed is never overwritten."""
    first = write(tmp_path / "a", [add(1, "M1", 1), b"{"])
    second = write(tmp_path / "b", [add(2, "M2", 2), b"["])
    place = tmp_path / "rejects"
    summary = await run(index, tmp_path, first, second, rejects=place)
    found = [json.loads(line) for line in place.read_text("utf-8").splitlines()]
    assert [(each["file"], each["line"]) for each in found] == [(str(first), 2), (str(second), 2)]
    assert summary.rejects_files == [place]
    await run(index, tmp_path, write(tmp_path / "c", [add(3, "M3", 3)]), rejects=place)
    assert not place.exists()
    with pytest.raises(UsageError, match="would overwrite the feed"):
        await run(index, tmp_path, first, second, rejects=second)
    with pytest.raises(UsageError, match="give another --rejects"):
        await run(index, tmp_path, first, rejects=tmp_path / "no folder" / "rejects")
    assert first.read_bytes().endswith(b"{\n")


async def test_unreadable_lines_take_the_sequences_that_are_missing(index: MemoryIndex, tmp_path: Path) -> None:
    """Two broken lines between 1 and 4 are 2 and 3: rejected, no gap. One broken line there would leave a gap."""
    feed = write(tmp_path / "f", [add(1, "M1", 1), b"{", b"\xff", add(4, "M4", 4)])
    summary = await run(index, tmp_path, feed)
    assert (summary.frozen, (await index.head()).feed_sequence) == (0, 4)
    assert summary.rejected == {"BAD_JSON": 2}

    feed = write(tmp_path / "g", [add(5, "M5", 5), b"{", add(8, "M8", 8)])
    summary = await run(index, tmp_path, feed)
    assert (summary.frozen, summary.first_missing) == (1, 6)


async def test_a_manifest_tells_the_sequences_at_either_end(index: MemoryIndex, tmp_path: Path) -> None:
    """A broken first and last line have the sequences which the manifest names."""
    feed = write(tmp_path / "f", [b"{", add(2, "M2", 2), b"}"])
    describe(feed, 1, 3)
    await run(index, tmp_path, feed, courts={COURT: COURT_KEY.public_key()})
    assert (await index.head()).feed_sequence == 3


async def test_a_line_too_long_is_rejected_and_the_next_one_read(index: MemoryIndex, tmp_path: Path) -> None:
    """Not even three megabytes without an end stop the import, and offsets stay right."""
    long = b'{"x":"' + b"a" * (3 * MAX_LINE_BYTES) + b'"}'
    feed = write(tmp_path / "f", [add(1, "M1", 1), long, add(3, "M3", 3), b"{"])
    summary = await run(index, tmp_path, feed)
    assert summary.rejected == {"TOO_LONG": 1, "BAD_JSON": 1}
    assert await is_active(index, 3)
    assert [each["line"] for each in rejects(feed)] == [2, 4]
    assert rejects(feed)[1]["offset"] == feed.stat().st_size - 2


async def test_many_lines_cross_the_reading_boundary(index: MemoryIndex, tmp_path: Path) -> None:
    """Lines that lie across the pieces in which a file is read are whole; the last may lack its end."""
    padding = "x" * 5_000
    lines = [heartbeat(number) | {"note": padding} for number in range(1, 700)]
    feed = write(tmp_path / "f", lines)
    feed.write_bytes(feed.read_bytes().rstrip(b"\n"))
    seen: list[tuple[int, int]] = []
    summary = await import_feeds(
        index, KEY, [feed], an_options(tmp_path), lambda done, total: seen.append((done, total))
    )
    assert (summary.lines, summary.exit_code, summary.feed_sequence) == (699, 0, 699)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1] == 2 * feed.stat().st_size


async def test_a_sequence_stands_for_one_line_only(index: MemoryIndex, tmp_path: Path) -> None:
    """Twice the same is nothing new; other content under a used sequence is rejected, unless it corrects a bad line."""
    bad = add(3, "M3", 3, case_number="")
    lines = [add(1, "M1", 1), add(1, "M1", 1), add(2, "M2", 2), add(2, "M7", 7), bad, add(3, "M3", 3)]
    feed = write(tmp_path / "f", lines)
    summary = await run(index, tmp_path, feed)
    assert summary.counts["add"] == {"applied": 3, "unchanged": 1}
    assert [(each["line"], each["path"], each["cause"]) for each in rejects(feed)] == [
        (4, "seq", "DUPLICATE_SEQUENCE"),
        (5, "case_number", "MISSING_CASE"),
    ]
    assert [await is_active(index, serial) for serial in (1, 2, 3, 7)] == [True, True, True, False]


async def test_a_feed_from_the_future_is_not_fresher_than_now(index: MemoryIndex, tmp_path: Path) -> None:
    """A court's fast clock must not make its data look fresh for longer; a line without time is of the import."""
    await run(index, tmp_path, write(tmp_path / "f", [heartbeat(1) | {"time": "2030-01-01T00:00:00Z"}]))
    assert await index.head() == Head(1, NOW_MS, 0)
    await run(index, tmp_path, write(tmp_path / "g", [{"seq": 2, "op": "heartbeat"}]), clock=lambda: NOW_MS + 5)
    assert await index.head() == Head(2, NOW_MS + 5, 0)


async def test_an_order_without_a_beginning_is_in_force_from_its_line(index: MemoryIndex, tmp_path: Path) -> None:
    """No effective_from: from the line's time, and without that from the import."""
    lines = [add(1, "M1", 1, effective_from=None), add(2, "M2", 2, effective_from=None, time=None)]
    await run(index, tmp_path, write(tmp_path / "f", lines))
    assert (await measures(index, 1))[0].effective_from_ms == MARCH_2 + 1_000
    assert (await measures(index, 2))[0].effective_from_ms == NOW_MS


@pytest.mark.parametrize("fault", ["hash", "court", "range"])
async def test_a_bad_manifest_applies_nothing_of_any_file(index: MemoryIndex, tmp_path: Path, fault: str) -> None:
    """One feed that cannot be trusted stops the whole import before a line of it, or of the others, is applied."""
    good = write(tmp_path / "good", [add(1, "M1", 1)])
    bad = write(tmp_path / "bad", [add(2, "M2", 2), remove(3, "M1")])
    describe(bad, *((2, 3) if fault != "range" else (7, 9)))
    if fault == "hash":
        bad.write_bytes(bad.read_bytes() + b"\n")
    with pytest.raises(FeedRefused):
        await run(index, tmp_path, good, bad, courts={} if fault == "court" else {COURT: COURT_KEY.public_key()})
    assert await index.head() == Head(0, 0, 0)
    assert not index._store.measures


async def test_require_manifest_is_for_every_file(index: MemoryIndex, tmp_path: Path) -> None:
    """One signed file does not vouch for its neighbour."""
    signed = write(tmp_path / "a", [add(1, "M1", 1)])
    describe(signed, 1, 1)
    options = {"require_manifest": True, "courts": {COURT: COURT_KEY.public_key()}}
    assert (await run(index, tmp_path, signed, **options)).exit_code == 0
    with pytest.raises(FeedRefused, match="has no manifest"):
        await run(index, tmp_path, signed, write(tmp_path / "b", [add(2, "M2", 2)]), **options)


async def test_two_importers_are_refused_by_name(index: MemoryIndex, tmp_path: Path) -> None:
    """The second one learns who is at work, and changes nothing."""
    feed = write(tmp_path / "f", [add(1, "M1", 1)])
    async with index.lease("the night shift"):
        with pytest.raises(IndexRefused, match="the night shift"):
            await run(index, tmp_path, feed)
    assert not await is_active(index, 1)


async def test_what_cannot_be_read_is_said_in_a_line(index: MemoryIndex, tmp_path: Path) -> None:
    """No feed, no such feed."""
    with pytest.raises(UsageError, match="at least one feed"):
        await run(index, tmp_path)
    with pytest.raises(UsageError, match="nowhere: No such file"):
        await run(index, tmp_path, tmp_path / "nowhere")


async def test_the_summary_says_it_in_numbers_and_in_words(index: MemoryIndex, tmp_path: Path) -> None:
    """JSON with plain values, a text that names rejects and remedy."""
    feed = write(tmp_path / "f", [add(1, "M1", 1), add(2, "M2", 2, kind="warning"), add(4, "M4", 4)])
    summary = await run(index, tmp_path, feed)
    found = json.loads(json.dumps(summary.as_json()))
    assert found["rejected"] == {"UNKNOWN_KIND": 1}
    assert (found["frozen"], found["first_missing"], found["feed_sequence"], found["keys"]) == (1, 3, 2, 1)
    assert found["manifests"] == [{"feed": str(feed), "court": None, "signed": False}]
    for words in ("1 UNKNOWN_KIND", "f.rejects.jsonl", "sequence 3 is missing", "no manifest"):
        assert words in summary.text()


async def test_nothing_of_a_feed_is_left_in_the_open(index: MemoryIndex, tmp_path: Path) -> None:
    """No number and no name in store, change log, rejects or summary; the search finds a planted one."""
    lines = [add(1, "M1", 1), add(2, "M2", 2, case_number=resident(3)), remove(3, "M9", reason=f"张三 {resident(4)}")]
    lines[0]["subjects"][0]["name_latin"] = "ZHANG/SAN"
    feed = write(tmp_path / "f", lines)
    summary = await run(index, tmp_path, feed)
    written = (tmp_path / "state" / CHANGE_LOG).read_bytes() + beside_rejects(feed).read_bytes()
    everything = written + repr((index._store.measures, index._store.records, summary, summary.text())).encode()
    for secret in (*map(resident, range(1, 5)), "张三", "ZHANG"):
        assert secret.encode() not in everything
    assert "合成市第一人民法院".encode() in everything  # the search does look where texts are kept


# ------------------------------------------------------------------------------------------------------- crashes

STEADY = [add(1, "M1", 1, 2), add(2, "M2", 3)]
FEED: list[dict[str, Any] | bytes] = [
    *(add(number, f"M{number}", number * 10, number * 10 + 1) for number in range(3, 7)),
    remove(7, "M2"),
    {"seq": 8, "op": "add", "kind": "order"},
    exempt(9, "M1"),
    add(10, "M1", 2, 4),
    b"{",
    add(12, "M2", 3),
    heartbeat(13),
]
POINTS = [
    "importer.verified:1",
    "importer.overtaking-applied:1",
    "importer.overtaking-logged:1",
    "importer.rejects-written:1",
    *(f"importer.batch-{step}:{count}" for step in ("applied", "logged", "acknowledged") for count in (1, 2, 6)),
    "importer.head-advanced:1",
    "importer.finished:1",
]


@pytest.fixture(scope="module")
def forked() -> Iterator[Forked]:
    """Runs imports in processes of their own."""
    with Forked("tests.lists.import_process") as forked:
        yield forked


def stored(server: Server) -> dict[bytes, Any]:
    """Every key and measure of the store, without leases and the journal (a replay journals again)."""
    found: dict[bytes, Any] = {}
    with server.client() as client:
        for name in client.scan_iter():
            if b":k:" in name or b":m:" in name:
                found[name] = client.hgetall(name)
    return found


async def state_of(server: Server, log: Path) -> tuple[Any, Head, Any]:
    """What must be equal after a crash and a second run: store, head, and what a replay of the change log gives."""
    index = open_index(server.url)
    await index.open(INDEX_KEY, create=False)
    head = await index.head()
    await index.close()
    store = MemoryStore()
    copy = MemoryIndex(store)
    await copy.open(INDEX_KEY, create=True)
    with ChangeLog(log / CHANGE_LOG, INDEX_KEY) as changes:
        await changes.replay(copy)
    return stored(server), head, (store.records, store.measures)


async def test_a_kill_at_any_point_is_cured_by_running_again(server: Server, forked: Forked, tmp_path: Path) -> None:
    """Killed between any two writes and run again: store, head, change log and rejects equal those of a clean run."""
    steady, feed = write(tmp_path / "steady", STEADY), write(tmp_path / "feed", FEED)

    async def attempt(name: str, point: str) -> tuple[Any, list[dict[str, Any]]]:
        server.command("FLUSHALL")
        state = tmp_path / name
        assert (await _import(server, state, steady)).exit_code == 0
        if point:
            assert forked.run(server.url, str(state), str(feed), fault=point) == -9, f"{point} was never passed"
            _expire_lease(server)
        assert (await _import(server, state, feed)).exit_code == 1
        return await state_of(server, state), rejects(feed)

    clean = await attempt("clean", "")
    assert clean[0][1].feed_sequence == 13
    assert len(clean[1]) == 2
    for number, point in enumerate(POINTS):
        found = await attempt(f"crash{number}", point)
        for part, expected in zip((*found[0], found[1]), (*clean[0], clean[1]), strict=True):
            assert part == expected, point


async def _import(server: Server, state: Path, feed: Path) -> Summary:
    """An import in this process, by a client of its own."""
    index = open_index(server.url)
    await index.open(INDEX_KEY, create=True)
    try:
        return await run(index, state.parent, feed, state_dir=state)
    finally:
        await index.close()


def _expire_lease(server: Server) -> None:
    """Let the killed importer's lease run out, without the waiting."""
    server.command("HSET", "xx:importer", "until", "0")


async def test_a_store_that_lost_writes_is_cured_from_the_change_log(forked: Forked, tmp_path: Path) -> None:
    """A restarted primary is doubtful; the next import replays the log into it, and its hits are answered again."""
    server = Server()
    try:
        state = tmp_path / "state"
        feed = write(tmp_path / "a", [add(1, "M1", 1), add(2, "M2", 2)])
        assert forked.run(server.url, str(state), str(feed)) == 0
        with server.client() as client:
            lost = [name for name in client.scan_iter() if b":k:" in name]
            client.delete(*lost)  # what a fail-over may lose
        server.kill()
        server.start()
        index = open_index(server.url, 5.0)
        await index.open(INDEX_KEY, create=False)
        if not await index.primaries_unreconciled():
            pytest.fail("a restarted primary was trusted at once")
        summary = await run(index, tmp_path, write(tmp_path / "b", [heartbeat(3)]))
        assert summary.replayed == 2
        assert await index.primaries_unreconciled() == []
        assert await is_active(index, 1)
        assert await is_active(index, 2)
        await index.close()
    finally:
        server.close()


async def test_without_its_change_log_a_doubtful_store_is_not_trusted(forked: Forked, tmp_path: Path) -> None:
    """An importer with another state directory cannot vouch for what the store may have lost."""
    server = Server()
    try:
        feed = write(tmp_path / "a", [add(1, "M1", 1)])
        assert forked.run(server.url, str(tmp_path / "state"), str(feed)) == 0
        server.kill()
        server.start()
        index = open_index(server.url, 5.0)
        await index.open(INDEX_KEY, create=False)
        for other in (tmp_path / "other", None):
            with pytest.raises(IndexRefused, match="--state-dir used so far"):
                await run(index, tmp_path, write(tmp_path / "b", [heartbeat(2)]), state_dir=other)
        await index.close()
    finally:
        server.close()


# ------------------------------------------------------------------------------------------------------------ canary


async def canaries(index: MemoryIndex) -> int:
    """How often the journal has told the canary."""
    start = await index.journal_end()
    return (await index.journal_read(start._replace(entry=0), 0)).keys.count(KEY.canary)


async def test_each_import_ends_with_the_canary(index: MemoryIndex, tmp_path: Path) -> None:
    """It is listed once, as of the head, and told again by every import, also one that only beats."""
    first = write(tmp_path / "1", [add(1, "M1", 1), remove(2, "M9")])
    second = write(tmp_path / "2", [heartbeat(3)])
    for number, (feed, head) in enumerate([(first, 2), (first, 2), (second, 3)], start=1):
        summary = await run(index, tmp_path, feed, canary=True)

        assert await canaries(index) == number
        (found,) = await index.get_many([KEY.canary], 5.0)
        assert found is not None
        assert [(measure.measure_id, measure.sequence) for measure in found] == [(CANARY, head)]
        assert summary.exit_code == 0
        assert "canary" not in f"{summary.counts}{summary.text()}"  # it is nobody's line
    assert await index.lifted() == 0


async def test_the_canary_is_told_before_the_last_line_is_acknowledged(
    index: MemoryIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever follows the journal and hears that the feed is known up to that line has had the canary; a long import
    acknowledges before, but after additions. By this order edges notice additions that are lost."""
    seen: dict[str, tuple[bool, int]] = {}

    def look(name: str) -> None:
        store = index._store
        seen[name] = store.journal.get(store.journal_end) == (KEY.canary,), store.head.feed_sequence

    monkeypatch.setattr("checker.faults.point", look)
    lines = [*(add(number, f"M{number}", number) for number in range(1, 7)), remove(7, "M1"), heartbeat(8)]
    await run(index, tmp_path, write(tmp_path / "f", lines), canary=True)

    assert seen["importer.batch-acknowledged"] == (False, 6)
    assert seen["importer.canary-applied"] == (True, 6)
    assert seen["importer.head-advanced"] == (True, 8)


async def test_the_canary_is_not_sent_before_anything_is_acknowledged(index: MemoryIndex, tmp_path: Path) -> None:
    """A feed of nothing usable leaves no sign of an import; behind a gap the canary stays at the head."""
    await run(index, tmp_path, write(tmp_path / "0", []), canary=True)
    assert await canaries(index) == 0
    await run(index, tmp_path, write(tmp_path / "1", [add(1, "M1", 1)]), canary=True)
    await run(index, tmp_path, write(tmp_path / "3", [add(3, "M3", 3)]), canary=True)
    info = await index.measure(CANARY)
    assert info is not None
    assert (info.added_sequence, await canaries(index)) == (1, 2)


async def test_without_being_asked_no_canary_is_sent(index: MemoryIndex, tmp_path: Path) -> None:
    """The library imports what it is given and nothing else."""
    await run(index, tmp_path, write(tmp_path / "f", [add(1, "M1", 1)]))
    assert await canaries(index) == 0


@pytest.mark.parametrize("line", [add(1, CANARY, 1), remove(1, CANARY), exempt(1, CANARY)])
async def test_no_feed_may_name_the_canary(index: MemoryIndex, tmp_path: Path, line: dict[str, Any]) -> None:
    """A line about the canary's measure is rejected by name, and the canary goes on."""
    feed = write(tmp_path / "f", [line, heartbeat(2)])
    summary = await run(index, tmp_path, feed, canary=True)
    assert dict(summary.rejected) == {Cause.RESERVED_MEASURE_ID: 1}
    assert [reject["path"] for reject in rejects(feed)] == ["measure_id"]
    assert await canaries(index) == 1


@pytest.mark.parametrize(("sent", "said"), [(True, Reason.OUT_OF_SCOPE), (False, Reason.NOT_LISTED)])
async def test_the_canary_bars_nobody(index: MemoryIndex, tmp_path: Path, sent: bool, said: Reason) -> None:
    """A question about a flight tells a canary that is there from one that is lost, and neither is a refusal."""
    await run(index, tmp_path, write(tmp_path / "f", [heartbeat(1)]), canary=sent)
    view = View(rulebook(), KEY, EVERYTHING, AsOf(1, NOW_MS, 0, 0), Limits())
    need = begin(Query(Flight(), key=LookupKey(KEY.key_id, KEY.canary, name_required=False)), view, NOW_MS)
    assert isinstance(need, NeedExact)
    (found,) = await index.get_many([KEY.canary], 5.0)
    decision = finish(need, {KEY.canary: found}, AsOf(1, NOW_MS, 0, 0), NOW_MS)
    assert (decision.outcome, decision.reason) == (Outcome.ALLOWED, said)


def test_options_have_working_defaults() -> None:
    """An import needs no options: clock and holder are this machine's."""
    options = ImportOptions()
    assert options.clock() > NOW_MS - 10**12
    assert str(os.getpid()) in options.holder
