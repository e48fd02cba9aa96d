"""The manifest beside a feed: who sent it, what it spans, and that it is unaltered.

`FEED.manifest.json`: {"court", "first_sequence", "last_sequence", "count", "sha256", "signature"}; other fields may
stand there too and are signed with the rest. The signature is Ed25519 in base64 over the manifest without `signature`
as canonical JSON: keys sorted, separators "," and ":", UTF-8 unescaped. `count` counts lines that are not blank.

The whole feed is read and compared before a single line of it is applied. What is signed badly, or does not match,
applies nothing.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from checker.errors import CheckerError

_CHUNK = 1 << 20
_MAX_MANIFEST_BYTES = 1 << 20


class FeedRefused(CheckerError):
    """A whole feed is refused, and nothing of this import was applied."""

    status = grpc.StatusCode.FAILED_PRECONDITION


class Manifest(NamedTuple):
    """What a manifest says, once it has been verified."""

    court: str
    first_sequence: int
    last_sequence: int
    lines: int
    sha256: str
    signed: bool


def beside(feed: Path) -> Path:
    """Where a feed's manifest stands."""
    return feed.with_name(feed.name + ".manifest.json")


def verify(feed: Path, courts: Mapping[str, Ed25519PublicKey], *, required: bool) -> Manifest | None:
    """The manifest of a feed, verified against the feed's bytes; None where there is none and none is required.

    `required`: a manifest signed by one of `courts` must be there. Raises FeedRefused.
    """
    path = beside(feed)
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        if required:
            raise FeedRefused(
                f"{feed}: has no manifest {path.name}, which --require-manifest demands; get it from the court"
            ) from None
        return None
    except OSError as error:
        raise FeedRefused(f"{path}: {error.strerror}") from None
    content = _parse(path, raw)
    signature = content.pop("signature", None)
    manifest = _read(path, content, signed=signature is not None)
    if signature is not None:
        _verify_signature(path, content, signature, manifest.court, courts)
    elif required:
        raise FeedRefused(f"{path}: is not signed, and --require-manifest is given; get a signed one from the court")
    sha256, count = _measure(feed)
    if sha256 != manifest.sha256:
        raise FeedRefused(f"{feed}: its SHA-256 is not the one of its manifest: it was altered or cut; fetch it again")
    if count != manifest.lines:
        raise FeedRefused(f"{feed}: holds {count} lines, its manifest says {manifest.lines}; ask the court")
    return manifest


def canonical(content: Mapping[str, Any]) -> bytes:
    """The bytes that are signed: the manifest without `signature`."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    if len(raw) > _MAX_MANIFEST_BYTES:
        raise FeedRefused(f"{path}: is larger than {_MAX_MANIFEST_BYTES} bytes, so it is no manifest")
    try:
        content = json.loads(raw)
        canonical(content)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise FeedRefused(f"{path}: is not one JSON object in UTF-8; get it from the court again")
    return content


def _read(path: Path, content: dict[str, Any], *, signed: bool) -> Manifest:
    numbers = [content.get(field) for field in ("first_sequence", "last_sequence", "count")]
    court, sha256 = content.get("court"), content.get("sha256")
    if (
        not all(type(number) is int and number >= 0 for number in numbers)
        or not (isinstance(court, str) and court)
        or not isinstance(sha256, str)
    ):
        raise FeedRefused(
            f"{path}: must name court and sha256 as texts, first_sequence, last_sequence and count as integers"
        )
    first, last, count = (int(number or 0) for number in numbers)
    if first > last:
        raise FeedRefused(f"{path}: first_sequence lies behind last_sequence; ask the court")
    return Manifest(court, first, last, count, sha256.lower(), signed)


def _verify_signature(
    path: Path, content: dict[str, Any], signature: object, court: str, courts: Mapping[str, Ed25519PublicKey]
) -> None:
    public_key = courts.get(court)
    if public_key is None:
        raise FeedRefused(
            f"{path}: is signed by a court whose key is not known here; check it and add it with "
            "`checker keys trust-court NAME PUBKEY`"
        )
    try:
        public_key.verify(base64.b64decode(str(signature), validate=True), canonical(content))
    except (InvalidSignature, binascii.Error, ValueError):
        raise FeedRefused(f"{path}: its signature is wrong; nothing was applied, ask the court") from None


def _measure(feed: Path) -> tuple[str, int]:
    """SHA-256 and number of lines that are not blank."""
    digest = hashlib.sha256()
    count = 0
    blank = True  # nothing but white space since the last line end
    try:
        with feed.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                pieces = chunk.split(b"\n")
                for piece in pieces[:-1]:
                    if not blank or not (not piece or piece.isspace()):
                        count += 1
                    blank = True
                if pieces[-1] and not pieces[-1].isspace():
                    blank = False
    except OSError as error:
        raise FeedRefused(f"{feed}: {error.strerror}") from None
    return digest.hexdigest(), count + (not blank)
