"""Values for tests: synthetic, complete, and each with only what the test at hand says about it."""

import datetime as dt
from functools import cache
from pathlib import Path

from checker.core.freshness import AsOf, Limits
from checker.core.key import Algorithm, DigestKey
from checker.core.lookup import EVERYTHING, View
from checker.core.measure import FOREVER_MS, NINE_ITEMS, NO_BIRTH_DATE, Item, Kind, Measure, Role, State, Window
from checker.core.rules import Rulebook, parse

SHANGHAI = dt.timezone(dt.timedelta(hours=8))
RULEBOOK_FILE = Path(__file__).parent.parent / "checker" / "core" / "rulebook.toml"
KEY = DigestKey("test-1", Algorithm.BLAKE2B_128, bytes(range(32)))
DEBTOR = "440524188001010014"
"""The specimen number of domain.md §3.2: born 1880."""
MINOR = "710000202002290017"


def ms(text: str) -> int:
    """Milliseconds since the epoch of an ISO time, Asia/Shanghai where it names no zone."""
    moment = dt.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=SHANGHAI)
    return int(moment.timestamp() * 1000)


NOW = ms("2026-03-10T12:00:00")


@cache
def rulebook(*changes: tuple[str, str]) -> Rulebook:
    """The rulebook that ships, with texts replaced; each replacement must be found."""
    source = RULEBOOK_FILE.read_text("utf-8")
    for old, new in changes:
        assert old in source, old
        source = source.replace(old, new, 1)
    return parse(source.encode())


def a_view(book: Rulebook | None = None, *, as_of: AsOf | None = None, limits: Limits | None = None) -> View:
    """A view whose filter knows nothing, so that every check is asked of the index."""
    return View(book or rulebook(), KEY, EVERYTHING, as_of or AsOf(100, NOW, 0, 0), limits or Limits())


def a_measure(
    measure_id: str = "M1",
    *,
    kind: Kind = Kind.ORDER,
    role: Role = Role.DEBTOR_PERSON,
    state: State = State.ACTIVE,
    items: Item | int | None = None,
    names: tuple[str, ...] = ("张三",),
    effective_from: str = "2020-01-01",
    effective_to: str | None = None,
    adult_from_day: int = NO_BIRTH_DATE,
    exemptions: tuple[Window, ...] = (),
    disputed: bool = False,
) -> Measure:
    """A measure in force; `items` None: an order that names none, so the nine of SPC-C 3(1)."""
    return Measure(
        measure_id=measure_id,
        sequence=1,
        state=state,
        kind=kind,
        role=role,
        items=NINE_ITEMS if items is None else int(items),
        items_named=items is not None,
        disputed=disputed,
        effective_from_ms=ms(effective_from),
        effective_to_ms=FOREVER_MS if effective_to is None else ms(effective_to),
        adult_from_day=adult_from_day,
        names=b"".join(KEY.stored_name(name) for name in names),
        exemptions=exemptions,
    )
