"""A centre and its edges in this process: every part the real one, over real sockets, with clocks that a test moves.

The parts read the time where `Clocks.install` has put it: what the machine says, and as much later as the test wants.
Each edge may also have a clock of its own that is wrong. Steps that take seconds in production take milliseconds.
"""

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import grpc
import pytest

from checker import wire
from checker.core import document as documents
from checker.core.document import DocumentType
from checker.core.freshness import AsOf, Limits
from checker.core.key import DigestKey
from checker.core.lookup import EVERYTHING, View
from checker.core.rules import Rulebook
from checker.core.stand_in import Age
from checker.index.base import ExactIndex
from checker.keys import EdgeKeys, KeyFile
from checker.rpc import servicer
from checker.rpc.client import open_channel
from checker.rpc.interceptors import Guard
from checker.rpc.live_filter import LiveFilter
from checker.rpc.roles import Callers
from checker.rpc.server import CHECK_SERVICE, RpcServer, ServerSettings
from checker.rpc.servicer import CheckServicer
from checker.serving import filter_file, follower, hub, publisher, settle
from checker.serving.filter_service import FILTER_SERVICE, FilterServicer
from checker.serving.follower import Follower
from checker.serving.hub import Hub
from checker.serving.keeper import Keeper
from checker.serving.publisher import Publisher
from checker.serving.settle import IndexSettler
from edge import assembly, client, live, sync
from edge.assembly import EdgeSettings
from edge.client import EdgeClient
from edge.question import CentreFailed, Question
from edge.request import Item
from proto.checker.v1 import check_pb2 as pb
from proto.checker.v1 import check_pb2_grpc, filter_pb2_grpc
from tests.paths.proxy import Proxy

PACE = sync.Pace(
    jitter=0.02,
    silence=0.4,
    first_retry=0.005,
    longest_retry=0.03,
    look=0.03,
    log_beat=0.02,
    canary=3600,
    chunk=0.5,
    spoilt=0.02,
    longest_spoilt=0.1,
)
_SETTINGS = EdgeSettings(centre_timeout_ms=20_000)  # how fast is not the claim here
_READY = grpc.ChannelConnectivity.READY
_ERROR_RATE = 1e-3
_T = TypeVar("_T")
Connect = Callable[[], Awaitable[ExactIndex]]

_ahead: contextvars.ContextVar["EdgeClock | None"] = contextvars.ContextVar("ahead", default=None)


class EdgeClock:
    """How far the wall clock of one edge's machine is ahead."""

    def __init__(self) -> None:
        self.ms = 0


class Clocks:
    """In the place of the module `time`: the machine's, later by `later_s`."""

    def __init__(self) -> None:
        self.later_s = 0

    def time_ns(self) -> int:
        """The wall clock of whoever asks."""
        own = _ahead.get()
        return time.time_ns() + self.later_s * 1_000_000_000 + (own.ms * 1_000_000 if own is not None else 0)

    def monotonic(self) -> float:
        """The steady clock."""
        return time.monotonic() + self.later_s

    def ms(self) -> int:
        """The wall clock in milliseconds."""
        return self.time_ns() // 1_000_000

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Let every part that tells ages ask here, and hurry."""
        for module in (hub, follower, settle, servicer, live):
            patch.setattr(module, "time", self)
        patch.setattr(client, "time_ns", self.time_ns)
        patch.setattr(assembly, "Live", partial(live.Live, steady_s=self.monotonic))
        patch.setattr(assembly, "FIRST_WAIT_S", 0.05)
        patch.setattr(sync, "Pace", lambda: PACE)
        patch.setattr(hub, "BEAT_S", 0.03)
        patch.setattr(hub, "PUBLICATION_S", 0.02)
        patch.setattr(follower, "POLL_S", 0.02)
        patch.setattr(publisher, "REACH_S", 0.0)


class MiniCentre:
    """One worker and its companion's tools. `for_worker`, `for_companion`: make connections to the index."""

    def __init__(self, for_worker: Connect, for_companion: Connect, keys: KeyFile, folder: Path) -> None:
        self._for_worker = for_worker
        self._for_companion = for_companion
        self._keys = keys
        self._path = folder / filter_file.NAME
        self.book: Rulebook | None = None  # None: it is down
        self.address = ""

    @property
    def up(self) -> bool:
        """Whether it serves."""
        return self.book is not None

    async def start(self, book: Rulebook) -> None:
        """Serve by this rulebook, on another port than before."""
        key = self._keys.digest_key
        self.index = index = await self._for_worker()
        self._companion = await self._for_companion()
        self.publisher = Publisher(self._companion, self._keys, book, _ERROR_RATE, hours=10_000)
        self._keeper = Keeper(self._companion, key, book, self._path, _ERROR_RATE)
        await self._keeper.ensure()
        self.live = LiveFilter(View(book, key, EVERYTHING, AsOf(0, 0, 0, 0), Limits()))
        self._hub = Hub(index, index.publications, key, self.live)
        self._follower = Follower(index, self.live, self._hub, key, self._path)
        await self._follower.start()
        await self._hub.start()
        checks = CheckServicer(self.live, IndexSettler(index, self.live, 5.0), lambda _: None)
        filters = FilterServicer(self._hub, index.publications, self._keys)

        def register(registry: Any) -> None:
            check_pb2_grpc.add_CheckServiceServicer_to_server(checks, registry)
            filter_pb2_grpc.add_FilterServiceServicer_to_server(filters, registry)

        self._server = RpcServer(
            ServerSettings(drain_pause=0.0, drain_grace=1.0),
            register,
            Guard(Callers.plaintext(loopback=True)),
            listen="127.0.0.1:0",
            services=(CHECK_SERVICE, FILTER_SERVICE),
            on_drain=self._hub.sign_off,
        )
        self.address = await self._server.start()
        self._channel = open_channel(self.address)
        self._stub = check_pb2_grpc.CheckServiceStub(self._channel)
        self.book = book

    async def stop(self, *, signing_off: bool) -> None:
        """Drain and end; or end as if killed, without a word to anybody."""
        self.book = None
        if signing_off:
            await self._server.drain()
        else:
            await self._server._server.stop(None)
        await self._channel.close()
        await self._follower.stop()
        await self._hub.stop()
        await self.index.close()
        await self._companion.close()

    async def keep(self) -> None:
        """The keeper's part: there is a filter file from which the journal can be followed."""
        await self._keeper.ensure()

    async def publish(self) -> None:
        """The publisher's part, as `checker build-snapshot --allow-drop`: of so few any lift is a large share."""
        await self.publisher.publish_once(allow_drop=True)

    async def publish_if_due(self) -> None:
        """The same, as the companion would."""
        if await self.publisher._due():
            await self.publish()

    async def ask(self, items: Sequence[Item]) -> list[pb.CheckResponse]:
        """One batch; a single question goes alone."""
        requests = [_request(item) for item in items]
        if len(requests) == 1:
            return [await self._stub.Check(requests[0], timeout=10)]
        return list((await self._stub.BatchCheck(pb.BatchCheckRequest(items=requests), timeout=10)).items)


class Knows(NamedTuple):
    """What an edge goes by at one moment."""

    age: Age
    sequence: int  # of the feed, that it claims to know
    may_list: frozenset[str]  # the numbers of those whom its filter does not clear
    doubtful: bool
    book: Rulebook


class MiniEdge:
    """An edge that comes and goes on a directory of its own, behind a proxy of its own."""

    def __init__(self, proxy: Proxy, keys: KeyFile, folder: Path, people: Sequence[str]) -> None:
        self.proxy = proxy
        self.clock = EdgeClock()
        self._keys = EdgeKeys(keys.active, keys.digest_keys, keys.signing_key.public_key())
        self._digests = {number: digest_of(number, keys.digest_key) for number in people}
        self._folder = folder
        self._client: EdgeClient | None = None

    @property
    def up(self) -> bool:
        """Whether it runs."""
        return self._client is not None

    @property
    def client(self) -> EdgeClient:
        """The client, while it runs."""
        assert self._client is not None
        return self._client

    async def there(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run something on this edge's machine: by its clock."""
        context = contextvars.copy_context()
        context.run(_ahead.set, self.clock)
        return await asyncio.create_task(work, context=context)

    async def start(self) -> None:
        """Start on what is on the disk."""
        made = EdgeClient(self.proxy.address, self._folder, self._keys, settings=_SETTINGS)
        self._client = await self.there(made.open())

    async def stop(self, *, cleanly: bool) -> None:
        """Stop; or let it die: what it would write at its end is not written."""
        stopped, self._client = self.client, None
        if not cleanly:
            stopped.edge.sync._last_beat = None
        await stopped.close()

    def _knows(self) -> Knows:
        """Called on its machine."""
        live = self.client.edge.live
        view = live.view
        held = frozenset(number for number, digest in self._digests.items() if live.may_list([digest]))
        return Knows(live.age(), view.as_of.feed_sequence, held, view.doubtful, view.rulebook)

    async def ask(self, items: Sequence[Item], timeout_s: float | None) -> tuple[Knows, list[pb.CheckResponse], Knows]:
        """The answers, and what it went by before and after. A single question goes alone."""

        async def asking() -> tuple[Knows, list[pb.CheckResponse], Knows]:
            before = self._knows()
            if len(items) == 1:
                ((purchase, kind, number, _, name, _, _, least),) = items
                answers = [
                    await self.client.check(
                        purchase, kind, number, name=name, min_feed_sequence=least, timeout=timeout_s
                    )
                ]
            else:
                answers = await self.client.check_many(items, timeout=timeout_s)
            return before, [answer.response() for answer in answers], self._knows()

        return await self.there(asking())

    async def look(self) -> tuple[Knows, float]:
        """What it goes by, and the lag in milliseconds that it shows."""

        async def looking() -> tuple[Knows, float]:
            return self._knows(), self.client.edge.live.lag_ms()

        return await self.there(looking())

    async def reaches_the_index(self) -> bool:
        """Whether a question of its own is answered, and each of its connections is there for those that follow."""
        edge = self.client.edge
        key = edge.keys.digest_key
        question = Question(key.seal(b"nobody", b""), key.key_id, 0, False, b"", _FLIGHT)
        try:
            await edge._stack(question, asyncio.get_running_loop().time() + 1.0)
        except CentreFailed:
            return False
        checks = [channel for (_, use), channel in edge._centre._channels.items() if use.startswith("check")]
        return all(channel.get_state(try_to_connect=True) is _READY for channel in checks)


_FLIGHT = pb.Purchase(flight=pb.Flight()).SerializeToString()


def digest_of(number: str, key: DigestKey) -> bytes:
    """The lookup key of a resident ID."""
    parsed = documents.parse(int(DocumentType.RESIDENT_ID), number, "", 20260101)
    assert not isinstance(parsed, documents.Invalid)
    (document,) = parsed.documents
    return key.document(document)


def _request(item: Item) -> pb.CheckRequest:
    document = pb.Document(type=pb.DOCUMENT_TYPE_RESIDENT_ID, number=item.number)
    purchase = pb.Purchase.FromString(wire.purchase_message(item.purchase))
    subject = pb.Subject(document=document, name=item.name)
    return pb.CheckRequest(subject=subject, purchase=purchase, min_feed_sequence=item.min_feed_sequence)
