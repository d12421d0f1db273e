"""Tests of :mod:`x509proxy.downstream.proxy_protocol_listener`."""

from __future__ import annotations

import contextlib
from typing import Any

from OpenSSL import SSL
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from tests.support.memory import GET, RecordingHandler, RequestTransport
from tests.support.names import NAME
from tests.support.proxied import LOCAL, ProxiedTestCase, hello
from tests.support.proxy_headers import FOUR, LINE, SIX, binary, header, line
from x509proxy.config.endpoint_strings import private_socket
from x509proxy.downstream.factory import ProxyFactory, TlsFactory
from x509proxy.downstream.proxy_protocol_listener import stream_factory, use_listener
from x509proxy.settings import (
    ClientSettings,
    ListenerSettings,
    ProxyProtocol,
    ProxySettings,
    SettingsError,
)
from x509proxy.transport.deadlines import Deadlines
from x509proxy.transport.direct_writer import DirectWriter
from x509proxy.transport.proxy_protocol import End, ProxyAddresses
from x509proxy.transport.tls_context import ServerConnections


class Served(ProxiedTestCase):
    def test_ends(self) -> None:
        """The request has the header's source address, and the port of its destination."""
        for ends in (FOUR, SIX):
            for first in (line(ends), header(ends)):
                self.assertIn(b"HTTP/1.1 200 OK", self.talk(self.wire(), first))
                self.assertEqual((ends.source.host, ends.destination.port), self.served())

    def test_byte_by_byte(self) -> None:
        """Any split of header, handshake and request gives the same result."""
        for first in (line(SIX), header(SIX)):
            self.assertIn(b"HTTP/1.1 200 OK", self.talk(self.wire(), first, cut=True))
            self.assertEqual((SIX.source.host, 65535), self.served())

    def test_addresses(self) -> None:
        """The ends of the stream are addresses of Twisted, with the ports of the header."""
        for ends, kind in ((FOUR, IPv4Address), (SIX, IPv6Address)):
            self.wire(line(ends))
            (stream,) = self.factory.protocols
            expected = [kind("TCP", end.host, end.port) for end in (ends.source, ends.destination)]
            self.assertEqual(expected, [stream.getPeer(), stream.getHost()])
            self.factory.protocols.clear()

    def test_unnamed(self) -> None:
        """Without addresses in the header, those of the connection count."""
        for first in (LOCAL, b"PROXY UNKNOWN\r\n", binary(b"", 0x00)):
            self.assertIn(b"HTTP/1.1 200 OK", self.talk(self.wire(), first))
            self.assertEqual(("127.0.0.1", 8443), self.served())

    def test_tickets(self) -> None:
        """After a handshake behind a balancer, one write follows at once, then the response."""
        self.patch(DirectWriter, "acknowledge", lambda _: True)
        for first in (LINE, LOCAL):
            wire = self.wire(first)
            writes: list[bytes] = []
            self.patch(wire, "write", writes.append)
            client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
            client.set_connect_state()
            with contextlib.suppress(SSL.WantReadError):
                client.do_handshake()
            wire.deliver(client.bio_read(1 << 16))
            client.bio_write(writes.pop())
            client.do_handshake()
            wire.deliver(client.bio_read(1 << 16))
            self.assertEqual(1, len(writes))
            client.send(GET)
            wire.deliver(client.bio_read(1 << 16))
            self.assertEqual(2, len(writes))

    def test_unix(self) -> None:
        """At a unix socket, every process with access counts as a balancer."""
        self.talk(self.wire(peer=UNIXAddress(None)), LINE)
        self.assertEqual((FOUR.source.host, 443), self.served())
        self.talk(self.wire(peer=UNIXAddress(None)), LOCAL)
        self.assertEqual("unknown", self.served()[0])

    def test_end(self) -> None:
        """A connection that ends is removed from every list."""
        wire = self.wire()
        self.talk(wire, LINE)
        self.assertEqual((1, 1), (len(self.factory.protocols), self.owner.connections))
        wire.lose()
        self.assertEqual((0, 0), (len(self.factory.protocols), self.owner.connections))

    def test_speaks_second(self) -> None:
        """No byte is sent before the client's hello, after a complete header or a partial one."""
        for pieces in ((), (LINE[:-1],), (LINE,)):
            self.assertEqual(b"", self.wire(*pieces).sent())


class NotServed(ProxiedTestCase):
    def test_without_header(self) -> None:
        """A connection without a header is cut at its first byte, for any first byte."""
        for first in (hello(), GET, b"\x00", b"PROXX"):
            self.assert_cut(self.wire(first))
        self.assertEqual(([], 0), (self.handler.requests, len(self.factory.protocols)))

    def test_deaf(self) -> None:
        """After an error no byte is read: a second header does not repair the first."""
        wire = self.wire(b"PROXY TCP4 x")
        wire.deliver(b"\r\n")
        self.assertTrue(wire.aborted)
        wire.protocol.dataReceived(LINE + hello())
        self.assertEqual((b"", 0), (wire.sent(), len(self.factory.protocols)))
        self.assertEqual({"proxy_header": 1}, self.counters.counts().handshake_failures)

    def test_odd_headers(self) -> None:
        """An invalid or too long header is cut too."""
        for first in (
            binary(bytes(12), 0x99),
            binary(b"", length=2049),
            b"PROXY UNKNOWN ".ljust(107),
            line(SIX)[:-2] + b"\n\r\n",
        ):
            self.assert_cut(self.wire(first))

    def test_two_headers(self) -> None:
        """The bytes after the header are TLS, and a second header is not."""
        wire = self.wire(LINE + LINE)
        self.assertEqual(0, len(self.handler.requests))
        self.assertTrue(wire.disconnecting)

    def test_not_trusted(self) -> None:
        """A peer that is no balancer is cut at once, and its header is not read."""
        for peer in (IPv4Address("TCP", "192.0.2.66", 1), IPv6Address("TCP", "2001:db8::66", 1)):
            self.assert_cut(self.wire(peer=peer))
            wire = RequestTransport(self.clock, peer).attach(self.factory.buildProtocol(None))
            wire.protocol.dataReceived(LINE + hello())
            self.assert_cut(wire)
        self.assertEqual(0, len(self.factory.protocols))

    def test_word(self) -> None:
        """The log names the peer and the reason; in a flood one line a minute has the count."""
        with capturedLogs() as events:
            self.wire(b"PROXY secret\r\n")
            for _ in range(99):
                self.wire(b"G")
            self.clock.advance(60)
            self.wire(peer=IPv4Address("TCP", "192.0.2.66", 1))
            self.clock.advance(60)
            self.wire(b"G", peer=UNIXAddress(None))
        reason = "its address is not among those that are trusted"
        self.assertEqual(
            [
                (1, "127.0.0.1", "an unknown format of the line"),
                (100, "192.0.2.66", reason), (1, "a unix socket", "no PROXY header"),
            ],
            [(event["count"], event["peer"], event["reason"]) for event in events],
        )  # fmt: skip
        self.assertEqual({"proxy_header": 102}, self.counters.counts().handshake_failures)

    def test_probe(self) -> None:
        """A connection that closes without a byte is not logged."""
        with capturedLogs() as events:
            self.wire().lose()
        self.assertEqual(([], 0), (list(events), self.owner.connections))


class Limits(ProxiedTestCase):
    SETTINGS = ClientSettings(
        handshake_timeout=5, max_connections=3, max_connections_per_address=2, drain_timeout=9
    )

    def test_silence(self) -> None:
        """A client without a complete header is cut at the deadline of a handshake."""
        wires = [self.wire(), self.wire(LINE[:-1]), self.wire(header(SIX)[:20])]
        with capturedLogs() as events:
            self.pass_time(4.5)
            self.assertEqual([False] * 3, [wire.aborted for wire in wires])
            wires[1].deliver(b"\r")
            self.pass_time(1)
            for wire in wires:
                self.assert_cut(wire)
            self.pass_time(20)
        self.assertEqual(
            ["no complete PROXY header in time"], [event["reason"] for event in events]
        )
        self.assertEqual({"proxy_header": 3}, self.counters.counts().handshake_failures)

    def test_together(self) -> None:
        """Header and handshake share one deadline."""
        wires = [self.wire(), self.wire()]
        self.pass_time(4)
        for wire, first in zip(wires, (LINE, LOCAL), strict=True):
            wire.deliver(first + hello()[:-1])
        self.pass_time(0.5)
        self.assertEqual([False] * 2, [wire.aborted for wire in wires])
        self.pass_time(1)
        self.assertEqual([True] * 2, [wire.aborted for wire in wires])

    def test_then_its_own(self) -> None:
        """After the handshake the usual deadlines apply."""
        wire = self.wire()
        self.pass_time(4)
        self.talk(wire, LINE)
        self.pass_time(20)
        self.assertEqual((False, False), (wire.aborted, wire.disconnecting))

    def pass_time(self, seconds: float) -> None:
        self.clock.pump([0.25] * int(seconds * 4))

    def test_connections(self) -> None:
        """A connection before its header counts, and the oldest one makes room for a new one."""
        wires = [self.wire() for _ in range(5)]
        for wire in wires[:2]:
            self.assert_cut(wire)
        self.assertEqual([False] * 3, [wire.aborted for wire in wires[2:]])
        self.assertEqual(3, self.owner.connections)

    def test_one_place(self) -> None:
        """It takes one place before its header and after it, even at the maximum."""
        wires = [self.wire() for _ in range(3)]
        for place, wire in enumerate(wires):
            wire.deliver(line(ProxyAddresses(End(f"192.0.2.{place}", 1), FOUR.destination)))
        self.assertEqual(
            ([False] * 3, 3), ([wire.aborted for wire in wires], self.owner.connections)
        )

    def test_addresses(self) -> None:
        """The limits per address apply to the client's address, not to the balancer's."""
        first = [self.wire(LINE) for _ in range(3)]
        self.assertEqual([False, False, True], [wire.aborted for wire in first])
        first[2].lose()
        other = self.wire(line(SIX))
        self.assertFalse(other.aborted)
        other.lose()
        first[0].lose()
        self.assertFalse(self.wire(LINE).aborted)

    def test_refused_client(self) -> None:
        """A client with too many connections is cut, even with its hello behind the header."""
        for _ in range(2):
            self.wire(LINE)
        self.assert_cut(self.wire(LINE + hello()))

    def test_header_on_its_way(self) -> None:
        """At the end, a connection already made by its balancer is served; no new one is."""
        waiting = self.wire()
        drained = self.owner.drain()
        self.assertFalse(waiting.aborted)
        self.assertNoResult(drained)
        with contextlib.suppress(SSL.ZeroReturnError):
            self.talk(waiting, LINE)
        self.assertEqual(FOUR.source.host, self.served()[0])
        self.assert_cut(self.wire())

    def test_not_over_meanwhile(self) -> None:
        """A drain does not complete between header and handshake of the last connection."""
        waiting = self.wire()
        drained = self.owner.drain()
        waiting.deliver(LINE)
        self.assertNoResult(drained)
        waiting.lose()
        self.successResultOf(drained)

    def test_no_header(self) -> None:
        """During the end, a silent client has two seconds, not the time of a handshake."""
        waiting = self.wire()
        drained = self.owner.drain()
        self.clock.advance(2)
        self.assertTrue(waiting.aborted)
        waiting.lose()
        self.successResultOf(drained)


class Reloads(ProxiedTestCase):
    def test_trusted(self) -> None:
        """A listener that names other balancers trusts those, and no longer the old ones."""
        other = IPv4Address("TCP", "192.0.2.66", 1)
        self.assert_cut(self.wire(peer=other))
        use_listener(
            self.factory,
            ListenerSettings(endpoint="haproxy:tcp:8443", trusted_proxies=("192.0.2.66",)),
        )
        self.talk(self.wire(peer=other), LINE)
        self.assertEqual((FOUR.source.host, 443), self.served())
        self.assert_cut(self.wire())


class Chained(ProxiedTestCase):
    PLACE = ListenerSettings(
        endpoint="tcp:1",
        proxy_protocol=ProxyProtocol.REQUIRED,
        proxy_hops=2,
        trusted_proxies=("127.0.0.1", "10.0.0.0/8"),
    )

    def test_two(self) -> None:
        """With two balancers in a row, the client is the one that the farther one names."""
        near = line(ProxyAddresses(End("10.0.0.9", 5), End("10.0.0.1", 6)))
        self.talk(self.wire(), near + header(SIX), cut=True)
        self.assertEqual((SIX.source.host, 65535), self.served())

    def test_past_one(self) -> None:
        """A client that connects to the near balancer directly is cut, with any header."""
        self.assert_cut(
            self.wire(line(ProxyAddresses(End("203.0.113.9", 5), End("10.0.0.1", 6))) + LINE)
        )


class Places(SynchronousTestCase):
    """The keys of the configuration."""

    def test_either_way(self) -> None:
        """``haproxy:`` before the endpoint equals the key, and never reaches Twisted."""
        for place, proxied in (
            (ListenerSettings(endpoint="haproxy:tcp:1"), True),
            (
                ListenerSettings(endpoint="haproxy:tcp:1", proxy_protocol=ProxyProtocol.REQUIRED),
                True,
            ),
            (ListenerSettings(endpoint="tcp:1", proxy_protocol=ProxyProtocol.REQUIRED), True),
            (ListenerSettings(endpoint="tcp:1", proxy_protocol=ProxyProtocol.NONE), False),
            (ListenerSettings(endpoint="tcp:1"), False),
        ):
            self.assertEqual((proxied, "tcp:1"), (place.is_proxied, place.description))
        settings = ProxySettings(
            listen=("tcp:1", "haproxy:tcp:2"), listeners=(ListenerSettings(endpoint="tcp:3"),)
        )
        self.assertEqual(
            ["tcp:1", "tcp:2", "tcp:3"], [place.description for place in settings.all_listeners]
        )
        self.assertEqual(
            [False, True, False], [place.is_proxied for place in settings.all_listeners]
        )

    def test_nothing_without_it(self) -> None:
        """A listener without the key has the usual factory."""
        connections = ServerConnections(None)  # type: ignore[arg-type]
        owner = ProxyFactory(RecordingHandler(), Deadlines(Clock()))
        factory = stream_factory(connections, owner, ListenerSettings(endpoint="tcp:1"))
        use_listener(factory, ListenerSettings(endpoint="tcp:1"))
        self.assertIs(TlsFactory, type(factory))

    def expect(self, sentence: str, **keys: Any) -> None:
        error = self.assertRaises(
            SettingsError, lambda: ListenerSettings(**{"endpoint": "tcp:1", **keys})
        )
        self.assertEqual(sentence, str(error))

    def test_contradictions(self) -> None:
        """A contradiction, or a key without effect, is an error."""
        required = ProxyProtocol.REQUIRED
        sentence = (
            "proxy-protocol: found none, expected required, since the endpoint begins with haproxy:"
        )
        self.expect(sentence, endpoint="haproxy:tcp:1", proxy_protocol=ProxyProtocol.NONE)
        sentence = (
            "endpoint: found haproxy: twice, expected it once; "
            "proxy-hops is the number of PROXY headers"
        )
        self.expect(sentence, endpoint="haproxy:haproxy:tcp:1")
        sentence = (
            'proxy-protocol: found none, expected "required" '
            "where trusted-proxies or proxy-hops is given"
        )
        self.expect(sentence, trusted_proxies=("10.0.0.0/8",))
        self.expect(sentence, proxy_hops=2)
        self.expect("proxy-hops: found 5, expected 1 to 4", proxy_protocol=required, proxy_hops=5)
        self.expect(
            "proxy-hops: found 0, expected a number above zero",
            proxy_protocol=required,
            proxy_hops=0,
        )
        self.expect(
            "trusted-proxies: found none, expected at least one network such as 10.0.0.0/8",
            proxy_protocol=required,
            trusted_proxies=(),
        )
        expected = "an address, or a network such as 10.0.0.0/8 with no bit set after its prefix"
        for odd in ("10.0.0.1/8", "localhost", "10.0.0.0/33", "", "::1/129", "10.0.0"):
            self.expect(
                f"trusted-proxies: found {odd!r}, expected {expected}",
                proxy_protocol=required,
                trusted_proxies=(odd,),
            )
        # The value may be the secret header's name.
        self.expect(
            f"trusted-proxies: found '…', expected {expected}",
            proxy_protocol=required,
            trusted_proxies=(NAME,),
        )

    def test_mode(self) -> None:
        """Without a mode, a unix socket is accessible to its owner only.

        Each writer can name any address.
        """
        for endpoint, description in (
            ("haproxy:unix:/a", "unix:/a:mode=600"),
            ("unix:/a", "unix:/a:mode=600"),
            ("unix:/a:mode=666", "unix:/a:mode=666"),
            ("unix:/a:660", "unix:/a:660"),
            ("unix:address=/a:backlog=5", "unix:address=/a:backlog=5:mode=600"),
            ("unix:backlog=5:/a", "unix:backlog=5:/a:mode=600"),
            (r"unix:/a\=b", r"unix:/a\=b:mode=600"),
            (r"unix:/a\=b:660", r"unix:/a\=b:660"), ("tcp:1", "tcp:1"), ("", ""),
        ):  # fmt: skip
            place = ListenerSettings(endpoint=endpoint)
            self.assertEqual(description, private_socket(place.description))

    def test_top_level(self) -> None:
        """An endpoint of ``listen`` is checked at the same time."""
        self.assertRaises(SettingsError, ProxySettings, listen=("haproxy:haproxy:tcp:1",))
