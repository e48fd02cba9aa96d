"""Stands for the tests of the two paths: what is started is ended, whatever the test did."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.index.servers import Server
from tests.paths.stand import Stand
from tests.ports import free_port


@pytest.fixture(scope="module")
def stand_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Stand]]:
    """Makes stands, in folders of their own, ended with the module."""
    made: list[Stand] = []

    def make(index: str = "") -> Stand:
        made.append(Stand(tmp_path_factory.mktemp("stand") / "centre", index))
        return made[-1]

    yield make
    for stand in made:
        stand.close()


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    """A stand over an embedded index, for one test."""
    made = Stand(tmp_path / "centre")
    yield made
    made.close()


@pytest.fixture
def store() -> Iterator[Server]:
    """A private single server on loopback, as an operator would run it."""
    server = Server(port=free_port())
    yield server
    server.close()
