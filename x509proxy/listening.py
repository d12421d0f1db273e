"""Where a proxy listens: endpoints from their descriptions, and what cannot be had as one sentence."""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from x509proxy.material import without_secrets
from x509proxy.settings import SettingsError

__all__ = ["Place"]


class Place:
    """One place to listen at. ``key``: what it is called in the document.

    :raises SystemExit: Twisted does not understand the description.
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


def _endpoint(reactor: Any, description: str, key: str) -> IStreamServerEndpoint:
    try:
        endpoint: IStreamServerEndpoint = serverFromString(reactor, description)
    except Exception as error:
        # Each kind of endpoint has errors of its own: OSError, SSL.Error, IndexError …
        sentence = without_secrets(f"{key}: found {description!r}, expected a Twisted endpoint: {error}")
        raise SystemExit(f"x509proxy: {sentence}") from None
    return endpoint


class _ListenError(SettingsError):
    """A port cannot be had. ``twistd`` removes its pid file on an exception, and would print a traceback for it."""

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
