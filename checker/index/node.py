"""One Redis server: how to connect to it, and pipelines on connections nobody else uses meanwhile.

- `exchange` sends a packed pipeline and reads its answers on one connection. Whatever goes wrong, or when the caller is
  cancelled, the connection is dropped: a late answer can never be taken for another question's.
- `Line` is one such connection for one use (writes, journal, ...), opened when needed, reopened after an error.
- Nothing is retried behind the caller's back, but for a kept connection found dead before anything was answered.

redis-py gives connection, TLS, authentication and parser; its client classes (retries, pools) are not used.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import hiredis
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from checker import faults
from checker.errors import CheckerError, IndexRefused, IndexUnavailable, UsageError

UNREACHABLE: Final = (RedisError, OSError)
"""What a sick server looks like from here: frozen ones time out first and fail to connect later."""
LINE_TIMEOUT_S: Final = 10.0

pack: Final = cast(Callable[[tuple[bytes | int | float | str, ...]], bytes], hiredis.pack_command)
"""One command to its bytes on the wire."""


def translate(address: str, error: BaseException) -> CheckerError:
    """A redis-py or socket error as one of ours. Only the error's code word is kept: its text may quote keys."""
    if isinstance(error, (AuthenticationError, NoPermissionError)):
        return IndexRefused(
            f"{address} refuses this user ({_code(error)}): check user, password and the user's permissions in the URL"
        )
    if isinstance(error, (TimeoutError, RedisTimeoutError)):
        return IndexUnavailable(f"{address} did not answer in time")
    if isinstance(error, ResponseError):
        return IndexUnavailable(f"{address} answered with an error ({_code(error)})")
    return IndexUnavailable(f"{address} cannot be reached ({type(error).__name__})")


def _code(error: BaseException) -> str:
    word = str(error).split(" ", 1)[0]
    return f"{type(error).__name__} {word}" if word.isupper() and word.isalpha() else type(error).__name__


def settings_of(url: str) -> tuple[str, dict[str, Any]]:
    """A `redis://`, `rediss://` or `unix://` URL as (address fit to print, connection settings). Raises UsageError."""
    try:
        settings: dict[str, Any] = dict(parse_url(url))
    except ValueError as error:
        raise UsageError(
            f"index URL: {type(error).__name__} in its parts; expected redis://[user:password@]host:port[/db]"
        ) from None
    for name in ("socket_timeout", "socket_connect_timeout", "retry_on_timeout", "max_connections", "decode_responses"):
        settings.pop(name, None)  # ours to decide
    if "path" in settings:
        return f"unix:{settings['path']}", settings
    settings.setdefault("host", "localhost")
    settings.setdefault("port", 6379)
    return f"{settings['host']}:{settings['port']}", settings


async def exchange(connection: AbstractConnection, packed: bytes, answers: int) -> list[Any]:
    """Send a pipeline, read its answers; an error answer is returned in its place. Drops the connection on failure."""
    try:
        await connection.send_packed_command(packed, check_health=False)
        replies: list[Any] = []
        for _ in range(answers):
            try:
                replies.append(await connection.read_response())
            except ResponseError as error:
                replies.append(error)
    except BaseException:
        await drop(connection)
        raise
    return replies


async def drop(connection: AbstractConnection) -> None:
    """Close without waiting for the peer, which may be frozen."""
    await connection.disconnect(nowait=True)


class Line:
    """One connection to one server, used by one pipeline at a time, in the order of the calls."""

    def __init__(self, node: "Node", timeout_s: float) -> None:
        self._node = node
        self._timeout_s = timeout_s
        self._lock = asyncio.Lock()
        self._connection: AbstractConnection | None = None
        self._opened = 0

    async def call(self, *commands: bytes, timeout_s: float | None = None) -> list[Any]:
        """Answers of a pipeline. Raises IndexUnavailable or IndexRefused; the connection is fresh the next time."""
        return (await self.call_on(None, commands, timeout_s=timeout_s))[1]

    async def call_on(
        self, session: int | None, commands: Sequence[bytes], *, step: int = 0, timeout_s: float | None = None
    ) -> tuple[int, list[Any]]:
        """The same on one particular connection: pass what the first call returned to be sure it is still that one.

        `step`: send this many commands at a time, with a fault point behind each.
        """
        async with self._lock:
            kept = self._connection
            if kept is not None and kept.is_connected:
                if session not in (None, self._opened):
                    raise IndexUnavailable(f"the connection to {self._node.address} was lost between writes")
                try:
                    return self._opened, await self._run(kept, commands, step, timeout_s)
                except UNREACHABLE as error:
                    late = isinstance(error, (TimeoutError, RedisTimeoutError))
                    if late or session is not None:
                        raise translate(self._node.address, error) from error
            if session is not None:
                raise IndexUnavailable(f"the connection to {self._node.address} was lost between writes")
            try:
                self._connection = await self._node.connect(self._timeout_s)
                self._opened += 1
                return self._opened, await self._run(self._connection, commands, step, timeout_s)
            except UNREACHABLE as error:
                raise translate(self._node.address, error) from error

    async def _run(
        self, connection: AbstractConnection, commands: Sequence[bytes], step: int, timeout_s: float | None
    ) -> list[Any]:
        async with asyncio.timeout(self._timeout_s if timeout_s is None else timeout_s):
            if not step:
                return await exchange(connection, b"".join(commands), len(commands))
            replies = []
            for start in range(0, len(commands), step):
                some = commands[start : start + step]
                replies += await exchange(connection, b"".join(some), len(some))
                faults.point("index.write")
            return replies

    async def close(self) -> None:
        """Give the connection back; a call under way fails."""
        if self._connection is not None:
            await drop(self._connection)
            self._connection = None


class Node:
    """One server and its lines, by use."""

    def __init__(self, address: str, settings: dict[str, Any]) -> None:
        self.address = address
        self._settings = dict(settings)
        self._connection_class = self._settings.pop("connection_class", None)
        self._lines: dict[str, Line] = {}

    async def connect(self, timeout_s: float) -> AbstractConnection:
        """A fresh, authenticated connection. Raises one of UNREACHABLE."""
        connection = self._make()
        try:
            async with asyncio.timeout(timeout_s):
                await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            await drop(connection)
            raise
        return connection

    def _make(self) -> AbstractConnection:
        made: AbstractConnection = (self._connection_class or Connection)(
            socket_timeout=None,  # one time-out for a whole pipeline instead of one per answer
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            **self._settings,
        )
        return made

    def line(self, use: str, timeout_s: float = LINE_TIMEOUT_S) -> Line:
        """The connection for one use."""
        if use not in self._lines:
            self._lines[use] = Line(self, timeout_s)
        return self._lines[use]

    async def close(self) -> None:
        """Give every connection back."""
        for line in self._lines.values():
            await line.close()
