"""One centre made of real processes: console scripts, a private index, files in one folder, everything they print kept.

A stand never reaches into the product: it types commands, reads ready files, sends signals to process ids it started
and asks over gRPC. Where a test needs to break something, it breaks the process, not our code.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import grpc.aio
import psutil

from checker.rpc.client import open_channel
from proto.checker.v1 import check_pb2 as pb
from proto.checker.v1 import check_pb2_grpc, edge_pb2, edge_pb2_grpc, filter_pb2
from tests.waiting import eventually

READY_S = 60.0
_OURS = ("CHECKER_", "EDGE_", "COLUMNS", "NO_COLOR", "FORCE_COLOR", "GRPC_")


class Ran(NamedTuple):
    """A finished command."""

    code: int
    out: str
    err: str


def wait_for(what: str, condition: Callable[[], Any], seconds: float = 60.0) -> None:
    """Poll until the condition holds; fails with `what` when it does not in time.

    A look that takes long, as at every process of the machine, is taken less often: it would keep a processor from what
    is waited for.
    """
    end = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        if condition():
            return
        assert began < end, f"not within {seconds:g} s: {what}"
        time.sleep(min(0.2, max(0.01, 5 * (time.monotonic() - began))))


def has_ended(process: psutil.Process) -> bool:
    """Whether none of its threads runs any more; to whom it was left may take seconds to reap it."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1
    except psutil.NoSuchProcess:
        return True


class Checker:
    """A `checker serve` process with its workers; `address` once it serves."""

    def __init__(self, command: list[str], folder: Path, log: Path, environment: dict[str, str]) -> None:
        self._ready = folder / f"{log.stem}.ready.json"
        self._output = log.open("wb")
        command = [*command, "--ready-file", str(self._ready)]
        self.log = log
        self.process = psutil.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output, env=environment
        )
        try:
            wait_for("the ready file", self._is_ready, READY_S)
        except BaseException:
            self.close()
            raise
        self.address: str = json.loads(self._ready.read_text("utf-8"))["address"]

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.log.read_text('utf-8')}"
        return self._ready.exists()

    def children(self) -> list[psutil.Process]:
        """Its workers and its companion."""
        found: list[psutil.Process] = self.process.children()
        return found

    def answering(self) -> list[psutil.Process]:
        """Those of its processes that listen for calls."""
        port = int(self.address.rpartition(":")[2])
        found = []
        for child in self.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                connections = child.net_connections("tcp")
                if any(one.laddr.port == port and one.status == psutil.CONN_LISTEN for one in connections):
                    found.append(child)
        return found

    def stop(self) -> int:
        """SIGTERM and wait; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        code: int = self.process.wait(60)
        return code

    def kill(self) -> None:
        """SIGKILL to all of its processes, as when the machine dies."""
        children = self.children()
        for child in children:  # first: they drain when their parent is gone
            with contextlib.suppress(psutil.NoSuchProcess):
                child.suspend()
        self.process.kill()
        self.process.wait()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        for child in children:
            wait_for("its end", partial(has_ended, child))

    def close(self) -> None:
        """End it, whatever state it is in."""
        if self.process.poll() is None:
            self.kill()
        self._output.close()


class EdgeNode(Checker):
    """An `edge serve` process with its workers and its data directory."""

    def __init__(self, command: list[str], folder: Path, log: Path, environment: dict[str, str], data: Path) -> None:
        self.data = data
        self._channel: grpc.Channel | None = None
        super().__init__(command, folder, log, environment)

    def status(self) -> filter_pb2.EdgeStatus:
        """What the node says of itself."""
        if self._channel is None:
            # Its worker may die and be started again; gRPC's own pauses before it connects again grow to minutes.
            self._channel = grpc.insecure_channel(self.address, options=[("grpc.max_reconnect_backoff_ms", 1000)])
        stub = edge_pb2_grpc.EdgeServiceStub(self._channel)
        return stub.GetStatus(edge_pb2.GetStatusRequest(), timeout=20, wait_for_ready=True).status

    def in_step(self) -> bool:
        """Whether it has a snapshot and hears its centre."""
        status = self.status()
        return status.epoch > 0 and status.centre == filter_pb2.CENTRE_STATE_REACHABLE and status.lag.seconds < 3

    def close(self) -> None:
        """End it, and the connection to it."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        super().close()


class Stand:
    """See the module. `index`: an index URL; none: `embedded:` below `folder`."""

    def __init__(self, folder: Path, index: str = "") -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.logs.mkdir(parents=True)
        self.embedded = None if index else folder / "index"
        self.index = index or f"embedded:{self.embedded}"
        self.state = self.embedded or folder / "state"
        self.key_file = self.state / "key.json"
        self.edge_key = folder / "edge-key.json"
        self._checkers: list[Checker] = []
        self._commands = 0
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        if not self.embedded:
            self.state.mkdir(mode=0o700)
            made = self.run("checker", "keys", "new", "--key-file", self.key_file)
            assert made.code == 0, made.err

    @property
    def where(self) -> list[str]:
        """The flags that say which index, key file and state directory."""
        return ["--index", self.index, "--key-file", str(self.key_file), "--state-dir", str(self.state)]

    def run(self, script: str, *arguments: str | Path, stdin: str = "", seconds: float = 120) -> Ran:
        """A console script to its end; what it prints is also kept in a file of `logs`."""
        self._commands += 1
        done = subprocess.run(
            [_script(script), *map(str, arguments)],
            input=stdin.encode(),
            capture_output=True,
            timeout=seconds,
            check=False,
            env=self.environment,
        )
        name = f"{self._commands:03}-{script}-{arguments[0]}"
        (self.logs / f"{name}.out").write_bytes(done.stdout)
        (self.logs / f"{name}.err").write_bytes(done.stderr)
        return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, script: str, *arguments: str | Path) -> "subprocess.Popen[bytes]":
        """A console script whose end the caller waits for."""
        self._commands += 1
        with (self.logs / f"{self._commands:03}-{script}-{arguments[0]}.err").open("wb") as output:
            return subprocess.Popen(
                [_script(script), *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.environment,
            )

    def feed(self, name: str, *lines: dict[str, Any]) -> Path:
        """A feed file of these lines."""
        path = self.folder / name
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
        return path

    def import_(self, *feeds: Path, code: int = 0) -> dict[str, Any]:
        """`checker import` to its end: acknowledged when this returns. Its summary."""
        ran = self.run("checker", "import", *self.where, "--json", *feeds)
        assert ran.code == code, ran
        summary: dict[str, Any] = json.loads(ran.out)
        return summary

    def serve(self, *flags: str | Path, workers: int = 1, listen: str = "127.0.0.1:0") -> Checker:
        """A checker that serves when this returns."""
        self._commands += 1
        log = self.logs / f"{self._commands:03}-checker-serve.err"
        command = [_script("checker"), "serve", *self.where, "--listen", listen, "--workers", str(workers)]
        checker = Checker([*command, *map(str, flags)], self.folder, log, self.environment)
        self._checkers.append(checker)
        return checker

    def key_for_edges(self) -> Path:
        """The key file of every edge of this stand."""
        if not self.edge_key.exists():
            made = self.run("checker", "keys", "export-edge", "--key-file", self.key_file, "--out", self.edge_key)
            assert made.code == 0, made.err
        return self.edge_key

    def edge(
        self,
        centre: str,
        *flags: str | Path,
        data: Path | None = None,
        workers: int = 1,
        listen: str = "127.0.0.1:0",
        environment: dict[str, str] | None = None,
    ) -> "EdgeNode":
        """An `edge serve` before this centre, or what leads to it, that serves when this returns."""
        self._commands += 1
        key = self.key_for_edges()
        log = self.logs / f"{self._commands:03}-edge-serve.err"
        where = data or self.folder / f"edge-{self._commands:03}"
        command = [_script("edge"), "serve", "--centre", centre, "--data", str(where), "--listen", listen]
        command += ["--key-file", str(key), "--workers", str(workers), *map(str, flags)]
        node = EdgeNode(command, self.folder, log, self.environment | (environment or {}), where)
        self._checkers.append(node)
        return node

    def store(self) -> list[psutil.Process]:
        """Supervisor first, then server, of the embedded index: those that run now."""
        supervisors, servers = [], []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if any(word.endswith("supervisor.py") for word in words) and str(self.embedded) in words:
                    supervisors.append(process)
                elif process.cwd() == f"{self.embedded}/valkey":
                    servers.append(process)
        return supervisors + servers

    def close(self) -> None:
        """End everything; the embedded index goes when its last user has gone."""
        for checker in self._checkers:
            checker.close()
        if self.embedded:
            wait_for("the end of the embedded index", lambda: not self.store())


def _script(name: str) -> str:
    return str(Path(sys.executable).parent / name)


# --- questions


class Answer(NamedTuple):
    """An answer, when its question was put and it came, in seconds of `time.monotonic`, and whose question it was."""

    asked_at: float
    came_at: float
    response: pb.CheckResponse
    caller: int = 0

    @property
    def outcome(self) -> str:
        """ALLOWED, BARRED, UNKNOWN or INVALID_DOCUMENT."""
        return pb.Outcome.Name(self.response.outcome).removeprefix("OUTCOME_")

    @property
    def reason(self) -> str:
        """The contract's word without its prefix."""
        return pb.Reason.Name(self.response.reason).removeprefix("REASON_")

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.came_at - self.asked_at


class Caller:
    """A caller with a connection of its own, so that many callers meet every worker."""

    def __init__(self, address: str, number: int = 0) -> None:
        self.number = number
        self.channel: grpc.aio.Channel = open_channel(address)
        self.stub = check_pb2_grpc.CheckServiceStub(self.channel)

    async def ask(self, request: pb.CheckRequest, timeout_s: float = 20.0) -> Answer:
        """One question. Retries broken connections, as clients of this service do."""
        asked_at = time.monotonic()
        response = await self.stub.Check(request, timeout=timeout_s, wait_for_ready=True)
        return Answer(asked_at, time.monotonic(), response, self.number)

    async def __aenter__(self) -> "Caller":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()


class Callers:
    """Many callers asking `questions` round and round until the end of the block; all answers are kept.

    `questions`: name -> request; the callers begin at different places. `pause`: seconds each waits after an answer, so
    that what they watch also gets some of the processors.
    """

    def __init__(
        self, address: str, questions: dict[str, pb.CheckRequest], callers: int = 50, pause: float = 0.03
    ) -> None:
        self._address = address
        self._questions = list(questions.items())
        self._number = callers
        self._pause = pause
        self._stop = False
        self._tasks: list[asyncio.Task[None]] = []
        self.answers: dict[str, list[Answer]] = {name: [] for name in questions}
        self.latest: dict[str, dict[int, Answer]] = {name: {} for name in questions}
        """What each caller was told last."""
        self.rounds = [0] * callers
        self.failures: list[str] = []

    async def __aenter__(self) -> "Callers":
        self._tasks = [asyncio.create_task(self._ask(number)) for number in range(self._number)]
        await self.everyone_asks(1)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)

    async def everyone_asks(self, rounds: int, seconds: float = 300.0) -> None:
        """Wait until every caller has put every question so many more times."""
        goals = [done + rounds + 1 for done in self.rounds]
        async with asyncio.timeout(seconds):
            while any(done < goal for done, goal in zip(self.rounds, goals, strict=True)):  # noqa: ASYNC110 - counts
                await asyncio.sleep(0.02)

    async def until(self, what: str, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        """Wait for something to show in the answers."""
        await eventually(condition, seconds, 0.02, lambda: f"not within {seconds:g} s: {what}")

    async def everyone_hears(self, name: str, heard: Callable[[Answer], bool], seconds: float = 60.0) -> None:
        """Wait until each caller's last answer about this was so; together they meet every worker."""

        def everyone() -> bool:
            latest = self.latest[name]
            return len(latest) == self._number and all(map(heard, latest.values()))

        await self.until(f"everyone hears so of {name}", everyone, seconds)

    def after(self, name: str, moment: float) -> list[Answer]:
        """Answers to questions put after that moment."""
        return [answer for answer in self.answers[name] if answer.asked_at >= moment]

    async def _ask(self, number: int) -> None:
        async with Caller(self._address, number) as caller:
            start = number * len(self._questions) // self._number
            while True:
                for name, request in self._questions[start:] + self._questions[:start]:
                    try:
                        answer = await caller.ask(request)
                        self.answers[name].append(answer)
                        self.latest[name][number] = answer
                    except grpc.aio.AioRpcError as error:
                        self.failures.append(f"{name}: {error.code().name} {error.details()}")
                    await asyncio.sleep(self._pause)
                    if self._stop:
                        return
                self.rounds[number] += 1


async def aside(work: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    """Blocking work beside the callers of this loop."""
    return await asyncio.to_thread(work, *arguments, **more)
