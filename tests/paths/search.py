"""Searching for tens of thousands of secrets in tens of megabytes, in seconds, in every form they could have leaked in.

Strategy: all forms of all secrets go into one table of their first six bytes. NumPy hashes every six-byte window of the
text at once and marks those whose hash occurs in the table; only at the marked places does Python look closer. Text and
forms are compared in lower case.
"""

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

_PREFIX = 6
_BITS = 24
_CHUNK = 1 << 22
_FULL_WIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
_LONG = 9  # shorter ASCII forms must stand alone: 00001234 is also the tail of a measure id


class Found(NamedTuple):
    """A secret and where it is."""

    place: str
    offset: int
    secret: str
    form: str


def forms(secret: str) -> Iterator[tuple[str, bytes]]:
    """How a number or name may stand in a file: as text in several encodings, as an integer, as an unkeyed digest."""
    plain = unicodedata.normalize("NFKC", secret).strip()
    bare = "".join(char for char in plain if char.isalnum()).upper()
    for word, text in (("as given", secret), ("normal form", plain), ("canonical", bare)):
        yield word, text.encode()
        yield f"{word}, UTF-16", text.encode("utf-16-le")
        yield f"{word}, UTF-16 BE", text.encode("utf-16-be")
        yield f"{word}, hexadecimal", text.encode().hex().encode()
        yield f"{word}, SHA-256", hashlib.sha256(text.encode()).digest()
        yield f"{word}, SHA-256 in hexadecimal", hashlib.sha256(text.encode()).hexdigest().encode()
        yield f"{word}, BLAKE2b without a key", hashlib.blake2b(text.encode(), digest_size=16).digest()
        if not text.isascii():
            yield f"{word}, GB 18030", text.encode("gb18030")
            yield f"{word}, escaped in JSON", json.dumps(text)[1:-1].encode()
    yield "full width", bare.translate(_FULL_WIDTH).encode()
    yield "full width, escaped in JSON", json.dumps(bare.translate(_FULL_WIDTH))[1:-1].encode()
    digits = bare.rstrip("X")
    if digits.isdigit() and len(digits) >= 15:  # how the store keeps a numeric value in a compact list
        yield "integer", int(digits).to_bytes(8, "little")
        yield "integer, big-endian", int(digits).to_bytes(8, "big")


class Secrets:
    """What to look for; `secrets` shorter than six bytes in some form are not looked for in that form."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._at: dict[bytes, list[tuple[bytes, str, str]]] = {}
        self.count = 0
        seen: set[bytes] = set()
        for secret in secrets:
            self.count += 1
            for form, raw in forms(secret):
                low = raw.lower()
                if len(low) >= _PREFIX and low not in seen:
                    seen.add(low)
                    self._at.setdefault(low[:_PREFIX], []).append((low, secret, form))
        self._longest = max(map(len, seen))
        self._marked = np.zeros(1 << _BITS, dtype=bool)
        self._marked[_hashes(b"".join(self._at))[::_PREFIX]] = True

    def find(self, place: str, text: bytes) -> list[Found]:
        """Every secret in the text."""
        low = text.lower()
        found = []
        for start in range(0, len(low), _CHUNK):
            chunk = low[start : start + _CHUNK + self._longest]
            for offset in np.flatnonzero(self._marked[_hashes(chunk)]).tolist():
                for raw, secret, form in self._at.get(chunk[offset : offset + _PREFIX], ()):
                    if chunk.startswith(raw, offset) and offset < _CHUNK and _stands(chunk, offset, raw):
                        found.append(Found(place, start + offset, secret, form))
        return found


def _stands(text: bytes, offset: int, raw: bytes) -> bool:
    """Whether what was found is more than a part of a longer word."""
    if len(raw) >= _LONG or not raw.isalnum():
        return True
    before, after = text[offset - 1 : offset], text[offset + len(raw) : offset + len(raw) + 1]
    return not before.isalnum() and not after.isalnum()


def _hashes(text: bytes) -> "np.ndarray[tuple[int], np.dtype[np.uint32]]":
    """A hash of each window of six bytes."""
    octets = np.frombuffer(text, dtype=np.uint8)
    windows = max(0, len(octets) - _PREFIX + 1)
    mixed = np.zeros(windows, dtype=np.uint32)
    for place in range(_PREFIX):
        mixed *= np.uint32(0x01000193)
        mixed ^= octets[place : place + windows]
    return (mixed ^ (mixed >> np.uint32(_BITS - 8))) & np.uint32((1 << _BITS) - 1)
