"""Claims about an edge's disk: what lies there is used only when it is the centre's, whole, and not older."""

import hashlib
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from checker import keys as key_files
from checker.core.changes import Heartbeat, Position
from checker.core.freshness import AsOf
from checker.core.key import Algorithm
from checker.errors import UsageError
from checker.keys import EdgeKeys
from edge import journal
from edge.snapshot_store import Loaded, Refused, SnapshotStore, Unwritable
from proto.checker.v1 import filter_pb2 as pb
from tests.builders import NOW, rulebook
from tests.edge.scripted import KEYS, a_key, a_snapshot, additions, edge_keys, heartbeat

LISTED = list(map(a_key, range(50)))
CENTRE = b"c" * 16


def place(entry: int) -> Position:
    """A place in the journal."""
    return Position(b"journal1", entry)


def a_beat(entry: int, sent_ms: int = NOW + 5_000) -> bytes:
    """A heartbeat for this entry."""
    beat = Heartbeat(place(entry), AsOf(100 + entry, NOW, 0, 1), sent_ms, 500, CENTRE, rulebook().sha256, False)
    return heartbeat(beat).SerializeToString()


def a_page(base: int, *numbers: int) -> bytes:
    """Additions after this entry."""
    return additions(place(base), place(base + len(numbers)), list(map(a_key, numbers))).SerializeToString()


def take(store: SnapshotStore, raw: bytes, response: pb.GetManifestResponse) -> None:
    """Everything that a download does."""
    loaded = store.load()
    in_use = loaded.snapshot.header if loaded else None
    download = store.begin(store.offer(response), in_use)
    download.write(raw)
    store.install(download, in_use)


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    """A directory with one snapshot of fifty keys, epoch 5 at entry 10."""
    made = SnapshotStore(tmp_path / "edge", edge_keys())
    take(made, *a_snapshot(LISTED, epoch=5, position=place(10), feed_sequence=110))
    return made


def again(store: SnapshotStore, keys: EdgeKeys | None = None) -> tuple[Loaded | None, str]:
    """What another process finds there, and what it complains of."""
    other = SnapshotStore(store.directory, keys or edge_keys())
    return other.load(), other.refused


# The directory


def test_the_directory_is_private_and_the_id_is_made_once(tmp_path: Path) -> None:
    """Made with mode 700; every process finds the same random id; a damaged one is made anew."""
    path = tmp_path / "a" / "edge"
    first = SnapshotStore(path, edge_keys())
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert len(first.edge_id) == 16
    assert SnapshotStore(path, edge_keys()).edge_id == first.edge_id
    assert SnapshotStore(tmp_path / "b", edge_keys()).edge_id != first.edge_id
    (path / "edge.json").write_text("{", "utf-8")
    assert SnapshotStore(path, edge_keys()).edge_id != first.edge_id
    assert {file.name for file in path.iterdir()} == {"edge.json"}


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """A file in its place, or a directory open to others: each with its remedy. An empty one is closed to others."""
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="name one that this user can write"):
        SnapshotStore(tmp_path / "file", edge_keys())
    with pytest.raises(UsageError, match="name one that this user can write"):
        SnapshotStore(tmp_path / "file" / "below", edge_keys())
    (tmp_path / "open").mkdir(mode=0o755)
    SnapshotStore(tmp_path / "open", edge_keys())
    (tmp_path / "open").chmod(0o755)
    with pytest.raises(UsageError, match="chmod 700"):
        SnapshotStore(tmp_path / "open", edge_keys())


def test_one_process_writes_and_its_death_makes_room(tmp_path: Path) -> None:
    """A second one is refused while the first lives, and admitted once the kernel has buried it."""
    store = SnapshotStore(tmp_path / "edge", edge_keys())
    code = (
        "import fcntl, os, sys, time; handle = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); "
        "fcntl.flock(handle, fcntl.LOCK_EX); print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(store.directory / "writer.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert not store.lead()
        holder.kill()
        holder.wait()
        assert store.lead()
        assert store.lead()
    assert not SnapshotStore(store.directory, edge_keys()).lead()
    store.close()
    assert SnapshotStore(store.directory, edge_keys()).lead()


# What is loaded


def test_a_whole_state_is_loaded_as_it_was_left(store: SnapshotStore) -> None:
    """Header, filter, rulebook, key, keys added, position, feed and the centre's time of the last heartbeat."""
    store.log.begin(CENTRE, [journal.Page(10, a_page(10, 60, 61))], a_beat(12))
    store.log.append(a_page(12, 62))
    store.log.append(a_beat(13))
    loaded, refused = again(store)
    assert loaded is not None
    assert refused == ""
    snapshot = loaded.snapshot
    assert all(key in snapshot.base for key in LISTED)
    assert a_key(60) not in snapshot.base
    assert snapshot.rulebook is not None
    assert snapshot.rulebook.sha256 == rulebook().sha256
    assert snapshot.key.check_value == KEYS.digest_key.check_value
    assert list(journal.keys_of(loaded.pages)) == [a_key(60), a_key(61), a_key(62)]
    assert loaded.position == place(13)
    assert loaded.as_of == AsOf(113, NOW, 0, 5)
    assert loaded.synced_ms == NOW + 4_500


def test_a_snapshot_without_a_log_is_as_old_as_its_making(store: SnapshotStore) -> None:
    """No heartbeat: the snapshot's own position, feed and time."""
    loaded, _ = again(store)
    assert loaded is not None
    assert (loaded.position, loaded.as_of, loaded.synced_ms) == (place(10), AsOf(110, NOW, 0, 5), NOW)


def test_every_byte_of_a_snapshot_counts(store: SnapshotStore) -> None:
    """One bit changed in any region, a piece cut off at any place, or added: refused, with the reason."""
    path = store.directory / "snapshot.xxf"
    raw = path.read_bytes()
    for at in [*range(0, 700, 7), *range(700, len(raw), 97), len(raw) - 1]:
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1 << at % 8]) + raw[at + 1 :])
        loaded, refused = again(store)
        assert loaded is None, at
        assert "refused" in refused
    for length in [*range(0, 700, 31), len(raw) // 2, len(raw) - 1]:
        path.write_bytes(raw[:length])
        loaded, refused = again(store)
        assert loaded is None, length
        assert "truncated" in refused
    path.write_bytes(raw + b"\0")
    assert "length" in again(store)[1]
    path.write_bytes(raw)
    assert again(store)[0] is not None


def test_another_signer_or_digest_key_is_refused(store: SnapshotStore) -> None:
    """A forger's signature, an unsigned file, a key id that the key file lacks, another secret under the same id."""
    keys = edge_keys()
    forger = EdgeKeys(keys.active, keys.digest_keys, Ed25519PrivateKey.generate().public_key())
    assert "signature" in again(store, forger)[1]
    other = key_files.new(Algorithm.BLAKE2B_128, "test-other")
    assert "lacks" in again(store, EdgeKeys("test-other", other.digest_keys, keys.centre_key))[1]
    same_id = key_files.new(Algorithm.BLAKE2B_128, keys.active)
    assert "another digest key" in again(store, EdgeKeys(keys.active, same_id.digest_keys, keys.centre_key))[1]
    (store.directory / "snapshot.xxf").write_bytes(a_snapshot(LISTED, signed=False)[0])
    assert "unsigned" in again(store)[1]


def test_the_rulebook_is_the_one_that_was_signed(store: SnapshotStore) -> None:
    """Missing or changed: refused. One that is right but of a later format: the snapshot is used, without rules."""
    (path,) = store.directory.glob("rulebook-*.toml")
    text = path.read_bytes()
    path.write_bytes(text + b" ")
    assert "was changed" in again(store)[1]
    path.unlink()
    assert "is missing" in again(store)[1]
    path.write_bytes(text)
    assert again(store)[0] is not None
    take(store, *a_snapshot(LISTED, epoch=6, position=place(10), book=b"format = 99\n"))
    loaded, refused = again(store)
    assert refused == ""
    assert loaded is not None
    assert loaded.snapshot.rulebook is None


# The log


def test_a_torn_or_changed_log_is_good_up_to_there(store: SnapshotStore) -> None:
    """Cut or changed at any byte: what stands before it is used, nothing after, and never an error."""
    store.log.begin(CENTRE, [], a_beat(10, NOW + 1_000))
    whole = [len((store.directory / "additions.log").read_bytes())]
    for entry in range(10, 15):
        store.log.append(a_page(entry, 100 + entry))
        whole.append(len((store.directory / "additions.log").read_bytes()))
    path = store.directory / "additions.log"
    raw = path.read_bytes()
    for at in range(0, len(raw), 3):
        frames = sum(end <= at for end in whole)
        for content in (raw[:at], raw[:at] + bytes([raw[at] ^ 0x10]) + raw[at + 1 :]):
            path.write_bytes(content)
            loaded, _ = again(store)
            assert loaded is not None
            assert loaded.position == place(10 + max(0, frames - 1))
            assert len(loaded.pages) == max(0, frames - 1)
            assert (loaded.beat is not None) == (frames > 0)


def test_a_log_of_another_place_adds_nothing(store: SnapshotStore) -> None:
    """Another centre's, another journal's, one with a gap, or messages under another seal."""
    path = store.directory / "additions.log"

    def position(centre_id: bytes, *messages: bytes) -> Position:
        store.log.begin(centre_id, [], messages[0])
        for message in messages[1:]:
            store.log.append(message)
        loaded, _ = again(store)
        assert loaded is not None
        return loaded.position

    assert position(CENTRE, a_page(10, 60)) == place(11)
    assert position(b"d" * 16, a_page(10, 60)) == place(10)
    elsewhere = additions(Position(b"journal2", 10), Position(b"journal2", 11), [a_key(60)]).SerializeToString()
    assert position(CENTRE, elsewhere) == place(10)
    assert position(CENTRE, a_page(10, 60), a_page(12, 62)) == place(11)
    unsealed = pb.WatchChangesResponse.FromString(a_page(10, 60))
    unsealed.additions.keys[0] = a_key(61)
    assert position(CENTRE, unsealed.SerializeToString()) == place(10)
    path.write_bytes(b"")
    assert again(store)[0] is not None
    path.unlink()
    path.mkdir()
    assert again(store)[0] is not None


@pytest.mark.parametrize("entry", range(10, 16))
def test_a_log_fits_older_and_newer_snapshots(store: SnapshotStore, entry: int) -> None:
    """A crash between a snapshot and its log: the old log leads the new snapshot to the same place, no key lost."""
    log = [a_page(10, 60, 61), a_page(12, 62), a_page(13, 63, 64, 65)]
    store.log.begin(CENTRE, [journal.Page(10, log[0])], a_beat(12))
    store.log.append(log[1])
    store.log.append(log[2])
    store.log.append(a_beat(16))
    take(store, *a_snapshot([*LISTED, *map(a_key, range(60, 50 + entry))], epoch=6, position=place(entry)))
    loaded, _ = again(store)
    assert loaded is not None
    assert loaded.position == place(16)
    assert loaded.beat is not None
    held = set(journal.keys_of(loaded.pages))
    assert all(key in loaded.snapshot.base or key in held for key in map(a_key, range(60, 66)))
    assert loaded.as_of == AsOf(116, NOW, 0, 6)


def test_pages_are_kept_whole_where_a_snapshot_ends_inside_them() -> None:
    """Pages that share a base are parts of one step: a snapshot that ends inside the step needs them all."""
    pages = [journal.Page(base, bytes([number])) for number, base in enumerate((10, 12, 12, 12, 20, 30))]

    def kept(entry: int) -> list[int]:
        return [page.raw[0] for page in journal.pages_after(pages, entry)]

    assert kept(5) == kept(11) == [0, 1, 2, 3, 4, 5]
    assert kept(12) == kept(19) == [1, 2, 3, 4, 5]
    assert kept(20) == [4, 5]
    assert kept(99) == [5]
    assert journal.pages_after([], 7) == []


# Downloads


def test_a_download_is_resumed_only_as_what_it_was(store: SnapshotStore) -> None:
    """Its bytes so far, by its signed manifest; not with a manifest that was changed, nor with too many bytes."""
    raw, response = a_snapshot(LISTED, epoch=6)
    download = store.begin(store.offer(response), None)
    assert store.resume() is None  # nothing of it is there yet
    download.write(raw[:1000])
    resumed = SnapshotStore(store.directory, edge_keys()).resume()
    assert resumed is not None
    assert (resumed.manifest.epoch, resumed.offset) == (6, 1000)
    resumed.write(raw[1000:])
    assert store.install(resumed, None).header.epoch == 6
    assert store.resume() is None
    download = store.begin(store.offer(response), None)
    download.write(raw + b"more")
    assert store.resume() is None
    (store.directory / "snapshot.part").write_bytes(raw[:1000])
    assert store.resume() is not None
    manifest = store.directory / "manifest.bin"
    signed = manifest.read_bytes()
    manifest.write_bytes(signed[:-1] + bytes([signed[-1] ^ 1]))
    assert store.resume() is None


def test_what_is_not_what_was_promised_is_deleted(store: SnapshotStore) -> None:
    """Too short, changed, or another signed snapshot than the manifest's: refused, deleted, and the old one stays.

    One that begins elsewhere in the journal would never be taken for the manifest's, and be fetched over and over."""
    raw, response = a_snapshot(LISTED, epoch=6)
    other, _ = a_snapshot(LISTED, epoch=7)
    lying = a_snapshot(LISTED, epoch=6, size=len(other), sha256=hashlib.sha256(other).digest())[1]
    ours: dict[str, Any] = {"size": len(raw), "sha256": hashlib.sha256(raw).digest()}
    elsewhere = a_snapshot(LISTED, epoch=6, position=place(77), **ours)[1]
    for content, promise in (
        (raw[:-1], response),
        (raw[:-1] + b"\x80", response),
        (other, lying),
        (raw, elsewhere),
    ):
        download = store.begin(store.offer(promise), None)
        download.write(content)
        with pytest.raises(Refused, match="deleted") as refused:
            store.install(download, None)
        assert refused.value.about == "download"
        assert not (store.directory / "snapshot.part").exists()
        loaded, _ = again(store)
        assert loaded is not None
        assert loaded.snapshot.header.epoch == 5


def test_an_older_epoch_is_refused_and_another_centre_is_not(store: SnapshotStore) -> None:
    """Of the same centre never back; of another centre any epoch."""
    with pytest.raises(Refused, match="older than 5"):
        take(store, *a_snapshot(LISTED, epoch=4))
    take(store, *a_snapshot(LISTED, epoch=5))
    take(store, *a_snapshot(LISTED, epoch=1, centre_id=b"d" * 16))
    loaded, _ = again(store)
    assert loaded is not None
    assert loaded.snapshot.header.centre_id == b"d" * 16


def test_rulebooks_that_nothing_names_are_removed_later(store: SnapshotStore) -> None:
    """The present one and the one to come stay, whatever came before goes with the next download."""
    for epoch in range(6, 9):
        take(store, *a_snapshot(LISTED, epoch=epoch, book=rulebook().source + b"#" * epoch))
        assert again(store)[0] is not None
    assert len(list(store.directory.glob("rulebook-*.toml"))) == 2


def test_a_rulebook_is_read_once_for_all_epochs_that_name_it(store: SnapshotStore) -> None:
    """The next epoch comes with the very rulebook in use, not with another of the same text; a new text is read."""
    source = rulebook().source
    books = []
    for epoch, text in enumerate((source, source, source + b"#", source), 6):
        take(store, *a_snapshot(LISTED, epoch=epoch, book=text))
        snapshot = store.snapshot()
        assert snapshot is not None
        assert snapshot.rulebook is not None
        assert snapshot.rulebook.source == text
        books.append(snapshot.rulebook)
    assert books[0] is books[1]


def test_a_disk_that_cannot_be_written_is_named_and_harms_nothing(store: SnapshotStore) -> None:
    """A directory stands where the download must go, as good as a full disk: a sentence with the remedy."""
    (store.directory / "snapshot.part").mkdir()
    with pytest.raises(Unwritable, match="free space"):
        store.begin(store.offer(a_snapshot(LISTED, epoch=6)[1]), None)
    assert again(store)[0] is not None


def test_a_new_snapshot_is_noticed_by_the_others(store: SnapshotStore) -> None:
    """Whoever put it there or has read it sees no change; everyone else does."""
    other = SnapshotStore(store.directory, edge_keys())
    assert other.changed()
    other.load()
    assert not other.changed()
    take(store, *a_snapshot(LISTED, epoch=6))
    assert other.changed()
    assert not store.changed()


# Kills

POINTS = [
    *("edge.begin.rulebook:1", "edge.begin.manifest:1", "edge.download.chunk:1", "edge.download.chunk:2"),
    *("edge.install.verified:1", "edge.install.synced:1", "edge.install.renamed:1", "edge.install.done:1"),
    *("edge.log.written:1", "edge.log.begun:1", "edge.log.appended:1", "edge.log.appended:2"),
]


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_any_step_leaves_a_whole_state(point: str, tmp_path: Path) -> None:
    """What starts afterwards finds the old state or the new one, every key the old one had, and can do it all again."""
    key_file = tmp_path / "key.json"
    key_files.export_edge(key_file, KEYS)
    keys = key_files.load_edge(key_file)
    store = SnapshotStore(tmp_path / "edge", keys)
    take(store, *a_snapshot(LISTED, epoch=5, position=place(10)))
    store.log.begin(CENTRE, [journal.Page(10, a_page(10, 60, 61))], a_beat(12))
    store.close()
    raw, response = a_snapshot(
        [*LISTED, a_key(60), *map(a_key, range(1000, 60_000))],
        epoch=6,
        position=place(11),
        book=rulebook().source + b"#",
    )
    (tmp_path / "snapshot").write_bytes(raw)
    (tmp_path / "manifest").write_bytes(response.SerializeToString())
    messages = [a_beat(12), a_page(12, 62), a_beat(13)]
    (tmp_path / "messages").write_bytes(b"\0\0\0\0\0\0\0\0split".join(messages))
    command = [sys.executable, "-m", "tests.edge.store_process", str(store.directory)]
    command += [str(tmp_path / name) for name in ("snapshot", "manifest", "messages", "key.json")]
    environment = dict(os.environ)
    killed = subprocess.run(command, env={**environment, "CHECKER_FAULT_POINT": point}, check=False, timeout=30)
    assert killed.returncode == -signal.SIGKILL

    def check() -> int:
        found = SnapshotStore(store.directory, keys)
        loaded = found.load()
        assert loaded is not None, found.refused
        assert loaded.position >= place(12)
        assert loaded.beat is not None
        held = set(journal.keys_of(loaded.pages))
        assert all(key in loaded.snapshot.base or key in held for key in [*LISTED, a_key(60), a_key(61)])
        assert loaded.snapshot.rulebook is not None
        assert found.lead()
        found.close()
        return loaded.snapshot.header.epoch

    check()
    subprocess.run(command, env=environment, check=True, timeout=30)
    assert check() == 6
