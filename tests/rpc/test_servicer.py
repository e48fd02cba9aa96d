"""What the servicer says to whom: the real servicer, settler and memory index behind a real socket and guard.

One person per finding; each test asks about them as a booking system, an edge or an operator.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2, error_details_pb2, status_pb2

from checker import wire
from checker.core import document as documents
from checker.core.freshness import AsOf, Limits
from checker.core.lookup import EVERYTHING, View
from checker.core.measure import Addition, Change, Exemption, Item, Measure, Window, encode_record
from checker.index.base import IndexKey
from checker.index.memory import MemoryIndex
from checker.rpc.client import open_channel
from checker.rpc.interceptors import Guard
from checker.rpc.live_filter import LiveFilter
from checker.rpc.roles import Caller, Callers, Role
from checker.rpc.server import RpcServer
from checker.rpc.servicer import CheckServicer, Refusal
from checker.serving import filter_file
from checker.serving.settle import IndexSettler
from proto.checker.v1 import check_pb2 as pb
from proto.checker.v1 import check_pb2_grpc
from tests.builders import KEY, NOW, a_measure, rulebook
from tests.paths.people import resident_id
from tests.rpc.servicer import QUICK

BOOKING = Caller("rail", Role.BOOKING)
HOTEL = Caller("hotel", Role.BOOKING, purchases=frozenset({"lodging"}))
EDGE = Caller("edge", Role.EDGE)
OPERATOR = Caller("operator", Role.OPERATOR, detail=True)

IN_FORCE, EXEMPTED, ENDED, OTHER_ITEMS, MINOR, DISPUTED, CLEAR = (resident_id(number) for number in range(7))
NEVER, DAY_MS = 2**31 - 1, 86_400_000
MEASURES: dict[str, Measure] = {
    IN_FORCE: a_measure(),
    EXEMPTED: a_measure(),
    ENDED: a_measure(effective_to="2026-01-01"),
    OTHER_ITEMS: a_measure(items=Item.HOTEL),
    MINOR: a_measure(adult_from_day=NEVER),
    DISPUTED: a_measure(disputed=True, items=Item.HOTEL),
}
FINER = {
    EXEMPTED: pb.REASON_EXEMPTED,
    ENDED: pb.REASON_NOT_IN_FORCE,
    OTHER_ITEMS: pb.REASON_OUT_OF_SCOPE,
    MINOR: pb.REASON_OUT_OF_SCOPE,
    DISPUTED: pb.REASON_OUT_OF_SCOPE,
}


def key_of(number: str) -> bytes:
    parsed = documents.parse(documents.DocumentType.RESIDENT_ID, number, "", 20260310)
    assert isinstance(parsed, documents.Parsed)
    return KEY.document(parsed.documents[0])


class WaitingIndex(MemoryIndex):
    """A memory index that does not answer before it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = asyncio.Event()
        self.let.set()

    async def get_many(self, keys: Sequence[bytes], timeout_s: float) -> list[tuple[Measure, ...] | None]:
        await self.let.wait()
        return await super().get_many(keys, timeout_s)


class Service(NamedTuple):
    stub: "check_pb2_grpc.CheckServiceAsyncStub"
    raw: "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]"  # Check, bytes to bytes
    store: WaitingIndex
    live: LiveFilter
    refusals: list[Refusal]
    as_caller: list[Caller]  # the one who calls, as its only entry

    async def ask(self, request: pb.CheckRequest, caller: Caller = BOOKING) -> pb.CheckResponse:
        self.as_caller[0] = caller
        response: pb.CheckResponse = await self.stub.Check(request, timeout=5)
        return response

    async def batch(self, *items: pb.CheckRequest, caller: Caller = BOOKING) -> list[pb.CheckResponse]:
        self.as_caller[0] = caller
        response = await self.stub.BatchCheck(pb.BatchCheckRequest(items=items), timeout=5)
        return list(response.items)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """Everybody of MEASURES listed, the filter built from the index."""
    async with served() as service:
        yield service


@asynccontextmanager
async def served() -> AsyncIterator[Service]:
    index = WaitingIndex()
    await index.open(IndexKey(KEY.key_id, KEY.check_value), create=True)
    changes: list[Change] = [
        Addition(place, f"M{place}", {key_of(number): encode_record(measure._replace(sequence=place))}, "法院", "案")
        for place, (number, measure) in enumerate(MEASURES.items(), 1)
    ]
    await index.apply([*changes, Exemption(90, "M2", Window(0xFFFF, 0, NOW + DAY_MS), ())])
    live = LiveFilter(View(rulebook(), KEY, EVERYTHING, AsOf(100, NOW, 0, 0), Limits()))
    _, built = await filter_file.build(index, KEY, rulebook(), 1e-4, lambda: NOW)
    live.swap(built, (), live.view.as_of)
    refusals: list[Refusal] = []
    as_caller = [BOOKING]
    servicer = CheckServicer(live, IndexSettler(index, live, 0.5, lambda: NOW), refusals.append, lambda: NOW)
    server = RpcServer(
        QUICK,
        lambda registry: check_pb2_grpc.add_CheckServiceServicer_to_server(servicer, registry),
        Guard(Callers(lambda _peer: as_caller[0])),
        listen="127.0.0.1:0",
    )
    address = await server.start()
    try:
        async with open_channel(address) as channel:
            raw: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/checker.v1.CheckService/Check")
            yield Service(check_pb2_grpc.CheckServiceStub(channel), raw, index, live, refusals, as_caller)
    finally:
        index.let.set()
        await server.drain()


def flight(number: str = "", *, name: str = "", item_id: str = "", **more: object) -> pb.CheckRequest:
    request = pb.CheckRequest(item_id=item_id, purchase=pb.Purchase(flight=pb.Flight()), **more)  # type: ignore[arg-type]
    if number:
        document = pb.Document(type=pb.DOCUMENT_TYPE_RESIDENT_ID, number=number)
        request.subject.CopyFrom(pb.Subject(document=document, name=name))
    return request


def seat(train: str, code: str, name: str) -> pb.Purchase:
    return pb.Purchase(train=pb.TrainSeat(train_code=train, seat_code=code, seat_name=name))


def violations(status: status_pb2.Status) -> list[str]:
    """The fields of a google.rpc.BadRequest."""
    assert status.code == code_pb2.INVALID_ARGUMENT
    (detail,) = status.details
    bad = error_details_pb2.BadRequest()
    assert detail.Unpack(bad)
    return [found.field for found in bad.field_violations]


def status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """The google.rpc.Status beside a failed call."""
    trailing = dict(error.trailing_metadata() or ())
    raw = trailing["grpc-status-details-bin"]
    assert isinstance(raw, bytes)
    return status_pb2.Status.FromString(raw)


# What a seller may see


@pytest.mark.parametrize("number", FINER)
async def test_to_a_seller_every_free_person_looks_alike(service: Service, number: str) -> None:
    """Whoever is listed but free for this purchase gets, but for nothing at all, the answer of one nobody listed."""
    one, clear = await service.ask(flight(number)), await service.ask(flight(CLEAR))
    assert one.SerializeToString(deterministic=True) == clear.SerializeToString(deterministic=True)
    assert clear.outcome == pb.OUTCOME_ALLOWED
    assert clear.reason == pb.REASON_NOT_LISTED
    assert clear.answered_by == pb.ANSWERED_BY_FILTER
    in_batch = await service.batch(flight(number), flight(CLEAR))
    assert in_batch == [clear, clear]


async def test_a_name_that_differs_is_no_news_to_a_seller(service: Service) -> None:
    """Somebody of another name with a listed number is ALLOWED; only the operator reads NAME_MISMATCH."""
    asked = flight(IN_FORCE, name="李四")
    assert (await service.ask(asked)).outcome == pb.OUTCOME_ALLOWED
    assert await service.ask(asked) == await service.ask(flight(CLEAR, name="李四"))
    assert list((await service.ask(asked, OPERATOR)).advisory) == [pb.ADVISORY_NAME_MISMATCH]


@pytest.mark.parametrize("number", FINER)
async def test_the_operator_reads_why(service: Service, number: str) -> None:
    """To the operator the same answers carry the finer reason, the index as source, and advisories of the person."""
    answer = await service.ask(flight(number), OPERATOR)
    assert (answer.outcome, answer.reason) == (pb.OUTCOME_ALLOWED, FINER[number])
    assert answer.answered_by == pb.ANSWERED_BY_INDEX
    assert list(answer.advisory) == {MINOR: [pb.ADVISORY_MINOR], DISPUTED: [pb.ADVISORY_DISPUTED]}.get(number, [])
    assert await service.batch(flight(number), caller=OPERATOR) == [answer]


async def test_a_false_positive_of_the_filter_does_not_show(service: Service) -> None:
    """A clear person whose key the filter takes for listed gets the very answer of a filter miss."""
    missed = await service.ask(flight(CLEAR))
    service.live.add([key_of(CLEAR)])
    assert await service.ask(flight(CLEAR)) == missed
    assert (await service.ask(flight(CLEAR), OPERATOR)).answered_by == pb.ANSWERED_BY_INDEX


async def test_what_the_purchase_alone_says_is_told_to_everyone(service: Service) -> None:
    """OPEN_RULE comes from the purchase and STALE_DATA from the feed: sellers read both, and nothing else."""
    asked = flight(CLEAR)
    asked.purchase.CopyFrom(seat("D301", "S", ""))
    assert list((await service.ask(asked)).advisory) == [pb.ADVISORY_OPEN_RULE]
    service.live.known(AsOf(100, NOW - 20 * 60_000, 0, 0))
    assert list((await service.ask(flight(CLEAR))).advisory) == [pb.ADVISORY_STALE_DATA]
    assert list((await service.ask(flight(EXEMPTED))).advisory) == [pb.ADVISORY_STALE_DATA]


async def test_only_who_may_see_it_gets_a_trace(service: Service) -> None:
    """with_trace is ignored for sellers and edges; the operator reads every step, down to the index."""
    for number in (IN_FORCE, CLEAR):
        assert not (await service.ask(flight(number, with_trace=True))).trace
        assert not (await service.batch(flight(number, with_trace=True)))[0].trace
    traced = await service.ask(flight(IN_FORCE, with_trace=True), OPERATOR)
    assert [step.step for step in traced.trace] == ["rules", "document", "key", "filter", "index", "evaluate"]
    assert IN_FORCE not in str(traced)


async def test_a_refusal_names_no_court_case_or_person(service: Service) -> None:
    """A BARRED answer holds nothing of the measure: no id, court or case, in no field, whoever asks."""
    for caller in (BOOKING, OPERATOR):
        raw = (await service.ask(flight(IN_FORCE, with_trace=True), caller)).SerializeToString()
        for secret in ("M1", "法院", "court", "案", "失信", IN_FORCE, "张三"):
            assert secret.encode() not in raw


# What an edge may see


def by_key(number: str) -> pb.CheckRequest:
    asked = flight()
    key = pb.LookupKey(key_id=KEY.key_id, digest=key_of(number), document_type=pb.DOCUMENT_TYPE_RESIDENT_ID)
    asked.subject.key.CopyFrom(key)
    return asked


async def test_an_edge_learns_that_the_index_holds_nothing_under_a_key(service: Service) -> None:
    """Under a false positive's key the edge reads INDEX and NOT_LISTED: the one answer it may remember."""
    service.live.add([key_of(CLEAR)])
    answer = await service.ask(by_key(CLEAR), EDGE)
    assert (answer.reason, answer.answered_by) == (pb.REASON_NOT_LISTED, pb.ANSWERED_BY_INDEX)


@pytest.mark.parametrize("number", FINER)
async def test_to_an_edge_a_record_that_does_not_bar_is_a_filter_miss(service: Service, number: str) -> None:
    """Whoever is listed but free for this purchase looks, to an edge too, like somebody the filter cleared."""
    answer = await service.ask(by_key(number), EDGE)
    assert answer == await service.ask(by_key(CLEAR), EDGE)
    assert answer.answered_by == pb.ANSWERED_BY_FILTER


async def test_an_edge_reads_whether_the_canary_reached_the_index(service: Service) -> None:
    """The canary is nobody: an edge sees that its record is there and covers no flight, or that there is none."""
    asked = by_key(CLEAR)
    asked.subject.key.digest = KEY.canary
    service.live.add([KEY.canary])
    lost = await service.ask(asked, EDGE)
    assert (lost.reason, lost.answered_by) == (pb.REASON_NOT_LISTED, pb.ANSWERED_BY_INDEX)
    record = encode_record(a_measure(items=Item.GOLF)._replace(sequence=200))
    await service.store.apply([Addition(200, "canary", {KEY.canary: record}, "", "")])
    there = await service.ask(asked, EDGE)
    assert (there.outcome, there.reason) == (pb.OUTCOME_ALLOWED, pb.REASON_OUT_OF_SCOPE)
    assert there.answered_by == pb.ANSWERED_BY_INDEX


# What an answer carries


async def test_a_refusal_carries_an_id_and_words_and_never_a_lifetime(service: Service) -> None:
    """BARRED has a decision id, neutral words in two languages, its legal basis, and no time until which to keep it."""
    answer = await service.ask(flight(IN_FORCE, item_id="seat 1"))
    assert (answer.outcome, answer.reason) == (pb.OUTCOME_BARRED, pb.REASON_MEASURE_IN_FORCE)
    assert len(answer.decision_id) == 26
    assert not answer.HasField("expire_time")
    assert answer.notice.zh
    assert answer.notice.en
    assert answer.legal_basis
    assert answer.item_id == "seat 1"
    assert answer.rulebook_version == rulebook().version
    assert answer.data_as_of.feed_sequence == 100
    assert answer.data_as_of.feed_time.ToMilliseconds() == NOW


async def test_a_barred_train_seat_offers_what_may_be_sold(service: Service) -> None:
    """A barred first class seat comes with alternatives in both languages; an allowed seat with none."""
    asked = flight(IN_FORCE)
    asked.purchase.CopyFrom(seat("D301", "M", "一等座"))
    barred = await service.ask(asked)
    assert barred.outcome == pb.OUTCOME_BARRED
    assert barred.alternatives
    assert all(text.zh and text.en for text in barred.alternatives)
    asked.purchase.CopyFrom(seat("D301", "O", "二等座"))
    allowed = await service.ask(asked)
    assert allowed.outcome == pb.OUTCOME_ALLOWED
    assert not allowed.alternatives


async def test_an_unknown_carries_an_id_and_never_a_lifetime(service: Service) -> None:
    """With the index gone a hit is UNKNOWN / INDEX_UNREACHABLE with a decision id and words, alone and in a batch."""
    await service.store.close()
    alone = await service.ask(flight(IN_FORCE))
    among = await service.batch(flight(CLEAR), flight(IN_FORCE))
    assert among[0].outcome == pb.OUTCOME_ALLOWED
    for answer in (alone, among[1]):
        assert (answer.outcome, answer.reason) == (pb.OUTCOME_UNKNOWN, pb.REASON_INDEX_UNREACHABLE)
        assert len(answer.decision_id) == 26
        assert not answer.HasField("expire_time")
        assert answer.notice.zh
        assert not answer.alternatives


async def test_allowed_expires_and_carries_no_id(service: Service) -> None:
    """ALLOWED may be relied on for five minutes from now and leaves no decision id and no words."""
    answers = [await service.ask(flight(CLEAR)), *await service.batch(flight(CLEAR), flight(EXEMPTED))]
    for answer in answers:
        assert answer.expire_time.ToMilliseconds() == NOW + 300_000
        assert answer.decision_id == ""
        assert not answer.HasField("notice")


async def test_an_invalid_document_is_an_answer(service: Service) -> None:
    """A number that cannot be one is INVALID_DOCUMENT with words and a hint: no error, no decision id, no lifetime."""
    answer = await service.ask(flight(IN_FORCE[:-1] + ("1" if IN_FORCE[-1] != "1" else "2")))
    assert (answer.outcome, answer.reason) == (pb.OUTCOME_INVALID_DOCUMENT, pb.REASON_BAD_CHECKSUM)
    assert answer.notice.zh
    assert answer.decision_id == ""
    assert not answer.HasField("expire_time")
    asked = flight("123")
    asked.purchase.CopyFrom(seat("K101", "1", "硬座"))
    assert (await service.ask(asked)).outcome == pb.OUTCOME_ALLOWED  # nobody is looked at


async def test_evidence_is_kept_of_refusals_and_of_nothing_else(service: Service) -> None:
    """Each BARRED and UNKNOWN hands over one record under the id that was given; ALLOWED and invalid numbers none."""
    given = [await service.ask(flight(IN_FORCE)), *await service.batch(flight(CLEAR), flight(IN_FORCE), flight("1"))]
    await service.store.close()
    given.append(await service.ask(flight(ENDED)))
    expected = [answer.decision_id for answer in given if answer.decision_id]
    assert [refusal.decision_id for refusal in service.refusals] == expected
    assert [refusal.decision.outcome.name for refusal in service.refusals] == ["BARRED", "BARRED", "UNKNOWN"]
    assert service.refusals[0].decision.measures == ("M1",)
    assert service.refusals[0].keys == (key_of(IN_FORCE),)
    assert service.refusals[0].caller == "rail"


# Batches and streams


async def test_a_batch_is_answered_in_its_order(service: Service) -> None:
    """A thousand items, hits and misses mixed, come back in request order, each with its own item id."""
    numbers = [IN_FORCE if place % 7 == 0 else CLEAR for place in range(1000)]
    answers = await service.batch(*(flight(number, item_id=str(place)) for place, number in enumerate(numbers)))
    assert [answer.item_id for answer in answers] == [str(place) for place in range(1000)]
    outcomes = [pb.OUTCOME_BARRED if number == IN_FORCE else pb.OUTCOME_ALLOWED for number in numbers]
    assert [answer.outcome for answer in answers] == outcomes
    ids = [answer.decision_id for answer in answers if answer.decision_id]
    assert len(set(ids)) == len(ids) == 143


@pytest.mark.parametrize("number", [0, 1001])
async def test_a_batch_of_no_or_too_many_items_is_refused(service: Service, number: int) -> None:
    """0 and 1001 items are INVALID_ARGUMENT with a field violation on `items`; 1 and 1000 are answered."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await service.batch(*[flight(CLEAR)] * number)
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violations(status_of(failed.value)) == ["items"]
    assert len(await service.batch(*[flight(CLEAR)] * min(max(number, 1), 1000))) == min(max(number, 1), 1000)


def malformed() -> list[tuple[pb.CheckRequest, list[str]]]:
    """Requests that cannot be asked, and the fields to blame."""
    odd_type = flight(IN_FORCE)
    odd_type.subject.document.type = 99  # type: ignore[assignment]
    named_key = flight()
    named_key.subject.key.CopyFrom(pb.LookupKey(key_id="k", digest=bytes(15)))
    stars = flight(IN_FORCE)
    stars.purchase.CopyFrom(pb.Purchase(lodging=pb.Lodging(star_rating=6)))
    money = flight(IN_FORCE)
    money.purchase.CopyFrom(pb.Purchase(resort=pb.Resort()))
    nothing = flight(IN_FORCE)
    nothing.ClearField("purchase")
    return [
        (nothing, ["purchase"]),
        (flight(), ["subject"]),
        (odd_type, ["subject.document.type"]),
        (named_key, ["subject.key.digest"]),
        (stars, ["purchase.lodging.star_rating"]),
        (money, ["purchase.resort.amount.currency_code"]),
        (flight(IN_FORCE, name="张" * 257), ["subject.name"]),
        (flight(IN_FORCE, item_id="x" * 129), ["item_id"]),
        (flight(IN_FORCE, act_time=Timestamp(seconds=2**60)), ["act_time"]),
    ]


@pytest.mark.parametrize(("request_", "fields"), malformed(), ids=lambda value: "")
async def test_a_malformed_request_is_refused_by_field(
    service: Service, request_: pb.CheckRequest, fields: list[str]
) -> None:
    """Alone it is INVALID_ARGUMENT naming the field; in a batch it is that item's `error`, the others are answered."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await service.ask(request_)
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violations(status_of(failed.value)) == fields
    before, wrong, after = await service.batch(flight(IN_FORCE), request_, flight(CLEAR))
    assert (before.outcome, after.outcome) == (pb.OUTCOME_BARRED, pb.OUTCOME_ALLOWED)
    assert wrong.outcome == pb.OUTCOME_UNSPECIFIED
    assert wrong.item_id == request_.item_id
    assert violations(wrong.error) == fields
    assert [field.name for field, _ in wrong.ListFields()] == [*(["item_id"] if wrong.item_id else []), "error"]
    assert IN_FORCE not in str(failed.value.details()) + str(wrong)


async def test_a_subject_may_be_missing_where_nobody_is_looked_at(service: Service) -> None:
    """A hard seat needs no subject: it is ALLOWED, by the rules alone."""
    answer = await service.ask(pb.CheckRequest(purchase=seat("K101", "1", "硬座")))
    assert (answer.outcome, answer.answered_by) == (pb.OUTCOME_ALLOWED, pb.ANSWERED_BY_RULES)


async def test_a_kind_not_granted_is_denied(service: Service) -> None:
    """A hotel that asks about a flight is PERMISSION_DENIED, in a batch for that item only; its own kind is not."""
    stay = flight(CLEAR)
    stay.purchase.CopyFrom(pb.Purchase(lodging=pb.Lodging(star_rating=5)))
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await service.ask(flight(CLEAR), HOTEL)
    assert failed.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "flight" in str(failed.value.details())
    assert "lodging" in str(failed.value.details())
    allowed, denied = await service.batch(stay, flight(IN_FORCE, item_id="2"), caller=HOTEL)
    assert allowed.outcome == pb.OUTCOME_ALLOWED
    assert (denied.outcome, denied.error.code) == (pb.OUTCOME_UNSPECIFIED, code_pb2.PERMISSION_DENIED)
    assert denied.item_id == "2"
    assert service.refusals == []


async def test_keys_are_for_edges_and_documents_are_not(service: Service) -> None:
    """A seller's `subject.key` is denied, an edge's answered; an edge's document is denied; neither is looked up."""
    by_key = flight()
    key = pb.LookupKey(key_id=KEY.key_id, digest=key_of(IN_FORCE), document_type=pb.DOCUMENT_TYPE_RESIDENT_ID)
    by_key.subject.key.CopyFrom(key)
    for request, caller in ((by_key, BOOKING), (flight(IN_FORCE), EDGE)):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await service.ask(request, caller)
        assert failed.value.code() is grpc.StatusCode.PERMISSION_DENIED
        (answer,) = await service.batch(request, caller=caller)
        assert answer.error.code == code_pb2.PERMISSION_DENIED
    assert (await service.ask(by_key, EDGE)).outcome == pb.OUTCOME_BARRED
    by_key.subject.key.key_id = "of another centre"
    unknown = await service.ask(by_key, EDGE)
    assert (unknown.outcome, unknown.reason) == (pb.OUTCOME_UNKNOWN, pb.REASON_UNKNOWN_KEY)
    assert unknown.decision_id


@pytest.mark.parametrize("number", [*MEASURES, CLEAR, CLEAR[:-1]])
async def test_the_quick_road_and_the_long_one_give_one_answer(service: Service, number: str) -> None:
    """Bytes that a message is made of and bytes that are read as they are get the same answer and the same evidence."""
    plain = flight(number, item_id="1").SerializeToString()
    odd = plain + b"\x38\x00"  # with_trace, set to false as no writer does
    assert wire.plain(plain) is not None
    assert wire.plain(odd) is None
    answers = []
    for raw in (plain, odd):
        answer = pb.CheckResponse.FromString(await service.raw(raw))
        answer.ClearField("decision_id")
        answers.append(answer)
    kept = [refusal._replace(decision_id="") for refusal in service.refusals]

    assert answers[0] == answers[1]
    assert answers[0].item_id == "1"
    assert kept == kept[:1] * (2 if number == IN_FORCE else 0)


@pytest.mark.parametrize("caller", [EDGE, HOTEL])
async def test_the_quick_road_asks_for_the_same_rights(service: Service, caller: Caller) -> None:
    """A document from an edge, or a kind not granted, is denied in the same words on both roads."""
    service.as_caller[0] = caller
    plain = flight(CLEAR).SerializeToString()
    texts = []
    for raw in (plain, plain + b"\x38\x00"):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await service.raw(raw)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        texts.append(refused.value.details())

    assert texts[0] == texts[1]


async def test_a_stream_answers_each_item_as_soon_as_it_is_known(service: Service) -> None:
    """An item that waits for the index does not hold back those behind it, and comes when the index answers."""
    service.store.let.clear()
    stream = service.stub.StreamCheck(timeout=10)
    await stream.write(flight(IN_FORCE, item_id="hit"))
    heard = []
    for place in range(5):
        await stream.write(flight(CLEAR, item_id=str(place)))
        heard.append((await _read(stream)).item_id)
    assert heard == ["0", "1", "2", "3", "4"]
    service.store.let.set()
    last = await _read(stream)
    assert (last.item_id, last.outcome) == ("hit", pb.OUTCOME_BARRED)
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF


async def test_a_malformed_item_does_not_end_a_stream(service: Service) -> None:
    """In a stream a malformed and a denied item are answered with `error`, and the stream goes on."""
    service.as_caller[0] = HOTEL
    stream = service.stub.StreamCheck(timeout=10)
    await stream.write(pb.CheckRequest(item_id="no purchase"))
    assert violations((await _read(stream)).error) == ["purchase"]
    await stream.write(flight(IN_FORCE, item_id="a flight"))
    assert (await _read(stream)).error.code == code_pb2.PERMISSION_DENIED
    stay = flight(IN_FORCE, item_id="a stay")
    stay.purchase.CopyFrom(pb.Purchase(lodging=pb.Lodging(star_rating=5)))
    await stream.write(stay)
    assert (await _read(stream)).outcome == pb.OUTCOME_BARRED
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF


async def _read(stream: "grpc.aio.StreamStreamCall[pb.CheckRequest, pb.CheckResponse]") -> pb.CheckResponse:
    answer = await stream.read()
    assert isinstance(answer, pb.CheckResponse)
    return answer


# The rest


async def test_the_rulebook_is_handed_out_with_its_checksum(service: Service) -> None:
    """GetRulebook gives the very text in force: its SHA-256 is the one named, its version the one in every answer."""
    given = await service.stub.GetRulebook(pb.GetRulebookRequest(), timeout=5)
    assert hashlib.sha256(given.toml).digest() == given.sha256 == rulebook().sha256
    assert given.version == (await service.ask(flight(CLEAR))).rulebook_version
    assert given.toml == rulebook().source


async def test_an_answer_that_must_know_more_than_is_known_is_unknown(service: Service) -> None:
    """min_feed_sequence beyond the feed: UNKNOWN / DATA_STALE, for a clear person too; at the feed's end: answered."""
    head = AsOf(100, NOW, 0, 0)
    late = await service.ask(flight(CLEAR, min_feed_sequence=head.feed_sequence + 1))
    assert (late.outcome, late.reason) == (pb.OUTCOME_UNKNOWN, pb.REASON_DATA_STALE)
    assert (await service.ask(flight(CLEAR, min_feed_sequence=head.feed_sequence))).outcome == pb.OUTCOME_ALLOWED
