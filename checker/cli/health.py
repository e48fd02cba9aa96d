"""`checker health`: is the service there and ready? For container health checks and load balancers' scripts.

One call of the standard `grpc.health.v1` protocol, which is open to every role; nothing is printed when all is well.
"""

import argparse
import os
from pathlib import Path

from checker.errors import CheckerError

_DEFAULT_TARGET = "127.0.0.1:50051"


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = commands.add_parser(
        "health",
        help="exit 0 when a service is ready, 1 otherwise",
        description="Ask a running service whether it is ready (grpc.health.v1). Exit 0: SERVING. Exit 1: not "
        "serving, draining, or out of reach.",
        epilog="examples:\n  checker health\n"
        "  checker health --target check.example:443 --ca ca.pem --cert me.pem --key me.key",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--target",
        metavar="ADDR",
        default=os.environ.get("CHECKER_TARGET") or _DEFAULT_TARGET,
        help=f"HOST:PORT or unix:PATH of the service (default {_DEFAULT_TARGET}; CHECKER_TARGET)",
    )
    parser.add_argument("--timeout", metavar="S", type=float, default=2.0, help="seconds to wait (default 2)")
    parser.add_argument("--ca", metavar="FILE", type=Path, help="PEM of the server certificate's authority: TLS")
    parser.add_argument("--cert", metavar="FILE", type=Path, help="PEM of your certificate: mutual TLS")
    parser.add_argument("--key", metavar="FILE", type=Path, help="PEM of its private key")
    parser.add_argument(
        "--server-name", metavar="NAME", help="the name in the server's certificate, if not the host of ADDR"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0 when the service says SERVING. Raises CheckerError otherwise."""
    import asyncio

    return asyncio.run(_ask(args))


async def _ask(args: argparse.Namespace) -> int:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from checker.rpc.client import open_channel

    async with open_channel(
        args.target, ca=args.ca, cert=args.cert, key=args.key, server_name=args.server_name
    ) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=args.timeout
            )
        except grpc.aio.AioRpcError as error:
            raise CheckerError(f"{args.target}: no answer ({error.code().name}): is `checker serve` running?") from None
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        word = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        raise CheckerError(f"{args.target}: {word}: it is starting or stopping")
    return 0
