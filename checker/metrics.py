"""The name and meaning of every metric, and how workers' counts reach one Prometheus page.

A worker counts in plain integers and writes them to a file of its own each second; the node sums the files when its
page is read. So counting costs the common path a dictionary entry, and no label ever holds anything about a person:
labels are outcomes, reasons, methods, status codes and callers' names from the roles file.
"""

import json
import os
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from prometheus_client.core import Metric

BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)
"""Upper bounds of the call-time histogram, in seconds."""

COUNTERS = {
    "checker_answers": ("Answers given", ("outcome", "reason", "answered_by")),
    "checker_advisories": ("Remarks on answers; NAME_MISMATCH asks for a look at the feed", ("advisory",)),
    "checker_calls": ("Calls by method and status", ("method", "status")),
    "checker_items": ("Items in those calls", ("method", "status")),
    "checker_index_keys": ("Keys asked of the exact index: listed, not_listed (false positives), unread", ("found",)),
    "checker_quota_refused": ("Items refused because a caller's quota was used up: may be enumeration", ("caller",)),
    "checker_evidence": ("Evidence records: written, dropped", ("fate",)),
    "checker_filter_swaps": ("Filter files taken into use", ()),
    "checker_edges_refused": ("Edges told to come back later, for lack of room", ("method",)),
}
GAUGES = {
    "checker_feed_sequence": ("Every line of the court feed up to here is applied or rejected", ()),
    "checker_feed_age_seconds": ("Time since the feed's last line, by the feed's own clock", ()),
    "checker_feed_gap_seconds": ("How long a gap in the feed has been open; 0: none", ()),
    "checker_index_silence_seconds": ("Time since the exact index last answered the journal follower", ()),
    "checker_filter_keys": ("Keys in the filter file in use", ()),
    "checker_filter_overlay_keys": ("Additions since that file was built", ()),
    "checker_calls_in_progress": ("Calls in progress", ()),
    "checker_edges_watching": ("Edges that follow the journal here", ()),
    "checker_edges_downloading": ("Snapshots being downloaded", ()),
}
HISTOGRAM = "checker_call_seconds"


class Series:
    """One method's calls that ended with one status."""

    __slots__ = ("buckets", "calls", "items", "seconds")

    def __init__(self) -> None:
        self.calls = 0
        self.items = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(BUCKETS_S) + 1)


class Calls:
    """Counts calls: the `observe` hook of the RPC shell."""

    __slots__ = ("_by_code", "by_status")

    def __init__(self) -> None:
        self.by_status: dict[tuple[str, str], Series] = {}
        self._by_code: dict[int, dict[str, Series]] = {}  # by identity: an enum's hash is Python code

    def observe(self, method: str, status: grpc.StatusCode, seconds: float, items: int) -> None:
        """One call ended."""
        try:
            series = self._by_code[id(status)][method]
        except KeyError:
            series = self.by_status.setdefault((method, status.name), Series())
            self._by_code.setdefault(id(status), {})[method] = series
        series.calls += 1
        series.items += items
        series.seconds += seconds
        series.buckets[bisect_left(BUCKETS_S, seconds)] += 1


Snapshot = dict[str, list[tuple[list[str], float]]]


def write(directory: Path, worker: int, counters: Snapshot, gauges: Snapshot, calls: Calls) -> None:
    """Put a worker's numbers where the page finds them, in one piece."""
    content = {
        "written": time.time(),
        "counters": counters,
        "gauges": gauges,
        "histogram": _by_method(calls),
    }
    aside = directory / f".worker-{worker}.json"
    aside.write_text(json.dumps(content), "utf-8")
    os.replace(aside, directory / f"worker-{worker}.json")


def _by_method(calls: Calls) -> dict[str, tuple[list[int], float]]:
    """Bucket counts and seconds of each method, whatever the status."""
    found: dict[str, tuple[list[int], float]] = {}
    for (method, _), series in calls.by_status.items():
        counts, seconds = found.get(method, ([0] * len(series.buckets), 0.0))
        found[method] = ([a + b for a, b in zip(counts, series.buckets, strict=True)], seconds + series.seconds)
    return found


class Page:
    """A prometheus_client collector over the workers' files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self) -> "Iterator[Metric]":
        """Sum counters and histograms over workers; gauges per worker."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        workers = dict(self._read())
        for name, (text, labels) in COUNTERS.items():
            counter = CounterMetricFamily(name, text, labels=labels)
            total: Counter[tuple[str, ...]] = Counter()
            for content in workers.values():
                for values, number in content["counters"].get(name, []):
                    total[tuple(values)] += number
            for values, number in sorted(total.items()):
                counter.add_metric(values, number)
            yield counter
        for name, (text, _) in GAUGES.items():
            gauge = GaugeMetricFamily(name, text, labels=("worker",))
            for worker, content in workers.items():
                for _values, number in content["gauges"].get(name, []):
                    gauge.add_metric([worker], number)
            yield gauge
        histogram = HistogramMetricFamily(HISTOGRAM, "Time calls took in the service", labels=("method",))
        for method in sorted({method for content in workers.values() for method in content["histogram"]}):
            counts = [0] * (len(BUCKETS_S) + 1)
            seconds = 0.0
            for content in workers.values():
                if method in content["histogram"]:
                    more, spent = content["histogram"][method]
                    counts = [a + b for a, b in zip(counts, more, strict=True)]
                    seconds += spent
            bounds = [*map(str, BUCKETS_S), "+Inf"]
            cumulative = [float(sum(counts[: at + 1])) for at in range(len(counts))]
            histogram.add_metric([method], list(zip(bounds, cumulative, strict=True)), seconds)
        yield histogram

    def _read(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for path in sorted(self._directory.glob("worker-*.json")):
            try:
                yield path.stem.removeprefix("worker-"), json.loads(path.read_text("utf-8"))
            except (OSError, ValueError):
                continue  # a worker that is just being replaced: its next file comes within a second
