"""`EdgeClient` for threads: Django, Flask and older systems.

An event loop in a thread of its own runs an EdgeClient, which follows the centre. A check that the filter clears is
decided in the caller's thread, without crossing to the other; only what must be asked crosses.
"""

import asyncio
import inspect
import queue
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import wait
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import uvloop

from checker.core.document import DocumentType
from checker.core.lookup import NeedExact
from checker.core.purchase import Purchase
from checker.errors import UsageError
from checker.keys import EdgeKeys
from edge.advice import Advice
from edge.answer import Answer
from edge.assembly import EdgeSettings
from edge.centre import ClientTls
from edge.client import EdgeClient
from edge.lifetime import CLOSED
from edge.request import Item
from proto.checker.v1 import check_pb2 as pb
from proto.checker.v1 import filter_pb2

_LOOK_S = 1.0
"""Between two looks of a waiting thread at whether the event loop still lives."""
_T = TypeVar("_T")


class _Running(NamedTuple):
    thread: threading.Thread
    loop: asyncio.AbstractEventLoop
    stop: asyncio.Event


class BlockingEdgeClient:
    """`EdgeClient` without async; its methods may be called from any thread at once. Arguments and errors are the same.

    One per process, opened after a fork: with gunicorn in `post_fork`, with uwsgi in `@postfork`.
    """

    def __init__(
        self,
        centre: str | Sequence[str],
        data_dir: str | Path,
        key: str | Path | EdgeKeys,
        *,
        tls: ClientTls | None = None,
        name: str = "",
        settings: EdgeSettings | None = None,
        insecure_plaintext: bool = False,
    ) -> None:
        self._client = EdgeClient(
            centre, data_dir, key, tls=tls, name=name, settings=settings, insecure_plaintext=insecure_plaintext
        )
        self._running: _Running | None = None

    # Life

    def open(self) -> "BlockingEdgeClient":
        """As `EdgeClient.open`; returns self."""
        if self._running is not None:
            raise UsageError("this client is open already")
        ready: queue.SimpleQueue[_Running | BaseException] = queue.SimpleQueue()

        async def live() -> None:
            stop = asyncio.Event()
            try:
                await self._client.open()
            except BaseException as error:  # noqa: BLE001 - it is raised again, in the thread that opens
                ready.put(error)
                return
            ready.put(_Running(threading.current_thread(), asyncio.get_running_loop(), stop))
            await stop.wait()
            await self._client.close()

        def run() -> None:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(live())

        # A daemon: a process that forgets to close ends all the same.
        thread = threading.Thread(target=run, name="edge", daemon=True)
        thread.start()
        found = ready.get()
        if isinstance(found, BaseException):
            thread.join()
            raise found
        self._running = found
        return self

    def close(self) -> None:
        """As `EdgeClient.close`. Checks that are still waiting in other threads are ended with UsageError."""
        if self._running is None:
            return
        _ = self._client.edge  # else it says why not, as after a fork
        running, self._running = self._running, None
        running.loop.call_soon_threadsafe(running.stop.set)
        running.thread.join()

    def __enter__(self) -> "BlockingEdgeClient":
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("an edge client cannot be pickled or copied: open one in each process")

    # Checks

    def check(
        self,
        purchase: Purchase,
        document_type: DocumentType,
        number: str,
        *,
        country: str = "",
        name: str = "",
        act_time: datetime | None = None,
        service_time: datetime | None = None,
        min_feed_sequence: int = 0,
        timeout: float | None = None,
    ) -> Answer:
        """As `EdgeClient.check`."""
        asked = (purchase, document_type, number, country, name, act_time, service_time, min_feed_sequence)
        step = self._client.decide(asked)
        if isinstance(step, Answer):
            return step
        (answer,) = self._cross(self._client.settle([step], timeout))
        return answer

    def check_many(self, items: Iterable[Item], *, timeout: float | None = None) -> list[Answer]:
        """As `EdgeClient.check_many`."""
        steps = self._client.decide_many(items)
        needs = [step for step in steps if isinstance(step, NeedExact)]
        settled = iter(self._cross(self._client.settle(needs, timeout)) if needs else ())
        return [next(settled) if isinstance(step, NeedExact) else step for step in steps]

    def check_request(self, request: pb.CheckRequest) -> pb.CheckResponse:
        """As `EdgeClient.check_request`."""
        step = self._client.decide_request(request)
        if isinstance(step, NeedExact):
            (step,) = self._cross(self._client.settle([step], None))
        return step.response(request.item_id)

    # What happens later, and how it goes

    def on_advice(self, callback: Callable[[Advice], None]) -> None:
        """As `EdgeClient.on_advice`, in a thread: it may take its time, and check."""
        if inspect.iscoroutinefunction(callback):
            raise UsageError("on_advice: give a plain function; coroutine functions are for EdgeClient")

        async def tell(advice: Advice) -> None:
            await asyncio.to_thread(callback, advice)

        if self._running is not None:
            self._running.loop.call_soon_threadsafe(self._client.on_advice, tell)
        else:
            self._client.on_advice(tell)

    def status(self) -> filter_pb2.EdgeStatus:
        """As `EdgeClient.status`."""

        async def ask() -> filter_pb2.EdgeStatus:
            return self._client.status()

        return self._cross(ask())

    def _cross(self, work: Coroutine[Any, Any, _T]) -> _T:
        """The result of work done in the event loop."""
        running = self._running
        try:
            _ = self._client.edge  # else it says why not
            if running is None:
                raise RuntimeError  # noqa: TRY301 - as when the loop has ended
            future = asyncio.run_coroutine_threadsafe(work, running.loop)
        except UsageError:
            work.close()
            raise
        except RuntimeError:
            work.close()
            raise UsageError(CLOSED) from None
        try:
            while running.thread.is_alive() and not wait([future], _LOOK_S).done:
                pass
            if future.done() and not future.cancelled():
                return future.result()
            raise UsageError(CLOSED)
        finally:
            future.cancel()  # whoever waited has gone, as by KeyboardInterrupt
