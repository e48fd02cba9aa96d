"""The prefilter on this node's disk: built from a scan of the index, mapped by every worker.

Built by one process (`checker.serving.keeper`), written aside, fsynced, renamed. The file is local and unsigned: it is
read only by the node that wrote it. It names the journal position noted *before* the scan, so whatever was added during
the scan is either in it or in the journal after it.
"""

import asyncio
import mmap
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from checker.core import container, filter_builder
from checker.core.filter import DigestFilter
from checker.core.key import DIGEST_BYTES, DigestKey
from checker.core.rules import Rulebook
from checker.index.base import ExactIndex, Head, Position

NAME = "filter.xxf"


def path_in(state: Path) -> Path:
    """Where the filter file lies in a state directory."""
    return state / NAME


class Scan(NamedTuple):
    """Who is listed: the one source of every filter."""

    keys: npt.NDArray[np.uint8]  # shape (n, 16), each key once
    position: Position  # of the journal, noted before: what was added since is in the scan or behind this
    head: Head  # likewise


async def scan(index: ExactIndex) -> Scan:
    """Every listed key. Raises IndexUnavailable when the store is lost on the way."""
    position = await index.journal_end()
    head = await index.head()
    gathered = bytearray()
    async for batch in index.scan():
        gathered += b"".join(batch)
    return Scan(await asyncio.to_thread(_distinct, gathered), position, head)


def _distinct(gathered: bytearray) -> npt.NDArray[np.uint8]:
    """The keys, each once. A scan may see one twice, which a filter does not mind but its count would.

    Keys are uniform, so two that agree in one half are nearly always the same: only those are compared whole.
    """
    keys = np.frombuffer(gathered, dtype=np.uint8).reshape(-1, DIGEST_BYTES)
    halves = keys.view("<u8")[:, 0] if len(keys) else np.empty(0, "<u8")
    ordered = np.sort(halves)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(twice):
        return keys
    doubtful = np.isin(halves, twice)
    once = np.unique(keys[doubtful].view("V16").ravel()).view(np.uint8).reshape(-1, DIGEST_BYTES)
    return np.concatenate((keys[~doubtful], once))


async def build(
    index: ExactIndex, key: DigestKey, rulebook: Rulebook, error_rate: float, clock_ms: Callable[[], int]
) -> tuple[container.Header, DigestFilter]:
    """Scan the index into a new filter. Raises IndexUnavailable when the store is lost on the way."""
    began_ms = clock_ms()
    scanned = await scan(index)
    built = await asyncio.to_thread(filter_builder.build, scanned.keys, error_rate)
    return header(built, key, rulebook, scanned, began_ms), built


def header(
    built: DigestFilter,
    key: DigestKey,
    rulebook: Rulebook,
    scanned: Scan,
    built_ms: int,
    *,
    centre_id: bytes = bytes(16),
    epoch: int = 0,
) -> container.Header:
    """What goes before the filter built from a scan; without centre and epoch: a checker's own.

    `built_ms`: noted before the scan, so that an edge may say it knows all that was acknowledged until then.
    """
    return container.Header(
        derivation=container.DERIVATION,
        key_id=key.key_id,
        key_check=key.check_value,
        parameters=built.parameters(),
        centre_id=centre_id,
        epoch=epoch,
        journal_id=scanned.position.journal_id,
        journal_position=scanned.position.entry,
        feed_sequence=scanned.head.feed_sequence,
        feed_time_ms=scanned.head.feed_time_ms,
        rulebook_version=rulebook.version,
        rulebook_sha256=rulebook.sha256,
        built_ms=built_ms,
    )


def stamp(path: Path) -> tuple[int, int]:
    """Inode and modification time: which file lies there. (0, 0): none, or it cannot be looked at."""
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_ino, status.st_mtime_ns)


def write(path: Path, header: container.Header, built: DigestFilter) -> None:
    """Put the filter file in place; a reader sees the old one or the new one, whole. Raises OSError."""
    handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(container.pack(header, built.bits(), None))
            file.flush()
            os.fsync(file.fileno())
        os.rename(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def load(path: Path, key: DigestKey) -> tuple[container.Header, DigestFilter]:
    """Map and verify a filter file. Raises OSError (FileNotFoundError: none yet) or container.BadContainer: why."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size  # of the file just opened: another may lie there by now
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    header, loaded = container.load(memoryview(mapped), None)
    if (header.key_id, header.key_check) != (key.key_id, key.check_value):
        raise container.BadContainer("key: the filter was built with another digest key")
    return header, loaded
