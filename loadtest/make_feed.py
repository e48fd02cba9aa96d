"""Makes a court feed and the list of whom to ask and what the answer must be.

Strategy: a wheel of *cases* (an order, a list record whose removal leaves the order, a lift that does not cover the
hotel, ...) is turned once per person. A case draws its people, writes the feed lines that bind them, some of them due
later in the feed (removals, exemptions, re-binds), and states the facts as `Standing`s. What must be answered comes
from those facts and the tables of `loadtest.expectations`, nothing else.

Everything streams: one case is in memory at a time, plus the lines that are due later. Equal arguments give equal
bytes. A person's answers hold for at least a day after `as_of`: whatever a date decides is two days or more away, or
is asked with an explicit service time.

Files written (under temporary names, renamed at the end, the manifest last):
- feed.jsonl, feed.jsonl.manifest.json: design.md §7. Line n has sequence n.
- people.csv: person, document_type, number, country, name, purchase, service_time, outcome, reason, why. `purchase` is
  the kind and the contract's field names (`purchase_fields` reads it); `reason` may be two words joined by "|".
- broken.csv, when asked for: line, cause, field of every line the importer must refuse.
"""

import base64
import csv
import hashlib
import heapq
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any, BinaryIO, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from loadtest import expectations as law
from loadtest.expectations import ABSENT, AGREES, BARS, DIFFERS, ENDED, LIFTED, NOT_YET, Purchase, Standing, Window
from loadtest.people import (
    FOREIGN_PASSPORT,
    HMT_RESIDENCE_PERMIT,
    OTHER,
    PRC_PASSPORT,
    RESIDENT_ID,
    TAIWAN_TRAVEL_PERMIT,
    Document,
    People,
    Person,
)

SHANGHAI = timezone(timedelta(hours=8))
COLUMNS = (
    "person",
    "document_type",
    "number",
    "country",
    "name",
    "purchase",
    "service_time",
    "outcome",
    "reason",
    "why",
)
OTHER_NAME = "another's name"  # in a row's `why`: the number is listed under another name
FEED, MANIFEST, PEOPLE, BROKEN = "feed.jsonl", "feed.jsonl.manifest.json", "people.csv", "broken.csv"
DEMO_PEOPLE = Path("run/demo/feed") / PEOPLE
"""Of the feed of `make run`, seen from the checkout: whom a test asks about where nobody else is named."""

_DAY_MS = 86_400_000
_SPAN = timedelta(minutes=10)  # the feed's own times run over this, ending at as_of: the data is fresh when imported
_HEARTBEAT_EVERY = 10_000
_COURTS = tuple(f"合成市第{number}人民法院" for number in "一二三四五六七八九")
_PARTIAL_ITEMS = (
    ("FLIGHT", "TRAIN"),
    ("HOTEL",),
    ("TRAIN",),
    ("FLIGHT", "HOTEL", "NIGHTCLUB", "GOLF"),
    ("REAL_ESTATE", "VEHICLE", "BUILD"),
    ("TOUR_OUTBOUND", "OUTBOUND_SERVICE"),
    ("OUTBOUND_SERVICE",),
    ("SHIP", "TOUR_DOMESTIC"),
    ("GOLF",),
    ("INSURANCE", "VEHICLE"),
    ("RESORT_SPEND", "HOTEL"),
    ("FLIGHT", "TRAIN", "SHIP", "HOTEL", "NIGHTCLUB", "GOLF", "BUILD", "VEHICLE", "REAL_ESTATE"),
)
_RELATED = ("LEGAL_REP", "PRINCIPAL", "DIRECTLY_RESPONSIBLE", "CONTROLLER")
_ENTITY_KINDS = frozenset({"vehicle", "real_estate", "construction", "office_lease", "venue", "insurance"})
_FULL_WIDTH = str.maketrans("0123456789X", "０１２３４５６７８９Ｘ")

Json = dict[str, Any]


class Row(NamedTuple):
    """One line of people.csv, read back."""

    person: str
    document_type: str
    number: str
    country: str
    name: str
    purchase: str
    service_time: str
    outcome: str
    reason: str
    why: str

    @property
    def reasons(self) -> frozenset[str]:
        """The reasons any of which is right."""
        return frozenset(self.reason.split("|"))


class Summary(NamedTuple):
    """What was made."""

    people: int
    lines: int
    broken: int
    rows: int
    as_of: str


def read_people(path: Path) -> Iterator[Row]:
    """The rows of a people.csv, one at a time."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        if tuple(next(rows, ())) != COLUMNS:
            raise ValueError(f"{path}: not a people.csv of this version; make it again")
        for row in rows:
            yield Row(*row)


def purchase_fields(text: str) -> Json:
    """A purchase text as the contract's Purchase message in JSON form: `train train_code=G1` -> {"train": {...}}.

    Keys are the contract's field names, a dot descends into a message, enums are their full words.
    """
    kind, *pairs = text.split(" ")
    fields: Json = {}
    for pair in pairs:
        path, _, word = pair.partition("=")
        target = fields
        *parents, name = path.split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
        if word in ("true", "false"):
            target[name] = word == "true"
        else:
            target[name] = int(word) if name == "star_rating" else word
    return {kind: fields}


def rfc3339(milliseconds: int) -> str:
    """An instant as text, in Shanghai's time."""
    return datetime.fromtimestamp(milliseconds / 1000, SHANGHAI).isoformat(timespec="seconds")


@dataclass(slots=True)
class Asked:
    """Whom to ask about, and the facts. `by_number`: facts that differ for some of the person's documents."""

    person: Person
    standings: tuple[Standing, ...]
    why: str
    minor: bool = False
    entity: bool = False
    by_number: dict[str, tuple[Standing, ...]] = field(default_factory=dict)
    service_ms: tuple[int, ...] = ()
    among: frozenset[str] = frozenset()
    only_free: bool = False


@dataclass(slots=True)
class Case:
    """What one turn of the wheel yields: lines (each with how many people later it is due) and whom to ask."""

    lines: list[tuple[int, Json]] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)


class _Courts:
    """Writes feed lines. Holds the counters that make measure ids and case numbers unique."""

    def __init__(self, today: date, random: Random) -> None:
        self._today = today
        self._random = random
        self._measures = 0

    def day(self, offset: int) -> str:
        """The date `offset` days from today in Shanghai."""
        return (self._today + timedelta(days=offset)).isoformat()

    def _case_number(self) -> str:
        year, number = self._today.year - 1 - self._measures % 5, self._measures
        match self._measures % 12:
            case 7:
                return f"({year})京0105执{number}号"
            case 8:
                return f"（{year}）沪0117执恢{number}号之一"
            case 9:
                return f"({year}） 粤01执{number}号"
            case 10:
                return f"（{year}）新40执{number:07d}号"
            case 11:
                return f"(2014)合执字第{number:08d}号"
        return f"（{year}）浙0102执{number}号"

    def subject(self, person: Person, role: str, documents: list[Document] | None = None) -> Json:
        """A person as the feed names one."""
        papers: list[Json] = []
        for paper in person.documents if documents is None else documents:
            entry: Json = {"type": paper.type, "number": paper.number}
            if paper.country:
                entry["country"] = paper.country
            papers.append(entry)
        subject: Json = {"role": role, "name": person.name, "documents": papers}
        if person.name_latin:
            subject["name_latin"] = person.name_latin
        if person.birth_date:
            subject["birth_date"] = person.birth_date
        return subject

    def add(
        self,
        kind: str,
        subjects: list[Json],
        items: tuple[str, ...] | None = None,
        first: str = "",
        last: str | None = None,
    ) -> Json:
        """A measure: `kind` list or order; `first` and `last` days in force."""
        self._measures += 1
        line: Json = {
            "op": "add",
            "measure_id": f"{'L' if kind == 'list' else 'O'}{self._measures:08d}",
            "kind": kind,
            "court": _COURTS[self._measures % len(_COURTS)],
            "case_number": self._case_number(),
        }
        if items is not None:
            line["items"] = list(items)
        begin = self.day(-self._random.randrange(2, 1500))
        line["effective_from"] = first or (begin + "T09:30:00+08:00" if self._measures % 9 == 0 else begin)
        if last is not None:
            line["effective_to"] = last
        line["subjects"] = subjects
        return line

    @staticmethod
    def end(line: Json, op: str, reason: str) -> Json:
        """The removal (op remove or revoke) of a measure."""
        return {"op": op, "measure_id": line["measure_id"], "court": line["court"], "reason": reason}

    @staticmethod
    def exempt(
        line: Json,
        kind: str,
        first: str,
        last: str,
        items: tuple[str, ...] = (),
        documents: list[Document] | None = None,
    ) -> Json:
        """A court's exemption from a measure, for all it binds or for the person with these documents."""
        exemption: Json = {"kind": kind, "valid_from": first, "valid_to": last}
        if items:
            exemption["items"] = list(items)
        if documents is not None:
            exemption["documents"] = [
                {"type": paper.type, "number": paper.number} | ({"country": paper.country} if paper.country else {})
                for paper in documents
            ]
        return {
            "op": "exempt",
            "measure_id": line["measure_id"],
            "court": line["court"],
            "exemption": exemption,
        }


ORDER, LIST = Standing("order"), Standing("list")


class _Cases:
    """The cases. Each method takes nothing, draws people and returns a Case; `size` people at most are drawn."""

    def __init__(self, seed: int, as_of: datetime) -> None:
        self.random = Random(f"cases {seed}")
        today = as_of.astimezone(SHANGHAI).date()
        self.people = People(seed, today)
        self.courts = _Courts(today, self.random)
        self.now_ms = int(as_of.timestamp()) * 1000
        self._midnight_ms = int(datetime(today.year, today.month, today.day, tzinfo=SHANGHAI).timestamp()) * 1000
        self._partial = cycle(_PARTIAL_ITEMS)

    def _later(self) -> int:
        return self.random.randrange(1, 400)

    def _at(self, days: int, milliseconds: int = 0) -> int:
        return self._midnight_ms + days * _DAY_MS + milliseconds

    def _debtor(self, person: Person) -> list[Json]:
        return [self.courts.subject(person, "DEBTOR_PERSON")]

    def clear(self) -> Case:
        """Nobody ordered anything."""
        return Case(asked=[Asked(self.people.person(), (), "in no measure")])

    def clear_company(self) -> Case:
        """A company nobody ordered anything."""
        return Case(asked=[Asked(self.people.entity(), (), "entity in no measure", entity=True)])

    def renewed_passport(self) -> Case:
        """A renewed passport that the feed has not bound yet is not found (domain.md §8, 24)."""
        person = self.people.person((RESIDENT_ID, PRC_PASSPORT))
        line = self.courts.add("order", self._debtor(person))
        asked = Asked(person, (ORDER,), "order, passport renewed since")
        number = self.people.numbers.prc_passport()
        if number is not None:
            person.documents.append(Document(PRC_PASSPORT, number))
            asked.by_number[number] = ()
        return Case([(0, line)], [asked])

    def order(self) -> Case:
        """An order naming no items: the nine of SPC-C 3(1)."""
        person = self.people.person()
        line = self.courts.add("order", self._debtor(person))
        return Case([(0, line)], [Asked(person, (ORDER,), "order, no items named")])

    def partial_order(self) -> Case:
        """An order naming some items."""
        person, items = self.people.person(), next(self._partial)
        line = self.courts.add("order", self._debtor(person), items)
        why = f"order of {' '.join(items)}"
        return Case([(0, line)], [Asked(person, (Standing("order", frozenset(items)),), why)])

    def office_order(self) -> Case:
        """An order that names the office lease."""
        person, items = self.people.person((RESIDENT_ID,)), ("OFFICE_LEASE", "HOTEL")
        line = self.courts.add("order", self._debtor(person), items)
        standing = Standing("order", frozenset(items))
        return Case([(0, line)], [Asked(person, (standing,), "order naming the office", among=frozenset(items))])

    def school_order(self) -> Case:
        """An order that names school fees, premiums and resorts: open as long as no level is set."""
        person, items = self.people.person((RESIDENT_ID,)), ("SCHOOL_FEE", "INSURANCE", "RESORT_SPEND")
        line = self.courts.add("order", self._debtor(person), items)
        return Case([(0, line)], [Asked(person, (Standing("order", frozenset(items)),), "order of levels not set")])

    def no_tours_order(self) -> Case:
        """An order whose items lack tours (domain.md §8, 20)."""
        person, items = self.people.person(), ("FLIGHT", "TRAIN", "HOTEL")
        line = self.courts.add("order", self._debtor(person), items)
        standing = Standing("order", frozenset(items))
        among = frozenset({"TOUR_DOMESTIC", "FLIGHT"})
        return Case([(0, line)], [Asked(person, (standing,), "order lacking tours", among=among)])

    def listed(self) -> Case:
        """On the dishonest list only; half of them for the fixed two years."""
        person = self.people.person()
        last = self.courts.day(self.random.randrange(3, 700)) if self.random.random() < 0.5 else None
        line = self.courts.add("list", self._debtor(person), last=last)
        return Case([(0, line)], [Asked(person, (LIST,), "list record alone")])

    def listed_and_ordered(self) -> Case:
        """Both measures, as SPC-C 1(2) demands."""
        person = self.people.person()
        lines = [self.courts.add(kind, self._debtor(person)) for kind in ("list", "order")]
        return Case([(0, line) for line in lines], [Asked(person, (LIST, ORDER), "list record and order")])

    def delisted_order_stays(self) -> Case:
        """终本 removes the list record; the order stays (domain.md §8, 14)."""
        person = self.people.person()
        record, order = (self.courts.add(kind, self._debtor(person)) for kind in ("list", "order"))
        removal = self.courts.end(record, "remove", "NO_ASSETS_FOUND")
        why = "list record removed, order stays"
        return Case([(0, record), (0, order), (self._later(), removal)], [Asked(person, (_lifted(LIST), ORDER), why)])

    def order_lifted_list_stays(self) -> Case:
        """The order is lifted, the list record stays."""
        person = self.people.person()
        record, order = (self.courts.add(kind, self._debtor(person)) for kind in ("list", "order"))
        removal = self.courts.end(order, "remove", "PERFORMED")
        why = "order lifted, list record stays"
        return Case([(0, record), (0, order), (self._later(), removal)], [Asked(person, (LIST, _lifted(ORDER)), why)])

    def removed(self) -> Case:
        """Paid: the order is lifted."""
        return self._ended("remove", "PERFORMED", "order removed")

    def revoked(self) -> Case:
        """The order was wrong from the start."""
        return self._ended("revoke", "WRONGLY_ISSUED", "order revoked")

    def _ended(self, op: str, reason: str, why: str) -> Case:
        person = self.people.person()
        line = self.courts.add("order", self._debtor(person))
        removal = self.courts.end(line, op, reason)
        return Case([(0, line), (self._later(), removal)], [Asked(person, (_lifted(ORDER),), why)])

    def removed_and_added_again(self) -> Case:
        """Lifted, then ordered again under the same id: the newest line holds."""
        person = self.people.person()
        line = self.courts.add("order", self._debtor(person))
        due = self._later()
        lines = [(0, line), (due, self.courts.end(line, "remove", "PERFORMED")), (due + self._later(), line)]
        return Case(lines, [Asked(person, (ORDER,), "order removed, added again")])

    def removed_before_added(self) -> Case:
        """A removal of something unknown, then a newer addition of it: in force."""
        person = self.people.person()
        line = self.courts.add("order", self._debtor(person))
        lines = [(0, self.courts.end(line, "remove", "PERFORMED")), (self._later(), line)]
        return Case(lines, [Asked(person, (ORDER,), "order added after a removal")])

    def sent_twice(self) -> Case:
        """The same addition under two sequence numbers."""
        person = self.people.person()
        line = self.courts.add("order", self._debtor(person))
        return Case([(0, line), (self._later(), line)], [Asked(person, (ORDER,), "order sent twice")])

    def not_yet(self) -> Case:
        """In force from a later day on, also for a journey after that day: measures are judged when one buys."""
        person, first = self.people.person(), self.random.randrange(2, 60)
        line = self.courts.add("order", self._debtor(person), first=self.courts.day(first))
        standing = ORDER._replace(state=NOT_YET)
        times = (0, self._at(first + 3))
        return Case([(0, line)], [Asked(person, (standing,), "order not yet in force", service_ms=times)])

    def ended(self) -> Case:
        """The last day in force was yesterday or earlier."""
        person = self.people.person()
        last = -1 if self.random.random() < 0.5 else -self.random.randrange(2, 300)
        first, last_day = self.courts.day(last - 400), self.courts.day(last)
        line = self.courts.add("order", self._debtor(person), first=first, last=last_day)
        return Case([(0, line)], [Asked(person, (ORDER._replace(state=ENDED),), "order's last day is over")])

    def ends_tomorrow(self) -> Case:
        """In force today and tomorrow, whole days, also for a journey after that."""
        person = self.people.person()
        line = self.courts.add("order", self._debtor(person), last=self.courts.day(1))
        times = (0, self._at(20))
        return Case([(0, line)], [Asked(person, (ORDER,), "order ends tomorrow", service_ms=times)])

    def ends_today(self) -> Case:
        """In force to the end of today: the answer flips at midnight, so only what nobody is refused is asked."""
        person = self.people.person()
        line = self.courts.add("order", self._debtor(person), last=self.courts.day(0))
        return Case([(0, line)], [Asked(person, (ORDER,), "order ends today", only_free=True)])

    def starts_today(self) -> Case:
        """In force from today's first moment."""
        person = self.people.person()
        line = self.courts.add("order", self._debtor(person), first=self.courts.day(0))
        return Case([(0, line)], [Asked(person, (ORDER,), "order since today")])

    def _window(self, first: int, last: int, items: frozenset[str]) -> Window:
        return Window(items, self._at(first), self._at(last + 1))

    def temporary_lift(self) -> Case:
        """暂时解除: flights and trains for some days, both ends asked; not the hotel (domain.md §8, 12)."""
        return self._lift("TEMPORARY_LIFT", 5, 24)

    def running_lift(self) -> Case:
        """A temporary lift that covers today."""
        return self._lift("TEMPORARY_LIFT", -3, 20)

    def single_trip(self) -> Case:
        """单次解禁: a few days."""
        return self._lift("SINGLE_TRIP", 3, 9)

    def _lift(self, kind: str, first: int, last: int) -> Case:
        person = self.people.person()
        line = self.courts.add("order", self._debtor(person))
        act = self.courts.exempt(line, kind, self.courts.day(first), self.courts.day(last))
        standing = ORDER._replace(windows=(self._window(first, last, law.TRANSPORT),))
        times = [self._at(first, -1000), self._at(first), self._at(last + 1, -1000), self._at(last + 1)]
        if first < 0:
            times[:2] = [0]
        asked = Asked(
            person,
            (standing,),
            f"order, {kind.lower()} day {first} to {last}",
            service_ms=tuple(times),
            among=frozenset({"FLIGHT", "TRAIN", "HOTEL"}),
        )
        return Case([(0, line), (self._later(), act)], [asked])

    def necessity(self) -> Case:
        """Consumption necessary for life or business, approved by the court for some categories (SPC-C 8)."""
        person = self.people.person()
        line = self.courts.add("order", self._debtor(person))
        items = ("HOTEL", "VEHICLE")
        act = self.courts.exempt(line, "NECESSITY", self.courts.day(-10), self.courts.day(90), items)
        standing = ORDER._replace(windows=(self._window(-10, 90, frozenset(items)),))
        times, among = (0, self._at(91, -1000), self._at(91)), frozenset({"HOTEL", "VEHICLE", "FLIGHT"})
        asked = Asked(person, (standing,), "order, necessity for hotel and car", service_ms=times, among=among)
        return Case([(0, line), (self._later(), act)], [asked])

    def two_courts(self) -> Case:
        """Two courts, exemption from one: the other's order still bars (domain.md §8, 19)."""
        person = self.people.person()
        lines = [self.courts.add("order", self._debtor(person)) for _ in range(2)]
        act = self.courts.exempt(lines[0], "TEMPORARY_LIFT", self.courts.day(-2), self.courts.day(20))
        exempted = ORDER._replace(windows=(self._window(-2, 20, law.TRANSPORT),))
        asked = Asked(person, (exempted, ORDER), "two courts, one exempts", among=law.TRANSPORT)
        return Case([(0, lines[0]), (0, lines[1]), (self._later(), act)], [asked])

    def two_courts_partial(self) -> Case:
        """One court exempts, the other's order does not reach the purchase: exempted."""
        person = self.people.person()
        flights = self.courts.add("order", self._debtor(person), ("FLIGHT", "TRAIN"))
        houses = self.courts.add("order", self._debtor(person), ("REAL_ESTATE",))
        act = self.courts.exempt(flights, "TEMPORARY_LIFT", self.courts.day(-2), self.courts.day(20))
        standings = (
            Standing("order", law.TRANSPORT, windows=(self._window(-2, 20, law.TRANSPORT),)),
            Standing("order", frozenset({"REAL_ESTATE"})),
        )
        asked = Asked(person, standings, "one court exempts, the other bars else", among=frozenset({"FLIGHT"}))
        return Case([(0, flights), (0, houses), (self._later(), act)], [asked])

    def rebound(self) -> Case:
        """The same measure again with fewer documents: those no longer named are free at once."""
        person = self.people.person((RESIDENT_ID, PRC_PASSPORT))
        line = self.courts.add("order", self._debtor(person))
        asked = Asked(person, (ORDER,), "order bound again to fewer documents")
        again = dict(line)
        again["subjects"] = [self.courts.subject(person, "DEBTOR_PERSON", person.documents[:1])]
        for dropped in person.documents[1:]:
            asked.by_number[dropped.number] = (_lifted(ORDER),)
        return Case([(0, line), (self._later(), again)], [asked])

    def minor(self) -> Case:
        """A child under an order: never barred, by the ID's birth date or the feed's."""
        number = self.people.numbers.minor_resident()
        person = self.people.with_resident_id(number, passport=True)
        if self.random.random() < 0.5:
            person.birth_date = f"{number[6:10]}-{number[10:12]}-{number[12:14]}"
        return self._of_age(person, minor=True, why="order on a child")

    def minor_abroad(self) -> Case:
        """A child known by a foreign passport alone: the feed's birth date tells the age."""
        person = self.people.person((FOREIGN_PASSPORT,))
        number = self.people.numbers.minor_resident()
        person.birth_date = f"{number[6:10]}-{number[10:12]}-{number[12:14]}"
        return self._of_age(person, minor=True, why="order on a child")

    def almost_eighteen(self) -> Case:
        """Eighteen in two days: a journey after the birthday changes nothing, buying is what counts."""
        number = self.people.numbers.born_on(self.people.numbers.eighteen_soon)
        if number is None:
            return self.minor()
        person = self.people.with_resident_id(number)
        return self._of_age(person, minor=True, why="order, 18 in two days", times=(0, self._at(30)))

    def eighteen_today(self) -> Case:
        """The eighteenth birthday: barred from its first moment (domain.md §8, 18)."""
        number = self.people.numbers.born_on(self.people.numbers.eighteen_today)
        if number is None:
            return self.order()
        return self._of_age(self.people.with_resident_id(number), minor=False, why="order, 18 today")

    def _of_age(self, person: Person, *, minor: bool, why: str, times: tuple[int, ...] = ()) -> Case:
        line = self.courts.add("order", self._debtor(person))
        return Case([(0, line)], [Asked(person, (ORDER,), why, minor=minor, service_ms=times)])

    def legacy(self) -> Case:
        """Somebody whose old 15-digit number is still shown."""
        person = self.people.with_resident_id(self.people.numbers.legacy_resident())
        line = self.courts.add("order", self._debtor(person))
        return Case([(0, line)], [Asked(person, (ORDER,), "order, old number")])

    def messy_feed(self) -> Case:
        """The feed itself writes numbers with a lower-case x, spaces, full-width digits or a renewal count."""
        person = self.people.person()
        written = [paper._replace(number=_messy(paper, self.random)) for paper in person.documents]
        line = self.courts.add("order", [self.courts.subject(person, "DEBTOR_PERSON", written)])
        return Case([(0, line)], [Asked(person, (ORDER,), "order, untidy feed")])

    def _company(self, related: int, kind: str = "order") -> tuple[Person, list[Person], Json]:
        entity = self.people.entity()
        persons = [self.people.person() for _ in range(related)]
        subjects = [self.courts.subject(entity, "DEBTOR_ENTITY")]
        subjects += [self.courts.subject(person, role) for person, role in zip(persons, cycle(_RELATED), strict=False)]
        return entity, persons, self.courts.add(kind, subjects)

    def company(self) -> Case:
        """An entity and its four related persons, bound by one order."""
        entity, persons, line = self._company(4)
        asked = [Asked(entity, (ORDER,), "order on the entity", entity=True)]
        asked += [
            Asked(person, (ORDER,), f"order, {role.lower()}") for person, role in zip(persons, _RELATED, strict=True)
        ]
        return Case([(0, line)], asked)

    def listed_company(self) -> Case:
        """The entity is on the list and under the order; its representative under the order only."""
        entity, (person,), line = self._company(1)
        record = self.courts.add("list", [self.courts.subject(entity, "DEBTOR_ENTITY")])
        asked = [
            Asked(entity, (LIST, ORDER), "entity on the list and ordered", entity=True),
            Asked(person, (ORDER,), "order, legal_rep of a listed entity"),
        ]
        return Case([(0, record), (0, line)], asked)

    def company_delisted(self) -> Case:
        """The entity's order is lifted, its list record stays; the representative is free."""
        entity, (person,), line = self._company(1)
        record = self.courts.add("list", [self.courts.subject(entity, "DEBTOR_ENTITY")])
        removal = self.courts.end(line, "remove", "PERFORMED")
        asked = [
            Asked(entity, (LIST, _lifted(ORDER)), "entity's order lifted, list record stays", entity=True),
            Asked(person, (_lifted(ORDER),), "order on the entity removed, legal_rep"),
        ]
        return Case([(0, record), (0, line), (self._later(), removal)], asked)

    def private_consumption(self) -> Case:
        """因私消费 with own money: for one of two related persons, on the court's word (SPC-C 3(2))."""
        entity, persons, line = self._company(2)
        items = ("FLIGHT", "TRAIN", "HOTEL")
        act = self.courts.exempt(
            line, "PRIVATE_CONSUMPTION", self.courts.day(-5), self.courts.day(180), items, persons[0].documents
        )
        windows = (self._window(-5, 180, frozenset(items)),)
        among = frozenset({*items, "GOLF"})
        asked = [
            Asked(entity, (ORDER,), "order on the entity", entity=True),
            Asked(persons[0], (ORDER._replace(windows=windows),), "legal_rep, private consumption", among=among),
            Asked(persons[1], (ORDER,), "principal, another's exemption", among=among),
        ]
        return Case([(0, line), (self._later(), act)], asked)

    def former_representative(self) -> Case:
        """The order is bound again without the former representative; the new one has no order (§8, 17)."""
        entity, (former,), line = self._company(1)
        again = dict(line)
        again["subjects"] = [self.courts.subject(entity, "DEBTOR_ENTITY")]
        asked = [
            Asked(entity, (ORDER,), "order on the entity", entity=True),
            Asked(former, (_lifted(ORDER),), "former legal_rep, released"),
            Asked(self.people.person(), (), "new legal_rep without an order"),
        ]
        return Case([(0, line), (self._later(), again)], asked)


def _lifted(standing: Standing) -> Standing:
    return standing._replace(state=LIFTED)


_WHEEL: tuple[tuple[int, int, Callable[[_Cases], Case]], ...] = (
    # (turns, people drawn, case): half of the people are in some measure
    (100, 1, _Cases.clear),
    (4, 1, _Cases.clear_company),
    (18, 1, _Cases.order),
    (15, 1, _Cases.partial_order),
    (12, 1, _Cases.listed),
    (8, 1, _Cases.listed_and_ordered),
    (4, 1, _Cases.delisted_order_stays),
    (3, 1, _Cases.order_lifted_list_stays),
    (7, 1, _Cases.removed),
    (3, 1, _Cases.revoked),
    (2, 1, _Cases.removed_and_added_again),
    (1, 1, _Cases.removed_before_added),
    (1, 1, _Cases.sent_twice),
    (1, 1, _Cases.renewed_passport),
    (1, 1, _Cases.office_order),
    (1, 1, _Cases.school_order),
    (1, 1, _Cases.no_tours_order),
    (2, 1, _Cases.not_yet),
    (2, 1, _Cases.ended),
    (1, 1, _Cases.ends_tomorrow),
    (1, 1, _Cases.ends_today),
    (1, 1, _Cases.starts_today),
    (2, 1, _Cases.temporary_lift),
    (1, 1, _Cases.running_lift),
    (1, 1, _Cases.single_trip),
    (1, 1, _Cases.necessity),
    (1, 1, _Cases.two_courts),
    (1, 1, _Cases.two_courts_partial),
    (1, 1, _Cases.rebound),
    (2, 1, _Cases.minor),
    (1, 1, _Cases.minor_abroad),
    (1, 1, _Cases.almost_eighteen),
    (1, 1, _Cases.eighteen_today),
    (2, 1, _Cases.legacy),
    (2, 1, _Cases.messy_feed),
    (2, 5, _Cases.company),
    (1, 2, _Cases.listed_company),
    (1, 2, _Cases.company_delisted),
    (1, 3, _Cases.private_consumption),
    (1, 3, _Cases.former_representative),
)


def _messy(paper: Document, random: Random) -> str:
    """The number as people type it; still the same number."""
    number, draw = paper.number, random.randrange(4)
    if paper.type == "HK_MACAU_TRAVEL_PERMIT":
        return f"{number}{draw:02d}"
    if paper.type in (FOREIGN_PASSPORT, OTHER, TAIWAN_TRAVEL_PERMIT):
        return number.translate(_FULL_WIDTH) if draw else f" {number} "
    if paper.type not in (RESIDENT_ID, HMT_RESIDENCE_PERMIT):
        return number.lower() if draw else number.translate(_FULL_WIDTH)
    if number.endswith("X"):
        return number[:17] + "xХⅩＸ"[draw]
    return (
        number.translate(_FULL_WIDTH),
        f"{number[:6]} {number[6:14]} {number[14:]}",
        f"{number[:6]}-{number[6:14]}-{number[14:]}",
        f"\u200b{number}\u3000",
    )[draw]


class _Asker:
    """Turns facts into rows of people.csv: picks purchases, writes numbers and names as callers do."""

    def __init__(self, seed: int, now_ms: int) -> None:
        self.random = Random(f"asking {seed}")
        self._now_ms = now_ms
        by_kind: dict[str, list[Purchase]] = {kind: [] for kind in law.KINDS}
        for purchase in law.PURCHASES:
            by_kind[purchase.kind].append(purchase)
        for purchases in by_kind.values():
            self.random.shuffle(purchases)
        kinds = [*law.KINDS, *("train",) * 10, *("flight", "lodging") * 2]
        self.random.shuffle(kinds)
        turning = {kind: cycle(purchases) for kind, purchases in by_kind.items()}
        self._any = (next(turning[kind]) for kind in cycle(kinds))
        barring = [purchase for purchase in law.PURCHASES if purchase.cell == BARS]
        self._barring = {
            kind: cycle([purchase for purchase in by_kind[kind] if purchase.cell == BARS])
            for kind in law.KINDS
            if any(purchase.kind == kind for purchase in barring)
        }
        self._barring_kinds = cycle([*self._barring, *("train",) * 3])
        self._free = cycle([purchase for purchase in law.PURCHASES if purchase.cell != BARS])
        self._entity = cycle([purchase for purchase in law.PURCHASES if purchase.kind in _ENTITY_KINDS])
        self._among: dict[frozenset[str], Iterator[Purchase]] = {}
        self._no_documents = cycle(law.NO_DOCUMENTS)
        self._strange = cycle(law.STRANGE_BUT_VALID)
        self._turn = 0

    def _of_categories(self, categories: frozenset[str]) -> Purchase:
        if categories not in self._among:
            by_category = [[p for p in law.PURCHASES if p.categories == (category,)] for category in sorted(categories)]
            self._among[categories] = (next(turn) for turn in cycle([cycle(choice) for choice in by_category]))
        return next(self._among[categories])

    def _telling(self, asked: Asked) -> Purchase:
        if asked.only_free:
            return next(self._free)
        if asked.among:
            return self._of_categories(asked.among)
        if asked.entity:
            return next(self._entity)
        if not asked.standings:
            return next(self._any)
        return next(self._barring[next(self._barring_kinds)])

    def rows(self, reference: str, asked: Asked) -> Iterator[tuple[str, ...]]:
        """All rows about one person."""
        self._turn += 1
        for service_ms in asked.service_ms or (0,):
            yield self._row(reference, asked, self._telling(asked), service_ms)
        if asked.only_free:
            return
        if asked.among:
            yield self._row(reference, asked, self._telling(asked), asked.service_ms[0] if asked.service_ms else 0)
        elif asked.standings and not asked.entity and self._turn % 2:
            yield self._row(reference, asked, next(self._any), 0)
        if not asked.standings and self._turn % 8 == 0:
            yield self._odd_row(reference)

    def _row(self, reference: str, asked: Asked, purchase: Purchase, service_ms: int) -> tuple[str, ...]:
        random, person = self.random, asked.person
        paper = person.documents[random.randrange(len(person.documents))]
        standings = asked.by_number.get(paper.number, asked.standings)
        # An exemption is asked about with the name, so that only the window decides.
        plain = len(standings) == 1 and standings[0].state == law.IN_FORCE and not standings[0].windows
        judged_ms = service_ms or self._now_ms
        barred = law.answer(purchase, standings, minor=asked.minor, service_ms=judged_ms).outcome == law.BARRED
        number, kind, why, name = paper.number, paper.type, asked.why, AGREES
        needs_name = kind not in law.NAME_MAY_BE_ABSENT
        draw = random.random()
        if kind == RESIDENT_ID and number.startswith("71000019") and draw < 0.6:
            number, needs_name, why = number[:6] + number[8:17], True, f"{why}; 15 digits"
        elif kind in (RESIDENT_ID, HMT_RESIDENCE_PERMIT) and draw < 0.04:
            kind = HMT_RESIDENCE_PERMIT if kind == RESIDENT_ID else RESIDENT_ID
            why += "; the number tells its type"
        elif draw < 0.06 and kind not in (FOREIGN_PASSPORT, OTHER):
            kind, needs_name, why = "UNSPECIFIED", True, f"{why}; type not known"
        elif draw < 0.2:
            number, why = _messy(paper, random), f"{why}; untidy number"
        # Whether 18 digits of no declared type need a name is not settled, so the name is always sent with them.
        tells_itself = kind == "UNSPECIFIED" and paper.type in law.NAME_MAY_BE_ABSENT
        draw = random.random()
        if plain and barred and draw < 0.06:
            name, why = DIFFERS, f"{why}; {OTHER_NAME}"
        elif needs_name and plain and barred and draw < 0.2 and not tells_itself:
            name, why = ABSENT, f"{why}; name missing"
        spelling = person.stranger if name == DIFFERS else random.choice(person.spellings)
        if name == ABSENT or (name == AGREES and draw > 0.6 and (not needs_name or not standings)):
            spelling = ""
        answer = law.answer(purchase, standings, name=name, minor=asked.minor, service_ms=judged_ms)
        service_time = rfc3339(service_ms) if service_ms else ""
        where = f"{why}; {purchase.kind}: {purchase.why}"
        return (reference, kind, number, paper.country, spelling, purchase.text, service_time, *answer, where)

    def _odd_row(self, reference: str) -> tuple[str, ...]:
        """A number that is none, sometimes with a purchase nobody may be refused; or a valid one often refused."""
        draw = self.random.randrange(5)
        if draw == 0:
            kind, number, why = next(self._strange)
            purchase = next(self._barring[next(self._barring_kinds)])
            outcome = (law.ALLOWED, law.NOT_LISTED)
        elif draw == 1:
            kind, number, _, why = next(self._no_documents)
            purchase = next(self._free)
            outcome = (law.ALLOWED, law.PURCHASE_NOT_RESTRICTED)
        else:
            kind, number, reason, why = next(self._no_documents)
            purchase = next(self._barring[next(self._barring_kinds)])
            outcome = (law.INVALID_DOCUMENT, reason)
        return (reference, kind, number, "", "", purchase.text, "", *outcome, f"{why}; {purchase.kind}: {purchase.why}")


def _break(how: str, line: Json, cases: _Cases) -> bytes:
    """The bytes of a good addition of one resident ID, spoiled in one way of `expectations.BROKEN_LINES`."""
    subject: Json = line["subjects"][0]
    paper: Json = subject["documents"][0]
    number: str = paper["number"]
    match how:
        case "cut in half":
            raw = _dump(line)
            return raw[: len(raw) // 2]
        case "not UTF-8":
            return _dump(line).replace("合成市".encode(), b"\xba\xcf\xff")
        case "an array":
            return b"[" + _dump(line) + b"]"
        case "no seq" | "no op" | "no measure_id" | "no kind" | "no court" | "no subjects":
            del line[how.removeprefix("no ")]
        case "seq as a text":
            line["seq"] = str(line["seq"])
        case "time without a zone":
            line["time"] = str(line["time"])[:19]
        case "an op nobody knows":
            line["op"] = "annul"
        case "a removal without measure_id":
            line = {"seq": line["seq"], "time": line["time"], "op": "remove", "reason": "PERFORMED"}
        case "a kind nobody knows":
            line["kind"] = "warning"
        case "no case":
            del line["case_number"]
        case "a case that is no enforcement case":
            line["case_number"] = "（2019）皖1122民初1103号"
        case "an item nobody knows":
            line["items"] = ["FLIGHT", "BUS"]
        case "30 February":
            line["effective_from"] = "2024-02-30"
        case "ends before it begins":
            line["effective_from"], line["effective_to"] = cases.courts.day(-5), cases.courts.day(-9)
        case "a role outside the six":
            subject["role"] = "SHAREHOLDER"
        case "a related role on a list record":
            line["kind"], subject["role"] = "list", "LEGAL_REP"
        case "no documents":
            del subject["documents"]
        case "a birth date in month 13":
            subject["birth_date"] = "1880-13-01"
        case "a document type nobody knows":
            paper["type"] = "LIBRARY_CARD"
        case "a masked number":
            paper["number"] = number[:10] + "****" + number[14:]
        case "a wrong check digit":
            paper["number"] = number[:17] + ("1" if number[17] != "1" else "2")
        case "a number of no form":
            paper["number"] = number[:17]
        case "30 February in the number":
            paper["number"] = "440524188002300013"
        case "a foreign passport of no country":
            paper["type"], paper["number"] = FOREIGN_PASSPORT, cases.people.numbers.foreign_passport()
        case _:
            exempt = cases.courts.exempt(line, "TEMPORARY_LIFT", cases.courts.day(-1), cases.courts.day(5))
            match how:
                case "an exemption that ends before it begins":
                    exempt["exemption"]["valid_to"] = cases.courts.day(-9)
                case "an exemption without an end":
                    del exempt["exemption"]["valid_to"]
                case _:
                    del exempt["exemption"]
            line = {"seq": line["seq"], "time": line["time"]} | exempt
    return _dump(line)


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _dump(line: Json) -> bytes:
    return _encode(line).encode()


class _Feed:
    """Writes the feed's lines with their sequence and time, and hashes what it writes."""

    def __init__(self, file: BinaryIO, as_of: datetime, people: int) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._first = as_of - _SPAN
        self._people = people
        self._time = ""
        self.last = 0

    def at(self, done: int) -> None:
        """`done` of the people are through: the feed's time moves on."""
        moment = self._first + _SPAN * (done / self._people)
        self._time = moment.isoformat(timespec="seconds")

    def write(self, line: Json) -> None:
        """One good line."""
        self.write_raw(_dump(self.head() | line))

    def head(self) -> Json:
        """Sequence and time of the next line."""
        if (self.last + 1) % _HEARTBEAT_EVERY == 0:
            self.heartbeat()
        return {"seq": self.last + 1, "time": self._time}

    def heartbeat(self) -> None:
        """A sign of life."""
        self.write_raw(_dump({"seq": self.last + 1, "time": self._time, "op": "heartbeat"}))

    def write_raw(self, raw: bytes) -> None:
        """Bytes as they are, as the next line."""
        self.last += 1
        raw += b"\n"
        self._hash.update(raw)
        self._file.write(raw)

    def manifest(self, court: str, key: Ed25519PrivateKey | None) -> bytes:
        """The manifest of what has been written, signed when there is a key."""
        content: Json = {
            "feed": FEED,
            "first_sequence": 1,
            "last_sequence": self.last,
            "count": self.last,
            "sha256": self._hash.hexdigest(),
            "court": court,
        }
        if key is not None:
            signed = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
            content["signature"] = base64.b64encode(key.sign(signed)).decode()
        return json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n"


def make_feed(
    out: Path,
    people: int,
    seed: int,
    as_of: datetime,
    *,
    broken: int = 0,
    court: str = "合成法院",
    key: Ed25519PrivateKey | None = None,
) -> Summary:
    """Write feed, manifest, people.csv (and broken.csv) into the existing folder `out`.

    `as_of` needs a time zone; whole seconds count. Raises OSError from the disk, ValueError when the synthetic ranges
    cannot hold so many people.
    """
    as_of = as_of.astimezone(SHANGHAI).replace(microsecond=0)
    parts = [out / f"{name}.part" for name in (FEED, PEOPLE, BROKEN)]
    with (
        parts[0].open("wb") as feed_file,
        parts[1].open("w", encoding="utf-8", newline="") as people_file,
        parts[2].open("w", encoding="utf-8", newline="") as broken_file,
    ):
        rows, refused = csv.writer(people_file, lineterminator="\n"), csv.writer(broken_file, lineterminator="\n")
        rows.writerow(COLUMNS)
        refused.writerow(("line", "cause", "field"))
        feed = _Feed(feed_file, as_of, people)
        written = _run(feed, rows.writerow, refused.writerow, _Cases(seed, as_of), seed, people, broken)
        feed.at(people)
        feed.heartbeat()
    (out / BROKEN).unlink(missing_ok=True)
    (out / MANIFEST).unlink(missing_ok=True)  # a manifest never stands beside a feed it does not describe
    os.replace(parts[0], out / FEED)
    os.replace(parts[1], out / PEOPLE)
    if broken:
        os.replace(parts[2], out / BROKEN)
    else:
        parts[2].unlink()
    (out / MANIFEST).write_bytes(feed.manifest(court, key))
    return Summary(people, feed.last, broken, written, as_of.isoformat())


def _run(
    feed: _Feed,
    write_row: Callable[[tuple[str, ...]], object],
    write_refused: Callable[[tuple[object, ...]], object],
    cases: _Cases,
    seed: int,
    people: int,
    broken: int,
) -> int:
    wheel = [(size, case) for turns, size, case in _WHEEL for _ in range(turns)]
    Random(f"wheel {seed}").shuffle(wheel)
    asker = _Asker(seed, cases.now_ms)
    due: list[tuple[int, int, Json]] = []
    done = written = spoiled = tick = 0
    ways = cycle(law.BROKEN_LINES)

    def spoil(person: Person) -> None:
        nonlocal spoiled
        how, cause, path = next(ways)
        line = feed.head() | cases.courts.add("order", [cases.courts.subject(person, "DEBTOR_PERSON")])
        feed.write_raw(_break(how, line, cases))
        write_refused((feed.last, cause, path))
        spoiled += 1

    for size, case in cycle(wheel):
        if done == people:
            break
        made = case(cases) if done + size <= people else cases.clear()
        feed.at(done)
        for delay, line in made.lines:
            tick += 1
            if delay:
                heapq.heappush(due, (done + delay, tick, line))
            else:
                feed.write(line)
        while due and due[0][0] <= done:
            feed.write(heapq.heappop(due)[2])
        for asked in made.asked:
            done += 1
            for row in asker.rows(f"p{done:06d}", asked):
                write_row(row)
                written += 1
        # A refused line names somebody who is asked about as clear: what was refused binds nobody.
        if (
            spoiled * people < broken * done
            and not made.lines
            and made.asked[0].person.documents[0].type == RESIDENT_ID
        ):
            spoil(made.asked[0].person)
    while due:
        feed.write(heapq.heappop(due)[2])
    while spoiled < broken:
        spoil(cases.people.person((RESIDENT_ID,)))
    return written
