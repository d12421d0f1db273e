"""Tests of :mod:`x509proxy.export.apache`."""

from __future__ import annotations

from tests.support.export_plans import (
    BACKENDS,
    VERIFYING,
    ExportTestCase,
    plan_fields,
    rendered,
)
from x509proxy.export.plan import ListenAddress
from x509proxy.settings import Backend, ClientAuth, Format, Trust, Validity


class Apache(ExportTestCase):
    def test_any(self) -> None:
        """The header survives a client's Connection field, and is absent without a certificate."""
        text, _ = rendered("apache")
        self.contains(
            text,
            "Listen 8443",
            "<VirtualHost *:8443>",
            "SSLVerifyClient optional_no_ca",
            "RequestHeader unset Connection early",
            'RequestHeader edit* X-My-Cert "\\+" "%%2B"',
            '"expr=-n %{SSL_CLIENT_CERT}"',
            'ProxyPass "/" "http://127.0.0.1:8080/"',
        )

    def test_formats(self) -> None:
        """Names and results have their own variables."""
        text, _ = rendered(
            "apache",
            fields=plan_fields(Format.SUBJECT, Format.VERIFY, Format.LITERAL, Format.PEM_SPACES),
        )
        self.contains(
            text,
            'X-subject "%{SSL_CLIENT_S_DN}s" "expr=-n',
            'X-verify "%{SSL_CLIENT_VERIFY}s"\n',
            'X-literal "v"\n',
        )

    def test_modes(self) -> None:
        """Authorities, none, and what cannot be done."""
        text, limits = rendered(
            "apache",
            client_auth=ClientAuth.REQUIRED,
            hosts=("a", "b"),
            listeners=(ListenAddress(1, "::1"),),
            **VERIFYING,
        )
        self.contains(
            text,
            "SSLVerifyClient require",
            "SSLCACertificateFile /ca.pem",
            "SSLCARevocationFile /crl.pem",
            "ServerAlias b",
            "Listen [::1]:1",
        )
        self.assertIn("not 421", limits)
        self.assertIn("SSLVerifyClient optional\n", rendered("apache", **VERIFYING)[0])
        self.assertIn("SSLVerifyClient none", rendered("apache", client_auth=ClientAuth.NONE)[0])
        for trust in (Trust.SELF_SIGNED, Trust.EITHER):
            self.contains(
                rendered("apache", trust=trust, validity=Validity.IGNORE)[1],
                "validity is enforced",
                "self-signed and unknown certificates are treated alike",
            )

    def test_required(self) -> None:
        """A client without a certificate is rejected, where any certificate is accepted."""
        needed = 'Require expr "-n %{SSL_CLIENT_CERT}"'
        self.assertIn(needed, rendered("apache", client_auth=ClientAuth.REQUIRED)[0])
        self.assertNotIn(needed, rendered("apache")[0])

    def test_back_ends(self) -> None:
        """Several back ends are a balancer; a unix socket has a URL of its own."""
        text, _ = rendered("apache", backends=(*BACKENDS, Backend.parse("unix:/s")))
        self.contains(
            text,
            "SSLProxyEngine on",
            "BalancerMember https://[::1]:9443",
            "BalancerMember unix:/s|http://localhost",
        )
