"""The exact index behind one narrow interface; memory and Redis answer the same contract tests.

Obligations of every implementation:
- `get_many` reads from primaries only, answers within its time-out, and never raises for an unreachable store: a key
  it could not read, or may not trust just now, is `None` (UNKNOWN to the caller), the others are answered.
- `apply` is durable when it returns. The newest feed sequence wins per (key, measure); on a tie a tombstone wins; so
  every change may come twice, late, or after a crash between any two writes. A removal known to the measure can never
  be undone by an older addition. Additions also go to the journal before `apply` returns.
- one importer at a time: `lease` refuses a second by name, and everything that says "acknowledged" is fenced by it.

Which change wins, per measure: the newest addition, unless a removal with the same or a newer sequence is known. An
exemption outlives re-additions and removals of its measure. Sent again, the same sequence changes nothing but is
written again, so a crash between any two writes is cured by sending the change again.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from enum import Enum
from typing import NamedTuple, Protocol

from checker.core.changes import Position as Position  # part of this interface
from checker.core.measure import Change, Measure
from checker.errors import IndexRefused

READ_TIMEOUT_S = 0.020
"""Time a read may take unless set otherwise."""
KEY_TIMEOUT_S = 0.0001
"""What each key of a read adds to that: a full batch is work, ours too, and no sign of a sick store."""


class Applied(Enum):
    """What a change did."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"  # known already: the same line again
    SUPERSEDED = "superseded"  # something newer is known of this measure


class Head(NamedTuple):
    """How far the court feed is known. Every line up to `feed_sequence` is applied or durably rejected."""

    feed_sequence: int  # 0: nothing imported yet
    feed_time_ms: int  # the feed's own time for that line; 0: none yet
    gap_since_ms: int  # when a gap in the sequence was first seen; 0: no gap
    seen_up_to: int = 0  # the highest sequence seen behind the gap: it ends when the feed is known so far; 0: none


class JournalPage(NamedTuple):
    """Keys added after a position. `reset`: the position is unknown or trimmed away, scan again."""

    keys: list[bytes]
    position: Position
    reset: bool


class IndexKey(NamedTuple):
    """Which digest key the index was written with: a mismatch refuses to serve or import."""

    key_id: str
    check_value: bytes


class MeasureInfo(NamedTuple):
    """What the operator may see of a measure: never part of an answer to a seller."""

    measure_id: str
    court: str
    case_number: str
    added_sequence: int  # 0: no addition seen
    removed_sequence: int  # 0: not removed, or added again since
    removed_reason: str
    keys: int


class Stats(NamedTuple):
    """What `checker status` prints of the store."""

    keys: int  # lookup keys stored, lifted ones included; an estimate is fine
    memory_bytes: int
    generation: int
    journal: Position
    journal_entries: int
    primaries: int
    warnings: tuple[str, ...]  # weaker persistence than promised, list-pack limits, missing functions: one line each


class Lease(Protocol):
    """The right to import, held by one process; lost when not renewed (the implementation renews it itself)."""

    async def advance(self, head: Head) -> None:
        """Acknowledge: store the head, fenced and durable. IndexRefused when the lease went to another holder.

        The head never goes back: with an older `feed_sequence` only the gap is stored, as it is given.
        """


class ExactIndex(Protocol):
    """See the module's obligations. Raises `IndexUnavailable` (store out of reach) everywhere but in `get_many`."""

    @property
    def publications(self) -> "Publications":
        """The epochs published from this index."""

    @property
    def key(self) -> IndexKey:
        """The digest key that its lookup keys are made with; known once it is open."""

    async def open(self, key: IndexKey, *, create: bool) -> None:
        """Connect, compare the digest key; `create` writes it into an empty index. IndexRefused on a mismatch."""

    async def close(self) -> None:
        """Give every connection back."""

    async def get_many(self, keys: Sequence[bytes], timeout_s: float) -> list[tuple[Measure, ...] | None]:
        """The measures under each 16-byte key, in order; `()` = nobody listed, `None` = could not be read now."""

    async def apply(self, changes: Sequence[Change]) -> list[Applied]:
        """Make the changes durable, in any order, all or in part when it raises; to be sent again after an error.

        Several calls may be under way at once (parse the next batch while the store works on this one). IndexRefused
        for a sequence outside 1..2**53-1 or a measure id that is empty or holds NUL: nothing of the call was written.
        """

    @property
    def generation(self) -> int:
        """The number of the generation that serves: another after each full reload. To be read holding the lease."""

    async def reapply(self, changes: Sequence[Change]) -> None:
        """As `apply`, for what the generation's own change log holds: also what it was loaded with."""

    async def retire(self) -> bool:
        """Delete a generation that served before, if none of the workers reads it any more; whether none is left.

        Only while this index holds the lease (IndexRefused).
        """

    async def head(self) -> Head:
        """How far the feed is known; about each second in a worker, since it also notices a new generation."""

    async def report(self, worker_id: str) -> None:
        """Say which generation this worker reads; at least each second, so that it also follows a switch.

        What is read is deleted only when every worker reports that it reads something else. From the first call on
        look-ups are `None` unless such a report was taken note of, lately.
        """

    async def leave(self, worker_id: str) -> None:
        """The worker reads no more: nobody waits for its report."""

    def lease(self, holder: str) -> AbstractAsyncContextManager[Lease]:
        """Hold the importer's lease while inside. Raises IndexRefused naming the present holder."""

    def scan(self) -> AsyncIterator[list[bytes]]:
        """Every key with at least one active record, in batches, each key at least once; for building a filter."""
        ...

    async def lifted(self) -> int:
        """How many keys have been lifted since the index was made; may count one twice. Tells when to build anew."""

    async def identity(self) -> tuple[str, ...]:
        """Which servers hold what, and how it is spread over them: a scan is whole only if this did not change."""

    async def journal_end(self) -> Position:
        """The present end of the journal: note it before a scan."""

    async def journal_read(self, position: Position, block_s: float) -> JournalPage:
        """Keys added after `position`; waits up to `block_s` seconds for the first.

        Calls that wait come one at a time. One that does not (`block_s` 0) is never held up by one that does.
        """

    async def primaries_unreconciled(self) -> list[str]:
        """Primaries that restarted or changed role since their data was known to be whole; their hits are `None`.

        The remedy: hold the lease, call this, apply every change since the generation's `base_seq` again from the
        change log, call `mark_reconciled`.
        """

    async def mark_reconciled(self) -> None:
        """Trust the primaries which `primaries_unreconciled` last named, if they are still the same processes.

        Only while this index holds the lease (IndexRefused). Journal followers are reset if their journal was on one.
        """

    async def measure(self, measure_id: str) -> MeasureInfo | None:
        """What is known of a measure, for the operator."""

    async def stats(self) -> Stats:
        """Sizes and warnings for `checker status`."""


class Publication(NamedTuple):
    """A published epoch: what `GetManifest` answers, and what the next publication must know of this one."""

    epoch: int
    centre_id: bytes  # 16 bytes
    manifest: bytes  # a serialised Manifest
    signature: bytes
    rulebook: bytes  # its TOML text
    lifted: int  # ExactIndex.lifted() when its scan began
    position: Position = Position(b"", 0)  # the manifest's: edges follow the journal from here; unset: from anywhere


CHUNK_BYTES = 256 * 1024
"""Of a snapshot, as it is kept and sent; the last one is shorter."""


KEPT_EPOCHS = 2
"""Whole, and with the journal behind them."""
JOURNAL_KEPT = 100_000
"""Entries that publishing never trims, so that no node's filter file is cut off from the journal. Never none: the last
entry numbers the next."""
SUPERSEDED_S = 86_400
"""How long an epoch outlives the kept ones, counted from the last time a chunk of it was read."""
EDGE_S = 7 * 86_400
"""How long an edge that reports no more is remembered."""


class Publications(Protocol):
    """Epochs kept in the store, so that every worker of every node can serve them; and what edges report.

    The last two epochs are kept whole. An older one lives on while edges still download it (each read of a chunk keeps
    it a day longer), so that a slow edge ends its download whatever is published meanwhile. Raises IndexUnavailable.
    """

    async def centre_id(self) -> bytes:
        """16 bytes, made when first asked for and kept: the centre's identity."""

    async def renew_centre_id(self) -> bytes:
        """A new identity, after a restore from a backup: edges then accept older epochs, with an alarm."""

    async def latest(self) -> Publication | None:
        """The newest epoch; None: nothing is published yet."""

    async def publish(self, publication: Publication, chunks: Sequence[bytes]) -> bool:
        """Keep an epoch and make it the newest, if it is the one after `latest` of this centre; else False.

        `chunks`: the snapshot in pieces of CHUNK_BYTES. Durable when it returns True: chunks first, then the pointer,
        so a crash leaves the old epoch in force. Also trims the journal to the position of the older epoch kept, or to
        its last JOURNAL_KEPT entries.
        """

    async def chunk(self, centre_id: bytes, epoch: int, number: int) -> bytes | None:
        """One piece of a snapshot; None: that epoch is gone."""

    async def claim(self, builder: str, seconds: float) -> bool:
        """Whether `builder` may build for so long: nobody else does. Claim again to go on, for 0 seconds to let go.

        Only spares a scan: what keeps two epochs apart is `publish`.
        """

    async def report_edge(self, edge_id: str, status: bytes) -> None:
        """Keep the last status an edge reported (a serialised EdgeStatus), with the store's time."""

    async def edges(self) -> list[tuple[int, bytes]]:
        """Last reports: (milliseconds since the epoch, status), of edges heard of within a week."""


MAX_SEQUENCE = 2**53 - 1
"""The store's own functions compare sequences as doubles."""


def check_change(change: Change) -> None:
    """Refuse what the store could not keep apart. Raises IndexRefused."""
    if not 0 < change.sequence <= MAX_SEQUENCE:
        raise IndexRefused("sequence outside 1..2**53-1: the court's numbering must be continued, not restarted")
    if not change.measure_id or "\0" in change.measure_id:
        raise IndexRefused(f"sequence {change.sequence}: measure_id is empty or holds a NUL character")


def newer(given: bytes, stored: bytes | None) -> bool:
    """Whether an encoded record displaces the stored one: higher sequence, or on a tie the more final state."""
    return stored is None or given[:9] > stored[:9]  # sequence big-endian, then ACTIVE < SHIELDED < REVOKED


def compare_keys(stored: IndexKey, given: IndexKey) -> None:
    """Refuse a digest key that is not the index's. Raises IndexRefused."""
    if stored.key_id != given.key_id:
        raise IndexRefused(
            f"the index was written with digest key {stored.key_id!r}, the key file offers {given.key_id!r}: "
            "use the key file the index was written with, or import into a new index"
        )
    if stored.check_value != given.check_value:
        raise IndexRefused(
            f"digest key {given.key_id!r} of the key file is not the one the index was written with, although it has "
            "the same id: use the key file the index was written with, or import into a new index"
        )


def lease_held(holder: str, since_ms: int) -> IndexRefused:
    """The refusal of a second importer."""
    since = datetime.fromtimestamp(since_ms / 1000, UTC).isoformat(timespec="seconds")
    return IndexRefused(f"importer {holder} has held the lease since {since}; wait for it or stop it")


def lease_lost() -> IndexRefused:
    """What an importer learns that was too slow to renew its lease."""
    return IndexRefused(
        "the importer's lease was lost to another importer; nothing more is acknowledged here: run the import again"
    )
