"""`checker check`: one question by hand, for operators and integrators.

Three steps, nothing else: flags become a CheckRequest (the kinds of purchase are a table of their own,
`check_kinds.KINDS`), one call is made, the answer is printed (`check_answer`). The document is read from a prompt or
from standard input, because arguments show in process lists; it goes into the request and nowhere else.
"""

import argparse
import asyncio
import getpass
import math
import os
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checker.cli.check_kinds import KINDS, NEEDED, PurchaseKind
from checker.errors import CheckerError, UsageError
from checker.terminal import complain

if TYPE_CHECKING:
    from proto.checker.v1.check_pb2 import CheckRequest, CheckResponse

DEFAULT_TARGET = "127.0.0.1:50051"
EXIT_CODES = {"ALLOWED": 0, "BARRED": 3, "UNKNOWN": 4, "INVALID_DOCUMENT": 5}
NO_ANSWER = 1
USAGE = 2

_SHANGHAI = timezone(timedelta(hours=8))

_DESCRIPTION = """\
Ask a running service one question: may this document buy this thing?

The document is TYPE:NUMBER, or a bare number whose type is not known. Give it at the prompt or as the first line of
standard input (a second line may hold the name): arguments can be read by everyone on this machine. --document and
--name are there for synthetic numbers. An empty line asks about the purchase alone, which is enough where no measure
can forbid it. Options may stand before or after KIND.
"""
_EPILOG = """\
TYPE is RESIDENT_ID, HMT_RESIDENCE_PERMIT, FOREIGN_PERMANENT_RESIDENT_ID, PRC_PASSPORT, HK_MACAU_PASSPORT,
FOREIGN_PASSPORT (with --country), HK_MACAU_TRAVEL_PERMIT, TAIWAN_TRAVEL_PERMIT, MAINLAND_TRAVEL_PERMIT,
UNIFIED_SOCIAL_CREDIT_CODE, ORGANISATION_CODE or OTHER. A TIME is RFC 3339; without an offset it is
Beijing time, without a time of day its midnight.

examples:
  checker check train G1 O                                            asks for the document at a prompt
  checker check --json flight < document.txt                          document.txt: RESIDENT_ID:440524188001010014
  checker check --document RESIDENT_ID:440524188001010014 train D301 D --seat-name 优选一等座
  checker check --service-time 2026-12-24T08:00 lodging 5             `checker check lodging --help` for its arguments
  checker check --target check.example:443 --ca ca.pem --cert me.pem --key me.key insurance --premium 80000 --region GD

exit codes: 0 allowed, 3 barred, 4 unknown, 5 invalid document, 2 wrong usage, 1 no answer.
"""
_SUB_EPILOG = "The options of `checker check` (--target, --json, ...) may stand here too."


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command with a sub-command for every kind of purchase."""
    parser = commands.add_parser(
        "check",
        help="ask a running service one question",
        usage="checker check [OPTION ...] KIND ...",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_options(parser, hidden=False)
    kinds = parser.add_subparsers(
        dest="purchase", metavar="KIND", required=True, title="kinds of purchase", prog="checker check"
    )
    for kind in KINDS:
        sub = kinds.add_parser(
            kind.command,
            help=kind.help,
            description=f"Ask about {kind.help}.",
            epilog=f"example:\n  checker check {kind.example}\n\n{_SUB_EPILOG}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for argument in kind.arguments:
            if argument.flags:
                sub.add_argument(*argument.flags, dest=argument.field, **argument.options)
            else:
                options = dict(argument.options)
                if "choices" not in options:
                    options.setdefault("metavar", argument.field.upper())
                sub.add_argument(argument.field, **options)
        _add_options(sub, hidden=True)
        sub.set_defaults(purchase_kind=kind)
    parser.set_defaults(run=run)


def _add_options(parser: argparse.ArgumentParser, *, hidden: bool) -> None:
    """The options of every kind; the hidden twin after KIND overrides only when it is given."""
    group = parser.add_argument_group("options of the question and the call")

    def option(flag: str, text: str, default: Any = None, **options: Any) -> None:
        if hidden:
            group.add_argument(flag, help=argparse.SUPPRESS, default=argparse.SUPPRESS, **options)
        else:
            group.add_argument(flag, help=text, default=default, **options)

    option(
        "--target",
        f"HOST:PORT or unix:PATH of the service (default {DEFAULT_TARGET}; CHECKER_TARGET)",
        os.environ.get("CHECKER_TARGET") or DEFAULT_TARGET,
        metavar="ADDR",
    )
    option("--document", "for synthetic numbers only: it shows in process lists", metavar="TYPE:NUMBER")
    option("--country", "issuing country of a foreign passport, ISO 3166-1 alpha-3", "", metavar="XXX")
    option("--name", "name as on the document; SURNAME/GIVEN in Latin letters", metavar="N")
    option("--act-time", "moment of purchase (default now)", metavar="TIME", type=_time)
    option("--service-time", "moment of travel or stay (default the moment of purchase)", metavar="TIME", type=_time)
    option("--min-feed-sequence", "the answer must know the feed this far", 0, metavar="N", type=_sequence)
    option("--trace", "show the steps taken (operators, courts, loopback)", False, action="store_true")
    option("--json", "the answer as JSON, fields named as in the contract", False, action="store_true")
    option("--timeout", "seconds to wait for the answer (default 5)", 5.0, metavar="S", type=_seconds)
    option("--ca", "PEM of the authority of the server's certificate: turns on TLS", metavar="FILE", type=Path)
    option("--cert", "PEM of your certificate: mutual TLS", metavar="FILE", type=Path)
    option("--key", "PEM of its private key", metavar="FILE", type=Path)
    option("--server-name", "the name in the server's certificate, if not the host of ADDR", metavar="NAME")


def _time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=_SHANGHAI)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError("must be a time such as 2026-12-24T08:00:00+08:00 or 2026-12-24") from None


def _sequence(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 2**64):
        raise argparse.ArgumentTypeError("must be a whole number, 0 or more")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError("must be a number of seconds above 0, at most 3600")
    return value


# --- the question ------------------------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> int:
    """Ask, print the answer; the exit code says the outcome."""
    if args.purchase in NEEDED:
        when, field, text = NEEDED[args.purchase]
        if getattr(args, when) and getattr(args, field) is None:
            raise UsageError(text)
    request = _request(args)
    answer = asyncio.run(_ask(args, request))
    if args.json:
        from google.protobuf.json_format import MessageToJson

        print(MessageToJson(answer, preserving_proto_field_name=True, ensure_ascii=False))
    else:
        from checker.cli.check_answer import show

        show(answer)
    return _exit_code(answer)


def _request(args: argparse.Namespace) -> "CheckRequest":
    from proto.checker.v1 import check_pb2 as pb

    request = pb.CheckRequest(min_feed_sequence=args.min_feed_sequence, with_trace=args.trace)
    kind: PurchaseKind = args.purchase_kind
    try:
        message = getattr(request.purchase, kind.kind)
        message.SetInParent()  # a kind without attributes is still a kind
        for argument in kind.arguments:
            value = getattr(args, argument.field)
            if value is not None:
                argument.fill(message, argument.field, value)
        _fill_subject(request.subject, args, _document_types(pb))
    except (ValueError, TypeError):  # protobuf's own text would repeat the value
        raise UsageError("an argument is not text in UTF-8, or a number is beyond 32 bits") from None
    for name, moment in (("act_time", args.act_time), ("service_time", args.service_time)):
        if moment is not None:
            getattr(request, name).FromDatetime(moment)
    return request


def _document_types(pb: Any) -> dict[str, int]:
    prefix = "DOCUMENT_TYPE_"
    return {word.removeprefix(prefix): number for word, number in pb.DocumentType.items() if number}


def _fill_subject(subject: Any, args: argparse.Namespace, types: dict[str, int]) -> None:
    text, name = args.document, args.name
    if text is None:
        text, second = _read_document(ask_name=name is None)
        name = second if name is None else name
    if text:
        word, colon, number = text.replace("：", ":").partition(":")
        if colon:
            word = word.strip().upper().replace("-", "_")
            if word not in types:
                raise UsageError(f"the document's TYPE must be one of {', '.join(types)}, before a colon")
            subject.document.type = types[word]
        subject.document.number = number.strip() if colon else word.strip()
        subject.document.country = args.country.strip().upper()
        if not subject.document.number:
            raise UsageError("the document has no number: give TYPE:NUMBER")
    if name:
        subject.name = name


def _read_document(*, ask_name: bool) -> tuple[str, str]:
    """The document's line and the name's, each "" if left out: hidden at a terminal, else from standard input."""
    if sys.stdin is not None and sys.stdin.isatty():
        try:
            text = getpass.getpass("Document, TYPE:NUMBER (hidden; Enter for none): ").strip()
            name = getpass.getpass("Name (hidden; Enter for none): ").strip() if text and ask_name else ""
        except EOFError:
            return "", ""
        return text, name
    if sys.stdin is None:
        return "", ""
    try:
        return sys.stdin.readline().strip().removeprefix("\ufeff"), sys.stdin.readline().strip()
    except UnicodeDecodeError:
        raise UsageError("standard input is not text in UTF-8") from None


async def _ask(args: argparse.Namespace, request: "CheckRequest") -> "CheckResponse":
    import grpc

    from checker.rpc.client import open_channel
    from proto.checker.v1 import check_pb2_grpc

    async with open_channel(
        args.target, ca=args.ca, cert=args.cert, key=args.key, server_name=args.server_name
    ) as channel:
        stub: Any = check_pb2_grpc.CheckServiceStub(channel)
        try:
            answer: CheckResponse = await stub.Check(request, timeout=args.timeout)
        except grpc.aio.AioRpcError as error:
            raise _explained(error, args) from None
    return answer


def _explained(error: Any, args: argparse.Namespace) -> CheckerError:
    """What a failed call means to the person at the keyboard, and what to do."""
    import grpc

    details = error.details() or "no reason given"
    match error.code():
        case grpc.StatusCode.UNAVAILABLE:
            tls = "does it trust --cert and match --ca?" if args.ca else "or does it want TLS (--ca)?"
            return CheckerError(f"cannot reach {args.target}: is `checker serve` running there? {tls}")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return CheckerError(f"{args.target} gave no answer within {args.timeout:g} s: try a longer --timeout")
        case grpc.StatusCode.INVALID_ARGUMENT:
            return UsageError("\n".join(_violations(error)) or details)
        case grpc.StatusCode.PERMISSION_DENIED | grpc.StatusCode.UNAUTHENTICATED:
            return CheckerError(f"{args.target} refuses this caller: {details}")
        case grpc.StatusCode.UNIMPLEMENTED:
            return CheckerError(f"{args.target} serves no checker.v1.CheckService: is it the right address?")
        case code:
            return CheckerError(f"{args.target} answered {code.name}: {details}")


_SAID_BY = {
    "subject": "the document (standard input, the prompt, or --document)",
    "subject.document.type": "the document's TYPE",
    "subject.document.number": "the document's number",
    "subject.document.country": "--country",
    "subject.name": "--name",
    "act_time": "--act-time",
    "service_time": "--service-time",
}


def _violations(error: Any) -> list[str]:
    """The field violations of google.rpc.BadRequest, in the words of this command where it has its own."""
    from google.rpc import error_details_pb2, status_pb2

    found = []
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                bad = error_details_pb2.BadRequest()
                if detail.Unpack(bad):
                    found += [f"{_SAID_BY.get(v.field, v.field)}: {v.description}" for v in bad.field_violations]
    return found


def _exit_code(answer: "CheckResponse") -> int:
    from checker.cli.check_answer import word_of

    outcome = word_of(answer, "outcome", "OUTCOME_", answer.outcome)
    if outcome in EXIT_CODES:
        return EXIT_CODES[outcome]
    return complain(f"the service answered with outcome {outcome}, which is no answer", NO_ANSWER)
