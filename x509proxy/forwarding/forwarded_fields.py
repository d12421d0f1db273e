"""The fields of a request that go to the back end: sanitized, admitted and written."""

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
    """The part of a request that goes to the back end.

    ``certificate``: the one that the fields are about; ``token``: the request's need of an access
    token; ``fields``: those of the head, written, without framing.
    """

    certificate: ClientCertificate | None
    token: TokenRequirement
    fields: bytes


def forward(
    cleaned: Pairs,
    head: RequestHead,
    client: Client,
    rules: HeaderRules,
    policy: PolicySettings,
    now: float,
) -> Forwarded:
    """Judge the certificate, and write the fields that go to the back end.

    ``cleaned``: what passes of the client's own; ``now``: seconds since the epoch.

    :raises HttpError: the response to the request; not one byte goes to the back end.
    """
    admitted = admit(client.certificate, requirement_for(head, policy, client.asked), policy, now)
    token = token_requirement_for(head, policy)
    own = identity(admitted, rules)
    fields = write_fields(forward_request(cleaned, head.host, client.hop, own))
    return Forwarded(admitted, token, fields)
