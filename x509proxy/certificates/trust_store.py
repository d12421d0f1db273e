"""The trust store for clients (RFC 8705 section 2.1): authorities, revocation lists, chain depth.

Facts
-----
* Once there is a revocation list, OpenSSL requires one of every authority in a chain
  (``X509_V_FLAG_CRL_CHECK_ALL``), as nginx does with ``ssl_crl``. Where one is missing (code 3),
  not yet valid (11) or expired (12), the chain is not trusted.
* OpenSSL before 4.0 looks for a root's own entry in its own list; 4.0 does not.
* OpenSSL finds lists by the issuer's name and verifies their signature at each handshake. A list
  that its authority did not sign would reject all of that authority's clients, so it is an error at
  start.
* OpenSSL ignores delta lists (RFC 5280 section 5.2.4), and lists of an authority whose key usage
  has no ``cRLSign``. It ignores lists for some reasons, for attribute certificates, and indirect
  ones too (section 5.2.5): with ``trust = "any"`` a revoked client would be accepted.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from x509proxy.certificates.client_certificate import date
from x509proxy.certificates.config_files import FileReader, read_file
from x509proxy.certificates.pem_files import read_authorities, read_crls
from x509proxy.redaction import without_secrets
from x509proxy.settings import ProxySettings, SettingsError, Trust, Usage

__all__ = ["EMPTY", "TrustStore", "crl_warnings", "read_trusted"]

_Crl = x509.CertificateRevocationList


@attrs.frozen
class TrustStore:
    """Authorities, their revocation lists, and the rules for a chain."""

    authorities: tuple[x509.Certificate, ...] = ()
    """Roots of the chains that make a client's certificate ``TRUSTED``."""
    crls: tuple[_Crl, ...] = attrs.field(default=(), repr=False)
    """Revocation lists. Revocation is not checked if there are none."""
    depth: int = 4
    """Largest number of certificates between the client's and an authority's."""
    usage: Usage = Usage.ENFORCE
    """Treatment of certificates whose key usage excludes TLS clients."""


EMPTY = TrustStore()


def read_trusted(settings: ProxySettings, read: FileReader = read_file) -> TrustStore:
    """Read the files of ``ca`` and ``crl``.

    :raises SettingsError: a file is missing or invalid, or a list is not from an authority in
        ``ca``.
    """
    if settings.ca is None:
        if settings.trust in (Trust.CA, Trust.EITHER):
            raise _missing_ca(f"trust is {settings.trust.value}")
        if settings.crl:
            raise _missing_ca("there is a crl")
        return TrustStore(depth=settings.ca_depth, usage=settings.usage)
    authorities = read_authorities(settings.ca, read=read)
    crls = tuple(crl for path in settings.crl for crl in _read_checked(path, authorities, read))
    return TrustStore(authorities, crls, settings.ca_depth, settings.usage)


def _missing_ca(reason: str) -> SettingsError:
    return SettingsError(f"ca: found none, expected a PEM file with authorities, since {reason}")


def _read_checked(
    path: str, authorities: tuple[x509.Certificate, ...], read: FileReader
) -> Iterator[_Crl]:
    for crl in read_crls(path, read=read):
        issuers = [authority for authority in authorities if authority.subject == crl.issuer]
        if problem := _problem(crl, issuers):
            raise SettingsError(f"crl: {without_secrets(path)}: found {problem}")
        yield crl


def _problem(crl: _Crl, issuers: list[x509.Certificate]) -> str:
    """Return what keeps a list from being used, for an error sentence, or ``""``.

    ``issuers`` are the authorities that have the name of the list's issuer.
    """
    if not issuers:
        name = without_secrets(repr(crl.issuer.rfc4514_string()))
        return f"a list of {name}, expected one of an authority in ca"
    signers = [issuer for issuer in issuers if _has_signed(issuer, crl)]
    if not signers:
        return "a list with an invalid signature, expected that of its authority in ca"
    try:
        if kind := _partial_kind(crl):
            return f"{kind}, expected a complete one"
        if not any(map(_may_sign, signers)):
            return (
                "a list of an authority whose key usage excludes it, expected cRLSign "
                "(RFC 5280 section 4.2.1.3)"
            )
    except ValueError:
        return "a list, or an authority's certificate, with an extension that cannot be read"
    return ""


def _has_signed(issuer: x509.Certificate, crl: _Crl) -> bool:
    try:
        # A key type that cannot sign raises TypeError. One that differs from the signature's
        # returns False.
        return crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (TypeError, ValueError, UnsupportedAlgorithm):
        return False


def _partial_kind(crl: _Crl) -> str:
    """Return the kind of a list that OpenSSL ignores, or ``""``."""
    if any(isinstance(extension.value, x509.DeltaCRLIndicator) for extension in crl.extensions):
        return "a delta list"
    scope = _scope(crl)
    if scope is None:
        return ""
    if scope.indirect_crl:
        return "an indirect list"
    if scope.only_some_reasons:
        return "a list for some reasons only"
    return "a list for attribute certificates" if scope.only_contains_attribute_certs else ""


def _scope(crl: _Crl) -> x509.IssuingDistributionPoint | None:
    try:
        return crl.extensions.get_extension_for_class(x509.IssuingDistributionPoint).value
    except x509.ExtensionNotFound:
        return None


def _may_sign(authority: x509.Certificate) -> bool:
    try:
        return authority.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    except x509.ExtensionNotFound:
        return True


def crl_warnings(trusted: TrustStore, now: float) -> Iterator[str]:
    """Yield a warning for each authority without a valid list: all its clients are rejected.

    Others are about lists that cover some certificates only. ``now``: seconds since the epoch.
    """
    if not trusted.crls:
        return
    for crl in trusted.crls:
        if limit := _limit(crl):
            name = without_secrets(repr(crl.issuer.rfc4514_string()))
            yield f"crl: the list of {name} {limit}"
    for subject in dict.fromkeys(authority.subject for authority in trusted.authorities):
        problems = [_validity_problem(crl, now) for crl in trusted.crls if crl.issuer == subject]
        if all(problems):
            name = without_secrets(repr(subject.rfc4514_string()))
            problem = problems[-1] if problems else "is missing"
            yield f"crl: the list of {name} {problem}; no certificate of that authority is trusted"


def _validity_problem(crl: _Crl, now: float) -> str:
    begin, end = crl.last_update_utc.timestamp(), crl.next_update_utc
    if now < begin:
        return f"is not valid before {date(begin)}"
    if end is not None and now > end.timestamp():
        return f"expired at {date(end.timestamp())}"
    return ""


def _limit(crl: _Crl) -> str:
    """Return what keeps OpenSSL from using a list for each certificate of its issuer, or ``""``."""
    scope = _scope(crl)
    if scope is not None and scope.only_contains_ca_certs:
        return "is for certificates of authorities; no client of that authority is trusted"
    if scope is not None and (scope.full_name or scope.relative_name):
        return "has a distribution point; certificates that do not name it are not trusted"
    for extension in crl.extensions:
        if extension.critical and isinstance(extension.value, x509.UnrecognizedExtension):
            oid = extension.oid.dotted_string
            return f"has the critical extension {oid}; no certificate of that authority is trusted"
    return ""
