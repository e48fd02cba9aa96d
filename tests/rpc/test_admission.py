"""Claims about the in-flight limits, without any server."""

import asyncio

import pytest

from checker.errors import Overloaded
from checker.rpc.admission import Admission, StreamWindow


def test_items_count_and_the_limit_is_exact() -> None:
    """With a limit of 10, ten items are let in, the eleventh is refused, and room comes back with each answer."""
    admission = Admission(10)
    for _ in range(10):
        admission.enter(1)

    with pytest.raises(Overloaded, match="limit of 10 checks in flight"):
        admission.enter(1)
    admission.leave(3)
    with pytest.raises(Overloaded):
        admission.enter(4)
    admission.enter(3)
    assert admission.in_flight == 10


def test_a_batch_over_the_limit_is_taken_only_alone() -> None:
    """A batch larger than the whole limit is not locked out for ever: it is let in when nothing else is in flight."""
    admission = Admission(10)
    admission.enter(1)
    admission.enter(99, held=1)
    assert admission.in_flight == 100

    other = Admission(10)
    other.enter(2)
    with pytest.raises(Overloaded):
        other.enter(99, held=1)


async def test_a_full_window_waits_for_an_answer() -> None:
    """With 2 items unanswered a window of 2 has no room; one answer makes room for exactly one more."""
    window = StreamWindow(2, Admission(10), lambda: None)
    for _ in range(2):
        await window.room()
        window.take()
    waiting = asyncio.create_task(window.room())
    await asyncio.sleep(0)
    assert not waiting.done()

    window.release()
    await waiting
    window.take()
    assert window.unanswered == 2


def test_an_ending_stream_is_cut_once_everything_read_is_answered() -> None:
    """`end` cuts an idle stream at once, a busy one at its last answer, one whose caller has finished never."""
    cuts: list[str] = []
    admission = Admission(10)
    idle, busy, finished = (StreamWindow(2, admission, lambda name=name: cuts.append(name)) for name in "abc")  # type: ignore[misc]
    busy.take()
    busy.take()
    finished.take()
    finished.exhausted = True

    for window in (idle, busy, finished):
        window.end()
    assert cuts == ["a"]
    busy.release()
    finished.release()
    assert cuts == ["a"]
    busy.release()
    assert cuts == ["a", "b"]
    assert admission.in_flight == 0


def test_a_stream_that_breaks_off_leaves_nothing_in_flight() -> None:
    """What a closed stream left unanswered is taken off the worker's count, once."""
    admission = Admission(10)
    window = StreamWindow(5, admission, lambda: None)
    for _ in range(3):
        window.take()

    window.close()
    window.close()
    assert (admission.in_flight, window.unanswered) == (0, 0)
