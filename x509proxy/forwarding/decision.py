"""The proxy's decision about one request: an error response, or the fields that go to a back end.

It is a pure function of the head, the client and the configuration. Nothing of a request reaches a
back end unless :func:`decide` has returned without an error (invariant L3).
"""

from __future__ import annotations

from functools import lru_cache

import attrs

from x509proxy.certificates.client_certificate import ClientCertificate
from x509proxy.forwarding.certificate_policy import admit
from x509proxy.forwarding.client import Client, Hop
from x509proxy.forwarding.header_rules import HeaderRules, identity
from x509proxy.forwarding.path_rules import requirement_for, token_requirement_for
from x509proxy.forwarding.sanitizer import forwarded, sanitize_request
from x509proxy.http1.errors import ErrorResponse, HttpError
from x509proxy.http1.fields import write_fields
from x509proxy.http1.messages import RequestHead
from x509proxy.settings import PolicySettings, TokenRequirement

__all__ = ["Decision", "decide"]


@attrs.frozen(slots=False)
class Decision:
    """The decision about one request."""

    forged: int
    """Number of forged fields, which had a name of the proxy's own headers and were removed."""
    error: ErrorResponse | None = None
    """The response, or ``None`` for a request that may go to a back end."""
    certificate: ClientCertificate | None = None
    """The certificate that ``fields`` contain."""
    token: TokenRequirement = TokenRequirement.IGNORED
    """The requirement for an access token, which is checked later."""
    fields: bytes = attrs.field(default=b"", repr=False)
    """The serialized header fields, without framing."""


def decide(
    head: RequestHead, client: Client, rules: HeaderRules, policy: PolicySettings, now: float
) -> Decision:
    """Sanitize a request, apply the policy to its certificate, and write the fields for a back end.

    The client's fields come first, then the proxy's own. ``now`` is in seconds since the epoch.
    """
    forged = 0
    try:
        pairs, forged = sanitize_request(head, rules)
        requirement = requirement_for(head, policy, client.client_auth)
        certificate = admit(client.certificate, requirement, policy, now)
        token = token_requirement_for(head, policy)
        own = _own_fields(head.host, client.hop, certificate, rules)
        return Decision(forged, None, certificate, token, write_fields(pairs) + own)
    except HttpError as rejected:
        return Decision(forged, rejected.response)


# Octets of a host, and of a certificate, whose fields are kept (L7): the longest name in DNS with a
# port, and a certificate twice as large as usual ones. Others are written for each request.
_MAX_HOST = 261
_MAX_DER = 4096


def _own_fields(
    host: bytes, hop: Hop, certificate: ClientCertificate | None, rules: HeaderRules
) -> bytes:
    hop_fields = _hop_fields.__wrapped__ if host[_MAX_HOST:] else _hop_fields
    is_large = certificate is not None and (certificate.der[_MAX_DER:] or certificate.chain)
    certificate_fields = _certificate_fields.__wrapped__ if is_large else _certificate_fields
    return hop_fields(host, hop) + certificate_fields(certificate, rules)


# A connection sends many requests to one host, with one certificate.
@lru_cache(maxsize=256)
def _hop_fields(host: bytes, hop: Hop) -> bytes:
    return write_fields([*forwarded(host, hop)])


@lru_cache(maxsize=1024)
def _certificate_fields(certificate: ClientCertificate | None, rules: HeaderRules) -> bytes:
    return write_fields(identity(certificate, rules))
