"""A CheckService that answers from a people.csv, as badly as a test asks, and SLA files to judge it by."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from loadtest.ask import request
from loadtest.make_feed import read_people
from loadtest.measured import Recorder
from proto.checker.v1 import check_pb2 as pb
from proto.checker.v1 import check_pb2_grpc


class FromFile(check_pb2_grpc.CheckServiceServicer):
    """Right answers for whom the file lists and ALLOWED for the rest, made-up invalid documents included.

    `slow_s`: sleeps for as long; `wrong`: allows everybody; `status`: fails every call. By their places among all
    calls, from 0: `refuses` fails these, `hangs` gives them no answer until `released`.
    """

    def __init__(self, people: Path) -> None:
        self._answers: dict[bytes, int] = {}
        for row in read_people(people):
            question = request(row)
            self._answers[question.SerializeToString(deterministic=True)] = pb.Outcome.Value(f"OUTCOME_{row.outcome}")
        self.wrong = False
        self.slow_s = 0.0
        self.status: grpc.StatusCode | None = None
        self.hangs = range(0)
        self.refuses = range(0)
        self.released = threading.Event()
        self.calls = 0
        self._lock = threading.Lock()

    def _answer(self, asked: pb.CheckRequest) -> pb.CheckResponse:
        item_id, asked.item_id = asked.item_id, ""
        known = self._answers.get(asked.SerializeToString(deterministic=True), pb.OUTCOME_ALLOWED)
        return pb.CheckResponse(item_id=item_id, outcome=pb.OUTCOME_ALLOWED if self.wrong else known)  # type: ignore[arg-type]

    def _called(self, context: Any) -> None:
        with self._lock:
            place = self.calls
            self.calls += 1
        if place in self.hangs:
            self.released.wait()
        if place in self.refuses:
            context.abort(grpc.StatusCode.UNAVAILABLE, "as the test asks")
        if self.slow_s:
            time.sleep(self.slow_s)
        if self.status is not None:
            context.abort(self.status, "as the test asks")

    def Check(self, request: pb.CheckRequest, context: Any) -> pb.CheckResponse:  # noqa: N802 - the contract's name
        self._called(context)
        return self._answer(request)

    def BatchCheck(self, request: pb.BatchCheckRequest, context: Any) -> pb.BatchCheckResponse:  # noqa: N802 - likewise
        self._called(context)
        return pb.BatchCheckResponse(items=[self._answer(item) for item in request.items])

    def StreamCheck(self, request_iterator: Any, context: Any) -> Iterator[pb.CheckResponse]:  # noqa: N802 - likewise
        self._called(context)
        yield from reversed([self._answer(item) for item in request_iterator])

    def GetRulebook(self, request: Any, context: Any) -> pb.GetRulebookResponse:  # noqa: N802 - likewise
        return pb.GetRulebookResponse(version="1")


def lasted(recorder: Recorder, planned_s: float) -> bool:
    """Whether it says that it was measured for as long as planned, or until the last call's second ended, if later."""
    return recorder.seconds in (planned_s, max(planned_s, max(recorder.by_second) + 1.0))


@contextmanager
def served(
    people: Path, threads: int = 16, credentials: grpc.ServerCredentials | None = None
) -> Iterator[tuple[str, FromFile]]:
    """The service on a free port; plaintext without credentials."""
    servicer = FromFile(people)
    server = grpc.server(ThreadPoolExecutor(threads))
    check_pb2_grpc.add_CheckServiceServicer_to_server(servicer, server)
    free = "127.0.0.1:0"
    port = server.add_secure_port(free, credentials) if credentials else server.add_insecure_port(free)
    server.start()
    try:
        yield f"127.0.0.1:{port}", servicer
    finally:
        servicer.released.set()
        server.stop(None).wait()


def an_sla(
    folder: Path,
    *,
    tenants: str = '["rail"]',
    rate: float = 60,
    seconds: float = 3,
    deadline_ms: float = 5000,
    loop: str = "open",
    profile: str = "steady",
    target: str = "error_share = 0.0",
    more: str = "",
) -> Path:
    """A short SLA with one [[target]]."""
    path = folder / "sla.toml"
    path.write_text(
        f'name = "short"\n[workload]\ntenants = {tenants}\nrate = {rate}\nseconds = {seconds}\nwarmup_s = 0.5\n'
        f'deadline_ms = {deadline_ms}\nloop = "{loop}"\nprofile = "{profile}"\n'
        f"[[target]]\n{target}\n{more}\n"
    )
    return path
