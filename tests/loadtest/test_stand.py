"""Claims about the stand: a whole deployment that answers rightly, and leaves nothing behind."""

import json
from pathlib import Path

import grpc
import psutil
import pytest

from loadtest.ask import ask_all
from loadtest.make_feed import MANIFEST
from loadtest.stand import Stand, StandFailed
from proto.checker.v1 import check_pb2 as pb
from proto.checker.v1 import check_pb2_grpc
from tests.waiting import until


def test_centre_and_edge_answer_rightly_and_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sellers ask the edge, no answer of people.csv is wrong, and no process outlives the stand. On a busy machine an
    edge may be in doubt (CENTRE_LATE), which bars nobody."""
    monkeypatch.setenv("CHECKER_INDEX_TIMEOUT_MS", "5000")  # how fast the index is on a busy machine is not the claim
    with Stand(tmp_path, people=2_000, edge=True) as stand:
        asked = ask_all(stand.target.address, stand.people)
        started = {server.name: server.pid for server in stand.servers}
        processes = [psutil.Process(pid) for pid in started.values()]
        processes += [child for each in processes for child in each.children(recursive=True)]

        assert set(started) == {"centre", "edge"}
        assert stand.target.name == "edge"
        assert asked.asked > 2_000
        assert asked.outcomes["INVALID_DOCUMENT"] > 10
        assert [text for text in asked.wrong if "got UNKNOWN, CENTRE_" not in text] == []
    until(lambda: not any(each.is_running() for each in processes), 20, pause=0.05)


def test_the_feed_goes_on_while_the_stand_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a heartbeat every half second the centre's answers soon rest on the third of them, and nothing is left."""
    monkeypatch.setattr("loadtest.stand.HEARTBEAT_S", 0.5)
    with Stand(tmp_path, people=300) as stand, grpc.insecure_channel(stand.target.address) as channel:
        last = json.loads((tmp_path / "feed" / MANIFEST).read_text("utf-8"))["last_sequence"]
        question = pb.CheckRequest(purchase=pb.Purchase(flight=pb.Flight()))
        question.subject.document.type = pb.DOCUMENT_TYPE_RESIDENT_ID
        question.subject.document.number = "430102189712316872"
        stub = check_pb2_grpc.CheckServiceStub(channel)
        until(lambda: stub.Check(question, timeout=10).data_as_of.feed_sequence >= last + 3, 90, pause=0.25)
        process = psutil.Process(stand.centre.pid)

    until(lambda: not process.is_running(), 20, pause=0.05)


def test_a_part_that_does_not_start_is_named_with_its_log(tmp_path: Path) -> None:
    """Where the centre cannot keep its state, the stand says so and starts nothing else."""
    (tmp_path / "centre").write_text("in the way")
    with (
        pytest.raises(StandFailed, match=r"centre ended with exit code \d+: see .*centre\.log"),
        Stand(tmp_path, people=100, memory=True),
    ):
        pass
