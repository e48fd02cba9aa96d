"""Claims about certificates: the matrix over real sockets, reload without restart, what is refused at start."""

import datetime
import logging
import os
import re
from pathlib import Path
from typing import Any

import grpc
import pytest

from checker.errors import UsageError
from checker.rpc.client import open_channel
from checker.rpc.roles import Callers, Roles, parse_roles
from checker.rpc.tls import Reloader, TlsFiles, check_listen, is_loopback, load, server_credentials
from proto.checker.v1 import check_pb2, check_pb2_grpc
from tests.rpc.certificates import Authority, Pair
from tests.rpc.servicer import served

RAIL = "spiffe://xianxiao.example/rail/12306-a"
COURT = "spiffe://xianxiao.example/court/1"
ROLES = parse_roles(
    f"""
    [[caller]]
    uri = "{RAIL}"
    role = "booking"
    purchases = ["train"]
    [[caller]]
    uri = "{COURT}"
    role = "court"
    """,
    "r",
)
TRAIN = check_pb2.CheckRequest(purchase=check_pb2.Purchase(train=check_pb2.TrainSeat(train_code="G1")))
FLIGHT = check_pb2.CheckRequest(purchase=check_pb2.Purchase(flight=check_pb2.Flight()))


CLOSED = r"failed to connect to all addresses; last error: [A-Z]+: ipv4:{}: (Socket closed|.*[Rr]eset by peer.*)"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def _files(authority: Authority, *, mutual: bool = True) -> TlsFiles:
    pair = authority.issue("server", server=True)
    return TlsFiles(pair.cert, pair.key, authority.cert if mutual else None)


async def _ask(address: str, ca: Path, pair: Pair | None, request: Any = TRAIN) -> Any:
    cert, key = (pair.cert, pair.key) if pair else (None, None)
    async with open_channel(address, ca=ca, cert=cert, key=key) as channel:
        # A refused handshake is retried by the channel, a few times; the deadline is for a machine that is busy.
        return await check_pb2_grpc.CheckServiceStub(channel).Check(request, timeout=30)


async def _status(*args: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _ask(*args)
    return caught.value.code(), str(caught.value.details())


async def test_mutual_tls_lets_in_exactly_whom_the_roles_file_names(authority: Authority, tmp_path: Path) -> None:
    """The matrix: each kind of client certificate with its exact status; only the right role gets an answer.

    A certificate that TLS itself refuses ends the connection, so that client sees UNAVAILABLE and no reason: only that
    whoever listens there closed it.
    """
    stranger = Authority(tmp_path, "stranger")
    right = authority.issue("rail", uri=RAIL)
    connection_refused = [
        None,
        stranger.issue("foreign", uri=RAIL),
        authority.issue("old", uri=RAIL, expired=True),
    ]
    denied = [
        (
            authority.issue("court", uri=COURT),
            TRAIN,
            f"CheckService/Check needs role booking or edge or operator; caller {COURT} has role court: "
            "ask the operator to change the roles file",
        ),
        (
            right,
            FLIGHT,
            f"purchase kind flight is not granted; caller {RAIL} with role booking may ask about train: "
            "ask the operator to add flight to its purchases in the roles file",
        ),
        (
            authority.issue("unknown", uri="spiffe://xianxiao.example/new"),
            TRAIN,
            "the client certificate's URI spiffe://xianxiao.example/new is not in the roles file: "
            "ask the operator to add it",
        ),
        (
            authority.issue("nameless", common_name=RAIL),
            TRAIN,
            "the client certificate has no SAN URI: issue one with a URI of the roles file",
        ),
    ]
    async with served(Callers.tls(ROLES), credentials=server_credentials(_files(authority))) as tiny:
        assert (await _ask(tiny.address, authority.cert, right)).outcome == check_pb2.OUTCOME_ALLOWED
        for pair, request, says in denied:
            status = await _status(tiny.address, authority.cert, pair, request)
            assert status == (grpc.StatusCode.PERMISSION_DENIED, says)
        for bad in connection_refused:
            code, details = await _status(tiny.address, authority.cert, bad)
            assert code is grpc.StatusCode.UNAVAILABLE
            assert re.fullmatch(CLOSED.format(re.escape(tiny.address)), details), details
        assert [call.caller.name for call in tiny.servicer.calls] == [RAIL, RAIL]


async def test_without_client_certificates_only_the_anonymous_caller_exists(authority: Authority) -> None:
    """Server-side TLS alone: PERMISSION_DENIED asking for a certificate, unless the roles file has [anonymous]."""
    files = _files(authority, mutual=False)
    anonymous = parse_roles('[anonymous]\nrole = "booking"\npurchases = ["train"]\n', "r")

    async with served(Callers.tls(ROLES), credentials=server_credentials(files)) as tiny:
        assert await _status(tiny.address, authority.cert, None) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "no client certificate: present one whose SAN URI is in the service's roles file (mutual TLS)",
        )
    async with served(Callers.tls(anonymous), credentials=server_credentials(files)) as tiny:
        assert (await _ask(tiny.address, authority.cert, None)).outcome == check_pb2.OUTCOME_ALLOWED
        assert (await _status(tiny.address, authority.cert, None, FLIGHT))[0] is grpc.StatusCode.PERMISSION_DENIED


async def test_a_client_refuses_a_server_of_another_authority(authority: Authority, tmp_path: Path) -> None:
    """A client that trusts another authority does not talk to this server."""
    stranger = Authority(tmp_path, "stranger")
    async with served(Callers.tls(ROLES), credentials=server_credentials(_files(authority))) as tiny:
        code, details = await _status(tiny.address, stranger.cert, authority.issue("rail", uri=RAIL))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate" in details


async def test_new_certificates_are_served_without_a_restart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Files replaced by another authority's are what new connections see; a broken file changes nothing."""
    first, second = Authority(tmp_path, "first"), Authority(tmp_path, "second")
    anonymous = parse_roles('[anonymous]\nrole = "booking"\n', "r")
    files = _files(first, mutual=False)
    async with served(Callers.tls(anonymous), credentials=server_credentials(files)) as tiny:
        await _ask(tiny.address, first.cert, None)
        good = files.cert.read_bytes()
        files.cert.write_bytes(b"half a file")
        with caplog.at_level(logging.ERROR, "checker.rpc"):
            await _ask(tiny.address, first.cert, None)
        assert "new certificates refused, the old ones stay" in caplog.text
        files.cert.write_bytes(good)

        second.issue("server", server=True)  # the same files
        await _ask(tiny.address, second.cert, None)
        assert (await _status(tiny.address, first.cert, None))[0] is grpc.StatusCode.UNAVAILABLE


def test_unchanged_files_are_not_read_again(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new connection costs three `stat` calls; only a moved time or size makes the files be read."""
    files = _files(authority)
    reloader = Reloader(files)
    assert reloader.fetch() is None
    os.utime(files.cert, ns=(1, 1))

    assert reloader.fetch() is not None
    assert reloader.fetch() is None


def test_files_that_cannot_be_served_with_are_named(authority: Authority, tmp_path: Path) -> None:
    """Missing, unreadable and mismatched files are UsageErrors that name the file; an expired one is a warning."""
    now = datetime.datetime.now(datetime.UTC)
    good, other = authority.issue("good", server=True), authority.issue("other", server=True)
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    for files, says in [
        (TlsFiles(tmp_path / "no.pem", good.key), "TLS certificate .*no.pem: cannot be read: No such file"),
        (TlsFiles(junk, good.key), "TLS certificate .*junk.pem: holds no readable PEM certificate"),
        (TlsFiles(good.cert, junk), "TLS key .*junk.pem: is not an unencrypted PEM private key"),
        (TlsFiles(good.cert, other.key), "TLS key .*other.key: does not match certificate .*good.pem"),
        (TlsFiles(good.cert, good.key, junk), "TLS client authority .*junk.pem: holds no readable PEM"),
    ]:
        with pytest.raises(UsageError, match=says):
            load(files, now)

    old = authority.issue("old", server=True, expired=True)
    _, warnings = load(TlsFiles(old.cert, old.key), now)
    assert [warning.split(": ")[1][:10] for warning in warnings] == ["expired at"]
    assert load(TlsFiles(good.cert, good.key), now)[1] == []


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/tmp/x", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("localhost.example.com:1", False),
        ("127.0.0.1.example.com:1", False),
        ("[::ffff:10.0.0.1]:1", False),
        (":1", False),
    ],
)
def test_only_addresses_that_nobody_else_can_reach_are_loopback(address: str, loopback: bool) -> None:
    """What counts as loopback decides who has all roles, so names and look-alikes do not."""
    assert is_loopback(address) is loopback


def test_listening_openly_needs_tls_or_a_word(authority: Authority) -> None:
    """Plaintext beyond loopback is refused unless asked for by name; TLS that would let nobody in is refused too."""
    mutual, one_sided = _files(authority), _files(authority, mutual=False)
    anonymous = parse_roles('[anonymous]\nrole = "booking"\n', "r")
    check_listen("127.0.0.1:1", None, insecure_plaintext=False, roles=None)
    check_listen("unix:/tmp/x", None, insecure_plaintext=False, roles=None)
    check_listen("0.0.0.0:1", None, insecure_plaintext=True, roles=None)
    check_listen("0.0.0.0:1", mutual, insecure_plaintext=False, roles=ROLES)
    check_listen("0.0.0.0:1", one_sided, insecure_plaintext=False, roles=anonymous)

    for address, tls, roles, says in [
        ("0.0.0.0:1", None, ROLES, "say --insecure-plaintext"),
        ("unix:/tmp/x", mutual, ROLES, "TLS on a Unix socket gives nothing"),
        ("0.0.0.0:1", mutual, None, "give --roles FILE"),
        ("0.0.0.0:1", one_sided, ROLES, "nobody could call: give --tls-client-ca"),
    ]:
        with pytest.raises(UsageError, match=says):
            check_listen(address, tls, insecure_plaintext=False, roles=roles)


def test_a_client_certificate_needs_its_key_and_tls(tmp_path: Path) -> None:
    """Half a client identity is refused with the remedy before anything connects."""
    for given, says in [
        ({"cert": tmp_path / "c"}, "give both or neither"),
        ({"cert": tmp_path / "c", "key": tmp_path / "k"}, "needs TLS"),
        ({"ca": tmp_path / "ca"}, "ca: cannot be read"),
    ]:
        with pytest.raises(UsageError, match=says):
            open_channel("127.0.0.1:1", **given)  # type: ignore[arg-type]


def test_roles_without_callers_are_possible() -> None:
    """An empty roles file is valid: it lets nobody in over TLS."""
    assert parse_roles("", "r") == Roles({}, None)
