"""Claims about `checker.lists.change_log`: what was applied can be applied again, after any crash while writing it."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checker.core.measure import Addition, Change, Exemption, Removal, State, Window
from checker.errors import UsageError
from checker.index.base import IndexKey
from checker.index.memory import MemoryIndex, MemoryStore
from checker.lists.change_log import ChangeLog, decode, encode
from tests.lists.builders import INDEX_KEY

_SEQUENCES = st.integers(1, 2**53 - 1)
_IDS = st.text("abcXYZ019._:/-", min_size=1, max_size=64)
_KEYS = st.binary(min_size=16, max_size=16)
_CHANGES: st.SearchStrategy[Change] = st.one_of(
    st.builds(
        Addition,
        _SEQUENCES,
        _IDS,
        st.dictionaries(_KEYS, st.binary(min_size=34, max_size=200), max_size=4),
        st.text(max_size=20).filter(str.isprintable),
        st.text("（）京执0123号", max_size=20),
    ),
    st.builds(Removal, _SEQUENCES, _IDS, st.sampled_from([State.SHIELDED, State.REVOKED]), st.text("ABC", max_size=9)),
    st.builds(
        Exemption,
        _SEQUENCES,
        _IDS,
        st.builds(Window, st.integers(0, 65535), st.integers(-(2**62), 2**62), st.integers(-(2**62), 2**62)),
        st.lists(_KEYS, max_size=3).map(tuple),
    ),
)
SOME: list[Change] = [
    Addition(1, "M1", {b"a" * 16: b"\1" * 40, b"b" * 16: b"\2" * 46}, "合成市第一人民法院", "（2026）京0105执1号"),
    Removal(2, "M2", State.REVOKED, "PERFORMED"),
    Exemption(3, "M1", Window(3, -5, 2**61), (b"a" * 16,)),
]


@given(st.lists(_CHANGES, max_size=5))
def test_what_is_encoded_is_decoded(changes: list[Change]) -> None:
    """Any changes, one after another, come back equal."""
    assert list(decode(b"".join(map(encode, changes)))) == changes


def everything(path: Path) -> list[Change]:
    """All changes of a log."""
    with ChangeLog(path, INDEX_KEY) as log:
        return list(itertools.chain.from_iterable(log.changes()))


def test_the_log_outlives_its_process(tmp_path: Path) -> None:
    """Appended in two sittings, read in order; an ended import leaves it clean."""
    path = tmp_path / "state" / "log"
    with ChangeLog(path, INDEX_KEY) as log:
        assert (log.fresh, log.clean) == (True, False)
        log.begin_import()
        log.append([encode(SOME[0])])
        log.append([])
        log.end_import()
        size = path.stat().st_size
    with ChangeLog(path, INDEX_KEY) as log:
        assert (log.fresh, log.clean) == (False, True)
        log.begin_import()
        assert (log.fresh, log.clean) == (False, False)
        log.end_import()
        assert path.stat().st_size == size
        log.begin_import()
    with ChangeLog(path, INDEX_KEY) as log:
        assert (log.fresh, log.clean) == (False, False)
        log.append([encode(change) for change in SOME[1:]])
    assert everything(path) == SOME
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_tail_torn_anywhere_is_cut_off(tmp_path: Path) -> None:
    """Whatever length of the last frame reached the disk, the frames before it are there and writing goes on."""
    path = tmp_path / "log"
    with ChangeLog(path, INDEX_KEY) as log:
        log.append([encode(SOME[0])])
        whole = path.stat().st_size
        log.append([encode(SOME[1])])
    raw = path.read_bytes()
    for length in range(whole, len(raw)):
        for tail in (raw[whole:length], b"\0" * (length - whole)):
            path.write_bytes(raw[:whole] + tail)
            with ChangeLog(path, INDEX_KEY) as log:
                assert not log.clean
                log.append([encode(SOME[2])])
            assert everything(path) == [SOME[0], SOME[2]]


def test_damage_before_the_end_is_refused(tmp_path: Path) -> None:
    """Any flipped byte of an earlier frame would lose changes silently, so the log is not used."""
    path = tmp_path / "log"
    with ChangeLog(path, INDEX_KEY) as log:
        start = path.stat().st_size
        log.append([encode(SOME[0])])
        end = path.stat().st_size
        log.append([encode(SOME[1])])
    raw = path.read_bytes()
    for place in range(start, end):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 0x55]) + raw[place + 1 :])
        with pytest.raises(UsageError, match="is damaged at byte"):
            ChangeLog(path, INDEX_KEY)


def test_a_header_torn_by_a_crash_is_written_again(tmp_path: Path) -> None:
    """A log that never got as far as its first change is new."""
    path = tmp_path / "log"
    ChangeLog(path, INDEX_KEY).close()
    raw = path.read_bytes()
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        with ChangeLog(path, INDEX_KEY) as log:
            assert log.fresh
        assert path.read_bytes() == raw


def test_another_key_or_another_file_is_refused(tmp_path: Path) -> None:
    """A log's digests mean nothing under another key."""
    path = tmp_path / "log"
    ChangeLog(path, INDEX_KEY).close()
    with pytest.raises(UsageError, match="belongs to another digest key"):
        ChangeLog(path, IndexKey("k1", b"another-check-val"[:16]))
    path.write_bytes(b"something else")
    with pytest.raises(UsageError, match="is no change log"):
        ChangeLog(path, INDEX_KEY)
    assert path.read_bytes() == b"something else"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """One line with the remedy."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--state-dir"):
        ChangeLog(tmp_path / "file" / "log", INDEX_KEY)


async def test_a_replay_rebuilds_an_empty_store(tmp_path: Path) -> None:
    """Applied to nothing, the log gives what the index had."""
    store, again = MemoryStore(), MemoryStore()
    index, copy = MemoryIndex(store), MemoryIndex(again)
    await index.open(INDEX_KEY, create=True)
    await copy.open(INDEX_KEY, create=True)
    with ChangeLog(tmp_path / "log", INDEX_KEY) as log:
        for change in SOME:
            await index.apply([change])
            log.append([encode(change)])
        log.end_import()
        assert await log.replay(copy) == len(SOME)
        assert await log.replay(copy) == len(SOME)
    assert again.records == store.records
    assert again.measures == store.measures
