"""Tests of :mod:`x509proxy.service.echo`."""

from __future__ import annotations

import io
import json
import time
from typing import Any
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from tests.support import certificates as samples
from tests.support.names import secret_name
from x509proxy.certificates.client_certificate import ClientCertificate
from x509proxy.forwarding.certificate_formats import encode
from x509proxy.forwarding.presets import PRESETS
from x509proxy.service.echo import Secrets, decode, describe, echo_site
from x509proxy.settings import Format

# The formats that carry a certificate; the others carry properties of it.
CARRIERS = {
    Format.PEM, Format.PEM_SPACES, Format.PEM_URL, Format.BASE64_DER, Format.RFC9440,
    Format.RFC9440_CHAIN, Format.XFCC,
}  # fmt: skip
FORGED = '";Cert="forged'


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def value_of(certificate: ClientCertificate, form: Format) -> bytes:
    ((_, value),) = encode(certificate, form, b"X-Cert")
    return value


def ask(
    *lines: bytes,
    method: bytes = b"GET",
    body: bytes = b"",
    names: tuple[bytes, ...] = (),
    secrets: Secrets = Secrets.SHOWN,
    log: io.StringIO | None = None,
) -> tuple[bytes, bytes]:
    """Return head and body of the response to one request, by Twisted's own server."""
    site: Any = echo_site(names, Clock(), secrets)
    site.logFile = log
    protocol = site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
    assert protocol is not None
    transport = StringTransport()
    protocol.makeConnection(transport)
    length = [b"Content-Length: %d" % len(body)] if body else []
    protocol.dataReceived(
        b"\r\n".join([method + b" /token?a=%2F HTTP/1.1", b"Host: a", *lines, *length, b"", body])
    )
    head, _, answer = transport.value().partition(b"\r\n\r\n")
    return head, answer


def report(*lines: bytes, body: bytes = b"", **options: Any) -> dict[str, Any]:
    method = b"POST" if body else b"GET"
    found: dict[str, Any] = json.loads(ask(*lines, method=method, body=body, **options)[1])
    return found


class Decoding(SynchronousTestCase):
    def test_every_format(self) -> None:
        """Each format's encoded value is decoded, and the format is named."""
        client = samples.client(
            "CN=client",
            chain=(der(samples.certificate("CN=one")), der(samples.certificate("CN=two"))),
        )
        for form in CARRIERS:
            expected = samples.certificate(
                "CN=one" if form is Format.RFC9440_CHAIN else "CN=client"
            )
            self.assertEqual((form.value, expected), decode(value_of(client, form)))

    def test_chain_of_one(self) -> None:
        """A chain of one looks like a leaf: the values do not differ."""
        client = samples.client(chain=(der(samples.certificate("CN=one")),))
        self.assertEqual(
            ("rfc9440", samples.certificate("CN=one")),
            decode(value_of(client, Format.RFC9440_CHAIN)),
        )

    def test_literal_plus(self) -> None:
        """A literal plus in URL-encoded PEM stays one, as AWS ALB and Apache send it."""
        pem = samples.certificate().public_bytes(Encoding.PEM)
        self.assertEqual(
            ("pem-url", samples.certificate()), decode(quote(pem, safe="+/=").encode("ascii"))
        )

    def test_envoy(self) -> None:
        """Envoy's element is read with or without quotes, and with others before and after it."""
        pem = quote(samples.certificate().public_bytes(Encoding.PEM), safe="").encode("ascii")
        for value in (
            b"Cert=" + pem,
            b'By=spiffe://a;Hash=00;cert="%b";URI=b' % pem,
            b'By="a;\\"b";Cert="%b";Hash=11' % pem,
        ):
            self.assertEqual(("xfcc", samples.certificate()), decode(value))

    def test_subject_cannot_pose(self) -> None:
        """A subject that contains the beginning of a certificate is not read as a certificate."""
        client = samples.client(
            f"CN={FORGED}".replace('"', '\\"').replace(";", "\\;").replace("=f", "\\=f")
        )
        value = value_of(client, Format.XFCC)
        self.assertEqual(client.der, der(decode(value)[1]))  # type: ignore[index]
        hash_, cert, subject = value.split(b";", 2)
        self.assertEqual(client.der, der(decode(b";".join([subject, hash_, cert]))[1]))  # type: ignore[index]

    def test_nothing(self) -> None:
        """Short, long, almost valid and broken values are not read as certificates."""
        pem = value_of(samples.client(), Format.PEM)
        text = value_of(samples.client(), Format.BASE64_DER)
        broken = samples.with_part(
            der(samples.certificate()), samples.VERSION, b"\xa0\x03\x02\x01\x06"
        )
        for value in (
            b"", b"(null)", b"Bearer abc", b"A" * 64, text[:-8], b":abc:", b":%b" % text, b"Cert=",
            b'Hash="', b"a=b;c=d",
            b"-----BEGIN%20CERTIFICATE-----", pem[:-1], pem.replace(b"CERTIFICATE", b"PRIVATE KEY"),
            b"x" + pem,
            ClientCertificate.from_x509(samples.certificate(), ()).der, value_of_der(broken),
        ):  # fmt: skip
            self.assertIs(None, decode(value), value)


def value_of_der(octets: bytes) -> bytes:
    """Return base64 of DER that the proxy's encoder would refuse to parse."""
    return value_of(
        ClientCertificate(der=octets, thumbprint="", verdict=samples.client().verdict),
        Format.BASE64_DER,
    )


class Describing(SynchronousTestCase):
    def test_words(self) -> None:
        """The description of a certificate holds every property that a person compares."""
        client = samples.client("CN=client")
        expected = {
            "header": "X-Cert",
            "format": "pem",
            "subject": "CN=client",
            "issuer": "CN=client",
            "serial": "5",
            "not_before": "2026-01-01T00:00:00Z",
            "not_after": "2027-01-01T00:00:00Z",
            "key": "EC P-256",
            "verdict": "SELF_SIGNED",
            "x5t#S256": client.thumbprint,
            "flags": [],
        }
        self.assertEqual(expected, describe("X-Cert", "pem", samples.certificate("CN=client")))

    def test_issued(self) -> None:
        """A certificate whose issuer is another is not called self-signed."""
        found = describe("X-Cert", "pem", samples.issued())
        self.assertEqual(("CN=authority", "UNTRUSTED"), (found["issuer"], found["verdict"]))

    def test_unreadable(self) -> None:
        """A certificate that the proxy would not forward is reported as unreadable."""
        found = describe(
            "X-Cert", "pem", x509.load_der_x509_certificate(samples.malformed_extension())
        )
        self.assertEqual((["UNREADABLE"], ""), (found["flags"], found["subject"]))


class Covering(SynchronousTestCase):
    """Without :attr:`Secrets.SHOWN`, the report masks the name, which is secret from clients."""

    def covered(self, name: bytes, value: bytes) -> bool:
        """Return whether neither the name nor the value is in a report."""
        field = b"%b: %b" % (name, value)
        shown = ask(field, secrets=Secrets.COVERED)[1]
        self.assertEqual(value not in shown, name not in shown, name)
        self.assertIn(name, ask(field)[1])
        return name not in shown

    def test_secret_name(self) -> None:
        """A secret name is masked with its value, in any spelling and with any value."""
        name = secret_name("echo").encode()
        for value in (value_of(samples.client(), Format.PEM), b"thumbprint"):
            for spelling in (name, name.upper(), name.replace(b"-", b"_")):
                self.assertTrue(self.covered(spelling, value), spelling)

    def test_chosen_name(self) -> None:
        """A name in no preset is masked, if the value holds a certificate."""
        for form in CARRIERS - {Format.RFC9440_CHAIN}:
            self.assertTrue(self.covered(b"X-Mine", value_of(samples.client(), form)))
        self.assertFalse(self.covered(b"X-Mine", b"mine"))

    def test_public_names(self) -> None:
        """The names of presets are not masked."""
        for plan in (plan for preset in PRESETS.values() for plan in preset.plans if plan.name):
            value = value_of(samples.client(), Format.PEM_URL)
            self.assertFalse(self.covered(plan.name, value), plan)

    def test_report(self) -> None:
        """A masked field keeps its place and its length, and its certificate is described."""
        name, value = secret_name("echo").encode(), value_of(samples.client(), Format.PEM)
        found = report(name + b": " + value, b"X-B: 2", secrets=Secrets.COVERED)
        covered = "(secret header name)"
        self.assertEqual([covered, f"({len(value)} bytes)"], found["headers"][1])
        self.assertEqual(["X-B", "2"], found["headers"][2])
        [certificate] = found["certificates"]
        self.assertEqual((covered, "CN=client"), (certificate["header"], certificate["subject"]))

    def test_default(self) -> None:
        """A site masks by default."""
        self.assertIs(Secrets.COVERED, echo_site(reactor=Clock()).resource._secrets)


class Forged(SynchronousTestCase):
    def test_removed(self) -> None:
        """A client that announces the value of a forged field is informed that none arrived."""
        self.assertEqual(
            "The forged field was removed. No client certificate arrived.",
            report(b"X-Echo-Forged: forged", b"X-A: other")["message"],
        )

    def test_arrived(self) -> None:
        """A field with that value is reported, under any name."""
        message = report(b"x-echo-forged: forged", b"X-A: forged", secrets=Secrets.COVERED)[
            "message"
        ]
        self.assertTrue(message.startswith("The forged field arrived. "), message)


class Answers(SynchronousTestCase):
    def test_request(self) -> None:
        """The report has target and fields as received, and the length of the body."""
        found = report(b"X-A: 1", b"x-b:2", b"X-AbC:  3 ", b"X-A: \xff", body=b"grant_type=x")
        self.assertEqual(
            ("POST", "/token?a=%2F", 12), (found["method"], found["target"], found["body_length"])
        )
        fields = [
            ["Host", "a"],
            ["X-A", "1"],
            ["x-b", "2"],
            ["X-AbC", "3"],
            ["X-A", "\\xff"],
            ["Content-Length", "12"],
        ]
        self.assertEqual(fields, found["headers"])

    def test_no_certificate(self) -> None:
        """Without a certificate, the message reports that none arrived."""
        found = report()
        self.assertEqual(
            ("No client certificate arrived.", []), (found["message"], found["certificates"])
        )

    def test_every_format(self) -> None:
        """A certificate is found in any header and format, and the message names its subject."""
        for form in CARRIERS - {Format.RFC9440_CHAIN}:
            found = report(b"X-Any: " + value_of(samples.client(), form))
            self.assertEqual(
                [("X-Any", form.value)],
                [(one["header"], one["format"]) for one in found["certificates"]],
            )
            self.assertEqual(
                "The client proved possession of the key of CN=client.", found["message"]
            )

    def test_chain_is_not_the_client(self) -> None:
        """The message names the leaf, wherever its chain stands; a chain alone proves nothing."""
        client = samples.client(
            chain=(der(samples.certificate("CN=one")), der(samples.certificate("CN=two")))
        )
        chain = b"Client-Cert-Chain: " + value_of(client, Format.RFC9440_CHAIN)
        leaf = b"Client-Cert: " + value_of(client, Format.RFC9440)
        self.assertEqual(
            "The client proved possession of the key of CN=client.", report(chain, leaf)["message"]
        )
        self.assertEqual("No client certificate arrived.", report(chain)["message"])

    def test_no_subject(self) -> None:
        """A certificate without a subject is named by its thumbprint."""
        client = samples.client("")
        found = report(b"X-Cert: " + value_of(client, Format.PEM))
        self.assertIn(
            f"the key of the certificate with x5t#S256 {client.thumbprint}.", found["message"]
        )

    def test_names(self) -> None:
        """With names given, certificates are searched in these fields only, in any case."""
        value = value_of(samples.client(), Format.PEM)
        self.assertEqual([], report(b"X-Other: " + value, names=(b"X-Cert",))["certificates"])
        self.assertEqual(1, len(report(b"x-CERT: " + value, names=(b"X-Cert",))["certificates"]))

    def test_json(self) -> None:
        """The response is ASCII JSON, indented, and no cache stores it."""
        head, body = ask()
        self.assertTrue(head.startswith(b"HTTP/1.1 200 OK\r\n"))
        for line in (
            b"Content-Type: application/json",
            b"Cache-Control: no-store",
            b"Content-Length: %d" % len(body),
        ):
            self.assertEqual(1, head.split(b"\r\n").count(line))
        self.assertTrue(
            body.startswith(b'{\n  "message"') and body.endswith(b"}\n") and body.isascii()
        )

    def test_head(self) -> None:
        """The response to HEAD has the length of that to GET, and no body."""
        head, body = ask(method=b"HEAD")
        length = json.loads(ask()[1])
        self.assertEqual(b"", body)
        expected = len(json.dumps({**length, "method": "HEAD"}, indent=2)) + 1
        self.assertIn(b"Content-Length: %d" % expected, head.split(b"\r\n"))

    def test_log(self) -> None:
        """A line of the log has the time of day, whatever the clock of the reactor."""
        log = io.StringIO()
        ask(log=log)
        year = time.gmtime().tm_year
        self.assertRegex(log.getvalue(), rf'\[\d\d/\w+/{year}:.* "GET /token\?a=%2F HTTP/1.1" 200')

    def test_any_method(self) -> None:
        """A request with any method gets a response, so that users see each method that arrives."""
        self.assertEqual("BREW", json.loads(ask(method=b"BREW")[1])["method"])

    def test_broken_field(self) -> None:
        """A field that Twisted's parser rejects ends the request."""
        head, body = ask(b"X-A")
        self.assertEqual((b"HTTP/1.1 400 Bad Request", b""), (head, body))

    def test_global_reactor(self) -> None:
        """Without a reactor the site uses the global one, like every site of Twisted."""
        self.assertIs(reactor, echo_site().reactor)
