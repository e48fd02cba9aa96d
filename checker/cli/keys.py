"""`checker keys`: the custody item of this service, made and looked after.

Strategy: every verb loads the file whole, changes the value, and writes it aside before it takes the old one's place.
A new file never replaces one that is there (it is linked to its name, which fails if the name is taken), and changes
hold a lock on the folder, so that two at once both last. No verb prints a secret.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checker.errors import UsageError

if TYPE_CHECKING:
    from checker.keys import KeyFile

ALGORITHMS = ("blake2b-128", "hmac-sm3")
MAX_NAME = 128

_DESCRIPTION = """\
Make and look after the key file: digest keys (which turn document numbers into what the index stores), the signing key
of snapshots, the key of the evidence, and the public keys of the courts whose feeds are accepted.

Guard it like the list itself: numbers can be enumerated, so whoever holds a digest key and an index reads most of the
list. Keep a copy offline: without it an index, and the evidence, can never be read again.
"""
_EPILOG = """\
examples:
  checker keys new --key-file keys.json                           BLAKE2b-128, a made-up id
  checker keys new --key-file keys.json --algorithm hmac-sm3 --id 2026-sm3
  checker keys list --key-file keys.json
  checker keys trust-court hangzhou-court court.pub.pem --key-file keys.json
  checker keys export-edge --key-file keys.json --out edge-key.json
"""
_ROTATE = """\
Add a digest key and make it the active one. The old keys stay in the file.

An index is written under one key, and a digest cannot be turned from one key into another: after a rotation import the
court feed again into a new index (another embedded:DIR, database or namespace), serve from that, hand every edge a new
export, and only then retire the old index. Until then keep serving with a copy of the old file.
"""
_EXPORT = """\
Write what an edge needs: the digest keys and the public half of the signing key; no signing or evidence secret. The
file has mode 600 and is as secret as the list: hand it over as such, and rotate when an edge is lost.
"""
_TRUST = """\
Accept feeds signed with this court's Ed25519 key: PEM, or base64 of its 32 bytes. NAME is the `court` of the feed's
manifest. A name that is known already gets the new key. Compare the fingerprint with the court over another channel.
"""


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command and its verbs."""
    parser = commands.add_parser(
        "keys",
        help="make and look after the key file",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, title="verbs")

    def verb(name: str, text: str, description: str, run: Callable[[argparse.Namespace], int]) -> Any:
        sub = verbs.add_parser(
            name, help=text, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        given = os.environ.get("CHECKER_KEY_FILE")
        sub.add_argument(
            "--key-file",
            type=Path,
            metavar="FILE",
            required=not given,
            default=Path(given) if given else None,
            help="the key file (CHECKER_KEY_FILE)",
        )
        sub.set_defaults(run=run)
        return sub

    for name, text, description, run in (
        ("new", "make a key file", "Make a key file, mode 600, with one digest key. Never replaces a file.", _new),
        ("rotate", "add a digest key and make it active", _ROTATE, _rotate),
    ):
        made = verb(name, text, description, run)
        made.add_argument(
            "--algorithm",
            choices=ALGORITHMS,
            default=ALGORITHMS[0],
            help="blake2b-128 (default, fastest) or hmac-sm3 (GB/T 32905, where that is demanded)",
        )
        made.add_argument("--id", metavar="ID", help="1 to 32 printable ASCII characters (default: a made-up one)")
    listed = verb("list", "what is in the file; never a secret", "Show ids, check values and fingerprints.", _list)
    listed.add_argument("--json", action="store_true", help="one JSON object")
    export = verb("export-edge", "write what an edge needs", _EXPORT, _export_edge)
    export.add_argument("--out", type=Path, metavar="FILE", required=True, help="the file to make")
    trust = verb("trust-court", "accept feeds signed by this court", _TRUST, _trust_court)
    trust.add_argument("name", metavar="NAME", help="the court's name in its manifests")
    trust.add_argument("public_key", metavar="PUBKEY_FILE", type=Path, help="its Ed25519 public key")


def _new(args: argparse.Namespace) -> int:
    from checker import keys
    from checker.core.key import Algorithm

    made = keys.new(Algorithm(args.algorithm), args.id or keys.new_key_id())
    _write_new(args.key_file, lambda aside: keys.save(aside, made), "a lost key cannot be made again")
    print(f"made {args.key_file}: digest key {made.active} ({args.algorithm}), a signing key and an evidence key")
    print("keep a copy offline: without it the index and the evidence cannot be read")
    return 0


def _rotate(args: argparse.Namespace) -> int:
    from checker import keys
    from checker.core.key import Algorithm

    with _changing(args.key_file) as before:
        after = keys.with_digest_key(before, Algorithm(args.algorithm), args.id or keys.new_key_id())
        keys.save(args.key_file, after)
    print(f"digest key {after.active} ({args.algorithm}) is active in {args.key_file}; {before.active} stays in it")
    print(f"an index written under {before.active} is refused with it: import the feed again into a new index")
    return 0


def _export_edge(args: argparse.Namespace) -> int:
    from checker import keys

    held = keys.load(args.key_file)
    _write_new(args.out, lambda aside: keys.export_edge(aside, held), "choose another --out, or remove it first")
    print(f"wrote {args.out} for an edge: {len(held.digest_keys)} digest key(s) and the public signing key")
    return 0


def _trust_court(args: argparse.Namespace) -> int:
    from checker import keys

    if not (args.name.strip() == args.name and args.name.isprintable() and 1 <= len(args.name) <= MAX_NAME):
        raise UsageError(f"NAME: must be 1 to {MAX_NAME} printable characters, none of them a space at either end")
    public_key = keys.load_public_key(args.public_key)
    with _changing(args.key_file) as before:
        keys.save(args.key_file, keys.with_court(before, args.name, public_key))
    known = before.courts.get(args.name)
    same = known is not None and known.public_bytes_raw() == public_key.public_bytes_raw()
    done = "is trusted" if known is None else "was trusted already" if same else "is trusted with this new key"
    print(f"court {args.name} {done}; fingerprint SHA-256 {_fingerprint(public_key.public_bytes_raw())}")
    return 0


def _list(args: argparse.Namespace) -> int:
    from checker import keys

    held = keys.load(args.key_file)
    if args.json:
        print(json.dumps(_listing(held), ensure_ascii=False, indent=2))
    else:
        _print(args.key_file, held)
    return 0


def _listing(held: "KeyFile") -> dict[str, Any]:
    public = held.public_signing_key()
    return {
        "active": held.active,
        "digest_keys": [
            {
                "id": key_id,
                "algorithm": key.algorithm.value,
                "check_value": key.check_value.hex(),
                "active": key_id == held.active,
            }
            for key_id, key in held.digest_keys.items()
        ],
        "signing_public_key": {"hex": public.hex(), "fingerprint": _fingerprint(public)},
        "courts": [
            {
                "name": name,
                "public_key": key.public_bytes_raw().hex(),
                "fingerprint": _fingerprint(key.public_bytes_raw()),
            }
            for name, key in sorted(held.courts.items())
        ],
    }


def _print(path: Path, held: "KeyFile") -> None:
    from rich import box
    from rich.table import Table

    from checker.cli.terminal import emit, facts_table

    listing = _listing(held)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, title="digest keys", title_justify="left")
    for heading in ("id", "algorithm", "check value", ""):
        table.add_column(heading, overflow="fold")
    for key in listing["digest_keys"]:
        active = "active" if key["active"] else ""
        table.add_row(key["id"], key["algorithm"], key["check_value"], active, style="bold" if active else None)
    emit(facts_table([("key file", str(path)), ("signing key", f"{listing['signing_public_key']['hex']} (public)")]))
    emit(table)
    if not listing["courts"]:
        emit("no court is trusted yet: `checker keys trust-court NAME PUBKEY_FILE`, else only unsigned feeds load")
        return
    courts = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, title="courts", title_justify="left")
    courts.add_column("name", overflow="fold")
    courts.add_column("fingerprint of its key, SHA-256", overflow="fold")
    for court in listing["courts"]:
        courts.add_row(court["name"], court["fingerprint"])
    emit(courts)


def _fingerprint(public_key: bytes) -> str:
    return hashlib.sha256(public_key).hexdigest()


def _write_new(path: Path, write: Callable[[Path], None], remedy: str) -> None:
    """Have `write` make the file aside and give it its name, complete, only if nothing has that name."""
    if path.is_symlink() or path.exists():
        raise UsageError(f"{path} exists and is never overwritten: {remedy}")
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            aside = Path(folder) / "made"
            write(aside)
            os.link(aside, path)
            _sync_folder(path.parent)
    except FileExistsError:
        raise UsageError(f"{path} exists and is never overwritten: {remedy}") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _changing(path: Path) -> "Iterator[KeyFile]":
    """The key file's content while no other command changes it. UsageError as `checker.keys.load`."""
    from checker import keys

    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise UsageError(f"key file {path}: {error.strerror}") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield keys.load(path)
    finally:
        os.close(folder)
