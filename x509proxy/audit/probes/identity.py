"""Probes of the identity: its absence, encoding, shared connections, and bypasses."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from x509proxy.audit import formats, judge
from x509proxy.audit import remedies as fix
from x509proxy.audit.lab import Exchange, Lab, get, message
from x509proxy.audit.plain import open_plain
from x509proxy.audit.probe import Group, NotApplicable, Probe, Remedies, Script, Severity
from x509proxy.audit.recorder import Arrival, Reply, usual
from x509proxy.settings import Format

__all__ = ["PROBES"]

_CRITICAL, _HIGH, _MEDIUM, _LOW = Severity
_FORGED = b"{name}: {forged}"


# No certificate.


def _values(lab: Lab) -> Iterator[tuple[str, bytes]]:
    """Yield the fields with a certificate that arrived on a connection without one."""
    for arrival in lab.send(get()).arrived:
        for field in lab.identifying:
            for value in arrival.values(field.name):
                yield field.name.decode("latin-1"), value.strip()


def _value_is(*words: bytes) -> Script:
    def run(lab: Lab) -> Iterator[str]:
        for name, value in _values(lab):
            if value.lower() in words:
                yield (
                    f"{name}: found {value.decode('latin-1')!r} without a certificate, "
                    "expected no field"
                )

    return run


def _value_other(lab: Lab) -> Iterator[str]:
    """Look for a value other than the usual ones, such as the name of the product's variable."""
    for name, value in _values(lab):
        if value.lower() not in judge.PLACEHOLDERS:
            yield (
                f"{name}: found {value[:40].decode('latin-1')!r} without a certificate, "
                "expected no field"
            )


def _sticky(lab: Lab) -> Iterator[str]:
    """Send a request with a certificate, then one without. Nothing may remain of the first."""
    for _ in range(3):
        lab.send(message(), "client")
        yield from judge.anonymous(lab, lab.send(get()))


def _verified(lab: Lab) -> Iterator[str]:
    """Look for a field that claims a verification on a connection without a certificate."""
    for arrival in lab.send(get()).arrived:
        for name, value in arrival.pairs:
            folded = formats.folds(name)
            if b"verif" in folded and value.strip().upper() in {b"0", b"SUCCESS", b"TRUE", b"OK"}:
                shown = name.decode("latin-1")
                yield (
                    f"{shown}: found {value.decode('latin-1')!r} without a certificate, "
                    "expected NONE"
                )


# Encoding.


def _raw_values(lab: Lab) -> Iterator[tuple[str, bytes, Format, Exchange]]:
    for client in ("client", "rsa"):
        exchange = lab.send(get(), client)
        for arrival in exchange.arrived:
            for field in lab.identifying:
                for value in arrival.values(field.name):
                    yield field.name.decode("latin-1"), value, field.form, exchange


def _exact(lab: Lab) -> Iterator[str]:
    """Parse the value exactly as the server does."""
    for name, value, form, exchange in _raw_values(lab):
        assert exchange.client is not None
        if formats.read(form, value) != exchange.client.digest:
            yield (
                f"{name}: found a value that is not valid in the format {form.value}, "
                "expected the certificate"
            )


def _plus(lab: Lab) -> Iterator[str]:
    """Look for a literal plus in a URL-encoded value."""
    for name, value, form, _ in _raw_values(lab):
        if form in {Format.PEM_URL, Format.XFCC} and b"+" in value:
            yield f'{name}: found a literal "+", expected %2B: form decoders read a space'


def _folded(lab: Lab) -> Iterator[str]:
    """Look for a value on several lines."""
    lab.require_recorder()  # An echo reports parsed fields only.
    for client in ("client", "rsa"):
        for arrival in lab.send(get(), client).arrived:
            head = arrival.raw.partition(b"\r\n\r\n")[0]
            if b"\n\t" in head or b"\n " in head:
                yield (
                    "found a field folded over several lines, "
                    "expected one line (RFC 9112 section 5.2)"
                )


def _space(lab: Lab) -> Iterator[str]:
    """Look for white space in formats that have none."""
    for name, value, form, _ in _raw_values(lab):
        armoured = value.replace(b"-----BEGIN CERTIFICATE-----", b"").replace(
            b"-----END CERTIFICATE-----", b""
        )
        if form in formats.CERTIFICATES - {Format.PEM_SPACES} and armoured.split() != [armoured]:
            yield (
                f"{name}: found white space in the value, expected none in the format {form.value}"
            )


# Connections of several clients.


def _alternating(lab: Lab) -> Iterator[str]:
    """Let two clients and one without a certificate take turns on open connections."""
    with contextlib.ExitStack() as stack:
        ends = [
            (stack.enter_context(lab.connect(lab.tls(client))), client)
            for client in ("client", "other", "")
        ]
        for _ in range(4):
            for connection, client in ends:
                credentials = lab.store.get(client) if client else None
                exchange = lab.ask(connection, message(), credentials)
                yield from judge.genuine(lab, exchange)
                if credentials is None:
                    yield from judge.anonymous(lab, exchange)


def _fresh(lab: Lab) -> Iterator[str]:
    """Let two clients take turns on new connections, so that the back end's are shared."""
    for _ in range(6):
        for client in ("client", "other", ""):
            exchange = lab.send(get(), client)
            yield from judge.genuine(lab, exchange)
            yield from judge.anonymous(lab, exchange) if not client else ()


_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_EXTRA = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx-stolen!"


def _badly(*replies: Reply) -> Script:
    """Return a script with a back end that responds badly, and another client after it."""

    def run(lab: Lab) -> Iterator[str]:
        recorder = lab.recorder
        for reply in replies:
            recorder.responder = lambda arrival, reply=reply: (  # type: ignore[misc]
                reply if arrival.values(b"x-audit-bad") else None
            )
            try:
                lab.send(message(b"X-Audit-Bad: 1"), "client")
                for client in ("other", ""):
                    exchange = lab.send(get(), client)
                    yield from judge.genuine(lab, exchange)
                    if any(b"x-stolen" in response.body for response in exchange.responses):
                        yield (
                            "found the response to another client's request, "
                            "expected this client's own"
                        )
            finally:
                recorder.responder = lambda _: None

    return run


_NTLM = Reply(
    b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM TlRMTVNTUAACAAAA\r\n"
    b"Content-Length: 0\r\n\r\n"
)


def _bound(lab: Lab) -> Iterator[str]:
    """Let the back end authenticate a connection (NTLM), which no other client may use."""
    recorder = lab.recorder

    def respond(arrival: Arrival) -> Reply | None:
        return _NTLM if arrival.values(b"authorization") else None

    recorder.responder = respond
    try:
        first = lab.send(message(b"Authorization: NTLM TlRMTVNTUAABAAAA"), "client").arrived
        second = [arrival for _ in range(4) for arrival in lab.send(get(), "other").arrived]
    finally:
        recorder.responder = lambda _: None
    bound = {arrival.connection for arrival in first}
    if any(arrival.connection in bound for arrival in second):
        yield (
            "found another client on a connection that the back end has authenticated, "
            "expected a new one"
        )


def _reflected(lab: Lab) -> Iterator[str]:
    """Let the back end repeat the header in its response."""
    recorder = lab.recorder
    field = lab.target.fields[0]

    def respond(arrival: Arrival) -> Reply:
        value = b"".join(arrival.values(field.name))
        lines = b"%b: %b\r\nVary: %b\r\n" % (field.name, value, field.name)
        plain = usual(arrival).data
        return Reply(plain.replace(b"\r\n\r\n", b"\r\n" + lines + b"\r\n", 1), usual(arrival).close)

    recorder.responder = respond
    try:
        reply = lab.send(get(), "client").reply
    finally:
        recorder.responder = lambda _: None
    if field.name.lower() in reply.lower():
        yield "found the header's name in the response to the client, expected it to be removed"


# Other ways to the back end.


def _direct(lab: Lab) -> Iterator[str]:
    """Connect to the back end without the terminator."""
    if lab.target.direct is None:
        raise NotApplicable("needs the back end's own address: give --direct")
    back_end = lab.target.direct
    exchange = open_plain(lab, back_end, get(_FORGED))
    if exchange is None:
        return
    yield f"{back_end.host}:{back_end.port}: found the back end reachable, expected no connection"
    yield from judge.forged(lab, exchange)


def _plain(*templates: bytes) -> Script:
    def run(lab: Lab) -> Iterator[str]:
        if lab.target.plain is None:
            raise NotApplicable("needs the address of the unencrypted port: give --plain")
        for field in lab.target.fields:
            for template in templates:
                exchange = open_plain(lab, lab.target.plain, template, field)
                if exchange is not None:
                    yield from judge.forged(lab, exchange)
                    yield from judge.anonymous(lab, exchange)

    return run


def _absence(probe_id: str, severity: Severity, promise: str, reference: str, run: Script) -> Probe:
    return Probe(probe_id, Group.ABSENCE, severity, promise, reference, run, fix.ABSENCE)


def _encoding(
    probe_id: str,
    severity: Severity,
    promise: str,
    reference: str,
    run: Script,
) -> Probe:
    return Probe(probe_id, Group.ENCODING, severity, promise, reference, run, fix.FORMAT)


def _shared(
    probe_id: str,
    severity: Severity,
    promise: str,
    reference: str,
    run: Script,
    fixes: Remedies = fix.REUSE,
) -> Probe:
    return Probe(probe_id, Group.CONNECTIONS, severity, promise, reference, run, fixes)


def _reach(
    probe_id: str,
    severity: Severity,
    promise: str,
    reference: str,
    run: Callable[[Lab], Iterator[str]],
) -> Probe:
    return Probe(probe_id, Group.REACH, severity, promise, reference, run, fix.REACH)


PROBES: tuple[Probe, ...] = (
    _absence(
        "absent-empty",
        _LOW,
        "Without a certificate the header is absent, not empty.",
        "RFC 9440 section 2.4",
        _value_is(b"", b'""'),
    ),
    _absence(
        "absent-null",
        _MEDIUM,
        "Without a certificate the header is absent, not (null).",
        "Apache RequestHeader; Authlete and SSLValve ignore (null)",
        _value_is(b"(null)", b"null", b"undefined"),
    ),
    _absence(
        "absent-dash",
        _MEDIUM,
        "Without a certificate the header is absent, not a dash.",
        "log formats as header values",
        _value_is(b"-", b"none"),
    ),
    _absence(
        "absent-placeholder",
        _HIGH,
        "Without a certificate the header has no other text.",
        "CVE-2026-30851 (Caddy), caddy#7530",
        _value_other,
    ),
    _absence(
        "absent-after-other",
        _CRITICAL,
        "Nothing of a client with a certificate remains for one without.",
        "CVE-2026-30851 (Caddy)",
        _sticky,
    ),
    _absence(
        "absent-verified",
        _HIGH,
        "No field claims that a missing certificate was verified.",
        "HAProxy ssl_c_verify is 0 without one",
        _verified,
    ),
    _encoding(
        "encoding-exact",
        _HIGH,
        "The server can parse the certificate in the header.",
        "tgies/client-certificate-auth#210",
        _exact,
    ),
    _encoding(
        "encoding-plus",
        _MEDIUM,
        "A URL-encoded value has no literal plus.",
        "wso2/api-manager#5085, hashicorp/vault#31728",
        _plus,
    ),
    _encoding(
        "encoding-space",
        _MEDIUM,
        "The value has no white space that its format does not have.",
        "caddyserver/caddy#3767",
        _space,
    ),
    _encoding(
        "encoding-folded",
        _HIGH,
        "The value is on one line.",
        "nginx $ssl_client_cert, nginx-devel 2016",
        _folded,
    ),
    _shared(
        "clients-alternating",
        _CRITICAL,
        "Clients that take turns keep their own identities.",
        "HAProxy http-reuse always; connection pools",
        _alternating,
    ),
    _shared(
        "clients-fresh",
        _CRITICAL,
        "Clients on new connections keep their own identities.",
        "HAProxy http-reuse always; connection pools",
        _fresh,
    ),
    _shared(
        "back-end-extra",
        _CRITICAL,
        "An extra response is not sent to the next client.",
        "Desync attacks on responses (CVE-2022-36760, Apache)",
        _badly(Reply(_OK + _EXTRA), Reply(_OK.replace(b" 2", b" 0").removesuffix(b"ok") + _EXTRA)),
    ),
    _shared(
        "back-end-broken",
        _CRITICAL,
        "A broken response leaves nothing for the next client.",
        "RFC 9112 section 6.3",
        _badly(
            Reply(
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"0\r\n\r\n" + _EXTRA
            ),
            Reply(b"garbage\r\n\r\n" + _EXTRA),
            Reply(_OK, close=True),
            Reply(b"", close=True),
        ),
    ),
    _shared(
        "back-end-interim",
        _HIGH,
        "An interim response is not treated as the final one.",
        "RFC 9110 section 15.2",
        _badly(
            Reply(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + _EXTRA),
            Reply(b"HTTP/1.1 100 Continue\r\n\r\n" + _EXTRA),
        ),
    ),
    _shared(
        "back-end-bound",
        _MEDIUM,
        "A connection that the back end has authenticated is not shared.",
        "nginx keepalive with NTLM; RFC 4559 section 6",
        _bound,
        fix.REUSE,
    ),
    _shared(
        "response-name",
        _LOW,
        "The header's name is never sent to the client.",
        "RFC 9440 section 4: Vary",
        _reflected,
        fix.RESPONSES,
    ),
    _reach(
        "direct",
        _CRITICAL,
        "The back end cannot be reached without the terminator.",
        "RFC 9440 section 4; Mailu CVE-2026-85751",
        _direct,
    ),
    _reach(
        "plain-forged",
        _CRITICAL,
        "The unencrypted port passes no forged header.",
        "CVE-2026-46579 (OpenShift router)",
        _plain(get(_FORGED), get(b"{twin}: {forged}"), get(b"{lower}: {forged}", version=b"1.0")),
    ),
)
