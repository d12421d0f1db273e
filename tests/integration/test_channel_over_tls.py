"""Promises of :mod:`x509proxy.downstream.channel` on :mod:`x509proxy.transport.tls_stream`.

Data that waits inside OpenSSL arrives as soon as reading resumes. The channel receives up to 128
records at once. When it pauses within these and resumes, it receives the next ones in that call.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from tests.support.memory import GET, OK, Proxy, RequestTransport, post, undated
from x509proxy.certificates.pem_files import Identity
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.downstream.factory import TlsFactory
from x509proxy.exchange import Outcome
from x509proxy.http1.errors import Code
from x509proxy.settings import ClientAuth, ClientSettings
from x509proxy.transport.tls_context import ServerConnections, make_context

SERVER = make_self_signed(KeyKind.EC, "localhost", server=True)
CONNECTIONS = ServerConnections(
    make_context(Identity(SERVER.certificate, SERVER.private_key), ClientAuth.OPTIONAL)
)


def get(path: bytes) -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\nHost: as.example\r\n\r\n"


def in_pieces(data: bytes, count: int) -> list[bytes]:
    """Split the data into this number of records."""
    size = -(-len(data) // count)
    return [data[place : place + size] for place in range(0, len(data), size)]


def cut(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    """Split the data into records of these sizes, and one for the rest."""
    places = list(itertools.accumulate(sizes, initial=0))
    pieces = [
        data[begin:end] for begin, end in itertools.pairwise([*places, max(len(data), places[-1])])
    ]
    return [piece for piece in pieces if piece]


REQUESTS = (
    get(b"/1"),
    get(b"/2")[:-2] + b"Connection: close\r\n\r\n",
    post(b"~" * 1000),
    post(b"64\r\n" + b"~" * 100 + b"\r\n0\r\n\r\n", length=-1),
    b"\r\n",
)


class Behind(SynchronousTestCase):
    def start(self, settings: ClientSettings = ClientSettings()) -> None:
        self.proxy = Proxy(client=settings, at_once=False)
        self.wire = RequestTransport(self.proxy.clock).attach(
            TlsFactory(CONNECTIONS, self.proxy.factory, self.proxy.clock).buildProtocol(None)  # type: ignore[arg-type]
        )
        self.client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
        self.client.set_connect_state()
        self.heard = b""
        for _ in range(2):
            with contextlib.suppress(SSL.WantReadError):
                self.client.do_handshake()
            self.exchange()

    def exchange(self) -> None:
        """Pass the client's output to the proxy in one packet, and the proxy's to the client."""
        with contextlib.suppress(SSL.WantReadError):
            self.wire.deliver(self.client.bio_read(1 << 20))
        if said := self.wire.sent():
            self.client.bio_write(said)

    def hear(self) -> bytes:
        """Return the data that the client has received since the last call."""
        self.exchange()
        heard = b""
        with contextlib.suppress(SSL.WantReadError, SSL.ZeroReturnError):
            while True:
                heard += self.client.recv(1 << 16)
        return heard

    def say(self, *records: bytes) -> None:
        """Send the records in one packet, then let the connection to the back end succeed."""
        for record in records:
            self.client.send(record)
        self.exchange()
        if self.proxy.back_end.attempts:
            self.proxy.back_end.attempts[-1].succeed()

    def asked(self) -> bytes:
        """Return the data that all back ends have received."""
        return b"".join(wire.value() for wire in self.proxy.back_end.wires)

    def turns(self) -> None:
        """Let the proxy process the records that wait, 128 in a turn, before a response is sent."""
        for _ in range(8):
            self.proxy.clock.advance(0)

    def serve(self) -> tuple[list[bytes], int, bytes, list[tuple[str, int, Outcome]], str]:
        """Respond to each request.

        Return the request lines, the number of body octets, the data that the client received, the
        outcomes, and the parser's phase.
        """
        self.turns()
        # The first turn may not have had the whole head.
        for attempt in self.proxy.back_end.attempts:
            if not attempt.deferred.called:
                attempt.succeed()
        answered = 0
        while answered < self.asked().count(b" HTTP/1.1\r\n"):
            answered += 1
            self.turns()
            self.proxy.back_end.wire.deliver(OK)
        asked, phase = self.asked(), self.wire.protocol._protocol._phase.value
        return (
            re.findall(rb"\w+ \S+ HTTP/1.1", asked),
            asked.count(b"~"),
            undated(self.hear()),
            self.outcomes(),
            phase,
        )

    @given(
        st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=4),
        st.lists(st.integers(1, 700), max_size=30)
        | st.lists(st.integers(1, 3), min_size=150, max_size=300),
    )
    def test_any_records(self, requests: list[bytes], sizes: list[int]) -> None:
        """The result is the same for any division of a client's octets into records."""
        data, found = b"".join(requests), []
        for records in ([data], cut(data, sizes)):
            self.start(ClientSettings(request_buffer_bytes=64, max_requests_per_connection=3))
            self.say(*records)
            found.append(self.serve())
        self.assertEqual(*found)

    def outcomes(self) -> list[tuple[str, int, Outcome]]:
        return [
            (exchange.target, exchange.status, exchange.outcome)
            for exchange in self.proxy.exchanges
        ]

    def test_last_request(self) -> None:
        """Data behind a connection's last request is not served (RFC 9112 section 9.6)."""
        self.start(ClientSettings(max_requests_per_connection=1))
        self.say(get(b"/1"), *[b"\r\n"] * 130, get(b"/2"), get(b"/3"))
        self.proxy.back_end.wire.deliver(OK)
        self.assertIn(b"\r\nConnection: close\r\n", self.hear())
        self.assertEqual(["/1"], [exchange.target for exchange in self.proxy.exchanges])
        self.assertEqual(1, self.asked().count(b"GET "))
        self.assertTrue(self.wire.reading)

    def test_drain(self) -> None:
        """During a drain each request that has arrived is served, and no other one."""
        self.start()
        self.say(get(b"/1"), get(b"/2"), get(b"/3"))
        self.proxy.factory.drain()
        for _ in range(2):
            self.proxy.back_end.wire.deliver(OK)
            self.assertNotIn(b"\r\nConnection: close\r\n", self.hear())
        self.proxy.back_end.wire.deliver(OK)
        self.assertIn(b"\r\nConnection: close\r\n", self.hear())
        self.client.send(get(b"/4"))
        self.exchange()
        self.assertEqual(3, self.asked().count(b"GET "))

    def upload(self, settings: ClientSettings) -> None:
        """Send a body in many small records, above the buffer's limit; its end comes late.

        The end arrives while reading resumes.
        """
        self.start(settings)
        self.say(*in_pieces(post(b"~" * 100_000), 150))
        for _ in range(3):
            self.proxy.clock.advance(1)
        self.assertEqual(100_000, self.asked().count(b"~"))
        self.assertEqual(b"~" * 100_000, self.asked().partition(b"\r\n\r\n")[2])

    def test_body(self) -> None:
        """A complete upload has no deadline but the back end's."""
        self.upload(ClientSettings(body_timeout=2))
        self.proxy.back_end.wire.deliver(OK)
        self.assertIn(b"HTTP/1.1 200 OK\r\n", self.hear())

    def test_body_and_answer(self) -> None:
        """A response that has begun after a complete upload has no deadline of the upload."""
        self.upload(ClientSettings(body_timeout=6))
        self.proxy.back_end.wire.deliver(OK[:-2])
        for _ in range(5):
            self.proxy.clock.advance(1)
        self.proxy.back_end.wire.deliver(OK[-2:])
        self.assertTrue(self.hear().endswith(b"\r\n\r\nok"))

    def test_body_in_chunks(self) -> None:
        """No octet of an upload without a length is lost, and its end comes once."""
        self.start(ClientSettings(request_buffer_bytes=64))
        chunk = b"1\r\n~\r\n"
        self.say(post(b"", length=-1), *[chunk] * 300, b"0\r\n\r\n")
        for _ in range(3):
            self.proxy.clock.advance(1)
        asked = self.asked()
        self.assertEqual((300, 1), (asked.count(b"~"), asked.count(b"\r\n0\r\n\r\n")))
        self.assertTrue(asked.endswith(b"~\r\n0\r\n\r\n"))

    def test_idle(self) -> None:
        """A request that is being served is not idle."""
        self.start(ClientSettings(idle_timeout=2))
        self.say(get(b"/1"), *[b"\r\n"] * 130, get(b"/2"))
        self.proxy.back_end.wire.deliver(OK)
        for _ in range(4):
            self.proxy.clock.advance(1)
        self.proxy.back_end.wire.deliver(OK)
        self.assertEqual(2, self.hear().count(b"HTTP/1.1 200 OK\r\n"))

    def test_refused(self) -> None:
        """A connection that has been refused stays so, whatever was read meanwhile."""
        self.start(ClientSettings(max_body_bytes=80_000))
        chunk = b"3e8\r\n" + b"y" * 1000 + b"\r\n"
        self.say(post(b"", length=-1), *[chunk] * 100, b"0\r\n\r\n", get(b"/2"))
        self.assertTrue(self.hear().startswith(b"HTTP/1.1 413 "))
        self.assertEqual(0, self.asked().count(b"GET "))
        for _ in range(3):
            self.proxy.clock.advance(1)
        self.assertEqual([("/token", 413, Outcome.REJECTED)], self.outcomes())
        self.assertEqual("closing", self.wire.protocol._protocol._phase.value)

    def end_early(self, request: bytes, response: bytes) -> None:
        """Let the client end TLS while it waits for the rest of a response."""
        self.start()
        self.say(request)
        self.proxy.back_end.wire.deliver(response)
        self.exchange()
        self.client.shutdown()
        self.hear()

    def test_cut_at_the_clients_end(self) -> None:
        """A response that ends with the connection is not ended by close_notify before its end.

        A client may send close_notify and read on (RFC 8446 section 6.1). It would take the part
        that it has received for the whole response.
        """
        for response in (b"HTTP/1.1 200 OK\r\n\r\npart", b"HTTP/1.1 200 OK\r\n"):
            self.end_early(GET.replace(b"1.1", b"1.0"), response)
            self.assertEqual(0, self.client.get_shutdown() & SSL.RECEIVED_SHUTDOWN)
            self.assertEqual((True, False), (self.wire.disconnecting, self.wire.aborted))
            self.assertTrue(self.proxy.back_end.wire.aborted)
            (exchange,) = self.proxy.exchanges
            self.assertEqual((Outcome.ABORTED, Code.CLIENT_LEFT), (exchange.outcome, exchange.code))

    def test_cut_and_stuck(self) -> None:
        """If the client does not read meanwhile, the connection ends all the same."""
        self.end_early(GET, b"HTTP/1.1 200 OK\r\n\r\npart")
        self.assertFalse(self.wire.aborted)
        self.proxy.clock.pump([31, 0])
        self.assertTrue(self.wire.aborted)

    def test_end_without_a_response(self) -> None:
        """A client that waits for nothing gets the end that it has sent."""
        self.end_early(GET, OK)
        self.assertTrue(self.client.get_shutdown() & SSL.RECEIVED_SHUTDOWN)
        self.assertTrue(self.wire.disconnecting)

    def writes(self, request: bytes) -> list[bytes]:
        """Return what is written to the socket as one exchange ends, write by write."""
        self.start()
        self.say(request)
        written: list[bytes] = []
        self.patch(self.wire, "write", written.append)
        self.proxy.back_end.wire.deliver(OK)
        return written

    def test_one_packet(self) -> None:
        """The last response of a connection and the connection's end leave in one write."""
        last = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        (end,) = self.writes(last)
        self.client.bio_write(end)
        self.assertTrue(self.client.recv(1 << 16).endswith(b"\r\n\r\nok"))
        self.assertRaises(SSL.ZeroReturnError, self.client.recv, 1)

    def test_kept(self) -> None:
        """A connection that stays open gets one write too, and no end."""
        (end,) = self.writes(GET)
        self.client.bio_write(end)
        self.assertTrue(self.client.recv(1 << 16).endswith(b"\r\n\r\nok"))
        self.assertRaises(SSL.WantReadError, self.client.recv, 1)
