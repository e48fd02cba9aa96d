"""The edge's data directory: a snapshot that is used only when it is the centre's, whole, and not older than the last.

    snapshot.xxf         the filter (`core.container`), mapped read-only; all processes of the directory share its pages
    rulebook-HEX.toml    the rulebook the snapshot names, by the first 8 bytes of its SHA-256
    manifest.bin         GetManifestResponse without rulebook: of the download in progress, else of the last one
    snapshot.part        a download in progress
    additions.log        what the stream brought since the snapshot (`edge.journal`)
    edge.json            the edge's id, made once
    writer.lock          held by the one process that writes; the kernel drops it at that process's death

Whatever is read is verified first: the container's hash and the centre's signature over it, the digest key by id and
check value, the rulebook by the hash in the signed header. What is refused stays where it is, `refused` says why, and
the next good download replaces it. A snapshot is put in place in one rename, after its rulebook, so that at every
moment the directory holds a whole state: the old one or the new one. A log fits either (`edge.journal`).
"""

import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
from google.protobuf.message import DecodeError

from checker.core import container
from checker.core.changes import Heartbeat, Position, signed_manifest
from checker.core.filter import DERIVATION, DigestFilter
from checker.core.freshness import AsOf
from checker.core.key import DigestKey
from checker.core.rules import Rulebook, RulebookError, parse
from checker.errors import CheckerError, UsageError
from checker.faults import point
from checker.keys import EdgeKeys
from edge.journal import Log, Page
from proto.checker.v1 import filter_pb2 as pb

SNAPSHOT = "snapshot.xxf"
PART = "snapshot.part"
MANIFEST = "manifest.bin"
LOG = "additions.log"
IDENTITY = "edge.json"
LOCK = "writer.lock"


class Refused(CheckerError):
    """Something that came from the centre or the disk must not be used; what is in use stays.

    `about`: manifest, key, epoch, download or snapshot.
    """

    status = grpc.StatusCode.DATA_LOSS

    def __init__(self, about: str, text: str) -> None:
        super().__init__(text)
        self.about = about


class Unwritable(CheckerError):
    """The data directory cannot be written, for lack of room most often; what is in use stays."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED


class Snapshot(NamedTuple):
    """A verified snapshot. `rulebook` None: its text is the centre's, but this version cannot read it."""

    header: container.Header
    base: DigestFilter
    key: DigestKey
    rulebook: Rulebook | None

    @property
    def position(self) -> Position:
        """Every addition up to here is in it."""
        return Position(self.header.journal_id, self.header.journal_position)


class Loaded(NamedTuple):
    """A snapshot and what the log adds to it. `beat`: the last heartbeat for the position that had been reached."""

    snapshot: Snapshot
    position: Position
    pages: list[Page]
    beat: Heartbeat | None

    @property
    def as_of(self) -> AsOf:
        """How far the feed was known here."""
        return as_of(self.snapshot.header, self.beat)

    @property
    def synced_ms(self) -> int:
        """The centre's clock when this was all that it had acknowledged."""
        return self.snapshot.header.built_ms if self.beat is None else self.beat.sent_ms - self.beat.silence_ms


def as_of(header: container.Header, beat: Heartbeat | None) -> AsOf:
    """How far the feed is known with a snapshot, and a heartbeat for a later position."""
    of_snapshot = AsOf(header.feed_sequence, header.feed_time_ms, 0, header.epoch)
    if beat is None or beat.as_of.feed_sequence < header.feed_sequence:
        return of_snapshot
    return beat.as_of._replace(snapshot_epoch=header.epoch)


class Offer(NamedTuple):
    """A manifest that the centre signed and this edge can use, with its rulebook ("" in a download resumed)."""

    manifest: pb.Manifest
    response: pb.GetManifestResponse


class Download:
    """`snapshot.part` of one manifest, written from `offset` on. Opened for each piece: none is ever left open."""

    def __init__(self, path: Path, manifest: pb.Manifest, offset: int = 0) -> None:
        self.path = path
        self.manifest = manifest
        self.offset = offset

    def write(self, data: bytes) -> None:
        """The bytes at `offset`. Raises Unwritable."""
        with _writing(self.path.parent), self.path.open("ab", buffering=0) as file:
            left = memoryview(data)
            while left:
                written = file.write(left)
                left = left[written:]
                self.offset += written
        point("edge.download.chunk")


class SnapshotStore:
    """See the module. Raises UsageError for a directory that cannot be used. Used by one thread at a time."""

    def __init__(self, directory: Path, keys: EdgeKeys) -> None:
        self.directory = directory
        self.refused = ""
        """Why the snapshot that lies there is not used, a sentence; "": it is, or there is none."""
        self.log = Log(directory / LOG)
        self._keys = keys
        self._path = directory / SNAPSHOT
        self._stamp = (0, 0)
        self._lock: int | None = None
        self._last_rulebook: Rulebook | None = None
        try:
            _make_private(directory)
            self.edge_id = _identity(directory / IDENTITY)
        except OSError as error:
            raise UsageError(
                f"data directory {directory}: {error.strerror}: name one that this user can write"
            ) from None

    # Who writes

    def lead(self) -> bool:
        """Whether this process is the one that writes, becoming it if nobody is. Raises Unwritable."""
        if self._lock is None:
            with _writing(self.directory):
                handle = os.open(self.directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(handle)
                    return False
                self._lock = handle
        return True

    def close(self) -> None:
        """Let another process write."""
        self.log.close()
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    # What is there

    def load(self) -> Loaded | None:
        """What the directory holds, verified wholly; None: nothing, or nothing that may be used (`refused`)."""
        snapshot = self.snapshot()
        if snapshot is None:
            return None
        replayed = self.log.replay(snapshot.header.centre_id, snapshot.position, snapshot.key)
        return Loaded(snapshot, *replayed)

    def snapshot(self) -> Snapshot | None:
        """The same without the log."""
        self._stamp = _stamp(self._path)
        self.refused = ""
        try:
            return self._read(self._path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self.refused = f"snapshot {self._path}: {error.strerror}"
        except Refused as error:
            self.refused = str(error)
        return None

    def changed(self) -> bool:
        """Whether another snapshot lies there than the one last read or put there by this process."""
        return _stamp(self._path) != self._stamp

    def _read(self, path: Path) -> Snapshot:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size  # of the file just opened: another may lie there by now
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        try:
            header, base = container.load(memoryview(mapped), self._keys.signed_by_centre)
        except container.BadContainer as error:
            raise Refused("snapshot", f"snapshot {path} is refused, {error}") from None
        key = self._key(header.key_id, header.key_check, f"snapshot {path}")
        text_path = self._rulebook_path(header.rulebook_sha256)
        try:
            text = text_path.read_bytes()
        except FileNotFoundError:
            raise Refused("snapshot", f"snapshot {path} is refused, its rulebook {text_path.name} is missing") from None
        if hashlib.sha256(text).digest() != header.rulebook_sha256:
            raise Refused("snapshot", f"snapshot {path} is refused, its rulebook {text_path.name} was changed")
        return Snapshot(header, base, key, self._rulebook(header.rulebook_sha256, text))

    def _rulebook(self, sha256: bytes, text: bytes) -> Rulebook | None:
        # Most epochs name the rulebook of the last one. Kept, it keeps what it remembers of purchases; and reading one
        # is milliseconds of Python, which checks on the event loop would wait for.
        if self._last_rulebook is None or self._last_rulebook.sha256 != sha256:
            try:
                self._last_rulebook = parse(text)
            except RulebookError:
                return None
        return self._last_rulebook

    def _key(self, key_id: str, check: bytes, what: str) -> DigestKey:
        key = self._keys.digest_keys.get(key_id)
        remedy = "fetch a new key file from the centre (`checker keys export-edge`)"
        if key is None:
            raise Refused("key", f"{what} was made with the digest key {key_id!r}, which the key file lacks: {remedy}")
        if key.check_value != check:
            raise Refused("key", f"{what} was made with another digest key of the id {key_id!r}: {remedy}")
        return key

    def _rulebook_path(self, sha256: bytes) -> Path:
        return self.directory / f"rulebook-{sha256.hex()[:16]}.toml"

    # What comes

    def offer(self, response: pb.GetManifestResponse) -> Offer:
        """A manifest, once it is known to be the centre's and of use here. Raises Refused."""
        manifest = self._manifest(response)
        if hashlib.sha256(response.rulebook).digest() != manifest.rulebook_sha256:
            raise Refused("manifest", "the centre's manifest came with another rulebook than it names")
        return Offer(manifest, response)

    def _manifest(self, response: pb.GetManifestResponse) -> pb.Manifest:
        if not self._keys.signed_by_centre(signed_manifest(response.manifest), response.signature):
            raise Refused(
                "manifest",
                "the manifest was not signed by the centre of the key file: somebody stands between, or the centre has "
                "a new signing key and this edge needs a new key file (`checker keys export-edge`)",
            )
        try:
            manifest = pb.Manifest.FromString(response.manifest)
        except DecodeError:
            raise Refused("manifest", "the centre's manifest cannot be read") from None
        self._key(manifest.key_id, manifest.key_check, "the newest snapshot")
        if manifest.derivation != DERIVATION:
            raise Refused(
                "manifest",
                f"the newest snapshot derives positions by {manifest.derivation!r}, this version by {DERIVATION!r}: "
                "upgrade this edge",
            )
        return manifest

    def resume(self) -> Download | None:
        """The download that was broken off, if something of it is there and still known to be the centre's."""
        try:
            response = pb.GetManifestResponse.FromString((self.directory / MANIFEST).read_bytes())
            manifest = self._manifest(response)
            size = (self.directory / PART).stat().st_size
            if 0 < size <= manifest.size and self._rulebook_path(manifest.rulebook_sha256).exists():
                return Download(self.directory / PART, manifest, size)
        except (OSError, DecodeError, Refused):
            pass  # then there is nothing to resume
        return None

    def begin(self, offer: Offer, in_use: container.Header | None) -> Download:
        """Begin a download; drops rulebooks that neither it nor the snapshot in use names. Raises Unwritable."""
        manifest = offer.manifest
        part = self.directory / PART
        with _writing(self.directory):
            part.unlink(missing_ok=True)  # first: it must not be taken for one of this manifest
            rulebook = self._rulebook_path(manifest.rulebook_sha256)
            _put(rulebook, offer.response.rulebook)
            point("edge.begin.rulebook")
            kept = pb.GetManifestResponse(manifest=offer.response.manifest, signature=offer.response.signature)
            _put(self.directory / MANIFEST, kept.SerializeToString())
            point("edge.begin.manifest")
            wanted = {rulebook} if in_use is None else {rulebook, self._rulebook_path(in_use.rulebook_sha256)}
            for path in set(self.directory.glob("rulebook-*.toml")) - wanted:
                path.unlink()
            _sync(self.directory)
            return Download(part, manifest)

    def discard(self, download: Download) -> None:
        """Forget a download."""
        with contextlib.suppress(OSError):
            download.path.unlink(missing_ok=True)

    def install(self, download: Download, in_use: container.Header | None) -> Snapshot:
        """Put a whole download in place, once verified; a wrong one is deleted. Raises Refused or Unwritable."""
        try:
            snapshot = self._verified(download)
            not_older(snapshot.header.centre_id, snapshot.header.epoch, in_use)
        except Refused:
            self.discard(download)
            raise
        point("edge.install.verified")
        with _writing(self.directory):
            _sync(download.path)
            point("edge.install.synced")
            os.rename(download.path, self._path)
            self._stamp = _stamp(self._path)
            self.refused = ""
            point("edge.install.renamed")
            _sync(self.directory)
            point("edge.install.done")
        return snapshot

    def _verified(self, download: Download) -> Snapshot:
        manifest = download.manifest
        try:
            with download.path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").digest()
            if download.offset != manifest.size or sha256 != manifest.sha256:
                raise Refused("download", "the snapshot that arrived is not the one the manifest names; it was deleted")
            snapshot = self._read(download.path)
        except OSError as error:
            raise Refused("download", f"{download.path} cannot be read again: {error.strerror}") from None
        header = snapshot.header
        pairs = (
            (header.centre_id, manifest.centre_id),
            (header.epoch, manifest.epoch),
            (header.journal_id, manifest.position.journal_id),
            (header.journal_position, manifest.position.entry),
            (header.built_ms, manifest.build_time.ToMilliseconds()),
            (header.rulebook_sha256, manifest.rulebook_sha256),
            (header.key_id, manifest.key_id),
        )
        if any(found != named for found, named in pairs):
            raise Refused("download", "the snapshot is another than its manifest says; it was deleted")
        return snapshot


def not_older(centre_id: bytes, epoch: int, in_use: container.Header | None) -> None:
    """An edge never goes back to an older epoch of its centre. Raises Refused."""
    if in_use is not None and centre_id == in_use.centre_id and epoch < in_use.epoch:
        raise Refused(
            "epoch",
            f"epoch {epoch} is older than {in_use.epoch}, which is in use: if the centre was restored from a backup, "
            "its operator must give it a new identity (`checker build-snapshot --new-centre-id`)",
        )


@contextlib.contextmanager
def _writing(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unwritable(
            f"data directory {directory} cannot be written: {error.strerror}: free space or correct its owner; "
            "what is in use stays"
        ) from None


def _make_private(directory: Path) -> None:
    """Disk and key of an edge disclose most of the list: others have no business here. Raises OSError, UsageError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if stat.S_IMODE(directory.stat().st_mode) & 0o077:
        if any(directory.iterdir()):
            raise UsageError(f"data directory {directory} is open to others: `chmod 700 {directory}`")
        directory.chmod(0o700)


def _identity(path: Path) -> str:
    for _ in range(2):
        try:
            edge_id = json.loads(path.read_bytes())["edge_id"]
            if isinstance(edge_id, str) and edge_id:
                return edge_id
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError):
            path.unlink(missing_ok=True)  # it says nothing but a random number
        content = json.dumps({"edge_id": secrets.token_hex(8)}).encode()
        handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):  # another process made it at the same moment
                os.link(aside, path)
        finally:
            Path(aside).unlink(missing_ok=True)
    edge_id = json.loads(path.read_bytes())["edge_id"]
    return str(edge_id)


def _put(path: Path, content: bytes) -> None:
    """Write a file whole or not at all. Raises OSError."""
    aside = path.with_name(f".{path.name}.new")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.rename(aside, path)


def _sync(path: Path) -> None:
    """Make a file's content, or a folder's names, durable. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _stamp(path: Path) -> tuple[int, int]:
    """Inode and modification time: which file lies there. (0, 0): none, or it cannot be looked at."""
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_ino, status.st_mtime_ns)
