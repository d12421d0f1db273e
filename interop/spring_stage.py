"""Spring Authorization Server, in a Tomcat with the SSLValve, behind the proxy."""

from __future__ import annotations

import json
import sys
from http.client import HTTPSConnection
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from interop.downloads import SPRING
from interop.oauth import Answer, confirmation, credentials, exchange
from interop.oidc import x5t
from interop.recipes import filled, recipe
from interop.stage import ClientFiles, Proxy, Stage
from tests.support.ports import free_port
from x509proxy.certificates.self_signed import KeyKind, jwk_set, make_self_signed
from x509proxy.testing import ThrowAwayAuthority

_PAGE = "servers/spring"


_APPLICATION = Path(__file__).parent / "spring/Application.java"


_JAVA = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


TOKEN_PATH = "/oauth2/token"


class SpringStage(Stage):
    """The application, the page's proxy, and a web server for the clients' JWK sets."""

    def setUp(self) -> None:
        super().setUp()
        self.require("java", "javac", str(SPRING))
        self.server_files()
        self.authority = ThrowAwayAuthority()
        self.write("ca.pem", self.authority.certificate.public_bytes(Encoding.PEM))
        (self.folder / "jwks").mkdir()
        self.port = free_port()

    def register(self, name: str, kind: KeyKind = KeyKind.EC) -> ClientFiles:
        """Publish a client's JWK set, from which the server takes the client."""
        made = make_self_signed(kind, name)
        document = json.dumps(jwk_set(made.certificate))
        (self.folder / f"jwks/{name}.jwks.json").write_text(document)
        return self.client_files(made, name)

    def serve(self, *options: str) -> Proxy:
        """Start everything."""
        proxy_port, jwks_port = free_port(), free_port()
        web = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1"]
        web += ["--directory", str(self.folder / "jwks"), str(jwks_port)]
        self.wait_for(jwks_port, self.start("jwks", web), "jwks")
        names = sorted(path.name for path in (self.folder / "jwks").iterdir())
        jwks = ",".join(f"http://127.0.0.1:{jwks_port}/{name}" for name in names)
        command = ["java", *_JAVA, "-cp", f"{self.compile()}:{SPRING}/*", "interop.Application"]
        command += [f"--server.port={self.port}", "--server.address=127.0.0.1", f"--jwks={jwks}"]
        command += [f"--issuer=https://localhost:{proxy_port}", *options]
        self.wait_for(self.port, self.start("spring", command), "spring")
        here = {
            "tcp:8443": f"tcp:{proxy_port}:interface=127.0.0.1",
            "127.0.0.1:8080": f"127.0.0.1:{self.port}",
        }
        return self.start_proxy(filled(recipe(_PAGE, "x509proxy.toml"), here), proxy_port)

    def compile(self) -> Path:
        """Compile the application, and the page's class."""
        source = self.write("IssuedClients.java", recipe(_PAGE, "IssuedClients.java"))
        classes = self.folder / "classes"
        command = ["javac", "-parameters", "-d", str(classes), "-cp", f"{SPRING}/*"]
        self.run_program(*command, str(_APPLICATION), str(source), seconds=120)
        return classes

    def ask(
        self,
        proxy: Proxy,
        method: str,
        path: str,
        client: ClientFiles | None,
        form: dict[str, str] | None = None,
        fields: dict[str, str] | None = None,
    ) -> Answer:
        """Send a request through the proxy."""
        context = self.context(proxy, client)
        connection = HTTPSConnection("localhost", proxy.port, timeout=60, context=context)
        return exchange(connection, method, path, form, fields)

    def token(
        self,
        proxy: Proxy,
        name: str,
        client: ClientFiles | None,
        fields: dict[str, str] | None = None,
    ) -> Answer:
        """Request a token of the client itself."""
        return self.ask(proxy, "POST", TOKEN_PATH, client, credentials(name), fields)

    def assert_refused(self, answer: Answer, note: object = None) -> None:
        """Assert that the client was not authenticated; without a certificate there is no body."""
        self.assertEqual(401, answer.status, (note, answer.body))
        if answer.body:
            self.assertEqual("invalid_client", answer.body["error"], note)

    def assert_bound(self, proxy: Proxy, answer: Answer, name: str, client: ClientFiles) -> None:
        """Assert that the token is the client's alone: claim, introspection, resource."""
        self.assertEqual(200, answer.status, answer.body)
        token: str = answer.body["access_token"]
        bound = {"x5t#S256": x5t(client)}
        self.assertEqual(bound, confirmation(token))
        form = {"client_id": name, "token": token}
        report = self.ask(proxy, "POST", "/oauth2/introspect", client, form).body
        self.assertEqual((True, bound), (report["active"], report["cnf"]))
        bearer = {"Authorization": f"Bearer {token}"}
        thief = self.client(common_name="thief")
        for files, status in ((client, 200), (thief, 401), (None, 401)):
            used = self.ask(proxy, "GET", "/resource", files, None, bearer)
            self.assertEqual(status, used.status, used.body)
