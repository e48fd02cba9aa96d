"""Claims about `checker demo`, what `make run` does: what it shows, how long it stays, what it leaves."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import psutil

from proto.checker.v1 import check_pb2 as pb
from proto.checker.v1 import check_pb2_grpc
from tests.waiting import until


def _demo(folder: Path, log: Path, *start: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, *(start or ("-m", "checker")), "demo", "--people", "300", "--dir", str(folder)]
    command += ["--listen", "127.0.0.1:0", "--edge-listen", "127.0.0.1:0"]
    with log.open("wb") as out:
        # SIGINT is ignored, as in a shell's background.
        environment = os.environ | {"RUN_SECONDS": "120"}
        return subprocess.Popen(
            ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command],
            stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
        )  # fmt: skip


def _rows(log: str) -> list[list[str]]:
    """The table's rows, each a list of its cells; a row may take several lines, the time stands in the first."""
    rows: list[list[str]] = []
    for line in log.splitlines():
        cells = [cell.strip() for cell in line.split("│")[1:-1]]
        if cells and cells[-1]:
            rows.append(cells)
        elif cells:
            rows[-1] = [before + after for before, after in zip(rows[-1], cells, strict=True)]
    return rows


def _shows_what_it_promises(log: str, centre: str, edge: str) -> None:
    rows = _rows(log)
    assert len(rows) == 12, log
    assert "expected" not in "".join(answer for _, _, answer, *_ in rows), log
    assert {answer for _, _, answer, *_ in rows} == {"ALLOWED", "BARRED", "UNKNOWN", "INVALID_DOCUMENT"}, log
    assert {by for *_, by, _ in rows} == {"FILTER", "RULES", "INDEX"}, log
    assert f"12 telling checks, asked one by one of {edge}" in log
    assert f"CheckService at {edge} (edge) and {centre} (centre); plaintext, loopback." in log
    assert re.search(r"^Stops after 120 s\.$", log, re.MULTILINE)


def test_the_data_of_a_demo_grows_no_older_than_its_heartbeats(tmp_path: Path) -> None:
    """With a heartbeat every two seconds, the edge's answers after four of them rest on data younger than the demo: the
    feed has gone on, and the edge has heard of it."""
    folder, log, began = tmp_path / "demo", tmp_path / "log", time.time()
    change = "from checker.cli import demo, main; demo.HEARTBEAT_S = 2.0; raise SystemExit(main())"
    with _demo(folder, log, "-c", change) as running:
        try:
            until(lambda: "Stops after" in log.read_text() or running.poll() is not None, 90, pause=0.1)
            assert running.poll() is None, log.read_text()
            last = json.loads((folder / "feed" / "feed.jsonl.manifest.json").read_text())["last_sequence"]
            stood = time.time()
            with grpc.insecure_channel(json.loads((folder / "edge-ready.json").read_text())["address"]) as channel:
                until(lambda: _as_of(channel).feed_sequence >= last + 4 or running.poll() is not None, 90, pause=0.25)
                as_of = _as_of(channel)
        finally:
            running.send_signal(signal.SIGTERM)
            code = running.wait(60)

    assert code == 0, log.read_text()
    assert as_of.feed_time.seconds >= int(stood) > began


def _as_of(channel: grpc.Channel) -> pb.DataAsOf:
    """What an answer of the edge rests on."""
    question = pb.CheckRequest(purchase=pb.Purchase(flight=pb.Flight()))
    question.subject.document.type = pb.DOCUMENT_TYPE_RESIDENT_ID
    question.subject.document.number = "430102189712316872"
    answer: pb.CheckResponse = check_pb2_grpc.CheckServiceStub(channel).Check(question, timeout=10)
    return answer.data_as_of


def test_a_demo_answers_rightly_works_alone_and_leaves_nothing(tmp_path: Path) -> None:
    """A dozen answers as the feed has them, and both addresses. A second demo is refused, the first goes on as if
    nothing had been. SIGTERM, too, ends its servers with it.
    """
    folder, log = tmp_path / "demo", tmp_path / "log"
    with _demo(folder, log) as first:
        try:
            until(lambda: "Stops after" in log.read_text() or first.poll() is not None, 90, pause=0.1)
            assert first.poll() is None, log.read_text()
            ready = [json.loads((folder / name).read_text()) for name in ("ready.json", "edge-ready.json")]
            _shows_what_it_promises(log.read_text(), *(each["address"] for each in ready))
            served = [psutil.Process(each["pid"]) for each in ready]
            family = served + [child for each in served for child in each.children(recursive=True)]
            with _demo(folder, tmp_path / "second") as second:
                assert second.wait(30) == 2
            assert f"--dir {folder}: another demo runs there" in (tmp_path / "second").read_text()
            assert (folder / "feed" / "people.csv").exists()
            assert all(each.is_running() for each in served)
        finally:
            first.send_signal(signal.SIGTERM)
            code = first.wait(60)
    assert code == 0, log.read_text()
    until(
        lambda: not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in family), 20, pause=0.05
    )


STUB = """
import json, os, signal, sys
words = sys.argv[1:]
if "serve" in words:
    ready = words[words.index("--ready-file") + 1]
    with open(ready + ".new", "w") as file:
        json.dump({"address": words[0] + ":1", "pid": os.getpid()}, file)
    os.replace(ready + ".new", ready)
    signal.alarm(90)  # should nobody end it
    signal.pause()
elif "status" in words:
    print(json.dumps({"epoch": 1}))
elif "make-feed" in words:
    folder = words[words.index("--out") + 1]
    os.makedirs(folder)
    with open(folder + "/feed.jsonl.manifest.json", "w") as file:
        json.dump({"last_sequence": 1}, file)
"""
BOUNDED = """
import sys
from checker.cli import demo
from checker.cli.main import main
demo._script = lambda name: [sys.executable, sys.argv[1], name]
sys.exit(main(sys.argv[2:]))
"""


def test_run_seconds_bounds_a_demo(tmp_path: Path) -> None:
    """It stays that long, and ends its servers with it; here commands that do next to nothing stand for the real."""
    stub, folder = tmp_path / "stub.py", tmp_path / "demo"
    stub.write_text(STUB, "utf-8")
    command = [sys.executable, "-c", BOUNDED, str(stub), "demo", "--dir", str(folder)]

    began = time.monotonic()
    ran = subprocess.run(
        command, env=os.environ | {"RUN_SECONDS": "1.5"}, timeout=60, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran
    assert time.monotonic() - began >= 1.5
    assert "Stops after 1.5 s." in ran.stdout
    for name in ("ready.json", "edge-ready.json"):
        assert not psutil.pid_exists(json.loads((folder / name).read_text())["pid"])

    wrong = subprocess.run(
        command, env=os.environ | {"RUN_SECONDS": "soon"}, timeout=60, capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 2
    assert "RUN_SECONDS=soon: must be a number of seconds" in wrong.stderr
