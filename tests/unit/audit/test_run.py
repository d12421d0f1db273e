"""Promises of :mod:`x509proxy.audit.run`."""

from __future__ import annotations

from collections.abc import Iterator

from tests.support.scripted_lab import (
    ScriptTestCase,
)
from x509proxy.audit.lab import Lab
from x509proxy.audit.probe import Group, NotApplicable, Probe, Severity
from x509proxy.audit.run import Outcome, run


class Run(ScriptTestCase):
    def test_late_inapplicable(self) -> None:
        """A fault that was found counts, even if the rest does not apply."""

        def script(_: Lab) -> Iterator[str]:
            yield "found x, expected y"
            raise NotApplicable("no more")

        probe = Probe("x", Group.NAMES, Severity.LOW, "", "", script)
        (result,) = run(self.lab(), [probe])
        self.assertIs(Outcome.FAILED, result.outcome)
