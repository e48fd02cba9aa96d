"""Private servers for the index's tests, and one empty index per test on each kind of store."""

from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from checker.index.base import ExactIndex
from checker.index.memory import MemoryIndex, MemoryStore
from checker.index.redis import RedisIndex
from checker.index.urls import open_index
from tests.index.builders import KEY
from tests.index.servers import ClusterServers, Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One server on a Unix socket, for all tests that do it no harm."""
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def cluster() -> Iterator[ClusterServers]:
    """A three-master cluster, for all tests that do it no harm."""
    cluster = ClusterServers()
    yield cluster
    cluster.close()


def patient(index: ExactIndex) -> ExactIndex:
    """The same index without the short read time-out: for claims that are not about time, on a busy machine."""
    if isinstance(index, RedisIndex):
        index._read_timeout_s = 5.0
    return index


@pytest.fixture(params=["memory", "single", "cluster"])
async def make_index(request: pytest.FixtureRequest) -> AsyncIterator[Callable[[], ExactIndex]]:
    """Makes unopened clients of one empty store; closed afterwards."""
    made: list[ExactIndex] = []
    store = MemoryStore()
    if request.param == "single":
        server: Server = request.getfixturevalue("server")
        server.command("FLUSHALL")
        url = server.url
    elif request.param == "cluster":
        cluster: ClusterServers = request.getfixturevalue("cluster")
        for each in cluster.servers:
            each.command("FLUSHALL")
        url = cluster.url
    else:
        url = "memory:"

    def make() -> ExactIndex:
        made.append(MemoryIndex(store) if url == "memory:" else patient(open_index(url)))
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
