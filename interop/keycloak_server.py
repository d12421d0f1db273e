"""Keycloak for the tests: started from its distribution, with the pages' configuration and a realm.

``python -m interop.downloads keycloak`` installs the distribution; ``interop/keycloak/realm.json``
is the realm. Each start builds the server for one look-up: 15 s of CPU time, and 20 s to start.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path

import attrs
from cryptography.hazmat.primitives.serialization import Encoding

from interop.downloads import KEYCLOAK
from interop.oauth import Answer, confirmation, credentials, exchange
from interop.oidc import x5t
from interop.recipes import filled, recipe
from interop.stage import ClientFiles, Proxy, Stage
from tests.support.ports import free_port
from x509proxy.testing import ThrowAwayAuthority

__all__ = ["REALM", "Keycloak", "KeycloakStage"]

REALM = "/realms/bank"
_REALM_FILE = Path(__file__).parent / "keycloak/realm.json"
_TOKEN = f"{REALM}/protocol/openid-connect/token"
_USERINFO = f"{REALM}/protocol/openid-connect/userinfo"
_PATIENCE = 300.0  # seconds until it answers; 100 s were measured with a load of 14 on two cores
_JAVA = "-Xmx640m -XX:+UseSerialGC -XX:TieredStopAtLevel=1"
# A database in memory and no cluster: each test has a server of its own.
_ALONE = "\ndb=dev-mem\ncache=local\n"


@attrs.frozen
class Keycloak:
    """A running server on the loopback. ``public``: the port of the proxy in front of it."""

    port: int
    public: int


class KeycloakStage(Stage):
    """An authority, its clients, Keycloak, and the proxy that the pages describe."""

    timeout = 600

    def setUp(self) -> None:
        super().setUp()
        self.require(str(KEYCLOAK / "bin/kc.sh"), "java")
        self.server_files()
        self.authority = ThrowAwayAuthority("Bank CA")
        self.write("ca.pem", self.authority.certificate.public_bytes(Encoding.PEM))

    def issued(self, name: str) -> ClientFiles:
        """Return a client's certificate, issued by the authority."""
        return self.client_files(self.authority.client(name), name)

    # The two servers.

    def start_keycloak(self, configuration: str) -> Keycloak:
        """Start it with ``conf/keycloak.conf``, for a proxy on another free port."""
        server = Keycloak(free_port(), free_port())
        here = {
            "https://as.example.com": f"https://localhost:{server.public}",
            "/etc/keycloak/ca.pem": str(self.folder / "ca.pem"),
        }
        home = self._make_home(f"{filled(configuration, here)}{_ALONE}http-port={server.port}\n")
        command = ["bash", str(home / "bin/kc.sh"), "start", "--import-realm"]
        process = self.start("keycloak", command, {"JAVA_OPTS": _JAVA})
        self._wait(server, process)
        return server

    def _make_home(self, configuration: str) -> Path:
        """Copy the distribution, in which the build writes; its libraries (180 MB) are linked."""
        home = self.folder / "keycloak"
        libraries = shutil.ignore_patterns("main", "boot", "deployment")
        shutil.copytree(KEYCLOAK, home, ignore=libraries)
        for path in (KEYCLOAK / "lib/lib").iterdir():
            if not (home / "lib/lib" / path.name).exists():
                (home / "lib/lib" / path.name).symlink_to(path)
        (home / "data/import").mkdir(parents=True)
        shutil.copy(_REALM_FILE, home / "data/import")
        (home / "conf/keycloak.conf").write_text(configuration)
        return home

    def _wait(self, server: Keycloak, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                if self.past_the_proxy(server, "GET", REALM).status == 200:
                    return
            except OSError:
                pass
            log = (self.folder / "keycloak.log").read_text(errors="replace")
            self.assertIsNone(process.poll(), log)
            self.assertLess(time.monotonic(), end, log)
            time.sleep(0.5)

    def proxy_for(self, server: Keycloak, page: str, changes: Mapping[str, str]) -> Proxy:
        """Start the proxy of a page in front of it."""
        port = server.public if not changes else free_port()
        here = {
            "tcp:8443": f"tcp:{port}:interface=127.0.0.1",
            "127.0.0.1:8080": f"127.0.0.1:{server.port}",
            **changes,
        }
        toml = filled(recipe(page, "x509proxy.toml"), here)
        return self.start_proxy(toml, port, f"proxy-{port}")

    # Requests.

    def past_the_proxy(
        self,
        server: Keycloak,
        method: str,
        path: str,
        form: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request that no client can send where only the proxy reaches the server."""
        connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
        return exchange(connection, method, path, form, fields)

    def ask(
        self,
        proxy: Proxy,
        path: str,
        form: Mapping[str, str],
        client: ClientFiles | None,
        fields: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a form through the proxy."""
        context = self.context(proxy, client)
        connection = HTTPSConnection("localhost", proxy.port, timeout=60, context=context)
        return exchange(connection, "POST", path, form, fields)

    def token(
        self,
        proxy: Proxy,
        name: str,
        client: ClientFiles | None,
        fields: Mapping[str, str] | None = None,
    ) -> Answer:
        """Request an access token of the client itself."""
        return self.ask(proxy, _TOKEN, credentials(name, scope="openid"), client, fields)

    def token_past_the_proxy(
        self, server: Keycloak, name: str, fields: Mapping[str, str]
    ) -> Answer:
        """Request it with a header that only the proxy may send."""
        return self.past_the_proxy(
            server, "POST", _TOKEN, credentials(name, scope="openid"), fields
        )

    def userinfo(self, proxy: Proxy, token: str, client: ClientFiles | None) -> Answer:
        """Use the token at a resource of Keycloak's own."""
        return self.ask(proxy, _USERINFO, {}, client, {"Authorization": f"Bearer {token}"})

    def introspect(self, proxy: Proxy, token: str, name: str, client: ClientFiles) -> Answer:
        """Introspect the token, as the client ``name``."""
        form = {"client_id": name, "token": token}
        return self.ask(proxy, f"{_TOKEN}/introspect", form, client)

    # Checks of the responses.

    def assert_bound(self, answer: Answer, client: ClientFiles) -> str:
        """Assert that a token was issued for this certificate; return it."""
        self.assertEqual(200, answer.status, answer.body)
        token: str = answer.body["access_token"]
        self.assertEqual({"x5t#S256": x5t(client)}, confirmation(token))
        return token

    def assert_refused(self, answer: Answer, note: object = None) -> None:
        """Assert that Keycloak did not authenticate the client."""
        found = answer.status, answer.body["error"]
        self.assertIn(found, _REFUSALS, (note, answer.body))


_REFUSALS = ((401, "invalid_client"), (400, "invalid_client"), (401, "unauthorized_client"))
