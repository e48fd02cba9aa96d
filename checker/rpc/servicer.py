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
from typing import NamedTuple, Protocol

import grpc.aio

from checker import wire
from checker.core import trace
from checker.core.decision import Advisory, AnsweredBy, Decision, Outcome, Reason
from checker.core.freshness import AsOf
from checker.core.lookup import NeedExact, Query, View, begin
from checker.errors import InvalidRequest, PermissionDenied
from checker.rpc.decision_id import new_decision_id
from checker.rpc.interceptors import Call, Quick, current_call
from checker.rpc.roles import Caller, Role, require_document, require_key, require_kind
from proto.checker.v1 import check_pb2 as pb
from proto.checker.v1 import check_pb2_grpc


class HasView(Protocol):
    """Where the servicer finds what checks look at right now: one attribute, swapped in one assignment."""

    @property
    def view(self) -> View: ...


class Settled(NamedTuple):
    """The answers to some `NeedExact`, in order, and how fresh the data behind each of them was."""

    decisions: list[Decision]
    as_of: list[AsOf]


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


_KEPT = frozenset({Outcome.BARRED, Outcome.UNKNOWN})
"""Outcomes that leave evidence and carry an id that the person can take to the service desk."""


class CheckServicer(check_pb2_grpc.CheckServiceServicer):
    """See the module. `record` takes refusals off the hot path; it must be quick and never raise."""

    def __init__(
        self,
        live: HasView,
        settle: Settle,
        record: Callable[[Refusal], None],
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._live = live
        self._settle = settle
        self._record = record
        self._clock_ms = clock_ms
        self.answers = Answers()
        self._renderer = wire.Renderer(live.view.rulebook, live.view.as_of, 0)
        self.quick = {"Check": Quick(wire.plain, self._check_quickly)}
        self.readers = {"BatchCheck": wire.batch}

    def _check_quickly(self, asked: wire.Asked, call: Call) -> bytes | None:
        """What `Check` answers, where that is an ALLOWED by rules or filter: nearly always."""
        _require(asked.query, call.caller)
        now_ms = self._clock_ms()
        view = self._live.view
        step = begin(asked.query, view, now_ms)
        if isinstance(step, NeedExact) or step.outcome is not Outcome.ALLOWED:
            return None
        return self._ready(step, asked.item, view, now_ms)

    async def Check(
        self, request: pb.CheckRequest, context: grpc.aio.ServicerContext[pb.CheckRequest, pb.CheckResponse]
    ) -> pb.CheckResponse:
        call = current_call()
        now_ms = self._clock_ms()
        view = self._live.view
        try:
            asked = _asked(request, call, view, now_ms)
        except wire.Malformed as error:
            raise InvalidRequest(error.violations) from None
        step = begin(asked.query, view, now_ms)
        if isinstance(step, NeedExact):
            return await self._conclude(asked, step, view, call, now_ms)
        if step.outcome is Outcome.ALLOWED and not asked.with_trace:
            return self._ready(step, asked.item, view, now_ms)  # type: ignore[return-value] # serialised, see Guard
        response = pb.CheckResponse()
        self._answer(response, asked, step, step, view, view.as_of, call, now_ms)
        return response

    async def BatchCheck(
        self,
        request: wire.Batch,  # type: ignore[override] # see `readers`
        context: grpc.aio.ServicerContext[pb.BatchCheckRequest, pb.BatchCheckResponse],
    ) -> pb.BatchCheckResponse:
        call = current_call()
        items = request.items
        if not 1 <= len(items) <= wire.MAX_BATCH:
            raise InvalidRequest([("items", f"must be 1 to {wire.MAX_BATCH}, not {len(items)}: split the batch")])
        now_ms = self._clock_ms()
        view = self._live.view
        answers: list[bytes | pb.CheckResponse] = []
        needs: list[NeedExact] = []
        places: list[tuple[pb.CheckResponse, wire.Asked]] = []
        for item in items:
            try:
                if isinstance(item, wire.Asked):
                    _require(item.query, call.caller)
                    asked = item
                else:
                    asked = _asked(item, call, view, now_ms)
            except (wire.Malformed, PermissionDenied) as error:
                answers.append(_failed(item, error))
                continue
            step = begin(asked.query, view, now_ms)
            if isinstance(step, NeedExact):
                answer = pb.CheckResponse()
                answers.append(answer)
                needs.append(step)
                places.append((answer, asked))
            elif step.outcome is Outcome.ALLOWED and not asked.with_trace:
                answers.append(self._ready(step, asked.item, view, now_ms))
            else:
                answer = pb.CheckResponse()
                self._answer(answer, asked, step, step, view, view.as_of, call, now_ms)
                answers.append(answer)
        if needs:
            settled = await self._settle(needs, call.deadline)
            for (answer, asked), need, decision, as_of in zip(places, needs, *settled, strict=True):
                self._answer(answer, asked, need, decision, view, as_of, call, now_ms)
        delimited = wire.delimited
        return b"".join(  # type: ignore[return-value] # serialised, see Guard
            [delimited(answer if isinstance(answer, bytes) else answer.SerializeToString()) for answer in answers]
        )

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

        async def settle(asked: wire.Asked, need: NeedExact, view: View, now_ms: int) -> None:
            await write(await self._conclude(asked, need, view, call, now_ms))

        async with asyncio.TaskGroup() as open_questions:
            async for request in request_iterator:
                now_ms = self._clock_ms()
                view = self._live.view
                try:
                    asked = _asked(request, call, view, now_ms)
                except (wire.Malformed, PermissionDenied) as error:
                    await write(_failed(request, error))
                    continue
                step = begin(asked.query, view, now_ms)
                if isinstance(step, NeedExact):
                    open_questions.create_task(settle(asked, step, view, now_ms))
                else:
                    answer = pb.CheckResponse()
                    self._answer(answer, asked, step, step, view, view.as_of, call, now_ms)
                    await write(answer)

    async def GetRulebook(
        self,
        request: pb.GetRulebookRequest,
        context: grpc.aio.ServicerContext[pb.GetRulebookRequest, pb.GetRulebookResponse],
    ) -> pb.GetRulebookResponse:
        rulebook = self._live.view.rulebook
        return pb.GetRulebookResponse(version=rulebook.version, sha256=rulebook.sha256, toml=rulebook.source)

    async def _conclude(
        self, asked: wire.Asked, need: NeedExact, view: View, call: Call, now_ms: int
    ) -> pb.CheckResponse:
        settled = await self._settle((need,), call.deadline)
        response = pb.CheckResponse()
        self._answer(response, asked, need, settled.decisions[0], view, settled.as_of[0], call, now_ms)
        return response

    def _renderer_for(self, view: View, as_of: AsOf, now_ms: int) -> wire.Renderer:
        renderer = self._renderer
        if renderer.second != now_ms // 1000 or renderer.as_of is not as_of or renderer.rulebook is not view.rulebook:
            renderer = self._renderer = wire.Renderer(view.rulebook, as_of, now_ms)
        return renderer

    def _ready(self, decision: Decision, item: bytes, view: View, now_ms: int) -> bytes:
        """The common answer, serialised: ALLOWED by rules or filter, the same to every caller."""
        self.answers.count(decision)
        return self._renderer_for(view, view.as_of, now_ms).ready(decision, item)

    def _answer(
        self,
        answer: pb.CheckResponse,
        asked: wire.Asked,
        step: Decision | NeedExact,
        decision: Decision,
        view: View,
        as_of: AsOf,
        call: Call,
        now_ms: int,
    ) -> None:
        """Write the answer as the caller may see it, count it, keep evidence of a refusal, tell how it came about."""
        renderer = self._renderer_for(view, as_of, now_ms)
        detail = call.caller.detail
        shown = decision
        canary = isinstance(step, NeedExact) and step.keys == (view.key.canary,)  # nobody: no need for discretion
        if decision.answered_by is AnsweredBy.INDEX and not detail and not canary:
            shown = wire.for_edge(decision) if call.caller.role is Role.EDGE else wire.for_seller(decision)
        renderer.write(answer, shown)
        answer.MergeFromString(asked.item)
        self.answers.count(decision)
        if decision.outcome in _KEPT:
            answer.decision_id = decision.decision_id or new_decision_id(now_ms)
            if not decision.decision_id:  # else the evidence is kept where it was decided
                self._record(_refusal(answer.decision_id, asked.query, step, decision, view, as_of, call, now_ms))
        if asked.with_trace and detail:
            self._trace(answer, asked.query, step, decision, view, now_ms)

    def _trace(
        self,
        answer: pb.CheckResponse,
        query: Query,
        step: Decision | NeedExact,
        decision: Decision,
        view: View,
        now_ms: int,
    ) -> None:
        for taken in trace.steps(query, view, now_ms, time.perf_counter_ns):
            answer.trace.add(step=taken.step, detail=taken.detail, nanoseconds=taken.nanoseconds)
        if isinstance(step, NeedExact):
            spent = max(0, (self._clock_ms() - now_ms) * 1_000_000)
            answer.trace.add(step="index", detail=f"{len(step.keys)} key(s) asked", nanoseconds=spent)
            answer.trace.add(step="evaluate", detail=f"{decision.outcome.name}, {decision.reason.name}")


def _asked(request: pb.CheckRequest, call: Call, view: View, now_ms: int) -> wire.Asked:
    """The question, once the caller is known to be entitled to it. Raises Malformed or PermissionDenied."""
    asked = wire.asked(request, view.rulebook, now_ms)
    _require(asked.query, call.caller)
    return asked


def _require(query: Query, caller: Caller) -> None:
    """Raise PermissionDenied unless the caller may ask this."""
    if caller.purchases is not None:
        require_kind(caller, wire.kind_of(query.purchase))
    if query.key is not None:
        require_key(caller)
    else:
        require_document(caller)


def _failed(request: wire.Asked | pb.CheckRequest, error: wire.Malformed | PermissionDenied) -> pb.CheckResponse:
    """What is wrong with one item of a batch or stream never fails the others."""
    if isinstance(error, wire.Malformed):
        status = wire.bad_request(error.violations)
    else:
        status = wire.permission_denied(str(error))
    answer = pb.CheckResponse(error=status)
    if isinstance(request, wire.Asked):
        answer.MergeFromString(request.item)
    else:
        answer.item_id = request.item_id
    return answer


def _refusal(
    decision_id: str,
    query: Query,
    step: Decision | NeedExact,
    decision: Decision,
    view: View,
    as_of: AsOf,
    call: Call,
    now_ms: int,
) -> Refusal:
    keys: tuple[bytes, ...] = step.keys if isinstance(step, NeedExact) else ()
    act_ms = query.act_ms or now_ms
    return Refusal(
        decision_id=decision_id,
        time_ms=now_ms,
        decision=decision,
        keys=keys,
        key_id=view.key.key_id,
        purchase=wire.kind_of(query.purchase),
        act_ms=act_ms,
        service_ms=query.service_ms or act_ms,
        rulebook_version=view.rulebook.version,
        rulebook_sha256=view.rulebook.sha256,
        as_of=as_of,
        caller=call.caller.name,
    )
