"""Private servers for the index's tests, and one index per test on each kind of store."""

from collections.abc import AsyncIterator, Callable

import pytest

from checker.index.base import ExactIndex
from checker.index.memory import MemoryIndex, MemoryStore
from tests.index.builders import KEY


@pytest.fixture(params=["memory"])
async def make_index(request: pytest.FixtureRequest) -> AsyncIterator[Callable[[], ExactIndex]]:
    """Makes unopened clients of one empty store; closed afterwards."""
    made: list[ExactIndex] = []
    store = MemoryStore()

    def make() -> ExactIndex:
        made.append(MemoryIndex(store))
        return made[-1]

    yield make
    for index in made:
        await index.close()


@pytest.fixture
async def index(make_index: Callable[[], ExactIndex]) -> ExactIndex:
    """An open, empty index."""
    index = make_index()
    await index.open(KEY, create=True)
    return index
