"""Drives one run: locust as the engine, the prober beside it, and a meter on every process.

Strategy: locust runs as its own process (or several), headless, on the same locustfile that its web UI uses, and hands
over what it measured in files. This process only watches: once a second it reads processor and memory of the target and
of the loader, and passes progress on. In an open loop the schedule's times are the workload's, and locust's users are
the slots that calls in flight take; gevent's timers fire to a fraction of a millisecond on libev's `select` backend and
only to whole milliseconds on `epoll` (median delay 0.14 against 0.59 ms), so that one is chosen.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from loadtest import stand
from loadtest.channels import PLAINTEXT, Tls
from loadtest.measured import Recorder
from loadtest.meter import Meter, Sample, listeners, memory_growth
from loadtest.pace import Pace
from loadtest.sla import Sla

IN_FLIGHT = 256
"""Calls in flight at most, of all processes, unless told otherwise."""
PROBE_RATE = 50.0
"""Checks per second of the prober, at most; and at most a twentieth of the load."""
REACH_S = 3.0
_GRACE_S = 60.0  # for starting up, reading people, draining and handing over
_PROBE_END_S = 5.0
_LOCUSTFILE = Path(__file__).parent / "locustfile.py"


class Unreachable(Exception):
    """A target does not answer; the text names it."""


class DriveFailed(Exception):
    """The loader itself failed; the text says what it said last."""


@dataclass(frozen=True)
class Plan:
    """What to drive. `rate`: checks per second; None: the SLA's. `pids`: the target's processes, where known."""

    sla: Sla
    sla_file: Path
    targets: tuple[str, ...]
    people: Path
    rate: float | None = None
    seconds: float | None = None
    processes: int = 1
    in_flight: int = IN_FLIGHT
    seed: str = "1"
    warmup_s: float | None = None
    probe: bool = True
    replay: Path | None = None
    pids: tuple[int, ...] = ()
    tls: Tls = PLAINTEXT

    @property
    def driven_rate(self) -> float:
        """Checks per second that are intended."""
        return self.rate or self.sla.rate

    @property
    def driven_s(self) -> float:
        """Seconds that are measured."""
        return self.seconds or self.sla.seconds


@dataclass
class Driven:
    """What a run gave."""

    recorder: Recorder
    pace: Pace
    samples: list[Sample]
    start_at: float
    """When second 0 of the recorder was, in seconds since the epoch."""
    probe: Recorder | None
    problem: str = ""
    """Why it ended early; empty when it did not."""
    watched: bool = False
    """Whether the target's processes could be seen."""
    probe_failed: str = ""
    """What became of a prober that measured nothing; empty where it did, was not asked to, or the run was cut short."""

    @property
    def checks(self) -> int:
        """Checks asked in the measured time, the prober's included."""
        return self.recorder.select().checks + (self.probe.select().checks if self.probe else 0)

    @property
    def during(self) -> list[Sample]:
        """The samples of whole seconds within the measured time."""
        end = self.start_at + self.recorder.seconds
        return [each for each in self.samples if self.start_at <= each.at - each.seconds and each.at <= end]

    @property
    def server_cpu_us(self) -> float | None:
        """Processor time of the target per check, microseconds; None where it could not be seen."""
        return self._per_check(lambda sample: sample.server_cpu_s) if self.watched else None

    @property
    def loader_cpu_us(self) -> float | None:
        """Processor time of the tester per check, microseconds."""
        return self._per_check(lambda sample: sample.loader_share * sample.seconds)

    @property
    def memory_growth(self) -> float | None:
        """Of the target, MiB per hour over the last two thirds of the measured time; None where it could not be seen.

        In the first third a service still fills its caches and pools, which is no leak.
        """
        begin = self.start_at + self.recorder.seconds / 3
        settled = [sample for sample in self.during if sample.at - sample.seconds >= begin]
        return memory_growth(settled) if self.watched else None

    def _per_check(self, used: Callable[[Sample], float]) -> float | None:
        """A sample lies partly in the measured time where that begins and ends: then it counts for that part."""
        first, last = self.start_at, self.start_at + self.recorder.seconds
        total = sum(
            used(sample) * max(0.0, min(sample.at, last) - max(sample.at - sample.seconds, first)) / sample.seconds
            for sample in self.samples
        )
        return total / self.checks * 1e6 if self.checks else None


Progress = Callable[[dict[str, Any]], None]


def reach(targets: Sequence[str], seconds: float = REACH_S, tls: Tls = PLAINTEXT) -> None:
    """Return when every target accepts connections. Raises Unreachable, BadTls."""
    hint = ", does it trust --cert and match --ca" if tls.ca else ""
    for target in targets:
        with tls.channel(target) as channel:
            try:
                grpc.channel_ready_future(channel).result(seconds)
            except grpc.FutureTimeoutError:
                raise Unreachable(
                    f"{target} cannot be reached: is it serving, and is this its address{hint}?"
                ) from None


def drive(plan: Plan, folder: Path, progress: Progress = lambda _: None) -> Driven:
    """One run; its files go to `folder`. Raises Unreachable, DriveFailed."""
    reach(plan.targets, tls=plan.tls)
    measured, told = folder / "measured.json", folder / "progress.jsonl"
    for path in (measured, told, folder / "probe.json"):
        path.unlink(missing_ok=True)
    warmup_s = plan.sla.warmup_s if plan.warmup_s is None else plan.warmup_s
    pids = plan.pids or tuple(pid for target in plan.targets for pid in listeners(target))
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((folder / "locust.log").open("wb"))
        locust = subprocess.Popen(
            _locust(plan, measured, told),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | {"GEVENT_BACKEND": "select"},
        )
        stack.callback(stand.stop, locust)
        probe = None
        if plan.probe:
            probe_log = stack.enter_context((folder / "probe.log").open("wb"))
            probe = subprocess.Popen(
                _probe(plan, folder / "probe.json", told), stdout=probe_log, stderr=probe_log, start_new_session=True
            )
            stack.callback(stand.stop, probe)
        roots = [locust.pid] + ([probe.pid] if probe else [])
        meter = Meter(pids, roots)
        _watch(locust, meter, told, progress, warmup_s + plan.driven_s + plan.sla.deadline_ms / 1000 + _GRACE_S)
        if locust.returncode not in (0, 1) or not measured.exists():  # 1: some call failed, which is a measurement
            raise DriveFailed(f"locust ended with exit code {locust.returncode}: {_last_words(folder / 'locust.log')}")
        made = json.loads(measured.read_text("utf-8"))
        opinion = _opinion(probe, folder, _PROBE_END_S + (0.0 if made["problem"] else plan.sla.deadline_ms / 1000))
        failed = ""
        if probe is not None and probe.returncode:
            failed = f"The prober failed with exit code {probe.returncode}: see {folder / 'probe.log'}."
    return Driven(
        recorder=Recorder.from_json(made["recorder"]),
        pace=Pace.from_json(made["pace"]),
        samples=meter.samples,
        start_at=made["start_at"],
        probe=opinion,
        problem=made["problem"],
        watched=any(sample.server_bytes for sample in meter.samples),
        probe_failed=failed,
    )


def _locust(plan: Plan, measured: Path, told: Path) -> list[str]:
    slots = max(plan.in_flight, plan.processes)
    command = [sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE), "--headless", "--only-summary"]
    command += ["--loglevel", "WARNING", "--host", ",".join(plan.targets), "--people", str(plan.people)]
    command += ["--users", str(slots), "--spawn-rate", str(slots), "--sla", str(plan.sla_file), "--seed", plan.seed]
    command += ["--seconds", str(plan.driven_s), "--measured", str(measured), "--progress", str(told)]
    if plan.replay is not None:
        command += ["--replay", str(plan.replay)]
    elif plan.sla.loop == "open":
        command += ["--rate", str(plan.driven_rate)]
    if plan.warmup_s is not None:
        command += ["--warmup", str(plan.warmup_s)]
    if plan.processes > 1:
        port = str(_free_port())
        command += ["--processes", str(plan.processes), "--master-bind-host", "127.0.0.1"]
        command += ["--master-bind-port", port, "--master-port", port]
    return command + plan.tls.words + ([] if plan.sla.loop == "open" else ["Sellers"])


def _probe(plan: Plan, out: Path, told: Path) -> list[str]:
    rate = min(PROBE_RATE, plan.driven_rate / 20)
    command = [sys.executable, "-m", "loadtest.probe", "--target", ",".join(plan.targets), "--people", str(plan.people)]
    command += ["--sla", str(plan.sla_file), "--rate", str(rate), "--seconds", str(plan.driven_s), "--seed", plan.seed]
    if plan.sla.loop == "open" and plan.replay is None:  # else no profile says when locust's calls are many
        command += ["--load-profile", plan.sla.profile]
    return [*command, *plan.tls.words, "--after", str(told), "--out", str(out)]


def _watch(locust: "subprocess.Popen[bytes]", meter: Meter, told: Path, progress: Progress, seconds: float) -> None:
    """Meter and tell progress once a second until locust ends. Raises DriveFailed when it does not."""
    until, place = time.monotonic() + seconds, 0
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            locust.wait(1.0)
        meter.sample()
        if told.exists():
            with told.open(encoding="utf-8") as file:
                file.seek(place)
                for line in file.read().splitlines():
                    progress(json.loads(line) | {"loader_share": meter.samples[-1].busiest_share})
                place = file.tell()
        if locust.returncode is not None:
            return
        if time.monotonic() > until:
            raise DriveFailed(f"locust had not ended {_GRACE_S:.0f} s after its time")


def _opinion(probe: "subprocess.Popen[bytes] | None", folder: Path, seconds: float) -> Recorder | None:
    """What the prober measured, if it ends within `seconds`; nothing when it failed or the run was cut short."""
    if probe is None:
        return None
    with contextlib.suppress(subprocess.TimeoutExpired):
        probe.wait(seconds)
    out = folder / "probe.json"
    return Recorder.from_json(json.loads(out.read_text("utf-8"))) if probe.returncode == 0 and out.exists() else None


def _last_words(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
