"""Tests of :mod:`x509proxy.service.server`: the parts of one process, made and replaced."""

from __future__ import annotations

import os
import socket
import ssl
import stat
from pathlib import Path
from typing import Any

import attrs
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import succeed
from twisted.internet.tcp import Port
from twisted.internet.threads import deferToThread
from twisted.logger import LogLevel, capturedLogs, eventAsText
from twisted.trial.unittest import SynchronousTestCase

from tests.support.certificates import Pair, pair
from tests.support.memory import GET, RequestTransport
from tests.support.parent_reactor import ParentReactor
from tests.support.pki import PkiTestCase
from tests.support.raw_tls import get, read_reply, until
from tests.support.services import ProxyFiles, parse_options
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.config.loader import Configuration, load_configuration, load_settings
from x509proxy.service import server
from x509proxy.service.access_log import LogFile
from x509proxy.service.listening import ListeningEndpoint
from x509proxy.service.server import ProxyServer
from x509proxy.settings import SettingsError


class Limits:
    """The module ``resource`` with these limits. ``refusal``: the error of a change."""

    RLIM_INFINITY = -1
    RLIMIT_NOFILE = 7

    def __init__(self, soft: int, hard: int, refusal: Exception | None = None) -> None:
        self.made: tuple[int, int] | None = None
        self._now = soft, hard
        self._refusal = refusal

    def getrlimit(self, _: int) -> tuple[int, int]:
        return self.made or self._now

    def setrlimit(self, _: int, limits: tuple[int, int]) -> None:
        if self._refusal is not None:
            raise self._refusal
        self.made = limits


class InMemory(SynchronousTestCase):
    def setUp(self) -> None:
        self.files = ProxyFiles(self.mktemp())
        self.reactor = ParentReactor()

    def configuration(self, *more: str) -> Configuration:
        configuration = parse_options(
            *self.files.arguments("--listen", "tcp:1", *more)
        ).configuration
        assert configuration is not None
        return configuration

    def test_whole_or_not_at_all(self) -> None:
        """A configuration that OpenSSL rejects, or any exception, changes nothing."""
        running = ProxyServer(self.configuration(), self.reactor)
        before = self.state(running)
        other = self.configuration(
            "--client-certificate", "required", "--backend", "http://127.0.0.1:10"
        )
        tampered = attrs.evolve(
            other.identity, private_key=make_self_signed(KeyKind.EC, "other").private_key
        )
        self.assertRaises(SettingsError, running.use, attrs.evolve(other, identity=tampered))
        self.assertEqual(before, self.state(running))
        self.assertRaises(AttributeError, running.use, attrs.evolve(other, backends=(None,)))  # type: ignore[arg-type]
        self.assertEqual(before, self.state(running))
        running.use(other)
        self.assertEqual(
            [True] * len(before),
            [one != other for one, other in zip(before, self.state(running), strict=True)],
        )

    def state(self, running: ProxyServer) -> list[Any]:
        resource = running.resource
        return [
            running.configuration,
            running.listeners[0].connections._context,
            resource._pools,
            resource._policy,
        ]

    def limits(self, soft: int, hard: int, refusal: Exception | None = None) -> Limits:
        limits = Limits(soft, hard, refusal)
        self.patch(server, "limits", limits)
        return limits

    def of_connections(self, number: int) -> Configuration:
        config = self.files.write(
            "connections.toml", f"client.max-connections = {number}\n".encode()
        )
        return self.configuration("--config", str(config))

    def test_file_limit(self) -> None:
        """The limit of open files is raised as far as needed and allowed, and never lowered."""
        for soft, hard, wanted in (
            (1024, 1048576, 8448),
            (1024, 4096, 4096),
            (65536, 1048576, None),
            (1024, Limits.RLIM_INFINITY, 8448),
            (Limits.RLIM_INFINITY, Limits.RLIM_INFINITY, None),
        ):
            for begin in (self.listen, self.adopt):
                limits = self.limits(soft, hard)
                begin(ProxyServer(self.configuration(), self.reactor))
                self.assertEqual(None if wanted is None else (wanted, hard), limits.made)

    def listen(self, running: ProxyServer) -> None:
        running.listen([ListeningEndpoint(self.reactor, "tcp:1", "listen")])

    def adopt(self, running: ProxyServer) -> None:
        running.adopt([(6, 2)])

    def test_file_limit_after_reload(self) -> None:
        """More connections by a reload raise the limit; fewer do not lower it."""
        limits = self.limits(1024, 1048576)
        running = ProxyServer(self.configuration(), self.reactor)
        self.adopt(running)
        for number in (8192, 100):
            running.use(self.of_connections(number))
            self.assertEqual((16640, 1048576), limits.made)

    def test_file_limit_refused(self) -> None:
        """A kernel that grants less than the hard limit is one line in the log, and no error."""
        for refusal in (
            ValueError("current limit exceeds maximum limit"),
            OSError(22, "Invalid argument"),
        ):
            limits = self.limits(256, Limits.RLIM_INFINITY, refusal)
            running = ProxyServer(self.configuration(), self.reactor)
            with capturedLogs() as events:
                self.adopt(running)
                running.use(self.of_connections(8192))
            [event] = [event for event in events if event["log_level"] is LogLevel.warn]
            sentence = (
                f"the limit of open files stays 256, client.max-connections needs 8448: {refusal}"
            )
            self.assertEqual(
                (sentence, None),
                (eventAsText(event, includeTimestamp=False, includeSystem=False), limits.made),
            )
            self.assertEqual(8192, running.configuration.settings.client.max_connections)

    def test_file_limit_too_low(self) -> None:
        """Too low a hard limit is one warning, with the number of connections that remain."""
        self.limits(512, 512)
        running = ProxyServer(self.configuration(), self.reactor)
        with capturedLogs() as events:
            self.adopt(running)
            running.use(self.of_connections(2048))
        [event] = [event for event in events if event["log_level"] is LogLevel.warn]
        sentence = (
            "the limit of open files is 512, client.max-connections needs 8448: "
            "at most 288 connections are accepted"
        )
        self.assertEqual(sentence, eventAsText(event, includeTimestamp=False, includeSystem=False))
        for number in range(300):
            protocol = running.factory.buildProtocol(None)
            self.assertEqual(number >= 288, protocol is None)
            if protocol is not None:
                RequestTransport(self.reactor).attach(protocol).deliver(GET)
        running.use(self.of_connections(100))
        self.assertEqual(288, running.factory.connections)

    def test_hardly_any_files(self) -> None:
        """However low it is, one connection is accepted."""
        self.limits(64, 64)
        running = ProxyServer(self.configuration(), self.reactor)
        self.adopt(running)
        self.assertIsNotNone(running.factory.buildProtocol(None))

    def test_one_at_a_time(self) -> None:
        """Of connections at a shared socket it accepts one at a time, for the others' sake."""
        running = ProxyServer(self.configuration(), self.reactor)
        running.adopt([(6, 2)])
        [port] = self.reactor.ports
        for _ in range(3):
            port.doRead()
        self.assertEqual([1, 1, 1], port.accepts)
        self.successResultOf(running.stop())

    def test_adopted(self) -> None:
        """At the end it stops reading at sockets that are not its own, and leaves them open."""
        running = ProxyServer(self.configuration(), self.reactor)
        running.adopt([(6, 2)])
        self.successResultOf(running.stop())
        self.assertEqual(
            [(False, True)], [(port.reading, port.listening) for port in self.reactor.ports]
        )

    def test_abandoned(self) -> None:
        """It shuts down sockets that its dead parent bound, once, and leaves those of systemd."""
        running = ProxyServer(
            self.configuration("--listen", "systemd:domain=INET:index=0"), self.reactor
        )
        running.adopt([(6, 2), (7, 2)])
        running.abandon_sockets()
        self.assertEqual(
            [(False, True), (False, False)],
            [(port.reading, port.shut_down) for port in self.reactor.ports],
        )
        running.abandon_sockets()
        self.successResultOf(running.stop())


class Parts(InMemory):
    def test_addresses(self) -> None:
        """Its addresses are those of the ports that it has bound, or that it was given."""
        running = ProxyServer(self.configuration(), self.reactor)
        self.assertEqual([], running.addresses)
        self.listen(running)
        self.assertEqual([1], running.addresses)
        self.successResultOf(running.stop())
        self.assertEqual([False], [port.listening for port in self.reactor.ports])

    def test_real_port(self) -> None:
        """A real port accepts the connections that wait, before it is closed."""
        read: list[Port] = []

        def append(port: Port) -> None:
            read.append(port)

        self.patch(Port, "doRead", append)
        self.patch(Port, "stopListening", lambda _: succeed(None))
        running = ProxyServer(self.configuration(), self.reactor)
        port = Port(0, running.factory, reactor=self.reactor)
        running._ports.append(port)
        self.successResultOf(running.stop())
        self.assertEqual([port], read)

    def test_accepts(self) -> None:
        """Of connections at a port of its own it accepts 16 in a turn, and Twisted up to 100."""
        accepts: list[int] = []
        self.patch(Port, "doRead", lambda port: accepts.append(port.numberAccepts))
        running = ProxyServer(self.configuration(), self.reactor)
        port = Port(0, running.factory, reactor=self.reactor)
        self.patch(ListeningEndpoint, "bind", lambda *_: port)
        self.listen(running)
        for _ in range(2):
            port.doRead()
        self.assertEqual([16, 16], accepts)

    def test_snapshot(self) -> None:
        """The snapshot names the listeners, and whether requests are served."""
        snapshot = ProxyServer(self.configuration(), self.reactor).snapshot()
        self.assertEqual(
            (["tcp:1"], True), ([x.endpoint for x in snapshot.listeners], snapshot.ready)
        )

    def test_reopen(self) -> None:
        """The access log goes on in a new file."""
        path = Path(self.mktemp()).absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        running = ProxyServer(self.configuration(), self.reactor, LogFile(str(path)))
        path.rename(f"{path}.1")
        self.assertFalse(path.exists())
        running.reopen_log()
        self.assertTrue(path.exists())
        self.successResultOf(running.stop())


class Adopting(PkiTestCase):
    async def test_unix(self) -> None:
        """It serves at a unix socket that it was given, and leaves its file and mode."""
        self.start()
        running = ProxyServer(
            load_configuration(load_settings(str(self.folder / "proxy.toml"))), reactor
        )
        path = Path("/tmp") / f"x509proxy-running-{os.getpid()}.sock"  # noqa: S108 - a longer name would be none of a socket
        self.addCleanup(path.unlink, missing_ok=True)
        with socket.socket(socket.AF_UNIX) as held:
            held.bind(str(path))
            path.chmod(0o640)
            held.listen()
            held.setblocking(False)
            running.adopt([(held.fileno(), socket.AF_UNIX)])

            def ask() -> int:
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.connect(str(path))
                    with self.context(pair()).wrap_socket(connection) as over:
                        over.sendall(get())
                        return read_reply(over).status

            self.assertEqual(401, await deferToThread(ask))
            await running.stop()
        self.assertEqual(stat.S_IFSOCK | 0o640, path.stat().st_mode)

    async def test_accept_queue(self) -> None:
        """At the end it accepts the whole queue, though connections came one by one before."""
        self.start()
        running = ProxyServer(self.service.reloading.configuration, reactor)
        running.listen([ListeningEndpoint(reactor, "tcp:0:interface=127.0.0.1")])
        [address] = running.addresses
        assert isinstance(address, IPv4Address)

        def connect() -> None:
            client = socket.create_connection((address.host, address.port), 10)
            self.addCleanup(client.close)
            # The kernel keeps a connection back until its first octet.
            client.sendall(b"\x16")

        connect()
        await until(lambda: running.factory.connections == 1)
        for _ in range(30):
            connect()
        stopped = running.stop()
        self.assertEqual(31, running.factory.connections)
        await stopped

    def context(self, client: Pair) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.write("client.pem", client.pem)
        context.load_cert_chain(self.folder / "client.pem")
        return context
