"""IP addresses as text in a single form, in which they are forwarded, counted and compared.

Facts
-----
* A dual-stack socket reports an IPv4 client as ``::ffff:192.0.2.1``.
* A link-local address has a zone, such as ``fe80::1%eth0``, which is not a node of RFC 7239 and has
  no meaning on other hosts.
"""

from __future__ import annotations

import ipaddress

__all__ = ["UNKNOWN", "Address", "plain_address", "subscriber", "unmapped"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
UNKNOWN = "unknown"
"""The address of a client on a unix socket."""
_IPV6_PREFIX = 64  # The network of one subscriber (RFC 6177).


def plain_address(host: str) -> str:
    """Return an address without its zone, and in IPv4 form if it is mapped.

    Text that is not an address is returned unchanged.
    """
    if ":" not in host:
        return host
    try:
        return str(unmapped(ipaddress.IPv6Address(host.partition("%")[0])))
    except ValueError:
        return host


def unmapped(address: Address) -> Address:
    """Return the IPv4 address of an IPv4-mapped one, and other addresses unchanged."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped


def subscriber(host: str) -> str:
    """Return the IPv4 address, or the IPv6 network of one subscriber.

    An IPv4 client of a dual-stack socket counts by its IPv4 address.
    """
    plain = plain_address(host)
    if ":" not in plain:
        return plain
    try:
        return str(ipaddress.IPv6Network((plain, _IPV6_PREFIX), strict=False))
    except ValueError:
        return plain
