"""Claims about the second opinion: it agrees with what it should, objects to what it must, and asks like a seller."""

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.measured import Recorder
from loadtest.probe import compare
from loadtest.stand import Stand
from loadtest.workload import Item

ITEM = Item(b"", "ALLOWED")


def a_recorder(seed: int, calls: int, factor: float = 1.0, stall: float = 0.0) -> Recorder:
    """Latencies around 4 ms; a share `stall` of the calls takes 2 s longer."""
    draw = random.Random(seed)
    recorder = Recorder()
    for _ in range(calls):
        latency_us = draw.lognormvariate(8.3, 0.5) * factor + (2e6 if draw.random() < stall else 0)
        recorder.answered("rail", "BatchCheck", latency_us, 0.5, [ITEM], [1])
    return recorder


@pytest.mark.parametrize("seed", range(20))
def test_two_samples_of_one_service_agree(seed: int) -> None:
    """Chance alone is no disagreement, however few calls the prober made."""
    opinions = compare(a_recorder(seed, 20_000), a_recorder(seed + 100, 1_000))

    assert [each.percentile for each in opinions] == [50.0, 95.0, 99.0]
    assert all(each.agrees for each in opinions)


def test_a_loader_that_delays_its_own_calls_is_told() -> None:
    """Where locust's figures are three times the prober's, every percentile disagrees."""
    opinions = compare(a_recorder(1, 20_000, factor=3.0), a_recorder(2, 1_000))

    assert not any(each.agrees for each in opinions)


def test_a_stall_that_the_loader_missed_is_told() -> None:
    """Where the prober saw 3 % of the calls stall and locust none, p99 disagrees and p50 does not."""
    by_percentile = {
        each.percentile: each.agrees for each in compare(a_recorder(1, 20_000), a_recorder(2, 2_000, stall=0.03))
    }

    assert by_percentile == {50.0: True, 95.0: True, 99.0: False}


def test_few_calls_judge_no_tail() -> None:
    """A p99 that rests on less than ten calls above it is left out."""
    assert [each.percentile for each in compare(a_recorder(1, 20_000), a_recorder(2, 300))] == [50.0, 95.0]
    assert compare(a_recorder(1, 100), Recorder()) == []


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """A centre with two thousand people."""
    with Stand(tmp_path_factory.mktemp("stand"), people=2_000, memory=True) as started:
        yield started


def test_the_prober_asks_what_sellers_ask_and_knows_the_answers(stand: Stand, tmp_path: Path) -> None:
    """A process of its own makes calls of every kind at its rate, gets right answers, and writes what it measured."""
    sla = tmp_path / "sla.toml"
    sla.write_text(
        'name = "t"\n[workload]\ntenants = ["rail", "hotel", "tour"]\nrate = 100\nseconds = 2\n'
        "deadline_ms = 30000\n"
        "[[target]]\nerror_share = 0.1\n"
    )
    out = tmp_path / "probe.json"
    command = [sys.executable, "-m", "loadtest.probe", "--target", stand.target.address, "--people", str(stand.people)]
    command += ["--sla", str(sla), "--rate", "400", "--seconds", "2", "--out", str(out)]
    subprocess.run(command, check=True, timeout=60)
    recorder = Recorder.from_json(json.loads(out.read_text()))
    whole = recorder.select()

    assert {rpc for _, rpc in recorder.series} == {"BatchCheck", "Check", "StreamCheck"}
    assert whole.wrong == 0, recorder.told
    assert whole.errors.total() == 0
    assert 400 < whole.checks < 1_200
