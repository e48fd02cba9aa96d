"""Every way a listed person's name may be written at a counter, as keyed digests. Import side only.

A booking system sends one name, which is made canonical and digested once. So all the knowledge of scripts and readings
is spent here, when a measure is imported:
- the name as the court gives it, and in simplified characters (OpenCC t2s);
- in traditional characters: character by character from OpenCC's tables (s2t, s2tw, s2hk and what else t2s maps to the
  same character), because a surname such as 范 or 于 is also traditional as it stands, and no phrase dictionary knows;
- in Latin letters: `name_latin` where the feed gives it, else the pinyin readings (pypinyin), surname readings first,
  ü as YU and as V.
At most 6 traditional and 16 Latin forms, the likeliest first. Names agree or do not: nothing here is fuzzy.
"""

import unicodedata
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

from checker.core.key import DigestKey
from checker.core.name import canonical

MAX_LATIN = 16
MAX_TRADITIONAL = 6
_LONGEST_SPELT = 20  # characters; longer ones are not people

# Readings a character has as a surname and hardly anywhere else, or that the dictionary lists late.
_SURNAMES = {
    "单": "SHAN",
    "仇": "QIU",
    "区": "OU",
    "曾": "ZENG",
    "解": "XIE",
    "任": "REN",
    "查": "ZHA",
    "盖": "GE GAI",
    "朴": "PIAO PU",
    "冼": "XIAN",
    "洗": "XIAN",
    "缪": "MIAO",
    "乐": "YUE LE",
    "种": "CHONG",
    "翟": "ZHAI DI",
    "秘": "BI",
    "燕": "YAN",
    "折": "SHE",
    "逄": "PANG",
    "葛": "GE",
    "黑": "HE",
    "繁": "PO",
    "员": "YUN",
    "召": "SHAO",
    "覃": "QIN TAN",
    "华": "HUA",
    "牟": "MU MOU",
    "能": "NAI",
    "瞿": "QU",
    "隗": "WEI KUI",
    "郇": "XUN HUAN",
    "应": "YING",
    "祭": "ZHAI",
    "谌": "CHEN SHEN",
    "都": "DU",
    "句": "GOU",
    "撒": "SA",
    "行": "XING",
    "相": "XIANG",
}
_DOUBLE_SURNAMES = {
    "尉迟": ("YU", "CHI"),
    "万俟": ("MO", "QI"),
    "长孙": ("ZHANG", "SUN"),
    "单于": ("CHAN", "YU"),
    "澹台": ("TAN", "TAI"),
    "令狐": ("LING", "HU"),
    "宰父": ("ZAI", "FU"),
    "亓官": ("QI", "GUAN"),
    "闾丘": ("LYU", "QIU"),
}


@cache
def _pinyin_table() -> dict[int, str]:
    """Code point -> its readings: pypinyin's table without its package, whose phrases take longer to load than it.

    Loaded with the first name, like the converters: a lift has none, and is acknowledged a tenth of a second sooner.
    """
    package = find_spec("pypinyin")
    file = Path(package.origin).with_name("pinyin_dict.py") if package and package.origin else Path()
    spec = spec_from_file_location("pinyin_dict", file)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError("names are spelt by pypinyin: pip install 'xianxiao[checker]'", name="pypinyin")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    table: dict[int, str] = module.pinyin_dict
    return table


@cache
def _converter(config: str) -> Callable[[str], str]:
    """OpenCC's own name for a way of writing turned into another -> what turns it."""
    import opencc

    convert: Callable[[str], str] = opencc.OpenCC(config).convert
    return convert


@lru_cache(maxsize=65_536)
def digests(name: str, name_latin: str, key: DigestKey, *, person: bool = True) -> bytes:
    """The `stored_name` digests (6 bytes each, concatenated, each once) of every form of a name.

    `name_latin` empty: the pinyin readings of a person's name take its place; an entity (`person` False) has none.
    """
    stored = key.stored_name
    return b"".join(dict.fromkeys([stored(form) for form in forms(name, name_latin, person=person)]))


def forms(name: str, name_latin: str, *, person: bool = True) -> list[str]:
    """The canonical forms, each once: as given, simplified, traditional, Latin."""
    given = canonical(name)
    found = {given: None}
    if not given.isascii():
        simplified = canonical(_converter("t2s")(given))
        found[simplified] = None
        for form in _best([_traditional(char) for char in simplified], MAX_TRADITIONAL):
            found[canonical(form)] = None
        if person and not name_latin:
            for form in _pinyin(simplified):
                found[canonical(form)] = None
    if name_latin:
        found[canonical(name_latin)] = None
    found.pop("", None)
    return list(found)


def _best(choices: Iterable[tuple[str, ...]], most: int) -> list[str]:
    """The `most` likeliest words that take one of `choices` at each place; each place's choices are likeliest first."""
    words = [("", 0)]
    for options in choices:
        if len(options) == 1:
            only = options[0]
            words = [(word + only, rank) for word, rank in words]
        else:
            longer = [(word + option, rank + place) for word, rank in words for place, option in enumerate(options)]
            longer.sort(key=_rank)
            words = longer[:most]
    return [word for word, _ in words]


def _rank(word: tuple[str, int]) -> int:
    return word[1]


@cache
def _traditional(char: str) -> tuple[str, ...]:
    """What a simplified character may be in traditional writing, likeliest first; else itself."""
    traditional = _converter("s2t")(char)
    # For single characters s2tw is s2t and then this, likewise s2hk, without the phrases being loaded again.
    found = dict.fromkeys((traditional, *(_converter(config)(traditional) for config in ("t2tw", "t2hk"))))
    if _in_big5(char):
        found[char] = None
    for other in _origins().get(char, ()):
        if _in_big5(other):
            found[other] = None
    return tuple(found)


@cache
def _origins() -> dict[str, list[str]]:
    """Simplified character -> the traditional ones OpenCC maps to it. 60 ms, once."""
    found: dict[str, list[str]] = {}
    to_simplified = _converter("t2s")
    for code in (*range(0x3400, 0x4DC0), *range(0x4E00, 0xA000)):
        simplified = to_simplified(chr(code))
        if simplified != chr(code):
            found.setdefault(simplified, []).append(chr(code))
    return found


def _in_big5(char: str) -> bool:
    """Whether traditional writing uses the character at all."""
    try:
        char.encode("big5")
    except UnicodeEncodeError:
        return False
    return True


def _pinyin(name: str) -> list[str]:
    """The readings of a name in Han characters; none when any character has no reading."""
    chars = name.replace("·", "")
    if not 0 < len(chars) <= _LONGEST_SPELT:
        return []
    choices = [_readings(char) for char in chars]
    if not all(choices):
        return []
    if chars[:2] in _DOUBLE_SURNAMES and len(chars) > 2:
        first, second = _DOUBLE_SURNAMES[chars[:2]]
        choices[0] = tuple(dict.fromkeys((first, *choices[0])))
        choices[1] = tuple(dict.fromkeys((second, *choices[1])))
    else:
        choices[0] = _surname(chars[0])
    return _best(choices, MAX_LATIN)


@cache
def _surname(char: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*_SURNAMES.get(char, "").split(), *_readings(char))))


@cache
def _readings(char: str) -> tuple[str, ...]:
    """A character's syllables in capitals, without tones, likeliest first; ü as YU and as V (LÜ: LYU, LV)."""
    found: dict[str, None] = {}
    for reading in _pinyin_table().get(ord(char), "").split(",") if len(char) == 1 else ():
        plain = "".join(mark for mark in unicodedata.normalize("NFD", reading) if mark.isalpha() or mark == "\u0308")
        plain = plain.upper()
        if "U\u0308" in plain:
            found[plain.replace("U\u0308", "YU")] = None
            found[plain.replace("U\u0308", "V")] = None
        elif plain.isascii() and any(vowel in plain for vowel in "AEIOU"):
            found[plain] = None
    return tuple(found)
