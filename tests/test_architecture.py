"""What the import contracts of pyproject.toml cannot say: what core may import, and that no modules name each other."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import proto
from checker.core import decision, document
from proto.checker.v1 import check_pb2 as pb

ROOT = Path(__file__).parent.parent
CORE = sorted((ROOT / "checker" / "core").glob("*.py"))
PURE = frozenset(
    (
        *("base64", "bisect", "collections", "contextlib", "dataclasses", "datetime", "enum", "fractions", "functools"),
        *("hashlib", "hmac", "io", "itertools", "json", "math", "operator", "re", "string", "struct", "tomllib"),
        *("types", "typing", "unicodedata"),
    )
)
"""Standard modules without clock, socket, file, log or chance of their own; `datetime` converts what it is given."""
LIBRARIES = {"filter.py": {"pybloom_live", "bitarray"}, "filter_builder.py": {"pybloom_live", "bitarray", "numpy"}}
CLOCKS = re.compile(r"\b(?:datetime|date)\.(?:now|today|utcnow)\(|\bopen\(|\bprint\(")


def imported(path: Path) -> set[str]:
    """Names of the modules a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: a relative import"
            found.add(node.module or "")
    return found


def module_name(path: Path) -> str:
    """As it is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def named(path: Path, modules: set[str]) -> set[str]:
    """Those of `modules` that a file needs when it runs, also those it imports late; not what only its types name."""
    tree = ast.parse(path.read_text("utf-8"))
    typed = {
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for statement in branch.body
        for node in ast.walk(statement)
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node not in typed:
            inside = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found |= {full if full in modules else node.module or "" for full in inside.values()}
    return found & modules - {module_name(path)}


def test_no_modules_name_each_other() -> None:
    """Checker, edge and load tester can each be read from the bottom up: no module needs one that needs it."""
    paths = {module_name(path): path for top in ("checker", "edge", "loadtest") for path in (ROOT / top).rglob("*.py")}
    assert len(paths) > 100
    graphlib.TopologicalSorter({name: named(path, set(paths)) for name, path in paths.items()}).prepare()


def test_the_parent_of_a_node_stays_light() -> None:
    """It names the work of its processes without loading what that takes: the servicers, the store's client, NumPy."""
    code = "import sys, checker.serving.node, checker.serving.start; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "checker.rpc.workers" in loaded
    assert not {"checker.serving.worker", "checker.rpc.servicer", "redis", "numpy"} & set(loaded)


def test_proto_is_ours() -> None:
    """`import proto` is this repository's contract, not the library proto-plus, which installs the same name."""
    assert proto.__file__ is not None
    assert Path(proto.__file__).parent == ROOT / "proto"


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_core_imports_only_what_computes(path: Path) -> None:
    """A module of core imports core, pure standard modules, and what its one list here grants it."""
    others = {name for name in imported(path) if not name.startswith("checker.core")}
    tops = {name.partition(".")[0] for name in others}
    assert tops <= PURE | LIBRARIES.get(path.name, set()), path.name
    assert not CLOCKS.search(path.read_text("utf-8")), f"{path.name} reads a clock or file, or prints"


def test_core_runs_where_nothing_but_its_libraries_is_installed() -> None:
    """Importing all of core's asking side loads no event loop, wire, store, logging or NumPy."""
    names = [f"checker.core.{path.stem}" for path in CORE if path.stem not in ("__init__", "filter_builder")]
    code = f"import sys, importlib; [importlib.import_module(name) for name in {names!r}]; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"checker.core.lookup", "pybloom_live"} <= set(loaded)
    assert not {"asyncio", "grpc", "google.protobuf", "redis", "structlog", "socket", "numpy"} & set(loaded)


@pytest.mark.parametrize(
    ("ours", "contract"),
    [
        (decision.Outcome, pb.Outcome),
        (decision.Reason, pb.Reason),
        (decision.Advisory, pb.Advisory),
        (decision.AnsweredBy, pb.AnsweredBy),
        (document.DocumentType, pb.DocumentType),
    ],
)
def test_numbers_are_the_contracts(ours: type, contract: object) -> None:
    """Each enum of core has the contract's words and numbers, no more and no less; 0 is "not said"."""
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", ours.__name__).upper()
    words = {word.removeprefix(f"{prefix}_"): number for word, number in contract.items()}  # type: ignore[attr-defined]
    core = {member.name: int(member) for member in ours}  # type: ignore[attr-defined]
    assert core | {"UNSPECIFIED": 0} == words
