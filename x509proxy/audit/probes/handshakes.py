"""Probes of handshakes: server names and hosts, versions, resumption, and certificates."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from x509proxy.audit import judge
from x509proxy.audit import remedies as fix
from x509proxy.audit.client import Ending, Tls, Version
from x509proxy.audit.lab import Exchange, Lab, get, message
from x509proxy.audit.probe import Group, NotApplicable, Probe, Remedies, Script, Severity

__all__ = ["PROBES"]

_CRITICAL, _HIGH, _MEDIUM, _LOW = Severity
_FORGED = b"{name}: {forged}"
_SENT = get(_FORGED)


def _judged(lab: Lab, exchange: Exchange) -> Iterator[str]:
    yield from judge.forged(lab, exchange)
    yield from judge.kept(lab, exchange)
    yield from judge.never_anonymous(lab, exchange) if exchange.client else ()


# Server names and hosts.


def _names(*names: Callable[[str], str]) -> Script:
    """Return a script of handshakes with other server names."""

    def run(lab: Lab) -> Iterator[str]:
        for name in names:
            for client in ("", "client"):
                tls = lab.tls(client, server_name=name(lab.target.address.name))
                yield from _judged(lab, lab.send(_SENT, tls=tls))

    return run


def _hosts(*hosts: bytes) -> Script:
    """Return a script of requests with other hosts than the server name of the handshake."""

    def run(lab: Lab) -> Iterator[str]:
        for host in hosts:
            template = _SENT.replace(b"Host: {host}", host)
            for client in ("", "client"):
                yield from _judged(lab, lab.send(template, client))

    return run


def _given_names(lab: Lab) -> Iterator[str]:
    """Send one name in the handshake and another in Host, for each given name."""
    if not lab.target.other_names:
        raise NotApplicable("needs another name that the terminator serves: give --other-name")
    for name in lab.target.other_names:
        yield from _hosts(b"Host: " + name.encode("ascii"))(lab)
        yield from _names(lambda _, name=name: name)(lab)  # type: ignore[misc]


def _cut(**parameters: int) -> Script:
    """Return a script of handshakes with a first message in pieces."""

    def run(lab: Lab) -> Iterator[str]:
        for client in ("", "client"):
            exchange = lab.send(_SENT, tls=lab.tls(client, **parameters))
            if exchange.ending is Ending.REFUSED:
                raise NotApplicable("the terminator rejects a ClientHello in pieces")
            yield from _judged(lab, exchange)

    return run


# Versions and resumption.


def _version(version: Version) -> Script:
    def run(lab: Lab) -> Iterator[str]:
        for client in ("", "client"):
            exchange = lab.send(_SENT, tls=lab.tls(client, version=version))
            if exchange.ending is Ending.REFUSED:
                raise NotApplicable(f"the terminator does not offer {version.name}")
            yield from _judged(lab, exchange)

    return run


def _old(lab: Lab) -> Iterator[str]:
    """Offer only TLS 1.0 or 1.1."""
    for version in (Version.TLS_1_0, Version.TLS_1_1):
        with lab.connect(lab.tls(version=version)) as connection:
            if connection.ending is not Ending.REFUSED:
                yield f"found a handshake of {connection.version}, expected TLS 1.2 or newer"


_BOTH = (Version.TLS_1_2, Version.TLS_1_3)


def _resumed(lab: Lab, first: Tls, second: Tls) -> Iterator[Exchange]:
    """Yield the exchange on a resumed session, if the terminator resumes it."""
    shared = first.shared()
    with lab.connect(shared) as connection:
        lab.ask(connection, message(b"X-A: first"), first.client)
        session = connection.session
    if session is None:
        return
    exchange = lab.send(get(), tls=second.resume(session, shared.context))
    if exchange.resumed:
        yield exchange


def _resumption_keeps(lab: Lab) -> Iterator[str]:
    """Resume with the same certificate. The identity must be the same."""
    for version in _BOTH:
        tls = lab.tls("client", version=version)
        for exchange in _resumed(lab, tls, tls):
            yield from judge.accepted(lab, exchange)


def _resumption_proves(lab: Lab) -> Iterator[str]:
    """Resume without a key. An identity would then have no new proof of possession."""
    for version in _BOTH:
        first, second = lab.tls("client", version=version), lab.tls(version=version)
        for exchange in _resumed(lab, first, second):
            if any(judge.present(lab, exchange)):
                yield (
                    f"{version.name}: found a resumed session with an identity, "
                    "expected a full handshake"
                )


def _resumption_names(lab: Lab) -> Iterator[str]:
    """Resume under another server name."""
    others = lab.target.other_names or ("x509proxy-audit.invalid",)
    for version in _BOTH:
        first = lab.tls("client", version=version)
        for name in others:
            other = lab.tls("client", version=version, server_name=name)
            for _ in _resumed(lab, first, other):
                yield (
                    f"{version.name}: found a session resumed under another name, "
                    "expected a full handshake"
                )


def _renegotiation(lab: Lab) -> Iterator[str]:
    """Request a second handshake on a connection with TLS 1.2."""
    with lab.connect(lab.tls("client", version=Version.TLS_1_2)) as connection:
        if connection.ending is Ending.REFUSED:
            raise NotApplicable("the terminator does not offer TLS_1_2")
        if connection.renegotiate():
            yield "found a renegotiated handshake, expected the terminator to reject it"


def _authorities(lab: Lab) -> Iterator[str]:
    """Count the names in the CertificateRequest."""
    with lab.connect(lab.tls("client")) as connection:
        if count := connection.authorities:
            yield f"found {count} names of authorities in the CertificateRequest, expected none"


# Certificates.


def _kind(*names: str) -> Script:
    """Return a script of clients whose certificate must arrive."""

    def run(lab: Lab) -> Iterator[str]:
        for name in names:
            for fault in judge.accepted(lab, lab.send(get(), name)):
                yield f"{name}: {fault}"

    return run


def _odd(*names: str) -> Script:
    """Return a script of clients whose certificate arrives if their request does."""

    def run(lab: Lab) -> Iterator[str]:
        for name in names:
            exchange = lab.send(get(), name)
            for rule in (judge.genuine, judge.never_anonymous):
                for fault in rule(lab, exchange):
                    yield f"{name}: {fault}"

    return run


def _explained(*names: str) -> Script:
    """Return a script of clients that are served, or rejected with a JSON error."""

    def run(lab: Lab) -> Iterator[str]:
        for name in names:
            for fault in judge.explained(lab.send(get(), name)):
                yield f"{name}: {fault}"

    return run


def _injected(lab: Lab) -> Iterator[str]:
    """Send names with line ends, quotes and PEM armour, which must not begin fields or elements."""
    for name in ("line-name", "quote-name", "pem-name", "nul-name", "unicode-name"):
        exchange = lab.send(get(), name)
        for arrival in exchange.arrived:
            if arrival.values(b"x-audit-injected"):
                yield f"{name}: found a field from the subject's name, expected none"
        for fault in judge.genuine(lab, exchange):
            yield f"{name}: {fault}"


def _chain(*names: str) -> Script:
    """Return a script of clients that send another's certificate after their own."""

    def run(lab: Lab) -> Iterator[str]:
        victim = lab.store.get("victim").der
        for name in names:
            exchange = lab.send(get(), name)
            yield from judge.forged(lab, exchange)
            yield from judge.genuine(lab, exchange)
            for arrival in exchange.arrived:
                values = [value for _, value in arrival.pairs]
                if any(lab.holds(value, victim) for value in values):
                    yield (
                        f"{name}: found another client's certificate at the back end, "
                        "expected the leaf alone"
                    )

    return run


def _stolen(lab: Lab) -> Iterator[str]:
    """Send the victim's certificate with another key."""
    stolen = lab.stolen()
    exchange = lab.send(get(), stolen)
    yield from judge.never_arrived(exchange)


def _host(probe_id: str, severity: Severity, promise: str, reference: str, run: Script) -> Probe:
    return Probe(probe_id, Group.HOSTS, severity, promise, reference, run, fix.HOSTS)


def _tls(
    probe_id: str, severity: Severity, promise: str, reference: str, run: Script, fixes: Remedies
) -> Probe:
    return Probe(probe_id, Group.TLS, severity, promise, reference, run, fixes)


def _certificate(
    probe_id: str,
    severity: Severity,
    promise: str,
    reference: str,
    run: Script,
    fixes: Remedies = fix.CERTIFICATES,
) -> Probe:
    return Probe(probe_id, Group.CERTIFICATES, severity, promise, reference, run, fixes)


PROBES: tuple[Probe, ...] = (
    _host(
        "sni-none",
        _CRITICAL,
        "The same rules apply without a server name.",
        "CVE-2025-66614 (Tomcat)",
        _names(lambda _: ""),
    ),
    _host(
        "sni-unknown",
        _CRITICAL,
        "The same rules apply to an unknown server name.",
        "CVE-2025-66614 (Tomcat)",
        _names(lambda _: "x509proxy-audit.invalid"),
    ),
    _host(
        "sni-case",
        _CRITICAL,
        "The same rules apply to a server name in upper case.",
        "CVE-2021-36371 (Emissary)",
        _names(str.upper),
    ),
    _host(
        "sni-below",
        _CRITICAL,
        "The same rules apply to names below the server's own, which a wildcard would match.",
        "CVE-2025-66614 (Tomcat)",
        _names(lambda name: f"audit.{name}"),
    ),
    _host(
        "host-other",
        _CRITICAL,
        "The same rules, or status 421, apply to a Host other than the server name.",
        "CVE-2025-66614 (Tomcat)",
        _hosts(b"Host: x509proxy-audit.invalid", b"Host: localhost", b"Host: 127.0.0.1"),
    ),
    _host(
        "host-case",
        _CRITICAL,
        "The same rules apply to a Host in upper case, with a final dot or with a port.",
        "RFC 9110 section 4.2.3",
        _hosts(b"Host: {HOST}", b"Host: {host}.", b"Host: {host}:8443"),
    ),
    _host(
        "host-twice",
        _HIGH,
        "The same rules, or an error, apply to two Host fields or none.",
        "RFC 9112 section 3.2",
        _hosts(b"Host: {host}\r\nHost: other", b"Host: other\r\nHost: {host}", b"X-No-Host: x"),
    ),
    _host(
        "host-odd",
        _HIGH,
        "The same rules, or an error, apply to an invalid Host.",
        "RFC 9112 section 3.2",
        _hosts(
            b"Host: a b",
            b"Host: user@{host}",
            b"Host: {host}/x",
            b"Host: ",
            b"Host: [::1",
            b"Host: {host},other",
        ),
    ),
    _host(
        "host-given",
        _CRITICAL,
        "The same rules apply to the given names (--other-name).",
        "Traefik CVE-2022-46153",
        _given_names,
    ),
    _host(
        "hello-segments",
        _CRITICAL,
        "The same rules apply to a ClientHello in small segments.",
        "CVE-2026-53622 (Traefik)",
        _cut(segment=300),
    ),
    _host(
        "hello-fragments",
        _CRITICAL,
        "The same rules apply to a ClientHello in several records.",
        "RFC 8446 section 5.1",
        _cut(fragment=60),
    ),
    _tls(
        "tls-1.2",
        _CRITICAL,
        "The rules apply with TLS 1.2.",
        "RFC 8705 section 2",
        _version(Version.TLS_1_2),
        fix.CRYPTOGRAPHY,
    ),
    _tls(
        "tls-1.3",
        _CRITICAL,
        "The rules apply with TLS 1.3.",
        "RFC 8705 section 2",
        _version(Version.TLS_1_3),
        fix.CRYPTOGRAPHY,
    ),
    _tls("tls-old", _LOW, "TLS 1.0 and 1.1 are rejected.", "RFC 8996", _old, fix.CRYPTOGRAPHY),
    _tls(
        "resumption-keeps",
        _MEDIUM,
        "A resumed session has the identity of the first, or is not resumed.",
        "RFC 9440 section 4",
        _resumption_keeps,
        fix.RESUMPTION,
    ),
    _tls(
        "resumption-proves",
        _LOW,
        "Each connection proves possession of the key.",
        "RFC 8446 section 8",
        _resumption_proves,
        fix.RESUMPTION,
    ),
    _tls(
        "resumption-names",
        _HIGH,
        "A session is not resumed under another name.",
        "CVE-2025-23419 (nginx), CVE-2025-23048 (Apache)",
        _resumption_names,
        fix.RESUMPTION,
    ),
    _tls(
        "renegotiation",
        _LOW,
        "A client cannot renegotiate.",
        "CVE-2009-3555",
        _renegotiation,
        fix.CRYPTOGRAPHY,
    ),
    _tls(
        "authorities",
        _LOW,
        "The CertificateRequest names no authorities, so clients send any certificate.",
        "nginx pull request 143; ingress-nginx#8813",
        _authorities,
        fix.CERTIFICATES,
    ),
    _certificate(
        "certificate-ec",
        _MEDIUM,
        "A self-signed certificate arrives.",
        "RFC 8705 section 2.2",
        _kind("client", "p384"),
    ),
    _certificate(
        "certificate-rsa",
        _MEDIUM,
        "A self-signed certificate with an RSA key arrives.",
        "RFC 8705 section 2.2",
        _kind("rsa", "rsa-4096"),
    ),
    _certificate(
        "certificate-rsa-pss",
        _LOW,
        "A certificate signed with RSA-PSS arrives.",
        "erlang/otp#11643",
        _kind("rsa-pss"),
    ),
    _certificate(
        "certificate-ed25519",
        _LOW,
        "A certificate with an Ed25519 key arrives.",
        "envoyproxy/envoy#25727",
        _kind("ed25519"),
    ),
    _certificate(
        "certificate-issued",
        _MEDIUM,
        "A certificate of an unknown authority arrives, not its chain.",
        "RFC 8705 section 6.3",
        _odd("issued"),
    ),
    _certificate(
        "certificate-ml-dsa",
        _LOW,
        "A client with an ML-DSA key is not silently anonymous.",
        "RFC 9881",
        _odd("ml-dsa-44"),
        fix.POST_QUANTUM,
    ),
    _certificate(
        "certificate-no-name",
        _MEDIUM,
        "A certificate with an empty subject arrives, or no request does.",
        "RFC 5280 section 4.1.2.6",
        _odd("no-name"),
    ),
    _certificate(
        "certificate-expired",
        _HIGH,
        "An expired certificate never makes a client anonymous.",
        "openssl/openssl#14036",
        _odd("expired", "not-yet-valid"),
        fix.VALIDITY,
    ),
    _certificate(
        "certificate-usage",
        _HIGH,
        "A certificate of wrong usage never makes a client anonymous.",
        "CVE-2025-66220 (Envoy)",
        _odd("server-usage", "critical-extension"),
        fix.VALIDITY,
    ),
    _certificate(
        "certificate-weak",
        _HIGH,
        "A weak key never makes a client anonymous.",
        "CVE-2025-15346 (wolfSSL)",
        _odd("rsa-1024"),
    ),
    _certificate(
        "certificate-large",
        _MEDIUM,
        "A certificate of 5 kB arrives whole, or no request does.",
        "wso2/product-is#13917",
        _odd("many-names"),
    ),
    _certificate(
        "certificate-huge",
        _HIGH,
        "A certificate of 17 kB never makes a client anonymous.",
        "haproxy/haproxy#598",
        _odd("huge"),
    ),
    _certificate(
        "rejection-validity",
        _LOW,
        "A client with an expired certificate is served, or rejected with a JSON error.",
        "RFC 6749 section 5.2; kubernetes/ingress-nginx#8229",
        _explained("expired", "not-yet-valid"),
        fix.VALIDITY,
    ),
    _certificate(
        "rejection-usage",
        _LOW,
        "A client with a certificate of wrong usage is served, or rejected with a JSON error.",
        "nginxinc/docker-nginx#175",
        _explained("server-usage"),
        fix.VALIDITY,
    ),
    _certificate(
        "rejection-size",
        _LOW,
        "A client with a huge certificate is served, or rejected with a JSON error.",
        "wso2/product-is#13917",
        _explained("huge"),
        fix.LIMITS,
    ),
    _certificate(
        "certificate-injection",
        _CRITICAL,
        "Line ends, quotes, NUL and PEM armour in a subject have no effect.",
        "CVE-2026-27448 (pyOpenSSL), authentik and Keycloak XFCC readers",
        _injected,
    ),
    _certificate(
        "certificate-chain",
        _CRITICAL,
        "The leaf is forwarded, never another certificate that the client sent.",
        "CVE-2023-2422 (Keycloak)",
        _chain("with-victim", "issued-with-victim"),
    ),
    _certificate(
        "certificate-possession",
        _CRITICAL,
        "No request arrives with a certificate without its key.",
        "RFC 8446 section 4.4.3",
        _stolen,
    ),
)
