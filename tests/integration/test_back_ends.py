"""Promises about several back ends, over real sockets.

A fault of one back end affects no request but its own.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.protocols.tls import TLSMemoryBIOFactory

from tests.support.memory import RecordingWaiter
from tests.support.raw_tls import HEADER, ProxyTestCase, get, until
from x509proxy.certificates.pem_files import Identity
from x509proxy.certificates.self_signed import KeyKind, SelfSigned, make_self_signed
from x509proxy.monitoring.backend_status import HealthState
from x509proxy.settings import Backend, ClientAuth, HealthSettings, UpstreamSettings
from x509proxy.testing import RecordingBackEnd, client_identity, running_proxy
from x509proxy.transport.deadlines import Deadlines
from x509proxy.transport.tls_context import ServerConnections, make_context
from x509proxy.upstream.endpoints import PendingInput, backend_endpoint
from x509proxy.upstream.pool import Pool

_CLOCK: Any = reactor
QUICK = UpstreamSettings(
    response_timeout=0.5, failure_threshold=2, retry_delay=0.2, max_retry_delay=0.2, slow_start=0.1
)
CHECKS = HealthSettings(path="/health", interval=0.1, timeout=0.5, rise=1, fall=1)
BAD = b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"


def server(name: str) -> SelfSigned:
    return make_self_signed(KeyKind.EC, name, names=[name], server=True)


def context(made: SelfSigned) -> Any:
    return make_context(Identity(made.certificate, made.private_key), ClientAuth.NONE)


class SeveralTestCase(ProxyTestCase):
    """Two back ends: the first has the faults."""

    def arrange(
        self,
        odd: str,
        checks: HealthSettings | None = None,
        authority: SelfSigned | None = None,
        settings: UpstreamSettings = QUICK,
    ) -> None:
        """Start a proxy in front of ``odd`` and of a back end without faults."""
        self.well = RecordingBackEnd(reactor)
        self.addCleanup(self.well.stop)
        deadlines, trusted = Deadlines(_CLOCK, 0.05), [authority.certificate] if authority else None
        self.pools = []
        for url in (odd, f"http://127.0.0.1:{self.well.port}"):
            backend = Backend.parse(url)
            endpoint = backend_endpoint(reactor, backend, settings, trusted)
            self.pools.append(Pool(backend, endpoint, deadlines, settings, checks))
        self.proxy = running_proxy(
            reactor, self.well.port, header=HEADER, pools=self.pools, deadlines=deadlines
        )
        self.addCleanup(self.proxy.stop)
        self.addCleanup(self.proxy.resource.close)
        self.proxy.resource.start()

    def listen_tls(self, back_end: RecordingBackEnd, connections: ServerConnections) -> str:
        """Listen for the back end over TLS; return the URL."""
        over_tls = TLSMemoryBIOFactory(connections, isClient=False, wrappedFactory=back_end)
        listening = _CLOCK.listenTCP(0, over_tls, interface="127.0.0.1")
        self.addCleanup(listening.stopListening)
        return f"https://localhost:{listening.getHost().port}"

    @property
    def state(self) -> HealthState:
        """The state of the first back end."""
        return self.pools[0].status().state

    async def expect(self, *statuses: int) -> None:
        """Send requests one after the other; check that the responses have these statuses."""
        self.assertEqual(
            [*statuses], [(await self.ask(get(), client_identity())).status for _ in statuses]
        )

    def asked(self, back_end: RecordingBackEnd) -> int:
        """Return the number of requests that it received, without the checks."""
        return sum(not request.start.startswith(b"GET /health ") for request in back_end.requests)


class WithoutChecks(SeveralTestCase):
    """Without checks the exchanges alone show a back end's state."""

    async def test_refusing(self) -> None:
        """A back end whose port is closed costs no request, and has its share once it listens."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        self.arrange(f"http://127.0.0.1:{port}")
        await self.expect(*[200] * 6)
        self.assertEqual((HealthState.DOWN, 6), (self.state, self.asked(self.well)))
        late = RecordingBackEnd(reactor)
        self.addCleanup(late.stop)
        listening = _CLOCK.listenTCP(port, late, interface="127.0.0.1")
        self.addCleanup(listening.stopListening)
        await until(self.pools[0].record.due, pause=0.05)
        await self.expect(*[200] * 6)
        self.assertIn(self.state, (HealthState.SLOW, HealthState.UP))
        self.assertGreaterEqual(self.asked(late), 2)

    async def test_never_answering(self) -> None:
        """A back end that accepts and never responds costs ``failure-threshold`` requests.

        After these it costs one for each ``retry-delay``, if that is set.
        """
        with socket.create_server(("127.0.0.1", 0)) as mute:
            self.arrange(
                f"http://127.0.0.1:{mute.getsockname()[1]}",
                settings=UpstreamSettings(response_timeout=0.5, failure_threshold=2),
            )
            await self.expect(504, 200, 504, 200, 200, 200)
            self.assertEqual((HealthState.DOWN, 2), (self.state, self.pools[0].status().failures))

    async def test_long_turn(self) -> None:
        """A response that arrived in time is delivered, though it is read after the deadline.

        One turn of the proxy's reactor lasts longer than the deadline.
        """
        with socket.create_server(("127.0.0.1", 0)) as back_end:
            self.arrange(f"http://127.0.0.1:{back_end.getsockname()[1]}")
            busy = deferToThread(self.answer_once, back_end)
            await self.expect(200)
            await busy
            self.assertEqual((HealthState.UP, 0), (self.state, self.pools[0].status().failures))

    def answer_once(self, back_end: socket.socket) -> None:
        """Respond to one request during a reactor turn that outlasts the deadline."""
        connection, _ = back_end.accept()
        with connection:
            connection.recv(65536)
            begun, answered = threading.Event(), threading.Event()

            def long_turn() -> None:
                begun.set()
                answered.wait(10)
                end = time.monotonic() + 3 * QUICK.response_timeout
                while time.monotonic() < end:
                    pass

            _CLOCK.callFromThread(long_turn)
            begun.wait(10)
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
            )
            answered.set()

    async def test_closed_while_idle(self) -> None:
        """A connection that the back end closed while it was idle costs no request.

        No byte had been written to it.
        """
        odd = RecordingBackEnd(reactor)
        self.addCleanup(odd.stop)
        self.arrange(f"http://127.0.0.1:{odd.port}")
        await self.expect(200, 200)
        for number in range(3):
            for connection in tuple(odd.connections):
                connection.loseConnection()
            await self.expect(200, 200)
            self.assertEqual((number + 2, HealthState.UP), (odd.accepted, self.state))

    async def test_closed_and_not_yet_seen(self) -> None:
        """Nothing is written to a closed connection over TLS, though its end is not read yet."""
        made, odd = server("localhost"), RecordingBackEnd(reactor)
        self.addCleanup(odd.stop)
        self.arrange(self.listen_tls(odd, ServerConnections(context(made))), authority=made)
        await self.expect(200)
        (connection,) = self.pools[0]._idle
        connection.transport.transport.stopReading()
        (far,) = odd.connections
        far.loseConnection()
        await until(lambda: not PendingInput(connection.transport).is_empty())
        borrower = RecordingWaiter(RecordingWaiter.ask)
        self.pools[0].acquire(borrower)
        await until(lambda: borrower.told)
        self.assertEqual(
            ([200, b"ok", "end"], 2, 2), (borrower.told, len(odd.requests), odd.accepted)
        )
        connection.transport.transport.startReading()
        self.proxy.resource.close()
        await until(lambda: not self.pools[0].deadlines._waiters)


class WithChecks(SeveralTestCase):
    """With checks a back end's state is known before a request fails."""

    async def test_never_answering(self) -> None:
        """A back end that accepts and never responds costs no request after the first check."""
        with socket.create_server(("127.0.0.1", 0)) as mute:
            self.arrange(f"http://127.0.0.1:{mute.getsockname()[1]}", CHECKS)
            await until(lambda: self.state is HealthState.DOWN)
            await self.expect(*[200] * 4)
        self.assertEqual(0, self.pools[0].status().failures)

    async def test_answering_500(self) -> None:
        """A back end that responds to checks with 500 gets no request until a check succeeds.

        After the proxy has closed, it gets no more checks.
        """
        odd = RecordingBackEnd(reactor, *[BAD] * 3)
        self.addCleanup(odd.stop)
        self.arrange(f"http://127.0.0.1:{odd.port}", CHECKS)
        await until(lambda: self.state is HealthState.DOWN)
        await self.expect(200)
        self.assertEqual((0, 1), (self.asked(odd), self.asked(self.well)))
        await until(lambda: self.state is HealthState.UP, pause=0.05)
        await self.expect(200, 200)
        self.assertEqual((1, 2), (self.asked(odd), self.asked(self.well)))
        checks = [request for request in odd.requests if request.start.startswith(b"GET /health ")]
        self.assertEqual(
            [{b"host", b"user-agent", b"connection"}],
            [{name.lower() for name, _ in checks[0].pairs}],
        )
        self.proxy.resource.close()
        asked = len(odd.requests)
        await until(lambda: not any(pool._checks and pool._checks._call for pool in self.pools))
        self.assertEqual(asked, len(odd.requests))

    async def test_unix(self) -> None:
        """A back end behind a unix socket is checked and used like any other.

        A socket file without a listening process counts as down.
        """
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        path = str(Path(folder) / "s")
        odd = RecordingBackEnd(reactor)
        self.addCleanup(odd.stop)
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(path)
        self.arrange(f"unix:{path}", CHECKS)
        await until(lambda: self.state is HealthState.DOWN)
        await self.expect(200, 200)
        Path(path).unlink()
        listening = _CLOCK.listenUNIX(path, odd)
        self.addCleanup(listening.stopListening)
        await until(lambda: self.state is HealthState.UP, pause=0.05)
        await self.expect(200, 200)
        self.assertEqual((1, 3), (self.asked(odd), self.asked(self.well)))

    async def test_certificate_that_becomes_invalid(self) -> None:
        """A back end whose certificate becomes invalid is down, and receives no byte.

        It is up again once it has a valid one.
        """
        good, bad = server("localhost"), server("other.example")
        odd, connections = RecordingBackEnd(reactor), ServerConnections(context(good))
        self.addCleanup(odd.stop)
        self.arrange(self.listen_tls(odd, connections), CHECKS, good)
        await until(lambda: self.pools[0].status().last_check)
        await self.expect(200, 200)
        self.assertEqual((HealthState.UP, 1), (self.state, self.asked(odd)))
        connections.swap(context(bad))
        await until(lambda: self.state is HealthState.DOWN)
        received = len(odd.received)
        await self.expect(*[200] * 4)
        self.assertEqual((received, 5), (len(odd.received), self.asked(self.well)))
        connections.swap(context(good))
        await until(lambda: self.state is HealthState.UP, pause=0.05)
        await self.expect(200, 200)
        self.assertEqual((2, 6), (self.asked(odd), self.asked(self.well)))


class Why(SeveralTestCase):
    """The status page, like the log, reports the reason of a failed connection."""

    async def expect_reason(
        self, url: str, reason: str, authority: SelfSigned | None = None
    ) -> None:
        """Send two requests, which the other back end serves; check the reason."""
        self.arrange(url, authority=authority)
        await self.expect(200, 200)
        self.assertEqual(
            f"cannot connect to the back end: {reason}", self.pools[0].status().last_error
        )

    def over_tls(self, made: SelfSigned) -> str:
        """Start a back end with this certificate; return its URL."""
        odd = RecordingBackEnd(reactor)
        self.addCleanup(odd.stop)
        return self.listen_tls(odd, ServerConnections(context(made)))

    async def test_no_socket(self) -> None:
        """A unix socket that does not exist."""
        await self.expect_reason("unix:/nowhere/as.sock", "No such file or directory")

    async def test_no_tls(self) -> None:
        """A back end with plain HTTP where ``https`` is configured."""
        with socket.create_server(("127.0.0.1", 0)) as plain:
            answer = threading.Thread(target=self.answer_plainly, args=(plain,), daemon=True)
            answer.start()
            await self.expect_reason(
                f"https://localhost:{plain.getsockname()[1]}",
                "it does not use TLS",
                server("localhost"),
            )
        answer.join(5)

    @staticmethod
    def answer_plainly(plain: socket.socket) -> None:
        """Respond in plain HTTP to a TLS ClientHello."""
        far, _ = plain.accept()
        with far:
            far.recv(4096)
            far.sendall(BAD)

    async def test_other_name(self) -> None:
        """A back end whose certificate is another host's."""
        made = server("other.example")
        await self.expect_reason(self.over_tls(made), "its certificate is for another name", made)

    async def test_not_trusted(self) -> None:
        """A certificate of an authority that ``ca`` does not have, and an expired one."""
        reason = "its certificate is not valid now, or no authority in upstream.ca has issued it"
        await self.expect_reason(self.over_tls(server("localhost")), reason, server("localhost"))
        late = make_self_signed(
            KeyKind.EC, "localhost", server=True, now=datetime(2020, 1, 1, tzinfo=UTC)
        )
        await self.expect_reason(self.over_tls(late), reason, late)
