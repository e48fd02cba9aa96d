"""Claims about settling: one read for a batch, UNKNOWN for what was not read in time, fresh where fresh was asked."""

import asyncio
import math
from collections.abc import Sequence

import pytest

from checker.core.decision import Advisory, AnsweredBy, Outcome, Reason
from checker.core.document import DocumentType
from checker.core.freshness import AsOf
from checker.core.lookup import EVERYTHING, NeedExact, Query, begin
from checker.core.measure import Addition, Measure, encode_record
from checker.core.purchase import Flight
from checker.index.base import KEY_TIMEOUT_S, Head
from checker.rpc.live_filter import LiveFilter
from checker.serving.settle import RESERVE_S, IndexSettler
from tests.builders import DEBTOR, KEY, MINOR, NOW, a_measure, a_view
from tests.serving.stand import INDEX_KEY, Shelf, a_shelf


class Watched(Shelf):
    """Remembers what it was asked, and can be slow or answer only some keys."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[list[bytes], float]] = []
        self.unread: set[bytes] = set()
        self.slow_head = asyncio.Event()
        self.slow_head.set()

    async def get_many(self, keys: Sequence[bytes], timeout_s: float) -> list[tuple[Measure, ...] | None]:
        self.asked.append((list(keys), timeout_s))
        found = await super().get_many(keys, timeout_s)
        return [None if key in self.unread else answer for key, answer in zip(keys, found, strict=True)]

    async def head(self) -> Head:
        await self.slow_head.wait()
        return await super().head()


async def an_index() -> Watched:
    """An index that lists the debtor."""
    index = Watched()
    await index.open(INDEX_KEY, create=True)
    record = encode_record(a_measure())
    await index.apply([Addition(1, "M1", {key_of(DEBTOR): record}, "", "")])
    await index.acknowledge(100)
    return index


def key_of(number: str) -> bytes:
    from checker.core.document import Document

    return KEY.document(Document(DocumentType.RESIDENT_ID, number, ""))


def a_need(live: LiveFilter, number: str = DEBTOR, *, min_feed_sequence: int = 0) -> NeedExact:
    """A flight for this person, as `begin` leaves it."""
    query = Query(Flight(), DocumentType.RESIDENT_ID, number, min_feed_sequence=min_feed_sequence)
    step = begin(query, live.view, NOW)
    assert isinstance(step, NeedExact)
    return step


def a_settler(index: Shelf, *, as_of: AsOf | None = None) -> tuple[IndexSettler, LiveFilter]:
    """A settler at the tests' own time."""
    live = LiveFilter(a_view(as_of=as_of or AsOf(100, NOW, 0, 0)))
    return IndexSettler(index, live, 0.02, clock_ms=lambda: NOW), live


async def test_a_batch_is_one_read_of_each_key_once() -> None:
    """However many items ask about however few people, the index is read once and every answer is in its place."""
    index = await an_index()
    settler, live = a_settler(index)
    needs = [a_need(live, number) for number in (DEBTOR, MINOR, DEBTOR, MINOR, MINOR)]

    settled = await settler(needs, math.inf)

    assert [decision.outcome for decision in settled.decisions] == [
        Outcome.BARRED,
        Outcome.ALLOWED,
        Outcome.BARRED,
        Outcome.ALLOWED,
        Outcome.ALLOWED,
    ]
    assert [keys for keys, _ in index.asked] == [[key_of(DEBTOR), key_of(MINOR)]]
    assert (settler.read, settler.listed, settler.unread) == (2, 1, 0)


async def test_what_could_not_be_read_is_unknown_by_itself() -> None:
    """A key the index does not answer is UNKNOWN, and the others are answered as ever."""
    index = await an_index()
    index.unread = {key_of(MINOR)}
    settler, live = a_settler(index)

    settled = await settler([a_need(live, MINOR), a_need(live, DEBTOR)], math.inf)

    assert [(decision.outcome, decision.reason) for decision in settled.decisions] == [
        (Outcome.UNKNOWN, Reason.INDEX_UNREACHABLE),
        (Outcome.BARRED, Reason.MEASURE_IN_FORCE),
    ]
    assert (settler.read, settler.listed, settler.unread) == (2, 1, 1)


async def test_an_index_that_was_never_opened_bars_nobody() -> None:
    """Nothing can be read: UNKNOWN, no error."""
    settler, live = a_settler(Watched())

    (decision,) = (await settler([a_need(live)], math.inf)).decisions

    assert (decision.outcome, decision.reason) == (Outcome.UNKNOWN, Reason.INDEX_UNREACHABLE)


@pytest.mark.parametrize("left", [-1.0, 0.0, RESERVE_S / 2])
async def test_a_deadline_that_is_over_asks_nothing(left: float) -> None:
    """Too late to read: UNKNOWN at once, counted as unread, and the index is not troubled."""
    index = await an_index()
    settler, live = a_settler(index)

    settled = await settler([a_need(live)], asyncio.get_running_loop().time() + left)

    assert settled.decisions[0].reason is Reason.INDEX_UNREACHABLE
    assert index.asked == []
    assert (settler.read, settler.unread) == (1, 1)


async def test_a_read_is_granted_its_own_time_or_what_the_caller_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smaller of both, less what it takes to say UNKNOWN; a bigger batch is granted more."""
    index = await an_index()
    settler, live = a_settler(index)
    now = asyncio.get_running_loop().time()

    with monkeypatch.context() as patch:
        patch.setattr(asyncio.get_running_loop(), "time", lambda: now)
        await settler([a_need(live)], math.inf)
        await settler([a_need(live), a_need(live, MINOR)], math.inf)
        await settler([a_need(live)], now + 0.010)

    assert [left for _, left in index.asked] == pytest.approx(
        [0.02 + KEY_TIMEOUT_S, 0.02 + 2 * KEY_TIMEOUT_S, 0.010 - RESERVE_S]
    )


async def test_a_fresher_answer_asks_the_head_first() -> None:
    """Who wants the feed known further than the view is answered on the index's own head, from the same read."""
    index = await an_index()
    settler, live = a_settler(index, as_of=AsOf(50, NOW, 0, 0))

    settled = await settler([a_need(live, min_feed_sequence=100)], math.inf)

    assert settled.decisions[0].outcome is Outcome.BARRED
    assert settled.as_of == [AsOf(100, NOW, 0, 0)]


async def test_a_fresher_answer_does_not_make_the_filter_fresher() -> None:
    """The filter may not have heard of the newest keys: the view goes on saying what it knows."""
    index = await an_index()
    settler, live = a_settler(index, as_of=AsOf(50, NOW, 0, 0))

    await settler([a_need(live, min_feed_sequence=100)], math.inf)

    assert live.view.as_of == AsOf(50, NOW, 0, 0)


async def test_a_feed_not_known_so_far_is_unknown() -> None:
    """More than even the index knows: UNKNOWN, DATA_STALE, for that item alone."""
    index = await an_index()
    settler, live = a_settler(index)

    settled = await settler([a_need(live, min_feed_sequence=101), a_need(live)], math.inf)

    assert [(decision.outcome, decision.reason) for decision in settled.decisions] == [
        (Outcome.UNKNOWN, Reason.DATA_STALE),
        (Outcome.BARRED, Reason.MEASURE_IN_FORCE),
    ]


@pytest.mark.parametrize("trouble", ["slow", "lost"])
async def test_a_head_that_does_not_come_fails_no_call(trouble: str) -> None:
    """A head out of reach costs the fresher answer (UNKNOWN), never an error; a slow one, which has taken all the time,
    the read as well."""
    index = await an_index()
    settler, live = a_settler(index, as_of=AsOf(50, NOW, 0, 0))
    index.lost = trouble == "lost"
    if trouble == "slow":
        index.slow_head.clear()

    async with asyncio.timeout(60):
        settled = await settler([a_need(live, min_feed_sequence=100), a_need(live)], math.inf)

    assert settled.decisions[0].reason is Reason.DATA_STALE
    assert len(index.asked) == (trouble == "lost")
    assert [as_of.feed_sequence for as_of in settled.as_of] == [50, 50]


async def test_a_measure_bars_only_at_the_moment_of_reading() -> None:
    """Time passes between question and reading: what has ended by then does not bar."""
    index = Watched()
    await index.open(INDEX_KEY, create=True)
    record = encode_record(a_measure()._replace(effective_to_ms=NOW + 5))
    await index.apply([Addition(1, "M1", {key_of(DEBTOR): record}, "", "")])
    live = LiveFilter(a_view())
    before = IndexSettler(index, live, 0.02, clock_ms=lambda: NOW + 4)
    after = IndexSettler(index, live, 0.02, clock_ms=lambda: NOW + 5)

    assert (await before([a_need(live)], math.inf)).decisions[0].outcome is Outcome.BARRED
    assert (await after([a_need(live)], math.inf)).decisions[0].outcome is Outcome.ALLOWED


async def test_a_doubted_filter_clears_only_whom_nobody_can_read() -> None:
    """Filter and index both in trouble: whom the last good filter cleared is ALLOWED, STALE_DATA, as of that filter; a
    hit is UNKNOWN."""
    index = await an_index()
    index.unread = {key_of(DEBTOR), key_of(MINOR)}
    settler, live = a_settler(index)
    live.swap(None, [key_of(DEBTOR)], live.view.as_of)
    known = live.view.as_of
    live.drop()
    live.known(AsOf(101, NOW, 0, 0))  # by the index, which each key is asked of
    assert live.view.filter is EVERYTHING

    settled = await settler(
        [a_need(live, DEBTOR), a_need(live, MINOR), a_need(live, MINOR, min_feed_sequence=100)], math.inf
    )

    hit, miss, demanding = settled.decisions
    assert (hit.outcome, hit.reason) == (Outcome.UNKNOWN, Reason.INDEX_UNREACHABLE)
    assert (miss.outcome, miss.answered_by) == (Outcome.ALLOWED, AnsweredBy.FILTER)
    assert miss.advisories == (Advisory.STALE_DATA,)
    assert settled.as_of[1] == known
    assert (demanding.outcome, demanding.reason) == (Outcome.UNKNOWN, Reason.INDEX_UNREACHABLE)


async def test_a_filter_that_came_while_the_index_was_asked_clears_whom_it_does_not_hold() -> None:
    """Asked about because there was no filter; there is one when the index has not answered: whom it does not hold is
    ALLOWED by it, stale or not as it is itself. Who is held, or asks for more of the feed than it knows, is UNKNOWN."""
    index = await an_index()
    index.unread = {key_of(DEBTOR), key_of(MINOR)}
    settler, live = a_settler(index)
    needs = [a_need(live, DEBTOR), a_need(live, MINOR), a_need(live, MINOR, min_feed_sequence=101)]
    for built in (NOW, NOW - live.view.limits.warn_ms - 1):
        known = AsOf(100, built, 0, 0)
        live.swap(None, [key_of(DEBTOR)], known)

        settled = await settler(needs, math.inf)

        hit, miss, demanding = settled.decisions
        assert (hit.outcome, hit.reason) == (Outcome.UNKNOWN, Reason.INDEX_UNREACHABLE)
        assert (miss.outcome, miss.answered_by) == (Outcome.ALLOWED, AnsweredBy.FILTER)
        assert miss.advisories == (() if built == NOW else (Advisory.STALE_DATA,))
        assert settled.as_of[1] == known
        assert demanding.outcome is Outcome.UNKNOWN


async def test_an_empty_batch_is_nothing() -> None:
    """No question, no answer, no error."""
    settler, _ = a_settler(await a_shelf())

    assert list((await settler([], math.inf)).decisions) == []
