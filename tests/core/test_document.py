"""Claims about `checker.core.document`: the vectors of domain.md §3, and what holds for numbers nobody wrote down."""

import re
import sys
import tomllib
import unicodedata
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from checker.core import countries, document
from checker.core.document import Document, DocumentType, Fault, Invalid, Parsed, birth_date, normalise, parse
from proto.checker.v1 import check_pb2

TODAY = 20250601
VECTORS: dict[str, list[dict[str, Any]]] = tomllib.loads(
    (Path(__file__).parents[1] / "vectors" / "documents.toml").read_text("utf-8")
)
REFUSALS = [value for value in vars(document).values() if isinstance(value, Invalid)]
FAMILY = [  # valid, clean, one of each kind and check character X
    "440524188001010014",
    "11010519491231002X",
    "710000202002290017",
    "810000188001010015",
    "830000199201300022",
    "911840188001010014",
    "931124188001010028",
]


def mod_11_2(body: str) -> str:
    """The check character, straight from the table of GB 11643."""
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return "10X98765432"[sum(int(digit) * weight for digit, weight in zip(body, weights, strict=True)) % 11]


def told(result: Parsed | Invalid) -> str:
    """A result in the words of the vectors."""
    if isinstance(result, Invalid):
        return result.fault.name
    return " | ".join(
        " ".join(filter(None, (DocumentType(found.type).name, found.number, found.country)))
        for found in result.documents
    )


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=f"{section}: {row['why']}") for section, rows in VECTORS.items() for row in rows]
)
def test_vectors(row: dict[str, Any]) -> None:
    """Every row of domain.md §3 gives exactly the documents, the need of a name, or the fault written beside it."""
    result = parse(DocumentType[row["type"]], row["number"], row.get("country", ""), row.get("today", TODAY))

    assert row["expect"] == told(result)
    if isinstance(result, Invalid):
        assert row.get("hint", "") in result.hint
    else:
        assert row.get("nameless", False) is not result.name_required


def test_numbers_are_the_contracts() -> None:
    """DocumentType and Fault have the words and numbers of the contract's DocumentType and Reason."""
    types = {f"DOCUMENT_TYPE_{kind.name}": int(kind) for kind in DocumentType}

    assert dict(check_pb2.DocumentType.items()) == types
    assert all(check_pb2.Reason.Value(f"REASON_{fault.name}") == fault for fault in Fault)


# --------------------------------------------------------------------------------------------------------------------
# Errors of hand and eye


@pytest.mark.parametrize("number", FAMILY)
def test_no_single_error_validates_in_the_family(number: str) -> None:
    """No 18-character number stays valid when any one character becomes another digit or X."""
    for place in range(18):
        for char in "0123456789X":
            if char != number[place]:
                wrong = number[:place] + char + number[place + 1 :]
                assert isinstance(parse(DocumentType.RESIDENT_ID, wrong, "", TODAY), Invalid), f"place {place}"


@pytest.mark.parametrize("number", [*FAMILY, "91350100M000100Y43", "911101050000001820", "N2330106MF0000005C"])
def test_no_neighbour_swap_validates(number: str) -> None:
    """No number with a check character stays valid when two different neighbours change places."""
    kind = DocumentType.RESIDENT_ID if number in FAMILY else DocumentType.UNIFIED_SOCIAL_CREDIT_CODE
    for place in range(17):
        if number[place] != number[place + 1]:
            wrong = number[:place] + number[place + 1] + number[place] + number[place + 2 :]
            assert isinstance(parse(kind, wrong, "", TODAY), Invalid), f"place {place}"


@pytest.mark.parametrize(
    ("kind", "number", "alphabet"),
    [
        (DocumentType.UNIFIED_SOCIAL_CREDIT_CODE, "91350100M000100Y43", "0123456789ABCDEFGHJKLMNPQRTUWXY"),
        (DocumentType.UNIFIED_SOCIAL_CREDIT_CODE, "Y17100000000000A2H", "0123456789ABCDEFGHJKLMNPQRTUWXY"),
        (DocumentType.FOREIGN_PERMANENT_RESIDENT_ID, "KAZ110090123105", "0123456789"),
        (DocumentType.FOREIGN_PERMANENT_RESIDENT_ID, "XAA110000010101", "0123456789"),
    ],
)
def test_no_single_error_validates_elsewhere(kind: DocumentType, number: str, alphabet: str) -> None:
    """Credit codes and old foreigners' cards find every single wrong character (the card: every wrong digit)."""
    for place, right in enumerate(number):
        for char in alphabet:
            if char != right:
                wrong = number[:place] + char + number[place + 1 :]
                assert isinstance(parse(kind, wrong, "", TODAY), Invalid), f"place {place}"


@pytest.mark.parametrize("number", ["D2143569X", "M000100Y4", "000000190"])
def test_organisation_code_finds_wrong_digits_and_swaps(number: str) -> None:
    """MOD 11 finds every single wrong digit and every swap of neighbouring digits.

    Not of letters: GB 11714 gives them the values 10-35, so two letters that differ by 11 count alike.
    """
    for place in range(9):
        wrongs = [number[:place] + char + number[place + 1 :] for char in "0123456789" if char != number[place]]
        if place < 8 and number[place] != number[place + 1]:
            wrongs.append(number[:place] + number[place + 1] + number[place] + number[place + 2 :])
        for wrong in wrongs:
            if number[place].isdigit() or place == 8:
                assert isinstance(parse(DocumentType.ORGANISATION_CODE, wrong, "", TODAY), Invalid), f"place {place}"


# --------------------------------------------------------------------------------------------------------------------
# One person, one key


@st.composite
def family_numbers(draw: st.DrawFn) -> str:
    """A valid number of the 18-digit family in the synthetic ranges."""
    head = draw(st.sampled_from(["440524", "110105", "650102", "810000", "820000", "830000", "911840", "931124"]))
    day = date(1800, 1, 1) + timedelta(days=draw(st.integers(0, 36_523)))
    body = f"{head}{day:%Y%m%d}{draw(st.integers(0, 999)):03}"
    return body + mod_11_2(body)


@st.composite
def synthetic_numbers(draw: st.DrawFn) -> str:
    """Any valid number of the synthetic ranges ("Decided" 11): born 18xx, or address 710000 and born until today."""
    if draw(st.booleans()):
        return draw(family_numbers())
    day = date(1900, 1, 1) + timedelta(days=draw(st.integers(0, 45_800)))
    body = f"710000{day:%Y%m%d}{draw(st.integers(0, 999)):03}"
    return body + mod_11_2(body)


@given(synthetic_numbers(), st.sampled_from([1, 2, 3]))
def test_no_single_error_and_no_swap_validates_in_any_number(number: str, declared: int) -> None:
    """Not one valid number stays valid with one wrong character or two different neighbours changed about."""
    assert isinstance(parse(declared, number, "", TODAY), Parsed)
    for place, right in enumerate(number):
        wrongs = [number[:place] + char + number[place + 1 :] for char in "0123456789X" if char != right]
        if place < 17 and right != number[place + 1]:
            wrongs.append(number[:place] + number[place + 1] + right + number[place + 2 :])
        for wrong in wrongs:
            assert isinstance(parse(declared, wrong, "", TODAY), Invalid), f"place {place}"


MESSES = [
    lambda text: text.lower(),
    lambda text: "".join(chr(ord(char) + 0xFEE0) for char in text),
    lambda text: " " + text[:6] + " " + text[6:14] + "\u3000" + text[14:] + "\t",
    lambda text: "\u200b".join(text),
    lambda text: "\ufeff" + text + "\u200e\u00a0",
    lambda text: text[:6] + "-" + text[6:14] + "–" + text[14:],
    lambda text: text[:6] + "." + text[6:14] + "·" + text[14:],
    lambda text: text.replace("X", "Х"),
    lambda text: text.replace("X", "χ"),
    lambda text: text.replace("X", "Ⅹ"),
    lambda text: text.replace("X", "×"),
]


@given(family_numbers(), st.sampled_from(MESSES), st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 3]))
def test_the_same_card_gives_the_same_document(number: str, mess: Any, declared: int, other: int) -> None:
    """However a card is typed, and whatever type of the family is declared, it is one document; and it is valid."""
    clean = parse(declared, number, "", TODAY)

    assert isinstance(clean, Parsed)
    assert clean == parse(other, mess(number), "XAA", TODAY)


@given(
    st.sampled_from(
        [
            (row["type"], row["number"], row.get("country", ""))
            for rows in VECTORS.values()
            for row in rows
            if " " in row["expect"]
        ]
    ),
    st.sampled_from(MESSES[:6]),
)
def test_the_same_document_of_any_type(paper: tuple[str, str, str], mess: Any) -> None:
    """Width, case, spaces, invisible marks and hyphens make no difference to any valid number of any type."""
    kind, number, country = paper
    canonical = normalise(number)
    if not canonical.isascii():
        return

    assert parse(DocumentType[kind], number, country, TODAY + 1) == parse(
        DocumentType[kind], mess(canonical), country.lower(), TODAY + 1
    )


@given(family_numbers(), st.integers(0, 17), st.sampled_from("0123456789X"), st.integers(18000101, 20991231))
def test_the_short_cut_agrees_with_the_long_road(number: str, place: int, char: str, today: int) -> None:
    """For any number, right or wrong, and any today, the fast way in `parse` and the reader that explains agree."""
    number = number[:place] + char + number[place + 1 :]

    assert parse(1, number, "", today) == parse(1, " " + number, "", today)


@given(st.sampled_from([kind for kind in DocumentType if kind]), st.text("0123456789ABCEGHIKMOWXY军()", max_size=20))
@example(DocumentType.TAIWAN_TRAVEL_PERMIT, "0000123456(B)")
@example(DocumentType.HK_MACAU_TRAVEL_PERMIT, "H0000123401")
@example(DocumentType.RESIDENT_ID, "710000800101001")
def test_canonical_numbers_are_fixed_points(kind: DocumentType, text: str) -> None:
    """Parsing a canonical document again, under its canonical type and country, gives the same document."""
    result = parse(kind, text, "XAA", TODAY)
    if isinstance(result, Parsed):
        (found,) = result.documents
        again = parse(found.type, found.number, found.country, TODAY)

        assert isinstance(again, Parsed)
        assert again.documents == (found,)


@given(st.text())
@example("ŉ\u0345")
@example("e\u200d\u0301")
@example("1\u3164͏2")
def test_normalise_is_idempotent(text: str) -> None:
    """Normalising twice is normalising once."""
    assert normalise(normalise(text)) == normalise(text)


def test_normalise_is_idempotent_for_every_character() -> None:
    """Every single code point of Unicode, surrogates included, between two digits."""
    for start in range(0, sys.maxunicode + 1, 256):
        once = normalise("1".join(map(chr, range(start, start + 256))))

        assert once == normalise(once), f"between U+{start:04X} and the next 255"


def test_no_digit_of_another_script_becomes_ours() -> None:
    """Only characters that NFKC calls compatible with an ASCII digit are read as one: never another script's digit."""
    for code in range(128, sys.maxunicode + 1):
        char = chr(code)
        if char.isdigit() and not unicodedata.normalize("NFKC", char).isascii():
            assert isinstance(parse(1, "44052418800101001" + char, "", TODAY), Invalid), f"U+{code:04X}"


@pytest.mark.parametrize("first_year", range(1790, 2110, 40))
def test_dates_are_those_of_the_calendar(first_year: int) -> None:
    """A date passes exactly if the Gregorian calendar has it and its century can be named, at every edge of a month."""
    for year, month, day in product(
        range(first_year, first_year + 40), (0, 1, 2, 3, 4, 6, 9, 11, 12, 13), (0, 1, 28, 29, 30, 31, 32)
    ):
        try:
            real = 1800 <= date(year, month, day).year <= 2099
        except ValueError:
            real = False
        body = f"{440524 if year < 1900 else 710000}{year}{month:02}{day:02}001"

        assert isinstance(parse(1, body + mod_11_2(body), "", 21000101), Parsed) == real, body[6:14]


# --------------------------------------------------------------------------------------------------------------------
# Doubt


def test_three_percent_of_resident_ids_pass_as_credit_codes() -> None:
    """About 3 % pass both checks: undeclared, exactly those are asked as both, with the name; declared, none is."""
    both = 0
    for day in range(1, 11):
        for sequence in range(1000):
            body = f"440524188001{day:02}{sequence:03}"
            number = body + mod_11_2(body)
            declared = parse(DocumentType.RESIDENT_ID, number, "", TODAY)
            undeclared = parse(DocumentType.UNSPECIFIED, number, "", TODAY)
            credit = parse(DocumentType.UNIFIED_SOCIAL_CREDIT_CODE, number, "", TODAY)

            assert isinstance(declared, Parsed)
            assert isinstance(undeclared, Parsed)
            assert [found.type for found in declared.documents] == [DocumentType.RESIDENT_ID]
            if isinstance(credit, Parsed):
                both += 1
                assert undeclared == Parsed(declared.documents + credit.documents, True)
            else:
                assert undeclared == declared

    assert 200 < both < 400


@pytest.mark.parametrize("year", range(1900, 2000, 7))
def test_fifteen_digits_are_never_the_person_of_1880(year: int) -> None:
    """A 15-digit number is the person born 19xx, never one born in another century, and needs the name."""
    short = f"710000{year % 100:02}0101001"
    result = parse(DocumentType.RESIDENT_ID, short, "", TODAY)

    assert isinstance(result, Parsed)
    assert result.name_required
    assert [birth_date(found) for found in result.documents] == [year * 10_000 + 101]


def test_a_masked_number_is_refused_although_33_dates_fit() -> None:
    """The court's public form hides four digits; 33 valid numbers fit it, so it names nobody."""
    fitting = [
        number
        for month in range(1, 13)
        for day in range(1, 32)
        if isinstance(parse(1, number := f"4405241880{month:02}{day:02}0014", "", TODAY), Parsed)
    ]

    assert len(fitting) == 33
    assert parse(1, "4405241880****0014", "", TODAY) is document.MASKED


def test_what_is_all_letters_and_digits_is_not_masked_and_loses_nothing() -> None:
    """No sign of a mask, and no character that normalising drops from ASCII, is a letter or a digit."""
    letters_and_digits = [char for char in map(chr, range(sys.maxunicode + 1)) if char.isalnum()]

    assert not [char for char in letters_and_digits if document._MASK.search(char * 3)]
    assert not [char for char in letters_and_digits if char.isascii() and normalise(char) != char.upper()]


@given(st.sampled_from(FAMILY), st.sampled_from([("0", "O"), ("1", "I"), ("1", "l"), ("8", "B")]), st.data())
def test_look_alikes_are_explained_never_repaired(number: str, pair: tuple[str, str], data: st.DataObject) -> None:
    """A letter for a digit is refused with a hint that says so, wherever it stands and whatever type is declared."""
    places = [place for place, char in enumerate(number) if char == pair[0]]
    if places:
        place = data.draw(st.sampled_from(places))
        typed = number[:place] + pair[1] + number[place + 1 :]

        assert parse(data.draw(st.sampled_from([1, 2, 3])), typed, "", TODAY) is document.LOOK_ALIKE


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        ("440524188001010014", 18800101),
        ("830000199201300022", 19920130),
        ("911840188001010014", 18800101),
        ("KAZ110090123105", None),
    ],
)
def test_birth_date(number: str, expected: int | None) -> None:
    """Cards with eight digits of date tell it; an old foreigner's card names no century and tells none."""
    result = parse(DocumentType.FOREIGN_PERMANENT_RESIDENT_ID, number, "", TODAY)

    assert isinstance(result, Parsed)
    assert birth_date(result.documents[0]) == expected


@pytest.mark.parametrize(
    "row", [row for rows in VECTORS.values() for row in rows if " " in row["expect"]], ids=lambda row: row["why"]
)
def test_birth_date_only_where_the_number_carries_one(row: dict[str, Any]) -> None:
    """No passport, permit to travel, code or opaque paper yields a birth date, though its digits may look like one."""
    result = parse(DocumentType[row["type"]], row["number"], row.get("country", ""), row.get("today", TODAY))
    assert isinstance(result, Parsed)
    for found in result.documents:
        assert (birth_date(found) is not None) == (found.type in (1, 2, 3) and len(found.number) == 18)


# --------------------------------------------------------------------------------------------------------------------
# Anything at all


def check_total(kind: int, number: str, country: str, today: int) -> None:
    """What must hold for every input there is."""
    result = parse(kind, number, country, today)
    if isinstance(result, Invalid):
        assert any(result is refusal for refusal in REFUSALS)  # a constant cannot carry a piece of the input
    else:
        assert result.documents
        for found in result.documents:
            assert 1 <= len(found.number) <= document.MAX_LENGTH
            assert len(found.number.encode()) <= 255  # the lookup key writes the length in one byte
            assert (found.country != "") == (found.type == DocumentType.FOREIGN_PASSPORT)


@given(st.one_of(st.integers(-1, 13), st.integers()), st.text(), st.text(), st.integers())
def test_any_text_is_answered(kind: int, number: str, country: str, today: int) -> None:
    """Any type, text, country and date give a document or one of the module's constant refusals; nothing is raised."""
    check_total(kind, number, country, today)


@given(
    st.integers(0, 12),
    st.text("0123456789XOIlB-. \u200b＊*'E+()HMCWKG军第٠१\ud800９Ⅹ", max_size=70),
    st.sampled_from(["", "XAA", "xaa", "CHN", "K"]),
    st.sampled_from([0, TODAY, 99991231]),
)
@example(1, "4405241880010100\u0661O", "", TODAY)
@example(12, "𠮷" * 64, "", TODAY)
@example(12, "一" * 64, "", TODAY)
@example(12, "\ufdfa" * 64, "", TODAY)
def test_text_that_looks_like_a_number_is_answered(kind: int, number: str, country: str, today: int) -> None:
    """The same for texts made of what numbers and their damage are made of, lone surrogates included."""
    check_total(kind, number, country, today)


def test_hints_hold_nothing_of_a_number() -> None:
    """No hint holds a digit, so none can hold a number or a run of its digits; each says something, and only once."""
    hints = [refusal.hint for refusal in REFUSALS]

    assert not [hint for hint in hints if re.search(r"\d|[A-Z]{4}", hint)]
    assert all(10 < len(hint) <= 120 and "\n" not in hint for hint in hints)
    assert len(set(hints)) == len(hints)


class Unread(str):
    """A text of which nothing may be learned but its length."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"{name} of a text that is too long")

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("a text that is too long is gone through")

    def __getitem__(self, place: Any) -> str:
        raise AssertionError("a text that is too long is looked at")


def test_long_input_is_refused_before_any_work() -> None:
    """Ten thousand characters cost no more than ten: they are not looked at. Nor is one more than there is room for."""
    for length in (10_000, document.MAX_LENGTH + 1):
        long = Unread("４" * length)
        assert parse(1, long, "", TODAY) is document.TOO_LONG
        assert parse(6, "X00001234", long, TODAY) is document.TOO_LONG


def test_printing_a_document_shows_no_number() -> None:
    """repr and str of a document, alone or inside another value, hold its type and length only."""
    shown = repr(parse(1, "440524188001010014", "", TODAY)) + str(Document(1, "440524188001010014", ""))

    assert "440524" not in shown
    assert "RESIDENT_ID" in shown


# --------------------------------------------------------------------------------------------------------------------
# ISO 3166-1


def test_countries_are_the_249_of_iso_3166() -> None:
    """249 alpha-3 codes and as many numeric ones, one to one, three characters each."""
    assert len(countries.NUMERIC) == len(countries.ALPHA_3) == 249
    assert all(re.fullmatch(r"[A-Z]{3}", alpha) for alpha in countries.NUMERIC)
    assert all(re.fullmatch(r"\d{3}", numeric) for numeric in countries.ALPHA_3)
    samples = {"CHN": "156", "HKG": "344", "MAC": "446", "TWN": "158", "USA": "840", "KAZ": "398", "CAN": "124"}
    assert samples.items() <= countries.NUMERIC.items()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        *[(code, True) for code in ("DEU", "AAA", "AAZ", "QMA", "QZZ", "XAA", "XXA", "XZZ", "ZZA", "ZZZ")],
        *[(code, False) for code in ("", "D", "DE", "deu", "ABA", "QLZ", "XA", "X1A", "ZYZ", "KAA", "ＸＡＡ", "DEUX")],
    ],
)
def test_alpha_3(code: str, expected: bool) -> None:
    """Assigned codes and the four ranges that ISO 3166-1 leaves to users are countries; nothing else is."""
    assert countries.is_alpha_3(code) is expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [("840", True), ("900", True), ("999", True), ("000", False), ("841", False), ("9", False), ("९००", False)],
)
def test_numeric(code: str, expected: bool) -> None:
    """Assigned numbers and 900-999 are countries; nothing else is."""
    assert countries.is_numeric(code) is expected


def test_the_month_thirteen_printed_in_the_reference() -> None:
    """The number of domain.md §3.2 whose check is right and whose month is 13 is refused for its date."""
    number = "911124" + "198113030029"  # in two parts, as below
    assert told(parse(DocumentType.FOREIGN_PERMANENT_RESIDENT_ID, number, "", TODAY)) == "BAD_DATE"


def test_the_upgrade_printed_in_the_reference() -> None:
    """The 15-digit number of domain.md §3.2 becomes the one printed there, which is not the person of 1880."""
    upgraded = "440524" + "198001010013"  # in two parts: whole, it has the form of somebody's number
    assert parse(DocumentType.RESIDENT_ID, "440524800101001", "", TODAY) == Parsed(
        (Document(DocumentType.RESIDENT_ID, upgraded, ""),), name_required=True
    )
