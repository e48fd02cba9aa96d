"""Claims about traces: replayed byte for byte; a file that loadtest did not write, or not wholly, is never replayed."""

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import trace
from loadtest.make_feed import SHANGHAI, make_feed
from loadtest.trace import OUTCOMES, BadTrace
from loadtest.workload import NIGHTLY, RPCS, TENANTS, Item, Order, People, orders

ITEMS = st.builds(Item, st.binary(max_size=300), st.sampled_from(OUTCOMES), st.integers(0, 2**32 - 1))
ORDERS = st.lists(
    st.builds(
        Order,
        st.floats(0, 1e6),
        st.text(min_size=1, max_size=20),
        st.sampled_from(RPCS),
        st.lists(ITEMS, min_size=1, max_size=9).map(tuple),
    ),
    max_size=20,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where traces go."""
    return tmp_path_factory.mktemp("traces")


@given(made=ORDERS)
def test_what_is_read_is_what_was_written(folder: Path, made: list[Order]) -> None:
    """Any orders come back equal: starts to the last bit, requests to the last byte."""
    path = folder / "some.trace"
    assert trace.write(path, made) == len(made)
    assert list(trace.read(path)) == made


def test_a_run_s_orders_are_replayed_and_two_traces_of_one_seed_are_the_same_file(folder: Path) -> None:
    """Invented traffic of all tenants, batches of a thousand too, comes back; the same seed makes the same bytes."""
    (folder / "feed").mkdir()
    make_feed(folder / "feed", 2_000, 5, datetime(2025, 6, 1, 12, tzinfo=SHANGHAI))
    people = People.read(folder / "feed" / "people.csv")
    made = [
        list(orders(people, (*TENANTS, NIGHTLY), rate_per_s=3_000, seconds=4, seed=seed, profile="burst"))
        for seed in (1, 1, 2)
    ]
    paths = [folder / f"{number}.trace" for number in range(3)]
    for path, each in zip(paths, made, strict=True):
        trace.write(path, each)
        assert list(trace.read(path)) == each
    assert paths[0].read_bytes() == paths[1].read_bytes() != paths[2].read_bytes()


@given(data=st.data(), made=ORDERS)
def test_a_changed_or_cut_trace_gives_no_order(folder: Path, data: st.DataObject, made: list[Order]) -> None:
    """One byte changed, missing or added anywhere: refused before the first order."""
    path = folder / "spoiled.trace"
    trace.write(path, made)
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    changed = bytes([whole[place] ^ data.draw(st.integers(1, 255))])
    for spoiled in (whole[:place] + changed + whole[place + 1 :], whole[:place], whole + b"\0"):
        path.write_bytes(spoiled)
        with pytest.raises(BadTrace):
            trace.read(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not a trace of loadtest"),
        (b'{"seq":1,"op":"add"}\n', "is not a trace of loadtest"),
        (trace.MAGIC + b"\x09" + bytes(60), "another version"),
        (trace.MAGIC + bytes([trace.VERSION]), "was cut or changed"),
    ],
)
def test_other_files_are_refused_by_what_is_wrong_with_them(folder: Path, content: bytes, words: str) -> None:
    """An empty file, a feed, another version and a bare header each say what they are."""
    path = folder / "other"
    path.write_bytes(content)
    with pytest.raises(BadTrace, match=words):
        trace.read(path)


def test_a_writer_that_fails_leaves_no_trace(folder: Path) -> None:
    """When orders stop coming with an error, the trace that was there before is still there, whole."""
    path = folder / "kept.trace"
    order = Order(0.5, "rail", "Check", (Item(b"x", "ALLOWED", 7),))
    trace.write(path, [order])

    def breaking() -> Iterator[Order]:
        yield order
        raise OSError(os.strerror(28))

    with pytest.raises(OSError, match="space"):
        trace.write(path, breaking())
    assert list(trace.read(path)) == [order]
    assert not list(folder.glob("*.part"))
