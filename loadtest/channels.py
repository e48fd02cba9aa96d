"""Channels to a target in plaintext, TLS or mutual TLS: the same for the first knock, for locust and for the prober.

The options are those of `checker check`; every process of a run gets them as words and reads the files itself.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc.aio

_NAMES = ("ca", "cert", "key", "server_name")


class BadTls(Exception):
    """The files do not make a TLS client; the text names the option and the remedy."""


class Tls(NamedTuple):
    """PEM files of the server's authority and of our own certificate; without an authority: plaintext."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    server_name: str = ""

    @classmethod
    def of(cls, options: argparse.Namespace) -> "Tls":
        """What `add_options` took."""
        given = {name: getattr(options, name) for name in _NAMES}
        files = {name: Path(given[name]) if given[name] else None for name in _NAMES[:3]}
        return cls(**files, server_name=given["server_name"] or "")

    @property
    def words(self) -> list[str]:
        """The options for another process."""
        pairs = [(f"--{name.replace('_', '-')}", value) for name, value in zip(_NAMES, self, strict=True) if value]
        return [str(word) for pair in pairs for word in pair]

    def credentials(self) -> grpc.ChannelCredentials | None:
        """What a channel needs; None for plaintext. Raises BadTls."""
        if (self.cert is None) != (self.key is None):
            raise BadTls("--cert and --key belong together: give both or neither")
        if self.ca is None:
            if self.cert is not None or self.server_name:
                raise BadTls("--cert and --server-name need TLS: give --ca, the authority of the server's certificate")
            return None
        return grpc.ssl_channel_credentials(
            _read("--ca", self.ca),
            _read("--key", self.key) if self.key else None,
            _read("--cert", self.cert) if self.cert else None,
        )

    def channel(self, target: str, options: Sequence[tuple[str, Any]] = ()) -> grpc.Channel:
        """A channel of the blocking API. Raises BadTls."""
        credentials = self.credentials()
        if credentials is None:
            return grpc.insecure_channel(target, options=options)
        return grpc.secure_channel(target, credentials, options=[*options, *self._named])

    def aio_channel(self, target: str) -> grpc.aio.Channel:
        """A channel of asyncio's. Raises BadTls."""
        credentials = self.credentials()
        if credentials is None:
            return grpc.aio.insecure_channel(target)
        return grpc.aio.secure_channel(target, credentials, options=self._named)

    @property
    def _named(self) -> list[tuple[str, Any]]:
        return [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []


PLAINTEXT = Tls()


def _read(option: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadTls(f"{option} {path}: {error.strerror}; name a PEM file") from None


def add_options(add: Callable[..., Any], **more: Any) -> None:
    """Take the options of `Tls` by an argparse parser's `add_argument`."""
    add(
        "--ca",
        default="",
        metavar="FILE",
        help="PEM of the authority of the server's certificate: turns on TLS",
        **more,
    )
    add("--cert", default="", metavar="FILE", help="PEM of your certificate: mutual TLS", **more)
    add("--key", default="", metavar="FILE", help="PEM of its private key", **more)
    add("--server-name", default="", metavar="NAME", help="in the server's certificate, if not the host", **more)
