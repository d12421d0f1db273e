"""The PROXY protocol, in which a balancer sends the client's address before the first byte.

Facts
-----
* The specification is HAProxy's ``proxy-protocol.txt``, whose section numbers are used here.
  Version 1 is a line of text (2.1), version 2 is binary (2.2).
* A receiver must not guess whether there is a header (2). Otherwise a client could omit or insert
  one, and so choose its own address.
* TCP may split a header anywhere, and a receiver should accept that (2). Twisted's ``haproxy:``
  endpoint closes the connection.
* LOCAL (2.2), UNKNOWN (2.1) and UNSPEC (2.2) name no client, so the addresses of the connection
  itself are used. The same holds for valid headers about datagrams and unix sockets (2.2).
* HAProxy writes an IPv4 client of a dual-stack socket as ``::ffff:192.0.2.1``, which 2.1 does not
  define and ``inet_pton`` parses. It is converted to IPv4. Otherwise all of these clients would be
  in one IPv6 network for :mod:`x509proxy.downstream.address_limits`.
* A balancer that forwards TCP with a header may put its own before it. The first header is that of
  the nearest balancer, and the last one names the client. So each header's sender is checked, from
  the nearest on.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Iterator

import attrs

from x509proxy.settings import ListenerSettings
from x509proxy.transport.ip_address import Address, unmapped

__all__ = [
    "BadHeader",
    "End",
    "ProxyAddresses",
    "ProxyHeaderParser",
    "TrustedProxies",
    "Unnamed",
    "read_header",
]

_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_TEXT = b"PROXY "
_MAX_LINE_BYTES = 107  # section 2.1, with the CRLF
# Version 2, after the first 16 bytes. Section 2 aims at 536 bytes in all, which TLVs may exceed.
_MAX_BLOCK_BYTES = 2048
_LINE = re.compile(rb"[ -~]+")
_PORT = re.compile(rb"0|[1-9][0-9]{0,4}")
_LOCAL, _PROXY = 0x20, 0x21  # version and command
_TCP4, _TCP6 = 0x11, 0x21
# Bytes of the addresses of each valid family and protocol. UNSPEC has an unknown content.
_SIZES = {0x00: None, _TCP4: 12, 0x12: 12, _TCP6: 36, 0x22: 36, 0x31: 216, 0x32: 216}
_CRC32C = 0x03  # the type of the TLV, section 2.2.3


class BadHeader(ValueError):
    """An invalid or untrusted PROXY header. The text contains nothing of the received data."""


class Unnamed(enum.Enum):
    """A header without a client address: the addresses of the connection itself are used."""

    LOCAL = "LOCAL"
    """The balancer's own connection, such as a health check. No other header follows."""
    UNKNOWN = "UNKNOWN"
    """A client's connection without a known address."""


@attrs.frozen
class End:
    """One end of a connection."""

    host: str
    """An IP address as text, without a zone."""
    port: int
    """0 to 65535."""


@attrs.frozen
class ProxyAddresses:
    """The addresses of the client and of its connection's destination."""

    source: End
    destination: End


def read_header(data: bytes) -> tuple[ProxyAddresses | Unnamed, bytes] | None:
    """Parse the header at the beginning of ``data``, and return it with the bytes after it.

    ``None`` means that the header is incomplete. A complete one has at most 2064 bytes.

    :raises BadHeader: ``data`` is not the beginning of a header.
    """
    if data.startswith(_SIGNATURE):
        return _read_binary(data)
    if data.startswith(_TEXT):
        return _read_text(data)
    if _SIGNATURE.startswith(data) or _TEXT.startswith(data):
        return None
    raise BadHeader("no PROXY header")


# Version 1.


def _read_text(data: bytes) -> tuple[ProxyAddresses | Unnamed, bytes] | None:
    end = data.find(b"\r\n", 0, _MAX_LINE_BYTES)
    if end >= 0:
        return _read_line(data[:end]), data[end + 2 :]
    if len(data) >= _MAX_LINE_BYTES:
        raise BadHeader("a line without an end")
    return None


def _read_line(line: bytes) -> ProxyAddresses | Unnamed:
    if not _LINE.fullmatch(line):
        raise BadHeader("control characters in the line")
    match line.split(b" "):
        case [_, b"UNKNOWN", *_]:
            return Unnamed.UNKNOWN
        case [_, b"TCP4", source, destination, source_port, destination_port]:
            kind: type[Address] = ipaddress.IPv4Address
        case [_, b"TCP6", source, destination, source_port, destination_port]:
            kind = ipaddress.IPv6Address
        case _:
            raise BadHeader("an unknown format of the line")
    return ProxyAddresses(
        _end(kind, source, source_port), _end(kind, destination, destination_port)
    )


def _end(kind: type[Address], host: bytes, port: bytes) -> End:
    if not _PORT.fullmatch(port) or int(port) > 65535:
        raise BadHeader("an invalid port")
    try:
        address = kind(host.decode("ascii"))
    except ValueError:
        raise BadHeader("an invalid address") from None
    if getattr(address, "scope_id", None) is not None:
        raise BadHeader("an address with a zone")
    return End(str(unmapped(address)), int(port))


# Version 2.


def _read_binary(data: bytes) -> tuple[ProxyAddresses | Unnamed, bytes] | None:
    if len(data) < 16:
        return None
    command, family, length = data[12], data[13], int.from_bytes(data[14:16], "big")
    if command not in (_LOCAL, _PROXY):
        raise BadHeader("an unknown version or command")
    if length > _MAX_BLOCK_BYTES:
        raise BadHeader("too long")
    end = 16 + length
    if len(data) < end:
        return None
    # The addresses of a health check are ignored, whatever they are (2.2).
    header = Unnamed.LOCAL if command == _LOCAL else _read_block(family, data[:end])
    return header, data[end:]


def _read_block(family: int, whole: bytes) -> ProxyAddresses | Unnamed:
    if family not in _SIZES:
        raise BadHeader("an unknown address family or protocol")
    size = _SIZES[family]
    if size is None:
        return Unnamed.UNKNOWN
    if len(whole) < 16 + size:
        raise BadHeader("truncated addresses")
    for offset in _checksum_offsets(whole, 16 + size):
        found = int.from_bytes(whole[offset : offset + 4], "big")
        # The checksum is computed with zeros in its own place (2.2.3).
        if _crc32c(whole[:offset] + bytes(4) + whole[offset + 4 :]) != found:
            raise BadHeader("a wrong checksum")
    if family not in (_TCP4, _TCP6):
        return Unnamed.UNKNOWN
    return _read_addresses(whole[16 : 16 + size])


def _read_addresses(block: bytes) -> ProxyAddresses:
    size = (len(block) - 4) // 2
    kind: type[Address] = ipaddress.IPv4Address if size == 4 else ipaddress.IPv6Address
    hosts = [str(unmapped(kind(block[offset : offset + size]))) for offset in (0, size)]
    ports = int.from_bytes(block[-4:-2], "big"), int.from_bytes(block[-2:], "big")
    return ProxyAddresses(*map(End, hosts, ports))


def _checksum_offsets(whole: bytes, offset: int) -> Iterator[int]:
    """Yield the offsets of checksums in the TLVs from ``offset`` on.

    :raises BadHeader: the TLVs do not fill the header exactly.
    """
    while offset < len(whole):
        begin = offset + 3
        length = int.from_bytes(whole[offset + 1 : begin], "big")
        if begin + length > len(whole):
            raise BadHeader("a truncated TLV")
        if whole[offset] == _CRC32C:
            if length != 4:
                raise BadHeader("a checksum of another size")
            yield begin
        offset = begin + length


def _remainder(octet: int) -> int:
    for _ in range(8):
        octet = (octet >> 1) ^ (0x82F63B78 if octet & 1 else 0)
    return octet


_REMAINDERS = tuple(map(_remainder, range(256)))


def _crc32c(data: bytes) -> int:
    """Return the CRC-32C (RFC 4960 appendix B, RFC 3385), which Python's library does not have."""
    crc = 0xFFFFFFFF
    for octet in data:
        crc = (crc >> 8) ^ _REMAINDERS[(crc ^ octet) & 0xFF]
    return crc ^ 0xFFFFFFFF


# Trust.


@attrs.frozen
class TrustedProxies:
    """The balancers whose headers are trusted."""

    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    hops: int = 1
    """Number of headers in a row."""

    @classmethod
    def of(cls, settings: ListenerSettings) -> TrustedProxies:
        """Return the trusted balancers of a listener."""
        return cls(tuple(map(ipaddress.ip_network, settings.trusted_proxies)), settings.proxy_hops)

    def trusts(self, host: str | None) -> bool:
        """Return True if headers from this address are trusted.

        ``None`` stands for a unix socket, whose file mode decides who can connect.
        """
        if host is None:
            return True
        address = unmapped(ipaddress.ip_address(host))
        return any(address in network for network in self.networks)


class ProxyHeaderParser:
    """A parser of all headers of one connection, of which the nearest balancer's is the first.

    The sender of each header must be trusted. The sender of the first is ``peer``, and that of each
    other is the address in the header before it.
    """

    def __init__(self, trusted: TrustedProxies, peer: str | None) -> None:
        self._trusted = trusted
        self._sender = peer
        self._missing = trusted.hops
        self._data = b""
        self._addresses: ProxyAddresses | None = None

    def feed(self, data: bytes) -> tuple[ProxyAddresses | None, bytes] | None:
        """Parse received data, and return ``None`` until all headers are complete.

        Then return the client's addresses and the bytes after the headers. The addresses are
        ``None`` if those of the connection itself are to be used.

        :raises BadHeader: a header is invalid, or its sender is not trusted.
        """
        self._data += data
        while self._missing:
            if not self._trusted.trusts(self._sender):
                raise BadHeader("its address is not among those that are trusted")
            found = read_header(self._data)
            if found is None:
                return None
            self._add(found[0])
            self._data = found[1]
        return self._addresses, self._data

    def _add(self, header: ProxyAddresses | Unnamed) -> None:
        self._missing -= 1
        if isinstance(header, ProxyAddresses):
            self._addresses, self._sender = header, header.source.host
        elif header is Unnamed.LOCAL:
            self._missing = 0
        elif self._missing:
            raise BadHeader("a header without an address before another header")
