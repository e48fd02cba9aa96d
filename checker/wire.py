"""Core values <-> proto messages. The only module that knows both.

In: a request becomes a `Query`, or a list of (field path, what is wrong and the remedy). Out: a `Decision` becomes a
response, worded for whoever asks: sellers read neither the finer reasons nor anything about the person.

What is said of a purchase, and how a filter miss is answered, is remembered: neither says anything of a person.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2, error_details_pb2, status_pb2

from checker.core import purchase as p
from checker.core.decision import Advisory, AnsweredBy, Decision, Outcome, Reason
from checker.core.document import DocumentType
from checker.core.freshness import AsOf
from checker.core.key import DIGEST_BYTES
from checker.core.lookup import LookupKey, Query
from checker.core.rules import Rulebook
from proto.checker.v1 import check_pb2 as pb

MAX_BATCH = 1000
ALLOWED_FOR_S = 300
"""How long a caller may rely on ALLOWED, counted from the start of the second."""
_READY = 4096
"""Ready-made answers a renderer keeps: a rulebook has a few hundred."""
_MAX_REMEMBERED = 512
"""Bytes of a purchase that is remembered: callers decide how long texts are, and thousands of them are kept."""
MAX_ITEM_ID = 128
MAX_TEXT = 256
_MAX_SECONDS = 253_402_300_799  # 9999-12-31T23:59:59Z, the end of google.protobuf.Timestamp

Violation = tuple[str, str]


class Malformed(Exception):
    """A request or item that cannot be asked; `violations` name the fields."""

    def __init__(self, violations: list[Violation]) -> None:
        super().__init__("malformed request")
        self.violations = violations


# --- in ----------------------------------------------------------------------------------------------------------


def query(request: pb.CheckRequest, rulebook: Rulebook, now_ms: int) -> Query:
    """The question in core's terms; raises Malformed. `rulebook` only decides whether a missing subject matters."""
    raw = request.purchase.SerializeToString()
    purchase, violations = (_purchase if len(raw) <= _MAX_REMEMBERED else _read_purchase)(raw)
    problems = list(violations) if violations else []
    act_ms = _milliseconds(request.act_time, "act_time", problems) if request.HasField("act_time") else 0
    service_ms = 0
    if request.HasField("service_time"):
        service_ms = _milliseconds(request.service_time, "service_time", problems)
    subject = request.subject
    name, name_key = subject.name, subject.name_key
    document_type, number, country, key = 0, "", "", None
    who = subject.WhichOneof("id")
    if who == "document":
        document = subject.document
        document_type, number, country = document.type, document.number, document.country
        if document_type not in _DOCUMENT_TYPES:
            problems.append(("subject.document.type", "is not a DocumentType of this version"))
        if name_key:
            problems.append(("subject.name_key", "goes with subject.key; send subject.name with a document"))
    elif who == "key":
        key = _lookup_key(subject.key, problems)
        if name_key and len(name_key) != DIGEST_BYTES:
            problems.append(("subject.name_key", f"must be {DIGEST_BYTES} bytes"))
        if name:
            problems.append(("subject.name", "goes with subject.document; send subject.name_key with a key"))
    elif not problems and rulebook.screen(purchase, act_ms or now_ms).unrestricted is None:
        problems.append(("subject", "is required for this purchase: set subject.document"))
    if name and len(name) > MAX_TEXT:
        problems.append(("subject.name", f"must be at most {MAX_TEXT} characters"))
    if len(request.item_id) > MAX_ITEM_ID:
        problems.append(("item_id", f"must be at most {MAX_ITEM_ID} characters"))
    if problems:
        raise Malformed(problems)
    wanted = request.min_feed_sequence
    # What Query(...) does, without its Python-level constructor: this is done for every check.
    return _new(Query, (purchase, document_type, number, country, key, name, name_key, act_ms, service_ms, wanted))


_new: Callable[[type[Query], tuple[Any, ...]], Query] = tuple.__new__


class Asked(NamedTuple):
    """A question, and what its answer must bear."""

    item: bytes  # item_id, serialised as field 1: of an answer too; b"" when there is none
    query: Query
    with_trace: bool = False


def asked(request: pb.CheckRequest, rulebook: Rulebook, now_ms: int) -> Asked:
    """The question of any request; raises Malformed."""
    item = delimited(request.item_id.encode()) if request.item_id else b""
    return Asked(item, query(request, rulebook, now_ms), request.with_trace)


def plain(raw: bytes) -> Asked | None:
    """What `asked` makes of these bytes, where they are a plain question; None: have protobuf read them.

    Plain is a document with its type, and perhaps a name, asked about one purchase that has nothing wrong, fields in
    the order of their numbers as all writers leave them, no trace. A protobuf message makes a Python object of each
    part that is looked at: this saves 2 µs of 10 for a whole call, and 10 of 35 with caches as cold as a server's are.
    """
    try:
        # item_id 0A n …, subject 12 n, document 0A n, type 08 t, number 12 n …, country 1A n …, name 1A n …
        subject = raw[1] + 2 if raw[0] == 0x0A else 0
        document = subject + 4
        end = document + raw[subject + 3]
        number_end = document + 4 + raw[document + 3]
        if (
            raw[subject] != 0x12
            or raw[subject + 2] != 0x0A
            or raw[document] != 0x08
            or raw[document + 2] != 0x12
            or not raw[:end].isascii()  # so every length was one byte, and every text UTF-8
        ):
            return None
        country = name = ""
        if number_end != end:
            if raw[number_end] != 0x1A or number_end + 2 + raw[number_end + 1] != end:
                return None
            country = raw[number_end + 2 : end].decode()
        subject_end = subject + 2 + raw[subject + 1]
        if subject_end != end:
            if raw[end] != 0x1A or end + 2 + raw[end + 1] != subject_end:  # shorter than the subject: one byte, too
                return None
            name = raw[end + 2 : subject_end].decode()
        document_type = raw[document + 1]
        purchase_end = subject_end + 2 + raw[subject_end + 1]
        if raw[subject_end] != 0x1A or raw[subject_end + 1] > 127 or purchase_end > len(raw):
            return None
        if document_type not in _DOCUMENT_TYPES:
            return None
        purchase, violations = _purchase(raw[subject_end + 2 : purchase_end])
        act_ms = service_ms = wanted = 0
        if purchase_end != len(raw):
            act_ms, service_ms, wanted = _read_times(raw[purchase_end:])
    except (IndexError, ValueError, DecodeError):  # UnicodeDecodeError is a ValueError
        return None
    if violations:
        return None
    number = raw[document + 4 : number_end].decode()
    question = _new(Query, (purchase, document_type, number, country, None, name, b"", act_ms, service_ms, wanted))
    return _new_asked(Asked, (raw[:subject], question, False))


class Batch(NamedTuple):
    """The items of a BatchCheckRequest, in order: those that are plain already as questions."""

    items: list[Asked | pb.CheckRequest]


def batch(raw: bytes) -> Batch:
    """A BatchCheckRequest read item by item as protobuf would: 9 µs for all of an item, not 12. Raises DecodeError."""
    items: list[Asked | pb.CheckRequest] = []
    at, end = 0, len(raw)
    try:
        while at < end:
            length, start = raw[at + 1], at + 2
            if length > 127:  # a varint of two bytes
                length, start = length & 127 | raw[at + 2] << 7, at + 3
                if raw[at + 2] > 127:
                    break
            if raw[at] != 0x0A or start + length > end:
                break
            item = raw[start : start + length]
            items.append(plain(item) or pb.CheckRequest.FromString(item))
            at = start + length
        else:
            return Batch(items)
    except IndexError:
        pass
    return Batch(list(pb.BatchCheckRequest.FromString(raw).items))  # fields of a later version, or unreadable


def _read_times(raw: bytes) -> tuple[int, int, int]:
    """act_time, service_time and min_feed_sequence of a request's last bytes. Raises ValueError if they hold more."""
    rest = pb.CheckRequest.FromString(raw)
    known = rest.item_id or rest.HasField("subject") or rest.HasField("purchase") or rest.with_trace
    if known or rest.SerializeToString() != raw:  # a field that is set to nothing would unset what came before
        raise ValueError
    problems: list[Violation] = []
    act_ms = _milliseconds(rest.act_time, "act_time", problems) if rest.HasField("act_time") else 0
    service_ms = _milliseconds(rest.service_time, "service_time", problems) if rest.HasField("service_time") else 0
    if problems:
        raise ValueError
    return act_ms, service_ms, rest.min_feed_sequence


_new_asked: Callable[[type[Asked], tuple[Any, ...]], Asked] = tuple.__new__


def _read_purchase(raw: bytes) -> tuple[p.Purchase, tuple[Violation, ...]]:
    """A Purchase message as core's value, and what is wrong with it."""
    message = pb.Purchase.FromString(raw)
    kind = message.WhichOneof("kind")
    if kind is None:
        return p.Flight(), (("purchase", "is required: set exactly one kind, such as train or flight"),)
    problems: list[Violation] = []
    purchase = _PURCHASES[kind](getattr(message, kind), problems)
    return purchase, tuple(problems)


# Remembered, for it says nothing of a person; bounded in number here and in size by the caller.
_purchase = lru_cache(maxsize=16_384)(_read_purchase)


@lru_cache(maxsize=16_384, typed=True)  # typed: two kinds with equal attributes are equal as tuples
def purchase_message(purchase: p.Purchase) -> bytes:
    """A serialised Purchase that `query` reads as this value: what an edge sends of a purchase, nothing a rule leaves
    unread among it. Remembered, for it says nothing of a person."""
    message = pb.Purchase()
    inner = getattr(message, kind_of(purchase))
    inner.SetInParent()
    for name, value in zip(type(purchase)._fields, purchase, strict=True):
        if isinstance(value, p.Money):
            if value.currency:
                money = getattr(inner, name)
                money.currency_code = value.currency
                money.units, money.nanos = divmod(value.nanos, 1_000_000_000)
        else:
            setattr(inner, name, value)
    return message.SerializeToString()


def purchase_value(raw: bytes) -> p.Purchase:
    """A serialised Purchase as `query` reads it; raises Malformed."""
    purchase, violations = _read_purchase(raw)
    if violations:
        raise Malformed(list(violations))
    return purchase


def kind_of(purchase: p.Purchase) -> str:
    """The kind of a purchase, as the Purchase oneof names it."""
    return _KIND_OF[type(purchase)]


_KIND_OF = {value: name for name, value in p.KINDS.items()}
_DOCUMENT_TYPES = frozenset(int(kind) for kind in DocumentType)


def _lookup_key(key: pb.LookupKey, problems: list[Violation]) -> LookupKey:
    if not key.key_id:
        problems.append(("subject.key.key_id", "is required: the id of the digest key that made the digest"))
    if len(key.digest) != DIGEST_BYTES:
        problems.append(("subject.key.digest", f"must be {DIGEST_BYTES} bytes"))
    if key.document_type not in _DOCUMENT_TYPES:
        problems.append(("subject.key.document_type", "is not a DocumentType of this version"))
    return LookupKey(key.key_id, key.digest, key.name_required)


def _milliseconds(time: Timestamp, field: str, problems: list[Violation]) -> int:
    if not (-62_135_596_800 <= time.seconds <= _MAX_SECONDS and 0 <= time.nanos < 1_000_000_000):
        problems.append((field, "must be a time between years 1 and 9999 with nanos from 0 to 999999999"))
        return 0
    return time.seconds * 1000 + time.nanos // 1_000_000 or 1  # 0 means "not said" in core


def _money(money: Any, field: str, problems: list[Violation]) -> p.Money:
    currency = money.currency_code
    if not (len(currency) == 3 and currency.isascii() and currency.isalpha() and currency.isupper()):
        problems.append((f"{field}.currency_code", "must be an ISO 4217 code such as CNY"))
    if money.units < 0 or not 0 <= money.nanos < 1_000_000_000:
        problems.append((field, "must not be negative; nanos go from 0 to 999999999"))
    return p.Money(currency, money.units * 1_000_000_000 + money.nanos)


def _enum(value: int, kind: Any, field: str, problems: list[Violation]) -> Any:
    try:
        return kind(value)
    except ValueError:
        words = ", ".join(member.name for member in kind)
        problems.append((field, f"is required: one of {words}"))
        return next(iter(kind))


def _short(text: str, field: str, problems: list[Violation]) -> str:
    if len(text) > MAX_TEXT:
        problems.append((field, f"must be at most {MAX_TEXT} characters"))
        return ""
    return text


def _train(seat: pb.TrainSeat, problems: list[Violation]) -> p.Purchase:
    code, seat_code, seat_name = seat.train_code, seat.seat_code, seat.seat_name
    if not code or len(code) > MAX_TEXT:
        problems.append(("purchase.train.train_code", f"is required, at most {MAX_TEXT} characters"))
    if len(seat_code) > MAX_TEXT:
        problems.append(("purchase.train.seat_code", f"must be at most {MAX_TEXT} characters"))
    if len(seat_name) > MAX_TEXT:
        problems.append(("purchase.train.seat_name", f"must be at most {MAX_TEXT} characters"))
    return p.Train(code, seat_code, seat_name, seat.is_emu, seat.is_standing)


def _flight(_: pb.Flight, __: list[Violation]) -> p.Purchase:
    return p.Flight()


def _ship(berth: pb.ShipBerth, problems: list[Violation]) -> p.Purchase:
    if not berth.berth_class:
        problems.append(("purchase.ship.berth_class", "is required: the class as printed, such as 二等"))
    return p.Ship(_short(berth.berth_class, "purchase.ship.berth_class", problems))


def _lodging(lodging: pb.Lodging, problems: list[Violation]) -> p.Purchase:
    if not 0 <= lodging.star_rating <= 5:
        problems.append(("purchase.lodging.star_rating", "must be 1 to 5 official stars, or 0 for unrated"))
    return p.Lodging(lodging.star_rating)


def _venue(venue: pb.Venue, problems: list[Violation]) -> p.Purchase:
    return p.Venue(_enum(venue.kind, p.VenueKind, "purchase.venue.kind", problems))


def _destination(text: str, field: str, problems: list[Violation]) -> str:
    land = text.strip().upper()
    if land and not (len(land) == 3 and land.isascii() and land.isalpha()):
        problems.append((field, "must be an ISO 3166-1 alpha-3 code such as THA"))
    if land == "CHN":
        problems.append((field, "is the mainland: ask as domestic_tour"))
    return land


def _outbound_tour(tour: pb.OutboundTour, problems: list[Violation]) -> p.Purchase:
    land = _destination(tour.destination, "purchase.outbound_tour.destination", problems)
    return p.OutboundTour(tour.is_group, tour.sold_by_agency, land)


def _outbound_service(service: pb.OutboundService, problems: list[Violation]) -> p.Purchase:
    kind = _enum(service.kind, p.OutboundServiceKind, "purchase.outbound_service.kind", problems)
    land = _destination(service.destination, "purchase.outbound_service.destination", problems)
    return p.OutboundService(kind, service.sold_by_agency, land)


def _domestic_tour(tour: pb.DomesticTour, _: list[Violation]) -> p.Purchase:
    return p.DomesticTour(tour.is_package)


def _resort(resort: pb.Resort, problems: list[Violation]) -> p.Purchase:
    return p.Resort(
        _short(resort.grade, "purchase.resort.grade", problems),
        _money(resort.amount, "purchase.resort.amount", problems),
        _short(resort.region, "purchase.resort.region", problems),
    )


def _school(school: pb.School, problems: list[Violation]) -> p.Purchase:
    fee = p.Money("", 0)
    if school.is_private or school.HasField("fee"):
        fee = _money(school.fee, "purchase.school.fee", problems)
    region = _short(school.region, "purchase.school.region", problems)
    return p.School(school.is_private, fee, region, school.payer_named_by_order)


def _insurance(insurance: pb.Insurance, problems: list[Violation]) -> p.Purchase:
    premium = p.Money("", 0)
    if insurance.has_cash_value or insurance.HasField("annual_premium"):
        premium = _money(insurance.annual_premium, "purchase.insurance.annual_premium", problems)
    region = _short(insurance.region, "purchase.insurance.region", problems)
    return p.Insurance(insurance.has_cash_value, premium, region)


def _real_estate(estate: pb.RealEstate, problems: list[Violation]) -> p.Purchase:
    return p.RealEstate(_enum(estate.deal, p.RealEstateDeal, "purchase.real_estate.deal", problems))


def _construction(work: pb.Construction, problems: list[Violation]) -> p.Purchase:
    return p.Construction(_enum(work.kind, p.ConstructionKind, "purchase.construction.kind", problems), work.is_luxury)


def _vehicle(vehicle: pb.Vehicle, problems: list[Violation]) -> p.Purchase:
    use = _enum(vehicle.use, p.VehicleUse, "purchase.vehicle.use", problems)
    return p.Vehicle(use, _enum(vehicle.kind, p.VehicleKind, "purchase.vehicle.kind", problems))


def _office_lease(lease: pb.OfficeLease, problems: list[Violation]) -> p.Purchase:
    return p.OfficeLease(_short(lease.grade, "purchase.office_lease.grade", problems))


_PURCHASES: dict[str, Callable[[Any, list[Violation]], p.Purchase]] = {
    "train": _train,
    "flight": _flight,
    "ship": _ship,
    "lodging": _lodging,
    "venue": _venue,
    "outbound_tour": _outbound_tour,
    "outbound_service": _outbound_service,
    "domestic_tour": _domestic_tour,
    "resort": _resort,
    "school": _school,
    "insurance": _insurance,
    "real_estate": _real_estate,
    "construction": _construction,
    "vehicle": _vehicle,
    "office_lease": _office_lease,
}


# --- out ---------------------------------------------------------------------------------------------------------

_FOR_SELLERS = frozenset({Advisory.OPEN_RULE, Advisory.STALE_DATA})


def for_seller(decision: Decision) -> Decision:
    """What a seller may see: an ALLOWED tells nothing about the person, not even that the index was asked."""
    advisories = tuple(advisory for advisory in decision.advisories if advisory in _FOR_SELLERS)
    if decision.outcome is not Outcome.ALLOWED or decision.reason is Reason.PURCHASE_NOT_RESTRICTED:
        return decision._replace(advisories=advisories)
    answered_by = decision.answered_by if decision.answered_by is AnsweredBy.STAND_IN else AnsweredBy.FILTER
    return decision._replace(reason=Reason.NOT_LISTED, advisories=advisories, answered_by=answered_by)


def for_edge(decision: Decision) -> Decision:
    """What an edge may see: as a seller, but it learns where the exact index holds nothing at all under a key, which it
    may remember for its filter's false positives. A record that does not bar looks like a filter miss."""
    if decision.reason is Reason.NOT_LISTED and not decision.advisories:
        return decision
    return for_seller(decision)


class Renderer:
    """Turns decisions into responses: for one rulebook, one freshness and one second.

    Nearly all answers are ALLOWED without asking the index. The rulebook keeps those decisions ready-made and their
    answers differ in `item_id` alone, so each is written once and serialised answers are put together from its bytes:
    concatenated fields are one message.
    """

    __slots__ = ("_expire_s", "_ready", "as_of", "rulebook", "second")

    def __init__(self, rulebook: Rulebook, as_of: AsOf, now_ms: int) -> None:
        self.rulebook = rulebook
        self.as_of = as_of
        self.second = now_ms // 1000
        self._expire_s = self.second + ALLOWED_FOR_S
        self._ready: dict[int, tuple[Decision, bytes]] = {}

    def ready(self, decision: Decision, item: bytes) -> bytes:
        """A serialised CheckResponse. Only for the decisions a rulebook keeps: each is remembered by its identity.

        `item`: its item_id, serialised as field 1.
        """
        known = self._ready.get(id(decision))
        if known is None:  # the entry keeps its decision alive, so the id stays that one's
            written = pb.CheckResponse()
            self.write(written, decision)
            known = (decision, written.SerializeToString())
            if len(self._ready) < _READY:
                self._ready[id(decision)] = known
        return known[1] + item

    def write(self, into: pb.CheckResponse, decision: Decision) -> None:
        """Write all of the answer but item_id, decision_id and trace. `decision` is as the caller may see it."""
        row = self.rulebook.rows.get(decision.rule_id)
        into.outcome = int(decision.outcome)  # type: ignore[assignment]
        into.reason = int(decision.reason)  # type: ignore[assignment]
        into.answered_by = int(decision.answered_by)  # type: ignore[assignment]
        into.rulebook_version = self.rulebook.version
        if decision.advisories:
            into.advisory.extend([int(advisory) for advisory in decision.advisories])  # type: ignore[misc]
        if row is not None:
            into.legal_basis = row.basis
        as_of = into.data_as_of
        as_of.feed_sequence = self.as_of.feed_sequence
        as_of.snapshot_epoch = self.as_of.snapshot_epoch
        if self.as_of.feed_time_ms:
            as_of.feed_time.seconds, rest = divmod(self.as_of.feed_time_ms, 1000)
            as_of.feed_time.nanos = rest * 1_000_000
        if decision.outcome is Outcome.ALLOWED:
            into.expire_time.seconds = self._expire_s
            return
        notice = self.rulebook.notices[decision.outcome.name]
        into.notice.zh = notice.zh
        into.notice.en = f"{notice.en} ({decision.hint})" if decision.hint else notice.en
        if decision.outcome is Outcome.BARRED and row is not None:
            for text in row.alternatives:
                into.alternatives.add(zh=text.zh, en=text.en)


_LENGTHS = [bytes([length]) for length in range(128)]
_FIELD_1 = b"\x0a"  # field 1, length-delimited: CheckResponse.item_id, and an item of BatchCheckResponse


def delimited(raw: bytes) -> bytes:
    """Bytes as field 1 of a message."""
    length = len(raw)
    if length < 128:
        return _FIELD_1 + _LENGTHS[length] + raw
    varint = bytearray()
    while length > 127:
        varint.append(length & 127 | 128)
        length >>= 7
    varint.append(length)
    return _FIELD_1 + varint + raw


def bad_request(violations: list[Violation]) -> status_pb2.Status:
    """INVALID_ARGUMENT with one google.rpc.BadRequest field violation each."""
    details = error_details_pb2.BadRequest()
    for field, text in violations:
        details.field_violations.add(field=field, description=text)
    message = "; ".join(f"{field}: {text}" for field, text in violations)
    return _status(code_pb2.INVALID_ARGUMENT, message, details)


def permission_denied(message: str) -> status_pb2.Status:
    """PERMISSION_DENIED for one item of a batch or stream."""
    return _status(code_pb2.PERMISSION_DENIED, message)


def _status(code: int, message: str, details: Message | None = None) -> status_pb2.Status:
    status = status_pb2.Status(code=code, message=message)
    if details is not None:
        status.details.add().Pack(details)
    return status
