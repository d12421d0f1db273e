"""What of a request goes to the back end: cleaned, judged and written, once for all that differ in nothing but id and body.

Facts
-----
* A client asks the same again and again: the head is one that is known (:mod:`x509proxy.http1.head_cache`), and address and certificate
  are those of its connection. What has been found is kept with the head, and lives no longer.
* It is compared by identity, which nothing else can have: another configuration, or another certificate, is another object.
* Times pass: they are judged each time.
"""

from __future__ import annotations

import attrs

from x509proxy.certificates.client_certificate import ClientCertificate
from x509proxy.forwarding.certificate_policy import admit, check_times
from x509proxy.forwarding.client import Client
from x509proxy.forwarding.header_rules import HeaderRules, identity
from x509proxy.forwarding.path_rules import requirement_for
from x509proxy.forwarding.sanitizer import forward_request, write_fields
from x509proxy.http1.fields import Pairs
from x509proxy.http1.messages import RequestHead
from x509proxy.settings import PolicySettings

__all__ = ["forward"]

# For each head, of which there are no more than 512: eight megabytes at the worst.
_MOST = 4
_LARGEST = 4096  # bytes


@attrs.frozen
class _Told:
    """What was found for this ``client`` under these ``rules`` and this ``policy``. ``certificate``: the one that it tells of."""

    client: Client
    rules: HeaderRules
    policy: PolicySettings
    certificate: ClientCertificate | None
    fields: bytes


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
    known: list[_Told] = head.told
    for told in known:
        if told.client is client and told.rules is rules and told.policy is policy:
            if told.certificate is not None:
                check_times(told.certificate, policy, now)
            return told.fields
    admitted = admit(client.certificate, requirement_for(head, policy, client.asked), policy, now)
    fields = write_fields(
        forward_request(cleaned, head.host, client.hop, identity(admitted, rules))
    )
    if len(fields) <= _LARGEST:
        head.told[:] = [_Told(client, rules, policy, admitted, fields), *known[: _MOST - 1]]
    return fields
