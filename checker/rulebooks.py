"""Finding the rulebook: the one that ships, or a file of the operator's."""

from importlib import resources
from pathlib import Path

from checker.core.rules import Rulebook, RulebookError, parse
from checker.errors import UsageError


def load(path: Path | None) -> Rulebook:
    """The rulebook of a file, or the one that ships when `path` is None. Raises UsageError with every problem."""
    name = str(path) if path is not None else "the rulebook that ships"
    try:
        source = path.read_bytes() if path is not None else _packaged()
    except OSError as error:
        raise UsageError(f"rulebook {name}: {error.strerror}") from None
    try:
        return parse(source)
    except RulebookError as error:
        raise UsageError("\n".join(f"rulebook {name}: {problem}" for problem in error.problems)) from None


def _packaged() -> bytes:
    return resources.files("checker.core").joinpath("rulebook.toml").read_bytes()
