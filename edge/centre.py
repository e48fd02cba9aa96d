"""The centre's addresses and the connections to them. All addresses of one centre front the same index."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import grpc.aio

from checker.errors import UsageError
from checker.rpc.client import open_channel
from checker.rpc.tls import is_loopback


class ClientTls(NamedTuple):
    """Files of the edge's side of TLS, PEM: the authority of the centre's certificate; our own certificate and key."""

    ca: Path
    cert: Path | None = None
    key: Path | None = None
    server_name: str | None = None


def addresses(centre: str | Sequence[str]) -> list[str]:
    """The addresses in HOST:PORT,HOST:PORT,... or a list of them."""
    given = centre.split(",") if isinstance(centre, str) else centre
    return [address.strip() for address in given]


def check_centre(where: Sequence[str], tls: ClientTls | None, *, insecure_plaintext: bool) -> None:
    """Refuse to speak to the centre in a way that others could read or forge. Raises UsageError with the remedy."""
    _check_addresses(where)
    beyond = [address for address in where if not is_loopback(address)]
    if beyond and tls is None and not insecure_plaintext:
        raise UsageError(
            f"centre {beyond[0]}: is not on this machine, and without TLS others could read and change what it says: "
            "give the authority of its certificate and this edge's own certificate and key"
        )


class Centre:
    """Channels, one per address and use, opened when first asked for. Raises UsageError for addresses or files."""

    def __init__(self, addresses: Sequence[str], tls: ClientTls | None = None) -> None:
        _check_addresses(addresses)
        if tls is not None:
            _check(tls)
        self.addresses = tuple(addresses)
        self._tls = tls
        self._channels: dict[tuple[str, str], grpc.aio.Channel] = {}

    def channel(self, address: str, use: str, *, ahead: int = 0) -> grpc.aio.Channel:
        """The channel for one use: each has a connection of its own, so that a full one does not hold up the others.

        `ahead`: bytes of a stream that may come before they are read; 0: gRPC's own measure.

        gRPC repeats no call on them by itself. Whoever calls asks again anyway, and knows when to. And a repetition of
        what never left is unlimited: begun on a connection that has just died, before its channel was told, it has been
        seen to go on for ever inside one start of a call, until memory was full (grpcio 1.85.1).
        """
        key = (address, use)
        if key not in self._channels:
            if self._tls is None:
                self._channels[key] = open_channel(address, retries=False, ahead=ahead)
            else:
                tls = self._tls
                self._channels[key] = open_channel(
                    address,
                    ca=tls.ca,
                    cert=tls.cert,
                    key=tls.key,
                    server_name=tls.server_name,
                    retries=False,
                    ahead=ahead,
                )
        return self._channels[key]

    async def close(self) -> None:
        """Close every channel."""
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            await channel.close()


def _check_addresses(where: Sequence[str]) -> None:
    if not where or not all(where):
        raise UsageError("centre: name at least one address, as HOST:PORT,HOST:PORT,...")
    if len(set(where)) != len(where):
        raise UsageError("centre: an address is named twice")


def _check(tls: ClientTls) -> None:
    """Complain now, not when a channel is wanted. Raises UsageError."""
    if (tls.cert is None) != (tls.key is None):
        raise UsageError("centre: a certificate needs its key and the key its certificate: give both or neither")
    for path in (tls.ca, tls.cert, tls.key):
        try:
            if path is not None:
                path.read_bytes()
        except OSError as error:
            raise UsageError(f"centre: {path}: cannot be read: {error.strerror}") from None
