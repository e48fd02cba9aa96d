"""The committed code of the contract is what the contract's text generates."""

import re
import shutil
from pathlib import Path

import pytest

from proto import generate

COMMITTED = generate.ROOT / "proto" / "checker" / "v1"


def generated(out: Path) -> dict[str, str]:
    """Name -> text of everything generated into `out`."""
    generate.generate(out)
    folder = out / "proto" / "checker" / "v1"
    return {path.name: path.read_text("utf-8") for path in folder.iterdir()}


def committed() -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in COMMITTED.glob("*_pb2*.py*")}


def test_the_committed_code_is_what_the_contract_generates(tmp_path: Path) -> None:
    """Generating anew gives the same files with the same text, the typed stubs among them."""
    assert generated(tmp_path) == committed()
    assert {"check_pb2.py", "check_pb2.pyi", "check_pb2_grpc.py", "check_pb2_grpc.pyi"} <= set(committed())


@pytest.mark.parametrize("contract", [path.name for path in COMMITTED.glob("*.proto")])
def test_every_field_says_what_it_means(contract: str) -> None:
    """A comment stands above each field of each message: who sets it, what its absence means."""
    above, fields, silent = "", 0, []
    for line in map(str.strip, (COMMITTED / contract).read_text("utf-8").splitlines()):
        if re.match(r"(?:repeated )?[\w.]+ \w+ = \d+;", line):
            fields += 1
            silent += [] if above.startswith("//") else [line]
        above = line

    assert fields >= 4
    assert silent == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("string item_id = 1;", "string item_id = 21;"),
        ("string item_id = 1;", "string item_id = 1;\n  string another = 90;"),
        ("rpc GetRulebook(", "rpc FetchRulebook("),
    ],
)
def test_an_edited_contract_does_not_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    """A field renumbered or added, a method renamed: the text no longer generates the committed code."""
    shutil.copytree(COMMITTED, tmp_path / "proto" / "checker" / "v1", ignore=shutil.ignore_patterns("*.py*"))
    contract = tmp_path / "proto" / "checker" / "v1" / "check.proto"
    text = contract.read_text("utf-8")
    assert old in text
    contract.write_text(text.replace(old, new, 1), "utf-8")
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    (tmp_path / "out").mkdir()
    assert generated(tmp_path / "out") != committed()
