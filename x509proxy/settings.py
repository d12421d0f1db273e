"""What the proxy is told: frozen values, one class per room, complete and checked at construction.

Names in TOML are those of the fields with ``-`` for ``_``. Times are seconds, sizes are bytes. Every number is above zero and
finite: nothing here can be switched off by a zero (law L7, everything is bounded).
"""

from __future__ import annotations

import enum
import math
import re
from urllib.parse import urlsplit

import msgspec

__all__ = [
    "Backend",
    "ClientAuth",
    "ClientSettings",
    "KeyType",
    "OddNames",
    "PolicySettings",
    "ProxySettings",
    "Scheme",
    "Settings",
    "SettingsError",
    "TlsSettings",
    "TlsVersion",
    "Trust",
    "UpstreamSettings",
    "Validity",
]


class SettingsError(ValueError):
    """One sentence for the person who configures: where, what was found, what was expected. Never holds a secret."""


class ClientAuth(enum.Enum):
    """What the handshake asks for, and what a request needs."""

    NONE = "none"
    OPTIONAL = "optional"
    REQUIRED = "required"


class Trust(enum.Enum):
    """Whose certificates are passed on to the back end."""

    ANY = "any"
    SELF_SIGNED = "self-signed"
    CA = "ca"
    EITHER = "either"


class Validity(enum.Enum):
    """Whether a certificate outside its validity period is refused by the proxy, or left to the back end."""

    ENFORCE = "enforce"
    IGNORE = "ignore"


class KeyType(enum.Enum):
    """A kind of key that client certificates may have."""

    RSA = "rsa"
    EC = "ec"
    ED25519 = "ed25519"
    ED448 = "ed448"


class OddNames(enum.Enum):
    """What happens to a request's header names outside ``[A-Za-z0-9-]``: dropped as nginx does, or answered 400."""

    DROP = "drop"
    REFUSE = "refuse"


class TlsVersion(enum.Enum):
    """The lowest TLS version that is spoken."""

    TLS_1_2 = "1.2"
    TLS_1_3 = "1.3"


class Scheme(enum.Enum):
    """How a back end is reached."""

    HTTP = "http"
    HTTPS = "https"
    UNIX = "unix"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """The base: frozen, hashable, strict about names and types; every number positive and finite."""

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            value = getattr(self, field)
            if isinstance(value, int | float) and not isinstance(value, bool) and not 0 < value < math.inf:
                raise SettingsError(f"{field.replace('_', '-')}: found {value}, expected a number above zero")


class TlsSettings(Settings, frozen=True):
    """The handshake with the clients (:mod:`x509proxy.tls`)."""

    minimum_version: TlsVersion = TlsVersion.TLS_1_2


# What is weaker or dearer than that no setting lets pass (law L5, :mod:`x509proxy.certificate`).
_RSA_BITS = range(2048, 8193)


class PolicySettings(Settings, frozen=True):
    """Which certificates are passed on (:mod:`x509proxy.policy`)."""

    client_certificate: ClientAuth = ClientAuth.OPTIONAL
    trust: Trust = Trust.ANY
    validity: Validity = Validity.ENFORCE
    maximum_der: int = 6144
    minimum_rsa_bits: int = 2048
    key_types: tuple[KeyType, ...] = tuple(KeyType)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.minimum_rsa_bits not in _RSA_BITS:
            expected = f"{_RSA_BITS.start} to {_RSA_BITS.stop - 1}"
            raise SettingsError(f"minimum-rsa-bits: found {self.minimum_rsa_bits}, expected {expected}")
        if not self.key_types:
            raise SettingsError(f"key-types: found none, expected one or more of {', '.join(kind.value for kind in KeyType)}")


class ClientSettings(Settings, frozen=True):
    """The client's side of HTTP/1.1 (:mod:`x509proxy.channel`).

    ``hold_bytes``: so much of a request's body is gathered before the back end hears of the request; a body that turns out
    malformed within it costs the back end not one byte. ``body_rate``: bytes a second, on the average, once ``body_timeout``
    has passed. ``hosts``: the names (without port) that are served; none means any, another one is answered 421.
    ``connections_per_address`` and ``handshakes_per_address`` (a second, with a burst of two seconds' worth): no limit if none.
    """

    handshake_timeout: float = 10.0
    head_timeout: float = 10.0
    body_timeout: float = 30.0
    body_rate: int = 240
    idle_timeout: float = 30.0
    send_timeout: float = 30.0
    stop_timeout: float = 30.0
    requests: int = 1000
    connections: int = 4096
    connections_per_address: int | None = None
    handshakes_per_address: float | None = None
    head_bytes: int = 16384
    line_bytes: int = 8192
    target_bytes: int = 8192
    fields: int = 100
    body_bytes: int = 1048576
    hold_bytes: int = 65536
    odd_names: OddNames = OddNames.DROP
    hosts: tuple[str, ...] = ()


class UpstreamSettings(Settings, frozen=True):
    """The back end's side of HTTP/1.1 (:mod:`x509proxy.upstream`).

    ``idle_timeout`` has to be shorter than the back end's own keep-alive timeout (Tomcat: 20 s). ``connections`` and ``queue``
    are for each back end. ``ca``, ``certificate`` and ``private_key`` are PEM files, for ``https`` back ends.
    """

    connect_timeout: float = 5.0
    response_timeout: float = 30.0
    read_timeout: float = 30.0
    idle_timeout: float = 15.0
    queue_timeout: float = 5.0
    connections: int = 64
    queue: int = 256
    head_bytes: int = 32768
    fields: int = 200
    ca: str | None = None
    certificate: str | None = None
    private_key: str | None = None


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
    access_log: str | None = None
    demo: bool = False
    tls: TlsSettings = TlsSettings()
    client: ClientSettings = ClientSettings()
    upstream: UpstreamSettings = UpstreamSettings()

    def __post_init__(self) -> None:
        super().__post_init__()
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
        )


_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_BASE = re.compile(r"(/[!-\"$->@-~]*)?")
_PORTS = {"http": 80, "https": 443}


class Backend(Settings, frozen=True):
    """Where requests go. ``base`` is put before every target; it is empty or begins with ``/`` and does not end with one."""

    scheme: Scheme
    host: str = ""
    port: int = 80
    path: str = ""
    base: bytes = b""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.port > 65535:
            raise SettingsError(f"port: found {self.port}, expected 1 to 65535")
        if not _BASE.fullmatch(self.base.decode("latin-1")) or self.base.endswith(b"/"):
            raise SettingsError(f"base path: found {self.base!r}, expected none, or one that begins with / and ends without it")

    @classmethod
    def parse(cls, url: str) -> Backend:
        """Read ``http://host[:port][/base]``, ``https://…`` or ``unix:/path``.

        :raises SettingsError: it is none of these, or carries credentials, a query or a fragment.
        """
        if not url.isprintable() or " " in url:
            # urlsplit drops tabs and line ends without a word.
            raise _bad_backend(url)
        if url.startswith("unix:"):
            return cls._parse_unix(url)
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise _bad_backend(url) from None
        base = parts.path.rstrip("/")
        host = parts.hostname or ""
        if parts.scheme not in _PORTS or parts.username is not None or "?" in url or "#" in url or port == 0:
            raise _bad_backend(url)
        if not _HOST.fullmatch(host) or not _BASE.fullmatch(base):
            raise _bad_backend(url)
        return cls(scheme=Scheme(parts.scheme), host=host, port=port or _PORTS[parts.scheme], base=base.encode("ascii"))

    @classmethod
    def _parse_unix(cls, url: str) -> Backend:
        path = url.removeprefix("unix:").removeprefix("//")
        if not path.startswith("/"):
            raise _bad_backend(url)
        return cls(scheme=Scheme.UNIX, path=path)

    @property
    def authority(self) -> bytes:
        """``host[:port]`` as a ``Host`` field has it; ``localhost`` for a unix socket."""
        if self.scheme is Scheme.UNIX:
            return b"localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (host if self.port == _PORTS[self.scheme.value] else f"{host}:{self.port}").encode("ascii")

    def __str__(self) -> str:
        if self.scheme is Scheme.UNIX:
            return f"unix:{self.path}"
        return f"{self.scheme.value}://{self.authority.decode()}{self.base.decode()}"


def _bad_backend(url: str) -> SettingsError:
    return SettingsError(
        f"backend: found {_without_userinfo(url)!r}, expected http://host[:port][/base], https://host[:port][/base] or unix:/path"
    )


def _without_userinfo(url: str) -> str:
    return re.sub(r"^([a-z]*:)?.*@", r"\1…@", url)
