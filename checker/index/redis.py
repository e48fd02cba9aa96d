"""The exact index on Redis 7 or Valkey, one server or a cluster. Names of keys, order of writes, what is trusted.

    NS:GEN:k:DIGEST   hash, a record per measure and an entry per exemption (core.measure has the bytes)
    NS:GEN:m:ID       hash, what a measure knows of itself (functions.lua has the fields)
    NS:GEN:j          stream, the journal of additions; entries are numbered 1-0, 2-0, ... without a hole
    NS:GEN:info       hash, journal id, digest key id and check value, base_seq
    NS:gen            hash, the generation that serves (and one being loaded, one being retired)
    NS:importer       hash, the importer's lease and the head it guards: one key, so that the fence is atomic
    NS:runs           hash, identities of the primaries whose data is known to be whole
    NS:workers        hash, the generation each worker reads

No braces in these names: they would be hash tags. (A digest's own bytes may contain a pair: such a key is routed by
what stands between them, by us and by the server alike.)

Writing: `apply` works in phases, each one pipeline per primary: measures (which decide what counts and where it must
be written), records, journal, then WAITAOF on every connection that wrote. A crash between any two writes leaves what
the same changes, sent again, complete. Phases of several `apply` calls may interleave: every write keeps the newer.

Reading: `reading.Reader`, one per primary. Restarted or promoted primaries count again once the importer has applied
its change log anew and called `mark_reconciled`; an embedded server, whose append-only file is synced on every write
and never changes places, is trusted across restarts.
"""

import asyncio
import os
import re
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final, NamedTuple
from uuid import uuid4

from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    ResponseError,
    TryAgainError,
)

from checker import faults
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
    record_field,
    tombstone,
)
from checker.errors import CheckerError, IndexRefused, IndexUnavailable
from checker.index.base import (
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
    lease_held,
    lease_lost,
)
from checker.index.node import Node, pack, translate
from checker.index.reading import Ask, Fields, Reader, fields_of, identity, unpromoted
from checker.index.routing import OneServer, Routing

LEASE_TTL_S: Final = 10.0
JOURNAL_ENTRIES: Final = 1_000_000
_LIBRARY: Final = "xianxiao_1"
_KEY_BYTES: Final = 16
_WINDOW_BYTES: Final = len(encode_window(0, Window(0, 0, 0)))
_ENTRY_KEYS: Final = 250  # one entry fills one node (4 kB) of the stream
_APPEND_ENTRIES: Final = 200
_PAGE_ENTRIES: Final = 1000
_AWAY_S: Final = 1.0  # how long a starting reader waits for a shard that does not answer
_SCAN_COUNT: Final = b"500"
_SYNC_TIMEOUT_MS: Final = 5_000
_REDIRECTIONS: Final = 8
_RUNS_PAUSE_S: Final = 0.5
_OUTCOMES: Final = {1: Applied.APPLIED, 2: Applied.UNCHANGED, 3: Applied.SUPERSEDED}
_REDIRECTED: Final = (MovedError, AskError, TryAgainError, ClusterDownError)
_WAITAOF: Final = pack((b"WAITAOF", b"1", b"0", str(_SYNC_TIMEOUT_MS).encode()))
_ASKING: Final = pack((b"ASKING",))


def _function(name: str) -> bytes:
    return f"{_LIBRARY}_{name}".encode()


_ADD: Final = _function("measure_add")
_REMOVE: Final = _function("measure_remove")
_EXEMPT: Final = _function("measure_exempt")
_PUT: Final = _function("key_put")
_APPEND: Final = _function("journal_append")
_ACTIVE: Final = _function("active_keys")
_TAKE: Final = _function("importer_take")
_RENEW: Final = _function("importer_renew")
_RELEASE: Final = _function("importer_release")
_ADVANCE: Final = _function("importer_advance")
_CREATE: Final = _function("create")
_REPLACE: Final = _function("replace")


def _call(function: bytes, name: bytes, *args: bytes) -> bytes:
    return pack((b"FCALL", function, b"1", name, *args))


def _sequence(number: int) -> bytes:
    return number.to_bytes(8, "big")


def _library_code() -> bytes:
    return files("checker.index").joinpath("functions.lua").read_bytes()


@dataclass(frozen=True, slots=True)
class _Generation:
    number: int
    prefix: bytes  # b"NS:GEN:"
    base_seq: int

    @property
    def key(self) -> bytes:
        return self.prefix + b"k:"

    @property
    def journal(self) -> bytes:
        return self.prefix + b"j"

    @property
    def info(self) -> bytes:
        return self.prefix + b"info"

    def measure(self, measure_id: str) -> bytes:
        return self.prefix + b"m:" + measure_id.encode()


class _Plan(NamedTuple):
    """What the measures' answers ask for."""

    applied: list[Applied]
    writes: dict[bytes, dict[bytes, bytes]]  # lookup key -> field -> newest value
    replays: dict[int, list[bytes]]  # change known already -> keys that are written again


class _Session:
    """The connections one `apply` writes on: a lost one means that nothing is known to be synced."""

    def __init__(self, step: int) -> None:
        self._step = step
        self._opened: dict[Node, int] = {}

    async def call(self, node: Node, commands: Sequence[bytes]) -> list[Any]:
        line = node.line("write")
        self._opened[node], replies = await line.call_on(self._opened.get(node), commands, step=self._step)
        return replies

    @property
    def touched(self) -> list[Node]:
        return list(self._opened)


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
        self._namespace = namespace.encode()
        self._trusts_restarts = trusts_restarts
        self._read_timeout_s = read_timeout_s
        self._lease_ttl_s = lease_ttl_s
        self._journal_entries = journal_entries
        self._write_step = write_step
        self._on_close = on_close
        self._routing = route(self)
        self._generation: _Generation | None = None
        self._prepared: dict[Node, bool] = {}  # whether the server has WAITAOF
        self._readers: dict[Node, Reader] = {}
        self._reconciled: frozenset[str] = frozenset()
        self._reconciled_asked_at = float("-inf")
        self._seen_unreconciled: frozenset[str] = frozenset()
        self._lease: _RedisLease | None = None
        self._lease_keeper: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # Opening

    async def open(self, key: IndexKey, *, create: bool) -> None:
        await self._routing.refresh()
        nodes = self._routing.nodes()
        if create or len(nodes) == 1:
            await _all([self._prepare(node) for node in nodes])
        else:
            await asyncio.gather(*(self._prepare_if_there(node) for node in nodes))
        if create:
            await self._create(key)
        number = await self._serving()
        if number is None:
            raise IndexRefused("there is no index yet: import a feed into it first")
        generation, stored_key = await self._read_generation(number)
        compare_keys(stored_key, key)
        await self._load_reconciled()
        self._generation = generation
        await asyncio.gather(*(self._warm(node) for node in self._routing.nodes()))

    async def _warm(self, node: Node) -> None:
        with suppress(TimeoutError):  # its keys are None until it answers
            await self._reader(node).warm(_AWAY_S)

    async def _prepare_if_there(self, node: Node) -> None:
        """A reader may start while one shard is away: its hits are UNKNOWN meanwhile."""
        with suppress(IndexUnavailable, TimeoutError):
            async with asyncio.timeout(_AWAY_S):
                await self._prepare(node)

    async def _prepare(self, node: Node) -> None:
        """Load the functions where they are missing, learn what the server can do; once per server."""
        if node in self._prepared:
            return
        listed, cluster, synced = await node.line("admin").call(
            pack((b"FUNCTION", b"LIST", b"LIBRARYNAME", _LIBRARY, b"WITHCODE")),
            pack((b"INFO", b"cluster")),
            pack((b"WAITAOF", b"1", b"0", b"1")),
        )
        if isinstance(cluster, bytes) and b"cluster_enabled:1" in cluster and isinstance(self._routing, OneServer):
            raise IndexRefused(f"{node.address} is part of a cluster: use redis+cluster://HOST:PORT,HOST:PORT")
        if isinstance(listed, ResponseError) and not isinstance(listed, NoPermissionError):
            raise IndexRefused(
                f"{node.address} has no functions ({type(listed).__name__}): use Redis 7 or newer, or Valkey"
            )
        if isinstance(listed, list):
            code = _library_code()
            if not any(code in library for library in listed):
                await self._load_functions(node, code)
        self._prepared[node] = isinstance(synced, list)

    async def _load_functions(self, node: Node, code: bytes) -> None:
        (loaded,) = await node.line("admin").call(pack((b"FUNCTION", b"LOAD", b"REPLACE", code)))
        if isinstance(loaded, ResponseError):
            raise translate(node.address, loaded)

    async def _create(self, key: IndexKey) -> None:
        if await self._serving() is not None:
            return
        prefix = self._namespace + b":1:"
        mine = {self._name("gen"), self._name("runs"), self._name("importer"), prefix + b"info"}
        for node in self._routing.nodes():
            async for names in self._scan_names(node, self._namespace + b":*"):
                if not mine.issuperset(names):
                    raise IndexRefused(
                        f"{node.address} holds keys under {self._namespace.decode()}: but the index has lost its "
                        "description: restore the missing data, or remove these keys and import again"
                    )
        # An index that is empty needs no change log to be whole.
        now = str(time.time_ns() // 1_000_000).encode()
        runs = [part for name in await self._identities() for part in (name.encode(), now)]
        await self._one(self._name("runs"), _call(_CREATE, self._name("runs"), *runs))
        await self._one(
            prefix + b"info",
            _call(
                _CREATE,
                prefix + b"info",
                *(b"journal", os.urandom(8), b"key_id", key.key_id.encode()),
                *(b"check_value", key.check_value, b"base_seq", b"0"),
            ),
        )
        await self._one(self._name("gen"), _call(_CREATE, self._name("gen"), b"serving", b"1"))

    async def _serving(self) -> int | None:
        number = await self._one(self._name("gen"), pack((b"HGET", self._name("gen"), b"serving")))
        return None if number is None else int(number)

    async def _read_generation(self, number: int) -> tuple[_Generation, IndexKey]:
        prefix = self._namespace + b":%d:" % number
        info = fields_of(await self._one(prefix + b"info", pack((b"HGETALL", prefix + b"info"))))
        if not info:
            raise IndexRefused(f"generation {number} of the index has lost its description: import again")
        key = IndexKey(info[b"key_id"].decode(), info[b"check_value"])
        return _Generation(number, prefix, int(info[b"base_seq"])), key

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
        self._prepared.pop(node, None)
        reader = self._readers.pop(node, None)
        if reader is not None:
            self._spawn(reader.close())

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _name(self, name: str) -> bytes:
        return self._namespace + b":" + name.encode()

    def _current(self) -> _Generation:
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
        if self._generation is None:
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
        timer = asyncio.get_running_loop().call_later(min(timeout_s, full_time_s), self._too_late, asked, full_time)
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
                await self._one(self._name("runs"), pack((b"HDEL", self._name("runs"), before.encode())))
            await self._load_reconciled()

    async def _load_reconciled(self) -> None:
        self._reconciled_asked_at = time.monotonic()
        names = await self._one(self._name("runs"), pack((b"HKEYS", self._name("runs"))))
        self._reconciled = frozenset(name.decode() for name in names)

    # Writing

    async def apply(self, changes: Sequence[Change]) -> list[Applied]:
        generation = self._current()
        for change in changes:
            check_change(change)
        session = _Session(self._write_step)
        answers = await self._run(session.call, *_measure_calls(generation, changes))
        faults.point("index.after_measures")
        plan = _plan(changes, answers)
        names = [generation.key + key for key in plan.writes]
        packed = [
            pack((b"FCALL", _PUT, b"1", name, *[part for pair in fields.items() for part in pair]))
            for name, fields in zip(names, plan.writes.values(), strict=True)
        ]
        changed = dict(zip(plan.writes, await self._run(session.call, names, packed), strict=True))
        faults.point("index.after_records")
        packed = _journal_calls(generation.journal, changes, plan.applied, self._journal_entries)
        await self._run(session.call, [generation.journal] * len(packed), packed)
        faults.point("index.after_journal")
        await self._sync(session)
        faults.point("index.after_sync")
        for place, keys in plan.replays.items():
            if any(changed.get(key) for key in keys):
                plan.applied[place] = Applied.APPLIED
        return plan.applied

    async def _sync(self, session: _Session) -> None:
        """Wait until everything written on these connections is on disk, where the server can tell."""
        nodes = [node for node in session.touched if self._prepared.get(node)]
        for node, (synced,) in zip(nodes, await _all([session.call(node, [_WAITAOF]) for node in nodes]), strict=True):
            _must_be_synced(node, synced)

    async def _run(
        self, call: Callable[[Node, Sequence[bytes]], Any], names: list[bytes], packed: list[bytes]
    ) -> list[Any]:
        """One pipeline per primary; follows a cluster's redirections; raises on any other error answer.

        Every function may be called twice, so what was redirected is simply sent again.
        """
        if not names:
            return []
        replies: list[Any] = [None] * len(names)
        todo = list(range(len(names)))
        asking: dict[int, Node] = {}
        for attempt in range(_REDIRECTIONS):
            batches: dict[Node, list[int]] = {}
            for place in todo:
                node = asking.get(place) or self._routing.node(names[place])
                if node is None:
                    raise IndexUnavailable("the cluster has no primary for some keys: see CLUSTER INFO")
                batches.setdefault(node, []).append(place)
            for node in batches:
                await self._prepare(node)
            answers = await _all(
                [
                    _asking(call(node, _with_asking(packed, places, asking)), places, asking)
                    for node, places in batches.items()
                ]
            )
            todo, asking = [], {}
            for (node, places), answered in zip(batches.items(), answers, strict=True):
                for place, reply in zip(places, answered, strict=True):
                    replies[place] = reply
                    if isinstance(reply, AskError):
                        asking[place] = self._routing.by_address(reply.host, reply.port)
                        todo.append(place)
                    elif isinstance(reply, _REDIRECTED):
                        todo.append(place)
                    elif isinstance(reply, ResponseError):
                        if "Function not found" not in str(reply):
                            raise translate(node.address, reply)
                        await self._load_functions(node, _library_code())
                        todo.append(place)
            if not todo:
                return replies
            if len(asking) < len(todo):
                await self._routing.refresh()
                await asyncio.sleep(0.02 * 2**attempt)
        raise IndexUnavailable("the cluster keeps redirecting: it is being rearranged or lacks primaries; try again")

    async def _one(self, name: bytes, packed: bytes, use: str = "admin") -> Any:
        """One command on the primary that holds `name`."""

        async def call(node: Node, commands: Sequence[bytes]) -> list[Any]:
            return await node.line(use).call(*commands)

        return (await self._run(call, [name], [packed]))[0]

    async def fenced(self, name: bytes, packed: bytes) -> bool:
        """One of the importer's own functions: whether it was let through; on disk when this returns."""

        async def call(node: Node, commands: Sequence[bytes]) -> list[Any]:
            if not self._prepared.get(node):
                return await node.line("lease").call(*commands)
            *replies, synced = await node.line("lease").call(*commands, _WAITAOF)
            _must_be_synced(node, synced)
            return replies

        return bool((await self._run(call, [name], [packed]))[0] == 1)

    # The importer's lease and the head

    async def head(self) -> Head:
        self._current()
        name = self._name("importer")
        stored = await self._one(name, pack((b"HMGET", name, b"sequence", b"time", b"gap")))
        return Head(*(int(value or 0) for value in stored))

    @asynccontextmanager
    async def lease(self, holder: str) -> AsyncIterator["_RedisLease"]:
        self._current()
        name = self._name("importer")
        attempt = uuid4().hex.encode()
        milliseconds = str(int(self._lease_ttl_s * 1000)).encode()
        described = f"{holder} on {socket.gethostname()} (process {os.getpid()})"
        replaces = b""
        while True:
            take = _call(_TAKE, name, described.encode(), _place().encode(), attempt, milliseconds, replaces)
            taken, token, *present = await self._one(name, take, "lease")
            if taken:
                break
            other, place, since = present
            if replaces == token or not _is_dead(place.decode()):
                raise lease_held(other.decode(), int(since))
            replaces = token  # its process on this machine is gone: no need to wait for the lease to run out
        lease = _RedisLease(self, name, token, milliseconds, self._lease_ttl_s / 3)
        keeper = self._lease_keeper = asyncio.get_running_loop().create_task(lease.keep())
        self._lease = lease
        try:
            yield lease
        finally:
            self._lease = None
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            await lease.release()

    # Scan and journal

    async def scan(self) -> AsyncIterator[list[bytes]]:
        prefix = self._current().key
        version = self._routing.version
        for node in self._routing.nodes():
            await self._prepare(node)
            cursor = b"0"
            while True:
                packed = pack((b"FCALL", _ACTIVE, b"0", cursor, prefix, _SCAN_COUNT))
                (page,) = await node.line("scan").call(packed)
                if isinstance(page, ResponseError):
                    raise translate(node.address, page)
                cursor, found = page
                if found:
                    yield [found[i : i + _KEY_BYTES] for i in range(0, len(found), _KEY_BYTES)]
                if cursor == b"0":
                    break
        await self._routing.refresh()
        if version != self._routing.version:
            raise IndexUnavailable("the cluster's slots moved during the scan: scan again")

    async def _scan_names(self, node: Node, pattern: bytes) -> AsyncIterator[list[bytes]]:
        cursor = b"0"
        while True:
            (page,) = await node.line("scan").call(pack((b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"1000")))
            if isinstance(page, ResponseError):
                raise translate(node.address, page)
            cursor, names = page
            yield names
            if cursor == b"0":
                return

    async def journal_end(self) -> Position:
        generation = self._current()
        journal_id = await self._journal_id(generation)
        return Position(journal_id, await self._last_entry(generation))

    async def _journal_id(self, generation: _Generation) -> bytes:
        journal_id = await self._one(generation.info, pack((b"HGET", generation.info, b"journal")))
        if not isinstance(journal_id, bytes):
            raise IndexUnavailable(f"generation {generation.number} of the index is gone: open it again")
        return journal_id

    async def _last_entry(self, generation: _Generation) -> int:
        name = generation.journal
        newest = await self._one(name, pack((b"XREVRANGE", name, b"+", b"-", b"COUNT", b"1")))
        return _entry_number(newest[0][0]) if newest else 0

    async def journal_read(self, position: Position, block_s: float) -> JournalPage:
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

    async def _read_entries(self, generation: _Generation, position: Position, block_s: float) -> JournalPage | None:
        name = generation.journal
        node = self._routing.node(name)
        if node is None:
            raise IndexUnavailable("the cluster has no primary for the journal")
        block = (b"BLOCK", max(1, int(block_s * 1000))) if block_s > 0 else ()
        packed = pack(
            (b"XREAD", b"COUNT", _PAGE_ENTRIES, *block, b"STREAMS", name, b"%d-0" % position.entry),
        )
        (streams,) = await node.line("journal").call(packed, timeout_s=block_s + 5)
        if isinstance(streams, ResponseError):
            self._routing.refresh_soon()
            raise translate(node.address, streams)
        if not streams:
            return None
        entries = streams[0][1]
        if _entry_number(entries[0][0]) != position.entry + 1:  # trimmed away meanwhile
            return JournalPage([], await self.journal_end(), reset=True)
        keys = [
            packed_keys[i : i + _KEY_BYTES]
            for _, (_, packed_keys) in entries
            for i in range(0, len(packed_keys), _KEY_BYTES)
        ]
        return JournalPage(keys, Position(position.journal_id, _entry_number(entries[-1][0])), reset=False)

    # Reconciliation

    async def _identities(self) -> list[str]:
        nodes = self._routing.nodes()
        lines = [node.line("admin").call(pack((b"INFO", b"server", b"replication"))) for node in nodes]
        found = []
        for node, (info,) in zip(nodes, await _all(lines), strict=True):
            if isinstance(info, ResponseError):
                raise translate(node.address, info)
            found.append(identity(info))
        return found

    async def primaries_unreconciled(self) -> list[str]:
        self._current()
        await self._routing.refresh()
        await self._load_reconciled()
        self._seen_unreconciled = frozenset(
            () if self._trusts_restarts else set(await self._identities()) - self._reconciled
        )
        return sorted(self._seen_unreconciled)

    async def mark_reconciled(self) -> None:
        generation = self._current()
        if self._lease is None or not await self._lease.renew():
            raise lease_lost()
        marked = self._seen_unreconciled
        if not marked:
            return
        await self._routing.refresh()
        present = await self._identities()
        holder = self._routing.node(generation.journal)
        home = present[self._routing.nodes().index(holder)] if holder in self._routing.nodes() else ""
        if home in marked or home not in self._reconciled:
            # Followers may have read entries which that server has lost and numbered anew.
            journal_id = pack((b"HSET", generation.info, b"journal", os.urandom(8)))
            await self._one(generation.info, journal_id)
        now = str(time.time_ns() // 1_000_000).encode()
        # Only the present primaries: one that is demoted and promoted again must be reconciled again.
        kept = [name for name in present if name in marked or name in self._reconciled]
        runs = [part for name in kept for part in (name.encode(), now)]
        await self._one(self._name("runs"), _call(_REPLACE, self._name("runs"), *runs))
        self._seen_unreconciled = frozenset()
        await self._load_reconciled()

    # For the operator

    async def measure(self, measure_id: str) -> MeasureInfo | None:
        name = self._current().measure(measure_id)
        fields = fields_of(await self._one(name, pack((b"HGETALL", name))))
        if not fields:
            return None
        addition, removal = fields.get(b"a", bytes(8)), fields.get(b"r", bytes(9))
        court, _, case_number = fields.get(b"c", b"").decode().partition("\0")
        added, removed = int.from_bytes(addition[:8], "big"), int.from_bytes(removal[:8], "big")
        if removed < added:
            removed, removal = 0, bytes(9)
        keys = (len(addition) - 8) // _KEY_BYTES
        return MeasureInfo(measure_id, court, case_number, added, removed, removal[9:].decode(), keys)

    async def stats(self) -> Stats:
        generation = self._current()
        nodes = self._routing.nodes()
        keys, memory, warnings = 0, 0, []
        for node, report in zip(nodes, await _all([self._node_stats(n, generation) for n in nodes]), strict=True):
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
        entries = await self._one(generation.journal, pack((b"XLEN", generation.journal)))
        return Stats(keys, memory, generation.number, end, entries, len(nodes), tuple(warnings))

    async def _node_stats(self, node: Node, generation: _Generation) -> tuple[int, int, list[str]]:
        await self._prepare(node)
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
        return keys, int(used[1]) if used else 0, _weaknesses(settings, self._prepared[node])


def _decoded(fields: Fields | None) -> tuple[Measure, ...] | None:
    if fields is None:
        return None
    if not fields:
        return ()
    try:
        return decode(fields_of(fields))
    except (struct.error, ValueError):
        return None  # not written by us: nothing can be said of this key


def _measure_calls(generation: _Generation, changes: Sequence[Change]) -> tuple[list[bytes], list[bytes]]:
    """First phase: one call per change, on its measure."""
    names, packed = [], []
    for change in changes:
        name = generation.measure(change.measure_id)
        sequence = _sequence(change.sequence)
        if isinstance(change, Addition):
            about = f"{change.court}\0{change.case_number}".encode()
            call = pack((b"FCALL", _ADD, b"1", name, sequence, b"".join(change.records), about))
        elif isinstance(change, Removal):
            call = _call(_REMOVE, name, sequence, bytes([change.state]), change.reason.encode())
        else:
            call = _call(_EXEMPT, name, sequence, encode_window(change.sequence, change.window), b"".join(change.keys))
        names.append(name)
        packed.append(call)
    return names, packed


def _plan(changes: Sequence[Change], answers: Sequence[Any]) -> _Plan:
    """Second phase, from the measures' answers: which fields to write under which lookup keys."""
    plan = _Plan([], {}, {})
    writes = plan.writes
    for place, (change, answer) in enumerate(zip(changes, answers, strict=True)):
        if answer == 1:  # an addition of a measure never seen before: the common case in an import
            plan.applied.append(Applied.APPLIED)
            field = change.measure_id.encode()
            for key, record in change.records.items():  # type: ignore[union-attr] # only additions answer so
                if key in writes:
                    _put(writes, key, field, record)
                else:
                    writes[key] = {field: record}
            continue
        if answer == 3:  # an addition
            plan.applied.append(Applied.SUPERSEDED)
            continue
        verdict = _OUTCOMES[answer[0]]
        plan.applied.append(verdict)
        written = _plan_known(writes, change, answer)
        if verdict is Applied.UNCHANGED:
            plan.replays[place] = written
    return plan


def _plan_known(writes: dict[bytes, dict[bytes, bytes]], change: Change, answer: list[Any]) -> list[bytes]:
    """The writes of a change that met a measure with a history. Returns the keys written."""
    keys = _unpacked(answer[1])
    if isinstance(change, Exemption):
        value = encode_window(change.sequence, change.window)
        for key in keys:
            _put(writes, key, exemption_field(change.measure_id, change.sequence), value)
        return keys
    field = record_field(change.measure_id)
    if isinstance(change, Removal):
        record = tombstone(change.sequence, change.state)
        for key in keys:
            _put(writes, key, field, record)
        return keys
    for key in keys:
        if key in change.records:
            _put(writes, key, field, change.records[key])
    dropped = _unpacked(answer[2])
    for key in dropped:
        _put(writes, key, field, tombstone(change.sequence, State.SHIELDED))
    for sequence, exemption in zip(answer[3::2], answer[4::2], strict=True):
        subset = set(_unpacked(exemption[_WINDOW_BYTES:]))
        for key in keys:
            if not subset or key in subset:
                exempted = exemption_field(change.measure_id, int.from_bytes(sequence, "big"))
                _put(writes, key, exempted, exemption[:_WINDOW_BYTES])
    return keys + dropped


def _put(writes: dict[bytes, dict[bytes, bytes]], key: bytes, field: bytes, value: bytes) -> None:
    """Of several writes to one field in a batch only the newest is sent."""
    fields = writes.setdefault(key, {})
    if field not in fields or fields[field][:9] < value[:9]:
        fields[field] = value


def _unpacked(keys: bytes) -> list[bytes]:
    return [keys[i : i + _KEY_BYTES] for i in range(0, len(keys), _KEY_BYTES)]


def _journal_calls(name: bytes, changes: Sequence[Change], applied: list[Applied], kept: int) -> list[bytes]:
    """Third phase: the keys of every addition that was not superseded, packed into entries."""
    keys = [
        key
        for change, verdict in zip(changes, applied, strict=True)
        if isinstance(change, Addition) and verdict is not Applied.SUPERSEDED
        for key in change.records
    ]
    entries = [b"".join(keys[i : i + _ENTRY_KEYS]) for i in range(0, len(keys), _ENTRY_KEYS)]
    return [
        _call(_APPEND, name, str(kept).encode(), *entries[i : i + _APPEND_ENTRIES])
        for i in range(0, len(entries), _APPEND_ENTRIES)
    ]


def _entry_number(entry_id: bytes) -> int:
    return int(entry_id.partition(b"-")[0])


def _with_asking(packed: list[bytes], places: list[int], asking: dict[int, Node]) -> list[bytes]:
    if not asking:
        return [packed[place] for place in places] if len(places) < len(packed) else packed
    return [
        command for place in places for command in ((_ASKING, packed[place]) if place in asking else (packed[place],))
    ]


async def _asking(call: Any, places: list[int], asking: dict[int, Node]) -> list[Any]:
    """The answers of a pipeline without those to ASKING."""
    replies: list[Any] = await call
    if not asking:
        return replies
    rest = iter(replies)
    kept = []
    for place in places:
        if place in asking:
            next(rest)
        kept.append(next(rest))
    return kept


async def _all(calls: list[Any]) -> list[Any]:
    """Results of calls to several servers; all have ended before the first error is raised."""
    if len(calls) == 1:
        return [await calls[0]]
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def _must_be_synced(node: Node, answer: Any) -> None:
    if isinstance(answer, ResponseError):
        raise translate(node.address, answer)
    if answer[0] < 1:
        raise IndexUnavailable(f"{node.address} did not write its append-only file to disk in time: send again")


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


_PROCESS: Final = uuid4().hex
"""Tells this process from an earlier one that had the same number."""


def _place() -> str:
    """Where this process runs: host, process-number namespace, process number, the process itself."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return "|".join((socket.gethostname(), namespace, str(os.getpid()), _PROCESS))


def _is_dead(place: str) -> bool:
    """Whether a lease holder's process is known to be gone; only ever true for one of this machine."""
    host, namespace, number, process = place.split("|")
    if [host, namespace] != _place().split("|")[:2] or process == _PROCESS:
        return False
    if int(number) == os.getpid():
        return True
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


class _RedisLease:
    """The importer's lease, renewed beside its work."""

    def __init__(self, index: RedisIndex, name: bytes, token: bytes, milliseconds: bytes, every_s: float) -> None:
        self._index = index
        self._name = name
        self._token = token
        self._milliseconds = milliseconds
        self._every_s = every_s
        self._lost = False

    async def advance(self, head: Head) -> None:
        if self._lost:
            raise lease_lost()
        numbers = [str(number).encode() for number in head]
        if not await self._index.fenced(self._name, _call(_ADVANCE, self._name, self._token, *numbers)):
            self._lost = True
            raise lease_lost()
        faults.point("index.after_advance")

    async def renew(self) -> bool:
        """Whether the lease is still ours."""
        if not self._lost:
            renew = _call(_RENEW, self._name, self._token, self._milliseconds)
            self._lost = not await self._index.fenced(self._name, renew)
        return not self._lost

    async def keep(self) -> None:
        """Renew until lost; a store out of reach is tried again soon."""
        pause = self._every_s
        while True:
            await asyncio.sleep(pause)
            try:
                if not await self.renew():
                    return
                pause = self._every_s
            except CheckerError:
                pause = self._every_s / 6

    async def release(self) -> None:
        """Let the next importer in at once."""
        if not self._lost:
            self._lost = True
            with suppress(CheckerError):  # it runs out by itself
                await self._index.fenced(self._name, _call(_RELEASE, self._name, self._token))
