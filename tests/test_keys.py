"""Claims about the key file: private, whole, never lost by a failed write, and never taken for what it is not."""

import base64
import json
import multiprocessing
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from checker import keys
from checker.core.key import Algorithm
from checker.errors import UsageError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A key file with two digest keys and a court."""
    made = keys.with_digest_key(keys.new(Algorithm.BLAKE2B_128, "k1"), Algorithm.HMAC_SM3, "k2")
    made = keys.with_court(made, "北京", Ed25519PrivateKey.generate().public_key())
    keys.save(tmp_path / "key.json", made)
    return tmp_path / "key.json"


def secrets_of(path: Path) -> dict[str, bytes]:
    """Every secret in a key file, by what it is."""
    content = json.loads(path.read_text("utf-8"))
    found = {f"digest {entry['id']}": base64.b64decode(entry["secret"]) for entry in content["digest_keys"]}
    return found | {name: base64.b64decode(content[name]) for name in ("signing_key", "evidence_key")}


def test_what_is_saved_is_loaded(path: Path) -> None:
    """Keys, algorithms, their order, which one is active, and courts come back as they were."""
    loaded = keys.load(path)
    keys.save(path, loaded)
    again = keys.load(path)

    assert (list(again.digest_keys), again.active) == (["k1", "k2"], "k2")
    assert [key.algorithm for key in again.digest_keys.values()] == [Algorithm.BLAKE2B_128, Algorithm.HMAC_SM3]
    assert [key.check_value for key in again.digest_keys.values()] == [
        key.check_value for key in loaded.digest_keys.values()
    ]
    assert again.digest_key is again.digest_keys["k2"]
    assert again.public_signing_key() == loaded.public_signing_key()
    assert again.evidence_key == loaded.evidence_key
    assert again.courts["北京"].public_bytes_raw() == loaded.courts["北京"].public_bytes_raw()


def test_every_file_has_secrets_of_its_own(tmp_path: Path) -> None:
    """No secret is shared between two files, or between two purposes of one."""
    found: list[bytes] = []
    for number in range(3):
        keys.save(tmp_path / f"{number}", keys.new(Algorithm.BLAKE2B_128, "k1"))
        found += secrets_of(tmp_path / f"{number}").values()

    assert len(set(found)) == len(found) == 9
    assert {len(secret) for secret in found} == {32}


@pytest.mark.parametrize("write", [keys.save, keys.export_edge])
def test_a_key_file_is_the_owners_alone(path: Path, write: Callable[[Path, keys.KeyFile], None]) -> None:
    """Mode 600 whatever the umask, and whatever the mode of the file it replaces."""
    held = keys.load(path)
    path.chmod(0o644)
    before = os.umask(0)
    try:
        write(path, held)
    finally:
        os.umask(before)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o660, 0o601, 0o777])
def test_a_file_others_can_read_is_refused(path: Path, mode: int) -> None:
    """Any right of group or others refuses the file, with the remedy."""
    path.chmod(mode)

    with pytest.raises(UsageError, match=r"can be read by others: `chmod 600 "):
        keys.load(path)


@pytest.mark.parametrize("fault", ["fsync", "rename"])
def test_a_failed_write_leaves_the_old_file(path: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk that fails before the rename costs the new file only, and leaves no secret lying about."""
    before = path.read_bytes()
    more = keys.with_digest_key(keys.load(path), Algorithm.BLAKE2B_128, "k3")

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, fault, fail)
    with pytest.raises(UsageError, match=r"key\.json cannot be written: No space left on device$"):
        keys.save(path, more)
    monkeypatch.undo()

    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["key.json"]


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """A missing folder, or a file where the folder should be: one line, no traceback."""
    with pytest.raises(UsageError, match="cannot be written: No such file or directory"):
        keys.save(tmp_path / "missing" / "key.json", keys.new(Algorithm.BLAKE2B_128, "k1"))
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be made: Not a directory"):
        keys.load_or_create(tmp_path / "file" / "below" / "key.json")


Change = Callable[[dict[str, Any]], Any]


def put(name: str, value: Any) -> Change:
    return lambda content: content.__setitem__(name, value)


def put_in_key(name: str, value: Any) -> Change:
    return lambda content: content["digest_keys"][0].__setitem__(name, value)


CORRUPT: list[tuple[Change, str]] = [
    (put("format", 2), "format must be 1"),
    (put("format", None), "format must be 1"),
    (put("for", "edge"), "is an edge's export"),
    (put("active", "k9"), "active must name"),
    (put("active", ["k1"]), "active must name"),
    (put("active", None), "active must name"),
    (put("digest_keys", []), "active must name"),
    (put("digest_keys", 5), "active must name"),
    (put("digest_keys", {"id": "k1"}), "active must name"),
    (put("digest_keys", ["k1"]), r"digest_keys\[0\]: needs id"),
    (put_in_key("secret", "AAAA"), r"digest_keys\[0\]: .* must be 32 bytes, not 3"),
    (put_in_key("secret", "not base64"), r"digest_keys\[0\]: "),
    (put_in_key("secret", "钥"), r"digest_keys\[0\]: "),
    (put_in_key("secret", 5), r"digest_keys\[0\]: needs id"),
    (put_in_key("id", 5), r"digest_keys\[0\]: needs id"),
    (put_in_key("id", ""), r"digest_keys\[0\]: .*1 to 32 printable"),
    (put_in_key("id", "k2"), r"digest_keys\[1\]: the id k2 is there twice"),
    (put_in_key("algorithm", "md5"), r"digest_keys\[0\]: .*md5"),
    (put("signing_key", "AAAA"), "signing_key, evidence_key or courts"),
    (put("signing_key", None), "signing_key, evidence_key or courts"),
    (put("evidence_key", "AAAA"), "evidence_key must be 32 bytes"),
    (put("courts", ["x"]), "signing_key, evidence_key or courts"),
    (put("courts", {"x": "AAAA"}), "signing_key, evidence_key or courts"),
    (lambda content: content.pop("evidence_key"), "signing_key, evidence_key or courts"),
]


@pytest.mark.parametrize(("change", "says"), CORRUPT)
def test_a_corrupt_file_is_refused_by_entry(path: Path, change: Change, says: str) -> None:
    """File, entry and cause are named in one line, and no secret is shown."""
    secrets = secrets_of(path)
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), "utf-8")

    with pytest.raises(UsageError, match=says) as raised:
        keys.load(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not any(base64.b64encode(secret).decode() in str(raised.value) for secret in secrets.values())


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"[1]", b'"k"', b"null", b"[" * 100_000])
def test_a_file_of_anything_else_is_refused(path: Path, raw: bytes) -> None:
    """Torn, empty, binary or of another shape: a sentence, never a traceback."""
    path.write_bytes(raw)

    with pytest.raises(UsageError, match=r"is not JSON: restore it|format must be 1"):
        keys.load(path)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    """The remedy is the command; a folder in its place is said as such."""
    with pytest.raises(UsageError, match="does not exist: make one with `checker keys new --key-file"):
        keys.load(tmp_path / "key.json")
    with pytest.raises(UsageError, match="Is a directory"):
        keys.load(tmp_path)


def test_an_edges_export_holds_no_private_secret(path: Path, tmp_path: Path) -> None:
    """The export has the digest keys and the public half of the signing key; neither signing nor evidence secret."""
    keys.export_edge(tmp_path / "edge.json", keys.load(path))
    raw = (tmp_path / "edge.json").read_text("utf-8")
    secrets = secrets_of(path)

    for name, secret in secrets.items():
        assert (base64.b64encode(secret).decode() in raw) == name.startswith("digest ")
        assert secret.hex() not in raw
    content = json.loads(raw)
    assert base64.b64decode(content["public_signing_key"]) == keys.load(path).public_signing_key()
    assert set(content) == {"format", "for", "active", "digest_keys", "public_signing_key"}


def test_an_edges_export_is_no_checkers_file(path: Path, tmp_path: Path) -> None:
    """A checker started with an export is refused with the remedy."""
    keys.export_edge(tmp_path / "edge.json", keys.load(path))

    with pytest.raises(UsageError, match="is an edge's export: a checker needs the file it was exported from"):
        keys.load(tmp_path / "edge.json")


def test_an_id_is_given_once(path: Path) -> None:
    """A second key under a known id, or under one nobody can print, is refused and nothing changes."""
    held = keys.load(path)
    with pytest.raises(UsageError, match="already holds a digest key k1"):
        keys.with_digest_key(held, Algorithm.BLAKE2B_128, "k1")
    with pytest.raises(UsageError, match="1 to 32 printable ASCII"):
        keys.with_digest_key(held, Algorithm.BLAKE2B_128, "钥匙")
    assert list(held.digest_keys) == ["k1", "k2"]


def test_fresh_ids_differ_and_can_be_logged() -> None:
    """Fresh ids do not meet, and the log shows them as they are."""
    from checker.logs import mask

    made = [keys.new_key_id() for _ in range(200)]

    assert len(set(made)) == 200
    assert all(mask(f"digest key {key_id!r}") == f"digest key {key_id!r}" for key_id in made)


def test_a_key_file_shows_no_secret(path: Path) -> None:
    """Printed as a value it shows ids, never a secret in any form."""
    shown = repr(keys.load(path))

    for secret in secrets_of(path).values():
        assert repr(secret)[2:-1] not in shown
        assert secret.hex() not in shown


def _make(path: Path, barrier: Any, made: Any) -> None:
    barrier.wait()
    made.put(keys.load_or_create(path).digest_key.check_value)


def test_many_processes_make_one_file(tmp_path: Path) -> None:
    """Eight commands that start at the same moment end up with the same key, and nothing else lies beside it."""
    context = multiprocessing.get_context("spawn")
    barrier, made = context.Barrier(8), context.Queue()
    path = tmp_path / "state" / "key.json"
    workers = [context.Process(target=_make, args=(path, barrier, made)) for _ in range(8)]
    for worker in workers:
        worker.start()
    found = {made.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()

    assert found == {keys.load(path).digest_key.check_value}
    assert os.listdir(path.parent) == ["key.json"]
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_an_existing_file_is_never_made_again(path: Path) -> None:
    """`load_or_create` reads what is there, and refuses what it cannot read instead of replacing it."""
    before = path.read_bytes()
    keys.load_or_create(path)
    assert path.read_bytes() == before
    path.write_bytes(b"torn")
    with pytest.raises(UsageError):
        keys.load_or_create(path)
    assert path.read_bytes() == b"torn"


def test_public_keys_are_read_as_pem_or_base64(tmp_path: Path) -> None:
    """Both forms give the same key, and it verifies what its private half signed and nothing else."""
    private = Ed25519PrivateKey.generate()
    raw = private.public_key().public_bytes_raw()
    pem = private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "pem").write_bytes(pem)
    (tmp_path / "base64").write_bytes(base64.b64encode(raw) + b"\n")

    for name in ("pem", "base64"):
        public = keys.load_public_key(tmp_path / name)
        assert public.public_bytes_raw() == raw
        assert keys.verify(public, b"feed", private.sign(b"feed"))
        assert not keys.verify(public, b"food", private.sign(b"feed"))
        assert not keys.verify(public, b"feed", b"short")


def test_what_is_no_public_key_is_refused(path: Path, tmp_path: Path) -> None:
    """Another algorithm, a private key, noise, a key file or nothing at all: the file is named, never quoted."""
    other = generate_private_key(SECP256R1()).public_key()
    pem = other.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    private = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for raw in (pem, private, b"", b"\xff", b"AAAA", b"-----BEGIN nonsense", path.read_bytes()):
        (tmp_path / "public").write_bytes(raw)
        with pytest.raises(UsageError, match="must be an Ed25519 public key"):
            keys.load_public_key(tmp_path / "public")
    with pytest.raises(UsageError, match="No such file"):
        keys.load_public_key(tmp_path / "missing")


# An edge's key file


@pytest.fixture
def edge_path(path: Path, tmp_path: Path) -> Path:
    """The export of `path` for an edge."""
    keys.export_edge(tmp_path / "edge.json", keys.load(path))
    return tmp_path / "edge.json"


def test_an_edge_holds_the_digest_keys_and_can_check_what_the_centre_signs(path: Path, edge_path: Path) -> None:
    """The export gives the same digests and check values, and verifies the centre's signature and nobody else's."""
    whole, edge = keys.load(path), keys.load_edge(edge_path)
    assert edge.active == whole.active
    assert {name: key.check_value for name, key in edge.digest_keys.items()} == {
        name: key.check_value for name, key in whole.digest_keys.items()
    }
    assert edge.digest_key.canary == whole.digest_key.canary
    assert edge.signed_by_centre(b"manifest", whole.signing_key.sign(b"manifest"))
    assert not edge.signed_by_centre(b"manifest", Ed25519PrivateKey.generate().sign(b"manifest"))
    assert not edge.signed_by_centre(b"manifesto", whole.signing_key.sign(b"manifest"))


def test_neither_file_is_taken_for_the_other(path: Path, edge_path: Path) -> None:
    """A checker's file, with its private keys, is refused at an edge, and an edge's at a checker."""
    with pytest.raises(UsageError, match="export-edge"):
        keys.load_edge(path)
    with pytest.raises(UsageError, match="edge's export"):
        keys.load(edge_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"format": 2}, "format"),
        ({"active": "k9"}, "active"),
        ({"digest_keys": []}, "active"),
        ({"digest_keys": [{"id": "k1", "algorithm": "blake2b-128", "secret": "AAAA"}]}, r"digest_keys\[0\]"),
        ({"public_signing_key": "AAAA"}, "public_signing_key"),
        ({"public_signing_key": None}, "public_signing_key"),
    ],
)
def test_a_damaged_export_is_refused_by_the_entry(edge_path: Path, change: dict[str, Any], named: str) -> None:
    """Whatever is wrong in an edge's key file is named."""
    edge_path.write_text(json.dumps(json.loads(edge_path.read_text("utf-8")) | change), "utf-8")
    with pytest.raises(UsageError, match=named):
        keys.load_edge(edge_path)


def test_an_export_that_others_can_read_is_refused(edge_path: Path) -> None:
    """Disk and key of one edge disclose most of the list: the key must not lie open."""
    edge_path.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        keys.load_edge(edge_path)


def test_keys_from_the_centre_are_checked_before_they_are_kept(path: Path, tmp_path: Path) -> None:
    """Fetched keys are written whole, private, and only if they can be used."""
    fetched = tmp_path / "fetched.json"
    with pytest.raises(UsageError):
        keys.save_edge(fetched, b"{}")
    assert not fetched.exists()
    saved = keys.save_edge(fetched, json.dumps(keys.edge_export(keys.load(path))).encode())
    assert stat.S_IMODE(fetched.stat().st_mode) == 0o600
    assert keys.load_edge(fetched).digest_key.check_value == saved.digest_key.check_value
