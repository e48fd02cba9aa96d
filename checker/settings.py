"""Settings of a service as one typed dataclass: default, meaning and check of each; flags, variables and a file.

A setting comes from, in this order: its flag, its variable (a prefix and its name), the TOML file named by --config,
its default. All problems are listed at once. There is no secret among settings: secrets live in files that they name.

    @dataclass(frozen=True)
    class Settings:
        listen: str = setting("127.0.0.1:50051", "HOST:PORT", metavar="ADDR")
"""

import argparse
import os
import tempfile
import tomllib
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

from checker.errors import UsageError

Check = Callable[[Any], str | None]
"""What is wrong with a value of the right type; None: nothing."""
T = TypeVar("T")
R = TypeVar("R")


def setting(default: Any, text: str, check: Check | None = None, *, metavar: str = "") -> Any:
    """A field of a settings class. `text`: its help; `metavar`: what its flag takes (paths: FILE; else N)."""
    return field(default=default, metadata={"help": text, "check": check, "metavar": metavar})


def at_least(least: float) -> Check:
    """A number from `least` on."""
    return lambda value: None if value >= least else f"must be at least {least:g}"


def from_to(least: float, most: float) -> Check:
    """A number within a range."""
    return lambda value: None if least <= value <= most else f"must be from {least:g} to {most:g}"


def one_of(*words: str) -> Check:
    """One of a few words."""
    return lambda value: None if value in words else f"must be one of {', '.join(words)}"


def is_host_port(address: str, *, any_host: bool = False) -> bool:
    """Whether an address has the form HOST:PORT. `any_host`: HOST may be left out."""
    host, colon, port = address.rpartition(":")
    decimal = port.isascii() and port.isdigit() and len(port) <= 5
    return bool(colon) and bool(host or any_host) and decimal and int(port) <= 65_535


def listener(address: str) -> str | None:
    """The form of an address to listen at."""
    if address.startswith("unix:"):
        path = len(address.encode("utf-8", "surrogateescape")) - len("unix:")
        return None if 1 <= path <= 107 and "\0" not in address else "write unix:PATH with a path of 1 to 107 bytes"
    return None if is_host_port(address) else "write HOST:PORT (port 0 = any free one) or unix:PATH"


def metrics_listener(address: str) -> str | None:
    """The form of an address for the metrics page; empty: none."""
    return None if not address or is_host_port(address, any_host=True) else "must be HOST:PORT"


# --- flags ---------------------------------------------------------------------------------------------------------


def add_flags(parser: argparse.ArgumentParser, cls: type[Any]) -> None:
    """One flag for each setting, with its help and default; and --config."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file of settings")
    for item in fields(cls):
        flag = f"--{item.name.replace('_', '-')}"
        shown = "" if item.default in (None, "", ()) or isinstance(item.default, bool) else f" (default {item.default})"
        options: dict[str, Any] = {"dest": item.name, "default": None, "help": item.metadata["help"] + shown}
        metavar = item.metadata["metavar"] or ("FILE" if item.type in (Path | None, tuple[Path, ...]) else "N")
        if isinstance(item.default, bool):
            parser.add_argument(flag, action="store_true", **options)
        elif isinstance(item.default, tuple):
            parser.add_argument(flag, action="append", metavar=metavar, **options)
        else:
            parser.add_argument(flag, metavar=metavar, **options)


def given(args: argparse.Namespace, cls: type[Any], prefix: str) -> tuple[dict[str, Any], Path | None]:
    """What was given by flags (None: not), and the settings file of --config or its variable."""
    flags = {item.name: getattr(args, item.name) for item in fields(cls)}
    file = os.environ.get(f"{prefix}CONFIG")
    return {name: None if value is False else value for name, value in flags.items()}, (
        args.config or (Path(file) if file else None)
    )


# --- reading -------------------------------------------------------------------------------------------------------


@dataclass
class Found(Generic[T]):
    """Settings as far as they can be used, and every problem so far: of the settings, then of what they name."""

    settings: T
    wrong: set[str]
    """Settings whose value is not known: complained of already, or perhaps in a file that cannot be read."""
    problems: list[str]

    def attempt(self, check: Callable[[], R], *needs: str) -> R | None:
        """What a check returns; its UsageError is one problem more. Left out where a setting it needs is wrong."""
        if self.wrong.isdisjoint(needs):
            try:
                return check()
            except UsageError as error:
                self.problems.append(str(error))
        return None

    def require(self) -> T:
        """The settings. Raises UsageError with every problem."""
        if self.problems:
            raise UsageError("\n".join(self.problems))
        return self.settings


def find(
    cls: type[T],
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    config: Path | None,
    *,
    prefix: str,
    command: str,
    others: Set[str] = frozenset(),
    together: Callable[[T, Set[str]], list[str]],
) -> Found[T]:
    """Settings from flags (None = not given), environment and TOML file, and what is wrong with them.

    `prefix`: of the variables, such as CHECKER_. `command`: whose --help lists the settings. `others`: variables with
    the prefix that belong to something else, in lower case and without it. `together`: what is wrong with the settings
    side by side; it is told which are not known, since those are complained of already.
    """
    problems: list[str] = []
    table = _read_table(config, problems) if config is not None else {}
    unread = bool(problems)
    items = fields(cls)  # type: ignore[arg-type] # a dataclass, as the module says
    known = {item.name for item in items}
    problems += [f"{config}: {name}: is no setting; see `{command} --help`" for name in sorted(table.keys() - known)]
    problems += [
        f"{name}: is no setting; see `{command} --help`"
        for name in sorted(environ)
        if name.startswith(prefix) and name.removeprefix(prefix).lower() not in known | others | {"config"}
    ]
    chosen: dict[str, Any] = {}
    wrong: set[str] = set()
    for item in items:
        variable = f"{prefix}{item.name.upper()}"
        if flags.get(item.name) is not None:
            source, value = f"--{item.name.replace('_', '-')}", flags[item.name]
        elif variable in environ:
            source, value = variable, environ[variable]
        elif item.name in table:
            source, value = f"{config}: {item.name}", table[item.name]
        else:
            if unread:
                wrong.add(item.name)
            continue
        converted = _convert(item.type, item.default, value)
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
    settings = cls(**chosen)
    problems += together(settings, wrong)
    return Found(settings, wrong, problems)


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


def _convert(kind: Any, default: Any, value: Any) -> Any:
    """A flag's, variable's or TOML value as the setting's type."""
    if kind == tuple[Path, ...]:
        several = value if isinstance(value, list | tuple) else [value]
        if not all(_is_path(one) for one in several):
            return _Wrong("must be a path, or in the file a list of paths")
        return tuple(Path(one) for one in several)
    if kind == Path | None:
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


# --- what services have in common ----------------------------------------------------------------------------------


def make_directory(directory: Path, flag: str) -> None:
    """Make a service's directory, for this user only. Raises UsageError if nothing can be written there."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise UsageError(f"{flag} {directory}: cannot be written to: {error.strerror}") from None


def require_readable(path: Path, flag: str) -> None:
    """Raises UsageError if a file that a setting names cannot be read."""
    try:
        path.open("rb").close()
    except OSError as error:
        raise UsageError(f"{flag} {path}: cannot be read: {error.strerror}") from None


def require_ready_file(path: Path) -> None:
    """Raises UsageError if the ready file could not be made."""
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise UsageError(f"--ready-file {path}: cannot be made: {error.strerror}") from None


def tls_problems(settings: Any, wrong: Set[str]) -> list[str]:
    """What is wrong with a listener's tls_cert, tls_key, tls_client_ca and roles side by side."""
    problems = []
    if (settings.tls_cert is None) != (settings.tls_key is None) and not wrong & {"tls_cert", "tls_key"}:
        problems.append("--tls-cert, --tls-key: give both or neither")
    if settings.tls_client_ca is not None and settings.tls_cert is None and "tls_cert" not in wrong:
        problems.append("--tls-client-ca: needs --tls-cert and --tls-key")
    if settings.tls_client_ca is not None and settings.roles is None and "roles" not in wrong:
        problems.append("--roles: mutual TLS needs a roles file that says what each certificate may do")
    return problems
