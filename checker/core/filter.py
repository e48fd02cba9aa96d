"""The prefilter, asking side: may this key be listed? A miss is certain, a hit is asked of the exact index.

Sizing and bit array are pybloom-live's. Three things are ours:

1. *Positions.* Keys are 16-byte keyed digests (`core.key`), already uniform, so they are not hashed again. With `h1`
   and `h2` the two little-endian 64-bit halves, `h2` forced odd, slice `i` of `m` bits is probed at
   `((h1 + i * h2) mod 2**64) mod m`: double hashing (Kirsch and Mitzenmacher, "Less Hashing, Same Performance", 2006).
   The sum wraps at 64 bits *before* it is reduced: reduced first, a key would be only its pair (h1 mod m, h2 mod m),
   and in a filter of a thousand keys two keys sharing a pair would be commoner than the configured error. Filled to
   capacity, false positives were measured at 1.02 times the configured rate with 200 000 keys and 1.4 times with 1 000,
   where there are few to ask about.
   This rule is named by `DERIVATION`. A filter probed by another rule than it was built by denies its members without
   a sign of it, so files carry the name (`core.container`) and `filter_builder` is held to these bits by its tests.
2. *Sharing.* `from_buffer` lays a filter over a mapped file without copying, read-only; all processes share its pages.
3. *Additions.* A filter never grows and, mapped, never changes. What was listed since it was built goes into an exact
   set beside it (`Overlaid`) until the owner builds another aside.

Building from millions of keys is `core.filter_builder`; this module needs no NumPy.
"""

from collections.abc import Callable, Iterable
from functools import partial
from struct import Struct
from typing import Any, NamedTuple, NoReturn

import pybloom_live
from bitarray import bitarray

DERIVATION = "double-128le/1"
KEY_BYTES = 16

_WRAP = 0xFFFF_FFFF_FFFF_FFFF
_halves: Callable[[Any], tuple[int, int]] = Struct("<QQ").unpack

OVERLAY_FLOOR = 10_000  # a small or absent base is not rebuilt for fewer additions than this


class Parameters(NamedTuple):
    """What a filter is, besides its bits."""

    capacity: int  # keys it was sized for
    error_rate: float  # false positives at capacity, a fraction
    num_slices: int
    bits_per_slice: int
    count: int  # type: ignore[assignment]  # keys it holds; hides tuple.count, which nobody asks of parameters

    @property
    def num_bytes(self) -> int:
        """The size of the bit array, rounded up to whole bytes; the bits left over are zero."""
        return (self.num_slices * self.bits_per_slice + 7) // 8


def slice_positions(digest: bytes, num_slices: int, bits_per_slice: int) -> list[int]:
    """Where a key's bit lies in each slice; the reference for every faster way of writing it.

    Raises struct.error when the key is not 16 bytes.
    """
    first, step = _halves(digest)
    step |= 1
    return [((first + i * step) & _WRAP) % bits_per_slice for i in range(num_slices)]


class DigestFilter(pybloom_live.BloomFilter):  # type: ignore[misc]  # pybloom-live ships no types
    """A Bloom filter over 16-byte uniform digests. `DigestFilter(capacity, error_rate)` makes an empty one."""

    capacity: int
    error_rate: float
    num_slices: int
    bits_per_slice: int
    num_bits: int
    count: int
    make_hashes: Callable[[bytes], list[int]]

    def _setup(self, error_rate: float, num_slices: int, bits_per_slice: int, capacity: int, count: int) -> None:
        super()._setup(error_rate, num_slices, bits_per_slice, capacity, count)
        # Whatever is inherited probes by our rule too. Not a bound method: that would be a reference cycle, and a
        # replaced filter would keep its megabytes until the next garbage collection.
        self.make_hashes = partial(slice_positions, num_slices=num_slices, bits_per_slice=bits_per_slice)

    @classmethod
    def from_buffer(cls, buffer: memoryview, parameters: Parameters) -> "DigestFilter":
        """A read-only filter over `buffer`, which it keeps alive and does not copy. `add` on it raises TypeError.

        Raises ValueError when the buffer is not `parameters.num_bytes` long.
        """
        if buffer.nbytes != parameters.num_bytes:
            raise ValueError(f"a filter of these parameters takes {parameters.num_bytes} bytes, not {buffer.nbytes}")
        made = cls.__new__(cls)
        capacity, error_rate, num_slices, bits_per_slice, count = parameters
        made._setup(error_rate, num_slices, bits_per_slice, capacity, count)  # noqa: SLF001  # one of our own
        made.bitarray = bitarray(buffer=buffer.toreadonly(), endian="little")
        return made

    def parameters(self) -> Parameters:
        """What `from_buffer` needs beside `bits`."""
        return Parameters(self.capacity, self.error_rate, self.num_slices, self.bits_per_slice, self.count)

    def bits(self) -> memoryview:
        """The bit array, little-endian, slice after slice without gaps; read-only, not copied."""
        return memoryview(self.bitarray).toreadonly()

    def __contains__(self, digest: object) -> bool:
        """Whether the 16-byte key may have been added; False is certain.

        Raises struct.error for another length and TypeError for another type: such a key was never derived by us, and a
        quiet False would be a false negative.
        """
        # `slice_positions` written out. Half of all misses end at the first bit, before the second half is touched.
        bits = self.bitarray
        size = self.bits_per_slice
        place, step = _halves(digest)
        if not bits[place % size]:
            return False
        step |= 1
        for start in range(size, self.num_bits, size):
            place = (place + step) & _WRAP
            if not bits[start + place % size]:
                return False
        return True

    def add(self, digest: bytes) -> bool:
        """Add a 16-byte key; True when it was (or seemed) present already.

        Never refused for fullness: beyond `capacity` there are more false positives, which cost a question each; a key
        left out would be a false negative. Raises TypeError on a filter laid over a buffer.
        """
        bits = self.bitarray
        present = True
        start = 0
        for place in self.make_hashes(digest):
            if not bits[start + place]:
                present = False
            bits[start + place] = True
            start += self.bits_per_slice
        self.count += not present
        return present

    def copy(self) -> "DigestFilter":
        """A copy on the heap, which can be added to; pybloom-live's own would probe by another rule."""
        twin = type(self).__new__(type(self))
        twin._setup(self.error_rate, self.num_slices, self.bits_per_slice, self.capacity, self.count)  # noqa: SLF001  # likewise
        twin.bitarray = self.bitarray.copy()
        return twin

    def tofile(self, f: object) -> NoReturn:
        """Refused: pybloom-live's format names neither derivation nor checksum. Use `core.container.pack`."""
        raise TypeError("a DigestFilter is written with checker.core.container.pack")

    @classmethod
    def fromfile(cls, f: object, n: int = -1) -> NoReturn:
        """Refused, as `tofile` is. Use `core.container.load`."""
        raise TypeError("a DigestFilter is read with checker.core.container.load")

    def __reduce__(self) -> NoReturn:
        """Refused: pickling would copy every bit into the other process. Hand over the file's path and map it there."""
        raise TypeError("a DigestFilter is not pickled: pass the path of its file and load it there")


class Overlaid:
    """What a worker asks: a filter that never changes and the exact set of keys added since it was built.

    `overlay` holds every addition, also those `base` seems to contain: there the key may be a false positive or someone
    since lifted, and the set is what the owner carries over to the next base, which has neither.
    """

    __slots__ = ("_asked", "base", "overlay")

    def __init__(self, base: DigestFilter | None, overlay: Iterable[bytes] = ()) -> None:
        """`base` None: an index that was empty when the overlay began. The base is not replaced later: make another."""
        self.base = base
        self.overlay: set[bytes] = set()
        self._asked: DigestFilter | frozenset[bytes] = frozenset() if base is None else base
        for digest in overlay:
            self.add(digest)

    def __contains__(self, digest: object) -> bool:
        """Whether the 16-byte key may be listed; False is certain for all that base and overlay were told."""
        return digest in self._asked or digest in self.overlay

    def add(self, digest: bytes) -> None:
        """A key that may be listed from now on. Never refused for fullness; raises ValueError if it is not 16 bytes."""
        if len(digest) != KEY_BYTES:
            raise ValueError(f"a filter key is {KEY_BYTES} bytes, not {len(digest)}")
        self.overlay.add(digest)

    def overfull(self) -> bool:
        """Whether the owner should build the next base aside: overlay above a tenth of its capacity, and the floor."""
        capacity = 0 if self.base is None else self.base.capacity
        return len(self.overlay) > max(OVERLAY_FLOOR, capacity // 10)
