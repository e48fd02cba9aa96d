"""The common path in process: `lookup.begin` for a valid resident ID to a filter miss, beside the least it takes.

The floor is the same work with nothing of ours around it: two dictionary look-ups for rule and date, a check digit, a
keyed BLAKE2b and one probe of a bit array. CPU seconds, best of many short rounds, ours and the floor's in turn: hosts
that are shared run at half their speed for seconds at a time.
"""

import hashlib
import time
import timeit
from collections.abc import Callable

import numpy as np
from bitarray import bitarray

from bench.result import Result
from bench.rpc import resident_id
from checker import rulebooks
from checker.core import document, purchase
from checker.core.decision import AnsweredBy, Decision
from checker.core.filter import Overlaid
from checker.core.filter_builder import build
from checker.core.freshness import AsOf, Limits
from checker.core.key import Algorithm, DigestKey
from checker.core.lookup import Query, View, begin

_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_NUMBER = 10_000


def _microseconds(rounds: int, *calls: Callable[[], object]) -> list[float]:
    """The best round of each, in turn."""
    taken = [[timeit.timeit(call, number=_NUMBER, timer=time.process_time) for call in calls] for _ in range(rounds)]
    return [min(each) / _NUMBER * 1e6 for each in zip(*taken, strict=True)]


def run(keys: int = 1_000_000, rounds: int = 100) -> list[Result]:
    """Measure with a filter of `keys` keys, a thousand different numbers asked in turn."""
    now_ms = time.time_ns() // 1_000_000
    key = DigestKey("bench", Algorithm.BLAKE2B_128, bytes(32))
    random = np.random.default_rng(1).integers(0, 256, (keys, 16), dtype=np.uint8)
    view = View(rulebooks.load(None), key, Overlaid(build(random)), AsOf(1, now_ms, 0, 0), Limits())
    seat = purchase.Train("G1", "O", "二等座", False, False)
    queries = [Query(seat, document.DocumentType.RESIDENT_ID, resident_id(number)) for number in range(1000)]
    decision = begin(queries[0], view, now_ms)
    assert isinstance(decision, Decision)
    assert decision.answered_by is AnsweredBy.FILTER

    bits = bitarray(1 << 20)
    bits.setall(False)
    rules, dates = {seat: decision}, {"18800101": True}
    mac = hashlib.blake2b(key=bytes(32), digest_size=16)

    def floor(number: str) -> object:
        answer = rules[seat]
        if not dates[number[6:14]]:
            return None
        if (
            "10X98765432"[sum(int(digit) * weight for digit, weight in zip(number, _WEIGHTS, strict=False)) % 11]
            != number[17]
        ):
            return None
        copy = mac.copy()
        copy.update(number.encode())
        return None if bits[int.from_bytes(copy.digest()[:8], "little") & 0xFFFFF] else answer

    at = iter(range(10**9))
    ours, bare = _microseconds(
        rounds, lambda: begin(queries[next(at) % 1000], view, now_ms), lambda: floor(queries[next(at) % 1000].number)
    )
    return [
        Result("in-process check to a filter miss", ours, "µs", "the bare steps, written inline", bare, ours / bare,
               "≤ 6 µs", f"{1e6 / ours:,.0f} checks/s on one core")
    ]  # fmt: skip
