"""One gRPC server in one process: start, readiness, drain.

Strategy: everything a served process needs and nothing it decides. A life has four steps:

1. `start`: bind (a stale Unix socket is replaced, one in use is refused), serve, then readiness says SERVING;
2. calls, wrapped by `interceptors.Guard`; health and reflection stay open to all;
3. `drain`: readiness says NOT_SERVING *first*; a pause lets load balancers notice while calls still succeed, and
   whoever wants to say good-bye to its callers (`on_drain`) does; then no new calls, streams are asked to end, and what
   is in progress may finish within the grace;
4. stop: what is left is cut off, and the log says how many calls that were.

Calls that cost only processor time wait inside gRPC before any handler runs, where no code of ours sees them. That
queue is kept short by `max_pending`; beyond it gRPC cancels calls by itself at almost no cost (the caller sees
CANCELLED, which the retry configuration of `client.py` asks again after a pause).
"""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import stat
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from checker.errors import UsageError
from checker.rpc.interceptors import ByName, Guard

_log = logging.getLogger("checker.rpc")

CHECK_SERVICE = "checker.v1.CheckService"
_SENDING = 2.0  # seconds for answers that are made when the grace ends
Register = Callable[[Any], None]
OnDrain = Callable[[], Awaitable[None]]


class ServerSettings(NamedTuple):
    """Times in seconds, sizes in bytes.

    `connection_age`: after this a client is asked to connect anew, so that load spreads over workers that joined later;
    calls on the old connection have `connection_grace` more, which must exceed a stream's lifetime. `drain_pause`:
    between NOT_SERVING and the first refused call. `drain_grace`: for calls in progress. `max_pending`: calls waiting
    in gRPC; above it more and more are cancelled, above twice that all.
    """

    max_message: int = 4 * 1024 * 1024
    connection_age: float = 600.0
    connection_grace: float = 330.0
    connection_streams: int = 1000
    max_pending: int = 500
    drain_pause: float = 1.0
    drain_grace: float = 10.0


class RpcServer:
    """A server that is not yet started.

    `register(registry)` calls the generated `add_…Servicer_to_server` functions. `shared_port`: several workers listen
    on the one port their parent has reserved; without it a port in use is refused. `on_drain`: awaited when readiness
    has said NOT_SERVING and calls still succeed; it must end by itself, soon.
    """

    def __init__(
        self,
        settings: ServerSettings,
        register: Register,
        guard: Guard,
        *,
        listen: str,
        credentials: grpc.ServerCredentials | None = None,
        services: Sequence[str] = (CHECK_SERVICE,),
        shared_port: bool = False,
        on_drain: OnDrain | None = None,
    ) -> None:
        self._settings = settings
        self._guard = guard
        self._listen = listen
        self._credentials = credentials
        self._services = services
        self._on_drain = on_drain
        self._server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", int(shared_port)),
                ("grpc.max_receive_message_length", settings.max_message),
                ("grpc.max_send_message_length", settings.max_message),
                ("grpc.max_connection_age_ms", int(settings.connection_age * 1000)),
                ("grpc.max_connection_age_grace_ms", int(settings.connection_grace * 1000)),
                ("grpc.max_concurrent_streams", settings.connection_streams),
                ("grpc.server.max_pending_requests", settings.max_pending),
                ("grpc.server.max_pending_requests_hard_limit", settings.max_pending * 2),
            ]
        )
        register(guard.protect(self._server))
        self.health = health.aio.HealthServicer()
        open_to_all = ByName(self._server, guard.wrap_open)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, open_to_all)
        names = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        # Not enable_server_reflection: it takes whatever is not grpc.aio.Server for a threaded one.
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            reflection.aio.ReflectionServicer(names), open_to_all
        )

    async def start(self) -> str:
        """Serve; returns the address, with the real port. UsageError if the address cannot be listened on."""
        for service in ("", *self._services):
            await self.health.set(service, health_pb2.HealthCheckResponse.NOT_SERVING)
        if self._listen.startswith("unix:"):
            remove_stale_socket(self._listen)
        try:
            if self._credentials is None:
                port = self._server.add_insecure_port(self._listen)
            else:
                port = self._server.add_secure_port(self._listen, self._credentials)
        except RuntimeError:
            raise UsageError(f"--listen {self._listen}: cannot be listened on: wrong, or in use by another") from None
        await self._server.start()
        await self.ready(serving=True)
        return self._listen if self._listen.startswith("unix:") else f"{self._listen.rpartition(':')[0]}:{port}"

    async def ready(self, *, serving: bool) -> None:
        """What readiness says from now on, for the whole server and for each service."""
        response = health_pb2.HealthCheckResponse
        for service in ("", *self._services):
            await self.health.set(service, response.SERVING if serving else response.NOT_SERVING)

    async def drain(self) -> int:
        """Stop without cutting what can finish; returns how many calls were cut off."""
        await self.ready(serving=False)
        pause = asyncio.create_task(asyncio.sleep(self._settings.drain_pause))
        if self._on_drain is not None:
            await self._on_drain()
        await pause
        grace = self._settings.drain_grace
        # From here on no new calls. A handler that has returned has not sent its answer yet: only gRPC knows when all
        # is sent, and then its stop returns by itself.
        stopping = asyncio.create_task(self._server.stop(grace + _SENDING))
        self._guard.end_streams()
        cut = await self._guard.wait_idle(grace)
        if cut:
            await self._server.stop(None)
        await stopping
        if cut:
            _log.warning("stopped: %d calls were cut off after %g s of grace", cut, grace)
        else:
            _log.info("stopped: every call in progress was finished")
        return cut


def remove_stale_socket(listen: str) -> None:
    """Delete the socket file of `unix:PATH` if nobody listens on it; UsageError if somebody does or it is no socket."""
    path = listen.removeprefix("unix:").removeprefix("//")
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if not os.path.isdir(os.path.dirname(path) or "."):
            raise UsageError(f"--listen {listen}: its folder does not exist: create it") from None
        return
    if not stat.S_ISSOCK(mode):
        raise UsageError(f"--listen {listen}: this file is no socket: choose another path")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError as error:
            if error.errno not in {errno.ECONNREFUSED, errno.ENOENT}:
                raise UsageError(f"--listen {listen}: cannot be used: {error.strerror}") from None
        else:
            raise UsageError(f"--listen {listen}: another process serves on it: stop that one or choose another path")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


async def serve(server: RpcServer, ready: Callable[[str], None]) -> int:
    """Start, call `ready(address)`, serve until SIGTERM or SIGINT, drain. Returns how many calls were cut off."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    address = await server.start()
    ready(address)
    await stop.wait()
    return await server.drain()
