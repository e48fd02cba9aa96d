"""Claims about `checker.core.name`: which spellings are one name, and that no text at all upsets it."""

import sys
import tomllib
import unicodedata
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from checker.core import name as module
from checker.core.name import MAX_LENGTH, canonical

VECTORS: dict[str, list[Any]] = tomllib.loads((Path(__file__).parents[1] / "vectors" / "names.toml").read_text("utf-8"))


@pytest.mark.parametrize("row", VECTORS["same"], ids=lambda row: row["why"])
def test_spellings_of_one_name_agree(row: dict[str, Any]) -> None:
    """Every spelling of a row becomes the row's form, and the form becomes itself."""
    for spelling in [*row["spellings"], row["form"]]:
        assert row["form"] == canonical(spelling), ascii(spelling)


@pytest.mark.parametrize("pair", VECTORS["different"], ids="/".join)
def test_different_names_differ(pair: list[str]) -> None:
    """Names that only resemble each other keep different forms."""
    assert canonical(pair[0]) != canonical(pair[1])


def test_no_two_rows_share_a_form() -> None:
    """The vectors' own forms are pairwise different."""
    assert all(one["form"] != other["form"] for one, other in combinations(VECTORS["same"], 2))


@given(st.text(st.characters(codec=None, categories=None), max_size=30))
@example("\ud800张")
@example("ŉ\u0345")
@example("u\u0308\u0304\u0308")
@example("·" * 300 + "张")
@example("a" * 199 + "张张")
@example("\ufdfa" * 200)
@example("ß" * 150)
def test_any_text_has_one_form(text: str) -> None:
    """Any text, lone surrogates included, has a form that is its own form, can be digested and is at most 200 long."""
    form = canonical(text)

    assert form == canonical(form)
    assert len(form) <= MAX_LENGTH
    assert len(form.encode()) <= 4 * MAX_LENGTH


def test_every_character_has_one_form() -> None:
    """Every code point, alone, in a Chinese and in a Latin name: the form is its own form and has no mark or space."""
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        category = unicodedata.category(char)
        if category in ("Lo", "Cn", "Co") and unicodedata.is_normalized("NFKD", char):
            continue  # nine in ten: nothing happens to them one by one; drawn at random above
        for text in (char, f"张{char}", f"A{char}B"):
            form = canonical(text)
            assert form == canonical(form), f"U+{code:04X}"
            assert not any(unicodedata.category(kept) in ("Zs", "Zl", "Zp", "Cc", "Cf", "Cs") for kept in form)


@given(
    st.text("张王李赵阿卜杜拉买提·", min_size=1, max_size=12),
    st.lists(st.sampled_from([" ", "　", "\u200b", "\ufeff", "\t", "\u00a0", "\u2060"]), min_size=1, max_size=5),
    st.data(),
)
def test_spaces_never_matter(name: str, spaces: list[str], data: st.DataObject) -> None:
    """Spaces and zero-width marks anywhere in a Chinese name change nothing."""
    typed = name
    for space in spaces:
        place = data.draw(st.integers(0, len(typed)))
        typed = typed[:place] + space + typed[place:]

    assert canonical(typed) == canonical(name)


@given(st.text("abcdefghijklmnopqrstuvwxyz", min_size=1), st.text("abcdefghijklmnopqrstuvwxyz", min_size=1))
def test_the_air_form_is_the_spoken_form(surname: str, given_name: str) -> None:
    """SURNAME/GIVEN, "Surname Given" and SURNAME<<GIVEN agree for all Latin letters, and keep every letter."""
    spoken = f"{surname.title()} {given_name.title()}"

    assert canonical(f"{surname}/{given_name}".upper()) == canonical(spoken) == canonical(f"{surname}<<{given_name}")
    assert canonical(spoken) == (surname + given_name).upper()[:MAX_LENGTH]


class Uncut(str):
    """A name that may be measured and cut, and nothing else."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"{name} of the whole name")

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("the whole name is gone through")


def test_long_names_are_cut_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand characters cost no more than two hundred: nothing is done with what is longer but to cut it."""
    lengths: list[int] = []

    def measured(text: str) -> str:
        lengths.append(len(text))
        return fold(text)

    fold = module._fold
    monkeypatch.setattr(module, "_fold", measured)

    assert canonical(Uncut("张" * 10_000)) == "张" * MAX_LENGTH
    assert max(lengths) == MAX_LENGTH
