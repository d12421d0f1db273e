"""A running proxy as a Twisted service: listens, reloads, logs, and stops when what is in flight has ended."""

from __future__ import annotations

import os
import resource as limits
import signal
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from x509proxy.accesslog import access_line
from x509proxy.configuration import Configuration, read_again
from x509proxy.document import ProxySettings
from x509proxy.exchange import Exchange
from x509proxy.material import without_secrets
from x509proxy.rules import without_names
from x509proxy.settings import ClientAuth, SettingsError

__all__ = ["ProxyService"]


class ProxyService(Service):
    """A running proxy, for one run. ``addresses``: where it listens, once it does."""

    _log = Logger()

    def __init__(self, configuration: Configuration, reactor: Any) -> None:
        # Late, since importing the resource installs a reactor.
        from x509proxy.factory import ProxyFactory
        from x509proxy.resource import X509ProxyResource

        self._configuration = configuration
        self._reactor = reactor
        self._access_log = _open_log(configuration.settings.access_log)
        self._resource = X509ProxyResource.from_configuration(configuration, reactor, self._observe)
        self._factory = ProxyFactory(self._resource, self._resource.deadlines, configuration.settings.client)
        self._listeners = [_Listener(*one, configuration, self._factory, reactor) for one in _listeners(configuration.settings)]
        self._ports: list[IListeningPort] | None = None
        self._old_hangup: Any = None

    @property
    def addresses(self) -> list[IAddress]:
        return [port.getHost() for port in self._ports or ()]

    # Twisted calls.

    def privilegedStartService(self) -> None:
        super().privilegedStartService()
        self._listen()

    def startService(self) -> None:
        super().startService()
        if self._ports is None:
            # twist knows no privileged start.
            self._listen()
        self._catch_hangup()
        _raise_file_limit(self._configuration.settings.client.connections)

    def stopService(self) -> Deferred[None]:
        """Stop accepting, let what is in flight end, within the client's ``stop_timeout``."""
        super().stopService()
        self._release_hangup()
        ports, self._ports = self._ports or [], None
        stopped = DeferredList([maybeDeferred(port.stopListening) for port in ports])
        return stopped.addCallback(lambda _: self._factory.drain()).addCallback(lambda _: self._stopped())

    # Inside.

    def _listen(self) -> None:
        ports: list[IListeningPort] = []
        self._ports = ports
        for listener in self._listeners:
            failures: list[Failure] = []
            listener.listen().addCallbacks(ports.append, failures.append)
            if failures:
                raise _ListenError(_why_not(listener.description, failures[0]))

    def _stopped(self) -> None:
        self._resource.close()
        if self._access_log not in (None, sys.stdout):
            self._access_log.close()

    def _observe(self, exchange: Exchange) -> None:
        if self._access_log is not None:
            self._write(self._access_log, without_names(access_line(exchange), self._configuration.rules))
        if exchange.forged:
            self._log.warn("{count} forged certificate headers from {peer} removed", count=exchange.forged, peer=exchange.peer)

    def _write(self, access_log: TextIO, line: str) -> None:
        try:
            access_log.write(f"{line}\n")
            access_log.flush()
        except OSError as error:
            # A full disk must not cost an exchange.
            self._log.error("access-log: {error}", error=error.strerror)

    def _catch_hangup(self) -> None:
        try:
            self._old_hangup = signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self.reload))
        except ValueError:
            # Embedded in a program whose reactor runs in a thread: signals are that program's business.
            self._old_hangup = None

    def _release_hangup(self) -> None:
        if self._old_hangup is not None:
            signal.signal(signal.SIGHUP, self._old_hangup)

    def reload(self) -> None:
        """Read all files that the configuration names again, check all, then swap; a broken file changes nothing."""
        try:
            found = read_again(self._configuration)
            contexts = [listener.context(found) for listener in self._listeners]
        except SettingsError as error:
            self._log.error("reload: {error}; the old files go on serving", error=str(error))
        else:
            for listener, context in zip(self._listeners, contexts, strict=True):
                listener.connections.swap(context)
            self._resource.use(found.rules)
            self._configuration = found
            for warning in found.warnings:
                self._log.warn("reload: {sentence}", sentence=warning)
            self._log.info("reload: the files are used as they are now")


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


def _why_not(description: str, failure: Failure) -> str:
    reason = failure.value
    if isinstance(reason, CannotListenError):
        # An OSError, or text where a lock of a unix socket is somebody else's.
        reason = reason.socketError
    return without_secrets(f"listen: {description}: {getattr(reason, 'strerror', None) or reason}")


def _listeners(settings: ProxySettings) -> Iterator[tuple[str, ClientAuth | None]]:
    """Where to listen, and what is asked for there if that is not what the proxy asks for otherwise."""
    yield from ((description, None) for description in settings.listen)
    yield from ((listener.endpoint, listener.client_certificate) for listener in settings.listeners)


class _Listener:
    """One place to listen at; all of them share one factory, and so its limits."""

    def __init__(
        self, description: str, asked: ClientAuth | None, configuration: Configuration, factory: Any, reactor: Any
    ) -> None:
        from x509proxy.stream import TlsFactory
        from x509proxy.tls import ServerConnections

        self.description = description
        self._asked = asked
        self._endpoint = _endpoint(reactor, description)
        self.connections = ServerConnections(self.context(configuration), asked)
        self._factory = TlsFactory(self.connections, factory)

    def listen(self) -> Deferred[IListeningPort]:
        listening: Deferred[IListeningPort] = self._endpoint.listen(self._factory)
        return listening

    def context(self, configuration: Configuration) -> Any:
        """The TLS context of the day."""
        from x509proxy.tls import make_context

        settings = configuration.settings
        ask = settings.client_certificate if self._asked is None else self._asked
        identity, trusted, further = configuration.identity, configuration.trusted, configuration.further
        return make_context(identity, ask, trusted, settings.tls, further=further)


def _endpoint(reactor: Any, description: str) -> IStreamServerEndpoint:
    try:
        endpoint: IStreamServerEndpoint = serverFromString(reactor, description)
    except Exception as error:
        # Each kind of endpoint has errors of its own: OSError, SSL.Error, IndexError …
        sentence = without_secrets(f"listen: found {description!r}, expected a Twisted endpoint: {error}")
        raise SystemExit(f"x509proxy: {sentence}") from None
    return endpoint


def _open_log(path: str | None) -> TextIO | None:
    """Opened with the rights of whoever starts the daemon, readable by nobody else."""
    if path is None:
        return None
    if path == "-":
        return sys.stdout
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise SystemExit(f"x509proxy: access-log: {without_secrets(path)}: {error.strerror}") from None
    return os.fdopen(descriptor, "a", buffering=1, encoding="ascii")


def _raise_file_limit(connections: int) -> None:
    """Two files for each connection, as far as the hard limit goes: at 1024, accepting fails long before the limit here."""
    soft, hard = limits.getrlimit(limits.RLIMIT_NOFILE)
    wanted = 2 * connections + 256
    if hard != limits.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != limits.RLIM_INFINITY and soft < wanted:
        limits.setrlimit(limits.RLIMIT_NOFILE, (wanted, hard))
