"""One worker process of `edge serve`: CheckService as the checker's own, answered from this machine.

    CheckServicer -> Live (snapshot on disk, mapped by all workers) -> EdgeSettler -> centre
    EdgeServicer  -> advice queue, status

It serves from the first moment: without a snapshot everything is asked, without the centre the stand-in table answers.
"""

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import uvloop

from checker import keys as key_files
from checker import logs
from checker.core.decision import Decision
from checker.core.lookup import View
from checker.errors import CheckerError, UsageError
from checker.rpc import run_dir
from checker.rpc.interceptors import Guard, Limits
from checker.rpc.quota import Alarm, Quota
from checker.rpc.roles import Roles, load_roles
from checker.rpc.server import CHECK_SERVICE, RpcServer, ServerSettings, serve
from checker.rpc.servicer import Answers, CheckServicer, Refusal
from checker.rpc.tls import callers_for, is_loopback, server_credentials
from checker.rpc.workers import WorkerContext
from edge.assembly import Edge
from edge.centre import Centre, ClientTls
from edge.config import Settings
from edge.live import Live, Numbers
from edge.service import EDGE_SERVICE, EdgeServicer
from edge.totals import Totals
from proto.checker.v1 import check_pb2_grpc, edge_pb2_grpc, filter_pb2, filter_pb2_grpc

WRITE_S = 1.0
"""Between two writings of a worker's numbers."""
FETCH_S = 15.0
"""How long fetching the key file may take, the centre's start included."""
_log = logging.getLogger("edge.serve")


@dataclass(frozen=True)
class Node:
    """What every worker of the node is started with: settings, and the folder of this start."""

    settings: Settings
    run_dir: Path

    @property
    def quota(self) -> Path:
        """The node-wide quota file."""
        return self.run_dir / "quota"

    @property
    def totals(self) -> Path:
        """The workers' numbers."""
        return self.run_dir / "totals"


def work(context: WorkerContext) -> None:
    """A worker's whole life."""
    node: Node = context.payload
    logs.configure(node.settings.log_format, node.settings.log_level)
    run_dir.hold(node.run_dir)
    uvloop.run(_work(context, node))


async def _work(context: WorkerContext, node: Node) -> None:
    settings = node.settings
    totals = Totals(node.totals, context.index)
    edge = Edge(
        settings.centres,
        settings.directory,
        key_files.load_edge(settings.keys),
        settings.centre_tls,
        name=settings.name,
        settings=settings.answers,
        totals=totals,
    )
    try:
        await edge.open()
        checks = CheckServicer(_Looked(edge.live), edge.settle, _keep_nothing)
        checks.answers = _Counted(edge.live.numbers)
        about = EdgeServicer(edge.live, edge.advice, edge.reporter)

        def register(registry: Any) -> None:
            check_pb2_grpc.add_CheckServiceServicer_to_server(checks, registry)
            edge_pb2_grpc.add_EdgeServiceServicer_to_server(about, registry)

        tls = settings.tls
        server = RpcServer(
            ServerSettings(drain_pause=settings.drain_pause_ms / 1000, drain_grace=settings.drain_grace_ms / 1000),
            register,
            _guard(context, node),
            listen=context.listen,
            credentials=server_credentials(tls) if tls is not None else None,
            services=(CHECK_SERVICE, EDGE_SERVICE),
            shared_port=context.shared_port,
        )
        writing = asyncio.create_task(_write(edge), name="totals")
        gc.collect()
        gc.freeze()  # what is loaded by now lives as long as the process
        try:
            await serve(server, context.ready)
        finally:
            writing.cancel()
            edge.count()
    finally:
        await edge.close()


def _guard(context: WorkerContext, node: Node) -> Guard:
    settings = node.settings
    given = load_roles(settings.roles) if settings.roles is not None else None
    roles = given or Roles()
    return Guard(
        callers_for(context.listen, settings.tls, given),
        quota=Quota(node.quota, roles, on_refused=Alarm(_log)) if roles.limited() else None,
        limits=Limits(min_budget=settings.min_budget_ms / 1000, in_flight=settings.max_in_flight),
    )


async def _write(edge: Edge) -> None:
    while True:
        edge.count()
        await asyncio.sleep(WRITE_S)


def _keep_nothing(refusal: Refusal) -> None:
    """An edge keeps no evidence: what is barred was decided at the centre, what is UNKNOWN waits as advice."""


class _Looked:
    """`Live` as the servicer reads it: its view after a look at the clock."""

    def __init__(self, live: Live) -> None:
        self._live = live

    @property
    def view(self) -> View:
        """What checks look at right now."""
        live = self._live
        if time.time_ns() // 1_000_000 >= live.fresh_until_ms:
            live.refresh()
        return live.view


class _Counted(Answers):
    """Counts into the edge's numbers too."""

    def __init__(self, numbers: Numbers) -> None:
        super().__init__()
        self._numbers = numbers

    def count(self, decision: Decision) -> None:
        """One answer more."""
        self._numbers.checks += 1
        super().count(decision)


# --- the key file


def require_keys(path: Path, centre: Sequence[str], tls: ClientTls | None) -> bool:
    """Whether the key file must be fetched. Raises UsageError: it is wrong, or missing and may not be fetched."""
    if path.exists():
        key_files.load_edge(path)
        return False
    mutual = tls is not None and tls.cert is not None
    if mutual or (tls is None and all(map(is_loopback, centre))):
        return True
    raise UsageError(
        f"key file {path} does not exist: the operator of the centre makes one with `checker keys export-edge`; it is "
        "fetched only over mutual TLS (--centre-ca, --centre-cert and --centre-key), for it is as secret as the list"
    )


async def fetch_keys(path: Path, centre: Sequence[str], tls: ClientTls | None) -> None:
    """Fetch the key file from the centre and write it with mode 600. Raises CheckerError."""
    channels = Centre(centre, tls)
    failures = []
    try:
        for address in channels.addresses:
            stub = filter_pb2_grpc.FilterServiceStub(channels.channel(address, "keys"))
            try:
                response = await stub.GetEdgeKeys(
                    filter_pb2.GetEdgeKeysRequest(), timeout=FETCH_S / len(centre), wait_for_ready=True
                )
            except grpc.aio.AioRpcError as error:
                failures.append(f"centre {address}: no key file: {error.code().name}: {error.details() or ''}")
                continue
            with contextlib.suppress(FileExistsError):
                path.parent.mkdir(parents=True, mode=0o700)
            key_files.save_edge(path, response.key_file)
            return
        raise CheckerError("\n".join(failures))
    finally:
        await channels.close()
