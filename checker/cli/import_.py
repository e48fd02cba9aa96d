"""`checker import`: court feeds into an index."""

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from checker.cli.index_arguments import add_index_arguments, load_keys, require_index, state_dir
from checker.errors import UsageError
from checker.settings import make_directory
from checker.terminal import require_packages

if TYPE_CHECKING:
    from checker.keys import KeyFile
    from checker.lists.importer import Progress, Summary

_EPILOG = """\
Files are taken in the order of their first sequence. A manifest beside a feed (FEED.manifest.json) is verified when it
is there; with --require-manifest every feed needs one, signed by a court that `checker keys trust-court` has named.
Lines that cannot be used go to FEED.rejects.jsonl (file, line, byte offset, field, cause; never a value), the good ones
are applied. A removal is in force everywhere when the command returns. Killed at any moment and run again it ends in
the same state: re-sending is harmless.

--reload replaces the whole list beside a running service: when the index has lost data, or lists whom the court does
not. The feeds must have no gap and reach as far as the index knows the court's feed. They are loaded beside the list
that serves (twice the memory meanwhile), counted, then switched to at once; the old list is deleted when every worker
of every node reads the new one. No other import runs meanwhile. Killed at any moment, the old list or the new one
serves, whole: run it again.

exit codes: 0 all applied, 1 something was rejected, frozen behind a gap, or failed, 2 wrong usage.

examples:
  checker import --index embedded:./index feed.jsonl
  checker import --index redis://127.0.0.1:6379/0 --key-file keys.json --require-manifest feeds/2026-11-*.jsonl
  checker import --index embedded:./index --reload full.jsonl later.jsonl
"""


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = commands.add_parser(
        "import",
        help="bring court feeds into an index",
        description="Validate court feeds and apply them to an index, in sequence, removals and exemptions first.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("feeds", nargs="+", type=Path, metavar="FEED", help="JSON Lines files, any number")
    add_index_arguments(parser)
    parser.add_argument(
        "--require-manifest", action="store_true", help="refuse a feed that no trusted court has signed"
    )
    parser.add_argument(
        "--reload",
        action="store_true",
        help="the feeds are the court's complete list: load it beside the one that serves, then switch",
    )
    parser.add_argument(
        "--allow-drop",
        action="store_true",
        help="with --reload: accept a list that is over 5%% shorter than the present",
    )
    parser.add_argument(
        "--ends-at",
        type=int,
        metavar="N",
        help="the court confirms that it has sent no line behind sequence N: forget that an earlier import saw one",
    )
    parser.add_argument("--rejects", type=Path, metavar="FILE", help="one rejects file for all feeds")
    parser.add_argument("--json", action="store_true", help="the summary as one JSON object")
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no summary when all went well")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Import; returns the exit code."""
    require_packages("redis", "opencc", "pypinyin")  # names are spelt when the first one comes
    url = require_index(args)
    if args.allow_drop and not args.reload:
        raise UsageError("--allow-drop: is for --reload only")
    _must_be_readable(args.feeds)  # before anything is made: a mistyped name leaves no empty index behind
    make_directory(state_dir(args), "--state-dir")
    keys = load_keys(args, may_create=True)
    with _progress(shown=not args.quiet and not args.json and sys.stderr.isatty()) as progress:
        summary = asyncio.run(_import(args, url, keys, progress))
    if args.json:
        print(json.dumps(summary.as_json(), ensure_ascii=False, indent=2))
    elif not args.quiet or summary.exit_code:
        print(summary.text())
    return summary.exit_code


def _must_be_readable(feeds: list[Path]) -> None:
    problems = []
    for feed in feeds:
        try:
            with feed.open("rb"):
                pass
        except OSError as error:
            problems.append(f"{feed}: {error.strerror}; nothing was imported")
    if problems:
        raise UsageError("\n".join(problems))


async def _import(args: argparse.Namespace, url: str, keys: "KeyFile", progress: "Progress | None") -> "Summary":
    from checker.index.base import IndexKey
    from checker.index.redis import RedisIndex
    from checker.index.urls import open_index
    from checker.lists.importer import ImportOptions, import_feeds
    from checker.lists.reload import reload_feeds

    options = ImportOptions(
        require_manifest=args.require_manifest,
        courts=keys.courts,
        rejects=args.rejects,
        state_dir=state_dir(args),
        canary=True,
        ends_at=args.ends_at,
    )
    key = keys.digest_key
    index = open_index(url)
    try:
        await index.open(IndexKey(key.key_id, key.check_value), create=True)
        if args.reload and isinstance(index, RedisIndex):  # memory: was refused before
            return await reload_feeds(index, key, args.feeds, options, progress, allow_drop=args.allow_drop)
        return await import_feeds(index, key, args.feeds, options, progress)
    finally:
        await index.close()


@contextmanager
def _progress(*, shown: bool) -> "Iterator[Callable[[int, int], None] | None]":
    """A bar on a terminal's standard error, nothing elsewhere."""
    if not shown:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("importing"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("importing")
        yield lambda done, total: bar.update(task, completed=done, total=total)
