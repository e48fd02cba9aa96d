"""Generate the Python code of the contract beside its `.proto` files: `python -m proto.generate [OUT]`.

The repository root is the include path, so a file's path is its import path. OUT defaults to the repository root;
the drift test passes a temporary folder and compares.
"""

import sys
from pathlib import Path

from google.type import money_pb2
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent


def generate(out: Path) -> None:
    """Write `*_pb2.py`, `*_pb2_grpc.py` and their `.pyi` below `out`; raises SystemExit on an error."""
    sources = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("proto/checker/v1/*.proto"))
    # protoc does not look for plugins inside an unactivated environment: name them in full.
    binaries = Path(sys.executable).parent
    googleapis = Path(money_pb2.__file__).parents[2]  # google/type and google/rpc ship as .proto files
    well_known = Path(protoc.__file__).parent / "_proto"
    status = protoc.main(
        [
            "protoc",
            f"-I{ROOT}",
            f"-I{googleapis}",
            f"-I{well_known}",
            f"--plugin=protoc-gen-mypy_grpc={binaries / 'protoc-gen-mypy_grpc'}",
            f"--python_out={out}",
            f"--pyi_out={out}",
            f"--grpc_python_out={out}",
            f"--mypy_grpc_out={out}",
            *sources,
        ]
    )
    if status:
        raise SystemExit(status)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
