"""Many light edges in a process of their own, as `python -m tests.serving.edges '{...}'`, told what to do line by line.

They do as they are told: who is refused comes back after the delay it was given (a tenth of it, to be quick). Each line
on standard output is a JSON object: first how they were served; then, for each line `addition` on standard input, when
the next one had reached all of them (seconds since the epoch); for `end`, how their streams ended.
"""

import asyncio
import hashlib
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import uvloop
from google.rpc import error_details_pb2, status_pb2

from checker.rpc.client import open_channel
from proto.checker.v1 import filter_pb2 as pb
from proto.checker.v1 import filter_pb2_grpc

T = TypeVar("T")
AGAIN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED}
SILENCE_S = 5.0
"""How long an edge waits for the manifest, and then tries another stream."""


def retry_s(error: grpc.aio.AioRpcError) -> float:
    """The delay in google.rpc.RetryInfo; asserts that there is one."""
    (raw,) = [value for key, value in error.trailing_metadata() or () if key == "grpc-status-details-bin"]
    status = status_pb2.Status.FromString(raw)
    info = error_details_pb2.RetryInfo()
    assert status.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert status.details[0].Unpack(info)
    seconds: float = info.retry_delay.ToMilliseconds() / 1000
    return seconds


class Edges:
    """`job`: address, edges, journal_id (hex), keys (behind), downloads (how many), epoch, sha256, manifest_bytes."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        channels = [open_channel(job["address"]) for _ in range(4)]  # 1 000 streams fit on a connection
        self._stubs: list[Any] = [filter_pb2_grpc.FilterServiceStub(channel) for channel in channels]
        self.refused = 0
        self.again = 0
        self.manifests = 0

    async def patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Until it is served."""
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                    self.refused += 1
                    await asyncio.sleep(retry_s(error) / 10)
                elif error.code() in AGAIN:
                    self.again += 1
                    await asyncio.sleep(random.uniform(0.05, 0.5))
                else:
                    raise

    async def serve(self, number: int) -> Any:
        """One edge is served: hears from a stream, asks what is published before it believes it, catches up to a
        heartbeat, and perhaps downloads. Returns its stream."""
        stub, job = self._stubs[number % len(self._stubs)], self._job
        position = pb.Position(journal_id=bytes.fromhex(job["journal_id"]), entry=0)

        async def watch() -> Any:
            call = stub.WatchChanges(pb.WatchChangesRequest(position=position))
            try:
                message = await call.read()
                published = await stub.GetManifest(pb.GetManifestRequest(), timeout=SILENCE_S)
                assert published.ByteSize() >= job["manifest_bytes"]
                self.manifests += 1
                keys = 0
                while not message.HasField("heartbeat"):
                    keys += len(message.additions.keys)
                    message = await call.read()
                assert keys == job["keys"]
            except BaseException:
                call.cancel()
                raise
            return call

        async def download() -> None:
            digest = hashlib.sha256()
            async for chunk in stub.GetSnapshot(pb.GetSnapshotRequest(epoch=job["epoch"])):
                digest.update(chunk.data)
            assert digest.hexdigest() == job["sha256"]

        call = await self.patiently(watch)
        if number < job["downloads"]:
            await self.patiently(download)
        return call


async def addition(call: Any) -> None:
    """The next one of a stream."""
    while not (await call.read()).HasField("additions"):
        pass


async def farewell(call: Any) -> tuple[bool, bool]:
    """Whether a stream's last message signed off, and whether it ended with UNAVAILABLE."""
    signed_off = False
    try:
        while (message := await call.read()) is not grpc.aio.EOF:
            signed_off = message.heartbeat.signing_off
    except grpc.aio.AioRpcError:
        pass
    return signed_off, await call.code() is grpc.StatusCode.UNAVAILABLE


async def main(job: dict[str, Any]) -> None:
    """See the module."""
    edges = Edges(job)
    start = time.perf_counter()
    calls = await asyncio.gather(*(edges.serve(number) for number in range(job["edges"])))
    tell(seconds=time.perf_counter() - start, refused=edges.refused, again=edges.again, manifests=edges.manifests)
    while asked := await asyncio.to_thread(sys.stdin.readline):
        if asked == "addition\n":
            await asyncio.gather(*(addition(call) for call in calls))
            tell(reached=time.time())
        else:
            ends = await asyncio.gather(*(farewell(call) for call in calls))
            tell(signed_off=sum(signed for signed, _ in ends), unavailable=sum(said for _, said in ends))


def tell(**fields: float) -> None:
    """One line."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(main(json.loads(sys.argv[1])))
