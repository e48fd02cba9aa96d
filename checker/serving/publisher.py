"""Publishes epochs: signed snapshots of the filter for edges, with the manifest that says what they are.

Runs in one process per node, beside the keeper. An epoch is built from a scan of its own, and published only if
- no server has restarted or failed over since its data was known to be whole: else keys may be missing until an
  import has applied the change log again;
- the same servers held the same slots before the scan and after it: else it begins again;
- it passes its own check, made on the very bytes that edges will get: signature, count, members, error rate;
- it holds at least 95 % of the last one's keys, or an operator allows the drop;
- nobody has published meanwhile (`Publications.publish` compares and sets).

An epoch is due when there is none, when the last one is of no use any more (another digest key, centre or rulebook, a
journal that does not reach back to it, chunks lost with a server), when it is old, when many have been lifted since (at
edges they are false positives), or when additions since outgrow what edges should hold beside it. Looking costs a few
commands a second.

Nothing here ends the process: what fails is said, with its remedy, and tried again later. Edges keep what they have.
"""

import asyncio
import contextlib
import hashlib
import logging
import math
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Final, NamedTuple

import grpc
import numpy as np

from checker import keys as key_files
from checker.core import container, filter_builder
from checker.core import filter as filters
from checker.core.changes import Position, signed_manifest
from checker.core.key import DIGEST_BYTES
from checker.core.rules import Rulebook
from checker.errors import CheckerError, IndexRefused, IndexUnavailable
from checker.index.base import CHUNK_BYTES, ExactIndex, IndexKey, Publication
from checker.serving import filter_file
from checker.serving.settle import wall_clock_ms
from proto.checker.v1 import filter_pb2 as pb

LOOK_S = 1.0
"""Between two looks whether an epoch is due."""
LONGEST_PAUSE_S: Final = 600.0
"""Between two tries, when what fails is ours: each is a scan of the index."""
LONGEST_WAIT_S: Final = 30.0
"""When the index is out of reach."""
CLAIM_S: Final = 15.0
"""How long a builder that was killed keeps others from building."""
ATTEMPTS: Final = 3
REACH_S = 60.0
"""Between two looks whether the journal still reaches back to the last epoch."""
LIFTED_SHARE: Final = 0.01
"""Lifted keys of those listed that make an epoch due."""
LIFTED_FEW: Final = 1000
"""Fewer than so many make none, for each edge downloads it..."""
LIFTED_SHARE_OF_FEW: Final = 0.02
"""...but of a short list so large a share does: past LARGEST_DROP an operator would have to step in."""
MEMBERS: Final = 10_000
PROBES: Final = 200_000
LARGEST_DROP: Final = 0.05
_log = logging.getLogger("checker.publisher")


class NotPublished(CheckerError):
    """A snapshot did not pass its own check; the last epoch stays in force."""

    status = grpc.StatusCode.FAILED_PRECONDITION


class Built(NamedTuple):
    """How the last epoch of a `Publisher` was made."""

    keys: int
    size: int  # bytes
    error_rate: float  # as measured
    seconds: float


class Publisher:
    """See the module. `publish_once` publishes now; `run` whenever an epoch is due, until cancelled."""

    def __init__(
        self,
        index: ExactIndex,
        keys: key_files.KeyFile,
        rulebook: Rulebook,
        error_rate: float,
        hours: float,
        clock_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self._index = index
        self._publications = index.publications
        self._keys = keys
        self._rulebook = rulebook
        self._error_rate = error_rate
        self._lifetime_ms = int(hours * 3_600_000)
        self._clock_ms = clock_ms
        self._name = f"{socket.gethostname()} {os.getpid()} {os.urandom(4).hex()}"
        self._last: Publication | None = None  # the epoch that what follows is about
        self._manifest = pb.Manifest()
        self._base = self._position = Position(b"", 0)  # its place in the journal, and how far we have read on
        self._added: set[bytes] = set()  # keys journaled since
        self._reached_s = float("-inf")  # steady clock: when the journal was last seen to reach back to it
        self._whole_on: tuple[str, ...] = ()  # the servers on which its chunks were last seen whole
        self._rulebook_told = False  # whether edges have been given ours since this started
        self._foreign_epoch = 0  # the last one seen that came with another's
        self.built = Built(0, 0, 0.0, 0.0)  # nothing yet

    async def run(self) -> None:
        """Publish whenever an epoch is due."""
        pause = LOOK_S
        while True:
            try:
                if not await self._due() or await self._publish_alone():
                    pause = LOOK_S  # not while another node is at it: it may fail as we did
                await asyncio.sleep(LOOK_S)
            except IndexUnavailable as error:
                _log.warning("publishing waits for the index: %s", error)
                pause = await _wait(pause, LONGEST_WAIT_S)
            except CheckerError as error:
                _log.error("no snapshot was published, edges keep the last one: %s", error)
                pause = await _wait(pause, LONGEST_PAUSE_S)
            except Exception as error:  # noqa: BLE001 - see the module: nothing here ends the process
                _log.error("no snapshot was published, edges keep the last one: unexpected error", exc_info=error)
                pause = await _wait(pause, LONGEST_PAUSE_S)

    async def publish_once(self, *, allow_drop: bool = False) -> Publication:
        """Publish an epoch now; `built` says how it was made.

        Raises NotPublished when it does not pass its check, IndexRefused when the key file is not the index's,
        IndexUnavailable when the store is out of reach or keeps changing.
        """
        for _ in range(ATTEMPTS):
            published = await self._attempt("asked for", allow_drop=allow_drop)
            if published is not None:
                return published
        raise IndexUnavailable(
            "the servers of the index, or what is published, changed during each scan: try again when they are at rest"
        )

    # When

    async def _due(self) -> str:
        """Why an epoch is due; empty: it is not."""
        last = await self._publications.latest()
        if last is None:
            return "nothing is published yet"
        if self._last != last:
            self._last = last
            self._manifest = pb.Manifest.FromString(last.manifest)
            self._base = Position(self._manifest.position.journal_id, self._manifest.position.entry)
            self._position = self._base
            self._added.clear()
            self._reached_s = float("-inf")
            self._whole_on = ()
        manifest = self._manifest
        if last.centre_id != await self._publications.centre_id():
            return "the centre has a new identity"
        if (manifest.key_id, manifest.key_check) != self._index.key:
            return "the index has another digest key"
        if self._rulebook_is_news(manifest):
            return "the rulebook is another"
        if self._clock_ms() - manifest.build_time.ToMilliseconds() > self._lifetime_ms:
            return "the last epoch is old"
        if await self._index.lifted() - last.lifted > _many_lifted(manifest.count):
            return "many have been lifted since"
        if not await self._can_be_downloaded(last):
            return "the last epoch's chunks are not there any more"
        return await self._journal_says(max(filters.OVERLAY_FLOOR, filter_builder.capacity(manifest.count) // 10))

    def _rulebook_is_news(self, manifest: pb.Manifest) -> bool:
        """Each start of a node tells its rulebook once: nodes with different ones must not publish in turns."""
        if manifest.rulebook_sha256 == self._rulebook.sha256:
            self._rulebook_told = True
        elif not self._rulebook_told:
            return True
        elif self._foreign_epoch != manifest.epoch:
            self._foreign_epoch = manifest.epoch
            _log.warning("another node publishes another rulebook: start all nodes with the same one")
        return False

    async def _can_be_downloaded(self, last: Publication) -> bool:
        """Looked at once, and again when servers changed: a fail-over may lose what was acknowledged."""
        identity = await self._index.identity()
        if identity != self._whole_on:
            hashed = hashlib.sha256()
            for number in range(-(-self._manifest.size // CHUNK_BYTES)):
                hashed.update(await self._publications.chunk(last.centre_id, last.epoch, number) or b"")
            if hashed.digest() != self._manifest.sha256:
                return False
            self._whole_on = identity
        return True

    async def _journal_says(self, most: int) -> str:
        if not await self._journal_reaches_back():
            return _OUT_OF_REACH
        while len(self._added) <= most:
            page = await self._index.journal_read(self._position, 0)
            if page.reset:
                return _OUT_OF_REACH
            if page.position == self._position:
                return ""
            self._added.update(page.keys)
            self._position = page.position
        return "many have been added since"

    async def _journal_reaches_back(self) -> bool:
        """Whether an edge with the last epoch can follow. We have read on since: that we can says nothing of it."""
        if time.monotonic() - self._reached_s < REACH_S:
            return True
        self._reached_s = time.monotonic()
        return not (await self._index.journal_read(self._base, 0)).reset

    # How

    async def _publish_alone(self) -> bool:
        """Build what is due, unless another node is at it: False."""
        if not await self._publications.claim(self._name, CLAIM_S):
            return False
        async with self._claimed():
            reason = await self._due()  # another node may have published just before it let us in
            if reason:
                await self._attempt(reason)
        return True

    @contextlib.asynccontextmanager
    async def _claimed(self) -> AsyncIterator[None]:
        async def keep() -> None:
            while True:
                await asyncio.sleep(CLAIM_S / 3)
                with contextlib.suppress(CheckerError):
                    await self._publications.claim(self._name, CLAIM_S)

        keeping = asyncio.create_task(keep(), name="claim")
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            with contextlib.suppress(CheckerError):  # it runs out by itself
                await self._publications.claim(self._name, 0)

    async def _attempt(self, reason: str, *, allow_drop: bool = False) -> Publication | None:
        """Build and publish one epoch; None when it was overtaken by events and thrown away."""
        started = time.monotonic()
        index, key = self._index, self._keys.digest_key
        if index.key != IndexKey(key.key_id, key.check_value):
            raise IndexRefused(
                f"the index is kept under digest key {index.key.key_id!r}, the key file's active one is "
                f"{key.key_id!r}: publish with the key file the index was written with"
            )
        if doubtful := await index.primaries_unreconciled():
            raise IndexUnavailable(
                f"{', '.join(doubtful)} restarted or failed over and may have lost keys: run `checker import`, which "
                "applies the change log again; an empty feed will do"
            )
        last = await self._publications.latest()
        centre_id = await self._publications.centre_id()
        identity, lifted = await index.identity(), await index.lifted()
        began_ms = self._clock_ms()  # before the scan: whatever was acknowledged until then is in it
        scanned = await filter_file.scan(index)
        if await index.identity() != identity:
            _log.warning("the index's servers changed during the scan: it is thrown away")
            return None
        epoch = last.epoch + 1 if last is not None else 1
        least = 0
        if last is not None and not allow_drop:
            least = math.ceil(pb.Manifest.FromString(last.manifest).count * (1 - LARGEST_DROP))
        snapshot, manifest, error_rate = await asyncio.to_thread(self._make, scanned, began_ms, centre_id, epoch, least)
        keys, position = len(scanned.keys), scanned.position
        del scanned
        signed = self._keys.signing_key.sign(signed_manifest(manifest))
        published = Publication(epoch, centre_id, manifest, signed, self._rulebook.source, lifted, position)
        size = len(snapshot)
        chunks = [snapshot[at : at + CHUNK_BYTES] for at in range(0, size, CHUNK_BYTES)]
        del snapshot
        if not await self._publications.publish(published, chunks):
            _log.info("another epoch was published meanwhile: this one is thrown away", extra={"epoch": epoch})
            return None
        self._rulebook_told = True
        self.built = Built(keys, size, error_rate, time.monotonic() - started)
        _log.info(
            "epoch published",
            extra={"epoch": epoch, "keys": keys, "seconds": round(self.built.seconds, 3), "reason": reason},
        )
        return published

    def _make(
        self, scanned: filter_file.Scan, began_ms: int, centre_id: bytes, epoch: int, least: int
    ) -> tuple[bytes, bytes, float]:
        """The snapshot, its manifest, and the error rate it was measured to have. Takes seconds of processor time."""
        if len(scanned.keys) < least:
            raise NotPublished(
                f"the index lists {len(scanned.keys)} keys, over {LARGEST_DROP:.0%} fewer than the last epoch: make "
                "sure that nothing was lost, then run `checker build-snapshot --allow-drop`"
            )
        built = filter_builder.build(scanned.keys, self._error_rate)
        header = filter_file.header(
            built, self._keys.digest_key, self._rulebook, scanned, began_ms, centre_id=centre_id, epoch=epoch
        )
        snapshot = container.pack(header, built.bits(), self._keys.signing_key.sign)
        del built
        error_rate = self_check(snapshot, header, self._keys, scanned)
        return snapshot, _manifest(header, snapshot), error_rate


_OUT_OF_REACH: Final = "the journal does not reach back to the last epoch"


def _many_lifted(count: int) -> float:
    """Above how many lifted keys an epoch is due, of so many that the last one lists."""
    return max(LIFTED_SHARE * count, min(LIFTED_FEW, LIFTED_SHARE_OF_FEW * count))


def self_check(snapshot: bytes, header: container.Header, keys: key_files.KeyFile, scanned: filter_file.Scan) -> float:
    """Read a snapshot back as an edge will, and hold it to the scan it was built from; its measured error rate.

    Raises NotPublished. Members: all up to 10 000, else as many at random, so one key in a thousand missing goes
    unseen with a chance of 5e-5, and a broken build never. Error rate: of 200 000 random keys, none of them listed, at
    most as many may be taken for members as twice the configured rate lets expect, and so many more that a filter of
    just that rate is refused with a chance below 1e-6 (Bernstein's inequality; the binomial tail itself is smaller).
    """
    public_key = keys.signing_key.public_key()
    try:
        read, loaded = container.load(memoryview(snapshot), lambda text, sig: key_files.verify(public_key, text, sig))
    except container.BadContainer as error:
        raise _failed(f"it cannot be read back ({error})") from error
    if read != header:
        raise _failed("its header is not what was written")
    listed = scanned.keys
    if loaded.count != len(listed):
        raise _failed(f"it says it holds {loaded.count} keys, {len(listed)} are listed")
    random = np.random.default_rng()
    sample = listed if len(listed) <= MEMBERS else listed[random.integers(0, len(listed), MEMBERS)]
    if not filter_builder.contains_many(loaded, sample).all():
        raise _failed("it denies keys that are listed")
    probes = np.frombuffer(random.bytes(PROBES * DIGEST_BYTES), dtype=np.uint8).reshape(-1, DIGEST_BYTES)
    measured = filter_builder.measured_error_rate(loaded, probes)
    if measured * PROBES > _most_hits(loaded.error_rate):
        raise _failed(f"its error rate is {measured:.2g}, {loaded.error_rate:.2g} was configured")
    return measured


def _most_hits(error_rate: float) -> float:
    expected = 2 * error_rate * PROBES
    unlikely = -math.log(1e-6)
    return expected + unlikely / 3 + math.sqrt(unlikely**2 / 9 + 2 * unlikely * expected)


async def _wait(pause: float, longest: float) -> float:
    """Wait; the next time longer."""
    await asyncio.sleep(pause)
    return min(2 * pause, longest)


def _failed(what: str) -> NotPublished:
    return NotPublished(f"the new snapshot failed its check: {what}: report this, and look at the machine's memory")


def _manifest(header: container.Header, snapshot: bytes) -> bytes:
    made = pb.Manifest(
        epoch=header.epoch,
        position=pb.Position(journal_id=header.journal_id, entry=header.journal_position),
        feed_sequence=header.feed_sequence,
        key_id=header.key_id,
        derivation=header.derivation,
        error_rate=header.parameters.error_rate,
        size=len(snapshot),
        sha256=hashlib.sha256(snapshot).digest(),
        centre_id=header.centre_id,
        key_check=header.key_check,
        count=header.parameters.count,
        rulebook_version=header.rulebook_version,
        rulebook_sha256=header.rulebook_sha256,
    )
    if header.feed_time_ms:
        made.feed_time.FromMilliseconds(header.feed_time_ms)
    made.build_time.FromMilliseconds(header.built_ms)
    return made.SerializeToString(deterministic=True)
