"""Clients in front of the proxy: each block of ``docs/clients.rst`` is run.

Each kind of certificate is used, and none.

Debian's ``curl wget openssl openjdk-17-jdk-headless golang-go nodejs npm``; ``requests`` and
``httpx`` from PyPI (extra ``interop``); ``npm install`` is run by the test that is about it. A
relay of Twisted's stands before the proxy: its log shows the number of a client's connections.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from interop.clients import BIN, PAGE, SHELL, ClientStage, documents
from interop.recipes import DOCS, filled, recipe
from tests.support.ports import free_port
from x509proxy.certificates.self_signed import KeyKind, make_self_signed

_FORM = "grant_type=client_credentials&client_id=my-client"
_KINDS = (KeyKind.EC, KeyKind.RSA, KeyKind.ED25519)
_TOML = """\
listen = ["tcp:{port}:interface=127.0.0.1"]
certificate = "server.pem"
private-key = "server.key"
backend = ["http://127.0.0.1:{backend}"]
preset = "connect2id"
header-file = "header.txt"
access-log = "-"
"""


@attrs.frozen
class Program:
    """One of the page's clients.

    ``without``: the change of the recipe for a client without a certificate. ``asks``: requests
    that it sends, over one connection. ``refused``: its exit status at a 401. ``shows``: it shows
    the proxy's response then.
    """

    recipe: str
    command: tuple[str, ...]
    without: Mapping[str, str]
    asks: int = 2
    refused: int = 0
    shows: bool = True


_PYTHON = (sys.executable, "client.py")
_NODE = ("node", "client.mjs")
_PEM_FILES = {'cert: readFileSync("my-client.pem"),': "", 'key: readFileSync("my-client.key"),': ""}
_LOADED = {'tls.load_cert_chain("my-client.pem", "my-client.key")\n': ""}

CURL = Program(
    "curl", (*SHELL, "curl.sh"), {"--cert my-client.pem --key my-client.key": ""}, refused=22
)
WGET = Program(
    "wget",
    (*SHELL, "wget.sh"),
    {"--certificate=my-client.pem --private-key=my-client.key": ""},
    refused=6,
    shows=False,
)
S_CLIENT = Program(
    "s_client", (*SHELL, "s_client.sh"), {"-cert my-client.pem -key my-client.key": ""}, asks=1
)
REQUESTS = Program(
    "requests",
    _PYTHON,
    {'session.cert = ("my-client.pem", "my-client.key")': "session.cert = None"},
)
HTTPX = Program("httpx", _PYTHON, _LOADED)
HTTP_CLIENT = Program("http.client", _PYTHON, _LOADED)
HTTPS = Program("https", _NODE, _PEM_FILES)
UNDICI = Program("undici", _NODE, _PEM_FILES)
JAVA = Program("Client.java", ("java", "Client.java"), {"keys.getKeyManagers()": "null"})
GO = Program(
    "client.go",
    ("go", "run", "client.go"),
    {"[]tls.Certificate{certificate}": "[]tls.Certificate{certificate}[:0]"},
)


class Page(SynchronousTestCase):
    def test_all_are_run(self) -> None:
        """Each block of the page is used by a test."""
        interop = "".join(path.read_text() for path in Path(__file__).parent.glob("*.py"))
        names = re.findall(r"^\.\. recipe: (.+)$", (DOCS / f"{PAGE}.rst").read_text(), re.MULTILINE)
        self.assertEqual([], [name for name in names if f'"{name}"' not in interop])


class Clients(ClientStage):
    """Each client's certificate arrives, over one TLS 1.3 connection; it shows a rejection."""

    def setUp(self) -> None:
        super().setUp()
        # Go is not to need a C compiler, nor a home.
        self.environment |= {"CGO_ENABLED": "0", "GOCACHE": str(self.folder / "go")}

    def serve(self) -> None:
        """Start back end, proxy and relay; clients go to the relay."""
        port, relay = free_port(), free_port()
        self.proxy = self.start_proxy(_TOML.format(port=port, backend=self.start_echo()), port)
        command = [
            str(BIN / "twistd"),
            "-n",
            "--pidfile=",
            "portforward",
            "--port",
            f"tcp:{relay}:interface=127.0.0.1",
        ]
        command += ["--host", "127.0.0.1", "--dest_port", str(port)]
        self.wait_for(relay, self.start("relay", command), "relay")
        self.places = {"as.example.com": "localhost", "8443": str(relay)}
        self.connections = 1  # wait_for's

    def play(
        self,
        program: Program,
        changes: Mapping[str, str] | None = None,
        status: int = 0,
        connections: int = 1,
    ) -> list[dict[str, Any]]:
        """Run a program of the page, which opens so many connections; the JSON that it shows."""
        self.write(
            program.command[-1],
            filled(recipe(PAGE, program.recipe), {**self.places, **(changes or {})}),
        )
        shown = self.run_program(
            *program.command, environment=self.environment, seconds=120, status=status
        )
        self.connections += connections
        self.assertEqual(
            self.connections,
            (self.folder / "relay.log").read_text().count("ProxyClientFactory#info] Starting"),
        )
        return documents(shown)

    def check(self, program: Program) -> None:
        """Check one program with each kind of certificate, without one, and with an expired one."""
        self.require(program.command[0])
        self.serve()
        for kind in _KINDS:
            self.make_certificate(kind)
            self.posted(program, self.play(program), certificate=True)
        self.posted(program, self.play(program, program.without), certificate=False)
        self.expire_certificate()
        # A connection ends with its refusal.
        self.was_refused(
            program, self.play(program, status=program.refused, connections=program.asks)
        )
        log = self.proxy.log.read_text()
        self.assertEqual({"TLSv1.3"}, set(re.findall(r"\btls_version=(\S+)", log)), log)

    def posted(self, program: Program, reports: list[dict[str, Any]], *, certificate: bool) -> None:
        """Check that each request's form arrived, with the certificate or without."""
        seen = [(report["method"], report["target"], report["body_length"]) for report in reports]
        self.assertEqual(
            [("POST", path, len(_FORM)) for path in ("/token", "/introspect")[: program.asks]], seen
        )
        self.assertEqual(
            [certificate] * program.asks, [self.told(self.proxy, report) for report in reports]
        )

    def expire_certificate(self) -> None:
        """Replace ``my-client.*`` with expired files."""
        made = make_self_signed(
            KeyKind.EC, "my-client", days=1, now=datetime.now(UTC) - timedelta(days=9)
        )
        self.write("my-client.pem", made.certificate_pem)
        self.write("my-client.key", made.key_pem)
        self.page("pkcs12")

    def was_refused(self, program: Program, answers: list[dict[str, Any]]) -> None:
        """Check that the developer reads the reason, with the programs that show it."""
        self.assertEqual(
            ["invalid_client"] * program.asks if program.shows else [],
            [answer["error"] for answer in answers],
        )
        for answer in answers:
            self.assertIn("certificate expired", answer["error_description"])

    def test_curl(self) -> None:
        """Curl, over OpenSSL; a refusal is exit code 22."""
        self.check(CURL)

    def test_wget(self) -> None:
        """Wget, over GnuTLS; a refusal is exit code 6, without its reason."""
        self.check(WGET)

    def test_s_client(self) -> None:
        """OpenSSL's own, with a request written by hand."""
        self.check(S_CLIENT)

    def test_requests(self) -> None:
        """Python's requests."""
        self.check(REQUESTS)

    def test_httpx(self) -> None:
        """Python's httpx."""
        self.check(HTTPX)

    def test_http_client(self) -> None:
        """Python's standard library."""
        self.check(HTTP_CLIENT)

    def test_https(self) -> None:
        """Node.js, its own https."""
        self.check(HTTPS)

    def test_undici(self) -> None:
        """Node.js with undici, as npm installs it."""
        self.require("npm")
        self.page("npm")
        self.check(UNDICI)

    def test_java(self) -> None:
        """The JDK's HttpClient, its key out of a PKCS #12 file."""
        self.check(JAVA)

    def test_go(self) -> None:
        """Go's net/http."""
        self.check(GO)
