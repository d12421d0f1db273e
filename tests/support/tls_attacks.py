"""TLS clients, in tlslite-ng, that break the protocol in one point."""

from __future__ import annotations

import socket
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import attrs
from cryptography.hazmat.primitives import serialization
from tlslite.constants import AlertDescription, ContentType, HandshakeType  # type: ignore[import-untyped]
from tlslite.errors import TLSAlert, TLSError  # type: ignore[import-untyped]
from tlslite.handshakesettings import HandshakeSettings  # type: ignore[import-untyped]
from tlslite.tlsconnection import TLSConnection  # type: ignore[import-untyped]
from tlslite.utils.keyfactory import parsePEMKey  # type: ignore[import-untyped]
from tlslite.x509certchain import X509CertChain  # type: ignore[import-untyped]
from twisted.internet.threads import deferToThread

from tests.support.certificates import Pair
from tests.support.raw_tls import HEADER, ProxyTestCase, get
from x509proxy.certificates.self_signed import SelfSigned
from x509proxy.testing import RecordedRequest, client_identity, header_value

VERSIONS = {"TLSv1.2": (3, 3), "TLSv1.3": (3, 4)}


PATIENCE = 10.0


@attrs.define
class Key:
    """A key of any kind, with a chosen signature: ``tlslite`` verifies neither."""

    key_type: str
    make: Callable[[bytes], bytes]
    curve_name: str = "NIST256p"
    size: int = 2048

    def __len__(self) -> int:
        return self.size

    @property
    def private_key(self) -> Any:
        """A curve that uses 66 octets of a digest."""
        return SimpleNamespace(curve=SimpleNamespace(baselen=66))

    def sign(self, data: Any, *_: object) -> bytearray:
        return bytearray(self.make(bytes(data)))

    hashAndSign = sign

    def verify(self, *_: object) -> bool:
        return True

    hashAndVerify = verify


def real_key(found: Pair) -> Any:
    """Return the key as an object of ``tlslite``."""
    key = serialization.load_der_private_key(found.key_der, None)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )  # fmt: skip
    return parsePEMKey(pem.decode("ascii"), private=True, implementations=["python"])


@attrs.frozen
class Entry:
    """One certificate of the message: any bytes."""

    der: bytes
    certAlg: str
    publicKey: Any

    def writeBytes(self) -> bytearray:
        return bytearray(self.der)


def _ask(connection: Any) -> None:
    connection.write(get())


@attrs.frozen(kw_only=True)
class Attack:
    """One client: its certificates, the key that signs, and its deviations from the protocol."""

    shown: Sequence[bytes] = ()
    key: Any = None
    version: str = "TLSv1.3"
    session: Any = None
    settings: dict[str, Any] = attrs.Factory(dict)
    # Called with each message before it is sent; returns the message, another one, or None for
    # none.
    edit: Callable[[Any], Any] = lambda message: message
    # Called after the handshake.
    then: Callable[[Any], None] = _ask


@attrs.define
class Observed:
    """The client's view: an alert's name, ``cut`` or nothing; and the response."""

    alert: str = ""
    answer: bytes = b""
    resumed: bool = False


def run_attack(port: int, attack: Attack) -> Observed:
    """Attack the loopback's ``port``, until the end of the connection."""
    heard = Observed()
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as plain:
        connection = TLSConnection(plain)
        try:
            _shake(connection, attack)
            heard.resumed = connection.resumed
            attack.then(connection)
            while piece := connection.read(max=65536, min=1):
                heard.answer += piece
        except TLSAlert as error:
            heard.alert = AlertDescription.toRepr(error.description) or str(error.description)
        except (TLSError, OSError) as error:
            assert not isinstance(error, TimeoutError), "the proxy did not end it"
            heard.alert = "cut"
    return heard


def _shake(connection: Any, attack: Attack) -> None:
    send = connection._sendMsg

    def edited(message: Any, *arguments: Any, **named: Any) -> Iterator[Any]:
        changed = attack.edit(message)
        if changed is not None:
            yield from send(changed, *arguments, **named)

    connection._sendMsg = edited
    settings = HandshakeSettings()
    settings.minVersion = settings.maxVersion = VERSIONS[attack.version]
    # It would compress its certificate without a request for that.
    settings.certificate_compression_send = []
    for name, value in attack.settings.items():
        setattr(settings, name, value)
    connection.recordSize = attack.settings.get("record_bytes", connection.recordSize)
    chain = X509CertChain(
        [Entry(der, _certificate_kind(attack.key), attack.key) for der in attack.shown]
    )
    alpn = [bytearray(b"h2"), bytearray(b"http/1.1")]
    if attack.key is None:
        connection.handshakeClientCert(settings=settings, session=attack.session, alpn=alpn)
    else:
        connection.handshakeClientCert(
            chain, attack.key, settings=settings, session=attack.session, alpn=alpn
        )


def _certificate_kind(key: Any) -> str:
    return str(getattr(key, "key_type", "ecdsa"))


def is_kind(message: Any, kind: int) -> bool:
    """Return whether a message is of that handshake type."""
    return (
        message.contentType == ContentType.handshake
        and getattr(message, "handshakeType", None) == kind
    )


def pem_header(found: bytes) -> bytes:
    """Return the value of the header for a certificate."""
    return b"-----BEGIN CERTIFICATE-----" + b64encode(found) + b"-----END CERTIFICATE-----"


class AttackTestCase(ProxyTestCase):
    """A test with an attacked proxy, after which an honest client must be served."""

    honest: SelfSigned

    def start(self, *answers: Any, **options: Any) -> None:
        super().start(*answers, **options)
        self.honest = client_identity()

    async def attack(self, attack: Attack) -> Observed:
        return await deferToThread(run_attack, self.proxy.port, attack)

    def expect_silence(self) -> None:
        """Check that the back end has received no byte and no connection."""
        self.assertEqual((b"", 0), (bytes(self.back_end.received), self.back_end.accepted))

    async def expect_service(self) -> None:
        """Check that an honest client is served with its own certificate."""
        before = len(self.honest_requests())
        reply = await self.ask(get("/honest"), self.honest)
        self.assertEqual(200, reply.status)
        found = self.honest_requests()
        self.assertEqual(before + 1, len(found))
        self.assertEqual([header_value(self.honest)], found[-1].values(HEADER))

    def honest_requests(self) -> list[RecordedRequest]:
        """Return the honest clients' requests; an attacker's last one may still be on its way."""
        return [request for request in self.back_end.requests if b" /honest " in request.start]

    async def expect_refused(self, attack: Attack, *alerts: str) -> None:
        """Check that the handshake ends with one of these alerts, and nothing is forwarded."""
        await self.expect_end(attack, *alerts)
        self.expect_silence()

    async def expect_end(self, attack: Attack, *alerts: str) -> None:
        """Check that it ends with one of these alerts, without a response to its request."""
        heard = await self.attack(attack)
        self.assertIn(heard.alert, alerts, attack)
        self.assertEqual(b"", heard.answer)

    async def expect_identity(self, attack: Attack, der: bytes | None) -> Observed:
        """Check that the request is forwarded, after a full handshake, with this certificate."""
        before = len(self.back_end.requests)
        heard = await self.attack(attack)
        self.assertEqual((b"HTTP/1.1 200", False), (heard.answer[:12], heard.resumed), heard)
        (request,) = self.back_end.requests[before:]
        self.assertEqual([] if der is None else [pem_header(der)], request.values(HEADER))
        return heard


# draft-ietf-tls-mldsa section 3.
ML_DSA_SCHEMES = {"ML-DSA-44": (9, 4), "ML-DSA-65": (9, 5), "ML-DSA-87": (9, 6)}


def ml_dsa_attack(kind: str, shown: bytes, signer: Any) -> Attack:
    """Make a client with a certificate of that kind, for which ``signer`` signs.

    ``tlslite`` treats the key as an Ed25519 one.
    """

    def edit(message: Any) -> Any:
        if is_kind(message, HandshakeType.certificate_verify):
            message.signatureAlgorithm = ML_DSA_SCHEMES[kind]
        return message

    return Attack(shown=[shown], key=Key("Ed25519", signer), edit=edit)
