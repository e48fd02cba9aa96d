"""Claims about what edges are served: the right bytes from anywhere, refusals that say when to come back, keys to
nobody else, and checks that go on whatever edges do."""

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from checker.index.base import CHUNK_BYTES
from checker.rpc.client import open_channel
from checker.rpc.interceptors import Limits
from checker.rpc.roles import Callers, Roles, parse_roles
from checker.rpc.tls import TlsFiles, server_credentials
from checker.serving import filter_service, follower, hub
from checker.serving.filter_service import Admitted
from proto.checker.v1 import check_pb2, check_pb2_grpc, filter_pb2_grpc
from proto.checker.v1 import filter_pb2 as pb
from tests.rpc.certificates import Authority, Pair
from tests.serving.centre import KEYS, Centre, Watcher, a_centre, message_of, publish
from tests.serving.edges import retry_s
from tests.serving.stand import Shelf, a_shelf
from tests.waiting import eventually

SIZE = 3 * CHUNK_BYTES + 1234
EXHAUSTED, INVALID = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND, DENIED = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED
TRAIN = check_pb2.CheckRequest(
    subject=check_pb2.Subject(
        document=check_pb2.Document(type=check_pb2.DOCUMENT_TYPE_RESIDENT_ID, number="440524188001010014")
    ),
    purchase=check_pb2.Purchase(train=check_pb2.TrainSeat(train_code="G1", seat_code="9")),
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "POLL_S", 0.02)
    monkeypatch.setattr(hub, "PUBLICATION_S", 0.05)


@pytest.fixture
async def shelf() -> Shelf:
    return await a_shelf()


@pytest.fixture
async def centre(shelf: Shelf, tmp_path: Path) -> AsyncIterator[Centre]:
    async with a_centre(shelf, tmp_path / "filter") as made:
        yield made


@pytest.fixture
async def stub(centre: Centre) -> AsyncIterator[Any]:
    async with open_channel(centre.address) as channel:
        yield filter_pb2_grpc.FilterServiceStub(channel)


async def download(stub: Any, epoch: int, offset: int = 0, centre_id: bytes = b"") -> bytes:
    """The bytes from `offset` on; asserts that each chunk is where it says, and no larger than promised."""
    got = bytearray()
    async for chunk in stub.GetSnapshot(pb.GetSnapshotRequest(epoch=epoch, offset=offset, centre_id=centre_id)):
        assert chunk.offset == offset + len(got)
        assert 0 < len(chunk.data) <= CHUNK_BYTES
        got += chunk.data
    return bytes(got)


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    """The status a call ends with, and its text."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), str(caught.value.details())


# -- manifest and snapshot


async def test_there_is_no_manifest_until_there_is(shelf: Shelf, stub: Any) -> None:
    """NOT_FOUND while nothing is published; then the newest within about a second, exactly as it was signed."""
    assert await refused(stub.GetManifest(pb.GetManifestRequest())) == (
        NOT_FOUND,
        "no snapshot is published yet: ask again in a while",
    )
    first, _ = await publish(shelf, 1, SIZE)
    await asyncio.sleep(0.1)
    answer = await stub.GetManifest(pb.GetManifestRequest())
    assert (answer.manifest, answer.signature, answer.rulebook) == (first.manifest, first.signature, first.rulebook)
    second, _ = await publish(shelf, 2, SIZE)
    await asyncio.sleep(0.1)
    assert (await stub.GetManifest(pb.GetManifestRequest())).manifest == second.manifest


@pytest.mark.parametrize("size", [1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, SIZE])
async def test_a_download_goes_on_from_any_byte(shelf: Shelf, stub: Any, size: int) -> None:
    """From each offset the rest of the snapshot arrives, no byte twice or missing; at its size nothing."""
    _, snapshot = await publish(shelf, 1, size)
    draw = random.Random(size)
    interesting = {0, 1, size - 1, size, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, draw.randrange(size)}
    for offset in sorted(each for each in interesting if each <= size):
        assert await download(stub, 1, offset) == snapshot[offset:]
    for offset in (size + 1, size + CHUNK_BYTES, size + 50 * CHUNK_BYTES, 2**63):
        code, text = await refused(download(stub, 1, offset))
        assert (code, text) == (INVALID, "offset: is beyond the snapshot's size: start the download again")


async def test_what_is_gone_is_said_to_be_gone(shelf: Shelf, stub: Any) -> None:
    """An epoch not kept any more, one not made yet, and another centre's are NOT_FOUND at any offset."""
    await publish(shelf, 1, SIZE)
    await publish(shelf, 2, SIZE)
    _, snapshot = await publish(shelf, 3, SIZE)
    for epoch, centre_id in ((9, b""), (3, b"another centre's")):
        for offset in (0, SIZE, 10**9):
            assert await refused(download(stub, epoch, offset, centre_id)) == (
                NOT_FOUND,
                "this epoch is gone: ask for the manifest",
            )
    assert await download(stub, 3, 0, await shelf.publications.centre_id()) == snapshot


async def test_a_malformed_question_names_its_field(stub: Any) -> None:
    """INVALID_ARGUMENT, and which field."""
    for request, field in (
        (pb.GetSnapshotRequest(), "epoch"),
        (pb.GetSnapshotRequest(epoch=1, centre_id=b"x"), "centre_id"),
    ):
        code, text = await refused(stub.GetSnapshot(request).read())
        assert code is INVALID
        assert text.startswith(f"{field}: ")
    for position in (None, pb.Position(journal_id=b"short")):
        code, text = await refused(stub.WatchChanges(pb.WatchChangesRequest(position=position)).read())
        assert code is INVALID
        assert text.startswith("position.journal_id: ")


# -- limits


async def test_who_finds_no_room_is_told_when_to_come_back(shelf: Shelf, tmp_path: Path) -> None:
    """Beyond the limits RESOURCE_EXHAUSTED comes at once with a delay of its own for each; room is given back."""
    _, snapshot = await publish(shelf, 1, 64 * CHUNK_BYTES)
    admitted = Admitted(downloads=2, watchers=3)
    async with (
        a_centre(shelf, tmp_path / "filter", admitted=admitted) as centre,
        open_channel(centre.address) as channel,
    ):
        stub: Any = filter_pb2_grpc.FilterServiceStub(channel)
        held = [stub.GetSnapshot(pb.GetSnapshotRequest(epoch=1)) for _ in range(2)]  # unread: flow control holds them
        await eventually(lambda: centre.filters.downloads == 2)
        end = await shelf.journal_end()
        watchers = [Watcher(stub, end) for _ in range(3)]
        await asyncio.gather(*(watcher.beat() for watcher in watchers))
        delays = []
        for _ in range(20):
            for call in (
                stub.GetSnapshot(pb.GetSnapshotRequest(epoch=1)),
                stub.WatchChanges(pb.WatchChangesRequest(position=message_of(end))),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call.read()
                assert caught.value.code() is EXHAUSTED
                delays.append(retry_s(caught.value))
        low, high = filter_service.RETRY_S
        assert all(low <= delay <= high for delay in delays)
        assert max(delays) - min(delays) > (high - low) / 4
        assert centre.filters.refused == {"GetSnapshot": 20, "WatchChanges": 20}

        for call in held:
            call.cancel()
        for watcher in watchers:
            await watcher.close()
        await eventually(lambda: not centre.filters.downloads and not centre.hub.watchers)
        assert await download(stub, 1) == snapshot
        again = Watcher(stub, end)
        await again.beat()
        await again.close()


async def test_watchers_take_no_room_from_checks(shelf: Shelf, tmp_path: Path) -> None:
    """More watchers than a worker may have checks in flight, and checks are answered."""
    limits = Limits(in_flight=2)
    async with a_centre(shelf, tmp_path / "filter", limits=limits) as centre, open_channel(centre.address) as channel:
        watchers = [Watcher(filter_pb2_grpc.FilterServiceStub(channel), await shelf.journal_end()) for _ in range(10)]
        await asyncio.gather(*(watcher.beat() for watcher in watchers))
        answer = await check_pb2_grpc.CheckServiceStub(channel).Check(TRAIN, timeout=10)
        assert answer.outcome == check_pb2.OUTCOME_ALLOWED
        for watcher in watchers:
            await watcher.close()
        await eventually(lambda: not centre.hub.watchers)
        assert centre.guard.admission.in_flight == 0


# -- reports


def a_status(edge_id: str = "e-one", **fields: Any) -> pb.ReportStatusRequest:
    """A report."""
    return pb.ReportStatusRequest(status=pb.EdgeStatus(edge_id=edge_id, name="rail-a", epoch=3, **fields))


async def reported(shelf: Shelf) -> list[pb.EdgeStatus]:
    """What is kept."""
    return [pb.EdgeStatus.FromString(raw) for _, raw in await shelf.publications.edges()]


async def test_a_report_is_kept_and_answered_with_the_time(
    shelf: Shelf, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one per edge; what comes within two seconds of it, here of a minute, is answered, not kept."""
    assert filter_service.REPORT_S == 2
    monkeypatch.setattr(filter_service, "REPORT_S", 60.0)
    before_ms = time.time_ns() // 1_000_000
    answer = await stub.ReportStatus(a_status(checks=1))
    assert before_ms <= answer.time.ToMilliseconds() <= time.time_ns() // 1_000_000
    await stub.ReportStatus(a_status(checks=2))
    await stub.ReportStatus(a_status("e-two", checks=3))
    assert sorted(status.checks for status in await reported(shelf)) == [1, 3]


async def test_a_later_report_takes_the_place_of_an_earlier(
    shelf: Shelf, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After that time the next is kept."""
    monkeypatch.setattr(filter_service, "REPORT_S", 0.0)
    for checks in (1, 2):
        await stub.ReportStatus(a_status(checks=checks))
    assert [status.checks for status in await reported(shelf)] == [2]


@pytest.mark.parametrize(
    ("status", "field"),
    [
        (pb.EdgeStatus(), "edge_id"),
        (pb.EdgeStatus(edge_id="e" * 65), "edge_id"),
        (pb.EdgeStatus(edge_id="e", name="a\x1b[2J"), "name"),
        (pb.EdgeStatus(edge_id="e", version="v" * 65), "version"),
        (pb.EdgeStatus(edge_id="e", centre_id=b"short"), "centre_id"),
        (pb.EdgeStatus(edge_id="e", position=pb.Position(journal_id=b"short")), "position.journal_id"),
        (pb.EdgeStatus(edge_id="e", alarms=["a"] * 17), "alarms"),
        (pb.EdgeStatus(edge_id="e", alarms=["a" * 301]), "alarms"),
    ],
)
async def test_a_report_of_the_wrong_size_is_refused(
    shelf: Shelf, stub: Any, status: pb.EdgeStatus, field: str
) -> None:
    """Nothing of it is kept, and the field is named."""
    code, text = await refused(stub.ReportStatus(pb.ReportStatusRequest(status=status)))
    assert code is INVALID
    assert text.startswith(f"status.{field}: ")
    assert not await reported(shelf)


async def test_no_number_travels_in_an_alarm(shelf: Shelf, stub: Any) -> None:
    """Whatever an edge's own texts hold, the centre keeps none that may be a document's."""
    await stub.ReportStatus(a_status(alarms=["cannot read 440524188001010014 of 张三"]))
    (status,) = await reported(shelf)
    assert status.alarms == ["cannot read [masked] of [masked]"]


# -- who may

EDGE, OTHER_EDGE = "spiffe://xianxiao.example/edge/1", "spiffe://xianxiao.example/edge/2"
RAIL, COURT, OPERATOR = (f"spiffe://xianxiao.example/{name}" for name in ("rail", "court", "operations"))
ROLES_FILE = "".join(
    f'[[caller]]\nuri = "{uri}"\nrole = "{role}"\n'
    for uri, role in (
        (EDGE, "edge"),
        (OTHER_EDGE, "edge"),
        (RAIL, "booking"),
        (COURT, "court"),
        (OPERATOR, "operator"),
    )
)
METHODS = ("GetManifest", "GetSnapshot", "WatchChanges", "ReportStatus", "GetEdgeKeys")
REQUESTS: dict[str, Any] = {
    "GetManifest": pb.GetManifestRequest(),
    "GetSnapshot": pb.GetSnapshotRequest(epoch=1),
    "WatchChanges": pb.WatchChangesRequest(position=pb.Position(journal_id=bytes(8))),
    "ReportStatus": a_status(),
    "GetEdgeKeys": pb.GetEdgeKeysRequest(),
}


async def ask(channel: grpc.aio.Channel, method: str) -> Any:
    """One call, or the first message of its answer."""
    call = getattr(filter_pb2_grpc.FilterServiceStub(channel), method)(REQUESTS[method], timeout=5)
    return await (call.read() if method in {"GetSnapshot", "WatchChanges"} else call)


async def test_only_edges_are_served_over_mutual_tls(shelf: Shelf, tmp_path: Path) -> None:
    """The matrix: each role and each method. The keys go to an edge's certificate, and it is logged whose."""
    authority = Authority(tmp_path)
    server = authority.issue("server", server=True)
    credentials = server_credentials(TlsFiles(server.cert, server.key, authority.cert))
    callers = Callers.tls(parse_roles(ROLES_FILE, "r"))
    await publish(shelf, 1, SIZE)
    async with a_centre(shelf, tmp_path / "filter", callers=callers, credentials=credentials) as centre:
        pairs = {uri: authority.issue(uri.rpartition("/")[2], uri=uri) for uri in (EDGE, RAIL, COURT, OPERATOR)}
        for uri, pair in pairs.items():
            async with open_channel(centre.address, ca=authority.cert, cert=pair.cert, key=pair.key) as channel:
                for method in METHODS:
                    if uri == EDGE:
                        assert await ask(channel, method)
                    else:
                        code, text = await refused(ask(channel, method))
                        assert code is DENIED
                        assert text.startswith(f"FilterService/{method} needs role edge; caller {uri} has role ")


async def test_the_keys_are_what_export_edge_writes(
    shelf: Shelf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Over plaintext loopback too: the same content, no private half of any key, and a line in the log."""
    caplog.set_level(logging.WARNING)
    async with a_centre(shelf, tmp_path / "filter") as centre, open_channel(centre.address) as channel:
        content = json.loads((await ask(channel, "GetEdgeKeys")).key_file)
    from checker import keys as key_files

    key_files.export_edge(tmp_path / "edge.json", KEYS)
    assert content == json.loads((tmp_path / "edge.json").read_text())
    assert "signing_key" not in content
    assert "evidence_key" not in content
    assert any(record.caller == "loopback" for record in caplog.records if "keys" in record.message)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "callers",
    [
        Callers.plaintext(loopback=False),
        Callers.plaintext(loopback=False, roles=parse_roles('[anonymous]\nrole = "booking"\n', "r")),
        Callers.tls(Roles(anonymous=parse_roles('[anonymous]\nrole = "booking"\n', "r").anonymous)),
        Callers.tls(Roles()),
    ],
    ids=["plaintext beyond loopback", "the same, anonymous named", "TLS, anonymous", "TLS, no certificate"],
)
async def test_nobody_without_a_name_is_served(shelf: Shelf, tmp_path: Path, callers: Callers) -> None:
    """An anonymous caller, over plaintext beyond loopback or TLS without a certificate, gets nothing here."""
    await publish(shelf, 1, SIZE)
    async with a_centre(shelf, tmp_path / "filter", callers=callers) as centre, open_channel(centre.address) as channel:
        for method in METHODS:
            code, _ = await refused(ask(channel, method))
            assert code is DENIED
        assert not await reported(shelf)


async def test_no_edge_overwrites_anothers_report(shelf: Shelf, tmp_path: Path) -> None:
    """Two edges' certificates that claim the same edge id leave two rows."""
    authority = Authority(tmp_path)
    server = authority.issue("server", server=True)
    credentials = server_credentials(TlsFiles(server.cert, server.key, authority.cert))
    callers = Callers.tls(parse_roles(ROLES_FILE, "r"))
    async with a_centre(shelf, tmp_path / "filter", callers=callers, credentials=credentials) as centre:
        for number, uri in enumerate((EDGE, OTHER_EDGE)):
            pair: Pair = authority.issue(f"edge-{number}", uri=uri)
            async with open_channel(centre.address, ca=authority.cert, cert=pair.cert, key=pair.key) as channel:
                await filter_pb2_grpc.FilterServiceStub(channel).ReportStatus(a_status(checks=number))
    assert sorted(status.checks for status in await reported(shelf)) == [0, 1]
