"""A proxy whose back end is the proxy itself."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from zope.interface import implementer

from tests.support.raw_tls import HEADER, ProxyTestCase, get
from x509proxy.http1.errors import Code
from x509proxy.settings import Backend, UpstreamSettings
from x509proxy.testing import RecordingBackEnd, running_proxy
from x509proxy.transport import own_connections
from x509proxy.transport.deadlines import Deadlines
from x509proxy.upstream.pool import Pool

_REACTOR: Any = reactor


@implementer(IStreamClientEndpoint)
class Itself:
    """The endpoint of a listener that is opened later."""

    port = 0

    def connect(self, factory: Any) -> Any:
        return TCP4ClientEndpoint(_REACTOR, "127.0.0.1", self.port).connect(factory)


class Loop(ProxyTestCase):
    def arrange(self) -> None:
        """Start a proxy with a listener without TLS, which is its own back end."""
        backend, deadlines = Backend.parse("http://127.0.0.1:1"), Deadlines(_REACTOR, 0.05)
        endpoint = Itself()
        pool = Pool(backend, endpoint, deadlines, UpstreamSettings())
        self.back_end = RecordingBackEnd(reactor)
        self.addCleanup(self.back_end.stop)
        self.proxy = running_proxy(
            reactor, self.back_end.port, header=HEADER, pools=[pool], deadlines=deadlines
        )
        self.addCleanup(self.proxy.stop)
        self.addCleanup(self.proxy.resource.close)
        listening = _REACTOR.listenTCP(0, self.proxy._tls._factory, interface="127.0.0.1")
        self.addCleanup(listening.stopListening)
        endpoint.port = listening.getHost().port

    async def test_itself(self) -> None:
        """The first request that returns gets 508, also on a connection that is used again."""
        self.arrange()
        for _ in range(2):
            reply = await self.ask(get())
            self.assertEqual((508, "server_error"), (reply.status, json.loads(reply.body)["error"]))
        codes = [exchange.code for exchange in self.proxy.exchanges]
        self.assertEqual([Code.LOOP, None] * 2, codes)

    async def test_other(self) -> None:
        """Requests of other clients are served while a connection to a back end is open."""
        self.start()
        for _ in range(2):
            self.assertEqual(200, (await self.ask(get())).status)
        self.assertTrue(own_connections._open)
