"""Promises of ``docs/howto/embedding.rst``: its programs run, and its table is complete."""

from __future__ import annotations

import re
import socket
import sys
import time
from inspect import signature
from typing import Any

import attrs
from twisted.internet.testing import StringTransport

from tests.support.certificates import SELF_SIGNED
from tests.support.pages import PageTests, read_page
from x509proxy.certificates.client_certificate import ClientCertificate, Flag, Verdict
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.endpoint import x509_endpoint

_SECRET = "x509proxy secret --write header.txt"
_ECHO = "exec x509proxy echo --listen tcp:{}:interface=127.0.0.1"
_CLIENT = (
    "x509proxy client-certificate --name my-client --out my-client\n"
    "curl --cacert server.pem --cert my-client.pem --key my-client.key https://localhost:{}/token"
)


class EmbeddingTests(PageTests):
    """In a Twisted application."""

    page = "howto/embedding"

    def test_proxy_in_an_application(self) -> None:
        """The page's program is a proxy."""
        self.shell(_SECRET)
        program = self.block("embed")
        with (
            self.running(["bash", "-ec", _ECHO.format(self.ports["8080"])], self.ports["8080"]),
            self.running([sys.executable, "-c", program], self.ports["8443"]),
        ):
            shown = self.shell(_CLIENT.format(self.ports["8443"]))
            self.assertIn("CN=my-client", shown)

    def test_endpoint(self) -> None:
        """The command serves one folder over TLS, to this machine, and no file beside it."""
        with self.running(self.in_shell("endpoint"), self.ports["8443"]):
            here = f"https://localhost:{self.ports['8443']}"
            self.assertEqual(self.shell(f"curl --cacert server.pem {here}/"), "It works.\n")
            for secret in ("server.key", "../server.key"):
                fetched = self.shell(
                    "curl --cacert server.pem --path-as-is -o /dev/null "
                    f"-w '%{{http_code}}' {here}/{secret}"
                )
                self.assertEqual(fetched, "404", secret)
            with self.assertRaises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.2", int(self.ports["8443"])), 1).close()

    def resource(self) -> dict[str, Any]:
        """Return the names of the page's program."""
        names: dict[str, Any] = {}
        exec(self.block("application"), names)  # noqa: S102 - the page tells readers to run it
        return names

    def who(self, certificate: ClientCertificate | None) -> bytes:
        """Return the response of the page's resource to a client with this certificate."""
        names = self.resource()
        names["client_certificate"] = lambda _: certificate
        response: bytes = names["WhoAmI"]().render_GET(None)
        return response

    def test_application(self) -> None:
        """The resource names a client by its thumbprint, and rejects invalid certificates."""
        made = make_self_signed(KeyKind.EC, "client").certificate
        known = ClientCertificate.from_x509(made, (SELF_SIGNED,))
        self.assertEqual(self.who(known), known.thumbprint.encode())
        self.assertEqual(self.who(None), b"anonymous")
        for other in (
            attrs.evolve(known, not_after=time.time() - 1),
            attrs.evolve(known, flags=frozenset({Flag.WEAK})),
            attrs.evolve(known, verdict=Verdict.UNTRUSTED),
        ):
            self.assertIn(b"rejected: ", self.who(other))

    def test_flags(self) -> None:
        """The comment names every flag."""
        listed = self.block("application").partition("# EXPIRED")[2].partition(": now")[0]
        named = set(re.findall(r"[A-Z_]{4,}", f"EXPIRED{listed}"))
        self.assertEqual({flag.name for flag in Flag}, named)

    def test_testing(self) -> None:
        """The page's test of its resource passes."""
        names: dict[str, Any] = {}
        exec(self.block("application") + self.block("testing"), names)  # noqa: S102 - as above

    def test_application_without_tls(self) -> None:
        """The page's resource has no name for a client without TLS."""

        class PlainRequest:
            transport = StringTransport()

        self.assertEqual(self.resource()["WhoAmI"]().render_GET(PlainRequest()), b"anonymous")

    def test_arguments(self) -> None:
        """Every argument of the endpoint is in the table, and no other."""
        table = (
            read_page(self.page).partition("The arguments of")[2].partition("The application")[0]
        )
        options = [
            one.name
            for one in signature(x509_endpoint).parameters.values()
            if one.kind is one.KEYWORD_ONLY
        ]
        self.assertEqual(re.findall(r"^   \* - ``(\w+)=``", table, re.MULTILINE), options)
