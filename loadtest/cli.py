"""The `loadtest` command: one verb per job, each with a help text worth reading.

Exit codes: 0 done, 2 wrong input (one line on standard error, with the remedy), 1 the disk or the machine refused.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

try:
    from loadtest import ask, compare, planning, run, trace
except ModuleNotFoundError as missing:
    raise SystemExit(
        f"loadtest: the package {missing.name!r} is not installed: pip install 'xianxiao[loadtest]'"
    ) from None
from loadtest.make_feed import BROKEN, FEED, MANIFEST, PEOPLE, SHANGHAI, make_feed

MOST_PEOPLE = 5_000_000
_DEFAULT_COURT = "合成法院"

_MAKE_FEED = """\
Make a court feed of invented people, and the list of whom to ask and what the answer must be.

Written into DIR:
  feed.jsonl                 the feed: additions, removals, revocations, exemptions, heartbeats; sequence 1 to the end
  feed.jsonl.manifest.json   sequence range, count, SHA-256, court, and with --sign-with an Ed25519 signature
  people.csv                 person, document_type, number, country, name, purchase, service_time, outcome, reason, why
  broken.csv                 with --broken: line, cause, field of each line an importer must refuse

About half of the people are in some measure. Equal --people, --seed, --as-of and --broken give equal bytes. Every
number comes from a range nobody real can have. Expected answers are written from plain tables of the law
(loadtest/expectations.py), never by the checker. In people.csv a purchase is its kind and the contract's field names,
and a reason may be two words joined by "|", either being right. The answers hold for a day after --as-of; the feed
counts as silent from 24 hours after it.
"""

_EXAMPLES = """\
examples:
  loadtest make-feed --people 100000 --seed 1 --out /tmp/feed
  loadtest make-feed --people 2000 --seed 7 --as-of 2025-06-01T12:00:00+08:00 --broken 64 --out /tmp/feed
  openssl genpkey -algorithm ed25519 -out court.pem
  loadtest make-feed --people 1000 --seed 1 --sign-with court.pem --court hangzhou --out /tmp/feed
"""


class _InputError(Exception):
    """Wrong input; the text is the one line to print."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="loadtest", description="Makes feeds and traffic for a checker, and judges the answers."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    feed = verbs.add_parser(
        "make-feed",
        help="a court feed of invented people, with the answers that must come out",
        description=_MAKE_FEED,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    feed.add_argument("--people", type=int, required=True, metavar="N", help="how many to ask about, 1 to 5 000 000")
    feed.add_argument("--seed", type=int, required=True, metavar="S", help="any whole number; another seed, others")
    feed.add_argument(
        "--as-of",
        metavar="TIME",
        help="the moment the feed ends and dates are counted from, RFC 3339 (default: now; it is printed)",
    )
    feed.add_argument("--broken", type=int, default=0, metavar="K", help="lines an importer must refuse (default 0)")
    feed.add_argument("--sign-with", type=Path, metavar="PEM", help="Ed25519 private key, PEM without a password")
    feed.add_argument("--court", metavar="NAME", help="the manifest's court; needed with --sign-with")
    feed.add_argument("--out", type=Path, required=True, metavar="DIR", help="created when missing")
    feed.add_argument("--force", action="store_true", help="write into DIR although it is not empty")
    feed.set_defaults(run=_make_feed)
    ask.add(verbs)
    run.add(verbs)
    compare.add(verbs)
    trace.add(verbs)
    planning.add(verbs)
    return parser


def _moment(text: str | None) -> datetime:
    if text is None:
        return datetime.now(SHANGHAI)
    remedy = "write it like 2025-06-01T12:00:00+08:00"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _InputError(f"--as-of {text!r} is not a time; {remedy}") from None
    if moment.tzinfo is None:
        raise _InputError(f"--as-of {text!r} names no time zone; {remedy}")
    if not 2010 <= moment.year <= 2098:
        raise _InputError("--as-of must lie in 2010 to 2098: birth dates are counted from it")
    return moment


def _signer(path: Path | None) -> Ed25519PrivateKey | None:
    if path is None:
        return None
    remedy = "make one with `openssl genpkey -algorithm ed25519 -out court.pem`"
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise _InputError(f"--sign-with {path}: {error.strerror}; {remedy}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _InputError(f"--sign-with {path}: not a PEM private key without a password; {remedy}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise _InputError(f"--sign-with {path}: not an Ed25519 key; {remedy}")
    return key


def _folder(out: Path, *, force: bool) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()) and not force:
            raise _InputError(
                f"--out {out} is not empty; name another folder, or add --force to write over what is there"
            )
    except (FileExistsError, NotADirectoryError):
        raise _InputError(f"--out {out} is a file; name a folder") from None
    except OSError as error:
        raise _InputError(f"--out {out}: {error.strerror}; name a folder that may be written to") from None
    return out


def _make_feed(args: argparse.Namespace) -> int:
    if not 1 <= args.people <= MOST_PEOPLE:
        raise _InputError(f"--people must be 1 to {MOST_PEOPLE}, not {args.people}")
    if not 0 <= args.broken <= args.people:
        raise _InputError(f"--broken must be 0 to --people ({args.people}), not {args.broken}")
    if args.sign_with is not None and not args.court:
        raise _InputError("--sign-with needs --court NAME: the name under which the importer trusts the key")
    as_of, key = _moment(args.as_of), _signer(args.sign_with)
    out = _folder(args.out, force=args.force)
    began = time.perf_counter()
    made = make_feed(
        out, args.people, args.seed, as_of, broken=args.broken, court=args.court or _DEFAULT_COURT, key=key
    )
    seconds = time.perf_counter() - began
    print(f"made {out} in {seconds:.1f} s, as of {made.as_of}")
    print(f"  {FEED:<26} {made.lines} lines, of which {made.broken} to be refused")
    print(f"  {MANIFEST:<26} {'signed for ' + args.court if key else 'not signed'}")
    print(f"  {PEOPLE:<26} {made.rows} questions about {made.people} people")
    if made.broken:
        print(f"  {BROKEN:<26} where and why lines are to be refused")
    print(f"again: add --as-of {made.as_of}")
    print(f"next:  checker import --index embedded:/tmp/index {out / FEED}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except _InputError as wrong:
        print(f"loadtest {args.verb}: {wrong}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the summary has seen enough; the files are complete
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"loadtest {args.verb}: {error}; free some space or name another --out", file=sys.stderr)
        return 1
