"""The traps of design.md §10 that a whole service can fall into, each by its name; those of one part stand beside it.

Elsewhere: evidence that blocks or is lost (tests/serving/test_evidence.py), cancelled streams that stay in memory
(tests/rpc/test_interceptors.py), a stream or pool that leaks (tests/index/test_redis.py), a batch that times out as a
whole (test_index_lost.py), a delta on the wrong base (tests/serving/test_follower.py).
"""

import asyncio
import gc
import json
import stat
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import grpc
import grpc.aio
import psutil
import pytest
from redis.asyncio.connection import AbstractConnection

from checker import keys as key_files
from checker.index.base import KEY_TIMEOUT_S, IndexKey
from checker.index.redis import RedisIndex
from checker.index.urls import open_index
from loadtest import ask
from loadtest.make_feed import Row, read_people
from proto.checker.v1 import check_pb2 as pb
from tests.index.servers import Server
from tests.paths.people import add, flight, resident_id
from tests.paths.stand import READY_S, Caller, Checker, Stand, aside, wait_for
from tests.ports import free_port

LISTED, CLEAR = resident_id(1), resident_id(2)
LIMIT = 16


class Centre(NamedTuple):
    stand: Stand
    store: Server
    checker: Checker
    rows: list[Row]


@pytest.fixture(scope="module")
def centre(stand_of: Callable[..., Stand]) -> Iterator[Centre]:
    """A small feed on a single server; a worker that takes sixteen items at a time and waits long for the store."""
    store = Server(port=free_port())
    stand = stand_of(store.url)
    folder = stand.folder / "feed"
    assert stand.run("loadtest", "make-feed", "--people", "500", "--seed", "3", "--out", folder).code == 0
    stand.import_(folder / "feed.jsonl")
    rows = list(read_people(folder / "people.csv"))
    stand.import_(stand.feed("one.jsonl", add(10**6, "M", LISTED)), code=1)  # beyond a gap: frozen
    checker = stand.serve("--max-in-flight", str(LIMIT), "--index-timeout-ms", "5000")
    yield Centre(stand, store, checker, rows)
    store.close()


@pytest.fixture
async def caller(centre: Centre) -> AsyncIterator[Caller]:
    async with Caller(centre.checker.address) as caller:
        yield caller


def row_of(centre: Centre, outcome: str) -> Row:
    return next(row for row in centre.rows if row.outcome == outcome)


async def test_every_answer_shows_version_and_age(centre: Centre, caller: Caller) -> None:
    """Whatever the outcome and whatever gave it, an answer names the rulebook and how far and fresh the feed is."""
    rulebook = await caller.stub.GetRulebook(pb.GetRulebookRequest(), timeout=60)
    wanted = {1, 2, 3, 4}, {pb.ANSWERED_BY_RULES, pb.ANSWERED_BY_FILTER, pb.ANSWERED_BY_INDEX}
    outcomes, sources = set(), set()
    for row in centre.rows:
        answer = (await caller.ask(ask.request(row))).response
        outcomes.add(int(answer.outcome))
        sources.add(answer.answered_by)
        assert answer.rulebook_version == rulebook.version
        assert answer.data_as_of.feed_sequence > 300
        assert abs(time.time() - answer.data_as_of.feed_time.seconds) < 3600
        if (outcomes, sources) == wanted:
            break
    assert (outcomes, sources) == wanted


async def test_our_own_limit_answers_overload_at_once(centre: Centre, caller: Caller) -> None:
    """With the store frozen and sixteen items waiting, the next is RESOURCE_EXHAUSTED before any of the sixteen ends.

    grpc.aio's own maximum_concurrent_rpcs can be bypassed, so the limit is ours. The sixteen lose nothing by it: they
    are answered when the store goes on; and when there is room again, it shows.
    """
    listed = ask.request(row_of(centre, "BARRED"))
    await caller.ask(listed)
    codes: list[grpc.StatusCode] = []
    centre.store.freeze()
    try:
        waiting = [asyncio.ensure_future(caller.stub.Check(listed, timeout=60)) for _ in range(LIMIT)]
        while grpc.StatusCode.RESOURCE_EXHAUSTED not in codes and not any(one.done() for one in waiting):
            codes.append(await one_more(caller, listed))
        ended = sum(one.done() for one in waiting)
    finally:
        centre.store.thaw()
    answers = await asyncio.gather(*waiting)
    assert grpc.StatusCode.RESOURCE_EXHAUSTED in codes
    assert ended == 0
    assert {answer.outcome for answer in answers} == {pb.OUTCOME_BARRED}
    await back(caller, listed)


async def one_more(caller: Caller, request: pb.CheckRequest) -> grpc.StatusCode:
    """One question without retries; its status."""
    try:
        await caller.stub.Check(request, timeout=0.5)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def back(caller: Caller, request: pb.CheckRequest) -> None:
    """Wait until the index answers again."""
    end = time.monotonic() + 60
    while (await caller.ask(request)).outcome != "BARRED":
        assert time.monotonic() < end, "the index did not come back"
        await asyncio.sleep(0.02)


async def test_a_refresh_that_fails_leaves_the_last_good_filter(centre: Centre, caller: Caller) -> None:
    """Whatever lies where the filter file should be, no answer changes: it is refused with its fault, and replaced."""
    path = centre.stand.state / "filter.xxf"
    good = path.read_bytes()
    before = centre.checker.log.read_text("utf-8").count("refused")
    spoilt = (b"", good[: len(good) // 2], good[:-1] + bytes([good[-1] ^ 1]))
    for content in spoilt:
        aside_path = path.with_suffix(".new")
        aside_path.write_bytes(content)
        aside_path.rename(path)
        deadline = time.monotonic() + 60
        while centre.checker.log.read_text("utf-8").count("refused") == before and path.read_bytes() == content:
            assert time.monotonic() < deadline, "nobody noticed"
            for row in islice(centre.rows, 50):
                assert ask.is_right(row, (await caller.ask(ask.request(row))).response)
        before = centre.checker.log.read_text("utf-8").count("refused")
    await aside(wait_for, "another filter file", lambda: path.read_bytes() != spoilt[-1])
    assert path.stat().st_size == len(good)
    for row in islice(centre.rows, 200):
        assert ask.is_right(row, (await caller.ask(ask.request(row))).response)


async def test_a_gap_freezes_additions_and_says_so(centre: Centre, caller: Caller) -> None:
    """A line beyond a gap bars nobody, and status asks for somebody to look; the others are answered as before."""
    assert (await caller.ask(flight(LISTED))).outcome == "ALLOWED"
    ran = await aside(centre.stand.run, "checker", "status", *centre.stand.where, "--json", "--check")
    assert ran.code == 1
    assert json.loads(ran.out)["feed"]["gap_seconds"] > 0
    assert (await caller.ask(ask.request(row_of(centre, "BARRED")))).outcome == "BARRED"


async def test_no_connection_retries_behind_our_back(centre: Centre) -> None:
    """Of all connections to the store, whatever their use, none retries and none has redis-py's own time-out."""
    keys = key_files.load(centre.stand.key_file)
    index = open_index(centre.stand.index)
    assert isinstance(index, RedisIndex)
    await index.open(IndexKey(keys.digest_key.key_id, keys.digest_key.check_value), create=False)
    try:
        await index.get_many([bytes(16)] * 10, 5)
        await index.journal_read(await index.journal_end(), 0)
        async with index.lease("trap"):
            await index.stats()
        connections = [one for one in gc.get_objects() if isinstance(one, AbstractConnection) and one.is_connected]
        assert len(connections) >= 4
        assert {one.retry._retries for one in connections} == {0}
        assert {one.socket_timeout for one in connections} == {None}  # ours bounds the pipeline as a whole
    finally:
        await index.close()


async def test_the_breaker_opens_whatever_the_clock_reads(centre: Centre) -> None:
    """What is left until a deadline is rarely exact: a look-up a hair short of its full time still counts as late."""
    keys = key_files.load(centre.stand.key_file)
    index = open_index(centre.stand.index, 0.02)
    assert isinstance(index, RedisIndex)
    await index.open(IndexKey(keys.digest_key.key_id, keys.digest_key.check_value), create=False)
    full = 0.02 + KEY_TIMEOUT_S
    try:
        async with asyncio.timeout(60):
            while await index.get_many([bytes(16)], 5) != [()]:  # noqa: ASYNC110 - it may take a busy machine 20 ms
                await asyncio.sleep(0.02)
        centre.store.freeze()
        for _ in range(4):
            assert await index.get_many([bytes(16)], full - 1e-9) == [None]
        for _ in range(20):
            look_up = index.get_many([bytes(16)], full - 1e-9)
            with pytest.raises(StopIteration) as ended:  # at once: it waits for nothing
                look_up.send(None)
            assert ended.value.value == [None]
            await asyncio.sleep(0)
    finally:
        centre.store.thaw()
        await index.close()


def test_the_parent_loads_nothing_that_only_its_workers_need(centre: Centre) -> None:
    """Its start is not delayed, nor its memory filled, by the parts of a worker: NumPy and the store's client."""

    def loaded(process: psutil.Process) -> set[str]:
        paths = [mapped.path for mapped in process.memory_maps()]
        return {name for name in ("numpy", "hiredis", "uvloop") if any(f"/{name}" in path for path in paths)}

    assert loaded(centre.checker.process) == set()
    for child in centre.checker.children():
        assert loaded(child) == {"numpy", "hiredis", "uvloop"}


def test_no_default_key_serves_a_store_of_ones_own(tmp_path: Path) -> None:
    """redis:// without a key file is refused by name; embedded: makes one, its owner's alone and never the same."""
    made = []
    for name in ("a", "b"):
        stand = Stand(tmp_path / name)
        stand.import_(stand.feed("one.jsonl", add(1, "M", LISTED)))
        assert stat.S_IMODE(stand.key_file.stat().st_mode) == 0o600
        made.append(key_files.load(stand.key_file).digest_key.check_value)
        missing = tmp_path / f"{name}.json"
        refused = stand.run("checker", "serve", "--index", "redis://127.0.0.1:1", "--key-file", missing)
        assert refused.code == 2
        assert str(missing) in refused.err
        assert not missing.exists()
        stand.close()
    assert made[0] != made[1]


def test_nothing_is_served_beyond_loopback_in_the_clear(tmp_path: Path) -> None:
    """`--listen 0.0.0.0:0` without TLS ends at once with code 2, naming the flag; nothing listened meanwhile."""
    stand = Stand(tmp_path / "centre")
    ready = tmp_path / "ready.json"
    refused = stand.run("checker", "serve", "--index", "memory:", "--listen", "0.0.0.0:0", "--ready-file", ready)
    assert refused.code == 2
    assert "--tls-cert" in refused.err
    assert not ready.exists()


async def test_plaintext_beyond_loopback_has_a_sellers_eyes(tmp_path: Path) -> None:
    """Told to, it serves in the clear; whoever asks is a seller: no trace, no finer reason, no key for a document."""
    stand = Stand(tmp_path / "centre")
    feed = stand.feed("one.jsonl", add(1, "M", LISTED, effective_to="2024-02-01"))
    flags = ("--insecure-plaintext", "--feed", str(feed), "--state-dir", str(tmp_path / "state"))
    command = ["--index", "memory:", "--listen", "0.0.0.0:0", "--ready-file", str(tmp_path / "ready.json"), *flags]
    process: subprocess.Popen[bytes] = stand.start("checker", "serve", *command)
    try:
        await aside(wait_for, "the ready file", (tmp_path / "ready.json").exists, READY_S)
        address = json.loads((tmp_path / "ready.json").read_text("utf-8"))["address"]
        async with Caller(address.replace("0.0.0.0", "127.0.0.1")) as caller:  # noqa: S104 - what it was told
            answer = await caller.ask(flight(LISTED, with_trace=True))
            assert (answer.outcome, answer.reason) == ("ALLOWED", "NOT_LISTED")
            assert not answer.response.trace
            by_key = flight(LISTED)
            by_key.subject.key.CopyFrom(pb.LookupKey(key_id="k", digest=bytes(16)))
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await caller.ask(by_key)
            assert failed.value.code() is grpc.StatusCode.PERMISSION_DENIED
    finally:
        process.terminate()
        await aside(process.wait, 60)
