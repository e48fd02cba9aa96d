"""A process of its own for the fault tests: `python -m tests.index.child URL scenario|hold-lease`."""

import asyncio
import sys

from checker.core.measure import Change
from checker.index.base import Head
from checker.index.redis import RedisIndex
from checker.index.urls import open_index
from tests.index.builders import KEY, a_removal, an_addition, an_exemption

BATCHES: list[list[Change]] = [
    [an_addition(1, "M1", 1, 2), an_addition(2, "M2", 2), an_exemption(3, "M3", 5)],
    [a_removal(9, "M4"), an_addition(4, "M4", 4), an_addition(5, "M1", 2, 3), an_addition(6, "M3", 5, 6)],
    [a_removal(7, "M2"), an_exemption(8, "M1"), an_addition(10, "M2", 7)],
]


async def scenario(index: RedisIndex) -> None:
    """An import that starts where the head stands, as the importer does."""
    index._write_step = 1
    async with index.lease("child") as lease:
        done = (await index.head()).feed_sequence
        for number, batch in enumerate(BATCHES, start=1):
            if number > done:
                await index.apply(batch)
                await lease.advance(Head(number, number * 1000, 0))


async def main(url: str, task: str) -> None:
    """Do one of the two."""
    index = open_index(url)
    assert isinstance(index, RedisIndex)
    await index.open(KEY, create=True)
    if task == "scenario":
        await scenario(index)
    else:
        index._lease_ttl_s = 60
        async with index.lease("child"):
            sys.stdout.write("held\n")
            sys.stdout.flush()
            await asyncio.sleep(60)
    await index.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
