"""Promises of :mod:`x509proxy.audit.plain`."""

from __future__ import annotations

from tests.support.ports import free_port
from tests.support.scripted_lab import (
    ScriptTestCase,
)
from x509proxy.audit.client import Address
from x509proxy.audit.lab import Echoes, Lab, Target


class Plain(ScriptTestCase):
    def test_plain_closed(self) -> None:
        """An unencrypted port that is closed passes nothing."""
        place = Address("127.0.0.1", free_port(), "localhost")
        target = Target(self.target.address, self.target.fields, plain=place)
        lab = Lab(target, Echoes(), self.store)
        self.assertEqual([], self.faults("plain-forged", lab))
