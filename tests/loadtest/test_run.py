"""Claims about `loadtest run` and `ramp`: the exit code is the judgement, and what is wrong is said in a line."""

import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import grpc
import pytest

from loadtest.cli import main
from loadtest.make_feed import DEMO_PEOPLE, PEOPLE, SHANGHAI, make_feed
from loadtest.measured import Recorder
from loadtest.stand import Stand
from loadtest.trace import write
from loadtest.workload import BY_NAME, CHECK, People, orders
from tests.loadtest.sellers import an_sla, lasted, served
from tests.rpc.certificates import Authority

GENEROUS = "p99_ms = 4000\nerror_share = 0.0"


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two thousand people."""
    folder = tmp_path_factory.mktemp("feed")
    make_feed(folder, 2_000, 1, datetime.now(SHANGHAI), court="test")
    return folder / PEOPLE


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """A checker with two thousand people."""
    with Stand(tmp_path_factory.mktemp("stand"), people=2_000, memory=True) as started:
        yield started


def run(sla: Path, target: str, people: Path, out: Path, *more: str) -> int:
    """`loadtest run` in this process; locust and the prober are processes of their own."""
    asked = ["run", "--sla", str(sla), "--target", target, "--people", str(people), "--out", str(out)]
    return main([*asked, *more])


def milliseconds(told: str) -> float:
    """A number as the report writes it."""
    return float(told.replace(",", ""))


def calls_of(people: Path, tenant: str, *, rate: float, seconds: float, part: str = "run") -> int:
    """How many calls the one process of a test makes for these orders."""
    made = orders(
        People.read(people), [BY_NAME[tenant]], rate_per_s=rate, seconds=seconds, seed=f"1, process 0 of 1, {part}"
    )
    return sum(len(order.items) if order.rpc == CHECK else 1 for order in made)


def test_a_deployment_that_holds_passes(stand: Stand, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0, a PASS per line, both rates named, all files written, and the prober was heard."""
    code = run(an_sla(tmp_path, target=GENEROUS), stand.target.address, stand.people, tmp_path / "o", "--rate", "90")
    told = capsys.readouterr().out
    made = json.loads((tmp_path / "o" / "report.json").read_text("utf-8"))

    assert code == 0, told
    assert "the SLA's rate is 60 checks/s, driven are 90" in told
    assert "PASS: short at 90 checks/s driven; the SLA's own rate is 60 checks/s" in told
    assert re.search(r"PASS +answers +none wrong +0 wrong of \d+", told)
    assert {path.name for path in (tmp_path / "o").iterdir()} >= {"report.html", "report.json", "junit.xml", "run.json"}
    assert made["server_cpu_us_per_check"] > 1
    assert (tmp_path / "o" / "probe.json").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_promise_that_is_not_kept_fails_by_name(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A target that takes 100 ms breaks the percentile it cannot keep, and no other line."""
    with served(people) as (address, servicer):
        servicer.slow_s = 0.1
        sla = an_sla(tmp_path, tenants='["hotel"]', rate=20, seconds=2, target="p50_ms = 50\np99_ms = 60000")
        code = run(sla, address, people, tmp_path / "o", "--no-probe")
    told = capsys.readouterr().out
    broken = re.search(r"FAIL +all p50 +≤ 50.000 ms +([\d,.]+) ms", told)

    assert code == 1
    assert broken, told
    assert milliseconds(broken[1]) >= 100
    assert re.search(r"PASS +all p99", told)
    assert told.count("FAIL  ") == 1


@pytest.mark.usefixtures("undrawn")
def test_a_wrong_answer_fails_the_run(people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A target that allows everybody keeps every latency and fails; the answer is told without a document."""
    with served(people) as (address, servicer):
        servicer.wrong = True
        sla = an_sla(tmp_path, rate=800, seconds=2, target="p99_ms = 60000")
        code = run(sla, address, people, tmp_path / "o", "--no-probe")
    told = capsys.readouterr().out

    assert code == 1
    assert re.search(r"FAIL +answers +none wrong +[1-9]", told)
    assert re.search(r"wrong: line \d+ of people.csv, train .*: expected BARRED, got ALLOWED", told)
    assert not re.search(r"\d{17}[\dX]", told)


@pytest.mark.usefixtures("undrawn")
def test_a_wrong_answer_in_the_warm_up_fails_the_run(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A target that allows everybody in the first half of the warm-up, and refuses all calls after it: what was wrong
    was so in the warm-up, and is told."""
    with served(people) as (address, servicer):
        servicer.wrong = True
        servicer.refuses = range(calls_of(people, "rail", rate=800, seconds=2, part="warm-up") // 2, 1_000_000)
        sla = an_sla(tmp_path, rate=800, seconds=1, target="p99_ms = 60000")
        run(sla, address, people, tmp_path / "o", "--warmup", "2", "--no-probe")
    told = capsys.readouterr().out
    measured = json.loads((tmp_path / "o" / "report.json").read_text("utf-8"))["all"]

    assert measured["answers"] == {}
    assert measured["wrong"] > 0
    assert re.search(r"wrong: line \d+ of people.csv, train .*: expected BARRED, got ALLOWED", told)


@pytest.mark.usefixtures("undrawn")
def test_a_closed_loop_of_processes_ends_by_itself(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two processes of two users each ask for a second, have all their answers, and end."""
    with served(people) as (address, servicer):
        sla = an_sla(tmp_path, loop="closed", seconds=1, deadline_ms=30_000)
        more = ["--in-flight", "4", "--processes", "2", "--warmup", "0", "--no-probe"]
        run(sla, address, people, tmp_path / "o", *more)
        measured = json.loads((tmp_path / "o" / "report.json").read_text("utf-8"))
        told = capsys.readouterr().out

        assert f"1 s against {address}; closed loop of 4 users" in told
        assert re.search(r"PASS +all errors +≤ 0 % +0 % \(0 of [1-9]", told), told
        assert 0 < measured["all"]["calls"] <= servicer.calls  # which sees those before the start too
    recorder = Recorder.from_json(json.loads((tmp_path / "o" / "measured.json").read_text("utf-8"))["recorder"])
    assert lasted(recorder, 1.0)
    assert (measured["seconds"], measured["ended_early"]) == (recorder.seconds, "")


@pytest.mark.usefixtures("undrawn")
def test_a_closed_loop_hides_no_stall_to_the_end(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A target that stops to answer within a run holds every user in a call that began in time: each is waited for and
    counted with its time and as unanswered, so latency and errors fail."""
    with served(people) as (address, servicer):
        servicer.hangs = range(20, 1_000_000)
        servicer.slow_s = 0.05  # so that they hang to after the end, and are a hundredth of all and more
        target = "p99_ms = 1000\nerror_share = 0.0"
        sla = an_sla(tmp_path, loop="closed", tenants='["hotel"]', seconds=2, deadline_ms=3000, target=target)
        code = run(sla, address, people, tmp_path / "o", "--in-flight", "4", "--warmup", "0", "--no-probe")
    told = capsys.readouterr().out
    measured = json.loads((tmp_path / "o" / "report.json").read_text("utf-8"))["all"]
    broken = re.search(r"FAIL +all p99 +≤ 1,000.000 ms +([\d,.]+) ms", told)

    assert code == 1, told
    assert broken, told
    assert milliseconds(broken[1]) >= 2000
    assert re.search(r"FAIL +all errors", told)
    assert measured["errors"] == {"DEADLINE_EXCEEDED": 4}


def test_a_target_that_cannot_be_reached_is_exit_3(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not a failed SLA: nothing was tried."""
    code = run(an_sla(tmp_path), "127.0.0.1:1", people, tmp_path / "o")

    assert code == 3
    assert capsys.readouterr().err == (
        "loadtest run: 127.0.0.1:1 cannot be reached: is it serving, and is this its address?\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--sla", "nowhere.toml", "--stand"],
            "--sla nowhere.toml: No such file or directory; name a TOML file or one of",
        ),
        (["--sla", "rail-peak"], "--target and --people belong together"),
        (["--sla", "rail-peak", "--target", "127.0.0.1:1"], "--target and --people belong together"),
        (["--sla", "rail-peak", "--stand", "--target", "127.0.0.1:1"], "give --target and --people, or --stand alone"),
        (["--sla", "rail-peak", "--stand", "--rate", "-1"], "--rate must be above 0"),
        (["--sla", "rail-peak", "--stand", "--processes", "0"], "--processes must be 1 or more"),
        (["--sla", "rail-peak", "--target", "127.0.0.1:1", "--people", "/nowhere"], "--people /nowhere: is no file"),
    ],
)
def test_wrong_input_is_exit_2(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line per problem, with the option. Here no demo has left its people."""
    monkeypatch.chdir(tmp_path)
    assert main(["run", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("undrawn")
def test_the_people_of_the_demo_are_the_default(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where `make run` has left its feed, --sla and --target are enough, as in the help of `compare`."""
    monkeypatch.chdir(tmp_path)
    DEMO_PEOPLE.parent.mkdir(parents=True)
    DEMO_PEOPLE.write_bytes(people.read_bytes())
    with served(people) as (address, servicer):
        main(["run", "--sla", str(an_sla(tmp_path, seconds=1)), "--target", address, "--no-probe"])

        assert servicer.calls > 10
    assert f"1 s against {address}" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["run", "ramp"])
@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--rate", "nan", "--rate must be above 0, at most 10,000,000"),
        ("--rate", "inf", "--rate must be above 0, at most 10,000,000"),
        ("--seconds", "inf", "--seconds must be above 0, at most 1,000,000"),
        ("--seconds", "nan", "--seconds must be above 0"),
        ("--warmup", "-5", "--warmup must be 0 to 3,600 seconds"),
        ("--warmup", "nan", "--warmup must be 0 to 3,600 seconds"),
        ("--target", ",", "--target ,: names nobody; give HOST:PORT or unix:PATH"),
        ("--pid", "999999999", "--pid 999999999: is no process of this machine"),
        ("--people", "FILE", "FILE: is not of this version: make it again with `loadtest make-feed`"),
        ("--people", "NOBODY", "NOBODY: bars nobody from what tenant rail sells: make it with more --people"),
        ("--cert", "me.pem", "--cert and --key belong together: give both or neither"),
        ("--server-name", "a", "--cert and --server-name need TLS: give --ca"),
        ("--ca", "/nowhere.pem", "--ca /nowhere.pem: No such file or directory; name a PEM file"),
        ("--out", "FILE", "FILE is a file; name a folder"),
        ("--out", "FILE/below", "FILE/below is a file; name a folder"),
    ],
)
def test_no_wrong_input_reads_as_a_failed_sla(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, option: str, value: str, said: str
) -> None:
    """Exit 2 and one line, before anything is driven and before the target is asked, which is not there."""
    (tmp_path / "FILE").write_text("a,b\n1,2\n")
    lines = people.read_text("utf-8").splitlines(keepends=True)
    (tmp_path / "NOBODY").write_text(
        "".join([lines[0], *(line for line in lines[1:] if "BARRED" not in line)]), "utf-8"
    )
    here = {"--people": str(people), "--target": "127.0.0.1:1", "--out": str(tmp_path / "o")}
    here[option] = str(tmp_path / value) if option in ("--people", "--out") else value

    assert main([verb, "--sla", str(an_sla(tmp_path)), *(word for pair in here.items() for word in pair)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.usefixtures("undrawn")
def test_a_target_behind_mutual_tls_is_driven(people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Locust's processes, the prober and the first knock all show their certificate; without one, or with an authority
    that did not sign the server's, nobody is reached (exit 3)."""
    ours, others = Authority(tmp_path), Authority(tmp_path, "others")
    server, client = ours.issue("server", server=True), ours.issue("seller", uri="urn:seller")
    pair = (server.key.read_bytes(), server.cert.read_bytes())
    credentials = grpc.ssl_server_credentials([pair], ours.cert.read_bytes(), require_client_auth=True)
    mutual = ["--cert", str(client.cert), "--key", str(client.key)]
    sla = an_sla(tmp_path, rate=200, seconds=2, target=GENEROUS)
    with served(people, credentials=credentials) as (address, servicer):
        for options in ([], ["--ca", str(ours.cert)], ["--ca", str(others.cert), *mutual]):
            assert run(sla, address, people, tmp_path / "o", *options) == 3
            assert f"{address} cannot be reached" in capsys.readouterr().err
        assert servicer.calls == 0
        run(sla, address, people, tmp_path / "o", "--ca", str(ours.cert), *mutual, "--processes", "2")
    made = json.loads((tmp_path / "o" / "report.json").read_text("utf-8"))

    assert made["all"]["calls"] > 50
    assert made["probe"]["all"]["calls"] > 2
    assert made["all"]["errors"] == made["probe"]["all"]["errors"] == {}


@pytest.mark.usefixtures("undrawn")
def test_several_targets_are_asked_in_turn(people: Path, tmp_path: Path) -> None:
    """Of two targets each gets about half of locust's and of the prober's calls, and none is missing."""
    sla = an_sla(tmp_path, rate=300, seconds=2)
    with served(people) as (first, one), served(people) as (second, other):
        run(sla, f"{first},{second}", people, tmp_path / "o", "--warmup", "0")
        calls = sorted((one.calls, other.calls))
    made = json.loads((tmp_path / "o" / "report.json").read_text("utf-8"))

    assert sum(calls) == made["all"]["calls"] + made["probe"]["all"]["calls"]
    assert 0.4 * sum(calls) < calls[0]
    assert made["target"] == [first, second]


def test_each_of_several_targets_must_be_reached(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second one that is not there is exit 3, by its name, and the first is not driven."""
    with served(people) as (address, servicer):
        assert run(an_sla(tmp_path), f"{address},127.0.0.1:1", people, tmp_path / "o") == 3
        assert servicer.calls == 0
    assert "127.0.0.1:1 cannot be reached" in capsys.readouterr().err


@pytest.mark.usefixtures("undrawn")
def test_a_trace_is_driven_as_it_stands(people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every order of the trace and no other, by two processes; the rate told is the trace's own."""
    sla = an_sla(tmp_path, rate=9, target="p99_ms = 60000")
    made = orders(People.read(people), [BY_NAME["rail"]], rate_per_s=150, seconds=2, seed=5)
    kept = list(made)
    write(tmp_path / "rail.trace", kept)
    with served(people) as (address, servicer):
        out = tmp_path / "o"
        run(sla, address, people, out, "--replay", str(tmp_path / "rail.trace"), "--processes", "2", "--no-probe")
        measured = json.loads((out / "report.json").read_text("utf-8"))["all"]

        assert servicer.calls == measured["calls"] == len(kept)
        assert measured["checks"] == sum(len(order.items) for order in kept)
    assert f"driven are {measured['checks'] / 2:,.0f}" in capsys.readouterr().out


def test_a_file_that_is_no_trace_is_exit_2(people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Refused before anything is driven."""
    bad = tmp_path / "bad.trace"
    bad.write_bytes(b"nothing")

    assert run(an_sla(tmp_path), "127.0.0.1:1", people, tmp_path / "o", "--replay", str(bad)) == 2
    assert "is not a trace of loadtest" in capsys.readouterr().err


def test_every_problem_of_an_sla_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two mistakes, two lines, exit 2."""
    sla = an_sla(tmp_path, tenants='["nobody"]', target="p99_ms = -1")
    code = main(["run", "--sla", str(sla), "--stand"])
    lines = capsys.readouterr().err.splitlines()

    assert code == 2
    assert any("workload.tenants[0]" in line for line in lines)
    assert any("target[0].p99_ms" in line for line in lines)


def test_a_ramp_finds_where_it_breaks(people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A target that refuses half the calls at 160 checks/s, and none after them, breaks there and holds at 80."""
    first = calls_of(people, "hotel", rate=160, seconds=2)
    with served(people) as (address, servicer):
        servicer.refuses = range(first // 2, first)
        sla = an_sla(tmp_path, tenants='["hotel"]', rate=160, deadline_ms=30_000)
        asked = ["ramp", "--sla", str(sla), "--target", address, "--people", str(people), "--out", str(tmp_path / "o")]
        code = main([*asked, "--seconds", "2", "--warmup", "0", "--trials", "2", "--no-probe"])
        assert servicer.calls > first
    told = capsys.readouterr().out
    made = json.loads((tmp_path / "o" / "report.json").read_text("utf-8"))

    assert code == 0, told
    assert [(trial["rate"], trial["held"]) for trial in made["trials"]] == [(160, False), (80, True)]
    assert made["highest_rate"] == 80
    assert "FAIL (all errors)" in told
    assert (tmp_path / "o" / "report.html").exists()
    assert len(list((tmp_path / "o").glob("trial-*/report.html"))) == 2
