"""What a run or a search leaves behind: report.html for people, report.json and junit.xml for machines, run.json for
`loadtest compare`.

The HTML is one file that opens offline: charts lie in it as SVG, nothing is fetched. It says first what was promised
and whether it held, then what may make the figures those of the tester, then everything that was measured.
"""

import base64
import html
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

from loadtest.drive import Driven, Plan
from loadtest.measured import Recorder, Run, Series
from loadtest.probe import SLACK_MS, TOLERANCE, Opinion
from loadtest.ramp import Trial, highest
from loadtest.sla import Line, Sla, holds
from loadtest.workload import Stretch, stretches

HTML, JSON, JUNIT, RUN = "report.html", "report.json", "junit.xml", "run.json"
_FIGURE = re.compile(r"[0-9.,]+|–")
_PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9, 100.0)


@dataclass(frozen=True)
class Report:
    """A judged run. `opinions`: the prober's; `limits`: why the tester may have been the limit."""

    plan: Plan
    driven: Driven
    lines: Sequence[Line]
    limits: Sequence[str]
    opinions: Sequence[Opinion]
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def sla(self) -> Sla:
        """The SLA that was judged."""
        return self.plan.sla

    @property
    def passed(self) -> bool:
        """Whether every line held."""
        return holds(self.lines)

    @property
    def verdict(self) -> str:
        """The result in one line, with both rates."""
        word = "PASS" if self.passed else "FAIL"
        if self.sla.loop == "closed":
            return f"{word}: {self.sla.name}, closed loop of {self.plan.in_flight} users"
        driven = f"{self.plan.driven_rate:,.0f} checks/s driven"
        return f"{word}: {self.sla.name} at {driven}; the SLA's own rate is {self.sla.rate:,.0f} checks/s"

    @property
    def run(self) -> Run:
        """The document that `loadtest compare` reads."""
        plan, driven = self.plan, self.driven
        return Run(
            sla=self.sla.name,
            target=",".join(plan.targets),
            profile=self.sla.profile,
            loop=self.sla.loop,
            rate_per_s=plan.driven_rate,
            sla_rate_per_s=self.sla.rate,
            seed=plan.seed,
            recorder=driven.recorder,
            loader_cpu_us=driven.loader_cpu_us,
            server_cpu_us=driven.server_cpu_us,
            environment=self.environment,
        )

    @property
    def wrong_answers(self) -> list[str]:
        """The first wrong answers in words: locust's, then the prober's."""
        probe = self.driven.probe
        return self.driven.recorder.told + [f"the prober: {text}" for text in (probe.told if probe else ())]

    @property
    def disagreements(self) -> list[str]:
        """Where locust and the prober do not agree, in words."""
        return [
            f"p{each.percentile:g}: locust {each.locust_ms:.3f} ms, the prober {each.probe_ms:.3f} ms; "
            f"{each.low_ms:.3f} to {each.high_ms:.3f} ms would agree"
            for each in self.opinions
            if not each.agrees
        ]


def write(report: Report, folder: Path) -> Path:
    """Write all four files; returns the HTML's path. Raises OSError."""
    (folder / RUN).write_text(json.dumps(report.run.to_json()), "utf-8")
    (folder / JSON).write_text(json.dumps(to_json(report), indent=1, ensure_ascii=False), "utf-8")
    (folder / JUNIT).write_bytes(junit(report))
    (folder / HTML).write_text(to_html(report), "utf-8")
    return folder / HTML


# --------------------------------------------------------------------------------------------------------------------
# For machines
# --------------------------------------------------------------------------------------------------------------------


def to_json(report: Report) -> dict[str, Any]:
    """The figures of the report; the histograms are in run.json."""
    driven, plan = report.driven, report.plan
    return {
        "verdict": "PASS" if report.passed else "FAIL",
        "sla": report.sla.name,
        "target": list(plan.targets),
        "loop": report.sla.loop,
        "profile": report.sla.profile,
        "rate_driven": plan.driven_rate,
        "rate_sla": report.sla.rate,
        "seconds": driven.recorder.seconds,
        "ended_early": driven.problem,
        "lines": [line._asdict() for line in report.lines],
        "calls": [
            {"tenant": tenant, "rpc": rpc} | _figures(series)
            for (tenant, rpc), series in sorted(driven.recorder.series.items())
        ],
        "all": _figures(driven.recorder.select()),
        "wrong_answers": report.wrong_answers,
        "tester": {
            "limits": list(report.limits),
            "processes": driven.pace.processes,
            "slots": driven.pace.slots,
            "held_share": driven.pace.held_share,
            "delay_ms": {f"p{each:g}": driven.pace.delay_ms(each) for each in (50.0, 99.0, 99.9)},
            "cpu_us_per_check": driven.loader_cpu_us,
            "busiest_share": max((sample.busiest_share for sample in driven.samples), default=None),
        },
        "probe": {
            "agrees": not report.disagreements if report.opinions else None,
            "failed": driven.probe_failed,
            "tolerance": TOLERANCE,
            "slack_ms": SLACK_MS,
            "opinions": [each._asdict() | {"agrees": each.agrees} for each in report.opinions],
            "all": None if driven.probe is None else _figures(driven.probe.select()),
        },
        "server_cpu_us_per_check": driven.server_cpu_us,
        "server_memory_growth_mib_per_hour": driven.memory_growth,
        "samples": [asdict(sample) for sample in driven.samples],
        "environment": report.environment,
    }


def _figures(series: Series) -> dict[str, Any]:
    return {
        "calls": series.calls,
        "checks": series.checks,
        "ms": {f"p{each:g}": _ms(series, each) for each in _PERCENTILES},
        "answers": dict(series.answers),
        "errors": dict(series.errors),
        "unknown": series.unknown,
        "wrong": series.wrong,
        "lag_s": series.lag_s,
    }


def _ms(series: Series, percentile: float) -> float | None:
    value = series.percentile_us(percentile)
    return None if value is None else value / 1000


def junit(report: Report) -> bytes:
    """A test case per line of the SLA, as CI systems read it."""
    failed = sum(not line.passed for line in report.lines)
    suite = Xml.Element(
        "testsuite",
        name=f"loadtest {report.sla.name}",
        tests=str(len(report.lines)),
        failures=str(failed),
        errors="0",
        time=f"{report.driven.recorder.seconds:.3f}",
        timestamp=datetime.fromtimestamp(report.driven.start_at, UTC).isoformat(timespec="seconds"),
    )
    properties = Xml.SubElement(suite, "properties")
    for name, value in report.environment.items():
        Xml.SubElement(properties, "property", name=name, value=value)
    for line in report.lines:
        case = Xml.SubElement(suite, "testcase", classname=report.sla.name, name=f"{line.name} {line.target}")
        if not line.passed:
            Xml.SubElement(case, "failure", message=f"measured {line.measured}")
    told = [report.verdict, *report.limits, *report.disagreements, *report.wrong_answers]
    Xml.SubElement(suite, "system-out").text = "\n".join(told)
    return bytes(Xml.tostring(suite, encoding="utf-8", xml_declaration=True))


# --------------------------------------------------------------------------------------------------------------------
# For people
# --------------------------------------------------------------------------------------------------------------------

_CSS = """
body { font: 15px/1.45 system-ui, sans-serif; color: #111; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .4rem; }
p.about { color: #444; margin-top: 0; }
.verdict { font-size: 1.2rem; font-weight: 700; border: 3px solid #111; padding: .5rem .8rem; margin: 1rem 0; }
.verdict.fail { border-style: double; border-width: 6px; background: #eee; }
table { border-collapse: collapse; width: 100%; margin: .4rem 0; }
th, td { text-align: left; padding: .2rem .6rem .2rem 0; border-bottom: 1px solid #ccc; vertical-align: top; }
th { border-bottom: 2px solid #111; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
tr.fail td { font-weight: 700; background: #eee; }
.note { border-left: 4px solid #111; padding: .1rem .8rem; margin: .6rem 0; }
img { width: 100%; height: auto; }
figure { margin: .6rem 0; break-inside: avoid; } figcaption { color: #444; font-size: .9rem; }
@media print { body { margin: 0; max-width: none; } h2 { break-after: avoid; } }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole HTML document that fetches nothing."""
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, marked: Sequence[bool] = ()) -> str:
    """A table; columns that hold figures alone stand to the right; `marked` rows stand out."""
    rows = list(rows)
    numeric = [all(_FIGURE.fullmatch(row[place]) for row in rows) for place in range(len(heads))]

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=n' if right else ''}>{html.escape(cell)}</{tag}>"
            for cell, right in zip(row, numeric, strict=True)
        )

    lines = [f"<tr>{cells('th', heads)}</tr>"]
    for place, row in enumerate(rows):
        lines.append(f"<tr{' class=fail' if place < len(marked) and marked[place] else ''}>{cells('td', row)}</tr>")
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def chart(svg: str, caption: str) -> str:
    """A chart with its caption; nothing where there is no chart. As an image of its own, since SVG ids may clash."""
    if not svg:
        return ""
    packed = base64.b64encode(svg.encode()).decode()
    told = html.escape(caption)
    source = f"data:image/svg+xml;base64,{packed}"
    return f'<figure><img src="{source}" alt="{told}"><figcaption>{told}</figcaption></figure>'


def _heading(text: str) -> str:
    return f"<h2>{html.escape(text)}</h2>"


def _paragraph(text: str, kind: str = "") -> str:
    return f"<p{f' class={kind}' if kind else ''}>{html.escape(text)}</p>"


def verdict_box(text: str, *, passed: bool) -> str:
    """The result, framed."""
    return f'<div class="verdict{"" if passed else " fail"}">{html.escape(text)}</div>'


def environment_table(environment: dict[str, str]) -> str:
    """Where it was measured."""
    return table(("", ""), environment.items())


def to_html(report: Report) -> str:
    """The report for people."""
    from loadtest import charts  # Matplotlib takes a second to load: only who draws waits for it

    driven, recorder = report.driven, report.driven.recorder
    whole = recorder.select()
    start = datetime.fromtimestamp(driven.start_at, UTC)
    how = f"{report.sla.loop} loop, profile {report.sla.profile}, {recorder.seconds:,.0f} s"
    parts = [
        f"<h1>Load test: {html.escape(report.sla.name)}</h1>",
        _paragraph(f"{start:%Y-%m-%d %H:%M:%S} UTC, target {', '.join(report.plan.targets)}; {how}", "about"),
        _paragraph(report.sla.about, "about"),
        verdict_box(report.verdict, passed=report.passed),
        table(
            ("promise", "target", "measured", "result"),
            [(line.name, line.target, line.measured, "PASS" if line.passed else "FAIL") for line in report.lines],
            marked=[not line.passed for line in report.lines],
        ),
    ]
    if report.wrong_answers:
        parts += [_heading("Wrong answers"), table(("the first of them",), [(text,) for text in report.wrong_answers])]
    parts += [_heading("Was the tester the limit?"), *_tester(report)]
    parts += [_heading("Second opinion"), *_second_opinion(report)]
    parts += [
        _heading("Latency"),
        _calls(report),
        chart(charts.over_time(recorder), "Latency percentiles of each second; a call counts where it ended."),
        chart(
            charts.percentile_curve(_curves(report)),
            "Latency by percentile, nines evenly spaced. A stall shows as a step that does not go away to the right.",
        ),
        chart(charts.histogram(whole), "How many calls took how long."),
        _heading("Rate and answers"),
        chart(
            charts.rate(recorder, _intended(report)),
            "Checks answered in each second.",
        ),
        chart(charts.troubles(recorder), "Checks not answered, in doubt, or answered wrongly.")
        or _paragraph("Every check was answered, none in doubt, none wrongly."),
        _errors(recorder),
        chart(charts.outcomes(recorder), "Answers that are not ALLOWED, by kind of seller."),
        chart(charts.lag(recorder), "Age of the data behind the answers (data_as_of)."),
        _heading("Processors and memory"),
        *_cost(report),
        _heading("Environment"),
        environment_table(report.environment),
    ]
    return page(f"{report.verdict}", parts)


def _intended(report: Report) -> list[Stretch]:
    plan, sla = report.plan, report.sla
    if sla.loop == "closed" or plan.replay is not None:
        return []
    return stretches(sla.tenants, plan.driven_rate, plan.driven_s, sla.profile)


def _curves(report: Report) -> list[tuple[str, Any]]:
    recorder = report.driven.recorder
    by_calls = sorted(recorder.series.items(), key=lambda each: -each[1].calls)
    curves = [("all calls", recorder.select().histogram)]
    curves += [(f"{tenant} {rpc}", series.histogram) for (tenant, rpc), series in by_calls[:3] if len(by_calls) > 1]
    if report.driven.probe is not None:
        curves.append(("prober", report.driven.probe.select().histogram))
    if report.driven.pace.on_time:
        curves.append(("the tester's own delay", report.driven.pace.delay))
    return curves


def _calls(report: Report) -> str:
    recorder = report.driven.recorder
    rows = [("all", recorder.select()), *((" ".join(key), each) for key, each in sorted(recorder.series.items()))]
    heads = ("calls of", "calls", "checks", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "p99.9 ms", "slowest ms")
    figures = [
        (name, f"{series.calls:,}", f"{series.checks:,}", *(_text(_ms(series, each)) for each in _PERCENTILES))
        for name, series in rows
    ]
    return table(heads, figures)


def _text(milliseconds: float | None) -> str:
    return "–" if milliseconds is None else f"{milliseconds:,.3f}"


def _errors(recorder: Recorder) -> str:
    errors = recorder.select().errors
    return (
        table(("not answered because of", "checks"), [(name, f"{n:,}") for name, n in errors.most_common()])
        if errors
        else ""
    )


def _tester(report: Report) -> list[str]:
    pace, samples = report.driven.pace, report.driven.samples
    parts = [
        "".join(_paragraph(text, "note") for text in report.limits)
        or _paragraph("Nothing points that way: it kept to its schedule and had processor time to spare.")
    ]
    busiest = max((sample.busiest_share for sample in samples), default=0.0)
    rows = [
        ("loader processes", str(pace.processes)),
        ("calls in flight at most", str(pace.slots)),
        ("busiest loader process, busiest second", f"{busiest:.0%} of a core"),
    ]
    if (cost := report.driven.loader_cpu_us) is not None:
        rows.append(("processor time of the tester per check", f"{cost:,.1f} µs"))
    if pace.on_time:
        delay = ", ".join(f"p{each:g} {pace.delay_ms(each):.3f} ms" for each in (50.0, 99.0, 99.9))
        rows.append(("starts late by the tester's own doing", delay))
        rows.append(("calls that found every slot busy", f"{pace.held:,} of {pace.calls:,} ({pace.held_share:.2%})"))
    return [*parts, table(("", ""), rows)]


def _second_opinion(report: Report) -> list[str]:
    probe = report.driven.probe
    if report.driven.probe_failed:
        return [_paragraph(report.driven.probe_failed, "note")]
    if probe is None:
        return [_paragraph("The prober was not asked, or was cut short with the run.")]
    whole = probe.select()
    answers = [
        _paragraph(
            f"The prober asked {whole.checks:,} checks: {whole.errors.total():,} were not answered, {whole.unknown:,} "
            f"answered UNKNOWN where another answer was due, {whole.wrong:,} answered wrongly."
        ),
        _errors(probe),
    ]
    if not report.opinions:
        return [_paragraph("The prober made too few calls to compare latencies."), *answers]
    kept = (
        "The prober (grpc.aio, a process of its own) and locust agree."
        if not report.disagreements
        else "The prober (grpc.aio, a process of its own) and locust disagree: trust neither until you know why."
    )
    rows = [
        (
            f"p{each.percentile:g}",
            _text(each.locust_ms),
            _text(each.probe_ms),
            f"{_text(each.low_ms)} to {_text(each.high_ms)}",
            "agree" if each.agrees else "DISAGREE",
        )
        for each in report.opinions
    ]
    bound = (
        "Agreement: within the 99 % confidence range of the prober's percentile, widened by "
        f"{TOLERANCE:.0%} and {SLACK_MS:g} ms. Compared on the calls that both made most of."
    )
    heads = ("percentile", "locust ms", "prober ms", "would agree ms", "result")
    marked = [not each.agrees for each in report.opinions]
    kind = "note" if report.disagreements else ""
    return [_paragraph(kept, kind), table(heads, rows, marked=marked), _paragraph(bound, "about"), *answers]


def _cost(report: Report) -> list[str]:
    driven = report.driven
    from loadtest import charts

    cost = driven.server_cpu_us
    told = (
        "The target's processes could not be seen from this machine: give --pid, or run the tester beside it."
        if cost is None
        else f"The target used {cost:,.1f} µs of processor time per check, over all checks of the run."
    )
    return [
        _paragraph(told),
        chart(
            charts.processors(driven.samples, driven.recorder, driven.start_at, watched=driven.watched),
            "Processor time, second by second.",
        ),
        chart(charts.memory(driven.samples, driven.start_at), f"Memory of the target's processes. {_grew(driven)}")
        if driven.watched
        else "",
    ]


def _grew(driven: Driven) -> str:
    growth = driven.memory_growth
    if growth is None:
        return "Too short a run to tell whether it grows."
    over_s = driven.recorder.seconds * 2 / 3
    return f"Slope over the last {over_s:,.0f} s (two thirds of the run): {growth:+,.1f} MiB per hour."


# --------------------------------------------------------------------------------------------------------------------
# Of a search
# --------------------------------------------------------------------------------------------------------------------


def write_search(
    folder: Path,
    sla: Sla,
    trials: Sequence[Trial],
    notes: Sequence[str],
    environment: dict[str, str],
) -> Path:
    """Write report.html and report.json of a search for the highest rate; returns the HTML's path. Raises OSError."""
    from loadtest import charts

    found = highest(trials)
    made = {
        "sla": sla.name,
        "rate_sla": sla.rate,
        "highest_rate": found,
        "trials": [trial._asdict() for trial in trials],
        "notes": list(notes),
        "environment": environment,
    }
    (folder / JSON).write_text(json.dumps(made, indent=1, ensure_ascii=False), "utf-8")
    verdict = (
        f"{sla.name} holds up to {found:,.0f} checks/s; the SLA's own rate is {sla.rate:,.0f}"
        if found
        else f"{sla.name} held at none of the rates tried"
    )
    rows = [
        (
            f"{trial.rate:,.0f}",
            f"{trial.asked:,.0f}",
            _text(trial.p50_ms),
            _text(trial.p99_ms),
            "–" if trial.server_cpu_us is None else f"{trial.server_cpu_us:,.1f}",
            ("kept" if trial.held else "BROKEN") + (", tester at its limit" if trial.tester_limited else ""),
        )
        for trial in trials
    ]
    heads = ("checks/s driven", "asked", "p50 ms", "p99 ms", "target µs per check", "SLA")
    parts = [
        f"<h1>Highest rate: {html.escape(sla.name)}</h1>",
        _paragraph(sla.about, "about"),
        verdict_box(verdict, passed=bool(found)),
        *(_paragraph(note, "note") for note in notes),
        chart(charts.knee(trials, found), "Latency against rate: the knee is where the curve turns up."),
        table(heads, rows, marked=[not trial.held for trial in trials]),
        _paragraph("Each trial has its own report in its own folder.", "about"),
        _heading("Environment"),
        environment_table(environment),
    ]
    (folder / HTML).write_text(page(verdict, parts), "utf-8")
    return folder / HTML
