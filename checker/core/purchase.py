"""What is being bought: one value per kind of purchase, holding only what a rule reads (PIPL 6).

Values are hashable and compare by content, so that the rulebook can remember how it judged them: a purchase says
nothing about a person. Attribute names equal the contract's field names, and what may be absent there has its default
here.
"""

from enum import IntEnum
from typing import NamedTuple


class VenueKind(IntEnum):
    """Licence type of a venue."""

    NIGHTCLUB = 1
    GOLF = 2


class OutboundServiceKind(IntEnum):
    """A travel agency's service for a trip abroad."""

    VISA = 1
    PACKAGE = 2
    TRANSFER = 3
    OTHER = 4


class RealEstateDeal(IntEnum):
    """How real estate changes hands."""

    PURCHASE = 1
    GIFT = 2
    INHERITANCE = 3
    EXCHANGE = 4
    RENT = 5


class ConstructionKind(IntEnum):
    """What is built."""

    NEW_BUILD = 1
    EXTENSION = 2
    DECORATION = 3


class VehicleUse(IntEnum):
    """Registered use: 营运 or 非营运."""

    OPERATING = 1
    NON_OPERATING = 2


class VehicleKind(IntEnum):
    """Registered type."""

    PASSENGER_CAR = 1
    TRUCK = 2
    MOTORCYCLE = 3
    E_BIKE = 4


class Money(NamedTuple):
    """An amount: ISO 4217 currency and billionths of its unit."""

    currency: str
    nanos: int


NO_MONEY = Money("", 0)
"""An amount that was not said, where the contract lets it be absent."""


class Train(NamedTuple):
    """A seat on a train; codes and names as the ticketing system has them."""

    train_code: str
    seat_code: str = ""
    seat_name: str = ""
    is_emu: bool = False
    is_standing: bool = False


class Flight(NamedTuple):
    """A flight, whatever the fare; no attribute changes the answer, so none is kept."""


class Ship(NamedTuple):
    """A berth; the class as printed."""

    berth_class: str


class Lodging(NamedTuple):
    """A stay; official stars 1-5, 0 = unrated."""

    star_rating: int = 0


class Venue(NamedTuple):
    """A nightclub or golf course."""

    kind: VenueKind


class OutboundTour(NamedTuple):
    """A tour outside the mainland."""

    is_group: bool = False
    sold_by_agency: bool = False
    destination: str = ""


class OutboundService(NamedTuple):
    """A service for a trip outside the mainland."""

    kind: OutboundServiceKind
    sold_by_agency: bool = False
    destination: str = ""


class DomesticTour(NamedTuple):
    """A tour within the mainland."""

    is_package: bool = False


class Resort(NamedTuple):
    """One transaction in a tourist resort."""

    grade: str
    amount: Money
    region: str = ""


class School(NamedTuple):
    """A school's yearly fee, asked about the paying parent."""

    is_private: bool = False
    fee: Money = NO_MONEY
    region: str = ""
    payer_named_by_order: bool = False


class Insurance(NamedTuple):
    """An insurance policy, asked about the policyholder who pays."""

    has_cash_value: bool = False
    annual_premium: Money = NO_MONEY
    region: str = ""


class RealEstate(NamedTuple):
    """A deal in real estate."""

    deal: RealEstateDeal


class Construction(NamedTuple):
    """Building work."""

    kind: ConstructionKind
    is_luxury: bool = False


class Vehicle(NamedTuple):
    """A vehicle to be registered."""

    use: VehicleUse
    kind: VehicleKind


class OfficeLease(NamedTuple):
    """A lease of office premises."""

    grade: str = ""


Purchase = (
    Train
    | Flight
    | Ship
    | Lodging
    | Venue
    | OutboundTour
    | OutboundService
    | DomesticTour
    | Resort
    | School
    | Insurance
    | RealEstate
    | Construction
    | Vehicle
    | OfficeLease
)

KINDS: dict[str, type[Purchase]] = {
    "train": Train,
    "flight": Flight,
    "ship": Ship,
    "lodging": Lodging,
    "venue": Venue,
    "outbound_tour": OutboundTour,
    "outbound_service": OutboundService,
    "domestic_tour": DomesticTour,
    "resort": Resort,
    "school": School,
    "insurance": Insurance,
    "real_estate": RealEstate,
    "construction": Construction,
    "vehicle": Vehicle,
    "office_lease": OfficeLease,
}
"""The contract's name of each kind (the Purchase oneof) -> its value type."""
