"""Opening a channel the way a client of this service should.

Strategy: checks only read, so a call that a stopping or dying worker did not answer is simply asked again: UNAVAILABLE
(the connection broke) and CANCELLED (the worker was stopping, the handler never ran). Retries are throttled, so that
they cannot grow a failure into an overload.
"""

import json
from pathlib import Path

import grpc

from checker.errors import UsageError

RETRY_SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{"service": "checker.v1.CheckService"}],
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.02s",
                    "maxBackoff": "0.5s",
                    "backoffMultiplier": 4,
                    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
                },
            }
        ],
        "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.5},
    }
)


def open_channel(
    target: str,
    *,
    ca: Path | None = None,
    cert: Path | None = None,
    key: Path | None = None,
    server_name: str | None = None,
    retries: bool = True,
    ahead: int = 0,
) -> grpc.aio.Channel:
    """A channel of its own to `HOST:PORT` or `unix:PATH`: TLS if `ca` is given, mutual TLS with `cert` and `key`.

    `server_name`: the name the server's certificate must carry, where it is not the host of `target`. `retries`: False
    for a caller that counts its calls and asks again by itself. `ahead`: bytes of a stream that may come before they
    are read; 0: as many as gRPC finds good, up to many megabytes.
    Raises UsageError for files that cannot be read or a certificate without its key.
    """
    options: list[tuple[str, str | int]] = [
        ("grpc.service_config", RETRY_SERVICE_CONFIG) if retries else ("grpc.enable_retries", 0),
        # Channels of one process would else share one connection, so all its calls one worker.
        ("grpc.use_local_subchannel_pool", 1),
        # A connection may reach a dying worker and be reset; gRPC's default waits a second before the next, which is
        # longer than all retries together.
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.min_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 2000),
    ]
    if ahead:
        options += [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", ahead)]
    if server_name is not None:
        options.append(("grpc.ssl_target_name_override", server_name))
    if (cert is None) != (key is None):
        raise UsageError("a client certificate needs its key and the key its certificate: give both or neither")
    if ca is None:
        if cert is not None:
            raise UsageError("a client certificate needs TLS: give the authority of the server's certificate too")
        return grpc.aio.insecure_channel(target, options=options)
    credentials = grpc.ssl_channel_credentials(_read(ca), _read(key) if key else None, _read(cert) if cert else None)
    return grpc.aio.secure_channel(target, credentials, options=options)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
