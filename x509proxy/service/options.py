"""``twistd x509proxy``: from options to a running service, in straight lines.

Everything is read and checked while the options are parsed, so with root's rights if ``twistd`` has them; ports are bound before
they are dropped (``privilegedStartService``). What is wrong is one sentence on stderr and a non-zero exit.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from twisted.application.service import IService
from twisted.python import usage

from x509proxy.certificates.client_certificate import ignore_name_lengths
from x509proxy.config.loader import (
    Configuration,
    load_configuration,
    load_settings,
    override,
    resolve,
)
from x509proxy.service.background_writer import unblock_log
from x509proxy.service.listening import ListenError, check_free
from x509proxy.service.proxy_service import ProxyService
from x509proxy.settings import ProxySettings, SettingsError
from x509proxy.transport.monotonic import use_monotonic_time
from x509proxy.upstream.name_resolver import NameResolver

__all__ = ["Options", "makeService"]


class Options(usage.Options):
    """The command line of ``twistd x509proxy``. ``configuration`` holds what came of it; ``None`` with ``--demo``."""

    synopsis = "[options]"
    longdesc = "A TLS-terminating reverse proxy that passes the client's certificate on in the header its server trusts."

    optParameters: ClassVar[list[list[str | None]]] = [
        [
            "config",
            "c",
            None,
            "TOML file with any of these options and all the fine settings; the command line wins.",
        ],
        [
            "certificate",
            None,
            None,
            "The server's certificate chain, PEM; the key may be in the same file.",
        ],
        ["private-key", None, None, "The server's private key, PEM, readable by nobody else."],
        [
            "preset",
            None,
            None,
            "The authorization server: header names and encoding. [default: connect2id]",
        ],
        [
            "header-file",
            None,
            None,
            "File with the secret header name (in a second line the next one), readable by nobody else.",
        ],
        [
            "header",
            None,
            None,
            "The secret header name itself: for trials, others see it in the process list.",
        ],
        ["client-certificate", None, None, "optional, required or none. [default: optional]"],
        [
            "trust",
            None,
            None,
            "Whose certificates are passed on: any, self-signed, ca or either. [default: any]",
        ],
        ["ca", None, None, "The authorities that make a certificate trusted, PEM."],
        ["workers", None, None, "Processes that serve. [default: 1]"],
        ["access-log", None, None, "File for one line per exchange, or - for standard output."],
    ]
    optFlags: ClassVar[list[list[str | None]]] = [
        [
            "demo",
            None,
            "Everything embedded and thrown away at the end; prints the curl lines to try.",
        ]
    ]
    compData = usage.Completions(
        optActions={
            "config": usage.CompleteFiles("*.toml"),
            "client-certificate": usage.CompleteList(["optional", "required", "none"]),
            "trust": usage.CompleteList(["any", "self-signed", "ca", "either"]),
        }
    )

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []
        self["backend"] = []
        self.folder = Path.cwd()
        self.settings = ProxySettings()
        self.configuration: Configuration | None = None

    def opt_listen(self, description: str) -> None:
        """Where to listen, a Twisted server endpoint; TLS is added on top. Repeatable. [default: tcp:8443]."""
        self["listen"].append(description)

    def opt_backend(self, url: str) -> None:
        """Where requests go: http://host:port, https://host:port or unix:/path. Repeatable."""
        self["backend"].append(url)

    def postOptions(self) -> None:
        try:
            self._load()
        except SettingsError as error:
            # Not a UsageError: twistd prints two screens of help before its sentence.
            raise _end(error) from None

    @property
    def config(self) -> str | None:
        """The TOML file, wherever a daemon has gone since."""
        return None if self["config"] is None else str(self.folder / self["config"])

    def read(self) -> Configuration:
        """Everything that the command line and the files say now.

        :raises SettingsError: something is unfit.
        """
        return load_configuration(self._read_settings(), config=self.config)

    def _load(self) -> None:
        self.settings = self._read_settings()
        if self.settings.access_log == "-" and self.is_daemon:
            raise SettingsError(
                "access-log: found - for a daemon, whose standard output goes nowhere, expected a file, or twistd -n"
            )
        if not self.settings.demo:
            self.configuration = load_configuration(self.settings, config=self.config)

    @property
    def is_daemon(self) -> bool:
        """Return whether it is ``twistd`` without ``-n``, or ``-b``, which implies it; ``twist`` makes no daemons."""
        above: usage.Options | None = getattr(self, "parent", None)
        return (
            above is not None and not above.get("nodaemon", True) and not above.get("debug", False)
        )

    def _read_settings(self) -> ProxySettings:
        changes = {name.replace("-", "_"): value for name, value in self.items()}
        changes["demo"] = bool(self["demo"])
        del changes["config"]
        settings = ProxySettings() if self.config is None else load_settings(self.config)
        return resolve(override(settings, changes), self.folder)


def makeService(options: Options) -> IService:
    """The service that the options describe. The reactor is the one that ``twistd`` has installed by now."""
    from twisted.internet import reactor

    use_monotonic_time(reactor)
    reactor.installNameResolver(NameResolver(reactor))  # type: ignore[attr-defined]
    # twistd opens its log before it sets its own umask, and under -n sets none: log and pid file would be readable by all.
    os.umask(os.umask(0o077) | 0o077)
    ignore_name_lengths()
    sys.excepthook = _without_traceback
    try:
        return _make_service(options, reactor)
    except SettingsError as error:
        raise _end(error) from None


def _without_traceback(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
    """Print a port that cannot be had as one sentence: ``twistd`` removes its pid file on an exception alone."""
    if isinstance(error, ListenError):
        print(f"x509proxy: {error}", file=sys.__stderr__)
    else:
        sys.__excepthook__(kind, error, traceback)


def _end(error: SettingsError) -> SystemExit:
    """Return the end of the process, with a line for each mistake."""
    return SystemExit("\n".join(f"x509proxy: {sentence}" for sentence in error.sentences))


def _make_service(options: Options, reactor: Any) -> IService:
    if options.configuration is None:
        from x509proxy.service.demo import DemoService

        return DemoService(options.settings, reactor, sys.stdout)
    for warning in options.configuration.warnings:
        sys.stderr.write(f"x509proxy: warning: {warning}\n")
    if options.is_daemon:
        check_free(options.settings)
    service = ProxyService(options.configuration, reactor, options.read, options.config)
    report = partial(service.serving.counters.log_lines_dropped, "service")
    unblock_log(getattr(options, "parent", None), reactor, report)
    return service
