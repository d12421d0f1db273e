"""HTTP client for the authorization server: one request, one bounded response, one deadline.

Facts
-----
* Nothing is followed: a redirect is a response like any other, and none that is wanted here.
* The bound counts each byte of the connection, head included: Twisted's parser bounds a header
  line, and not the number of lines.
* A body may end with its connection (Jetty, HTTP/1.0). What is read here is a JSON object, and the
  beginning of one is none. So a body that was cut is rejected by its parser.
* A connection is for one request. The contents of a token are remembered, so requests are rare.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import attrs
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import ConnectingCancelledError, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress, IConsumer, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from x509proxy.config.token_files import TokenFiles
from x509proxy.monitoring.reason_codes import connect_reason
from x509proxy.settings import Backend, Scheme, UpstreamSettings
from x509proxy.upstream.endpoints import backend_endpoint

__all__ = ["FetchError", "Fetched", "HttpClient"]

# RFC 7517 section 8.5 has a type for key sets, and some servers send nothing else.
_DOCUMENTS = "application/json, application/jwk-set+json"
_MAX_AGE = re.compile(rb"(?:\A|[,\s])max-age=\"?([0-9]{1,9})", re.IGNORECASE)


class FetchError(Exception):
    """A request that failed, as a sentence for the log; it quotes nothing that was received."""


@attrs.frozen
class Fetched:
    """A response. ``max_age``: seconds for which it may be kept (RFC 9111), if that is stated."""

    status: int
    body: bytes = attrs.field(repr=False)
    max_age: float | None = None

    def require_ok(self) -> bytes:
        """Return the body of a 200.

        :raises FetchError: it is another status.
        """
        if self.status != 200:
            raise FetchError(f"found status {self.status}, expected 200")
        return self.body


class _Counted(ProtocolWrapper):
    """A connection that is cut after so many bytes."""

    left = 0
    transport: Any

    def dataReceived(self, data: bytes) -> None:
        self.left -= len(data)
        if self.left < 0:
            self.transport.abortConnection()
        else:
            super().dataReceived(data)


class _CountedFactory(WrappingFactory):
    protocol = _Counted
    noisy = False

    def __init__(self, wrapped: IProtocolFactory, most: int) -> None:
        super().__init__(wrapped)
        self._most = most

    def buildProtocol(self, addr: IAddress | None) -> Any:
        wrapper: Any = super().buildProtocol(addr)
        wrapper.left = self._most
        return wrapper


@implementer(IStreamClientEndpoint)
class _CountedEndpoint:
    """An endpoint whose connections are counted. Its caller gets the protocol, not the wrapper."""

    def __init__(self, endpoint: IStreamClientEndpoint, most: int, made: list[_Counted]) -> None:
        self._endpoint = endpoint
        self._most = most
        self._made = made

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        # Two lines in the log for each request, of which a client can cause any number.
        cast(Factory, protocolFactory).noisy = False
        connecting: Deferred[Any] = self._endpoint.connect(
            _CountedFactory(protocolFactory, self._most)
        )
        return connecting.addCallback(self._connected)

    def _connected(self, wrapper: _Counted) -> Any:
        self._made.append(wrapper)
        return wrapper.wrappedProtocol


@implementer(IAgentEndpointFactory)
class _Endpoints:
    """The endpoints for one request, as those of back ends: chain and name are verified."""

    def __init__(self, reactor: Any, files: TokenFiles) -> None:
        self._reactor = reactor
        self._files = files
        self._made: list[_Counted] = []

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        host = uri.host.decode("ascii").strip("[]")
        backend = Backend(scheme=Scheme(uri.scheme.decode("ascii")), host=host, port=uri.port)
        settings = self._files.settings
        connect = UpstreamSettings(connect_timeout=settings.timeout)
        endpoint = backend_endpoint(
            self._reactor, backend, connect, self._files.authorities, self._files.identity
        )
        return _CountedEndpoint(endpoint, settings.max_response_bytes, self._made)

    def end(self, result: Any) -> Any:
        """Cut the connection: Twisted leaves it open when a body's reading is cancelled (26.10).

        :raises FetchError: the response is too large.
        """
        is_too_large = any(connection.left < 0 for connection in self._made)
        while self._made:
            self._made.pop().transport.abortConnection()
        if is_too_large:
            # A body that ends with its connection looks whole after the cut.
            most = self._files.settings.max_response_bytes
            raise FetchError(
                f"found a response of more than {most} bytes, expected max-response-bytes or less"
            )
        return result


@implementer(IBodyProducer)
class _Form:
    """A body that is sent at once."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.length = len(data)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._data)
        return succeed(None)

    def pauseProducing(self) -> None:
        """All of it has been written."""

    def resumeProducing(self) -> None:
        """All of it has been written."""

    def stopProducing(self) -> None:
        """All of it has been written."""


class HttpClient:
    """Requests to the authorization server."""

    def __init__(self, reactor: Any, files: TokenFiles) -> None:
        self._reactor = reactor
        self._files = files

    def trusts_as(self, other: HttpClient) -> bool:
        """Return whether the two clients accept the same servers."""
        return self._files.authorities == other._files.authorities

    def get(self, url: str) -> Deferred[Fetched]:
        """Fetch a URL; :raises FetchError: there is no response in time, or it is too large."""
        return self._request(b"GET", url, {"Accept": _DOCUMENTS})

    def post(self, url: str, form: bytes, fields: Mapping[str, str]) -> Deferred[Fetched]:
        """Send a form, with these header fields; :raises FetchError: as for :meth:`get`."""
        media_type = {"Content-Type": "application/x-www-form-urlencoded"}
        return self._request(b"POST", url, {**media_type, **fields}, _Form(form))

    def _request(
        self, method: bytes, url: str, fields: Mapping[str, str], body: IBodyProducer | None = None
    ) -> Deferred[Fetched]:
        all_fields = {"User-Agent": "x509proxy", "Accept": "application/json", **fields}
        headers = Headers({name: [value] for name, value in all_fields.items()})
        endpoints = _Endpoints(self._reactor, self._files)
        pool = HTTPConnectionPool(self._reactor, persistent=False)
        agent = Agent.usingEndpointFactory(self._reactor, endpoints, pool)
        requested: Deferred[Any] = agent.request(method, url.encode("ascii"), headers, body)
        fetched: Deferred[Fetched] = requested.addCallback(_read)
        fetched.addTimeout(self._files.settings.timeout, self._reactor)
        return fetched.addBoth(endpoints.end).addErrback(_explain)


class _Body(Protocol):
    """A body as it comes. ``readBody`` fails when an Agent's connection is cancelled (26.10)."""

    def __init__(self) -> None:
        self.whole: Deferred[bytes] = Deferred()
        self._pieces: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:
        self._pieces.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if reason.check(ResponseDone, PotentialDataLoss) is None:
            self.whole.errback(reason)
        else:
            self.whole.callback(b"".join(self._pieces))


def _read(response: IResponse) -> Deferred[Fetched]:
    control = b",".join(response.headers.getRawHeaders(b"Cache-Control", []))
    found = _MAX_AGE.search(control)
    max_age = None if found is None else float(found[1])
    body = _Body()
    response.deliverBody(body)
    return body.whole.addCallback(lambda body: Fetched(response.code, body, max_age))


def _explain(failure: Failure) -> Any:
    """Turn every failure into a sentence of this program's own."""
    if failure.check(FetchError) is not None:
        return failure
    reasons = getattr(failure.value, "reasons", None)
    error = reasons[0].value if reasons else failure.value
    if isinstance(error, CancelledError | ConnectingCancelledError | DeferredTimeout):
        raise FetchError("found no response in time") from None
    # Twisted does not report whether a lost connection had completed its TLS handshake.
    is_lost = isinstance(error, ConnectionDone | ConnectionLost)
    reason = "it closed the connection" if is_lost else connect_reason(error, "tokens")
    raise FetchError(f"found no whole response: {reason}") from None
