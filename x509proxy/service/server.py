"""Everything that serves in one process, made from a configuration; another one can take its place while it serves.

What is shared: one resource, one factory and so its limits, one access log. What each place to listen at has of its own: the TLS
context of the day.
"""

from __future__ import annotations

import math
import resource as limits
from collections.abc import Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.internet.tcp import Port
from twisted.logger import Logger

from x509proxy.config.loader import Configuration
from x509proxy.exchange import Exchange
from x509proxy.monitoring.counters import NULL_METRICS, Counters, MetricsObserver
from x509proxy.monitoring.handshake_log_format import HandshakeObserver
from x509proxy.monitoring.snapshot import Snapshot
from x509proxy.monitoring.snapshot_builder import SnapshotBuilder
from x509proxy.service.access_log import AccessLog, LogFile
from x509proxy.service.handshake_log import HandshakeLog
from x509proxy.service.listening import ListeningEndpoint
from x509proxy.settings import ClientSettings, ListenerSettings

__all__ = ["ProxyServer", "contexts_for"]

_OTHER_FILES = 128  # the admin listener's 64 connections, ports, logs, pipes, checks


class ProxyServer:
    """A proxy in one process. ``addresses``: where it listens, once it does."""

    _log = Logger()

    def __init__(
        self, configuration: Configuration, reactor: Any, log_file: LogFile | None = None
    ) -> None:
        # Late, since importing the resource installs a reactor.
        from x509proxy.downstream.factory import ProxyFactory
        from x509proxy.resource import X509ProxyResource

        self.configuration = configuration
        self.handshake_log = HandshakeLog(configuration, reactor)
        self.counters = Counters()
        # Where nobody can look, nothing is counted.
        self._watch: MetricsObserver = (
            NULL_METRICS if configuration.settings.admin is None else self.counters
        )
        self.access_log = AccessLog(log_file, configuration, reactor, self._watch)
        self.resource = X509ProxyResource.from_configuration(configuration, reactor, self.observe)
        self.factory = ProxyFactory(
            self.resource, self.resource.deadlines, configuration.settings.client, self._watch
        )
        contexts = zip(
            configuration.settings.all_listeners, contexts_for(configuration), strict=True
        )
        self.listeners = [
            _Listener(
                place,
                context,
                configuration.settings.client,
                self.factory,
                self._watch,
                self.handshake_log.failed,
            )
            for place, context in contexts
        ]
        self._view = SnapshotBuilder(
            self.counters,
            lambda: self.configuration,
            lambda: self.resource.pools,
            self.factory,
            tokens=lambda: self.resource.token_state,
        )
        self._reactor = reactor
        self._ports: list[IListeningPort] = []
        self._adopted: list[IListeningPort] = []
        self._file_limit_told = False

    @property
    def addresses(self) -> list[IAddress]:
        return [port.getHost() for port in self._ports or self._adopted]

    def listen(self, places: Sequence[ListeningEndpoint]) -> None:
        """Listen where the configuration says.

        :raises SettingsError: one of them cannot be had; the others are given back by :meth:`stop`.
        """
        for place, listener in zip(places, self.listeners, strict=True):
            self._ports.append(place.bind(listener.factory))
        self._start()

    def adopt(self, sockets: Iterable[tuple[int, int]]) -> None:
        """Listen at these sockets (number and address family), in the order of the places; the caller's own stay open."""
        for (number, family), listener in zip(sockets, self.listeners, strict=True):
            self._adopted.append(
                _shared(self._reactor.adoptStreamPort(number, family, listener.factory))
            )
        self._start()

    def _start(self) -> None:
        self._raise_file_limit()
        self.resource.start()

    def use(self, configuration: Configuration) -> None:
        """Serve by another configuration: the same places, but anything else may be new. It is used whole or not at all.

        :raises SettingsError: OpenSSL does not take a certificate, a key or a list.
        """
        contexts = contexts_for(configuration)
        self.resource.use(configuration)
        for place, listener, context in zip(
            configuration.settings.all_listeners, self.listeners, contexts, strict=True
        ):
            listener.use(place, context, configuration.settings.client)
        self.factory.use(configuration.settings.client)
        self.access_log.use(configuration)
        self.handshake_log.use(configuration)
        self.configuration = configuration
        self._raise_file_limit()

    def _raise_file_limit(self) -> None:
        """Two files for each connection, as far as the hard limit goes: at 1024, accepting fails long before the limit here."""
        soft, hard = limits.getrlimit(limits.RLIMIT_NOFILE)
        wanted = self._wanted_files()
        if hard != limits.RLIM_INFINITY:
            wanted = min(wanted, hard)
        if soft != limits.RLIM_INFINITY and soft < wanted:
            try:
                limits.setrlimit(limits.RLIMIT_NOFILE, (wanted, hard))
            except (OSError, ValueError) as error:
                # macOS knows no hard limit, and its kernel grants less all the same.
                self._tell_file_limit(soft, wanted, error)
        self._bound_connections(limits.getrlimit(limits.RLIMIT_NOFILE)[0])

    def _bound_connections(self, files: int) -> None:
        """Accept no more connections than there can be files.

        Beyond that Twisted closes what it accepts, with three lines in the log for each, and no back end can be connected to.
        """
        if files == limits.RLIM_INFINITY:
            self.factory.most_connections = math.inf
            return
        configuration = self.configuration
        settings = configuration.settings
        # Half as many again for uploads, each of which has a second hold on its connection.
        upstream = len(configuration.backends) * settings.upstream.max_connections * 3 // 2
        self.factory.most_connections = most = max(1, files - upstream - _OTHER_FILES)
        if most < settings.client.max_connections and not self._file_limit_told:
            self._file_limit_told = True
            sentence = (
                "the limit of open files is {files}, {wanted} are wanted for client.max-connections: "
                "at most {most} connections are accepted"
            )
            self._log.warn(sentence, files=files, wanted=self._wanted_files(), most=most)

    def _wanted_files(self) -> int:
        return 2 * self.configuration.settings.client.max_connections + 256

    def _tell_file_limit(self, soft: int, wanted: int, error: Exception) -> None:
        if not self._file_limit_told:
            self._file_limit_told = True
            sentence = "the limit of open files stays {soft}, {wanted} are wanted for client.max-connections: {error}"
            self._log.warn(sentence, soft=soft, wanted=wanted, error=str(error))

    def snapshot(self) -> Snapshot:
        """What there is to see of it, for ``[admin]``."""
        return self._view.snapshot()

    def reopen_log(self) -> None:
        """Go on in the access log's new file (:meth:`x509proxy.service.access_log.AccessLog.reopen`)."""
        self.access_log.reopen()

    def stop(self) -> Deferred[None]:
        """Accept no more, let what is in flight end, within the client's ``drain_timeout``, and close the rest."""
        ports, self._ports = self._ports, []
        for port in self._adopted:
            # Not stopListening: others accept here too, and a unix socket's file would go.
            port.stopReading()  # type: ignore[attr-defined]
        stopped = DeferredList([_close(port) for port in ports])
        return stopped.addCallback(lambda _: self.factory.drain()).addCallback(
            lambda _: self._close()
        )

    def observe(self, exchange: Exchange) -> None:
        """Count what has happened, and write it down."""
        self._watch.exchange(exchange)
        self.access_log.observe(exchange)

    def _close(self) -> None:
        self.resource.close()
        self.access_log.close()
        self.handshake_log.close()


def _shared(port: Any) -> Any:
    """Accept one connection at a time where others accept too: Twisted would take up to a hundred, for as long as they live."""
    accept = port.doRead

    def accept_one() -> None:
        port.numberAccepts = 1
        accept()

    port.doRead = accept_one
    return port


class _Listener:
    """One place to listen at."""

    def __init__(
        self,
        place: ListenerSettings,
        context: Any,
        client: ClientSettings,
        factory: Any,
        watch: MetricsObserver,
        log: HandshakeObserver,
    ) -> None:
        from x509proxy.downstream.proxy_protocol_listener import stream_factory
        from x509proxy.transport.tls_context import ServerConnections

        self.connections = ServerConnections(
            context, place.client_certificate, watch, log, client.max_handshake_bytes
        )
        self.factory = stream_factory(self.connections, factory, place)

    def use(self, place: ListenerSettings, context: Any, client: ClientSettings) -> None:
        """For the connections to come: another context, and others to believe."""
        from x509proxy.downstream.proxy_protocol_listener import use_place

        self.connections.swap(context, place.client_certificate, client.max_handshake_bytes)
        use_place(self.factory, place)


def contexts_for(configuration: Configuration) -> list[Any]:
    """A TLS context for each place to listen at.

    :raises SettingsError: OpenSSL does not take a certificate, a key or a list.
    """
    from x509proxy.transport.tls_context import make_context

    settings, identity = configuration.settings, configuration.identity
    asked = [
        place.client_certificate or settings.client_certificate for place in settings.all_listeners
    ]
    trusted, further = configuration.trusted, configuration.extra_identities
    return [
        make_context(identity, ask, trusted, settings.tls, extra_identities=further)
        for ask in asked
    ]


def _close(port: IListeningPort) -> Deferred[Any]:
    """Who waits in the kernel's queue has connected already, and would be reset: so those are taken first."""
    if isinstance(port, Port):
        port.doRead()
    closed: Deferred[Any] = maybeDeferred(port.stopListening)
    return closed
