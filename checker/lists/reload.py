"""A full reload: the court's complete feed into a new generation of the index, beside the one that serves.

1. The feed is imported as into an empty index, with a change log of its own. Checks go on, on the old generation.
2. It must have no gap, reach as far as the index knows the feed, and list nearly as many keys as the old one. Removals
   and exemptions that the index has seen behind a gap, further than this feed goes, are carried over.
3. One pointer switches. The head moves to the feed's end. From now on the new change log counts: the old one may hold
   what the court does not list any more.
4. When every worker has reported that it reads the new generation, the old one is deleted.

The importer's lease is held throughout: no other import comes in between. Killed before the switch, all is as it was,
and the next reload throws away what was loaded. Killed after it, the new generation serves, and the next import or
reload deletes the old one. What is refused is thrown away at once.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from checker import faults
from checker.core.key import DigestKey
from checker.core.measure import Addition, Change
from checker.errors import CheckerError, IndexRefused, IndexUnavailable
from checker.index import generations
from checker.index.base import Applied, Head, IndexKey
from checker.index.memory import MemoryIndex
from checker.index.redis import RedisIndex, Reload
from checker.lists import change_log
from checker.lists.change_log import ChangeLog
from checker.lists.importer import CHANGE_LOG, ImportOptions, Progress, Summary, change_log_in, load, verified
from checker.lists.manifest import FeedRefused

LARGEST_DROP: Final = 0.05
"""Of the keys that are listed: more need the operator's word."""
PATIENCE_S: Final = generations.WORKER_TTL_S + 10
"""How long workers are waited for: one that died is forgotten meanwhile."""
_LOOK_S: Final = 0.2


async def reload_feeds(
    index: RedisIndex,
    key: DigestKey,
    paths: Sequence[Path],
    options: ImportOptions,
    progress: Progress | None = None,
    *,
    allow_drop: bool = False,
) -> Summary:
    """Reload an open index from its court's complete feed. `Summary.old_kept`: the old generation is still there.

    Raises FeedRefused (the old generation goes on serving), and what `import_feeds` raises: then run it again.
    """
    started = time.perf_counter()
    feeds = await asyncio.to_thread(verified, paths, options)
    async with index.lease(options.holder) as lease:
        if not await _retired(index):
            raise IndexRefused(
                "the generation that the last reload replaced is still there, for no worker or not every one reports "
                "that it reads the new one: start the service, all nodes of this version, then reload again"
            )
        head = options.believed(await index.head())
        doubtful = await index.primaries_unreconciled()  # what they may have lost is loaded anew
        identity = await index.identity()
        loading = await index.new_generation(head.feed_sequence)
        faults.point("reload.begun")
        try:
            into, known = _Loading(loading), _Known()
            if options.state_dir is not None:
                change_log_in(options.state_dir, loading.number).unlink(
                    missing_ok=True
                )  # of an attempt that was killed
            summary = await load(into, known, key, feeds, options, loading.number, progress)
            faults.point("reload.loaded")
            _must_be_complete(summary, head)
            await _carry_over(
                index, loading, IndexKey(key.key_id, key.check_value), options.state_dir, known.head, head
            )
            await _must_list_as_many(index, loading, allow_drop=allow_drop)
            await _must_be_the_same(index, identity)
        except BaseException:
            with suppress(CheckerError):  # else the next reload does it
                await index.discard()
            raise
        faults.point("reload.verified")
        await index.switch(loading.number)
        faults.point("reload.switched")
        still_behind = head.seen_up_to > known.head.feed_sequence
        gap = {"gap_since_ms": head.gap_since_ms, "seen_up_to": head.seen_up_to} if still_behind else {}
        await lease.advance(known.head._replace(**gap))
        if still_behind:
            summary.first_missing, summary.seen_up_to = known.head.feed_sequence + 1, head.seen_up_to
        summary.began_at = 0  # the court's complete list, whatever its first number
        summary.old_kept = not await _retired(index)
        faults.point("reload.retired")
        if doubtful:
            await index.mark_reconciled()
        if options.state_dir is not None:
            _forget_other_logs(options.state_dir, loading.number)
    summary.seconds = time.perf_counter() - started
    return summary


async def _retired(index: RedisIndex) -> bool:
    """Whether the old generation is gone; waits while there are workers to wait for."""
    until = time.monotonic() + PATIENCE_S
    while not await index.retire():
        if time.monotonic() > until or not await index.readers():
            return False
        await asyncio.sleep(_LOOK_S)
    return True


def _must_be_complete(summary: Summary, head: Head) -> None:
    if summary.first_missing:
        raise FeedRefused(
            f"sequence {summary.first_missing} is missing: a reload needs the court's complete feed; nothing was "
            "changed"
        )
    if summary.feed_sequence < max(head.feed_sequence, 1):
        raise FeedRefused(
            f"the feed ends at sequence {summary.feed_sequence}, the index knows it up to {head.feed_sequence}: "
            "name all later files too; nothing was changed"
        )


async def _carry_over(
    index: RedisIndex, loading: Reload, key: IndexKey, state_dir: Path | None, known: Head, before: Head
) -> None:
    """Removals and exemptions seen behind a gap that the new feed does not reach."""
    if before.seen_up_to <= known.feed_sequence:
        return
    path = None if state_dir is None else change_log_in(state_dir, index.generation)
    if state_dir is None or path is None or not path.exists():
        raise FeedRefused(
            f"the index has seen lines up to {before.seen_up_to}, the feed ends at {known.feed_sequence}, and the "
            "change log is not here: name all later files too, or use the --state-dir used so far; nothing was changed"
        )
    with ChangeLog(path, key) as log, ChangeLog(change_log_in(state_dir, loading.number), key) as new:
        for batch in log.changes():
            late = [each for each in batch if each.sequence > known.feed_sequence and not isinstance(each, Addition)]
            if late:
                new.begin_import()
                await loading.apply(late)
                new.append([change_log.encode(each) for each in late])
        new.end_import()


async def _must_list_as_many(index: RedisIndex, loading: Reload, *, allow_drop: bool) -> None:
    if allow_drop:
        return
    before, after = await _count(index.scan()), await _count(loading.scan())
    if after < math.ceil(before * (1 - LARGEST_DROP)):
        raise FeedRefused(
            f"the feed lists {after} keys, over {LARGEST_DROP:.0%} fewer than the {before} listed now: make sure that "
            "it is the complete one, then give --allow-drop; nothing was changed"
        )


async def _must_be_the_same(index: RedisIndex, identity: tuple[str, ...]) -> None:
    if await index.identity() != identity:
        raise IndexUnavailable("servers of the index changed during the reload: run it again")


async def _count(scan: AsyncIterator[list[bytes]]) -> int:
    return sum([len(batch) async for batch in scan])


def _forget_other_logs(state_dir: Path, generation: int) -> None:
    """What they hold is superseded: no generation that they belong to will serve again."""
    for path in (state_dir / CHANGE_LOG, *state_dir.glob("changes-*.log")):
        if path != change_log_in(state_dir, generation):
            path.unlink(missing_ok=True)


class _Known:
    """In place of the lease: how far the feed is loaded. The index's own head moves with the switch."""

    def __init__(self) -> None:
        self.head = Head(0, 0, 0)

    async def advance(self, head: Head) -> None:
        """Note it."""
        self.head = head


class _Loading(MemoryIndex):
    """The generation being loaded, as the importer sees an index: empty at first, nobody reads it."""

    def __init__(self, loading: Reload) -> None:
        super().__init__()
        self._open = True
        self._loading = loading

    async def apply(self, changes: Sequence[Change]) -> list[Applied]:
        return await self._loading.apply(changes)
