"""Claims about the report: one file that opens offline and says the verdict first; machines can read the others."""

import json
import random
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest

from loadtest import sla as slas
from loadtest.drive import Driven, Plan
from loadtest.measured import Recorder, Run
from loadtest.meter import Sample
from loadtest.pace import Pace
from loadtest.ramp import Trial
from loadtest.report import HTML, JSON, JUNIT, RUN, Report, junit, to_html, to_json, write, write_search
from loadtest.run import judge
from loadtest.workload import Item
from tests.loadtest.sellers import an_sla

START = 1_770_000_000.0
SECONDS = 20


def a_recorder(seed: int = 1, *, wrong: int = 0, failed: int = 0, slow: float = 1.0) -> Recorder:
    """Twenty seconds of rail and hotel, with a stall in the eighth."""
    draw = random.Random(seed)
    recorder = Recorder()
    recorder.seconds = SECONDS
    allowed, barred = Item(b"", "ALLOWED"), Item(b"", "BARRED", 7)
    for second in range(SECONDS):
        for _ in range(100):
            latency_us = draw.lognormvariate(7.6, 0.4) * slow + (1.5e6 * draw.random() if second == 8 else 0)
            items = [barred if draw.random() < 0.01 else allowed for _ in range(3)]
            got = [2 if item is barred else 1 for item in items]
            at_s = second + draw.random()
            recorder.answered("rail", "BatchCheck", latency_us, at_s, items, got, 2.0 + second / 10)
            recorder.answered("hotel", "Check", latency_us * 0.8, at_s, [allowed], [1], 2.0)
    for _ in range(wrong):
        recorder.answered("rail", "BatchCheck", 1000.0, 3.0, [barred], [1])
    for _ in range(failed):
        recorder.failed("rail", "BatchCheck", 1e6, 9.5, 3, "DEADLINE_EXCEEDED")
    return recorder


def a_report(
    folder: Path,
    *,
    wrong: int = 0,
    failed: int = 0,
    target: str = "p99_ms = 50",
    probe_slow: float = 1.0,
    probe_wrong: int = 0,
    probe_failed: int = 0,
) -> Report:
    """A judged run of made figures."""
    draw = random.Random(2)
    file = an_sla(folder, tenants='["rail", "hotel"]', rate=400, seconds=SECONDS, target=target)
    pace = Pace(slots=256)
    for _ in range(4_000):
        pace.started(draw.expovariate(5_000))
    samples = [
        Sample(
            at=START + second + 1,
            seconds=1.0,
            server_cpu_s=0.05 + draw.random() / 100,
            server_bytes=100_000_000 + second * 1_000,
            loader_share=0.3,
            busiest_share=0.25 + draw.random() / 20,
            machine_share=0.4,
        )
        for second in range(SECONDS)
    ]
    driven = Driven(
        recorder=a_recorder(wrong=wrong, failed=failed),
        pace=pace,
        samples=samples,
        start_at=START,
        probe=a_recorder(3, slow=probe_slow, wrong=probe_wrong, failed=probe_failed),
        watched=True,
    )
    plan = Plan(sla=slas.read(file), sla_file=file, targets=("127.0.0.1:50051",), people=folder / "people.csv")
    return judge(plan, driven)


class Page(HTMLParser):
    """What a page fetches, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "poster")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report that passed."""
    folder = tmp_path_factory.mktemp("report")
    write(a_report(folder, target="p99_ms = 9999"), folder)
    return folder


def test_the_page_opens_offline(written: Path) -> None:
    """Nothing is fetched, no script runs, and every chart lies in the file."""
    page = Page((written / HTML).read_text("utf-8"))

    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.fetched)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert page.tags.count("img") == 8  # all but troubles, of which there were none
    assert "url(" not in page.text


def test_the_verdict_comes_first_and_names_both_rates(written: Path) -> None:
    """PASS or FAIL, the rate driven and the SLA's own, before any chart."""
    text = (written / HTML).read_text("utf-8")

    assert "PASS: short at 400 checks/s driven; the SLA&#x27;s own rate is 400 checks/s" in text
    assert text.index("PASS: short at") < text.index("<img")


@pytest.mark.usefixtures("undrawn")
def test_what_is_broken_stands_out_by_words(tmp_path: Path) -> None:
    """A broken line says FAIL, a wrong answer its row, a prober that differs DISAGREE: no colour is needed."""
    report = a_report(tmp_path, wrong=1, probe_slow=3.0, target="p99_ms = 1")
    told = " ".join(Page(to_html(report)).text.split())

    assert re.search(r"all p99 ?≤ 1.000 ms ?[\d.,]+ ms ?FAIL", told)
    assert "line 7 of people.csv" in told
    assert "DISAGREE" in told
    assert "disagree: trust neither until you know why" in told


def test_a_wrong_answer_fails_whatever_the_latency(tmp_path: Path) -> None:
    """One wrong answer of 8,000: FAIL."""
    report = a_report(tmp_path, wrong=1, target="p99_ms = 9999")

    assert not report.passed
    assert to_json(report)["verdict"] == "FAIL"
    assert report.verdict.startswith("FAIL")


@pytest.mark.usefixtures("undrawn")
def test_a_wrong_answer_that_only_the_prober_saw_fails_and_is_told_everywhere(tmp_path: Path) -> None:
    """Seven wrong answers and 900 failed checks of the prober: FAIL by its own line, and page, JSON and JUnit tell of
    both."""
    report = a_report(tmp_path, probe_wrong=7, probe_failed=300, target="p99_ms = 9999")
    told, made = " ".join(Page(to_html(report)).text.split()), to_json(report)

    assert [line.name for line in report.lines if not line.passed] == ["prober answers"]
    assert report.lines[1].measured == "7 wrong of 8,007"
    assert "the prober: line 7 of people.csv" in told
    assert "900 were not answered, 0 answered UNKNOWN where another answer was due, 7 answered wrongly" in told
    assert (made["verdict"], made["probe"]["all"]["wrong"]) == ("FAIL", 7)
    assert made["probe"]["all"]["errors"] == {"DEADLINE_EXCEEDED": 900}
    assert any(text.startswith("the prober: line 7") for text in made["wrong_answers"])
    assert b"the prober: line 7 of people.csv" in junit(report)


def test_a_second_opinion_that_differs_is_flagged(tmp_path: Path) -> None:
    """A prober three times as slow is told in JSON and in JUnit's output; one of the same speed is not."""
    differs, same = a_report(tmp_path, probe_slow=3.0), a_report(tmp_path)

    assert not to_json(differs)["probe"]["agrees"]
    assert b"the prober" in junit(differs)
    assert to_json(same)["probe"]["agrees"]
    assert b"the prober" not in junit(same)


def test_junit_has_a_case_for_each_line(tmp_path: Path) -> None:
    """As many cases as lines, the broken ones with what was measured."""
    report = a_report(tmp_path, failed=300, target="error_share = 0.001\np50_ms = 9999")
    suite = Xml.fromstring(junit(report))  # noqa: S314 - our own
    cases = {case.get("name"): case.find("failure") for case in suite.iter("testcase")}

    assert suite.get("tests") == str(len(report.lines)) == str(len(cases))
    assert suite.get("failures") == "1"
    (broken,) = [failure for failure in cases.values() if failure is not None]
    assert "(900 of" in (broken.get("message") or "")


def test_json_holds_the_figures_and_run_json_the_histograms(written: Path) -> None:
    """report.json has percentiles, the tester's own figures and the environment; run.json gives the recorder back."""
    made = json.loads((written / JSON).read_text("utf-8"))
    run = Run.from_json(json.loads((written / RUN).read_text("utf-8")))

    assert made["all"]["ms"]["p50"] == pytest.approx(1.9, rel=0.15)
    assert made["tester"]["slots"] == 256
    assert made["server_cpu_us_per_check"] == pytest.approx(run.server_cpu_us)
    assert len(made["samples"]) == SECONDS
    assert made["environment"]["grpcio"]
    assert (run.recorder.select().percentile_us(99) or 0) / 1000 == made["all"]["ms"]["p99"]
    assert (run.rate_per_s, run.sla_rate_per_s) == (400, 400)
    assert (written / JUNIT).exists()


def test_a_run_that_ended_early_fails(tmp_path: Path) -> None:
    """An aborted run proves nothing, however good its figures."""
    whole = a_report(tmp_path, target="p99_ms = 9999")
    whole.driven.problem = "error_share 60 % over the last 5 s"
    report = judge(whole.plan, whole.driven)

    assert not report.passed
    assert report.lines[-1].name == "run"


@pytest.mark.usefixtures("undrawn")
def test_memory_is_judged_after_the_first_third(tmp_path: Path) -> None:
    """A service that fills up in its first third and is flat from there keeps the promise; one that then goes on does
    not, and the page says its slope."""
    report = a_report(tmp_path)
    sla = slas.parse(
        {
            "name": "flat",
            "workload": {"rate": 400, "seconds": SECONDS},
            "target": [{"p99_ms": 60000}],
            "server": {"memory_growth_mib_per_hour": 60},
        }
    )
    plan = replace(report.plan, sla=sla)

    def judged(size: Callable[[int], int]) -> Report:
        sizes = [replace(each, server_bytes=size(second)) for second, each in enumerate(report.driven.samples)]
        return judge(plan, replace(report.driven, samples=sizes))

    filled = judged(lambda second: 10**8 + min(second, SECONDS // 3) * 2**20)
    growing = judged(lambda second: 10**8 + second * 2**15)

    assert filled.passed
    assert filled.lines[-1].measured == "+0.0 MiB/hour"
    assert [line.name for line in growing.lines if not line.passed] == ["server memory growth"]
    assert growing.lines[-1].measured == "+112.5 MiB/hour"
    assert "Slope over the last 13 s (two thirds of the run): +112.5 MiB per hour." in to_html(growing)
    assert to_json(growing)["server_memory_growth_mib_per_hour"] == pytest.approx(112.5)


def test_processor_time_counts_in_the_measured_time_alone(tmp_path: Path) -> None:
    """Half of a sample that lies half before the start counts: 20 s at 50 ms, 8,000 checks of locust and as many of the
    prober's."""
    driven = a_report(tmp_path).driven
    driven.samples = [Sample(START + second + 0.5, 1.0, 0.05, 1, 0.0, 0.0, 0.0) for second in range(-5, SECONDS + 5)]

    assert driven.server_cpu_us == pytest.approx(SECONDS * 0.05 / 16_000 * 1e6)


@pytest.mark.usefixtures("undrawn")
def test_the_testers_processor_time_is_in_page_and_json(tmp_path: Path) -> None:
    """0.3 s in each of 20 s, for 8,000 checks of locust and as many of the prober's: 375 µs each."""
    report = a_report(tmp_path)

    assert "<td>processor time of the tester per check</td><td>375.0 µs</td>" in to_html(report)
    assert to_json(report)["tester"]["cpu_us_per_check"] == pytest.approx(375)


def chromium() -> str:
    """The browser; installed where that is possible."""
    if not (found := shutil.which("chromium") or shutil.which("chromium-browser")):
        for command in (["apt-get", "update"], ["apt-get", "install", "-y", "chromium"]):
            subprocess.run(command, capture_output=True, timeout=300, check=False)
        found = shutil.which("chromium")
    assert found, "the report is looked at in Chromium: install it with `apt-get install chromium` as root"
    return found


def test_chromium_shows_the_pages(tmp_path: Path) -> None:
    """Headless Chromium, without a network, draws report and search; each picture is far from empty."""
    write(a_report(tmp_path, failed=50), tmp_path)
    folder = tmp_path / "ramp"
    folder.mkdir()
    trials = [Trial(rate, rate < 900, False, rate, 1.0, 2.0 + rate / 100, 80.0) for rate in (400, 800, 1600, 1200)]
    write_search(folder, slas.read(tmp_path / "sla.toml"), trials, ["a note"], {"cores": "2"})
    for name, page in (("report", tmp_path / HTML), ("ramp", folder / HTML)):
        picture = tmp_path / f"{name}.png"
        command = [chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1050,5200"]
        command += [f"--user-data-dir={tmp_path}/profile", f"--screenshot={picture}", page.as_uri()]
        subprocess.run(command, capture_output=True, timeout=60, check=False)

        assert picture.exists(), f"Chromium drew no {name}"
        assert picture.stat().st_size > 60_000
