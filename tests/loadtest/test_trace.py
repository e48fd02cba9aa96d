"""Claims about traces: replayed byte for byte; a file that loadtest did not write, or not wholly, is never replayed."""

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import trace
from loadtest.cli import main
from loadtest.make_feed import SHANGHAI, make_feed
from loadtest.sla import locate
from loadtest.sla import read as read_sla
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


AS_OF = datetime(2025, 6, 1, 12, tzinfo=SHANGHAI)


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


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
    make_feed(_new(folder / "feed"), 2_000, 5, AS_OF)
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


# -- the command


def test_the_command_writes_what_the_workload_makes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`loadtest trace` writes the orders of the SLA's tenants, profile and seed, at the rate and length asked for."""
    make_feed(_new(folder / "verb"), 2_000, 5, AS_OF)
    people, path = folder / "verb" / "people.csv", folder / "verb.trace"
    arguments = ["trace", "--sla", "airline", "--people", str(people), "--out", str(path), "--seed", "7"]
    assert main([*arguments, "--rate", "200", "--seconds", "5"]) == 0
    airline = read_sla(locate("airline"))
    wanted = orders(People.read(people), airline.tenants, rate_per_s=200, seconds=5, seed="7", profile=airline.profile)
    assert list(trace.read(path)) == list(wanted)
    assert "--replay" in capsys.readouterr().out


def test_wrong_input_is_exit_2_with_its_remedy(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing SLA, one with problems, a file that is no people.csv: one line each, nothing written."""
    bad, people, path = folder / "bad.toml", folder / "bad.csv", folder / "never.trace"
    bad.write_text("name = 3\n", "utf-8")
    people.write_text("a,b\n", "utf-8")
    for sla, words in (("nothing.toml", "No such file"), (str(bad), "name: must be a text"), ("airline", "make-feed")):
        assert main(["trace", "--sla", sla, "--people", str(people), "--out", str(path)]) == 2
        assert words in capsys.readouterr().err
    assert not path.exists()
