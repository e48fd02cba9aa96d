"""Claims about one server's life: readiness, drain, sockets, what is open to all."""

import asyncio
import contextlib
import logging
import socket
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from checker.errors import UsageError
from checker.rpc.roles import Caller, Callers, Role
from checker.rpc.server import CHECK_SERVICE, ServerSettings, remove_stale_socket
from proto.checker.v1 import check_pb2, check_pb2_grpc
from tests.rpc.servicer import QUICK, served

CheckRequest = check_pb2.CheckRequest
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def _stub(channel: grpc.aio.Channel) -> Any:
    return check_pb2_grpc.CheckServiceStub(channel)


async def _until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 -- what is waited for is the server's, it has no event of ours
            await asyncio.sleep(0.005)


async def test_readiness_goes_first_then_calls_in_progress_finish() -> None:
    """On drain readiness is NOT_SERVING while calls are still taken; a call in progress is answered; nothing is cut."""
    settings = ServerSettings(drain_pause=0.3, drain_grace=60.0)
    noticed = asyncio.Event()

    async def held_up() -> None:
        with contextlib.suppress(TimeoutError):  # the test has failed
            async with asyncio.timeout(60):
                await noticed.wait()

    async with (
        served(settings=settings, on_drain=held_up) as tiny,
        grpc.aio.insecure_channel(tiny.address) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service=CHECK_SERVICE))
        assert (await watch.read()).status == SERVING
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == SERVING
        held = asyncio.ensure_future(_stub(channel).Check(CheckRequest(item_id="wait")))
        await _until(lambda: tiny.servicer.waiting)

        start = time.monotonic()
        draining = asyncio.create_task(tiny.server.drain())
        assert (await watch.read()).status == NOT_SERVING
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
        await _stub(channel).Check(CheckRequest(item_id="still taken"))
        noticed.set()
        await _until(lambda: tiny.guard._idle)  # new calls are no longer taken
        assert time.monotonic() - start > 0.29
        tiny.servicer.released.set()

        assert (await held).item_id == "wait"
        assert await draining == 0


async def test_answers_made_at_the_last_moment_are_still_sent() -> None:
    """300 calls that end all at once, while the server waits for exactly them, are all answered."""
    settings = ServerSettings(drain_pause=0.01)
    async with served(settings=settings) as tiny, grpc.aio.insecure_channel(tiny.address) as channel:
        held = [asyncio.ensure_future(_stub(channel).Check(CheckRequest(item_id="wait"))) for _ in range(300)]
        await _until(lambda: tiny.servicer.waiting == 300)
        draining = asyncio.create_task(tiny.server.drain())
        await _until(lambda: tiny.guard._idle)
        tiny.servicer.released.set()

        assert len(await asyncio.gather(*held)) == 300
        assert await draining == 0


async def test_drain_ends_streams_without_losing_what_was_read() -> None:
    """An idle stream and a busy one: both end UNAVAILABLE in far less than the grace, the busy one's item answered."""
    settings = QUICK._replace(drain_grace=60.0)
    async with served(settings=settings) as tiny, grpc.aio.insecure_channel(tiny.address) as channel:
        idle, busy = _stub(channel).StreamCheck(), _stub(channel).StreamCheck()
        await idle.write(CheckRequest(item_id="a"))
        assert (await idle.read()).item_id == "a"
        await busy.write(CheckRequest(item_id="wait"))
        await _until(lambda: tiny.servicer.waiting)

        start = time.monotonic()
        draining = asyncio.create_task(tiny.server.drain())
        await _until(lambda: tiny.guard._idle)
        tiny.servicer.released.set()
        assert (await busy.read()).item_id == "wait"
        for stream in (idle, busy):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stream.read()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await draining == 0
        assert time.monotonic() - start < 30


async def test_what_outlives_the_grace_is_cut_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Two calls that never end are cut off when the grace is over, and the log says two."""
    settings = ServerSettings(drain_pause=0.01, drain_grace=0.2)
    async with served(settings=settings) as tiny, grpc.aio.insecure_channel(tiny.address) as channel:
        held = [asyncio.ensure_future(_stub(channel).Check(CheckRequest(item_id="wait"))) for _ in range(2)]
        await _until(lambda: tiny.servicer.waiting == 2)
        with caplog.at_level(logging.WARNING, "checker.rpc"):
            assert await tiny.server.drain() == 2
        assert "2 calls were cut off after 0.2 s of grace" in caplog.text
        results = await asyncio.gather(*held, return_exceptions=True)
        assert all(isinstance(result, grpc.aio.AioRpcError) for result in results)


async def test_health_and_reflection_are_open_to_callers_without_a_role() -> None:
    """A load balancer without any role reads readiness, and a tool finds the services; the checks stay closed."""

    def nobody(_peer: object) -> Caller:
        return Caller("nobody", Role.COURT)

    async with served(Callers(nobody)) as tiny, grpc.aio.insecure_channel(tiny.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", CHECK_SERVICE):
            assert (await health.Check(health_pb2.HealthCheckRequest(service=service))).status == SERVING
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        listed = [service.name for service in (await call.read()).list_services_response.service]
        assert {CHECK_SERVICE, "grpc.health.v1.Health"} <= set(listed)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _stub(channel).Check(CheckRequest())
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_unix_socket_is_served_and_its_stale_file_replaced(tmp_path: Path) -> None:
    """A socket file nobody serves is replaced; one that is served is refused, and goes on serving."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async with served(listen=f"unix:{path}") as tiny, grpc.aio.insecure_channel(tiny.address) as channel:
        assert tiny.address == f"unix:{path}"
        with pytest.raises(UsageError, match="another process serves on it"):
            await asyncio.to_thread(remove_stale_socket, tiny.address)
        assert (await _stub(channel).Check(CheckRequest(item_id="x"))).item_id == "x"


def test_other_files_are_never_deleted_for_a_socket(tmp_path: Path) -> None:
    """A file that is no socket stays where it is; a missing folder is named."""
    precious = tmp_path / "precious"
    precious.write_text("kept")

    with pytest.raises(UsageError, match="this file is no socket"):
        remove_stale_socket(f"unix:{precious}")
    assert precious.read_text() == "kept"
    with pytest.raises(UsageError, match="its folder does not exist"):
        remove_stale_socket(f"unix:{tmp_path}/no/s")


async def test_a_port_in_use_is_refused() -> None:
    """A second server on a used port is refused, not silently given a share of its calls."""
    async with served() as tiny:
        with pytest.raises(UsageError, match="cannot be listened on"):
            async with served(listen=tiny.address):
                pass


async def test_connections_are_asked_to_renew_and_no_call_fails() -> None:
    """With a connection age of 0.2 s a client that calls on renews its connection again and again and sees no error."""
    settings = QUICK._replace(connection_age=0.2, connection_grace=5.0)
    peers: set[str] = set()

    def identify(peer: Any) -> Caller:
        peers.add(peer.peer())
        return Caller("a", Role.BOOKING)

    callers = Callers(identify)
    async with served(callers, settings=settings) as tiny, grpc.aio.insecure_channel(tiny.address) as channel:
        async with asyncio.timeout(30):
            while len(peers) < 3:
                await _stub(channel).Check(CheckRequest())


async def test_a_message_over_the_limit_is_refused() -> None:
    """A request larger than the message limit is RESOURCE_EXHAUSTED and never parsed."""
    async with served(settings=QUICK._replace(max_message=1000)) as tiny:
        async with grpc.aio.insecure_channel(tiny.address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await _stub(channel).Check(CheckRequest(item_id="x" * 2000))
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert tiny.servicer.calls == []
