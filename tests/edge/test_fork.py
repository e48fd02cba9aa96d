"""What a fork does to open clients, in processes of their own: the child is told, the parent goes on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.edge.forking import NUMBER
from tests.paths import people
from tests.paths.edges import EdgeStand


@pytest.mark.parametrize(("kind", "uses"), [("asyncio", 1), ("blocking", 3), ("remote", 1)])
def test_a_forked_child_is_told_and_the_parent_goes_on(kind: str, uses: int, tmp_path: Path) -> None:
    """Each use of a client in the child is UsageError with the remedy, `close` included; the parent still answers."""
    stand = EdgeStand(tmp_path / "centre")
    try:
        stand.import_(stand.feed("feed.jsonl", people.add(1, "m-listed", NUMBER), people.heartbeat(2)))
        address = stand.serve("--index-timeout-ms", "2000").address
        ran = subprocess.run(
            [sys.executable, "-m", "tests.edge.forking", kind, address, tmp_path / "edge", stand.key_for_edges()],
            env=os.environ | {"GRPC_ENABLE_FORK_SUPPORT": "false"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        stand.close()
    assert ran.returncode == 0, ran.stderr
    *told, parent = ran.stdout.splitlines()
    assert len(told) == uses
    for line in told:
        assert "before the process was forked" in line
        assert "post_fork" in line
    assert parent == "BARRED"
