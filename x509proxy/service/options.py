"""The options of ``twistd x509proxy``, and the service that they describe.

Everything is read and checked while the options are parsed, with root's rights if ``twistd`` has
them. Ports are bound before these are dropped (``privilegedStartService``). A fault is one sentence
on standard error and a non-zero exit status.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from twisted.application.service import IService
from twisted.logger import LogLevel
from twisted.python import usage

from x509proxy.certificates.client_certificate import ignore_name_lengths
from x509proxy.config.loader import (
    Configuration,
    load_configuration,
    load_settings,
    override,
    resolve,
    with_lines,
)
from x509proxy.monitoring.snapshot_builder import installed_version
from x509proxy.redaction import without_secrets
from x509proxy.service.background_writer import unblock_log
from x509proxy.service.journal import prefix
from x509proxy.service.listening import ListenError, check_free
from x509proxy.service.proxy_service import ProxyService
from x509proxy.settings import ProxySettings, SettingsError
from x509proxy.transport.monotonic import use_monotonic_time
from x509proxy.upstream.name_resolver import NameResolver

__all__ = ["Options", "makeService"]


class Options(usage.Options):
    """The command line of ``twistd x509proxy``.

    ``configuration``: the one that it describes; ``None`` with ``--demo``.
    """

    synopsis = "[options]"
    longdesc = (
        "A TLS-terminating reverse proxy that passes the client's certificate on in the header "
        "its server trusts."
    )

    optParameters: ClassVar[list[list[str | None]]] = [
        [
            "config",
            "c",
            None,
            "TOML file with any of these options and all other settings; the command line wins.",
        ],
        [
            "certificate",
            None,
            None,
            "The server's certificate chain, PEM; the key may be in the same file.",
        ],
        ["private-key", None, None, "The server's private key, PEM, readable by its user alone."],
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
            "File with the secret header name, in a second line the next; readable by its user.",
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
            "Certificates to pass on: any, self-signed, ca or either. [default: any]",
        ],
        ["ca", None, None, "The authorities that make a certificate trusted, PEM."],
        ["workers", None, None, "Processes that serve. [default: 1]"],
        ["access-log", None, None, "File for one line per exchange, or - for standard output."],
    ]
    optFlags: ClassVar[list[list[str | None]]] = [
        [
            "demo",
            None,
            "A demonstration that removes its files at the end; prints the curl lines to try.",
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

    def opt_version(self) -> NoReturn:
        """Print the version and leave."""
        sys.stdout.write(f"x509proxy {installed_version()}\n")
        sys.exit(0)

    def opt_listen(self, description: str) -> None:
        """Listen at a Twisted server endpoint, with TLS. Repeatable. [default: tcp:8443]."""
        self["listen"].append(description)

    def opt_backend(self, url: str) -> None:
        """Send requests to http://host:port, https://host:port or unix:/path. Repeatable."""
        self["backend"].append(url)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse the command line.

        :raises SystemExit: with one sentence for an option that does not exist, or lacks its value.
        """
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            # twistd prints its help first, which moves the sentence out of sight.
            raise _end(SettingsError(without_secrets(self._reason(str(error))))) from None

    def _reason(self, message: str) -> str:
        """Return Twisted's message, with the nearest option for one that does not exist."""
        unknown = re.fullmatch(r"option (--?\S+) not recognized", message)
        if unknown is None:
            return f"{message.rstrip('.')}; see twistd x509proxy --help"
        known = [f"--{name.rstrip('=')}" for name in self.longOpt]
        near = difflib.get_close_matches(unknown[1], known, 1)
        expected = near[0] if near else "one of twistd x509proxy --help"
        return f"found the unknown option {unknown[1]}, expected {expected}"

    def postOptions(self) -> None:
        try:
            self._load()
        except SettingsError as error:
            raise _end(error) from None

    @property
    def config(self) -> str | None:
        """Return the TOML file with its folder, since a daemon changes to another one."""
        return None if self["config"] is None else str(self.folder / self["config"])

    def read(self) -> Configuration:
        """Read the command line's files again.

        :raises SettingsError: one of them has a fault.
        """
        return self._load_files(self._read_settings())

    def _load_files(self, settings: ProxySettings) -> Configuration:
        try:
            return load_configuration(settings, config=self.config)
        except SettingsError as error:
            raise error if self.config is None else with_lines(error, self.config) from None

    def _load(self) -> None:
        self.settings = self._read_settings()
        if self.settings.access_log == "-" and self.is_daemon:
            raise SettingsError(
                "access-log: found - for a daemon, which has no standard output, "
                "expected a file, or twistd -n"
            )
        if not self.settings.demo:
            self.configuration = self._load_files(self.settings)

    @property
    def is_daemon(self) -> bool:
        """Return whether this is ``twistd`` without ``-n`` and ``-b``."""
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
    """Make the service that the options describe, with the reactor that ``twistd`` installed."""
    from twisted.internet import reactor

    use_monotonic_time(reactor)
    reactor.installNameResolver(NameResolver(reactor))  # type: ignore[attr-defined]
    # twistd opens its log before it sets its own umask, and under -n sets none: without this, log
    # and pid file were readable by all.
    os.umask(os.umask(0o077) | 0o077)
    ignore_name_lengths()
    sys.excepthook = _without_traceback
    try:
        return _make_service(options, reactor)
    except SettingsError as error:
        raise _end(error) from None


def _without_traceback(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
    """Print a port that cannot be bound as one sentence.

    It is an exception because ``twistd`` removes its pid file on one alone.
    """
    if isinstance(error, ListenError):
        print(f"{prefix(LogLevel.error)}x509proxy: {error}", file=sys.__stderr__)
    else:
        sys.__excepthook__(kind, error, traceback)


def _end(error: SettingsError) -> SystemExit:
    """Return the end of the process, with a line for each mistake."""
    begin = prefix(LogLevel.error)
    return SystemExit("\n".join(f"{begin}x509proxy: {sentence}" for sentence in error.sentences))


def _make_service(options: Options, reactor: Any) -> IService:
    if options.configuration is None:
        from x509proxy.service.demo import DemoService

        return DemoService(options.settings, reactor, sys.stdout)
    for warning in options.configuration.warnings:
        sys.stderr.write(f"{prefix(LogLevel.warn)}x509proxy: warning: {warning}\n")
    if options.is_daemon:
        check_free(options.settings)
    service = ProxyService(options.configuration, reactor, options.read, options.config)
    report = partial(service.serving.counters.log_lines_dropped, "service")
    unblock_log(getattr(options, "parent", None), reactor, report)
    return service
