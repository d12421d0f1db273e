"""The PROXY protocol: what a balancer says of a connection's client before the connection's own first byte.

Facts
-----
* HAProxy's ``proxy-protocol.txt``; section numbers are its own. Version 1 is one line of text (2.1), version 2 is binary (2.2).
* A receiver must not guess whether there is a header (2): whoever could leave it out or put one in would choose his own address.
* TCP may cut a header anywhere, and a receiver should bear it (2); Twisted's own ``haproxy:`` endpoint drops such a connection.
* LOCAL (2.2), UNKNOWN (2.1) and UNSPEC (2.2) name nobody: the connection's real ends count. So do they for what is valid and no
  TCP over IP (2.2): datagrams, unix sockets.
* HAProxy writes an IPv4 client of a dual-stack socket as ``::ffff:192.0.2.1``, dotted, which 2.1 does not foresee, and
  ``inet_pton`` reads. It is IPv4 here: in one IPv6 network all such clients would count as one (:mod:`x509proxy.downstream.address_limits`).
* A balancer that hands TCP on, and puts a header of its own before the one it received, makes two headers in a row: the first is
  the nearest balancer's, the last one names the client. So trust goes step by step, from the near end.
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
_LONGEST_LINE = 107  # section 2.1, the CRLF included
_LONGEST_BLOCK = 2048  # of version 2, after its first 16 bytes; the whole is meant to fit 536 (section 2), and TLVs may not
_LINE = re.compile(rb"[ -~]+")
_PORT = re.compile(rb"0|[1-9][0-9]{0,4}")
_LOCAL, _PROXY = 0x20, 0x21  # version and command
_TCP4, _TCP6 = 0x11, 0x21
# How many bytes of addresses each valid family and protocol has. Of UNSPEC nothing is known, TLVs neither.
_SIZES = {0x00: None, _TCP4: 12, 0x12: 12, _TCP6: 36, 0x22: 36, 0x31: 216, 0x32: 216}
_CRC32C = 0x03  # the type of the TLV, section 2.2.3


class BadHeader(ValueError):
    """What begins the connection is no PROXY header, or not one to be believed. Its text quotes nothing of what came."""


class Unnamed(enum.Enum):
    """A header that names no client: the real ends of the connection count."""

    LOCAL = "LOCAL"
    """The balancer speaks for itself: a health check. No header of anybody else's is behind it."""
    UNKNOWN = "UNKNOWN"
    """A client's connection, of which the balancer cannot or does not say whose."""


@attrs.frozen
class End:
    """One end of a connection. ``host``: an IP address as text, without a zone; ``port``: 0 to 65535."""

    host: str
    port: int


@attrs.frozen
class ProxyAddresses:
    """Where the client is, and where it connected to."""

    source: End
    destination: End


def read_header(data: bytes) -> tuple[ProxyAddresses | Unnamed, bytes] | None:
    """The header that ``data`` begins with, and what is behind it; ``None`` while more has to come, 2064 bytes at the most.

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
    end = data.find(b"\r\n", 0, _LONGEST_LINE)
    if end >= 0:
        return _read_line(data[:end]), data[end + 2 :]
    if len(data) >= _LONGEST_LINE:
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
            raise BadHeader("an unknown form of line")
    return ProxyAddresses(
        _end(kind, source, source_port), _end(kind, destination, destination_port)
    )


def _end(kind: type[Address], host: bytes, port: bytes) -> End:
    if not _PORT.fullmatch(port) or int(port) > 65535:
        raise BadHeader("a port that is none")
    try:
        address = kind(host.decode("ascii"))
    except ValueError:
        raise BadHeader("an address that is none") from None
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
    if length > _LONGEST_BLOCK:
        raise BadHeader("too long")
    end = 16 + length
    if len(data) < end:
        return None
    # What a health check says of itself is to be skipped, whatever it is.
    header = Unnamed.LOCAL if command == _LOCAL else _read_block(family, data[:end])
    return header, data[end:]


def _read_block(family: int, whole: bytes) -> ProxyAddresses | Unnamed:
    if family not in _SIZES:
        raise BadHeader("an unknown address family or protocol")
    size = _SIZES[family]
    if size is None:
        return Unnamed.UNKNOWN
    if len(whole) < 16 + size:
        raise BadHeader("addresses cut short")
    for place in _checksums(whole, 16 + size):
        if _crc32c(whole[:place] + bytes(4) + whole[place + 4 :]) != int.from_bytes(
            whole[place : place + 4], "big"
        ):
            raise BadHeader("a wrong checksum")
    if family not in (_TCP4, _TCP6):
        return Unnamed.UNKNOWN
    return _read_addresses(whole[16 : 16 + size])


def _read_addresses(block: bytes) -> ProxyAddresses:
    size = (len(block) - 4) // 2
    # Either class takes an address as bytes, of its own size.
    kind: type[Address] = ipaddress.IPv4Address if size == 4 else ipaddress.IPv6Address
    hosts = [str(unmapped(kind(block[place : place + size]))) for place in (0, size)]
    ports = int.from_bytes(block[-4:-2], "big"), int.from_bytes(block[-2:], "big")
    return ProxyAddresses(*map(End, hosts, ports))


def _checksums(whole: bytes, place: int) -> Iterator[int]:
    """Walk the TLVs from ``place`` on, which have to fill the header exactly; where the values of checksums are."""
    while place < len(whole):
        begin = place + 3
        length = int.from_bytes(whole[place + 1 : begin], "big")
        if begin + length > len(whole):
            raise BadHeader("a TLV cut short")
        if whole[place] == _CRC32C:
            if length != 4:
                raise BadHeader("a checksum of another size")
            yield begin
        place = begin + length


def _remainder(octet: int) -> int:
    for _ in range(8):
        octet = (octet >> 1) ^ (0x82F63B78 if octet & 1 else 0)
    return octet


_REMAINDERS = tuple(map(_remainder, range(256)))


def _crc32c(data: bytes) -> int:
    """Castagnoli's (RFC 4960 appendix B, RFC 3385); none of Python's own."""
    crc = 0xFFFFFFFF
    for octet in data:
        crc = (crc >> 8) ^ _REMAINDERS[(crc ^ octet) & 0xFF]
    return crc ^ 0xFFFFFFFF


# Whom to believe.


@attrs.frozen
class TrustedProxies:
    """Whose headers are believed, and how many of them stand in a row."""

    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    hops: int = 1

    @classmethod
    def of(cls, settings: ListenerSettings) -> TrustedProxies:
        return cls(tuple(map(ipaddress.ip_network, settings.trusted_proxies)), settings.proxy_hops)

    def believes(self, host: str | None) -> bool:
        """``host``: the address of whoever speaks; ``None`` stands for a unix socket, whose own mode says who may."""
        if host is None:
            return True
        address = unmapped(ipaddress.ip_address(host))
        return any(address in network for network in self.networks)


class ProxyHeaderParser:
    """The headers of one connection, as they come: from the nearest balancer to the client.

    Each is believed if whoever has written it is; the first one's writer is ``peer``, the others' are who the one before names.
    """

    def __init__(self, believed: TrustedProxies, peer: str | None) -> None:
        self._believed = believed
        self._speaker = peer
        self._left = believed.hops
        self._data = b""
        self._ends: ProxyAddresses | None = None

    def feed(self, data: bytes) -> tuple[ProxyAddresses | None, bytes] | None:
        """The client's ends (``None``: the connection's own) and what is behind the headers; ``None`` while more has to come.

        :raises BadHeader: the connection is not to be served.
        """
        self._data += data
        while self._left:
            if not self._believed.believes(self._speaker):
                raise BadHeader("its address is not among those that are trusted")
            found = read_header(self._data)
            if found is None:
                return None
            self._take(found[0])
            self._data = found[1]
        return self._ends, self._data

    def _take(self, header: ProxyAddresses | Unnamed) -> None:
        self._left -= 1
        if isinstance(header, ProxyAddresses):
            self._ends, self._speaker = header, header.source.host
        elif header is Unnamed.LOCAL:
            self._left = 0
        elif self._left:
            raise BadHeader("nobody is named whose header could be believed")
