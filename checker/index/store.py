"""All primaries as one store: pipelines routed by key, redirections followed, durability waited for.

`Store.run` is the one way in: it groups commands by primary, sends one pipeline to each, follows what a cluster
redirects, loads our functions where they are missing. `Session` remembers on which connections a caller wrote, so that
`sync` can wait for exactly those.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    ResponseError,
    TryAgainError,
)

from checker.errors import IndexRefused, IndexUnavailable
from checker.index.functions import LIBRARY, library_code
from checker.index.node import Node, pack, translate
from checker.index.reading import identity
from checker.index.routing import OneServer, Routing

_SYNC_TIMEOUT_MS: Final = 5_000
_REDIRECTIONS: Final = 8
_REDIRECTED: Final = (MovedError, AskError, TryAgainError, ClusterDownError)
_WAITAOF: Final = pack((b"WAITAOF", b"1", b"0", str(_SYNC_TIMEOUT_MS).encode()))
_ASKING: Final = pack((b"ASKING",))

WRITE_LINES: Final = ("write-1", "write-2", "write-3")
_next_write_line: Final = itertools.cycle(WRITE_LINES)
"""One `apply` after another takes the next connection: the server has the next batch at hand while answers of the one
before are worked on, and syncs its file once for several. A sixth more keys per second than batches in one row."""

Call = Callable[[Node, Sequence[bytes]], Awaitable[list[Any]]]
"""Sends a pipeline to one primary and returns its answers."""


class Session:
    """The connections one `apply` writes on, one per primary: a lost one means that nothing is known to be synced."""

    def __init__(self, step: int) -> None:
        self._step = step
        self._use = next(_next_write_line)
        self._opened: dict[Node, int] = {}

    async def call(self, node: Node, commands: Sequence[bytes]) -> list[Any]:
        line = node.line(self._use)
        self._opened[node], replies = await line.call_on(self._opened.get(node), commands, step=self._step)
        return replies

    @property
    def touched(self) -> list[Node]:
        return list(self._opened)


class Store:
    """Everything under one namespace on all primaries."""

    def __init__(self, routing: Routing, namespace: str) -> None:
        self.routing = routing
        self.namespace = namespace.encode()
        self._prepared: dict[Node, bool] = {}  # whether the server has WAITAOF

    def name(self, name: str) -> bytes:
        """A key of the whole index, not of one generation."""
        return self.namespace + b":" + name.encode()

    def forget(self, node: Node) -> None:
        """A node stopped being a primary."""
        self._prepared.pop(node, None)

    async def prepare(self, node: Node) -> None:
        """Load the functions where they are missing, learn what the server can do; once per server."""
        if node in self._prepared:
            return
        listed, cluster, synced = await node.line("admin").call(
            pack((b"FUNCTION", b"LIST", b"LIBRARYNAME", LIBRARY, b"WITHCODE")),
            pack((b"INFO", b"cluster")),
            pack((b"WAITAOF", b"1", b"0", b"1")),
        )
        if isinstance(cluster, bytes) and b"cluster_enabled:1" in cluster and isinstance(self.routing, OneServer):
            raise IndexRefused(f"{node.address} is part of a cluster: use redis+cluster://HOST:PORT,HOST:PORT")
        if isinstance(listed, ResponseError) and not isinstance(listed, NoPermissionError):
            raise IndexRefused(
                f"{node.address} has no functions ({type(listed).__name__}): use Redis 7 or newer, or Valkey"
            )
        if isinstance(listed, list):
            code = library_code()
            if not any(code in library for library in listed):
                await self._load_functions(node, code)
        self._prepared[node] = isinstance(synced, list)

    async def _load_functions(self, node: Node, code: bytes) -> None:
        (loaded,) = await node.line("admin").call(pack((b"FUNCTION", b"LOAD", b"REPLACE", code)))
        if isinstance(loaded, ResponseError):
            raise translate(node.address, loaded)

    async def has_waitaof(self, node: Node) -> bool:
        """Whether this primary can say what is on its disk."""
        await self.prepare(node)
        return self._prepared[node]

    async def sync(self, session: Session) -> None:
        """Wait until everything written on these connections is on disk, where the server can tell."""
        nodes = [node for node in session.touched if self._prepared.get(node)]
        for node, (synced,) in zip(
            nodes, await all_of([session.call(node, [_WAITAOF]) for node in nodes]), strict=True
        ):
            _must_be_synced(node, synced)

    async def run(self, call: Call, names: list[bytes], packed: list[bytes]) -> list[Any]:
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
                node = asking.get(place) or self.routing.node(names[place])
                if node is None:
                    raise IndexUnavailable("the cluster has no primary for some keys: see CLUSTER INFO")
                batches.setdefault(node, []).append(place)
            for node in batches:
                await self.prepare(node)
            answers = await all_of(
                [
                    _without_asking(call(node, _with_asking(packed, places, asking)), places, asking)
                    for node, places in batches.items()
                ]
            )
            todo, asking = [], {}
            for (node, places), answered in zip(batches.items(), answers, strict=True):
                for place, reply in zip(places, answered, strict=True):
                    replies[place] = reply
                    if isinstance(reply, AskError):
                        asking[place] = self.routing.by_address(reply.host, reply.port)
                        todo.append(place)
                    elif isinstance(reply, _REDIRECTED):
                        todo.append(place)
                    elif isinstance(reply, ResponseError):
                        if "Function not found" not in str(reply):
                            raise translate(node.address, reply)
                        await self._load_functions(node, library_code())
                        todo.append(place)
            if not todo:
                return replies
            if len(asking) < len(todo):
                await self.routing.refresh()
                await asyncio.sleep(0.02 * 2**attempt)
        raise IndexUnavailable("the cluster keeps redirecting: it is being rearranged or lacks primaries; try again")

    async def one(self, name: bytes, packed: bytes, use: str = "admin") -> Any:
        """One command on the primary that holds `name`."""

        async def call(node: Node, commands: Sequence[bytes]) -> list[Any]:
            return await node.line(use).call(*commands)

        return (await self.run(call, [name], [packed]))[0]

    async def fenced(self, name: bytes, packed: bytes) -> bool:
        """One of the importer's own functions: whether it was let through; on disk when this returns."""

        async def call(node: Node, commands: Sequence[bytes]) -> list[Any]:
            if not self._prepared.get(node):
                return await node.line("lease").call(*commands)
            *replies, synced = await node.line("lease").call(*commands, _WAITAOF)
            _must_be_synced(node, synced)
            return replies

        return bool((await self.run(call, [name], [packed]))[0] == 1)

    async def scan_names(self, node: Node, pattern: bytes) -> AsyncIterator[list[bytes]]:
        cursor = b"0"
        while True:
            (page,) = await node.line("scan").call(pack((b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"1000")))
            if isinstance(page, ResponseError):
                raise translate(node.address, page)
            cursor, names = page
            yield names
            if cursor == b"0":
                return

    async def identities(self) -> list[str]:
        nodes = self.routing.nodes()
        lines = [node.line("admin").call(pack((b"INFO", b"server", b"replication"))) for node in nodes]
        found = []
        for node, (info,) in zip(nodes, await all_of(lines), strict=True):
            if isinstance(info, ResponseError):
                raise translate(node.address, info)
            found.append(identity(info))
        return found


def _with_asking(packed: list[bytes], places: list[int], asking: dict[int, Node]) -> list[bytes]:
    if not asking:
        return [packed[place] for place in places] if len(places) < len(packed) else packed
    return [
        command for place in places for command in ((_ASKING, packed[place]) if place in asking else (packed[place],))
    ]


async def _without_asking(call: Awaitable[list[Any]], places: list[int], asking: dict[int, Node]) -> list[Any]:
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


async def all_of(calls: list[Any]) -> list[Any]:
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
