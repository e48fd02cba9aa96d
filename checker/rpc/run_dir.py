"""The folder of one start of a node: shared by its processes, gone with it, swept by the next start if it was killed.

    run-XXXXXXXX/owner    locked, shared, by every process of the node for its life

Locks are the kernel's and end with their process. So a folder whose `owner` can be locked for oneself alone belonged to
a node all of whose processes are dead; any other, of another node or of something else, is left as it is.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "run-"
_OWNER = "owner"
_held: list[int] = []


@contextlib.contextmanager
def made_in(directory: Path) -> Iterator[Path]:
    """A new folder in `directory`, held by this process and removed in the end; those of dead nodes are removed first.

    Raises OSError: the directory cannot be written.
    """
    _sweep(directory)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=directory))
    new = folder / f".{_OWNER}"
    handle = os.open(new, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        new.rename(folder / _OWNER)  # never there without a lock
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def hold(folder: Path) -> None:
    """In another process of the node: the folder is in use for the life of this one. Raises OSError: it is gone."""
    handle = os.open(folder / _OWNER, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)
    _held.append(handle)


def _sweep(directory: Path) -> None:
    for owner in directory.glob(f"{_PREFIX}*/{_OWNER}"):
        with contextlib.suppress(OSError):  # in use; or another start was quicker
            handle = os.open(owner, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(owner.parent, ignore_errors=True)
            finally:
                os.close(handle)
