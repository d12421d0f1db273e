"""The admin listener: a status page, JSON of the same, metrics, and what a balancer asks. Plain HTTP, for this machine alone.

It is served by the proxy's own channel and not by Twisted's: that one holds bodies of any size, and goes on after a refusal. What
this one needs in addition is here: whose names it answers to.

A page that a browser of this machine shows can have its own name point to 127.0.0.1, and then read what is there (DNS rebinding).
It cannot choose the ``Host`` that the browser sends: that is its own name. So only names that are known are answered to, and
addresses, which nobody can have point elsewhere.
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

from x509proxy.downstream.factory import ProxyFactory, WhenFull
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

# One who watches, one who scrapes, and some who ask whether all is well.
_CLIENT = ClientSettings(
    handshake_timeout=5.0, head_timeout=5.0, body_timeout=5.0, idle_timeout=20.0, send_timeout=10.0, drain_timeout=1.0,
    max_connections=64, max_head_bytes=8192, max_line_bytes=4096, max_target_bytes=1024, max_header_fields=50, max_body_bytes=1, request_buffer_bytes=1,
)  # fmt: skip
_EVERY = 2.0  # seconds between two samples for the graphs
_FIELDS = (
    (b"Cache-Control", b"no-store"),
    (b"Content-Security-Policy", CONTENT_SECURITY_POLICY.encode("ascii")),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Referrer-Policy", b"no-referrer"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
)


@attrs.frozen
class _Answer:
    status: int
    content_type: str
    body: bytes


def _text(status: int, text: str) -> _Answer:
    return _Answer(status, "text/plain; charset=utf-8", f"{text}\n".encode())


class Admin:
    """Listens where ``[admin]`` says; answers with what ``source`` knows.

    :raises SettingsError: Twisted does not understand the endpoint.
    """

    _log = Logger()

    def __init__(self, settings: AdminSettings, source: SnapshotSource, reactor: Any) -> None:
        self.history = History()
        # Whoever looks at the proxy is not one of its clients, and is not counted among them.
        self.observe: Observer = unobserved
        self._names = frozenset({"localhost", *settings.allowed_hosts})
        self._source = source
        self._place = ListeningEndpoint(reactor, settings.listen, "admin.listen")
        self._port: IListeningPort | None = None
        self._factory = ProxyFactory(
            self, Deadlines(reactor), _CLIENT, when_full=WhenFull.CUT_OLDEST
        )
        self._looking = LoopingCall(self._look)
        self._looking.clock = reactor
        self._pages: dict[bytes, Callable[[], _Answer]] = {
            b"/": self._page, b"/status.json": self._json, b"/metrics": self._metrics, b"/healthz": self._health,
            b"/readyz": self._readiness,
        }  # fmt: skip

    @property
    def address(self) -> Any:
        """Where it listens, once it does."""
        assert self._port is not None
        return self._port.getHost()

    def listen(self) -> None:
        """Begin, and look at the source every two seconds from now on.

        :raises SettingsError: the place cannot be had.
        """
        self._port = self._place.bind(self._factory)
        self._looking.start(_EVERY)

    def stop(self) -> Deferred[None]:
        """Listen no more. To be called last of all: until then ``/readyz`` says that the proxy is draining."""
        if self._port is None:
            return succeed(None)
        port, self._port = self._port, None
        self._looking.stop()
        return maybeDeferred(port.stopListening).addCallback(lambda _: self._factory.drain())

    def _look(self) -> None:
        try:
            self.history.add(self._source.snapshot())
        except Exception:
            # Or the loop would end with it.
            self._log.failure("the proxy could not be looked at")

    # The channel's calls.

    def serve(self, request: Request) -> None:
        """Answer, at once and whole."""
        head = request.head
        if not self._is_ours(head.host):
            request.answer(
                ErrorResponse(
                    Code.MISDIRECTED,
                    "a host that is not served",
                    "This name is not in hosts of [admin]",
                )
            )
        elif head.method not in (b"GET", b"HEAD"):
            request.answer(ErrorResponse(Code.METHOD_NOT_ALLOWED, "method", "GET and HEAD only"))
        else:
            _send(request, self._pages.get(head.target.partition(b"?")[0], _nothing)())

    def _is_ours(self, host: bytes) -> bool:
        # HAProxy's checks name none unless told to; a browser, which others may lead here, always does.
        name = host_name(host)
        return not name or name in self._names or _is_address(name)

    # The pages.

    def _page(self) -> _Answer:
        return _Answer(
            200, "text/html; charset=utf-8", status_page(self._source.snapshot(), self.history)
        )

    def _json(self) -> _Answer:
        return _Answer(200, "application/json", status_json(self._source.snapshot(), self.history))

    def _metrics(self) -> _Answer:
        try:
            return _Answer(200, *exposition(self._source.snapshot()))
        except SettingsError as error:
            return _text(501, str(error))

    def _health(self) -> _Answer:
        return _text(200, "ok")

    def _readiness(self) -> _Answer:
        snapshot = self._source.snapshot()
        if snapshot.ready:
            return _text(200, "ready")
        return _text(503, "draining" if snapshot.draining else "no back end is up")


def _nothing() -> _Answer:
    return _text(404, "There are /, /status.json, /metrics, /healthz and /readyz")


def _send(request: Request, answer: _Answer) -> None:
    pairs = [(b"Content-Type", answer.content_type.encode("ascii")), *_FIELDS]
    request.begin(answer.status, b"", pairs, Framing.LENGTH, len(answer.body))
    if request.head.method != b"HEAD":
        request.write(answer.body)
    request.finish()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
