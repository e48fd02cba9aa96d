"""`checker demo` (`make run`): the whole road on one machine, by the commands a user would type.

Makes a feed, imports it into an embedded index, starts a centre and an edge before it, asks the edge a dozen telling
questions, shows where each answer came from, and stays up until Ctrl-C. Meanwhile the feed goes on with a heartbeat a
minute, as a court's does: without it the data would look older by the second. Each part is the console script itself,
started as a process.
"""

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from checker.errors import CheckerError, UsageError

HEARTBEAT_S = 60.0
"""Seconds between two heartbeats of the feed."""
_TELLING = 12
# A first look must not be UNKNOWN because the machine is small, or busy with starting all this.
_PATIENT_CENTRE = ("--index-timeout-ms", "2000")
_PATIENT_EDGE = ("--centre-timeout-ms", "4000")


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = commands.add_parser(
        "demo",
        help="made feed -> embedded index -> centre -> edge, with a table of telling checks",
        description="Make a feed of synthetic people, import it, serve it at a centre and at an edge before it, and "
        "show a dozen telling checks. "
        "Stays up until Ctrl-C; RUN_SECONDS=N in the environment bounds it.",
    )
    parser.add_argument("--people", type=int, default=100_000, metavar="N", help="size of the made feed (100000)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="seed of the made feed (1)")
    parser.add_argument("--dir", type=Path, default=Path("run/demo"), metavar="DIR", help="work folder (run/demo)")
    parser.add_argument("--listen", default="127.0.0.1:50051", metavar="ADDR", help="of the centre (127.0.0.1:50051)")
    parser.add_argument(
        "--edge-listen", default="127.0.0.1:50061", metavar="ADDR", help="of the edge (127.0.0.1:50061)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the demo; returns the exit code."""
    seconds = _run_seconds()
    folder: Path = args.dir
    with _alone(folder):
        return _run(args, folder, seconds)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else works in the folder: it is about to be made anew. Raises UsageError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"--dir {folder}: another demo runs there: stop it with Ctrl-C, or name another --dir"
            ) from None
        yield


def _run(args: argparse.Namespace, folder: Path, seconds: float | None) -> int:
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # else its servers would outlive it
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored when a shell has put us in the background
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    feed, index, key = folder / "feed", f"embedded:{folder / 'index'}", str(folder / "edge-key.json")
    people = str(feed / "people.csv")
    made = ["loadtest", "make-feed", "--people", str(args.people), "--seed", str(args.seed), "--out", str(feed)]
    _step("making a feed", made)
    _step("importing it", ["checker", "import", "--index", index, str(feed / "feed.jsonl")])
    export = ["checker", "keys", "export-edge", "--key-file", str(folder / "index" / "key.json"), "--out", key]
    with contextlib.ExitStack() as stack:
        try:
            command = ["checker", "serve", "--index", index, "--listen", args.listen, *_PATIENT_CENTRE]
            centre = stack.enter_context(_serving("the centre serves", command, folder / "ready.json"))
            _step("giving the edge its keys", export)
            command = ["edge", "serve", "--centre", centre.address, "--listen", args.edge_listen]
            command += ["--data", str(folder / "edge"), "--key-file", key, *_PATIENT_EDGE]
            edge = stack.enter_context(_serving("an edge serves", command, folder / "edge-ready.json"))
            _wait_in_step(edge)
            print(flush=True)
            telling = ["loadtest", "ask", "--target", edge.address, "--people", people, "--telling", str(_TELLING)]
            wrong = _quietly(telling).returncode
            print("\nFILTER and RULES were answered by the edge alone, INDEX by the centre that it asked.")
            print(f"CheckService at {edge.address} (edge) and {centre.address} (centre); plaintext, loopback. Try:")
            print(f"  loadtest ask --target {edge.address} --people {people}")
            print(f"  checker check --target {edge.address} --document RESIDENT_ID:440524188001010014 train G1 O")
            print(f"  edge status --target {edge.address}")
            print(f"  checker status --index {index}")
            print("Ctrl-C stops it." if seconds is None else f"Stops after {seconds:g} s.", flush=True)
            if wrong:
                raise CheckerError("an answer differs from what the feed says")
            _stay([centre, edge], seconds, _Feed(feed, index))
        except KeyboardInterrupt:
            print()
    return 0


def _run_seconds() -> float | None:
    given = os.environ.get("RUN_SECONDS", "")
    if not given:
        return None
    try:
        return float(given)
    except ValueError:
        raise UsageError(f"RUN_SECONDS={given}: must be a number of seconds") from None


def _script(name: str) -> list[str]:
    """The console script beside this interpreter, so that an unactivated environment does."""
    path = Path(sys.executable).parent / name
    return [str(path)] if path.exists() else [sys.executable, "-m", name]


def _step(what: str, command: list[str]) -> None:
    print(f"· {what}: {' '.join(command)}", flush=True)
    start = time.monotonic()
    done = subprocess.run([*_script(command[0]), *command[1:]], check=False)
    if done.returncode:
        raise CheckerError(f"{what} failed with exit code {done.returncode}")
    print(f"  done in {time.monotonic() - start:.1f} s", flush=True)


def _quietly(command: list[str], **options: Any) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run([*_script(command[0]), *command[1:]], check=False, **options)


class _Served(NamedTuple):
    name: str
    process: "subprocess.Popen[bytes]"
    address: str


@contextlib.contextmanager
def _serving(what: str, command: list[str], ready: Path) -> Iterator[_Served]:
    """A serving command, from its ready file to SIGTERM and its end."""
    print(f"· {what}: {' '.join(command)}", flush=True)
    name = f"{command[0]} serve"
    process = subprocess.Popen([*_script(command[0]), *command[1:], "--ready-file", str(ready)], start_new_session=True)
    try:
        yield _Served(name, process, _wait_ready(name, ready, process))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def _wait_ready(name: str, ready: Path, process: "subprocess.Popen[bytes]") -> str:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if process.poll() is not None:
            raise CheckerError(f"{name} ended with exit code {process.returncode}")
        if ready.exists():
            return str(json.loads(ready.read_text("utf-8"))["address"])
        time.sleep(0.05)
    raise CheckerError(f"{name} was not ready within 120 s")


def _wait_in_step(edge: _Served) -> None:
    """Wait until the edge has its first snapshot: it would answer before, but by asking the centre about everyone."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        asked = _quietly(["edge", "status", "--target", edge.address, "--json"], capture_output=True)
        if asked.returncode == 0 and int(json.loads(asked.stdout).get("epoch", 0)):
            return
        time.sleep(0.2)
    raise CheckerError("the edge had no snapshot within 60 s: see what it and the centre have logged")


class _Feed:
    """The made feed after its end: a heartbeat whenever one is due, imported while the centre serves."""

    def __init__(self, folder: Path, index: str) -> None:
        self._folder, self._index = folder, index
        manifest = json.loads((folder / "feed.jsonl.manifest.json").read_text("utf-8"))
        self._sequence = int(manifest["last_sequence"])
        self._due = time.monotonic() + HEARTBEAT_S
        self._importing: subprocess.Popen[bytes] | None = None

    def go_on(self) -> None:
        """Import the next heartbeat if it is due; never waits. A failed import says so itself, and is tried again."""
        if self._importing is not None:
            if self._importing.poll() is None:
                return
            self._sequence += self._importing.returncode == 0
            self._importing = None
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + HEARTBEAT_S
        file = self._folder / "heartbeat.jsonl"
        file.write_text(json.dumps({"seq": self._sequence + 1, "op": "heartbeat"}) + "\n", "utf-8")
        command = [*_script("checker"), "import", "--quiet", "--index", self._index, str(file)]
        self._importing = subprocess.Popen(command, start_new_session=True)

    def close(self) -> None:
        """Let an import come to its end."""
        if self._importing is not None:
            self._importing.wait(timeout=60)


def _stay(served: list[_Served], seconds: float | None, feed: _Feed) -> None:
    until = None if seconds is None else time.monotonic() + seconds
    with contextlib.closing(feed):
        while until is None or time.monotonic() < until:
            for one in served:
                if one.process.poll() is not None:
                    raise CheckerError(f"{one.name} ended with exit code {one.process.returncode}")
            feed.go_on()
            time.sleep(0.2)
