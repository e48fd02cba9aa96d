"""A process that fills an advice queue, for tests that kill it.

`python -m tests.edge.advice_process DIRECTORY FIRST COUNT`: puts questions, says "done" once they are on disk, and
waits for the end of its input.
"""

import asyncio
import sys
from pathlib import Path

from edge.advice import AdviceQueue
from tests.builders import KEY, NOW
from tests.edge.asking import a_question


async def main(directory: Path, first: int, count: int) -> None:
    """Put `count` questions, the number in each decision id."""
    queue = AdviceQueue(directory, KEY, clock_ms=lambda: NOW)
    for number in range(first, first + count):
        queue.put(f"D{number}", "rail", [a_question(number)], NOW)
        if number % 50 == 0:
            await asyncio.sleep(0)
    await queue.flush()
    print("done", flush=True)  # noqa: T201 - for the test
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
