"""A centre that does as it is told: a real server on loopback, whose truth a test writes and whose faults it orders.

`acknowledged` is the truth: every key the centre said it has. `publish` makes an epoch of it.
"""

import asyncio
import hashlib
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2

from checker import keys as key_files
from checker.core import container, filter_builder
from checker.core.changes import Heartbeat, Position, additions_seal, heartbeat_seal
from checker.core.freshness import AsOf
from checker.core.key import Algorithm
from checker.keys import EdgeKeys, KeyFile
from proto.checker.v1 import filter_pb2 as pb
from proto.checker.v1 import filter_pb2_grpc
from tests.builders import NOW, rulebook

START = Position(b"journal1", 0)
KEYS = key_files.new(Algorithm.BLAKE2B_128, "test-keys")
CHUNK = 4096


def edge_keys(keys: KeyFile = KEYS) -> EdgeKeys:
    """What an edge of this centre holds."""
    return EdgeKeys(keys.active, keys.digest_keys, keys.signing_key.public_key())


def a_key(number: int) -> bytes:
    """A made lookup key."""
    return hashlib.blake2b(number.to_bytes(8, "big"), digest_size=16).digest()


def now_ms() -> int:
    """The wall clock."""
    return time.time_ns() // 1_000_000


def a_snapshot(
    listed: list[bytes],
    *,
    keys: KeyFile = KEYS,
    centre_id: bytes = b"c" * 16,
    epoch: int = 1,
    position: Position = START,
    feed_sequence: int = 0,
    book: bytes | None = None,
    built_ms: int = NOW,
    signed: bool = True,
    **other: Any,
) -> tuple[bytes, pb.GetManifestResponse]:
    """The bytes of a snapshot and its signed manifest. `other`: fields of the manifest that shall lie."""
    text = rulebook().source if book is None else book
    built = filter_builder.build(b"".join([*listed, keys.digest_key.canary]))
    header = container.Header(
        derivation=container.DERIVATION,
        key_id=keys.digest_key.key_id,
        key_check=keys.digest_key.check_value,
        parameters=built.parameters(),
        centre_id=centre_id,
        epoch=epoch,
        journal_id=position.journal_id,
        journal_position=position.entry,
        feed_sequence=feed_sequence,
        feed_time_ms=NOW,
        rulebook_version="test",
        rulebook_sha256=hashlib.sha256(text).digest(),
        built_ms=built_ms,
    )
    raw = container.pack(header, built.bits(), keys.signing_key.sign if signed else None)
    return raw, a_manifest(header, raw, keys, text, **other)


def a_manifest(
    header: container.Header, raw: bytes, keys: KeyFile = KEYS, text: bytes = b"", **other: Any
) -> pb.GetManifestResponse:
    """The signed manifest of a snapshot."""
    fields: dict[str, Any] = {
        "epoch": header.epoch,
        "position": pb.Position(journal_id=header.journal_id, entry=header.journal_position),
        "feed_sequence": header.feed_sequence,
        "key_id": header.key_id,
        "derivation": header.derivation,
        "error_rate": header.parameters.error_rate,
        "size": len(raw),
        "sha256": hashlib.sha256(raw).digest(),
        "centre_id": header.centre_id,
        "key_check": header.key_check,
        "count": header.parameters.count,
        "rulebook_version": header.rulebook_version,
        "rulebook_sha256": header.rulebook_sha256,
    }
    manifest = pb.Manifest(**(fields | other))
    manifest.build_time.FromMilliseconds(header.built_ms)
    signed = manifest.SerializeToString()
    signature = keys.signing_key.sign(b"xianxiao/manifest/1\0" + signed)
    return pb.GetManifestResponse(manifest=signed, signature=signature, rulebook=text)


def additions(base: Position, position: Position, listed: list[bytes], keys: KeyFile = KEYS) -> pb.WatchChangesResponse:
    """Sealed additions."""
    message = pb.Additions(keys=listed, base=_message(base), position=_message(position))
    message.seal = additions_seal(keys.digest_key, base, position, listed)
    return pb.WatchChangesResponse(additions=message)


def heartbeat(beat: Heartbeat, keys: KeyFile = KEYS) -> pb.WatchChangesResponse:
    """A sealed heartbeat."""
    as_of = beat.as_of
    message = pb.Heartbeat(
        position=_message(beat.position),
        feed_sequence=as_of.feed_sequence,
        epoch=as_of.snapshot_epoch,
        centre_id=beat.centre_id,
        rulebook_sha256=beat.rulebook_sha256,
        signing_off=beat.signing_off,
        seal=heartbeat_seal(keys.digest_key, beat),
    )
    message.sent_time.FromMilliseconds(beat.sent_ms)
    message.silence.FromMilliseconds(beat.silence_ms)
    if as_of.feed_time_ms:
        message.feed_time.FromMilliseconds(as_of.feed_time_ms)
    if as_of.gap_since_ms:
        message.gap_since.FromMilliseconds(as_of.gap_since_ms)
    return pb.WatchChangesResponse(heartbeat=message)


def _message(position: Position) -> pb.Position:
    return pb.Position(journal_id=position.journal_id, entry=position.entry)


class ScriptedCentre(filter_pb2_grpc.FilterServiceServicer):
    """See the module. Faults are attributes, in force until changed."""

    def __init__(self, keys: KeyFile = KEYS) -> None:
        self.keys = keys
        self.centre_id = b"c" * 16
        self.journal_id = b"journal1"
        self.acknowledged: list[bytes] = []
        self.entries: list[bytes] = []  # of the journal
        self.trimmed = 0  # entries that are no longer there
        self.epoch = 0
        self.served: dict[tuple[bytes, int], tuple[bytes, pb.GetManifestResponse]] = {}
        self.book = rulebook().source
        self.beat_s = 0.02
        # Faults
        self.manifest: Callable[[pb.GetManifestResponse], pb.GetManifestResponse] = lambda response: response
        self.message: Callable[[pb.WatchChangesResponse], pb.WatchChangesResponse | None] = lambda message: message
        self.chunk: Callable[[pb.SnapshotChunk], pb.SnapshotChunk] = lambda chunk: chunk
        self.between_chunks: Callable[[int], Any] = lambda _: None  # awaited where it is a coroutine; may raise
        self.beating = True
        self.away = False  # every call fails
        self.clock_off_ms = 0
        self.silence_ms = 0
        self.signing_off = False
        self.beat_book: bytes | None = None  # the rulebook that heartbeats name
        # What was asked
        self.watched: list[Position] = []
        self.downloads: list[tuple[int, int]] = []  # epoch, offset
        self.manifests = 0
        self.reports: list[pb.EdgeStatus] = []
        self.sent_bytes = 0
        self._news = asyncio.Event()
        self._calls: set[asyncio.Task[Any]] = set()

    # The truth

    @property
    def end(self) -> Position:
        """The journal's end."""
        return Position(self.journal_id, len(self.entries))

    def add(self, *listed: bytes) -> None:
        """Acknowledge keys."""
        self.acknowledged += listed
        self.entries += listed
        self.wake()

    def end_import(self) -> None:
        """List the canary once more."""
        self.entries.append(self.keys.digest_key.canary)
        self.wake()

    def publish(self, *, keep: int = 2, late: int = 0) -> int:
        """An epoch of all that is acknowledged, but for the `late` last keys; the last `keep` are served."""
        self.epoch += 1
        late = min(late, len(self.entries) - self.trimmed)
        listed = self.acknowledged[: len(self.acknowledged) - late]
        self.served[self.centre_id, self.epoch] = a_snapshot(
            listed,
            keys=self.keys,
            centre_id=self.centre_id,
            epoch=self.epoch,
            position=Position(self.journal_id, len(self.entries) - late),
            feed_sequence=len(listed),
            book=self.book,
            built_ms=now_ms() + self.clock_off_ms if not late else NOW,
        )
        for gone in list(self.served)[:-keep]:
            del self.served[gone]
        self.wake()
        return self.epoch

    def new_journal(self) -> None:
        """Another generation: what was in the old journal is in the index, not in the new journal."""
        self.journal_id = b"j" + struct.pack(">7s", hashlib.sha256(self.journal_id).digest()[:7])
        self.entries = []
        self.trimmed = 0
        self.wake()

    def cut(self) -> None:
        """Break every call under way."""
        for call in list(self._calls):
            call.cancel()

    def wake(self) -> None:
        """Let every stream look again."""
        self._news.set()
        self._news = asyncio.Event()

    def beat(self, position: Position) -> Heartbeat:
        """What is true at the journal's end."""
        published = (self.epoch, self.centre_id) if (self.centre_id, self.epoch) in self.served else (0, bytes(16))
        return Heartbeat(
            position,
            AsOf(len(self.acknowledged), NOW, 0, published[0]),
            now_ms() + self.clock_off_ms,
            self.silence_ms,
            published[1],
            hashlib.sha256(self.book if self.beat_book is None else self.beat_book).digest(),
            self.signing_off,
        )

    # The service

    async def GetManifest(self, request: pb.GetManifestRequest, context: Any) -> pb.GetManifestResponse:  # noqa: N802
        self.manifests += 1
        await self._be_there(context)
        if not self.served:
            await context.abort(grpc.StatusCode.NOT_FOUND, "nothing is published yet")
        return self.manifest(self.served[list(self.served)[-1]][1])

    async def GetSnapshot(  # noqa: N802
        self, request: pb.GetSnapshotRequest, context: Any
    ) -> AsyncIterator[pb.SnapshotChunk]:
        await self._be_there(context)
        self.downloads.append((request.epoch, request.offset))
        async with self._call(context):
            offset = request.offset
            while True:
                found = self.served.get((request.centre_id, request.epoch))
                if found is None:
                    await context.abort(grpc.StatusCode.NOT_FOUND, "this epoch is gone")
                    return
                raw = found[0]
                if offset >= len(raw):
                    return
                waited = self.between_chunks(offset)
                if asyncio.iscoroutine(waited):
                    await waited
                if isinstance(waited, float):
                    await exhausted(context, waited)
                if waited is False:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
                yield self.chunk(pb.SnapshotChunk(offset=offset, data=raw[offset : offset + CHUNK]))
                offset += CHUNK

    async def WatchChanges(  # noqa: N802
        self, request: pb.WatchChangesRequest, context: Any
    ) -> AsyncIterator[pb.WatchChangesResponse]:
        await self._be_there(context)
        position = Position(request.position.journal_id, request.position.entry)
        self.watched.append(position)
        async with self._call(context):
            due = 0.0
            while True:
                news = self._news
                if position.journal_id != self.journal_id or not self.trimmed <= position.entry <= len(self.entries):
                    yield pb.WatchChangesResponse(reset=pb.Reset(reason="unknown"))
                    return
                if position != self.end:
                    message = additions(position, self.end, self.entries[position.entry :], self.keys)
                    position = self.end
                    for sent in self._sent(message):
                        yield sent
                    continue  # more may have been acknowledged meanwhile: a heartbeat is for all of it
                if self.beating and time.monotonic() >= due:
                    due = time.monotonic() + self.beat_s
                    for sent in self._sent(heartbeat(self.beat(position), self.keys)):
                        yield sent
                try:
                    async with asyncio.timeout(max(0.001, due - time.monotonic())):
                        await news.wait()
                except TimeoutError:
                    pass

    def _sent(self, message: pb.WatchChangesResponse) -> list[pb.WatchChangesResponse]:
        sent = self.message(message)
        if sent is None:
            return []
        self.sent_bytes += sent.ByteSize()
        return [sent]

    async def ReportStatus(self, request: pb.ReportStatusRequest, context: Any) -> pb.ReportStatusResponse:  # noqa: N802
        await self._be_there(context)
        self.reports.append(request.status)
        return pb.ReportStatusResponse()

    async def GetEdgeKeys(self, request: pb.GetEdgeKeysRequest, context: Any) -> pb.GetEdgeKeysResponse:  # noqa: N802
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not this centre")
        return pb.GetEdgeKeysResponse()

    async def _be_there(self, context: Any) -> None:
        if self.away:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "away")

    @asynccontextmanager
    async def _call(self, context: Any) -> AsyncIterator[None]:
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        try:
            yield
        except asyncio.CancelledError:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")  # else the caller's end would stay open
        finally:
            self._calls.discard(task)


async def exhausted(context: Any, retry_s: float) -> None:
    """Refuse as the centre does when too many download at once."""
    info = error_details_pb2.RetryInfo()
    info.retry_delay.FromMilliseconds(int(retry_s * 1000))
    status = status_pb2.Status(code=8, message="too many download at once")
    status.details.add().Pack(info)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many download at once")


@asynccontextmanager
async def serving(centre: ScriptedCentre, address: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """The centre behind a real socket; its address."""
    server = grpc.aio.server()
    filter_pb2_grpc.add_FilterServiceServicer_to_server(centre, server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
