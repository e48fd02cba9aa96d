"""The rulebook: a table first, code where the table ends.

`parse` reads and checks the TOML of `rulebook.toml` and lists every problem at once. Two questions are asked of it:
- `Rulebook.screen(purchase, at)`, before anyone is looked at: can any measure forbid this purchase?
- `evaluate(measure, row, asked)`, after the exact index was read: does this measure forbid it to this person?

Everything a rule says is in the table; this module only knows how to read a cell and in which order a measure is
weighed (domain.md §2.6): state, period, name, minor, items, role, exemption at the time of service.
"""

import hashlib
import tomllib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from enum import IntEnum
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final, NamedTuple, get_type_hints

from checker.core.decision import Advisory, AnsweredBy, Decision, Outcome, Reason, Verdict
from checker.core.measure import Item, Kind, Measure, Role, State
from checker.core.purchase import KINDS, Money, Purchase, Train
from checker.core.train import EMU, OTHER, STANDING, UNKNOWN_SEAT, UNREADABLE, G, SeatTable, train_class

SHANGHAI: Final = timezone(timedelta(hours=8))
DAY_MS: Final = 86_400_000
_SHANGHAI_MS: Final = 8 * 3_600_000
_ANY_TIME: Final = 2**62
_REMEMBERED_PURCHASES: Final = 65_536
_NANOS: Final = 1_000_000_000


class RulebookError(ValueError):
    """The rulebook cannot be used; `problems` holds one line each, naming the row."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Text(NamedTuple):
    """A text for the person at the counter."""

    zh: str
    en: str


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the rulebook."""

    rule_id: str
    purchase: str
    when: str  # the condition, in words
    effect: str  # BAR, ALLOW or OPEN
    certainty: str  # C, I or O
    items: int  # order items that bar it, any of them
    named_only: bool
    list_bars: bool
    roles: frozenset[int]  # empty: any
    basis: str
    alternatives: tuple[Text, ...]
    from_ms: int
    until_ms: int


class Screened(NamedTuple):
    """What the rules alone say: `unrestricted` ends the check; else `miss` is the answer to a filter miss."""

    row: Row
    unrestricted: Decision | None
    miss: Decision
    miss_stale: Decision


class Asked(NamedTuple):
    """The question as `evaluate` weighs it. Times in milliseconds since the epoch."""

    act_ms: int
    service_ms: int
    now_ms: int
    name: bytes  # the stored cut of the name's digest; b"" = no name was sent
    name_required: bool


_Test = Callable[[Any], bool]


class Rulebook:
    """A parsed rulebook. Immutable; safe to share."""

    def __init__(
        self,
        *,
        source: bytes,
        version: str,
        title: str,
        effective_from: date,
        parameters: Mapping[str, Any],
        notices: Mapping[str, Text],
        seats: SeatTable,
        train_rows: Mapping[tuple[str, str], list[Row]],
        rules: Mapping[str, list[tuple[_Test, Row]]],
    ) -> None:
        self.source = source
        self.sha256 = hashlib.sha256(source).digest()
        self.version = version
        self.title = title
        self.effective_from = effective_from
        self.parameters = parameters
        self.stand_in_strict = frozenset(parameters["stand_in_strict"])
        """Kinds of purchase that an edge without the centre leaves UNKNOWN on stale data, also at a filter miss."""
        self.notices = notices
        self._seats = seats
        self._train_rows = train_rows
        self._rules = rules
        self.rows: dict[str, Row] = {row.rule_id: row for row in self}
        starts = {row.from_ms for row in self} | {row.until_ms for row in self}
        self._changes = sorted(moment for moment in starts if 0 < moment < _ANY_TIME)
        self._start_ms = _midnight_ms(effective_from)
        # Purchases say nothing about a person, so what the table said of one may be remembered; typed, because two
        # kinds with equal attributes are equal as tuples.
        self._remembered = lru_cache(maxsize=_REMEMBERED_PURCHASES, typed=True)(self._judge)

    def __iter__(self) -> Iterator[Row]:
        for rows in self._train_rows.values():
            yield from rows
        for pairs in self._rules.values():
            for _, row in pairs:
                yield row

    def screen(self, purchase: Purchase, at_ms: int) -> Screened:
        """What the rules in force at `at_ms` say of this purchase, without looking at anyone."""
        if not self._changes and at_ms >= self._start_ms:
            return self._remembered(purchase, 0)
        return self._remembered(purchase, self._era(at_ms))

    def _era(self, at_ms: int) -> int:
        """A moment that stands for all with the same rules, so that the memory stays small."""
        if at_ms < self._start_ms:
            return -1
        return max((change for change in self._changes if change <= at_ms), default=0)

    def _judge(self, purchase: Purchase, era: int) -> Screened:
        if era < 0:
            return _screened(_BEFORE)
        at_ms = max(era, self._start_ms)
        if isinstance(purchase, Train):
            column = train_class(purchase.train_code, is_emu=purchase.is_emu)
            if column == UNREADABLE:
                return _screened(_UNREADABLE_TRAIN)
            seat = self._seats.group(purchase.seat_code, purchase.seat_name, is_standing=purchase.is_standing)
            candidates = self._train_rows[seat, column]
        else:
            candidates = [row for test, row in self._rules[_KIND_OF[type(purchase)]] if test(purchase)]
        return _screened(next((row for row in candidates if row.from_ms <= at_ms < row.until_ms), _BEFORE))


def _screened(row: Row) -> Screened:
    advisories = (Advisory.OPEN_RULE,) if row.effect == "OPEN" else ()
    unrestricted = None
    if row.effect != "BAR":
        unrestricted = Decision(
            Outcome.ALLOWED, Reason.PURCHASE_NOT_RESTRICTED, AnsweredBy.RULES, advisories, row.rule_id
        )
    miss = Decision(Outcome.ALLOWED, Reason.NOT_LISTED, AnsweredBy.FILTER, (), row.rule_id)
    return Screened(row, unrestricted, miss, miss._replace(advisories=(Advisory.STALE_DATA,)))


def _virtual(rule_id: str, effect: str, when: str) -> Row:
    return Row(rule_id, "", when, effect, "O", 0, False, False, frozenset(), "", (), 0, _ANY_TIME)


_BEFORE = _virtual("not-in-force", "ALLOW", "no row was in force at the time of the act")
_UNREADABLE_TRAIN = _virtual("train.unreadable", "OPEN", "a train code nobody can read")
_KIND_OF: Final = {kind: name for name, kind in KINDS.items()}


def evaluate(measure: Measure, row: Row, asked: Asked) -> Verdict:
    """What one measure says to one purchase, feed age aside. Pure; nothing here ever widens a refusal.

    A measure bars only if in force both at the time of the act and now: a past `act_ms` never revives one.
    """
    measure_id = measure.measure_id
    if (
        measure.state != State.ACTIVE
        or not measure.effective_from_ms <= asked.act_ms < measure.effective_to_ms
        or not measure.effective_from_ms <= asked.now_ms < measure.effective_to_ms
    ):
        return Verdict(Reason.NOT_IN_FORCE, None, measure_id)
    if asked.name and not _agrees(measure.names, asked.name):
        return Verdict(Reason.NOT_LISTED, Advisory.NAME_MISMATCH, measure_id)
    disputed = Advisory.DISPUTED if measure.disputed else None
    if (min(asked.act_ms, asked.now_ms) + _SHANGHAI_MS) // DAY_MS < measure.adult_from_day:
        return Verdict(Reason.OUT_OF_SCOPE, Advisory.MINOR, measure_id)
    if row.roles and measure.role not in row.roles:
        return Verdict(Reason.OUT_OF_SCOPE, disputed, measure_id)
    if measure.kind == Kind.LIST:
        reached = row.list_bars
    else:
        reached = bool(measure.items & row.items) and (measure.items_named or not row.named_only)
    if not reached:
        return Verdict(Reason.OUT_OF_SCOPE, disputed, measure_id)
    for window in measure.exemptions:
        if window.items & row.items and window.from_ms <= asked.service_ms < window.to_ms:
            return Verdict(Reason.EXEMPTED, disputed, measure_id)
    if asked.name_required and not asked.name:
        return Verdict(Reason.NAME_REQUIRED, disputed, measure_id)
    return Verdict(Reason.MEASURE_IN_FORCE, disputed, measure_id)


def _agrees(names: bytes, name: bytes) -> bool:
    width = len(name)
    return any(names[at : at + width] == name for at in range(0, len(names), width))


def _midnight_ms(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=SHANGHAI).astimezone(UTC).timestamp()) * 1000


# --- reading the table -------------------------------------------------------------------------------------------


def parse(source: bytes) -> Rulebook:
    """Read a rulebook; raises RulebookError with every problem found, each naming its row and the remedy."""
    try:
        table = tomllib.loads(source.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RulebookError([f"not a TOML text: {error}"]) from None
    if misshapen := list(_misshapen(table, _SHAPE, "")):
        raise RulebookError(misshapen)  # nothing below it can be read
    reader = _Reader(table)
    rulebook = reader.read(source)
    if rulebook is None or reader.problems:
        raise RulebookError(reader.problems)
    return rulebook


_CELL: Final = {"BAR C": "C", "BAR I": "I", "ALLOW C": "C", "ALLOW I": "I", "OPEN": "O"}
_ROW_KEYS: Final = {
    "id",
    "purchase",
    "when",
    "effect",
    "items",
    "list_bars",
    "named_only",
    "roles",
    "basis",
    "alternatives",
    "from",
    "until",
}
_TRAIN_ROW_KEYS: Final = {"seat", G, EMU, OTHER, "from", "until"}
_OUTCOMES: Final = ("BARRED", "UNKNOWN", "INVALID_DOCUMENT")
_THRESHOLDS: Final = ("premium_cny", "school_fee_cny", "resort_cap_cny")
_PROVINCES: Final = frozenset(
    (
        *("AH", "BJ", "CQ", "FJ", "GD", "GS", "GX", "GZ", "HA", "HB", "HE", "HI", "HK", "HL", "HN", "JL", "JS"),
        *("JX", "LN", "MO", "NM", "NX", "QH", "SC", "SD", "SH", "SN", "SX", "TJ", "TW", "XJ", "XZ", "YN", "ZJ"),
    )
)
"""ISO 3166-2:CN. A caller's province is upper-cased and looked up as it is: a threshold of another key fits nobody."""


_TEXTS: Final[list[Any]] = [{"zh": str, "en": str}]
_DATES: Final[dict[str, Any]] = {"from": date, "until": date}
_SHAPE: Final[dict[str, Any]] = {
    "parameters": {"stand_in_strict": [str], **{key: {} for key in _THRESHOLDS}},
    "notice": {key: {"zh": str, "en": str} for key in _OUTCOMES},
    "seat": [{"code": str, "names": {}, "alone": str}],
    "train": {
        "items": [str],
        "list_bars": bool,
        "basis": {},
        "alternatives": _TEXTS,
        "row": [{"seat": str, **_DATES}],
    },
    "rule": [
        {
            "id": str,
            "purchase": str,
            "when": {},
            "items": [str],
            "roles": [str],
            "list_bars": bool,
            "named_only": bool,
            "basis": str,
            "alternatives": _TEXTS,
            **_DATES,
        }
    ],
}
"""The kinds of value where one is expected: a table ({}), a list of one kind, or a plain type."""


def _misshapen(value: Any, shape: Any, where: str) -> Iterator[str]:
    """Each place where the TOML holds another kind of value than a rulebook has there."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            yield f"{where}: must be a table"
            return
        for name, inner in shape.items():
            if name in value:
                yield from _misshapen(value[name], inner, f"{where}.{name}" if where else name)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{where}: must be a list"
            return
        for number, one in enumerate(value, 1):
            yield from _misshapen(one, shape[0], f"{where} {number}")
    elif not isinstance(value, shape):
        words = {str: "a text", bool: "true or false", date: "a date such as 2026-01-01"}
        yield f"{where}: must be {words[shape]}"


class _Reader:
    """Reads the tables one by one and keeps a list of what is wrong instead of stopping at the first."""

    def __init__(self, table: dict[str, Any]) -> None:
        self.table = table
        self.problems: list[str] = []
        self.parameters: dict[str, Any] = {}
        self.switches: set[str] = set()  # that a row hangs on
        self.start_ms = 0

    def read(self, source: bytes) -> Rulebook | None:
        version = self._text(self.table, "version", "top level")
        if version and not (version.isascii() and version.isprintable() and len(version) <= 64):
            self.problems.append("top level: version must be at most 64 printable ASCII characters")
        effective_from = self.table.get("effective_from")
        if not isinstance(effective_from, date):
            self.problems.append("top level: effective_from must be a date such as 2015-07-22")
            effective_from = date(1970, 1, 1)
        self.start_ms = _midnight_ms(effective_from)
        self._read_parameters()
        notices = self._read_notices()
        seats = self._read_seats()
        train_rows = self._read_train()
        rules = self._read_rules()
        top = {"version", "effective_from", "title", "parameters", "notice", "seat", "train", "rule"}
        self._refuse_unknown(self.table, top, "top level")
        for name, value in self.parameters.items():
            if isinstance(value, bool) and name not in self.switches and name != "min_star":
                self.problems.append(f"parameters: {name} is a switch that no row names: write it as the row does")
        if self.problems:
            return None
        return Rulebook(
            source=source,
            version=version,
            title=str(self.table.get("title", "")),
            effective_from=effective_from,
            parameters=self.parameters,
            notices=notices,
            seats=seats,
            train_rows=train_rows,
            rules=rules,
        )

    def _text(self, table: Mapping[str, Any], name: str, where: str) -> str:
        value = table.get(name)
        if isinstance(value, str) and value:
            return value
        self.problems.append(f"{where}: {name} must be a non-empty text")
        return ""

    def _refuse_unknown(self, table: Mapping[str, Any], known: Iterable[str], where: str) -> None:
        """A misspelt entry would be no entry: what it was to say would be left out in silence."""
        for unknown in sorted(table.keys() - set(known)):
            self.problems.append(f"{where}: unknown entry {unknown!r}; there are {', '.join(sorted(known))}")

    def _read_parameters(self) -> None:
        given = self.table.get("parameters", {})
        stars = given.get("min_star")
        if not (type(stars) is int and 1 <= stars <= 5):
            self.problems.append("parameters: min_star must be a whole number from 1 to 5")
        for name, value in given.items():
            if name in _THRESHOLDS:
                for region, amount in value.items():
                    if region not in _PROVINCES:
                        self.problems.append(
                            f"parameters.{name}.{region}: is no province: write its ISO 3166-2:CN letters, such as GD"
                        )
                    if not (isinstance(amount, int) and not isinstance(amount, bool) and amount >= 0):
                        self.problems.append(f"parameters.{name}.{region}: must be a whole number of CNY")
            elif name == "stand_in_strict":
                if not set(value) <= KINDS.keys():
                    self.problems.append(f"parameters: stand_in_strict names kinds of purchase: {', '.join(KINDS)}")
            elif name != "min_star" and not isinstance(value, bool):
                self.problems.append(f"parameters: {name} is not a parameter this version knows")
        self.parameters = {name: {} for name in _THRESHOLDS} | {"stand_in_strict": []} | given

    def _read_notices(self) -> dict[str, Text]:
        given = self.table.get("notice", {})
        self._refuse_unknown(given, _OUTCOMES, "notice")
        return {outcome: self._both(given.get(outcome, {}), f"notice.{outcome}") for outcome in _OUTCOMES}

    def _both(self, texts: Mapping[str, Any], where: str) -> Text:
        self._refuse_unknown(texts, Text._fields, where)
        return Text(self._text(texts, "zh", where), self._text(texts, "en", where))

    def _read_seats(self) -> SeatTable:
        names: dict[str, dict[str, str]] = {}
        alone: dict[str, str] = {}
        for number, seat in enumerate(self.table.get("seat", []), 1):
            code = self._text(seat, "code", f"seat {number}")
            if code in names:
                self.problems.append(f"seat {code}: listed twice")
            self._refuse_unknown(seat, {"code", "names", "alone"}, f"seat {code}")
            names[code] = {name: str(group) for name, group in seat.get("names", {}).items()}
            groups = set(names[code].values())
            if not groups:
                self.problems.append(f"seat {code}: names must list at least one name and its group")
            elif "alone" in seat:
                alone[code] = seat["alone"]
                if alone[code] not in groups:
                    self.problems.append(f"seat {code}: alone must be one of its groups: {', '.join(sorted(groups))}")
            elif len(groups) == 1:
                alone[code] = next(iter(groups))
        return SeatTable(names, alone)

    def _read_train(self) -> dict[tuple[str, str], list[Row]]:
        train = self.table.get("train", {})
        bases = train.get("basis", {})
        self._refuse_unknown(train, _SHAPE["train"], "train")
        self._refuse_unknown(bases, (G, EMU, OTHER), "train.basis")
        found: dict[tuple[str, str], list[Row]] = {}
        for entry in train.get("row", []):
            seat = self._text(entry, "seat", "train.row")
            self._refuse_unknown(entry, _TRAIN_ROW_KEYS, f"train.row {seat}")
            for column in (G, EMU, OTHER):
                where = f"train.row {seat}, column {column}"
                row = self._row(
                    {
                        "id": f"train.{column}.{seat}".lower().replace("_", "-"),
                        "purchase": "train",
                        "effect": entry.get(column),
                        "items": train.get("items", []),
                        "list_bars": train.get("list_bars", False),
                        "basis": bases.get(column),
                        "alternatives": train.get("alternatives", []),
                        **{key: entry[key] for key in ("from", "until") if key in entry},
                    },
                    where,
                    f"{column} train, seat {seat}",
                )
                found.setdefault((seat, column), []).append(row)
        wanted = {str(group) for seat in self.table.get("seat", []) for group in seat.get("names", {}).values()}
        wanted |= {UNKNOWN_SEAT, STANDING}
        rows = {seat: found_rows for (seat, column), found_rows in found.items() if column == G}
        for seat in sorted(wanted - rows.keys()):
            self.problems.append(f"train: no row for seat group {seat}")
        for seat in sorted(rows.keys() - wanted):
            self.problems.append(f"train.row {seat}: no seat code has this group")
        for seat, dated in rows.items():
            self._refuse_holes(dated, f"train.row {seat}")
        return found

    def _refuse_holes(self, rows: list[Row], where: str) -> None:
        """Outside the dates of all its rows a seat would be sold to everybody."""
        for before, _ in pairwise(rows):
            if _undated(before):
                self.problems.append(f"{where}: a row after the one without dates is never reached: put it before")
                return
        reached = self.start_ms
        for row in sorted(rows, key=lambda row: row.from_ms):
            if row.from_ms > reached:
                break
            reached = max(reached, row.until_ms)
        if reached < _ANY_TIME:
            self.problems.append(
                f"{where}: its rows leave days without an answer: end with a row without `from` and `until`"
            )

    def _read_rules(self) -> dict[str, list[tuple[_Test, Row]]]:
        found: dict[str, list[tuple[_Test, Row]]] = {name: [] for name in KINDS if name != "train"}
        seen: set[str] = set()
        closed: set[str] = set()  # kinds with a row that fits every purchase
        for number, entry in enumerate(self.table.get("rule", []), 1):
            where = f"rule {entry.get('id', number)}"
            purchase = entry.get("purchase")
            if purchase not in found:
                self.problems.append(f"{where}: purchase must be one of {', '.join(found)}")
                continue
            if entry.get("id") in seen:
                self.problems.append(f"{where}: the id is used twice")
            seen.add(str(entry.get("id")))
            self._refuse_unknown(entry, _ROW_KEYS, where)
            if purchase in closed:
                self.problems.append(f"{where}: stands after one for every {purchase} and is never reached")
            conditions = entry.get("when", {})
            if not conditions and "from" not in entry and "until" not in entry:
                closed.add(purchase)
            test = self._test(conditions, KINDS[purchase], where)
            found[purchase].append((test, self._row(entry, where, _in_words(conditions))))
        for purchase, rows in found.items():
            last = next((e for e in reversed(self.table.get("rule", [])) if e.get("purchase") == purchase), None)
            if not rows or last is None or last.get("when") or "from" in last or "until" in last:
                self.problems.append(f"rules for {purchase}: the last row must have no `when`, so that every one fits")
        return found

    def _row(self, entry: Mapping[str, Any], where: str, when: str) -> Row:
        effect = self._cell(entry.get("effect"), where)
        items = 0
        for word in entry.get("items", []):
            if word in Item.__members__:
                items |= Item[word]
            else:
                self.problems.append(f"{where}: unknown item {word!r}; items are {', '.join(Item.__members__)}")
        roles = set()
        for word in entry.get("roles", []):
            if word in Role.__members__:
                roles.add(int(Role[word]))
            else:
                self.problems.append(f"{where}: unknown role {word!r}; roles are {', '.join(Role.__members__)}")
        if effect.startswith("BAR") and not entry.get("items"):
            self.problems.append(f"{where}: a row that bars must list the order items that bar it")
        from_ms, until_ms = self._day(entry.get("from"), where, 0), self._day(entry.get("until"), where, _ANY_TIME)
        if from_ms >= until_ms:
            self.problems.append(f"{where}: from must be before until, the first day without the row")
        return Row(
            rule_id=self._text(entry, "id", where),
            purchase=str(entry.get("purchase")),
            when=when,
            effect=effect.split()[0],
            certainty=_CELL[effect],
            items=int(items),
            named_only=bool(entry.get("named_only", False)),
            list_bars=bool(entry.get("list_bars", False)),
            roles=frozenset(roles),
            basis=self._text(entry, "basis", where),
            alternatives=tuple(self._both(text, where) for text in entry.get("alternatives", [])),
            from_ms=from_ms,
            until_ms=until_ms,
        )

    def _cell(self, value: object, where: str) -> str:
        if isinstance(value, str):
            effect, _, switch = value.partition(" if ")
            self.switches.add(switch)
            if switch and not isinstance(self.parameters.get(switch), bool):
                self.problems.append(f"{where}: {switch!r} is not a switch in [parameters]")
            if effect in _CELL:
                return effect if not switch or self.parameters.get(switch) else "OPEN"
        self.problems.append(f"{where}: must say one of {', '.join(_CELL)}")
        return "OPEN"

    def _day(self, value: object, where: str, absent: int) -> int:
        if value is None:
            return absent
        if isinstance(value, date):
            return _midnight_ms(value)
        self.problems.append(f"{where}: from and until must be dates such as 2026-01-01")
        return absent

    def _test(self, conditions: Mapping[str, Any], kind: type[Purchase], where: str) -> _Test:
        tests: list[_Test] = []
        for attribute, wanted in conditions.items():
            if attribute not in kind._fields:
                self.problems.append(f"{where}: {kind.__name__} has no attribute {attribute!r}")
                continue
            tests.append(self._condition(attribute, wanted, get_type_hints(kind)[attribute], where))
        return lambda purchase: all(test(purchase) for test in tests)

    def _condition(self, attribute: str, wanted: Any, kind: type[Any], where: str) -> _Test:
        if isinstance(wanted, dict):
            return self._comparison(attribute, wanted, kind, where)
        values = wanted if isinstance(wanted, list) else [wanted]
        for value in values:
            if not _can_be(value, kind):
                words = (
                    ", ".join(kind.__members__) if issubclass(kind, IntEnum) else _WORDS.get(kind, "over a threshold")
                )
                self.problems.append(f"{where}: {attribute} can never be {value!r}; it is {words}")
        accepted = {_plain(value) for value in values if isinstance(value, str | int)}
        return lambda purchase: _plain(getattr(purchase, attribute)) in accepted

    def _comparison(self, attribute: str, wanted: Mapping[str, Any], kind: type[Any], where: str) -> _Test:
        match list(wanted.items()):
            case [("at_least", "min_star")] if kind is int:
                return lambda purchase: bool(getattr(purchase, attribute) >= self.parameters["min_star"])
            case [("over", str(name))] if kind is Money and name in _THRESHOLDS:
                return lambda purchase: _over(
                    getattr(purchase, attribute), self.parameters[name].get(getattr(purchase, "region", "").upper())
                )
        self.problems.append(f"{where}: {attribute} must be compared as at_least or over a known parameter")
        return lambda _: False


_WORDS: Final = {str: "a text", bool: "true or false", int: "a whole number"}


def _can_be(value: Any, kind: type[Any]) -> bool:
    if issubclass(kind, IntEnum):
        return isinstance(value, str) and value in kind.__members__
    return kind in _WORDS and type(value) is kind


def _undated(row: Row) -> bool:
    return row.from_ms == 0 and row.until_ms == _ANY_TIME


def _over(amount: Money, threshold: int | None) -> bool:
    """Whether an amount in CNY exceeds a threshold; an unset threshold or another currency decides nothing."""
    return threshold is not None and amount.currency == "CNY" and amount.nanos > threshold * _NANOS


def _plain(value: Any) -> Any:
    """Attribute and table value in one form: enum names, squeezed texts."""
    if isinstance(value, IntEnum):
        return value.name
    if isinstance(value, str):
        return "".join(unicodedata.normalize("NFKC", value).split())
    return value


def _in_words(conditions: Mapping[str, Any]) -> str:
    words = []
    for attribute, wanted in conditions.items():
        match wanted:
            case dict():
                words += [f"{attribute} {how.replace('_', ' ')} {parameter}" for how, parameter in wanted.items()]
            case list():
                words.append(f"{attribute} = {' | '.join(map(str, wanted))}")
            case bool():
                words.append(attribute if wanted else f"not {attribute}")
            case _:
                words.append(f"{attribute} = {wanted}")
    return ", ".join(words) or "otherwise"
