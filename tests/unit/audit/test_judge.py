"""Promises of :mod:`x509proxy.audit.judge`."""

from __future__ import annotations

from tests.support.scripted_lab import (
    JSON,
    ScriptTestCase,
)
from x509proxy.audit import judge
from x509proxy.audit.client import Ending
from x509proxy.audit.lab import Exchange, Response


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
