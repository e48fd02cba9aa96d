"""Claims about `edge serve`: real processes, before a real checker, over mutual TLS and in plaintext."""

import asyncio
import itertools
import json
import stat
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from checker.rpc.client import open_channel
from edge import ClientTls, DocumentType, EdgeClient, Flight, Outcome
from proto.checker.v1 import check_pb2 as pb
from proto.checker.v1 import check_pb2_grpc, edge_pb2, edge_pb2_grpc, filter_pb2
from tests.paths import people
from tests.paths.edges import PATIENT, EdgeStand, fixed_listen, in_step
from tests.paths.stand import Caller, Callers, Checker
from tests.rpc.certificates import Authority, Pair
from tests.waiting import eventually, until

LISTED, FREED, EXEMPTED, CLEAR, LATIN = (people.resident_id(number) for number in (1, 2, 3, 4, 5))
PASSPORT = "E00001234"
FOREIGN = "X1234567"
URI = "spiffe://xianxiao.example/"
PATIENTLY = ("--centre-timeout-ms", "5000")


def feed_lines() -> list[dict[str, Any]]:
    foreigner = people.add(6, "m-foreign", LATIN)
    foreigner["subjects"][0]["documents"] = [{"type": "FOREIGN_PASSPORT", "number": FOREIGN, "country": "XAA"}]
    return [
        people.add(1, "m-listed", LISTED),
        people.add(2, "m-freed", FREED),
        people.add(3, "m-exempted", EXEMPTED),
        people.exempt(4, "m-exempted"),
        people.remove(5, "m-freed"),
        foreigner,
        people.heartbeat(7),
    ]


# --- mutual TLS: what a caller sees who changes nothing but the address


class Secured(NamedTuple):
    """A checker and an edge that know the same callers."""

    stand: EdgeStand
    authority: Path
    certificates: dict[str, Pair]
    centre: Checker
    edge: Checker
    key: Path

    def channel(self, who: str, where: Checker) -> grpc.aio.Channel:
        """A connection with that caller's certificate."""
        pair = self.certificates[who]
        return open_channel(where.address, ca=self.authority, cert=pair.cert, key=pair.key)

    def tls(self, who: str) -> ClientTls:
        """The same for clients."""
        return ClientTls(self.authority, *self.certificates[who])


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    authority = Authority(folder)
    server = authority.issue("server", server=True)
    callers = ("booking", "edge", "operator")
    certificates = {who: authority.issue(who, uri=URI + who) for who in callers}
    roles = folder / "roles.toml"
    roles.write_text("".join(f'[[caller]]\nuri = "{URI}{who}"\nrole = "{who}"\n' for who in callers))
    listener = ("--tls-cert", server.cert, "--tls-key", server.key, "--tls-client-ca", authority.cert, "--roles", roles)
    stand = EdgeStand(folder / "centre")
    try:
        stand.import_(stand.feed("feed.jsonl", *feed_lines()))
        centre = stand.serve(*listener, "--index-timeout-ms", "2000")
        ours = certificates["edge"]
        data = folder / "edge"
        edge = stand.node(
            *("--centre", centre.address, "--data", data, "--listen", "127.0.0.1:0", "--workers", "2"),
            *("--centre-ca", authority.cert, "--centre-cert", ours.cert, "--centre-key", ours.key),
            *listener,
            *PATIENTLY,
        )
        made = Secured(stand, authority.cert, certificates, centre, edge, data / "key.json")
        until(lambda: asyncio.run(_in_step(made)), 60)
        yield made
    finally:
        stand.close()


async def _in_step(secured: Secured) -> bool:
    """Whether every worker that is met has a snapshot and hears the centre."""
    for _ in range(6):
        async with secured.channel("operator", secured.edge) as channel:
            stub = edge_pb2_grpc.EdgeServiceStub(channel)
            status = (await stub.GetStatus(edge_pb2.GetStatusRequest(), timeout=20)).status
            if not status.epoch or status.centre != filter_pb2.CENTRE_STATE_REACHABLE or status.feed_sequence < 7:
                return False
    return True


def test_the_key_file_was_fetched_over_mutual_tls(secured: Secured) -> None:
    """It has mode 600 and says what `checker keys export-edge` says: no signing or evidence secret."""
    assert stat.S_IMODE(secured.key.stat().st_mode) == 0o600
    assert json.loads(secured.key.read_text()) == json.loads(secured.stand.key_for_edges().read_text())
    assert stat.S_IMODE(secured.key.parent.stat().st_mode) == 0o700


def purchases() -> list[pb.Purchase]:
    yuan = {"currency_code": "CNY", "units": 50_000}
    return [
        pb.Purchase(flight=pb.Flight(carrier="XX", flight_number="1")),
        pb.Purchase(train=pb.TrainSeat(train_code="G1", seat_code="O", seat_name="二等座")),
        pb.Purchase(train=pb.TrainSeat(train_code="K101", seat_code="1", seat_name="硬座")),
        pb.Purchase(ship=pb.ShipBerth(berth_class="一等")),
        pb.Purchase(lodging=pb.Lodging(star_rating=5)),
        pb.Purchase(venue=pb.Venue(kind=pb.VENUE_KIND_GOLF)),
        pb.Purchase(outbound_tour=pb.OutboundTour(is_group=True, sold_by_agency=True, destination="THA")),
        pb.Purchase(resort=pb.Resort(grade="国家级", amount=yuan, region="GD")),
        pb.Purchase(school=pb.School(is_private=True, fee=yuan, region="GD", payer_named_by_order=True)),
        pb.Purchase(insurance=pb.Insurance(has_cash_value=True, annual_premium=yuan, region="GD")),
        pb.Purchase(real_estate=pb.RealEstate(deal=pb.REAL_ESTATE_DEAL_PURCHASE)),
        pb.Purchase(construction=pb.Construction(kind=pb.CONSTRUCTION_KIND_DECORATION, is_luxury=True)),
        pb.Purchase(vehicle=pb.Vehicle(use=pb.VEHICLE_USE_NON_OPERATING, kind=pb.VEHICLE_KIND_PASSENGER_CAR)),
        pb.Purchase(office_lease=pb.OfficeLease(grade="甲级")),
    ]


def subjects() -> list[pb.Subject]:
    resident, foreign = pb.DOCUMENT_TYPE_RESIDENT_ID, pb.DOCUMENT_TYPE_FOREIGN_PASSPORT
    return [
        *(
            pb.Subject(document=pb.Document(type=resident, number=number))
            for number in (LISTED, FREED, EXEMPTED, CLEAR)
        ),
        pb.Subject(document=pb.Document(type=resident, number=LISTED), name=people.NAME),
        pb.Subject(document=pb.Document(type=resident, number=LISTED), name="章某某"),
        pb.Subject(document=pb.Document(type=resident, number=LISTED[:-1] + "5")),
        pb.Subject(document=pb.Document(type=pb.DOCUMENT_TYPE_UNSPECIFIED, number=FOREIGN), name=people.NAME),
        pb.Subject(document=pb.Document(type=foreign, number=FOREIGN, country="XAA")),
        pb.Subject(document=pb.Document(type=foreign, number=FOREIGN, country="XAA"), name=people.NAME),
        pb.Subject(document=pb.Document(type=pb.DOCUMENT_TYPE_PRC_PASSPORT, number=PASSPORT)),
        pb.Subject(document=pb.Document(type=pb.DOCUMENT_TYPE_OTHER, number="0000")),
    ]


def requests() -> list[pb.CheckRequest]:
    """Well-formed and malformed, about everybody, of every kind."""
    found = [
        pb.CheckRequest(subject=subject, purchase=purchase)
        for subject, purchase in itertools.product(subjects(), purchases())
    ]
    found += [pb.CheckRequest(purchase=purchase) for purchase in purchases()]  # nobody named
    late = pb.CheckRequest(subject=subjects()[0], purchase=purchases()[0])
    late.service_time.FromDatetime(datetime.now(UTC) + timedelta(days=9))
    early = pb.CheckRequest(subject=subjects()[0], purchase=purchases()[0])
    early.act_time.FromDatetime(datetime(2020, 1, 1, tzinfo=UTC))
    wrong = pb.CheckRequest(subject=subjects()[0], purchase=pb.Purchase(lodging=pb.Lodging(star_rating=9)))
    further = pb.CheckRequest(subject=subjects()[3], purchase=purchases()[0], min_feed_sequence=10**9)
    keyed = pb.CheckRequest(purchase=purchases()[0])
    keyed.subject.key.CopyFrom(pb.LookupKey(key_id="k", digest=bytes(16), document_type=pb.DOCUMENT_TYPE_OTHER))
    found += [late, early, wrong, further, keyed, pb.CheckRequest(subject=subjects()[0]), pb.CheckRequest()]
    for place, request in enumerate(found):
        request.item_id = f"item {place}"
    return found


def comparable(answer: pb.CheckResponse) -> pb.CheckResponse:
    """Without what differs by nature: who answered, the epoch, ids and times."""
    same = pb.CheckResponse()
    same.CopyFrom(answer)
    has_id = bool(same.decision_id)
    same.decision_id = "some" if has_id else ""
    same.answered_by = pb.ANSWERED_BY_UNSPECIFIED
    same.data_as_of.snapshot_epoch = 0
    if same.HasField("expire_time"):
        same.expire_time.seconds = 1
    return same


async def test_a_caller_changes_nothing_but_the_address(secured: Secured) -> None:
    """Every request, one by one and in a batch, is answered by the edge as by the centre, field by field."""
    asked = requests()
    found = []
    for where in (secured.centre, secured.edge):
        async with secured.channel("booking", where) as channel:
            stub = check_pb2_grpc.CheckServiceStub(channel)
            batch = await stub.BatchCheck(pb.BatchCheckRequest(items=asked), timeout=20)
            singly: list[Any] = []
            for request in asked:
                try:
                    singly.append(comparable(await stub.Check(request, timeout=20)))
                except grpc.aio.AioRpcError as error:
                    singly.append((error.code(), error.details()))
            found.append(([comparable(answer) for answer in batch.items], singly))
    (centre_batch, centre_singly), (edge_batch, edge_singly) = found

    outcomes = {answer.outcome for answer in centre_batch}
    assert outcomes == {
        pb.OUTCOME_UNSPECIFIED,  # malformed
        pb.OUTCOME_ALLOWED,
        pb.OUTCOME_BARRED,
        pb.OUTCOME_UNKNOWN,
        pb.OUTCOME_INVALID_DOCUMENT,
    }
    for request, theirs, ours in zip(asked, centre_batch, edge_batch, strict=True):
        assert ours == theirs, request.purchase
    for request, theirs, ours in zip(asked, centre_singly, edge_singly, strict=True):
        assert ours == theirs, request.purchase


async def test_the_rulebook_is_the_centres(secured: Secured) -> None:
    """GetRulebook gives the very text that the centre judges by."""
    texts = []
    for where in (secured.centre, secured.edge):
        async with secured.channel("booking", where) as channel:
            texts.append(
                await check_pb2_grpc.CheckServiceStub(channel).GetRulebook(pb.GetRulebookRequest(), timeout=20)
            )

    assert texts[0] == texts[1]


async def test_the_library_stands_before_the_same_centre(secured: Secured, tmp_path: Path) -> None:
    """EdgeClient with the edge's certificate answers likewise; with a seller's it alarms, and bars nobody."""
    where = secured.centre.address
    async with EdgeClient(where, tmp_path / "a", secured.key, tls=secured.tls("edge"), settings=PATIENT) as client:
        await in_step(client)
        answer = await client.check(Flight(), DocumentType.RESIDENT_ID, LISTED)
        assert answer.outcome is Outcome.BARRED
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edge.assembly.FIRST_WAIT_S", 0.2)
        async with EdgeClient(
            secured.centre.address, tmp_path / "b", secured.key, tls=secured.tls("booking"), settings=PATIENT
        ) as client:
            answer = await client.check(Flight(), DocumentType.RESIDENT_ID, LISTED)
            assert answer.outcome is Outcome.UNKNOWN
            assert "role edge" in "".join(client.status().alarms)


async def test_roles_gate_the_edge_as_they_gate_the_centre(secured: Secured) -> None:
    """Without a certificate nobody gets in; an edge's certificate asks about no document; a seller sees the status."""
    async with open_channel(secured.edge.address, ca=secured.authority, retries=False) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await check_pb2_grpc.CheckServiceStub(channel).Check(people.flight(CLEAR), timeout=5)
    async with secured.channel("edge", secured.edge) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await check_pb2_grpc.CheckServiceStub(channel).Check(people.flight(CLEAR), timeout=20)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    async with secured.channel("booking", secured.edge) as channel:
        await edge_pb2_grpc.EdgeServiceStub(channel).GetStatus(edge_pb2.GetStatusRequest(), timeout=20)


# --- plaintext on one machine


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeStand]:
    made = EdgeStand(tmp_path_factory.mktemp("plain") / "centre")
    made.import_(made.feed("feed.jsonl", *feed_lines()))
    yield made
    made.close()


@pytest.fixture(scope="module")
def listen() -> str:
    return fixed_listen()


@pytest.fixture(scope="module")
def centre(stand: EdgeStand, listen: str) -> Checker:
    return stand.serve("--index-timeout-ms", "2000", listen=listen)


@pytest.fixture(scope="module")
def node(stand: EdgeStand, centre: Checker) -> Checker:
    """Two workers, its key file fetched over loopback."""
    data = stand.folder / "node"
    where = ("--centre", centre.address, "--data", data, "--listen", "127.0.0.1:0")
    made = stand.node(*where, "--workers", "2", "--name", "here", *PATIENTLY)
    until(lambda: all(status(made).epoch for _ in range(6)), 60)
    return made


def status(node: Checker) -> filter_pb2.EdgeStatus:
    """What some worker says."""
    with grpc.insecure_channel(node.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = edge_pb2_grpc.EdgeServiceStub(channel)
        return stub.GetStatus(edge_pb2.GetStatusRequest(), timeout=20, wait_for_ready=True).status


@pytest.fixture
async def caller(node: Checker) -> AsyncIterator[Caller]:
    async with Caller(node.address) as made:
        yield made


async def test_workers_share_directory_port_and_numbers(node: Checker) -> None:
    """Two processes answer on one port from one snapshot, and whichever is asked tells the numbers of both."""
    assert len(node.answering()) == 2
    before = status(node)
    for _ in range(8):
        async with Caller(node.address) as caller:
            assert (await caller.ask(people.flight(CLEAR))).outcome == "ALLOWED"
            assert (await caller.ask(people.flight(LISTED))).outcome == "BARRED"

    def counted() -> bool:
        told = [status(node) for _ in range(6)]
        return {(one.checks - before.checks, one.hits - before.hits) for one in told} == {(16, 8)}

    await asyncio.to_thread(until, counted, 60)
    assert {status(node).edge_id for _ in range(6)} == {before.edge_id}
    assert before.name == "here"


async def test_health_and_reflection_are_open(node: Checker, caller: Caller) -> None:
    """SERVING for the node and each service; reflection names both services."""
    stub = health_pb2_grpc.HealthStub(caller.channel)
    for service in ("", "checker.v1.CheckService", "checker.v1.EdgeService"):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=20)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    call = reflection_pb2_grpc.ServerReflectionStub(caller.channel).ServerReflectionInfo(iter([asked]))
    async for response in call:
        names = {service.name for service in response.list_services_response.service}
        assert {"checker.v1.CheckService", "checker.v1.EdgeService"} <= names
        break
    call.cancel()


async def test_a_worker_that_dies_comes_back(node: Checker) -> None:
    """After `kill -9` of one worker calls go on, it serves again, and the numbers do not go back."""
    before = await asyncio.to_thread(status, node)
    victim = node.answering()[0]
    await asyncio.sleep(1.1)  # its numbers are written each second
    victim.kill()

    async with Caller(node.address) as caller:
        assert (await caller.ask(people.flight(LISTED))).outcome == "BARRED"
    await asyncio.to_thread(until, lambda: len(node.answering()) == 2, 60)
    assert (await asyncio.to_thread(status, node)).checks >= before.checks


async def test_a_stream_is_answered(caller: Caller) -> None:
    """StreamCheck answers misses and hits, matched by item_id."""
    asked = [people.flight(number) for number in (LISTED, CLEAR, FREED)]
    for place, request in enumerate(asked):
        request.item_id = str(place)
    call = caller.stub.StreamCheck(iter(asked), timeout=20)
    answers = {answer.item_id: answer.outcome async for answer in call}

    assert answers == {"0": pb.OUTCOME_BARRED, "1": pb.OUTCOME_ALLOWED, "2": pb.OUTCOME_ALLOWED}


async def test_a_node_drains(stand: EdgeStand, centre: Checker, node: Checker) -> None:
    """SIGTERM under load: it ends by itself with 0, and no caller sees a failed call."""
    flags = ("--centre", centre.address, "--data", stand.folder / "draining", "--listen", node.address)
    asked = {"listed": people.flight(LISTED), "clear": people.flight(CLEAR)}
    # Callers leave within the pause, also when this machine stands still for a while.
    other = stand.node(*flags[:-1], "127.0.0.1:0", "--drain-pause-ms", "5000", *PATIENTLY)
    async with Callers(other.address, asked, callers=8) as callers, open_channel(other.address) as channel:
        stopping = asyncio.create_task(asyncio.to_thread(other.stop))
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        async with asyncio.timeout(30):
            while (await watch.read()).status != health_pb2.HealthCheckResponse.NOT_SERVING:
                pass
        watch.cancel()
        await callers.everyone_asks(1)
    assert await stopping == 0
    assert callers.failures == []
    log = other.log.read_text("utf-8")
    assert "every call in progress was finished" in log
    assert LISTED not in log


async def test_later_word_on_unknowns_reaches_the_seller(stand: EdgeStand, centre: Checker, listen: str) -> None:
    """The centre goes and comes back: what was UNKNOWN meanwhile is told by WatchAdvice as BARRED, under the id
    that the seller was given."""
    # One worker: what it settles it hands over at once, while of two the other one finds it when it looks.
    where = ("--centre", centre.address, "--data", stand.folder / "watched", "--listen", "127.0.0.1:0")
    alone = stand.node(*where, "--workers", "1", *PATIENTLY)

    def in_step() -> bool:
        told = status(alone)
        return told.centre == filter_pb2.CENTRE_STATE_REACHABLE and told.feed_sequence >= 7

    await asyncio.to_thread(until, in_step, 60)
    assert await asyncio.to_thread(centre.stop) == 0
    async with Caller(alone.address) as caller:
        began = int(time.time())
        unknown = await caller.ask(people.flight(LISTED))
        answered = time.time()
        assert (unknown.outcome, unknown.response.answered_by) == ("UNKNOWN", pb.ANSWERED_BY_STAND_IN)
        assert (await caller.ask(people.flight(CLEAR))).outcome == "ALLOWED"
        watch = edge_pb2_grpc.EdgeServiceStub(caller.channel).WatchAdvice(edge_pb2.WatchAdviceRequest())

        await asyncio.to_thread(stand.serve, listen=listen)

        async with asyncio.timeout(60):
            async for advice in watch:
                if advice.decision_id == unknown.response.decision_id:
                    break
        watch.cancel()
        answer = advice.answer
        assert answer.decision_id not in ("", advice.decision_id)
        if answer.outcome == pb.OUTCOME_UNKNOWN:  # a refusal grew too old on a machine that stood still: "ask again"
            assert answer.reason == pb.REASON_DATA_STALE
            answer = (await caller.ask(people.flight(LISTED))).response
    assert answer.outcome == pb.OUTCOME_BARRED
    assert answer.notice.zh
    assert answer.decision_id
    assert began <= advice.ask_time.ToSeconds() <= answered


async def test_it_serves_without_snapshot_and_centre(stand: EdgeStand) -> None:
    """From the first moment: hard seats ALLOWED, the rest UNKNOWN; nobody is barred; its status says why."""
    flags = ("--centre", "127.0.0.1:1", "--data", stand.folder / "lonely", "--key-file", stand.key_for_edges())
    lonely = stand.node(*flags, "--listen", "127.0.0.1:0", *PATIENTLY)
    async with Caller(lonely.address) as caller:
        assert (await caller.ask(people.hard_seat(LISTED))).outcome == "ALLOWED"
        answer = await caller.ask(people.flight(LISTED))
        assert (answer.outcome, answer.reason) == ("UNKNOWN", "CENTRE_UNREACHABLE")
    told = await asyncio.to_thread(status, lonely)
    assert (told.epoch, told.HasField("lag"), told.centre) == (0, False, filter_pb2.CENTRE_STATE_UNREACHABLE)
    await eventually(lambda: status(lonely).advice_waiting == 1, 30)
