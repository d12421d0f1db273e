"""Tests of :mod:`x509proxy.export.plan`."""

from __future__ import annotations

from pathlib import Path

import attrs
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.trial.unittest import SynchronousTestCase

from tests.support.certificates import pair
from tests.support.crls import crl_pem, make_crl
from tests.support.export_plans import BACKENDS, PLAN, ExportFilesTestCase, ExportTestCase, rendered
from x509proxy.audit.corpus import SIBLINGS
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.export.command import export
from x509proxy.export.plan import (
    ListenAddress,
    authority,
    comments,
    pattern,
    read_plan,
    shared_limits,
    values,
)
from x509proxy.forwarding.presets import HeaderPlan
from x509proxy.settings import Backend, ClientAuth, Format, SettingsError, TlsVersion, Trust


class Files(ExportFilesTestCase):
    def test_read(self) -> None:
        """The plan has the file's places, files, header and limits."""
        plan = read_plan(
            "nginx",
            self.toml(
                'listen = ["tcp:1", "tcp:2:interface=\\\\:\\\\:1", "unix:/s"]\n'
                'header-file = "header.txt"\n'
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
            'listen = "tcp:1"\npreset = "auth0"\n'
            '[[headers]]\nname = "X-Chain"\nformat = "pem-url"\nchain-index = 2\n'
            '[[rules]]\npath = "/token"\nclient-certificate = "required"\n'
            '[[certificates]]\ncertificate = "both.pem"\n'
            '[health]\npath = "/h"\n'
        )
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
        with self.assertRaisesRegex(SettingsError, "export: found white space or a special"):
            export("nginx", self.write("spaced.toml", spaced.encode()))

    def test_shown_certificate(self) -> None:
        """The proxy's own certificate for back ends is left out, which is one of the limits."""
        text = (
            'listen = "tcp:1"\nheader-file = "header.txt"\n[upstream]\ncertificate = "both.pem"\n'
        )
        plan = read_plan("nginx", self.toml(text))
        self.assertIn("the proxy's certificate for back ends is omitted", plan.limits)

    def test_no_place(self) -> None:
        """Without a tcp endpoint there is nothing to export."""
        with self.assertRaisesRegex(SettingsError, "listen: found no tcp endpoint"):
            export("nginx", self.toml('listen = "unix:/s"\nheader-file = "header.txt"\n'))

    def test_revocation_lists(self) -> None:
        """Several lists are an error: HAProxy, Apache and Envoy would use one of them alone."""
        authority = pair(subject="CN=authority", ca=True)
        self.write("ca.pem", authority.certificate.public_bytes(Encoding.PEM))
        for name in ("a", "b"):
            self.write(name, crl_pem(make_crl(authority)))
        text = 'listen = "tcp:1"\nheader-file = "header.txt"\ntrust = "ca"\nca = "ca.pem"\n'
        self.assertEqual(1, len(read_plan("nginx", self.toml(f'{text}crl = "a"\n')).crl))
        with self.assertRaisesRegex(SettingsError, "crl: found 2 files, expected one for an exp"):
            read_plan("nginx", self.toml(f'{text}crl = ["a", "b"]\n'))

    def test_odd_name_of_the_file(self) -> None:
        """A line end in the file's name does not end the comment that repeats it."""
        path = Path(self.toml('listen = "tcp:1"\nheader-file = "header.txt"\n'))
        odd = path.rename(path.with_name("a\nuser root;\\.toml"))
        text = export("nginx", str(odd))[0]
        self.assertIn(r"# nginx: exported from a\nuser root;\\.toml by", text)
        self.assertNotIn("\nuser root", text)


class Versions(ExportTestCase):
    def test_minimum(self) -> None:
        """The lowest version of TLS is that of the settings."""
        for product, usual, newest in (
            ("nginx", "ssl_protocols TLSv1.2 TLSv1.3;", "ssl_protocols TLSv1.3;"),
            ("haproxy", "ssl-min-ver TLSv1.2 ", "ssl-min-ver TLSv1.3 "),
            ("apache", "SSLProtocol -all +TLSv1.2 +TLSv1.3\n", "SSLProtocol -all +TLSv1.3\n"),
            ("caddy", "protocols tls1.2 tls1.3\n", "protocols tls1.3 tls1.3\n"),
            ("envoy", '_version": "TLSv1_2"', '_version": "TLSv1_3"'),
        ):
            self.assertIn(usual, rendered(product)[0])
            changed = rendered(product, minimum_version=TlsVersion.TLS_1_3)[0]
            self.assertIn(newest, changed)
            self.assertNotIn(usual, changed)


class BackEnds(ExportTestCase):
    def test_names(self) -> None:
        """Nginx and Envoy verify one name for all back ends, which stands in the limits."""
        needed = "each back end needs a certificate for b.example"
        for product in ("nginx", "envoy"):
            self.assertIn(needed, rendered(product, backends=BACKENDS)[1])
            self.assertNotIn(needed, rendered(product, backends=BACKENDS[:1] * 2)[1])
            self.assertNotIn("each back end", rendered(product)[1])


class Texts(ExportTestCase):
    def test_values(self) -> None:
        """A literal is itself, and each other format is the product's expression for it."""
        writers = {Format.PEM_URL: "$escaped"}
        fields = (
            HeaderPlan(Format.PEM_URL, b"X-A"),
            HeaderPlan(Format.LITERAL, b"X-B", value=b"b"),
        )
        plan = attrs.evolve(PLAN, fields=fields)
        expected = [("X-A", Format.PEM_URL, "$escaped"), ("X-B", Format.LITERAL, "b")]
        self.assertEqual(expected, values(plan, writers))
        with self.assertRaisesRegex(
            SettingsError, "format: found pem-url, expected one that x can"
        ):
            values(plan, {Format.PEM: "$pem"})

    def test_pattern(self) -> None:
        """The pattern of a name matches each spelling that a server may read as it."""
        for spelling in ("X-My-Cert", "X_My_Cert", "X.My-Cert"):
            self.assertRegex(spelling, rf"\A{pattern('X-My-Cert')}\Z")
        self.assertNotRegex("XMyCert", pattern("X-My-Cert"))

    def test_authorities(self) -> None:
        """A back end is a host and a port, an address in brackets, or a socket's path."""
        for url, expected in (
            ("http://a", "a:80"),
            ("https://[::1]:9443", "[::1]:9443"),
            ("unix:/a", "/a"),
        ):
            self.assertEqual(expected, authority(Backend.parse(url)))
        with self.assertRaisesRegex(SettingsError, "backend: found a base path"):
            authority(Backend.parse("http://a/b"))

    def test_comments(self) -> None:
        """The head of the file names its origin, the secret, and each limit."""
        text = comments(PLAN, shared_limits(attrs.evolve(PLAN, limits=("one",))))
        self.contains(text, "# x: exported from x509proxy.toml", "(mode 600)", "# - one\n")
        self.assertEqual(set("#"), {line[0] for line in text.splitlines()})

    def test_properties(self) -> None:
        """A plan knows what its product must do: verify, encrypt, require, and remove."""
        self.assertEqual((False, False, False), (PLAN.verifies, PLAN.encrypts, PLAN.requires))
        strict = attrs.evolve(
            PLAN,
            trust=Trust.CA,
            client_auth=ClientAuth.REQUIRED,
            backends=(Backend.parse("https://a"),),
            fields=(HeaderPlan(Format.PEM, b"client-cert"),),
        )
        self.assertEqual((True, True, True), (strict.verifies, strict.encrypts, strict.requires))
        self.assertEqual({"Client-Cert"}, set(PLAN.removed) - set(strict.removed))


class Removed(SynchronousTestCase):
    def test_forged_by_the_audit(self) -> None:
        """A plan removes each name that the audit forges, so that an export passes it."""
        forged = {name.decode() for _, _, names in SIBLINGS for name in names}
        self.assertEqual(set(), forged - set(attrs.evolve(PLAN, fields=()).removed))
