"""``twistd x509proxy --demo``: a proxy, two clients' certificates and a back end that shows what it received, all thrown away."""

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

from x509proxy.certificates.pem_files import new_header_name
from x509proxy.certificates.self_signed import KeyKind, SelfSigned, make_self_signed
from x509proxy.config.loader import load_configuration
from x509proxy.service.echo import Secrets, echo_site
from x509proxy.service.proxy_service import ProxyService
from x509proxy.settings import ProxySettings, SettingsError

__all__ = ["DemoService"]

_PORT = 8443
_SOCKET = "echo.sock"
_LONGEST_SOCKET = 107  # unix(7): sun_path
_CLIENTS = {"client-ec": KeyKind.EC, "client-rsa": KeyKind.RSA}


class DemoService(MultiService):
    """The demonstration. ``folder`` holds its files, until it stops."""

    def __init__(self, settings: ProxySettings, reactor: Any, out: TextIO) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="x509proxy-demo-"))
        self._out = out
        self._header = new_header_name()
        with self._kept_only_if_started():
            self._proxy = ProxyService(load_configuration(self._prepare(settings)), reactor)
        endpoint = UNIXServerEndpoint(reactor, str(self.folder / _SOCKET), mode=0o600)
        # The name is thrown away with the rest.
        site = echo_site(reactor=reactor, secrets=Secrets.SHOWN)
        StreamServerEndpointService(endpoint, site).setServiceParent(self)
        self._proxy.setServiceParent(self)

    def privilegedStartService(self) -> None:
        with self._kept_only_if_started():
            super().privilegedStartService()

    def startService(self) -> None:
        with self._kept_only_if_started():
            super().startService()
        self._tell()

    def stopService(self) -> Deferred[Any]:
        stopped: Deferred[Any] = super().stopService()
        return stopped.addBoth(lambda _: shutil.rmtree(self.folder, ignore_errors=True))

    @contextmanager
    def _kept_only_if_started(self) -> Iterator[None]:
        """Keys must not be left behind."""
        try:
            yield
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _prepare(self, settings: ProxySettings) -> ProxySettings:
        """Write the files; say where they are. What the command line says of policy and listening holds."""
        if len(str(self.folder / _SOCKET)) > _LONGEST_SOCKET:
            raise SettingsError(
                f"demo: found {self.folder}, expected a temporary folder with a shorter name (TMPDIR)"
            )
        names = ["localhost", "127.0.0.1", "::1"]
        self._write("server", make_self_signed(KeyKind.EC, "localhost", names=names, server=True))
        for name, kind in _CLIENTS.items():
            self._write(name, make_self_signed(kind, f"demo {name}"))
        return msgspec.structs.replace(
            settings,
            listen=settings.listen
            if settings.listen != ProxySettings().listen
            else (f"tcp:{_free_port()}:interface=127.0.0.1",),
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

    def _tell(self) -> None:
        port = getattr(self._proxy.addresses[0], "port", _PORT)
        url = f"https://localhost:{port}/token"
        curl = f"curl --cacert {self.folder}/server.pem"
        lines = [
            f"x509proxy listens on https://localhost:{port}/ ; Ctrl-C stops it and removes {self.folder}",
            *_with("With a certificate (EC):", f"{curl} {self._client('client-ec')} {url}"),
            *_with("With a certificate (RSA):", f"{curl} {self._client('client-rsa')} {url}"),
            *_with("Without one:", f"{curl} {url}"),
            *_with(
                "Trying to forge the header (its name is not secret here):",
                f"{curl} -H '{self._header}: forged' -H 'X-Echo-Forged: forged' {url}",
            ),
        ]
        print("\n".join(lines), file=self._out, flush=True)

    def _client(self, name: str) -> str:
        return f"--cert {self.folder}/{name}.pem --key {self.folder}/{name}.key"


def _with(title: str, line: str) -> tuple[str, str, str]:
    return "", title, f"  {line}"


def _free_port() -> int:
    """The usual port, or 0 for any if somebody has it."""
    with socket(AF_INET, SOCK_STREAM) as probe:
        probe.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", _PORT))
        except OSError:
            return 0
        return _PORT
