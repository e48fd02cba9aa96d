"""What an edge knows right now, and how old that is: the one place where the filter's age decides who is asked.

`view` is what `lookup.begin` looks at. While the data are fresh its filter is the real one, so that a miss ends there.
Once they are not (design.md §8), the view's filter says "perhaps" to everything, so that every restricted purchase is
asked of the centre; the real filter stays at hand (`may_list`) for the answers that must do without it.

Age is lag: the time since the edge was last known to hold all that the centre had acknowledged. It is told by the
sender's clock and by our own steady clock, whichever says more, so that neither a stream that was held up on its way
nor a clock set back makes old data look fresh.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence

from checker.core.changes import Heartbeat
from checker.core.filter import DigestFilter, Overlaid
from checker.core.freshness import AsOf, Limits
from checker.core.key import DigestKey
from checker.core.lookup import EVERYTHING, View
from checker.core.rules import Rulebook
from checker.core.stand_in import Age, EdgeLimits
from proto.checker.v1 import filter_pb2


def wall_clock_ms() -> int:
    """Milliseconds since the epoch, now."""
    return time.time_ns() // 1_000_000


class Numbers:
    """Counters since the start: all that an ALLOWED leaves behind."""

    __slots__ = ("checks", "false_positives", "hits", "stand_ins")

    def __init__(self) -> None:
        self.checks = 0
        self.hits = 0
        self.false_positives = 0
        self.stand_ins = 0


class Live:
    """See the module. Changed by one event loop; any thread may read `fresh_until_ms`, then `view`, in this order."""

    def __init__(
        self,
        key: DigestKey,
        rulebook: Rulebook,
        limits: Limits | None = None,
        edge_limits: EdgeLimits | None = None,
        *,
        clock_ms: Callable[[], int] = wall_clock_ms,
        steady_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.edge_limits = edge_limits or EdgeLimits()
        self.numbers = Numbers()
        self.centre: filter_pb2.CentreState = filter_pb2.CENTRE_STATE_UNREACHABLE
        self.alarms: dict[str, str] = {}  # what it is about -> a sentence for the operator
        self.on_added: list[Callable[[Sequence[bytes]], None]] = []
        self.on_reset: list[Callable[[], None]] = []
        self.fresh_until_ms = 0
        """The wall-clock time at which `view` must be looked at again: whoever checks later calls `refresh` first."""
        self._clock_ms = clock_ms
        self._steady_s = steady_s
        self._overlaid: Overlaid | None = None
        self._synced_ms = -math.inf  # the sender's clock when we were last known to hold everything
        self._heard_s = -math.inf  # our steady clock then, less what the sender had not heard
        self._heard_here = False  # False: `_heard_s` follows from the wall clock, for it was in a former life
        self.view = View(rulebook, key, EVERYTHING, AsOf(0, 0, 0, 0), limits or Limits(), doubtful=True)

    # How old

    def lag_ms(self) -> float:
        """How far behind the centre the filter may be; inf while there is none."""
        if self._overlaid is None:
            return math.inf
        by_sender = self._clock_ms() - self._synced_ms
        by_us = (self._steady_s() - self._heard_s) * 1000
        return max(0.0, by_sender, by_us)

    def age(self) -> Age:
        """The row of the stand-in table."""
        return self.edge_limits.age(self.lag_ms())

    def refresh(self) -> None:
        """Let the view say what the data's age allows."""
        self._show(self.view)

    def _show(self, view: View) -> None:
        """Show this view, its filter as the data's age allows: in one assignment, for threads look at it meanwhile."""
        lag = self.lag_ms()
        fresh = lag <= self.edge_limits.fresh_ms and not view.doubtful
        wanted = self._overlaid if fresh and self._overlaid is not None else EVERYTHING
        self.view = view if wanted is view.filter else view._replace(filter=wanted)
        self.fresh_until_ms = self._clock_ms() + int(self.edge_limits.fresh_ms - lag) if fresh else 2**62

    def may_list(self, keys: Iterable[bytes]) -> bool:
        """Whether the filter, however old, holds one of these keys; True while there is no filter."""
        overlaid = self._overlaid
        return overlaid is None or any(key in overlaid for key in keys)

    @property
    def size(self) -> tuple[int, int]:
        """Keys in the snapshot in use, and added since."""
        if self._overlaid is None:
            return (0, 0)
        base = self._overlaid.base
        return (base.count if base is not None else 0, len(self._overlaid.overlay))

    # What changes it

    def swap(
        self,
        base: DigestFilter,
        added: Iterable[bytes],
        as_of: AsOf,
        key: DigestKey,
        rulebook: Rulebook,
        synced_ms: float,
        *,
        doubtful: bool = False,
        continues: bool = True,
    ) -> None:
        """Use another snapshot, with the keys added since; `synced_ms`: the centre's clock when that was all there was.

        `continues`: it holds all that the filter in use was told, so what is known of the lag stays if it is less.
        Else (another centre, another journal) only `synced_ms` counts. `doubtful` as in `doubt`.
        """
        if not continues or self._overlaid is None:
            self._synced_ms = -math.inf
            self._heard_s = -math.inf
            self._heard_here = False
        self._overlaid = Overlaid(base, added)
        self._synced_ms = max(self._synced_ms, synced_ms)
        if not self._heard_here:
            self._heard_s = self._steady_s() - max(0.0, (self._clock_ms() - self._synced_ms) / 1000)
        self._show(View(rulebook, key, EVERYTHING, as_of, self.view.limits, doubtful=doubtful))
        for told in self.on_reset:
            told()

    def add(self, keys: Sequence[bytes]) -> None:
        """Keys that may be listed from now on."""
        if self._overlaid is not None:
            for key in keys:
                self._overlaid.add(key)
        for told in self.on_added:
            told(keys)

    def reset(self) -> None:
        """The journal no longer knows our place: what was remembered of answers is void. The filter stays, and ages."""
        for told in self.on_reset:
            told()

    def beat(self, beat: Heartbeat, as_of: AsOf) -> None:
        """A heartbeat for the very position we hold: everything up to it is in the filter. `as_of`: with our epoch."""
        self.centre = filter_pb2.CENTRE_STATE_SIGNED_OFF if beat.signing_off else filter_pb2.CENTRE_STATE_REACHABLE
        self._synced_ms = max(self._synced_ms, beat.sent_ms - beat.silence_ms)
        heard = self._steady_s() - beat.silence_ms / 1000
        self._heard_s = max(self._heard_s, heard) if self._heard_here else heard
        self._heard_here = True
        self._show(self.view if as_of == self.view.as_of else self.view._replace(as_of=as_of))

    def doubt(self, *, doubtful: bool) -> None:
        """Whether the rules here may be older than the centre's: then even what they leave free is asked."""
        if doubtful != self.view.doubtful:
            self._show(self.view._replace(doubtful=doubtful))
