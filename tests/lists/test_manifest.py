"""Claims about `checker.lists.manifest`: what is not exactly what the court signed applies nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from checker.lists.manifest import FeedRefused, Manifest, beside, verify
from tests.lists.builders import COURT, COURT_KEY, add, describe, heartbeat, write

COURTS = {COURT: COURT_KEY.public_key()}


@pytest.fixture
def feed(tmp_path: Path) -> Path:
    """Three lines, one of them blank."""
    return write(tmp_path / "feed.jsonl", [add(1, "M1", 1), b"  ", heartbeat(2)])


@pytest.mark.parametrize("required", [True, False])
def test_a_signed_manifest_of_a_trusted_court_is_accepted(feed: Path, required: bool) -> None:
    """The good case, with every field read."""
    describe(feed, 1, 2)
    found = verify(feed, COURTS, required=required)
    assert found is not None
    assert found == Manifest(COURT, 1, 2, 2, found.sha256, True)


def test_without_a_manifest_only_what_does_not_require_one_goes_on(feed: Path) -> None:
    """Absence is refused exactly when a manifest is demanded."""
    assert verify(feed, COURTS, required=False) is None
    with pytest.raises(FeedRefused, match=r"has no manifest feed\.jsonl\.manifest\.json"):
        verify(feed, COURTS, required=True)


def test_an_unsigned_manifest_is_checked_but_vouches_for_nothing(feed: Path) -> None:
    """Hash and count count; where a manifest is demanded, a signed one is meant."""
    describe(feed, 1, 2, sign=False)
    found = verify(feed, {}, required=False)
    assert found is not None
    assert not found.signed
    with pytest.raises(FeedRefused, match="is not signed"):
        verify(feed, COURTS, required=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, "altered or cut"),
        ({"count": 3}, "holds 2 lines, its manifest says 3"),
        ({"court": "合成外院"}, "whose key is not known here"),
        ({"first_sequence": 3}, "first_sequence lies behind last_sequence"),
        ({"count": "2"}, "must name court and sha256"),
        ({"count": True}, "must name court and sha256"),
        ({"court": ""}, "must name court and sha256"),
    ],
)
@pytest.mark.parametrize("sign", [True, False])
def test_what_does_not_match_is_refused(feed: Path, changes: dict[str, Any], message: str, sign: bool) -> None:
    """Even when the court itself signed it, and also when nobody did."""
    describe(feed, 1, 2, sign=sign, **changes)
    if not sign and "court" in changes and changes["court"]:
        assert verify(feed, COURTS, required=False) is not None
        return
    with pytest.raises(FeedRefused, match=message):
        verify(feed, COURTS, required=False)


def test_an_altered_feed_is_refused(feed: Path) -> None:
    """One byte is enough."""
    describe(feed, 1, 2)
    raw = bytearray(feed.read_bytes())
    raw[30] ^= 1
    feed.write_bytes(raw)
    with pytest.raises(FeedRefused, match="altered or cut"):
        verify(feed, COURTS, required=False)


@pytest.mark.parametrize("signature", ["", "AAAA", "!", 7, None, ["x"]])
def test_a_signature_that_is_none_is_refused(feed: Path, signature: Any) -> None:
    """A signature is there or it is right; null counts as unsigned and is refused where one is demanded."""
    describe(feed, 1, 2, sign=False, signature=signature)
    with pytest.raises(FeedRefused):
        verify(feed, COURTS, required=True)
    if signature is not None:
        with pytest.raises(FeedRefused, match="signature is wrong"):
            verify(feed, COURTS, required=False)


def test_another_courts_signature_is_refused(feed: Path) -> None:
    """The named court must have signed, not just any trusted one."""
    describe(feed, 1, 2)
    other = Ed25519PrivateKey.generate().public_key()
    with pytest.raises(FeedRefused, match="signature is wrong"):
        verify(feed, {COURT: other, "another": COURT_KEY.public_key()}, required=False)


def test_a_manifest_changed_after_signing_is_refused(feed: Path) -> None:
    """Fields we do not read are signed too."""
    describe(feed, 1, 2, note="first")
    path = beside(feed)
    path.write_text(path.read_text("utf-8").replace("first", "other", 1), "utf-8")
    content = json.loads(path.read_text("utf-8"))
    assert content.get("note") == "other" or "other_sequence" in content
    with pytest.raises(FeedRefused):
        verify(feed, COURTS, required=False)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff", b'{"a":"\\ud800"}', b"[" * 5000])
def test_what_is_no_json_object_is_refused(feed: Path, raw: bytes) -> None:
    """In one sentence, whatever the bytes."""
    beside(feed).write_bytes(raw)
    with pytest.raises(FeedRefused, match=r"is not one JSON object|must name"):
        verify(feed, COURTS, required=False)
