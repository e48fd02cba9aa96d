"""Published epochs, kept in the store beside the index they were built from; and what edges last reported.

    NS:snapshots      hash: the centre's id; which epoch is the latest; manifest, signature, rulebook of the kept ones;
                      where the chunks of every epoch are that can still be downloaded; who builds just now
    NS:s:TOKEN:N      string, chunk N of one attempt to publish
    NS:edges          hash, the last report of each edge, with its time

Each attempt writes its chunks under a token of its own, and one compare-and-set makes them an epoch: two nodes that
publish the same epoch at once cannot mix their chunks. What an attempt left that never came to its end is noted before
it is written, and swept away by a later one.

Order of writes: note, chunks, WAITAOF on every primary that was written, pointer, WAITAOF. Then, and again with each
later epoch should it be cut short: superseded chunks begin to expire, the journal is trimmed.
"""

import os
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from struct import Struct
from typing import Any, Final

from checker import faults
from checker.errors import CheckerError, IndexUnavailable
from checker.index import functions
from checker.index.base import EDGE_S, KEPT_EPOCHS, SUPERSEDED_S, Position, Publication
from checker.index.node import pack
from checker.index.reading import fields_of
from checker.index.store import Session, Store

CENTRE_ID_BYTES: Final = 16
RENEW_S: Final = 600.0
"""Between two renewals, by one process, of how long the chunks of an epoch live: reads are more frequent than that."""
_STEP: Final = 4
"""Chunks written at a time: a megabyte, so that the server answers checks in between."""
_ABANDONED_MS: Final = 3_600_000
_ABOUT: Final = Struct(">16sQ8sQ")  # centre id, lifted, journal id and entry
_TIME: Final = Struct(">Q")

Trim = Callable[[Sequence[Position]], Awaitable[None]]
"""Trims the journal behind the positions of the epochs that are kept, the newest first."""


@dataclass(slots=True)
class _Place:
    """Where an epoch's chunks are."""

    token: bytes
    chunks: int
    renewed_s: float = float("-inf")


class RedisPublications:
    """`Publications` on one server or a cluster."""

    def __init__(self, store: Store, trim: Trim, renew_journal: Callable[[], Awaitable[None]]) -> None:
        self._store = store
        self._trim = trim
        self._renew_journal = renew_journal
        self._name = store.name("snapshots")
        self._edges = store.name("edges")
        self._latest: tuple[bytes, Publication] | None = None
        self._places: dict[tuple[bytes, int], _Place] = {}

    async def centre_id(self) -> bytes:
        name = self._name
        made = functions.call(functions.KEEP, name, b"centre", os.urandom(CENTRE_ID_BYTES))
        return bytes(await self._store.one(name, made))

    async def renew_centre_id(self) -> bytes:
        # A restored journal numbers anew what edges have read already under its id.
        await self._renew_journal()
        made = os.urandom(CENTRE_ID_BYTES)
        await self._write([(self._name, pack((b"HSET", self._name, b"centre", made)))])
        return made

    async def latest(self) -> Publication | None:
        name = self._name
        for _ in range(3):  # what it names may be superseded twice before it is read
            latest = await self._store.one(name, pack((b"HGET", name, b"latest")))
            if latest is None:
                return None
            if self._latest is not None and self._latest[0] == latest:
                return self._latest[1]
            epoch = _epoch(latest)
            wanted = [b"%s:%d" % (what, epoch) for what in (b"about", b"manifest", b"signature", b"rulebook")]
            about, *texts = await self._store.one(name, pack((b"HMGET", name, *wanted)))
            if about is not None and None not in texts:
                centre_id, lifted, journal_id, entry = _ABOUT.unpack(about)
                manifest, signature, rulebook = texts
                position = Position(journal_id, entry)
                published = Publication(epoch, centre_id, manifest, signature, rulebook, lifted, position)
                self._latest = (latest, published)
                return published
        raise IndexUnavailable("what is published keeps changing, or is damaged: publish again")

    async def publish(self, publication: Publication, chunks: Sequence[bytes]) -> bool:
        store, name = self._store, self._name
        centre, before = await store.one(name, pack((b"HMGET", name, b"centre", b"latest")))
        if centre != publication.centre_id or publication.epoch != _epoch(before) + 1:
            return False
        await self._sweep()
        token, count = os.urandom(8).hex().encode(), b"%d" % len(chunks)
        await store.one(name, functions.call(functions.WRITING, name, token, count))
        session = Session(0)
        names = self._chunk_names(token, len(chunks))
        for start in range(0, len(chunks), _STEP):
            some = slice(start, start + _STEP)
            packed = [pack((b"SET", name, chunk)) for name, chunk in zip(names[some], chunks[some], strict=True)]
            await store.run(session.call, names[some], packed)
            faults.point("publications.chunks-written")
        await store.sync(session)
        faults.point("publications.chunks-synced")
        if not await self._point(session, publication, before or b"", token, count):
            await self._delete(token, len(chunks))
            return False
        faults.point("publications.pointed")
        with suppress(CheckerError):  # made up for with the next epoch
            await self._retire()
        return True

    async def _point(
        self, session: Session, publication: Publication, before: bytes, token: bytes, count: bytes
    ) -> bool:
        """The compare-and-set; on disk when this returns True."""
        epoch, centre_id, manifest, signature, rulebook, lifted, position = publication
        journal_id = position.journal_id or bytes(8)
        fields = {
            b"about:%d" % epoch: _ABOUT.pack(centre_id, lifted, journal_id, position.entry),
            b"manifest:%d" % epoch: manifest,
            b"signature:%d" % epoch: signature,
            b"rulebook:%d" % epoch: rulebook,
            _place_field(centre_id, epoch): token + b" " + count,
        }
        latest = b"%d %s" % (epoch, token)
        flat = [part for pair in fields.items() for part in pair]
        name = self._name
        packed = functions.call(functions.PUBLISH, name, centre_id, before, latest, b"writing:" + token, *flat)
        (published,) = await self._store.run(session.call, [name], [packed])
        if published == 1:
            await self._store.sync(session)
        return bool(published == 1)

    async def _retire(self) -> None:
        """Let what is not kept any more expire, forget what has, and trim the journal."""
        store, name = self._store, self._name
        stored = fields_of(await store.one(name, pack((b"HGETALL", name))))
        newest = _epoch(stored.get(b"latest"))
        abouts = {
            epoch: _ABOUT.unpack(stored[b"about:%d" % epoch])
            for epoch in range(newest, newest - KEPT_EPOCHS, -1)
            if b"about:%d" % epoch in stored
        }
        kept = {_place_field(centre_id, epoch) for epoch, (centre_id, *_) in abouts.items()}
        gone = []
        for stored_field, value in stored.items():
            what, _, rest = stored_field.partition(b":")
            if what == b"chunks" and stored_field not in kept:
                place = _place(value)
                if not await self._expire(place, b"NX"):
                    gone.append(stored_field)
            elif what in (b"about", b"manifest", b"signature", b"rulebook") and int(rest) <= newest - KEPT_EPOCHS:
                gone.append(stored_field)
        if gone:
            await store.one(name, pack((b"HDEL", name, *gone)))
        await self._trim([Position(journal_id, entry) for _, _, journal_id, entry in abouts.values()])

    async def _expire(self, place: _Place, condition: bytes) -> bool:
        """Set how long an epoch's chunks live (NX: where nothing is set, XX: where it is); False if one is gone."""
        names = self._chunk_names(place.token, place.chunks)
        lives = b"%d" % SUPERSEDED_S
        expire = [pack((b"EXPIRE", name, lives, condition)) for name in names]
        exists = [pack((b"EXISTS", name)) for name in names]
        replies = await self._store.run(Session(0).call, names * 2, expire + exists)
        return all(replies[len(names) :])

    async def chunk(self, centre_id: bytes, epoch: int, number: int) -> bytes | None:
        at = (centre_id, epoch)
        for known in (True, False):  # what is known may have been replaced: an index restored from a backup
            place = self._places.get(at) if known else None
            if place is None:
                field_name = _place_field(centre_id, epoch)
                found = await self._store.one(self._name, pack((b"HGET", self._name, field_name)), "look")
                if found is None:
                    self._places.pop(at, None)
                    return None
                place = self._places[at] = _place(found)
            if number >= place.chunks:
                return None
            name = self._chunk_name(place.token, number)
            data = await self._store.one(name, pack((b"GET", name)), "look")
            if data is not None:
                now = time.monotonic()
                if now - place.renewed_s > RENEW_S:
                    place.renewed_s = now
                    await self._expire(place, b"XX")
                return bytes(data)
        self._places.pop(at, None)
        return None

    async def claim(self, builder: str, seconds: float) -> bool:
        name = self._name
        packed = functions.call(functions.CLAIM, name, builder.encode(), b"%d" % int(seconds * 1000))
        return bool(await self._store.one(name, packed) == 1)

    async def report_edge(self, edge_id: str, status: bytes) -> None:
        name = self._edges
        await self._store.one(name, functions.call(functions.EDGE_REPORT, name, edge_id.encode(), status))

    async def edges(self) -> list[tuple[int, bytes]]:
        name = self._edges
        rows = await self._store.one(name, functions.call(functions.EDGES, name, b"%d" % (EDGE_S * 1000)))
        return [(_TIME.unpack_from(row)[0], row[_TIME.size :]) for row in rows]

    async def _sweep(self) -> None:
        """Delete the chunks of attempts that were cut short."""
        name = self._name
        flat = await self._store.one(name, functions.call(functions.ABANDONED, name, b"%d" % _ABANDONED_MS))
        for token, count in zip(flat[::2], flat[1::2], strict=True):
            await self._delete(token, int(count))

    async def _delete(self, token: bytes, count: int) -> None:
        name = self._name
        names = self._chunk_names(token, count)
        commands = [(each, pack((b"UNLINK", each))) for each in names]
        await self._write([*commands, (name, pack((b"HDEL", name, b"writing:" + token)))])

    async def _write(self, commands: list[tuple[bytes, bytes]]) -> list[Any]:
        """Commands, each with the key it is about; on disk when this returns."""
        session = Session(0)
        replies = await self._store.run(session.call, [name for name, _ in commands], [each for _, each in commands])
        await self._store.sync(session)
        return replies

    def _chunk_name(self, token: bytes, number: int) -> bytes:
        return self._store.namespace + b":s:%s:%d" % (token, number)

    def _chunk_names(self, token: bytes, count: int) -> list[bytes]:
        return [self._chunk_name(token, number) for number in range(count)]


def _epoch(latest: bytes | None) -> int:
    return int(latest.partition(b" ")[0]) if latest else 0


def _place_field(centre_id: bytes, epoch: int) -> bytes:
    return b"chunks:%s:%d" % (centre_id.hex().encode(), epoch)


def _place(value: bytes) -> _Place:
    token, _, count = value.partition(b" ")
    return _Place(token, int(count))


@dataclass(slots=True)
class _Snapshot:
    chunks: Sequence[bytes]
    expires_s: float = float("inf")  # by the steady clock


@dataclass(slots=True)
class Published:
    """What would be on the server: shared by every `MemoryPublications` made with it."""

    centre_id: bytes = field(default_factory=lambda: os.urandom(CENTRE_ID_BYTES))
    epochs: list[Publication] = field(default_factory=list)  # those kept, the newest last
    snapshots: dict[tuple[bytes, int], _Snapshot] = field(default_factory=dict)
    reports: dict[str, tuple[int, bytes]] = field(default_factory=dict)  # by edge: milliseconds, status
    builder: str = ""
    builds_until_s: float = 0.0


class MemoryPublications:
    """`Publications` in this process; nothing survives it."""

    def __init__(self, store: Published, trim: Trim, renew_journal: Callable[[], Awaitable[None]]) -> None:
        self._store = store
        self._trim = trim
        self._renew_journal = renew_journal

    async def centre_id(self) -> bytes:
        return self._store.centre_id

    async def renew_centre_id(self) -> bytes:
        await self._renew_journal()
        self._store.centre_id = os.urandom(CENTRE_ID_BYTES)
        return self._store.centre_id

    async def latest(self) -> Publication | None:
        return self._store.epochs[-1] if self._store.epochs else None

    async def publish(self, publication: Publication, chunks: Sequence[bytes]) -> bool:
        store = self._store
        before = store.epochs[-1].epoch if store.epochs else 0
        if publication.centre_id != store.centre_id or publication.epoch != before + 1:
            return False
        store.snapshots[publication.centre_id, publication.epoch] = _Snapshot(chunks)
        store.epochs.append(publication)
        now = time.monotonic()
        for old in store.epochs[:-KEPT_EPOCHS]:
            store.snapshots[old.centre_id, old.epoch].expires_s = now + SUPERSEDED_S
        del store.epochs[:-KEPT_EPOCHS]
        for at in [at for at, snapshot in store.snapshots.items() if snapshot.expires_s < now]:
            del store.snapshots[at]
        await self._trim([kept.position for kept in reversed(store.epochs)])
        return True

    async def chunk(self, centre_id: bytes, epoch: int, number: int) -> bytes | None:
        snapshot = self._store.snapshots.get((centre_id, epoch))
        now = time.monotonic()
        if snapshot is None or snapshot.expires_s < now or number >= len(snapshot.chunks):
            return None
        if snapshot.expires_s < float("inf"):
            snapshot.expires_s = now + SUPERSEDED_S
        return snapshot.chunks[number]

    async def claim(self, builder: str, seconds: float) -> bool:
        store, now = self._store, time.monotonic()
        if store.builder not in ("", builder) and store.builds_until_s > now:
            return False
        store.builder, store.builds_until_s = builder, now + seconds
        return True

    async def report_edge(self, edge_id: str, status: bytes) -> None:
        self._store.reports[edge_id] = (time.time_ns() // 1_000_000, status)

    async def edges(self) -> list[tuple[int, bytes]]:
        oldest = time.time_ns() // 1_000_000 - EDGE_S * 1000
        self._store.reports = {edge: row for edge, row in self._store.reports.items() if row[0] >= oldest}
        return list(self._store.reports.values())
