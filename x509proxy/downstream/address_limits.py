"""What one address may have of the connections. Off unless configured: behind a NAT or a balancer it shuts out the innocent."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from x509proxy.settings import ClientSettings
from x509proxy.transport.ip_address import plain_address

__all__ = ["AddressLimits"]

_BURST_SECONDS = 2.0
_LARGEST_TABLE = 65536
_IPV6_PREFIX = 64  # what one subscriber has (RFC 6177)


class AddressLimits:
    """Counts the connections of each address, and how fast they come. ``now``: seconds, of any beginning.

    ``met``: the setting that the last one who was not admitted came up against.
    """

    met = ""

    def __init__(self, settings: ClientSettings, now: Callable[[], float]) -> None:
        self.use(settings)
        self._now = now
        self._connections: dict[str, int] = {}
        # Tokens left at a time; an address that is not here has all of them.
        self._tokens: dict[str, tuple[float, float]] = {}

    def use(self, settings: ClientSettings) -> None:
        """Other limits from now on; whoever has more than that keeps it."""
        self._most = settings.max_connections_per_address
        self._rate = settings.handshake_rate_per_address

    def admit(self, host: str) -> bool:
        """Whether ``host`` may have one more connection, which then counts."""
        who = _subscriber(host)
        if self._most is not None and self._connections.get(who, 0) >= self._most:
            self.met = "client.max-connections-per-address"
            return False
        if self._rate is not None and not self._take_token(who, self._rate):
            self.met = "client.handshake-rate-per-address"
            return False
        self._connections[who] = self._connections.get(who, 0) + 1
        return True

    def leave(self, host: str) -> None:
        """One of its connections, which had been admitted, has ended."""
        who = _subscriber(host)
        left = self._connections[who] - 1
        if left:
            self._connections[who] = left
        else:
            del self._connections[who]

    def _take_token(self, who: str, rate: float) -> bool:
        now, most = self._now(), max(1.0, rate * _BURST_SECONDS)
        tokens, since = self._tokens.get(who, (most, now))
        tokens = min(most, tokens + (now - since) * rate)
        if len(self._tokens) >= _LARGEST_TABLE and who not in self._tokens:
            self._forget_the_rested(now, most, rate)
        self._tokens[who] = (tokens - 1, now) if tokens >= 1 else (tokens, now)
        return tokens >= 1

    def _forget_the_rested(self, now: float, most: float, rate: float) -> None:
        """Those who have all their tokens again; if there are none, everybody: a table must not grow with an attack."""
        self._tokens = {
            who: entry
            for who, entry in self._tokens.items()
            if entry[0] + (now - entry[1]) * rate < most
        }
        if len(self._tokens) >= _LARGEST_TABLE:
            self._tokens.clear()


def _subscriber(host: str) -> str:
    """The address, or for IPv6 the network that one subscriber has; an IPv4 client of a dual-stack socket is IPv4."""
    plain = plain_address(host)
    if ":" not in plain:
        return plain
    try:
        return str(ipaddress.IPv6Network((plain, _IPV6_PREFIX), strict=False))
    except ValueError:
        return plain
