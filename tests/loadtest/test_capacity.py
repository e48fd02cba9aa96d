"""The capacity plan: arithmetic that can be followed by hand, and that more load never needs less."""

import json
import math
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import capacity, costs
from loadtest.capacity import Costs, Load, Machine, plan, predict
from loadtest.cli import main
from loadtest.drive import Driven, drive

ROUND = Costs(
    in_process_us=5,
    unary_us=200,
    unary_alone_us=200,
    batch_us=11.9,  # 100 checks take 1 190 µs: 10 µs each, and 190 for the call
    coalesced_us=20,
    lookup_us=50,
    redis_us=10,
    stream_us=100,
    key_bytes=250,
    filter_key_bytes=2.5,
    addition_bytes=20,
    idle_cores=0,
    heartbeat_bytes=100,
)
BIG = Machine(cores=10, memory_bytes=1e12, used=0.5, spare=1)

loads = st.builds(
    Load,
    checks_per_s=st.floats(1, 1e6),
    measures=st.just(1e6),
    keys=st.floats(1, 1e9),
    edges=st.integers(1, 100_000).map(float),
    hit_share=st.floats(0, 1),
    in_process=st.floats(0, 0.5),
    node=st.floats(0, 0.5),
    batched=st.floats(0, 1),
    batch_size=st.floats(1, 1000),
    changes_per_day=st.floats(0, 1e7),
    burst_per_s=st.floats(0, 1e5),
)
measured = st.builds(
    Costs,
    **{name: st.floats(0.1, 2000) for name in Costs._fields if name.endswith(("_us", "_bytes"))},
    idle_cores=st.floats(0, 0.1),
)
machines = st.builds(
    Machine,
    cores=st.floats(1, 128),
    memory_bytes=st.floats(1e9, 1e12),
    used=st.floats(0.05, 0.95),
    spare=st.integers(0, 3),
)


def test_a_call_has_a_fixed_part_and_a_part_per_check() -> None:
    """200 µs for one check and 1 190 for a hundred are 190 for the call and 10 for each check."""
    assert ROUND.item_us == pytest.approx(10)
    assert ROUND.call_us(100) == pytest.approx(190)


def test_a_call_to_a_worker_that_has_slept_costs_more() -> None:
    """Alone 1 000 µs, among many 200: a worker that is asked every 5 ms has lost 63 % of what makes its calls cheap."""
    cost = ROUND._replace(unary_alone_us=1000)
    assert cost.call_us(0) == pytest.approx(990)
    assert cost.call_us(5e-324) == pytest.approx(990)  # the smallest rate there is
    assert cost.call_us(200) == pytest.approx(190 + 800 * (1 - math.exp(-1)))
    assert cost.call_us(1e9) == pytest.approx(190)
    assert predict(200, 1.0, 0.0, cost).us_per_check == pytest.approx(200 + 800 * (1 - math.exp(-1)))


def test_checks_that_ask_the_centre_alone() -> None:
    """1 000 checks/s in calls of 5 with 1 % hits: 200 calls of 190 µs, 10 µs each, 10 look-ups of 50."""
    load = Load(1000, 1e6, 2e6, 0, 0.01, 0.0, 0.0, 1.0, 5.0, 0, 0)
    made = plan(load, ROUND, BIG)
    assert made.centre.cores == pytest.approx(0.2 * 0.190 + 0.010 + 0.0005)
    assert made.redis.cores == pytest.approx(0.0001)
    assert made.centre.machines == 1 + BIG.spare
    assert (made.sellers.cores, made.nodes.cores, made.nodes.machines) == (0, 0, 0)


def test_checks_in_the_sellers_process_cost_the_centre_their_hits_alone() -> None:
    """20 000 checks/s at 5 µs are 0.1 cores; 200 exact questions over 100 edges hardly ever share a call."""
    load = Load(20_000, 1e6, 2e6, 100, 0.01, 1.0, 0.0, 1.0, 1.0, 0, 0)
    made = plan(load, ROUND, BIG)
    assert made.sellers.cores == pytest.approx(0.1)
    shared = 1 + 2 * capacity.ROUND_TRIP_S
    heartbeats = 100 * 100e-6
    assert made.centre.cores == pytest.approx(200e-6 * (180 / shared + 20 + 50) + heartbeats)


def test_sizes_are_keys_times_bytes() -> None:
    """40 M keys of 250 bytes, twice while the list is reloaded, are 20 GB; the filter is 100 MB."""
    load = Load(1000, 20e6, 40e6, 2000, 0.01, 1.0, 0.0, 1.0, 1.0, 86_400, 10)
    made = plan(load, ROUND, BIG)
    assert made.redis_bytes == 20e9
    assert made.snapshot_bytes == 100e6
    assert made.sync_bytes_per_s == pytest.approx(2000 * (100 + 0.94 * 20))  # 0.47 additions of 2 keys a second
    assert made.burst_bytes_per_s == pytest.approx(2000 * (100 + 10 * 2 * 20))
    assert made.snapshots_bytes_per_s == pytest.approx(2000 * 100e6 / 86_400)


def test_redis_is_split_when_it_outgrows_a_machine() -> None:
    """20 GB on machines of which 5 GB may be used are four shards, each with a replica."""
    load = Load(1000, 20e6, 40e6, 10, 0.01, 1.0, 0.0, 1.0, 1.0, 0, 0)
    made = plan(load, ROUND, BIG._replace(memory_bytes=10e9))
    assert made.redis.machines == 8
    assert made.redis.memory_bytes == 5e9


@given(loads, measured, machines, st.floats(1, 100))
def test_more_checks_never_need_less(load: Load, cost: Costs, machine: Machine, times: float) -> None:
    """Of cores, machines, memory and bandwidth, at any place."""
    less, more = plan(load, cost, machine), plan(load._replace(checks_per_s=load.checks_per_s * times), cost, machine)
    for small, large in zip(less.places, more.places, strict=True):
        assert large.cores >= small.cores * (1 - 1e-6)
        assert large.machines >= small.machines
    assert more.sync_bytes_per_s == less.sync_bytes_per_s


@given(loads, measured, machines, st.floats(1, 100))
def test_more_keys_edges_and_changes_never_need_less(load: Load, cost: Costs, machine: Machine, times: float) -> None:
    """Memory grows with keys, bandwidth with edges and changes."""
    less = plan(load, cost, machine)
    assert plan(load._replace(keys=load.keys * times), cost, machine).redis_bytes >= less.redis_bytes
    wide = plan(load._replace(edges=load.edges * times), cost, machine)
    assert wide.sync_bytes_per_s >= less.sync_bytes_per_s
    assert wide.nodes.machines >= less.nodes.machines
    assert plan(load._replace(changes_per_day=load.changes_per_day * times), cost, machine).cores >= less.cores * (
        1 - 1e-9
    )


@given(measured, st.floats(0.01, 1), st.floats(0, 1), st.floats(1, 1e5), st.floats(1, 10))
def test_a_busier_worker_is_never_less_busy_and_its_checks_never_dearer(
    cost: Costs, calls: float, hits: float, rate: float, times: float
) -> None:
    """Utilisation grows with the rate and is what the rate costs; the cost per check falls towards the busy one."""
    less, more = predict(rate, calls, hits, cost), predict(rate * times, calls, hits, cost)
    assert less.utilisation <= more.utilisation + 1e-9
    assert less.us_per_check >= more.us_per_check - 1e-6
    if less.utilisation < 1:
        assert less.utilisation == pytest.approx(rate * less.us_per_check / 1e6, rel=1e-6)


def test_the_curve_reaches_from_a_thousand_to_a_million_and_names_the_load() -> None:
    """Its own rate is among the points, in order."""
    rates = [point.rate for point in capacity.curve(Load(checks_per_s=12_345), Costs(), Machine())]
    assert rates == sorted(rates)
    assert {rates[0], rates[-1]} == {1000, 1_000_000}
    assert 12_345 in rates


# Costs from files


def _bench(path: Path, **values: float) -> Path:
    names = {cost: name for name, (cost, _) in costs._BENCH.items()}
    path.write_text(json.dumps([{"name": names[cost], "value": value} for cost, value in values.items()]))
    return path


def test_costs_are_read_from_results_of_the_bench(tmp_path: Path) -> None:
    """What the file holds is taken, checks per CPU-second as their reciprocal; a row that was not measured is none."""
    path = _bench(tmp_path / "a.json", batch_us=12.5, coalesced_us=50_000)
    rows = [*json.loads(path.read_text()), {"name": "memory, all told", "value": None}]
    path.write_text(json.dumps(rows))
    assert costs.read(path) == {"batch_us": 12.5, "coalesced_us": 20.0}


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "[1]", '[{"name": "unary check, server CPU", "value": -1}]', '{"a": 1}']
)
def test_a_file_without_results_is_refused(tmp_path: Path, text: str) -> None:
    """With what is wrong, whatever the file holds."""
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(costs.BadCosts):
        costs.read(path)


# The command


def test_the_command_prints_a_plan_and_writes_a_page_that_fetches_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Table, growth and assumptions as text; charts lie in the page itself; a cost from a file says so."""
    bench = _bench(tmp_path / "bench.json", in_process_us=4.5)
    assert main(["capacity", "--costs", str(bench), "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    for expected in ("20,000 checks/s", "Redis", "1,000,000", "assumed", "bench.json"):
        assert expected in text
    page = (tmp_path / "out" / "capacity.html").read_text("utf-8")
    assert page.count("data:image/svg+xml;base64,") == 2
    assert "http" not in page.replace("http-equiv", "")


def test_the_command_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same figures for machines; measures bring two keys each."""
    assert main(["capacity", "--json", "--measures", "1000000", "--out", str(tmp_path)]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["load"]["keys"] == 2_000_000
    assert made["cores"] == pytest.approx(sum(place["cores"] for place in made["places"]))
    assert made["costs"]["unary_us"]["from"] == "default"


def test_the_default_costs_are_those_of_the_page_and_the_rest_says_assumed() -> None:
    """Every cost that docs/performance.json holds is its figure; no other is called so."""
    known, page = costs.Known.defaults(), costs.read(costs.PERFORMANCE)
    kept = {row["name"]: row["value"] for row in json.loads(costs.PERFORMANCE.read_text("utf-8"))}

    assert known.costs.unary_us == kept["unary check, server CPU"] > 0
    assert known.costs.coalesced_us == pytest.approx(1e6 / kept["coalesced, 80 in flight"])
    assert known.costs._asdict() == Costs()._asdict() | page
    assert known.sources == {name: "default" if name in page else "assumed" for name in Costs._fields}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--rate", "2000000"], "--rate must be 1 to 1,000,000"),
        (["--rate", "nan"], "--rate must be"),
        (["--rate", "0"], "--rate must be"),
        (["--edges", "1.5"], "--edges must be a whole number"),
        (["--hit-share", "1.1"], "--hit-share must be 0 to 1"),
        (["--in-process", "0.8", "--node", "0.3"], "together at most 1"),
        (["--edges", "0"], "--node needs --edges"),
        (["--rates", "100,many"], "--rates"),
        (["--rates", "0"], "--rates takes"),
        (["--seconds", "1"], "--seconds must be 2 to 600"),
        (["--costs", "missing.json"], "--costs missing.json: No such file"),
    ],
)
def test_wrong_input_is_one_line_with_the_option(
    given: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2; nothing is written."""
    assert main(["capacity", *given, "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("loadtest capacity: ")
    assert told in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_prediction_is_compared_with_a_driven_checker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Costs are measured at a real checker, here by few calls, then predicted and driven in an open loop; the error is
    printed, and the prediction is of the right size even on a machine that does other work."""
    made: list[Driven] = []

    def noted(*asked: Any) -> Driven:
        made.append(drive(*asked))
        return made[-1]

    monkeypatch.setattr(costs, "drive", noted)
    monkeypatch.setattr(costs, "_PEOPLE", 1_000)
    monkeypatch.setattr(costs.Bench, "costs", partialmethod(costs.Bench.costs, calls=300))
    arguments = ["capacity", "--validate", "--rates", "200", "--seconds", "3", "--json", "--out", str(tmp_path)]
    assert main(arguments) == 0
    (only,) = json.loads(capsys.readouterr().out)["validation"]
    assert only["wrong"] == 0
    assert made[0].checks / 3 == pytest.approx(200, rel=0.3)
    assert only["asked"] == pytest.approx(made[0].checks / made[0].recorder.seconds)
    assert math.isfinite(only["error"])
    assert -0.75 < only["error"] < 2
