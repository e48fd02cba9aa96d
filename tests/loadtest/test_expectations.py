"""Claims about the plain table: each case of domain.md §8, written out again by hand, comes out as the page says."""

import pytest
from google.protobuf.json_format import ParseDict

from checker.core import purchase as p
from checker.core.measure import Item, Kind
from checker.core.rules import Asked, evaluate
from loadtest import expectations as law
from loadtest.expectations import Purchase, Standing, Window
from loadtest.make_feed import purchase_fields
from proto.checker.v1 import check_pb2
from tests.builders import NOW, a_measure, rulebook

P = (Standing("order"),)  # §8: a synthetic person with all nine items active
LISTED = (Standing("list"),)
TEXTS = {purchase.text: purchase for purchase in law.PURCHASES}


def _answer(text: str, standings: tuple[Standing, ...] = P, **asked: object) -> tuple[str, str]:
    return tuple(law.answer(TEXTS[text], standings, **asked))  # type: ignore[arg-type, return-value]


BARRED = ("BARRED", "MEASURE_IN_FORCE")
NOT_RESTRICTED = ("ALLOWED", "PURCHASE_NOT_RESTRICTED")
OUT_OF_SCOPE = ("ALLOWED", "OUT_OF_SCOPE")
NOT_LISTED = ("ALLOWED", "NOT_LISTED")
EXEMPTED = ("ALLOWED", "EXEMPTED")
LIFTED = ("ALLOWED", "NOT_IN_FORCE|NOT_LISTED")


@pytest.mark.parametrize(
    ("case", "purchase", "expected"),
    [
        (1, "train train_code=G1 seat_code=O seat_name=二等座", BARRED),
        (2, "train train_code=G1 seat_code=O seat_name=二等座 is_standing=true", BARRED),
        (3, "train train_code=D301 seat_code=O seat_name=二等座", NOT_RESTRICTED),
        (3, "train train_code=D301 seat_code=J seat_name=二等卧", NOT_RESTRICTED),
        (3, "train train_code=D301 seat_code=F seat_name=动卧", BARRED),
        (3, "train train_code=D301 seat_code=M seat_name=一等座", BARRED),
        (3, "train train_code=D301 seat_code=D seat_name=优选一等座", BARRED),
        (4, "train train_code=C2001 seat_code=O seat_name=二等座", NOT_RESTRICTED),
        (4, "train train_code=C2001 seat_code=M seat_name=一等座", BARRED),
        (5, "train train_code=T109 seat_code=2 seat_name=软座", NOT_RESTRICTED),
        (5, "train train_code=T109 seat_code=3 seat_name=硬卧", NOT_RESTRICTED),
        (5, "train train_code=T109 seat_code=4 seat_name=软卧", BARRED),
        (5, "train train_code=T109 seat_code=6 seat_name=高级软卧", BARRED),
        (6, "train train_code=1461 seat_code=1 seat_name=硬座 is_standing=true", NOT_RESTRICTED),
        (6, "train train_code=ｋ５１２次 seat_code=4 seat_name=软卧", BARRED),
        (7, "train train_code=D301 seat_code=S seat_name=二等包座", NOT_RESTRICTED),
        (7, "train train_code=D301 seat_code=S seat_name=一等包座", BARRED),
        (7, "train train_code=D301 seat_code=S", NOT_RESTRICTED),
        (8, "train train_code=D301 seat_code=0", NOT_RESTRICTED),
        (9, "ship berth_class=二等", BARRED),
        (9, "ship berth_class=三等", NOT_RESTRICTED),
        (9, "ship berth_class=VIP", NOT_RESTRICTED),
        (10, "lodging star_rating=5", BARRED),
        (10, "lodging star_rating=2", BARRED),  # "Decided" 2 overrules the case's ALLOW
        (10, "lodging star_rating=0", NOT_RESTRICTED),
        (25, "resort grade=国家级 amount.currency_code=CNY amount.units=88000 region=HI", NOT_RESTRICTED),
    ],
)
def test_purchase_cases(case: int, purchase: str, expected: tuple[str, str]) -> None:
    """What domain.md §8 says of p and one purchase is what the table says."""
    assert case
    assert _answer(purchase) == expected


LIFT = (Standing("order", windows=(Window(law.TRANSPORT, 1_000, 2_000),)),)


@pytest.mark.parametrize(
    ("case", "purchase", "standings", "asked", "expected"),
    [
        (12, "flight", LIFT, {"service_ms": 1_999}, EXEMPTED),
        (12, "flight", LIFT, {"service_ms": 2_000}, BARRED),
        (12, "flight", LIFT, {"service_ms": 999}, BARRED),
        (12, "lodging star_rating=5", LIFT, {"service_ms": 1_500}, BARRED),
        (13, "flight", (Standing("order", state=law.LIFTED),), {}, LIFTED),
        (14, "flight", (Standing("list", state=law.LIFTED), *P), {}, BARRED),
        (15, "flight", P, {"name": law.DIFFERS}, NOT_LISTED),
        (15, "flight", P, {"name": law.ABSENT}, ("UNKNOWN", "NAME_REQUIRED")),
        (17, "flight", (), {}, NOT_LISTED),
        (18, "flight", P, {"minor": True}, OUT_OF_SCOPE),
        (19, "flight", (*LIFT, *P), {"service_ms": 1_500}, BARRED),
        (20, "domestic_tour is_package=true", (Standing("order", frozenset({"FLIGHT"})),), {}, OUT_OF_SCOPE),
        (0, "flight", (Standing("order", state=law.NOT_YET),), {}, ("ALLOWED", "NOT_IN_FORCE")),
        (0, "flight", (Standing("order", state=law.LIFTED), Standing("order", state=law.ENDED)), {},
         ("ALLOWED", "NOT_IN_FORCE")),
    ],
)  # fmt: skip
def test_person_cases(
    case: int, purchase: str, standings: tuple[Standing, ...], asked: dict[str, object], expected: tuple[str, str]
) -> None:
    """What domain.md §8 says of a person's measures is what the table says; 0: a case the page leaves out."""
    assert case >= 0
    assert _answer(purchase, standings, **asked) == expected


@pytest.mark.parametrize(
    ("purchase", "alone"),
    [
        ("flight", BARRED),
        ("train train_code=G1 seat_code=O seat_name=二等座", BARRED),
        ("ship berth_class=二等", OUT_OF_SCOPE),
        ("lodging star_rating=1", BARRED),
        ("venue kind=VENUE_KIND_GOLF", BARRED),
        ("outbound_tour is_group=true sold_by_agency=true destination=HKG", BARRED),
        ("domestic_tour is_package=true", OUT_OF_SCOPE),
        ("real_estate deal=REAL_ESTATE_DEAL_PURCHASE", BARRED),
        ("construction kind=CONSTRUCTION_KIND_NEW_BUILD", BARRED),
        ("vehicle use=VEHICLE_USE_NON_OPERATING kind=VEHICLE_KIND_PASSENGER_CAR", BARRED),
        ("office_lease", OUT_OF_SCOPE),
    ],
)
def test_a_list_record_alone_reaches_the_policys_rows_only(purchase: str, alone: tuple[str, str]) -> None:
    """Rows 5, 9 and 16 of domain.md §1.1 need an order; the policy's own rows do not."""
    assert _answer(purchase, LISTED) == alone


def test_an_office_lease_is_barred_only_where_the_order_names_it() -> None:
    """The nine items an order has by default do not count as naming the office lease."""
    assert _answer("office_lease grade=甲级") == OUT_OF_SCOPE
    assert _answer("office_lease grade=甲级", (Standing("order", frozenset({"OFFICE_LEASE"})),)) == BARRED


def test_a_tour_without_a_group_is_reached_by_either_category() -> None:
    """TOUR_OUTBOUND or OUTBOUND_SERVICE suffices for a tour that is no group's; a group's needs the former."""
    service_only = (Standing("order", frozenset({"OUTBOUND_SERVICE"})),)

    assert _answer("outbound_tour is_group=false sold_by_agency=true destination=THA", service_only) == BARRED
    assert _answer("outbound_tour is_group=true sold_by_agency=true destination=JPN", service_only) == OUT_OF_SCOPE


def test_every_purchase_is_one_the_contract_can_carry() -> None:
    """Each purchase text maps onto the contract's Purchase message, field by field, and all fifteen kinds occur."""
    kinds = set()
    for purchase in law.PURCHASES:
        message = ParseDict(purchase_fields(purchase.text), check_pb2.Purchase())
        kinds.add(message.WhichOneof("kind"))

    assert kinds == {field.name for field in check_pb2.Purchase.DESCRIPTOR.fields}
    assert len({purchase.text for purchase in law.PURCHASES}) == len(law.PURCHASES)


def test_every_category_has_a_row_and_only_known_ones_are_used() -> None:
    """The sixteen words of design.md §3 are the table's, and no purchase names another."""
    words = (
        "FLIGHT TRAIN SHIP HOTEL NIGHTCLUB GOLF TOUR_OUTBOUND OUTBOUND_SERVICE TOUR_DOMESTIC RESORT_SPEND SCHOOL_FEE "
        "INSURANCE BUILD VEHICLE REAL_ESTATE OFFICE_LEASE"
    )

    assert " ".join(law.CATEGORIES) == words
    assert all(set(purchase.categories) <= set(law.CATEGORIES) for purchase in law.PURCHASES)


def test_only_a_barring_cell_carries_categories() -> None:
    """A purchase that is free or open is reached by nothing; one that bars is reached by something."""
    for purchase in law.PURCHASES:
        assert bool(purchase.categories) == (purchase.cell == law.BARS)


def test_nothing_open_or_free_ever_looks_at_anyone() -> None:
    """Whatever stands against a person, a purchase that is not restricted is sold."""
    for purchase in law.PURCHASES:
        if purchase.cell != law.BARS:
            assert law.answer(purchase, (*P, *LISTED)) == NOT_RESTRICTED


def test_a_name_that_differs_frees_only_the_measure_it_differs_from() -> None:
    """Purchase with no standing at all and with another's name give the same NOT_LISTED."""
    purchase = Purchase("flight", "flight", law.BARS, ("FLIGHT",), "")

    assert law.answer(purchase, ()) == law.answer(purchase, P, name=law.DIFFERS)


THRESHOLDS = ("premium_cny", "school_fee_cny", "resort_cap_cny")
ABOVE = p.Money("CNY", 2 * 10**9)


def test_categories_and_rulebook_agree_on_what_each_measure_reaches() -> None:
    """Written apart, both say the same of every row that bars and of each category: also of those that bar only above a
    threshold, of which none ships."""
    book = rulebook(*((f"[parameters.{name}]", f"[parameters.{name}]\nGD = 1") for name in THRESHOLDS))
    above = (p.Insurance(True, ABOVE, "GD"), p.School(True, ABOVE, "GD", True), p.Resort("", ABOVE, "GD"))
    asked = Asked(NOW, NOW, NOW, b"", name_required=False)

    assert [book.screen(purchase, NOW).row.effect for purchase in above] == ["BAR", "BAR", "BAR"]
    for row in (row for row in book if row.effect == "BAR"):
        categories = [item.name for item in Item if item & row.items]
        purchase = Purchase("", row.purchase, law.BARS, tuple(filter(None, categories)), "")
        listed, unnamed = a_measure(kind=Kind.LIST, items=0), a_measure()
        assert law.answer(purchase, LISTED).reason == evaluate(listed, row, asked).reason.name, row.rule_id
        assert law.answer(purchase, P).reason == evaluate(unnamed, row, asked).reason.name, row.rule_id
        for item in Item:
            named = law.answer(purchase, (Standing("order", frozenset({item.name or ""})),))
            assert named.reason == evaluate(a_measure(items=item), row, asked).reason.name, (row.rule_id, item)
