"""The answer as a value, and how several verdicts become one.

"Not listed" and "don't know" never share a value. `combine` is the whole of how measures add up: one measure that
survives every step bars, doubt never does, and otherwise the reason is the first of a fixed order (design.md §3).
"""

from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple


class Outcome(IntEnum):
    """What the seller does. Only BARRED stops a sale. Numbers are the contract's."""

    __hash__ = int.__hash__  # an enum's own is Python code, and answers are counted by these

    ALLOWED = 1
    BARRED = 2
    UNKNOWN = 3
    INVALID_DOCUMENT = 4


class Reason(IntEnum):
    """Why. Numbers are the contract's."""

    __hash__ = int.__hash__

    PURCHASE_NOT_RESTRICTED = 1
    NOT_LISTED = 2
    EXEMPTED = 3
    NOT_IN_FORCE = 4
    OUT_OF_SCOPE = 5
    MEASURE_IN_FORCE = 6
    INDEX_UNREACHABLE = 7
    CENTRE_UNREACHABLE = 8
    CENTRE_LATE = 9
    CENTRE_SIGNED_OFF = 10
    DATA_STALE = 11
    UNKNOWN_KEY = 12
    NAME_REQUIRED = 13
    BAD_FORMAT = 14
    BAD_CHECKSUM = 15
    BAD_DATE = 16


class Advisory(IntEnum):
    """Remarks that change nothing about the sale. Numbers are the contract's."""

    __hash__ = int.__hash__

    OPEN_RULE = 1
    NAME_MISMATCH = 2
    MINOR = 3
    DISPUTED = 4
    STALE_DATA = 5


class AnsweredBy(IntEnum):
    """What gave the answer. Numbers are the contract's."""

    __hash__ = int.__hash__

    RULES = 1
    FILTER = 2
    INDEX = 3
    STAND_IN = 4


class Decision(NamedTuple):
    """One answer, explaining itself. Turning it into words for a caller is `checker.wire`'s part."""

    outcome: Outcome
    reason: Reason
    answered_by: AnsweredBy
    advisories: tuple[Advisory, ...] = ()
    rule_id: str = ""  # the rulebook row that was reached; "" where none was
    measures: tuple[str, ...] = ()  # ids of the measures behind BARRED or UNKNOWN: for evidence, never for a seller
    hint: str = ""  # INVALID_DOCUMENT: what to look at; holds nothing of the number
    decision_id: str = ""  # given by whoever decided elsewhere and keeps the evidence; "": to be given here


class Verdict(NamedTuple):
    """What one measure says to one purchase."""

    reason: Reason
    advisory: Advisory | None
    measure_id: str


ORDER = (
    Reason.MEASURE_IN_FORCE,
    Reason.DATA_STALE,
    Reason.INDEX_UNREACHABLE,
    Reason.NAME_REQUIRED,
    Reason.EXEMPTED,
    Reason.OUT_OF_SCOPE,
    Reason.NOT_IN_FORCE,
    Reason.NOT_LISTED,
)
"""First of these wins. DATA_STALE and INDEX_UNREACHABLE stand where a measure would, or might, have barred."""

_OUTCOME = {
    Reason.MEASURE_IN_FORCE: Outcome.BARRED,
    Reason.DATA_STALE: Outcome.UNKNOWN,
    Reason.INDEX_UNREACHABLE: Outcome.UNKNOWN,
    Reason.NAME_REQUIRED: Outcome.UNKNOWN,
}


def combine(verdicts: Iterable[Verdict], rule_id: str) -> Decision:
    """The one answer to several verdicts, all of them read from the exact index."""
    found = list(verdicts)
    said = {verdict.reason for verdict in found}
    reason = next((candidate for candidate in ORDER if candidate in said), Reason.NOT_LISTED)
    outcome = _OUTCOME.get(reason, Outcome.ALLOWED)
    advisories = {verdict.advisory for verdict in found if verdict.advisory is not None}
    return Decision(
        outcome=outcome,
        reason=reason,
        answered_by=AnsweredBy.INDEX,
        advisories=tuple(sorted(advisories)),
        rule_id=rule_id,
        measures=()
        if outcome is Outcome.ALLOWED
        else tuple(verdict.measure_id for verdict in found if verdict.reason is reason and verdict.measure_id),
    )
