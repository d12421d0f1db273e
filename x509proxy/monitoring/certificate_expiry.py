"""When what the proxy has read from files will be no longer valid: its own certificates, authorities, and revocation lists."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from x509proxy.certificates.client_certificate import thumbprint
from x509proxy.config.loader import Configuration
from x509proxy.monitoring.snapshot import CertificateState

__all__ = ["certificate_states"]

_LONGEST = 120


def certificate_states(configuration: Configuration) -> tuple[CertificateState, ...]:
    """Everything with an end, in the order of the configuration; each ``use`` is there once."""
    return tuple(_states(configuration))


def _states(found: Configuration) -> Iterator[CertificateState]:
    yield _certificate("certificate", found.identity.certificate)
    for place, identity in enumerate(found.extra_identities):
        yield _certificate(f"certificates[{place}].certificate", identity.certificate)
    for place, authority in enumerate(found.trusted.authorities):
        yield _certificate(f"ca[{place}]", authority)
    for place, crl in enumerate(found.trusted.crls):
        # A list need not say when the next one comes (RFC 5280 section 5.1.2.5 wants it to).
        if crl.next_update_utc is not None:
            begins, ends = crl.last_update_utc.timestamp(), crl.next_update_utc.timestamp()
            yield CertificateState(
                use=f"crl[{place}]",
                name=_shown(crl.issuer.rfc4514_string()),
                begins=begins,
                ends=ends,
            )
    for place, authority in enumerate(found.upstream_authorities or ()):
        yield _certificate(f"upstream.ca[{place}]", authority)
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
    return visible if len(visible) <= _LONGEST else visible[: _LONGEST - 3] + "..."
