"""Who is calling, and what that caller may do.

Strategy: a small TOML file names every caller by the SAN URI of its client certificate and gives it one role. It is
read once, at start, and every problem in it is listed at once. At a call the caller is found in one of three ways:

1. plaintext on loopback or a Unix socket: nobody else can reach it, so the caller has all roles;
2. plaintext elsewhere (only with `--insecure-plaintext`): the file's `[anonymous]`, or a booking caller without one;
3. TLS: the URI of the verified client certificate, else `[anonymous]`, else refused.

The address the server *listens* on decides between 1 and 2, never the peer's: a proxy on the same machine would
otherwise give the whole world all roles. Roles gate methods (`authorise_method`); what a request holds is gated by the
servicer with `require_kind`, `require_key`, `require_document`. All refusals are PermissionDenied naming caller, role
and remedy.
"""

import tomllib
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from checker.errors import PermissionDenied, UsageError
from proto.checker.v1 import check_pb2

PURCHASE_KINDS: frozenset[str] = frozenset(
    field.name for field in check_pb2.Purchase.DESCRIPTOR.oneofs_by_name["kind"].fields
)


class Role(StrEnum):
    """What a caller is. ALL is never written in a file: it is what plaintext loopback has."""

    __hash__ = str.__hash__  # an enum's own is Python code, and every call looks its caller's role up

    BOOKING = "booking"
    EDGE = "edge"
    COURT = "court"
    OPERATOR = "operator"
    ALL = "all"


class Caller(NamedTuple):
    """One caller, as a call sees it.

    `purchases`: kinds it may ask about (names of the Purchase oneof), None = every kind. `rate`: checks per second over
    the whole node, None = unlimited; `burst`: checks at once. `detail`: may see the finer reasons, advisories about the
    person, and the trace.
    """

    name: str
    role: Role
    purchases: frozenset[str] | None = None
    rate: float | None = None
    burst: float | None = None
    detail: bool = False


LOOPBACK = Caller("loopback", Role.ALL, detail=True)
OPEN = Caller("anyone", Role.BOOKING)  # of health and reflection, which ask nobody who they are
ANONYMOUS_BOOKING = Caller("anonymous", Role.BOOKING)

_CHECKS = frozenset({Role.BOOKING, Role.EDGE, Role.OPERATOR, Role.ALL})
_SERVICE_ROLES: Mapping[str, frozenset[Role]] = {
    "checker.v1.CheckService": _CHECKS,
    "checker.v1.FilterService": frozenset({Role.EDGE, Role.ALL}),
    "checker.v1.EdgeService": frozenset({Role.BOOKING, Role.OPERATOR, Role.ALL}),
    "checker.v1.MeasureService": frozenset({Role.COURT, Role.ALL}),
}
_METHOD_ROLES: Mapping[str, frozenset[Role]] = {
    "/checker.v1.CheckService/GetRulebook": frozenset(Role),  # the rules are public to whoever may call at all
}
_NOBODY: frozenset[Role] = frozenset()


@cache
def roles_of(full_method: str) -> frozenset[Role]:
    """The roles that may call `/package.Service/Method`; nobody may call what is not in the tables above."""
    found = _METHOD_ROLES.get(full_method)
    if found is None:
        found = _SERVICE_ROLES.get(full_method[1:].partition("/")[0], _NOBODY)
    return found


def authorise_method(caller: Caller, full_method: str) -> None:
    """Raise PermissionDenied unless the caller's role covers the method."""
    allowed = roles_of(full_method)
    if caller.role not in allowed:
        wanted = " or ".join(sorted(role for role in allowed if role is not Role.ALL)) or "a role no caller can have"
        method = full_method.rpartition(".")[2]
        raise PermissionDenied(
            f"{method} needs role {wanted}; caller {caller.name} has role {caller.role}: "
            "ask the operator to change the roles file"
        )


def require_kind(caller: Caller, kind: str) -> None:
    """Raise PermissionDenied unless the caller may ask about this kind of purchase (a name of the Purchase oneof)."""
    if caller.purchases is not None and kind not in caller.purchases:
        raise PermissionDenied(
            f"purchase kind {kind} is not granted; caller {caller.name} with role {caller.role} may ask about "
            f"{', '.join(sorted(caller.purchases))}: ask the operator to add {kind} to its purchases in the roles file"
        )


def require_key(caller: Caller) -> None:
    """Raise PermissionDenied unless the caller may ask by `subject.key`."""
    if caller.role is not Role.EDGE and caller.role is not Role.ALL:
        raise PermissionDenied(
            f"subject.key needs role edge; caller {caller.name} has role {caller.role}: send subject.document"
        )


def require_document(caller: Caller) -> None:
    """Raise PermissionDenied unless the caller may ask by `subject.document`."""
    if caller.role is Role.EDGE or caller.role is Role.COURT:
        raise PermissionDenied(
            f"subject.document needs role booking or operator; caller {caller.name} has role {caller.role}: "
            "an edge sends subject.key, so that no document number leaves it"
        )


class Roles(NamedTuple):
    """A parsed roles file: callers by SAN URI, and what a caller without a certificate may do."""

    callers: Mapping[str, Caller] = {}
    anonymous: Caller | None = None

    def limited(self) -> list[Caller]:
        """Callers with a rate, in a fixed order (the quota file's slots)."""
        known = [*self.callers.values(), *([self.anonymous] if self.anonymous else [])]
        return sorted((caller for caller in known if caller.rate is not None), key=lambda caller: caller.name)


def load_roles(path: Path) -> Roles:
    """Read a roles file. UsageError lists every problem, one a line, each naming its entry."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(f"roles file {path}: cannot be read: {why}") from None
    return parse_roles(text, str(path))


def parse_roles(text: str, source: str) -> Roles:
    """Parse the text of a roles file; `source` is its name in messages. Raises UsageError with all problems at once."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"roles file {source}: not valid TOML: {error}") from None
    problems = [
        f"{key}: unknown table; expected [[caller]] and [anonymous]"
        for key in sorted(document.keys() - {"caller", "anonymous"})
    ]
    callers: dict[str, Caller] = {}
    entries = document.get("caller", [])
    if not isinstance(entries, list):
        problems.append("caller: write [[caller]] with two brackets, one per caller")
        entries = []
    for number, entry in enumerate(entries, start=1):
        where = f"caller {number}"
        if not isinstance(entry, dict):
            problems.append(f"{where}: must be a table: write [[caller]]")
            continue
        uri = entry.get("uri")
        if not isinstance(uri, str) or "://" not in uri or uri != uri.strip():
            problems.append(
                f'{where}: uri: must be the SAN URI of its certificate, as "spiffe://xianxiao.example/rail/a"'
            )
            uri = None
        else:
            where = f"caller {number} ({uri})"
            if uri in callers:
                problems.append(f"{where}: uri: named twice; keep one entry per caller")
        caller = _caller(entry, uri or where, where, {"uri"}, problems)
        callers[uri or where] = caller
    anonymous: Caller | None = None
    if "anonymous" in document:
        entry = document["anonymous"]
        if isinstance(entry, dict):
            anonymous = _caller(entry, "anonymous", "anonymous", set(), problems)
            if anonymous.role is not Role.BOOKING:
                problems.append("anonymous: role: only booking can do without a certificate; give this caller one")
        else:
            problems.append("anonymous: must be a table: write [anonymous]")
    if problems:
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UsageError("\n  ".join([f"roles file {source}: {count}:", *problems]))
    return Roles(callers, anonymous)


def _caller(entry: dict[str, Any], name: str, where: str, more: set[str], problems: list[str]) -> Caller:
    problems.extend(
        f"{where}: {key}: unknown key; known are role, purchases, rate, burst"
        for key in sorted(entry.keys() - more - {"role", "purchases", "rate", "burst"})
    )
    role = Role.BOOKING
    named = entry.get("role")
    if isinstance(named, str) and named in {Role.BOOKING, Role.EDGE, Role.COURT, Role.OPERATOR}:
        role = Role(named)
    else:
        problems.append(f"{where}: role: must be one of booking, edge, court, operator")
    purchases: frozenset[str] | None = None
    if "purchases" in entry:
        given = entry["purchases"]
        if role is not Role.BOOKING:
            problems.append(f"{where}: purchases: only a booking caller is limited to kinds; remove it")
        elif not isinstance(given, list) or not given or not all(isinstance(kind, str) for kind in given):
            problems.append(f"{where}: purchases: must be a list of kinds; leave it out for all of them")
        else:
            unknown = sorted(set(given) - PURCHASE_KINDS)
            problems.extend(
                f"{where}: purchases: {kind} is no kind; known are {', '.join(sorted(PURCHASE_KINDS))}"
                for kind in unknown
            )
            purchases = frozenset(given)
    rate = _positive(entry, "rate", where, problems)
    burst = _positive(entry, "burst", where, problems)
    if burst is not None and "rate" not in entry:
        problems.append(f"{where}: burst: means nothing without rate; add rate or remove burst")
    if burst is not None and burst < 1:
        problems.append(f"{where}: burst: must be at least 1, else nothing is ever granted")
    if rate is not None and burst is None:
        burst = max(rate, 1.0)
    return Caller(name, role, purchases, rate, burst, role in {Role.OPERATOR, Role.COURT})


def _positive(entry: dict[str, Any], key: str, where: str, problems: list[str]) -> float | None:
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1e9:
        problems.append(f"{where}: {key}: must be a number above 0, in checks; leave it out for no limit")
        return None
    return float(value)


class Peer(Protocol):
    """What identifying needs of grpc.aio.ServicerContext."""

    def peer_identities(self) -> Any: ...
    def peer_identity_key(self) -> str | None: ...
    def auth_context(self) -> Mapping[str, Any]: ...


class Callers:
    """Finds the caller of a call; `identify` is a constant for plaintext and a dictionary look-up for TLS."""

    def __init__(self, identify: Callable[[Peer], Caller]) -> None:
        self.identify = identify

    @classmethod
    def plaintext(cls, *, loopback: bool, roles: Roles | None = None) -> "Callers":
        """Everyone alike. `loopback`: the server listens on loopback or a Unix socket only."""
        caller = LOOPBACK if loopback else (roles and roles.anonymous) or ANONYMOUS_BOOKING
        return cls(lambda _peer: caller)

    @classmethod
    def tls(cls, roles: Roles) -> "Callers":
        """By the SAN URI of the client certificate that TLS has verified."""
        return cls(_TlsCallers(roles))


class _TlsCallers:
    """Peer identities cost 0.3 µs, the whole auth context (with the certificate's text) many times that: so the
    identities are the cache key, and the context is read once per set of identities."""

    _CACHE_MAX = 10_000  # certificates, not connections; a bound against a CA that issues without end

    def __init__(self, roles: Roles) -> None:
        self._roles = roles
        self._known: dict[tuple[bytes, ...], Caller] = {}

    def __call__(self, peer: Peer) -> Caller:
        identities = peer.peer_identities()
        if not identities:
            if self._roles.anonymous is not None:
                return self._roles.anonymous
            raise PermissionDenied(
                "no client certificate: present one whose SAN URI is in the service's roles file (mutual TLS)"
            )
        # Without SANs the identity is the common name, which may look like anyone's URI.
        if peer.peer_identity_key() != "x509_subject_alternative_name":
            raise PermissionDenied("the client certificate has no SAN URI: issue one with a URI of the roles file")
        key = tuple(identities)
        caller = self._known.get(key)
        if caller is None:
            caller = self._find(peer)
            if len(self._known) >= self._CACHE_MAX:
                self._known.clear()
            self._known[key] = caller
        return caller

    def _find(self, peer: Peer) -> Caller:
        uris = [bytes(uri).decode("utf-8", "replace") for uri in peer.auth_context().get("peer_uri", ())]
        found = [self._roles.callers[uri] for uri in uris if uri in self._roles.callers]
        if not found:
            what = (
                f"the client certificate's URI {uris[0]}" if uris else "the client certificate, which has no SAN URI,"
            )
            raise PermissionDenied(f"{what} is not in the roles file: ask the operator to add it")
        if len(found) > 1:
            raise PermissionDenied(
                "the client certificate names several callers of the roles file: issue one per caller"
            )
        return found[0]
