"""`checker demo` (`make run`): the whole road on one machine, by the commands a user would type.

Makes a feed, imports it into an embedded index, serves, asks a dozen telling questions over gRPC, prints the answers
and the address, and stays up until Ctrl-C. Each part is the console script itself, started as a process.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from checker.errors import CheckerError, UsageError

_TELLING = 12


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = commands.add_parser(
        "demo",
        help="made feed -> embedded index -> service, with a table of telling checks",
        description="Make a feed of synthetic people, import it, serve it and show a dozen telling checks. "
        "Stays up until Ctrl-C; RUN_SECONDS=N in the environment bounds it.",
    )
    parser.add_argument("--people", type=int, default=100_000, metavar="N", help="size of the made feed (100000)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="seed of the made feed (1)")
    parser.add_argument("--dir", type=Path, default=Path("run/demo"), metavar="DIR", help="work folder (run/demo)")
    parser.add_argument("--listen", default="127.0.0.1:50051", metavar="ADDR", help="where to serve (127.0.0.1:50051)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the demo; returns the exit code."""
    seconds = _run_seconds()
    folder: Path = args.dir
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    feed, index = folder / "feed", f"embedded:{folder / 'index'}"
    _step(
        "making a feed",
        ["loadtest", "make-feed", "--people", str(args.people), "--seed", str(args.seed)],
        "--out",
        str(feed),
    )
    _step("importing it", ["checker", "import", "--index", index], str(feed / "feed.jsonl"))
    ready = folder / "ready.json"
    command = [*_script("checker"), "serve", "--index", index, "--listen", args.listen, "--ready-file", str(ready)]
    print(f"· serving: checker {' '.join(command[len(_script('checker')) :])}", flush=True)
    server = subprocess.Popen(command, start_new_session=True)
    try:
        address = _wait_ready(ready, server)
        print(flush=True)
        asked = [*_script("loadtest"), "ask", "--target", address, "--people", str(feed / "people.csv")]
        wrong = subprocess.run([*asked, "--telling", str(_TELLING)], check=False).returncode
        print(f"\nCheckService at {address} (plaintext, loopback). Ask yourself:")
        print(f"  loadtest ask --target {address} --people {feed / 'people.csv'}")
        print(f"  checker check --target {address} --document RESIDENT_ID:440524188001010014 train G1 O")
        print(f"  checker status --index {index}")
        print("Ctrl-C stops it." if seconds is None else f"Stops after {seconds:g} s.", flush=True)
        if wrong:
            raise CheckerError("an answer differs from what the feed says")
        _stay(server, seconds)
    except KeyboardInterrupt:
        print()
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)
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


def _step(what: str, command: list[str], *more: str) -> None:
    print(f"· {what}: {' '.join([*command, *more])}", flush=True)
    start = time.monotonic()
    done = subprocess.run([*_script(command[0]), *command[1:], *more], check=False)
    if done.returncode:
        raise CheckerError(f"{what} failed with exit code {done.returncode}")
    print(f"  done in {time.monotonic() - start:.1f} s", flush=True)


def _wait_ready(ready: Path, server: "subprocess.Popen[bytes]") -> str:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if server.poll() is not None:
            raise CheckerError(f"checker serve ended with exit code {server.returncode}")
        if ready.exists():
            return str(json.loads(ready.read_text("utf-8"))["address"])
        time.sleep(0.05)
    raise CheckerError("checker serve was not ready within 120 s")


def _stay(server: "subprocess.Popen[bytes]", seconds: float | None) -> None:
    try:
        server.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return
    raise CheckerError(f"checker serve ended with exit code {server.returncode}")
