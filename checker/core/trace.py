"""How an answer came about, step by step, for operators: the steps of `lookup.begin` once more, each under a stopwatch.

Off the common path and pure: the stopwatch is an argument. Details name rows, types and counts, never a number or name.
"""

from collections.abc import Callable
from typing import NamedTuple

from checker.core import document as documents
from checker.core.lookup import EVERYTHING, Query, View, yyyymmdd


class Step(NamedTuple):
    """One step: its word, what was found, and how long it took."""

    step: str
    detail: str
    nanoseconds: int


def steps(query: Query, view: View, now_ms: int, stopwatch_ns: Callable[[], int]) -> list[Step]:
    """The steps that `begin` took for this question, up to the filter."""
    start = stopwatch_ns()
    row = view.rulebook.screen(query.purchase, query.act_ms or now_ms).row
    taken = [Step("rules", f"row {row.rule_id}: {row.effect} {row.certainty} ({row.when})", stopwatch_ns() - start)]
    if row.effect != "BAR":
        return taken
    if query.key is not None:
        keys: tuple[bytes, ...] = (query.key.digest,)
        known = "known" if query.key.key_id == view.key.key_id else "unknown"
        taken.append(Step("key", f"given, under a digest key that is {known} here", 0))
    else:
        start = stopwatch_ns()
        parsed = documents.parse(query.document_type, query.number, query.country, yyyymmdd(now_ms))
        spent = stopwatch_ns() - start
        if isinstance(parsed, documents.Invalid):
            return [*taken, Step("document", f"{parsed.fault.name}: {parsed.hint}", spent)]
        types = ", ".join(documents.DocumentType(found.type).name for found in parsed.documents)
        taken.append(Step("document", types + ("; the name must agree" if parsed.name_required else ""), spent))
        start = stopwatch_ns()
        keys = tuple(map(view.key.document, parsed.documents))
        taken.append(Step("key", f"{len(keys)} digest(s), key {view.key.key_id}", stopwatch_ns() - start))
    start = stopwatch_ns()
    hit = any(key in view.filter for key in keys)
    spent = stopwatch_ns() - start
    if view.filter is EVERYTHING:
        detail = "none loaded yet: every key goes to the index"
    else:
        detail = "may be listed" if hit else "not listed"
    return [*taken, Step("filter", detail, spent)]
