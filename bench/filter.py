"""The prefilter's figures, each beside what pybloom-live itself takes in the same run.

Keys are seeded random bytes, which is what keyed digests look like. The member keys and those asked about come from
different seeds; with 128 bits none is in both. Building and asking are timed in CPU seconds, since nothing in them
waits and a busy machine should not show; loading in elapsed seconds, since that is what a start waits for. `run()`
prints nothing.
"""

import gc
import hashlib
import mmap
import tempfile
import time
from collections.abc import Callable, Container
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import pybloom_live
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from checker.core import container, filter_builder
from checker.core.filter import DERIVATION, DigestFilter, Overlaid

ERROR_RATE = 1e-4
REPEATS = 5
STOCK_ADDS = 200_000  # pybloom-live's loop is timed on these and scaled: all of 10 M would take minutes
ASKED = 200_000


def run(n: int = 10_000_000, millions: int = 16) -> list[dict[str, object]]:
    """Measure at n keys, errors on so many million strangers; medians of REPEATS runs.

    Rows: name, value, unit, floor (what it is compared with), ratio, note.
    """
    keys = _keys(1, n)
    filter_builder.build(keys[:1000])  # first use of NumPy's code is not what is measured

    build_s = _median_seconds(lambda: filter_builder.build(keys, ERROR_RATE))
    ours = filter_builder.build(keys, ERROR_RATE)
    stock = pybloom_live.BloomFilter(ours.capacity, ERROR_RATE)
    members = [key.tobytes() for key in keys[: min(n, STOCK_ADDS)]]
    stock_s = _seconds(lambda: _add_all(stock, members), time.process_time) / len(members) * n
    # Bits are read from all over the array either way; filled as ours is, the stock filter's misses end as early.
    stock.bitarray = ours.bitarray

    asked = [key.tobytes() for key in _keys(2, ASKED)]
    floor_us = _miss_us(stock, asked)
    overlaid = Overlaid(ours, members[:1000])
    assert all(key in ours for key in members[:1000])

    at_capacity = filter_builder.build(keys, ERROR_RATE, headroom=1.0)
    samples = [_keys(seed, 1_000_000) for seed in range(3, 3 + millions)]
    shipped, full = (
        float(np.mean([filter_builder.measured_error_rate(one, sample) for sample in samples]))
        for one in (ours, at_capacity)
    )
    load_s, hash_s, file_bytes = _load(ours)
    drawn = f"{len(samples)} M strangers, {n:,} keys"
    return [
        _row("filter build", build_s, "s", stock_s, f"{n:,} keys; floor: pybloom-live add, {len(members):,} x scaled"),
        _row("filter load", load_s * 1e3, "ms", 50.0, f"map, SHA-256, Ed25519 of {file_bytes:,} bytes; floor: target"),
        _row("filter load, SHA-256 alone", hash_s * 1e3, "ms", load_s * 1e3, "floor: the whole load"),
        _row("filter miss", _miss_us(ours, asked), "µs", floor_us, "floor: pybloom-live, same bits, same run"),
        _row("filter miss with overlay", _miss_us(overlaid, asked), "µs", floor_us, "1 000 additions"),
        _row("filter errors", shipped, "", ERROR_RATE, f"{drawn}, headroom 1.1; floor: configured"),
        _row("filter errors at capacity", full, "", ERROR_RATE, f"{drawn}, headroom 1.0; floor: configured"),
    ]


def _row(name: str, value: float, unit: str, floor: float, note: str) -> dict[str, object]:
    return {"name": name, "value": value, "unit": unit, "floor": floor, "ratio": value / floor, "note": note}


def _keys(seed: int, count: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 16), dtype=np.uint8)


def _seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    gc.collect()
    start = clock()
    work()
    return clock() - start


def _median_seconds(work: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    return median(_seconds(work, clock) for _ in range(REPEATS))


def _add_all(into: pybloom_live.BloomFilter, members: list[bytes]) -> None:
    for member in members:
        into.add(member)


def _miss_us(asked: Container[bytes], keys: list[bytes]) -> float:
    """Microseconds per question, nearly all of them misses, including the loop (0.02 µs)."""

    def ask() -> None:
        for key in keys:
            key in asked  # noqa: B015  # the question is what is timed

    return _median_seconds(ask) / len(keys) * 1e6


def _load(built: DigestFilter) -> tuple[float, float, int]:
    """Seconds to map, verify and load a signed file of this filter; seconds of that for SHA-256; bytes."""
    signer = Ed25519PrivateKey.generate()
    public = signer.public_key()

    def verify(message: bytes, signature: bytes) -> bool:
        try:
            public.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    header = container.Header(
        derivation=DERIVATION,
        key_id="bench",
        key_check=bytes(16),
        parameters=built.parameters(),
        centre_id=bytes(16),
        epoch=1,
        journal_id=bytes(8),
        journal_position=0,
        feed_sequence=0,
        feed_time_ms=0,
        rulebook_version="bench",
        rulebook_sha256=bytes(32),
        built_ms=0,
    )
    packed = container.pack(header, built.bits(), signer.sign)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "filter.xxf"
        path.write_bytes(packed)

        def load() -> None:
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            container.load(memoryview(mapped), verify)

        load_s = _median_seconds(load, time.perf_counter)
        hash_s = _median_seconds(lambda: hashlib.sha256(packed), time.perf_counter)
    return load_s, hash_s, len(packed)
