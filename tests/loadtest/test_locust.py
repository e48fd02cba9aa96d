"""Claims about the locustfile: it is one that any locust user can run, and its processes' figures come together."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from loadtest.make_feed import PEOPLE, SHANGHAI, make_feed
from loadtest.measured import Recorder
from loadtest.pace import Pace
from loadtest.stand import Stand, stop
from loadtest.workload import BY_NAME, CHECK, People, orders
from tests.loadtest.sellers import FromFile, an_sla, lasted, served
from tests.ports import free_port
from tests.waiting import until

LOCUSTFILE = Path(__file__).parents[2] / "loadtest" / "locustfile.py"
Json = dict[str, Any]


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two thousand people."""
    folder = tmp_path_factory.mktemp("feed")
    make_feed(folder, 2_000, 1, datetime.now(SHANGHAI), court="test")
    return folder / PEOPLE


@pytest.fixture
def service(people: Path) -> Iterator[tuple[str, FromFile]]:
    """A service that knows the right answers; in 10 ms, so that a closed loop leaves something to other processes."""
    with served(people) as (address, servicer):
        servicer.slow_s = 0.01
        yield address, servicer


def command(address: str, people: Path, *more: str, file: Path = LOCUSTFILE) -> list[str]:
    """Locust on our locustfile; with a deadline that a busy machine keeps."""
    said = ["-f", str(file), "--host", address, "--people", str(people), "--deadline-ms", "30000", *more]
    return [sys.executable, "-m", "locust", *said]


def changed(folder: Path, change: str) -> Path:
    """Our locustfile after some lines that change its modules."""
    file = folder / "locustfile.py"
    file.write_text(f"from loadtest import collect, grpc_user\n{change}\nfrom loadtest.locustfile import *\n", "utf-8")
    return file


def headless(
    address: str, people: Path, folder: Path, *more: str, file: Path = LOCUSTFILE
) -> tuple[Recorder, Pace, Json]:
    """Run to the end; what was measured."""
    out = folder / "measured.json"
    options = ["--headless", "--only-summary", "--measured", str(out), "--loglevel", "WARNING"]
    done = subprocess.run(
        command(address, people, *options, *more, file=file), capture_output=True, text=True, timeout=120, check=False
    )
    assert out.exists(), done.stderr
    made = json.loads(out.read_text())
    return Recorder.from_json(made["recorder"]), Pace.from_json(made["pace"]), made


def test_closed_loop_users_make_the_call_they_are_named_for(tmp_path: Path) -> None:
    """Unary, Batch and Stream users ask a checker by their own call, and every answer is the one that is right."""
    users = ["--users", "3", "--spawn-rate", "3", "--seconds", "1.5", "Unary", "Batch", "Stream"]
    with Stand(tmp_path, people=2_000, memory=True) as stand:
        recorder, pace, made = headless(stand.target.address, stand.people, tmp_path, *users)
    whole = recorder.select()

    assert {rpc for _, rpc in recorder.series} == {"Check", "BatchCheck", "StreamCheck"}
    assert whole.wrong == 0, recorder.told
    assert whole.checks == whole.answered > 20
    assert 20 < (whole.percentile_us(50) or 0) < 30e6
    assert lasted(recorder, 1.5)
    assert (made["problem"], pace.calls) == ("", 0)


def test_the_figures_of_worker_processes_come_together(
    service: tuple[str, FromFile], people: Path, tmp_path: Path
) -> None:
    """In an open loop of two processes each makes half the rate, and no call that the service saw is missing."""
    address, servicer = service
    port = str(free_port())
    more = ["--rate", "200", "--seconds", "2", "--users", "16", "--spawn-rate", "16", "--processes", "2"]
    more += ["--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port]
    recorder, pace, _ = headless(address, people, tmp_path, *more)
    whole = recorder.select()

    assert (pace.processes, pace.slots) == (2, 16)
    assert servicer.calls == whole.calls == sum(second.calls for second in recorder.by_second.values())
    assert 250 < whole.checks < 550  # a Poisson process with orders of up to 9
    assert lasted(recorder, 2.0)
    assert pace.calls == whole.calls


MEASURED = """
import json
from types import SimpleNamespace
from loadtest.grpc_user import Load
from loadtest.measured import Recorder

def measured(now_s, seconds, *by_second, ended=True, replay=None):
    recorder = Recorder()
    recorder.by_second = dict.fromkeys(by_second)
    load = SimpleNamespace(now_s=now_s, seconds=seconds, ended=ended, replay=replay, recorder=recorder)
    return Load.measured_s.fget(load)

print(json.dumps([
    measured(9.5, 2.0, 0, 1),
    measured(9.5, 2.0, 0, 1, 2),
    measured(9.5, 2.0, 0, 1, 4),
    measured(9.5, 2.0, 0, 1, 2, replay="a trace"),
    measured(1.5, 2.0, 0, 1, ended=False),
    measured(9.5, 2.0, 0, 1, ended=False),
    measured(-0.5, 2.0, ended=False),
]))
"""


def test_how_long_it_was_measured() -> None:
    """As long as planned, or to the end of the last call's second where that is more than one second later; of a trace
    to that end; of a run cut short to the present, within the time planned."""
    done = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, timeout=60, check=True)

    assert json.loads(done.stdout) == [2.0, 2.0, 5.0, 3.0, 1.5, 2.0, 0.0]


def test_a_process_that_does_not_hand_over_is_told(service: tuple[str, FromFile], people: Path, tmp_path: Path) -> None:
    """Of two processes one has nothing to hand over: the other's figures are written, as part of the calls."""
    port = str(free_port())
    more = ["--rate", "100", "--seconds", "1", "--users", "8", "--spawn-rate", "8", "--processes", "2"]
    more += ["--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port]
    dumb = """
collect._FINALS_S = 10.0
everything = collect._Asking.everything
def one_of_two(self):
    assert "process 0 of" not in grpc_user.GrpcUser.load._seed
    return everything(self)
collect._Asking.everything = one_of_two
"""
    recorder, _, made = headless(service[0], people, tmp_path, *more, file=changed(tmp_path, dumb))

    assert made["problem"] == "1 of 2 loader processes did not hand over what they measured"
    assert 0 < recorder.select().calls < service[1].calls


def ask(url: str, form: Json | None = None) -> Json:
    """The web UI's own interface."""
    data = urlencode(form).encode() if form is not None else None
    with urllib.request.urlopen(url, data=data, timeout=30) as answer:  # noqa: S310 - http, to loopback
        return dict(json.loads(answer.read()))


def serves(url: str) -> bool:
    """Whether the web UI is up."""
    try:
        ask(f"{url}/stats/requests")
    except OSError:
        return False
    return True


def test_the_web_ui_starts_shows_and_stops_a_test(service: tuple[str, FromFile], people: Path, tmp_path: Path) -> None:
    """As any locust user expects; and it shows fractions of a millisecond, which locust alone rounds away."""
    url = f"http://127.0.0.1:{free_port()}"
    options = ["--web-host", "127.0.0.1", "--web-port", url.rpartition(":")[2], "--loglevel", "WARNING"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command(service[0], people, *options, "Unary"),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            until(lambda: serves(url) or process.poll() is not None, 60, pause=0.1)
            assert ask(f"{url}/swarm", {"user_count": 4, "spawn_rate": 4, "host": service[0]})["success"]

            def shows_all() -> bool:
                running = ask(f"{url}/stats/requests")
                medians = [each["median_response_time"] for each in running["stats"]]
                return (
                    (running["state"], running["user_count"]) == ("running", 4)
                    and {each["method"] for each in running["stats"]} == {"Check", ""}
                    and any(median != int(median) for median in medians)
                )

            until(shows_all, 60, pause=0.1)
            assert ask(f"{url}/stop", {})["success"]
            until(lambda: ask(f"{url}/stats/requests")["state"] == "stopped", 60, pause=0.1)
        finally:
            stop(process)


def test_host_and_rate_of_the_form_make_an_open_loop_of_its_length(
    service: tuple[str, FromFile], people: Path, tmp_path: Path
) -> None:
    """Started without a host, locust serves its form; a test without one says what is missing, and one with a host, a
    rate and a length makes the very calls of that open loop and ends by itself."""
    url = f"http://127.0.0.1:{free_port()}"
    log = tmp_path / "log"
    options = ["--web-host", "127.0.0.1", "--web-port", url.rpartition(":")[2], "--loglevel", "WARNING"]
    form = {"user_count": 4, "spawn_rate": 4}
    made = orders(People.read(people), rate_per_s=60, seconds=2, seed="1, process 0 of 1, run")
    calls = sum(len(order.items) if order.rpc == CHECK else 1 for order in made)
    with log.open("wb") as out:
        process = subprocess.Popen(
            command("", people, *options), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
        try:
            until(lambda: serves(url) or process.poll() is not None, 60, pause=0.1)
            assert ask(f"{url}/swarm", form)["success"]
            until(lambda: "--host ADDR[,ADDR]: is missing" in log.read_text(), 60, pause=0.1)
            until(lambda: ask(f"{url}/stats/requests")["state"] == "stopped", 60, pause=0.1)
            assert ask(f"{url}/swarm", form | {"host": service[0], "rate": "60", "seconds": "2"})["success"]
            until(lambda: service[1].calls >= calls, 60)  # locust tells its state with a delay of 2 s
            until(lambda: ask(f"{url}/stats/requests")["state"] == "stopped", 60, pause=0.1)
        finally:
            stop(process)

    assert service[1].calls == calls


def test_an_sla_makes_an_open_loop_at_its_rate(service: tuple[str, FromFile], people: Path, tmp_path: Path) -> None:
    """Its tenants, rate, profile and length, without --rate; users that are named make a closed loop of it."""
    sla = an_sla(tmp_path, rate=60, seconds=2, profile="step")
    more = ["--sla", str(sla), "--warmup", "0", "--users", "4", "--spawn-rate", "4"]
    recorder, pace, _ = headless(service[0], people, tmp_path, *more)
    made = orders(
        *(People.read(people), [BY_NAME["rail"]]),
        rate_per_s=60,
        seconds=2,
        seed="1, process 0 of 1, run",
        profile="step",
    )
    calls = len(list(made))

    assert pace.calls == recorder.select().calls == calls
    assert headless(service[0], people, tmp_path, *more, "Batch")[1].calls == 0


def test_a_wrong_answer_is_a_failure_in_locusts_tables(
    service: tuple[str, FromFile], people: Path, tmp_path: Path
) -> None:
    """A service that allows everybody is found out: counted, described by row, and locust exits 1."""
    address, servicer = service
    servicer.wrong = True
    more = ["--users", "8", "--spawn-rate", "8", "--seconds", "1.5", "--batch", "100", "Batch"]
    recorder, _, _ = headless(address, people, tmp_path, *more)

    assert recorder.select().wrong > 0
    assert any("expected BARRED, got ALLOWED" in text and "line " in text for text in recorder.told)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--people", "/nowhere.csv"], "--people /nowhere.csv: No such file or directory; name the feed's people.csv"),
        (["--people", ""], "--people run/demo/feed/people.csv: No such file or directory; name one, or use `make run`"),
        (["--host", ""], "--host ADDR[,ADDR]: is missing; name whom to ask"),
        (["--sla", "/nowhere.toml"], "--sla /nowhere.toml: No such file or directory; name an SLA file"),
    ],
)
def test_what_is_missing_is_said_in_one_line(people: Path, tmp_path: Path, options: list[str], said: str) -> None:
    """No traceback: the option and the remedy."""
    asked = command("127.0.0.1:1", people, "--headless", *options)
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_interrupting_a_run_still_hands_over_what_was_measured(
    service: tuple[str, FromFile], people: Path, tmp_path: Path
) -> None:
    """Ctrl-C ends the run; the figures so far are written, with a word about why they are few."""
    out, told = tmp_path / "measured.json", tmp_path / "told.jsonl"
    options = ["--headless", "--only-summary", "--measured", str(out), "--progress", str(told), "--rate", "100"]
    process = subprocess.Popen(
        command(service[0], people, *options, "--users", "8", "--spawn-rate", "8"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until(lambda: told.exists() and len(told.read_text().splitlines()) >= 3, 60, pause=0.05)
        began = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        process.wait(20)
    finally:
        stop(process)
    made = json.loads(out.read_text())
    recorder = Recorder.from_json(made["recorder"])

    assert made["problem"] == "stopped from outside"
    assert recorder.select().calls > 20
    assert 1 < recorder.seconds < 20
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("users", [["--rate", "60"], ["Unary"]])
def test_a_test_without_an_end_goes_on_and_checks_answers_to_the_last(
    service: tuple[str, FromFile], people: Path, tmp_path: Path, users: list[str]
) -> None:
    """Neither --seconds nor --sla: after its first round, here of half a second, an open loop has orders and a closed
    one is still recorded."""
    out, told = tmp_path / "measured.json", tmp_path / "told.jsonl"
    options = ["--headless", "--only-summary", "--measured", str(out), "--progress", str(told)]
    options += ["--users", "4", "--spawn-rate", "4", *users]
    file = changed(tmp_path, "grpc_user.ROUND_S = 0.5")
    process = subprocess.Popen(
        command(service[0], people, *options, file=file),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def now_s() -> float:
        lines = told.read_text().splitlines() if told.exists() else []
        return float(json.loads(lines[-1])["now_s"]) if lines else 0.0

    try:
        until(lambda: now_s() >= 3 or process.poll() is not None, 60, pause=0.05)
        os.kill(process.pid, signal.SIGINT)
        process.wait(20)
    finally:
        stop(process)
    recorder = Recorder.from_json(json.loads(out.read_text())["recorder"])

    assert any(second.answered for number, second in recorder.by_second.items() if number >= 1)
    assert max(recorder.by_second) >= 2
