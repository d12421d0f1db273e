"""Headers of the PROXY protocol, version 1 and 2."""

from __future__ import annotations

import ipaddress
import struct

from x509proxy.transport.proxy_protocol import (
    End,
    ProxyAddresses,
)

SIGNATURE = bytes.fromhex("0D0A0D0A000D0A515549540A")


FOUR = ProxyAddresses(End("192.0.2.7", 40000), End("198.51.100.1", 443))


SIX = ProxyAddresses(End("2001:db8::7", 1), End("2001:db8:ffff::1", 65535))


LINE = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n"


def line(ends: ProxyAddresses) -> bytes:
    """Encode version 1."""
    kind = "TCP6" if ":" in ends.source.host else "TCP4"
    source, destination = ends.source, ends.destination
    hosts, ports = f"{source.host} {destination.host}", f"{source.port} {destination.port}"
    return f"PROXY {kind} {hosts} {ports}\r\n".encode()


def binary(
    block: bytes, family: int = 0x11, command: int = 0x21, length: int | None = None
) -> bytes:
    """Encode version 2; ``length``: the length field, if it is not the block's."""
    return (
        SIGNATURE
        + struct.pack("!BBH", command, family, len(block) if length is None else length)
        + block
    )


def addresses(ends: ProxyAddresses) -> bytes:
    hosts = b"".join(
        ipaddress.ip_address(end.host).packed for end in (ends.source, ends.destination)
    )
    return hosts + struct.pack("!HH", ends.source.port, ends.destination.port)


def header(ends: ProxyAddresses, *tlvs: bytes) -> bytes:
    return binary(addresses(ends) + b"".join(tlvs), 0x21 if ":" in ends.source.host else 0x11)
