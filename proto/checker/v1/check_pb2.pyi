import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from google.type import money_pb2 as _money_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DocumentType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DOCUMENT_TYPE_UNSPECIFIED: _ClassVar[DocumentType]
    DOCUMENT_TYPE_RESIDENT_ID: _ClassVar[DocumentType]
    DOCUMENT_TYPE_HMT_RESIDENCE_PERMIT: _ClassVar[DocumentType]
    DOCUMENT_TYPE_FOREIGN_PERMANENT_RESIDENT_ID: _ClassVar[DocumentType]
    DOCUMENT_TYPE_PRC_PASSPORT: _ClassVar[DocumentType]
    DOCUMENT_TYPE_HK_MACAU_PASSPORT: _ClassVar[DocumentType]
    DOCUMENT_TYPE_FOREIGN_PASSPORT: _ClassVar[DocumentType]
    DOCUMENT_TYPE_HK_MACAU_TRAVEL_PERMIT: _ClassVar[DocumentType]
    DOCUMENT_TYPE_TAIWAN_TRAVEL_PERMIT: _ClassVar[DocumentType]
    DOCUMENT_TYPE_MAINLAND_TRAVEL_PERMIT: _ClassVar[DocumentType]
    DOCUMENT_TYPE_UNIFIED_SOCIAL_CREDIT_CODE: _ClassVar[DocumentType]
    DOCUMENT_TYPE_ORGANISATION_CODE: _ClassVar[DocumentType]
    DOCUMENT_TYPE_OTHER: _ClassVar[DocumentType]

class VenueKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VENUE_KIND_UNSPECIFIED: _ClassVar[VenueKind]
    VENUE_KIND_NIGHTCLUB: _ClassVar[VenueKind]
    VENUE_KIND_GOLF: _ClassVar[VenueKind]

class OutboundServiceKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTBOUND_SERVICE_KIND_UNSPECIFIED: _ClassVar[OutboundServiceKind]
    OUTBOUND_SERVICE_KIND_VISA: _ClassVar[OutboundServiceKind]
    OUTBOUND_SERVICE_KIND_PACKAGE: _ClassVar[OutboundServiceKind]
    OUTBOUND_SERVICE_KIND_TRANSFER: _ClassVar[OutboundServiceKind]
    OUTBOUND_SERVICE_KIND_OTHER: _ClassVar[OutboundServiceKind]

class RealEstateDeal(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REAL_ESTATE_DEAL_UNSPECIFIED: _ClassVar[RealEstateDeal]
    REAL_ESTATE_DEAL_PURCHASE: _ClassVar[RealEstateDeal]
    REAL_ESTATE_DEAL_GIFT: _ClassVar[RealEstateDeal]
    REAL_ESTATE_DEAL_INHERITANCE: _ClassVar[RealEstateDeal]
    REAL_ESTATE_DEAL_EXCHANGE: _ClassVar[RealEstateDeal]
    REAL_ESTATE_DEAL_RENT: _ClassVar[RealEstateDeal]

class ConstructionKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONSTRUCTION_KIND_UNSPECIFIED: _ClassVar[ConstructionKind]
    CONSTRUCTION_KIND_NEW_BUILD: _ClassVar[ConstructionKind]
    CONSTRUCTION_KIND_EXTENSION: _ClassVar[ConstructionKind]
    CONSTRUCTION_KIND_DECORATION: _ClassVar[ConstructionKind]

class VehicleUse(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VEHICLE_USE_UNSPECIFIED: _ClassVar[VehicleUse]
    VEHICLE_USE_OPERATING: _ClassVar[VehicleUse]
    VEHICLE_USE_NON_OPERATING: _ClassVar[VehicleUse]

class VehicleKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VEHICLE_KIND_UNSPECIFIED: _ClassVar[VehicleKind]
    VEHICLE_KIND_PASSENGER_CAR: _ClassVar[VehicleKind]
    VEHICLE_KIND_TRUCK: _ClassVar[VehicleKind]
    VEHICLE_KIND_MOTORCYCLE: _ClassVar[VehicleKind]
    VEHICLE_KIND_E_BIKE: _ClassVar[VehicleKind]

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_ALLOWED: _ClassVar[Outcome]
    OUTCOME_BARRED: _ClassVar[Outcome]
    OUTCOME_UNKNOWN: _ClassVar[Outcome]
    OUTCOME_INVALID_DOCUMENT: _ClassVar[Outcome]

class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REASON_UNSPECIFIED: _ClassVar[Reason]
    REASON_PURCHASE_NOT_RESTRICTED: _ClassVar[Reason]
    REASON_NOT_LISTED: _ClassVar[Reason]
    REASON_EXEMPTED: _ClassVar[Reason]
    REASON_NOT_IN_FORCE: _ClassVar[Reason]
    REASON_OUT_OF_SCOPE: _ClassVar[Reason]
    REASON_MEASURE_IN_FORCE: _ClassVar[Reason]
    REASON_INDEX_UNREACHABLE: _ClassVar[Reason]
    REASON_CENTRE_UNREACHABLE: _ClassVar[Reason]
    REASON_CENTRE_LATE: _ClassVar[Reason]
    REASON_CENTRE_SIGNED_OFF: _ClassVar[Reason]
    REASON_DATA_STALE: _ClassVar[Reason]
    REASON_UNKNOWN_KEY: _ClassVar[Reason]
    REASON_NAME_REQUIRED: _ClassVar[Reason]
    REASON_BAD_FORMAT: _ClassVar[Reason]
    REASON_BAD_CHECKSUM: _ClassVar[Reason]
    REASON_BAD_DATE: _ClassVar[Reason]

class Advisory(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ADVISORY_UNSPECIFIED: _ClassVar[Advisory]
    ADVISORY_OPEN_RULE: _ClassVar[Advisory]
    ADVISORY_NAME_MISMATCH: _ClassVar[Advisory]
    ADVISORY_MINOR: _ClassVar[Advisory]
    ADVISORY_DISPUTED: _ClassVar[Advisory]
    ADVISORY_STALE_DATA: _ClassVar[Advisory]

class AnsweredBy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ANSWERED_BY_UNSPECIFIED: _ClassVar[AnsweredBy]
    ANSWERED_BY_RULES: _ClassVar[AnsweredBy]
    ANSWERED_BY_FILTER: _ClassVar[AnsweredBy]
    ANSWERED_BY_INDEX: _ClassVar[AnsweredBy]
    ANSWERED_BY_STAND_IN: _ClassVar[AnsweredBy]
DOCUMENT_TYPE_UNSPECIFIED: DocumentType
DOCUMENT_TYPE_RESIDENT_ID: DocumentType
DOCUMENT_TYPE_HMT_RESIDENCE_PERMIT: DocumentType
DOCUMENT_TYPE_FOREIGN_PERMANENT_RESIDENT_ID: DocumentType
DOCUMENT_TYPE_PRC_PASSPORT: DocumentType
DOCUMENT_TYPE_HK_MACAU_PASSPORT: DocumentType
DOCUMENT_TYPE_FOREIGN_PASSPORT: DocumentType
DOCUMENT_TYPE_HK_MACAU_TRAVEL_PERMIT: DocumentType
DOCUMENT_TYPE_TAIWAN_TRAVEL_PERMIT: DocumentType
DOCUMENT_TYPE_MAINLAND_TRAVEL_PERMIT: DocumentType
DOCUMENT_TYPE_UNIFIED_SOCIAL_CREDIT_CODE: DocumentType
DOCUMENT_TYPE_ORGANISATION_CODE: DocumentType
DOCUMENT_TYPE_OTHER: DocumentType
VENUE_KIND_UNSPECIFIED: VenueKind
VENUE_KIND_NIGHTCLUB: VenueKind
VENUE_KIND_GOLF: VenueKind
OUTBOUND_SERVICE_KIND_UNSPECIFIED: OutboundServiceKind
OUTBOUND_SERVICE_KIND_VISA: OutboundServiceKind
OUTBOUND_SERVICE_KIND_PACKAGE: OutboundServiceKind
OUTBOUND_SERVICE_KIND_TRANSFER: OutboundServiceKind
OUTBOUND_SERVICE_KIND_OTHER: OutboundServiceKind
REAL_ESTATE_DEAL_UNSPECIFIED: RealEstateDeal
REAL_ESTATE_DEAL_PURCHASE: RealEstateDeal
REAL_ESTATE_DEAL_GIFT: RealEstateDeal
REAL_ESTATE_DEAL_INHERITANCE: RealEstateDeal
REAL_ESTATE_DEAL_EXCHANGE: RealEstateDeal
REAL_ESTATE_DEAL_RENT: RealEstateDeal
CONSTRUCTION_KIND_UNSPECIFIED: ConstructionKind
CONSTRUCTION_KIND_NEW_BUILD: ConstructionKind
CONSTRUCTION_KIND_EXTENSION: ConstructionKind
CONSTRUCTION_KIND_DECORATION: ConstructionKind
VEHICLE_USE_UNSPECIFIED: VehicleUse
VEHICLE_USE_OPERATING: VehicleUse
VEHICLE_USE_NON_OPERATING: VehicleUse
VEHICLE_KIND_UNSPECIFIED: VehicleKind
VEHICLE_KIND_PASSENGER_CAR: VehicleKind
VEHICLE_KIND_TRUCK: VehicleKind
VEHICLE_KIND_MOTORCYCLE: VehicleKind
VEHICLE_KIND_E_BIKE: VehicleKind
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_ALLOWED: Outcome
OUTCOME_BARRED: Outcome
OUTCOME_UNKNOWN: Outcome
OUTCOME_INVALID_DOCUMENT: Outcome
REASON_UNSPECIFIED: Reason
REASON_PURCHASE_NOT_RESTRICTED: Reason
REASON_NOT_LISTED: Reason
REASON_EXEMPTED: Reason
REASON_NOT_IN_FORCE: Reason
REASON_OUT_OF_SCOPE: Reason
REASON_MEASURE_IN_FORCE: Reason
REASON_INDEX_UNREACHABLE: Reason
REASON_CENTRE_UNREACHABLE: Reason
REASON_CENTRE_LATE: Reason
REASON_CENTRE_SIGNED_OFF: Reason
REASON_DATA_STALE: Reason
REASON_UNKNOWN_KEY: Reason
REASON_NAME_REQUIRED: Reason
REASON_BAD_FORMAT: Reason
REASON_BAD_CHECKSUM: Reason
REASON_BAD_DATE: Reason
ADVISORY_UNSPECIFIED: Advisory
ADVISORY_OPEN_RULE: Advisory
ADVISORY_NAME_MISMATCH: Advisory
ADVISORY_MINOR: Advisory
ADVISORY_DISPUTED: Advisory
ADVISORY_STALE_DATA: Advisory
ANSWERED_BY_UNSPECIFIED: AnsweredBy
ANSWERED_BY_RULES: AnsweredBy
ANSWERED_BY_FILTER: AnsweredBy
ANSWERED_BY_INDEX: AnsweredBy
ANSWERED_BY_STAND_IN: AnsweredBy

class CheckRequest(_message.Message):
    __slots__ = ("item_id", "subject", "purchase", "act_time", "service_time", "min_feed_sequence", "with_trace")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    PURCHASE_FIELD_NUMBER: _ClassVar[int]
    ACT_TIME_FIELD_NUMBER: _ClassVar[int]
    SERVICE_TIME_FIELD_NUMBER: _ClassVar[int]
    MIN_FEED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    WITH_TRACE_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    subject: Subject
    purchase: Purchase
    act_time: _timestamp_pb2.Timestamp
    service_time: _timestamp_pb2.Timestamp
    min_feed_sequence: int
    with_trace: bool
    def __init__(self, item_id: _Optional[str] = ..., subject: _Optional[_Union[Subject, _Mapping]] = ..., purchase: _Optional[_Union[Purchase, _Mapping]] = ..., act_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., service_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., min_feed_sequence: _Optional[int] = ..., with_trace: _Optional[bool] = ...) -> None: ...

class BatchCheckRequest(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[CheckRequest]
    def __init__(self, items: _Optional[_Iterable[_Union[CheckRequest, _Mapping]]] = ...) -> None: ...

class BatchCheckResponse(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[CheckResponse]
    def __init__(self, items: _Optional[_Iterable[_Union[CheckResponse, _Mapping]]] = ...) -> None: ...

class Subject(_message.Message):
    __slots__ = ("document", "key", "name", "name_key")
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NAME_KEY_FIELD_NUMBER: _ClassVar[int]
    document: Document
    key: LookupKey
    name: str
    name_key: bytes
    def __init__(self, document: _Optional[_Union[Document, _Mapping]] = ..., key: _Optional[_Union[LookupKey, _Mapping]] = ..., name: _Optional[str] = ..., name_key: _Optional[bytes] = ...) -> None: ...

class Document(_message.Message):
    __slots__ = ("type", "number", "country")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    COUNTRY_FIELD_NUMBER: _ClassVar[int]
    type: DocumentType
    number: str
    country: str
    def __init__(self, type: _Optional[_Union[DocumentType, str]] = ..., number: _Optional[str] = ..., country: _Optional[str] = ...) -> None: ...

class LookupKey(_message.Message):
    __slots__ = ("key_id", "digest", "document_type", "name_required")
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    NAME_REQUIRED_FIELD_NUMBER: _ClassVar[int]
    key_id: str
    digest: bytes
    document_type: DocumentType
    name_required: bool
    def __init__(self, key_id: _Optional[str] = ..., digest: _Optional[bytes] = ..., document_type: _Optional[_Union[DocumentType, str]] = ..., name_required: _Optional[bool] = ...) -> None: ...

class Purchase(_message.Message):
    __slots__ = ("train", "flight", "ship", "lodging", "venue", "outbound_tour", "outbound_service", "domestic_tour", "resort", "school", "insurance", "real_estate", "construction", "vehicle", "office_lease")
    TRAIN_FIELD_NUMBER: _ClassVar[int]
    FLIGHT_FIELD_NUMBER: _ClassVar[int]
    SHIP_FIELD_NUMBER: _ClassVar[int]
    LODGING_FIELD_NUMBER: _ClassVar[int]
    VENUE_FIELD_NUMBER: _ClassVar[int]
    OUTBOUND_TOUR_FIELD_NUMBER: _ClassVar[int]
    OUTBOUND_SERVICE_FIELD_NUMBER: _ClassVar[int]
    DOMESTIC_TOUR_FIELD_NUMBER: _ClassVar[int]
    RESORT_FIELD_NUMBER: _ClassVar[int]
    SCHOOL_FIELD_NUMBER: _ClassVar[int]
    INSURANCE_FIELD_NUMBER: _ClassVar[int]
    REAL_ESTATE_FIELD_NUMBER: _ClassVar[int]
    CONSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    VEHICLE_FIELD_NUMBER: _ClassVar[int]
    OFFICE_LEASE_FIELD_NUMBER: _ClassVar[int]
    train: TrainSeat
    flight: Flight
    ship: ShipBerth
    lodging: Lodging
    venue: Venue
    outbound_tour: OutboundTour
    outbound_service: OutboundService
    domestic_tour: DomesticTour
    resort: Resort
    school: School
    insurance: Insurance
    real_estate: RealEstate
    construction: Construction
    vehicle: Vehicle
    office_lease: OfficeLease
    def __init__(self, train: _Optional[_Union[TrainSeat, _Mapping]] = ..., flight: _Optional[_Union[Flight, _Mapping]] = ..., ship: _Optional[_Union[ShipBerth, _Mapping]] = ..., lodging: _Optional[_Union[Lodging, _Mapping]] = ..., venue: _Optional[_Union[Venue, _Mapping]] = ..., outbound_tour: _Optional[_Union[OutboundTour, _Mapping]] = ..., outbound_service: _Optional[_Union[OutboundService, _Mapping]] = ..., domestic_tour: _Optional[_Union[DomesticTour, _Mapping]] = ..., resort: _Optional[_Union[Resort, _Mapping]] = ..., school: _Optional[_Union[School, _Mapping]] = ..., insurance: _Optional[_Union[Insurance, _Mapping]] = ..., real_estate: _Optional[_Union[RealEstate, _Mapping]] = ..., construction: _Optional[_Union[Construction, _Mapping]] = ..., vehicle: _Optional[_Union[Vehicle, _Mapping]] = ..., office_lease: _Optional[_Union[OfficeLease, _Mapping]] = ...) -> None: ...

class TrainSeat(_message.Message):
    __slots__ = ("train_code", "seat_code", "seat_name", "is_emu", "is_standing")
    TRAIN_CODE_FIELD_NUMBER: _ClassVar[int]
    SEAT_CODE_FIELD_NUMBER: _ClassVar[int]
    SEAT_NAME_FIELD_NUMBER: _ClassVar[int]
    IS_EMU_FIELD_NUMBER: _ClassVar[int]
    IS_STANDING_FIELD_NUMBER: _ClassVar[int]
    train_code: str
    seat_code: str
    seat_name: str
    is_emu: bool
    is_standing: bool
    def __init__(self, train_code: _Optional[str] = ..., seat_code: _Optional[str] = ..., seat_name: _Optional[str] = ..., is_emu: _Optional[bool] = ..., is_standing: _Optional[bool] = ...) -> None: ...

class Flight(_message.Message):
    __slots__ = ("carrier", "flight_number")
    CARRIER_FIELD_NUMBER: _ClassVar[int]
    FLIGHT_NUMBER_FIELD_NUMBER: _ClassVar[int]
    carrier: str
    flight_number: str
    def __init__(self, carrier: _Optional[str] = ..., flight_number: _Optional[str] = ...) -> None: ...

class ShipBerth(_message.Message):
    __slots__ = ("berth_class",)
    BERTH_CLASS_FIELD_NUMBER: _ClassVar[int]
    berth_class: str
    def __init__(self, berth_class: _Optional[str] = ...) -> None: ...

class Lodging(_message.Message):
    __slots__ = ("star_rating",)
    STAR_RATING_FIELD_NUMBER: _ClassVar[int]
    star_rating: int
    def __init__(self, star_rating: _Optional[int] = ...) -> None: ...

class Venue(_message.Message):
    __slots__ = ("kind",)
    KIND_FIELD_NUMBER: _ClassVar[int]
    kind: VenueKind
    def __init__(self, kind: _Optional[_Union[VenueKind, str]] = ...) -> None: ...

class OutboundTour(_message.Message):
    __slots__ = ("is_group", "sold_by_agency", "destination")
    IS_GROUP_FIELD_NUMBER: _ClassVar[int]
    SOLD_BY_AGENCY_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    is_group: bool
    sold_by_agency: bool
    destination: str
    def __init__(self, is_group: _Optional[bool] = ..., sold_by_agency: _Optional[bool] = ..., destination: _Optional[str] = ...) -> None: ...

class OutboundService(_message.Message):
    __slots__ = ("kind", "sold_by_agency", "destination")
    KIND_FIELD_NUMBER: _ClassVar[int]
    SOLD_BY_AGENCY_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    kind: OutboundServiceKind
    sold_by_agency: bool
    destination: str
    def __init__(self, kind: _Optional[_Union[OutboundServiceKind, str]] = ..., sold_by_agency: _Optional[bool] = ..., destination: _Optional[str] = ...) -> None: ...

class DomesticTour(_message.Message):
    __slots__ = ("is_package",)
    IS_PACKAGE_FIELD_NUMBER: _ClassVar[int]
    is_package: bool
    def __init__(self, is_package: _Optional[bool] = ...) -> None: ...

class Resort(_message.Message):
    __slots__ = ("grade", "amount", "region")
    GRADE_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    grade: str
    amount: _money_pb2.Money
    region: str
    def __init__(self, grade: _Optional[str] = ..., amount: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., region: _Optional[str] = ...) -> None: ...

class School(_message.Message):
    __slots__ = ("is_private", "fee", "region", "payer_named_by_order")
    IS_PRIVATE_FIELD_NUMBER: _ClassVar[int]
    FEE_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    PAYER_NAMED_BY_ORDER_FIELD_NUMBER: _ClassVar[int]
    is_private: bool
    fee: _money_pb2.Money
    region: str
    payer_named_by_order: bool
    def __init__(self, is_private: _Optional[bool] = ..., fee: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., region: _Optional[str] = ..., payer_named_by_order: _Optional[bool] = ...) -> None: ...

class Insurance(_message.Message):
    __slots__ = ("has_cash_value", "annual_premium", "region")
    HAS_CASH_VALUE_FIELD_NUMBER: _ClassVar[int]
    ANNUAL_PREMIUM_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    has_cash_value: bool
    annual_premium: _money_pb2.Money
    region: str
    def __init__(self, has_cash_value: _Optional[bool] = ..., annual_premium: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., region: _Optional[str] = ...) -> None: ...

class RealEstate(_message.Message):
    __slots__ = ("deal",)
    DEAL_FIELD_NUMBER: _ClassVar[int]
    deal: RealEstateDeal
    def __init__(self, deal: _Optional[_Union[RealEstateDeal, str]] = ...) -> None: ...

class Construction(_message.Message):
    __slots__ = ("kind", "is_luxury")
    KIND_FIELD_NUMBER: _ClassVar[int]
    IS_LUXURY_FIELD_NUMBER: _ClassVar[int]
    kind: ConstructionKind
    is_luxury: bool
    def __init__(self, kind: _Optional[_Union[ConstructionKind, str]] = ..., is_luxury: _Optional[bool] = ...) -> None: ...

class Vehicle(_message.Message):
    __slots__ = ("use", "kind")
    USE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    use: VehicleUse
    kind: VehicleKind
    def __init__(self, use: _Optional[_Union[VehicleUse, str]] = ..., kind: _Optional[_Union[VehicleKind, str]] = ...) -> None: ...

class OfficeLease(_message.Message):
    __slots__ = ("grade",)
    GRADE_FIELD_NUMBER: _ClassVar[int]
    grade: str
    def __init__(self, grade: _Optional[str] = ...) -> None: ...

class DataAsOf(_message.Message):
    __slots__ = ("feed_sequence", "feed_time", "snapshot_epoch")
    FEED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FEED_TIME_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_EPOCH_FIELD_NUMBER: _ClassVar[int]
    feed_sequence: int
    feed_time: _timestamp_pb2.Timestamp
    snapshot_epoch: int
    def __init__(self, feed_sequence: _Optional[int] = ..., feed_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., snapshot_epoch: _Optional[int] = ...) -> None: ...

class Text(_message.Message):
    __slots__ = ("zh", "en")
    ZH_FIELD_NUMBER: _ClassVar[int]
    EN_FIELD_NUMBER: _ClassVar[int]
    zh: str
    en: str
    def __init__(self, zh: _Optional[str] = ..., en: _Optional[str] = ...) -> None: ...

class TraceStep(_message.Message):
    __slots__ = ("step", "detail", "nanoseconds")
    STEP_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    NANOSECONDS_FIELD_NUMBER: _ClassVar[int]
    step: str
    detail: str
    nanoseconds: int
    def __init__(self, step: _Optional[str] = ..., detail: _Optional[str] = ..., nanoseconds: _Optional[int] = ...) -> None: ...

class CheckResponse(_message.Message):
    __slots__ = ("item_id", "outcome", "reason", "advisory", "legal_basis", "decision_id", "rulebook_version", "data_as_of", "answered_by", "expire_time", "notice", "alternatives", "trace", "error")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ADVISORY_FIELD_NUMBER: _ClassVar[int]
    LEGAL_BASIS_FIELD_NUMBER: _ClassVar[int]
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    RULEBOOK_VERSION_FIELD_NUMBER: _ClassVar[int]
    DATA_AS_OF_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_BY_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    ALTERNATIVES_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    outcome: Outcome
    reason: Reason
    advisory: _containers.RepeatedScalarFieldContainer[Advisory]
    legal_basis: str
    decision_id: str
    rulebook_version: str
    data_as_of: DataAsOf
    answered_by: AnsweredBy
    expire_time: _timestamp_pb2.Timestamp
    notice: Text
    alternatives: _containers.RepeatedCompositeFieldContainer[Text]
    trace: _containers.RepeatedCompositeFieldContainer[TraceStep]
    error: _status_pb2.Status
    def __init__(self, item_id: _Optional[str] = ..., outcome: _Optional[_Union[Outcome, str]] = ..., reason: _Optional[_Union[Reason, str]] = ..., advisory: _Optional[_Iterable[_Union[Advisory, str]]] = ..., legal_basis: _Optional[str] = ..., decision_id: _Optional[str] = ..., rulebook_version: _Optional[str] = ..., data_as_of: _Optional[_Union[DataAsOf, _Mapping]] = ..., answered_by: _Optional[_Union[AnsweredBy, str]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., notice: _Optional[_Union[Text, _Mapping]] = ..., alternatives: _Optional[_Iterable[_Union[Text, _Mapping]]] = ..., trace: _Optional[_Iterable[_Union[TraceStep, _Mapping]]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class GetRulebookRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetRulebookResponse(_message.Message):
    __slots__ = ("version", "sha256", "toml")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    TOML_FIELD_NUMBER: _ClassVar[int]
    version: str
    sha256: bytes
    toml: bytes
    def __init__(self, version: _Optional[str] = ..., sha256: _Optional[bytes] = ..., toml: _Optional[bytes] = ...) -> None: ...
