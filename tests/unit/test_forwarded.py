"""Tests of :mod:`x509proxy.forwarded`."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from base64 import urlsafe_b64encode
from typing import Any

import attrs
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support import certificates as samples
from x509proxy.certificates.client_certificate import Verdict
from x509proxy.forwarded import (
    KEY,
    MAX_VALUE_BYTES,
    CertificateRequiredError,
    ForwardedClient,
    ForwardedFieldError,
    ForwardedFields,
    Peer,
    forwarded_client,
    require_certificate,
)
from x509proxy.forwarding.certificate_formats import encode
from x509proxy.settings import Format

PROXY = Peer("127.0.0.1")
CLIENT = samples.client("CN=client")
((_, VALUE),) = encode(CLIENT, Format.PEM, b"X-Cert")
FIELDS = ForwardedFields(certificate="Sec-Secret-Cert", format="pem")
ALL = ForwardedFields(
    certificate="Sec-Secret-Cert", format="pem", verdict="X-Verdict", claims="X-Claims"
)


def claims(value: object) -> bytes:
    return urlsafe_b64encode(json.dumps(value).encode("ascii")).rstrip(b"=")


class Reading(SynchronousTestCase):
    def read(self, *pairs: tuple[bytes, bytes], fields: ForwardedFields = FIELDS) -> Any:
        return fields.read([(b"Host", b"a"), *pairs], PROXY)

    def rejected(self, *pairs: tuple[bytes, bytes], fields: ForwardedFields = FIELDS) -> str:
        return str(self.assertRaises(ForwardedFieldError, self.read, *pairs, fields=fields))

    def test_certificate(self) -> None:
        """The certificate and its thumbprint are those that the proxy has sent."""
        client = self.read((b"sec-secret-cert", VALUE))
        self.assertEqual(CLIENT.der, client.certificate.public_bytes(Encoding.DER))
        self.assertEqual(CLIENT.thumbprint, client.thumbprint)
        self.assertEqual((None, None), (client.verdict, client.claims))

    def test_own(self) -> None:
        """A field of the proxy is found in any spelling, and no other one is."""
        self.assertTrue(ALL.is_own(b"SEC_secret.cert"))
        self.assertTrue(ALL.is_own(b"x-claims"))
        self.assertFalse(FIELDS.is_own(b"X-Claims"))

    def test_absent(self) -> None:
        """A request without the field has no client."""
        self.assertIs(None, self.read())

    def test_doubled(self) -> None:
        """Two fields of the name are rejected, whichever spelling a CGI-like server would merge."""
        for twin in (b"sec-secret-cert", b"SEC_SECRET_CERT", b"sec.secret-cert"):
            self.assertIn("twice", self.rejected((b"Sec-Secret-Cert", VALUE), (twin, VALUE)))

    def test_malformed(self) -> None:
        """A value of another format, or no certificate, is rejected without showing the value."""
        for value in (b"", b"x", VALUE[:-30], VALUE + b"," + VALUE, VALUE.replace(b"MII", b"MIA")):
            self.assertEqual(
                "certificate: found a malformed value, expected the format pem",
                self.rejected((b"Sec-Secret-Cert", value)),
            )

    def test_malformed_extension(self) -> None:
        """A certificate with a malformed extension is rejected before the application reads it."""
        broken = samples.malformed_extension()
        ((_, value),) = encode(attrs.evolve(CLIENT, der=broken), Format.PEM, b"X-Cert")
        self.assertIn("malformed", self.rejected((b"Sec-Secret-Cert", value)))

    def test_size(self) -> None:
        """A value of the largest size is parsed; one octet more is rejected unread."""
        self.assertIn("malformed", self.rejected((b"Sec-Secret-Cert", b"A" * MAX_VALUE_BYTES)))
        self.assertEqual(
            f"certificate: found {MAX_VALUE_BYTES + 1} bytes, expected {MAX_VALUE_BYTES} or fewer",
            self.rejected((b"Sec-Secret-Cert", b"A" * (MAX_VALUE_BYTES + 1))),
        )

    def test_verdict(self) -> None:
        """The verdict is that of the proxy."""
        client = self.read((b"Sec-Secret-Cert", VALUE), (b"X-Verdict", b"TRUSTED"), fields=ALL)
        self.assertIs(Verdict.TRUSTED, client.verdict)
        self.assertIs(None, self.read((b"X-Verdict", b"NONE"), fields=ALL))

    def test_verdict_contradicts(self) -> None:
        """A missing, unknown, joined or contradicting verdict is rejected."""
        certificate = (b"Sec-Secret-Cert", VALUE)
        for pairs in (
            [],
            [certificate],
            [certificate, (b"X-Verdict", b"NONE")],
            [certificate, (b"X-Verdict", b"TRUSTED,TRUSTED")],
            [certificate, (b"X-Verdict", b"trusted")],
            [certificate, (b"X-Verdict", b"")],
            [(b"X-Verdict", b"TRUSTED")],
        ):
            self.assertIn("verdict: ", self.rejected(*pairs, fields=ALL))

    def test_claims(self) -> None:
        """Verified claims arrive with or without a certificate, and cannot be changed."""
        for pairs in (
            [(b"X-Verdict", b"NONE")],
            [(b"Sec-Secret-Cert", VALUE), (b"X-Verdict", b"TRUSTED")],
        ):
            client = self.read(*pairs, (b"X-Claims", claims({"sub": "a"})), fields=ALL)
            self.assertEqual({"sub": "a"}, client.claims)
            with self.assertRaises(TypeError):
                client.claims["sub"] = "b"

    def test_malformed_claims(self) -> None:
        """Claims that are not base64url of one JSON object are rejected."""
        for value in (b"", b"%", b"e30=", b"A", claims([]), claims("a"), b"\xff", b"e30,e30"):
            self.assertEqual(
                "claims: found a malformed value, expected base64url of JSON",
                self.rejected((b"X-Verdict", b"NONE"), (b"X-Claims", value), fields=ALL),
            )

    def test_deep_claims(self) -> None:
        """Claims that are nested too deeply for the JSON parser are rejected."""
        deep = urlsafe_b64encode(b"[" * 18000).rstrip(b"=")
        self.rejected((b"X-Verdict", b"NONE"), (b"X-Claims", deep), fields=ALL)

    def test_log(self) -> None:
        """The log has the reason for a rejection, and neither the name nor the value."""
        with self.assertLogs("x509proxy.forwarded", logging.WARNING) as log:
            self.rejected((b"Sec-Secret-Cert", b"private"))
        self.assertIn("certificate: found a malformed value", log.output[0])
        self.assertNotIn("private", log.output[0])
        self.assertNotIn("secret", log.output[0].lower())

    @given(st.binary(max_size=100), st.binary(max_size=100), st.binary(max_size=100))
    def test_any_values(self, certificate: bytes, verdict: bytes, value: bytes) -> None:
        """Any values are read or rejected, and never another exception."""
        pairs = [(b"Sec-Secret-Cert", certificate), (b"X-Verdict", verdict), (b"X-Claims", value)]
        with self.assertRaises(ForwardedFieldError):
            ALL.read(pairs, PROXY)


class Peers(SynchronousTestCase):
    def accepts(self, peer: Peer, *proxies: str) -> bool:
        fields = ForwardedFields(certificate="X-Mine", format="pem", proxies=proxies)
        try:
            return fields.read([(b"X-Mine", VALUE)], peer) is not None
        except ForwardedFieldError as error:
            self.assertIn("proxies: found a field from", str(error))
            return False

    def test_default(self) -> None:
        """Unless told otherwise, the proxy is on this machine."""
        for address, expected in (
            ("", True), ("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True),
            ("127.0.0.2", False), ("192.0.2.1", False), ("localhost.example", False),
        ):  # fmt: skip
            self.assertEqual(expected, self.accepts(Peer(address), "unix", "127.0.0.1", "::1"))
            default = ForwardedFields(certificate="X-Mine", format="pem")
            self.assertEqual(("unix", "127.0.0.1", "::1"), tuple(map(str_of, default.proxies)))

    def test_networks(self) -> None:
        """A network admits its addresses alone."""
        self.assertTrue(self.accepts(Peer("10.1.2.3"), "10.1.0.0/16"))
        self.assertFalse(self.accepts(Peer("10.2.2.3"), "10.1.0.0/16"))
        self.assertFalse(self.accepts(Peer(""), "10.1.0.0/16"))
        self.assertFalse(self.accepts(Peer("fd00::1"), "10.1.0.0/16"))

    def test_certificate(self) -> None:
        """A thumbprint admits the peer with that TLS client certificate, from any address."""
        other = samples.client("CN=other")
        self.assertTrue(self.accepts(Peer("192.0.2.1", CLIENT.der), CLIENT.thumbprint))
        self.assertFalse(self.accepts(Peer("192.0.2.1", other.der), CLIENT.thumbprint))
        self.assertFalse(self.accepts(Peer("192.0.2.1"), CLIENT.thumbprint))

    def test_none(self) -> None:
        """Without proxies every request with the field is rejected."""
        self.assertFalse(self.accepts(PROXY))

    def test_without_field(self) -> None:
        """Another peer without the field is an ordinary request without a client."""
        self.assertIs(None, ALL.read([(b"Host", b"a")], Peer("192.0.2.1")))


def str_of(entry: object) -> str:
    return str(entry).removesuffix("/32").removesuffix("/128")


class Arguments(SynchronousTestCase):
    def rejected(self, **changes: Any) -> str:
        arguments: dict[str, Any] = {"certificate": "X-Mine", "format": "pem", **changes}
        return str(self.assertRaises(ValueError, ForwardedFields, **arguments))

    def test_names(self) -> None:
        """An empty, odd or repeated name is rejected without showing it."""
        self.assertEqual(
            "certificate: found an empty name, expected the header's name",
            self.rejected(certificate=""),
        )
        for name in ("X Secret", "X-Sécret", "Secret:", "-Secret", "S" * 257):
            sentence = self.rejected(certificate=name)
            self.assertIn("expected letters, digits, - and _", sentence)
            self.assertNotIn("cret", sentence)
        self.assertIn("found a name twice", self.rejected(verdict="x_mine"))

    def test_format(self) -> None:
        """A format without a whole certificate is rejected with the list of the others."""
        expected = "expected one of pem, pem-spaces, pem-url, base64-der, rfc9440, xfcc"
        self.assertEqual(f"format: found 'subject', {expected}", self.rejected(format="subject"))
        self.assertIs(Format.XFCC, ForwardedFields(certificate="A", format=Format.XFCC).format)

    def test_proxies(self) -> None:
        """A text in place of a list, a name and a network with host bits are rejected."""
        self.assertIn(
            "found the text '10.0.0.1', expected a list", self.rejected(proxies="10.0.0.1")
        )
        for entry in ("localhost", "10.0.0.1/8", "", "a" * 42):
            self.assertIn(f"proxies: found {entry!r}", self.rejected(proxies=[entry]))

    def test_repr(self) -> None:
        """The names of headers, which may be secret, are not in the text of the value."""
        self.assertNotIn("Secret", repr(ALL))


class Client(SynchronousTestCase):
    def test_bound(self) -> None:
        """A token is bound to the client if its x5t#S256 is that of the certificate."""
        client = ForwardedClient(None, CLIENT.thumbprint)
        self.assertTrue(client.is_bound({"cnf": {"x5t#S256": CLIENT.thumbprint}}))
        tokens: tuple[dict[str, Any], ...] = (
            {}, {"cnf": {}}, {"cnf": "a"}, {"cnf": {"x5t#S256": None}}, {"cnf": {"x5t#S256": ""}},
            {"cnf": {"x5t#S256": "é"}}, {"cnf": {"x5t#S256": CLIENT.thumbprint + "="}},
        )  # fmt: skip
        for token in tokens:
            self.assertFalse(client.is_bound(token), token)

    def test_nothing_is_bound_to_no_certificate(self) -> None:
        """An empty thumbprint in a token does not fit a request without a certificate."""
        self.assertFalse(ForwardedClient(None).is_bound({"cnf": {"x5t#S256": ""}}))

    def test_required(self) -> None:
        """A request without a certificate raises, with claims too; others return the client."""
        for client in (None, ForwardedClient(None, claims={})):
            self.assertRaises(CertificateRequiredError, require_certificate, {KEY: client})
        certain = ForwardedClient(samples.certificate(), CLIENT.thumbprint)
        self.assertIs(certain, require_certificate({KEY: certain}))

    def test_without_middleware(self) -> None:
        """An application without the middleware fails, and does not take anyone for a client."""
        self.assertRaises(KeyError, forwarded_client, {})
        self.assertRaises(KeyError, require_certificate, {})


_IMPORT = """
import sys
for name in ("twisted", "OpenSSL", "service_identity", "tomli"):
    sys.modules[name] = None
import x509proxy.asgi, x509proxy.wsgi
"""


class Imports(SynchronousTestCase):
    def test_alone(self) -> None:
        """The middleware works where neither Twisted nor pyOpenSSL is installed."""
        subprocess.run([sys.executable, "-c", _IMPORT], check=True, timeout=60)
