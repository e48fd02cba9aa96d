"""Claims about the alarm against enumeration, on a service of real processes: what it logs and what its page counts."""

import json
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

import grpc

from checker.rpc.quota import ALARM_SECONDS
from proto.checker.v1 import check_pb2 as pb
from proto.checker.v1 import check_pb2_grpc
from tests.builders import DEBTOR
from tests.paths.stand import Checker, Stand
from tests.ports import free_port
from tests.rpc.certificates import Authority
from tests.waiting import until

GREEDY, MODEST = "spiffe://shop.example/greedy", "spiffe://shop.example/modest"


class Service(NamedTuple):
    """A checker that knows two callers, both with a quota."""

    checker: Checker
    page: str
    channels: dict[str, grpc.Channel]


def a_service(stand: Stand, folder: Path) -> Service:
    """One worker: each has a log of its own clock."""
    authority = Authority(folder)
    server = authority.issue("server", server=True)
    roles = folder / "roles.toml"
    callers = (f'[[caller]]\nuri = "{uri}"\nrole = "booking"\nrate = 1\nburst = 5\n' for uri in (GREEDY, MODEST))
    roles.write_text("".join(callers), "utf-8")
    page = f"127.0.0.1:{free_port()}"
    checker = stand.serve(
        *("--tls-cert", server.cert, "--tls-key", server.key, "--tls-client-ca", authority.cert, "--roles", roles),
        *("--metrics-listen", page, "--log-format", "json"),
    )
    channels = {}
    for name, uri in (("greedy", GREEDY), ("modest", MODEST)):
        own = authority.issue(name, uri=uri)
        files = (authority.cert, own.key, own.cert)
        credentials = grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))
        channels[uri] = grpc.secure_channel(checker.address, credentials)
    return Service(checker, page, channels)


def refused(channel: grpc.Channel, batches: int, items: int) -> int:
    """How many of these items the quota refused."""
    question = pb.CheckRequest()
    question.subject.document.number = DEBTOR
    question.subject.document.type = pb.DOCUMENT_TYPE_RESIDENT_ID
    question.purchase.flight.SetInParent()
    stub = check_pb2_grpc.CheckServiceStub(channel)
    count = 0
    for _ in range(batches):
        try:
            stub.BatchCheck(pb.BatchCheckRequest(items=[question] * items), timeout=30, wait_for_ready=True)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            count += items
    return count


def counted(page: str) -> dict[str, float]:
    """Refused items by caller, as the metrics page has them."""
    with urllib.request.urlopen(f"http://{page}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = [line for line in lines if line.startswith("checker_quota_refused_total{")]
    return {line.split('"')[1]: float(line.split()[-1]) for line in found}


def test_who_is_refused_is_named_and_counted_without_a_flood(tmp_path: Path) -> None:
    """Hundreds of refusals: the page counts every item by caller, the log names each caller, a few times at most."""
    stand = Stand(tmp_path, "memory:")
    try:
        service = a_service(stand, tmp_path)
        began = time.monotonic()
        expected = {
            GREEDY: refused(service.channels[GREEDY], 300, 3),
            MODEST: refused(service.channels[MODEST], 1, 6),
        }
        seconds = time.monotonic() - began
        assert expected[MODEST] == 6
        assert expected[GREEDY] > 3 * ALARM_SECONDS
        until(lambda: counted(service.page) == expected, 30)
        log = service.checker.log.read_text("utf-8")
        lines = [json.loads(line) for line in log.splitlines() if "quota used up" in line]
        for channel in service.channels.values():
            channel.close()
    finally:
        stand.close()

    assert {line["caller"] for line in lines} == {GREEDY, MODEST}
    assert len([line for line in lines if line["caller"] == GREEDY]) <= 1 + seconds / ALARM_SECONDS
    for line in lines:
        assert 0 < line["items"] <= line["refused"] <= expected[line["caller"]]
        assert line["level"] == "warning"
    assert DEBTOR not in log
