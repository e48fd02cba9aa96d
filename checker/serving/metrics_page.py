"""The node's Prometheus page: one small HTTP server in the companion process."""

from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server

from checker.errors import UsageError
from checker.metrics import Page
from checker.settings import metrics_listener


def start(listen: str, directory: Path) -> Callable[[], None]:
    """Serve the workers' numbers at http://HOST:PORT/metrics; returns what stops it. Raises UsageError."""
    if fault := metrics_listener(listen):
        raise UsageError(f"--metrics-listen {listen}: {fault}")
    host, _, port = listen.rpartition(":")
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
