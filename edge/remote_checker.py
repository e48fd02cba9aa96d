"""For those who deploy no edge: the interface of `EdgeClient`, every question asked of the checker.

No keys, no filter, no disk. Questions of one event-loop tick share one BatchCheck, on the road that edges use
(deadline, breaker, hedge, retry), so that many callers of one process cost the checker little. When it does not answer,
the answer is UNKNOWN with the reason: the sale goes on. Nothing is kept of it, so there is no later word (`on_advice`):
ask again before travel.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from importlib.metadata import version
from typing import NoReturn

from checker import rulebooks, wire
from checker.core.decision import AnsweredBy, Decision, Outcome
from checker.core.document import DocumentType
from checker.core.freshness import AsOf
from checker.core.lookup import Query
from checker.core.purchase import Purchase
from checker.errors import InvalidRequest, UsageError
from checker.rpc.decision_id import new_decision_id
from edge.answer import Answer, from_response
from edge.centre import Centre, ClientTls, addresses, check_centre
from edge.client import Callback
from edge.exact import Coalescer
from edge.lifetime import Lifetime
from edge.question import CentreFailed
from edge.remote import Road
from edge.request import Item, Purchases, query
from proto.checker.v1 import check_pb2 as pb
from proto.checker.v1 import filter_pb2

TIMEOUT_MS = 1000


class RemoteChecker(Lifetime):
    """Asks a checker, or an edge node. asyncio.

    `targets`: HOST:PORT, several with commas or as a list (all of one centre). `tls`: needed where they are not on this
    machine, unless `insecure_plaintext`. `timeout_ms`: the longest a sale waits. Raises UsageError.
    """

    def __init__(
        self,
        targets: str | Sequence[str],
        *,
        tls: ClientTls | None = None,
        timeout_ms: int = TIMEOUT_MS,
        insecure_plaintext: bool = False,
    ) -> None:
        super().__init__()
        where = addresses(targets)
        check_centre(where, tls, insecure_plaintext=insecure_plaintext)
        self.centre: filter_pb2.CentreState = filter_pb2.CENTRE_STATE_UNSPECIFIED  # nobody tells us
        self.alarms: dict[str, str] = {}
        """What somebody should know, a sentence each: the checker refuses our questions, and why."""
        self._channels = Centre(where, tls)
        self._timeout_s = timeout_ms / 1000
        self._road = Road(self._channels, self, _request, _same, timeout_s=self._timeout_s)
        self._ask = Coalescer(self._road.send)
        self._purchases = Purchases()
        self._rulebook = rulebooks.load(None)  # for what is said to people when nobody answers
        self._seen = AsOf(0, 0, 0, 0)  # how fresh the checker's data were when it last answered
        self._answers: filter_pb2.CentreState = filter_pb2.CENTRE_STATE_UNSPECIFIED  # whether it did the last time
        self._checks = 0
        self._stand_ins = 0

    # Life

    async def open(self) -> "RemoteChecker":
        """Start; connects with the first question. Returns self."""
        self._require_not_open()
        self._begin_life()
        return self

    async def close(self) -> None:
        """Give up what is under way, and disconnect."""
        self._end_life()
        await self._ask.close()
        await self._channels.close()

    async def __aenter__(self) -> "RemoteChecker":
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _forked(self) -> object:
        super()._forked()
        return self

    @property
    def calls(self) -> int:
        """Calls made to the checker so far: fewer than checks, for they share them."""
        return self._road.calls

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
        """As `EdgeClient.check`."""
        self._require_open()
        asked = (purchase, document_type, number, country, name, act_time, service_time, min_feed_sequence)
        return await self._answer(_message(query(self._purchases, asked)), timeout)

    async def check_many(self, items: Iterable[Item], *, timeout: float | None = None) -> list[Answer]:  # noqa: ASYNC109
        """As `EdgeClient.check_many`."""
        self._require_open()
        requests = []
        for place, item in enumerate(items):
            try:
                requests.append(_message(query(self._purchases, item)))
            except UsageError as error:
                raise UsageError(f"items[{place}].{error}") from None
        return await asyncio.gather(*(self._answer(request, timeout) for request in requests))

    async def check_request(self, request: pb.CheckRequest) -> pb.CheckResponse:
        """As `EdgeClient.check_request`."""
        self._require_open()
        try:
            wire.query(request, self._rulebook, _now_ms())
        except wire.Malformed as error:
            raise InvalidRequest(error.violations) from None
        answer = await self._answer(request, None)
        return answer.response(request.item_id)

    # What happens later, and how it goes

    def on_advice(self, callback: Callback) -> NoReturn:
        """There is none. Raises UsageError: nothing is kept here of an UNKNOWN, so nobody asks again but the caller."""
        raise UsageError(
            "on_advice: a RemoteChecker keeps no questions to ask again: check once more before travel or stay, or use "
            "an EdgeClient"
        )

    def status(self) -> filter_pb2.EdgeStatus:
        """As `EdgeClient.status`, as far as there is anything to say without a filter.

        `centre`: whether it answered the last question; `feed_sequence`: of its last answer; `checks`, every one of
        which is a hit; `stand_ins`: our own UNKNOWNs; `alarms`. No snapshot, no lag, no false positives, no advice.
        """
        if self._why_not:
            self._refuse()
        return filter_pb2.EdgeStatus(
            version=version("xianxiao"),
            centre=self._answers,
            feed_sequence=self._seen.feed_sequence,
            checks=self._checks,
            hits=self._checks,
            stand_ins=self._stand_ins,
            alarms=[self.alarms[about] for about in sorted(self.alarms)],
        )

    async def _answer(self, request: pb.CheckRequest, timeout: float | None) -> Answer:  # noqa: ASYNC109
        loop = asyncio.get_running_loop()
        self._checks += 1
        try:
            within = self._timeout_s if timeout is None else min(timeout, self._timeout_s)
            response = await self._ask(request, loop.time() + within)
        except CentreFailed as failed:
            now_ms = _now_ms()
            self._answers = filter_pb2.CENTRE_STATE_UNREACHABLE
            self._stand_ins += 1
            decision = Decision(
                Outcome.UNKNOWN, failed.failure.value, AnsweredBy.STAND_IN, decision_id=new_decision_id(now_ms)
            )
            return Answer(decision, self._rulebook, self._seen, now_ms)
        answer = from_response(response, _now_ms())
        self._answers = filter_pb2.CENTRE_STATE_REACHABLE
        if response.HasField("data_as_of"):
            self._seen = answer.as_of
        return answer


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _same(response: pb.CheckResponse) -> pb.CheckResponse:
    return response


def _request(requests: Sequence[pb.CheckRequest]) -> bytes:
    return pb.BatchCheckRequest(items=requests).SerializeToString()


def _message(asked: Query) -> pb.CheckRequest:
    request = pb.CheckRequest(min_feed_sequence=asked.min_feed_sequence)
    subject = request.subject
    document = subject.document
    document.type = asked.document_type  # type: ignore[assignment] # the same numbers
    document.number = asked.number
    document.country = asked.country
    subject.name = asked.name
    request.purchase.MergeFromString(wire.purchase_message(asked.purchase))
    if asked.act_ms:
        request.act_time.FromMilliseconds(asked.act_ms)
    if asked.service_ms:
        request.service_time.FromMilliseconds(asked.service_ms)
    return request
