"""Centres that misbehave on purpose: BatchCheck over a real grpc.aio server, in this process or in one of its own.

`python -m tests.edge.centres` serves one that answers "not listed", prints its address, and ends with its input.
"""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, NamedTuple

import grpc.aio

from proto.checker.v1 import check_pb2 as pb
from tests.builders import NOW

Behaviour = Callable[[pb.BatchCheckRequest, Any], Awaitable[pb.BatchCheckResponse]]


def not_listed(item: pb.CheckRequest) -> pb.CheckResponse:
    """The answer the exact index gives where it holds nothing."""
    answer = pb.CheckResponse(item_id=item.item_id, outcome="OUTCOME_ALLOWED", reason="REASON_NOT_LISTED")
    answer.answered_by = pb.ANSWERED_BY_INDEX
    answer.data_as_of.feed_sequence = 100
    answer.data_as_of.feed_time.FromMilliseconds(NOW)
    return answer


async def answering(request: pb.BatchCheckRequest, context: Any) -> pb.BatchCheckResponse:
    """A centre in good health, whose index is empty."""
    return pb.BatchCheckResponse(items=[not_listed(item) for item in request.items])


def refusing(code: grpc.StatusCode) -> Behaviour:
    """A centre that refuses each call."""

    async def refuse(request: pb.BatchCheckRequest, context: Any) -> pb.BatchCheckResponse:
        await context.abort(code, "on purpose")
        raise AssertionError

    return refuse


class Centre(NamedTuple):
    """A running one: its address, the requests it got, the connections they came by."""

    address: str
    requests: list[pb.BatchCheckRequest]
    peers: set[str]
    cancelled: list[bool]


@contextlib.asynccontextmanager
async def a_centre(behave: Behaviour = answering, address: str = "127.0.0.1:0") -> AsyncIterator[Centre]:
    """A centre in this process. `address`: to come back where another one was."""
    requests: list[pb.BatchCheckRequest] = []
    peers: set[str] = set()
    cancelled: list[bool] = []

    async def handle(request: pb.BatchCheckRequest, context: Any) -> pb.BatchCheckResponse:
        requests.append(request)
        peers.add(context.peer())
        try:
            return await behave(request, context)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    handler = grpc.unary_unary_rpc_method_handler(
        handle,
        request_deserializer=pb.BatchCheckRequest.FromString,
        response_serializer=pb.BatchCheckResponse.SerializeToString,
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("checker.v1.CheckService", {"BatchCheck": handler}),)
    )
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield Centre(f"127.0.0.1:{port}", requests, peers, cancelled)
    finally:
        await server.stop(None)


@contextlib.contextmanager
def a_centre_process() -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """A centre in a process of its own, for signals: address and process."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.edge.centres"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


async def _serve() -> None:
    async with a_centre() as centre:
        print(centre.address, flush=True)  # noqa: T201 - for whoever started this process
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve())
