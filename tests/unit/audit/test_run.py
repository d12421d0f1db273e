"""Tests of :mod:`x509proxy.audit.run`."""

from __future__ import annotations

from collections.abc import Iterator

from tests.support.audit_requests import arrival
from tests.support.scripted_lab import (
    ScriptTestCase,
)
from x509proxy.audit.client import Ending
from x509proxy.audit.lab import Exchange, Lab, Response
from x509proxy.audit.probe import Group, NotApplicable, Probe, Severity
from x509proxy.audit.run import Outcome, Result, check_reachable, failures, run
from x509proxy.settings import SettingsError


class Run(ScriptTestCase):
    def test_late_inapplicable(self) -> None:
        """A fault that was found counts, even if the rest does not apply."""

        def script(_: Lab) -> Iterator[str]:
            yield "found x, expected y"
            raise NotApplicable("no more")

        probe = Probe("x", Group.NAMES, Severity.LOW, "", "", script)
        (result,) = run(self.lab(), [probe])
        self.assertIs(Outcome.FAILED, result.outcome)

    def test_reachable(self) -> None:
        """One plain request must arrive, or no probe could find anything."""
        self.assertTrue(check_reachable(self.lab(arrival())))
        lab = self.lab(ending=Ending.ALERT)
        with self.assertRaisesRegex(SettingsError, "url: found no response and no request at"):
            check_reachable(lab)

    def test_without_a_certificate(self) -> None:
        """A terminator that accepts requests without a certificate alone is reachable too."""
        lab = self.lab()
        replies = iter([(), (arrival(),)])

        def send(*_: object) -> Exchange:
            return Exchange(b"", b"", (), next(replies), Ending.CLOSED)

        lab.send = send  # type: ignore[method-assign]
        self.assertFalse(check_reachable(lab))

    def test_banned(self) -> None:
        """A terminator that serves this client no more would pass the probe, and each later one."""
        probe = Probe("name-same", Group.NAMES, Severity.LOW, "", "", lambda _: iter(()))
        with self.assertRaisesRegex(SettingsError, "no response and .* after probe name-same"):
            list(run(self.lab(), [probe]))

    def test_overloaded(self) -> None:
        """A probe whose request got 429 or 503, and did not arrive, has shown nothing."""
        for status in (429, 503):

            def script(lab: Lab, status: int = status) -> Iterator[str]:
                response = Response(status)
                made = Exchange(b"", b"", (response,), (), Ending.CLOSED)
                lab.transcript.append(made)
                yield from ()

            probe = Probe("x", Group.NAMES, Severity.LOW, "", "", script)
            with self.assertRaisesRegex(SettingsError, f"found status {status} and no request"):
                list(run(self.lab(arrival()), [probe]))

    def test_results(self) -> None:
        """A probe passes, fails with its evidence, or does not apply; each is reported at once."""

        def passes(_: Lab) -> Iterator[str]:
            yield from ()

        def fails(lab: Lab) -> Iterator[str]:
            lab.transcript.append(Exchange(b"sent", b"", (), (), Ending.CLOSED))
            yield "found x, expected y"

        def applies_not(_: Lab) -> Iterator[str]:
            raise NotApplicable("no option")
            yield

        probes = [
            Probe(name, Group.NAMES, severity, "", "", script)
            for name, severity, script in (
                ("a", Severity.LOW, passes),
                ("b", Severity.LOW, fails),
                ("c", Severity.CRITICAL, fails),
                ("d", Severity.LOW, applies_not),
            )
        ]
        seen: list[Result] = []
        results = list(run(self.lab(arrival()), probes, seen.append))
        self.assertEqual(results, seen)
        expected = [Outcome.PASSED, Outcome.FAILED, Outcome.FAILED, Outcome.NOT_APPLICABLE]
        self.assertEqual(expected, [one.outcome for one in results])
        self.assertEqual([b"sent"], [one.sent for one in results[1].evidence])
        self.assertEqual("no option", results[3].reason)
        self.assertEqual(["c", "b"], [one.probe.id for one in failures(results)])
        worst = failures(results, Severity.CRITICAL)
        self.assertEqual(["c"], [one.probe.id for one in worst])
