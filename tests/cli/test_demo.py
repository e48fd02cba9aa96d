"""Claims about `checker demo`, what `make run` does: it works alone in its folder, and leaves nothing running."""

import json
import os
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


def test_the_data_of_a_demo_grows_no_older_than_its_heartbeats(tmp_path: Path) -> None:
    """With a heartbeat every two seconds, the edge's answers after four of them rest on data younger than the demo: the
    feed has gone on, and the edge has heard of it."""
    folder, log, began = tmp_path / "demo", tmp_path / "log", time.time()
    change = "from checker.cli import demo, main; demo.HEARTBEAT_S = 2.0; raise SystemExit(main())"
    with _demo(folder, log, "-c", change) as running:
        try:
            until(lambda: "Stops after" in log.read_text() or running.poll() is not None, 90)
            assert running.poll() is None, log.read_text()
            last = json.loads((folder / "feed" / "feed.jsonl.manifest.json").read_text())["last_sequence"]
            stood = time.time()
            until(lambda: _as_of(folder).feed_sequence >= last + 4 or running.poll() is not None, 90)
            as_of = _as_of(folder)
        finally:
            running.send_signal(signal.SIGTERM)
            code = running.wait(60)

    assert code == 0, log.read_text()
    assert as_of.feed_time.seconds >= int(stood) > began


def _as_of(folder: Path) -> pb.DataAsOf:
    """What an answer of the edge rests on."""
    question = pb.CheckRequest(purchase=pb.Purchase(flight=pb.Flight()))
    question.subject.document.type = pb.DOCUMENT_TYPE_RESIDENT_ID
    question.subject.document.number = "430102189712316872"
    with grpc.insecure_channel(json.loads((folder / "edge-ready.json").read_text())["address"]) as channel:
        answer: pb.CheckResponse = check_pb2_grpc.CheckServiceStub(channel).Check(question, timeout=10)
    return answer.data_as_of


def test_a_second_demo_is_refused_and_a_stopped_one_leaves_nothing(tmp_path: Path) -> None:
    """The first goes on as if nothing had been; SIGTERM, too, ends its servers with it."""
    folder, log = tmp_path / "demo", tmp_path / "log"
    with _demo(folder, log) as first:
        try:
            until(lambda: "Stops after" in log.read_text() or first.poll() is not None, 90)
            assert first.poll() is None, log.read_text()
            served = [psutil.Process(json.loads((folder / name).read_text())["pid"])
                      for name in ("ready.json", "edge-ready.json")]  # fmt: skip
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
    until(lambda: not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in family), 20)
