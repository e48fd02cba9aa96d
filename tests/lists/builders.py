"""Feed lines, files and keys for the list path's tests."""

import base64
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from checker.core import document
from checker.core.document import DocumentType
from checker.core.key import Algorithm, DigestKey
from checker.core.measure import Measure, State
from checker.index.base import ExactIndex, IndexKey
from checker.lists import manifest
from checker.lists.importer import ImportOptions

KEY = DigestKey("k1", Algorithm.BLAKE2B_128, bytes(range(32)))
INDEX_KEY = IndexKey(KEY.key_id, KEY.check_value)
NOW_MS = 1_772_500_000_000  # 2026-03-03 in Shanghai
TODAY = 20260303
COURT_KEY = Ed25519PrivateKey.from_private_bytes(b"c" * 32)
COURT = "合成法院"


def an_options(folder: Path, **changes: Any) -> ImportOptions:
    """Import at NOW_MS with a state directory under `folder`."""
    return ImportOptions(**{"state_dir": folder / "state", "clock": lambda: NOW_MS, "holder": "a test", **changes})


def resident(serial: int) -> str:
    """A resident ID of an invented person born in 1880."""
    body = f"4405241880{serial // 1000 % 12 + 1:02d}01{serial % 1000:03d}"
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return body + "10X98765432"[sum(int(d) * w for d, w in zip(body, weights, strict=True)) % 11]


def digest_of(number: str) -> bytes:
    """The lookup key of a resident ID."""
    parsed = document.parse(DocumentType.RESIDENT_ID, number, "", TODAY)
    assert isinstance(parsed, document.Parsed)
    return KEY.document(parsed.documents[0])


def add(sequence: int, measure_id: str, *serials: int, **changes: Any) -> dict[str, Any]:
    """An order against one person with these resident IDs."""
    subject = {
        "role": "DEBTOR_PERSON",
        "name": "张三",
        "documents": [{"type": "RESIDENT_ID", "number": resident(serial)} for serial in serials],
    }
    return {
        "seq": sequence,
        "time": f"2026-03-02T00:00:{sequence % 60:02d}+08:00",
        "op": "add",
        "measure_id": measure_id,
        "kind": "order",
        "court": "合成市第一人民法院",
        "case_number": f"（2026）京0105执{sequence}号",
        "effective_from": "2026-03-01",
        "subjects": [subject],
        **changes,
    }


def remove(sequence: int, measure_id: str, **changes: Any) -> dict[str, Any]:
    """The end of a measure."""
    return {"seq": sequence, "op": "remove", "measure_id": measure_id, **changes}


def exempt(sequence: int, measure_id: str) -> dict[str, Any]:
    """A temporary lift for everyone the measure binds."""
    window = {"kind": "TEMPORARY_LIFT", "valid_from": "2026-03-01", "valid_to": "2026-03-31"}
    return {"seq": sequence, "op": "exempt", "measure_id": measure_id, "exemption": window}


def heartbeat(sequence: int) -> dict[str, Any]:
    """Nothing but a sign of life."""
    return {"seq": sequence, "op": "heartbeat", "time": "2026-03-02T12:00:00+08:00"}


def write(path: Path, lines: Iterable[dict[str, Any] | bytes]) -> Path:
    """A feed file; bytes stand as they are."""
    raw = [each if isinstance(each, bytes) else json.dumps(each, ensure_ascii=False).encode() for each in lines]
    path.write_bytes(b"".join(each + b"\n" for each in raw))
    return path


def describe(feed: Path, first: int, last: int, *, sign: bool = True, **changes: Any) -> None:
    """Write a feed's manifest. `changes` are made before it is signed."""
    raw = feed.read_bytes()
    content = {
        "court": COURT,
        "first_sequence": first,
        "last_sequence": last,
        "count": len([line for line in raw.split(b"\n") if line.strip()]),
        "sha256": hashlib.sha256(raw).hexdigest(),
        **changes,
    }
    if sign:
        content["signature"] = base64.b64encode(COURT_KEY.sign(manifest.canonical(content))).decode()
    manifest.beside(feed).write_text(json.dumps(content, ensure_ascii=False, indent=2), "utf-8")


async def measures(index: ExactIndex, serial: int) -> tuple[Measure, ...]:
    """What the index says about a person's resident ID."""
    (found,) = await index.get_many([digest_of(resident(serial))], 5.0)
    assert found is not None
    return found


async def is_active(index: ExactIndex, serial: int) -> bool:
    """Whether any measure stands against the person."""
    return any(measure.state == State.ACTIVE for measure in await measures(index, serial))
