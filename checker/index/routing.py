"""Which primary holds a key: one server for everything, or a cluster's slot map kept by ourselves.

redis-py's cluster client rediscovers the whole cluster under a lock on every error, so one sick shard slows the healthy
ones. Here each primary has its own connections and breaker, and the slot map is refreshed beside the traffic: after
MOVED, when a primary stops answering or stops being primary, at most five times a second.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol

from redis.crc import key_slot

from checker.errors import CheckerError, IndexUnavailable
from checker.index.node import Node, pack

SLOTS: Final = 16_384
_REFRESH_PAUSE_S: Final = 0.2
_SLOTS_TIMEOUT_S: Final = 1.0


class Routing(Protocol):
    """Where keys live. `version` changes when the map does: a scan across a change is worth nothing."""

    version: int

    def node(self, name: bytes) -> Node | None:
        """The primary of a key; None when no server claims it."""

    def nodes(self) -> list[Node]:
        """All primaries."""

    def by_address(self, host: str, port: int) -> Node:
        """The server a redirection names."""

    async def refresh(self) -> None:
        """Learn the map now. Raises IndexUnavailable."""

    def refresh_soon(self) -> None:
        """Learn the map beside the traffic."""

    async def close(self) -> None:
        """Give every connection back."""


class OneServer:
    """Every key on one server."""

    version = 0

    def __init__(self, node: Node) -> None:
        self._node = node

    def node(self, name: bytes) -> Node | None:
        return self._node

    def nodes(self) -> list[Node]:
        return [self._node]

    def by_address(self, host: str, port: int) -> Node:
        return self._node

    async def refresh(self) -> None:
        pass

    def refresh_soon(self) -> None:
        pass

    async def close(self) -> None:
        await self._node.close()


class Cluster:
    """The slot map of a Redis Cluster, first asked of the seeds."""

    def __init__(
        self, seeds: list[tuple[str, int]], make: Callable[[str, int], Node], gone: Callable[[Node], None]
    ) -> None:
        """`make` a node for host and port; `gone` is told of nodes that are no primary any more."""
        self.version = 0
        self._seeds = seeds
        self._make = make
        self._gone = gone
        self._known: dict[tuple[str, int], Node] = {}
        self._slots: list[Node | None] = [None] * SLOTS
        self._primaries: list[Node] = []
        self._answered: list[tuple[str, int]] = []  # who answered last: asked first
        self._refreshing: asyncio.Task[None] | None = None

    def node(self, name: bytes) -> Node | None:
        return self._slots[key_slot(name)]

    def nodes(self) -> list[Node]:
        return self._primaries

    def by_address(self, host: str, port: int) -> Node:
        place = (host, port)
        if place not in self._known:
            self._known[place] = self._make(host, port)
        return self._known[place]

    async def refresh(self) -> None:
        problem: CheckerError = IndexUnavailable("the cluster's slot map names no primary")
        asked: set[tuple[str, int]] = set()
        for place in [*self._answered, *self._known, *self._seeds]:
            if place in asked:
                continue
            asked.add(place)
            try:
                (ranges,) = await self.by_address(*place).line("slots", _SLOTS_TIMEOUT_S).call(_CLUSTER_SLOTS)
            except CheckerError as error:
                problem = error
                continue
            if isinstance(ranges, list) and ranges:
                self._answered = [place]
                self._take(ranges, place[0])
                return
        raise problem

    def _take(self, ranges: list[Any], asked_host: str) -> None:
        slots: list[Node | None] = [None] * SLOTS
        for first, last, primary, *_ in ranges:
            host = primary[0].decode() if primary[0] else asked_host
            slots[first : last + 1] = [self.by_address(host, primary[1])] * (last + 1 - first)
        if slots == self._slots:
            return
        before = self._primaries
        self._slots = slots
        self._primaries = list({id(node): node for node in slots if node is not None}.values())
        self.version += 1
        for node in before:
            if node not in self._primaries:
                self._gone(node)

    def refresh_soon(self) -> None:
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh_beside())

    async def _refresh_beside(self) -> None:
        with suppress(CheckerError):  # the next failing question asks again
            await self.refresh()
        await asyncio.sleep(_REFRESH_PAUSE_S)

    async def close(self) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
        for node in self._known.values():
            await node.close()


_CLUSTER_SLOTS: Final = pack((b"CLUSTER", b"SLOTS"))
