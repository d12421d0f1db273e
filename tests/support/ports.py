"""Ports for what is started by its number.

A port that ``bind(0)`` gave and that was let go may be some connection's own by the time a server asks for it: the kernel takes
both from the same range (``net.ipv4.ip_local_port_range``). Those below it are taken by nobody who did not ask.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from itertools import cycle

__all__ = ["free_port"]

_BELOW_EPHEMERAL = range(20_000, 32_768)
_FIRST = random.randrange(len(_BELOW_EPHEMERAL))
# In turn, so that none is given twice; from somewhere, since others may run beside this process.
_candidates: Iterator[int] = cycle((*_BELOW_EPHEMERAL[_FIRST:], *_BELOW_EPHEMERAL[:_FIRST]))


def free_port() -> int:
    """A port of the loopback's that nobody has just now, and that no connection will be given."""
    for _, port in zip(_BELOW_EPHEMERAL, _candidates, strict=False):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("every port is taken")
