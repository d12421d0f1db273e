"""Tests of :mod:`x509proxy.service.admin` and its settings."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
from typing import Any

import msgspec
from twisted.internet import reactor
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.support.memory import RequestTransport
from tests.support.names import NAME
from tests.support.raw_tls import Reply, get, read_reply, read_to_end
from tests.support.snapshots import DOWN, snapshot
from x509proxy.config.endpoint_strings import check_endpoints
from x509proxy.monitoring.snapshot import Snapshot
from x509proxy.service.admin import Admin
from x509proxy.settings import AdminSettings, ProxySettings, SettingsError

LOCAL = "tcp:0:interface=127.0.0.1"


class Looked:
    """A proxy that can be looked at. ``now``: the time of the next snapshot."""

    def __init__(self) -> None:
        self.state = snapshot()
        self.now = 100.0
        self.broken = False

    def snapshot(self) -> Snapshot:
        if self.broken:
            raise RuntimeError("broken")
        return msgspec.structs.replace(self.state, taken=self.now)


class Places(SynchronousTestCase):
    def check(self, listen: str, allow_remote: bool = False) -> None:
        admin = AdminSettings(listen=listen, allow_remote=allow_remote)
        check_endpoints(ProxySettings(admin=admin))

    def test_local(self) -> None:
        """A unix socket, and TCP on the loopback, need no permission."""
        for listen in (
            "unix:/run/a.sock",
            LOCAL,
            r"tcp6:9443:interface=\:\:1",
            "tcp:port=9443:interface=127.0.0.2",
            "tcp:9443:127.0.0.1",
        ):
            self.check(listen)

    def test_open(self) -> None:
        """Any other needs ``allow-remote``: no interface, another one, an opaque endpoint."""
        for listen in (
            "tcp:9443",
            "tcp:9443:interface=0.0.0.0",
            "tcp:9443:interface=localhost",
            "systemd:domain=INET:index=0",
        ):
            error = self.assertRaises(SettingsError, self.check, listen)
            self.assertTrue(
                str(error).startswith(f"admin.listen: found {listen!r} that other hosts can reach"),
                error,
            )
            self.check(listen, allow_remote=True)

    def test_malformed(self) -> None:
        """A malformed endpoint is rejected whatever is allowed."""
        for listen in (
            "",
            r"tcp:9443\:interface=127.0.0.1",
            "tcp:9443:interface=127.0.0.1:interface=10.0.0.1",
        ):
            for allowed in (True, False):
                self.assertRaises(SettingsError, self.check, listen, allowed)

    def test_tls(self) -> None:
        """The listener has no certificate, so an endpoint with TLS is rejected."""
        for listen in ("ssl:9443", r"x509:tcp\:1"):
            error = str(self.assertRaises(SettingsError, self.check, listen, True))
            self.assertIn(
                f"admin.listen: found {listen!r} with TLS, expected one without: tcp", error
            )

    def test_silent(self) -> None:
        """A secret name that was pasted where the endpoint belongs is not repeated."""
        found = str(self.assertRaises(SettingsError, self.check, f"tcp:1:interface={NAME}"))
        self.assertTrue(found.startswith("admin.listen: found 'tcp:1:interface=…'"), found)

    def test_hosts(self) -> None:
        """A name is written in lower case and without a port."""
        self.assertEqual(
            ("status.example",),
            AdminSettings(listen=LOCAL, allowed_hosts=("status.example",)).allowed_hosts,
        )
        for name in ("Status.example", "a:9443", "", "status.example.", "*.example"):
            self.assertIn(
                "allowed-hosts: found",
                str(
                    self.assertRaises(
                        SettingsError, AdminSettings, listen=LOCAL, allowed_hosts=(name,)
                    )
                ),
            )


class Answers(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.looked = Looked()
        self.admin = Admin(
            AdminSettings(listen=LOCAL, allowed_hosts=("status.example",)), self.looked, self.clock
        )

    def ask(self, *lines: str) -> Reply:
        """Return the response to a request, on a connection in memory."""
        wire = RequestTransport(self.clock).attach(self.admin._factory.buildProtocol(None))
        wire.deliver("\r\n".join([*lines, "", ""]).encode())
        near, far = socket.socketpair()
        with near, far:
            near.sendall(wire.sent())
            near.shutdown(socket.SHUT_WR)
            return read_reply(far, lines[0].split()[0])

    def page(self, target: str, host: str = "localhost:9443", method: str = "GET") -> Reply:
        return self.ask(f"{method} {target} HTTP/1.1", f"Host: {host}")

    def test_page(self) -> None:
        """The status page, which no cache keeps and in which nothing else can run."""
        found = self.page("/")
        self.assertEqual(
            (200, ["text/html; charset=utf-8"]), (found.status, found.get("Content-Type"))
        )
        self.assertIn(b"<h1>x509proxy</h1>", found.body)
        self.assertEqual(
            (["no-store"], ["nosniff"]),
            (found.get("Cache-Control"), found.get("X-Content-Type-Options")),
        )
        self.assertIn("default-src 'none'", found.get("Content-Security-Policy")[0])

    def test_json(self) -> None:
        """The same as JSON; a query is no other path."""
        found = self.page("/status.json?x=1")
        self.assertEqual(
            (["application/json"], True),
            (found.get("Content-Type"), json.loads(found.body)["ready"]),
        )

    def test_metrics(self) -> None:
        """Prometheus' format; without prometheus-client a sentence about it."""
        found = self.page("/metrics")
        self.assertEqual(200, found.status)
        self.assertIn(b"x509proxy_ready 1.0", found.body)
        modules: Any = sys.modules
        self.addCleanup(modules.update, {"prometheus_client": modules["prometheus_client"]})
        modules["prometheus_client"] = None
        found = self.page("/metrics")
        self.assertEqual(501, found.status)
        self.assertIn(b"pip install prometheus-client", found.body)
        self.assertEqual(200, self.page("/").status)

    def test_health(self) -> None:
        """The process lives, whatever becomes of the rest; it is ready while it can serve."""
        for state, ready, text in (
            (snapshot(), 200, b"ready\n"),
            (snapshot(backends=(DOWN,)), 503, b"no back end is up\n"),
            (snapshot(draining=True), 503, b"draining\n"),
        ):
            self.looked.state = state
            found = self.page("/readyz")
            self.assertEqual(
                (ready, text, 200), (found.status, found.body, self.page("/healthz").status)
            )

    def test_nothing(self) -> None:
        """There is nothing else."""
        for target in ("/status", "/metrics/", "/a/../etc/passwd", "//"):
            self.assertEqual(404, self.page(target).status)

    def test_head(self) -> None:
        """HEAD has the length that GET would have, and no body."""
        found = self.page("/healthz", method="HEAD")
        self.assertEqual((200, ["3"], b""), (found.status, found.get("Content-Length"), found.body))

    def test_methods(self) -> None:
        """No other method, and no body."""
        self.assertEqual(
            [405, 405, 405],
            [self.page("/", method=method).status for method in ("DELETE", "OPTIONS", "POST")],
        )
        self.assertEqual(
            413, self.ask("POST / HTTP/1.1", "Host: localhost", "Content-Length: 2").status
        )

    def test_rebinding(self) -> None:
        """A foreign host name is rejected, so that no foreign page's name can lead here."""
        for host in (
            "evil.example",
            "evil.example:9443",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "[evil]",
            "STATUS.evil",
        ):
            found = self.page("/status.json", host)
            self.assertIn(found.status, (400, 421), host)
            self.assertNotIn(b"ready", found.body)

    def test_ours(self) -> None:
        """Ours are ``localhost``, those of ``hosts``, and addresses, which lead nowhere else."""
        for host in (
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1:9443",
            "10.1.2.3",
            "[::1]:9443",
            "[2001:db8::1]",
            "status.example:80",
            "status.example.",
        ):
            self.assertEqual(200, self.page("/", host).status, host)

    def test_no_host(self) -> None:
        """A request without a host, as HAProxy's in HTTP/1.0, is served: no browser sends one."""
        self.assertEqual(200, self.ask("GET /readyz HTTP/1.0").status)

    def test_broken(self) -> None:
        """An exception is a response, and the next request is served."""
        self.looked.broken = True
        self.assertEqual(502, self.page("/").status)
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))
        self.looked.broken = False
        self.assertEqual(200, self.page("/").status)

    def test_crowd(self) -> None:
        """With many idle local connections the next one is served: the oldest makes room."""
        wires = []
        for number in range(200):
            wire = RequestTransport(self.clock).attach(self.admin._factory.buildProtocol(None))
            wire.deliver(b"GET / HT" if number % 2 else b"")
            wires.append(wire)
        self.assertEqual(200, self.page("/readyz").status)
        self.clock.advance(0)
        self.assertEqual([True] * 137 + [False] * 63, [wire.gone for wire in wires])

    def test_bounds(self) -> None:
        """A long head, and a head that does not come, end the connection."""
        self.assertEqual(
            431, self.ask("GET / HTTP/1.1", "Host: localhost", "X: " + "x" * 5000).status
        )
        wire = RequestTransport(self.clock).attach(self.admin._factory.buildProtocol(None))
        wire.deliver(b"GET / HT")
        self.clock.pump([0.25] * 24)
        self.assertIn(b" 408 ", wire.sent())


class Listening(TestCase):
    timeout = 20

    def start(self, listen: str = LOCAL) -> None:
        self.looked = Looked()
        self.admin = Admin(AdminSettings(listen=listen), self.looked, reactor)
        self.admin.listen()
        self.addCleanup(self.admin.stop)

    async def test_tcp(self) -> None:
        """A real client is served, and none after the end."""
        self.start()
        port = self.admin.address.port

        def ask() -> bytes:
            with socket.create_connection(("127.0.0.1", port), 10) as connection:
                connection.sendall(get("/healthz"))
                return read_to_end(connection)

        self.assertTrue((await deferToThread(ask)).endswith(b"\r\n\r\nok\n"))
        await self.admin.stop()
        await self.assertFailure(deferToThread(ask), ConnectionRefusedError)

    async def test_unix(self) -> None:
        """A unix socket is its owner's alone."""
        path = os.path.abspath(self.mktemp())  # noqa: PTH100 - a name for Twisted
        self.start(f"unix:{path}")
        self.assertEqual(0o600, stat.S_IMODE(os.stat(path).st_mode))  # noqa: PTH116

        def ask() -> bytes:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(path)
                connection.sendall(get("/readyz"))
                return read_to_end(connection)

        self.assertIn(b"200 OK", await deferToThread(ask))

    def test_taken(self) -> None:
        """A port that is taken is one sentence."""
        self.start()
        other = Admin(
            AdminSettings(listen=f"tcp:{self.admin.address.port}:interface=127.0.0.1"),
            self.looked,
            reactor,
        )
        self.assertIn("Address already in use", str(self.assertRaises(SettingsError, other.listen)))
        sys.excepthook = sys.__excepthook__

    def test_stop(self) -> None:
        """Stopping what does not listen is nothing."""
        looked = Admin(AdminSettings(listen=LOCAL), Looked(), reactor)
        self.assertIsNone(self.successResultOf(looked.stop()))


class Looks(SynchronousTestCase):
    def test_history(self) -> None:
        """Every two seconds the source is looked at; one that fails is looked at again."""
        clock, looked = Clock(), Looked()
        admin = Admin(AdminSettings(listen=LOCAL), looked, clock)
        for second in range(100, 110, 2):
            looked.now, looked.broken = float(second), second == 104
            admin._sample()
        self.assertEqual([102.0, 106.0, 108.0], [sample.at for sample in admin.history.samples])
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))
