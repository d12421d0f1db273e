"""The policy for client certificates: forward one, or reject the request with a reason.

RFC 8705 section 2.2 needs no chain of certificates, and section 6.1 describes a TLS stack that
verifies none. So the policy rejects only a certificate that no server accepts on purpose (weak,
unreadable or too large), or one that the configuration excludes. The error response gives the
client's developer the reason.
"""

from __future__ import annotations

from x509proxy.certificates.client_certificate import (
    ClientCertificate,
    Flag,
    Verdict,
    client_usage_problem,
    date,
)
from x509proxy.http1.errors import Code, ErrorResponse, HttpError
from x509proxy.settings import CertificateRequirement, KeyType, PolicySettings, Trust, Validity

__all__ = ["admit", "check_times"]

_ACCEPTED = {
    Trust.ANY: (Verdict.SELF_SIGNED, Verdict.TRUSTED, Verdict.UNTRUSTED),
    Trust.SELF_SIGNED: (Verdict.SELF_SIGNED,),
    Trust.CA: (Verdict.TRUSTED,),
    Trust.EITHER: (Verdict.SELF_SIGNED, Verdict.TRUSTED),
}
_ENFORCE = Validity.ENFORCE
_RSA = KeyType.RSA.value
_ALL_TYPES = [key_type.value for key_type in KeyType]
_EXPECTED = {
    Trust.SELF_SIGNED: "The client certificate must be self-signed",
    Trust.CA: (
        "The client certificate must be issued by a certificate authority that this server trusts"
    ),
    Trust.EITHER: (
        "The client certificate must be self-signed, or issued by a certificate authority that "
        "this server trusts"
    ),
}


def admit(
    certificate: ClientCertificate | None,
    requirement: CertificateRequirement,
    settings: PolicySettings,
    now: float,
) -> ClientCertificate | None:
    """Return the certificate to forward, or ``None`` for a request without one.

    ``now``: seconds since the epoch.

    :raises HttpError: 401 ``invalid_client`` (RFC 6749 section 5.2), or 400 for one that is too
        large.
    """
    if requirement is CertificateRequirement.IGNORED:
        return None
    if certificate is None:
        if requirement is CertificateRequirement.REQUIRED:
            raise _rejected(
                Code.NO_CERTIFICATE, "no client certificate", "A client certificate is required"
            )
        return None
    _check_always(certificate, settings)
    _check_key(certificate, settings)
    check_times(certificate, settings, now)
    if certificate.verdict not in _ACCEPTED[settings.trust]:
        raise _not_trusted(certificate, settings.trust)
    return certificate


def _not_trusted(certificate: ClientCertificate, trust: Trust) -> HttpError:
    if (
        Verdict.TRUSTED in _ACCEPTED[trust]
        and certificate.verdict is Verdict.UNTRUSTED
        and Flag.WRONG_USAGE in certificate.flags
    ):
        # The authority may be trusted, so the general description could be false.
        problem = client_usage_problem(certificate.der)
        return _rejected(
            Code.WRONG_USAGE,
            "certificate not for clients",
            f"The client certificate is not meant for TLS clients: {problem}",
        )
    return _rejected(Code.UNTRUSTED, f"verdict {certificate.verdict.value}", _EXPECTED[trust])


def _check_always(certificate: ClientCertificate, settings: PolicySettings) -> None:
    # The size first: a certificate that is far too large has not been parsed.
    size = len(certificate.der)
    if size > settings.max_certificate_bytes:
        text = (
            f"The client certificate is too large: {size} bytes, "
            f"{settings.max_certificate_bytes} allowed"
        )
        raise HttpError(
            ErrorResponse(
                Code.CERTIFICATE_TOO_LARGE, f"certificate of {size} bytes", text, "invalid_client"
            )
        )
    if not certificate.flags:
        return
    if Flag.UNREADABLE in certificate.flags:
        raise _rejected(
            Code.UNREADABLE_CERTIFICATE,
            "unreadable certificate",
            "The client certificate cannot be read",
        )
    if Flag.REVOKED in certificate.flags:
        raise _rejected(
            Code.REVOKED,
            "revoked certificate",
            "The client certificate, or that of one of its issuers, has been revoked",
        )
    if Flag.WEAK in certificate.flags:
        raise _rejected(
            Code.WEAK_KEY,
            f"weak certificate: {certificate.key}",
            f"The client certificate is too weak ({certificate.key})",
        )
    if Flag.UNSUPPORTED_KEY in certificate.flags:
        expected = ", ".join(key_type.value for key_type in settings.key_types)
        raise _rejected(
            Code.UNSUPPORTED_KEY,
            f"unsupported key: {certificate.key}",
            f"The key of the client certificate is not supported: found {certificate.key}, "
            f"expected one of {expected}",
        )


def check_times(certificate: ClientCertificate, settings: PolicySettings, now: float) -> None:
    """Check the part of the policy whose result changes with time.

    :raises HttpError: as :func:`admit`.
    """
    flags = certificate.flags_at(now) if settings.validity is _ENFORCE else ()
    if not flags:
        return
    if Flag.EXPIRED in flags:
        raise _rejected(
            Code.EXPIRED,
            "expired certificate",
            f"The client certificate expired at {date(certificate.not_after)}",
        )
    if Flag.NOT_YET_VALID in flags:
        raise _rejected(
            Code.NOT_YET_VALID,
            "certificate not yet valid",
            f"The client certificate is not valid before {date(certificate.not_before)}",
        )


def _check_key(certificate: ClientCertificate, settings: PolicySettings) -> None:
    """Check ``key-types`` and ``minimum-rsa-bits``, which can be stricter than the flags.

    ``certificate.key`` is, for example, ``RSA 2048`` or ``Ed25519``.
    """
    kind, _, size = certificate.key.lower().partition(" ")
    allowed = (
        _ALL_TYPES
        if len(settings.key_types) == len(_ALL_TYPES)
        else [key_type.value for key_type in settings.key_types]
    )
    if kind not in allowed:
        expected = f"must have a key of type {' or '.join(allowed)}"
    elif kind == _RSA and int(size) < settings.minimum_rsa_bits:
        expected = f"must have an RSA key of {settings.minimum_rsa_bits} bits or more"
    else:
        return
    raise _rejected(
        Code.KEY_TYPE_NOT_ALLOWED,
        f"key not allowed: {certificate.key}",
        f"The client certificate {expected}, not {certificate.key}",
    )


def _rejected(code: Code, detail: str, description: str) -> HttpError:
    return HttpError(ErrorResponse(code, detail, description))
