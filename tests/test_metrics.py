"""Claims about metrics: the page sums the workers, its numbers add up, and its labels name nobody."""

from pathlib import Path
from urllib.request import urlopen

import grpc
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from checker import metrics
from checker.errors import UsageError
from checker.serving import metrics_page
from tests.ports import free_port

OK, LATE = grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED


class Found(dict[tuple[str, tuple[str, ...]], float]):
    """Every sample of a page as Prometheus reads it: (name, label values in any order) -> value."""

    def __getitem__(self, key: tuple[str, tuple[str, ...]]) -> float:
        return super().__getitem__((key[0], tuple(sorted(key[1]))))


def samples(directory: Path) -> Found:
    registry = CollectorRegistry()
    registry.register(metrics.Page(directory))
    return read(generate_latest(registry).decode())


def read(page: str) -> Found:
    return Found(
        ((sample.name, tuple(sorted(sample.labels.values()))), sample.value)
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    )


def some_calls() -> metrics.Calls:
    """Three calls of two methods."""
    calls = metrics.Calls()
    calls.observe("Check", OK, 0.0002, 1)
    calls.observe("Check", LATE, 0.02, 1)
    calls.observe("BatchCheck", OK, 7.0, 500)
    return calls


def write(directory: Path, worker: int, calls: metrics.Calls) -> None:
    metrics.write(
        directory,
        worker,
        {
            "checker_answers": [(["BARRED", "MEASURE_IN_FORCE", "INDEX"], 2), (["ALLOWED", "NOT_LISTED", "FILTER"], 5)],
            "checker_filter_swaps": [([], 1)],
        },
        {"checker_feed_sequence": [([], 10 + worker)]},
        calls,
    )


def test_counters_are_summed_and_gauges_stand_by_worker(tmp_path: Path) -> None:
    """Two workers' counts are one number; what is a state is shown for each."""
    write(tmp_path, 0, some_calls())
    write(tmp_path, 1, some_calls())
    found = samples(tmp_path)

    assert found["checker_answers_total", ("BARRED", "MEASURE_IN_FORCE", "INDEX")] == 4
    assert found["checker_answers_total", ("ALLOWED", "NOT_LISTED", "FILTER")] == 10
    assert found["checker_filter_swaps_total", ()] == 2
    assert found["checker_feed_sequence", ("0",)] == 10
    assert found["checker_feed_sequence", ("1",)] == 11


def test_call_times_are_cumulative_and_add_up(tmp_path: Path) -> None:
    """Each bucket holds all calls up to its bound, the last one all, and the sum is in seconds."""
    write(tmp_path, 0, some_calls())
    write(tmp_path, 1, some_calls())
    found = samples(tmp_path)
    buckets = [found[f"{metrics.HISTOGRAM}_bucket", ("Check", str(bound))] for bound in metrics.BUCKETS_S]

    assert buckets == sorted(buckets)
    assert found[f"{metrics.HISTOGRAM}_bucket", ("Check", "0.0001")] == 0
    assert found[f"{metrics.HISTOGRAM}_bucket", ("Check", "0.00025")] == 2
    assert found[f"{metrics.HISTOGRAM}_bucket", ("Check", "0.01")] == 2
    assert found[f"{metrics.HISTOGRAM}_bucket", ("Check", "0.02")] == 4  # at the bound belongs to the bound
    assert found[f"{metrics.HISTOGRAM}_bucket", ("BatchCheck", "1.0")] == 0
    assert found[f"{metrics.HISTOGRAM}_bucket", ("BatchCheck", "+Inf")] == 2
    assert found[f"{metrics.HISTOGRAM}_count", ("Check",)] == 4
    assert found[f"{metrics.HISTOGRAM}_sum", ("Check",)] == pytest.approx(0.0404)
    assert found[f"{metrics.HISTOGRAM}_sum", ("BatchCheck",)] == 14


def test_a_torn_file_hides_only_its_own_worker(tmp_path: Path) -> None:
    """A file that is no JSON, or is just being replaced, leaves the others' numbers standing."""
    write(tmp_path, 0, some_calls())
    (tmp_path / "worker-1.json").write_text('{"counters": {"checker_answers"')
    (tmp_path / "worker-2.json").mkdir()
    (tmp_path / ".worker-3.json").write_text("half")

    assert samples(tmp_path)["checker_answers_total", ("BARRED", "MEASURE_IN_FORCE", "INDEX")] == 2


def test_an_empty_node_has_a_page(tmp_path: Path) -> None:
    """Before any worker has written, the page is there and counts nothing."""
    assert not any(samples(tmp_path).values())


def test_no_label_can_hold_anything_of_a_person() -> None:
    """Labels are outcomes, reasons, methods, statuses, fates and callers' names: nothing comes from a question."""
    labels = {label for _, names in (*metrics.COUNTERS.values(), *metrics.GAUGES.values()) for label in names}

    assert labels <= {"outcome", "reason", "answered_by", "advisory", "method", "status", "found", "caller", "fate"}


def test_the_page_is_served_and_stopped(tmp_path: Path) -> None:
    """http://HOST:PORT/metrics is what Prometheus reads; after the stop the port is free again."""
    write(tmp_path, 0, some_calls())
    for _ in range(2):
        port = free_port()
        stop = metrics_page.start(f"127.0.0.1:{port}", tmp_path)
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            found = read(answer.read().decode())
        stop()
        assert found["checker_feed_sequence", ("0",)] == 10


@pytest.mark.parametrize("listen", ["9100", "localhost:", "127.0.0.1:port", "127.0.0.1:99999", ":-1", "127.0.0.1:٣"])
def test_an_address_that_cannot_be_one_is_refused(listen: str, tmp_path: Path) -> None:
    """The flag and the form are named."""
    with pytest.raises(UsageError, match=r"^--metrics-listen .*: must be HOST:PORT$"):
        metrics_page.start(listen, tmp_path)


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    """Two pages on one port: the second is told so in a line."""
    port = free_port()
    stop = metrics_page.start(f"127.0.0.1:{port}", tmp_path)
    with pytest.raises(UsageError, match="in use"):
        metrics_page.start(f"127.0.0.1:{port}", tmp_path)
    stop()
