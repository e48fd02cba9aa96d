"""Every change the importer applied, appended and fsynced beside it: what a store that lost writes is cured with.

A fail-over of the store may lose writes it had acknowledged (design.md §6). Then everything since the generation's
`base_seq` is applied again from here. The log holds what the store holds: digests, records, measure ids, courts and
case numbers, never a document number or a name.

One file: a header that binds it to the digest key, then frames. A frame is a mark, its payload's length and CRC-32,
then the payload: changes one after another. A torn frame at the end (a crash while writing; nothing in it was
acknowledged) is cut off when the log is opened. A damaged frame with an intact one after it is refused: a hole would
lose changes silently.

While no import is under way the log ends with a CLEAN frame, which the next import takes away before it applies
anything. If it is missing, an import may have died between the store and the log: the next one then logs also what the
store says it knows already (`ChangeLog.clean`).
"""

import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from struct import Struct
from typing import BinaryIO, Final, Self

from checker.core.measure import Addition, Change, Exemption, Removal, Window
from checker.errors import UsageError
from checker.index.base import ExactIndex, IndexKey

_MAGIC: Final = b"XXCHLOG1"
_HEADER: Final = Struct(">8sB32sB16s")  # magic, key id's length, key id, check value's length, check value
_MARK: Final = b"\xf5CLF"
_FRAME: Final = Struct(">4sII")  # mark, payload length, CRC-32 of the payload
_CLEAN: Final = b"\x00import-ended\x00"
_MAX_FRAME: Final = 1 << 28
_ADDITION, _REMOVAL, _EXEMPTION = 1, 2, 3
_ADD_HEAD: Final = Struct(">BQBHHI")  # kind, sequence, lengths of measure id, court, case number; number of records
_RECORD_HEAD: Final = Struct(">16sH")
_REMOVE_HEAD: Final = Struct(">BQBBB")  # kind, sequence, length of measure id, state, length of reason
_EXEMPT_HEAD: Final = Struct(">BQBHqqI")  # kind, sequence, length of measure id, items, from, to, number of keys
_REPLAY_KEYS: Final = 4_000


def encode(change: Change) -> bytes:
    """One change as the log's payload holds it."""
    if isinstance(change, Addition):
        sequence, name, records, court, case_number = change
        raw = (name.encode(), court.encode(), case_number.encode())
        parts = [_ADD_HEAD.pack(_ADDITION, sequence, *map(len, raw), len(records)), *raw]
        for key, record in records.items():
            parts += (_RECORD_HEAD.pack(key, len(record)), record)
        return b"".join(parts)
    measure_id = change.measure_id.encode()
    match change:
        case Removal(sequence, _, state, reason):
            reason_raw = reason.encode()
            head = _REMOVE_HEAD.pack(_REMOVAL, sequence, len(measure_id), state, len(reason_raw))
            return head + measure_id + reason_raw
        case Exemption(sequence, _, (items, from_ms, to_ms), keys):
            head = _EXEMPT_HEAD.pack(_EXEMPTION, sequence, len(measure_id), items, from_ms, to_ms, len(keys))
            return b"".join((head, measure_id, *keys))


def decode(payload: bytes) -> Iterator[Change]:
    """The changes of a payload. Raises ValueError or struct.error when it is none."""
    at, end = 0, len(payload)
    while at < end:
        kind = payload[at]
        if kind == _ADDITION:
            _, sequence, id_length, court_length, case_length, count = _ADD_HEAD.unpack_from(payload, at)
            at += _ADD_HEAD.size
            court_at = at + id_length
            case_at = court_at + court_length
            measure_id = payload[at:court_at].decode()
            court = payload[court_at:case_at].decode()
            at = case_at + case_length
            case_number = payload[case_at:at].decode()
            records = {}
            for _ in range(count):
                key, length = _RECORD_HEAD.unpack_from(payload, at)
                at += _RECORD_HEAD.size
                records[key] = payload[at : at + length]
                at += length
            yield Addition(sequence, measure_id, records, court, case_number)
        elif kind == _REMOVAL:
            _, sequence, id_length, state, reason_length = _REMOVE_HEAD.unpack_from(payload, at)
            at += _REMOVE_HEAD.size
            reason_at = at + id_length
            measure_id = payload[at:reason_at].decode()
            at = reason_at + reason_length
            yield Removal(sequence, measure_id, state, payload[reason_at:at].decode())
        elif kind == _EXEMPTION:
            _, sequence, id_length, items, from_ms, to_ms, count = _EXEMPT_HEAD.unpack_from(payload, at)
            at += _EXEMPT_HEAD.size
            keys_at = at + id_length
            measure_id = payload[at:keys_at].decode()
            at = keys_at + 16 * count
            keys = tuple(payload[start : start + 16] for start in range(keys_at, at, 16))
            yield Exemption(sequence, measure_id, Window(items, from_ms, to_ms), keys)
        else:
            raise ValueError(f"kind {kind}")


class ChangeLog:
    """The log at `path`, open for appending; made when it is not there. One process at a time: the importer's lease.

    Raises UsageError when the file is no change log, belongs to another digest key, or is damaged before its end.
    """

    def __init__(self, path: Path, key: IndexKey) -> None:
        self._path = path
        self.fresh = False  # made just now: it knows nothing of what came before
        header = _header(key)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file: BinaryIO = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
        except OSError as error:
            raise UsageError(f"change log {path}: {error.strerror}; give a --state-dir that can be written") from None
        try:
            self.clean = self._open(header)
        except BaseException:
            self._file.close()
            raise

    def _open(self, header: bytes) -> bool:
        """Check the header, cut off a torn end; whether the last import ended cleanly."""
        file = self._file
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        found = file.read(len(header))
        if found != header:
            if size >= len(header) or not header.startswith(found):
                raise UsageError(
                    f"change log {self._path} belongs to another digest key or is no change log: use the key file or "
                    "the --state-dir that go with this index"
                )
            self.fresh = True
            file.seek(0)
            file.truncate()
            file.write(header)
            self._sync()
            _sync_folder(self._path.parent)
            return False
        if size >= len(header) + len(_CLEAN_FRAME):
            file.seek(size - len(_CLEAN_FRAME))
            if file.read() == _CLEAN_FRAME:
                return True
        end = len(header)
        file.seek(end)
        for payload in self._frames():
            end += _FRAME.size + len(payload)
        if end < size:
            file.truncate(end)
            self._sync()
        file.seek(end)
        return False

    def _frames(self) -> Iterator[bytes]:
        """The payloads from here on, up to a torn end."""
        while True:
            at = self._file.tell()
            payload = self._payload()
            if payload is None:
                break
            yield payload
        self._file.seek(at)
        rest = self._file.read()
        found = rest.find(_MARK, 1)
        while found >= 0:
            self._file.seek(at + found)
            if self._payload() is not None:
                raise UsageError(
                    f"change log {self._path} is damaged at byte {at}: restore it, or import into a new index from the "
                    "court's full feed with a new --state-dir"
                )
            found = rest.find(_MARK, found + 1)

    def _payload(self) -> bytes | None:
        """The payload of the frame that begins here; None when no intact frame does."""
        head = self._file.read(_FRAME.size)
        if len(head) < _FRAME.size:
            return None
        mark, length, crc = _FRAME.unpack(head)
        if mark != _MARK or length > _MAX_FRAME:
            return None
        payload = self._file.read(length)
        return payload if len(payload) == length and zlib.crc32(payload) == crc else None

    def begin_import(self) -> None:
        """Note durably that the store may soon know more than the log."""
        if self.clean:
            self._file.truncate(self._file.seek(0, os.SEEK_END) - len(_CLEAN_FRAME))
            self._sync()
            self.clean = False

    def append(self, encoded: Sequence[bytes]) -> None:
        """Append changes (as `encode` gives them) and fsync, after `begin_import`. Nothing to append costs nothing."""
        if encoded:
            self._write(b"".join(encoded))

    def end_import(self) -> None:
        """Note that whatever the store has been told is in the log."""
        if not self.clean:
            self._write(_CLEAN)
            self.clean = True

    def _write(self, payload: bytes) -> None:
        self._file.seek(0, os.SEEK_END)
        self._file.write(_frame(payload))
        self._sync()

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def changes(self) -> Iterator[list[Change]]:
        """All changes from the first, in the order they were applied, in batches."""
        self._file.seek(_HEADER.size)
        batch: list[Change] = []
        keys = 0
        for payload in self._frames():
            if payload == _CLEAN:
                continue
            for change in decode(payload):
                batch.append(change)
                keys += len(change.records) if isinstance(change, Addition) else 1
                if keys >= _REPLAY_KEYS:
                    yield batch
                    batch, keys = [], 0
        if batch:
            yield batch

    async def replay(self, index: ExactIndex) -> int:
        """Apply every change again; the number of changes. Harmless to a store that lost nothing."""
        count = 0
        for batch in self.changes():
            await index.reapply(batch)
            count += len(batch)
        return count

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _frame(payload: bytes) -> bytes:
    return _FRAME.pack(_MARK, len(payload), zlib.crc32(payload)) + payload


_CLEAN_FRAME: Final = _frame(_CLEAN)


def _header(key: IndexKey) -> bytes:
    key_id = key.key_id.encode()
    return _HEADER.pack(_MAGIC, len(key_id), key_id, len(key.check_value), key.check_value)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
