"""Questions answered UNKNOWN for want of the centre: kept, asked again when it is back, and their outcomes offered.

A sale that went on as UNKNOWN may turn out to be barred; who is told before the journey begins can still act. So what
was asked is kept, as keyed digests and purchases only, and only until it is known:

- **Kept** in one SQLite file per edge, shared by its processes. Entries and outcomes are encrypted (AES-GCM under a key
  derived from the digest key), outcomes all to one length. SQLite overwrites what is deleted with zeros, and its
  journal goes with every commit: a settled question leaves nothing on the disk, an outcome nothing once it is offered.
  The hot path appends to a bounded ring, a thread writes it in batches.
- **Bounded**: so many answers wait; the oldest are dropped first, and counted. They end with the time of travel, at the
  latest after a day. The same question asked again adds its decision id to the entry that waits.
- **Asked again** by one process of the edge (a file lock), gently, while heartbeats arrive. A definite outcome replaces
  the question by (decision id, caller, outcome, reason, the centre's decision id, times).
- **Offered** once: to the first watcher that may see it.

An outcome is the centre's word at `settled_ms`, not now. A refusal that is more than a second old when it is handed
over may have been lifted since: it is offered as UNKNOWN, DATA_STALE, which means "ask again".

A file of the former version holds outcomes in the clear, in a table `settled`: whoever opens it encrypts them, none is
lost. The table stays, empty, for processes of that version that still run on the directory.
"""

import asyncio
import base64
import contextlib
import fcntl
import inspect
import json
import logging
import os
import random
import secrets
import sqlite3
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from checker.core.decision import Outcome, Reason
from checker.core.key import DigestKey
from checker.errors import UsageError
from checker.rpc.interceptors import describe
from edge.live import Live, wall_clock_ms
from edge.question import Ask, CentreFailed, Question, Verdict, combined
from proto.checker.v1 import filter_pb2

CAPACITY = 100_000
RING = 20_000
EXPIRY_S = 24 * 3600.0
GATHER_S = 0.02
"""How long the writer waits for more before it writes."""
AT_ONCE = 64
"""Entries asked about together: one batch to the centre."""
PER_SECOND = 500
ASK_S = 1.0
"""Time the centre has for a replayed question: nobody stands at the counter."""
LOOK_S = 0.5
"""Between two looks at what other processes wrote."""
BARRED_MS = 1000
"""How long a refusal is offered as one."""
LONGEST_PAUSE_S = 30.0
_HOUR_MS = 3_600_000
_NONCE = 12
_OUTCOME_BYTES = 256
"""Outcomes are encrypted at this length, or a multiple of it: a refusal is longer than an ALLOWED."""
_FILE = "advice.sqlite3"
_log = logging.getLogger("edge.advice")
_T = TypeVar("_T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS waiting (entry INTEGER PRIMARY KEY AUTOINCREMENT, seal BLOB UNIQUE NOT NULL,
                                    expires_ms INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS asked   (id INTEGER PRIMARY KEY AUTOINCREMENT, entry INTEGER NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS asked_entry ON asked (entry);
CREATE INDEX IF NOT EXISTS waiting_expiry ON waiting (expires_ms);
CREATE TABLE IF NOT EXISTS outcomes (id INTEGER PRIMARY KEY AUTOINCREMENT, caller BLOB NOT NULL,
                                     settled_ms INTEGER NOT NULL, body BLOB NOT NULL);
"""


class Advice(NamedTuple):
    """Later word on one answer. Times in milliseconds since the epoch. UNKNOWN, DATA_STALE: was BARRED, ask again."""

    decision_id: str  # of the UNKNOWN
    caller: str  # who was answered; "" in a booking system's own process
    outcome: Outcome
    reason: Reason
    centre_decision_id: str  # where the centre keeps evidence: BARRED and UNKNOWN
    asked_ms: int
    settled_ms: int


class _Put(NamedTuple):
    decision_id: str
    caller: str
    questions: tuple[Question, ...]
    asked_ms: int


class _Entry(NamedTuple):
    entry: int
    questions: list[Question]


class AdviceQueue:
    """See the module. `put` from the event loop's thread; several processes may share `directory`.

    Raises UsageError when the directory or its file cannot be used.
    """

    def __init__(
        self,
        directory: Path,
        key: DigestKey,
        *,
        capacity: int = CAPACITY,
        ring: int = RING,
        expiry_s: float = EXPIRY_S,
        clock_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self._overrun = 0  # dropped by a full ring; counted on the event loop
        self._lost = 0  # to a disk that does not take them; counted by the thread
        self._directory = directory
        self._ring_size = ring
        self._ring: deque[_Put] = deque()
        self._writing = False
        self._clock_ms = clock_ms
        self._store = _Store(directory, key, capacity, int(expiry_s * 1000))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="advice")  # the store is its alone
        self._waiting = 0  # on disk; counted by the thread
        self._in_hand = 0  # taken from the ring, not on disk yet
        self._changed = asyncio.Event()
        self._callbacks: set[asyncio.Task[None]] = set()
        try:
            self._waiting = self._thread.submit(self._store.open).result()
        except (OSError, sqlite3.Error) as error:
            self._thread.shutdown()
            raise UsageError(
                f"advice queue {directory / _FILE} cannot be used ({error}): make the directory writable"
            ) from None

    @property
    def waiting(self) -> int:
        """Answers whose question waits to be asked again, as last seen."""
        return self._waiting + self._in_hand + len(self._ring)

    @property
    def dropped(self) -> int:
        """Answers let go of by this process: a full queue or ring, a disk that does not take them, a changed key, or a
        journey that had begun when they came."""
        return self._overrun + self._lost + self._store.dropped

    def put(self, decision_id: str, caller: str, questions: Sequence[Question], asked_ms: int) -> None:
        """Ask these, of one document, again later; on disk within some 50 ms. Never blocks, never raises."""
        if len(self._ring) >= self._ring_size:
            with contextlib.suppress(IndexError):  # the thread was quicker
                self._ring.popleft()
                self._overrun += 1
        self._ring.append(_Put(decision_id, caller, tuple(questions), asked_ms))
        if not self._writing:
            self._writing = True
            try:
                self._thread.submit(self._write, GATHER_S)
            except RuntimeError:  # closed
                self._overrun += len(self._ring)
                self._ring.clear()

    async def flush(self) -> None:
        """Return once everything put so far is on disk."""
        await self._in_thread(self._write, 0.0)

    async def close(self) -> None:
        """Write what waits, stop offering, close the file."""
        for task in list(self._callbacks):
            task.cancel()
        await asyncio.gather(*self._callbacks, return_exceptions=True)
        await self.flush()
        await self._in_thread(self._store.close)
        self._thread.shutdown()

    # Asking again

    async def replay(self, ask: Ask, live: Live) -> None:
        """Ask again what waits while the centre is there; runs until cancelled. Of all processes one does the work."""
        time_s = asyncio.get_running_loop().time
        with await self._alone():
            after, again_at = 0, 0.0
            round_s = failing_s = LOOK_S
            while True:
                if live.centre != filter_pb2.CENTRE_STATE_REACHABLE:
                    after, round_s, failing_s = 0, LOOK_S, LOOK_S
                    await asyncio.sleep(LOOK_S)
                    continue
                entries = await self._entries(after)
                if not entries:
                    if time_s() >= again_at:  # those that were not settled, once more from the first
                        after, again_at = 0, time_s() + _jittered(round_s)
                        round_s = min(LONGEST_PAUSE_S, round_s * 2)
                    await asyncio.sleep(LOOK_S)
                    continue
                after = entries[-1].entry  # whatever becomes of these, those behind them have their turn
                settled, working = await self._ask_all(entries, ask)
                if settled:
                    round_s = LOOK_S
                if working:
                    failing_s = LOOK_S
                    await asyncio.sleep(len(entries) / PER_SECOND)
                else:
                    await asyncio.sleep(_jittered(failing_s))
                    failing_s = min(LONGEST_PAUSE_S, failing_s * 2)

    async def _entries(self, after: int) -> list[_Entry]:
        try:
            return await self._in_thread(self._store.next, after, AT_ONCE, self._clock_ms())
        except sqlite3.Error as error:
            _log.error("the advice queue cannot be read: %s", describe(error))
            return []

    async def _ask_all(self, entries: list[_Entry], ask: Ask) -> tuple[int, bool]:
        """How many were settled, and whether the centre answered any."""
        until = asyncio.get_running_loop().time() + ASK_S
        answers = await asyncio.gather(*(_ask_one(entry, ask, until) for entry in entries))
        known = [
            (entry.entry, answer)
            for entry, answer in zip(entries, answers, strict=True)
            if answer is not None and _is_definite(answer)
        ]
        if known:
            try:
                await self._in_thread(self._settle, known)
            except sqlite3.Error as error:
                _log.error("the advice queue cannot be written: %s", describe(error))
                return 0, False
            self._tell()
        return len(known), any(answer is not None for answer in answers)

    async def _alone(self) -> "contextlib.AbstractContextManager[Any]":
        """Wait until no other process asks again; the lock is the kernel's and ends with this process."""
        lock = os.fdopen(os.open(self._directory / "advice.lock", os.O_CREAT | os.O_RDWR, 0o600), "r+b")
        try:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return lock
                except BlockingIOError:
                    await asyncio.sleep(LOOK_S)
        except BaseException:
            lock.close()
            raise

    # Offering

    async def watch(self, caller: str | None) -> AsyncGenerator[Advice, None]:
        """Outcomes not yet offered, then others as they come, each handed over once. `caller`: None sees all."""
        ready: deque[Advice] = deque()
        try:
            while True:
                changed = self._changed
                try:
                    ready.extend(await self._in_thread(self._store.take, caller, AT_ONCE, self._clock_ms()))
                except sqlite3.Error as error:
                    _log.error("the advice queue cannot be read: %s", describe(error))
                full = len(ready) == AT_ONCE
                while ready:
                    yield _as_of_now(ready.popleft(), self._clock_ms())
                if full:
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await changed.wait()
        finally:
            if ready:  # taken, and the watcher has gone
                await asyncio.shield(self._in_thread(self._store.give_back, list(ready)))

    def on_advice(self, callback: Callable[[Advice], Awaitable[None] | None]) -> None:
        """Call back with each outcome, whoever asked, in this event loop until `close`."""

        async def tell() -> None:
            async with contextlib.aclosing(self.watch(None)) as outcomes:
                async for advice in outcomes:
                    try:
                        done = callback(advice)
                        if inspect.isawaitable(done):
                            await done
                    except Exception as error:  # noqa: BLE001 - one bad turn must not end the others
                        _log.error("a callback for advice failed: %s", describe(error))

        task = asyncio.get_running_loop().create_task(tell())
        self._callbacks.add(task)
        task.add_done_callback(self._callbacks.discard)

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # The thread

    async def _in_thread(self, work: Callable[..., _T], *arguments: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    def _write(self, gather_s: float) -> None:
        if gather_s:
            time.sleep(gather_s)
        self._writing = False  # from here on whoever puts something wakes us again
        batch = []
        self._in_hand = len(self._ring)  # before they leave it: a moment too many, never too few
        with contextlib.suppress(IndexError):
            while True:
                batch.append(self._ring.popleft())
        if not batch:
            return
        try:
            self._waiting = self._store.put(batch, self._clock_ms())
        except Exception as error:  # noqa: BLE001 - the sale goes on; the operator sees counter and line
            self._lost += len(batch)
            _log.error("the advice queue cannot be written: %s", describe(error), extra={"lost": len(batch)})
        finally:
            self._in_hand = 0

    def _settle(self, known: list[tuple[int, Verdict]]) -> None:
        self._waiting = self._store.settle(known, self._clock_ms())


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311 - spreads edges, hides nothing


def _as_of_now(advice: Advice, now_ms: int) -> Advice:
    """What may still be said of an outcome; a clock that was set back proves nothing."""
    if advice.outcome is Outcome.BARRED and not 0 <= now_ms - advice.settled_ms <= BARRED_MS:
        return advice._replace(outcome=Outcome.UNKNOWN, reason=Reason.DATA_STALE)
    return advice


async def _ask_one(entry: _Entry, ask: Ask, until: float) -> Verdict | None:
    try:
        return combined(await asyncio.gather(*(ask(question, until) for question in entry.questions)))
    except CentreFailed:
        return None


def _is_definite(verdict: Verdict) -> bool:
    return verdict.outcome is not Outcome.UNKNOWN or verdict.reason is Reason.NAME_REQUIRED


class _Store:
    """The file. Used by one thread; other processes use it too."""

    def __init__(self, directory: Path, key: DigestKey, capacity: int, expiry_ms: int) -> None:
        self.dropped = 0  # answers let go of: no room, under another key, the journey had begun
        self._path = directory / _FILE
        self._key = key
        self._cipher = AESGCM(key.seal(b"advice-queue", b"encryption"))
        self._capacity = capacity
        self._expiry_ms = expiry_ms
        self._file: sqlite3.Connection

    def open(self) -> int:
        """How many answers wait. Raises OSError or sqlite3.Error."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite's own would be readable by others
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # busy, full, not permitted: not the file's fault
                raise
            # It holds nothing that may bar anybody, and an edge must start.
            _log.error("the advice queue's file was damaged: what waited there is lost")
            self._path.unlink(missing_ok=True)
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            return self._connect()

    def _connect(self) -> int:
        self._file = sqlite3.connect(self._path, timeout=5.0, isolation_level=None)
        try:
            for pragma in ("secure_delete = ON", "journal_mode = DELETE", "synchronous = FULL", "temp_store = MEMORY"):
                self._file.execute(f"PRAGMA {pragma}")
            self._file.executescript(_SCHEMA)
            self._adopt()
            return self._waiting()
        except sqlite3.Error:
            self._file.close()
            raise

    def _adopt(self) -> None:
        """Encrypt what a former version left, see the module."""
        if self._file.execute("SELECT 1 FROM sqlite_master WHERE name = 'settled'").fetchone() is None:
            return
        with self._transaction() as run:
            rows = run(
                "DELETE FROM settled RETURNING id, decision_id, caller, outcome, reason, centre_decision_id, asked_ms,"
                " settled_ms"
            ).fetchall()
            for _, *row in sorted(rows):
                self._offer(run, _advice(row))

    def close(self) -> None:
        self._file.close()

    def put(self, batch: Sequence[_Put], now_ms: int) -> int:
        """How many wait afterwards. Raises sqlite3.Error: then none of the batch was written."""
        late = 0
        with self._transaction() as run:
            for put in batch:
                expires_ms = min(
                    [put.asked_ms + self._expiry_ms, *(one.service_ms for one in put.questions if one.service_ms)]
                )
                if expires_ms <= now_ms:
                    late += 1
                    continue
                seal = self._seal(put)
                body = self._encrypt(
                    b"waiting", [_to_json(one._replace(act_ms=one.act_ms or put.asked_ms)) for one in put.questions]
                )
                run(
                    "INSERT INTO waiting (seal, expires_ms, body) VALUES (?, ?, ?) ON CONFLICT (seal)"
                    " DO UPDATE SET expires_ms = max(expires_ms, excluded.expires_ms)",
                    (seal, expires_ms, body),
                )
                run(
                    "INSERT INTO asked (entry, body) SELECT entry, ? FROM waiting WHERE seal = ?",
                    (self._encrypt(b"asked", [put.decision_id, put.caller, put.asked_ms]), seal),
                )
            self._trim(run, now_ms)
        self.dropped += late
        return self._waiting()

    def next(self, after: int, limit: int, now_ms: int) -> list[_Entry]:
        """Entries behind this one, in order."""
        found = []
        unreadable = []
        with self._transaction() as run:
            self._trim(run, now_ms)
            rows = run("SELECT entry, body FROM waiting WHERE entry > ? ORDER BY entry LIMIT ?", (after, limit))
            for entry, body in rows.fetchall():
                try:
                    found.append(_Entry(entry, [_from_json(one) for one in self._decrypt(b"waiting", body)]))
                except InvalidTag:
                    unreadable.append(entry)
            for entry in unreadable:
                self.dropped += self._remove(run, entry)
        if unreadable:
            _log.error("the advice queue holds questions under another key: dropped", extra={"lost": len(unreadable)})
        return found

    def settle(self, known: Sequence[tuple[int, Verdict]], now_ms: int) -> int:
        """Put outcomes in the place of questions; how many answers still wait."""
        with self._transaction() as run:
            for entry, verdict in known:
                for (body,) in run("SELECT body FROM asked WHERE entry = ? ORDER BY id", (entry,)).fetchall():
                    decision_id, caller, asked_ms = self._decrypt(b"asked", body)
                    centre_id = verdict.decision_id if verdict.outcome is not Outcome.ALLOWED else ""
                    self._offer(
                        run,
                        Advice(decision_id, caller, verdict.outcome, verdict.reason, centre_id, asked_ms, now_ms),
                    )
                self._remove(run, entry)
            over = run("SELECT count(*) FROM outcomes").fetchone()[0] - self._capacity
            if over > 0:
                run("DELETE FROM outcomes WHERE id IN (SELECT id FROM outcomes ORDER BY id LIMIT ?)", (over,))
                self.dropped += over
        return self._waiting()

    def take(self, caller: str | None, limit: int, now_ms: int) -> list[Advice]:
        """The oldest outcomes that this caller may see: they are its own from now on."""
        if self._file.execute("SELECT 1 FROM outcomes LIMIT 1").fetchone() is None:
            return []
        with self._transaction() as run:
            self._let_go(run, now_ms)
            rows = run(
                "DELETE FROM outcomes WHERE id IN (SELECT id FROM outcomes WHERE ?1 IS NULL OR caller = ?1 ORDER BY id"
                " LIMIT ?2) RETURNING id, body",
                (None if caller is None else self._caller(caller), limit),
            ).fetchall()
        taken = []
        for _, body in sorted(rows):
            try:
                taken.append(_advice(self._decrypt(b"outcome", body)))
            except InvalidTag:
                self.dropped += 1
        if len(taken) < len(rows):
            _log.error(
                "the advice queue holds outcomes under another key: dropped", extra={"lost": len(rows) - len(taken)}
            )
        return taken

    def give_back(self, advices: Sequence[Advice]) -> None:
        """These were taken and not handed over."""
        with self._transaction() as run:
            for advice in advices:
                self._offer(run, advice)

    def _offer(self, run: Any, advice: Advice) -> None:
        run(
            "INSERT INTO outcomes (caller, settled_ms, body) VALUES (?, ?, ?)",
            (self._caller(advice.caller), advice.settled_ms, self._encrypt(b"outcome", advice, _OUTCOME_BYTES)),
        )

    def _caller(self, caller: str) -> bytes:
        """By which a caller's outcomes are found."""
        return self._key.seal(b"advice-caller", caller.encode())

    @contextlib.contextmanager
    def _transaction(self) -> Any:
        self._file.execute("BEGIN IMMEDIATE")
        try:
            yield self._file.execute
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # SQLite may have done so by itself
                self._file.execute("ROLLBACK")
            raise
        self._file.execute("COMMIT")

    def _waiting(self) -> int:
        return int(self._file.execute("SELECT count(*) FROM asked").fetchone()[0])

    def _trim(self, run: Any, now_ms: int) -> None:
        """Let go of what has expired, and of the oldest beyond what there is room for."""
        for (entry,) in run("SELECT entry FROM waiting WHERE expires_ms <= ?", (now_ms,)).fetchall():
            self._remove(run, entry)
        self._let_go(run, now_ms)
        over = run("SELECT count(*) FROM asked").fetchone()[0] - self._capacity
        if over > 0:
            run("DELETE FROM asked WHERE id IN (SELECT id FROM asked ORDER BY id LIMIT ?)", (over,))
            run("DELETE FROM waiting WHERE NOT EXISTS (SELECT 1 FROM asked WHERE asked.entry = waiting.entry)")
            self.dropped += over

    def _let_go(self, run: Any, now_ms: int) -> None:
        """Outcomes that nobody came for."""
        run("DELETE FROM outcomes WHERE settled_ms <= ?", (now_ms - self._expiry_ms,))

    def _remove(self, run: Any, entry: int) -> int:
        run("DELETE FROM waiting WHERE entry = ?", (entry,))
        return int(run("DELETE FROM asked WHERE entry = ?", (entry,)).rowcount)

    def _seal(self, put: _Put) -> bytes:
        """What equal questions have in common. Those that left the time of purchase to us are equal within an hour."""
        hour = put.asked_ms // _HOUR_MS * _HOUR_MS
        return self._key.seal(
            b"advice-entry",
            json.dumps([_to_json(one._replace(act_ms=one.act_ms or hour)) for one in put.questions]).encode(),
        )

    def _encrypt(self, table: bytes, content: Any, length: int = 1) -> bytes:
        """`length`: what is encrypted is made as long as a multiple of it."""
        nonce = secrets.token_bytes(_NONCE)
        text = json.dumps(content).encode()
        text += b" " * (-len(text) % length)
        return nonce + self._cipher.encrypt(nonce, text, table)

    def _decrypt(self, table: bytes, body: bytes) -> Any:
        return json.loads(self._cipher.decrypt(body[:_NONCE], body[_NONCE:], table))


def _advice(row: Sequence[Any]) -> Advice:
    decision_id, caller, outcome, reason, *rest = row
    return Advice(decision_id, caller, Outcome(outcome), Reason(reason), *rest)


_BINARY = tuple(Question._fields.index(name) for name in ("key", "name_key", "purchase"))


def _to_json(question: Question) -> list[Any]:
    values: list[Any] = list(question)
    for place in _BINARY:
        values[place] = base64.b64encode(values[place]).decode()
    return values


def _from_json(values: list[Any]) -> Question:
    for place in _BINARY:
        values[place] = base64.b64decode(values[place])
    return Question(*values)
