"""Every setting of `checker serve` in one typed place: default, meaning, check.

A setting comes from, in this order: its flag, its `CHECKER_*` variable, the TOML file named by --config, its default.
All problems are listed at once. There is no secret among the settings: secrets live in files that settings name.
"""

import tomllib
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from checker.core.freshness import HOUR_MS, MINUTE_MS, Limits
from checker.errors import UsageError


def _setting(default: Any, text: str, check: Callable[[Any], str | None] | None = None) -> Any:
    return field(default=default, metadata={"help": text, "check": check})


def _at_least(least: float) -> Callable[[Any], str | None]:
    return lambda value: None if value >= least else f"must be at least {least:g}"


def _from_to(least: float, most: float) -> Callable[[Any], str | None]:
    return lambda value: None if least <= value <= most else f"must be from {least:g} to {most:g}"


def _one_of(*words: str) -> Callable[[Any], str | None]:
    return lambda value: None if value in words else f"must be one of {', '.join(words)}"


def _share(value: float) -> str | None:
    return None if 1e-7 <= value <= 0.1 else "must be from 0.0000001 to 0.1"


@dataclass(frozen=True)
class Settings:
    """What `checker serve` runs with."""

    index: str = _setting(
        "",
        "exact index: embedded:DIR, redis://HOST:PORT/DB, rediss://..., redis+cluster://HOST:PORT,..., or memory:",
    )
    listen: str = _setting("127.0.0.1:50051", "HOST:PORT (port 0: any free one) or unix:PATH")
    workers: int = _setting(1, "processes on the one port; unix: and memory: mean one", _from_to(1, 256))
    key_file: Path | None = _setting(
        None, "digest, signing and evidence keys (default: key.json in the state directory)"
    )
    state_dir: Path | None = _setting(
        None, "filter file and evidence (default: DIR of embedded:DIR, else ~/.local/state/xianxiao)"
    )
    feed: tuple[Path, ...] = _setting((), "memory: only: feeds to import before serving")
    ready_file: Path | None = _setting(None, 'gets {"address": ..., "pid": ...} once it serves')
    rulebook: Path | None = _setting(None, "a rulebook to use instead of the one that ships (see `checker rulebook`)")
    tls_cert: Path | None = _setting(None, "server certificate, PEM; read again when it changes")
    tls_key: Path | None = _setting(None, "its private key, PEM")
    tls_client_ca: Path | None = _setting(None, "authority of client certificates, PEM: turns on mutual TLS")
    roles: Path | None = _setting(None, "roles file: which client certificate may do what (docs/operations.md)")
    insecure_plaintext: bool = _setting(False, "allow a listener beyond loopback without TLS")
    log_format: str = _setting("auto", "json, human, or auto: human on a terminal", _one_of("auto", "json", "human"))
    log_level: str = _setting("info", "debug, info, warning or error", _one_of("debug", "info", "warning", "error"))
    metrics_listen: str = _setting("", "HOST:PORT for Prometheus metrics; empty: none")
    index_timeout_ms: int = _setting(20, "time the exact index has to answer a hit", _at_least(1))
    min_budget_ms: int = _setting(5, "calls with less of their deadline left are refused at once", _at_least(0))
    max_in_flight: int = _setting(4096, "items in flight per worker; more are refused at once", _at_least(1))
    drain_pause_ms: int = _setting(1000, "time between NOT_SERVING and the end of accepting calls", _at_least(0))
    drain_grace_ms: int = _setting(10_000, "time calls in flight have to finish", _at_least(0))
    feed_warn_minutes: int = _setting(15, "a feed silent for longer earns STALE_DATA and a warning", _at_least(1))
    feed_stop_hours: int = _setting(24, "a feed silent for longer bars nobody", _at_least(1))
    gap_grace_minutes: int = _setting(15, "a gap in the feed open for longer bars nobody", _at_least(0))
    evidence_days: int = _setting(3 * 366, "how long evidence of refusals is kept", _at_least(1))
    filter_error_rate: float = _setting(1e-4, "false positives of the prefilter", _share)

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
    problems: list[str] = []
    table = _read_table(config, problems) if config is not None else {}
    known = {item.name for item in fields(Settings)}
    problems += [
        f"{config}: {name}: is no setting; see `checker serve --help`" for name in sorted(table.keys() - known)
    ]
    problems += [
        f"{name}: is no setting; see `checker serve --help`"
        for name in sorted(environ)
        if name.startswith("CHECKER_")
        and name.removeprefix("CHECKER_").lower() not in known | {"config", "fault_point", "target", "valkey_server"}
    ]
    chosen: dict[str, Any] = {}
    wrong: set[str] = set()  # settings that were given, but not as they can be used
    for item in fields(Settings):
        variable = f"CHECKER_{item.name.upper()}"
        if flags.get(item.name) is not None:
            source, value = f"--{item.name.replace('_', '-')}", flags[item.name]
        elif variable in environ:
            source, value = variable, environ[variable]
        elif item.name in table:
            source, value = f"{config}: {item.name}", table[item.name]
        else:
            continue
        converted = _convert(item.name, item.default, value)
        if isinstance(converted, _Wrong):
            problems.append(f"{source}: {converted.text}")
            wrong.add(item.name)
            continue
        check = item.metadata["check"]
        fault = check(converted) if check is not None else None
        if fault:
            problems.append(f"{source}: {fault}")
            wrong.add(item.name)
        else:
            chosen[item.name] = converted
    problems += _together(Settings(**chosen), wrong)
    if problems:
        raise UsageError("\n".join(problems))
    return Settings(**chosen)


@dataclass(frozen=True)
class _Wrong:
    text: str


def _read_table(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        problems.append(f"--config {path}: {error.strerror}")
    except UnicodeDecodeError:
        problems.append(f"--config {path}: not a TOML text: it is not UTF-8")
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        problems.append(f"--config {path}: not a TOML text: {error}")
    return {}


_PATHS = frozenset({"key_file", "state_dir", "ready_file", "rulebook", "tls_cert", "tls_key", "tls_client_ca", "roles"})


def _convert(name: str, default: Any, value: Any) -> Any:
    """A flag's, variable's or TOML value as the setting's type."""
    if name == "feed":
        given = value if isinstance(value, list | tuple) else [value]
        if not all(_is_path(one) for one in given):
            return _Wrong("must be a path, or in the file a list of paths")
        return tuple(Path(one) for one in given)
    if name in _PATHS:
        return Path(value) if _is_path(value) else _Wrong("must be a path")
    if isinstance(default, bool):
        if isinstance(value, bool):
            return value
        words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
        return words.get(str(value).lower(), _Wrong("must be true or false"))
    if isinstance(default, int):
        try:
            return value if isinstance(value, int) and not isinstance(value, bool) else int(str(value))
        except ValueError:
            return _Wrong("must be a whole number")
    if isinstance(default, float):
        try:
            return float(value)
        except (TypeError, ValueError):
            return _Wrong("must be a number")
    return value if isinstance(value, str) else _Wrong("must be a text")


def _is_path(value: Any) -> bool:
    return isinstance(value, str | Path) and bool(str(value)) and "\0" not in str(value)


def _together(settings: Settings, wrong: Set[str]) -> list[str]:
    """What can only be seen with all settings side by side; `wrong`: given, but already complained of."""
    problems = []
    memory = settings.index.startswith("memory:")
    if not settings.index and "index" not in wrong:
        problems.append("--index: is required, such as embedded:./index or redis://127.0.0.1:6379/0")
    if memory and settings.workers > 1:
        problems.append("--workers: memory: lives in one process; use --workers 1 or another index")
    if settings.feed and not memory:
        problems.append("--feed: is for memory: only; use `checker import` for this index")
    if settings.listen.startswith("unix:") and settings.workers > 1:
        problems.append("--workers: a Unix socket cannot be shared by workers; use --workers 1 or HOST:PORT")
    if (settings.tls_cert is None) != (settings.tls_key is None) and not wrong & {"tls_cert", "tls_key"}:
        problems.append("--tls-cert, --tls-key: give both or neither")
    if settings.tls_client_ca is not None and settings.tls_cert is None and "tls_cert" not in wrong:
        problems.append("--tls-client-ca: needs --tls-cert and --tls-key")
    if settings.tls_client_ca is not None and settings.roles is None and "roles" not in wrong:
        problems.append("--roles: mutual TLS needs a roles file that says what each certificate may do")
    if settings.feed_warn_minutes >= settings.feed_stop_hours * 60:
        problems.append("--feed-warn-minutes: must be less than --feed-stop-hours")
    return problems
