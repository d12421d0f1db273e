"""Limits on the connections of one client address: how many are open, and how fast they come.

They are off unless configured: behind a NAT or a load balancer, many clients share an address.
"""

from __future__ import annotations

from collections.abc import Callable

from x509proxy.settings import ClientSettings
from x509proxy.transport.ip_address import subscriber

__all__ = ["AddressLimits"]

_BURST_SECONDS = 2.0
_MAX_ENTRIES = 65536


class AddressLimits:
    """The connections of each address, counted. ``now`` returns seconds of a monotonic clock.

    ``exceeded_limit``: the setting that the last rejected connection exceeded.
    """

    exceeded_limit = ""

    def __init__(self, settings: ClientSettings, now: Callable[[], float]) -> None:
        self.use(settings)
        self._now = now
        self._connections: dict[str, int] = {}
        # Tokens left at a time. An address without an entry has all of them.
        self._tokens: dict[str, tuple[float, float]] = {}

    def use(self, settings: ClientSettings) -> None:
        """Apply other limits to new connections; open ones stay."""
        self._max_connections = settings.max_connections_per_address
        self._rate = settings.handshake_rate_per_address

    def admit(self, host: str) -> bool:
        """Return true, and count a connection, if ``host`` may have one more."""
        key = subscriber(host)
        limit = self._max_connections
        if limit is not None and self._connections.get(key, 0) >= limit:
            self.exceeded_limit = "client.max-connections-per-address"
            return False
        if self._rate is not None and not self._take_token(key, self._rate):
            self.exceeded_limit = "client.handshake-rate-per-address"
            return False
        self._connections[key] = self._connections.get(key, 0) + 1
        return True

    def leave(self, host: str) -> None:
        """Count the end of a connection that was admitted."""
        key = subscriber(host)
        left = self._connections[key] - 1
        if left:
            self._connections[key] = left
        else:
            del self._connections[key]

    def _take_token(self, key: str, rate: float) -> bool:
        now, capacity = self._now(), max(1.0, rate * _BURST_SECONDS)
        tokens, since = self._tokens.get(key, (capacity, now))
        tokens = min(capacity, tokens + (now - since) * rate)
        if len(self._tokens) >= _MAX_ENTRIES and key not in self._tokens:
            self._evict(now, capacity, rate)
        self._tokens[key] = (tokens - 1, now) if tokens >= 1 else (tokens, now)
        return tokens >= 1

    def _evict(self, now: float, capacity: float, rate: float) -> None:
        """Drop the entries that have all their tokens again, or all entries if none has.

        The table must not grow with the number of addresses in an attack.
        """
        self._tokens = {
            key: entry
            for key, entry in self._tokens.items()
            if entry[0] + (now - entry[1]) * rate < capacity
        }
        if len(self._tokens) >= _MAX_ENTRIES:
            self._tokens.clear()
