"""A whole deployment on loopback, for runs that bring none: a made feed, the centre, and where asked an edge node.

Each part is its console script, started as a process in a session of its own and stopped by its own handle. Ports are
free ones, told by ready files. Everything lies under one folder, which the caller chose. The feed goes on with a
heartbeat a minute, as a court's does, where something can be imported while the centre serves: not into `memory:`.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Self

from loadtest.make_feed import FEED, MANIFEST, PEOPLE, SHANGHAI, make_feed

READY_S = 120.0
"""Time a part may take until it serves."""
HEARTBEAT_S = 60.0
"""Seconds between two heartbeats of the feed."""
_STOP_S = 30.0
_SEED = 1


class StandFailed(Exception):
    """A part could not be started; the text says which and where its log is."""


@dataclass(frozen=True)
class Server:
    """A started service: where it answers, its process, and its handle."""

    name: str
    address: str
    pid: int
    process: "subprocess.Popen[bytes]" = field(repr=False)


class Stand:
    """Centre (and edge) with `people` made people, as a context manager.

    `memory`: the centre keeps its index in its own process (one worker, quick to start); else an embedded index, as
    `make run` has it, that `workers` processes share. `edge`: an edge of `edge_workers` processes before it, which has
    its snapshot. `rulebook`: a rulebook file in place of the one that ships. Raises StandFailed on entering.
    """

    def __init__(
        self,
        folder: Path,
        *,
        people: int = 20_000,
        workers: int = 1,
        memory: bool = False,
        edge: bool = False,
        edge_workers: int = 1,
        rulebook: Path | None = None,
    ) -> None:
        self.folder = folder
        self.people = folder / "feed" / PEOPLE
        self.servers: list[Server] = []
        self._count = people
        self._workers = workers
        self._memory = memory
        self._edge = edge
        self._edge_workers = edge_workers
        self._rulebook = rulebook
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        feed = self.folder / "feed"
        feed.mkdir(parents=True, exist_ok=True)
        make_feed(feed, self._count, _SEED, datetime.now(SHANGHAI), court="合成法院")
        try:
            self._start_centre(feed / FEED)
            if self._edge:
                self._start_edge()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def target(self) -> Server:
        """What a seller would ask: the edge where there is one, else the centre."""
        return self.servers[-1]

    @property
    def centre(self) -> Server:
        """The central service."""
        return self.servers[0]

    def _start_centre(self, feed: Path) -> None:
        state = self.folder / "centre"
        if self._memory:
            index = ["--index", "memory:", "--feed", str(feed), "--state-dir", str(state)]
        else:
            index = ["--index", f"embedded:{state}"]
            self._run("import", ["checker", "import", *index, str(feed)])
            index += ["--workers", str(self._workers)]
        if self._rulebook is not None:
            index += ["--rulebook", str(self._rulebook)]
        self._serve("centre", ["checker", "serve", *index])
        if not self._memory:
            self._go_on(feed, f"embedded:{state}")

    def _go_on(self, feed: Path, index: str) -> None:
        """Heartbeats until the stand ends; an import that fails is tried again, and the data shows its age."""
        over = threading.Event()
        file = feed.with_name("heartbeat.jsonl")

        def beat() -> None:
            manifest = json.loads(feed.with_name(MANIFEST).read_text("utf-8"))
            sequence = manifest["last_sequence"] + 1
            while not over.wait(HEARTBEAT_S):
                file.write_text(json.dumps({"seq": sequence, "op": "heartbeat"}) + "\n", "utf-8")
                with contextlib.suppress(StandFailed):
                    self._run("heartbeat", ["checker", "import", "--index", index, str(file)])
                    sequence += 1

        beating = threading.Thread(target=beat, daemon=True)
        beating.start()
        self._stack.callback(beating.join)
        self._stack.callback(over.set)

    def _start_edge(self) -> None:
        key = self.folder / "edge-key.json"
        centre = self.folder / "centre"
        self._run("key", ["checker", "keys", "export-edge", "--key-file", str(centre / "key.json"), "--out", str(key)])
        command = ["edge", "serve", "--centre", self.centre.address, "--data", str(self.folder / "edge")]
        self._serve("edge", [*command, "--key-file", str(key), "--workers", str(self._edge_workers)])
        self._wait_in_step()

    def _wait_in_step(self) -> None:
        """An edge answers before it has its first snapshot, by asking the centre about everyone: another load."""
        command = [*script("edge"), "status", "--target", self.target.address, "--json"]
        until = time.monotonic() + READY_S
        while time.monotonic() < until:
            asked = subprocess.run(command, capture_output=True, check=False)
            if asked.returncode == 0 and int(json.loads(asked.stdout).get("epoch", 0)):
                return
            time.sleep(0.1)
        raise StandFailed(f"edge had no snapshot within {READY_S:.0f} s: see {self.folder / 'edge.log'}")

    def _run(self, name: str, command: list[str]) -> None:
        log = self.folder / f"{name}.log"
        with log.open("wb") as out:
            done = subprocess.run([*script(command[0]), *command[1:]], stdout=out, stderr=out, check=False)
        if done.returncode:
            raise StandFailed(f"{name} ended with exit code {done.returncode}: see {log}")

    def _serve(self, name: str, command: list[str]) -> None:
        ready, log = self.folder / f"{name}-ready.json", self.folder / f"{name}.log"
        ready.unlink(missing_ok=True)
        command = [*script(command[0]), *command[1:], "--listen", "127.0.0.1:0", "--ready-file", str(ready)]
        command += ["--drain-pause-ms", "0"]  # there is no load balancer to tell
        with log.open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
        self._stack.callback(stop, process)
        until = time.monotonic() + READY_S
        while not ready.exists():
            if process.poll() is not None:
                raise StandFailed(f"{name} ended with exit code {process.returncode}: see {log}")
            if time.monotonic() > until:
                raise StandFailed(f"{name} was not ready within {READY_S:.0f} s: see {log}")
            time.sleep(0.02)
        self.servers.append(Server(name, str(json.loads(ready.read_text("utf-8"))["address"]), process.pid, process))


def script(name: str) -> list[str]:
    """The console script beside this interpreter, so that an unactivated environment does."""
    path = Path(sys.executable).parent / name
    return [str(path)] if path.exists() else [sys.executable, "-m", name]


def stop(process: "subprocess.Popen[bytes]", seconds: float = _STOP_S) -> None:
    """End a process that we started, with its children: asked first, killed when it does not come to an end."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)  # a test may have frozen it
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
