"""Claims about what is recorded: percentiles are true to three digits, parts add up to the whole, nobody is named."""

import json
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import expectations as law
from loadtest.measured import (
    LONGEST_US,
    MALFORMED,
    MOST_TOLD,
    NO_ANSWER,
    SURPLUS,
    Recorder,
    Run,
    Second,
    Series,
    matched,
    merged,
)
from loadtest.workload import BATCH, CHECK, RPCS, Item
from proto.checker.v1 import check_pb2 as pb

NUMBER, NAME = "110105188001010013", "张三"
REQUEST = pb.CheckRequest(
    subject=pb.Subject(document=pb.Document(type="DOCUMENT_TYPE_RESIDENT_ID", number=NUMBER), name=NAME),
    purchase=pb.Purchase(train=pb.TrainSeat(train_code="G1", seat_code="O")),
).SerializeToString()
OUTCOMES = {
    law.ALLOWED: pb.OUTCOME_ALLOWED,
    law.BARRED: pb.OUTCOME_BARRED,
    law.UNKNOWN: pb.OUTCOME_UNKNOWN,
    law.INVALID_DOCUMENT: pb.OUTCOME_INVALID_DOCUMENT,
}


def item(expected: str = law.ALLOWED, line: int = 0) -> Item:
    return Item(REQUEST, expected, line)


def exact(values: list[int], percentile: float) -> int:
    """The nearest-rank percentile of the samples themselves."""
    rank = math.ceil(Fraction(str(percentile)) * len(values) / 100)
    return sorted(values)[max(1, rank) - 1]


LATENCIES = st.lists(
    st.one_of(st.integers(1, 3_000), st.integers(1, 2_000_000), st.integers(1, LONGEST_US)), min_size=1, max_size=400
)
CALLS = st.lists(
    st.tuples(
        st.sampled_from(["rail", "air"]),
        st.sampled_from(RPCS),
        st.integers(1, 5_000_000),  # latency in microseconds
        st.floats(0, 20),  # when it ended
        st.lists(st.tuples(st.sampled_from(sorted(OUTCOMES)), st.sampled_from([0, 1, 2, 3, 4, 9])), min_size=1),
        st.sampled_from(["", "", "", "UNAVAILABLE", "DEADLINE_EXCEEDED"]),
        st.one_of(st.none(), st.floats(0, 100)),  # lag
        st.integers(0, 2),  # which process recorded it
    ),
    max_size=40,
)


def record(recorder: Recorder, call: tuple) -> None:  # type: ignore[type-arg] # drawn by hypothesis, above
    tenant, rpc, latency, ended, answers, status, lag, _ = call
    if status:
        recorder.failed(tenant, rpc, latency, ended, len(answers), status)
    else:
        asked = [item(expected, line) for line, (expected, _) in enumerate(answers, 2)]
        recorder.answered(tenant, rpc, latency, ended, asked, [number for _, number in answers], lag)


def plain(recorder: Recorder) -> dict[str, object]:
    """Everything that does not depend on the order in which parts were added."""
    return recorder.to_json() | {"told": len(recorder.told)}


# -- percentiles


@given(values=LATENCIES, percentile=st.sampled_from([0.0, 50.0, 90.0, 95.0, 99.0, 99.9, 100.0]))
def test_percentiles_are_those_of_the_samples_to_three_digits(values: list[int], percentile: float) -> None:
    """HdrHistogram's percentile is the exact one of the same samples within 0.1 %, up to an hour, from 1 µs."""
    recorder = Recorder()
    for value in values:
        recorder.answered("rail", BATCH, value, 0.0, [item()], [pb.OUTCOME_ALLOWED])
    measured = recorder.select().percentile_us(percentile)
    assert measured is not None
    assert measured == pytest.approx(exact(values, percentile), rel=0.001, abs=0.5)


@given(values=LATENCIES, percentile=st.sampled_from([50.0, 99.0, 100.0]))
def test_a_second_s_percentiles_are_those_of_its_samples_to_two_percent(values: list[int], percentile: float) -> None:
    """The time series rounds down by at most 1.6 %."""
    recorder = Recorder()
    for value in values:
        recorder.answered("rail", BATCH, value, 3.7, [item()], [pb.OUTCOME_ALLOWED])
    measured = recorder.by_second[3].percentile_us(percentile)
    assert measured is not None
    wanted = exact(values, percentile)
    assert wanted * (1 - 1 / 64) <= measured <= wanted


def test_a_value_on_the_limit_keeps_it() -> None:
    """20 ms keeps a limit of 20 ms, although the histogram reads 20.015; 20.1 ms does not."""
    for latency, kept in ((20_000, True), (20_100, False)):
        recorder = Recorder()
        recorder.answered("rail", BATCH, latency, 0, [item()], [pb.OUTCOME_ALLOWED])
        assert recorder.select().at_most(99.0, 20_000) is kept


def test_latencies_out_of_range_are_recorded_at_its_ends() -> None:
    """Less than a microsecond counts as one, more than an hour as one hour: nothing is dropped."""
    recorder = Recorder()
    for latency in (0.2, 7.2e9):
        recorder.answered("rail", BATCH, latency, 0, [item()], [pb.OUTCOME_ALLOWED])
    whole = recorder.select()
    assert whole.calls == 2
    assert whole.percentile_us(50) == 1
    assert whole.percentile_us(100) == pytest.approx(LONGEST_US, rel=0.001)


def test_nothing_recorded_has_no_percentiles() -> None:
    """No calls: no percentile, rather than a good one; no share of errors; no limit kept."""
    assert Series().percentile_us(50) is None
    assert Second().percentile_us(50) is None
    assert not Series().at_most(50, 1e9)
    assert Recorder().select("rail").error_share == Recorder().select().unknown_share == 0


# -- parts and the whole


@given(calls=CALLS)
def test_merged_parts_are_what_one_recorder_would_hold(calls: list[tuple]) -> None:  # type: ignore[type-arg] # likewise
    """Calls spread over three processes, handed over as JSON and merged, equal the same calls recorded in one."""
    whole, parts = Recorder(), [Recorder() for _ in range(3)]
    for call in calls:
        record(whole, call)
        record(parts[call[-1]], call)
    for seconds, recorder in enumerate([*parts, whole]):
        recorder.seconds = float(seconds if recorder is not whole else 2)
    handed = [Recorder.from_json(json.loads(json.dumps(part.to_json()))) for part in parts]
    assert plain(merged(handed)) == plain(whole)


@given(calls=CALLS)
def test_json_and_back_changes_nothing(calls: list[tuple]) -> None:  # type: ignore[type-arg] # likewise
    """What was written to run.json is read back as it was, the environment and unmeasured figures included."""
    recorder = Recorder()
    for call in calls:
        record(recorder, call)
    run = Run("rail-peak", "127.0.0.1:1", "steady", "open", 100, 5000, "1", recorder, server_cpu_us=3.5)
    run.environment["cores"] = "2"
    text = json.dumps(run.to_json())
    assert json.dumps(Run.from_json(json.loads(text)).to_json()) == text


@given(calls=CALLS)
def test_every_check_is_counted_once(calls: list[tuple]) -> None:  # type: ignore[type-arg] # likewise
    """Answered and failed checks make up those asked, in the series and over the seconds alike."""
    recorder = Recorder()
    for call in calls:
        record(recorder, call)
    whole, seconds = recorder.select(), Second()
    for second in recorder.by_second.values():
        seconds.merge(second)
    assert whole.checks == whole.answered + whole.errors.total() == seconds.answered + seconds.errors
    assert whole.checks == sum(len(call[4]) for call in calls)
    assert whole.calls == len(calls) == seconds.calls == seconds.buckets.total()
    assert (whole.wrong, whole.unknown) == (seconds.wrong, seconds.unknown)
    lags = [call[6] for call in calls if call[6] is not None and not call[5]]
    assert whole.lag_s == seconds.lag_s == (max(lags) if lags else None)


def test_a_document_of_another_format_is_refused() -> None:
    """A run.json of another version is not read as if it were of this one."""
    made = Run("s", "t", "steady", "open", 1, 1, "1", Recorder()).to_json()
    for spoiled in (made | {"format": 0}, made | {"recorder": made["recorder"] | {"format": 0}}):
        with pytest.raises(ValueError, match="measure again"):
            Run.from_json(spoiled)


# -- answers


@pytest.mark.parametrize("expected", sorted(OUTCOMES))
@pytest.mark.parametrize("got", sorted(OUTCOMES))
def test_only_the_expected_outcome_is_right_and_doubt_is_not_wrong(expected: str, got: str) -> None:
    """Any other outcome is wrong, but for UNKNOWN, which is counted apart; UNKNOWN where it is due is right."""
    recorder = Recorder()
    recorder.answered("rail", BATCH, 5, 0, [item(expected, 17)], [OUTCOMES[got]])
    whole = recorder.select()
    assert whole.answers == {got: 1}
    assert whole.unknown == (got == law.UNKNOWN != expected)
    assert whole.wrong == (got not in (expected, law.UNKNOWN))
    assert len(recorder.told) == whole.wrong


def test_an_outcome_of_a_newer_service_is_wrong_not_a_crash() -> None:
    """A number that the contract does not have yet is told as it is."""
    recorder = Recorder()
    recorder.answered("rail", BATCH, 5, 0, [item(line=3)], [17])
    assert recorder.select().wrong == 1
    assert "got 17" in recorder.told[0]


def test_items_without_an_answer_are_errors() -> None:
    """A batch answered short, and an item answered with `error`, fail those checks and no others."""
    recorder = Recorder()
    recorder.answered("rail", BATCH, 5, 0, [item()] * 4, [pb.OUTCOME_ALLOWED, pb.OUTCOME_UNSPECIFIED])
    whole = recorder.select()
    assert whole.errors == {MALFORMED: 1, NO_ANSWER: 2}
    assert whole.answered == 1
    assert whole.error_share == 0.75
    assert whole.wrong == 0


def test_surplus_answers_cancel_no_missing_ones() -> None:
    """Sixty items without an answer and two batches answered with a hundred too many: every check of the three calls is
    an error, since nobody can tell whose the surplus answers are."""
    recorder = Recorder()
    recorder.answered("rail", BATCH, 5, 0, [item()] * 60, [])
    for _ in range(2):
        recorder.answered("rail", BATCH, 5, 0, [item()] * 3, [pb.OUTCOME_ALLOWED] * 103)
    whole = recorder.select()
    assert whole.errors == {NO_ANSWER: 60, SURPLUS: 6}
    assert (whole.checks, whole.answered, recorder.by_second[0].errors) == (66, 0, 66)


@pytest.mark.parametrize(
    ("answered", "errors", "right"),
    [
        (["2", "0", "1"], {}, 3),
        (["2", "0"], {NO_ANSWER: 1}, 2),
        (["0", "1", "7"], {SURPLUS: 3}, 0),
        (["0", "0", "1", "2"], {SURPLUS: 3}, 0),
        (["", "1", "2"], {SURPLUS: 3}, 0),
    ],
)
def test_a_streams_answers_belong_to_the_items_they_name(
    answered: list[str], errors: dict[str, int], right: int
) -> None:
    """In whatever order they come; one that is missing moves no other, one that nobody asked for spoils the call."""
    expected = (law.ALLOWED, law.BARRED, law.INVALID_DOCUMENT)
    outcomes = {str(place): OUTCOMES[word] for place, word in enumerate(expected)}
    answers = [pb.CheckResponse(item_id=each, outcome=outcomes.get(each, 1)) for each in answered]  # type: ignore[arg-type]
    items, got = matched([item(word) for word in expected], answers)
    recorder = Recorder()
    recorder.answered("tour", "StreamCheck", 5, 0, items, [answer.outcome for answer in got])
    whole = recorder.select()
    assert (whole.errors, whole.answered, whole.wrong) == (errors, right, 0)


def test_failed_calls_count_by_status_and_with_their_time() -> None:
    """A time-out is no fast call: its checks fail, and the second it took is in the percentiles."""
    recorder = Recorder()
    recorder.failed("rail", BATCH, 1_000_000, 4.2, 5, "DEADLINE_EXCEEDED")
    whole = recorder.select()
    assert whole.errors == {"DEADLINE_EXCEEDED": 5}
    assert whole.percentile_us(50) == pytest.approx(1_000_000, rel=0.001)
    assert recorder.by_second[4].errors == 5


def test_a_wrong_answer_is_told_by_its_line_and_purchase_only() -> None:
    """No number and no name in what is told or written, and at most twenty wrong answers are described."""
    recorder = Recorder()
    for line in range(100):
        recorder.answered("rail", CHECK, 5, 0, [item(law.ALLOWED, line)], [pb.OUTCOME_BARRED])
    assert len(recorder.told) == MOST_TOLD
    assert recorder.told[0].startswith("a made person of tenant rail, train")
    assert recorder.told[1] == "line 1 of people.csv, train train_code=G1 seat_code=O: expected ALLOWED, got BARRED"
    both = merged([recorder, recorder])
    assert both.select().wrong == 200
    assert len(both.told) == MOST_TOLD
    text = json.dumps(both.to_json(), ensure_ascii=False)
    assert NUMBER not in text
    assert NAME not in text


def test_of_a_warm_up_only_wrong_answers_count() -> None:
    """Its calls, latencies and errors are nowhere; its wrong answers are counted and told."""
    recorder, warmup = Recorder(), Recorder()
    recorder.answered("rail", BATCH, 5, 0, [item()], [pb.OUTCOME_ALLOWED])
    warmup.answered("rail", BATCH, 9e6, 0, [item(line=7), item()], [pb.OUTCOME_BARRED, pb.OUTCOME_UNKNOWN])
    warmup.answered("tour", CHECK, 9e6, 0, [item(line=8)], [pb.OUTCOME_BARRED])
    warmup.failed("hotel", CHECK, 9e6, 0, 1, "UNAVAILABLE")
    recorder.blame(warmup)
    whole = recorder.select()
    assert (whole.wrong, recorder.select("tour").wrong, len(recorder.told)) == (2, 1, 2)
    assert (whole.calls, whole.checks, whole.percentile_us(100)) == (1, 1, 5)
    assert (whole.errors, whole.unknown) == ({}, 0)
    assert set(recorder.series) == {("rail", BATCH), ("tour", CHECK)}


# -- selecting


def test_calls_are_told_apart_by_tenant_and_rpc() -> None:
    """select gives one tenant's, one RPC's, both or all calls; nobody's where there were none."""
    recorder = Recorder()
    for tenant, rpc in (("rail", BATCH), ("rail", CHECK), ("air", BATCH)):
        recorder.answered(tenant, rpc, 5, 0, [item()], [pb.OUTCOME_ALLOWED])
    counts = {(t, r): recorder.select(t, r).calls for t in ("rail", "air", None) for r in (BATCH, CHECK, None)}
    assert counts == {
        ("rail", BATCH): 1,
        ("rail", CHECK): 1,
        ("rail", None): 2,
        ("air", BATCH): 1,
        ("air", CHECK): 0,
        ("air", None): 1,
        (None, BATCH): 2,
        (None, CHECK): 1,
        (None, None): 3,
    }


def test_the_last_seconds_are_whole_ones() -> None:
    """last() holds the whole seconds before now, not the one that is running."""
    recorder = Recorder()
    for ended in (0.5, 1.5, 2.5, 3.1):
        recorder.failed("rail", BATCH, 5, ended, 1, "UNAVAILABLE")
    assert recorder.last(3.2, 2).errors == 2
    assert recorder.last(3.2, 10).errors == 3
