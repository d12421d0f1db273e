"""Probes of message framing: request smuggling and pipelines."""

from __future__ import annotations

from collections.abc import Iterator

from x509proxy.audit import judge
from x509proxy.audit import remedies as fix
from x509proxy.audit.lab import Exchange, Lab, message
from x509proxy.audit.probe import Group, Probe, Script, Severity

__all__ = ["PROBES"]

_INNER = (
    b"GET /x509proxy-audit-inner HTTP/1.1\r\nHost: {host}\r\n"
    b"X-Audit: {token}\r\n{name}: {forged}\r\n\r\n"
)
_CODED = b"Transfer-Encoding: chunked"
_LAST = b"0\r\n\r\n"


def _judged(lab: Lab, exchange: Exchange) -> Iterator[str]:
    yield from judge.forged(lab, exchange)
    yield from judge.framing(exchange)


def _smuggle(*messages: tuple[bytes, bytes]) -> Script:
    """Return a script of header lines with a body, each of which hides a request."""

    def run(lab: Lab) -> Iterator[str]:
        for lines, body in messages:
            inner = lab.fill(_INNER, token=b"a" * 21)
            sized = lines.replace(b"{length}", b"%d" % (len(inner) + len(_LAST)))
            sized = sized.replace(b"{inner}", b"%d" % len(inner))
            yield from _judged(lab, lab.send(message(sized, body=body, method=b"POST")))

    return run


_HIDDEN = _LAST + _INNER


def _coding(*values: bytes) -> Script:
    return _smuggle(
        *(
            (b"Transfer-Encoding: %b\r\nContent-Length: {length}" % value, _HIDDEN)
            for value in values
        ),
        *((b"Transfer-Encoding: %b" % value, _HIDDEN) for value in values),
    )


def _size(*values: bytes) -> Script:
    return _smuggle(*((b"Content-Length: %b" % value, _INNER) for value in values))


def _chunk(*starts: bytes) -> Script:
    return _smuggle(*((_CODED, start + _LAST + _INNER) for start in starts))


def _pipelined(lab: Lab) -> Iterator[str]:
    """Send two requests at once. Each must have the identity of this connection."""
    for client in ("", "client"):
        first = message(b"{name}: {forged}")
        exchange = lab.send(first + message(b"{name}: {forged}", b"Connection: close"), client)
        yield from judge.forged(lab, exchange)
        yield from judge.kept(lab, exchange)


def _after_error(lab: Lab) -> Iterator[str]:
    """Send a request after one that must be rejected. It must not be served."""
    bad = b"GET / HTTP/1.1\r\nHost: {host}\r\nX-Audit: {token}\r\nBad Name : x\r\n\r\n"
    for first in (bad, b"\0\0\0\r\n\r\n", b"GET /\r\n", message(b"Content-Length: x")):
        exchange = lab.send(first + _INNER)
        yield from _judged(lab, exchange)
        if exchange.status >= 400 and exchange.arrived:
            yield (
                "found a request at the back end after an error response, "
                "expected a closed connection"
            )


def _split_head(lab: Lab) -> Iterator[str]:
    """Send a malformed head in pieces. Later bytes must not complete it after the error."""
    token, client = lab.token(), None
    pieces = [
        b"GET / HTTP/1.1\r\nHost: {host}\r\nX-Audit: {token}\r\n",
        b"Bad Name: x\r\n",
        b"{name}: {forged}\r\n\r\n",
    ]
    filled = [lab.fill(piece, token=token) for piece in pieces]
    with lab.connect(lab.tls()) as connection:
        reply = b""
        for piece in filled:
            connection.send(piece)
            reply += connection.read(lab.pace.quiet)
        reply += connection.read(lab.pace.response_seconds) if not reply else b""
        exchange = lab.exchange(connection, b"".join(filled), reply, client, token)
    yield from _judged(lab, exchange)
    if exchange.status >= 400 and exchange.arrived:
        yield "found the rejected request at the back end, expected nothing"


def _body_request(lab: Lab) -> Iterator[str]:
    """Send a request as a body with a correct length. It must stay a body."""
    for method in (b"GET", b"POST", b"HEAD", b"OPTIONS"):
        inner = lab.fill(_INNER, token=b"a" * 21)
        lines = (b"Content-Length: %d" % len(inner), b"Connection: close")
        yield from _judged(lab, lab.send(message(*lines, body=_INNER, method=method)))


def _expect(lab: Lab) -> Iterator[str]:
    """Announce a body with Expect, and send a request instead."""
    inner = lab.fill(_INNER, token=b"a" * 21)
    lines = (b"Expect: 100-continue", b"Content-Length: %d" % len(inner))
    yield from _judged(lab, lab.send(message(*lines, body=_INNER, method=b"POST")))
    yield from _judged(
        lab, lab.send(message(b"Expect: x", *lines[1:], body=_INNER, method=b"POST"))
    )


def _old(lab: Lab) -> Iterator[str]:
    for lines in ((_CODED,), (_CODED, b"Content-Length: 5", b"Connection: keep-alive")):
        exchange = lab.send(message(*lines, body=_HIDDEN, method=b"POST", version=b"1.0"))
        yield from _judged(lab, exchange)


def _probe(probe_id: str, severity: Severity, promise: str, reference: str, run: Script) -> Probe:
    return Probe(probe_id, Group.FRAMING, severity, promise, reference, run, fix.FRAMING)


_CRITICAL, _HIGH = Severity.CRITICAL, Severity.HIGH

PROBES: tuple[Probe, ...] = (
    _probe(
        "framing-cl-te",
        _CRITICAL,
        "A request with both Content-Length and Transfer-Encoding hides no other.",
        "CVE-2020-10108 (Twisted)",
        _smuggle(
            (_CODED + b"\r\nContent-Length: {length}", _HIDDEN),
            (b"Content-Length: {length}\r\n" + _CODED, _HIDDEN),
        ),
    ),
    _probe(
        "framing-te-cl",
        _CRITICAL,
        "A short Content-Length beside chunks hides no request.",
        "CVE-2022-24801 (Twisted)",
        _smuggle((_CODED + b"\r\nContent-Length: 4", b"1\r\nZ\r\n" + _HIDDEN)),
    ),
    _probe(
        "framing-two-lengths",
        _CRITICAL,
        "Two different lengths are rejected.",
        "RFC 9112 section 6.3",
        _smuggle(
            (b"Content-Length: 0\r\nContent-Length: {inner}", _INNER),
            (b"Content-Length: {inner}\r\nContent-Length: 0", _INNER),
        ),
    ),
    _probe(
        "framing-length-list",
        _CRITICAL,
        "A list of different lengths is rejected.",
        "RFC 9112 section 6.3",
        _size(b"0, {inner}", b"{inner}, 0"),
    ),
    _probe(
        "framing-length-sign",
        _CRITICAL,
        "A length with a sign is rejected.",
        "CVE-2022-24801 (Twisted)",
        _size(b"+0", b"-0", b"-1"),
    ),
    _probe(
        "framing-length-odd",
        _CRITICAL,
        "A length that is not a decimal number is rejected.",
        "CVE-2023-40225 (HAProxy)",
        _size(b"0x0", b"", b"0_0", b"1e1", b"99999999999999999999999", b"0 0", b"\xb2"),
    ),
    _probe(
        "framing-length-space",
        _CRITICAL,
        "A space before the colon of Content-Length is rejected.",
        "CVE-2019-16869 (Netty)",
        _smuggle((b"Content-Length : 0", _INNER), (b"Content-Length\t: {inner}", _INNER)),
    ),
    _probe(
        "framing-coding-unknown",
        _CRITICAL,
        "A transfer coding other than chunked is rejected.",
        "CVE-2020-10109 (Twisted)",
        _coding(
            b"xchunked", b"identity", b"chunked, identity", b"gzip, chunked", b"chunkedx", b"cow"
        ),
    ),
    _probe(
        "framing-coding-hidden",
        _CRITICAL,
        "A transfer coding with odd white space or control characters is rejected.",
        "PortSwigger, HTTP desync attacks",
        _coding(b"\x0bchunked", b"\tchunked", b"chunked\x00", b"chunked\t,", b'"chunked"'),
    ),
    _probe(
        "framing-coding-twice",
        _CRITICAL,
        "Transfer-Encoding twice hides no request.",
        "RFC 9112 section 6.1",
        _smuggle(
            (_CODED + b"\r\n" + _CODED, _HIDDEN), (_CODED + b"\r\nTransfer-Encoding: cow", _HIDDEN)
        ),
    ),
    _probe(
        "framing-coding-name",
        _CRITICAL,
        "Other spellings of Transfer-Encoding hide no request.",
        "smuggler, default mutations",
        _smuggle(
            (b"Transfer-Encoding : chunked\r\nContent-Length: {length}", _HIDDEN),
            (b"Transfer_Encoding: chunked\r\nContent-Length: {length}", _HIDDEN),
            (b"X-A: a\n" + _CODED + b"\r\nContent-Length: {length}", _HIDDEN),
            (b" " + _CODED + b"\r\nContent-Length: {length}", _HIDDEN),
        ),
    ),
    _probe(
        "framing-coding-1.0",
        _CRITICAL,
        "Transfer-Encoding in HTTP/1.0 hides no request.",
        "RFC 9112 section 6.1",
        _old,
    ),
    _probe(
        "framing-chunk-size",
        _CRITICAL,
        "A chunk size that is not a hexadecimal number is rejected.",
        "CVE-2022-24801 (Twisted)",
        _chunk(
            b"0x0\r\n\r\n",
            b"+0\r\n\r\n",
            b"-0\r\n\r\n",
            b"0 0\r\n\r\n",
            b"\r\n\r\n",
            b"fffffffffffffffff0\r\n",
        ),
    ),
    _probe(
        "framing-chunk-lines",
        _CRITICAL,
        "A chunk whose lines end in LF alone hides no request.",
        "CVE-2025-43859 (h11)",
        _chunk(b"1\nZ\n", b"1\r\nZ\n", b"1\r\nZZ", b"1\r\nZ\rX"),
    ),
    _probe(
        "framing-chunk-extension",
        _CRITICAL,
        "A chunk's extension with a line end hides no request.",
        "CVE-2025-55315 (Kestrel)",
        _chunk(b"1;a\nZ\r\n", b"1;\n\r\nZ\r\n", b'1;a="\r\nZ\r\n'),
    ),
    _probe(
        "framing-body-request",
        _CRITICAL,
        "A request that is sent as a body stays a body.",
        "twisted.web: GET with a body",
        _body_request,
    ),
    _probe(
        "framing-expect",
        _HIGH,
        "Expect: 100-continue hides no request.",
        "CVE-2025-32094 (Akamai)",
        _expect,
    ),
    _probe(
        "pipeline-identity",
        _CRITICAL,
        "Each request of a pipeline has the identity of its connection.",
        "RFC 9112 section 9.3.2",
        _pipelined,
    ),
    _probe(
        "pipeline-after-error",
        _CRITICAL,
        "No request is served on a connection after an error response.",
        "twisted/twisted#8250",
        _after_error,
    ),
    _probe(
        "pipeline-split-head",
        _CRITICAL,
        "A head that was rejected is not completed by later bytes.",
        "twisted/twisted#9558",
        _split_head,
    ),
)
