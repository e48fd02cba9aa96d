"""Settling questions with the exact index: the checker's way to conclude a `NeedExact`.

A batch is one read. Whatever could not be read in time is UNKNOWN, by itself; nothing here fails a call. A question
that wants the feed known further than the worker knows asks the index how far it is *before* reading the records, so
that the answer rests on at least that much.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

from checker import patience
from checker.core.freshness import AsOf, is_stale
from checker.core.lookup import NeedExact, finish
from checker.core.measure import Measure
from checker.errors import CheckerError
from checker.index.base import KEY_TIMEOUT_S, ExactIndex
from checker.rpc.live_filter import LiveFilter
from checker.rpc.servicer import Settled

RESERVE_S = 0.002
"""Kept back of a deadline to write the answer that says UNKNOWN."""


def wall_clock_ms() -> int:
    """Milliseconds since the epoch, now."""
    return time.time_ns() // 1_000_000


class IndexSettler:
    """`Settle` over an exact index; `timeout_s`: how long a read may take when the caller's deadline allows it."""

    def __init__(
        self, index: ExactIndex, live: LiveFilter, timeout_s: float, clock_ms: Callable[[], int] = wall_clock_ms
    ) -> None:
        self._index = index
        self._live = live
        self._timeout_s = timeout_s
        self._clock_ms = clock_ms
        self.read = 0  # keys asked of the index
        self.unread = 0  # keys it did not answer in time
        self.listed = 0  # keys that had a record; the others were the filter's false positives

    async def __call__(self, needs: Sequence[NeedExact], deadline: float) -> Settled:
        keys = list({key: None for need in needs for key in need.keys})
        granted = self._timeout_s + len(keys) * KEY_TIMEOUT_S
        until = min(deadline - RESERVE_S, asyncio.get_running_loop().time() + granted)
        as_of = self._live.view.as_of
        if any(need.fresh for need in needs):
            as_of = await self._refreshed(as_of, until)
        found = await self._read(keys, until)
        now_ms = self._clock_ms()
        settled = Settled([finish(need, found, as_of, now_ms) for need in needs], [as_of] * len(needs))
        if None in found.values():
            self._vouch(needs, found, settled, now_ms)
        return settled

    def _vouch(
        self,
        needs: Sequence[NeedExact],
        found: Mapping[bytes, tuple[Measure, ...] | None],
        settled: Settled,
        now_ms: int,
    ) -> None:
        """Clear those whom the index did not answer about and whom the filter does not hold, as it is now.

        They were asked about because there was no filter in use, or one that has been replaced meanwhile. While the
        last good one is in doubt, since it may lack the newest keys, it still vouches, with STALE_DATA and as of
        itself: if the index is lost as well, not everybody is UNKNOWN. Not for who asks how far the feed is known: that
        is just what such a filter cannot say.
        """
        doubted = self._live.doubted
        view = doubted or self._live.view
        stale = doubted is not None or is_stale(view.as_of, view.limits, now_ms)
        for place, need in enumerate(needs):
            if need.query.min_feed_sequence > (0 if doubted else view.as_of.feed_sequence):
                continue
            if all(found.get(key) is None and key not in view.filter for key in need.keys):
                settled.decisions[place] = need.screened.miss_stale if stale else need.screened.miss
                settled.as_of[place] = view.as_of

    async def _read(self, keys: list[bytes], until: float) -> dict[bytes, tuple[Measure, ...] | None]:
        self.read += len(keys)
        left = until - asyncio.get_running_loop().time()
        if left <= 0:
            self.unread += len(keys)
            return dict.fromkeys(keys)
        answers = await self._index.get_many(keys, left)
        self.unread += sum(1 for answer in answers if answer is None)
        self.listed += sum(1 for answer in answers if answer)
        return dict(zip(keys, answers, strict=True))

    async def _refreshed(self, as_of: AsOf, until: float) -> AsOf:
        try:
            async with patience.timeout_at(until):
                head = await self._index.head()
        except (CheckerError, TimeoutError):
            return as_of
        # For these answers, which rest on the index; the filter may not have heard of the newest keys yet.
        return as_of._replace(
            feed_sequence=head.feed_sequence, feed_time_ms=head.feed_time_ms, gap_since_ms=head.gap_since_ms
        )
