"""Validity periods of the proxy's own certificates, of authorities and of revocation lists."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from x509proxy.certificates.client_certificate import thumbprint
from x509proxy.config.loader import Configuration
from x509proxy.monitoring.snapshot import CertificateState

__all__ = ["certificate_states"]

_MAX_CHARS = 120


def certificate_states(configuration: Configuration) -> tuple[CertificateState, ...]:
    """Return all certificates and lists of a configuration, in order. Each ``use`` is unique."""
    return tuple(_states(configuration))


def _states(found: Configuration) -> Iterator[CertificateState]:
    yield _certificate("certificate", found.identity.certificate)
    for index, identity in enumerate(found.extra_identities):
        yield _certificate(f"certificates[{index}].certificate", identity.certificate)
    for index, authority in enumerate(found.trusted.authorities):
        yield _certificate(f"ca[{index}]", authority)
    for index, crl in enumerate(found.trusted.crls):
        # RFC 5280 section 5.1.2.5 requires nextUpdate, but a list can be without it.
        if crl.next_update_utc is not None:
            yield CertificateState(
                use=f"crl[{index}]",
                name=_shown(crl.issuer.rfc4514_string()),
                begins=crl.last_update_utc.timestamp(),
                ends=crl.next_update_utc.timestamp(),
            )
    for index, authority in enumerate(found.upstream_authorities or ()):
        yield _certificate(f"upstream.ca[{index}]", authority)
    if found.upstream_identity is not None:
        yield _certificate("upstream.certificate", found.upstream_identity.certificate)
    if found.tokens is not None and found.tokens.identity is not None:
        yield _certificate("tokens.certificate", found.tokens.identity.certificate)


def _certificate(use: str, certificate: x509.Certificate) -> CertificateState:
    return CertificateState(
        use=use,
        name=_shown(", ".join(_names(certificate)) or certificate.subject.rfc4514_string()),
        begins=certificate.not_valid_before_utc.timestamp(),
        ends=certificate.not_valid_after_utc.timestamp(),
        thumbprint=thumbprint(certificate.public_bytes(Encoding.DER)),
    )


def _names(certificate: x509.Certificate) -> list[str]:
    with suppress(x509.ExtensionNotFound, ValueError):
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return names.get_values_for_type(x509.DNSName)
    return []


def _shown(name: str) -> str:
    visible = "".join(mark if mark.isprintable() else "?" for mark in name)
    return visible if len(visible) <= _MAX_CHARS else visible[: _MAX_CHARS - 3] + "..."
