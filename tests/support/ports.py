"""Ports for programs that are started with a port number.

The kernel takes the ports of ``bind(0)`` and of outgoing connections from one range
(``net.ipv4.ip_local_port_range``). A closed port of ``bind(0)`` can be a connection's own when a
server binds it. Ports below the range are only bound by number.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from itertools import cycle

__all__ = ["free_port"]

_BELOW_EPHEMERAL = range(20_000, 32_768)
_FIRST = random.randrange(len(_BELOW_EPHEMERAL))
# The ports are used in turn, so that none is given twice. The first one is random, since other runs
# can exist beside this process.
_candidates: Iterator[int] = cycle((*_BELOW_EPHEMERAL[_FIRST:], *_BELOW_EPHEMERAL[:_FIRST]))


# Sockets in the abstract namespace of unix(7): the kernel removes them with the process.
_held: list[socket.socket] = []


def free_port() -> int:
    """Find a free port of the loopback that no connection and no other test run can use."""
    for _, port in zip(_BELOW_EPHEMERAL, _candidates, strict=False):
        if _is_free(port) and _hold(port):
            return port
    raise AssertionError("every port is taken")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _hold(port: int) -> bool:
    """Reserve the port among the test runs on this machine, until this process ends."""
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0x509proxy-test-port-{port}")
    except OSError:
        name.close()
        return False
    _held.append(name)
    return True
