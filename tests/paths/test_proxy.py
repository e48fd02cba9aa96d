"""The road that tests spoil leaves nothing of its own behind: a failure that comes with it is the product's."""

import gc
import socket

import pytest

from tests.paths.proxy import Proxy


@pytest.mark.parametrize("refusing", [False, True])
def test_a_road_closes_whatever_it_accepted_even_at_its_very_end(refusing: bool) -> None:
    """An open socket would be a ResourceWarning, which is an error, here or in any test that runs later."""
    for number in range(60):
        road = Proxy("127.0.0.1:1")
        road.refusing = refusing
        host, _, port = road.address.rpartition(":")
        callers = [socket.create_connection((host, int(port))) for _ in range(1 + number % 3)]
        road.close()
        for caller in callers:
            caller.settimeout(10)
            try:
                assert caller.recv(1) == b""
            except ConnectionResetError:
                pass
            finally:
                caller.close()
    gc.collect()
