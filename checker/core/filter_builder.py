"""The prefilter, building side: millions of keys into a `DigestFilter` in seconds. The only part of core with NumPy.

One slice at a time: the positions of all keys in the slice are computed in chunks that stay in the processor's cache
and marked in one byte per bit; the bytes are then packed and laid over the slice's bits. A byte can be stored blindly,
where a bit must be read, changed and written back, and two keys of one chunk may share its byte. Extra memory: one byte
per bit of a slice (14 MB for 10 M keys).

The bits are those that `DigestFilter.add` would set, key by key; the tests hold the two together.
"""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from checker.core.filter import KEY_BYTES, DigestFilter

MIN_CAPACITY = 1000
HEADROOM = 1.1
STEPS = 16
"""Capacities there are between a power of two and the next."""
_CHUNK = 1 << 16  # keys; 2 MB of temporaries

Keys = npt.NDArray[np.uint8] | bytes
_Halves = npt.NDArray[np.uint64]


def capacity(count: int, headroom: float = HEADROOM) -> int:
    """How many keys a filter is sized for that is built from `count`.

    Rounded up, by less than a sixteenth: filters of one size take the same strangers for members, those of sizes that
    differ by one bit have none in common. An edge and its centre's node build theirs from nearly the same list, each at
    its own time, and what both take for listed is what an edge may remember (`edge.exact`).
    A filter costs 2.6 to 2.8 bytes for each listed key at 1e-4, 2.0 to 2.1 at 1e-3.
    """
    needed = math.ceil(count * headroom)
    step = max(1, (1 << needed.bit_length()) // (2 * STEPS))
    return max(MIN_CAPACITY, -(-needed // step) * step)


def build(keys: Keys, error_rate: float = 1e-4, headroom: float = HEADROOM) -> DigestFilter:
    """A filter holding `keys`, an array of shape (n, 16) or their concatenation, sized for `capacity(n, headroom)`.

    `count` becomes n, so give each key once. Raises ValueError for other shapes, an error rate outside (0, 1), or a
    headroom below 1.
    """
    if not headroom >= 1:
        raise ValueError(f"headroom must be at least 1, not {headroom}")
    halves = _as_halves(keys)
    made = DigestFilter(capacity(len(halves), headroom), error_rate)
    _set_bits(made, halves)
    made.count = len(halves)
    return made


def add_many(into: DigestFilter, keys: Keys) -> None:
    """Set the bits `into.add` would set for each key in turn. Like it, never refused for fullness.

    `count` grows by the keys given, present already or not (as pybloom-live's `add(key, skip_check=True)` counts).
    Raises ValueError for another shape than (n, 16) and TypeError on a filter laid over a buffer.
    """
    if into.bitarray.readonly:
        raise TypeError("cannot modify a filter laid over a read-only buffer")
    halves = _as_halves(keys)
    _set_bits(into, halves)
    into.count += len(halves)


def contains_many(asked: DigestFilter, keys: Keys) -> npt.NDArray[np.bool_]:
    """`key in asked` for each key, as an array of shape (n,). Raises ValueError for another shape than (n, 16)."""
    halves = _as_halves(keys)
    octets = np.frombuffer(asked.bits(), dtype=np.uint8)
    found = np.zeros(len(halves), dtype=np.bool_)
    for start, chunk in _chunks(halves):
        left = np.arange(start, start + len(chunk))
        for i in range(asked.num_slices):
            places = _positions(chunk, i, asked.bits_per_slice)
            places += i * asked.bits_per_slice
            hit = (octets[places >> 3] >> (places & 7).astype(np.uint8)) & 1 != 0
            left, chunk = left[hit], chunk[hit]  # each slice halves what is left of the misses
        found[left] = True
    return found


def measured_error_rate(asked: DigestFilter, samples: npt.NDArray[np.uint8]) -> float:
    """The fraction of `samples`, keys (n, 16) known not to be members, that the filter takes for members.

    Raises ValueError without samples. With n samples the figure of a true rate p has a standard error of sqrt(p / n).
    """
    if not len(samples):
        raise ValueError("an error rate needs at least one sample")
    return float(np.count_nonzero(contains_many(asked, samples)) / len(samples))


def _as_halves(keys: Keys) -> _Halves:
    """The keys' two little-endian 64-bit halves, shape (n, 2), without copying when the keys lie together."""
    if isinstance(keys, bytes):
        if len(keys) % KEY_BYTES:
            raise ValueError(f"keys must be {KEY_BYTES} bytes each; {len(keys)} bytes are not a whole number of them")
        return np.frombuffer(keys, dtype="<u8").reshape(-1, 2)
    if keys.dtype != np.uint8 or keys.ndim != 2 or keys.shape[1] != KEY_BYTES:
        raise ValueError(f"keys must be an array of uint8 of shape (n, {KEY_BYTES}), not {keys.dtype} {keys.shape}")
    return np.ascontiguousarray(keys).view("<u8")


def _chunks(halves: _Halves) -> Iterator[tuple[int, _Halves]]:
    for start in range(0, len(halves), _CHUNK):
        yield start, halves[start : start + _CHUNK]


def _positions(halves: _Halves, i: int, bits_per_slice: int) -> npt.NDArray[np.int64]:
    """`filter.slice_positions(...)[i]` for each key; uint64 arithmetic wraps as that rule demands."""
    places = halves[:, 1] | 1
    places *= i
    places += halves[:, 0]
    # Division by a constant is vectorised in NumPy, remainder is not: three operations, half the time.
    quotient = places // bits_per_slice
    quotient *= bits_per_slice
    places -= quotient
    return places.view(np.int64)


def _set_bits(into: DigestFilter, halves: _Halves) -> None:
    octets = np.frombuffer(into.bitarray, dtype=np.uint8)
    size = into.bits_per_slice
    marks = np.empty(size + 7, dtype=np.bool_)
    for i in range(into.num_slices):
        first, shift = divmod(i * size, 8)  # a slice begins anywhere in a byte
        marks[:] = False
        in_slice = marks[shift : shift + size]
        for _, chunk in _chunks(halves):
            in_slice[_positions(chunk, i, size)] = True
        packed = np.packbits(marks[: shift + size], bitorder="little")
        octets[first : first + len(packed)] |= packed
