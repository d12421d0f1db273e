"""OAuth libraries as clients of the proxy: ``golang.org/x/oauth2`` and Connect2id's SDK.

The programs are those of ``docs/clients.rst``; the server is the one of
:mod:`interop.test_authlib`. Authlib's own client and openid-client are run by the tests of their
servers.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from interop.authlib_stage import AuthlibStage
from interop.clients import BIN, PAGE, SHELL
from interop.downloads import NIMBUS
from interop.oidc import x5t
from interop.recipes import filled, recipe
from interop.stage import ClientFiles

_GO = 26


class OAuthClients(AuthlibStage):
    def more_clients(self) -> Mapping[str, ClientFiles]:
        """Register the page's client, with the certificate that the page makes."""
        self.environment = {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "CGO_ENABLED": "0",
            "GOFLAGS": "-mod=mod",
        }
        made = self.client(common_name="my-client")
        self.write("my-client.pem", made.certificate.read_bytes())
        self.write("my-client.key", made.key.read_bytes())
        self.page("pkcs12")
        self.mine = made
        return {"my-client": made}

    def page(self, name: str) -> str:
        """Run a shell recipe of the page; return its output."""
        return self.run_program(
            *SHELL, "-c", recipe(PAGE, name), environment=self.environment, seconds=180
        )

    def program(self, name: str) -> Path:
        """Write a program of the page, for the proxy here."""
        here = {"as.example.com:8443": f"localhost:{self.proxy.port}"}
        return self.write(name, filled(recipe(PAGE, name), here))

    def assert_bound(self, shown: str) -> None:
        """Assert that the introspection, which the program prints, names the certificate."""
        report = json.loads(shown[shown.index("{") :])
        self.assertTrue(shown.startswith("200 "), shown)
        self.assertEqual((True, {"x5t#S256": x5t(self.mine)}), (report["active"], report["cnf"]))

    def test_go(self) -> None:
        """The library takes the HTTP client with the certificate from the context."""
        self.require("go")
        version = re.search(r"go1\.(\d+)", self.run_program("go", "version"))
        if version is None or int(version[1]) < _GO:
            self.skipTest(f"golang.org/x/oauth2 0.38.0 needs Go 1.{_GO}")
        self.program("oauth2.go")
        self.assert_bound(self.page("go.sh"))

    def test_nimbus(self) -> None:
        """The SDK names the method ``self_signed_tls_client_auth``."""
        self.require("java", str(NIMBUS))
        program = self.program("NimbusClient.java")
        command = ("java", "-Xmx192m", "-cp", f"{NIMBUS}/*", str(program))
        self.assert_bound(self.run_program(*command, seconds=180))
