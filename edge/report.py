"""How this edge is doing: for its operator (`edge status`), and every ten seconds for the centre's (`checker fleet`).

Numbers only. A report that does not arrive is counted and nothing more: nothing depends on it.
"""

import asyncio
import logging
import math
import random
from collections.abc import Callable
from importlib.metadata import version

import grpc.aio

from edge.centre import Centre
from edge.journal import position_message
from edge.live import Numbers
from edge.sync import Sync
from proto.checker.v1 import filter_pb2 as pb
from proto.checker.v1 import filter_pb2_grpc

REPORT_S = 10.0
_CALL_S = 5.0
_log = logging.getLogger("edge.report")


class Reporter:
    """Makes the edge's status and sends it; of the processes that share a data directory one does so.

    `numbers`: of all its processes (None: of this one); `advice`: questions waiting to be asked again, and dropped.
    """

    def __init__(
        self,
        sync: Sync,
        centre: Centre,
        *,
        numbers: Callable[[], Numbers] | None = None,
        advice: Callable[[], tuple[int, int]] = lambda: (0, 0),
        every_s: float = REPORT_S,
    ) -> None:
        self.sent = 0
        self.failed = 0
        self._sync = sync
        self._centre = centre
        self._numbers = numbers or (lambda: sync.live.numbers)
        self._advice = advice
        self._every_s = every_s
        self._version = version("xianxiao")
        self._task: asyncio.Task[None] | None = None

    def status(self) -> pb.EdgeStatus:
        """How the edge is doing now."""
        sync, live = self._sync, self._sync.live
        numbers = self._numbers()
        waiting, dropped = self._advice()
        status = pb.EdgeStatus(
            edge_id=sync.store.edge_id,
            name=sync.name[:64],
            version=self._version,
            centre=live.centre,
            checks=numbers.checks,
            hits=numbers.hits,
            false_positives=numbers.false_positives,
            stand_ins=numbers.stand_ins,
            advice_waiting=waiting,
            advice_dropped=dropped,
            canary_in_filter=sync.canary_in_filter,
            rulebook_version=live.view.rulebook.version,
            overlay=live.size[1],
            alarms=[live.alarms[about] for about in sorted(live.alarms)],
        )
        if sync.snapshot is not None and sync.position is not None:
            as_of = live.view.as_of
            status.centre_id = sync.snapshot.header.centre_id
            status.epoch = as_of.snapshot_epoch
            status.position.CopyFrom(position_message(sync.position))
            status.feed_sequence = as_of.feed_sequence
        lag_ms = live.lag_ms()
        if lag_ms < math.inf:
            status.lag.FromMilliseconds(int(lag_ms))
        if sync.canary_ms:
            status.canary_time.FromMilliseconds(sync.canary_ms)
        return status

    def start(self) -> None:
        """Begin to report."""
        self._task = asyncio.create_task(self._report_forever(), name="report")

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _report_forever(self) -> None:
        turn = random.randrange(len(self._centre.addresses))  # noqa: S311 - spreads load
        while True:
            await asyncio.sleep(self._every_s * random.uniform(0.5, 1.5))  # noqa: S311 - spreads load
            if not self._sync.leads:
                continue
            try:
                address = self._centre.addresses[turn % len(self._centre.addresses)]
                stub = filter_pb2_grpc.FilterServiceStub(self._centre.channel(address, "watch"))
                await stub.ReportStatus(pb.ReportStatusRequest(status=self.status()), timeout=_CALL_S)
                self.sent += 1
            except grpc.aio.AioRpcError:
                self.failed += 1
                turn += 1  # another address may be better off
            except Exception as error:  # noqa: BLE001 - a report is not worth a task
                self.failed += 1
                _log.error("report: unexpected error", exc_info=error)
