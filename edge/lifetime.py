"""When a client may be used: opened, not closed, and in the process and event loop that opened it.

gRPC and event loops do not survive a fork: a client that was opened before one is useless in the child, and is told so
at its first use instead of hanging there.
"""

import asyncio
import gc
import os
import weakref
from typing import Any, NoReturn

from checker.errors import UsageError

NOT_OPEN = "this client is not open: use it in a `with` (asyncio: `async with`) block, or call `open()` first"
CLOSED = "this client is closed: make and open another one"
FORKED = (
    "this client was opened before the process was forked: open one in each process, after the fork (gunicorn: in "
    "post_fork; multiprocessing: in the worker's initializer)"
)


class Lifetime:
    """What clients have in common. `_why_not`: why it may not be used, a sentence; "" while it may."""

    def __init__(self) -> None:
        self._why_not = NOT_OPEN
        self._loop: asyncio.AbstractEventLoop | None = None

    def _begin_life(self) -> None:
        self._why_not = ""
        self._loop = asyncio.get_running_loop()
        _open.add(self)

    def _end_life(self) -> None:
        if self._why_not == FORKED:
            self._refuse()
        self._why_not = CLOSED
        _open.discard(self)

    def _forked(self) -> Any:
        """In the child of a fork; returns what must not be taken apart there, for it is the parent's."""
        self._why_not = FORKED

    def _require_not_open(self) -> None:
        if self in _open:
            raise UsageError("this client is open already")

    def _require_open(self) -> None:
        """Raises UsageError unless this client may be used here."""
        if self._why_not:
            self._refuse()
        if asyncio.get_running_loop() is not self._loop:
            raise UsageError("this client was opened in another event loop: open one in each")

    def _refuse(self) -> NoReturn:
        raise UsageError(self._why_not)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a client cannot be pickled or copied: open one in each process")


_open: "weakref.WeakSet[Lifetime]" = weakref.WeakSet()
_left_behind: list[Any] = []


_collecting = False  # whether the garbage collector was on when a fork began


def _before_fork() -> None:
    """What the parent left to be collected may be gRPC's as well, and taking that apart in the child aborts it: no
    collection may begin there before `_in_child`, nor while the hooks of others run that come first."""
    global _collecting
    _collecting = bool(_open) and gc.isenabled()
    if _collecting:
        gc.disable()


def _in_parent() -> None:
    if _collecting:
        gc.enable()


def _in_child() -> None:
    if _collecting:
        gc.freeze()
        gc.enable()
    _left_behind.extend([client._forked() for client in list(_open)])  # noqa: SLF001 - the same module's own
    _open.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
