"""How `checker check` shows an answer: the outcome large, then what lies behind it, in the contract's order.

Words the contract answers with are explained in the contract's own sense; a word this version does not know is shown
as its number. Nothing here has seen the document or the name.
"""

import sys
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from checker.cli.terminal import emit, facts_table

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from proto.checker.v1.check_pb2 import CheckResponse

_SHANGHAI = timezone(timedelta(hours=8))

_SHOWN = {
    "ALLOWED": ("green", "sell 可以出售"),
    "BARRED": ("red", "do not sell this item to this person 不得出售"),
    "UNKNOWN": ("yellow", "no proof either way: sell, and ask again before issue or check-in 可先出售，办理前再核验"),
    "INVALID_DOCUMENT": ("magenta", "ask to see the document again; not a refusal by law 请核对证件"),
}
REASONS = {
    "PURCHASE_NOT_RESTRICTED": "no measure can forbid this purchase; the person was not looked at",
    "NOT_LISTED": "no measure stands against this person for this purchase",
    "EXEMPTED": "a court's exemption covers the time of service",
    "NOT_IN_FORCE": "the measure is lifted, revoked, or outside its period",
    "OUT_OF_SCOPE": "the measure does not reach this purchase or this person",
    "MEASURE_IN_FORCE": "a measure in force names this purchase",
    "INDEX_UNREACHABLE": "the exact index did not answer in time",
    "CENTRE_UNREACHABLE": "this edge cannot reach its centre",
    "CENTRE_LATE": "the centre did not answer this edge in time",
    "CENTRE_SIGNED_OFF": "the operator has signed the centre off",
    "DATA_STALE": "the court feed is older, or known less far, than a refusal may rest on",
    "UNKNOWN_KEY": "a digest under a key this service does not hold",
    "NAME_REQUIRED": "the number is listed, but this type of document needs an agreeing name: send one",
    "BAD_FORMAT": "not the form of this type of document",
    "BAD_CHECKSUM": "the check character does not fit",
    "BAD_DATE": "the date in the number does not exist or lies in the future",
}
ADVISORIES = {
    "OPEN_RULE": "the law leaves this purchase open; open questions never bar",
    "NAME_MISMATCH": "the number is listed under another name: no match",
    "MINOR": "the listed person is under age: never barred",
    "DISPUTED": "the record is disputed",
    "STALE_DATA": "the court feed has been silent longer than usual",
}
ANSWERED_BY = {
    "RULES": "the rulebook or the document's form alone",
    "FILTER": "the prefilter",
    "INDEX": "the exact index",
    "STAND_IN": "an edge's stand-in table, the centre being out of reach",
}


def word_of(answer: "CheckResponse", field: str, prefix: str, number: int) -> str:
    """The enum's word without its prefix; a number this version does not know stays a number."""
    enum = answer.DESCRIPTOR.fields_by_name[field].enum_type
    value = enum.values_by_number.get(number) if enum is not None else None
    return value.name.removeprefix(prefix) if value is not None else str(number)


def show(answer: "CheckResponse") -> None:
    """Print the answer for a person: in colour and large on a terminal, else as plain lines."""
    from rich.text import Text

    outcome = word_of(answer, "outcome", "OUTCOME_", answer.outcome)
    colour, meaning = _SHOWN.get(outcome, ("white", answer.error.message))
    if sys.stdout.isatty():
        bar = Text(f"   {' '.join(outcome.replace('_', ' '))}   ", style=f"bold white on {colour}")
        blank = Text(" " * len(bar), style=f"on {colour}")
        emit("", blank, bar, blank, Text(meaning, style=f"bold {colour}"), "")
    else:
        emit(f"{outcome}: {meaning}", "")
    emit(facts_table(_rows(answer)))
    if answer.trace:
        emit("", _trace_table(answer))


def _rows(answer: "CheckResponse") -> list[tuple[str, str]]:
    now = time.time()
    rows = [("reason", _explain(word_of(answer, "reason", "REASON_", answer.reason), REASONS))]
    rows += [
        ("advisory", _explain(word_of(answer, "advisory", "ADVISORY_", number), ADVISORIES))
        for number in answer.advisory
    ]
    if answer.legal_basis:
        rows.append(("legal basis", answer.legal_basis))
    if answer.notice.zh or answer.notice.en:
        rows.append(("say", f"{answer.notice.zh}\n{answer.notice.en}"))
    rows += [("may be sold", f"{text.zh}\n{text.en}") for text in answer.alternatives]
    if answer.decision_id:
        rows.append(("decision id", f"{answer.decision_id}  (what the person takes to the service desk)"))
    as_of = answer.data_as_of
    feed = f"feed sequence {as_of.feed_sequence:,}"
    if as_of.HasField("feed_time"):
        feed += f" of {_local(as_of.feed_time)}, {span(now - as_of.feed_time.seconds)} old"
    elif not as_of.feed_sequence:
        feed = "nothing imported yet"
    if as_of.snapshot_epoch:
        feed += f"; filter snapshot {as_of.snapshot_epoch}"
    rows.append(("data as of", feed))
    by = word_of(answer, "answered_by", "ANSWERED_BY_", answer.answered_by)
    rows.append(("answered by", _explain(by, ANSWERED_BY)))
    if answer.HasField("expire_time"):
        rows.append(("expires", f"{_local(answer.expire_time)}, in {span(answer.expire_time.seconds - now)}"))
    rows.append(("rulebook", answer.rulebook_version or "not named"))
    return rows


def _trace_table(answer: "CheckResponse") -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("step", style="bold")
    table.add_column("found", overflow="fold")
    table.add_column("µs", justify="right")
    for step in answer.trace:
        table.add_row(step.step, step.detail, f"{step.nanoseconds / 1000:,.1f}")
    return table


def _explain(word: str, meanings: dict[str, str]) -> str:
    return f"{word}: {meanings[word]}" if word in meanings else word


def _local(moment: "Timestamp") -> str:
    return datetime.fromtimestamp(moment.seconds, _SHANGHAI).isoformat(sep=" ", timespec="seconds")


def span(seconds: float) -> str:
    """A length of time in the two words a person would use."""
    whole = round(abs(seconds))
    sign = "-" if seconds <= -1 else ""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if whole >= size:
            smaller, word = {"d": (3_600, "h"), "h": (60, "min"), "min": (1, "s")}[unit]
            rest = whole % size // smaller
            return f"{sign}{whole // size} {unit}" + (f" {rest} {word}" if rest else "")
    return f"{sign}{whole} s"
