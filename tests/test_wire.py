"""Claims about the contract's two ends: every question is read attribute by attribute or refused by field, and every
answer says all it must and nothing it must not."""

from itertools import product
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from checker import wire
from checker.core import purchase as p
from checker.core.decision import Advisory, AnsweredBy, Decision, Outcome, Reason
from checker.core.document import DocumentType, Fault
from checker.core.freshness import AsOf
from checker.core.lookup import LookupKey, Query
from checker.core.measure import Item
from proto.checker.v1 import check_pb2 as pb
from tests.builders import DEBTOR, NOW, ms, rulebook

CNY = {"currency_code": "CNY", "units": "12", "nanos": 500_000_000}
YUAN = p.Money("CNY", 12_500_000_000)

PURCHASES: list[tuple[dict[str, Any], p.Purchase]] = [
    (
        {"train": {"train_code": "G1", "seat_code": "O", "seat_name": "二等座", "is_emu": True, "is_standing": True}},
        p.Train("G1", "O", "二等座", True, True),
    ),
    ({"train": {"train_code": "K1"}}, p.Train("K1", "", "", False, False)),
    ({"flight": {}}, p.Flight()),
    ({"flight": {"carrier": "CA", "flight_number": "1501"}}, p.Flight()),
    ({"ship": {"berth_class": "二等"}}, p.Ship("二等")),
    ({"lodging": {}}, p.Lodging(0)),
    ({"lodging": {"star_rating": 5}}, p.Lodging(5)),
    ({"venue": {"kind": "VENUE_KIND_GOLF"}}, p.Venue(p.VenueKind.GOLF)),
    ({"venue": {"kind": "VENUE_KIND_NIGHTCLUB"}}, p.Venue(p.VenueKind.NIGHTCLUB)),
    (
        {"outbound_tour": {"is_group": True, "sold_by_agency": True, "destination": " tha "}},
        p.OutboundTour(True, True, "THA"),
    ),
    ({"outbound_tour": {}}, p.OutboundTour(False, False, "")),
    (
        {"outbound_service": {"kind": "OUTBOUND_SERVICE_KIND_VISA", "sold_by_agency": True, "destination": "HKG"}},
        p.OutboundService(p.OutboundServiceKind.VISA, True, "HKG"),
    ),
    ({"domestic_tour": {"is_package": True}}, p.DomesticTour(True)),
    ({"resort": {"grade": "国家级", "amount": CNY, "region": "HI"}}, p.Resort("国家级", YUAN, "HI")),
    (
        {"school": {"is_private": True, "fee": CNY, "region": "BJ", "payer_named_by_order": True}},
        p.School(True, YUAN, "BJ", True),
    ),
    ({"school": {}}, p.School(False, p.Money("", 0), "", False)),
    ({"insurance": {"has_cash_value": True, "annual_premium": CNY, "region": "GD"}}, p.Insurance(True, YUAN, "GD")),
    ({"insurance": {}}, p.Insurance(False, p.Money("", 0), "")),
    ({"real_estate": {"deal": "REAL_ESTATE_DEAL_RENT"}}, p.RealEstate(p.RealEstateDeal.RENT)),
    (
        {"construction": {"kind": "CONSTRUCTION_KIND_DECORATION", "is_luxury": True}},
        p.Construction(p.ConstructionKind.DECORATION, True),
    ),
    (
        {"vehicle": {"use": "VEHICLE_USE_NON_OPERATING", "kind": "VEHICLE_KIND_E_BIKE"}},
        p.Vehicle(p.VehicleUse.NON_OPERATING, p.VehicleKind.E_BIKE),
    ),
    ({"office_lease": {"grade": "甲级"}}, p.OfficeLease("甲级")),
]


def a_request(purchase: dict[str, Any] | None = None, **more: Any) -> pb.CheckRequest:
    """A flight for the debtor, unless said otherwise."""
    asked: dict[str, Any] = {
        "purchase": {"flight": {}} if purchase is None else purchase,
        "subject": {"document": {"type": "DOCUMENT_TYPE_RESIDENT_ID", "number": DEBTOR}},
    }
    return ParseDict(asked | more, pb.CheckRequest())


def read(request: pb.CheckRequest) -> Query:
    return wire.query(request, rulebook(), NOW)


def violations(request: pb.CheckRequest) -> list[str]:
    """The fields that are refused."""
    with pytest.raises(wire.Malformed) as raised:
        read(request)
    assert all(text for _, text in raised.value.violations)
    return [field for field, _ in raised.value.violations]


# --- in


@pytest.mark.parametrize(("fields", "purchase"), PURCHASES)
def test_every_purchase_is_read_attribute_by_attribute(fields: dict[str, Any], purchase: p.Purchase) -> None:
    """Each kind becomes core's value of that kind with exactly the attributes sent, and knows its contract name."""
    query = read(a_request(fields))

    assert purchase == query.purchase
    assert type(query.purchase) is type(purchase)
    (kind,) = fields
    assert wire.kind_of(query.purchase) == kind


def test_every_kind_of_the_contract_is_read() -> None:
    """No kind of purchase in the contract is without a value in core, nor the other way round."""
    contract = {field.name for field in pb.Purchase.DESCRIPTOR.oneofs_by_name["kind"].fields}

    assert contract == set(p.KINDS)
    assert contract == {next(iter(fields)) for fields, _ in PURCHASES}


@pytest.mark.parametrize("kind", p.KINDS)
def test_attributes_have_the_contracts_names(kind: str) -> None:
    """What a rule reads is called in core as the contract calls it; a flight's are for the caller's records only."""
    message: Any = pb.Purchase.DESCRIPTOR.fields_by_name[kind].message_type
    contract = [field.name for field in message.fields] if kind != "flight" else []

    assert contract == list(p.KINDS[kind]._fields)


@pytest.mark.parametrize(
    ("core", "contract", "prefix"),
    [
        (Outcome, pb.Outcome, "OUTCOME_"),
        (Reason, pb.Reason, "REASON_"),
        (Advisory, pb.Advisory, "ADVISORY_"),
        (AnsweredBy, pb.AnsweredBy, "ANSWERED_BY_"),
        (DocumentType, pb.DocumentType, "DOCUMENT_TYPE_"),
        (p.VenueKind, pb.VenueKind, "VENUE_KIND_"),
        (p.OutboundServiceKind, pb.OutboundServiceKind, "OUTBOUND_SERVICE_KIND_"),
        (p.RealEstateDeal, pb.RealEstateDeal, "REAL_ESTATE_DEAL_"),
        (p.ConstructionKind, pb.ConstructionKind, "CONSTRUCTION_KIND_"),
        (p.VehicleUse, pb.VehicleUse, "VEHICLE_USE_"),
        (p.VehicleKind, pb.VehicleKind, "VEHICLE_KIND_"),
    ],
)
def test_enums_have_the_contracts_numbers(core: Any, contract: Any, prefix: str) -> None:
    """Every word has the contract's number, none is missing on either side, and 0 is "not said"."""
    expected = {name.removeprefix(prefix): number for name, number in contract.items()}
    assert expected.pop("UNSPECIFIED") == 0

    assert expected == {member.name: member.value for member in core if member.value}


def test_faults_are_reasons() -> None:
    """A document's fault is answered under the same word and number."""
    assert all(Reason(fault.value).name == fault.name for fault in Fault)
    assert len(Item) == 16


def test_a_question_is_read_whole() -> None:
    """Document, name, times and demanded feed sequence arrive as sent; times in milliseconds."""
    request = a_request(
        act_time="2026-03-10T04:00:00.5Z",
        service_time="2026-04-01T00:00:00Z",
        min_feed_sequence="18446744073709551615",
        item_id="a",
        subject={
            "document": {"type": "DOCUMENT_TYPE_FOREIGN_PASSPORT", "number": " e0 ", "country": "XAA"},
            "name": "ZHANG/SAN",
        },
    )

    assert read(request) == Query(
        purchase=p.Flight(),
        document_type=6,
        number=" e0 ",
        country="XAA",
        name="ZHANG/SAN",
        act_ms=NOW + 500,
        service_ms=ms("2026-04-01T08:00:00"),
        min_feed_sequence=2**64 - 1,
    )


def test_an_edges_question_is_read_whole() -> None:
    """A key comes with its id, digest and whether a name is needed, and the name as a digest."""
    request = a_request()
    key = pb.LookupKey(key_id="k1", digest=bytes(16), document_type=1, name_required=True)  # type: ignore[arg-type]
    request.subject.CopyFrom(pb.Subject(key=key, name_key=bytes(16)))
    query = read(request)

    assert (query.key, query.name_key, query.number) == (LookupKey("k1", bytes(16), True), bytes(16), "")


@pytest.mark.parametrize(
    ("time", "milliseconds"),
    [
        ({"seconds": 0, "nanos": 0}, 1),  # the epoch itself: 0 means "not said"
        ({"seconds": 0, "nanos": 999_999}, 1),
        ({"seconds": -1, "nanos": 0}, -1000),
        ({"seconds": 253_402_300_799, "nanos": 999_999_999}, 253_402_300_799_999),
        ({"seconds": -62_135_596_800, "nanos": 0}, -62_135_596_800_000),
    ],
)
def test_times_are_milliseconds_and_never_unsaid(time: dict[str, int], milliseconds: int) -> None:
    """A time that was sent is never taken for none, at either end of what a Timestamp can say."""
    request = a_request()
    request.act_time.seconds, request.act_time.nanos = time["seconds"], time["nanos"]
    request.service_time.CopyFrom(request.act_time)

    assert (read(request).act_ms, read(request).service_ms) == (milliseconds, milliseconds)


LONG = "x" * (wire.MAX_TEXT + 1)
BAD_MONEY: list[tuple[dict[str, Any], str]] = [
    ({}, ".currency_code"),
    ({"currency_code": "cny"}, ".currency_code"),
    ({"currency_code": "CN"}, ".currency_code"),
    ({"currency_code": "元元元"}, ".currency_code"),
    ({"currency_code": "CNY", "units": "-1"}, ""),
    ({"currency_code": "CNY", "nanos": -1}, ""),
    ({"currency_code": "CNY", "nanos": 1_000_000_000}, ""),
]
BAD_PURCHASES: list[tuple[dict[str, Any], str]] = [
    ({}, ""),
    ({"train": {}}, ".train.train_code"),
    ({"train": {"train_code": LONG}}, ".train.train_code"),
    ({"train": {"train_code": "G1", "seat_code": LONG}}, ".train.seat_code"),
    ({"train": {"train_code": "G1", "seat_name": LONG}}, ".train.seat_name"),
    ({"ship": {}}, ".ship.berth_class"),
    ({"ship": {"berth_class": LONG}}, ".ship.berth_class"),
    ({"lodging": {"star_rating": 6}}, ".lodging.star_rating"),
    ({"lodging": {"star_rating": -1}}, ".lodging.star_rating"),
    ({"venue": {}}, ".venue.kind"),
    ({"venue": {"kind": 3}}, ".venue.kind"),
    ({"outbound_tour": {"destination": "Thailand"}}, ".outbound_tour.destination"),
    ({"outbound_tour": {"destination": "CHN"}}, ".outbound_tour.destination"),
    ({"outbound_service": {}}, ".outbound_service.kind"),
    ({"outbound_service": {"kind": 1, "destination": "泰国"}}, ".outbound_service.destination"),
    ({"resort": {"grade": LONG, "amount": CNY}}, ".resort.grade"),
    ({"resort": {"region": LONG, "amount": CNY}}, ".resort.region"),
    ({"school": {"is_private": True}}, ".school.fee.currency_code"),
    ({"school": {"region": LONG}}, ".school.region"),
    ({"insurance": {"has_cash_value": True}}, ".insurance.annual_premium.currency_code"),
    ({"insurance": {"region": LONG}}, ".insurance.region"),
    ({"real_estate": {}}, ".real_estate.deal"),
    ({"construction": {"kind": 99}}, ".construction.kind"),
    ({"vehicle": {"kind": 1}}, ".vehicle.use"),
    ({"vehicle": {"use": 1}}, ".vehicle.kind"),
    ({"office_lease": {"grade": LONG}}, ".office_lease.grade"),
    *(({"resort": {"amount": money}}, f".resort.amount{at}") for money, at in BAD_MONEY),
    *(({"school": {"fee": money}}, f".school.fee{at}") for money, at in BAD_MONEY),
    *(({"insurance": {"annual_premium": money}}, f".insurance.annual_premium{at}") for money, at in BAD_MONEY),
]


@pytest.mark.parametrize(("fields", "path"), BAD_PURCHASES)
def test_a_malformed_purchase_is_refused_by_field(fields: dict[str, Any], path: str) -> None:
    """What is missing, too long, out of range or of an unknown kind is named by its path in the request, alone."""
    assert violations(a_request(fields)) == [f"purchase{path}"]


BAD_SUBJECTS: list[tuple[dict[str, Any], str]] = [
    ({}, "subject"),
    ({"document": {"type": 13, "number": DEBTOR}}, "subject.document.type"),
    ({"document": {"type": -1, "number": DEBTOR}}, "subject.document.type"),
    ({"document": {"number": DEBTOR}, "name_key": "AAAAAAAAAAAAAAAAAAAAAA=="}, "subject.name_key"),
    ({"document": {"number": DEBTOR}, "name": LONG}, "subject.name"),
    ({"key": {"digest": "AAAAAAAAAAAAAAAAAAAAAA=="}}, "subject.key.key_id"),
    ({"key": {"key_id": "k1"}}, "subject.key.digest"),
    ({"key": {"key_id": "k1", "digest": "AAAA"}}, "subject.key.digest"),
    ({"key": {"key_id": "k1", "digest": "AAAAAAAAAAAAAAAAAAAAAA==", "document_type": 99}}, "subject.key.document_type"),
    ({"key": {"key_id": "k1", "digest": "AAAAAAAAAAAAAAAAAAAAAA=="}, "name": "张三"}, "subject.name"),
    ({"key": {"key_id": "k1", "digest": "AAAAAAAAAAAAAAAAAAAAAA=="}, "name_key": "AAAA"}, "subject.name_key"),
]


@pytest.mark.parametrize(("subject", "path"), BAD_SUBJECTS)
def test_a_malformed_subject_is_refused_by_field(subject: dict[str, Any], path: str) -> None:
    """Whoever is asked about must be said in one way, whole; what is wrong is named by its path, alone."""
    assert violations(a_request(subject=subject)) == [path]


@pytest.mark.parametrize("field", ["act_time", "service_time"])
@pytest.mark.parametrize(
    ("seconds", "nanos"),
    [(-62_135_596_801, 0), (253_402_300_800, 0), (2**63 - 1, 0), (-(2**63), 0), (0, -1), (0, 10**9), (0, 2**31 - 1)],
)
def test_a_time_outside_the_calendar_is_refused(field: str, seconds: int, nanos: int) -> None:
    """A Timestamp beyond years 1 to 9999 or with wrong nanos is refused by field."""
    request = a_request()
    time = getattr(request, field)
    time.seconds, time.nanos = seconds, nanos

    assert violations(request) == [field]


def test_all_that_is_wrong_is_said_at_once() -> None:
    """A caller repairs its request once: purchase, times, subject, name and item id are all named."""
    request = a_request({"vehicle": {}}, item_id="x" * 129, subject={"key": {}, "name": LONG})
    request.act_time.nanos = -1
    request.service_time.nanos = -1

    assert violations(request) == [
        "purchase.vehicle.use",
        "purchase.vehicle.kind",
        "act_time",
        "service_time",
        "subject.key.key_id",
        "subject.key.digest",
        "subject.name",
        "subject.name",
        "item_id",
    ]


def test_nobody_need_be_named_for_what_nobody_can_be_barred_from() -> None:
    """An unrestricted purchase needs no subject, and a bad number in it is not looked at."""
    assert read(a_request({"lodging": {}}, subject={})).number == ""
    assert read(a_request({"lodging": {}}, subject={"document": {"number": "nonsense"}})).number == "nonsense"


def test_a_long_purchase_is_not_remembered() -> None:
    """What callers send cannot fill the memory: long texts are read anew each time, with the same result."""
    long = {"flight": {"carrier": "x" * 100_000}}
    before = wire._purchase.cache_info()
    assert read(a_request(long)).purchase == p.Flight()

    assert wire._purchase.cache_info() == before


WORDS = st.sampled_from([DEBTOR, "张三", "ZHANG/SAN", "", "x" * 300, "G1", "O", "CNY", "\u200b"])
NUMBERS = st.integers(-(2**31), 2**31 - 1)


@st.composite
def any_request(draw: st.DrawFn) -> pb.CheckRequest:
    """A request with any fields set to anything their types can hold."""
    request = pb.CheckRequest()
    _filled(draw, request, 4)
    return request


def _filled(draw: st.DrawFn, message: Any, depth: int) -> None:
    for field in message.DESCRIPTOR.fields:
        if not draw(st.booleans()):
            continue
        if field.message_type is not None:
            if depth:
                _filled(draw, getattr(message, field.name), depth - 1)
                getattr(message, field.name).SetInParent()
        elif field.type == field.TYPE_STRING:
            setattr(message, field.name, draw(WORDS))
        elif field.type == field.TYPE_BYTES:
            setattr(message, field.name, draw(st.sampled_from([b"", bytes(16), b"x"])))
        elif field.type == field.TYPE_BOOL:
            setattr(message, field.name, True)
        elif field.type == field.TYPE_UINT64:
            setattr(message, field.name, draw(st.integers(0, 2**64 - 1)))
        elif field.type == field.TYPE_INT64:
            setattr(message, field.name, draw(st.integers(-(2**63), 2**63 - 1)))
        else:
            setattr(message, field.name, draw(NUMBERS))


def _refused_or_read(request: pb.CheckRequest) -> None:
    refused: wire.Malformed | None = None
    try:
        assert isinstance(read(request), Query)
    except wire.Malformed as error:
        refused = error
    if refused is not None:
        said = " ".join(text for pair in refused.violations for text in pair)
        assert refused.violations
        assert str(refused) == "malformed request"
        assert "张三" not in said
        assert DEBTOR not in said
        assert "ZHANG" not in said
        assert all(_leads_somewhere(path) for path, _ in refused.violations)


def _leads_somewhere(path: str) -> bool:
    """Whether a field path names a field of the contract."""
    descriptor: Any = pb.CheckRequest.DESCRIPTOR
    for name in path.split("."):
        field = descriptor.fields_by_name.get(name)
        if field is None:
            return False
        descriptor = field.message_type
    return True


@given(any_request())
@settings(max_examples=300)
def test_any_message_is_a_question_or_refused_by_field(request: pb.CheckRequest) -> None:
    """No combination of fields raises anything but the refusal, which quotes no value and names fields that exist."""
    _refused_or_read(request)


@given(st.binary(max_size=80), st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_any_bytes_that_parse_are_a_question_or_refused(noise: bytes, random: Any) -> None:
    """Nor do bytes of a stranger: whatever protobuf accepts as a CheckRequest is read or refused."""
    whole = a_request({"train": {"train_code": "G1"}}, act_time="2026-03-10T04:00:00Z").SerializeToString()
    at = random.randrange(len(whole) + 1)
    for raw in (noise, whole[:at] + noise + whole[at:], whole[:at] + noise):
        try:
            request = pb.CheckRequest.FromString(raw)
        except Exception:  # noqa: BLE001, S112 - protobuf's own refusal, of the kind grpc answers itself
            continue
        _refused_or_read(request)


PLAIN: list[dict[str, Any]] = [
    {},
    {"item_id": "1"},
    {"item_id": "x" * 125, "purchase": {"train": {"train_code": "G1", "seat_code": "O", "seat_name": "二等座"}}},
    {"subject": {"document": {"type": "DOCUMENT_TYPE_RESIDENT_ID", "number": DEBTOR}, "name": "张三"}},
    {"subject": {"document": {"type": "DOCUMENT_TYPE_FOREIGN_PASSPORT", "number": "E00001", "country": "XAA"}}},
    {
        "subject": {
            "document": {"type": "DOCUMENT_TYPE_FOREIGN_PASSPORT", "number": "E00001", "country": "XAA"},
            "name": "ZHANG/SAN",
        },
        "act_time": "2026-03-10T04:00:00Z",
        "service_time": "2026-03-11T04:00:00.5Z",
        "min_feed_sequence": "77",
    },
]


@pytest.mark.parametrize("fields", PLAIN)
def test_a_plain_question_is_read_from_its_bytes(fields: dict[str, Any]) -> None:
    """What nearly all callers send needs no message object, and gives the same question and item."""
    request = a_request(**fields)
    plain = wire.plain(request.SerializeToString())

    assert plain is not None
    assert plain.query == read(request)
    assert plain.item == pb.CheckResponse(item_id=request.item_id).SerializeToString()


ODD = [  # fields once more, unset, unknown, of another type, cut short, in longer varints, not UTF-8
    *(b"", b"\x0a\x00", b"\x0a\x01b", b"\x12\x00", b"\x1a\x00", b"\x1a\x02\x12\x00", b"\x22\x00", b"\x2a\x02\x10\x01"),
    *(
        b"\x30\x00",
        b"\x30\x05",
        b"\x38\x00",
        b"\x38\x01",
        b"\x7a\x01z",
        b"\x10\x01",
        b"\x0a",
        b"\x82\x00",
        b"\xe5\xbc\xa0",
    ),
    *(b"\xff", b"\x80", b"\x92\x00\x00", b"\x22\x02\x1a\x00", b"\x1a\x01z", b"\x12\x02\x12\x00", b"\x12\x03\x1a\x01z"),
]


def _part(tag: int, content: bytes) -> bytes:
    """A length-delimited field of any length below 16 384."""
    length = bytes([len(content)]) if len(content) < 128 else bytes([len(content) & 127 | 128, len(content) >> 7])
    return bytes([tag]) + length + content


@st.composite
def plain_or_odd(draw: st.DrawFn) -> bytes:
    """Bytes like a plain question's, with odd pieces at every seam and lengths that fit them, then perhaps damaged."""

    def odd() -> bytes:
        return draw(st.sampled_from(ODD)) if draw(st.integers(0, 29)) == 0 else b""

    def perhaps(field: bytes) -> bytes:
        return field if draw(st.booleans()) else b""

    texts = st.sampled_from(
        [DEBTOR, "E00001", "XAA", "张三", "x" * 126, "x" * 127, "x" * 128, "张" * 41, "张" * 60, ""]
    )
    kind = draw(
        st.sampled_from([b"\x08\x01", b"\x08\x06", b"\x08\x01", b"\x08\x00", b"\x08\x63", b"\x08\x81\x00", b""])
    )
    number, country, name, item = (draw(texts).encode() for _ in range(4))
    document = odd() + kind + odd() + _part(0x12, number) + odd() + perhaps(_part(0x1A, country)) + odd()
    subject = odd() + _part(0x0A, document) + odd() + perhaps(_part(0x1A, name)) + odd()
    request = a_request(**draw(st.sampled_from(PLAIN)))
    request.ClearField("subject")
    request.ClearField("item_id")
    raw = (
        odd() + perhaps(_part(0x0A, item)) + odd() + _part(0x12, subject) + odd() + request.SerializeToString() + odd()
    )
    for _ in range(draw(st.integers(0, 1))):
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(st.sampled_from(ODD) | st.binary(max_size=2)) + raw[at + draw(st.integers(0, 2)) :]
    return raw


def _as_protobuf_reads_it(raw: bytes) -> None:
    plain = wire.plain(raw)
    if plain is not None:
        request = pb.CheckRequest.FromString(raw)
        assert plain.query == read(request), raw
        assert pb.CheckResponse.FromString(plain.item) == pb.CheckResponse(item_id=request.item_id), raw
        assert not request.with_trace, raw


@given(plain_or_odd())
@settings(max_examples=1000)
def test_bytes_are_read_as_protobuf_reads_them_or_not_at_all(raw: bytes) -> None:
    """No bytes give another question, item or wish for a trace than their message does, and none that is refused."""
    _as_protobuf_reads_it(raw)


def _as_protobuf_reads_all(raw: bytes) -> None:
    """Every item of a batch, or DecodeError from both."""
    try:
        expected = list(pb.BatchCheckRequest.FromString(raw).items)
    except DecodeError:
        with pytest.raises(DecodeError):
            wire.batch(raw)
        return
    found = wire.batch(raw).items
    assert len(found) == len(expected), raw
    for item, request in zip(found, expected, strict=True):
        if isinstance(item, wire.Asked):
            assert item.query == read(request), raw
            assert pb.CheckResponse.FromString(item.item) == pb.CheckResponse(item_id=request.item_id), raw
            assert item.with_trace == request.with_trace, raw
        else:
            assert item == request, raw


@given(st.lists(plain_or_odd(), max_size=4), st.data())
@settings(max_examples=400)
def test_a_batch_is_read_as_protobuf_reads_it(items: list[bytes], data: st.DataObject) -> None:
    """Whatever bytes come: with odd pieces between the items, lengths in longer varints, damaged, cut short."""
    raw = b""
    for item in items:
        raw += data.draw(st.sampled_from(ODD)) if data.draw(st.integers(0, 9)) == 0 else b""
        part = _part(0x0A, item)
        if len(item) < 128 and data.draw(st.booleans()):
            part = bytes([0x0A, len(item) | 128, 0]) + item
        raw += part
    for _ in range(data.draw(st.integers(0, 1))):
        at = data.draw(st.integers(0, len(raw)))
        raw = raw[:at] + data.draw(st.sampled_from(ODD) | st.binary(max_size=2)) + raw[at + 2 :]
    _as_protobuf_reads_all(raw)
    _as_protobuf_reads_all(raw[: data.draw(st.integers(0, len(raw)))])


def test_the_plain_items_of_a_batch_are_read_from_their_bytes() -> None:
    """No message object is made of them, and one that is not plain costs the others nothing."""
    items = [a_request(**fields) for fields in PLAIN]
    items.insert(2, a_request(with_trace=True))
    found = wire.batch(pb.BatchCheckRequest(items=items).SerializeToString()).items

    assert [isinstance(item, wire.Asked) for item in found] == [not item.with_trace for item in items]


LONG_SEAT = {"purchase": {"train": {"train_code": "G1", "seat_name": "二" * 60}}}


@pytest.mark.parametrize("fields", [*PLAIN, LONG_SEAT])
def test_damaged_bytes_are_read_as_protobuf_reads_them_or_not_at_all(fields: dict[str, Any]) -> None:
    """Nor do they with any one byte exchanged for any other, or any odd piece anywhere in the place of up to two."""
    whole = a_request(**fields).SerializeToString()
    for at in range(len(whole)):
        for byte in range(256):
            _as_protobuf_reads_it(whole[:at] + bytes([byte]) + whole[at + 1 :])
    for at, odd, dropped in product(range(len(whole) + 1), ODD, range(3)):
        _as_protobuf_reads_it(whole[:at] + odd + whole[at + dropped :])


def test_a_plain_question_leaves_nothing_of_a_person_behind() -> None:
    """Only the purchase's bytes are remembered: any number of people asking about one purchase are one entry."""
    wire._purchase.cache_clear()
    for number in range(50):
        subject = {"document": {"type": "DOCUMENT_TYPE_PRC_PASSPORT", "number": f"E0000{number:04}"}, "name": "张三"}
        assert wire.plain(a_request(subject=subject, item_id=str(number)).SerializeToString()) is not None

    assert wire._purchase.cache_info().currsize == 1


# --- out

DECISIONS = [
    Decision(outcome, reason, by, advisories, rule_id, measures)
    for outcome, reason, by, advisories, (rule_id, measures) in product(
        Outcome,
        Reason,
        AnsweredBy,
        [(), tuple(Advisory), (Advisory.NAME_MISMATCH,), (Advisory.STALE_DATA,)],
        [("", ()), ("flight", ("M1",))],
    )
]


def test_a_seller_reads_nothing_about_the_person() -> None:
    """Of any decision: an ALLOWED has one of two reasons, never the index's name, and no advisory about the person."""
    for decision in DECISIONS:
        shown = wire.for_seller(decision)
        assert shown.outcome is decision.outcome
        assert set(shown.advisories) <= {Advisory.OPEN_RULE, Advisory.STALE_DATA}
        assert set(shown.advisories) == set(decision.advisories) & {Advisory.OPEN_RULE, Advisory.STALE_DATA}
        assert shown.rule_id == decision.rule_id
        if decision.outcome is Outcome.ALLOWED:
            assert shown.reason in (Reason.PURCHASE_NOT_RESTRICTED, Reason.NOT_LISTED)
            if decision.reason is not Reason.PURCHASE_NOT_RESTRICTED:
                assert shown.answered_by in (AnsweredBy.FILTER, AnsweredBy.STAND_IN)
        else:
            assert (shown.reason, shown.answered_by) == (decision.reason, decision.answered_by)


def test_a_seller_cannot_tell_a_listed_from_an_unlisted_person_who_may_buy() -> None:
    """To a seller the bytes of an exempted, a lifted, a mistaken and an unlisted person's answer are the same."""
    renderer = wire.Renderer(rulebook(), AsOf(7, NOW, 0, 0), NOW)
    miss = rulebook().screen(p.Flight(), NOW).miss
    seen = {_bytes(renderer, miss)}
    for reason in (Reason.EXEMPTED, Reason.NOT_IN_FORCE, Reason.OUT_OF_SCOPE, Reason.NOT_LISTED):
        for advisories in ((), (Advisory.NAME_MISMATCH,), (Advisory.MINOR, Advisory.DISPUTED)):
            found = Decision(Outcome.ALLOWED, reason, AnsweredBy.INDEX, advisories, miss.rule_id)
            seen.add(_bytes(renderer, wire.for_seller(found)))

    assert len(seen) == 1


def _bytes(renderer: wire.Renderer, decision: Decision) -> bytes:
    answer = pb.CheckResponse()
    renderer.write(answer, decision)
    return answer.SerializeToString(deterministic=True)


ROW = rulebook().rows[rulebook().screen(p.Train("G1", "O", "", False, False), NOW).row.rule_id]


def expected(decision: Decision, as_of: AsOf) -> dict[str, Any]:
    """The answer as the contract puts it, written by hand."""
    book = rulebook()
    said: dict[str, Any] = {
        "outcome": f"OUTCOME_{decision.outcome.name}",
        "reason": f"REASON_{decision.reason.name}",
        "answered_by": f"ANSWERED_BY_{decision.answered_by.name}",
        "rulebook_version": book.version,
        "data_as_of": {},
    }
    if decision.advisories:
        said["advisory"] = [f"ADVISORY_{advisory.name}" for advisory in decision.advisories]
    if decision.rule_id:
        said["legal_basis"] = ROW.basis
    if as_of.feed_sequence:
        said["data_as_of"]["feed_sequence"] = str(as_of.feed_sequence)
    if as_of.snapshot_epoch:
        said["data_as_of"]["snapshot_epoch"] = str(as_of.snapshot_epoch)
    if as_of.feed_time_ms:
        said["data_as_of"]["feed_time"] = "2026-03-10T04:00:00.123Z"
    if decision.outcome is Outcome.ALLOWED:
        said["expire_time"] = "2026-03-10T04:05:00Z"
    else:
        notice = book.notices[decision.outcome.name]
        english = f"{notice.en} ({decision.hint})" if decision.hint else notice.en
        said["notice"] = {"zh": notice.zh, "en": english}
        if decision.outcome is Outcome.BARRED and decision.rule_id and ROW.alternatives:
            said["alternatives"] = [{"zh": text.zh, "en": text.en} for text in ROW.alternatives]
    return said


@pytest.mark.parametrize("as_of", [AsOf(0, 0, 0, 0), AsOf(7, NOW + 123, 9, 3)])
@pytest.mark.parametrize("hint", ["", "read it again"])
@pytest.mark.parametrize("rule_id", ["", ROW.rule_id])
@pytest.mark.parametrize("outcome", Outcome)
def test_an_answer_is_written_field_by_field(outcome: Outcome, rule_id: str, hint: str, as_of: AsOf) -> None:
    """Every field is what the contract says, and no other is set; expire_time stands on ALLOWED only."""
    renderer = wire.Renderer(rulebook(), as_of, NOW + 999)
    for by, advisories in product(AnsweredBy, [(), (Advisory.OPEN_RULE, Advisory.STALE_DATA)]):
        decision = Decision(outcome, Reason.NOT_LISTED, by, advisories, rule_id, ("M1",), hint)
        answer = pb.CheckResponse()
        renderer.write(answer, decision)

        assert expected(decision, as_of) == MessageToDict(answer, preserving_proto_field_name=True)


def test_the_row_of_these_tests_offers_something_else() -> None:
    """The barred G train has alternatives, so that the test above means something."""
    assert ROW.alternatives
    assert ROW.basis


def test_a_ready_made_answer_equals_a_fresh_one() -> None:
    """The first, second and every later answer put together from bytes is the message written field by field."""
    as_of = AsOf(7, NOW, 0, 0)
    renderer = wire.Renderer(rulebook(), as_of, NOW)
    for decision in [decision for decision in DECISIONS if decision.rule_id == "flight"]:
        fresh = pb.CheckResponse(item_id="a")
        wire.Renderer(rulebook(), as_of, NOW).write(fresh, decision)
        assert [pb.CheckResponse.FromString(renderer.ready(decision, wire.delimited(b"a"))) for _ in range(3)] == [
            fresh
        ] * 3


@pytest.mark.parametrize("item_id", ["", "a", "x" * 127, "x" * 128, "单" * 128, "𠮷" * 128])
def test_a_ready_made_answer_bears_any_item_id(item_id: str) -> None:
    """Ids of no, one and two bytes of length come back as they were sent, alone and within a batch."""
    miss = rulebook().screen(p.Flight(), NOW).miss
    renderer = wire.Renderer(rulebook(), AsOf(7, NOW, 0, 0), NOW)
    raw = renderer.ready(miss, wire.delimited(item_id.encode()))
    batch = pb.BatchCheckResponse.FromString(wire.delimited(raw) * 3)

    assert pb.CheckResponse.FromString(raw).item_id == item_id
    assert [answer.item_id for answer in batch.items] == [item_id] * 3


@given(st.binary(max_size=20_000))
def test_a_field_of_any_length_is_read_back(raw: bytes) -> None:
    """Lengths of one, two and three bytes are what protobuf reads."""
    read_back = pb.LookupKey.FromString(wire.delimited(b"k" * len(raw)))

    assert read_back.key_id == "k" * len(raw)


def test_ready_made_answers_are_bounded_and_never_mixed_up() -> None:
    """Decisions made afresh neither fill the memory nor get another's answer when an identity is used again."""
    renderer = wire.Renderer(rulebook(), AsOf(7, NOW, 0, 0), NOW)
    for number in range(6_000):
        advisories = (Advisory.STALE_DATA,) if number % 2 else ()
        made = Decision(Outcome.ALLOWED, Reason.NOT_LISTED, AnsweredBy.FILTER, advisories)
        answer = pb.CheckResponse.FromString(renderer.ready(made, b""))
        assert [int(advisory) for advisory in answer.advisory] == [int(advisory) for advisory in advisories]

    assert len(renderer._ready) < 6_000


def test_no_notice_names_court_case_or_debt() -> None:
    """What may be said at the counter is neutral in both languages (design.md §3)."""
    for notice in rulebook().notices.values():
        assert notice.zh
        assert notice.en
        assert not any(word in notice.zh for word in ("法院", "失信", "执行", "债", "案号", "老赖"))
        assert not any(word in notice.en.lower() for word in ("court", "debt", "case ", "dishonest", "judgment"))


def test_a_malformed_item_is_a_bad_request() -> None:
    """INVALID_ARGUMENT carries one field violation each; the message is the same in words."""
    status = wire.bad_request([("purchase", "is required"), ("item_id", "too long")])
    details = error_details_pb2.BadRequest()

    assert (status.code, status.message) == (code_pb2.INVALID_ARGUMENT, "purchase: is required; item_id: too long")
    assert status.details[0].Unpack(details)
    assert [(found.field, found.description) for found in details.field_violations] == [
        ("purchase", "is required"),
        ("item_id", "too long"),
    ]


def test_a_refused_item_says_what_is_missing() -> None:
    """PERMISSION_DENIED has its message and no details."""
    status = wire.permission_denied("role booking: not for flight")

    assert (status.code, status.message, len(status.details)) == (7, "role booking: not for flight", 0)


# What an edge sends and sees


@pytest.mark.parametrize(("sent", "purchase"), PURCHASES)
def test_what_an_edge_sends_of_a_purchase_is_read_as_the_same(sent: dict[str, Any], purchase: p.Purchase) -> None:
    """A purchase of any kind, written for the centre and read there, is the purchase that was asked about."""
    again = a_request()
    again.purchase.ParseFromString(wire.purchase_message(purchase))
    assert read(again).purchase == purchase
    assert type(read(again).purchase) is type(purchase)


def test_an_edge_sends_nothing_no_rule_reads() -> None:
    """Carrier and flight number stay with the seller."""
    assert wire.purchase_message(p.Flight()) == pb.Purchase(flight=pb.Flight()).SerializeToString()


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason < Reason.MEASURE_IN_FORCE])
@pytest.mark.parametrize("advisories", [(), (Advisory.NAME_MISMATCH,), (Advisory.STALE_DATA,)])
def test_an_edge_learns_only_where_nothing_at_all_is_listed(reason: Reason, advisories: tuple[Advisory, ...]) -> None:
    """Of the index's ALLOWED answers only NOT_LISTED without a remark shows its source; others look like a miss."""
    decision = Decision(Outcome.ALLOWED, reason, AnsweredBy.INDEX, advisories)
    shown = wire.for_edge(decision)
    if reason is Reason.NOT_LISTED and not advisories:
        assert shown == decision
    else:
        assert shown == wire.for_seller(decision)
        assert shown.answered_by is not AnsweredBy.INDEX or shown.reason is Reason.PURCHASE_NOT_RESTRICTED
