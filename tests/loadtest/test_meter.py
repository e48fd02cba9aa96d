"""Claims about the meter: it sees the processor time of a process tree, and finds who listens at an address."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.meter import LEAST_SAMPLES, Group, Meter, Sample, environment, is_local, listeners, memory_growth
from tests.waiting import until

_BURN = """
import os, sys, time
if os.fork():
    os.wait()
else:
    end = time.process_time() + 0.6  # user and system are told in whole hundredths, each rounded down
    while time.process_time() < end: pass
    sys.stdin.read()
"""


def test_what_a_child_used_is_counted_and_stays_when_it_ends() -> None:
    """Half a second burnt by a process that the watched one started is seen while it lives, and kept afterwards."""
    watched = subprocess.Popen([sys.executable, "-c", _BURN], stdin=subprocess.PIPE)
    group = Group((watched.pid,))
    until(lambda: group.read()[0] >= 0.5 or watched.poll() is not None, 60, pause=0.02)
    used, _, _ = group.read()
    watched.communicate()

    assert used >= 0.5
    assert group.read()[0] >= used
    assert group.read()[1:] == (0, {})


def test_a_sample_tells_shares_of_one_core() -> None:
    """A process that burns is near a whole core; the target, which is idle, used next to nothing."""
    burning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        meter = Meter(server=[os.getpid()], loader=[burning.pid])
        until(lambda: meter.sample().busiest_share > 0.2, 60, pause=0.02)

        assert meter.samples[-1].server_bytes > 1_000_000
        assert meter.samples[-1].loader_share == meter.samples[-1].busiest_share
    finally:
        burning.kill()
        burning.wait()


def samples(*mebibytes: float) -> list[Sample]:
    """One a second, from a time that loses no precision for being long ago."""
    return [
        Sample(1_770_000_000.0 + second, 1.0, 0.0, int(size * 2**20), 0.0, 0.0, 0.0)
        for second, size in enumerate(mebibytes)
    ]


def test_memory_that_grows_is_told_by_its_slope() -> None:
    """Half a MiB a minute is thirty an hour, under noise of 2 MiB; flat is none, shrinking is less."""
    leaking = [100 + second / 120 + (second % 2) * 2 for second in range(400)]
    assert memory_growth(samples(*leaking)) == pytest.approx(30, abs=0.5)
    assert memory_growth(samples(*[100.0] * 400)) == 0
    assert memory_growth(samples(*reversed(leaking))) == pytest.approx(-30, abs=0.5)


def test_one_step_at_the_end_is_no_steady_growth_but_is_not_hidden() -> None:
    """Eight MiB more in the last of ten minutes count, though less than if they had come bit by bit."""
    stepped, steady = [100.0] * 540 + [108.0] * 60, [100 + 8 * second / 600 for second in range(600)]
    (late, slow) = (memory_growth(samples(*sizes)) for sizes in (stepped, steady))
    assert late is not None
    assert slow == pytest.approx(48)
    assert 20 < late < 48


def test_too_few_samples_tell_no_growth() -> None:
    """None, and seconds without a process do not count as memory given back."""
    few = [100.0] * (LEAST_SAMPLES - 1)
    assert memory_growth(samples(*few)) is None
    assert memory_growth(samples(*few, 0, 0)) is None
    assert memory_growth(samples(*few, 0, 100)) == 0


def test_the_listener_of_a_port_is_found() -> None:
    """Whoever listens at a loopback port is named by its process; a port nobody listens at has none."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"

        assert listeners(address) == (os.getpid(),)
    assert listeners(address) == ()


def test_the_listener_of_a_unix_socket_is_found(tmp_path: Path) -> None:
    """The same for a socket in the file system."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/s")
        listener.listen()

        assert listeners(f"unix:{tmp_path}/s") == (os.getpid(),)


@pytest.mark.parametrize(
    ("target", "local"),
    [
        ("127.0.0.1:50051", True),
        ("ipv4:127.0.0.1:50051", True),
        ("[::1]:50051", True),
        ("localhost:50051", True),
        ("unix:/tmp/s", True),
        ("10.0.0.5:50051", False),
        ("checker.example:443", False),
    ],
)
def test_only_targets_of_this_machine_can_be_metered(target: str, local: bool) -> None:
    """Loopback and Unix sockets are here; everything else may be elsewhere."""
    assert is_local(target) == local


def test_the_environment_is_told() -> None:
    """Cores, memory and the versions that matter are in it."""
    told = environment()

    assert int(told["cores"]) >= 1
    assert told["grpcio"].count(".") == 2
    assert set(told) >= {"host", "system", "memory", "python", "protobuf", "locust"}
