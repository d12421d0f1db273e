"""The fields of a request that go to the back end: sanitized, admitted and written."""

from __future__ import annotations

from x509proxy.forwarding.certificate_policy import admit
from x509proxy.forwarding.client import Client
from x509proxy.forwarding.header_rules import HeaderRules, identity
from x509proxy.forwarding.path_rules import requirement_for
from x509proxy.forwarding.sanitizer import forward_request
from x509proxy.http1.fields import Pairs, write_fields
from x509proxy.http1.messages import RequestHead
from x509proxy.settings import PolicySettings

__all__ = ["forward"]


def forward(
    cleaned: Pairs,
    head: RequestHead,
    client: Client,
    rules: HeaderRules,
    policy: PolicySettings,
    now: float,
) -> bytes:
    """The fields that go to the back end, written, without framing. ``cleaned``: what passes of the client's own.

    ``now``: seconds since the epoch.

    :raises Refused: the request is to be answered with this, and not one byte goes to the back end.
    """
    admitted = admit(client.certificate, requirement_for(head, policy, client.asked), policy, now)
    return write_fields(forward_request(cleaned, head.host, client.hop, identity(admitted, rules)))
