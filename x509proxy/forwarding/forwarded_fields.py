"""The header fields of a request for the back end, after sanitizing and the certificate policy."""

from __future__ import annotations

import attrs

from x509proxy.certificates.client_certificate import ClientCertificate
from x509proxy.forwarding.certificate_policy import admit
from x509proxy.forwarding.client import Client
from x509proxy.forwarding.header_rules import HeaderRules, identity
from x509proxy.forwarding.path_rules import requirement_for, token_requirement_for
from x509proxy.forwarding.sanitizer import forward_request
from x509proxy.http1.fields import Pairs, write_fields
from x509proxy.http1.messages import RequestHead
from x509proxy.settings import PolicySettings, TokenRequirement

__all__ = ["Forwarded", "forward"]


@attrs.frozen
class Forwarded:
    """The part of a request head that goes to the back end."""

    certificate: ClientCertificate | None
    """The certificate that the fields contain."""
    token: TokenRequirement
    """The requirement for an access token, which is checked later."""
    fields: bytes
    """The serialized header fields, without framing."""


def forward(
    cleaned: Pairs,
    head: RequestHead,
    client: Client,
    rules: HeaderRules,
    policy: PolicySettings,
    now: float,
) -> Forwarded:
    """Apply the policy to the certificate, and write the fields for the back end.

    ``cleaned`` has the client's own fields after sanitizing. ``now`` is in seconds since the epoch.

    :raises HttpError: the certificate is rejected. Nothing is sent to the back end (L3).
    """
    requirement = requirement_for(head, policy, client.client_auth)
    admitted = admit(client.certificate, requirement, policy, now)
    token = token_requirement_for(head, policy)
    fields = write_fields(
        forward_request(cleaned, head.host, client.hop, identity(admitted, rules))
    )
    return Forwarded(admitted, token, fields)
