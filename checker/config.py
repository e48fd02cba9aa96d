"""Every setting of `checker serve` in one typed place: default, meaning, check.

`checker.settings` says where a setting comes from: its flag, its `CHECKER_*` variable, the file of --config.
"""

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checker.core.freshness import HOUR_MS, MINUTE_MS, Limits
from checker.settings import (
    Found,
    at_least,
    from_to,
    is_host_port,
    listener,
    metrics_listener,
    one_of,
    setting,
    tls_problems,
)
from checker.settings import find as find_settings

PREFIX = "CHECKER_"


def _share(value: float) -> str | None:
    return None if 1e-7 <= value <= 0.1 else "must be from 0.0000001 to 0.1"


def _index(url: str) -> str | None:
    """The form of an index URL; never quotes it, for it may hold a password. `checker.index.urls` opens it."""
    scheme, _, rest = url.partition(":")
    if not url or url == "memory:":
        return None
    if not rest.strip("/") or scheme not in _SCHEMES:
        return (
            "must be embedded:DIR, redis://HOST:PORT/DB, rediss://..., redis+unix:PATH, "
            "redis+cluster://HOST:PORT,... or memory:"
        )
    if scheme in ("embedded", "redis+unix"):
        return None
    hosts = re.split("[/?#]", rest.lstrip("/"), maxsplit=1)[0].rpartition("@")[2].split(",")
    named = [host for host in hosts if re.search(r":[^\]]*$", host)]  # [::1] names no port
    return None if all(map(is_host_port, named)) else "must name its servers as HOST:PORT"


_SCHEMES = ("embedded", "redis", "rediss", "redis+unix", "redis+cluster", "rediss+cluster")


@dataclass(frozen=True)
class Settings:
    """What `checker serve` runs with."""

    index: str = setting(
        "",
        "exact index: embedded:DIR, redis://HOST:PORT/DB, rediss://..., redis+cluster://HOST:PORT,..., or memory:",
        _index,
        metavar="URL",
    )
    listen: str = setting("127.0.0.1:50051", "HOST:PORT (port 0: any free one) or unix:PATH", listener, metavar="ADDR")
    workers: int = setting(1, "processes on the one port; unix: and memory: mean one", from_to(1, 256))
    key_file: Path | None = setting(
        None, "digest, signing and evidence keys (default: key.json in the state directory)"
    )
    state_dir: Path | None = setting(
        None, "filter file and evidence (default: DIR of embedded:DIR, else ~/.local/state/xianxiao)", metavar="DIR"
    )
    feed: tuple[Path, ...] = setting((), "memory: only: feeds to import before serving")
    ready_file: Path | None = setting(None, 'gets {"address": ..., "pid": ...} once it serves')
    rulebook: Path | None = setting(None, "a rulebook to use instead of the one that ships (see `checker rulebook`)")
    tls_cert: Path | None = setting(None, "server certificate, PEM; read again when it changes")
    tls_key: Path | None = setting(None, "its private key, PEM")
    tls_client_ca: Path | None = setting(None, "authority of client certificates, PEM: turns on mutual TLS")
    roles: Path | None = setting(None, "roles file: which client certificate may do what (docs/operations.md)")
    insecure_plaintext: bool = setting(False, "allow a listener beyond loopback without TLS")
    log_format: str = setting(
        "auto", "json, human, or auto: human on a terminal", one_of("auto", "json", "human"), metavar="FORM"
    )
    log_level: str = setting(
        "info", "debug, info, warning or error", one_of("debug", "info", "warning", "error"), metavar="LEVEL"
    )
    metrics_listen: str = setting("", "HOST:PORT for Prometheus metrics; empty: none", metrics_listener, metavar="ADDR")
    index_timeout_ms: int = setting(20, "time the exact index has to answer a hit", at_least(1))
    min_budget_ms: int = setting(5, "calls with less of their deadline left are refused at once", at_least(0))
    max_in_flight: int = setting(4096, "items in flight per worker; more are refused at once", at_least(1))
    max_watchers: int = setting(4000, "edges that may follow one worker; more are told to come back", at_least(0))
    max_downloads: int = setting(8, "snapshots that edges may download from one worker at once", at_least(0))
    snapshot_hours: int = setting(24, "a snapshot for edges is published at least this often", from_to(1, 24 * 7))
    drain_pause_ms: int = setting(1000, "time between NOT_SERVING and the end of accepting calls", at_least(0))
    drain_grace_ms: int = setting(10_000, "time calls in flight have to finish", at_least(0))
    feed_warn_minutes: int = setting(15, "a feed silent for longer earns STALE_DATA and a warning", at_least(1))
    feed_stop_hours: int = setting(24, "a feed silent for longer bars nobody", at_least(1))
    gap_grace_minutes: int = setting(15, "a gap in the feed open for longer bars nobody", at_least(0))
    evidence_days: int = setting(3 * 366, "how long evidence of refusals is kept", at_least(1))
    filter_error_rate: float = setting(1e-4, "false positives of the prefilter", _share)

    @property
    def limits(self) -> Limits:
        """The feed-age limits as core wants them."""
        return Limits(
            warn_ms=self.feed_warn_minutes * MINUTE_MS,
            stop_ms=self.feed_stop_hours * HOUR_MS,
            gap_grace_ms=self.gap_grace_minutes * MINUTE_MS,
        )

    @property
    def embedded_dir(self) -> Path | None:
        """DIR of embedded:DIR."""
        return Path(self.index.removeprefix("embedded:")) if self.index.startswith("embedded:") else None

    @property
    def state(self) -> Path:
        """The state directory in use."""
        return self.state_dir or default_state_dir(self.index)

    @property
    def keys(self) -> Path:
        """The key file in use."""
        return self.key_file or self.state / "key.json"


def default_state_dir(index: str) -> Path:
    """Where a command keeps its state when nobody said: beside an embedded index, else in the user's state folder."""
    if index.startswith("embedded:"):
        return Path(index.removeprefix("embedded:"))
    return Path.home() / ".local" / "state" / "xianxiao"


def load(flags: Mapping[str, Any], environ: Mapping[str, str], config: Path | None) -> Settings:
    """Settings from flags (None = not given), environment and TOML file. Raises UsageError with every problem."""
    return find(flags, environ, config).require()


def find(flags: Mapping[str, Any], environ: Mapping[str, str], config: Path | None) -> Found[Settings]:
    """The same, with the problems still to be raised, so that those of the files they name can join them."""
    return find_settings(
        Settings,
        flags,
        environ,
        config,
        prefix=PREFIX,
        command="checker serve",
        others=frozenset({"fault_point", "target", "valkey_server"}),
        together=_together,
    )


def _together(chosen: Settings, wrong: Set[str]) -> list[str]:
    """What can only be seen with all settings side by side; `wrong`: not known, complained of already."""
    problems = []
    memory = chosen.index.startswith("memory:")
    if not chosen.index and "index" not in wrong:
        problems.append("--index: is required, such as embedded:./index or redis://127.0.0.1:6379/0")
    if memory and chosen.workers > 1:
        problems.append("--workers: memory: lives in one process; use --workers 1 or another index")
    if chosen.feed and not memory and "index" not in wrong:
        problems.append("--feed: is for memory: only; use `checker import` for this index")
    if chosen.listen.startswith("unix:") and chosen.workers > 1:
        problems.append("--workers: a Unix socket cannot be shared by workers; use --workers 1 or HOST:PORT")
    problems += tls_problems(chosen, wrong)
    limits_known = wrong.isdisjoint({"feed_warn_minutes", "feed_stop_hours"})
    if limits_known and chosen.feed_warn_minutes >= chosen.feed_stop_hours * 60:
        problems.append("--feed-warn-minutes: must be less than --feed-stop-hours")
    return problems
