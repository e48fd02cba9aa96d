"""Claims about reading tickets that the matrix of test_rules does not make: mess in codes, and what stays unknown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checker.core.train import EMU, OTHER, STANDING, UNKNOWN_SEAT, UNREADABLE, G, SeatTable, train_class

SEATS = SeatTable(
    {"O": {"二等座": "SECOND"}, "D": {"优选一等座": "BUSINESS", "包厢软座": "SOFT_SEAT"}, "2": {"软座": "SOFT_SEAT"}},
    {"O": "SECOND", "2": "SOFT_SEAT"},
)


@pytest.mark.parametrize(
    "code", ["G1", "g1", "Ｇ１", " G 1 ", "G1次", "G1 次", "\u200bG1", "G1\ufeff", "G\u00ad1", "G\u30001"]
)
def test_a_g_train_is_known_in_every_spelling(code: str) -> None:
    """Width, case, spaces, invisible marks and 次 hide no G train: a code that cannot be read would bar nobody."""
    assert train_class(code, is_emu=False) == G


@pytest.mark.parametrize(
    ("code", "is_emu", "read"),
    [
        ("G1", True, G),
        ("D1", False, EMU),
        ("C2001", False, EMU),
        ("K1", False, OTHER),
        ("K1", True, EMU),
        ("S201", True, EMU),
        ("1461", False, OTHER),
        ("K101/104", False, OTHER),
        ("", False, UNREADABLE),
        ("", True, UNREADABLE),
        ("G", False, UNREADABLE),
        ("0", False, OTHER),
        ("G٣", False, UNREADABLE),  # digits of another script are nobody's print
        ("H1", True, UNREADABLE),
        ("G1/", False, UNREADABLE),
        ("次", False, UNREADABLE),
    ],
)
def test_classes(code: str, is_emu: bool, read: str) -> None:
    """The prefix decides for G, a multiple unit is one whatever its prefix, and what cannot be read stays unread."""
    assert read == train_class(code, is_emu=is_emu)


@given(st.text(max_size=20), st.booleans())
def test_only_a_g_makes_a_g_train(code: str, is_emu: bool) -> None:
    """Any text is given one of four classes, and G only to one that holds a G."""
    read = train_class(code, is_emu=is_emu)

    assert read in (G, EMU, OTHER, UNREADABLE)
    assert read != G or "G" in code.upper() or "Ｇ" in code.upper() or not code.isascii()


@pytest.mark.parametrize(
    ("code", "name", "standing", "group"),
    [
        ("O", "二等座", False, "SECOND"),
        ("o", " 二 等 座 ", False, "SECOND"),
        ("O", "", False, "SECOND"),
        ("", "二等座", False, "SECOND"),
        ("0", "二等座", False, UNKNOWN_SEAT),  # digit zero is another code
        ("O", "一等座", False, UNKNOWN_SEAT),
        ("D", "", False, UNKNOWN_SEAT),  # renamed: the code alone says nothing
        ("D", "优选一等座", False, "BUSINESS"),
        ("D", "包厢软座", False, "SOFT_SEAT"),
        ("", "软座", False, "SOFT_SEAT"),
        ("", "", False, UNKNOWN_SEAT),
        ("9", "", True, STANDING),
        ("O", "无座", False, STANDING),
        ("", "无 座", False, STANDING),
    ],
)
def test_seats(code: str, name: str, standing: bool, group: str) -> None:
    """Code and name must agree; one alone is enough only where it says enough; standing hides behind other codes."""
    assert group == SEATS.group(code, name, is_standing=standing)


def test_a_name_of_two_groups_says_nothing_alone() -> None:
    """A name that belongs to different groups under different codes needs its code."""
    seats = SeatTable({"7": {"软座": "FIRST"}, "2": {"软座": "SOFT_SEAT"}}, {})

    assert seats.group("", "软座", is_standing=False) == UNKNOWN_SEAT
    assert seats.group("7", "软座", is_standing=False) == "FIRST"
