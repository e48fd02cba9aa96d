"""Claims about the client without an edge, against a real checker and against none."""

import asyncio
import inspect
import pickle
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from checker.errors import InvalidRequest
from edge import (
    AnsweredBy,
    DocumentType,
    EdgeClient,
    Flight,
    Item,
    Lodging,
    OfficeLease,
    Outcome,
    Reason,
    RemoteChecker,
    School,
    Train,
    UsageError,
    cny,
)
from proto.checker.v1 import check_pb2 as pb
from proto.checker.v1 import filter_pb2
from tests.paths import people
from tests.paths.edges import EdgeStand, fixed_listen
from tests.paths.stand import Checker, aside

ID = DocumentType.RESIDENT_ID
LISTED, CLEAR = people.resident_id(1), people.resident_id(2)


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeStand]:
    made = EdgeStand(tmp_path_factory.mktemp("remote") / "centre")
    made.import_(made.feed("feed.jsonl", people.add(1, "m-listed", LISTED), people.heartbeat(2)))
    yield made
    made.close()


@pytest.fixture(scope="module")
def centre(stand: EdgeStand) -> Checker:
    return stand.serve("--index-timeout-ms", "2000")


@pytest.fixture
async def remote(centre: Checker) -> AsyncIterator[RemoteChecker]:
    async with RemoteChecker(centre.address, timeout_ms=20_000) as made:
        yield made


async def test_it_answers_as_the_checker_does(remote: RemoteChecker) -> None:
    """BARRED and ALLOWED with all their words, INVALID_DOCUMENT, unrestricted purchases; one by one and together."""
    listed, clear = await remote.check(Flight(), ID, LISTED, name=people.NAME), await remote.check(Flight(), ID, CLEAR)
    free = await remote.check(Train("K101", "1", "硬座"), ID, LISTED)
    wrong = await remote.check(Flight(), ID, LISTED[:-1] + "5")

    assert (listed.outcome, listed.reason, listed.answered_by) == (
        Outcome.BARRED,
        Reason.MEASURE_IN_FORCE,
        AnsweredBy.INDEX,
    )
    assert listed.notice is not None
    assert listed.alternatives
    assert listed.decision_id
    assert listed.expire_time is None
    assert (clear.outcome, clear.answered_by) == (Outcome.ALLOWED, AnsweredBy.FILTER)
    assert clear.expire_time is not None
    assert timedelta(minutes=4) < clear.expire_time - datetime.now(UTC) <= timedelta(minutes=5)
    assert clear.data_as_of.feed_sequence == 2
    assert clear.rulebook_version == listed.rulebook_version
    assert free.reason is Reason.PURCHASE_NOT_RESTRICTED
    assert (wrong.outcome, wrong.reason) == (Outcome.INVALID_DOCUMENT, Reason.BAD_CHECKSUM)
    assert wrong.notice is not None
    many = await remote.check_many([Item(Flight(), ID, number) for number in (CLEAR, LISTED, CLEAR)])
    assert [answer.may_sell for answer in many] == [True, False, True]
    assert await remote.check_many([]) == []
    again = pickle.loads(pickle.dumps(listed))  # noqa: S301 - made here
    assert again.response() == listed.response()


async def test_everything_said_arrives(remote: RemoteChecker) -> None:
    """Times, attributes and the wanted feed sequence are the checker's to judge: each changes the answer there."""
    early = datetime(2020, 1, 1, tzinfo=UTC)
    assert (await remote.check(Flight(), ID, LISTED, act_time=early)).outcome is Outcome.ALLOWED
    further = await remote.check(Flight(), ID, CLEAR, min_feed_sequence=99)
    assert (further.outcome, further.reason) == (Outcome.UNKNOWN, Reason.DATA_STALE)
    paid, free = School(True, cny(10**6), "GD", True), School(False)
    bases = [(await remote.check(school, ID, CLEAR)).legal_basis for school in (paid, free)]
    assert bases[0] != bases[1]
    assert (await remote.check(OfficeLease(), ID, CLEAR)).outcome is Outcome.ALLOWED


async def test_the_contract_is_spoken_too(remote: RemoteChecker) -> None:
    """`check_request` keeps item_id, and refuses what is malformed before it is sent."""
    request = people.flight(LISTED)
    request.item_id = "seat"
    response = await remote.check_request(request)
    assert (response.item_id, response.outcome) == ("seat", pb.OUTCOME_BARRED)
    with pytest.raises(InvalidRequest, match="purchase"):
        await remote.check_request(pb.CheckRequest())


async def test_callers_of_one_tick_share_a_call(remote: RemoteChecker) -> None:
    """A hundred checks at once are a handful of calls, and each gets its own answer."""
    await remote.check(Flight(), ID, CLEAR)
    before = remote.calls
    numbers = [LISTED if place % 3 == 0 else people.resident_id(100 + place) for place in range(100)]
    answers = await asyncio.gather(*(remote.check(Flight(), ID, number) for number in numbers))

    assert [answer.may_sell for answer in answers] == [number != LISTED for number in numbers]
    assert remote.calls - before <= 4


async def test_nobody_answers() -> None:
    """UNKNOWN, by the stand-in, with the reason and an id: the sale goes on. Within the time the caller has."""
    async with RemoteChecker(fixed_listen()) as remote:
        answer = await remote.check(Flight(), ID, LISTED, timeout=0.3)
        assert (answer.outcome, answer.answered_by) == (Outcome.UNKNOWN, AnsweredBy.STAND_IN)
        assert answer.reason in (Reason.CENTRE_UNREACHABLE, Reason.CENTRE_LATE)
        assert answer.may_sell
        assert answer.decision_id
        assert answer.notice is not None
        assert answer.expire_time is None


async def test_its_own_unknown_is_as_fresh_as_the_last_answer(stand: EdgeStand) -> None:
    """Before the checker has answered nothing is known of its data; once it is gone, an UNKNOWN says how fresh they
    were when it last answered."""
    checker = stand.serve("--index-timeout-ms", "2000")
    async with RemoteChecker(checker.address, timeout_ms=20_000) as remote, RemoteChecker(fixed_listen()) as alone:
        seen = await remote.check(Flight(), ID, CLEAR)
        assert seen.data_as_of.feed_sequence == 2
        assert await aside(checker.stop) == 0
        answer = await remote.check(Flight(), ID, CLEAR, timeout=0.3)
        assert (answer.outcome, answer.answered_by) == (Outcome.UNKNOWN, AnsweredBy.STAND_IN)
        assert answer.data_as_of == seen.data_as_of
        assert answer.response().data_as_of == seen.response().data_as_of
        never = await alone.check(Flight(), ID, CLEAR, timeout=0.3)
        assert (never.outcome, never.data_as_of.feed_sequence) == (Outcome.UNKNOWN, 0)


async def test_it_says_how_it_goes(stand: EdgeStand) -> None:
    """Checks, whether the checker answers, how far it knows the feed, our own UNKNOWNs; nothing of a filter."""
    checker = stand.serve("--index-timeout-ms", "2000")
    async with RemoteChecker(checker.address, timeout_ms=20_000) as remote:
        first = remote.status()
        assert (first.checks, first.centre) == (0, filter_pb2.CENTRE_STATE_UNSPECIFIED)
        await remote.check_many([Item(Flight(), ID, number) for number in (CLEAR, LISTED)])
        status = remote.status()
        assert (status.checks, status.hits, status.stand_ins, status.feed_sequence) == (2, 2, 0, 2)
        assert status.centre == filter_pb2.CENTRE_STATE_REACHABLE
        assert not status.HasField("lag")
        assert await aside(checker.stop) == 0
        await remote.check(Flight(), ID, CLEAR, timeout=0.3)
        status = remote.status()
        assert (status.checks, status.stand_ins, status.feed_sequence) == (3, 1, 2)
        assert status.centre == filter_pb2.CENTRE_STATE_UNREACHABLE
    with pytest.raises(UsageError, match="closed"):
        remote.status()


def test_it_has_all_that_an_edge_client_has() -> None:
    """Every public method, with the same arguments; only later word it cannot give, and says what to do instead."""
    for name, member in inspect.getmembers(EdgeClient, inspect.isfunction):
        if name.startswith(("_", "decide", "settle")):  # the halves, for BlockingEdgeClient
            continue
        ours = inspect.signature(getattr(RemoteChecker, name)).parameters
        assert list(ours) == list(inspect.signature(member).parameters), name
    with pytest.raises(UsageError, match="check once more before travel"):
        RemoteChecker("127.0.0.1:1").on_advice(lambda _: None)


@pytest.mark.parametrize("purchase", [Lodging(9), Train(""), "flight"])
async def test_what_is_malformed_is_not_sent(remote: RemoteChecker, purchase: Any) -> None:
    """UsageError by field, as from EdgeClient."""
    before = remote.calls
    with pytest.raises(UsageError, match="purchase"):
        await remote.check(purchase, ID, CLEAR)
    with pytest.raises(UsageError, match=r"items\[0\]\.purchase"):
        await remote.check_many([Item(purchase, ID, CLEAR)])
    assert remote.calls == before


async def test_life(centre: Checker) -> None:
    """Unopened, closed, pickled, or far away without TLS: each is told with the remedy."""
    remote = RemoteChecker(centre.address)
    with pytest.raises(UsageError, match="not open"):
        await remote.check(Flight(), ID, CLEAR)
    async with remote:
        await remote.check(Flight(), ID, CLEAR)
        with pytest.raises(TypeError, match="open one in each process"):
            pickle.dumps(remote)
    with pytest.raises(UsageError, match="closed"):
        await remote.check(Flight(), ID, CLEAR)
    with pytest.raises(UsageError, match="without TLS"):
        RemoteChecker("check.example:443")
