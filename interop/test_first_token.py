"""The tutorial ``docs/first-token.rst``, block by block.

A client gets a bound token, and a thief of the token cannot use it.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path

from interop.oidc import _CACHE
from interop.recipes import DOCS, filled, recipe
from interop.stage import Stage
from tests.support.ports import free_port

PAGE = "first-token"
PAGE_TEXT = (DOCS / f"{PAGE}.rst").read_text("utf-8")


class FirstToken(Stage):
    def setUp(self) -> None:
        super().setUp()
        self.require("node", "curl", "openssl", str(_CACHE / "node_modules"))
        (self.folder / "node_modules").symlink_to(_CACHE / "node_modules")
        self.ports = {name: str(free_port()) for name in ("8443", "8080", "9443", "9080")}
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.programs = {"PATH": programs}

    def block(self, name: str) -> str:
        """Return a block with free ports."""
        text = recipe(PAGE, name)
        return filled(text, {old: new for old, new in self.ports.items() if old in text})

    def shell(self, text: str, status: int = 0) -> str:
        """Run a block of commands; return what they print."""
        return self.run_program("bash", "-euc", text, environment=self.programs, status=status)

    def run_on(self, name: str, port: str) -> None:
        """Start a block whose last line runs on."""
        *before, last = self.block(name).splitlines()
        text = "\n".join([*before, f"exec {last}"])
        process = self.start(name, ["bash", "-euc", text], self.programs)
        self.wait_for(int(self.ports[port]), process, name)

    def test_tutorial(self) -> None:
        """The client gets a token with its thumbprint; the API takes it from the client alone."""
        self.shell(self.block("server"))
        printed = self.shell(self.block("clients"))
        install, secret = self.block("install").splitlines()
        self.assertEqual("npm install oidc-provider@8", install)
        self.shell(secret)
        for name in ("server.mjs", "x509proxy.toml", "api.toml"):
            self.write(name, self.block(name))
        self.run_on("run-server", "8080")
        self.run_on("run-proxy", "8443")
        answer = json.loads(self.shell(self.block("token")))
        self.assertEqual("Bearer", answer["token_type"])
        token = answer["access_token"]
        claims = json.loads(self.shell(self.block("claims").replace("eyJhbGciOi…", token)))
        decoded = base64.urlsafe_b64decode(token.split(".")[1] + "==")
        self.assertEqual(json.loads(decoded), claims)
        self.assertIn(f"x5t#S256: {claims['cnf']['x5t#S256']}\n", printed)
        refused = json.loads(self.shell(self.block("token").replace("my-client.", "thief.")))
        self.assertEqual("invalid_client", refused["error"])
        self.assertIn(json.dumps(refused, separators=(",", ":")), PAGE_TEXT)
        self.check_api(token)

    def check_api(self, token: str) -> None:
        """Use the token at the API, as the client and as the thief."""
        self.run_on("run-api", "9080")
        self.run_on("run-front", "9443")
        given = f"TOKEN={token}\n"
        used = json.loads(self.shell(given + self.block("use")))
        self.assertIn("CN=my-client", used["message"])
        stolen = json.loads(self.shell(given + self.block("steal")))
        self.assertEqual("invalid_token", stolen["error"])
        self.assertIn(json.dumps(stolen), PAGE_TEXT)
