"""Claims about SLA files and judging: every problem is listed by its place; a limit is kept up to its value."""

import copy
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.measured import Recorder
from loadtest.sla import READY, BadSla, Line, Sla, Target, abort_reason, holds, judge, locate, parse, read
from loadtest.workload import BATCH, CHECK, TENANTS, Item
from proto.checker.v1 import check_pb2 as pb

ASKED = Item(pb.CheckRequest().SerializeToString(), "ALLOWED", 5)
GOOD: dict[str, Any] = {
    "name": "mine",
    "workload": {"tenants": ["rail"], "rate": 100, "seconds": 10},
    "target": [{"tenant": "rail", "p99_ms": 20}],
}


def an_sla(workload: dict[str, Any] | None = None, abort: dict[str, Any] | None = None, **target: Any) -> Sla:
    """GOOD with another target."""
    content = copy.deepcopy(GOOD)
    content["workload"] |= workload or {}
    if target:
        content["target"] = [target]
    if abort:
        content["abort"] = abort
    return parse(content)


def recorded(*latencies_us: int, seconds: float = 1.0, outcome: int = pb.OUTCOME_ALLOWED) -> Recorder:
    """A call of rail's for each latency, one check each."""
    recorder = Recorder()
    recorder.seconds = seconds
    for latency in latencies_us:
        recorder.answered("rail", BATCH, latency, 0, [ASKED], [outcome])
    return recorder


def line(lines: list[Line], name: str) -> Line:
    (found,) = [one for one in lines if one.name == name]
    return found


# -- files


@pytest.mark.parametrize("path", sorted(READY.glob("*.toml")), ids=lambda path: path.stem)
def test_each_ready_file_is_an_sla_with_comments(path: Path) -> None:
    """Those that come along are valid, say what they are for, and promise answers, errors, rate and lag."""
    sla = read(path)
    assert sla.name == path.stem
    assert sla.about
    assert path.read_text("utf-8").startswith("# ")
    promised = {name for target in sla.targets for name in target.__slots__ if getattr(target, name) is not None}
    assert promised >= {"p50_ms", "p95_ms", "p99_ms", "p999_ms", "error_share", "unknown_share", "minimum_rate"}
    assert sla.abort.wrong


def test_there_are_five_and_each_is_found_by_its_name(tmp_path: Path) -> None:
    """`--sla rail-peak` means the one that comes along; a path means that path."""
    assert {path.stem for path in READY.glob("*.toml")} == {
        "rail-peak",
        "airline",
        "hotel-desk",
        "nightly-bulk",
        "soak",
    }
    assert locate("rail-peak") == READY / "rail-peak.toml"
    assert locate(str(tmp_path / "mine.toml")) == tmp_path / "mine.toml"


def test_what_is_not_said_has_a_default() -> None:
    """Without them: the country's tenants, steady, open loop, a second to answer, no reason to stop early."""
    content = copy.deepcopy(GOOD)
    del content["workload"]["tenants"]
    sla = parse(content)
    assert sla.tenants == TENANTS
    assert (sla.profile, sla.loop, sla.deadline_ms, sla.warmup_s) == ("steady", "open", 1000, 5)
    assert (sla.abort.error_share, sla.abort.p99_ms, sla.abort.wrong) == (None, None, None)


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        ("name", None, "name: is missing"),
        ("name", " ", "name: must be a text"),
        ("about", 3, "about: must be a text"),
        ("color", 1, "color: is not a key here; known: name, about, workload, target, server, abort"),
        ("workload", 3, "workload: must be a table"),
        ("workload.rate", None, "workload.rate: is missing: write checks per second"),
        ("workload.rate", 0, "workload.rate: must be checks per second, above 0"),
        ("workload.rate", True, "workload.rate: must be checks per second"),
        ("workload.rate", float("nan"), "workload.rate: must be checks per second"),
        ("workload.seconds", 0.5, "workload.seconds: must be seconds, 1 or more"),
        ("workload.seconds", "10", "workload.seconds: must be seconds"),
        ("workload.profile", "ramp", "workload.profile: must be one of steady, step, burst, day, soak"),
        ("workload.loop", "half", "workload.loop: must be one of open, closed"),
        ("workload.tenants", [], "workload.tenants: must be a list of names"),
        ("workload.tenants", ["rail", "bus"], "workload.tenants[1]: must be one of rail, air"),
        ("workload.tenants", ["rail", "rail"], "workload.tenants[1]: is named twice"),
        ("workload.pace", 1, "workload.pace: is not a key here"),
        ("workload.deadline_ms", 0, "workload.deadline_ms: must be milliseconds"),
        ("target", None, "target: is missing: write at least one [[target]]"),
        ("target", {}, "target: is missing"),
        ("target", [{"tenant": "air", "p99_ms": 1}], "target[0].tenant: must be one of rail"),
        ("target", [{"rpc": "Check", "p99_ms": 1}], "target[0].rpc: is not what any tenant of this workload calls"),
        ("target", [{"rpc": "Ask", "p99_ms": 1}], "target[0].rpc: must be one of Check, BatchCheck, StreamCheck"),
        ("target", [{"p99_ms": 1}, {"tenant": "rail"}], "target[1]: promises nothing: write one of p50_ms"),
        ("target", [{"p99_ms": -1}], "target[0].p99_ms: must be milliseconds, 0.001 to 3600000"),
        ("target", [{"p95_ms": 9, "p999_ms": 8}], "target[0].p999_ms: is below p95_ms"),
        ("target", [{"error_share": 1.5}], "target[0].error_share: must be a share, 0 to 1"),
        ("target", [{"minimum_rate": 101}], "target[0].minimum_rate: is above what the workload asks"),
        ("target", [{"p98_ms": 1, "p99_ms": 2}], "target[0].p98_ms: is not a key here"),
        ("target", [3], "target[0]: must be a table"),
        ("server.memory_growth_mib_per_hour", 0, "server.memory_growth_mib_per_hour: must be MiB per hour, above 0"),
        ("server.cores", 1, "server.cores: is not a key here; known: memory_growth_mib_per_hour"),
        ("server", 3, "server: must be a table"),
        ("abort.over_s", 2.5, "abort.over_s: must be whole seconds, 1 to 600"),
        ("abort.wrong", 0, "abort.wrong: must be a whole number, 1 or more"),
        ("abort.wrong", 1.5, "abort.wrong: must be a whole number"),
        ("abort.p98_ms", 1, "abort.p98_ms: is not a key here"),
    ],
)
def test_a_problem_is_told_by_its_place(place: str, value: object, problem: str) -> None:
    """One thing wrong in a good file: it is the one problem, or the first, and starts with where it stands."""
    content = copy.deepcopy(GOOD) | {"abort": {}, "server": {}}
    table, _, key = place.rpartition(".")
    spoiled = content[table] if table else content
    if value is None:
        del spoiled[key]
    else:
        spoiled[key] = value
    with pytest.raises(BadSla) as caught:
        parse(content)
    assert caught.value.problems[0].startswith(problem)


def test_every_problem_is_told_at_once() -> None:
    """Three things wrong in three tables: three problems, so that a file is put right in one go."""
    content = copy.deepcopy(GOOD) | {"abort": {"wrong": -1}}
    content["workload"]["profile"] = "ramp"
    content["target"][0]["p99_ms"] = "20"
    with pytest.raises(BadSla) as caught:
        parse(content)
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "workload.profile",
        "target[0].p99_ms",
        "abort.wrong",
    ]


def test_a_burst_needs_somebody_whose_sale_opens() -> None:
    """Hotels have no sale openings: a burst of them would be a steady run under another name."""
    with pytest.raises(BadSla, match=r"workload\.profile: burst needs a tenant that has sale openings"):
        an_sla({"tenants": ["hotel"], "profile": "burst"}, p99_ms=1)
    assert an_sla({"tenants": ["hotel", "rail"], "profile": "burst"}, p99_ms=1).profile == "burst"


def test_a_minimum_rate_is_held_against_what_the_profile_asks() -> None:
    """In five steps up to 100/s the mean is 60/s, so 61 cannot be promised."""
    assert an_sla({"profile": "step"}, minimum_rate=60).targets[0].minimum_rate == 60
    with pytest.raises(BadSla, match=r"on average, 60\.0 checks/s"):
        an_sla({"profile": "step"}, minimum_rate=61)


def test_the_file_shown_in_the_guide_is_an_sla() -> None:
    """The TOML block of docs/load-testing.md is accepted, and each limit there is has its row in the guide."""
    guide = (Path(__file__).parents[2] / "docs/load-testing.md").read_text("utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", guide, re.DOTALL)
    assert parse(tomllib.loads(block)).name == "our-peak"
    for limit in Target.__slots__[2:]:
        assert re.search(rf"^\| .*`{limit}`.* \| ", guide, re.MULTILINE), limit
    for path in READY.glob("*.toml"):
        assert re.search(rf"`loadtest/slas/{path.name}` \| .* \| {read(path).rate:,.0f} \|", guide), path.name


@pytest.mark.parametrize(("content", "problem"), [(b"name = ", "not TOML"), (b"\xff\xfe", "not TOML")])
def test_a_file_that_is_no_toml_says_where(tmp_path: Path, content: bytes, problem: str) -> None:
    """Half a line and bytes that are no UTF-8 are problems of the file, no tracebacks."""
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(BadSla, match=problem):
        read(path)


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.sampled_from(
                    ["name", "workload", "target", "abort", "rate", "seconds", "tenants", "p99_ms", "wrong"]
                ),
                inner,
                max_size=5,
            ),
        ),
        max_leaves=15,
    ).filter(lambda content: isinstance(content, dict))
)
def test_any_document_is_an_sla_or_has_problems(content: dict[str, Any]) -> None:
    """Whatever a TOML file holds, it is an SLA or is refused with at least one problem; never another error."""
    problems = []
    try:
        targets = parse(content).targets
    except BadSla as error:
        targets, problems = (), error.problems
    assert bool(targets) != bool(problems)


# -- judging


@given(latency_us=st.integers(1, 10_000_000), limit_ms=st.integers(1, 10_000))
def test_a_percentile_passes_up_to_and_with_its_limit(latency_us: int, limit_ms: int) -> None:
    """At the limit passes; a thousandth above it fails."""
    (_, judged) = judge(an_sla(p50_ms=limit_ms), recorded(latency_us))
    if latency_us <= limit_ms * 1000:
        assert judged.passed
    elif latency_us > limit_ms * 1001 + 1:
        assert not judged.passed


@pytest.mark.parametrize(("slow", "passed"), [(1, True), (2, False)])
def test_one_slow_call_in_a_hundred_keeps_p99_and_two_break_it(slow: int, passed: bool) -> None:
    """p99 covers 99 of 100 calls, neither 98 nor 100."""
    lines = judge(an_sla(p99_ms=20), recorded(*[5_000] * (100 - slow), *[500_000] * slow))
    assert line(lines, "all p99").passed is passed
    assert holds(lines) is passed


@pytest.mark.parametrize(("failed", "passed"), [(0, True), (1, True), (2, False)])
def test_shares_pass_up_to_and_with_their_limit(failed: int, passed: bool) -> None:
    """One error, or one UNKNOWN, in a hundred keeps a share of 0.01; two do not."""
    sla = an_sla(error_share=0.01, unknown_share=0.01)
    errors = recorded(*[5] * (100 - failed))
    unknown = recorded(*[5] * (100 - failed))
    for _ in range(failed):
        errors.failed("rail", BATCH, 5, 0, 1, "UNAVAILABLE")
        unknown.answered("rail", BATCH, 5, 0, [ASKED], [pb.OUTCOME_UNKNOWN])
    assert line(judge(sla, errors), "all errors").passed is passed
    assert line(judge(sla, errors), "all UNKNOWN").passed
    assert line(judge(sla, unknown), "all UNKNOWN").passed is passed
    assert line(judge(sla, unknown), "all errors").passed
    assert line(judge(sla, errors), "all errors").measured == f"{failed} % ({failed} of 100)"


@pytest.mark.parametrize(
    ("answered", "rate", "passed"), [(90, None, True), (89, None, False), (45, 50, True), (44, 50, False)]
)
def test_the_rate_is_answers_per_second_and_scales_with_the_rate_driven(
    answered: int, rate: float | None, passed: bool
) -> None:
    """90/s promised at 100/s: 90 answers in a second keep it; driven at 50/s it is 45/s, and the line says so."""
    judged = line(judge(an_sla(minimum_rate=90), recorded(*[5] * answered), rate), "all rate")
    assert judged.passed is passed
    assert judged.target == f"≥ {90 if rate is None else 45:.1f} checks/s"


def test_calls_that_failed_make_no_rate() -> None:
    """Refusals are fast, and no answers."""
    recorder = recorded(*[5] * 10)
    for _ in range(1_000):
        recorder.failed("rail", BATCH, 5, 0, 1, "RESOURCE_EXHAUSTED")
    assert not line(judge(an_sla(minimum_rate=90), recorder), "all rate").passed


@pytest.mark.parametrize(("lag", "passed"), [(None, False), (60.0, True), (60.1, False)])
def test_a_lag_that_nobody_told_is_not_kept(lag: float | None, passed: bool) -> None:
    """The highest lag counts; where no answer said how old its data was, nothing was shown."""
    recorder = recorded(5)
    recorder.answered("rail", BATCH, 5, 0, [ASKED], [pb.OUTCOME_ALLOWED], lag)
    recorder.answered("rail", BATCH, 5, 0, [ASKED], [pb.OUTCOME_ALLOWED], None if lag is None else 1.0)
    assert line(judge(an_sla(maximum_lag_s=60), recorder), "all lag").passed is passed


@pytest.mark.parametrize(
    ("growth", "passed", "told"),
    [(-3.0, True, "-3.0 MiB/hour"), (60.0, True, "+60.0 MiB/hour"), (60.1, False, "+60.1 MiB/hour")],
)
def test_memory_may_grow_up_to_and_with_its_limit(growth: float, passed: bool, told: str) -> None:
    """Where the file promises it. At another rate the limit is the same, since a service that leaks does so at any."""
    sla = parse(copy.deepcopy(GOOD) | {"server": {"memory_growth_mib_per_hour": 60}})
    judged = judge(sla, recorded(100), 500, growth)
    assert line(judged, "server memory growth") == ("server memory growth", "≤ 60.0 MiB/hour", told, passed)
    assert "server memory growth" not in [one.name for one in judge(an_sla(), recorded(100), 500, growth)]


def test_memory_that_nobody_saw_is_not_flat() -> None:
    """A target on another machine keeps no promise about its memory."""
    sla = parse(copy.deepcopy(GOOD) | {"server": {"memory_growth_mib_per_hour": 60}})
    judged = line(judge(sla, recorded(100)), "server memory growth")
    assert (judged.measured, judged.passed) == ("not seen", False)


def test_one_wrong_answer_fails_the_fastest_run() -> None:
    """Every promise kept, one answer in ten thousand wrong: the first line fails, and so the run."""
    recorder = recorded(*[5] * 9_999, seconds=10.0)
    sla = an_sla(p99_ms=20, error_share=0, minimum_rate=100)
    assert holds(judge(sla, recorder))
    recorder.answered("rail", BATCH, 5, 0, [ASKED], [pb.OUTCOME_BARRED])
    lines = judge(sla, recorder)
    assert [one.passed for one in lines] == [False, True, True, True]
    assert lines[0] == Line("answers", "none wrong", "1 wrong of 10,000", False)


def test_nothing_answered_keeps_no_promise() -> None:
    """A run in which nothing was asked fails each of its lines."""
    sla = an_sla(
        p50_ms=1, p95_ms=1, p99_ms=1, p999_ms=1, error_share=1, unknown_share=1, minimum_rate=1, maximum_lag_s=9
    )
    lines = judge(sla, Recorder())
    assert len(lines) == 9
    assert not any(one.passed for one in lines)


def test_a_target_judges_its_own_calls_only() -> None:
    """A slow hotel does not break rail's promise, nor a slow Check that of BatchCheck; the line names whose it is."""
    sla = an_sla({"tenants": ["rail", "hotel"]}, tenant="rail", rpc=BATCH, p99_ms=20)
    recorder = recorded(5_000)
    recorder.answered("hotel", CHECK, 900_000, 0, [ASKED], [pb.OUTCOME_ALLOWED])
    assert line(judge(sla, recorder), "rail BatchCheck p99").passed


# -- giving up


def test_a_run_ends_early_only_for_what_its_file_says() -> None:
    """Errors, UNKNOWN, a slow p99 over the last seconds, or wrong answers of the whole run: each by its own limit."""
    failing = Recorder()
    for second in range(10):
        failing.answered("rail", BATCH, 50_000, second + 0.5, [ASKED] * 2, [pb.OUTCOME_ALLOWED, pb.OUTCOME_UNKNOWN])
        failing.failed("rail", BATCH, 50_000, second + 0.5, 2, "UNAVAILABLE")
    for limits, words in (
        ({}, None),
        ({"error_share": 0.5}, None),
        ({"error_share": 0.49}, "error_share 50 % over the last 5 s (abort.error_share 49 %)"),
        ({"unknown_share": 0.25}, None),
        ({"unknown_share": 0.2}, "unknown_share 25 % over the last 5 s (abort.unknown_share 20 %)"),
        ({"p99_ms": 60}, None),
        ({"p99_ms": 40}, "p99 49.664 ms over the last 5 s (abort.p99_ms 40.000 ms)"),
        ({"wrong": 1}, None),
    ):
        assert abort_reason(an_sla(abort=limits), failing, 10.0) == words, limits
    failing.answered("rail", BATCH, 5, 0.5, [ASKED], [pb.OUTCOME_BARRED])
    assert abort_reason(an_sla(abort={"wrong": 1}), failing, 10.0) == "wrong answers: 1 (abort.wrong 1)"


def test_a_run_is_not_given_up_for_a_past_or_a_short_trouble() -> None:
    """Trouble older than over_s is forgotten, and nothing but wrong answers ends a run before over_s has passed."""
    recorder = Recorder()
    recorder.failed("rail", BATCH, 5, 0.5, 10, "UNAVAILABLE")
    recorder.answered("rail", BATCH, 5, 7.5, [ASKED], [pb.OUTCOME_ALLOWED])
    sla = an_sla(abort={"error_share": 0.1, "over_s": 5})
    assert abort_reason(sla, recorder, 3.0) is None
    assert abort_reason(sla, recorder, 5.0) is not None
    assert abort_reason(sla, recorder, 8.0) is None
