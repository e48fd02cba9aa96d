"""A process that opens a client, forks, and tells what its child was told.

`python -m tests.edge.forking KIND CENTRE DATA KEY`; KIND: asyncio, blocking or remote. gRPC's own fork handlers may
crash the child of a process with open channels before any code of ours runs; they are off here
(GRPC_ENABLE_FORK_SUPPORT), so that what our clients say is what is seen.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from checker.errors import UsageError
from edge import BlockingEdgeClient, DocumentType, EdgeClient, EdgeSettings, Flight, RemoteChecker

NUMBER = "440524188001010014"
SETTINGS = EdgeSettings(centre_timeout_ms=5000)


def told(*attempts: Callable[[], Any]) -> None:
    """In the child: what each attempt raises, a line each; then the end."""
    for attempt in attempts:
        try:
            attempt()
        except UsageError as error:
            os.write(1, f"{error}\n".encode())
        except BaseException as error:  # noqa: BLE001 - the child must end here
            os.write(1, f"{error!r}\n".encode())
        else:
            os.write(1, b"nothing\n")
    os._exit(0)


def fork(*attempts: Callable[[], Any]) -> None:
    """The child is told, the parent goes on."""
    child = os.fork()
    if child == 0:
        told(*attempts)
    assert os.waitpid(child, 0)[1] == 0


def blocking(client: BlockingEdgeClient) -> None:
    """Check, status and close in the child; a check in the parent."""
    with client:
        client.check(Flight(), DocumentType.RESIDENT_ID, NUMBER)
        fork(lambda: client.check(Flight(), DocumentType.RESIDENT_ID, NUMBER), client.status, client.close)
        outcome = client.check(Flight(), DocumentType.RESIDENT_ID, NUMBER).outcome
    sys.stdout.write(f"{outcome.name}\n")


async def in_loop(client: EdgeClient | RemoteChecker) -> None:
    """A check in the child, which has no event loop that runs; one in the parent."""
    async with client:
        await client.check(Flight(), DocumentType.RESIDENT_ID, NUMBER)
        fork(lambda: client.check(Flight(), DocumentType.RESIDENT_ID, NUMBER).send(None))
        outcome = (await client.check(Flight(), DocumentType.RESIDENT_ID, NUMBER)).outcome
    sys.stdout.write(f"{outcome.name}\n")


if __name__ == "__main__":
    kind, centre, data, key = sys.argv[1:]
    if kind == "blocking":
        blocking(BlockingEdgeClient(centre, Path(data), Path(key), settings=SETTINGS))
    elif kind == "asyncio":
        asyncio.run(in_loop(EdgeClient(centre, Path(data), Path(key), settings=SETTINGS)))
    else:
        asyncio.run(in_loop(RemoteChecker(centre, timeout_ms=5000)))
