"""Exported configurations: what each product is told, and what it cannot do."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, cast

import attrs
from twisted.trial.unittest import SynchronousTestCase

from x509proxy import cli
from x509proxy.audit.export.command import RENDERERS, export
from x509proxy.audit.export.plan import Identity, ListenAddress, Plan, read_plan
from x509proxy.certificates.pem_files import new_header_name
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.forwarding.presets import HeaderPlan
from x509proxy.settings import Backend, ClientAuth, Format, SettingsError, Trust, Validity

PLAN = Plan(
    product="x",
    source="x509proxy.toml",
    listeners=(ListenAddress(8443),),
    identities=(Identity("/a.pem", "/a.pem"),),
    fields=(HeaderPlan(Format.PEM_URL, b"X-My-Cert"),),
    backends=(Backend.parse("http://127.0.0.1:8080"),),
    hosts=(),
    client_auth=ClientAuth.OPTIONAL,
    trust=Trust.ANY,
    validity=Validity.ENFORCE,
    ca=None,
    crl=(),
    depth=4,
    max_body=1000,
    max_head=16384,
    limits=(),
)
BACKENDS = tuple(map(Backend.parse, ("https://b.example", "https://[::1]:9443")))
VERIFYING = {"trust": Trust.CA, "ca": "/ca.pem", "crl": ("/crl.pem",)}


def rendered(product: str, **changes: Any) -> tuple[str, str]:
    """Return the configuration of a changed plan, and its limits as one text."""
    plan = attrs.evolve(PLAN, product=product, **changes)
    if product == "caddy" and "fields" not in changes:
        plan = attrs.evolve(plan, fields=(HeaderPlan(Format.BASE64_DER, b"X-My-Cert"),))
    text, limits = RENDERERS[product](plan)
    return text, "\n".join(limits)


def fields(*forms: Format) -> tuple[HeaderPlan, ...]:
    """Return a header for each format."""
    return tuple(HeaderPlan(form, f"X-{form.value}".encode(), value=b"v") for form in forms)


class Case(SynchronousTestCase):
    def contains(self, text: str, *parts: str) -> None:
        """Check that each part is in the text."""
        for part in parts:
            self.assertIn(part, text)


class Every(Case):
    def test_common(self) -> None:
        """Each removes the header and its siblings, and tells its limits in comments."""
        for product in RENDERERS:
            text, limits = rendered(product)
            self.contains(
                text, "X-My-Cert", "X-Forwarded-Tls-Client-Cert", "ssl-client-verify", "/a.pem"
            )
            for limit in limits.split("\n"):
                self.assertIn(f"# - {limit}\n", text)

    def test_base_path(self) -> None:
        """A base path of the back end is an error where it would be lost."""
        backends = (Backend.parse("http://a/base"),)
        for product in ("nginx", "haproxy", "apache", "caddy"):
            with self.assertRaisesRegex(SettingsError, "backend: found a base path"):
                rendered(product, backends=backends)

    def test_formats(self) -> None:
        """A format that a product cannot write is an error that lists those it can."""
        for product, form in (
            ("nginx", Format.RFC9440), ("haproxy", Format.RFC9440_CHAIN), ("apache", Format.XFCC),
            ("caddy", Format.PEM_URL), ("envoy", Format.PEM),
        ):  # fmt: skip
            with self.assertRaisesRegex(SettingsError, f"format: found {form.value}, expected one"):
                rendered(product, fields=fields(form))

    def test_own_siblings(self) -> None:
        """A header that is written is not among those that are removed."""
        for product in ("nginx", "haproxy", "apache", "envoy"):
            text, _ = rendered(product, fields=(HeaderPlan(Format.SERIAL, b"Client-Cert"),))
            self.assertIn("Client-Cert", text)
        self.assertNotIn(
            "Client-Cert",
            attrs.evolve(PLAN, fields=(HeaderPlan(Format.PEM, b"client-cert"),)).removed,
        )


class Nginx(Case):
    def test_any(self) -> None:
        """Any certificate passes, no session is resumed, and errors are JSON."""
        text, _ = rendered("nginx")
        self.contains(
            text, "listen 8443 ssl default_server;", "ssl_verify_client optional_no_ca;", "ssl_session_tickets off;",
            "proxy_set_header X-My-Cert $ssl_client_escaped_cert;", "error_page 495 496 =401", "server 127.0.0.1:8080;",
        )  # fmt: skip

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
        self.assertIn("self-signed and unknown certificates", limits)

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
        """PEM without line ends becomes URL-encoded, and that is told."""
        text, limits = rendered("nginx", fields=fields(Format.PEM, Format.LITERAL))
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


class Haproxy(Case):
    def test_any(self) -> None:
        """Any certificate passes; the name is removed in every spelling before it is set."""
        text, _ = rendered("haproxy")
        self.contains(
            text, "bind *:8443 ssl alpn http/1.1 crt /a.pem verify optional ca-file /a.pem ca-ignore-err all",
            "del-header ^(?i)X[^A-Za-z0-9]My[^A-Za-z0-9]Cert$ -m reg", "if { ssl_c_used } { ssl_c_verify 9 10 }",
        )  # fmt: skip
        self.assertLess(text.index("del-header ^(?i)X"), text.index("set-header X-My-Cert"))

    def test_results(self) -> None:
        """A missing certificate is not a verified one."""
        text, _ = rendered("haproxy", fields=fields(Format.VERIFY, Format.VERDICT, Format.LITERAL))
        self.contains(
            text, "X-verify NONE unless { ssl_c_used }", "X-verdict TRUSTED if", 'X-literal "v"'
        )

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
        self.contains(text, "if { ssl_c_used } !{ ssl_c_verify 18 }", "if !{ ssl_c_used }")
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


class Apache(Case):
    def test_any(self) -> None:
        """The header survives a client's Connection field, and is absent without a certificate."""
        text, _ = rendered("apache")
        self.contains(
            text, "Listen 8443", "<VirtualHost *:8443>", "SSLVerifyClient optional_no_ca", "RequestHeader unset Connection early",
            'RequestHeader edit* X-My-Cert "\\+" "%%2B"', '"expr=-n %{SSL_CLIENT_CERT}"', 'ProxyPass "/" "http://127.0.0.1:8080/"',
        )  # fmt: skip

    def test_formats(self) -> None:
        """Names and results have their own variables."""
        text, _ = rendered(
            "apache",
            fields=fields(Format.SUBJECT, Format.VERIFY, Format.LITERAL, Format.PEM_SPACES),
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
        limits = rendered("apache", trust=Trust.SELF_SIGNED, validity=Validity.IGNORE)[1]
        self.contains(limits, "validity is enforced", "self-signed and unknown certificates")

    def test_back_ends(self) -> None:
        """Several back ends are a balancer; a unix socket has a URL of its own."""
        text, _ = rendered("apache", backends=(*BACKENDS, Backend.parse("unix:/s")))
        self.contains(
            text,
            "SSLProxyEngine on",
            "BalancerMember https://[::1]:9443",
            "BalancerMember unix:/s|http://localhost",
        )


class Caddy(Case):
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
        """Authorities, required, none, and what is not told apart."""
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
            "caddy", listeners=(ListenAddress(1, "10.0.0.1"),), hosts=("a",), fields=fields(Format.LITERAL),
            backends=(*BACKENDS, Backend.parse("unix:/s")),
        )  # fmt: skip
        self.contains(text, "https://a:1 {", "bind 10.0.0.1", "https://b.example:443", "unix//s")
        self.assertEqual(2, text.count('header_up X-literal "v"'))

    def test_certificates(self) -> None:
        """One certificate is all that is exported."""
        with self.assertRaisesRegex(SettingsError, "certificates: found more than one"):
            rendered("caddy", identities=(*PLAN.identities, *PLAN.identities))


class Envoy(Case):
    def document(self, **changes: Any) -> dict[str, Any]:
        text, _ = rendered("envoy", **changes)
        lines = [line for line in text.split("\n") if not line.startswith("#")]
        return cast("dict[str, Any]", json.loads("\n".join(lines))["static_resources"])

    def chain(self, **changes: Any) -> dict[str, Any]:
        (found,) = self.document(**changes)["listeners"][0]["filter_chains"]
        return cast("dict[str, Any]", found)

    def test_any(self) -> None:
        """Untrusted certificates are accepted, and the header is written from the handshake."""
        chain = self.chain()
        tls = chain["transport_socket"]["typed_config"]
        self.assertEqual(
            {"trust_chain_verification": "ACCEPT_UNTRUSTED"},
            tls["common_tls_context"]["validation_context"],
        )
        (host,) = chain["filters"][0]["typed_config"]["route_config"]["virtual_hosts"]
        self.assertIn("X-My-Cert", host["request_headers_to_remove"])
        self.assertEqual(
            "%DOWNSTREAM_PEER_CERT%", host["request_headers_to_add"][0]["header"]["value"]
        )
        self.assertEqual(["*"], host["domains"])

    def test_xfcc(self) -> None:
        """Envoy's own header is written by Envoy."""
        plan = (HeaderPlan(Format.XFCC, b"X-Forwarded-Client-Cert"),)
        manager = self.chain(fields=plan, hosts=("a",))["filters"][0]["typed_config"]
        self.assertEqual("SANITIZE_SET", manager["forward_client_cert_details"])
        (host,) = manager["route_config"]["virtual_hosts"]
        self.assertEqual(([], ["a", "a:*"]), (host["request_headers_to_add"], host["domains"]))

    def test_modes(self) -> None:
        """Authorities with and without revocation lists, required, and none."""
        tls = self.chain(client_auth=ClientAuth.REQUIRED, **VERIFYING)["transport_socket"][
            "typed_config"
        ]
        self.assertTrue(tls["require_client_certificate"])
        self.assertEqual(
            {"filename": "/crl.pem"}, tls["common_tls_context"]["validation_context"]["crl"]
        )
        tls = self.chain(trust=Trust.CA, ca="/ca.pem")["transport_socket"]["typed_config"]
        self.assertNotIn("crl", tls["common_tls_context"]["validation_context"])
        tls = self.chain(client_auth=ClientAuth.NONE)["transport_socket"]["typed_config"]
        self.assertNotIn("validation_context", tls["common_tls_context"])

    def test_back_ends(self) -> None:
        """TLS and unix sockets."""
        (cluster,) = self.document(backends=(*BACKENDS, Backend.parse("unix:/s")))["clusters"]
        self.assertEqual("b.example", cluster["transport_socket"]["typed_config"]["sni"])
        ends = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        self.assertEqual({"pipe": {"path": "/s"}}, ends[2]["endpoint"]["address"])


class Files(Case):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        made = make_self_signed(KeyKind.EC, "localhost", server=True)
        self.write("both.pem", made.certificate_pem + made.key_pem)
        self.name = new_header_name()
        self.write("header.txt", self.name.encode())

    def write(self, name: str, data: bytes) -> str:
        path = self.folder / name
        path.write_bytes(data)
        path.chmod(0o600)
        return str(path)

    def toml(self, text: str) -> str:
        return self.write(
            "x509proxy.toml",
            f'certificate = "both.pem"\nbackend = "http://127.0.0.1:8080"\n{text}'.encode(),
        )

    def test_read(self) -> None:
        """The plan has the file's places, files, header and limits."""
        plan = read_plan(
            "nginx",
            self.toml(
                'listen = ["tcp:1", "tcp:2:interface=\\\\:\\\\:1", "unix:/s"]\nheader-file = "header.txt"\n'
            ),
        )
        self.assertEqual((ListenAddress(1), ListenAddress(2, "::1")), plan.listeners)
        self.assertEqual(str(self.folder / "both.pem"), plan.identities[0].key)
        self.assertEqual(self.name.encode(), plan.fields[0].name)
        self.assertEqual(
            ("the endpoint unix: is omitted, since only tcp is exported",), plan.limits
        )
        self.assertNotIn(self.name, repr(plan))

    def test_left_out(self) -> None:
        """The limits name each setting that is left out."""
        text = (
            'listen = "tcp:1"\npreset = "auth0"\n[[headers]]\nname = "X-Chain"\nformat = "pem-url"\nchain-index = 2\n'
            '[[rules]]\npath = "/token"\nclient-certificate = "required"\n[[certificates]]\ncertificate = "both.pem"\n'
            '[health]\npath = "/h"\n'
        )  # fmt: skip
        made = make_self_signed(KeyKind.EC, "other", server=True)
        self.write("other.pem", made.certificate_pem + made.key_pem)
        plan = read_plan(
            "nginx",
            self.toml(text.replace('certificate = "both.pem"', 'certificate = "other.pem"')),
        )
        limits = "\n".join(plan.limits)
        self.contains(
            limits,
            "rules by path",
            "health checks",
            "other certificates of a chain",
            "size of a header's value",
        )
        self.assertEqual(2, len(plan.identities))

    def test_unfit(self) -> None:
        """Text that another product could misread is an error."""
        place = 'listen = "tcp:1"\nheader-file = "header.txt"\n'
        mixed = self.toml(place)
        text = (
            Path(mixed).read_text().replace('"http://127.0.0.1:8080"', '["http://a", "https://b"]')
        )
        with self.assertRaisesRegex(SettingsError, "backend: found some with https"):
            export("nginx", self.write("mixed.toml", text.encode()))
        self.write("bo th.pem", (self.folder / "both.pem").read_bytes())
        spaced = Path(mixed).read_text().replace("both.pem", "bo th.pem")
        with self.assertRaisesRegex(
            SettingsError, "export: found white space or a special character"
        ):
            export("nginx", self.write("spaced.toml", spaced.encode()))

    def test_shown_certificate(self) -> None:
        """The proxy's own certificate for back ends is left out, and that is told."""
        text = (
            'listen = "tcp:1"\nheader-file = "header.txt"\n[upstream]\ncertificate = "both.pem"\n'
        )
        plan = read_plan("nginx", self.toml(text))
        self.assertIn("the proxy's certificate for back ends is omitted", plan.limits)

    def test_no_place(self) -> None:
        """Without a tcp endpoint there is nothing to export."""
        with self.assertRaisesRegex(SettingsError, "listen: found no tcp endpoint"):
            export("nginx", self.toml('listen = "unix:/s"\nheader-file = "header.txt"\n'))

    def test_command(self) -> None:
        """The configuration goes to standard output, the limits to standard error."""
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            status = cli.main(
                ["export", "nginx", self.toml('listen = "tcp:1"\nheader-file = "header.txt"\n')]
            )
        self.assertEqual(0, status)
        self.assertIn(f"proxy_set_header {self.name} $ssl_client_escaped_cert;", out.getvalue())
        self.assertIn("nginx: a forged header is removed and not counted\n", err.getvalue())
        self.assertNotIn(self.name, err.getvalue())
