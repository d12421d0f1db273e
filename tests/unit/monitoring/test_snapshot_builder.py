"""Tests of :mod:`x509proxy.monitoring.snapshot_builder`: a snapshot shows the parts' state."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError

import attrs
import msgspec
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.support import certificates as samples
from tests.support.exchanges import exchange, refused
from tests.support.identities import identity
from tests.support.memory import HEADER, RULES, BackEnd, RecordingHandler, RecordingWaiter
from x509proxy.config.loader import Configuration
from x509proxy.downstream.factory import ProxyFactory
from x509proxy.monitoring import snapshot_builder
from x509proxy.monitoring.counters import Counters
from x509proxy.monitoring.snapshot_builder import SnapshotBuilder, installed_version
from x509proxy.settings import (
    Backend,
    ClientAuth,
    ListenerSettings,
    ProxyProtocol,
    ProxySettings,
    UpstreamSettings,
)
from x509proxy.transport.deadlines import Deadlines
from x509proxy.upstream.pool import Pool


class Views(SynchronousTestCase):
    def setUp(self) -> None:
        listener = ListenerSettings(
            endpoint="tcp:443",
            client_certificate=ClientAuth.NONE,
            proxy_protocol=ProxyProtocol.REQUIRED,
        )
        settings = ProxySettings(listeners=(listener,), client_certificate=ClientAuth.REQUIRED)
        self.configuration = Configuration(settings, identity("localhost", "localhost"), (), RULES)
        self.clock = Clock()
        deadlines = Deadlines(self.clock)
        self.back_end = BackEnd(self.clock, at_once=False)
        self.pool = Pool(
            Backend.parse("http://127.0.0.1:8080"),
            self.back_end,
            deadlines,
            UpstreamSettings(max_connections=7),
        )
        self.factory = ProxyFactory(RecordingHandler(), deadlines)
        self.counters = Counters()
        self.now = 1000.0
        self.view = SnapshotBuilder(
            self.counters,
            lambda: self.configuration,
            lambda: [self.pool],
            self.factory,
            lambda: self.now,
        )

    def test_process(self) -> None:
        """When it was started and looked at, by which process, which version it is."""
        self.now = 1010.0
        found = self.view.snapshot()
        self.assertEqual(
            (1010.0, 1000.0, installed_version()), (found.taken, found.started, found.version)
        )
        [worker] = found.workers
        self.assertEqual(
            (os.getpid(), 1000.0, "serving"), (worker.pid, worker.started, worker.state)
        )

    def test_places(self) -> None:
        """Where it listens, and what is asked for there."""
        first, second = self.view.snapshot().listeners
        self.assertEqual(
            ("tcp:8443", "required", False), (first.endpoint, first.asks, first.proxy_protocol)
        )
        self.assertEqual(
            ("tcp:443", "none", True), (second.endpoint, second.asks, second.proxy_protocol)
        )

    def test_back_ends(self) -> None:
        """A pool's row, with its limits."""
        self.back_end.at_once = True
        [row] = self.view.snapshot().backends
        self.assertEqual(
            ("http://127.0.0.1:8080", "up", 7, 256),
            (row.url, row.state, row.connections, row.queue),
        )
        self.assertEqual(
            (0, 0, 0, 0, 0, 0.0),
            (row.busy, row.idle, row.opening, row.waiting, row.failures, row.checked),
        )

    def test_nobody_asks(self) -> None:
        """A back end that is down, without checks, is not ready before its retry-delay is over."""
        self.pool.acquire(RecordingWaiter())
        self.back_end.attempts[0].fail()
        self.assertFalse(self.view.snapshot().ready)
        self.clock.advance(UpstreamSettings().retry_delay)
        self.assertEqual(
            (True, "down"), (self.view.snapshot().ready, self.view.snapshot().backends[0].state)
        )

    def test_draining(self) -> None:
        """While it drains the snapshot shows that, and it is not ready."""
        self.assertTrue(self.view.snapshot().ready)
        self.factory.draining = True
        found = self.view.snapshot()
        self.assertEqual(
            (True, False, "draining"), (found.draining, found.ready, found.workers[0].state)
        )

    def test_counters(self) -> None:
        """The counts, the latest errors and clients, and the result of the last reload."""
        self.counters.exchange(exchange(certificate=samples.client()))
        self.counters.exchange(refused())
        self.counters.reloaded("broken")
        found = self.view.snapshot()
        self.assertEqual(
            (2, 1, 1, "broken"),
            (found.counts.total(), len(found.refusals), len(found.clients), found.reload.error),
        )
        self.assertEqual(2, found.workers[0].exchanges)
        self.counters.reloaded(note="key: restart needed")
        self.assertEqual("key: restart needed", self.view.snapshot().reload.note)

    def test_secrets(self) -> None:
        """The secret name does not come out of a target, a reason or a subject, in any spelling."""
        secret = HEADER.decode()
        certificate = attrs.evolve(samples.client(), subject=f"CN={secret.upper()}")
        self.counters.exchange(
            refused(
                target=f"/{secret.replace('-', '_')}",
                detail=f"about {secret}",
                certificate=certificate,
            )
        )
        found = msgspec.json.encode(self.view.snapshot()).lower().replace(b"_", b"-")
        self.assertNotIn(HEADER.lower(), found)
        self.assertIn(b"about sec-client-x509-cert-...", found)

    def test_parent(self) -> None:
        """A parent of workers has no connections, no back ends, and is no worker."""
        found = SnapshotBuilder(self.counters, lambda: self.configuration).snapshot()
        self.assertEqual(
            ((), (), 0, 0),
            (found.backends, found.workers, found.connections, found.most_connections),
        )


class Versions(SynchronousTestCase):
    def test_not_installed(self) -> None:
        """A tree that is not installed has no version."""

        def fail(_: str) -> str:
            raise PackageNotFoundError

        self.patch(snapshot_builder, "version_of", fail)
        self.assertEqual("unknown", installed_version())
