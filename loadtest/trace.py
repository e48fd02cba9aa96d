"""Traces: the orders of a run in a file, so that the same run can be driven again byte for byte.

Strategy: only `loadtest` writes traces, from orders that `loadtest.workload` invented; services record none. A file
that was not written here, was cut or was changed is refused by its magic and its SHA-256 before any order is used. So a
trace never holds a number that could be somebody's.

Layout, little-endian: MAGIC, version, then per order a frame of 4-byte length and content; a frame of length 0 ends
them, followed by the SHA-256 of everything before it. Content: start in seconds (float64), place of the RPC in RPCS,
length of the tenant's name, number of items; the name; per item the length of its request, the place of its outcome in
OUTCOMES, its line in people.csv; the request.
"""

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from loadtest import expectations as law
from loadtest.workload import RPCS, Item, Order

MAGIC = b"xianxiao-trace\x00"
VERSION = 1
OUTCOMES = (law.ALLOWED, law.BARRED, law.UNKNOWN, law.INVALID_DOCUMENT)
_ORDER = struct.Struct("<dBBH")
_ITEM = struct.Struct("<HBI")
_LENGTH = struct.Struct("<I")
_SHA256 = 32


class BadTrace(Exception):
    """The file is no trace that can be driven; the text says why."""


def write(path: Path, orders: Iterable[Order]) -> int:
    """Write the orders to a file, complete or not at all; returns how many. Raises OSError."""
    part = path.with_name(path.name + ".part")
    try:
        count = _write(part, orders)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return count


def _write(path: Path, orders: Iterable[Order]) -> int:
    count, digest = 0, hashlib.sha256(MAGIC + bytes([VERSION]))
    with path.open("wb") as file:
        file.write(MAGIC + bytes([VERSION]))
        for order in orders:
            content = _pack(order)
            frame = _LENGTH.pack(len(content)) + content
            digest.update(frame)
            file.write(frame)
            count += 1
        digest.update(_LENGTH.pack(0))
        file.write(_LENGTH.pack(0) + digest.digest())
    return count


def read(path: Path) -> Iterator[Order]:
    """The orders of a trace. The whole file is verified before the first is given. Raises BadTrace, OSError."""
    _verify(path)
    return _orders(path)


def _pack(order: Order) -> bytes:
    tenant = order.tenant.encode()
    pieces = [_ORDER.pack(order.at_s, RPCS.index(order.rpc), len(tenant), len(order.items)), tenant]
    for item in order.items:
        pieces += (_ITEM.pack(len(item.request), OUTCOMES.index(item.expected), item.line), item.request)
    return b"".join(pieces)


def _unpack(content: bytes) -> Order:
    at_s, rpc, name, count = _ORDER.unpack_from(content)
    place = _ORDER.size + name
    tenant, items = content[_ORDER.size : place].decode(), []
    for _ in range(count):
        size, outcome, line = _ITEM.unpack_from(content, place)
        place += _ITEM.size + size
        items.append(Item(content[place - size : place], OUTCOMES[outcome], line))
    return Order(at_s, tenant, RPCS[rpc], tuple(items))


def _verify(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(len(MAGIC) + 1)
        if start[: len(MAGIC)] != MAGIC:
            raise BadTrace("is not a trace of loadtest: write one with `loadtest run --trace FILE`")
        if start[len(MAGIC) :] != bytes([VERSION]):
            raise BadTrace("is a trace of another version of loadtest: write it again")
        left, digest = path.stat().st_size - len(start) - _SHA256, hashlib.sha256(start)
        while left > 0 and (piece := file.read(min(left, 1 << 20))):
            digest.update(piece)
            left -= len(piece)
        if left or file.read() != digest.digest():
            raise BadTrace("was cut or changed: its SHA-256 does not fit; write it again")


def _orders(path: Path) -> Iterator[Order]:
    with path.open("rb") as file:
        file.read(len(MAGIC) + 1)
        while size := _LENGTH.unpack(file.read(_LENGTH.size))[0]:
            yield _unpack(file.read(size))
