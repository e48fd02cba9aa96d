"""One import as a process of its own, for tests that kill it: `-m tests.lists.import_process URL STATE FEED...`."""

import asyncio
import sys
from pathlib import Path

from checker.index.urls import open_index
from checker.lists.importer import import_feeds
from tests.lists.builders import INDEX_KEY, KEY, an_options


async def main(url: str, state: str, feeds: list[str]) -> int:
    """Import in batches of two document keys, so that a small feed has several."""
    index = open_index(url)
    await index.open(INDEX_KEY, create=True)
    options = an_options(Path(state).parent, state_dir=Path(state), batch_keys=2)
    summary = await import_feeds(index, KEY, [Path(feed) for feed in feeds], options)
    await index.close()
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3:])))
