"""A typical exchange with a client certificate, for the access log."""

from __future__ import annotations

import msgspec

from tests.support.certificates import SELF_SIGNED
from tests.support.exchanges import EXCHANGE
from x509proxy.certificates.client_certificate import ClientCertificate
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.exchange import Exchange

__all__ = ["sample_exchange"]


def sample_exchange() -> Exchange:
    """Return a token request with the certificate of a client."""
    made = make_self_signed(KeyKind.EC, "my-client").certificate
    return msgspec.structs.replace(
        EXCHANGE,
        certificate=ClientCertificate.from_x509(made, (SELF_SIGNED,)),
        request_id="0123456789abcdef0123456789abcdef",
    )
