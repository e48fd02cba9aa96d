"""Claims about worker processes: one port, restarts, common quotas, stopping. Real processes, real signals."""

import asyncio
import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from checker.errors import UsageError
from checker.rpc import quota
from checker.rpc.client import open_channel
from checker.rpc.roles import Caller, Role, Roles
from checker.rpc.workers import WorkerFailedError, reserve, run
from proto.checker.v1 import check_pb2, check_pb2_grpc
from tests.rpc.servicer import SECRET, Job, work
from tests.waiting import eventually

CheckRequest = check_pb2.CheckRequest

_PARENT = """
import json, logging, pickle, sys
sys.path[:] = {path!r}
logging.basicConfig(level=logging.INFO)
from pathlib import Path
from checker.errors import CheckerError
from checker.rpc.workers import WorkerSettings, run
from tests.rpc.servicer import work
payload, listen, workers, ready = pickle.loads(bytes.fromhex(sys.argv[1]))
settings = WorkerSettings(start_seconds=60, stop_seconds=20, backoff=0.05)
try:
    code = run(work, listen=listen, workers=workers, payload=payload, ready_file=Path(ready), settings=settings)
except CheckerError as error:
    sys.exit(f"error: {{error}}")
sys.exit(code)
"""


class Parent:
    """A parent process with its workers, as the command starts them."""

    def __init__(self, folder: Path, job: Job, listen: str, workers: int) -> None:
        self.ready = folder / "ready.json"
        self._log = (folder / "log").open("w+")
        given = pickle.dumps((job, listen, workers, str(self.ready))).hex()
        code = _PARENT.format(path=[str(Path.cwd()), *sys.path])
        self.process = subprocess.Popen([sys.executable, "-c", code, given], stderr=self._log)
        self.address = ""

    async def serving(self) -> None:
        async with asyncio.timeout(60):
            while not self.ready.exists():
                assert self.process.poll() is None, self.log()
                await asyncio.sleep(0.02)
        said = json.loads(self.ready.read_text())
        assert said["pid"] == self.process.pid
        self.address = said["address"]

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def log(self) -> str:
        self._log.flush()
        return Path(self._log.name).read_text()

    async def stopped(self, seconds: float = 60) -> int:
        return await asyncio.to_thread(self.process.wait, seconds)

    def close(self) -> None:
        if self.process.poll() is None:
            children = self.workers()
            self.process.kill()
            self.process.wait()
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.wait(10)
        self._log.close()


@contextlib.asynccontextmanager
async def _parent(
    folder: Path, job: Job | None = None, listen: str = "127.0.0.1:0", workers: int = 2
) -> AsyncIterator[Parent]:
    parent = Parent(folder, job or Job(), listen, workers)
    try:
        await parent.serving()
        yield parent
    finally:
        parent.close()


async def _answering(address: str) -> set[int]:
    """The worker that answers on a fresh connection, as a set of one pid."""
    async with open_channel(address) as channel:
        answer = await check_pb2_grpc.CheckServiceStub(channel).Check(CheckRequest(), timeout=30)
        return {int(answer.rulebook_version)}


class Load:
    """Callers that ask without pause over several connections, with the retry configuration."""

    def __init__(self, address: str, channels: int = 6) -> None:
        self._address = address
        self._stop = asyncio.Event()
        self._channels = channels
        self.answered = 0
        self.failures: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Load":
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(self._channels)]
        await self.more(50)
        return self

    async def more(self, answers: int) -> None:
        """Wait until so many more calls are answered."""
        goal = self.answered + answers
        async with asyncio.timeout(60):
            while self.answered < goal:  # noqa: ASYNC110 -- a count, not an event
                await asyncio.sleep(0.005)

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def _ask(self) -> None:
        async with open_channel(self._address) as channel:
            stub = check_pb2_grpc.CheckServiceStub(channel)

            async def one() -> None:
                while not self._stop.is_set():
                    try:
                        await stub.Check(CheckRequest(), timeout=60)
                    except grpc.aio.AioRpcError as error:
                        self.failures.append(f"{error.code().name} {error.details()}")
                        return
                    self.answered += 1

            await asyncio.gather(*(one() for _ in range(4)))


async def test_workers_share_one_port_and_a_killed_one_costs_no_call(tmp_path: Path) -> None:
    """`kill -9` of a worker under load, with the retry configuration: no failed call, and a new worker answers soon."""
    async with _parent(tmp_path, Job(wait=0.002)) as parent:
        before = {child.pid for child in parent.workers()}
        assert len(before) == 2
        async with Load(parent.address) as load:
            victim = min(before)
            os.kill(victim, signal.SIGKILL)
            await load.more(200)
            async with asyncio.timeout(60):
                answering: set[int] = set()
                while not answering - before:
                    answering |= await _answering(parent.address)
            await load.more(50)
        assert load.failures == []
        assert {child.pid for child in parent.workers()} & before == before - {victim}
        assert "ended with code -9; starting it again" in parent.log()


async def test_sigterm_drains_every_worker_and_exits_0(tmp_path: Path) -> None:
    """On SIGTERM calls in progress are answered, the parent exits 0, no worker and no ready file is left."""
    arrivals = tmp_path / "arrivals"
    async with _parent(tmp_path, Job(wait=1.5, arrivals=str(arrivals))) as parent:
        children = parent.workers()
        async with open_channel(parent.address) as one, open_channel(parent.address) as two:
            calls = [
                asyncio.ensure_future(check_pb2_grpc.CheckServiceStub(channel).Check(CheckRequest(), timeout=60))
                for channel in (one, two)
                for _ in range(10)
            ]
            # They have come, and take longer than the pause: answered by the drain or not at all.
            await eventually(lambda: arrivals.stat().st_size >= 20, seconds=30)
            parent.process.send_signal(signal.SIGTERM)
            answers = await asyncio.gather(*calls)
            assert len(answers) == 20
            assert await parent.stopped() == 0
        assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
        assert not parent.ready.exists()
        assert "were cut off" not in parent.log()


async def test_workers_drain_when_their_parent_is_killed(tmp_path: Path) -> None:
    """`kill -9` of the parent leaves no worker behind, and a call in progress is still answered."""
    arrivals = tmp_path / "arrivals"
    async with _parent(tmp_path, Job(wait=1.5, arrivals=str(arrivals))) as parent:
        children = parent.workers()
        async with open_channel(parent.address) as channel:
            call = asyncio.ensure_future(check_pb2_grpc.CheckServiceStub(channel).Check(CheckRequest(), timeout=60))
            await eventually(lambda: arrivals.stat().st_size >= 1, seconds=30)
            parent.process.kill()
            await parent.stopped()
            assert (await call).outcome == check_pb2.OUTCOME_ALLOWED
        gone, alive = await asyncio.to_thread(psutil.wait_procs, children, 60)
        assert (len(gone), alive) == (2, [])


async def test_a_quota_holds_over_all_workers(tmp_path: Path) -> None:
    """A caller with a burst of 40 asking over many connections to two workers gets 40 answers, not 80."""
    caller = Caller("anonymous", Role.BOOKING, None, 0.001, 40.0)
    roles = Roles({}, caller)
    quota.create(tmp_path / "quota", roles)
    async with _parent(tmp_path, Job(roles=roles, quota=tmp_path / "quota")) as parent:
        answered: list[int] = []
        refused: list[grpc.StatusCode] = []
        for _ in range(60):  # one call a connection: the kernel deals connections out to both workers
            async with open_channel(parent.address) as channel:
                stub: Any = check_pb2_grpc.CheckServiceStub(channel)
                try:
                    answered.append(int((await stub.Check(CheckRequest())).rulebook_version))
                except grpc.aio.AioRpcError as error:
                    refused.append(error.code())
        assert len(answered) == 40
        assert refused == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 20
        assert len(set(answered)) == 2


async def test_a_unix_socket_is_one_worker_that_is_replaced_when_killed(tmp_path: Path) -> None:
    """On a Unix socket a killed worker's socket file is no obstacle to the next; two workers are refused."""
    listen = f"unix:{tmp_path}/s"
    async with _parent(tmp_path, listen=listen, workers=1) as parent:
        (child,) = parent.workers()
        assert await _answering(listen) == {child.pid}
        child.kill()
        async with asyncio.timeout(60), open_channel(listen) as channel:
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    answer = await check_pb2_grpc.CheckServiceStub(channel).Check(CheckRequest(), timeout=5)
                    break
        assert int(answer.rulebook_version) != child.pid
    with pytest.raises(UsageError, match="use --workers 1 or --listen HOST:PORT"):
        run(work, listen=listen, workers=2)


@pytest.mark.parametrize(
    ("fail", "says"),
    [
        ("usage", "error: worker: was told to fail"),
        ("crash", "ended with code 70 before it served"),
        ("exit", "ended with code 3 before it served"),
    ],
)
async def test_a_worker_that_cannot_start_stops_everything_with_its_reason(
    tmp_path: Path, fail: str, says: str
) -> None:
    """The parent exits non-zero with the worker's own message, and shows no text of an unexpected exception."""
    parent = Parent(tmp_path, Job(fail=fail), "127.0.0.1:0", 2)
    try:
        assert await parent.stopped() == 1
        assert says in parent.log()
        assert SECRET not in parent.log()
        assert not parent.ready.exists()
    finally:
        parent.close()


@pytest.mark.parametrize("option", [None, socket.SO_REUSEPORT])
def test_a_port_somebody_else_uses_is_refused(option: int | None) -> None:
    """A port in use is refused with the remedy, even if its user would share it."""
    with socket.socket() as other:
        if option is not None:
            other.setsockopt(socket.SOL_SOCKET, option, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(UsageError, match="cannot be used: Address already in use; stop its user or choose another"):
            reserve(f"127.0.0.1:{other.getsockname()[1]}")


def test_a_reserved_port_is_refused_to_the_next_before_anybody_listens() -> None:
    """Two parents cannot reserve one port, and a freed one can be reserved at once."""
    address, holder = reserve("127.0.0.1:0")
    assert holder is not None
    with pytest.raises(UsageError, match="Address already in use"):
        reserve(address)
    holder.close()
    again, second = reserve(address)
    assert again == address
    assert second is not None
    second.close()


@pytest.mark.parametrize(
    ("listen", "says"),
    [
        ("8080", "write HOST:PORT"),
        (":8080", "write HOST:PORT"),
        ("127.0.0.1:http", "write HOST:PORT"),
        ("127.0.0.1:99999", "write HOST:PORT"),
        ("127.0.0.1:²", "write HOST:PORT"),
        ("unix:", "unix:PATH"),
        ("unix:/" + "x" * 200, "1 to 107 bytes"),
        ("no.such.host.invalid:0", "is not known"),
        ("192.0.2.1:0", "cannot be used"),
    ],
)
def test_addresses_that_cannot_work_are_refused_with_the_remedy(listen: str, says: str) -> None:
    """Every malformed or foreign address is a UsageError that repeats it."""
    with pytest.raises(UsageError, match=says) as caught:
        reserve(listen)
    assert str(caught.value).startswith(f"--listen {listen}: ")


def test_a_number_of_workers_below_one_is_refused() -> None:
    """--workers 0 is an error, not a service without workers."""
    with pytest.raises(UsageError, match="must be at least 1"):
        run(work, listen="127.0.0.1:0", workers=0)


def test_a_failing_worker_is_an_error_of_its_own_kind() -> None:
    """In process, too, a worker that cannot start raises WorkerFailedError."""
    start = time.monotonic()
    with pytest.raises(WorkerFailedError, match="was told to fail"):
        run(work, listen="127.0.0.1:0", workers=1, payload=Job(fail="usage"))
    assert time.monotonic() - start < 50  # not the time that a worker has to start
