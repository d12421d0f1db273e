"""The stage of ``test_oidc_provider``: the page's provider, registered clients, openid-client.

Needs Node.js 18 or newer, curl, and the modules of ``interop/node/package.json``, installed once
into a folder of their own::

    mkdir -p ~/.cache/x509proxy-interop/node
    cp interop/node/package.json ~/.cache/x509proxy-interop/node/
    npm install --prefix ~/.cache/x509proxy-interop/node --no-package-lock --no-audit --no-fund

``X509PROXY_INTEROP_NODE`` names another folder. oidc-provider 9 does not start on Node.js 18, and
is left out there.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from interop.recipes import filled, recipe
from interop.stage import ClientFiles, Proxy, Stage
from tests.support.ports import free_port
from x509proxy.certificates.self_signed import KeyKind, PrivateKey, SelfSigned

__all__ = ["OidcStage", "Ports", "base64_der", "page", "x5t"]

_PAGE = "servers/oidc-provider"
_HERE = Path(__file__).parent / "node"
_CACHE = Path(
    os.environ.get("X509PROXY_INTEROP_NODE") or Path.home() / ".cache/x509proxy-interop/node"
)
_REDIRECT = "https://client.example/back"
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def page(name: str, places: Mapping[str, str]) -> str:
    """Return a block of the page in ``docs``, with these replacements."""
    return filled(recipe(_PAGE, name), places)


def base64_der(client: ClientFiles) -> str:
    """Return the value of the header, made without the proxy's own code."""
    return base64.b64encode(client.made.certificate.public_bytes(Encoding.DER)).decode("ascii")


def x5t(client: ClientFiles) -> str:
    """Return ``x5t#S256`` of RFC 8705 section 3.1, made without the proxy's own code."""
    digest = hashlib.sha256(client.made.certificate.public_bytes(Encoding.DER)).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


@attrs.frozen
class Ports:
    """Ports: ``mtls`` requests certificates, ``plain`` does not, ``provider`` is past the proxy."""

    mtls: int
    plain: int
    provider: int


class OidcStage(Stage):
    """A stage with the modules, the page's provider, and clients that are registered with it."""

    module = "oidc-provider"

    def setUp(self) -> None:
        super().setUp()
        self.require("node", "curl", "openssl", str(_CACHE / "node_modules"))
        self._check_modules()
        if (
            self.module == "oidc-provider-9"
            and int(self.run_program("node", "-p", "process.versions.node.split('.')[0]")) < 20
        ):
            self.skipTest("oidc-provider 9 needs a newer Node.js")
        (self.folder / "node_modules").symlink_to(_CACHE / "node_modules")
        for name in ("configuration.mjs", "client.mjs"):
            shutil.copy(_HERE / name, self.folder)
        self.ports = Ports(free_port(), free_port(), free_port())
        self.registered: list[dict[str, Any]] = []
        self.server_files()

    def _check_modules(self) -> None:
        """Check that the pinned modules are installed: a cache can outlive its file."""
        wanted = json.loads((_HERE / "package.json").read_text())["dependencies"]
        manifests = {name: _CACHE / "node_modules" / name / "package.json" for name in wanted}
        self.require(*map(str, manifests.values()))
        found = {name: json.loads(path.read_text())["version"] for name, path in manifests.items()}
        self.assertEqual(
            {name: version.rpartition("@")[2] for name, version in wanted.items()}, found
        )

    # The two servers.

    def serve(
        self,
        toml: str = "",
        issuer_port: int = 0,
        discovery: object = None,
        secret: bool = True,
        mtls: str = "",
        api: str = "",
    ) -> Proxy:
        """Start the page's provider, and the proxy in front of it.

        ``toml`` and ``mtls``: the page's own unless given.
        """
        self.write(
            "configuration.json",
            json.dumps({"clients": self.registered, "discovery": discovery or {}, "api": api}),
        )
        self.write("mtls.mjs", mtls or page("mtls.mjs", {}))
        issuer = f"https://localhost:{issuer_port or self.ports.mtls}"
        places = {
            "3000": str(self.ports.provider),
            "https://as.example.com:8443": issuer,
            "'oidc-provider'": f"'{self.module}'",
        }
        self.write("server.mjs", page("server.mjs", places))
        name = (self.folder / "header.txt").read_text().strip() if secret else ""
        provider = self.start(
            "provider", ["node", "server.mjs"], {"CLIENT_CERTIFICATE_HEADER": name}
        )
        self.wait_for(self.ports.provider, provider, "provider")
        return self.start_proxy(toml or self.toml("x509proxy.toml"), self.ports.mtls)

    def toml(self, name: str, changes: Mapping[str, str] | None = None) -> str:
        """Write one of the page's configurations of the proxy; ``changes``: a test's deviations."""
        places = {
            "tcp:8443": f"tcp:{self.ports.mtls}:interface=127.0.0.1",
            "127.0.0.1:3000": f"127.0.0.1:{self.ports.provider}",
        }
        return page(name, {**places, **(changes or {})})

    @property
    def said(self) -> str:
        """The provider's log, which has the reasons for rejections."""
        return (self.folder / "provider.log").read_text()

    # Clients.

    def register(self, name: str, kind: KeyKind = KeyKind.EC, **metadata: object) -> ClientFiles:
        """Make a client as on the page, and register it.

        ``x509proxy client-certificate`` writes the JWK set that is registered.
        """
        tool = str(Path(sys.executable).parent / "x509proxy")
        self.run_program(
            tool, "client-certificate", "--key", kind.value, "--name", name, "--out", name
        )
        self.enrol(
            name, jwks=json.loads((self.folder / f"{name}.jwks.json").read_text()), **metadata
        )
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        private_key = cast(PrivateKey, load_pem_private_key(key.read_bytes(), None))
        return ClientFiles(
            certificate,
            key,
            SelfSigned(x509.load_pem_x509_certificate(certificate.read_bytes()), private_key),
        )

    def enrol(self, name: str, **metadata: object) -> None:
        self.registered.append(
            {**json.loads(recipe(_PAGE, "client.json")), "client_id": name, **metadata}
        )

    def play(
        self,
        play: str,
        name: str,
        files: ClientFiles | None = None,
        issuer_port: int = 0,
        aliases: bool = False,
        thief: ClientFiles | None = None,
    ) -> Any:
        """Run a scene of openid-client's, and return its report (``interop/node/client.mjs``)."""
        scene = {
            "play": play, "issuer": f"https://localhost:{issuer_port or self.ports.mtls}",
            "ca": str(self.folder / "server.pem"),
            "client": {"id": name, **self._paths(files)}, "aliases": aliases, "redirect": _REDIRECT,
            "thief": self._paths(thief),
        }  # fmt: skip
        return json.loads(self.run_program("node", "client.mjs", json.dumps(scene)))

    def _paths(self, files: ClientFiles | None) -> dict[str, str]:
        return (
            {} if files is None else {"certificate": str(files.certificate), "key": str(files.key)}
        )

    def ask(
        self,
        proxy: Proxy | None,
        name: str,
        fields: Mapping[str, str],
        files: ClientFiles | None = None,
    ) -> tuple[int, Any]:
        """Request a token with raw bytes: through the proxy, or (``None``) past it."""
        if proxy is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.ports.provider, timeout=30)
        else:
            connection = http.client.HTTPSConnection(
                "localhost", proxy.port, timeout=30, context=self.context(proxy, files)
            )
        try:
            connection.request(
                "POST",
                "/token",
                f"grant_type=client_credentials&client_id={name}",
                {**_FORM, **fields},
            )
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def check_refused(self, status: int, answer: Any) -> None:
        self.assertEqual((401, "invalid_client"), (status, answer.get("error")))

    def check_bound(self, seen: Any, files: ClientFiles) -> None:
        """Check that a token was issued, and that its introspection names this certificate."""
        self.assertNotIn("refused", seen)
        self.assertEqual("bearer", seen["token"]["token_type"])
        self.assertTrue(seen["introspection"]["active"])
        self.assertEqual({"x5t#S256": x5t(files)}, seen["introspection"]["cnf"])
