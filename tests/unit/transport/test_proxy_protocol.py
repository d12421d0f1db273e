"""Tests of :mod:`x509proxy.transport.proxy_protocol`: both versions of the header, and trust."""

from __future__ import annotations

import contextlib
import ipaddress
import struct
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.proxy_headers import FOUR, LINE, SIGNATURE, SIX, binary, header, line
from x509proxy.settings import ListenerSettings
from x509proxy.transport import proxy_protocol
from x509proxy.transport.proxy_protocol import (
    BadHeader,
    End,
    ProxyAddresses,
    ProxyHeaderParser,
    TrustedProxies,
    Unnamed,
    read_header,
)

PORTS = st.integers(0, 65535)
V4 = st.ip_addresses(v=4).map(str)
V6 = st.ip_addresses(v=6).map(str).filter(lambda address: not address.startswith("::ffff:"))
ENDS = st.one_of(
    *(st.builds(ProxyAddresses, *[st.builds(End, kind, PORTS)] * 2) for kind in (V4, V6))
)
TLV = st.tuples(st.integers(0, 255).filter(lambda kind: kind != 3), st.binary(max_size=60))


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def checked(ends: ProxyAddresses, *tlvs: bytes) -> bytes:
    """Return a header with a CRC-32C checksum, computed bit by bit (RFC 4960 appendix B)."""
    whole = header(ends, tlv(3, bytes(4)), *tlvs)
    crc = 0xFFFFFFFF
    for octet in whole:
        for place in range(8):
            bit = (crc ^ octet >> place) & 1
            crc = (crc >> 1) ^ (0x82F63B78 if bit else 0)
    return header(ends, tlv(3, (crc ^ 0xFFFFFFFF).to_bytes(4, "big")), *tlvs)


class HeaderTestCase(SynchronousTestCase):
    def refused(self, data: bytes, words: str = "") -> None:
        """Check that the header is rejected at once, without any of its bytes in the error."""
        error = self.assertRaises(BadHeader, read_header, data)
        self.assertIn(words, str(error), data)

    def assert_read(self, expected: object, data: bytes, rest: bytes = b"\x16\x03\x01") -> None:
        """Check that the header is complete with its last byte, and not before."""
        self.assertEqual((expected, rest), read_header(data + rest))
        for end in range(len(data)):
            self.assertIs(None, read_header(data[:end]), data[:end])


class Neither(HeaderTestCase):
    def test_at_the_first_byte(self) -> None:
        """Bytes that begin no header are rejected as soon as possible (section 2)."""
        for data in (
            b"\x16",
            b"\x16\x03\x01\x02",
            b"G",
            b"\x00",
            b"\n",
            b"proxy ",
            b"PROXX",
            b"PROXY\t",
            b"\r\n\r\n\x01",
        ):
            self.refused(data, "no PROXY header")

    def test_nothing(self) -> None:
        """Empty input may become any header."""
        self.assertIs(None, read_header(b""))

    @given(st.binary(max_size=200))
    def test_anything(self, data: bytes) -> None:
        """Any input is a header, may become one, or is rejected.

        No other error is raised.
        """
        for beginning in (
            b"",
            b"PROXY ",
            b"PROXY TCP4 ",
            SIGNATURE,
            SIGNATURE + b"!\x11\x00\x20",
            SIGNATURE + b"!\x21\x00\x30",
        ):
            with contextlib.suppress(BadHeader):
                read_header(beginning + data)


class Text(HeaderTestCase):
    """Version 1, section 2.1."""

    def test_examples(self) -> None:
        """The examples of the section are accepted."""
        longest = b"ffff:" * 7 + b"ffff"
        for expected, data in (
            (FOUR, LINE),
            (SIX, b"PROXY TCP6 2001:db8::7 2001:DB8:FFFF:0::1 1 65535\r\n"),
            (
                ProxyAddresses(*[End("255.255.255.255", 65535)] * 2),
                b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            ),
            (
                ProxyAddresses(*[End(longest.decode(), 0)] * 2),
                b"PROXY TCP6 %b %b 0 0\r\n" % (longest, longest),
            ),
            (Unnamed.UNKNOWN, b"PROXY UNKNOWN\r\n"),
            (Unnamed.UNKNOWN, b"PROXY UNKNOWN %b %b 65535 65535\r\n" % (longest, longest)),
            (Unnamed.UNKNOWN, b"PROXY UNKNOWN whatever  it\\ may be\r\n"),
        ):
            self.assert_read(expected, data)

    def test_mapped(self) -> None:
        """An IPv4 address mapped into IPv6, as HAProxy sends it, is read as IPv4."""
        found = read_header(b"PROXY TCP6 ::ffff:192.0.2.7 ::FFFF:c633:6401 40000 443\r\n")
        self.assertEqual((FOUR, b""), found)

    def test_odd(self) -> None:
        """A deviation is rejected: spaces, zeros, signs, zones, families, fields, line ends."""
        for data in (
            b"PROXY  TCP4 192.0.2.7 198.51.100.1 40000 443",
            b"PROXY TCP4  192.0.2.7 198.51.100.1 40000 443",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443 ",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 40000",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443 1",
            b"PROXY TCP4\t192.0.2.7 198.51.100.1 40000 443",
            b"PROXY TCP4 192.0.2.07 198.51.100.1 40000 443",
            b"PROXY TCP4 192.0.2 198.51.100.1 40000 443",
            b"PROXY TCP4 192.0.2.256 198.51.100.1 40000 443",
            b"PROXY TCP4 0xc0.0.2.7 198.51.100.1 40000 443",
            b"PROXY TCP4 3221225991 198.51.100.1 40000 443",
            b"PROXY TCP4 192.0.2.7/32 198.51.100.1 40000 443",
            b"PROXY TCP4 2001:db8::7 198.51.100.1 40000 443",
            b"PROXY TCP6 192.0.2.7 198.51.100.1 40000 443",
            b"PROXY TCP6 fe80::1%eth0 fe80::2 40000 443",
            b"PROXY TCP6 1::2::3 ::1 40000 443",
            b"PROXY TCP6 [::1] ::1 40000 443",
            b"PROXY TCP6 00001::1 ::1 40000 443",
            b"PROXY TCP6 :: : 40000 443",
            b"PROXY TCP6 fe80::1% ::1 40000 443",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 040000 443",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 443",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 +4000 443",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 4_0 443",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 -1 443",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 00",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 100000 443",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 ",
            b"PROXY TCP4 192.0.2.7 \xd9\xa1.51.100.1 40000 443",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 \xc2\xb2 443",
            b"PROXY TCP 192.0.2.7 198.51.100.1 40000 443",
            b"PROXY tcp4 192.0.2.7 198.51.100.1 40000 443",
            b"PROXY UDP4 192.0.2.7 198.51.100.1 40000 443",
            b"PROXY UNIX a b 0 0",
            b"PROXY UNKNOWNS",
            b"PROXY unknown",
            b"PROXY ",
            b"PROXY TCP4",
            b"PROXY UNKNOWN \r a",
            b"PROXY UNKNOWN \n a",
            b"PROXY UNKNOWN a\n",
            b"PROXY UNKNOWN \x00",
            b"PROXY UNKNOWN \xff",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\nGET",
        ):
            self.refused(data + b"\r\n")

    def test_length(self) -> None:
        """A line of 107 bytes with CRLF is accepted; without CRLF, byte 107 is the last one."""
        fits = b"PROXY UNKNOWN ".ljust(105, b"x")
        self.assert_read(Unnamed.UNKNOWN, fits + b"\r\n")
        self.refused(fits + b"x\r\n", "without an end")
        self.refused(fits + b"x\r", "without an end")
        self.assertIs(None, read_header(fits + b"\r"))

    @given(ENDS, st.binary(max_size=20))
    def test_round_trip(self, ends: ProxyAddresses, rest: bytes) -> None:
        """A valid line is parsed exactly, and no byte after it is read."""
        data = line(ends)
        self.assertEqual((ends, rest), read_header(data + rest))
        self.assertTrue(all(read_header(data[:end]) is None for end in range(len(data))))

    @given(ENDS, st.data())
    def test_mutations(self, ends: ProxyAddresses, draw: st.DataObject) -> None:
        """A line with one changed byte is read literally or rejected: IPv4 has one spelling."""
        data = bytearray(line(ends))
        data[draw.draw(st.integers(6, len(data) - 3))] = draw.draw(st.integers(0, 255))
        try:
            found = read_header(bytes(data))
        except BadHeader:
            return
        assert found is not None
        if data.startswith(b"PROXY TCP4"):
            assert isinstance(found[0], ProxyAddresses)
            self.assertEqual(bytes(data), line(found[0]) + found[1])


class Binary(HeaderTestCase):
    """Version 2, section 2.2."""

    def test_examples(self) -> None:
        """Both families are parsed, with the bytes of the section spelled out."""
        four = SIGNATURE + bytes.fromhex("21 11 000C C0000207 C6336401 9C40 01BB")
        self.assertEqual(four, header(FOUR))
        self.assert_read(FOUR, four)
        self.assert_read(SIX, header(SIX))
        mapped = binary(ipaddress.ip_address("::ffff:192.0.2.7").packed * 2 + bytes(4), 0x21)
        self.assertEqual((ProxyAddresses(*[End("192.0.2.7", 0)] * 2), b""), read_header(mapped))

    def test_local(self) -> None:
        """A health check names no client; its address block is skipped by its length."""
        for family in (0x00, 0x11, 0x21, 0x31, 0x99, 0xFF):
            for block in (b"", bytes(12), b"\xff" * 2048):
                self.assert_read(Unnamed.LOCAL, binary(block, family, 0x20))

    def test_unnamed(self) -> None:
        """A valid header for other than TCP over IP counts as one without addresses.

        The block of an UNSPEC header is not parsed.
        """
        for family, size in ((0x12, 12), (0x22, 36), (0x31, 216), (0x32, 216)):
            self.assert_read(Unnamed.UNKNOWN, binary(bytes(size), family))
            self.refused(binary(bytes(size - 1), family), "truncated addresses")
        for block in (b"", b"\xff", bytes(100)):
            self.assert_read(Unnamed.UNKNOWN, binary(block, 0x00))

    def test_odd(self) -> None:
        """Another version, command, family or protocol is rejected."""
        for octet in set(range(256)) - {0x20, 0x21}:
            self.refused(binary(bytes(12), command=octet), "version or command")
        for octet in set(range(256)) - {0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32}:
            self.refused(binary(bytes(300), octet), "family")

    def test_length(self) -> None:
        """At most 2048 bytes may follow the first 16; a longer header is rejected without them."""
        self.assert_read(FOUR, header(FOUR, tlv(4, bytes(2048 - 12 - 3))))
        for length in (2049, 65535):
            for command in (0x20, 0x21):
                self.refused(binary(b"", command=command, length=length), "too long")
        self.refused(header(FOUR)[:-1].replace(b"\x00\x0c", b"\x00\x0b"), "truncated addresses")
        self.refused(binary(b"", 0x21), "truncated addresses")

    def test_tlvs(self) -> None:
        """TLVs are skipped, and must fill the rest of the header exactly."""
        self.assert_read(FOUR, header(FOUR, tlv(1, b"h2"), tlv(0x20, bytes(5)), tlv(4, b"")))
        for odd in (
            b"\x01",
            b"\x01\x00",
            b"\x01\x00\x01",
            tlv(1, b"h2")[:-1],
            tlv(4, b"") + b"\x00",
        ):
            self.refused(header(FOUR, odd), "truncated TLV")
            self.refused(binary(bytes(216) + odd, 0x31), "truncated TLV")

    def test_checksum(self) -> None:
        """A checksum must be correct if there is one (section 2.2.3)."""
        self.assertEqual(0xE3069283, proxy_protocol._crc32c(b"123456789"))
        self.assert_read(SIX, checked(SIX, tlv(1, b"h2")))
        for wrong in (bytes(4), b"\xff" * 4):
            self.refused(header(FOUR, tlv(3, wrong)), "wrong checksum")
            self.refused(binary(bytes(12) + tlv(3, wrong), 0x12), "wrong checksum")
        for size in (0, 3, 5):
            self.refused(header(FOUR, tlv(3, bytes(size))), "checksum of another size")

    @given(ENDS, st.lists(TLV, max_size=5), st.booleans(), st.binary(max_size=20))
    def test_round_trip(
        self, ends: ProxyAddresses, tlvs: Sequence[tuple[int, bytes]], check: bool, rest: bytes
    ) -> None:
        """A valid header is parsed exactly, and no byte after it is read."""
        data = (checked if check else header)(ends, *(tlv(*one) for one in tlvs))
        self.assertEqual((ends, rest), read_header(data + rest))
        self.assertTrue(all(read_header(data[:end]) is None for end in range(len(data))))

    @given(ENDS, st.integers(min_value=0), st.integers(0, 7))
    def test_mutations(self, ends: ProxyAddresses, place: int, bit: int) -> None:
        """With a checksum, one flipped bit never makes a header name another client."""
        data = bytearray(checked(ends))
        data[place % len(data)] ^= 1 << bit
        try:
            found = read_header(bytes(data))
        except BadHeader:
            return
        self.assertIn(found, (None, (Unnamed.LOCAL, b""), (Unnamed.UNKNOWN, b""), (ends, b"")))


class Chain(SynchronousTestCase):
    """The trusted networks, and the number of headers."""

    NEAR, FAR = "10.0.0.1", "10.0.1.1"

    def headers(
        self, hops: int = 1, peer: str | None = NEAR, trusted: Sequence[str] = ("10.0.0.0/8",)
    ) -> ProxyHeaderParser:
        settings = ListenerSettings(
            endpoint="haproxy:tcp:1", trusted_proxies=tuple(trusted), proxy_hops=hops
        )
        return ProxyHeaderParser(TrustedProxies.of(settings), peer)

    def test_one(self) -> None:
        """One trusted balancer names the client.

        All bytes after its header belong to the client, even another header.
        """
        self.assertEqual((FOUR, LINE), self.headers().feed(LINE + LINE))

    def test_not_trusted(self) -> None:
        """From an untrusted peer no header is read."""
        for peer in ("11.0.0.1", "2001:db8::1", "::ffff:11.0.0.1", "fe80::1%eth0"):
            self.assertRaises(BadHeader, self.headers(peer=peer).feed, b"")
        for trusted in ("10.255.0.1", "::ffff:10.0.0.1", None):
            self.assertIs(None, self.headers(peer=trusted).feed(b""))
        self.assertIs(None, self.headers(peer="fe80::1%eth0", trusted=["fe80::/10"]).feed(b""))

    def test_loopback_by_default(self) -> None:
        """By default, only balancers on this machine are trusted."""
        trusted = TrustedProxies.of(ListenerSettings(endpoint="haproxy:tcp:1"))
        here = [
            trusted.trusts(host)
            for host in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", None)
        ]
        elsewhere = [
            trusted.trusts(host) for host in ("10.0.0.1", "128.0.0.1", "::2", "::ffff:10.0.0.1")
        ]
        self.assertEqual(([True] * 5, [False] * 4), (here, elsewhere))

    def test_two(self) -> None:
        """The nearest balancer's header comes first; the last counts if its sender is trusted."""
        near = line(ProxyAddresses(End(self.FAR, 5), End(self.NEAR, 6)))
        for first in (near, header(ProxyAddresses(End(self.FAR, 5), End(self.NEAR, 6)))):
            self.assertEqual((SIX, b"rest"), self.headers(2).feed(first + line(SIX) + b"rest"))
        # This client reached the near balancer directly, and sent a header of its own.
        past = line(ProxyAddresses(End("203.0.113.9", 5), End(self.NEAR, 6)))
        self.assertRaises(BadHeader, self.headers(2).feed, past)
        self.assertRaises(BadHeader, self.headers(2).feed, past + LINE)

    def test_too_few(self) -> None:
        """The exact number of headers is required: TLS in place of one is rejected."""
        near = line(ProxyAddresses(End(self.FAR, 5), End(self.NEAR, 6)))
        self.assertRaises(BadHeader, self.headers(2).feed, near + b"\x16\x03\x01")

    def test_health_checks(self) -> None:
        """Each balancer may send LOCAL: no header follows, and its own addresses count."""
        local = binary(b"", 0x00, 0x20)
        self.assertEqual((None, b""), self.headers(2).feed(local))
        near = ProxyAddresses(End(self.FAR, 5), End(self.NEAR, 6))
        self.assertEqual((near, b"x"), self.headers(2).feed(line(near) + local + b"x"))

    def test_unknown(self) -> None:
        """Behind an unnamed peer no header is trusted.

        As the last header, it leaves the addresses unchanged.
        """
        unknown = b"PROXY UNKNOWN\r\n"
        self.assertRaises(BadHeader, self.headers(2).feed, unknown)
        self.assertEqual((None, b""), self.headers().feed(unknown))
        near = ProxyAddresses(End(self.FAR, 5), End(self.NEAR, 6))
        self.assertEqual((near, b""), self.headers(2).feed(line(near) + unknown))

    def test_byte_by_byte(self) -> None:
        """Any split of the headers into pieces gives the same result, at the last byte."""
        near = ProxyAddresses(End(self.FAR, 5), End(self.NEAR, 6))
        for data in (line(near) + line(SIX), header(near) + header(SIX), line(near) + header(SIX)):
            headers = self.headers(2)
            found: list[Any] = [headers.feed(bytes([octet])) for octet in data]
            self.assertEqual(([None] * (len(data) - 1), (SIX, b"")), (found[:-1], found[-1]))
