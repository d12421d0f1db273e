"""Tests of :mod:`x509proxy.forwarding.header_rules`.

They are about the headers that are sent, and the errors for invalid settings.
"""

from __future__ import annotations

from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st

from tests.support import certificates as samples
from tests.support.files import FileTestCase
from x509proxy.certificates.client_certificate import Verdict
from x509proxy.forwarding.header_rules import (
    HeaderRules,
    contains_secret,
    identity,
    read_rules,
    redact,
)
from x509proxy.forwarding.presets import PRESETS, HeaderPlan
from x509proxy.forwarding.sanitizer import sanitize_response
from x509proxy.forwarding.secret_name import new_header_name
from x509proxy.http1.errors import HttpError
from x509proxy.http1.fields import Pairs, fold
from x509proxy.http1.messages import Framing, ResponseHead
from x509proxy.settings import Format, HeaderSettings, ProxySettings, SettingsError

CLIENT = samples.client()


def echoed(value: bytes, rules: HeaderRules) -> Pairs:
    """Return the fields that reach the client of a response that repeats ``value``."""
    head = ResponseHead(200, b"OK", [(b"X-Echo", value)], Framing.NONE)
    return sanitize_response(head, rules)[1]


class RulesTests(FileTestCase):
    def rules(self, *headers: dict[str, Any], **settings: Any) -> HeaderRules:
        own = tuple(HeaderSettings(**{"format": Format.PEM, **header}) for header in headers)
        return read_rules(ProxySettings(**{"preset": "none", "headers": own, **settings}))

    def refusal(self, *headers: dict[str, Any], **settings: Any) -> str:
        with self.assertRaises(SettingsError) as raised:
            self.rules(*headers, **settings)
        return str(raised.exception)

    def names(self, rules: HeaderRules) -> list[bytes]:
        return [plan.name for plan in rules.plans]


class Naming(RulesTests):
    def test_secret(self) -> None:
        """The secret name is used for the preset's first header, and is never revealed."""
        name = new_header_name()
        rules = self.rules(preset="connect2id", header_file=self.write(name))
        self.assertEqual([name.encode()], self.names(rules))
        self.assertTrue(contains_secret(b"Vary: " + name.lower().encode(), rules))
        self.assertNotIn(name, repr(rules))

    def test_rotation(self) -> None:
        """While a secret name is replaced, both are sent, removed from requests, and secret."""
        old, new = new_header_name(), new_header_name()
        rules = self.rules(preset="connect2id", header_file=self.write(f"{new}\n{old}\n"))
        pairs = identity(CLIENT, rules)
        self.assertEqual([new.encode(), old.encode()], [name for name, _ in pairs])
        self.assertEqual(1, len({value for _, value in pairs}))
        self.assertEqual({fold(old.encode()), fold(new.encode())}, rules.folds)
        for name in (old, new):
            self.assertEqual([], echoed(name.encode(), rules))

    def test_twice_the_same(self) -> None:
        """One name in two lines, in any spelling, is an error."""
        name = new_header_name()
        refusal = self.refusal(
            preset="connect2id", header_file=self.write(f"{name}\n{name.upper()}\n")
        )
        self.assertTrue(refusal.startswith("headers: found a name twice"), refusal)
        self.assertNotIn(name, refusal)

    def test_chosen(self) -> None:
        """A customary name stays, unless a secret one renames the first header."""
        self.assertEqual(
            [b"ssl-client-cert", b"ssl-client-verify"],
            self.names(self.rules(preset="keycloak-nginx")),
        )
        name = new_header_name()
        rules = self.rules(preset="keycloak-nginx", header_file=self.write(name))
        self.assertEqual([name.encode(), b"ssl-client-verify"], self.names(rules))

    def test_both(self) -> None:
        """A name together with a file with a name is an error."""
        refusal = self.refusal(preset="connect2id", header=new_header_name(), header_file="x")
        self.assertEqual(
            "header-file: found both header-file and header, expected one of them", refusal
        )


class Own(RulesTests):
    def test_in_place(self) -> None:
        """A header with the name of one of the preset's replaces it, in any spelling.

        One with another name is added.
        """
        rules = self.rules(
            {"name": "SSL_Client_Verify", "format": Format.VERDICT}, {"name": "X-Thumb"},
            preset="keycloak-nginx",
        )  # fmt: skip
        self.assertEqual([b"ssl-client-cert", b"SSL_Client_Verify", b"X-Thumb"], self.names(rules))
        self.assertEqual((b"SSL_Client_Verify", b"NONE"), identity(None, rules)[0])

    def test_underscores(self) -> None:
        """A name with underscores is sent unchanged, and its other spellings count as forged."""
        rules = self.rules({"name": "ssl_client_cert"})
        self.assertEqual(b"ssl_client_cert", identity(CLIENT, rules)[0][0])
        self.assertEqual({b"ssl-client-cert"}, rules.folds)

    def test_secret_name(self) -> None:
        """The name of a configured header can be secret as well."""
        name = new_header_name()
        rules = self.rules({"name_file": self.write(name)})
        self.assertEqual([name.encode()], self.names(rules))
        self.assertTrue(contains_secret(name[-32:].encode(), rules))

    def test_place(self) -> None:
        """A header for the rest of the client's chain is sent if there is a rest."""
        rules = self.rules({"name": "X-Issuer", "chain_index": 2, "format": Format.BASE64_DER})
        self.assertEqual((), identity(CLIENT, rules))
        self.assertEqual(
            ((b"X-Issuer", b"b25l"),), identity(attrs.evolve(CLIENT, chain=(b"one",)), rules)
        )

    def test_literal(self) -> None:
        """A literal is sent with every request, unchanged."""
        rules = self.rules({"name": "X-Edge", "format": Format.LITERAL, "value": "x509proxy 1"})
        self.assertEqual(((b"X-Edge", b"x509proxy 1"),), identity(None, rules))
        self.assertEqual(((b"X-Edge", b"x509proxy 1"),), identity(CLIENT, rules))

    def test_secret_literal(self) -> None:
        """A literal from a file, such as Auth0's API key, is sent.

        It is revealed neither to clients nor in logs.
        """
        key = "k3y-0123456789abcdef"
        rules = self.rules(
            {"name": "cname-api-key", "format": Format.LITERAL, "value_file": self.write(key)},
            preset="auth0",
        )
        self.assertIn((b"cname-api-key", key.encode()), identity(None, rules))
        self.assertEqual([], echoed(key.encode(), rules))
        self.assertNotIn(key, repr(rules))

    def test_maximum(self) -> None:
        """A certificate whose header exceeds the limit is rejected with both sizes.

        One at the limit is accepted.
        """
        size = len(identity(CLIENT, self.rules({"name": "X-Cert"}))[0][1])
        self.assertEqual(
            1, len(identity(CLIENT, self.rules({"name": "X-Cert", "max_value_bytes": size})))
        )
        with self.assertRaises(HttpError) as raised:
            identity(CLIENT, self.rules({"name": "X-Cert", "max_value_bytes": size - 1}))
        refusal = raised.exception.response
        self.assertEqual((400, "invalid_client"), (refusal.status, refusal.error))
        self.assertIn(f"{size} bytes, {size - 1} allowed", refusal.description)

    def test_verdicts(self) -> None:
        """A value for the verdict is sent beside the certificate, with one and without."""
        rules = self.rules({"name": "X-Cert"}, {"name": "X-Verdict", "format": Format.VERDICT})
        trusted = attrs.evolve(CLIENT, verdict=Verdict.TRUSTED)
        self.assertEqual([b"X-Cert", b"X-Verdict"], [name for name, _ in identity(trusted, rules)])
        self.assertEqual(((b"X-Verdict", b"NONE"),), identity(None, rules))


class Mistakes(RulesTests):
    def test_none(self) -> None:
        """Settings without any header are an error."""
        self.assertTrue(self.refusal().startswith("headers: found none, expected one or more"))

    def test_name(self) -> None:
        """A header has one name, from the settings or from a file."""
        self.assertEqual(
            "headers[0].name: found neither name and name-file, expected one of them",
            self.refusal({}),
        )
        both = self.refusal({"name": "X-Cert"}, {"name": "X-Other", "name_file": "x"})
        self.assertEqual(
            "headers[1].name: found both name and name-file, expected one of them", both
        )

    def test_ordinary(self) -> None:
        """Names of ordinary request fields, and those that the proxy writes, are rejected.

        This holds in any spelling.
        """
        names = [
            "Authorization",
            "HOST",
            "content_length",
            "Cookie",
            "Accept-Encoding",
            "X-Forwarded-For",
            "If-Match",
            "dpop",
        ]
        for name in [*names, "", "X Cert", "X-Cert:", "-X", "x\u00e9", "X-Cert\r\nA: b", "X" * 257]:
            refusal = self.refusal({"name": name})
            self.assertTrue(refusal.startswith("headers[0].name: found "), refusal)
            self.assertNotIn("\n", refusal)

    def test_secret_in_the_wrong_place(self) -> None:
        """A secret name with a typing error is not repeated."""
        name = new_header_name()
        self.assertNotIn(name, self.refusal({"name": f"{name}:"}))

    def test_twice(self) -> None:
        """Two headers whose names differ in case or in underscores are an error."""
        refusal = self.refusal({"name": "X-Cert"}, {"name": "x_cert"})
        self.assertTrue(refusal.startswith("headers: found a name twice"), refusal)

    def test_value(self) -> None:
        """A literal has one value of visible ASCII; no other format has a value."""
        literal = {"name": "X-Edge", "format": Format.LITERAL}
        self.assertIn("found neither value and value-file", self.refusal(literal))
        self.assertIn(
            "found both value and value-file",
            self.refusal({**literal, "value": "a", "value_file": "b"}),
        )
        for value in ("", " a", "a\r\nb", "\u00e9", "a\0"):
            self.assertIn("headers[0].value: found ", self.refusal({**literal, "value": value}))
        for field, key in (("value", "value"), ("value_file", "value-file")):
            self.assertEqual(
                f"headers[0].{key}: found one, expected none for format pem",
                self.refusal({"name": "X-A", field: "a"}),
            )

    def test_short_secret(self) -> None:
        """A short secret, which harmless responses contain, is rejected and not repeated."""
        literal = {
            "name": "X-Edge",
            "format": Format.LITERAL,
            "value_file": self.write("hunter2-hunter2"),
        }
        refusal = self.refusal(literal)
        self.assertTrue(refusal.startswith("headers[0].value-file: found a short secret"), refusal)
        self.assertNotIn("hunter2", refusal)
        for hollow in ("-" * 16, "a-b-c-d-e-f-g-h-i"):
            # Letters and digits count: a secret without any would be found in every text.
            refusal = self.refusal({**literal, "value_file": self.write(hollow)})
            self.assertTrue(
                refusal.startswith("headers[0].value-file: found a short secret"), refusal
            )

    def test_place(self) -> None:
        """Formats of the whole chain have no index."""
        refusal = self.refusal({"name": "X-Cert", "format": Format.XFCC, "chain_index": 2})
        self.assertEqual("headers[0].chain-index: found 2, expected 1 for format xfcc", refusal)

    def test_files(self) -> None:
        """A file with a secret is private, and has one line."""
        self.assertIn(
            "found mode 0644", self.refusal({"name_file": self.write(new_header_name(), 0o644)})
        )
        self.assertIn("found no lines", self.refusal({"name_file": self.write("\n")}))


class Any_(RulesTests):  # noqa: N801 - the word is taken
    @given(
        st.sampled_from(sorted(set(PRESETS) - {"none"})),
        st.sampled_from([None, CLIENT]),
        st.booleans(),
    )
    def test_one_value_a_name(self, preset: str, certificate: Any, chain: bool) -> None:
        """No preset sends two names that the most lenient server reads alike (L1)."""
        rules = HeaderRules.for_preset(PRESETS[preset], b"X-Secret")
        if certificate is not None and chain:
            certificate = attrs.evolve(certificate, chain=(b"one", b"two"))
        names = [fold(name) for name, _ in identity(certificate, rules)]
        self.assertEqual(len(set(names)), len(names))
        self.assertLessEqual(set(names), rules.folds)

    def test_plans_are_silent(self) -> None:
        """Neither names nor values appear in the text of a plan, or of its settings."""
        self.assertNotIn(
            "secret", repr(HeaderSettings(format=Format.LITERAL, name="secret", value="secret"))
        )
        self.assertNotIn("secret", repr(HeaderPlan(Format.LITERAL, b"secret", value=b"secret")))


class Texts(RulesTests):
    def test_no_secret(self) -> None:
        """Rules without a secret name find none in any text."""
        self.assertFalse(contains_secret(b"Client-Cert: a", self.rules(preset="rfc9440")))

    def test_redacted(self) -> None:
        """A log line has dots for the random part of the secret name, in each spelling."""
        name = new_header_name()
        rules = self.rules(preset="connect2id", header_file=self.write(name))
        line = f"{name} and {name.lower()} and {name.upper().replace('-', '_')} end"
        told = redact(line, rules)
        self.assertEqual(3, told.count("..."))
        self.assertNotIn(name[-32:].lower(), told.lower())
        self.assertTrue(told.endswith("... end"), told)
        self.assertEqual("nothing", redact("nothing", rules))


class Sources(RulesTests):
    def test_missing(self) -> None:
        """A preset with a secret name needs one."""
        sentence = self.refusal(preset="connect2id")
        self.assertTrue(sentence.startswith("header-file: found none, expected a file"), sentence)

    def test_two(self) -> None:
        """The secret name is in the file or in the settings, not in both."""
        name = new_header_name()
        sentence = self.refusal(preset="connect2id", header=name, header_file=self.write(name))
        self.assertIn("found both header-file and header, expected one of them", sentence)
        self.assertNotIn(name, sentence)

    def test_fixed_names(self) -> None:
        """A preset with fixed header names takes no secret name."""
        for key, value in (("header", new_header_name()), ("header_file", "/header.txt")):
            sentence = self.refusal(preset="rfc9440", **{key: value})
            expected = f"{key.replace('_', '-')}: found one, expected none, since preset rfc9440"
            self.assertTrue(sentence.startswith(expected), sentence)
