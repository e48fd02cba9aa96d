"""The loader for every peer that answers calls: nghttp2's h2load, the same for all.

It knows HTTP/2 and not gRPC: its body is one call's frame, made before, and it judges the HTTP status alone, which gRPC
leaves at 200 whatever happens. So answers are decoded before and after by `target.ask`, and the bytes that came back
are compared with what as many right answers weigh: a server that began to refuse would show there.
"""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from bench.rpc import cpu_seconds

CONNECTIONS = 4
"""As from four processes of a booking system; calls in flight are spread over them."""
_TIMEOUT_S = 120
_DONE = re.compile(r"requests: (\d+) total, .* (\d+) succeeded, .*\n(?:.*\n)*?traffic: .* [\d.]+\w+ \((\d+)\) data")
_WALL = re.compile(r"finished in ([\d.]+)(us|ms|s)\b")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


class Target(NamedTuple):
    """A server to load and the call it gets. `verify` raises AssertionError for a wrong answer."""

    name: str
    address: str
    pid: int
    method: str  # /package.Service/Method
    message: bytes
    checks: int  # in one call
    verify: Callable[[bytes], None]

    def ask(self) -> bytes:
        """One call, its answer verified."""
        with grpc.insecure_channel(self.address) as channel:
            call: Any = channel.unary_unary(self.method)
            answer: bytes = call(self.message, timeout=10, wait_for_ready=True)
        self.verify(answer)
        return answer


class Measured(NamedTuple):
    """Checks per second of the server's processor time, and of the clock."""

    per_cpu_s: float
    per_s: float


def installed() -> bool:
    """Whether h2load is on PATH."""
    return shutil.which("h2load") is not None


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """What is started within runs on this core and stays there."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cores() -> tuple[int, int]:
    """One for the target and one for the loader; the same where there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


def load(target: Target, in_flight: int, calls: int) -> Measured:
    """Make `calls` calls, `in_flight` at a time (a multiple of CONNECTIONS)."""
    weight = len(target.ask()) + 5  # the frame's flag and length
    with tempfile.TemporaryDirectory() as folder:
        body = Path(folder) / "body"
        body.write_bytes(b"\0" + len(target.message).to_bytes(4, "big") + target.message)
        command = ["h2load", "-n", str(calls), "-c", str(CONNECTIONS), "-m", str(in_flight // CONNECTIONS)]
        command += ["-d", str(body), "-H", "content-type: application/grpc", "-H", "te: trailers"]
        with on_core(cores()[1]):
            before = cpu_seconds(target.pid)
            ran = subprocess.run(
                [*command, f"http://{target.address}{target.method}"],
                capture_output=True,
                text=True,
                check=True,
                timeout=_TIMEOUT_S,
            )
            spent = cpu_seconds(target.pid) - before
    target.ask()
    seconds = _seconds(ran.stdout, calls, weight)
    return Measured(calls * target.checks / spent, calls * target.checks / seconds)


def _seconds(said: str, calls: int, weight: int) -> float:
    """The elapsed time h2load tells, once what it tells of the answers is right."""
    done, wall = _DONE.search(said), _WALL.search(said)
    assert done is not None, said
    assert wall is not None, said
    assert int(done[1]) == int(done[2]) == calls, said
    assert 0.9 < int(done[3]) / (calls * weight) < 1.1, f"answers weigh {int(done[3]) / calls:.0f}, not {weight} bytes"
    return float(wall[1]) * _UNITS[wall[2]]
