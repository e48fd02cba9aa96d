"""Claims about the seals of the edges' stream: nothing said in a message can change without the seal refusing it."""

from hypothesis import given
from hypothesis import strategies as st

from checker.core.changes import Heartbeat, Position, additions_seal, heartbeat_seal
from checker.core.freshness import AsOf
from checker.core.key import Algorithm, DigestKey
from tests.builders import KEY, NOW

OTHER_KEY = DigestKey("test-1", Algorithm.BLAKE2B_128, bytes(32))
BASE, NEXT = Position(b"journal1", 7), Position(b"journal1", 9)
BEAT = Heartbeat(NEXT, AsOf(100, NOW, 0, 3), NOW, 250, bytes(range(16)), bytes(range(32)), signing_off=False)


@given(st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=4), st.data())
def test_a_seal_of_additions_holds_keys_base_and_position(keys: list[bytes], data: st.DataObject) -> None:
    """Any other byte in a key, another base, another position, another order or another secret: another seal."""
    seal = additions_seal(KEY, BASE, NEXT, keys)
    assert seal == additions_seal(KEY, BASE, NEXT, list(keys))
    place = data.draw(st.integers(0, 16 * len(keys) - 1))
    joined = bytearray(b"".join(keys))
    joined[place] ^= data.draw(st.integers(1, 255))
    changed = [bytes(joined[at : at + 16]) for at in range(0, len(joined), 16)]
    for other in (
        additions_seal(KEY, BASE, NEXT, changed),
        additions_seal(KEY, BASE, NEXT, [*keys, keys[0]]),
        additions_seal(KEY, BASE._replace(entry=8), NEXT, keys),
        additions_seal(KEY, BASE, NEXT._replace(entry=10), keys),
        additions_seal(KEY, BASE._replace(journal_id=b"journal2"), NEXT, keys),
        additions_seal(OTHER_KEY, BASE, NEXT, keys),
    ):
        assert other != seal


def test_a_seal_of_a_heartbeat_holds_every_number() -> None:
    """A heartbeat that says anything else, or is made under another secret, has another seal."""
    seals = {heartbeat_seal(KEY, BEAT), heartbeat_seal(OTHER_KEY, BEAT)}
    variants = [
        BEAT._replace(position=BASE),
        BEAT._replace(position=Position(b"journal2", 9)),
        BEAT._replace(as_of=BEAT.as_of._replace(feed_sequence=101)),
        BEAT._replace(as_of=BEAT.as_of._replace(feed_time_ms=NOW + 1)),
        BEAT._replace(as_of=BEAT.as_of._replace(gap_since_ms=NOW)),
        BEAT._replace(as_of=BEAT.as_of._replace(snapshot_epoch=4)),
        BEAT._replace(sent_ms=NOW + 1),
        BEAT._replace(silence_ms=0),
        BEAT._replace(centre_id=bytes(16)),
        BEAT._replace(rulebook_sha256=bytes(32)),
        BEAT._replace(signing_off=True),
    ]
    assert len(variants) == len(Heartbeat._fields) + len(AsOf._fields)  # position twice, each number of as_of, the rest
    seals.update(heartbeat_seal(KEY, beat) for beat in variants)
    assert len(seals) == 2 + len(variants)


def test_messages_of_different_kinds_never_share_a_seal() -> None:
    """The same bytes sealed for two purposes, or split differently between purpose and payload, differ."""
    assert KEY.seal(b"a", b"bc") != KEY.seal(b"ab", b"c")
    assert KEY.seal(b"a", b"bc") != KEY.seal(b"b", b"bc")
