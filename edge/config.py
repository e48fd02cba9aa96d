"""Every setting of `edge serve` in one typed place: default, meaning, check.

`checker.settings` says where a setting comes from: its flag, its `EDGE_*` variable, the file of --config.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checker.errors import UsageError
from checker.rpc.tls import TlsFiles
from checker.settings import Found, at_least, from_to, listener, one_of, setting, tls_problems
from checker.settings import find as find_settings
from edge.assembly import EdgeSettings
from edge.centre import ClientTls, addresses, check_centre

PREFIX = "EDGE_"
_ANSWERS = EdgeSettings()


def _centres(value: str) -> str | None:
    wrong = [address for address in addresses(value) if address and listener(address)]
    return f"{wrong[0]!r} is no address: write HOST:PORT,HOST:PORT,..." if wrong else None


def _short(value: str) -> str | None:
    return None if len(value) <= 64 and value.isprintable() else "must be at most 64 printable characters"


@dataclass(frozen=True)
class Settings:
    """What `edge serve` runs with."""

    centre: str = setting(
        "", "the checker's addresses, HOST:PORT,HOST:PORT,...; all of one centre", _centres, metavar="ADDRS"
    )
    listen: str = setting("127.0.0.1:50061", "HOST:PORT (port 0: any free one) or unix:PATH", listener, metavar="ADDR")
    workers: int = setting(1, "processes on the one port; unix: means one", from_to(1, 256))
    data: Path | None = setting(
        None, "snapshot, journal and advice queue (default: ~/.local/state/xianxiao-edge)", metavar="DIR"
    )
    key_file: Path | None = setting(
        None, "digest keys, as `checker keys export-edge` writes them; fetched if missing (default: key.json in --data)"
    )
    name: str = setting("", "what `checker fleet` calls this edge", _short, metavar="NAME")
    ready_file: Path | None = setting(None, 'gets {"address": ..., "pid": ...} once it serves')
    tls_cert: Path | None = setting(None, "certificate shown to sellers, PEM; read again when it changes")
    tls_key: Path | None = setting(None, "its private key, PEM")
    tls_client_ca: Path | None = setting(None, "authority of sellers' certificates, PEM: turns on mutual TLS")
    roles: Path | None = setting(None, "roles file: which seller's certificate may do what (docs/operations.md)")
    centre_ca: Path | None = setting(None, "authority of the centre's certificate, PEM: TLS towards the centre")
    centre_cert: Path | None = setting(None, "this edge's certificate, with role edge at the centre, PEM")
    centre_key: Path | None = setting(None, "its private key, PEM")
    centre_server_name: str = setting("", "name in the centre's certificate, if not its host", metavar="NAME")
    insecure_plaintext: bool = setting(False, "allow plaintext beyond loopback, to sellers and centre; never for keys")
    fresh_seconds: int = setting(
        _ANSWERS.fresh_seconds, "lag up to which the filter alone clears whom it does not hold", from_to(3, 3600)
    )
    stale_hours: int = setting(
        _ANSWERS.stale_hours, "lag up to which it does so with STALE_DATA when the centre is away", from_to(1, 24 * 7)
    )
    feed_warn_minutes: int = setting(
        _ANSWERS.feed_warn_minutes, "a court feed silent for longer earns STALE_DATA", at_least(1)
    )
    centre_timeout_ms: int = setting(
        _ANSWERS.centre_timeout_ms, "the longest a sale waits for the centre", from_to(10, 60_000)
    )
    advice_capacity: int = setting(
        _ANSWERS.advice_capacity, "UNKNOWN answers kept to be asked again; the oldest are dropped", at_least(1)
    )
    min_budget_ms: int = setting(5, "calls with less of their deadline left are refused at once", at_least(0))
    max_in_flight: int = setting(4096, "items in flight per worker; more are refused at once", at_least(1))
    drain_pause_ms: int = setting(1000, "time between NOT_SERVING and the end of accepting calls", at_least(0))
    drain_grace_ms: int = setting(10_000, "time calls in flight have to finish", at_least(0))
    log_format: str = setting(
        "auto", "json, human, or auto: human on a terminal", one_of("auto", "json", "human"), metavar="FORM"
    )
    log_level: str = setting(
        "info", "debug, info, warning or error", one_of("debug", "info", "warning", "error"), metavar="LEVEL"
    )

    @property
    def directory(self) -> Path:
        """The data directory in use."""
        return self.data or Path.home() / ".local" / "state" / "xianxiao-edge"

    @property
    def keys(self) -> Path:
        """The key file in use."""
        return self.key_file or self.directory / "key.json"

    @property
    def centres(self) -> list[str]:
        """The centre's addresses."""
        return addresses(self.centre)

    @property
    def centre_tls(self) -> ClientTls | None:
        """How the centre is known, and this edge to it; None: plaintext."""
        if self.centre_ca is None:
            return None
        return ClientTls(self.centre_ca, self.centre_cert, self.centre_key, self.centre_server_name or None)

    @property
    def tls(self) -> TlsFiles | None:
        """The files shown to sellers; None: plaintext."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        return TlsFiles(self.tls_cert, self.tls_key, self.tls_client_ca)

    @property
    def answers(self) -> EdgeSettings:
        """How it answers."""
        return EdgeSettings(
            self.fresh_seconds,
            self.stale_hours,
            self.feed_warn_minutes,
            self.centre_timeout_ms,
            self.advice_capacity,
        )


def load(
    flags: Mapping[str, Any], environ: Mapping[str, str], config: Path | None, command: str = "edge serve"
) -> Settings:
    """Settings from flags (None = not given), environment and TOML file. Raises UsageError with every problem."""
    return find(flags, environ, config, command).require()


def find(
    flags: Mapping[str, Any], environ: Mapping[str, str], config: Path | None, command: str = "edge serve"
) -> Found[Settings]:
    """The same, with the problems still to be raised, so that those of the files they name can join them."""
    return find_settings(
        Settings,
        flags,
        environ,
        config,
        prefix=PREFIX,
        command=command,
        others=frozenset({"target"}),
        together=_together,
    )


def _together(chosen: Settings, wrong: Set[str]) -> list[str]:
    """What can only be seen with all settings side by side; `wrong`: not known, complained of already."""
    problems = []
    if not chosen.centre and "centre" not in wrong:
        problems.append("--centre: is required, such as 127.0.0.1:50051")
    if chosen.listen.startswith("unix:") and chosen.workers > 1:
        problems.append("--workers: a Unix socket cannot be shared by workers; use --workers 1 or HOST:PORT")
    problems += tls_problems(chosen, wrong)
    if (chosen.centre_cert is None) != (chosen.centre_key is None) and not wrong & {"centre_cert", "centre_key"}:
        problems.append("--centre-cert, --centre-key: give both or neither")
    if chosen.centre_cert is not None and chosen.centre_ca is None and "centre_ca" not in wrong:
        problems.append("--centre-cert: needs --centre-ca")
    if chosen.centre and not wrong & {"centre", "centre_ca", "insecure_plaintext"}:
        try:
            check_centre(chosen.centres, chosen.centre_tls, insecure_plaintext=chosen.insecure_plaintext)
        except UsageError as error:
            problems.append(f"--{error}")
    return problems
