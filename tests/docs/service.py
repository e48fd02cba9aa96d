"""A small feed and the service over it, started by the commands the documents name."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHECKER = str(Path(sys.executable).parent / "checker")
EDGE = str(Path(sys.executable).parent / "edge")
START_S = 60


def feed_lines(now: str) -> list[dict[str, object]]:
    """One order on the specimen person of domain.md §3.2, and a heartbeat: the feed of the documents' examples."""
    person = {
        "role": "DEBTOR_PERSON",
        "name": "张三",
        "documents": [
            {"type": "RESIDENT_ID", "number": "440524188001010014"},
            {"type": "PRC_PASSPORT", "number": "E00000014"},
        ],
    }
    return [
        {
            "seq": 1,
            "time": now,
            "op": "add",
            "measure_id": "O1",
            "kind": "order",
            "court": "合成法院",
            "case_number": "（2024）浙0102执1号",
            "effective_from": "2024-01-01",
            "subjects": [person],
        },
        {"seq": 2, "time": now, "op": "heartbeat"},
    ]


def write_feed(path: Path) -> Path:
    """The feed as a file, its last word said just now."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    lines = [json.dumps(line, ensure_ascii=False) for line in feed_lines(now)]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without settings of a service of somebody else's."""
    ours = ("CHECKER_", "EDGE_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | dict(more)


def run(
    *words: str, cwd: Path, code: int = 0, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A command to its end, which must be `code`."""
    done = subprocess.run(
        words, cwd=cwd, env=environment(env or {}), capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == code, f"{words}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done


@contextlib.contextmanager
def serving(*words: str, cwd: Path, env: Mapping[str, str] | None = None, command: str = CHECKER) -> Iterator[str]:
    """`checker serve`, or the edge's, with these flags; its address on loopback. Stopped by its own handle."""
    ready = cwd / f"{Path(command).name}.ready.json"
    process = subprocess.Popen(
        [command, "serve", *words, "--ready-file", str(ready)], cwd=cwd, env=environment(env or {})
    )
    try:
        deadline = time.monotonic() + START_S
        while not ready.exists():
            assert process.poll() is None, f"{command} serve ended before it served"
            assert time.monotonic() < deadline, f"{command} serve is not ready"
            time.sleep(0.02)
        yield json.loads(ready.read_text("utf-8"))["address"].replace("0.0.0.0:", "127.0.0.1:")
    finally:
        process.terminate()
        assert process.wait(60) == 0
