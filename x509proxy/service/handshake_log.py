"""The log of failed TLS handshakes: a limited number of lines a second in the service's own log.

Facts
-----
* A line of the access log is a request, which a failed handshake does not have.
* A port scan, or a balancer that only connects, sends no first message. These connections are only
  counted.
"""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger

from x509proxy.config.loader import Configuration
from x509proxy.forwarding.header_rules import redact
from x509proxy.monitoring.handshake_log_format import HandshakeFailure, failure_line
from x509proxy.service.access_log import RateLimiter

__all__ = ["HandshakeLog"]

_NOT_LOGGED = frozenset({"no_client_hello"})


class HandshakeLog:
    """An observer of failed handshakes that logs them."""

    _log = Logger()

    def __init__(self, configuration: Configuration, clock: Any) -> None:
        rate = configuration.settings.max_logged_errors_per_second
        self._limiter = RateLimiter(rate, 1.0, clock, self._report_others)
        self.use(configuration)

    def use(self, configuration: Configuration) -> None:
        """Log by this configuration from now on."""
        self._rules = configuration.rules
        self._limiter.rate = configuration.settings.max_logged_errors_per_second

    def failed(self, failure: HandshakeFailure) -> None:
        """Log one failure, if the limit allows."""
        if failure.reason not in _NOT_LOGGED and self._limiter.take():
            line = redact(failure_line(failure), self._rules)
            self._log.info("TLS handshake failed: {line}", line=line, reason=failure.reason)

    def close(self) -> None:
        """Report the failures that were not logged."""
        self._limiter.end()

    def _report_others(self, count: int) -> None:
        self._log.info("{count} more failed TLS handshakes are not logged", count=count)
