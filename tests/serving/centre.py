"""A centre in this process, as edges see it: an index, a worker's follower and hub, both services behind a real socket.
And an edge of a few lines, which believes nothing that is not sealed."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import grpc.aio

from checker import keys as key_files
from checker.core.changes import Heartbeat, Position, additions_seal, heartbeat_seal
from checker.core.freshness import AsOf
from checker.core.key import Algorithm
from checker.index.base import CHUNK_BYTES, ExactIndex, Publication
from checker.rpc.interceptors import Guard, Limits
from checker.rpc.live_filter import LiveFilter
from checker.rpc.roles import Callers
from checker.rpc.server import CHECK_SERVICE, RpcServer, ServerSettings
from checker.rpc.servicer import CheckServicer
from checker.serving import filter_file
from checker.serving.filter_service import FILTER_SERVICE, Admitted, FilterServicer
from checker.serving.follower import Follower
from checker.serving.hub import Hub
from checker.serving.settle import IndexSettler
from proto.checker.v1 import check_pb2_grpc, filter_pb2_grpc
from proto.checker.v1 import filter_pb2 as pb
from tests.builders import KEY, NOW, rulebook
from tests.rpc.servicer import QUICK
from tests.serving.stand import a_live
from tests.waiting import eventually

KEYS = key_files.new(Algorithm.BLAKE2B_128, "test-keys")


class Centre(NamedTuple):
    """One worker and what it is made of."""

    address: str
    live: LiveFilter
    hub: Hub
    follower: Follower
    filters: FilterServicer
    guard: Guard
    server: RpcServer


@asynccontextmanager
async def a_centre(
    index: ExactIndex,
    path: Path,
    *,
    callers: Callers | None = None,
    credentials: grpc.ServerCredentials | None = None,
    admitted: Admitted | None = None,
    limits: Limits | None = None,
    settings: ServerSettings = QUICK,
    listen: str = "127.0.0.1:0",
) -> AsyncIterator[Centre]:
    """A worker over an open index; `path`: of its filter file, built here if it is not there."""
    if not filter_file.stamp(path)[0]:
        header, built = await filter_file.build(index, KEY, rulebook(), 1e-3, lambda: NOW)
        filter_file.write(path, header, built)
    live = a_live()
    hub = Hub(index, index.publications, KEY, live)
    follower = Follower(index, live, hub, KEY, path)
    await follower.start()
    await hub.start()
    filters = FilterServicer(hub, index.publications, KEYS, admitted)
    checks = CheckServicer(live, IndexSettler(index, live, 5.0), lambda _: None)

    def register(registry: Any) -> None:
        check_pb2_grpc.add_CheckServiceServicer_to_server(checks, registry)
        filter_pb2_grpc.add_FilterServiceServicer_to_server(filters, registry)

    guard = Guard(callers or Callers.plaintext(loopback=True), limits=limits)
    server = RpcServer(
        settings,
        register,
        guard,
        listen=listen,
        credentials=credentials,
        services=(CHECK_SERVICE, FILTER_SERVICE),
        on_drain=hub.sign_off,
    )
    address = await server.start()
    try:
        yield Centre(address, live, hub, follower, filters, guard, server)
    finally:
        await server.drain()
        await follower.stop()
        await hub.stop()


def message_of(position: Position) -> pb.Position:
    """As it is sent."""
    return pb.Position(journal_id=position.journal_id, entry=position.entry)


def position_of(message: pb.Position) -> Position:
    """As it is held."""
    return Position(message.journal_id, message.entry)


class Watcher:
    """An edge's end of WatchChanges: asserts that every message is sealed and follows on what it holds."""

    def __init__(self, stub: Any, position: Position) -> None:
        self.position = position
        self.keys: set[bytes] = set()
        self.bytes = 0
        self.messages = 0
        self.beats: list[Heartbeat] = []
        self.reset = False
        self.ended: grpc.aio.AioRpcError | None = None
        self._call = stub.WatchChanges(pb.WatchChangesRequest(position=message_of(position)))
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for message in self._call:
                self.take(message)
        except grpc.aio.AioRpcError as error:
            self.ended = error

    def take(self, message: pb.WatchChangesResponse) -> None:
        """One message."""
        self.bytes += message.ByteSize()
        self.messages += 1
        match message.WhichOneof("event"):
            case "additions":
                some = message.additions
                base, position = position_of(some.base), position_of(some.position)
                assert base == self.position
                assert some.seal == additions_seal(KEY, base, position, some.keys)
                self.keys.update(some.keys)
                self.position = position
            case "heartbeat":
                self.beats.append(heartbeat_of(message.heartbeat))
                assert message.heartbeat.seal == heartbeat_seal(KEY, self.beats[-1])
                assert self.beats[-1].position == self.position
            case _:
                self.reset = True

    async def end(self, seconds: float = 10.0) -> None:
        """Wait for the stream's end."""
        await asyncio.wait_for(asyncio.shield(self._task), seconds)

    async def close(self) -> None:
        """Hang up."""
        self._call.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def beat(self) -> Heartbeat:
        """The next heartbeat."""
        seen = len(self.beats)
        await eventually(lambda: len(self.beats) > seen)
        return self.beats[-1]


def heartbeat_of(message: pb.Heartbeat) -> Heartbeat:
    """As it was sealed."""
    return Heartbeat(
        position_of(message.position),
        AsOf(
            message.feed_sequence,
            message.feed_time.ToMilliseconds(),
            message.gap_since.ToMilliseconds(),
            message.epoch,
        ),
        message.sent_time.ToMilliseconds(),
        message.silence.ToMilliseconds(),
        message.centre_id or bytes(16),
        message.rulebook_sha256,
        message.signing_off,
    )


async def publish(index: ExactIndex, epoch: int, size: int, rulebook: bytes = b"rulebook") -> tuple[Publication, bytes]:
    """An epoch of `size` bytes of no meaning."""
    centre_id = await index.publications.centre_id()
    block = hashlib.blake2b(epoch.to_bytes(8, "big")).digest()
    snapshot = (block * (size // len(block) + 1))[:size]
    manifest = pb.Manifest(epoch=epoch, centre_id=centre_id, size=size, position=message_of(await index.journal_end()))
    published = Publication(epoch, centre_id, manifest.SerializeToString(), b"s" * 64, rulebook, 0)
    chunks = [snapshot[at : at + CHUNK_BYTES] for at in range(0, size, CHUNK_BYTES)]
    assert await index.publications.publish(published, chunks)
    return published, snapshot
