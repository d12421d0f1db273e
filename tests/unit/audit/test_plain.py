"""Tests of :mod:`x509proxy.audit.plain`."""

from __future__ import annotations

from tests.support.ports import free_port
from tests.support.scripted_lab import (
    ScriptTestCase,
)
from x509proxy.audit.client import Address
from x509proxy.audit.lab import Echoes, Lab, Pace, Recording, Target
from x509proxy.audit.plain import open_plain
from x509proxy.audit.recorder import Listener, Recorder


class Plain(ScriptTestCase):
    def test_plain_closed(self) -> None:
        """An unencrypted port that is closed passes nothing."""
        place = Address("127.0.0.1", free_port(), "localhost")
        target = Target(self.target.address, self.target.fields, plain=place)
        lab = Lab(target, Echoes(), self.store)
        self.assertEqual([], self.faults("plain-forged", lab))

    def test_open(self) -> None:
        """The response of an unencrypted port, and the requests through it, are one exchange."""
        recorder = Recorder(Listener(host="127.0.0.1"))
        self.addCleanup(recorder.stop)
        place = Address("127.0.0.1", recorder.port, "localhost")
        target = Target(self.target.address, self.target.fields, plain=place)
        lab = Lab(target, Recording(recorder), self.store, Pace(response_seconds=2.0, quiet=0.02))
        template = b"GET /{token} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        found = open_plain(lab, place, template)
        assert found is not None
        self.assertEqual((200, 1), (found.status, len(found.arrived)))
        self.assertEqual([found], lab.transcript)
