"""Spring Authorization Server behind the proxy, in a Tomcat with the SSLValve.

``python -m interop.downloads spring`` installs Spring Boot 4.0.7 and Spring Security 7.0.6. The
application is ``interop/spring/Application.java``; a resource server runs in the same container.
"""

from __future__ import annotations

from http.client import HTTPConnection
from urllib.parse import quote

from interop.arrivals import spellings
from interop.oauth import credentials, exchange
from interop.spring_stage import TOKEN_PATH, SpringStage
from x509proxy.certificates.self_signed import KeyKind
from x509proxy.testing import ThrowAwayAuthority

_HEADERS = ("ssl_client_cert", "ssl_client_escaped_cert")
_READ = (KeyKind.EC, KeyKind.EC_P384, KeyKind.RSA, KeyKind.RSA_4096)


class SelfSignedClients(SpringStage):
    def test_tokens(self) -> None:
        """EC and RSA keys get tokens, bound to the certificate, by the registered JWK set."""
        clients = {kind.value: self.register(kind.value, kind) for kind in _READ}
        proxy = self.serve()
        for name, client in clients.items():
            self.assert_bound(proxy, self.token(proxy, name, client), name, client)

    def test_strangers(self) -> None:
        """Other certificates, none, and forged headers in any spelling are refused."""
        victim, other = self.register("victim"), self.register("other")
        proxy = self.serve()
        for files in (other, self.client(common_name="victim"), None):
            self.assert_refused(self.token(proxy, "victim", files))
        pem = victim.made.certificate_pem.decode("ascii")
        values = (pem.strip().replace("\n", " "), quote(pem, safe=""))
        for header, value in zip(_HEADERS, values, strict=True):
            for name in spellings(header):
                fields = {name: value, "Connection": f"close, {header}"}
                for files in (other, None):
                    self.assert_refused(self.token(proxy, "victim", files, fields), name)
            direct = HTTPConnection("127.0.0.1", self.port, timeout=60)
            answer = exchange(direct, "POST", TOKEN_PATH, credentials("victim"), {header: value})
            self.assertEqual(200, answer.status, answer.body)


class IssuedClients(SpringStage):
    def test_subject(self) -> None:
        """With the page's class a certificate of the authority is ``tls_client_auth``."""
        own = self.register("own")
        client = self.client_files(self.authority.client("client"), "client")
        proxy = self.serve("--issued=true")
        self.assert_bound(proxy, self.token(proxy, "pki", client), "pki", client)
        self.assert_bound(proxy, self.token(proxy, "own", own), "own", own)
        other = self.client_files(self.authority.client("other"), "other")
        forged = self.client(common_name="client")
        for files in (other, forged, None):
            self.assert_refused(self.token(proxy, "pki", files))
        # Another authority's: the proxy rejects it.
        foreign = self.client_files(ThrowAwayAuthority().client("client"), "foreign")
        self.assert_refused(self.token(proxy, "pki", foreign))

    def test_without(self) -> None:
        """Without it Spring takes one certificate for a self-signed one, and refuses."""
        self.register("own")
        client = self.client_files(self.authority.client("client"), "client")
        proxy = self.serve("--issued=false")
        self.assert_refused(self.token(proxy, "pki", client))
