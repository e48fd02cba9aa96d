"""Ports for servers that must be told theirs: nobody else's, also while their server is down.

Outside the range from which the kernel gives ports to whoever asks for any (32768 and above by default), so that no
client and no server of another test gets one between two starts; each test process has a block of its own.
"""

import itertools
import os
import socket

_FIRST, _BLOCK, _BLOCKS = 10_000, 2_500, 4
BUS = 10_000
"""What a cluster's bus port lies above its port."""

_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _BLOCKS
_turn = itertools.count(os.getpid())


def free_port() -> int:
    """A loopback port nobody uses and nobody gets unasked, with its cluster bus port."""
    for _ in range(_BLOCK):
        port = _FIRST + _worker * _BLOCK + next(_turn) % _BLOCK
        with socket.socket() as own, socket.socket() as bus:
            try:
                own.bind(("127.0.0.1", port))
                bus.bind(("127.0.0.1", port + BUS))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")
