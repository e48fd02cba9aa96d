"""The filter's container: nothing changed on the way is ever used, and today's reader reads yesterday's file."""

import dataclasses
import hashlib
import io
import math
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pybloom_live
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from checker.core import container
from checker.core.container import FORMAT_VERSION, MAGIC, BadContainer, Header, load, pack, parse
from checker.core.filter import DERIVATION, DigestFilter, Parameters
from checker.core.filter_builder import build

# Synthetic members and a test-only signing key; with them the golden file's every byte follows from this module.
GOLDEN = Path(__file__).parents[1] / "vectors" / "filter-golden-v1.bin"
MEMBERS = [hashlib.blake2b(b"member %d" % n, digest_size=16).digest() for n in range(900)]
STRANGERS = [hashlib.blake2b(b"stranger %d" % n, digest_size=16).digest() for n in range(900)]
SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))

Verify = Callable[[bytes, bytes], bool]


def verifier(key: Ed25519PrivateKey) -> Verify:
    """`verify` for files signed by `key`."""
    public = key.public_key()

    def verify(message: bytes, signature: bytes) -> bool:
        try:
            public.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    return verify


def a_filter() -> DigestFilter:
    """900 known members at 1e-4: 2.4 kB."""
    return build(b"".join(MEMBERS), error_rate=1e-4)


def a_header(parameters: Parameters, **changes: Any) -> Header:
    """A header with a distinct value in every field."""
    header = Header(
        derivation=DERIVATION,
        key_id="test-key-1",
        key_check=bytes(range(16)),
        parameters=parameters,
        centre_id=bytes(range(16, 32)),
        epoch=7,
        journal_id=b"journal1",
        journal_position=123_456,
        feed_sequence=987_654,
        feed_time_ms=1_700_000_000_000,
        rulebook_version="2026-01 限消",
        rulebook_sha256=bytes(range(32, 64)),
        built_ms=1_700_000_000_500,
    )
    return dataclasses.replace(header, **changes)


SMALL = a_filter()
SIGNED = pack(a_header(SMALL.parameters()), SMALL.bits(), SIGNER.sign)
UNSIGNED = pack(a_header(SMALL.parameters()), SMALL.bits(), None)
FILES = pytest.mark.parametrize(
    ("file", "verify"), [(SIGNED, verifier(SIGNER)), (UNSIGNED, None)], ids=["signed", "unsigned"]
)


def fault_of(file: bytes, verify: Verify | None) -> str:
    """The fault a file is refused for."""
    with pytest.raises(BadContainer) as refused:
        load(memoryview(file), verify)
    return refused.value.fault


def resealed(change: Callable[[bytearray], None], file: bytes = UNSIGNED) -> bytes:
    """An unsigned file changed by someone who then makes the checksum right: what the checks behind it must catch."""
    forged = bytearray(file)
    change(forged)
    forged[32:64] = hashlib.sha256(forged[:32] + forged[128:]).digest()
    return bytes(forged)


def with_header_bytes(fields: bytes) -> bytes:
    """An unsigned file with other header fields and a right checksum."""
    body = bytes(SMALL.bits())
    preamble = bytearray(UNSIGNED[:128])
    preamble[12:16] = len(fields).to_bytes(4, "little")
    return resealed(lambda _: None, bytes(preamble) + fields + bytes(-len(fields) % 64) + body)


def header_bytes() -> bytes:
    """The header fields of UNSIGNED, without padding."""
    return UNSIGNED[128 : 128 + int.from_bytes(UNSIGNED[12:16], "little")]


def test_golden_file_still_loads() -> None:
    """The committed version 1 file loads: every header field, all 900 members, and the two strangers it mistakes."""
    header, loaded = load(memoryview(GOLDEN.read_bytes()), verifier(SIGNER))

    assert header == a_header(SMALL.parameters())
    assert all(member in loaded for member in MEMBERS)
    assert [n for n, stranger in enumerate(STRANGERS) if stranger in loaded] == [613, 661]


def test_golden_file_is_still_what_we_write() -> None:
    """Build and pack give today the bytes of the committed file. If this fails, files in the field change meaning."""
    assert GOLDEN.read_bytes() == SIGNED


@FILES
def test_what_was_packed_is_what_is_loaded(file: bytes, verify: Verify | None) -> None:
    """Header and bits come back equal, the bits as a read-only part of the buffer."""
    header, bits = parse(memoryview(bytearray(file)), verify)

    assert header == a_header(SMALL.parameters())
    assert bits == SMALL.bits()
    assert bits.readonly
    assert bits.nbytes == header.parameters.num_bytes


@given(st.data())
def test_any_header_survives(data: st.DataObject) -> None:
    """Any header the format admits is read back equal, and packing it twice gives the same bytes."""
    numbers = st.integers(0, 2**63 - 1)
    header = a_header(
        SMALL.parameters()._replace(count=data.draw(numbers)),
        key_id=data.draw(st.text(st.characters(codec="ascii"), max_size=32)),
        key_check=data.draw(st.binary(min_size=16, max_size=16)),
        centre_id=data.draw(st.binary(min_size=16, max_size=16)),
        epoch=data.draw(numbers),
        journal_id=data.draw(st.binary(min_size=8, max_size=8)),
        journal_position=data.draw(numbers),
        feed_sequence=data.draw(numbers),
        feed_time_ms=data.draw(numbers),
        rulebook_version=data.draw(st.text(max_size=40)),
        rulebook_sha256=data.draw(st.binary(min_size=32, max_size=32)),
        built_ms=data.draw(numbers),
    )
    file = pack(header, SMALL.bits(), None)

    assert load(memoryview(file), None)[0] == header
    assert file == pack(header, bytes(SMALL.bits()), None)
    assert (len(file) - header.parameters.num_bytes) % 64 == 0  # the bits begin on a cache line


@FILES
def test_every_byte_is_protected(file: bytes, verify: Verify | None) -> None:
    """Whichever single byte is changed, by any one bit, the file is refused."""
    for at in range(len(file)):
        changed = bytearray(file)
        changed[at] ^= 1 << at % 8
        with pytest.raises(BadContainer):
            load(memoryview(changed), verify)


@FILES
@given(flips=st.dictionaries(st.integers(0, len(UNSIGNED) - 1), st.integers(1, 255), min_size=1, max_size=8))
def test_flipped_bytes_never_load(file: bytes, verify: Verify | None, flips: dict[int, int]) -> None:
    """No combination of changed bytes loads, or raises anything but BadContainer."""
    changed = bytearray(file)
    for at, mask in flips.items():
        changed[at] ^= mask
    with pytest.raises(BadContainer):
        load(memoryview(changed), verify)


@given(st.binary(max_size=400), st.booleans())
def test_arbitrary_bytes_are_refused(content: bytes, ours: bool) -> None:
    """Bytes of any other origin, with our magic in front or not, are refused with a reason and nothing else raised."""
    with pytest.raises(BadContainer, match=": "):
        load(memoryview(MAGIC + content if ours else content), None)


@FILES
def test_truncated_anywhere(file: bytes, verify: Verify | None) -> None:
    """A file cut at any length is refused as truncated, the empty one too."""
    for length in range(len(file)):
        assert fault_of(file[:length], verify) == "truncated"


@FILES
def test_bytes_behind_the_end(file: bytes, verify: Verify | None) -> None:
    """A file with anything behind its end is refused for its length."""
    assert fault_of(file + b"\0", verify) == "length"


@pytest.mark.parametrize(
    ("at", "fault"),
    [
        (0, "magic"),
        (8, "version"),
        (10, "checksum"),  # claims to be unsigned, which the hash denies
        (11, "flags"),
        (24, "flags"),
        (32, "checksum"),
        (64, "signature"),
        (128, "checksum"),
        (len(SIGNED) - 1, "checksum"),
    ],
)
def test_fault_names_what_was_changed(at: int, fault: str) -> None:
    """The reason of a refusal names the part that was changed."""
    changed = bytearray(SIGNED)
    changed[at] ^= 1
    assert fault_of(bytes(changed), verifier(SIGNER)) == fault


def test_next_version_is_refused_by_name() -> None:
    """A whole and well sealed file of another format version is refused as such, naming both versions."""

    def next_version(file: bytearray) -> None:
        file[8] = FORMAT_VERSION + 1

    with pytest.raises(BadContainer, match=r"^version: format 2, this program reads 1$"):
        load(memoryview(resealed(next_version)), None)


def test_signature_of_another_signer() -> None:
    """A file signed by another key, or carrying the signature of other content, is refused for its signature."""
    other = pack(a_header(SMALL.parameters(), epoch=8), SMALL.bits(), SIGNER.sign)
    moved = SIGNED[:64] + other[64:128] + SIGNED[128:]

    assert fault_of(SIGNED, verifier(OTHER_SIGNER)) == "signature"
    assert fault_of(moved, verifier(SIGNER)) == "signature"


def test_signature_and_verifier_go_together() -> None:
    """An unsigned file is refused where signatures are verified, a signed one where there is no key to verify it."""
    assert fault_of(UNSIGNED, verifier(SIGNER)) == "unsigned"
    assert fault_of(SIGNED, None) == "signed"


def test_stripping_the_signature_needs_the_file_to_be_unsigned() -> None:
    """A signature left in a file that says it has none is refused, even with a right checksum."""

    def sign_without_saying_so(file: bytearray) -> None:
        file[64:128] = SIGNED[64:128]

    assert fault_of(resealed(sign_without_saying_so), None) == "signature"


def test_another_derivation() -> None:
    """A file whose bits follow another rule is refused: it would deny its members. Neither is one written."""
    forged = with_header_bytes(header_bytes().replace(DERIVATION.encode(), b"double-128le/2"))
    assert fault_of(forged, None) == "derivation"
    with pytest.raises(ValueError, match="double-128le/1"):
        pack(a_header(SMALL.parameters(), derivation="double-128le/2"), SMALL.bits(), None)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        (b"", "header"),
        (header_bytes()[:-1], "header"),
        (header_bytes()[:181], "header"),
        (header_bytes() + b"\0", "header"),
        (header_bytes().replace("限".encode(), b"\xff\xff\xff"), "header"),
        (header_bytes().replace((7).to_bytes(8, "little"), b"\xff" * 8), "header"),
    ],
    ids=["empty", "cut-in-text", "cut-before-text", "behind", "not-utf8", "epoch-too-large"],
)
def test_header_that_does_not_add_up(fields: bytes, fault: str) -> None:
    """A well sealed header with too few, too many or impossible fields is refused as a bad header."""
    assert fault_of(with_header_bytes(fields), None) == fault


def test_padding_is_zero() -> None:
    """Nothing can hide between header and bits."""
    at = 128 + len(header_bytes())
    assert at % 64

    def hide(file: bytearray) -> None:
        file[at] = 1

    assert fault_of(resealed(hide), None) == "header"


@pytest.mark.parametrize(
    "changes",
    [
        {"num_slices": 0},
        {"num_slices": 13},
        {"num_slices": 65},
        {"num_slices": 2**60},
        {"bits_per_slice": 0},
        {"bits_per_slice": 2**62},
        {"bits_per_slice": 2**64 - 1},
        {"capacity": 0},
        {"capacity": 2**64 - 1},
        {"count": 2**64 - 1},
        {"error_rate": 0.0},
        {"error_rate": 1.0},
        {"error_rate": math.nan},
        {"error_rate": math.inf},
    ],
    ids=str,
)
def test_hostile_parameters(changes: dict[str, Any]) -> None:
    """Parameters that do not fit the bits, or would make a reader allocate or divide by zero, are refused by name."""
    parameters = SMALL.parameters()._replace(**changes)
    fixed = container._FIXED.unpack_from(header_bytes())
    fields = container._FIXED.pack(*parameters, *fixed[5:]) + header_bytes()[container._FIXED.size :]

    assert fault_of(with_header_bytes(fields), None) == "parameters"


@pytest.mark.parametrize("num_slices", [0, 65])
def test_number_of_slices_is_bounded(num_slices: int) -> None:
    """A filter of no slices or of more than 64 has no header, even when its bits fit: its probes would be unbounded."""
    with pytest.raises(ValueError, match=r"^parameters: "):
        a_header(Parameters(1000, 1e-4, num_slices, 8, 0))


def test_bits_behind_the_last_slice() -> None:
    """One filter has one file: the bits that fill the last byte must be zero, reading and writing."""
    filter_with_rest = DigestFilter(1001, 1e-2)
    parameters = filter_with_rest.parameters()
    assert parameters.num_slices * parameters.bits_per_slice % 8
    bits = bytearray(filter_with_rest.bits())
    file = pack(a_header(parameters), bytes(bits), None)
    bits[-1] |= 0x80

    def set_last(content: bytearray) -> None:
        content[-1] |= 0x80

    assert fault_of(resealed(set_last, file), None) == "parameters"
    with pytest.raises(ValueError, match="behind the last slice"):
        pack(a_header(parameters), bytes(bits), None)


def test_pybloom_lives_own_file_is_refused() -> None:
    """A file written by pybloom-live itself is refused for its magic: nothing in it says how its bits were derived."""
    stock = pybloom_live.BloomFilter(1000, 1e-4)
    for member in MEMBERS:
        stock.add(member)
    file = io.BytesIO()
    stock.tofile(file)

    assert fault_of(file.getvalue(), None) == "magic"
    assert fault_of(file.getvalue(), verifier(SIGNER)) == "magic"


@pytest.mark.parametrize(
    "changes",
    [
        {"key_check": bytes(15)},
        {"centre_id": b""},
        {"journal_id": bytes(16)},
        {"rulebook_sha256": bytes(31)},
        {"epoch": -1},
        {"feed_time_ms": 2**63},
        {"key_id": "k" * 256},
        {"rulebook_version": "限" * 86},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_header_field_out_of_range(changes: dict[str, Any]) -> None:
    """A header that would not fit the format cannot be made; the error names the field."""
    with pytest.raises(ValueError, match=next(iter(changes))):
        a_header(SMALL.parameters(), **changes)


def test_pack_refuses_what_parse_would() -> None:
    """Bits of another size than the parameters', and a signature that is not one, are refused before writing."""
    with pytest.raises(ValueError, match="do not fill"):
        pack(a_header(SMALL.parameters()), bytes(SMALL.bits())[:-1], None)
    with pytest.raises(ValueError, match="64 bytes"):
        pack(a_header(SMALL.parameters()), SMALL.bits(), lambda _: b"short")


def test_mapped_file_is_a_shared_read_only_filter(tmp_path: Path) -> None:
    """A filter loaded from a mapped file answers as the one that was packed, and cannot be changed or unmapped."""
    path = tmp_path / "filter.xxf"
    path.write_bytes(SIGNED)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    _, loaded = load(memoryview(mapped), verifier(SIGNER))

    assert all(member in loaded for member in MEMBERS)
    assert [stranger in loaded for stranger in STRANGERS] == [stranger in SMALL for stranger in STRANGERS]
    with pytest.raises(TypeError):
        loaded.add(STRANGERS[0])
    with pytest.raises(BufferError):
        mapped.close()
    assert np.shares_memory(np.frombuffer(loaded.bits(), np.uint8), np.frombuffer(mapped, np.uint8))
