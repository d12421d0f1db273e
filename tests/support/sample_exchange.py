"""A typical exchange with a client certificate, for the access log."""

from __future__ import annotations

from tests.support.certificates import NOON, SELF_SIGNED
from x509proxy.certificates.client_certificate import ClientCertificate
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.exchange import Exchange, Outcome

__all__ = ["sample_exchange"]


def sample_exchange() -> Exchange:
    """Return a token request with the certificate of a client."""
    made = make_self_signed(KeyKind.EC, "my-client").certificate
    return Exchange(
        started=NOON + 0.25,
        duration=0.0123,
        peer="192.0.2.7",
        method="POST",
        target="/token",
        status=200,
        outcome=Outcome.COMPLETED,
        bytes_in=29,
        bytes_out=512,
        tls_version="TLSv1.3",
        key_exchange="X25519MLKEM768",
        certificate=ClientCertificate.from_x509(made, (SELF_SIGNED,)),
        backend="http://127.0.0.1:8080",
        request_id="0123456789abcdef0123456789abcdef",
    )
