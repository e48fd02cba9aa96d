"""EdgeService: what an edge node tells its seller beside CheckService: later word on UNKNOWNs, and how it is doing."""

import contextlib
from typing import Any, TypeAlias

import grpc.aio

from checker import wire
from checker.core.decision import AnsweredBy, Decision
from checker.core.freshness import AsOf
from checker.rpc.interceptors import current_call
from edge.advice import Advice, AdviceQueue
from edge.live import Live
from edge.report import Reporter
from proto.checker.v1 import edge_pb2 as pb
from proto.checker.v1 import edge_pb2_grpc

EDGE_SERVICE = "checker.v1.EdgeService"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class EdgeServicer(edge_pb2_grpc.EdgeServiceServicer):
    """See the module. Each seller hears of its own questions only."""

    def __init__(self, live: Live, advice: AdviceQueue, reporter: Reporter) -> None:
        self._live = live
        self._advice = advice
        self._reporter = reporter

    # It writes instead of yielding, so that what was not handed over goes back the moment a watcher has gone.
    async def WatchAdvice(self, request: pb.WatchAdviceRequest, context: Context) -> None:  # type: ignore[override]
        caller = current_call().caller.name
        async with contextlib.aclosing(self._advice.watch(caller)) as outcomes:
            async for advice in outcomes:
                await context.write(self._message(advice))

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:
        return pb.GetStatusResponse(status=self._reporter.status())

    def _message(self, advice: Advice) -> pb.Advice:
        message = pb.Advice(decision_id=advice.decision_id)
        message.ask_time.FromMilliseconds(advice.asked_ms)
        told = wire.for_seller(Decision(advice.outcome, advice.reason, AnsweredBy.INDEX))
        renderer = wire.Renderer(self._live.view.rulebook, AsOf(0, 0, 0, 0), advice.settled_ms)
        renderer.write(message.answer, told)
        message.answer.decision_id = advice.centre_decision_id
        return message
