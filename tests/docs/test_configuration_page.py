"""Promises of ``docs/configuration.rst``: its blocks load, and its lists are complete."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock

from tests.support.toml_files import TomlTestCase
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.config.loader import load_configuration, override
from x509proxy.forwarding.secret_name import new_header_name
from x509proxy.settings import Format, ProxySettings

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.rst").read_text()
_BLOCK = re.compile(
    r"^\.\. test: (\w+)\n\n\.\. code-block:: toml\n\n((?:    .*\n|\n)+)", re.MULTILINE
)


class Blocks(TomlTestCase):
    def settings(self, block: str) -> ProxySettings:
        """Return the settings of a block, with the keys that every configuration needs."""
        server, other = (
            make_self_signed(KeyKind.EC, name, server=True)
            for name in ("a.example", "mtls.example.com")
        )
        self.write(server.certificate_pem + server.key_pem, name="server.pem")
        self.write(other.certificate_pem, name="mtls.pem")
        self.write(other.key_pem, name="mtls.key")
        self.write(f"{new_header_name()}\n", name="header.txt")
        text = re.sub(r"^    ", "", block, flags=re.MULTILINE)
        loaded = self.load(text)
        header = {} if loaded.preset == "none" else {"header_file": str(self.folder / "header.txt")}
        needed = {
            "certificate": str(self.folder / "server.pem"),
            "backend": "http://127.0.0.1:1",
            **header,
        }
        return override(loaded, needed)

    def test_blocks(self) -> None:
        """Each block is a configuration that loads without a warning."""
        blocks = dict(_BLOCK.findall(PAGE))
        self.assertEqual(
            {"headers", "open", "rules", "listeners", "certificates", "tokens", "admin"},
            set(blocks),
        )
        for name, block in blocks.items():
            self.assertEqual((), load_configuration(self.settings(block)).warnings, name)

    def test_endpoints(self) -> None:
        """Each endpoint in the table is TOML, in both notations, and Twisted listens there."""
        table = PAGE.partition("``listen``: addresses")[2].partition("``[[headers]]``")[0]
        written = re.findall(r"``([\"'](?:tcp|unix).*?[\"'])``", table)
        reactor = MemoryReactorClock()
        for text in written:
            serverFromString(reactor, tomllib.loads(f"listen = {text}")["listen"]).listen(Factory())
        address = "2001:db8::1"
        self.assertEqual(
            ["", "::", "", "192.0.2.1", address, address],
            [server[3] for server in reactor.tcpServers],
        )
        self.assertEqual(
            ["/run/x509proxy/proxy.sock"], [server[0] for server in reactor.unixServers]
        )

    def test_keys(self) -> None:
        """Every key of the first level is on this page, in the README, or among the limits."""
        root = Path(__file__).parents[2]
        pages = PAGE + "".join(
            (root / name).read_text() for name in ("README.rst", "docs/limits.rst")
        )
        keys = {field.encode_name for field in msgspec.structs.fields(ProxySettings)}
        unnamed = {
            key for key in keys if not re.search(rf"(``|--|\[|^    ){key}\b", pages, re.MULTILINE)
        }
        self.assertEqual(set(), unnamed)

    def test_formats(self) -> None:
        """Every format is in the table, and nothing else."""
        table = PAGE.partition("``format``  ")[2].partition("\n\n")[0]
        self.assertEqual(
            [form.value for form in Format], re.findall(r"^``([\w-]+)``", table, re.MULTILINE)
        )
