"""Claims about the made feed: equal bytes, synthetic numbers only, a true manifest, facts and answers that agree."""

import base64
import csv
import hashlib
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from loadtest import expectations as law
from loadtest.make_feed import Row, make_feed, purchase_fields, read_people
from loadtest.people import DOCUMENT_TYPES

AS_OF = datetime.fromisoformat("2025-06-01T12:00:00+08:00")
PEOPLE, SEED, BROKEN = 6_000, 11, 2 * len(law.BROKEN_LINES)
FILES = ("feed.jsonl", "feed.jsonl.manifest.json", "people.csv", "broken.csv")
PRINTED = {
    number for _, number, *_ in (*law.NO_DOCUMENTS, *law.STRANGE_BUT_VALID) if not number.startswith("4.40524")
} | {"KAZ110090123105", "USA110080010108", "CAN440085022910"}  # domain.md §3 prints them


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a feed of 6 000 people, two broken lines of each kind among them."""
    out = tmp_path_factory.mktemp("made")
    make_feed(out, PEOPLE, SEED, AS_OF, broken=BROKEN)
    return out


@pytest.fixture(scope="module")
def rows(made: Path) -> list[Row]:
    """people.csv of that folder."""
    return list(read_people(made / "people.csv"))


@pytest.fixture(scope="module")
def broken(made: Path) -> dict[int, tuple[str, str]]:
    """broken.csv of that folder: line number -> cause, field."""
    with (made / "broken.csv").open(encoding="utf-8", newline="") as file:
        return {int(entry["line"]): (entry["cause"], entry["field"]) for entry in csv.DictReader(file)}


@pytest.fixture(scope="module")
def lines(made: Path, broken: dict[int, tuple[str, str]]) -> list[dict[str, Any]]:
    """The good lines of the feed."""
    raw = (made / "feed.jsonl").read_bytes().splitlines()
    return [json.loads(line) for number, line in enumerate(raw, 1) if number not in broken]


def _plain(number: str) -> str:
    """A number as typed, without the mess."""
    text = unicodedata.normalize("NFKC", number).upper().translate({ord("Х"): "X"})
    return "".join(char for char in text if char.isascii() and (char.isalnum() or char == "*"))


_SYNTHETIC = {
    "RESIDENT_ID": r"\d{6}18\d{9}[\dX]|710000\d{11}[\dX]|710000\d{9}|\d{6}18\d{2}\*{4}\d{3}[\dX]|\d{6}18\d{9}",
    "HMT_RESIDENCE_PERMIT": r"8[123]000018\d{9}[\dX]",
    "FOREIGN_PERMANENT_RESIDENT_ID": r"9\d{5}18\d{9}[\dX]",
    "PRC_PASSPORT": r"E0000\d{4}",
    "HK_MACAU_PASSPORT": r"H0000\d{4}",
    "FOREIGN_PASSPORT": r"XT\d{8}",
    "HK_MACAU_TRAVEL_PERMIT": r"[HM]0000\d{4}(\d\d)?",
    "TAIWAN_TRAVEL_PERMIT": r"0000\d{4}",
    "MAINLAND_TRAVEL_PERMIT": r"C0000\d{4}",
    "UNIFIED_SOCIAL_CREDIT_CODE": r"[0-9ANY][1-9]710000[0-9A-Z]{10}",
    "ORGANISATION_CODE": r"0000[0-9A-Z]{5}",
    "OTHER": r"TEST0000\d{4}",
}
_ANY_SYNTHETIC = "|".join(_SYNTHETIC.values())
_REAL_LOOKING = re.compile(r"(?<![0-9A-Z])[1-8]\d{5}(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])\d{3}[\dX]")


def _papers(value: object) -> Iterator[dict[str, str]]:
    if isinstance(value, dict):
        if "number" in value:
            yield value
        for inner in value.values():
            yield from _papers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _papers(inner)


def _violations(folder: Path) -> list[str]:
    """Every number in the folder's files that might belong to somebody."""
    found = []
    pairs: list[tuple[str, str, str]] = []
    for raw in (folder / "feed.jsonl").read_bytes().splitlines():
        try:
            pairs += [(p["type"], p["number"], p.get("country", "")) for p in _papers(json.loads(raw))]
        except ValueError:
            continue  # a broken line on purpose: the plain search below reads it
    pairs += [(row.document_type, row.number, row.country) for row in read_people(folder / "people.csv")]
    printed = {_plain(number) for number in PRINTED}
    for kind, number, country in pairs:
        plain = _plain(number)
        swapped = {"RESIDENT_ID", "HMT_RESIDENCE_PERMIT"}  # the number tells its type, callers mix the two up
        pattern = _SYNTHETIC.get(kind, _ANY_SYNTHETIC)
        if kind in swapped:
            pattern = "|".join(_SYNTHETIC[one] for one in sorted(swapped))
        synthetic = re.fullmatch(pattern, plain) and (kind != "FOREIGN_PASSPORT" or country in ("XAA", ""))
        if not synthetic and plain not in printed and number != "4.40524E+17":
            found.append(f"{kind} {number}")
    for file in sorted(folder.iterdir()):
        text = unicodedata.normalize("NFKC", file.read_bytes().decode(errors="replace"))
        found += [
            hit for hit in _REAL_LOOKING.findall(text) if not hit.startswith(("710000", "810000", "830000"))
            and hit not in printed
        ]  # fmt: skip
    return found


def test_every_number_is_synthetic(made: Path) -> None:
    """No number in any file lies outside the ranges nobody real can have."""
    assert _violations(made) == []


@pytest.mark.parametrize(
    ("kind", "number"), [("RESIDENT_ID", "440524" + "198001010013"), ("PRC_PASSPORT", "E1" + "2345678")]
)
def test_a_planted_number_is_found(tmp_path: Path, kind: str, number: str) -> None:
    """The search of the test above finds a number that could be somebody's."""
    make_feed(tmp_path, 10, 1, AS_OF)
    with (tmp_path / "people.csv").open("a", encoding="utf-8") as file:
        file.write(f"p9,{kind},{number},,,flight,,ALLOWED,NOT_LISTED,planted\n")

    assert any(number in hit for hit in _violations(tmp_path))


def test_equal_arguments_give_equal_bytes(made: Path, tmp_path: Path) -> None:
    """The same people, seed, time and broken lines make the same four files, byte for byte."""
    make_feed(tmp_path, PEOPLE, SEED, AS_OF, broken=BROKEN)

    for name in FILES:
        assert (tmp_path / name).read_bytes() == (made / name).read_bytes()


def test_the_same_instant_in_another_zone_gives_equal_bytes(tmp_path: Path) -> None:
    """Only the instant counts, not the zone it is written in, nor fractions of its second."""
    for name, moment in (("a", "2025-06-01T02:00:00+08:00"), ("b", "2025-05-31T18:00:00.75+00:00")):
        (tmp_path / name).mkdir()
        make_feed(tmp_path / name, 500, 1, datetime.fromisoformat(moment))

    for name in FILES[:3]:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(("seed", "day"), [(SEED + 1, 1), (SEED, 2)])
def test_another_seed_or_day_gives_other_bytes(made: Path, tmp_path: Path, seed: int, day: int) -> None:
    """Seed and time both matter, to the feed and to the questions."""
    make_feed(tmp_path, PEOPLE, seed, AS_OF.replace(day=day), broken=BROKEN)

    for name in FILES[:3]:
        assert (tmp_path / name).read_bytes() != (made / name).read_bytes()


def test_sequences_have_no_gap(lines: list[dict[str, Any]], broken: dict[int, tuple[str, str]]) -> None:
    """Good and broken lines together are 1, 2, 3, ...; the last is a heartbeat."""
    sequences = sorted([*(line["seq"] for line in lines), *broken])

    assert sequences == list(range(1, len(sequences) + 1))
    assert lines[-1]["op"] == "heartbeat"
    assert lines[-1]["seq"] == sequences[-1]


def test_the_feed_is_fresh(lines: list[dict[str, Any]]) -> None:
    """Times never run backwards, start at most ten minutes before as-of, and end at it."""
    times = [datetime.fromisoformat(line["time"]) for line in lines]

    assert times == sorted(times)
    assert (AS_OF - times[0]).total_seconds() <= 600
    assert times[-1] == AS_OF


def test_the_manifest_names_range_count_and_hash(made: Path) -> None:
    """The manifest's SHA-256, count and range are those of the file beside it; unsigned, it has no signature."""
    feed = (made / "feed.jsonl").read_bytes()
    manifest = json.loads((made / "feed.jsonl.manifest.json").read_bytes())

    count = len(feed.splitlines())
    assert manifest == {
        "feed": "feed.jsonl",
        "first_sequence": 1,
        "last_sequence": count,
        "count": count,
        "sha256": hashlib.sha256(feed).hexdigest(),
        "court": "合成法院",
    }


def test_the_signature_covers_the_whole_manifest(tmp_path: Path) -> None:
    """The signature verifies over the canonical JSON without itself, with the court's public key."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    make_feed(tmp_path, 50, 1, AS_OF, court="杭州", key=key)
    manifest = json.loads((tmp_path / "feed.jsonl.manifest.json").read_bytes())
    signature = base64.b64decode(manifest.pop("signature"), validate=True)

    signed = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    key.public_key().verify(signature, signed)
    assert manifest["court"] == "杭州"


def test_everything_occurs(lines: list[dict[str, Any]], rows: list[Row]) -> None:
    """Each op, kind, role, item, document type, exemption, purchase kind, outcome and reason occurs."""
    subjects = [subject for line in lines for subject in line.get("subjects", ())]
    exemptions = [line["exemption"] for line in lines if line["op"] == "exempt"]

    assert {line["op"] for line in lines} == {"add", "remove", "revoke", "exempt", "heartbeat"}
    assert {line["kind"] for line in lines if line["op"] == "add"} == {"list", "order"}
    assert {subject["role"] for subject in subjects} == {
        "DEBTOR_PERSON",
        "DEBTOR_ENTITY",
        "LEGAL_REP",
        "PRINCIPAL",
        "DIRECTLY_RESPONSIBLE",
        "CONTROLLER",
    }
    assert {item for line in lines for item in line.get("items", ())} == set(law.CATEGORIES)
    assert {paper["type"] for paper in _papers(subjects)} == set(DOCUMENT_TYPES)
    assert {exemption["kind"] for exemption in exemptions} == {
        "TEMPORARY_LIFT",
        "PRIVATE_CONSUMPTION",
        "SINGLE_TRIP",
        "NECESSITY",
    }
    assert any("documents" in exemption for exemption in exemptions)
    assert any("birth_date" in subject for subject in subjects)
    assert any("effective_to" in line for line in lines)
    assert {row.document_type for row in rows} == {*DOCUMENT_TYPES, "UNSPECIFIED"}
    assert {next(iter(purchase_fields(row.purchase))) for row in rows} == set(law.KINDS)
    assert {row.outcome for row in rows} == {"ALLOWED", "BARRED", "UNKNOWN", "INVALID_DOCUMENT"}
    assert {reason for row in rows for reason in row.reasons} == {
        *(word for word, _ in law.STRONGEST_FIRST),
        "PURCHASE_NOT_RESTRICTED",
        "BAD_FORMAT",
        "BAD_CHECKSUM",
        "BAD_DATE",
    }


def test_every_purchase_and_every_bad_number_is_asked(rows: list[Row]) -> None:
    """With a few thousand people every row of the purchase tables and every non-document has been asked about."""
    assert {row.purchase for row in rows} == {purchase.text for purchase in law.PURCHASES}
    assert {number for _, number, *_ in law.NO_DOCUMENTS} <= {row.number for row in rows}
    bad = {number for _, number, *_ in law.NO_DOCUMENTS}
    assert any(row.outcome == "ALLOWED" and row.number in bad for row in rows)


def test_related_persons_stand_in_orders_only(lines: list[dict[str, Any]]) -> None:
    """No list record names anyone but the debtor (GoodFaith 16)."""
    for line in lines:
        if line["op"] == "add" and line["kind"] == "list":
            assert {subject["role"] for subject in line["subjects"]} <= {"DEBTOR_PERSON", "DEBTOR_ENTITY"}


def test_people_are_counted_and_half_are_in_a_measure(rows: list[Row], lines: list[dict[str, Any]]) -> None:
    """Everyone asked for is asked about, in order; between two and three fifths stand in some measure."""
    asked = list(dict.fromkeys(row.person for row in rows))
    numbered = {_plain(paper["number"]) for line in lines for paper in _papers(line)}
    bound = {row.person for row in rows if _plain(row.number) in numbered}

    assert asked == [f"p{number:06d}" for number in range(1, PEOPLE + 1)]
    assert 0.4 <= len(bound) / PEOPLE <= 0.6


_MESSY = re.compile(r"(H|M)0000\d{4}\d\d")


def _key(number: str) -> str:
    """One spelling for each number: upgraded from 15 digits, without a renewal count."""
    plain = _plain(number)
    if _MESSY.fullmatch(plain):
        return plain[:9]
    if len(plain) == 15 and plain.startswith("710000"):
        return plain[:6] + "19" + plain[6:]
    if re.fullmatch(r"71000019\d{9}[\dX]", plain):
        return plain[:17]
    return plain


def _replay(lines: list[dict[str, Any]]) -> tuple[dict[str, list[dict[str, Any]]], set[str]]:
    """What stands in the end, by number, read from the feed alone; and every number ever bound."""
    measures: dict[str, dict[str, Any]] = {}
    ever = set()
    for line in lines:
        if line["op"] == "add":
            measures[line["measure_id"]] = line
            ever |= {_key(paper["number"]) for paper in _papers(line)}
        elif line["op"] in ("remove", "revoke"):
            measures.pop(line["measure_id"], None)
    standing = defaultdict(list)
    for line in measures.values():
        for paper in _papers(line):
            standing[_key(paper["number"])].append(line)
    return standing, ever


def test_the_answers_follow_from_the_feed(rows: list[Row], lines: list[dict[str, Any]]) -> None:
    """Read from the feed alone: whoever is BARRED is bound at the end, whoever is lifted or not listed is not."""
    standing, ever = _replay(lines)

    for row in rows:
        bound = standing[_key(row.number)]
        if row.outcome == "BARRED" or row.reason in ("NAME_REQUIRED", "EXEMPTED", "OUT_OF_SCOPE"):
            assert bound, row
        if row.reason == "NOT_IN_FORCE":
            assert all("effective_to" in line or line["effective_from"] > "2025-06-01" for line in bound), row
        if row.reason == "NOT_IN_FORCE|NOT_LISTED":
            assert not bound, row
            assert _key(row.number) in ever, row
        if row.reason == "NOT_LISTED" and "another's name" not in row.why:
            assert _key(row.number) not in ever, row


def test_barred_means_in_force_for_a_day_more(rows: list[Row], lines: list[dict[str, Any]]) -> None:
    """Every BARRED row rests on a measure begun by today and with a last day after today: no answer flips tonight."""
    standing, _ = _replay(lines)

    for row in rows:
        if row.outcome == "BARRED":
            assert any(
                line["effective_from"][:10] <= "2025-06-01" < line.get("effective_to", "9999")
                for line in standing[_key(row.number)]
            ), row


def test_whoever_needs_a_name_and_is_barred_gave_one(rows: list[Row]) -> None:
    """BARRED without a name occurs for the 18 digits of resident IDs and residence permits alone."""
    nameless = [row for row in rows if row.outcome == "BARRED" and not row.name]

    assert nameless
    for row in nameless:
        assert row.document_type in law.NAME_MAY_BE_ABSENT
        assert len(_plain(row.number)) == 18


def test_only_the_asked_lines_are_broken(made: Path, broken: dict[int, tuple[str, str]]) -> None:
    """broken.csv names as many lines as asked for, twice each kind, each spoiled where it says."""
    raw = (made / "feed.jsonl").read_bytes().splitlines()

    assert len(broken) == BROKEN
    assert sorted(broken.values()) == sorted([(cause, place) for _, cause, place in law.BROKEN_LINES] * 2)
    for number, (cause, place) in broken.items():
        if cause == "BAD_JSON":
            with pytest.raises(ValueError, match=r"codec|delimiter|Unterminated|Expecting"):
                json.loads(raw[number - 1].decode())
        elif cause in ("MISSING_FIELD", "MISSING_CASE"):
            value: Any = json.loads(raw[number - 1])
            *parents, name = re.findall(r"[a-z_]+|\d+", place)
            for parent in parents:
                value = value[int(parent) if parent.isdigit() else parent]
            assert name not in value


def test_a_refused_line_binds_nobody(made: Path, rows: list[Row], broken: dict[int, tuple[str, str]]) -> None:
    """Most people named in a refused line are asked about, and nobody expects them to be barred."""
    raw = (made / "feed.jsonl").read_bytes().splitlines()
    named = {
        paper["number"]
        for number, (cause, _) in broken.items()
        if cause not in ("BAD_JSON", "NOT_AN_OBJECT")
        for paper in _papers(json.loads(raw[number - 1]))
    }
    about = [row for row in rows if row.number in named]

    assert len(about) > BROKEN // 3
    assert {row.outcome for row in about} <= {"ALLOWED", "INVALID_DOCUMENT"}


@pytest.mark.parametrize("people", [1, 2, 7, 60])
def test_a_handful_of_people_is_enough(tmp_path: Path, people: int) -> None:
    """Small numbers work too, broken lines included, and count exactly."""
    summary = make_feed(tmp_path, people, 3, AS_OF, broken=people)

    assert summary.people == people == len({row.person for row in read_people(tmp_path / "people.csv")})
    assert summary.broken == people


def test_a_manifest_never_stands_beside_another_feed(tmp_path: Path) -> None:
    """Made again into the same folder, all files are the new ones, and broken.csv goes when nothing is broken."""
    make_feed(tmp_path, 50, 1, AS_OF, broken=5)
    make_feed(tmp_path, 50, 2, AS_OF)

    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(FILES[:3])
    manifest = json.loads((tmp_path / "feed.jsonl.manifest.json").read_bytes())
    assert manifest["sha256"] == hashlib.sha256((tmp_path / "feed.jsonl").read_bytes()).hexdigest()


def test_another_file_is_not_read_as_people(tmp_path: Path) -> None:
    """A csv with other columns is refused by name, not misread."""
    (tmp_path / "people.csv").write_text("a,b\n1,2\n")

    with pytest.raises(ValueError, match=r"not a people\.csv of this version"):
        next(read_people(tmp_path / "people.csv"))
