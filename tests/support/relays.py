"""A relay between a request and a back end in memory."""

from __future__ import annotations

from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from tests.support.certificates import NOON, certificate
from tests.support.memory import HEADER, Proxy, RequestTransport
from x509proxy import relay as transfer
from x509proxy.authorization.token_check import TokenChecker
from x509proxy.certificates.client_certificate import ClientCertificate, VerifyError
from x509proxy.exchange import Outcome
from x509proxy.forwarding.certificate_formats import encode
from x509proxy.settings import (
    ClientSettings,
    DiscoverySettings,
    Format,
    PolicySettings,
    UpstreamSettings,
)


def asked(line: bytes, *more: bytes, host: bytes = b"as.example", scheme: bytes = b"http") -> bytes:
    """Return the head that a back end receives, without its id.

    ``more`` are the lines after those of the proxy.
    """
    lines = [
        line,
        b"Host: " + host,
        b"X-Forwarded-For: 198.51.100.7",
        b"X-Forwarded-Proto: " + scheme,
        b"X-Forwarded-Port: 8443",
        b"X-Forwarded-Host: " + host,
        b'Forwarded: for=198.51.100.7;host="' + host + b'";proto=' + scheme,
        *more,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def identity() -> bytes:
    client = ClientCertificate.from_x509(certificate(), [VerifyError(0, 18)])
    ((name, value),) = encode(client, Format.PEM, HEADER)
    return name + b": " + value


class RelayTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        # The certificates of the samples are valid at that time.
        clock = patch.object(transfer, "time")
        clock.start().time.return_value = NOON
        self.addCleanup(clock.stop)
        self.arrange()

    def arrange(
        self,
        *,
        client: ClientSettings = ClientSettings(),
        upstream: UpstreamSettings = UpstreamSettings(),
        policy: PolicySettings = PolicySettings(),
        urls: tuple[str, ...] = ("http://127.0.0.1:8080",),
        at_once: bool = True,
        discovery: DiscoverySettings | None = None,
        tokens: TokenChecker | None = None,
    ) -> None:
        self.proxy = Proxy(
            client=client,
            upstream=upstream,
            policy=policy,
            urls=urls,
            at_once=at_once,
            discovery=discovery,
            tokens=tokens,
        )

    @property
    def back(self) -> RequestTransport:
        return self.proxy.back_end.wire

    def expect_status(self, status: int, client: RequestTransport) -> None:
        self.assertEqual(str(status).encode(), client.sent()[9:12])
        (exchange,) = self.proxy.exchanges
        self.assertEqual((status, Outcome.REJECTED), (exchange.status, exchange.outcome))

    def expect_unasked(self) -> None:
        """Check that no connection to a back end was attempted."""
        self.assertEqual([[]], [back_end.attempts for back_end in self.proxy.back_ends])

    def expect_quiet(self) -> None:
        """Check that no connection is in use, and no request is queued."""
        self.assertEqual([0] * len(self.proxy.pools), [pool.load for pool in self.proxy.pools])
