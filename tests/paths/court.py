"""A court that may write anything in sequence, and the oracle of who is barred by it, computed from sets of lines.

A removal, revocation or exemption counts once an import that held it has ended; an addition counts once such an import
also left no gap before it. Nothing else is remembered: what the lines say is said here once more, in a few words.
"""

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st

from checker.core.purchase import Flight, Lodging, Purchase
from tests.paths.people import COURT, NAME, resident_id

PEOPLE = [resident_id(number) for number in range(4)]
MEASURES = ("M1", "M2")
PURCHASES: dict[str, Purchase] = {"FLIGHT": Flight(), "HOTEL": Lodging(2)}

_who = st.lists(st.sampled_from(range(4)), unique=True, min_size=1, max_size=3)
_adds = st.fixed_dictionaries(
    {
        "op": st.just("add"),
        "measure_id": st.sampled_from(MEASURES),
        "who": _who,
        "period": st.sampled_from(["now", "now", "now", "ended", "to come"]),
        "items": st.sampled_from([None, None, ["FLIGHT"], ["HOTEL", "GOLF"]]),
    }
)
_lifts = st.fixed_dictionaries(
    {"op": st.sampled_from(["remove", "revoke"]), "measure_id": st.sampled_from(MEASURES)},
)
_exempts = st.fixed_dictionaries(
    {
        "op": st.just("exempt"),
        "measure_id": st.sampled_from(MEASURES),
        "who": st.one_of(st.just([]), _who),
        "period": st.sampled_from(["now", "to come"]),
    }
)
lines = st.lists(st.one_of(_adds, _adds, _lifts, _exempts), min_size=1, max_size=5)
"""What a court writes at once."""

_VALID = {"now": ("2020-01-01", "2098-12-31"), "ended": ("2020-01-01", "2021-01-01"), "to come": ("2099-01-01", None)}


class Known(NamedTuple):
    """A line that an import has brought."""

    sequence: int
    line: dict[str, Any]


class Court:
    """What it has written: line n has sequence n + 1; the first is a heartbeat."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, sequence: int) -> dict[str, Any]:
        return self.lines[sequence - 1]

    def write(self, time: str, *written: dict[str, Any]) -> None:
        """Write these lines; `time`: as the feed says it."""
        self.lines += [line | {"time": time} for line in written]

    def feed(self, path: Path, sequences: Iterable[int]) -> Path:
        """A feed file of these lines."""
        path.write_text("\n".join(json.dumps(self._feed_line(sequence)) for sequence in sequences), "utf-8")
        return path

    def _feed_line(self, sequence: int) -> dict[str, Any]:
        written = self[sequence]
        line = {"seq": sequence, "time": written["time"], "op": written["op"]}
        if "measure_id" in written:
            line["measure_id"] = written["measure_id"]
        if written["op"] == "add":
            first, last = _VALID[written["period"]]
            line |= {"kind": "order", "court": COURT, "case_number": f"（2024）浙0102执{sequence}号"}
            line |= {"effective_from": first} | ({"effective_to": last} if last else {})
            line |= {"items": written["items"]} if written["items"] else {}
            line["subjects"] = [
                {"role": "DEBTOR_PERSON", "name": NAME, "documents": [_paper(one)]} for one in written["who"]
            ]
        elif written["op"] == "exempt":
            first, last = _VALID[written["period"]]
            window = {"kind": "OTHER", "valid_from": first, "valid_to": last or "2099-12-31"}
            line["exemption"] = window | (
                {"documents": [_paper(one) for one in written["who"]]} if written["who"] else {}
            )
        return line

    def standing(self, counted: Collection[int]) -> list[Known]:
        """The addition of each measure that nothing has lifted or replaced, in force or not."""
        found = []
        for measure in MEASURES:
            known = self.about(measure, counted)
            newest = [one for one in known if one.line["op"] == "add"][-1:]
            found += [one for one in newest if not any(is_lift(line) and at > one.sequence for at, line in known)]
        return found

    def barring(self, person: int, item: str, counted: Collection[int]) -> list[int]:
        """The sequences of the additions that bar this person from this, now."""
        return [
            known.sequence
            for known in self.standing(counted)
            if reaches(known.line, self.about(known.line["measure_id"], counted), person, item)
        ]

    def about(self, measure: str, sequences: Iterable[int]) -> list[Known]:
        """Those of the lines that are about a measure, in sequence."""
        known = [Known(one, self[one]) for one in sorted(sequences)]
        return [one for one in known if one.line.get("measure_id") == measure]


def reaches(addition: dict[str, Any], known: list[Known], person: int, item: str) -> bool:
    """Whether an addition bars this, as long as nothing lifts it. `known`: what was said of its measure."""
    exempt = any(
        line["op"] == "exempt" and line["period"] == "now" and (not line["who"] or person in line["who"])
        for _, line in known
    )
    covers = addition["items"] is None or item in addition["items"]
    return person in addition["who"] and addition["period"] == "now" and covers and not exempt


def is_lift(line: dict[str, Any]) -> bool:
    """Whether a line ends its measure."""
    return line["op"] in ("remove", "revoke")


def _paper(person: int) -> dict[str, str]:
    return {"type": "RESIDENT_ID", "number": PEOPLE[person]}
