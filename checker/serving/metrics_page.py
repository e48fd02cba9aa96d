"""The node's Prometheus page: one small HTTP server in the companion process."""

from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server

from checker.errors import UsageError
from checker.metrics import Page


def start(listen: str, directory: Path) -> Callable[[], None]:
    """Serve the workers' numbers at http://HOST:PORT/metrics; returns what stops it. Raises UsageError."""
    host, colon, port = listen.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65_535:
        raise UsageError(f"--metrics-listen {listen}: must be HOST:PORT")
    registry = CollectorRegistry()
    registry.register(Page(directory))
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), registry)
    except OSError as error:
        raise UsageError(f"--metrics-listen {listen}: {error.strerror}") from None

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
