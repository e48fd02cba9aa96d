"""The parts of one edge in one process, put together: what a library client and a node's worker have in common.

    data directory -> Sync -> Live <- whoever checks -> EdgeSettler -> Stack -> centre
                       ^                                     |-> AdviceQueue
                     centre <------- Reporter

Opening never waits long for the centre: an edge answers from its disk, or asks, or stands in.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from checker import rulebooks
from checker.core.freshness import HOUR_MS, MINUTE_MS, Limits
from checker.core.stand_in import EdgeLimits
from checker.keys import EdgeKeys
from edge.advice import CAPACITY, AdviceQueue
from edge.centre import Centre, ClientTls
from edge.live import Live, Numbers
from edge.remote import TIMEOUT_S
from edge.report import Reporter
from edge.settle import EdgeSettler
from edge.snapshot_store import SnapshotStore
from edge.stack import build
from edge.sync import Sync
from edge.totals import Totals

FIRST_WAIT_S = 5.0
"""How long an edge without any snapshot waits for its first before it begins to answer."""


class EdgeSettings(NamedTuple):
    """How an edge answers.

    `fresh_seconds`, `stale_hours`: how far its filter may lag behind the centre and still clear whom it does not hold,
    without and with the remark STALE_DATA (`edge rules` prints the table). `feed_warn_minutes`: a court feed silent for
    longer earns STALE_DATA. `centre_timeout_ms`: the longest a sale waits for the centre. `advice_capacity`: answers
    that wait to be asked again.
    """

    fresh_seconds: int = 60
    stale_hours: int = 24
    feed_warn_minutes: int = 15
    centre_timeout_ms: int = int(TIMEOUT_S * 1000)
    advice_capacity: int = CAPACITY

    @property
    def limits(self) -> Limits:
        """The feed's age, as core wants it. Whether it may bar is for the centre to say."""
        return Limits(warn_ms=self.feed_warn_minutes * MINUTE_MS)

    @property
    def edge_limits(self) -> EdgeLimits:
        """The filter's age, as core wants it."""
        return EdgeLimits(self.fresh_seconds * 1000, self.stale_hours * HOUR_MS)


class Edge:
    """See the module. `open` once, `close` once, in the same event loop."""

    def __init__(
        self,
        centre: Sequence[str],
        directory: Path,
        keys: EdgeKeys,
        tls: ClientTls | None = None,
        *,
        name: str = "",
        settings: EdgeSettings | None = None,
        totals: Totals | None = None,
    ) -> None:
        """`totals`: of all workers of a node. Raises UsageError: an address or the data directory cannot be used."""
        chosen = settings or EdgeSettings()
        self.keys = keys
        self.live = Live(keys.digest_key, rulebooks.load(None), chosen.limits, chosen.edge_limits)
        self._totals = totals
        self._centre = Centre(centre, tls)
        self._store = SnapshotStore(directory, keys)
        self.sync = Sync(self.live, self._store, keys, self._centre, name=name)
        timeout_s = chosen.centre_timeout_ms / 1000
        self._stack = build(self.live, self._centre, timeout_s=timeout_s)
        self.sync.canary_ask = self._stack
        self.advice = AdviceQueue(directory, keys.digest_key, capacity=chosen.advice_capacity)
        self.settle = EdgeSettler(self.live, self._stack, self.advice, timeout_s=timeout_s)
        self.reporter = Reporter(
            self.sync,
            self._centre,
            numbers=lambda: self.count()[0],
            advice=lambda: (self.advice.waiting, self.count()[1]),
        )
        self._replaying: asyncio.Task[None] | None = None

    def count(self) -> tuple[Numbers, int]:
        """The numbers of all processes of this edge as far as they are known, and how much advice was dropped."""
        if self._totals is None:
            return self.live.numbers, self.advice.dropped
        self._totals.write(self.live.numbers, self.advice.dropped)
        return self._totals.read()

    async def open(self) -> None:
        """Start following the centre; returns with the snapshot on the disk in use, or after a short wait for one."""
        await self.sync.start(FIRST_WAIT_S)
        self.reporter.start()
        self._replaying = asyncio.create_task(self.advice.replay(self._stack, self.live), name="advice")

    async def close(self) -> None:
        """Stop everything; what waits to be asked again stays on the disk."""
        if self._replaying is not None:
            self._replaying.cancel()
            await asyncio.gather(self._replaying, return_exceptions=True)
        await self.reporter.stop()
        await self.sync.stop()
        await self._stack.close()
        await self.advice.close()
        await self._centre.close()
