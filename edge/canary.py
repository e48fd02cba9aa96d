"""Whether what the court's feed lists reaches this edge: told by the canary key, which each import lists once more.

An import lists the canary last, and only then acknowledges its last line. So where the feed advances, the canary came a
moment ago; or additions come, for a long import acknowledges as it goes, and the canary comes in the end. A feed that
advances while neither comes is known by its numbers only: somewhere between importer and edge additions are lost.
"""

import math


class Arrivals:
    """See the module. Times are of one steady clock, in seconds; `wait_s`: that may pass with nothing coming."""

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._sequence = 0
        self._canary_s = -math.inf
        self._waiting_s: float | None = None  # since when; None: for nothing
        self._missing = False

    def adopted(self, sequence: int, now_s: float) -> None:
        """A snapshot is in use that knows the feed this far: it holds what was listed, the canary as well."""
        self._sequence = sequence
        self._prove(now_s)

    def added(self, now_s: float, *, canary: bool) -> None:
        """Additions came, the canary among them or not."""
        if canary:
            self._prove(now_s)
        elif self._waiting_s is not None:
            self._waiting_s = now_s

    def missing(self, sequence: int, now_s: float) -> bool:
        """The feed is said to be known this far: whether additions have failed to come for too long."""
        if sequence > self._sequence:
            self._sequence = sequence
            if self._waiting_s is None and now_s - self._canary_s > self._wait_s:
                self._waiting_s = now_s
        if self._waiting_s is not None and now_s - self._waiting_s > self._wait_s:
            self._missing = True  # other additions do not cure it
        return self._missing

    def _prove(self, now_s: float) -> None:
        self._canary_s, self._waiting_s, self._missing = now_s, None, False
