"""The exact index on Redis 7 or Valkey, one server or a cluster. Names of keys, order of writes, what is trusted.

    NS:GEN:k:DIGEST   hash, a record per measure and an entry per exemption (core.measure has the bytes)
    NS:GEN:m:ID       hash, what a measure knows of itself (functions.lua has the fields)
    NS:GEN:j          stream, the journal of additions; entries are numbered 1-0, 2-0, ... without a hole
    NS:GEN:info       hash, journal id, digest key id and check value, base_seq, how many keys have been lifted
    NS:gen            hash, the generation that serves, and one being loaded, one being retired (generations.py)
    NS:importer       hash, the importer's lease and the head it guards: one key, so that the fence is atomic (lease.py)
    NS:runs           hash, identities of the primaries whose data is known to be whole
    NS:workers        hash, the generation each worker reads
    NS:snapshots, NS:s:TOKEN:N, NS:edges      what is published, and who follows it (publications.py)

No braces in these names: they would be hash tags. (A digest's own bytes may contain a pair: such a key is routed by
what stands between them, by us and by the server alike.)

Writing (planning.py, store.py): `apply` works in phases, each one pipeline per primary: measures (which decide what
counts and where it must be written), records, journal, then WAITAOF on every connection that wrote. A crash between any
two writes leaves what the same changes, sent again, complete. Phases of several `apply` calls may interleave: every
write keeps the newer.

Reading (reading.py): one reader per primary. Restarted or promoted primaries count again once the importer has applied
its change log anew and called `mark_reconciled`; an embedded server, whose append-only file is synced on every write
and never changes places, is trusted across restarts.
"""

import asyncio
import os
import re
import struct
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from redis.exceptions import ResponseError

from checker import faults, patience
from checker.core.measure import Addition, Change, Measure, decode
from checker.errors import CheckerError, IndexRefused, IndexUnavailable
from checker.index import functions, generations
from checker.index.base import (
    JOURNAL_KEPT,
    KEY_TIMEOUT_S,
    READ_TIMEOUT_S,
    Applied,
    Head,
    IndexKey,
    JournalPage,
    MeasureInfo,
    Position,
    Stats,
    check_change,
    compare_keys,
    lease_lost,
)
from checker.index.lease import RedisLease, take
from checker.index.node import Node, pack, translate
from checker.index.planning import (
    KEY_BYTES,
    Generation,
    journal_calls,
    measure_calls,
    plan_writes,
    record_calls,
    unpacked,
)
from checker.index.publications import RedisPublications
from checker.index.reading import Ask, Fields, Reader, fields_of, unpromoted
from checker.index.routing import Routing
from checker.index.store import Session, Store, all_of

LEASE_TTL_S: Final = 10.0
JOURNAL_ENTRIES: Final = 1_000_000
_PAGE_ENTRIES: Final = 1000
_AWAY_S: Final = 1.0  # how long a starting reader waits for a shard that does not answer
_SCAN_COUNT: Final = b"500"
_RUNS_PAUSE_S: Final = 0.5


class RedisIndex:
    """An `ExactIndex` on Redis. Make it with `urls.open_index`, or from a `Routing` factory in tests."""

    def __init__(
        self,
        route: Callable[["RedisIndex"], Routing],
        *,
        namespace: str = "xx",
        trusts_restarts: bool = False,
        read_timeout_s: float = READ_TIMEOUT_S,
        lease_ttl_s: float = LEASE_TTL_S,
        journal_entries: int = JOURNAL_ENTRIES,
        write_step: int = 0,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        """`write_step`: send this many writes at a time instead of a whole phase, for fault tests.

        `on_close`: called once when everything is closed (an embedded server's attachment).
        """
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", namespace):
            raise ValueError("namespace: letters, digits, _ and - only; it becomes part of key names and patterns")
        self._trusts_restarts = trusts_restarts
        self._read_timeout_s = read_timeout_s
        self._lease_ttl_s = lease_ttl_s
        self._journal_entries = journal_entries
        self._write_step = write_step
        self._on_close = on_close
        self._routing = route(self)
        self._store = Store(self._routing, namespace)
        self._publications = RedisPublications(self._store, self._trim_journal, self._renew_journal)
        self._key: IndexKey | None = None
        self._generation: Generation | None = None
        self._loading: Generation | None = None
        self._retiring: Generation | None = None
        self._before_switch = 0  # the generation this worker read before, and since when it reads the present one
        self._switched_at = float("-inf")
        self._reported = 0  # the generation last reported, and when; None: this is no worker
        self._reported_at: float | None = None
        self._readers: dict[Node, Reader] = {}
        self._reconciled: frozenset[str] = frozenset()
        self._reconciled_asked_at = float("-inf")
        self._seen_unreconciled: frozenset[str] = frozenset()
        self._lease: RedisLease | None = None
        self._lease_keeper: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def publications(self) -> RedisPublications:
        return self._publications

    @property
    def key(self) -> IndexKey:
        if self._key is None:
            raise IndexUnavailable("the index is not open")
        return self._key

    # Opening

    async def open(self, key: IndexKey, *, create: bool) -> None:
        await self._routing.refresh()
        nodes = self._routing.nodes()
        if create or len(nodes) == 1:
            await all_of([self._store.prepare(node) for node in nodes])
        else:
            await asyncio.gather(*(self._prepare_if_there(node) for node in nodes))
        if create:
            await self._create(key)
        pointer = await generations.pointer(self._store)
        if pointer is None:
            raise IndexRefused("there is no index yet: import a feed into it first")
        generation, stored_key = await generations.read(self._store, pointer.serving)
        compare_keys(stored_key, key)
        self._key = stored_key
        await self._load_reconciled()
        self._generation = generation
        await self._follow_pointer()
        await asyncio.gather(*(self._warm(node) for node in self._routing.nodes()))

    async def _warm(self, node: Node) -> None:
        with suppress(TimeoutError):  # its keys are None until it answers
            await self._reader(node).warm(_AWAY_S)

    async def _prepare_if_there(self, node: Node) -> None:
        """A reader may start while one shard is away: its hits are UNKNOWN meanwhile."""
        with suppress(IndexUnavailable, TimeoutError):
            async with asyncio.timeout(_AWAY_S):
                await self._store.prepare(node)

    async def _create(self, key: IndexKey) -> None:
        store = self._store
        if await generations.pointer(store) is not None:
            return
        first = generations.of(store, 1, base_seq=0)
        # Edges go on reporting to an index that was emptied.
        mine = {*(store.name(name) for name in ("gen", "runs", "importer", "edges")), first.info}
        for node in self._routing.nodes():
            async for names in store.scan_names(node, store.namespace + b":*"):
                if not mine.issuperset(names):
                    raise IndexRefused(
                        f"{node.address} holds keys under {store.namespace.decode()}: but the index has lost its "
                        "description: restore the missing data, or remove these keys and import again"
                    )
        # An index that is empty needs no change log to be whole.
        now = str(time.time_ns() // 1_000_000).encode()
        runs = [part for name in await store.identities() for part in (name.encode(), now)]
        await store.one(store.name("runs"), functions.call(functions.CREATE, store.name("runs"), *runs))
        await generations.create(store, first, key)
        await generations.point_to_first(store)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for reader in list(self._readers.values()):
            await reader.close()
        self._readers.clear()
        self._generation = None
        await self._routing.close()
        if self._on_close is not None:
            self._on_close()
            self._on_close = None

    def forget(self, node: Node) -> None:
        """A node stopped being a primary: its connections are of no use."""
        self._store.forget(node)
        reader = self._readers.pop(node, None)
        if reader is not None:
            self._spawn(reader.close())

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _current(self) -> Generation:
        if self._generation is None:
            raise IndexUnavailable("the index is not open")
        return self._generation

    # Reading

    def _reader(self, node: Node) -> Reader:
        reader = self._readers.get(node)
        if reader is None:
            trusts = None if self._trusts_restarts else self._trusts
            reader = Reader(node, self._read_timeout_s, trusts, self._routing.refresh_soon)
            self._readers[node] = reader
        return reader

    async def get_many(self, keys: Sequence[bytes], timeout_s: float) -> list[tuple[Measure, ...] | None]:
        late = self._reported_at is not None and time.monotonic() - self._reported_at > generations.WORKER_TRUST_S
        if self._generation is None or late:
            return [None] * len(keys)
        prefix = self._generation.key
        places: dict[Node, list[int]] = {}
        for place, key in enumerate(keys):
            node = self._routing.node(prefix + key)
            if node is None:
                self._routing.refresh_soon()
            else:
                places.setdefault(node, []).append(place)
        asked = {node: self._reader(node).ask([prefix + keys[i] for i in at]) for node, at in places.items()}
        full_time_s = self._read_timeout_s + len(keys) * KEY_TIMEOUT_S
        full_time = timeout_s > full_time_s - 0.001  # what is left until a deadline is computed, so never exact
        timer = asyncio.get_running_loop().call_later(
            min(timeout_s, full_time_s), patience.after_turns, self._too_late, asked, full_time
        )
        found: list[tuple[Measure, ...] | None] = [None] * len(keys)
        try:
            for node, ask in asked.items():
                hashes = await ask.answer
                if hashes is not None:
                    for place, fields in zip(places[node], hashes, strict=True):
                        found[place] = _decoded(fields)
        finally:
            timer.cancel()
        return found

    def _too_late(self, asked: dict[Node, Ask], full_time: bool) -> None:
        for node, ask in asked.items():
            if ask.answer.done():
                continue
            reader = self._readers.get(node)
            if full_time and reader is not None:
                reader.late(ask)
            else:
                ask.answer.set_result(None)

    def _trusts(self, name: str) -> bool:
        if name in self._reconciled:
            return True
        now = time.monotonic()
        if now - self._reconciled_asked_at > _RUNS_PAUSE_S:
            self._reconciled_asked_at = now
            self._spawn(self._doubt(name))
        return False

    async def _doubt(self, name: str) -> None:
        """Ask again who is reconciled. A promoted server will never count as what it was before.

        (An hour after its last replica has left, a server forgets that it was promoted.)
        """
        with suppress(CheckerError):  # asked again with the next look-up
            before = unpromoted(name)
            if before is not None:
                name_of_runs = self._store.name("runs")
                await self._store.one(name_of_runs, pack((b"HDEL", name_of_runs, before.encode())))
            await self._load_reconciled()

    async def _load_reconciled(self) -> None:
        self._reconciled_asked_at = time.monotonic()
        names = await self._store.one(self._store.name("runs"), pack((b"HKEYS", self._store.name("runs"))))
        self._reconciled = frozenset(name.decode() for name in names)

    # Writing

    async def apply(self, changes: Sequence[Change]) -> list[Applied]:
        self._current()
        for change in changes:
            check_change(change)
        if self._lease is None:  # the lease's holder knows: it alone changes the pointer
            await self._follow_pointer()
        serving = self._current()
        known = [isinstance(change, Addition) and change.sequence <= serving.base_seq for change in changes]
        written = iter(
            await self.write_generation(serving, [c for c, old in zip(changes, known, strict=True) if not old])
        )
        applied = [Applied.SUPERSEDED if old else next(written) for old in known]
        if self._loading is not None:
            base_seq = self._loading.base_seq
            late = [c for c in changes if not isinstance(c, Addition) or c.sequence > base_seq]
            await self.write_generation(self._loading, late)
        await self._write_retiring(changes)
        return applied

    async def reapply(self, changes: Sequence[Change]) -> None:
        await self.write_generation(self._current(), changes)
        await self._write_retiring(changes)

    async def _write_retiring(self, changes: Sequence[Change]) -> None:
        """Whoever still reads the old generation is to know of removals and exemptions, too."""
        if self._retiring is not None:
            await self.write_generation(self._retiring, [c for c in changes if not isinstance(c, Addition)])

    async def write_generation(self, generation: Generation, changes: Sequence[Change]) -> list[Applied]:
        """The phases, in one generation; durable when it returns."""
        store, session = self._store, Session(self._write_step)
        answers = await store.run(session.call, *measure_calls(generation, changes))
        faults.point("index.after_measures")
        plan = plan_writes(changes, answers)
        changed = dict(
            zip(plan.writes, await store.run(session.call, *record_calls(generation.key, plan)), strict=True)
        )
        faults.point("index.after_records")
        packed = journal_calls(generation.journal, changes, plan.applied, self._journal_entries)
        names = [generation.journal] * len(packed)
        if lifted := sum(changed[key] > 0 for key in plan.lifted):
            packed.append(pack((b"HINCRBY", generation.info, b"lifted", lifted)))
            names.append(generation.info)
        await store.run(session.call, names, packed)
        faults.point("index.after_journal")
        await store.sync(session)
        faults.point("index.after_sync")
        for place, keys in plan.replays.items():
            if any(changed.get(key) for key in keys):
                plan.applied[place] = Applied.APPLIED
        return plan.applied

    # Generations

    @property
    def generation(self) -> int:
        return self._current().number

    async def readers(self) -> int:
        """How many workers have reported lately what they read."""
        return len(await generations.read_by_workers(self._store))

    async def new_generation(self, base_seq: int) -> "Reload":
        """Begin a full reload beside the generation that serves: an empty one, to hold the court's state at `base_seq`.

        Then: `apply` that state to what this returns, and every change after `base_seq` from the change log; verify;
        `switch`. Meanwhile `apply` of this index reaches both. One begun before and not finished is thrown away.
        Only with the lease (IndexRefused).
        """
        serving = self._current()
        await self._must_hold_lease()
        if self._loading is not None:
            await generations.delete(self._store, self._loading)
        _, key = await generations.read(self._store, serving.number)
        number = max(g.number for g in (serving, self._loading, self._retiring) if g is not None) + 1
        loading = generations.of(self._store, number, base_seq)
        await generations.delete(self._store, loading)  # what an interrupted attempt may have left
        await generations.create(self._store, loading, key)
        await generations.begin(self._store, loading)
        self._loading = loading
        return Reload(self, loading)

    async def discard(self) -> None:
        """Delete the generation being loaded: its reload came to nothing. Only with the lease (IndexRefused)."""
        await self._must_hold_lease()
        if self._loading is not None:
            await generations.discarded(self._store)
            loading, self._loading = self._loading, None
            await generations.delete(self._store, loading)

    async def switch(self, generation: int) -> None:
        """Let a loaded generation serve. IndexRefused if it is not the one being loaded, or another still retires.

        Workers notice within a second. Removals and exemptions go to the old generation too until `retire` is done.
        """
        self._current()
        await self._must_hold_lease()
        if self._retiring is not None:
            raise IndexRefused(
                f"generation {self._retiring.number} still retires: wait until every worker has switched"
            )
        await generations.switch(self._store, generation)
        await self._follow_pointer()

    async def retire(self) -> bool:
        """Delete the old generation once every worker reports the new one. True when nothing is left to do.

        False also as long as no worker reports at all: it cannot be told who reads.
        """
        serving = self._current()
        await self._must_hold_lease()
        if self._retiring is None:
            return True
        reading = await generations.read_by_workers(self._store)
        if not reading or any(number != serving.number for number in reading):
            return False
        await generations.delete(self._store, self._retiring)
        await generations.retired(self._store)
        self._retiring = None
        return True

    async def report(self, worker_id: str) -> None:
        if self._reported_at is None:
            self._reported_at = float("-inf")  # no hits before the first report, and none when the last is old
        await self._follow_pointer()
        now = time.monotonic()
        # A look-up begun just before the switch may still be under way.
        settled = now - self._switched_at > generations.SETTLE_S
        number = self._current().number if settled else self._before_switch
        if number == self._reported and now - self._reported_at < generations.WORKER_REPORT_S:
            return
        await generations.report(self._store, worker_id, number)
        reading = self._current()
        await self._follow_pointer()
        if self._current() is reading:  # else it may have been retired before this report came
            self._reported, self._reported_at = number, now

    async def leave(self, worker_id: str) -> None:
        self._reported, self._reported_at = 0, float("-inf")
        await generations.leave(self._store, worker_id)

    async def _follow_pointer(self) -> None:
        current = self._current()
        pointer = await generations.pointer(self._store)
        if pointer is None:
            raise IndexUnavailable("the index has lost its description: restore the missing data")
        if pointer.serving != current.number:
            generation, _ = await generations.read(self._store, pointer.serving)
            if self._generation is current:
                self._before_switch, self._switched_at = current.number, time.monotonic()
                self._generation = generation
        self._loading = await self._generation_of(pointer.loading, self._loading)
        self._retiring = await self._generation_of(pointer.retiring, self._retiring)

    async def _generation_of(self, number: int, known: Generation | None) -> Generation | None:
        if number == 0 or (known is not None and known.number == number):
            return known if number else None
        return (await generations.read(self._store, number))[0]

    async def _must_hold_lease(self) -> None:
        if self._lease is None or not await self._lease.renew():
            raise lease_lost()

    # The importer's lease and the head

    async def head(self) -> Head:
        self._current()
        await self._follow_pointer()
        if not self._trusts_restarts and time.monotonic() - self._reconciled_asked_at > _RUNS_PAUSE_S:
            await self._load_reconciled()  # so that the first hit after a reconciliation is answered
        name = self._store.name("importer")
        stored = await self._store.one(name, pack((b"HMGET", name, b"sequence", b"time", b"gap", b"seen")))
        return Head(*(int(value or 0) for value in stored))

    @asynccontextmanager
    async def lease(self, holder: str) -> AsyncIterator[RedisLease]:
        self._current()
        lease = await take(self._store, holder, self._lease_ttl_s)
        keeper = self._lease_keeper = asyncio.get_running_loop().create_task(lease.keep())
        self._lease = lease
        try:
            await self._follow_pointer()
            yield lease
        finally:
            self._lease = None
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            await lease.release()

    # Scan and journal

    async def scan(self) -> AsyncIterator[list[bytes]]:
        async for batch in self.scan_generation(self._current()):
            yield batch

    async def scan_generation(self, generation: Generation) -> AsyncIterator[list[bytes]]:
        """`scan` of one generation."""
        prefix = generation.key
        version = self._routing.version
        for node in self._routing.nodes():
            await self._store.prepare(node)
            cursor = b"0"
            while True:
                packed = pack((b"FCALL", functions.ACTIVE_KEYS, b"0", cursor, prefix, _SCAN_COUNT))
                (page,) = await node.line("scan").call(packed)
                if isinstance(page, ResponseError):
                    raise translate(node.address, page)
                cursor, found = page
                if found:
                    yield unpacked(found)
                if cursor == b"0":
                    break
        await self._routing.refresh()
        if version != self._routing.version:
            raise IndexUnavailable("the cluster's slots moved during the scan: scan again")

    async def lifted(self) -> int:
        name = self._current().info
        return int(await self._store.one(name, pack((b"HGET", name, b"lifted"))) or 0)

    async def identity(self) -> tuple[str, ...]:
        await self._follow_pointer()  # a scan of what was retired meanwhile is not whole
        generation = self._current().number
        await self._routing.refresh()
        slots = f"slots {self._routing.version}"
        return (*sorted(await self._store.identities()), slots, f"generation {generation}")

    async def journal_end(self) -> Position:
        generation = self._current()
        journal_id = await self._journal_id(generation)
        return Position(journal_id, await self._last_entry(generation))

    async def _journal_id(self, generation: Generation) -> bytes:
        journal_id = await self._store.one(generation.info, pack((b"HGET", generation.info, b"journal")))
        if not isinstance(journal_id, bytes):
            raise IndexUnavailable(f"generation {generation.number} of the index is gone: open it again")
        return journal_id

    async def _last_entry(self, generation: Generation) -> int:
        name = generation.journal
        newest = await self._store.one(name, pack((b"XREVRANGE", name, b"+", b"-", b"COUNT", b"1")))
        return _entry_number(newest[0][0]) if newest else 0

    async def journal_read(self, position: Position, block_s: float) -> JournalPage:
        await self._follow_pointer()  # whoever follows a journal is to hear of another one
        generation = self._current()
        if await self._journal_id(generation) != position.journal_id:
            return JournalPage([], await self.journal_end(), reset=True)
        page = await self._read_entries(generation, position, 0)
        if page is not None:
            return page
        if await self._last_entry(generation) < position.entry:
            return JournalPage([], await self.journal_end(), reset=True)
        if block_s > 0:
            page = await self._read_entries(generation, position, block_s)
        return page or JournalPage([], position, reset=False)

    async def _read_entries(self, generation: Generation, position: Position, block_s: float) -> JournalPage | None:
        name = generation.journal
        node = self._routing.node(name)
        if node is None:
            raise IndexUnavailable("the cluster has no primary for the journal")
        block = (b"BLOCK", max(1, int(block_s * 1000))) if block_s > 0 else ()
        packed = pack(
            (b"XREAD", b"COUNT", _PAGE_ENTRIES, *block, b"STREAMS", name, b"%d-0" % position.entry),
        )
        line = node.line("journal" if block else "look")
        (streams,) = await line.call(packed, timeout_s=block_s + 5)
        if isinstance(streams, ResponseError):
            self._routing.refresh_soon()
            raise translate(node.address, streams)
        if not streams:
            return None
        entries = streams[0][1]
        if _entry_number(entries[0][0]) != position.entry + 1:  # trimmed away meanwhile
            return JournalPage([], await self.journal_end(), reset=True)
        keys = [key for _, (_, packed_keys) in entries for key in unpacked(packed_keys)]
        return JournalPage(keys, Position(position.journal_id, _entry_number(entries[-1][0])), reset=False)

    async def _trim_journal(self, kept: Sequence[Position]) -> None:
        """Forget what no kept epoch needs: nobody follows from further back, but for nodes' filter files."""
        generation = self._current()
        journal_id = await self._journal_id(generation)
        if not kept or kept[0].journal_id != journal_id:
            return  # published from a journal that is no more
        needed = min(position.entry for position in kept if position.journal_id == journal_id)
        first = min(needed, await self._last_entry(generation) - JOURNAL_KEPT) + 1
        if first > 1:
            name = generation.journal
            await self._store.one(name, pack((b"XTRIM", name, b"MINID", b"%d-0" % first)))

    async def _renew_journal(self) -> None:
        """Everybody who follows the journal is reset."""
        name = self._current().info
        await self._store.one(name, pack((b"HSET", name, b"journal", os.urandom(8))))

    # Reconciliation

    async def primaries_unreconciled(self) -> list[str]:
        self._current()
        await self._routing.refresh()
        await self._load_reconciled()
        self._seen_unreconciled = frozenset(
            () if self._trusts_restarts else set(await self._store.identities()) - self._reconciled
        )
        return sorted(self._seen_unreconciled)

    async def mark_reconciled(self) -> None:
        generation = self._current()
        await self._must_hold_lease()
        marked = self._seen_unreconciled
        if not marked:
            return
        await self._routing.refresh()
        present = await self._store.identities()
        holder = self._routing.node(generation.journal)
        home = present[self._routing.nodes().index(holder)] if holder in self._routing.nodes() else ""
        if home in marked or home not in self._reconciled:
            # Followers may have read entries which that server has lost and numbered anew.
            await self._renew_journal()
        now = str(time.time_ns() // 1_000_000).encode()
        # Only the present primaries: one that is demoted and promoted again must be reconciled again.
        kept = [name for name in present if name in marked or name in self._reconciled]
        runs = [part for name in kept for part in (name.encode(), now)]
        await self._store.one(
            self._store.name("runs"), functions.call(functions.REPLACE, self._store.name("runs"), *runs)
        )
        self._seen_unreconciled = frozenset()
        await self._load_reconciled()

    # For the operator

    async def measure(self, measure_id: str) -> MeasureInfo | None:
        name = self._current().measure(measure_id)
        fields = fields_of(await self._store.one(name, pack((b"HGETALL", name))))
        if not fields:
            return None
        addition, removal = fields.get(b"a", bytes(8)), fields.get(b"r", bytes(9))
        court, _, case_number = fields.get(b"c", b"").decode().partition("\0")
        added, removed = int.from_bytes(addition[:8], "big"), int.from_bytes(removal[:8], "big")
        if removed < added:
            removed, removal = 0, bytes(9)
        keys = (len(addition) - 8) // KEY_BYTES
        return MeasureInfo(measure_id, court, case_number, added, removed, removal[9:].decode(), keys)

    async def stats(self) -> Stats:
        generation = self._current()
        nodes = self._routing.nodes()
        keys, memory, warnings = 0, 0, []
        for node, report in zip(nodes, await all_of([self._node_stats(n, generation) for n in nodes]), strict=True):
            keys += report[0]
            memory += report[1]
            warnings += [f"{node.address}: {warning}" for warning in report[2]]
        unreconciled = await self.primaries_unreconciled() if not self._trusts_restarts else []
        if unreconciled:
            warnings.append(
                f"{len(unreconciled)} of {len(nodes)} primaries restarted or changed role: their hits are UNKNOWN "
                "until an import has applied the change log again"
            )
        end = await self.journal_end()
        entries = await self._store.one(generation.journal, pack((b"XLEN", generation.journal)))
        return Stats(keys, memory, generation.number, end, entries, len(nodes), tuple(warnings))

    async def _node_stats(self, node: Node, generation: Generation) -> tuple[int, int, list[str]]:
        await self._store.prepare(node)
        size, info, config, sample = await node.line("admin").call(
            pack((b"DBSIZE",)),
            pack((b"INFO", b"memory")),
            pack((b"CONFIG", b"GET", b"*")),
            pack((b"SCAN", b"0", b"COUNT", b"2000")),
        )
        for reply in (size, info, sample):
            if isinstance(reply, ResponseError):
                raise translate(node.address, reply)
        used = re.search(rb"used_memory:(\d+)", info)
        names = sample[1]
        lookups = sum(name.startswith(generation.key) for name in names)
        keys = round(size * lookups / len(names)) if names else 0
        settings = None if isinstance(config, ResponseError) else fields_of(config)
        return keys, int(used[1]) if used else 0, _weaknesses(settings, await self._store.has_waitaof(node))


class Reload:
    """A generation being loaded."""

    def __init__(self, index: RedisIndex, generation: Generation) -> None:
        self._index = index
        self._generation = generation

    @property
    def number(self) -> int:
        """For `RedisIndex.switch`."""
        return self._generation.number

    async def apply(self, changes: Sequence[Change]) -> list[Applied]:
        """As `RedisIndex.apply`, into this generation only, whatever its `base_seq`."""
        for change in changes:
            check_change(change)
        return await self._index.write_generation(self._generation, changes)

    def scan(self) -> AsyncIterator[list[bytes]]:
        """As `RedisIndex.scan`, of this generation: count and sample it before the switch."""
        return self._index.scan_generation(self._generation)


def _decoded(fields: Fields | None) -> tuple[Measure, ...] | None:
    if fields is None:
        return None
    if not fields:
        return ()
    try:
        return decode(fields_of(fields))
    except (struct.error, ValueError):
        return None  # not written by us: nothing can be said of this key


def _entry_number(entry_id: bytes) -> int:
    return int(entry_id.partition(b"-")[0])


def _weaknesses(settings: dict[bytes, bytes] | None, has_waitaof: bool) -> list[str]:
    """Where a server keeps less than promised, one line each."""
    if settings is None:
        return ["CONFIG may not be read with this user: persistence and limits are unchecked"]
    found = []
    if settings.get(b"appendonly") != b"yes":
        found.append("appendonly is off: a restart loses what was acknowledged since the last snapshot")
    elif settings.get(b"appendfsync") != b"always" and not has_waitaof:
        found.append("appendfsync is not always and there is no WAITAOF: a power cut may lose acknowledged changes")
    elif settings.get(b"appendfsync") == b"no":
        found.append("appendfsync is no: the system decides when writes reach the disk, acknowledgements wait for it")
    if settings.get(b"maxmemory", b"0") != b"0" and settings.get(b"maxmemory-policy") != b"noeviction":
        found.append("maxmemory-policy is not noeviction: measures may vanish when memory runs short")
    for name, least in ((b"hash-max-listpack-value", 256), (b"hash-max-listpack-entries", 128)):
        value = settings.get(name)
        if value is not None and int(value) < least:
            found.append(f"{name.decode()} is {value.decode()}: at least {least} halves the memory per key")
    return found
