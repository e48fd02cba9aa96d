"""The rejects file: where each refused line stands and why. Never the line, never a value of it.

JSON Lines beside the feed (`FEED.rejects.jsonl`) or where the operator says: file, line (from 1), byte offset,
sequence, field path, cause and what to do. It describes one import, so the next one writes it anew: an import that died
and is run again leaves the same file. It is durable before the head passes the lines it names.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO

from checker.core.feed import HELP, Rejected
from checker.errors import UsageError


class Reject(NamedTuple):
    """One refused line and its place. `line` counts from 1, `offset` in bytes from the file's start."""

    file: Path
    line: int
    offset: int
    rejected: Rejected

    def as_json(self) -> str:
        """One line of the rejects file, without its end."""
        sequence, path, cause = self.rejected
        return json.dumps(
            {
                "file": str(self.file),
                "line": self.line,
                "offset": self.offset,
                "sequence": sequence,
                "path": path,
                "cause": str(cause),
                "help": HELP[cause],
            },
            ensure_ascii=False,
        )


def beside(feed: Path) -> Path:
    """Where a feed's rejects go unless the operator says otherwise."""
    return feed.with_name(feed.name + ".rejects.jsonl")


class RejectsFiles:
    """The rejects of one import: one file for each feed, or all in `one`.

    Old files of the same names are removed at the start, and a file appears with its first reject. Raises UsageError
    when a file cannot be written, or when `one` is a feed itself.
    """

    def __init__(self, feeds: Iterable[Path], one: Path | None) -> None:
        self._one = one
        self._files: dict[Path, TextIO] = {}
        feeds = list(feeds)
        targets = {self._target(feed) for feed in feeds}
        for target in targets:
            if any(target.resolve() == feed.resolve() for feed in feeds):
                raise UsageError(f"the rejects would overwrite the feed {target}: choose another --rejects")
            with _writable(target):
                target.unlink(missing_ok=True)

    def _target(self, feed: Path) -> Path:
        return self._one or beside(feed)

    def add(self, reject: Reject) -> None:
        """Note one refused line; durable only after `sync`."""
        target = self._target(reject.file)
        with _writable(target):
            if target not in self._files:
                self._files[target] = target.open("w", encoding="utf-8")
            self._files[target].write(reject.as_json() + "\n")

    def sync(self) -> None:
        """Make everything noted so far durable."""
        for target, file in self._files.items():
            with _writable(target):
                file.flush()
                os.fsync(file.fileno())
                folder = os.open(target.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)

    def paths(self) -> list[Path]:
        """The files that hold rejects."""
        return sorted(self._files)

    def close(self) -> None:
        """Give the files back."""
        for file in self._files.values():
            file.close()


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    """Turns a failure to write `path` into a sentence."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"rejects file {path}: {error.strerror}; nothing was acknowledged, give another --rejects"
        ) from None
