"""`checker serve`: the central service."""

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checker.config import PREFIX, Settings
from checker.config import load as load_settings
from checker.errors import UsageError
from checker.settings import add_flags, given

if TYPE_CHECKING:
    from checker.index.base import ExactIndex
    from checker.keys import KeyFile

_EPILOG = """\
every setting is a flag, a CHECKER_* variable (CHECKER_LISTEN, CHECKER_WORKERS, ...) or a line of the --config TOML
file (listen = "127.0.0.1:50051"), in this order of precedence.

examples:
  checker serve --index embedded:./index                        one machine, its own store
  checker serve --index redis://127.0.0.1:6379/0 --workers 4 --key-file keys.json
  checker serve --index memory: --feed feed.jsonl               a try-out; gone when it stops
  checker serve --index rediss://redis:6379/0 --key-file keys.json --listen 0.0.0.0:50051 \\
      --tls-cert server.pem --tls-key server.key --tls-client-ca callers-ca.pem --roles roles.toml
"""


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = commands.add_parser(
        "serve",
        help="answer checks over gRPC",
        description="Answer checks over gRPC, and serve edges (CheckService, FilterService, health, reflection) until "
        "SIGTERM or Ctrl-C.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_flags(parser, Settings)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check every setting and file, then serve; returns the exit code."""
    from checker import keys, logs, rulebooks
    from checker.rpc import quota, workers
    from checker.rpc.roles import Roles, load_roles
    from checker.rpc.tls import check_listen, server_credentials
    from checker.serving.node import Node, tls_files
    from checker.serving.start import accompany, work

    flags, config = given(args, Settings, PREFIX)
    settings = load_settings(flags, os.environ, config)
    logs.configure(settings.log_format, settings.log_level)

    tls = tls_files(settings)
    problems: list[str] = []
    roles = Roles()

    def attempt(check: Callable[[], Any]) -> Any:
        try:
            return check()
        except UsageError as error:
            problems.append(str(error))
            return None

    if settings.roles is not None:
        roles_file = settings.roles
        roles = attempt(lambda: load_roles(roles_file)) or roles
    attempt(
        lambda: check_listen(
            settings.listen,
            tls,
            insecure_plaintext=settings.insecure_plaintext,
            roles=roles if settings.roles is not None else None,
        )
    )
    if tls is not None:
        attempt(lambda: server_credentials(tls))
    attempt(lambda: rulebooks.load(settings.rulebook))
    attempt(lambda: make_state_dir(settings.state))
    local = settings.index.startswith(("embedded:", "memory:"))
    attempt(lambda: keys.load_or_create(settings.keys) if local else keys.load(settings.keys))
    if problems:
        raise UsageError("\n".join(problems))

    memory = settings.index.startswith("memory:")
    if memory:
        _warn_of_memory()
    run_dir = Path(tempfile.mkdtemp(prefix="run-", dir=settings.state))
    try:
        node = Node(settings, run_dir, fill_memory if memory else None)
        quota.create(node.quota, roles)
        return workers.run(
            work,
            listen=settings.listen,
            workers=settings.workers,
            payload=node,
            ready_file=settings.ready_file,
            companion=None if memory else accompany,
            settings=workers.WorkerSettings(
                start_seconds=600,  # a first scan of tens of millions of keys takes its time
                stop_seconds=(settings.drain_pause_ms + settings.drain_grace_ms) / 1000 + 10,
            ),
        )
    finally:
        shutil.rmtree(run_dir, ignore_errors=True)


async def fill_memory(index: "ExactIndex", settings: Settings, keys: "KeyFile") -> None:
    """Import the feeds of `memory:` before serving; what was rejected is said, and in the rejects file."""
    import logging

    from checker.lists.importer import ImportOptions, import_feeds

    if settings.feed:
        options = ImportOptions(courts=keys.courts, canary=True)
        summary = await import_feeds(index, keys.digest_key, settings.feed, options)
        found = {"lines": summary.lines, "keys": summary.keys, "rejected": summary.rejected.total()}
        logging.getLogger("checker.serve").info("feed imported into memory", extra=found)


def make_state_dir(state: Path) -> None:
    """Make the state directory, for this user only. Raises UsageError."""
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UsageError(f"--state-dir {state}: {error.strerror}") from None


def _warn_of_memory() -> None:
    import logging

    logging.getLogger("checker.serve").warning(
        "memory: NOTHING IS KEPT. One process, gone when it stops. For anything but a try-out use embedded:DIR"
    )
