"""Connect2id's libraries behind the proxy: a servlet on Tomcat, with the page's configuration.

``python -m interop.downloads nimbus`` installs the libraries, ``oauth2-oidc-sdk`` 11.39 with
``nimbus-jose-jwt`` 10.9.1. The servlet ``interop/nimbus/AuthorizationServer.java`` reads the header
as Connect2id documents it. The libraries parse the certificate, authenticate the client and make
the confirmation claim.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import attrs
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from interop.arrivals import spellings
from interop.downloads import NIMBUS
from interop.oidc import x5t
from interop.recipes import filled, recipe
from interop.stage import ClientFiles, Proxy
from interop.tomcat import Answer, Tomcat, TomcatStage
from tests.support.certificates import pair
from tests.support.ports import free_port
from x509proxy.certificates.self_signed import KeyKind, SelfSigned, jwk_set, make_self_signed
from x509proxy.testing import ThrowAwayAuthority

_PAGE = "servers/connect2id"
_SERVLET = Path(__file__).parent / "nimbus/AuthorizationServer.java"
_TOMCAT_LIBRARIES = Path("/usr/share/tomcat10/lib")
_SECRET = "Sec-Client-X509-Cert-…"
_FORM = ("Content-Type", "application/x-www-form-urlencoded")
_READ = (KeyKind.EC, KeyKind.EC_P384, KeyKind.RSA, KeyKind.RSA_4096)


class NimbusStage(TomcatStage):
    """The servlet on the page's Tomcat, the page's proxy, and registered clients."""

    def setUp(self) -> None:
        super().setUp()
        self.require("javac", str(NIMBUS))
        self.server_files()
        self.secret = (self.folder / "header.txt").read_text().strip()
        self.registered: dict[str, object] = {}

    def furnish(self, application: Path) -> None:
        """Compile the servlet; the libraries go where Tomcat finds them."""
        (application / "WEB-INF/classes").mkdir(parents=True)
        shutil.copytree(NIMBUS, application / "WEB-INF/lib")
        path = f"{NIMBUS}/*:{_TOMCAT_LIBRARIES}/servlet-api.jar"
        classes = str(application / "WEB-INF/classes")
        self.run_program("javac", "-d", classes, "-cp", path, str(_SERVLET))

    def serve(self, *more: str) -> tuple[Tomcat, Proxy]:
        """Start both; ``more``: blocks of the page for the proxy."""
        self.write("clients.json", json.dumps(self.registered))
        properties = filled(recipe(_PAGE, "catalina.properties"), {_SECRET: self.secret})
        tomcat = self.start_tomcat(
            recipe(_PAGE, "connector"),
            recipe(_PAGE, "remote-ip"),
            f"{properties}clients={self.folder / 'clients.json'}\n",
        )
        port = free_port()
        here = {
            "tcp:8443": f"tcp:{port}:interface=127.0.0.1",
            "127.0.0.1:8080": f"127.0.0.1:{tomcat.port}",
        }
        toml = filled(recipe(_PAGE, "x509proxy.toml"), here) + "".join(more)
        return tomcat, self.start_proxy(toml, port)

    # Clients.

    def register(self, name: str, made: SelfSigned) -> ClientFiles:
        """Register its JWK set, for ``self_signed_tls_client_auth``."""
        self.registered[name] = {
            "token_endpoint_auth_method": "self_signed_tls_client_auth",
            "tls_client_certificate_bound_access_tokens": True,
            "jwks": jwk_set(made.certificate),
        }
        return self.client_files(made, name)

    def post(
        self,
        proxy: Proxy,
        path: str,
        client: ClientFiles | None,
        form: Mapping[str, str],
        *fields: tuple[str, str],
    ) -> Reply:
        """Send a form through the proxy."""
        body = urlencode(form).encode("ascii")
        return _reply(self.ask(self.connect(proxy, client), path, [_FORM, *fields], body))

    def token(
        self, proxy: Proxy, name: str, client: ClientFiles | None, *fields: tuple[str, str]
    ) -> Reply:
        """Request a token of the client itself."""
        return self.post(proxy, "/token", client, _credentials(name), *fields)

    def assert_refused(self, reply: Reply, note: object = None) -> None:
        """Assert that the client was not authenticated."""
        self.assertEqual((401, "invalid_client"), (reply.status, reply.body.get("error")), note)


@attrs.frozen
class Reply:
    """Status and JSON of a response."""

    status: int
    body: Any


def _reply(answer: Answer) -> Reply:
    return Reply(answer.status, json.loads(answer.body))


def _credentials(name: str) -> dict[str, str]:
    return {"grant_type": "client_credentials", "client_id": name}


def _header(made: SelfSigned) -> str:
    return made.certificate_pem.decode("ascii").replace("\n", "")


class SelfSignedClients(NimbusStage):
    def test_tokens(self) -> None:
        """EC and RSA keys get tokens that are bound to the certificate of the handshake."""
        clients = {
            kind.value: self.register(kind.value, make_self_signed(kind, kind.value))
            for kind in _READ
        }
        _, proxy = self.serve()
        for name, client in clients.items():
            reply = self.token(proxy, name, client)
            self.assertEqual((200, True), (reply.status, reply.body.get("self_signed")), reply.body)
            self.check_bound(proxy, reply.body["access_token"], name, client)

    def check_bound(self, proxy: Proxy, token: str, name: str, client: ClientFiles) -> None:
        """Check that the confirmation claim names the certificate, and no other one is of use."""
        form = {"client_id": name, "token": token}
        report = self.post(proxy, "/introspect", client, form).body
        self.assertEqual((True, {"x5t#S256": x5t(client)}), (report["active"], report["cnf"]))
        bearer = ("Authorization", f"Bearer {token}")
        for files, status in ((client, 200), (self.client(common_name="thief"), 401), (None, 401)):
            self.assertEqual(status, self.post(proxy, "/resource", files, {}, bearer).status)

    def test_strangers(self) -> None:
        """Another certificate, a new one of the same name, and none are refused."""
        self.register("victim", make_self_signed(KeyKind.EC, "victim"))
        other = self.register("other", make_self_signed(KeyKind.EC, "other"))
        _, proxy = self.serve()
        for files in (other, self.client(common_name="victim"), None):
            self.assert_refused(self.token(proxy, "victim", files))

    def test_forged(self) -> None:
        """The secret header, in any spelling, has no effect; past the proxy it has."""
        victim = self.register("victim", make_self_signed(KeyKind.EC, "victim"))
        tomcat, proxy = self.serve()
        thief = self.client(common_name="thief")
        value = _header(victim.made)
        for name in spellings(self.secret):
            for more in ([], [("Connection", f"close, {self.secret}")]):
                for files in (thief, None):
                    reply = self.token(proxy, "victim", files, (name, value), *more)
                    self.assert_refused(reply, name)
        body = urlencode(_credentials("victim")).encode("ascii")
        fields = [_FORM, (self.secret, value)]
        direct = _reply(self.ask(self.past_the_proxy(tomcat), "/token", fields, body))
        self.assertEqual(200, direct.status, direct.body)


class Authorities(NimbusStage):
    def test_subject(self) -> None:
        """``tls_client_auth``: the registered subject, of the authority, and no other."""
        authority = ThrowAwayAuthority()
        self.write("ca.pem", authority.certificate.public_bytes(Encoding.PEM))
        self.registered["client"] = {
            "token_endpoint_auth_method": "tls_client_auth",
            "tls_client_auth_subject_dn": "CN=client",
        }
        _, proxy = self.serve(recipe(_PAGE, "authority"))
        reply = self.token(proxy, "client", self.client_files(authority.client("client"), "client"))
        self.assertEqual((200, False), (reply.status, reply.body.get("self_signed")), reply.body)
        other = self.client_files(authority.client("other"), "other")
        self.assert_refused(self.token(proxy, "client", other))
        foreign = self.client_files(ThrowAwayAuthority().client("client"), "foreign")
        for files in (foreign, self.client(common_name="client")):
            self.assert_refused(self.token(proxy, "client", files))


# The libraries' own sentences.
_NOT_READ = {
    "RSA-PSS": "Couldn't validate client X.509 certificate: No matching client JWK found",
    "Ed25519": "JWK set: Export to java.security.PublicKey not supported",
    "ML-DSA-65": "No matching JWKs found",
}


class OtherKeys(NimbusStage):
    def test_refused(self) -> None:
        """RSA-PSS, Ed25519 and ML-DSA keys arrive, and find no match in a registered JWK set."""
        for kind in _NOT_READ:
            self.register(kind, SelfSigned(pair(kind).certificate, pair(kind).private_key))
        _, proxy = self.serve()
        for kind, reason in _NOT_READ.items():
            reply = self.token_with(proxy, kind)
            self.assert_refused(reply, kind)
            self.assertEqual(reason, reply.body["reason"])

    def token_with(self, proxy: Proxy, kind: str) -> Reply:
        """Request a token with a key of this kind, with the OpenSSL of ``cryptography``."""
        body = urlencode(_credentials(kind)).encode("ascii")
        head = (
            "POST /token HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            f"Content-Type: {_FORM[1]}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        raw = _dialogue(proxy, self.write("both.pem", pair(kind).pem), head.encode("ascii") + body)
        document = raw[raw.index(b"{") : raw.rindex(b"}") + 1]
        return Reply(int(raw.split(b" ")[1]), json.loads(document))


def _dialogue(proxy: Proxy, files: Path, request: bytes) -> bytes:
    """Send it through pyOpenSSL, since the ``ssl`` of Debian's Python has no ML-DSA."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.load_verify_locations(str(proxy.authority))
    context.set_verify(SSL.VERIFY_PEER)
    context.use_certificate_file(str(files))
    context.use_privatekey_file(str(files))
    with socket.create_connection(("127.0.0.1", proxy.port), 30) as plain:
        plain.settimeout(None)
        connection = SSL.Connection(context, plain)
        connection.set_connect_state()
        connection.sendall(request)
        received = b""
        try:
            while True:
                received += connection.recv(65536)
        except (SSL.ZeroReturnError, SSL.SysCallError):
            return received
