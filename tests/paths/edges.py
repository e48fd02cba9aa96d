"""A stand with edges inside the test's own process, and what edges' tests wait for."""

from pathlib import Path
from typing import Any

from edge import EdgeClient, EdgeSettings
from proto.checker.v1 import filter_pb2
from tests.paths.stand import Checker, Stand, _script
from tests.ports import free_port
from tests.waiting import eventually

PATIENT = EdgeSettings(centre_timeout_ms=20_000)
"""For claims that are not about time, on a busy machine."""


class EdgeStand(Stand):
    """See the module. Nodes are made by `Stand.edge`."""

    def client(self, centre: str, data: str = "", **more: Any) -> EdgeClient:
        """A client with a directory of its own below `folder`, not yet open."""
        self._commands += 1
        directory = self.folder / (data or f"client-{self._commands}")
        return EdgeClient(centre, directory, self.key_for_edges(), **more)

    def node(self, *flags: str | Path) -> Checker:
        """`edge serve` with exactly these flags, that serves when this returns."""
        self._commands += 1
        log = self.logs / f"{self._commands:03}-edge-serve.err"
        made = Checker([_script("edge"), "serve", *map(str, flags)], self.folder, log, self.environment)
        self._checkers.append(made)
        return made


def fixed_listen() -> str:
    """An address that a checker can be started on again."""
    return f"127.0.0.1:{free_port()}"


async def in_step(client: EdgeClient, sequence: int = 0, seconds: float = 60.0) -> EdgeClient:
    """Once the client has a filter, hears the centre, and knows the feed this far."""

    def reached() -> bool:
        status = client.status()
        hears = status.centre == filter_pb2.CENTRE_STATE_REACHABLE
        return status.epoch > 0 and hears and status.feed_sequence >= sequence

    await eventually(reached, seconds)
    return client
