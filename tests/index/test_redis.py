"""What only a real server can do to an index: freeze, die, restart, change its role, lose its memory of us."""

import asyncio
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from checker import faults
from checker.core.measure import Change
from checker.errors import IndexRefused, IndexUnavailable, UsageError
from checker.index import functions
from checker.index.base import KEY_TIMEOUT_S, READ_TIMEOUT_S, Applied, ExactIndex, Head, Position
from checker.index.lease import RedisLease
from checker.index.reading import IDENTITY_AGE_S, NEVER_PROMOTED
from checker.index.redis import RedisIndex
from checker.index.urls import open_index
from tests import waiting
from tests.forked import Forked
from tests.index import child
from tests.index.builders import KEY, a_removal, an_addition, an_exemption, digest
from tests.index.servers import Server
from tests.ports import free_port

LISTED = digest(1)


@pytest.fixture(params=["unix", "tcp"])
def own(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server this test may harm, over both kinds of socket."""
    server = Server(port=free_port() if request.param == "tcp" else 0)
    yield server
    server.close()


@pytest.fixture
def mine() -> Iterator[Server]:
    """A server this test may harm."""
    server = Server()
    yield server
    server.close()


@asynccontextmanager
async def opened(server: Server, **settings: float) -> AsyncIterator[RedisIndex]:
    """An open index on a server, with private settings changed; patient reads unless told otherwise."""
    index = open_index(server.url)
    assert isinstance(index, RedisIndex)
    for name, value in {"read_timeout_s": 5.0, **settings}.items():
        setattr(index, f"_{name}", value)
    try:
        await index.open(KEY, create=True)
        yield index
    finally:
        await index.close()


async def read(index: ExactIndex, key: bytes = LISTED, timeout_s: float = 5) -> list[str] | None:
    """Measure ids under one key, or None."""
    found = (await index.get_many([key], timeout_s))[0]
    return None if found is None else sorted(measure.measure_id for measure in found)


async def until(check: Callable[[], object], seconds: float = 10) -> object:
    """Wait for a condition and return what it was; `check` may return an awaitable."""
    async with asyncio.timeout(seconds):
        while True:
            result = check()
            if found := await result if asyncio.iscoroutine(result) else result:
                return found
            await asyncio.sleep(0.01)


def at_once(index: RedisIndex, key: bytes = LISTED) -> object:
    """What a look-up answers that waits for nothing: no time-out, no other task, not even the loop's next turn."""
    with pytest.raises(StopIteration) as ended:
        index.get_many([key], 5).send(None)
    return ended.value.value[0]


def noted_waits(index: RedisIndex, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each look-up from now on is prepared to wait, in seconds."""
    waits: list[float] = []
    loop = asyncio.get_running_loop()
    real = loop.call_later

    def call_later(delay: float, callback: Callable[..., object], *args: Any, **how: Any) -> asyncio.TimerHandle:
        if any(getattr(each, "__self__", None) is index for each in (callback, *args)):
            waits.append(delay)
        return real(delay, callback, *args, **how)

    monkeypatch.setattr(loop, "call_later", call_later)
    return waits


def lease_until(server: Server) -> int:
    """When the lease runs out, by the server's clock in milliseconds."""
    return int(server.command("HGET", "xx:importer", "until"))


# Round trips


def pipelines(server: Server) -> int:
    """How many pipelines of look-ups a server has answered: each begins with one ROLE."""
    return int(server.command("INFO", "commandstats").get("cmdstat_role", {}).get("calls", 0))


async def test_look_ups_of_one_tick_share_one_round_trip(own: Server) -> None:
    """A hundred look-ups asked for together cost the server one pipeline; one after another, one each."""
    async with opened(own, read_timeout_s=5.0) as index:
        await index.apply([an_addition(number, f"M{number}", number) for number in range(1, 51)])
        wanted = [[f"M{number}"] if number <= 50 else [] for number in range(1, 101)]
        before = pipelines(own)
        assert await asyncio.gather(*(read(index, digest(number)) for number in range(1, 101))) == wanted
        together = pipelines(own)
        assert [await read(index, digest(number)) for number in range(1, 101)] == wanted
        assert (together - before, pipelines(own) - together) == (1, 100)


# Sick servers


async def test_frozen_server(own: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen server costs the read time-out a few times, then next to nothing; thawed, it is read again by itself."""
    async with opened(own, read_timeout_s=READ_TIMEOUT_S) as index:
        await index.apply([an_addition(1, "M1", 1)])
        assert await until(lambda: read(index)) == ["M1"]
        waits = noted_waits(index, monkeypatch)
        own.freeze()
        started = time.perf_counter()
        assert await read(index) is None
        assert time.perf_counter() - started > 0.019
        assert [await read(index) for _ in range(3)] == [None] * 3
        assert waits == [pytest.approx(READ_TIMEOUT_S + KEY_TIMEOUT_S)] * 4
        assert [at_once(index) for _ in range(50)] == [None] * 50
        own.thaw()
        assert await until(lambda: read(index)) == ["M1"]


async def test_frozen_server_with_many_callers(own: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand look-ups in one tick of a frozen server end together at the time-out, and leave no connections."""
    async with opened(own, read_timeout_s=READ_TIMEOUT_S) as index:
        await index.apply([an_addition(1, "M1", 1)])
        assert await until(lambda: read(index)) == ["M1"]
        waits = noted_waits(index, monkeypatch)
        own.freeze()
        started = time.perf_counter()
        answers = await asyncio.gather(*(index.get_many([digest(n)], 1) for n in range(1000)))
        assert time.perf_counter() - started < 10  # one after another they would take twice that
        assert answers == [[None]] * 1000
        assert waits == [pytest.approx(READ_TIMEOUT_S + KEY_TIMEOUT_S)] * 1000
        own.thaw()
        assert await until(lambda: read(index)) == ["M1"]
        await until(lambda: own.client().info("clients")["connected_clients"] < 12)


async def test_a_reply_that_came_while_the_process_stood_still_counts(own: Server) -> None:
    """The process stands still until long after both time-outs, the reply lies in the socket: it is read, not given
    up."""

    def stand_still(answered: int) -> None:
        waiting.until(lambda: pipelines(own) > answered)
        time.sleep(0.1)

    async with opened(own, read_timeout_s=0.020) as index:
        await index.apply([an_addition(1, "M1", 1)])
        for _ in range(3):
            await until(lambda: read(index))
            answered = pipelines(own)
            asking = asyncio.create_task(read(index))
            for _ in range(5):  # turns, in which the question leaves
                await asyncio.sleep(0)
            stand_still(answered)
            assert await asking == ["M1"]


async def test_killed_server(mine: Server) -> None:
    """A killed server is UNKNOWN at once; restarted under a supervisor we trust, it is read again by itself."""
    async with opened(mine, trusts_restarts=True, read_timeout_s=3600) as index:
        await index.apply([an_addition(1, "M1", 1)])
        assert await read(index) == ["M1"]
        mine.kill()
        async with asyncio.timeout(60):  # none of them is ended by its time-out
            assert [await read(index, timeout_s=3600) for _ in range(20)] == [None] * 20
        assert at_once(index) is None
        with pytest.raises(IndexUnavailable):
            await index.apply([a_removal(2, "M1")])
        with pytest.raises(IndexUnavailable):
            await index.head()

        mine.start()
        assert await until(lambda: read(index)) == ["M1"]
        assert await index.apply([a_removal(2, "M1")]) == [Applied.APPLIED]


@pytest.mark.parametrize("asked", [1, 8])
async def test_connections_that_were_closed_while_nobody_used_them(own: Server, asked: int) -> None:
    """As by a server started again, or something on the road: all are lost together, and no question is lost."""
    async with opened(own) as index:
        await index.apply([an_addition(1, "M1", 1)])
        (reader,) = index._readers.values()
        for _ in range(3):
            async with asyncio.timeout(30):
                while len(reader._idle) < 4:
                    await side_by_side(index, 8)
            own.command("CLIENT", "KILL", "TYPE", "normal")
            assert await side_by_side(index, asked) == [["M1"]] * asked


async def side_by_side(index: ExactIndex, number: int) -> list[list[str] | None]:
    """So many look-ups, each of a tick of its own."""
    asking = []
    for _ in range(number):
        asking.append(asyncio.create_task(read(index)))
        await asyncio.sleep(0)
    return await asyncio.gather(*asking)


async def test_loading_server_is_not_ready(mine: Server) -> None:
    """While a server loads its data its keys are None, never 'nobody listed'."""
    async with opened(mine, trusts_restarts=True) as index:
        await index.apply([an_addition(n, f"M{n}", n) for n in range(1, 301)])
        mine.kill()
        mine._options = (*mine._options, "--key-load-delay", "500", "--loading-process-events-interval-bytes", "1024")
        loading = asyncio.get_running_loop().run_in_executor(None, mine.start)
        seen = set()
        while not loading.done():
            seen.add(str(await read(index)))
            await asyncio.sleep(0.01)
        await loading
        await until(lambda: read(index))
        assert seen <= {"None", "['M1']"}


async def test_caller_with_less_time(own: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller with a short deadline leaves at that deadline, and does not open the breaker for others."""
    async with opened(own, read_timeout_s=60) as index:
        await index.apply([an_addition(1, "M1", 1)])
        assert await read(index, timeout_s=60) == ["M1"]
        (reader,) = index._readers.values()
        waits = noted_waits(index, monkeypatch)
        own.freeze()
        started = time.perf_counter()
        for _ in range(5):
            assert await read(index, timeout_s=0.002) is None
        assert time.perf_counter() - started < 60  # not one of them stayed to the end of the full time
        assert (waits, reader._failures) == ([0.002] * 5, 0)
        own.thaw()
        assert await read(index) == ["M1"]


async def test_cancelled_calls_never_cross_answers(own: Server) -> None:
    """Three hundred look-ups cancelled at any moment: every other answer still belongs to its key."""
    async with opened(own) as index:
        await index.apply([an_addition(n, f"M{n}", n) for n in range(1, 301)])
        for n in range(1, 301):
            doomed = [asyncio.create_task(index.get_many([digest(m)], 5)) for m in range(n, n + 3)]
            kept = asyncio.create_task(index.get_many([digest(n), digest(n + 1000)], 5))
            for _ in range(n % 5):
                await asyncio.sleep(0)
            for task in doomed:
                task.cancel()
            found, nobody = await kept
            assert found is not None
            assert [measure.measure_id for measure in found] == [f"M{n}"]
            assert nobody == ()


async def test_cancelled_writes_never_cross_answers(own: Server) -> None:
    """An import cancelled in the middle of a write leaves the next write and its verdicts right."""
    async with opened(own) as index:
        for n in range(1, 101):
            task = asyncio.create_task(index.apply([an_addition(n, f"M{n}", n)]))
            for _ in range(n % 12):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert await index.apply([a_removal(1000 + n, f"R{n}")]) == [Applied.APPLIED]
        assert await index.head() == Head(0, 0, 0)


async def test_connections_do_not_leak(own: Server) -> None:
    """Three hundred writes that fail, by a cut connection or by an error answer, leave no connection behind."""
    async with opened(own) as index:
        await index.apply([an_addition(1, "M1", 1)])
        with own.client() as behind:
            before = behind.info("clients")["connected_clients"]
            for n in range(2, 152):
                behind.client_kill_filter(_type="normal", skipme=True)
                await index.apply([an_addition(n, f"M{n}", n)])
            behind.config_set("maxmemory", 1)
            for n in range(200, 350):
                with pytest.raises(IndexUnavailable, match="OutOfMemory"):
                    await index.apply([an_addition(n, f"M{n}", n)])
            behind.config_set("maxmemory", 0)
            await until(lambda: read(index))
            assert behind.info("clients")["connected_clients"] <= before + 2
        assert await index.apply([an_addition(500, "M500", 1)]) == [Applied.APPLIED]


async def test_connection_lost_between_phases(own: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write connection lost between two phases fails the call: nothing is known to be on disk. Again, it passes."""
    async with opened(own) as index:

        def cut(name: str) -> None:
            if name == "index.after_records":
                with own.client() as behind:
                    behind.client_kill_filter(_type="normal", skipme=True)

        with monkeypatch.context() as patch:
            patch.setattr(faults, "point", cut)
            with pytest.raises(IndexUnavailable):
                await index.apply([an_addition(1, "M1", 1)])
        assert await index.apply([an_addition(1, "M1", 1)]) == [Applied.UNCHANGED]
        assert await read(index) == ["M1"]


async def test_append_only_file_switched_off(own: Server) -> None:
    """When the server stops keeping its append-only file, nothing is acknowledged any more."""
    async with opened(own) as index:
        await index.apply([an_addition(1, "M1", 1)])
        own.command("CONFIG", "SET", "appendonly", "no")
        with pytest.raises(IndexUnavailable, match="error"):
            await index.apply([a_removal(2, "M1")])


async def test_functions_flushed(own: Server) -> None:
    """A server that lost our functions gets them again with the next write."""
    async with opened(own) as index:
        own.command("FUNCTION", "FLUSH")
        assert await index.apply([an_addition(1, "M1", 1)]) == [Applied.APPLIED]


async def test_older_functions_are_replaced(own: Server) -> None:
    """A library of the same name with other code is replaced at open."""
    put = functions.KEY_PUT.decode()
    old = f"#!lua name={functions.LIBRARY}\nredis.register_function('{put}', function() return 0 end)"
    own.command("FUNCTION", "LOAD", old)
    async with opened(own) as index:
        assert await index.apply([an_addition(1, "M1", 1)]) == [Applied.APPLIED]
        assert await read(index) == ["M1"]


async def test_server_without_functions() -> None:
    """A server older than functions is refused with the remedy."""
    server = Server("--rename-command", "FUNCTION", "")
    try:
        with pytest.raises(IndexRefused, match="use Redis 7 or newer, or Valkey"):
            async with opened(server):
                pass
    finally:
        server.close()


# Who may be believed


async def test_replica_is_never_read(mine: Server) -> None:
    """A server that became a replica answers no hit; promoted again it waits until it is reconciled."""
    async with opened(mine) as index:
        await index.apply([an_addition(1, "M1", 1)])
        assert await read(index) == ["M1"]
        mine.command("CONFIG", "SET", "replica-serve-stale-data", "yes")
        mine.command("REPLICAOF", "127.0.0.1", str(free_port()))  # nobody there: it keeps its data
        assert [await read(index) for _ in range(5)] == [None] * 5
        with pytest.raises(IndexUnavailable):
            await index.apply([a_removal(2, "M1")])

        mine.command("REPLICAOF", "NO", "ONE")
        await asyncio.sleep(IDENTITY_AGE_S + 0.1)
        assert [await read(index) for _ in range(5)] == [None] * 5
        await reconcile(index, [an_addition(1, "M1", 1)])
        await until(lambda: read(index))
        assert [before.partition(b":")[2] for before in mine.command("HKEYS", "xx:runs")] != [NEVER_PROMOTED.encode()]


async def test_promoted_server_is_not_what_it_was(mine: Server) -> None:
    """Demoted and promoted without anybody reconciling it, a server loses the trust it had before, for good."""
    async with opened(mine) as index:
        await index.apply([an_addition(1, "M1", 1)])
        assert [name.partition(b":")[2] for name in mine.command("HKEYS", "xx:runs")] == [NEVER_PROMOTED.encode()]
        mine.command("REPLICAOF", "127.0.0.1", str(free_port()))
        mine.command("REPLICAOF", "NO", "ONE")
        await asyncio.sleep(IDENTITY_AGE_S + 0.1)
        assert await read(index) is None
        await until(lambda: not mine.command("HKEYS", "xx:runs"))


async def test_real_replica_is_never_read() -> None:
    """A replica that has every record answers none of them; its primary, now with a replica, is trusted as before."""
    replica = Server(port=free_port())
    primary = Server(port=free_port())
    try:
        async with opened(primary) as index:
            await index.apply([an_addition(1, "M1", 1)])
            replica.command("REPLICAOF", "127.0.0.1", str(primary.port))
            await until(lambda: replica.command("EXISTS", b"xx:1:k:" + LISTED), 20)
            copy = open_index(replica.url)
            await copy.open(KEY, create=False)
            assert [await read(copy) for _ in range(5)] == [None] * 5
            await asyncio.sleep(IDENTITY_AGE_S + 0.1)
            assert await read(index) == ["M1"]
            await copy.close()
    finally:
        replica.close()
        primary.close()


async def reconcile(index: ExactIndex, log: list[Change]) -> None:
    """What the importer does after a primary changed."""
    async with index.lease("importer"):
        assert await index.primaries_unreconciled()
        await index.apply(log)
        await index.mark_reconciled()


async def test_restarted_server_waits_for_reconciliation(own: Server) -> None:
    """A restarted server may come from an old backup: its hits are None until the change log was applied again."""
    async with opened(own) as index:
        log: list[Change] = [an_addition(1, "M1", 1), an_addition(2, "M2", 1), a_removal(3, "M2")]
        await index.apply(log)
        position = await index.journal_end()
        own.kill()
        own.start()
        await until(lambda: index._readers[index._routing.nodes()[0]]._idle)
        assert [await read(index) for _ in range(5)] == [None] * 5
        assert any("UNKNOWN until" in warning for warning in (await index.stats()).warnings)

        await reconcile(index, log)
        await until(lambda: read(index))
        assert await read(index) == ["M1", "M2"]
        assert await index.primaries_unreconciled() == []
        assert (await index.journal_read(position, 0)).reset  # entries may have been lost and numbered anew

    async with opened(own) as again:
        assert await read(again) == ["M1", "M2"]


async def test_restart_during_reconciliation(own: Server) -> None:
    """A server that restarts between the question and the mark is not the one that was reconciled."""
    async with opened(own) as index:
        await index.apply([an_addition(1, "M1", 1)])
        own.kill()
        own.start()
        async with index.lease("importer"):
            assert await index.primaries_unreconciled()
            own.kill()
            own.start()
            await until(lambda: mark(index))
            assert await index.primaries_unreconciled()
        await until(lambda: index._readers[index._routing.nodes()[0]]._idle)
        assert await read(index) is None


async def mark(index: ExactIndex) -> bool:
    try:
        await index.mark_reconciled()
    except IndexUnavailable:
        return False
    return True


async def test_index_that_lost_its_description(own: Server) -> None:
    """Keys without the index's description are never taken for an empty index."""
    async with opened(own) as index:
        await index.apply([an_addition(1, "M1", 1)])
    own.command("DEL", "xx:gen")
    with pytest.raises(IndexRefused, match="lost its description"):
        async with opened(own):
            pass


async def test_foreign_value_under_a_key(own: Server) -> None:
    """What was not written by us is None, not an error and not 'nobody listed'."""
    async with opened(own) as index:
        own.command("SET", b"xx:1:k:" + LISTED, "text")
        own.command("HSET", b"xx:1:k:" + digest(2), "M1", "short")
        assert await index.get_many([LISTED, digest(2), digest(3)], 5) == [None, None, ()]


# The lease


async def test_lease_runs_out_when_its_holder_hangs(own: Server) -> None:
    """An importer that stopped renewing loses the lease after its time, and can acknowledge nothing afterwards."""
    async with opened(own, lease_ttl_s=60) as slow, opened(own) as next_one, slow.lease("slow") as lease:
        assert slow._lease_keeper is not None
        slow._lease_keeper.cancel()
        await lease.advance(Head(5, 5, 0))
        assert lease_until(own) - int(own.command("HGET", "xx:importer", "since")) == 60_000
        assert not await takes(next_one)
        own.command("HSET", "xx:importer", "until", int(time.time() * 1000) - 1)
        assert await takes(next_one)
        with pytest.raises(IndexRefused, match="lost to another importer"):
            await lease.advance(Head(6, 6, 0))
        with pytest.raises(IndexRefused, match="lost to another importer"):
            await slow.mark_reconciled()
        assert await next_one.head() == Head(5, 5, 0)


async def takes(index: ExactIndex) -> bool:
    """Whether the lease can be had."""
    try:
        async with index.lease("next"):
            return True
    except IndexRefused:
        return False


async def test_lease_is_renewed(own: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder that does nothing has its lease renewed again and again, each third of its time, and keeps it."""
    every: list[float] = []
    often = property(lambda _: 0.05, lambda _, seconds: every.append(seconds))
    monkeypatch.setattr(RedisLease, "_every_s", often, raising=False)
    async with opened(own, lease_ttl_s=30) as index, opened(own) as other, index.lease("first") as lease:
        assert every == [10]
        for _ in range(3):
            before = lease_until(own)
            await until(lambda before=before: lease_until(own) > before)  # type: ignore[misc]
        assert not await takes(other)
        await lease.advance(Head(1, 1, 0))


async def test_lease_of_a_dead_process_is_taken_over(own: Server) -> None:
    """An importer that was killed on this machine blocks nobody, although its lease has not run out."""
    async with opened(own, lease_ttl_s=60) as index:
        command = [sys.executable, "-m", "tests.index.child", own.url, "hold-lease"]
        holder = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        assert holder.stdout is not None
        assert await holder.stdout.readline() == b"held\n"
        with pytest.raises(IndexRefused, match=rf"child on {socket.gethostname()} \(process {holder.pid}\) has held"):
            async with index.lease("second"):
                pytest.fail("two importers at work")
        holder.kill()
        await holder.wait()
        async with index.lease("second") as lease:
            await lease.advance(Head(1, 1, 0))


# Killed between two writes

SCENARIO_RUNS = 60


@pytest.fixture(scope="module")
def forked() -> Iterator[Forked]:
    """Runs the scenario in processes of their own."""
    with Forked("tests.index.child") as forked:
        yield forked


def dump(server: Server) -> dict[bytes, dict[bytes, bytes]]:
    """Everything the index holds of measures and keys, and the head; not the journal, which may repeat itself."""
    with server.client() as client:
        names = [name for name in client.scan_iter("xx:1:*", count=1000) if client.type(name) == b"hash"]
        held = {name: client.hgetall(name) for name in names if name != b"xx:1:info"}
        held[b"head"] = {b"head": b" ".join(client.hmget("xx:importer", "sequence", "time", "gap", "seen"))}
        return held


def journaled(server: Server) -> set[bytes]:
    """Every key in the journal."""
    with server.client() as client:
        packed = [fields[b"k"] for _, fields in client.xrange("xx:1:j")]
    return {keys[i : i + 16] for keys in packed for i in range(0, len(keys), 16)}


async def undisturbed(server: Server) -> None:
    """The scenario to its end."""
    async with opened(server) as index:
        await child.scenario(index)


@pytest.mark.parametrize("fault", ["index.write", "index.after_sync", "index.after_advance"])
async def test_importer_killed_between_any_two_writes(server: Server, forked: Forked, fault: str) -> None:
    """Killed after the n-th write, for every n, and run again, an import ends in the state of an undisturbed one."""
    server.command("FLUSHALL")
    await undisturbed(server)
    clean, clean_journal = dump(server), journaled(server)
    assert clean_journal

    kills = 0
    for n in range(1, SCENARIO_RUNS):
        server.command("FLUSHALL")
        code = await asyncio.to_thread(forked.run, server.url, "scenario", fault=f"{fault}:{n}")
        if code == 0:
            break
        assert code == -9
        kills += 1
        await undisturbed(server)
        assert dump(server) == clean
        assert journaled(server) == clean_journal
    else:
        pytest.fail("the scenario never ended")
    assert kills >= 2


# Order of crashes that no random search finds quickly


async def test_removal_after_an_addition_cut_short(own: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A removal lifts every key although a newer addition was recorded by its measure only, and cut short there."""
    async with opened(own) as index:
        await index.apply([an_addition(3, "M1", 1, 2)])

        def die(name: str) -> None:
            raise RuntimeError(name)

        with monkeypatch.context() as patch:
            patch.setattr(faults, "point", die)
            with pytest.raises(RuntimeError, match="after_measures"):
                await index.apply([an_addition(7, "M1", 2)])
        assert await index.apply([a_removal(5, "M1")]) == [Applied.SUPERSEDED]
        found = await index.get_many([digest(1), digest(2)], 5)
        assert [[(m.state, m.sequence) for m in measures or ()] for measures in found] == [[(2, 5)], [(2, 5)]]

        await index.apply([an_addition(7, "M1", 2)])
        found = await index.get_many([digest(1), digest(2)], 5)
        assert [[(m.state, m.sequence) for m in measures or ()] for measures in found] == [[(2, 7)], [(1, 7)]]


# Journal, statistics, URLs


async def test_journal_is_trimmed(own: Server) -> None:
    """Only the newest entries are kept; who is behind them is told to scan again, who is not reads on."""
    async with opened(own, journal_entries=100) as index:
        start = await index.journal_end()
        await index.apply([an_addition(1, "M1", 1)])
        early = await index.journal_end()
        for n in range(2, 400):
            await index.apply([an_addition(n, f"M{n}", n)])
        stats = await index.stats()
        assert 100 <= stats.journal_entries <= 220
        assert stats.journal.entry == 399
        for lost in (start, early):
            page = await index.journal_read(lost, 0)
            assert (page.reset, page.keys, page.position) == (True, [], stats.journal)
        assert len((await index.journal_read(stats.journal._replace(entry=350), 0)).keys) == 49


async def test_journal_of_a_restored_backup(own: Server) -> None:
    """A follower ahead of a journal that went back is reset."""
    async with opened(own) as index:
        for n in range(1, 4):
            await index.apply([an_addition(n, f"M{n}", n)])
        ahead = await index.journal_end()
        own.command("XTRIM", "xx:1:j", "MAXLEN", "0")
        own.command("DEL", "xx:1:j")
        await index.apply([an_addition(9, "M9", 9)])
        assert await index.journal_read(ahead, 0) == ([], Position(ahead.journal_id, 1), True)


async def test_weak_settings_are_named(own: Server) -> None:
    """Each setting that keeps less than promised is a line of its own; good settings give none."""
    async with opened(own) as index:
        assert (await index.stats()).warnings == ()
        own.command("CONFIG", "SET", "appendfsync", "no")
        own.command("CONFIG", "SET", "maxmemory", "1gb", "maxmemory-policy", "allkeys-lru")
        own.command("CONFIG", "SET", "hash-max-listpack-value", "64")
        warnings = "\n".join((await index.stats()).warnings)
        for word in ("appendfsync", "maxmemory-policy", "hash-max-listpack-value"):
            assert word in warnings
        own.command("CONFIG", "SET", "appendonly", "no")
        assert any("appendonly is off" in warning for warning in (await index.stats()).warnings)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "memory",
        "redis://",
        "embedded:",
        "ftp://host",
        "redis://host:port",
        "redis+cluster://h:1,h:x",
        "redis://h?namespace={",
    ],
)
def test_bad_urls(url: str) -> None:
    """A URL nobody can use is refused as a whole with the forms that are known, never quoted back."""
    with pytest.raises(UsageError, match="index URL"):
        open_index(url)


async def test_password_stays_out_of_errors() -> None:
    """An unreachable server is named by host and port, without the URL's password."""
    index = open_index(f"redis://user:hunter2@127.0.0.1:{free_port()}/0")
    with pytest.raises(IndexUnavailable) as caught:
        await index.open(KEY, create=False)
    assert "127.0.0.1" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    await index.close()


async def test_wrong_password() -> None:
    """A refused password is a sentence about user and password."""
    server = Server(port=free_port())
    try:
        server.command("CONFIG", "SET", "requirepass", "hunter2")
        index = open_index(server.url.replace("//", "//:wrong@"))
        with pytest.raises(IndexRefused, match="check user, password"):
            await index.open(KEY, create=False)
        await index.close()
        index = open_index(server.url.replace("//", "//:hunter2@"))
        await index.open(KEY, create=True)
        await index.close()
    finally:
        server.close()


async def test_memory_per_key(mine: Server) -> None:
    """At 100 000 keys a record key costs at most 200 bytes, everything together at most 300 per key."""
    async with opened(mine) as index:
        with mine.client() as behind:
            before = behind.info("memory")["used_memory"]
            keys = 0
            for start in range(0, 40_000, 1000):
                batch = []
                for n in range(start, start + 1000):
                    count = 2 + n % 2
                    batch.append(an_addition(n + 1, f"M{n:010d}", *range(keys, keys + count)))
                    keys += count
                await index.apply(batch)
            assert keys == 100_000
            assert (behind.info("memory")["used_memory"] - before) / keys <= 300
            sample = [behind.memory_usage(b"xx:1:k:" + digest(n)) for n in range(0, keys, 500)]
            assert statistics.mean(sample) <= 200
            assert (await index.stats()).keys == pytest.approx(keys, rel=0.1)
        assert sum([len(batch) async for batch in index.scan()]) == keys
        await index.apply([an_exemption(100_001, "M0000000000")])
