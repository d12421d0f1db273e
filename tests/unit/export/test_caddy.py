"""Tests of :mod:`x509proxy.export.caddy`."""

from __future__ import annotations

from tests.support.export_plans import (
    BACKENDS,
    PLAN,
    VERIFYING,
    ExportTestCase,
    plan_fields,
    rendered,
)
from x509proxy.export.plan import ListenAddress
from x509proxy.settings import Backend, ClientAuth, Format, SettingsError, Trust


class Caddy(ExportTestCase):
    def test_any(self) -> None:
        """Clients without a certificate have a route without the header."""
        text, _ = rendered("caddy")
        self.contains(
            text,
            "https://:8443 {",
            "mode request\n",
            "request_header -X-My-Cert",
            "handle @certificate {",
        )
        self.assertEqual(1, text.count("header_up X-My-Cert"))

    def test_modes(self) -> None:
        """Authorities, required, none, and the certificates that Caddy does not distinguish."""
        self.contains(
            rendered("caddy", client_auth=ClientAuth.REQUIRED, **VERIFYING)[0],
            "require_and_verify",
            "trust_pool file /ca.pem",
        )
        self.assertIn("verify_if_given", rendered("caddy", **VERIFYING)[0])
        self.assertIn("revocation lists", rendered("caddy", **VERIFYING)[1])
        self.assertIn("mode require\n", rendered("caddy", client_auth=ClientAuth.REQUIRED)[0])
        self.assertNotIn("client_auth", rendered("caddy", client_auth=ClientAuth.NONE)[0])
        self.assertIn("self-signed or issued", rendered("caddy", trust=Trust.EITHER)[1])

    def test_places(self) -> None:
        """Addresses, hosts, back ends and literals."""
        text, _ = rendered(
            "caddy",
            listeners=(ListenAddress(1, "10.0.0.1"),),
            hosts=("a",),
            fields=plan_fields(Format.LITERAL),
            backends=(*BACKENDS, Backend.parse("unix:/s")),
        )
        self.contains(text, "https://a:1 {", "bind 10.0.0.1", "https://b.example:443", "unix//s")
        self.assertEqual(2, text.count('header_up X-literal "v"'))

    def test_certificates(self) -> None:
        """One certificate is all that is exported."""
        with self.assertRaisesRegex(SettingsError, "certificates: found more than one"):
            rendered("caddy", identities=(*PLAN.identities, *PLAN.identities))
