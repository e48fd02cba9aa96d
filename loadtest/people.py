"""Seeded, invented persons and entities: names, numbers, nothing that could belong to anyone.

Strategy: every number comes from a range nobody real can have (domain.md "Decided" 11): resident IDs, residence permits
and foreigners' cards with birth years 18xx, or address code 710000 where a recent birth is needed; PRC passports
E0000dddd, permits and SAR passports H0000dddd / M0000dddd, C0000dddd and 0000dddd, foreign passports of the country
XAA, credit codes of area 710000, organisation codes 0000xxxx, opaque papers TEST0000dddd, and the three old foreigners'
cards printed in domain.md §3.3.

A `Numbers` hands each number out once: the n-th number of a range is a seeded permutation of n, so a million people
need no memory of the numbers given before, and equal seeds give equal people. Ranges of only 10 000 numbers run out;
their method then returns None and the caller takes another paper.

Check digits are computed here from the standards, not by the checker: a check digit wrong there must not agree here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from random import Random
from typing import NamedTuple

RESIDENT_ID = "RESIDENT_ID"
HMT_RESIDENCE_PERMIT = "HMT_RESIDENCE_PERMIT"
FOREIGN_PERMANENT_RESIDENT_ID = "FOREIGN_PERMANENT_RESIDENT_ID"
PRC_PASSPORT = "PRC_PASSPORT"
HK_MACAU_PASSPORT = "HK_MACAU_PASSPORT"
FOREIGN_PASSPORT = "FOREIGN_PASSPORT"
HK_MACAU_TRAVEL_PERMIT = "HK_MACAU_TRAVEL_PERMIT"
TAIWAN_TRAVEL_PERMIT = "TAIWAN_TRAVEL_PERMIT"
MAINLAND_TRAVEL_PERMIT = "MAINLAND_TRAVEL_PERMIT"
UNIFIED_SOCIAL_CREDIT_CODE = "UNIFIED_SOCIAL_CREDIT_CODE"
ORGANISATION_CODE = "ORGANISATION_CODE"
OTHER = "OTHER"

DOCUMENT_TYPES = (
    RESIDENT_ID,
    HMT_RESIDENCE_PERMIT,
    FOREIGN_PERMANENT_RESIDENT_ID,
    PRC_PASSPORT,
    HK_MACAU_PASSPORT,
    FOREIGN_PASSPORT,
    HK_MACAU_TRAVEL_PERMIT,
    TAIWAN_TRAVEL_PERMIT,
    MAINLAND_TRAVEL_PERMIT,
    UNIFIED_SOCIAL_CREDIT_CODE,
    ORGANISATION_CODE,
    OTHER,
)
"""Every document word of the feed: the contract's enum names without their prefix."""

MOST_ENTITIES = 31**4
"""How many organisation codes 0000xxxx there are."""


def mod_11_2(body: str) -> str:
    """The check character of 17 digits (GB 11643; residence permits and the 18-digit foreigners' card alike)."""
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return "10X98765432"[sum(int(digit) * weight for digit, weight in zip(body, weights, strict=True)) % 11]


def mod_31(body: str) -> str:
    """The check character of a credit code's first 17 characters (GB 32100); the outer mod turns 31 into 0."""
    alphabet = "0123456789ABCDEFGHJKLMNPQRTUWXY"
    weights = (1, 3, 9, 27, 19, 26, 16, 17, 20, 29, 25, 13, 8, 24, 10, 30, 28)
    return alphabet[-sum(alphabet.index(char) * weight for char, weight in zip(body, weights, strict=True)) % 31]


def organisation_check(body: str) -> str:
    """The check character of an organisation code's first 8 characters (GB 11714)."""
    weights = (3, 7, 9, 10, 5, 8, 4, 2)
    rest = 11 - sum(int(char, 36) * weight for char, weight in zip(body, weights, strict=True)) % 11
    return {10: "X", 11: "0"}.get(rest, str(rest))


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_AREAS = _words(
    "110105 120101 130102 140105 150102 210102 220102 230103 310101 320102 330102 340102 350102 360102 370102 410102 "
    "420102 430102 440513 440106 450102 460105 500101 510104 520102 530102 540102 610102 620102 630102 640104 650102"
)
_PROVINCES = _words("11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 54 61 62 63 64 65")
_COUNTRIES = _words(
    "036 056 076 124 156 208 246 250 276 372 380 392 410 458 528 554 578 608 702 724 752 756 764 826 840"
)
_OLD_CARDS = ("KAZ110090123105", "USA110080010108", "CAN440085022910")  # printed in domain.md §3.3
_ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_ENTITY_HEADS = ("91", "92", "93", "12", "52", "N2")  # registering department and kind; area 710000 follows
# 996-999 once meant births before 1900; a card ending in 000 looks like one that a spreadsheet has rounded.
SERIALS = tuple(f"{serial:03d}" for serial in range(1, 996) if serial % 100)
_STEP = 1_000_003_301  # prime, dividing none of the ranges' sizes: n -> n * step mod size meets every number once


def _days(first: date, last: date) -> list[str]:
    return [(first + timedelta(days=n)).strftime("%Y%m%d") for n in range((last - first).days + 1)]


UNLISTED_YEARS = (1800, 1899)
"""Birth years of nobody in a made feed: the people whom `loadtest.workload` invents while it runs."""


def unlisted_heads(document_type: str) -> list[str]:
    """The first 14 of the 18 digits of all cards of this type whose bearers are in no made feed; SERIALS go on."""
    areas: Sequence[str] = {
        RESIDENT_ID: _AREAS,
        HMT_RESIDENCE_PERMIT: ("810000", "820000", "830000"),
        FOREIGN_PERMANENT_RESIDENT_ID: [f"9{_PROVINCES[0]}{country}" for country in _COUNTRIES],
    }[document_type]
    days = [day for year in UNLISTED_YEARS for day in _days(date(year, 1, 1), date(year, 12, 31))]
    return [area + day for area in areas for day in days]


def years_before(day: date, years: int) -> date:
    """The same date `years` earlier; 29 February becomes 28 February where the year has none."""
    try:
        return day.replace(year=day.year - years)
    except ValueError:
        return day.replace(year=day.year - years, day=28)


class Numbers:
    """Hands out synthetic numbers, each once. `today`: the date in Shanghai that "recent births" are counted from."""

    def __init__(self, seed: int, today: date) -> None:
        self._shift = Random(f"numbers {seed}").randrange(10**9)
        self._given: dict[str, int] = {}
        self._days_18xx = _days(date(1801, 1, 1), date(1898, 12, 31))
        self._days_legacy = _days(date(1930, 1, 1), date(1985, 12, 31))
        self._days_minor = _days(years_before(today, 17), years_before(today, 1))
        self.eighteen_today = years_before(today, 18)
        # Two days off, so that the answer holds for at least a day after `today`, wherever in the day that was.
        self.eighteen_soon = years_before(today + timedelta(days=2), 18)

    def _next(self, pool: str, size: int) -> int | None:
        given = self._given.get(pool, 0)
        if given >= size:
            return None
        self._given[pool] = given + 1
        return (given * _STEP + self._shift) % size

    def _card(self, pool: str, heads: Sequence[str], days: Sequence[str]) -> str:
        place = self._next(pool, len(heads) * len(days) * len(SERIALS))
        if place is None:
            raise ValueError(f"more people than synthetic numbers of the kind {pool!r}: ask for fewer people")
        place, serial = divmod(place, len(SERIALS))
        head, day = divmod(place, len(days))
        body = f"{heads[head]}{days[day]}{SERIALS[serial]}"
        return body + mod_11_2(body)

    def resident(self) -> str:
        """A resident ID of somebody born 1801-1898."""
        return self._card("resident", _AREAS, self._days_18xx)

    def legacy_resident(self) -> str:
        """A resident ID, area 710000, born 1930-1985: one that an old 15-digit number can stand for."""
        return self._card("legacy", ("710000",), self._days_legacy)

    def minor_resident(self) -> str:
        """A resident ID, area 710000, of a child of 1 to 16."""
        return self._card("minor", ("710000",), self._days_minor)

    def born_on(self, day: date) -> str | None:
        """A resident ID, area 710000, of somebody born on `day`; None when the 986 of that day are used up."""
        text = day.strftime("%Y%m%d")
        serial = self._next(text, len(SERIALS))
        if serial is None:
            return None
        body = f"710000{text}{SERIALS[serial]}"
        return body + mod_11_2(body)

    def residence_permit(self) -> str:
        """A residence permit for Hong Kong, Macau or Taiwan residents, born 18xx."""
        return self._card("permit", ("810000", "820000", "830000"), self._days_18xx)

    def foreigner_card(self) -> str:
        """A foreign permanent resident's 18-character card, born 18xx."""
        given = self._given.get("land", 0)
        self._given["land"] = given + 1
        head = f"9{_PROVINCES[given % len(_PROVINCES)]}{_COUNTRIES[given % len(_COUNTRIES)]}"
        return self._card("foreigner " + head, (head,), self._days_18xx)

    def old_foreigner_card(self) -> str | None:
        """One of the three 15-character foreigners' cards that domain.md prints."""
        place = self._next("old foreigner", len(_OLD_CARDS))
        return None if place is None else _OLD_CARDS[place]

    def _four(self, pool: str, prefix: str) -> str | None:
        place = self._next(pool, 10_000)
        return None if place is None else f"{prefix}0000{place:04d}"

    def prc_passport(self) -> str | None:
        """E0000dddd."""
        return self._four("passport", "E")

    def mainland_permit(self) -> str | None:
        """往来港澳通行证 C0000dddd."""
        return self._four("mainland permit", "C")

    def taiwan_permit(self) -> str | None:
        """0000dddd."""
        return self._four("Taiwan permit", "")

    def travel_permit(self) -> str | None:
        """港澳居民来往内地通行证 H0000dddd (first half of the range) or M0000dddd."""
        place = self._next("travel permit", 15_000)
        if place is None:
            return None
        return f"H0000{place:04d}" if place < 5_000 else f"M0000{place - 5_000:04d}"

    def sar_passport(self) -> str | None:
        """Hong Kong passport H0000dddd, from the half of the range that permits leave alone."""
        place = self._next("SAR passport", 5_000)
        return None if place is None else f"H0000{place + 5_000:04d}"

    def foreign_passport(self) -> str:
        """A passport number of the country XAA."""
        return f"XT{self._free('foreign passport', 10**8):08d}"

    def other_paper(self) -> str | None:
        """A paper of no known form, TEST0000dddd."""
        return self._four("other", "TEST")

    def entity(self) -> tuple[str, str]:
        """An entity's credit code (area 710000) and the organisation code 0000xxxx inside it."""
        place = self._free("entity", MOST_ENTITIES)
        body = "0000"
        for power in (31**3, 31**2, 31, 1):
            body += _ALPHABET[place // power % 31]
        organisation = body + organisation_check(body)
        code = _ENTITY_HEADS[place % len(_ENTITY_HEADS)] + "710000" + organisation
        return code + mod_31(code), organisation

    def _free(self, pool: str, size: int) -> int:
        place = self._next(pool, size)
        if place is None:
            raise ValueError(f"more people than synthetic numbers of the kind {pool!r}: ask for fewer people")
        return place


class Document(NamedTuple):
    """One paper as the feed and the caller write it; `country` counts for foreign passports only."""

    type: str
    number: str
    country: str = ""


@dataclass(slots=True)
class Person:
    """A person or an entity, with every spelling of the name that must count as the same."""

    name: str
    spellings: tuple[str, ...]
    stranger: str
    documents: list[Document]
    name_latin: str = ""
    birth_date: str = ""


def _spellings(text: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(entry.split("/")) for entry in text.split())


# Each character with its traditional form and its toneless syllable. Characters with several readings stand here with
# the one a bearer uses: as a surname 单 is SHAN and 曾 is ZENG, whatever the dictionary lists first.
_SURNAMES = _spellings(
    "王/王/WANG 李/李/LI 张/張/ZHANG 刘/劉/LIU 陈/陳/CHEN 杨/楊/YANG 赵/趙/ZHAO 黄/黃/HUANG "
    "吴/吳/WU 孙/孫/SUN 马/馬/MA "
    "朱/朱/ZHU 胡/胡/HU 郭/郭/GUO 何/何/HE 林/林/LIN 高/高/GAO 罗/羅/LUO 郑/鄭/ZHENG 梁/梁/LIANG "
    "谢/謝/XIE 许/許/XU "
    "邓/鄧/DENG 冯/馮/FENG 韩/韓/HAN 单/單/SHAN 曾/曾/ZENG 仇/仇/QIU 区/區/OU 解/解/XIE 任/任/REN "
    "华/華/HUA 盖/蓋/GE "
    "吕/呂/LYU 欧阳/歐陽/OUYANG 司马/司馬/SIMA 诸葛/諸葛/ZHUGE 尉迟/尉遲/YUCHI"
)
_GIVEN = _spellings(
    "伟/偉/WEI 芳/芳/FANG 娜/娜/NA 敏/敏/MIN 静/靜/JING 丽/麗/LI 强/強/QIANG 军/軍/JUN 洋/洋/YANG 勇/勇/YONG "
    "艳/艷/YAN 杰/傑/JIE 娟/娟/JUAN 涛/濤/TAO 明/明/MING 刚/剛/GANG 平/平/PING 辉/輝/HUI 玲/玲/LING 桂/桂/GUI "
    "国庆/國慶/GUOQING 建华/建華/JIANHUA 云龙/雲龍/YUNLONG 鹏飞/鵬飛/PENGFEI 凤兰/鳳蘭/FENGLAN 红梅/紅梅/HONGMEI "
    "志远/志遠/ZHIYUAN 晓东/曉東/XIAODONG 思源/思源/SIYUAN 子轩/子軒/ZIXUAN 雨桐/雨桐/YUTONG 梦洁/夢潔/MENGJIE"
)
_RARE = ("㛃", "䶮", "𬍛", "翀", "喆", "𬭎", "犇", "淼")  # rare, some outside the basic plane: kept as they are
_DOTTED = ("买买提·吐尔逊", "阿依古丽·艾合买提", "扎西·次仁", "古丽娜尔·阿不都拉", "艾力·买合木提")
_FOREIGN = _words(
    "SMITH/JOHN MUELLER/ANNA GARCIA/LUIS IVANOV/PETR TANAKA/HANAKO NGUYEN/LINH ROSSI/MARIA DUBOIS/PAUL KIM/MINSU "
    "ANDERSSON/EVA NOWAK/JAN SILVA/ANA OKAFOR/CHIDI COHEN/NOA HANSEN/OLE"
)
_FOREIGN_HAN = ("约翰·史密斯", "安娜·穆勒", "路易斯·加西亚", "彼得·伊万诺夫", "玛丽亚·罗西")
_TRADES = ("商贸", "建筑工程", "文化传媒", "物流", "餐饮管理", "房地产开发", "科技", "农业发展")


class Names:
    """Draws names. Every third or so carries one of the traps: rare character, middle dot, traditional form, Latin."""

    def __init__(self, seed: int) -> None:
        self._random = Random(f"names {seed}")

    def _chinese(self) -> tuple[str, str, str, str]:
        surname, given = self._random.choice(_SURNAMES), self._random.choice(_GIVEN)
        return surname[0] + given[0], surname[1] + given[1], surname[2], given[2]

    def stranger(self, name: str) -> str:
        """A name that is surely not `name`: both surname and given name differ."""
        while True:
            other = self._chinese()[0]
            if other[0] != name[0] and other[-1] != name[-1]:
                return other

    def chinese(self, documents: list[Document]) -> Person:
        """Somebody with a Chinese name; written to the feed in simplified or traditional form, or with rare signs."""
        draw = self._random.random()
        if draw < 0.06:
            dotted = self._random.choice(_DOTTED)
            same = (dotted, dotted.replace("·", "•"), dotted.replace("·", "．"), dotted.replace("·", " · "))
            return Person(dotted, same, self.stranger(dotted), documents)
        if draw < 0.12:
            rare = self._random.choice(_SURNAMES)[0] + self._random.choice(_RARE)
            return Person(rare, (rare, f" {rare} "), self.stranger(rare), documents)
        simplified, traditional, surname, given = self._chinese()
        latin = [f"{surname}/{given}", f"{surname}/{given}".lower()]
        name_latin = f"{surname}/{given}" if draw < 0.25 else ""
        if "LYU" in surname and not name_latin:  # a Latin name that the feed gives is the only one
            latin.append(f"LV/{given}")
        spellings = (simplified, simplified, traditional, f"{simplified[0]} {simplified[1:]}", *latin)
        name = traditional if draw > 0.92 else simplified
        return Person(name, spellings, self.stranger(simplified), documents, name_latin=name_latin)

    def foreign(self, documents: list[Document]) -> Person:
        """A foreigner: Latin name alone, or a Chinese rendering with the Latin name beside it."""
        latin = self._random.choice(_FOREIGN)
        if self._random.random() < 0.3:
            han = self._random.choice(_FOREIGN_HAN)
            return Person(han, (latin, han), self.stranger(han), documents, name_latin=latin)
        stranger = self._random.choice([other for other in _FOREIGN if other != latin])
        return Person(latin, (latin, latin.lower()), stranger, documents, name_latin=latin)

    def entity(self, documents: list[Document], number: int) -> Person:
        """A company; `number` keeps company names apart."""
        trade = self._random.choice(_TRADES)
        name = f"测试第{number}{trade}有限公司"
        return Person(name, (name, f" {name} "), f"测试第{number + 1}{trade}有限公司", documents)


_MIXES = (
    # (weight of 100, papers of one person)
    (44, (RESIDENT_ID,)),
    (14, (RESIDENT_ID, PRC_PASSPORT)),
    (6, (RESIDENT_ID, MAINLAND_TRAVEL_PERMIT)),
    (3, (RESIDENT_ID, OTHER)),
    (2, (RESIDENT_ID, PRC_PASSPORT, MAINLAND_TRAVEL_PERMIT)),
    (8, (HK_MACAU_TRAVEL_PERMIT, HMT_RESIDENCE_PERMIT)),
    (3, (HK_MACAU_TRAVEL_PERMIT, HK_MACAU_PASSPORT)),
    (5, (TAIWAN_TRAVEL_PERMIT, HMT_RESIDENCE_PERMIT)),
    (2, (TAIWAN_TRAVEL_PERMIT,)),
    (7, (FOREIGN_PASSPORT,)),
    (6, (FOREIGN_PASSPORT, FOREIGN_PERMANENT_RESIDENT_ID)),
)
_FOREIGNERS = {FOREIGN_PASSPORT, FOREIGN_PERMANENT_RESIDENT_ID}


class People:
    """Makes persons and entities, one after the other, the same ones for the same seed and date."""

    def __init__(self, seed: int, today: date) -> None:
        self.numbers = Numbers(seed, today)
        self.names = Names(seed)
        self._wheel = [papers for weight, papers in _MIXES for _ in range(weight)]
        Random(f"papers {seed}").shuffle(self._wheel)
        self._made = 0

    def _paper(self, kind: str) -> Document | None:
        numbers = self.numbers
        if kind == FOREIGN_PERMANENT_RESIDENT_ID:
            return Document(kind, numbers.old_foreigner_card() or numbers.foreigner_card())
        if kind == FOREIGN_PASSPORT:
            return Document(kind, numbers.foreign_passport(), "XAA")
        number = {
            RESIDENT_ID: numbers.resident,
            HMT_RESIDENCE_PERMIT: numbers.residence_permit,
            PRC_PASSPORT: numbers.prc_passport,
            HK_MACAU_PASSPORT: numbers.sar_passport,
            HK_MACAU_TRAVEL_PERMIT: numbers.travel_permit,
            TAIWAN_TRAVEL_PERMIT: numbers.taiwan_permit,
            MAINLAND_TRAVEL_PERMIT: numbers.mainland_permit,
            OTHER: numbers.other_paper,
        }[kind]()
        return None if number is None else Document(kind, number)

    def person(self, papers: tuple[str, ...] = ()) -> Person:
        """Somebody of age with the given papers, or the next mix; papers whose range is used up are left out."""
        if not papers:
            papers = self._wheel[self._made % len(self._wheel)]
            self._made += 1
        documents = [paper for kind in papers if (paper := self._paper(kind)) is not None]
        if not documents:
            documents = [Document(RESIDENT_ID, self.numbers.resident())]
        if _FOREIGNERS.intersection(papers):
            return self.names.foreign(documents)
        return self.names.chinese(documents)

    def with_resident_id(self, number: str, *, passport: bool = False) -> Person:
        """Somebody with this resident ID; `passport` adds a passport while there are any."""
        documents = [Document(RESIDENT_ID, number)]
        if passport and (extra := self.numbers.prc_passport()) is not None:
            documents.append(Document(PRC_PASSPORT, extra))
        return self.names.chinese(documents)

    def entity(self) -> Person:
        """A company, known by its credit code, by its old organisation code, or by both."""
        self._made += 1
        code, organisation = self.numbers.entity()
        papers = [
            Document(UNIFIED_SOCIAL_CREDIT_CODE, code),
            Document(ORGANISATION_CODE, f"{organisation[:8]}-{organisation[8]}"),
        ]
        return self.names.entity(papers[: 1 + self._made % 2], self._made)
