"""The tester's own figures: how late it was by its own doing, and whether it, not the target, was the limit.

Strategy: in an open loop every call has an intended start. A call that starts late although a slot was free was held
up by the tester's own processor: that delay is a histogram of its own. A call that found every slot busy was held up by
the bound on calls in flight: those are counted. `limits` turns both, and the loader's processor, into sentences.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hdrh.histogram import HdrHistogram

from loadtest.meter import Sample

BUSY_SHARE = 0.9
"""A loader process busier than this, of one core, is taken for full: gevent runs on one core."""
FULL_SHARE = 0.97
"""Of all cores: the machine is full, and tester and target slow each other down."""
LATE_MS = 10.0
HELD_SHARE = 0.01
OVERRUN_S = 1.5
_SECONDS_SHARE = 0.2  # of the seconds of a run: busy for longer is no accident
_LONGEST_US = 3_600_000_000


def _histogram() -> Any:
    return HdrHistogram(1, _LONGEST_US, 3)


@dataclass
class Pace:
    """How one or several loader processes kept to their schedule."""

    delay: Any = field(default_factory=_histogram)  # microseconds a call started late although a slot was free
    on_time: int = 0  # calls that found a slot free
    held: int = 0  # calls that found every slot busy
    slots: int = 0  # the bound: calls in flight at most
    processes: int = 1

    def started(self, late_s: float) -> None:
        """A call that found a slot free started this much after its intended start."""
        self.on_time += 1
        self.delay.record_value(min(max(1, round(late_s * 1e6)), _LONGEST_US))

    @property
    def calls(self) -> int:
        """Calls started."""
        return self.on_time + self.held

    @property
    def held_share(self) -> float:
        """Of the calls, those that the bound on calls in flight held up."""
        return self.held / self.calls if self.calls else 0.0

    def delay_ms(self, percentile: float) -> float:
        """The tester's own delay; 0 in a closed loop, which intends no start."""
        return float(self.delay.get_value_at_percentile(percentile)) / 1000 if self.on_time else 0.0

    def merge(self, other: "Pace") -> None:
        """Add another process's figures."""
        self.delay.add(other.delay)
        self.on_time += other.on_time
        self.held += other.held
        self.slots += other.slots
        self.processes += other.processes

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "delay": self.delay.encode().decode(),
            "on_time": self.on_time,
            "held": self.held,
            "slots": self.slots,
            "processes": self.processes,
        }

    @classmethod
    def from_json(cls, made: dict[str, Any]) -> "Pace":
        """What `to_json` wrote."""
        return cls(**(made | {"delay": HdrHistogram.decode(made["delay"])}))


def limits(pace: Pace, samples: Sequence[Sample], overrun_s: float = 0.0) -> list[str]:
    """Why the figures may show the tester rather than the target; empty where nothing points that way.

    `samples`: of the measured time; `overrun_s`: how long after the schedule's end the last call ended.
    """
    found = []
    busy = sum(sample.busiest_share >= BUSY_SHARE for sample in samples)
    if samples and busy >= _SECONDS_SHARE * len(samples):
        found.append(
            f"a loader process used a whole core in {busy} of {len(samples)} seconds: add --processes, or cores"
        )
    full = sum(sample.machine_share >= FULL_SHARE for sample in samples)
    if samples and full >= _SECONDS_SHARE * len(samples):
        found.append(
            f"every core of this machine was busy in {full} of {len(samples)} seconds: run the tester on another "
            "machine, or pin tester and target to different cores"
        )
    if pace.held_share > HELD_SHARE:
        found.append(
            f"{pace.held_share:.1%} of the calls found all {pace.slots} slots busy and started late, which "
            "counts as latency: the target is slow at this rate; with more --in-flight it would be asked more at once"
        )
    if (late := pace.delay_ms(99.0)) > LATE_MS:
        found.append(
            f"one call in a hundred started {late:.1f} ms late by the tester's own doing, which counts as latency"
        )
    if overrun_s > OVERRUN_S:
        found.append(f"the last call ended {overrun_s:.1f} s after its schedule: the rate was lower than intended")
    return found
