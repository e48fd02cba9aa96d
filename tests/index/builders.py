"""Changes and keys for the index's tests: digests of nothing, court texts of realistic length."""

import hashlib

from checker.core.measure import (
    FOREVER_MS,
    NINE_ITEMS,
    NO_BIRTH_DATE,
    Addition,
    Exemption,
    Item,
    Kind,
    Measure,
    Removal,
    Role,
    State,
    Window,
    encode_record,
)
from checker.index.base import IndexKey

KEY = IndexKey("k1", b"check-value-of-k1")
COURT = "北京市第一中级人民法院"
CASE = "(2026)京01执第1234567号"
WINDOW = Window(int(Item.FLIGHT), 1_000, 2_000)


def digest(number: int) -> bytes:
    """A lookup key: 16 uniform bytes, as a keyed digest gives them."""
    return hashlib.blake2b(number.to_bytes(8, "big"), digest_size=16).digest()


def a_record(sequence: int, names: int = 4) -> bytes:
    """An active record with this many name digests."""
    return encode_record(
        Measure(
            measure_id="",
            sequence=sequence,
            state=State.ACTIVE,
            kind=Kind.ORDER,
            role=Role.DEBTOR_PERSON,
            items=NINE_ITEMS,
            items_named=False,
            disputed=False,
            effective_from_ms=0,
            effective_to_ms=FOREVER_MS,
            adult_from_day=NO_BIRTH_DATE,
            names=digest(sequence)[:6] * names,
            exemptions=(),
        )
    )


def an_addition(sequence: int, measure_id: str, *keys: int) -> Addition:
    """An order that names these keys."""
    return Addition(sequence, measure_id, {digest(key): a_record(sequence) for key in keys}, COURT, CASE)


def a_removal(sequence: int, measure_id: str, state: State = State.SHIELDED) -> Removal:
    """The end of a measure."""
    return Removal(sequence, measure_id, state, "paid")


def an_exemption(sequence: int, measure_id: str, *keys: int, window: Window = WINDOW) -> Exemption:
    """A court's exemption for some keys of a measure, or for all."""
    return Exemption(sequence, measure_id, window, tuple(digest(key) for key in keys))
