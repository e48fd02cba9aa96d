"""`checker build-snapshot` as an operator types it: what it prints, what it refuses, and a kill in the middle."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from checker import keys as key_files
from checker.core.changes import signed_manifest
from checker.index.base import IndexKey, Publication
from checker.index.urls import open_index
from proto.checker.v1 import filter_pb2 as pb
from tests.cli import console
from tests.lists.builders import add, remove, write


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An embedded index whose server stays up for all tests here."""
    folder = tmp_path_factory.mktemp("index")
    attached = open_index(f"embedded:{folder}")
    yield folder
    attached._on_close()  # type: ignore[attr-defined]  # it was never opened


@pytest.fixture(scope="module")
def index(store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its URL; it lists forty people, and the canary."""
    url = f"embedded:{store}"
    feed = write(tmp_path_factory.mktemp("feed") / "f", [add(number, f"M{number}", number) for number in range(1, 41)])
    assert console.run("import", feed, "--index", url).code == 0
    return url


async def latest(url: str) -> Publication | None:
    """The epoch in force."""
    key = keys_of(url).digest_key
    index = open_index(url)
    try:
        await index.open(IndexKey(key.key_id, key.check_value), create=False)
        return await index.publications.latest()
    finally:
        await index.close()


def keys_of(url: str) -> key_files.KeyFile:
    """The key file beside the index."""
    return key_files.load(Path(url.removeprefix("embedded:")) / "key.json")


def build(url: str, *more: str | Path, **environment: str) -> dict[str, Any]:
    """Publish an epoch."""
    ran = console.run("build-snapshot", "--index", url, "--json", *more, **environment)
    assert ran.code == 0, ran.err
    found: dict[str, Any] = json.loads(ran.out)
    return found


async def test_it_publishes_and_says_what(index: str) -> None:
    """The next epoch is signed, in force, and as described; `checker status` shows it."""
    before = await latest(index)
    said = build(index)
    published = await latest(index)

    assert published is not None
    manifest = pb.Manifest.FromString(published.manifest)
    assert said["epoch"] == published.epoch == (before.epoch if before else 0) + 1
    assert said["centre_id"] == published.centre_id.hex()
    assert (said["keys"], said["bytes"]) == (manifest.count, manifest.size) == (41, manifest.size)
    assert 0 <= said["error_rate_measured"] < 1e-3
    assert said["seconds"] > 0
    public = keys_of(index).signing_key.public_key()
    assert key_files.verify(public, signed_manifest(published.manifest), published.signature)

    status = json.loads(console.run("status", "--index", index, "--json").out)["snapshot"]
    assert (status["epoch"], status["keys"], status["fill"]) == (said["epoch"], 41, 0.041)
    assert 0 <= status["age_seconds"] < 600
    shown = console.run("status", "--index", index).out
    assert f"epoch {said['epoch']}, 41 keys" in shown


def test_for_people_it_is_a_few_lines(index: str) -> None:
    """Epoch, centre, keys, size, error rate, seconds."""
    ran = console.run("build-snapshot", "--index", index)
    assert ran.code == 0
    assert [line.split()[0] for line in ran.out.splitlines()] == [
        *("epoch", "centre", "keys", "size", "error", "rulebook", "seconds")
    ]


async def test_a_new_centre_id_goes_on_counting(index: str) -> None:
    """After a restore: another centre, the next epoch."""
    first = build(index)
    second = build(index, "--new-centre-id")
    assert second["epoch"] == first["epoch"] + 1
    assert second["centre_id"] != first["centre_id"]
    assert build(index)["centre_id"] == second["centre_id"]


def test_a_rulebook_of_ones_own_goes_with_it(index: str, tmp_path: Path) -> None:
    """As for `checker serve`: by flag or by variable."""
    source = (Path(__file__).parents[2] / "checker" / "core" / "rulebook.toml").read_text("utf-8")
    mine = tmp_path / "mine.toml"
    mine.write_text(source.replace('version = "', 'version = "mine-', 1), "utf-8")
    assert build(index, "--rulebook", mine)["rulebook"].startswith("mine-")
    assert build(index, CHECKER_RULEBOOK=str(mine))["rulebook"].startswith("mine-")
    assert not build(index)["rulebook"].startswith("mine-")


async def test_a_drop_is_refused_with_the_remedy(store: Path, tmp_path: Path) -> None:
    """Over 5 % fewer keys: exit 1 and the flag's name, nothing published; with the flag it is."""
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    url = f"embedded:{other}"
    attached = open_index(url)
    try:
        lines = [add(number, f"M{number}", number) for number in range(1, 41)]
        assert console.run("import", write(tmp_path / "1", lines), "--index", url).code == 0
        first = build(url)
        lifts = [remove(40 + number, f"M{number}") for number in range(1, 4)]
        assert console.run("import", write(tmp_path / "2", lifts), "--index", url).code == 0
        refused = console.run("build-snapshot", "--index", url)
        assert refused.code == 1
        assert refused.out == ""
        assert "38 keys" in refused.err
        assert "--allow-drop" in refused.err
        assert len(refused.err.splitlines()) == 1
        published = await latest(url)
        assert published is not None
        assert published.epoch == first["epoch"]
        assert build(url, "--allow-drop")["keys"] == 38
    finally:
        attached._on_close()  # type: ignore[attr-defined]  # it was never opened


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "--index: is required"),
        (["--index", "memory:"], 2, "lives inside `checker serve` only"),
        (["--index", "embedded:./nowhere"], 2, "there is no index yet"),
        (["--index", "redis://127.0.0.1:1", "--key-file", "nowhere.json"], 2, "nowhere.json does not exist"),
        (["--index", "embedded:INDEX", "--filter-error-rate", "2"], 2, "--filter-error-rate: must be from"),
        (["--index", "embedded:INDEX", "--rulebook", "nowhere.toml"], 2, "rulebook nowhere.toml"),
        (["--index", "embedded:INDEX", "--drop"], 2, "--drop"),
    ],
)
def test_what_cannot_be_is_one_line(index: str, words: list[str], code: int, said: str) -> None:
    """A wrong flag, file or URL: its name, the remedy, exit 2, no traceback."""
    ran = console.run("build-snapshot", *(word.replace("embedded:INDEX", index) for word in words))
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.err
    assert len(ran.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("point", "published"),
    [("publications.chunks-written:1", 0), ("publications.chunks-synced:1", 0), ("publications.pointed:1", 1)],
)
async def test_a_kill_in_the_middle_leaves_an_epoch_that_is_whole(index: str, point: str, published: int) -> None:
    """kill -9 before the pointer leaves the old epoch in force, behind it the new one; the next attempt goes on."""
    before = await latest(index)
    epoch = before.epoch if before else 0
    assert console.run("build-snapshot", "--index", index, CHECKER_FAULT_POINT=point).code == -9

    after = await latest(index)
    assert (after.epoch if after else 0) == epoch + published
    assert build(index)["epoch"] == epoch + published + 1
