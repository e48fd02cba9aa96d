"""What the right answer is, as plain tables written by hand from the law (domain.md), for a lawyer to read and correct.

Nothing here is taken from the checker: if a rule is wrong there, the two disagree and the run fails. Read it from the
top: the train table, the other purchases, what the courts' two measures reach, how several measures become one answer,
the numbers that are no documents, the feed lines that must be refused.

Cells of the purchase tables
- BARS   a measure that reaches this category forbids the sale
- FREE   the texts leave it alone, whoever buys
- OPEN   the texts do not decide it; an open question never bars, so nobody is looked at
- NONE   does not exist; never asked
"""

from typing import NamedTuple

BARS, FREE, OPEN, NONE = "BARS", "FREE", "OPEN", "NONE"

ALLOWED, BARRED, UNKNOWN, INVALID_DOCUMENT = "ALLOWED", "BARRED", "UNKNOWN", "INVALID_DOCUMENT"
MEASURE_IN_FORCE, NAME_REQUIRED, EXEMPTED = "MEASURE_IN_FORCE", "NAME_REQUIRED", "EXEMPTED"
OUT_OF_SCOPE, NOT_IN_FORCE, NOT_LISTED = "OUT_OF_SCOPE", "NOT_IN_FORCE", "NOT_LISTED"
PURCHASE_NOT_RESTRICTED = "PURCHASE_NOT_RESTRICTED"
BAD_FORMAT, BAD_CHECKSUM, BAD_DATE = "BAD_FORMAT", "BAD_CHECKSUM", "BAD_DATE"

# --------------------------------------------------------------------------------------------------------------------
# 1. Trains (domain.md §1.4; policy 二(七)1, SPC-C 3(1) and (9), Rail-384 item 5)
# --------------------------------------------------------------------------------------------------------------------

G_TRAINS = ("train_code=G1", "train_code=g7次", "train_code=Ｇ１０２", "train_code=G8888")
EMU_TRAINS = ("train_code=D301", "train_code=C2001", "train_code=c2次", "train_code=K9001 is_emu=true")
OTHER_TRAINS = ("train_code=T109", "train_code=1461", "train_code=ｋ５１２次", "train_code=Z5", "train_code=S202")

TRAIN_SEATS = (
    # seat                                        G train   D, C, EMU   others   row of §1.4
    ("seat_code=9 seat_name=商务座", BARS, BARS, OPEN, "business"),
    ("seat_code=P seat_name=特等座", BARS, BARS, OPEN, "business"),
    ("seat_code=D seat_name=优选一等座", BARS, BARS, OPEN, "business (D, new name)"),
    ("seat_code=E seat_name=特等软座", BARS, BARS, OPEN, "business"),
    ("seat_code=M seat_name=一等座", BARS, BARS, OPEN, "first"),
    ("seat_code=m", BARS, BARS, OPEN, "first, code alone"),
    ("seat_code=7 seat_name=一等软座", BARS, BARS, FREE, "first on an EMU, else soft seat"),
    ("seat_code=S seat_name=一等包座", BARS, BARS, OPEN, "first (S, old name)"),
    ("seat_code=O seat_name=二等座", BARS, FREE, FREE, "second"),
    ("seat_code=o", BARS, FREE, FREE, "second, code alone"),
    ("seat_code=8 seat_name=二等软座", BARS, FREE, FREE, "second"),
    ("seat_code=S seat_name=二等包座", BARS, FREE, FREE, "second (S, new name)"),
    ("seat_code=4 seat_name=软卧", BARS, BARS, BARS, "soft sleeper"),
    ("seat_code=6 seat_name=高级软卧", BARS, BARS, BARS, "soft sleeper"),
    ("seat_code=F seat_name=动卧", BARS, BARS, NONE, "soft sleeper of an EMU"),
    ("seat_code=A seat_name=高级动卧", BARS, BARS, NONE, "soft sleeper of an EMU"),
    ("seat_code=I seat_name=一等卧", BARS, BARS, BARS, "first sleeper"),
    ("seat_code=G seat_name=二人软包", BARS, BARS, BARS, "soft sleeper, old code"),
    ("seat_code=L seat_name=混编软卧", BARS, BARS, BARS, "soft sleeper, old code"),
    ("seat_code=H seat_name=一人软包", BARS, BARS, BARS, "soft sleeper (H, old name)"),
    ("seat_code=3 seat_name=硬卧", BARS, FREE, FREE, "hard sleeper"),
    ("seat_code=5 seat_name=包厢硬卧", BARS, FREE, FREE, "hard sleeper"),
    ("seat_code=C seat_name=混编硬卧", BARS, FREE, FREE, "hard sleeper"),
    ("seat_code=J seat_name=二等卧", BARS, FREE, FREE, "second sleeper"),
    ("seat_code=2 seat_name=软座", BARS, OPEN, FREE, "soft seat: only soft sleepers are named"),
    ("seat_code=K seat_name=混编软座", BARS, OPEN, FREE, "soft seat"),
    ("seat_code=D seat_name=包厢软座", BARS, OPEN, FREE, "soft seat (D, old name)"),
    ("seat_code=1 seat_name=硬座", BARS, FREE, FREE, "hard seat"),
    ("seat_code=B seat_name=混编硬座", BARS, FREE, FREE, "hard seat"),
    ("seat_code=0", BARS, OPEN, OPEN, "unknown seat: digit 0 is not letter O"),
    ("seat_code=Q seat_name=观光座", BARS, OPEN, OPEN, "observation seat"),
    ("seat_code=O seat_name=二等座 is_standing=true", BARS, FREE, FREE, "standing"),
    ("seat_code=1 seat_name=硬座 is_standing=true", BARS, FREE, FREE, "standing"),
    ("seat_code=WZ seat_name=无座", BARS, FREE, FREE, "standing"),
    ("seat_code=H seat_name=其他", BARS, OPEN, OPEN, "unknown seat: on a G train the prefix decides"),
    ("seat_code=S", BARS, OPEN, OPEN, "unknown seat: renamed letter without a name"),
    ("seat_code=D", BARS, OPEN, OPEN, "unknown seat: renamed letter without a name"),
    ("seat_code=S seat_name=商务座", BARS, OPEN, OPEN, "unknown seat: code and name disagree"),
)

UNREADABLE_TRAINS = ("train_code=X1", "train_code=G12345", "train_code=动车")  # not G trains: OPEN

# --------------------------------------------------------------------------------------------------------------------
# 2. The other purchases (domain.md §1.1, §1.2 and "Decided" 2, 4, 6)
# --------------------------------------------------------------------------------------------------------------------

OTHER_PURCHASES = (
    # purchase                                              answer  categories, any of which suffices     why
    ("flight", BARS, ("FLIGHT",), "any fare, any cabin"),
    ("flight carrier=CA flight_number=CA1501", BARS, ("FLIGHT",), "any fare, award tickets too"),
    ("ship berth_class=特等", BARS, ("SHIP",), "second class and above"),
    ("ship berth_class=一等", BARS, ("SHIP",), "second class and above"),
    ("ship berth_class=二等", BARS, ("SHIP",), "以上 includes the number itself"),
    ("ship berth_class=三等", FREE, (), "below second class"),
    ("ship berth_class=四等", FREE, (), "below second class"),
    ("ship berth_class=五等", FREE, (), "below second class"),
    ("ship berth_class=散席", FREE, (), "below second class"),
    ("ship berth_class=VIP", OPEN, (), "unclassed name"),
    ("ship berth_class=商务", OPEN, (), "unclassed name"),
    ("lodging star_rating=0", FREE, (), "unrated, whatever the price"),
    ("lodging star_rating=1", BARS, ("HOTEL",), "星级以上: any official star"),
    ("lodging star_rating=2", BARS, ("HOTEL",), "星级以上: any official star"),
    ("lodging star_rating=3", BARS, ("HOTEL",), "star hotel"),
    ("lodging star_rating=4", BARS, ("HOTEL",), "star hotel"),
    ("lodging star_rating=5", BARS, ("HOTEL",), "star hotel"),
    ("venue kind=VENUE_KIND_NIGHTCLUB", BARS, ("NIGHTCLUB",), "nightclub"),
    ("venue kind=VENUE_KIND_GOLF", BARS, ("GOLF",), "golf course"),
    ("outbound_tour is_group=true sold_by_agency=true destination=JPN", BARS, ("TOUR_OUTBOUND",), "group abroad"),
    ("outbound_tour is_group=true sold_by_agency=true destination=HKG", BARS, ("TOUR_OUTBOUND",), "outbound too"),
    ("outbound_tour is_group=true sold_by_agency=true", BARS, ("TOUR_OUTBOUND",), "group, place not stated"),
    (
        "outbound_tour is_group=false sold_by_agency=true destination=THA",
        BARS,
        ("TOUR_OUTBOUND", "OUTBOUND_SERVICE"),
        "no group: an agency's other outbound service",
    ),
    ("outbound_tour is_group=true sold_by_agency=false destination=JPN", OPEN, (), "not sold by an agency"),
    ("outbound_tour is_group=false sold_by_agency=false destination=TWN", OPEN, (), "not sold by an agency"),
    (
        "outbound_service kind=OUTBOUND_SERVICE_KIND_VISA sold_by_agency=true destination=FRA",
        BARS,
        ("OUTBOUND_SERVICE",),
        "visa sold by an agency",
    ),
    (
        "outbound_service kind=OUTBOUND_SERVICE_KIND_PACKAGE sold_by_agency=true destination=MAC",
        BARS,
        ("OUTBOUND_SERVICE",),
        "package sold by an agency",
    ),
    (
        "outbound_service kind=OUTBOUND_SERVICE_KIND_TRANSFER sold_by_agency=true",
        BARS,
        ("OUTBOUND_SERVICE",),
        "transfer sold by an agency",
    ),
    (
        "outbound_service kind=OUTBOUND_SERVICE_KIND_OTHER sold_by_agency=true destination=TWN",
        BARS,
        ("OUTBOUND_SERVICE",),
        "other service sold by an agency",
    ),
    ("outbound_service kind=OUTBOUND_SERVICE_KIND_VISA sold_by_agency=false destination=FRA", FREE, (), "no agency"),
    ("domestic_tour is_package=true", BARS, ("TOUR_DOMESTIC",), "package tour"),
    ("domestic_tour is_package=false", OPEN, (), "a single sight's ticket"),
    (
        "resort grade=国家级 amount.currency_code=CNY amount.units=88000 region=HI",
        OPEN,
        (),
        "no cap set by the authority",
    ),
    ("resort amount.currency_code=CNY amount.units=120 region=GD", OPEN, (), "no cap set by the authority"),
    ("school is_private=true fee.currency_code=CNY fee.units=260000 region=BJ", OPEN, (), "no fee level set"),
    (
        "school is_private=true fee.currency_code=CNY fee.units=9000 region=GD payer_named_by_order=true",
        OPEN,
        (),
        "no fee level set",
    ),
    ("school is_private=false fee.currency_code=CNY fee.units=1500 region=BJ", FREE, (), "public school"),
    (
        "insurance has_cash_value=true annual_premium.currency_code=CNY annual_premium.units=500000 region=SH",
        OPEN,
        (),
        "no premium level set",
    ),
    (
        "insurance has_cash_value=false annual_premium.currency_code=CNY annual_premium.units=900 region=SH",
        FREE,
        (),
        "no cash value",
    ),
    ("real_estate deal=REAL_ESTATE_DEAL_PURCHASE", BARS, ("REAL_ESTATE",), "purchase"),
    ("real_estate deal=REAL_ESTATE_DEAL_GIFT", OPEN, (), "取得 without buying"),
    ("real_estate deal=REAL_ESTATE_DEAL_INHERITANCE", OPEN, (), "取得 without buying"),
    ("real_estate deal=REAL_ESTATE_DEAL_EXCHANGE", OPEN, (), "取得 without buying"),
    ("real_estate deal=REAL_ESTATE_DEAL_RENT", FREE, (), "renting a home"),
    ("construction kind=CONSTRUCTION_KIND_NEW_BUILD", BARS, ("BUILD",), "new building"),
    ("construction kind=CONSTRUCTION_KIND_EXTENSION", BARS, ("BUILD",), "extension"),
    ("construction kind=CONSTRUCTION_KIND_DECORATION is_luxury=true", OPEN, (), "高档 has no measure"),
    ("construction kind=CONSTRUCTION_KIND_DECORATION is_luxury=false", FREE, (), "plain decoration"),
    ("vehicle use=VEHICLE_USE_NON_OPERATING kind=VEHICLE_KIND_PASSENGER_CAR", BARS, ("VEHICLE",), "private car"),
    ("vehicle use=VEHICLE_USE_OPERATING kind=VEHICLE_KIND_PASSENGER_CAR", FREE, (), "operating vehicle"),
    ("vehicle use=VEHICLE_USE_NON_OPERATING kind=VEHICLE_KIND_TRUCK", FREE, (), "truck"),
    ("vehicle use=VEHICLE_USE_NON_OPERATING kind=VEHICLE_KIND_MOTORCYCLE", OPEN, (), "motorcycle"),
    ("vehicle use=VEHICLE_USE_NON_OPERATING kind=VEHICLE_KIND_E_BIKE", OPEN, (), "e-bike"),
    ("office_lease grade=甲级", BARS, ("OFFICE_LEASE",), "only where the order names it"),
    ("office_lease", BARS, ("OFFICE_LEASE",), "only where the order names it"),
)

# --------------------------------------------------------------------------------------------------------------------
# 3. What the two measures reach (domain.md §1.1, §2.1, "Decided" 4)
# --------------------------------------------------------------------------------------------------------------------

CATEGORIES = {
    # category            an order naming no items reaches it    a dishonest-list record alone reaches it   row of §1.1
    "FLIGHT": (True, True, 1),
    "TRAIN": (True, True, 2),
    "SHIP": (True, False, 5),
    "HOTEL": (True, True, 6),
    "NIGHTCLUB": (True, True, 7),
    "GOLF": (True, True, 7),
    "TOUR_OUTBOUND": (True, True, 8),
    "OUTBOUND_SERVICE": (True, True, 8),
    "TOUR_DOMESTIC": (True, False, 9),
    "RESORT_SPEND": (False, True, 10),
    "SCHOOL_FEE": (False, False, 11),  # a list record names no item; §1.2: only an order that names this one bars
    "INSURANCE": (True, True, 12),
    "BUILD": (True, True, 13),
    "VEHICLE": (True, True, 14),
    "REAL_ESTATE": (True, True, 15),
    "OFFICE_LEASE": (False, False, 16),
}

TRANSPORT = frozenset({"FLIGHT", "TRAIN"})
"""What a temporary lift or a single trip sets free (GoodFaith 17(3)): flights and trains, not the hotel there."""

NAME_MAY_BE_ABSENT = frozenset({"RESIDENT_ID", "HMT_RESIDENCE_PERMIT"})
"""With 18 digits on them ("Decided" 8); every other document, and the old 15 digits, need a name that agrees."""

# --------------------------------------------------------------------------------------------------------------------
# 4. From measures to an answer (domain.md §2.6, design.md §3)
# --------------------------------------------------------------------------------------------------------------------

STRONGEST_FIRST = (
    # what a measure comes to           what the seller does
    (MEASURE_IN_FORCE, BARRED),
    (NAME_REQUIRED, UNKNOWN),
    (EXEMPTED, ALLOWED),
    (OUT_OF_SCOPE, ALLOWED),
    (NOT_IN_FORCE, ALLOWED),
    (NOT_LISTED, ALLOWED),
)

IN_FORCE, ENDED, NOT_YET, LIFTED = "IN_FORCE", "ENDED", "NOT_YET", "LIFTED"
AGREES, ABSENT, DIFFERS = "AGREES", "ABSENT", "DIFFERS"


class Purchase(NamedTuple):
    """One concrete purchase: `text` as people.csv writes it; `categories` any of which a measure must reach."""

    text: str
    kind: str
    cell: str
    categories: tuple[str, ...]
    why: str


class Window(NamedTuple):
    """A court's exemption: `categories` set free from `first_ms` up to, not including, `end_ms` of the service time."""

    categories: frozenset[str]
    first_ms: int
    end_ms: int


class Standing(NamedTuple):
    """One measure against one person. `items` None: the order names none. `state`: as of the moment of asking."""

    kind: str
    items: frozenset[str] | None = None
    state: str = IN_FORCE
    windows: tuple[Window, ...] = ()


class Answer(NamedTuple):
    """`reason` may hold two words joined by "|": both are right, depending on whether the filter was rebuilt since."""

    outcome: str
    reason: str


def _purchases() -> tuple[Purchase, ...]:
    made = []
    for seat, on_g, on_emu, on_other, why in TRAIN_SEATS:
        for trains, column, cell in (
            (G_TRAINS, "G train", on_g),
            (EMU_TRAINS, "EMU", on_emu),
            (OTHER_TRAINS, "other train", on_other),
        ):
            if cell != NONE:
                reached: tuple[str, ...] = ("TRAIN",) if cell == BARS else ()
                made += [Purchase(f"train {t} {seat}", "train", cell, reached, f"{column}: {why}") for t in trains]
    for train in UNREADABLE_TRAINS:
        text = f"train {train} seat_code=O seat_name=二等座"
        made.append(Purchase(text, "train", OPEN, (), "unreadable train code"))
    for text, cell, categories, why in OTHER_PURCHASES:
        made.append(Purchase(text, text.split()[0], cell, categories, why))
    return tuple(made)


PURCHASES = _purchases()
KINDS = tuple(dict.fromkeys(purchase.kind for purchase in PURCHASES))


def reaches(standing: Standing, purchase: Purchase) -> bool:
    """Whether the measure's own scope covers the purchase (section 3)."""
    if standing.kind == "list":
        return any(CATEGORIES[category][1] for category in purchase.categories)
    if standing.items is None:
        return any(CATEGORIES[category][0] for category in purchase.categories)
    return not standing.items.isdisjoint(purchase.categories)


def _comes_to(standing: Standing, purchase: Purchase, name: str, minor: bool, service_ms: int) -> str:
    if standing.state != IN_FORCE:
        return NOT_IN_FORCE
    if name == DIFFERS:
        return NOT_LISTED
    if minor or not reaches(standing, purchase):
        return OUT_OF_SCOPE
    for window in standing.windows:
        if window.first_ms <= service_ms < window.end_ms and not window.categories.isdisjoint(purchase.categories):
            return EXEMPTED
    return NAME_REQUIRED if name == ABSENT else MEASURE_IN_FORCE


def answer(
    purchase: Purchase, standings: tuple[Standing, ...], *, name: str = AGREES, minor: bool = False, service_ms: int = 0
) -> Answer:
    """The right answer for somebody against whom `standings` exist.

    `name`: AGREES, DIFFERS, or ABSENT where the document needs one (absent where it may be counts as AGREES).
    `service_ms`: travel or stay, milliseconds since the epoch; matters for exemptions only.
    """
    if purchase.cell != BARS:
        return Answer(ALLOWED, PURCHASE_NOT_RESTRICTED)
    words = {_comes_to(standing, purchase, name, minor, service_ms) for standing in standings}
    for word, outcome in STRONGEST_FIRST:
        if word in words:
            # A lifted measure leaves the filter when that is next built; until then the index says it is lifted.
            gone = word == NOT_IN_FORCE and all(standing.state == LIFTED for standing in standings)
            return Answer(outcome, f"{NOT_IN_FORCE}|{NOT_LISTED}" if gone else word)
    return Answer(ALLOWED, NOT_LISTED)


# --------------------------------------------------------------------------------------------------------------------
# 5. Numbers that are no documents (domain.md §3)
# --------------------------------------------------------------------------------------------------------------------

NO_DOCUMENTS = (
    # declared as                     number                    reason         what is wrong
    ("RESIDENT_ID", "440524188001010015", BAD_CHECKSUM, "last digit changed"),
    ("RESIDENT_ID", "440542188001010014", BAD_CHECKSUM, "neighbours swapped"),
    ("RESIDENT_ID", "440524188002300013", BAD_DATE, "30 February"),
    ("RESIDENT_ID", "440524188013010011", BAD_DATE, "month 13"),
    ("RESIDENT_ID", "990524188001010011", BAD_FORMAT, "prefix 99"),
    ("RESIDENT_ID", "4405241880****0014", BAD_FORMAT, "masked"),
    ("RESIDENT_ID", "4.40524E+17", BAD_FORMAT, "spreadsheet damage"),
    ("RESIDENT_ID", "44O524188001010014", BAD_FORMAT, "letter O for zero is never repaired"),
    ("RESIDENT_ID", "44052418800101001", BAD_FORMAT, "17 digits"),
    ("HMT_RESIDENCE_PERMIT", "810000188001010010", BAD_CHECKSUM, "last digit changed"),
    ("FOREIGN_PERMANENT_RESIDENT_ID", "911124198108030042", BAD_CHECKSUM, "swapped"),
    ("FOREIGN_PERMANENT_RESIDENT_ID", "91112418811303002X", BAD_DATE, "month 13"),
    ("FOREIGN_PERMANENT_RESIDENT_ID", "KAZ110090123106", BAD_CHECKSUM, "last digit changed"),
    ("FOREIGN_PERMANENT_RESIDENT_ID", "USA110080130101", BAD_DATE, "month 13"),
    ("PRC_PASSPORT", "E0000123", BAD_FORMAT, "a digit short"),
    ("HK_MACAU_TRAVEL_PERMIT", "H0000123", BAD_FORMAT, "a digit short"),
    ("TAIWAN_TRAVEL_PERMIT", "0000123", BAD_FORMAT, "a digit short"),
    ("UNIFIED_SOCIAL_CREDIT_CODE", "91350100M000100Y44", BAD_CHECKSUM, "last character changed"),
    ("UNIFIED_SOCIAL_CREDIT_CODE", "913501000M00100Y43", BAD_CHECKSUM, "swapped"),
    ("UNIFIED_SOCIAL_CREDIT_CODE", "91350100MO00100Y43", BAD_FORMAT, "letter O"),
    ("ORGANISATION_CODE", "D2143569-0", BAD_CHECKSUM, "check character"),
    ("ORGANISATION_CODE", "M000100Y-5", BAD_CHECKSUM, "check character"),
    ("ORGANISATION_CODE", "00000019-X", BAD_CHECKSUM, "check character"),
)

STRANGE_BUT_VALID = (
    # declared as                     number                  why software has refused it
    ("RESIDENT_ID", "11010519491231002X", "the standard's own example"),
    ("RESIDENT_ID", "440524188001010014", "the standard's own example, born 1880"),
    ("HMT_RESIDENCE_PERMIT", "810000199408230021", "a region unknown to old tables"),
    ("HMT_RESIDENCE_PERMIT", "830000199201300022", "a region unknown to old tables"),
    ("FOREIGN_PERMANENT_RESIDENT_ID", "911124198108030024", "18 characters starting with 9"),
    ("UNIFIED_SOCIAL_CREDIT_CODE", "911101050000001820", "check character 0 from a remainder of 0"),
    ("UNIFIED_SOCIAL_CREDIT_CODE", "N2330106MF0000005C", "department N"),
    ("UNIFIED_SOCIAL_CREDIT_CODE", "12440600MB2C07549J", "a public institution"),
    ("UNIFIED_SOCIAL_CREDIT_CODE", "913101151234567807", "inner organisation code wrong: a warning only"),
    ("ORGANISATION_CODE", "D2143569-X", "check character X"),
)
"""Listed by nobody, so ALLOWED, NOT_LISTED."""

# --------------------------------------------------------------------------------------------------------------------
# 6. Feed lines that must be refused (design.md §7): cause and place as broken.csv lists them
# --------------------------------------------------------------------------------------------------------------------

BROKEN_LINES = (
    # what is done to a good line            cause                      field
    ("cut in half", "BAD_JSON", ""),
    ("not UTF-8", "BAD_JSON", ""),
    ("an array", "NOT_AN_OBJECT", ""),
    ("no seq", "MISSING_FIELD", "seq"),
    ("seq as a text", "WRONG_TYPE", "seq"),
    ("time without a zone", "BAD_TIME", "time"),
    ("no op", "MISSING_FIELD", "op"),
    ("an op nobody knows", "UNKNOWN_OP", "op"),
    ("no measure_id", "MISSING_FIELD", "measure_id"),
    ("a removal without measure_id", "MISSING_FIELD", "measure_id"),
    ("no kind", "MISSING_FIELD", "kind"),
    ("a kind nobody knows", "UNKNOWN_KIND", "kind"),
    ("no court", "MISSING_FIELD", "court"),
    ("no case", "MISSING_CASE", "case_number"),
    ("a case that is no enforcement case", "BAD_CASE_NUMBER", "case_number"),
    ("an item nobody knows", "UNKNOWN_ITEM", "items[1]"),
    ("30 February", "BAD_TIME", "effective_from"),
    ("ends before it begins", "BAD_PERIOD", "effective_to"),
    ("no subjects", "MISSING_FIELD", "subjects"),
    ("a role outside the six", "UNKNOWN_ROLE", "subjects[0].role"),
    ("a related role on a list record", "ROLE_NOT_ON_LIST", "subjects[0].role"),
    ("no documents", "MISSING_FIELD", "subjects[0].documents"),
    ("a birth date in month 13", "BAD_BIRTH_DATE", "subjects[0].birth_date"),
    ("a document type nobody knows", "UNKNOWN_DOCUMENT_TYPE", "subjects[0].documents[0].type"),
    ("a masked number", "MASKED_NUMBER", "subjects[0].documents[0].number"),
    ("a wrong check digit", "BAD_DOCUMENT_CHECKSUM", "subjects[0].documents[0].number"),
    ("a number of no form", "BAD_DOCUMENT_FORMAT", "subjects[0].documents[0].number"),
    ("30 February in the number", "BAD_DOCUMENT_DATE", "subjects[0].documents[0].number"),
    ("a foreign passport of no country", "MISSING_FIELD", "subjects[0].documents[0].country"),
    ("an exemption that ends before it begins", "BAD_PERIOD", "exemption.valid_to"),
    ("an exemption without an end", "MISSING_FIELD", "exemption.valid_to"),
    ("exempt without exemption", "MISSING_FIELD", "exemption"),
)
