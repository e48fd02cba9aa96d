"""A full reload beside a running service: at no moment is anybody let pass who is listed, or barred who is lifted."""

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from checker import keys as key_files
from checker.core.measure import Removal, State
from checker.index.base import IndexKey
from checker.index.redis import RedisIndex
from checker.index.urls import open_index
from checker.lists.change_log import ChangeLog
from checker.lists.importer import CHANGE_LOG
from proto.checker.v1 import check_pb2 as pb
from tests.index.servers import Server
from tests.paths.people import add, flight, remove, resident_id
from tests.paths.stand import Caller, Callers, Stand, aside, wait_for

KEPT, LIFTED, MEANWHILE, NOBODY = (resident_id(number) for number in range(4))
CALLERS = 12
PAUSE_S = 0.1  # of each caller after each answer: the importer gets some of the processors, too


@pytest.fixture
def stand(store: Server, tmp_path: Path) -> Iterator[Stand]:
    """A stand over a single server."""
    made = Stand(tmp_path / "centre", store.url)
    yield made
    made.close()


async def test_a_reload_beside_a_service_disturbs_no_answer(store: Server, stand: Stand) -> None:
    """The old generation stays until both workers read the new one; they give their reports back when they stop."""
    lines = [add(1, "M1", KEPT), add(2, "M2", LIFTED), add(3, "M3", MEANWHILE), remove(4, "M2")]
    stand.import_(stand.feed("first.jsonl", *lines))
    checker = stand.serve("--index-timeout-ms", "10000", workers=2)
    wait_for("both workers", lambda: len(store.command("HGETALL", "xx:workers")) == 2)
    questions = {number: flight(number) for number in (KEPT, LIFTED, MEANWHILE)}
    async with Callers(checker.address, questions, CALLERS, PAUSE_S) as callers:
        acknowledged = await reload(stand, checker.answering()[0])
        await callers.everyone_asks(2)
    assert callers.failures == []
    said = {number: {(one.outcome, one.reason) for one in callers.answers[number]} for number in questions}
    assert said[KEPT] == {("BARRED", "MEASURE_IN_FORCE")}
    assert {outcome for outcome, _ in said[LIFTED]} == {"ALLOWED"}
    assert {answer.outcome for answer in callers.after(MEANWHILE, acknowledged)} == {"ALLOWED"}
    with store.client() as client:
        assert list(client.scan_iter("xx:1:*", count=1000)) == []
    # The companion has noticed too: the filter is built from the new generation, and its journal is followed.
    stand.import_(stand.feed("next.jsonl", remove(5, "M3"), add(6, "M6", MEANWHILE)))
    async with Caller(checker.address) as caller, asyncio.timeout(60):
        while await answered(caller, NOBODY) != (pb.ANSWERED_BY_FILTER, 6):  # noqa: ASYNC110 - it sets no event
            await asyncio.sleep(0.05)
        assert (await caller.ask(flight(MEANWHILE))).outcome == "BARRED"
    assert await aside(checker.stop) == 0
    assert store.command("HGETALL", "xx:workers") == {}


FAULTS = (
    "reload.begun:1",
    "index.after_records:1",
    "importer.batch-logged:1",
    "reload.loaded:1",
    "reload.verified:1",
    "reload.switched:1",
    "index.after_advance:1",
    "reload.retired:1",
)


async def test_reloads_killed_anywhere_and_run_again_end_right(store: Server, stand: Stand) -> None:
    """`checker import --reload` killed at eight places beside a service, with an ordinary lift after each kill.

    Nobody is ever answered wrongly, and what is left at the end is the court's list, once.
    """
    people = [resident_id(number) for number in range(4, 4 + len(FAULTS))]
    lines = [add(1, "M1", KEPT)] + [add(place, f"M{place}", number) for place, number in enumerate(people, 2)]
    stand.import_(stand.feed("first.jsonl", *lines))
    checker = stand.serve("--index-timeout-ms", "10000", workers=2)
    wait_for("both workers", lambda: len(store.command("HGETALL", "xx:workers")) == 2)
    lifted: list[tuple[str, float]] = []
    questions = {number: flight(number) for number in (KEPT, *people)}
    async with Callers(checker.address, questions, CALLERS, PAUSE_S) as callers:
        for place, (fault, number) in enumerate(zip(FAULTS, people, strict=True), 2):
            full = stand.feed("full.jsonl", *lines)
            stand.environment["CHECKER_FAULT_POINT"] = fault
            died = await aside(stand.run, "checker", "import", *stand.where, "--reload", "--allow-drop", full)
            del stand.environment["CHECKER_FAULT_POINT"]
            assert died.code == -signal.SIGKILL, (fault, died)
            lines.append(remove(len(lines) + 1, f"M{place}"))
            await aside(stand.import_, stand.feed("lift.jsonl", lines[-1]))
            lifted.append((number, time.monotonic()))
        full = stand.feed("full.jsonl", *lines)
        ran = await aside(stand.run, "checker", "import", *stand.where, "--reload", "--allow-drop", full)
        assert ran.code == 0, ran
        await callers.everyone_asks(2)
    assert callers.failures == []
    assert {answer.outcome for answer in callers.answers[KEPT]} == {"BARRED"}
    for number, acknowledged in lifted:
        assert {answer.outcome for answer in callers.after(number, acknowledged)} == {"ALLOWED"}
        assert "BARRED" in {answer.outcome for answer in callers.answers[number]}
    with store.client() as there:
        assert len({name.split(b":")[1] for name in there.scan_iter("xx:[0-9]*", count=1000)}) == 1
    assert len(list(stand.state.glob("changes*.log"))) == 1


async def answered(caller: Caller, number: str) -> tuple[int, int]:
    """By what somebody was answered, and how far the feed was known there."""
    response = (await caller.ask(flight(number))).response
    return response.answered_by, response.data_as_of.feed_sequence


async def reload(stand: Stand, worker: psutil.Process) -> float:
    """What was imported so far into a new generation, with one lift meanwhile; when that was acknowledged.

    The worker stands still over the switch: as long as it may read the old generation, that is not deleted.
    """
    key = key_files.load(stand.key_file).digest_key
    index_key = IndexKey(key.key_id, key.check_value)
    index = open_index(stand.index)
    assert isinstance(index, RedisIndex)
    try:
        await index.open(index_key, create=False)
        async with index.lease("a reload"):
            loading = await index.new_generation((await index.head()).feed_sequence)
            with ChangeLog(stand.state / CHANGE_LOG, index_key) as log:
                for changes in log.changes():
                    await loading.apply(changes)
            await index.apply([Removal(5, "M3", State.SHIELDED, "PERFORMED")])
            acknowledged = time.monotonic()
            worker.suspend()
            try:
                await index.switch(loading.number)
                assert not await index.retire()
            finally:
                worker.resume()
            async with asyncio.timeout(60):
                while not await index.retire():  # noqa: ASYNC110 - workers say so in the store
                    await asyncio.sleep(0.1)
    finally:
        await index.close()
    return acknowledged
