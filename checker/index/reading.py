"""Reading look-ups from one primary: coalesced, bounded in time, never from a server that may not be trusted.

- All look-ups of one event-loop tick share one pipeline. It runs in a task of its own, so a caller that gives up or is
  cancelled disturbs nobody. A connection that failed or came late is dropped with everything it still owed. One that
  was closed takes along all that were kept beside it, and what it was asked is asked once more, on a new one.
- Each pipeline begins with ROLE; a replica's answers count for nothing. A connection's server is also asked for its
  identity (`identity`: new after every restart and every promotion) when the connection is made and again whenever half
  a second has passed: unless that identity is known to be reconciled, its answers count for nothing either.
- A time-out is a silent server's, not a process's that stood still: what came meanwhile is read before it counts.
- Breaker: after three failures or late answers in a row every question is answered `None` at once, while one
  background task tries to get a working connection; with that, reading goes on by itself.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import MovedError, RedisError, ResponseError

from checker import patience
from checker.index.base import KEY_TIMEOUT_S
from checker.index.node import UNREACHABLE, Node, drop, exchange, pack

Fields = list[bytes]
"""A hash as the server sends it: field, value, field, value, ..."""

FAILURES_TO_OPEN: Final = 3
IDENTITY_AGE_S: Final = 0.5
_CONNECT_TIMEOUT_S: Final = 1.0
_FIRST_DELAY_S: Final = 0.01
_LAST_DELAY_S: Final = 0.5
_LINKS: Final = 4
_PIPELINE_KEYS: Final = 1000
_PENDING_KEYS: Final = 50_000

_ROLE: Final = pack((b"ROLE",))
_INFO: Final = pack((b"INFO", b"server", b"replication"))


NEVER_PROMOTED: Final = "0" * 40


def identity(info: bytes) -> str:
    """From INFO, what is new after every restart and every promotion: `run id:replication id before the promotion`.

    The present replication id will not do: it also changes when a first replica is attached.
    """
    values = dict(line.split(b":", 1) for line in info.splitlines() if b":" in line)
    return f"{values.get(b'run_id', b'').decode()}:{values.get(b'master_replid2', b'').decode()}"


def unpromoted(name: str) -> str | None:
    """The same process's identity before it was ever promoted; None if that is what `name` is."""
    run, _, before = name.partition(":")
    return None if before == NEVER_PROMOTED else f"{run}:{NEVER_PROMOTED}"


class Ask:
    """One caller's keys on one primary; `answer` is the stored hashes in order, or None."""

    __slots__ = ("answer", "names", "tries")

    def __init__(self, names: list[bytes], answer: "asyncio.Future[list[Fields | None] | None]") -> None:
        self.names = names
        self.answer = answer
        self.tries = 0


class _Link:
    __slots__ = ("connection", "era", "identified_at", "identity")

    def __init__(self, connection: AbstractConnection, identity: str, identified_at: float, era: int) -> None:
        self.connection = connection
        self.identity = identity
        self.identified_at = identified_at
        self.era = era


class Reader:
    """Reads from one primary. `trusts(identity)` decides whether its answers count; None: role is all that matters.

    `moved()` is called when the server is not (any more) the primary of what was asked.
    """

    def __init__(
        self, node: Node, timeout_s: float, trusts: Callable[[str], bool] | None, moved: Callable[[], None]
    ) -> None:
        self._node = node
        self._timeout_s = timeout_s
        self._trusts = trusts
        self._moved = moved
        self._loop = asyncio.get_running_loop()
        self._pending: list[Ask] = []
        self._pending_keys = 0
        self._idle: list[_Link] = []
        self._busy = 0
        self._era = 0  # how often kept connections were found closed: those of one era are lost together
        self._scheduled = False
        self._failures = 0
        self._late_at = 0.0
        self._connecting = False
        self._settled = asyncio.Event()  # connected once, or failed once
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def broken(self) -> bool:
        """Whether the breaker is open: questions are answered `None` at once."""
        return self._failures >= FAILURES_TO_OPEN or self._closed

    def ask(self, names: list[bytes]) -> Ask:
        """Put a question; its `answer` is done when known, at the latest when `late` is called for it."""
        ask = Ask(names, self._loop.create_future())
        if self.broken or self._pending_keys > _PENDING_KEYS:
            ask.answer.set_result(None)
        else:
            self._push(ask)
        return ask

    def late(self, ask: Ask) -> None:
        """The caller waited the full time in vain: counts towards the breaker, once per time-out."""
        if not ask.answer.done():
            ask.answer.set_result(None)
        now = self._loop.time()
        if now - self._late_at > self._timeout_s / 2:
            self._late_at = now
            self._failed()

    async def warm(self, timeout_s: float) -> None:
        """Wait for the first connection, so that the first look-up does not pay for it; no error if there is none."""
        self._connect()
        async with asyncio.timeout(timeout_s):
            await self._settled.wait()

    async def close(self) -> None:
        """Answer what is pending with None and give the connections back."""
        self._closed = True
        self._give_up_pending()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _drop_all(self._idle)

    def _push(self, ask: Ask) -> None:
        self._pending.append(ask)
        self._pending_keys += len(ask.names)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled and not self._closed:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Once per tick: hand what is pending to connections that are free; grow up to a few."""
        self._scheduled = False
        while self._pending and self._idle:
            self._busy += 1
            self._spawn(self._serve(self._idle.pop(), self._next_batch()))
        if self._pending:
            self._connect()

    def _next_batch(self) -> list[Ask]:
        batch: list[Ask] = []
        keys = 0
        for ask in self._pending:
            if batch and keys + len(ask.names) > _PIPELINE_KEYS:
                break
            batch.append(ask)
            keys += len(ask.names)
        del self._pending[: len(batch)]
        self._pending_keys -= keys
        return [ask for ask in batch if not ask.answer.done()]

    async def _serve(self, link: _Link, batch: list[Ask]) -> None:
        identify = self._trusts is not None and self._loop.time() - link.identified_at > IDENTITY_AGE_S
        packed = [_INFO, _ROLE] if identify else [_ROLE]
        packed += [pack((b"HGETALL", name)) for ask in batch for name in ask.names]
        try:
            # The callers' own timers come first; this one bounds how long a silent connection is kept.
            bound_s = 2 * self._timeout_s + 2 * len(packed) * KEY_TIMEOUT_S
            async with patience.timeout_at(self._loop.time() + bound_s):
                replies = await exchange(link.connection, b"".join(packed), len(packed))
        except UNREACHABLE as error:
            self._busy -= 1
            again = not isinstance(error, TimeoutError)  # a kept connection that was closed: worth one more try
            known = again and link.era < self._era
            if again and not known:
                self._era += 1
                links, self._idle = self._idle, []
                self._spawn(_drop_all(links))
            for ask in batch:
                if again and not ask.tries and not ask.answer.done() and not self.broken:
                    ask.tries += 1
                    self._push(ask)
                elif not ask.answer.done():
                    ask.answer.set_result(None)
            if not known:
                self._failed()
            self._schedule()
            return
        self._busy -= 1
        self._idle.append(link)
        if identify and isinstance(replies[0], bytes):
            link.identity, link.identified_at = identity(replies[0]), self._loop.time()
        role = replies[1] if identify else replies[0]
        self._conclude(batch, replies[2 if identify else 1 :], self._may_count(link, role))
        self._failures = 0
        if self._pending:
            self._schedule()

    def _may_count(self, link: _Link, role: object) -> bool:
        if not isinstance(role, list) or role[0] != b"master":
            self._moved()
            return False
        return self._trusts is None or self._trusts(link.identity)

    def _conclude(self, batch: list[Ask], replies: list[Any], count: bool) -> None:
        start = 0
        for ask in batch:
            hashes = replies[start : start + len(ask.names)]
            start += len(ask.names)
            if ask.answer.done():
                continue
            if not count:
                ask.answer.set_result(None)
                continue
            for place, found in enumerate(hashes):
                if isinstance(found, ResponseError):
                    hashes[place] = None
                    if isinstance(found, MovedError):
                        self._moved()
            ask.answer.set_result(hashes)

    def _failed(self) -> None:
        self._failures += 1
        if self.broken:
            self._give_up_pending()
            links, self._idle = self._idle, []
            self._spawn(_drop_all(links))
            self._moved()  # a cluster may have another primary for this by now
        self._connect()

    def _give_up_pending(self) -> None:
        for ask in self._pending:
            if not ask.answer.done():
                ask.answer.set_result(None)
        self._pending.clear()
        self._pending_keys = 0

    def _connect(self) -> None:
        if not self._connecting and not self._closed and self._busy + len(self._idle) < _LINKS:
            self._connecting = True
            self._spawn(self._get_link())

    async def _get_link(self) -> None:
        """Try until there is one more working connection; the only way back from an open breaker."""
        delay = _FIRST_DELAY_S
        try:
            while True:
                try:
                    link = await self._open_link()
                except UNREACHABLE:
                    self._settled.set()
                    self._failures += 1
                    if self.broken:
                        self._give_up_pending()
                        self._moved()
                    await asyncio.sleep(delay)
                    delay = min(2 * delay, _LAST_DELAY_S)
                else:
                    self._settled.set()
                    self._failures = 0
                    self._idle.append(link)
                    return
        finally:
            self._connecting = False
            if self._pending:
                self._schedule()

    async def _open_link(self) -> _Link:
        connection = await self._node.connect(_CONNECT_TIMEOUT_S)
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            (info,) = await exchange(connection, _INFO, 1)
        if not isinstance(info, bytes):
            await drop(connection)
            raise RedisError("no INFO")
        return _Link(connection, identity(info), self._loop.time(), self._era)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _drop_all(links: list[_Link]) -> None:
    for link in links:
        await drop(link.connection)


def fields_of(found: Sequence[bytes]) -> dict[bytes, bytes]:
    """A hash as the server sends it, as a mapping."""
    return dict(zip(found[::2], found[1::2], strict=True))
