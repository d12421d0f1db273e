"""Tests of :mod:`x509proxy.monitoring.status_page.tables`."""

from __future__ import annotations

import re
from typing import Any

import attrs
import msgspec
from twisted.trial.unittest import SynchronousTestCase

from tests.support import certificates as samples
from tests.support.exchanges import exchange, refused
from tests.support.html import HOSTILE_TEXT, HtmlReader
from tests.support.snapshots import DOWN, UP, snapshot
from tests.support.status_pages import _DAY, NOW, cells, page, pills
from x509proxy.certificates.client_certificate import Verdict
from x509proxy.exchange import Outcome
from x509proxy.http1.errors import Code
from x509proxy.monitoring.counters import Counters
from x509proxy.monitoring.snapshot import (
    BackendState,
    CertificateState,
    ListenerState,
    ReloadState,
    TokenState,
    WorkerState,
    clients_of,
    refusals_of,
)
from x509proxy.monitoring.status_page.history import History
from x509proxy.monitoring.status_page.page import status_page


class Rows(SynchronousTestCase):
    def setUp(self) -> None:
        self.counters = Counters()

    def found(self, **changes: Any) -> str:
        counters = self.counters
        rows = {
            "counts": counters.counts(),
            "refusals": refusals_of(counters),
            "clients": clients_of(counters),
        }
        return page(snapshot(taken=NOW, **{**rows, **changes}))

    def test_tokens(self) -> None:
        """The check of access tokens: issuer, level, keys, and what failed; nothing without one."""
        self.assertNotIn("Access tokens", self.found())
        row = TokenState(
            level="jwt",
            issuer="https://<as>",
            keys=2,
            fetched=NOW - 5,
            failures=3,
            error="<no>",
            pending=4,
        )
        document = self.found(tokens=row)
        expected = {
            "Issuer": "https://&lt;as&gt;",
            "Level": "jwt",
            "Keys": "2",
            "Fetched": "5 s ago",
            "Pending": "4",
            "Failed": "3",
        }
        self.assertEqual(expected, {label: cells(document, label)[0] for label in expected})
        self.assertIn(">&lt;no&gt;<", document)
        found = self.found(tokens=TokenState(level="unverified"))
        self.assertEqual(["–"], cells(found, "Issuer"))

    def test_back_ends(self) -> None:
        """A back end's row: state, connections, queue, requests, and its last failure."""
        for status in (200, 200, 404, 500, 502):
            self.counters.exchange(exchange(backend="http://a", status=status))
        row = BackendState(
            url="http://a",
            state="slow",
            since=NOW - 61,
            reason="<it> failed",
            busy=60,
            idle=2,
            opening=1,
            waiting=3,
            connections=64,
            queue=256,
            failures=9,
            checked=NOW - 5,
        )
        document = self.found(backends=(row, DOWN))
        expected = {
            "Back end": "http://a",
            "State": "slow start 1 min",
            "Busy": "60 of 64",
            "Idle": "3",
            "Waiting": "3 of 256",
            "Requests": "5",
            "5xx": "2",
            "Failures": "9",
            "Checked": "5 s ago",
            "Last failure": "&lt;it&gt; failed",
        }
        self.assertEqual(expected, {label: cells(document, label)[0] for label in expected})
        self.assertEqual(
            ("0", "–", "–"),
            tuple(cells(document, label)[1] for label in ("Requests", "Checked", "Last failure")),
        )
        self.assertIn('class="bar full"', document)

    def test_listeners(self) -> None:
        """Each place to listen at, what it asks for, and whether a balancer speaks first."""
        proxied = ListenerState(endpoint="tcp:443", asks="none", proxy_protocol=True)
        document = self.found(
            listeners=(ListenerState(endpoint="tcp:8443", asks="optional"), proxied)
        )
        self.assertEqual(
            (["tcp:8443", "tcp:443"], ["no", "required"]),
            (cells(document, "Endpoint"), cells(document, "PROXY header")),
        )

    def test_workers(self) -> None:
        """Several workers have a table; one has none."""
        workers = tuple(
            WorkerState(pid=pid, started=NOW - 60, state=state)
            for pid, state in ((7, "serving"), (8, "draining"))
        )
        self.assertEqual(["7", "8"], cells(self.found(workers=workers), "Process"))
        self.assertEqual([], cells(self.found(workers=workers[:1]), "Process"))

    def test_expiry(self) -> None:
        """A certificate that ends soon is marked: within 14 days, or the last quarter of its life.

        And what has ended.
        """
        rows = tuple(
            CertificateState(
                use=f"crl[{place}]", name="name", begins=NOW + begins * _DAY, ends=NOW + ends * _DAY
            )
            for place, (begins, ends) in enumerate(
                [(-60, 30), (-300, 13.5), (-1, 6), (-6, 1), (-90, -1)]
            )
        )
        document = self.found(certificates=rows)
        self.assertEqual(
            ["in 30 d", "in 13 d 12 h", "in 6 d", "in 24 h 0 min", "24 h 0 min ago"],
            cells(document, "Ends"),
        )
        self.assertEqual(["warn", "warn", "bad"], [mood for word, mood in pills(document)[2:]])

    def test_refusals(self) -> None:
        """The latest fifteen, and a stroke for what was never read."""
        for number in range(20):
            self.counters.exchange(
                refused(started=float(number), duration=0.0, detail=f"reason {number}")
            )
        self.counters.exchange(
            refused(
                started=20.0, target="-", method="-", status=503, certificate=samples.client("CN=c")
            )
        )
        document = self.found()
        self.assertEqual(
            (15, "no client certificate"),
            (len(cells(document, "Reason")), cells(document, "Reason")[0]),
        )
        self.assertEqual(["–", "POST /token"], cells(document, "Request")[:2])
        self.assertEqual(["CN=c", "–"], cells(document, "Certificate")[1:3])
        self.assertIn(("503", "bad"), pills(document))

    def test_equal_refusals(self) -> None:
        """Equal errors are one row with their number, and the newest one's values."""
        for started, peer, target in ((1.0, "a", "/x"), (2.0, "b", "/x"), (3.0, "a", "/token")):
            self.counters.exchange(refused(started=started, duration=0.0, peer=peer, target=target))
        self.counters.exchange(refused(started=4.0, duration=0.0, detail="another"))
        document = self.found()
        self.assertEqual(["1", "3"], cells(document, "Times"))
        self.assertEqual(["00:00:04", "00:00:03"], cells(document, "Time"))
        self.assertEqual("POST /token and 1 more", cells(document, "Request")[1])
        self.assertEqual("a and 1 more", cells(document, "Client")[1])
        self.assertEqual("–", cells(document, "Certificate")[1])

    def test_host(self) -> None:
        """The machine's name is in the title and at the head, to distinguish several proxies."""
        text = status_page(snapshot(host="proxy-1<"), History()).decode()
        self.assertIn("<title>proxy-1&lt; – x509proxy</title>", text)
        self.assertIn("host <b>proxy-1&lt;</b>", text)
        self.assertIn("<title>x509proxy</title>", status_page(snapshot(), History()).decode())

    def test_last_failure(self) -> None:
        """A back end's last failure is shown whole, with its time."""
        reason = "cannot connect to the back end: " + "x" * 99
        rows = (
            msgspec.structs.replace(DOWN, reason=reason, failed=3661.0),
            msgspec.structs.replace(UP, reason="old"),
            UP,
        )
        document = self.found(backends=rows)
        self.assertEqual([f"01:01:01 {reason}", "old", "–"], cells(document, "Last failure"))
        self.assertNotIn(
            "clip", "".join(re.findall('<td[^>]* data-label="Last failure"', document))
        )

    def test_answered(self) -> None:
        """A response with an error is not listed among the requests without a response."""
        self.counters.exchange(refused(code=Code.HEAD_TOO_LARGE, status=431))
        self.counters.exchange(refused(code=Code.CLIENT_LEFT, status=0, outcome=Outcome.ABORTED))
        text = status_page(snapshot(counts=self.counters.counts()), History()).decode()
        lists = {part.partition("</h3>")[0]: part for part in text.split("<h3>")[1:]}
        self.assertIn("head too large", lists["Error responses"])
        self.assertNotIn("client left", lists["Error responses"])
        self.assertIn("client left", lists["Aborted requests"])
        self.assertNotIn("head too large", lists["Aborted requests"])

    def test_clients(self) -> None:
        """A client's row: subject, verdict, thumbprint, how often, when last."""
        shown = attrs.evolve(samples.client("CN=c"), verdict=Verdict.TRUSTED)
        bare = attrs.evolve(samples.client("CN=d"), subject="", key="", not_after=0.0)
        self.counters.exchange(exchange(started=NOW - 9, certificate=shown))
        self.counters.exchange(exchange(started=NOW - 10, certificate=bare))
        document = self.found()
        self.assertEqual(["CN=c", "(no subject)"], cells(document, "Subject"))
        self.assertEqual(
            [shown.thumbprint, bare.thumbprint], cells(document, "Thumbprint (x5t#S256)")
        )
        self.assertEqual(
            (["9 s ago", "10 s ago"], ["EC P-256", "–"]),
            (cells(document, "Last seen"), cells(document, "Key")),
        )
        self.assertIn(("trusted", "good"), pills(document))

    def test_empty(self) -> None:
        """Where there is nothing yet, the page shows that."""
        self.assertEqual(3, self.found().count("None so far."))

    def test_evil(self) -> None:
        """Values of clients and back ends are text: subject, target, method, reason and address."""
        shown = attrs.evolve(samples.client(), subject=HOSTILE_TEXT, key=HOSTILE_TEXT)
        self.counters.exchange(
            refused(
                certificate=shown,
                target=HOSTILE_TEXT,
                method=HOSTILE_TEXT,
                detail=HOSTILE_TEXT,
                peer=HOSTILE_TEXT,
                backend=HOSTILE_TEXT,
            )
        )
        row = BackendState(url=HOSTILE_TEXT, reason=HOSTILE_TEXT)
        certificate = CertificateState(use=HOSTILE_TEXT, name=HOSTILE_TEXT, ends=0.0)
        document = self.found(
            backends=(row,),
            certificates=(certificate,),
            version=HOSTILE_TEXT,
            reload=ReloadState(error=HOSTILE_TEXT),
        )
        elements = [name for name, _ in HtmlReader(document).elements]
        self.assertEqual((1, 0), (elements.count("script"), elements.count("img")))
        self.assertNotIn("alert(1)</script>", document)
