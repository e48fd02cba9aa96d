"""The journal as edges follow it: positions, and the seals that hold a message to its place and its numbers.

A message of the stream carries a MAC under the digest key, which centre and edge share. So a key that was changed on
the way, a delta for another base, or a heartbeat with other numbers is refused, whatever carried it: a filter that
lacked one key would let somebody through without a sign of it. Fields are packed at fixed widths, texts not at all.
"""

from collections.abc import Iterable
from struct import Struct
from typing import NamedTuple

from checker.core.freshness import AsOf
from checker.core.key import DigestKey

JOURNAL_ID_BYTES = 8
_MANIFEST = b"xianxiao/manifest/1\0"
_PLACE = Struct(">8sQ")
_HEARTBEAT = Struct(">8sQQqqqqQ16s32s?")


class Position(NamedTuple):
    """A place in the journal of additions."""

    journal_id: bytes  # 8 bytes, new with every generation
    entry: int  # number of the last entry read; 0: before the first


class Heartbeat(NamedTuple):
    """How far whoever has read up to `position` knows the feed, by the sender's word. Times in milliseconds."""

    position: Position
    as_of: AsOf  # snapshot_epoch: the newest one published; 0: none yet
    sent_ms: int  # the sender's clock
    silence_ms: int  # since the sender last heard from the exact index
    centre_id: bytes  # 16 bytes; zeros: nothing published yet
    rulebook_sha256: bytes  # 32 bytes
    signing_off: bool


def signed_manifest(manifest: bytes) -> bytes:
    """What the centre's signature of a serialised Manifest is over: it fits nothing else that key signs."""
    return _MANIFEST + manifest


def additions_seal(key: DigestKey, base: Position, position: Position, keys: Iterable[bytes]) -> bytes:
    """16 bytes over keys that follow on `base` and lead to `position`."""
    return key.seal(b"additions", _PLACE.pack(*base) + _PLACE.pack(*position) + b"".join(keys))


def heartbeat_seal(key: DigestKey, beat: Heartbeat) -> bytes:
    """16 bytes over everything a heartbeat says."""
    as_of = beat.as_of
    packed = _HEARTBEAT.pack(
        *beat.position,
        as_of.feed_sequence,
        as_of.feed_time_ms,
        as_of.gap_since_ms,
        beat.sent_ms,
        beat.silence_ms,
        as_of.snapshot_epoch,
        beat.centre_id,
        beat.rulebook_sha256,
        beat.signing_off,
    )
    return key.seal(b"heartbeat", packed)
