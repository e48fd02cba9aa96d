"""Cerbos: a decision service in Go that a user might pick instead, with a policy of the same rule.

Installed by npm from a pinned version into bench/results (outside git) and held against a known digest. It keeps no
list: the caller tells it whether a measure is in force, which ours looks up. Its messages are built from the
descriptors it serves by reflection. On loopback, without telemetry, audit log or hub.
"""

import contextlib
import hashlib
import json
import os
import platform
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from bench.peers.h2load import Target

PACKAGE, VERSION = "@cerbos/cerbos-linux-x64", "0.55.0"
BATCH = 50
"""Resources in one request, the most it takes by default."""
_SHA256 = "1bb7264706e49f868551b355ef0a8e3b57947cccfe0551fb3dfae503f458ff7b"
_INTO = Path(__file__).parents[1] / "results" / "npm"
_POLICY = Path(__file__).parent / "policy"
_INSTALL_S, _READY_S = 180, 30
_SERVICE, _METHOD = "cerbos.svc.v1.CerbosService", "CheckResources"


class Unavailable(Exception):
    """It cannot be measured here; the text says why."""


def install() -> Path:
    """The program, fetched by npm unless it is there. Raises Unavailable."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise Unavailable(f"{PACKAGE} is for Linux on x86-64")
    program = _INTO / "node_modules" / PACKAGE / "cerbos-linux-x64"
    if not program.exists():
        _npm(program)
    with program.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != _SHA256:
            raise Unavailable(f"{PACKAGE} is not the {VERSION} that is known; remove {_INTO}")
    return program


def _npm(program: Path) -> None:
    if shutil.which("npm") is None:
        raise Unavailable(f"npm, which installs {PACKAGE} {VERSION}, is not on PATH")
    _INTO.mkdir(parents=True, exist_ok=True)
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-save", "--prefix", str(_INTO)]
    try:
        ran = subprocess.run(
            [*command, f"{PACKAGE}@{VERSION}"], capture_output=True, text=True, check=False, timeout=_INSTALL_S
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"npm did not install {PACKAGE} {VERSION} within {_INSTALL_S} s") from None
    if ran.returncode or not program.exists():
        raise Unavailable(f"npm could not install {PACKAGE} {VERSION}: exit code {ran.returncode}")


@contextlib.contextmanager
def serving(program: Path) -> Iterator[list[Target]]:
    """Cerbos on a free port of this machine: a question at a time, and BATCH. Raises Unavailable."""
    with tempfile.TemporaryDirectory(prefix="xx-") as made:
        folder = Path(made)
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        config = folder / "config.yaml"  # JSON is YAML
        config.write_text(
            json.dumps(
                {
                    "server": {"grpcListenAddr": address, "httpListenAddr": f"unix:{folder / 'http.sock'}"},
                    "telemetry": {"disabled": True},
                    "audit": {"enabled": False},
                    "storage": {"driver": "disk", "disk": {"directory": str(_POLICY), "watchForChanges": False}},
                }
            )
        )
        log = folder / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [str(program), "server", "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=os.environ | {"CERBOS_NO_TELEMETRY": "1"},
            )
        try:
            yield _targets(address, process.pid)
        finally:
            process.terminate()
            process.wait(30)


def _targets(address: str, pid: int) -> list[Target]:
    with grpc.insecure_channel(address) as channel:
        try:
            grpc.channel_ready_future(channel).result(_READY_S)
        except grpc.FutureTimeoutError:
            raise Unavailable(f"Cerbos did not serve within {_READY_S} s") from None
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        method = pool.FindServiceByName(_SERVICE).methods_by_name[_METHOD]
        effect = pool.FindEnumTypeByName("cerbos.effect.v1.Effect").values_by_name
        allow, deny = effect["EFFECT_ALLOW"].number, effect["EFFECT_DENY"].number
        request: Any = GetMessageClass(method.input_type)
        response: Any = GetMessageClass(method.output_type)

    def target(name: str, measures: list[str]) -> Target:
        def verify(raw: bytes) -> None:
            effects = [result.actions["buy"] for result in response.FromString(raw).results]
            assert effects == [deny if measure == "in force" else allow for measure in measures]

        message = ParseDict(_question(measures), request()).SerializeToString()
        return Target(name, address, pid, f"/{_SERVICE}/{_METHOD}", message, len(measures), verify)

    target("a listed passenger among clear ones", ["none", "in force", "none"]).ask()  # the policy is really there
    return [
        target("Cerbos, unary", ["none"]),
        target(f"Cerbos, {BATCH} in a request", ["none"] * BATCH),
    ]


def _question(measures: list[str]) -> dict[str, object]:
    """A seller's, about a passenger for each measure, on a train that a measure forbids."""
    seat = {"train_code": "G1", "seat_code": "O", "seat_name": "二等座"}
    return {
        "requestId": "1",
        "principal": {"id": "rail", "roles": ["seller"]},
        "resources": [
            {
                "actions": ["buy"],
                "resource": {"kind": "train_seat", "id": f"{number:032x}", "attr": seat | {"measure": measure}},
            }
            for number, measure in enumerate(measures)
        ],
    }
