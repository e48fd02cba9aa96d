r"""The filter's container: the one format a filter has on disk and on the wire.

Strategy: a fixed preamble says how long everything is and carries a SHA-256 of every other byte and a signature of the
preamble up to there. All of that is checked before a single field is given meaning, so no byte can be changed, lost or
added without a refusal that names the fault. The same header and bits always give the same bytes.

Layout, version 1. Integers little-endian and unsigned, `u16` = 2 bytes and so on; offsets in bytes.

    preamble, 128 bytes
      0    8  magic         89 58 58 46 0D 0A 1A 0A ("\x89XXF\r\n\x1a\n"; breaks visibly when transferred as text)
      8  u16  version       1
     10  u16  flags         bit 0: signed; other bits 0
     12  u32  header length bytes of the header fields, without padding
     16  u64  body length   bytes of the bit array
     24    8  reserved      zero
     32   32  SHA-256       of bytes 0..31 and bytes 128..end
     64   64  signature     Ed25519 over bytes 0..63; all zero when unsigned
    header, from 128
         u64  capacity, f64 error rate (IEEE 754), u64 slices, u64 bits per slice, u64 count
          16  key check value (MAC of a constant under the digest key), 16 centre id, u64 epoch
           8  journal id, u64 journal position, u64 feed sequence, u64 feed time, u64 time of build
              (times in milliseconds since the Unix epoch; 0: nothing imported)
          32  SHA-256 of the rulebook
              then three texts, each u16 length and that many bytes of UTF-8: derivation, key id, rulebook version
              then zero bytes up to a multiple of 64
    body      the bit array: slice after slice without gaps, lowest bit of a byte first, last byte filled with zero bits

A reader derives bit positions as the derivation says; "double-128le/1" is in `core.filter`. A reader that does not know
the version or the derivation must refuse the file: probed by another rule a filter denies its members silently.
An unsigned file is one a checker built for itself; whoever verifies signatures refuses it, and a signed file is refused
by whoever brings no key to verify it with. Any change to these bytes is a new version.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct

from checker.core.filter import DERIVATION as DERIVATION  # writers of a header find it here
from checker.core.filter import DigestFilter, Parameters

MAGIC = b"\x89XXF\r\n\x1a\n"
FORMAT_VERSION = 1

_PREAMBLE = Struct("<8sHHIQ8s32s64s")
_HASHED = 32  # of the preamble, these first bytes are in the hash
_SIGNED = 64  # and these are signed: the hash with them
_FLAG_SIGNED = 1
_NO_SIGNATURE = bytes(64)
_ALIGNMENT = 64
_FIXED = Struct("<QdQQQ16s16sQ8sQQQQ32s")
_TEXT_LENGTH = Struct("<H")
_MAX_SLICES = 64  # an error rate of 2**-64
_MAX_NUMBER = 2**63 - 1  # fits a signed integer of every language

Sign = Callable[[bytes], bytes]
Verify = Callable[[bytes, bytes], bool]


class BadContainer(ValueError):  # says what is bad; every caller reads it so
    """A filter file that must not be used. The text is `FAULT: what was found`; `fault` is its first word.

    Faults: truncated, magic, version, flags, length, checksum, unsigned, signed, signature, derivation, header,
    parameters. Callers add their own (`key`).
    """

    @property
    def fault(self) -> str:
        """The fault's one word, fit for a metric's label."""
        return str(self).partition(":")[0]


@dataclass(frozen=True, slots=True)
class Header:
    """What a filter was built from. Raises ValueError when a field does not fit the format."""

    derivation: str  # how bit positions follow from a key
    key_id: str  # the digest key its keys were made with
    key_check: bytes  # 16 bytes: that key's check value
    parameters: Parameters
    centre_id: bytes  # 16 bytes; zeros: a checker's own
    epoch: int  # 0: a checker's own
    journal_id: bytes  # 8 bytes
    journal_position: int  # every addition up to here is in the filter
    feed_sequence: int
    feed_time_ms: int
    rulebook_version: str
    rulebook_sha256: bytes  # 32 bytes
    built_ms: int  # noted before the keys were gathered

    def __post_init__(self) -> None:
        for name, length in (("key_check", 16), ("centre_id", 16), ("journal_id", 8), ("rulebook_sha256", 32)):
            if len(getattr(self, name)) != length:
                raise ValueError(f"{name} must be {length} bytes, not {len(getattr(self, name))}")
        for name in ("epoch", "journal_position", "feed_sequence", "feed_time_ms", "built_ms"):
            if not 0 <= getattr(self, name) <= _MAX_NUMBER:
                raise ValueError(f"{name} must be from 0 to 2**63 - 1, not {getattr(self, name)}")
        for name in ("derivation", "key_id", "rulebook_version"):
            if len(getattr(self, name).encode()) > 255:
                raise ValueError(f"{name} is longer than 255 bytes")
        capacity, error_rate, num_slices, bits_per_slice, count = self.parameters
        if not 1 <= num_slices <= _MAX_SLICES:
            raise ValueError(f"parameters: {num_slices} slices are not from 1 to {_MAX_SLICES}")
        if not 0 < error_rate < 1:  # NaN neither
            raise ValueError(f"parameters: error rate {error_rate} is not between 0 and 1")
        for number in (capacity, bits_per_slice):
            if not 1 <= number <= _MAX_NUMBER:
                raise ValueError(f"parameters: {number} is not a capacity or size")
        if not 0 <= count <= _MAX_NUMBER:
            raise ValueError(f"parameters: {count} is not a count")


def pack(header: Header, bits: bytes | memoryview, sign: Sign | None) -> bytes:
    """The file's bytes. `sign(message)` returns a 64-byte Ed25519 signature; None: a checker's own, unsigned.

    Raises ValueError for what `parse` would refuse: another derivation, or bits that do not fit the parameters.
    """
    if header.derivation != DERIVATION:
        raise ValueError(f"this program derives positions by {DERIVATION}, not {header.derivation}")
    if fault := _misfit(header.parameters, memoryview(bits)):
        raise ValueError(f"parameters: {fault}")
    fields = _header_fields(header)
    padding = bytes(-len(fields) % _ALIGNMENT)
    flags = 0 if sign is None else _FLAG_SIGNED
    start = _PREAMBLE.pack(MAGIC, FORMAT_VERSION, flags, len(fields), len(bits), bytes(8), bytes(32), _NO_SIGNATURE)[
        :_HASHED
    ]
    hashed = hashlib.sha256(start)
    for part in (fields, padding, bits):
        hashed.update(part)
    start += hashed.digest()
    signature = _NO_SIGNATURE if sign is None else sign(start)
    if len(signature) != len(_NO_SIGNATURE):
        raise ValueError(f"an Ed25519 signature is {len(_NO_SIGNATURE)} bytes, not {len(signature)}")
    return b"".join((start, signature, fields, padding, bits))


def parse(buffer: memoryview, verify: Verify | None) -> tuple[Header, memoryview]:
    """Verify a file wholly, then read it: its header and its bits, a part of `buffer`, not copied.

    `verify(message, signature)` says whether the Ed25519 signature is the expected signer's; it may be asked about
    any bytes. None accepts unsigned files only, and a `verify` signed ones only. Raises BadContainer.
    """
    if not buffer.nbytes:
        raise BadContainer("truncated: the file is empty")
    # A short file is called truncated only if it began as one of ours.
    if bytes(buffer[: len(MAGIC)]) != MAGIC[: buffer.nbytes]:
        raise BadContainer("magic: not a filter container of this project")
    if buffer.nbytes < _PREAMBLE.size:
        raise BadContainer(f"truncated: {buffer.nbytes} bytes do not hold the preamble of {_PREAMBLE.size}")
    preamble = bytes(buffer[: _PREAMBLE.size])
    _, version, flags, header_length, body_length, reserved, checksum, signature = _PREAMBLE.unpack(preamble)
    if version != FORMAT_VERSION:
        raise BadContainer(f"version: format {version}, this program reads {FORMAT_VERSION}")
    if flags & ~_FLAG_SIGNED or any(reserved):
        raise BadContainer("flags: set where this version has none")
    end_of_header = _PREAMBLE.size + header_length
    start_of_body = end_of_header + -header_length % _ALIGNMENT
    expected = start_of_body + body_length
    if buffer.nbytes < expected:
        raise BadContainer(f"truncated: {buffer.nbytes} bytes of {expected}")
    if buffer.nbytes > expected:
        raise BadContainer(f"length: {buffer.nbytes} bytes, {expected} expected")
    hashed = hashlib.sha256(preamble[:_HASHED])
    hashed.update(buffer[_PREAMBLE.size :])
    if hashed.digest() != checksum:
        raise BadContainer("checksum: the content is not what was written")
    _check_signature(preamble[:_SIGNED], bool(flags & _FLAG_SIGNED), signature, verify)

    # From here on every byte is what the writer wrote; what is still refused, the writer wrote.
    if any(buffer[end_of_header:start_of_body]):
        raise BadContainer("header: padding is not zero")
    header = _read_header(bytes(buffer[_PREAMBLE.size : end_of_header]))
    bits = buffer[start_of_body:].toreadonly()
    if fault := _misfit(header.parameters, bits):
        raise BadContainer(f"parameters: {fault}")
    return header, bits


def load(buffer: memoryview, verify: Verify | None) -> tuple[Header, DigestFilter]:
    """A verified file's header and its filter, read-only over `buffer` (which it keeps alive). Raises BadContainer."""
    header, bits = parse(buffer, verify)
    return header, DigestFilter.from_buffer(bits, header.parameters)


def _check_signature(message: bytes, signed: bool, signature: bytes, verify: Verify | None) -> None:
    if not signed:
        if any(signature):
            raise BadContainer("signature: present in a file that says it has none")
        if verify is not None:
            raise BadContainer("unsigned: a signed filter is required here")
    elif verify is None:
        raise BadContainer("signed: by another party, and no key was given to verify it with")
    elif not verify(message, signature):
        raise BadContainer("signature: not made by the expected signer over this content")


def _misfit(parameters: Parameters, bits: memoryview) -> str:
    """Why the bit array cannot be that of a filter of these parameters; "" when it can."""
    num_bits = parameters.num_slices * parameters.bits_per_slice
    if bits.nbytes != parameters.num_bytes:
        return f"{parameters.num_slices} slices of {parameters.bits_per_slice} bits do not fill {bits.nbytes} bytes"
    if num_bits % 8 and bits[-1] >> num_bits % 8:
        return "bits are set behind the last slice"
    return ""


def _header_fields(header: Header) -> bytes:
    fixed = _FIXED.pack(
        *header.parameters,
        header.key_check,
        header.centre_id,
        header.epoch,
        header.journal_id,
        header.journal_position,
        header.feed_sequence,
        header.feed_time_ms,
        header.built_ms,
        header.rulebook_sha256,
    )
    texts = (text.encode() for text in (header.derivation, header.key_id, header.rulebook_version))
    return fixed + b"".join(_TEXT_LENGTH.pack(len(text)) + text for text in texts)


def _read_header(fields: bytes) -> Header:
    if len(fields) < _FIXED.size:
        raise BadContainer(f"header: {len(fields)} bytes are too few")
    capacity, error_rate, num_slices, bits_per_slice, count, *identity = _FIXED.unpack_from(fields)
    key_check, centre_id, epoch, journal_id, position, sequence, feed_time, built, rulebook_sha256 = identity
    derivation, at = _read_text(fields, _FIXED.size)
    if derivation != DERIVATION:
        raise BadContainer(f"derivation: this program derives positions by {DERIVATION}, the file by {derivation!r}")
    key_id, at = _read_text(fields, at)
    rulebook_version, at = _read_text(fields, at)
    if at != len(fields):
        raise BadContainer(f"header: {len(fields) - at} bytes behind its last field")
    try:
        return Header(
            derivation=derivation,
            key_id=key_id,
            key_check=key_check,
            parameters=Parameters(capacity, error_rate, num_slices, bits_per_slice, count),
            centre_id=centre_id,
            epoch=epoch,
            journal_id=journal_id,
            journal_position=position,
            feed_sequence=sequence,
            feed_time_ms=feed_time,
            rulebook_version=rulebook_version,
            rulebook_sha256=rulebook_sha256,
            built_ms=built,
        )
    except ValueError as error:
        reason = str(error)
        raise BadContainer(reason if reason.startswith("parameters:") else f"header: {reason}") from None


def _read_text(fields: bytes, at: int) -> tuple[str, int]:
    start = at + _TEXT_LENGTH.size
    if start > len(fields):
        raise BadContainer("header: ends before its last field")
    (length,) = _TEXT_LENGTH.unpack_from(fields, at)
    if start + length > len(fields):
        raise BadContainer("header: ends inside a text")
    try:
        return fields[start : start + length].decode(), start + length
    except UnicodeDecodeError:
        raise BadContainer("header: a text is not UTF-8") from None
