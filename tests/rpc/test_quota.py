"""Claims about the node-wide quota."""

import contextlib
import logging
import multiprocessing
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checker.errors import Overloaded, UsageError
from checker.rpc.quota import ALARM_SECONDS, Alarm, Quota, create
from checker.rpc.roles import Caller, Role, Roles


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _roles(*callers: Caller) -> Roles:
    return Roles({caller.name: caller for caller in callers})


def _caller(name: str, rate: float, burst: float) -> Caller:
    return Caller(name, Role.BOOKING, None, rate, burst)


def _may(quota: Quota, caller: Caller, items: int) -> bool:
    try:
        quota.spend(caller, items)
    except Overloaded:
        return False
    return True


@settings(max_examples=200)
@given(
    rate=st.floats(0.5, 5000),
    burst=st.floats(1, 5000),
    steps=st.lists(st.tuples(st.integers(0, 2), st.floats(0, 0.2), st.integers(1, 50)), max_size=60),
)
def test_workers_together_never_grant_more_than_rate_and_burst(
    tmp_path_factory: pytest.TempPathFactory, rate: float, burst: float, steps: list[tuple[int, float, int]]
) -> None:
    """Whatever worker is asked when, the checks granted since start are at most burst + rate x time."""
    caller = _caller("a", rate, burst)
    path = tmp_path_factory.mktemp("quota") / "q"
    clock = Clock()
    create(path, _roles(caller), clock.now)
    workers = [Quota(path, _roles(caller), clock=clock) for _ in range(3)]
    granted = 0
    try:
        for worker, passed, items in steps:
            clock.now += passed
            granted += items if _may(workers[worker], caller, items) else 0
            assert granted <= burst + rate * (clock.now - 1000.0) + 1e-6
    finally:
        for quota in workers:
            quota.close()


@settings(max_examples=200)
@given(
    rate=st.floats(0.5, 5000),
    burst=st.floats(1, 5000),
    steps=st.lists(st.tuples(st.floats(0, 0.2), st.integers(1, 50)), max_size=60),
)
def test_one_worker_never_refuses_what_a_plain_bucket_grants(
    tmp_path_factory: pytest.TempPathFactory, rate: float, burst: float, steps: list[tuple[float, int]]
) -> None:
    """Taking tokens in chunks costs a caller on a single worker nothing: a plain token bucket is never kinder."""
    caller = _caller("a", rate, burst)
    path = tmp_path_factory.mktemp("quota") / "q"
    clock = Clock()
    create(path, _roles(caller), clock.now)
    quota = Quota(path, _roles(caller), clock=clock)
    tokens = burst
    try:
        for passed, items in steps:
            clock.now += passed
            tokens = min(burst, tokens + rate * passed)
            granted = _may(quota, caller, items)
            if tokens >= items + 1e-6:
                assert granted
            if granted:
                tokens = max(0.0, tokens - items)
    finally:
        quota.close()


def test_callers_do_not_share_and_unlimited_ones_are_never_refused(tmp_path: Path) -> None:
    """One caller's empty bucket refuses that caller only, and each refusal is counted for it."""
    a, b, free = _caller("a", 1, 5), _caller("b", 1, 5), Caller("free", Role.OPERATOR)
    refused: Counter[str] = Counter()
    clock = Clock()
    create(tmp_path / "q", _roles(a, b, free), clock.now)
    quota = Quota(tmp_path / "q", _roles(a, b, free), clock=clock, on_refused=lambda name, n: refused.update({name: n}))

    assert [_may(quota, a, 1) for _ in range(6)] == [True] * 5 + [False]
    assert _may(quota, b, 5)
    assert all(_may(quota, free, 1000) for _ in range(10))
    assert refused == {"a": 1}
    with pytest.raises(Overloaded, match=r"^quota of 1 checks/s used up for caller a: "):
        quota.spend(a, 1)
    with pytest.raises(Overloaded, match=r"^6 checks at once are more than the burst of 5 granted to a: "):
        quota.spend(a, 6)
    quota.close()


def _drain(path: Path, roles: Roles, start: Any, out: "multiprocessing.Queue[int]") -> None:
    quota = Quota(path, roles, clock=lambda: 5.0)
    caller = roles.callers["a"]
    start.wait(60)
    granted = sum(_may(quota, caller, 1) for _ in range(100))
    start.wait(60)  # both have had some: the rest is for whoever is quicker
    out.put(granted + sum(_may(quota, caller, 1) for _ in range(20_000)))
    quota.close()


def test_two_processes_at_once_share_one_bucket(tmp_path: Path) -> None:
    """Two processes spending as fast as they can, each check under the lock, get the burst to the last check."""
    caller = _caller("a", 0.001, 20_000.0)  # so slow that a chunk is less than one check
    roles = _roles(caller)
    create(tmp_path / "q", roles, 5.0)
    context = multiprocessing.get_context("spawn")
    out, start = context.Queue(), context.Barrier(2)
    both = [context.Process(target=_drain, args=(tmp_path / "q", roles, start, out)) for _ in range(2)]
    for process in both:
        process.start()
    counts = [out.get(timeout=120) for _ in both]
    for process in both:
        process.join()
    out.close()
    out.join_thread()

    assert sum(counts) == 20_000
    assert min(counts) >= 100


def test_a_torn_bucket_grants_nothing_until_it_fills_again(tmp_path: Path) -> None:
    """Whatever bytes a kill left in a bucket, no more than the rate is granted from then on."""
    caller = _caller("a", 10.0, 20.0)
    clock = Clock()
    create(tmp_path / "q", _roles(caller), clock.now)
    with (tmp_path / "q").open("r+b") as file:
        file.seek(32)
        file.write(b"\xff" * 16)  # not a number, twice
    quota = Quota(tmp_path / "q", _roles(caller), clock=clock)

    assert not _may(quota, caller, 1)
    clock.now += 1.0
    assert sum(_may(quota, caller, 1) for _ in range(30)) == 10
    quota.close()


def test_a_worker_with_other_roles_is_refused(tmp_path: Path) -> None:
    """A quota file made for one roles file is not used with another; nothing stays open."""
    create(tmp_path / "q", _roles(_caller("a", 10, 10)))

    with pytest.raises(UsageError, match="made for another roles file; restart"):
        Quota(tmp_path / "q", _roles(_caller("a", 20, 10)))

    assert str(tmp_path / "q") not in _open_files()
    with (tmp_path / "q").open("rb"):  # so that it would be seen
        assert str(tmp_path / "q") in _open_files()


def _open_files() -> set[str]:
    """What this process holds open, by path."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile by another thread
            found.add(os.readlink(link))
    return found


def test_the_alarm_counts_every_refusal_and_says_so_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    """A thousand refusals are one line; the next line of that caller comes later, with what was refused since."""
    clock = Clock()
    alarm = Alarm(logging.getLogger("test"), clock)
    for _ in range(1000):
        alarm("a", 2)
    alarm("b", 3)
    clock.now += ALARM_SECONDS - 0.1
    alarm("a", 5)
    clock.now += 0.1
    alarm("a", 7)

    assert alarm.refused == {"a": 2012, "b": 3}
    assert [(line.caller, line.items, line.refused) for line in caplog.records if line.name == "test"] == [  # type: ignore[attr-defined]
        ("a", 2, 2),
        ("b", 3, 3),
        ("a", 2010, 2012),
    ]
