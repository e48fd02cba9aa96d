"""Claims about `checker.core.case_number`: the vectors of domain.md §4.3."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checker.core.case_number import canonical

ACCEPTED = [
    ("（2016）京0105执1234号", "（2016）京0105执1234号"),
    ("(2016)京0105执1234号", "（2016）京0105执1234号"),
    ("(2025）京0105执1号", "（2025）京0105执1号"),
    ("（2020）沪0117执恢77号之一", "（2020）沪0117执恢77号之一"),
    ("(2014)朝执字第00123号", "（2014）朝执字第123号"),
    (" （2016） 京0105 执 0001234 号 ", "（2016）京0105执1234号"),
    ("（2021）最高法执监5号", "（2021）最高法执监5号"),
    ("（2019）京01执异12号-1", "（2019）京01执异12号-1"),
    ("（2019）兵0103执保3号之二", "（2019）兵0103执保3号之二"),
    ("（2016）京0105执字第7号", "（2016）京0105执字第7号"),
    ("（1998）海执字7-2号", "（1998）海执字7-2号"),
]
REFUSED = [
    "（2019）皖1122民初1103号",
    "（2019）皖1122刑初1103号",
    "2016京0105执1234号",
    "（2016）京0105执号",
    "（2016）京0105执123456789号",
    "（16）京0105执1号",
    "（2016）火0105执1号",
    "（２０１６）京0105执1号",
    "（2016）京0105执1号 440524188001010014",
    "",
    "执",
]


@pytest.mark.parametrize(("text", "expected"), ACCEPTED)
def test_enforcement_cases_have_one_form(text: str, expected: str) -> None:
    """Brackets, spaces and leading zeros do not tell two cases apart."""
    assert canonical(text) == expected


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_enforcement_case_is_refused(text: str) -> None:
    """A civil number is that of the basis; a record without an enforcement case never bars."""
    assert canonical(text) is None


@pytest.mark.parametrize("text", [text for text, _ in ACCEPTED])
def test_the_canonical_form_is_its_own(text: str) -> None:
    """Canonical forms are stable: importing what was exported changes nothing."""
    once = canonical(text)
    assert once is not None
    assert canonical(once) == once


def test_two_cases_of_one_person_stay_two() -> None:
    """之一 is part of the case, not decoration."""
    assert canonical("（2020）沪0117执恢77号之一") != canonical("（2020）沪0117执恢77号")


@given(st.text())
def test_any_text_is_answered(text: str) -> None:
    """No text raises, and what is accepted is a fixed point."""
    once = canonical(text)
    assert once is None or canonical(once) == once
