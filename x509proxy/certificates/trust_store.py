"""Who vouches for clients (RFC 8705 section 2.1): the authorities, what they have revoked, and how far a chain is followed.

Facts
-----
* Once there is a revocation list, OpenSSL wants one of every authority in a chain (``X509_V_FLAG_CRL_CHECK_ALL``), as nginx does
  with ``ssl_crl``: where one is missing (code 3), not yet valid (11) or expired (12), the chain is not trusted. A root's own
  entry in its own list is not looked for by OpenSSL 4.0; before, it was.
* Lists are looked up by the issuer's name and checked against its key at each handshake: one that its authority has not signed
  would shut out all of that authority's clients, so that it is refused at the start.
* OpenSSL passes over delta lists (RFC 5280 section 5.2.4), and takes none of an authority whose key usage has no ``cRLSign``.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from x509proxy.certificates.client_certificate import date
from x509proxy.certificates.config_files import FileReader, read_file
from x509proxy.certificates.pem_files import read_authorities, read_crls, without_secrets
from x509proxy.settings import ProxySettings, SettingsError, Trust, Usage

__all__ = ["EMPTY", "TrustStore", "crl_warnings", "read_trusted"]

_Crl = x509.CertificateRevocationList


@attrs.frozen
class TrustStore:
    """``authorities``: who makes a client's certificate ``TRUSTED``; ``crls``: what they have revoked, nothing is asked if empty.

    ``depth``: how many certificates may stand between a client's and an authority's; ``usage``: whether these, and the client's,
    have to be for TLS clients.
    """

    authorities: tuple[x509.Certificate, ...] = ()
    crls: tuple[_Crl, ...] = attrs.field(default=(), repr=False)
    depth: int = 4
    usage: Usage = Usage.ENFORCE


EMPTY = TrustStore()


def read_trusted(settings: ProxySettings, read: FileReader = read_file) -> TrustStore:
    """Read the files of ``ca`` and ``crl``.

    :raises SettingsError: a file is missing or unfit, or a list is not by one of the authorities.
    """
    if settings.ca is None:
        why = (
            f"trust is {settings.trust.value}"
            if settings.trust in (Trust.CA, Trust.EITHER)
            else "there is a crl"
        )
        if settings.trust in (Trust.CA, Trust.EITHER) or settings.crl:
            raise SettingsError(
                f"ca: found none, expected a PEM file with authorities, since {why}"
            )
        return TrustStore(depth=settings.ca_depth, usage=settings.usage)
    authorities = read_authorities(settings.ca, read=read)
    crls = tuple(crl for path in settings.crl for crl in _read_checked(path, authorities, read))
    return TrustStore(authorities, crls, settings.ca_depth, settings.usage)


def _read_checked(
    path: str, authorities: tuple[x509.Certificate, ...], read: FileReader
) -> Iterator[_Crl]:
    for crl in read_crls(path, read=read):
        if problem := _problem(
            crl, [authority for authority in authorities if authority.subject == crl.issuer]
        ):
            raise SettingsError(f"crl: {without_secrets(path)}: found {problem}")
        yield crl


def _problem(crl: _Crl, issuers: list[x509.Certificate]) -> str:
    """What is wrong with a list whose issuer has the name of these authorities; nothing if it can be used."""
    if not issuers:
        return f"a list of {without_secrets(repr(crl.issuer.rfc4514_string()))}, expected one of an authority in ca"
    signers = [issuer for issuer in issuers if _has_signed(issuer, crl)]
    if not signers:
        return "a list with another signature than that of its authority in ca"
    try:
        if _is_delta(crl):
            return "a delta list, expected a complete one"
        if not any(map(_may_sign, signers)):
            return "a list of an authority whose key usage does not allow it (cRLSign, RFC 5280 section 4.2.1.3)"
    except ValueError:
        return "a list, or an authority's certificate, with an extension that cannot be read"
    return ""


def _has_signed(issuer: x509.Certificate, crl: _Crl) -> bool:
    try:
        # A key of a kind that cannot sign is a TypeError, one of another kind than the signature's no error at all.
        return crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (TypeError, ValueError, UnsupportedAlgorithm):
        return False


def _is_delta(crl: _Crl) -> bool:
    return any(isinstance(extension.value, x509.DeltaCRLIndicator) for extension in crl.extensions)


def _may_sign(authority: x509.Certificate) -> bool:
    try:
        return authority.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    except x509.ExtensionNotFound:
        return True


def crl_warnings(trusted: TrustStore, now: float) -> Iterator[str]:
    """What shuts out all the clients of an authority: it has no list that is valid. ``now``: seconds since the epoch."""
    if trusted.crls:
        for subject in dict.fromkeys(authority.subject for authority in trusted.authorities):
            problems = [_untimely(crl, now) for crl in trusted.crls if crl.issuer == subject]
            if all(problems):
                name, problem = (
                    without_secrets(repr(subject.rfc4514_string())),
                    problems[-1] if problems else "is missing",
                )
                yield f"crl: the list of {name} {problem}; what that authority has issued is not trusted"


def _untimely(crl: _Crl, now: float) -> str:
    begin, end = crl.last_update_utc.timestamp(), crl.next_update_utc
    if now < begin:
        return f"is not valid before {date(begin)}"
    if end is not None and now > end.timestamp():
        return f"expired at {date(end.timestamp())}"
    return ""
