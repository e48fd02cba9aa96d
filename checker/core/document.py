"""From what somebody typed, scanned or pasted to the canonical document that is looked up, or to a clear refusal.

Three steps, each total (any text in, a value out, nothing raised):

1. `normalise` removes what differs between two copies of one number: width, case, spaces, hyphens, dots, invisible
   marks and the look-alikes of X. It never repairs: O stays O and 0 stays 0 (domain.md §3.6).
2. A reader per document type checks form, then date, then check character (domain.md §3.1-§3.5), and gives the
   canonical form: a renewal count is cut off, a 15-digit resident ID gets its century and check character.
3. `parse` puts them together. Within the 18-digit family (resident ID, residence permit, foreigner's card) the number
   itself tells the type, whatever was declared. Otherwise the declared type decides, never a checksum: about 3 % of
   resident IDs also pass the checksum of a credit code. With no type declared every type that fits is returned, to be
   asked as one question.

The clean 18-digit number, nearly all of the traffic, takes a short cut through small tables (address, year, day,
sequence), each remembering its share of the check sum. It must agree with the long road; the tests compare them.

Every refusal is one of the constants below, so no refusal can carry a piece of the number. No hint holds a digit.
"""

import re
import unicodedata
from collections.abc import Callable
from enum import IntEnum
from functools import lru_cache
from typing import Final, NamedTuple

from checker.core.countries import is_alpha_3, is_numeric

MAX_LENGTH: Final = 64
"""Characters of a number or a country code that are looked at; anything longer is BAD_FORMAT unread."""


class DocumentType(IntEnum):
    """Kinds of identity document. Numbers and words are those of `checker.v1.DocumentType`."""

    UNSPECIFIED = 0
    RESIDENT_ID = 1
    HMT_RESIDENCE_PERMIT = 2
    FOREIGN_PERMANENT_RESIDENT_ID = 3
    PRC_PASSPORT = 4
    HK_MACAU_PASSPORT = 5
    FOREIGN_PASSPORT = 6
    HK_MACAU_TRAVEL_PERMIT = 7
    TAIWAN_TRAVEL_PERMIT = 8
    MAINLAND_TRAVEL_PERMIT = 9
    UNIFIED_SOCIAL_CREDIT_CODE = 10
    ORGANISATION_CODE = 11
    OTHER = 12


class Fault(IntEnum):
    """Why a number cannot be one of its type. Numbers are those of `checker.v1.Reason`."""

    BAD_FORMAT = 14
    BAD_CHECKSUM = 15
    BAD_DATE = 16


class Document(NamedTuple):
    """One document in canonical form: equal documents are equal values. Made by `parse` only."""

    type: int  # DocumentType
    number: str  # [0-9A-Z], for OTHER ideographs too; at most 192 bytes of UTF-8
    country: str  # ISO 3166-1 alpha-3 for FOREIGN_PASSPORT, else ""

    def __repr__(self) -> str:
        """Type and length: a number must not reach a log or a traceback because somebody printed a value."""
        return f"Document({DocumentType(self.type).name}, {len(self.number)} characters, {self.country or '-'})"


class Parsed(NamedTuple):
    """What a number may stand for: nearly always one document, several when the type is unknown and more than one fits.

    `name_required`: a hit without an agreeing name must not bar ("Decided" 8 of domain.md, and every doubtful number).
    """

    documents: tuple[Document, ...]
    name_required: bool


class Invalid(NamedTuple):
    """A refusal: the fault and, in words, what to do. Always one of this module's constants."""

    fault: Fault
    hint: str


# --------------------------------------------------------------------------------------------------------------------
# Refusals. No digit in any hint, and nothing of the input: they may be shown and logged.

EMPTY: Final = Invalid(Fault.BAD_FORMAT, "no document number was given")
TOO_LONG: Final = Invalid(Fault.BAD_FORMAT, "longer than any document number: send the number alone")
UNKNOWN_TYPE: Final = Invalid(Fault.BAD_FORMAT, "unknown document type: use one of the contract's DocumentType values")
FOREIGN_SCRIPT: Final = Invalid(
    Fault.BAD_FORMAT, "holds characters this document type never has: type it again in Latin letters and digits"
)
MASKED: Final = Invalid(Fault.BAD_FORMAT, "the number is masked: the full number is needed")
APOSTROPHE: Final = Invalid(
    Fault.BAD_FORMAT, "starts with a spreadsheet's text mark: export the column as text and send the number alone"
)
EXPONENT: Final = Invalid(
    Fault.BAD_FORMAT, "a spreadsheet has turned the number into a power of ten: take it from the document again"
)
LOOK_ALIKE: Final = Invalid(
    Fault.BAD_FORMAT, "a letter (O, I, L or B) stands where a digit belongs: read the document again, it is not guessed"
)
BAD_RESIDENT: Final = Invalid(
    Fault.BAD_FORMAT,
    "not a resident ID: eighteen characters are needed, digits with a digit or X last, or fifteen digits",
)
BAD_PERMIT: Final = Invalid(
    Fault.BAD_FORMAT, "not a residence permit: eighteen characters are needed, digits with a digit or X last"
)
BAD_FOREIGNER: Final = Invalid(
    Fault.BAD_FORMAT,
    "not a foreigner's residence card: three letters and twelve digits, or eighteen characters starting with nine",
)
BAD_AREA: Final = Invalid(
    Fault.BAD_FORMAT, "no such number begins like this: the first six digits name no place and no country"
)
BAD_CENTURY: Final = Invalid(Fault.BAD_FORMAT, "the birth year lies outside the three centuries a number can name")
BAD_ISSUER: Final = Invalid(Fault.BAD_FORMAT, "the first three letters are no country code of the ISO standard")
BAD_PASSPORT: Final = Invalid(Fault.BAD_FORMAT, "not the form of a passport of the People's Republic of China")
BAD_SAR_PASSPORT: Final = Invalid(Fault.BAD_FORMAT, "not the form of a Hong Kong or Macau passport")
BAD_FOREIGN_PASSPORT: Final = Invalid(Fault.BAD_FORMAT, "a foreign passport has five to fifteen letters and digits")
BAD_COUNTRY: Final = Invalid(
    Fault.BAD_FORMAT, "a foreign passport needs its country as three ISO letters, such as XAA: send it as country"
)
HOME_COUNTRY: Final = Invalid(
    Fault.BAD_FORMAT, "passports of mainland China, Hong Kong and Macau have document types of their own: declare those"
)
BAD_HK_PERMIT: Final = Invalid(
    Fault.BAD_FORMAT, "not a travel permit of Hong Kong or Macau residents: H or M and eight digits are needed"
)
BAD_TAIWAN_PERMIT: Final = Invalid(
    Fault.BAD_FORMAT, "not a travel permit of Taiwan residents: eight digits, or ten on old ones, are needed"
)
BAD_MAINLAND_PERMIT: Final = Invalid(
    Fault.BAD_FORMAT, "not a permit to Hong Kong and Macau: C or W and eight digits are needed"
)
BAD_CREDIT_CODE: Final = Invalid(
    Fault.BAD_FORMAT, "not a unified social credit code: eighteen characters without I, O, S, V and Z are needed"
)
BAD_ORGANISATION: Final = Invalid(
    Fault.BAD_FORMAT, "not an organisation code: eight letters or digits and a digit or X are needed"
)
BAD_OPAQUE: Final = Invalid(Fault.BAD_FORMAT, "a document number holds letters, digits and Chinese characters only")
NO_TYPE_FITS: Final = Invalid(Fault.BAD_FORMAT, "fits no known document: check the number and say which document it is")
WRONG_CHECK: Final = Invalid(
    Fault.BAD_CHECKSUM, "the check character does not fit: a character is wrong or two are swapped, read it again"
)
ZEROED: Final = Invalid(
    Fault.BAD_CHECKSUM, "the last three digits were lost in a spreadsheet: take the number from the document again"
)
NO_SUCH_DATE: Final = Invalid(Fault.BAD_DATE, "the birth date in the number does not exist: read it again")
FUTURE_DATE: Final = Invalid(Fault.BAD_DATE, "the birth date in the number lies in the future: read it again")

# --------------------------------------------------------------------------------------------------------------------
# Normalising

_DROPPED: Final = " \t\n\v\f\r\x1c\x1d\x1e\x1f-."
_DROP_ASCII: Final = dict.fromkeys(map(ord, _DROPPED))
# Invisible characters outside the categories below, minus, and the dots that are written between groups of digits. Not
# the bullet: a row of bullets is a mask, and without them the rest could pass for a shorter number.
_DROPPED_TOO: Final = frozenset(_DROPPED + "\x85\u034f\u115f\u1160\u2800\u3164\uffa0−·‧")
_DROPPED_CATEGORIES: Final = frozenset({"Zs", "Zl", "Zp", "Cf", "Pd"})  # spaces, zero-width marks, all dashes
_X: Final = dict.fromkeys(map(ord, "ХΧ×✕✖╳⨯"), "X")  # Cyrillic, Greek, signs; the roman numeral is NFKC's


def normalise(raw: str) -> str:
    """One spelling for all copies of a number: NFKC, no spaces, hyphens, dots or invisible marks, upper case, one X.

    Idempotent and total. It repairs nothing: what it returns may be no number at all.
    """
    if raw.isascii():
        return raw.upper() if raw.isalnum() else raw.upper().translate(_DROP_ASCII)
    # Dropping a mark or changing case can bring together what NFKC composes, so repeat until nothing changes; in
    # practice twice. The bound only guards against a text nobody has thought of.
    for _ in range(8):
        folded = unicodedata.normalize("NFKC", raw).upper().translate(_X)
        folded = "".join([char for char in folded if not _is_dropped(char)])
        if folded == raw:
            break
        raw = folded
    return raw


def _is_dropped(char: str) -> bool:
    return (
        char in _DROPPED_TOO
        or unicodedata.category(char) in _DROPPED_CATEGORIES
        or "\ufe00" <= char <= "\ufe0f"  # variation selectors
        or "\U000e0100" <= char <= "\U000e01ef"
    )


# --------------------------------------------------------------------------------------------------------------------
# The 18-digit family: MOD 11-2 (GB 11643, ISO 7064), split into the shares of address, date and sequence

_CHECK: Final = "10X98765432"
# GB/T 2260, the first two digits of an address code
_PROVINCES: Final = frozenset(
    str(code)
    for first, last in ((11, 15), (21, 23), (31, 37), (41, 46), (50, 54), (61, 65), (71, 71), (81, 82))
    for code in range(first, last + 1)
)
_MONTH_DAYS: Final = (0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def _share(digits: str, weights: tuple[int, ...]) -> int:
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=True)) % 11


@lru_cache(maxsize=1 << 14)  # some 3500 addresses are in use; strangers' inventions push each other out
def _area(digits: str) -> tuple[DocumentType | None, int]:
    """The first six characters -> type by the prefix table (None: no such number) and share of the check sum.

    Address codes are those of first issue, so abolished ones live on and unknown ones are no fault (domain.md §3.1).
    """
    if not (digits.isascii() and digits.isdigit()) or digits[0] == "0":
        return None, 0
    share = _share(digits, (7, 9, 10, 5, 8, 4))
    if digits[0] == "9":  # province of issue and ISO numeric country
        known = digits[1:3] in _PROVINCES and is_numeric(digits[3:6])
        return (DocumentType.FOREIGN_PERMANENT_RESIDENT_ID if known else None), share
    if digits[:2] in ("81", "82", "83"):
        return DocumentType.HMT_RESIDENCE_PERMIT, share
    return DocumentType.RESIDENT_ID, share


# Years and days of the year -> that part of yyyymmdd, shifted left, plus the share of the check sum. Small tables stay
# in the processor's cache: a table of whole dates, 43 800 in use, costs 0.7 µs more for each date not met before.
_YEARS: Final = {
    digits: (int(digits) * 10_000 << 5) + _share(digits, (2, 1, 6, 3)) for digits in map(str, range(1800, 2100))
}
_DAYS: Final = {
    digits: (int(digits) << 5) + _share(digits, (7, 9, 10, 5))
    for month in range(1, 13)
    for digits in map(f"{month:02}{{:02}}".format, range(1, _MONTH_DAYS[month] + 1))
}
_LEAP_YEARS: Final = frozenset(map(str, range(1800, 2100, 4))) - {"1800", "1900"}
_CLEAN_DAYS: Final = {digits: value for digits, value in _DAYS.items() if digits != "0229"}  # of every year


def _birthday(digits: str) -> tuple[int, int]:
    """Eight characters -> the date as yyyymmdd and its share; 0, 0: there is no such date from 1800 to 2099."""
    year, day = _YEARS.get(digits[:4]), _DAYS.get(digits[4:])
    if year is None or day is None or (digits[4:] == "0229" and digits[:4] not in _LEAP_YEARS):
        return 0, 0
    return (year + day) >> 5, (year + day) & 31


_SEQUENCES: Final = {digits: _share(digits, (8, 4, 2)) for digits in map("{:03}".format, range(1000))}
# Sequences whose number may end in 000, as a spreadsheet leaves it: these take the long road.
_CLEAN_SEQUENCES: Final = {digits: share for digits, share in _SEQUENCES.items() if not digits.endswith("00")}


def _read_18(number: str, today: int) -> Parsed | Invalid:
    """Eighteen ASCII characters of the family. The long road: the same answer as the short cut, or the reason why not.

    A number that ends in 000 and still passes its check is one person's in a thousand, or one damaged by a spreadsheet
    in eleven: it is accepted, but only an agreeing name may make it bar.
    """
    if not number[:17].isdigit() or not (number[17].isdigit() or number[17] == "X"):
        return BAD_RESIDENT
    kind, area = _area(number[:6])
    if kind is None:
        return BAD_AREA
    if number[6:8] not in ("18", "19", "20"):
        return BAD_CENTURY
    born, birthday = _birthday(number[6:14])
    if not born:
        return NO_SUCH_DATE
    if born > today:
        return FUTURE_DATE
    zeroed = number.endswith("000")
    if _CHECK[(area + birthday + _SEQUENCES[number[14:17]]) % 11] != number[17]:
        return ZEROED if zeroed else WRONG_CHECK
    return Parsed((Document(kind, number, ""),), zeroed or kind is DocumentType.FOREIGN_PERMANENT_RESIDENT_ID)


def _read_15(number: str, today: int) -> Parsed | Invalid:
    """A resident ID of before 1999: fifteen digits, upgraded by the century 19 and a check character (domain.md §3.1).

    It has no check character of its own, and a business registration number has the same shape: the name must agree.
    """
    if not number.isdigit():
        return BAD_RESIDENT
    upgraded = number[:6] + "19" + number[6:]
    area, birthday = _area(upgraded[:6])[1], _birthday(upgraded[6:14])[1]
    read = _read_18(upgraded + _CHECK[(area + birthday + _SEQUENCES[upgraded[14:]]) % 11], today)
    if isinstance(read, Invalid):
        return read
    if read.documents[0].type != DocumentType.RESIDENT_ID:
        return BAD_AREA  # permits and foreigners' cards never had fifteen digits
    return Parsed(read.documents, True)


_OLD_FOREIGNER: Final = re.compile(r"[A-Z]{3}\d{12}", re.ASCII)


def _read_old_foreigner(number: str) -> Parsed | Invalid:
    """The old foreigner's card: country, area, YYMMDD, sequence, ICAO 9303 check digit (domain.md §3.3).

    Two digits of a year name no century, so 29 February passes in every year and no date lies in the future.
    """
    if not _OLD_FOREIGNER.fullmatch(number):
        return BAD_FOREIGNER
    if not is_alpha_3(number[:3]):
        return BAD_ISSUER
    month, day = int(number[9:11]), int(number[11:13])
    if not (1 <= month <= 12 and 1 <= day <= _MONTH_DAYS[month]):
        return NO_SUCH_DATE
    total = sum(int(char, 36) * (7, 3, 1)[place % 3] for place, char in enumerate(number[:14]))
    if total % 10 != int(number[14]):
        return WRONG_CHECK
    return Parsed((Document(DocumentType.FOREIGN_PERMANENT_RESIDENT_ID, number, ""),), True)


# --------------------------------------------------------------------------------------------------------------------
# Readers: normalised ASCII number, normalised country, today -> Parsed | Invalid

_new: Final = tuple.__new__  # a third of the time of a NamedTuple's own constructor
_Reader = Callable[[str, str, int], Parsed | Invalid]


def _resident(number: str, country: str, today: int) -> Parsed | Invalid:
    if len(number) == 18:
        return _read_18(number, today)
    return _read_15(number, today) if len(number) == 15 else BAD_RESIDENT


def _permit(number: str, country: str, today: int) -> Parsed | Invalid:
    return _read_18(number, today) if len(number) == 18 else BAD_PERMIT


def _foreigner(number: str, country: str, today: int) -> Parsed | Invalid:
    return _read_18(number, today) if len(number) == 18 else _read_old_foreigner(number)


def _by_form(kind: DocumentType, pattern: str, refusal: Invalid, keep: int = MAX_LENGTH) -> _Reader:
    """A reader for a type without check character; `keep`: leading characters that count, the rest is a suffix."""
    fits = re.compile(pattern, re.ASCII).fullmatch

    def read(number: str, country: str, today: int) -> Parsed | Invalid:
        return Parsed((Document(kind, number[:keep], ""),), True) if fits(number) else refusal

    return read


_X_MASK: Final = "XXXX"  # a row of crosses passes for letters where no check character tells
_FOREIGN_PASSPORT: Final = re.compile(r"[0-9A-Z]{5,15}", re.ASCII)


def _foreign_passport(number: str, country: str, today: int) -> Parsed | Invalid:
    """Country and number together are the key: the same number exists in many countries."""
    if not _FOREIGN_PASSPORT.fullmatch(number):
        return BAD_FOREIGN_PASSPORT
    if _X_MASK in number:
        return MASKED
    if country in ("CHN", "HKG", "MAC"):
        return HOME_COUNTRY
    if not is_alpha_3(country):
        return BAD_COUNTRY
    return _new(Parsed, ((_new(Document, (DocumentType.FOREIGN_PASSPORT, number, country)),), True))


_CREDIT_CODE: Final = re.compile(r"[1-9ANY][1-9]\d{6}[0-9A-HJ-NP-RTUW-Y]{10}", re.ASCII)
_CREDIT_VALUES: Final = {char: value for value, char in enumerate("0123456789ABCDEFGHJKLMNPQRTUWXY")}
_CREDIT_WEIGHTS: Final = (1, 3, 9, 27, 19, 26, 16, 17, 20, 29, 25, 13, 8, 24, 10, 30, 28)


def _credit_code(number: str, country: str, today: int) -> Parsed | Invalid:
    """GB 32100, MOD 31. The inner organisation code's own check is not looked at: codes with a wrong one are in use."""
    if not _CREDIT_CODE.fullmatch(number):
        return BAD_CREDIT_CODE
    total = sum(_CREDIT_VALUES[char] * weight for char, weight in zip(number, _CREDIT_WEIGHTS, strict=False))
    # The outer mod turns 31 into 0: without it every code whose check is 0 would be refused.
    if -total % 31 != _CREDIT_VALUES[number[17]]:
        return WRONG_CHECK
    return Parsed((Document(DocumentType.UNIFIED_SOCIAL_CREDIT_CODE, number, ""),), True)


_ORGANISATION: Final = re.compile(r"[0-9A-Z]{8}[0-9X]", re.ASCII)


def _organisation(number: str, country: str, today: int) -> Parsed | Invalid:
    """GB 11714, MOD 11."""
    if not _ORGANISATION.fullmatch(number):
        return BAD_ORGANISATION
    total = sum(int(char, 36) * weight for char, weight in zip(number, (3, 7, 9, 10, 5, 8, 4, 2), strict=False))
    if "0123456789X"[-total % 11] != number[8]:
        return WRONG_CHECK
    return Parsed((Document(DocumentType.ORGANISATION_CODE, number, ""),), True)


_passport: Final = _by_form(
    DocumentType.PRC_PASSPORT,
    r"E\d{8}|E[A-HJ-NP-Z]\d{7}|G\d{8}|1[45]\d{7}|(?:DE|SE|PE)\d{7}|\d{7,8}",  # official ones: with or without a dot
    BAD_PASSPORT,
)
# Hong Kong writes nine places in the machine-readable zone, so a second letter leaves seven digits as well as eight.
_sar_passport: Final = _by_form(
    DocumentType.HK_MACAU_PASSPORT, r"K[A-Z]?\d{8}|K[A-HJ-NP-Z]\d{7}|H\d{8}|M[AB]\d{7}", BAD_SAR_PASSPORT
)
# The last two of eleven characters count renewals. A second letter is seen in public patterns; O and I are left out,
# where they would hide a misread digit.
_hk_permit: Final = _by_form(
    DocumentType.HK_MACAU_TRAVEL_PERMIT, r"[HM]\d{8}(?:\d{2})?|[HM][A-HJ-NP-Z]\d{6,7}", BAD_HK_PERMIT, keep=9
)
_taiwan_permit: Final = _by_form(
    DocumentType.TAIWAN_TRAVEL_PERMIT, r"\d{8}|\d{10}(?:\([A-Z]\)|[A-Z])?", BAD_TAIWAN_PERMIT, keep=10
)
_mainland_permit: Final = _by_form(
    DocumentType.MAINLAND_TRAVEL_PERMIT, r"[CW]\d{8}|C[A-HJ-NP-Z]\d{7}", BAD_MAINLAND_PERMIT
)
_OPAQUE: Final = re.compile(rf"[0-9A-Z〇㐀-䶿一-鿿]{{1,{MAX_LENGTH}}}")


def _opaque(number: str, country: str, today: int) -> Parsed | Invalid:
    """Military papers, household books, seaman's books: no known form, so only an equal text of this type matches."""
    if not _OPAQUE.fullmatch(number):
        return BAD_OPAQUE
    return MASKED if _X_MASK in number else Parsed((Document(DocumentType.OTHER, number, ""),), True)


def _undeclared(number: str, country: str, today: int) -> Parsed | Invalid:
    """Every type that fits. OTHER fits everything and says nothing, so it must be declared."""
    found: list[Parsed] = []
    refusal = NO_TYPE_FITS
    for kind, read in _UNDECLARED:
        if kind is DocumentType.FOREIGN_PASSPORT and not country:
            continue
        result = read(number, country, today)
        if isinstance(result, Parsed):
            found.append(result)
        # Of several refusals the most telling: of a form that fits, but for organisation codes, where anything fits.
        elif result.fault > refusal.fault and kind is not DocumentType.ORGANISATION_CODE:
            refusal = result
    if not found:
        return refusal
    if len(found) == 1:
        return found[0]
    return Parsed(tuple(result.documents[0] for result in found), True)


_READERS: Final[dict[int, _Reader]] = {
    DocumentType.UNSPECIFIED: _undeclared,
    DocumentType.RESIDENT_ID: _resident,
    DocumentType.HMT_RESIDENCE_PERMIT: _permit,
    DocumentType.FOREIGN_PERMANENT_RESIDENT_ID: _foreigner,
    DocumentType.PRC_PASSPORT: _passport,
    DocumentType.HK_MACAU_PASSPORT: _sar_passport,
    DocumentType.FOREIGN_PASSPORT: _foreign_passport,
    DocumentType.HK_MACAU_TRAVEL_PERMIT: _hk_permit,
    DocumentType.TAIWAN_TRAVEL_PERMIT: _taiwan_permit,
    DocumentType.MAINLAND_TRAVEL_PERMIT: _mainland_permit,
    DocumentType.UNIFIED_SOCIAL_CREDIT_CODE: _credit_code,
    DocumentType.ORGANISATION_CODE: _organisation,
    DocumentType.OTHER: _opaque,
}
# The resident's reader reads the whole 18-digit family; the foreigner's adds only its old card.
_UNDECLARED: Final[tuple[tuple[DocumentType, _Reader], ...]] = (
    (DocumentType.RESIDENT_ID, _resident),
    (DocumentType.FOREIGN_PERMANENT_RESIDENT_ID, lambda number, country, today: _read_old_foreigner(number)),
    *((kind, _READERS[kind]) for kind in DocumentType if 4 <= kind <= 11),
)

# --------------------------------------------------------------------------------------------------------------------
# Damage that normalising would hide or a reader would only call "not the form"

# Signs that stand for hidden characters, and rows of what normalising would drop: the rest could pass for a number.
_MASK: Final = re.compile(r"[*＊✱●•■□◯○#＃?？※…]|[-‐-―－_]{3}|[.．·‧]{3}")
_EXPONENT: Final = re.compile(r"\d+E\+?\d{1,3}", re.ASCII)
_LOOK_ALIKES: Final = (str.maketrans("OI", "01"), str.maketrans("OILB", "0118"))  # L and B belong in credit codes


def _explain(number: str, country: str, today: int, read: _Reader, refusal: Invalid) -> Invalid:
    """A refusal for its form, put as precisely as the number allows. Repairs are tried to explain, never returned."""
    if number[0] in "'’‘`":
        return APOSTROPHE
    if not number.isascii():
        return refusal
    if _EXPONENT.fullmatch(number):
        return EXPONENT
    if _X_MASK in number:
        return MASKED
    for look_alikes in _LOOK_ALIKES:
        repaired = number.translate(look_alikes)
        if repaired != number:
            result = read(repaired, country, today)
            if isinstance(result, Parsed) or result.fault is not Fault.BAD_FORMAT:
                return LOOK_ALIKE
    return refusal


def _parse_slowly(kind: int, raw: str, raw_country: str, today: int) -> Parsed | Invalid:
    if len(raw) > MAX_LENGTH or len(raw_country) > MAX_LENGTH:
        return TOO_LONG
    read = _READERS.get(kind)
    if read is None:
        return UNKNOWN_TYPE
    if not raw.isalnum() and _MASK.search(raw):  # no sign of a mask is a letter or a digit
        return MASKED
    number = normalise(raw)
    if not number:
        return EMPTY
    country = normalise(raw_country)
    # Readers of numbers see ASCII only: to `int` and `isdigit` the digits of forty other scripts are digits too.
    readable = number.isascii() or kind == DocumentType.OTHER
    result = read(number, country, today) if readable else FOREIGN_SCRIPT
    if isinstance(result, Parsed) or result.fault is not Fault.BAD_FORMAT:
        return result
    return _explain(number, country, today, read, result)


_FOREIGNER: Final = DocumentType.FOREIGN_PERMANENT_RESIDENT_ID


def parse(type: int, number: str, country: str, today: int) -> Parsed | Invalid:  # noqa: A002 # the contract's word
    """The canonical documents a number may stand for, or why it stands for none. Never raises.

    `type`: a DocumentType, UNSPECIFIED = not known; `country`: ISO 3166-1 alpha-3, read for foreign passports only;
    `today`: the date in Asia/Shanghai as yyyymmdd.
    """
    if 0 < type < 4 and len(number) == 18:
        year, day = _YEARS.get(number[6:10]), _CLEAN_DAYS.get(number[10:14])
        sequence = _CLEAN_SEQUENCES.get(number[14:17])
        if year is not None and day is not None and sequence is not None:
            kind, area = _area(number[:6])
            date = year + day
            if kind and date >> 5 <= today and _CHECK[(area + (date & 31) + sequence) % 11] == number[17]:
                return _new(Parsed, ((_new(Document, (kind, number, "")),), kind is _FOREIGNER))
    return _parse_slowly(type, number, country, today)


def birth_date(document: Document) -> int | None:
    """The holder's birth date as yyyymmdd where the number carries it with its century, else None."""
    if document.type <= DocumentType.FOREIGN_PERMANENT_RESIDENT_ID and len(document.number) == 18:
        return int(document.number[6:14])
    return None
