"""One line of the court feed: bytes in, a value or a rejection out. Pure; never raises for any bytes.

Additions need everything (design.md §7): a measure id, kind, court, enforcement case, and for each subject role, name
and documents with full numbers. Whatever is missing or contradictory rejects the whole line: a record that is not
complete never bars (domain.md §7, R3). Removals and revocations need an id and a sequence, and nothing else in their
line can hinder them: the asymmetry favours the person.

A rejection names the sequence, the path of the field and a cause. It never holds a value, and never a field name which
is not ours: either may be somebody's number.

Times: a date without a time is a midnight in Shanghai (UTC+8, no summer time). `effective_to` and `valid_to` name the
last day in force, or as RFC 3339 the last instant, so their exclusive end is the next midnight or one millisecond on.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final, NamedTuple

from checker.core import case_number as case_numbers
from checker.core import document as documents
from checker.core import name as names
from checker.core.document import Document, DocumentType
from checker.core.measure import CANARY, FOREVER_MS, NINE_ITEMS, NO_BIRTH_DATE, Item, Kind, Role, State, Window

MAX_LINE_BYTES: Final = 1 << 20
MAX_SUBJECTS: Final = 200
MAX_DOCUMENTS: Final = 50
MAX_SEQUENCE: Final = 10**14 - 1
"""14 digits: decades of any court's numbering, and never to be mistaken for an identity number."""

_MAX_NAME: Final = 200
_MAX_COURT: Final = 100
_DAY_MS: Final = 86_400_000
_SHANGHAI_MS: Final = 8 * 3_600_000
_UNIX_DAY: Final = date(1970, 1, 1).toordinal()
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


class Cause(StrEnum):
    """Why a line was rejected."""

    BAD_JSON = "BAD_JSON"
    NOT_AN_OBJECT = "NOT_AN_OBJECT"
    DUPLICATE_FIELD = "DUPLICATE_FIELD"
    TOO_LONG = "TOO_LONG"
    TOO_MANY = "TOO_MANY"
    MISSING_FIELD = "MISSING_FIELD"
    WRONG_TYPE = "WRONG_TYPE"
    BAD_SEQUENCE = "BAD_SEQUENCE"
    DUPLICATE_SEQUENCE = "DUPLICATE_SEQUENCE"
    BAD_TIME = "BAD_TIME"
    UNKNOWN_OP = "UNKNOWN_OP"
    BAD_MEASURE_ID = "BAD_MEASURE_ID"
    RESERVED_MEASURE_ID = "RESERVED_MEASURE_ID"
    UNKNOWN_KIND = "UNKNOWN_KIND"
    BAD_COURT = "BAD_COURT"
    MISSING_CASE = "MISSING_CASE"
    BAD_CASE_NUMBER = "BAD_CASE_NUMBER"
    UNKNOWN_ITEM = "UNKNOWN_ITEM"
    BAD_PERIOD = "BAD_PERIOD"
    UNKNOWN_EXEMPTION = "UNKNOWN_EXEMPTION"
    UNKNOWN_ROLE = "UNKNOWN_ROLE"
    ROLE_NOT_ON_LIST = "ROLE_NOT_ON_LIST"
    BAD_NAME = "BAD_NAME"
    BAD_BIRTH_DATE = "BAD_BIRTH_DATE"
    UNKNOWN_DOCUMENT_TYPE = "UNKNOWN_DOCUMENT_TYPE"
    MASKED_NUMBER = "MASKED_NUMBER"
    BAD_COUNTRY = "BAD_COUNTRY"
    BAD_DOCUMENT_FORMAT = "BAD_DOCUMENT_FORMAT"
    BAD_DOCUMENT_CHECKSUM = "BAD_DOCUMENT_CHECKSUM"
    BAD_DOCUMENT_DATE = "BAD_DOCUMENT_DATE"
    DUPLICATE_DOCUMENT = "DUPLICATE_DOCUMENT"


HELP: Final[Mapping[Cause, str]] = {
    Cause.BAD_JSON: "each line must be one JSON object in UTF-8 without byte order mark, NaN or lone surrogates",
    Cause.NOT_AN_OBJECT: "the field, or the whole line, must be a JSON object",
    Cause.DUPLICATE_FIELD: "a field stands twice in the same object; send it once",
    Cause.TOO_LONG: f"a line holds at most {MAX_LINE_BYTES} bytes, a name {_MAX_NAME} characters; split or shorten it",
    Cause.TOO_MANY: f"a line holds at most {MAX_SUBJECTS} subjects with {MAX_DOCUMENTS} documents each; split it",
    Cause.MISSING_FIELD: "the field is required here and must not be empty",
    Cause.WRONG_TYPE: "the field has the wrong JSON type; numbers of documents must be texts, sequences integers",
    Cause.BAD_SEQUENCE: f"seq must be an integer from 1 to {MAX_SEQUENCE}",
    Cause.DUPLICATE_SEQUENCE: "another line with this seq and other content came before; give each change its own seq",
    Cause.BAD_TIME: "write a date as 2026-03-31, a time as RFC 3339 with its zone: 2026-03-31T09:00:00+08:00",
    Cause.UNKNOWN_OP: "op must be add, remove, revoke, exempt or heartbeat",
    Cause.BAD_MEASURE_ID: "measure_id must be 1 to 64 of A-Z a-z 0-9 . _ : / - and must not look like an ID number",
    Cause.RESERVED_MEASURE_ID: f"measure_id {CANARY} is the importer's own; give the measure another",
    Cause.UNKNOWN_KIND: "kind must be list or order",
    Cause.BAD_COURT: f"court must be the court's name, at most {_MAX_COURT} characters, without long numbers",
    Cause.MISSING_CASE: "a measure without its case never bars; send case_number",
    Cause.BAD_CASE_NUMBER: "case_number must be that of an enforcement case, such as （2016）京0105执1234号",
    Cause.UNKNOWN_ITEM: f"items must be among {' '.join(Item.__members__)}",
    Cause.BAD_PERIOD: "the period ends before it begins",
    Cause.UNKNOWN_EXEMPTION: "name the exemption's items, or a kind that says them: TEMPORARY_LIFT, SINGLE_TRIP, "
    "PRIVATE_CONSUMPTION, NECESSITY or OTHER",
    Cause.UNKNOWN_ROLE: f"role must be among {' '.join(Role.__members__)}",
    Cause.ROLE_NOT_ON_LIST: "only the debtor itself may be on the dishonest list (GoodFaith 16); send an order instead",
    Cause.BAD_NAME: "the name holds no letter that can be compared",
    Cause.BAD_BIRTH_DATE: "birth_date must be a date that exists, as 1880-01-31, and not in the future",
    Cause.UNKNOWN_DOCUMENT_TYPE: "type must be a DocumentType of check.proto without its prefix, such as RESIDENT_ID",
    Cause.MASKED_NUMBER: "public records mask the number; only the court's push with the full number can be used",
    Cause.BAD_COUNTRY: "country must be ISO 3166 alpha-3, and CHN, HKG and MAC have document types of their own",
    Cause.BAD_DOCUMENT_FORMAT: "the number does not have the form of its document type",
    Cause.BAD_DOCUMENT_CHECKSUM: "the number's check digit is wrong",
    Cause.BAD_DOCUMENT_DATE: "the date inside the number does not exist or is in the future",
    Cause.DUPLICATE_DOCUMENT: "two subjects show the same document; name each person once",
}
"""What to do about each cause; fixed texts, safe to show."""


class Subject(NamedTuple):
    """One person or entity a measure binds. Names as given; they never leave the import."""

    role: Role
    name: str
    name_latin: str
    adult_from_day: int  # days since 1970-01-01 in Shanghai, or NO_BIRTH_DATE
    documents: tuple[Document, ...]


class AddLine(NamedTuple):
    """A measure as the court states it now."""

    sequence: int
    time_ms: int | None  # None: the time of import
    measure_id: str
    kind: Kind
    court: str
    case_number: str  # canonical
    items: int
    items_named: bool
    effective_from_ms: int | None  # None: from the line's time
    effective_to_ms: int  # exclusive
    subjects: tuple[Subject, ...]


class RemoveLine(NamedTuple):
    """A measure has ended (SHIELDED) or never should have been (REVOKED)."""

    sequence: int
    time_ms: int | None
    measure_id: str
    state: State
    reason: str  # one of REASONS, or empty


class ExemptLine(NamedTuple):
    """A court lets its measure rest; `documents` empty: for everyone it binds."""

    sequence: int
    time_ms: int | None
    measure_id: str
    window: Window
    documents: tuple[Document, ...]


class HeartbeatLine(NamedTuple):
    """The court is there and has nothing to say."""

    sequence: int
    time_ms: int | None


class Rejected(NamedTuple):
    """What is wrong with a line, without any of its values. `sequence` None: unreadable."""

    sequence: int | None
    path: str
    cause: Cause


Line = AddLine | RemoveLine | ExemptLine | HeartbeatLine | Rejected

REASONS: Final = frozenset(
    (
        "PERFORMED",
        "SETTLED",
        "CREDITOR_CONSENT",
        "SECURITY_GIVEN",
        "NO_ASSETS_FOUND",
        "ENFORCEMENT_SUSPENDED",
        "ENFORCEMENT_TERMINATED",
        "NOT_ENFORCED",
        "TERM_ENDED",
        "NO_LONGER_RESPONSIBLE",
        "WRONG_PERSON",
        "WRONGLY_ISSUED",
        "MINOR",
        "OTHER",
    )
)
"""Words kept of a removal's `reason` (domain.md §2.3), beside articles of law such as `SPC-L 10(1)(4)`.

Free text may name people, so any other reason becomes OTHER.
"""

_ARTICLE = re.compile(r"(?:SPC-C|SPC-L|GoodFaith|CPL|Policy|Rail-384)(?: \d{1,3}(?:\(\d{1,2}\)){0,3})?", re.ASCII)
_EXEMPTIONS: Final = {
    "TEMPORARY_LIFT": int(Item.FLIGHT | Item.TRAIN),  # 暂时解除 lifts 飞机、高铁 only (GoodFaith 17(3))
    "SINGLE_TRIP": int(Item.FLIGHT | Item.TRAIN),  # 单次解禁
    "PRIVATE_CONSUMPTION": 0xFFFF,  # 因私消费以个人财产 (SPC-C 3(2))
    "NECESSITY": 0xFFFF,  # necessary for life or business (SPC-C 8)
    "OTHER": 0xFFFF,
}
"""What an exemption of each kind covers when it names no items."""

_ROLES: Final = dict(Role.__members__)
_ON_LIST: Final = (Role.DEBTOR_PERSON, Role.DEBTOR_ENTITY)
_ITEMS: Final = {name: int(item) for name, item in Item.__members__.items()}
_KINDS: Final = {"list": Kind.LIST, "order": Kind.ORDER}
_TYPES: Final = {kind.name: kind for kind in DocumentType if kind > 0} | {
    f"DOCUMENT_TYPE_{kind.name}": kind
    for kind in DocumentType
    if kind > 0  # the contract's own words are fine too
}
_DOCUMENT_CAUSES: Final = {
    documents.Fault.BAD_FORMAT: Cause.BAD_DOCUMENT_FORMAT,
    documents.Fault.BAD_CHECKSUM: Cause.BAD_DOCUMENT_CHECKSUM,
    documents.Fault.BAD_DATE: Cause.BAD_DOCUMENT_DATE,
}
_FIELDS: Final = frozenset(
    (
        *("seq", "time", "op", "measure_id", "kind", "court", "case_number", "items", "effective_from"),
        *("effective_to", "subjects", "exemption", "reason", "role", "name", "name_latin", "birth_date"),
        *("documents", "type", "number", "country", "valid_from", "valid_to", "max_uses", "trip", "categories"),
    )
)
_REMOVAL_FIELDS: Final = frozenset(("seq", "op", "measure_id"))

# Not by way of its memory: few case numbers come twice, and each that is kept pushes out others and costs 1.5 µs.
_read_case_number: Final = case_numbers.canonical.__wrapped__
_MEASURE_ID = re.compile(r"[A-Za-z0-9._:/-]{1,64}", re.ASCII)
# Whole ids of 15, 17 or 18 digits, and resident IDs hidden between other characters.
_LIKE_A_NUMBER = re.compile(
    r"\A(?:\d{15}|\d{17}[\dXx]?)\Z"
    r"|(?<!\d)[1-9]\d{5}(?:18|19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx](?!\d)",
    re.ASCII,
)
_NUMBER_OR_MASK = re.compile(r"\d{7}|[*＊]")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_INSTANT = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII
)  # RFC 3339 §5.6


_new: Final = tuple.__new__  # a third of the time of a NamedTuple's own constructor


class _RefusedError(Exception):
    """Unwinds to `parse_line`."""

    def __init__(self, path: str, cause: Cause) -> None:
        self.path = path
        self.cause = cause


class _TwiceError(ValueError):
    """An object with the same field twice."""

    def __init__(self, field: str) -> None:
        self.field = field


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen: set[str] = set()
        for field, _ in pairs:
            if field in seen:
                raise _TwiceError(field)
            seen.add(field)
    return fields


def _no_constant(_: str) -> None:
    raise ValueError


def _pairs(pairs: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return pairs


_scan = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant).raw_decode
_decode_pairs = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_no_constant).decode


def parse_line(raw: bytes, today: int) -> Line:
    """One line (its newline may be there) as a value, or why it is rejected. Never raises.

    `today`: the date in Shanghai as yyyymmdd; no document or birth date may lie after it.
    """
    if len(raw) > MAX_LINE_BYTES:
        return Rejected(None, "", Cause.TOO_LONG)
    try:
        text = raw.strip().decode()
        content, end = _scan(text)
    except _TwiceError as twice:
        return _with_a_field_twice(raw, twice.field)
    except (ValueError, RecursionError):  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        return Rejected(None, "", Cause.BAD_JSON)
    if end != len(text):
        return Rejected(None, "", Cause.BAD_JSON)
    if type(content) is not dict:
        return Rejected(None, "", Cause.NOT_AN_OBJECT)
    sequence = content.get("seq")
    if type(sequence) is not int:
        return Rejected(None, "seq", Cause.MISSING_FIELD if sequence is None else Cause.WRONG_TYPE)
    if not 0 < sequence <= MAX_SEQUENCE:
        return Rejected(None, "seq", Cause.BAD_SEQUENCE)
    try:
        op = content.get("op")
        match op:
            case "add":
                return _add(content, sequence, raw, today)
            case "remove":
                return _remove(content, sequence, State.SHIELDED)
            case "revoke":
                return _remove(content, sequence, State.REVOKED)
            case "exempt":
                return _exempt(content, sequence, raw, today)
            case "heartbeat":
                return HeartbeatLine(sequence, _time(content))
            case None:
                return Rejected(sequence, "op", Cause.MISSING_FIELD)
        return Rejected(sequence, "op", Cause.UNKNOWN_OP if isinstance(op, str) else Cause.WRONG_TYPE)
    except _RefusedError as refused:
        return Rejected(sequence, refused.path, refused.cause)


def sequence_of(raw: bytes) -> int | None:
    """The sequence of a line, whatever else is wrong with it; None when it cannot be read. Never raises."""
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    sequence = content.get("seq") if isinstance(content, dict) else None
    return sequence if type(sequence) is int and 0 < sequence <= MAX_SEQUENCE else None


def _with_a_field_twice(raw: bytes, field: str) -> Line:
    """A repeated field rejects a line, unless it is a removal and the field is none that a removal needs."""
    try:
        pairs = _decode_pairs(raw.decode())
    except (ValueError, RecursionError):
        return Rejected(None, "", Cause.BAD_JSON)
    fields = dict(pairs) if pairs and type(pairs[0]) is tuple else {}
    counted = [name for name, _ in pairs] if fields else []
    sequence = fields.get("seq")
    if type(sequence) is not int or not 0 < sequence <= MAX_SEQUENCE or counted.count("seq") != 1:
        return Rejected(None, field if field in _FIELDS else "", Cause.DUPLICATE_FIELD)
    op = fields.get("op")
    if op in ("remove", "revoke") and all(counted.count(name) <= 1 for name in _REMOVAL_FIELDS):
        try:
            return _remove(fields, sequence, State.SHIELDED if op == "remove" else State.REVOKED)
        except _RefusedError as refused:
            return Rejected(sequence, refused.path, refused.cause)
    return Rejected(sequence, field if field in _FIELDS else "", Cause.DUPLICATE_FIELD)


def _add(content: dict[str, Any], sequence: int, raw: bytes, today: int) -> AddLine:
    if b"\\" in raw and _SURROGATE.search(raw):
        _encodable(content)
    time_ms = _time(content)
    measure_id = _measure_id(content)
    kind = _KINDS.get(_text(content, "kind", ""))
    if kind is None:
        raise _RefusedError("kind", Cause.UNKNOWN_KIND)
    court = _text(content, "court", "")
    if len(court) > _MAX_COURT or _NUMBER_OR_MASK.search(court):
        raise _RefusedError("court", Cause.BAD_COURT)
    case_number = _case_number(content)
    items = _items(content, "")
    from_ms = None
    if content.get("effective_from") is not None:
        from_ms = _instant(content, "effective_from", "")
    to_ms = FOREVER_MS
    if content.get("effective_to") is not None:
        to_ms = _last_instant(content, "effective_to", "")
        begins_ms = time_ms if from_ms is None else from_ms
        if begins_ms is not None and to_ms <= begins_ms:
            raise _RefusedError("effective_to", Cause.BAD_PERIOD)
    listed = _list(content, "subjects", "", MAX_SUBJECTS)
    subjects = tuple([_subject(subject, kind, index, today) for index, subject in enumerate(listed)])
    if len(subjects) > 1:
        _no_shared_document(subjects)
    covered = 0 if kind is Kind.LIST else items or NINE_ITEMS
    named = kind is Kind.ORDER and items != 0
    return _new(
        AddLine,
        (sequence, time_ms, measure_id, kind, court, case_number, covered, named, from_ms, to_ms, subjects),
    )


def _remove(content: dict[str, Any], sequence: int, state: State) -> RemoveLine:
    """Needs only an id and a sequence; whatever else is wrong in the line is left aside."""
    measure_id = _measure_id(content)
    try:
        time_ms = _time(content)
    except _RefusedError:
        time_ms = None
    reason = content.get("reason")
    if not reason:
        word = ""
    else:
        kept = isinstance(reason, str) and (reason in REASONS or _ARTICLE.fullmatch(reason))
        word = reason if kept else "OTHER"
    return RemoveLine(sequence, time_ms, measure_id, state, word)


def _exempt(content: dict[str, Any], sequence: int, raw: bytes, today: int) -> ExemptLine:
    if b"\\" in raw and _SURROGATE.search(raw):
        _encodable(content)
    time_ms = _time(content)
    measure_id = _measure_id(content)
    exemption = content.get("exemption")
    if type(exemption) is not dict:
        raise _RefusedError("exemption", Cause.MISSING_FIELD if exemption is None else Cause.NOT_AN_OBJECT)
    items = _items(exemption, "exemption.", "items" if exemption.get("items") is not None else "categories")
    if not items:
        # Named items say what rests, whatever the kind; without them the kind does, and without either what every
        # temporary lift covers: a court's exemption is never refused for a word that is missing.
        given = exemption.get("kind")
        covered = _EXEMPTIONS.get("TEMPORARY_LIFT" if given is None else _text(exemption, "kind", "exemption."))
        if covered is None:
            raise _RefusedError("exemption.kind", Cause.UNKNOWN_EXEMPTION)
        items = covered
    from_ms = _instant(exemption, "valid_from", "exemption.")
    to_ms = _last_instant(exemption, "valid_to", "exemption.")
    if to_ms <= from_ms:
        raise _RefusedError("exemption.valid_to", Cause.BAD_PERIOD)
    found: tuple[Document, ...] = ()
    if exemption.get("documents") is not None:
        listed = _list(exemption, "documents", "exemption.", MAX_DOCUMENTS)
        for index, entry in enumerate(listed):
            found += _documents(entry, f"exemption.documents[{index}]", today)
    return ExemptLine(sequence, time_ms, measure_id, Window(items, from_ms, to_ms), tuple(dict.fromkeys(found)))


def _subject(subject: object, kind: Kind, index: int, today: int) -> Subject:
    if type(subject) is not dict:
        raise _RefusedError(f"subjects[{index}]", Cause.NOT_AN_OBJECT)
    word = subject.get("role")
    role = _ROLES.get(word) if type(word) is str else None
    if role is None:
        _text(subject, "role", f"subjects[{index}].")
        raise _RefusedError(f"subjects[{index}].role", Cause.UNKNOWN_ROLE)
    if kind is Kind.LIST and role not in _ON_LIST:
        raise _RefusedError(f"subjects[{index}].role", Cause.ROLE_NOT_ON_LIST)
    name = subject.get("name")
    if type(name) is not str or not 0 < len(name) <= _MAX_NAME or not _has_letter(name):
        raise _RefusedError(f"subjects[{index}].name", _name_cause(name))
    latin = subject.get("name_latin")
    if latin is None:
        latin = ""
    elif type(latin) is not str or len(latin) > _MAX_NAME or (latin and not _has_letter(latin)):
        raise _RefusedError(f"subjects[{index}].name_latin", _name_cause(latin))
    entries = subject.get("documents")
    if type(entries) is not list or not 0 < len(entries) <= MAX_DOCUMENTS:
        entries = _list(subject, "documents", f"subjects[{index}].", MAX_DOCUMENTS)
    found: list[Document] = []
    for number, entry in enumerate(entries):
        found += _documents(entry, ("subjects[%d].documents[%d]", index, number), today)
    adult_from = NO_BIRTH_DATE
    for document in found:
        born = documents.birth_date(document) if len(document.number) == 18 else None
        if born is not None:
            adult_from = max(adult_from, _adult_from(born))
    stated = subject.get("birth_date")
    if stated is not None and role is not Role.DEBTOR_ENTITY:
        born = _birth_date(stated) if isinstance(stated, str) else None
        if born is None or born > today:
            raise _RefusedError(f"subjects[{index}].birth_date", Cause.BAD_BIRTH_DATE)
        # Where card and court disagree the later majority holds: it favours the person.
        adult_from = max(adult_from, _adult_from(born))
    each_once = tuple(dict.fromkeys(found) if len(found) > 1 else found)
    return _new(Subject, (role, name, latin, adult_from, each_once))


def _documents(entry: object, path: str | tuple[str, int, int], today: int) -> tuple[Document, ...]:
    """The canonical documents an entry may mean (several where the number is ambiguous)."""
    if type(entry) is dict:
        word, number, country = entry.get("type"), entry.get("number"), entry.get("country")
        if country is None:
            country = ""
        kind = _TYPES.get(word) if type(word) is str else None
        if kind is not None and type(number) is str and type(country) is str:
            parsed = documents.parse(kind, number, country, today)
            if type(parsed) is documents.Parsed:
                return parsed.documents
    where = path if isinstance(path, str) else path[0] % path[1:]
    raise _document_fault(entry, where, today)


def _document_fault(entry: object, path: str, today: int) -> _RefusedError:
    """What is wrong with a document entry: off the path of good lines."""
    if type(entry) is not dict:
        return _RefusedError(path, Cause.NOT_AN_OBJECT)
    try:
        word = _text(entry, "type", f"{path}.")
        number = _text(entry, "number", f"{path}.")
    except _RefusedError as refused:
        return refused
    if word not in _TYPES:
        return _RefusedError(f"{path}.type", Cause.UNKNOWN_DOCUMENT_TYPE)
    country = entry.get("country")
    if country is not None and not isinstance(country, str):
        return _RefusedError(f"{path}.country", Cause.WRONG_TYPE)
    if not country and _TYPES[word] is DocumentType.FOREIGN_PASSPORT:
        return _RefusedError(f"{path}.country", Cause.MISSING_FIELD)
    parsed = documents.parse(_TYPES[word], number, country or "", today)
    if parsed is documents.MASKED:
        return _RefusedError(f"{path}.number", Cause.MASKED_NUMBER)
    if parsed in (documents.BAD_COUNTRY, documents.HOME_COUNTRY):
        return _RefusedError(f"{path}.country", Cause.BAD_COUNTRY)
    fault = parsed.fault if isinstance(parsed, documents.Invalid) else documents.Fault.BAD_FORMAT
    return _RefusedError(f"{path}.number", _DOCUMENT_CAUSES[fault])


def _no_shared_document(subjects: tuple[Subject, ...]) -> None:
    """A document belongs to one subject: one record per measure and document, with one role and one set of names."""
    owners: dict[Document, int] = {}
    for index, subject in enumerate(subjects):
        for document in subject.documents:
            if owners.setdefault(document, index) != index:
                raise _RefusedError(f"subjects[{index}].documents", Cause.DUPLICATE_DOCUMENT)


def _has_letter(text: str) -> bool:
    """Whether a name says anything once it is canonical. Quick to see for most."""
    if text.isascii():
        return text.upper() != text.lower() or bool(names.canonical(text))
    return "\u4e00" <= text[0] <= "\u9fff" or bool(names.canonical(text))


def _text(fields: dict[str, Any], field: str, path: str) -> str:
    value = fields.get(field)
    if type(value) is str and value:
        return value
    if value is None or value == "":
        raise _RefusedError(path + field, Cause.MISSING_FIELD)
    raise _RefusedError(path + field, Cause.WRONG_TYPE)


def _list(fields: dict[str, Any], field: str, path: str, most: int) -> list[Any]:
    value = fields.get(field)
    if value is None or value == []:
        raise _RefusedError(path + field, Cause.MISSING_FIELD)
    if type(value) is not list:
        raise _RefusedError(path + field, Cause.WRONG_TYPE)
    if len(value) > most:
        raise _RefusedError(path + field, Cause.TOO_MANY)
    return value


def _name_cause(name: object) -> Cause:
    if name is None or name == "":
        return Cause.MISSING_FIELD
    if not isinstance(name, str):
        return Cause.WRONG_TYPE
    return Cause.TOO_LONG if len(name) > _MAX_NAME else Cause.BAD_NAME


def _measure_id(fields: dict[str, Any]) -> str:
    value = _text(fields, "measure_id", "")
    if not _MEASURE_ID.fullmatch(value) or (len(value) > 14 and _LIKE_A_NUMBER.search(value)):
        raise _RefusedError("measure_id", Cause.BAD_MEASURE_ID)
    if value == CANARY:
        raise _RefusedError("measure_id", Cause.RESERVED_MEASURE_ID)
    return value


def _case_number(fields: dict[str, Any]) -> str:
    value = fields.get("case_number")
    if value is None or value == "":
        raise _RefusedError("case_number", Cause.MISSING_CASE)
    if not isinstance(value, str):
        raise _RefusedError("case_number", Cause.WRONG_TYPE)
    canonical = _read_case_number(value)
    if canonical is None:
        raise _RefusedError("case_number", Cause.BAD_CASE_NUMBER)
    return canonical


def _items(fields: dict[str, Any], path: str, name: str = "items") -> int:
    """The bits of the named items; 0 when none are named."""
    value = fields.get(name)
    if value is None:
        return 0
    if type(value) is not list:
        raise _RefusedError(f"{path}{name}", Cause.WRONG_TYPE)
    items = 0
    for index, word in enumerate(value):
        bit = _ITEMS.get(word) if type(word) is str else None
        if bit is None:
            raise _RefusedError(f"{path}{name}[{index}]", Cause.UNKNOWN_ITEM)
        items |= bit
    return items


def _time(fields: dict[str, Any]) -> int | None:
    """The line's own time; none means the time of import."""
    value = fields.get("time")
    if value is None:
        return None
    moment = _moment(value) if isinstance(value, str) else None
    if moment is None:
        raise _RefusedError("time", Cause.BAD_TIME)
    return moment[0]


def _instant(fields: dict[str, Any], field: str, path: str) -> int:
    moment = _moment(_text(fields, field, path))
    if moment is None:
        raise _RefusedError(path + field, Cause.BAD_TIME)
    return moment[0]


def _last_instant(fields: dict[str, Any], field: str, path: str) -> int:
    """The exclusive end of a period whose last day, or last instant, is given."""
    moment = _moment(_text(fields, field, path))
    if moment is None:
        raise _RefusedError(path + field, Cause.BAD_TIME)
    at_ms, is_date = moment
    return at_ms + (_DAY_MS if is_date else 1)


@lru_cache(maxsize=16_384)
def _moment(text: str) -> tuple[int, bool] | None:
    """Milliseconds since the epoch, and whether the text is a date alone; None when it is neither date nor instant."""
    try:
        if _DATE.fullmatch(text):
            return (date.fromisoformat(text).toordinal() - _UNIX_DAY) * _DAY_MS - _SHANGHAI_MS, True
        if _INSTANT.fullmatch(text):
            return (datetime.fromisoformat(text.upper()) - _EPOCH) // _MILLISECOND, False
    except ValueError:
        pass
    return None


@lru_cache(maxsize=65_536)
def _birth_date(text: str) -> int | None:
    """A date as yyyymmdd; None when it does not exist."""
    if not _DATE.fullmatch(text):
        return None
    try:
        return int(date.fromisoformat(text).strftime("%Y%m%d"))
    except ValueError:
        return None


def _adult_from(born: int) -> int:
    """The day, since 1970-01-01, on which somebody born on yyyymmdd turns 18; 29 February becomes 1 March."""
    year, month, day = born // 10_000 + 18, born // 100 % 100, born % 100
    try:
        return date(year, month, day).toordinal() - _UNIX_DAY
    except ValueError:
        return date(year, 3, 1).toordinal() - _UNIX_DAY


def _encodable(value: Any) -> None:
    """Refuse lone surrogates: a text that has no UTF-8 has no digest."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise _RefusedError("", Cause.BAD_JSON) from None
