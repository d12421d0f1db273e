"""Tests of :mod:`x509proxy.upstream.name_resolver`: shared lookups in daemon threads."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IHostnameResolver, IHostResolution, IResolutionReceiver
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.support.raw_tls import until
from x509proxy.upstream.name_resolver import NameResolver, start_thread


@implementer(IResolutionReceiver)
class Receiver:
    """A receiver that records its calls."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.addresses: list[Any] = []
        self.complete = 0

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        self.began.append(resolutionInProgress.name)
        resolutionInProgress.cancel()

    def addressResolved(self, address: Any) -> None:
        self.addresses.append(address)

    def resolutionComplete(self) -> None:
        self.complete += 1


class _Reactor(MemoryReactorClock):
    def callFromThread(self, callable: Callable[..., object], *args: Any, **kwargs: Any) -> None:  # noqa: A002
        callable(*args, **kwargs)


FOUND = [
    (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", 0, 0, 3)),
    (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", 0)),
    (socket.AF_UNIX, socket.SOCK_STREAM, 0, "", ("?", 0)),
]


class Lookups(SynchronousTestCase):
    def setUp(self) -> None:
        self.threads: list[Callable[[], None]] = []
        self.asked: list[str] = []
        self.reactor = _Reactor()
        self.resolver = NameResolver(self.reactor, self.threads.append)
        self.found: Any = lambda: FOUND
        self.patch(socket, "getaddrinfo", self.getaddrinfo)

    def getaddrinfo(self, name: str, port: None, *, type: int) -> Any:  # noqa: A002 - its name
        self.asked.append(name)
        return self.found()

    def ask(self, name: str = "as.example", *more: Any) -> Receiver:
        receiver = Receiver()
        self.resolver.resolveHostName(receiver, name, *more)
        self.assertEqual([name], receiver.began)
        return receiver

    def run_threads(self) -> None:
        threads, self.threads[:] = [*self.threads], []
        for thread in threads:
            thread()

    def test_addresses(self) -> None:
        """All addresses of both versions arrive, in the system's order, with the port."""
        verifyObject(IHostnameResolver, self.resolver)
        receiver = self.ask("as.example", 8080)
        self.assertEqual(([], 0), (receiver.addresses, receiver.complete))
        self.run_threads()
        expected = [
            IPv6Address("TCP", "fe80::1", 8080, 0, 3),
            IPv4Address("TCP", "192.0.2.7", 8080),
        ]
        self.assertEqual((expected, 1), (receiver.addresses, receiver.complete))

    def test_one_kind(self) -> None:
        """Only addresses of the requested types arrive, for the requested transport."""
        receiver = self.ask("as.example", 53, [IPv4Address], "UDP")
        self.run_threads()
        self.assertEqual([IPv4Address("UDP", "192.0.2.7", 53)], receiver.addresses)

    def test_together(self) -> None:
        """Concurrent lookups of a name share the result; another name has its own lookup."""
        receivers = [self.ask(name) for name in ("a", "a", "b", "a")]
        self.assertEqual(2, len(self.threads))
        self.run_threads()
        self.assertEqual(["a", "b"], self.asked)
        self.assertEqual([1, 1, 1, 1], [receiver.complete for receiver in receivers])

    def test_again(self) -> None:
        """Nothing is cached: a later call starts another lookup."""
        self.ask()
        self.run_threads()
        self.ask()
        self.run_threads()
        self.assertEqual(["as.example"] * 2, self.asked)

    def test_unknown(self) -> None:
        """An unknown or invalid name has no addresses."""
        for error in (socket.gaierror(-2, "unknown"), UnicodeError("label too long")):
            self.found = self.raiser(error)
            receiver = self.ask()
            self.run_threads()
            self.assertEqual(([], 1), (receiver.addresses, receiver.complete))

    def raiser(self, error: Exception) -> Callable[[], None]:
        def fail() -> None:
            raise error

        return fail

    def test_no_thread(self) -> None:
        """If no thread can be started, there are no addresses this time."""
        self.resolver = NameResolver(self.reactor, lambda _: self.raiser(RuntimeError())())
        receiver = self.ask()
        self.assertEqual(0, receiver.complete)
        self.reactor.advance(0)
        self.assertEqual(([], 1), (receiver.addresses, receiver.complete))
        self.assertIsInstance(self.reactor, Clock)


class Real(TestCase):
    async def test_hosts(self) -> None:
        """A name of ``/etc/hosts`` is found, in a thread."""
        from twisted.internet import reactor

        receiver = Receiver()
        NameResolver(reactor, start_thread).resolveHostName(receiver, "localhost", 8080)
        await until(lambda: receiver.complete)
        self.assertIn(IPv4Address("TCP", "127.0.0.1", 8080), receiver.addresses)
