"""`checker rulebook`: the rules in force, as tables a lawyer can read, or as JSON.

Strategy: what is shown is read from the parsed rulebook, the same object that decides. Only what parsing resolves away
(which cells hang on a practice switch, which seat letters make a group) is read from its TOML once more.
"""

import argparse
import json
import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checker.core.measure import Item, Role

if TYPE_CHECKING:
    from rich.text import Text

    from checker.core.rules import Row, Rulebook

_EPILOG = """\
examples:
  checker rulebook | less -R
  checker rulebook --json | jq '.rows[] | select(.effect == "BAR" and .certainty == "I")'
  checker rulebook --file draft.toml                             check a draft: every problem, one a line, exit 2
"""
TITLES = {
    "train": "Trains 列车座位",
    "flight": "Flights 民航飞机",
    "ship": "Ships 轮船舱位",
    "lodging": "Lodging 宾馆饭店住宿",
    "venue": "Nightclubs and golf courses 夜总会、高尔夫球场",
    "outbound_tour": "Tours outside the mainland 出境旅游",
    "outbound_service": "Services for trips abroad 出境服务",
    "domestic_tour": "Tours on the mainland 境内旅游",
    "resort": "Spending in resorts 旅游度假区消费",
    "school": "School fees 学费 (asked about the paying parent)",
    "insurance": "Insurance 保险 (asked about the policyholder who pays)",
    "real_estate": "Real estate 不动产",
    "construction": "Building work 新建、扩建、装修房屋",
    "vehicle": "Vehicles 车辆",
    "office_lease": "Leases of offices 租赁写字楼",
}
_COLUMNS = {"g": "G trains", "emu": "D, C, other EMUs", "other": "other trains"}
_WIDE = 100
_ATTRIBUTES = {
    "berth_class": "class",
    "star_rating": "official stars",
    "is_group": "group tour",
    "sold_by_agency": "sold by a travel agency",
    "is_package": "package tour",
    "is_private": "private school",
    "payer_named_by_order": "payer named by the order",
    "fee": "yearly fee",
    "has_cash_value": "has cash value",
    "annual_premium": "yearly premium",
    "is_luxury": "luxury (高档)",
}
_EFFECTS = {"BAR": ("BARRED", "red"), "ALLOW": ("allowed", "green"), "OPEN": ("open", "yellow")}
_LEGEND = (
    ("BARRED", "stops the sale when a measure in force names the item; nothing else ever does"),
    ("allowed", "no measure reaches this purchase: the person is not looked at"),
    ("open", "the law leaves it open: allowed, with the advisory OPEN_RULE"),
    ("C", "the text plainly covers it"),
    ("I", "interpretation or booking practice"),
    ("O", "open: the text does not decide it; it never bars"),
    ("order", "限制消费令, a court's consumption order; it bars the items it names"),
    ("list", "失信被执行人名单, the dishonest list; “list alone” says whether an entry bars without an order"),
)
_PARAMETERS = {
    "min_star": "lowest official hotel star that is barred",
    "g_standing_barred": "a standing ticket on a G train counts as “all seats”",
    "premium_cny": "yearly insurance premium above which row insurance.high bars",
    "school_fee_cny": "yearly school fee above which row school.high bars",
    "resort_cap_cny": "one transaction above which row resort.capped bars",
}


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = commands.add_parser(
        "rulebook",
        help="print the rules in force",
        description="Print which purchase a court's measure can forbid, on which legal basis and how certain that is.\n"
        "Every answer names the version of the rulebook that decided it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--file", type=Path, metavar="FILE", help="another rulebook than the one that ships")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the rulebook; UsageError with every problem if it is none."""
    from checker import rulebooks

    book = rulebooks.load(args.file)
    if args.json:
        print(json.dumps(as_json(book), ensure_ascii=False, indent=2))
    else:
        _print(book)
    return 0


# --- JSON --------------------------------------------------------------------------------------------------------


def as_json(book: "Rulebook") -> dict[str, Any]:
    """The rulebook as plain values; dates ISO 8601, a missing end null."""
    switches = _switches(book)
    return {
        "version": book.version,
        "title": book.title,
        "effective_from": book.effective_from.isoformat(),
        "sha256": book.sha256.hex(),
        "parameters": dict(book.parameters),
        "notices": {outcome: text._asdict() for outcome, text in book.notices.items()},
        "seats": _table(book)["seat"],
        "rows": [
            {
                "id": row.rule_id,
                "purchase": row.purchase,
                "when": row.when,
                "effect": row.effect,
                "certainty": row.certainty,
                "switch": switches.get(row.rule_id),
                "items": _items(row),
                "named_only": row.named_only,
                "list_bars": row.list_bars,
                "roles": _roles(row),
                "basis": row.basis,
                "alternatives": [text._asdict() for text in row.alternatives],
                "from": _day(row.from_ms),
                "until": _day(row.until_ms),
            }
            for row in book
        ],
    }


def _table(book: "Rulebook") -> dict[str, Any]:
    return tomllib.loads(book.source.decode())


def _switches(book: "Rulebook") -> dict[str, str]:
    """Rule id -> the practice switch its effect hangs on."""
    table = _table(book)
    cells = {f"train.{column}.{row['seat']}": row[column] for row in table["train"]["row"] for column in _TRAIN_COLUMNS}
    cells |= {rule["id"]: rule["effect"] for rule in table["rule"]}
    return {
        rule_id.lower().replace("_", "-"): cell.partition(" if ")[2]
        for rule_id, cell in cells.items()
        if " if " in cell
    }


_TRAIN_COLUMNS = ("G", "EMU", "OTHER")


def _items(row: "Row") -> list[str]:
    return [item.name for item in Item if item & row.items and item.name]


def _roles(row: "Row") -> list[str]:
    return [role.name for role in Role if role in row.roles]


def _day(milliseconds: int) -> str | None:
    from checker.core.rules import SHANGHAI

    if not 0 < milliseconds < 2**62:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).astimezone(SHANGHAI).date().isoformat()


# --- tables ------------------------------------------------------------------------------------------------------


def _print(book: "Rulebook") -> None:
    from rich.rule import Rule
    from rich.text import Text

    from checker.cli.terminal import emit, facts_table

    emit(Text(book.title, style="bold"))
    emit(
        facts_table(
            [
                ("version", book.version),
                ("in force since", book.effective_from.isoformat()),
                ("SHA-256", book.sha256.hex()),
            ]
        )
    )
    _heading("How to read it")
    emit(facts_table(_LEGEND))
    _heading("Parameters")
    emit(facts_table(_parameter_rows(book)))
    switches = _switches(book)
    rows: dict[str, list[Row]] = {}
    for row in book:
        rows.setdefault(row.purchase, []).append(row)
    for purchase, found in rows.items():
        _heading(TITLES.get(purchase, purchase))
        if purchase == "train":
            _print_trains(book, found, switches)
        else:
            _print_rows(book, found, switches)
    _heading("What the person at the counter may be told")
    emit(facts_table([(outcome, f"{text.zh}\n{text.en}") for outcome, text in book.notices.items()]))
    emit(Rule(style="dim"))
    emit(
        f"{sum(map(len, rows.values()))} rows. Sources and parameters: checker/core/rulebook.toml; `--json` for tools."
    )


def _heading(text: str) -> None:
    from rich.text import Text

    from checker.cli.terminal import emit

    emit("", Text(text, style="bold underline"))


def _parameter_rows(book: "Rulebook") -> list[tuple[str, str]]:
    rows = []
    for name, value in book.parameters.items():
        if isinstance(value, dict):
            regions = ", ".join(f"{region} {amount:,} CNY" for region, amount in sorted(value.items()))
            shown = regions or "not set for any province, so the purchase stays open"
        elif isinstance(value, bool):
            shown = "on" if value else "off: the row is open"
        else:
            shown = str(value)
        rows.append((name, f"{shown}  ({_PARAMETERS[name]})" if name in _PARAMETERS else shown))
    return rows


def _effect(row: "Row", switches: dict[str, str]) -> "Text":
    from rich.text import Text

    word, colour = _EFFECTS[row.effect]
    text = Text(f"{word} {row.certainty}", style=colour)
    if row.rule_id in switches:
        text.append(" *")
    if _period(row):
        text.append(f"\n{_period(row)}", style="dim")
    return text


def _period(row: "Row") -> str:
    start, end = _day(row.from_ms), _day(row.until_ms)
    return " ".join(filter(None, (f"from {start}" if start else "", f"before {end}" if end else "")))


def _notes(rows: "list[Row]", switches: dict[str, str]) -> None:
    """Under a table: what may be sold instead, and the switches behind starred cells."""
    from checker.cli.terminal import emit, facts_table

    instead = dict.fromkeys(text for row in rows for text in row.alternatives)
    notes = [("instead", f"{text.zh}\n{text.en}") for text in instead]
    used = dict.fromkeys(switches[row.rule_id] for row in rows if row.rule_id in switches)
    notes += [("*", f"only while {switch} is on, else open") for switch in used]
    if notes:
        emit("", facts_table(notes))


def _print_trains(book: "Rulebook", rows: "list[Row]", switches: dict[str, str]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from checker.cli.terminal import emit, facts_table

    members: dict[str, dict[str, list[str]]] = {}
    for seat in _table(book)["seat"]:
        for name, group in seat["names"].items():
            members.setdefault(group, {}).setdefault(name, []).append(seat["code"])
    cells: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        _, column, group = row.rule_id.split(".", 2)
        cells.setdefault(group, {}).setdefault(column, []).append(row)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("seat group", no_wrap=True)
    table.add_column("its names and codes", min_width=17, overflow="fold")
    for title in _COLUMNS.values():
        table.add_column(title, min_width=10)
    for group, by_column in cells.items():
        code = group.upper().replace("-", "_")
        names = " ".join(f"{name}({','.join(codes)})" for name, codes in members.get(code, {}).items())
        if code == "UNKNOWN":
            names += " and any seat whose code and name say too little or disagree"
        shown = [Text("\n").join(_effect(row, switches) for row in by_column.get(column, ())) for column in _COLUMNS]
        table.add_row(code, names.strip(), *shown)
    emit(table, "")
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row.rule_id.split(".")[1], row)
    below = [("barred by", _barred_by(next(row for row in rows if row.items)))]
    below += [(f"basis, {_COLUMNS[column]}", row.basis) for column, row in first.items()]
    below.append(("other trains", "prefixes Z T K Y L S and none; a train code nobody can read is open for every seat"))
    emit(facts_table(below))
    _notes(rows, switches)


def _print_rows(book: "Rulebook", rows: "list[Row]", switches: dict[str, str]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from checker.cli.terminal import console, emit

    narrow = console().width < _WIDE
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("row, and when it fits", width=22 if narrow else 31, overflow="fold")
    table.add_column("effect", no_wrap=True, min_width=10)
    table.add_column("order items", width=16 if narrow else 20, overflow="fold")
    table.add_column("list alone", width=5)
    table.add_column("legal basis", overflow="fold")
    for row in rows:
        breakable = narrow and len(row.rule_id) > 22
        condition = Text(row.rule_id.replace(".", ".\n", 1) if breakable else row.rule_id, style="bold")
        condition.append(f"\n{_condition(book, row)}", style="not bold")
        bars = row.effect == "BAR"
        alone = ("bars" if row.list_bars else "no") if bars else ""
        table.add_row(condition, _effect(row, switches), _order(row) if bars else "", alone, row.basis)
    emit(table)
    _notes(rows, switches)


def _condition(book: "Rulebook", row: "Row") -> str:
    """The row's condition in words; says when a threshold that is not set keeps it from ever fitting."""
    unset = [name for name, value in book.parameters.items() if value == {} and name in row.when.split()]
    text = re.sub(r"[a-z]+(?:_[a-z]+)*", lambda found: _ATTRIBUTES.get(found[0], found[0]), row.when)
    return text + "".join(f" ({name} is not set: fits nothing yet)" for name in unset)


def _order(row: "Row") -> str:
    """Which order bars: the items, whether they must be named, and in which role it must bind."""
    text = " or ".join(_items(row))
    if row.named_only:
        text += ", named in the order itself"
    if row.roles:
        text += f"; only as {' or '.join(_roles(row))}"
    return text


def _barred_by(row: "Row") -> str:
    return f"an order with {_order(row)}" + (
        ", or a list entry alone" if row.list_bars else "; a list entry alone is not enough"
    )
