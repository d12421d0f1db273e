"""Whether certificates can do what they are there for: a server's to be believed by clients, an authority's to vouch for them.

Facts
-----
* Clients look for a host's name in the subjectAltName alone (RFC 9525 section 6.3).
* OpenSSL follows a chain up to a root, since it is not told that it may stop earlier (``X509_V_FLAG_PARTIAL_CHAIN``): an
  intermediate authority without its root makes nobody trusted. A self-signed certificate of nobody's is trusted as itself.
* ``cryptography`` reads names and extensions when they are asked for, and has an error of its own for each kind of oddity. What
  is only warned of must not end a start.
"""

from __future__ import annotations

from collections.abc import Iterator

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import mldsa

from x509proxy.certificates.pem_files import Identity
from x509proxy.redaction import without_secrets

__all__ = ["authority_problems", "named", "server_problems"]


def server_problems(identity: Identity) -> Iterator[str]:
    """What is odd in the certificate and the chain that clients are shown, each as the rest of a sentence."""
    if not _has_names(identity.certificate):
        yield "has no subjectAltName, so that no client finds the host's name in it"
    if isinstance(
        identity.private_key,
        mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey,
    ):
        yield "has an ML-DSA key, so that clients without ML-DSA in TLS 1.3, such as browsers, cannot connect"
    below = identity.certificate
    for place, issuer in enumerate(identity.chain, 2):
        if not _has_issued(issuer, below):
            yield f"the one in place {place} of the file has not issued the one before, so that clients may find no way to a root"
        below = issuer


def authority_problems(authorities: tuple[x509.Certificate, ...]) -> Iterator[str]:
    """What keeps an authority from vouching for anybody, each as the rest of a sentence."""
    names = {one: _names_of(one) for one in authorities}
    roots = {subject for subject, issuer in names.values() if subject == issuer}
    subjects = {subject for subject, _ in names.values()}
    for one, (subject, issuer) in names.items():
        if not _is_authority(one):
            yield f"{_told(subject)} is the certificate of no authority (basicConstraints), so that nobody else is trusted by it"
        elif issuer not in subjects and subject not in roots:
            yield f"{_told(subject)} is no root, and its issuer {_told(issuer)} is not there, so that nobody is trusted by it"


def named(certificate: x509.Certificate) -> str:
    """Whose it is, for a sentence."""
    return _told(_names_of(certificate)[0])


def _told(name: str) -> str:
    return without_secrets(repr(name))


def _names_of(certificate: x509.Certificate) -> tuple[str, str]:
    """Subject and issuer."""
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
        # Roots of version 1, which are older than the extension, are taken for authorities by OpenSSL.
        return certificate.version is x509.Version.v1 and certificate.subject == certificate.issuer
    except Exception:
        return False
