"""The list path as an operator runs it: signed feeds, refused lines, killed imports, two importers, one index.

Every step is the console script itself; what came of it is asked of a running service, or read in the files it wrote.
"""

import asyncio
import csv
import json
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from checker import keys as key_files
from checker.index.base import IndexKey
from checker.index.embedded import Attachment, attach
from checker.index.urls import open_index
from loadtest import ask
from loadtest.make_feed import Row, read_people
from tests.paths.people import add, flight, heartbeat, remove, resident_id
from tests.paths.stand import Caller, Checker, Ran, Stand, aside

PEOPLE, BROKEN = 1_500, 64
COURT = "synthetic-court"
PATIENT = ("--index-timeout-ms", "10000")  # a busy machine is slow, which is not the claim here


class Person(NamedTuple):
    number: str
    measure: str


class Sent(NamedTuple):
    """A feed signed by a court, with broken lines in it, and what must come of it."""

    folder: Path
    court_key: Path
    rows: list[Row]

    @property
    def feed(self) -> Path:
        return self.folder / "feed.jsonl"


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Sent:
    """Made once; the tests import it into indexes of their own."""
    folder = tmp_path_factory.mktemp("sent")
    key = Ed25519PrivateKey.generate()
    signing, public = folder / "court.pem", folder / "court.pub"
    signing.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    maker = Stand(tmp_path_factory.mktemp("maker") / "centre")
    size = ("--people", str(PEOPLE), "--seed", "11", "--broken", str(BROKEN))
    made = maker.run("loadtest", "make-feed", *size, "--sign-with", signing, "--court", COURT, "--out", folder / "feed")
    assert made.code == 0, made.err
    return Sent(folder / "feed", public, list(read_people(folder / "feed" / "people.csv")))


@pytest.fixture(scope="module")
def centre(stand_of: Callable[..., Stand]) -> Stand:
    """An embedded index that holds nothing yet and trusts nobody."""
    stand = stand_of()
    make_key(stand)
    return stand


def make_key(stand: Stand) -> None:
    stand.state.mkdir(mode=0o700)
    assert stand.run("checker", "keys", "new", "--key-file", stand.key_file).code == 0


def trust(stand: Stand, sent: Sent) -> None:
    """From here on feeds signed by this court are accepted."""
    if not stand.key_file.exists():
        make_key(stand)
    trusted = stand.run("checker", "keys", "trust-court", COURT, sent.court_key, "--key-file", stand.key_file)
    assert trusted.code == 0, trusted.err


def importing(stand: Stand, *arguments: str | Path) -> Ran:
    return stand.run("checker", "import", *stand.where, *arguments)


def sequence(stand: Stand) -> int:
    """How far the feed is known, read from the index itself."""
    keys = key_files.load(stand.key_file).digest_key

    async def known() -> int:
        index = open_index(stand.index)
        try:
            await index.open(IndexKey(keys.key_id, keys.check_value), create=True)
            return (await index.head()).feed_sequence
        finally:
            await index.close()

    return asyncio.run(known())


def test_a_feed_nobody_trusted_has_signed_applies_nothing(centre: Stand, sent: Sent) -> None:
    """With --require-manifest, a stranger's feed and a trusted court's altered one leave an empty index empty."""
    stranger = importing(centre, "--require-manifest", sent.feed)
    assert stranger.code != 0
    assert "trust-court" in stranger.err
    trust(centre, sent)
    altered = centre.folder / "altered.jsonl"
    altered.write_bytes(sent.feed.read_bytes().replace(b'"op":"remove"', b'"op":"revoke"', 1))
    manifest = sent.feed.with_name("feed.jsonl.manifest.json").read_bytes()
    (centre.folder / "altered.jsonl.manifest.json").write_bytes(manifest.replace(b"feed.jsonl", b"altered.jsonl"))
    assert importing(centre, "--require-manifest", altered).code != 0
    missing = importing(centre, "--require-manifest", centre.feed("unsigned.jsonl", heartbeat(1)))
    assert missing.code != 0
    assert "manifest" in missing.err
    assert sequence(centre) == 0


def test_what_is_refused_is_named_line_by_line(centre: Stand, sent: Sent) -> None:
    """The trusted feed is applied; each of its broken lines is in the rejects file with its line, field and cause."""
    ran = importing(centre, "--require-manifest", "--json", sent.feed)
    assert ran.code == 1  # something was rejected
    summary = json.loads(ran.out)
    with (sent.folder / "broken.csv").open(encoding="utf-8", newline="") as file:
        expected = [(int(row["line"]), row["cause"], row["field"]) for row in csv.DictReader(file)]
    rejects = sent.feed.with_name("feed.jsonl.rejects.jsonl").read_text("utf-8").splitlines()
    found = [json.loads(line) for line in rejects]
    assert [(one["line"], one["cause"], one["path"]) for one in found] == expected
    assert summary["rejected"] == Counter(cause for _, cause, _ in expected)
    raw = sent.feed.read_bytes()
    assert all(raw[one["offset"] - 1 : one["offset"]] in (b"", b"\n") for one in found)
    assert raw.count(b"\n") == summary["lines"] == summary["feed_sequence"] == sequence(centre)


@pytest.fixture(scope="module")
def served(centre: Stand) -> Checker:
    """A worker over what was imported by then."""
    return centre.serve(*PATIENT)


def test_what_was_refused_binds_nobody_and_the_rest_holds(served: Checker, sent: Sent) -> None:
    """Asked of a service, every row is answered right, those about people named in refused lines among them."""
    assert ask.ask_all(served.address, sent.folder / "people.csv").wrong == []


def test_the_same_import_again_changes_no_answer(centre: Stand, served: Checker, sent: Sent) -> None:
    """The whole feed sent a second time, beside a running service, applies nothing and leaves every answer alone."""
    ran = importing(centre, "--require-manifest", "--json", sent.feed)
    assert ran.code == 1  # the same lines were rejected
    counts = json.loads(ran.out)["counts"]
    assert counts
    assert [outcomes.get("applied", 0) for outcomes in counts.values()] == [0] * len(counts)
    assert ask.ask_all(served.address, sent.folder / "people.csv").wrong == []
    assert served.stop() == 0


def test_a_second_importer_is_refused_by_name(centre: Stand) -> None:
    """While one importer holds the lease, `checker import` ends naming it, and applies nothing; afterwards it works."""
    keys = key_files.load(centre.key_file).digest_key
    known = sequence(centre)
    feed = centre.feed("next.jsonl", heartbeat(known + 1))

    async def hold() -> Ran:
        index = open_index(centre.index)
        try:
            await index.open(IndexKey(keys.key_id, keys.check_value), create=False)
            async with index.lease("the-night-shift"):
                ran: Ran = await aside(importing, centre, feed)
                return ran
        finally:
            await index.close()

    refused = asyncio.run(hold())
    assert refused.code not in (0, 2)
    assert "the-night-shift" in refused.err
    assert sequence(centre) == known
    assert importing(centre, feed).code == 0
    assert sequence(centre) == known + 1


def server_kept(stand: Stand) -> Attachment:
    """Attached to the index until the end of the block: its server is not started anew by each command."""
    assert stand.embedded is not None
    return attach(stand.embedded)


def dying(stand: Stand, fault: str, feed: Path) -> Ran:
    """`checker import` that ends by SIGKILL at a fault point."""
    stand.environment["CHECKER_FAULT_POINT"] = fault
    try:
        return importing(stand, feed)
    finally:
        del stand.environment["CHECKER_FAULT_POINT"]


FAULTS = (
    "importer.overtaking-applied:1",
    "importer.rejects-written:1",
    "index.after_measures:2",  # the second call of `apply`: the additions
    "index.after_records:2",
    "index.after_journal:2",
    "importer.batch-logged:1",
    "importer.head-advanced:1",
    "importer.finished:1",
)


def test_imports_killed_anywhere_and_run_again_end_right(stand: Stand, sent: Sent) -> None:
    """`checker import` killed at eight places, one after another in the same index, then run to its end: all is right.

    After each kill the feed is known no further than its lines are, and the index needs no repair by hand.
    """
    trust(stand, sent)
    known = [0]
    with server_kept(stand):
        for fault in FAULTS:
            died = dying(stand, fault, sent.feed)
            assert died.code == -signal.SIGKILL, (fault, died)
            known.append(sequence(stand))
        assert known == sorted(known)
        assert importing(stand, "--json", sent.feed).code == 1
        checker = stand.serve(*PATIENT)
    assert ask.ask_all(checker.address, sent.folder / "people.csv").wrong == []


async def test_a_killed_removal_is_finished_by_running_it_again(stand: Stand) -> None:
    """A removal whose import died between the measure and its keys is in force once the same import has ended."""
    people = [Person(resident_id(number), f"M{number}") for number in range(3)]
    adds = [add(place, person.measure, person.number) for place, person in enumerate(people, 1)]
    stand.import_(stand.feed("adds.jsonl", *adds))
    checker = stand.serve(*PATIENT)
    async with Caller(checker.address) as caller:
        faults = ("index.after_measures:1", "index.after_records:1", "importer.overtaking-applied:1")
        for place, (person, fault) in enumerate(zip(people, faults, strict=True), 4):
            assert (await caller.ask(flight(person.number))).outcome == "BARRED"
            lift = stand.feed(f"lift-{place}.jsonl", remove(place, person.measure))
            assert (await aside(dying, stand, fault, lift)).code == -signal.SIGKILL
            assert (await aside(importing, stand, lift)).code == 0
            lifted = await caller.ask(flight(person.number))
            assert (lifted.outcome, lifted.reason) == ("ALLOWED", "NOT_IN_FORCE")


def test_a_gap_filled_in_part_is_not_forgotten(stand: Stand) -> None:
    """Until all that was ever seen is known, every import exits 1 and it and `checker status` name what is missing."""

    def status() -> tuple[int, int, str]:
        ran = stand.run("checker", "status", *stand.where, "--check")
        told = json.loads(stand.run("checker", "status", *stand.where, "--json").out)["feed"]
        assert bool(told["gap_seconds"]) == bool(told["first_missing"])
        return ran.code, told["first_missing"], ran.out

    def part(first: int, last: int) -> Path:
        lines = [add(number, f"M{number}", resident_id(number)) for number in range(first, last + 1)]
        return stand.feed(f"{first}-{last}.jsonl", *lines)

    with server_kept(stand):
        ahead = part(7, 8)
        assert stand.import_(part(1, 2))["first_missing"] == 0
        assert stand.import_(ahead, code=1)["first_missing"] == 3
        for first, last in ((3, 4), (5, 6)):
            ran = importing(stand, part(first, last))
            assert (ran.code, f"sequence {last + 1} is missing, up to 8 were seen" in ran.out) == (1, True)
            code, missing, said = status()
            assert (code, missing) == (1, last + 1)
            assert f"from sequence {last + 1} on" in said
        assert stand.import_(ahead)["feed_sequence"] == 8
        code, missing, said = status()
        assert (code, missing, "missing" in said) == (0, 0, False)
