"""The report's charts, as SVG texts by Matplotlib. They read in black and white: line styles, markers and hatches tell
lines and bars apart; colour only helps.
"""

import io
import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from loadtest.capacity import Point
from loadtest.measured import Recorder, Series
from loadtest.meter import Sample
from loadtest.ramp import Trial
from loadtest.workload import Stretch

_Arguments = ParamSpec("_Arguments")
WIDTH, HEIGHT = 9.0, 3.4  # inches
CURVE_ENDS = (50.0, 90.0, 99.0, 99.9, 99.99, 99.999)
_INKS = ("#000000", "#0b4f9e", "#a33b00", "#4d4d4d", "#00695c", "#7b1fa2", "#8a6d00")
_DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (7, 2)))
_MARKS = ("o", "s", "^", "D", "v", "x", "+")
_HATCHES = ("", "///", "...", "xxx", "\\\\\\", "+++", "ooo", "---")
_GREYS = ("#ffffff", "#d9d9d9", "#bdbdbd", "#969696", "#f0f0f0", "#737373", "#cccccc", "#e5e5e5")
_STYLE: Any = {
    "font.size": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#cccccc",
    "grid.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "hatch.linewidth": 0.6,
    "lines.linewidth": 1.4,
}


def _figure(height: float = HEIGHT) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Figure) -> str:
    made = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "xianxiao"}):
        figure.savefig(made, format="svg", metadata={"Date": None, "Creator": None})
    text = made.getvalue()
    return text[text.index("<svg") :]


def _milliseconds(axis: Any) -> None:
    """A logarithmic axis of milliseconds with a label or two in every decade."""
    axis.set_major_locator(LogLocator(subs=(1, 3)))
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} ms"))


def _from_zero(axes: Axes, unit: str = "") -> None:
    """A linear axis that starts at 0 and leaves room above its highest value."""
    _, top = axes.get_ylim()
    axes.set_ylim(0, top * 1.1)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}{unit}"))


def _line(axes: Axes, turn: int, xs: Sequence[float], ys: Sequence[float], label: str) -> None:
    every = max(1, len(xs) // 12)
    axes.plot(
        xs,
        ys,
        label=label,
        color=_INKS[turn % len(_INKS)],
        linestyle=_DASHES[turn % len(_DASHES)],
        marker=_MARKS[turn % len(_MARKS)],
        markevery=(turn * every // 4 % every, every),
        markersize=4,
    )


def _legend(axes: Axes, columns: int = 6) -> None:
    if not axes.get_legend_handles_labels()[0]:  # nothing was measured; matplotlib would warn of it
        return
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, borderaxespad=0.2)


def _styled(draw: Callable[_Arguments, str]) -> Callable[_Arguments, str]:
    @wraps(draw)
    def styled(*args: _Arguments.args, **named: _Arguments.kwargs) -> str:
        with mpl.rc_context(_STYLE):
            return draw(*args, **named)

    return styled


# --------------------------------------------------------------------------------------------------------------------
# Of a run
# --------------------------------------------------------------------------------------------------------------------


@_styled
def over_time(recorder: Recorder) -> str:
    """Latency percentiles of each second."""
    figure, axes = _figure()
    seconds = [second for second in sorted(recorder.by_second) if second < recorder.seconds]  # the last is a rest
    for turn, (percentile, label) in enumerate(((50.0, "p50"), (95.0, "p95"), (99.0, "p99"), (100.0, "slowest"))):
        values = [recorder.by_second[second].percentile_us(percentile) for second in seconds]
        points = [(second, value / 1000) for second, value in zip(seconds, values, strict=True) if value is not None]
        _line(axes, turn, [second for second, _ in points], [value for _, value in points], label)
    axes.set_yscale("log")
    axes.set_xlabel("second of the run in which the call ended")
    _milliseconds(axes.yaxis)
    _legend(axes)
    return _svg(figure)


@_styled
def percentile_curve(curves: Sequence[tuple[str, Any]]) -> str:
    """Latency by percentile, nines evenly spaced, as HdrHistogram's plotter draws it. `curves`: label, histogram."""
    figure, axes = _figure(4.2)
    highest = 100.0
    for turn, (label, histogram) in enumerate(curves):
        count = histogram.get_total_count()
        if not count:
            continue
        nines = max(1.0, math.log10(count))
        highest = max(highest, float(count))
        xs = [10 ** (nines * step / 60) for step in range(61)]
        ys = [max(1, histogram.get_value_at_percentile(100 * (1 - 1 / x))) / 1000 for x in xs]
        _line(axes, turn, xs, ys, label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = [(100 / (100 - end), f"{end:g} %") for end in CURVE_ENDS if 100 / (100 - end) <= highest * 1.01]
    axes.set_xticks([1.0, *(place for place, _ in ticks)], ["0 %", *(label for _, label in ticks)])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("percentile of the calls")
    _milliseconds(axes.yaxis)
    _legend(axes, 4)
    return _svg(figure)


@_styled
def histogram(series: Series) -> str:
    """How many calls took how long."""
    figure, axes = _figure(2.8)
    counts: dict[int, int] = {}
    for value in series.histogram.get_recorded_iterator():
        place = math.floor(math.log10(max(1, value.value_iterated_to)) * 20)
        counts[place] = counts.get(place, 0) + value.count_added_in_this_iter_step
    edges = [(10 ** (place / 20) / 1000, 10 ** ((place + 1) / 20) / 1000) for place in sorted(counts)]
    axes.bar(
        [low for low, _ in edges],
        [counts[place] for place in sorted(counts)],
        width=[high - low for low, high in edges],
        align="edge",
        color="#d9d9d9",
        edgecolor="black",
        linewidth=0.6,
        hatch="///",
    )
    axes.set_xscale("log")
    axes.set_ylabel("calls")
    axes.set_xlabel("latency")
    _milliseconds(axes.xaxis)
    return _svg(figure)


@_styled
def rate(recorder: Recorder, intended: Sequence[Stretch]) -> str:
    """Checks answered in each second. `intended`: the rates driven; empty where as many as go were asked."""
    figure, axes = _figure(2.8)
    seconds = list(range(math.ceil(recorder.seconds)))
    of = [recorder.by_second.get(second) for second in seconds]
    _line(axes, 0, seconds, [each.answered if each else 0 for each in of], "answered")
    errors = [each.errors if each else 0 for each in of]
    if any(errors):
        _line(axes, 2, seconds, errors, "not answered")
    if intended:
        edges = [intended[0].start_s, *(stretch.end_s for stretch in intended)]
        axes.stairs([stretch.rate for stretch in intended], edges, color="#4d4d4d", linestyle=":", label="driven")
    _from_zero(axes)
    axes.set_ylabel("checks/s")
    axes.set_xlabel("second of the run")
    _legend(axes)
    return _svg(figure)


@_styled
def troubles(recorder: Recorder) -> str:
    """Checks not answered, answered UNKNOWN in doubt, and answered wrongly, in each second; empty where none was."""
    whole = recorder.select()
    if not (whole.errors or whole.unknown or whole.wrong):
        return ""
    figure, axes = _figure(2.4)
    seconds = sorted(recorder.by_second)
    bottom = [0.0] * len(seconds)
    for turn, (name, label) in enumerate((("errors", "not answered"), ("unknown", "UNKNOWN"), ("wrong", "wrong"))):
        values = [float(getattr(recorder.by_second[second], name)) for second in seconds]
        if any(values):
            axes.bar(
                seconds,
                values,
                bottom=bottom,
                width=1.0,
                label=label,
                color=_GREYS[turn + 1],
                edgecolor="black",
                linewidth=0.5,
                hatch=_HATCHES[turn + 1],
            )
            bottom = [low + value for low, value in zip(bottom, values, strict=True)]
    axes.set_ylabel("checks")
    axes.set_xlabel("second of the run")
    _legend(axes)
    return _svg(figure)


@_styled
def outcomes(recorder: Recorder) -> str:
    """The answers that are not ALLOWED, by outcome and tenant."""
    tenants = sorted({tenant for tenant, _ in recorder.series})
    figure, axes = _figure(0.9 + 0.34 * len(tenants))
    words = sorted({word for series in recorder.series.values() for word in series.answers} - {"ALLOWED"})
    height = 0.8 / max(1, len(words))
    for turn, word in enumerate(words):
        shares = []
        for tenant in tenants:
            series = recorder.select(tenant)
            shares.append(100 * series.answers[word] / series.answered if series.answered else 0.0)
        axes.barh(
            [place + turn * height for place in range(len(tenants))],
            shares,
            height=height,
            label=word,
            color=_GREYS[(turn + 1) % len(_GREYS)],
            edgecolor="black",
            linewidth=0.6,
            hatch=_HATCHES[(turn + 1) % len(_HATCHES)],
        )
    axes.set_yticks([place + 0.4 - height / 2 for place in range(len(tenants))], tenants)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    axes.set_xlabel("of the tenant's answers; the rest is ALLOWED")
    if words:
        _legend(axes)
    return _svg(figure)


@_styled
def lag(recorder: Recorder) -> str:
    """Age of the data behind the answers; empty where no answer told it."""
    seconds = [second for second in sorted(recorder.by_second) if recorder.by_second[second].lag_s is not None]
    if not seconds:
        return ""
    figure, axes = _figure(2.4)
    _line(
        axes, 0, seconds, [recorder.by_second[second].lag_s or 0.0 for second in seconds], "oldest data of the second"
    )
    _from_zero(axes, " s")
    axes.set_xlabel("second of the run")
    return _svg(figure)


@_styled
def processors(samples: Sequence[Sample], recorder: Recorder, start_at: float, *, watched: bool) -> str:
    """Processor time of the target per check, and how busy loader and machine were."""
    figure = Figure(figsize=(WIDTH, 4.6 if watched else 2.6), layout="constrained")
    rows = figure.subplots(2 if watched else 1, 1, sharex=True, squeeze=False)[:, 0]
    during = [sample for sample in samples if start_at < sample.at <= start_at + recorder.seconds + 1]
    xs = [sample.at - start_at for sample in during]
    if watched:
        costs = []
        for sample in during:
            of = recorder.by_second.get(int(sample.at - start_at - sample.seconds / 2))
            costs.append(sample.server_cpu_s / (of.answered + of.errors) * 1e6 if of and of.calls else math.nan)
        _line(rows[0], 1, xs, costs, "target: processor time per check")
        _from_zero(rows[0], " µs")
        _legend(rows[0])
    last = rows[-1]
    _line(last, 0, xs, [100 * sample.busiest_share for sample in during], "loader: busiest process")
    _line(last, 3, xs, [100 * sample.machine_share for sample in during], "machine: all cores")
    if watched:
        shares = [100 * sample.server_cpu_s / sample.seconds for sample in during]
        _line(last, 1, xs, shares, "target: all its processes")
    _from_zero(last, " %")
    last.set_xlabel("second of the run (100 %: one core; for the machine all of them)")
    _legend(last)
    return _svg(figure)


@_styled
def memory(samples: Sequence[Sample], start_at: float) -> str:
    """Resident memory of the target's processes."""
    figure, axes = _figure(2.4)
    during = [sample for sample in samples if sample.at > start_at and sample.server_bytes]
    xs = [sample.at - start_at for sample in during]
    _line(axes, 0, xs, [sample.server_bytes / 2**20 for sample in during], "resident")
    _from_zero(axes, " MiB")
    axes.set_xlabel("second of the run")
    return _svg(figure)


# --------------------------------------------------------------------------------------------------------------------
# Of a search
# --------------------------------------------------------------------------------------------------------------------


@_styled
def knee(trials: Sequence[Trial], highest: float | None) -> str:
    """Latency against rate, each trial marked as kept or broken, and the highest rate that was kept."""
    figure, axes = _figure(4.2)
    in_order = sorted(trials, key=lambda trial: trial.rate)
    for turn, (name, label) in enumerate((("p50_ms", "p50"), ("p99_ms", "p99"))):
        axes.plot(
            [trial.rate for trial in in_order],
            [getattr(trial, name) for trial in in_order],
            color=_INKS[turn],
            linestyle=_DASHES[turn],
            label=label,
        )
    for held, mark, label in ((True, "o", "SLA kept"), (False, "X", "SLA broken")):
        those = [trial for trial in in_order if trial.held == held]
        if those:
            axes.plot(
                [trial.rate for trial in those],
                [trial.p99_ms for trial in those],
                mark,
                color="black",
                markerfacecolor="white" if held else "black",
                markersize=8,
                linestyle="none",
                label=label,
            )
    if highest:
        axes.axvline(highest, color="#4d4d4d", linestyle=":", label=f"highest kept: {highest:,.0f} checks/s")
    axes.set_yscale("log")
    axes.set_xlabel("checks per second driven")
    _milliseconds(axes.yaxis)
    _legend(axes, 5)
    return _svg(figure)


# --------------------------------------------------------------------------------------------------------------------
# Of a capacity plan
# --------------------------------------------------------------------------------------------------------------------


@_styled
def growth(points: Sequence[Point]) -> str:
    """Cores by place against rate, and those of a centre that is asked about every check by a call of its own."""
    figure, axes = _figure(4.2)
    rates = [point.rate for point in points]
    for turn, place in enumerate(points[0].plan.places):
        _line(axes, turn, rates, [point.plan.places[turn].cores for point in points], place.name)
    _line(axes, 4, rates, [point.plan.cores for point in points], "all of them")
    _line(axes, 5, rates, [point.unary_cores for point in points], "every check a call to the centre")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("checks per second")
    axes.set_ylabel("cores busy")
    _legend(axes, 3)
    return _svg(figure)


@_styled
def cost_per_check(points: Sequence[Point]) -> str:
    """Processor time per check against rate."""
    figure, axes = _figure(2.8)
    rates = [point.rate for point in points]
    _line(axes, 0, rates, [point.plan.us_per_check for point in points], "this plan")
    unary = [point.unary_cores / point.rate * 1e6 for point in points]
    _line(axes, 5, rates, unary, "every check a call to the centre")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} µs"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("checks per second")
    _legend(axes, 3)
    return _svg(figure)
