"""Tests of :mod:`x509proxy.certificates.header_values`."""

from __future__ import annotations

import contextlib
from base64 import b64encode
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support import certificates as samples
from x509proxy.certificates.client_certificate import ClientCertificate
from x509proxy.certificates.header_values import DECODERS, decode_certificate
from x509proxy.forwarding.certificate_formats import encode
from x509proxy.settings import Format

CLIENT = samples.client("CN=client")
# The client chooses this name: it tries to end the quotes and to be an element of its own.
HOSTILE = samples.client('CN=x\\"\\;Cert\\=\\"forged')


def written(form: Format, client: ClientCertificate = CLIENT) -> bytes:
    ((_, value),) = encode(client, form, b"X-Cert")
    return value


class Decoding(SynchronousTestCase):
    def test_round_trip(self) -> None:
        """Each decoder reads the value that the proxy writes in its format."""
        for form in DECODERS:
            for client in (CLIENT, HOSTILE):
                self.assertEqual(client.der, decode_certificate(written(form, client), form), form)

    def test_other_format(self) -> None:
        """A value of one format is rejected by the decoders of all others."""
        for form in DECODERS:
            for other in set(DECODERS) - {form}:
                with self.assertRaises(ValueError):
                    decode_certificate(written(form), other)

    def test_two_values(self) -> None:
        """Two values, joined by a comma as servers join doubled fields, are rejected."""
        for form in DECODERS:
            value = written(form)
            for joined in (value + b"," + value, value + b", " + value, value + b",", b"," + value):
                with self.assertRaises(ValueError):
                    decode_certificate(joined, form)

    def test_variations(self) -> None:
        """White space, cut values and foreign characters never give the client's certificate."""
        for form in DECODERS:
            value = written(form)
            # An element of Envoy without its first octet has another key, which is allowed.
            cut = (value[:-1],) if form is Format.XFCC else (value[1:], value[:-1])
            for odd in (b" " + value, value + b" ", value + b"\n", value + b"\x00", b"", *cut):
                # Base64 that is cut may still be base64, of another value.
                with contextlib.suppress(ValueError):
                    self.assertNotEqual(CLIENT.der, decode_certificate(odd, form), form)

    def test_sentence(self) -> None:
        """The sentence of a rejection names the format, and not the value."""
        error = self.assertRaises(ValueError, decode_certificate, b"private", Format.PEM)
        self.assertEqual("found another value, expected the format pem", str(error))

    def test_url_variants(self) -> None:
        """URL-encoded PEM with a literal plus is read; with a literal line end it is rejected."""
        lines = b"\n".join(
            [b"-----BEGIN CERTIFICATE-----", b64encode(CLIENT.der), b"-----END CERTIFICATE-----"]
        )
        kept = quote(lines, safe="+/=").encode("ascii")
        self.assertEqual(CLIENT.der, decode_certificate(kept, Format.PEM_URL))
        with self.assertRaises(ValueError):
            decode_certificate(lines, Format.PEM_URL)

    def test_two_certificates_in_xfcc(self) -> None:
        """An element with two Cert keys, in any case, is rejected."""
        cert = b'Cert="%b"' % written(Format.PEM_URL)
        for value in (
            cert + b";" + cert,
            cert + b";" + cert.lower(),
            b'By="a";' + cert + b";CERT=a",
        ):
            with self.assertRaises(ValueError):
                decode_certificate(value, Format.XFCC)

    @given(st.binary(max_size=200), st.sampled_from(sorted(DECODERS, key=lambda form: form.value)))
    def test_any_value(self, value: bytes, form: Format) -> None:
        """Any other value is DER or a ValueError, and never another exception."""
        with contextlib.suppress(ValueError):
            self.assertIsInstance(decode_certificate(value, form), bytes)
