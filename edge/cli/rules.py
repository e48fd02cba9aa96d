"""`edge rules`: what an edge answers, by the age of its filter and whether the centre answers; from the code.

The rulebook is the one in force: the centre's, as the snapshot in the data directory signs it. An edge that has no
snapshot judges by the one that ships with its version until it has, and so does this command.
"""

import argparse
import time
from collections.abc import Iterator

from checker import keys, rulebooks
from checker.core.decision import Decision
from checker.core.purchase import Flight
from checker.core.rules import Rulebook
from checker.core.stand_in import Age, Failure, is_asked, stand_in
from checker.errors import CheckerError
from edge.assembly import EdgeSettings
from edge.cli.common import add_settings, settings_of, table
from edge.config import Settings
from edge.snapshot_store import SnapshotStore

_HEAD = ["filter", "centre answers", "centre unreachable, late or signed off"]


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = commands.add_parser(
        "rules",
        help="what is answered without the centre",
        description="Print what an edge answers by how far its filter lags behind the centre, with and without the "
        "centre, for the settings in force (flags, EDGE_* variables, --config) and the rulebook of the snapshot in the "
        "data directory. Without the centre it bars nobody.",
        epilog="examples:\n  edge rules --data ./edge-data --key-file ./edge-key.json\n  edge rules --fresh-seconds 30",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_settings(parser, ("data", "key_file", "fresh_seconds", "stale_hours"))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    args.centre = "127.0.0.1:50051"  # required, and of no account here
    chosen = settings_of(args)
    settings = chosen.answers
    rulebook, whose = _in_force(chosen)
    strict = sorted(rulebook.stand_in_strict)
    print(f"rulebook {rulebook.version}, {whose}")
    print("purchases that no measure can forbid are ALLOWED throughout\n")
    table([_HEAD, *_rows(settings, rulebook, strict=False)], head=True)
    if strict:
        print(f"\nthe rulebook is stricter with {', '.join(strict)}:\n")
        table([_HEAD, *_rows(settings, rulebook, strict=True)], head=True)
    else:
        print("\nthe rulebook is stricter with no kind of purchase")
    print("\nan UNKNOWN does not stop the sale: it is asked again when the centre is back, and the outcome offered")
    return 0


def _in_force(settings: Settings) -> tuple[Rulebook, str]:
    """The rulebook an edge with these settings judges by, and whose it is."""
    shipped, directory = rulebooks.load(None), settings.directory
    ours = "which ships with this version: "
    if not directory.is_dir():
        if settings.data is not None:
            raise CheckerError(f"--data {directory}: is no directory")
        return shipped, ours + "--data names the directory of an edge"
    store = SnapshotStore(directory, keys.load_edge(settings.keys))
    snapshot = store.snapshot()
    if snapshot is None:
        return shipped, ours + (store.refused or f"{directory} has no snapshot yet")
    of = f"of the snapshot in {directory}, epoch {snapshot.header.epoch}"
    if snapshot.rulebook is None:
        version = snapshot.header.rulebook_version
        return shipped, ours + f"the one {of}, {version}, cannot be read by it, so the centre is asked about everything"
    return snapshot.rulebook, of


def _rows(settings: EdgeSettings, rulebook: Rulebook, *, strict: bool) -> Iterator[list[str]]:
    screened = rulebook.screen(Flight(), time.time_ns() // 1_000_000)
    ages = {
        Age.FRESH: f"fresh (lag up to {settings.fresh_seconds} s)",
        Age.STALE: f"stale (lag up to {settings.stale_hours} h)",
        Age.OLD: f"older than {settings.stale_hours} h, or none",
    }
    for age, text in ages.items():
        for hit in (False, True):
            alone = {_words(stand_in(screened, age, failure, hit=hit, strict=strict)) for failure in Failure}
            here = "asked" if is_asked(age, hit=hit) else _words(screened.miss)
            yield [f"{text}, {'hit' if hit else 'miss'}", here, " or ".join(sorted(alone))]


def _words(decision: Decision) -> str:
    return " + ".join([decision.outcome.name, *(advisory.name for advisory in decision.advisories)])
