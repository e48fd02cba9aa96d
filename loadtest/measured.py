"""What a run measured: latencies in microseconds, answers by outcome, errors, wrong answers, second by second.

Strategy: a `Recorder` holds one `Series` per tenant and RPC (an HdrHistogram of three significant digits beside
counters) and one `Second` per second of the run. Everything in it can be added, so each process records for itself and
`merge` of theirs is what one process would have recorded. `to_json` is what reports, ramps and comparisons read.

- Latency counts per call: from the intended start in an open loop, from the call's start in a closed one. A failed call
  is recorded too, with the time it took to fail: a call that timed out was not fast.
- Answers count per check. Right: the expected outcome. UNKNOWN where another was expected is doubt, not error: the sale
  goes on, so it is counted apart and judged by its share. Anything else is wrong.
- A wrong answer is told by its line in people.csv and its purchase, never by a document or a name.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from hdrh.histogram import HdrHistogram

from loadtest import expectations as law
from loadtest.workload import Item, purchase_of
from proto.checker.v1 import check_pb2 as pb

FORMAT: Final = 1
LONGEST_US: Final = 3_600_000_000
"""Longer calls are recorded as one hour."""
MOST_TOLD: Final = 20
"""How many wrong answers are described."""
NO_ANSWER: Final = "NO_ANSWER"
"""The status of items that a batch or a stream left unanswered."""
MALFORMED: Final = "MALFORMED_ITEM"
"""The status of items answered with `error`."""
SURPLUS: Final = "SURPLUS_ANSWERS"
"""The status of all items of a call that got answers nobody asked for: whose the others are is anybody's guess."""

_WORDS: Final = {number: name.removeprefix("OUTCOME_") for name, number in pb.Outcome.items()}

Json = dict[str, Any]


def outcome_word(outcome: int) -> str:
    """An outcome as people.csv writes it; its number where the service knows one more than we do."""
    return _WORDS.get(outcome) or str(outcome)


def _histogram() -> Any:
    return HdrHistogram(1, LONGEST_US, 3)


def _bucket(microseconds: int) -> int:
    """The value, rounded down to seven binary digits (at most 1.6 %): keeps a second's counts few."""
    shift = max(0, microseconds.bit_length() - 7)
    return microseconds >> shift << shift


def _rank(percentile: float, count: int) -> int:
    """The nearest rank: the least number of values that are `percentile` % of `count` or more; 1 or more."""
    return max(1, math.ceil(percentile * count / 100 - 1e-9))  # 99.9 % of 1000 is 999, whatever floats make of it


class Series:
    """The calls of one tenant and RPC, or of several put together."""

    def __init__(self) -> None:
        self.histogram = _histogram()
        self.calls = 0
        self.checks = 0  # asked
        self.answers: Counter[str] = Counter()  # outcome -> checks answered
        self.errors: Counter[str] = Counter()  # status -> checks not answered
        self.unknown = 0  # answered UNKNOWN where another outcome was expected
        self.wrong = 0
        self.lag_s: float | None = None  # highest seen

    @property
    def answered(self) -> int:
        """Checks answered."""
        return self.answers.total()

    @property
    def error_share(self) -> float:
        """Of the checks asked, those not answered; 0 where none was asked."""
        return self.errors.total() / self.checks if self.checks else 0.0

    @property
    def unknown_share(self) -> float:
        """Of the checks asked, those answered UNKNOWN where another outcome was expected."""
        return self.unknown / self.checks if self.checks else 0.0

    def percentile_us(self, percentile: float) -> float | None:
        """Microseconds within which `percentile` % of the calls ended, to three digits; None without calls."""
        if not self.calls:
            return None
        # The library rounds the rank to the nearest, so that of six calls the fifth would be "p90": the rank is ours.
        return float(self.histogram.get_value_at_percentile(100 * _rank(percentile, self.calls) / self.calls))

    def at_most(self, percentile: float, limit_us: float) -> bool:
        """Whether the percentile keeps the limit, as far as three digits can tell."""
        value = self.percentile_us(percentile)
        return value is not None and self.histogram.get_lowest_equivalent_value(int(value)) <= limit_us

    def merge(self, other: "Series") -> None:
        """Add another's calls."""
        self.histogram.add(other.histogram)
        self.calls += other.calls
        self.checks += other.checks
        self.answers += other.answers
        self.errors += other.errors
        self.unknown += other.unknown
        self.wrong += other.wrong
        self.lag_s = _higher(self.lag_s, other.lag_s)

    def to_json(self) -> Json:
        """Everything, the histogram encoded as HdrHistogram's tools read it."""
        return {
            "calls": self.calls,
            "checks": self.checks,
            "answers": dict(sorted(self.answers.items())),
            "errors": dict(sorted(self.errors.items())),
            "unknown": self.unknown,
            "wrong": self.wrong,
            "lag_s": self.lag_s,
            "histogram": self.histogram.encode().decode(),
        }

    @classmethod
    def from_json(cls, made: Json) -> "Series":
        """What `to_json` wrote."""
        series = cls()
        series.histogram = HdrHistogram.decode(made["histogram"])
        series.calls, series.checks = made["calls"], made["checks"]
        series.answers, series.errors = Counter(made["answers"]), Counter(made["errors"])
        series.unknown, series.wrong, series.lag_s = made["unknown"], made["wrong"], made["lag_s"]
        return series


@dataclass(slots=True)
class Second:
    """What ended in one second of the run."""

    calls: int = 0
    answered: int = 0  # checks
    errors: int = 0  # checks
    unknown: int = 0  # checks answered UNKNOWN where another outcome was expected
    wrong: int = 0
    lag_s: float | None = None  # highest seen
    buckets: Counter[int] = field(default_factory=Counter)  # latency in microseconds, rounded down -> calls

    def merge(self, other: "Second") -> None:
        """Add another's calls."""
        self.calls += other.calls
        self.answered += other.answered
        self.errors += other.errors
        self.unknown += other.unknown
        self.wrong += other.wrong
        self.lag_s = _higher(self.lag_s, other.lag_s)
        self.buckets += other.buckets

    def percentile_us(self, percentile: float) -> float | None:
        """As Series.percentile_us, to 1.6 %."""
        left = _rank(percentile, self.calls)
        for value in sorted(self.buckets):
            left -= self.buckets[value]
            if left <= 0:
                return float(value)
        return None


def _higher(one: float | None, other: float | None) -> float | None:
    return one if other is None else other if one is None else max(one, other)


class Recorder:
    """Everything a run measured. `seconds`: how long it was measured; whoever drives the run sets it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.series: dict[tuple[str, str], Series] = {}
        self.by_second: dict[int, Second] = {}
        self.told: list[str] = []  # wrong answers in words, at most MOST_TOLD

    def answered(
        self,
        tenant: str,
        rpc: str,
        latency_us: float,
        ended_s: float,
        items: Sequence[Item],
        outcomes: Sequence[int],
        lag_s: float | None = None,
    ) -> int:
        """A call that was answered. `ended_s`: seconds from the run's start; `outcomes`: pb.Outcome of each item in
        order, as many as came; `lag_s`: age of the data behind the answers. Returns how many were wrong."""
        if len(outcomes) > len(items):
            self.failed(tenant, rpc, latency_us, ended_s, len(items), SURPLUS)
            return 0
        series, second = self._call(tenant, rpc, latency_us, ended_s, len(items))
        wrong = series.wrong
        for item, number in zip(items, outcomes, strict=False):
            word = _WORDS.get(number) or str(number)
            if not number:
                series.errors[MALFORMED] += 1
                second.errors += 1
                continue
            series.answers[word] += 1
            second.answered += 1
            if word == item.expected:
                continue
            if word == law.UNKNOWN:
                series.unknown += 1
                second.unknown += 1
            else:
                series.wrong += 1
                second.wrong += 1
                if len(self.told) < MOST_TOLD:
                    self.told.append(_tell(tenant, item, word))
        if missing := len(items) - len(outcomes):
            series.errors[NO_ANSWER] += missing
            second.errors += missing
        if lag_s is not None:
            series.lag_s = _higher(series.lag_s, lag_s)
            second.lag_s = _higher(second.lag_s, lag_s)
        return series.wrong - wrong

    def failed(self, tenant: str, rpc: str, latency_us: float, ended_s: float, checks: int, status: str) -> None:
        """A call that failed with a gRPC status word (DEADLINE_EXCEEDED, ...), and how many checks it carried."""
        series, second = self._call(tenant, rpc, latency_us, ended_s, checks)
        series.errors[status] += checks
        second.errors += checks

    def _call(self, tenant: str, rpc: str, latency_us: float, ended_s: float, checks: int) -> tuple[Series, Second]:
        series = self.series.get((tenant, rpc))
        if series is None:
            series = self.series[tenant, rpc] = Series()
        second = self.by_second.get(int(ended_s))
        if second is None:
            second = self.by_second[int(ended_s)] = Second()
        microseconds = min(max(1, round(latency_us)), LONGEST_US)
        series.histogram.record_value(microseconds)
        series.calls += 1
        series.checks += checks
        second.calls += 1
        second.buckets[_bucket(microseconds)] += 1
        return series, second

    def select(self, tenant: str | None = None, rpc: str | None = None) -> Series:
        """The calls of a tenant, of an RPC, of both or of all, put together."""
        whole = Series()
        for (of_tenant, of_rpc), series in self.series.items():
            if tenant in (None, of_tenant) and rpc in (None, of_rpc):
                whole.merge(series)
        return whole

    def last(self, now_s: float, over_s: int) -> Second:
        """The `over_s` whole seconds before `now_s`, put together."""
        whole = Second()
        for second in range(int(now_s) - over_s, int(now_s)):
            if second in self.by_second:
                whole.merge(self.by_second[second])
        return whole

    def merge(self, other: "Recorder") -> None:
        """Add what another process of the same run recorded."""
        self.seconds = max(self.seconds, other.seconds)
        for key, series in other.series.items():
            self.series.setdefault(key, Series()).merge(series)
        for number, second in other.by_second.items():
            self.by_second.setdefault(number, Second()).merge(second)
        self.told = (self.told + other.told)[:MOST_TOLD]

    def blame(self, warmup: "Recorder") -> None:
        """Add the wrong answers of a warm-up, and nothing else of it: slow is allowed there, wrong is not."""
        for key, series in warmup.series.items():
            if series.wrong:
                self.series.setdefault(key, Series()).wrong += series.wrong
        self.told = (self.told + warmup.told)[:MOST_TOLD]

    def to_json(self) -> Json:
        """Everything, as plain JSON values."""
        return {
            "format": FORMAT,
            "seconds": self.seconds,
            "series": [
                {"tenant": tenant, "rpc": rpc} | series.to_json()
                for (tenant, rpc), series in sorted(self.series.items())
            ],
            "by_second": [
                {"second": number}
                | asdict(second)
                | {"buckets": {str(k): v for k, v in sorted(second.buckets.items())}}
                for number, second in sorted(self.by_second.items())
            ],
            "told": self.told,
        }

    @classmethod
    def from_json(cls, made: Json) -> "Recorder":
        """What `to_json` wrote. Raises ValueError for another format, KeyError or TypeError for no such JSON."""
        if made["format"] != FORMAT:
            raise ValueError(f"format {FORMAT} is read here; measure again with this version")
        recorder = cls()
        recorder.seconds = float(made["seconds"])
        for series in made["series"]:
            recorder.series[series["tenant"], series["rpc"]] = Series.from_json(series)
        for entry in made["by_second"]:
            fields = dict(entry)
            number = fields.pop("second")
            fields["buckets"] = Counter({int(value): count for value, count in fields["buckets"].items()})
            recorder.by_second[number] = Second(**fields)
        recorder.told = list(made["told"])
        return recorder


def matched(
    items: Sequence[Item], received: Iterable[pb.CheckResponse]
) -> tuple[Sequence[Item], Sequence[pb.CheckResponse]]:
    """A stream's items, whose item_ids are their places, side by side with their answers; items without one at the end.

    An answer that belongs to no item, or a second one to an item, leaves more answers than items.
    """
    answers: dict[str, pb.CheckResponse] = {}
    surplus = []
    known = set(map(str, range(len(items))))
    for answer in received:
        if answer.item_id in answers or answer.item_id not in known:
            surplus.append(answer)
        answers.setdefault(answer.item_id, answer)
    if surplus:
        return items, [*surplus, *[pb.CheckResponse()] * len(items)]
    pairs = [(item, answers.get(str(place))) for place, item in enumerate(items)]
    answered = [item for item, answer in pairs if answer is not None]
    unanswered = [item for item, answer in pairs if answer is None]
    return answered + unanswered, [answer for _, answer in pairs if answer is not None]


def merged(recorders: Iterable[Recorder]) -> Recorder:
    """What one process would have recorded."""
    whole = Recorder()
    for recorder in recorders:
        whole.merge(recorder)
    return whole


def _tell(tenant: str, item: Item, got: str) -> str:
    who = f"line {item.line} of people.csv" if item.line else f"a made person of tenant {tenant}"
    return f"{who}, {purchase_of(item.request)}: expected {item.expected}, got {got}"


@dataclass(slots=True)
class Run:
    """The document `run.json` that a run leaves: what was driven, where, and what was measured."""

    sla: str  # its name
    target: str
    profile: str
    loop: str  # "open" or "closed"
    rate_per_s: float  # checks per second that were driven
    sla_rate_per_s: float
    seed: str
    recorder: Recorder
    loader_cpu_us: float | None = None  # per check, processor time of the load generators
    server_cpu_us: float | None = None  # per check, processor time of the target's processes; None: not measured
    environment: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> Json:
        """As `run.json` holds it."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {"format": FORMAT} | plain | {"recorder": self.recorder.to_json()}

    @classmethod
    def from_json(cls, made: Json) -> "Run":
        """What `to_json` wrote. Raises ValueError, KeyError or TypeError where it is not one of this version."""
        if made["format"] != FORMAT:
            raise ValueError(f"format {FORMAT} is read here; measure again with this version")
        fields = {name: made[name] for name in cls.__slots__}
        return cls(**(fields | {"recorder": Recorder.from_json(made["recorder"])}))
