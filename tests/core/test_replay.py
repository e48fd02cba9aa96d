"""Claim: a decision made anew from what was kept of it is the same decision (domain.md R12).

Kept are bytes and numbers: a keyed digest instead of the document, the purchase as it goes over the wire, the stored
records, the rulebook's text, the times. An edge asks its centre with just these, and an operator explains by them.
"""

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from checker import wire
from checker.core import purchase as p
from checker.core.decision import Decision
from checker.core.document import DocumentType
from checker.core.freshness import HOUR_MS, AsOf
from checker.core.lookup import LookupKey, NeedExact, Query, View, begin, finish
from checker.core.measure import (
    Item,
    Kind,
    Measure,
    Role,
    State,
    Window,
    decode,
    encode_record,
    encode_window,
    exemption_field,
    record_field,
)
from checker.core.rules import DAY_MS, parse
from tests.builders import DEBTOR, KEY, MINOR, NOW, a_measure, a_view, rulebook
from tests.core.test_lookup import CASES

PURCHASES = sorted({case[1] for case in CASES}, key=repr)
DOCUMENTS = [
    (DocumentType.RESIDENT_ID, DEBTOR),
    (DocumentType.RESIDENT_ID, MINOR),
    (DocumentType.PRC_PASSPORT, "E00001234"),
]
BOOKS = (rulebook(), rulebook(("min_star = 1", "min_star = 4")))
times = st.integers(NOW - 3 * DAY_MS, NOW + 3 * DAY_MS)
windows = st.builds(Window, st.sampled_from([int(Item.FLIGHT), int(Item.FLIGHT | Item.TRAIN), 0x1FF]), times, times)


@st.composite
def measures(draw: st.DrawFn, name: str = "M1") -> Measure:
    """Any measure that may lie under a key."""
    made = a_measure(
        name,
        kind=draw(st.sampled_from(Kind)),
        role=draw(st.sampled_from(Role)),
        state=draw(st.sampled_from((State.ACTIVE, State.ACTIVE, *State))),
        items=draw(st.sampled_from([None, Item.FLIGHT, Item.TRAIN | Item.HOTEL])),
        names=draw(st.sampled_from([(), ("张三",), ("李四", "张三")])),
        exemptions=tuple(draw(st.lists(windows, max_size=1))),
        disputed=draw(st.booleans()),
    )
    begins, ends = draw(st.sampled_from(((-9, 9), (-9, 9), (-9, 0), (0, 9))))  # days
    return made._replace(effective_from_ms=NOW + begins * DAY_MS, effective_to_ms=NOW + ends * DAY_MS)


def stored(measures: list[Measure]) -> dict[bytes, bytes]:
    """As the index keeps them under one key."""
    fields = {}
    for measure in measures:
        fields[record_field(measure.measure_id)] = encode_record(measure)
        for sequence, window in enumerate(measure.exemptions):
            fields[exemption_field(measure.measure_id, sequence)] = encode_window(sequence, window)
    return fields


@settings(max_examples=300)
@given(
    purchase=st.sampled_from(PURCHASES),
    document=st.sampled_from(DOCUMENTS),
    name=st.sampled_from(["", "张三", "王五"]),
    listed=st.tuples(measures("M1"), measures("M2")).map(list),
    book=st.sampled_from(BOOKS),
    asked=st.tuples(times, times, times),
    as_of=st.builds(AsOf, st.just(100), times, st.sampled_from([0, NOW - HOUR_MS, NOW]), st.just(0)),
    least=st.sampled_from([0, 100, 101]),
)
def test_a_decision_is_the_same_when_made_anew_from_what_was_kept_of_it(
    purchase: p.Purchase,
    document: tuple[DocumentType, str],
    name: str,
    listed: list[Measure],
    book: Any,
    asked: tuple[int, int, int],
    as_of: AsOf,
    least: int,
) -> None:
    """See the module; whatever was decided in between, and however late it is."""
    act_ms, service_ms, now_ms = asked
    view = a_view(book, as_of=as_of)
    query = Query(purchase, *document, name=name, act_ms=act_ms, service_ms=service_ms, min_feed_sequence=least)
    decided, need = _decide(query, view, listed, now_ms)
    if need is None:
        return
    kept = (
        need.keys[0],
        need.name_required,
        need.name_key,
        wire.purchase_message(purchase),
        stored(listed),
        book.source,
    )

    _decide(query, a_view(BOOKS[book is BOOKS[0]], as_of=as_of), [], now_ms + 40 * DAY_MS)  # something else

    digest, name_required, name_key, message, fields, source = kept
    again = Query(
        wire.purchase_value(message),
        key=LookupKey(KEY.key_id, digest, name_required),
        name_key=name_key,
        act_ms=act_ms,
        service_ms=service_ms,
        min_feed_sequence=least,
    )
    assert _decide(again, a_view(parse(source), as_of=as_of), decode(fields), now_ms)[0] == decided


def _decide(query: Query, view: View, listed: Sequence[Measure], now_ms: int) -> tuple[Decision, NeedExact | None]:
    step = begin(query, view, now_ms)
    if isinstance(step, Decision):
        return step, None
    return finish(step, dict.fromkeys(step.keys, tuple(listed)), view.as_of, now_ms), step
