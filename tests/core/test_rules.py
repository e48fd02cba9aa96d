"""The rulebook says what the law says: each cell of domain.md §1.4, each row of §1.2, and what a broken one is told."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checker.core import purchase as p
from checker.core.decision import Advisory, Outcome, Reason
from checker.core.measure import Item
from checker.core.rules import Row, RulebookError, Screened, parse
from tests.builders import NOW, RULEBOOK_FILE, ms, rulebook

# domain.md §1.4, cell by cell: seat group | how it is sold | G | D, C and any EMU | Z T K Y L S none.
# "–" (code impossible) is open there. The last column is asked on T109, the one before on D301 and C2001.
MATRIX = """
BUSINESS       | 9                 | BAR C | BAR C   | OPEN
BUSINESS       | P                 | BAR C | BAR C   | OPEN
BUSINESS       | D 优选一等座       | BAR C | BAR C   | OPEN
BUSINESS       | E                 | BAR C | BAR C   | OPEN
BUSINESS       | P 优选一等座       | BAR C | BAR C   | OPEN
FIRST          | M                 | BAR C | BAR C   | OPEN
FIRST on EMU   | 7                 | BAR C | BAR C   | ALLOW C
FIRST, S old   | S 一等包座         | BAR C | BAR C   | OPEN
SECOND         | O                 | BAR C | ALLOW C | ALLOW C
SECOND on EMU  | 8                 | BAR C | ALLOW C | ALLOW C
SECOND, S new  | S 二等包座         | BAR C | ALLOW C | ALLOW C
SOFT_SLEEPER   | 4                 | BAR C | BAR C   | BAR C
SOFT_SLEEPER   | 6 高级软卧         | BAR C | BAR C   | BAR C
动卧            | F                 | BAR C | BAR I   | OPEN
高级动卧        | A 高级动卧         | BAR C | BAR I   | OPEN
一等卧          | I                 | BAR C | BAR I   | BAR I
G              | G                 | BAR I | BAR I   | BAR I
L              | L                 | BAR I | BAR I   | BAR I
H old          | H 一人软包         | BAR I | BAR I   | BAR I
HARD_SLEEPER   | 3                 | BAR I | ALLOW C | ALLOW C
HARD_SLEEPER   | 5                 | BAR I | ALLOW C | ALLOW C
HARD_SLEEPER   | C                 | BAR I | ALLOW C | ALLOW C
二等卧          | J                 | BAR I | ALLOW I | ALLOW C
SOFT_SEAT      | 2                 | BAR I | OPEN    | ALLOW C
SOFT_SEAT      | K                 | BAR I | OPEN    | ALLOW C
D old          | D 包厢软座         | BAR I | OPEN    | ALLOW C
HARD_SEAT      | 1                 | BAR I | ALLOW C | ALLOW C
HARD_SEAT      | B                 | BAR I | ALLOW C | ALLOW C
HARD_SEAT      | 0 棚车             | BAR I | ALLOW C | ALLOW C
观光座          | Q                 | BAR C | OPEN    | OPEN
standing       | WZ                | BAR I | ALLOW C | ALLOW C
standing       | W                 | BAR I | ALLOW C | ALLOW C
standing as O  | O 无座             | BAR I | ALLOW C | ALLOW C
UNKNOWN        | H                 | BAR I | OPEN    | OPEN
UNKNOWN        | S                 | BAR I | OPEN    | OPEN
UNKNOWN        | D                 | BAR I | OPEN    | OPEN
UNKNOWN        | 0                 | BAR I | OPEN    | OPEN
UNKNOWN        | X                 | BAR I | OPEN    | OPEN
I as 一等座     | I 一等座           | BAR I | OPEN    | OPEN
J as 二等座     | J 二等座           | BAR I | OPEN    | OPEN
"""
ROWS = [[cell.strip() for cell in line.split("|")] for line in MATRIX.strip().splitlines()]


def screen(purchase: p.Purchase) -> Screened:
    return rulebook().screen(purchase, NOW)


def cell(row: Row) -> str:
    return "OPEN" if row.effect == "OPEN" else f"{row.effect} {row.certainty}"


def seat(train: str, sold: str, *, emu: bool = False, standing: bool = False) -> p.Train:
    code, _, name = sold.partition(" ")
    return p.Train(train, code, name, emu, standing)


@pytest.mark.parametrize(("group", "sold", "on_g", "on_emu", "elsewhere"), ROWS, ids=[row[1] for row in ROWS])
def test_train_matrix(group: str, sold: str, on_g: str, on_emu: str, elsewhere: str) -> None:
    """Every seat is judged as domain.md §1.4 says, on each class of train, with its certainty."""
    asked = {
        "G1": on_g,
        "D301": on_emu,
        "C2001": on_emu,
        "T109": elsewhere,
        "Z1": elsewhere,
        "K512": elsewhere,
        "Y501": elsewhere,
        "L10": elsewhere,
        "S201": elsewhere,
        "1461": elsewhere,
    }
    judged = {train: cell(screen(seat(train, sold)).row) for train in asked}
    assert judged == asked
    assert cell(screen(seat("S201", sold, emu=True)).row) == on_emu


@pytest.mark.parametrize(
    ("train", "same_as"),
    [
        ("ｋ５１２次", "K512"),
        (" g 1 ", "G1"),
        ("D301次", "D301"),
        ("K101/104", "K101"),
    ],
)
def test_train_codes_are_read_as_printed(train: str, same_as: str) -> None:
    """Full-width letters, spaces, 次 and double numbers make no other train."""
    assert screen(seat(train, "O")).row == screen(seat(same_as, "O")).row


@pytest.mark.parametrize("train", ["X1", "G", "G12345", "GG1", "1G", "五", "G1;DROP"])
@pytest.mark.parametrize("sold", ["O", "9", "4"])
def test_unreadable_train_bars_nobody(train: str, sold: str) -> None:
    """A train code nobody can read is no G train: open, whatever the seat."""
    assert cell(screen(seat(train, sold)).row) == "OPEN"


def test_g_standing_can_be_switched_off() -> None:
    """With the practice switch off a standing ticket on a G train is sold, with OPEN_RULE (case 2)."""
    book = rulebook(("g_standing_barred = true", "g_standing_barred = false"))
    screened = book.screen(seat("G1", "O", standing=True), NOW)
    assert screened.unrestricted is not None
    assert screened.unrestricted.advisories == (Advisory.OPEN_RULE,)
    assert cell(rulebook().screen(seat("G1", "O", standing=True), NOW).row) == "BAR I"


YUAN = 1_000_000_000
CNY = p.Money("CNY", 100_000 * YUAN)
OTHERS = [
    (p.Flight(), "BAR C", Item.FLIGHT, True),
    (p.Ship("特等"), "BAR C", Item.SHIP, False),
    (p.Ship("一等"), "BAR C", Item.SHIP, False),
    (p.Ship("二等舱"), "BAR C", Item.SHIP, False),
    (p.Ship("三等"), "ALLOW C", 0, False),
    (p.Ship("四等"), "ALLOW C", 0, False),
    (p.Ship("五等"), "ALLOW C", 0, False),
    (p.Ship("散席"), "ALLOW C", 0, False),
    (p.Ship("VIP"), "OPEN", 0, False),
    (p.Ship("头等"), "OPEN", 0, False),
    (p.Ship("商务"), "OPEN", 0, False),
    *[(p.Lodging(stars), "BAR I", Item.HOTEL, True) for stars in range(1, 6)],
    (p.Lodging(0), "ALLOW C", 0, False),
    (p.Venue(p.VenueKind.NIGHTCLUB), "BAR C", Item.NIGHTCLUB, True),
    (p.Venue(p.VenueKind.GOLF), "BAR C", Item.GOLF, True),
    (p.OutboundTour(True, True, "HKG"), "BAR C", Item.TOUR_OUTBOUND, True),
    (p.OutboundTour(False, True, "THA"), "BAR C", Item.TOUR_OUTBOUND | Item.OUTBOUND_SERVICE, True),
    (p.OutboundTour(True, False, "THA"), "OPEN", 0, False),
    (p.OutboundService(p.OutboundServiceKind.VISA, True, "THA"), "BAR C", Item.OUTBOUND_SERVICE, True),
    (p.OutboundService(p.OutboundServiceKind.VISA, False, "THA"), "ALLOW C", 0, False),
    (p.DomesticTour(True), "BAR I", Item.TOUR_DOMESTIC, False),
    (p.DomesticTour(False), "OPEN", 0, False),
    (p.Resort("国家级", CNY, "GD"), "OPEN", 0, False),
    (p.School(True, CNY, "GD", True), "OPEN", 0, False),
    (p.School(False, CNY, "GD", True), "ALLOW C", 0, False),
    (p.Insurance(True, CNY, "GD"), "OPEN", 0, False),
    (p.Insurance(False, CNY, "GD"), "ALLOW C", 0, False),
    (p.RealEstate(p.RealEstateDeal.PURCHASE), "BAR C", Item.REAL_ESTATE, True),
    (p.RealEstate(p.RealEstateDeal.GIFT), "OPEN", 0, False),
    (p.RealEstate(p.RealEstateDeal.INHERITANCE), "OPEN", 0, False),
    (p.RealEstate(p.RealEstateDeal.EXCHANGE), "OPEN", 0, False),
    (p.RealEstate(p.RealEstateDeal.RENT), "ALLOW C", 0, False),
    (p.Construction(p.ConstructionKind.NEW_BUILD, False), "BAR I", Item.BUILD, True),
    (p.Construction(p.ConstructionKind.EXTENSION, True), "BAR I", Item.BUILD, True),
    (p.Construction(p.ConstructionKind.DECORATION, True), "OPEN", 0, False),
    (p.Construction(p.ConstructionKind.DECORATION, False), "ALLOW C", 0, False),
    (p.Vehicle(p.VehicleUse.NON_OPERATING, p.VehicleKind.PASSENGER_CAR), "BAR I", Item.VEHICLE, True),
    (p.Vehicle(p.VehicleUse.OPERATING, p.VehicleKind.PASSENGER_CAR), "ALLOW C", 0, False),
    (p.Vehicle(p.VehicleUse.NON_OPERATING, p.VehicleKind.TRUCK), "ALLOW C", 0, False),
    (p.Vehicle(p.VehicleUse.NON_OPERATING, p.VehicleKind.MOTORCYCLE), "OPEN", 0, False),
    (p.Vehicle(p.VehicleUse.NON_OPERATING, p.VehicleKind.E_BIKE), "OPEN", 0, False),
    (p.OfficeLease("甲级"), "BAR I", Item.OFFICE_LEASE, False),
]


@pytest.mark.parametrize(("purchase", "judged", "items", "list_bars"), OTHERS, ids=[repr(row[0]) for row in OTHERS])
def test_other_purchases(purchase: p.Purchase, judged: str, items: int, list_bars: bool) -> None:
    """Each row of domain.md §1.1 and §1.2 beside the trains: cell, items that bar it, whether a list record does."""
    row = screen(purchase).row
    assert (cell(row), row.items, row.list_bars) == (judged, int(items), list_bars)


@pytest.mark.parametrize(
    ("threshold", "purchase", "other_province"),
    [
        ("premium_cny", p.Insurance(True, CNY, "GD"), p.Insurance(True, CNY, "BJ")),
        ("school_fee_cny", p.School(True, CNY, "GD", True), p.School(True, CNY, "BJ", True)),
        ("resort_cap_cny", p.Resort("国家级", CNY, "gd"), p.Resort("国家级", CNY, "BJ")),
    ],
)
def test_thresholds_bar_only_above_and_only_where_set(
    threshold: str, purchase: p.Purchase, other_province: p.Purchase
) -> None:
    """A threshold bars above it in its province; at it, elsewhere, or in another currency the purchase stays open."""
    below = rulebook((f"[parameters.{threshold}]", f"[parameters.{threshold}]\nGD = 99999"))
    at = rulebook((f"[parameters.{threshold}]", f"[parameters.{threshold}]\nGD = 100000"))
    assert below.screen(purchase, NOW).row.effect == "BAR"
    assert at.screen(purchase, NOW).row.effect == "OPEN"
    assert below.screen(other_province, NOW).row.effect == "OPEN"
    converted: list[Any] = [p.Money("USD", CNY.nanos) if value == CNY else value for value in purchase]
    dollars: p.Purchase = type(purchase)(*converted)
    assert below.screen(dollars, NOW).row.effect == "OPEN"


def test_min_star_is_a_parameter() -> None:
    """With min_star 3 two stars are open and three are barred ("Decided" 2)."""
    book = rulebook(("min_star = 1", "min_star = 3"))
    assert [book.screen(p.Lodging(stars), NOW).row.effect for stars in range(6)] == [
        "ALLOW",
        "OPEN",
        "OPEN",
        "BAR",
        "BAR",
        "BAR",
    ]


def test_open_rows_never_bar() -> None:
    """Whatever is open is ALLOWED before anyone is looked at, with OPEN_RULE; whatever bars is C or I."""
    for row in rulebook():
        assert row.certainty in ("C", "I", "O")
        assert (row.effect == "OPEN") == (row.certainty == "O")
    unrestricted = screen(p.Ship("VIP")).unrestricted
    assert unrestricted is not None
    assert unrestricted.outcome is Outcome.ALLOWED
    assert unrestricted.reason is Reason.PURCHASE_NOT_RESTRICTED


def test_equal_attributes_of_two_kinds_are_not_confused() -> None:
    """Purchases are remembered by kind and content: a one-star stay and a package tour are equal as tuples."""
    assert screen(p.Lodging(1)).row.purchase == "lodging"
    assert screen(p.DomesticTour(True)).row.purchase == "domestic_tour"


def test_rows_take_effect_on_their_day() -> None:
    """A row with `from` and `until` is in force on exactly those days in Shanghai; the rulebook not before its own."""
    book = rulebook(
        ('id = "venue.nightclub"\n', 'id = "venue.nightclub"\nfrom = 2026-03-01\nuntil = 2026-04-01\n'),
    )
    club = p.Venue(p.VenueKind.NIGHTCLUB)
    days = ["2026-02-28T23:59:59", "2026-03-01", "2026-03-31T23:59:59", "2026-04-01"]
    rows = [book.screen(club, ms(day)).row.rule_id for day in days]
    assert rows == ["venue.golf", "venue.nightclub", "venue.nightclub", "venue.golf"]
    assert rulebook().screen(p.Flight(), ms("2015-07-21T23:59:59")).unrestricted is not None
    assert rulebook().screen(p.Flight(), ms("2015-07-22")).unrestricted is None


PREMIUM = "[parameters.premium_cny]"
J = 'seat = "SECOND_SLEEPER"'


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('version = "2026.1"', "", "top level: version"),
        ("min_star = 1", "min_star = 9", "parameters: min_star"),
        ('items = ["FLIGHT"]', 'items = ["FLYING"]', "rule flight: unknown item 'FLYING'"),
        ('id = "flight"\n', 'id = "flight"\ncolour = "red"\n', "rule flight: unknown entry 'colour'"),
        ('EMU = "BAR C"', 'EMU = "MAYBE"', "train.row BUSINESS, column EMU: must say one of"),
        ("BAR I if g_standing_barred", "BAR I if nobody", "'nobody' is not a switch"),
        ('roles = ["DEBTOR_PERSON", "DEBTOR_ENTITY"]', 'roles = ["COUSIN"]', "unknown role 'COUSIN'"),
        ("when = { is_package = true }", "when = { is_parcel = true }", "no attribute 'is_parcel'"),
        ('{ at_least = "min_star" }', '{ at_least = "stars" }', "star_rating must be compared"),
        ("effective_from = 2015-07-22", "effective_from = 'soon'", "effective_from must be a date"),
        ('id = "venue.golf"', 'id = "venue.golf"\nwhen = { kind = "GOLF" }', "rules for venue: the last row"),
        ('seat = "SIGHTSEEING"', 'seat = "SIGHT"', "no row for seat group SIGHTSEEING"),
        ("[notice.UNKNOWN]", "[notice.UNSAID]", "notice.UNKNOWN: zh"),
        ("[notice.UNKNOWN]", "[notice.UNSAID]", "notice: unknown entry 'UNSAID'; there are BARRED, INVALID_DOCUMENT"),
        (PREMIUM, f"{PREMIUM}\ngd = 50000", "parameters.premium_cny.gd: is no province: write its ISO 3166-2:CN"),
        (PREMIUM, f"{PREMIUM}\nGuangdong = 50000", "parameters.premium_cny.Guangdong: is no province"),
        ("min_star = 1", "min_star = true", "parameters: min_star must be a whole number from 1 to 5"),
        ("min_star = 1", "min_star = 1\ng_standing = true", "parameters: g_standing is a switch that no row names"),
        ("min_star = 1", "min_star = 1\nmax_star = 5", "parameters: max_star is not a parameter"),
        (
            "[train]",
            "[train]\nlist_bar = true",
            "train: unknown entry 'list_bar'; there are alternatives, basis, items",
        ),
        ('OTHER = "SPC-C', 'OTHERS = "SPC-C', "train.basis: unknown entry 'OTHERS'; there are EMU, G, OTHER"),
        (J, f"{J}\nunitl = 2030-01-01", "train.row SECOND_SLEEPER: unknown entry 'unitl'"),
        (J, f"{J}\nfrom = 2026-01-01", "train.row SECOND_SLEEPER: its rows leave days without an answer: end with"),
        (J, f"{J}\nuntil = 2026-01-01", "train.row SECOND_SLEEPER: its rows leave days without an answer"),
        (
            J,
            f"{J}\nfrom = 2026-02-01\nuntil = 2026-02-01",
            "train.row SECOND_SLEEPER, column G: from must be before until, the first day without the row",
        ),
        (
            'id = "flight"\n',
            'id = "flight"\nfrom = 2027-01-01\nuntil = 2026-01-01\n',
            "rule flight: from must be before",
        ),
        ('code = "9"', 'code = "9"\nname = "商务座"', "seat 9: unknown entry 'name'; there are alone, code, names"),
        (
            'alone = "EMU_SLEEPER"',
            'alone = "SLEEPER"',
            "seat A: alone must be one of its groups: EMU_SLEEPER, SOFT_COMP",
        ),
        ('"BAR I if g_standing_barred"', '"OPEN"', "parameters: g_standing_barred is a switch that no row names"),
        (
            'when = { kind = "NIGHTCLUB" }',
            'when = { kind = "NIGHT" }',
            "rule venue.nightclub: kind can never be 'NIGHT'",
        ),
        (
            "is_group = true,",
            'is_group = "yes",',
            "rule outbound-tour.group: is_group can never be 'yes'; it is true or",
        ),
        ("[1, 2, 3, 4, 5]", '["1"]', "rule lodging.below-star: star_rating can never be '1'; it is a whole number"),
        ('{ at_least = "min_star" }', '{ over = "premium_cny" }', "rule lodging.star: star_rating must be compared as"),
        ('{ over = "resort_cap_cny" }', '{ at_least = "min_star" }', "rule resort.capped: amount must be compared as"),
        (
            '{ over = "resort_cap_cny" }',
            '{ over = "resort_cap_cny", at_least = 1 }',
            "rule resort.capped: amount must be",
        ),
        (
            'when = { kind = "NIGHTCLUB" }\n',
            "",
            "rule venue.golf: stands after one for every venue and is never reached",
        ),
    ],
)
def test_a_broken_rulebook_is_refused_by_row(old: str, new: str, named: str) -> None:
    """Each fault is named with its row; the rulebook is not used in part."""
    source = RULEBOOK_FILE.read_text("utf-8")
    assert old in source
    with pytest.raises(RulebookError) as caught:
        parse(source.replace(old, new, 1).encode())
    assert any(named in problem for problem in caught.value.problems), caught.value.problems


DATED = """[[train.row]]
seat = "SECOND_SLEEPER"
G = "BAR C"
EMU = "BAR I"
OTHER = "ALLOW C"
"""


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        (["until = 2026-03-01", "from = 2026-03-01"], ""),
        (["from = 2015-07-22"], ""),
        (["from = 2026-03-01\nuntil = 2026-04-01", ""], ""),
        (["from = 2026-03-01", "until = 2026-04-01"], ""),
        (["until = 2026-03-01", "from = 2026-03-02"], "its rows leave days without an answer"),
        (["until = 2026-03-01", "from = 2026-03-01\nuntil = 2026-04-01"], "its rows leave days without an answer"),
        (["", "from = 2026-03-01"], "a row after the one without dates is never reached"),
        (["", ""], "a row after the one without dates is never reached"),
    ],
)
def test_a_seat_has_an_answer_on_every_day(rows: list[str], named: str) -> None:
    """The dated rows of a seat group leave no day on which it is sold to everybody, none is out of reach."""
    source = RULEBOOK_FILE.read_text("utf-8")
    shipped = f'[[train.row]]\n{J}      # J\nG = "BAR I"\nEMU = "ALLOW I"\nOTHER = "ALLOW C"\n'
    assert shipped in source
    source = source.replace(shipped, "".join(f"{DATED}{dates}\n" for dates in rows))

    if not named:
        book = parse(source.encode())
        days = [ms(day) for day in ("2016-01-01", "2026-02-28", "2026-03-01", "2026-03-31", "2026-04-01", "2099-01-01")]
        assert {book.screen(seat("D301", "J"), day).row.effect for day in days} == {"BAR"}
        return
    with pytest.raises(RulebookError) as caught:
        parse(source.encode())
    assert [named in problem and "train.row SECOND_SLEEPER" in problem for problem in caught.value.problems] == [True]


def test_the_shipped_provinces_are_all_of_them() -> None:
    """A threshold can be set for each of the 34 provinces, and the caller's letters find it in either case."""
    codes = [
        *("BJ", "TJ", "HE", "SX", "NM", "LN", "JL", "HL", "SH", "JS", "ZJ", "AH", "FJ", "JX", "SD", "HA", "HB"),
        *("HN", "GD", "GX", "HI", "CQ", "SC", "GZ", "YN", "XZ", "SN", "GS", "QH", "NX", "XJ", "TW", "HK", "MO"),
    ]
    book = rulebook((PREMIUM, "\n".join([PREMIUM, *(f"{code} = 9" for code in codes)])))

    assert len(codes) == 34
    for code in codes:
        for region in (code, code.lower()):
            assert book.screen(p.Insurance(True, CNY, region), NOW).row.rule_id == "insurance.high"


def test_all_problems_are_listed_at_once() -> None:
    """Three faults give three problems, so that nobody mends them one by one."""
    source = RULEBOOK_FILE.read_text("utf-8")
    for old, new in [("min_star = 1", "min_star = 0"), ('["FLIGHT"]', '["X"]'), ('["SHIP"]', '["Y"]')]:
        source = source.replace(old, new, 1)
    with pytest.raises(RulebookError) as caught:
        parse(source.encode())
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("parameters = 1", "parameters: must be a table"),
        ("rule = 1", "rule: must be a list"),
        ("rule = [1]", "rule 1: must be a table"),
        ("seat = 'x'", "seat: must be a list"),
        ("notice = 3", "notice: must be a table"),
        ("train = 5", "train: must be a table"),
        ("[[rule]]\nitems = 'FLIGHT'", "rule 1.items: must be a list"),
        ("[[rule]]\nwhen = 1", "rule 1.when: must be a table"),
        ("[[train.row]]\nseat = 1", "train.row 1.seat: must be a text"),
        ("[[rule]]\nfrom = 'soon'", "rule 1.from: must be a date"),
        ("[parameters]\npremium_cny = 5", "parameters.premium_cny: must be a table"),
    ],
)
def test_a_misshapen_rulebook_is_refused_by_place(text: str, named: str) -> None:
    """Valid TOML of the wrong shape is a named problem, never a crash."""
    with pytest.raises(RulebookError) as caught:
        parse(text.encode())
    assert any(named in problem for problem in caught.value.problems), caught.value.problems


@given(st.recursive(st.integers() | st.text(max_size=3) | st.booleans(), lambda inner: st.lists(inner, max_size=3)))
@pytest.mark.parametrize("name", ["parameters", "notice", "seat", "train", "rule", "version", "effective_from"])
def test_no_value_crashes_the_reader(name: str, value: object) -> None:
    """Whatever stands where a table belongs, the answer is a list of problems."""
    with pytest.raises(RulebookError):
        parse(f"{name} = {json.dumps(value)}".encode())


@pytest.mark.parametrize("source", [b"", b"\xff\xfe", b"version = ", b"[[rule]]\npurchase = 'flight'"])
def test_no_bytes_crash_the_reader(source: bytes) -> None:
    """Whatever the file holds, the answer is a list of problems."""
    with pytest.raises(RulebookError):
        parse(source)
