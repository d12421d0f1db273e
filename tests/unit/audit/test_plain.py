"""Tests of :mod:`x509proxy.audit.plain`."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import NoReturn

from tests.support.ports import free_port
from tests.support.scripted_lab import (
    ScriptTestCase,
)
from x509proxy.audit.client import Address
from x509proxy.audit.lab import Echoes, Lab, Pace, Recording, Target
from x509proxy.audit.plain import open_plain
from x509proxy.audit.recorder import Listener, Recorder
from x509proxy.settings import SettingsError


def _failing(error: Exception) -> Callable[..., NoReturn]:
    """Return a function that raises the error."""

    def fail(*_: object) -> NoReturn:
        raise error

    return fail


class Plain(ScriptTestCase):
    def test_plain_closed(self) -> None:
        """An unencrypted port that is closed passes nothing."""
        place = Address("127.0.0.1", free_port(), "localhost")
        target = Target(self.target.address, self.target.fields, plain=place)
        lab = Lab(target, Echoes(), self.store)
        self.assertEqual([], self.faults("plain-forged", lab))

    def test_unknown_name(self) -> None:
        """A mistyped name of the back end does not pass as one that cannot be reached."""
        place = Address("x509proxy-audit.invalid", 80, "x509proxy-audit.invalid")
        target = Target(self.target.address, self.target.fields, direct=place)
        for family in (socket.gaierror(socket.EAI_NONAME, "not known"), UnicodeError("idna")):
            self.patch(socket, "create_connection", _failing(family))
            with self.assertRaisesRegex(SettingsError, "x509proxy-audit.invalid: found no address"):
                self.faults("direct", Lab(target, Echoes(), self.store))

    def test_cut(self) -> None:
        """A back end that accepts a connection, and cuts it, can be reached."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            place = Address("127.0.0.1", server.getsockname()[1], "localhost")
            target = Target(self.target.address, self.target.fields, direct=place)
            self.patch(socket.socket, "sendall", _failing(ConnectionResetError()))
            (fault,) = self.faults("direct", Lab(target, Echoes(), self.store))
        self.assertIn("found the back end reachable", fault)

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
