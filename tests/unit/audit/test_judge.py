"""Tests of :mod:`x509proxy.audit.judge`."""

from __future__ import annotations

import attrs

from tests.support.audit_requests import arrival
from tests.support.broken_terminator import HEADER
from tests.support.scripted_lab import (
    JSON,
    ScriptTestCase,
)
from x509proxy.audit import formats, judge
from x509proxy.audit.client import Ending
from x509proxy.audit.lab import Exchange, Field, Response
from x509proxy.audit.recorder import INCOMPLETE, Arrival
from x509proxy.settings import Format


class Judge(ScriptTestCase):
    def test_explained(self) -> None:
        """A JSON error explains a rejection; HTML, silence and an alert do not."""
        good = Exchange(b"", b"", (Response(401, JSON),), (), Ending.CLOSED)
        self.assertEqual([], list(judge.explained(good)))
        for exchange, words in (
            (Exchange(b"", b"", (Response(400),), (), Ending.CLOSED), "found status 400"),
            (Exchange(b"", b"", (), (), Ending.OPEN), "found no response"),
            (
                Exchange(b"", b"", (), (), Ending.ALERT, alert="bad certificate"),
                "TLS alert bad certificate",
            ),
        ):
            (fault,) = judge.explained(exchange)
            self.assertIn(words, fault)


class Certificates(ScriptTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.client = self.store.get("client")
        self.genuine = formats.encode(Format.PEM_URL, self.client.der)
        self.stolen = formats.encode(Format.PEM_URL, self.store.get("victim").der)

    def exchange(self, *values: bytes, name: bytes = HEADER, client: bool = True) -> Exchange:
        """Return an exchange in which the back end received these values."""
        arrived = arrival(*((name, value) for value in values))
        return Exchange(
            b"", b"", (), (arrived,), Ending.CLOSED, client=self.client if client else None
        )

    def test_forged(self) -> None:
        """A forged value is found under each name that a server may read as the header's."""
        lab = self.lab()
        for name in (HEADER, HEADER.lower().replace(b"-", b"_")):
            (fault,) = judge.forged(lab, self.exchange(self.stolen, name=name))
            self.assertIn("found the forged value at the back end", fault)
        split = Arrival(
            b"GET", b"/", (), raw=b"GET / HTTP/1.1\r\nX: a\n" + HEADER + b":" + self.stolen
        )
        found = list(judge.forged(lab, Exchange(b"", b"", (), (split,), Ending.CLOSED)))
        self.assertEqual(1, len(found))
        self.assertEqual([], list(judge.forged(lab, self.exchange(self.genuine))))

    def test_genuine_result(self) -> None:
        """SUCCESS is genuine for a client of the trusted authority, and forged for any other."""
        fields = (Field(HEADER, Format.PEM_URL), Field(b"X-Verify", Format.VERIFY))
        self.target = attrs.evolve(self.target, fields=fields)
        lab = self.lab()
        exchange = self.exchange(b"SUCCESS", name=b"X-Verify")
        issued = attrs.evolve(exchange, client=self.store.get("issued"))
        self.assertEqual([], list(judge.forged(lab, issued)))
        for client in (self.client, None):
            (fault,) = judge.forged(lab, attrs.evolve(exchange, client=client))
            self.assertIn("X-Verify: found the forged value", fault)
        stolen = attrs.evolve(self.exchange(self.stolen), client=self.store.get("issued"))
        self.assertEqual(1, len(list(judge.forged(lab, stolen))))

    def test_kept(self) -> None:
        """With a client certificate the field is there exactly once."""
        lab = self.lab()
        for values, count in (((), 0), ((b"a", b"b"), 2)):
            (fault,) = judge.kept(lab, self.exchange(*values))
            self.assertIn(f"found {count} fields at the back end, expected 1", fault)
        self.assertEqual([], list(judge.kept(lab, self.exchange(client=False))))

    def test_genuine(self) -> None:
        """The one field has the certificate of the handshake."""
        lab = self.lab()
        self.assertEqual([], list(judge.genuine(lab, self.exchange(self.genuine))))
        self.assertEqual([], list(judge.genuine(lab, self.exchange(self.stolen, client=False))))
        for value, words in (
            (self.stolen, "found another certificate, expected"),
            (b"none", "found no certificate in the format pem-url, expected"),
        ):
            (fault,) = judge.genuine(lab, self.exchange(value))
            self.assertIn(words, fault)

    def test_anonymous(self) -> None:
        """Without a certificate there is no value, except for a placeholder."""
        lab = self.lab()
        for value in (b"", b" - ", b"(null)", b"None"):
            self.assertEqual([], list(judge.anonymous(lab, self.exchange(value, client=False))))
        (fault,) = judge.anonymous(lab, self.exchange(self.genuine, client=False))
        self.assertIn("found a value without a certificate, expected none", fault)
        self.assertEqual([], list(judge.present(lab, self.exchange(client=False))))

    def test_never_anonymous(self) -> None:
        """A request that arrives has the certificate that was presented."""
        lab = self.lab()
        for values in ((), (b"",)):
            (fault,) = judge.never_anonymous(lab, self.exchange(*values))
            self.assertIn("found no certificate at the back end", fault)
        self.assertEqual([], list(judge.never_anonymous(lab, self.exchange(self.genuine))))

    def test_accepted(self) -> None:
        """A good request arrives, with its certificate."""
        lab = self.lab()
        self.assertEqual([], list(judge.accepted(lab, self.exchange(self.genuine))))
        rejected = Exchange(b"", b"", (Response(400),), (), Ending.CLOSED)
        (fault,) = judge.accepted(lab, rejected)
        self.assertEqual("found status 400, expected the request at the back end", fault)


class Requests(ScriptTestCase):
    def exchange(self, *pairs: tuple[bytes, bytes], fault: str = "") -> Exchange:
        """Return an exchange with one request at the back end."""
        arrived = Arrival(b"GET", b"/a", pairs, fault=fault)
        return Exchange(b"", b"", (), (arrived,), Ending.CLOSED)

    def test_never_arrived(self) -> None:
        """Nothing may arrive; what did is named by its method and target."""
        (fault,) = judge.never_arrived(self.exchange())
        self.assertEqual("found GET /a at the back end, expected nothing", fault)

    def test_explained_by_arrival(self) -> None:
        """A request that arrived needs no explanation."""
        self.assertEqual([], list(judge.explained(self.exchange())))

    def test_framing(self) -> None:
        """A request has one framing that each server reads in the same way."""
        length, chunked = (b"Content-Length", b"0"), (b"Transfer-Encoding", b"chunked")
        for pairs, fault, count in (
            ((length,), "", 0),
            ((chunked,), "", 0),
            ((length, chunked), "", 1),
            (((b"Transfer-Encoding", b"gzip"),), "", 1),
            ((chunked, chunked), "", 1),
            ((), INCOMPLETE, 0),
            ((), "odd", 1),
        ):
            self.assertEqual(count, len(list(judge.framing(self.exchange(*pairs, fault=fault)))))
