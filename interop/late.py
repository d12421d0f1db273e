"""A back end that responds late: an echo with a delay, so that requests are in flight.

``python -m interop.late ADDRESS PORT MILLISECONDS``
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.task import deferLater
from twisted.web.server import NOT_DONE_YET

from x509proxy.service.echo import EchoRequest, EchoResource, EchoSite, Secrets

__all__ = ["LateEcho"]


class LateEcho(EchoResource):
    """``seconds``: how long each answer takes."""

    def __init__(self, reactor: Any, seconds: float) -> None:
        super().__init__(secrets=Secrets.SHOWN)
        self._reactor = reactor
        self._seconds = seconds

    def render(self, request: EchoRequest) -> Any:
        deferLater(self._reactor, self._seconds, self._answer, request)
        return NOT_DONE_YET

    def _answer(self, request: Any) -> None:
        body = super().render(request)
        if request.channel is not None:
            request.write(body)
            request.finish()


def main(address: str, port: str, milliseconds: str) -> None:
    """Serve until SIGTERM."""
    from twisted.internet import reactor

    resource = LateEcho(reactor, int(milliseconds) / 1000)
    site: Any = EchoSite(resource)  # type: ignore[no-untyped-call]
    server: Any = reactor
    server.listenTCP(int(port), site, interface=address, backlog=512)
    server.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
