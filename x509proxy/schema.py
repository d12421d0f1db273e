"""The configuration as one document: everything that a TOML file and the command line can say."""

from __future__ import annotations

import ipaddress
import re

from x509proxy.redaction import without_secrets
from x509proxy.settings import (
    ClientAuth,
    ClientSettings,
    Format,
    LogFormat,
    PolicySettings,
    ProxyProtocol,
    Settings,
    SettingsError,
    TlsSettings,
    UpstreamSettings,
    check_host_name,
)

__all__ = [
    "LOOPBACK",
    "AdminSettings",
    "CertificateSettings",
    "DiscoverySettings",
    "HeaderSettings",
    "HealthSettings",
    "ListenerSettings",
    "ProxySettings",
]


class HeaderSettings(Settings, frozen=True):
    """One header that tells the back end who the client is (:mod:`x509proxy.forwarding.header_rules`).

    Its name is told (``name``) or secret (``name-file``). ``chain_index``: which certificate, 1 the client's own, 2 and on those that
    it sent after it; ``max_value_bytes``: bytes of the value, a larger certificate is refused; ``value`` and ``value-file`` are for
    ``literal``.
    """

    format: Format
    name: str | None = None
    name_file: str | None = None
    chain_index: int = 1
    max_value_bytes: int | None = None
    value: str | None = None
    value_file: str | None = None

    def __repr__(self) -> str:
        # Name and value may be secrets (law L4).
        return f"HeaderSettings(format={self.format!r})"


_HAPROXY = "haproxy:"
LOOPBACK = ("127.0.0.0/8", "::1/128")
"""Whom to believe unless something else is said (:class:`ListenerSettings`)."""
_HOPS = range(1, 5)


class ListenerSettings(Settings, frozen=True):
    """One more place to listen.

    ``client_certificate``: what its handshake asks for, if that is something else; for browsers ``none`` (RFC 8705 section 5).
    ``proxy_protocol`` (:mod:`x509proxy.downstream.proxy_protocol_listener`): ``required`` where balancers say whose a connection is; an ``endpoint`` that
    begins with ``haproxy:`` says the same. ``trusted_proxies``: the networks whose word is believed, others are cut; ``proxy_hops``:
    how many balancers' headers there are in a row.
    """

    endpoint: str
    client_certificate: ClientAuth | None = None
    proxy_protocol: ProxyProtocol | None = None
    trusted_proxies: tuple[str, ...] = LOOPBACK
    proxy_hops: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.endpoint.startswith(_HAPROXY) and self.proxy_protocol is ProxyProtocol.NONE:
            raise SettingsError(
                "proxy-protocol: found none, expected required, since the endpoint begins with haproxy:"
            )
        if self.description.startswith(_HAPROXY):
            raise SettingsError(
                "endpoint: found haproxy: twice, expected it once; proxy-hops says how many headers there are"
            )
        if not self.is_proxied and (self.trusted_proxies, self.proxy_hops) != (
            LOOPBACK,
            _HOPS.start,
        ):
            raise SettingsError(
                'proxy-protocol: found none, expected "required" where trusted-proxies or proxy-hops is given'
            )
        if self.proxy_hops not in _HOPS:
            raise SettingsError(
                f"proxy-hops: found {self.proxy_hops}, expected {_HOPS.start} to {_HOPS.stop - 1}"
            )
        _check_networks(self.trusted_proxies)

    @property
    def is_proxied(self) -> bool:
        """Whether each connection begins with a header of the PROXY protocol."""
        return self.proxy_protocol is ProxyProtocol.REQUIRED or self.endpoint.startswith(_HAPROXY)

    @property
    def description(self) -> str:
        """The endpoint as Twisted has to hear it: its own parser of PROXY headers drops those that are split."""
        return _with_mode(self.endpoint.removeprefix(_HAPROXY))


_ENDPOINT_PART = re.compile(r"(?:[^\\:]|\\.)+")


def _with_mode(description: str) -> str:
    """A unix socket is its owner's alone unless it has a ``mode``; Twisted would let everybody in."""
    kind, *parts = _ENDPOINT_PART.findall(description) or [""]
    positional = [part for part in parts if "=" not in re.sub(r"\\.", "", part)]
    has_mode = len(positional) > 1 or any(part.startswith("mode=") for part in parts)
    return f"{description}:mode=600" if kind == "unix" and not has_mode else description


def _check_networks(networks: tuple[str, ...]) -> None:
    if not networks:
        raise SettingsError(
            "trusted-proxies: found none, expected at least one network such as 10.0.0.0/8"
        )
    for network in networks:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            expected = (
                "an address, or a network such as 10.0.0.0/8 with no bit set behind its prefix"
            )
            raise SettingsError(
                f"trusted-proxies: found {without_secrets(repr(network))}, expected {expected}"
            ) from None


class CertificateSettings(Settings, frozen=True):
    """One more certificate of the server's, for the clients that ask for one of its names (SNI, RFC 6066 section 3)."""

    certificate: str
    private_key: str | None = None


_ORIGIN = re.compile(r"https://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")


class DiscoverySettings(Settings, frozen=True):
    """Metadata (RFC 8414) that tells clients where certificates are asked for (:mod:`x509proxy.forwarding.oauth_metadata`).

    ``mtls``: the origin that clients with a certificate go to, such as ``https://mtls.example.com``; ``max_body_bytes``: what is
    larger passes unread.
    """

    mtls: str
    max_body_bytes: int = 65536

    def __post_init__(self) -> None:
        super().__post_init__()
        origin = _ORIGIN.fullmatch(self.mtls)
        if origin is None or not 0 < int(origin[1] or 443) < 65536:
            # What was found is not repeated: it may be a secret in the wrong place.
            raise SettingsError(
                "mtls: found no https origin, expected one such as https://mtls.example.com:8443, without a path"
            )


_CHECK_PATH = re.compile(r"/[!-\"$-~]*")
_CHECK_STATUSES = range(200, 600)


class HealthSettings(Settings, frozen=True):
    """How each back end is asked whether it is well, beside what its exchanges tell (:mod:`x509proxy.upstream.health_checks`).

    ``path``: what is asked for, below the back end's base path; ``status``: what a healthy one answers. It is asked every
    ``interval``, and has ``timeout`` for all of it; ``fall`` bad answers in a row take it out, ``rise`` good ones bring it back.
    """

    path: str
    status: int = 200
    interval: float = 5.0
    timeout: float = 2.0
    rise: int = 2
    fall: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _CHECK_PATH.fullmatch(self.path):
            # What was found is not repeated: a query may hold a key.
            raise SettingsError(
                "path: found no path, expected one such as /health, in ASCII and without spaces or #"
            )
        if self.status not in _CHECK_STATUSES:
            expected = f"{_CHECK_STATUSES.start} to {_CHECK_STATUSES.stop - 1}"
            raise SettingsError(f"status: found {self.status}, expected {expected}")


class AdminSettings(Settings, frozen=True):
    """Where to look at the proxy while it runs (:mod:`x509proxy.service.admin`): plain HTTP, without a password.

    ``listen``: a unix socket, or TCP with a loopback ``interface``; any other only if ``allow_remote`` says so. ``allowed_hosts``: the names by
    which it is asked, besides ``localhost`` and addresses.
    """

    listen: str
    allow_remote: bool = False
    allowed_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.allow_remote and not self._is_local:
            expected = "unix:/path or tcp:9443:interface=127.0.0.1; allow-remote = true is for other places, where everybody can read it"
            raise SettingsError(
                f"listen: found {without_secrets(repr(self.listen))}, expected {expected}"
            )
        for name in self.allowed_hosts:
            check_host_name("allowed-hosts", name)

    @property
    def _is_local(self) -> bool:
        kind, *parts = _ENDPOINT_PART.findall(self.listen) or [""]
        interfaces = [
            part.removeprefix("interface=") for part in parts if part.startswith("interface=")
        ]
        return kind == "unix" or (
            kind in ("tcp", "tcp6") and bool(interfaces) and all(map(_is_loopback, interfaces))
        )

    @property
    def description(self) -> str:
        """The endpoint as Twisted has to hear it."""
        return _with_mode(self.listen)


def _is_loopback(interface: str) -> bool:
    try:
        return ipaddress.ip_address(re.sub(r"\\(.)", r"\1", interface)).is_loopback
    except ValueError:
        return False


# How many intermediate certificates may stand between a client's and an authority: each can cost 5 ms (x509proxy.transport.tls_context).
_CA_DEPTHS = range(1, 11)
_WORKERS = range(1, 257)


class ProxySettings(PolicySettings, frozen=True):
    """One proxy: what the command line and the TOML file can say; of certificates as :class:`PolicySettings`.

    ``workers``: processes that serve; ``reload_poll_interval``: seconds between two looks at the files, none if it is not given.
    ``max_logged_errors_per_second``: so many refused and aborted exchanges a second are written to the access log, the rest are counted.
    """

    listen: tuple[str, ...] = ("tcp:8443",)
    certificate: str | None = None
    private_key: str | None = None
    backend: tuple[str, ...] = ()
    preset: str = "connect2id"
    header_file: str | None = None
    header: str | None = None
    ca: str | None = None
    ca_depth: int = 4
    crl: tuple[str, ...] = ()
    access_log: str | None = None
    log_format: LogFormat = LogFormat.TEXT
    max_logged_errors_per_second: int = 50
    workers: int = 1
    reload_poll_interval: float | None = None
    demo: bool = False
    headers: tuple[HeaderSettings, ...] = ()
    listeners: tuple[ListenerSettings, ...] = ()
    certificates: tuple[CertificateSettings, ...] = ()
    discovery: DiscoverySettings | None = None
    health: HealthSettings | None = None
    admin: AdminSettings | None = None
    tls: TlsSettings = TlsSettings()
    client: ClientSettings = ClientSettings()
    upstream: UpstreamSettings = UpstreamSettings()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ca_depth not in _CA_DEPTHS:
            raise SettingsError(
                f"ca-depth: found {self.ca_depth}, expected {_CA_DEPTHS.start} to {_CA_DEPTHS.stop - 1}"
            )
        if self.workers not in _WORKERS:
            raise SettingsError(
                f"workers: found {self.workers}, expected {_WORKERS.start} to {_WORKERS.stop - 1}"
            )
        _ = self.places

    def __repr__(self) -> str:
        # The header's name is a secret (law L4): a settings object in a traceback must not tell it.
        return f"ProxySettings(listen={self.listen!r}, backend={self.backend!r}, preset={self.preset!r})"

    @property
    def places(self) -> tuple[ListenerSettings, ...]:
        """Everywhere it listens: at ``listen``, then at ``listeners``."""
        return (*(ListenerSettings(endpoint=endpoint) for endpoint in self.listen), *self.listeners)

    @property
    def place_keys(self) -> tuple[str, ...]:
        """What each of the ``places`` is called in the document."""
        return (
            *("listen" for _ in self.listen),
            *(f"listeners[{at}].endpoint" for at in range(len(self.listeners))),
        )

    @property
    def policy(self) -> PolicySettings:
        """The part that decides which certificates are passed on."""
        return PolicySettings(
            **{name: getattr(self, name) for name in PolicySettings.__struct_fields__}
        )
