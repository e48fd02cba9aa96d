"""The exact index in dictionaries: tests, `memory:` demos, and the executable specification of the Redis one.

Written for reading. A store is two dictionaries, as on Redis: what each measure knows of itself, and the fields under
each lookup key. A change touches its measure first; the measure decides whether the change counts and which keys must
be written; then the keys, then the journal. Every single write ends in `_wrote`, where a test may stop.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from checker.core.measure import (
    Addition,
    Change,
    Exemption,
    Measure,
    Removal,
    State,
    Window,
    decode,
    encode_window,
    exemption_field,
    is_active,
    record_field,
    tombstone,
)
from checker.errors import IndexRefused, IndexUnavailable
from checker.index.base import (
    JOURNAL_KEPT,
    Applied,
    Head,
    IndexKey,
    JournalPage,
    MeasureInfo,
    Position,
    Stats,
    check_change,
    compare_keys,
    lease_held,
    lease_lost,
    newer,
)
from checker.index.publications import MemoryPublications, Published

_SCAN_BATCH = 1000
_PAGE_ENTRIES = 1000
_SEPARATOR = b"\0"


@dataclass(slots=True)
class _Known:
    """What a measure knows of itself. Sequences are 0 until seen."""

    added: int = 0
    keys: tuple[bytes, ...] = ()
    dropped: frozenset[bytes] = frozenset()  # named once, no longer: they carry tombstones
    court: str = ""
    case_number: str = ""
    removed: int = 0
    reason: str = ""
    exemptions: dict[int, tuple[Window, tuple[bytes, ...]]] = field(default_factory=dict)


@dataclass(slots=True)
class MemoryStore:
    """What would be on the server: shared by every `MemoryIndex` made with it."""

    key: IndexKey | None = None
    measures: dict[str, _Known] = field(default_factory=dict)
    records: dict[bytes, dict[bytes, bytes]] = field(default_factory=dict)
    journal_id: bytes = field(default_factory=lambda: os.urandom(8))
    journal: dict[int, tuple[bytes, ...]] = field(default_factory=dict)  # entry number -> keys; the oldest are trimmed
    journal_end: int = 0  # number of the last entry
    journal_grown: asyncio.Event = field(default_factory=asyncio.Event)
    lifted: int = 0
    published: Published = field(default_factory=Published)
    head: Head = field(default_factory=lambda: Head(0, 0, 0))
    holder: str = ""
    holder_since_ms: int = 0
    token: int = 0


class MemoryIndex:
    """An `ExactIndex` in this process; nothing survives it."""

    def __init__(self, store: MemoryStore | None = None, *, journal_entries: int = 1_000_000) -> None:
        self._store = store or MemoryStore()
        self._journal_entries = journal_entries
        self._publications = MemoryPublications(self._store.published, self._trim_journal, self._renew_journal)
        self._open = False
        self._token = 0

    @property
    def publications(self) -> MemoryPublications:
        return self._publications

    @property
    def key(self) -> IndexKey:
        if self._store.key is None:
            raise IndexUnavailable("the index is not open")
        return self._store.key

    async def open(self, key: IndexKey, *, create: bool) -> None:
        if self._store.key is None:
            if not create:
                raise IndexRefused("there is no index in memory yet: import a feed in this process first")
            self._store.key = key
        compare_keys(self._store.key, key)
        self._open = True

    async def close(self) -> None:
        self._open = False

    async def get_many(self, keys: Sequence[bytes], timeout_s: float) -> list[tuple[Measure, ...] | None]:
        if not self._open:
            return [None] * len(keys)
        records = self._store.records
        return [decode(records[key]) if key in records else () for key in keys]

    async def apply(self, changes: Sequence[Change]) -> list[Applied]:
        self._must_be_open()
        for change in changes:
            check_change(change)
        recorded = [self._record(change) for change in changes]
        applied = []
        for change, verdict in zip(changes, recorded, strict=True):
            changed = False
            for key, fields in self._writes(change, verdict).items():
                if self._put(key, fields):
                    changed = True
                    self._store.lifted += isinstance(change, Removal) or key in self._dropped(change)
            applied.append(Applied.APPLIED if changed and verdict is Applied.UNCHANGED else verdict)
        for change, verdict in zip(changes, recorded, strict=True):
            if isinstance(change, Addition) and verdict is not Applied.SUPERSEDED:
                self._append_journal(change)
        return applied

    def _record(self, change: Change) -> Applied:
        """First phase: the measure takes note of the change, or refuses it."""
        known = self._store.measures.setdefault(change.measure_id, _Known())
        verdict = Applied.APPLIED
        match change:
            case Addition(sequence, _, records, court, case_number):
                if sequence <= known.removed or sequence < known.added:
                    return Applied.SUPERSEDED
                if sequence == known.added:
                    verdict = Applied.UNCHANGED
                else:
                    known.dropped = (known.dropped | frozenset(known.keys)) - frozenset(records)
                    known.added, known.keys = sequence, tuple(records)
                    known.court, known.case_number = court, case_number
            case Removal(sequence, _, _, reason):
                if sequence < known.removed or sequence < known.added:
                    return Applied.SUPERSEDED
                if sequence == known.removed:
                    verdict = Applied.UNCHANGED
                else:
                    known.removed, known.reason = sequence, reason
            case Exemption(sequence, _, window, subset):
                if sequence in known.exemptions:
                    verdict = Applied.UNCHANGED
                else:
                    known.exemptions[sequence] = (window, subset)
        self._wrote()
        return verdict

    def _writes(self, change: Change, verdict: Applied) -> dict[bytes, dict[bytes, bytes]]:
        """Second phase: what must stand under which keys. A record and its exemptions are one write."""
        known = self._store.measures[change.measure_id]
        field_name = record_field(change.measure_id)
        match change:
            case Addition(sequence, _, records, _, _):
                if verdict is Applied.SUPERSEDED:
                    return {}
                writes = {key: {field_name: tombstone(sequence, State.SHIELDED)} for key in known.dropped}
                for key in known.keys:
                    if key in records:
                        writes[key] = {field_name: records[key]}
                        for exempting, (window, subset) in known.exemptions.items():
                            if not subset or key in subset:
                                name = exemption_field(change.measure_id, exempting)
                                writes[key][name] = encode_window(exempting, window)
                return writes
            case Removal(sequence, _, state, _):
                # Also when superseded: what superseded it may have been cut short before it wrote the keys.
                return {key: {field_name: tombstone(sequence, state)} for key in {*known.keys, *known.dropped}}
            case Exemption(sequence, _, _, _):
                window, subset = known.exemptions[sequence]
                fields = {exemption_field(change.measure_id, sequence): encode_window(sequence, window)}
                return {key: fields for key in {*known.keys, *known.dropped} if not subset or key in subset}

    def _dropped(self, change: Change) -> frozenset[bytes]:
        """The keys that an addition names no longer."""
        return self._store.measures[change.measure_id].dropped if isinstance(change, Addition) else frozenset()

    def _put(self, key: bytes, given: dict[bytes, bytes]) -> bool:
        """One write: keeps the newer of stored and given, field by field. True if anything changed."""
        fields = self._store.records.setdefault(key, {})
        changed = False
        for name, value in given.items():
            stored = fields.get(name)
            if stored is None if _SEPARATOR in name else newer(value, stored):
                fields[name] = value
                changed = True
        self._wrote()
        return changed

    def _append_journal(self, change: Addition) -> None:
        """Third phase: followers learn the keys."""
        if not change.records:
            return
        store = self._store
        store.journal_end += 1
        store.journal[store.journal_end] = tuple(change.records)
        store.journal.pop(store.journal_end - self._journal_entries, None)
        store.journal_grown.set()
        store.journal_grown = asyncio.Event()
        self._wrote()

    def _wrote(self) -> None:
        """After each single write."""

    @property
    def generation(self) -> int:
        return 1

    async def reapply(self, changes: Sequence[Change]) -> None:
        await self.apply(changes)

    async def retire(self) -> bool:
        return True

    async def report(self, worker_id: str) -> None:
        self._must_be_open()  # there is one generation

    async def leave(self, worker_id: str) -> None:
        self._must_be_open()

    async def head(self) -> Head:
        self._must_be_open()
        return self._store.head

    @asynccontextmanager
    async def lease(self, holder: str) -> AsyncIterator["_MemoryLease"]:
        self._must_be_open()
        store = self._store
        if store.holder:
            raise lease_held(store.holder, store.holder_since_ms)
        store.token += 1
        store.holder, store.holder_since_ms = holder, time.time_ns() // 1_000_000
        lease = _MemoryLease(store, store.token)
        self._token = store.token
        try:
            yield lease
        finally:
            if store.token == lease.token:
                store.holder = ""
            self._token = 0

    async def scan(self) -> AsyncIterator[list[bytes]]:
        self._must_be_open()
        batch = []
        for key, fields in list(self._store.records.items()):
            if any(_SEPARATOR not in name and is_active(value) for name, value in fields.items()):
                batch.append(key)
            if len(batch) == _SCAN_BATCH:
                yield batch
                batch = []
        if batch:
            yield batch

    async def lifted(self) -> int:
        self._must_be_open()
        return self._store.lifted

    async def identity(self) -> tuple[str, ...]:
        self._must_be_open()
        return ("this process",)

    async def journal_end(self) -> Position:
        self._must_be_open()
        return Position(self._store.journal_id, self._store.journal_end)

    async def journal_read(self, position: Position, block_s: float) -> JournalPage:
        self._must_be_open()
        store = self._store
        grown = store.journal_grown
        first_kept = store.journal_end - len(store.journal) + 1
        known = position.journal_id == store.journal_id
        if not known or not first_kept - 1 <= position.entry <= store.journal_end:
            return JournalPage([], await self.journal_end(), reset=True)
        if position.entry == store.journal_end and block_s > 0:
            try:
                async with asyncio.timeout(block_s):
                    await grown.wait()
            except TimeoutError:
                return JournalPage([], position, reset=False)
            return await self.journal_read(position, 0)
        last = min(position.entry + _PAGE_ENTRIES, store.journal_end)
        keys = [key for entry in range(position.entry + 1, last + 1) for key in store.journal[entry]]
        return JournalPage(keys, Position(store.journal_id, last), reset=False)

    async def _trim_journal(self, kept: Sequence[Position]) -> None:
        store = self._store
        if not kept or kept[0].journal_id != store.journal_id:
            return
        needed = min(position.entry for position in kept if position.journal_id == store.journal_id)
        last = min(needed, store.journal_end - JOURNAL_KEPT)
        for entry in range(store.journal_end - len(store.journal) + 1, last + 1):
            del store.journal[entry]

    async def _renew_journal(self) -> None:
        self._store.journal_id = os.urandom(8)

    async def primaries_unreconciled(self) -> list[str]:
        return []

    async def mark_reconciled(self) -> None:
        if self._token == 0 or self._token != self._store.token:
            raise lease_lost()

    async def measure(self, measure_id: str) -> MeasureInfo | None:
        self._must_be_open()
        known = self._store.measures.get(measure_id)
        if known is None:
            return None
        removed = known.removed if known.removed >= known.added else 0
        return MeasureInfo(
            measure_id,
            known.court,
            known.case_number,
            known.added,
            removed,
            known.reason if removed else "",
            len(known.keys),
        )

    async def stats(self) -> Stats:
        self._must_be_open()
        store = self._store
        return Stats(
            keys=len(store.records),
            memory_bytes=sum(
                len(key) + sum(len(name) + len(value) for name, value in fields.items())
                for key, fields in store.records.items()
            ),
            generation=1,
            journal=await self.journal_end(),
            journal_entries=len(store.journal),
            primaries=1,
            warnings=("the index is in memory only: everything is lost when this process ends",),
        )

    def _must_be_open(self) -> None:
        if not self._open:
            raise IndexUnavailable("the index is not open")


class _MemoryLease:
    def __init__(self, store: MemoryStore, token: int) -> None:
        self._store = store
        self.token = token

    async def advance(self, head: Head) -> None:
        if self._store.token != self.token or not self._store.holder:
            raise lease_lost()
        stored = self._store.head
        if head.feed_sequence < stored.feed_sequence:
            head = stored._replace(gap_since_ms=head.gap_since_ms, seen_up_to=head.seen_up_to)
        self._store.head = head
