"""How much work a worker takes on before it says no.

Strategy: one plain counter of items in flight (a batch weighs its items). Over the limit a call is answered
RESOURCE_EXHAUSTED at once: a queue would only turn "no" into "no, later". A stream is not refused item by item: it may
have so many items unanswered, and beyond that it is simply not read, so that flow control slows its sender.

The counter sees calls whose handler has begun, which is where work that waits (for the index) piles up. Calls that wait
for the processor pile up inside gRPC before any handler runs; `server.py` bounds that queue.
"""

import asyncio
from collections.abc import Callable

from checker.errors import Overloaded


class Admission:
    """The in-flight limit of one worker, in items. Single event loop, no locks."""

    __slots__ = ("in_flight", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_flight = 0

    def enter(self, items: int, held: int = 0) -> None:
        """Count `items` in, or raise Overloaded; `held` of what is in flight is the asking call's own.

        A batch larger than the limit is taken when nothing else is in flight.
        """
        if self.in_flight + items > self.limit and self.in_flight > held:
            raise Overloaded(f"this worker has its limit of {self.limit} checks in flight: try again, with backoff")
        self.in_flight += items

    def leave(self, items: int) -> None:
        """Count `items` out again."""
        self.in_flight -= items


class StreamWindow:
    """What one stream may have unanswered, and how it ends.

    The reader waits for `room`, reads, then calls `take`; `release` follows each answer written. `end` lets the stream
    run dry: no more items are read, those read are answered, and `cut` interrupts a reader waiting for an idle caller.
    """

    __slots__ = ("_admission", "_cut", "_limit", "_waiter", "ending", "exhausted", "unanswered")

    def __init__(self, limit: int, admission: Admission, cut: Callable[[], None]) -> None:
        self._limit = limit
        self._admission = admission
        self._cut = cut
        self._waiter: asyncio.Future[None] | None = None
        self.unanswered = 0
        self.ending = False  # the service wants it to end
        self.exhausted = False  # the caller has sent its last item

    async def room(self) -> None:
        """Wait until one more item may be read."""
        while self.unanswered >= self._limit:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def take(self) -> None:
        """One item has been read."""
        self.unanswered += 1
        self._admission.in_flight += 1

    def release(self) -> None:
        """One item has been answered. More answers than items are not counted."""
        if not self.unanswered:
            return
        self.unanswered -= 1
        self._admission.in_flight -= 1
        if self._waiter is not None:
            if not self._waiter.done():
                self._waiter.set_result(None)
            self._waiter = None
        if self.ending and not self.unanswered and not self.exhausted:
            self._cut()

    def end(self) -> None:
        """Read no more; cut as soon as nothing is unanswered."""
        if not self.ending:
            self.ending = True
            if not self.unanswered and not self.exhausted:
                self._cut()

    def close(self) -> None:
        """The stream is over: what it left unanswered is no longer in flight."""
        self._admission.in_flight -= self.unanswered
        self.unanswered = 0
