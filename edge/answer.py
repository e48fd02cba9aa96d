"""The answer a booking system gets: cheap to make, put into words only when it is read.

An answer holds the decision as a seller may see it (design.md §3: nothing about the person on ALLOWED) and where its
words are: the rulebook of the view that decided, or the centre's own response where there is no edge.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from checker import wire
from checker.core.decision import Advisory, AnsweredBy, Decision, Outcome, Reason
from checker.core.freshness import AsOf
from checker.core.rules import Rulebook, Text
from edge.remote import verdict
from proto.checker.v1 import check_pb2 as pb

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FAULTS = frozenset({Reason.BAD_FORMAT, Reason.BAD_CHECKSUM, Reason.BAD_DATE})


class DataAsOf(NamedTuple):
    """How fresh the data behind an answer were."""

    feed_sequence: int  # every line of the court feed up to here is known
    feed_time: datetime | None  # the feed's own time for it; None: nothing imported yet
    snapshot_epoch: int


class Answer(NamedTuple):
    """May this document buy this thing? `may_sell` says what to do; BARRED alone stops a sale.

    Never keep one that is not ALLOWED: ask again. An ALLOWED may be relied on until `expire_time`.
    """

    decision: Decision
    words: Rulebook | pb.CheckResponse
    as_of: AsOf
    time_ms: int

    @property
    def outcome(self) -> Outcome:
        """ALLOWED, BARRED, UNKNOWN (sell, and ask again before travel or stay) or INVALID_DOCUMENT (look again)."""
        return self.decision.outcome

    @property
    def may_sell(self) -> bool:
        """Whether the sale may go on: anything but BARRED."""
        return self.decision.outcome is not Outcome.BARRED

    @property
    def reason(self) -> Reason:
        """Why."""
        return self.decision.reason

    @property
    def advisories(self) -> tuple[Advisory, ...]:
        """Remarks that change nothing about the sale."""
        return self.decision.advisories

    @property
    def answered_by(self) -> AnsweredBy:
        """What gave the answer."""
        return self.decision.answered_by

    @property
    def decision_id(self) -> str:
        """BARRED and UNKNOWN: what the person takes to the service desk, and what `on_advice` refers to; else ""."""
        return self.decision.decision_id

    @property
    def expire_time(self) -> datetime | None:
        """ALLOWED only: ask again after this."""
        if self.decision.outcome is not Outcome.ALLOWED:
            return None
        if isinstance(self.words, Rulebook):
            return _EPOCH + timedelta(seconds=self.time_ms // 1000 + wire.ALLOWED_FOR_S)
        return _time(self.words.expire_time)

    @property
    def data_as_of(self) -> DataAsOf:
        """How fresh the data were."""
        feed_ms = self.as_of.feed_time_ms
        return DataAsOf(
            self.as_of.feed_sequence,
            _EPOCH + timedelta(milliseconds=feed_ms) if feed_ms else None,
            self.as_of.snapshot_epoch,
        )

    @property
    def rulebook_version(self) -> str:
        """The rulebook that decided."""
        return self.words.version if isinstance(self.words, Rulebook) else self.words.rulebook_version

    @property
    def legal_basis(self) -> str:
        """The provision that the rule rests on; "" where no rule was reached."""
        return self.response().legal_basis

    @property
    def notice(self) -> Text | None:
        """What may be said to the person; None on ALLOWED."""
        response = self.response()
        return Text(response.notice.zh, response.notice.en) if response.HasField("notice") else None

    @property
    def alternatives(self) -> tuple[Text, ...]:
        """BARRED only: what may be sold instead."""
        return tuple(Text(text.zh, text.en) for text in self.response().alternatives)

    def response(self, item_id: str = "") -> pb.CheckResponse:
        """The answer in the contract's words."""
        response = pb.CheckResponse()
        if isinstance(self.words, Rulebook):
            wire.Renderer(self.words, self.as_of, self.time_ms).write(response, self.decision)
            response.decision_id = self.decision.decision_id
        else:
            response.CopyFrom(self.words)
        response.item_id = item_id
        return response

    def __reduce__(self) -> tuple[Any, ...]:  # without the rulebook
        return (_from_bytes, (self.response().SerializeToString(), self.time_ms))


def from_response(response: pb.CheckResponse, time_ms: int) -> Answer:
    """The centre's answer. What this version does not know never bars."""
    told = verdict(response)
    decision = Decision(told.outcome, told.reason, told.answered_by, told.advisories, decision_id=told.decision_id)
    if response.outcome == pb.OUTCOME_INVALID_DOCUMENT and int(response.reason) in _FAULTS:
        decision = Decision(Outcome.INVALID_DOCUMENT, Reason(response.reason), AnsweredBy.RULES)
    return Answer(decision, response, told.as_of, time_ms)


def _from_bytes(response: bytes, time_ms: int) -> Answer:
    return from_response(pb.CheckResponse.FromString(response), time_ms)


def _time(stamp: Any) -> datetime:
    return _EPOCH + timedelta(seconds=stamp.seconds, microseconds=stamp.nanos // 1000)
