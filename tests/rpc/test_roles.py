"""Claims about the roles file and about who may do what."""

from collections.abc import Mapping
from typing import Any

import pytest

from checker.errors import PermissionDenied, UsageError
from checker.rpc.roles import (
    LOOPBACK,
    PURCHASE_KINDS,
    Caller,
    Callers,
    Role,
    authorise_method,
    load_roles,
    parse_roles,
    require_document,
    require_key,
    require_kind,
)

RAIL = "spiffe://xianxiao.example/rail/12306-a"
GOOD = f"""
[[caller]]
uri = "{RAIL}"
role = "booking"
purchases = ["train", "flight"]
rate = 2000
[[caller]]
uri = "spiffe://xianxiao.example/edge/1"
role = "edge"
rate = 100
burst = 500
[[caller]]
uri = "spiffe://xianxiao.example/court/beijing"
role = "court"
[anonymous]
role = "booking"
purchases = ["lodging"]
rate = 5
"""
CHECK = "/checker.v1.CheckService/Check"


def test_a_good_file_is_read_as_written() -> None:
    """Role, kinds, rate and burst of each caller are those of the file; burst is the rate unless given."""
    roles = parse_roles(GOOD, "roles.toml")

    assert roles.callers[RAIL] == Caller(RAIL, Role.BOOKING, frozenset({"train", "flight"}), 2000.0, 2000.0, False)
    assert roles.callers["spiffe://xianxiao.example/edge/1"].burst == 500.0
    assert roles.callers["spiffe://xianxiao.example/court/beijing"].detail
    assert roles.anonymous == Caller("anonymous", Role.BOOKING, frozenset({"lodging"}), 5.0, 5.0, False)


def test_every_problem_is_listed_at_once_and_names_its_entry() -> None:
    """One reading of a bad file tells all its problems, each on a line that begins with the entry it is in."""
    bad = f"""
    colour = 1
    [[caller]]
    uri = "{RAIL}"
    role = "king"
    [[caller]]
    uri = "{RAIL}"
    role = "booking"
    purchases = ["trains"]
    [[caller]]
    role = "edge"
    purchases = ["train"]
    rate = -1
    [[caller]]
    uri = "spiffe://x/y"
    role = "booking"
    burst = 3
    speed = 9
    [anonymous]
    role = "operator"
    """

    with pytest.raises(UsageError) as caught:
        parse_roles(bad, "roles.toml")

    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert lines[0] == "roles file roles.toml: 10 problems:"
    begins = [
        "colour: unknown table",
        f"caller 1 ({RAIL}): role: must be one of booking, edge, court, operator",
        f"caller 2 ({RAIL}): uri: named twice",
        f"caller 2 ({RAIL}): purchases: trains is no kind; known are construction, ",
        "caller 3: uri: must be the SAN URI",
        "caller 3: purchases: only a booking caller",
        "caller 3: rate: must be a number above 0",
        "caller 4 (spiffe://x/y): speed: unknown key",
        "caller 4 (spiffe://x/y): burst: means nothing without rate",
        "anonymous: role: only booking can do without a certificate",
    ]
    assert len(lines) == len(begins) + 1
    for begin in begins:
        assert any(line.startswith(begin) for line in lines), begin


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[caller]\nuri = 'spiffe://a/b'\nrole = 'edge'", "write [[caller]] with two brackets"),
        ("not toml", "not valid TOML"),
        ("anonymous = 3", "write [anonymous]"),
        ("caller = [1]", "caller 1: must be a table"),
        ("[[caller]]\nuri='spiffe://a/b'\nrole='booking'\npurchases=[]", "leave it out for all of them"),
        ("[[caller]]\nuri='spiffe://a/b'\nrole='booking'\nrate=true", "rate: must be a number above 0"),
        ("[[caller]]\nuri='spiffe://a/b'\nrole='booking'\nrate=1\nburst=0.5", "burst: must be at least 1"),
        ("[[caller]]\nuri='spiffe://a/b'\nrole=['edge']", "role: must be one of"),
    ],
)
def test_odd_shapes_are_told_in_words(text: str, says: str) -> None:
    """A file of the wrong shape is a UsageError with the remedy, never another exception."""
    with pytest.raises(UsageError, match=says.replace("[", r"\[").replace("]", r"\]")):
        parse_roles(text, "roles.toml")


def test_a_missing_file_is_named(tmp_path: Any) -> None:
    """The error for a file that is not there names the file."""
    with pytest.raises(UsageError, match=r"gone.toml: cannot be read: No such file"):
        load_roles(tmp_path / "gone.toml")


CALLERS = {role: Caller("c", role) for role in Role}
METHODS = {
    CHECK: {Role.BOOKING, Role.EDGE, Role.OPERATOR, Role.ALL},
    "/checker.v1.CheckService/BatchCheck": {Role.BOOKING, Role.EDGE, Role.OPERATOR, Role.ALL},
    "/checker.v1.CheckService/StreamCheck": {Role.BOOKING, Role.EDGE, Role.OPERATOR, Role.ALL},
    "/checker.v1.CheckService/GetRulebook": set(Role),
    "/checker.v1.FilterService/GetSnapshot": {Role.EDGE, Role.ALL},
    "/checker.v1.MeasureService/ApplyChanges": {Role.COURT, Role.ALL},
    "/checker.v1.EdgeService/GetStatus": {Role.BOOKING, Role.OPERATOR, Role.ALL},
    "/checker.v1.NoService/Anything": set(),
}


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("method", METHODS)
def test_each_role_may_call_exactly_its_methods(role: Role, method: str) -> None:
    """The table of roles and methods, every cell; what no table names nobody may call."""
    if role in METHODS[method]:
        authorise_method(CALLERS[role], method)
    else:
        with pytest.raises(PermissionDenied, match=f"caller c has role {role}"):
            authorise_method(CALLERS[role], method)


def test_what_a_request_holds_is_gated_by_role() -> None:
    """Keys are for edges, documents for booking and operator; plaintext loopback may send both."""
    may_key = {role for role in Role if _passes(require_key, CALLERS[role])}
    may_document = {role for role in Role if _passes(require_document, CALLERS[role])}

    assert may_key == {Role.EDGE, Role.ALL}
    assert may_document == {Role.BOOKING, Role.OPERATOR, Role.ALL}


def test_kinds_are_limited_only_where_the_file_says_so() -> None:
    """A caller with purchases may ask exactly these kinds, one without may ask all fifteen; the refusal names both."""
    hotel = Caller("hotel", Role.BOOKING, frozenset({"lodging"}))

    assert {kind for kind in PURCHASE_KINDS if _passes(require_kind, hotel, kind)} == {"lodging"}
    assert all(_passes(require_kind, LOOPBACK, kind) for kind in PURCHASE_KINDS)
    assert len(PURCHASE_KINDS) == 15
    with pytest.raises(
        PermissionDenied, match=r"train is not granted; caller hotel with role booking may ask about lodging"
    ):
        require_kind(hotel, "train")


def _passes(check: Any, *args: Any) -> bool:
    try:
        check(*args)
    except PermissionDenied:
        return False
    return True


class Certificate:
    """What gRPC says about a connection's certificate."""

    def __init__(self, *uris: str, key: str = "x509_subject_alternative_name", dns: str = "") -> None:
        self._uris = [uri.encode() for uri in uris]
        self._all = [*self._uris, *([dns.encode()] if dns else [])]
        self._key = key

    def peer_identities(self) -> Any:
        return self._all or None

    def peer_identity_key(self) -> str | None:
        return self._key if self._all else None

    def auth_context(self) -> Mapping[str, Any]:
        return {"peer_uri": self._uris} if self._uris and self._key.startswith("x509_sub") else {}


def test_a_certificate_is_its_uri_and_nothing_else() -> None:
    """Only a SAN URI of the file makes a caller: not a common name or a DNS name of the same text, not two at once."""
    callers = Callers.tls(parse_roles(GOOD, "r")._replace(anonymous=None))
    two = Certificate(RAIL, "spiffe://xianxiao.example/edge/1")

    assert callers.identify(Certificate(RAIL)).name == RAIL
    assert callers.identify(Certificate(RAIL, dns="rail.example")).name == RAIL
    for bad, says in [
        (Certificate(RAIL, key="x509_common_name"), "has no SAN URI"),
        (Certificate(dns="rail.example"), "has no SAN URI"),
        (Certificate("spiffe://xianxiao.example/rail/other"), "URI spiffe://xianxiao.example/rail/other is not in"),
        (two, "names several callers"),
        (Certificate(), "no client certificate: present one"),
    ]:
        with pytest.raises(PermissionDenied, match=says):
            callers.identify(bad)


def test_where_a_server_listens_decides_who_plaintext_callers_are() -> None:
    """Loopback has all roles; elsewhere plaintext is the anonymous caller of the file, or booking without detail."""
    roles = parse_roles(GOOD, "r")

    assert Callers.plaintext(loopback=True, roles=roles).identify(Certificate()) is LOOPBACK
    assert Callers.plaintext(loopback=False, roles=roles).identify(Certificate()) is roles.anonymous
    stranger = Callers.plaintext(loopback=False).identify(Certificate())
    assert (stranger.role, stranger.detail) == (Role.BOOKING, False)
