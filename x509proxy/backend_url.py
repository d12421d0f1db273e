"""A back end's address: the URL that the administrator writes, as a frozen value (an origin server, RFC 9110 section 3.6)."""

from __future__ import annotations

import enum
import re
from urllib.parse import urlsplit

import idna

from x509proxy.settings import Settings, SettingsError

__all__ = ["Backend", "Scheme"]


class Scheme(enum.Enum):
    """How a back end is reached."""

    HTTP = "http"
    HTTPS = "https"
    UNIX = "unix"


# Labels as long as a resolver takes them (RFC 1035 section 2.3.4): with others, Python's codec for names fails.
_HOST = re.compile(r"(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?|[0-9A-Fa-f]*:[0-9A-Fa-f:.]*")
_BASE = re.compile(r"(/[!-\"$->@-~]*)?")
_PORTS = {"http": 80, "https": 443}
_LONGEST_PATH = 107  # unix(7): sun_path


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
            raise SettingsError(
                f"base path: found {self.base!r}, expected none, or one that begins with / and ends without it"
            )

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
        if (
            parts.scheme not in _PORTS
            or parts.username is not None
            or "?" in url
            or "#" in url
            or port == 0
        ):
            raise _bad_backend(url)
        if not _HOST.fullmatch(host) or not _BASE.fullmatch(base):
            raise _bad_backend(url)
        if parts.scheme == "https" and not _may_be_verified(host):
            raise SettingsError(
                f"backend: found {host!r} with https, expected a host's name that a certificate can have"
            )
        return cls(
            scheme=Scheme(parts.scheme),
            host=host,
            port=port or _PORTS[parts.scheme],
            base=base.encode("ascii"),
        )

    @classmethod
    def _parse_unix(cls, url: str) -> Backend:
        path = url.removeprefix("unix:").removeprefix("//")
        if not path.startswith("/"):
            raise _bad_backend(url)
        if len(path.encode()) > _LONGEST_PATH:
            raise SettingsError(
                f"backend: found a socket's path of {len(path.encode())} bytes, expected {_LONGEST_PATH} at most"
            )
        return cls(scheme=Scheme.UNIX, path=path)

    @property
    def authority(self) -> bytes:
        """``host[:port]`` as a ``Host`` field has it; ``localhost`` for a unix socket."""
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


def _may_be_verified(host: str) -> bool:
    """Whether Twisted's TLS can ask for it by name: an address, or a name that IDNA takes, so one without underscores."""
    if ":" in host:
        return True
    try:
        idna.encode(host)
    except idna.IDNAError:
        return False
    return True


def _bad_backend(url: str) -> SettingsError:
    return SettingsError(
        f"backend: found {_without_secrets(url)!r}, expected http://host[:port][/base], https://host[:port][/base] or unix:/path"
    )


def _without_secrets(url: str) -> str:
    """Without user information, query and fragment, which may hold keys."""
    return re.sub(r"[?#].*", "?…", re.sub(r"^([a-z]*:)?.*@", r"\1…@", url), flags=re.DOTALL)
