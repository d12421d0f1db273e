"""The proxy server in one process, made from a configuration that a reload can replace.

All listeners share one resource, one factory with its limits, and one access log. Each listener has
its own TLS context.
"""

from __future__ import annotations

import contextlib
import math
import resource as limits
import socket
from collections.abc import Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.internet.tcp import Port
from twisted.logger import Logger

from x509proxy.config.endpoint_strings import endpoint_type
from x509proxy.config.loader import Configuration
from x509proxy.exchange import Exchange
from x509proxy.monitoring.counters import NULL_METRICS, Counters, MetricsObserver
from x509proxy.monitoring.handshake_log_format import HandshakeObserver
from x509proxy.monitoring.snapshot import Snapshot
from x509proxy.monitoring.snapshot_builder import SnapshotBuilder
from x509proxy.service.access_log import AccessLog, LogFile
from x509proxy.service.handshake_log import HandshakeLog
from x509proxy.service.listening import BACKLOG, ListeningEndpoint
from x509proxy.settings import ClientSettings, ListenerSettings
from x509proxy.transport.adopted_sockets import adopt_port

__all__ = ["ProxyServer", "contexts_for"]

# The admin listener's 64 connections, listeners, logs, pipes, health checks, and those of
# _ACCEPTS connections that have been cut, which are closed in the next turn.
_OTHER_FILES = 128
_ACCEPTS = 16  # connections that a port accepts in one turn of the reactor


class ProxyServer:
    """A proxy in one process. ``addresses`` has the addresses of its listeners."""

    _log = Logger()

    def __init__(
        self, configuration: Configuration, reactor: Any, log_file: LogFile | None = None
    ) -> None:
        # Imported here because importing the resource installs a reactor.
        from x509proxy.downstream.factory import ProxyFactory
        from x509proxy.resource import X509ProxyResource

        self.configuration = configuration
        self.handshake_log = HandshakeLog(configuration, reactor)
        self.counters = Counters()
        # Counting costs time, and without an admin listener the counters are not shown.
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
                listener,
                context,
                configuration.settings.client,
                self.factory,
                self._watch,
                self.handshake_log.failed,
            )
            for listener, context in contexts
        ]
        self._snapshots = SnapshotBuilder(
            self.counters,
            lambda: self.configuration,
            lambda: self.resource.pools,
            self.factory,
            tokens=lambda: self.resource.token_state,
        )
        self._reactor = reactor
        self._ports: list[IListeningPort] = []
        self._adopted: list[IListeningPort] = []
        self._file_limit_reported = False

    @property
    def addresses(self) -> list[IAddress]:
        return [port.getHost() for port in self._ports or self._adopted]

    def listen(self, endpoints: Sequence[ListeningEndpoint]) -> None:
        """Listen on the endpoints of the configuration's listeners, in their order.

        :raises SettingsError: an address cannot be bound. :meth:`stop` releases the others.
        """
        for endpoint, listener in zip(endpoints, self.listeners, strict=True):
            port = endpoint.bind(listener.factory)
            # That of a plug-in need not be one of Twisted's own.
            self._ports.append(_accepting(port, _ACCEPTS) if isinstance(port, Port) else port)
        self._start()

    def adopt(self, sockets: Iterable[tuple[int, int]]) -> None:
        """Listen on inherited sockets in place of :meth:`listen`.

        They are pairs of descriptor and address family. The descriptors are duplicated.
        """
        for (number, family), listener in zip(sockets, self.listeners, strict=True):
            port = adopt_port(self._reactor, number, family, listener.factory)
            # One, so that workers share the connections evenly.
            self._adopted.append(_accepting(port, 1))
        self._start()

    def _start(self) -> None:
        self._raise_file_limit()
        self.resource.start()

    def use(self, configuration: Configuration) -> None:
        """Serve by another configuration with the same endpoints, completely or not at all.

        :raises SettingsError: OpenSSL rejects a certificate, a key or a revocation list.
        """
        contexts = contexts_for(configuration)
        self.resource.use(configuration)
        for settings, listener, context in zip(
            configuration.settings.all_listeners, self.listeners, contexts, strict=True
        ):
            listener.use(settings, context, configuration.settings.client)
        self.factory.use(configuration.settings.client)
        self.access_log.use(configuration)
        self.handshake_log.use(configuration)
        self.configuration = configuration
        self._raise_file_limit()

    def _raise_file_limit(self) -> None:
        """Raise the soft limit of open files to two for each connection, or to the hard limit.

        The usual 1024 is far below the default of ``client.max-connections``.
        """
        soft, hard = limits.getrlimit(limits.RLIMIT_NOFILE)
        wanted = self._wanted_files()
        if hard != limits.RLIM_INFINITY:
            wanted = min(wanted, hard)
        if soft != limits.RLIM_INFINITY and soft < wanted:
            try:
                limits.setrlimit(limits.RLIMIT_NOFILE, (wanted, hard))
            except (OSError, ValueError) as error:
                # macOS reports no hard limit, and its kernel still allows fewer files.
                self._warn_of_file_limit(soft, wanted, error)
        self._limit_connections(limits.getrlimit(limits.RLIMIT_NOFILE)[0])

    def _limit_connections(self, files: int) -> None:
        """Accept no more connections than the limit of open files allows.

        Without free descriptors, Twisted closes each connection that it accepts, with three lines
        in the log, and the proxy cannot connect to back ends.
        """
        if files == limits.RLIM_INFINITY:
            self.factory.most_connections = math.inf
            return
        configuration = self.configuration
        settings = configuration.settings
        # 3/2, because an upload needs a second descriptor for its connection.
        upstream = len(configuration.backends) * settings.upstream.max_connections * 3 // 2
        self.factory.most_connections = most = max(1, files - upstream - _OTHER_FILES)
        if most < settings.client.max_connections and not self._file_limit_reported:
            self._file_limit_reported = True
            sentence = (
                "the limit of open files is {files}, client.max-connections needs {wanted}: "
                "at most {most} connections are accepted"
            )
            self._log.warn(sentence, files=files, wanted=self._wanted_files(), most=most)

    def _wanted_files(self) -> int:
        return 2 * self.configuration.settings.client.max_connections + 256

    def _warn_of_file_limit(self, soft: int, wanted: int, error: Exception) -> None:
        if not self._file_limit_reported:
            self._file_limit_reported = True
            sentence = (
                "the limit of open files stays {soft}, client.max-connections needs {wanted}: "
                "{error}"
            )
            self._log.warn(sentence, soft=soft, wanted=wanted, error=str(error))

    def snapshot(self) -> Snapshot:
        """Return the state of this process, for ``[admin]``."""
        return self._snapshots.snapshot()

    def reopen_log(self) -> None:
        """Continue in the access log's new file (:meth:`.access_log.AccessLog.reopen`)."""
        self.access_log.reopen()

    def stop(self) -> Deferred[None]:
        """Stop accepting, finish requests within ``client.drain-timeout``, and close the rest."""
        ports, self._ports = self._ports, []
        for port in self._adopted:
            _accept_queue(port)
            # Other workers accept on it.
            port.stopReading()  # type: ignore[attr-defined]
        stopped = DeferredList([_close(port) for port in ports])
        return stopped.addCallback(lambda _: self.factory.drain()).addCallback(
            lambda _: self._close()
        )

    def abandon_sockets(self) -> None:
        """Accept the queues of inherited sockets a last time, and shut the sockets down.

        The process that bound them has died. Without the shutdown, new connections would wait in a
        queue, and a new proxy could not bind the address. Those of systemd go on listening, for
        that proxy.
        """
        listeners = self.configuration.settings.all_listeners
        for port, listener in zip(self._adopted, listeners, strict=False):
            _accept_queue(port)
            port.stopReading()  # type: ignore[attr-defined]
            if endpoint_type(listener.description) != "systemd":
                _shut_down(port)
        self._adopted = []

    def observe(self, exchange: Exchange) -> None:
        """Count and log a finished exchange."""
        self._watch.exchange(exchange)
        self.access_log.observe(exchange)

    def _close(self) -> None:
        self.resource.close()
        self.access_log.close()
        self.handshake_log.close()


def _accepting(port: Any, most: int) -> Any:
    """Let a port accept at most this number of connections in a turn of the reactor.

    Twisted accepts a hundred and more, and each takes a file descriptor.
    """
    accept = port.doRead

    def accept_some() -> None:
        port.numberAccepts = most
        accept()

    port.doRead = accept_some
    return port


class _Listener:
    """The TLS context and the protocol factory of one listener."""

    def __init__(
        self,
        settings: ListenerSettings,
        context: Any,
        client: ClientSettings,
        factory: Any,
        watch: MetricsObserver,
        log: HandshakeObserver,
    ) -> None:
        from x509proxy.downstream.proxy_protocol_listener import stream_factory
        from x509proxy.transport.tls_context import ServerConnections

        self.connections = ServerConnections(
            context, settings.client_certificate, watch, log, client.max_handshake_bytes
        )
        self.factory = stream_factory(self.connections, factory, settings)

    def use(self, settings: ListenerSettings, context: Any, client: ClientSettings) -> None:
        """Use another context and other trusted proxies for new connections."""
        from x509proxy.downstream.proxy_protocol_listener import use_listener

        self.connections.swap(context, settings.client_certificate, client.max_handshake_bytes)
        use_listener(self.factory, settings)


def contexts_for(configuration: Configuration) -> list[Any]:
    """Return a TLS context for each listener.

    :raises SettingsError: OpenSSL rejects a certificate, a key or a revocation list.
    """
    from x509proxy.transport.tls_context import make_context

    settings = configuration.settings
    default = settings.client_certificate
    return [
        make_context(
            configuration.identity,
            listener.client_certificate or default,
            configuration.trusted,
            settings.tls,
            extra_identities=configuration.extra_identities,
        )
        for listener in settings.all_listeners
    ]


def _close(port: IListeningPort) -> Deferred[Any]:
    _accept_queue(port)
    closed: Deferred[Any] = maybeDeferred(port.stopListening)
    return closed


def _shut_down(port: IListeningPort) -> None:
    """End listening on a socket, in all processes that have inherited it."""
    with contextlib.suppress(OSError):  # another worker has done it, where that is an error
        port.socket.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]


def _accept_queue(port: IListeningPort) -> None:
    """Accept the connections in the queue of a port, which may be reset otherwise."""
    if isinstance(port, Port):
        # Twisted accepts as many at a time as it found the last time.
        port.numberAccepts = BACKLOG
        # Not port.doRead, which accepts fewer.
        Port.doRead(port)
