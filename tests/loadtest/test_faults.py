"""Claims about a whole run: the rail SLA holds against centre and edge as `make run` starts them, and whatever is done
to the server breaks the very line that is about it.

The SLA is rail-peak.toml at a low rate, for seconds, with latencies that a busy machine of two cores holds. The server
is let alone for the first measured second, of which the run's own progress tells.
"""

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

import checker.core
from loadtest import sla
from loadtest.cli import main
from loadtest.stand import Stand
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("undrawn")
RATE = 60
PEOPLE = 2_000
ANSWERS, ERRORS, P95 = "answers", "all errors", "rail BatchCheck p95"
LOW = {
    "rate": RATE,
    "seconds": 6,
    "warmup_s": 1,
    "deadline_ms": 5000,
    "p50_ms": 500,
    "p95_ms": 4000,
    "p99_ms": 4000,
    "p999_ms": 4500,
    "unknown_share": 0.02,
    "minimum_rate": 40,
}


class Judged(NamedTuple):
    """What a run came to."""

    code: int
    report: dict[str, object]
    lines: dict[str, tuple[bool, str]]  # whether it passed, and what was measured
    told: str

    @property
    def broken(self) -> list[str]:
        """Names of the lines that failed."""
        return [name for name, (passed, _) in self.lines.items() if not passed]


Run = Callable[..., Judged]


def low_rail(more: str = "", **other: float) -> str:
    """rail-peak.toml with the values of LOW, or others, without its reasons to stop early."""
    text = (sla.READY / "rail-peak.toml").read_text("utf-8").partition("[abort]")[0]
    for key, value in {**LOW, **other}.items():
        text, changed = re.subn(rf"^{key} = \S+", f"{key} = {value}", text, flags=re.MULTILINE)
        assert changed == 1, key
    return text + more


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """`loadtest run` with the low rail SLA; `fault` gets an event that is set when the run is over."""

    def run(
        stand: Stand,
        *options: str,
        more: str = "",
        fault: Callable[[threading.Event], None] | None = None,
        **other: float,
    ) -> Judged:
        file, out = tmp_path / "rail-low.toml", tmp_path / "out"
        file.write_text(low_rail(more, **other), "utf-8")
        asked = ["run", "--sla", str(file), "--target", stand.target.address, "--people", str(stand.people)]
        asked += ["--pid", str(stand.target.pid), "--out", str(out), *options]
        with contextlib.nullcontext() if fault is None else beside(out / "progress.jsonl", fault):
            code = main(asked)
        report = json.loads((out / "report.json").read_text("utf-8"))
        lines = {line["name"]: (line["passed"], line["measured"]) for line in report["lines"]}
        return Judged(code, report, lines, capsys.readouterr().out)

    return run


@contextlib.contextmanager
def beside(progress: Path, fault: Callable[[threading.Event], None]) -> Iterator[None]:
    """Does something in a thread once a second of the run is over, and fails when it did."""
    over, failed = threading.Event(), list[BaseException]()

    def measuring() -> bool:
        told = progress.read_text("utf-8") if progress.exists() else ""
        return over.is_set() or any(json.loads(line)["now_s"] >= 1 for line in told.splitlines())

    def act() -> None:
        try:
            until(measuring, 60, pause=0.05)
            fault(over)
        except BaseException as error:  # noqa: BLE001 - told by the test itself, below
            failed.append(error)

    acting = threading.Thread(target=act)
    acting.start()
    try:
        yield
    finally:
        over.set()
        acting.join()
    assert not failed, failed


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """Centre and an edge of two workers."""
    with Stand(tmp_path_factory.mktemp("stand"), people=PEOPLE, edge=True, edge_workers=2) as started:
        yield started


def test_a_sound_deployment_holds_the_rail_sla_at_the_rate_it_names(stand: Stand, run: Run) -> None:
    """Exit 0, every line PASS, both rates named; memory is seen and judged, and no answer is wrong."""
    growth = "[server]\nmemory_growth_mib_per_hour = 1000000\n"
    judged = run(stand, "--rate", "90", "--seconds", "9", more=growth)

    assert judged.code == 0, judged.told
    assert judged.broken == []
    assert f"PASS: rail-peak at 90 checks/s driven; the SLA's own rate is {RATE} checks/s" in judged.told
    assert re.fullmatch(r"0 wrong of [\d,]+", judged.lines[ANSWERS][1])
    assert re.fullmatch(r"[+-][\d,.]+ MiB/hour", judged.lines["server memory growth"][1])


def test_a_throttled_server_breaks_the_latency_line(stand: Stand, run: Run) -> None:
    """An edge that may run for a sixth of the time answers everybody, rightly and too late: p95 says so."""

    def throttle(over: threading.Event) -> None:
        workers = psutil.Process(stand.target.pid).children()
        while not over.is_set():
            for worker in workers:
                worker.suspend()
            over.wait(1.5)
            for worker in workers:
                worker.resume()
            over.wait(0.3)

    judged = run(stand, "--no-probe", fault=throttle, p95_ms=800)

    assert judged.code == 1
    assert P95 in judged.broken, judged.told
    assert re.search(r"FAIL +rail BatchCheck p95 +≤ 800\.000 ms", judged.told)
    assert judged.lines[ANSWERS][0]
    assert judged.lines[ERRORS][0]


def busiest_worker(stand: Stand) -> psutil.Process:
    """The worker of the edge that holds most of the sellers' connections."""
    port = int(stand.target.address.rpartition(":")[2])

    def connections(worker: psutil.Process) -> int:
        return sum(
            each.laddr.port == port and each.status == psutil.CONN_ESTABLISHED for each in worker.net_connections("tcp")
        )

    return max(psutil.Process(stand.target.pid).children(), key=connections)


def test_a_worker_killed_with_calls_in_flight_breaks_the_errors_line(stand: Stand, run: Run) -> None:
    """kill -9 takes the calls that the worker held, which nobody asks again: errors, by their status. The other worker
    answers those that come after, and a new one takes the place of the dead."""
    killed: list[psutil.Process] = []

    def kill(over: threading.Event) -> None:
        worker = busiest_worker(stand)
        worker.suspend()  # so that calls are in flight, whatever the moment
        over.wait(0.5)
        worker.kill()
        killed.append(worker)

    judged = run(stand, "--no-probe", fault=kill)

    assert judged.code == 1
    assert ERRORS in judged.broken, judged.told
    assert judged.lines[ANSWERS][0]
    measured: dict[str, Any] = judged.report["all"]  # type: ignore[assignment]
    assert set(measured["errors"]) == {"UNAVAILABLE"}
    assert measured["errors"]["UNAVAILABLE"] < measured["checks"] / 2  # of half a second, of six
    until(lambda: len(psutil.Process(stand.target.pid).children()) == 2, 20, pause=0.05)
    assert killed[0] not in psutil.Process(stand.target.pid).children()


def test_a_wrong_rulebook_breaks_the_answers_line_and_no_other(
    run: Run, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One column of the train table says ALLOW in place of BAR, for G trains: every promise of speed is kept, the run
    fails, and says for which line of people.csv and which purchase. The edge has its rulebook from the centre."""
    folder = tmp_path_factory.mktemp("wrong")
    text = (Path(checker.core.__file__).parent / "rulebook.toml").read_text("utf-8")
    wrong, changed = re.subn(r'^G = "BAR \w+"', 'G = "ALLOW C"', text, flags=re.MULTILINE)
    assert changed > 10
    rulebook = folder / "rulebook.toml"
    rulebook.write_text(wrong, "utf-8")
    with Stand(folder, people=PEOPLE, edge=True, rulebook=rulebook) as stand:
        judged = run(stand, "--no-probe", "--rate", "300")

    assert judged.code == 1
    assert judged.broken == [ANSWERS], judged.told
    assert re.search(r"FAIL +answers +none wrong +[1-9]\d* wrong of \d", judged.told)
    told = judged.report["wrong_answers"]
    assert isinstance(told, list)
    assert all(text.endswith("got ALLOWED") for text in told)
    assert any(re.match(r"line \d+ of people.csv, train .*: expected BARRED, got ALLOWED", text) for text in told), told
