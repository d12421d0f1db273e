"""Tests of :mod:`x509proxy.downstream.factory`."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.memory import RecordingHandler, RequestTransport
from tests.support.tls_streams import StreamTestCase
from x509proxy.downstream.factory import ProxyFactory, TlsFactory
from x509proxy.monitoring.counters import Counters
from x509proxy.settings import ClientSettings
from x509proxy.transport.deadlines import Deadlines
from x509proxy.transport.tls_stream import TlsStream


class Limits(SynchronousTestCase):
    def connect(self, settings: ClientSettings, times: int = 2) -> dict[str, int]:
        clock, counters = Clock(), Counters()
        factory = ProxyFactory(RecordingHandler(), Deadlines(clock), settings, counters)
        for _ in range(times):
            self.addCleanup(RequestTransport(clock).attach(factory.buildProtocol(None)).lose)
        self.assertEqual(1, factory.connections)
        self.factory = factory
        return counters.counts().limits

    def test_each(self) -> None:
        """A connection that is not taken counts by the setting that says so."""
        for settings, limit in (
            (ClientSettings(max_connections=1), "client.max-connections"),
            (ClientSettings(max_connections_per_address=1), "client.max-connections-per-address"),
            (ClientSettings(handshake_rate_per_address=0.5), "client.handshake-rate-per-address"),
        ):
            self.assertEqual({limit: 1}, self.connect(settings))

    def test_draining(self) -> None:
        """While the proxy drains no limit is met."""
        counts = self.connect(ClientSettings(), 1)
        self.factory.draining = True
        wire = RequestTransport(Clock()).attach(self.factory.buildProtocol(None))
        self.assertEqual((True, {}), (wire.aborted, counts))


class OverTls(StreamTestCase):
    def test_limit_is_no_failure(self) -> None:
        """A connection that is not taken is not counted among the handshakes that failed."""
        counters = Counters()
        owner = ProxyFactory(
            RecordingHandler(), Deadlines(Clock()), ClientSettings(max_connections=1), counters
        )
        self.connect(owner)
        self.factory._connections.watch = counters
        second: Any = TlsFactory(self.factory._connections, owner, Clock()).buildProtocol(None)
        assert isinstance(second, TlsStream)
        RequestTransport(Clock()).attach(second).lose()
        self.assertEqual(
            ({"client.max-connections": 1}, {}),
            (counters.counts().limits, counters.counts().handshake_failures),
        )
        self.wire.lose()
