"""Any interleaving of changes, re-sends, reorderings and crashes between two writes, against a simple oracle.

The oracle keeps no state machine: from the set of changes delivered so far it computes what must bar. The newest
addition counts unless a removal with a newer sequence was delivered; every exemption delivered stands.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from checker import faults
from checker.core.measure import Addition, Change, Exemption, Measure, Removal, State, Window
from checker.index.base import Applied, ExactIndex, Position
from checker.index.memory import MemoryIndex
from checker.index.redis import RedisIndex
from checker.index.urls import open_index
from tests.index.builders import KEY, a_removal, an_addition, an_exemption, digest
from tests.index.servers import Server

MEASURES = ("M1", "M2")
KEYS = range(4)
STEPS = st.sampled_from([1, 1, 1, 2, 4, -1, -2, -6])
"""A new line's sequence, from the newest one on: mostly the next, sometimes an old one nobody has seen yet."""
HOLD_BACK, SEND = -1, 0
FATE = st.sampled_from([HOLD_BACK, SEND, SEND, 1, 1, 2, 3])
"""Of a new line: kept back for a later batch, sent alone, or sent by an importer that dies after so many writes."""


class CrashError(Exception):
    """The process ends between two writes."""


class CrashingIndex(MemoryIndex):
    """A memory index that can end after a number of writes."""

    crash_in = 0

    def _wrote(self) -> None:
        self.crash_in -= 1
        if self.crash_in == 0:
            raise CrashError


class IndexMachine(RuleBasedStateMachine):
    """Feeds an index out of order; the subclass says which."""

    index: ExactIndex

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.feed: list[Change] = []  # every line the court ever wrote
        self.delivered: set[int] = set()  # sequences acknowledged, or superseded
        self.pending: set[int] = set()  # sequences sent, but the sender died before the acknowledgement

    def make(self) -> ExactIndex:
        """An empty index."""
        raise NotImplementedError

    def crash_after(self, writes: int) -> None:
        """Let the next `apply` raise CrashError after this many writes; 0: not at all."""
        raise NotImplementedError

    @initialize()
    def start(self) -> None:
        self.index = self.make()
        self.runner.run(self.index.open(KEY, create=True))

    def teardown(self) -> None:
        try:
            if hasattr(self, "index"):
                self.resend()
                self.check_exactly()
                self.runner.run(self.index.close())
        finally:
            self.runner.close()

    # What the court writes

    @rule(
        step=STEPS,
        measure=st.sampled_from(MEASURES),
        keys=st.lists(st.sampled_from(KEYS), unique=True, max_size=4),
        fate=FATE,
    )
    def court_adds(self, step: int, measure: str, keys: list[int], fate: int) -> None:
        self._write(an_addition(self._sequence(step), measure, *keys), fate)

    @rule(
        step=STEPS,
        measure=st.sampled_from(MEASURES),
        state=st.sampled_from([State.SHIELDED, State.REVOKED]),
        fate=FATE,
    )
    def court_removes(self, step: int, measure: str, state: State, fate: int) -> None:
        self._write(a_removal(self._sequence(step), measure, state), fate)

    @rule(
        step=STEPS,
        measure=st.sampled_from(MEASURES),
        keys=st.lists(st.sampled_from(KEYS), unique=True, max_size=2),
        fate=FATE,
    )
    def court_exempts(self, step: int, measure: str, keys: list[int], fate: int) -> None:
        sequence = self._sequence(step)
        self._write(an_exemption(sequence, measure, *keys, window=Window(1, sequence, sequence + 1)), fate)

    def _sequence(self, step: int) -> int:
        return max(1, max((line.sequence for line in self.feed), default=0) + step)

    def _write(self, change: Change, fate: int) -> None:
        if any(change.sequence == line.sequence for line in self.feed):
            return
        self.feed.append(change)
        if fate == SEND:
            self._apply([change])
        elif fate > 0:
            self._die([change], fate)

    # What the importer sends

    @precondition(lambda self: self.feed)
    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        batch = data.draw(st.lists(st.sampled_from(self.feed), min_size=1, max_size=6))
        nothing_new = self.delivered.issuperset(change.sequence for change in batch) and not self.pending
        verdicts = self._apply(batch)
        for change, verdict in zip(batch, verdicts, strict=True):
            if nothing_new and not isinstance(change, Exemption):  # it may find keys dropped since: harmless
                assert verdict is not Applied.APPLIED, "an acknowledged change was not kept"

    @precondition(lambda self: self.feed)
    @rule(data=st.data(), writes=st.integers(1, 12))
    def send_and_die(self, data: st.DataObject, writes: int) -> None:
        self._die(data.draw(st.lists(st.sampled_from(self.feed), min_size=1, max_size=6)), writes)

    def _die(self, batch: list[Change], writes: int) -> None:
        self.crash_after(writes)
        try:
            self._apply(batch)
        except CrashError:
            self.pending |= {change.sequence for change in batch} - self.delivered
        finally:
            self.crash_after(0)

    @precondition(lambda self: self.pending)
    @rule()
    def resend(self) -> None:
        again = [change for change in self.feed if change.sequence in self.pending]
        if again:
            self._apply(again)

    def _apply(self, batch: Sequence[Change]) -> list[Applied]:
        verdicts = self.runner.run(self.index.apply(batch))
        sent = {change.sequence for change in batch}
        self.delivered |= sent
        self.pending -= sent
        return verdicts

    # What must hold

    @invariant()
    def acknowledged_lifts_hold(self) -> None:
        """No record bars that an acknowledged removal ended; every acknowledged exemption stands beside its record."""
        if not hasattr(self, "index"):
            return
        for key, measures in self._read().items():
            for found in measures:
                if found.state != State.ACTIVE:
                    assert found.names == b""
                    continue
                for change in self.feed:
                    if change.sequence in self.delivered and change.measure_id == found.measure_id:
                        if isinstance(change, Removal):
                            assert change.sequence < found.sequence
                        elif isinstance(change, Exemption) and (not change.keys or digest(key) in change.keys):
                            assert change.window in found.exemptions

    @invariant()
    def nothing_else_bars(self) -> None:
        """With nothing pending, exactly what the oracle says bars."""
        if hasattr(self, "index") and not self.pending:
            self.check_exactly()

    def check_exactly(self) -> None:
        expected = {key: self._must_bar(key) for key in KEYS}
        barred = {
            key: {(m.measure_id, m.sequence, frozenset(m.exemptions)) for m in measures if m.state == State.ACTIVE}
            for key, measures in self._read().items()
        }
        assert barred == expected
        listed = {digest(key) for key, bars in expected.items() if bars}
        assert self.runner.run(self._scanned()) == listed
        assert listed <= self.runner.run(self._journaled())

    def _must_bar(self, key: int) -> set[tuple[str, int, frozenset[Window]]]:
        bars = set()
        for measure in MEASURES:
            known = [line for line in self.feed if line.measure_id == measure and line.sequence in self.delivered]
            addition = max((x for x in known if isinstance(x, Addition)), key=lambda x: x.sequence, default=None)
            removed = max((x.sequence for x in known if isinstance(x, Removal)), default=0)
            if addition is None or removed > addition.sequence or digest(key) not in addition.records:
                continue
            exempt = {x.window for x in known if isinstance(x, Exemption) and (not x.keys or digest(key) in x.keys)}
            bars.add((measure, addition.sequence, frozenset(exempt)))
        return bars

    def _read(self) -> dict[int, tuple[Measure, ...]]:
        found = self.runner.run(self.index.get_many([digest(key) for key in KEYS], 5))
        answered = {}
        for key, measures in zip(KEYS, found, strict=True):
            assert measures is not None
            answered[key] = measures
        return answered

    async def _scanned(self) -> set[bytes]:
        return {key async for batch in self.index.scan() for key in batch}

    async def _journaled(self) -> set[bytes]:
        position = Position((await self.index.journal_end()).journal_id, 0)
        keys: set[bytes] = set()
        while True:
            page = await self.index.journal_read(position, 0)
            assert not page.reset
            if page.position == position:
                return keys
            keys.update(page.keys)
            position = page.position


class MemoryMachine(IndexMachine):
    """On memory."""

    def make(self) -> ExactIndex:
        return CrashingIndex()

    def crash_after(self, writes: int) -> None:
        assert isinstance(self.index, CrashingIndex)
        self.index.crash_in = writes


def test_memory_agrees_with_the_oracle() -> None:
    """Memory, whatever happens to it, bars exactly whom the delivered changes bar."""
    run(MemoryMachine, examples=100, steps=30)


def test_redis_agrees_with_the_oracle(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real server, each write sent alone and the sender dying between any two, ends as the oracle says."""
    countdown = 0

    def point(name: str) -> None:
        nonlocal countdown
        if name == "index.write":
            countdown -= 1
            if countdown == 0:
                raise CrashError

    monkeypatch.setattr(faults, "point", point)

    class RedisMachine(IndexMachine):
        def make(self) -> ExactIndex:
            server.command("FLUSHALL")
            index = open_index(server.url)
            assert isinstance(index, RedisIndex)
            index._read_timeout_s = 5.0
            index._write_step = 1
            return index

        def crash_after(self, writes: int) -> None:
            nonlocal countdown
            countdown = writes

    run(RedisMachine, examples=25, steps=25)


def run(machine: Any, examples: int, steps: int) -> None:
    """One stateful test with this budget."""
    machine.TestCase.settings = settings(
        max_examples=examples,
        stateful_step_count=steps,
        suppress_health_check=list(HealthCheck),
        derandomize=False,
    )
    machine.TestCase().runTest()
