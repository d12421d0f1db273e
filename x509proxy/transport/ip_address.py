"""An IP address as text, in the one form in which it is told to others, counted, and compared.

A dual-stack socket sees an IPv4 client as ``::ffff:192.0.2.1``, and a neighbour with a zone, ``fe80::1%eth0``: no node of
RFC 7239, and it means nothing to anybody else.
"""

from __future__ import annotations

import ipaddress

__all__ = ["Address", "plain_address", "unmapped"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def plain_address(host: str) -> str:
    """The address without a zone, and as IPv4 if it is that; what is no address stays as it is."""
    if ":" not in host:
        return host
    try:
        return str(unmapped(ipaddress.IPv6Address(host.partition("%")[0])))
    except ValueError:
        return host


def unmapped(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, if it does."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped
