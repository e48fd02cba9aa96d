"""A centre of real processes that has published millions of keys, within seconds.

Its index holds next to nothing: snapshots are built from random keys and published as the publisher would after a scan.
From there on every byte goes through the same store, FilterService and wire as any other epoch.
"""

import asyncio
import contextlib
import functools
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import uvloop

from bench.rpc import checker
from checker import keys as key_files
from checker import rulebooks
from checker.core import container
from checker.core.changes import signed_manifest
from checker.core.filter import DigestFilter
from checker.core.filter_builder import build
from checker.core.key import Algorithm
from checker.index.base import CHUNK_BYTES, ExactIndex, IndexKey, Publication
from checker.index.urls import open_index
from checker.serving import filter_file, publisher


@dataclass(frozen=True)
class Centre:
    """A centre that serves at `address`; files of its edges go below `folder`."""

    address: str
    url: str  # of its index
    folder: Path
    keys: key_files.KeyFile
    key_file: Path
    edge_key: Path

    @contextlib.asynccontextmanager
    async def index(self) -> AsyncIterator[ExactIndex]:
        """Its index."""
        index = open_index(self.url)
        key = self.keys.digest_key
        try:
            await index.open(IndexKey(key.key_id, key.check_value), create=True)
            yield index
        finally:
            await index.close()

    async def publish(self, built: DigestFilter) -> int:
        """Make this filter, and the canary, the next epoch; bytes of its snapshot. Nothing may be added meanwhile."""
        built.add(self.keys.digest_key.canary)
        async with self.index() as index:
            last = await index.publications.latest()
            centre_id = await index.publications.centre_id()
            scan = filter_file.Scan(np.empty((0, 16), np.uint8), await index.journal_end(), await index.head())
            rulebook, now_ms = rulebooks.load(None), time.time_ns() // 1_000_000
            epoch = 1 if last is None else last.epoch + 1
            header = filter_file.header(
                built, self.keys.digest_key, rulebook, scan, now_ms, centre_id=centre_id, epoch=epoch
            )
            snapshot = container.pack(header, built.bits(), self.keys.signing_key.sign)
            manifest = publisher._manifest(header, snapshot)
            signature = self.keys.signing_key.sign(signed_manifest(manifest))
            published = Publication(epoch, centre_id, manifest, signature, rulebook.source, 0, scan.position)
            chunks = [snapshot[at : at + CHUNK_BYTES] for at in range(0, len(snapshot), CHUNK_BYTES)]
            assert await index.publications.publish(published, chunks)
        return len(snapshot)

    def import_(self, feed: Path) -> None:
        """`checker import` to its end."""
        where = ["--index", self.url, "--key-file", str(self.key_file), "--state-dir", str(self.folder / "state")]
        command = [sys.executable, "-m", "checker", "import", "--json", *where, str(feed)]
        subprocess.run(command, check=True, capture_output=True)


@contextlib.contextmanager
def centre(built: DigestFilter) -> Iterator[Centre]:
    """A checker of one worker that serves this filter as its first epoch."""
    logging.getLogger("edge").setLevel(logging.CRITICAL)  # edges in this process are not an operator's
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        keys = key_files.new(Algorithm.BLAKE2B_128, "bench")
        key_file, edge_key, feed = folder / "key.json", folder / "edge-key.json", folder / "feed.jsonl"
        key_files.save(key_file, keys)
        key_files.export_edge(edge_key, keys)
        feed.write_text('{"seq": 1, "op": "heartbeat"}\n', "utf-8")
        found = Centre("", f"embedded:{folder / 'index'}", folder, keys, key_file, edge_key)
        with contextlib.ExitStack() as running:
            with _on_one_core():
                found.import_(feed)
                uvloop.run(found.publish(built))  # before there is a checker, which would publish what its index holds
                address, _ = running.enter_context(checker(found.url, "--key-file", str(key_file)))
            yield replace(found, address=address)


@contextlib.contextmanager
def _on_one_core() -> Iterator[None]:
    """What is started here stays on the last core: a centre that works takes little from its edges, as elsewhere."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@functools.cache
def listed(count: int) -> DigestFilter:
    """A filter of so many keys, built once in a run: random ones, which is what keyed digests look like."""
    return build(np.random.default_rng(1).integers(0, 256, (count, 16), dtype=np.uint8))


async def until(holds: Callable[[], bool], seconds: float = 60, every_s: float = 0.002) -> None:
    """Return soon after the condition holds, looking `every_s`; fails when that takes too long."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - parts of other processes cannot tell us
            await asyncio.sleep(every_s)
