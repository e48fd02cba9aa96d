"""What checks look at right now, held in one attribute and swapped in one assignment.

A check reads `live.view` once and keeps it, so a batch sees one rulebook, one filter and one freshness, and a swap
never disturbs a check under way. Additions go into the filter's overlay in place: they only ever add caution.
"""

from collections.abc import Iterable

from checker.core.filter import DigestFilter, Overlaid
from checker.core.freshness import AsOf
from checker.core.lookup import EVERYTHING, View


class LiveFilter:
    """The view in use and how it changes. One event loop; no locks."""

    __slots__ = ("_overlaid", "doubted", "view")

    def __init__(self, view: View) -> None:
        self.view = view
        self._overlaid: Overlaid | None = None
        self.doubted: View | None = None  # of the last good filter, while that may lack keys and no other is there

    @property
    def ready(self) -> bool:
        """Whether a filter is loaded; until then every check asks the index."""
        return self._overlaid is not None

    @property
    def size(self) -> tuple[int, int]:
        """Keys in the filter file in use, and in its overlay."""
        if self._overlaid is None:
            return (0, 0)
        base = self._overlaid.base
        return (base.count if base is not None else 0, len(self._overlaid.overlay))

    def swap(self, base: DigestFilter | None, overlay: Iterable[bytes], as_of: AsOf) -> None:
        """Use another filter from now on; `overlay`: keys added since it was built."""
        overlaid = Overlaid(base)
        for key in overlay:
            overlaid.add(key)
        self._overlaid = overlaid
        self.doubted = None
        self.view = self.view._replace(filter=overlaid, as_of=as_of)

    def drop(self) -> None:
        """The filter can no longer be trusted to know every key: ask the index for each until another is swapped in.

        It is kept as `doubted`, for keys the index does not answer: better an old filter than none at all. How far it
        knows the feed stays with it, for the index goes further.
        """
        if self._overlaid is not None:
            self.doubted = self.view
        self._overlaid = None
        self.view = self.view._replace(filter=EVERYTHING)

    def add(self, keys: Iterable[bytes]) -> None:
        """Keys that may be listed from now on; never refused for fullness."""
        if self._overlaid is not None:
            for key in keys:
                self._overlaid.add(key)

    def known(self, as_of: AsOf) -> None:
        """The feed is known this far."""
        if as_of != self.view.as_of:
            self.view = self.view._replace(as_of=as_of)
