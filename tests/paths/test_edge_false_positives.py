"""A centre's own filter and the snapshot of its edges are builds of lists that differ a little: what an edge's false
positives cost, and what `edge status` says of them.

The centre looks at its filter before its index. Whom both filters take for listed is asked about once and remembered;
whom only the edge's does, each time. Error rates are high, so that a few thousand strangers are enough.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from checker.core.document import Document
from edge import DocumentType, EdgeClient, Flight
from proto.checker.v1 import filter_pb2, filter_pb2_grpc
from tests.paths.edges import PATIENT, in_step
from tests.paths.people import add, resident_id
from tests.paths.proxy import Proxy
from tests.paths.stand import Checker, Stand, aside, wait_for

LISTED = 10_000  # a round number: with the canary they are one more, and filters sized to the key would differ
STRANGERS = range(100_000, 104_000)
RATE = ("--filter-error-rate", "0.02")


class House(NamedTuple):
    """A centre whose filter file holds LISTED people and the canary, and the numbers not used yet."""

    stand: Stand
    checker: Checker
    sequences: Iterator[int]

    def list_more(self, people: range) -> None:
        """Orders against people with these documents, fifty each; the centre's filter file stays as it is."""
        lines = []
        for at in range(0, len(people), 50):
            sequence = next(self.sequences)
            lines.append(add(sequence, f"M{sequence}", *map(resident_id, people[at : at + 50])))
        self.stand.import_(self.stand.feed(f"more-{people.start}.jsonl", *lines))

    def publish(self) -> int:
        """An epoch of all that is listed now; once it is what edges get."""
        ran = self.stand.run("checker", "build-snapshot", *self.stand.where, "--json", *RATE)
        assert ran.code == 0, ran.err
        epoch: int = json.loads(ran.out)["epoch"]
        with grpc.insecure_channel(self.checker.address) as channel:
            stub = filter_pb2_grpc.FilterServiceStub(channel)

            def offered() -> int:
                response = stub.GetManifest(filter_pb2.GetManifestRequest(), timeout=20)
                return filter_pb2.Manifest.FromString(response.manifest).epoch

            wait_for("the epoch", lambda: offered() == epoch)
        return epoch


@pytest.fixture(scope="module")
def house(stand_of: Callable[..., Stand]) -> House:
    """The centre serves, so its filter file is there."""
    stand = stand_of()
    house = House(stand, None, count(1))  # type: ignore[arg-type] # it serves what is listed first
    house.list_more(range(LISTED))
    return house._replace(checker=stand.serve("--index-timeout-ms", "10000", *RATE))


class Seen(NamedTuple):
    """What an edge with an empty memory did when all strangers were asked about thrice."""

    strangers: int
    hits: int  # strangers that its filter took for listed
    asked_once: int  # of those: nothing more about them went to the centre after the first time
    status: Any


async def ask_thrice(house: House, data: Path, epoch: int) -> Seen:
    """Everything on its way to the centre is looked at."""
    proxy = Proxy(house.checker.address)
    try:
        async with EdgeClient(proxy.address, data, house.stand.key_for_edges(), settings=PATIENT) as client:
            await in_step(client)
            assert client.status().epoch == epoch
            key = client.edge.keys.digest_key
            strangers = [number for number in map(resident_id, STRANGERS) if not number.endswith("000")]
            digests = [key.document(Document(DocumentType.RESIDENT_ID, number, "")) for number in strangers]

            async def ask_all() -> list[int]:
                """Once each; how often each one's key has gone to the centre by then."""
                for number in strangers:
                    answer = await client.check(Flight(), DocumentType.RESIDENT_ID, number)
                    assert answer.outcome.name == "ALLOWED"
                sent = bytes(proxy.to_centre)
                return [sent.count(digest) for digest in digests]

            first = await ask_all()
            await ask_all()
            third = await ask_all()
            hits = [place for place, times in enumerate(first) if times]
            assert all(first[place] or not third[place] for place in range(len(first)))
            return Seen(len(strangers), len(hits), sum(first[place] == third[place] for place in hits), client.status())
    finally:
        await aside(proxy.close)


@pytest.mark.parametrize(("more", "remembered"), [(3, True), (6_000, False)])
def test_what_a_false_positive_costs(house: House, tmp_path: Path, more: int, *, remembered: bool) -> None:
    """The edge's epoch lists three people more than the centre's filter: a false positive goes to the centre once, then
    never again. It lists many more: most go there each time. Either way all of them are counted as what they are.
    """
    house.list_more(range(50_000 + more, 50_000 + 2 * more))
    seen = asyncio.run(ask_thrice(house, tmp_path / "edge", house.publish()))
    assert seen.hits >= 15
    if remembered:
        assert seen.asked_once >= seen.hits * 0.8  # but for the few that only the three make one
    else:
        assert seen.asked_once <= seen.hits * 0.5
    assert seen.status.checks == 3 * seen.strangers
    assert seen.status.hits == seen.status.false_positives == 3 * seen.hits
