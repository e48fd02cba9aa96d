"""What every exact index must do: each test runs on memory, on one server and on a three-master cluster."""

import asyncio
import time
from collections.abc import Callable

import pytest

from checker.core.measure import Addition, Change, State, Window
from checker.errors import IndexRefused
from checker.index.base import Applied, ExactIndex, Head, IndexKey, Position
from tests.index.builders import CASE, COURT, KEY, WINDOW, a_removal, an_addition, an_exemption, digest

APPLIED, UNCHANGED, SUPERSEDED = Applied.APPLIED, Applied.UNCHANGED, Applied.SUPERSEDED
MakeIndex = Callable[[], ExactIndex]


async def active(index: ExactIndex, *keys: int) -> list[list[tuple[str, int]]]:
    """(measure, sequence) of the records that still bar, per key."""
    found = await index.get_many([digest(key) for key in keys], 5)
    assert None not in found
    return [sorted((m.measure_id, m.sequence) for m in measures or () if m.state == State.ACTIVE) for measures in found]


async def windows(index: ExactIndex, key: int, measure_id: str) -> set[Window]:
    """The exemptions that stand under one key for one measure."""
    found = (await index.get_many([digest(key)], 5))[0]
    assert found is not None
    return {window for m in found if m.measure_id == measure_id for window in m.exemptions}


async def scanned(index: ExactIndex) -> set[bytes]:
    """All keys a filter would be built from."""
    return {key async for batch in index.scan() for key in batch}


async def journal(index: ExactIndex, position: Position) -> tuple[set[bytes], Position]:
    """All keys journaled after a position."""
    keys: set[bytes] = set()
    while True:
        page = await index.journal_read(position, 0)
        assert not page.reset
        if page.position == position:
            return keys, position
        keys.update(page.keys)
        position = page.position


async def test_nobody_listed(index: ExactIndex) -> None:
    """A key nobody listed answers (), which is not None."""
    assert await index.get_many([digest(1), digest(2)], 5) == [(), ()]
    assert await index.get_many([], 5) == []


async def test_addition_is_found_as_sent(index: ExactIndex) -> None:
    """Every field of a record comes back under each of its keys; other keys stay empty."""
    addition = an_addition(7, "M1", 1, 2)
    assert await index.apply([addition]) == [APPLIED]

    one, two, three = await index.get_many([digest(1), digest(2), digest(3)], 5)

    assert one is not None
    assert one == two
    assert three == ()
    (measure,) = one
    assert (measure.measure_id, measure.sequence, measure.state) == ("M1", 7, State.ACTIVE)
    assert measure.names == addition.records[digest(1)][-24:]
    assert measure.exemptions == ()


async def test_answers_come_in_request_order(index: ExactIndex) -> None:
    """Many keys asked at once, some twice: each answer belongs to its key."""
    await index.apply([an_addition(n, f"M{n}", n) for n in range(1, 200)])
    asked = [*range(300), *range(300)]

    assert await active(index, *asked) == [[(f"M{n}", n)] if 0 < n < 200 else [] for n in asked]


async def test_same_change_again_is_unchanged(index: ExactIndex) -> None:
    """Re-sending anything is harmless and reported as unchanged."""
    changes: list[Change] = [
        an_addition(1, "M1", 1, 2),
        an_exemption(2, "M1"),
        a_removal(3, "M2"),
        an_addition(4, "M3"),
    ]
    assert await index.apply(changes) == [APPLIED] * 4
    before = await index.get_many([digest(1), digest(2)], 5)

    assert await index.apply(changes) == [UNCHANGED] * 4
    assert await index.get_many([digest(1), digest(2)], 5) == before


@pytest.mark.parametrize("state", [State.SHIELDED, State.REVOKED])
async def test_removal_lifts_every_key(index: ExactIndex, state: State) -> None:
    """After a removal no key bars; the tombstones keep the state and no name."""
    await index.apply([an_addition(1, "M1", 1, 2, 3)])
    assert await index.apply([a_removal(2, "M1", state)]) == [APPLIED]

    for found in await index.get_many([digest(1), digest(2), digest(3)], 5):
        assert found is not None
        (measure,) = found
        assert (measure.state, measure.sequence, measure.names) == (state, 2, b"")
    assert await scanned(index) == set()


async def test_removal_before_its_addition(index: ExactIndex) -> None:
    """An addition older than a known removal is refused, alone, in one batch, and sent again."""
    assert await index.apply([a_removal(5, "M1")]) == [APPLIED]
    assert await index.apply([an_addition(3, "M1", 1)]) == [SUPERSEDED]
    assert await index.apply([a_removal(15, "M2"), an_addition(13, "M2", 1)]) == [APPLIED, SUPERSEDED]
    assert await index.apply([an_addition(13, "M2", 1), a_removal(15, "M2")]) == [SUPERSEDED, UNCHANGED]
    assert await active(index, 1) == [[]]


async def test_old_file_after_a_removal(index: ExactIndex) -> None:
    """Replaying the file that added a measure does not revive it."""
    old: list[Change] = [an_addition(1, "M1", 1, 2), an_addition(2, "M2", 2)]
    await index.apply(old)
    await index.apply([a_removal(3, "M1")])

    assert await index.apply(old) == [SUPERSEDED, UNCHANGED]
    assert await active(index, 1, 2) == [[], [("M2", 2)]]


async def test_addition_and_removal_in_one_batch(index: ExactIndex) -> None:
    """In one batch the newer sequence wins whatever the order."""
    await index.apply([an_addition(1, "M1", 1), a_removal(2, "M1"), a_removal(4, "M2"), an_addition(3, "M2", 1)])
    await index.apply([a_removal(5, "M3"), an_addition(6, "M3", 1)])
    assert await active(index, 1) == [[("M3", 6)]]


async def test_newer_addition_after_a_removal(index: ExactIndex) -> None:
    """A court may list again: a newer addition stands, an old removal sent again does not lift it."""
    await index.apply([an_addition(1, "M1", 1)])
    await index.apply([a_removal(2, "M1")])
    assert await index.apply([an_addition(3, "M1", 1)]) == [APPLIED]
    assert await index.apply([a_removal(2, "M1")]) == [SUPERSEDED]
    assert await active(index, 1) == [[("M1", 3)]]
    assert await scanned(index) == {digest(1)}


async def test_addition_that_names_fewer_keys(index: ExactIndex) -> None:
    """A re-bound measure no longer bars the keys it dropped; a later removal reaches all it ever named."""
    await index.apply([an_addition(1, "M1", 1, 2)])
    await index.apply([an_addition(2, "M1", 2, 3)])
    assert await active(index, 1, 2, 3) == [[], [("M1", 2)], [("M1", 2)]]

    assert await index.apply([an_addition(1, "M1", 1, 2)]) == [SUPERSEDED]
    assert await active(index, 1) == [[]]

    await index.apply([an_addition(3, "M1", 1)])
    assert await active(index, 1, 2, 3) == [[("M1", 3)], [], []]

    await index.apply([a_removal(4, "M1")])
    found = await index.get_many([digest(1), digest(2), digest(3)], 5)
    assert [[m.sequence for m in measures or ()] for measures in found] == [[4], [4], [4]]


async def test_newer_addition_first(index: ExactIndex) -> None:
    """An older statement of the same measure that comes late changes nothing."""
    await index.apply([an_addition(5, "M1", 1)])
    assert await index.apply([an_addition(4, "M1", 2)]) == [SUPERSEDED]
    assert await active(index, 1, 2) == [[("M1", 5)], []]


async def test_same_sequence_with_other_keys(index: ExactIndex) -> None:
    """One sequence says one thing: a second version of it binds nobody whom a removal would not reach."""
    await index.apply([an_addition(1, "M1", 1, 2)])
    assert await index.apply([an_addition(1, "M1", 2, 3)]) == [UNCHANGED]
    assert await active(index, 1, 2, 3) == [[("M1", 1)], [("M1", 1)], []]


async def test_sequences_compare_as_numbers(index: ExactIndex) -> None:
    """Sequences whose bytes or digits would sort differently as text still compare as numbers."""
    sequences = [9, 10, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**53 - 2, 2**53 - 1]
    for sequence in sequences:
        assert await index.apply([an_addition(sequence, "M1", 1)]) == [APPLIED]
        assert await active(index, 1) == [[("M1", sequence)]]
    for sequence in sequences[:-1]:
        assert await index.apply([an_addition(sequence, "M1", 1), a_removal(sequence, "M1")]) == [SUPERSEDED] * 2


async def test_exemption_on_every_key(index: ExactIndex) -> None:
    """An exemption without keys stands under each key of its measure, and of no other measure."""
    await index.apply([an_addition(1, "M1", 1, 2), an_addition(2, "M2", 1)])
    assert await index.apply([an_exemption(3, "M1")]) == [APPLIED]

    assert await windows(index, 1, "M1") == {WINDOW}
    assert await windows(index, 2, "M1") == {WINDOW}
    assert await windows(index, 1, "M2") == set()


async def test_exemption_for_one_person(index: ExactIndex) -> None:
    """An exemption that names keys stands under those only, and not under keys the measure does not bind."""
    await index.apply([an_addition(1, "M1", 1, 2)])
    await index.apply([an_exemption(2, "M1", 2, 3)])

    assert await windows(index, 1, "M1") == set()
    assert await windows(index, 2, "M1") == {WINDOW}
    assert await index.get_many([digest(3)], 5) == [()]


async def test_exemption_before_its_addition(index: ExactIndex) -> None:
    """An exemption of a measure nobody knows yet is remembered and stands as soon as the addition arrives."""
    assert await index.apply([an_exemption(5, "M1", 2), an_exemption(6, "M2")]) == [APPLIED, APPLIED]
    await index.apply([an_addition(3, "M1", 1, 2), an_addition(4, "M2", 3)])

    assert await windows(index, 1, "M1") == set()
    assert await windows(index, 2, "M1") == {WINDOW}
    assert await windows(index, 3, "M2") == {WINDOW}


async def test_exemptions_do_not_displace_one_another(index: ExactIndex) -> None:
    """Several exemptions of one measure stand together."""
    other = Window(1, 5_000, 6_000)
    await index.apply([an_addition(1, "M1", 1)])
    await index.apply([an_exemption(3, "M1", window=other), an_exemption(2, "M1")])
    assert await windows(index, 1, "M1") == {WINDOW, other}


async def test_exemption_survives_a_new_addition(index: ExactIndex) -> None:
    """When a measure is stated anew, also after a removal, its exemptions stand on the new keys too."""
    await index.apply([an_addition(1, "M1", 1), an_exemption(2, "M1")])
    await index.apply([an_addition(3, "M1", 2)])
    assert await windows(index, 2, "M1") == {WINDOW}

    await index.apply([a_removal(4, "M1")])
    await index.apply([an_addition(5, "M1", 3)])
    assert await windows(index, 3, "M1") == {WINDOW}


async def test_many_measures_under_one_key(index: ExactIndex) -> None:
    """One document under two hundred measures: all are read, one removal lifts one."""
    await index.apply([an_addition(n, f"M{n}", 1) for n in range(1, 201)])
    await index.apply([a_removal(500, "M17")])
    (bars,) = await active(index, 1)
    assert sorted(bars) == sorted((f"M{n}", n) for n in range(1, 201) if n != 17)


async def test_measure_names_a_thousand_keys(index: ExactIndex) -> None:
    """A measure with very many documents is added, re-bound and removed as a whole."""
    everyone = tuple(range(1000))
    await index.apply([an_addition(1, "M1", *everyone)])
    assert await scanned(index) == {digest(n) for n in everyone}
    await index.apply([an_addition(2, "M1", *everyone[:10])])
    assert await scanned(index) == {digest(n) for n in everyone[:10]}
    await index.apply([a_removal(3, "M1")])
    assert await scanned(index) == set()


@pytest.mark.parametrize("sequence", [0, -1, 2**53])
async def test_sequence_outside_its_range(index: ExactIndex, sequence: int) -> None:
    """A sequence the store could not compare exactly is refused, and nothing of its batch is written."""
    with pytest.raises(IndexRefused, match="sequence"):
        await index.apply([an_addition(1, "M1", 1), a_removal(sequence, "M2")])
    assert await active(index, 1) == [[]]


async def test_measure_id_with_nul(index: ExactIndex) -> None:
    """A measure id that could be taken for an exemption's field is refused."""
    with pytest.raises(IndexRefused, match="sequence 2: measure_id"):
        await index.apply([Addition(2, "M\0", {}, "", "")])


async def test_scan_finds_every_active_key(index: ExactIndex) -> None:
    """A scan yields the keys with an active record, not those with tombstones or exemptions alone."""
    await index.apply([an_addition(n, f"M{n}", n, n + 5000) for n in range(1, 3001)])
    await index.apply([a_removal(10_000 + n, f"M{n}") for n in range(1, 101)])
    await index.apply([an_addition(20_000, "X", 1), an_exemption(20_001, "M5")])

    left = list(range(101, 3001))
    assert await scanned(index) == {digest(n) for n in left} | {digest(n + 5000) for n in left} | {digest(1)}


async def test_journal_carries_additions(index: ExactIndex) -> None:
    """What is added after a position is read from it; removals and superseded additions are not journaled."""
    await index.apply([an_addition(1, "M1", 1)])
    start = await index.journal_end()
    assert await journal(index, start) == (set(), start)

    await index.apply([an_addition(n, f"M{n}", n, n + 1000) for n in range(2, 700)])
    keys, end = await journal(index, start)
    assert keys == {digest(n) for n in range(2, 700)} | {digest(n + 1000) for n in range(2, 700)}
    assert end == await index.journal_end()

    await index.apply([a_removal(900, "M2"), an_addition(1, "M2", 2), an_exemption(901, "M3")])
    assert await index.journal_end() == end


async def test_journal_repeats_a_replay(index: ExactIndex) -> None:
    """An addition sent again is journaled again: a crash before the journal is cured by the replay."""
    await index.apply([an_addition(1, "M1", 1)])
    position = await index.journal_end()
    assert await index.apply([an_addition(1, "M1", 1)]) == [UNCHANGED]
    assert (await journal(index, position))[0] == {digest(1)}


async def test_journal_waits(index: ExactIndex) -> None:
    """A follower at the end is woken by the next addition, long before its waiting time is over."""
    position = await index.journal_end()
    follower = asyncio.create_task(index.journal_read(position, 20))
    await asyncio.sleep(0.05)
    assert not follower.done()

    await index.apply([an_addition(1, "M1", 1)])
    async with asyncio.timeout(5):
        page = await follower
    assert (page.keys, page.reset) == ([digest(1)], False)


async def test_journal_wait_ends(index: ExactIndex) -> None:
    """Without additions the wait ends in time, at the same position."""
    position = await index.journal_end()
    started = time.monotonic()
    async with asyncio.timeout(10):
        page = await index.journal_read(position, 0.1)
    assert page == ([], position, False)
    assert time.monotonic() - started > 0.05


async def test_journal_resets(index: ExactIndex) -> None:
    """An unknown journal and a position beyond the end are answered with a reset to the present end."""
    await index.apply([an_addition(1, "M1", 1)])
    end = await index.journal_end()
    for lost in (Position(b"elsewher", end.entry), Position(b"elsewher", 0), end._replace(entry=end.entry + 1)):
        assert await index.journal_read(lost, 0) == ([], end, True)
        assert await index.journal_read(lost, 5) == ([], end, True)


async def test_head_starts_at_nothing(index: ExactIndex) -> None:
    """An empty index knows of no feed."""
    assert await index.head() == Head(0, 0, 0)


async def test_lease_moves_the_head(index: ExactIndex, make_index: MakeIndex) -> None:
    """The importer's acknowledgement is seen by every other client, and never goes back."""
    other = make_index()
    await other.open(KEY, create=False)
    async with index.lease("first") as lease:
        await lease.advance(Head(10, 1_000, 0))
        assert await other.head() == Head(10, 1_000, 0)
        await lease.advance(Head(9, 900, 77))
        assert await other.head() == Head(10, 1_000, 77)
    assert await other.head() == Head(10, 1_000, 77)


async def test_a_gap_is_kept_until_its_importer_ends_it(index: ExactIndex, make_index: MakeIndex) -> None:
    """The next importer knows what was seen behind a gap, though the feed is known further: the gap is still open."""
    heads = [Head(2, 200, 77, 8), Head(4, 400, 77, 8), Head(6, 600, 77, 9), Head(9, 900, 0)]
    for head in heads:
        next_one = make_index()
        await next_one.open(KEY, create=False)
        async with next_one.lease("an importer") as lease:
            await lease.advance(head)
        assert await index.head() == head
        async with next_one.lease("an importer") as lease:  # an older head: what it says of the gap counts
            await lease.advance(head._replace(feed_sequence=1, feed_time_ms=1))
        assert await index.head() == head
    async with index.lease("the last one") as lease:
        pass
    with pytest.raises(IndexRefused):
        await lease.advance(Head(9, 900, 88, 20))
    assert await index.head() == heads[-1]


async def test_second_importer_is_refused_by_name(index: ExactIndex, make_index: MakeIndex) -> None:
    """While one importer holds the lease a second is refused with the holder's name; afterwards it is let in."""
    other = make_index()
    await other.open(KEY, create=False)
    async with index.lease("first importer"):
        with pytest.raises(IndexRefused, match=r"importer first importer .*has held the lease since 20.*; wait"):
            async with other.lease("second"):
                pytest.fail("two importers at work")
    async with other.lease("second") as lease:
        await lease.advance(Head(1, 1, 0))


async def test_released_lease_is_over(index: ExactIndex) -> None:
    """A lease kept beyond its block acknowledges nothing."""
    async with index.lease("first") as lease:
        pass
    with pytest.raises(IndexRefused, match="lost"):
        await lease.advance(Head(5, 5, 0))
    assert await index.head() == Head(0, 0, 0)


@pytest.mark.parametrize("wrong", [IndexKey("k2", KEY.check_value), IndexKey("k1", b"other")])
async def test_other_digest_key_is_refused(index: ExactIndex, make_index: MakeIndex, wrong: IndexKey) -> None:
    """An index opened with another digest key, or another secret under the same id, says so and stays shut."""
    other = make_index()
    for create in (False, True):
        with pytest.raises(IndexRefused, match="use the key file the index was written with"):
            await other.open(wrong, create=create)


async def test_open_without_an_index(make_index: MakeIndex) -> None:
    """Serving does not create an index by accident; importing does, once."""
    with pytest.raises(IndexRefused, match="import"):
        await make_index().open(KEY, create=False)
    await make_index().open(KEY, create=True)
    again = make_index()
    await again.open(KEY, create=True)
    assert await again.get_many([digest(1)], 5) == [()]


async def test_measure_is_known_to_the_operator(index: ExactIndex) -> None:
    """Court, case and both sequences of a measure can be shown; of an unknown one nothing."""
    assert await index.measure("M1") is None
    await index.apply([an_addition(3, "M1", 1, 2)])
    assert await index.measure("M1") == ("M1", COURT, CASE, 3, 0, "", 2)
    await index.apply([a_removal(5, "M1")])
    assert await index.measure("M1") == ("M1", COURT, CASE, 3, 5, "paid", 2)
    await index.apply([an_addition(6, "M1", 2)])
    assert await index.measure("M1") == ("M1", COURT, CASE, 6, 0, "", 1)
    await index.apply([a_removal(5, "M2")])
    assert await index.measure("M2") == ("M2", "", "", 0, 5, "paid", 0)


async def test_stats_count(index: ExactIndex) -> None:
    """Keys, generation and journal are counted."""
    await index.apply([an_addition(n, f"M{n}", n, n + 100) for n in range(1, 51)])
    stats = await index.stats()
    assert (stats.keys, stats.generation) == (100, 1)
    assert stats.journal == await index.journal_end()
    assert stats.journal_entries >= 1
    assert stats.memory_bytes > 0


async def test_applies_at_the_same_time(index: ExactIndex) -> None:
    """Batches applied concurrently, also about the same measures, end as if sent one after the other."""
    batches: list[list[Change]] = [
        [an_addition(1, "M1", 1, 2), an_addition(2, "M2", 2)],
        [a_removal(3, "M1"), an_exemption(4, "M2")],
        [an_addition(5, "M1", 3), an_addition(6, "M2", 4)],
    ]
    await asyncio.gather(*(index.apply(batch) for batch in batches))
    assert await active(index, 1, 2, 3, 4) == [[], [], [("M1", 5)], [("M2", 6)]]
    assert await windows(index, 4, "M2") == {WINDOW}


async def test_fresh_index_is_reconciled(index: ExactIndex) -> None:
    """A new empty index trusts its primaries at once, and marking needs the lease."""
    assert await index.primaries_unreconciled() == []
    with pytest.raises(IndexRefused):
        await index.mark_reconciled()
    async with index.lease("importer"):
        await index.mark_reconciled()
