"""Endpoints from their descriptions, with one sentence for a port that cannot be bound."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IStreamServerEndpoint,
    IStreamServerEndpointStringParser,
)
from twisted.internet.protocol import Factory
from twisted.plugin import getPlugins
from twisted.python.failure import Failure
from twisted.python.lockfile import FilesystemLock

from x509proxy.config.endpoint_strings import (
    KINDS,
    Description,
    expected_for,
    kind_of,
    private_socket,
)
from x509proxy.redaction import without_secrets
from x509proxy.settings import ProxySettings, SettingsError

__all__ = ["ListenError", "ListeningEndpoint", "check_free", "check_kinds", "url_of"]

_BUILT_IN = {"tcp", "ssl", "unix"}
# Twisted's 50 made 98 of 200 simultaneous clients repeat their SYN after 1 s. The kernel's bound,
# net.core.somaxconn, is 4096 by default since Linux 5.4, and caps this number. A socket of systemd
# has the length that its unit names (Backlog=).
_BACKLOG = 4096


def url_of(address: IAddress) -> str:
    """Return the address of a listener as its clients write it."""
    match address:
        case IPv4Address(host=host, port=port):
            return f"https://{host}:{port}"
        case IPv6Address(host=host, port=port):
            return f"https://[{host}]:{port}"
        case UNIXAddress(name=bytes(name)):
            return f"https+unix:{os.fsdecode(name)}"
        case other:
            return str(other)


class ListeningEndpoint:
    """One place to listen at. ``key``: what it is called in the document.

    :raises SettingsError: Twisted does not understand the description.
    """

    def __init__(self, reactor: Any, description: str, key: str = "listen") -> None:
        self._where = f"{key}: {description}"
        self._endpoint = _endpoint(reactor, description, key)

    def bind(self, factory: Factory) -> IListeningPort:
        """Listen.

        :raises ListenError: it cannot be had.
        """
        ports: list[IListeningPort] = []
        failures: list[Failure] = []
        listening: Deferred[IListeningPort] = self._endpoint.listen(factory)
        listening.addCallbacks(ports.append, failures.append)
        if failures:
            raise ListenError(_why_not(self._where, failures[0]))
        return ports[0]


def check_kinds(settings: ProxySettings) -> None:
    """Check that Twisted has each kind of endpoint, of itself or by a plug-in. Nothing is opened.

    :raises SettingsError: with a sentence for each that it has not.
    """
    sentences: list[str] = []
    for key, description in _places(settings):
        try:
            _check_kind(key, description)
        except SettingsError as error:
            sentences += error.sentences
    if sentences:
        raise SettingsError(*sentences)


def _places(settings: ProxySettings) -> Iterator[tuple[str, str]]:
    """Yield the key and the description of each place to listen at."""
    descriptions = (place.description for place in settings.places)
    yield from zip(settings.place_keys, descriptions, strict=True)
    if settings.admin is not None:
        yield "admin.listen", settings.admin.listen


def _check_kind(key: str, description: str) -> None:
    kind = kind_of(description)
    known = {plugin.prefix for plugin in getPlugins(IStreamServerEndpointStringParser)}
    if kind not in known | _BUILT_IN:
        told = without_secrets(f"found {description!r}")
        raise SettingsError(
            f"{key}: {told}, of a kind that there is not, expected {expected_for()}"
        )


def _endpoint(reactor: Any, description: str, key: str) -> IStreamServerEndpoint:
    _check_kind(key, description)
    try:
        endpoint: IStreamServerEndpoint = serverFromString(
            reactor, _with_backlog(private_socket(description))
        )
    except Exception as error:
        # Each kind of endpoint has errors of its own: OSError, SSL.Error, IndexError …
        expected = f"expected a Twisted endpoint: {error}"
        if kind_of(description) == "systemd":
            expected = (
                "a socket that is not there, expected one that systemd has handed over "
                "(LISTEN_FDS, LISTEN_FDNAMES)"
            )
        raise SettingsError(without_secrets(f"{key}: found {description!r}, {expected}")) from None
    return endpoint


def _with_backlog(description: str) -> str:
    """Add the length of the accept queue, unless the description names one."""
    found = Description.parse(description)
    named = "backlog" in found.arguments or "backlog" not in KINDS.get(found.kind, ())
    return description if named else f"{description}:backlog={_BACKLOG}"


class ListenError(SettingsError):
    """A place to listen at that cannot be had."""

    # twistd passes a daemon's start error on in 100 bytes, this name included.
    __module__ = "x509proxy"


def check_free(settings: ProxySettings) -> None:
    """Check that each address can be listened at, by binding it for a moment.

    For the start of a daemon: after its fork, ``twistd`` reports an error as a representation of
    bytes, cut after 100.

    :raises ListenError: one cannot.
    """
    for key, description in _places(settings):
        found = Description.parse(description)
        try:
            _bind(found)
        except OSError as error:
            where = f"{key}: {description}"
            raise ListenError(without_secrets(f"{where}: {error.strerror}")) from None


def _bind(found: Description) -> None:
    if found.kind in ("tcp", "tcp6"):
        _bind_tcp(found)
    elif found.kind == "unix" and found.arguments.get("lockfile", "1") == "1":
        lock = FilesystemLock(f"{found.arguments['address']}.lock")
        if not lock.lock():
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        lock.unlock()


def _bind_tcp(found: Description) -> None:
    family = socket.AF_INET6 if found.kind == "tcp6" else socket.AF_INET
    host = found.arguments.get("interface", "")
    if ":" in host:
        family = socket.AF_INET6
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, int(found.arguments["port"])))


def _why_not(where: str, failure: Failure) -> str:
    reason = failure.value
    if isinstance(reason, CannotListenError):
        # An OSError, or text where a lock of a unix socket is somebody else's.
        reason = reason.socketError
    return without_secrets(f"{where}: {getattr(reason, 'strerror', None) or reason}")
