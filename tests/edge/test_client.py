"""Claims about the edge in a booking system's own process, against a real checker over a real index and feed."""

import asyncio
import copy
import pickle
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from checker.errors import InvalidRequest
from checker.keys import EdgeKeys
from checker.lists.importer import import_feeds
from edge import (
    Advice,
    Answer,
    AnsweredBy,
    ClientTls,
    Construction,
    ConstructionKind,
    DocumentType,
    DomesticTour,
    EdgeClient,
    Flight,
    Item,
    Lodging,
    Money,
    OutboundTour,
    Outcome,
    RealEstate,
    RealEstateDeal,
    Reason,
    Resort,
    Ship,
    Train,
    UsageError,
    Venue,
    cny,
)
from proto.checker.v1 import check_pb2 as pb
from proto.checker.v1 import filter_pb2
from tests.builders import KEY
from tests.paths import people
from tests.paths.edges import PATIENT, EdgeStand, fixed_listen, in_step
from tests.paths.stand import Checker
from tests.serving.centre import KEYS, a_centre
from tests.serving.stand import a_shelf
from tests.waiting import eventually

ID = DocumentType.RESIDENT_ID
LISTED, FREED, EXEMPTED, CLEAR = (people.resident_id(number) for number in (1, 2, 3, 4))


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeStand]:
    made = EdgeStand(tmp_path_factory.mktemp("client") / "centre")
    made.import_(
        made.feed(
            "first.jsonl",
            people.add(1, "m-listed", LISTED),
            people.add(2, "m-freed", FREED),
            people.add(3, "m-exempted", EXEMPTED),
            people.exempt(4, "m-exempted"),
            people.heartbeat(5),
        )
    )
    yield made
    made.close()


@pytest.fixture(scope="module")
def centre(stand: EdgeStand) -> Checker:
    return stand.serve("--index-timeout-ms", "2000")


@pytest.fixture
async def client(stand: EdgeStand, centre: Checker) -> AsyncIterator[EdgeClient]:
    async with stand.client(centre.address, settings=PATIENT) as made:
        yield await in_step(made, 5)


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal is offered as one although this machine stood still meanwhile."""
    monkeypatch.setattr("edge.advice.BARRED_MS", 60_000)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no centre, its first snapshot is not waited for."""
    monkeypatch.setattr("edge.assembly.FIRST_WAIT_S", 0.05)


def at_once(work: Any) -> Any:
    """The result of a coroutine that never waits."""
    with pytest.raises(StopIteration) as ended:
        work.send(None)
    return ended.value.value


# --- answers


async def test_a_miss_never_waits(client: EdgeClient) -> None:
    """Whom the filter does not hold is ALLOWED without a step of the event loop, and nothing is asked."""
    answer = at_once(client.check(Flight(), ID, CLEAR))

    assert (answer.outcome, answer.reason, answer.answered_by) == (
        Outcome.ALLOWED,
        Reason.NOT_LISTED,
        AnsweredBy.FILTER,
    )
    assert answer.may_sell
    assert answer.decision_id == ""
    assert answer.notice is None
    assert answer.alternatives == ()
    assert answer.legal_basis.startswith("SPC")
    assert answer.data_as_of.feed_sequence >= 5
    assert answer.data_as_of.snapshot_epoch >= 1
    assert timedelta(minutes=4) < answer.expire_time - datetime.now(UTC) <= timedelta(minutes=5)
    status = client.status()
    assert (status.checks, status.hits) == (1, 0)


async def test_the_listed_are_barred_by_the_index_alone(client: EdgeClient) -> None:
    """BARRED comes with its words and the centre's decision id, and may not be kept."""
    answer = await client.check(Flight(), ID, LISTED)

    assert (answer.outcome, answer.reason, answer.answered_by) == (
        Outcome.BARRED,
        Reason.MEASURE_IN_FORCE,
        AnsweredBy.INDEX,
    )
    assert not answer.may_sell
    assert answer.expire_time is None
    assert len(answer.decision_id) == 26
    assert answer.notice is not None
    assert answer.notice.zh
    assert answer.alternatives
    assert answer.rulebook_version


async def test_a_filter_that_is_no_longer_fresh_clears_nobody(client: EdgeClient) -> None:
    """When the time up to which the filter was known to be fresh has passed, a miss is asked of the centre, whoever has
    not looked at the clock meanwhile; the look that follows lets the filter answer again."""
    client.edge.live.fresh_until_ms = 0
    answer = await client.check(Flight(), ID, CLEAR)

    assert answer.outcome is Outcome.ALLOWED
    assert client.status().hits == 1
    assert at_once(client.check(Flight(), ID, CLEAR)).answered_by is AnsweredBy.FILTER
    assert client.status().hits == 1


async def test_a_seller_learns_nothing_about_the_exempted(client: EdgeClient) -> None:
    """Who is listed and may travel all the same looks exactly like who is not listed."""
    exempted, clear = await client.check(Flight(), ID, EXEMPTED), await client.check(Flight(), ID, CLEAR)

    assert exempted.decision == clear.decision
    assert client.status().hits == 1


async def test_purchases_and_documents_that_need_nobody(client: EdgeClient) -> None:
    """An unrestricted purchase looks at nobody; a wrong number is INVALID_DOCUMENT, without the centre."""
    free = at_once(client.check(Train("K101", "1", "硬座"), ID, LISTED))
    wrong = at_once(client.check(Flight(), ID, LISTED[:-1] + ("0" if LISTED[-1] != "0" else "1")))

    assert (free.outcome, free.reason) == (Outcome.ALLOWED, Reason.PURCHASE_NOT_RESTRICTED)
    assert (wrong.outcome, wrong.reason) == (Outcome.INVALID_DOCUMENT, Reason.BAD_CHECKSUM)
    assert wrong.may_sell
    assert wrong.expire_time is None


async def test_many_are_answered_in_order_on_one_view(client: EdgeClient) -> None:
    """Items that need the index and items that do not come back in their places, all as of the same epoch."""
    numbers = [CLEAR, LISTED, FREED, CLEAR, EXEMPTED]
    answers = await client.check_many([Item(Flight(), ID, number) for number in numbers])

    assert [answer.may_sell for answer in answers][:2] == [True, False]
    assert [answer.outcome is Outcome.BARRED for answer in answers] == [number in (LISTED, FREED) for number in numbers]
    assert len({answer.data_as_of.snapshot_epoch for answer in answers}) == 1
    assert at_once(client.check_many([Item(Flight(), ID, CLEAR)] * 3))[2].may_sell
    assert await client.check_many([]) == []


async def test_a_feed_known_further_than_ours_is_asked_for(client: EdgeClient) -> None:
    """`min_feed_sequence` beyond what is known anywhere is UNKNOWN / DATA_STALE, never a guess."""
    answer = await client.check(Flight(), ID, CLEAR, min_feed_sequence=10**6)

    assert (answer.outcome, answer.reason) == (Outcome.UNKNOWN, Reason.DATA_STALE)
    assert answer.decision_id


async def test_the_contract_is_spoken_too(client: EdgeClient) -> None:
    """`check_request` answers as `check` does, with item_id; a key or a malformed request is refused by field."""
    request = people.flight(LISTED)
    request.item_id = "seat 1"
    response = await client.check_request(request)
    answer = await client.check(Flight(), ID, LISTED)

    assert response.item_id == "seat 1"
    told, expected = pb.CheckResponse(), answer.response("seat 1")
    told.CopyFrom(response)
    told.decision_id = expected.decision_id
    assert told == expected
    for field, change in (("purchase", "purchase"), ("subject", "subject")):
        bad = people.flight(LISTED)
        bad.ClearField(change)
        with pytest.raises(InvalidRequest, match=field):
            await client.check_request(bad)
    keyed = people.flight(LISTED)
    keyed.subject.key.CopyFrom(pb.LookupKey(key_id="k", digest=bytes(16)))
    with pytest.raises(InvalidRequest, match=r"subject\.key"):
        await client.check_request(keyed)


async def test_an_answer_travels_between_processes(client: EdgeClient) -> None:
    """A pickled answer says the same in every word, without carrying the rulebook along."""
    for number in (LISTED, CLEAR):
        answer = await client.check(Flight(), ID, number)
        raw = pickle.dumps(answer)
        again: Answer = pickle.loads(raw)  # noqa: S301 - made above
        assert len(raw) < 2000
        assert again.response() == answer.response()
        assert (again.outcome, again.expire_time, again.data_as_of) == (
            answer.outcome,
            answer.expire_time,
            answer.data_as_of,
        )


# --- what is malformed


@pytest.mark.parametrize(
    ("purchase", "says"),
    [
        (Train(""), r"purchase\.train\.train_code: is required"),
        (Train("G1", 5), r"purchase\.train\.seat_code: must be a str"),  # type: ignore[arg-type]
        (Train("G1", "O", is_emu="yes"), r"purchase\.train\.is_emu: must be a bool"),  # type: ignore[arg-type]
        (Train("G" * 300), r"at most 256 characters"),
        (Train("\ud800"), r"purchase\.train: holds a text that is not Unicode"),
        (Ship(""), r"purchase\.ship\.berth_class: is required"),
        (Lodging(9), r"purchase\.lodging\.star_rating: must be 1 to 5"),
        (Lodging(4.0), r"purchase\.lodging\.star_rating: must be an int"),  # type: ignore[arg-type]
        (Lodging(2**40), r"purchase\.lodging\.star_rating: must be an int"),
        (Venue(2), r"purchase\.venue\.kind: must be a VenueKind"),  # type: ignore[arg-type]
        (OutboundTour(destination="CHN"), r"ask as domestic_tour"),
        (Resort("国家级", Money("", 0)), r"purchase\.resort\.amount\.currency_code"),
        (Resort("国家级", Money("CNY", -1)), r"purchase\.resort\.amount: must not be negative"),
        (Resort("国家级", 200), r"purchase\.resort\.amount: must be a Money"),  # type: ignore[arg-type]
        (Construction(ConstructionKind.DECORATION, 1), r"is_luxury: must be a bool"),  # type: ignore[arg-type]
        ("flight", r"purchase: must be one of Train, Flight"),
        (None, r"purchase: must be one of Train, Flight"),
        (["G1"], r"purchase: must be one of Train, Flight"),
    ],
)
async def test_a_malformed_purchase_is_told_by_field(client: EdgeClient, purchase: Any, says: str) -> None:
    """Each is UsageError with field and remedy, from `check` and, from `check_many`, its place; nothing is asked."""
    with pytest.raises(UsageError, match=says):
        await client.check(purchase, ID, CLEAR)
    with pytest.raises(UsageError, match=rf"items\[1\]\..*{says}"):
        await client.check_many([Item(Flight(), ID, LISTED), Item(purchase, ID, CLEAR)])
    assert client.status().hits == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"document_type": "RESIDENT_ID"}, "document_type: must be a DocumentType"),
        ({"document_type": 99}, "document_type: must be a DocumentType"),
        ({"number": 5}, "number: must be a str"),
        ({"number": None}, "number: must be a str"),
        ({"country": 5}, "country: must be a str"),
        ({"name": b"x"}, "name: must be a str"),
        ({"name": "a" * 257}, "name: must be at most 256"),
        ({"act_time": datetime(2026, 1, 1)}, "act_time: must be a datetime with a time zone"),  # noqa: DTZ001
        ({"service_time": 5}, "service_time: must be a datetime"),
        ({"min_feed_sequence": -1}, "min_feed_sequence: must be an int from 0 on"),
        ({"min_feed_sequence": True}, "min_feed_sequence: must be an int from 0 on"),
    ],
)
async def test_a_malformed_argument_is_told_by_name(client: EdgeClient, arguments: Any, says: str) -> None:
    """UsageError names the argument and what it must be, and never quotes a value."""
    given = {"document_type": ID, "number": CLEAR} | arguments
    with pytest.raises(UsageError, match=says):
        await client.check(Flight(), given.pop("document_type"), given.pop("number"), **given)


async def test_equal_tuples_of_different_kinds_are_different_purchases(client: EdgeClient) -> None:
    """Purchases that are equal as tuples never answer for each other, in whatever order they are asked about."""
    kinds = (Lodging(1), DomesticTour(True), RealEstate(RealEstateDeal.PURCHASE))
    assert len({*kinds}) == 1
    for _ in range(2):
        rules = [(await client.check(purchase, ID, CLEAR)).decision.rule_id for purchase in kinds]
        assert len({*rules}) == 3


def test_amounts_are_exact() -> None:
    """`cny` keeps every fen."""
    assert cny(200) == Money("CNY", 200 * 10**9)
    assert cny(Decimal("0.01")) == Money("CNY", 10**7)


# --- life


@pytest.mark.usefixtures("impatient")
async def test_a_client_that_is_not_open_says_so(stand: EdgeStand) -> None:
    """Before `open` and after `close` every use is UsageError with the remedy; opening twice too."""
    client = stand.client("127.0.0.1:1")
    with pytest.raises(UsageError, match="not open"):
        await client.check(Flight(), ID, CLEAR)
    with pytest.raises(UsageError, match="not open"):
        client.status()
    async with client:
        with pytest.raises(UsageError, match="open already"):
            await client.open()
    with pytest.raises(UsageError, match="closed"):
        await client.check(Flight(), ID, CLEAR)
    await client.close()


async def test_a_client_is_neither_pickled_nor_copied(client: EdgeClient) -> None:
    """TypeError with the remedy."""
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="open one in each process"):
            attempt(client)


def test_another_event_loop_is_told(stand: EdgeStand, centre: Checker) -> None:
    """A client of one loop refuses to ask from another, instead of hanging."""

    async def open_one() -> EdgeClient:
        return await stand.client(centre.address, settings=PATIENT).open()

    with asyncio.Runner() as first, asyncio.Runner() as second:
        client = first.run(open_one())
        with pytest.raises(UsageError, match="another event loop"):
            second.run(client.check(Flight(), ID, LISTED))
        first.run(client.close())


@pytest.mark.parametrize(
    ("centre_given", "more", "says"),
    [
        ("check.example:443", {}, "without TLS others could read"),
        ("127.0.0.1:1,10.0.0.1:2", {}, r"10\.0\.0\.1:2: is not on this machine"),
        ("", {}, "at least one address"),
        ("a:1,a:1", {"tls": ClientTls(Path("/nowhere"))}, "named twice"),
        ("127.0.0.1:1", {"tls": ClientTls(Path("/nowhere"))}, "/nowhere"),
    ],
)
async def test_a_centre_that_cannot_be_asked_safely_is_refused(
    stand: EdgeStand, centre_given: str, more: Any, says: str
) -> None:
    """UsageError with the remedy, before anything is sent."""
    with pytest.raises(UsageError, match=says):
        async with stand.client(centre_given, **more) as client:
            await client.check(Flight(), ID, CLEAR)


def test_importing_the_edge_loads_no_store() -> None:
    """`import edge` needs the base install only."""
    stores = {"redis", "numpy", "prometheus_client", "opencc", "pypinyin", "checker.index", "checker.config"}
    for modules in ("edge", "edge, edge.node, edge.cli"):
        code = f"import sys, {modules}; print(*sys.modules)"
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        loaded = set(ran.stdout.split())
        assert "edge.client" in loaded
        assert stores & loaded == set()


# --- in step with the centre


async def test_lifts_and_additions_are_followed(stand: EdgeStand, client: EdgeClient) -> None:
    """After a removal's acknowledgement nobody is barred by it; an addition bars as soon as the edge says that it knows
    the feed so far. That this is within a second is claimed in tests/paths/test_edges.py."""
    assert not (await client.check(Flight(), ID, FREED)).may_sell
    added = people.resident_id(50)
    assert (await client.check(Flight(), ID, added)).answered_by is AnsweredBy.FILTER
    lines = people.remove(6, "m-freed"), people.add(7, "m-added", added), people.heartbeat(8)
    feed = stand.feed("second.jsonl", *lines)

    await asyncio.to_thread(stand.import_, feed)

    assert (await client.check(Flight(), ID, FREED)).outcome is Outcome.ALLOWED
    await eventually(lambda: client.status().feed_sequence >= 8, 30)
    assert (await client.check(Flight(), ID, added)).outcome is Outcome.BARRED
    assert client.status().overlay >= 1


@pytest.mark.usefixtures("unhurried")
async def test_without_the_centre_and_back_again(stand: EdgeStand) -> None:
    """Cut off: misses ALLOWED, hits UNKNOWN and said so; started again from disk: the same; the centre back: the seller
    hears BARRED for the very UNKNOWN it sold on, once."""
    listen = fixed_listen()
    centre = stand.serve("--index-timeout-ms", "2000", listen=listen)
    async with stand.client(listen, "alone", settings=PATIENT) as client:
        await in_step(client)
    assert await asyncio.to_thread(centre.stop) == 0

    heard: list[Advice] = []
    async with stand.client(listen, "alone", settings=PATIENT) as client:
        client.on_advice(heard.append)
        miss, hit = await client.check_many([Item(Flight(), ID, CLEAR), Item(Flight(), ID, LISTED)])
        assert (miss.outcome, miss.answered_by) == (Outcome.ALLOWED, AnsweredBy.FILTER)
        assert (hit.outcome, hit.reason, hit.answered_by) == (
            Outcome.UNKNOWN,
            Reason.CENTRE_UNREACHABLE,
            AnsweredBy.STAND_IN,
        )
        assert hit.may_sell
        assert hit.decision_id
        assert hit.notice is not None
        assert (client.status().stand_ins, client.status().centre) == (1, 2)
        await eventually(lambda: client.status().advice_waiting == 1)

        stand.serve("--index-timeout-ms", "2000", listen=listen)

        await eventually(lambda: heard, 30)
        (advice,) = heard
        assert (advice.decision_id, advice.outcome) == (hit.decision_id, Outcome.BARRED)
        await eventually(lambda: client.status().advice_waiting == 0)
        assert not (await client.check(Flight(), ID, LISTED)).may_sell


@pytest.mark.usefixtures("impatient", "unhurried")
async def test_a_centre_that_has_published_nothing_is_there_all_the_same(stand: EdgeStand, tmp_path: Path) -> None:
    """An edge without a snapshot hears no heartbeats. Its status says nevertheless whether the centre is there, and
    what stayed UNKNOWN is asked again."""
    listen, heard = fixed_listen(), list[Advice]()
    shelf = await a_shelf()
    await import_feeds(shelf, KEY, [stand.feed("unpublished.jsonl", people.add(1, "m-listed", LISTED))])
    keys = EdgeKeys(KEY.key_id, {KEY.key_id: KEY}, KEYS.signing_key.public_key())

    async with EdgeClient(listen, tmp_path / "edge", keys, settings=PATIENT) as client:
        client.on_advice(heard.append)
        hit = await client.check(Flight(), ID, LISTED)
        assert (hit.outcome, hit.reason) == (Outcome.UNKNOWN, Reason.CENTRE_UNREACHABLE)
        assert client.status().centre == filter_pb2.CENTRE_STATE_UNREACHABLE

        async with a_centre(shelf, tmp_path / "filter", listen=listen):
            await eventually(lambda: client.status().centre == filter_pb2.CENTRE_STATE_REACHABLE, 30)
            await eventually(lambda: heard, 30)
            assert (heard[0].decision_id, heard[0].outcome) == (hit.decision_id, Outcome.BARRED)
            assert not (await client.check(Flight(), ID, LISTED)).may_sell
            assert client.status().epoch == 0

        await eventually(lambda: client.status().centre == filter_pb2.CENTRE_STATE_UNREACHABLE, 30)


@pytest.mark.usefixtures("impatient")
async def test_an_edge_that_never_met_its_centre_opens_all_the_same(stand: EdgeStand) -> None:
    """Without snapshot and centre: unrestricted purchases ALLOWED, all others UNKNOWN; nothing is raised."""
    async with stand.client("127.0.0.1:1") as client:
        free, other = await client.check_many(
            [Item(Train("K101", "1", "硬座"), ID, CLEAR), Item(Flight(), ID, CLEAR)], timeout=0.5
        )
        assert free.outcome is Outcome.ALLOWED
        assert (other.outcome, other.answered_by) == (Outcome.UNKNOWN, AnsweredBy.STAND_IN)
        assert not client.status().HasField("lag")
