"""`edge serve`: the edge as a node beside booking systems."""

import argparse
import os
import subprocess
import sys
from functools import partial

from checker.errors import CheckerError
from checker.settings import add_flags, given, make_directory, require_readable, require_ready_file
from edge.config import PREFIX, Settings, find

_EPILOG = """\
every setting is a flag, an EDGE_* variable (EDGE_CENTRE, EDGE_WORKERS, ...) or a line of the --config TOML file
(centre = "127.0.0.1:50051"), in this order of precedence.

examples:
  edge serve --centre 127.0.0.1:50051 --data ./edge             one machine; the key file is fetched
  edge serve --centre a.example:443,b.example:443 --centre-ca ca.pem --centre-cert edge.pem --centre-key edge.key \\
      --data /var/lib/edge --key-file /etc/edge/key.json --workers 2 --name station-east
  edge serve ... --listen 0.0.0.0:50061 --tls-cert server.pem --tls-key server.key --tls-client-ca sellers-ca.pem \\
      --roles roles.toml                                        sellers on other machines

it serves from the first moment: without a snapshot it asks the centre, without the centre it answers by the stand-in
table (`edge rules` prints it).
"""


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = commands.add_parser(
        "serve",
        help="answer checks over gRPC, beside the booking system",
        description="Answer checks over gRPC (the checker's own CheckService, health, reflection) from a snapshot on "
        "this machine until SIGTERM or Ctrl-C.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_flags(parser, Settings)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check every setting and file, then serve; returns the exit code."""
    from checker import logs
    from checker.keys import load_edge
    from checker.rpc import quota, run_dir, workers
    from checker.rpc.roles import Roles
    from checker.rpc.tls import check_listener
    from edge import node, totals

    flags, config = given(args, Settings, PREFIX)
    found = find(flags, os.environ, config)
    settings = found.settings
    logs.configure(settings.log_format, settings.log_level)

    roles = check_listener(found, settings.tls)
    if settings.centre or settings.data is not None:  # else nobody said where
        found.attempt(lambda: make_directory(settings.directory, "--data"), "data")
    if settings.ready_file is not None:
        found.attempt(partial(require_ready_file, settings.ready_file))
    for name in ("centre_ca", "centre_cert", "centre_key"):
        if (file := getattr(settings, name)) is not None:
            found.attempt(partial(require_readable, file, f"--{name.replace('_', '-')}"))
    key_file = "key_file" if settings.key_file is not None else "data"
    fetch = None
    if os.path.exists(settings.keys):
        found.attempt(lambda: load_edge(settings.keys), key_file)
    elif settings.centre:  # whether it may be fetched is a question of how the centre is reached
        fetch = found.attempt(
            lambda: node.require_keys(settings.keys, settings.centres, settings.centre_tls),
            *(key_file, "centre", "centre_ca", "centre_cert", "centre_key"),
        )
    found.require()
    if fetch:
        _fetch_keys(settings)

    with run_dir.made_in(settings.directory) as folder:
        shared = node.Node(settings, folder)
        quota.create(shared.quota, roles or Roles())
        totals.create(shared.totals, settings.workers)
        return workers.run(
            node.work,
            listen=settings.listen,
            workers=settings.workers,
            payload=shared,
            ready_file=settings.ready_file,
            settings=workers.WorkerSettings(
                stop_seconds=(settings.drain_pause_ms + settings.drain_grace_ms) / 1000 + 10
            ),
        )


def _fetch_keys(settings: Settings) -> None:
    """In a process of its own, since the parent of workers never touches gRPC."""
    words = {
        "--centre": settings.centre,
        "--data": settings.directory,
        "--key-file": settings.keys,
        "--centre-ca": settings.centre_ca,
        "--centre-cert": settings.centre_cert,
        "--centre-key": settings.centre_key,
        "--centre-server-name": settings.centre_server_name,
    }
    command = [sys.executable, "-m", "edge", "fetch-keys"]
    for flag, value in words.items():
        command += [flag, str(value)] if value else []
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line.removeprefix("edge: ") for line in done.stderr.splitlines()]
        raise CheckerError("\n".join(said) or "the key file could not be fetched")
