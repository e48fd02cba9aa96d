"""The key file: digest keys, the signing key, the evidence key and the courts' public keys. A custody item.

One JSON file, mode 600, written aside, fsynced and renamed. Whoever holds a digest key and an index or an edge's disk
can enumerate document numbers and so read most of the list (docs/architecture.md, "Keys"): guard it like the list.

    {"format": 1, "active": "k20261123", "digest_keys": [{"id", "algorithm", "secret"}],
     "signing_key": ..., "evidence_key": ..., "courts": {"name": public key}}

All binary values are base64. An edge's export holds the digest keys and the *public* half of the signing key only.
"""

import base64
import binascii
import contextlib
import json
import os
import secrets
import stat
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from checker.core.key import SECRET_BYTES, Algorithm, DigestKey
from checker.errors import UsageError

FORMAT = 1


@dataclass(frozen=True)
class KeyFile:
    """What a key file holds. `digest_keys` in order of making; `active` names the one that indexes are written with."""

    active: str
    digest_keys: dict[str, DigestKey]
    signing_key: Ed25519PrivateKey
    evidence_key: bytes = field(repr=False)
    courts: dict[str, Ed25519PublicKey] = field(default_factory=dict)
    secrets: dict[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def digest_key(self) -> DigestKey:
        """The active digest key."""
        return self.digest_keys[self.active]

    def public_signing_key(self) -> bytes:
        """The public half of the signing key, 32 bytes."""
        return self.signing_key.public_key().public_bytes_raw()


@dataclass(frozen=True)
class EdgeKeys:
    """What an edge holds: the centre's digest keys, and the public half of its signing key."""

    active: str
    digest_keys: dict[str, DigestKey]
    centre_key: Ed25519PublicKey

    @property
    def digest_key(self) -> DigestKey:
        """The active digest key."""
        return self.digest_keys[self.active]

    def signed_by_centre(self, message: bytes, signature: bytes) -> bool:
        """Whether the centre signed this message."""
        return verify(self.centre_key, message, signature)


def new(algorithm: Algorithm, key_id: str) -> KeyFile:
    """A key file with one digest key, fresh secrets and no court. Raises UsageError for an unusable id or algorithm."""
    empty = KeyFile("", {}, Ed25519PrivateKey.generate(), secrets.token_bytes(SECRET_BYTES))
    return with_digest_key(empty, algorithm, key_id)


def new_key_id() -> str:
    """A fresh id for a digest key. Letters only, for logs mask words with digits as they may be a document's."""
    return "k-" + "".join(secrets.choice("bcdfghjkmnpqrstvwxz") for _ in range(8))


def with_digest_key(keys: KeyFile, algorithm: Algorithm, key_id: str) -> KeyFile:
    """The same file with one more digest key, which becomes the active one."""
    if key_id in keys.digest_keys:
        raise UsageError(f"the key file already holds a digest key {key_id}: choose another --id")
    secret = secrets.token_bytes(SECRET_BYTES)
    try:
        key = DigestKey(key_id, algorithm, secret)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return replace(
        keys,
        active=key_id,
        digest_keys={**keys.digest_keys, key_id: key},
        secrets={**keys.secrets, key_id: secret},
    )


def with_court(keys: KeyFile, name: str, public_key: Ed25519PublicKey) -> KeyFile:
    """The same file trusting one more court (or a court's new key)."""
    return replace(keys, courts={**keys.courts, name: public_key})


def verify(public_key: Ed25519PublicKey, message: bytes, signature: bytes) -> bool:
    """Whether the Ed25519 signature fits."""
    try:
        public_key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def load_public_key(path: Path) -> Ed25519PublicKey:
    """An Ed25519 public key from a PEM file, or from base64 of its 32 bytes. Raises UsageError."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"public key {path}: {error.strerror}") from None
    try:
        if b"-----BEGIN" in raw:
            key = serialization.load_pem_public_key(raw)
            if isinstance(key, Ed25519PublicKey):
                return key
        else:
            return Ed25519PublicKey.from_public_bytes(base64.b64decode(raw.strip(), validate=True))
    except (ValueError, binascii.Error):
        pass
    raise UsageError(f"public key {path}: must be an Ed25519 public key, as PEM or as base64 of its 32 bytes")


def save(path: Path, keys: KeyFile) -> None:
    """Write the key file with mode 600; an old one is replaced only once the new one is on disk."""
    content = {
        "format": FORMAT,
        "active": keys.active,
        "digest_keys": [
            {"id": key_id, "algorithm": key.algorithm.value, "secret": _text(keys.secrets[key_id])}
            for key_id, key in keys.digest_keys.items()
        ],
        "signing_key": _text(keys.signing_key.private_bytes_raw()),
        "evidence_key": _text(keys.evidence_key),
        "courts": {name: _text(key.public_bytes_raw()) for name, key in keys.courts.items()},
    }
    _write_private(path, content)


def export_edge(path: Path, keys: KeyFile) -> None:
    """Write what an edge needs, mode 600: digest keys and the public signing key; no signing or evidence secret."""
    _write_private(path, edge_export(keys))


def edge_export(keys: KeyFile) -> dict[str, Any]:
    """The content of an edge's key file."""
    return {
        "format": FORMAT,
        "for": "edge",
        "active": keys.active,
        "digest_keys": [
            {"id": key_id, "algorithm": key.algorithm.value, "secret": _text(keys.secrets[key_id])}
            for key_id, key in keys.digest_keys.items()
        ],
        "public_signing_key": _text(keys.public_signing_key()),
    }


def save_edge(path: Path, export: bytes) -> EdgeKeys:
    """Check an edge's key file that came from the centre, and write it with mode 600. Raises UsageError."""
    keys = _parse_edge(path, _json(path, export))
    _write_private(path, json.loads(export))
    return keys


def load_edge(path: Path) -> EdgeKeys:
    """Read and check an edge's key file. Raises UsageError naming the file, the entry and the remedy."""
    remedy = "the operator of the centre makes one with `checker keys export-edge`"
    return _parse_edge(path, _json(path, _read_private(path, remedy)))


def load(path: Path) -> KeyFile:
    """Read and check a key file. Raises UsageError naming the file, the entry and the remedy."""
    raw = _read_private(path, f"make one with `checker keys new --key-file {path}`")
    return _parse(path, _json(path, raw))


def _read_private(path: Path, remedy: str) -> bytes:
    try:
        mode = path.stat().st_mode
        raw = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"key file {path} does not exist: {remedy}") from None
    except OSError as error:
        raise UsageError(f"key file {path}: {error.strerror}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise UsageError(f"key file {path} can be read by others: `chmod 600 {path}`")
    return raw


def _json(path: Path, raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise UsageError(f"key file {path} is not JSON: restore it from your copy; it cannot be made again") from None


def load_or_create(path: Path) -> KeyFile:
    """Read the key file, or make one: for an embedded or in-memory index on this machine only."""
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            made = new(Algorithm.BLAKE2B_128, new_key_id())
            with contextlib.suppress(FileExistsError):  # another command made it at the same moment
                _create_exclusively(path, made)
    except OSError as error:
        raise UsageError(f"key file {path} cannot be made: {error.strerror}") from None
    return load(path)


def _create_exclusively(path: Path, keys: KeyFile) -> None:
    """Two commands that start at once must end up with one key file, complete when it appears."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        aside = Path(folder) / "key"
        save(aside, keys)
        os.link(aside, path)
        _sync_folder(path)  # an index is written under this key from now on: it must outlive a power cut


def _parse(path: Path, content: Any) -> KeyFile:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UsageError(f"key file {path}: format must be {FORMAT}; this one is of another version")
    if content.get("for") == "edge":
        raise UsageError(f"key file {path} is an edge's export: a checker needs the file it was exported from")
    active, digest_keys, raw_secrets = _parse_digest_keys(path, content)
    try:
        signing = Ed25519PrivateKey.from_private_bytes(base64.b64decode(content["signing_key"], validate=True))
        evidence = base64.b64decode(content["evidence_key"], validate=True)
        courts = {
            name: Ed25519PublicKey.from_public_bytes(base64.b64decode(key, validate=True))
            for name, key in content.get("courts", {}).items()
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UsageError(f"key file {path}: signing_key, evidence_key or courts cannot be read") from None
    if len(evidence) != SECRET_BYTES:
        raise UsageError(f"key file {path}: evidence_key must be {SECRET_BYTES} bytes")
    return KeyFile(active, digest_keys, signing, evidence, courts, raw_secrets)


def _parse_edge(path: Path, content: Any) -> EdgeKeys:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UsageError(f"key file {path}: format must be {FORMAT}; this one is of another version")
    if content.get("for") != "edge":
        raise UsageError(
            f"key file {path} is a checker's, with secrets no edge may have: give the edge what "
            "`checker keys export-edge` writes"
        )
    active, digest_keys, _ = _parse_digest_keys(path, content)
    try:
        centre = Ed25519PublicKey.from_public_bytes(base64.b64decode(content["public_signing_key"], validate=True))
    except (KeyError, TypeError, ValueError):
        raise UsageError(f"key file {path}: public_signing_key cannot be read") from None
    return EdgeKeys(active, digest_keys, centre)


def _parse_digest_keys(path: Path, content: dict[str, Any]) -> tuple[str, dict[str, DigestKey], dict[str, bytes]]:
    digest_keys: dict[str, DigestKey] = {}
    raw_secrets: dict[str, bytes] = {}
    entries = content.get("digest_keys")
    for number, entry in enumerate(entries if isinstance(entries, list) else []):
        try:
            secret = base64.b64decode(entry["secret"], validate=True)
            made = DigestKey(entry["id"], Algorithm(entry["algorithm"]), secret)
        except (KeyError, TypeError, ValueError) as error:
            why = str(error) if isinstance(error, ValueError) else "needs id, algorithm and secret"
            raise UsageError(f"key file {path}: digest_keys[{number}]: {why}") from None
        if made.key_id in digest_keys:
            raise UsageError(f"key file {path}: digest_keys[{number}]: the id {made.key_id} is there twice")
        digest_keys[made.key_id], raw_secrets[made.key_id] = made, secret
    active = content.get("active")
    if not isinstance(active, str) or active not in digest_keys:
        raise UsageError(f"key file {path}: active must name one of its digest_keys")
    return active, digest_keys, raw_secrets


def _write_private(path: Path, content: dict[str, Any]) -> None:
    try:
        handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mkstemp makes mode 600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(content, file, indent=2, ensure_ascii=False)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            os.rename(aside, path)
        except BaseException:
            Path(aside).unlink(missing_ok=True)
            raise
        _sync_folder(path)
    except OSError as error:
        raise UsageError(f"key file {path} cannot be written: {error.strerror}") from None


def _sync_folder(path: Path) -> None:
    """Make the file's name as durable as its content. Raises OSError."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
