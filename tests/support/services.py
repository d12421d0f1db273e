"""The files and options of a proxy, and the parts of a service in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.raw_tls import HEADER
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.service.options import Options
from x509proxy.service.proxy_service import ProxyService
from x509proxy.service.server import ProxyServer


class ProxyFiles:
    """A folder with everything that a proxy reads."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder).absolute()
        self.folder.mkdir()
        self.renew()
        self.header = self.write("header.txt", HEADER.encode() + b"\n")
        self.ca = self.write("ca.pem", make_self_signed(KeyKind.EC, "ca").certificate_pem)

    def write(self, name: str, content: bytes, mode: int = 0o600) -> Path:
        path = self.folder / name
        path.touch(mode)
        path.write_bytes(content)
        path.chmod(mode)
        return path

    def renew(self) -> None:
        """A new key and certificate for the server."""
        self.server = make_self_signed(KeyKind.EC, "localhost", names=["localhost"], server=True)
        self.certificate = self.write("server.pem", self.server.certificate_pem)
        self.key = self.write("server.key", self.server.key_pem)

    def arguments(self, *more: str) -> list[str]:
        """A complete command line."""
        files = [
            "--certificate",
            self.certificate,
            "--private-key",
            self.key,
            "--header-file",
            self.header,
        ]
        return [*map(str, files), "--backend", "http://127.0.0.1:9", *more]


def server_of(service: ProxyService) -> ProxyServer:
    """What serves, in this process."""
    assert isinstance(service.serving, ProxyServer)
    return service.serving


def tls_context_of(service: ProxyService) -> object:
    """The TLS context of the day."""
    return server_of(service).listeners[0].connections._context


def parse_options(*arguments: str) -> Options:
    options: Any = Options()
    options.parseOptions(list(arguments))
    parsed: Options = options
    return parsed
