"""Traces: the orders of a run in a file, so that the same run can be driven again byte for byte.

Strategy: only `loadtest` writes traces, from orders that `loadtest.workload` invented; services record none. A file
that was not written here, was cut or was changed is refused by its magic and its SHA-256 before any order is used. So a
trace never holds a number that could be somebody's.

Layout, little-endian: MAGIC, version, then per order a frame of 4-byte length and content; a frame of length 0 ends
them, followed by the SHA-256 of everything before it. Content: start in seconds (float64), place of the RPC in RPCS,
length of the tenant's name, number of items; the name; per item the length of its request, the place of its outcome in
OUTCOMES, its line in people.csv; the request.
"""

import argparse
import hashlib
import os
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from loadtest import expectations as law
from loadtest import sla as slas
from loadtest.ask import BadPeople
from loadtest.workload import RPCS, Item, Order, People, orders

MAGIC = b"xianxiao-trace\x00"
VERSION = 1
OUTCOMES = (law.ALLOWED, law.BARRED, law.UNKNOWN, law.INVALID_DOCUMENT)
_ORDER = struct.Struct("<dBBH")
_ITEM = struct.Struct("<HBI")
_LENGTH = struct.Struct("<I")
_SHA256 = 32


class BadTrace(Exception):
    """The file is no trace that can be driven; the text says why."""


def write(path: Path, made: Iterable[Order]) -> int:
    """Write the orders to a file, complete or not at all; returns how many. Raises OSError."""
    part = path.with_name(path.name + ".part")
    try:
        count = _write(part, made)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return count


def _write(path: Path, made: Iterable[Order]) -> int:
    count, digest = 0, hashlib.sha256(MAGIC + bytes([VERSION]))
    with path.open("wb") as file:
        file.write(MAGIC + bytes([VERSION]))
        for order in made:
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
            raise BadTrace("is not a trace of loadtest: write one with `loadtest trace`")
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


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "trace",
        help="write an SLA's orders to a file, to drive the very same ones again",
        description="Write the orders of an SLA's workload to a file that `loadtest run --replay FILE` drives: the "
        "same bytes at the same times, on another machine or version too. Holds invented people only. Exit 0, or 2 "
        "for wrong input.",
        epilog="example:\n  loadtest trace --sla rail-peak --people feed/people.csv --rate 500 --out my.trace",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sla", required=True, metavar="FILE", help="SLA file, or the name of one that comes with it")
    parser.add_argument("--people", required=True, type=Path, metavar="FILE", help="people.csv of `loadtest make-feed`")
    parser.add_argument("--rate", type=_positive, metavar="R", help="checks per second (default: the SLA's)")
    parser.add_argument("--seconds", type=_positive, metavar="S", help="length (default: the SLA's)")
    parser.add_argument("--seed", default="1", metavar="S", help="another seed, other orders (default 1)")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the trace; replaced when there is one")
    parser.set_defaults(run=run)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError("must be a number above 0")
    return value


def run(args: argparse.Namespace) -> int:
    """Write and tell; see the verb's help for the exit codes."""
    sla_file = slas.locate(args.sla)
    try:
        sla = slas.read(sla_file)
        people = People.read(args.people)
        rate, seconds = args.rate or sla.rate, args.seconds or sla.seconds
        made = orders(people, sla.tenants, rate_per_s=rate, seconds=seconds, seed=args.seed, profile=sla.profile)
        count = write(args.out, made)
    except slas.BadSla as error:
        return _complain([f"{sla_file}: {problem}" for problem in error.problems])
    except BadPeople as error:
        return _complain([f"{args.people}: {error}"])
    except OSError as error:
        return _complain([f"{error.filename}: {error.strerror}"])
    print(f"wrote {args.out}: {count:,} orders, {seconds:g} s at {rate:g} checks/s ({sla.name}, {sla.profile})")
    print(f"next:  loadtest run --sla {args.sla} --target ADDR --people {args.people} --replay {args.out}")
    return 0


def _complain(lines: list[str]) -> int:
    for line in lines:
        print(f"loadtest trace: {line}", file=sys.stderr)
    return 2
