"""Odd certificates, through the whole proxy: passed on, rejected, or the handshake ends.

There is no other result. No traceback is logged (trial fails a test that logs one), nothing of a
rejected request arrives, and the next client is served. Certificates that ``cryptography`` does not
make are put together by hand and sent by ``tlslite-ng``.
"""

from __future__ import annotations

import functools
import hashlib
import json
from base64 import b64decode
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote_to_bytes

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID
from tlslite.utils.python_rsakey import Python_RSAKey  # type: ignore[import-untyped]
from twisted.trial.unittest import SynchronousTestCase

from tests.support import certificates as samples
from tests.support.certificate_parts import (
    ISSUER,
    TIMES,
    certificate,
    costly_chain,
    elements,
    handshake_cost,
    parts_of,
    with_signature,
)
from tests.support.certificates import (
    EXTENSIONS,
    SERIAL,
    SPKI,
    SUBJECT,
    VERSION,
    Pair,
    oid,
    pair,
    tlv,
    with_part,
)
from tests.support.raw_tls import HEADER, get
from tests.support.tls_attacks import (
    ML_DSA_SCHEMES,
    VERSIONS,
    Attack,
    AttackTestCase,
    Key,
    Observed,
    ml_dsa_attack,
    pem_header,
    real_key,
)
from tests.support.tls_memory import server_context
from x509proxy.certificates.client_certificate import ClientCertificate, Verdict, thumbprint
from x509proxy.exchange import Exchange, Outcome
from x509proxy.forwarding.header_rules import HeaderRules
from x509proxy.forwarding.presets import HeaderPlan
from x509proxy.http1.errors import Code
from x509proxy.monitoring.access_log_format import access_line
from x509proxy.settings import Format, KeyType, PolicySettings, Trust, Validity

PASSED, REFUSED, ENDED = "passed on", "refused", "ended"


@attrs.frozen
class Sample:
    """A client's certificate, the key that signs, and the rest of the list."""

    der: bytes
    key: Any = attrs.field(repr=False)
    more: tuple[bytes, ...] = attrs.field(default=(), repr=False)


def of_version_1(der: bytes, end: int) -> bytes:
    """Return the certificate of version 1, without its parts from ``end`` on."""
    return tlv(0x30, tlv(0x30, *parts_of(der)[1:end]), *elements(der)[1:])


def long_form(element: bytes) -> bytes:
    """Encode the length in more octets than needed: BER, not DER."""
    content = samples._content(element)
    return element[:1] + b"\x84" + len(content).to_bytes(4, "big") + content


def indefinite(element: bytes) -> bytes:
    """Encode the element without a length: BER, not DER."""
    return element[:1] + b"\x80" + samples._content(element) + b"\0\0"


def name(value: bytes, tag: int = 0x0C, count: int = 1) -> bytes:
    """Make a distinguished name of common names."""
    return tlv(0x30, *[tlv(0x31, tlv(0x30, oid("2.5.4.3"), tlv(tag, value)))] * count)


def extension(dotted: str, value: bytes, *, critical: bool = False) -> bytes:
    """Encode one extension."""
    return tlv(0x30, oid(dotted), *([b"\x01\x01\xff"] if critical else []), tlv(0x04, value))


def with_extensions(der: bytes, *extensions: bytes) -> bytes:
    """Return the certificate with these extensions and no others."""
    return with_part(der, EXTENSIONS, tlv(0xA3, tlv(0x30, *extensions)))


def with_names(der: bytes, count: int) -> bytes:
    """Return the certificate with so many SubjectAlternativeNames."""
    return with_extensions(
        der,
        extension(
            "2.5.29.17", tlv(0x30, *[tlv(0x82, b"%022d.test" % number) for number in range(count)])
        ),
    )


def same_names(der: bytes, subject: bytes) -> bytes:
    """Return the certificate with that name as subject and issuer."""
    return with_part(with_part(der, SUBJECT, subject), ISSUER, subject)


@functools.cache
def huge_exponent() -> Any:
    """Make an RSA key of 3072 bits with a public exponent as long: slow to verify."""
    numbers = rsa.generate_private_key(65537, 3072).private_numbers()
    p, q = numbers.p, numbers.q
    secret = 65537
    exponent = pow(secret, -1, (p - 1) * (q - 1))
    return Python_RSAKey(
        p * q, exponent, secret, p, q, secret % (p - 1), secret % (q - 1), pow(q, -1, p)
    )


def _rsa_spki(n: int, e: int) -> bytes:
    algorithm = tlv(0x30, oid("1.2.840.113549.1.1.1"), b"\x05\x00")
    modulus = samples._integer(n) if n >= 0 else tlv(0x02, b"\x80" + b"\x01" * 255)
    return tlv(0x30, algorithm, tlv(0x03, b"\0", tlv(0x30, modulus, samples._integer(e))))


def plain() -> bytes:
    return pair().der


def of(kind: str, **options: Any) -> Sample:
    """Make a whole certificate with its key."""
    found = pair(kind, **options)
    return Sample(found.der, real_key(found))


def changed(der: bytes, *more: bytes) -> Sample:
    """Return a changed certificate of the P-256 key, with the key that signs."""
    return Sample(der, real_key(pair()), more)


def garbled(public_key: bytes, kind: str = "rsa", size: int = 2048) -> Sample:
    """Return a certificate of a key without a holder, with a meaningless signature."""
    return Sample(
        samples.with_spki(public_key), Key(kind, lambda _: b"\x01" * (size // 8), size=size)
    )


def nested(depth: int) -> bytes:
    return functools.reduce(lambda inner, _: tlv(0x30, inner), range(depth), b"")


def times(before: bytes, after: bytes) -> bytes:
    return tlv(0x30, before, after)


@functools.cache
def authority() -> Pair:
    return pair(subject="CN=authority", ca=True)


@functools.cache
def _rsa_with(exponent: int) -> tuple[bytes, Any]:
    key: Any = rsa.generate_private_key(exponent, 2048)
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return with_part(pair("RSA 2048").der, SPKI, spki), real_key(Pair(b"", der, key))


def _compressed() -> bytes:
    public: Any = pair().private_key.public_key()
    point = public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    return tlv(
        0x30,
        tlv(0x30, oid("1.2.840.10045.2.1"), oid("1.2.840.10045.3.1.7")),
        tlv(0x03, b"\0", point),
    )


def _explicit_key() -> Any:
    """Return the samples' key with explicit parameters."""
    key = samples._key("P-256")
    return real_key(
        Pair(b"", key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), key)
    )


def _curve_spki(curve: str, size: int) -> bytes:
    point = b"\x04" + b"\x05" * size if size else b"\x00"
    return tlv(0x30, tlv(0x30, oid("1.2.840.10045.2.1"), oid(curve)), tlv(0x03, b"\0", point))


# Samples that pass where self-signed certificates of any origin are accepted.
HARMLESS: dict[str, Callable[[], Sample]] = {
    "EC P-256": lambda: of("EC P-256"),
    "EC P-384": lambda: of("EC P-384"),
    "EC P-521": lambda: of("EC P-521"),
    "Ed25519": lambda: of("Ed25519"),
    "RSA 4096": lambda: of("RSA 4096"),
    "version 1": lambda: changed(of_version_1(plain(), EXTENSIONS)),
    "version 1 with extensions": lambda: changed(of_version_1(plain(), EXTENSIONS + 1)),
    "serial 0": lambda: changed(with_part(plain(), SERIAL, b"\x02\x01\x00")),
    "negative serial": lambda: changed(with_part(plain(), SERIAL, b"\x02\x01\x80")),
    "serial of 40 bytes": lambda: changed(with_part(plain(), SERIAL, tlv(0x02, b"\x01" * 40))),
    "CA:TRUE": lambda: of("EC P-256", ca=True),
    "empty subject": lambda: changed(same_names(plain(), b"\x30\x00")),
    "NUL and line ends in a name": lambda: changed(
        same_names(plain(), name(b"a\0b\r\n-----END CERTIFICATE-----\r\nX-Injected: 1"))
    ),
    "until 9999": lambda: changed(
        with_part(plain(), TIMES, times(tlv(0x17, b"200101000000Z"), tlv(0x18, b"99991231235959Z")))
    ),
    "from 1950": lambda: changed(
        with_part(plain(), TIMES, times(tlv(0x17, b"500101000000Z"), tlv(0x17, b"491231235959Z")))
    ),
    "garbage signature": lambda: changed(with_signature(plain(), b"garbage")),
    "empty signature": lambda: changed(with_signature(plain(), b"")),
    "MD5 signature": lambda: changed(with_signature(plain(), bytes(256), "1.2.840.113549.1.1.4")),
    "SHA-1 signature": lambda: changed(with_signature(plain(), bytes(256), "1.2.840.113549.1.1.5")),
    "unknown signature": lambda: changed(with_signature(plain(), bytes(64), "1.3.6.1.4.1.99999.3")),
    "RSA e=3": lambda: Sample(*_rsa_with(3)),
    "compressed point": lambda: changed(with_part(plain(), SPKI, _compressed())),
    "10 more behind it": lambda: changed(plain(), *[pair(subject="CN=more").der] * 10),
    "6 KB": lambda: changed(with_names(plain(), 180)),
    "8 KB": lambda: changed(with_names(plain(), 248)),
    "server's": lambda: of("EC P-256", usage=ExtendedKeyUsageOID.SERVER_AUTH),
}

# Samples that only ``trust = any`` passes on.
STRANGE: dict[str, Callable[[], Sample]] = {
    "issuer is another": lambda: changed(with_part(plain(), ISSUER, name(b"somebody"))),
    "issuer is unknown": lambda: of("EC P-256", issuer=pair(subject="CN=unknown", ca=True)),
    "unknown critical extension": lambda: changed(
        with_extensions(plain(), extension("1.3.6.1.4.1.99999.1", b"\x05\x00", critical=True))
    ),
    "forged chain": lambda: changed(
        with_part(plain(), ISSUER, name(b"authority")),
        pair(subject="CN=authority", ca=True).der,
        authority().der,
    ),
}

# Samples outside of their validity.
UNTIMELY: dict[str, Callable[[], Sample]] = {
    "expired": lambda: of("EC P-256", years=(2020, 2021)),
    "not yet valid": lambda: of("EC P-256", years=(2090, 2100)),
    "over before it begins": lambda: changed(
        with_part(plain(), TIMES, times(tlv(0x17, b"400101000000Z"), tlv(0x17, b"300101000000Z")))
    ),
}

# Samples that every setting rejects, after a handshake that succeeds.
NEVER: dict[str, Callable[[], Sample]] = {
    "version 7": lambda: changed(with_part(plain(), VERSION, bytes.fromhex("a003020106"))),
    "BER length inside": lambda: changed(
        tlv(
            0x30,
            tlv(
                0x30,
                *[
                    long_form(part) if place == SUBJECT else part
                    for place, part in enumerate(parts_of(plain()))
                ],
            ),
            *elements(plain())[1:],
        )
    ),
    "same extension twice": lambda: changed(
        with_extensions(plain(), *[extension("2.5.29.19", b"\x30\x00")] * 2)
    ),
    "malformed extension": lambda: changed(
        with_extensions(plain(), extension("2.5.29.19", b"\x30\x05"))
    ),
    "malformed name extension": lambda: changed(
        with_extensions(plain(), extension("2.5.29.17", b"\x30\x82\xff\xff\x00"))
    ),
    "RSA 1024": lambda: of("RSA 1024"),
    "RSA with a huge exponent": lambda: Sample(
        with_part(pair("RSA 2048").der, SPKI, _rsa_spki(huge_exponent().n, huge_exponent().e)),
        huge_exponent(),
    ),
    "900 names, 26 KB": lambda: changed(with_names(plain(), 900)),
    "just too large": lambda: changed(with_names(plain(), 282)),
    "explicit EC parameters": lambda: Sample(
        samples.with_spki(samples.explicit_spki()), _explicit_key()
    ),
}

# Samples that are never passed on: the handshake may fail, or the request is rejected.
NOWHERE: dict[str, Callable[[], Sample]] = {
    "11 more behind it": lambda: changed(plain(), *[pair(subject="CN=more").der] * 11),
    "150 more behind it": lambda: changed(plain(), *[pair(subject="CN=more").der] * 150),
    "2000 names, 55 KB": lambda: changed(with_names(plain(), 1900)),
    "trailing garbage": lambda: changed(plain() + b"garbage"),
    "one zero behind": lambda: changed(plain() + b"\0"),
    "two in one": lambda: changed(plain() + pair(subject="CN=victim").der),
    "truncated": lambda: changed(plain()[:-1]),
    "one byte": lambda: changed(b"\x30"),
    "empty entry": lambda: changed(b""),
    "empty entry behind": lambda: changed(plain(), b""),
    "garbage behind": lambda: changed(plain(), b"garbage"),
    "garbage": lambda: changed(b"\xde\xad\xbe\xef" * 64),
    "PEM": lambda: changed(pair().pem),
    "empty sequence": lambda: changed(b"\x30\x00"),
    "indefinite length inside": lambda: changed(
        tlv(0x30, indefinite(elements(plain())[0]), *elements(plain())[1:])
    ),
    "invalid UTF-8": lambda: changed(same_names(plain(), name(b"\xff\xfe\xfd"))),
    "odd BMPString": lambda: changed(same_names(plain(), name(b"abc", 0x1E))),
    "dates that are none": lambda: changed(
        with_part(plain(), TIMES, times(tlv(0x17, b"991399999999Z"), tlv(0x17, b"soon")))
    ),
    "serial with zeros in front": lambda: changed(
        with_part(plain(), SERIAL, b"\x02\x03\x00\x00\x05")
    ),
    "nested a thousand times": lambda: changed(with_part(plain(), SUBJECT, nested(1000))),
    "100 KB": lambda: changed(with_names(plain(), 3500)),
    "80 KB": lambda: changed(with_names(plain(), 2700)),
    "chain of 110 KB": lambda: changed(plain(), *[with_names(plain(), 180)] * 20),
    "P-192": lambda: garbled(_curve_spki("1.2.840.10045.3.1.1", 48), "ecdsa"),
    "secp256k1": lambda: Sample(
        samples.with_spki(samples.spki("secp256k1")), Key("ecdsa", lambda _: bytes(70))
    ),
    "point not on the curve": lambda: garbled(_curve_spki("1.2.840.10045.3.1.7", 64), "ecdsa"),
    "point at infinity": lambda: garbled(_curve_spki("1.2.840.10045.3.1.7", 0), "ecdsa"),
    "RSA 16384": lambda: garbled(samples.rsa_spki(16384, (1 << 63) + 1), size=16384),
    "RSA 512": lambda: garbled(samples.rsa_spki(512), size=512),
    "RSA e=1": lambda: garbled(samples.rsa_spki(2048, 1)),
    "RSA e even": lambda: garbled(samples.rsa_spki(2048, 65536)),
    "RSA modulus 0": lambda: garbled(_rsa_spki(0, 65537)),
    "RSA negative": lambda: garbled(_rsa_spki(-1, 65537)),
    "DSA": lambda: garbled(samples.spki("DSA"), "ecdsa"),
    "X25519": lambda: garbled(samples.spki("X25519"), "Ed25519", 512),
    "unknown kind of key": lambda: garbled(
        tlv(0x30, tlv(0x30, oid("1.3.6.1.4.1.99999.2")), tlv(0x03, b"\0key")), "Ed25519", 512
    ),
}


class HurtingTestCase(AttackTestCase):
    timeout = 60

    def start(self, *answers: Any, **options: Any) -> None:
        super().start(*answers, authorities=[authority().certificate], **options)

    def settle(self, policy: PolicySettings) -> None:
        """Set the policy for the requests that follow."""
        self.proxy.resource._policy = policy

    async def show(self, found: Sample, version: str) -> tuple[str, Observed]:
        """Check the result, and that nothing else happens."""
        self.back_end.received.clear()
        self.back_end.requests.clear()
        exchanges = len(self.proxy.exchanges)
        heard = await self.attack(
            Attack(shown=[found.der, *found.more], key=found.key, version=version)
        )
        if heard.answer.startswith(b"HTTP/1.1 200"):
            (request,) = self.back_end.requests
            self.assertEqual([pem_header(found.der)], request.values(HEADER))
            self.assertNotIn(b"Injected", request.raw)
            return PASSED, heard
        self.assertEqual(b"", bytes(self.back_end.received))
        if heard.answer:
            self.assertIn(heard.answer[:12], (b"HTTP/1.1 401", b"HTTP/1.1 400"))
            head, _, body = heard.answer.partition(b"\r\n\r\n")
            self.assertEqual({"error", "error_description"}, set(json.loads(body)))
            self.assertEqual("invalid_client", json.loads(body)["error"])
            self.assertIn(b"Cache-Control: no-store", head)
            return REFUSED, heard
        self.assertNotEqual("", heard.alert)
        self.assertEqual(exchanges, len(self.proxy.exchanges))
        return ENDED, heard

    async def expect(
        self,
        wanted: str,
        table: Iterable[tuple[str, Callable[[], Sample]]],
        versions: Iterable[str] = VERSIONS,
    ) -> None:
        """Check that each sample has this result."""
        wrong = []
        for label, make in table:
            for version in versions:
                found = make()
                became, heard = await self.show(found, version)
                if became != wanted and not (wanted == "not passed on" and became != PASSED):
                    wrong.append((label, version, became, heard.alert, heard.answer[-150:]))
        self.assertEqual([], wrong)


class EveryRow(HurtingTestCase):
    async def test_harmless(self) -> None:
        """An odd but valid certificate arrives byte for byte."""
        self.start()
        await self.expect(PASSED, HARMLESS.items())
        await self.expect_service()

    async def test_strange(self) -> None:
        """A certificate of an unknown origin is passed on where any is, byte for byte."""
        self.start()
        await self.expect(PASSED, STRANGE.items())
        await self.expect_service()

    async def test_untimely(self) -> None:
        """A certificate outside of its validity is rejected, or passed on where that is ignored."""
        self.start()
        await self.expect(REFUSED, UNTIMELY.items())
        self.settle(PolicySettings(validity=Validity.IGNORE))
        await self.expect(PASSED, UNTIMELY.items())
        await self.expect_service()

    async def test_dates_in_the_answer(self) -> None:
        """The error response has the date since or until which the certificate is invalid."""
        self.start()
        for label, date in (
            ("expired", "2021-01-01T00:00:00Z"),
            ("not yet valid", "2090-01-01T00:00:00Z"),
        ):
            _, heard = await self.show(UNTIMELY[label](), "TLSv1.3")
            self.assertIn(
                date, json.loads(heard.answer.partition(b"\r\n\r\n")[2])["error_description"]
            )

    async def test_never(self) -> None:
        """A weak, unreadable or too large certificate is rejected with a reason, always."""
        self.start(policy=PolicySettings(trust=Trust.ANY, validity=Validity.IGNORE))
        await self.expect(REFUSED, NEVER.items())
        await self.expect_service()

    async def test_nowhere(self) -> None:
        """An unusable certificate ends the handshake or is rejected: nothing arrives."""
        self.start(policy=PolicySettings(trust=Trust.ANY, validity=Validity.IGNORE))
        await self.expect("not passed on", NOWHERE.items())
        await self.expect_service()

    async def test_outer_length_in_ber(self) -> None:
        """A certificate whose outer length is BER arrives as its DER, or not at all."""
        self.start()
        for odd in (long_form(plain()), indefinite(plain())):
            for version in VERSIONS:
                self.back_end.requests.clear()
                heard = await self.attack(
                    Attack(shown=[odd], key=real_key(pair()), version=version)
                )
                values = [
                    value for request in self.back_end.requests for value in request.values(HEADER)
                ]
                self.assertIn(values, ([], [pem_header(plain())]))
                self.assertEqual(bool(values), heard.answer.startswith(b"HTTP/1.1 200"), heard)
        await self.expect_service()


class PostQuantum(HurtingTestCase):
    async def show_ml_dsa(self, kind: str) -> tuple[bytes, bytes, Exchange]:
        """Return the certificate, the response, and the record."""
        found: Any = pair(kind)
        heard = await self.attack(ml_dsa_attack(kind, found.der, found.private_key.sign))
        return found.der, heard.answer, self.proxy.exchanges[-1]

    async def test_all(self) -> None:
        """Certificates of all three sizes are passed on, and the group is recorded."""
        self.start()
        for kind in ML_DSA_SCHEMES:
            der, answer, exchange = await self.show_ml_dsa(kind)
            self.assertEqual(b"HTTP/1.1 200", answer[:12])
            self.assertEqual([pem_header(der)], self.back_end.requests[-1].values(HEADER))
            # tlslite offers no hybrid group.
            self.assertEqual("x25519", exchange.key_exchange)
        await self.ask(get(), self.honest)
        self.assertIn(self.proxy.exchanges[-1].key_exchange, ("X25519MLKEM768", "x25519"))

    async def test_key_types(self) -> None:
        """A type that is left out of ``key-types`` is rejected by its name."""
        self.start(policy=PolicySettings(key_types=(KeyType.EC, KeyType.ML_DSA_65)))
        _, answer, exchange = await self.show_ml_dsa("ML-DSA-44")
        self.assertEqual(b"HTTP/1.1 401", answer[:12])
        self.assertIn(b"must have a key of type ec or ml-dsa-65, not ML-DSA-44", answer)
        self.assertIs(Code.KEY_TYPE_NOT_ALLOWED, exchange.code)
        _, answer, _ = await self.show_ml_dsa("ML-DSA-65")
        self.assertEqual(b"HTTP/1.1 200", answer[:12])

    async def test_size(self) -> None:
        """A certificate larger than ``max-certificate-bytes`` is 400.

        Its thumbprint arrives with the default settings.
        """
        self.start(policy=PolicySettings(max_certificate_bytes=6144))
        _, answer, exchange = await self.show_ml_dsa("ML-DSA-87")
        self.assertEqual(b"HTTP/1.1 400", answer[:12])
        self.assertIs(Code.CERTIFICATE_TOO_LARGE, exchange.code)
        self.start(rules=HeaderRules((HeaderPlan(Format.THUMBPRINT, HEADER.encode()),)))
        der, answer, _ = await self.show_ml_dsa("ML-DSA-87")
        self.assertEqual(b"HTTP/1.1 200", answer[:12])
        expected = [thumbprint(der).encode()]
        self.assertEqual(expected, self.back_end.requests[-1].values(HEADER))


class Usages(HurtingTestCase):
    async def test_named(self) -> None:
        """With ``trust = "ca"`` a server's certificate is rejected for its usage, by name."""
        self.start(policy=PolicySettings(trust=Trust.CA))
        issued = of("EC P-256", issuer=authority(), usage=ExtendedKeyUsageOID.SERVER_AUTH)
        for version in VERSIONS:
            became, heard = await self.show(issued, version)
            self.assertEqual(REFUSED, became)
            description = json.loads(heard.answer.partition(b"\r\n\r\n")[2])["error_description"]
            self.assertIn("extended key usage has serverAuth, expected clientAuth", description)
            self.assertIs(Code.WRONG_USAGE, self.proxy.exchanges[-1].code)


def issued_by_authority(der: bytes) -> bytes:
    """Return the certificate with the authority's name and signature."""
    der = with_part(der, ISSUER, parts_of(authority().der)[SUBJECT])
    key: Any = authority().private_key
    return with_signature(der, key.sign(elements(der)[0], ec.ECDSA(hashes.SHA256())))


def with_alternative_name(name: bytes) -> bytes:
    return with_extensions(plain(), extension("2.5.29.17", tlv(0x30, name)))


@functools.cache
def victim() -> Pair:
    return pair(subject="CN=victim", issuer=authority())


# Names, and certificates beside its own, by which a client could pass for another one in some
# format.
NAMES: dict[str, Callable[[], bytes]] = {
    "NUL in a name": lambda: with_part(plain(), SUBJECT, name(b"victim\0.attacker")),
    "quote in a name": lambda: with_part(plain(), SUBJECT, name(b'x"y')),
    "quotes and separators in a name": lambda: with_part(
        plain(), SUBJECT, name(b'x";Cert="y",Hash=0;Subject="CN=victim')
    ),
    "backslash at the end of a name": lambda: with_part(plain(), SUBJECT, name(b"x\\")),
    "line ends in a name": lambda: with_part(
        plain(), SUBJECT, name(b"x\r\nX-Forged: 1\r\n\r\nGET /x HTTP/1.1")
    ),
    # Envoy's CVE-2025-66220: what stands behind the NUL was not compared.
    "NUL in an OTHERNAME": lambda: with_alternative_name(
        tlv(0xA0, oid("1.3.6.1.4.1.311.20.2.3"), tlv(0xA0, tlv(0x0C, b"victim@example\0.attacker")))
    ),
    "NUL in a DNS name": lambda: with_alternative_name(tlv(0x82, b"victim.example\0.attacker")),
    "NUL in a URI": lambda: with_alternative_name(tlv(0x86, b"spiffe://victim\0/attacker")),
    "quote in an e-mail address": lambda: with_alternative_name(tlv(0x81, b'x";URI="victim')),
}
CHAINS: dict[str, Callable[[], tuple[bytes, ...]]] = {
    "alone": tuple,
    "victim behind it": lambda: (victim().der,),
    "victim and authority behind it": lambda: (victim().der, authority().der),
    "authority and victim behind it": lambda: (authority().der, victim().der),
}


def decoded(form: Format, value: bytes) -> list[bytes]:
    """Return the certificates in a header's value, read as its servers read it."""
    match form:
        case Format.PEM | Format.PEM_SPACES:
            inner = value.removeprefix(b"-----BEGIN CERTIFICATE-----")
            return [b64decode(inner.removesuffix(b"-----END CERTIFICATE-----").replace(b" ", b""))]
        case Format.PEM_URL:
            return [
                x509.load_pem_x509_certificate(unquote_to_bytes(value)).public_bytes(Encoding.DER)
            ]
        case Format.BASE64_DER:
            return [b64decode(value, validate=True)]
        case Format.RFC9440 | Format.RFC9440_CHAIN:
            return [b64decode(item.strip(b":"), validate=True) for item in value.split(b", ")]
        case Format.XFCC:
            hashed, pem, subject = value.split(b";")
            der = decoded(Format.PEM_URL, pem.removeprefix(b'Cert="').removesuffix(b'"'))
            assert hashed == b"Hash=" + hashlib.sha256(der[0]).hexdigest().encode()
            assert subject[:9] == b'Subject="' and subject.find(b'"', 9) == len(subject) - 1
            assert b"," not in value
            return der
    return []


_FORMS = [form for form in Format if form not in {Format.LITERAL, Format.TOKEN_CLAIMS}]


class EveryFormat(HurtingTestCase):
    """One back end with the certificate in all formats, and each issuer where there is a place."""

    def start_all(self, trust: Trust) -> None:
        plans = [HeaderPlan(form, f"X-Told-{form.value}".encode()) for form in _FORMS]
        issuers = [
            HeaderPlan(form, f"X-Issuer-{form.value}".encode(), chain_index=2)
            for form in (Format.PEM, Format.PEM_SPACES, Format.PEM_URL, Format.BASE64_DER)
        ]
        rules = HeaderRules((HeaderPlan(Format.PEM, HEADER.encode()), *plans, *issuers))
        self.start(policy=PolicySettings(trust=trust), rules=rules)

    async def expect_own(self, label: str, found: Sample, version: str, *chain: bytes) -> None:
        """Check that each header is that of this certificate and this chain."""
        became, heard = await self.show(found, version)
        self.assertEqual(PASSED, became, (label, heard))
        (request,) = self.back_end.requests
        self.assertRegex(request.raw, rb"\A[\r\n -~]*\Z")
        names = [name for name, _ in request.pairs if name.startswith((b"X-Told-", b"X-Issuer-"))]
        self.assertEqual(len(set(names)), len(names), label)
        for form in _FORMS:
            values = request.values(f"X-Told-{form.value}")
            ders = [der for value in values for der in decoded(form, value)]
            of_chain = form is Format.RFC9440_CHAIN
            expected = list(chain) if of_chain else [found.der] if ders else []
            self.assertEqual(expected, ders, (label, form))
            issuers = request.values(f"X-Issuer-{form.value}")
            self.assertEqual(
                [], [der for value in issuers for der in decoded(form, value) if der not in chain]
            )
        self.assertEqual([thumbprint(found.der).encode()], request.values("X-Told-thumbprint"))

    async def test_names(self) -> None:
        """A NUL, a quote or a separator in a name changes no client's identity, in any format."""
        self.start_all(Trust.ANY)
        for label, make in NAMES.items():
            for version in VERSIONS:
                await self.expect_own(label, changed(make()), version)
        await self.expect_service()

    async def test_names_by_an_authority(self) -> None:
        """The same where an authority has signed these names."""
        self.start_all(Trust.CA)
        for label, make in NAMES.items():
            await self.expect_own(label, changed(issued_by_authority(make())), "TLSv1.3")

    async def test_victim_in_the_chain(self) -> None:
        """A victim's certificate beside a client's own is in no header (Keycloak CVE-2023-2422)."""
        self.start_all(Trust.ANY)
        for label, more in CHAINS.items():
            for version in VERSIONS:
                await self.expect_own(label, changed(plain(), *more()), version)
        await self.expect_service()

    async def test_victim_in_a_trusted_chain(self) -> None:
        """Where an authority has issued the certificate, the chain is the authority's alone."""
        self.start_all(Trust.CA)
        own = issued_by_authority(with_part(plain(), SUBJECT, name(b"attacker")))
        for label, more in CHAINS.items():
            sent = more()
            chain = [authority().der] if authority().der in sent else []
            for version in VERSIONS:
                await self.expect_own(label, changed(own, *sent), version, *chain)


class EveryTrust(HurtingTestCase):
    async def test_self_signed(self) -> None:
        """Where self-signed ones are required, others are rejected, and odd ones are not."""
        self.start(policy=PolicySettings(trust=Trust.SELF_SIGNED))
        await self.expect(REFUSED, STRANGE.items(), ["TLSv1.3"])
        await self.expect(
            PASSED,
            [(label, make) for label, make in HARMLESS.items() if "P-" in label or "150" in label],
            ["TLSv1.2"],
        )
        await self.expect("not passed on", [*NEVER.items(), *NOWHERE.items()], ["TLSv1.3"])
        await self.expect_service()

    async def test_authority(self) -> None:
        """Where an authority is required, only its certificates arrive, valid now or not."""
        issued = of("EC P-256", subject="CN=issued", issuer=authority())
        late = of("EC P-256", subject="CN=issued", issuer=authority(), years=(2020, 2021))
        for trust in (Trust.CA, Trust.EITHER):
            self.start(policy=PolicySettings(trust=trust))
            await self.expect(PASSED, [("issued", lambda: issued)])
            await self.expect(REFUSED, [("late", lambda: late)], ["TLSv1.3"])
            await self.expect(REFUSED, STRANGE.items(), ["TLSv1.2"])
            if trust is Trust.CA:
                await self.expect(
                    "not passed on",
                    [*HARMLESS.items(), *UNTIMELY.items(), *NEVER.items()],
                    ["TLSv1.3"],
                )
            self.settle(PolicySettings(trust=trust, validity=Validity.IGNORE))
            await self.expect(PASSED, [("late", lambda: late)], ["TLSv1.3"])

    async def test_weak_authority(self) -> None:
        """An authority's signature does not make a weak key strong."""
        self.start(policy=PolicySettings(trust=Trust.CA))
        weak = of("RSA 1024", subject="CN=weak", issuer=authority())
        await self.expect(REFUSED, [("weak", lambda: weak)])


# The cost of a handshake.


@functools.cache
def dear_names(links: int = 25) -> tuple[bytes, ...]:
    """Make a leaf with 2900 names, and issuers that exclude 360 others each; 62 KB."""
    names = x509.SubjectAlternativeName([x509.DNSName("a")] * 2900)
    excluded = x509.NameConstraints(None, [x509.DNSName("b")] * 360)
    may_issue = x509.BasicConstraints(ca=True, path_length=None)
    issuers = [
        certificate(f"CN={link}", f"CN={link + 1}", b"", may_issue, excluded)
        for link in range(links)
    ]
    return (certificate("CN=leaf", "CN=0", b"", names), *issuers)


def dear_subject() -> tuple[bytes, ...]:
    """Make a certificate with 7000 parts in its name; 84 KB."""
    return (with_part(certificate("CN=a", "CN=a"), SUBJECT, name(b"x", count=7000)),)


class Cost(SynchronousTestCase):
    # Measured: 12 to 14 times an ordinary handshake's cost; 47 with an authority.
    def expect_bounded(
        self, shown: tuple[bytes, ...], most: float = 40.0, authorities: tuple[Pair, ...] = ()
    ) -> None:
        ordinary = handshake_cost((certificate("CN=a", "CN=a"),), 10)
        dear = handshake_cost(shown, server_context=server_context(authorities=authorities))
        self.assertLess(
            dear / ordinary, most, f"{dear * 1000:.1f} ms, an ordinary one {ordinary * 1000:.2f} ms"
        )

    def test_chain(self) -> None:
        """A chain of issuers with slow keys costs no more than some ordinary handshakes."""
        self.expect_bounded(costly_chain())

    def test_chain_beside_an_authority(self) -> None:
        """The same holds with an authority, at which a chain may end."""
        self.expect_bounded(costly_chain(), 120.0, (authority(),))

    def test_names(self) -> None:
        """Names to be compared with what a chain excludes cost no more either."""
        self.expect_bounded(dear_names())

    def test_subject(self) -> None:
        """A name of thousands of parts, in too large a certificate, costs no more either."""
        self.expect_bounded(dear_subject())


class Log(SynchronousTestCase):
    def test_line(self) -> None:
        """A long name is cut in the log, so that a client cannot fill the disk with it."""
        subject = with_part(
            certificate("CN=a", "CN=a"), SUBJECT, name("\U0001f600".encode() * 1400)
        )
        found = ClientCertificate.from_x509(x509.load_der_x509_certificate(subject), ())
        self.assertLess(len(found.der), PolicySettings().max_certificate_bytes)
        exchange = Exchange(
            started=0.0, duration=0.0, peer="127.0.0.1", method="GET", target="/",
            version="HTTP/1.1", status=200,
            outcome=Outcome.COMPLETED, bytes_in=0, bytes_out=0, tls_version="TLSv1.3",
            certificate=found, forged=0,
            invalid_header_names=0, backend="",
        )  # fmt: skip
        self.assertEqual(Verdict.TRUSTED, found.verdict)
        self.assertLess(len(access_line(exchange)), PolicySettings().max_certificate_bytes)
