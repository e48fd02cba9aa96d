"""Claims about the open loop: it hides no stall, skips no call, and says when it was itself the limit."""

import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from loadtest import sla as slas
from loadtest.drive import Driven, Plan, Unreachable, drive
from loadtest.make_feed import PEOPLE, SHANGHAI, make_feed
from loadtest.pace import limits
from loadtest.report import to_html, to_json
from loadtest.run import judge
from loadtest.stand import Stand
from loadtest.workload import Order, People, orders
from tests.loadtest.sellers import an_sla, served


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two thousand people."""
    folder = tmp_path_factory.mktemp("feed")
    make_feed(folder, 2_000, 1, datetime.now(SHANGHAI), court="test")
    return folder / PEOPLE


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """A checker with two thousand people."""
    with Stand(tmp_path_factory.mktemp("stand"), people=2_000, memory=True) as started:
        yield started


def a_plan(file: Path, target: str, people: Path, **more: Any) -> Plan:
    """What to drive, without a prober unless asked for."""
    return replace(Plan(sla=slas.read(file), sla_file=file, targets=(target,), people=people, probe=False), **more)


class Frozen(NamedTuple):
    """A run in whose middle the target stood still, from when to when in seconds since the epoch."""

    driven: Driven
    orders: list[Order]  # all that are measured, each one call
    began_at: float
    ended_at: float

    @property
    def waits_us(self) -> list[float]:
        """The least latency of each call: from its intended start to the end of the standstill; sorted."""
        began, ended = (at - self.driven.start_at for at in (self.began_at, self.ended_at))
        return sorted((ended - order.at_s) * 1e6 if began < order.at_s < ended else 0.0 for order in self.orders)

    def shows(self, percentile: float) -> bool:
        """Whether the percentile is as long as that of the least latencies, to three digits and 5 ms between clocks."""
        waits = self.waits_us
        least = waits[math.ceil(percentile * len(waits) / 100) - 1]
        assert least > 100_000, "of this percentile the standstill was to be seen"
        return (self.driven.recorder.select().percentile_us(percentile) or 0) > 0.99 * least - 5_000


def frozen(plan: Plan, folder: Path, pid: int, after_s: float, seconds: float) -> Frozen:
    """Drive, and stop the target's process for a while in the middle."""
    thread: list[threading.Thread] = []
    at: list[float] = []

    def freeze() -> None:
        os.kill(pid, signal.SIGSTOP)
        at.append(time.time())
        time.sleep(seconds)
        at.append(time.time())
        os.kill(pid, signal.SIGCONT)

    def progress(told: dict[str, Any]) -> None:
        if told["now_s"] >= after_s and not thread:
            thread.append(threading.Thread(target=freeze))
            thread[0].start()

    try:
        driven = drive(plan, folder, progress)
    finally:
        os.kill(pid, signal.SIGCONT)
        for each in thread:
            each.join()
    made = orders(
        People.read(plan.people),
        plan.sla.tenants,
        rate_per_s=plan.driven_rate,
        seconds=plan.driven_s,
        seed="1, process 0 of 1, run",
    )
    return Frozen(driven, list(made), *at)


def worker_of(stand: Stand) -> int:
    """The process that answers."""
    from loadtest.meter import listeners

    (pid,) = listeners(stand.target.address)
    return pid


def test_a_target_frozen_for_two_seconds_shows_in_the_percentiles(stand: Stand, tmp_path: Path) -> None:
    """Calls due while nothing answered count from when they should have started: two of eight seconds are a quarter of
    the calls, waiting between 0 and 2 s, so p90 and p99 show the stall. Nothing was skipped."""
    file = an_sla(tmp_path, rate=60, seconds=8, deadline_ms=30_000)
    run = frozen(a_plan(file, stand.target.address, stand.people), tmp_path, worker_of(stand), 1.0, 2.0)
    whole = run.driven.recorder.select()

    assert run.shows(99)
    assert run.shows(90)
    assert (whole.percentile_us(50) or 0) < 2e6  # most know nothing of it
    assert whole.calls == len(run.orders)
    assert whole.checks == sum(len(order.items) for order in run.orders)
    assert whole.wrong == 0, run.driven.recorder.told


def test_a_bound_on_calls_in_flight_hides_no_stall_and_is_said(stand: Stand, tmp_path: Path) -> None:
    """With two slots nearly every call of the stall starts late; it still counts from its intended start, and the run
    says that the slots were busy."""
    file = an_sla(tmp_path, rate=60, seconds=7, deadline_ms=30_000)
    plan = a_plan(file, stand.target.address, stand.people, in_flight=2)
    run = frozen(plan, tmp_path, worker_of(stand), 1.0, 2.0)
    due = sum(wait > 0 for wait in run.waits_us)

    assert run.shows(90)
    assert due > 15
    assert run.driven.pace.held >= due - 4  # two were under way, and clocks differ
    assert any("slots busy" in text for text in limits(run.driven.pace, run.driven.during))


def test_the_targets_processor_time_is_seen(stand: Stand, tmp_path: Path) -> None:
    """The listener of a local port is found by itself, and used between 1 µs and 10 ms per check."""
    driven = drive(a_plan(an_sla(tmp_path, seconds=3), stand.target.address, stand.people), tmp_path)

    assert driven.watched
    assert 1 < (driven.server_cpu_us or 0) < 10_000
    assert 1 < (driven.loader_cpu_us or 0) < 100_000
    assert sum(sample.seconds for sample in driven.samples) >= 3


def test_a_process_that_has_gone_was_not_seen(people: Path, tmp_path: Path) -> None:
    """Of a target whose process nobody can look at no cost is told, rather than none at all."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    with served(people) as (address, _):
        driven = drive(a_plan(an_sla(tmp_path, seconds=1), address, people, pids=(gone.pid,)), tmp_path)

    assert not driven.watched
    assert driven.server_cpu_us is None


def test_processes_share_the_rate_and_lose_nothing(people: Path, tmp_path: Path) -> None:
    """Two loader processes make as many calls as the target saw, warm-up apart."""
    file = an_sla(tmp_path, rate=150, seconds=2)
    with served(people) as (address, servicer):
        driven = drive(a_plan(file, address, people, processes=2, warmup_s=0.0), tmp_path)

        assert driven.pace.processes == 2
        assert driven.recorder.select().calls == servicer.calls > 50


def test_failures_are_counted_by_status_and_an_abort_ends_the_run(people: Path, tmp_path: Path) -> None:
    """A target that refuses everything ends a long run after two seconds, with the reason and the status."""
    import grpc

    abort = "[abort]\nover_s = 1\nerror_share = 0.5"
    with served(people) as (address, servicer):
        servicer.status = grpc.StatusCode.RESOURCE_EXHAUSTED
        driven = drive(a_plan(an_sla(tmp_path, seconds=60, more=abort), address, people), tmp_path)
    whole = driven.recorder.select()

    assert "error_share" in driven.problem
    assert set(whole.errors) == {"RESOURCE_EXHAUSTED"}
    assert driven.recorder.seconds < 15


def test_the_prober_follows_the_slas_profile(people: Path, tmp_path: Path) -> None:
    """In five steps up to a rate it makes the very calls of that profile at a twentieth of the rate, not those of
    the steady rate's."""
    file = an_sla(tmp_path, rate=400, seconds=3, profile="step")
    with served(people) as (address, _):
        driven = drive(a_plan(file, address, people, probe=True, warmup_s=0.0), tmp_path)
    made = {
        profile: list(
            orders(
                People.read(people), slas.read(file).tenants, rate_per_s=20, seconds=3, seed="probe 1", profile=profile
            )
        )
        for profile in ("step", "steady")
    }

    assert driven.probe is not None
    whole = driven.probe.select()
    assert (whole.calls, whole.checks) == (len(made["step"]), sum(len(order.items) for order in made["step"]))
    assert whole.calls != len(made["steady"])


@pytest.mark.usefixtures("undrawn")
def test_a_prober_that_fails_is_no_silent_one(people: Path, tmp_path: Path) -> None:
    """Killed in the middle of a run, it is told in the report with its exit code and its log; the run goes on."""
    killed: list[int] = []

    def kill(told: dict[str, Any]) -> None:
        if told["now_s"] > 0.5 and not killed:
            (prober,) = [each for each in psutil.Process().children() if "loadtest.probe" in each.cmdline()]
            killed.append(prober.pid)
            prober.kill()

    with served(people) as (address, _):
        plan = a_plan(an_sla(tmp_path, seconds=8), address, people, probe=True)
        driven = drive(plan, tmp_path, kill)
    report = judge(plan, driven)
    said = f"The prober failed with exit code -9: see {tmp_path / 'probe.log'}."

    assert killed
    assert (driven.probe, driven.problem, driven.probe_failed) == (None, "", said)
    assert said in to_html(report)
    assert to_json(report)["probe"]["agrees"] is None
    assert to_json(report)["probe"]["failed"] == said


def test_a_lost_loader_process_ends_the_run(people: Path, tmp_path: Path) -> None:
    """With one of two loader processes killed, half the load is missing: the run ends soon and says why."""
    killed: list[int] = []

    def kill(told: dict[str, Any]) -> None:
        if told["now_s"] > 0.5 and not killed:
            (locust,) = [each for each in psutil.Process().children() if "locust" in each.cmdline()]
            worker = locust.children()[0]
            killed.append(worker.pid)
            worker.kill()

    with served(people) as (address, _):
        plan = a_plan(an_sla(tmp_path, rate=40, seconds=60), address, people, processes=2)
        driven = drive(plan, tmp_path, kill)

    assert killed
    assert driven.problem == "1 of 2 loader processes ended early"
    assert driven.recorder.seconds < 30


def test_a_target_that_is_not_there_is_named(people: Path, tmp_path: Path) -> None:
    """Nothing is started when nobody answers."""
    plan = a_plan(an_sla(tmp_path), "127.0.0.1:1", people)
    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1 cannot be reached"):
        drive(plan, tmp_path)

    assert time.monotonic() - began < 20
    assert not (tmp_path / "locust.log").exists()
