"""The auditor's own reading and writing of certificate formats."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from urllib.parse import quote

from twisted.trial.unittest import SynchronousTestCase

from x509proxy.audit.formats import CERTIFICATES, encode, folds, read
from x509proxy.certificates.client_certificate import ClientCertificate
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.forwarding import certificate_formats
from x509proxy.settings import Format

MADE = make_self_signed(KeyKind.RSA, "client").certificate
CLIENT = ClientCertificate.from_x509(MADE, ())
DIGEST = hashlib.sha256(CLIENT.der).hexdigest()


class Formats(SynchronousTestCase):
    def test_both_writers(self) -> None:
        """The proxy's values are read, and the auditor's forgeries are read as the same."""
        for form in CERTIFICATES:
            ((_, value),) = certificate_formats.encode(CLIENT, form, b"x")
            self.assertEqual(DIGEST, read(form, value), form)
            self.assertEqual(DIGEST, read(form, encode(form, CLIENT.der)), form)

    def test_other_forgeries(self) -> None:
        """Formats that describe a certificate without holding it have a forged value too."""
        ((_, serial),) = certificate_formats.encode(CLIENT, Format.SERIAL, b"x")
        self.assertEqual(serial, encode(Format.SERIAL, CLIENT.der))
        self.assertEqual(b"CN=client", encode(Format.SUBJECT, CLIENT.der))
        self.assertEqual(b"CN=client", encode(Format.ISSUER, CLIENT.der))
        self.assertEqual(b"SUCCESS", encode(Format.VERIFY, CLIENT.der))
        self.assertEqual(b"TRUSTED", encode(Format.VERDICT, CLIENT.der))
        self.assertIn(b":MII", encode(Format.RFC9440_CHAIN, CLIENT.der))
        self.assertEqual(b"x509proxy-audit-forged", encode(Format.LITERAL, CLIENT.der))

    def test_every_format(self) -> None:
        """Each format has a forged value of its own, or no certificate could stand in it."""
        placeholder = encode(Format.LITERAL, CLIENT.der)
        without = {form for form in Format if encode(form, CLIENT.der) == placeholder}
        self.assertEqual({Format.LITERAL, Format.TOKEN_CLAIMS}, without)

    def test_unreadable(self) -> None:
        """A value that a strict server would not read is none."""
        text = b64encode(CLIENT.der)
        pem = b"-----BEGIN CERTIFICATE-----%b-----END CERTIFICATE-----"
        other = quote("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", safe="")
        for form, value in (
            (Format.PEM, pem % (b" " + text)),
            (Format.PEM, pem % b"a"),
            (Format.PEM, b"\xff"),
            (Format.PEM_SPACES, b"x"),
            (Format.PEM_URL, pem % text),
            (Format.PEM_URL, encode(Format.PEM_URL, CLIENT.der).replace(b"%2B", b"+")),
            (Format.BASE64_DER, b"{client}"),
            (Format.RFC9440, text),
            (Format.XFCC, b"By=x"),
            (Format.XFCC, b"Hash=%b,Hash=00" % DIGEST.encode()),
            (Format.XFCC, b"Hash=00;Hash=00"),
            (Format.XFCC, b'Hash=%b;Cert="%b"' % (DIGEST.encode(), other.encode())),
            (Format.THUMBPRINT, DIGEST.encode()),
        ):
            self.assertIsNone(read(form, value), (form, value[:60]))

    def test_folds(self) -> None:
        """Names are compared as CGI-like servers do."""
        self.assertEqual(folds(b"x-client.cert"), folds(b"X_CLIENT-Cert"))
