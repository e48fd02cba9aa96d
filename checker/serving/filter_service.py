"""FilterService: what edges get from the centre, and what they report.

The servicer holds no data. Snapshots are read from the index a chunk at a time, so that any worker of any node can
answer for any offset; the journal comes from the worker's hub. A thousand edges that come back at once must cost the
checks nothing: only so many may download or watch, and everybody else is told at once, in google.rpc.RetryInfo, when to
come again, each at another moment.
"""

import json
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, NamedTuple, TypeAlias

import grpc.aio

from checker import keys as key_files
from checker import logs
from checker.core.changes import JOURNAL_ID_BYTES, Position
from checker.errors import InvalidRequest, NotFound, Overloaded
from checker.index.base import CHUNK_BYTES, Publications
from checker.rpc.interceptors import current_call
from checker.serving.hub import Hub
from proto.checker.v1 import filter_pb2 as pb
from proto.checker.v1 import filter_pb2_grpc

FILTER_SERVICE = "checker.v1.FilterService"
RETRY_S = (1.0, 10.0)
"""Who is refused comes back after a time drawn from here."""
REPORT_S = 2.0
"""Between two reports of one edge that are kept."""
REPORTERS = 10_000
"""Edges one worker hears of; their reports are kept in the index for a week."""
CENTRE_ID_BYTES = 16
_TEXT, _ALARM, _ALARMS, _STATUS_BYTES = 64, 300, 16, 16 * 1024
_log = logging.getLogger("checker.edges")

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class Admitted(NamedTuple):
    """How many may do so at once."""

    downloads: int = 8
    watchers: int = 4000


class FilterServicer(filter_pb2_grpc.FilterServiceServicer):
    """See the module. `refused`: how often there was no room, by method."""

    def __init__(
        self, hub: Hub, publications: Publications, keys: key_files.KeyFile, admitted: Admitted | None = None
    ) -> None:
        self._hub = hub
        self._publications = publications
        self._export = json.dumps(key_files.edge_export(keys)).encode()
        self._admitted = admitted or Admitted()
        self._reported: dict[str, float] = {}  # row -> when it was last kept, by the steady clock
        self.downloads = 0
        self.refused: Counter[str] = Counter()

    async def GetManifest(self, request: pb.GetManifestRequest, context: Context) -> pb.GetManifestResponse:
        published = await self._hub.latest()
        if published is None:
            raise NotFound("no snapshot is published yet: ask again in a while")
        return pb.GetManifestResponse(
            manifest=published.manifest, signature=published.signature, rulebook=published.rulebook
        )

    async def GetSnapshot(self, request: pb.GetSnapshotRequest, context: Context) -> AsyncIterator[pb.SnapshotChunk]:
        if not request.epoch:
            raise InvalidRequest([("epoch", "is missing: send the manifest's")])
        if request.centre_id and len(request.centre_id) != CENTRE_ID_BYTES:
            raise InvalidRequest([("centre_id", f"must be the manifest's {CENTRE_ID_BYTES} bytes, or absent")])
        if self.downloads >= self._admitted.downloads:
            raise self._refuse("GetSnapshot", f"{self._admitted.downloads} edges are downloading from this worker")
        self.downloads += 1
        try:
            centre_id = request.centre_id or await self._centre_id()
            async for chunk in self._chunks(centre_id, request.epoch, request.offset):
                yield chunk
        finally:
            self.downloads -= 1

    async def _chunks(self, centre_id: bytes, epoch: int, offset: int) -> AsyncIterator[pb.SnapshotChunk]:
        """The snapshot from `offset` on. Its size is told by its last chunk: it is shorter, or there is no next one."""
        number, skip = divmod(offset, CHUNK_BYTES)
        piece = await self._publications.chunk(centre_id, epoch, number)
        if piece is None and number:
            before = await self._publications.chunk(centre_id, epoch, number - 1)
            if skip == 0 and before is not None and len(before) == CHUNK_BYTES:
                return  # it has everything
        if piece is None and await self._publications.chunk(centre_id, epoch, 0) is None:
            raise _gone()
        if piece is None or len(piece) < skip:
            raise InvalidRequest([("offset", "is beyond the snapshot's size: start the download again")])
        while piece is not None:
            if len(piece) > skip:
                yield pb.SnapshotChunk(offset=number * CHUNK_BYTES + skip, data=piece[skip:])
            if len(piece) < CHUNK_BYTES:
                return
            number, skip = number + 1, 0
            piece = await self._publications.chunk(centre_id, epoch, number)
        if await self._publications.chunk(centre_id, epoch, number - 1) is None:
            raise _gone()  # meanwhile

    async def _centre_id(self) -> bytes:
        published = await self._hub.latest()
        return published.centre_id if published is not None else await self._publications.centre_id()

    # It writes instead of yielding, so that a watcher is gone the moment its call is.
    async def WatchChanges(self, request: pb.WatchChangesRequest, context: Context) -> None:  # type: ignore[override]
        position = Position(request.position.journal_id, request.position.entry)
        if len(position.journal_id) != JOURNAL_ID_BYTES:
            what = f"must be the {JOURNAL_ID_BYTES} bytes of a manifest's or a message's position"
            raise InvalidRequest([("position.journal_id", what)])
        if self._hub.watchers >= self._admitted.watchers:
            raise self._refuse("WatchChanges", f"{self._admitted.watchers} edges are watching this worker")
        await self._hub.watch(position, context.write)

    async def ReportStatus(self, request: pb.ReportStatusRequest, context: Context) -> pb.ReportStatusResponse:
        status = request.status
        _check(status)
        # Under the caller's name: no edge can overwrite the row of another's.
        row = f"{current_call().caller.name} {status.edge_id}"
        now_s = time.monotonic()
        if now_s - self._reported.get(row, -REPORT_S) >= REPORT_S:
            if row not in self._reported and len(self._reported) >= REPORTERS:
                raise self._refuse("ReportStatus", f"this worker has heard of {REPORTERS} edges")
            self._reported[row] = now_s
            for at, alarm in enumerate(status.alarms):
                status.alarms[at] = logs.mask(alarm)
            await self._publications.report_edge(row, status.SerializeToString())
        response = pb.ReportStatusResponse()
        response.time.FromMilliseconds(time.time_ns() // 1_000_000)
        return response

    async def GetEdgeKeys(self, request: pb.GetEdgeKeysRequest, context: Context) -> pb.GetEdgeKeysResponse:
        # The role edge is a certificate's, and all roles are plaintext loopback's: nobody else gets here.
        _log.warning("edge keys were handed out", extra={"caller": current_call().caller.name})
        return pb.GetEdgeKeysResponse(key_file=self._export)

    def _refuse(self, method: str, why: str) -> Overloaded:
        self.refused[method] += 1
        return Overloaded(f"{why}: come back later", random.uniform(*RETRY_S))  # noqa: S311 - spreads load


def _gone() -> NotFound:
    return NotFound("this epoch is gone: ask for the manifest")


def _check(status: pb.EdgeStatus) -> None:
    """Raises InvalidRequest for what no edge of ours would send: it is stored, and shown to an operator."""
    problems = [
        (f"status.{field}", f"must be at most {_TEXT} printable characters")
        for field in ("edge_id", "name", "version", "rulebook_version")
        if not _is_text(getattr(status, field), _TEXT)
    ]
    if not status.edge_id:
        problems.append(("status.edge_id", "is missing: send the one of the data directory"))
    if len(status.centre_id) not in {0, CENTRE_ID_BYTES}:
        problems.append(("status.centre_id", f"must be {CENTRE_ID_BYTES} bytes, or absent"))
    if len(status.position.journal_id) not in {0, JOURNAL_ID_BYTES}:
        problems.append(("status.position.journal_id", f"must be {JOURNAL_ID_BYTES} bytes, or absent"))
    if len(status.alarms) > _ALARMS or not all(_is_text(alarm, _ALARM) for alarm in status.alarms):
        what = f"must be at most {_ALARMS} of at most {_ALARM} printable characters each"
        problems.append(("status.alarms", what))
    if not problems and status.ByteSize() > _STATUS_BYTES:
        problems.append(("status", f"must have at most {_STATUS_BYTES} bytes"))
    if problems:
        raise InvalidRequest(problems)


def _is_text(text: str, most: int) -> bool:
    return len(text) <= most and text.isprintable()
