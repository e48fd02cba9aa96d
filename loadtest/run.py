"""`loadtest run` and `loadtest ramp`: drive, judge, report.

A ramp starts at the SLA's own rate (or --rate); `loadtest.ramp` says which rates follow. Bounded in trials and seconds.
"""

import argparse
import contextlib
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from loadtest import report as reports
from loadtest import sla as slas
from loadtest import trace
from loadtest.ask import BadPeople
from loadtest.channels import BadTls, Tls, add_options
from loadtest.drive import IN_FLIGHT, DriveFailed, Driven, Plan, Unreachable, drive
from loadtest.make_feed import DEMO_PEOPLE
from loadtest.meter import environment
from loadtest.pace import limits
from loadtest.probe import compare
from loadtest.ramp import Trial, highest, search
from loadtest.report import Report
from loadtest.sla import MOST_RATE, MOST_SECONDS, MOST_WARMUP_S, Line, Sla
from loadtest.stand import Stand, StandFailed
from loadtest.workload import People, orders

PASSED, BROKEN, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130
_TRIAL_S = 20.0
_TRIALS = 10

_RUN = """\
Drive the workload of an SLA file, judge every line of it, and write the evidence.

Written into --out: report.html (one file, opens offline), report.json, junit.xml, run.json (for `loadtest compare`),
and what locust and the prober said. The target must have imported the feed that --people belongs to, since every
answer is checked.
"""
_RUN_EXAMPLES = """\
exit codes: 0 every line holds, 1 one does not, 2 wrong input, 3 a target cannot be reached

examples:
  loadtest run --sla rail-peak --target 127.0.0.1:50061 --rate 100        the edge of `make run`, and its people
  loadtest run --sla rail-peak --target 127.0.0.1:50051 --people feed/people.csv --rate 500
  loadtest run --sla my.toml --target a.example:443,b.example:443 --ca ca.pem --cert me.pem --key me.key \\
    --people people.csv --processes 4 --out evidence
  loadtest run --sla hotel-desk --stand        its own feed, centre and edge, on loopback
"""
_RAMP = """\
Find the highest rate at which an SLA still holds, by bisection, and plot the knee.

Every trial is a run of --seconds at one rate; its own report lies in --out. Bounded by --trials.
"""


class InputError(Exception):
    """Wrong input; the text is the one line to print."""


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register both verbs."""
    run = verbs.add_parser(
        "run",
        help="drive an SLA's workload, judge it, write the report",
        description=_RUN,
        epilog=_RUN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _arguments(run)
    run.add_argument("--rate", type=float, metavar="R", help="checks per second to drive (default: the SLA's)")
    run.add_argument("--replay", type=Path, metavar="FILE", help="drive the orders of a trace, at its own times")
    run.set_defaults(run=guarded(_run))
    ramp = verbs.add_parser(
        "ramp",
        help="find the highest rate at which an SLA holds",
        description=_RAMP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _arguments(ramp)
    ramp.add_argument("--rate", type=float, metavar="R", help="checks per second of the first trial (the SLA's)")
    ramp.add_argument("--trials", type=int, default=_TRIALS, metavar="N", help=f"at most (default {_TRIALS})")
    ramp.set_defaults(run=guarded(_ramp))


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sla", required=True, metavar="FILE", help="SLA file, or the name of one that comes with it")
    parser.add_argument("--target", metavar="ADDR[,ADDR]", help="whom to ask: HOST:PORT or unix:PATH")
    parser.add_argument(
        "--people",
        type=Path,
        metavar="FILE",
        help=f"people.csv of the feed the target has imported (default {DEMO_PEOPLE}, of `make run`, where it is)",
    )
    parser.add_argument("--stand", action="store_true", help="start a feed, centre and edge on loopback for this run")
    parser.add_argument("--seconds", type=float, metavar="S", help="of each run (default: the SLA's; ramp 20)")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="loader processes (default 1)")
    parser.add_argument("--in-flight", type=int, default=IN_FLIGHT, metavar="N", help=f"calls at once ({IN_FLIGHT})")
    parser.add_argument("--seed", default="1", metavar="S", help="equal seeds and processes make equal orders")
    parser.add_argument("--warmup", type=float, metavar="S", help="driven before, wrong answers count (the SLA's)")
    add_options(parser.add_argument)
    parser.add_argument("--pid", type=int, action="append", metavar="PID", help="the target's process, to see its CPU")
    parser.add_argument("--no-probe", action="store_true", help="without the second opinion")
    parser.add_argument("--out", type=Path, metavar="DIR", help="for the reports (default run/loadtest-TIME)")


def guarded(verb: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """The verb, with what can go wrong as a line on standard error and an exit code."""

    def tried(args: argparse.Namespace) -> int:
        try:
            return verb(args)
        except InputError as error:
            text, code = str(error), USAGE
        except Unreachable as error:
            text, code = str(error), UNREACHABLE
        except (DriveFailed, StandFailed) as error:
            text, code = str(error), BROKEN
        except KeyboardInterrupt:
            text, code = "interrupted: nothing is judged", INTERRUPTED
        for line in text.splitlines():
            print(f"loadtest {args.verb}: {line}", file=sys.stderr)
        return code

    return tried


# --------------------------------------------------------------------------------------------------------------------
# run
# --------------------------------------------------------------------------------------------------------------------


def _run(args: argparse.Namespace) -> int:
    with _planned(args) as (plan, out):
        if args.replay is not None:
            plan = _replayed(plan, args.replay)
        told = f"the SLA's rate is {plan.sla.rate:,.0f} checks/s, driven are {plan.driven_rate:,.0f}"
        if plan.sla.loop == "closed" and plan.replay is None:
            told = f"closed loop of {plan.in_flight} users"
        print(f"{plan.sla.name}: {plan.driven_s:,.0f} s against {', '.join(plan.targets)}; {told}", flush=True)
        report = judged(plan, out)
        page = reports.write(report, out)
    _show(report)
    print(f"\n{report.verdict}\n{page}")
    return PASSED if report.passed else BROKEN


def _replayed(plan: Plan, file: Path) -> Plan:
    """The plan with the orders of a trace, whose own rate and length count. Raises InputError."""
    checks, last_s = 0, 0.0
    try:
        for order in trace.read(file):
            checks, last_s = checks + len(order.items), order.at_s
    except trace.BadTrace as error:
        raise InputError(f"--replay {file}: {error}") from None
    except OSError as error:
        raise InputError(f"--replay {file}: {error.strerror}; name a file that `loadtest trace` wrote") from None
    if not checks:
        raise InputError(f"--replay {file}: holds no orders; write it with a higher --rate or more --seconds")
    seconds = max(1.0, math.ceil(last_s))
    return replace(plan, replay=file, rate=checks / seconds, seconds=seconds, warmup_s=0.0)


def judged(plan: Plan, folder: Path) -> Report:
    """Drive and judge. Raises Unreachable, DriveFailed."""
    bar = _Bar()
    driven = drive(plan, folder, bar.progress)
    bar.end()
    return judge(plan, driven)


def judge(plan: Plan, driven: Driven) -> Report:
    """The report of what was driven: the SLA's lines, one for the prober's answers, and one where the run ended early.

    An answer is wrong whoever asked: what the prober saw fails the run as what locust saw does.
    """
    lines = slas.judge(plan.sla, driven.recorder, plan.driven_rate, driven.memory_growth)
    if driven.probe is not None:
        whole = driven.probe.select()
        measured = f"{whole.wrong:,} wrong of {whole.answered:,}"
        lines.insert(1, Line("prober answers", "none wrong", measured, not whole.wrong))
    if driven.problem:
        lines.append(Line("run", "to its end", driven.problem, False))
    return Report(
        plan=plan,
        driven=driven,
        lines=lines,
        limits=limits(driven.pace, driven.during, driven.recorder.seconds - plan.driven_s),
        opinions=compare(driven.recorder, driven.probe) if driven.probe is not None else [],
        environment=environment(),
    )


def _show(report: Report) -> None:
    wide = max(len(line.name) for line in report.lines)
    aims = max(len(line.target) for line in report.lines)
    for line in report.lines:
        print(f"  {'PASS' if line.passed else 'FAIL'}  {line.name:<{wide}}  {line.target:<{aims}}  {line.measured}")
    for text in report.wrong_answers[:5]:
        print(f"  wrong: {text}")
    for text in report.limits:
        print(f"  the tester may be the limit: {text}")
    for text in report.disagreements:
        print(f"  second opinion disagrees: {text}")
    if report.driven.probe_failed:
        print(f"  second opinion: {report.driven.probe_failed}")
    if (cost := report.driven.server_cpu_us) is not None:
        print(f"  target: {cost:,.1f} µs of processor time per check")


class _Bar:
    """Progress: one line that is written over on a terminal, a line every ten seconds elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._last = 0.0

    def progress(self, told: dict[str, Any]) -> None:
        if not self._terminal and told["now_s"] - self._last < 10:
            return
        self._last = told["now_s"]
        p50, p99 = told["p50_ms"], told["p99_ms"]
        text = f"  {told['now_s']:6.0f} s" if told["now_s"] >= 0 else "  warm-up "
        text += f"  {told['rate']:10,.0f} checks/s"
        if p50 is not None and p99 is not None:
            text += f"  p50 {p50:9.3f} ms  p99 {p99:9.3f} ms"
        text += f"  errors {told['errors']:,}  UNKNOWN {told['unknown']:,}  wrong {told['wrong']:,}"
        text += f"  loader {told['loader_share']:.0%}"
        print(f"\r{text}\x1b[K" if self._terminal else text, end="" if self._terminal else "\n", flush=True)

    def end(self) -> None:
        if self._terminal and self._last:
            print()


# --------------------------------------------------------------------------------------------------------------------
# ramp
# --------------------------------------------------------------------------------------------------------------------


def _ramp(args: argparse.Namespace) -> int:
    if args.trials < 1:
        raise InputError("--trials must be 1 or more")
    with _planned(args) as (plan, out):
        plan = replace(plan, seconds=args.seconds or _TRIAL_S)
        if plan.sla.loop != "open":
            raise InputError(f"--sla {args.sla}: workload.loop is closed; only an open loop has a rate to search for")
        trials: list[Trial] = []
        notes: list[str] = []
        for rate in search(plan.driven_rate, args.trials, trials):
            folder = out / f"trial-{len(trials) + 1:02}-{rate:.0f}"
            folder.mkdir(exist_ok=True)
            report = judged(replace(plan, rate=rate), folder)
            reports.write(report, folder)
            trials.append(_trial(report))
            broken = ", ".join(line.name for line in report.lines if not line.passed)
            print(f"  {rate:10,.0f} checks/s  {'PASS' if report.passed else f'FAIL ({broken})'}", flush=True)
            notes += [f"at {rate:,.0f} checks/s: {text}" for text in report.limits]
        found = highest(trials)
        page = reports.write_search(out, plan.sla, trials, notes, environment())
    if found is None:
        print(f"\nFAIL: {plan.sla.name} held at none of the rates tried\n{page}")
        return BROKEN
    print(f"\n{plan.sla.name} holds up to {found:,.0f} checks/s; the SLA's rate is {plan.sla.rate:,.0f}\n{page}")
    return PASSED


def _trial(report: Report) -> Trial:
    recorder = report.driven.recorder
    whole = recorder.select()
    return Trial(
        rate=report.plan.driven_rate,
        held=report.passed,
        tester_limited=bool(report.limits),
        asked=whole.checks / recorder.seconds if recorder.seconds else 0.0,
        p50_ms=(whole.percentile_us(50) or 0.0) / 1000,
        p99_ms=(whole.percentile_us(99) or 0.0) / 1000,
        server_cpu_us=report.driven.server_cpu_us,
    )


# --------------------------------------------------------------------------------------------------------------------
# Both
# --------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _planned(args: argparse.Namespace) -> Iterator[tuple[Plan, Path]]:
    """What to drive and where the reports go. Raises InputError."""
    sla, file = _sla(args.sla)
    if args.stand and (args.target or args.people):
        raise InputError("give --target and --people, or --stand alone")
    if args.people is None and not args.stand and DEMO_PEOPLE.is_file():
        args.people = DEMO_PEOPLE
    if not args.stand and not (args.target and args.people):
        raise InputError("--target and --people belong together, since every answer is checked; or give --stand")
    targets = tuple(each.strip() for each in (args.target or "").split(",") if each.strip())
    if not args.stand and not targets:
        raise InputError(f"--target {args.target}: names nobody; give HOST:PORT or unix:PATH")
    _check_numbers(args)
    tls = Tls.of(args)
    try:
        tls.credentials()
    except BadTls as error:
        raise InputError(str(error)) from None
    if not args.stand:
        _check_people(args.people, sla)
    out = args.out or Path("run") / f"loadtest-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    _make_folder(out)
    with contextlib.ExitStack() as stack:
        people, pids = args.people, tuple(args.pid or ())
        if args.stand:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="xx-")))
            stand = stack.enter_context(Stand(folder, edge=True))
            targets, people, pids = (stand.target.address,), stand.people, (stand.target.pid,)
        yield (
            Plan(
                sla=sla,
                sla_file=file,
                targets=targets,
                people=people,
                rate=args.rate,
                seconds=args.seconds,
                processes=args.processes,
                in_flight=args.in_flight,
                seed=args.seed,
                warmup_s=args.warmup,
                probe=not args.no_probe,
                pids=pids,
                tls=tls,
            ),
            out,
        )


def _check_numbers(args: argparse.Namespace) -> None:
    """Raises InputError."""
    for name, most in (("rate", MOST_RATE), ("seconds", MOST_SECONDS)):
        if (value := getattr(args, name)) is not None and not 0 < value <= most:
            raise InputError(f"--{name} must be above 0, at most {most:,.0f}")
    if args.warmup is not None and not 0 <= args.warmup <= MOST_WARMUP_S:
        raise InputError(f"--warmup must be 0 to {MOST_WARMUP_S:,.0f} seconds")
    if args.processes < 1 or args.in_flight < args.processes:
        raise InputError("--processes must be 1 or more, and --in-flight at least as many")
    for pid in args.pid or ():
        if not psutil.pid_exists(pid):
            raise InputError(f"--pid {pid}: is no process of this machine; `pgrep -f 'checker serve'` finds it")


def _check_people(file: Path, sla: Sla) -> None:
    """Raises InputError where the workload cannot be made of them; else each loader process would find that out."""
    if not file.is_file():
        raise InputError(f"--people {file}: is no file; name the people.csv that `loadtest make-feed` wrote")
    try:
        orders(People.read(file), sla.tenants, rate_per_s=1, seconds=1, seed="")
    except BadPeople as error:
        raise InputError(f"--people {file}: {error}") from None
    except OSError as error:
        raise InputError(f"--people {file}: {error.strerror}") from None


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"--out {out} is a file; name a folder") from None
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror}; name a folder that may be written to") from None
    if not os.access(out, os.W_OK | os.X_OK):
        raise InputError(f"--out {out}: may not be written to; name another folder")


def _sla(text: str) -> tuple[Sla, Path]:
    file = slas.locate(text)
    try:
        return slas.read(file), file
    except slas.BadSla as error:
        raise InputError("\n".join(f"--sla {text}: {problem}" for problem in error.problems)) from None
    except OSError as error:
        raise InputError(f"--sla {text}: {error.strerror}; name a TOML file or one of {_ready()}") from None


def _ready() -> str:
    return ", ".join(sorted(path.stem for path in Path(str(slas.READY)).glob("*.toml")))
