"""The cost of an exchange in calls, not in time: more work on the hot path fails a test here.

The number of calls of Python and C functions is the same on every machine. The bounds are a few per
cent above the measured numbers. A change that lowers a number lowers its bound; the commit that
raises a bound gives the reason.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from tests.support import certificates as samples
from tests.support.call_counts import count_calls
from tests.support.memory import GET, OK, Proxy, RequestTransport, post
from x509proxy.certificates.pem_files import Identity
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.downstream.factory import TlsFactory
from x509proxy.monitoring.access_log_format import access_line
from x509proxy.settings import ClientAuth, ClientSettings
from x509proxy.transport.tls_context import ServerConnections, make_context

TOKEN = post(
    b"grant_type=client_credentials",
    b"User-Agent: client/1.0",
    b"Accept: application/json",
    b"Content-Type: application/x-www-form-urlencoded",
)
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n"
    b"Date: Tue, 24 Nov 2026 12:00:00 GMT\r\nContent-Length: 60\r\n\r\n" + b"x" * 60
)


class KeepAlive(SynchronousTestCase):
    def exchange_calls(self, *requests: bytes, answer: bytes = OK) -> float:
        """Return the calls for each exchange on a kept connection, once all caches are filled.

        The line of the access log is included.
        """
        proxy = Proxy(client=ClientSettings(max_requests_per_connection=10**6))
        proxy.observe = access_line  # type: ignore[assignment]  # its line is discarded
        client = proxy.tls_client(samples.certificate(), requests[0])
        back_end = proxy.back_end.wire
        back_end.deliver(answer)

        def one(request: bytes) -> None:
            client.deliver(request)
            back_end.deliver(answer)
            client.clear()
            back_end.clear()

        def all_of(several: Sequence[bytes]) -> None:
            for request in several:
                one(request)

        all_of(requests[:3])
        return count_calls(partial(all_of, requests)) / len(requests)

    def test_get(self) -> None:
        """A GET with a short response."""
        self.assertLessEqual(self.exchange_calls(*[GET] * 20), 225)

    def test_token_request(self) -> None:
        """A token request as OAuth clients send it, with an authorization server's response."""
        self.assertLessEqual(self.exchange_calls(*[TOKEN] * 20, answer=ANSWER), 245)

    def test_unknown_heads(self) -> None:
        """The cost of an unknown head grows no faster than its number of fields."""
        few, many, more = (self.exchange_calls(*self.heads(count)) for count in (10, 40, 70))
        self.assertLessEqual(many - few, 30 * 15)
        self.assertLessEqual(abs((more - many) - (many - few)), 30)

    def heads(self, count: int) -> list[bytes]:
        """Return requests with this number of fields, no two alike."""
        return [
            GET[:-2] + b"X-A: b\r\n" * count + b"X-B: %d-%d\r\n\r\n" % (count, number)
            for number in range(20)
        ]


class Fresh(SynchronousTestCase):
    def test_connection(self) -> None:
        """The server's side of a connection with a client's certificate and one exchange."""
        server, client = (
            make_self_signed(KeyKind.EC, "localhost", server=True),
            make_self_signed(KeyKind.EC, "client"),
        )
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.use_certificate(client.certificate)
        context.use_privatekey(client.private_key)  # type: ignore[arg-type]  # an EC key
        proxy = Proxy()
        proxy.observe = access_line  # type: ignore[assignment]
        connections = ServerConnections(
            make_context(Identity(server.certificate, server.private_key), ClientAuth.OPTIONAL)
        )
        factory = TlsFactory(connections, proxy.factory, proxy.clock)
        first, *others = (self.connection_calls(proxy, factory, context) for _ in range(4))
        # The counts are equal, except in a new second, whose text is formatted for the log.
        least, same, _ = sorted(others)
        self.assertEqual(least, same)
        self.assertLessEqual(least, 630, first)

    def connection_calls(self, proxy: Proxy, factory: TlsFactory, context: SSL.Context) -> int:
        client = SSL.Connection(context, None)
        client.set_connect_state()
        wire = RequestTransport(proxy.clock)
        count = count_calls(lambda: wire.attach(factory.buildProtocol(None)))  # type: ignore[arg-type]
        for step in (
            client.do_handshake,
            client.do_handshake,
            lambda: client.send(GET),
            client.shutdown,
        ):
            with contextlib.suppress(SSL.WantReadError):
                step()
            said = client.bio_read(1 << 16)
            count += count_calls(partial(wire.deliver, said))
            for back_end in proxy.back_end.wires:
                if back_end.sent():
                    count += count_calls(partial(back_end.deliver, OK))
            if answer := wire.sent():
                client.bio_write(answer)
        return count
