"""What an edge of two processes keeps in memory per listed key, as the kernel counts it.

Two processes with an `EdgeClient` each share one data directory, as the workers of a node do. Counted is what both hold
together: Pss, where a page that two processes share counts once. Two sizes of list tell keys from the constant rest.
"""

import asyncio
import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import uvloop

from bench.centre import Centre, centre, listed, until
from bench.importing import additions
from bench.result import Result
from edge import EdgeClient
from edge.sync import Pace

SMALL, LARGE, ADDED = 1_000_000, 10_000_000, 50_000
REST_S = 1.5
"""Until an edge's reader lets go of the old snapshot, at a heartbeat, and a checker has looked what is published."""
_LOOK_S = 0.01
"""A swap holds both snapshots for tenths of a second; looks themselves take milliseconds from those looked at."""
_MB = 1024 * 1024


class _Memory(NamedTuple):
    """Bytes of both processes together."""

    pss: int
    private: int


class _Edge:
    """Two processes over one data directory."""

    def __init__(self, one: Centre, name: str) -> None:
        command = [sys.executable, "-m", "bench.edge_memory", one.address, str(one.folder / name), str(one.edge_key)]
        self._processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
        ]
        self._said = ["", ""]
        for number in range(2):
            threading.Thread(target=self._listen, args=(number,), daemon=True).start()

    def _listen(self, number: int) -> None:
        out = self._processes[number].stdout
        assert out is not None
        for line in out:
            self._said[number] = line.strip()

    def hold(self, epoch: int, added: int) -> bool:
        """Whether both hold this epoch and at least so many keys added since."""
        return all(said and [epoch, added] <= [*map(int, said.split())] for said in self._said)

    async def until(self, epoch: int, added: int = 0) -> list[_Memory]:
        """Their memory, again and again, from now until both hold this and are at rest again."""
        seen = []

        def held() -> bool:
            seen.append(self._memory())
            return self.hold(epoch, added)

        await until(held, every_s=_LOOK_S)
        rest = time.monotonic() + REST_S
        await until(lambda: held() and time.monotonic() > rest, every_s=_LOOK_S)
        return seen

    def _memory(self) -> _Memory:
        pss = private = 0
        for process in self._processes:
            with open(f"/proc/{process.pid}/smaps_rollup", encoding="ascii") as file:
                for line in file:
                    name, _, rest = line.partition(":")
                    if name == "Pss":
                        pss += int(rest.split()[0]) * 1024
                    elif name in ("Private_Clean", "Private_Dirty"):
                        private += int(rest.split()[0]) * 1024
        return _Memory(pss, private)

    def close(self) -> None:
        """End both."""
        for process in self._processes:
            process.communicate()  # the end of what it reads ends it


@contextlib.asynccontextmanager
async def _edge(one: Centre, name: str) -> AsyncIterator[_Edge]:
    made = _Edge(one, name)
    try:
        yield made
    finally:
        await asyncio.to_thread(made.close)


def run() -> list[Result]:
    """Measure with one and ten million keys: at rest, with a day's additions, while a new snapshot takes over."""
    with centre(listed(SMALL)) as one:
        return uvloop.run(_measure(one))


async def _measure(one: Centre) -> list[Result]:
    async with _edge(one, "small") as edge:
        small = (await edge.until(1))[-1]
        await one.publish(listed(SMALL))
        small_swap = await edge.until(2)
    size = await one.publish(listed(LARGE))
    await asyncio.sleep(REST_S)
    async with _edge(one, "large") as edge:
        large = (await edge.until(3))[-1]
        await one.publish(listed(LARGE))
        large_swap = await edge.until(4)
        rested = large_swap[-1]
        async with one.index() as index:
            made = additions(ADDED)
            for first in range(0, len(made), 1000):
                await index.apply(made[first : first + 1000])
        grown = (await edge.until(4, ADDED))[-1]
    keys = LARGE - SMALL
    each = (large.pss - small.pss) / keys
    most = [max(memory.pss for memory in swap) for swap in (small_swap, large_swap)]
    swapping = (most[1] - most[0]) / keys
    private = (large.private - small.private) / keys
    added = (grown.private - rested.private) / 2 / ADDED
    bits = size / LARGE
    constant = (small.pss - each * SMALL) / _MB
    return [
        Result("edge memory, two processes", each, "B/key", "the snapshot", bits, each / bits, "≤ 4 B",
               f"Pss, between {SMALL:,} and {LARGE:,} keys; private {private:.2f} B/key; the rest {constant:.0f} MB"),
        Result("edge memory, two processes, during a swap", swapping, "B/key", "two snapshots", 2 * bits,
               swapping / bits / 2, "≤ 6 B", f"the most of {len(large_swap)} looks from its publication to rest"),
        Result("edge memory, one process, key added since", added, "B/key", "its 16 bytes", 16, added / 16, "",
               f"private; {ADDED:,} keys, a day's changes; gone with the next snapshot"),
    ]  # fmt: skip


async def _work(address: str, directory: Path, key: Path) -> None:
    """An edge that says what it holds whenever that changes, until its input ends."""
    client = EdgeClient(address, directory, key)
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    async with client:
        client.edge.sync._pace = Pace(jitter=0)
        said = ""
        while not ended.done():
            status = client.status()
            says = f"{status.epoch} {status.overlay}"
            if says != said:
                print(says, flush=True)
                said = says
            await asyncio.sleep(0.01)


if __name__ == "__main__":
    uvloop.run(_work(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
