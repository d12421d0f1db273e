"""Listening endpoints: from endpoint strings to bound sockets, with a sentence per failure."""

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
from twisted.internet.tcp import Port
from twisted.plugin import getPlugins
from twisted.python.failure import Failure
from twisted.python.lockfile import FilesystemLock

from x509proxy.config.endpoint_strings import (
    KINDS,
    Description,
    EndpointSyntaxError,
    endpoint_type,
    expected_for,
    private_socket,
)
from x509proxy.redaction import without_secrets
from x509proxy.settings import ProxySettings, SettingsError
from x509proxy.transport.adopted_sockets import keeping_files

__all__ = ["BACKLOG", "ListenError", "ListeningEndpoint", "check_free", "check_kinds", "url_of"]

_BUILT_IN = {"tcp", "ssl", "unix"}
# With Twisted's 50, 98 of 200 simultaneous clients repeated their SYN after 1 s. The kernel caps
# the number at net.core.somaxconn, 4096 by default since Linux 5.4. For a socket from systemd, the
# unit sets it (Backlog=).
BACKLOG = 4096
"""Length of the accept queue of a listener."""
_DEFER_ACCEPT: int | None = getattr(socket, "TCP_DEFER_ACCEPT", None)


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
    """The endpoint of a listener. ``key`` is its configuration key, for error sentences.

    :raises SettingsError: Twisted rejects the endpoint string.
    """

    def __init__(self, reactor: Any, description: str, key: str = "listen") -> None:
        self._where = f"{key}: {description}"
        self._is_tcp = endpoint_type(description) in ("tcp", "tcp6")
        self._endpoint = _endpoint(reactor, description, key)

    def bind(self, factory: Factory) -> IListeningPort:
        """Listen and return the port.

        :raises ListenError: the address cannot be bound, or not now.
        """
        ports: list[IListeningPort] = []
        failures: list[Failure] = []
        listening: Deferred[IListeningPort] = self._endpoint.listen(factory)
        listening.addCallbacks(ports.append, failures.append)
        if failures:
            raise ListenError(_reason(self._where, failures[0]))
        if not ports:
            # twistd gives up its rights after this call. A port that opens later is closed. It
            # would be lost if the attempt were cancelled here.
            listening.addCallback(lambda _: [port.stopListening() for port in ports])
            found = "found an endpoint that listens later, expected one that listens at once"
            raise ListenError(without_secrets(f"{self._where}: {found}"))
        if self._is_tcp:
            _defer_accept(ports[0])
        return ports[0]


def check_kinds(settings: ProxySettings) -> None:
    """Check that Twisted or one of its plug-ins has each type of endpoint, without opening one.

    A string without a type is the error of :func:`.check_endpoints`, and not checked here.

    :raises SettingsError: with a sentence for each unknown type.
    """
    sentences: list[str] = []
    for key, description in _endpoint_strings(settings):
        try:
            Description.parse(description)
            _check_kind(key, description)
        except EndpointSyntaxError:
            continue
        except SettingsError as error:
            sentences += error.sentences
    if sentences:
        raise SettingsError(*sentences)


def _endpoint_strings(settings: ProxySettings) -> Iterator[tuple[str, str]]:
    """Yield the key and the endpoint string of each listener."""
    descriptions = (listener.description for listener in settings.all_listeners)
    yield from zip(settings.listener_keys, descriptions, strict=True)
    if settings.admin is not None:
        yield "admin.listen", settings.admin.listen


def _check_kind(key: str, description: str) -> None:
    kind = endpoint_type(description)
    known = {plugin.prefix for plugin in getPlugins(IStreamServerEndpointStringParser)}
    if kind not in known | _BUILT_IN:
        found = without_secrets(f"found {description!r}")
        raise SettingsError(f"{key}: {found}, an unknown endpoint type, expected {expected_for()}")


def _endpoint(reactor: Any, description: str, key: str) -> IStreamServerEndpoint:
    _check_kind(key, description)
    try:
        endpoint: IStreamServerEndpoint = keeping_files(
            serverFromString(reactor, _with_backlog(private_socket(description)))
        )
    except Exception as error:
        # Each type of endpoint raises other errors: OSError, SSL.Error, IndexError …
        expected = f"expected a Twisted endpoint: {error}"
        if endpoint_type(description) == "systemd":
            expected = _not_passed()
        raise SettingsError(without_secrets(f"{key}: found {description!r}, {expected}")) from None
    return endpoint


def _not_passed() -> str:
    """Return the end of the sentence about a socket that systemd has not passed."""
    if names := os.environ.get("LISTEN_FDNAMES"):
        return f"which systemd has not passed, expected one of {names.split(':')}"
    command = "systemctl start x509proxy.socket, then systemctl restart x509proxy"
    return f"but systemd has passed no socket, expected one of a socket unit ({command})"


def _defer_accept(port: IListeningPort) -> None:
    """Let the kernel keep a connection back until its first octet, for about a second.

    Clients speak first in TLS and in HTTP. So a connection that is reset before it has sent
    anything costs the proxy nothing.
    """
    if _DEFER_ACCEPT is not None and isinstance(port, Port):
        port.socket.setsockopt(socket.IPPROTO_TCP, _DEFER_ACCEPT, 1)


def _with_backlog(description: str) -> str:
    """Add the length of the accept queue, unless the description names one."""
    found = Description.parse(description)
    named = "backlog" in found.arguments or "backlog" not in KINDS.get(found.kind, ())
    return description if named else f"{description}:backlog={BACKLOG}"


class ListenError(SettingsError):
    """An address that cannot be bound."""

    # twistd reports an error in the start of a daemon in 100 bytes, which include this name.
    __module__ = "x509proxy"


def check_free(settings: ProxySettings) -> None:
    """Check that each address can be bound, by binding it for a moment.

    ``twistd`` truncates an error after the fork of a daemon to 100 bytes and shows their ``repr``.
    So the check comes before the fork.

    :raises ListenError: an address cannot be bound.
    """
    for key, description in _endpoint_strings(settings):
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


def _reason(where: str, failure: Failure) -> str:
    reason = failure.value
    if isinstance(reason, CannotListenError):
        # An OSError, or text if another process has the lock of a unix socket.
        reason = reason.socketError
    return without_secrets(f"{where}: {getattr(reason, 'strerror', None) or reason}")
