"""The lookup key: a keyed digest of a canonical document, and the keyed digest of a canonical name.

The one place where hashing is defined. `MAC(key, purpose, type, country, number)` with every field length-prefixed, cut
to 16 bytes. The number space is small enough to enumerate (domain.md §3.6(8)), so the secret is what protects the
list: a digest is only as private as the key file.

Two algorithms, chosen per key: keyed BLAKE2b-128 (default, 0.5 µs) and HMAC-SM3 (GB/T 32905) where that is demanded.
A check value, the MAC of a constant, travels with every index, snapshot and key file: whoever holds another secret
under the same key id is refused at the door instead of silently finding nobody.
"""

import hashlib
import hmac
from enum import StrEnum

from checker.core.document import Document
from checker.core.measure import NAME_DIGEST_BYTES

DIGEST_BYTES = 16
SECRET_BYTES = 32


_LENGTHS = [bytes([length]) for length in range(256)]
_KINDS = [b"\x01" + one for one in _LENGTHS]


class Algorithm(StrEnum):
    """The MACs a digest key may name."""

    BLAKE2B_128 = "blake2b-128"
    HMAC_SM3 = "hmac-sm3"


class DigestKey:
    """One secret with its id and algorithm. Immutable; safe to share between tasks and threads.

    Raises ValueError when the secret is not 32 bytes, the id is not 1-32 printable ASCII characters, or this Python's
    OpenSSL knows no SM3.
    """

    __slots__ = ("_mac", "algorithm", "canary", "check_value", "key_id")

    def __init__(self, key_id: str, algorithm: Algorithm, secret: bytes) -> None:
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"digest key {key_id!r}: the secret must be {SECRET_BYTES} bytes, not {len(secret)}")
        if not (1 <= len(key_id) <= 32 and key_id.isascii() and key_id.isprintable()):
            raise ValueError("a digest key's id must be 1 to 32 printable ASCII characters")
        self.key_id = key_id
        self.algorithm = algorithm
        # Keying costs as much as hashing: a keyed state is made once and copied for each digest.
        if algorithm is Algorithm.BLAKE2B_128:
            self._mac: hashlib.blake2b | hmac.HMAC = hashlib.blake2b(key=secret, digest_size=DIGEST_BYTES)
        else:
            if "sm3" not in hashlib.algorithms_available:
                raise ValueError(f"digest key {key_id!r} needs SM3, which this Python's OpenSSL does not offer")
            self._mac = hmac.new(secret, digestmod="sm3")
        self.check_value = self._digest(b"\x00xianxiao/check-value/1")
        self.canary = self._digest(b"\x00xianxiao/canary/1")
        """A lookup key that no document has: each import lists it, so that an edge can prove its road to the feed."""

    def _digest(self, payload: bytes) -> bytes:
        mac = self._mac.copy()
        mac.update(payload)
        return mac.digest()[:DIGEST_BYTES]

    def document(self, document: Document) -> bytes:
        """The 16-byte lookup key of a canonical document."""
        kind, number, country = document
        raw = number.encode()
        land = country.encode()
        mac = self._mac.copy()
        # purpose | type | length, country | length, number: the lengths keep "A" "BC" apart from "AB" "C"
        mac.update(_KINDS[kind] + _LENGTHS[len(land)] + land + _LENGTHS[len(raw)] + raw)
        return mac.digest()[:DIGEST_BYTES]

    def name(self, canonical: str) -> bytes:
        """The 16-byte digest of a canonical name (`core.name.canonical`)."""
        raw = canonical.encode()
        return self._digest(b"\x02" + len(raw).to_bytes(2, "big") + raw)

    def seal(self, purpose: bytes, payload: bytes) -> bytes:
        """16 bytes that hold a message to its content; `purpose` keeps messages of different kinds apart."""
        return self._digest(b"\x03" + bytes([len(purpose)]) + purpose + payload)

    def stored_name(self, canonical: str) -> bytes:
        """The cut of `name` that a record keeps."""
        return self.name(canonical)[:NAME_DIGEST_BYTES]
