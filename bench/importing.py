"""A court feed into the embedded index, by the command a user types, and what it occupies there.

The rate's floor is redis-py writing the same number of 80-byte hashes through pipelines into the same kind of server
(append-only file, fsync always). Memory is the server's own count, records written through the index as the importer
does, against an empty server.
"""

import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import redis
import uvloop

from bench.result import Result
from checker.core.measure import FOREVER_MS, NINE_ITEMS, Addition, Kind, Measure, Role, State, encode_record
from checker.index.base import IndexKey
from checker.index.embedded import attach
from checker.index.urls import unix_index
from loadtest.people import Document, Names, Numbers

_BATCH = 1000


def _run(*command: str) -> str:
    return subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True, text=True).stdout


def _floor(writes: int) -> float:
    """Pipelined HSETs per second by redis-py."""
    with tempfile.TemporaryDirectory() as folder, attach(Path(folder) / "index") as attached:
        client = redis.Redis(unix_socket_path=str(attached.socket_path))
        value = bytes(80)
        start = time.perf_counter()
        for first in range(0, writes, _BATCH):
            pipeline = client.pipeline(transaction=False)
            for number in range(first, first + _BATCH):
                pipeline.hset(f"k:{number:016d}", "M0000123456", value)
            pipeline.execute()
        seconds = time.perf_counter() - start
        client.close()
    return writes / seconds


def _first_load(path: Path, measures: int) -> None:
    """A court's first load as design.md §9 sizes it: two documents per measure, nothing lifted yet."""
    numbers, names = Numbers(1, date(2026, 1, 1)), Names(1)
    with path.open("w", encoding="utf-8") as file:
        for sequence in range(1, measures + 1):
            papers = [
                Document("RESIDENT_ID", numbers.resident()),
                Document("FOREIGN_PASSPORT", numbers.foreign_passport(), "XAA"),
            ]
            line = {
                "seq": sequence,
                "op": "add",
                "measure_id": f"M{sequence:010d}",
                "kind": "order",
                "court": "合成市第一人民法院",
                "case_number": f"（2025）京0105执{sequence % 90_000 + 1}号",
                "effective_from": "2025-01-01",
                "subjects": [
                    {
                        "role": "DEBTOR_PERSON",
                        "name": names.chinese(papers).name,
                        "documents": [
                            {"type": one.type, "number": one.number, "country": one.country} for one in papers
                        ],
                    }
                ],
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def run_rate(measures: int = 60_000, people: int = 100_000, rounds: int = 3) -> list[Result]:
    """Import a first load, and a made feed with its lifts and re-binds; start of command and server not counted."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        load, made = Path(folder) / "load.jsonl", Path(folder) / "made"
        _first_load(load, measures)
        _run("loadtest", "make-feed", "--people", str(people), "--seed", "1", "--out", str(made))
        for name, feed, goal in (
            ("import, first load", load, "≥ 25 000 keys/s"),
            ("import, a year of changes", made / "feed.jsonl", ""),
        ):
            rates, floors, lines, keys = [], [], 0, 0
            for number in range(rounds):
                index = f"embedded:{folder}/{feed.stem}-{number}"
                summary = json.loads(_run("checker", "import", "--json", "--index", index, str(feed)))
                assert not summary["rejected"]
                lines, keys = summary["lines"], summary["keys"]
                rates.append(keys / summary["seconds"])
                floors.append(_floor(50_000))
            rate, floor = statistics.median(rates), statistics.median(floors)
            note = f"{lines:,} lines, {keys:,} document keys, one process; median of {rounds}"
            results.append(
                Result(name, rate, "keys/s", "redis-py pipelined HSET, same server", floor, rate / floor, goal, note)
            )
    return results


def additions(keys: int) -> list[Addition]:
    """Realistic measures: two documents each, four name digests, court and case as long as real ones."""
    source = random.Random(1)
    made = []
    for number in range(keys // 2):
        measure = Measure(
            measure_id=f"M{number:010d}",
            sequence=number + 1,
            state=State.ACTIVE,
            kind=Kind.ORDER,
            role=Role.DEBTOR_PERSON,
            items=NINE_ITEMS,
            items_named=False,
            disputed=False,
            effective_from_ms=1_600_000_000_000,
            effective_to_ms=FOREVER_MS,
            adult_from_day=-20_000,
            names=source.randbytes(24),
            exemptions=(),
        )
        record = encode_record(measure)
        records = {source.randbytes(16): record, source.randbytes(16): record}
        case = f"（2025）京0105执{number % 90_000}号"
        made.append(Addition(number + 1, measure.measure_id, records, "合成市第一人民法院", case))
    return made


async def _occupied(socket_path: str, keys: int) -> tuple[float, float]:
    """Bytes per document key: of the record's own key, and of everything."""
    client = redis.Redis(unix_socket_path=socket_path)
    index = unix_index(socket_path)
    await index.open(IndexKey("bench", bytes(16)), create=True)
    empty = client.info("memory")["used_memory"]
    made = additions(keys)
    for first in range(0, len(made), _BATCH):
        await index.apply(made[first : first + _BATCH])
    used = client.info("memory")["used_memory"] - empty
    names = [name for _, name in zip(range(2000), client.scan_iter(match="*:k:*", count=1000), strict=False)]
    record = sum(client.memory_usage(name) or 0 for name in names) / len(names)
    await index.close()
    client.close()
    return record, used / keys


def run_memory(keys: int = 1_000_000) -> list[Result]:
    """Bytes per document key in the server."""
    with tempfile.TemporaryDirectory() as folder, attach(Path(folder) / "index") as attached:
        record, everything = uvloop.run(_occupied(str(attached.socket_path), keys))
    payload = 16 + 11 + 33 + 24  # digest, measure id, record, four name digests
    return [
        Result("memory, the record's key", record, "B/key", "its payload", payload, record / payload, "≤ 200 B", ""),
        Result("memory, all told", everything, "B/key", "its payload", payload, everything / payload, "≤ 300 B",
               f"{keys:,} document keys, two per measure, journal included"),
    ]  # fmt: skip


if __name__ == "__main__":
    for result in [*run_rate(), *run_memory()]:
        print(result)
