"""Claims about what surrounds every call, over real sockets."""

import asyncio
import gc
import logging
import math
import os
import time
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from google.rpc import error_details_pb2, status_pb2

from checker.errors import InvalidRequest
from checker.rpc.interceptors import Call, Guard, Limits, Quick, current_call, describe
from checker.rpc.quota import Quota, create
from checker.rpc.roles import LOOPBACK, Caller, Callers, Role, Roles
from proto.checker.v1 import check_pb2, check_pb2_grpc
from tests.rpc.servicer import SECRET, Tiny, Writing, served

CheckRequest = check_pb2.CheckRequest
CHECK = "/checker.v1.CheckService/Check"


def _stub(channel: grpc.aio.Channel) -> Any:
    return check_pb2_grpc.CheckServiceStub(channel)


async def _fails(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def _until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 -- what is waited for is the server's, it has no event of ours
            await asyncio.sleep(0.005)


async def test_a_handler_learns_its_caller_and_its_deadline() -> None:
    """`current_call()` names the caller and the loop time at which the client's time-out ends; none is infinity."""
    async with served() as tiny, grpc.aio.insecure_channel(tiny.address) as channel:
        before = asyncio.get_running_loop().time()
        await _stub(channel).Check(CheckRequest(), timeout=3600)
        await _stub(channel).Check(CheckRequest())

        timed, untimed = tiny.servicer.calls
        assert timed.caller is LOOPBACK
        assert before + 3500 < timed.deadline < before + 3700
        assert untimed.deadline == math.inf
    with pytest.raises(LookupError):
        current_call()


async def test_too_short_a_deadline_is_refused_at_once_naming_both_figures() -> None:
    """A call with less than the budget left never reaches its handler."""
    limits = Limits(min_budget=60.0)
    async with served(limits=limits) as tiny, grpc.aio.insecure_channel(tiny.address) as channel:
        start = time.monotonic()
        error = await _fails(_stub(channel).Check(CheckRequest(), timeout=30))

        assert time.monotonic() - start < 15
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        text = str(error.details())
        assert text.endswith(" ms are left of the deadline, an answer needs 60000 ms: set a longer deadline")
        assert 15_000 < float(text.split()[0]) <= 31_000  # the wire rounds up
        assert tiny.servicer.calls == []


async def test_overload_is_answered_at_once_and_room_returns() -> None:
    """With 3 calls held, the 4th is RESOURCE_EXHAUSTED while they wait; a batch weighs its items; then all is free."""
    async with served(limits=Limits(in_flight=3)) as tiny, grpc.aio.insecure_channel(tiny.address) as channel:
        stub = _stub(channel)
        batch = check_pb2.BatchCheckRequest(items=[CheckRequest()] * 2)
        held = [asyncio.ensure_future(stub.Check(CheckRequest(item_id="wait"))) for _ in range(2)]
        await _until(lambda: tiny.servicer.waiting == 2)
        too_much = await _fails(stub.BatchCheck(batch))
        held.append(asyncio.ensure_future(stub.Check(CheckRequest(item_id="wait"))))
        await _until(lambda: tiny.servicer.waiting == 3)
        error = await _fails(stub.Check(CheckRequest()))

        for refused in (too_much, error):
            assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert refused.details() == "this worker has its limit of 3 checks in flight: try again, with backoff"
        tiny.servicer.released.set()
        await asyncio.gather(*held)
        assert len((await stub.BatchCheck(batch)).items) == 2
        await _until(lambda: tiny.guard.live == 0)
        assert tiny.guard.admission.in_flight == 0


async def test_a_quota_counts_items_of_batches_and_streams(tmp_path: Path) -> None:
    """A caller with a burst of 10 gets 10 items however it sends them, then RESOURCE_EXHAUSTED naming its rate."""
    caller = Caller("anonymous", Role.BOOKING, None, 0.001, 10.0)
    roles = Roles({}, caller)
    refused: list[tuple[str, int]] = []
    for form in ("unary", "batch", "stream"):
        create(tmp_path / form, roles)
        quota = Quota(tmp_path / form, roles, on_refused=lambda name, items: refused.append((name, items)))
        callers = Callers.plaintext(loopback=False, roles=roles)
        async with served(callers, quota=quota) as tiny, grpc.aio.insecure_channel(tiny.address) as channel:
            stub = _stub(channel)
            answers = 0
            if form == "unary":
                for _ in range(10):
                    await stub.Check(CheckRequest())
                answers = 10
                error = await _fails(stub.Check(CheckRequest()))
            elif form == "batch":
                for _ in range(2):
                    answers += len(
                        (await stub.BatchCheck(check_pb2.BatchCheckRequest(items=[CheckRequest()] * 5))).items
                    )
                error = await _fails(stub.BatchCheck(check_pb2.BatchCheckRequest(items=[CheckRequest()])))
            else:
                call = stub.StreamCheck(iter([CheckRequest(item_id=str(number)) for number in range(11)]))
                for _ in range(10):
                    await call.read()
                answers = 10
                error = await _fails(call.read())
            assert answers == 10
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert str(error.details()).startswith("quota of 0.001 checks/s used up for caller anonymous: ")
        quota.close()
    assert refused == [("anonymous", 1)] * 3


class Quickly(Tiny):
    """Answers at once where item_id begins with q; leaves to the handler what is `qleft`."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_quickly: list[Call] = []
        self.quick = {"Check": Quick(lambda raw: raw if raw[2:3] == b"q" else None, self._at_once)}

    def _at_once(self, raw: bytes, call: Call) -> bytes | None:
        self.asked_quickly.append(call)
        if raw[2:] == b"qmalformed":
            raise InvalidRequest([("item_id", "is malformed: send another")])
        return None if raw[2:] == b"qleft" else raw


async def test_a_quick_answer_costs_what_a_handlers_does(tmp_path: Path) -> None:
    """Either way a call is counted in, paid from the quota once, observed once, and its error becomes a status."""
    caller = Caller("anonymous", Role.BOOKING, None, 0.001, 4.0)
    roles = Roles({}, caller)
    create(tmp_path / "quota", roles)
    quota = Quota(tmp_path / "quota", roles, on_refused=lambda name, items: None)
    seen: list[tuple[grpc.StatusCode, int]] = []
    servicer = Quickly()

    def observe(method: str, code: grpc.StatusCode, seconds: float, items: int) -> None:
        seen.append((code, items))

    callers = Callers.plaintext(loopback=False, roles=roles)
    async with (
        served(callers, quota=quota, observe=observe, servicer=servicer) as tiny,
        grpc.aio.insecure_channel(tiny.address) as channel,
    ):
        stub = _stub(channel)
        answers = [(await stub.Check(CheckRequest(item_id=item_id))).item_id for item_id in ("q", "qleft", "slow")]
        malformed = await _fails(stub.Check(CheckRequest(item_id="qmalformed")))
        overdrawn = await _fails(stub.Check(CheckRequest(item_id="q")))
        await _until(lambda: len(seen) == 5)
        assert tiny.guard.admission.in_flight == tiny.guard.live == 0
    quota.close()

    assert answers == ["q", "qleft", "slow"]
    assert [call.caller for call in servicer.asked_quickly] == [caller] * 3
    assert len(servicer.calls) == 2
    assert malformed.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert overdrawn.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert [code for code, _ in seen] == [grpc.StatusCode.OK] * 3 + [malformed.code(), overdrawn.code()]


async def test_a_malformed_request_says_which_field_in_status_details() -> None:
    """INVALID_ARGUMENT carries a google.rpc.BadRequest that any client library can read."""
    async with served() as tiny, grpc.aio.insecure_channel(tiny.address) as channel:
        error = await _fails(_stub(channel).Check(CheckRequest(item_id="malformed")))

        status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
        details = error_details_pb2.BadRequest()
        assert status.details[0].Unpack(details)
        assert (error.code(), status.code) == (grpc.StatusCode.INVALID_ARGUMENT, 3)
        assert [(v.field, v.description) for v in details.field_violations] == [
            ("purchase.train.train_code", "is missing: send the printed code")
        ]


async def test_bytes_that_are_no_message_are_invalid_argument() -> None:
    """Unreadable bytes are the caller's error on unary calls and streams alike, and are quoted nowhere."""
    async with served() as tiny, grpc.aio.insecure_channel(tiny.address) as channel:
        raw: Any = channel  # without serialisers, which its type does not allow for
        unary = await _fails(raw.unary_unary(CHECK)(b"\xff\xff"))
        stream = raw.stream_stream("/checker.v1.CheckService/StreamCheck")(iter([b"\xff\xff"]))
        streamed = await _fails(stream.read())

        for error in (unary, streamed):
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert str(error.details()).startswith("request: not a message /checker.v1.CheckService/")


async def test_an_unexpected_exception_shows_its_text_to_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """The client gets INTERNAL with an id, the log the same id, type and place; the text, which may quote, neither."""
    with caplog.at_level(logging.DEBUG):
        async with served() as tiny, grpc.aio.insecure_channel(tiny.address) as channel:
            stub = _stub(channel)
            unary = await _fails(stub.Check(CheckRequest(item_id="boom")))
            stream = stub.StreamCheck(iter([CheckRequest(item_id="boom")]))
            streamed = await _fails(stream.read())

    for error in (unary, streamed):
        assert error.code() is grpc.StatusCode.INTERNAL
        identifier = str(error.details()).split()[2].rstrip(":")
        assert len(identifier) == 12
        assert identifier in caplog.text
        assert SECRET not in repr(error)
    assert "ValueError at " in caplog.text
    assert "servicer.py:" in caplog.text
    assert SECRET not in caplog.text


def test_describe_follows_causes_and_groups_without_a_text() -> None:
    """Every exception of a chain and of a group is named by type; no text of any of them appears."""
    group = ExceptionGroup(SECRET, [ValueError(SECRET), OSError(SECRET)])
    group.__cause__ = KeyError(SECRET)

    text = describe(group)

    assert [name in text for name in ("KeyError", "ExceptionGroup", "ValueError", "OSError")] == [True] * 4
    assert SECRET not in text


async def test_a_role_that_may_not_call_is_told_which_may() -> None:
    """A court asking a check is PERMISSION_DENIED with the role needed and the role had; the rulebook it may read."""
    court = Callers(lambda _peer: Caller("court-1", Role.COURT, detail=True))
    async with served(court) as tiny, grpc.aio.insecure_channel(tiny.address) as channel:
        stub = _stub(channel)
        for call in (stub.Check(CheckRequest()), stub.StreamCheck(iter([CheckRequest()])).read()):
            error = await _fails(call)
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED
            assert "needs role booking or edge or operator; caller court-1 has role court: " in str(error.details())
        assert (await stub.GetRulebook(check_pb2.GetRulebookRequest())).version == "1"
        assert tiny.servicer.calls == []


@pytest.mark.parametrize("servicer", [Tiny, Writing])
async def test_streams_answer_every_item_whatever_the_handlers_form(servicer: type[Tiny]) -> None:
    """Yielding and writing handlers both answer 500 items through a window of 8, and the caller sees OK."""
    async with served(servicer=servicer(), limits=Limits(stream_in_flight=8)) as tiny:
        async with grpc.aio.insecure_channel(tiny.address) as channel:
            call = _stub(channel).StreamCheck(iter([CheckRequest(item_id=str(number)) for number in range(500)]))
            answers = [answer.item_id async for answer in call]

            assert sorted(answers, key=int) == [str(number) for number in range(500)]
            assert await call.code() is grpc.StatusCode.OK
        await _until(lambda: tiny.guard.live == 0)
        assert tiny.guard.admission.in_flight == 0


async def test_a_stream_is_read_no_further_than_its_window() -> None:
    """While 4 items of a stream are unanswered a fifth is not read: its sender is slowed, not refused."""
    limits = Limits(stream_in_flight=4)
    async with served(servicer=Writing(), limits=limits) as tiny, grpc.aio.insecure_channel(tiny.address) as channel:
        call = _stub(channel).StreamCheck(iter([CheckRequest(item_id="wait")] * 10))
        await _until(lambda: tiny.servicer.waiting == 4)
        await _stub(channel).Check(CheckRequest())  # a whole round trip later
        assert tiny.servicer.waiting == 4

        tiny.servicer.released.set()
        assert len([answer async for answer in call]) == 10


async def test_a_stream_ends_at_its_lifetime_with_everything_read_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """At its lifetime a busy stream's items are still answered, then the caller is told to open a new one."""
    limits = Limits(stream_lifetime=1234.5)
    loop = asyncio.get_running_loop()
    ends: list[Any] = []
    later = loop.call_later

    def call_later(delay: float, callback: Any, *arguments: Any, **more: Any) -> asyncio.TimerHandle:
        if delay == limits.stream_lifetime:
            ends.append(callback)  # the test says when that time is over
        return later(delay, callback, *arguments, **more)

    monkeypatch.setattr(loop, "call_later", call_later)
    async with served(servicer=Writing(), limits=limits) as tiny, grpc.aio.insecure_channel(tiny.address) as channel:
        call = _stub(channel).StreamCheck()
        await call.write(CheckRequest(item_id="wait"))
        await call.write(CheckRequest(item_id="wait"))
        await _until(lambda: tiny.servicer.waiting == 2)
        (end,) = ends
        end()
        tiny.servicer.released.set()

        assert [(await call.read()).item_id for _ in range(2)] == ["wait", "wait"]
        error = await _fails(call.read())
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert str(error.details()).startswith("the stream is at its lifetime or the service is stopping")


async def test_a_thousand_cancelled_streams_leave_nothing_behind() -> None:
    """After 1,000 streams cancelled by their callers no task, call, item or file is left, and memory has not grown."""
    process = psutil.Process(os.getpid())
    async with served(servicer=Writing()) as tiny, grpc.aio.insecure_channel(tiny.address) as channel:
        stub = _stub(channel)

        async def cancel(count: int) -> None:
            for _ in range(count // 50):
                tiny.servicer.waiting = 0
                calls = [stub.StreamCheck() for _ in range(50)]
                for call in calls:
                    await call.write(CheckRequest(item_id="wait"))
                await _until(lambda: tiny.servicer.waiting == 50)
                for call in calls:
                    call.cancel()
                await _until(lambda: tiny.guard.live == 0)
            gc.collect()

        await cancel(200)
        tasks, memory = len(asyncio.all_tasks()), process.memory_info().rss
        await cancel(1000)

        await _until(lambda: len(asyncio.all_tasks()) <= tasks)
        assert tiny.guard.admission.in_flight == 0
        assert process.memory_info().rss - memory < 8_000_000


async def test_every_call_is_observed_with_its_status_and_items() -> None:
    """`observe` sees method, status and weight of each call, refused and failed ones too."""
    seen: list[tuple[str, str, int]] = []
    observed = lambda method, code, seconds, items: seen.append((method.rpartition("/")[2], code.name, items))  # noqa: E731
    async with served(observe=observed) as tiny, grpc.aio.insecure_channel(tiny.address) as channel:
        stub = _stub(channel)
        await stub.Check(CheckRequest())
        await stub.BatchCheck(check_pb2.BatchCheckRequest(items=[CheckRequest()] * 7))
        await _fails(stub.Check(CheckRequest(item_id="boom")))
        await _fails(stub.Check(CheckRequest(), timeout=0.004))
        assert [answer.item_id async for answer in stub.StreamCheck(iter([CheckRequest(item_id="a")] * 3))] == ["a"] * 3
        await _until(lambda: tiny.guard.live == 0)

    assert ("Check", "OK", 1) in seen
    assert ("BatchCheck", "OK", 7) in seen
    assert ("Check", "INTERNAL", 1) in seen
    assert ("StreamCheck", "OK", 3) in seen


async def test_methods_left_to_the_generated_base_are_unimplemented() -> None:
    """A servicer with one method serves that one; the others are UNIMPLEMENTED, and nothing of theirs is run."""

    class One(check_pb2_grpc.CheckServiceServicer):
        async def Check(self, request: CheckRequest, context: Any) -> check_pb2.CheckResponse:  # noqa: N802 -- RPC name
            return check_pb2.CheckResponse(item_id=request.item_id)

    async with served(servicer=One()) as one, grpc.aio.insecure_channel(one.address) as channel:  # type: ignore[abstract, arg-type]
        assert (await _stub(channel).Check(CheckRequest(item_id="a"))).item_id == "a"
        error = await _fails(_stub(channel).GetRulebook(check_pb2.GetRulebookRequest()))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        one.servicer.released = asyncio.Event()  # what `served` sets at the end


def test_handlers_registered_in_other_ways_are_refused() -> None:
    """What would slip past the wrapper cannot be registered through it."""

    class Anything(grpc.GenericRpcHandler):
        def service(self, handler_call_details: Any) -> Any:
            return None

    guard = Guard(Callers.plaintext(loopback=True))
    with pytest.raises(TypeError, match="only services with generated code"):
        guard.protect(object()).add_generic_rpc_handlers((Anything(),))  # type: ignore[arg-type]
