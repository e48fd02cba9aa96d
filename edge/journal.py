"""What the centre's stream brought since a snapshot: its messages read and checked, and kept in `additions.log`.

The log is frames of length, CRC-32 and bytes. The first names the centre, so that what another centre's journal said is
never taken for this one's; the others are WatchChangesResponse messages as they came, seals and all. Additions are
written as they arrive, heartbeats about every five seconds, so that an edge that starts without its centre knows its
place, its keys and how old they are. Nothing here is synced: a power cut may take the log's end, which takes heartbeats
along with the additions before them, so that what is left is older, and says so.

A log is valid with every snapshot whose position lies on its chain, an older or a newer one: keys that the snapshot
holds already do no harm. That is why no order of writes and no crash between them can tear the two apart.
"""

import contextlib
import hmac
import os
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from checker.core.changes import JOURNAL_ID_BYTES, Heartbeat, Position, additions_seal, heartbeat_seal
from checker.core.filter import KEY_BYTES
from checker.core.freshness import AsOf
from checker.core.key import DigestKey
from checker.faults import point
from proto.checker.v1 import filter_pb2 as pb

_HEAD = b"xianxiao/additions/1\0"
_FRAME = struct.Struct("<II")
_MAX_FRAME = 16 * 1024 * 1024


class Additions(NamedTuple):
    """Keys that follow on `base` and lead to `position`; `raw`: the whole message as it came."""

    base: Position
    position: Position
    keys: Sequence[bytes]
    raw: bytes


class Page(NamedTuple):
    """Additions as they are remembered: keys after entry `base`."""

    base: int
    raw: bytes


class Replayed(NamedTuple):
    """What a log adds to a snapshot; `beat`: the last heartbeat for the very position that had been reached."""

    position: Position
    pages: list[Page]
    beat: Heartbeat | None


def position_message(position: Position) -> pb.Position:
    """For the wire."""
    return pb.Position(journal_id=position.journal_id, entry=position.entry)


def additions_of(event: pb.WatchChangesResponse, key: DigestKey) -> Additions | None:
    """The additions of a message; None when seal, lengths or journal do not fit: it must not be applied."""
    message = event.additions
    base, position = _position(message.base), _position(message.position)
    keys = message.keys
    if base is None or position is None or any(len(one) != KEY_BYTES for one in keys):
        return None
    if base.journal_id != position.journal_id or position.entry < base.entry:
        return None
    if not hmac.compare_digest(message.seal, additions_seal(key, base, position, keys)):
        return None
    return Additions(base, position, keys, event.SerializeToString())


def heartbeat_of(event: pb.WatchChangesResponse, key: DigestKey) -> Heartbeat | None:
    """The heartbeat of a message; None when it does not fit its seal: it must not be believed."""
    message = event.heartbeat
    position = _position(message.position)
    if position is None or len(message.centre_id) != 16 or len(message.rulebook_sha256) != 32:
        return None
    as_of = AsOf(message.feed_sequence, _ms(message.feed_time), _ms(message.gap_since), message.epoch)
    silence_ms = message.silence.seconds * 1000 + message.silence.nanos // 1_000_000
    beat = Heartbeat(
        position,
        as_of,
        _ms(message.sent_time),
        silence_ms,
        message.centre_id,
        message.rulebook_sha256,
        message.signing_off,
    )
    try:
        seal = heartbeat_seal(key, beat)
    except struct.error:  # a number too large for the seal
        return None
    return beat if hmac.compare_digest(message.seal, seal) else None


def keys_of(pages: Iterable[Page]) -> Iterator[bytes]:
    """The keys in remembered additions."""
    for page in pages:
        yield from pb.WatchChangesResponse.FromString(page.raw).additions.keys


def pages_after(pages: list[Page], entry: int) -> list[Page]:
    """The pages that may hold keys after an entry. Several may share a base, and one may begin before the entry."""
    at = bisect_right(pages, entry, key=lambda page: page.base) - 1
    if at < 0:
        return list(pages)
    base = pages[at].base
    while at and pages[at - 1].base == base:
        at -= 1
    return pages[at:]


class Log:
    """`additions.log`. Written by the directory's one writer, read by everyone at the start. Writing raises OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self.size = 0
        """Bytes, of the log begun here."""

    @property
    def is_open(self) -> bool:
        """Whether it was begun here, and every addition since has been written to it."""
        return self._file is not None

    def begin(self, centre_id: bytes, pages: Iterable[Page], beat: bytes) -> None:
        """Begin anew: what followed on the snapshot in use so far, and the heartbeat for where that ended."""
        self.close()
        aside = self._path.with_name(f".{self._path.name}.new")
        content = b"".join(map(_framed, (_HEAD + centre_id, *(page.raw for page in pages), beat)))
        file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            _write(file, content)
            point("edge.log.written")
            os.rename(aside, self._path)
        except BaseException:
            os.close(file)
            raise
        point("edge.log.begun")
        self._file = file
        self.size = len(content)

    def append(self, raw: bytes) -> None:
        """One more message; does nothing before `begin`. After an error the log must be begun anew."""
        if self._file is None:
            return
        frame = _framed(raw)
        try:
            _write(self._file, frame)
        except OSError:
            self.close()  # what follows on a torn frame would never be read
            raise
        self.size += len(frame)
        point("edge.log.appended")

    def close(self) -> None:
        """Leave it as it is."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                os.fsync(file)
            os.close(file)

    def replay(self, centre_id: bytes, position: Position, key: DigestKey) -> Replayed:
        """What the log adds to a snapshot of this centre at `position`: up to its end, a torn frame or a break in the
        chain. Never raises: a log that cannot be read adds nothing."""
        pages: list[Page] = []
        last: Heartbeat | None = None
        try:
            content = self._path.read_bytes()
        except OSError:
            return Replayed(position, pages, last)
        frames = _frames(content)
        if next(frames, b"") != _HEAD + centre_id:
            return Replayed(position, pages, last)
        for raw in frames:
            try:
                event = pb.WatchChangesResponse.FromString(raw)
            except DecodeError:
                break
            if event.HasField("additions"):
                added = additions_of(event, key)
                if added is None or added.base.journal_id != position.journal_id or added.base.entry > position.entry:
                    break
                pages.append(Page(added.base.entry, raw))
                position = max(position, added.position)
            elif event.HasField("heartbeat"):
                beat = heartbeat_of(event, key)
                if beat is None:
                    break
                if beat.position == position:
                    last = beat
        return Replayed(position, pages, last)


def _framed(raw: bytes) -> bytes:
    return _FRAME.pack(len(raw), zlib.crc32(raw)) + raw


def _frames(content: bytes) -> Iterator[bytes]:
    at = 0
    while at + _FRAME.size <= len(content):
        length, crc = _FRAME.unpack_from(content, at)
        raw = content[at + _FRAME.size : at + _FRAME.size + length]
        if length > _MAX_FRAME or len(raw) != length or zlib.crc32(raw) != crc:
            return
        yield raw
        at += _FRAME.size + length


def _write(file: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(file, left) :]


def _position(message: pb.Position) -> Position | None:
    if len(message.journal_id) != JOURNAL_ID_BYTES:
        return None
    return Position(message.journal_id, message.entry)


def _ms(time: Timestamp) -> int:
    return time.seconds * 1000 + time.nanos // 1_000_000
