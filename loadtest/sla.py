"""SLA files: what a deployment promises, how it is to be tried, and the judgement.

Strategy: a TOML file becomes an `Sla` of plain values, or an error that lists every problem with its place; nothing is
guessed or left out silently. `judge` turns what was recorded into lines, each one promise, its target and what was
measured. The first line is always the answers: one wrong answer fails the run whatever the latency.

A rate in the file belongs to the file's own `rate`. When another one is driven, the promised rates are scaled with it,
so that a search for the highest rate judges each trial by its own.
"""

import math
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

from loadtest.measured import Recorder, Series
from loadtest.workload import BY_NAME, PROFILES, RPCS, TENANTS, Tenant, mean_rates

PERCENTILES: Final = {"p50_ms": 50.0, "p95_ms": 95.0, "p99_ms": 99.0, "p999_ms": 99.9}
LOOPS: Final = ("open", "closed")
MOST_RATE: Final = 1e7
MOST_SECONDS: Final = 1e6
MOST_WARMUP_S: Final = 3600.0
READY: Final = Path(__file__).parent / "slas"
"""Folder of the SLA files that come with the load tester."""


class BadSla(Exception):
    """The file is no SLA; `problems` names each with its place."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)


@dataclass(frozen=True, slots=True)
class Target:
    """Promises about the calls of one tenant, of one RPC, of both, or of all. None: nothing promised."""

    tenant: str | None = None
    rpc: str | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    p999_ms: float | None = None
    error_share: float | None = None  # highest, of the checks asked
    unknown_share: float | None = None  # highest, of the checks asked, where another answer was expected
    minimum_rate: float | None = None  # checks answered per second, at the SLA's rate
    maximum_lag_s: float | None = None  # age of the data behind the answers

    @property
    def of(self) -> str:
        """Whose calls, in words."""
        return " ".join(filter(None, (self.tenant, self.rpc))) or "all"


@dataclass(frozen=True, slots=True)
class Abort:
    """When a run is not worth going on with, judged over the last `over_s` whole seconds. None: goes on."""

    over_s: int = 5
    error_share: float | None = None
    unknown_share: float | None = None
    p99_ms: float | None = None
    wrong: int | None = None  # wrong answers of the whole run


@dataclass(frozen=True, slots=True)
class Sla:
    """One SLA file."""

    name: str
    about: str
    tenants: tuple[Tenant, ...]
    profile: str
    rate: float  # checks per second
    seconds: float
    loop: str
    warmup_s: float  # driven before anything is recorded
    deadline_ms: float  # a call not answered by then has failed
    targets: tuple[Target, ...]
    abort: Abort
    memory_growth: float | None = None  # highest, of the target's processes, MiB per hour


class Line(NamedTuple):
    """One promise judged, in words for people and reports."""

    name: str
    target: str
    measured: str
    passed: bool


# --------------------------------------------------------------------------------------------------------------------
# Reading
# --------------------------------------------------------------------------------------------------------------------


def locate(text: str) -> Path:
    """The file that `--sla TEXT` means: a path, or the name of one that comes with the load tester."""
    named = READY / f"{text}.toml"
    return named if named.is_file() and not Path(text).exists() else Path(text)


def read(path: Path) -> Sla:
    """The SLA in a file. Raises BadSla with every problem, OSError."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSla([f"not TOML: {error}"]) from None
    return parse(content)


class _Table:
    """One table of the file: takes its keys one by one, and says what is wrong with each, and what is left over."""

    def __init__(self, content: Any, place: str, problems: list[str]) -> None:
        self._place, self._problems = place, problems
        self._left: dict[str, Any] = dict(content) if isinstance(content, dict) else {}
        if not isinstance(content, dict):
            problems.append(f"{place}: must be a table")

    def at(self, key: str) -> str:
        return ".".join(filter(None, (self._place, key)))

    def wrong(self, key: str, what: str) -> None:
        self._problems.append(f"{self.at(key)}: {what}")

    def __contains__(self, key: str) -> bool:
        return key in self._left

    def take(self, key: str) -> Any:
        return self._left.pop(key, None)

    def text(self, key: str, *, needed: bool = False) -> str | None:
        value = self.take(key)
        if value is None:
            if needed:
                self.wrong(key, "is missing: write a text")
        elif not isinstance(value, str) or not value.strip():
            self.wrong(key, "must be a text")
        else:
            return value
        return None

    def word(self, key: str, words: Collection[str], default: str | None = None) -> str | None:
        value = self.take(key)
        if value is None:
            return default
        if value not in words:
            self.wrong(key, f"must be one of {', '.join(words)}")
            return default
        return str(value)

    def number(self, key: str, least: float, most: float, what: str, *, needed: bool = False) -> float | None:
        value = self.take(key)
        if value is None:
            if needed:
                self.wrong(key, f"is missing: write {what}")
        elif isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            self.wrong(key, f"must be {what}")
        else:
            return value
        return None

    def end(self, known: Collection[str]) -> None:
        for key in self._left:
            self.wrong(key, f"is not a key here; known: {', '.join(known)}")


_TOP: Final = ("name", "about", "workload", "target", "server", "abort")
_SERVER: Final = ("memory_growth_mib_per_hour",)
_WORKLOAD: Final = ("tenants", "profile", "rate", "seconds", "loop", "warmup_s", "deadline_ms")
_LONGEST_MS: Final = 3_600_000.0
_MS: Final = (0.001, _LONGEST_MS, "milliseconds, 0.001 to 3600000")
_SHARE: Final = (0.0, 1.0, "a share, 0 to 1 (0.001 is one in a thousand)")
_LIMITS: Final = {
    **dict.fromkeys(PERCENTILES, _MS),
    "error_share": _SHARE,
    "unknown_share": _SHARE,
    "minimum_rate": (0.001, 1e7, "checks per second, above 0"),
    "maximum_lag_s": (0.0, 1e7, "seconds, 0 or more"),
}


def parse(content: dict[str, Any]) -> Sla:
    """The SLA that a TOML document holds. Raises BadSla with every problem."""
    problems: list[str] = []
    top = _Table(content, "", problems)
    name = top.text("name", needed=True)
    about = top.text("about")
    workload = _Table(top.take("workload") if "workload" in top else {}, "workload", problems)
    tenants = _tenants(workload)
    profile = workload.word("profile", PROFILES, "steady")
    rate = workload.number("rate", 0.001, MOST_RATE, "checks per second, above 0", needed=True)
    seconds = workload.number("seconds", 1, MOST_SECONDS, "seconds, 1 or more", needed=True)
    loop = workload.word("loop", LOOPS, "open")
    warmup_s = workload.number("warmup_s", 0, MOST_WARMUP_S, "seconds, 0 to 3600")
    deadline_ms = workload.number("deadline_ms", *_MS)
    workload.end(_WORKLOAD)
    if profile == "burst" and not any(tenant.opening > 1 for tenant in tenants):
        workload.wrong("profile", "burst needs a tenant that has sale openings (rail)")
    rates = mean_rates(tenants, rate, seconds, profile) if tenants and rate and seconds and profile else {}
    targets = _targets(top.take("target"), tenants, rates, problems)
    server = _Table(top.take("server") if "server" in top else {}, "server", problems)
    memory_growth = server.number(_SERVER[0], 0.001, 1e6, "MiB per hour, above 0")
    server.end(_SERVER)
    abort = _abort(_Table(top.take("abort") if "abort" in top else {}, "abort", problems))
    top.end(_TOP)
    if problems or name is None or rate is None or seconds is None or profile is None or loop is None:
        raise BadSla(problems)
    return Sla(
        name=name,
        about=about or "",
        tenants=tenants,
        profile=profile,
        rate=rate,
        seconds=seconds,
        loop=loop,
        warmup_s=5.0 if warmup_s is None else warmup_s,
        deadline_ms=1000.0 if deadline_ms is None else deadline_ms,
        targets=targets,
        abort=abort,
        memory_growth=memory_growth,
    )


def _tenants(workload: _Table) -> tuple[Tenant, ...]:
    names = workload.take("tenants")
    if names is None:
        return TENANTS
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        workload.wrong("tenants", "must be a list of names")
        return ()
    for place, name in enumerate(names):
        if name not in BY_NAME:
            workload.wrong(f"tenants[{place}]", f"must be one of {', '.join(BY_NAME)}")
        elif name in names[:place]:
            workload.wrong(f"tenants[{place}]", "is named twice")
    return tuple(BY_NAME[name] for name in dict.fromkeys(names) if name in BY_NAME)


def _targets(
    content: Any, tenants: Sequence[Tenant], rates: Mapping[str, float], problems: list[str]
) -> tuple[Target, ...]:
    """`rates`: mean rate of each tenant over the run; empty where the workload is wrong."""
    if not isinstance(content, list) or not content:
        problems.append("target: is missing: write at least one [[target]] with something to promise")
        return ()
    targets = []
    for place, entry in enumerate(content):
        table = _Table(entry, f"target[{place}]", problems)
        # No tenants: their names were wrong already, which is one problem and not two.
        tenant = table.word("tenant", [tenant.name for tenant in tenants] or list(BY_NAME))
        asked = [one for one in tenants if tenant in (None, one.name)]
        rpc = table.word("rpc", RPCS)
        if rpc is not None and asked and rpc not in {one.rpc for one in asked}:
            table.wrong("rpc", f"is not what {tenant or 'any tenant of this workload'} calls")
        given = [key for key in _LIMITS if key in table]
        limits = {key: table.number(key, *limit) for key, limit in _LIMITS.items()}
        if not given and isinstance(entry, dict):
            table.wrong("", f"promises nothing: write one of {', '.join(_LIMITS)}")
        in_order = [(key, limits[key]) for key in PERCENTILES if limits[key] is not None]
        for (low, low_ms), (high, high_ms) in pairwise(in_order):
            if low_ms is not None and high_ms is not None and low_ms > high_ms:
                table.wrong(high, f"is below {low}: a higher percentile cannot be faster")
        least = limits["minimum_rate"]
        most = sum(rates[one.name] for one in asked if rpc in (None, one.rpc)) if rates else math.inf
        if least is not None and least > most:
            table.wrong("minimum_rate", f"is above what the workload asks of it on average, {_rate(most)}")
        table.end(("tenant", "rpc", *_LIMITS))
        targets.append(Target(tenant, rpc, **limits))
    return tuple(targets)


def _abort(table: _Table) -> Abort:
    over_s = table.number("over_s", 1, 600, "whole seconds, 1 to 600")
    if over_s is not None and over_s != int(over_s):
        table.wrong("over_s", "must be whole seconds, 1 to 600")
    abort = Abort(
        over_s=5 if over_s is None else int(over_s),
        error_share=table.number("error_share", *_SHARE),
        unknown_share=table.number("unknown_share", *_SHARE),
        p99_ms=table.number("p99_ms", *_MS),
        wrong=_whole(table, "wrong"),
    )
    table.end([field.name for field in fields(Abort)])
    return abort


def _whole(table: _Table, key: str) -> int | None:
    value = table.number(key, 1, 1e9, "a whole number, 1 or more")
    if value is not None and value != int(value):
        table.wrong(key, "must be a whole number, 1 or more")
    return None if value is None else int(value)


# --------------------------------------------------------------------------------------------------------------------
# Judging
# --------------------------------------------------------------------------------------------------------------------


def judge(sla: Sla, recorder: Recorder, rate: float | None = None, memory_growth: float | None = None) -> list[Line]:
    """Every promise judged, the answers first. `rate`: checks per second that were driven, where not the SLA's own;
    `memory_growth`: of the target's processes in MiB per hour, None where nobody saw them.

    A promise about calls that nobody made, or memory that nobody saw, is broken: nothing was shown.
    """
    scale = 1.0 if rate is None else rate / sla.rate
    lines = [_answers(recorder)]
    for target in sla.targets:
        series = recorder.select(target.tenant, target.rpc)
        lines += _lines(target, series, recorder.seconds, scale)
    if sla.memory_growth is not None:
        measured = "not seen" if memory_growth is None else f"{memory_growth:+,.1f} MiB/hour"
        passed = memory_growth is not None and memory_growth <= sla.memory_growth
        lines.append(Line("server memory growth", f"≤ {sla.memory_growth:,.1f} MiB/hour", measured, passed))
    return lines


def holds(lines: Sequence[Line]) -> bool:
    """Whether every promise was kept."""
    return all(line.passed for line in lines)


def _answers(recorder: Recorder) -> Line:
    whole = recorder.select()
    seen = whole.answered or whole.wrong  # wrong answers of the warm-up count, its answers do not
    measured = f"{whole.wrong:,} wrong of {whole.answered:,}" if seen else "nothing was answered"
    return Line("answers", "none wrong", measured, whole.answered > 0 and not whole.wrong)


def _lines(target: Target, series: Series, seconds: float, scale: float) -> Iterator[Line]:
    for key, percentile in PERCENTILES.items():
        limit_ms = getattr(target, key)
        if limit_ms is not None:
            value = series.percentile_us(percentile)
            measured = "no calls" if value is None else _ms(value / 1000)
            yield Line(
                f"{target.of} {_PERCENTILE_NAMES[key]}",
                f"≤ {_ms(limit_ms)}",
                measured,
                series.at_most(percentile, limit_ms * 1000),
            )
    for name, limit, share, count in (
        ("errors", target.error_share, series.error_share, series.errors.total()),
        ("UNKNOWN", target.unknown_share, series.unknown_share, series.unknown),
    ):
        if limit is not None:
            measured = f"{_share(share)} ({count:,} of {series.checks:,})" if series.checks else "no calls"
            passed = series.checks > 0 and share <= limit
            yield Line(f"{target.of} {name}", f"≤ {_share(limit)}", measured, passed)
    if target.minimum_rate is not None:
        least = target.minimum_rate * scale
        got = series.answered / seconds if seconds > 0 else 0.0
        yield Line(f"{target.of} rate", f"≥ {_rate(least)}", _rate(got), got >= least)
    if target.maximum_lag_s is not None:
        lag = series.lag_s
        measured = "not told" if lag is None else f"{lag:,.1f} s"
        passed = lag is not None and lag <= target.maximum_lag_s
        yield Line(f"{target.of} lag", f"≤ {target.maximum_lag_s:,.1f} s", measured, passed)


_PERCENTILE_NAMES: Final = {"p50_ms": "p50", "p95_ms": "p95", "p99_ms": "p99", "p999_ms": "p99.9"}


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:,.3f} ms"


def _share(share: float) -> str:
    return f"{share * 100:.4g} %"


def _rate(rate: float) -> str:
    return f"{rate:,.1f} checks/s"


def abort_reason(sla: Sla, recorder: Recorder, now_s: float) -> str | None:
    """Why the run should end now, `now_s` seconds after its start; None to go on."""
    abort = sla.abort
    if abort.wrong is not None:
        wrong = sum(series.wrong for series in recorder.series.values())
        if wrong >= abort.wrong:
            return f"wrong answers: {wrong:,} (abort.wrong {abort.wrong:,})"
    if now_s < abort.over_s:
        return None
    last = recorder.last(now_s, abort.over_s)
    checks = last.answered + last.errors
    over = f"over the last {abort.over_s} s"
    for key, count in (("error_share", last.errors), ("unknown_share", last.unknown)):
        limit = getattr(abort, key)
        if limit is not None and checks and count / checks > limit:
            return f"{key} {_share(count / checks)} {over} (abort.{key} {_share(limit)})"
    p99_us = last.percentile_us(99)
    if abort.p99_ms is not None and p99_us is not None and p99_us > abort.p99_ms * 1000:
        return f"p99 {_ms(p99_us / 1000)} {over} (abort.p99_ms {_ms(abort.p99_ms)})"
    return None
