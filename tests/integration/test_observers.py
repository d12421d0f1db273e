"""Promises of the observers of streams, factory and service (``x509proxy.monitoring.counters``)."""

from __future__ import annotations

import signal
from typing import Any

import msgspec
from OpenSSL import SSL
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.memory import RequestTransport
from tests.support.parent_reactor import ParentReactor
from tests.support.services import ProxyFiles, parse_options
from tests.support.tls_streams import StreamTestCase
from x509proxy.monitoring.counters import Counters
from x509proxy.service.ipc import (
    Frames,
    NewConfiguration,
    Task,
    decode_worker_message,
    encode_parent_message,
)
from x509proxy.service.proxy_service import ProxyService
from x509proxy.service.server import ProxyServer
from x509proxy.service.supervisor import WorkerSupervisor
from x509proxy.service.worker import Worker


class Handshakes(StreamTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.counters = Counters()
        self.factory._connections.watch = self.counters

    def failures(self) -> dict[str, int]:
        """Return the failures that are counted once the connection has ended."""
        self.wire.lose()
        counts = self.counters.counts()
        self.assertEqual({}, counts.handshakes)
        return counts.handshake_failures

    def test_done(self) -> None:
        """A handshake counts once, by its version; its connection's end is no failure."""
        self.shake()
        self.wire.lose()
        counts = self.counters.counts()
        self.assertEqual(({"TLSv1.3": 1}, {}), (counts.handshakes, counts.handshake_failures))

    def test_not_tls(self) -> None:
        """Bytes that are not TLS are a failure of that kind, once."""
        self.wire.deliver(b"GET / HTTP/1.1\r\n\r\n", b"more")
        self.assertEqual({"not_tls": 1}, self.failures())

    def test_silent(self) -> None:
        """A connection that ends without a byte is a probe of the port."""
        self.assertEqual({"no_client_hello": 1}, self.failures())

    def test_left(self) -> None:
        """A connection that ends within the handshake is a failure of the kind ``client_left``."""
        with self.assertRaises(SSL.WantReadError):
            self.client.do_handshake()
        self.wire.deliver(self.take())
        self.assertEqual({"client_left": 1}, self.failures())

    def test_cut(self) -> None:
        """A handshake that the proxy ends at its deadline is a ``timeout``."""
        self.stream.abortConnection()
        self.assertEqual({"timeout": 1}, self.failures())

    def test_refused_by_client(self) -> None:
        """A client that rejects the server's certificate is counted by its alert."""
        self.client.set_verify(SSL.VERIFY_PEER, lambda *_: False)
        with self.assertRaises(SSL.Error):
            self.exchange()
        self.wire.deliver(self.take())
        found = self.counters.counts()
        # In TLS 1.3 the server's handshake is not complete when the client's alert arrives.
        self.assertEqual(({}, {"client_alert": 1}), (found.handshakes, self.failures()))

    def test_fault(self) -> None:
        """An exception in the proxy is an ``internal_error``."""

        def fail() -> None:
            raise RuntimeError("a callback's fault")

        self.patch(self.stream._tls, "do_handshake", fail)
        self.wire.deliver(b"anything")
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))
        self.assertEqual({"internal_error": 1}, self.failures())


class OldHandshakes(StreamTestCase):
    VERSION = SSL.TLS1_2_VERSION

    def test_version(self) -> None:
        """Handshakes of TLS 1.2 are counted separately."""
        counters = self.factory._connections.watch = Counters()
        self.shake()
        self.assertEqual({"TLSv1.2": 1}, counters.counts().handshakes)


class Wired(SynchronousTestCase):
    """With ``[admin]`` events are counted; without, they are not."""

    def setUp(self) -> None:
        self.files = ProxyFiles(self.mktemp())
        self.reactor = ParentReactor()
        for number in (signal.SIGHUP, signal.SIGUSR1):
            self.addCleanup(signal.signal, number, signal.getsignal(number))

    def service(
        self, more: str = "", admin: str = '[admin]\nlisten = "tcp:9443:interface=127.0.0.1"'
    ) -> ProxyService:
        text = f"""
            listen = "tcp:1"
            certificate = "server.pem"
            private-key = "server.key"
            header-file = "header.txt"
            backend = "http://127.0.0.1:9"
            {more}
            {admin}
        """
        options = parse_options("--config", str(self.files.write("proxy.toml", text.encode())))
        assert options.configuration is not None
        return ProxyService(options.configuration, self.reactor)

    def test_one_process(self) -> None:
        """The counts of a process that serves are those of its admin listener.

        It listens last, and ends last.
        """
        service = self.service()
        service.startService()
        self.assertEqual([1, 9443], [port.number for port in self.reactor.ports])
        running = service.serving
        assert isinstance(running, ProxyServer)
        self.assertIs(running.counters, running.listeners[0].connections.watch)
        running.listeners[0].connections.watch.handshake_succeeded(0x0304, "X25519MLKEM768")
        service.reload()
        found = running.snapshot()
        self.assertEqual(
            ({"TLSv1.3": 1}, {"success": 1, "failure": 0}),
            (found.counts.handshakes, found.counts.reloads),
        )
        self.successResultOf(service.stopService())
        self.assertEqual([False, False], [port.listening for port in self.reactor.ports])

    def test_broken_reload(self) -> None:
        """A failed reload is shown with its error."""
        service = self.service()
        self.files.write("server.pem", b"broken")
        service.reload()
        self.assertIn("server.pem", service.serving.snapshot().reload.error)

    def test_without(self) -> None:
        """Without ``[admin]`` nothing is counted, and there is no listener."""
        service = self.service(admin="")
        service.startService()
        running = service.serving
        assert isinstance(running, ProxyServer)
        running.listeners[0].connections.watch.handshake_succeeded(0x0304, "X25519MLKEM768")
        self.assertEqual(({}, 1), (running.snapshot().counts.handshakes, len(self.reactor.ports)))
        self.successResultOf(service.stopService())

    def worker(self, service: ProxyService) -> tuple[Worker, RequestTransport]:
        worker = Worker(self.reactor)
        pipe = RequestTransport(Clock())
        pipe.attach(worker)
        configuration = NewConfiguration.of(service.reloading.configuration)
        pipe.deliver(encode_parent_message(Task(configuration, ((7, 2),))))
        return worker, pipe

    def said(self, pipe: RequestTransport) -> list[dict[str, Any]]:
        return [msgspec.json.decode(content) for content in Frames().feed(pipe.sent())]

    def test_workers(self) -> None:
        """A worker reports each second; its parent shows what all of them have reported."""
        service = self.service("workers = 2")
        supervisor = service.serving
        assert isinstance(supervisor, WorkerSupervisor)
        worker, pipe = self.worker(service)
        assert worker.running is not None
        worker.running.counters.handshake_succeeded(0x0304, "X25519MLKEM768")
        self.reactor.advance(1.0)
        serving, *reports = self.said(pipe)
        self.assertEqual(
            ("serving", ["snapshot", "snapshot"]),
            (serving["kind"], [report["kind"] for report in reports]),
        )
        supervisor.on_message(1, decode_worker_message(msgspec.json.encode(reports[-1])))
        found = supervisor.snapshot()
        self.assertEqual(
            ({"TLSv1.3": 1}, True, 1), (found.counts.handshakes, found.ready, len(found.workers))
        )

    def test_silent_workers(self) -> None:
        """Without an admin listener, workers send signs of life and no snapshots."""
        _, pipe = self.worker(self.service("workers = 2", admin=""))
        self.reactor.advance(1.0)
        self.assertEqual(["serving", "alive"], [message["kind"] for message in self.said(pipe)])

    def test_rubbish(self) -> None:
        """A report that is none is what the parent ends a worker for: a ValueError."""
        content = b'{"kind":"snapshot","snapshot":{"taken":"now"}}'
        self.assertRaises(ValueError, decode_worker_message, content)
        self.assertTrue(issubclass(msgspec.ValidationError, ValueError))
