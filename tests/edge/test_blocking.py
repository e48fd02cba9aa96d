"""Claims about the edge for threads, against a real checker."""

import asyncio
import contextlib
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from checker.core import filter_builder
from checker.core.freshness import AsOf
from checker.core.lookup import NeedExact, View
from edge import (
    Advice,
    AnsweredBy,
    BlockingEdgeClient,
    DocumentType,
    EdgeClient,
    Flight,
    Item,
    Outcome,
    Train,
    UsageError,
)
from edge.live import Live
from proto.checker.v1 import check_pb2 as pb
from tests.builders import KEY, NOW, rulebook
from tests.edge.scripted import a_key, edge_keys, now_ms
from tests.paths import people
from tests.paths.edges import PATIENT, EdgeStand, fixed_listen
from tests.paths.stand import Checker
from tests.waiting import until

ID = DocumentType.RESIDENT_ID
LISTED, CLEAR = people.resident_id(1), people.resident_id(2)


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeStand]:
    made = EdgeStand(tmp_path_factory.mktemp("blocking") / "centre")
    made.import_(made.feed("feed.jsonl", people.add(1, "m-listed", LISTED), people.heartbeat(2)))
    yield made
    made.close()


@pytest.fixture(scope="module")
def centre(stand: EdgeStand) -> Checker:
    return stand.serve("--index-timeout-ms", "2000")


def a_client(stand: EdgeStand, centre: str, data: Path) -> BlockingEdgeClient:
    return BlockingEdgeClient(centre, data, stand.key_for_edges(), settings=PATIENT)


@pytest.fixture
def client(stand: EdgeStand, centre: Checker, tmp_path: Path) -> Iterator[BlockingEdgeClient]:
    with a_client(stand, centre.address, tmp_path / "edge") as made:
        until(lambda: made.status().epoch and made.status().centre == 1, 60)
        yield made


def test_it_answers_as_the_other_does(client: BlockingEdgeClient) -> None:
    """`check`, `check_many` and `check_request` answer hits and misses, each in its place."""
    listed, clear = client.check(Flight(), ID, LISTED), client.check(Flight(), ID, CLEAR)

    assert (listed.outcome, listed.answered_by) == (Outcome.BARRED, AnsweredBy.INDEX)
    assert (clear.outcome, clear.answered_by) == (Outcome.ALLOWED, AnsweredBy.FILTER)
    many = client.check_many([Item(Flight(), ID, number) for number in (CLEAR, LISTED, CLEAR)])
    assert [answer.may_sell for answer in many] == [True, False, True]
    assert client.check_many([]) == []
    assert client.check_request(people.flight(LISTED)).outcome == pb.OUTCOME_BARRED
    with pytest.raises(UsageError, match="train_code: is required"):
        client.check(Train(""), ID, CLEAR)


class Ageing(Live):
    """An edge whose event loop finds, just after a thread has read the view, that it is too old."""

    read_by_thread = False

    @property
    def view(self) -> View:
        """The view before that."""
        view: View = self.__dict__["view"]
        if self.read_by_thread:
            self.read_by_thread = False
            self._clock_ms = lambda: now_ms() + 3_600_000
            self.refresh()
        return view

    @view.setter
    def view(self, view: View) -> None:
        self.__dict__["view"] = view


@pytest.mark.parametrize("many", [False, True])
def test_a_filter_found_too_old_while_a_thread_looks_clears_nobody(tmp_path: Path, *, many: bool) -> None:
    """The thread was held up between reading the view and asking how long it holds."""
    client = EdgeClient("127.0.0.1:1", tmp_path, edge_keys())
    live = client._live = Ageing(KEY, rulebook())
    base = filter_builder.build(b"".join(map(a_key, range(10))))
    live.swap(base, [], AsOf(100, NOW, 0, 1), KEY, rulebook(), now_ms() - 59_000)
    live.fresh_until_ms = now_ms()  # that time is over, and nobody has looked at it yet
    live.read_by_thread = True
    asked = Item(Flight(), ID, CLEAR)

    (step,) = client.decide_many([asked]) if many else [client.decide(asked)]

    assert isinstance(step, NeedExact)


def test_a_miss_does_not_cross_to_the_event_loop(client: BlockingEdgeClient) -> None:
    """While the event loop is held up, whom the filter clears is still answered, from any thread."""
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        go.wait(20)

    assert client._running is not None
    client._running.loop.call_soon_threadsafe(hold)
    try:
        assert held.wait(10)
        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(lambda _: client.check(Flight(), ID, CLEAR), range(200)))
        assert {answer.answered_by for answer in answers} == {AnsweredBy.FILTER}
    finally:
        go.set()


def test_many_threads_at_once(client: BlockingEdgeClient) -> None:
    """Sixteen threads with hits and misses each get the answers to their own questions."""
    numbers = [LISTED if place % 3 else CLEAR for place in range(300)]
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda number: client.check(Flight(), ID, number), numbers))

    assert [answer.may_sell for answer in answers] == [number == CLEAR for number in numbers]
    assert client.status().hits == 200


def test_life(stand: EdgeStand, centre: Checker, tmp_path: Path) -> None:
    """Unopened, closed, opened twice, pickled: each is told with the remedy; what fails at opening is raised there."""
    client = a_client(stand, centre.address, tmp_path / "edge")
    with pytest.raises(UsageError, match="not open"):
        client.check(Flight(), ID, CLEAR)
    with pytest.raises(UsageError, match="not open"):
        client.status()
    client.close()
    with client:
        with pytest.raises(UsageError, match="open already"):
            client.open()
        with pytest.raises(TypeError, match="open one in each process"):
            pickle.dumps(client)
    for attempt in (lambda: client.check(Flight(), ID, LISTED), client.status):
        with pytest.raises(UsageError, match="closed"):
            attempt()
    client.close()
    wrong = BlockingEdgeClient(centre.address, tmp_path / "other", tmp_path / "no-key.json")
    with pytest.raises(UsageError, match=r"no-key\.json does not exist"):
        wrong.open()


def test_it_works_where_an_event_loop_runs(client: BlockingEdgeClient) -> None:
    """A thread that happens to run an event loop may use it, as frameworks' threads do."""

    async def ask() -> bool:
        return client.check(Flight(), ID, LISTED).may_sell

    assert not asyncio.run(ask())


def test_closing_frees_whoever_waits(stand: EdgeStand, tmp_path: Path) -> None:
    """A check that waits for a centre which accepts and never answers is ended by `close` in another thread: it gets
    an answer or UsageError, and never hangs."""
    with subprocess.Popen([sys.executable, "-c", _SILENT], stdout=subprocess.PIPE, text=True) as silent:
        assert silent.stdout is not None
        port = silent.stdout.readline().strip()
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("edge.assembly.FIRST_WAIT_S", 0.05)
                client = a_client(stand, f"127.0.0.1:{port}", tmp_path / "edge").open()
            ended: list[str] = []

            def ask() -> None:
                try:
                    ended.append(client.check(Flight(), ID, LISTED).outcome.name)
                except UsageError as error:
                    ended.append(str(error))

            asking = threading.Thread(target=ask)
            asking.start()
            until(lambda: client.status().hits == 1)
            client.close()
            asking.join(10)
            assert not asking.is_alive()
            assert ended[0] == "UNKNOWN" or "closed" in ended[0]
        finally:
            silent.kill()


_SILENT = """
import socket, time
one = socket.create_server(("127.0.0.1", 0))
print(one.getsockname()[1], flush=True)
time.sleep(60)
"""


def test_a_process_that_forgets_to_close_ends(stand: EdgeStand, centre: Checker, tmp_path: Path) -> None:
    """It ends by itself, at once and cleanly."""
    code = (
        "import sys, edge\n"
        "client = edge.BlockingEdgeClient(*sys.argv[1:4], settings=edge.EdgeSettings(centre_timeout_ms=5000)).open()\n"
        "print(client.check(edge.Flight(), edge.DocumentType.RESIDENT_ID, sys.argv[4]).outcome.name)\n"
    )
    command = [sys.executable, "-c", code, centre.address, str(tmp_path / "edge"), str(stand.key_for_edges()), LISTED]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    assert (ran.returncode, ran.stdout) == (0, "BARRED\n"), ran
    assert "Traceback" not in ran.stderr


def test_advice_comes_in_a_thread_that_may_check(
    stand: EdgeStand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A callback may use the client it hangs on."""
    monkeypatch.setattr("edge.advice.BARRED_MS", 60_000)  # a refusal is offered as one however slow this machine is
    listen = fixed_listen()
    heard: list[tuple[Advice, Outcome]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edge.assembly.FIRST_WAIT_S", 0.05)
        client = a_client(stand, listen, tmp_path / "edge")
        client.on_advice(lambda advice: heard.append((advice, client.check(Flight(), ID, LISTED).outcome)))
        client.open()
    with contextlib.closing(client):
        unknown = client.check(Flight(), ID, LISTED, timeout=0.5)
        assert unknown.outcome is Outcome.UNKNOWN
        stand.serve("--index-timeout-ms", "2000", listen=listen)
        until(lambda: heard, 30)
        assert (heard[0][0].decision_id, heard[0][0].outcome, heard[0][1]) == (
            unknown.decision_id,
            Outcome.BARRED,
            Outcome.BARRED,
        )
    with pytest.raises(UsageError, match="plain function"):
        client.on_advice(_coroutine)  # type: ignore[arg-type]


async def _coroutine(advice: Advice) -> None:
    """What blocking clients do not take."""
