"""The tests with clients: demonstration back end, certificate of ``docs/clients.rst``, arrivals."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from interop.recipes import filled, recipe
from interop.stage import Proxy, Stage
from tests.support.ports import free_port
from x509proxy.certificates.self_signed import KeyKind

__all__ = ["BIN", "PAGE", "SHELL", "ClientStage", "documents"]

PAGE = "clients"
SHELL = ("bash", "-euo", "pipefail")
BIN = Path(sys.executable).parent


def documents(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects in a program's output, among any other text."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while (at := text.find("{", at)) >= 0:
        document, at = decoder.raw_decode(text, at)
        found.append(document)
    return found


class ClientStage(Stage):
    """A folder as on the page, with ``server.pem`` and, once it is made, ``my-client.*``."""

    def setUp(self) -> None:
        super().setUp()
        # The page's commands find x509proxy.
        self.environment = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        self.server_files()

    def start_echo(self) -> int:
        """Start the demonstration back end; return its port."""
        port = free_port()
        listen = f"tcp:{port}:interface=127.0.0.1"
        command = [str(BIN / "x509proxy"), "echo", "--show-secret-name", "--listen", listen]
        self.wait_for(port, self.start("echo", command), "echo")
        return port

    def page(self, name: str, places: Mapping[str, str] | None = None) -> str:
        """Return the output of a shell recipe of the page."""
        return self.run_program(
            *SHELL, "-c", filled(recipe(PAGE, name), places or {}), environment=self.environment
        )

    def make_certificate(self, kind: KeyKind) -> None:
        """Make new files ``my-client.*`` with the page's command.

        The client registers the certificate that it presents.
        """
        for path in (*self.folder.glob("my-client.*"), *self.folder.glob("password.txt")):
            path.unlink()
        self.page("certificate", {"--key ec": f"--key {kind.value}"})
        self.page("pkcs12")
        (key,) = json.loads((self.folder / "my-client.jwks.json").read_text())["keys"]
        certificate = x509.load_pem_x509_certificate((self.folder / "my-client.pem").read_bytes())
        self.assertEqual(certificate.public_bytes(Encoding.DER), base64.b64decode(key["x5c"][0]))
        self.thumbprint = key["x5t#S256"]

    def told(self, proxy: Proxy, report: Mapping[str, Any]) -> bool:
        """Check a back end's report: the client's certificate, and no other one, has arrived."""
        values = [
            value for name, value in report["headers"] if name.lower() == proxy.header_name.lower()
        ]
        thumbprints = [certificate["x5t#S256"] for certificate in report["certificates"]]
        if not values:
            self.assertEqual([], thumbprints)
            return False
        self.assertEqual([(self.folder / "my-client.pem").read_text().replace("\n", "")], values)
        self.assertEqual([self.thumbprint], thumbprints)
        return True
