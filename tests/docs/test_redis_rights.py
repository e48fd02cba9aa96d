"""The server's user needs the commands that the operations guide names for it, and no others."""

import re
from pathlib import Path

from tests.docs.service import ROOT
from tests.index.servers import Server
from tests.paths.people import add, heartbeat, remove, resident_id
from tests.paths.stand import Stand, wait_for
from tests.ports import free_port

_ROW = re.compile(r"^\| the user may, on all keys of the namespace \| (.+?) \|", re.MULTILINE)
SELDOM = {"xtrim", "del", "cluster|slots", "asking"}
"""For journals of over 100 000 entries, for gaps in the feed, and on a cluster."""


def documented() -> list[str]:
    """The commands of the guide's row, as the server writes them: `function|load`."""
    row = _ROW.search((ROOT / "docs/operations.md").read_text("utf-8"))
    assert row
    return [name.lower().replace(" ", "|") for name in re.findall(r"`([A-Z ]+)`", row[1])]


def used(server: Server, before: dict[str, int]) -> set[str]:
    """Commands called since, by clients and by functions."""
    return {name for name, calls in called(server).items() if calls > before.get(name, 0)}


def called(server: Server) -> dict[str, int]:
    """Command -> how often it was called."""
    stats = server.command("INFO", "commandstats")
    return {name.removeprefix("cmdstat_"): int(row["calls"]) for name, row in stats.items()}


def work(stand: Stand) -> None:
    """What a deployment does with its store: lists in and out, service, epochs, an edge, a reload, the reports."""
    first = [add(number, f"M{number}", resident_id(number)) for number in range(1, 11)]
    stand.import_(stand.feed("first.jsonl", *first, remove(11, "M3")))
    checker = stand.serve("--index-timeout-ms", "2000")
    for command in (["build-snapshot"], ["status"]):
        ran = stand.run("checker", *command, *stand.where, "--json")
        assert ran.code == 0, ran
    edge = stand.edge(checker.address, "--centre-timeout-ms", "5000")
    wait_for("the edge in step", edge.in_step)
    stand.import_(stand.feed("more.jsonl", add(12, "M12", resident_id(12)), remove(13, "M5"), heartbeat(14)))
    wait_for("the addition", lambda: edge.status().feed_sequence == 14)
    bought = ["--target", edge.address, "--document", f"RESIDENT_ID:{resident_id(12)}", "flight"]
    assert stand.run("checker", "check", *bought).code == 3
    whole = [add(number, f"R{number}", resident_id(number)) for number in range(1, 16)]
    reload_ = stand.run("checker", "import", *stand.where, "--reload", "--allow-drop", stand.feed("all.jsonl", *whole))
    assert reload_.code == 0, reload_
    fleet = stand.run("checker", "fleet", *stand.where)
    assert fleet.code == 0, fleet
    assert edge.stop() == 0
    assert checker.stop() == 0


def test_the_rights_of_the_guide_are_enough(tmp_path: Path) -> None:
    """A user with the commands named, on all keys and nothing else, serves a whole deployment: the server refuses it
    nothing, and nothing is named in vain. Without CONFIG GET it goes on, and settings are unchecked."""
    server = Server(port=free_port())
    try:
        rights = [f"+{name}" for name in documented() if name != "asking"]
        server.command("ACL", "SETUSER", "xianxiao", "reset", "on", ">made-up", "~*", *rights)
        before = called(server)
        stand = Stand(tmp_path, f"redis://xianxiao:made-up@127.0.0.1:{server.port}")
        try:
            work(stand)
            assert refused(server) <= {"client|setinfo"}, "what redis-py says of itself when it connects, and no more"
            assert set(documented()) - used(server, before) == SELDOM
            server.command("ACL", "SETUSER", "xianxiao", "-config|get")
            blind = stand.run("checker", "status", *stand.where, "--json")
            assert blind.code == 0, blind
            assert refused(server) <= {"client|setinfo", "config|get"}
        finally:
            stand.close()
    finally:
        server.close()


def refused(server: Server) -> set[str]:
    """Commands for which the user had no right."""
    entries = [dict(zip(entry[::2], entry[1::2], strict=True)) for entry in server.command("ACL", "LOG")]
    return {entry[b"object"].decode() for entry in entries}
