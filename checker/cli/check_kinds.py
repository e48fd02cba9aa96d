"""The fifteen kinds of purchase as sub-commands of `checker check`: one table.

An argument is named as the field of the contract it fills and carries the function that fills it, so that adding a
field is adding a line. Words of an enum are its constants without prefix, in lower case with hyphens. Amounts are in
yuan, read as decimal text and never as floating point.
"""

import argparse
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

_NANOS = 1_000_000_000
_MAX_UNITS = 2**63 - 1


class Argument(NamedTuple):
    """One argument of a kind of purchase: the contract's field it fills, its flags, and argparse's own options."""

    field: str
    flags: tuple[str, ...]  # empty: positional
    options: dict[str, Any]
    fill: Callable[[Any, str, Any], None]  # (message, field, value): writes the field


class PurchaseKind(NamedTuple):
    """One kind of purchase: the sub-command, its name in the contract, and its arguments."""

    command: str
    kind: str
    help: str
    example: str
    arguments: tuple[Argument, ...]


def _set(message: Any, field: str, value: Any) -> None:
    setattr(message, field, value)


def _set_money(message: Any, field: str, value: Decimal) -> None:
    units = int(value)
    money = getattr(message, field)
    money.currency_code, money.units, money.nanos = "CNY", units, int((value - units) * _NANOS)


def _set_enum(prefix: str) -> Callable[[Any, str, str], None]:
    def fill(message: Any, field: str, word: str) -> None:
        number = message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_name[_constant(prefix, word)].number
        setattr(message, field, number)

    return fill


def _constant(prefix: str, word: str) -> str:
    return f"{prefix}_{word.upper().replace('-', '_')}"


def _set_flight(message: Any, _: str, value: str) -> None:
    match = re.fullmatch(r"([A-Z][A-Z0-9]|[0-9][A-Z])\s*(\d{1,4}[A-Z]?)", value.upper())
    if match:
        message.carrier, message.flight_number = match.groups()
    else:
        message.flight_number = value


def _money(text: str) -> Decimal:
    """An amount of yuan as decimal text; separators are understood."""
    try:
        value = Decimal(text.replace(",", "").replace("_", ""))
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or value < 0 or value > _MAX_UNITS or value * _NANOS != int(value * _NANOS):
        raise argparse.ArgumentTypeError("must be an amount in yuan such as 5000 or 5000.50, with at most 9 decimals")
    return value


def _text(field: str, *flags: str, help: str, **options: Any) -> Argument:  # noqa: A002 - argparse's own word
    return Argument(field, flags, {"help": help, **options}, _set)


def _flag(field: str, flag: str, help: str) -> Argument:  # noqa: A002 - argparse's own word
    return Argument(field, (flag,), {"help": help, "action": "store_true"}, _set)


def _amount(field: str, flag: str, help: str, **options: Any) -> Argument:  # noqa: A002 - argparse's own word
    return Argument(field, (flag,), {"help": help, "type": _money, "metavar": "YUAN", **options}, _set_money)


def _word(field: str, prefix: str, words: str, *flags: str, **options: Any) -> Argument:
    return Argument(field, flags, {"choices": words.split(), **options}, _set_enum(prefix))


_REGION = _text("region", "--region", metavar="XX", help="province, ISO 3166-2:CN letters (BJ, GD, ...)")
_DESTINATION = _text("destination", "--destination", metavar="XXX", help="ISO 3166-1 alpha-3; HKG, MAC, TWN count")
_AGENCY = _flag("sold_by_agency", "--by-agency", "sold by a licensed travel agency")

KINDS: tuple[PurchaseKind, ...] = (
    PurchaseKind(
        "train",
        "train",
        "a seat on a train 列车座位",
        "train D301 S --seat-name 二等包座",
        (
            _text("train_code", help="as printed: G1, D301, K512"),
            _text("seat_code", nargs="?", help="the ticketing system's letter or digit: O second, M first, 9 business"),
            _text(
                "seat_name", "--seat-name", metavar="NAME", help="二等座, 软卧, ...; with a renamed letter (ADFHIJS)"
            ),
            _flag("is_emu", "--emu", "an electric multiple unit although its prefix does not say so"),
            _flag("is_standing", "--standing", "a standing ticket 无座"),
        ),
    ),
    PurchaseKind(
        "flight",
        "flight",
        "a flight, any fare 飞机",
        "flight CA1234",
        (
            Argument(
                "flight_number",
                (),
                {"nargs": "?", "metavar": "FLIGHT", "help": "such as CA1234; no rule reads it"},
                _set_flight,
            ),
        ),
    ),
    PurchaseKind(
        "ship",
        "ship",
        "a berth on a ship 轮船舱位",
        "ship 二等",
        (_text("berth_class", metavar="CLASS", help="as printed: 特等, 一等, 二等, 三等, ..."),),
    ),
    PurchaseKind(
        "lodging",
        "lodging",
        "a night in a hotel 住宿",
        "lodging 5",
        (_text("star_rating", metavar="STARS", type=int, help="official stars 1 to 5, 0 = unrated"),),
    ),
    PurchaseKind(
        "venue",
        "venue",
        "a nightclub or a golf course 夜总会、高尔夫球场",
        "venue golf",
        (_word("kind", "VENUE_KIND", "nightclub golf"),),
    ),
    PurchaseKind(
        "outbound-tour",
        "outbound_tour",
        "a tour outside the mainland 出境旅游",
        "outbound-tour --group --by-agency --destination THA",
        (_flag("is_group", "--group", "a group tour 团队"), _AGENCY, _DESTINATION),
    ),
    PurchaseKind(
        "outbound-service",
        "outbound_service",
        "a service for a trip abroad 出境服务",
        "outbound-service visa --by-agency --destination JPN",
        (_word("kind", "OUTBOUND_SERVICE_KIND", "visa package transfer other"), _AGENCY, _DESTINATION),
    ),
    PurchaseKind(
        "domestic-tour",
        "domestic_tour",
        "a tour on the mainland 境内旅游",
        "domestic-tour --package",
        (_flag("is_package", "--package", "a package tour; a single sight's ticket is not one"),),
    ),
    PurchaseKind(
        "resort",
        "resort",
        "spending in a tourist resort 旅游度假区消费",
        "resort --amount 5000 --region BJ --grade 国家级",
        (
            _amount("amount", "--amount", "this transaction", required=True),
            _REGION,
            _text("grade", "--grade", metavar="GRADE", help="国家级 or 省级; absent: ungraded"),
        ),
    ),
    PurchaseKind(
        "school",
        "school",
        "a year's fee of a school, asked about the paying parent 学费",
        "school --private --fee 120000 --region SH --payer-named",
        (
            _flag("is_private", "--private", "a private school 私立学校"),
            _amount("fee", "--fee", "the fee for one school year; needed with --private"),
            _REGION,
            _flag("payer_named_by_order", "--payer-named", "the court's order names this payer and item"),
        ),
    ),
    PurchaseKind(
        "insurance",
        "insurance",
        "an insurance policy, asked about who pays 保险",
        "insurance --cash-value --premium 80000 --region GD",
        (
            _flag("has_cash_value", "--cash-value", "the product has cash value 现金价值"),
            _amount("annual_premium", "--premium", "for one year, a single premium in full; needed with --cash-value"),
            _REGION,
        ),
    ),
    PurchaseKind(
        "real-estate",
        "real_estate",
        "a deal in real estate 不动产",
        "real-estate purchase",
        (_word("deal", "REAL_ESTATE_DEAL", "purchase gift inheritance exchange rent"),),
    ),
    PurchaseKind(
        "construction",
        "construction",
        "building work 新建、扩建、装修",
        "construction decoration --luxury",
        (
            _word("kind", "CONSTRUCTION_KIND", "new-build extension decoration"),
            _flag("is_luxury", "--luxury", "高档; read for decoration only"),
        ),
    ),
    PurchaseKind(
        "vehicle",
        "vehicle",
        "a vehicle to be registered 车辆",
        "vehicle --use non-operating passenger-car",
        (
            _word("use", "VEHICLE_USE", "operating non-operating", "--use", required=True, help="营运 or 非营运"),
            _word("kind", "VEHICLE_KIND", "passenger-car truck motorcycle e-bike"),
        ),
    ),
    PurchaseKind(
        "office-lease",
        "office_lease",
        "a lease of offices 租赁写字楼",
        "office-lease 甲级",
        (_text("grade", nargs="?", metavar="GRADE", help="the building's grade as advertised"),),
    ),
)
NEEDED = {
    "school": ("is_private", "fee", "--private needs --fee YUAN"),
    "insurance": ("has_cash_value", "annual_premium", "--cash-value needs --premium YUAN"),
}
"""Command -> (field that is set, field it then needs, how to say so)."""
