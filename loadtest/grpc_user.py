"""Locust users that ask CheckService over gRPC, and what the users of one process share.

Strategy: gRPC's own gevent mode (switched on here, after gevent's patching and before any channel). Channels are opened
by the first user that starts, so after a fork, and are shared by the process's users: a booking system keeps a few
connections and many calls on each. Every call is told twice: to locust's `request` event, which its web UI, charts and
CSV files live on, and to our own `Recorder`, which counts microseconds and knows the right answers.

- *Closed loop*: a user asks, waits for the answer, asks again. Latency counts from the call's start. At the end each
  user's last call is waited for: one that is cut off would be counted by nobody, just when the target stands still.
- *Open loop*: orders come at the workload's own times. A user is a slot: it takes the next order, waits until that is
  due, asks, and takes the next. Latency counts from the intended start, late or not; nothing is skipped. So the number
  of users bounds the calls in flight, and a call that found every slot busy is counted (`loadtest.pace`).
"""

import argparse
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, ClassVar

import gevent
import grpc
import grpc.experimental.gevent
import locust.stats
from locust.exception import StopUser

from loadtest import sla as slas
from loadtest import trace
from loadtest.channels import BadTls, Tls
from loadtest.measured import Recorder, matched
from loadtest.pace import Pace
from loadtest.workload import (
    BATCH,
    CHECK,
    STREAM,
    TENANTS,
    Item,
    Order,
    People,
    batch_request,
    orders,
    with_item_id,
)
from proto.checker.v1 import check_pb2 as pb

grpc.experimental.gevent.init_gevent()  # after locust's import, which patches for gevent; before any channel

NO_HOST = "--host ADDR[,ADDR]: is missing; name whom to ask"
NO_RATE = "--rate R: is missing; an open loop needs checks per second"
CONNECTIONS = 4
"""Connections of a process to each target."""
ROUND_S = 3600.0
"""A test without an end comes in rounds of this length: so long is a profile then, and so often are orders seeded."""
_READY_S = 10.0
_LEAD_S = 0.2  # between the first slot's arrival and the start of the schedule
_METHODS = {CHECK: "unary_unary", BATCH: "unary_unary", STREAM: "stream_stream"}


def targets(host: str) -> list[str]:
    """The addresses of `--host ADDR[,ADDR]`, with or without the http:// that a locust user may have typed."""
    return [each.strip().removeprefix("http://").rstrip("/") for each in host.split(",") if each.strip()]


# --------------------------------------------------------------------------------------------------------------------
# What the users of a process share
# --------------------------------------------------------------------------------------------------------------------


class Load:
    """Whom to ask, where, when, and what was measured: one per process and test.

    `share` of `of`: which part of the rate this process makes. Raises BadSla, BadTrace, OSError.
    """

    def __init__(self, options: argparse.Namespace, host: str, people: People, *, share: int = 0, of: int = 1) -> None:
        sla = slas.read(slas.locate(options.sla)) if options.sla else None
        self.targets = targets(host)
        self.people = people
        self.tls = Tls.of(options)
        self.tenants = TENANTS if sla is None else sla.tenants
        self.deadline_s = (options.deadline_ms or (1000.0 if sla is None else sla.deadline_ms)) / 1000
        given = options.warmup not in (None, "")  # of the form it is a text
        self.warmup_s = float(options.warmup) if given else 0.0 if sla is None else sla.warmup_s
        self.rate = options.rate or (0.0 if sla is None else sla.rate)
        self.seconds = options.seconds or (math.inf if sla is None else sla.seconds)
        self.profile = options.load_profile or ("steady" if sla is None else sla.profile)
        self.batch = int(options.batch)
        self.replay = Path(options.replay) if options.replay else None
        self.recorder = Recorder()
        self.warmup = Recorder()  # of calls due before the start; its wrong answers count
        self.pace = Pace()
        self.start = 0.0  # on time.perf_counter; what was to start before is warm-up
        self.start_at = 0.0  # the same in seconds since the epoch
        self.busy = 0  # users of a closed loop; in an open loop slots that still have an order
        self.ended = False  # whether the schedule, or the time of a closed loop, came to its end
        self.finished: Callable[[str], None] = lambda _: None
        """Called when the schedule has ended, or with the reason why it cannot begin."""
        self._seed = f"{options.seed}, process {share} of {of}"
        self._share, self._of = share, of
        self._beginning = threading.Lock()  # the first user opens the channels while the others wait
        self._calls: dict[str, list[Callable[..., Any]]] = {}
        self._turn = 0
        self.schedule = self._schedule()
        self.endless = self._endless()

    @property
    def measured_s(self) -> float:
        """How long it was measured: the whole time planned where the schedule has ended, else until now."""
        if not self.ended:
            return max(0.0, min(self.now_s, self.seconds))
        last = max(self.recorder.by_second, default=-1) + 1.0
        return last if self.replay else max(self.seconds, last if last > self.seconds + 1 else 0.0)

    @property
    def now_s(self) -> float:
        """Seconds since the start; below 0 during the warm-up."""
        return time.perf_counter() - self.start

    @property
    def over(self) -> bool:
        """Whether no further call is to begin, in a closed loop."""
        return bool(self._calls) and self.now_s >= self.seconds

    def end(self) -> None:
        """The last call has ended."""
        self.ended = True
        self.finished("")

    def begin(self) -> None:
        """Open the channels and set the start, once. Raises ConnectionError naming the target, or what is wrong."""
        with self._beginning:
            if self._calls:
                return
            if not self.targets:
                raise ConnectionError(NO_HOST)
            calls: dict[str, list[Callable[..., Any]]] = {rpc: [] for rpc in _METHODS}
            # Every channel a connection of its own: a service's workers share the port, a connection stays with one.
            options = [("grpc.use_local_subchannel_pool", 1)]
            for target in self.targets * CONNECTIONS:
                try:
                    channel = self.tls.channel(target, options)
                    grpc.channel_ready_future(channel).result(_READY_S)
                except grpc.FutureTimeoutError:
                    raise ConnectionError(f"{target} cannot be reached") from None
                except BadTls as error:
                    raise ConnectionError(str(error)) from None
                for rpc, method in _METHODS.items():
                    calls[rpc].append(getattr(channel, method)(f"/checker.v1.CheckService/{rpc}"))
            lead = self.warmup_s + _LEAD_S
            self.start, self.start_at = time.perf_counter() + lead, time.time() + lead
            self._calls = calls

    def call(self, rpc: str) -> Callable[..., Any]:
        """The call on the next connection, targets in turn."""
        ways = self._calls[rpc]
        self._turn += 1
        return ways[self._turn % len(ways)]

    def _schedule(self) -> Iterator[tuple[float, str, str, tuple[Item, ...]]]:
        """What to call when: intended start, tenant, RPC, items. Negative times are warm-up."""
        for order in self._orders():
            if order.rpc == CHECK:
                for item in order.items:
                    yield order.at_s, order.tenant, CHECK, (item,)
            else:
                yield order

    def _orders(self) -> Iterator[Order]:
        if self.replay:
            return islice(trace.read(self.replay), self._share, None, self._of)
        warmup = self._made(self.rate, self.warmup_s, "steady", "warm-up") if self.warmup_s else iter(())
        early = (order._replace(at_s=order.at_s - self.warmup_s) for order in warmup)
        if math.isfinite(self.seconds):
            return chain(early, self._made(self.rate, self.seconds, self.profile, "run"))
        return chain(early, self._rounds())

    def _rounds(self) -> Iterator[Order]:
        for turn in count():
            for order in self._made(self.rate, ROUND_S, self.profile, f"round {turn}"):
                yield order._replace(at_s=order.at_s + turn * ROUND_S)

    def _endless(self) -> Iterator[Order]:
        """Orders whose times do not count."""
        for turn in count():
            yield from self._made(1000.0, ROUND_S, "steady", f"closed loop {turn}")

    def _made(self, rate: float, seconds: float, profile: str, part: str) -> Iterator[Order]:
        seed = f"{self._seed}, {part}"
        return orders(
            self.people, self.tenants, rate_per_s=rate / self._of, seconds=seconds, seed=seed, profile=profile
        )


# --------------------------------------------------------------------------------------------------------------------
# Users
# --------------------------------------------------------------------------------------------------------------------


class WrongAnswer(Exception):
    """How locust's tables name an answer that is not what the feed says."""


class GrpcUser(locust.User):
    """Asks and records. Subclasses say what and when."""

    abstract = True
    load: ClassVar[Load]
    """Set when a test starts."""

    def on_start(self) -> None:
        """Open the process's channels, if no user has."""
        try:
            self.load.begin()
        except ConnectionError as error:
            self.load.finished(str(error))
            raise StopUser from None

    def ask(self, tenant: str, rpc: str, items: Sequence[Item], since: float) -> None:
        """One call. `since`: the moment on time.perf_counter that latency counts from."""
        load = self.load
        size, failure = 0, None
        answers: Sequence[pb.CheckResponse] = ()
        try:
            if rpc == STREAM:
                received = _streamed(load, items)
            elif rpc == BATCH:
                received = [load.call(BATCH)(batch_request(items), timeout=load.deadline_s)]
            else:
                received = [load.call(CHECK)(items[0].request, timeout=load.deadline_s)]
            ended = time.perf_counter()
            size = sum(map(len, received))
            if rpc == STREAM:
                items, answers = matched(items, map(pb.CheckResponse.FromString, received))
            elif rpc == BATCH:
                answers = pb.BatchCheckResponse.FromString(received[0]).items
            else:
                answers = [pb.CheckResponse.FromString(received[0])]
        except grpc.RpcError as error:
            ended = time.perf_counter()
            failure = error
        latency_us = (ended - since) * 1e6
        wrong = 0
        if since < load.start + load.seconds:
            at_s = ended - load.start
            recorder = load.recorder if load.start <= since else load.warmup
            if failure is not None:
                recorder.failed(tenant, rpc, latency_us, at_s, len(items), failure.code().name)
            else:
                wrong = recorder.answered(
                    tenant, rpc, latency_us, at_s, items, [answer.outcome for answer in answers], _lag_s(answers)
                )
        self.environment.events.request.fire(
            request_type=rpc,
            name=tenant,
            response_time=latency_us / 1000,
            response_length=size,
            exception=failure.code().name if failure is not None else WrongAnswer("wrong answer") if wrong else None,
        )


class ClosedLoop(GrpcUser):
    """Takes the next order when the last is answered; says which call it makes."""

    abstract = True

    def on_start(self) -> None:
        """Count itself among those to be waited for."""
        self.load.busy += 1
        super().on_start()

    def on_stop(self) -> None:
        """The last user says that the test has ended."""
        self.load.busy -= 1
        if not self.load.busy and self.load.over:
            self.load.end()

    def order(self) -> Order:
        """The next order."""
        return next(self.load.endless)

    def ask(self, tenant: str, rpc: str, items: Sequence[Item], since: float) -> None:
        """One call, unless the time is over. Raises StopUser."""
        if self.load.over:
            raise StopUser
        super().ask(tenant, rpc, items, since)


class OpenLoop(GrpcUser):
    """A slot of the open loop (see this module). `--rate`, or an SLA, chooses it."""

    abstract = True

    def on_start(self) -> None:
        """Nothing to follow without a rate."""
        if not (self.load.rate or self.load.replay):
            self.load.finished(NO_RATE)
            raise StopUser
        super().on_start()

    def follow(self) -> None:
        """Make calls until the schedule ends; the last slot says so."""
        load = self.load
        load.busy += 1
        try:
            for at_s, tenant, rpc, items in load.schedule:
                due = load.start + at_s
                if (left := due - time.perf_counter()) > 0:
                    while left > 0:  # a timer may fire early
                        gevent.sleep(left)
                        left = due - time.perf_counter()
                    if at_s >= 0:
                        load.pace.started(-left)
                elif at_s >= 0:
                    load.pace.held += 1
                self.ask(tenant, rpc, items, due)
        finally:
            load.busy -= 1
        if not load.busy:
            load.end()
        raise StopUser


def _streamed(load: Load, items: Sequence[Item]) -> list[bytes]:
    """One stream with a message per item; its answers in the order in which they came."""
    requests = [with_item_id(item.request, str(place)) for place, item in enumerate(items)]
    return list(load.call(STREAM)(iter(requests), timeout=load.deadline_s))


def _lag_s(answers: Sequence[pb.CheckResponse]) -> float | None:
    """Age of the data behind the answers; those of one call rest on one snapshot."""
    if not len(answers) or not answers[0].data_as_of.HasField("feed_time"):
        return None
    return max(0.0, time.time() - answers[0].data_as_of.feed_time.seconds)


def bucket(milliseconds: float) -> float:
    """Response times for locust's tables, to a hundredth of a millisecond below 10 ms (locust's own: whole ones)."""
    if milliseconds < 10:
        return round(milliseconds, 2)
    if milliseconds < 100:
        return round(milliseconds, 1)
    return _whole_bucket(milliseconds)


_whole_bucket = locust.stats.bucket_response_time
locust.stats.bucket_response_time = bucket  # type: ignore[assignment] # the replacement that locust's docs offer
