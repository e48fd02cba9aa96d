"""How far an answer may go on data of a given age. Stale data may only favour the person (domain.md §6.4)."""

from typing import NamedTuple

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS


class AsOf(NamedTuple):
    """How fresh the data behind an answer is."""

    feed_sequence: int  # every line up to here is applied or durably rejected; 0: nothing imported
    feed_time_ms: int  # the feed's own time for that line; 0: nothing imported
    gap_since_ms: int  # when a gap in the sequence was noticed; 0: none
    snapshot_epoch: int  # the snapshot behind the filter; 0: built by the service itself


class Limits(NamedTuple):
    """Settings of domain.md "Decided" 9, in milliseconds."""

    warn_ms: int = 15 * MINUTE_MS  # a feed silent for longer earns STALE_DATA
    stop_ms: int = 24 * HOUR_MS  # a feed silent for longer bars nobody
    gap_grace_ms: int = 15 * MINUTE_MS  # a gap open for longer bars nobody


def is_stale(as_of: AsOf, limits: Limits, now_ms: int) -> bool:
    """Whether the answer should carry STALE_DATA."""
    return now_ms - as_of.feed_time_ms > limits.warn_ms


def may_bar(as_of: AsOf, limits: Limits, now_ms: int) -> bool:
    """Whether a measure found in the index may still stop a sale: the person may have been freed meanwhile."""
    if now_ms - as_of.feed_time_ms > limits.stop_ms:
        return False
    return as_of.gap_since_ms == 0 or now_ms - as_of.gap_since_ms <= limits.gap_grace_ms
