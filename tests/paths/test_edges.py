"""Two edges and a centre as real processes: a lift holds everywhere at once, an addition arrives within a second.

Checks race lifts by the thousand. A lift is acknowledged when its import has returned; whatever is asked of either edge
or of the centre itself after that moment is judged.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from typing import NamedTuple

import pytest

from checker.rpc.client import open_channel
from proto.checker.v1 import check_pb2 as pb
from proto.checker.v1 import check_pb2_grpc
from tests.paths.importing import importing
from tests.paths.people import add, exempt, flight, heartbeat, remove, resident_id
from tests.paths.stand import Caller, Checker, EdgeNode, Stand, wait_for

LISTED = 3_000
LIFTS = 2_100
AT_ONCE = 35  # lifts acknowledged together
BATCH = 60
ADDITIONS = 120
STANDSTILL_S = 0.1
PATIENT = ("--centre-timeout-ms", "20000")  # a busy test machine is no sales system: how fast is not the claim here


# One that ends in 000 needs the name: spreadsheet damage looks the same.
PEOPLE = [number for number in map(resident_id, range(26_000)) if not number.endswith("000")]


def person(number: int) -> str:
    """The `number`th person's resident ID."""
    return PEOPLE[number]


class House(NamedTuple):
    """A centre, two edges before it, and the numbers not used yet: of people, and of feed lines."""

    stand: Stand
    checker: Checker
    edges: list[EdgeNode]
    people: Iterator[int]
    sequences: Iterator[int]

    @property
    def addresses(self) -> list[str]:
        """Where one may ask: both edges, and the centre."""
        return [*(edge.address for edge in self.edges), self.checker.address]


@pytest.fixture(scope="module")
def house(stand_of: Callable[..., Stand]) -> House:
    """LISTED people under an order each, two edges that hold them."""
    stand = stand_of()
    lines = [add(number, f"M{number}", person(number)) for number in range(1, LISTED + 1)]
    stand.import_(stand.feed("first.jsonl", *lines))
    checker = stand.serve("--index-timeout-ms", "10000")
    edges = [stand.edge(checker.address, *PATIENT, "--name", name) for name in ("north", "south")]
    for edge in edges:
        wait_for("the edge in step", edge.in_step)
    return House(stand, checker, edges, count(LISTED + 1), count(LISTED + 1))


class Asked(NamedTuple):
    """One answer: of whom, by which of `House.addresses`, when it was asked, and with which epoch's filter."""

    person: int
    place: int
    at: float
    epoch: int
    outcome: pb.Outcome
    reason: pb.Reason


def said(one: Asked) -> tuple[str, str]:
    """Outcome and reason in the contract's words."""
    outcome, reason = pb.Outcome.Name(one.outcome), pb.Reason.Name(one.reason)
    return outcome.removeprefix("OUTCOME_"), reason.removeprefix("REASON_")


async def ask_without_pause(address: str, place: int, stop: asyncio.Event, kept: list[Asked], seed: int) -> None:
    """Batches of random people, one after another, until told to stop."""
    source = random.Random(seed)
    questions = {number: flight(person(number)) for number in range(1, LISTED + 1)}
    async with open_channel(address) as channel:
        stub = check_pb2_grpc.CheckServiceStub(channel)
        while not stop.is_set():
            asked = [source.randint(1, LISTED) for _ in range(BATCH)]
            batch = pb.BatchCheckRequest(items=[questions[number] for number in asked])
            at = time.monotonic()
            response = await stub.BatchCheck(batch, timeout=30)
            for who, answer in zip(asked, response.items, strict=True):
                kept.append(Asked(who, place, at, answer.data_as_of.snapshot_epoch, answer.outcome, answer.reason))


async def test_nobody_is_barred_after_the_lift_is_acknowledged(house: House) -> None:
    """Two thousand lifts race thousands of checks at two edges and at the centre: not one is BARRED after its
    acknowledgement, by any of them, and nobody who is still listed gets through meanwhile."""
    first_epoch = max(edge.status().epoch for edge in house.edges)
    acknowledged: dict[int, float] = {}
    kept: list[Asked] = []
    stop = asyncio.Event()
    async with importing(house.stand) as importer, asyncio.TaskGroup() as group:
        for place, address in enumerate(house.addresses):
            for seed in range(3):
                group.create_task(ask_without_pause(address, place, stop, kept, seed))
        for first in range(1, LIFTS + 1, AT_ONCE):
            lifted = range(first, first + AT_ONCE)
            at = await importer.send(*(remove(next(house.sequences), f"M{number}") for number in lifted))
            acknowledged |= dict.fromkeys(lifted, at)
        # And so many more that were asked after the last lift: most are of people it was lifted for.
        last = max(acknowledged.values())
        late = Counter[int]()
        seen = 0
        while min(late[place] for place in range(3)) <= 2_000:
            await asyncio.sleep(0.05)
            late.update(one.place for one in kept[seen:] if one.at >= last)
            seen = len(kept)
        stop.set()
    after = [one for one in kept if one.at >= acknowledged.get(one.person, float("inf"))]
    listed = [one for one in kept if one.person not in acknowledged]
    print(f"\n{len(kept):,} checks race {len(acknowledged):,} lifts; {len(after):,} asked after one")  # noqa: T201 - likewise
    # So many lifts make an epoch due. An edge that has fetched one does not even find them in its filter.
    renewed = [one for one in after if one.place < 2 and one.epoch > first_epoch]
    outcomes = Counter(map(said, after))
    assert outcomes["ALLOWED", "NOT_LISTED"] == Counter(map(said, renewed))["ALLOWED", "NOT_LISTED"]
    assert outcomes["ALLOWED", "NOT_IN_FORCE"] + outcomes["ALLOWED", "NOT_LISTED"] == len(after), outcomes
    assert Counter(map(said, listed)) == {("BARRED", "MEASURE_IN_FORCE"): len(listed)}
    for place in range(3):
        assert sum(one.place == place for one in after) > 1000
        assert any(
            one.place == place and one.outcome == pb.OUTCOME_BARRED for one in kept if one.person in acknowledged
        )


async def test_an_addition_bars_at_every_edge_within_a_second(house: House) -> None:
    """From the acknowledgement of an addition to the last question that an edge answers ALLOWED: p99 within a second,
    printed. Moments in which that edge answered nobody do not count: the machine has other things to do."""
    delays: list[float] = []
    north, south = (Caller(edge.address) for edge in house.edges)
    async with importing(house.stand) as importer, north, south:
        for _ in range(ADDITIONS):
            number = person(next(house.people))
            sequence = next(house.sequences)
            await asyncio.gather(north.ask(flight(number)), south.ask(flight(number)))  # known as clear before
            at = await importer.send(add(sequence, f"A{sequence}", number))
            delays += await asyncio.gather(*(allowed_for(edge, number, at) for edge in (north, south)))
    delays.sort()
    p50, p99 = delays[len(delays) // 2], delays[int(len(delays) * 0.99)]
    shown = f"p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms after the acknowledgement"
    print(f"\n{len(delays)} arrivals of additions at two edges: {shown}")  # noqa: T201 - the figure is asked for
    assert p99 <= 1.0


async def allowed_for(edge: Caller, number: str, since: float) -> float:
    """Ask until the answer is BARRED; seconds from `since` to the last question that was answered ALLOWED (0: to none),
    less those in which there was no answer for longer than STANDSTILL_S, whether none was given or nobody asked."""
    delay, stood_still, heard = 0.0, 0.0, since
    while True:
        answer = await edge.ask(flight(number), timeout_s=60)
        if answer.outcome == "BARRED":
            return delay
        assert answer.outcome == "ALLOWED"
        if answer.asked_at - heard > STANDSTILL_S:
            stood_still += answer.asked_at - heard
        delay = answer.asked_at - since - stood_still
        assert delay < 30
        if answer.seconds > STANDSTILL_S:
            stood_still += answer.seconds
        heard = answer.came_at
        await asyncio.sleep(0.001)


def test_an_edge_answers_as_its_centre(house: House) -> None:
    """People of every standing, asked of the centre and of both edges: the same outcome, reason and legal basis."""
    future, let_go, lifted = (person(next(house.people)) for _ in range(3))
    sequence = house.sequences
    lines = [
        add(next(sequence), "FUTURE", future) | {"effective_from": "2099-01-01"},
        add(next(sequence), "LET-GO", let_go),
        exempt(next(sequence), "LET-GO"),
        add(next(sequence), "LIFTED", lifted),
        remove(next(sequence), "LIFTED"),
        heartbeat(next(sequence)),
    ]
    house.stand.import_(house.stand.feed("standings.jsonl", *lines))
    wait_for("the feed's end", lambda: all(edge.status().feed_sequence == lines[-1]["seq"] for edge in house.edges))
    people = [future, let_go, person(LIFTS + 1), person(LISTED), person(20_000), "440524188001010015", lifted]

    async def ask_all(address: str) -> list[tuple[str, str, str]]:
        async with Caller(address) as caller:
            answers = [await caller.ask(flight(number)) for number in people]
        return [(answer.outcome, answer.reason, answer.response.legal_basis) for answer in answers]

    of_centre, *of_edges = [
        asyncio.run(ask_all(address)) for address in (house.checker.address, *(edge.address for edge in house.edges))
    ]
    # An epoch may come at any moment: whose filter has it no longer finds the lifted one at all.
    of_lifted = {answers.pop()[:2] for answers in (of_centre, *of_edges)}
    assert of_lifted <= {("ALLOWED", "NOT_IN_FORCE"), ("ALLOWED", "NOT_LISTED")}
    assert of_edges == [of_centre, of_centre]
    assert [(outcome, reason) for outcome, reason, _ in of_centre] == [
        ("ALLOWED", "NOT_IN_FORCE"),
        ("ALLOWED", "EXEMPTED"),
        ("BARRED", "MEASURE_IN_FORCE"),
        ("BARRED", "MEASURE_IN_FORCE"),
        ("ALLOWED", "NOT_LISTED"),
        ("INVALID_DOCUMENT", "BAD_CHECKSUM"),
    ]
