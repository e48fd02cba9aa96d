"""Claims about `checker fleet`: every edge is there, who lags is named with the reason, nobody else is."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from checker import keys as key_files
from checker.cli.fleet import report
from checker.core.key import Algorithm
from checker.index.base import IndexKey, Publication
from checker.index.urls import open_index
from proto.checker.v1 import filter_pb2 as pb
from tests.cli.console import run
from tests.index.servers import Server

CENTRE, OTHER = b"c" * 16, b"o" * 16
PUBLISHED = Publication(7, CENTRE, b"", b"", b"", 0)
NOW = 1_800_000_000_000


def a_status(**fields: Any) -> pb.EdgeStatus:
    """An edge that does well."""
    lag_ms = fields.pop("lag_ms", 400)
    well: dict[str, Any] = {
        "edge_id": "aaaabbbbccccdddd",
        "name": "rail",
        "version": "0.1.0",
        "centre_id": CENTRE,
        "epoch": 7,
        "position": pb.Position(journal_id=b"j" * 8, entry=12),
        "feed_sequence": 1234,
        "centre": pb.CENTRE_STATE_REACHABLE,
        "checks": 20_000,
        "hits": 200,
        "false_positives": 4,
        "canary_in_filter": True,
    }
    status = pb.EdgeStatus(**{**well, **fields})
    if lag_ms is not None:
        status.lag.FromMilliseconds(lag_ms)
    return status


@pytest.mark.parametrize(
    ("changed", "heard_s", "reasons"),
    [
        ({}, 5, []),
        ({"epoch": 6}, 5, []),
        ({"lag_ms": 60_000}, 60, []),
        ({"epoch": 5}, 5, ["its epoch 5 is older than the last two"]),
        ({"centre_id": OTHER, "epoch": 90}, 5, ["its snapshot is another centre's"]),
        ({"lag_ms": 61_000}, 5, ["its filter is 61 s behind"]),
        ({"lag_ms": 7_200_000}, 5, ["its filter is 2 h behind"]),
        ({"lag_ms": None, "epoch": 0, "canary_in_filter": False}, 5, ["it has no filter yet"]),
        ({}, 61, ["not heard of for 61 s"]),
        (
            {"canary_in_filter": False},
            5,
            ["the canary is not in its filter: what the feed lists does not reach it"],
        ),
        ({"alarms": ["the disk is full"]}, 5, ["the disk is full"]),
    ],
)
def test_who_lags_is_named_with_the_reason(changed: dict[str, Any], heard_s: int, reasons: list[str]) -> None:
    """Each sign of trouble by itself, and the values next to it that are none."""
    fleet = report(PUBLISHED, [(NOW - heard_s * 1000, a_status(**changed).SerializeToString())], NOW)
    (edge,) = fleet["edges"]
    assert edge["attention"] == reasons


def test_json_holds_every_field_of_a_report() -> None:
    """Whatever EdgeStatus has, the JSON has: a field that is added there is not forgotten here."""
    status = a_status()
    status.canary_time.FromMilliseconds(NOW)
    (edge,) = report(None, [(NOW, status.SerializeToString())], NOW)["edges"]
    names = {"lag": "lag_seconds"}
    assert {names.get(field.name, field.name) for field in pb.EdgeStatus.DESCRIPTOR.fields} <= edge.keys()
    assert edge["lag_seconds"] == 0.4
    assert edge["hit_ratio"] == 0.01
    assert edge["false_positive_ratio"] == 0.0002
    json.dumps(edge)


async def test_the_command_shows_what_the_index_keeps(tmp_path: Path) -> None:
    """Over a real store: a table with every edge, laggards below it, exit 0; --json the same."""
    server = Server()
    keys = key_files.new(Algorithm.BLAKE2B_128, "k-fleet")
    key_file = tmp_path / "key.json"
    key_files.save(key_file, keys)
    index = open_index(server.url)
    command = ("fleet", "--index", server.url, "--key-file", key_file)
    try:
        await index.open(IndexKey(keys.active, keys.digest_key.check_value), create=True)
        empty = run(*command)
        assert (empty.code, empty.out) == (0, "no edge has reported within a week\n")
        before = time.time()
        await index.publications.report_edge("loopback a", a_status().SerializeToString())
        late = a_status(edge_id="eeeeffff", name="hotel", lag_ms=90_000, centre=pb.CENTRE_STATE_SIGNED_OFF, hits=0)
        await index.publications.report_edge("loopback b", late.SerializeToString())
        shown = run(*command, COLUMNS="130")
        assert (shown.code, shown.err) == (0, "")
        lines = shown.out.splitlines()
        heads = "edge version epoch behind feed centre checks hits false pos. advice canary heard"
        assert lines[0].split() == heads.split()
        assert lines[1].startswith("! hotel eeeeffff")
        assert " 90 s " in lines[1]
        assert "signed off" in lines[1]
        assert lines[2].startswith("rail aaaabbbb")
        assert all(
            text in lines[2] for text in (" 7 ", " 0.4 s ", " 1,234 ", " 20,000 ", " 1.00% ", " 0.020% ", " yes ")
        )
        assert lines[3:] == ["! hotel eeeeffff: its filter is 90 s behind"]
        fleet = json.loads(run(*command, "--json").out)
        assert [edge["edge_id"] for edge in fleet["edges"]] == ["eeeeffff", "aaaabbbbccccdddd"]
        assert all(edge["heard_seconds_ago"] <= time.time() - before + 2 for edge in fleet["edges"])
    finally:
        await index.close()
        server.close()
