"""The admin listener: a status page, its JSON, metrics and health checks, in plain HTTP.

The proxy's own channel serves it. Twisted's channel buffers bodies of any size and continues after
an error.

Facts
-----
* A web page can let its own name point to 127.0.0.1 and then read what is served there (DNS
  rebinding). It cannot choose the ``Host`` field: the browser sends the page's name. So requests
  are served only for configured names, and for addresses, which do not depend on DNS.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from x509proxy.downstream.factory import ProxyFactory
from x509proxy.downstream.request import Request
from x509proxy.exchange import Observer, unobserved
from x509proxy.http1.errors import Code, ErrorResponse
from x509proxy.http1.messages import Framing, host_name
from x509proxy.monitoring.prometheus import exposition
from x509proxy.monitoring.snapshot import SnapshotSource
from x509proxy.monitoring.status_page.history import History
from x509proxy.monitoring.status_page.page import CONTENT_SECURITY_POLICY, status_json, status_page
from x509proxy.service.listening import ListeningEndpoint
from x509proxy.settings import AdminSettings, ClientSettings, SettingsError
from x509proxy.transport.deadlines import Deadlines

__all__ = ["Admin"]

# Enough for browsers, a metrics scraper and the health checks of balancers.
_CLIENT = ClientSettings(
    handshake_timeout=5.0,
    head_timeout=5.0,
    body_timeout=5.0,
    idle_timeout=20.0,
    send_timeout=10.0,
    drain_timeout=1.0,
    max_connections=64,
    max_head_bytes=8192,
    max_line_bytes=4096,
    max_target_bytes=1024,
    max_header_fields=50,
    max_body_bytes=1,
    request_buffer_bytes=1,
)
_SAMPLE_INTERVAL = 2.0  # seconds between two samples for the graphs
_FIELDS = (
    (b"Cache-Control", b"no-store"),
    (b"Content-Security-Policy", CONTENT_SECURITY_POLICY.encode("ascii")),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Referrer-Policy", b"no-referrer"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
)


@attrs.frozen
class _Response:
    status: int
    content_type: str
    body: bytes


def _text(status: int, text: str) -> _Response:
    return _Response(status, "text/plain; charset=utf-8", f"{text}\n".encode())


class Admin:
    """The listener of ``[admin]``, which shows the snapshots of ``source``.

    :raises SettingsError: Twisted rejects the endpoint.
    """

    _log = Logger()

    def __init__(self, settings: AdminSettings, source: SnapshotSource, reactor: Any) -> None:
        self.history = History()
        # Requests to this listener are not counted among those of clients.
        self.observe: Observer = unobserved
        self._names = frozenset({"localhost", *settings.allowed_hosts})
        self._source = source
        self._endpoint = ListeningEndpoint(reactor, settings.listen, "admin.listen")
        self._port: IListeningPort | None = None
        self._factory = ProxyFactory(self, Deadlines(reactor), _CLIENT)
        self._sampling = LoopingCall(self._sample)
        self._sampling.clock = reactor
        self._pages: dict[bytes, Callable[[], _Response]] = {
            b"/": self._page,
            b"/status.json": self._json,
            b"/metrics": self._metrics,
            b"/healthz": self._health,
            b"/readyz": self._readiness,
        }

    @property
    def address(self) -> Any:
        """Return the address of the listener, after :meth:`listen`."""
        assert self._port is not None
        return self._port.getHost()

    def listen(self) -> None:
        """Begin to listen, and to take a sample of the source every two seconds.

        :raises SettingsError: the address cannot be bound.
        """
        self._port = self._endpoint.bind(self._factory)
        self._sampling.start(_SAMPLE_INTERVAL)

    def stop(self) -> Deferred[None]:
        """Stop listening.

        It is the last listener to stop, so that ``/readyz`` shows that the proxy is draining.
        """
        if self._port is None:
            return succeed(None)
        port, self._port = self._port, None
        self._sampling.stop()
        return maybeDeferred(port.stopListening).addCallback(lambda _: self._factory.drain())

    def _sample(self) -> None:
        try:
            self.history.add(self._source.snapshot())
        except Exception:
            # An exception would end the LoopingCall.
            self._log.failure("cannot take a sample for the status page")

    # Called by the channel.

    def serve(self, request: Request) -> None:
        """Send the whole response to a request."""
        head = request.head
        if not self._is_served(head.host):
            request.answer(
                ErrorResponse(
                    Code.MISDIRECTED,
                    "host not among the allowed hosts",
                    "This host name is not in allowed-hosts of [admin]",
                )
            )
        elif head.method not in (b"GET", b"HEAD"):
            request.answer(ErrorResponse(Code.METHOD_NOT_ALLOWED, "method", "GET and HEAD only"))
        else:
            _send(request, self._pages.get(head.target.partition(b"?")[0], _not_found)())

    def _is_served(self, host: bytes) -> bool:
        # HAProxy's health checks send no host by default. Browsers always send one.
        name = host_name(host)
        return not name or name in self._names or _is_address(name)

    # The pages.

    def _page(self) -> _Response:
        page = status_page(self._source.snapshot(), self.history)
        return _Response(200, "text/html; charset=utf-8", page)

    def _json(self) -> _Response:
        content = status_json(self._source.snapshot(), self.history)
        return _Response(200, "application/json", content)

    def _metrics(self) -> _Response:
        try:
            return _Response(200, *exposition(self._source.snapshot()))
        except SettingsError as error:
            return _text(501, str(error))

    def _health(self) -> _Response:
        return _text(200, "ok")

    def _readiness(self) -> _Response:
        snapshot = self._source.snapshot()
        if snapshot.ready:
            return _text(200, "ready")
        return _text(503, "draining" if snapshot.draining else "no back end is up")


def _not_found() -> _Response:
    return _text(404, "Not found. Paths: /, /status.json, /metrics, /healthz and /readyz")


def _send(request: Request, response: _Response) -> None:
    pairs = [(b"Content-Type", response.content_type.encode("ascii")), *_FIELDS]
    request.begin(response.status, b"", pairs, Framing.LENGTH, len(response.body))
    if request.head.method != b"HEAD":
        request.write(response.body)
    request.finish()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
