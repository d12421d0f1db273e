"""Probes of forged headers: names, syntax, other certificate headers, methods and targets.

Each template is sent without a client certificate and with one. A forged value is the victim's
certificate in the format of the back end.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from x509proxy.audit import formats, judge
from x509proxy.audit import remedies as fix
from x509proxy.audit.corpus import KNOWN_CLAIMS, SIBLINGS
from x509proxy.audit.lab import Lab, get, message
from x509proxy.audit.probe import Group, Probe, Remedies, Script, Severity
from x509proxy.audit.recorder import Arrival

__all__ = ["PROBES"]

_CRITICAL, _HIGH, _MEDIUM, _LOW = Severity
_END = b"\r\nX-Audit: {token}\r\nConnection: close\r\n\r\n"
_FORGED = b"{name}: {forged}"


def script(*templates: bytes) -> Script:
    """Return a script that sends each template for each field, with and without a certificate."""

    def run(lab: Lab) -> Iterator[str]:
        for field in lab.target.fields:
            for template in templates:
                for client in ("", "client"):
                    exchange = lab.send(template, client, field)
                    yield from judge.forged(lab, exchange)
                    yield from judge.kept(lab, exchange)
                    yield from judge.framing(exchange)

    return run


@attrs.frozen
class _Lines:
    """A probe of header lines. The id is completed by the group's prefix."""

    id: str
    severity: Severity
    promise: str
    reference: str
    lines: tuple[bytes, ...]


def _probes(group: Group, fixes: Remedies, rows: tuple[_Lines, ...]) -> Iterator[Probe]:
    for row in rows:
        templates = [line if line.startswith(b"!") else get(line) for line in row.lines]
        run = script(*(template.removeprefix(b"!") for template in templates))
        yield Probe(row.id, group, row.severity, row.promise, row.reference, run, fixes)


_NAMES = (
    _Lines(
        "name-same",
        _CRITICAL,
        "A field with the header's own name never arrives from a client.",
        "CVE-2024-10039 (Keycloak behind a proxy)",
        (_FORGED,),
    ),
    _Lines(
        "name-lower",
        _CRITICAL,
        "The name is compared without case: lower case is removed.",
        "CVE-2026-33433 (Traefik)",
        (b"{lower}: {forged}",),
    ),
    _Lines(
        "name-upper",
        _CRITICAL,
        "The name is compared without case: upper case is removed.",
        "CVE-2026-33433 (Traefik)",
        (b"{upper}: {forged}",),
    ),
    _Lines(
        "name-swapped",
        _CRITICAL,
        "The name is compared without case: swapped case is removed.",
        "RFC 9110 section 5.1",
        (b"{swapped}: {forged}",),
    ),
    _Lines(
        "name-repeated",
        _CRITICAL,
        "Each of several copies of the header is removed.",
        "CVE-2020-25017 (Envoy)",
        (
            b"{name}: {forged}\r\n{name}: {forged}",
            b"{lower}: {forged}\r\n{upper}: {forged}\r\n{name}: {forged}",
        ),
    ),
)
_TWINS = (
    _Lines(
        "twin-underscores",
        _HIGH,
        "The name with underscores, which CGI-like servers read as the same, is removed.",
        "CVE-2026-39858 (Traefik), CVE-2026-52845 (Caddy)",
        (b"{twin}: {forged}",),
    ),
    _Lines(
        "twin-first",
        _HIGH,
        "The name with one underscore is removed.",
        "CVE-2025-64484 (oauth2-proxy)",
        (b"{first}: {forged}",),
    ),
    _Lines(
        "twin-hyphens",
        _HIGH,
        "The name with hyphens for its underscores is removed.",
        "CVE-2015-0219 (Django)",
        (b"{hyphens}: {forged}",),
    ),
    _Lines(
        "twin-both",
        _HIGH,
        "A twin beside a copy of the header is removed too.",
        "CVE-2026-52845 (Caddy)",
        (b"{name}: {forged}\r\n{twin}: {forged}",),
    ),
)
_MARKS = b".!#$%&'*+^`|~"


def _marked(lab: Lab) -> Iterator[str]:
    """Send the name with each other token character in place of its separators."""
    separators = bytes.maketrans(b"-_", b"\0\0")
    for field in lab.target.fields:
        for mark in _MARKS:
            name = field.name.translate(separators).replace(b"\0", bytes([mark]))
            exchange = lab.send(get(name + b": {forged}"), "", field)
            yield from judge.forged(lab, exchange)


def _comma(lab: Lab) -> Iterator[str]:
    """Send a value with two elements, and an empty value before the forged one."""
    yield from script(get(b"{name}: x, {forged}"), get(b"{name}:\r\n{name}: {forged}"))(lab)


_SYNTAX = (
    _Lines(
        "syntax-space-before-colon",
        _CRITICAL,
        "A space between name and colon is rejected, not ignored.",
        "RFC 9112 section 5.1; CVE-2026-54388 (tinyproxy)",
        (b"{name} : {forged}", b"{name}  : {forged}"),
    ),
    _Lines(
        "syntax-tab-before-colon",
        _CRITICAL,
        "A tab between name and colon is rejected, not ignored.",
        "RFC 9112 section 5.1",
        (b"{name}\t: {forged}",),
    ),
    _Lines(
        "syntax-leading-space",
        _CRITICAL,
        "White space before a header line is rejected.",
        "RFC 9112 section 2.2",
        (
            b"!GET / HTTP/1.1\r\n {name}: {forged}\r\nHost: {host}" + _END,
            b"!GET / HTTP/1.1\r\n\t{name}: {forged}\r\nHost: {host}" + _END,
        ),
    ),
    _Lines(
        "syntax-folded",
        _HIGH,
        "A folded line never becomes a field of its own.",
        "RFC 9112 section 5.2; CVE-2025-32094 (Akamai)",
        (b"X-A: a\r\n {name}: {forged}", b"X-A: a\r\n\t{name}: {forged}"),
    ),
    _Lines(
        "syntax-folded-name",
        _HIGH,
        "The header with a folded value is removed whole.",
        "RFC 9112 section 5.2",
        (b"{name}:\r\n {forged}", b"{name}: a\r\n\t{forged}"),
    ),
    _Lines(
        "syntax-bare-lf",
        _CRITICAL,
        "A bare LF in a value never begins a field at the back end.",
        "CVE-2023-25690 (Apache)",
        (b"X-A: a\n{name}: {forged}",),
    ),
    _Lines(
        "syntax-bare-cr",
        _CRITICAL,
        "A bare CR in a value is rejected.",
        "RFC 9112 section 2.2",
        (b"X-A: a\r{name}: {forged}",),
    ),
    _Lines(
        "syntax-nul",
        _HIGH,
        "NUL in a value or a name is rejected.",
        "CVE-2019-9900 (Envoy)",
        (b"X-A: a\0{name}: {forged}", b"{name}\0: {forged}", b"\0{name}: {forged}"),
    ),
    _Lines(
        "syntax-high-byte-name",
        _HIGH,
        "Bytes beyond ASCII in a name are rejected.",
        "RFC 9110 section 5.6.2",
        (b"{name}\xff: {forged}", b"{name}\xc2\xa0: {forged}"),
    ),
    _Lines(
        "syntax-empty-name",
        _HIGH,
        "An empty name does not hide the fields after it.",
        "CVE-2023-25725 (HAProxy)",
        (b": x\r\n{name}: {forged}", b":{name}: {forged}"),
    ),
    _Lines(
        "syntax-no-colon",
        _HIGH,
        "A line without a colon does not hide the fields after it.",
        "RFC 9112 section 5",
        (b"X-A\r\n{name}: {forged}",),
    ),
    _Lines(
        "syntax-many-fields",
        _HIGH,
        "The header is removed after many other fields too.",
        "RFC 9110 section 5.4",
        (b"\r\n".join([*(b"X-A%d: a" % at for at in range(80)), _FORGED]),),
    ),
    _Lines(
        "syntax-long-value",
        _HIGH,
        "The header with a very long value is removed or rejected.",
        "CVE-2019-18277 (HAProxy)",
        (b"{name}: " + b"a" * 7000 + b"{forged}",),
    ),
    _Lines(
        "syntax-second-head",
        _CRITICAL,
        "An encoded line end in the target stays encoded.",
        "CVE-2019-12387 (Twisted)",
        (
            b"!GET /%0d%0a{name}:%20{forged} HTTP/1.1\r\nHost: {host}" + _END,
            b"!GET /x\r{name}:{forged} HTTP/1.1\r\nHost: {host}" + _END,
        ),
    ),
)


def _splitters(lab: Lab) -> Iterator[str]:
    """Send a value with the characters that some servers treat as a line end."""
    for mark in (b"\x0b", b"\x0c", b"\x1c", b"\x1e", b"\x85", b"\xc2\x85", b"\xe2\x80\xa8"):
        exchange = lab.send(get(b"X-A: a" + mark + b"{name}: {forged}"))
        for arrival in exchange.arrived:
            # A server in Python may use str.splitlines(), which splits at all of them.
            if mark in b"".join(arrival.values(b"x-a")):
                yield f"X-A: found the control character {mark!r} at the back end, expected none"


_CONNECTION = (
    _Lines(
        "connection-nominates",
        _HIGH,
        "Connection never removes the genuine header.",
        "CVE-2022-31813 (Apache), CVE-2024-45410 (Traefik)",
        (b"!" + message(b"Connection: close, {name}"), b"!" + message(b"Connection: {lower}")),
    ),
    _Lines(
        "connection-nominates-forged",
        _CRITICAL,
        "A forged header that Connection nominates does not arrive.",
        "CVE-2024-45410 (Traefik)",
        (
            b"!" + message(b"Connection: close, {name}", _FORGED),
            b"!" + message(b"Connection: close, {twin}", b"{twin}: {forged}"),
        ),
    ),
    _Lines(
        "connection-keep-alive",
        _HIGH,
        "Keep-Alive and Proxy-Connection never remove the genuine header.",
        "RFC 9110 section 7.6.1",
        (b"!" + message(b"Connection: close", b"Keep-Alive: {name}", b"Proxy-Connection: {name}"),),
    ),
    _Lines(
        "upgrade-h2c",
        _HIGH,
        "An upgrade to h2c does not bypass the rules.",
        "h2cSmuggler; CVE-2021-21295 (Netty)",
        (
            b"!"
            + message(
                b"Connection: Upgrade, HTTP2-Settings",
                b"Upgrade: h2c",
                b"HTTP2-Settings: AAMAAABkAAQAAP__",
                _FORGED,
            ),
        ),
    ),
    _Lines(
        "upgrade-websocket",
        _HIGH,
        "The same rules apply to an upgrade to WebSocket.",
        "websocket smuggling (Mikhail Egorov, 2019)",
        (
            b"!"
            + message(
                b"Connection: Upgrade",
                b"Upgrade: websocket",
                b"Sec-WebSocket-Version: 13",
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                _FORGED,
            ),
        ),
    ),
)

_TRAILED = b"5\r\nhello\r\n0\r\n{name}: {forged}\r\n\r\n"
_CODED = b"Transfer-Encoding: chunked"
_TRAILERS = (
    _Lines(
        "trailer",
        _HIGH,
        "The header in a trailer section is removed.",
        "CVE-2025-12642 (lighttpd)",
        (b"!" + message(_CODED, b"Connection: close", body=_TRAILED, method=b"POST"),),
    ),
    _Lines(
        "trailer-announced",
        _HIGH,
        "The header in an announced trailer section is removed.",
        "RFC 9110 section 6.5; CVE-2025-59822 (http4s)",
        (
            b"!"
            + message(
                _CODED,
                b"Trailer: {name}",
                b"TE: trailers",
                b"Connection: close, TE",
                body=_TRAILED,
                method=b"POST",
            ),
        ),
    ),
    _Lines(
        "chunk-extension",
        _HIGH,
        "A chunk's extension never becomes a field.",
        "CVE-2025-55315 (Kestrel)",
        (
            b"!"
            + message(
                _CODED,
                b"Connection: close",
                method=b"POST",
                body=b"5;\n{name}: {forged}\r\nhello\r\n0\r\n\r\n",
            ),
            b"!"
            + message(
                _CODED,
                b"Connection: close",
                method=b"POST",
                body=b"5;{name}={forged}\r\nhello\r\n0\r\n\r\n",
            ),
        ),
    ),
)


_VALUE = b"x509proxy-audit-sibling"
_AT_ONCE = 60


def _sibling(names: tuple[bytes, ...]) -> Script:
    """Return a script that sends fields with these names, a limited number per request."""

    def run(lab: Lab) -> Iterator[str]:
        others = [name for name in names if formats.folds(name) not in lab.folded]
        for at in range(0, len(others), _AT_ONCE):
            lines = [name + b": " + _VALUE for name in others[at : at + _AT_ONCE]]
            for arrival in lab.send(get(*lines)).arrived:
                yield from _forwarded(arrival)

    return run


def _forwarded(arrival: Arrival) -> Iterator[str]:
    for name, found in arrival.pairs:
        if _VALUE in found:
            shown = name.decode("latin-1")
            yield f"{shown}: found the client's value at the back end, expected no such field"


_METHODS = (b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"PATCH", b"AUDIT")


def _methods(lab: Lab) -> Iterator[str]:
    """Send the forged header with each method."""
    yield from script(*(get(_FORGED, method=method) for method in _METHODS))(lab)


def _post(lab: Lab) -> Iterator[str]:
    """Send the forged header with a form, by length and in chunks."""
    close, form = b"Connection: close", b"Content-Type: application/x-www-form-urlencoded"
    sized = message(_FORGED, close, form, b"Content-Length: 9", body=b"grant=abc", method=b"POST")
    coded = message(
        _FORGED, close, form, _CODED, body=b"9\r\ngrant=abc\r\n0\r\n\r\n", method=b"POST"
    )
    yield from script(sized, coded)(lab)


def _traced(lab: Lab) -> Iterator[str]:
    """Send TRACE, whose response repeats the request that arrived."""
    for client in ("", "client"):
        exchange = lab.send(get(_FORGED, method=b"TRACE"), client)
        yield from judge.forged(lab, exchange)
        names = [field.name for field in lab.target.fields]
        bodies = b"".join(response.body for response in exchange.responses).lower()
        if exchange.status == 200 and any(name.lower() in bodies for name in names):
            yield "TRACE: found the header in the response, expected status 405"


def _tunnel(lab: Lab) -> Iterator[str]:
    """Request a tunnel to the back end, and send a request through it."""
    for target in (b"{host}:443", b"127.0.0.1:80"):
        template = get(_FORGED, target=target, method=b"CONNECT")
        yield from judge.forged(lab, lab.send(template + get(_FORGED)))


_PATHS = (
    b"/token",
    b"/oauth2/token",
    b"/a/b/c/",
    b"//token",
    b"/./token",
    b"/a/../token",
    b"/%2e/token",
    b"/a%2ftoken",
    b"/token;x=1",
    b"/token?a=b",
    b"/TOKEN",
    b"/token%00",
    b"/~",
    b"/*",
)
_SPECIAL = (
    b"/.well-known/acme-challenge/x",
    b"/.well-known/openid-configuration",
    b"/robots.txt",
    b"/favicon.ico",
    b"/static/x.css",
    b"/health",
    b"/healthz",
    b"/status",
    b"/metrics",
    b"/jwks.json",
    b"/index.html",
    b"/api/",
)


def _on(*targets: bytes) -> Script:
    return script(*(get(_FORGED, target=target) for target in targets))


def _given(lab: Lab) -> Iterator[str]:
    """Send the forged header to each target that the user named."""
    yield from _on(*lab.target.paths, b"/")(lab)


def _large(lab: Lab) -> Iterator[str]:
    """Announce a body that is too large. The header must not arrive despite the error response."""
    lines = (_FORGED, b"Connection: close", b"Content-Length: 99999999999")
    yield from script(message(*lines, method=b"POST"))(lab)


def _target(probe_id: str, severity: Severity, promise: str, reference: str, run: Script) -> Probe:
    return Probe(probe_id, Group.TARGETS, severity, promise, reference, run, fix.TARGETS)


PROBES: tuple[Probe, ...] = (
    *_probes(Group.NAMES, fix.NAMES, _NAMES),
    *_probes(Group.NAMES, fix.TWINS, _TWINS),
    Probe(
        "twin-marks",
        Group.NAMES,
        _HIGH,
        "The name with dots or other marks, which some servers fold, is removed.",
        "HAProxy manual, FastCGI; gunicorn header_map",
        _marked,
        fix.TWINS,
    ),
    Probe(
        "name-comma",
        Group.NAMES,
        _CRITICAL,
        "A value with two elements, and an empty first copy, are removed completely.",
        "Traefik and Keycloak 26.5: comma-joined values (keycloak#46395)",
        _comma,
        fix.NAMES,
    ),
    *_probes(Group.SYNTAX, fix.SYNTAX, _SYNTAX),
    Probe(
        "syntax-splitters",
        Group.SYNTAX,
        _LOW,
        "Control characters that some servers treat as a line end do not arrive.",
        "RFC 9110 section 5.5",
        _splitters,
        fix.SYNTAX,
    ),
    *_probes(Group.SYNTAX, fix.CONNECTION, _CONNECTION),
    *_probes(Group.SYNTAX, fix.FRAMING, _TRAILERS),
    *(
        Probe(
            probe_id,
            Group.SIBLINGS,
            _LOW,
            f"{', '.join(name.decode() for name in names)}: not forwarded from clients.",
            reference,
            _sibling(names),
            fix.SIBLINGS,
        )
        for probe_id, reference, names in SIBLINGS
    ),
    Probe(
        "sibling-known",
        Group.SIBLINGS,
        _LOW,
        "No certificate header of another known product is forwarded.",
        "the proxy's own corpus (x509proxy.forwarding.claim_headers)",
        _sibling(KNOWN_CLAIMS),
        fix.SIBLINGS,
    ),
    _target(
        "method-any",
        _CRITICAL,
        "The header is removed whatever the method.",
        "RFC 9110 section 9",
        _methods,
    ),
    _target(
        "method-post",
        _CRITICAL,
        "The header is removed from requests with a body.",
        "RFC 9112 section 6",
        _post,
    ),
    _target(
        "method-trace",
        _HIGH,
        "TRACE does not repeat the header to the client.",
        "CVE-2004-2320 (TRACE)",
        _traced,
    ),
    _target(
        "method-connect",
        _HIGH,
        "CONNECT opens no tunnel to the back end.",
        "CVE-2023-25690 (Apache)",
        _tunnel,
    ),
    _target(
        "target-paths",
        _CRITICAL,
        "The header is removed however the path is written.",
        "CVE-2026-124723 (APISIX), CVE-2026-0976 (Keycloak)",
        _on(*_PATHS),
    ),
    _target(
        "target-special",
        _CRITICAL,
        "The header is removed on paths that often have separate rules.",
        "nginx: proxy_set_header is not inherited",
        _on(*_SPECIAL),
    ),
    _target(
        "target-given",
        _CRITICAL,
        "The header is removed on each path that was given (--path).",
        "nginx: proxy_set_header is not inherited",
        _given,
    ),
    _target(
        "target-absolute",
        _CRITICAL,
        "The header is removed from requests in absolute form.",
        "RFC 9112 section 3.2.2",
        _on(b"https://{host}/token", b"http://{host}/token", b"HTTPS://{host}/"),
    ),
    _target(
        "target-asterisk",
        _CRITICAL,
        "The header is removed from OPTIONS *.",
        "RFC 9112 section 3.2.4",
        script(get(_FORGED, target=b"*", method=b"OPTIONS")),
    ),
    _target(
        "target-error",
        _CRITICAL,
        "No forged header arrives despite an error response of the terminator.",
        "Apache CVE-2024-38473",
        _on(b"/%", b"/%zz", b"/" + b"a" * 6000, b"no-slash"),
    ),
    _target(
        "target-large",
        _HIGH,
        "No forged header arrives with a body that is too large.",
        "RFC 9110 section 15.5.14",
        _large,
    ),
    _target(
        "version-1.0",
        _CRITICAL,
        "The header is removed from requests of HTTP/1.0.",
        "RFC 9112 section 2.3",
        script(
            get(_FORGED, version=b"1.0"),
            message(_FORGED, b"Connection: keep-alive", version=b"1.0"),
        ),
    ),
    _target(
        "version-odd",
        _HIGH,
        "No forged header arrives with other versions of HTTP/1.",
        "RFC 9112 section 2.3",
        script(
            get(_FORGED, version=b"1.9"),
            get(_FORGED, version=b"2.0"),
            get(_FORGED, version=b"1.1 "),
            b"GET /{token}\r\n{name}: {forged}\r\n\r\n",
        ),
    ),
)
