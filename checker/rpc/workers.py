"""Several worker processes on one port, and the parent that keeps them running.

Strategy: an event loop runs in one process only and gRPC must not be forked, so each worker is a fresh interpreter and
the parent never touches gRPC. The parent

1. reserves the port: first a plain bind, which fails if anybody listens there (workers share by SO_REUSEPORT, which
   would join a stranger's port silently), then a bind that is kept, without listening: port 0 becomes one port for all;
2. starts the workers and waits until each says it serves; one that cannot start stops everything, with its message;
3. writes the ready file; 4. starts a worker again that dies, later each time it dies soon;
5. passes SIGTERM and SIGINT on, waits for the workers to drain, kills what is left after the grace.

A worker holds two pipes: its standard input, on which it gets its work and whose end means "the parent is dead, drain",
and one on which it tells the parent that it serves or why it cannot. Nothing here knows what a worker does.
"""

import asyncio
import contextlib
import json
import logging
import os
import pickle
import signal
import socket
import struct
import sys
import tempfile
import threading
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checker.errors import CheckerError, UsageError
from checker.settings import listener

_log = logging.getLogger("checker.rpc")

_LENGTH = struct.Struct("<Q")


@dataclass(slots=True)
class WorkerContext:
    """What a worker is started with. `listen`: HOST:PORT with a real port, or unix:PATH; `payload`: whatever was given.

    `shared_port`: the parent holds the port, listen on it with SO_REUSEPORT.
    """

    index: int
    workers: int
    listen: str
    shared_port: bool
    payload: Any = None
    _report: int = field(default=-1, repr=False)

    def ready(self, address: str) -> None:
        """Tell the parent that this worker serves at `address`. Call once."""
        self._tell({"address": address})

    def _tell(self, message: dict[str, str]) -> None:
        if self._report < 0:
            return
        with contextlib.suppress(BrokenPipeError):
            os.write(self._report, json.dumps(message).encode() + b"\n")
        os.close(self._report)
        self._report = -1


Target = Callable[[WorkerContext], None]


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """`start_seconds`: for a worker to serve. `stop_seconds`: from SIGTERM to SIGKILL; more than pause and grace of the
    drain together. `backoff`: first wait before a dead worker is started again; doubles up to `backoff_max`, and is
    forgotten once a worker has lived `stable_seconds`."""

    start_seconds: float = 60.0
    stop_seconds: float = 20.0
    backoff: float = 0.1
    backoff_max: float = 10.0
    stable_seconds: float = 30.0


class WorkerFailedError(CheckerError):
    """A worker could not start; the message is what it said."""


def reserve(listen: str) -> tuple[str, socket.socket | None]:
    """Reserve HOST:PORT for workers; returns the address with a real port, and the socket to keep open.

    Unix sockets need no reserving. UsageError: the address is malformed, not of this machine, or in use.
    """
    if fault := listener(listen):
        raise UsageError(f"--listen {listen}: {fault}")
    if listen.startswith("unix:"):
        return listen, None
    host, _, port = listen.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        raise UsageError(f"--listen {listen}: host {host} is not known; write an address of this machine") from None
    family, _, _, _, address = found[0]
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a former life are no user
            probe.bind(address)
            if int(port):
                probe.listen(1)  # a port that is shared by SO_REUSEPORT, bound but silent, shows only here
        holder = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise UsageError(
            f"--listen {listen}: cannot be used: {error.strerror}; stop its user or choose another port (0 = any)"
        ) from None
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(address)
    except OSError as error:
        holder.close()
        raise UsageError(f"--listen {listen}: cannot be used: {error.strerror}") from None
    return f"{host}:{holder.getsockname()[1]}", holder


def write_ready_file(path: Path, address: str) -> None:
    """Write {"address", "pid" of this process} so that a reader sees all of it or no file."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(fd, "w") as file:
        json.dump({"address": address, "pid": os.getpid()}, file)
        file.write("\n")
    os.replace(name, path)


def _forget(path: Path) -> None:
    path.unlink(missing_ok=True)


def run(
    target: Target,
    *,
    listen: str,
    workers: int = 1,
    payload: Any = None,
    ready_file: Path | None = None,
    on_ready: Callable[[str], None] | None = None,
    companion: Target | None = None,
    settings: WorkerSettings | None = None,
) -> int:
    """Run `target(WorkerContext)` in `workers` processes until SIGTERM or SIGINT; returns the exit code.

    `companion` runs in one process more (`index` = `workers`), kept running likewise: for what a node needs once.
    `target` must be importable (a function of a module), `payload` picklable. 0: every worker drained by itself; 1: one
    had to be killed. Raises UsageError for an address or number that cannot work, WorkerFailedError when a worker
    cannot start.
    """
    if workers < 1:
        raise UsageError(f"--workers {workers}: must be at least 1")
    if listen.startswith("unix:") and workers > 1:
        raise UsageError(f"--workers {workers}: a Unix socket cannot be shared: use --workers 1 or --listen HOST:PORT")
    address, holder = reserve(listen)
    try:
        targets = [target] * workers + ([companion] if companion is not None else [])
        parent = _Parent(targets, address, workers, payload, settings or WorkerSettings(), shared=holder is not None)
        return asyncio.run(parent.run(ready_file, on_ready))
    finally:
        if holder is not None:
            holder.close()


class _Parent:
    def __init__(
        self, targets: list[Target], listen: str, workers: int, payload: Any, settings: WorkerSettings, *, shared: bool
    ) -> None:
        self._targets = targets
        self._listen = listen
        self._workers = workers
        self._payload = payload
        self._settings = settings
        self._shared = shared
        self._stop = asyncio.Event()
        self._running: dict[int, Process] = {}

    async def run(self, ready_file: Path | None, on_ready: Callable[[str], None] | None) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        if ready_file is not None:
            _forget(ready_file)
        keepers: list[asyncio.Task[None]] = []
        failure: CheckerError | None = None
        code = 0
        try:
            addresses = await self._start_all()
            if addresses is not None:
                if ready_file is not None:
                    write_ready_file(ready_file, addresses[0])
                _log.info("serving at %s with %d workers", addresses[0], self._workers)
                if on_ready is not None:
                    on_ready(addresses[0])
                keepers = [asyncio.create_task(self._keep(index)) for index in range(len(self._targets))]
                await self._stop.wait()
        except CheckerError as error:
            failure = error
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            if ready_file is not None:
                _forget(ready_file)
            code = await self._stop_all()
        if failure is not None:
            raise failure
        return code

    async def _start_all(self) -> list[str] | None:
        """All workers' addresses once all serve; None if a signal came first."""
        starts = [asyncio.create_task(self._start(index)) for index in range(len(self._targets))]
        stopped = asyncio.create_task(self._stop.wait())
        try:
            waiting: set[asyncio.Task[Any]] = {stopped, *starts}
            while not stopped.done() and not all(start.done() for start in starts):
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # the first failure ends it
            return [start.result() for start in starts] if all(start.done() for start in starts) else None
        finally:
            for task in (stopped, *starts):
                task.cancel()
            await asyncio.gather(stopped, *starts, return_exceptions=True)

    async def _start(self, index: int) -> str:
        """Start one worker; its address once it serves. WorkerFailedError with its message otherwise."""
        report, given = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", _BOOT, stdin=PIPE, stdout=None, stderr=None, pass_fds=(given,), process_group=0
            )
        except BaseException:
            os.close(report)
            raise
        finally:
            os.close(given)
        self._running[index] = process
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(report, "rb", buffering=0)
        )
        try:
            context = WorkerContext(index, self._workers, self._listen, self._shared, self._payload, given)
            work = pickle.dumps((self._targets[index], context))
            if process.stdin is not None:  # it is PIPE
                process.stdin.write(_LENGTH.pack(len(work)) + work)
                with contextlib.suppress(ConnectionError):  # it died at once; `report` says so below
                    await process.stdin.drain()
            async with asyncio.timeout(self._settings.start_seconds):
                line = await reader.readline()
        except TimeoutError:
            raise WorkerFailedError(
                f"worker {index} did not serve within {self._settings.start_seconds:g} s: see its log"
            ) from None
        finally:
            transport.close()
        said = json.loads(line) if line else {}
        if "address" in said:
            address: str = said["address"]
            return address
        code = await process.wait()
        raise WorkerFailedError(
            said.get("error") or f"worker {index} ended with code {code} before it served: see its log"
        )

    async def _keep(self, index: int) -> None:
        """Start worker `index` again whenever it ends, for ever."""
        loop = asyncio.get_running_loop()
        wait = self._settings.backoff
        while True:
            since = loop.time()
            code = await self._running[index].wait()
            if loop.time() - since >= self._settings.stable_seconds:
                wait = self._settings.backoff
            _log.error("worker %d ended with code %d; starting it again in %g s", index, code, wait)
            while True:
                await asyncio.sleep(wait)
                wait = min(wait * 2, self._settings.backoff_max)
                try:
                    await self._start(index)
                except WorkerFailedError as error:
                    await self._end(self._running[index], 0)
                    _log.error("worker %d cannot start; trying again in %g s: %s", index, wait, error)
                    continue
                _log.warning("worker %d serves again", index)
                break

    async def _stop_all(self) -> int:
        ended = await asyncio.gather(
            *(self._end(process, self._settings.stop_seconds) for process in self._running.values())
        )
        return 0 if all(ended) else 1

    async def _end(self, process: Process, seconds: float) -> bool:
        """SIGTERM, wait, SIGKILL; whether it ended by itself."""
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(seconds):
                    await process.wait()
            except TimeoutError:
                _log.error("worker with pid %d did not stop within %g s: killed", process.pid, seconds)
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
                return False
        return True


# -- in the worker

# The path first: the target's module may be found only through the parent's.
_BOOT = f"import sys; sys.path[:] = {sys.path!r}; from checker.rpc.workers import _work; _work()"


def _work() -> None:
    """A worker's whole life: read what to do, watch the parent, do it, say why not."""
    # Not sys.stdin: a thread waiting inside its lock would abort the interpreter's exit.
    (length,) = _LENGTH.unpack(_read(_LENGTH.size))
    target, context = pickle.loads(_read(length))  # noqa: S301 -- from our own parent, over a pipe nobody else holds
    threading.Thread(target=_watch_parent, daemon=True, name="parent-watch").start()
    try:
        target(context)
    except CheckerError as error:
        context._tell({"error": str(error)})  # noqa: SLF001 -- the same module's own field
        raise SystemExit(1) from None
    except Exception as error:  # noqa: BLE001 -- its text could quote anything: types and places only
        from checker.rpc.interceptors import describe  # here: the parent needs no gRPC

        _log.critical("worker %d fails: %s", context.index, describe(error))
        raise SystemExit(70) from None


def _read(count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = os.read(0, count - len(data))
        if not more:
            raise SystemExit(1)  # the parent died while speaking
        data += more
    return data


def _watch_parent() -> None:
    os.read(0, 1)  # returns only when the parent's end is closed: it has died
    os.kill(os.getpid(), signal.SIGTERM)
