"""Tests of :mod:`x509proxy.audit.probe`."""

from __future__ import annotations

from collections.abc import Iterator

from twisted.trial.unittest import SynchronousTestCase

from x509proxy.audit.lab import Lab
from x509proxy.audit.probe import Group, Probe, Product, Severity, remedies


def script(_: Lab) -> Iterator[str]:
    yield from ()


class Severities(SynchronousTestCase):
    def test_rank(self) -> None:
        """The worst comes first."""
        ranks = [
            each.rank for each in (Severity.CRITICAL, Severity.HIGH, Severity.MEDIUM, Severity.LOW)
        ]
        self.assertEqual([0, 1, 2, 3], ranks)


class Remedies(SynchronousTestCase):
    def test_order(self) -> None:
        """Remedies stand in the order of the products, and only those that are given."""
        found = remedies(envoy="b", nginx="a")
        self.assertEqual(((Product.NGINX, "a"), (Product.ENVOY, "b")), found)


class Probes(SynchronousTestCase):
    def test_hostile(self) -> None:
        """A probe of the group of denials of service is hostile, and no other is."""
        hostile = {
            group for group in Group if Probe("x", group, Severity.LOW, "", "", script).hostile
        }
        self.assertEqual({Group.HOSTILE}, hostile)
