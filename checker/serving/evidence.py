"""What is kept of a BARRED or UNKNOWN, and how it is found again (domain.md R11, R15, R16).

The hot path only appends to a bounded ring; one thread per worker empties it into a spool file and fsyncs. When the
ring is full a record is dropped and counted, because a slow disk must not slow a sale: one counter says how many.

A record holds keyed digests, measure ids, versions and times: no number, name, court or case. Records are encrypted in
batches (AES-256-GCM under the key file's evidence key), so a stolen disk says nothing without it.

File: `evidence/YYYYMMDD-SUFFIX.spool`, by UTC day; magic, then frames of `length u32 | nonce 12 | ciphertext`, each one
batch of JSON records. Every process writes files of its own, and begins another after a write that failed, so a torn
frame can only be a file's last: what follows it is never lost with it.
"""

import contextlib
import json
import logging
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from struct import Struct
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from checker.core.freshness import AsOf
from checker.errors import UsageError
from checker.rpc.decision_id import canonical, time_of
from checker.rpc.servicer import Refusal

MAGIC = b"XXEVID1\n"
RING = 20_000
"""Records that may wait for the disk, per worker."""
RETENTION_DAYS = 3 * 366
"""General limitation period, Civil Code 188: three years, then deletion."""
_LENGTH = Struct(">I")
_NONCE = 12
_MAX_FRAME = 64 * 1024 * 1024
PURGE_S = 600.0
"""Between two looks at the calendar when nothing is refused."""
_log = logging.getLogger("checker.evidence")


class EvidenceSpool:
    """One worker's spool. `record` is called on the event loop; everything else happens in a thread of its own."""

    def __init__(
        self,
        directory: Path,
        key: bytes,
        *,
        ring: int = RING,
        retention_days: int = RETENTION_DAYS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock`: seconds since the epoch. Raises OSError when the directory cannot be made."""
        self.directory = directory
        self.written = 0
        self._refused = 0  # by a full or closed ring; counted on the event loop
        self._lost = 0  # to a disk that does not take them; counted by the thread
        self._cipher = AESGCM(key)
        self._limit = ring
        self._retention = timedelta(days=retention_days)
        self._clock = clock
        self._ring: deque[Refusal] = deque()
        self._wake = threading.Event()
        self._closing = False
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._thread = threading.Thread(target=self._run, name="evidence", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Records lost to a full ring or to a disk that does not take them."""
        return self._refused + self._lost

    def record(self, refusal: Refusal) -> None:
        """Take one record; never blocks, never raises."""
        if len(self._ring) >= self._limit or self._closing:
            self._refused += 1
            return
        self._ring.append(refusal)
        self._wake.set()

    def close(self) -> None:
        """Write what waits, fsync, stop."""
        self._closing = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        spool: _File | None = None
        day = ""
        while True:
            today = datetime.fromtimestamp(self._clock(), UTC).strftime("%Y%m%d")
            if day != today:
                day = today
                if spool is not None:
                    spool.close()
                    spool = None
                self._purge()
            batch = []
            while self._ring:
                batch.append(self._ring.popleft())
            if batch:
                try:
                    if spool is None:
                        spool = _File(self.directory, day)
                    spool.append(self._seal(batch))
                    self.written += len(batch)
                except Exception as error:  # noqa: BLE001 - the thread must outlive any record
                    # The sale goes on; the operator sees the counter and this line.
                    self._lost += len(batch)
                    if spool is not None:
                        spool.close()
                        spool = None
                    why = error.strerror if isinstance(error, OSError) else type(error).__name__
                    _log.error("evidence cannot be written: %s", why, extra={"lost": len(batch)})
            elif self._closing:
                if spool is not None:
                    spool.close()
                return
            else:
                self._wake.wait(PURGE_S)
                self._wake.clear()

    def _seal(self, batch: list[Refusal]) -> bytes:
        plain = json.dumps([as_json(refusal) for refusal in batch], ensure_ascii=False).encode()
        nonce = secrets.token_bytes(_NONCE)
        sealed = self._cipher.encrypt(nonce, plain, MAGIC)
        return _LENGTH.pack(len(sealed)) + nonce + sealed

    def _purge(self) -> None:
        """Delete what has been kept long enough; runs at the start and once a day, by itself, refusals or not."""
        oldest = (datetime.fromtimestamp(self._clock(), UTC) - self._retention).strftime("%Y%m%d")
        for path in self.directory.glob("*.spool"):
            if path.name[:8] < oldest:
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    _log.error("old evidence cannot be deleted: %s", error.strerror)


class _File:
    """A spool file nobody has written to. Whoever sees an append fail closes it and makes another."""

    def __init__(self, directory: Path, day: str) -> None:
        self._path = directory / f"{day}-{os.getpid()}-{secrets.token_hex(4)}.spool"
        self._handle = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
        self._frames = 0
        folder = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(folder)  # the name is to outlive a power cut as the content does
        finally:
            os.close(folder)

    def append(self, frame: bytes) -> None:
        """On disk when it returns. Raises OSError, and then the file's last frame may be torn."""
        left = memoryview(frame if self._frames else MAGIC + frame)
        while left:  # a disk that is filling up takes a part and says so
            left = left[os.write(self._handle, left) :]
        os.fsync(self._handle)
        self._frames += 1

    def close(self) -> None:
        """Give the file back; one without a whole frame is not kept, or a full disk would collect them."""
        with contextlib.suppress(OSError):
            os.close(self._handle)
            if not self._frames:
                self._path.unlink()


def as_json(refusal: Refusal) -> dict[str, Any]:
    """A record as it is kept and as `checker explain --json` prints it."""
    decision = refusal.decision
    return {
        "decision_id": refusal.decision_id,
        "time": _iso(refusal.time_ms),
        "outcome": decision.outcome.name,
        "reason": decision.reason.name,
        "advisories": [advisory.name for advisory in decision.advisories],
        "purchase": refusal.purchase,
        "rule": decision.rule_id,
        "rulebook_version": refusal.rulebook_version,
        "rulebook_sha256": refusal.rulebook_sha256.hex(),
        "measures": list(decision.measures),
        "key_id": refusal.key_id,
        "keys": [key.hex() for key in refusal.keys],
        "act_time": _iso(refusal.act_ms),
        "service_time": _iso(refusal.service_ms),
        "data_as_of": _as_of(refusal.as_of),
        "answered_by": decision.answered_by.name,
        "caller": refusal.caller,
    }


def _as_of(as_of: AsOf) -> dict[str, Any]:
    return {
        "feed_sequence": as_of.feed_sequence,
        "feed_time": _iso(as_of.feed_time_ms) if as_of.feed_time_ms else None,
        "snapshot_epoch": as_of.snapshot_epoch,
    }


def _iso(milliseconds: int) -> str:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read(path: Path, key: bytes) -> Iterator[dict[str, Any]]:
    """Every whole record of a spool file; a tail torn by a crash ends it. Raises UsageError under another key."""
    cipher = AESGCM(key)
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return
        frames = 0
        while True:
            head = file.read(_LENGTH.size)
            if len(head) < _LENGTH.size:
                return
            (length,) = _LENGTH.unpack(head)
            if length > _MAX_FRAME:
                raise UsageError(f"evidence file {path.name} is damaged: restore it from your copy")
            nonce, sealed = file.read(_NONCE), file.read(length)
            if len(sealed) < length or not length:  # a power cut may leave zeros where data should be
                return
            try:
                plain = cipher.decrypt(nonce, sealed, MAGIC)
            except InvalidTag:
                if frames and not file.read(1):
                    return
                remedy = "is damaged: restore it from your copy"
                if not frames:
                    remedy = "cannot be opened with this key file: give the one it was written with"
                raise UsageError(f"evidence file {path.name} {remedy}") from None
            frames += 1
            yield from json.loads(plain)


def find(directory: Path, key: bytes, decision_id: str) -> dict[str, Any] | None:
    """The record of a decision, or None. Raises UsageError for an id that cannot be one, or the wrong key file."""
    try:
        moment = datetime.fromtimestamp(time_of(decision_id) / 1000, UTC)
        days = [(moment + timedelta(days=offset)).strftime("%Y%m%d") for offset in (0, 1, -1)]  # written after midnight
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(f"decision id: {error}") from None
    wanted = canonical(decision_id)
    unread: UsageError | None = None
    for day in days:
        for path in sorted(directory.glob(f"{day}-*.spool")):
            try:
                for record in read(path, key):
                    if record["decision_id"] == wanted:
                        return record
            except UsageError as error:  # the record may lie in another file
                unread = unread or error
    if unread is not None:
        raise unread
    return None
