"""How many checks a caller may ask for per second, counted over all workers of the node.

Strategy: a token bucket per limited caller in a small file that every worker maps. A worker takes tokens from it in
chunks (about 10 ms worth) under a lock on the bucket's bytes, and spends them from a local number, so that the usual
check costs a subtraction. Since start, all workers together never grant more than rate x time + burst; in a later
window a worker may add the chunk it had left. The kernel drops a dead worker's lock; a bucket torn by a kill is clamped
to its bounds.

The parent makes the file (`create`), workers open it (`Quota(path, roles)`); callers are found by their place in it; a
fingerprint of names, rates and bursts refuses a worker that was given other roles.
"""

import fcntl
import hashlib
import logging
import math
import mmap
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

from checker.errors import Overloaded, UsageError
from checker.rpc.roles import Caller, Roles

_MAGIC = b"XXQUOTA1"
_HEADER = struct.Struct("<8s16s8x")
_SLOT = struct.Struct("<dd16x")  # tokens, seconds of the node's monotonic clock at which they were right
_CHUNK_SECONDS = 0.01
ALARM_SECONDS = 10.0
"""Between two lines of a worker's log about one caller: whoever enumerates is refused thousands of times a second."""


def _fingerprint(limited: list[Caller]) -> bytes:
    text = "\n".join(f"{caller.name}\t{caller.rate}\t{caller.burst}" for caller in limited)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def create(path: Path, roles: Roles, now: float | None = None) -> None:
    """Write a fresh quota file, every bucket full. `now`: seconds of the monotonic clock, for tests."""
    now = time.monotonic() if now is None else now
    limited = roles.limited()
    slots = b"".join(_SLOT.pack(caller.burst or 0.0, now) for caller in limited)
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(_HEADER.pack(_MAGIC, _fingerprint(limited)) + slots)


class Quota:
    """One worker's view of the node's buckets.

    `clock` gives seconds of a clock common to all workers. `on_refused(name, items)` is called for each refusal: it is
    the alarm counter against enumeration. Raises UsageError if the file is not of these roles.
    """

    def __init__(
        self,
        path: Path,
        roles: Roles,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_refused: Callable[[str, int], None] | None = None,
    ) -> None:
        limited = roles.limited()
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            size = os.fstat(self._fd).st_size
            head = os.pread(self._fd, _HEADER.size, 0)
            if head != _HEADER.pack(_MAGIC, _fingerprint(limited)) or size != _HEADER.size + len(limited) * _SLOT.size:
                raise UsageError(  # noqa: TRY301 -- the same clean-up as for a failing read
                    f"quota file {path}: made for another roles file; restart the whole service"
                )
            self._map = mmap.mmap(self._fd, size)
        except BaseException:
            os.close(self._fd)
            raise
        self._clock = clock
        self._on_refused = on_refused
        self._buckets = {
            caller.name: _Bucket(caller, _HEADER.size + place * _SLOT.size) for place, caller in enumerate(limited)
        }

    def spend(self, caller: Caller, items: int) -> None:
        """Take `items` checks from the caller's quota, or raise Overloaded and take nothing."""
        if caller.rate is None:
            return
        bucket = self._buckets[caller.name]
        if bucket.local >= items:
            bucket.local -= items
            return
        if not self._refill(bucket, items):
            if self._on_refused is not None:
                self._on_refused(caller.name, items)
            if items > bucket.burst:
                raise Overloaded(
                    f"{items} checks at once are more than the burst of {bucket.burst:g} granted to {caller.name}: "
                    "send smaller batches, or ask the operator for a larger burst in the roles file"
                )
            raise Overloaded(
                f"quota of {bucket.rate:g} checks/s used up for caller {caller.name}: "
                "slow down, or ask the operator for more"
            )
        bucket.local -= items

    def _refill(self, bucket: "_Bucket", items: int) -> bool:
        """Bring `bucket.local` up to `items` or more from the shared bucket; False if there is too little for that."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX, _SLOT.size, bucket.offset)
        try:
            tokens, at = _SLOT.unpack_from(self._map, bucket.offset)
            now = self._clock()
            if not (0 <= tokens <= bucket.burst and 0 <= at <= now):  # torn by a kill: fill again from empty
                tokens, at = 0.0, now
                _SLOT.pack_into(self._map, bucket.offset, tokens, at)
            tokens = min(bucket.burst, tokens + bucket.rate * (now - at))
            missing = items - bucket.local
            if missing > tokens:
                return False  # nothing written: the next look starts from the same two numbers
            taken = min(tokens, max(missing, bucket.chunk))
            _SLOT.pack_into(self._map, bucket.offset, tokens - taken, now)
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, _SLOT.size, bucket.offset)
        bucket.local += taken
        return True

    def close(self) -> None:
        self._map.close()
        os.close(self._fd)


class _Bucket:
    __slots__ = ("burst", "chunk", "local", "offset", "rate")

    def __init__(self, caller: Caller, offset: int) -> None:
        self.rate = caller.rate or 0.0
        self.burst = caller.burst or 0.0
        self.chunk = self.rate * _CHUNK_SECONDS
        self.offset = offset
        self.local = 0.0


class Alarm:
    """A worker's count of refused items by caller; says in `log` who is refused, at most once in ALARM_SECONDS each."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self.refused: dict[str, int] = {}
        self._log = log
        self._clock = clock
        self._said: dict[str, tuple[float, int]] = {}  # when, and how many were refused by then

    def __call__(self, caller: str, items: int) -> None:
        """`items` more were refused to a caller, who is named as in the roles file."""
        refused = self.refused[caller] = self.refused.get(caller, 0) + items
        now = self._clock()
        at, before = self._said.get(caller, (-math.inf, 0))
        if now - at >= ALARM_SECONDS:
            self._said[caller] = now, refused
            self._log.warning("quota used up", extra={"caller": caller, "items": refused - before, "refused": refused})
