"""Tests of :mod:`x509proxy.config.warnings`.

The warnings at each start stand in ``test_configuration``.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.trial.unittest import SynchronousTestCase

from tests.support.certificates import pair
from tests.support.files import FileTestCase
from tests.support.pem import ISSUER, pem
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.config.loader import Configuration, load_configuration, override
from x509proxy.config.warnings import advice_for, validity_errors
from x509proxy.forwarding.secret_name import new_header_name
from x509proxy.settings import ProxySettings, Usage

ROOT = Path(__file__).parents[3]


class Page(SynchronousTestCase):
    def test_all(self) -> None:
        """The page about ``check`` names each key that a warning or advice begins with."""
        source = (ROOT / "x509proxy" / "config" / "warnings.py").read_text()
        page = (ROOT / "docs" / "operations" / "check.rst").read_text()
        keys = set(re.findall(r'f?"([a-z][a-z.-]+)(?:\[\{\w+\}\][a-z.-]*)?: ', source))
        self.assertLessEqual(
            {
                "backend",
                "header",
                "ca",
                "admin.allow-remote",
                "access-log",
                "client.max-head-bytes",
            },
            keys,
        )
        self.assertEqual(set(), {key for key in keys if f"``{key}``" not in page})


class Advice(FileTestCase):
    QUIET: ClassVar[dict[str, Any]] = {
        "access_log": "-",
        "max_certificate_bytes": 2048,
        "client": {"max-head-bytes": 4096},
    }

    def setUp(self) -> None:
        super().setUp()
        made = make_self_signed(KeyKind.EC, "localhost", server=True)
        self.pair = self.write(made.certificate_pem + made.key_pem, name="server.pem")
        self.name = new_header_name()
        self.header = self.write(self.name, name="header.txt")

    def advice(self, **settings: Any) -> list[str]:
        return list(advice_for(self.load(**settings)))

    def warnings(self, **settings: Any) -> list[str]:
        return [*self.load(**settings).warnings]

    def load(self, **settings: Any) -> Configuration:
        needed = {
            "certificate": self.pair,
            "header_file": self.header,
            "backend": ["http://127.0.0.1:8080"],
            **self.QUIET,
        }
        given = {name: value for name, value in {**needed, **settings}.items() if value is not None}
        listen = () if settings.get("listen") == [] else ("tcp:8443",)
        return load_configuration(override(ProxySettings(listen=listen), given))

    def test_nothing(self) -> None:
        """A complete configuration has no note."""
        self.assertEqual([], self.advice())

    def test_used_elsewhere(self) -> None:
        """A secret name that also stands where it is logged is worth a note, without the name."""
        for key, value in (
            ("access_log", f"/var/log/{self.name}.log"),
            ("backend", [f"http://127.0.0.1/{self.name.lower()}"]),
        ):
            (sentence,) = self.advice(**{key: value})
            self.assertTrue(
                sentence.startswith(f"{key.replace('_', '-')}: contains the secret header name"),
                sentence,
            )
            self.assertNotIn(self.name.lower(), sentence.lower())

    def test_kept_connections(self) -> None:
        """A public name that is sent on kept connections is worth a note."""
        notes = self.advice(preset="rfc9440", header_file=None)
        self.assertIn("upstream.keep-alive: true, and the header's name is public", str(notes))
        own = {"keep-alive": False}
        quiet = self.advice(preset="rfc9440", header_file=None, upstream=own)
        self.assertNotIn("keep-alive", str([*quiet, *self.advice()]))

    def test_uncovered_methods(self) -> None:
        """A requirement for some methods is worth a note; opened preflights are not."""
        some = {"methods": ["GET", "POST"], "client-certificate": "required"}
        (note,) = self.advice(rules=[some])
        self.assertIn("rules[0].methods: does not hold for DELETE, PATCH, PUT, and", note)
        opened = {"methods": ["OPTIONS"], "client-certificate": "optional"}
        whole = {"client-certificate": "required"}
        every = {"methods": ["GET", "POST", "PUT", "PATCH", "DELETE"], **whole}
        for rules in ([whole, opened], [every]):
            self.assertEqual([], self.advice(rules=rules))

    def test_public_names(self) -> None:
        """A public name that is sent over a network to a server is worth a note."""
        own: dict[str, Any] = {"keep-alive": False}
        known: dict[str, Any] = {"preset": "rfc9440", "header_file": None, "upstream": own}
        far = "https://192.0.2.1"
        (sentence,) = self.advice(
            **known, backend=[far, "http://127.0.0.1:1", "https://localhost", "unix:/run/as.sock"]
        )
        self.assertTrue(
            sentence.startswith(f"backend: {far} trusts a header whose name is public"), sentence
        )
        self.assertEqual(
            [],
            self.advice(**known | {"upstream": own | {"certificate": self.pair}}, backend=[far]),
        )
        self.assertEqual([], self.advice(backend=[far]))

    def test_larger_than_the_server(self) -> None:
        """Heads that this proxy takes and the server does not are worth a note."""
        (sentence,) = self.advice(client={"max-head-bytes": 8192})
        # 2732 bytes of base64, 52 of the armour, 53 of the name, 4 of the rest.
        self.assertEqual(
            "client.max-head-bytes: found heads of up to 11033 bytes with the certificate, "
            "expected "
            "8192: Connect2id server rejects more with 400, unless maxHttpRequestHeaderSize is "
            "11033 or more there (docs/servers/connect2id.rst)",
            sentence,
        )
        self.assertEqual([], self.advice(client={"max-head-bytes": 8192}, preset="aspnet"))
        self.assertEqual([], self.advice(client={}), "a default asks for nothing")

    def test_status_of_the_server(self) -> None:
        """The note has the response and the page of each server, such as 431 for Node.js."""
        for preset, status, setting in (
            ("oidc-provider", 431, "--max-http-header-size"),
            ("aspnet", 431, "MaxRequestHeadersTotalSize"),
            ("wso2", 400, "maxHttpHeaderSize"),
            ("janssen", 431, "requestHeaderSize"),
        ):
            header = None if preset == "janssen" else self.header
            (sentence,) = self.advice(
                client={"max-head-bytes": 32768},
                upstream={"keep-alive": False},
                preset=preset,
                header_file=header,
            )
            self.assertIn(f" rejects more with {status}, unless {setting} is ", sentence)
            self.assertTrue(sentence.endswith(f"(docs/servers/{preset}.rst)"), sentence)

    def too_large(self, preset: str, **settings: Any) -> str:
        """Return the key types that ``check`` warns of, with the rest of the sentence."""
        header = self.header if preset in ("connect2id", "tomcat-sslvalve") else None
        needed = {
            "max_certificate_bytes": 8192, "header_file": header, "preset": preset,
            "key_types": ["ec", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87"],
        }  # fmt: skip
        found = [
            sentence.removeprefix("key-types: certificates of ")
            for sentence in self.advice(**{**needed, **settings})
            if sentence.startswith("key-types: ")
        ]
        return "".join(found)

    def test_ml_dsa_larger_than_the_server(self) -> None:
        """Key types whose certificates do not fit into a server's head are named."""
        for preset, types, setting in (
            ("connect2id", "ml-dsa-87", "8192 bytes unless maxHttpRequestHeaderSize is"),
            (
                "tomcat-sslvalve",
                "ml-dsa-44, ml-dsa-65, ml-dsa-87",
                "8192 bytes unless maxHttpRequestHeaderSize is",
            ),
            ("wso2", "ml-dsa-65, ml-dsa-87", "8192 bytes unless maxHttpHeaderSize is"),
            ("janssen", "ml-dsa-65, ml-dsa-87", "8192 bytes unless requestHeaderSize is"),
            ("auth0", "ml-dsa-44, ml-dsa-65, ml-dsa-87", "accepts, less (docs"),
        ):
            sentence = self.too_large(preset)
            self.assertTrue(sentence.startswith(f"{types} need a larger head"), sentence)
            self.assertIn(setting, sentence)
            self.assertIn("docs/post-quantum.rst", sentence)
            self.assertIn(f"docs/servers/{preset}.rst", sentence)

    def test_ml_dsa_that_fits(self) -> None:
        """There is no note where they fit, where no limit is known, or where they are rejected."""
        for preset in ("oidc-provider", "aspnet", "keycloak-rfc9440", "rfc9440"):
            self.assertEqual("", self.too_large(preset), preset)
        self.assertEqual("", self.too_large("connect2id", key_types=["ec", "ml-dsa-65"]))
        self.assertEqual("", self.too_large("connect2id", max_certificate_bytes=6144))
        default = [key_type.value for key_type in ProxySettings().key_types]
        self.assertEqual("", self.too_large("connect2id", key_types=default))
        thumbprint = {"format": "thumbprint", "name": "X-Client-Thumbprint"}
        self.assertEqual("", self.too_large("none", headers=[thumbprint]))
        literal = {"format": "literal", "name": "X-Proxy", "value": "here"}
        self.assertIn("ml-dsa-87 need", self.too_large("connect2id", headers=[literal]))

    def test_ignored_usage(self) -> None:
        """Each start warns of servers that can act as clients, and of an idle setting."""
        (sentence,) = self.warnings(usage="ignore")
        self.assertIn("usage: ignore has no effect without ca", sentence)
        made = pair(subject="CN=authority", ca=True)
        authority = self.write(made.pem, name="ca.pem")
        (sentence,) = self.warnings(usage="ignore", ca=authority, trust="ca")
        self.assertIn("each of those servers can authenticate as a client", sentence)
        self.assertEqual([], self.warnings(usage="enforce", ca=authority, trust="ca"))
        self.assertIs(Usage.IGNORE, self.load(usage="ignore").trusted.usage)
        self.assertIs(
            Usage.IGNORE, self.load(usage="ignore", ca=authority, trust="ca").trusted.usage
        )

    def test_ml_dsa_server(self) -> None:
        """A server's certificate with an ML-DSA key shuts out most clients, so each start warns."""
        made = make_self_signed(KeyKind.ML_DSA_65, "localhost", server=True)
        path = self.write(made.certificate_pem + made.key_pem, name="ml-dsa.pem")
        (sentence,) = self.warnings(certificate=path)
        self.assertIn("certificate: has an ML-DSA key", sentence)

    def test_admin(self) -> None:
        """An admin listener that other hosts can reach is reported."""
        (sentence,) = self.advice(admin={"listen": "tcp:9443", "allow-remote": True})
        self.assertTrue(
            sentence.startswith(
                "admin.allow-remote: anyone who can reach the admin listener can read it"
            ),
            sentence,
        )
        self.assertEqual([], self.advice(admin={"listen": "tcp:9443:interface=127.0.0.1"}))

    def test_hopeless_rules(self) -> None:
        """A rule that needs a certificate that no listener requests is worth a warning."""
        rules = [
            {"path": "/token", "client-certificate": "required"},
            {"path": "/a", "client-certificate": "optional"},
        ]
        listener = {"endpoint": "tcp:1", "client-certificate": "optional"}
        (sentence,) = self.warnings(rules=rules, client_certificate="none")
        self.assertTrue(
            sentence.startswith("rules[0].client-certificate: required, and no listener requests"),
            sentence,
        )
        self.assertTrue(sentence.endswith("so every request gets 401 at /token"), sentence)
        (sentence,) = self.warnings(
            rules=[{"path": f"/{self.name}", "client-certificate": "required"}],
            client_certificate="none",
        )
        self.assertTrue(sentence.endswith("gets 401 at /…"), sentence)
        none = {"listeners": [{**listener, "client-certificate": "none"}], "listen": []}
        self.assertEqual(1, len(self.warnings(rules=rules, **none, client_certificate="required")))
        self.assertEqual(
            [], self.warnings(rules=rules, listeners=[listener], client_certificate="none")
        )
        self.assertEqual([], self.warnings(rules=rules))

    def test_hopeless_tokens(self) -> None:
        """So is a rule that needs bound tokens: without a certificate none of them fits."""
        settings = {"tokens": {"level": "unverified"}, "client_certificate": "none"}
        rules = [{"path": "/api", "token": "bound"}, {"path": "/b", "token": "when-bound"}]
        found, level = self.warnings(rules=rules, **settings)
        self.assertEqual(
            "rules[0].token: bound, and no listener requests a certificate, "
            "so every request gets 401 at /api",
            found,
        )
        self.assertTrue(level.startswith("tokens.level: "), level)

    def test_tokens(self) -> None:
        """Each start warns that unverified tokens need a back end that verifies them."""
        tokens = {"level": "unverified"}
        rules = [{"path": "/api", "token": "when-bound"}]
        self.assertEqual(
            [
                "tokens.level: unverified reads cnf without checking the signature; "
                "this is safe only while the back end verifies the token"
            ],
            self.warnings(rules=rules, tokens=tokens),
        )
        for unused in ([], [{"path": "/api", "token": "ignored"}]):
            *_, sentence = self.warnings(rules=unused, tokens=tokens)
            self.assertEqual("tokens: has no effect, since no rule has token", sentence)
        signed = {"level": "jwt", "issuer": "https://as.example", "audience": ["a"]}
        self.assertEqual([], self.warnings(rules=rules, tokens=signed))

    def test_tokens_of_others(self) -> None:
        """A check asks whether tokens of other APIs, and ID tokens, are kept away."""
        rules = [{"path": "/api", "token": "bound"}]
        asked = {"level": "introspection", "introspection-url": "https://a/b", "client-id": "c"}
        asked["client-secret-file"] = self.write("secret-secret", name="secret.txt")
        (sentence,) = self.advice(rules=rules, tokens=asked)
        self.assertEqual(
            "tokens.audience: none, so each active token of the server is accepted, "
            "also one that was issued for another API",
            sentence,
        )
        self.assertEqual([], self.advice(rules=rules, tokens={**asked, "audience": ["a"]}))
        signed = {"level": "jwt", "issuer": "https://a", "audience": ["a"]}
        self.assertEqual([], self.advice(rules=rules, tokens=signed))
        for kind in ("JWT", "application/jwt"):
            (sentence,) = self.advice(rules=rules, tokens={**signed, "types": ["at+jwt", kind]})
            self.assertEqual(
                "tokens.types: ID tokens may have the typ JWT too, so no ID token may have "
                "a value of tokens.audience",
                sentence,
            )
        self.assertEqual(1, len(self.warnings(rules=rules, tokens={"level": "unverified"})))
        self.assertEqual([], self.advice(rules=rules, tokens={"level": "unverified"}))

    def test_large_claims(self) -> None:
        """The claims count for the head that the server takes."""
        tokens = {"level": "jwt", "issuer": "https://a", "audience": ["a"]}
        more = {"rules": [{"path": "/api", "token": "bound"}], "tokens": tokens}
        for size, count in ((100, 0), (4000, 1)):
            own = {"format": "token-claims", "name": "X-My", "max-value-bytes": size}
            sentences = self.advice(**more, headers=[own], client={"max-head-bytes": 4400})
            self.assertEqual(count, len(sentences), sentences)

    def test_token_certificate(self) -> None:
        """The expiry of the certificate for the authorization server is reported too."""
        made = make_self_signed(KeyKind.EC, "api", 3)
        tokens = {
            "level": "introspection", "introspection-url": "https://as.example", "client-id": "a",
            "certificate": self.write(made.certificate_pem + made.key_pem, 0o600, "api.pem"),
        }  # fmt: skip
        rules = [{"path": "/api", "token": "bound"}]
        (sentence,) = self.warnings(rules=rules, tokens=tokens)
        self.assertTrue(sentence.startswith("tokens.certificate: expires soon"), sentence)

    def test_no_log(self) -> None:
        """Without an access log rejections are not recorded."""
        (sentence,) = self.advice(access_log=None)
        self.assertTrue(sentence.startswith("access-log: none"), sentence)


class AtStart(Advice):
    def made(self, begin: int, end: int) -> str:
        """Write a server's certificate that is valid from and to so many days from now."""
        found = pair(subject="CN=localhost", usage=ExtendedKeyUsageOID.SERVER_AUTH)
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder(
                found.certificate.issuer,
                found.certificate.subject,
                found.certificate.public_key(),
                1,
            )
            .not_valid_before(now + timedelta(begin))
            .not_valid_after(now + timedelta(end))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("a")]), critical=False)
        )
        made = builder.sign(found.private_key, hashes.SHA256())
        return self.write(pem(made, found.private_key), name="dated.pem")

    def test_header(self) -> None:
        """A secret name in the settings themselves can be read by others."""
        [warning] = self.warnings(header=self.name, header_file=None)
        self.assertRegex(warning, r"\Aheader: .*process list")
        self.assertNotIn(self.name, warning)

    def test_idle_authorities(self) -> None:
        """Authorities decide nothing while no client is asked to come from them."""
        ca = self.write(pem(ISSUER), name="ca.pem")
        [warning] = self.warnings(ca=ca, trust="any")
        self.assertRegex(warning, r"\Aca: .* while trust is any;")

    def test_remote_backend(self) -> None:
        """Plain HTTP to another host can be read and forged on the way."""
        [warning] = self.warnings(backend=["http://192.0.2.1:8080"])
        self.assertTrue(warning.startswith("backend: http://192.0.2.1:8080 is neither"), warning)

    def test_open_listener(self) -> None:
        """A PROXY header from any address can name any address."""
        listener = {
            "endpoint": "tcp:1",
            "proxy-protocol": "required",
            "trusted-proxies": ["0.0.0.0/0"],
        }
        [warning] = self.warnings(listeners=[listener])
        self.assertTrue(warning.startswith("listeners.trusted-proxies: tcp:1 "), warning)

    def test_long_times(self) -> None:
        """More than an hour, where the default is less, is taken for milliseconds."""
        listener = {"endpoint": "tcp:1"}
        self.assertEqual(
            [
                "client.idle-timeout: found 60000 seconds, expected an hour or less; "
                "60000 milliseconds are 60",
                "upstream.read-timeout: found 3600.5 seconds, expected an hour or less; "
                "3600.5 milliseconds are 3.6005",
            ],
            sorted(
                self.warnings(
                    client={"idle-timeout": 60000, "max-connection-age": 86400},
                    upstream={"read-timeout": 3600.5, "connect-timeout": 3600},
                    listeners=[listener],
                )
            ),
        )

    def test_dates(self) -> None:
        """A certificate that is not valid yet, that has expired or expires soon is named."""
        for begin, end, expected in (
            (1, 90, " is not valid before "),
            (-9, -1, " expired at "),
            (-9, 1, " expires soon, at "),
        ):
            path = self.made(begin, end)
            found = self.load(certificate=path, private_key=path)
            [warning] = found.warnings
            self.assertIn(f"certificate:{expected}", warning)
            errors = list(validity_errors(found, time.time()))
            self.assertEqual([] if "soon" in expected else [warning], errors)
