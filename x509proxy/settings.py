"""Every configuration key: its type, default, bounds and documentation; and the frozen values that hold them.

Names in TOML are those of the fields with ``-`` for ``_``. Times are seconds, sizes are bytes. Every number is above zero and
finite: no setting can be switched off by a zero (invariant L7, everything is bounded).

The facts about a key stand at the key, as a :class:`Key` in its annotation. The checks, the sets of files and of keys that need
a restart, and the reference page (``docs/settings.rst``) are derived from there. A value that only one key can judge is
checked by its bounds; what several keys of a table say together is checked by :meth:`Settings.contradictions`.

Facts
-----
* Endpoint descriptions are text here. :mod:`x509proxy.config.endpoint_strings` alone takes them apart.
* ``msgspec`` keeps foreign annotations in ``Annotated`` and ignores them.
"""

from __future__ import annotations

import enum
import functools
import ipaddress
import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin
from urllib.parse import SplitResult, urlsplit

import attrs
import idna
import msgspec

from x509proxy.redaction import without_secrets

__all__ = [
    "LOOPBACK",
    "MAX_SOCKET_PATH",
    "AdminSettings",
    "Backend",
    "CertificateRequirement",
    "CertificateSettings",
    "Change",
    "ClientAuth",
    "ClientSettings",
    "DiscoverySettings",
    "File",
    "Format",
    "HeaderSettings",
    "HealthSettings",
    "InvalidNames",
    "Key",
    "KeyField",
    "KeyType",
    "ListenerSettings",
    "LogFormat",
    "PolicySettings",
    "ProxyProtocol",
    "ProxySettings",
    "RequestIds",
    "RuleSettings",
    "Scheme",
    "Settings",
    "SettingsError",
    "TlsSettings",
    "TlsVersion",
    "TokenAlgorithm",
    "TokenLevel",
    "TokenRequirement",
    "TokenSettings",
    "Trust",
    "Unit",
    "UpstreamSettings",
    "Usage",
    "Validity",
    "keys",
    "table_of",
    "token_problems",
    "url_problem",
]


class SettingsError(ValueError):
    """Sentences for the person who configures: ``key: found X, expected Y``. They never hold a secret."""

    def __init__(self, *sentences: str) -> None:
        super().__init__(*sentences)
        self.sentences = sentences

    def __str__(self) -> str:
        """Return the first sentence, and the number of others."""
        first, *others = self.sentences
        return f"{first} (and {len(others)} more: see `x509proxy check`)" if others else first


# Enumerations. The values are their spellings in TOML.


class ClientAuth(enum.Enum):
    """The certificate that the handshake asks for, and that a request needs."""

    NONE = "none"
    OPTIONAL = "optional"
    REQUIRED = "required"


class ProxyProtocol(enum.Enum):
    """The header of a balancer that names the client of each connection (:mod:`x509proxy.transport.proxy_protocol`)."""

    NONE = "none"
    REQUIRED = "required"


class CertificateRequirement(enum.Enum):
    """The certificate that a request needs, by path and server name (:mod:`x509proxy.forwarding.path_rules`)."""

    REQUIRED = "required"
    OPTIONAL = "optional"
    IGNORED = "ignored"
    """The request is forwarded without the certificate that was shown: a browser's pages."""


class TokenRequirement(enum.Enum):
    """The access token that a request needs (RFC 8705 section 3), by path and server name; the strictest first."""

    BOUND = "bound"
    """A token is needed, and it is bound to the certificate of this connection."""
    WHEN_BOUND = "when-bound"
    """A token that is bound must fit the certificate; other tokens, and none, pass."""
    IGNORED = "ignored"


class TokenLevel(enum.Enum):
    """The way an access token is read (:mod:`x509proxy.authorization`)."""

    UNVERIFIED = "unverified"
    """``cnf`` is read without a look at the signature; the back end still verifies the token."""
    JWT = "jwt"
    """Signature, issuer, audience and times of a JWT are verified."""
    INTROSPECTION = "introspection"
    """The authorization server is asked (RFC 7662)."""


class TokenAlgorithm(enum.Enum):
    """An algorithm that signs access tokens; none with a shared secret (RFC 7518 section 3.1, RFC 8037, RFC 9864)."""

    RS256 = "RS256"
    RS384 = "RS384"
    RS512 = "RS512"
    PS256 = "PS256"
    PS384 = "PS384"
    PS512 = "PS512"
    ES256 = "ES256"
    ES384 = "ES384"
    ES512 = "ES512"
    EDDSA = "EdDSA"
    ED25519 = "Ed25519"
    ED448 = "Ed448"


class Format(enum.Enum):
    """The format of a header's value (:mod:`x509proxy.forwarding.certificate_formats`)."""

    PEM = "pem"
    """PEM without any white space between the armour lines: Connect2id."""
    PEM_SPACES = "pem-spaces"
    """PEM with a space for each new line: what Apache httpd sends."""
    PEM_URL = "pem-url"
    """URL-encoded PEM: nginx's ``$ssl_client_escaped_cert``, byte for byte."""
    BASE64_DER = "base64-der"
    """Base64 of the DER: HAProxy, Traefik, ASP.NET Core."""
    RFC9440 = "rfc9440"
    """``Client-Cert`` of RFC 9440."""
    RFC9440_CHAIN = "rfc9440-chain"
    """``Client-Cert-Chain`` of RFC 9440; no field at all when the client sent the leaf alone."""
    XFCC = "xfcc"
    """``X-Forwarded-Client-Cert`` of Envoy."""
    THUMBPRINT = "thumbprint"
    """``x5t#S256``: base64url of the SHA-256 of the DER (RFC 8705 section 3.1)."""
    SUBJECT = "subject"
    """The subject's name as RFC 4514 writes it, ASCII: the client's own words unless an authority vouches for them."""
    ISSUER = "issuer"
    """The issuer's name, likewise."""
    SERIAL = "serial"
    """The serial number in upper-case hexadecimal, as nginx's ``$ssl_client_serial``."""
    VERDICT = "verdict"
    """``NONE``, ``SELF_SIGNED``, ``TRUSTED`` or ``UNTRUSTED``; sent with every request."""
    VERIFY = "verify"
    """The same as nginx says it: ``NONE``, ``SUCCESS`` or ``FAILED:reason``; sent with every request."""
    TOKEN_CLAIMS = "token-claims"  # noqa: S105 - no password
    """Base64url of the JSON of the access token's verified claims; no field where there are none."""
    LITERAL = "literal"
    """The text of ``value``, or the one line of ``value-file``; sent with every request."""


class Trust(enum.Enum):
    """The issuers whose certificates are passed on to the back end."""

    ANY = "any"
    SELF_SIGNED = "self-signed"
    CA = "ca"
    EITHER = "either"


class Validity(enum.Enum):
    """The treatment of a certificate outside its validity period: rejected by the proxy, or left to the back end."""

    ENFORCE = "enforce"
    IGNORE = "ignore"


class Usage(enum.Enum):
    """The treatment of an authority's certificate that is not for TLS clients (extended key usage, RFC 5280 section 4.2.1.12)."""

    ENFORCE = "enforce"
    IGNORE = "ignore"
    """Certificates that an authority has issued for servers identify clients too: each of those servers can act as a client."""


class KeyType(enum.Enum):
    """A kind of key that client certificates may have."""

    RSA = "rsa"
    EC = "ec"
    ED25519 = "ed25519"
    ED448 = "ed448"
    ML_DSA_44 = "ml-dsa-44"
    """FIPS 204, RFC 9881: signatures that withstand quantum computers, in certificates of 4 KB."""
    ML_DSA_65 = "ml-dsa-65"
    """5.5 KB."""
    ML_DSA_87 = "ml-dsa-87"
    """7.5 KB."""


class InvalidNames(enum.Enum):
    """The treatment of a request's header names outside ``[A-Za-z0-9-]``: dropped as nginx does, or answered 400."""

    DROP = "drop"
    REFUSE = "refuse"


class RequestIds(enum.Enum):
    """The origin of a request's identifier in the logs (:mod:`x509proxy.http1.request_id`)."""

    GENERATE = "generate"
    """A new one for each request."""
    TRUST = "trust"
    """The one in the request, if it is well formed: for proxies behind a hop that assigns them."""


class LogFormat(enum.Enum):
    """The format of the access log (:mod:`x509proxy.monitoring.access_log_format`)."""

    TEXT = "text"
    JSON = "json"


class TlsVersion(enum.Enum):
    """A TLS version."""

    TLS_1_2 = "1.2"
    TLS_1_3 = "1.3"


# Facts about keys.


class Unit(enum.Enum):
    """The unit of a number."""

    NONE = ""
    SECONDS = "s"
    BYTES = "bytes"
    BITS = "bits"
    PER_SECOND = "per second"
    BYTES_PER_SECOND = "bytes per second"


class File(enum.Enum):
    """The role of a key's value as the name of a file."""

    NO = "no"
    READ = "read"
    WRITTEN = "written"


class Change(enum.Enum):
    """The way a changed value comes into use."""

    RELOAD = "reload"
    RESTART = "restart"


# Longer than any process runs, and few enough for every clock: date arithmetic fails beyond the year 9999.
_MAX_SECONDS = 366 * 24 * 3600.0
_MAX_INTEGER = 2**31 - 1


@attrs.frozen
class Key:
    """The facts about one key.

    ``doc``: one sentence of documentation. ``least``, ``most``: bounds of a number, both included. ``expected``: an example, for error
    sentences where the key is missing. ``old``: earlier names of the key, which produce an error that names this one.
    """

    doc: str
    unit: Unit = Unit.NONE
    least: float | None = None
    most: float | None = None
    expected: str = ""
    file: File = File.NO
    change: Change = Change.RELOAD
    old: tuple[str, ...] = ()

    def problem_with(self, value: object) -> str:
        """Return ``found X, expected Y`` for a value out of bounds, or ``""``."""
        if self.file is not File.NO:
            return _unexpanded(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return ""
        if not 0 < value < math.inf:
            return f"found {value}, expected a number above zero"
        most = self._most
        if (self.least or 0) <= value <= most:
            return ""
        span = f"{self.least:.10g} to {most:.10g}" if self.least else f"{most:.10g} or less"
        return f"found {_written(value)}, expected {span}"

    @property
    def _most(self) -> float:
        if self.most is not None:
            return self.most
        return _MAX_SECONDS if self.unit is Unit.SECONDS else _MAX_INTEGER


def _written(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.10g}"


def _unexpanded(value: object) -> str:
    values = value if isinstance(value, tuple) else (value,)
    if any(isinstance(path, str) and path.startswith("~") for path in values):
        return "found ~ at the beginning, which only a shell replaces, expected the whole path"
    return ""


@attrs.frozen
class KeyField:
    """One key of a table: ``name`` as in TOML, ``field`` as in Python. ``default``: ``msgspec.NODEFAULT`` if the key is required."""

    name: str
    field: str
    type: Any
    key: Key
    default: Any

    @property
    def required(self) -> bool:
        """Return whether a table needs the key."""
        return self.default is msgspec.NODEFAULT


@functools.cache
def keys(kind: type[Settings]) -> Mapping[str, KeyField]:
    """Return the keys of a table, by their names in TOML and in the order of their definition."""
    return {
        field.encode_name: KeyField(
            field.encode_name, field.name, *_annotated(field.type), field.default
        )
        for field in msgspec.structs.fields(kind)
    }


def _annotated(annotation: Any) -> tuple[Any, Key]:
    if get_origin(annotation) is Annotated:
        kind, *facts = get_args(annotation)
        return kind, next(fact for fact in facts if isinstance(fact, Key))
    return annotation, Key("")


def table_of(kind: Any) -> type[Settings] | None:
    """Return the kind of table that a key holds: one table, an optional one, or a list of them."""
    kinds = [kind, *get_args(kind)]
    return next(
        (part for part in kinds if isinstance(part, type) and issubclass(part, Settings)), None
    )


class Settings(
    msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True
):
    """The base: frozen, hashable, and checked at construction.

    Decoding rejects unknown keys: one that was dropped in silence could be a rule or a limit.
    """

    def __post_init__(self) -> None:
        sentences = [
            f"{name}: {problem}"
            for name, field in keys(type(self)).items()
            if (problem := field.key.problem_with(getattr(self, field.field)))
        ]
        sentences = sentences or [*self.contradictions()]
        if sentences:
            raise SettingsError(*sentences)

    def contradictions(self) -> Iterator[str]:
        """Yield a sentence for each mistake that bounds cannot express."""
        yield from ()


class TlsSettings(Settings, frozen=True):
    """The handshake with the clients (:mod:`x509proxy.transport.tls_context`)."""

    minimum_version: Annotated[TlsVersion, Key("The lowest TLS version that is accepted.")] = (
        TlsVersion.TLS_1_2
    )


_HOST_NAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]")


def _host_problems(key: str, *names: str) -> Iterator[str]:
    """Yield a sentence for each name that no request can have (:func:`x509proxy.http1.messages.host_name`)."""
    for name in names:
        if not _HOST_NAME.fullmatch(name):
            expected = "a host's name in lower case, without a port, a final dot or *"
            yield f"{key}: found {without_secrets(repr(name))}, expected {expected}"


# Only what a target can become (x509proxy.http1.path_readings): no dot at a name's end, and no stream behind it; and no star: a request may
# have one, but whoever writes one means more.
_RULE_PATH = re.compile(
    r"/|(?!.*(?::\$|/\([A-Za-z]\())(?:/[A-Za-z0-9._~!$&'()+,=:@-]*[A-Za-z0-9_~!$&'()+,=:@-])+"
)


class RuleSettings(Settings, frozen=True):
    """The needs of requests below a path, to one server name or to any (:mod:`x509proxy.forwarding.path_rules`).

    A key that a rule leaves out is decided by the other rules.
    """

    client_certificate: Annotated[
        CertificateRequirement | None, Key("The certificate that matching requests need.")
    ] = None
    token: Annotated[
        TokenRequirement | None,
        Key("The access token that matching requests need, and its binding to the certificate."),
    ] = None
    path: Annotated[str, Key("The path that the rule holds for, with everything below it.")] = "/"
    server_name: Annotated[
        str | None, Key("The request's host name that the rule holds for; any if absent.")
    ] = None

    def contradictions(self) -> Iterator[str]:
        if not _RULE_PATH.fullmatch(self.path):
            expected = "a plain path such as /token, for itself and all below it, without * and without / at its end"
            yield f"path: found {without_secrets(repr(self.path))}, expected {expected}"
        if self.server_name is not None:
            yield from _host_problems("server-name", self.server_name)
        if self.client_certificate is None and self.token is None:
            yield "client-certificate: found nothing, expected required, optional or ignored, or a token"
        is_ignored = self.client_certificate is CertificateRequirement.IGNORED
        if is_ignored and self.token is TokenRequirement.BOUND:
            yield (
                "token: found bound beside client-certificate = ignored, "
                "expected another client-certificate: the token is compared with it"
            )


class PolicySettings(Settings, frozen=True):
    """The certificates that are passed on (:mod:`x509proxy.forwarding.certificate_policy`).

    Weaker, costlier or larger certificates than the bounds allow are rejected whatever the settings say (invariant L5,
    :mod:`x509proxy.certificates.client_certificate`).
    """

    client_certificate: Annotated[
        ClientAuth, Key("The certificate that the handshake asks for and a request needs.")
    ] = ClientAuth.OPTIONAL
    trust: Annotated[Trust, Key("The issuers whose certificates are passed on.")] = Trust.ANY
    validity: Annotated[
        Validity, Key("The treatment of certificates outside their validity period.")
    ] = Validity.ENFORCE
    usage: Annotated[
        Usage, Key("The treatment of an authority's certificates that are not for TLS clients.")
    ] = Usage.ENFORCE
    max_certificate_bytes: Annotated[
        int,
        Key(
            "The size of a client's certificate in DER; a larger one is answered 400.",
            Unit.BYTES,
            most=16384,
            old=("maximum-der",),
        ),
    ] = 8192
    minimum_rsa_bits: Annotated[
        int, Key("The size of an RSA key.", Unit.BITS, least=2048, most=8192)
    ] = 2048
    key_types: Annotated[
        tuple[KeyType, ...], Key("The kinds of keys that clients' certificates may have.")
    ] = tuple(KeyType)
    rules: Annotated[
        tuple[RuleSettings, ...], Key("The paths that need a certificate, or get none.")
    ] = ()

    def contradictions(self) -> Iterator[str]:
        if len(set(self.key_types)) < len(self.key_types):
            yield "key-types: found one twice, expected each once"
        if not self.key_types:
            known = ", ".join(kind.value for kind in KeyType)
            yield f"key-types: found none, expected one or more of {known}"
        rules = [(rule.path.lower(), rule.server_name) for rule in self.rules]
        if len(set(rules)) < len(rules):
            yield "rules: found two for the same path and server name, expected one: which of them should count?"


class ClientSettings(Settings, frozen=True):
    """The client's side of HTTP/1.1 (:mod:`x509proxy.downstream.channel`)."""

    handshake_timeout: Annotated[
        float, Key("The time for a TLS handshake; then the connection is cut.", Unit.SECONDS)
    ] = 10.0
    head_timeout: Annotated[
        float,
        Key("The time for a request's head from its first byte; then 408.", Unit.SECONDS),
    ] = 10.0
    body_timeout: Annotated[
        float, Key("The time between two bytes of a request's body; then 408.", Unit.SECONDS)
    ] = 30.0
    min_body_rate: Annotated[
        int,
        Key(
            "The average rate of a request's body, once body-timeout has passed; below it, 408.",
            Unit.BYTES_PER_SECOND,
            old=("body-rate",),
        ),
    ] = 240
    idle_timeout: Annotated[
        float,
        Key("The time without a request after which a connection is closed.", Unit.SECONDS),
    ] = 30.0
    send_timeout: Annotated[
        float,
        Key("The time in which a client must receive some of its response.", Unit.SECONDS),
    ] = 30.0
    drain_timeout: Annotated[
        float,
        Key(
            "The time that requests in flight have after SIGTERM.",
            Unit.SECONDS,
            old=("stop-timeout",),
        ),
    ] = 30.0
    min_response_rate: Annotated[
        int,
        Key(
            "The average rate at which a client reads a response, counted while the proxy waits "
            "for it and once send-timeout has passed; below it the connection is cut.",
            Unit.BYTES_PER_SECOND,
        ),
    ] = 240
    max_requests_per_connection: Annotated[
        int,
        Key("The requests on a connection; the last response closes it.", old=("requests",)),
    ] = 1000
    max_connection_age: Annotated[
        float,
        Key(
            "The age at which a connection is closed with its next response: a revoked certificate stops working then.",
            Unit.SECONDS,
            old=("lifetime",),
        ),
    ] = 3600.0
    max_connections: Annotated[
        int,
        Key(
            "The connections at a time; others are cut before their handshake.",
            most=1_000_000,
            old=("connections",),
        ),
    ] = 4096
    max_connections_per_address: Annotated[
        int | None,
        Key(
            "The connections of one address at a time; no limit if absent.",
            most=1_000_000,
            old=("connections-per-address",),
        ),
    ] = None
    handshake_rate_per_address: Annotated[
        float | None,
        Key(
            "The handshakes of one address, with a burst of two seconds' worth; no limit if absent.",
            Unit.PER_SECOND,
            old=("handshakes-per-address",),
        ),
    ] = None
    max_handshake_bytes: Annotated[
        int,
        Key(
            "The size of a client's part of a TLS handshake; a larger one is ended, and so is one with more than ten issuers.",
            Unit.BYTES,
            least=1024,
            most=1 << 17,
        ),
    ] = 32768
    max_head_bytes: Annotated[
        int,
        Key(
            "The size of a request's head; a larger one is answered 431.",
            Unit.BYTES,
            least=64,
            most=1 << 20,
            old=("head-bytes",),
        ),
    ] = 16384
    max_line_bytes: Annotated[
        int,
        Key(
            "The size of a line of the head; a longer one is answered 431.",
            Unit.BYTES,
            least=16,
            most=1 << 20,
            old=("line-bytes",),
        ),
    ] = 8192
    max_target_bytes: Annotated[
        int,
        Key(
            "The size of a request's target; a longer one is answered 414.",
            Unit.BYTES,
            most=1 << 20,
            old=("target-bytes",),
        ),
    ] = 8192
    max_header_fields: Annotated[
        int,
        Key("The fields of a request's head; more are answered 431.", most=10_000, old=("fields",)),
    ] = 100
    max_body_bytes: Annotated[
        int,
        Key(
            "The size of a request's body; a larger one is answered 413.",
            Unit.BYTES,
            most=1 << 40,
            old=("body-bytes",),
        ),
    ] = 1048576
    request_buffer_bytes: Annotated[
        int,
        Key(
            "The part of a request's body that is read before the back end is contacted: a body that is malformed "
            "within it costs the back end nothing.",
            Unit.BYTES,
            most=1 << 30,
            old=("hold-bytes",),
        ),
    ] = 65536
    invalid_header_names: Annotated[
        InvalidNames,
        Key("The treatment of header names outside [A-Za-z0-9-].", old=("odd-names",)),
    ] = InvalidNames.DROP
    request_id: Annotated[RequestIds, Key("The origin of a request's identifier in the logs.")] = (
        RequestIds.GENERATE
    )
    allowed_hosts: Annotated[
        tuple[str, ...],
        Key(
            "The host names that are served, without a port; others are answered 421; any if empty.",
            old=("hosts",),
        ),
    ] = ()

    def contradictions(self) -> Iterator[str]:
        yield from _host_problems("allowed-hosts", *self.allowed_hosts)
        for part, whole in _PARTS.items():
            yield from _larger_part(self, part, whole)


# A part that was set larger than its whole decides nothing. The defaults give way: whoever sets the whole alone means no more than that.
_PARTS = {
    "max_line_bytes": "max_head_bytes",
    "max_target_bytes": "max_head_bytes",
    "request_buffer_bytes": "max_body_bytes",
}


def _larger_part(settings: ClientSettings, part: str, whole: str) -> Iterator[str]:
    found, most = getattr(settings, part), getattr(settings, whole)
    if found > most and found != keys(ClientSettings)[part.replace("_", "-")].default:
        key, limit = part.replace("_", "-"), whole.replace("_", "-")
        yield f"{key}: found {found}, expected no more than {limit}, {most}"


class UpstreamSettings(Settings, frozen=True):
    """The back end's side of HTTP/1.1 (:mod:`x509proxy.upstream.connection`).

    A back end that cannot be connected to, or has failed ``failure_threshold`` exchanges in a row, is left alone for ``retry_delay``, then
    for twice that each time, up to ``max_retry_delay``; once back, its share grows for ``slow_start`` (:mod:`x509proxy.upstream.health`).
    """

    connect_timeout: Annotated[
        float, Key("The time for a connection; then the next back end, or 504.", Unit.SECONDS)
    ] = 5.0
    response_timeout: Annotated[
        float, Key("The time until a response begins; then 504.", Unit.SECONDS)
    ] = 30.0
    read_timeout: Annotated[
        float,
        Key(
            "The time between two bytes of a response; then 504, or the end of the connection.",
            Unit.SECONDS,
        ),
    ] = 30.0
    idle_timeout: Annotated[
        float,
        Key(
            "The time after which an idle connection is closed; keep it below the back end's own timeout (Tomcat: 20 s).",
            Unit.SECONDS,
        ),
    ] = 15.0
    queue_timeout: Annotated[
        float, Key("The time that a request waits for a connection; then 503.", Unit.SECONDS)
    ] = 5.0
    max_connections: Annotated[
        int,
        Key(
            "The connections to each back end, at most half of them for bodies that are streamed; further requests wait.",
            most=1_000_000,
            old=("connections",),
        ),
    ] = 64
    max_queued_requests: Annotated[
        int,
        Key(
            "The requests that wait for each back end; more are answered 503.",
            most=1_000_000,
            old=("queue",),
        ),
    ] = 256
    max_head_bytes: Annotated[
        int,
        Key(
            "The size of a response's head; a larger one becomes 502.",
            Unit.BYTES,
            least=64,
            most=1 << 20,
            old=("head-bytes",),
        ),
    ] = 32768
    max_header_fields: Annotated[
        int, Key("The fields of a response's head; more become 502.", most=10_000, old=("fields",))
    ] = 200
    max_connection_age: Annotated[
        float,
        Key(
            "The age from which a connection is not used again: a name that has moved is followed.",
            Unit.SECONDS,
            old=("lifetime",),
        ),
    ] = 300.0
    failure_threshold: Annotated[
        int,
        Key("The failed exchanges in a row after which a back end is left alone.", old=("faults",)),
    ] = 3
    retry_delay: Annotated[
        float,
        Key(
            "The time for which it is left alone at first.",
            Unit.SECONDS,
            most=300,
            old=("hold-off",),
        ),
    ] = 1.0
    max_retry_delay: Annotated[
        float,
        Key(
            "The time for which it is left alone at most.",
            Unit.SECONDS,
            most=300,
            old=("longest-hold-off",),
        ),
    ] = 30.0
    slow_start: Annotated[
        float, Key("The time in which the share of a back end that is back grows.", Unit.SECONDS)
    ] = 10.0
    ca: Annotated[
        str | None,
        Key("The authorities of https back ends, PEM; the system's if absent.", file=File.READ),
    ] = None
    certificate: Annotated[
        str | None,
        Key("The proxy's own chain for https back ends, PEM.", file=File.READ),
    ] = None
    private_key: Annotated[
        str | None, Key("Its key, PEM, that its owner alone can read.", file=File.READ)
    ] = None

    def contradictions(self) -> Iterator[str]:
        if self.retry_delay > self.max_retry_delay:
            expected = f"no more than max-retry-delay, {self.max_retry_delay:g}"
            yield f"retry-delay: found {self.retry_delay:g}, expected {expected}"


class HeaderSettings(Settings, frozen=True):
    """One header that passes the client's certificate to the back end (:mod:`x509proxy.forwarding.header_rules`)."""

    format: Annotated[Format, Key("The value's format.")]
    name: Annotated[str | None, Key("The header's name, if it is not a secret.")] = None
    name_file: Annotated[
        str | None, Key("The file that holds the header's secret name.", file=File.READ)
    ] = None
    chain_index: Annotated[
        int,
        Key(
            "The certificate that is passed on: 1 is the client's own, 2 and on its chain.",
            old=("place",),
        ),
    ] = 1
    max_value_bytes: Annotated[
        int | None,
        Key(
            "The size of the value; a larger certificate, or larger claims, get 400.",
            Unit.BYTES,
            old=("maximum",),
        ),
    ] = None
    value: Annotated[str | None, Key("The value of format literal.")] = None
    value_file: Annotated[
        str | None, Key("The file that holds a secret value of format literal.", file=File.READ)
    ] = None

    def __repr__(self) -> str:
        # Name and value may be secrets (invariant L4).
        return f"HeaderSettings(format={self.format!r})"


_HAPROXY = "haproxy:"
LOOPBACK = ("127.0.0.0/8", "::1/128")
"""The networks that are trusted unless others are named (:class:`ListenerSettings`)."""


class ListenerSettings(Settings, frozen=True):
    """One more place to listen at.

    An ``endpoint`` that begins with ``haproxy:`` sets ``proxy_protocol`` to ``required``
    (:mod:`x509proxy.downstream.proxy_protocol_listener`).
    """

    endpoint: Annotated[
        str,
        Key(
            "The Twisted server endpoint to listen at.",
            expected="an endpoint such as tcp:8443",
            change=Change.RESTART,
        ),
    ]
    client_certificate: Annotated[
        ClientAuth | None,
        Key(
            "The certificate that the handshake asks for here, if it differs; for browsers none (RFC 8705 section 5)."
        ),
    ] = None
    proxy_protocol: Annotated[
        ProxyProtocol | None,
        Key(
            "The PROXY protocol: required where a balancer names the client of each connection.",
            change=Change.RESTART,
        ),
    ] = None
    trusted_proxies: Annotated[
        tuple[str, ...],
        Key(
            "The networks whose PROXY headers are trusted; other connections are cut.",
            old=("trusted",),
        ),
    ] = LOOPBACK
    proxy_hops: Annotated[
        int, Key("The number of PROXY headers in a row.", least=1, most=4, change=Change.RESTART)
    ] = 1

    def contradictions(self) -> Iterator[str]:
        if self.endpoint.startswith(_HAPROXY) and self.proxy_protocol is ProxyProtocol.NONE:
            yield "proxy-protocol: found none, expected required, since the endpoint begins with haproxy:"
        if self.description.startswith(_HAPROXY):
            yield "endpoint: found haproxy: twice, expected it once; proxy-hops says how many headers there are"
        if not self.is_proxied and (self.trusted_proxies, self.proxy_hops) != (LOOPBACK, 1):
            yield 'proxy-protocol: found none, expected "required" where trusted-proxies or proxy-hops is given'
        yield from _network_problems(self.trusted_proxies)

    @property
    def is_proxied(self) -> bool:
        """Return whether each connection begins with a header of the PROXY protocol."""
        return self.proxy_protocol is ProxyProtocol.REQUIRED or self.endpoint.startswith(_HAPROXY)

    @property
    def description(self) -> str:
        """Return the endpoint without ``haproxy:``: Twisted's own parser of PROXY headers drops those that are split."""
        return self.endpoint.removeprefix(_HAPROXY)


def _network_problems(networks: tuple[str, ...]) -> Iterator[str]:
    if not networks:
        yield "trusted-proxies: found none, expected at least one network such as 10.0.0.0/8"
    for network in networks:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            expected = (
                "an address, or a network such as 10.0.0.0/8 with no bit set behind its prefix"
            )
            yield f"trusted-proxies: found {without_secrets(repr(network))}, expected {expected}"


class CertificateSettings(Settings, frozen=True):
    """One more certificate of the server's, for the clients that ask for one of its names (SNI, RFC 6066 section 3)."""

    certificate: Annotated[
        str,
        Key(
            "The chain, PEM; the key may be in the same file.",
            expected="a PEM file with a chain",
            file=File.READ,
        ),
    ]
    private_key: Annotated[
        str | None, Key("Its key, PEM, that its owner alone can read.", file=File.READ)
    ] = None


_ORIGIN = re.compile(r"https://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")


class DiscoverySettings(Settings, frozen=True):
    """Metadata (RFC 8414) that names the endpoints for clients with a certificate (:mod:`x509proxy.forwarding.oauth_metadata`)."""

    mtls: Annotated[
        str,
        Key(
            "The origin that clients with a certificate use.",
            expected="an https origin such as https://mtls.example.com:8443",
        ),
    ]
    max_body_bytes: Annotated[
        int,
        Key(
            "The size of a metadata document; a larger one passes unchanged.",
            Unit.BYTES,
            most=16 << 20,
            old=("body-bytes", "maximum"),
        ),
    ] = 65536

    def contradictions(self) -> Iterator[str]:
        origin = _ORIGIN.fullmatch(self.mtls)
        if origin is None or not 0 < int(origin[1] or 443) < 65536:
            # The value is not repeated: it may be a secret in the wrong place.
            yield "mtls: found no https origin, expected one such as https://mtls.example.com:8443, without a path"


_CHECK_PATH = re.compile(r"/[!-\"$-~]*")


class HealthSettings(Settings, frozen=True):
    """Active checks of each back end, beside the results of its exchanges (:mod:`x509proxy.upstream.health_checks`)."""

    path: Annotated[
        str,
        Key(
            "The path that is requested, below the back end's base path.",
            expected="a path such as /health",
        ),
    ]
    status: Annotated[
        int, Key("The status of a healthy back end's response.", least=200, most=599)
    ] = 200
    interval: Annotated[float, Key("The time between two checks.", Unit.SECONDS)] = 5.0
    timeout: Annotated[float, Key("The time for a whole check.", Unit.SECONDS)] = 2.0
    rise: Annotated[int, Key("The good responses in a row that bring a back end back.")] = 2
    fall: Annotated[int, Key("The bad responses in a row that take a back end out.")] = 3

    def contradictions(self) -> Iterator[str]:
        if not _CHECK_PATH.fullmatch(self.path):
            # The value is not repeated: a query may hold a key.
            yield "path: found no path, expected one such as /health, in ASCII and without spaces or #"


_TOKEN_URL = re.compile(
    r"(https?)://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?(?:/[!-\"$-;=@-~]*)?(?:\?[!-\"$-~]*)?"
)
_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})


class TokenSettings(Settings, frozen=True):
    """The check of access tokens, for rules with ``token`` (:mod:`x509proxy.authorization`)."""

    level: Annotated[TokenLevel, Key("The way access tokens are read.")]
    issuer: Annotated[
        str | None, Key("The iss of the tokens; its metadata (RFC 8414) names the endpoints.")
    ] = None
    audience: Annotated[
        tuple[str, ...], Key("The values of aud that are good; a token needs one of them.")
    ] = ()
    algorithms: Annotated[
        tuple[TokenAlgorithm, ...], Key("The algorithms that may sign a token.")
    ] = (
        TokenAlgorithm.RS256,
        TokenAlgorithm.PS256,
        TokenAlgorithm.ES256,
        TokenAlgorithm.EDDSA,
    )
    types: Annotated[
        tuple[str, ...], Key("The values of typ that are good, where a token has one.")
    ] = ("at+jwt",)
    clock_skew: Annotated[
        float | None,
        Key("The time by which the clocks may differ; none if absent.", Unit.SECONDS, most=600),
    ] = None
    jwks_file: Annotated[
        str | None, Key("The file with the issuer's JWK set; no key is fetched.", file=File.READ)
    ] = None
    jwks_url: Annotated[
        str | None, Key("The URL of the issuer's JWK set, in place of the metadata.")
    ] = None
    introspection_url: Annotated[
        str | None, Key("The URL of the introspection endpoint, in place of the metadata.")
    ] = None
    client_id: Annotated[str | None, Key("The client that introspects tokens.")] = None
    client_secret_file: Annotated[
        str | None,
        Key(
            "The file with the secret of this client, that its owner alone can read.",
            file=File.READ,
        ),
    ] = None
    certificate: Annotated[
        str | None,
        Key("The certificate of this client, PEM, in place of a secret.", file=File.READ),
    ] = None
    private_key: Annotated[
        str | None, Key("Its key, PEM, that its owner alone can read.", file=File.READ)
    ] = None
    cache_time: Annotated[
        float, Key("The time for which a good response is remembered.", Unit.SECONDS)
    ] = 60.0
    negative_cache_time: Annotated[
        float, Key("The time for which a bad response is remembered.", Unit.SECONDS)
    ] = 5.0
    ca: Annotated[
        str | None, Key("The authorities of the issuer's server, PEM.", file=File.READ)
    ] = None
    key_lifetime: Annotated[
        float, Key("The time after which keys are fetched again, at the latest.", Unit.SECONDS)
    ] = 3600.0
    min_refresh_interval: Annotated[
        float, Key("The time within which keys are not fetched again.", Unit.SECONDS)
    ] = 10.0
    timeout: Annotated[
        float, Key("The time for a response of the issuer's server.", Unit.SECONDS)
    ] = 5.0
    max_response_bytes: Annotated[
        int, Key("The size of such a response, with its head.", Unit.BYTES, most=16 << 20)
    ] = 131072
    max_token_bytes: Annotated[
        int, Key("The size of a token; a larger one is answered 400.", Unit.BYTES, most=16384)
    ] = 8192
    max_pending_checks: Annotated[
        int, Key("The requests that wait for the issuer's server; others are answered 503.")
    ] = 256
    cache_entries: Annotated[
        int, Key("The tokens whose contents are remembered, by their hashes.", most=1 << 20)
    ] = 4096

    def contradictions(self) -> Iterator[str]:
        if not self.algorithms:
            yield "algorithms: found none, expected one or more such as ES256"
        urls = {
            "issuer": self.issuer,
            "jwks-url": self.jwks_url,
            "introspection-url": self.introspection_url,
        }
        for name, url in urls.items():
            if url is not None and (problem := url_problem(url)):
                yield f"{name}: {problem}"
        if self.issuer is not None and "?" in self.issuer:
            # RFC 8414 section 2.
            yield "issuer: found a query, expected a URL without one"
        if self.level is TokenLevel.JWT:
            yield from self._jwt_problems()
        elif self.level is TokenLevel.INTROSPECTION:
            yield from self._introspection_problems()

    def _jwt_problems(self) -> Iterator[str]:
        if self.issuer is None:
            yield "issuer: found none, expected the iss of the tokens"
        if not self.audience:
            yield "audience: found none, expected one or more aud of this API"
        if self.jwks_file is not None and self.jwks_url is not None:
            yield "jwks-url: found both jwks-file and jwks-url, expected one of them"

    def _introspection_problems(self) -> Iterator[str]:
        if self.introspection_url is None and self.issuer is None:
            yield "introspection-url: found neither it nor issuer, expected one of them"
        if self.client_id is None:
            yield "client-id: found none, expected the client that may introspect"
        if (self.client_secret_file is None) is (self.certificate is None):
            found = "neither" if self.certificate is None else "both"
            yield (
                f"client-secret-file: found {found} client-secret-file and certificate, "
                "expected one of them"
            )


def url_problem(url: str) -> str:
    """Return ``found X, expected Y`` for a URL that cannot be fetched, or that others can answer; or ``""``.

    The URL is not repeated: it may hold a key.
    """
    found = _TOKEN_URL.fullmatch(url)
    if found is None or not 0 < int(found[3] or 443) < 65536:
        return "found no URL, expected one such as https://as.example.com/path"
    if found[1] == "http" and found[2].lower() not in _LOCAL_HOSTS:
        return "found http, expected https for another host than this one"
    return ""


def token_problems(rules: tuple[RuleSettings, ...], tokens: TokenSettings | None) -> Iterator[str]:
    """Yield a sentence if rules need tokens, and no table says how these are read."""
    needing = (
        index
        for index, rule in enumerate(rules)
        if rule.token not in {None, TokenRequirement.IGNORED}
    )
    index = next(needing, None)
    if tokens is None and index is not None:
        yield f"tokens: found none, expected a table with level, since rules[{index}] has a token"


class AdminSettings(Settings, frozen=True):
    """The admin listener (:mod:`x509proxy.service.admin`): plain HTTP, without a password.

    :func:`x509proxy.config.endpoint_strings.check_places` rejects a ``listen`` that others than this host can reach, unless
    ``allow_remote`` is set.
    """

    listen: Annotated[
        str,
        Key(
            "A unix socket, or TCP with a loopback interface.",
            expected="unix:/path or tcp:9443:interface=127.0.0.1",
            change=Change.RESTART,
        ),
    ]
    allow_remote: Annotated[
        bool,
        Key(
            "Permission to listen where others than this host can read it.",
            old=("open",),
            change=Change.RESTART,
        ),
    ] = False
    allowed_hosts: Annotated[
        tuple[str, ...],
        Key(
            "The host names of its requests, besides localhost and addresses.",
            old=("hosts",),
            change=Change.RESTART,
        ),
    ] = ()

    def contradictions(self) -> Iterator[str]:
        yield from _host_problems("allowed-hosts", *self.allowed_hosts)


class ProxySettings(PolicySettings, frozen=True):
    """One proxy: everything that the command line and the TOML file can set; of certificates as :class:`PolicySettings`."""

    listen: Annotated[
        tuple[str, ...],
        Key(
            "The Twisted server endpoints to listen at; TLS is added.",
            expected="at least one endpoint such as tcp:8443",
            change=Change.RESTART,
        ),
    ] = ("tcp:8443",)
    certificate: Annotated[
        str | None,
        Key(
            "The server's chain, PEM; the key may be in the same file.",
            expected="a PEM file with the server's chain",
            file=File.READ,
        ),
    ] = None
    private_key: Annotated[
        str | None, Key("The server's key, PEM, that its owner alone can read.", file=File.READ)
    ] = None
    backend: Annotated[
        tuple[str, ...],
        Key(
            "The back ends: http://host:port, https://host:port or unix:/path.",
            expected="at least one URL such as http://127.0.0.1:8080",
        ),
    ] = ()
    preset: Annotated[str, Key("The authorization server: header names and formats.")] = (
        "connect2id"
    )
    header_file: Annotated[
        str | None,
        Key(
            "The file that holds the secret header name, in a second line the next one.",
            file=File.READ,
        ),
    ] = None
    header: Annotated[str | None, Key("The secret header name itself, for trials.")] = None
    ca: Annotated[
        str | None, Key("The authorities that make a certificate trusted, PEM.", file=File.READ)
    ] = None
    ca_depth: Annotated[
        int,
        # Each intermediate can cost 5 ms (x509proxy.transport.tls_context).
        Key(
            "The intermediate certificates between a client's and an authority's.", least=1, most=10
        ),
    ] = 4
    crl: Annotated[tuple[str, ...], Key("The revocation lists, PEM or DER.", file=File.READ)] = ()
    access_log: Annotated[
        str | None,
        Key(
            "The file of the access log, or - for standard output.",
            file=File.WRITTEN,
            change=Change.RESTART,
        ),
    ] = None
    log_format: Annotated[LogFormat, Key("The format of the access log.")] = LogFormat.TEXT
    max_logged_errors_per_second: Annotated[
        int,
        Key(
            "The rejected and aborted requests, and the failed handshakes, that are logged; others are counted.",
            Unit.PER_SECOND,
            old=("log-refusals",),
        ),
    ] = 50
    workers: Annotated[
        int, Key("The processes that serve.", least=1, most=256, change=Change.RESTART)
    ] = 1
    reload_poll_interval: Annotated[
        float | None,
        Key(
            "The time between two looks at the files for changes; none if absent.",
            Unit.SECONDS,
            old=("reload-on-change",),
        ),
    ] = None
    demo: Annotated[
        bool, Key("The demonstration, with everything embedded.", change=Change.RESTART)
    ] = False
    headers: Annotated[tuple[HeaderSettings, ...], Key("Further headers for the back end.")] = ()
    listeners: Annotated[
        tuple[ListenerSettings, ...], Key("Further places to listen at.", change=Change.RESTART)
    ] = ()
    certificates: Annotated[
        tuple[CertificateSettings, ...], Key("Further certificates, by server name.")
    ] = ()
    discovery: Annotated[
        DiscoverySettings | None, Key("Endpoint aliases in the server's metadata.")
    ] = None
    health: Annotated[HealthSettings | None, Key("Active checks of the back ends.")] = None
    tokens: Annotated[TokenSettings | None, Key("The check of access tokens.")] = None
    admin: Annotated[AdminSettings | None, Key("The admin listener.", change=Change.RESTART)] = None
    tls: Annotated[TlsSettings, Key("The handshake with the clients.")] = TlsSettings()
    client: Annotated[ClientSettings, Key("The limits of the clients' side.")] = ClientSettings()
    upstream: Annotated[UpstreamSettings, Key("The limits of the back ends' side.")] = (
        UpstreamSettings()
    )

    def __repr__(self) -> str:
        # The header's name is a secret (invariant L4): a traceback must not show it.
        return f"ProxySettings(listen={self.listen!r}, backend={self.backend!r}, preset={self.preset!r})"

    def contradictions(self) -> Iterator[str]:
        yield from super().contradictions()
        yield from token_problems(self.rules, self.tokens)
        for endpoint in self.listen:
            try:
                ListenerSettings(endpoint=endpoint)
            except SettingsError as error:
                yield from error.sentences

    @property
    def places(self) -> tuple[ListenerSettings, ...]:
        """Return every place to listen at: those of ``listen``, then ``listeners``."""
        return (*(ListenerSettings(endpoint=endpoint) for endpoint in self.listen), *self.listeners)

    @property
    def place_keys(self) -> tuple[str, ...]:
        """Return the key of each of the ``places`` in the document."""
        return (
            *("listen" for _ in self.listen),
            *(f"listeners[{at}].endpoint" for at in range(len(self.listeners))),
        )

    @property
    def policy(self) -> PolicySettings:
        """Return the part that decides which certificates are passed on."""
        return PolicySettings(
            **{name: getattr(self, name) for name in PolicySettings.__struct_fields__}
        )


# Back ends.


class Scheme(enum.Enum):
    """The protocol of a back end."""

    HTTP = "http"
    HTTPS = "https"
    UNIX = "unix"


# Labels as long as a resolver takes them (RFC 1035 section 2.3.4): with others, Python's codec for names fails.
_HOST = re.compile(r"(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?|[0-9A-Fa-f]*:[0-9A-Fa-f:.]*")
_BASE = re.compile(r"(/[!-\"$->@-~]*)?")
_PORTS = {"http": 80, "https": 443}
MAX_SOCKET_PATH = 107
"""Bytes of a unix socket's path (unix(7): sun_path)."""


class Backend(Settings, frozen=True):
    """A back end's address: an origin server (RFC 9110 section 3.6).

    ``base`` is put before every target; it is empty, or begins with ``/`` and does not end with one.
    """

    scheme: Scheme
    host: str = ""
    port: Annotated[int, Key("The port.", least=1, most=65535)] = 80
    path: str = ""
    base: bytes = b""

    def contradictions(self) -> Iterator[str]:
        if not _BASE.fullmatch(self.base.decode("latin-1")) or self.base.endswith(b"/"):
            yield f"base path: found {self.base!r}, expected none, or one that begins with / and ends without it"

    @classmethod
    def parse(cls, url: str) -> Backend:
        """Read ``http://host[:port][/base]``, ``https://…`` or ``unix:/path``.

        :raises SettingsError: it is none of these, or has credentials, a query or a fragment.
        """
        if not url.isprintable() or " " in url:
            # urlsplit drops tabs and line ends without a word.
            raise _bad_backend(url, "a space or a control character cannot be part of it")
        if url.startswith("unix:"):
            return cls._parse_unix(url)
        try:
            parts = urlsplit(url)
        except ValueError:
            raise _bad_backend(url) from None
        base = parts.path.rstrip("/")
        host = parts.hostname or ""
        if parts.scheme not in _PORTS or parts.username is not None or "?" in url or "#" in url:
            raise _bad_backend(url, _hint(parts.scheme, "?" in url or "#" in url))
        port = _port_of(url, parts)
        if not _HOST.fullmatch(host) or not _BASE.fullmatch(base):
            raise _bad_backend(url)
        if parts.scheme == "https" and not _may_be_verified(host):
            raise SettingsError(
                f"backend: found {host!r} with https, expected a host's name that a certificate can have"
            )
        return cls(scheme=Scheme(parts.scheme), host=host, port=port, base=base.encode("ascii"))

    @classmethod
    def _parse_unix(cls, url: str) -> Backend:
        path = url.removeprefix("unix:").removeprefix("//")
        if not path.startswith("/"):
            raise _bad_backend(url, "the path is relative, and has to begin with /")
        if len(path.encode()) > MAX_SOCKET_PATH:
            raise SettingsError(
                f"backend: found a socket's path of {len(path.encode())} bytes, expected {MAX_SOCKET_PATH} at most"
            )
        return cls(scheme=Scheme.UNIX, path=path)

    @property
    def authority(self) -> bytes:
        """Return ``host[:port]`` as a ``Host`` field has it; ``localhost`` for a unix socket."""
        if self.scheme is Scheme.UNIX:
            return b"localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (host if self.port == _PORTS[self.scheme.value] else f"{host}:{self.port}").encode(
            "ascii"
        )

    def __str__(self) -> str:
        if self.scheme is Scheme.UNIX:
            return f"unix:{self.path}"
        return f"{self.scheme.value}://{self.authority.decode()}{self.base.decode()}"


def _port_of(url: str, parts: SplitResult) -> int:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise _bad_backend(url, "the port has to be a number from 1 to 65535")
    return port or _PORTS[parts.scheme]


def _hint(scheme: str, has_query: bool) -> str:
    if scheme not in _PORTS:
        return ""
    what = "a query or a fragment" if has_query else "a user name or a password"
    return f"{what} cannot be part of it"


def _may_be_verified(host: str) -> bool:
    """Check that Twisted's TLS can ask for the host by name: an address, or a name that IDNA takes, so one without underscores."""
    if ":" in host:
        return True
    try:
        idna.encode(host)
    except idna.IDNAError:
        return False
    return True


def _bad_backend(url: str, hint: str = "") -> SettingsError:
    expected = "http://host[:port][/base], https://host[:port][/base] or unix:/path"
    more = f"; {hint}" if hint else ""
    return SettingsError(f"backend: found {_without_credentials(url)!r}, expected {expected}{more}")


def _without_credentials(url: str) -> str:
    """Remove user information, query and fragment, which may hold keys."""
    return re.sub(r"[?#].*", "?…", re.sub(r"^([a-z]*:)?.*@", r"\1…@", url), flags=re.DOTALL)
