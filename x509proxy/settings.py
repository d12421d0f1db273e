"""What each room is told: frozen values, one class per room, complete and checked at construction.

Names in TOML are those of the fields with ``-`` for ``_``. Times are seconds, sizes are bytes. Every number is above zero and
finite: nothing here can be switched off by a zero (law L7, everything is bounded).
"""

from __future__ import annotations

import math
import re

import msgspec

from x509proxy.enums import (
    CertificateRequirement,
    ClientAuth,
    Format,
    InvalidNames,
    KeyType,
    LogFormat,
    ProxyProtocol,
    RequestIds,
    TlsVersion,
    Trust,
    Usage,
    Validity,
)
from x509proxy.redaction import without_secrets

__all__ = [
    "CertificateRequirement",
    "ClientAuth",
    "ClientSettings",
    "Format",
    "InvalidNames",
    "KeyType",
    "LogFormat",
    "PolicySettings",
    "ProxyProtocol",
    "RequestIds",
    "RuleSettings",
    "Settings",
    "SettingsError",
    "TlsSettings",
    "TlsVersion",
    "Trust",
    "UpstreamSettings",
    "Usage",
    "Validity",
    "check_host_name",
]


class SettingsError(ValueError):
    """One sentence for the person who configures: where, what was found, what was expected. Never holds a secret."""


class Settings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"
):
    """The base: frozen, hashable, strict about names and types; every number positive and finite."""

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            value = getattr(self, field)
            if (
                isinstance(value, int | float)
                and not isinstance(value, bool)
                and not 0 < value < math.inf
            ):
                raise SettingsError(
                    f"{field.replace('_', '-')}: found {value}, expected a number above zero"
                )


class TlsSettings(Settings, frozen=True):
    """The handshake with the clients (:mod:`x509proxy.transport.tls_context`)."""

    minimum_version: TlsVersion = TlsVersion.TLS_1_2


_HOST_NAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]")


def check_host_name(key: str, name: str) -> None:
    """Whether a host can be called that, as names are compared (:func:`x509proxy.http1.messages.host_name`).

    :raises SettingsError: it cannot: nothing would ever be for it.
    """
    if not _HOST_NAME.fullmatch(name):
        expected = "a host's name in lower case, without a port, a final dot or *"
        raise SettingsError(f"{key}: found {without_secrets(repr(name))}, expected {expected}")


# Only what a target can become (x509proxy.http1.path_readings): no dot at a name's end, and no stream behind it; and no star: a request may
# have one, but whoever writes one means more.
_RULE_PATH = re.compile(
    r"/|(?!.*(?::\$|/\([A-Za-z]\())(?:/[A-Za-z0-9._~!$&'()+,=:@-]*[A-Za-z0-9_~!$&'()+,=:@-])+"
)


class RuleSettings(Settings, frozen=True):
    """What the requests below a path need, to one server name or to any (:mod:`x509proxy.forwarding.path_rules`)."""

    client_certificate: CertificateRequirement
    path: str = "/"
    server_name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _RULE_PATH.fullmatch(self.path):
            expected = "a plain path such as /token, for itself and all below it, without * and without / at its end"
            raise SettingsError(
                f"path: found {without_secrets(repr(self.path))}, expected {expected}"
            )
        if self.server_name is not None:
            check_host_name("server-name", self.server_name)


# What is weaker, dearer or larger than that no setting lets pass (law L5, :mod:`x509proxy.certificates.client_certificate`).
_RSA_BITS = range(2048, 8193)
_LARGEST_DER = 16384


class PolicySettings(Settings, frozen=True):
    """Which certificates are passed on (:mod:`x509proxy.forwarding.certificate_policy`)."""

    client_certificate: ClientAuth = ClientAuth.OPTIONAL
    trust: Trust = Trust.ANY
    validity: Validity = Validity.ENFORCE
    usage: Usage = Usage.ENFORCE
    max_certificate_bytes: int = 8192
    minimum_rsa_bits: int = 2048
    key_types: tuple[KeyType, ...] = tuple(KeyType)
    rules: tuple[RuleSettings, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.minimum_rsa_bits not in _RSA_BITS:
            expected = f"{_RSA_BITS.start} to {_RSA_BITS.stop - 1}"
            raise SettingsError(
                f"minimum-rsa-bits: found {self.minimum_rsa_bits}, expected {expected}"
            )
        if self.max_certificate_bytes > _LARGEST_DER:
            raise SettingsError(
                f"max-certificate-bytes: found {self.max_certificate_bytes}, expected {_LARGEST_DER} or less"
            )
        if len(set(self.key_types)) < len(self.key_types):
            raise SettingsError("key-types: found one twice, expected each once")
        if not self.key_types:
            raise SettingsError(
                f"key-types: found none, expected one or more of {', '.join(kind.value for kind in KeyType)}"
            )
        places = [(rule.path.lower(), rule.server_name) for rule in self.rules]
        if len(set(places)) < len(places):
            raise SettingsError(
                "rules: found two for the same path and server name, expected one: which of them should count?"
            )


class ClientSettings(Settings, frozen=True):
    """The client's side of HTTP/1.1 (:mod:`x509proxy.downstream.channel`).

    ``request_buffer_bytes``: so much of a request's body is gathered before the back end hears of the request; a body that turns out
    malformed within it costs the back end not one byte. ``min_body_rate``: bytes a second, on the average, once ``body_timeout``
    has passed; ``min_response_rate``: likewise of a response, once the client has been waited for for ``send_timeout``.
    ``allowed_hosts``: the names (without port) that are served; none means any, another one is answered 421.
    ``max_connection_age``: an older connection is closed with its next answer, so that what has been revoked does not go on for ever.
    ``max_connections_per_address`` and ``handshake_rate_per_address`` (a second, with a burst of two seconds' worth): no limit if none.
    """

    handshake_timeout: float = 10.0
    head_timeout: float = 10.0
    body_timeout: float = 30.0
    min_body_rate: int = 240
    idle_timeout: float = 30.0
    send_timeout: float = 30.0
    drain_timeout: float = 30.0
    min_response_rate: int = 240
    max_requests_per_connection: int = 1000
    max_connection_age: float = 3600.0
    max_connections: int = 4096
    max_connections_per_address: int | None = None
    handshake_rate_per_address: float | None = None
    max_head_bytes: int = 16384
    max_line_bytes: int = 8192
    max_target_bytes: int = 8192
    max_header_fields: int = 100
    max_body_bytes: int = 1048576
    request_buffer_bytes: int = 65536
    invalid_header_names: InvalidNames = InvalidNames.DROP
    request_id: RequestIds = RequestIds.GENERATE
    allowed_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.allowed_hosts:
            check_host_name("allowed-hosts", name)


# Nobody's opinion of a back end lasts longer than that without a look at it.
_HOLD_OFF = 300.0


class UpstreamSettings(Settings, frozen=True):
    """The back end's side of HTTP/1.1 (:mod:`x509proxy.upstream.connection`).

    ``idle_timeout`` has to be shorter than the back end's own keep-alive timeout (Tomcat: 20 s). ``max_connections`` and ``max_queued_requests``
    are for each back end; of the connections, half at the most are lent to requests whose bodies are still coming, and longer
    than ``request_buffer_bytes``. ``ca``, ``certificate`` and ``private_key`` are PEM files, for ``https`` back ends. ``max_connection_age``: an
    older connection is not used again, so that a name that has moved is followed.

    A back end that cannot be connected to, or has failed ``failure_threshold`` exchanges in a row, is left alone for ``retry_delay``, then
    for twice that each time, up to ``max_retry_delay``; once back, its share grows for ``slow_start`` (:mod:`x509proxy.upstream.health`).
    """

    connect_timeout: float = 5.0
    response_timeout: float = 30.0
    read_timeout: float = 30.0
    idle_timeout: float = 15.0
    queue_timeout: float = 5.0
    max_connections: int = 64
    max_queued_requests: int = 256
    max_head_bytes: int = 32768
    max_header_fields: int = 200
    max_connection_age: float = 300.0
    failure_threshold: int = 3
    retry_delay: float = 1.0
    max_retry_delay: float = 30.0
    slow_start: float = 10.0
    ca: str | None = None
    certificate: str | None = None
    private_key: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_retry_delay > _HOLD_OFF:
            raise SettingsError(
                f"max-retry-delay: found {self.max_retry_delay:g}, expected {_HOLD_OFF:g} or less"
            )
        if self.retry_delay > self.max_retry_delay:
            expected = f"no more than max-retry-delay, {self.max_retry_delay:g}"
            raise SettingsError(f"retry-delay: found {self.retry_delay:g}, expected {expected}")
