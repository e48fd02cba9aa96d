"""CPU and memory of processes, second by second: of the service asked, and of the tester itself.

A group is some processes and all that they start. What a process used before it ended stays counted. Only this machine
can be read: for a target elsewhere the service's group stays empty, and the report says so.
"""

import contextlib
import os
import platform
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from statistics import linear_regression

import psutil

LEAST_SAMPLES = 3
"""Of memory, to tell its growth from: two lie on a line whatever they are."""
_LOOPBACK = ("127.", "localhost", "[::1]", "unix:")


@dataclass
class Group:
    """Processes watched together, by the pids they started from."""

    roots: tuple[int, ...]
    _used: dict[tuple[int, float], float] = field(default_factory=dict)

    def read(self) -> tuple[float, int, dict[int, float]]:
        """CPU seconds used so far, bytes resident now, CPU seconds of each live process."""
        alive: dict[int, float] = {}
        resident = 0
        for process in self._members():
            with contextlib.suppress(psutil.Error), process.oneshot():
                times = process.cpu_times()
                alive[process.pid] = times.user + times.system
                self._used[process.pid, process.create_time()] = alive[process.pid]
                resident += process.memory_info().rss
        return sum(self._used.values()), resident, alive

    def _members(self) -> Iterable[psutil.Process]:
        found: dict[int, psutil.Process] = {}
        for pid in self.roots:
            with contextlib.suppress(psutil.Error):
                root = psutil.Process(pid)
                found[pid] = root
                found.update({child.pid: child for child in root.children(recursive=True)})
        return found.values()


@dataclass(frozen=True)
class Sample:
    """One second. Shares are of one core: 2.0 is two cores busy."""

    at: float  # seconds since the epoch
    seconds: float  # since the sample before
    server_cpu_s: float
    server_bytes: int
    loader_share: float
    busiest_share: float  # of the busiest process of the loader
    machine_share: float  # of all cores of this machine, 0 to 1


class Meter:
    """Takes a `Sample` whenever asked, about once a second."""

    def __init__(self, server: Iterable[int], loader: Iterable[int]) -> None:
        self.server, self.loader = Group(tuple(server)), Group(tuple(loader))
        self.samples: list[Sample] = []
        self._at = time.monotonic()
        self._server, _, _ = self.server.read()
        self._first = self._server
        self._loader, _, self._each = self.loader.read()
        psutil.cpu_percent()  # counts from here

    @property
    def server_cpu_s(self) -> float:
        """CPU seconds the service used since the meter was made, up to the last sample."""
        return self._server - self._first

    def sample(self) -> Sample:
        """What was used since the last call."""
        now = time.monotonic()
        seconds = max(now - self._at, 1e-6)
        server, resident, _ = self.server.read()
        loader, _, each = self.loader.read()
        busiest = max((used - self._each.get(pid, 0.0) for pid, used in each.items()), default=0.0)
        taken = Sample(
            at=time.time(),
            seconds=seconds,
            server_cpu_s=max(server - self._server, 0.0),
            server_bytes=resident,
            loader_share=max(loader - self._loader, 0.0) / seconds,
            busiest_share=busiest / seconds,
            machine_share=psutil.cpu_percent() / 100,
        )
        self._at, self._server, self._loader, self._each = now, server, loader, each
        self.samples.append(taken)
        return taken


def memory_growth(samples: Sequence[Sample]) -> float | None:
    """MiB per hour by which the service's memory grew, the slope of the least-squares line; None of too few samples."""
    seen = [(sample.at / 3600, sample.server_bytes / 2**20) for sample in samples if sample.server_bytes]
    if len(seen) < LEAST_SAMPLES:
        return None
    hours, mebibytes = zip(*seen, strict=True)
    return linear_regression(hours, mebibytes).slope


def is_local(target: str) -> bool:
    """Whether the target is a loopback address or a Unix socket of this machine."""
    return target.removeprefix("ipv4:").removeprefix("ipv6:").startswith(_LOOPBACK)


def listeners(target: str) -> tuple[int, ...]:
    """The processes of this machine that listen at a local target; none when they are elsewhere or not ours to see."""
    if not is_local(target):
        return ()
    try:
        if target.startswith("unix:"):
            path = os.path.abspath(target.removeprefix("unix:").removeprefix("//"))
            sockets = [found for found in psutil.net_connections("unix") if str(found.laddr) == path]
        else:
            port = int(target.rpartition(":")[2])
            sockets = [
                found
                for found in psutil.net_connections("tcp")
                if found.status == psutil.CONN_LISTEN and found.laddr and found.laddr[1] == port
            ]
    except (psutil.Error, ValueError):
        return ()
    return tuple(sorted({found.pid for found in sockets if found.pid}))


def environment() -> dict[str, str]:
    """What a reader needs to know of this machine to judge the figures."""
    return {
        "host": socket.gethostname(),
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": str(psutil.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "load at the start": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "python": platform.python_version(),
        "grpcio": version("grpcio"),
        "protobuf": version("protobuf"),
        "locust": version("locust"),
    }


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
