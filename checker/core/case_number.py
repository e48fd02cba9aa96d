"""Case numbers of enforcement cases (案号), read and made canonical.

A consumption restriction belongs to an enforcement case (执…). A civil, criminal or administrative number is the number
of its *basis*, never of the case that restricts, so it is refused: a record without an enforcement case never bars.

Two notations are in use: the one in force since 2016-01-01, `（2016）京0105执1234号`, and the older one,
`（2014）朝执字第00123号`. Canonical: full-width brackets, no spaces, no leading zeros in the number; the court's and
type's characters stay as written. Two cases against one person are two measures, so 之一 and -1 are kept.
"""

import re
from functools import lru_cache

_MOST_CHARACTERS = 64

# The court's code: the Supreme Court, a province's character with the division's digits, or corps and military courts.
_CURRENT = re.compile(
    r"[（(](?P<year>20\d{2})[）)]"
    r"(?P<court>最高法|[京津冀晋蒙辽吉黑沪苏浙皖闽赣鲁豫鄂湘粤桂琼渝川黔贵滇云藏陕甘青宁新兵军]\d{0,4})"
    r"(?P<type>执(?:恢|保|异|复|监|协|他)?)(?P<word>字第)?(?P<number>\d{1,8})号"
    r"(?P<part>之[一二三四五六七八九十\d]{1,8}|-\d{1,8})?",
    re.ASCII,
)
_FORMER = re.compile(
    r"[（(](?P<year>(?:19|20)\d{2})[）)]"
    r"(?P<court>[\u4e00-\u9fa5]{1,8})(?P<type>执[\u4e00-\u9fa5]{0,3})(?P<word>字第?)(?P<number>\d{1,8})"
    r"(?P<part>-\d{1,8})?号",
    re.ASCII,
)


@lru_cache(maxsize=65_536)
def canonical(text: str) -> str | None:
    """The canonical form of an enforcement case's number, None when it is not one (domain.md §4.3). Idempotent."""
    if len(text) > _MOST_CHARACTERS:
        return None
    squeezed = "".join(text.split())
    match = _CURRENT.fullmatch(squeezed)
    if match is not None:
        part = match["part"] or ""
        return (
            f"（{match['year']}）{match['court']}{match['type']}{match['word'] or ''}{_plain(match['number'])}号{part}"
        )
    match = _FORMER.fullmatch(squeezed)
    if match is not None:
        part = match["part"] or ""
        return f"（{match['year']}）{match['court']}{match['type']}{match['word']}{_plain(match['number'])}{part}号"
    return None


def _plain(number: str) -> str:
    return number.lstrip("0") or "0"
