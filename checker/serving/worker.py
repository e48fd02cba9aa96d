"""One worker process of `checker serve`, put together; and the companion: filter file, epochs, metrics page.

    index -> follower -> LiveFilter <- CheckServicer -> IndexSettler -> index
                 |                          |-> EvidenceSpool
                 |-----> Hub <- FilterServicer -> publications

The parent (`checker.rpc.workers`) runs `work` in N processes and `accompany` in one more. A companion that dies is
started again; meanwhile the workers go on with the filter they have.
"""

import asyncio
import contextlib
import gc
import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from checker import keys as key_files
from checker import logs, metrics, rulebooks
from checker.config import Settings
from checker.core.freshness import AsOf
from checker.core.key import DigestKey
from checker.core.lookup import EVERYTHING, View
from checker.core.rules import Rulebook
from checker.errors import IndexUnavailable
from checker.index.base import ExactIndex, IndexKey
from checker.index.urls import open_index
from checker.rpc import run_dir
from checker.rpc.interceptors import Guard, Limits
from checker.rpc.live_filter import LiveFilter
from checker.rpc.quota import Alarm, Quota
from checker.rpc.roles import Roles, load_roles
from checker.rpc.server import CHECK_SERVICE, RpcServer, ServerSettings, serve
from checker.rpc.servicer import CheckServicer
from checker.rpc.tls import callers_for, server_credentials
from checker.rpc.workers import WorkerContext
from checker.serving import filter_file, metrics_page
from checker.serving.evidence import EvidenceSpool
from checker.serving.filter_service import FILTER_SERVICE, Admitted, FilterServicer
from checker.serving.follower import Follower
from checker.serving.hub import Hub
from checker.serving.keeper import Keeper
from checker.serving.node import Node, tls_files
from checker.serving.publisher import Publisher
from checker.serving.settle import IndexSettler, wall_clock_ms
from proto.checker.v1 import check_pb2_grpc, filter_pb2_grpc

REPORT_S = 1.0
"""Between two writings of a worker's numbers."""
_log = logging.getLogger("checker.serve")


def _filter_path(node: Node) -> Path:
    """The node's filter file; what lives in memory only has one of its own, gone with it."""
    return filter_file.path_in(node.run_dir if node.settings.index.startswith("memory:") else node.settings.state)


def _open_key(settings: Settings) -> tuple[key_files.KeyFile, DigestKey, IndexKey]:
    keys = key_files.load(settings.keys)
    key = keys.digest_key
    return keys, key, IndexKey(key.key_id, key.check_value)


async def open_with_patience(index: ExactIndex, key: IndexKey, patience_s: float) -> None:
    """Open an index that may still be starting. Raises IndexUnavailable after `patience_s`, IndexRefused at once."""
    until = time.monotonic() + patience_s
    while True:
        try:
            await index.open(key, create=True)
            return
        except IndexUnavailable:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.2)


def work(context: WorkerContext) -> None:
    """A worker's whole life."""
    node: Node = context.payload
    logs.configure(node.settings.log_format, node.settings.log_level)
    run_dir.hold(node.run_dir)
    uvloop.run(_work(context, node))


async def _work(context: WorkerContext, node: Node) -> None:
    settings = node.settings
    keys, key, index_key = _open_key(settings)
    rulebook = rulebooks.load(settings.rulebook)
    index = open_index(settings.index, settings.index_timeout_ms / 1000)
    try:
        await open_with_patience(index, index_key, 15)
        live = LiveFilter(View(rulebook, key, EVERYTHING, AsOf(0, 0, 0, 0), settings.limits))
        keeping: list[asyncio.Task[None]] = []
        stop_page: Callable[[], None] | None = None
        if settings.index.startswith("memory:"):
            keeping = await _keep_here(index, keys, key, rulebook, node)
            stop_page = _metrics_page(node)
        hub = Hub(index, index.publications, key, live)
        follower = Follower(index, live, hub, key, _filter_path(node))
        await follower.start()
        await hub.start()
        evidence = EvidenceSpool(settings.state / "evidence", keys.evidence_key, retention_days=settings.evidence_days)
        settler = IndexSettler(index, live, settings.index_timeout_ms / 1000)
        servicer = CheckServicer(live, settler, evidence.record)
        admitted = Admitted(settings.max_downloads, settings.max_watchers)
        filters = FilterServicer(hub, index.publications, keys, admitted)
        alarm = Alarm(_log)
        calls = metrics.Calls()
        guard = _guard(context, node, calls, alarm)
        tls = tls_files(settings)

        def register(registry: Any) -> None:
            check_pb2_grpc.add_CheckServiceServicer_to_server(servicer, registry)
            filter_pb2_grpc.add_FilterServiceServicer_to_server(filters, registry)

        server = RpcServer(
            ServerSettings(drain_pause=settings.drain_pause_ms / 1000, drain_grace=settings.drain_grace_ms / 1000),
            register,
            guard,
            listen=context.listen,
            services=(CHECK_SERVICE, FILTER_SERVICE),
            on_drain=hub.sign_off,
            shared_port=context.shared_port,
            credentials=server_credentials(tls) if tls is not None else None,
        )
        numbers = _Numbers(servicer, settler, evidence, follower, live, hub, filters, guard, calls, alarm)
        reporting = asyncio.create_task(_report(node, context.index, numbers))
        _settle_garbage()
        try:
            await serve(server, context.ready)
        finally:
            for task in (reporting, *keeping):
                task.cancel()
            await follower.stop()
            await hub.stop()
            if stop_page is not None:
                await asyncio.to_thread(stop_page)
            numbers.write(node.run_dir, context.index)
            await asyncio.to_thread(evidence.close)
    finally:
        await index.close()


def _settle_garbage() -> None:
    """What is loaded by now lives as long as the process: keep the collector from walking it on the request path."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


async def _keep_here(
    index: ExactIndex, keys: key_files.KeyFile, key: DigestKey, rulebook: Rulebook, node: Node
) -> list[asyncio.Task[None]]:
    """memory: lives in this process alone, so its feed, its filter and its epochs are kept here too."""
    if node.fill is not None:
        await node.fill(index, node.settings, keys)
    keeper, publisher = _keepers(index, keys, key, rulebook, node)
    await keeper.ensure()
    return _at_work(keeper, publisher)


def _keepers(
    index: ExactIndex, keys: key_files.KeyFile, key: DigestKey, rulebook: Rulebook, node: Node
) -> tuple[Keeper, Publisher]:
    settings = node.settings
    error_rate = settings.filter_error_rate
    return (
        Keeper(index, key, rulebook, _filter_path(node), error_rate),
        Publisher(index, keys, rulebook, error_rate, settings.snapshot_hours),
    )


def _at_work(keeper: Keeper, publisher: Publisher) -> list[asyncio.Task[None]]:
    return [
        asyncio.create_task(keeper.run(), name="keeper"),
        asyncio.create_task(publisher.run(), name="publisher"),
    ]


def _guard(context: WorkerContext, node: Node, calls: metrics.Calls, alarm: Alarm) -> Guard:
    settings = node.settings
    given = load_roles(settings.roles) if settings.roles is not None else None
    callers, roles = callers_for(context.listen, tls_files(settings), given), given or Roles()
    return Guard(
        callers,
        quota=Quota(node.quota, roles, on_refused=alarm) if roles.limited() else None,
        limits=Limits(min_budget=settings.min_budget_ms / 1000, in_flight=settings.max_in_flight),
        observe=calls.observe,
    )


@dataclass(frozen=True)
class _Numbers:
    """Where a worker's numbers are counted."""

    servicer: CheckServicer
    settler: IndexSettler
    evidence: EvidenceSpool
    follower: Follower
    live: LiveFilter
    hub: Hub
    filters: FilterServicer
    guard: Guard
    calls: metrics.Calls
    alarm: Alarm

    def write(self, directory: Path, worker: int) -> None:
        """Write the worker's metrics file."""
        answers, settler, as_of = self.servicer.answers, self.settler, self.live.view.as_of
        counters: metrics.Snapshot = {
            "checker_answers": [
                ([outcome.name, reason.name, by.name], number)
                for (outcome, reason, by), number in answers.given.items()
            ],
            "checker_advisories": [([advisory.name], number) for advisory, number in answers.advisories.items()],
            "checker_calls": [([*called], series.calls) for called, series in self.calls.by_status.items()],
            "checker_items": [([*called], series.items) for called, series in self.calls.by_status.items()],
            "checker_index_keys": [
                (["listed"], settler.listed),
                (["not_listed"], settler.read - settler.listed - settler.unread),
                (["unread"], settler.unread),
            ],
            "checker_quota_refused": [([caller], number) for caller, number in self.alarm.refused.items()],
            "checker_evidence": [(["written"], self.evidence.written), (["dropped"], self.evidence.dropped)],
            "checker_filter_swaps": [([], self.follower.swaps)],
            "checker_edges_refused": [([method], number) for method, number in self.filters.refused.items()],
        }
        now_ms = wall_clock_ms()
        overlaid = self.live.size
        gauges: metrics.Snapshot = {
            "checker_feed_sequence": [([], as_of.feed_sequence)],
            "checker_feed_age_seconds": [([], (now_ms - as_of.feed_time_ms) / 1000 if as_of.feed_time_ms else -1)],
            "checker_feed_gap_seconds": [([], (now_ms - as_of.gap_since_ms) / 1000 if as_of.gap_since_ms else 0)],
            "checker_index_silence_seconds": [([], time.monotonic() - self.follower.last_contact)],
            "checker_filter_keys": [([], overlaid[0])],
            "checker_filter_overlay_keys": [([], overlaid[1])],
            "checker_calls_in_progress": [([], self.guard.live)],
            "checker_edges_watching": [([], self.hub.watchers)],
            "checker_edges_downloading": [([], self.filters.downloads)],
        }
        metrics.write(directory, worker, counters, gauges, self.calls)


async def _report(node: Node, worker: int, numbers: _Numbers) -> None:
    warned = False
    while True:
        with contextlib.suppress(OSError):  # a full disk must not end the serving
            await asyncio.to_thread(numbers.write, node.run_dir, worker)
        as_of = numbers.live.view.as_of
        silent_ms = wall_clock_ms() - as_of.feed_time_ms
        late = bool(as_of.feed_time_ms) and silent_ms > node.settings.limits.warn_ms
        if late and not warned:
            _log.warning("the court feed is silent", extra={"seconds": silent_ms // 1000})
        warned = late
        await asyncio.sleep(REPORT_S)


def accompany(context: WorkerContext) -> None:
    """The companion's whole life: ready once a filter file is there."""
    node: Node = context.payload
    logs.configure(node.settings.log_format, node.settings.log_level)
    run_dir.hold(node.run_dir)
    uvloop.run(_accompany(context, node))


def _metrics_page(node: Node) -> Callable[[], None] | None:
    listen = node.settings.metrics_listen
    return metrics_page.start(listen, node.run_dir) if listen else None


async def _accompany(context: WorkerContext, node: Node) -> None:
    settings = node.settings
    keys, key, index_key = _open_key(settings)
    rulebook = rulebooks.load(settings.rulebook)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    stop_page = _metrics_page(node)
    index = open_index(settings.index)
    try:
        await open_with_patience(index, index_key, 15)
        keeper, publisher = _keepers(index, keys, key, rulebook, node)
        await keeper.ensure()
        context.ready("")
        working = _at_work(keeper, publisher)
        waiting = asyncio.create_task(stop.wait())
        await asyncio.wait({*working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        for task in working:
            if task.done():
                task.result()  # a bug: end with its traceback's frames, to be started again
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
    finally:
        if stop_page is not None:
            stop_page()
        await index.close()
