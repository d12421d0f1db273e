"""Tests of :mod:`x509proxy.forwarding.certificate_formats`.

Other code decodes each written value to the same octets.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode, b64encode
from urllib.parse import unquote_to_bytes

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support import certificates as samples
from x509proxy.certificates.client_certificate import ClientCertificate, Verdict
from x509proxy.forwarding.certificate_formats import encode
from x509proxy.settings import Format

CLIENT = samples.client()
OTHERS = (Format.LITERAL, Format.TOKEN_CLAIMS)
FORMATS = [form for form in Format if form not in OTHERS]
NAME = b"Sec-Client-X509-Cert-0123456789"


def with_der(der: bytes) -> ClientCertificate:
    return attrs.evolve(CLIENT, der=der)


def write(form: Format, certificate: ClientCertificate = CLIENT) -> bytes:
    ((name, value),) = encode(certificate, form, NAME)
    assert name == NAME
    return value


def der_of(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


class Pem(SynchronousTestCase):
    def test_literal(self) -> None:
        """Connect2id's form, exactly: armour, base64 and armour, with nothing between them."""
        self.assertEqual(
            ((NAME, b"-----BEGIN CERTIFICATE-----MIIB+/8=-----END CERTIFICATE-----"),),
            encode(with_der(b"\x30\x82\x01\xfb\xff"), Format.PEM, NAME),
        )

    def test_no_white_space(self) -> None:
        """The only spaces are the two inside the armour lines, and there is no line end."""
        value = write(Format.PEM)
        self.assertRegex(
            value,
            rb"\A-----BEGIN CERTIFICATE-----MII[A-Za-z0-9+/]+={0,2}-----END CERTIFICATE-----\Z",
        )

    def test_reads_back(self) -> None:
        """The text between the armour lines is the certificate."""
        inner = (
            write(Format.PEM)
            .removeprefix(b"-----BEGIN CERTIFICATE-----")
            .removesuffix(b"-----END CERTIFICATE-----")
        )
        self.assertEqual(CLIENT.der, b64decode(inner, validate=True))


class PemSpaces(SynchronousTestCase):
    def test_reads_back(self) -> None:
        """With new lines for the spaces outside the armour it is ordinary PEM."""
        value = write(Format.PEM_SPACES)
        inner = value.removeprefix(b"-----BEGIN CERTIFICATE-----").removesuffix(
            b"-----END CERTIFICATE-----"
        )
        pem = (
            b"-----BEGIN CERTIFICATE-----"
            + inner.replace(b" ", b"\n")
            + b"-----END CERTIFICATE-----\n"
        )
        self.assertEqual(CLIENT.der, der_of(pem))

    def test_lines(self) -> None:
        """Each line has 64 characters but the last (RFC 7468 section 2)."""
        inner = write(Format.PEM_SPACES)[
            len("-----BEGIN CERTIFICATE----- ") : -len(" -----END CERTIFICATE-----")
        ]
        *whole, last = inner.split(b" ")
        self.assertEqual({64}, {len(line) for line in whole})
        self.assertIn(len(last), range(1, 65))


class PemUrl(SynchronousTestCase):
    def test_reads_back(self) -> None:
        """Unquoted, it is exactly the PEM that ``cryptography`` writes."""
        pem = samples.certificate().public_bytes(Encoding.PEM)
        self.assertEqual(pem, unquote_to_bytes(write(Format.PEM_URL)))

    def test_survives_form_decoding(self) -> None:
        """There is no ``+``, which a form decoder would read as a space."""
        self.assertNotIn(b"+", write(Format.PEM_URL, with_der(b"\xfb\xef\xbe" * 30)))

    def test_literal(self) -> None:
        """It equals nginx's ``$ssl_client_escaped_cert``, exactly.

        Everything but letters, digits and hyphens is escaped.
        """
        self.assertEqual(
            b"-----BEGIN%20CERTIFICATE-----%0A%2B%2F8%3D%0A-----END%20CERTIFICATE-----%0A",
            write(Format.PEM_URL, with_der(b"\xfb\xff")),
        )


class Base64Der(SynchronousTestCase):
    def test_reads_back(self) -> None:
        """It is the base64 of the certificate, and nothing else."""
        self.assertEqual(CLIENT.der, b64decode(write(Format.BASE64_DER), validate=True))

    def test_nothing_to_say(self) -> None:
        """Without an octet there is an error in place of a value: an empty header is never sent."""
        self.assertRaises(ValueError, encode, with_der(b""), Format.BASE64_DER, NAME)


class Rfc9440(SynchronousTestCase):
    def test_reads_back(self) -> None:
        """It is a byte sequence of RFC 8941 section 3.3.5."""
        value = write(Format.RFC9440)
        self.assertEqual((b":", b":"), (value[:1], value[-1:]))
        self.assertEqual(CLIENT.der, b64decode(value[1:-1], validate=True))

    def test_chain(self) -> None:
        """The chain is a list of byte sequences, in handshake order, without the leaf."""
        self.assertEqual(
            b":b25l:, :dHdv:",
            write(Format.RFC9440_CHAIN, attrs.evolve(CLIENT, chain=(b"one", b"two"))),
        )

    def test_no_chain(self) -> None:
        """A leaf alone has no chain header, not even an empty one."""
        self.assertEqual((), encode(CLIENT, Format.RFC9440_CHAIN, NAME))


class Xfcc(SynchronousTestCase):
    def parts(self, subject: str) -> tuple[bytes, bytes, bytes]:
        value = write(Format.XFCC, attrs.evolve(CLIENT, subject=subject))
        match = re.fullmatch(
            rb'Hash=([0-9a-f]{64});Cert="([^"\\]*)";Subject="((?:[^"\\]|\\.)*)"', value
        )
        assert match, value
        return match[1], match[2], match[3]

    def test_reads_back(self) -> None:
        """Hash and certificate are the client's, and the subject is its name."""
        digest, pem, subject = self.parts("CN=client,O=Example")
        self.assertEqual(hashlib.sha256(CLIENT.der).hexdigest().encode(), digest)
        self.assertEqual(CLIENT.der, der_of(unquote_to_bytes(pem)))
        self.assertEqual(b"CN=client,O=Example", subject)

    def test_quotes(self) -> None:
        """A quote in a name does not end the subject, and no second hash begins."""
        self.assertEqual(rb"CN=a\22\3BHash=00\3BX=\22", self.parts('CN=a";Hash=00;X="')[2])
        self.assertEqual(rb"CN=a\5C", self.parts("CN=a\\")[2])

    def test_line_ends_and_other_alphabets(self) -> None:
        """Line ends and letters outside ASCII are written as octets (RFC 4514 section 2.4)."""
        self.assertEqual(rb"CN=a\0D\0Ab\C3\A9", self.parts("CN=a\r\nb\u00e9")[2])

    @given(st.text())
    def test_any_subject(self, subject: str) -> None:
        """With any name, a client can only change the value of the subject."""
        digest, pem, _ = self.parts(subject)
        self.assertEqual(hashlib.sha256(CLIENT.der).hexdigest().encode(), digest)
        self.assertEqual(CLIENT.der, der_of(unquote_to_bytes(pem)))


class Every(SynchronousTestCase):
    @given(
        st.binary(min_size=1),
        st.sampled_from(FORMATS),
        st.text(),
        st.lists(st.binary(), max_size=3),
    )
    def test_is_a_header_value(
        self, der: bytes, form: Format, subject: str, chain: list[bytes]
    ) -> None:
        """Every format of every certificate is visible ASCII on one line, once or not at all."""
        certificate = attrs.evolve(CLIENT, der=der, subject=subject, chain=tuple(chain))
        pairs = encode(certificate, form, NAME)
        nothing = {Format.RFC9440_CHAIN: not chain, Format.SUBJECT: not subject.strip(" ")}
        self.assertEqual(0 if nothing.get(form) else 1, len(pairs))
        for name, value in pairs:
            self.assertEqual(NAME, name)
            self.assertRegex(value, rb"\A[!-~]([ -~]*[!-~])?\Z")

    @given(
        st.binary(min_size=1),
        st.sampled_from(
            [Format.PEM, Format.PEM_SPACES, Format.PEM_URL, Format.BASE64_DER, Format.RFC9440]
        ),
    )
    def test_keeps_every_byte(self, der: bytes, form: Format) -> None:
        """For all octets, removing armour, white space, colons and escapes leaves their base64."""
        value = (
            unquote_to_bytes(write(form, with_der(der)))
            if form is Format.PEM_URL
            else write(form, with_der(der))
        )
        for outside in (
            b"-----BEGIN CERTIFICATE-----",
            b"-----END CERTIFICATE-----",
            b" ",
            b"\n",
            b":",
        ):
            value = value.replace(outside, b"")
        self.assertEqual(b64encode(der), value)

    def test_every_format_is_tabled(self) -> None:
        """Each format has a function, except the two that are not about a certificate."""
        for form in FORMATS:
            encode(CLIENT, form, NAME)
        for form in OTHERS:
            self.assertRaises(KeyError, encode, CLIENT, form, NAME)

    def test_without_a_certificate(self) -> None:
        """Without a certificate only the two formats that report its absence send a header."""
        said = {form: encode(None, form, NAME) for form in FORMATS}
        expected = {Format.VERDICT: ((NAME, b"NONE"),), Format.VERIFY: ((NAME, b"NONE"),)}
        self.assertEqual({form: expected.get(form, ()) for form in FORMATS}, said)


class Places(SynchronousTestCase):
    CHAIN = attrs.evolve(CLIENT, chain=(b"one", b"two"))

    def test_places(self) -> None:
        """Index 1 is the client's own certificate; the next ones are those it sent after it."""
        ders = [
            b64decode(encode(self.CHAIN, Format.BASE64_DER, NAME, place)[0][1])
            for place in (1, 2, 3)
        ]
        self.assertEqual([CLIENT.der, b"one", b"two"], ders)

    def test_nothing_there(self) -> None:
        """Without a certificate there is no header."""
        self.assertEqual((), encode(self.CHAIN, Format.PEM, NAME, 4))
        self.assertEqual((), encode(CLIENT, Format.PEM_SPACES, NAME, 2))


class Words(SynchronousTestCase):
    def test_verdict(self) -> None:
        """The verdict is its name."""
        for verdict in Verdict:
            self.assertEqual(
                verdict.value.encode(), write(Format.VERDICT, attrs.evolve(CLIENT, verdict=verdict))
            )

    def test_verify(self) -> None:
        """The values are nginx's: SUCCESS for a trusted chain, else FAILED and a reason."""
        said = {
            verdict: write(Format.VERIFY, attrs.evolve(CLIENT, verdict=verdict))
            for verdict in Verdict
        }
        self.assertEqual(b"SUCCESS", said.pop(Verdict.TRUSTED))
        self.assertEqual(b"NONE", said.pop(Verdict.NONE))
        self.assertEqual(b"FAILED:self-signed certificate", said[Verdict.SELF_SIGNED])
        self.assertTrue(all(word.startswith(b"FAILED:") for word in said.values()))

    def test_parts(self) -> None:
        """Thumbprint, names and serial number are ASCII for every certificate."""
        named = attrs.evolve(
            CLIENT, subject=" CN=\u00e9,O=a\nb ", issuer="CN=x", serial=0xBEEF, thumbprint="abc"
        )
        forms = (Format.SUBJECT, Format.ISSUER, Format.SERIAL, Format.THUMBPRINT)
        self.assertEqual(
            [b"CN=\\C3\\A9,O=a\\0Ab", b"CN=x", b"BEEF", b"abc"],
            [write(form, named) for form in forms],
        )

    def test_no_name(self) -> None:
        """A certificate may have an empty subject (RFC 5280 section 4.1.2.6).

        No empty header is sent.
        """
        self.assertEqual((), encode(attrs.evolve(CLIENT, subject=""), Format.SUBJECT, NAME))
