"""Feed to answer at full size: 100 000 people made, imported, served by two workers and asked about over a socket.

The answers expected are the generator's own, from plain tables of the law: nothing here is computed by the checker.
"""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from loadtest import ask
from loadtest.make_feed import read_people
from tests.paths.people import heartbeat
from tests.paths.stand import Checker, Ran, Stand, wait_for

PEOPLE = 100_000


class Centre(NamedTuple):
    stand: Stand
    feed: Path
    imported: dict[str, Any]
    checker: Checker


@pytest.fixture(scope="module")
def centre(stand_of: Callable[..., Stand]) -> Centre:
    """The feed imported into an embedded index, served by two workers."""
    stand = stand_of()
    feed = stand.folder / "feed"
    made = stand.run("loadtest", "make-feed", "--people", str(PEOPLE), "--seed", "1", "--out", feed)
    assert made.code == 0, made.err
    summary = stand.import_(feed / "feed.jsonl")
    # A batch asks hundreds of keys at once: on a busy machine that is work for longer than a single look-up's 20 ms.
    return Centre(stand, feed, summary, stand.serve("--index-timeout-ms", "10000", workers=2))


def test_every_row_of_people_csv_is_answered_right(centre: Centre) -> None:
    """No answer about 100 000 people differs from what the feed's maker says it must be, and every outcome occurs."""
    result = ask.ask_all(centre.checker.address, centre.feed / "people.csv")
    assert result.wrong[:20] == []
    assert result.asked > PEOPLE
    assert set(result.outcomes) == {"ALLOWED", "BARRED", "UNKNOWN", "INVALID_DOCUMENT"}
    assert min(result.outcomes.values()) > PEOPLE / 100


def test_an_edge_answers_the_same_rows_right(centre: Centre) -> None:
    """A node beside the booking system, asked 40 000 rows by changing nothing but the address: no answer is wrong."""
    edge = centre.stand.edge(centre.checker.address, "--centre-timeout-ms", "20000")
    wait_for("the edge in step", edge.in_step)
    result = ask.ask_all(edge.address, centre.feed / "people.csv", limit=40_000)
    assert result.wrong[:20] == []
    assert set(result.outcomes) == {"ALLOWED", "BARRED", "UNKNOWN", "INVALID_DOCUMENT"}
    numbers = edge.status()
    assert numbers.checks >= result.asked
    assert numbers.stand_ins == 0
    edge.close()


def test_the_rows_ask_for_every_kind_of_purchase_and_document(centre: Centre) -> None:
    """The run above is no sample: each of the fifteen kinds is asked about, and barred where the law bars any of it."""
    kinds: Counter[str] = Counter()
    barred: Counter[str] = Counter()
    documents: Counter[str] = Counter()
    for row in read_people(centre.feed / "people.csv"):
        kind = row.purchase.partition(" ")[0]
        kinds[kind] += 1
        barred[kind] += row.outcome == "BARRED"
        documents[row.document_type] += 1
    assert len(kinds) == 15
    assert min(kinds.values()) > 100
    # No figure is set for fees, premiums and resorts, so nothing of them bars (domain.md "Decided", 6).
    assert {kind for kind in kinds if not barred[kind]} == {"school", "insurance", "resort"}
    assert len(documents) == 13  # the twelve types, and not said


def test_the_import_says_what_it_did(centre: Centre) -> None:
    """Nothing of the feed is rejected or frozen, and the feed is known to its last line."""
    lines = (centre.feed / "feed.jsonl").read_bytes().count(b"\n")
    assert centre.imported["lines"] == centre.imported["feed_sequence"] == lines
    assert centre.imported["rejected"] == {}
    assert centre.imported["frozen"] == 0


def test_the_status_agrees_with_the_feed(centre: Centre) -> None:
    """`checker status` names the feed's last sequence, a fresh feed, no gap, and a filter of all listed keys.

    An epoch is published without being asked for, of the same keys, the canary among them.
    """
    status: dict[str, Any] = {}
    imported = centre.imported["feed_sequence"]
    beat = imported + 1  # the feed is fresh however long the tests before this one took
    centre.stand.import_(centre.stand.feed("beat.jsonl", heartbeat(beat)))

    def published() -> bool:
        ran: Ran = centre.stand.run("checker", "status", *centre.stand.where, "--json", "--check")
        assert ran.code == 0, ran
        status.update(json.loads(ran.out))
        return status["snapshot"] is not None

    wait_for("an epoch", published)
    assert status["feed"]["sequence"] == beat
    assert status["feed"]["gap_seconds"] == 0
    assert status["filter"]["keys"] > 0.5 * centre.imported["keys"]
    assert status["filter"]["feed_sequence"] in (imported, beat)  # built before the heartbeat, or once more since
    assert status["snapshot"]["epoch"] >= 1
    assert status["snapshot"]["keys"] == status["filter"]["keys"]


def test_a_refusal_can_be_explained(centre: Centre) -> None:
    """The decision id of a BARRED leads to its record: outcome, measure, court and case, and no document number."""
    row = next(
        row
        for row in read_people(centre.feed / "people.csv")
        if (row.outcome, row.purchase.partition(" ")[0], row.document_type) == ("BARRED", "flight", "RESIDENT_ID")
        and "untidy" not in row.why
    )
    run, where = centre.stand.run, centre.stand.where
    typed = f"RESIDENT_ID:{row.number}\n{row.name}\n"
    checked = run("checker", "check", "--target", centre.checker.address, "--json", "flight", stdin=typed)
    assert checked.code == 3, checked
    wait_for("the record", lambda: run("checker", "explain", decision_of(checked), *where).code == 0)
    explained = run("checker", "explain", decision_of(checked), *where, "--json")
    record = json.loads(explained.out)
    assert (record["outcome"], record["reason"], record["purchase"]) == ("BARRED", "MEASURE_IN_FORCE", "flight")
    assert record["measures"] == [found["measure_id"] for found in record["court_records"]]
    assert all(found["court"].startswith("合成市") and found["case_number"] for found in record["court_records"])
    assert row.number not in explained.out


def decision_of(checked: Ran) -> str:
    """The decision id of `checker check --json`."""
    said: str = json.loads(checked.out)["decision_id"]
    return said
