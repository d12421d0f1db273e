"""Tests of :mod:`x509proxy.monitoring.status_page.tiles`."""

from __future__ import annotations

import re

from twisted.trial.unittest import SynchronousTestCase

from tests.support.exchanges import exchange, refused
from tests.support.snapshots import snapshot
from tests.support.status_pages import page
from x509proxy.http1.errors import Code
from x509proxy.monitoring.counters import Counters
from x509proxy.monitoring.status_page.history import History


class Figures(SynchronousTestCase):
    def tiles(self, document: str) -> dict[str, tuple[str, str]]:
        found = re.findall(
            r'<div class="tile[^"]*"><h2>(.*?)</h2><div class="value">(.*?)</div>'
            r'<div class="note">(.*?)</div>',
            document,
        )
        return {name: (re.sub("<[^>]*>", " ", value).strip(), note) for name, value, note in found}

    def test_tiles(self) -> None:
        """Six figures: of the last seconds, of all, and of how many."""
        history, counters = History(), Counters()
        history.add(snapshot(taken=100.0))
        for _ in range(30):
            counters.exchange(exchange())
        counters.exchange(refused())
        counters.handshake_succeeded(0x0304, "X25519MLKEM768")
        counters.handshake_failed("no_client_hello")
        found = snapshot(
            taken=102.0, counts=counters.counts(), connections=5, most_connections=4096
        )
        history.add(found)
        document = page(found, history)
        self.assertEqual(
            {
                "Requests": ("16 /s", "31 in all"),
                "Error responses": ("0.50 /s", "1 in all, 3.2 %"),
                "Duration, median": ("3.8 ms", "95 % within 4.9 ms"),
                "Handshakes": ("0.50 /s", "0.50 /s failed"),
                "Connections": ("5", "of 4,096"),
                "Bodies sent": ("930 B/s", "450 B/s received"),
            },
            self.tiles(document),
        )
        self.assertIn("tile alarm", document)

    def test_nothing_yet(self) -> None:
        """Before anything has happened they are zero, and quiet."""
        document = page(snapshot())
        self.assertEqual(
            (("0 /s", "0 in all, 0 %"), ("–", "95 % within –")),
            (self.tiles(document)["Error responses"], self.tiles(document)["Duration, median"]),
        )
        self.assertNotIn("tile alarm", document)

    def test_counters(self) -> None:
        """The counts since the start: by class of status, verdict, version, reason and limit."""
        counters = Counters()
        for status in (200, 201, 404):
            counters.exchange(exchange(status=status))
        counters.exchange(refused(status=503, code=Code.QUEUE_FULL))
        counters.exchange(refused(status=0, code=Code.CLIENT_LEFT))
        counters.limited("client.max-connections")
        document = page(snapshot(counts=counters.counts()))
        found = dict(re.findall(r"<dt[^>]*>(.*?)</dt><dd>(.*?)</dd>", document))
        expected = {
            "2xx": "2",
            "4xx": "1",
            "5xx": "1",
            "no response": "1",
            "NONE": "5",
            "queue full": "1",
            "client left": "1",
            "upstream.max-queued-requests": "1",
            "client.max-connections": "1",
            "forged headers": "0",
        }
        self.assertEqual(expected, {name: found.get(name) for name in expected})
