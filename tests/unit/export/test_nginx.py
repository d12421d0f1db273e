"""Tests of :mod:`x509proxy.export.nginx`."""

from __future__ import annotations

from tests.support.export_plans import (
    BACKENDS,
    VERIFYING,
    ExportTestCase,
    plan_fields,
    rendered,
)
from x509proxy.export.plan import ListenAddress
from x509proxy.settings import Backend, ClientAuth, Format, Trust


class Nginx(ExportTestCase):
    def test_any(self) -> None:
        """Any certificate passes, no session is resumed, and errors are JSON."""
        text, _ = rendered("nginx")
        self.contains(
            text,
            "listen 8443 ssl default_server;",
            "ssl_verify_client optional_no_ca;",
            "ssl_session_tickets off;",
            "proxy_set_header X-My-Cert $ssl_client_escaped_cert;",
            "error_page 495 496 =401",
            "server 127.0.0.1:8080;",
        )

    def test_verifying(self) -> None:
        """With authorities the mode is on or optional."""
        text, _ = rendered("nginx", client_auth=ClientAuth.REQUIRED, **VERIFYING)
        self.contains(
            text, "ssl_verify_client on;", "ssl_client_certificate /ca.pem;", "ssl_crl /crl.pem;"
        )
        self.assertIn("ssl_verify_client optional;", rendered("nginx", **VERIFYING)[0])

    def test_modes(self) -> None:
        """No certificate at all, or any but none."""
        self.assertIn("ssl_verify_client off;", rendered("nginx", client_auth=ClientAuth.NONE)[0])
        text, limits = rendered("nginx", client_auth=ClientAuth.REQUIRED, trust=Trust.SELF_SIGNED)
        self.assertIn("if ($ssl_client_verify = NONE) { return 401", text)
        either = rendered("nginx", trust=Trust.EITHER, ca="/ca.pem")[1]
        for text in (limits, either):
            self.assertIn("self-signed and unknown certificates are treated alike", text)

    def test_hosts(self) -> None:
        """Other hosts get 421, with the same handshake."""
        text, _ = rendered(
            "nginx",
            hosts=("a", "b"),
            listeners=(ListenAddress(1, "::1"), ListenAddress(2, "10.0.0.1")),
        )
        self.contains(
            text,
            "server_name a b;",
            "listen [::1]:1 ssl default_server;",
            "listen 10.0.0.1:2 ssl;",
            "return 421;",
        )

    def test_pem(self) -> None:
        """PEM without line ends becomes URL-encoded, which is one of the limits."""
        text, limits = rendered("nginx", fields=plan_fields(Format.PEM, Format.LITERAL))
        self.contains(text, "X-pem $ssl_client_escaped_cert;", 'X-literal "v";')
        self.assertIn("Connect2id reads since 8.1", limits)

    def test_back_ends(self) -> None:
        """A unix socket, and https."""
        self.assertIn(
            "server unix:/run/s;", rendered("nginx", backends=(Backend.parse("unix:/run/s"),))[0]
        )
        self.contains(
            rendered("nginx", backends=(*BACKENDS, Backend.parse("unix:/s")))[0],
            "proxy_pass https://x509proxy_back_end;",
            "proxy_ssl_verify on;",
            "server [::1]:9443;",
        )
