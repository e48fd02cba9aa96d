"""Claims about the invented people: check digits by the standards, every number handed out once, names with traps."""

from datetime import date

import pytest

from loadtest.people import (
    DOCUMENT_TYPES,
    HK_MACAU_PASSPORT,
    HK_MACAU_TRAVEL_PERMIT,
    ORGANISATION_CODE,
    PRC_PASSPORT,
    RESIDENT_ID,
    UNIFIED_SOCIAL_CREDIT_CODE,
    Numbers,
    People,
    mod_11_2,
    mod_31,
    organisation_check,
    years_before,
)

TODAY = date(2025, 6, 1)


@pytest.mark.parametrize(
    "number",
    ["11010519491231002X", "440524188001010014", "810000199408230021", "830000199201300022", "911124198108030024"],
)
def test_mod_11_2_agrees_with_the_printed_numbers(number: str) -> None:
    """The 18-character cards printed in domain.md §3.2 carry the check character computed here."""
    assert mod_11_2(number[:17]) == number[17]


@pytest.mark.parametrize(
    "number", ["91350100M000100Y43", "911101050000001820", "N2330106MF0000005C", "12440600MB2C07549J"]
)
def test_mod_31_agrees_with_the_printed_codes(number: str) -> None:
    """The credit codes printed in domain.md §3.4, the one whose sum leaves 0 included, end as computed here."""
    assert mod_31(number[:17]) == number[17]


@pytest.mark.parametrize("number", ["D2143569-X", "M000100Y-4", "00000019-0"])
def test_organisation_check_agrees_with_the_printed_codes(number: str) -> None:
    """The organisation codes printed in domain.md §3.5, X and 0 among them, end as computed here."""
    assert organisation_check(number[:8]) == number[9]


def test_no_number_is_handed_out_twice() -> None:
    """Twelve thousand people, more than the small ranges hold, share no paper."""
    people = People(3, TODAY)
    papers = [paper for _ in range(12_000) for paper in people.person().documents]
    papers += [paper for _ in range(2_000) for paper in people.entity().documents]

    assert len(papers) == len(set(papers))


def test_permits_and_sar_passports_never_share_a_number() -> None:
    """H0000dddd fits both types; no number is a permit of one person and a passport of another."""
    people = People(3, TODAY)
    papers = [paper for _ in range(30_000) for paper in people.person().documents]
    permits = {paper.number for paper in papers if paper.type == HK_MACAU_TRAVEL_PERMIT}
    passports = {paper.number for paper in papers if paper.type == HK_MACAU_PASSPORT}

    assert permits
    assert passports
    assert permits.isdisjoint(passports)


def test_a_used_up_range_leaves_people_with_another_paper() -> None:
    """After the 10 000 passports E0000dddd, people still come, each with at least one paper."""
    people = People(3, TODAY)
    made = [people.person((RESIDENT_ID, PRC_PASSPORT)) for _ in range(10_001)]

    assert [paper.type for paper in made[9_999].documents] == [RESIDENT_ID, PRC_PASSPORT]
    assert [paper.type for paper in made[10_000].documents] == [RESIDENT_ID]


def test_every_document_word_occurs() -> None:
    """A few hundred persons and entities carry all twelve types of paper."""
    people = People(3, TODAY)
    types = {paper.type for _ in range(300) for paper in people.person().documents}
    types |= {paper.type for _ in range(2) for paper in people.entity().documents}

    assert types == set(DOCUMENT_TYPES)


def test_a_credit_code_holds_its_organisation_code() -> None:
    """Characters 9 to 17 of an entity's credit code are its organisation code, check character included."""
    people = People(3, TODAY)
    entity = max((people.entity() for _ in range(2)), key=lambda made: len(made.documents))
    papers = {paper.type: paper.number for paper in entity.documents}

    assert papers[UNIFIED_SOCIAL_CREDIT_CODE][8:17] == papers[ORGANISATION_CODE].replace("-", "")


def test_birthdays_lie_around_the_day_asked_about() -> None:
    """Eighteen today, eighteen in two days, and children of 1 to 16 are counted from the given day."""
    numbers = Numbers(1, TODAY)

    assert numbers.eighteen_today == date(2007, 6, 1)
    assert numbers.eighteen_soon == date(2007, 6, 3)
    for _ in range(500):
        born = numbers.minor_resident()[6:14]
        assert "20080601" <= born <= "20240601"


def test_29_february_has_a_birthday_every_year() -> None:
    """Eighteen years before a 29 February is a 28 February, of somebody who is of age by any count."""
    assert years_before(date(2024, 2, 29), 18) == date(2006, 2, 28)


def test_a_stranger_never_shares_a_name() -> None:
    """No other person's name equals any accepted spelling of one's own."""
    people = People(5, TODAY)

    for person in (people.person() for _ in range(3_000)):
        assert person.stranger not in (*person.spellings, person.name, person.name_latin)


def test_names_carry_the_traps() -> None:
    """Middle dots, traditional forms, characters beyond the basic plane, heteronym surnames and Latin names occur."""
    people = People(5, TODAY)
    made = [people.person() for _ in range(3_000)]
    names = "".join(person.name for person in made)

    for trap in ("·", "陳", "𬍛", "单", "曾", "欧阳", "/"):
        assert trap in names
    assert any("SHAN/" in spelling for person in made if person.name[0] == "单" for spelling in person.spellings)
    assert any(person.name_latin and "/" not in person.name for person in made)
