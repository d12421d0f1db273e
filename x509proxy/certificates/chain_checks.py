"""Checks for warnings: a server certificate that clients reject, an authority that has no effect.

Facts
-----
* Clients look for a host's name in the subjectAltName alone (RFC 9525 section 6.3).
* OpenSSL follows a chain up to a root, because ``X509_V_FLAG_PARTIAL_CHAIN`` is not set. An
  intermediate authority without its root makes no client trusted.
* A self-signed certificate that is no authority is trusted as itself.
* ``cryptography`` parses names and extensions lazily and raises a different exception for each kind
  of fault. A check that only warns must not prevent the start, so all of them are caught.
"""

from __future__ import annotations

from collections.abc import Iterator

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import mldsa

from x509proxy.certificates.pem_files import Identity
from x509proxy.redaction import without_secrets

__all__ = ["authority_problems", "server_problems", "subject_of"]


def server_problems(identity: Identity) -> Iterator[str]:
    """Yield the faults of the server's certificate and chain, each as the rest of a sentence."""
    if not _has_names(identity.certificate):
        yield "has no subjectAltName, so clients find no host name in it"
    if isinstance(
        identity.private_key,
        mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey,
    ):
        yield "has an ML-DSA key, so clients without ML-DSA, such as browsers, cannot connect"
    below = identity.certificate
    for number, issuer in enumerate(identity.chain, 2):
        if not _has_issued(issuer, below):
            yield (
                f"the certificate number {number} in the file did not issue the one before it, "
                "so clients may find no chain to a root"
            )
        below = issuer


def authority_problems(authorities: tuple[x509.Certificate, ...]) -> Iterator[str]:
    """Yield the reasons why an authority has no effect, each as the rest of a sentence."""
    names = {authority: _names_of(authority) for authority in authorities}
    roots = {subject for subject, issuer in names.values() if subject == issuer}
    subjects = {subject for subject, _ in names.values()}
    for authority, (subject, issuer) in names.items():
        if not _is_authority(authority):
            yield (
                f"{_shown(subject)} is not a CA certificate (basicConstraints CA:FALSE), "
                "so it cannot vouch for clients"
            )
        elif issuer not in subjects and subject not in roots:
            yield (
                f"{_shown(subject)} is not a root, and its issuer {_shown(issuer)} is missing, "
                "so no client is trusted because of it"
            )


def subject_of(certificate: x509.Certificate) -> str:
    """Return the subject's name, quoted and redacted, for a sentence."""
    return _shown(_names_of(certificate)[0])


def _shown(name: str) -> str:
    return without_secrets(repr(name))


def _names_of(certificate: x509.Certificate) -> tuple[str, str]:
    """Return subject and issuer in RFC 4514 form."""
    try:
        return certificate.subject.rfc4514_string(), certificate.issuer.rfc4514_string()
    except Exception:
        return "a name that cannot be read", "a name that cannot be read"


def _has_names(certificate: x509.Certificate) -> bool:
    try:
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except Exception:
        return False
    return True


def _has_issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        # OpenSSL accepts roots of version 1, which are older than the extension, as authorities.
        return certificate.version is x509.Version.v1 and certificate.subject == certificate.issuer
    except Exception:
        return False
