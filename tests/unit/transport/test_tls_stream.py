"""Tests of :mod:`x509proxy.transport.tls_stream`: an OpenSSL client in memory at the far end."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    ISSLTransport,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest, TestCase
from zope.interface import directlyProvides
from zope.interface.verify import verifyObject

from tests.support.memory import RequestTransport
from tests.support.tls13 import RecordClient, tls12_sealer
from tests.support.tls_streams import SERVER, StreamTestCase
from x509proxy.certificates.pem_files import Identity
from x509proxy.certificates.self_signed import KeyKind, SelfSigned, make_self_signed
from x509proxy.downstream.channel import end_without_close_notify, write_and_close
from x509proxy.downstream.factory import TlsFactory
from x509proxy.monitoring.handshake_log_format import HandshakeFailure
from x509proxy.settings import ClientAuth
from x509proxy.transport.direct_writer import DirectWriter
from x509proxy.transport.tls_context import ServerConnections, make_context, pyopenssl_key

try:
    from cryptography.hazmat.primitives.asymmetric import mldsa
except ImportError:  # cryptography 49
    mldsa = None  # type: ignore[assignment]

# More records than are processed in one turn.
SEVERAL = tuple(b"%d" % (number % 10) for number in range(200))
FIRST, SECOND = b"".join(SEVERAL[:128]), b"".join(SEVERAL[128:])


class Echo(Protocol):
    """A protocol that sends back its input."""

    transport: Any

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)


class Plain(Protocol):
    """A protocol that does not listen for the handshake."""


class Data(StreamTestCase):
    def test_both_ways(self) -> None:
        """After the handshake data arrives both ways; records of one packet are one piece."""
        self.shake()
        self.say(b"one", b"two")
        self.stream.writeSequence([b"three", b"four"])
        self.assertEqual(([b"onetwo"], b"threefour"), (self.application.told, self.exchange()))

    def test_larger_than_a_record(self) -> None:
        """Data larger than a record, and than OpenSSL's read size, arrives whole both ways."""
        self.shake()
        large = bytes(range(256)) * 1000
        self.stream.write(large)
        self.assertEqual(large, self.exchange())
        offset = 0
        while offset < len(large):
            offset += self.client.send(large[offset:])
        self.wire.deliver(self.take())
        self.turn()
        self.assertEqual(large, b"".join(self.application.told))  # type: ignore[arg-type]

    def test_one_write(self) -> None:
        """OpenSSL writes all records of a response in one call, not one record in each."""
        self.shake()
        large = bytes(100_000)
        self.assertEqual(len(large), self.stream._tls.send(large))

    def test_byte_by_byte(self) -> None:
        """Input may be split at any octet."""
        self.shake()
        self.client.send(b"one")
        self.wire.deliver(*(bytes([octet]) for octet in self.take()))
        self.assertEqual([b"one"], self.application.told)

    def test_interface(self) -> None:
        """The stream provides the interface of Twisted's TLS transports."""
        self.shake()
        verifyObject(ISSLTransport, self.stream)
        self.assertEqual(
            (self.wire.getPeer(), self.wire.getHost()),
            (self.stream.getPeer(), self.stream.getHost()),
        )
        self.assertIs(None, self.stream.getPeerCertificate())
        self.assertIsInstance(self.stream.getHandle(), SSL.Connection)
        for name in ("TcpNoDelay", "TcpKeepAlive"):
            kept: list[bool] = []
            setattr(self.wire, f"set{name}", kept.append)
            setattr(self.wire, f"get{name}", kept.pop)
            getattr(self.stream, f"set{name}")(True)
            self.assertEqual(
                ([True], True, []), ([*kept], getattr(self.stream, f"get{name}")(), kept)
            )

    def test_over_tcp(self) -> None:
        """TCP_NODELAY is set, and the read size is larger than Twisted's."""
        stream: Any = self.factory.buildProtocol(None)
        wire = RequestTransport(Clock())
        directlyProvides(wire, ITCPTransport)
        kept: list[bool] = []
        wire.setTcpNoDelay = kept.append  # type: ignore[attr-defined]
        wire.attach(stream)
        self.assertEqual(([True], 131072), (kept, wire.bufferSize))  # type: ignore[attr-defined]

    def test_no_handshake_listener(self) -> None:
        """A protocol that does not listen for the handshake is not notified."""
        self.connect(Factory.forProtocol(Plain))
        self.exchange()
        self.stream.write(b"hello")
        self.assertEqual(b"hello", self.exchange())


class Tls12(StreamTestCase):
    VERSION = SSL.TLS1_2_VERSION

    def test_both_ways(self) -> None:
        """In TLS 1.2 the server's last message is sent at once, even if TCP can acknowledge."""
        self.patch(DirectWriter, "acknowledge", lambda _: True)
        had_output: list[bool] = []
        self.patch(
            self.application,
            "handshakeCompleted",
            lambda: had_output.append(bool(self.wire.value())),
        )
        self.exchange()
        self.assertEqual([True], had_output)
        self.say(b"one")
        self.stream.write(b"two")
        self.assertEqual(([b"one"], b"two"), (self.application.told, self.exchange()))

    def test_renegotiation(self) -> None:
        """A renegotiation is rejected at once, and the connection continues (invariant L6)."""
        self.shake()
        self.client.renegotiate()
        with contextlib.suppress(SSL.WantReadError):
            self.client.do_handshake()
        self.wire.deliver(self.take())
        self.assertNotEqual(b"", self.wire.sent())
        self.assertEqual([], self.application.told)


class Packets(StreamTestCase):
    def test_tickets_after_the_handshake(self) -> None:
        """The server sends its tickets at once, because of clients with Nagle's algorithm."""
        self.complete_handshake()
        self.assertNotEqual(b"", self.wire.sent())

    def test_tickets_with_the_first_response(self) -> None:
        """Where TCP acknowledges at once, tickets are sent with the first response."""
        self.patch(DirectWriter, "acknowledge", lambda _: True)
        self.complete_handshake()
        self.assertEqual(b"", self.wire.sent())
        self.say(b"request")
        self.stream.write(b"answer")
        self.assertEqual(b"answer", self.exchange())
        self.assertIsNotNone(self.client.get_session())

    def complete_handshake(self) -> None:
        """Complete the handshake up to the client's last message."""
        self.wire.deliver(self.first_flight())
        self.client.bio_write(self.wire.sent())
        self.client.do_handshake()
        self.wire.deliver(self.take())
        self.assertEqual(["shaken"], self.application.told)

    def first_flight(self) -> bytes:
        with contextlib.suppress(SSL.WantReadError):
            self.client.do_handshake()
        return self.take()

    def test_last(self) -> None:
        """The last data and close_notify are one write."""
        self.shake()
        writes: list[bytes] = []
        self.patch(self.wire, "write", writes.append)
        write_and_close(self.stream, b"bye")
        self.assertEqual(1, len(writes))
        self.client.bio_write(writes[0])
        self.assertEqual(b"bye", self.client.recv(100))
        self.assertRaises(SSL.ZeroReturnError, self.client.recv, 100)

    def test_nothing_last(self) -> None:
        """Without last data too, TCP stays open until the client's close_notify."""
        self.shake()
        write_and_close(self.stream, b"")
        self.assertFalse(self.wire.disconnecting)
        self.assertEqual(b"<close_notify>", self.exchange())
        self.client.shutdown()
        self.wire.deliver(self.take())
        self.assertTrue(self.wire.disconnecting)

    def test_last_of_another(self) -> None:
        """Another transport gets the same data and end through its own methods."""
        transport = StringTransport()
        transport.registerProducer(self.application, True)
        write_and_close(transport, b"bye")
        self.assertEqual(
            (b"bye", True, None), (transport.value(), transport.disconnecting, transport.producer)
        )


class Nagle(TestCase):
    """Over real TCP."""

    async def test_request_does_not_wait(self) -> None:
        """A client with Nagle's algorithm does not wait for a delayed acknowledgement (40 ms)."""
        context = make_context(
            Identity(SERVER.certificate, SERVER.private_key), ClientAuth.OPTIONAL
        )
        factory: Any = TlsFactory(ServerConnections(context), Factory.forProtocol(Echo), reactor)
        port: Any = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        times = [await deferToThread(self.ask, port.getHost().port) for _ in range(8)]
        # One fast attempt of eight is enough: the machine may be busy.
        self.assertLess(min(times), 0.03)

    def ask(self, port: int) -> float:
        """Return the seconds from the handshake's end to the response."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection(("127.0.0.1", port), 10) as plain,
            context.wrap_socket(plain) as client,
        ):
            begun = time.monotonic()
            client.sendall(b"request")
            self.assertEqual(b"request", client.recv(100))
            return time.monotonic() - begun


class Closing(StreamTestCase):
    def test_server_closes(self) -> None:
        """The stream sends close_notify; TCP is closed after the client's; input still arrives."""
        self.shake()
        self.stream.loseConnection()
        self.stream.loseConnection()
        self.say(b"late")
        self.assertFalse(self.wire.disconnecting)
        self.assertEqual((b"<close_notify>", [b"late"]), (self.exchange(), self.application.told))
        self.client.shutdown()
        self.wire.deliver(self.take())
        self.assertTrue(self.wire.disconnecting)
        self.assertFalse(self.wire.aborted)

    def test_late_writes(self) -> None:
        """Nothing is sent after the end, and a late write does not change the end."""
        for end, produces in (("loseConnection", False), ("finish", False), ("finish", True)):
            self.setUp()
            self.shake()
            if produces:
                self.stream.registerProducer(self.application, streaming=True)
            getattr(self.stream, end)()
            sent = self.wire.sent()
            was_closing = self.wire.disconnecting
            self.stream.write(b"late")
            self.assertEqual((b"", was_closing), (self.wire.sent(), self.wire.disconnecting))
            self.assertEqual(not was_closing, bool(sent))

    def test_end_after_the_end(self) -> None:
        """Once TCP is ended, the connection does not look complete by a late close_notify."""
        for end in ("abortConnection", "finish"):
            self.setUp()
            self.shake()
            getattr(self.stream, end)()
            self.wire.sent()
            self.stream.loseConnection()
            self.assertEqual(b"", self.wire.sent())

    def test_client_closes(self) -> None:
        """A client's close_notify is answered, and TCP is closed."""
        self.shake()
        self.client.shutdown()
        self.wire.deliver(self.take())
        self.assertTrue(self.wire.disconnecting)
        self.assertEqual(b"<close_notify>", self.exchange())

    def test_waits_for_the_producer(self) -> None:
        """A registered producer delays the end until it is unregistered."""
        self.shake()
        self.stream.registerProducer(self.application, streaming=True)
        self.stream.loseConnection()
        self.stream.write(b"more")
        self.assertEqual(b"more", self.exchange())
        self.stream.unregisterProducer()
        self.stream.unregisterProducer()
        self.stream.write(b"too late")
        self.assertEqual(b"<close_notify>", self.exchange())

    def test_unregistered_producer(self) -> None:
        """A stream that is not closing stays open when its producer is unregistered."""
        self.shake()
        self.stream.registerProducer(self.application, streaming=True)
        self.stream.unregisterProducer()
        self.stream.write(b"more")
        self.assertEqual(b"more", self.exchange())

    def test_before_the_handshake(self) -> None:
        """Before the handshake is complete, closing aborts the connection."""
        self.stream.loseConnection()
        self.assertTrue(self.wire.aborted)

    def test_without_close_notify(self) -> None:
        """TCP can be closed without the client's close_notify; later input is dropped."""
        self.shake()
        self.stream.loseConnection()
        end_without_close_notify(self.stream)
        self.say(b"late")
        self.assertEqual(
            (True, False, []), (self.wire.disconnecting, self.wire.aborted, self.application.told)
        )

    def test_half_closed(self) -> None:
        """A half-close closes both sides."""
        self.shake()
        self.stream.loseWriteConnection()
        self.assertEqual(b"<close_notify>", self.exchange())

    def test_abort(self) -> None:
        """After an abort nothing is received, sent or started again."""
        self.shake()
        self.client.send(b"late")
        late = self.take()
        self.stream.abortConnection()
        self.stream.dataReceived(late)
        self.stream.write(b"late")
        self.stream.resumeProducing()
        self.assertEqual(([], b""), (self.application.told, self.wire.sent()))

    def test_abort_from_within(self) -> None:
        """A protocol that aborts during its call gets nothing more."""
        self.shake()
        self.application.then = lambda _: self.stream.abortConnection()
        self.say(*SEVERAL)
        self.clock.advance(0)
        self.assertEqual([FIRST, "lost"], self.application.told)

    def test_abort_before_the_end(self) -> None:
        """If a protocol aborts on the last data, the client's close_notify is not answered."""
        self.shake()
        self.application.then = lambda _: self.stream.abortConnection()
        answered: list[str] = []
        self.patch(self.stream, "_send_close_notify", lambda: answered.append("shut"))
        self.client.send(b"one")
        self.client.shutdown()
        self.wire.deliver(self.take())
        self.assertEqual(([b"one"], []), (self.application.told, answered))

    def test_stopped(self) -> None:
        """A producer is stopped before the client's close_notify is answered.

        If it ends TCP without close_notify, none is sent.
        """
        for expected in (b"<close_notify>", b""):
            self.setUp()
            self.shake()
            self.stream.registerProducer(self.application, streaming=True)
            if not expected:
                self.patch(self.application, "stopProducing", self.stream.finish)
            self.client.shutdown()
            self.wire.deliver(self.take())
            self.assertEqual(expected, self.exchange())
            self.assertEqual((True, False), (self.wire.disconnecting, self.wire.aborted))
            self.assertEqual(["stop"] if expected else [], self.application.told)

    def test_close_behind(self) -> None:
        """Data before the client's close_notify in the same packet is delivered first."""
        self.shake()
        self.application.then = self.stream.write
        self.client.send(b"one")
        self.client.shutdown()
        self.wire.deliver(self.take())
        self.assertEqual(([b"one"], b"one<close_notify>"), (self.application.told, self.exchange()))

    def test_lost(self) -> None:
        """A lost connection is reported once, and removed."""
        self.shake()
        self.assertEqual({self.stream}, self.factory.protocols)
        self.wire.lose(ConnectionDone())
        self.assertEqual((["lost"], set()), (self.application.told, self.factory.protocols))
        self.stream.stopProducing()


class Pauses(StreamTestCase):
    def test_pause(self) -> None:
        """A paused protocol gets nothing until it resumes; then all input follows in order."""
        self.shake()
        self.application.then = lambda _: self.stream.pauseProducing()
        self.say(*SEVERAL)
        self.clock.advance(0)
        self.assertEqual(([FIRST], False), (self.application.told, self.wire.reading))
        self.application.then = id
        self.stream.resumeProducing()
        self.assertEqual(([FIRST, SECOND], True), (self.application.told, self.wire.reading))

    def test_resumed_from_within(self) -> None:
        """A protocol that pauses and resumes during its call gets each piece once, in order."""
        self.shake()

        def blink(_: bytes) -> None:
            self.stream.pauseProducing()
            self.stream.resumeProducing()

        self.application.then = blink
        self.say(*SEVERAL)
        self.clock.advance(0)
        self.assertEqual([FIRST, SECOND], self.application.told)

    def test_before_the_handshake(self) -> None:
        """To resume before the handshake reads nothing."""
        self.stream.resumeProducing()
        self.shake()

    def test_slow_reader(self) -> None:
        """The protocol is paused when the client reads too slowly, and resumed later."""
        self.shake()
        self.stream.registerProducer(self.application, streaming=True)
        self.wire.fill()
        self.wire.drain()
        self.assertEqual(["pause", "resume"], self.application.told)


class Faults(StreamTestCase):
    def test_rubbish(self) -> None:
        """Input other than TLS is answered with an alert, and ends the connection."""
        for data in (
            b"\x80\x2e\x01\x00\x02",
            b"hello world",
            b"GETTING / HTTP/1.1\r\n\r\n",
            b"get / HTTP/1.1\r\n",
        ):
            self.setUp()
            self.wire.deliver(data)
            self.assertTrue(self.wire.disconnecting)
            self.assertEqual([], self.application.told)
            self.assertNotIn(b"HTTP", self.wire.sent())

    def test_http(self) -> None:
        """HTTP without TLS gets a response in clear text that names HTTPS; nothing else is read."""
        for method in (
            b"GET",
            b"HEAD",
            b"POST",
            b"PUT",
            b"DELETE",
            b"OPTIONS",
            b"PATCH",
            b"TRACE",
            b"CONNECT",
        ):
            self.setUp()
            self.wire.deliver(method + b" /secret\0\r\nGET /other HTTP/1.1\r\n\r\n")
            sent = self.wire.sent()
            head, _, body = sent.partition(b"\r\n\r\n")
            self.assertTrue(head.startswith(b"HTTP/1.1 400 Bad Request\r\n"), head)
            self.assertIn(b"\r\nConnection: close", head)
            self.assertIn(b"\r\nContent-Length: %d\r\n" % len(body), head)
            self.assertEqual(b"This port expects HTTPS: the URL has to begin with https://\n", body)
            self.assertTrue(self.wire.disconnecting)
            self.wire.deliver(b"GET / HTTP/1.1\r\n\r\n")
            self.assertEqual(([], b""), (self.application.told, self.wire.sent()))
            [failure] = self.logged
            self.assertEqual(
                ("not_tls", "", ""), (failure.reason, failure.tls_version, failure.server_name)
            )

    def test_http_in_pieces(self) -> None:
        """It may arrive in pieces."""
        for octet in b"GET / HT":
            self.wire.deliver(bytes([octet]))
        self.assertIn(b"HTTPS", self.wire.sent())

    def test_http_afterwards(self) -> None:
        """Only the first octets count: a bad record after the handshake gets no clear text."""
        self.shake()
        self.wire.deliver(b"GET / HTTP/1.1\r\n\r\n" + b"x" * 9999)
        self.assertTrue(self.wire.disconnecting)
        self.assertNotIn(b"HTTP", self.wire.sent())

    def test_logged(self) -> None:
        """A failed handshake is logged with address, reason, detail, version and server name."""
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        context.set_cipher_list(b"ECDHE-RSA-AES128-GCM-SHA256")
        self.client = SSL.Connection(context, None)
        self.client.set_tlsext_host_name(b"as.example")
        self.client.set_connect_state()
        with contextlib.suppress(SSL.Error):
            self.exchange()
        [failure] = self.logged
        self.assertEqual(
            HandshakeFailure(
                "198.51.100.7", "no_shared_parameters", "no shared cipher", "TLSv1.2", "as.example"
            ),
            failure,
        )

    def test_logged_alert(self) -> None:
        """A client's alert is logged with OpenSSL's text."""
        with contextlib.suppress(SSL.WantReadError):
            self.client.do_handshake()
        self.wire.deliver(self.take())
        self.wire.deliver(b"\x15\x03\x03\x00\x02\x02\x30")
        [failure] = self.logged
        self.assertEqual("TLSv1.3", failure.tls_version)
        self.assertEqual(
            ("client_alert", "tlsv1 alert unknown ca"), (failure.reason, failure.detail)
        )

    def test_logged_end(self) -> None:
        """A handshake that the client leaves is logged, with or without a ClientHello."""
        self.wire.lose()
        self.assertEqual(["no_client_hello"], [failure.reason for failure in self.logged])
        self.setUp()
        with contextlib.suppress(SSL.WantReadError):
            self.client.do_handshake()
        self.wire.deliver(self.take())
        self.wire.lose()
        self.assertEqual(["client_left"], [failure.reason for failure in self.logged])

    def test_logged_timeout(self) -> None:
        """A handshake that the server ends is logged as a timeout, with or without a hello."""
        self.stream.loseConnection()
        self.turn()
        self.assertEqual(["timeout"], [failure.reason for failure in self.logged])
        self.setUp()
        with contextlib.suppress(SSL.WantReadError):
            self.client.do_handshake()
        self.wire.deliver(self.take())
        self.stream.loseConnection()
        self.turn()
        self.assertEqual(["timeout"], [failure.reason for failure in self.logged])

    def test_no_application_protocol(self) -> None:
        """A client that speaks only HTTP/2 has a reason of its own, and gets the alert for it."""
        self.client.set_alpn_protos([b"h2"])
        error = self.assertRaises(SSL.Error, self.exchange)
        self.assertIn("no application protocol", str(error))
        [failure] = self.logged
        self.assertEqual(
            ("no_application_protocol", "no application protocol"), (failure.reason, failure.detail)
        )

    def test_counted(self) -> None:
        """A connection that a limit has counted is not a failed handshake."""
        self.stream.is_counted()
        self.stream.abortConnection()
        self.turn()
        self.assertEqual(([], {}), (self.logged, self.counters.counts().handshake_failures))

    def test_not_logged(self) -> None:
        """A failure after the handshake is not logged as a failed handshake."""
        self.shake()
        self.wire.deliver(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        self.wire.lose()
        self.assertEqual([], self.logged)

    def test_rubbish_afterwards(self) -> None:
        """A bad record after the handshake ends the connection; nothing is written after it."""
        self.shake()
        self.wire.deliver(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        self.assertTrue(self.wire.disconnecting)
        self.wire.sent()
        self.stream.write(b"late")
        self.assertEqual(([], b""), (self.application.told, self.wire.sent()))

    def test_callback(self) -> None:
        """An exception in a callback ends the handshake, and is one entry in the log."""

        def fail() -> None:
            raise ValueError("injected")

        self.stream._tls.do_handshake = fail
        self.wire.deliver(b"\x16")
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))
        self.assertEqual((True, []), (self.wire.disconnecting, self.application.told))

    def test_write_fails(self) -> None:
        """If OpenSSL cannot write, the connection ends."""
        self.shake()

        def fail(_: bytes) -> int:
            raise SSL.Error

        self.stream._tls.sendall = fail
        self.stream.write(b"data")
        self.assertTrue(self.wire.disconnecting)

    def test_shutdown_fails(self) -> None:
        """If OpenSSL cannot send close_notify, TCP still waits for the client's end."""
        self.shake()

        def fail() -> bool:
            raise SSL.Error

        self.stream._tls.shutdown = fail
        self.stream.loseConnection()
        self.assertFalse(self.wire.disconnecting)


class Turns(StreamTestCase):
    """A connection's share of a reactor turn."""

    def test_share(self) -> None:
        """A turn processes 128 records; the rest waits, and the socket is not read meanwhile."""
        self.shake()
        self.say(*SEVERAL)
        self.assertEqual(([FIRST], False), (self.application.told, self.wire.reading))
        self.clock.advance(0)
        self.assertEqual(([FIRST, SECOND], True), (self.application.told, self.wire.reading))

    def test_more_meanwhile(self) -> None:
        """Input that arrives while other input waits is processed after it."""
        self.shake()
        self.say(*SEVERAL)
        self.say(b"more")
        self.clock.advance(0)
        self.assertEqual([FIRST, SECOND + b"more"], self.application.told)

    def test_resumed_meanwhile(self) -> None:
        """Pausing and resuming between two turns delivers nothing twice or early."""
        self.shake()
        self.say(*SEVERAL)
        self.stream.pauseProducing()
        self.stream.resumeProducing()
        self.assertEqual([FIRST], self.application.told)
        self.stream.pauseProducing()
        self.clock.advance(0)
        self.assertEqual([FIRST], self.application.told)
        self.stream.resumeProducing()
        self.assertEqual([FIRST, SECOND], self.application.told)

    def test_resumed_within(self) -> None:
        """A protocol that pauses and resumes within its turn gets no more in that turn."""
        self.shake()

        def resume(_: bytes) -> None:
            self.stream.pauseProducing()
            self.stream.resumeProducing()

        self.application.then = resume
        self.say(*SEVERAL)
        self.assertEqual([FIRST], self.application.told)
        self.clock.advance(0)
        self.assertEqual([FIRST, SECOND], self.application.told)

    def test_lost_meanwhile(self) -> None:
        """A lost connection leaves no scheduled call."""
        self.shake()
        self.say(*SEVERAL)
        self.wire.lose()
        self.assertEqual(([FIRST, "lost"], []), (self.application.told, self.clock.calls))

    def test_abort_meanwhile(self) -> None:
        """An aborted connection gets nothing more in the scheduled turn."""
        self.shake()
        self.say(*SEVERAL)
        self.stream.abortConnection()
        self.clock.advance(0)
        self.assertEqual([FIRST, "lost"], self.application.told)

    def test_nothing_meanwhile(self) -> None:
        """After a pause without data the socket is read again; repeated calls do no harm."""
        self.shake()
        self.stream.pauseProducing()
        self.stream.pauseProducing()
        self.assertFalse(self.wire.reading)
        self.stream.resumeProducing()
        self.stream.resumeProducing()
        self.assertTrue(self.wire.reading)

    def test_paused(self) -> None:
        """Input that arrives during a pause waits."""
        self.shake()
        self.stream.pauseProducing()
        self.say(b"one")
        self.assertEqual([], self.application.told)
        self.stream.resumeProducing()
        self.assertEqual([b"one"], self.application.told)


class Records(StreamTestCase):
    """A client that writes its own records."""

    def setUp(self) -> None:
        super().setUp()
        self.records = RecordClient()
        for _ in range(3):
            if data := self.records.step(self.wire.sent()):
                self.wire.deliver(data)
        self.assertEqual(["shaken"], self.application.told)
        self.application.told.clear()
        self.stream.write(b"first")
        self.wire.sent()

    def send(self, *records: bytes) -> None:
        self.wire.deliver(b"".join(records))
        self.turn()

    def limits(self) -> dict[str, int]:
        return self.counters.counts().limits

    def test_key_updates(self) -> None:
        """64 KeyUpdates in a row are accepted, one more aborts the connection."""
        self.send(*(self.records.key_update() for _ in range(64)), self.records.seal(b"data"))
        self.assertEqual(([b"data"], False), (self.application.told, self.wire.aborted))
        self.send(*(self.records.key_update() for _ in range(66)))
        self.assertTrue(self.wire.aborted)
        self.assertEqual({"tls.records-without-data": 1}, self.limits())

    def test_in_pieces(self) -> None:
        """They count at any speed."""
        for _ in range(64):
            self.send(self.records.key_update())
        self.assertFalse(self.wire.aborted)
        self.send(self.records.key_update())
        self.assertTrue(self.wire.aborted)

    def test_empty(self) -> None:
        """Empty records count like KeyUpdates; OpenSSL itself rejects 33 in a row."""
        for _ in range(3):
            self.send(*(self.records.seal(b"") for _ in range(16)), self.records.key_update())
        self.assertFalse(self.wire.disconnecting)
        self.send(*(self.records.seal(b"") for _ in range(16)))
        self.assertTrue(self.wire.aborted)
        self.setUp()
        self.send(*(self.records.seal(b"") for _ in range(33)))
        self.assertEqual((True, False), (self.wire.disconnecting, self.wire.aborted))

    def test_mixed(self) -> None:
        """Records with data offset as many without, in any order, and no more."""
        for _ in range(100):
            self.send(self.records.key_update(), self.records.seal(b"x"))
        self.assertFalse(self.wire.aborted)
        for _ in range(65):
            self.send(self.records.key_update(), self.records.seal(b""), self.records.seal(b"x"))
        self.assertTrue(self.wire.aborted)

    def test_no_credit(self) -> None:
        """Earlier data does not offset later records."""
        self.send(*(self.records.seal(b"x") for _ in range(500)))
        self.send(*(self.records.key_update() for _ in range(65)))
        self.assertTrue(self.wire.aborted)

    def test_answered_at_once(self) -> None:
        """Responses to KeyUpdates are sent in the same turn, but for the last one.

        OpenSSL writes that one with its next output.
        """
        sent = 0
        for number in range(1, 4):
            self.send(self.records.key_update(answered=True))
            sent += len(self.wire.sent())
            self.assertEqual((27 * (number - 1), 0), (sent, self.pending()))
        self.send(self.records.key_update(answered=True), self.records.seal(b"data"))
        self.assertEqual(([b"data"], 27), (self.application.told, len(self.wire.sent())))

    def test_while_closing(self) -> None:
        """A connection that is closing accepts 64 KeyUpdates at most, even between data."""
        self.stream.loseConnection()
        self.wire.sent()
        for _ in range(64):
            self.send(self.records.key_update(answered=True), self.records.seal(b"x"))
        self.assertEqual((0, False), (self.pending(), self.wire.aborted))
        self.send(self.records.seal(b"x"))
        self.send(self.records.key_update(answered=True), self.records.seal(b"x"))
        self.assertTrue(self.wire.aborted)

    def pending(self) -> int:
        """Return the number of octets that OpenSSL holds for the client."""
        try:
            return len(self.stream.getHandle().bio_read(1 << 20))
        except SSL.WantReadError:
            return 0


class Renegotiations(StreamTestCase):
    VERSION = SSL.TLS1_2_VERSION

    def test_bound(self) -> None:
        """Renegotiations in TLS 1.2 are rejected at once, 64 times; one more is aborted."""
        self.shake()
        seal = tls12_sealer(self.client)
        for _ in range(64):
            self.wire.deliver(seal(b"\x01\0\0\0"))
            self.assertEqual((31, False), (len(self.wire.sent()), self.wire.aborted))
        self.wire.deliver(seal(b"\x01\0\0\0"))
        self.assertEqual(([], True), (self.application.told, self.wire.aborted))


class Handshakes(StreamTestCase):
    """Limits of a handshake."""

    def failures(self) -> dict[str, int]:
        return self.counters.counts().handshake_failures

    def test_endless_hello(self) -> None:
        """A ClientHello beyond the limit ends the handshake at the limit, and not before."""
        hello = b"\x01\x01\xff\xff" + bytes(65535)
        parts = [hello[at : at + 4000] for at in range(0, len(hello), 4000)]
        records = b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)
        self.wire.deliver(records[: self.LIMIT - 1])
        self.assertEqual({}, self.failures())
        self.wire.deliver(records[self.LIMIT - 1 :])
        self.assertEqual({"too_large": 1}, self.failures())
        self.assertEqual(b"", self.stream._incoming.waiting)

    def test_small_records(self) -> None:
        """So does one in records of an octet each, over many turns; then the end is detected."""
        hello = b"\x01\x01\xff\xff" + bytes(6000)
        self.wire.deliver(b"".join(b"\x16\x03\x01\0\x01" + bytes([octet]) for octet in hello))
        self.assertEqual(({}, False), (self.failures(), self.wire.reading))
        self.turn()
        self.assertEqual(({"too_large": 1}, True), (self.failures(), self.wire.reading))

    def test_endless(self) -> None:
        """One MiB of later input is dropped; with more the connection is cut."""
        self.wire.deliver(b"no handshake")
        self.assertEqual(({"not_tls": 1}, False), (self.failures(), self.wire.aborted))
        self.wire.deliver(*[bytes(1 << 19)] * 2)
        self.assertFalse(self.wire.aborted)
        self.wire.deliver(b"x")
        self.assertTrue(self.wire.aborted)

    def test_drops(self) -> None:
        """Later input is dropped, and the end is detected."""
        self.test_endless_hello()
        self.wire.deliver(bytes(100000))
        self.assertEqual((True, b""), (self.wire.reading, self.wire.sent()))

    def client_context(self, own: SelfSigned | None = None) -> SSL.Context:
        client = SSL.Context(SSL.TLS_CLIENT_METHOD)
        client.set_min_proto_version(self.VERSION)
        if own is not None:
            client.use_certificate(own.certificate)
            client.use_privatekey(pyopenssl_key(own.private_key))
        return client

    def handshake(self, client: SSL.Context, issuers: Sequence[x509.Certificate]) -> None:
        for issuer in issuers:
            client.add_extra_chain_cert(issuer)
        self.client = SSL.Connection(client, None)
        self.client.set_connect_state()
        with contextlib.suppress(SSL.Error):
            self.exchange()

    def test_chain(self) -> None:
        """Ten issuers beside the client's certificate are accepted, eleven are not."""
        own = make_self_signed(KeyKind.EC, "client")
        self.handshake(self.client_context(own), [SERVER.certificate] * 10)
        self.assertEqual((["shaken"], {}), (self.application.told, self.failures()))
        self.setUp()
        self.handshake(self.client_context(own), [SERVER.certificate] * 11)
        self.assertEqual(([], {"too_large": 1}), (self.application.told, self.failures()))

    def test_chain_unknown(self) -> None:
        """If the chain cannot be counted, the handshake continues.

        The certificate is unreadable then (L3).
        """

        def fail(*_: object, **__: object) -> Any:
            raise ValueError("injected")

        self.patch(SSL.Connection, "get_peer_cert_chain", fail)
        self.handshake(
            self.client_context(make_self_signed(KeyKind.EC, "client")), [SERVER.certificate] * 11
        )
        self.assertEqual((["shaken"], {}), (self.application.told, self.failures()))

    def test_chain_held(self) -> None:
        """A client that stalls after a long chain is rejected before its handshake is complete."""
        context = self.client_context(make_self_signed(KeyKind.EC, "client"))
        for _ in range(11):
            context.add_extra_chain_cert(SERVER.certificate)
        client = SSL.Connection(context, None)
        client.set_connect_state()
        with contextlib.suppress(SSL.WantReadError):
            client.do_handshake()
        self.wire.deliver(client.bio_read(1 << 20))
        client.bio_write(self.wire.sent())
        client.do_handshake()
        flight = client.bio_read(1 << 20)
        # All but CertificateVerify and Finished: the certificates' record is the first one after
        # ChangeCipherSpec.
        certificates = 6 + 5 + int.from_bytes(flight[9:11], "big")
        self.wire.deliver(flight[:certificates])
        self.assertEqual(({"too_large": 1}, []), (self.failures(), self.application.told))

    def test_large_keys(self) -> None:
        """A chain of three ML-DSA-87 certificates of 8 KiB each is accepted."""
        if mldsa is None:
            raise SkipTest("this version of cryptography has no ML-DSA")
        key = mldsa.MLDSA87PrivateKey.generate()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "client")])
        padding = x509.UnrecognizedExtension(
            x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), bytes(780)
        )
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), 1)
            .not_valid_before(SERVER.certificate.not_valid_before_utc)
            .not_valid_after(SERVER.certificate.not_valid_after_utc)
            .add_extension(padding, critical=False)
            .sign(key, None)
        )
        self.assertIn(len(certificate.public_bytes(Encoding.DER)), range(8150, 8193))
        path = Path(self.mktemp())
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        client = self.client_context()
        client.use_certificate(certificate)
        client.use_privatekey_file(str(path))
        self.handshake(client, [certificate] * 2)
        self.assertEqual((["shaken"], {}), (self.application.told, self.failures()))

    def test_data_behind(self) -> None:
        """Data after the handshake does not count, even in the same packet."""
        data = bytes(range(256)) * 400
        with contextlib.suppress(SSL.WantReadError):
            self.client.do_handshake()
        self.wire.deliver(self.take())
        self.client.bio_write(self.wire.sent())
        self.client.do_handshake()
        offset = 0
        while offset < len(data):
            offset += self.client.send(data[offset:])
        self.wire.deliver(self.take())
        self.turn()
        self.assertEqual("shaken", self.application.told.pop(0))
        self.assertEqual(data, b"".join(self.application.told))  # type: ignore[arg-type]
