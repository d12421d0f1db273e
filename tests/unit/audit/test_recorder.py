"""The recording back end."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
from typing import Any

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from tests.support import certificates as samples
from tests.support.raw_tls import HEADER
from x509proxy.audit.recorder import (
    INCOMPLETE,
    Listener,
    Recorder,
    Reply,
    from_echo,
    parse_listen,
)
from x509proxy.forwarding.certificate_formats import encode
from x509proxy.service.echo import Secrets, echo_site
from x509proxy.settings import Format, SettingsError

DEEP = b"[" * 100_000


class Listening(SynchronousTestCase):
    def test_descriptions(self) -> None:
        """The endpoints that Twisted calls tcp and unix are understood."""
        for text, expected in (
            ("tcp:8080", Listener(host="127.0.0.1", port=8080)),
            ("tcp:port=80:interface=10.0.0.1", Listener(host="10.0.0.1", port=80)),
            (r"tcp:80:interface=\:\:1", Listener(host="::1", port=80)),
            ("unix:/run/x", Listener(path="/run/x")),
        ):
            self.assertEqual(expected, parse_listen(text))

    def test_others(self) -> None:
        """Any other endpoint is an error."""
        with self.assertRaisesRegex(SettingsError, "listen: found 'ssl:443', expected tcp"):
            parse_listen("ssl:443")

    def test_places(self) -> None:
        """It listens at IPv6 and at a unix socket too."""
        # A path in trial's own folder may be too long for a socket (unix(7)).
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        for listener in (Listener(host="::1"), Listener(path=f"{folder}/s")):
            recorder = Recorder(listener)
            self.addCleanup(recorder.stop)
            place = listener.path or ("::1", recorder.port)
            kind = socket.AF_UNIX if listener.path else socket.AF_INET6
            self.assertEqual(bool(listener.path), recorder.port == 0)
            with socket.socket(kind) as client:
                client.connect(place)
                client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                self.assertIn(b"200 OK", client.recv(1000))


class Recording(SynchronousTestCase):
    def setUp(self) -> None:
        self.recorder = Recorder(Listener(host="127.0.0.1"))
        self.addCleanup(self.recorder.stop)

    def say(self, data: bytes) -> bytes:
        """Send bytes and no more; return all that comes back."""
        with socket.create_connection(("127.0.0.1", self.recorder.port), 5) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            reply = b""
            while piece := client.recv(65536):
                reply += piece
        return reply

    def test_requests(self) -> None:
        """Requests of one connection are recorded one by one, with their bytes."""
        first = b"POST /a HTTP/1.1\r\nHost: a\r\nX-A: tok\r\nContent-Length: 2\r\n\r\nhi"
        second = b"GET /b HTTP/1.1\r\nHost: a\r\nX-A: tok\r\n\r\n"
        self.assertEqual(2, self.say(first + second).count(b"200 OK"))
        one, two = self.recorder.collect(b"tok", 0.01)
        self.assertEqual((first, second), (one.raw, two.raw))
        self.assertEqual(
            (b"/a", b"hi", "", one.connection), (one.target, one.body, one.fault, two.connection)
        )
        self.assertEqual([b"tok"], one.values(b"x-a"))
        self.assertEqual((), self.recorder.collect(b"tok", 0.01))

    def test_trailers(self) -> None:
        """Trailer fields count as fields: a server may merge them."""
        self.say(
            b"POST / HTTP/1.1\r\nHost: tok\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-T: 1\r\n\r\n"
        )
        (arrival,) = self.recorder.collect(b"tok", 0.01)
        self.assertEqual([b"1"], arrival.values(b"x-t"))

    def test_malformed(self) -> None:
        """A malformed request is recorded with the fields that its lines give, and rejected."""
        reply = self.say(b"GET / HTTP/1.1\r\nHost: a\r\nX Y: tok\r\n\r\nGET /2 HTTP/1.1\r\n\r\n")
        self.assertTrue(reply.startswith(b"HTTP/1.1 400 "))
        (arrival,) = self.recorder.collect(b"tok", 0.01)
        self.assertEqual((b"GET", b"/"), (arrival.method, arrival.target))
        self.assertEqual([b"tok"], arrival.values(b"x y"))
        self.assertIn("illegal header", arrival.fault)
        self.say(b"tok\r\n\r\n")
        self.assertEqual(b"tok", self.recorder.collect(b"tok", 0.01)[0].method)

    def test_incomplete(self) -> None:
        """A request whose body is cut is recorded; a connection without a byte is not."""
        self.say(b"POST / HTTP/1.1\r\nHost: tok\r\nContent-Length: 9\r\n\r\nhi")
        (arrival,) = self.recorder.collect(b"tok", 0.01)
        self.assertEqual((INCOMPLETE, b"hi"), (arrival.fault, arrival.body))
        self.assertEqual(b"", self.say(b""))

    def test_head(self) -> None:
        """A response to HEAD has no body, and HTTP/1.0 ends the connection."""
        self.assertTrue(self.say(b"HEAD / HTTP/1.0\r\n\r\n").endswith(b"Connection: close\r\n\r\n"))

    def test_continue(self) -> None:
        """A client that waits for 100 Continue gets it once."""
        head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self.recorder.port), 5) as client:
            client.sendall(head)
            self.assertEqual(b"HTTP/1.1 100 Continue\r\n\r\n", client.recv(1000))
            client.sendall(b"h")
            client.sendall(b"i")
            self.assertIn(b"200 OK", client.recv(1000))

    def test_responder(self) -> None:
        """A responder chooses the bytes, and the end of the connection."""
        self.recorder.responder = lambda _: Reply(b"HTTP/1.1 500 x\r\n\r\n", close=True)
        self.assertEqual(b"HTTP/1.1 500 x\r\n\r\n", self.say(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"))

    def test_cut(self) -> None:
        """A terminator that cuts its connection stops nothing."""
        client = socket.create_connection(("127.0.0.1", self.recorder.port), 5)
        linger = b"\x01\0\0\0\0\0\0\0"
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        client.sendall(b"GET / HT")
        client.close()
        self.assertIn(b"200 OK", self.say(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"))


class Echo(SynchronousTestCase):
    def test_report(self) -> None:
        """The request is read from what ``x509proxy echo`` reports."""
        body = {"method": "GET", "target": "/a", "headers": [["X-A", "tok"]]}
        arrival = from_echo(json.dumps(body).encode())
        assert arrival is not None
        self.assertEqual((b"/a", [b"tok"]), (arrival.target, arrival.values(b"x-a")))
        self.assertIn(b"tok", arrival.raw)

    def test_covered(self) -> None:
        """An echo that covers the secret header name cannot be judged by, which is one sentence."""
        ((name, value),) = encode(samples.client(), Format.PEM, HEADER.encode())
        request = b"GET / HTTP/1.1\r\nHost: a\r\n%b: %b\r\n\r\n" % (name, value)
        for secrets in Secrets:
            site: Any = echo_site(reactor=Clock(), secrets=secrets)
            protocol = site.buildProtocol(None)
            transport = StringTransport()
            protocol.makeConnection(transport)
            protocol.dataReceived(request)
            body = transport.value().partition(b"\r\n\r\n")[2]
            if secrets is Secrets.SHOWN:
                arrival = from_echo(body)
                assert arrival is not None
                self.assertEqual([value], arrival.values(name))
            else:
                error = self.assertRaises(SettingsError, from_echo, body)
                self.assertIn("expected one with --show-secret-name", str(error))

    def test_other_bodies(self) -> None:
        """Any other body reports nothing."""
        for body in (b"<html>", b"[]", b"{}", b'{"method":1,"target":"","headers":[]}', DEEP):
            self.assertIsNone(from_echo(body))
