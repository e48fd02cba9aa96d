"""The flags of every command that opens an index beside a running service."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from checker.config import default_state_dir
from checker.errors import UsageError

if TYPE_CHECKING:
    from checker.keys import KeyFile


def add_index_arguments(parser: argparse.ArgumentParser) -> None:
    """--index, --key-file and --state-dir, with the same defaults as `checker serve`."""
    parser.add_argument(
        "--index",
        metavar="URL",
        default=os.environ.get("CHECKER_INDEX"),
        help="embedded:DIR, redis://HOST:PORT/DB, rediss://..., redis+cluster://HOST:PORT,... (CHECKER_INDEX)",
    )
    parser.add_argument(
        "--key-file",
        type=Path,
        metavar="FILE",
        default=_path("CHECKER_KEY_FILE"),
        help="the key file of the index (default: key.json in the state directory; CHECKER_KEY_FILE)",
    )
    parser.add_argument(
        "--state-dir",
        type=Path,
        metavar="DIR",
        default=_path("CHECKER_STATE_DIR"),
        help="where the service keeps filter file and evidence (default: DIR of embedded:DIR, else "
        "~/.local/state/xianxiao; CHECKER_STATE_DIR)",
    )


def _path(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None


def require_index(args: argparse.Namespace) -> str:
    """The index URL; UsageError when none was given, or it is memory:, which no second command can reach."""
    if not args.index:
        raise UsageError("--index: is required, such as embedded:./index or redis://127.0.0.1:6379/0")
    if args.index.startswith("memory:"):
        raise UsageError("--index memory: lives inside `checker serve` only: give it --feed, or use embedded:DIR")
    return str(args.index)


def state_dir(args: argparse.Namespace) -> Path:
    """The state directory in use."""
    return args.state_dir or default_state_dir(args.index or "")


def load_keys(args: argparse.Namespace, *, may_create: bool = False) -> "KeyFile":
    """The key file in use; `may_create`: an embedded index gets one when it has none."""
    from checker import keys

    path = args.key_file or state_dir(args) / "key.json"
    if str(args.index).startswith("embedded:"):
        if may_create:
            return keys.load_or_create(path)
        folder = Path(str(args.index).removeprefix("embedded:"))
        if not folder.is_dir():
            remedy = "`checker import` or `checker serve` makes one"
            raise UsageError(f"--index {args.index}: there is no index yet; {remedy}")
    return keys.load(path)
