"""Promises of :mod:`x509proxy.transport.tls_stream`: a real OpenSSL client at the other end, and no socket between."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from typing import Any

from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IHandshakeListener,
    IPushProducer,
    ISSLTransport,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import directlyProvides, implementer
from zope.interface.verify import verifyObject

from tests.support.memory import RequestTransport
from x509proxy.certificates.pem_files import Identity
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.downstream.channel import write_and_close
from x509proxy.downstream.factory import TlsFactory
from x509proxy.monitoring.handshake_log_format import HandshakeFailure
from x509proxy.settings import ClientAuth
from x509proxy.transport.direct_writer import DirectWriter
from x509proxy.transport.tls_context import ServerConnections, make_context

# Records: more than are given to the protocol at once.
SEVERAL = tuple(b"%d" % number for number in range(10))
SERVER = make_self_signed(KeyKind.EC, "localhost", server=True)


@implementer(IHandshakeListener, IPushProducer)
class Application(Protocol):
    """What speaks over the stream: it remembers what it is told, and does ``then`` with what it hears."""

    transport: Any

    def __init__(self) -> None:
        self.told: list[object] = []
        self.then: Any = id

    def handshakeCompleted(self) -> None:
        self.told.append("shaken")

    def dataReceived(self, data: bytes) -> None:
        self.told.append(data)
        self.then(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.told.append("lost")

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


class Echo(Protocol):
    """It says what it hears."""

    transport: Any

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)


class Plain(Protocol):
    """It does not care for handshakes."""


class StreamTestCase(SynchronousTestCase):
    VERSION = SSL.TLS1_3_VERSION

    def setUp(self) -> None:
        self.application = Application()
        self.connect(Factory.forProtocol(lambda: self.application))

    def connect(self, factory: Factory) -> None:
        context = make_context(
            Identity(SERVER.certificate, SERVER.private_key), ClientAuth.OPTIONAL
        )
        self.logged: list[HandshakeFailure] = []
        self.factory = TlsFactory(ServerConnections(context, log=self.logged.append), factory)
        stream: Any = self.factory.buildProtocol(None)
        self.stream = stream
        self.wire = RequestTransport(Clock()).attach(stream)
        client = SSL.Context(SSL.TLS_CLIENT_METHOD)
        client.set_min_proto_version(self.VERSION)
        client.set_max_proto_version(self.VERSION)
        self.client = SSL.Connection(client, None)
        self.client.set_connect_state()

    def take(self) -> bytes:
        """What the client has to send."""
        try:
            return self.client.bio_read(1 << 20)
        except SSL.WantReadError:
            return b""

    def exchange(self) -> bytes:
        """Let what has been written go to and fro; what the client has heard."""
        heard = b""
        for _ in range(6):
            if data := self.wire.sent():
                self.client.bio_write(data)
            try:
                self.client.do_handshake()
                while True:
                    heard += self.client.recv(1 << 20)
            except SSL.WantReadError:
                pass
            except SSL.ZeroReturnError:
                return heard + b"<close_notify>"
            if data := self.take():
                self.wire.deliver(data)
        return heard

    def shake(self) -> None:
        self.exchange()
        self.assertEqual(["shaken"], self.application.told)
        self.application.told.clear()

    def say(self, *said: bytes) -> None:
        """Several records in one packet."""
        for one in said:
            self.client.send(one)
        self.wire.deliver(self.take())


class Data(StreamTestCase):
    def test_both_ways(self) -> None:
        """After the handshake each side hears what the other has said; records that came together are one piece."""
        self.shake()
        self.say(b"one", b"two")
        self.stream.writeSequence([b"three", b"four"])
        self.assertEqual(([b"onetwo"], b"threefour"), (self.application.told, self.exchange()))

    def test_larger_than_a_record(self) -> None:
        """What does not fit one record, nor the buffer that is read from OpenSSL, arrives whole, in both directions."""
        self.shake()
        large = bytes(range(256)) * 1000
        self.stream.write(large)
        self.assertEqual(large, self.exchange())
        place = 0
        while place < len(large):
            place += self.client.send(large[place:])
        self.wire.deliver(self.take())
        self.assertEqual(large, b"".join(self.application.told))  # type: ignore[arg-type]

    def test_byte_by_byte(self) -> None:
        """However the bytes are cut, the same comes of them."""
        self.shake()
        self.client.send(b"one")
        self.wire.deliver(*(bytes([octet]) for octet in self.take()))
        self.assertEqual([b"one"], self.application.told)

    def test_interface(self) -> None:
        """It is the transport that a protocol of Twisted's expects over TLS."""
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
        """What is small goes out at once, and what is large comes in large pieces."""
        stream: Any = self.factory.buildProtocol(None)
        wire = RequestTransport(Clock())
        directlyProvides(wire, ITCPTransport)
        kept: list[bool] = []
        wire.setTcpNoDelay = kept.append  # type: ignore[attr-defined]
        wire.attach(stream)
        self.assertEqual(([True], 131072), (kept, wire.bufferSize))  # type: ignore[attr-defined]

    def test_no_handshake_listener(self) -> None:
        """A protocol that does not ask for it is not told of the handshake."""
        self.connect(Factory.forProtocol(Plain))
        self.exchange()
        self.stream.write(b"hello")
        self.assertEqual(b"hello", self.exchange())


class Tls12(StreamTestCase):
    VERSION = SSL.TLS1_2_VERSION

    def test_both_ways(self) -> None:
        """In TLS 1.2 the handshake ends with the server's word, which is sent at once, whatever TCP can do."""
        self.patch(DirectWriter, "acknowledge", lambda _: True)
        said: list[bool] = []
        self.patch(
            self.application, "handshakeCompleted", lambda: said.append(bool(self.wire.value()))
        )
        self.exchange()
        self.assertEqual([True], said)
        self.say(b"one")
        self.stream.write(b"two")
        self.assertEqual(([b"one"], b"two"), (self.application.told, self.exchange()))

    def test_renegotiation(self) -> None:
        """A client that asks for another handshake is told at once that there is none, and is served as before (law L6)."""
        self.shake()
        self.client.renegotiate()
        with contextlib.suppress(SSL.WantReadError):
            self.client.do_handshake()
        self.wire.deliver(self.take())
        self.assertNotEqual(b"", self.wire.sent())
        self.assertEqual([], self.application.told)


class Packets(StreamTestCase):
    def test_a_word_after_the_handshake(self) -> None:
        """When the client is done it hears something at once: with Nagle's algorithm it would wait for it with its request."""
        self.shake_hands()
        self.assertNotEqual(b"", self.wire.sent())

    def test_no_word_of_its_own(self) -> None:
        """Where TCP can acknowledge a handshake's end, tickets are no reason to write: they go out with the first answer."""
        self.patch(DirectWriter, "acknowledge", lambda _: True)
        self.shake_hands()
        self.assertEqual(b"", self.wire.sent())
        self.say(b"request")
        self.stream.write(b"answer")
        self.assertEqual(b"answer", self.exchange())
        self.assertIsNotNone(self.client.get_session())

    def shake_hands(self) -> None:
        """Up to the client's last word, with which it is over for both."""
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
        """With no last data it is as polite an end: TCP stays until the client has said close_notify."""
        self.shake()
        write_and_close(self.stream, b"")
        self.assertFalse(self.wire.disconnecting)
        self.assertEqual(b"<close_notify>", self.exchange())
        self.client.shutdown()
        self.wire.deliver(self.take())
        self.assertTrue(self.wire.disconnecting)

    def test_last_of_another(self) -> None:
        """Another transport gets the same in its own way."""
        transport = StringTransport()
        transport.registerProducer(self.application, True)
        write_and_close(transport, b"bye")
        self.assertEqual(
            (b"bye", True, None), (transport.value(), transport.disconnecting, transport.producer)
        )


class Nagle(TestCase):
    """Over real TCP."""

    async def test_request_does_not_wait(self) -> None:
        """A client with Nagle's algorithm does not wait for a delayed acknowledgement (40 ms) before it sends its request."""
        context = make_context(
            Identity(SERVER.certificate, SERVER.private_key), ClientAuth.OPTIONAL
        )
        factory: Any = TlsFactory(ServerConnections(context), Factory.forProtocol(Echo))
        port: Any = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        times = [await deferToThread(self.ask, port.getHost().port) for _ in range(8)]
        # One of eight is enough, on a machine that has other things to do.
        self.assertLess(min(times), 0.03)

    def ask(self, port: int) -> float:
        """Seconds from the handshake's end to the answer."""
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


class ProxyAddresses(StreamTestCase):
    def test_ours(self) -> None:
        """An end is close_notify, and TCP goes when the client has said it too; what it still says meanwhile is heard."""
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

    def test_theirs(self) -> None:
        """A client's close_notify is answered, and TCP goes."""
        self.shake()
        self.client.shutdown()
        self.wire.deliver(self.take())
        self.assertTrue(self.wire.disconnecting)
        self.assertEqual(b"<close_notify>", self.exchange())

    def test_waits_for_the_producer(self) -> None:
        """With a producer the end waits until it is done."""
        self.shake()
        self.stream.registerProducer(self.application, streaming=True)
        self.stream.loseConnection()
        self.stream.write(b"more")
        self.assertEqual(b"more", self.exchange())
        self.stream.unregisterProducer()
        self.stream.unregisterProducer()
        self.stream.write(b"too late")
        self.assertEqual(b"<close_notify>", self.exchange())

    def test_before_the_handshake(self) -> None:
        """Who has not shaken hands is not waited for."""
        self.stream.loseConnection()
        self.assertTrue(self.wire.aborted)

    def test_half_closed(self) -> None:
        """There is no half of an end in TLS."""
        self.shake()
        self.stream.loseWriteConnection()
        self.assertEqual(b"<close_notify>", self.exchange())

    def test_cut(self) -> None:
        """After a cut nothing is heard, nothing sent, and nothing begun anew."""
        self.shake()
        self.client.send(b"late")
        late = self.take()
        self.stream.abortConnection()
        self.stream.dataReceived(late)
        self.stream.write(b"late")
        self.stream.resumeProducing()
        self.assertEqual(([], b""), (self.application.told, self.wire.sent()))

    def test_cut_from_within(self) -> None:
        """A protocol that cuts while it is given something is given no more, though there is more."""
        self.shake()
        self.application.then = lambda _: self.stream.abortConnection()
        self.say(*SEVERAL)
        self.assertEqual([b"01234567"], self.application.told)

    def test_cut_before_the_end(self) -> None:
        """A protocol that cuts when it is given the last data hears and says no more: the client's end is not answered."""
        self.shake()
        self.application.then = lambda _: self.stream.abortConnection()
        answered: list[str] = []
        self.patch(self.stream, "_shut", lambda: answered.append("shut"))
        self.client.send(b"one")
        self.client.shutdown()
        self.wire.deliver(self.take())
        self.assertEqual(([b"one"], []), (self.application.told, answered))

    def test_close_behind(self) -> None:
        """What came before the client's close_notify in the same packet is given before the end is answered."""
        self.shake()
        self.application.then = self.stream.write
        self.client.send(b"one")
        self.client.shutdown()
        self.wire.deliver(self.take())
        self.assertEqual(([b"one"], b"one<close_notify>"), (self.application.told, self.exchange()))

    def test_lost(self) -> None:
        """A connection that goes is told once, and forgotten."""
        self.shake()
        self.assertEqual({self.stream}, self.factory.protocols)
        self.wire.lose(ConnectionDone())
        self.assertEqual((["lost"], set()), (self.application.told, self.factory.protocols))
        self.stream.stopProducing()


class Pauses(StreamTestCase):
    def test_pause(self) -> None:
        """A protocol that has paused gets nothing, and afterwards all that came meanwhile, with what came in the same packet."""
        self.shake()
        self.application.then = lambda _: self.stream.pauseProducing()
        self.say(*SEVERAL)
        self.assertEqual(([b"01234567"], False), (self.application.told, self.wire.reading))
        self.application.then = id
        self.stream.resumeProducing()
        self.assertEqual(([b"01234567", b"89"], True), (self.application.told, self.wire.reading))

    def test_resumed_from_within(self) -> None:
        """One that pauses and resumes while it is given something gets each piece once, in order."""
        self.shake()

        def blink(_: bytes) -> None:
            self.stream.pauseProducing()
            self.stream.resumeProducing()

        self.application.then = blink
        self.say(*SEVERAL)
        self.assertEqual([b"01234567", b"89"], self.application.told)

    def test_before_the_handshake(self) -> None:
        """Resuming before the handshake reads nothing."""
        self.stream.resumeProducing()
        self.shake()

    def test_slow_reader(self) -> None:
        """The protocol is told when the client reads too slowly, and when it reads on."""
        self.shake()
        self.stream.registerProducer(self.application, streaming=True)
        self.wire.fill()
        self.wire.drain()
        self.assertEqual(["pause", "resume"], self.application.told)


class Faults(StreamTestCase):
    def test_rubbish(self) -> None:
        """What is no TLS is answered with an alert, and ended."""
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
        """HTTP without TLS is answered in clear text that names HTTPS, whatever stands behind the method; nothing else is read."""
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
        """It may come in pieces."""
        for octet in b"GET / HT":
            self.wire.deliver(bytes([octet]))
        self.assertIn(b"HTTPS", self.wire.sent())

    def test_http_afterwards(self) -> None:
        """Only a connection's first octets count: a broken record after a handshake has no answer in clear text."""
        self.shake()
        self.wire.deliver(b"GET / HTTP/1.1\r\n\r\n" + b"x" * 9999)
        self.assertTrue(self.wire.disconnecting)
        self.assertNotIn(b"HTTP", self.wire.sent())

    def test_logged(self) -> None:
        """A failed handshake is logged with the address, the reason, OpenSSL's words, the version and the name that was asked for."""
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
        """A client's alert is in OpenSSL's words."""
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
        """So is a handshake that ends before it is over, with or without a first message."""
        self.wire.lose()
        self.assertEqual(["no_client_hello"], [failure.reason for failure in self.logged])
        self.setUp()
        with contextlib.suppress(SSL.WantReadError):
            self.client.do_handshake()
        self.wire.deliver(self.take())
        self.wire.lose()
        self.assertEqual(["client_left"], [failure.reason for failure in self.logged])

    def test_not_logged(self) -> None:
        """What comes after a handshake is no failure of it."""
        self.shake()
        self.wire.deliver(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        self.wire.lose()
        self.assertEqual([], self.logged)

    def test_rubbish_afterwards(self) -> None:
        """So is what is no TLS after the handshake; and nothing is written after it."""
        self.shake()
        self.wire.deliver(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        self.assertTrue(self.wire.disconnecting)
        self.wire.sent()
        self.stream.write(b"late")
        self.assertEqual(([], b""), (self.application.told, self.wire.sent()))

    def test_callback(self) -> None:
        """A callback of ours that fails ends the handshake, and is one entry in the log."""

        def fail() -> None:
            raise ValueError("a fault of ours")

        self.stream._tls.do_handshake = fail
        self.wire.deliver(b"\x16")
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))
        self.assertEqual((True, []), (self.wire.disconnecting, self.application.told))

    def test_write_fails(self) -> None:
        """Where OpenSSL takes no more, the connection is over."""
        self.shake()

        def fail(_: bytes) -> int:
            raise SSL.Error

        self.stream._tls.send = fail
        self.stream.write(b"data")
        self.assertTrue(self.wire.disconnecting)

    def test_shutdown_fails(self) -> None:
        """Where OpenSSL cannot say close_notify, TCP still waits for the client's end."""
        self.shake()

        def fail() -> bool:
            raise SSL.Error

        self.stream._tls.shutdown = fail
        self.stream.loseConnection()
        self.assertFalse(self.wire.disconnecting)


class Factories(SynchronousTestCase):
    def test_refusal(self) -> None:
        """A factory that makes no protocol makes no stream."""
        inner = Factory()
        self.patch(inner, "buildProtocol", lambda _: None)
        self.assertIs(None, TlsFactory(ServerConnections(None), inner).buildProtocol(None))  # type: ignore[arg-type]

    def test_start_and_stop(self) -> None:
        """The factory within is started and stopped with it."""
        told: list[str] = []
        inner = Factory()
        self.patch(inner, "startFactory", lambda: told.append("start"))
        self.patch(inner, "stopFactory", lambda: told.append("stop"))
        inner.noisy = False
        factory = TlsFactory(ServerConnections(None), inner)  # type: ignore[arg-type]
        factory.doStart()
        factory.doStop()
        self.assertEqual(["start", "stop"], told)
