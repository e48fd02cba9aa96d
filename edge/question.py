"""What an edge asks the centre, what it learns, and how the road fails: the words of the stack behind NeedExact.

A question holds a keyed digest and a purchase, never a document or a name. Every layer of the stack (`exact.py`) has
one interface, `Ask`, and so has each test's stand-in for what lies below it.
"""

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, NamedTuple

import grpc

from checker.core.decision import ORDER, Advisory, AnsweredBy, Outcome, Reason
from checker.core.freshness import AsOf
from checker.core.stand_in import Failure
from checker.errors import CheckerError


class Question(NamedTuple):
    """One key and one purchase. Times in milliseconds since the epoch, 0 = not said. Equal ones have one answer."""

    key: bytes  # 16 bytes
    key_id: str
    document_type: int
    name_required: bool
    name_key: bytes
    purchase: bytes  # a serialised Purchase
    act_ms: int = 0
    service_ms: int = 0
    min_feed_sequence: int = 0


_NOT_OF_THE_PERSON = frozenset({Advisory.OPEN_RULE, Advisory.STALE_DATA})


class Verdict(NamedTuple):
    """The centre's answer to one question."""

    outcome: Outcome
    reason: Reason
    answered_by: AnsweredBy
    advisories: tuple[Advisory, ...]
    decision_id: str  # the centre's, for BARRED and UNKNOWN: it keeps the evidence
    as_of: AsOf

    @property
    def nothing_listed(self) -> bool:
        """Whether the exact index holds nothing at all under the key: the one answer that may be remembered."""
        return self.reason is Reason.NOT_LISTED and self.answered_by is AnsweredBy.INDEX and not self.advisories

    @property
    def not_confirmed(self) -> bool:
        """Whether the centre does not say that the key is listed.

        More than `nothing_listed`, and never remembered: a filter said it, which may lack the newest keys, or it stands
        for somebody who is listed and whom nothing bars, which an edge may not know (`wire.for_edge`).
        """
        of_centre = self.answered_by is not AnsweredBy.STAND_IN
        return self.reason is Reason.NOT_LISTED and of_centre and _NOT_OF_THE_PERSON.issuperset(self.advisories)


_OUTCOMES = (Outcome.BARRED, Outcome.UNKNOWN, Outcome.ALLOWED)
_RANK = {reason: place for place, reason in enumerate(ORDER)}
_NOT_READ = _RANK[Reason.INDEX_UNREACHABLE]
"""Where a key that the centre did not answer stands among the others: as one that its index did not."""


def combined(verdicts: Iterable[Verdict]) -> Verdict:
    """The one answer to several keys of one document (an ambiguous number), at least one: the index's own rule.

    BARRED under any key bars, else UNKNOWN under any is UNKNOWN; as fresh as the least fresh of them.
    """
    found = sorted(
        verdicts, key=lambda verdict: (_OUTCOMES.index(verdict.outcome), _RANK.get(verdict.reason, _NOT_READ))
    )
    if len(found) == 1:
        return found[0]
    advisories = tuple(sorted({advisory for verdict in found for advisory in verdict.advisories}))
    return found[0]._replace(advisories=advisories, as_of=min(verdict.as_of for verdict in found))


class CentreFailed(CheckerError):
    """The centre gave no answer; `failure` says which way."""

    status = grpc.StatusCode.UNAVAILABLE

    def __init__(self, failure: Failure, text: str) -> None:
        super().__init__(text)
        self.failure = failure


Ask = Callable[[Question, float], Coroutine[Any, Any, Verdict]]
"""Ask one question, to be answered by this event-loop time (`loop.time()`). Raises CentreFailed."""
