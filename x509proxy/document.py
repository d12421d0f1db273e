"""The configuration as one document: everything that a TOML file and the command line can say."""

from __future__ import annotations

import re

from x509proxy.settings import (
    ClientAuth,
    ClientSettings,
    Format,
    KeyType,
    PolicySettings,
    RuleSettings,
    Settings,
    SettingsError,
    TlsSettings,
    Trust,
    UpstreamSettings,
    Validity,
)

__all__ = [
    "CertificateSettings",
    "DiscoverySettings",
    "HeaderSettings",
    "ListenerSettings",
    "ProxySettings",
]


class HeaderSettings(Settings, frozen=True):
    """One header that tells the back end who the client is (:mod:`x509proxy.rules`).

    Its name is told (``name``) or secret (``name-file``). ``place``: which certificate, 1 the client's own, 2 and on those that
    it sent after it; ``maximum``: bytes of the value, a larger certificate is refused; ``value`` and ``value-file`` are for
    ``literal``.
    """

    format: Format
    name: str | None = None
    name_file: str | None = None
    place: int = 1
    maximum: int | None = None
    value: str | None = None
    value_file: str | None = None

    def __repr__(self) -> str:
        # Name and value may be secrets (law L4).
        return f"HeaderSettings(format={self.format!r})"


class ListenerSettings(Settings, frozen=True):
    """One more place to listen, whose handshake asks for something else: for browsers, ``none`` (RFC 8705 section 5)."""

    endpoint: str
    client_certificate: ClientAuth


class CertificateSettings(Settings, frozen=True):
    """One more certificate of the server's, for the clients that ask for one of its names (SNI, RFC 6066 section 3)."""

    certificate: str
    private_key: str | None = None


_ORIGIN = re.compile(r"https://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")


class DiscoverySettings(Settings, frozen=True):
    """Metadata (RFC 8414) that tells clients where certificates are asked for (:mod:`x509proxy.discovery`).

    ``mtls``: the origin that clients with a certificate go to, such as ``https://mtls.example.com``; ``body_bytes``: what is
    larger passes unread.
    """

    mtls: str
    body_bytes: int = 65536

    def __post_init__(self) -> None:
        super().__post_init__()
        origin = _ORIGIN.fullmatch(self.mtls)
        if origin is None or not 0 < int(origin[1] or 443) < 65536:
            # What was found is not repeated: it may be a secret in the wrong place.
            raise SettingsError("mtls: found no https origin, expected one such as https://mtls.example.com:8443, without a path")


# How many intermediate certificates may stand between a client's and an authority: each can cost 5 ms (x509proxy.tls).
_CA_DEPTHS = range(1, 11)


class ProxySettings(Settings, frozen=True):
    """One proxy: what the command line and the TOML file can say."""

    listen: tuple[str, ...] = ("tcp:8443",)
    certificate: str | None = None
    private_key: str | None = None
    backend: tuple[str, ...] = ()
    preset: str = "connect2id"
    header_file: str | None = None
    header: str | None = None
    client_certificate: ClientAuth = ClientAuth.OPTIONAL
    trust: Trust = Trust.ANY
    validity: Validity = Validity.ENFORCE
    maximum_der: int = 6144
    minimum_rsa_bits: int = 2048
    key_types: tuple[KeyType, ...] = tuple(KeyType)
    ca: str | None = None
    ca_depth: int = 4
    crl: tuple[str, ...] = ()
    access_log: str | None = None
    demo: bool = False
    headers: tuple[HeaderSettings, ...] = ()
    rules: tuple[RuleSettings, ...] = ()
    listeners: tuple[ListenerSettings, ...] = ()
    certificates: tuple[CertificateSettings, ...] = ()
    discovery: DiscoverySettings | None = None
    tls: TlsSettings = TlsSettings()
    client: ClientSettings = ClientSettings()
    upstream: UpstreamSettings = UpstreamSettings()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ca_depth not in _CA_DEPTHS:
            raise SettingsError(f"ca-depth: found {self.ca_depth}, expected {_CA_DEPTHS.start} to {_CA_DEPTHS.stop - 1}")
        _ = self.policy

    def __repr__(self) -> str:
        # The header's name is a secret (law L4): a settings object in a traceback must not tell it.
        return f"ProxySettings(listen={self.listen!r}, backend={self.backend!r}, preset={self.preset!r})"

    @property
    def policy(self) -> PolicySettings:
        """The part that decides which certificates are passed on."""
        return PolicySettings(
            client_certificate=self.client_certificate,
            trust=self.trust,
            validity=self.validity,
            maximum_der=self.maximum_der,
            minimum_rsa_bits=self.minimum_rsa_bits,
            key_types=self.key_types,
            rules=self.rules,
        )
