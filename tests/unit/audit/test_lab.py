"""Tests of :mod:`x509proxy.audit.lab`."""

from __future__ import annotations

import json

from tests.support.audit_requests import arrival
from tests.support.broken_terminator import HEADER, Terminator
from tests.support.ports import free_port
from tests.support.scripted_lab import FakeConnection, ScriptTestCase
from x509proxy.audit import formats
from x509proxy.audit.client import Address, Ending
from x509proxy.audit.lab import (
    Echoes,
    Field,
    Lab,
    Pace,
    Recording,
    Response,
    Target,
    get,
    message,
    parse_responses,
    read_reply,
)
from x509proxy.audit.probe import NotApplicable
from x509proxy.audit.recorder import Listener, Recorder
from x509proxy.settings import Format, SettingsError

PACE = Pace(response_seconds=2.0, quiet=0.02)


class LabTestCase(ScriptTestCase):
    def recording(self, pace: Pace = PACE) -> Lab:
        """Start a sound terminator, and return the lab of its audit."""
        recorder = Recorder(Listener(host="127.0.0.1"))
        self.addCleanup(recorder.stop)
        terminator = Terminator(recorder.port)
        self.addCleanup(terminator.stop)
        target = Target(Address("127.0.0.1", terminator.port, "localhost"), self.target.fields)
        return Lab(target, Recording(recorder), self.store, pace)


class Results(LabTestCase):
    def test_names(self) -> None:
        """The fields with the result of the verification are known by their folded names."""
        fields = (Field(b"X_Verify", Format.VERIFY), Field(b"X-Cert", Format.PEM_URL))
        lab = Lab(Target(self.target.address, fields), Echoes(), self.store)
        self.assertEqual({b"x-verify"}, lab.results)


class Templates(LabTestCase):
    def test_places(self) -> None:
        """Each place of a template is filled: names, host, token and the forged value."""
        field, other = Field(b"X-My-Cert", Format.PEM_URL), Field(b"X_My_Cert", Format.PEM_URL)
        target = Target(self.target.address, (field, other))
        lab = Lab(target, Echoes(), self.store)
        filled = lab.fill(
            b"{name} {lower} {upper} {swapped} {twin} {lowertwin} {hyphens} "
            b"{first} {host} {HOST} {token}",
            field,
            b"t",
        )
        expected = (
            b"X-My-Cert x-my-cert X-MY-CERT x-mY-cERT X_My_Cert x_my_cert X-My-Cert X_My-Cert "
            b"localhost LOCALHOST t"
        )
        self.assertEqual(expected, filled)
        self.assertEqual(b"X-My_Cert", lab.fill(b"{first}", other))
        self.assertEqual(lab.forged_value(lab.target.fields[0]), lab.fill(b"{forged}"))

    def test_requests(self) -> None:
        """A template is a request with ``Host``, a token and its own lines."""
        expected = b"GET / HTTP/1.1\r\nHost: {host}\r\nX-Audit: {token}\r\nA: b\r\n"
        self.assertEqual(expected + b"Connection: close\r\n\r\n", get(b"A: b"))
        self.assertEqual(expected + b"\r\nbody", message(b"A: b", body=b"body"))

    def test_tokens(self) -> None:
        """No two tokens are the same."""
        self.assertNotEqual(Lab.token(), Lab.token())


class Values(LabTestCase):
    def test_fields(self) -> None:
        """A certificate is found in a value in any format, a forged value in any text."""
        lab, victim = self.lab(), self.store.get("victim")
        for form in formats.CERTIFICATES:
            self.assertTrue(lab.holds(b"a " + formats.encode(form, victim.der), victim.der), form)
        self.assertFalse(lab.holds(b"a", victim.der))
        self.assertTrue(lab.is_forged(b"a" + lab.forged_value(lab.target.fields[0])))
        self.assertFalse(lab.is_forged(b"a"))
        self.assertEqual([HEADER], [field.name for field in lab.identifying])
        self.assertEqual(victim.der, lab.stolen().der)


class Connections(LabTestCase):
    def test_exchange(self) -> None:
        """A request goes through the terminator; its arrival has the client's certificate."""
        lab = self.recording()
        found = lab.send(get(), "client")
        self.assertEqual((200, 1), (found.status, len(found.arrived)))
        self.assertEqual(1, len(found.arrived[0].values(HEADER)))
        self.assertEqual([found], lab.transcript)
        self.assertEqual(self.store.get("client"), found.client)
        lab.require_recorder()
        self.assertIsInstance(lab.recorder, Recorder)

    def test_bounds(self) -> None:
        """An audit opens so many connections, and no more."""
        lab = self.recording(Pace(connections=1, quiet=0.02))
        lab.send(get())
        with self.assertRaisesRegex(SettingsError, "found 2 connections, expected 1 or fewer"):
            lab.send(get())

    def test_unreachable(self) -> None:
        """An address without a listener is an error with its name."""
        place = Address("127.0.0.1", free_port(), "localhost")
        lab = Lab(Target(place, self.target.fields), Echoes(), self.store)
        with self.assertRaisesRegex(
            SettingsError, rf"127\.0\.0\.1:{place.port}: found no connection"
        ):
            lab.send(get())

    def test_echo(self) -> None:
        """Without a recorder the requests are read from an echo's responses."""
        lab = self.lab()
        for call in (lab.require_recorder, lambda: lab.recorder):
            self.assertRaises(NotApplicable, call)
        pairs = [
            [name.decode(), value.decode()] for name, value in arrival((b"X-Audit", b"t")).pairs
        ]
        body = json.dumps({"method": "GET", "target": "/", "headers": pairs}).encode()
        responses = (Response(200, (), body), Response(200, (), b"none"))
        self.assertEqual(1, len(Echoes().arrivals(b"t", responses, 0.0)))
        self.assertEqual((), Echoes().arrivals(b"other", responses, 0.0))


class Responses(LabTestCase):
    def test_parsed(self) -> None:
        """Complete final responses are read, one after the other."""
        good = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: y\r\n\r\nok"
        early = b"HTTP/1.1 100 Continue\r\n\r\n"
        chunked = b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
        found = parse_responses(early + good + chunked, b"GET /")
        self.assertEqual([(200, b"ok"), (404, b"a")], [(one.status, one.body) for one in found])
        self.assertEqual([b"y"], found[0].values(b"x"))
        head = parse_responses(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"HEAD /")
        self.assertEqual([200], [one.status for one in head])

    def test_cut(self) -> None:
        """A body that is cut is no response; one that ends with the connection is."""
        self.assertEqual(
            (), parse_responses(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", b"GET")
        )
        self.assertEqual((), parse_responses(b"garbage\r\n\r\n", b"GET"))
        (found,) = parse_responses(b"HTTP/1.1 200 OK\r\n\r\nok", b"GET")
        self.assertEqual((200, b"ok"), (found.status, found.body))

    def test_read(self) -> None:
        """A reply is read to the end, or to the silence behind a complete response."""
        fake = FakeConnection(b"HTTP/1.1 200 OK\r\nContent-", b"Length: 2\r\n\r\n", b"ok")
        fake.ending = Ending.OPEN
        reply = read_reply(fake, b"GET / HTTP/1.1\r\n\r\n", Pace())  # type: ignore[arg-type]
        self.assertTrue(reply.endswith(b"ok"))

    def test_read_nothing(self) -> None:
        """A connection that has ended has no reply."""
        self.assertEqual(b"", read_reply(FakeConnection(b"x"), b"", Pace()))  # type: ignore[arg-type]
