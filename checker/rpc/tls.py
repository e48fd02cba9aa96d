"""Certificates: checked before serving, replaced without a restart, and demanded wherever strangers can connect.

Strategy: gRPC asks for the certificates at every new connection (on a thread of its own). The answer is "unchanged"
unless a file's time or size has moved; a changed set is checked like at start, a broken one is logged and the old one
stays. So a half-copied file never takes a service down, and a renewed certificate needs nobody.
"""

import datetime
import ipaddress
import logging
import os
import threading
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from checker.errors import UsageError
from checker.rpc.roles import Callers, Roles, load_roles
from checker.settings import Found, tls_problems

_log = logging.getLogger("checker.rpc")


class TlsFiles(NamedTuple):
    """PEM files. With `client_ca` every client must present a certificate of that authority (mutual TLS)."""

    cert: Path
    key: Path
    client_ca: Path | None = None


class _Pem(NamedTuple):
    cert: bytes
    key: bytes
    client_ca: bytes | None


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{what} {path}: cannot be read: {error.strerror}") from None


def _certificates(pem: bytes, path: Path, what: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise UsageError(f"{what} {path}: holds no readable PEM certificate") from None


def load(files: TlsFiles, now: datetime.datetime) -> tuple[_Pem, list[str]]:
    """Read and check the files; returns what gRPC needs, and warnings (expired or not yet valid certificates).

    Raises UsageError: a file is missing or unreadable, or the key is not that of the certificate.
    """
    pem = _Pem(
        _read(files.cert, "TLS certificate"),
        _read(files.key, "TLS key"),
        _read(files.client_ca, "TLS client authority") if files.client_ca else None,
    )
    checked = [(files.cert, _certificates(pem.cert, files.cert, "TLS certificate")[0])]
    try:
        key = load_pem_private_key(pem.key, None)
    except (ValueError, TypeError):
        raise UsageError(f"TLS key {files.key}: is not an unencrypted PEM private key") from None
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != checked[0][1].public_key().public_bytes(*form):
        raise UsageError(f"TLS key {files.key}: does not match certificate {files.cert}; give the pair issued together")
    if files.client_ca and pem.client_ca is not None:
        authorities = _certificates(pem.client_ca, files.client_ca, "TLS client authority")
        checked.extend((files.client_ca, authority) for authority in authorities)
    warnings = []
    for path, certificate in checked:
        if certificate.not_valid_after_utc <= now:
            warnings.append(
                f"{path}: expired at {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}: clients refuse it"
            )
        elif certificate.not_valid_before_utc > now:
            warnings.append(f"{path}: not valid before {certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}")
    return pem, warnings


class Reloader:
    """Watches the three files; `fetch` is what gRPC calls at each new connection, on any thread."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises UsageError when the files cannot be served with."""
        self._files = files
        self._lock = threading.Lock()
        self._seen = self._stamp()
        pem, warnings = load(files, datetime.datetime.now(datetime.UTC))
        for warning in warnings:
            _log.warning("TLS: %s", warning)
        self.initial = _configuration(pem)

    def _stamp(self) -> tuple[tuple[int, int, int] | None, ...]:
        stamps: list[tuple[int, int, int] | None] = []
        for path in self._files:
            try:
                found = os.stat(path) if path else None
            except OSError:
                found = None
            stamps.append((found.st_mtime_ns, found.st_size, found.st_ino) if found else None)
        return tuple(stamps)

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """The new certificates, or None while they are unchanged or unusable."""
        with self._lock:
            stamp = self._stamp()
            if stamp == self._seen:
                return None
            self._seen = stamp
            try:
                pem, warnings = load(self._files, datetime.datetime.now(datetime.UTC))
            except UsageError as error:
                _log.error("TLS: new certificates refused, the old ones stay: %s", error)
                return None
            for warning in warnings:
                _log.warning("TLS: %s", warning)
            _log.info("TLS: certificates reloaded from %s", self._files.cert)
            return _configuration(pem)


def _configuration(pem: _Pem) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.cert)], root_certificates=pem.client_ca)


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials for one port, reloading by themselves. Raises UsageError when the files cannot be served with."""
    reloader = Reloader(files)
    return grpc.dynamic_ssl_server_credentials(
        reloader.initial,
        reloader.fetch,  # type: ignore[arg-type] # the stubs forget that None means "unchanged"
        require_client_authentication=files.client_ca is not None,
    )


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach `HOST:PORT` or `unix:PATH`. A host name counts only if it is `localhost`."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def callers_for(listen: str, tls: TlsFiles | None, roles: Roles | None) -> Callers:
    """How the callers of this listener are told apart. `roles`: what a roles file says; None: there is none."""
    if tls is not None and (tls.client_ca is not None or roles is not None):
        return Callers.tls(roles or Roles())
    return Callers.plaintext(loopback=is_loopback(listen), roles=roles)


def check_listen(address: str, tls: TlsFiles | None, *, insecure_plaintext: bool, roles: Roles | None) -> None:
    """Refuse to listen in a way that would let strangers in, or nobody. Raises UsageError with the remedy."""
    if tls is None:
        if not is_loopback(address) and not insecure_plaintext:
            raise UsageError(
                f"--listen {address}: others can reach it, and without TLS they could read every document number: give "
                "--tls-cert and --tls-key (and --tls-client-ca), listen on 127.0.0.1, or say --insecure-plaintext"
            )
        return
    if address.startswith("unix:"):
        raise UsageError(f"--listen {address}: TLS on a Unix socket gives nothing: leave out --tls-cert and --tls-key")
    if roles is None:
        raise UsageError("--tls-cert: with TLS every caller needs a role: give --roles FILE")
    if tls.client_ca is None and roles.anonymous is None:
        raise UsageError(
            "--tls-cert: nobody could call: give --tls-client-ca so that callers can show certificates, "
            "or write [anonymous] in the roles file"
        )


def check_listener(found: Found[Any], tls: TlsFiles | None) -> Roles | None:
    """Check a service's roles file, certificates and listener; what is wrong joins `found`.

    Returns what the roles file says; None without one.
    """
    settings, wrong = found.settings, found.wrong
    roles = found.attempt(lambda: load_roles(settings.roles)) if settings.roles is not None else None
    if tls is not None:
        found.attempt(lambda: server_credentials(tls), "tls_client_ca")
    sides = {"listen", "insecure_plaintext", "roles", "tls_cert", "tls_key", "tls_client_ca"}
    # Where one of these is wrong in itself, what they would allow together is not known.
    if wrong.isdisjoint(sides) and not tls_problems(settings, wrong) and (roles is None) == (settings.roles is None):
        found.attempt(
            lambda: check_listen(settings.listen, tls, insecure_plaintext=settings.insecure_plaintext, roles=roles)
        )
    return roles
