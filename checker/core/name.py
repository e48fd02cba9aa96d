"""One canonical form of a name, so that two spellings of it give one digest (domain.md §3.6(6)).

The strategy depends on the script, because what is noise in one is meaning in another:

- Chinese and every other script: NFKC, no spaces or invisible marks, one kind of middle dot, one kind of brackets,
  upper case. Rare characters stay as they are, also those of the private areas that registries use for them.
- Latin (no Chinese, Japanese or Korean character in the name): what a machine-readable zone and an airline's
  SURNAME/GIVEN have in common with the name as spoken: letters and digits only, upper case, no tones or other marks,
  u with two dots as YU. A plain V stays V: the importing side adds both spellings of such a syllable.

Simplified and traditional characters and pinyin readings are the importing side's work, which has the dictionaries: a
record carries several digests, a caller's name has exactly this one form.
"""

import re
import unicodedata
from typing import Final

MAX_LENGTH: Final = 200
"""Characters of a name that count; what follows is not looked at."""

_IDEOGRAPHIC: Final = re.compile(
    "[\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u303c\u3040-\u30fa\u30fc-\u312f\u3131-\u318e\u31a0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua4cf\ua960-\ua97f\uac00-\ud7ff\ue000-\ufaff"
    "\U00016fe0-\U0001b2ff\U00020000-\U0003ffff\U000f0000-\U0010ffff]"
)
"""Chinese, Japanese, Korean and Yi letters, and the private areas. Without the katakana middle dot."""

# Spaces, controls, zero-width marks, lone surrogates (which no digest can be made of).
_DROPPED_CATEGORIES: Final = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf", "Cs"})
_INVISIBLE: Final = re.compile("[\u034f\u115f\u1160\u2800\u3164\uffa0\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_DOTS: Final = re.compile("[.·•‧∙⋅・]+")
_BRACKETS: Final = str.maketrans("[〔【﹝［{〕】﹞］]}", "(((((())))))")
_U_UMLAUT: Final = re.compile("U[\u0300-\u036f]*\u0308")  # after NFKD: tone marks may stand on either side
_UNDECOMPOSED: Final = str.maketrans(
    {"Ø": "O", "Đ": "D", "Ð": "D", "Ł": "L", "Ħ": "H", "Ŧ": "T", "Æ": "AE", "Œ": "OE", "Þ": "TH", "ẞ": "SS", "ı": "I"}
)
_LATIN_LETTER: Final = re.compile("[A-Z]")


def canonical(raw: str) -> str:
    """The canonical form of a name, at most 200 characters; "" for one without any letter. Idempotent, never raises."""
    if 1 < len(raw) < 5 and min(raw) >= "\u4e00" and max(raw) <= "\u9fff":
        return raw
    text = raw[:MAX_LENGTH]
    # Dropping marks, changing case and cutting can each make room for another step, so repeat until nothing changes;
    # in practice twice. The bound only guards against a text nobody has thought of.
    for _ in range(8):
        folded = _fold(text)[:MAX_LENGTH]
        if folded == text:
            break
        text = folded
    return text


def _fold(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).upper()
    if _IDEOGRAPHIC.search(text):
        return _fold_other(text)
    latin = unicodedata.normalize("NFKD", text).upper().translate(_UNDECOMPOSED)
    return _fold_latin(latin) if _LATIN_LETTER.search(latin) else _fold_other(text)


def _fold_latin(text: str) -> str:
    text = _U_UMLAUT.sub("YU", text)
    # "Lm" are letters only in name: among them the apostrophes of transcriptions.
    return "".join([char for char in text if char.isalnum() and unicodedata.category(char) != "Lm"])


def _fold_other(text: str) -> str:
    text = _INVISIBLE.sub("", text)
    text = "".join([char for char in text if unicodedata.category(char) not in _DROPPED_CATEGORIES])
    text = _DOTS.sub("·", text).translate(_BRACKETS)
    return text if any(char.isalnum() or _IDEOGRAPHIC.match(char) for char in text) else ""
