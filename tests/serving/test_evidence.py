"""Claims about evidence: every refusal is found again, whoever lacks the key reads nothing, and no sale ever waits."""

import json
import os
import resource
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from checker.core.decision import Advisory, AnsweredBy, Decision, Outcome, Reason
from checker.core.freshness import AsOf
from checker.errors import UsageError
from checker.rpc.decision_id import new_decision_id
from checker.rpc.servicer import Refusal
from checker.serving.evidence import MAGIC, EvidenceSpool, as_json, find, read
from tests.builders import DEBTOR, NOW
from tests.cli.console import run
from tests.waiting import until

KEY = bytes(range(32))
DAY_S = 86_400


def a_refusal(number: int = 0, *, time_ms: int = NOW, measure: str = "M-44052418") -> Refusal:
    """A BARRED of the hot path: digests and ids, nothing else."""
    barred = Decision(
        Outcome.BARRED, Reason.MEASURE_IN_FORCE, AnsweredBy.INDEX, (Advisory.DISPUTED,), "train.g", (measure,)
    )
    digest = b"digest-" + number.to_bytes(9, "big")
    return Refusal(
        decision_id=new_decision_id(time_ms),
        time_ms=time_ms,
        decision=barred,
        keys=(digest,),
        key_id="k1",
        purchase="train",
        act_ms=time_ms,
        service_ms=time_ms,
        rulebook_version="2026.1",
        rulebook_sha256=bytes(32),
        as_of=AsOf(7, time_ms, 0, 0),
        caller="x",
    )


def a_spool(directory: Path, refusals: list[Refusal], *, time_ms: int = NOW, key: bytes = KEY) -> EvidenceSpool:
    """A spool of one worker's life, closed."""
    spool = EvidenceSpool(directory, key, clock=lambda: time_ms / 1000)
    for refusal in refusals:
        spool.record(refusal)
    spool.close()
    return spool


def test_every_record_is_found_by_its_id(tmp_path: Path) -> None:
    """Whatever was recorded is found by the id on the answer, however it is typed, with all that explains it."""
    refusals = [a_refusal(number) for number in range(50)]
    spool = a_spool(tmp_path, refusals)

    for refusal in refusals:
        assert as_json(refusal) == find(tmp_path, KEY, refusal.decision_id.lower())
    assert (spool.written, spool.dropped) == (50, 0)


def test_a_record_says_what_was_decided_and_on_what(tmp_path: Path) -> None:
    """Rule, rulebook, measures, times and data freshness are kept: enough to replay the decision."""
    refusal = a_refusal()
    a_spool(tmp_path, [refusal])
    record = find(tmp_path, KEY, refusal.decision_id)

    assert record == {
        "decision_id": refusal.decision_id,
        "time": "2026-03-10T04:00:00.000Z",
        "outcome": "BARRED",
        "reason": "MEASURE_IN_FORCE",
        "advisories": ["DISPUTED"],
        "purchase": "train",
        "rule": "train.g",
        "rulebook_version": "2026.1",
        "rulebook_sha256": "00" * 32,
        "measures": ["M-44052418"],
        "key_id": "k1",
        "keys": [refusal.keys[0].hex()],
        "act_time": "2026-03-10T04:00:00.000Z",
        "service_time": "2026-03-10T04:00:00.000Z",
        "data_as_of": {"feed_sequence": 7, "feed_time": "2026-03-10T04:00:00.000Z", "snapshot_epoch": 0},
        "answered_by": "INDEX",
        "caller": "x",
    }


def test_the_disk_says_nothing_without_the_key(tmp_path: Path) -> None:
    """No digest, measure, decision id or purchase stands on the disk in the clear; files are the owner's alone."""
    refusal = a_refusal()
    a_spool(tmp_path / "evidence", [refusal])
    (path,) = (tmp_path / "evidence").glob("*.spool")
    raw = path.read_bytes()

    digest = refusal.keys[0]
    for secret in (digest, digest.hex().encode(), b"M-44052418", refusal.decision_id.encode(), b"train"):
        assert secret not in raw
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_another_key_is_refused_by_file(tmp_path: Path) -> None:
    """With another key file nothing is said to be missing: the file and the remedy are named."""
    refusal = a_refusal()
    a_spool(tmp_path, [refusal])

    with pytest.raises(UsageError, match=r"20260310-.*\.spool cannot be opened with this key file"):
        find(tmp_path, bytes(32), refusal.decision_id)


def test_another_workers_unreadable_file_hides_no_record(tmp_path: Path) -> None:
    """A record is found beside files under another key, whichever is read first."""
    for _ in range(4):
        a_spool(tmp_path, [a_refusal()], key=bytes(32))
    refusal = a_refusal(1)
    a_spool(tmp_path, [refusal])
    for _ in range(4):
        a_spool(tmp_path, [a_refusal()], key=bytes(32))

    assert find(tmp_path, KEY, refusal.decision_id) == as_json(refusal)


@pytest.mark.parametrize(
    "decision_id", ["", "x", "0" * 25, "0" * 27, "U" * 26, "Z" * 26, "7ZZZZZZZZZZZZZZZZZZZZZZZZZ", DEBTOR]
)
def test_an_id_that_cannot_be_one_is_refused(tmp_path: Path, decision_id: str) -> None:
    """What is no decision id, or lies beyond the calendar, is a usage error that does not repeat it."""
    with pytest.raises(UsageError, match="decision id") as raised:
        find(tmp_path, KEY, decision_id)
    assert DEBTOR not in str(raised.value)


def test_an_unknown_id_is_no_record(tmp_path: Path) -> None:
    """An id nobody gave is not there; that is no error."""
    a_spool(tmp_path, [a_refusal()])

    assert find(tmp_path, KEY, new_decision_id(NOW)) is None


@pytest.mark.parametrize(("decided_at", "written_at"), [(NOW, NOW + DAY_S * 1000), (NOW, NOW - DAY_S * 1000)])
def test_a_batch_written_on_the_next_day_is_found(tmp_path: Path, decided_at: int, written_at: int) -> None:
    """A decision whose record reached the disk after midnight is found, and one before a clock stepped back."""
    refusal = a_refusal(time_ms=decided_at)
    a_spool(tmp_path, [refusal], time_ms=written_at)

    assert find(tmp_path, KEY, refusal.decision_id) is not None


@pytest.mark.parametrize("tail", [b"\x00", b"\x00\x00\x01\x00", b"\x00\x00\x01\x00nonce", b"\x00" * 500, "cut", "flip"])
def test_a_torn_tail_costs_only_itself(tmp_path: Path, tail: bytes | str) -> None:
    """Whatever a crash or a power cut left at the end of a file, the whole records before it are read."""
    first, last = a_refusal(1), a_refusal(2)
    spool = EvidenceSpool(tmp_path, KEY, clock=lambda: NOW / 1000)
    spool.record(first)
    until(lambda: spool.written == 1)
    spool.record(last)
    spool.close()
    (path,) = tmp_path.glob("*.spool")
    whole = path.read_bytes()
    if isinstance(tail, bytes):
        path.write_bytes(whole + tail)
        expected = [first, last]
    else:
        path.write_bytes(whole[:-1] if tail == "cut" else whole[:-1] + bytes([whole[-1] ^ 1]))
        expected = [first]

    assert [as_json(refusal) for refusal in expected] == list(read(path, KEY))


@pytest.mark.parametrize("content", [b"", b"XX", MAGIC, b"not evidence at all"])
def test_a_file_without_a_frame_has_no_record(tmp_path: Path, content: bytes) -> None:
    """A file a crash left before its first frame, or none of ours, holds nothing and is no error."""
    path = tmp_path / "20260310-1-a.spool"
    path.write_bytes(content)

    assert list(read(path, KEY)) == []


def test_damage_in_the_middle_is_not_passed_over(tmp_path: Path) -> None:
    """Where whole frames follow a damaged one the file was tampered with or rots: that is said, by file."""
    spool = EvidenceSpool(tmp_path, KEY, clock=lambda: NOW / 1000)
    for number in range(1, 4):
        spool.record(a_refusal(number))
        until(partial(lambda expected: spool.written == expected, number))
    spool.close()
    (path,) = tmp_path.glob("*.spool")
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)

    with pytest.raises(UsageError, match="damaged: restore it"):
        list(read(path, KEY))


class Stuck:
    """Holds the spool's thread where it is until released."""

    def __init__(self) -> None:
        self.reached, self.release = threading.Event(), threading.Event()

    def __call__(self) -> float:
        self.reached.set()
        assert self.release.wait(10)
        return NOW / 1000


def test_a_full_ring_drops_and_counts_and_never_blocks(tmp_path: Path) -> None:
    """While the disk hangs, `record` returns at once; what the ring cannot hold is counted, the rest is written."""
    stuck = Stuck()
    spool = EvidenceSpool(tmp_path, KEY, ring=10, clock=stuck)
    assert stuck.reached.wait(10)

    for number in range(25):
        spool.record(a_refusal(number))

    assert (spool.written, spool.dropped) == (0, 15)
    stuck.release.set()
    spool.close()
    assert (spool.written, spool.dropped) == (10, 15)
    spool.record(a_refusal())
    assert spool.dropped == 16


def test_a_disk_that_fails_is_counted_and_survived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Records a disk refuses are counted and said; once it takes them again they are kept."""
    directory = tmp_path / "evidence"
    spool = EvidenceSpool(directory, KEY, clock=lambda: NOW / 1000)
    directory.rename(tmp_path / "away")
    spool.record(a_refusal())
    until(lambda: spool.dropped == 1)
    (tmp_path / "away").rename(directory)
    kept = a_refusal(1)
    spool.record(kept)
    spool.close()

    assert (spool.written, spool.dropped) == (1, 1)
    assert find(directory, KEY, kept.decision_id) is not None
    assert "evidence cannot be written: No such file or directory" in caplog.text


def test_a_disk_that_fills_up_tears_no_later_record(tmp_path: Path) -> None:
    """A write cut short in the middle of a frame loses that frame only: what comes later is read."""
    before, torn, after = a_refusal(1), a_refusal(2, measure="M" * 4000), a_refusal(3)
    spool = EvidenceSpool(tmp_path, KEY, clock=lambda: NOW / 1000)
    spool.record(before)
    until(lambda: spool.written == 1)
    (path,) = tmp_path.glob("*.spool")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that write returns what it took, then EFBIG
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 700, limits[1]))
        spool.record(torn)
        until(lambda: spool.dropped == 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    spool.record(after)
    spool.close()

    assert path.stat().st_size > 700  # a part of the frame did reach the disk
    assert find(tmp_path, KEY, before.decision_id) is not None
    assert find(tmp_path, KEY, torn.decision_id) is None
    assert find(tmp_path, KEY, after.decision_id) is not None
    assert (spool.written, spool.dropped) == (2, 1)


def test_a_record_that_cannot_be_written_does_not_end_the_writing(tmp_path: Path) -> None:
    """A value nobody thought of costs its own batch; the thread goes on."""
    spool = EvidenceSpool(tmp_path, KEY, clock=lambda: NOW / 1000)
    spool.record(a_refusal()._replace(act_ms=10**30))
    until(lambda: spool.dropped == 1)
    spool.record(a_refusal(1))
    spool.close()

    assert (spool.written, spool.dropped) == (1, 1)


def test_evidence_is_deleted_after_its_time_though_nobody_is_refused(tmp_path: Path) -> None:
    """Files older than the retention go when a spool starts, younger ones stay, a stranger's file is not touched."""
    (tmp_path / "20230309-1-a.spool").touch()
    (tmp_path / "20230310-1-a.spool").touch()
    (tmp_path / "notes.txt").touch()
    now = NOW / 1000
    spool = EvidenceSpool(tmp_path, KEY, retention_days=3 * 365 + 1, clock=lambda: now)
    spool.close()

    assert sorted(os.listdir(tmp_path)) == ["20230310-1-a.spool", "notes.txt"]


def test_a_new_day_is_a_new_file_and_a_purge(tmp_path: Path) -> None:
    """At midnight UTC the spool turns the page by itself."""
    now = [NOW / 1000]
    spool = EvidenceSpool(tmp_path, KEY, retention_days=1, clock=lambda: now[0])
    spool.record(a_refusal())
    until(lambda: spool.written == 1)
    now[0] += 2 * DAY_S
    spool.record(a_refusal(1))
    until(lambda: spool.written == 2)
    spool.close()

    assert [path.name[:8] for path in tmp_path.glob("*.spool")] == ["20260312"]


def test_many_writers_share_a_directory(tmp_path: Path) -> None:
    """Workers write files of their own; every record of each is found."""
    spools = [EvidenceSpool(tmp_path, KEY, clock=lambda: NOW / 1000) for _ in range(4)]
    refusals = [a_refusal(number) for number in range(100)]
    for number, refusal in enumerate(refusals):
        spools[number % 4].record(refusal)
    for spool in spools:
        spool.close()

    assert all(find(tmp_path, KEY, refusal.decision_id) for refusal in refusals)


def test_explain_shows_the_record_and_notes_the_look(tmp_path: Path) -> None:
    """`checker explain` prints the record from the disk and leaves who looked in access.log, found or not."""
    key_file = tmp_path / "key.json"
    assert run("keys", "new", "--key-file", key_file).code == 0
    from checker import keys

    refusal = a_refusal()
    a_spool(tmp_path / "evidence", [refusal], key=keys.load(key_file).evidence_key)
    asked = ("explain", refusal.decision_id.lower(), "--state-dir", tmp_path, "--key-file", key_file)
    told = run(*asked, "--json")
    missed = run("explain", new_decision_id(NOW), "--state-dir", tmp_path, "--key-file", key_file)

    assert told.code == 0, told.err
    assert json.loads(told.out) == as_json(refusal)
    assert missed.code == 1
    lines = [json.loads(line) for line in (tmp_path / "evidence" / "access.log").read_text().splitlines()]
    assert lines[0]["decision_id"] == refusal.decision_id
    assert len(lines) == 2
    assert (tmp_path / "evidence" / "access.log").stat().st_mode & 0o777 == 0o600


def test_until_gives_up() -> None:
    """The helper of these tests fails loudly instead of waiting for ever."""
    never: Callable[[], bool] = lambda: False  # noqa: E731
    with pytest.raises(AssertionError):
        until(never, seconds=0.01)
