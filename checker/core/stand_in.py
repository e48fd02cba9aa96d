"""What an edge answers in the centre's place (design.md §8): ALLOWED or UNKNOWN, never BARRED.

How far an edge may go alone depends on how old its filter is, and on nothing else: fresh data clear whom they do not
hold, stale data clear them with a remark, older data clear nobody. A hit without the centre is UNKNOWN: the sale goes
on and the question is asked again later.
"""

from enum import Enum
from typing import NamedTuple

from checker.core.decision import Advisory, AnsweredBy, Decision, Outcome, Reason
from checker.core.freshness import HOUR_MS
from checker.core.rules import Screened


class Age(Enum):
    """How old an edge's filter is: the time since it was last known to hold all that the centre had acknowledged."""

    FRESH = "fresh"
    STALE = "stale"
    OLD = "old"  # or there is none


class EdgeLimits(NamedTuple):
    """Settings of the table, in milliseconds of lag."""

    fresh_ms: int = 60_000
    stale_ms: int = 24 * HOUR_MS

    def age(self, lag_ms: float) -> Age:
        """The row of the table."""
        if lag_ms <= self.fresh_ms:
            return Age.FRESH
        return Age.STALE if lag_ms <= self.stale_ms else Age.OLD


class Failure(Enum):
    """Why the centre did not answer."""

    UNREACHABLE = Reason.CENTRE_UNREACHABLE
    LATE = Reason.CENTRE_LATE
    SIGNED_OFF = Reason.CENTRE_SIGNED_OFF


def is_asked(age: Age, *, hit: bool) -> bool:
    """Whether the centre is asked: all but a miss of a fresh filter."""
    return hit or age is not Age.FRESH


def stand_in(screened: Screened, age: Age, failure: Failure, *, hit: bool, strict: bool = False) -> Decision:
    """The answer without the centre. `strict`: the rulebook wants UNKNOWN wherever the data are not fresh."""
    if screened.unrestricted is not None:  # asked only because the rules were in doubt
        free = screened.unrestricted
        return free._replace(
            answered_by=AnsweredBy.STAND_IN, advisories=tuple(sorted({*free.advisories, Advisory.STALE_DATA}))
        )
    rule_id = screened.row.rule_id
    if not hit and age is Age.FRESH:
        return screened.miss
    if not hit and age is Age.STALE and not strict:
        return Decision(Outcome.ALLOWED, Reason.NOT_LISTED, AnsweredBy.STAND_IN, (Advisory.STALE_DATA,), rule_id)
    return Decision(Outcome.UNKNOWN, failure.value, AnsweredBy.STAND_IN, (), rule_id)
