"""What a booking system asks, held to the contract as a request over the wire would be.

Purchases are the values of `checker.core.purchase`. They say nothing about a person, so those that were found in order
are remembered and cost a look-up. What is malformed is the programmer's mistake: UsageError, naming field and remedy. A
malformed document is none: it is answered INVALID_DOCUMENT.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import IntEnum
from typing import Any, NamedTuple, TypeAlias

from checker import wire
from checker.core import purchase as p
from checker.core.document import DocumentType
from checker.core.lookup import Query
from checker.errors import UsageError

_REMEMBERED = 16_384  # as many as a rulebook remembers
_NANOS = 1_000_000_000
_INT32 = range(-(2**31), 2**31)
_UINT64 = range(2**64)
_TYPES = frozenset(DocumentType)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class Item(NamedTuple):
    """One question of `check_many`; the arguments of `check`."""

    purchase: p.Purchase
    document_type: DocumentType
    number: str
    country: str = ""
    name: str = ""
    act_time: datetime | None = None
    service_time: datetime | None = None
    min_feed_sequence: int = 0


ItemTuple: TypeAlias = tuple[p.Purchase, DocumentType, str, str, str, datetime | None, datetime | None, int]


def cny(amount: int | Decimal) -> p.Money:
    """An amount in yuan."""
    return p.Money("CNY", int(Decimal(amount) * _NANOS))


class Purchases:
    """Purchases found in order. Safe to share between threads."""

    def __init__(self) -> None:
        # By kind, because two kinds with equal attributes are equal as tuples.
        self._known: dict[type[Any], dict[p.Purchase, p.Purchase]] = {kind: {} for kind in p.KINDS.values()}

    def __call__(self, purchase: p.Purchase) -> p.Purchase:
        """The same, as `wire.query` would read it from a request. Raises UsageError naming the field."""
        try:
            return self._known[purchase.__class__][purchase]
        except (KeyError, TypeError):
            pass
        checked = read(purchase)
        known = self._known[type(purchase)]
        if len(known) >= _REMEMBERED:
            known.clear()
        known[checked] = checked
        known[purchase] = checked
        return checked


def read(purchase: p.Purchase) -> p.Purchase:
    """`Purchases` without the memory."""
    if type(purchase) not in p.KINDS.values():
        kinds = ", ".join(kind.__name__ for kind in p.KINDS.values())
        raise UsageError(f"purchase: must be one of {kinds}")
    where = f"purchase.{wire.kind_of(purchase)}"
    problems = [
        (f"{where}.{name}", wrong)
        for (name, kind), value in zip(type(purchase).__annotations__.items(), purchase, strict=True)
        if (wrong := _wrong(kind, value))
    ]
    if not problems:
        try:
            return wire.purchase_value(wire.purchase_message(purchase))
        except wire.Malformed as error:
            problems = error.violations
        except ValueError:  # what no message can carry
            problems = [(where, "holds a text that is not Unicode, or a number beyond all measure")]
    raise UsageError("; ".join(f"{field}: {text}" for field, text in problems))


def _wrong(kind: Any, value: object) -> str:
    """What is wrong with a value's type; "": nothing."""
    if kind is bool:
        return "" if isinstance(value, bool) else "must be a bool"
    if kind is str:
        return "" if isinstance(value, str) else "must be a str"
    if kind is p.Money:
        fits = isinstance(value, p.Money) and _wrong(str, value.currency) == "" and _is_int(value.nanos)
        return "" if fits else "must be a Money, such as cny(200)"
    if issubclass(kind, IntEnum):
        return "" if isinstance(value, kind) else f"must be a {kind.__name__}"
    return "" if _is_int(value) and value in _INT32 else "must be an int"


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_new: Callable[[type[Query], tuple[Any, ...]], Query] = tuple.__new__


def query(known: Purchases, item: Item | ItemTuple) -> Query:
    """The question in core's terms. Raises UsageError."""
    purchase, document_type, number, country, name, act_time, service_time, min_feed_sequence = item
    if document_type not in _TYPES or number.__class__ is not str or country or name or min_feed_sequence:
        _check(document_type, number, country, name, min_feed_sequence)
    act_ms = 0 if act_time is None else _milliseconds("act_time", act_time)
    service_ms = 0 if service_time is None else _milliseconds("service_time", service_time)
    # What Query(...) does, without its Python-level constructor: this is done for every check.
    return _new(
        Query,
        (known(purchase), document_type, number, country, None, name, b"", act_ms, service_ms, min_feed_sequence),
    )


def _check(document_type: object, number: object, country: object, name: object, min_feed_sequence: object) -> None:
    if document_type not in _TYPES:
        raise UsageError("document_type: must be a DocumentType (UNSPECIFIED: not known)")
    for field, text in (("number", number), ("country", country), ("name", name)):
        if not isinstance(text, str):
            raise UsageError(f"{field}: must be a str")
        if len(text) > wire.MAX_TEXT and field == "name":
            raise UsageError(f"name: must be at most {wire.MAX_TEXT} characters")
    if not _is_int(min_feed_sequence) or min_feed_sequence not in _UINT64:
        raise UsageError("min_feed_sequence: must be an int from 0 on")


def _milliseconds(field: str, moment: object) -> int:
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise UsageError(f"{field}: must be a datetime with a time zone, such as datetime.now(UTC)")
    return (moment - _EPOCH) // _MILLISECOND or 1  # 0 means "not said" in core
