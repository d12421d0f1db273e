"""The demonstration, ``twistd x509proxy --demo``: a proxy, certificates and an echo back end.

All of its files are removed when it stops.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import AF_INET, SO_REUSEADDR, SOCK_STREAM, SOL_SOCKET, socket
from typing import Any, TextIO

import msgspec
from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXServerEndpoint

from x509proxy.certificates.self_signed import KeyKind, SelfSigned, make_self_signed
from x509proxy.config.loader import load_configuration
from x509proxy.forwarding.secret_name import new_header_name
from x509proxy.service.echo import Secrets, echo_site
from x509proxy.service.proxy_service import ProxyService
from x509proxy.settings import MAX_SOCKET_PATH, ProxySettings, SettingsError

__all__ = ["DemoService"]

_PORT = 8443
_SOCKET = "echo.sock"
_CLIENTS = {"client-ec": KeyKind.EC, "client-rsa": KeyKind.RSA}


class DemoService(MultiService):
    """The service of the demonstration. ``folder`` has its files until it stops."""

    def __init__(self, settings: ProxySettings, reactor: Any, out: TextIO) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="x509proxy-demo-"))
        self._out = out
        self._header = new_header_name()
        with self._removing_folder_on_error():
            self._proxy = ProxyService(load_configuration(self._prepare(settings)), reactor)
        endpoint = UNIXServerEndpoint(reactor, str(self.folder / _SOCKET), mode=0o600)
        # The header name is deleted with the folder.
        site = echo_site(reactor=reactor, secrets=Secrets.SHOWN)
        StreamServerEndpointService(endpoint, site).setServiceParent(self)
        self._proxy.setServiceParent(self)

    def privilegedStartService(self) -> None:
        with self._removing_folder_on_error():
            super().privilegedStartService()

    def startService(self) -> None:
        with self._removing_folder_on_error():
            super().startService()
        self._print_commands()

    def stopService(self) -> Deferred[Any]:
        stopped: Deferred[Any] = super().stopService()
        return stopped.addBoth(lambda _: shutil.rmtree(self.folder, ignore_errors=True))

    @contextmanager
    def _removing_folder_on_error(self) -> Iterator[None]:
        """Remove the folder, which has private keys, if the start fails."""
        try:
            yield
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _prepare(self, settings: ProxySettings) -> ProxySettings:
        """Write the files and return settings that name them.

        Settings for policy and listening stay as they are on the command line.
        """
        if len(str(self.folder / _SOCKET)) > MAX_SOCKET_PATH:
            raise SettingsError(
                f"demo: found {self.folder}, "
                "expected a temporary folder with a shorter name (TMPDIR)"
            )
        names = ["localhost", "127.0.0.1", "::1"]
        self._write("server", make_self_signed(KeyKind.EC, "localhost", names=names, server=True))
        for name, kind in _CLIENTS.items():
            self._write(name, make_self_signed(kind, f"demo {name}"))
        listen = settings.listen
        if listen == ProxySettings().listen:
            listen = (f"tcp:{_free_port()}:interface=127.0.0.1",)
        return msgspec.structs.replace(
            settings,
            listen=listen,
            certificate=str(self.folder / "server.pem"),
            private_key=str(self.folder / "server.key"),
            backend=(f"unix:{self.folder / _SOCKET}",),
            preset="connect2id",
            header_file=self._write_file("header.txt", f"{self._header}\n".encode("ascii")),
            header=None,
        )

    def _write(self, name: str, made: SelfSigned) -> None:
        self._write_file(f"{name}.pem", made.certificate_pem)
        self._write_file(f"{name}.key", made.key_pem)

    def _write_file(self, name: str, content: bytes) -> str:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_bytes(content)
        return str(path)

    def _print_commands(self) -> None:
        port = getattr(self._proxy.addresses[0], "port", _PORT)
        url = f"https://localhost:{port}/token"
        curl = f"curl --cacert {self.folder}/server.pem"
        forged = f"-H '{self._header}: forged'"
        lines = [
            f"x509proxy listens on https://localhost:{port}/ ; "
            f"Ctrl-C stops it and removes {self.folder}",
            *_titled("With a certificate (EC):", f"{curl} {self._client('client-ec')} {url}"),
            *_titled("With a certificate (RSA):", f"{curl} {self._client('client-rsa')} {url}"),
            *_titled("Without a certificate:", f"{curl} {url}"),
            *_titled(
                "With a forged header (its name is no secret here):",
                f"{curl} {forged} -H 'X-Echo-Forged: forged' {url}",
            ),
        ]
        print("\n".join(lines), file=self._out, flush=True)

    def _client(self, name: str) -> str:
        return f"--cert {self.folder}/{name}.pem --key {self.folder}/{name}.key"


def _titled(title: str, command: str) -> tuple[str, str, str]:
    return "", title, f"  {command}"


def _free_port() -> int:
    """Return the usual port, or 0 (any) if another process listens on it."""
    with socket(AF_INET, SOCK_STREAM) as probe:
        probe.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", _PORT))
        except OSError:
            return 0
        return _PORT
