"""Tests of :mod:`x509proxy.audit.remedies`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from x509proxy.audit.probes import PROBES


class Remedies(SynchronousTestCase):
    def test_each(self) -> None:
        """Each probe has a promise in one sentence, an origin, and a remedy."""
        for probe in PROBES:
            self.assertTrue(probe.promise.endswith("."), probe.id)
            self.assertTrue(probe.reference, probe.id)
            self.assertTrue(probe.remedies, probe.id)
