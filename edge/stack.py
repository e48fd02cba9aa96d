"""What stands behind `NeedExact` at an edge, put together in this one place. From the asker to the centre:

    VerdictCache    answers at once for those whom the exact index is known not to hold
    SingleFlight    equal questions that have not left yet become one
    Coalescer       all questions of one tick become one batch, or two when they are many
    Remote.send     the batch goes to the centre: deadline, breaker, hedge, retry

The cache is first because it costs least. Single flight stands before coalescing, so that a batch holds each question
once, and after the cache, so that whoever joins is not remembered twice. Only the lowest knows that there is a network.
"""

from collections.abc import Coroutine
from typing import Any

from edge.centre import Centre
from edge.exact import BATCHES_IN_FLIGHT, CACHE_KEYS, CACHE_S, HALVED_FROM, Coalescer, SingleFlight, VerdictCache
from edge.live import Live
from edge.question import Ask, Question, Verdict
from edge.remote import CONNECTIONS, TIMEOUT_S, Remote


class Stack:
    """The layers as one `Ask`, with what an operator may want to see of them."""

    def __init__(self, ask: Ask, coalescer: Coalescer[Question, Verdict], remote: Remote) -> None:
        self.remote = remote
        self._ask = ask
        self._coalescer = coalescer

    def __call__(self, question: Question, deadline: float) -> Coroutine[Any, Any, Verdict]:
        return self._ask(question, deadline)

    async def close(self) -> None:
        """Give up what is under way. The centre's channels are closed by whoever opened them."""
        await self._coalescer.close()


def build(
    live: Live,
    centre: Centre,
    *,
    timeout_s: float = TIMEOUT_S,
    connections: int = CONNECTIONS,
    batches_in_flight: int = BATCHES_IN_FLIGHT,
    cache_keys: int = CACHE_KEYS,
    cache_s: float = CACHE_S,
) -> Stack:
    """The stack over one centre. `timeout_s`: the longest a question may take; `connections`: to each address."""
    remote = Remote(centre, live, timeout_s=timeout_s, connections=connections)
    coalescer = Coalescer(remote.send, in_flight=batches_in_flight, halved_from=HALVED_FROM)
    single = SingleFlight(coalescer)
    coalescer.on_sent.append(single.sent)
    return Stack(VerdictCache(single, live, keys=cache_keys, seconds=cache_s), coalescer, remote)
