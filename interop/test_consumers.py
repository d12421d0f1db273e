"""Presets without a server here: the result of the server's own parser for the requests.

A preset is here if its server itself cannot be run.

The proxy is the real one, started from the page's recipe; :mod:`interop.arrivals` has the promises
that are the same for all.
"""

from __future__ import annotations

import hashlib
import re
import signal
import time
import warnings
from base64 import b64encode
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID
from twisted.trial.unittest import SynchronousTestCase

from interop import arrivals
from interop.arrivals import API_KEY, der, spellings
from interop.consumers import Read, aspnet, auth0, envoy_grammar, janssen, keycloak_nginx_trusted
from interop.recipes import DOCS, recipe
from x509proxy.certificates.self_signed import KeyKind, SelfSigned, make_self_signed
from x509proxy.forwarding.presets import PRESETS
from x509proxy.forwarding.secret_name import new_header_name

_OWN = """
listen = "tcp:8443"
certificate = "server.pem"
private-key = "server.key"
backend = "http://127.0.0.1:8080"
"""


def called(subject: str) -> SelfSigned:
    """Make a self-signed certificate with any subject, also a long one."""
    made = make_self_signed(KeyKind.EC, "any")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject, _validate=False)])
        old = made.certificate
        times = old.not_valid_before_utc, old.not_valid_after_utc
        builder = x509.CertificateBuilder(name, name, old.public_key(), old.serial_number, *times)
        return SelfSigned(builder.sign(made.private_key, hashes.SHA256()), made.private_key)


class KeycloakRfc9440(arrivals.PresetStage):
    preset = "keycloak-rfc9440"
    issued = True


class KeycloakNginx(arrivals.PresetStage):
    preset = "keycloak-nginx"
    issued = True

    def test_verified_by_the_proxy(self) -> None:
        """With ``trust-proxy-verification`` the proxy's verdict decides, and no client's."""
        made, forged = self.authority.client(), ("ssl-client-verify", "SUCCESS")
        fields = self.ask(self.proxy, self.files(made, "issued"))[1]
        self.assertEqual(Read(der(made), verdict="SUCCESS"), keycloak_nginx_trusted(fields))
        self.assertEqual(
            [],
            [value for name, value in self.ask(self.proxy, None, forged)[1] if value == "SUCCESS"],
        )
        anyone = self.behind(
            recipe("servers/keycloak-nginx", "x509proxy.toml").replace('"ca"', '"any"')
        )
        fields = self.ask(anyone, self.client(), forged)[1]
        self.assertEqual(
            ["FAILED:self-signed certificate"],
            [value for name, value in fields if name == "ssl-client-verify"],
        )
        self.assertIsNone(keycloak_nginx_trusted(fields))


class KeycloakApache(arrivals.ChainedStage):
    preset = "keycloak-apache"


class KeycloakHaproxy(arrivals.ChainedStage):
    preset = "keycloak-haproxy"


class Rfc9440(arrivals.UnverifiedStage):
    preset = "rfc9440"


class Xfcc(arrivals.PresetStage):
    preset = "xfcc"
    issued = True

    def test_hash(self) -> None:
        """``Hash`` is the SHA-256 of the same certificate."""
        made = self.make()
        read = envoy_grammar(self.ask(self.proxy, self.files(made, "client"))[1])
        self.assertEqual(Read(der(made), verdict=hashlib.sha256(der(made)).hexdigest()), read)

    def test_subject_of_pairs(self) -> None:
        """A subject that looks like another's ``Cert`` or ``Chain`` is read as no certificate.

        Keycloak cuts the value at every ``;``, and a subject is of the client's own choosing.
        """
        anyone = self.behind(recipe("servers/xfcc", "x509proxy.toml").replace('"ca"', '"any"'))
        victim = quote(self.make().certificate_pem.decode("ascii"), safe="")
        for key in ("Chain", "Cert"):
            for around in (
                f";{key}={victim};",
                f'";{key}="{victim}";',
                f",{key}={victim},",
                f'\\";{key}={victim};\\"',
            ):
                made = called(f"x{around}y")
                fields = self.ask(anyone, self.files(made, "mallory"))[1]
                self.assertEqual(self.everybody(Read(der(made))), self.reads(fields), around[:8])


class AspNet(arrivals.PresetStage):
    preset = "aspnet"

    def test_secret_names(self) -> None:
        """With two lines in the header-file the server reads either name, not the usual one."""
        names = [new_header_name(), new_header_name()]
        self.write("header.txt", "\n".join(names) + "\n")
        proxy = self.behind(recipe("servers/aspnet", "secret.toml"))
        made, victim = self.make(), self.make()
        forged = [
            (name, b64encode(der(victim)).decode("ascii")) for name in (*names, "X-Client-Cert")
        ]
        fields = self.ask(proxy, self.files(made, "client"), *forged)[1]
        self.assertEqual([Read(der(made))] * 2, [aspnet(fields, name) for name in names])
        self.assertIsNone(aspnet(fields))
        anonymous = self.ask(proxy, None, *forged)[1]
        self.assertEqual(
            [None] * 3, [aspnet(anonymous, name) for name in (*names, "X-Client-Cert")]
        )

    def test_new_name(self) -> None:
        """A name added to the header-file is sent from the next reload on, beside the old one."""
        old, new = new_header_name(), new_header_name()
        self.write("header.txt", old + "\n")
        proxy, client = self.behind(recipe("servers/aspnet", "secret.toml")), self.client()
        self.assertIsNone(aspnet(self.ask(proxy, client)[1], new))
        self.write("header.txt", f"{old}\n{new}\n")
        proxy.process.send_signal(signal.SIGHUP)
        end = time.monotonic() + 5
        while aspnet(fields := self.ask(proxy, client)[1], new) is None and time.monotonic() < end:
            time.sleep(0.1)
        self.assertEqual(
            [Read(der(client.made))] * 2, [aspnet(fields, name) for name in (old, new)]
        )


class Wso2(arrivals.PresetStage):
    preset = "wso2"


class Authlete(arrivals.UnverifiedStage):
    preset = "authlete"


class Janssen(arrivals.PresetStage):
    preset = "janssen"
    issued = True

    def test_plain(self) -> None:
        """The page's other form, of Apache httpd, replaces the preset's, and is read as well."""
        proxy = self.behind(recipe("servers/janssen", "plain.toml"))
        made = self.make()
        fields = self.ask(proxy, self.files(made, "client"))[1]
        self.assertEqual(Read(der(made)), janssen(fields))
        (value,) = [value for name, value in fields if name.lower() == "x-clientcert"]
        self.assertTrue(value.startswith("-----BEGIN CERTIFICATE----- MII"), value[:40])

    def test_older_headers_first(self) -> None:
        """The headers that Janssen reads before its own do not pass either."""
        made, text = self.make(), b64encode(der(self.make())).decode("ascii")
        forged = [
            ("X-Forwarded-Tls-Client-Cert", text),
            ("X_Forwarded_Client_Cert", "Cert=" + quote(text, safe="")),
        ]
        self.assertEqual(
            Read(der(made)), janssen(self.ask(self.proxy, self.files(made, "client"), *forged)[1])
        )


class Auth0(arrivals.PresetStage):
    preset = "auth0"
    backend = '"https://tenant.edge.tenants.us.auth0.com"'

    def test_words(self) -> None:
        """The word is ``SUCCESS`` for what the authority has issued, else ``FAILED``.

        Without a certificate nothing arrives.
        """
        issued, own = self.authority.client(), self.make()
        words = [
            auth0(self.ask(self.proxy, self.files(made, "client"))[1]) for made in (issued, own)
        ]
        self.assertEqual(
            [Read(der(issued), verdict="SUCCESS"), Read(der(own), verdict="FAILED")], words
        )
        self.assertEqual((401, ()), self.ask(self.proxy))

    def test_api_key(self) -> None:
        """The API key arrives once, with any value that a client sends in its place."""
        forged = [(name, "forged") for name in spellings("cname-api-key")]
        fields = self.ask(self.proxy, self.client(), *forged)[1]
        self.assertEqual(
            [API_KEY],
            [value for name, value in fields if name.lower().replace("_", "-") == "cname-api-key"],
        )

    def test_too_large(self) -> None:
        """A certificate whose header would be too large for Auth0 is 400, and does not arrive."""
        made = called("x" * 1300)
        self.assertLess(len(der(made)), 6144)
        self.assertEqual((400, ()), self.ask(self.proxy, self.files(made, "large")))


class Authentik(arrivals.PresetStage):
    preset = "authentik"
    issued = True
    backend = '"http://127.0.0.1:9000"'


class Traefik(arrivals.PresetStage):
    preset = "traefik"
    issued = True


class AwsAlb(arrivals.PresetStage):
    preset = "aws-alb"
    issued = True


class CloudFront(arrivals.PresetStage):
    preset = "cloudfront"
    issued = True


class Cloudflare(arrivals.PresetStage):
    preset = "cloudflare"
    issued = True


class IngressNginx(arrivals.PresetStage):
    preset = "ingress-nginx"
    issued = True


class OpenBao(arrivals.PresetStage):
    preset = "openbao"
    issued = True


class Index(SynchronousTestCase):
    def test_table(self) -> None:
        """The table names each preset with its headers, in the order of ``x509proxy presets``."""
        text = (DOCS / "servers" / "index.rst").read_text()
        rows = re.findall(r"^   \* - ([a-z0-9-]+)$", text.partition("**Name**")[0], re.MULTILINE)
        self.assertEqual(["preset", *PRESETS], rows)
        names = {
            plan.name.decode("ascii")
            for preset in PRESETS.values()
            for plan in preset.plans
            if plan.chain_index < 3
        }
        self.assertEqual([], [name for name in names if f"``{name}``" not in text and name])


class OwnHeaders(arrivals.ArrivalStage):
    """``[[headers]]``: for servers without a preset."""

    def test_underscores(self) -> None:
        """A name with underscores is sent as written; each twin of it is removed from requests."""
        proxy = self.behind(
            _OWN + 'preset = "none"\n[[headers]]\nname = "My_Client_Cert"\nformat = "base64-der"\n'
        )
        victim, mine = self.client(common_name="victim"), self.client(common_name="mine")
        forged = [
            (name, b64encode(der(victim.made)).decode("ascii"))
            for name in spellings("My_Client_Cert")
        ]
        fields = self.ask(proxy, mine, *forged)[1]
        self.assertEqual(
            ["My_Client_Cert"],
            [name for name, _ in fields if name.lower().replace("_", "-") == "my-client-cert"],
        )
        self.assertEqual(Read(der(mine.made)), aspnet(fields, "My_Client_Cert"))
        self.assertEqual(
            [],
            [
                name
                for name, _ in self.ask(proxy, None, *forged)[1]
                if name.lower().startswith("my")
            ],
        )

    def test_in_addition(self) -> None:
        """Other names come in addition to the preset's headers.

        A literal with or without a certificate.
        """
        verdict = '[[headers]]\nname = "X-Verdict"\nformat = "verdict"\n'
        literal = '[[headers]]\nname = "X-Via"\nformat = "literal"\nvalue = "edge 1"\n'
        proxy = self.behind(f'{_OWN}preset = "aspnet"\n{verdict}{literal}')
        mine = self.client()
        fields = self.ask(proxy, mine, ("X-Verdict", "TRUSTED"), ("x_via", "forged"))[1]
        self.assertEqual(Read(der(mine.made)), aspnet(fields))
        ours = [
            (name, value)
            for name, value in fields
            if name.lower() in ("x-verdict", "x-via", "x_via")
        ]
        self.assertEqual([("X-Verdict", "SELF_SIGNED"), ("X-Via", "edge 1")], ours)
        anonymous = [
            pair
            for pair in self.ask(proxy)[1]
            if pair[0] in ("X-Client-Cert", "X-Verdict", "X-Via")
        ]
        self.assertEqual([("X-Verdict", "NONE"), ("X-Via", "edge 1")], anonymous)

    def test_maximum(self) -> None:
        """``max-value-bytes`` for the preset's header: a larger value is 400, a smaller passes."""
        proxy = self.behind(
            _OWN + 'preset = "aspnet"\n[[headers]]\nname = "X-Client-Cert"\n'
            'format = "base64-der"\nmax-value-bytes = 800\n'
        )
        self.assertEqual((400, ()), self.ask(proxy, self.client(KeyKind.RSA)))
        mine = self.client(KeyKind.EC)
        self.assertEqual(Read(der(mine.made)), aspnet(self.ask(proxy, mine)[1]))
