"""`checker rulebook`: what it prints is what decides."""

import json
import tomllib
from pathlib import Path

import pytest

from checker import rulebooks
from checker.cli.main import main
from checker.cli.rulebook import TITLES
from checker.core import purchase as purchases
from checker.core.measure import Item
from checker.errors import UsageError
from tests.cli.console import run

PACKAGED = Path(rulebooks.__file__).parent / "core" / "rulebook.toml"


def printed(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main(["rulebook", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def edited(tmp_path: Path, *changes: tuple[str, str]) -> Path:
    """The packaged rulebook with texts replaced, as a file."""
    text = PACKAGED.read_text("utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "draft.toml"
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize("columns", ["80", "100", "140"])
def test_every_row_and_cell_is_there_at_any_width(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No row, item, provision or train cell is cut off, and no line is wider than asked, from 80 columns up."""
    monkeypatch.setenv("COLUMNS", columns)

    out = printed(capsys)

    book = rulebooks.load(None)
    squeezed = "".join(out.split())
    for row in book:
        if row.purchase != "train":
            # a name too long for its column is folded, so only its parts stand on one line
            assert all(part in out for part in row.rule_id.split(".")), row.rule_id
        for word in Item:
            if word & row.items:
                assert word.name is not None
                assert word.name in out
        for text in row.alternatives:
            assert "".join(text.zh.split()) in squeezed
    for group in tomllib.loads(book.source.decode())["train"]["row"]:
        line = next(line for line in out.splitlines() if line.startswith(f"{group['seat']} "))
        shown = [
            {"BAR": "BARRED", "ALLOW": "allowed", "OPEN": "open"}[group[c].split()[0]] for c in ("G", "EMU", "OTHER")
        ]
        cells = [word for word in line.split() if word in ("BARRED", "allowed", "open")]
        assert shown == cells, group["seat"]
    assert book.sha256.hex() in out
    assert "BARRED I *" in out, "a cell that hangs on a switch says so"
    # a Chinese character fills two columns
    assert max(len(line) + sum("⺀" <= c <= "￯" for c in line) for line in out.splitlines()) <= int(columns)
    assert not any(line.endswith(" ") for line in out.splitlines())


def test_every_kind_of_purchase_has_a_title() -> None:
    """No table stands under a word of the source code."""
    assert purchases.KINDS.keys() == TITLES.keys()


def test_json_holds_every_field_of_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    """The JSON has one object per row, in the rulebook's order, with the values that decide."""
    shown = json.loads(printed(capsys, "--json"))

    book = rulebooks.load(None)
    assert [row.rule_id for row in book] == [row["id"] for row in shown["rows"]]
    assert (book.version, book.sha256.hex()) == (shown["version"], shown["sha256"])
    by_id = {row["id"]: row for row in shown["rows"]}
    assert by_id["resort.capped"] == {
        "id": "resort.capped",
        "purchase": "resort",
        "when": "amount over resort_cap_cny",
        "effect": "BAR",
        "certainty": "I",
        "switch": None,
        "items": ["RESORT_SPEND"],
        "named_only": False,
        "list_bars": True,
        "roles": ["DEBTOR_PERSON", "DEBTOR_ENTITY"],
        "basis": "Policy 二（七）3",
        "alternatives": [],
        "from": None,
        "until": None,
    }
    assert by_id["train.g.standing"]["switch"] == "g_standing_barred"
    assert shown["parameters"] == dict(book.parameters)


def test_a_file_of_the_operators_is_shown_with_its_own_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--file shows that file: its thresholds, a switch turned off, and a row's own period."""
    path = edited(
        tmp_path,
        ("[parameters.premium_cny]", "[parameters.premium_cny]\nGD = 50000\n#"),
        ("g_standing_barred = true", "g_standing_barred = false"),
        ('id = "venue.nightclub"\n', 'id = "venue.nightclub"\nfrom = 2027-01-01\nuntil = 2028-01-01\n'),
    )

    out = printed(capsys, "--file", path)

    assert "GD 50,000 CNY" in out
    assert "off: the row is open" in out
    assert "from 2027-01-01 before 2028-01-01" in out
    assert "premium_cny is not set" not in out
    assert "school_fee_cny is not set: fits nothing yet" in " ".join(out.split())


def test_every_problem_is_a_line_of_its_own(tmp_path: Path) -> None:
    """A rulebook that cannot be used exits 2 and lists all that is wrong, each line with the file, nothing else."""
    path = edited(
        tmp_path,
        ("min_star = 1", "min_star = 9"),
        ('items = ["GOLF"]', 'items = ["MINIGOLF"]'),
        ('id = "ship.third-and-below"', 'id = "ship.second-and-above"'),
    )

    ran = run("rulebook", "--file", path)

    assert (ran.code, ran.out) == (2, "")
    lines = ran.err.splitlines()
    assert len(lines) >= 3
    assert all(line.startswith(f"checker: rulebook {path}: ") for line in lines)
    for text in ("min_star", "MINIGOLF", "ship.second-and-above: the id is used twice"):
        assert text in ran.err


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file or directory"), (b"\xff", "not a TOML text"), (b"version =", "not a TOML text")],
)
def test_what_is_no_rulebook_is_refused_by_name(tmp_path: Path, content: bytes | None, said: str) -> None:
    """A missing file and one that is no TOML are usage errors that name the file."""
    path = tmp_path / "none.toml"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(UsageError, match=said) as caught:
        rulebooks.load(path)

    assert str(path) in str(caught.value)
