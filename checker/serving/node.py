"""What the processes of `checker serve` are started with."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from checker.config import Settings
from checker.rpc.tls import TlsFiles

if TYPE_CHECKING:
    from checker.index.base import ExactIndex
    from checker.keys import KeyFile

Fill = Callable[["ExactIndex", Settings, "KeyFile"], Awaitable[None]]
"""Import the settings' feeds into an index that lives in this process only."""


@dataclass(frozen=True)
class Node:
    """What every process of the node is started with: settings and the places they share."""

    settings: Settings
    run_dir: Path  # this start's own: quota and metrics files
    fill: Fill | None  # importable: it is named, not copied, to another process. None: not memory:

    @property
    def quota(self) -> Path:
        """The node-wide quota file."""
        return self.run_dir / "quota"


def tls_files(settings: Settings) -> TlsFiles | None:
    """The certificate files as the RPC shell wants them; None without TLS."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return TlsFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
