"""From the one URL an operator writes to an exact index.

    memory:                             in this process, for demos and tests
    embedded:DIR                        a private server with its files in DIR, started and supervised as needed
    redis://[user:password@]host[:port][/db]     rediss://... with TLS
    redis+unix:PATH                     a server on a Unix socket
    redis+cluster://[user:password@]host:port,host:port     any of a cluster's servers; rediss+cluster:// with TLS

Options after `?`: `namespace=NAME` (default xx), and redis-py's connection options (`ssl_ca_certs=FILE`, ...).
Nothing here touches the network; `open` does.
"""

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from checker.errors import UsageError
from checker.index.base import READ_TIMEOUT_S, ExactIndex
from checker.index.memory import MemoryIndex
from checker.index.node import Node, settings_of
from checker.index.redis import RedisIndex
from checker.index.routing import Cluster, OneServer

_FORMS = (
    "memory:, embedded:DIR, redis://HOST:PORT, rediss://HOST:PORT, redis+unix:PATH or redis+cluster://HOST:PORT,..."
)


def open_index(url: str, read_timeout_s: float = READ_TIMEOUT_S) -> ExactIndex:
    """The index a URL names, not opened yet. Raises UsageError; never quotes the URL, which may hold a password."""
    if url == "memory:":
        return MemoryIndex()
    scheme, separator, rest = url.partition(":")
    if not separator or not rest.strip("/"):
        raise UsageError(f"index URL: expected one of {_FORMS}")
    if scheme == "embedded":
        return _embedded(Path(rest), read_timeout_s)
    try:
        url, namespace = _without_namespace(url)
        rest = url.partition(":")[2]
        if scheme == "redis+unix":
            return unix_index("/" + rest.lstrip("/"), namespace=namespace, read_timeout_s=read_timeout_s)
        if scheme in ("redis", "rediss"):
            address, settings = settings_of(url)
            one = OneServer(Node(address, settings))
            return RedisIndex(lambda _: one, namespace=namespace, read_timeout_s=read_timeout_s)
        if scheme in ("redis+cluster", "rediss+cluster"):
            return _cluster(scheme.removesuffix("+cluster"), url, namespace, read_timeout_s)
    except ValueError as error:
        raise UsageError(f"index URL: {error}") from None
    raise UsageError(f"index URL: unknown scheme {scheme!r}; expected one of {_FORMS}")


def unix_index(path: str, *, namespace: str = "xx", read_timeout_s: float = READ_TIMEOUT_S) -> RedisIndex:
    """An index on a Unix socket."""
    address, settings = settings_of(f"unix://{path}")
    one = OneServer(Node(address, settings))
    return RedisIndex(lambda _: one, namespace=namespace, read_timeout_s=read_timeout_s)


def _embedded(directory: Path, read_timeout_s: float) -> ExactIndex:
    from checker.index.embedded import attach  # only where it is asked for: it needs the server's binary

    attachment = attach(directory)
    address, settings = settings_of(f"unix://{attachment.socket_path}")
    # Its append-only file is synced on every write under our own supervisor: a restart loses nothing.
    return RedisIndex(
        lambda _: OneServer(Node(address, settings)),
        trusts_restarts=True,
        on_close=attachment.close,
        read_timeout_s=read_timeout_s,
    )


def _without_namespace(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    options = parse_qsl(parts.query, keep_blank_values=True)
    namespace = dict(options).get("namespace", "xx")
    query = urlencode([option for option in options if option[0] != "namespace"])
    return urlunsplit(parts._replace(query=query)), namespace


def _cluster(scheme: str, url: str, namespace: str, read_timeout_s: float) -> RedisIndex:
    parts = urlsplit(url)
    credentials, at, hosts = parts.netloc.rpartition("@")
    seeds: list[tuple[str, int]] = []
    settings: dict[str, Any] = {}
    for host in hosts.split(","):
        _, settings = settings_of(urlunsplit((scheme, credentials + at + host, "", parts.query, "")))
        seeds.append((settings.pop("host"), settings.pop("port")))
    if parts.path.strip("/"):
        raise UsageError("index URL: a cluster has one database, leave out what follows the hosts")

    def make(host: str, port: int) -> Node:
        return Node(f"{host}:{port}", {**settings, "host": host, "port": port})

    return RedisIndex(
        lambda index: Cluster(seeds, make, index.forget), namespace=namespace, read_timeout_s=read_timeout_s
    )
