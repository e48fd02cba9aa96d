"""Owns the server of one embedded index: starts it, restarts it, stops it when the last user has left.

Standard library only, and started as a bare script: it is ready before the rest of the checker would be imported.
Who lives and who is gone is told by locks the kernel releases (flock), so `kill -9` of anything leaves nothing to
repair. The files of DIR:

- `users.lock`      shared: held by every attached process. Exclusive: nobody is attached, and the supervisor stops.
- `supervisor.lock` exclusive: held by the one supervisor. Whoever wins it when it is free hands it down, still
                    locked, to the supervisor it starts; so a failed attempt means that one is there or on its way.
- `server.lock`     exclusive: inherited by the server and all it forks, with their process group inside. While it is
                    held a server may still be writing: the next is not started before that process group is gone.
- `failure`         why a supervisor gave up; the first line is new each time.

On Linux the server dies with its supervisor (PR_SET_PDEATHSIG); elsewhere the next supervisor stops it by its lock.
The server's working directory is DIR/valkey and the paths it is given are relative, so no DIR needs quoting.
"""

import argparse
import contextlib
import errno
import fcntl
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import NamedTuple

_TICK_S = 0.05
_HOUSEKEEPING_S = 0.5
_BOUND_S = 3.0  # a server that lives this long has bound its socket: it does so before it loads
_SETTLED_S = 10.0  # a server that lived this long is restarted at once
_MAX_BACKOFF_S = 5.0
_MAX_UNREADY = 5  # servers in a row that ended before they answered
_STOP_S = 30.0
_MAX_LOG_BYTES = 1 << 20

SERVER_OPTIONS = {
    "port": "0",
    "unixsocketperm": "700",
    "tcp-backlog": "511",
    # The answer to a write leaves after its fsync; a torn last write was not answered and is cut off at the next start.
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "aof-load-truncated": "yes",
    "auto-aof-rewrite-percentage": "100",
    "auto-aof-rewrite-min-size": "64mb",
    "aof-rewrite-incremental-fsync": "yes",
    # Loads faster than replayed commands and carries a checksum. Digests do not compress, and an uncompressed file
    # can be searched for what must not be in it.
    "aof-use-rdb-preamble": "yes",
    "rdbcompression": "no",
    "save": "",
    "hash-max-listpack-entries": "512",
    "hash-max-listpack-value": "512",
    "maxmemory-policy": "noeviction",
    "io-threads": "1",
    "lazyfree-lazy-user-del": "yes",
    "lazyfree-lazy-user-flush": "yes",
    "lazyfree-lazy-server-del": "yes",
    "slowlog-log-slower-than": "-1",
    "logfile": "../valkey.log",
    "always-show-logo": "no",
    "daemonize": "no",
    "supervised": "no",
}
"""The server's settings beside its socket; an index rests on every one of them."""


class Answer(Enum):
    """What a server said to PING."""

    READY = "ready"
    LOADING = "loading"
    NONE = "none"


class _Failed(Exception):
    """The server cannot run here; the text is the sentence for the person who must act."""


class Socket(NamedTuple):
    """Where the server listens: the path for clients, and as the server is told it from its working directory."""

    path: Path
    given: str


class Failure(NamedTuple):
    """Why a supervisor gave up."""

    token: str  # new each time, so that a failure is told from one of yesterday
    sentence: str


def try_lock(fd: int, operation: int) -> bool:
    """Whether the lock was free (for `fcntl.LOCK_SH` or `LOCK_EX`) and is now held by this open file."""
    try:
        fcntl.flock(fd, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def open_lock(path: Path) -> int:
    """A descriptor for `flock`; not inherited by other programs. Raises OSError."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def ask(path: Path, timeout_s: float = 1.0) -> Answer:
    """PING the server on a Unix socket; NONE when it cannot be reached or does not answer in time."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(timeout_s)
        try:
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            answer = client.recv(64)
        except OSError:
            return Answer.NONE
    if not answer:
        return Answer.NONE
    return Answer.LOADING if answer.startswith(b"-LOADING") else Answer.READY


def make_private(folder: Path) -> None:
    """Make a folder and the one above it, where others might have made them first.

    Raises PermissionError when either belongs to somebody else, and OSError.
    """
    for one in (folder.parent, folder):
        with contextlib.suppress(FileExistsError):
            one.mkdir(mode=0o700)
        found = one.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "belongs to somebody else or is no folder", str(one))
        if stat.S_IMODE(found.st_mode) & 0o077:
            one.chmod(0o700)


def read_failure(directory: Path) -> Failure | None:
    """Of the supervisor that gave up last; None when the last one did not."""
    try:
        token, _, sentence = (directory / "failure").read_text("utf-8").partition("\n")
    except OSError:
        return None
    return Failure(token, sentence.strip())


def _write_failure(directory: Path, sentence: str) -> None:
    aside = directory / f"failure.{os.getpid()}"
    aside.write_text(f"{os.urandom(8).hex()}\n{sentence}\n", "utf-8")
    aside.replace(directory / "failure")


def rotate(path: Path) -> bool:
    """Move a log that has grown too long aside, over the one moved before. Whether it was."""
    try:
        if path.stat().st_size < _MAX_LOG_BYTES:
            return False
        path.replace(path.with_name(path.name + ".1"))
    except OSError:
        return False
    return True


def _say(text: str) -> None:
    """One line into DIR/supervisor.log, which is this process's standard error."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with contextlib.suppress(OSError):  # a full disk must not end the supervisor
        sys.stderr.write(f"{stamp} {os.getpid()} {text}\n")
        sys.stderr.flush()


class _Server:
    """One run of the server process, from its lock to its end."""

    def __init__(self, directory: Path, program: str, where: Socket) -> None:
        self._directory = directory
        self._log = directory / "valkey.log"
        if Path(where.given).is_absolute():  # under /tmp, which is swept at times
            make_private(where.path.parent)
        rotate(self._log)
        self._log_start = self._log_size()
        lock = _lock_out_older_server(directory)
        for left in (directory / "valkey").glob("temp-*"):  # of a rewrite that was killed; as large as the index
            left.unlink(missing_ok=True)
        try:
            self._process = subprocess.Popen(
                [program, *_arguments(where)],
                cwd=directory / "valkey",
                stdin=subprocess.DEVNULL,
                pass_fds=(lock,),
                start_new_session=True,
                preexec_fn=_before_exec(lock),
            )
        except OSError as error:
            raise _Failed(f"{program} could not be started: {error.strerror}") from None
        except subprocess.SubprocessError:
            raise _Failed(f"{program} could not be started") from None
        finally:
            os.close(lock)  # without unlocking: the server's copy holds it from here on
        self.pid = self._process.pid

    def _log_size(self) -> int:
        try:
            return self._log.stat().st_size
        except OSError:
            return 0

    def ended(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """Let it flush its files and go; by force when it does not."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            _say(f"server {self.pid} did not stop within {_STOP_S:g} s: killed")
            self._process.kill()
            self._process.wait()

    def warnings(self) -> list[str]:
        """The warnings this run wrote into its log, without stamp, newest last."""
        try:
            with self._log.open("rb") as file:
                file.seek(self._log_start)
                lines = file.read(_MAX_LOG_BYTES).decode("utf-8", "replace").splitlines()
        except OSError:
            return []
        found = (re.match(r"\d+:\w+ .*? # (.*)", line) for line in lines)
        return [match[1] for match in found if match and not match[1].startswith("WARNING")]


def _arguments(where: Socket) -> list[str]:
    options = SERVER_OPTIONS | {"unixsocket": where.given}
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def _before_exec(lock: int) -> Callable[[], None]:
    """What runs in the forked child before the server's program: name its process group, die with the supervisor."""
    supervisor = os.getpid()
    prctl = None
    if sys.platform == "linux":
        import ctypes  # here: it costs a third of the supervisor's start elsewhere for nothing

        prctl = ctypes.CDLL(None, use_errno=True).prctl

    def prepare() -> None:
        os.pwrite(lock, b"%-15d\n" % os.getpid(), 0)  # overwritten in place: a full disk does not matter
        if prctl is not None:
            prctl(1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG
        if os.getppid() != supervisor:  # it went before the line above took effect
            os._exit(1)

    return prepare


def _lock_out_older_server(directory: Path) -> int:
    """The locked descriptor of server.lock, once no process of an earlier server is left. Raises OSError."""
    lock = open_lock(directory / "server.lock")
    said = False
    while not try_lock(lock, fcntl.LOCK_EX):
        # Its holders are one process group (a forked rewrite child included), whose number cannot be used anew
        # while one of them lives. Killing loses nothing acknowledged: the answer to a write leaves after its fsync.
        with contextlib.suppress(ValueError, ProcessLookupError, PermissionError):
            group = int(os.pread(lock, 32, 0))
            if group > 1 and group != os.getpgrp():
                os.killpg(group, signal.SIGKILL)
                if not said:
                    _say(f"server {group} outlived its supervisor: killed")
                    said = True
        time.sleep(0.005)
    return lock


_CORRUPT = re.compile(
    r"bad file format|unrecoverable error|corrupt|wrong signature|rdb reading|invalid aof manifest|aof manifest"
    r"|aof file \S+ doesn't exist|obtain the aof file|check-aof|crc|short read|unexpected end of file",
    re.IGNORECASE,
)
_AOF_FILE = re.compile(r"appendonly\.aof\.[A-Za-z0-9.]*[A-Za-z0-9]")


def _give_up(directory: Path, warnings: list[str], status: int) -> str:
    """The sentence for a server that never got as far as answering."""
    for line in warnings:
        if _CORRUPT.search(line):
            folder = directory / "valkey" / "appendonlydir"
            named = _AOF_FILE.search(" ".join(warnings))
            manifest = folder / "appendonly.aof.manifest"
            return (
                f"{folder / named[0] if named else folder}: the append-only file is damaged ({line.partition(':')[0]})"
                "; import the court feed into a new DIR, or cut the file at the damage with "
                f"`valkey-check-aof --fix {manifest}` and import the feed again"
            )
    last = f": {warnings[-1]}" if warnings else ""
    return (
        f"{directory}: its server ended with status {status} before it answered{last}; see {directory / 'valkey.log'}"
    )


class Supervisor:
    """The life of one supervisor; `run` returns when the last user has left."""

    def __init__(self, directory: Path, program: str, where: Socket, lock: int) -> None:
        self._directory = directory
        self._program = program
        self._where = where
        self._lock = lock
        self._users = open_lock(directory / "users.lock")
        self._unready = 0
        self._quick_ends = 0

    def run(self) -> None:
        """Keep a server up while anybody is attached. Raises _Failed when it cannot be."""
        while not self._deserted():
            began = time.monotonic()
            server = _Server(self._directory, self._program, self._where)
            _say(f"server {server.pid} started")
            again = self._watch(server)
            if not again:
                return
            self._quick_ends = 0 if time.monotonic() - began > _SETTLED_S else self._quick_ends + 1
            wait_until = time.monotonic() + min(_MAX_BACKOFF_S, 0.05 * (2 ** min(self._quick_ends - 1, 10) - 1))
            while time.monotonic() < wait_until and not self._deserted():
                time.sleep(_TICK_S)

    def _watch(self, server: _Server) -> bool:
        """Wait for the server's end, or bring it about. Whether another one is wanted."""
        answered = False
        began = checked = time.monotonic()
        while True:
            status = server.ended()
            if status is not None:
                self._note_end(server, status, answered=answered)
                return True
            if self._deserted():
                server.stop()
                with contextlib.suppress(OSError):
                    self._where.path.unlink(missing_ok=True)  # a killed server leaves it behind
                _say(f"server {server.pid} stopped: the last user has left")
                return False
            if not answered and ask(self._where.path, 0.02) is Answer.READY:
                answered = True
                self._unready = 0
                (self._directory / "failure").unlink(missing_ok=True)
                for line in server.warnings():
                    if "Truncating the AOF" in line:
                        _say(f"server {server.pid}: an unfinished last write was cut off: {line.strip('! ')}")
            if time.monotonic() - checked > _HOUSEKEEPING_S:
                checked = time.monotonic()
                if not self._lock_is_named():
                    server.stop()
                    _say(f"server {server.pid} stopped: DIR was removed or renamed")
                    return False
                # `answered` stays false if the socket is removed before this process has used it.
                if (answered or checked - began > _BOUND_S) and not self._where.path.exists():
                    _say(f"server {server.pid}: its socket was removed: restarting it")
                    server.stop()
                self._housekeep()
            time.sleep(_TICK_S)

    def _note_end(self, server: _Server, status: int, *, answered: bool) -> None:
        warnings = server.warnings()
        last = f"; {warnings[-1]}" if warnings else ""
        _say(f"server {server.pid} ended with status {status}{last}")
        if answered:
            return
        self._unready += 1
        damaged = status > 0 and any(_CORRUPT.search(line) for line in warnings)
        if damaged or self._unready >= _MAX_UNREADY:
            raise _Failed(_give_up(self._directory, warnings, status))

    def _deserted(self) -> bool:
        """Whether no user is attached. From the first True on nobody can attach until this process is gone."""
        return try_lock(self._users, fcntl.LOCK_EX)

    def _lock_is_named(self) -> bool:
        """Whether DIR/supervisor.lock is still the file this process has locked."""
        try:
            return os.path.samestat(os.fstat(self._lock), (self._directory / "supervisor.lock").stat())
        except OSError:
            return False

    def _housekeep(self) -> None:
        rotate(self._directory / "valkey.log")  # the server opens it anew for each line
        if rotate(self._directory / "supervisor.log"):
            _log_to(self._directory)


def _log_to(directory: Path) -> None:
    """Standard output and error go to DIR/supervisor.log."""
    log = os.open(directory / "supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def _ignored(signum: int, _frame: object) -> None:
    _say(f"{signal.Signals(signum).name} ignored: the server stops when the last user has left")


def main(arguments: list[str] | None = None) -> int:
    """Take over a locked supervisor.lock (or lock it), go into the background, supervise. 0: done, or not needed."""
    parser = argparse.ArgumentParser(prog="checker.index.supervisor", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--server", required=True, help="program of the server (valkey-server)")
    parser.add_argument("--socket", required=True, type=Path, help="where clients find the server")
    parser.add_argument("--socket-name", required=True, help="the same as seen from DIR/valkey")
    parser.add_argument("--lock-fd", type=int, help="DIR/supervisor.lock, already locked by whoever starts this")
    given = parser.parse_args(arguments)
    directory: Path = given.directory.resolve()
    os.umask(0o077)
    lock = given.lock_fd
    if lock is None:
        lock = open_lock(directory / "supervisor.lock")
        if not try_lock(lock, fcntl.LOCK_EX):
            return 0
    os.set_inheritable(lock, False)
    if os.fork():
        os._exit(0)  # so nobody has to wait for the supervisor; the lock lives on in the child
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, _ignored)
    os.chdir("/")
    rotate(directory / "supervisor.log")
    _log_to(directory)
    where = Socket(given.socket, given.socket_name)
    try:
        Supervisor(directory, given.server, where, lock).run()
    except _Failed as failed:
        _say(str(failed))
        with contextlib.suppress(OSError):
            _write_failure(directory, str(failed))
        return 1
    except OSError as error:
        _say(f"gave up: {error}")
        with contextlib.suppress(OSError):
            _write_failure(directory, f"{directory}: the index server's supervisor failed: {error.strerror or error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
