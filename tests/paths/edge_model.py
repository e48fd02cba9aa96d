"""From feed line to an edge's answer under any interleaving, over real sockets, against the oracle of sets.

A court writes, an importer brings what it wrote in any order, a centre serves, and two edges answer from what they
have: their disks, their filters, the centre if it can be reached. Between any two steps of theirs the journal may be
trimmed or begun anew, epochs published, the centre stopped, restored or given other rules, a connection cut or stuck,
an edge stopped or killed, and time may pass or a clock go wrong.

What is claimed of every answer, at every moment:
- BARRED only if somebody is barred now by what is acknowledged, and only with the centre at the other end.
- ALLOWED for somebody who is barred only by one who has not been told yet: the answer's `feed_sequence` ends before the
  addition that bars. Without the centre only by the table of design.md §8, whose rows are given by age.
- UNKNOWN only for want of the centre, or of as new a feed as was asked for.
- A filter holds every key up to the sequence it claims, and an edge's lag is no less than the age of what it lacks.
- Once the road is sound again and the edge in step, it answers as the centre does.
"""

import asyncio
import logging
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from checker.core.document import DocumentType
from checker.core.freshness import HOUR_MS, MINUTE_MS
from checker.core.key import Algorithm
from checker.core.purchase import Purchase, Train
from checker.core.rules import Rulebook
from checker.core.stand_in import Age
from checker.index import memory, redis
from checker.index.base import ExactIndex, IndexKey
from checker.keys import new
from checker.lists.importer import ImportOptions, import_feeds
from checker.serving import filter_file
from edge.request import Item
from edge.sync import Sync
from proto.checker.v1 import check_pb2 as pb
from proto.checker.v1 import filter_pb2
from tests.builders import rulebook
from tests.index.servers import Server
from tests.paths.court import PEOPLE, PURCHASES, Court, Known, lines
from tests.paths.miniature import Clocks, Knows, MiniCentre, MiniEdge, digest_of
from tests.paths.people import NAME
from tests.paths.proxy import Proxy
from tests.paths.shelves import ServerShelf, Shelf
from tests.waiting import eventually

KEYS = new(Algorithm.BLAKE2B_128, "test-keys")
KEY = KEYS.digest_key
INDEX_KEY = IndexKey(KEY.key_id, KEY.check_value)
BOOKS = (
    rulebook(),
    rulebook(("min_star = 1", "min_star = 3"), ("stand_in_strict = []", 'stand_in_strict = ["flight"]')),
)
"""The second leaves hotels of two stars open, and wants flights UNKNOWN where the data are not fresh."""
ITEMS: dict[str, Purchase] = PURCHASES | {"HARD_SEAT": Train("K101", "1", "硬座")}
GHOSTS = PEOPLE[2:]
"""Those who are in every filter, listed or not: false positives."""
PEOPLE_AND_ITEMS = [(person, item) for person in range(len(PEOPLE)) for item in ITEMS]
PATIENCE_S = 60.0
_log = logging.getLogger("tests.edge_model")
EDGES = st.sampled_from((0, 1))


class Asked(NamedTuple):
    """One question."""

    person: int
    item: str
    least: int = 0  # the feed must be known so far


class Feed(NamedTuple):
    """How far the feed is known, as the importer says it."""

    head: int = 0
    time_ms: int = 0
    gap_since_ms: int = 0

    def may_bar(self, now_ms: int) -> bool:
        """Whether it is new enough, and whole enough, to refuse anybody."""
        gap_ms = now_ms - self.gap_since_ms if self.gap_since_ms else 0
        return now_ms - self.time_ms <= 24 * HOUR_MS and gap_ms <= 15 * MINUTE_MS


class Rig:
    """What all examples share: an event loop, clocks, a proxy before each edge."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.runner = asyncio.Runner()
        self.clocks = Clocks()
        self.clocks.install(patch)
        self.proxies = (Proxy("127.0.0.1:1"), Proxy("127.0.0.1:1"))
        patch.setattr(memory, "JOURNAL_KEPT", 1)
        patch.setattr(redis, "JOURNAL_KEPT", 1)
        scan = filter_file.scan
        ghosts = np.frombuffer(b"".join(digest_of(number, KEY) for number in GHOSTS), dtype=np.uint8).reshape(-1, 16)

        async def haunted(index: ExactIndex) -> filter_file.Scan:
            found = await scan(index)
            return found._replace(keys=np.unique(np.concatenate((found.keys, ghosts)), axis=0))

        patch.setattr(filter_file, "scan", haunted)

    def close(self) -> None:
        """End it."""
        for proxy in self.proxies:
            proxy.close()
        self.runner.close()


class EdgeMachine(RuleBasedStateMachine):
    """One court, one importer, one centre, two edges."""

    rig: Rig

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clocks = self.rig.clocks
        self.court = Court()
        self.feed = self.believed = Feed()
        self.sent: set[int] = set()
        self.counted: set[int] = set()
        self.standing: list[Known] = []
        self.barring: dict[tuple[int, str], list[int]] = {asked: [] for asked in PEOPLE_AND_ITEMS}
        self.acknowledged_ms: dict[int, int] = {}
        self.files = 0
        self.book = BOOKS[0]
        self.backup: tuple[Any, Feed] | None = None
        self.lost = False  # the worker does not reach the index
        self.unsettled = False  # the index restarted, and no import has vouched for it since
        self.sure: set[int] = set()  # edges whose questions are known to reach the index
        self.severed: set[int] = set()  # edges whose questions are known not to reach the centre

    def make(self) -> Shelf:
        """An empty store."""
        return Shelf(INDEX_KEY)

    def run(self, work: Any) -> Any:
        return self.rig.runner.run(work)

    @property
    def path(self) -> Path:
        return Path(self.folder.name)

    # Beginning and end

    @initialize()
    def start(self) -> None:
        self.shelf = self.make()
        (self.path / "import").mkdir()
        self.importer: ExactIndex = self.run(self.shelf.open())
        self.centre = MiniCentre(self._open_for_worker, self._open, KEYS, self.path)
        self.edges = [
            MiniEdge(proxy, KEYS, self.path / f"edge-{number}", PEOPLE) for number, proxy in enumerate(self.rig.proxies)
        ]
        self._write({"op": "heartbeat"})
        self.send([1])
        self.all_is_well((0, 1))

    def teardown(self) -> None:
        try:
            if hasattr(self, "edges"):
                self.all_is_well((0, 1))
                self.what_anybody_answers_is_right()
        finally:
            try:
                self.run(self._end())
            finally:
                self.folder.cleanup()

    async def _end(self) -> None:
        for edge in getattr(self, "edges", ()):
            if edge.up:
                await edge.stop(cleanly=True)
        if hasattr(self, "centre") and self.centre.up:
            await self.centre.stop(signing_off=False)
        if hasattr(self, "importer"):
            await self.importer.close()
        for proxy in self.rig.proxies:
            proxy.refusing, proxy.passing = False, True
            proxy.cut()

    async def _open_for_worker(self) -> ExactIndex:
        return await self.shelf.open_for_worker()

    async def _open(self) -> ExactIndex:
        return await self.shelf.open()

    # The court and its importer

    @rule(written=lines, told=st.booleans())
    def all_that_is_new_is_imported(self, written: list[dict[str, Any]], told: bool) -> None:
        self._write(*written)
        self.send(list(range(min(self.feed.head + 1, len(self.court)), len(self.court) + 1)), told=told)

    @rule(written=lines, data=st.data(), told=st.booleans())
    def anything_is_imported(self, written: list[dict[str, Any]], data: st.DataObject, told: bool) -> None:
        """Any lines in any order, again or for the first time."""
        self._write(*written)
        self.send(data.draw(st.lists(st.integers(1, len(self.court)), min_size=1, max_size=8)), told=told)

    def _write(self, *written: dict[str, Any]) -> None:
        if len(self.court) < 60:
            time = datetime.fromtimestamp(self.clocks.ms() / 1000, UTC).isoformat(timespec="milliseconds")
            self.court.write(time, *written)

    def send(self, sent: list[int], *, told: bool = False) -> None:
        """One import. `told`: and every edge that can hear of it has."""
        self.files += 1
        path = self.court.feed(self.path / f"{self.files}.jsonl", sent)
        now_ms = self.clocks.ms()
        options = ImportOptions(
            holder="model", batch_keys=2, clock=self.clocks.ms, canary=True, state_dir=self.path / "import"
        )
        summary = self.run(import_feeds(self.importer, KEY, [path], options))
        assert not summary.rejected
        head, _, gap_since_ms = self.feed
        while head + 1 in sent:
            head += 1
        assert summary.feed_sequence == head
        seen = max(self.sent.union(sent))
        assert summary.first_missing == (head + 1 if seen > head else 0)
        gap_since_ms = (gap_since_ms or now_ms) if seen > head else 0
        time_ms = int(datetime.fromisoformat(self.court[head]["time"]).timestamp() * 1000)
        self.feed = Feed(head, time_ms, gap_since_ms)
        self.sent.update(sent)
        counted = {one for one in self.sent if one <= head or self.court[one]["op"] != "add"}
        self.acknowledged_ms |= dict.fromkeys(counted - self.counted, self.clocks.ms())
        self.counted |= counted
        self.standing = self.court.standing(self.counted)
        self.barring = {asked: self.court.barring(*asked, self.counted) for asked in PEOPLE_AND_ITEMS}
        if self.unsettled:
            self.unsettled = False
            if self.centre.up and not self.lost:
                self.run(self._index_answers())
        if told:
            self.edges_hear_of_it()

    async def _index_answers(self) -> None:
        """The worker has found its way to the index, and trusts it."""
        async with asyncio.timeout(PATIENCE_S):
            while await self.centre.index.get_many([KEY.canary], 5.0) == [None]:  # noqa: ASYNC110 - likewise
                await asyncio.sleep(0.02)

    # The centre

    @rule(what=st.sampled_from(("publish", "publish", "keep", "trim", "renew")))
    def index_is_worked_on(self, what: str) -> None:
        """An epoch is published; the keeper looks after the filter file; the journal forgets, or begins anew."""
        if what == "trim":
            self.shelf.trim()
        elif what == "renew":
            self.run(self.importer.publications._renew_journal())  # type: ignore[attr-defined]
        elif what == "keep" and self.centre.up:
            self.run(self.centre.keep())
        elif self.centre.up and not self.unsettled:
            self.run(self.centre.publish())

    @rule(signing_off=st.booleans(), again=st.booleans(), book=st.sampled_from(BOOKS))
    def centre_goes_or_comes(self, signing_off: bool, again: bool, book: Rulebook) -> None:
        """It stops or is killed, and starts again, perhaps with other rules."""
        if self.centre.up:
            self._stop_centre(signing_off=signing_off)
            if not again:
                return
        self._start_centre(book)

    def _start_centre(self, book: Rulebook) -> None:
        self.book = book
        self.run(self.centre.start(book))
        for proxy in self.rig.proxies:
            proxy.target = self.centre.address

    def _stop_centre(self, *, signing_off: bool) -> None:
        self.worker_loses_the_index(lost=False)
        self.run(self.centre.stop(signing_off=signing_off))
        self.sure.clear()

    @rule(lost=st.booleans())
    def worker_loses_the_index(self, lost: bool) -> None:
        """Or finds it again."""
        if self.centre.up and lost is not self.lost:
            self.lost = lost
            self.shelf.lose(lost=lost)
            if not lost and not self.unsettled:
                self.run(self._index_answers())

    @rule(made=st.booleans())
    def backup_is_made_or_restored(self, made: bool) -> None:
        """As docs/operations.md has it: every feed is imported again before anybody is served from a backup."""
        if made or self.backup is None:
            self.backup = (self.shelf.copy(), self.feed)
            return
        if self.centre.up:
            self._stop_centre(signing_off=True)
        self.run(self.importer.close())
        kept, self.feed = self.backup
        self.shelf.restore(kept)
        self.importer = self.run(self.shelf.open())
        self.send(sorted(self.sent))
        self.run(self.importer.publications.renew_centre_id())
        self._start_centre(self.book)

    # Roads, edges, time

    @rule(who=EDGES, how=st.sampled_from(("cut", "stuck", "sound")))
    def road_changes(self, who: int, how: str) -> None:
        proxy = self.rig.proxies[who]
        if how == "sound":
            self._heal(who)
            return
        proxy.refusing, proxy.passing = how == "cut", how == "cut"
        if how == "cut":
            proxy.cut()
        self.sure.discard(who)
        self.severed.add(who)

    def _heal(self, who: int) -> None:
        proxy = self.rig.proxies[who]
        proxy.refusing, proxy.passing = False, True
        self.severed.discard(who)

    @rule(who=EDGES, cleanly=st.booleans(), again=st.booleans())
    def edge_goes_or_comes(self, who: int, cleanly: bool, again: bool) -> None:
        """It stops or is killed, and starts again from its disk."""
        edge = self.edges[who]
        if edge.up:
            self.run(edge.stop(cleanly=cleanly))
            self.sure.discard(who)
            if not again:
                return
        self.run(edge.start())

    @rule(minutes=st.sampled_from((0, 2, 2, 25 * 60)), who=st.sampled_from((None, None, 0, 1)))
    def time_passes(self, minutes: int, who: int | None) -> None:
        """For everybody; or the wall clock of one edge's machine is set ahead by so much."""
        if who is None:
            self.clocks.later_s += minutes * 60
        else:
            self.edges[who].clock.ms = minutes * MINUTE_MS
        self.run(asyncio.sleep(0.02))

    # All is well

    @rule(which=st.sampled_from(((0,), (1,), (0, 1))))
    def all_is_well(self, which: tuple[int, ...]) -> None:
        """Somebody repairs what is broken, and then these edges are in step."""
        if not self.centre.up:
            self._start_centre(self.book)
        if self.unsettled:
            self.send([max(1, self.feed.head)])
        self.worker_loses_the_index(lost=False)
        self.run(self.centre.keep())
        self.run(self.centre.publish_if_due())
        for who in which:
            self._heal(who)
            if not self.edges[who].up:
                self.run(self.edges[who].start())
            self.run(self._in_step(who))
            self.sure.add(who)

    async def _in_step(self, who: int) -> None:
        edge, index = self.edges[who].client.edge, self.centre.index
        end, published = await index.journal_end(), await index.publications.latest()
        assert published is not None

        def reached() -> bool:
            snapshot, view = edge.sync.snapshot, edge.live.view
            return (
                edge.live.centre == filter_pb2.CENTRE_STATE_REACHABLE
                and snapshot is not None
                and (snapshot.header.centre_id, snapshot.header.epoch) == (published.centre_id, published.epoch)
                and edge.sync.position == end
                and view.as_of.feed_sequence >= self.feed.head
                and not view.doubtful
                and view.rulebook.sha256 == self.centre.live.view.rulebook.sha256
            )

        await eventually(reached, PATIENCE_S)
        await self._reaches(who)

    async def _reaches(self, who: int) -> None:
        """Its questions are answered."""
        async with asyncio.timeout(PATIENCE_S):
            while not await self.edges[who].reaches_the_index():  # noqa: ASYNC110 - an answer sets no event
                await asyncio.sleep(0.02)

    @rule()
    def edges_hear_of_it(self) -> None:
        """Nothing is repaired, but what the centre says arrives where the edge's place in the journal is known."""
        for who in {0, 1} - self.severed:
            if self.edges[who].up and self.centre.up and not self.lost and self.run(self._hears(who)):
                self.sure.add(who)

    async def _hears(self, who: int) -> bool:
        sync, since_ms = self.edges[who].client.edge.sync, self.clocks.ms()
        position = sync.position
        if position is None or (await self.centre.index.journal_read(position, 0)).reset:
            return False
        await eventually(lambda: _heard_ms(sync) > since_ms, PATIENCE_S)
        await self._reaches(who)
        return True

    # Questions

    @rule(asked=st.sampled_from(PEOPLE_AND_ITEMS), beyond=st.sampled_from((-1, 0, 1)))
    def somebody_is_asked_about_alone(self, asked: tuple[int, str], beyond: int) -> None:
        one = [Asked(*asked, max(0, self.feed.head + beyond))]
        for who in (0, 1):
            self._ask_edge(who, one)
        self._ask_centre(one)

    @invariant()
    def what_anybody_answers_is_right(self) -> None:
        if not hasattr(self, "edges"):
            return
        try:
            self._everybody_is_asked()
        except AssertionError as error:
            _log.error("%s", error)  # hypothesis hides it when it does not come again
            raise

    def _everybody_is_asked(self) -> None:
        head = self.feed.head
        asked = [Asked(person, item) for person, item in PEOPLE_AND_ITEMS]
        asked += [Asked(person, "FLIGHT", least) for person in range(len(PEOPLE)) for least in (head, head + 1)]
        for who in (0, 1):
            self._ask_edge(who, asked)
            self._lag_is_true(who)
        self._ask_centre(asked)

    def _ask_edge(self, who: int, asked: Sequence[Asked]) -> None:
        if not self.edges[who].up:
            return
        severed = who in self.severed or not self.centre.up
        self.believed = self._believed()
        timeout_s = None if who in self.sure else 0.05 if severed else 0.3
        before, answers, after = self.run(self.edges[who].ask(_items(asked), timeout_s))
        self._holds_what_it_claims(before)
        self._holds_what_it_claims(after)
        for (person, item, least), answer in zip(asked, answers, strict=True):
            said = f"edge {who}: {item} for {person} at {least}: {answer}, knowing {before}"
            self._is_no_lie(person, item, answer, least, said)
            alone = [_alone(knows, person, item, least) for knows in (before, after)]
            if who in self.sure:
                assert before.doubtful or before.book.sha256 == self.book.sha256, said
            may: set[int]
            if not alone[0].asks:
                may = {pb.OUTCOME_ALLOWED}
            elif severed:
                may = {one.outcome for one in alone}
                if self._may_be_remembered(before, person, least):
                    may.add(pb.OUTCOME_ALLOWED)
                remarked = pb.ADVISORY_STALE_DATA in answer.advisory
                assert remarked or answer.outcome != pb.OUTCOME_ALLOWED or not all(one.remark for one in alone), said
            else:
                may = self._exact(person, item, least)
                if who not in self.sure:
                    may |= {one.outcome for one in alone}
                if self._untold(person, item, answer):
                    may.add(pb.OUTCOME_ALLOWED)
            assert answer.outcome in may, said

    def _ask_centre(self, asked: Sequence[Asked]) -> None:
        if not self.centre.up:
            return
        self.believed = self._believed()
        answers = self.run(self.centre.ask(_items(asked)))
        for (person, item, least), answer in zip(asked, answers, strict=True):
            said = f"centre: {item} for {person} at {least}: {answer}"
            self._is_no_lie(person, item, answer, least, said)
            may = self._exact(person, item, least)
            assert answer.outcome in may or self._untold(person, item, answer), said

    # The oracle

    def _exact(self, person: int, item: str, least: int) -> set[int]:
        """What the centre may say to somebody whom it looks up."""
        assert self.centre.book is not None
        if _free(self.centre.book, item):
            return {pb.OUTCOME_ALLOWED}
        if self.unsettled or self.lost:
            return {pb.OUTCOME_UNKNOWN, pb.OUTCOME_ALLOWED}
        if least > self.feed.head:
            return {pb.OUTCOME_UNKNOWN}
        if not self.barring[person, item]:
            return {pb.OUTCOME_ALLOWED}
        now_ms = self.clocks.ms()
        feeds = (self.feed, self.believed, self._believed())
        return {pb.OUTCOME_BARRED if feed.may_bar(now_ms) else pb.OUTCOME_UNKNOWN for feed in feeds}

    def _believed(self) -> Feed:
        """How far the worker knows the feed: it looks twice a second, here more often."""
        as_of = self.centre.live.view.as_of
        return Feed(as_of.feed_sequence, as_of.feed_time_ms, as_of.gap_since_ms)

    def _untold(self, person: int, item: str, answer: pb.CheckResponse) -> bool:
        """Whether an ALLOWED comes of not having been told: it ends before every addition that bars."""
        barring = self.barring[person, item]
        return answer.outcome == pb.OUTCOME_ALLOWED and answer.data_as_of.feed_sequence < min(barring, default=0)

    def _may_be_remembered(self, knows: Knows, person: int, least: int) -> bool:
        """Whether the index may have said once that it holds nothing, and the edge has heard of nothing since."""
        if knows.age is not Age.FRESH or knows.doubtful or least > knows.sequence:
            return False
        return not any(person in line["who"] for sequence, line in self.standing if sequence <= knows.sequence)

    def _is_no_lie(self, person: int, item: str, answer: pb.CheckResponse, least: int, said: str) -> None:
        """What holds of any answer, whoever gives it."""
        barring = self.barring[person, item]
        known = answer.data_as_of.feed_sequence
        assert known <= self.feed.head, said
        if answer.outcome == pb.OUTCOME_BARRED:
            assert barring, f"barred by nothing: {said}"
            assert answer.answered_by == pb.ANSWERED_BY_INDEX, said
            assert answer.outcome in self._exact(person, item, least), said
        if answer.outcome != pb.OUTCOME_UNKNOWN and answer.reason != pb.REASON_PURCHASE_NOT_RESTRICTED:
            assert known >= least, said
        if answer.outcome == pb.OUTCOME_ALLOWED and item != "HARD_SEAT" and answer.reason == pb.REASON_NOT_LISTED:
            assert known < min(barring, default=known + 1), f"slipped through: {said}"

    def _holds_what_it_claims(self, knows: Knows) -> None:
        for sequence, line in self.standing:
            lacking = {PEOPLE[person] for person in line["who"]} - knows.may_list
            assert not lacking or sequence > knows.sequence, f"{knows} lacks somebody listed by {sequence}"

    def _lag_is_true(self, who: int) -> None:
        if not self.edges[who].up:
            return
        now_ms = self.clocks.ms()  # before it looks: a machine that was held up afterwards says nothing of its lag
        knows, lag_ms = self.run(self.edges[who].look())
        lacking = [
            self.acknowledged_ms[sequence]
            for sequence, line in self.standing
            if not {PEOPLE[person] for person in line["who"]} <= knows.may_list
        ]
        if lacking:
            least_ms = now_ms - min(lacking) - 2  # of rounding
            assert lag_ms >= least_ms, f"edge {who} shows a lag of {lag_ms} ms, it is {least_ms} at least"


class Alone(NamedTuple):
    """What the table says to a question."""

    outcome: pb.Outcome
    asks: bool  # the centre, if it is there
    remark: bool = False  # STALE_DATA


def _alone(knows: Knows, person: int, item: str, least: int) -> Alone:
    """design.md §8, said once more."""
    if _free(knows.book, item):
        return Alone(pb.OUTCOME_ALLOWED, knows.doubtful)
    hit = PEOPLE[person] in knows.may_list or least > knows.sequence
    if knows.age is Age.FRESH and not hit:
        return Alone(pb.OUTCOME_ALLOWED, knows.doubtful)
    strict = item == "FLIGHT" and knows.book.sha256 == BOOKS[1].sha256
    if knows.age is Age.STALE and not hit and not strict:
        return Alone(pb.OUTCOME_ALLOWED, asks=True, remark=True)
    return Alone(pb.OUTCOME_UNKNOWN, asks=True)


def _heard_ms(sync: Sync) -> int:
    """When what it last believed was said."""
    held = sync._held
    return 0 if held is None or held.beat is None else held.beat.sent_ms


def _free(book: Rulebook, item: str) -> bool:
    """Whether nobody can be barred from this."""
    return item == "HARD_SEAT" or (item == "HOTEL" and book.sha256 == BOOKS[1].sha256)


def _items(asked: Sequence[Asked]) -> list[Item]:
    return [
        Item(ITEMS[item], DocumentType.RESIDENT_ID, PEOPLE[person], name=NAME, min_feed_sequence=least)
        for person, item, least in asked
    ]


class ServerMachine(EdgeMachine):
    """With the index on a real server, which may crash."""

    server: Server
    road: Proxy

    def make(self) -> Shelf:
        return ServerShelf(INDEX_KEY, self.server, self.road)

    @rule()
    def index_restarts(self) -> None:
        """Its hits are not to be trusted until an import has applied the change log again; the journal is another."""
        assert isinstance(self.shelf, ServerShelf)
        self.shelf.restart()
        self.unsettled = True
