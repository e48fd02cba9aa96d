"""The edge inside a booking system's own process: most checks end here, in microseconds, without leaving the thread.

    check:  arguments -> Query -> lookup.begin -> Answer                            about 99 of 100
                                        |-> NeedExact -> EdgeSettler -> Answer

What `begin` can decide is decided before anything is awaited: no task, no lock, no timer. The data's age is looked at
by comparing the clock with one number (`Live.fresh_until_ms`): past it the filter clears nobody, the centre is asked.

One client per process and event loop. A fork leaves the client behind, unusable and told so: gRPC and the stream from
the centre do not survive it.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from time import time_ns
from typing import Any, TypeAlias

from checker import keys as key_files
from checker import wire
from checker.core.decision import AnsweredBy, Decision, Outcome
from checker.core.document import DocumentType
from checker.core.freshness import AsOf
from checker.core.lookup import EVERYTHING, NeedExact, Query, View, begin
from checker.core.purchase import Purchase
from checker.errors import InvalidRequest, UsageError
from checker.keys import EdgeKeys
from checker.rpc.decision_id import new_decision_id
from edge.advice import Advice
from edge.answer import Answer
from edge.assembly import Edge, EdgeSettings
from edge.centre import ClientTls, addresses, check_centre
from edge.lifetime import Lifetime
from edge.live import Live
from edge.request import Item, ItemTuple, Purchases, query
from proto.checker.v1 import check_pb2 as pb
from proto.checker.v1 import filter_pb2

Callback: TypeAlias = Callable[[Advice], Awaitable[None] | None]

_KEPT = frozenset({Outcome.BARRED, Outcome.UNKNOWN})
_new: Callable[[type[Answer], tuple[Any, ...]], Answer] = tuple.__new__


class EdgeClient(Lifetime):
    """Answers checks in this process. asyncio; for threads see `BlockingEdgeClient`.

    `centre`: HOST:PORT, several with commas or as a list (all of one centre). `data_dir`: this edge's own directory,
    made with mode 700; processes of one edge may share it. `key`: the key file of `checker keys export-edge`. `tls`:
    needed for a centre that is not on this machine, unless `insecure_plaintext`. `name`: what the operator calls this
    edge, at most 64 characters.
    Raises UsageError, here or in `open`, for whatever cannot work, with the remedy.
    """

    def __init__(
        self,
        centre: str | Sequence[str],
        data_dir: str | Path,
        key: str | Path | EdgeKeys,
        *,
        tls: ClientTls | None = None,
        name: str = "",
        settings: EdgeSettings | None = None,
        insecure_plaintext: bool = False,
    ) -> None:
        super().__init__()
        self._centre = addresses(centre)
        check_centre(self._centre, tls, insecure_plaintext=insecure_plaintext)
        self._directory = Path(data_dir)
        self._key = key
        self._tls = tls
        self._name = name
        self._settings = settings
        self._purchases = Purchases()
        self._callbacks: list[Callback] = []
        self._edge: Edge | None = None
        self._live: Live | None = None  # set exactly while checks may be made

    # Life

    async def open(self) -> "EdgeClient":
        """Start: a snapshot on the disk is used at once, the first one ever is waited for a few seconds. Returns self.

        Works without the centre: then what the filter does not clear is UNKNOWN.
        """
        self._require_not_open()
        keys = self._key if isinstance(self._key, EdgeKeys) else key_files.load_edge(Path(self._key))
        edge = Edge(self._centre, self._directory, keys, self._tls, name=self._name, settings=self._settings)
        try:
            await edge.open()
        except BaseException:
            await edge.close()
            raise
        for callback in self._callbacks:
            edge.advice.on_advice(callback)
        self._edge, self._live = edge, edge.live
        self._begin_life()
        return self

    async def close(self) -> None:
        """Stop. What waits to be asked again stays on the disk, for the next time."""
        self._end_life()
        edge, self._edge, self._live = self._edge, None, None
        if edge is not None:
            await edge.close()

    async def __aenter__(self) -> "EdgeClient":
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _forked(self) -> Edge | None:
        super()._forked()
        edge, self._edge, self._live = self._edge, None, None
        return edge

    # Checks

    async def check(
        self,
        purchase: Purchase,
        document_type: DocumentType,
        number: str,
        *,
        country: str = "",
        name: str = "",
        act_time: datetime | None = None,
        service_time: datetime | None = None,
        min_feed_sequence: int = 0,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline, kept by answering, not by cancelling
    ) -> Answer:
        """May this document buy this? Always answers, within `timeout` seconds and at most the centre's time.

        `name`: as the person gives it; without one, hits on documents other than resident IDs stay UNKNOWN. `country`:
        ISO 3166-1 alpha-3, for foreign passports. `act_time`: of the purchase, now if None; `service_time`: of travel
        or stay. `min_feed_sequence`: the answer must know the court feed at least this far.
        Raises UsageError for a malformed question.
        """
        # A plain tuple: an Item would cost as much as a digest.
        asked = (purchase, document_type, number, country, name, act_time, service_time, min_feed_sequence)
        step = self.decide(asked)
        if step.__class__ is Answer:
            return step
        (answer,) = await self.settle([step], timeout)  # type: ignore[list-item]
        return answer

    async def check_many(self, items: Iterable[Item], *, timeout: float | None = None) -> list[Answer]:  # noqa: ASYNC109
        """Several questions, answered in order, on one state of filter and rules. Raises like `check`, naming the item.

        What can be decided here is decided before anything is awaited.
        """
        steps = self.decide_many(items)
        needs = [step for step in steps if isinstance(step, NeedExact)]
        if needs:
            settled = iter(await self.settle(needs, timeout))
            return [next(settled) if isinstance(step, NeedExact) else step for step in steps]
        return [step for step in steps if isinstance(step, Answer)]

    async def check_request(self, request: pb.CheckRequest) -> pb.CheckResponse:
        """The same for those who speak the contract. Raises InvalidRequest. `with_trace` is not honoured."""
        step = self.decide_request(request)
        if isinstance(step, NeedExact):
            (step,) = await self.settle([step], None)
        return step.response(request.item_id)

    # The same in two halves, for those who are not in the event loop

    def decide(self, item: Item | ItemTuple) -> Answer | NeedExact:
        """What can be said without waiting, from any thread: the answer, or what `settle` must conclude."""
        # `_look` and `_begin` in one frame: nearly all checks are made here and end here.
        live = self._live
        if live is None:
            self._refuse()
        now_ms = time_ns() // 1_000_000
        fresh_until_ms = live.fresh_until_ms  # before the view: the event loop may find meanwhile that it is too old
        view = live.view
        if now_ms >= fresh_until_ms:
            view = view._replace(filter=EVERYTHING)
        asked = query(self._purchases, item)
        live.numbers.checks += 1
        step = begin(asked, view, now_ms)
        if step.__class__ is NeedExact:
            return step
        return _new(Answer, (step, view.rulebook, view.as_of, now_ms))

    def decide_many(self, items: Iterable[Item]) -> list[Answer | NeedExact]:
        """`decide` for several, on one view."""
        view, now_ms = self._look()
        asked = []
        for place, item in enumerate(items):
            try:
                asked.append(query(self._purchases, item))
            except UsageError as error:
                raise UsageError(f"items[{place}].{error}") from None
        return [self._begin(one, view, now_ms) for one in asked]

    def decide_request(self, request: pb.CheckRequest) -> Answer | NeedExact:
        """`decide` for a request of the contract."""
        view, now_ms = self._look()
        try:
            asked = wire.query(request, view.rulebook, now_ms)
        except wire.Malformed as error:
            raise InvalidRequest(error.violations) from None
        if asked.key is not None:
            raise InvalidRequest([("subject.key", "is for edges: send subject.document")])
        return self._begin(asked, view, now_ms)

    async def settle(self, needs: Sequence[NeedExact], timeout: float | None) -> list[Answer]:  # noqa: ASYNC109
        """Conclude what `decide` could not: in the event loop that opened the client."""
        self._require_open()
        edge, loop = self.edge, asyncio.get_running_loop()
        if edge.live.fresh_until_ms <= _now_ms():
            edge.live.refresh()
        settled = await edge.settle(needs, math.inf if timeout is None else loop.time() + timeout)
        now_ms = _now_ms()
        return [
            _concluded(need, decision, as_of, now_ms) for need, decision, as_of in zip(needs, *settled, strict=True)
        ]

    # What happens later, and how it goes

    def on_advice(self, callback: Callback) -> None:
        """Call back (a function or coroutine function) with later word on sales that went on as UNKNOWN."""
        self._callbacks.append(callback)
        if self._edge is not None:
            self._edge.advice.on_advice(callback)

    def status(self) -> filter_pb2.EdgeStatus:
        """How the edge is doing: snapshot, lag, centre, numbers, alarms."""
        return self.edge.reporter.status()

    @property
    def edge(self) -> Edge:
        """The parts within. Raises UsageError unless this client is open."""
        if self._edge is None:
            self._refuse()
        return self._edge

    def _look(self) -> tuple[View, int]:
        live = self._live
        if live is None:
            self._refuse()
        now_ms = _now_ms()
        fresh_until_ms = live.fresh_until_ms  # as in `decide`
        view = live.view
        if now_ms >= fresh_until_ms:  # the event loop's own look is due, see `settle`
            view = view._replace(filter=EVERYTHING)
        return view, now_ms

    def _begin(self, asked: Query, view: View, now_ms: int) -> Answer | NeedExact:
        self._live.numbers.checks += 1  # type: ignore[union-attr] # `_look` came before
        step = begin(asked, view, now_ms)
        if step.__class__ is NeedExact:
            return step
        return _new(Answer, (step, view.rulebook, view.as_of, now_ms))


def _now_ms() -> int:
    return time_ns() // 1_000_000


def _concluded(need: NeedExact, decision: Decision, as_of: AsOf, now_ms: int) -> Answer:
    if decision.answered_by is AnsweredBy.INDEX:
        decision = wire.for_seller(decision)
    if decision.outcome in _KEPT and not decision.decision_id:
        decision = decision._replace(decision_id=new_decision_id(now_ms))
    return Answer(decision, need.view.rulebook, as_of, now_ms)
