"""The same load with 0.1, 1 and 10 million listed keys: latency and processor time per check, side by side.

`loadtest` drives rail's orders, every answer checked, against an edge node and against the centre itself. The feed it
asks about is the same each time; what grows is the list around it. Up to a million keys lie in the exact index with
whole records. Ten million lie in the filters alone, that of the centre and the snapshot of the edge, where every check
looks first: the index holds the million, as a key that it does not hold costs it no more than one it does.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import uvloop

from bench.centre import Centre
from bench.importing import additions
from bench.result import Result
from bench.rpc import checker
from checker import keys as key_files
from checker import rulebooks
from checker.core.filter_builder import build
from checker.core.key import Algorithm
from checker.serving import filter_file
from loadtest import sla
from loadtest.drive import Plan, drive
from loadtest.make_feed import FEED, PEOPLE, SHANGHAI, make_feed
from loadtest.stand import stop

SIZES = (100_000, 1_000_000, 10_000_000)
INDEXED = 1_000_000
"""Keys with a record in the exact index, at most."""
RATE, SECONDS, ASKED_ABOUT = 300.0, 10.0, 20_000
_BATCH = 1_000
_READY_S = 60.0


class Measured(NamedTuple):
    """One run."""

    p50_ms: float
    p99_ms: float
    cpu_us: float  # of the target's processes, per check
    resident_mb: float


def run(sizes: tuple[int, ...] = SIZES) -> list[Result]:
    """Measure each size; the first is the floor of the others."""
    results = []
    with tempfile.TemporaryDirectory(prefix="xx-") as made:
        folder = Path(made)
        one = _centre(folder)
        filled, floors = 0, dict[str, Measured]()
        for size in sizes:
            filled = uvloop.run(_grow(one, filled, size))
            for target, measured in _measure(one, folder / f"{size}").items():
                results += _rows(target, size, sizes[0], measured, floors.setdefault(target, measured))
                print(f"  {target}, {_millions(size)}: {measured}", file=sys.stderr, flush=True)
    return results


def _rows(target: str, size: int, least: int, measured: Measured, floor: Measured) -> list[Result]:
    note = f"{RATE:,.0f} checks/s of rail for {SECONDS:,.0f} s, {measured.resident_mb:,.0f} MB resident"
    of, beside = f"{target}, {_millions(size)} listed", f"with {_millions(least)}"
    return [
        Result(f"{of}: {name}", value, unit, beside, first, value / first, "", note)
        for name, unit, value, first in (
            ("p50", "ms", measured.p50_ms, floor.p50_ms),
            ("p99", "ms", measured.p99_ms, floor.p99_ms),
            ("CPU per check", "µs", measured.cpu_us, floor.cpu_us),
        )
    ]


def _millions(keys: int) -> str:
    return f"{keys / 1e6:g} M"


def _centre(folder: Path) -> Centre:
    """Keys, and an index that has imported the feed which is asked about; nothing serves yet."""
    (folder / "feed").mkdir()
    make_feed(folder / "feed", ASKED_ABOUT, 1, datetime.now(SHANGHAI), court="合成法院")
    keys = key_files.new(Algorithm.BLAKE2B_128, "bench")
    key_file, edge_key = folder / "key.json", folder / "edge-key.json"
    key_files.save(key_file, keys)
    key_files.export_edge(edge_key, keys)
    one = Centre("", f"embedded:{folder / 'index'}", folder, keys, key_file, edge_key)
    one.import_(folder / "feed" / FEED)
    return one


async def _grow(one: Centre, filled: int, size: int) -> int:
    """Fill index and snapshot up to `size` keys; returns how many were made for the index, the feed's own aside."""
    async with one.index() as index:
        found = [key async for page in index.scan() for key in page]
        filled_now = filled + max(0, min(size, INDEXED) - len(found)) // 2 * 2  # two keys to a measure
        made = additions(filled_now)[filled // 2 :]
        for first in range(0, len(made), _BATCH):
            await index.apply(made[first : first + _BATCH])
            found += [key for addition in made[first : first + _BATCH] for key in addition.records]
        nothing_since = filter_file.Scan(np.empty((0, 16), np.uint8), await index.journal_end(), await index.head())
    held = np.frombuffer(b"".join(found), np.uint8).reshape(-1, 16)
    more = np.random.default_rng(1).integers(0, 256, (max(0, size - len(held)), 16), dtype=np.uint8)
    built = build(np.concatenate([held, more]))
    await one.publish(built)
    # The centre's own filter too, which it would make of what its index holds.
    now_ms = time.time_ns() // 1_000_000
    header = filter_file.header(built, one.keys.digest_key, rulebooks.load(None), nothing_since, now_ms)
    filter_file.write(filter_file.path_in(one.folder / "state"), header, built)
    return filled_now


def _measure(one: Centre, folder: Path) -> dict[str, Measured]:
    """Each target's figures; centre and edge are started anew, so that the list they hold is this one alone."""
    folder.mkdir()
    found = {}
    with (
        checker(one.url, "--key-file", str(one.key_file), "--state-dir", str(one.folder / "state")) as (
            centre,
            centre_pid,
        ),
        _edge(one, centre, folder / "edge-data") as (edge, edge_pid),
    ):
        for name, address, pid in (("edge", edge, edge_pid), ("centre", centre, centre_pid)):
            out = folder / name
            out.mkdir()
            file = sla.locate("rail-peak")
            plan = Plan(
                sla=sla.read(file),
                sla_file=file,
                targets=(address,),
                people=one.folder / "feed" / PEOPLE,
                rate=RATE,
                seconds=SECONDS,
                warmup_s=2.0,
                probe=False,
                pids=(pid,),
            )
            driven = drive(plan, out)
            whole = driven.recorder.select()
            p50_us, p99_us, cpu_us = whole.percentile_us(50), whole.percentile_us(99), driven.server_cpu_us
            assert not whole.wrong, driven.recorder.told
            assert p50_us is not None
            assert p99_us is not None
            assert cpu_us is not None
            resident = max(sample.server_bytes for sample in driven.samples)
            found[name] = Measured(p50_us / 1000, p99_us / 1000, cpu_us, resident / 1e6)
    return found


@contextlib.contextmanager
def _edge(one: Centre, centre: str, data: Path) -> Iterator[tuple[str, int]]:
    """A node before this centre that has its snapshot: address and pid."""
    ready = data.with_suffix(".json")
    command = [sys.executable, "-m", "edge", "serve", "--centre", centre, "--listen", "127.0.0.1:0"]
    command += ["--data", str(data), "--key-file", str(one.edge_key), "--ready-file", str(ready)]
    process = subprocess.Popen([*command, "--log-level", "warning"], start_new_session=True)
    try:
        end = time.monotonic() + _READY_S
        while not (ready.exists() and _in_step(str(json.loads(ready.read_text("utf-8"))["address"]))):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("edge serve did not come into step with its centre")
            time.sleep(0.1)
        yield str(json.loads(ready.read_text("utf-8"))["address"]), process.pid
    finally:
        stop(process)


def _in_step(address: str) -> bool:
    command = [sys.executable, "-m", "edge", "status", "--target", address, "--json"]
    asked = subprocess.run(command, capture_output=True, check=False)
    return asked.returncode == 0 and int(json.loads(asked.stdout).get("epoch", 0)) > 0


if __name__ == "__main__":
    for result in run(tuple(int(float(word) * 1e6) for word in sys.argv[1:]) or SIZES):
        print(result)
