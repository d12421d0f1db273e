"""Tests of :mod:`x509proxy.export.haproxy`."""

from __future__ import annotations

from tests.support.export_plans import (
    BACKENDS,
    VERIFYING,
    ExportTestCase,
    plan_fields,
    rendered,
)
from x509proxy.export.plan import Identity, ListenAddress
from x509proxy.forwarding.presets import HeaderPlan
from x509proxy.settings import Backend, ClientAuth, Format, SettingsError, Trust, Validity


class Haproxy(ExportTestCase):
    def test_any(self) -> None:
        """Any certificate passes; the name is removed in every spelling before it is set."""
        text, _ = rendered("haproxy")
        self.contains(
            text,
            "bind *:8443 ssl alpn http/1.1 crt /a.pem verify optional "
            "ca-file /a.pem ca-ignore-err all",
            "del-header ^(?i)X[^A-Za-z0-9]My[^A-Za-z0-9]Cert$ -m reg",
            "if { ssl_c_used } { ssl_c_verify 9 10 }",
        )
        self.assertLess(text.index("del-header ^(?i)X"), text.index("set-header X-My-Cert"))

    def test_underscores(self) -> None:
        """Odd names are removed before the proxy's own is set, which may have underscores.

        HAProxy's option for this is applied last, and deletes SSL_CLIENT_CERT of Keycloak's preset.
        """
        text, _ = rendered("haproxy", fields=(HeaderPlan(Format.PEM, b"SSL_CLIENT_CERT"),))
        self.assertNotIn("http-restrict-req-hdr-names", text)
        removed = text.index("http-request del-header [^A-Za-z0-9-] -m reg\n")
        self.assertLess(removed, text.index("set-header SSL_CLIENT_CERT"))

    def test_results(self) -> None:
        """A missing certificate is not a verified one."""
        fields = plan_fields(Format.VERIFY, Format.VERDICT, Format.LITERAL)
        text, _ = rendered("haproxy", fields=fields, ca="/ca.pem")
        self.contains(
            text, "X-verify NONE unless { ssl_c_used }", "X-verdict TRUSTED if", 'X-literal "v"'
        )

    def test_results_without_authorities(self) -> None:
        """HAProxy has the server's own chain as authorities then: it makes no client trusted."""
        text, _ = rendered("haproxy", fields=plan_fields(Format.VERIFY, Format.VERDICT))
        self.contains(
            text,
            "X-verify NONE unless { ssl_c_used }",
            "X-verify FAILED:%[ssl_c_verify] if { ssl_c_used }\n",
            "X-verdict UNTRUSTED if { ssl_c_used }\n",
        )
        self.assertNotIn("SUCCESS", text)
        self.assertNotIn(" TRUSTED", text)

    def test_unknown_authorities(self) -> None:
        """Where either is trusted, a certificate of an unknown authority is rejected."""
        changes = {"trust": Trust.EITHER, "ca": "/ca.pem"}
        text, limits = rendered("haproxy", **changes)
        self.assertIn("if { ssl_c_used } !{ ssl_c_err 18 } !{ ssl_c_verify 0 }\n", text)
        self.assertNotIn("expired", limits)
        limits = rendered("haproxy", validity=Validity.IGNORE, **changes)[1]
        self.assertIn("an expired certificate of an authority is rejected", limits)

    def test_revoked(self) -> None:
        """A revoked certificate is rejected, although other errors are ignored."""
        text, _ = rendered("haproxy", ca="/ca.pem", crl=("/crl.pem",))
        for result in ("ssl_c_verify", "ssl_c_err", "ssl_c_ca_err"):
            self.assertIn(f"if {{ ssl_c_used }} {{ {result} 23 }}\n", text)
        self.assertNotIn("ssl_c_ca_err", rendered("haproxy", **VERIFYING)[0])

    def test_modes(self) -> None:
        """Authorities, self-signed alone, required, none, and validity that is not enforced."""
        self.assertIn(
            "verify required ca-file /ca.pem no-ca-names crl-file /crl.pem",
            rendered("haproxy", client_auth=ClientAuth.REQUIRED, **VERIFYING)[0],
        )
        text, _ = rendered(
            "haproxy",
            trust=Trust.SELF_SIGNED,
            client_auth=ClientAuth.REQUIRED,
            validity=Validity.IGNORE,
        )
        self.contains(text, "if { ssl_c_used } !{ ssl_c_err 18 }\n", "if !{ ssl_c_used }")
        self.assertNotIn("ssl_c_verify 9 10", text)
        self.assertNotIn(
            " verify ",
            rendered("haproxy", client_auth=ClientAuth.NONE)[0]
            .partition("frontend")[2]
            .partition("\n    option")[0],
        )

    def test_files(self) -> None:
        """Certificate and key have to be in one file."""
        with self.assertRaisesRegex(SettingsError, "private-key: found a file of its own"):
            rendered("haproxy", identities=(Identity("/a.pem", "/a.key"),))

    def test_places(self) -> None:
        """Hosts, addresses and back ends."""
        text, _ = rendered(
            "haproxy",
            hosts=("a",),
            listeners=(ListenAddress(1, "10.0.0.1"),),
            backends=(*BACKENDS, Backend.parse("unix:/s")),
        )
        self.contains(
            text,
            "bind 10.0.0.1:1 ",
            "return status 421",
            "server back_end_1 b.example:443 ssl verify required ca-file",
            "unix@/s",
        )
