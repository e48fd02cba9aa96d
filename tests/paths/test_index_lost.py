"""The exact index is lost while callers ask: hits become UNKNOWN at once, misses stay ALLOWED, nothing fails.

A private server on loopback, as an operator would run it; it is killed, frozen (SIGSTOP keeps its sockets open, the
worse case), restarted, and restarted with less than it had acknowledged. How long an answer takes is measured at the
caller. Two processors share the work with other tests, so a hit is compared with misses asked at the same moment, and
the longest wait of all with misses that are on their way all the while: a machine that stands still holds up both.
"""

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import grpc
import grpc.aio
import pytest

from proto.checker.v1 import check_pb2 as pb
from tests.index.servers import Server
from tests.paths.people import add, flight, hard_seat, heartbeat, remove, resident_id
from tests.paths.stand import Answer, Caller, Callers, Checker, Stand, aside
from tests.ports import free_port

LISTED, LIFTED, CLEAR = resident_id(1), resident_id(2), resident_id(3)
BARRED = ("BARRED", "MEASURE_IN_FORCE")
UNREACHABLE = ("UNKNOWN", "INDEX_UNREACHABLE")
NOT_LISTED = ("ALLOWED", "NOT_LISTED")
UNRESTRICTED = ("ALLOWED", "PURCHASE_NOT_RESTRICTED")


class Centre(NamedTuple):
    stand: Stand
    store: Server
    checker: Checker


@pytest.fixture(scope="module")
def centre(stand_of: Callable[..., Stand]) -> Iterator[Centre]:
    """One worker over a single server; one person listed. The time-out is the 20 ms it comes with."""
    store = Server(port=free_port())
    stand = stand_of(store.url)
    stand.import_(stand.feed("first.jsonl", add(1, "M1", LISTED), add(2, "M2", LIFTED), heartbeat(3)))
    yield Centre(stand, store, stand.serve())
    store.close()


class Orphan(NamedTuple):
    process: "subprocess.Popen[bytes]"
    address: str
    log: Path
    ready: Path


@pytest.fixture(scope="module", autouse=True)
def orphan(stand_of: Callable[..., Stand]) -> Iterator[Orphan]:
    """A checker over an index that is not there; it is given the time of all tests here to say so."""
    address = f"127.0.0.1:{free_port()}"
    stand = stand_of(f"redis://{address}")
    ready = stand.folder / "ready.json"
    process = stand.start("checker", "serve", *stand.where, "--listen", "127.0.0.1:0", "--ready-file", ready)
    (log,) = stand.logs.glob("*-serve.err")
    yield Orphan(process, address, log, ready)
    if process.poll() is None:
        process.terminate()
        process.wait(60)


@pytest.fixture
async def caller(centre: Centre) -> AsyncIterator[Caller]:
    """A caller, and a centre that is well: the index is believed and the filter answers what it clears."""
    async with Caller(centre.checker.address) as caller:
        await becomes(caller, LISTED, BARRED)
        until = time.monotonic() + 60
        while (await caller.ask(flight(CLEAR))).response.answered_by != pb.ANSWERED_BY_FILTER:
            assert time.monotonic() < until, "no filter within 60 s"
            await asyncio.sleep(0.01)
        yield caller


def said(answer: Answer) -> tuple[str, str]:
    return answer.outcome, answer.reason


async def becomes(caller: Caller, number: str, expected: tuple[str, str], seconds: float = 60.0) -> float:
    """Ask until the answer is as expected; the seconds that took."""
    began = time.monotonic()
    while said(await caller.ask(flight(number))) != expected:
        assert time.monotonic() - began < seconds, f"not {expected} within {seconds:g} s"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


async def in_turn(caller: Caller, rounds: int) -> tuple[list[Answer], list[Answer]]:
    """Hits and misses, alternating, so that both meet the same machine."""
    hits, misses = [], []
    for _ in range(rounds):
        hits.append(await caller.ask(flight(LISTED)))
        misses.append(await caller.ask(flight(CLEAR)))
    return hits, misses


def typical(answers: Sequence[Answer]) -> float:
    return median(answer.seconds for answer in answers)


class Beside:
    """Misses over a connection of their own, one after another without a pause, until the end of the block."""

    def __init__(self, centre: Centre) -> None:
        self._caller = Caller(centre.checker.address)
        self._answers: list[Answer] = []
        self._stop = False
        self._asking: asyncio.Task[None]

    async def __aenter__(self) -> "Beside":
        await self._caller.ask(flight(CLEAR))  # makes the connection
        self._asking = asyncio.create_task(self._ask())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop = True
        await self._asking
        await self._caller.channel.close()

    async def _ask(self) -> None:
        while not self._stop:
            self._answers.append(await self._caller.ask(flight(CLEAR)))

    def slowest(self, asked_at: float, came_at: float) -> float:
        """How long the slowest miss took of those that were on their way in this time; the block has ended."""
        return max(one.seconds for one in self._answers if one.came_at >= asked_at and one.asked_at <= came_at)

    def slower(self, answers: Sequence[Answer]) -> float:
        """By how much one of these took longer than the slowest miss meanwhile."""
        return max(one.seconds - self.slowest(one.asked_at, one.came_at) for one in answers)


async def test_a_frozen_index_makes_hits_unknown_within_the_budget(centre: Centre, caller: Caller) -> None:
    """The first hits after SIGSTOP are UNKNOWN in about 20 ms, not in a library's seconds; misses are as quick as ever.

    Frozen and thawed eight times: each time it is the very first hit that waits the time-out in full.
    """
    first: list[Answer] = []
    misses: list[Answer] = []
    async with Beside(centre) as beside:
        for _ in range(8):
            centre.store.freeze()
            try:
                first.append(await caller.ask(flight(LISTED)))
                misses.append(await caller.ask(flight(CLEAR)))
            finally:
                centre.store.thaw()
            await becomes(caller, LISTED, BARRED)
    assert {said(answer) for answer in first} == {UNREACHABLE}
    assert {said(answer) for answer in misses} == {NOT_LISTED}
    assert 0.015 < typical(first) < 0.060 + typical(misses)
    assert beside.slower(first) < 0.5


async def test_with_the_breaker_open_a_hit_costs_no_more_than_a_miss(centre: Centre, caller: Caller) -> None:
    """Once an index is known to be frozen, hits are UNKNOWN within 5 ms of what a miss costs, for as long as it is."""
    centre.store.freeze()
    try:
        await in_turn(caller, 5)
        hits, misses = await in_turn(caller, 150)
    finally:
        centre.store.thaw()
    assert {said(answer) for answer in hits} == {UNREACHABLE}
    assert {said(answer) for answer in misses} == {NOT_LISTED}
    assert typical(hits) - typical(misses) < 0.005
    assert await becomes(caller, LISTED, BARRED) < 5.0  # by itself


async def test_a_killed_index_is_noticed_at_once(centre: Centre, caller: Caller) -> None:
    """A killed server costs a hit no time-out at all, and the rules still answer what needs nobody looked at."""
    centre.store.kill()
    try:
        async with Beside(centre) as beside:
            hits, misses = await in_turn(caller, 50)
        unrestricted = await caller.ask(hard_seat(LISTED))
    finally:
        centre.store.start()
        await aside(centre.stand.import_, centre.stand.feed("beat.jsonl", heartbeat(3)))
    assert {said(answer) for answer in hits} == {UNREACHABLE}
    assert {said(answer) for answer in misses} == {NOT_LISTED}
    assert said(unrestricted) == UNRESTRICTED
    assert beside.slower(hits) < 0.5
    assert typical(hits) - typical(misses) < 0.020


async def test_busy_callers_see_no_failure_when_the_index_is_lost(centre: Centre, caller: Caller) -> None:
    """Thirty callers through freeze, kill and restart: no call fails, a miss is always ALLOWED, a hit never is."""
    questions = {"hit": flight(LISTED), "miss": flight(CLEAR), "rules": hard_seat(LISTED)}
    async with Callers(centre.checker.address, questions, 30) as callers:

        async def barred_again() -> None:
            """One will do: with 20 ms for each, not all of thirty callers are in time on a busy machine."""
            now = time.monotonic()
            await callers.until("BARRED", lambda: BARRED in {said(one) for one in callers.after("hit", now)})

        centre.store.freeze()
        await callers.everyone_asks(5)
        centre.store.thaw()
        await barred_again()
        await aside(centre.store.kill)
        await callers.everyone_asks(5)
        await aside(centre.store.start)
        await aside(centre.stand.import_, centre.stand.feed("beat.jsonl", heartbeat(3)))
        await barred_again()
    assert callers.failures == []
    assert {said(answer) for answer in callers.answers["hit"]} == {BARRED, UNREACHABLE}
    assert {said(answer) for answer in callers.answers["miss"]} == {NOT_LISTED}
    assert {said(answer) for answer in callers.answers["rules"]} == {UNRESTRICTED}
    rules = typical(callers.answers["rules"])  # nobody is looked at: as quick as this machine is
    assert typical(callers.answers["miss"]) - rules < 0.05
    assert typical(callers.answers["hit"]) - rules < 0.05


async def test_a_restarted_index_is_not_believed_until_it_is_reconciled(centre: Centre, caller: Caller) -> None:
    """After a restart of a server we do not own, hits stay UNKNOWN, and status says why, until an import has run."""
    await aside(centre.store.kill)
    await aside(centre.store.start)
    until = time.monotonic() + 1.5  # three times as long as an identity is remembered
    heard = []
    while time.monotonic() < until:
        heard.append(said(await caller.ask(flight(LISTED))))
        assert said(await caller.ask(flight(CLEAR))) == NOT_LISTED
        await asyncio.sleep(0.02)
    assert set(heard) == {UNREACHABLE}
    status = await aside(centre.stand.run, "checker", "status", *centre.stand.where, "--json", "--check")
    assert status.code == 1
    assert len(json.loads(status.out)["index"]["unreconciled"]) == 1
    summary = await aside(centre.stand.import_, centre.stand.feed("beat.jsonl", heartbeat(3)))
    assert summary["replayed"] >= 2
    assert await becomes(caller, LISTED, BARRED) < 5.0


async def test_a_removal_that_the_index_lost_never_bars_again(store: Server, stand_of: Callable[..., Stand]) -> None:
    """The server comes back without a removal it had acknowledged: UNKNOWN until the change log has told it again."""
    stand = stand_of(store.url)
    stand.import_(stand.feed("first.jsonl", add(1, "M1", LISTED), add(2, "M2", LIFTED)))
    checker = await aside(stand.serve, "--index-timeout-ms", "10000")  # its filter holds both and is not built again
    data, before = store.directory / "appendonlydir", store.directory / "before"
    shutil.copytree(data, before)  # a server in appendfsync always: whole at any moment
    await aside(stand.import_, stand.feed("lift.jsonl", remove(3, "M2")))
    async with Callers(checker.address, {"lifted": flight(LIFTED), "listed": flight(LISTED)}, 10) as callers:
        assert {said(answer) for answer in callers.answers["lifted"]} == {("ALLOWED", "NOT_IN_FORCE")}
        await aside(store.kill)
        shutil.rmtree(data)
        before.rename(data)
        await aside(store.start)
        await callers.everyone_asks(10)
        # The store's head was lost with line 3, so the import says that it is missing; the log has told the removal.
        await aside(stand.import_, stand.feed("beat.jsonl", heartbeat(4)), code=1)
        await callers.until("BARRED", lambda: {said(one) for one in callers.answers["listed"][-10:]} == {BARRED})
    assert {said(answer) for answer in callers.answers["lifted"]} <= {
        *(UNREACHABLE, ("ALLOWED", "NOT_IN_FORCE")),
        NOT_LISTED,  # once the filter is built again
    }
    assert UNREACHABLE in {said(answer) for answer in callers.answers["lifted"]}
    assert {said(answer) for answer in callers.answers["listed"]} == {UNREACHABLE, BARRED}


async def test_a_batch_answers_its_misses_although_the_index_is_frozen(centre: Centre, caller: Caller) -> None:
    """A batch whose index part times out is answered whole: the cleared items ALLOWED, the others UNKNOWN, no error."""
    items = [
        flight(LISTED if place % 10 == 0 else resident_id(100 + place), item_id=str(place)) for place in range(100)
    ]
    centre.store.freeze()
    try:
        async with Beside(centre) as beside:
            began = time.monotonic()
            response = await caller.stub.BatchCheck(pb.BatchCheckRequest(items=items), timeout=20)
            ended = time.monotonic()
    finally:
        centre.store.thaw()
    assert [item.item_id for item in response.items] == [str(place) for place in range(100)]
    unknown = {item.item_id for item in response.items if item.outcome == pb.OUTCOME_UNKNOWN}
    assert unknown == {str(place) for place in range(0, 100, 10)}
    assert all(item.outcome in (pb.OUTCOME_ALLOWED, pb.OUTCOME_UNKNOWN) for item in response.items)
    assert all(item.reason == pb.REASON_INDEX_UNREACHABLE for item in response.items if item.item_id in unknown)
    assert ended - began - beside.slowest(began, ended) < 0.5
    await becomes(caller, LISTED, BARRED)


async def test_a_short_deadline_is_kept_although_the_index_is_frozen(centre: Centre, caller: Caller) -> None:
    """With 200 ms to answer and an index that never will, the caller gets UNKNOWN in time, not DEADLINE_EXCEEDED.

    Asked once more where a miss beside it was late as well: then it was the machine.
    """
    answer = None
    for _ in range(30):
        centre.store.freeze()
        try:
            async with Beside(centre) as beside:
                began = time.monotonic()
                answer = await in_time(caller, 0.2)
                ended = time.monotonic()
        finally:
            centre.store.thaw()
        await becomes(caller, LISTED, BARRED)
        if answer is not None or beside.slowest(began, ended) < 0.1:
            break
    assert answer is not None
    assert said(answer) == UNREACHABLE


async def in_time(caller: Caller, seconds: float) -> Answer | None:
    """The answer to a hit, if it comes in so many seconds."""
    try:
        return await caller.ask(flight(LISTED), timeout_s=seconds)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
            raise
        return None


async def test_a_second_loss_before_the_filter_is_rebuilt_leaves_misses_allowed(centre: Centre, caller: Caller) -> None:
    """Lost again after it was reconciled, before a new filter: whom the last good filter clears is ALLOWED.

    Reconciling ends the old journal, so every key is asked of the index until there is a new filter; whoever builds it
    is frozen here. The index gone as well, misses are ALLOWED with STALE_DATA and hits UNKNOWN: no table is emptied.
    """
    (builder,) = set(centre.checker.children()) - set(centre.checker.answering())
    builder.suspend()
    try:
        await aside(centre.store.kill)
        await aside(centre.store.start)
        await aside(centre.stand.import_, centre.stand.feed("beat.jsonl", heartbeat(3)))
        await becomes(caller, LISTED, BARRED)
        until = time.monotonic() + 60
        while (await caller.ask(flight(CLEAR))).response.answered_by != pb.ANSWERED_BY_INDEX:
            assert time.monotonic() < until, "the journal's end was not noticed"
        await aside(centre.store.kill)
        hits, misses = await in_turn(caller, 20)
        await aside(centre.store.start)
        await aside(centre.stand.import_, centre.stand.feed("beat.jsonl", heartbeat(3)))
    finally:
        builder.resume()
    assert {said(answer) for answer in misses} == {NOT_LISTED}
    assert {tuple(answer.response.advisory) for answer in misses} == {(pb.ADVISORY_STALE_DATA,)}
    assert {said(answer) for answer in hits} == {UNREACHABLE}


async def test_a_checker_whose_index_never_answers_does_not_begin_to_serve(orphan: Orphan) -> None:
    """It waits some seconds, then ends with one line that names the index's address; the ready file never appears."""
    assert await aside(orphan.process.wait, 60) != 0
    assert orphan.address in orphan.log.read_text("utf-8").splitlines()[-1]
    assert not orphan.ready.exists()
