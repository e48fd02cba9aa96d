"""One import as a process of its own, for tests that kill it (tests/forked.py): URL STATE FEED..."""

from pathlib import Path

from checker.index.urls import open_index
from checker.lists import names
from checker.lists.importer import import_feeds
from tests.lists.builders import INDEX_KEY, KEY, an_options

names.forms("张三", "")  # its tables are read here, once for all forks


async def main(url: str, state: str, *feeds: str) -> int:
    """Import in batches of two document keys, so that a small feed has several."""
    index = open_index(url)
    await index.open(INDEX_KEY, create=True)
    options = an_options(Path(state).parent, state_dir=Path(state), batch_keys=2)
    summary = await import_feeds(index, KEY, [Path(feed) for feed in feeds], options)
    await index.close()
    return summary.exit_code
