"""A lift applies at once (design.md §1, 3), whoever asks, however many ask, and whatever dies in between.

Callers ask without pause over fifty connections to two workers while `checker import` runs beside them. A lift is
acknowledged when that command has ended; every question put after that moment is judged.
"""

import asyncio
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from checker import keys as key_files
from checker.index.base import IndexKey
from checker.index.urls import open_index
from checker.lists.importer import ImportOptions, import_feeds
from tests.paths.people import add, exempt, flight, heartbeat, remove, resident_id
from tests.paths.stand import Answer, Callers, Checker, Stand, aside, wait_for

CALLERS = 50
PAUSE_S = 0.1  # of each caller after each answer: imports get some of the processors, too
STANDSTILL_S = 0.1
PATIENT = ("--index-timeout-ms", "10000")  # the store's 20 ms are another test's subject (test_index_lost)


class Centre(NamedTuple):
    """A stand of two workers, and the numbers not used yet: of people, and of feed lines."""

    stand: Stand
    checker: Checker
    people: Iterator[int]
    sequences: Iterator[int]

    def listed(self, number: int) -> list["Person"]:
        """So many people, each under an order that has been imported; the callers may begin."""
        people = [Person(resident_id(each), f"M{each}") for _, each in zip(range(number), self.people, strict=False)]
        self.send(*(add(next(self.sequences), person.measure, person.number) for person in people))
        return people

    def send(self, *lines: dict[str, Any]) -> Path:
        """Import these lines; they are acknowledged when this returns."""
        feed = self.stand.feed(f"feed-{lines[0]['seq']}.jsonl", *lines)
        self.stand.import_(feed)
        return feed


class Person(NamedTuple):
    number: str
    measure: str


@pytest.fixture(scope="module")
def centre(stand_of: Callable[..., Stand]) -> Centre:
    """An embedded index served by two workers."""
    stand = stand_of()
    stand.import_(stand.feed("first.jsonl", heartbeat(1)))
    checker = stand.serve(*PATIENT, workers=2)
    wait_for("both workers", lambda: len(checker.answering()) == 2)
    return Centre(stand, checker, count(1), count(2))


def asking(centre: Centre, people: Sequence[Person], pause: float = PAUSE_S) -> Callers:
    return Callers(centre.checker.address, {person.number: flight(person.number) for person in people}, CALLERS, pause)


def outcomes(answers: Sequence[Answer]) -> set[tuple[str, str]]:
    return {(answer.outcome, answer.reason) for answer in answers}


async def all_hear(callers: Callers, person: Person, *said: tuple[str, str]) -> None:
    """Wait until the last answer that each caller was given about this person is one of these."""
    await callers.everyone_hears(person.number, lambda answer: (answer.outcome, answer.reason) in said)


async def all_know(callers: Callers) -> list[set[tuple[str, str]]]:
    """Wait until both workers have read of everybody asked about: what they say then. All said before is forgotten.

    An import is acknowledged before its additions have reached the workers' filters, and a busy one may be late.
    """
    for number in callers.answers:
        await callers.everyone_hears(number, lambda answer: (answer.outcome, answer.reason) != CLEAR)
    said = [outcomes(list(latest.values())) for latest in callers.latest.values()]
    for answers in callers.answers.values():
        answers.clear()
    return said


BARRED = ("BARRED", "MEASURE_IN_FORCE")
LIFTED = ("ALLOWED", "NOT_IN_FORCE")
EXEMPTED = ("ALLOWED", "EXEMPTED")
CLEAR = ("ALLOWED", "NOT_LISTED")


async def test_nobody_is_barred_after_the_lift_is_acknowledged(centre: Centre) -> None:
    """Fifty callers on two workers: not one question put after `checker import` has ended is answered BARRED.

    That holds for removal, revocation and exemption, and for nobody else: who was not lifted stays barred.
    """
    removed, revoked, exempted, kept = await aside(centre.listed, 4)
    async with asking(centre, [removed, revoked, exempted, kept]) as callers:
        for person in (removed, revoked, exempted, kept):
            await all_hear(callers, person, BARRED)
        await aside(
            centre.send,
            remove(next(centre.sequences), removed.measure),
            remove(next(centre.sequences), revoked.measure, "revoke"),
            exempt(next(centre.sequences), exempted.measure),
        )
        acknowledged = time.monotonic()
        await callers.everyone_asks(3)
    assert callers.failures == []
    assert all(len(callers.after(number, acknowledged)) >= 3 * CALLERS for number in callers.answers)
    assert outcomes(callers.after(removed.number, acknowledged)) == {LIFTED}
    assert outcomes(callers.after(revoked.number, acknowledged)) == {LIFTED}
    assert outcomes(callers.after(exempted.number, acknowledged)) == {EXEMPTED}
    assert outcomes(callers.after(kept.number, acknowledged)) == {BARRED}


async def test_many_lifts_race_many_callers(centre: Centre) -> None:
    """Twenty removals one after another, each acknowledged by itself, while fifty callers ask about all twenty people
    without a pause."""
    people = await aside(centre.listed, 20)
    acknowledged: dict[str, float] = {}
    keys = key_files.load(centre.stand.key_file)

    async def lift_all() -> None:
        index = open_index(centre.stand.index)
        try:
            await index.open(IndexKey(keys.digest_key.key_id, keys.digest_key.check_value), create=False)
            for person in people:
                line = remove(next(centre.sequences), person.measure)
                feed = centre.stand.feed(f"lift-{person.measure}.jsonl", line)
                summary = await import_feeds(
                    index, keys.digest_key, [feed], ImportOptions(state_dir=centre.stand.state)
                )
                assert summary.exit_code == 0
                acknowledged[person.number] = time.monotonic()
        finally:
            await index.close()

    async with asking(centre, people, pause=0) as callers:
        assert await all_know(callers) == [{BARRED}] * len(people)
        await aside(asyncio.run, lift_all())
        await callers.everyone_asks(1)
    assert callers.failures == []
    for person in people:
        after = callers.after(person.number, acknowledged[person.number])
        assert len(after) >= CALLERS
        assert outcomes(after) == {LIFTED}


async def test_an_addition_bars_on_every_worker_within_a_second(centre: Centre) -> None:
    """A second after `checker import` has ended, every caller is answered BARRED; while it runs, nobody errs.

    Seconds in which a caller heard nothing do not count. Whatever they say, an answer from as much of the feed as the
    addition is never that the person is not listed.
    """
    person = Person(resident_id(next(centre.people)), "added")
    sequence = next(centre.sequences)
    async with asking(centre, [person]) as callers:
        await callers.everyone_asks(1)
        await aside(centre.send, add(sequence, person.measure, person.number))
        acknowledged = time.monotonic()

        def late() -> list[list[Answer]]:
            """For each caller, answers to questions put a second and more after the acknowledgement."""
            said: list[list[Answer]] = [[] for _ in range(CALLERS)]
            for one in callers.after(person.number, acknowledged):
                said[one.caller].append(one)
            return [put_after(answers, acknowledged, 1.0) for answers in said]

        await asyncio.sleep(1.0)
        await callers.until("three late answers each", lambda: min(map(len, late())) >= 3)
    assert callers.failures == []
    assert outcomes([answer for answers in late() for answer in answers]) == {BARRED}
    assert outcomes(callers.answers[person.number]) == {CLEAR, BARRED}
    knowing = [one for one in callers.answers[person.number] if one.response.data_as_of.feed_sequence >= sequence]
    assert outcomes(knowing) == {BARRED}


def put_after(answers: Sequence[Answer], moment: float, seconds: float) -> list[Answer]:
    """One caller's answers to questions put so long after that moment, standstills not counted."""
    found, heard = [], moment
    for answer in answers:
        if answer.asked_at - heard > PAUSE_S + STANDSTILL_S:
            seconds += answer.asked_at - heard - PAUSE_S
        if answer.asked_at >= moment + seconds:
            found.append(answer)
        if answer.seconds > STANDSTILL_S:
            seconds += answer.seconds
        heard = answer.came_at
    return found


async def test_an_old_file_sent_again_revives_nobody(centre: Centre) -> None:
    """Replaying the file with the addition, and then everything in the wrong order, leaves the person free."""
    person = Person(resident_id(next(centre.people)), "replayed")
    added = await aside(centre.send, add(next(centre.sequences), person.measure, person.number))
    removed = await aside(centre.send, remove(next(centre.sequences), person.measure))
    acknowledged = time.monotonic()
    async with asking(centre, [person]) as callers:
        await all_know(callers)
        await aside(centre.stand.import_, added)
        await aside(centre.stand.import_, removed, added)
        await aside(centre.stand.import_, added)
        await callers.everyone_asks(3)
    assert outcomes(callers.after(person.number, acknowledged)) == {LIFTED}


def the_worker(centre: Centre) -> psutil.Process:
    return centre.checker.answering()[0]


def the_companion(centre: Centre) -> psutil.Process:
    (companion,) = set(centre.checker.children()) - set(centre.checker.answering())
    return companion


def the_server(centre: Centre) -> psutil.Process:
    return centre.stand.store()[-1]


def the_supervisor(centre: Centre) -> psutil.Process:
    return centre.stand.store()[0]


@pytest.mark.parametrize("victim", [the_worker, the_companion, the_server, the_supervisor])
async def test_what_was_acknowledged_survives_a_kill(
    centre: Centre, victim: Callable[[Centre], psutil.Process]
) -> None:
    """`kill -9` right after a lift is acknowledged: neither that nor what was listed before is ever forgotten.

    Without the server a hit is UNKNOWN for a moment; at no moment is the lifted person BARRED, and when all is whole
    again the listed one is.
    """
    lifted, kept = await aside(centre.listed, 2)
    async with asking(centre, [lifted, kept]) as callers:
        await all_know(callers)
        await aside(centre.send, remove(next(centre.sequences), lifted.measure))
        acknowledged = time.monotonic()
        await aside(kill, centre, victim)
        await callers.everyone_asks(1)
        await all_hear(callers, kept, BARRED)
        await all_hear(callers, lifted, LIFTED)
    assert outcomes(callers.after(lifted.number, acknowledged)) <= {LIFTED, ("UNKNOWN", "INDEX_UNREACHABLE")}
    assert outcomes(callers.answers[kept.number]) <= {BARRED, ("UNKNOWN", "INDEX_UNREACHABLE")}
    assert callers.failures == []


def kill(centre: Centre, victim: Callable[[Centre], psutil.Process]) -> None:
    """`kill -9`, then wait until the centre is complete again: two workers, a companion, a supervisor, a server."""
    process = victim(centre)
    process.send_signal(signal.SIGKILL)
    wait_for("its end", lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
    wait_for("both workers", lambda: len(centre.checker.answering()) == 2)
    wait_for("the companion", lambda: len(centre.checker.children()) == 3)
    wait_for("the store", lambda: len(centre.stand.store()) == 2)


async def test_a_restart_from_disk_remembers_lifts_and_listings(centre: Centre) -> None:
    """Everything stopped and started again: who was lifted is free, who was listed barred, from the first answer on."""
    lifted, kept = await aside(centre.listed, 2)
    await aside(centre.send, remove(next(centre.sequences), lifted.measure))
    assert await aside(centre.checker.stop) == 0
    await aside(wait_for, "the end of the index", lambda: not centre.stand.store())
    checker = await aside(centre.stand.serve, *PATIENT, workers=2)
    async with asking(centre._replace(checker=checker), [lifted, kept]) as callers:
        await callers.everyone_asks(1)
    assert outcomes(callers.answers[lifted.number]) <= {LIFTED, ("UNKNOWN", "INDEX_UNREACHABLE")}
    assert outcomes(callers.answers[kept.number]) <= {BARRED, ("UNKNOWN", "INDEX_UNREACHABLE")}
    assert BARRED in outcomes(callers.answers[kept.number])
