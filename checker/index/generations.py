"""A full reload: a new generation beside the old one, then one switch of the pointer that everybody follows.

`NS:gen` names the generation that serves, one being loaded and one being retired. The importer, under its lease, loads
the new one, switches, and deletes the old one when every worker reports the new one in `NS:workers`; as long as none
does, somebody who never reports may be reading, and the old one stays. A worker's report counts for WORKER_TTL_S and is
renewed each WORKER_REPORT_S; one that could not report for WORKER_TRUST_S trusts nothing it reads.
"""

import os
from typing import Final, NamedTuple

from redis.exceptions import ResponseError

from checker.errors import IndexRefused
from checker.index import functions
from checker.index.base import IndexKey
from checker.index.node import pack, translate
from checker.index.planning import Generation
from checker.index.reading import fields_of
from checker.index.store import Store

WORKER_TTL_S: Final = 60.0  # longer than a primary's fail-over: until then its healthy neighbours answer
WORKER_TRUST_S: Final = WORKER_TTL_S - 5.0
WORKER_REPORT_S: Final = 5.0
SETTLE_S: Final = 1.0


class Pointer(NamedTuple):
    """Numbers of generations; 0: there is none."""

    serving: int
    loading: int
    retiring: int


def of(store: Store, number: int, base_seq: int) -> Generation:
    """A generation by its number."""
    return Generation(number, store.namespace + b":%d:" % number, base_seq)


async def pointer(store: Store) -> Pointer | None:
    """What NS:gen says; None: there is no index."""
    name = store.name("gen")
    stored = await store.one(name, pack((b"HMGET", name, b"serving", b"loading", b"retiring")))
    return None if stored[0] is None else Pointer(*(int(number or 0) for number in stored))


async def read(store: Store, number: int) -> tuple[Generation, IndexKey]:
    """A generation and the digest key it was written with. IndexRefused if its description is gone."""
    name = of(store, number, 0).info
    info = fields_of(await store.one(name, pack((b"HGETALL", name))))
    if not info:
        raise IndexRefused(f"generation {number} of the index has lost its description: import again")
    return of(store, number, int(info[b"base_seq"])), IndexKey(info[b"key_id"].decode(), info[b"check_value"])


async def create(store: Store, generation: Generation, key: IndexKey) -> None:
    """Write a generation's description, with a journal of its own; does nothing if it has one."""
    description = (
        *(b"journal", os.urandom(8), b"key_id", key.key_id.encode()),
        *(b"check_value", key.check_value, b"base_seq", str(generation.base_seq).encode()),
    )
    await store.one(generation.info, functions.call(functions.CREATE, generation.info, *description))


async def point_to_first(store: Store) -> None:
    """Make generation 1 serve, if none does."""
    await store.one(store.name("gen"), functions.call(functions.CREATE, store.name("gen"), b"serving", b"1"))


async def begin(store: Store, generation: Generation) -> None:
    """Name the generation being loaded: from now on changes go to it too."""
    name = store.name("gen")
    await store.one(name, pack((b"HSET", name, b"loading", generation.number)))


async def switch(store: Store, number: int) -> None:
    """Serving becomes retiring, loading becomes serving. IndexRefused if `number` is not being loaded."""
    name = store.name("gen")
    if not await store.fenced(name, functions.call(functions.SWITCH, name, str(number).encode())):
        raise IndexRefused(f"generation {number} is not the one being loaded: load it first, with new_generation")


async def discarded(store: Store) -> None:
    """Forget the generation being loaded."""
    name = store.name("gen")
    await store.one(name, pack((b"HDEL", name, b"loading")))


async def retired(store: Store) -> None:
    """Forget the generation that was retired."""
    name = store.name("gen")
    await store.one(name, pack((b"HDEL", name, b"retiring")))


async def delete(store: Store, generation: Generation) -> None:
    """Remove everything of a generation, without holding the servers up."""
    for node in store.routing.nodes():
        async for names in store.scan_names(node, generation.prefix + b"*"):
            if names:
                removed = await node.line("scan").call(*(pack((b"UNLINK", name)) for name in names))
                for reply in removed:
                    if isinstance(reply, ResponseError):
                        raise translate(node.address, reply)


async def report(store: Store, worker_id: str, number: int) -> None:
    """Note which generation a worker reads."""
    name = store.name("workers")
    lives = str(int(WORKER_TTL_S * 1000)).encode()
    packed = functions.call(functions.WORKER_REPORT, name, worker_id.encode(), str(number).encode(), lives)
    await store.one(name, packed)


async def leave(store: Store, worker_id: str) -> None:
    """Forget a worker that has ended."""
    name = store.name("workers")
    await store.one(name, pack((b"HDEL", name, worker_id.encode())))


async def read_by_workers(store: Store) -> list[int]:
    """The generations that workers have reported lately, one entry per worker."""
    name = store.name("workers")
    return [int(number) for number in await store.one(name, functions.call(functions.WORKERS, name))]
