"""`checker serve`: the central service."""

import argparse
import os
from functools import partial
from typing import TYPE_CHECKING

from checker.config import PREFIX, Settings
from checker.config import find as find_settings
from checker.settings import add_flags, given, make_directory, require_readable, require_ready_file
from checker.terminal import require_packages

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
    require_packages("redis", "numpy", "prometheus_client")  # the workers' own imports would fail one by one
    from checker import keys, logs, rulebooks
    from checker.rpc import quota, run_dir, workers
    from checker.rpc.roles import Roles
    from checker.rpc.tls import check_listener
    from checker.serving.node import Node, tls_files
    from checker.serving.start import accompany, work

    flags, config = given(args, Settings, PREFIX)
    found = find_settings(flags, os.environ, config)
    settings = found.settings
    logs.configure(settings.log_format, settings.log_level)

    roles = check_listener(found, tls_files(settings))
    found.attempt(lambda: rulebooks.load(settings.rulebook), "rulebook")
    for feed in settings.feed:
        found.attempt(partial(require_readable, feed, "--feed"))
    if settings.ready_file is not None:
        found.attempt(partial(require_ready_file, settings.ready_file))
    state = {"state_dir"} if settings.state_dir is not None else {"state_dir", "index"}
    if settings.index or settings.state_dir is not None:  # else nobody said where
        found.attempt(lambda: make_directory(settings.state, "--state-dir"), *state)
    if settings.index or settings.key_file is not None:
        local = settings.index.startswith(("embedded:", "memory:"))
        found.attempt(
            lambda: keys.load_or_create(settings.keys) if local else keys.load(settings.keys),
            *({"key_file"} if settings.key_file is not None else state | {"key_file"}),
        )
    found.require()

    memory = settings.index.startswith("memory:")
    if memory:
        _warn_of_memory()
    with run_dir.made_in(settings.state) as folder:
        node = Node(settings, folder, fill_memory if memory else None)
        quota.create(node.quota, roles or Roles())
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


async def fill_memory(index: "ExactIndex", settings: Settings, keys: "KeyFile") -> None:
    """Import the feeds of `memory:` before serving; what was rejected is said, and in the rejects file."""
    import logging

    from checker.lists.importer import ImportOptions, import_feeds

    if settings.feed:
        options = ImportOptions(courts=keys.courts, canary=True)
        summary = await import_feeds(index, keys.digest_key, settings.feed, options)
        found = {"lines": summary.lines, "keys": summary.keys, "rejected": summary.rejected.total()}
        logging.getLogger("checker.serve").info("feed imported into memory", extra=found)


def _warn_of_memory() -> None:
    import logging

    logging.getLogger("checker.serve").warning(
        "memory: NOTHING IS KEPT. One process, gone when it stops. For anything but a try-out use embedded:DIR"
    )
