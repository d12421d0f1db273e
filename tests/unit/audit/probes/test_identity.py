"""Promises of :mod:`x509proxy.audit.probes.identity`."""

from __future__ import annotations

from tests.support.audit_requests import arrival
from tests.support.broken_terminator import HEADER
from tests.support.scripted_lab import (
    ScriptTestCase,
)


class Identity(ScriptTestCase):
    def test_missing_options(self) -> None:
        """Without its option a probe does not apply."""
        for probe in ("direct", "plain-forged"):
            self.inapplicable(probe, self.lab())

    def test_other_values(self) -> None:
        """Each probe of a missing certificate finds its own value alone."""
        lab = self.lab(arrival((HEADER, b"(null)")))
        self.assertEqual([], self.faults("absent-dash", lab))
        self.assertEqual([], self.faults("absent-placeholder", lab))
        self.assertEqual([], self.faults("absent-after-other", lab))
