"""Tests of :mod:`x509proxy.service.listening`: errors before a port is bound, and backlogs."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import tempfile
from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor
from twisted.internet.address import HostnameAddress, IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.python.lockfile import FilesystemLock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.support.names import NAME
from tests.support.raw_tls import until
from x509proxy.downstream.factory import NamedFactory
from x509proxy.service.listening import (
    ListenError,
    ListeningEndpoint,
    check_free,
    check_kinds,
    url_of,
)
from x509proxy.settings import AdminSettings, ListenerSettings, ProxySettings, SettingsError


class Addresses(SynchronousTestCase):
    def test_urls(self) -> None:
        """Each kind of address is written as a URL that clients accept."""
        for address, expected in (
            (IPv4Address("TCP", "0.0.0.0", 443), "https://0.0.0.0:443"),  # noqa: S104 - as text
            (IPv6Address("TCP", "::", 443), "https://[::]:443"),
            (UNIXAddress(b"/run/a"), "https+unix:/run/a"),
            (HostnameAddress(b"a", 1), str(HostnameAddress(b"a", 1))),
        ):
            self.assertEqual(expected, url_of(address))


class Kinds(SynchronousTestCase):
    def refusal(self, settings: ProxySettings) -> str:
        """Return the error of a check that binds no port."""
        return str(self.assertRaises(SettingsError, check_kinds, settings))

    def test_known(self) -> None:
        """Endpoint types of Twisted and of its plug-ins are accepted."""
        listeners = (
            ListenerSettings(endpoint="haproxy:tcp:1"),
            ListenerSettings(endpoint="systemd:domain=INET:index=0"),
        )
        admin = AdminSettings(listen="unix:/a")
        check_kinds(
            ProxySettings(listen=("tcp:8443", "tcp6:8444"), listeners=listeners, admin=admin)
        )

    def test_unknown(self) -> None:
        """Any other type is rejected in one sentence with its key, at the start too."""
        sentence = self.refusal(ProxySettings(listen=("tcp:1", "tpc:2")))
        self.assertTrue(
            sentence.startswith(
                "listen: found 'tpc:2', an unknown endpoint type, expected tcp:8443, "
            ),
            sentence,
        )
        start = self.assertRaises(SettingsError, ListeningEndpoint, MemoryReactorClock(), "tpc:2")
        self.assertEqual(sentence, str(start))

    def test_no_type(self) -> None:
        """A string without a type is reported once, by another check."""
        check_kinds(ProxySettings(listen=("127.0.0.1:8443",)))

    def test_silent(self) -> None:
        """No error repeats a secret name that was pasted into an endpoint."""
        self.assertNotIn(NAME, self.refusal(ProxySettings(listen=(f"nothing:{NAME}",))))
        for description in (
            NAME,
            f"tcp:1:interface={NAME}:{NAME}:{NAME}",
            f"systemd:domain=INET:name={NAME}",
        ):
            start = self.assertRaises(
                SettingsError, ListeningEndpoint, MemoryReactorClock(), description
            )
            self.assertNotIn(NAME, str(start))
            self.assertIn("…", str(start))


class Passed(SynchronousTestCase):
    def refusal(self, names: dict[str, str]) -> str:
        self.patch(os, "environ", names)
        description = "systemd:domain=INET:name=https"
        error = self.assertRaises(
            SettingsError, ListeningEndpoint, MemoryReactorClock(), description
        )
        return str(error)

    def test_none(self) -> None:
        """If systemd has passed no socket, the sentence has the commands that start one."""
        self.assertIn("(systemctl start x509proxy.socket, then ", self.refusal({}))

    def test_others(self) -> None:
        """If systemd has passed others, the sentence has their names."""
        self.assertIn("expected one of ['a', 'b']", self.refusal({"LISTEN_FDNAMES": "a:b"}))


class Backlogs(SynchronousTestCase):
    """The length of the accept queue. With 50, as in Twisted, clients in a burst repeat SYNs."""

    def backlogs(self, description: str) -> list[int]:
        """Return the backlogs of all ports, after this endpoint was bound."""
        reactor = MemoryReactorClock()
        ListeningEndpoint(reactor, description).bind(NamedFactory())
        return [server[2] for server in (*reactor.tcpServers, *reactor.unixServers)]

    def test_default(self) -> None:
        """The default is 4096, for each kind of socket that the endpoint creates."""
        for description in (
            "tcp:1",
            "tcp:1:127.0.0.1",
            r"tcp6:1:interface=\:\:1",
            "unix:/a:mode=600",
        ):
            self.assertEqual([4096], self.backlogs(description), description)

    def test_named(self) -> None:
        """An endpoint's own backlog is used, given by name or by position."""
        for description in ("tcp:1:backlog=7", "tcp:1:127.0.0.1:7", "unix:/a:600:7"):
            self.assertEqual([7], self.backlogs(description), description)


class Deferring(TestCase):
    async def test_reset(self) -> None:
        """A connection that is reset before its first octet does not reach the proxy."""
        accepted: list[Any] = []

        class Recording(NamedFactory):
            def buildProtocol(self, addr: IAddress | None) -> Protocol:
                accepted.append(addr)
                return Protocol()

        port = ListeningEndpoint(reactor, "tcp:0:interface=127.0.0.1").bind(Recording())
        self.addCleanup(port.stopListening)
        address = ("127.0.0.1", cast(IPv4Address, port.getHost()).port)
        for _ in range(3):
            with socket.create_connection(address, 10) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with socket.create_connection(address, 10) as client:
            client.sendall(b"\x16")
            await until(lambda: len(accepted) > 0)
            ours = client.getsockname()[1]
        self.assertEqual([ours], [one.port for one in accepted])


class Free(SynchronousTestCase):
    def settings(self, *listen: str, admin: str = "") -> ProxySettings:
        return ProxySettings(listen=listen, admin=AdminSettings(listen=admin) if admin else None)

    def refusal(self, settings: ProxySettings) -> str:
        return str(self.assertRaises(ListenError, check_free, settings))

    def test_free(self) -> None:
        """Free addresses stay free; kinds of endpoint that only Twisted has are not checked."""
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        for _ in range(2):
            check_free(
                self.settings(
                    "tcp:0", r"tcp6:0:interface=\:\:1", r"tcp:0:interface=\:\:1", "systemd:INET:0",
                    f"unix:{folder}/a", f"unix:{folder}/b:lockfile=0", "haproxy:tcp:0",
                )
            )  # fmt: skip
        self.assertEqual([], list(Path(folder).iterdir()))

    def test_taken(self) -> None:
        """An address in use is reported with its key."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            place = f"tcp:{other.getsockname()[1]}:interface=127.0.0.1"
            taken = "Address already in use"
            self.assertEqual(f"listen: {place}: {taken}", self.refusal(self.settings(place)))
            settings = self.settings("tcp:0", admin=place)
            self.assertEqual(f"admin.listen: {place}: {taken}", self.refusal(settings))
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        lock = FilesystemLock(f"{folder}/a.lock")
        self.assertTrue(lock.lock())
        place = f"unix:{folder}/a"
        self.assertEqual(f"listen: {place}: {taken}", self.refusal(self.settings(place)))

    def test_nowhere(self) -> None:
        """An address that this host lacks, and a missing folder, are reported."""
        self.assertIn(
            "Cannot assign requested address",
            self.refusal(self.settings("tcp:0:interface=192.0.2.1")),
        )
        self.assertIn("No such file", self.refusal(self.settings("unix:/nowhere/a")))


class Binding(SynchronousTestCase):
    def bind(self, error: Exception) -> str:
        """Bind where the reactor raises this error; return the sentence."""
        reactor = MemoryReactorClock()

        def fail(*_: object, **__: object) -> None:
            raise error

        self.patch(reactor, "listenTCP", fail)
        endpoint = ListeningEndpoint(reactor, "tcp:1", "listen")
        return str(self.assertRaises(ListenError, endpoint.bind, NamedFactory()))

    def test_reasons(self) -> None:
        """The sentence has the reason of the operating system, or of a unix socket's lock."""
        taken = OSError(98, "Address already in use")
        for error, reason in (
            (CannotListenError("", 1, taken), "Address already in use"),
            (CannotListenError("", 1, "Cannot acquire lock"), "Cannot acquire lock"),
            (OSError(13, "Permission denied"), "Permission denied"),
            (ValueError("another"), "another"),
        ):
            self.assertEqual(f"listen: tcp:1: {reason}", self.bind(error))

    def test_later(self) -> None:
        """An endpoint that has no result yet is an error; a port that it opens later is closed."""
        reactor = MemoryReactorClock()
        endpoint = ListeningEndpoint(reactor, "tcp:1")
        listening: Deferred[Any] = Deferred()
        self.patch(endpoint, "_endpoint", _Slow(listening))
        sentence = str(self.assertRaises(ListenError, endpoint.bind, NamedFactory()))
        found = "found an endpoint that listens later, expected one that listens at once"
        self.assertEqual(f"listen: tcp:1: {found}", sentence)
        port = reactor.listenTCP(1, NamedFactory())
        stopped: list[None] = []
        self.patch(port, "stopListening", lambda: stopped.append(None))
        listening.callback(port)
        self.assertEqual(1, len(stopped))


class _Slow:
    """An endpoint that listens in a later turn of the reactor, as third parties' may."""

    def __init__(self, listening: Deferred[Any]) -> None:
        self._listening = listening

    def listen(self, _: Any) -> Deferred[Any]:
        return self._listening
