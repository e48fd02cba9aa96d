"""The importer's lease on Redis: one hash with token, holder and head, so that acknowledging is fenced atomically."""

import asyncio
import os
import socket
from contextlib import suppress
from typing import Final
from uuid import uuid4

from checker import faults
from checker.errors import CheckerError
from checker.index.base import Head, lease_held, lease_lost
from checker.index.functions import IMPORTER_ADVANCE, IMPORTER_RELEASE, IMPORTER_RENEW, IMPORTER_TAKE, call
from checker.index.store import Store

_PROCESS: Final = uuid4().hex
"""Tells this process from an earlier one that had the same number."""


def _place() -> str:
    """Where this process runs: host, process-number namespace, process number, the process itself."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return "|".join((socket.gethostname(), namespace, str(os.getpid()), _PROCESS))


def _is_dead(place: str) -> bool:
    """Whether a lease holder's process is known to be gone; only ever true for one of this machine."""
    host, namespace, number, process = place.split("|")
    if [host, namespace] != _place().split("|")[:2] or process == _PROCESS:
        return False
    if int(number) == os.getpid():
        return True
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


async def take(store: Store, holder: str, ttl_s: float) -> "RedisLease":
    """The lease, if nobody holds it or its holder is known to be gone. Raises IndexRefused naming the holder."""
    name = store.name("importer")
    attempt = uuid4().hex.encode()
    described = f"{holder} on {socket.gethostname()} (process {os.getpid()})".encode()
    milliseconds = str(int(ttl_s * 1000)).encode()
    replaces = b""
    while True:
        packed = call(IMPORTER_TAKE, name, described, _place().encode(), attempt, milliseconds, replaces)
        taken, token, *present = await store.one(name, packed, "lease")
        if taken:
            return RedisLease(store, token, ttl_s)
        other, place, since = present
        if replaces == token or not _is_dead(place.decode()):
            raise lease_held(other.decode(), int(since))
        replaces = token  # its process on this machine is gone: no need to wait for the lease to run out


class RedisLease:
    """The importer's lease, renewed beside its work."""

    def __init__(self, store: Store, token: bytes, ttl_s: float) -> None:
        self._store = store
        self._name = store.name("importer")
        self._token = token
        self._milliseconds = str(int(ttl_s * 1000)).encode()
        self._every_s = ttl_s / 3
        self._lost = False

    async def advance(self, head: Head) -> None:
        if self._lost:
            raise lease_lost()
        numbers = [str(number).encode() for number in head]
        if not await self._store.fenced(self._name, call(IMPORTER_ADVANCE, self._name, self._token, *numbers)):
            self._lost = True
            raise lease_lost()
        faults.point("index.after_advance")

    async def renew(self) -> bool:
        """Whether the lease is still ours."""
        if not self._lost:
            renew = call(IMPORTER_RENEW, self._name, self._token, self._milliseconds)
            self._lost = not await self._store.fenced(self._name, renew)
        return not self._lost

    async def keep(self) -> None:
        """Renew until lost; a store out of reach is tried again soon."""
        pause = self._every_s
        while True:
            await asyncio.sleep(pause)
            try:
                if not await self.renew():
                    return
                pause = self._every_s
            except CheckerError:
                pause = self._every_s / 6

    async def release(self) -> None:
        """Let the next importer in at once."""
        if not self._lost:
            self._lost = True
            with suppress(CheckerError):  # it runs out by itself
                await self._store.fenced(self._name, call(IMPORTER_RELEASE, self._name, self._token))
