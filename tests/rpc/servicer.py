"""A tiny CheckService over the real shell: what the tests of checker.rpc serve, in this process or in workers."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import grpc
import uvloop

from checker.errors import InvalidRequest
from checker.rpc.interceptors import Call, Guard, Limits, Observe, current_call
from checker.rpc.quota import Quota
from checker.rpc.roles import Callers, Roles, require_kind
from checker.rpc.server import OnDrain, RpcServer, ServerSettings, serve
from checker.rpc.tls import TlsFiles, server_credentials
from checker.rpc.workers import WorkerContext
from proto.checker.v1 import check_pb2, check_pb2_grpc

SECRET = "71000018800101001X"  # a number no text may ever show

QUICK = ServerSettings(drain_pause=0.05, drain_grace=5.0)


class Tiny(check_pb2_grpc.CheckServiceServicer):
    """Answers ALLOWED; item_id asks for trouble: `wait` until `released`, `boom`, `malformed`, `flight`."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.waiting = 0
        self.calls: list[Call] = []

    async def _answer(self, request: check_pb2.CheckRequest) -> check_pb2.CheckResponse:
        if request.item_id == "wait":
            self.waiting += 1
            await self.released.wait()
        if request.item_id == "boom":
            raise ValueError(f"about {SECRET}")
        if request.item_id == "malformed":
            raise InvalidRequest([("purchase.train.train_code", "is missing: send the printed code")])
        if request.purchase.WhichOneof("kind"):
            require_kind(current_call().caller, str(request.purchase.WhichOneof("kind")))
        return check_pb2.CheckResponse(
            item_id=request.item_id, outcome=check_pb2.OUTCOME_ALLOWED, rulebook_version=str(os.getpid())
        )

    async def Check(self, request: check_pb2.CheckRequest, context: Any) -> check_pb2.CheckResponse:
        self.calls.append(current_call())
        return await self._answer(request)

    async def BatchCheck(self, request: check_pb2.BatchCheckRequest, context: Any) -> check_pb2.BatchCheckResponse:
        return check_pb2.BatchCheckResponse(items=[await self._answer(item) for item in request.items])

    async def StreamCheck(self, request_iterator: Any, context: Any) -> AsyncIterator[check_pb2.CheckResponse]:
        async for request in request_iterator:
            yield await self._answer(request)

    async def GetRulebook(self, request: Any, context: Any) -> check_pb2.GetRulebookResponse:
        return check_pb2.GetRulebookResponse(version="1")


class Writing(Tiny):
    """The same, its stream answered by tasks that write as soon as each answer is known."""

    async def StreamCheck(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]
        async def one(request: check_pb2.CheckRequest) -> None:
            await context.write(await self._answer(request))

        async with asyncio.TaskGroup() as group:
            async for request in request_iterator:
                group.create_task(one(request))


class Served(NamedTuple):
    address: str
    servicer: Tiny
    guard: Guard
    server: RpcServer


@asynccontextmanager
async def served(
    callers: Callers | None = None,
    *,
    servicer: Tiny | None = None,
    quota: Quota | None = None,
    limits: Limits | None = None,
    settings: ServerSettings = QUICK,
    credentials: grpc.ServerCredentials | None = None,
    listen: str = "127.0.0.1:0",
    observe: Observe | None = None,
    on_drain: OnDrain | None = None,
) -> AsyncIterator[Served]:
    """A server in this process; released and drained at the end."""
    guard = Guard(callers or Callers.plaintext(loopback=True), quota=quota, limits=limits, observe=observe)
    tiny = servicer or Tiny()
    server = RpcServer(
        settings,
        lambda registry: check_pb2_grpc.add_CheckServiceServicer_to_server(tiny, registry),
        guard,
        listen=listen,
        credentials=credentials,
        on_drain=on_drain,
    )
    address = await server.start()
    try:
        yield Served(address, tiny, guard, server)
    finally:
        tiny.released.set()
        await server.drain()


class Job(NamedTuple):
    """What a worker of the tests is told."""

    roles: Roles = Roles()
    quota: Any = None  # path
    tls: TlsFiles | None = None
    wait: float = 0.0
    arrivals: str = ""  # path of a file that gets a byte for each check
    pause: float = 0.1
    fail: str = ""


class Slow(Tiny):
    """Takes `seconds` for each check, and says in a file that it has come."""

    def __init__(self, seconds: float, arrivals: str = "") -> None:
        super().__init__()
        self._seconds = seconds
        self._arrivals = os.open(arrivals, os.O_CREAT | os.O_WRONLY | os.O_APPEND) if arrivals else None

    async def _answer(self, request: check_pb2.CheckRequest) -> check_pb2.CheckResponse:
        if self._arrivals is not None:
            os.write(self._arrivals, b".")
        await asyncio.sleep(self._seconds)
        return await super()._answer(request)


def work(context: WorkerContext) -> None:
    """A worker: the tiny service on the parent's port."""
    job: Job = context.payload
    if job.fail == "usage":
        raise InvalidRequest([("worker", "was told to fail")])
    if job.fail == "crash":
        raise ValueError(SECRET)
    if job.fail == "exit":
        os._exit(3)

    async def main() -> None:
        quota = Quota(job.quota, job.roles) if job.quota else None
        if job.tls:
            callers = Callers.tls(job.roles)
        else:
            callers = Callers.plaintext(loopback=job.roles.anonymous is None, roles=job.roles)
        slow = Slow(job.wait, job.arrivals)
        server = RpcServer(
            ServerSettings(drain_pause=job.pause, drain_grace=15.0),
            lambda registry: check_pb2_grpc.add_CheckServiceServicer_to_server(slow, registry),
            Guard(callers, quota=quota),
            listen=context.listen,
            credentials=server_credentials(job.tls) if job.tls else None,
            shared_port=context.shared_port,
        )
        await serve(server, context.ready)

    uvloop.run(main())
