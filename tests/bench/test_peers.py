"""What the bench says when a peer is missing, and what it takes from the loader's words."""

import math
from pathlib import Path

import pytest

from bench import __main__ as bench
from bench import peers
from bench.peers import cerbos, h2load
from bench.result import Result, compared

SAID = """\
finished in 2.13s, 940.24 req/s, 127.79KB/s
requests: 2000 total, 2000 started, 2000 done, {succeeded} succeeded, 0 failed, 0 errored, 0 timeout
status codes: 2000 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 271.83KB (278354) total, 5.97KB (6116) headers (space savings 94.73%), 179.69KB ({data}) data
"""


def test_the_loaders_seconds_are_read_when_every_call_was_answered() -> None:
    """2 000 answers of 92 bytes came back within 2.13 s."""
    assert h2load._seconds(SAID.format(succeeded=2000, data=184000), 2000, 92) == 2.13


@pytest.mark.parametrize(("succeeded", "data"), [(1999, 184000), (2000, 0), (2000, 92000)])
def test_a_measurement_with_refused_calls_is_none(succeeded: int, data: int) -> None:
    """gRPC refuses with HTTP status 200 and no message: the bytes that are missing give it away."""
    with pytest.raises(AssertionError):
        h2load._seconds(SAID.format(succeeded=succeeded, data=data), 2000, 92)


def test_a_peer_that_cannot_be_installed_has_a_row_that_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without npm and h2load on PATH nothing fails; the row names what is missing and holds no numbers."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(cerbos, "_INTO", tmp_path)
    with pytest.raises(cerbos.Unavailable, match="npm"):
        cerbos.install()
    (row,) = peers._servers(2, 100)
    assert "nghttp2-client" in row.note
    assert (bench._number(row.value), bench._ratio(row)) == ("–", "–")
    assert bench._plain(row)["value"] is None


def test_a_program_that_is_not_the_known_one_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its digest is compared before it starts."""
    program = tmp_path / "node_modules" / cerbos.PACKAGE / "cerbos-linux-x64"
    program.parent.mkdir(parents=True)
    program.write_bytes(b"another")
    monkeypatch.setattr(cerbos, "_INTO", tmp_path)
    with pytest.raises(cerbos.Unavailable, match="not the 0"):
        cerbos.install()


def test_rounds_are_compared_one_by_one() -> None:
    """The median of the rounds' ratios, with its quartiles: one slow round moves neither value far."""
    ratio, spread = compared([2.0, 4.0, 6.0, 8.0, 100.0], [1.0, 2.0, 3.0, 4.0, 5.0])
    assert (ratio, spread) == (2.0, (2.0, 2.0))
    assert bench._ratio(Result("", 1.0, "", "", 1.0, ratio, "", "", (1.9, 2.1))) == "2 (1.9 to 2.1)"
    assert math.isnan(Result.not_measured("a", "why").ratio)
