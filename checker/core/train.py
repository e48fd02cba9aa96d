"""Reading a train code and a seat as tickets print them (domain.md §1.3). What cannot be read is UNKNOWN, never G."""

import re
import unicodedata
from collections.abc import Mapping
from typing import Final

_CODE: Final = re.compile(r"(?P<prefix>[GDCZTKYLS]?)(?P<number>\d{1,4})(?:/\d{1,4})?", re.ASCII)

G, EMU, OTHER, UNREADABLE = "G", "EMU", "OTHER", "UNREADABLE"
UNKNOWN_SEAT, STANDING = "UNKNOWN", "STANDING"


def _squeeze(text: str) -> str:
    """Upper case without width, spaces or invisible marks: those would make a G train one that nobody can read."""
    text = "".join(unicodedata.normalize("NFKC", text).split()).upper()
    return text if text.isascii() else "".join([char for char in text if unicodedata.category(char) != "Cf"])


def train_class(train_code: str, *, is_emu: bool) -> str:
    """G, EMU, OTHER or UNREADABLE. The prefix decides for G even if a slow train runs it."""
    match = _CODE.fullmatch(_squeeze(train_code).removesuffix("次"))
    if match is None:
        return UNREADABLE
    prefix = match["prefix"]
    if prefix == "G":
        return G
    return EMU if is_emu or prefix in ("D", "C") else OTHER


class SeatTable:
    """Seat code and Chinese name -> seat group.

    `names`: code -> name -> group; `alone`: code -> group of a code sent without its name.
    """

    __slots__ = ("_alone", "_by_name", "_names")

    def __init__(self, names: Mapping[str, Mapping[str, str]], alone: Mapping[str, str]) -> None:
        self._names = names
        self._alone = alone
        groups: dict[str, set[str]] = {}
        for table in names.values():
            for name, group in table.items():
                groups.setdefault(name, set()).add(group)
        self._by_name = {name: found.pop() for name, found in groups.items() if len(found) == 1}

    def group(self, seat_code: str, seat_name: str, *, is_standing: bool) -> str:
        """The seat's group; UNKNOWN when code and name disagree or neither says enough."""
        code, name = _squeeze(seat_code), _squeeze(seat_name)
        if is_standing or name == "无座":
            return STANDING  # sold under other seats' codes
        if not code:
            return self._by_name.get(name, UNKNOWN_SEAT)
        if code not in self._names:
            return UNKNOWN_SEAT
        if not name:
            return self._alone.get(code, UNKNOWN_SEAT)
        return self._names[code].get(name, UNKNOWN_SEAT)
