"""What happens to every call before and after its handler.

Strategy: handlers are wrapped once, when a servicer registers, not intercepted per call: grpc.aio runs an interceptor
in two more coroutines and makes it build a handler for each call, a wrapper is one coroutine. The wrapper also parses
and serialises, so that overload is refused before parsing and no foreign exception reaches gRPC's own log. In order:

1. deadline: with less than `min_budget` left the call is refused, DEADLINE_EXCEEDED (nobody would read the answer);
2. caller: found from connection and certificate; 3. its role must cover the method: PERMISSION_DENIED;
4. admission: too much in flight is refused, RESOURCE_EXHAUSTED;
5. parse: unreadable bytes are INVALID_ARGUMENT; 6. quota: by items, RESOURCE_EXHAUSTED;
7. the servicer's `Quick` for the method, if it has one; without an answer from it the handler, which learns caller and
   deadline from `current_call()`; 8. serialise;
9. errors become statuses by `checker.errors`; anything else is INTERNAL with an id, logged by type and frames only;
10. `observe(method, status, seconds, items)`.

Streams: steps 1 to 4 once; then each message read costs one item of quota and waits for room in the stream's window.
Every message a handler yields or writes counts as the answer to one that was read.
"""

import asyncio
import inspect
import logging
import math
import secrets
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeAlias

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from checker.errors import CheckerError, DeadlineTooShort, InvalidRequest, Overloaded
from checker.rpc.admission import Admission, StreamWindow
from checker.rpc.quota import Quota
from checker.rpc.roles import OPEN, Caller, Callers, authorise_method, roles_of

_log = logging.getLogger("checker.rpc")
_DETAILS_KEY = "grpc-status-details-bin"


class Call(NamedTuple):
    """What a handler may know of its call: who asks, and the event-loop time (`loop.time()`) by which the answer must
    be on its way; math.inf when the caller set no deadline."""

    caller: Caller
    deadline: float


class Quick(NamedTuple):
    """How a servicer answers most calls of a unary method without waiting, from their bytes to the answer's bytes.

    A servicer names them in `quick`, by method name. `read` gives None for bytes it leaves to the parser, `answer` None
    for what it leaves to the handler; until then it must have done nothing that would be done twice.
    """

    read: Callable[[bytes], Any]
    answer: Callable[[Any, Call], bytes | None]


_NOT_QUICK = Quick(lambda raw: None, lambda plain, call: None)
_new_call: Callable[[type[Call], tuple[Caller, float]], Call] = tuple.__new__
_current: ContextVar[Call] = ContextVar("checker_rpc_call")


def current_call() -> Call:
    """The call being handled, in its handler and in every task that handler starts. LookupError anywhere else."""
    return _current.get()


class StreamEnded(CheckerError):
    """The service ends a stream: it has reached its lifetime, or the worker is stopping. Open a new one."""

    status = grpc.StatusCode.UNAVAILABLE


class Limits(NamedTuple):
    """`min_budget`: seconds that must be left of a deadline. `in_flight`: items per worker. `stream_in_flight`:
    unanswered items per stream. `stream_lifetime`: seconds after which a stream is asked to end; one that has not ended
    `stream_patience` seconds later is cut."""

    min_budget: float = 0.005
    in_flight: int = 4096
    stream_in_flight: int = 256
    stream_lifetime: float = 300.0
    stream_patience: float = 10.0


Observe = Callable[[str, grpc.StatusCode, float, int], None]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


# Streams that live long and carry no checks: their servicer has limits of its own, so they take no room from checks.
_LIMITED_BY_ITSELF = frozenset(
    {"/checker.v1.FilterService/WatchChanges", "/checker.v1.FilterService/GetSnapshot"},
)
# Methods whose requests weigh more than one item.
_WEIGHTS: dict[str, Callable[[Any], int]] = {"/checker.v1.CheckService/BatchCheck": lambda request: len(request.items)}


class Guard:
    """Wraps the handlers of one worker; counts what is in progress so that a drain can wait for it.

    `observe(full method, status, seconds, items)` is called after every call: it must be quick and never raise.
    """

    def __init__(
        self,
        callers: Callers,
        *,
        quota: Quota | None = None,
        limits: Limits | None = None,
        observe: Observe | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.admission = Admission(self.limits.in_flight)
        self.live = 0
        self._callers = callers
        self._quota = quota
        self._observe = observe
        self._windows: set[StreamWindow] = set()
        self._idle: asyncio.Future[None] | None = None

    # -- registration

    def protect(self, server: grpc.aio.Server) -> Any:
        """A stand-in for `server` to hand to `add_…Servicer_to_server`: whatever registers through it is wrapped."""
        return ByName(server, self.wrap)

    def wrap(self, method: str, handler: Any) -> Handler:
        """The handler with everything of this module around it. `method`: /package.Service/Method."""
        if handler.request_streaming or handler.response_streaming:
            return self._wrap_stream(method, handler)
        return self._wrap_unary(method, handler)

    def wrap_open(self, method: str, handler: Any) -> Handler:
        """A handler open to all and without limits (health, reflection); its streams end at a drain like all others."""
        if handler.request_streaming or handler.response_streaming:
            return self._wrap_stream(method, handler, open_to_all=True)
        unchanged: Handler = handler
        return unchanged

    # -- drain

    def end_streams(self) -> None:
        """Ask every open stream to end: what has been read is answered, then the caller sees UNAVAILABLE."""
        for window in list(self._windows):
            window.end()

    async def wait_idle(self, seconds: float) -> int:
        """Wait until no call is in progress, at most so long; how many still are."""
        if self.live:
            self._idle = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._idle], timeout=seconds)
            self._idle = None
        return self.live

    def _leave(self) -> None:
        self.live -= 1
        if self._idle is not None and not self.live and not self._idle.done():
            self._idle.set_result(None)

    # -- wrappers

    def _admitter(self, method: str, admission: Admission) -> Callable[[Any], Call]:
        """Steps 1 to 4 for one method, in one frame: calls run it with cold caches, where each frame tells."""
        min_budget = self.limits.min_budget
        identify = self._callers.identify
        allowed = tuple(roles_of(method))
        loop_time = asyncio.get_running_loop().time

        def admit(context: Any) -> Call:
            remaining = context.time_remaining()
            if remaining is None:
                deadline = math.inf
            elif remaining < min_budget:
                raise DeadlineTooShort(
                    f"{remaining * 1000:.1f} ms are left of the deadline, an answer needs {min_budget * 1000:g} ms: "
                    "set a longer deadline"
                )
            else:
                deadline = loop_time() + remaining
            caller = identify(context)
            if caller.role not in allowed:
                authorise_method(caller, method)
            admission.enter(1)
            return _new_call(Call, (caller, deadline))

        return admit

    def _wrap_unary(self, method: str, handler: Any) -> Handler:
        behaviour = handler.unary_unary
        if not inspect.iscoroutinefunction(behaviour):
            raise TypeError(f"{method}: its handler must be a coroutine function")
        serialise = handler.response_serializer
        weigh = _WEIGHTS.get(method)
        servicer = getattr(behaviour, "__self__", None)
        name = method.rpartition("/")[2]
        quick: Quick = getattr(servicer, "quick", {}).get(name, _NOT_QUICK)
        # A servicer may read the requests of a method by itself: `readers`, by method name; they raise DecodeError.
        parse = getattr(servicer, "readers", {}).get(name, handler.request_deserializer)
        admission, leave, observe = self.admission, self._leave, self._observe
        admit = self._admitter(method, admission)
        spend = self._quota.spend if self._quota is not None else None
        perf_counter = time.perf_counter
        set_current = _current.set

        ok = grpc.StatusCode.OK
        read, answer_quickly = quick

        async def handle(raw: bytes, context: Any) -> bytes:
            start = perf_counter()
            self.live += 1
            held, items, code = 0, 1, ok
            try:
                call = admit(context)
                held = 1
                plain = read(raw)
                request = parse(raw) if plain is None else None
                if weigh is not None:
                    items = weigh(request)
                    if items > 1:
                        admission.enter(items - 1, 1)
                        held = items
                if spend is not None:
                    spend(call.caller, items)
                if plain is not None:
                    answer = answer_quickly(plain, call)
                    if answer is not None:
                        return answer
                    request = parse(raw)
                set_current(call)
                made = await behaviour(request, context)
                # A handler whose answers are mostly alike may return them serialised.
                return made if made.__class__ is bytes else serialise(made)
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except grpc.aio.AbortError:  # the handler has answered by itself
                code = context.code()
                raise
            except Exception as error:
                status = to_status(method, error, context)
                code = status.code
                await context.abort(*status)
                raise
            finally:
                admission.in_flight -= held
                leave()
                if observe is not None:
                    observe(method, code, perf_counter() - start, items)

        return grpc.unary_unary_rpc_method_handler(handle)

    def _wrap_stream(self, method: str, handler: Any, *, open_to_all: bool = False) -> Handler:
        asks = "stream" if handler.request_streaming else "unary"
        kind = f"{asks}_stream" if handler.response_streaming else f"{asks}_unary"
        behaviour = getattr(handler, kind)
        yields = inspect.isasyncgenfunction(behaviour)
        if not yields and not inspect.iscoroutinefunction(behaviour):
            raise TypeError(f"{method}: its handler must be a coroutine function or an async generator")
        limits = self.limits
        admission = self.admission if method not in _LIMITED_BY_ITSELF else Admission(sys.maxsize)
        admit = self._admitter(method, admission)
        lifetime = math.inf if open_to_all else limits.stream_lifetime
        longest = None if open_to_all else limits.stream_lifetime + limits.stream_patience
        quota = None if open_to_all else self._quota
        observe = None if open_to_all else self._observe

        async def run(raw_or_messages: Any, context: Any, caller: Caller, progress: "_Progress") -> Any:
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(longest) as scope:
                window = StreamWindow(limits.stream_in_flight, self.admission, lambda: scope.reschedule(loop.time()))
                timer = None if open_to_all else loop.call_later(lifetime, window.end)
                self._windows.add(window)
                progress.window = window
                try:
                    if handler.request_streaming:
                        counted = handler.response_streaming
                        request = self._read(context, caller, quota, window, progress, counted=counted)
                    else:
                        request = handler.request_deserializer(raw_or_messages)
                    if not handler.response_streaming:
                        return handler.response_serializer(await behaviour(request, context))
                    if yields:
                        async for answer in behaviour(request, context):
                            await context.write(answer)
                            window.release()
                    else:
                        await behaviour(request, _Answering(context, window))
                finally:
                    if timer is not None:
                        timer.cancel()
                    self._windows.discard(window)
                    window.close()
            if progress.refused is not None:
                raise progress.refused
            if window.ending and not window.exhausted and handler.request_streaming:
                raise StreamEnded(_STREAM_ENDED)
            return None

        async def handle(raw_or_messages: Any, context: Any) -> Any:
            start = time.perf_counter()
            self.live += 1
            admitted, code = 0, grpc.StatusCode.OK
            progress = _Progress()
            try:
                if open_to_all:
                    return await run(raw_or_messages, context, OPEN, progress)
                call = admit(context)
                admitted = 1
                _current.set(call)
                return await run(raw_or_messages, context, call.caller, progress)
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except grpc.aio.AbortError:  # the handler has answered by itself
                code = context.code()
                raise
            except Exception as error:
                reason = error
                if isinstance(error, TimeoutError) and progress.overdue(longest):
                    reason = progress.refused or StreamEnded(_STREAM_ENDED)
                status = to_status(method, reason, context)
                code = status.code
                await context.abort(*status)
                raise
            finally:
                admission.in_flight -= admitted
                self._leave()
                if observe is not None:
                    observe(method, code, time.perf_counter() - start, progress.items)

        make = getattr(grpc, f"{kind}_rpc_method_handler")
        # A stream's messages are parsed and serialised in read and write, which our frames surround; single ones above.
        wrapped: Handler = make(
            handle,
            handler.request_deserializer if handler.request_streaming else None,
            _or_ready(handler.response_serializer) if handler.response_streaming else None,
        )
        return wrapped

    async def _read(
        self,
        context: Any,
        caller: Caller,
        quota: Quota | None,
        window: StreamWindow,
        progress: "_Progress",
        *,
        counted: bool,
    ) -> AsyncIterator[Message]:
        """The caller's messages, one when there is room; ends early when the stream must end or the quota is gone."""
        while not window.ending:
            await window.room()
            message = await context.read()
            if message is grpc.aio.EOF:
                window.exhausted = True
                return
            try:
                if quota is not None:
                    quota.spend(caller, 1)
            except Overloaded as refusal:  # what was read before is still answered
                progress.refused = refusal
                return
            progress.items += 1
            if counted:
                window.take()
            yield message


def _or_ready(serialise: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Handlers may hand out serialised answers: what goes to a thousand streams is serialised once."""
    return lambda answer: answer if answer.__class__ is bytes else serialise(answer)


_STREAM_ENDED = "the stream is at its lifetime or the service is stopping: open a new one, ask again what is unanswered"


class _Progress:
    """What the outer frame of a stream must know of the inner one."""

    __slots__ = ("_start", "items", "refused", "window")

    def __init__(self) -> None:
        self._start = time.monotonic()
        self.items = 0
        self.refused: Overloaded | None = None
        self.window: StreamWindow | None = None

    def overdue(self, seconds: float | None) -> bool:
        """Whether a TimeoutError is our own cut, not the handler's. `seconds`: the longest a stream may last."""
        if self.window is not None and self.window.ending:
            return True
        return seconds is not None and time.monotonic() - self._start >= seconds


class _Answering:
    """A stream's context for handlers that write instead of yielding: each write answers one item.

    Any number of tasks may write: gRPC takes one message at a time, and breaks the call off when given two.
    """

    __slots__ = ("_context", "_one_writer", "_window")

    def __init__(self, context: Any, window: StreamWindow) -> None:
        self._context = context
        self._window = window
        self._one_writer = asyncio.Lock()

    async def write(self, message: Message) -> None:
        async with self._one_writer:
            await self._context.write(message)
        self._window.release()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def _is_async(handler: Any) -> bool:
    asks = "stream" if handler.request_streaming else "unary"
    behaviour = getattr(handler, f"{asks}_stream" if handler.response_streaming else f"{asks}_unary")
    return inspect.iscoroutinefunction(behaviour) or inspect.isasyncgenfunction(behaviour)


class ByName:
    """Registers services by name only, with `wrap` around each handler.

    Generated code registers every method twice: in a generic handler, and with gRPC itself, which then waits for the
    next call of each method separately, in one `asyncio.wait` over all of them per call. Found by name, all methods
    share one wait: 10 to 20 µs less per call.

    Methods a servicer leaves to its generated base class (which are not async) stay out: callers see UNIMPLEMENTED.
    """

    def __init__(self, server: grpc.aio.Server, wrap: Callable[[str, Any], Handler] | None = None) -> None:
        self._server = server
        self._wrap = wrap

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Any) -> None:
        for handler in generic_rpc_handlers:
            if not isinstance(handler, grpc.ServiceRpcHandler):
                raise TypeError("only services with generated code can be registered here")

    def add_registered_method_handlers(self, service_name: str, method_handlers: Any) -> None:
        handlers = method_handlers
        if self._wrap is not None:
            handlers = {
                name: self._wrap(f"/{service_name}/{name}", found)
                for name, found in method_handlers.items()
                if _is_async(found)
            }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service_name, handlers),))


# -- errors


class Status(NamedTuple):
    """Arguments of `context.abort`."""

    code: grpc.StatusCode
    text: str
    trailing: tuple[tuple[str, bytes], ...] = ()


def to_status(method: str, error: Exception, context: Any = None) -> Status:
    """The status for an exception. What is not a CheckerError is logged by type and frames, and shown as an id only."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:  # a task group's wrapping
        error = error.exceptions[0]
    if isinstance(error, DecodeError):
        error = InvalidRequest(
            [("request", f"not a message {method} understands: check the client's contract version")]
        )
    if isinstance(error, InvalidRequest):
        return Status(error.status, str(error)[:1000], ((_DETAILS_KEY, bad_request(error)),))
    if isinstance(error, Overloaded) and error.retry_s:
        return Status(error.status, str(error)[:1000], ((_DETAILS_KEY, retry_info(error)),))
    if isinstance(error, CheckerError):
        return Status(error.status, str(error)[:1000])
    if isinstance(error, TimeoutError) and context is not None and context.time_remaining() == 0:
        return Status(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed while the answer was made")
    identifier = "".join(secrets.choice("bcdfghjkmnpqrstvwxz") for _ in range(12))  # letters: the log masks digits
    _log.error("internal error %s in %s: %s", identifier, method, describe(error))
    return Status(grpc.StatusCode.INTERNAL, f"internal error {identifier}: the service's log says more under this id")


def bad_request(error: InvalidRequest) -> bytes:
    """google.rpc.Status holding a google.rpc.BadRequest, as clients expect it in grpc-status-details-bin.

    At most 16 violations: trailing metadata beyond 8 kB would cost the client the whole status.
    """
    details = error_details_pb2.BadRequest()
    for field, text in error.violations[:16]:
        details.field_violations.add(field=field, description=text[:200])
    return _detailed(error, details)


def retry_info(error: Overloaded) -> bytes:
    """The same with a google.rpc.RetryInfo: when to come back."""
    details = error_details_pb2.RetryInfo()
    details.retry_delay.FromMilliseconds(int(error.retry_s * 1000))
    return _detailed(error, details)


def _detailed(error: CheckerError, details: Message) -> bytes:
    status = status_pb2.Status(code=error.status.value[0], message=str(error)[:1000])
    status.details.add().Pack(details)
    raw: bytes = status.SerializeToString()
    return raw


def describe(error: BaseException) -> str:
    """Exception types and code places, outermost first, and never a text: texts may quote what a caller sent."""
    parts = []
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        frames = traceback.extract_tb(link.__traceback__, limit=-12)
        places = " < ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in reversed(frames))
        parts.append(f"{type(link).__name__} at {places or 'no frame'}")
        if isinstance(link, BaseExceptionGroup):
            parts.extend(f"[{describe(inner)}]" for inner in link.exceptions)
        link = link.__cause__ or link.__context__
    return "; from ".join(parts)
