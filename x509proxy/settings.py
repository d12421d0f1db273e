"""All configuration keys with their types, defaults, bounds and documentation, as frozen values.

Names in TOML are those of the fields with ``-`` for ``_``. Times are in seconds, sizes in bytes.
Every number is above zero and finite, so that no zero can disable a limit (invariant L7).

A :class:`Key` in a field's annotation has the facts about it. The checks, the sets of files and of
keys that need a restart, and the reference page (``docs/settings.rst``) are derived from it. The
bounds of a key check a single value. :meth:`Settings.contradictions` checks the keys of a table
together.

Facts
-----
* Endpoint strings are plain text here. Only :mod:`x509proxy.config.endpoint_strings` parses them.
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
    "RULE_METHODS",
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
    """Mistakes in a configuration, each a sentence ``key: found X, expected Y`` without secrets."""

    def __init__(self, *sentences: str) -> None:
        super().__init__(*sentences)
        self.sentences = sentences

    def __str__(self) -> str:
        """Return the first sentence and the number of others."""
        first, *others = self.sentences
        return f"{first} (and {len(others)} more: see `x509proxy check`)" if others else first


# Enumerations. The values are their spellings in TOML.


class ClientAuth(enum.Enum):
    """The certificate that the handshake requests, and that a request needs."""

    NONE = "none"
    OPTIONAL = "optional"
    REQUIRED = "required"


class ProxyProtocol(enum.Enum):
    """The PROXY protocol, in which a balancer sends each connection's client address.

    See :mod:`x509proxy.transport.proxy_protocol`.
    """

    NONE = "none"
    REQUIRED = "required"


class CertificateRequirement(enum.Enum):
    """The certificate that a request needs, by path and host (:mod:`~.forwarding.path_rules`)."""

    REQUIRED = "required"
    OPTIONAL = "optional"
    IGNORED = "ignored"
    """The request is forwarded without the client's certificate, as for pages in a browser."""


class TokenRequirement(enum.Enum):
    """The access token that a request needs (RFC 8705 section 3). The strictest is first."""

    BOUND = "bound"
    """The request needs a token that is bound to the certificate of its connection."""
    WHEN_BOUND = "when-bound"
    """A bound token must match the certificate. Unbound tokens, and no token, are accepted."""
    IGNORED = "ignored"


class TokenLevel(enum.Enum):
    """The way an access token is read (:mod:`x509proxy.authorization`)."""

    UNVERIFIED = "unverified"
    """``cnf`` is read without a check of the signature, and the back end verifies the token."""
    JWT = "jwt"
    """Signature, issuer, audience and times of a JWT are verified."""
    INTROSPECTION = "introspection"
    """The authorization server verifies the token (RFC 7662)."""


class TokenAlgorithm(enum.Enum):
    """A public-key algorithm for signed tokens (RFC 7518 section 3.1, RFC 8037, RFC 9864)."""

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
    """PEM without white space between the armour lines, for Connect2id."""
    PEM_SPACES = "pem-spaces"
    """PEM with a space in place of each line break, as Apache httpd sends it."""
    PEM_URL = "pem-url"
    """URL-encoded PEM, identical to nginx's ``$ssl_client_escaped_cert``."""
    BASE64_DER = "base64-der"
    """Base64 of the DER, as HAProxy and Traefik send it and ASP.NET Core reads it."""
    RFC9440 = "rfc9440"
    """``Client-Cert`` of RFC 9440."""
    RFC9440_CHAIN = "rfc9440-chain"
    """``Client-Cert-Chain`` of RFC 9440. There is no field if the client sent the leaf alone."""
    XFCC = "xfcc"
    """``X-Forwarded-Client-Cert`` of Envoy."""
    THUMBPRINT = "thumbprint"
    """``x5t#S256``: base64url of the SHA-256 of the DER (RFC 8705 section 3.1)."""
    SUBJECT = "subject"
    """The subject's name in RFC 4514 form, ASCII. It is unverified unless the issuer is trusted."""
    ISSUER = "issuer"
    """The issuer's name, likewise."""
    SERIAL = "serial"
    """The serial number in upper-case hexadecimal, as nginx's ``$ssl_client_serial``."""
    VERDICT = "verdict"
    """``NONE``, ``SELF_SIGNED``, ``TRUSTED`` or ``UNTRUSTED``, sent with every request."""
    VERIFY = "verify"
    """``NONE``, ``SUCCESS`` or ``FAILED:reason`` as in nginx, sent with every request."""
    TOKEN_CLAIMS = "token-claims"  # noqa: S105 - no password
    """Base64url of the JSON of the access token's verified claims. No field if there are none."""
    LITERAL = "literal"
    """The text of ``value``, or the one line of ``value-file``, sent with every request."""


class Trust(enum.Enum):
    """The issuers whose certificates are forwarded to the back end."""

    ANY = "any"
    SELF_SIGNED = "self-signed"
    CA = "ca"
    EITHER = "either"


class Validity(enum.Enum):
    """The treatment of a certificate outside its validity period."""

    ENFORCE = "enforce"
    """The proxy rejects it."""
    IGNORE = "ignore"
    """The proxy forwards it, and the back end decides."""


class Usage(enum.Enum):
    """The treatment of certificates from an authority that are not for TLS clients.

    The extended key usage decides (RFC 5280 section 4.2.1.12).
    """

    ENFORCE = "enforce"
    IGNORE = "ignore"
    """They are accepted: each server with a certificate of the authority can act as a client."""


class KeyType(enum.Enum):
    """A type of key that client certificates may have."""

    RSA = "rsa"
    EC = "ec"
    ED25519 = "ed25519"
    ED448 = "ed448"
    ML_DSA_44 = "ml-dsa-44"
    """Post-quantum signatures (FIPS 204, RFC 9881). A certificate has 4 KB."""
    ML_DSA_65 = "ml-dsa-65"
    """A certificate has 5.5 KB."""
    ML_DSA_87 = "ml-dsa-87"
    """A certificate has 7.5 KB."""


class InvalidNames(enum.Enum):
    """The treatment of header fields in a request whose names are outside ``[A-Za-z0-9-]``."""

    DROP = "drop"
    """The field is removed, as nginx does."""
    REFUSE = "refuse"
    """The request is rejected with 400."""


class RequestIds(enum.Enum):
    """The origin of a request's identifier (:mod:`x509proxy.http1.request_id`)."""

    GENERATE = "generate"
    """The proxy generates it."""
    TRUST = "trust"
    """It is taken from the request, if valid, for proxies behind a hop that assigns identifiers."""


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
    """The use of the file that a key's value names."""

    NO = "no"
    READ = "read"
    WRITTEN = "written"


class Change(enum.Enum):
    """The step after which a changed value takes effect."""

    RELOAD = "reload"
    RESTART = "restart"


# Longer than any process runs, and small enough for clocks: date arithmetic fails after year 9999.
_MAX_SECONDS = 366 * 24 * 3600.0
_MAX_INTEGER = 2**31 - 1


@attrs.frozen
class Key:
    """The facts about a configuration key."""

    doc: str
    """One sentence of documentation."""
    unit: Unit = Unit.NONE
    least: float | None = None
    """Smallest number that is allowed."""
    most: float | None = None
    """Largest number that is allowed."""
    expected: str = ""
    """An example, for the error sentence if the key is missing."""
    file: File = File.NO
    change: Change = Change.RELOAD

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
        largest = _written(most)
        span = f"{_written(self.least)} to {largest}" if self.least else f"{largest} or less"
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
        return "found ~ at the beginning, which only a shell expands, expected the whole path"
    return ""


@attrs.frozen
class KeyField:
    """A key of a table."""

    name: str
    """Name in TOML."""
    field: str
    """Name of the field in Python."""
    type: Any
    key: Key
    default: Any
    """Default value, or ``msgspec.NODEFAULT`` if the key is required."""

    @property
    def required(self) -> bool:
        """Return True if a table must have the key."""
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
    """Return the class of the table, or of the list of tables, in a key of this type.

    It is ``None`` if the key has another value.
    """
    types = [kind, *get_args(kind)]
    return next(
        (part for part in types if isinstance(part, type) and issubclass(part, Settings)), None
    )


class Settings(
    msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True
):
    """Base class of all tables: frozen, hashable, and checked at construction.

    Unknown keys are an error, since an ignored one could be a rule or a limit.
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
    """Yield a sentence for each name that ``http1.messages.host_name`` cannot return."""
    for name in names:
        if not _HOST_NAME.fullmatch(name):
            expected = "a host's name in lower case, without a port, a final dot or *"
            yield f"{key}: found {without_secrets(repr(name))}, expected {expected}"


# Normalized paths only (x509proxy.http1.path_readings): a segment has no dot and no NTFS stream at
# its end. A request may have a star in its path, but in a rule it would look like a wildcard.
_RULE_PATH = re.compile(
    r"/|(?!.*(?::\$|/\([A-Za-z]\())(?:/[A-Za-z0-9._~!$&'()+,=:@-]*[A-Za-z0-9_~!$&'()+,=:@-])+"
)


RULE_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""The methods that a rule may name."""


class RuleSettings(Settings, frozen=True):
    """Requirements for requests below a path (:mod:`x509proxy.forwarding.path_rules`).

    Other rules decide about a key that a rule does not have.
    """

    client_certificate: Annotated[
        CertificateRequirement | None, Key("The certificate that matching requests need.")
    ] = None
    token: Annotated[
        TokenRequirement | None,
        Key("The access token that matching requests need, and its binding to the certificate."),
    ] = None
    path: Annotated[str, Key("The path that the rule applies to, with all paths below it.")] = "/"
    server_name: Annotated[
        str | None, Key("The host name in requests that the rule applies to; any if absent.")
    ] = None
    methods: Annotated[
        tuple[str, ...], Key("The methods that the rule applies to; all if absent.")
    ] = ()

    def contradictions(self) -> Iterator[str]:
        if not _RULE_PATH.fullmatch(self.path):
            yield (
                f"path: found {without_secrets(repr(self.path))}, "
                "expected a plain path such as /token, for itself and all below it, "
                "without * and without / at its end"
            )
        if self.server_name is not None:
            yield from _host_problems("server-name", self.server_name)
        for method in self.methods:
            if method not in RULE_METHODS:
                yield (
                    f"methods: found {without_secrets(repr(method))}, "
                    f"expected some of {', '.join(RULE_METHODS)}"
                )
        if self.client_certificate is None and self.token is None:
            yield (
                "client-certificate: found nothing, "
                "expected required, optional or ignored, or a token"
            )
        is_ignored = self.client_certificate is CertificateRequirement.IGNORED
        if is_ignored and self.token is TokenRequirement.BOUND:
            yield (
                "token: found bound beside client-certificate = ignored, "
                "expected another client-certificate: the token is compared with it"
            )


class PolicySettings(Settings, frozen=True):
    """Rules for certificates to be forwarded (:mod:`x509proxy.forwarding.certificate_policy`).

    No setting admits certificates that are weaker or larger than the bounds here (invariant L5,
    :mod:`x509proxy.certificates.client_certificate`).
    """

    client_certificate: Annotated[
        ClientAuth, Key("The certificate that the handshake requests and a request needs.")
    ] = ClientAuth.OPTIONAL
    trust: Annotated[Trust, Key("The issuers whose certificates are forwarded.")] = Trust.ANY
    validity: Annotated[
        Validity, Key("The treatment of certificates outside their validity period.")
    ] = Validity.ENFORCE
    usage: Annotated[
        Usage, Key("The treatment of an authority's certificates that are not for TLS clients.")
    ] = Usage.ENFORCE
    max_certificate_bytes: Annotated[
        int,
        Key(
            "The size of a client's certificate in DER; a larger one is rejected with 400.",
            Unit.BYTES,
            most=16384,
        ),
    ] = 8192
    minimum_rsa_bits: Annotated[
        int, Key("The smallest size of an RSA key.", Unit.BITS, least=2048, most=8192)
    ] = 2048
    key_types: Annotated[
        tuple[KeyType, ...], Key("The types of keys that clients' certificates may have.")
    ] = tuple(KeyType)
    rules: Annotated[
        tuple[RuleSettings, ...], Key("Requirements for certificates and tokens, by path.")
    ] = ()

    def contradictions(self) -> Iterator[str]:
        if len(set(self.key_types)) < len(self.key_types):
            yield "key-types: found one twice, expected each once"
        if not self.key_types:
            known = ", ".join(kind.value for kind in KeyType)
            yield f"key-types: found none, expected one or more of {known}"
        rules = [
            (rule.path.lower(), rule.server_name, method)
            for rule in self.rules
            for method in rule.methods or (None,)
        ]
        if len(set(rules)) < len(rules):
            yield "rules: found two for the same path, server name and method, expected one"


class ClientSettings(Settings, frozen=True):
    """The client's side of HTTP/1.1 (:mod:`x509proxy.downstream.channel`)."""

    handshake_timeout: Annotated[
        float, Key("The time for a TLS handshake; then the connection is closed.", Unit.SECONDS)
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
        ),
    ] = 240
    idle_timeout: Annotated[
        float,
        Key("The time without a request after which a connection is closed.", Unit.SECONDS),
    ] = 30.0
    send_timeout: Annotated[
        float,
        Key("The time within which a client must read a part of its response.", Unit.SECONDS),
    ] = 30.0
    drain_timeout: Annotated[
        float,
        Key(
            "The time for requests in progress after SIGTERM.",
            Unit.SECONDS,
        ),
    ] = 30.0
    min_response_rate: Annotated[
        int,
        Key(
            "The average rate at which a client reads a response, counted while the proxy waits "
            "for it and once send-timeout has passed; below it the connection is closed.",
            Unit.BYTES_PER_SECOND,
        ),
    ] = 240
    max_requests_per_connection: Annotated[
        int,
        Key(
            "The number of requests on a connection; the last response closes it.",
        ),
    ] = 1000
    max_connection_age: Annotated[
        float,
        Key(
            "The age after which a connection is closed with its next response, "
            "so that a revoked certificate stops working.",
            Unit.SECONDS,
        ),
    ] = 3600.0
    max_connections: Annotated[
        int,
        Key(
            "The number of connections at a time; above it, idle ones make room.",
            most=1_000_000,
        ),
    ] = 4096
    max_connections_per_address: Annotated[
        int | None,
        Key(
            "The number of connections of one address at a time; no limit if absent.",
            most=1_000_000,
        ),
    ] = None
    handshake_rate_per_address: Annotated[
        float | None,
        Key(
            "The rate of handshakes of one address, with a burst of two seconds' worth; "
            "no limit if absent.",
            Unit.PER_SECOND,
        ),
    ] = None
    max_handshake_bytes: Annotated[
        int,
        Key(
            "The size of the client's part of a TLS handshake. A larger one, or one with more than "
            "ten issuers, fails.",
            Unit.BYTES,
            least=1024,
            most=1 << 17,
        ),
    ] = 32768
    max_head_bytes: Annotated[
        int,
        Key(
            "The size of a request's head; a larger one is rejected with 431.",
            Unit.BYTES,
            least=64,
            most=1 << 20,
        ),
    ] = 16384
    max_line_bytes: Annotated[
        int,
        Key(
            "The size of a field's line in the head; a longer one is rejected with 431.",
            Unit.BYTES,
            least=16,
            most=1 << 20,
        ),
    ] = 8192
    max_target_bytes: Annotated[
        int,
        Key(
            "The size of a request's target; a longer one is rejected with 414.",
            Unit.BYTES,
            most=1 << 20,
        ),
    ] = 8192
    max_header_fields: Annotated[
        int,
        Key(
            "The number of fields in a request's head; more are rejected with 431.",
            most=10_000,
        ),
    ] = 100
    max_body_bytes: Annotated[
        int,
        Key(
            "The size of a request's body; a larger one is rejected with 413.",
            Unit.BYTES,
            most=1 << 40,
        ),
    ] = 1048576
    request_buffer_bytes: Annotated[
        int,
        Key(
            "The part of a request's body that is read before the back end is contacted. "
            "A malformed body within it never reaches the back end.",
            Unit.BYTES,
            most=1 << 30,
        ),
    ] = 65536
    invalid_header_names: Annotated[
        InvalidNames,
        Key("The treatment of header names outside [A-Za-z0-9-]."),
    ] = InvalidNames.DROP
    request_id: Annotated[RequestIds, Key("The origin of a request's identifier in the logs.")] = (
        RequestIds.GENERATE
    )
    allowed_hosts: Annotated[
        tuple[str, ...],
        Key(
            "The host names that are served, without a port; any if empty. Requests to other "
            "hosts are rejected with 421.",
        ),
    ] = ()

    def contradictions(self) -> Iterator[str]:
        yield from _host_problems("allowed-hosts", *self.allowed_hosts)
        for part, whole in _PARTS.items():
            yield from _larger_part(self, part, whole)


# A part that is larger than its whole has no effect, so it is an error, unless it is the default.
_PARTS = {
    "max_line_bytes": "max_head_bytes",
    "max_target_bytes": "max_head_bytes",
    "request_buffer_bytes": "max_body_bytes",
}


def _larger_part(settings: ClientSettings, part: str, whole: str) -> Iterator[str]:
    found, most = getattr(settings, part), getattr(settings, whole)
    if found > most and found != keys(ClientSettings)[part.replace("_", "-")].default:
        key, limit = part.replace("_", "-"), whole.replace("_", "-")
        yield f"{key}: found {found}, expected {limit}, {most}, or less"


class UpstreamSettings(Settings, frozen=True):
    """The back end's side of HTTP/1.1 (:mod:`x509proxy.upstream.connection`).

    A back end is skipped after a failed connection, or after ``failure_threshold`` failed exchanges
    in a row. The time is ``retry_delay`` at first and doubles with each failure, up to
    ``max_retry_delay``. When the back end has recovered, its share of requests grows during
    ``slow_start`` (:mod:`x509proxy.upstream.health`).
    """

    connect_timeout: Annotated[
        float, Key("The time to connect; then the next back end is tried, or 504.", Unit.SECONDS)
    ] = 5.0
    response_timeout: Annotated[
        float, Key("The time until a response begins; then 504.", Unit.SECONDS)
    ] = 30.0
    read_timeout: Annotated[
        float,
        Key(
            "The time between two bytes of a response, or until the back end reads more of a "
            "streamed body; then 504, or the connection is closed.",
            Unit.SECONDS,
        ),
    ] = 30.0
    idle_timeout: Annotated[
        float,
        Key(
            "The time after which an idle connection is closed. Keep it below the back end's own "
            "timeout (Tomcat: 20 s).",
            Unit.SECONDS,
        ),
    ] = 15.0
    queue_timeout: Annotated[
        float, Key("The time that a request waits for a connection; then 503.", Unit.SECONDS)
    ] = 5.0
    max_connections: Annotated[
        int,
        Key(
            "The number of connections to each back end, at most half of them for streamed bodies; "
            "further requests are queued.",
            most=1_000_000,
        ),
    ] = 64
    max_queued_requests: Annotated[
        int,
        Key(
            "The number of requests in the queue of each back end; more are rejected with 503.",
            most=1_000_000,
        ),
    ] = 256
    max_head_bytes: Annotated[
        int,
        Key(
            "The size of a response's head, with the interim responses before it; a larger one "
            "becomes 502.",
            Unit.BYTES,
            least=64,
            most=1 << 20,
        ),
    ] = 32768
    max_header_fields: Annotated[
        int,
        Key(
            "The number of fields in a response's head; more become 502.",
            most=10_000,
        ),
    ] = 200
    max_connection_age: Annotated[
        float,
        Key(
            "The age after which a connection is not reused, so that a changed DNS entry takes "
            "effect.",
            Unit.SECONDS,
        ),
    ] = 300.0
    keep_alive: Annotated[
        bool,
        Key(
            "Whether a connection serves more than one request. With false, a back end that "
            "leaves a request's body unread cannot take it for the next request.",
        ),
    ] = True
    failure_threshold: Annotated[
        int,
        Key(
            "The number of failed exchanges in a row after which a back end is skipped.",
        ),
    ] = 3
    retry_delay: Annotated[
        float,
        Key(
            "The time for which a failed back end is skipped at first.",
            Unit.SECONDS,
            most=300,
        ),
    ] = 1.0
    max_retry_delay: Annotated[
        float,
        Key(
            "The longest time for which a failed back end is skipped.",
            Unit.SECONDS,
            most=300,
        ),
    ] = 30.0
    slow_start: Annotated[
        float,
        Key("The time during which the share of a recovered back end grows.", Unit.SECONDS),
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
        str | None, Key("Its private key, PEM, readable by its owner only.", file=File.READ)
    ] = None

    def contradictions(self) -> Iterator[str]:
        if self.retry_delay > self.max_retry_delay:
            expected = f"max-retry-delay, {self.max_retry_delay:g}, or less"
            yield f"retry-delay: found {self.retry_delay:g}, expected {expected}"


class HeaderSettings(Settings, frozen=True):
    """A header with the client's certificate (:mod:`x509proxy.forwarding.header_rules`)."""

    format: Annotated[Format, Key("The format of the value.")]
    name: Annotated[str | None, Key("The header's name, if it is not a secret.")] = None
    name_file: Annotated[
        str | None, Key("The file that holds the header's secret name.", file=File.READ)
    ] = None
    chain_index: Annotated[
        int,
        Key(
            "The number of the certificate: 1 is the client's own, 2 and on those of its chain.",
        ),
    ] = 1
    max_value_bytes: Annotated[
        int | None,
        Key(
            "The size of the value; larger ones (certificates or claims) are rejected with 400. "
            "If absent: 8192 for token-claims, no limit for other formats.",
            Unit.BYTES,
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
    """A listener with settings of its own.

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
            "The certificate that the handshake requests here, if it differs; none for browsers "
            "(RFC 8705 section 5)."
        ),
    ] = None
    proxy_protocol: Annotated[
        ProxyProtocol | None,
        Key(
            "The PROXY protocol, required behind a balancer that sends client addresses in it.",
            change=Change.RESTART,
        ),
    ] = None
    trusted_proxies: Annotated[
        tuple[str, ...],
        Key(
            "The networks whose PROXY headers are trusted; other connections are closed.",
        ),
    ] = LOOPBACK
    proxy_hops: Annotated[
        int, Key("The number of PROXY headers in a row.", least=1, most=4, change=Change.RESTART)
    ] = 1

    def contradictions(self) -> Iterator[str]:
        if self.endpoint.startswith(_HAPROXY) and self.proxy_protocol is ProxyProtocol.NONE:
            yield (
                "proxy-protocol: found none, expected required, "
                "since the endpoint begins with haproxy:"
            )
        if self.description.startswith(_HAPROXY):
            yield (
                "endpoint: found haproxy: twice, "
                "expected it once; proxy-hops is the number of PROXY headers"
            )
        if not self.is_proxied and (self.trusted_proxies, self.proxy_hops) != (LOOPBACK, 1):
            yield (
                'proxy-protocol: found none, expected "required" '
                "where trusted-proxies or proxy-hops is given"
            )
        yield from _network_problems(self.trusted_proxies)

    @property
    def is_proxied(self) -> bool:
        """Return True if each connection begins with a header of the PROXY protocol."""
        return self.proxy_protocol is ProxyProtocol.REQUIRED or self.endpoint.startswith(_HAPROXY)

    @property
    def description(self) -> str:
        """Return the endpoint without ``haproxy:``, for Twisted.

        The proxy parses PROXY headers itself, since Twisted's parser fails if a header arrives in
        pieces.
        """
        return self.endpoint.removeprefix(_HAPROXY)


def _network_problems(networks: tuple[str, ...]) -> Iterator[str]:
    if not networks:
        yield "trusted-proxies: found none, expected at least one network such as 10.0.0.0/8"
    for network in networks:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            expected = (
                "an address, or a network such as 10.0.0.0/8 with no bit set after its prefix"
            )
            yield f"trusted-proxies: found {without_secrets(repr(network))}, expected {expected}"


class CertificateSettings(Settings, frozen=True):
    """An additional server certificate, selected by its names (SNI, RFC 6066 section 3)."""

    certificate: Annotated[
        str,
        Key(
            "The chain, PEM; the key may be in the same file.",
            expected="a PEM file with a chain",
            file=File.READ,
        ),
    ]
    private_key: Annotated[
        str | None, Key("Its private key, PEM, readable by its owner only.", file=File.READ)
    ] = None


_ORIGIN = re.compile(r"https://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")


class DiscoverySettings(Settings, frozen=True):
    """Metadata with ``mtls_endpoint_aliases`` (RFC 8414, :mod:`~.forwarding.oauth_metadata`)."""

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
            "The size of a metadata document; a larger one is forwarded unchanged.",
            Unit.BYTES,
            most=16 << 20,
        ),
    ] = 65536

    def contradictions(self) -> Iterator[str]:
        origin = _ORIGIN.fullmatch(self.mtls)
        if origin is None or not 0 < int(origin[1] or 443) < 65536:
            # The value is not repeated: it may be a secret in the wrong place.
            yield (
                "mtls: found no https origin, "
                "expected one such as https://mtls.example.com:8443, without a path"
            )


_CHECK_PATH = re.compile(r"/[!-\"$-~]*")


class HealthSettings(Settings, frozen=True):
    """Active checks of each back end (:mod:`x509proxy.upstream.health_checks`)."""

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
    rise: Annotated[int, Key("The good responses in a row that mark a back end as up.")] = 2
    fall: Annotated[int, Key("The bad responses in a row that mark a back end as down.")] = 3

    def contradictions(self) -> Iterator[str]:
        if not _CHECK_PATH.fullmatch(self.path):
            # The value is not repeated: a query may contain a secret.
            yield (
                "path: found no path, "
                "expected one such as /health, in ASCII and without spaces or #"
            )


_TOKEN_URL = re.compile(
    r"(https?)://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?"
    r"(?:/[!-\"$-;=@-~]*)?(?:\?[!-\"$-~]*)?"
)
_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})


class TokenSettings(Settings, frozen=True):
    """The check of access tokens, for rules with ``token`` (:mod:`x509proxy.authorization`)."""

    level: Annotated[TokenLevel, Key("The way access tokens are checked.")]
    issuer: Annotated[
        str | None, Key("The iss of the tokens; its metadata (RFC 8414) has the endpoints.")
    ] = None
    audience: Annotated[
        tuple[str, ...], Key("The accepted values of aud; a token needs one of them.")
    ] = ()
    algorithms: Annotated[
        tuple[TokenAlgorithm, ...], Key("The algorithms that may sign a token.")
    ] = (
        TokenAlgorithm.RS256,
        TokenAlgorithm.PS256,
        TokenAlgorithm.ES256,
        TokenAlgorithm.EDDSA,
    )
    types: Annotated[tuple[str, ...], Key("The accepted values of typ, if a token has one.")] = (
        "at+jwt",
    )
    clock_skew: Annotated[
        float | None,
        Key("The tolerated difference of the clocks; none if absent.", Unit.SECONDS, most=600),
    ] = None
    jwks_file: Annotated[
        str | None,
        Key("The file with the issuer's JWK set, in place of a download.", file=File.READ),
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
            "The file with the secret of this client, readable by its owner only.",
            file=File.READ,
        ),
    ] = None
    certificate: Annotated[
        str | None,
        Key("The certificate of this client, PEM, in place of a secret.", file=File.READ),
    ] = None
    private_key: Annotated[
        str | None, Key("Its private key, PEM, readable by its owner only.", file=File.READ)
    ] = None
    cache_time: Annotated[
        float,
        Key(
            "The time for which an introspection response about an active token is cached.",
            Unit.SECONDS,
        ),
    ] = 60.0
    negative_cache_time: Annotated[
        float,
        Key(
            "The time for which an introspection response about another token is cached.",
            Unit.SECONDS,
        ),
    ] = 5.0
    ca: Annotated[
        str | None,
        Key(
            "The authorities of the issuer's server, PEM; the system's if absent.",
            file=File.READ,
        ),
    ] = None
    key_lifetime: Annotated[
        float,
        Key(
            "The time after which keys are downloaded again, or the response's max-age if less.",
            Unit.SECONDS,
        ),
    ] = 3600.0
    min_refresh_interval: Annotated[
        float, Key("The smallest time between two downloads of the keys.", Unit.SECONDS)
    ] = 10.0
    timeout: Annotated[
        float, Key("The time for a response of the issuer's server.", Unit.SECONDS)
    ] = 5.0
    max_response_bytes: Annotated[
        int, Key("The size of such a response, with its head.", Unit.BYTES, most=16 << 20)
    ] = 131072
    max_token_bytes: Annotated[
        int,
        Key("The size of a token; a larger one is rejected with 400.", Unit.BYTES, most=16384),
    ] = 8192
    max_pending_checks: Annotated[
        int,
        Key("The requests that wait for the issuer's server; others are rejected with 503."),
    ] = 256
    max_pending_checks_per_address: Annotated[
        int,
        Key("Those of one client address; others of this address are rejected with 503."),
    ] = 64
    cache_entries: Annotated[
        int, Key("The number of cached results, stored by the tokens' hashes.", most=1 << 20)
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
            yield "client-id: found none, expected the client that may introspect tokens"
        if (self.client_secret_file is None) is (self.certificate is None):
            found = "neither" if self.certificate is None else "both"
            yield (
                f"client-secret-file: found {found} client-secret-file and certificate, "
                "expected one of them"
            )


def url_problem(url: str) -> str:
    """Return ``found X, expected Y`` for an invalid URL, or ``http`` to another host, or ``""``.

    The URL is not repeated, since it may contain a secret.
    """
    found = _TOKEN_URL.fullmatch(url)
    if found is None or not 0 < int(found[3] or 443) < 65536:
        return "found no URL, expected one such as https://as.example.com/path"
    if found[1] == "http" and found[2].lower() not in _LOCAL_HOSTS:
        return "found http, expected https for another host than this one"
    return ""


def token_problems(rules: tuple[RuleSettings, ...], tokens: TokenSettings | None) -> Iterator[str]:
    """Yield a sentence if a rule needs tokens and there is no table with their settings."""
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

    :func:`x509proxy.config.endpoint_strings.check_endpoints` rejects a ``listen`` that other hosts
    can reach, unless ``allow_remote`` is set.
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
            "Permission to listen where other hosts can connect.",
            change=Change.RESTART,
        ),
    ] = False
    allowed_hosts: Annotated[
        tuple[str, ...],
        Key(
            "The host names that are served, besides localhost and addresses.",
            change=Change.RESTART,
        ),
    ] = ()

    def contradictions(self) -> Iterator[str]:
        yield from _host_problems("allowed-hosts", *self.allowed_hosts)


class ProxySettings(PolicySettings, frozen=True):
    """All settings of a proxy. Those about certificates are in :class:`PolicySettings`."""

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
        str | None,
        Key("The server's private key, PEM, readable by its owner only.", file=File.READ),
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
            "The file with the secret header name, and in a second line the next one.",
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
            "The rate of rejected and aborted requests, and of failed handshakes, that are logged; "
            "others are only counted.",
            Unit.PER_SECOND,
        ),
    ] = 50
    workers: Annotated[
        int, Key("The number of processes that serve.", least=1, most=256, change=Change.RESTART)
    ] = 1
    reload_poll_interval: Annotated[
        float | None,
        Key(
            "The time between two checks of the files for changes; none if absent.",
            Unit.SECONDS,
        ),
    ] = None
    demo: Annotated[
        bool, Key("A demonstration with an embedded back end.", change=Change.RESTART)
    ] = False
    headers: Annotated[tuple[HeaderSettings, ...], Key("Additional headers for the back end.")] = ()
    listeners: Annotated[
        tuple[ListenerSettings, ...],
        Key("Listeners with settings of their own.", change=Change.RESTART),
    ] = ()
    certificates: Annotated[
        tuple[CertificateSettings, ...], Key("Additional certificates, by server name.")
    ] = ()
    discovery: Annotated[
        DiscoverySettings | None, Key("Endpoint aliases in the server's metadata.")
    ] = None
    health: Annotated[HealthSettings | None, Key("Active checks of the back ends.")] = None
    tokens: Annotated[TokenSettings | None, Key("The check of access tokens.")] = None
    admin: Annotated[AdminSettings | None, Key("The admin listener.", change=Change.RESTART)] = None
    tls: Annotated[TlsSettings, Key("The handshake with the clients.")] = TlsSettings()
    client: Annotated[ClientSettings, Key("Limits for connections from clients.")] = (
        ClientSettings()
    )
    upstream: Annotated[UpstreamSettings, Key("Limits for connections to back ends.")] = (
        UpstreamSettings()
    )

    def __repr__(self) -> str:
        # The header's name is a secret (invariant L4), which a traceback must not show.
        shown = {"listen": self.listen, "backend": self.backend, "preset": self.preset}
        return f"ProxySettings({', '.join(f'{key}={value!r}' for key, value in shown.items())})"

    def contradictions(self) -> Iterator[str]:
        yield from super().contradictions()
        yield from token_problems(self.rules, self.tokens)
        for endpoint in self.listen:
            try:
                ListenerSettings(endpoint=endpoint)
            except SettingsError as error:
                yield from error.sentences

    @property
    def all_listeners(self) -> tuple[ListenerSettings, ...]:
        """Return all listeners: those of ``listen``, then those of ``listeners``."""
        return (*(ListenerSettings(endpoint=endpoint) for endpoint in self.listen), *self.listeners)

    @property
    def listener_keys(self) -> tuple[str, ...]:
        """Return the key in the document of each of ``all_listeners``."""
        return (
            *("listen" for _ in self.listen),
            *(f"listeners[{index}].endpoint" for index in range(len(self.listeners))),
        )

    @property
    def policy(self) -> PolicySettings:
        """Return the settings that decide which certificates are forwarded."""
        return PolicySettings(
            **{name: getattr(self, name) for name in PolicySettings.__struct_fields__}
        )


# Back ends.


class Scheme(enum.Enum):
    """The protocol of a back end."""

    HTTP = "http"
    HTTPS = "https"
    UNIX = "unix"


# Labels have at most 63 characters (RFC 1035 section 2.3.4). Python's idna codec fails for others.
_HOST = re.compile(r"(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?|[0-9A-Fa-f]*:[0-9A-Fa-f:.]*")
_BASE = re.compile(r"(/[!-\"$->@-~]*)?")
_PORTS = {"http": 80, "https": 443}
MAX_SOCKET_PATH = 107
"""Bytes of a unix socket's path (unix(7): sun_path)."""


class Backend(Settings, frozen=True):
    """The address of a back end, an origin server (RFC 9110 section 3.6)."""

    scheme: Scheme
    host: str = ""
    port: Annotated[int, Key("The port.", least=1, most=65535)] = 80
    path: str = ""
    """Path of a unix socket."""
    base: bytes = b""
    """Prefix of every target. Empty, or with ``/`` at its beginning and not at its end."""

    def contradictions(self) -> Iterator[str]:
        if not _BASE.fullmatch(self.base.decode("latin-1")) or self.base.endswith(b"/"):
            yield (
                f"base path: found {self.base!r}, "
                "expected none, or one that begins with / and ends without it"
            )

    @classmethod
    def parse(cls, url: str) -> Backend:
        """Parse ``http://host[:port][/base]``, ``https://…`` or ``unix:/path``.

        :raises SettingsError: the URL is none of these, or has credentials, a query or a fragment.
        """
        if not url.isprintable() or " " in url:
            # urlsplit silently drops tabs and line breaks.
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
        if parts.scheme == "https" and not _is_verifiable(host):
            raise SettingsError(
                f"backend: found {host!r} with https, "
                "expected a host's name that a certificate can have"
            )
        return cls(scheme=Scheme(parts.scheme), host=host, port=port, base=base.encode("ascii"))

    @classmethod
    def _parse_unix(cls, url: str) -> Backend:
        path = url.removeprefix("unix:").removeprefix("//")
        if not path.startswith("/"):
            raise _bad_backend(url, "the path must begin with /")
        if len(path.encode()) > MAX_SOCKET_PATH:
            raise SettingsError(
                f"backend: found a socket's path of {len(path.encode())} bytes, "
                f"expected {MAX_SOCKET_PATH} or less"
            )
        return cls(scheme=Scheme.UNIX, path=path)

    @property
    def authority(self) -> bytes:
        """Return ``host[:port]`` for a ``Host`` field, and ``localhost`` for a unix socket."""
        if self.scheme is Scheme.UNIX:
            return b"localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme.value] else f":{self.port}"
        return f"{host}{port}".encode("ascii")

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
        raise _bad_backend(url, "the port must be a number from 1 to 65535")
    return port or _PORTS[parts.scheme]


def _hint(scheme: str, has_query: bool) -> str:
    if scheme not in _PORTS:
        return ""
    part = "a query or a fragment" if has_query else "a user name or a password"
    return f"{part} cannot be part of it"


def _is_verifiable(host: str) -> bool:
    """Return True for an address, or for a name that IDNA accepts, so one without underscores.

    Twisted's TLS verifies no other names.
    """
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
    """Return the URL without user information, query and fragment, which may contain secrets."""
    return re.sub(r"[?#].*", "?…", re.sub(r"^([a-z]*:)?.*@", r"\1…@", url), flags=re.DOTALL)
