"""The prefilter: no false negative for anything it was told, however told; its errors as rare as configured."""

import gc
import hashlib
import io
import math
import pickle
import struct
import weakref

import numpy as np
import numpy.typing as npt
import pybloom_live
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checker.core.filter import DigestFilter, Overlaid, Parameters, slice_positions
from checker.core.filter_builder import MIN_CAPACITY, add_many, build, capacity, contains_many, measured_error_rate

digests = st.binary(min_size=16, max_size=16)
several = st.lists(digests, max_size=200)
# Extreme halves make the 64-bit sum wrap, which Python's and NumPy's arithmetic must do alike.
extreme = st.builds(
    lambda first, step: struct.pack("<QQ", first, step),
    *[st.one_of(st.sampled_from([0, 1, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1]), st.integers(0, 2**64 - 1))] * 2,
)


def a_digest(number: int) -> bytes:
    """The synthetic key of a counter: as uniform as the keyed digests it stands for."""
    return hashlib.blake2b(number.to_bytes(8, "little"), digest_size=16).digest()


def random_keys(seed: int, count: int) -> npt.NDArray[np.uint8]:
    """Seeded uniform keys, shape (count, 16)."""
    return np.random.default_rng(seed).integers(0, 256, (count, 16), dtype=np.uint8)


@given(several)
def test_added_keys_are_contained(keys: list[bytes]) -> None:
    """Whatever `add` was given is found; it returns what `in` said just before, and counts what it found new."""
    listed = DigestFilter(100, 1e-3)
    new = 0
    for key in keys:
        present = key in listed
        assert listed.add(key) is present
        new += not present

    assert all(key in listed for key in keys)
    assert len(listed) == new


@given(several)
def test_keys_built_in_bulk_are_contained(keys: list[bytes]) -> None:
    """Whatever `build` or `add_many` was given is found, one by one and in bulk."""
    joined = b"".join(keys)
    listed = build(joined)
    later = DigestFilter(100, 1e-3)
    add_many(later, joined)

    assert all(key in listed and key in later for key in keys)
    assert contains_many(listed, joined).all()


@given(st.lists(st.one_of(digests, extreme), max_size=60), st.integers(1, 500), st.floats(1e-9, 0.9))
@settings(max_examples=300)
def test_bulk_sets_the_bits_of_add(keys: list[bytes], capacity: int, error_rate: float) -> None:
    """For any keys and any size `add_many` sets bit for bit what `add` sets key by key."""
    one_by_one = DigestFilter(capacity, error_rate)
    for key in keys:
        one_by_one.add(key)
    bulk = DigestFilter(capacity, error_rate)
    add_many(bulk, b"".join(keys[:20]))
    add_many(bulk, np.frombuffer(b"".join(keys[20:]), dtype=np.uint8).reshape(-1, 16))

    assert bulk.bitarray == one_by_one.bitarray


@given(st.lists(st.one_of(digests, extreme), min_size=1, max_size=30), st.integers(1, 500), st.floats(1e-6, 0.9))
def test_written_out_probe_follows_the_reference(keys: list[bytes], capacity: int, error_rate: float) -> None:
    """`in` and `contains_many` answer as the reference positions say, for members and strangers alike."""
    listed = DigestFilter(capacity, error_rate)
    for key in keys[::2]:
        listed.add(key)

    size = listed.bits_per_slice
    expected = [
        all(listed.bitarray[i * size + at] for i, at in enumerate(slice_positions(key, listed.num_slices, size)))
        for key in keys
    ]
    assert [key in listed for key in keys] == expected
    assert contains_many(listed, b"".join(keys)).tolist() == expected


def test_positions_of_a_worked_example() -> None:
    """The derivation another language implements: h1 = 2**64 - 1, h2 = 2 (forced to 3), four slices of 10 bits."""
    digest = bytes.fromhex("ffffffffffffffff0200000000000000")

    assert slice_positions(digest, 4, 10) == [5, 2, 5, 8]  # 2**64 - 1, then 2, 5 and 8 after the wrap


@pytest.mark.parametrize("headroom", [1.0, 1.1])
def test_error_rate_is_the_configured_one(headroom: float) -> None:
    """At 200 000 keys at most 1.1 x 1e-4 of strangers hit: 12 M samples put 1.1 x 3.5 standard errors off."""
    listed = build(random_keys(1, 200_000), error_rate=1e-4, headroom=headroom)

    strangers = (random_keys(seed, 1_000_000) for seed in range(2, 14))
    measured = np.mean([measured_error_rate(listed, sample) for sample in strangers])
    assert measured <= 1.1e-4


def test_filter_over_a_buffer_equals_the_one_on_the_heap() -> None:
    """`from_buffer` over the bits answers, sizes and counts as the filter they came from, and copies nothing."""
    heap = build(random_keys(20, 2_000))
    memory = bytearray(heap.bits())
    laid = DigestFilter.from_buffer(memoryview(memory), heap.parameters())

    assert laid.parameters() == heap.parameters()
    assert laid.bits() == heap.bits()
    asked = random_keys(20, 5_000)
    assert contains_many(laid, asked).tolist() == contains_many(heap, asked).tolist()
    memory[:] = bytes(len(memory))
    assert not any(laid.bitarray)


@pytest.mark.parametrize("writable", [False, True])
def test_filter_over_a_buffer_is_read_only(writable: bool) -> None:
    """Neither `add` nor `add_many` changes a filter laid over a buffer, even a writable one; both raise TypeError."""
    heap = build(random_keys(21, 100))
    before = bytes(heap.bits())
    memory = bytearray(before) if writable else before
    laid = DigestFilter.from_buffer(memoryview(memory), heap.parameters())

    with pytest.raises(TypeError):
        laid.add(a_digest(1))
    with pytest.raises(TypeError):
        add_many(laid, a_digest(1))
    assert laid.bits() == before
    assert laid.count == 100


def test_buffer_of_another_size_is_refused() -> None:
    """A buffer one byte short of its parameters is refused before anything is probed in it."""
    heap = build(b"")
    with pytest.raises(ValueError, match="bytes, not"):
        DigestFilter.from_buffer(heap.bits()[:-1], heap.parameters())


def test_copy_can_be_added_to() -> None:
    """A copy of a read-only filter holds its members by the same rule, accepts more, and leaves the original alone."""
    heap = build(a_digest(1))
    laid = DigestFilter.from_buffer(heap.bits(), heap.parameters())
    twin = laid.copy()
    twin.add(a_digest(2))

    assert a_digest(1) in twin
    assert a_digest(2) in twin
    assert a_digest(2) not in laid
    assert (laid.count, twin.count) == (1, 2)


def test_fullness_refuses_nothing() -> None:
    """Twice its capacity in, a filter still takes keys and finds each; pybloom-live's raises IndexError there."""
    listed = DigestFilter(50, 1e-4)
    stock = pybloom_live.BloomFilter(50, 1e-4)
    for number in range(51):
        stock.add(a_digest(number))
    with pytest.raises(IndexError):
        stock.add(a_digest(51))

    for number in range(100):
        listed.add(a_digest(number))
    assert all(a_digest(number) in listed for number in range(100))


@pytest.mark.parametrize("digest", [b"", bytes(15), bytes(17), bytes(32)])
def test_key_of_another_length_is_never_a_quiet_miss(digest: bytes) -> None:
    """A key that is not 16 bytes raises wherever it is asked or added, instead of answering "not listed"."""
    listed = build(b"")
    overlaid = Overlaid(listed)
    for ask in (listed.__contains__, listed.add, overlaid.__contains__):
        with pytest.raises(struct.error):
            ask(digest)
    with pytest.raises(ValueError, match="16 bytes"):
        overlaid.add(digest)


def test_keys_of_another_shape_are_refused() -> None:
    """Bulk functions refuse bytes that are not whole keys and arrays of another type or shape."""
    wrong: list[npt.NDArray[np.uint8] | bytes] = [bytes(17), np.zeros((3, 8), np.uint8), np.zeros(16, np.uint8)]
    for keys in wrong:
        with pytest.raises(ValueError, match="keys must be"):
            build(keys)
    with pytest.raises(ValueError, match="keys must be"):
        build(np.zeros((2, 16), np.uint64))
    with pytest.raises(ValueError, match="headroom"):
        build(b"", headroom=0.9)
    with pytest.raises(ValueError, match="sample"):
        measured_error_rate(build(b""), np.zeros((0, 16), np.uint8))


def test_keys_may_lie_scattered() -> None:
    """An array that is a stride of another gives the same filter as its packed copy."""
    wide = random_keys(22, 900)
    assert build(wide[::3]).bits() == build(wide[::3].tobytes()).bits()


def test_build_sizes_for_headroom() -> None:
    """Capacity is keys times headroom, rounded up, and never below the minimum; the count is the keys given."""
    assert build(b"").capacity == MIN_CAPACITY
    listed = build(random_keys(23, 10_000), headroom=1.25)
    assert (listed.capacity, listed.count) == (12_800, 10_000)


@given(st.integers(0, 2**33), st.floats(1, 3))
def test_capacity_is_rounded_up_by_less_than_a_sixteenth(count: int, headroom: float) -> None:
    """Any number of keys has its headroom; above the minimum nothing is sized for a sixteenth more than that."""
    sized = capacity(count, headroom)
    assert sized >= max(count * headroom, MIN_CAPACITY)
    if sized > MIN_CAPACITY:
        assert sized < math.ceil(count * headroom) * 17 / 16
    assert capacity(count + 1, headroom) >= sized


def test_what_the_sizes_cost() -> None:
    """At every size from 100 000 keys on a filter takes at most 2.81 bytes a key at 1e-4 and 2.11 at 1e-3."""
    for error_rate, most in ((1e-4, 2.81), (1e-3, 2.11)):
        for count in range(100_000, 3_300_000, 9_973):
            assert DigestFilter(capacity(count), error_rate).num_bits / 8 / count <= most


def test_sizes_seldom_differ_between_nearly_equal_lists() -> None:
    """Of lists of any size, at most one in thirty changes its filter's size with a thousandth more keys."""
    counts = [int(100_000 * 1.0007**power) for power in range(5_000)]
    differ = sum(capacity(count) != capacity(count + count // 1000) for count in counts)
    assert 0 < differ < len(counts) / 30


def test_filters_of_nearly_equal_lists_share_their_false_positives() -> None:
    """200 000 keys and one more: of the seventy strangers one takes for members, five at most are not the other's."""
    keys = random_keys(24, 200_001)
    strangers = random_keys(25, 2_000_000)
    fewer, more = (contains_many(build(some), strangers) for some in (keys[:-1], keys))
    assert fewer.sum() > 50
    assert (fewer != more).sum() <= 5


def test_ways_to_lose_the_derivation_are_closed() -> None:
    """pybloom-live's own file format and pickling, which lose or multiply a filter, name what to use instead."""
    listed = build(a_digest(1))
    with pytest.raises(TypeError, match="container"):
        listed.tofile(io.BytesIO())
    with pytest.raises(TypeError, match="container"):
        DigestFilter.fromfile(io.BytesIO())
    with pytest.raises(TypeError, match="path"):
        pickle.dumps(listed)


def test_replaced_filter_is_freed_at_once() -> None:
    """A filter is freed with its last reference, without waiting for the garbage collector: it may be 100 MB."""
    listed = build(b"")
    gone = weakref.ref(listed)
    gc.disable()
    try:
        del listed
        assert gone() is None
    finally:
        gc.enable()


@given(several, several, digests)
def test_overlay_adds_to_the_base(listed: list[bytes], added: list[bytes], other: bytes) -> None:
    """Members of base and overlay are found; another key exactly when the base takes it for a member."""
    base = build(b"".join(listed))
    overlaid = Overlaid(base)
    for key in added:
        overlaid.add(key)

    assert all(key in overlaid for key in listed + added)
    assert (other in overlaid) == (other in base or other in added)


def test_overlay_never_touches_the_base() -> None:
    """Additions leave every bit of the base as it was: it may be mapped and shared by other processes."""
    base = build(a_digest(1))
    before = bytes(base.bits())
    overlaid = Overlaid(base)
    overlaid.add(a_digest(2))

    assert bytes(base.bits()) == before
    assert overlaid.overlay == {a_digest(2)}


def test_overlay_keeps_what_the_base_seems_to_know() -> None:
    """A key the base contains is kept in the overlay too: the next base, built without it, must be told."""
    overlaid = Overlaid(build(a_digest(1)))
    overlaid.add(a_digest(1))

    assert a_digest(1) in Overlaid(build(b""), overlaid.overlay)


def test_empty_index_takes_any_number_of_additions() -> None:
    """Without a base nothing is listed, and 20 000 additions later exactly those are; none is refused for fullness."""
    overlaid = Overlaid(None)
    assert a_digest(0) not in overlaid
    for number in range(20_000):
        overlaid.add(a_digest(number))

    assert all(a_digest(number) in overlaid for number in range(20_000))
    assert a_digest(20_000) not in overlaid


@pytest.mark.parametrize(("capacity", "limit"), [(None, 10_000), (1_000, 10_000), (100_000, 10_000), (250_000, 25_000)])
def test_overfull_is_a_tenth_of_the_base_above_a_floor(capacity: int | None, limit: int) -> None:
    """`overfull` turns true with the first addition past a tenth of the capacity, or past 10 000 if that is more."""
    overlaid = Overlaid(None if capacity is None else DigestFilter(capacity, 1e-4))
    for number in range(limit):
        overlaid.add(number.to_bytes(16, "little"))
    assert not overlaid.overfull()
    overlaid.add(limit.to_bytes(16, "little"))
    assert overlaid.overfull()
    overlaid.add(limit.to_bytes(16, "little"))  # re-sent: counts once
    assert len(overlaid.overlay) == limit + 1


def test_parameters_know_their_size() -> None:
    """The byte size rounds up to whole bytes."""
    assert Parameters(1, 0.5, 3, 3, 0).num_bytes == 2
    assert Parameters(1, 0.5, 2, 4, 0).num_bytes == 1
