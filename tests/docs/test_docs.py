"""The documents are true: their examples run, their commands parse, their tables are the code's, their paths exist.

A Python block is run as a script of its own against a running service; the text block after it is its output. The
service has the feed of `make run`, smaller (its first people are the same for every size).
"""

import ast
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from google.protobuf import json_format
from packaging.requirements import Requirement

from checker import metrics
from checker.cli.main import _parser
from checker.config import Settings
from checker.core.freshness import HOUR_MS
from checker.core.purchase import Flight
from checker.core.stand_in import Age, EdgeLimits, Failure, is_asked, stand_in
from edge.cli.main import _parser as edge_parser
from edge.config import Settings as EdgeSettings
from loadtest import cli as loadtest_cli
from proto.checker.v1 import check_pb2 as pb
from tests.builders import NOW, rulebook
from tests.docs import service
from tests.docs.service import ROOT
from tests.rpc.certificates import Authority

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
EXAMPLES = [ROOT / "README.md", ROOT / "docs/integration.md", ROOT / "docs/edge.md"]
ROLES = """
[[caller]]
uri = "spiffe://xianxiao.example/rail/a"
role = "booking"
purchases = ["train", "flight"]
rate = 2000
"""
_FLAGS = ("--drain-pause-ms", "0", "--index-timeout-ms", "10000")  # a busy test machine is no sales system
TLS_ADDRESS = "check.example:443"
PLAIN_ADDRESS = "127.0.0.1:50051"


class Block(NamedTuple):
    """A fenced block: where it begins, its language, its text."""

    path: Path
    line: int
    language: str
    text: str


def blocks(path: Path) -> list[Block]:
    """Every fenced block of a document."""
    text = path.read_text("utf-8")
    return [
        Block(path, text.count("\n", 0, match.start()) + 1, match[1], match[2])
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


def examples() -> list[tuple[Block, str]]:
    """Each Python block with the output that the text block after it promises."""
    found = []
    for path in EXAMPLES:
        all_of_it = blocks(path)
        for block, after in zip(all_of_it, [*all_of_it[1:], None], strict=True):
            if block.language == "python":
                assert after is not None, block
                assert after.language == "text", f"{path.name}:{block.line}: no output is shown after this example"
                found.append((block, after.text))
    return found


class Running(NamedTuple):
    """A plaintext service on loopback, one with mutual TLS, and a folder with a client's certificate."""

    plain: str
    tls: str
    folder: Path


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Both services over one embedded index with a made feed."""
    folder = tmp_path_factory.mktemp("docs")
    loadtest = str(Path(sys.executable).parent / "loadtest")
    made = ("make-feed", "--people", "200", "--seed", "1", "--out", str(folder / "feed"))
    service.run(loadtest, *made, cwd=folder)
    index = f"embedded:{folder / 'index'}"
    service.run(service.CHECKER, "import", "--index", index, "feed/feed.jsonl", cwd=folder)
    exported = ("--key-file", "index/key.json", "--out", "edge-key.json")
    service.run(service.CHECKER, "keys", "export-edge", *exported, cwd=folder)
    authority = Authority(folder, "ca")
    server = authority.issue("server", server=True)
    authority.issue("client", uri="spiffe://xianxiao.example/rail/a")
    (folder / "roles.toml").write_text(ROLES, "utf-8")
    tls = ("--tls-cert", str(server.cert), "--tls-key", str(server.key), "--tls-client-ca", str(authority.cert))
    second = folder / "second"
    second.mkdir()
    with (
        service.serving("--index", index, "--listen", "127.0.0.1:0", *_FLAGS, cwd=folder) as plain,
        service.serving(
            *("--index", index, "--state-dir", str(second), "--key-file", str(folder / "index/key.json")),
            *("--listen", "127.0.0.1:0", *tls, "--roles", str(folder / "roles.toml"), *_FLAGS),
            cwd=second,
        ) as secured,
    ):
        yield Running(plain, secured, folder)


@pytest.mark.parametrize(
    ("block", "output"), [pytest.param(*e, id=f"{e[0].path.stem}:{e[0].line}") for e in examples()]
)
def test_an_example_prints_what_the_document_shows(block: Block, output: str, running: Running) -> None:
    """The block, only its address and deadline changed, runs and prints exactly the text block after it."""
    text = block.text.replace(PLAIN_ADDRESS, running.plain).replace(TLS_ADDRESS, running.tls)
    text = text.replace("run/demo/", "").replace("run/edge", "edge-data")
    text = re.sub(r"\btimeout=[\d.]+", "timeout=20", text)  # a busy test machine is no sales system
    text = re.sub(r"(?<=\bEdgeClient\()([^()]*)\)", r"\1, settings=EdgeSettings(centre_timeout_ms=20_000))", text)
    text = re.sub(r"(?m)^from edge import .*", r"\g<0>, EdgeSettings", text)
    script = running.folder / f"example-{block.path.stem}-{block.line}.py"
    script.write_text(text, "utf-8")
    ran = service.run(sys.executable, str(script), cwd=running.folder, env={"PYTHONPATH": str(ROOT)})
    assert ran.stdout == output, ran.stderr


def test_the_client_of_the_readme_is_ten_lines() -> None:
    """The first example has ten statements' lines, imports included: what is needed, and no more."""
    block = examples()[0][0]
    assert len([line for line in block.text.splitlines() if line.strip()]) <= 10


def commands(path: Path) -> list[tuple[int, str]]:
    """Command lines in a document's shell blocks: continued lines joined, comments cut off."""
    return [
        (block.line, line)
        for block in blocks(path)
        if block.language == "sh"
        for line in re.sub(r"\\\n", " ", block.text).splitlines()
        if line.strip() and not line.startswith("#")
    ]


LINES = [(path, line, text) for path in DOCUMENTS for line, text in commands(path)]


def _words(text: str) -> list[str]:
    """The command's own words: without comment, redirections and pipe."""
    words = shlex.split(text, comments=True)
    for mark in ("|", "<", ">", "&", "&&"):
        if mark in words:
            words = words[: words.index(mark)]
    return words


@pytest.mark.parametrize(("path", "line", "text"), [pytest.param(*one, id=f"{one[0].stem}:{one[1]}") for one in LINES])
def test_every_command_in_a_document_is_accepted(
    path: Path, line: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each `checker`, `loadtest` and `make` line uses commands, flags and values that exist."""
    words = _words(text)
    if "operator" in words and words[:2] == ["docker", "compose"]:
        monkeypatch.setenv("CHECKER_KEY_FILE", "/etc/xianxiao/key.json")  # as the image does
        words = ["checker", *words[words.index("operator") + 1 :]]
    if words[:2] == ["docker", "run"]:
        image = next(place for place, word in enumerate(words) if word.startswith("xianxiao-"))
        words = [words[image].removeprefix("xianxiao-"), *words[image + 1 :]]
    name = words[0].rpartition("/")[2] if words else ""
    if name == "checker":
        _parser().parse_args(words[1:])
    elif name == "edge":
        edge_parser().parse_args(words[1:])
    elif name == "loadtest":
        loadtest_cli._parser().parse_args(words[1:])
    elif name == "locust":
        # Asked of a process, since locust patches the one that imports it; --list makes it end after parsing.
        asked = [sys.executable, "-m", "locust", *words[1:], "--list"]
        assert subprocess.run(asked, cwd=ROOT, capture_output=True, timeout=60, check=False).returncode == 0, text
    elif name == "make" or words[0].startswith("RUN_SECONDS="):
        makefile = (ROOT / "Makefile").read_text("utf-8")
        assert re.search(rf"^{words[-1]}:", makefile, re.MULTILINE), text
    else:
        assert name in {"grpcurl", "docker", "install", "pip", "python3"}, text


def test_every_grpcurl_body_is_a_request_of_its_method() -> None:
    """What follows -d parses as the JSON form of the method's request message, no field unknown."""
    seen = set()
    for path, line, text in LINES:
        words = shlex.split(text)
        if words[0] != "grpcurl" or "-d" not in words:
            continue
        method = pb.DESCRIPTOR.services_by_name["CheckService"].methods_by_name[words[-1].rpartition("/")[2]]
        message: Any = getattr(pb, method.input_type.name)()
        json_format.Parse(words[words.index("-d") + 1], message)
        seen.add(method.name)
        assert words[-1].startswith("checker.v1.CheckService/"), f"{path.name}:{line}"
    assert seen == {"Check", "BatchCheck", "GetRulebook"}


def test_the_retry_configuration_shown_is_the_one_our_own_client_uses() -> None:
    """The dictionary in docs/integration.md equals checker.rpc.client's."""
    from checker.rpc.client import RETRY_SERVICE_CONFIG

    (text,) = [block.text for block in blocks(ROOT / "docs/integration.md") if "RETRY = {" in block.text]
    shown = next(
        ast.literal_eval(node.value)
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "RETRY"
    )
    assert shown == json.loads(RETRY_SERVICE_CONFIG)


# -- tables that are the code's


def settings_table(settings: Any = Settings) -> str:
    """The settings of `checker serve` as docs/operations.md shows them."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for item in fields(settings):
        default = f"`{item.default}`" if item.default not in (None, "", (), False) else ""
        rows.append(f"| `{item.name}` | {default} | {item.metadata['help']} |")
    return "\n".join(rows) + "\n"


def metrics_table() -> str:
    """The metrics as docs/operations.md shows them."""
    rows = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for name, (text, labels) in metrics.COUNTERS.items():
        rows.append(f"| `{name}_total` | counter | {', '.join(labels)} | {text} |")
    for name, (text, _) in metrics.GAUGES.items():
        rows.append(f"| `{name}` | gauge | worker | {text} |")
    rows.append(f"| `{metrics.HISTOGRAM}` | histogram | method | Time calls took in the service |")
    return "\n".join(rows) + "\n"


@pytest.mark.parametrize("table", [settings_table, metrics_table])
def test_a_table_of_the_operations_guide_is_the_code_s(table: Any) -> None:
    """The table stands in docs/operations.md exactly as checker/config.py and checker/metrics.py have it."""
    wanted = table()
    assert wanted in (ROOT / "docs/operations.md").read_text("utf-8"), f"docs/operations.md must hold:\n{wanted}"


def test_the_settings_of_the_edge_guide_are_the_code_s() -> None:
    """The table of settings stands in docs/edge.md exactly as edge/config.py has it."""
    wanted = settings_table(EdgeSettings)
    assert wanted in (ROOT / "docs/edge.md").read_text("utf-8"), f"docs/edge.md must hold:\n{wanted}"


def test_the_stand_in_table_of_the_edge_guide_is_the_code_s() -> None:
    """Each cell of the table in docs/edge.md is what core answers: asked or not, and what stands in."""
    rows = {
        "fresh (lag up to 60 s)": (Age.FRESH, 60_000),
        "stale (up to 24 h)": (Age.STALE, 24 * HOUR_MS),
        "older, or none": (Age.OLD, float("inf")),
    }
    text = (ROOT / "docs/edge.md").read_text("utf-8")
    screened = rulebook().screen(Flight(), NOW)
    for what, (age, lag_ms) in rows.items():
        assert EdgeLimits().age(lag_ms) is age
        for word, hit in (("miss", False), ("hit", True)):
            asked = "the centre's answer" if is_asked(age, hit=hit) else "ALLOWED"
            alone = stand_in(screened, age, Failure.UNREACHABLE, hit=hit)
            said = ", with ".join([alone.outcome.name, *(advisory.name for advisory in alone.advisories)])
            short = what.partition(" ")[0]
            wanted = [f"| {first} | {asked} | {said} |" for first in (f"{what}, {word}", f"{short}, {word}", what)]
            assert any(row in text for row in wanted), wanted


def test_every_dependency_has_its_reason_and_no_other_has() -> None:
    """docs/dependencies.md has one line for each base and extra dependency of pyproject.toml, under its own heading."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    asked = {"base": project["dependencies"], **project["optional-dependencies"]}
    wanted = {
        extra: {name for line in lines if (name := Requirement(line).name) != project["name"]}
        for extra, lines in asked.items()
    }
    found: dict[str, set[str]] = {}
    heading = ""
    for line in (ROOT / "docs/dependencies.md").read_text("utf-8").splitlines():
        if line.startswith("## "):
            heading = line[3:].split()[0].lower()
        row = re.match(r"\| `([\w-]+)` \| (.+) \| (.+) \|$", line)
        if row:
            assert row[1] not in found.get(heading, set()), f"{row[1]} stands twice"
            found.setdefault(heading, set()).add(row[1])
            assert len(row[2]) > 20, line
    assert found == wanted


# -- paths and links


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    """Each relative link names a file that is there, and an anchor that is one of its headings."""
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_named_is_there(path: Path) -> None:
    """Each path of the repository in backquotes exists."""
    for named in re.findall(
        r"`((?:checker|edge|proto|loadtest|tests|docs|docker|bench)/[\w./*-]*)`", path.read_text("utf-8")
    ):
        assert list(ROOT.glob(named.rstrip("/"))), f"{path.name} names {named}"


def test_the_architecture_names_every_module() -> None:
    """docs/architecture.md, file by file: no module of `checker` or `edge` is left out."""
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    named = set(re.findall(r"`([\w/.]+\.(?:py|lua|toml))`", text))
    modules = [
        path.relative_to(ROOT).as_posix()
        for path in [*(ROOT / "checker").rglob("*"), *(ROOT / "edge").rglob("*")]
        if path.suffix in {".py", ".lua", ".toml"} and not path.name.startswith("__")
    ]
    missing = [module for module in modules if not {module, module.removeprefix("checker/")} & named]
    assert not missing, f"docs/architecture.md must say what these are for: {missing}"


def test_no_document_holds_a_number_that_somebody_may_have() -> None:
    """Whatever looks like a resident ID in a document is of a synthetic range or printed in the standard itself."""
    for path in [*DOCUMENTS, ROOT / "docker/compose.yaml", ROOT / "docker/Dockerfile"]:
        for number in re.findall(r"(?<!\d)[1-9]\d{16}[\dX](?!\d)", path.read_text("utf-8")):
            assert number[6:8] == "18" or number.startswith("710000"), f"{path.name}: {number}"


def test_subprocess_and_parser_agree() -> None:
    """The parser used above is the one of the console script: a flag it refuses, the script refuses with exit 2."""
    with pytest.raises(SystemExit):
        _parser().parse_args(["serve", "--no-such-flag"])
    ran = subprocess.run([service.CHECKER, "serve", "--no-such-flag"], capture_output=True, check=False, timeout=60)
    assert ran.returncode == 2


def test_every_message_of_the_failure_table_is_one_the_service_says() -> None:
    """What the operator is told to look for in logs and outputs stands in the code, word for word."""
    source = "\n".join(path.read_text("utf-8") for path in (ROOT / "checker").rglob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    text = (ROOT / "docs/operations.md").read_text("utf-8")
    table = text[text.index("## When something is wrong") : text.index("## Backup and restore")]
    phrases = [
        phrase
        for row in table.splitlines()
        if row.startswith("| ") and not row.startswith(("| you see", "|---"))
        for phrase in re.findall(r"`([^`]+)`", row.split(" | ")[0])
        if " " in phrase
    ]
    assert len(phrases) > 20
    assert [phrase for phrase in phrases if phrase not in source] == []


def test_the_feed_lines_shown_are_lines_of_a_feed() -> None:
    """Each line of the feed example is accepted as what its op says, and all five ops are shown."""
    from checker.core import feed

    (block,) = [block for block in blocks(ROOT / "docs/operations.md") if block.language == "json"]
    parsed = [feed.parse_line(line.encode(), 20261123) for line in block.text.splitlines()]
    assert [line for line in parsed if isinstance(line, feed.Rejected)] == []
    assert [json.loads(line)["op"] for line in block.text.splitlines()] == [
        *("add", "exempt", "remove", "revoke", "heartbeat"),
    ]


def test_the_toml_files_shown_are_accepted(tmp_path: Path) -> None:
    """The settings file loads without a problem, and the roles file has the callers it says."""
    from checker.config import load
    from checker.rpc.roles import parse_roles

    settings, roles = [block.text for block in blocks(ROOT / "docs/operations.md") if block.language == "toml"]
    (tmp_path / "checker.toml").write_text(settings, "utf-8")
    assert load({}, {}, tmp_path / "checker.toml").workers == 4
    assert [caller.role for caller in parse_roles(roles, "example").callers.values()] == ["booking", "operator"]


def test_every_role_is_explained() -> None:
    """The table of roles has each role a roles file can name."""
    from checker.rpc.roles import Role

    rows = re.findall(r"^\| `(\w+)` \| .* \|$", (ROOT / "docs/operations.md").read_text("utf-8"), re.MULTILINE)
    assert {role.value for role in Role if role is not Role.ALL} <= set(rows)
