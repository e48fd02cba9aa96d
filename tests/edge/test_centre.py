"""Claims about the connections to a centre."""

import asyncio
import contextlib
import sys

import grpc
import grpc.aio
import pytest

from edge.centre import Centre
from tests.waiting import eventually

_HEADERS, _SETTINGS, _GOAWAY = 1, 4, 7


class Refusing:
    """As much of an HTTP/2 server as goes away with each call, and says that it has begun none."""

    def __init__(self) -> None:
        self.calls = 0
        self.clients = 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """With one client, until it goes."""
        self.clients += 1
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readexactly(len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
            writer.write(bytes([0, 0, 0, _SETTINGS, 0, 0, 0, 0, 0]))
            while True:
                head = await reader.readexactly(9)
                await reader.readexactly(int.from_bytes(head[:3], "big"))
                if head[3] == _SETTINGS and not head[4]:
                    writer.write(bytes([0, 0, 0, _SETTINGS, 1, 0, 0, 0, 0]))
                elif head[3] == _HEADERS:
                    self.calls += 1
                    writer.write(bytes([0, 0, 8, _GOAWAY, 0, *bytes(4), *bytes(8)]))
                    break
        self.clients -= 1


async def _ask(channel: grpc.aio.Channel) -> grpc.StatusCode:
    call = channel.unary_unary("/checker.v1.FilterService/GetManifest")  # type: ignore[var-annotated] # bytes
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(b"", timeout=5)
    return refused.value.code()


_REPEATING = """
import asyncio, resource, sys
from checker.rpc.client import open_channel
from tests.edge.test_centre import _ask

async def main():
    async with open_channel(sys.argv[1]) as channel:
        await _ask(channel)

resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
asyncio.run(main())
"""


async def _ask_repeating(address: str) -> bool:
    """Ask by a channel that repeats, in a process with limits: it may go on for ever (`Centre.channel`). False: it had
    to be stopped."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _REPEATING, address)
    try:
        async with asyncio.timeout(60):
            code = await process.wait()
    except TimeoutError:
        process.kill()
        code = await process.wait()
    return code == 0


async def test_grpc_repeats_no_call_to_a_centre() -> None:
    """Not even one that never began, which it else repeats whatever the policy says, under some conditions for ever."""
    refusing = Refusing()
    server = await asyncio.start_server(refusing.talk, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    centre = Centre([address])
    uses = ("watch", "download", "keys", "check 0")
    async with server:
        for use in uses:
            assert await _ask(centre.channel(address, use)) is grpc.StatusCode.UNAVAILABLE
        assert refusing.calls == len(uses)
        before, orderly = refusing.calls, await _ask_repeating(address)  # so that this server would show it
        for _ in range(2):
            if not orderly:
                before, orderly = refusing.calls, await _ask_repeating(address)
        assert refusing.calls == before + 2
        await centre.close()
        await eventually(lambda: not refusing.clients)
