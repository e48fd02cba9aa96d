"""What happens around the users in a locust process: options, set-up, and bringing together what was measured.

With worker processes (`--processes`, or `--master` and `--worker` on several machines) each makes its own share of the
rate. What they measured goes to the master in locust's own reports: the seconds as they end, for progress and abort;
histograms once, when the test has stopped, because packing them stops a process for tens of milliseconds.

`listen` registers everything; the locustfile calls it.
"""

import contextlib
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import locust.runners
from locust.argument_parser import LocustArgumentParser
from locust.dispatch import UsersDispatcher
from locust.runners import MasterRunner, Runner, WorkerRunner

from loadtest import sla as slas
from loadtest.ask import BadPeople
from loadtest.channels import add_options
from loadtest.grpc_user import NO_HOST, GrpcUser, Load, OpenLoop, targets
from loadtest.make_feed import DEMO_PEOPLE
from loadtest.measured import Recorder, Series
from loadtest.pace import Pace
from loadtest.trace import BadTrace
from loadtest.workload import PROFILES, People

_REPORT = "xianxiao"  # our part of locust's reports
_SHARE, _FINISHED = "xianxiao_share", "xianxiao_finished"
Json = dict[str, Any]
STATE_STOPPED, STATE_MISSING = locust.runners.STATE_STOPPED, locust.runners.STATE_MISSING
_FINALS_S = 15.0  # time workers have to hand over their histograms
_LIVENESS = 10  # seconds a worker may be silent before it is missing: three, locust's own, a busy host takes from it


def listen(events: Any) -> None:
    """Register everything with locust's events."""
    locust.runners.WORKER_REPORT_INTERVAL = 1.0  # progress each second
    locust.runners.HEARTBEAT_LIVENESS = _LIVENESS
    events.init_command_line_parser.add_listener(_add_options)
    events.init.add_listener(_set_up)


def _add_options(parser: LocustArgumentParser) -> None:
    add = parser.add_argument
    add("--people", default="", metavar="FILE", help=f"people.csv of the target's feed ({DEMO_PEOPLE})")
    add("--sla", default="", metavar="FILE", help="take tenants, rate, profile, deadline from an SLA file")
    add("--rate", type=float, default=0.0, metavar="R", help="open loop: checks per second of all processes")
    add("--seconds", type=float, default=0.0, metavar="S", help="length of the test (default: the SLA's)")
    add("--warmup", type=float, default=None, metavar="S", help="driven before, not recorded")
    add("--load-profile", default="", choices=["", *PROFILES], help="how the rate changes (default steady)")
    add("--deadline-ms", type=float, default=0.0, metavar="MS", help="of each call (default 1000)")
    add("--seed", default="1", help="equal seeds make equal orders")
    add("--batch", type=int, default=0, metavar="N", help="Batch users: at least N items a call")
    add("--replay", default="", metavar="FILE", help="open loop: the orders of a trace")
    add(
        "--measured",
        default="",
        metavar="FILE",
        help="write what was measured, as JSON, at the end",
        include_in_web_ui=False,
    )
    add_options(add, include_in_web_ui=False)
    add("--progress", default="", metavar="FILE", help="write a line of JSON each second", include_in_web_ui=False)


def _set_up(environment: Any, runner: Runner, **_: Any) -> None:
    options = environment.parsed_options
    if options is None:
        raise SystemExit("loadtest: start it with the locust command")
    # Else the form may name it, and a worker is told by its master.
    if options.headless and not isinstance(runner, WorkerRunner) and not targets(environment.host or ""):
        raise SystemExit(f"loadtest: {NO_HOST}")

    def dispatcher(worker_nodes: Any, user_classes: list[Any]) -> UsersDispatcher:
        """Locust makes one when a test starts, after the form has changed the options."""
        return UsersDispatcher(worker_nodes=worker_nodes, user_classes=_chosen(user_classes, options))

    environment.dispatcher_class = dispatcher
    if isinstance(runner, MasterRunner):
        _Master(environment, runner)
    elif isinstance(runner, WorkerRunner):
        _Worker(environment, runner)
    else:
        _Local(environment, runner)


def _chosen(classes: list[Any], options: Any) -> list[Any]:
    """The users that take part: slots in an open loop, all others in a closed one, where none are named."""
    if options.rate or options.replay:
        opened = True
    elif options.user_classes or options.class_picker:
        return classes
    else:
        opened = _loop(options.sla) == "open"
    return [each for each in classes if issubclass(each, OpenLoop) == opened] or classes


def _loop(sla: str) -> str:
    """An SLA's loop; closed where there is none, or a file that the test will refuse."""
    try:
        return slas.read(slas.locate(sla)).loop if sla else "closed"
    except (slas.BadSla, OSError):
        return "closed"


class _Asking:
    """The part of a process that has users: reads the people once, makes a Load when a test starts, hands over."""

    def __init__(self, environment: Any) -> None:
        self._environment = environment
        path = Path(environment.parsed_options.people or DEMO_PEOPLE)
        try:
            self._people = People.read(path)
        except BadPeople as error:
            raise SystemExit(f"loadtest: --people {path}: {error}") from None
        except OSError as error:
            remedy = (
                "name the feed's people.csv" if environment.parsed_options.people else "name one, or use `make run`"
            )
            raise SystemExit(f"loadtest: --people {path}: {error.strerror}; {remedy}") from None
        self._told = 0  # seconds handed over
        self.handed_over = True  # nothing measured yet

    def start(self, share: int, of: int, finished: Callable[[str], None]) -> None:
        """A test starts."""
        options, host = self._environment.parsed_options, self._environment.host or ""
        try:
            GrpcUser.load = Load(options, host, self._people, share=share, of=of)
        except slas.BadSla as error:
            raise SystemExit(f"loadtest: --sla {options.sla}: {'; '.join(error.problems)}") from None
        except (BadTrace, OSError) as error:
            raise SystemExit(f"loadtest: {error}") from None
        GrpcUser.load.finished = finished
        self._told, self.handed_over = 0, False

    def seconds(self, *, all_of_them: bool = False) -> Json:
        """The seconds that ended since the last call, and when the schedule started."""
        load = GrpcUser.load
        part = Recorder()
        if not load.start_at:  # its first user has not opened the channels yet: no second has begun
            return {"start_at": 0.0, "seconds": part.to_json()}
        until = int(load.now_s) + 1 if all_of_them else int(load.now_s)
        for second in range(self._told, max(until, self._told)):
            if second in load.recorder.by_second:
                part.by_second[second] = load.recorder.by_second[second]
        self._told = max(until, self._told)
        return {"start_at": load.start_at, "seconds": part.to_json()}

    def everything(self) -> Json:
        """All that was measured, once the users have stopped."""
        load = GrpcUser.load
        load.recorder.seconds = load.measured_s
        load.recorder.blame(load.warmup)
        load.pace.slots = self._slots()
        self.handed_over = True
        return {"start_at": load.start_at, "recorder": load.recorder.to_json(), "pace": load.pace.to_json()}

    def _slots(self) -> int:
        runner = self._environment.runner
        return int(runner.target_user_count) if runner is not None else 0


class _Whole:
    """Brings together what all processes measured; tells progress, ends the test, and writes it all down."""

    def __init__(self, environment: Any, runner: Runner) -> None:
        self.environment, self.runner = environment, runner
        self.options = environment.parsed_options
        try:
            self.sla = slas.read(slas.locate(self.options.sla)) if self.options.sla else None
        except slas.BadSla as error:
            raise SystemExit(f"loadtest: --sla {self.options.sla}: {'; '.join(error.problems)}") from None
        except OSError as error:
            raise SystemExit(f"loadtest: --sla {self.options.sla}: {error.strerror}; name an SLA file") from None
        self._reset()
        environment.events.quitting.add_listener(self._save)

    def _reset(self) -> None:
        self.live = Recorder()  # seconds only
        self.recorder = Recorder()
        self.pace = Pace(processes=0)
        self.start_at = 0.0
        self.problem = ""  # why it ended early
        self.ending = False

    def begin(self) -> None:
        """A test starts."""
        self._reset()
        with contextlib.suppress(slas.BadSla, OSError):  # of the form; whoever asks refuses it
            self.sla = slas.read(slas.locate(self.options.sla)) if self.options.sla else None
        self.runner.greenlet.spawn(self._tick)

    def take(self, part: Json) -> None:
        """Add what a process handed over."""
        if part["start_at"]:
            self.start_at = min(self.start_at or part["start_at"], part["start_at"])
        if "seconds" in part:
            self.live.merge(Recorder.from_json(part["seconds"]))
            wrong = sum(second.wrong for second in self.live.by_second.values())
            self.live.series.setdefault(("", ""), Series()).wrong = wrong
        if "recorder" in part:
            self.recorder.merge(Recorder.from_json(part["recorder"]))
            self.pace.merge(Pace.from_json(part["pace"]))

    def finish(self, problem: str = "") -> None:
        """End the test, and with --headless the process."""
        if not self.ending:
            self.ending = True
            self.problem = problem
            if problem:
                logging.getLogger(__name__).error("loadtest: %s", problem)
            gevent.spawn(self._finish)

    def _finish(self) -> None:
        self.runner.stop()
        self._wait_for_all()
        if self.options.headless:
            self.runner.quit()

    def _wait_for_all(self) -> None:
        """Wait until every process has handed over everything. One that does not is a problem."""

    def _collect(self) -> None:
        """Called each second, before progress is told."""

    def _tick(self) -> None:
        """Each second of a test: progress, and whether to go on. The users themselves end it when its time is over."""
        while not self.ending and self.runner.state != STATE_STOPPED:
            gevent.sleep(1.0)
            self._collect()
            if not self.start_at:
                continue
            now_s = time.time() - self.start_at
            self._tell(now_s)
            if self.sla and (reason := slas.abort_reason(self.sla, self.live, now_s)):
                self.finish(reason)

    def _tell(self, now_s: float) -> None:
        if not self.options.progress:
            return
        last = self.live.last(now_s, 2)  # of the second before, some processes have not told yet
        p50, p99 = last.percentile_us(50), last.percentile_us(99)
        told = {
            "start_at": self.start_at,
            "now_s": now_s,
            "rate": (last.answered + last.errors) / 2,
            "p50_ms": p50 and p50 / 1000,
            "p99_ms": p99 and p99 / 1000,
            "answered": sum(second.answered for second in self.live.by_second.values()),
            "errors": sum(second.errors for second in self.live.by_second.values()),
            "unknown": sum(second.unknown for second in self.live.by_second.values()),
            "wrong": sum(second.wrong for second in self.live.by_second.values()),
        }
        with open(self.options.progress, "a", encoding="utf-8") as file:
            file.write(json.dumps(told) + "\n")

    def _save(self, **_: Any) -> None:
        if not self.options.measured:
            return
        if not self.ending:  # Ctrl-C, SIGTERM or --run-time
            self.ending, self.problem = True, "stopped from outside"
            self.runner.stop()
            self._wait_for_all()
        made = {
            "start_at": self.start_at,
            "problem": self.problem,
            "recorder": self.recorder.to_json(),
            "pace": self.pace.to_json(),
        }
        Path(self.options.measured).write_text(json.dumps(made), "utf-8")


class _Local(_Whole):
    """One process: users and figures side by side."""

    def __init__(self, environment: Any, runner: Runner) -> None:
        super().__init__(environment, runner)
        self._asking = _Asking(environment)
        environment.events.test_start.add_listener(self._start)
        environment.events.test_stop.add_listener(self._stop)

    def _start(self, **_: Any) -> None:
        self._asking.start(0, 1, self.finish)
        self.begin()

    def _stop(self, **_: Any) -> None:
        self.take(self._asking.seconds(all_of_them=True))
        self.take(self._asking.everything())

    def _collect(self) -> None:
        self.take(self._asking.seconds())


class _Master(_Whole):
    """The process that other processes report to."""

    def __init__(self, environment: Any, runner: MasterRunner) -> None:
        super().__init__(environment, runner)
        self._workers = runner.clients
        self._asked: set[str] = set()  # workers that got a share
        self._finished: set[str] = set()  # whose schedule has ended
        self._handed_over: set[str] = set()
        runner.register_message(_FINISHED, self._one_finished)
        environment.events.test_start.add_listener(self._start)
        environment.events.worker_report.add_listener(self._report)

    def _start(self, **_: Any) -> None:
        """Tell each worker its share, before locust tells it to start users: messages keep their order."""
        self._asked = set(self._alive())
        self._finished, self._handed_over = set(), set()
        for share, worker in enumerate(sorted(self._asked)):
            self.runner.send_message(_SHARE, {"share": share, "of": len(self._asked)}, worker)
        self.begin()

    def _alive(self) -> list[str]:
        return [client.id for client in self._workers.values() if client.state != STATE_MISSING]

    def _one_finished(self, msg: Any, **_: Any) -> None:
        self._finished.add(msg.node_id)
        if msg.data["problem"]:
            self.finish(msg.data["problem"])

    def _report(self, client_id: str, data: Json) -> None:
        for part in data.get(_REPORT, ()):
            self.take(part)
            if "recorder" in part:
                self._handed_over.add(client_id)

    def _collect(self) -> None:
        alive = self._asked.intersection(self._alive())
        if alive < self._asked:
            self.finish(f"{len(self._asked) - len(alive)} of {len(self._asked)} loader processes ended early")
        elif alive <= self._finished:
            self.finish()

    def _wait_for_all(self) -> None:
        until = time.monotonic() + _FINALS_S
        while not self._asked.intersection(self._alive()) <= self._handed_over and time.monotonic() < until:
            gevent.sleep(0.05)
        if (lost := len(self._asked - self._handed_over)) and not self.problem:
            self.problem = f"{lost} of {len(self._asked)} loader processes did not hand over what they measured"


class _Worker:
    """A process that reports to a master."""

    def __init__(self, environment: Any, runner: WorkerRunner) -> None:
        self._runner = runner
        self._asking = _Asking(environment)
        self._share, self._of = 0, 1
        runner.register_message(_SHARE, self._share_given)
        environment.events.test_start.add_listener(self._start)
        environment.events.report_to_master.add_listener(self._report)

    def _share_given(self, msg: Any, **_: Any) -> None:
        self._share, self._of = msg.data["share"], msg.data["of"]

    def _start(self, **_: Any) -> None:
        self._asking.start(self._share, self._of, self._finished)

    def _finished(self, problem: str) -> None:
        self._runner.send_message(_FINISHED, {"problem": problem})

    def _report(self, data: Json, **_: Any) -> None:
        if self._asking.handed_over:
            return
        stopped = self._runner.state == STATE_STOPPED
        data[_REPORT] = [self._asking.seconds(all_of_them=stopped)]
        if stopped:
            data[_REPORT].append(self._asking.everything())
