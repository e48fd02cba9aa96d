"""Claims about the `edge` command: its help, its errors, its tables, and what it says of a data directory."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import checker
from checker.core.decision import Outcome
from checker.core.stand_in import Age, EdgeLimits
from checker.errors import UsageError
from edge.config import Settings, load
from tests.paths import people
from tests.paths.edges import EdgeStand
from tests.paths.stand import Checker, Ran
from tests.rpc.certificates import Authority
from tests.waiting import until

EDGE = str(Path(sys.executable).parent / "edge")
HERE = {"centre": "127.0.0.1:50051"}


def run(*arguments: str | Path, **environment: str) -> Ran:
    """The console script to its end."""
    done = subprocess.run(
        [EDGE, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200", "HOME": "/nonexistent"} | environment,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


# --- help and errors


def test_help_names_every_verb_and_every_setting() -> None:
    """Each verb has help worth reading with examples, and `serve --help` each setting with its meaning and default."""
    top = run("--help")
    assert top.code == 0
    for verb in ("serve", "status", "sync-once", "rules", "fetch-keys"):
        assert verb in top.out
        told = run(verb, "--help")
        assert told.code == 0
        assert f"edge {verb}" in told.out
        assert "examples:" in told.out
    text = " ".join(run("serve", "--help").out.split())
    for item in fields(Settings):
        assert f"--{item.name.replace('_', '-')} " in text
        assert " ".join(item.metadata["help"].split()) in text


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "edge: the following arguments are required: COMMAND"),
        (["nonsense"], 2, "edge: argument COMMAND: invalid choice"),
        (["serve"], 2, "--centre: is required, such as 127.0.0.1:50051"),
        (["serve", "--centre", "127.0.0.1:1", "--workers", "x"], 2, "--workers: must be a whole number"),
        (["serve", "--centre", "check.example:443"], 2, "--centre check.example:443: is not on this machine"),
        (["serve", "--centre", "127.0.0.1:1,"], 2, "name at least one address"),
        (["serve", "--centre", "127.0.0.1:1,nonsense"], 2, "--centre: 'nonsense' is no address: write HOST:PORT"),
        (["serve", "--centre", "127.0.0.1:1", "--listen", "nonsense"], 2, "--listen: write HOST:PORT (port 0"),
        (
            ["serve", "--centre", "127.0.0.1:1", "--workers", "0", "--centre-ca", "x"],
            2,
            "--centre-ca x: cannot be read",
        ),
        (["serve", "--centre", "127.0.0.1:1", "--centre-cert", "c"], 2, "--centre-cert, --centre-key: give both"),
        (["serve", "--centre", "127.0.0.1:1", "--tls-cert", "c"], 2, "--tls-cert, --tls-key: give both or neither"),
        (
            ["serve", "--centre", "127.0.0.1:1", "--listen", "0.0.0.0:0"],
            2,
            "without TLS they could read",
        ),
        (["serve", "--centre", "127.0.0.1:1", "--fresh-seconds", "1"], 2, "--fresh-seconds: must be from 3 to 3600"),
        (["status", "--target", "127.0.0.1:1"], 1, "is `edge serve` running there?"),
        (["status", "--data", "/nonexistent"], 1, "--data /nonexistent: is no directory"),
        (["sync-once", "--centre", "127.0.0.1:1"], 2, "key file"),
        (["fetch-keys", "--centre", "a.example:443", "--insecure-plaintext"], 2, "fetched only over mutual TLS"),
    ],
)
def test_each_mistake_is_one_line_with_its_remedy(arguments: list[str], code: int, says: str, tmp_path: Path) -> None:
    """Standard error says what is wrong and what to do, each line starting with `edge:`; no traceback."""
    if arguments[:1] == ["serve"]:
        arguments = [*arguments, "--data", str(tmp_path / "edge")]
    ran = run(*arguments)

    assert ran.code == code, ran
    assert says in ran.err
    assert "Traceback" not in ran.err
    assert all(line.startswith("edge: ") for line in ran.err.splitlines() if line[0] != "{")


def test_keys_are_never_fetched_in_plaintext_from_afar(tmp_path: Path) -> None:
    """Not even with --insecure-plaintext, nor over TLS without a certificate of one's own: refused with the remedy."""
    authority = Authority(tmp_path)
    for flags in (["--insecure-plaintext"], ["--centre-ca", str(authority.cert)]):
        ran = run("serve", "--centre", "10.255.255.1:443", "--data", tmp_path / "edge", *flags)
        assert ran.code == 2
        assert "checker keys export-edge" in ran.err
        assert "mutual TLS" in ran.err


def test_all_problems_at_once_from_every_source(tmp_path: Path) -> None:
    """Flags, EDGE_* variables and the file: every problem is one line with its source; all of them are said."""
    config = tmp_path / "edge.toml"
    config.write_text('wrokers = 1\nstale_hours = 0\nname = "' + "x" * 65 + '"\n')
    with pytest.raises(UsageError) as raised:
        load({"workers": "0"}, {"EDGE_CENTER": "x", "EDGE_ADVICE_CAPACITY": "many"}, config)

    assert sorted(str(raised.value).splitlines()) == sorted(
        [
            f"{config}: wrokers: is no setting; see `edge serve --help`",
            "EDGE_CENTER: is no setting; see `edge serve --help`",
            "--workers: must be from 1 to 256",
            f"{config}: stale_hours: must be from 1 to 168",
            f"{config}: name: must be at most 64 printable characters",
            "EDGE_ADVICE_CAPACITY: must be a whole number",
            "--centre: is required, such as 127.0.0.1:50051",
        ]
    )


def test_serve_lists_what_is_wrong_with_settings_and_with_the_files_they_name(tmp_path: Path) -> None:
    """One line for each fault, none for what only follows from another; exit 2, and nothing is made on the way."""
    key = tmp_path / "key.json"
    key.write_text("{", "utf-8")
    key.chmod(0o600)
    files = {"--roles": "roles.toml", "--tls-cert": "x.pem", "--tls-key": "y.pem", "--centre-ca": "ca.pem"}
    flags = [word for flag, name in files.items() for word in (flag, tmp_path / name)]
    ran = run(
        *("serve", "--workers", "0", "--centre", "nonsense", "--listen", "nonsense", "--data", "/dev/null/x"),
        *("--ready-file", "/dev/null/x"),
        *("--key-file", key, *flags),
    )

    assert ran.code == 2
    assert sorted(ran.err.splitlines()) == [
        f"edge: --centre-ca {tmp_path}/ca.pem: cannot be read: No such file or directory",
        "edge: --centre: 'nonsense' is no address: write HOST:PORT,HOST:PORT,...",
        "edge: --data /dev/null/x: cannot be written to: Not a directory",
        "edge: --listen: write HOST:PORT (port 0 = any free one) or unix:PATH",
        "edge: --ready-file /dev/null/x: cannot be made: Not a directory",
        "edge: --workers: must be from 1 to 256",
        f"edge: TLS certificate {tmp_path}/x.pem: cannot be read: No such file or directory",
        f"edge: key file {key} is not JSON: restore it from your copy; it cannot be made again",
        f"edge: roles file {tmp_path}/roles.toml: cannot be read: No such file or directory",
    ]
    assert list(tmp_path.iterdir()) == [key]


def test_settings_become_what_the_parts_want(tmp_path: Path) -> None:
    """Addresses, limits and files in the terms of those who use them."""
    settings = load(HERE | {"centre": "127.0.0.1:1, localhost:2", "data": "/x", "fresh_seconds": "30"}, {}, None)

    assert settings.centres == ["127.0.0.1:1", "localhost:2"]
    assert settings.keys == Path("/x/key.json")
    assert settings.answers.edge_limits == EdgeLimits(fresh_ms=30_000)
    assert settings.answers.limits.warn_ms == 15 * 60_000
    assert (settings.tls, settings.centre_tls) == (None, None)
    assert load(HERE, {}, None).directory == Path.home() / ".local" / "state" / "xianxiao-edge"


# --- rules


def test_rules_prints_the_table_of_the_design() -> None:
    """Cell by cell what design.md §8 says, whatever the code is called."""
    ran = run("rules")
    rows = [
        [cell for cell in line.split("  ") if cell] for line in ran.out.splitlines() if "lag" in line or "none," in line
    ]
    cells = [[cell.strip() for cell in row] for row in rows]

    assert ran.code == 0
    assert cells == [
        ["fresh (lag up to 60 s), miss", "ALLOWED", "ALLOWED"],
        ["fresh (lag up to 60 s), hit", "asked", "UNKNOWN"],
        ["stale (lag up to 24 h), miss", "asked", "ALLOWED + STALE_DATA"],
        ["stale (lag up to 24 h), hit", "asked", "UNKNOWN"],
        ["older than 24 h, or none, miss", "asked", "UNKNOWN"],
        ["older than 24 h, or none, hit", "asked", "UNKNOWN"],
    ]
    assert "which ships with this version" in ran.out
    assert "stricter with no kind" in ran.out
    assert Outcome.BARRED.name not in ran.out


def test_rules_shows_the_settings_in_force(tmp_path: Path) -> None:
    """Flag, variable and file change what is printed."""
    config = tmp_path / "edge.toml"
    config.write_text("stale_hours = 2\n")

    assert "lag up to 30 s" in run("rules", "--fresh-seconds", "30").out
    assert "lag up to 20 s" in run("rules", EDGE_FRESH_SECONDS="20").out
    assert "older than 2 h" in run("rules", "--config", config).out


def test_a_stricter_rulebook_shows(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Kinds that the rulebook wants UNKNOWN on stale data are named, with their own table."""
    from checker import rulebooks
    from edge.cli import main

    stricter = rulebooks.load(None)
    stricter.stand_in_strict = frozenset({"flight"})
    monkeypatch.setattr(rulebooks, "load", lambda _: stricter)

    assert main(["rules"]) == 0
    told = capsys.readouterr().out
    assert "stricter with flight" in told
    assert told.count(Age.STALE.value) == 4
    assert told.count("STALE_DATA") == 1


# --- a data directory and a node


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeStand]:
    made = EdgeStand(tmp_path_factory.mktemp("cli") / "centre")
    made.import_(made.feed("feed.jsonl", people.add(1, "m-listed", people.resident_id(1)), people.heartbeat(2)))
    yield made
    made.close()


@pytest.fixture(scope="module")
def centre(stand: EdgeStand) -> Checker:
    return stand.serve("--index-timeout-ms", "2000")


def test_sync_once_and_status_of_a_directory(stand: EdgeStand, centre: Checker, tmp_path: Path) -> None:
    """`sync-once` fetches the snapshot, again finds it there, and `status --data` reads what it left; a snapshot that
    was changed on disk is refused with the reason."""
    data, key = tmp_path / "edge", stand.key_for_edges()
    where = ("--centre", centre.address, "--data", data, "--key-file", key)
    until(lambda: run("sync-once", *where[:3], tmp_path / "other", *where[4:]).code == 0, 30)  # it has published
    first, again = (
        json.loads(run("sync-once", *where, "--json").out),
        json.loads(run("sync-once", *where, "--json").out),
    )

    assert (first["downloaded"], again["downloaded"]) == (True, False)
    assert first["feed_sequence"] == 2
    assert first["keys"] >= 2  # the listed one and the canary
    assert "epoch 1" in run("sync-once", *where).out
    stored: dict[str, Any] = json.loads(run("status", "--data", data, "--key-file", key, "--json").out)
    assert (stored["snapshot"]["epoch"], stored["snapshot"]["keys"]) == (first["epoch"], first["keys"])
    assert stored["alarms"] == []
    assert "in step at" in run("status", "--data", data, "--key-file", key).out

    snapshot = data / "snapshot.xxf"
    content = bytearray(snapshot.read_bytes())
    content[-1] ^= 1
    snapshot.write_bytes(content)
    told = run("status", "--data", data, "--key-file", key)
    assert told.code == 0
    assert "refused" in told.out
    assert "! snapshot" in told.out


def test_rules_are_those_of_the_centre(tmp_path: Path) -> None:
    """With a data directory the table is that of the rulebook which its centre signed, here a stricter one, and says
    so; without a snapshot, or with one that is refused, it is the shipped one, and says that."""
    strict = tmp_path / "strict.toml"
    shipped = (Path(checker.__file__).parent / "core" / "rulebook.toml").read_text("utf-8")
    assert shipped.count("stand_in_strict = []") == 1
    strict.write_text(shipped.replace("stand_in_strict = []", 'stand_in_strict = ["flight", "train"]'), "utf-8")
    data = tmp_path / "edge"
    stand = EdgeStand(tmp_path / "centre")
    try:
        stand.import_(stand.feed("beat.jsonl", people.heartbeat(1)))
        key = stand.key_for_edges()
        serving = stand.serve("--index-timeout-ms", "2000", "--rulebook", strict)
        where = ("--data", data, "--key-file", key)
        assert run("rules", *where).err.count(f"--data {data}: is no directory") == 1
        data.mkdir(mode=0o700)
        told = run("rules", *where)
        assert (told.code, "which ships with this version" in told.out, "no snapshot yet" in told.out) == (
            0,
            True,
            True,
        )
        assert "stricter with no kind" in told.out
        until(lambda: run("sync-once", "--centre", serving.address, *where).code == 0, 30)
    finally:
        stand.close()

    for told in (run("rules", *where), run("rules", EDGE_DATA=str(data), EDGE_KEY_FILE=str(key))):
        assert told.code == 0
        assert f"of the snapshot in {data}, epoch 1" in told.out
        assert "ships with this version" not in told.out
        assert "the rulebook is stricter with flight, train:" in told.out
        assert told.out.count("lag up to 24 h), miss") == 2
        assert told.out.count("STALE_DATA") == 1

    snapshot = data / "snapshot.xxf"
    snapshot.write_bytes(snapshot.read_bytes()[:-1])
    told = run("rules", *where)
    assert (told.code, "which ships with this version" in told.out, "is refused" in told.out) == (0, True, True)


def test_status_of_a_node(stand: EdgeStand, centre: Checker) -> None:
    """In words and as JSON, with every figure of the contract; EDGE_TARGET says where."""
    node = stand.edge(centre.address, "--name", "desk 4")

    def told() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(run("status", "--target", node.address, "--json").out)
        return found

    until(lambda: told()["centre"] == "reachable" and told()["epoch"], 60)
    status = told()
    assert status["name"] == "desk 4"
    assert status["canary_in_filter"]
    assert status["lag_seconds"] < 10
    assert status["checks"] == status["hits"] == 0
    assert status["hit_ratio"] is None
    words = run("status", EDGE_TARGET=node.address).out
    for part in ("desk 4", "reachable", "epoch 1", "lag", "canary", "none yet", "false positives", "advice"):
        assert part in words


def test_fetching_keys_never_replaces_a_file(stand: EdgeStand, centre: Checker, tmp_path: Path) -> None:
    """From this very machine it may be fetched in plaintext, once; a centre that is away is one line."""
    where = ("--centre", centre.address, "--key-file", tmp_path / "key.json")
    assert run("fetch-keys", *where).code == 0
    assert json.loads((tmp_path / "key.json").read_text()) == json.loads(stand.key_for_edges().read_text())
    again = run("fetch-keys", *where)
    assert (again.code, "is there already" in again.err) == (2, True)
