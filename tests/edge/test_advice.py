"""What becomes of an UNKNOWN: kept, asked again, settled, offered, and gone. Real files, real processes, kill -9."""

import asyncio
import base64
import contextlib
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from checker.core.decision import Outcome, Reason
from checker.core.key import Algorithm, DigestKey
from checker.core.purchase import Lodging, Train
from checker.core.stand_in import Failure
from checker.errors import UsageError
from edge import advice as module
from edge.advice import Advice, AdviceQueue
from edge.live import Live
from edge.question import Ask, CentreFailed, Question, Verdict
from proto.checker.v1 import filter_pb2
from tests.builders import KEY, NOW
from tests.edge.asking import BARRED, NOTHING, Ready, a_key, a_live, a_question, a_verdict
from tests.waiting import eventually, until

UNREAD = a_verdict(Outcome.UNKNOWN, Reason.INDEX_UNREACHABLE, decision_id="CENTRE-U")
NAMELESS = a_verdict(Outcome.UNKNOWN, Reason.NAME_REQUIRED, decision_id="CENTRE-N")
TRAIN = Train("G7301", "O", "二等座", is_emu=False, is_standing=False)


@contextlib.asynccontextmanager
async def a_queue(directory: Path, **settings: Any) -> AsyncIterator[AdviceQueue]:
    """A queue, at a clock that stands still."""
    settings.setdefault("clock_ms", lambda: NOW)
    queue = AdviceQueue(directory, settings.pop("key", KEY), **settings)
    try:
        yield queue
    finally:
        await queue.close()


@contextlib.asynccontextmanager
async def replaying(queue: AdviceQueue, ask: Ask, live: Live | None = None) -> AsyncIterator[None]:
    """The queue asks again while this is open; its failure is the test's."""
    task = asyncio.create_task(queue.replay(ask, live or a_live()))
    try:
        yield
        assert not task.done() or task.result() is None
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def offered(queue: AdviceQueue, count: int, caller: str | None = None) -> list[Advice]:
    """The next outcomes."""
    found: list[Advice] = []
    async with asyncio.timeout(60), contextlib.aclosing(queue.watch(caller)) as outcomes:
        async for advice in outcomes:
            found.append(advice)
            if len(found) == count:
                break
    return found


def modes(directory: Path) -> set[int]:
    """Who may read the directory's files."""
    return {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}


def on_disk(directory: Path) -> bytes:
    """Everything in the directory's files."""
    return b"".join(path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file())


# --- keeping -----------------------------------------------------------------------------------------------------


async def test_what_is_put_is_on_disk_within_moments_and_outlives_the_process(tmp_path: Path) -> None:
    """`kill -9` right after: another process finds all of it, with purchase, times and caller."""
    with a_process(tmp_path, 0, 300) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "done"
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    ask = Ready(BARRED)
    async with a_queue(tmp_path) as queue:
        assert queue.waiting == 300
        async with replaying(queue, ask):
            told = await offered(queue, 300)
    assert sorted(advice.decision_id for advice in told) == sorted(f"D{number}" for number in range(300))
    assert {question.key for question in ask.asked} == {a_key(number) for number in range(300)}


@contextlib.contextmanager
def a_process(directory: Path, first: int, count: int) -> Iterator["subprocess.Popen[str]"]:
    """A process that puts `count` questions."""
    command = [sys.executable, "-m", "tests.edge.advice_process", str(directory), str(first), str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_a_put_is_written_without_being_asked_for(tmp_path: Path) -> None:
    """Nobody flushes: a second reader of the file finds it. The writer waits no more than 50 ms before it writes."""
    assert module.GATHER_S <= 0.05
    async with a_queue(tmp_path) as queue:
        queue.put("D1", "rail", [a_question(1)], NOW)
        with contextlib.closing(sqlite3.connect(tmp_path / "advice.sqlite3")) as other:
            await eventually(lambda: other.execute("SELECT count(*) FROM asked").fetchone()[0] == 1, seconds=60)


async def test_what_is_being_written_still_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk takes its time, what was put is neither in the ring nor in the file: it is counted as waiting."""
    async with a_queue(tmp_path) as queue:
        begun, may_end, put = threading.Event(), threading.Event(), queue._store.put

        def slow_put(*arguments: Any) -> int:
            begun.set()
            may_end.wait(30)
            return put(*arguments)

        monkeypatch.setattr(queue._store, "put", slow_put)
        for number in range(3):
            queue.put(f"D{number}", "rail", [a_question(number)], NOW)
        await eventually(begun.is_set)
        assert queue.waiting == 3
        may_end.set()
        await queue.flush()
        assert queue.waiting == 3


async def test_a_process_killed_while_writing_leaves_a_whole_file(tmp_path: Path) -> None:
    """Killed in the middle of many writes, again and again: the file opens, and each answer is there whole or not."""
    for turn in range(3):
        with a_process(tmp_path, turn * 2000, 2000) as process:
            path = tmp_path / "advice.sqlite3"
            until(lambda: path.exists() and path.stat().st_size > 40_000, 60)  # noqa: B023
            process.send_signal(signal.SIGKILL)
            process.wait(10)
        async with a_queue(tmp_path) as queue:
            assert queue.dropped == 0
            async with replaying(queue, Ready(NOTHING)):
                await eventually(lambda: queue.waiting == 0, seconds=60)


async def test_nothing_on_disk_can_be_read(tmp_path: Path) -> None:
    """No key, in any of its forms, and no word of the purchase; the files are their owner's alone."""
    question = a_question(1, purchase=TRAIN)._replace(name_key=a_key(77))
    async with a_queue(tmp_path) as queue:
        queue.put("D1", "rail", [question], NOW)
        await queue.flush()
        raw = on_disk(tmp_path)
        for secret in (question.key, a_key(77)):
            for form in (secret, secret.hex().encode(), base64.b64encode(secret)):
                assert form not in raw
        for word in (b"G7301", "二等座".encode(), b"purchase_", question.purchase):
            assert word not in raw
        assert modes(tmp_path) == {0o600}


async def test_nothing_survives_its_settlement(tmp_path: Path) -> None:
    """Once settled, no byte of the encrypted entry is left in any file of the directory: others' are, and the
    outcome."""
    async with a_queue(tmp_path) as queue:
        for number in range(40):
            queue.put(f"D{number}", "rail", [a_question(number, purchase=TRAIN)], NOW)
        await queue.flush()
        with contextlib.closing(sqlite3.connect(tmp_path / "advice.sqlite3")) as other:
            bodies = [row[0] for row in other.execute("SELECT body FROM waiting UNION ALL SELECT body FROM asked")]
            bodies += [row[0] for row in other.execute("SELECT seal FROM waiting")]
        assert len(bodies) == 120
        assert all(body in on_disk(tmp_path) for body in bodies)
        async with replaying(queue, Ready(BARRED)):
            await eventually(lambda: queue.waiting == 0)
        raw = on_disk(tmp_path)
        assert not any(body[place : place + 12] in raw for body in bodies for place in range(0, len(body) - 12, 12))
        await offered(queue, 40)
        assert b"CENTRE-1" not in on_disk(tmp_path)


def outcomes(directory: Path) -> list[tuple[Any, ...]]:
    """The rows of what is settled and not yet offered."""
    with contextlib.closing(sqlite3.connect(directory / "advice.sqlite3")) as other:
        return other.execute("SELECT * FROM outcomes ORDER BY id").fetchall()


TOLD = [b"D1-booking", b"D2-booking", b"rail-seller", b"CENTRE-1", b"BARRED", b"MEASURE_IN_FORCE"]
"""What must not be readable of two outcomes."""


def readable(raw: bytes) -> set[bytes]:
    """Which of these are found, as they are or as UTF-16."""
    return {word for word in TOLD if word in raw or word.decode().encode("utf-16-le") in raw}


async def test_an_outcome_cannot_be_read_on_disk(tmp_path: Path) -> None:
    """Between settlement and offer no decision id, caller or outcome is in the file, and a refusal is stored as an
    ALLOWED is: neither a column nor a length tells them apart. Planted, each is found."""

    async def ask(question: Question, deadline: float) -> Verdict:
        return BARRED if question.key == a_key(1) else NOTHING

    async with a_queue(tmp_path) as queue:
        queue.put("D1-booking", "rail-seller", [a_question(1)], NOW)
        queue.put("D2-booking", "rail-seller", [a_question(2)], NOW)
        await queue.flush()
        async with replaying(queue, ask):
            await eventually(lambda: queue.waiting == 0)
        rows, raw = outcomes(tmp_path), on_disk(tmp_path)
        assert readable(raw) == set()
        assert [(len(caller), settled_ms, len(body)) for _, caller, settled_ms, body in rows] == [(16, NOW, 284)] * 2
        for word in TOLD:
            assert readable(raw[:5000] + word + raw[5000:]) == {word}
        told = await offered(queue, 2, "rail-seller")
        assert [(one.decision_id, one.outcome.name) for one in told] == [
            ("D1-booking", "BARRED"),
            ("D2-booking", "ALLOWED"),
        ]
        raw = on_disk(tmp_path)
        assert not any(body[place : place + 12] in raw for *_, body in rows for place in range(0, 272, 12))


FORMER = """
CREATE TABLE settled (id INTEGER PRIMARY KEY AUTOINCREMENT, decision_id TEXT, caller TEXT, outcome INTEGER,
                      reason INTEGER, centre_decision_id TEXT, asked_ms INTEGER, settled_ms INTEGER);
"""


async def test_a_file_of_the_former_version_is_encrypted_and_loses_nothing(tmp_path: Path) -> None:
    """Its waiting questions wait on; its outcomes, which lay in the clear, are offered, and are not to be read from the
    moment it is opened. A process of that version that writes once more is read when the file is next opened."""
    async with a_queue(tmp_path) as queue:
        queue.put("D3", "rail-seller", [a_question(3)], NOW)
    rows = [
        ("D1-booking", "rail-seller", int(Outcome.BARRED), int(Reason.MEASURE_IN_FORCE), "CENTRE-1", NOW - 9, NOW),
        ("D2-booking", "air", int(Outcome.ALLOWED), int(Reason.NOT_LISTED), "", NOW - 8, NOW),
    ]
    insert = "INSERT INTO settled VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)"
    with contextlib.closing(sqlite3.connect(tmp_path / "advice.sqlite3")) as former:
        former.executescript(FORMER)
        former.executemany(insert, rows)
        former.commit()
    assert readable(on_disk(tmp_path)) == set(TOLD[:4])
    async with a_queue(tmp_path) as queue:
        assert queue.waiting == 1
        assert readable(on_disk(tmp_path)) == set()
        with contextlib.closing(sqlite3.connect(tmp_path / "advice.sqlite3")) as former:
            former.execute(insert, ("D4", *rows[1][1:]))
            former.commit()
        (told,) = await offered(queue, 1, "rail-seller")
        assert told == Advice(
            "D1-booking", "rail-seller", Outcome.BARRED, Reason.MEASURE_IN_FORCE, "CENTRE-1", NOW - 9, NOW
        )
    async with a_queue(tmp_path) as queue:
        assert [one.decision_id for one in await offered(queue, 2, "air")] == ["D2-booking", "D4"]
        async with replaying(queue, Ready(BARRED)):
            assert (await offered(queue, 1))[0].decision_id == "D3"


async def test_outcomes_under_another_key_are_dropped_and_counted(tmp_path: Path) -> None:
    """After a rotation nobody can read them: whoever may see all finds none, and they are counted."""
    async with a_queue(tmp_path) as queue:
        await settled(queue, "rail", "air")
    async with a_queue(tmp_path, key=DigestKey("other", Algorithm.BLAKE2B_128, bytes(32))) as queue:
        await settled(queue, "rail")
        assert len(await offered(queue, 1)) == 1
        assert queue.dropped == 2


async def test_the_same_question_waits_once_and_answers_each_who_asked(tmp_path: Path) -> None:
    """Three sales, one person, one purchase: one entry, asked once, three outcomes. Another purchase is another."""
    ask = Ready(BARRED)
    async with a_queue(tmp_path) as queue:
        for number in range(3):
            queue.put(f"D{number}", "rail", [a_question(1)], NOW + number)
        queue.put("D3", "rail", [a_question(1, purchase=Lodging(5))], NOW)
        await queue.flush()
        assert queue.waiting == 4
        async with replaying(queue, ask):
            told = await offered(queue, 4)
    assert len(ask.asked) == 2
    assert [(advice.decision_id, advice.asked_ms) for advice in told[:3]] == [
        (f"D{number}", NOW + number) for number in range(3)
    ]


async def test_a_question_keeps_the_moment_it_was_asked_at(tmp_path: Path) -> None:
    """Asked as "now", it is asked again as of then; a stated time stays. Equal only within the hour: a measure that
    begins later must not bar the sale before."""
    ask = Ready(NOTHING)
    hour = 3_600_000
    async with a_queue(tmp_path) as queue:
        queue.put("D1", "", [a_question(1)], NOW)
        queue.put("D2", "", [a_question(1)], NOW + hour)
        queue.put("D3", "", [a_question(2)._replace(act_ms=NOW - 5)], NOW)
        await queue.flush()
        async with replaying(queue, ask):
            await offered(queue, 3)
    assert sorted(question.act_ms for question in ask.asked) == [NOW - 5, NOW, NOW + hour]


async def test_overflow_drops_the_oldest_and_counts(tmp_path: Path) -> None:
    """Room for ten, fifteen put: the last ten wait, five are counted; on disk and in the ring."""
    async with a_queue(tmp_path, capacity=10) as queue:
        for number in range(15):
            queue.put(f"D{number}", "", [a_question(number)], NOW)
        await queue.flush()
        assert (queue.waiting, queue.dropped) == (10, 5)
        async with replaying(queue, Ready(NOTHING)):
            told = await offered(queue, 10)
    assert [advice.decision_id for advice in told] == [f"D{number}" for number in range(5, 15)]


async def test_a_full_ring_drops_the_oldest_and_counts(tmp_path: Path) -> None:
    """The disk is slower than the sales: what cannot be held is counted, the sale is not held up."""
    async with a_queue(tmp_path, ring=10) as queue:
        ready = threading.Event()
        queue._thread.submit(ready.wait)  # the disk: the writer does not come to its first look
        for number in range(15):
            queue.put(f"D{number}", "", [a_question(number)], NOW)
        ready.set()
        await queue.flush()
        assert (queue.waiting, queue.dropped) == (10, 5)


async def test_an_entry_ends_with_the_journey_or_after_a_day(tmp_path: Path) -> None:
    """Travel at noon: at noon it is gone, unsettled and uncounted; without a time, after the set span. What is asked
    about a journey that has begun is not kept at all, and counts as dropped."""
    now = NOW
    ask = Ready(UNREAD)
    async with a_queue(tmp_path, expiry_s=3600, clock_ms=lambda: now) as queue:
        queue.put("D1", "", [a_question(1)._replace(service_ms=NOW + 60_000)], NOW)
        queue.put("D2", "", [a_question(2)], NOW)
        queue.put("D3", "", [a_question(3)._replace(service_ms=NOW)], NOW)
        await queue.flush()
        assert (queue.waiting, queue.dropped) == (2, 1)
        now = NOW + 60_000
        async with replaying(queue, ask):
            await eventually(lambda: len(ask.asked) >= 1)
            assert {question.key for question in ask.asked} == {a_key(2)}
            now = NOW + 3_600_000
            queue.put("D4", "", [a_question(4)], now)
            await queue.flush()
            assert (queue.waiting, queue.dropped) == (1, 1)


async def test_another_key_drops_what_it_cannot_read(tmp_path: Path) -> None:
    """The digest key was changed: old entries are counted as dropped, new ones work."""
    other = DigestKey("test-2", Algorithm.BLAKE2B_128, bytes(32))
    async with a_queue(tmp_path) as queue:
        queue.put("D1", "", [a_question(1)], NOW)
    async with a_queue(tmp_path, key=other) as queue:
        queue.put("D2", "", [a_question(2)], NOW)
        await queue.flush()
        async with replaying(queue, Ready(NOTHING)):
            assert [advice.decision_id for advice in await offered(queue, 1)] == ["D2"]
        assert queue.dropped == 1


async def test_a_damaged_file_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An edge starts whatever became of its queue, and says what was lost."""
    (tmp_path / "advice.sqlite3").write_bytes(b"not a database" * 1000)
    async with a_queue(tmp_path) as queue:
        queue.put("D1", "", [a_question(1)], NOW)
        await queue.flush()
        assert queue.waiting == 1
    assert "damaged" in caplog.text


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """A file stands where the directory should be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file"):
        AdviceQueue(tmp_path / "file", KEY)


async def test_a_disk_that_does_not_take_it_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The table is gone under us: each put is counted as dropped, and nothing raises where sales are made."""
    async with a_queue(tmp_path) as queue:
        with contextlib.closing(sqlite3.connect(tmp_path / "advice.sqlite3")) as other:
            other.execute("DROP TABLE waiting")
        queue.put("D1", "", [a_question(1)], NOW)
        await queue.flush()
        assert queue.dropped == 1
        async with replaying(queue, Ready(NOTHING)):
            await eventually(lambda: "cannot be read" in caplog.text)


# --- asking again ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdict", "settles"),
    [(NOTHING, True), (BARRED, True), (NAMELESS, True), (UNREAD, False), (Failure.LATE, False)],
)
async def test_only_a_definite_outcome_settles(tmp_path: Path, verdict: Verdict | Failure, settles: bool) -> None:
    """ALLOWED, BARRED and NAME_REQUIRED settle. What is still unknown waits on, and is asked about again."""
    ask = Ready(verdict)
    async with a_queue(tmp_path) as queue:
        queue.put("D1", "rail", [a_question(1)], NOW - 7)
        await queue.flush()
        async with replaying(queue, ask):
            if settles:
                assert isinstance(verdict, Verdict)
                expected = Advice("D1", "rail", verdict.outcome, verdict.reason, verdict.decision_id, NOW - 7, NOW)
                assert await offered(queue, 1) == [expected]
                assert queue.waiting == 0
            else:
                await eventually(lambda: len(ask.asked) >= 2)
                assert queue.waiting == 1


async def test_several_keys_are_settled_as_one(tmp_path: Path) -> None:
    """An ambiguous number: settled once every key's answer is definite, and BARRED if any is."""
    said: dict[bytes, Verdict] = {a_key(1): NOTHING, a_key(2): UNREAD}

    async def ask(question: Question, deadline: float) -> Verdict:
        return said[question.key]

    async with a_queue(tmp_path) as queue:
        queue.put("D1", "", [a_question(1), a_question(2)], NOW)
        async with replaying(queue, ask):
            await queue.flush()
            said[a_key(2)] = BARRED
            (told,) = await offered(queue, 1)
            assert (told.outcome, told.centre_decision_id) == (Outcome.BARRED, "CENTRE-1")


async def test_nobody_is_asked_while_the_centre_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without heartbeats nothing is asked; with the first one it begins."""
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    live = a_live()
    live.centre = filter_pb2.CENTRE_STATE_SIGNED_OFF
    ask = Ready(NOTHING)
    async with a_queue(tmp_path) as queue:
        queue.put("D1", "", [a_question(1)], NOW)
        await queue.flush()
        async with replaying(queue, ask, live):
            await asyncio.sleep(0.1)
            assert ask.asked == []
            live.centre = filter_pb2.CENTRE_STATE_REACHABLE
            await offered(queue, 1)


async def test_a_question_that_always_fails_does_not_hold_up_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first page of questions is refused by the centre each time: those behind it have their turn."""
    monkeypatch.setattr(module, "LOOK_S", 0.01)

    async def ask(question: Question, deadline: float) -> Verdict:
        if question.key in refused:
            raise CentreFailed(Failure.UNREACHABLE, "refused")
        return NOTHING

    refused = {a_key(number) for number in range(module.AT_ONCE)}
    async with a_queue(tmp_path) as queue:
        for number in range(module.AT_ONCE + 5):
            queue.put(f"D{number}", "", [a_question(number)], NOW)
        await queue.flush()
        async with replaying(queue, ask):
            told = await offered(queue, 5)
    assert {advice.decision_id for advice in told} == {f"D{module.AT_ONCE + number}" for number in range(5)}


async def test_of_two_processes_one_asks_and_either_offers(tmp_path: Path) -> None:
    """Two queues over one directory (their locks are as two processes'): each question is asked once, by the one that
    holds the lock; when it ends, the other takes over. Whoever watches at either is told once."""
    first_ask, second_ask = Ready(BARRED), Ready(BARRED)
    async with a_queue(tmp_path) as first, a_queue(tmp_path) as second:
        async with replaying(first, first_ask):
            await asyncio.sleep(0.05)
            async with replaying(second, second_ask):
                for number in range(50):
                    (first if number % 2 else second).put(f"D{number}", "", [a_question(number)], NOW)
                told = await offered(second, 50)
                assert len({advice.decision_id for advice in told}) == 50
                assert (len(first_ask.asked), len(second_ask.asked)) == (50, 0)
        async with replaying(second, second_ask):
            first.put("D50", "", [a_question(50)], NOW)
            assert [advice.decision_id for advice in await offered(first, 1)] == ["D50"]
            assert len(second_ask.asked) == 1


async def test_two_processes_write_without_losing_anything(tmp_path: Path) -> None:
    """Two real processes put a thousand each at the same time: two thousand wait."""
    with a_process(tmp_path, 0, 1000) as one, a_process(tmp_path, 1000, 1000) as two:
        for process in (one, two):
            assert process.stdout is not None
            assert (await asyncio.to_thread(process.stdout.readline)).strip() == "done"
    async with a_queue(tmp_path) as queue:
        assert (queue.waiting, queue.dropped) == (2000, 0)


# --- offering ----------------------------------------------------------------------------------------------------


async def settled(queue: AdviceQueue, *callers: str) -> None:
    """One BARRED outcome for each of these callers, in order."""
    for number, caller in enumerate(callers):
        queue.put(f"D{number}", caller, [a_question(number)], NOW)
    await queue.flush()
    async with replaying(queue, Ready(BARRED)):
        await eventually(lambda: queue.waiting == 0)


async def test_a_caller_hears_of_its_own_and_an_operator_of_all(tmp_path: Path) -> None:
    """Two sellers at one node: neither sees the other's; whoever may see all gets what is left."""
    async with a_queue(tmp_path) as queue:
        await settled(queue, "rail", "hotel", "rail", "air")
        assert [advice.decision_id for advice in await offered(queue, 2, "rail")] == ["D0", "D2"]
        assert [advice.decision_id for advice in await offered(queue, 2)] == ["D1", "D3"]


async def test_many_outcomes_are_handed_over_without_a_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a long outage hundreds wait: they come one after another, whatever the time between two looks."""
    async with a_queue(tmp_path) as queue:
        await settled(queue, *[""] * 300)
        monkeypatch.setattr(module, "LOOK_S", 3600.0)
        assert len(await offered(queue, 300)) == 300


async def test_an_outcome_is_handed_over_once_and_what_was_not_is_kept(tmp_path: Path) -> None:
    """A watcher goes after the first of three: the next one is told the other two. A restart in between changes
    nothing."""
    async with a_queue(tmp_path) as queue:
        await settled(queue, "", "", "")
        assert [advice.decision_id for advice in await offered(queue, 1)] == ["D0"]
    async with a_queue(tmp_path) as queue:
        assert {advice.decision_id for advice in await offered(queue, 2)} == {"D1", "D2"}


@pytest.mark.parametrize("passed", [1001, 3_600_000, -1])
async def test_a_refusal_that_may_have_been_lifted_since_means_ask_again(tmp_path: Path, passed: int) -> None:
    """Settled BARRED, handed over more than a second later, or by a clock that was set back: UNKNOWN, DATA_STALE, with
    the centre's decision id. Within the second it is BARRED, and an ALLOWED stays one however old."""
    now = NOW
    async with a_queue(tmp_path, clock_ms=lambda: now) as queue:
        await settled(queue, "", "")
        now = NOW + module.BARRED_MS
        assert [advice.outcome for advice in await offered(queue, 1)] == [Outcome.BARRED]
        queue.put("D2", "", [a_question(2)], NOW)
        await queue.flush()
        async with replaying(queue, Ready(NOTHING)):
            await eventually(lambda: queue.waiting == 0)
        now = NOW + passed
        old, clear = await offered(queue, 2)
    assert (old.outcome, old.reason) == (Outcome.UNKNOWN, Reason.DATA_STALE)
    assert (old.decision_id, old.centre_decision_id, old.settled_ms) == ("D1", BARRED.decision_id, NOW)
    assert (clear.decision_id, clear.outcome) == ("D2", Outcome.ALLOWED)


async def test_a_refusal_given_back_grows_old(tmp_path: Path) -> None:
    """Taken by a watcher that went before it was handed over: whoever comes later is told to ask again."""
    now = NOW
    async with a_queue(tmp_path, clock_ms=lambda: now) as queue:
        await settled(queue, "", "")
        assert [advice.outcome for advice in await offered(queue, 1)] == [Outcome.BARRED]
        now = NOW + 5000
        assert [advice.outcome for advice in await offered(queue, 1)] == [Outcome.UNKNOWN]


async def test_a_callback_is_told_and_may_fail(tmp_path: Path) -> None:
    """The library's form: plain or async; one that raises is told of the next all the same."""
    told: list[str] = []

    async def tell(advice: Advice) -> None:
        told.append(advice.decision_id)
        if len(told) == 1:
            raise ValueError

    async with a_queue(tmp_path) as queue:
        queue.on_advice(tell)
        await settled(queue, "", "", "")
        await eventually(lambda: len(told) == 3)
    assert told == ["D0", "D1", "D2"]


async def test_outcomes_nobody_fetches_are_bounded(tmp_path: Path) -> None:
    """No watcher ever comes: the oldest go, counted, and all go with time."""
    now = NOW
    async with a_queue(tmp_path, capacity=5, expiry_s=60, clock_ms=lambda: now) as queue:
        await settled(queue, *[""] * 5)
        await settled(queue, *[""] * 5)
        assert queue.dropped == 5
        now = NOW + 60_000
        queue.put("D9", "", [a_question(99)], now)
        await queue.flush()
        async with replaying(queue, Ready(NOTHING)):
            assert [advice.decision_id for advice in await offered(queue, 1)] == ["D9"]


async def test_putting_costs_the_sale_next_to_nothing(tmp_path: Path) -> None:
    """A thousand in a row: well below 50 µs each, whatever the disk does."""
    async with a_queue(tmp_path) as queue:
        questions = [[a_question(number)] for number in range(1000)]
        best: float = min(_spent(lambda one=one: queue.put("D", "", one, NOW)) for one in questions)  # type: ignore[misc]
        assert best < 50e-6


def _spent(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
