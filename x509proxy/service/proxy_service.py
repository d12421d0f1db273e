"""The proxy as a Twisted service, with its listeners, signals, reloads and graceful stop.

It serves in this process or, with ``workers``, in processes of :mod:`x509proxy.service.supervisor`.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.logger import LogEvent, Logger, globalLogPublisher

from x509proxy.config.credentials import original_files
from x509proxy.config.file_paths import named_files
from x509proxy.config.loader import Configuration, load_configuration
from x509proxy.forwarding.header_rules import redact
from x509proxy.monitoring.snapshot_builder import installed_version
from x509proxy.redaction import without_secrets
from x509proxy.service.access_log import open_log
from x509proxy.service.admin import Admin
from x509proxy.service.gc_tuning import relax_collector, restore_collector
from x509proxy.service.listening import ListeningEndpoint, url_of
from x509proxy.service.reload import FileWatcher, Reload, Reloader
from x509proxy.service.sd_notify import Notifier
from x509proxy.service.server import ProxyServer
from x509proxy.service.supervisor import WorkerSupervisor

__all__ = ["ProxyService"]


class ProxyService(Service):
    """A proxy for one run.

    ``addresses`` has the addresses of the listeners after the start. ``serving`` is a
    :class:`ProxyServer` or a :class:`WorkerSupervisor`. ``reloading`` has the current configuration
    and the result of the last reload. ``read`` loads the configuration again from the TOML file
    ``config``, which is watched for changes. Without them the settings stay, and a reload reads the
    files that they name.
    """

    _log = Logger()

    def __init__(
        self,
        configuration: Configuration,
        reactor: Any,
        read: Callable[[], Configuration] | None = None,
        config: str | None = None,
    ) -> None:
        settings = configuration.settings
        self._reactor = reactor
        self._config = config
        self._endpoints = [
            ListeningEndpoint(reactor, listener.description, key)
            for listener, key in zip(settings.all_listeners, settings.listener_keys, strict=True)
        ]
        kind = WorkerSupervisor if settings.workers > 1 else ProxyServer
        self.serving: ProxyServer | WorkerSupervisor = kind(
            configuration, reactor, open_log(settings.access_log)
        )
        self._read = read or (lambda: load_configuration(settings))
        self.reloading = Reloader(configuration, self._read_again, self._use)
        self.reloading.observe = self._reloaded
        self.admin = (
            None if settings.admin is None else Admin(settings.admin, self.serving, reactor)
        )
        self._watching = FileWatcher(reactor, self.reload)
        self._listening = self._stopping = False
        self._notifier = Notifier.from_environment()
        # The handlers of this service, and those before them.
        self._handlers: dict[signal.Signals, tuple[Any, Any]] = {}
        if isinstance(self.serving, WorkerSupervisor):
            self.serving.on_serving = self._notify_ready

    @property
    def addresses(self) -> list[IAddress]:
        return self.serving.addresses

    # Twisted calls.

    def privilegedStartService(self) -> None:
        super().privilegedStartService()
        self._listen()

    def startService(self) -> None:
        super().startService()
        globalLogPublisher.addObserver(self._count_lost)  # type: ignore[arg-type]  # a method is an observer too
        if not self._listening:
            # twist does not call privilegedStartService.
            self._listen()
        self._log_start()
        self._catch_signals()
        self._watch(self.reloading.configuration)
        self._notifier.keep_alive(self._reactor)
        # The service may have been stopped by then.
        self._reactor.callWhenRunning(lambda: relax_collector() if self.running else None)
        if isinstance(self.serving, WorkerSupervisor):
            self.serving.start()
        else:
            self._reactor.callWhenRunning(self._notify_ready)

    def stopService(self) -> Deferred[None]:
        """Stop accepting, and finish the requests in progress within ``client.drain-timeout``."""
        super().stopService()
        self._listening, self._stopping = False, True
        restore_collector()
        self._watching.stop()
        self._notifier.stopping("finishing requests in progress")
        # The admin listener is the last to stop, so that it shows that the proxy is draining.
        stopped = self.serving.stop().addCallback(
            lambda _: self.admin.stop() if self.admin is not None else None
        )
        stopped.addCallback(lambda _: self._notifier.end())
        stopped.addBoth(self._stop_counting)
        # The last step: the default handlers would end the process, and cut its exchanges.
        return stopped.addBoth(self._release_signals)

    # Inside.

    def _listen(self) -> None:
        self._listening = True
        self.serving.listen(self._endpoints)
        if self.admin is not None:
            self.admin.listen()

    def _log_start(self) -> None:
        configuration = self.reloading.configuration
        words = {
            "version": installed_version(),
            "listeners": ",".join(map(url_of, self.addresses)),
            "preset": configuration.settings.preset,
            "backends": ",".join(map(str, configuration.backends)),
            "workers": str(configuration.settings.workers),
        }
        line = " ".join(f"{name}={word}" for name, word in words.items())
        # A path may be in any alphabet, and may have the secret name in it by mistake.
        text = without_secrets(line).encode("ascii", "backslashreplace").decode("ascii")
        self._log.info("started: {words}", words=redact(text, configuration.rules))

    def _count_lost(self, event: LogEvent) -> None:
        """Count a line that the program's own log could not write, on a full disk for example.

        Twisted reports an observer that failed, with its error, to the other observers.
        """
        failure = event.get("log_failure")
        if "observer" in event and failure is not None and failure.check(OSError):
            self.serving.counters.log_lines_dropped("service", 1)

    def _stop_counting(self, result: Any) -> Any:
        globalLogPublisher.removeObserver(self._count_lost)  # type: ignore[arg-type]
        return result

    def _catch_signals(self) -> None:
        for number, call in ((signal.SIGHUP, self.reload), (signal.SIGUSR1, self.reopen_log)):
            try:
                before = signal.getsignal(number)
                own = self._caught(call, before)
                signal.signal(number, own)
                self._handlers[number] = own, before
            except ValueError:
                # The reactor of an embedding program runs in another thread than the main one. That
                # program handles signals.
                return

    def _caught(self, call: Callable[[], None], before: Any) -> Callable[[int, Any], None]:
        def caught(number: int, frame: Any) -> None:
            self._reactor.callFromThread(call)
            if callable(before):
                # SIGUSR1 rotates twistd's own log too.
                before(number, frame)

        return caught

    def _release_signals(self, result: Any) -> Any:
        while self._handlers:
            number, (own, before) = self._handlers.popitem()
            # Another service that was started later has its own, which calls this one.
            if signal.getsignal(number) is own:
                signal.signal(number, before)
        return result

    def reopen_log(self) -> None:
        """Continue in the access log's new file, after logrotate has renamed the old one."""
        self.serving.reopen_log()

    def reload(self) -> None:
        """Read and check all files again, then swap. An invalid file changes nothing.

        While the service stops, there are no new requests, and nothing is read.
        """
        if not self._stopping:
            self.reloading.reload()

    def _read_again(self) -> Configuration:
        self._notifier.reloading()
        return self._read()

    def _reloaded(self, reload: Reload) -> None:
        self.serving.counters.reloaded(reload.error, reload.note)
        self._notify_ready()

    def _notify_ready(self) -> None:
        """Notify systemd that the start or the reload has ended.

        It does nothing during a reload, since a worker may begin to serve in the meantime.
        """
        last = self.reloading.last
        if self.running and not self.reloading.is_running:
            self._notifier.ready("; ".join(["serving", *_reload_status(last)]))

    def _use(self, configuration: Configuration) -> Deferred[None] | None:
        used = self.serving.use(configuration)
        self._watch(configuration)
        return used

    def _watch(self, configuration: Configuration) -> None:
        files = [
            *named_files(configuration.settings),
            *original_files(configuration.settings),
            *([self._config] if self._config is not None else []),
        ]
        self._watching.use(files, configuration.settings.reload_poll_interval)


def _reload_status(last: Reload | None) -> Iterator[str]:
    if last is not None and last.error:
        yield f"the last reload failed: {last.error}"
    elif last is not None and last.note:
        yield last.note
