"""`checker keys`: custody of the key file, through the command itself."""

import base64
import json
import stat
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from checker import keys
from checker.cli.main import main
from tests.cli.console import run


def secrets_of(path: Path) -> list[str]:
    """Every secret in a key file, as base64, hex and raw digits that might be printed."""
    content = json.loads(path.read_text("utf-8"))
    coded = [key["secret"] for key in content["digest_keys"]] + [content["signing_key"], content["evidence_key"]]
    return coded + [base64.b64decode(one).hex() for one in coded]


def court_key(path: Path, *, pem: bool = True) -> Path:
    public = Ed25519PrivateKey.generate().public_key()
    if pem:
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        path.write_bytes(public.public_bytes(serialization.Encoding.PEM, form))
    else:
        path.write_bytes(base64.b64encode(public.public_bytes_raw()) + b"\n")
    return path


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    assert main(["keys", "new", "--key-file", str(path), "--id", "k1"]) == 0
    return path


@pytest.mark.parametrize("algorithm", ["blake2b-128", "hmac-sm3"])
def test_new_makes_a_private_file_and_never_replaces_one(tmp_path: Path, algorithm: str) -> None:
    """The file has mode 600 and the wanted key; a second `new` exits 2 and leaves every byte as it was."""
    path = tmp_path / "keys.json"

    made = run("keys", "new", "--key-file", path, "--algorithm", algorithm, "--id", "k2026")

    assert (made.code, made.err) == (0, "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    held = keys.load(path)
    assert (held.active, held.digest_key.algorithm.value) == ("k2026", algorithm)
    before = path.read_bytes()
    again = run("keys", "new", "--key-file", path)
    assert (again.code, again.out) == (2, "")
    assert again.err == f"checker: {path} exists and is never overwritten: a lost key cannot be made again\n"
    assert before == path.read_bytes()
    assert [path] == list(tmp_path.iterdir()), "nothing is left beside it"


def test_many_at_once_make_one_file(tmp_path: Path) -> None:
    """Of several `new` for one name exactly one succeeds, and the file is its."""
    path = tmp_path / "keys.json"
    codes: dict[str, int] = {}

    def make(key_id: str) -> None:
        codes[key_id] = main(["keys", "new", "--key-file", str(path), "--id", key_id])

    threads = [threading.Thread(target=make, args=(f"k{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [key_id for key_id, code in codes.items() if code == 0] == [keys.load(path).active]


def test_list_shows_ids_and_fingerprints_and_no_secret(key_file: Path, tmp_path: Path) -> None:
    """Ids, algorithms, check values, the active key, signing key and courts are shown, secrets in no form."""
    main(["keys", "rotate", "--key-file", str(key_file), "--algorithm", "hmac-sm3", "--id", "k2"])
    main(["keys", "trust-court", "杭州法院", str(court_key(tmp_path / "court.pem")), "--key-file", str(key_file)])

    plain = run("keys", "list", "--key-file", key_file)
    as_json = run("keys", "list", "--key-file", key_file, "--json")

    held = keys.load(key_file)
    assert (plain.code, as_json.code) == (0, 0)
    listing = json.loads(as_json.out)
    assert listing["active"] == "k2"
    assert [(key["id"], key["algorithm"], key["active"]) for key in listing["digest_keys"]] == [
        ("k1", "blake2b-128", False),
        ("k2", "hmac-sm3", True),
    ]
    for key_id, key in held.digest_keys.items():
        assert key_id in plain.out
        assert key.check_value.hex() in plain.out
    assert held.public_signing_key().hex() in plain.out
    assert listing["courts"][0]["name"] == "杭州法院"
    assert listing["courts"][0]["fingerprint"] in plain.out
    for secret in secrets_of(key_file):
        assert secret not in plain.out + as_json.out + plain.err + as_json.err


def test_rotate_adds_a_key_and_keeps_the_old(key_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The new key is active, the old one still there with its secret; a known id is refused and nothing changes."""
    old = keys.load(key_file)
    assert main(["keys", "rotate", "--key-file", str(key_file), "--id", "k2"]) == 0

    new = keys.load(key_file)
    assert (old.active, new.active) == ("k1", "k2")
    assert old.digest_key.check_value == new.digest_keys["k1"].check_value
    assert old.digest_key.check_value != new.digest_key.check_value
    assert old.evidence_key == new.evidence_key
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    before = key_file.read_bytes()
    assert main(["keys", "rotate", "--key-file", str(key_file), "--id", "k1"]) == 2
    assert "choose another --id" in capsys.readouterr().err
    assert before == key_file.read_bytes()


def test_export_edge_holds_no_signing_or_evidence_secret(key_file: Path, tmp_path: Path) -> None:
    """An edge's file has the digest keys and the public half only, mode 600, and never replaces a file."""
    out = tmp_path / "edge.json"

    ran = run("keys", "export-edge", "--key-file", key_file, "--out", out)
    again = run("keys", "export-edge", "--key-file", key_file, "--out", out)

    assert (ran.code, ran.err) == (0, "")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    whole, exported = (json.loads(path.read_text("utf-8")) for path in (key_file, out))
    assert whole["digest_keys"] == exported["digest_keys"]
    assert exported["public_signing_key"] == base64.b64encode(keys.load(key_file).public_signing_key()).decode()
    for secret in (whole["signing_key"], whole["evidence_key"]):
        assert secret not in out.read_text("utf-8")
    assert again.code == 2
    assert "is never overwritten" in again.err
    as_key_file = run("keys", "list", "--key-file", out)
    assert as_key_file.code == 2
    assert "is an edge's export" in as_key_file.err


@pytest.mark.parametrize("pem", [True, False])
def test_a_court_is_trusted_and_its_key_can_change(
    key_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], *, pem: bool
) -> None:
    """A court's key is kept, from PEM or base64; the same again changes nothing, another one replaces it."""
    first, second = (court_key(tmp_path / name, pem=pem) for name in ("one.pem", "two.pem"))
    said = []
    for public_key in (first, first, second):
        assert main(["keys", "trust-court", "hangzhou", str(public_key), "--key-file", str(key_file)]) == 0
        said.append(capsys.readouterr().out)

    done = ("is trusted;", "was trusted already;", "is trusted with this new key;")
    for text, expected in zip(said, done, strict=True):
        assert f"court hangzhou {expected}" in text
    held = keys.load(key_file)
    assert held.courts["hangzhou"].public_bytes_raw() == keys.load_public_key(second).public_bytes_raw()


def test_changes_at_the_same_time_all_last(key_file: Path, tmp_path: Path) -> None:
    """Courts trusted by several commands at once are all in the file afterwards."""
    public_key = court_key(tmp_path / "court.pem")
    threads = [
        threading.Thread(
            target=main, args=(["keys", "trust-court", f"court{n}", str(public_key), "--key-file", str(key_file)],)
        )
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {f"court{n}" for n in range(8)} == keys.load(key_file).courts.keys()


def test_mistakes_are_one_line_and_change_nothing(
    key_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong id, key, folder, name or mode exits 2 with one line that names it; the key file stays as it was."""
    junk = tmp_path / "junk.pem"
    junk.write_text("not a key")
    public_key = court_key(tmp_path / "court.pem")
    given = ("--key-file", str(key_file))
    before = key_file.read_bytes()
    mistakes = [
        (("new", "--key-file", str(tmp_path / "no" / "keys.json")), "No such file or directory"),
        (("new", "--key-file", str(tmp_path / "k"), "--id", "钥匙"), "printable ASCII"),
        (("new", "--key-file", str(tmp_path / "k"), "--algorithm", "md5"), "invalid choice"),
        (("rotate", *given, "--id", "x" * 33), "1 to 32 printable ASCII"),
        (("rotate", "--key-file", str(tmp_path / "no.json")), "make one with `checker keys new"),
        (("list", "--key-file", str(junk)), "can be read by others"),
        (("trust-court", "court", str(junk), *given), "must be an Ed25519 public key"),
        (("trust-court", "court", str(tmp_path / "no.pem"), *given), "No such file"),
        (("trust-court", " ", str(public_key), *given), "NAME: must be 1 to 128"),
        (("export-edge", *given), "--out"),
        (("list",), "--key-file"),
    ]
    for arguments, said in mistakes:
        code = main(["keys", *arguments])
        shown = capsys.readouterr()
        assert code == 2, arguments
        assert said in shown.err, arguments
        assert shown.err.count("\n") == 1, shown.err
    assert before == key_file.read_bytes()
    assert not (tmp_path / "k").exists()
