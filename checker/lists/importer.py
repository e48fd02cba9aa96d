"""Court feeds into the exact index: validated, in sequence, removals first, and safe to kill at any moment.

Two passes over the files, in the order of their first sequences.

1. Manifests are verified against the files before anything else. Then every line is parsed and judged. Removals,
   revocations and exemptions are applied at once: they overtake additions, also those beyond a gap. Additions are
   digested, encoded and put into a spool (a nameless temporary file, which holds what the store will hold).
2. Additions up to the first gap in the sequence are applied in batches. Beyond it they are frozen: counted, not
   applied.

A batch is durable in the index, then in the change log, then acknowledged by moving the head: the highest N such that
every line up to N is applied, or rejected in a rejects file that is already on the disk. Whatever the index has seen
twice changes nothing, so the cure for any crash is to run the same import again.

A line whose sequence cannot be read is rejected too. Where just as many such lines stand between two readable ones as
sequences are missing there, those are their sequences, and they make no gap.
"""

import asyncio
import gc
import os
import socket
import struct
import tempfile
import time
from array import array
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from checker import faults
from checker.core import feed
from checker.core.feed import MAX_LINE_BYTES, AddLine, Cause, ExemptLine, HeartbeatLine, Rejected, RemoveLine
from checker.core.key import DigestKey
from checker.core.lookup import yyyymmdd
from checker.core.measure import (
    CANARY,
    FOREVER_MS,
    NO_BIRTH_DATE,
    Addition,
    Exemption,
    Item,
    Kind,
    Measure,
    Removal,
    Role,
    State,
    encode_record,
)
from checker.errors import IndexRefused, UsageError
from checker.index.base import Applied, ExactIndex, Head, IndexKey, Lease
from checker.lists import change_log, manifest, names
from checker.lists.change_log import ChangeLog
from checker.lists.manifest import FeedRefused, Manifest
from checker.lists.rejects import Reject, RejectsFiles

CHANGE_LOG: Final = "changes.log"
"""The change log's name in the state directory, until a full reload begins another."""

_CHUNK: Final = 1 << 17
"""Bytes read, and so parsed, between two turns of the event loop: the store works on what overtakes meanwhile."""
_OVERTAKE_EVERY_S: Final = 0.25
_SPOOL_IN_MEMORY: Final = 64 << 20
_IN_FLIGHT: Final = 3  # batches: the store works on two while one is packed
_PEEKED_LINES: Final = 1_000
_SPOOLED: Final = struct.Struct(">QII")  # sequence, document keys, length of the encoded addition


def change_log_in(state: Path, generation: int) -> Path:
    """Where the change log of a generation of the index lies."""
    return state / (CHANGE_LOG if generation == 1 else f"changes-{generation}.log")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _holder() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How to import.

    `courts`: names and keys of the courts whose manifests are trusted. `rejects`: one file for all rejects, None for
    one beside each feed. `state_dir`: where the change log is kept; None only for an index that is lost with this
    process. `holder`: how a second importer names this one. `clock`: milliseconds since the epoch. `canary`: list the
    canary key again at the end, so that edges can tell that what is imported reaches them. `ends_at`: the court's word
    that it has sent no line behind this sequence; what was seen there was a mistake, and nothing waits for it.
    """

    require_manifest: bool = False
    courts: Mapping[str, Ed25519PublicKey] = field(default_factory=dict)
    rejects: Path | None = None
    state_dir: Path | None = None
    holder: str = field(default_factory=_holder)
    batch_keys: int = 2_000
    clock: Callable[[], int] = _now_ms
    canary: bool = False
    ends_at: int | None = None

    def believed(self, head: Head) -> Head:
        """The head without what the court calls a mistake. Raises FeedRefused when the feed is known further."""
        if self.ends_at is None:
            return head
        if self.ends_at < head.feed_sequence:
            raise FeedRefused(
                f"the feed cannot end at sequence {self.ends_at}: the index knows it up to {head.feed_sequence}; "
                "nothing was imported"
            )
        return head._replace(seen_up_to=min(head.seen_up_to, self.ends_at))


Progress = Callable[[int, int], None]
"""Told (bytes done, bytes in all); each byte counts once when parsed and once when its additions are applied."""


@dataclass(slots=True)
class Summary:
    """What an import did. `counts`: op -> applied, unchanged, superseded, frozen -> lines."""

    lines: int = 0
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    rejected: Counter[str] = field(default_factory=Counter)
    first_sequence: int = 0
    last_sequence: int = 0
    feed_sequence: int = 0
    first_missing: int = 0  # 0: no gap
    seen_up_to: int = 0  # the highest sequence seen behind the gap, now or earlier
    began_at: int = 0  # the sequence an empty index began with
    keys: int = 0
    seconds: float = 0.0
    old_kept: bool = False  # after a reload: the generation that served before could not be deleted yet
    replayed: int = 0  # changes applied again from the change log, because the store had lost its certainty
    rejects_files: list[Path] = field(default_factory=list)
    manifests: list[tuple[Path, Manifest | None]] = field(default_factory=list)

    @property
    def frozen(self) -> int:
        """Additions of these files beyond the gap."""
        return sum(outcomes["frozen"] for outcomes in self.counts.values())

    @property
    def exit_code(self) -> int:
        """1 when any line was rejected, frozen or is missing, so that no script takes it for done."""
        return 1 if self.rejected or self.frozen or self.first_missing else 0

    def as_json(self) -> dict[str, Any]:
        """For `--json`: stable names, plain types."""
        return {
            "lines": self.lines,
            "counts": {op: dict(outcomes) for op, outcomes in sorted(self.counts.items())},
            "rejected": dict(sorted(self.rejected.items())),
            "rejects_files": [str(path) for path in self.rejects_files],
            "first_sequence": self.first_sequence,
            "last_sequence": self.last_sequence,
            "feed_sequence": self.feed_sequence,
            "first_missing": self.first_missing,
            "seen_up_to": self.seen_up_to,
            "frozen": self.frozen,
            "began_at": self.began_at,
            "keys": self.keys,
            "replayed": self.replayed,
            "old_kept": self.old_kept,
            "seconds": round(self.seconds, 3),
            "keys_per_second": round(self.keys / self.seconds) if self.seconds else 0,
            "manifests": [
                {"feed": str(path), "court": sent.court if sent else None, "signed": bool(sent and sent.signed)}
                for path, sent in self.manifests
            ],
        }

    def text(self) -> str:
        """For people: a few lines, the remedy beside each problem."""
        rate = f"{self.keys / self.seconds:,.0f}" if self.seconds else "-"
        lines = [
            f"{self.lines:,} lines, sequence {self.first_sequence} to {self.last_sequence}; "
            f"{self.keys:,} document keys in {self.seconds:.1f} s ({rate}/s)"
        ]
        for op, outcomes in sorted(self.counts.items()):
            said = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(outcomes.items()) if count)
            lines.append(f"  {op:<10}{said}")
        for path, sent in self.manifests:
            if sent is None:
                lines.append(f"{path.name}: no manifest, so nothing vouches for it")
            elif not sent.signed:
                lines.append(f"{path.name}: whole, as its manifest says, but unsigned")
            else:
                lines.append(f"{path.name}: whole, signed by {sent.court}")
        if self.replayed:
            lines.append(f"{self.replayed:,} changes applied again from the change log: the store had restarted")
        if self.began_at > 1:
            lines.append(
                f"the index was empty and begins at sequence {self.began_at}: what came before is not known here"
            )
        if self.rejected:
            lines.append(f"{self.rejected.total():,} lines rejected:")
            lines += [f"  {count:>8,} {cause}" for cause, count in self.rejected.most_common()]
            lines.append(f"see {', '.join(map(str, self.rejects_files))}; have the court correct and send them again")
        if self.first_missing:
            lines.append(
                f"sequence {self.first_missing} is missing, up to {self.seen_up_to} were seen: {self.frozen:,} "
                "additions of these files are frozen behind it, removals and exemptions were applied. Get the missing "
                f"lines and import them, together with every file that has lines from there to {self.seen_up_to}"
            )
        if self.old_kept:
            lines.append(
                "the new generation serves; the old one is kept until every worker reports that it reads the new one: "
                "the next import looks again"
            )
        lines.append(f"the feed is known up to sequence {self.feed_sequence}")
        return "\n".join(lines)


class _Line(NamedTuple):
    """A line and its place. `raw` None: too long to be looked at."""

    number: int
    offset: int
    raw: bytes | None


class Feed(NamedTuple):
    """A feed file and what its manifest says."""

    path: Path
    size: int
    manifest: Manifest | None


class _Run:
    """Consecutive sequences from `first` on, with each line's fingerprint and time (0: rejected or unknown)."""

    __slots__ = ("first", "prints", "times")

    def __init__(self, first: int) -> None:
        self.first = first
        self.prints = array("q")
        self.times = array("q")

    @property
    def end(self) -> int:
        return self.first + len(self.prints)


class _Sequences:
    """Which sequences were seen, and enough of their lines to tell a repetition from a contradiction."""

    def __init__(self) -> None:
        self._runs: list[_Run] = []

    def add(self, sequence: int, fingerprint: int, time_ms: int) -> bool | None:
        """None: new. True: seen with the same content. False: seen with other content."""
        runs = self._runs
        run = runs[-1] if runs else None
        if run is None or run.end != sequence:  # not the line after the one before
            place = bisect_right(runs, sequence, key=_first) - 1
            run = runs[place] if place >= 0 else None
            if run is not None and sequence < run.end:
                return run.prints[sequence - run.first] == fingerprint
            if run is None or run.end != sequence:
                run = _Run(sequence)
                runs.insert(place + 1, run)
        run.prints.append(fingerprint)
        run.times.append(time_ms)
        return None

    def replace(self, sequence: int, fingerprint: int, time_ms: int) -> None:
        """A corrected line takes the place of a rejected one."""
        run = self._runs[bisect_right(self._runs, sequence, key=_first) - 1]
        run.prints[sequence - run.first] = fingerprint
        run.times[sequence - run.first] = time_ms

    def whole_up_to(self, start: int) -> int:
        """The highest N such that every sequence from `start` + 1 to N was seen; `start` when the next is missing."""
        for run in self._runs:
            if run.first > start + 1:
                break
            start = max(start, run.end - 1)
        return start

    def time_at(self, sequence: int) -> int:
        """The time of the last accepted line up to `sequence`; 0 when there is none."""
        for run in reversed(self._runs):
            for place in range(min(sequence, run.end - 1) - run.first, -1, -1):
                if run.times[place]:
                    return run.times[place]
        return 0

    @property
    def lowest(self) -> int:
        return self._runs[0].first if self._runs else 0

    @property
    def highest(self) -> int:
        return self._runs[-1].end - 1 if self._runs else 0


def _first(run: _Run) -> int:
    return run.first


async def import_feeds(
    index: ExactIndex,
    key: DigestKey,
    paths: Sequence[Path],
    options: ImportOptions | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Import court feeds into an open index. When it returns, every removal in them is in force everywhere.

    Raises FeedRefused (nothing was applied), IndexRefused (another importer, another digest key), UsageError (a file
    cannot be read or written), IndexUnavailable: after any of them the same import may simply be run again.
    """
    options = options or ImportOptions()
    if not paths:
        raise UsageError("name at least one feed file to import")
    started = time.perf_counter()
    feeds = await asyncio.to_thread(verified, paths, options)
    faults.point("importer.verified")
    async with index.lease(options.holder) as lease:
        summary = await load(index, lease, key, feeds, options, index.generation, progress)
        await index.retire()  # what a full reload has left behind, if it could not wait
    summary.seconds = time.perf_counter() - started
    return summary


async def load(
    index: ExactIndex,
    lease: Lease,
    key: DigestKey,
    feeds: list[Feed],
    options: ImportOptions,
    generation: int,
    progress: Progress | None,
) -> Summary:
    """`import_feeds` of feeds that were `verified`, holding the lease, with the change log of this generation."""
    with ExitStack() as stack:
        stack.enter_context(_rare_collections())
        log = None
        if options.state_dir is not None:
            path = change_log_in(options.state_dir, generation)
            log = stack.enter_context(ChangeLog(path, IndexKey(key.key_id, key.check_value)))
        rejects = stack.enter_context(closing(RejectsFiles([each.path for each in feeds], options.rejects)))
        work = _Import(index, lease, key, options, log, rejects, progress, sum(each.size for each in feeds))
        return await work.run(feeds)


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Lines make many short-lived values and no cycles: looking for cycles as often as usual costs 9 % of an import."""
    thresholds = gc.get_threshold()
    gc.set_threshold(100_000, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


async def reconcile(index: ExactIndex, log: ChangeLog | None, head: Head) -> int:
    """Cure primaries that restarted or changed role, from the change log; the number of changes applied again.

    Call it holding the lease. Raises IndexRefused when there is no log that knows what the store may have lost.
    """
    doubtful = await index.primaries_unreconciled()
    if not doubtful:
        return 0
    if log is None or (log.fresh and head.feed_sequence > 0):
        raise IndexRefused(
            f"{', '.join(doubtful)} restarted and may have lost changes, and the change log here does not know them: "
            "run the import with the --state-dir used so far, or reload the court's complete feed with --reload"
        )
    replayed = await log.replay(index)
    await index.mark_reconciled()
    return replayed


def verified(paths: Sequence[Path], options: ImportOptions) -> list[Feed]:
    """All feeds, their manifests checked, in the order of their first sequence."""
    feeds = []
    for path in paths:
        sent = manifest.verify(path, options.courts, required=options.require_manifest)
        try:
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                first = _first_sequence(file)
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from None
        if sent is not None and first is not None and not sent.first_sequence <= first <= sent.last_sequence:
            raise FeedRefused(f"{path}: begins outside the sequences its manifest names; ask the court")
        feeds.append((first is None, first or 0, Feed(path, size, sent)))
    feeds.sort(key=lambda entry: entry[:2])
    return [each for _, _, each in feeds]


def _first_sequence(file: IO[bytes]) -> int | None:
    file.seek(0)
    for count, line in enumerate(line for lines in _read(file) for line in lines):
        if line.raw is not None:
            sequence = feed.sequence_of(line.raw)
            if sequence is not None:
                return sequence
        if count == _PEEKED_LINES:
            break
    return None


def _read(file: IO[bytes]) -> Iterator[list[_Line]]:
    """The lines that are not blank, about a megabyte at a time. No line is ever held beyond its permitted length."""
    number, offset = 0, 0  # of the line that begins in `rest`
    rest = b""
    dropped = 0  # bytes of a line that is too long, no longer held
    while True:
        chunk = file.read(_CHUNK)
        pieces = (rest + chunk).split(b"\n")
        rest = pieces.pop() if chunk else b""
        lines = []
        for piece in pieces:
            number += 1
            if dropped:
                lines.append(_Line(number, offset, None))
            elif piece and not piece.isspace():
                lines.append(_Line(number, offset, piece))
            offset += dropped + len(piece) + 1
            dropped = 0
        if len(rest) > MAX_LINE_BYTES:
            dropped += len(rest)
            rest = b""
        yield lines
        if not chunk:
            return


class _Import:
    """One import, from its first line to its acknowledgement."""

    def __init__(
        self,
        index: ExactIndex,
        lease: Lease,
        key: DigestKey,
        options: ImportOptions,
        log: ChangeLog | None,
        rejects: RejectsFiles,
        progress: Progress | None,
        size: int,
    ) -> None:
        self._index = index
        self._lease = lease
        self._key = key
        self._log = log
        self._log_known = log is not None and not log.clean
        self._rejects = rejects
        self._progress = progress or (lambda done, total: None)
        self._size = size
        self._done = 0
        self._batch_keys = options.batch_keys
        self._canary = options.canary
        self._believed = options.believed
        self._now_ms = options.clock()
        self._today = yyyymmdd(self._now_ms)
        self._sequences = _Sequences()
        self._refused: set[int] = set()  # sequences whose line was rejected: a corrected one may follow
        self._known = 0  # the head when the import began
        self._previous: int | None = None  # the last sequence that could be read
        self._unreadable = 0  # lines since then whose sequence could not
        self._ascending = True  # whether additions came in the order of their sequences
        self._last_spooled = 0
        self._waiting: list[tuple[str, Removal | Exemption]] = []
        self._overtaking: asyncio.Task[None] | None = None
        self._overtook_at = 0.0
        spool_dir = None if options.state_dir is None else str(options.state_dir)
        self._spool: IO[bytes] = tempfile.SpooledTemporaryFile(_SPOOL_IN_MEMORY, dir=spool_dir)  # noqa: SIM115  # closed by run
        self._aside: list[bytes] = []  # of the spool, what the lines in hand gave
        self._summary = Summary()

    async def run(self, feeds: list[Feed]) -> Summary:
        summary = self._summary
        with self._spool:
            head = self._believed(await self._index.head())
            summary.manifests = [(each.path, each.manifest) for each in feeds]
            summary.replayed = await reconcile(self._index, self._log, head)
            self._known = head.feed_sequence
            self._previous = head.feed_sequence or None
            try:
                for each in feeds:
                    await self._first_pass(each)
                await self._overtaken()
                await self._overtake()
            finally:
                if self._overtaking is not None:  # parsing failed: end with it, not behind its back
                    self._overtaking.cancel()
                    await asyncio.gather(self._overtaking, return_exceptions=True)
            self._rejects.sync()
            faults.point("importer.rejects-written")
            await self._second_pass(head)
        summary.first_sequence, summary.last_sequence = self._sequences.lowest, self._sequences.highest
        summary.rejects_files = self._rejects.paths()
        if self._log is not None:
            self._log.end_import()
        faults.point("importer.finished")
        return summary

    # ------------------------------------------------------------------------------------------------ first pass

    async def _first_pass(self, each: Feed) -> None:
        sent = each.manifest
        if sent is not None:
            self._previous, self._unreadable = sent.first_sequence - 1, 0
        try:
            with each.path.open("rb") as file:
                for lines in _read(file):
                    for line in lines:
                        self._take(each.path, line)
                    self._spool.write(b"".join(self._aside))
                    self._aside.clear()
                    await self._overtake_beside()
                    self._step(file.tell())
                    await asyncio.sleep(0)  # the lease is renewed, and a server in this process goes on answering
        except OSError as error:
            raise UsageError(f"{each.path}: {error.strerror}; import it again") from None
        self._done += each.size
        if sent is not None:
            self._infer(sent.last_sequence + 1)

    def _take(self, path: Path, line: _Line) -> None:
        """Judge one line: it is rejected, or waits to be applied, or goes to the spool."""
        self._summary.lines += 1
        if line.raw is None:
            self._reject(path, line, Rejected(None, "", Cause.TOO_LONG))
            self._unreadable += 1
            return
        parsed = feed.parse_line(line.raw, self._today)
        sequence = parsed.sequence
        if sequence is None:
            cause = parsed if isinstance(parsed, Rejected) else Rejected(None, "seq", Cause.BAD_SEQUENCE)
            self._reject(path, line, cause)
            self._unreadable += 1
            return
        self._infer(sequence)
        rejected = isinstance(parsed, Rejected)
        time_ms = 0 if isinstance(parsed, Rejected) else self._now_ms if parsed.time_ms is None else parsed.time_ms
        fingerprint = hash(line.raw.strip())
        known = self._sequences.add(sequence, fingerprint, time_ms)
        if known is False and sequence in self._refused and not rejected:
            self._sequences.replace(sequence, fingerprint, time_ms)
            self._refused.discard(sequence)
        elif known is False and not rejected:
            self._reject(path, line, Rejected(sequence, "seq", Cause.DUPLICATE_SEQUENCE))
            return
        match parsed:
            case Rejected():
                self._reject(path, line, parsed)
                if known is None:
                    self._refused.add(sequence)
            case _ if known:
                self._count(_op(parsed), "unchanged")
            case AddLine():
                self._put_aside(parsed)
            case RemoveLine(_, _, measure_id, state, reason):
                self._waiting.append((_op(parsed), Removal(sequence, measure_id, state, reason)))
            case ExemptLine(_, _, measure_id, window, documents):
                keys = tuple(self._key.document(document) for document in documents)
                self._waiting.append((_op(parsed), Exemption(sequence, measure_id, window, keys)))
            case HeartbeatLine():
                self._count("heartbeat", "applied" if sequence > self._known else "unchanged")

    def _infer(self, sequence: int) -> None:
        """Give unreadable lines their sequences, where their number is exactly that of the missing ones before here."""
        if self._unreadable and self._previous is not None and sequence - self._previous - 1 == self._unreadable:
            for missing in range(self._previous + 1, sequence):
                if self._sequences.add(missing, 0, 0) is None:
                    self._refused.add(missing)
        self._previous, self._unreadable = sequence, 0

    def _reject(self, path: Path, line: _Line, rejected: Rejected) -> None:
        self._summary.rejected[rejected.cause] += 1
        self._rejects.add(Reject(path, line.number, line.offset, rejected))

    def _count(self, op: str, outcome: str) -> None:
        self._counted(op)[outcome] += 1

    def _counted(self, op: str) -> Counter[str]:
        return self._summary.counts.setdefault(op, Counter())

    def _put_aside(self, line: AddLine) -> None:
        """Digest and encode an addition: from here on nothing knows a number or a name."""
        key = self._key
        sequence, time_ms, measure_id, kind, court, case_number, items, items_named, from_ms, to_ms, subjects = line
        if from_ms is None:
            from_ms = self._now_ms if time_ms is None else time_ms
        records = {}
        for role, name, name_latin, adult_from_day, documents in subjects:
            digests = names.digests(name, name_latin, key, person=role is not Role.DEBTOR_ENTITY)
            record = encode_record(
                Measure(
                    measure_id,
                    sequence,
                    State.ACTIVE,
                    kind,
                    role,
                    items,
                    items_named,
                    False,
                    from_ms,
                    to_ms,
                    adult_from_day,
                    digests,
                    (),
                )
            )
            for document in documents:
                records[key.document(document)] = record
        encoded = change_log.encode(Addition(sequence, measure_id, records, court, case_number))
        self._aside += (_SPOOLED.pack(sequence, len(records), len(encoded)), encoded)
        self._ascending = self._ascending and sequence > self._last_spooled
        self._last_spooled = sequence

    async def _overtake_beside(self) -> None:
        """Have what was read so far applied while parsing goes on: one lot at a time, since each costs two syncs."""
        now = time.monotonic()
        under_way = self._overtaking is not None and not self._overtaking.done()
        if not self._waiting or under_way or now - self._overtook_at < _OVERTAKE_EVERY_S:
            return
        await self._overtaken()
        self._overtook_at = now
        self._overtaking = asyncio.create_task(self._overtake())

    async def _overtaken(self) -> None:
        """The lot under way is applied when this returns; raises what it met."""
        if self._overtaking is not None:
            under_way, self._overtaking = self._overtaking, None
            await under_way

    async def _overtake(self) -> None:
        """Apply the removals, revocations and exemptions read so far."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        changes = [change for _, change in waiting]
        self._begin()
        verdicts = await self._index.apply(changes)
        faults.point("importer.overtaking-applied")
        self._append(changes, verdicts)
        faults.point("importer.overtaking-logged")
        for (op, _), verdict in zip(waiting, verdicts, strict=True):
            self._count(op, verdict.value)

    def _begin(self) -> None:
        """Before the store learns anything that the log does not know yet."""
        if self._log is not None:
            self._log.begin_import()

    def _append(self, changes: Sequence[Removal | Exemption], verdicts: Sequence[Applied]) -> None:
        if self._log is not None:
            self._log.append(
                [
                    change_log.encode(change)
                    for change, verdict in zip(changes, verdicts, strict=True)
                    if verdict is Applied.APPLIED or self._log_known
                ]
            )

    # ----------------------------------------------------------------------------------------------- second pass

    async def _second_pass(self, head: Head) -> None:
        """Apply additions up to the gap, acknowledging as it goes."""
        sequences, summary = self._sequences, self._summary
        start = head.feed_sequence
        if start == 0 and sequences.lowest > 1:
            start = sequences.lowest - 1
            summary.began_at = sequences.lowest
        last = sequences.whole_up_to(start)
        seen = max(sequences.highest, head.seen_up_to)  # in earlier imports too: what was frozen then still waits
        gap = seen > last
        gap_since_ms = head.gap_since_ms or (self._now_ms if gap else 0)
        if gap:
            summary.first_missing, summary.seen_up_to = last + 1, seen
            # Before anything else: from here on the grace period of hits runs, whatever happens to this process.
            await self._lease.advance(head._replace(gap_since_ms=gap_since_ms, seen_up_to=seen))
        in_flight: deque[tuple[asyncio.Task[list[Applied]], _Batch]] = deque()
        try:
            known = head._replace(gap_since_ms=gap_since_ms, seen_up_to=seen if gap_since_ms else 0)
            for batch in self._batches(last):
                self._begin()
                in_flight.append((asyncio.create_task(self._index.apply(batch.changes)), batch))
                if len(in_flight) == _IN_FLIGHT:
                    await self._acknowledge(*in_flight.popleft(), known)
            while in_flight:
                await self._acknowledge(*in_flight.popleft(), known)
        finally:
            for task, _ in in_flight:
                task.cancel()
            await asyncio.gather(*(task for task, _ in in_flight), return_exceptions=True)
        summary.feed_sequence = max(head.feed_sequence, last if sequences.highest else 0)
        if self._canary and summary.feed_sequence:
            # Not logged: whoever replays the log is an import, and ends with the canary as well.
            await self._index.apply([_canary(self._key, summary.feed_sequence)])
            faults.point("importer.canary-applied")
        if last > head.feed_sequence and sequences.highest:
            time_ms = min(sequences.time_at(last), self._now_ms) or head.feed_time_ms
            await self._lease.advance(Head(last, time_ms, gap_since_ms, seen) if gap else Head(last, time_ms, 0))
        elif head.seen_up_to and not gap:  # an import ended between its last batch and the line above
            await self._lease.advance(head._replace(gap_since_ms=0, seen_up_to=0))
        faults.point("importer.head-advanced")
        self._progress(2 * self._size, 2 * self._size)

    def _batches(self, last: int) -> Iterator["_Batch"]:
        """The spooled additions up to `last`; those beyond are counted as frozen."""
        spool = self._spool
        total = spool.tell()
        spool.seek(0)
        batch = _Batch()
        read = 0
        while head := spool.read(_SPOOLED.size):
            sequence, keys, length = _SPOOLED.unpack(head)
            encoded = spool.read(length)
            read += len(head) + length
            if sequence > last:
                self._count("add", "frozen")
                continue
            (change,) = change_log.decode(encoded)
            batch.changes.append(change)
            batch.encoded.append(encoded)
            batch.keys += keys
            batch.sequence = sequence
            if batch.keys >= self._batch_keys:
                batch.share = read / total
                yield batch
                batch = _Batch()
        if batch.changes:
            batch.share = 1.0
            yield batch

    async def _acknowledge(self, task: "asyncio.Task[list[Applied]]", batch: "_Batch", head: Head) -> None:
        """Index, then change log, then head: the order in which a crash loses nothing. `head`: before the import."""
        verdicts = await task
        faults.point("importer.batch-applied")
        if self._log is not None:
            self._log.append(
                [
                    encoded
                    for encoded, verdict in zip(batch.encoded, verdicts, strict=True)
                    if verdict is Applied.APPLIED or self._log_known
                ]
            )
        faults.point("importer.batch-logged")
        self._counted("add").update([verdict.value for verdict in verdicts])
        self._summary.keys += batch.keys
        # Out of order, a later batch may hold an earlier sequence: then the head moves only at the very end.
        if self._ascending and batch.sequence > head.feed_sequence:
            time_ms = min(self._sequences.time_at(batch.sequence), self._now_ms)
            await self._lease.advance(head._replace(feed_sequence=batch.sequence, feed_time_ms=time_ms))
            faults.point("importer.batch-acknowledged")
        self._progress(self._size + int(self._size * batch.share), 2 * self._size)

    def _step(self, position: int) -> None:
        self._progress(self._done + position, 2 * self._size)


class _Batch:
    """Additions applied together. `sequence`: the last one's. `share`: of the spool, once this is applied."""

    __slots__ = ("changes", "encoded", "keys", "sequence", "share")

    def __init__(self) -> None:
        self.changes: list[Any] = []
        self.encoded: list[bytes] = []
        self.keys = 0
        self.sequence = 0
        self.share = 0.0


def _canary(key: DigestKey, sequence: int) -> Addition:
    """An order against nobody: no document has the key, and it forbids golf only.

    So the index answers a question about a flight with OUT_OF_SCOPE, which no edge can tell from "not listed" by the
    filter, while a lost canary is "not listed" by the index.
    """
    record = encode_record(
        Measure(
            CANARY,
            sequence,
            State.ACTIVE,
            Kind.ORDER,
            Role.DEBTOR_PERSON,
            int(Item.GOLF),
            True,
            False,
            0,
            FOREVER_MS,
            NO_BIRTH_DATE,
            b"",
            (),
        )
    )
    return Addition(sequence, CANARY, {key.canary: record}, "", "")


def _op(line: AddLine | RemoveLine | ExemptLine | HeartbeatLine) -> str:
    """The feed's own word for what a line does."""
    match line:
        case AddLine():
            return "add"
        case RemoveLine():
            return "remove" if line.state is State.SHIELDED else "revoke"
        case ExemptLine():
            return "exempt"
        case HeartbeatLine():
            return "heartbeat"
