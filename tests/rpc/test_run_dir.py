"""Claims about the folder of one start: gone with its node, swept after a kill, never taken from a node that lives."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from checker.rpc import run_dir
from tests.paths.edges import EdgeStand
from tests.waiting import until

_HOLDS = "import sys, pathlib; from checker.rpc import run_dir; run_dir.hold(pathlib.Path(sys.argv[1])); "
_MAKES = (
    "import sys, pathlib; from checker.rpc import run_dir; made = run_dir.made_in(pathlib.Path(sys.argv[1])); "
    "print(made.__enter__(), flush=True); "
)


def folders(directory: Path) -> set[Path]:
    """Of all nodes that ever started here."""
    return set(directory.glob("run-*"))


def a_process(code: str, path: Path) -> "subprocess.Popen[str]":
    """One that runs the code and then waits for its end."""
    command = [sys.executable, "-c", f"{code}print('held', flush=True); sys.stdin.read()", str(path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def said(process: "subprocess.Popen[str]") -> str:
    """Its next line."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_it_is_gone_when_the_node_ends(tmp_path: Path) -> None:
    """With what was put there, and after an error as well."""
    with run_dir.made_in(tmp_path) as folder:
        assert folders(tmp_path) == {folder}
        (folder / "quota").write_bytes(b"x")
    with pytest.raises(KeyError), run_dir.made_in(tmp_path):
        raise KeyError
    assert not folders(tmp_path)


def test_a_folder_is_swept_when_the_last_of_its_processes_is_dead(tmp_path: Path) -> None:
    """Its maker is killed: not swept while a worker of it lives, and not when it is in use by another node."""
    with a_process(_MAKES, tmp_path) as maker:
        folder = Path(said(maker))
        assert said(maker) == "held"
        with a_process(_HOLDS, folder) as worker, run_dir.made_in(tmp_path) as other:
            assert said(worker) == "held"
            maker.kill()
            maker.wait()
            with run_dir.made_in(tmp_path) as third:
                assert folders(tmp_path) == {folder, other, third}
            worker.kill()
            worker.wait()
            with run_dir.made_in(tmp_path) as third:
                assert folders(tmp_path) == {other, third}


def test_what_is_no_nodes_is_left_alone(tmp_path: Path) -> None:
    """A folder without an owner's file, by whatever name, and a link to somewhere else."""
    (tmp_path / "run-mine").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "owner").touch()
    (tmp_path / "run-link").symlink_to(elsewhere)
    with run_dir.made_in(tmp_path):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"run-mine", "run-link", "elsewhere"}
    assert (elsewhere / "owner").exists()


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[EdgeStand]:
    made = EdgeStand(tmp_path / "centre")
    yield made
    made.close()


def test_nodes_sweep_what_killed_ones_left(stand: EdgeStand) -> None:
    """Of two edge nodes on one directory one is killed: while a worker of it drains its folder stays, then the next
    start removes it, and the other node's stays. A checker's next start likewise."""
    centre = stand.serve()
    state = next(path.parent for path in stand.folder.rglob("run-*"))
    data = stand.folder / "edge"
    living = stand.edge(centre.address, data=data)
    (of_living,) = folders(data)
    killed = stand.edge(centre.address, "--drain-pause-ms", "300000", data=data)
    (of_killed,) = folders(data) - {of_living}

    (worker,) = killed.children()
    killed.process.kill()  # its worker drains, for five minutes
    killed.process.wait()
    stand.edge(centre.address, data=data)
    assert {of_living, of_killed} < folders(data)
    worker.kill()
    until(lambda: not psutil.pid_exists(worker.pid), 30)
    last = stand.edge(centre.address, data=data)
    assert of_killed not in folders(data)
    assert of_living in folders(data)
    for node in (living, last):
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(30) == 0

    (of_centre,) = folders(state)
    children = centre.children()
    centre.process.kill()
    until(lambda: not any(psutil.pid_exists(child.pid) for child in children), 60)
    stand.serve()
    (now,) = folders(state)
    assert now != of_centre
