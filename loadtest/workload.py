"""Invented traffic: who asks what, how often, in which order sizes, and what the right answer is.

Strategy: a `Tenant` is a table of facts about one kind of seller (domain.md §5, §6). `orders` turns tenants, a rate and
a seed into a stream of `Order`s, each with its intended start: a Poisson process whose rate follows the profile. People
come from three places, and each knows its right answer from facts of this package, never from the checker's rules:

- *listed* people are lines of a people.csv; the outcome is the one written there. The share of checks that must be
  looked up in the exact index (`hit_share`) is drawn from these. Barred people try again (12,389 persons made 108,000
  tries in the first month, domain.md §5), so barred answers cluster on few of them.
- *clear* people are made on the fly from birth years that no made feed uses (`people.unlisted_heads`); a few are the
  lines of people.csv that nobody may be refused. Always ALLOWED.
- *invalid* documents are the table `expectations.NO_DOCUMENTS`, and made numbers with a wrong check character.

A check is made by joining pieces of serialised protobuf that were made once, so that the tester is not the bottleneck.
Equal arguments give equal bytes.
"""

import csv
from bisect import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, islice
from pathlib import Path
from random import Random
from typing import NamedTuple

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.timestamp_pb2 import Timestamp

from loadtest import expectations as law
from loadtest.ask import BadPeople
from loadtest.make_feed import OTHER_NAME, Row, purchase_fields, read_people
from loadtest.people import FOREIGN_PERMANENT_RESIDENT_ID, HMT_RESIDENCE_PERMIT, RESIDENT_ID, SERIALS, unlisted_heads
from proto.checker.v1 import check_pb2 as pb

CHECK, BATCH, STREAM = "Check", "BatchCheck", "StreamCheck"
RPCS = (CHECK, BATCH, STREAM)
PROFILES = ("steady", "step", "burst", "day", "soak")
"""steady, soak: the rate throughout. step: five equal steps, the fifth at the rate. burst: the rate, with a sale
opening in the middle, where tenants that have one ask `opening` times as often for a minute (a third of shorter runs).
day: 24 hours in `seconds`, each tenant after its daily curve, the rate being the day's mean."""

TRIES = 108_000 / 12_389
"""How often a barred person tries (domain.md §5, first month of air)."""

STEPS = 5
_OPENING_S = 60.0


# --------------------------------------------------------------------------------------------------------------------
# Tenants
# --------------------------------------------------------------------------------------------------------------------


class Tenant(NamedTuple):
    """One kind of seller. Weights need not sum to 1; the 24 rates of `curve` are relative to their mean."""

    name: str
    share: float  # of all checks
    rpc: str  # the call its system makes
    sizes: Mapping[int, float]  # passengers per order -> weight
    hit_share: float  # of its checks, those the exact index must answer
    invalid_share: float  # of its checks, those with a number that is no document
    mix: Mapping[str, float]  # purchase as people.csv writes it -> weight
    curve: tuple[float, ...]  # rate in each hour of the day, their mean being 1
    opening: float = 1.0  # how many times its rate a sale opening is

    @property
    def mean_size(self) -> float:
        """Checks per order."""
        return sum(size * weight for size, weight in self.sizes.items()) / sum(self.sizes.values())

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of purchase it sells."""
        return tuple(dict.fromkeys(text.split(" ")[0] for text in self.mix))


def _curve(*relative: float) -> tuple[float, ...]:
    mean = sum(relative) / 24
    return tuple(rate / mean for rate in relative)


# Shapes by hand: rail sells from 5 to 1 o'clock (20 hours, domain.md §5.1), hotels fill in the evening.
_RAIL_DAY = _curve(3, 0, 0, 0, 0, 2, 5, 8, 12, 12, 11, 9, 8, 10, 10, 9, 9, 9, 9, 9, 8, 7, 6, 5)
_AIR_DAY = _curve(3, 2, 1, 1, 2, 5, 8, 9, 10, 10, 10, 9, 8, 9, 10, 10, 10, 9, 8, 8, 9, 8, 6, 4)
_HOTEL_DAY = _curve(4, 2, 1, 1, 1, 1, 1, 1, 2, 2, 2, 4, 6, 8, 10, 9, 9, 11, 14, 15, 15, 14, 11, 7)
_SHOP_DAY = _curve(1, 0, 0, 0, 0, 0, 0, 1, 5, 10, 12, 10, 6, 8, 11, 12, 11, 8, 5, 5, 4, 3, 2, 1)
_OFFICE_DAY = _curve(0, 0, 0, 0, 0, 0, 0, 1, 6, 12, 12, 9, 4, 8, 12, 12, 10, 5, 1, 0, 0, 0, 0, 0)
_NIGHT = _curve(10, 20, 20, 20, 15, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10)

# 75.9 % of rail trips are on EMUs (domain.md §5). On G trains every seat is restricted; on the others most are not, and
# such checks end at the rulebook.
_RAIL_MIX = {
    "train train_code=G1 seat_code=O seat_name=二等座": 38,
    "train train_code=G8888 seat_code=M seat_name=一等座": 7,
    "train train_code=G1 seat_code=9 seat_name=商务座": 2,
    "train train_code=G8888 seat_code=WZ seat_name=无座": 3,
    "train train_code=D301 seat_code=O seat_name=二等座": 16,
    "train train_code=C2001 seat_code=O seat_name=二等座": 6,
    "train train_code=D301 seat_code=M seat_name=一等座": 3,
    "train train_code=D301 seat_code=F seat_name=动卧": 1,
    "train train_code=T109 seat_code=1 seat_name=硬座": 9,
    "train train_code=1461 seat_code=3 seat_name=硬卧": 9,
    "train train_code=Z5 seat_code=4 seat_name=软卧": 3,
    "train train_code=T109 seat_code=WZ seat_name=无座": 3,
}

TENANTS = (
    # Shares after domain.md §5.1: rail 5,000 checks/s at its peak, air 350, star hotels 20, the others below 20 each.
    Tenant(
        "rail",
        0.925,
        BATCH,
        {1: 22, 2: 24, 3: 20, 4: 15, 5: 16, 6: 1, 7: 1, 8: 0.5, 9: 0.5},  # buyers' clients stop at 5, newer ones at 9
        0.01,
        0.002,
        _RAIL_MIX,
        _RAIL_DAY,
        opening=2.0,
    ),
    Tenant(
        "air",
        0.065,
        BATCH,
        {1: 58, 2: 24, 3: 9, 4: 5, 5: 2, 6: 1, 7: 0.4, 8: 0.3, 9: 0.3},
        0.01,
        0.004,  # numbers are typed by agents, from papers of many countries
        {"flight carrier=CA flight_number=CA1501": 9, "flight": 1},
        _AIR_DAY,
    ),
    Tenant(
        "hotel",
        0.004,
        CHECK,
        {1: 55, 2: 38, 3: 5, 4: 2},
        0.01,
        0.001,  # most desks have a card reader
        {
            "lodging star_rating=5": 15,
            "lodging star_rating=4": 35,
            "lodging star_rating=3": 35,
            "lodging star_rating=2": 5,
            "lodging star_rating=0": 10,
        },
        _HOTEL_DAY,
    ),
    Tenant(
        "tour",
        0.003,
        STREAM,
        {1: 10, 2: 25, 3: 15, 4: 15, 5: 10, 6: 9, 7: 6, 8: 5, 9: 5},
        0.01,
        0.005,
        {
            "outbound_tour is_group=true sold_by_agency=true destination=JPN": 25,
            "outbound_tour is_group=true sold_by_agency=true destination=HKG": 15,
            "outbound_service kind=OUTBOUND_SERVICE_KIND_VISA sold_by_agency=true destination=FRA": 15,
            "domestic_tour is_package=true": 35,
            "domestic_tour is_package=false": 10,
        },
        _SHOP_DAY,
    ),
    # No level of fee or premium is set, so the rulebook answers without looking at the person: nothing can hit.
    Tenant(
        "school",
        0.001,
        CHECK,
        {1: 1},
        0.0,
        0.002,
        {
            "school is_private=true fee.currency_code=CNY fee.units=260000 region=BJ": 8,
            "school is_private=false fee.currency_code=CNY fee.units=1500 region=BJ": 2,
        },
        _OFFICE_DAY,
    ),
    Tenant(
        "insurer",
        0.002,
        BATCH,
        {1: 70, 2: 20, 3: 10},
        0.0,
        0.002,
        {
            "insurance has_cash_value=true annual_premium.currency_code=CNY annual_premium.units=500000 region=SH": 4,
            "insurance has_cash_value=false annual_premium.currency_code=CNY annual_premium.units=900 region=SH": 6,
        },
        _OFFICE_DAY,
    ),
)
"""The country at its peak."""

NIGHTLY = Tenant(
    "nightly",
    1.0,
    BATCH,
    {200: 1, 500: 3, 1000: 1},
    0.01,
    0.001,
    _RAIL_MIX,
    _NIGHT,
)
"""Sold tickets asked again in bulk before departure, by one seller at night (domain.md §6.2: waitlist, re-check)."""

BY_NAME = {tenant.name: tenant for tenant in (*TENANTS, NIGHTLY)}


# --------------------------------------------------------------------------------------------------------------------
# Items, orders and their bytes
# --------------------------------------------------------------------------------------------------------------------


class Item(NamedTuple):
    """One check: a serialised CheckRequest without item_id, its right outcome, its line in people.csv (0: made)."""

    request: bytes
    expected: str
    line: int = 0


class Order(NamedTuple):
    """What one buyer sends at once. Check: a call per item; BatchCheck: one call; StreamCheck: a message per item."""

    at_s: float  # intended start, seconds from the run's
    tenant: str
    rpc: str
    items: tuple[Item, ...]


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 127:
        made.append(number & 127 | 128)
        number >>= 7
    made.append(number)
    return bytes(made)


def _field(number: int, value: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


_HEADS = [b"\x0a" + _varint(length) for length in range(1024)]  # BatchCheckRequest.items is field 1


def batch_request(items: Iterable[Item]) -> bytes:
    """The serialised BatchCheckRequest that asks these items in this order. A request has fewer than 1024 bytes."""
    return b"".join([_HEADS[len(item.request)] + item.request for item in items])


def with_item_id(request: bytes, item_id: str) -> bytes:
    """A serialised CheckRequest with its item_id set, as a stream needs: its answers may come in another order."""
    return _field(1, item_id.encode()) + request


def purchase_of(request: bytes) -> str:
    """A check's purchase in words, for messages: never its document or name."""
    purchase = pb.CheckRequest.FromString(request).purchase
    kind = purchase.WhichOneof("kind") or "nothing"
    fields = getattr(purchase, kind).ListFields() if kind != "nothing" else []
    return " ".join([kind, *(f"{field.name}={value}" for field, value in fields if not hasattr(value, "units"))])


# --------------------------------------------------------------------------------------------------------------------
# People
# --------------------------------------------------------------------------------------------------------------------

_CELLS = {purchase.text: purchase.cell for purchase in law.PURCHASES}
_CARDS = ((93, RESIDENT_ID), (4, HMT_RESIDENCE_PERMIT), (3, FOREIGN_PERMANENT_RESIDENT_ID))
_NAMED = 0.7  # of the made people, those asked about with a name
_FROM_FILE = 0.05  # of the clear people, those that are lines of people.csv: passports, permits, old numbers
_MISTYPED = 0.5  # of the invalid documents, those that are a made number with a wrong check character
_MOST_ROWS = 500_000
_RECENT = 512  # tries of barred people that one who tries again is drawn from
_NAMES = ("王芳", "李娜", "张伟", "刘洋", "陈静", "杨勇", "赵敏", "黄磊", "周杰", "吴桂英", "徐建华", "孙云龙")
_NOT_LOOKED_UP = frozenset({law.PURCHASE_NOT_RESTRICTED, law.NOT_LISTED})


class Rows(NamedTuple):
    """The lines of people.csv that ask for one kind of purchase, by what must happen to them."""

    barred: list[Item]
    looked_up: list[Item]  # the index is asked, and the answer is another
    clear: list[Item]
    invalid: list[Item]


class _Card(NamedTuple):
    """Made people with one type of card, with one name or none: subject = before + head + tail + after."""

    before: bytes
    heads: list[tuple[bytes, int]]  # 14 digits, and their share of the check sum
    after: bytes


class People:
    """Whom one can ask about. Raises BadPeople where the rows are not those of a people.csv of this version."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.kinds: dict[str, Rows] = {kind: Rows([], [], [], []) for kind in law.KINDS}
        self._purchases: dict[str, bytes] = {}
        line = 1
        for line, row in enumerate(rows, 2):
            try:
                self._take(line, row)
            except (ValueError, ParseError):
                raise BadPeople(
                    f"line {line} is not of this version: make it again with `loadtest make-feed`"
                ) from None
        if line == 1:
            raise BadPeople("holds nobody to ask about: make it with `loadtest make-feed`")
        self.cards = _cards()
        self.tails = [[_tail(rest, serial) for serial in SERIALS] for rest in range(11)]
        self.mistyped = [[_tail(rest + 1, serial) for serial in SERIALS] for rest in range(11)]
        self.no_documents = [
            _subject(pb.Document(type=f"DOCUMENT_TYPE_{kind}", number=number))
            for kind, number, _, _ in law.NO_DOCUMENTS
        ]

    @classmethod
    def read(cls, path: Path, most_rows: int = _MOST_ROWS) -> "People":
        """The people of a people.csv, of a large one the first `most_rows` lines. Raises BadPeople, OSError."""
        try:
            return cls(islice(read_people(path), most_rows))
        except (ValueError, TypeError, csv.Error):
            raise BadPeople("is not of this version: make it again with `loadtest make-feed`") from None

    def purchase(self, text: str) -> bytes:
        """A purchase text as the serialised field of a CheckRequest."""
        made = self._purchases.get(text)
        if made is None:
            message = pb.CheckRequest(purchase=ParseDict(purchase_fields(text), pb.Purchase()))
            made = self._purchases[text] = message.SerializeToString()
        return made

    def _take(self, line: int, row: Row) -> None:
        document = pb.Document(type=f"DOCUMENT_TYPE_{row.document_type}", number=row.number, country=row.country)
        asked = _subject(document, row.name) + self.purchase(row.purchase)
        if row.service_time:
            moment = Timestamp()
            moment.FromJsonString(row.service_time)
            asked += pb.CheckRequest(service_time=moment).SerializeToString()
        item = Item(asked, row.outcome, line)
        rows = self.kinds[row.purchase.partition(" ")[0]]
        if row.outcome == law.INVALID_DOCUMENT:
            rows.invalid.append(item)
        elif row.outcome == law.BARRED:
            rows.barred.append(item)
        elif OTHER_NAME in row.why or not row.reasons <= _NOT_LOOKED_UP:
            rows.looked_up.append(item)
        else:
            rows.clear.append(item)


def _subject(document: pb.Document, name: str = "") -> bytes:
    return pb.CheckRequest(subject=pb.Subject(document=document, name=name)).SerializeToString()


def _share(digits: str, first: int = 0) -> int:
    """What these digits, from place `first` on, add to a card's check sum (ISO 7064 MOD 11-2)."""
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return sum(int(digit) * weights[first + place] for place, digit in enumerate(digits)) % 11


def _tail(rest: int, serial: str) -> bytes:
    """The last four characters of a card whose first 14 digits add `rest`."""
    return (serial + "10X98765432"[(rest + _share(serial, 14)) % 11]).encode()


def _cards() -> list[_Card]:
    """A wheel of cards: turn it at random and their types and names come in the right proportions."""
    wheel = []
    for weight, kind in _CARDS:
        heads = [(head.encode(), _share(head)) for head in unlisted_heads(kind)]
        named = round(weight * _NAMED)
        for turn in range(weight):
            name = _NAMES[turn % len(_NAMES)] if turn < named else ""
            number = "0" * 18
            document = pb.Document(type=f"DOCUMENT_TYPE_{kind}", number=number)
            before, after = _subject(document, name).split(number.encode())
            wheel.append(_Card(before, heads, after))
    return wheel


# --------------------------------------------------------------------------------------------------------------------
# Traffic
# --------------------------------------------------------------------------------------------------------------------


class Stretch(NamedTuple):
    """A time in which every tenant asks at one rate (checks per second)."""

    start_s: float
    end_s: float
    rates: dict[str, float]

    @property
    def rate(self) -> float:
        """Checks per second of all tenants."""
        return sum(self.rates.values())


def stretches(tenants: Sequence[Tenant], rate_per_s: float, seconds: float, profile: str) -> list[Stretch]:
    """The intended rates over a run. Raises ValueError for a profile that is none of PROFILES."""
    whole = sum(tenant.share for tenant in tenants)
    usual = {tenant.name: rate_per_s * tenant.share / whole for tenant in tenants}
    match profile:
        case "steady" | "soak":
            parts = [(1.0, usual)]
        case "step":
            parts = [
                (1 / STEPS, {name: rate * step / STEPS for name, rate in usual.items()}) for step in range(1, STEPS + 1)
            ]
        case "burst":
            opening = min(_OPENING_S / seconds, 1 / 3)
            raised = {tenant.name: usual[tenant.name] * tenant.opening for tenant in tenants}
            parts = [((1 - opening) / 2, usual), (opening, raised), ((1 - opening) / 2, usual)]
        case "day":
            parts = [
                (1 / 24, {tenant.name: usual[tenant.name] * tenant.curve[hour] for tenant in tenants})
                for hour in range(24)
            ]
        case _:
            raise ValueError(f"a profile is one of {', '.join(PROFILES)}")
    ends = [0.0, *(seconds * end for end in accumulate(part for part, _ in parts))]
    ends[-1] = seconds
    return [Stretch(start, end, rates) for start, end, (_, rates) in zip(ends, ends[1:], parts, strict=False)]


def mean_rates(tenants: Sequence[Tenant], rate_per_s: float, seconds: float, profile: str) -> dict[str, float]:
    """Each tenant's intended rate (checks per second), averaged over the run."""
    parts = stretches(tenants, rate_per_s, seconds, profile)
    return {
        tenant.name: sum((part.end_s - part.start_s) * part.rates[tenant.name] for part in parts) / seconds
        for tenant in tenants
    }


class _Source:
    """Makes one tenant's items."""

    def __init__(self, tenant: Tenant, people: People, seed: str) -> None:
        self._random = Random(f"{seed} {tenant.name}")
        self._people = people
        self._hit = tenant.hit_share
        self._hit_or_invalid = tenant.hit_share + tenant.invalid_share
        self._sizes = tuple(tenant.sizes)
        self._size_ends = list(accumulate(tenant.sizes.values()))
        self._mix = _wheel({people.purchase(text): weight for text, weight in tenant.mix.items()})
        self._invalid_outcome = {
            people.purchase(text): law.INVALID_DOCUMENT if _CELLS[text] == law.BARS else law.ALLOWED
            for text in tenant.mix
        }
        rows = [people.kinds[kind] for kind in tenant.kinds]
        self._barred = [item for kind in rows for item in kind.barred]
        self._looked_up = [item for kind in rows for item in kind.looked_up]
        self._clear = [item for kind in rows for item in kind.clear]
        for items in (self._barred, self._looked_up):
            self._random.shuffle(items)
        if self._hit and not self._barred:
            raise BadPeople(f"bars nobody from what tenant {tenant.name} sells: make it with more --people")
        tries = len(self._barred) * TRIES
        self._barred_share = tries / (tries + len(self._looked_up)) if tries else 0.0
        self._next_barred = self._next_looked_up = 0
        self._recent: list[Item] = []

    def order(self) -> tuple[Item, ...]:
        size = self._sizes[bisect(self._size_ends, self._random.random() * self._size_ends[-1])]
        item = self._item
        return tuple([item() for _ in range(size)])

    def _item(self) -> Item:
        random = self._random.random
        draw = random()
        if draw < self._hit:
            return self._listed()
        people = self._people
        invalid = draw < self._hit_or_invalid
        if self._clear and not invalid and random() < _FROM_FILE:
            return self._clear[int(random() * len(self._clear))]
        purchase = self._mix[int(random() * len(self._mix))]
        outcome = self._invalid_outcome[purchase] if invalid else law.ALLOWED
        if invalid and random() >= _MISTYPED:
            return Item(people.no_documents[int(random() * len(people.no_documents))] + purchase, outcome)
        before, heads, after = people.cards[int(random() * len(people.cards))]
        head, rest = heads[int(random() * len(heads))]
        tails = (people.mistyped if invalid else people.tails)[rest]
        return Item(before + head + tails[int(random() * len(tails))] + after + purchase, outcome)

    def _listed(self) -> Item:
        """Somebody listed. One who is barred has probably tried before: who tried often is likelier to try again."""
        random = self._random.random
        if random() >= self._barred_share:
            self._next_looked_up += 1
            return self._looked_up[self._next_looked_up % len(self._looked_up)]
        if self._recent and random() < 1 - 1 / TRIES:
            item = self._recent[int(random() * len(self._recent))]
        else:
            self._next_barred += 1
            item = self._barred[self._next_barred % len(self._barred)]
        if len(self._recent) < _RECENT:
            self._recent.append(item)
        else:
            self._recent[int(random() * _RECENT)] = item
        return item


def _wheel(weights: Mapping[bytes, float], turns: int = 1000) -> list[bytes]:
    whole = sum(weights.values())
    return [value for value, weight in weights.items() for _ in range(max(1, round(weight / whole * turns)))]


def orders(
    people: People,
    tenants: Sequence[Tenant] = TENANTS,
    *,
    rate_per_s: float,
    seconds: float,
    seed: int | str,
    profile: str = "steady",
) -> Iterator[Order]:
    """The orders of a run in the order of their intended starts. `rate_per_s` counts checks, not orders.

    Raises BadPeople where `people` lists nobody for a tenant, ValueError for an unknown profile.
    """
    parts = stretches(tenants, rate_per_s, seconds, profile)
    sources = [_Source(tenant, people, f"items {seed}") for tenant in tenants]
    return _orders(parts, tenants, sources, Random(f"arrivals {seed}"))


def _orders(
    parts: Sequence[Stretch], tenants: Sequence[Tenant], sources: Sequence[_Source], random: Random
) -> Iterator[Order]:
    for part in parts:
        rates = [part.rates[tenant.name] / tenant.mean_size for tenant in tenants]
        ends = list(accumulate(rates))
        if not ends[-1]:
            continue
        # A Poisson process forgets: starting it again with each stretch leaves no seam.
        at_s = part.start_s + random.expovariate(ends[-1])
        while at_s < part.end_s:
            which = bisect(ends, random.random() * ends[-1])
            tenant = tenants[which]
            yield Order(at_s, tenant.name, tenant.rpc, sources[which].order())
            at_s += random.expovariate(ends[-1])
