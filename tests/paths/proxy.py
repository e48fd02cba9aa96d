"""A road between an edge and its centre that can be spoilt: cut, blocked, held up, broken off, corrupted.

A TCP proxy on loopback with an event loop in a thread of its own. What it does to bytes is one attribute that a test
changes while they flow; connections that are open follow it from the next bytes on.
"""

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable
from typing import Any

_PIECE = 16 * 1024


class Proxy:
    """Listens at `address`, leads to `target` (HOST:PORT). Close it."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.corrupt_one_in = 0  # of so many bytes from the centre one is changed; 0: none
        self.truncate_after = 0  # break each connection off after so many bytes from the centre; 0: never
        self.delay_s = 0.0  # hold every byte from the centre up for so long
        self.passing = True  # False: connections stay open and nothing passes
        self.refusing = False  # True: new connections are closed at once
        self.connections = 0  # made so far
        self.lost = 0  # of those that led somewhere: how many have ended that were not cut
        self.from_centre = 0  # bytes passed on
        self.to_centre = bytearray()  # every byte that went to the centre, for who looks for what should not be there
        self._random = random.Random(7)
        self._writers: set[asyncio.StreamWriter] = set()
        self._was_cut: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="proxy")
        self._thread.start()
        self._server: asyncio.Server = self._call(self._listen)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Break every connection now."""
        self._call(self._cut)

    def close(self) -> None:
        """End it."""
        self._call(self._stop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Callable[[], Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(30)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _cut(self) -> None:
        self._was_cut |= self._writers
        for writer in self._writers:
            writer.transport.abort()

    async def _stop(self) -> None:
        # Whoever was accepted this very moment must get as far as `_serve`, which closes its socket: neither cancelled
        # nor without a server before. Else the garbage collector complains of it to whatever test it finds running.
        self.passing, self.refusing, self.delay_s = True, True, 0.0
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            await self._cut()
            await asyncio.wait(tasks, timeout=0.01)
        self._server.close()
        await asyncio.sleep(0)  # sockets close in the loop's next turn

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            if self.refusing:
                return
            host, _, port = self.target.rpartition(":")
            with contextlib.suppress(OSError):
                far_reader, far_writer = await asyncio.open_connection(host, int(port))
                self._writers.add(far_writer)
                try:
                    ways = (self._up(reader, far_writer), self._down(far_reader, writer))
                    _, pending = await asyncio.wait(
                        [asyncio.ensure_future(way) for way in ways], return_when=asyncio.FIRST_COMPLETED
                    )
                    for task in pending:
                        task.cancel()
                    await asyncio.gather(*pending, return_exceptions=True)
                    self.lost += writer not in self._was_cut
                finally:
                    self._forget(far_writer)
        finally:
            self._forget(writer)

    def _forget(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        self._was_cut.discard(writer)
        writer.transport.abort()

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_PIECE):
                await self._open()
                self.to_centre += data
                writer.write(data)
                await writer.drain()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := await reader.read(_PIECE):
                await self._open()
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                limit = self.truncate_after
                if limit and passed + len(data) >= limit:
                    writer.write(self._spoilt(data[: max(0, limit - passed)]))
                    await writer.drain()
                    return
                writer.write(self._spoilt(data))
                await writer.drain()
                passed += len(data)
                self.from_centre += len(data)

    async def _open(self) -> None:
        while not self.passing:  # noqa: ASYNC110 - a test's thread sets it
            await asyncio.sleep(0.01)

    def _spoilt(self, data: bytes) -> bytes:
        if not self.corrupt_one_in:
            return data
        changed = bytearray(data)
        for place in range(len(changed)):
            if self._random.randrange(self.corrupt_one_in) == 0:
                changed[place] ^= 1 << self._random.randrange(8)
        return bytes(changed)
