"""Claims about `loadtest compare`: intervals keep their promise, real changes are found, chance seldom is."""

import json
import math
from pathlib import Path
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loadtest import compare
from loadtest.cli import main
from loadtest.compare import FIGURES, CannotCompare, difference
from loadtest.measured import Recorder, Run
from loadtest.workload import BATCH, Item
from proto.checker.v1 import check_pb2 as pb

ASKED = Item(pb.CheckRequest().SerializeToString(), "ALLOWED", 5)
P50, P99, RATE, CPU = FIGURES
VALUES = st.lists(st.floats(0.01, 1e6), min_size=3, max_size=10)


def a_run(
    latency_us: int = 5_000,
    *,
    slowest_us: int = 20_000,
    seconds: float = 10.0,
    cpu: float | None = 30.0,
    wrong: bool = False,
    rate: float = 100,
    sla: str = "rail-peak",
) -> Run:
    """100 calls: most of `latency_us`, five of `slowest_us`."""
    recorder = Recorder()
    recorder.seconds = seconds
    for number in range(100):
        outcome = pb.OUTCOME_BARRED if wrong and not number else pb.OUTCOME_ALLOWED
        recorder.answered("rail", BATCH, slowest_us if number % 20 == 0 else latency_us, 0, [ASKED], [outcome])
    return Run(sla, "127.0.0.1:1", "steady", "open", rate, 5_000, "1", recorder, server_cpu_us=cpu)


def saved(folder: Path, name: str, *runs: Run) -> str:
    """The runs as `loadtest run --out NAME/N` leaves them."""
    for number, run in enumerate(runs, 1):
        place = folder / name / str(number)
        place.mkdir(parents=True)
        (place / "run.json").write_text(json.dumps(run.to_json()), "utf-8")
    return str(folder / name)


SAME = [a_run(latency) for latency in (4_900, 5_000, 5_100, 5_050)]


# -- statistics


def test_the_quantiles_are_student_s() -> None:
    """Each number of the table has 2.5 % of Student's density above it, by integrating that density."""
    for freedom, quantile in enumerate(compare._T_975, 1):
        scale = math.gamma((freedom + 1) / 2) / math.gamma(freedom / 2) / math.sqrt(freedom * math.pi)
        steps = 4_000
        width = quantile / steps
        points = [scale * (1 + (n * width) ** 2 / freedom) ** (-(freedom + 1) / 2) for n in range(steps + 1)]
        inside = width * (sum(points) - (points[0] + points[-1]) / 2)
        assert 0.5 - inside == pytest.approx(0.025, abs=5e-5), freedom


def test_an_interval_of_a_known_sample_is_welch_s() -> None:
    """Worked by hand: logs 0, 1, 2 against 1, 3, 5 differ by 2, standard error sqrt(5/3), 2.94 degrees of freedom."""
    found = difference(P50, [math.exp(x) for x in (0, 1, 2)], [math.exp(x) for x in (1, 3, 5)])
    assert math.log(found.ratio) == pytest.approx(2)
    reach = 4.303 * math.sqrt(5 / 3)  # 2 degrees of freedom: rounded down
    assert (math.log(found.low), math.log(found.high)) == pytest.approx((2 - reach, 2 + reach))


@pytest.mark.parametrize(("count_a", "count_b", "spread_b"), [(3, 3, 0.05), (5, 5, 0.05), (3, 8, 0.2), (10, 10, 0.01)])
def test_intervals_hold_the_truth_19_times_in_20(count_a: int, count_b: int, spread_b: float) -> None:
    """Of 2 000 seeded comparisons of log-normal runs, B 8 % slower, 94 % or more hold 1.08, unequal spreads too."""
    random = Random(f"{count_a} {count_b}")
    held = 0
    for _ in range(2_000):
        a = [math.exp(random.gauss(1, 0.05)) for _ in range(count_a)]
        b = [1.08 * math.exp(random.gauss(1, spread_b)) for _ in range(count_b)]
        found = difference(P50, a, b)
        held += found.low <= 1.08 <= found.high
    assert held >= 0.94 * 2_000


def test_chance_is_seldom_called_real_and_a_change_of_a_third_is_found() -> None:
    """Five runs a side that spread by 5 %: no change looks real once in twenty; 33 % is found nearly always."""
    random = Random(7)

    def runs(times: float) -> list[float]:
        return [times * math.exp(random.gauss(1, 0.05)) for _ in range(5)]

    alarms = sum(difference(P99, runs(1), runs(1)).real for _ in range(1_000))
    found = sum(difference(P99, runs(1), runs(1.33)).worse for _ in range(1_000))
    assert alarms <= 65
    assert found >= 990


@given(a=VALUES, b=VALUES, times=st.floats(0.01, 100))
@example(a=[1.0] * 3, b=[12.0, 46.0, 89.0, 150.0, 124_194.0, 335_487.0, 772_692.0, 258_214.5], times=0.5)
def test_sides_and_units_do_not_matter(a: list[float], b: list[float], times: float) -> None:
    """A and B exchanged give the reciprocal interval; another unit on both sides gives the same one."""
    found, exchanged = difference(P50, a, b), difference(P50, b, a)
    assert (found.low, found.high) == pytest.approx((1 / exchanged.high, 1 / exchanged.low))
    scaled = difference(P50, [value * times for value in a], [value * times for value in b])
    assert (scaled.low, scaled.high) == pytest.approx((found.low, found.high))
    assert found.low <= found.ratio <= found.high


def test_what_the_histogram_cannot_tell_apart_is_not_real() -> None:
    """Runs without any spread that differ by one step of three digits are the same."""
    assert not difference(P50, [5.000] * 3, [5.004] * 3).real
    assert difference(P50, [5.000] * 3, [5.100] * 3).worse


def test_more_rate_is_better_and_more_latency_is_worse() -> None:
    """The verdict says which way is good for the figure."""
    up = ([10.0, 10.1, 9.9], [20.0, 20.1, 19.9])
    assert difference(P99, *up).verdict.startswith("real: B worse by 100")
    assert difference(RATE, *up).verdict.startswith("real: B better by 100")
    assert difference(RATE, *reversed(up)).verdict.startswith("real: B worse by 50")
    assert difference(CPU, *reversed(up)).verdict.startswith("real: B better by 50")


# -- the command


def test_runs_of_the_same_deployment_are_not_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0, and each figure's line says so with its interval."""
    a, b = saved(tmp_path, "a", *SAME), saved(tmp_path, "b", *SAME[::-1])
    assert main(["compare", a, b]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out[1:]] == ["p50", "p99", "rate", "server"]
    assert all("not told apart (95 % CI " in line for line in out[1:])


@pytest.mark.parametrize(
    ("change", "figure"),
    [
        ({"latency_us": 7_000}, "p50"),
        ({"slowest_us": 90_000}, "p99"),
        ({"seconds": 20.0}, "rate"),
        ({"cpu": 45.0}, "CPU"),
    ],
)
def test_a_figure_that_is_really_worse_is_exit_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, float], figure: str
) -> None:
    """Only the figure that changed is called real, worse, by how much; the other way round it is better, exit 0."""
    a = saved(tmp_path, "a", *[a_run()] * 3)
    b = saved(tmp_path, "b", *[a_run(**change)] * 3)  # type: ignore[arg-type] # keywords of a_run
    assert main(["compare", a, b]) == 1
    (worse,) = [line for line in capsys.readouterr().out.splitlines() if " real: " in line]
    assert figure in worse
    assert "B worse by" in worse
    assert main(["compare", b, a]) == 0
    assert "B better by" in capsys.readouterr().out


def test_wrong_answers_after_the_change_are_exit_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """However fast: wrong answers in B fail the comparison, in A they are told."""
    good, bad = saved(tmp_path, "good", *[a_run()] * 3), saved(tmp_path, "bad", *[a_run(50, wrong=True)] * 3)
    assert main(["compare", good, bad]) == 1
    assert "wrong answers: A 0, B 3" in capsys.readouterr().out
    assert main(["compare", bad, bad]) == 1


def test_two_runs_are_too_few(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, one line that says which side and what to do."""
    a, b = saved(tmp_path, "a", *SAME), saved(tmp_path, "b", *SAME[:2])
    assert main(["compare", a, b]) == 2
    error = capsys.readouterr().err
    assert error == "loadtest compare: B has 2 runs, needs 3 or more: repeat `loadtest run --out B/run-N`\n"


@pytest.mark.parametrize("change", [{"rate": 200}, {"sla": "airline"}])
def test_different_workloads_are_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object]
) -> None:
    """Another rate or another SLA would be compared like apples with pears: exit 2, both workloads named."""
    a = saved(tmp_path, "a", *SAME)
    b = saved(tmp_path, "b", *[a_run(**change)] * 3)  # type: ignore[arg-type] # keywords of a_run
    assert main(["compare", a, b]) == 2
    assert "compare runs of one workload" in capsys.readouterr().err


def test_a_figure_that_some_run_lacks_is_left_out_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Server CPU was not measured on one side: its line says so, the others are compared."""
    a, b = saved(tmp_path, "a", *SAME), saved(tmp_path, "b", *[a_run(cpu=None)] * 3)
    assert main(["compare", a, b]) == 0
    assert "server CPU  not measured in every run" in capsys.readouterr().out


def test_folders_without_runs_and_files_that_are_none_are_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing folder, an empty one, and a run.json of something else each say what is wrong."""
    a = saved(tmp_path, "a", *SAME)
    for name, words in (
        ("none", "No such file"),
        ("empty", "B has 0 runs"),
        ("other", "is no run.json of this version"),
    ):
        place = tmp_path / name
        if name != "none":
            place.mkdir()
        if name == "other":
            (place / "run.json").write_text("[]", "utf-8")
        assert main(["compare", a, str(place)]) == 2
        assert words in capsys.readouterr().err


def test_runs_in_which_nothing_was_measured_are_not_compared() -> None:
    """Empty runs have no figure to compare, rather than equal ones."""
    empty = Run("s", "t", "steady", "open", 1, 1, "1", Recorder())
    with pytest.raises(CannotCompare, match="measured nothing"):
        compare.compare([empty] * 3, [empty] * 3)
