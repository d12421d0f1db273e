"""Tests of :mod:`x509proxy.audit.probes.http2`."""

from __future__ import annotations

import sys

from tests.support.audit_lab import AuditTestCase, add_fault_tests
from tests.support.audit_requests import arrival
from tests.support.broken_terminator import HEADER
from tests.support.scripted_lab import (
    FakeConnection,
    FakeHttp2,
    ScriptTestCase,
)
from x509proxy.audit.probe import Group
from x509proxy.audit.probes import PROBES as ALL_PROBES
from x509proxy.audit.probes.http2 import PROBES


class Http2(ScriptTestCase):
    def test_sound(self) -> None:
        """A sound terminator has no fault in any probe of HTTP/2."""
        for probe in ALL_PROBES:
            if probe.group is Group.HTTP2 and probe.id != "h2-identity":
                lab = self.lab(
                    arrival((b"Host", b"localhost"), (b"Cookie", b"a=1; b=2"), (HEADER, b"x"))
                )
                lab.connect = lambda *_: FakeHttp2()  # type: ignore[method-assign]
                self.assertEqual([], list(probe.script(lab)), probe.id)

    def test_odd_servers(self) -> None:
        """A server that closes, or sends a malformed frame, has no response."""
        settings = b"\0\0\1\4\0\0\0\0\0\0"
        for replies in ((), (settings,)):
            lab = self.lab()
            lab.fake = FakeConnection(*replies)
            self.assertEqual([], self.faults("h2-forged", lab))

    def test_odd_status(self) -> None:
        """A status that is no number is no response."""
        for status in (b"abc", b"", b"-1", b"2\xb2"):
            server = FakeHttp2(status)
            lab = self.lab()
            lab.connect = lambda *_, server=server: server  # type: ignore[method-assign]
            self.assertEqual([], self.faults("h2-forged", lab))

    def test_missing_library(self) -> None:
        """Without h2 the probes do not apply."""
        before = sys.modules["h2.config"]
        self.addCleanup(sys.modules.__setitem__, "h2.config", before)
        sys.modules["h2.config"] = None  # type: ignore[assignment]
        self.inapplicable("h2-forged", self.lab())


class Terminators(AuditTestCase):
    def test_sound(self) -> None:
        """A terminator that keeps every promise passes every probe that applies."""
        self.sound(*PROBES)


add_fault_tests(Terminators, PROBES)
