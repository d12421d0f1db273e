"""Where a proxy listens: endpoints from their descriptions, and what cannot be had as one sentence."""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IListeningPort,
    IStreamServerEndpoint,
    IStreamServerEndpointStringParser,
)
from twisted.internet.protocol import Factory
from twisted.plugin import getPlugins
from twisted.python.failure import Failure

from x509proxy.config.endpoint_strings import expected_for, kind_of, private_socket
from x509proxy.redaction import without_secrets
from x509proxy.settings import ProxySettings, SettingsError

__all__ = ["ListeningEndpoint", "check_kinds"]

_BUILT_IN = {"tcp", "ssl", "unix"}


class ListeningEndpoint:
    """One place to listen at. ``key``: what it is called in the document.

    :raises SettingsError: Twisted does not understand the description.
    """

    def __init__(self, reactor: Any, description: str, key: str = "listen") -> None:
        self._where = f"{key}: {description}"
        self._endpoint = _endpoint(reactor, description, key)

    def bind(self, factory: Factory) -> IListeningPort:
        """Listen.

        :raises SettingsError: it cannot be had; the process ends with this sentence and without a traceback.
        """
        ports: list[IListeningPort] = []
        failures: list[Failure] = []
        listening: Deferred[IListeningPort] = self._endpoint.listen(factory)
        listening.addCallbacks(ports.append, failures.append)
        if failures:
            raise _ListenError(_why_not(self._where, failures[0]))
        return ports[0]


def check_kinds(settings: ProxySettings) -> None:
    """Whether Twisted knows each kind of endpoint, of itself or by a plug-in. Nothing is opened.

    :raises SettingsError: it does not.
    """
    places = [
        *zip(settings.place_keys, (place.description for place in settings.places), strict=True)
    ]
    if settings.admin is not None:
        places.append(("admin.listen", settings.admin.listen))
    for key, description in places:
        _check_kind(key, description)


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
        endpoint: IStreamServerEndpoint = serverFromString(reactor, private_socket(description))
    except Exception as error:
        # Each kind of endpoint has errors of its own: OSError, SSL.Error, IndexError …
        expected = f"expected a Twisted endpoint: {error}"
        if kind_of(description) == "systemd":
            expected = "a socket that is not there, expected one that systemd has handed over (LISTEN_FDS, LISTEN_FDNAMES)"
        raise SettingsError(without_secrets(f"{key}: found {description!r}, {expected}")) from None
    return endpoint


class _ListenError(SettingsError):
    """A port cannot be had. ``twistd`` removes its pid file on an exception, and would print a traceback for it."""

    # twistd passes a daemon's start error on in 100 bytes, this name included.
    __module__ = "x509proxy"

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        sys.excepthook = _say


def _say(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
    if isinstance(error, _ListenError):
        print(f"x509proxy: {error}", file=sys.__stderr__)
    else:
        sys.__excepthook__(kind, error, traceback)


def _why_not(where: str, failure: Failure) -> str:
    reason = failure.value
    if isinstance(reason, CannotListenError):
        # An OSError, or text where a lock of a unix socket is somebody else's.
        reason = reason.socketError
    return without_secrets(f"{where}: {getattr(reason, 'strerror', None) or reason}")
