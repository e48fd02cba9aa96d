"""What is kept of a BARRED or UNKNOWN, and how it is found again (domain.md R11, R15, R16).

The hot path only appends to a bounded ring; one thread per worker empties it into a spool file and fsyncs. When the
ring is full a record is dropped and counted, because a slow disk must not slow a sale: one counter says how many.

A record holds keyed digests, measure ids, versions and times: no number, name, court or case. Records are encrypted in
batches (AES-256-GCM under the key file's evidence key), so a stolen disk says nothing without it.

File: `evidence/YYYYMMDD-SUFFIX.spool`, by UTC day; magic, then frames of `length u32 | nonce 12 | ciphertext`, each one
batch of JSON records. Every process writes files of its own, so a tail torn by a crash can only be a file's last frame.
"""

import json
import logging
import os
import secrets
import threading
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from struct import Struct
from typing import Any, BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from checker.core.freshness import AsOf
from checker.errors import UsageError
from checker.rpc.decision_id import time_of
from checker.rpc.servicer import Refusal

MAGIC = b"XXEVID1\n"
RING = 20_000
"""Records that may wait for the disk, per worker."""
RETENTION_DAYS = 3 * 366
"""General limitation period, Civil Code 188: three years, then deletion."""
_LENGTH = Struct(">I")
_NONCE = 12
_MAX_FRAME = 64 * 1024 * 1024
_log = logging.getLogger("checker.evidence")


class EvidenceSpool:
    """One worker's spool. `record` is called on the event loop; everything else happens in a thread of its own."""

    def __init__(self, directory: Path, key: bytes, *, ring: int = RING, retention_days: int = RETENTION_DAYS) -> None:
        self.directory = directory
        self.dropped = 0  # records lost to a full ring or a disk that does not take them
        self.written = 0
        self._cipher = AESGCM(key)
        self._limit = ring
        self._retention = timedelta(days=retention_days)
        self._ring: deque[Refusal] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._suffix = f"{os.getpid()}-{secrets.token_hex(4)}"
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._thread = threading.Thread(target=self._run, name="evidence", daemon=True)
        self._thread.start()

    def record(self, refusal: Refusal) -> None:
        """Take one record; never blocks, never raises."""
        if len(self._ring) >= self._limit:
            self.dropped += 1
            return
        self._ring.append(refusal)
        self._wake.set()

    def close(self) -> None:
        """Write what waits, fsync, stop."""
        self._closing = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        file: BinaryIO | None = None
        day = ""
        while True:
            self._wake.wait()
            self._wake.clear()
            batch = []
            while self._ring:
                batch.append(self._ring.popleft())
            if batch:
                try:
                    today = datetime.now(UTC).strftime("%Y%m%d")
                    if file is None or day != today:
                        if file is not None:
                            file.close()
                        self._purge()
                        day = today
                        file = self._open(day)
                    self._write(file, batch)
                    self.written += len(batch)
                except OSError as error:
                    # The sale goes on; the operator sees the counter and this line.
                    self.dropped += len(batch)
                    file = None
                    _log.error("evidence cannot be written: %s", error.strerror)
            if self._closing and not self._ring:
                if file is not None:
                    file.close()
                return

    def _open(self, day: str) -> BinaryIO:
        path = self.directory / f"{day}-{self._suffix}.spool"
        handle = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        file = os.fdopen(handle, "wb", buffering=0)
        if os.fstat(handle).st_size == 0:
            file.write(MAGIC)
        return file

    def _write(self, file: BinaryIO, batch: list[Refusal]) -> None:
        plain = json.dumps([as_json(refusal) for refusal in batch], ensure_ascii=False).encode()
        nonce = secrets.token_bytes(_NONCE)
        sealed = self._cipher.encrypt(nonce, plain, MAGIC)
        file.write(_LENGTH.pack(len(sealed)) + nonce + sealed)
        os.fsync(file.fileno())

    def _purge(self) -> None:
        """Delete what has been kept long enough; runs once a day, by itself."""
        oldest = (datetime.now(UTC) - self._retention).strftime("%Y%m%d")
        for path in self.directory.glob("*.spool"):
            if path.name[:8] < oldest:
                path.unlink(missing_ok=True)


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
        while True:
            head = file.read(_LENGTH.size)
            if len(head) < _LENGTH.size:
                return
            (length,) = _LENGTH.unpack(head)
            if length > _MAX_FRAME:
                raise UsageError(f"evidence file {path.name} is damaged: restore it from your copy")
            nonce, sealed = file.read(_NONCE), file.read(length)
            if len(sealed) < length:
                return
            try:
                plain = cipher.decrypt(nonce, sealed, MAGIC)
            except InvalidTag:
                raise UsageError(
                    f"evidence file {path.name} cannot be opened with this key file: give the one it was written with"
                ) from None
            yield from json.loads(plain)


def find(directory: Path, key: bytes, decision_id: str) -> dict[str, Any] | None:
    """The record of a decision, or None. Raises UsageError for an id that cannot be one, or the wrong key file."""
    try:
        moment = datetime.fromtimestamp(time_of(decision_id) / 1000, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(f"decision id: {error}") from None
    for offset in (0, 1, -1):  # a batch may reach the disk after midnight
        day = (moment + timedelta(days=offset)).strftime("%Y%m%d")
        for path in sorted(directory.glob(f"{day}-*.spool")):
            for record in read(path, key):
                if record["decision_id"] == decision_id:
                    return record
    return None
