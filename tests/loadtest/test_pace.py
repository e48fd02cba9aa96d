"""Claims about what the tester says of itself: it is suspected when, and only when, its own figures point to it."""

import pytest

from loadtest.meter import Sample
from loadtest.pace import Pace, limits


def a_sample(busiest: float = 0.3, machine: float = 0.5) -> Sample:
    """One second of a run."""
    return Sample(
        at=1.0,
        seconds=1.0,
        server_cpu_s=0.5,
        server_bytes=1,
        loader_share=busiest,
        busiest_share=busiest,
        machine_share=machine,
    )


def a_pace(on_time: int = 1000, held: int = 0, late_s: float = 0.0002) -> Pace:
    """One that started its calls this late."""
    pace = Pace(slots=64)
    for _ in range(on_time):
        pace.started(late_s)
    pace.held = held
    return pace


def test_a_pace_with_time_to_spare_is_not_suspected() -> None:
    """Nothing is said of one that kept to its schedule on a machine that was half idle."""
    assert limits(a_pace(), [a_sample()] * 10) == []


@pytest.mark.parametrize(
    ("pace", "samples", "overrun_s", "said"),
    [
        (
            a_pace(),
            [a_sample(busiest=0.97)] * 3 + [a_sample()] * 7,
            0.0,
            "a loader process used a whole core in 3 of 10",
        ),
        (
            a_pace(),
            [a_sample(machine=1.0)] * 3 + [a_sample()] * 7,
            0.0,
            "every core of this machine was busy in 3 of 10",
        ),
        (a_pace(held=20), [a_sample()], 0.0, "2.0% of the calls found all 64 slots busy"),
        (a_pace(late_s=0.05), [a_sample()], 0.0, "one call in a hundred started 50.0 ms late"),
        (a_pace(), [a_sample()], 4.0, "the last call ended 4.0 s after its schedule"),
    ],
)
def test_each_limit_of_the_tester_is_said(pace: Pace, samples: list[Sample], overrun_s: float, said: str) -> None:
    """A full core, a full machine, busy slots, late starts and an overrun schedule each have their sentence."""
    (text,) = limits(pace, samples, overrun_s)

    assert said in text


def test_one_busy_second_is_no_limit() -> None:
    """A single full second among ten is an accident."""
    assert limits(a_pace(), [a_sample(busiest=1.0, machine=1.0)] + [a_sample()] * 9) == []


def test_a_closed_loop_has_no_delay() -> None:
    """Where no start was intended, none was late."""
    assert Pace().delay_ms(99.0) == 0.0
    assert Pace().held_share == 0.0


def test_what_processes_say_of_themselves_adds_up() -> None:
    """Two processes together have the calls, slots and delays of both, after a trip through JSON."""
    whole = Pace(processes=0)
    for part in (a_pace(late_s=0.001), a_pace(held=10, late_s=0.004)):
        whole.merge(Pace.from_json(part.to_json()))

    assert (whole.processes, whole.slots, whole.calls, whole.held) == (2, 128, 2010, 10)
    assert whole.delay_ms(25.0) == pytest.approx(1.0, rel=0.01)
    assert whole.delay_ms(75.0) == pytest.approx(4.0, rel=0.01)
