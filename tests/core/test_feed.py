"""Claims about `checker.core.feed`: what a court may write, and how each wrong line is refused."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checker.core.document import Document, DocumentType
from checker.core.feed import (
    HELP,
    MAX_LINE_BYTES,
    MAX_SEQUENCE,
    AddLine,
    Cause,
    ExemptLine,
    HeartbeatLine,
    Rejected,
    RemoveLine,
    parse_line,
    sequence_of,
)
from checker.core.measure import FOREVER_MS, NINE_ITEMS, NO_BIRTH_DATE, Item, Kind, Role, State, Window

TODAY = 20260302
VECTORS = Path(__file__).parents[1] / "vectors" / "feeds"
EXPECTED = json.loads((VECTORS / "expected.json").read_text("utf-8"))
GOOD = json.loads((VECTORS / "good-order.jsonl").read_text("utf-8"))
GOOD_EXEMPTION = json.loads((VECTORS / "good-exemption.jsonl").read_text("utf-8"))
MARCH_1 = 1_772_294_400_000  # 2026-03-01T00:00:00+08:00
DAY = 86_400_000
RESIDENT = Document(DocumentType.RESIDENT_ID, "440524188001010014", "")
PASSPORT = Document(DocumentType.PRC_PASSPORT, "E00001234", "")


def line(base: dict[str, Any] = GOOD, **changes: Any) -> bytes:
    """A good line with fields replaced, or left out where the change is `...`."""
    fields = {**base, **changes}
    return json.dumps({name: value for name, value in fields.items() if value is not ...}, ensure_ascii=False).encode()


def added(raw: bytes) -> AddLine:
    """The line as an addition."""
    parsed = parse_line(raw, TODAY)
    assert isinstance(parsed, AddLine), parsed
    return parsed


def subject(**changes: Any) -> list[dict[str, Any]]:
    """The good line's subject with fields replaced."""
    fields = {**GOOD["subjects"][0], **changes}
    return [{name: value for name, value in fields.items() if value is not ...}]


def paper(kind: str, number: str, **more: str) -> dict[str, str]:
    """A document as the feed writes one."""
    return {"type": kind, "number": number, **more}


def test_an_order_is_read_whole() -> None:
    """Every field of a full order arrives, in the form the index needs."""
    assert parse_line((VECTORS / "good-order.jsonl").read_bytes(), TODAY) == AddLine(
        sequence=7,
        time_ms=MARCH_1 + 9 * 3_600_000,
        measure_id="O-2026-0007",
        kind=Kind.ORDER,
        court="合成市第一人民法院",
        case_number="（2026）京0105执1234号",
        items=int(Item.FLIGHT | Item.TRAIN),
        items_named=True,
        effective_from_ms=MARCH_1,
        effective_to_ms=MARCH_1 + 365 * DAY,
        subjects=(added(line()).subjects[0],),
    )
    (person,) = added(line()).subjects
    assert (person.role, person.name, person.name_latin) == (Role.DEBTOR_PERSON, "张三", "")
    assert person.documents == (RESIDENT, PASSPORT)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_each_fault_is_named(name: str) -> None:
    """The vector file's name is the cause; sequence and path are exactly those of the fault."""
    parsed = parse_line((VECTORS / f"{name}.jsonl").read_bytes(), TODAY)

    cause = Cause(name.partition("-")[0].upper())
    assert parsed == Rejected(EXPECTED[name]["sequence"], EXPECTED[name]["path"], cause)


def test_each_cause_has_a_vector_and_a_help() -> None:
    """No cause is left untried; DUPLICATE_SEQUENCE is the importer's, TOO_LONG for a line has its own test."""
    tried = {Cause(name.partition("-")[0].upper()) for name in EXPECTED}
    assert tried == set(Cause) - {Cause.DUPLICATE_SEQUENCE}
    assert set(HELP) == set(Cause)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_no_rejection_holds_a_value(name: str) -> None:
    """Neither path nor cause nor help carries digits of the number or the name of anyone."""
    parsed = parse_line((VECTORS / f"{name}.jsonl").read_bytes(), TODAY)
    assert isinstance(parsed, Rejected)
    shown = f"{parsed!r} {HELP[parsed.cause]}"
    assert "4405" not in shown
    assert "张" not in shown
    assert "188001" not in shown


def test_a_line_of_a_megabyte_is_the_longest() -> None:
    """The limit is exact, and a longer line is not even decoded."""
    short = line(reason="x")
    filled = line(reason="x" * (MAX_LINE_BYTES - len(short) + 1))
    assert len(filled) == MAX_LINE_BYTES
    assert isinstance(parse_line(filled, TODAY), AddLine)
    assert parse_line(filled + b" ", TODAY) == Rejected(None, "", Cause.TOO_LONG)


def test_unknown_fields_are_tolerated() -> None:
    """A court may send more than we read."""
    more = line(future={"nested": [1, None]}, subjects=subject(sex="女"))
    assert added(more) == added(line())


@pytest.mark.parametrize("items", [..., None, []])
def test_an_order_without_items_bars_the_nine(items: Any) -> None:
    """SPC-C 3(1) holds where the order names none, and the record says that none was named."""
    parsed = added(line(items=items))
    assert (parsed.items, parsed.items_named) == (NINE_ITEMS, False)


def test_a_list_record_carries_no_items() -> None:
    """A list record bars by the rulebook's rows, whatever items stand in its line."""
    parsed = added(line(kind="list"))
    assert (parsed.kind, parsed.items, parsed.items_named) == (Kind.LIST, 0, False)


@pytest.mark.parametrize(
    ("effective_from", "effective_to", "from_ms", "to_ms"),
    [
        ("2026-03-01", "2026-03-31", MARCH_1, MARCH_1 + 31 * DAY),
        ("2026-03-01", "2026-03-01", MARCH_1, MARCH_1 + DAY),
        ("2026-03-01", ..., MARCH_1, FOREVER_MS),
        ("2026-03-01", None, MARCH_1, FOREVER_MS),
        (..., "2026-03-31", None, MARCH_1 + 31 * DAY),
        ("2026-02-28T16:00:00Z", "2026-03-01T23:59:59.999+08:00", MARCH_1, MARCH_1 + DAY),
        ("2026-03-01t00:00:00.0009+08:00", "2026-02-28T16:00:00z", MARCH_1, MARCH_1 + 1),
        ("2028-02-29", "9999-12-31", 1_835_366_400_000, 253_402_272_000_000),
    ],
)
def test_periods_name_their_last_day(effective_from: Any, effective_to: Any, from_ms: int | None, to_ms: int) -> None:
    """Dates are midnights in Shanghai, the last day is in force to its end, an instant to its millisecond."""
    parsed = added(line(effective_from=effective_from, effective_to=effective_to))
    assert (parsed.effective_from_ms, parsed.effective_to_ms) == (from_ms, to_ms)


def test_a_line_without_time_is_of_the_import() -> None:
    """No time is a value of its own, for the importer to fill."""
    assert added(line(time=...)).time_ms is None
    assert added(line(time=None)).time_ms is None
    assert added(line(time="2026-03-01")).time_ms == MARCH_1


@pytest.mark.parametrize(
    ("birth_date", "documents", "adult_on"),
    [
        ("2010-12-31", [paper("PRC_PASSPORT", "E00001234")], date(2028, 12, 31)),
        (..., [paper("RESIDENT_ID", "710000201012310021")], date(2028, 12, 31)),
        (..., [paper("RESIDENT_ID", "710000202002290017")], date(2038, 3, 1)),
        ("2004-02-29", [paper("PRC_PASSPORT", "E00001234")], date(2022, 3, 1)),
        ("2011-01-05", [paper("RESIDENT_ID", "710000201012310021")], date(2029, 1, 5)),
        ("1880-01-01", [paper("RESIDENT_ID", "710000201012310021")], date(2028, 12, 31)),
        (
            ...,
            [paper("RESIDENT_ID", "710000201012310021"), paper("RESIDENT_ID", "440524188001010014")],
            date(2028, 12, 31),
        ),
        (..., [paper("PRC_PASSPORT", "E00001234")], None),
    ],
)
def test_majority_is_the_latest_anyone_states(birth_date: Any, documents: list[Any], adult_on: date | None) -> None:
    """The 18th birthday from the feed or from a number; where they disagree, the later one, in the person's favour."""
    (person,) = added(line(subjects=subject(birth_date=birth_date, documents=documents))).subjects
    expected = NO_BIRTH_DATE if adult_on is None else (adult_on - date(1970, 1, 1)).days
    assert person.adult_from_day == expected


def test_an_entity_has_no_birth_date() -> None:
    """Whatever stands in birth_date of an entity is left aside."""
    code = paper("UNIFIED_SOCIAL_CREDIT_CODE", "91350100M000100Y43")
    raw = line(subjects=subject(role="DEBTOR_ENTITY", birth_date="2020-13-99", documents=[code]))
    (entity,) = added(raw).subjects
    assert entity.adult_from_day == NO_BIRTH_DATE


def test_one_document_twice_in_a_subject_is_one() -> None:
    """The 15-digit and the 18-digit form of one card are the same document."""
    documents = [paper("RESIDENT_ID", "710000800101001"), paper("RESIDENT_ID", "710000198001010010")]
    (person,) = added(line(subjects=subject(birth_date=..., documents=documents))).subjects
    assert person.documents == (Document(DocumentType.RESIDENT_ID, "710000198001010010", ""),)


@pytest.mark.parametrize("role", Role.__members__)
def test_an_order_binds_all_six_roles(role: str) -> None:
    """Each word of the feed is the role of that name."""
    (person,) = added(line(subjects=subject(role=role))).subjects
    assert person.role is Role[role]


@pytest.mark.parametrize(("op", "state"), [("remove", State.SHIELDED), ("revoke", State.REVOKED)])
def test_a_removal_needs_an_id_and_a_sequence_only(op: str, state: State) -> None:
    """Everything else may be missing or nonsense: nothing may stand in the way of a lift."""
    bare = json.dumps({"seq": 9, "op": op, "measure_id": "O-1"}).encode()
    junk = (
        b'{"seq":9,"op":"%b","measure_id":"O-1","time":"never","kind":3,"case_number":[],"subjects":"\\ud800",'
        b'"reason":{"a":1,"a":2},"court":1,"court":2}' % op.encode()
    )
    assert parse_line(bare, TODAY) == RemoveLine(9, None, "O-1", state, "")
    assert parse_line(junk, TODAY) == RemoveLine(9, None, "O-1", state, "OTHER")


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        ("PERFORMED", "PERFORMED"),
        ("SPC-L 10(1)(4)", "SPC-L 10(1)(4)"),
        ("GoodFaith 18", "GoodFaith 18"),
        ("张三已履行", "OTHER"),
        ("ZHANG SAN", "OTHER"),
        ("SPC-L 440524188001010014", "OTHER"),
        ("", ""),
        (None, ""),
        (7, "OTHER"),
    ],
)
def test_a_reason_is_kept_only_if_it_cannot_name_anyone(reason: Any, kept: str) -> None:
    """Known words and articles of law are kept, free text is not."""
    raw = json.dumps({"seq": 9, "op": "remove", "measure_id": "O-1", "reason": reason}).encode()
    parsed = parse_line(raw, TODAY)
    assert isinstance(parsed, RemoveLine)
    assert parsed.reason == kept


def test_an_exemption_is_read_whole() -> None:
    """The window, what it covers, and for whom."""
    assert parse_line((VECTORS / "good-exemption.jsonl").read_bytes(), TODAY) == ExemptLine(
        7,
        MARCH_1 + 9 * 3_600_000,
        "O-2026-0007",
        Window(int(Item.FLIGHT | Item.TRAIN), MARCH_1, MARCH_1 + 31 * DAY),
        (RESIDENT,),
    )


@pytest.mark.parametrize(
    ("changes", "items"),
    [
        ({"kind": "TEMPORARY_LIFT"}, Item.FLIGHT | Item.TRAIN),
        ({"kind": None}, Item.FLIGHT | Item.TRAIN),
        ({"kind": None, "categories": ["HOTEL"]}, Item.HOTEL),
        ({"kind": "SINGLE_TRIP", "max_uses": 1, "trip": "G1"}, Item.FLIGHT | Item.TRAIN),
        ({"kind": "PRIVATE_CONSUMPTION"}, 0xFFFF),
        ({"kind": "NECESSITY", "items": []}, 0xFFFF),
        ({"kind": "TEMPORARY_LIFT", "items": ["HOTEL"]}, Item.HOTEL),
        ({"kind": "HOLIDAY", "items": ["HOTEL"]}, Item.HOTEL),
        ({"kind": None, "items": ["HOTEL"]}, Item.HOTEL),
    ],
)
def test_an_exemption_covers_its_items_or_what_its_kind_says(changes: dict[str, Any], items: int) -> None:
    """A temporary lift is for flights and trains only; named items go before the kind."""
    exemption = {**GOOD_EXEMPTION["exemption"], **changes}
    parsed = parse_line(line(GOOD_EXEMPTION, exemption=exemption), TODAY)
    assert isinstance(parsed, ExemptLine)
    assert parsed.window.items == items


def test_an_exemption_without_documents_is_for_everyone() -> None:
    """No documents: for all the measure binds."""
    exemption = {key: value for key, value in GOOD_EXEMPTION["exemption"].items() if key != "documents"}
    parsed = parse_line(line(GOOD_EXEMPTION, exemption=exemption), TODAY)
    assert isinstance(parsed, ExemptLine)
    assert parsed.documents == ()


def test_a_heartbeat_is_a_sequence_and_a_time() -> None:
    """Nothing else is needed."""
    raw = b'{"seq":3,"op":"heartbeat","time":"2026-03-01T00:00:00+08:00"}\r\n'
    assert parse_line(raw, TODAY) == HeartbeatLine(3, MARCH_1)
    assert parse_line(b'{"seq":3,"op":"heartbeat"}', TODAY) == HeartbeatLine(3, None)


@pytest.mark.parametrize(("sequence", "fits"), [(1, True), (MAX_SEQUENCE, True), (MAX_SEQUENCE + 1, False), (0, False)])
def test_sequences_have_fourteen_digits_at_most(sequence: int, fits: bool) -> None:
    """A longer one might be somebody's number, and would be printed."""
    parsed = parse_line(line(seq=sequence), TODAY)
    assert parsed.sequence == (sequence if fits else None)
    assert sequence_of(line(seq=sequence)) == (sequence if fits else None)


@given(st.binary(max_size=300))
def test_any_bytes_are_answered(raw: bytes) -> None:
    """No bytes raise anything."""
    assert parse_line(raw, TODAY) is not None
    sequence_of(raw)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_PLACES = [
    *((field,) for field in GOOD),
    *(("subjects", 0, field) for field in ("role", "name", "name_latin", "birth_date", "documents")),
    *(("subjects", 0, "documents", 0, field) for field in ("type", "number", "country")),
    *(("exemption", field) for field in ("kind", "items", "valid_from", "valid_to", "documents")),
]


@given(st.sampled_from(["add", "remove", "revoke", "exempt", "heartbeat"]), st.sampled_from(_PLACES), _JSON)
def test_any_value_in_any_place_is_answered(op: str, place: tuple[Any, ...], value: Any) -> None:
    """A good line with one field replaced by anything gives a value, or a rejection at or above that field."""
    fields = json.loads(json.dumps({**GOOD_EXEMPTION, **GOOD, "op": op}))
    target = fields
    for step in place[:-1]:
        target = target[step]
    target[place[-1]] = value
    for ascii_only in (True, False):
        text = json.dumps(fields, ensure_ascii=ascii_only)
        parsed = parse_line(text.encode("utf-8", "surrogatepass"), TODAY)
        if isinstance(parsed, Rejected) and parsed.path:
            assert parsed.path.startswith(str(place[0]))


@given(st.data())
def test_a_rejection_never_holds_a_run_of_the_number(data: st.DataObject) -> None:
    """Whatever of a line is broken, in whatever place the number stands: six digits of it are never shown."""
    number = data.draw(st.integers(10**17, 10**18 - 1).map(str))
    place = data.draw(st.sampled_from([*_PLACES, ("seq",), (number,), ("subjects", 0, number)]))
    value = data.draw(
        st.sampled_from([number, f"x{number}", [number], {number: number}, int(number), f"{number[:9]}*"])
    )
    fields = json.loads(
        json.dumps({**GOOD_EXEMPTION, **GOOD, "op": data.draw(st.sampled_from(["add", "exempt", "?"]))})
    )
    target = fields
    for step in place[:-1]:
        target = target[step]
    target[place[-1]] = value
    raw = json.dumps(fields).encode()
    for broken in (
        raw,
        raw[:-1],
        raw + b"}",
        raw.replace(b"{", b'{"%b":1,"%b":2,' % (number.encode(), number.encode()), 1),
    ):
        parsed = parse_line(broken, TODAY)
        if isinstance(parsed, Rejected):
            shown = repr(parsed)
            assert not any(number[start : start + 6] in shown for start in range(13))
