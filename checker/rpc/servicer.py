"""CheckService over whatever answers `NeedExact`: the checker's index, or an edge's road to the centre.

    wire.query -> lookup.begin -> (settle what needs the exact index) -> wire.Renderer

The servicer knows roles, batches and streams; it does not know how a question is settled, where time comes from or
where evidence goes: those are handed in. A question is settled once per batch, and items that the filter cleared are
answered whatever becomes of the others.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import NamedTuple

import grpc.aio
from google.rpc.status_pb2 import Status

from checker import wire
from checker.core import trace
from checker.core.decision import Advisory, AnsweredBy, Decision, Outcome, Reason
from checker.core.freshness import AsOf
from checker.core.lookup import NeedExact, Query, View, begin
from checker.errors import InvalidRequest, PermissionDenied
from checker.rpc.decision_id import new_decision_id
from checker.rpc.interceptors import Call, current_call
from checker.rpc.live_filter import LiveFilter
from checker.rpc.roles import require_document, require_key, require_kind
from proto.checker.v1 import check_pb2 as pb
from proto.checker.v1 import check_pb2_grpc


class Settled(NamedTuple):
    """The answers to some `NeedExact`, in order, and how fresh the data behind them was."""

    decisions: Sequence[Decision]
    as_of: AsOf


Settle = Callable[[Sequence[NeedExact], float], Awaitable[Settled]]
"""Conclude these questions by this event-loop time (math.inf: no deadline). Never raises for a store out of reach."""


class Refusal(NamedTuple):
    """What is kept of a BARRED or UNKNOWN: enough to explain it, nothing that names anybody."""

    decision_id: str
    time_ms: int
    decision: Decision
    keys: tuple[bytes, ...]
    key_id: str
    purchase: str  # the kind asked about
    act_ms: int
    service_ms: int
    rulebook_version: str
    rulebook_sha256: bytes
    as_of: AsOf
    caller: str


class Answers:
    """Counters of what was answered: all that an ALLOWED leaves behind."""

    __slots__ = ("advisories", "given")

    def __init__(self) -> None:
        self.given: Counter[tuple[Outcome, Reason, AnsweredBy]] = Counter()
        self.advisories: Counter[Advisory] = Counter()

    def count(self, decision: Decision) -> None:
        """One answer more."""
        self.given[decision.outcome, decision.reason, decision.answered_by] += 1
        if decision.advisories:
            self.advisories.update(decision.advisories)


class _Item(NamedTuple):
    """One item on its way: a decision, a question still open, or an error."""

    step: Decision | NeedExact | Status
    query: Query | None


class CheckServicer(check_pb2_grpc.CheckServiceServicer):
    """See the module. `record` takes refusals off the hot path; it must be quick and never raise."""

    def __init__(
        self,
        live: LiveFilter,
        settle: Settle,
        record: Callable[[Refusal], None],
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._live = live
        self._settle = settle
        self._record = record
        self._clock_ms = clock_ms
        self.answers = Answers()

    async def Check(
        self, request: pb.CheckRequest, context: grpc.aio.ServicerContext[pb.CheckRequest, pb.CheckResponse]
    ) -> pb.CheckResponse:
        call = current_call()
        now_ms = self._clock_ms()
        view = self._live.view
        try:
            query = _ask(request, call, view, now_ms)
        except wire.Malformed as error:
            raise InvalidRequest(error.violations) from None
        step = begin(query, view, now_ms)
        return await self._conclude(request, query, step, view, call, now_ms)

    async def BatchCheck(
        self,
        request: pb.BatchCheckRequest,
        context: grpc.aio.ServicerContext[pb.BatchCheckRequest, pb.BatchCheckResponse],
    ) -> pb.BatchCheckResponse:
        call = current_call()
        asked = request.items
        if not 1 <= len(asked) <= wire.MAX_BATCH:
            raise InvalidRequest([("items", f"must be 1 to {wire.MAX_BATCH}, not {len(asked)}: split the batch")])
        now_ms = self._clock_ms()
        view = self._live.view
        items = [_item(item, call, view, now_ms) for item in asked]
        needs = [item.step for item in items if isinstance(item.step, NeedExact)]
        settled = Settled((), view.as_of)
        if needs:
            settled = await self._settle(needs, call.deadline)
        late = iter(settled.decisions)
        at_once = wire.Renderer(view.rulebook, view.as_of, now_ms)
        later = wire.Renderer(view.rulebook, settled.as_of, now_ms)
        response = pb.BatchCheckResponse()
        add = response.items.add
        for source, item in zip(asked, items, strict=True):
            step = item.step
            answer = add()
            if isinstance(step, Decision):
                at_once.merge(answer, step)
                answer.item_id = source.item_id
                self._note(answer, source, item.query, step, step, view, view.as_of, call, now_ms)
            elif isinstance(step, NeedExact):
                decision = next(late)
                shown = decision if call.caller.detail else wire.for_seller(decision)
                later.merge(answer, shown)
                answer.item_id = source.item_id
                self._note(answer, source, item.query, step, decision, view, settled.as_of, call, now_ms)
            else:
                answer.error.CopyFrom(step)
                answer.item_id = source.item_id
        return response

    # It writes instead of yielding, so that a question still open never holds back the answers behind it.
    async def StreamCheck(  # type: ignore[override]
        self,
        request_iterator: AsyncIterator[pb.CheckRequest],
        context: grpc.aio.ServicerContext[pb.CheckRequest, pb.CheckResponse],
    ) -> None:
        call = current_call()
        one_writer = asyncio.Lock()  # a stream's messages are written one at a time

        async def write(response: pb.CheckResponse) -> None:
            async with one_writer:
                await context.write(response)

        async def settle(request: pb.CheckRequest, item: _Item, view: View, now_ms: int) -> None:
            assert item.query is not None  # noqa: S101 - only questions that could be asked are open
            assert isinstance(item.step, NeedExact)  # noqa: S101 - likewise
            await write(await self._conclude(request, item.query, item.step, view, call, now_ms))

        async with asyncio.TaskGroup() as open_questions:
            async for request in request_iterator:
                now_ms = self._clock_ms()
                view = self._live.view
                item = _item(request, call, view, now_ms)
                if isinstance(item.step, NeedExact):
                    open_questions.create_task(settle(request, item, view, now_ms))
                elif isinstance(item.step, Decision) and item.query is not None:
                    await write(await self._conclude(request, item.query, item.step, view, call, now_ms))
                else:
                    await write(pb.CheckResponse(item_id=request.item_id, error=item.step))

    async def GetRulebook(
        self,
        request: pb.GetRulebookRequest,
        context: grpc.aio.ServicerContext[pb.GetRulebookRequest, pb.GetRulebookResponse],
    ) -> pb.GetRulebookResponse:
        rulebook = self._live.view.rulebook
        return pb.GetRulebookResponse(version=rulebook.version, sha256=rulebook.sha256, toml=rulebook.source)

    async def _conclude(
        self,
        request: pb.CheckRequest,
        query: Query,
        step: Decision | NeedExact,
        view: View,
        call: Call,
        now_ms: int,
    ) -> pb.CheckResponse:
        as_of = view.as_of
        if isinstance(step, NeedExact):
            settled = await self._settle((step,), call.deadline)
            decision, as_of = settled.decisions[0], settled.as_of
        else:
            decision = step
        response = pb.CheckResponse(item_id=request.item_id)
        shown = decision if call.caller.detail else wire.for_seller(decision)
        wire.Renderer(view.rulebook, as_of, now_ms).fill(response, shown)
        self._note(response, request, query, step, decision, view, as_of, call, now_ms)
        return response

    def _note(
        self,
        answer: pb.CheckResponse,
        request: pb.CheckRequest,
        query: Query | None,
        step: Decision | NeedExact,
        decision: Decision,
        view: View,
        as_of: AsOf,
        call: Call,
        now_ms: int,
    ) -> None:
        """Count the answer, keep evidence of a refusal, and tell the operator how it came about when asked to."""
        self.answers.count(decision)
        if wire.needs_decision_id(decision):
            answer.decision_id = new_decision_id(now_ms)
            self._record(_refusal(answer.decision_id, request, query, step, decision, view, as_of, call, now_ms))
        if request.with_trace and call.caller.detail and query is not None:
            for taken in trace.steps(query, view, now_ms, time.perf_counter_ns):
                answer.trace.add(step=taken.step, detail=taken.detail, nanoseconds=taken.nanoseconds)
            if isinstance(step, NeedExact):
                spent = max(0, (self._clock_ms() - now_ms) * 1_000_000)
                answer.trace.add(step="index", detail=f"{len(step.keys)} key(s) asked", nanoseconds=spent)
                found = f"{decision.outcome.name}, {decision.reason.name}"
                answer.trace.add(step="evaluate", detail=found, nanoseconds=0)


def _ask(request: pb.CheckRequest, call: Call, view: View, now_ms: int) -> Query:
    """The question, once the caller is known to be entitled to it. Raises Malformed or PermissionDenied."""
    caller = call.caller
    query = wire.query(request, view.rulebook, now_ms)
    if caller.purchases is not None:
        require_kind(caller, wire.kind_of(request))
    if query.key is not None:
        require_key(caller)
    else:
        require_document(caller)
    return query


def _item(request: pb.CheckRequest, call: Call, view: View, now_ms: int) -> _Item:
    """One item of a batch or stream: what is wrong with it never fails the others."""
    try:
        query = _ask(request, call, view, now_ms)
    except wire.Malformed as error:
        return _Item(wire.bad_request(error.violations), None)
    except PermissionDenied as error:
        return _Item(wire.permission_denied(str(error)), None)
    return _Item(begin(query, view, now_ms), query)


def _refusal(
    decision_id: str,
    request: pb.CheckRequest,
    query: Query | None,
    step: Decision | NeedExact,
    decision: Decision,
    view: View,
    as_of: AsOf,
    call: Call,
    now_ms: int,
) -> Refusal:
    keys: tuple[bytes, ...] = step.keys if isinstance(step, NeedExact) else ()
    act_ms = (query.act_ms if query is not None else 0) or now_ms
    return Refusal(
        decision_id=decision_id,
        time_ms=now_ms,
        decision=decision,
        keys=keys,
        key_id=view.key.key_id,
        purchase=wire.kind_of(request),
        act_ms=act_ms,
        service_ms=(query.service_ms if query is not None else 0) or act_ms,
        rulebook_version=view.rulebook.version,
        rulebook_sha256=view.rulebook.sha256,
        as_of=as_of,
        caller=call.caller.name,
    )
