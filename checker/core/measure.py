"""What a court ordered, as the exact index keeps it, and its compact encoding.

Three values:
- `Measure`: what one measure says about one lookup key (a keyed digest of a document), with its exemptions.
- `Change`: what a feed line does to the index, already stripped of every document number and name: `Addition`,
  `Removal`, `Exemption`. Changes carry the feed sequence, and the newest sequence wins, so any change may be applied
  twice, late, or out of order.
- the bytes between them: one record per (key, measure) and one entry per exemption. The feed sequence comes first in
  both, so that the store's own function can keep the newer without knowing the rest.

Court and case are kept with the measure, not here: no check ever reads them.
"""

from collections.abc import Mapping
from enum import IntEnum, IntFlag
from struct import Struct
from typing import NamedTuple

NAME_DIGEST_BYTES = 6
"""Bytes kept of a name's keyed digest: the number has matched already, 48 bits decide whether the name agrees."""
CANARY = "xianxiao-canary"
"""The measure that lists `DigestKey.canary` with each import; no feed may name it."""
FOREVER_MS = 2**62
"""`effective_to_ms` of a measure without an end, in milliseconds since the epoch."""
NO_BIRTH_DATE = -(2**31)
"""`adult_from_day` of an entity, or of a person whose birth date nobody gave."""


class Item(IntFlag):
    """The consumption categories an order can name (domain.md §1.1; the feed's `items` words)."""

    FLIGHT = 1 << 0
    TRAIN = 1 << 1
    SHIP = 1 << 2
    HOTEL = 1 << 3
    NIGHTCLUB = 1 << 4
    GOLF = 1 << 5
    TOUR_OUTBOUND = 1 << 6
    OUTBOUND_SERVICE = 1 << 7
    TOUR_DOMESTIC = 1 << 8
    RESORT_SPEND = 1 << 9
    SCHOOL_FEE = 1 << 10
    INSURANCE = 1 << 11
    BUILD = 1 << 12
    VEHICLE = 1 << 13
    REAL_ESTATE = 1 << 14
    OFFICE_LEASE = 1 << 15


NINE_ITEMS = int(~Item.RESORT_SPEND & 0xFFFF)
"""What an order bars when the feed names no items: SPC-C 3(1) (1)-(9). The resort cap stands in the policy only."""


class Kind(IntEnum):
    """The two court measures: 失信被执行人名单 and 限制消费令."""

    LIST = 1
    ORDER = 2


class Role(IntEnum):
    """As whom the court bound this person or entity; the feed's `role` words."""

    DEBTOR_PERSON = 1
    DEBTOR_ENTITY = 2
    LEGAL_REP = 3
    PRINCIPAL = 4
    DIRECTLY_RESPONSIBLE = 5
    CONTROLLER = 6


class State(IntEnum):
    """ACTIVE, or why not: SHIELDED (屏蔽: was right, now ended), REVOKED (撤销: was wrong from the start)."""

    ACTIVE = 1
    SHIELDED = 2
    REVOKED = 3


class Window(NamedTuple):
    """A court's exemption for one measure: `items` bits, `[from_ms, to_ms)` on the service time."""

    items: int
    from_ms: int
    to_ms: int


class Measure(NamedTuple):
    """What one measure says about one lookup key."""

    measure_id: str
    sequence: int
    state: int
    kind: int
    role: int
    items: int
    items_named: bool
    disputed: bool
    effective_from_ms: int
    effective_to_ms: int
    adult_from_day: int
    names: bytes
    exemptions: tuple[Window, ...]


class Addition(NamedTuple):
    """A measure as the court states it now, replacing what was known of it. `records`: 16-byte lookup key -> record."""

    sequence: int
    measure_id: str
    records: Mapping[bytes, bytes]
    court: str
    case_number: str


class Removal(NamedTuple):
    """The measure has ended (SHIELDED) or never should have been (REVOKED): lifts at once, on every key."""

    sequence: int
    measure_id: str
    state: int
    reason: str


class Exemption(NamedTuple):
    """A court lets the measure rest for `window`. `keys` empty: for every person the measure binds."""

    sequence: int
    measure_id: str
    window: Window
    keys: tuple[bytes, ...]


Change = Addition | Removal | Exemption

_RECORD = Struct(">QBBBBHqqi")
_WINDOW = Struct(">QHqq")
_NAMED, _DISPUTED = 1, 2
_SEPARATOR = b"\x00"  # measure ids are printable, so an exemption's field can not be taken for a record's


def encode_record(measure: Measure) -> bytes:
    """The record stored under one key: sequence first (8 bytes, big-endian), names' digests last."""
    _, sequence, state, kind, role, items, items_named, disputed, from_ms, to_ms, adult_from_day, names, _ = measure
    flags = (_NAMED if items_named else 0) | (_DISPUTED if disputed else 0)
    return _RECORD.pack(sequence, state, kind, role, flags, items, from_ms, to_ms, adult_from_day) + names


def tombstone(sequence: int, state: int) -> bytes:
    """The record that outlives a measure: a sequence and a state, nothing of the person."""
    return _RECORD.pack(sequence, state, 0, 0, 0, 0, 0, 0, NO_BIRTH_DATE)


def encode_window(sequence: int, window: Window) -> bytes:
    """The entry stored for one exemption: sequence first (8 bytes, big-endian)."""
    return _WINDOW.pack(sequence, *window)


def record_field(measure_id: str) -> bytes:
    """The hash field that holds a measure's record under a key."""
    return measure_id.encode()


def exemption_field(measure_id: str, sequence: int) -> bytes:
    """The hash field that holds one exemption under a key: one per exemption, so none can displace another."""
    return measure_id.encode() + _SEPARATOR + sequence.to_bytes(8, "big")


def is_active(record: bytes) -> bool:
    """Whether an encoded record still stands (what a filter built from the index must contain)."""
    return record[8] == State.ACTIVE


def decode(fields: Mapping[bytes, bytes]) -> tuple[Measure, ...]:
    """All measures under one lookup key from its stored fields, exemptions attached; `()` for a key nobody listed."""
    windows: dict[bytes, list[Window]] = {}
    for field, value in fields.items():
        if _SEPARATOR in field:
            windows.setdefault(field[: field.index(_SEPARATOR)], []).append(Window(*_WINDOW.unpack(value)[1:]))
    measures = []
    for field, value in fields.items():
        if _SEPARATOR in field:
            continue
        sequence, state, kind, role, flags, items, from_ms, to_ms, adult = _RECORD.unpack_from(value)
        measures.append(
            Measure(
                measure_id=field.decode(),
                sequence=sequence,
                state=state,
                kind=kind,
                role=role,
                items=items,
                items_named=bool(flags & _NAMED),
                disputed=bool(flags & _DISPUTED),
                effective_from_ms=from_ms,
                effective_to_ms=to_ms,
                adult_from_day=adult,
                names=value[_RECORD.size :],
                exemptions=tuple(windows.get(field, ())),
            )
        )
    return tuple(measures)
