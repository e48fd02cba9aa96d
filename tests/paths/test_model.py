"""From feed line to answer under any interleaving, against an oracle that keeps three sets.

The court writes lines in sequence. Files hold any of them, in any order, sent once or often, and an import may die
between any two writes. The importer, the store, the filter with its journal and the check itself are the real ones.

Oracle: a removal, revocation or exemption counts once an import that held it has ended; an addition counts once such
an import also left no gap before it. Nothing else is remembered: who is barred is computed from these sets. While an
import has died and not been repeated, it may have done any part of its work; only what holds for every part is claimed.
"""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from checker import faults, rulebooks
from checker.core.decision import Decision, Outcome, Reason
from checker.core.freshness import AsOf, Limits
from checker.core.lookup import EVERYTHING, NeedExact, Query, View, begin, finish
from checker.index.base import ExactIndex, IndexKey, Position
from checker.index.memory import MemoryIndex
from checker.index.redis import RedisIndex
from checker.index.urls import open_index
from checker.lists.importer import ImportOptions, import_feeds
from checker.rpc.live_filter import LiveFilter
from checker.serving import filter_file
from tests.builders import KEY, ms
from tests.index.servers import Server
from tests.paths.court import MEASURES, PEOPLE, PURCHASES, Court, is_lift, lines, reaches
from tests.paths.people import NAME

NOW = ms("2026-03-10T12:00:00")
FEED_TIME = "2026-03-10T11:59:00+08:00"
INDEX_KEY = IndexKey(KEY.key_id, KEY.check_value)
RULEBOOK = rulebooks.load(None)


class CrashError(Exception):
    """The importing process ends here."""


class Crashing:
    """Raises CrashError at the n-th point passed; 0: never."""

    def __init__(self) -> None:
        self.left = 0

    def point(self, _name: str = "") -> None:
        self.left -= 1
        if self.left == 0:
            raise CrashError


class CrashingIndex(MemoryIndex):
    """A memory index whose user may die after any single write."""

    def __init__(self, crashing: Crashing) -> None:
        super().__init__()
        self._crashing = crashing

    def _wrote(self) -> None:
        self._crashing.point()


class PathMachine(RuleBasedStateMachine):
    """One court, one importer, one worker."""

    index: ExactIndex

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.court = Court()
        self.head = 0  # as the oracle sees it
        self.counted: set[int] = set()  # sequences that count for certain
        self.doubtful: list[tuple[int, ...]] = []  # what imports that died had sent
        self.files = 0
        self.died = False  # an import has, at any time
        self.seen: set[int] = set()  # all that imports have seen which ended

    def make(self) -> ExactIndex:
        """An empty index."""
        raise NotImplementedError

    @initialize(first=lines, second=lines)
    def start(self, first: list[dict[str, Any]], second: list[dict[str, Any]]) -> None:
        self.crashing = Crashing()
        self.index = self.make()
        self.runner.run(self.index.open(INDEX_KEY, create=True))
        self.live = LiveFilter(View(RULEBOOK, KEY, EVERYTHING, AsOf(0, 0, 0, 0), Limits()))
        self.position: Position | None = None
        self.court.write(FEED_TIME, {"op": "heartbeat"}, *first, *second)
        self.send([1], 1, 0)
        self.rebuild_filter()

    def teardown(self) -> None:
        try:
            if hasattr(self, "index"):
                self.resume()
                self.nobody_is_answered_wrongly()
                self.runner.run(self.index.close())
        finally:
            self.runner.close()
            self.folder.cleanup()

    # The court

    @rule(written=lines)
    def court_writes(self, written: list[dict[str, Any]]) -> None:
        if len(self.court) < 40:
            self.court.write(FEED_TIME, *written)

    # The importer

    @rule(data=st.data(), files=st.integers(1, 3))
    def imports_what_comes_next(self, data: st.DataObject, files: int) -> None:
        """The lines after those known, or some of them."""
        last = data.draw(st.integers(min(self.head + 1, len(self.court)), len(self.court)))
        self.send(list(range(self.head + 1, last + 1)) or [self.head], files, 0)

    @rule(data=st.data(), files=st.integers(1, 3), crash=st.one_of(st.just(0), st.integers(1, 25)))
    def imports_anything(self, data: st.DataObject, files: int, crash: int) -> None:
        """Any lines in any order, again or for the first time, and perhaps the importer dies on the way."""
        sent = data.draw(st.lists(st.integers(1, len(self.court)), min_size=1, max_size=8))
        self.send(sent, files, crash)

    @precondition(lambda self: self.doubtful)
    @rule()
    def resume(self) -> None:
        """Run again what died."""
        for sent in list(self.doubtful):
            self.send(list(sent), 1, 0)

    def send(self, sent: list[int], files: int, crash: int) -> None:
        feeds = [self._file(sent[place::files]) for place in range(min(files, len(sent)))]
        options = ImportOptions(holder="model", batch_keys=2, clock=lambda: NOW)
        self.crashing.left = crash
        try:
            summary = self.runner.run(import_feeds(self.index, KEY, feeds, options))
        except CrashError:
            self.doubtful.append(tuple(sent))
            self.died = True
            return
        finally:
            self.crashing.left = 0
        assert not summary.rejected
        self.doubtful = [other for other in self.doubtful if not set(other) <= set(sent)]
        while self.head + 1 in sent:
            self.head += 1
        assert summary.feed_sequence == self.head or (self.died and summary.feed_sequence > self.head)
        self.head = summary.feed_sequence  # an import that died may have gone further than it could say
        self.counted |= {one for one in sent if one <= self.head or self.court[one]["op"] != "add"}
        self.seen.update(sent)
        missing = self.head + 1 if max(self.seen) > self.head else 0
        assert summary.first_missing == missing or (self.died and summary.first_missing == self.head + 1)
        gap = self.runner.run(self.index.head()).gap_since_ms
        assert bool(gap) == bool(summary.first_missing), "a gap is open as long as a line is missing before one seen"

    def _file(self, sequences: list[int]) -> Path:
        self.files += 1
        return self.court.feed(Path(self.folder.name) / f"{self.files}.jsonl", sequences)

    # The worker

    @rule()
    def rebuild_filter(self) -> None:
        """The keeper's part: a new filter from a scan, as of the journal's end before it."""
        header, built = self.runner.run(filter_file.build(self.index, KEY, RULEBOOK, 1e-4, lambda: NOW))
        self.live.swap(built, (), self.live.view.as_of)
        self.position = Position(header.journal_id, header.journal_position)

    def catch_up(self) -> None:
        """The follower's part: what the journal holds goes into the filter."""
        while self.position is not None:
            page = self.runner.run(self.index.journal_read(self.position, 0))
            assert not page.reset
            if page.position == self.position:
                break
            self.live.add(page.keys)
            self.position = page.position
        head = self.runner.run(self.index.head())
        self.live.known(AsOf(head.feed_sequence, head.feed_time_ms, head.gap_since_ms, 0))

    def ask(self, person: int, item: str, name: str) -> Decision:
        query = Query(PURCHASES[item], document_type=1, number=PEOPLE[person], name=name)
        step = begin(query, self.live.view, NOW)
        if not isinstance(step, NeedExact):
            return step
        found = self.runner.run(self.index.get_many(step.keys, 5))
        return finish(step, dict(zip(step.keys, found, strict=True)), self.live.view.as_of, NOW)

    # What must hold

    @invariant()
    def nobody_is_answered_wrongly(self) -> None:
        """Never BARRED without a measure in force; never ALLOWED with one, the filter having caught up."""
        if not hasattr(self, "index") or self.position is None:
            return
        self.catch_up()
        for person in range(len(PEOPLE)):
            for item in PURCHASES:
                answer = self.ask(person, item, NAME if person % 2 else "")
                may, must = self._bars(person, item)
                assert answer.outcome in (Outcome.BARRED, Outcome.ALLOWED)
                assert answer.outcome is not Outcome.BARRED or may, f"{person} barred from {item} by nothing"
                assert answer.outcome is not Outcome.ALLOWED or not must, f"{person} slipped through to {item}"
                other = self.ask(person, item, "李四")
                assert other.outcome is Outcome.ALLOWED
                assert other.reason in (Reason.NOT_LISTED, Reason.NOT_IN_FORCE)

    def _bars(self, person: int, item: str) -> tuple[bool, bool]:
        """Whether something may bar this, and whether something must."""
        doubtful = {sequence for sent in self.doubtful for sequence in sent} - self.counted
        may = must = False
        for measure in MEASURES:
            certain, perhaps = self.court.about(measure, self.counted), self.court.about(measure, doubtful)
            adds = [known for known in certain if known.line["op"] == "add"][-1:]
            newest = adds[0].sequence if adds else 0
            adds += [known for known in perhaps if known.line["op"] == "add" and known.sequence > newest]
            standing = [one for one in adds if not any(is_lift(line) and at > one.sequence for at, line in certain)]
            barring = [reaches(line, certain, person, item) for _, line in standing]
            may = may or any(barring)
            untouched = newest and standing[:1] == adds[:1] and not any(is_lift(line) for _, line in perhaps)
            must = must or bool(
                untouched and all(reaches(line, certain + perhaps, person, item) for _, line in standing)
            )
        return may, must


def check(machine: Any, examples: int, steps: int) -> None:
    """One stateful test with this budget."""
    machine.TestCase.settings = settings(
        max_examples=examples, stateful_step_count=steps, suppress_health_check=list(HealthCheck)
    )
    machine.TestCase().runTest()


def test_on_memory_no_interleaving_answers_anybody_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the court writes, is sent, lost, repeated and cut short: every answer is the oracle's."""
    current: list[Crashing] = []
    monkeypatch.setattr(faults, "point", lambda name: current[-1].point(name))

    class MemoryMachine(PathMachine):
        def make(self) -> ExactIndex:
            current.append(self.crashing)
            return CrashingIndex(self.crashing)

    check(MemoryMachine, examples=80, steps=30)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A private server on a Unix socket."""
    server = Server()
    yield server
    server.close()


def test_on_a_server_no_interleaving_answers_anybody_wrongly(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with the index on a real server, where the importer may die between any two commands."""
    current: list[Crashing] = []
    monkeypatch.setattr(faults, "point", lambda name: current[-1].point(name))

    class ServerMachine(PathMachine):
        def make(self) -> ExactIndex:
            current.append(self.crashing)
            server.command("FLUSHALL")
            index = open_index(server.url, 5.0)
            assert isinstance(index, RedisIndex)
            index._write_step = 1
            return index

    check(ServerMachine, examples=40, steps=20)
