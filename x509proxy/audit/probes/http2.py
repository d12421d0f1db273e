"""Probes of HTTP/2: pseudo-header fields, values invalid in HTTP/1.1, connection fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs

from x509proxy.audit import judge
from x509proxy.audit import remedies as fix
from x509proxy.audit.client import Connection
from x509proxy.audit.lab import Exchange, Lab, Response
from x509proxy.audit.probe import Group, NotApplicable, Probe, Script, Severity

if TYPE_CHECKING:
    from h2.connection import H2Connection

__all__ = ["PROBES"]

Pairs = tuple[tuple[bytes, bytes], ...]
_CRITICAL, _HIGH, _MEDIUM, _LOW = Severity
_FORGED = (b"{lower}", b"{forged}")
_INNER = b"GET /x HTTP/1.1\r\nHost: {host}\r\nX-Audit: {token}\r\n{name}: {forged}\r\n\r\n"


@attrs.frozen
class _Request:
    """A request over HTTP/2."""

    pairs: Pairs = ()
    method: bytes = b"GET"
    path: bytes = b"/"
    authority: bytes = b"{host}"
    before: Pairs = ()
    """Fields before the pseudo-header fields."""
    body: bytes = b""
    trailers: Pairs = ()

    def fields(self) -> Pairs:
        """Return all fields in the order of the request."""
        pseudo = (
            (b":method", self.method),
            (b":scheme", b"https"),
            (b":path", self.path),
            (b":authority", self.authority),
        )
        return (*self.before, *pseudo, (b"x-audit", b"{token}"), *self.pairs)


def ask(lab: Lab, request: _Request, client: str = "") -> Exchange:
    """Send a request over HTTP/2, and return the exchange.

    :raises NotApplicable: the terminator does not offer HTTP/2, or h2 is not installed.
    """
    h2_connection = _library()
    parameters = lab.tls(client, protocols=(b"h2", b"http/1.1"))
    token = lab.token()
    with lab.connect(parameters) as connection:
        if connection.protocol != b"h2":
            raise NotApplicable("the terminator does not offer HTTP/2")
        conversation = _Conversation(connection, lab, token, h2_connection)
        responses = conversation.run(request)
        reply = b"".join(response.body for response in responses)
        arrived = lab.arrivals(token, responses)
        sent = b"\r\n".join(b": ".join(pair) for pair in conversation.sent)
        made = Exchange(
            sent, reply, responses, arrived, connection.ending, parameters.client, connection.alert
        )
    lab.transcript.append(made)
    return made


def _library() -> H2Connection:
    try:
        from h2.config import H2Configuration
        from h2.connection import H2Connection
    except ImportError:
        raise NotApplicable("h2 is not installed: pip install h2") from None
    # Without checks of sent fields, because the probes send fields that h2 would reject.
    return H2Connection(
        H2Configuration(
            client_side=True,
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=False,
        )
    )


class _Conversation:
    """A connection with a single stream."""

    def __init__(self, connection: Connection, lab: Lab, token: bytes, http2: H2Connection) -> None:
        self._connection = connection
        self._lab = lab
        self._token = token
        self._http2 = http2
        self.sent: Pairs = ()

    def run(self, request: _Request) -> tuple[Response, ...]:
        """Send the request, and read until the stream ends."""
        http2 = self._http2
        http2.initiate_connection()
        self.sent = self._filled(request.fields())
        ends = not request.body and not request.trailers
        http2.send_headers(1, list(self.sent), end_stream=ends)
        if request.body:
            http2.send_data(1, self._fill(request.body), end_stream=not request.trailers)
        if request.trailers:
            http2.send_headers(1, list(self._filled(request.trailers)), end_stream=True)
        self._flush()
        return self._read()

    def _fill(self, template: bytes) -> bytes:
        return self._lab.fill(template, token=self._token)

    def _filled(self, pairs: Pairs) -> Pairs:
        return tuple((self._fill(name), self._fill(value)) for name, value in pairs)

    def _flush(self) -> None:
        self._connection.send(self._http2.data_to_send())

    def _read(self) -> tuple[Response, ...]:
        from h2 import events
        from h2.exceptions import ProtocolError

        status, body = 0, bytearray()
        pairs: Pairs = ()
        while data := self._connection.read(self._lab.pace.response_seconds):
            try:
                found = self._http2.receive_data(data)
            except ProtocolError:
                break
            self._flush()
            for event in found:
                match event:
                    case events.ResponseReceived(headers=headers):
                        pairs = tuple((bytes(name), bytes(value)) for name, value in headers)
                        code = dict(pairs).get(b":status", b"")
                        status = int(code) if code.isdigit() else 0
                    case events.DataReceived(data=piece):
                        body += piece
            if any(
                isinstance(
                    event, events.StreamEnded | events.StreamReset | events.ConnectionTerminated
                )
                for event in found
            ):
                break
        return (Response(status, pairs, bytes(body)),) if status else ()


def _script(*requests: _Request, genuine: bool = False) -> Script:
    """Return a script that sends each request without a certificate and with one."""

    def run(lab: Lab) -> Iterator[str]:
        for request in requests:
            for client in ("", "client"):
                exchange = ask(lab, request, client)
                yield from judge.forged(lab, exchange)
                yield from judge.kept(lab, exchange)
                yield from judge.framing(exchange)
                if genuine and client:
                    yield from judge.accepted(lab, exchange)

    return run


def _never(*requests: _Request, names: tuple[bytes, ...] = ()) -> Script:
    """Return a script of requests that must not arrive with a field, or at another target."""

    def run(lab: Lab) -> Iterator[str]:
        for request in requests:
            exchange = ask(lab, request, "client")
            yield from judge.forged(lab, exchange)
            yield from judge.framing(exchange)
            for arrival in exchange.arrived:
                for name in names:
                    if arrival.values(name):
                        yield f"{name.decode()}: found the field at the back end, expected none"
                if b" " in arrival.target or b" " in arrival.method or b"\r" in arrival.target:
                    yield (
                        "found white space in the request line at the back end, expected status 400"
                    )

    return run


def _authority(lab: Lab) -> Iterator[str]:
    """Send a Host other than :authority. The back end must receive one."""
    for request in (
        _Request(((b"host", b"other.invalid"),)),
        _Request(before=((b"host", b"other.invalid"),)),
    ):
        for arrival in ask(lab, request, "client").arrived:
            hosts = arrival.values(b"host")
            if len(hosts) != 1 or b"other.invalid" in hosts:
                yield "Host: found the client's other host at the back end, expected :authority"


def _crumbs(lab: Lab) -> Iterator[str]:
    """Send a cookie in several fields (RFC 9113 section 8.2.3). A single one must arrive."""
    request = _Request(((b"cookie", b"a=1"), (b"cookie", b"b=2")))
    for arrival in ask(lab, request, "client").arrived:
        if arrival.values(b"cookie") != [b"a=1; b=2"]:
            yield "Cookie: found several fields at the back end, expected one"


def _probe(probe_id: str, severity: Severity, promise: str, reference: str, run: Script) -> Probe:
    return Probe(probe_id, Group.HTTP2, severity, promise, reference, run, fix.HTTP2)


_SPLIT = b"a\r\n{name}: {forged}"

PROBES: tuple[Probe, ...] = (
    _probe(
        "h2-identity",
        _CRITICAL,
        "Over HTTP/2 the certificate arrives as over HTTP/1.1.",
        "GHSA-gv8r-9rw9-9697 (Traefik, HTTP/3)",
        _script(_Request(), genuine=True),
    ),
    _probe(
        "h2-forged",
        _CRITICAL,
        "Over HTTP/2 the header is removed.",
        "CVE-2024-45410 (Traefik)",
        _script(
            _Request((_FORGED,)),
            _Request((_FORGED, _FORGED)),
            _Request((_FORGED,), path=b"/token", method=b"POST", body=b"a=b"),
        ),
    ),
    _probe(
        "h2-twins",
        _HIGH,
        "Over HTTP/2 the twins of the name are removed.",
        "CVE-2026-52845 (Caddy)",
        _script(_Request(((b"{lowertwin}", b"{forged}"),))),
    ),
    _probe(
        "h2-upper",
        _CRITICAL,
        "A name in upper case is rejected or removed.",
        "RFC 9113 section 8.2.1",
        _script(_Request(((b"{name}", b"{forged}"), (b"{upper}", b"{forged}")))),
    ),
    _probe(
        "h2-value-lines",
        _CRITICAL,
        "Line ends in a value are rejected.",
        "CVE-2021-31618; HTTP/2: the sequel is always worse",
        _script(
            _Request(((b"x-a", _SPLIT),)),
            _Request(((b"x-a", b"a\n{name}: {forged}"),)),
            _Request(((b"x-a", b"a\r{name}: {forged}"),)),
        ),
    ),
    _probe(
        "h2-name-lines",
        _CRITICAL,
        "Line ends and colons in a name are rejected.",
        "CVE-2021-41524; RFC 9113 section 8.2.1",
        _script(
            _Request(((b"x-a: b\r\n{lower}", b"{forged}"),)),
            _Request(((b"{lower}:", b"{forged}"),)),
            _Request(((b"{lower} ", b"{forged}"),)),
        ),
    ),
    _probe(
        "h2-path-lines",
        _CRITICAL,
        "Line ends and spaces in :path are rejected.",
        "CVE-2023-25690 (Apache)",
        _never(_Request(path=b"/ HTTP/1.1\r\n{name}: {forged}\r\nx: y"), _Request(path=b"/a b")),
    ),
    _probe(
        "h2-method-lines",
        _CRITICAL,
        "Line ends and spaces in :method are rejected.",
        "CVE-2021-33193 (Apache)",
        _never(
            _Request(method=b"GET / HTTP/1.1\r\n{name}: {forged}\r\nx: y"),
            _Request(method=b"GET /x HTTP/1.1"),
        ),
    ),
    _probe(
        "h2-authority-lines",
        _CRITICAL,
        "Line ends in :authority are rejected.",
        "RFC 9113 section 8.3.1",
        _never(_Request(authority=b"{host}\r\n{name}: {forged}")),
    ),
    _probe(
        "h2-authority-host",
        _HIGH,
        "A Host other than :authority does not reach the back end.",
        "RFC 9113 section 8.3.1",
        _authority,
    ),
    _probe(
        "h2-pseudo",
        _HIGH,
        "Repeated, unknown and late pseudo-header fields are rejected.",
        "RFC 9113 section 8.3",
        _script(
            _Request(((b":path", b"/other"), _FORGED)),
            _Request(((b":{lower}", b"{forged}"),)),
            _Request(before=((b":path", b"/admin"), _FORGED)),
        ),
    ),
    _probe(
        "h2-connection",
        _HIGH,
        "Connection fields never reach the back end, and Connection removes nothing.",
        "RFC 9113 section 8.2.2",
        _script(
            _Request(((b"connection", b"{lower}"),)),
            _Request(((b"connection", b"close, {lower}"), _FORGED)),
            _Request(((b"proxy-connection", b"{lower}"), _FORGED)),
        ),
    ),
    _probe(
        "h2-transfer-encoding",
        _CRITICAL,
        "Transfer-Encoding over HTTP/2 hides no request.",
        "HTTP/2: the sequel is always worse (H2.TE)",
        _never(
            _Request(
                ((b"transfer-encoding", b"chunked"),),
                method=b"POST",
                body=b"0\r\n\r\n" + _INNER,
            )
        ),
    ),
    _probe(
        "h2-content-length",
        _CRITICAL,
        "A wrong Content-Length over HTTP/2 hides no request.",
        "HTTP/2: the sequel is always worse (H2.CL)",
        _never(
            _Request(
                ((b"content-length", b"0"),),
                method=b"POST",
                body=_INNER,
            )
        ),
    ),
    _probe(
        "h2-te",
        _LOW,
        "TE other than trailers does not reach the back end.",
        "RFC 9113 section 8.2.2",
        _never(_Request(((b"te", b"gzip"),)), names=(b"te",)),
    ),
    _probe(
        "h2-cookies",
        _LOW,
        "A cookie in several fields arrives as one field.",
        "RFC 9113 section 8.2.3; CVE-2026-49975",
        _crumbs,
    ),
    _probe(
        "h2-trailers",
        _HIGH,
        "The header in trailers over HTTP/2 is removed.",
        "CVE-2025-12642 (lighttpd)",
        _script(_Request(method=b"POST", body=b"hello", trailers=(_FORGED,))),
    ),
)
