"""Attacks on the handshake, over real sockets, by ``tlslite-ng``: OpenSSL's client makes none."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import attrs
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL
from tlslite.constants import ContentType, HandshakeType  # type: ignore[import-untyped]
from tlslite.extensions import SNIExtension  # type: ignore[import-untyped]
from tlslite.messages import Message  # type: ignore[import-untyped]
from tlslite.session import Session, Ticket  # type: ignore[import-untyped]
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SynchronousTestCase

from tests.support.certificates import pair
from tests.support.memory import accept
from tests.support.raw_tls import HEADER, get, read_reply
from tests.support.tls_attacks import (
    ML_DSA_SCHEMES,
    PATIENCE,
    VERSIONS,
    Attack,
    AttackTestCase,
    Key,
    is_kind,
    ml_dsa_attack,
    pem_header,
    real_key,
)
from tests.support.tls_memory import server_context
from x509proxy.certificates.client_certificate import ClientCertificate
from x509proxy.downstream.factory import ProxyFactory
from x509proxy.settings import ClientAuth, ClientSettings, PolicySettings
from x509proxy.testing import header_value
from x509proxy.transport import tls_context
from x509proxy.transport.deadlines import Deadlines
from x509proxy.transport.tls_context import ServerConnections

SUITE = 0xC02B  # TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256


def without(kind: int) -> Callable[[Any], Any]:
    """Return an edit that omits a message."""
    return lambda message: None if is_kind(message, kind) else message


def send_all(steps: Iterator[Any]) -> None:
    """Run what ``tlslite`` writes as a generator, to its end."""
    for _ in steps:
        pass


def saying(signature: bytes) -> Any:
    """Make a key that signs everything alike."""
    return Key("ecdsa", lambda _: signature)


class MlDsa(AttackTestCase):
    async def test_client_of_ours(self) -> None:
        """The attacking client is accepted with its own key: so the attack is what is rejected."""
        self.start()
        for kind in ML_DSA_SCHEMES:
            found: Any = pair(kind)
            await self.expect_identity(
                ml_dsa_attack(kind, found.der, found.private_key.sign), found.der
            )

    async def test_key_of_another(self) -> None:
        """A victim's ML-DSA certificate with another key, or a bad signature ends the handshake."""
        self.start()
        for kind in ML_DSA_SCHEMES:
            victim: Any = pair(kind, "CN=victim")
            thief: Any = pair(kind, "CN=thief")
            stolen = victim.private_key.sign(b"another handshake")
            for signer in (
                thief.private_key.sign,
                lambda _, stolen=stolen: stolen,
                lambda _, stolen=stolen: stolen[:-1],
                lambda _: b"",
            ):
                await self.expect_refused(
                    ml_dsa_attack(kind, victim.der, signer), "decrypt_error", "decode_error"
                )
        await self.expect_service()

    async def test_key_of_another_size(self) -> None:
        """A signature of another parameter set than the certificate's ends the handshake."""
        self.start()
        victim: Any = pair("ML-DSA-65", "CN=victim")
        other: Any = pair("ML-DSA-44")
        await self.expect_refused(
            ml_dsa_attack("ML-DSA-44", victim.der, other.private_key.sign),
            "illegal_parameter",
            "decrypt_error",
        )


class Possession(AttackTestCase):
    async def test_a_client_of_ours(self) -> None:
        """The attacking client is accepted while it keeps to the rules."""
        self.start()
        for version in VERSIONS:
            for kind in ("EC P-256", "RSA 2048", "Ed25519"):
                found = pair(kind)
                await self.expect_identity(
                    Attack(shown=[found.der], key=real_key(found), version=version), found.der
                )
            await self.expect_identity(Attack(version=version), None)

    async def test_key_of_another(self) -> None:
        """A victim's certificate with another key ends the handshake, with a request or not."""
        self.start()
        for kind, other in (
            ("EC P-256", pair(subject="CN=attacker")),
            ("RSA 2048", pair("RSA 2048", "CN=attacker")),
        ):
            for version in VERSIONS:
                victim = pair(kind, "CN=victim")
                await self.expect_refused(
                    Attack(shown=[victim.der], key=real_key(other), version=version),
                    "decrypt_error",
                )
        await self.expect_service()

    async def test_key_of_another_kind(self) -> None:
        """A signature by a key of another kind than the certificate's ends the handshake."""
        self.start()
        for version in VERSIONS:
            attack = Attack(
                shown=[pair("RSA 2048", "CN=victim").der], key=real_key(pair()), version=version
            )
            await self.expect_refused(attack, "illegal_parameter", "decrypt_error")

    async def test_no_signature(self) -> None:
        """A certificate without CertificateVerify ends the handshake: showing it proves nothing."""
        self.start()
        for version in VERSIONS:
            edit = without(HandshakeType.certificate_verify)
            attack = Attack(
                shown=[pair(subject="CN=victim").der],
                key=real_key(pair()),
                version=version,
                edit=edit,
            )
            await self.expect_refused(attack, "unexpected_message", "decode_error")
        await self.expect_service()

    async def test_empty_signature(self) -> None:
        """An empty signature, and one of nothing but zeros, ends the handshake."""
        self.start()
        for version in VERSIONS:
            for signature in (b"", bytes(70), b"\x30\x06\x02\x01\x00\x02\x01\x00"):
                attack = Attack(
                    shown=[pair(subject="CN=victim").der], key=saying(signature), version=version
                )
                await self.expect_refused(
                    attack, "decrypt_error", "decode_error", "illegal_parameter"
                )

    async def test_signature_of_another_handshake(self) -> None:
        """A victim's genuine signature, over another handshake, is refused here."""
        self.start()
        victim = pair(subject="CN=victim")
        genuine: Any = victim.private_key
        for version in VERSIONS:
            stolen: bytes = genuine.sign(
                b" " * 64 + b"TLS 1.3, client CertificateVerify\0" + bytes(32),
                ec.ECDSA(hashes.SHA256()),
            )
            await self.expect_refused(
                Attack(shown=[victim.der], key=saying(stolen), version=version), "decrypt_error"
            )

    async def test_signature_as_a_server(self) -> None:
        """A signature that a victim made as a TLS 1.3 server identifies no client."""
        self.start()
        victim = pair(subject="CN=victim")
        genuine: Any = victim.private_key

        def sign_as_server(data: bytes) -> bytes:
            signature: bytes = genuine.sign(
                data.replace(b"client", b"server"), ec.ECDSA(hashes.SHA256())
            )
            return signature

        # Given whole, not as a digest: then it is seen to be the same signature but for the
        # context.
        await self.expect_refused(
            Attack(shown=[victim.der], key=Key("ecdsa", sign_as_server)), "decrypt_error"
        )

    async def test_empty_list(self) -> None:
        """A client with an empty list of certificates has none.

        If it signs nevertheless, the handshake ends.
        """
        self.start()
        for version in VERSIONS:
            attack = Attack(
                key=Key("Ed25519", lambda _: bytes(64)),
                version=version,
                edit=without(HandshakeType.certificate_verify),
            )
            await self.expect_identity(attack, None)
        self.back_end.received.clear()
        accepted = self.back_end.accepted
        for version in VERSIONS:
            attack = Attack(key=Key("Ed25519", lambda _: bytes(64)), version=version)
            await self.expect_end(attack, "unexpected_message")
        self.assertEqual((b"", accepted), (bytes(self.back_end.received), self.back_end.accepted))

    async def test_no_certificate_message(self) -> None:
        """A client that leaves out the requested message is rejected."""
        self.start()
        edit = without(HandshakeType.certificate)
        for version in VERSIONS:
            await self.expect_refused(
                Attack(version=version, edit=edit), "unexpected_message", "decrypt_error"
            )

    async def test_compressed_certificate(self) -> None:
        """A compressed certificate (RFC 8879), unasked, ends the handshake: nothing is inflated."""
        self.start()
        found = pair()
        settings = {"certificate_compression_send": ["zlib"]}
        await self.expect_refused(
            Attack(shown=[found.der], key=real_key(found), settings=settings),
            "unexpected_message",
            "cut",
        )

    async def test_unasked(self) -> None:
        """A certificate that the server has not requested ends the handshake."""
        self.start(policy=PolicySettings(client_certificate=ClientAuth.NONE))
        found = pair()

        def show(message: Any) -> Any:
            if not is_kind(message, HandshakeType.finished):
                return message
            return Message(ContentType.handshake, bytearray(b"\x0b\0\0\x04\0\0\0\0"))

        await self.expect_refused(
            Attack(shown=[found.der], key=real_key(found), edit=show), "unexpected_message"
        )


class Chains(AttackTestCase):
    async def test_victim_behind_the_attacker(self) -> None:
        """With any certificates behind its own, and any number, an attacker is itself."""
        self.start()
        attacker, victim = pair(subject="CN=attacker"), pair(subject="CN=victim")
        chains = [
            [attacker, victim],
            [attacker, victim, attacker],
            [attacker, victim, victim, victim],
            [attacker, attacker],
        ]
        for version in VERSIONS:
            for chain in chains:
                shown = [found.der for found in chain]
                await self.expect_identity(
                    Attack(shown=shown, key=real_key(attacker), version=version), attacker.der
                )

    async def test_victim_before_the_attacker(self) -> None:
        """With the victim's certificate first it is the victim's key that has to sign."""
        self.start()
        attacker, victim = pair(subject="CN=attacker"), pair(subject="CN=victim")
        for version in VERSIONS:
            shown = [victim.der, attacker.der]
            await self.expect_refused(
                Attack(shown=shown, key=real_key(attacker), version=version), "decrypt_error"
            )

    async def test_same_subject_and_serial(self) -> None:
        """A twin of the victim's certificate, alike but for its key, is passed on as the twin."""
        self.start()
        victim, twin = pair(subject="CN=twin"), pair("EC P-384", "CN=twin")
        for version in VERSIONS:
            key = real_key(twin)
            await self.expect_identity(
                Attack(shown=[twin.der, victim.der], key=key, version=version), twin.der
            )


class Resumption(AttackTestCase):
    def session(self, *, ticket: bytes = b"") -> Any:
        """Return a session to offer, by its id or by a ticket."""
        session = Session()
        session.create(bytearray(48), bytearray(32), SUITE, None, None, None, None, False, None)
        session.tls_1_0_tickets = []
        session.tickets = []
        if ticket:
            session.sessionID = bytearray()
            session.tls_1_0_tickets = [Ticket(bytearray(ticket), 7200, bytearray(48), SUITE)]
        return session

    async def test_session_number(self) -> None:
        """An offer to resume by number in TLS 1.2 is a new handshake, with the client's own key."""
        self.start()
        found = pair(subject="CN=offers")
        attack = Attack(
            shown=[found.der], key=real_key(found), version="TLSv1.2", session=self.session()
        )
        await self.expect_identity(attack, found.der)
        await self.expect_identity(attrs.evolve(attack, shown=(), key=None), None)

    async def test_ticket(self) -> None:
        """A ticket in TLS 1.2 has no effect: the server does a full handshake."""
        self.start()
        found = pair(subject="CN=offers")
        session = self.session(ticket=os.urandom(192))
        heard = await self.attack(
            Attack(shown=[found.der], key=real_key(found), version="TLSv1.2", session=session)
        )
        self.assertEqual((False, b""), (heard.resumed, heard.answer))
        self.expect_silence()
        await self.expect_service()

    async def test_psk(self) -> None:
        """A pre-shared key in TLS 1.3, as in tickets, is not taken: it is a full handshake."""
        self.start()
        found = pair(subject="CN=offers")
        settings = {
            "pskConfigs": [
                (os.urandom(192), os.urandom(32), "sha256"),
                (b"Client_identity", bytes(32), "sha384"),
            ]
        }
        await self.expect_identity(
            Attack(shown=[found.der], key=real_key(found), settings=settings), found.der
        )
        await self.expect_identity(Attack(settings=settings), None)

    async def test_psk_instead_of_possession(self) -> None:
        """A stolen certificate with any offered session is still without its key."""
        self.start()
        victim, key = pair(subject="CN=victim").der, real_key(pair())
        settings = {"pskConfigs": [(os.urandom(192), os.urandom(32), "sha256")]}
        await self.expect_refused(
            Attack(shown=[victim], key=key, settings=settings), "decrypt_error"
        )
        attack = Attack(shown=[victim], key=key, session=self.session(), version="TLSv1.2")
        await self.expect_refused(attack, "decrypt_error")

    async def first_session(self, version: str) -> Any:
        """Return the secrets of a client after a handshake with a certificate."""
        kept: list[Any] = []

        def keep(connection: Any) -> None:
            connection.write(get())
            kept.append(connection)

        await self.expect_identity(
            Attack(shown=[pair().der], key=real_key(pair()), version=version, then=keep), pair().der
        )
        (connection,) = kept
        connection.session.resumable = True
        connection.session.tickets = [*connection.tickets]
        return connection.session

    async def test_genuine_session(self) -> None:
        """With everything of an earlier handshake, but without its key, a client is anonymous."""
        self.start()
        for version in VERSIONS:
            session = await self.first_session(version)
            await self.expect_identity(Attack(version=version, session=session), None)
            other = pair(subject="CN=other")
            attack = Attack(
                shown=[other.der], key=real_key(other), version=version, session=session
            )
            await self.expect_identity(attack, other.der)

    async def test_nothing_in_1_2(self) -> None:
        """In TLS 1.2 a client is given neither a session's number nor a ticket."""
        self.start()
        session = await self.first_session("TLSv1.2")
        self.assertEqual((b"", []), (bytes(session.sessionID), session.tls_1_0_tickets))

    async def test_stdlib_client(self) -> None:
        """OpenSSL itself, with the session of an earlier connection, does not resume it."""
        self.start()

        def twice(version: ssl.TLSVersion) -> list[bool | None]:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(self.proxy.server_pem)
            context.minimum_version = context.maximum_version = version
            session, reused = None, []
            for _ in range(2):
                plain = socket.create_connection(("127.0.0.1", self.proxy.port), PATIENCE)
                with context.wrap_socket(
                    plain, server_hostname="localhost", session=session
                ) as connection:
                    connection.sendall(get())
                    read_reply(connection)
                    session = connection.session
                    reused.append(connection.session_reused)
            return reused

        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            self.assertEqual([False, False], await deferToThread(twice, version))


class Renegotiation(AttackTestCase):
    async def test_hello_again(self) -> None:
        """A second ClientHello on a connection changes no identity: rejected, or cut."""
        self.start()
        found = pair()
        for version in VERSIONS:
            hellos: list[bytes] = []

            def note(message: Any, hellos: list[bytes] = hellos) -> Any:
                if is_kind(message, HandshakeType.client_hello):
                    hellos.append(bytes(message.write()))
                return message

            def again(connection: Any, hellos: list[bytes] = hellos) -> None:
                send_all(
                    connection._sendMsg(
                        Message(ContentType.handshake, bytearray(hellos[0])), update_hashes=False
                    )
                )
                connection.write(get("/again"))

            before = len(self.back_end.requests)
            attack = Attack(
                shown=[found.der], key=real_key(found), version=version, edit=note, then=again
            )
            heard = await self.attack(attack)
            self.assertIn(
                heard.alert,
                ("no_renegotiation", "unexpected_message", "handshake_failure", "cut"),
                version,
            )
            for request in self.back_end.requests[before:]:
                self.assertEqual([pem_header(found.der)], request.values(HEADER))
        await self.expect_service()

    async def test_many_hellos(self) -> None:
        """A flood of them is ended: none costs the proxy another signature."""
        self.start()
        hellos: list[bytes] = []

        def note(message: Any) -> Any:
            if is_kind(message, HandshakeType.client_hello):
                hellos.append(bytes(message.write()))
            return message

        def flood(connection: Any) -> None:
            for _ in range(200):
                send_all(
                    connection._sendMsg(
                        Message(ContentType.handshake, bytearray(hellos[0])), update_hashes=False
                    )
                )
            connection.write(get())

        began = time.process_time()
        heard = await self.attack(Attack(version="TLSv1.2", edit=note, then=flood))
        self.assertNotEqual("", heard.alert)
        self.assertLess(time.process_time() - began, 5.0)
        await self.expect_service()


def record(kind: int, payload: bytes, version: bytes = b"\x03\x01") -> bytes:
    """Encode one TLS record without encryption."""
    return bytes([kind]) + version + struct.pack(">H", len(payload)) + payload


class RawTestCase(AttackTestCase):
    def send_raw(self, *pieces: bytes, half_close: bool = False) -> bytes:
        """Send invalid TLS; return the data that arrives until the proxy ends the connection."""
        heard = b""
        with socket.create_connection(("127.0.0.1", self.proxy.port), PATIENCE) as plain:
            try:
                for piece in pieces:
                    plain.sendall(piece)
                if half_close:
                    plain.shutdown(socket.SHUT_WR)
                while piece := plain.recv(65536):
                    heard += piece
            except ConnectionError:
                pass
        return heard

    def hello(self) -> bytes:
        """Return a proper ClientHello of OpenSSL's, in its record."""
        client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
        client.set_connect_state()
        self.assertRaises(SSL.WantReadError, client.do_handshake)
        return client.bio_read(65536)


GARBAGE = {
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    "PROXY protocol": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + get(),
    "nulls": bytes(4096),
    "0xff": b"\xff" * 4096,
    "SSL 2 hello": bytes.fromhex("802e0100020015000000100700c0030080010080060040040080020080")
    + bytes(16),
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "application data first": record(23, get()),
    "alert first": record(21, b"\x02\x28"),
    "close_notify first": record(21, b"\x01\x00"),
    "change cipher spec first": record(20, b"\x01"),
    "unknown record": record(99, bytes(32)),
    "heartbeat": record(24, b"\x01\xff\xff"),
    "record of 65535 bytes": b"\x16\x03\x01\xff\xff" + bytes(65535),
    "ServerHello": record(22, b"\x02\0\0\x26\x03\x03" + bytes(36)),
    "hello of 16 MB": record(22, b"\x01\xff\xff\xff" + bytes(1000)),
    "hello of nothing": record(22, b"\x01\0\0\0"),
    "empty records": record(22, b"") * 2000,
    "finished": record(22, b"\x14\0\0\x0c" + bytes(12)),
}


class Garbage(RawTestCase):
    async def test_garbage(self) -> None:
        """Bytes that are not TLS end with an alert at the most, and do not arrive."""
        self.start(client=ClientSettings(handshake_timeout=0.5))
        for name, data in GARBAGE.items():
            heard = await deferToThread(self.send_raw, data)
            self.assertTrue(
                heard == b"" or heard[0] == ContentType.alert, f"{name}: {heard[:40]!r}"
            )
            self.assertLess(len(heard), 64, name)
        self.expect_silence()
        await self.expect_service()

    async def test_plain_http(self) -> None:
        """HTTP without TLS is 400 in clear text, with any method, and does not arrive."""
        self.start(client=ClientSettings(handshake_timeout=0.5))
        for data in (
            get(),
            get() * 50,
            b"POST / HTTP/1.1\r\nContent-Length: 99999\r\n\r\n" + bytes(9999),
            b"GET ",
        ):
            heard = await deferToThread(self.send_raw, data)
            if len(data) > 4:
                self.assertTrue(heard.startswith(b"HTTP/1.1 400 "), heard[:40])
                self.assertIn(b"HTTPS", heard)
            self.assertEqual(len(data) > 4, heard.count(b"HTTP/1.1"))
        self.expect_silence()
        await self.expect_service()

    async def test_hello_cut_short(self) -> None:
        """A ClientHello that is cut, or has a changed byte, never reaches the back end."""
        self.start(client=ClientSettings(handshake_timeout=0.3))
        hello = self.hello()
        for place in (1, 5, 6, 9, 40, len(hello) - 1):
            await deferToThread(self.send_raw, hello[:place], half_close=True)
        for place in range(12):
            await deferToThread(
                self.send_raw,
                hello[:place] + bytes([hello[place] ^ 0xFF]) + hello[place + 1 :],
                half_close=True,
            )
        self.expect_silence()
        await self.expect_service()

    async def test_request_behind_the_hello(self) -> None:
        """A request in the clear behind a proper ClientHello is not one."""
        self.start(client=ClientSettings(handshake_timeout=0.5))
        for behind in (get(), record(23, get()), record(23, get(), b"\x03\x03")):
            await deferToThread(self.send_raw, self.hello() + behind)
        self.expect_silence()
        await self.expect_service()


class Slow(RawTestCase):
    TIMEOUT = 0.3

    def time_to_end(self, *pieces: bytes) -> float:
        began = time.monotonic()
        self.send_raw(*pieces)
        return time.monotonic() - began

    async def test_half_handshakes(self) -> None:
        """A handshake that stops is ended in its time: before the hello, within it, or after it."""
        self.start(
            client=ClientSettings(
                handshake_timeout=self.TIMEOUT, idle_timeout=600.0, head_timeout=600.0
            )
        )
        for pieces in ((), (self.hello()[:3],), (self.hello()[:100],), (self.hello(),)):
            took = await deferToThread(self.time_to_end, *pieces)
            self.assertGreaterEqual(took, self.TIMEOUT)
            self.assertLess(took, self.TIMEOUT + 2.0)
        self.expect_silence()
        await self.expect_service()

    async def test_refused(self) -> None:
        """A client whose handshake has failed receives the alert and the end at once."""
        self.start(client=ClientSettings(handshake_timeout=PATIENCE * 2))
        self.assertLess(await deferToThread(self.time_to_end, get()), PATIENCE)
        self.expect_silence()

    async def test_refused_and_stays(self) -> None:
        """A client that continues after that is cut at the deadline, and its bytes are ignored."""
        self.start(
            client=ClientSettings(
                handshake_timeout=self.TIMEOUT, idle_timeout=600.0, head_timeout=600.0
            )
        )
        self.assertLess(await deferToThread(self.time_to_be_cut, get()), self.TIMEOUT + 2.0)
        self.expect_silence()
        await self.expect_service()

    def time_to_be_cut(self, data: bytes) -> float:
        """Return for how long the proxy reads after a failed handshake."""
        began = time.monotonic()
        with (
            socket.create_connection(("127.0.0.1", self.proxy.port), PATIENCE) as plain,
            contextlib.suppress(ConnectionError),
        ):
            while time.monotonic() < began + PATIENCE:
                plain.sendall(data)
        return time.monotonic() - began

    async def test_all_but_finished(self) -> None:
        """A client that sends all messages but ``Finished`` is cut at the deadline."""
        self.start(
            client=ClientSettings(
                handshake_timeout=self.TIMEOUT, idle_timeout=600.0, head_timeout=600.0
            )
        )
        for version in VERSIONS:
            edit = without(HandshakeType.finished)
            heard = await self.attack(
                Attack(
                    shown=[pair().der],
                    key=real_key(pair()),
                    version=version,
                    edit=edit,
                    then=lambda _: None,
                )
            )
            self.assertEqual(b"", heard.answer)
        self.expect_silence()
        await self.expect_service()

    async def test_dripping(self) -> None:
        """Bytes that come one at a time do not put the handshake's end off."""
        self.start(
            client=ClientSettings(handshake_timeout=0.6, idle_timeout=600.0, head_timeout=600.0)
        )

        def drip() -> float:
            began = time.monotonic()
            with socket.create_connection(("127.0.0.1", self.proxy.port), 0.05) as plain:
                for octet in self.hello():
                    try:
                        plain.sendall(bytes([octet]))
                        if not plain.recv(1):
                            break
                    except TimeoutError:
                        continue
                    except OSError as error:
                        self.assertIn(error.errno, (errno.ECONNRESET, errno.EPIPE))
                        break
            return time.monotonic() - began

        self.assertLess(await deferToThread(drip), 3.0)
        self.expect_silence()
        await self.expect_service()

    async def test_idle_crowd(self) -> None:
        """Two hundred connections with half a hello or less keep no other from being served."""
        self.start(client=ClientSettings(handshake_timeout=20.0))

        def crowd() -> list[socket.socket]:
            made = [
                socket.create_connection(("127.0.0.1", self.proxy.port), PATIENCE)
                for _ in range(200)
            ]
            for plain in made[::2]:
                plain.sendall(self.hello()[:77])
            return made

        made = await deferToThread(crowd)
        try:
            await self.expect_service()
        finally:
            for plain in made:
                plain.close()


class FakeClock(SynchronousTestCase):
    def test_deadline(self) -> None:
        """The handshake has ten seconds from the connection's begin, with any bytes in between."""
        clock = Clock()
        nobody: Any = SimpleNamespace(observe=lambda _: None, serve=lambda _: self.fail("served"))
        factory = ProxyFactory(nobody, Deadlines(clock))
        tls = TLSMemoryBIOFactory(ServerConnections(server_context()), False, factory, clock)
        transport, ended = StringTransport(), []
        self.patch(transport, "abortConnection", lambda: ended.append(clock.seconds()))
        protocol = tls.buildProtocol(None)
        protocol.makeConnection(transport)
        for octet in RawTestCase.hello(self)[:100]:  # type: ignore[arg-type]
            protocol.dataReceived(bytes([octet]))
            clock.advance(0.125)
            if ended:
                break
        self.assertEqual([10.0], [round(seconds) for seconds in ended])
        self.assertGreaterEqual(ended[0], 10.0)


def with_names(message: Any, *names: bytes) -> Any:
    """Return a ClientHello with these SNI extensions, as bytes, unchecked by the client."""
    if not is_kind(message, HandshakeType.client_hello):
        return message
    others = message.extensions
    message.extensions = [*(SNIExtension().create(bytearray(name)) for name in names), *others]
    changed = Message(ContentType.handshake, message.write())
    message.extensions = others
    return changed


class ServerName(AttackTestCase):
    NAMES = (
        b"localhost", b"other.example", b"", b"127.0.0.1", b"::1", b"[::1]:443", b"a" * 255,
        b"a" * 65000, b"xn--nxasmq6b", b".",
        b"..", b"a b", b"a\0b", b"a\r\nX-Injected: 1", "ä.example".encode(), b"\xff\xfe", b"%s%n",
        b"'; --", HEADER.encode(),
    )  # fmt: skip

    async def test_names(self) -> None:
        """With any server name a client is served as itself, or the handshake ends."""
        self.start()
        for version in VERSIONS:
            for name in self.NAMES:
                await self.try_name(version, name)
        await self.expect_service()

    async def try_name(self, version: str, name: bytes) -> None:
        def name_it(message: Any) -> Any:
            return with_names(message, name)

        found, before = pair(), len(self.back_end.requests)
        heard = await self.attack(
            Attack(shown=[found.der], key=real_key(found), version=version, edit=name_it)
        )
        requests = self.back_end.requests[before:]
        self.assertEqual(
            int(heard.answer.startswith(b"HTTP/1.1 200")), len(requests), (version, name, heard)
        )
        for request in requests:
            self.assertEqual([pem_header(found.der)], request.values(HEADER))
            self.assertNotIn(b"Injected", request.raw)
        if name in (b"localhost", b"other.example"):
            self.assertEqual(1, len(requests), (version, name, heard))

    async def test_absent(self) -> None:
        """Without a name the client is served the same."""
        self.start()
        for version in VERSIONS:
            await self.expect_identity(
                Attack(shown=[pair().der], key=real_key(pair()), version=version), pair().der
            )

    async def test_two_names(self) -> None:
        """Two SNI extensions, or one with two host names, end the handshake or change nothing."""
        self.start()
        for names in ([b"a.example", b"b.example"], [b"a.example", b"a.example"]):

            def name_it(message: Any, names: list[bytes] = names) -> Any:
                return with_names(message, *names)

            heard = await self.attack(Attack(edit=name_it))
            self.assertIn(
                heard.alert, ("illegal_parameter", "decode_error", "unsupported_extension")
            )
        self.expect_silence()

    async def test_other_than_host(self) -> None:
        """A ``Host`` other than the handshake's name is forwarded: one context serves all names."""
        self.start()
        reply = await self.ask(
            b"GET / HTTP/1.1\r\nHost: elsewhere.example\r\nConnection: close\r\n\r\n", self.honest
        )
        self.assertEqual(200, reply.status)
        self.assertEqual([b"elsewhere.example"], self.back_end.requests[-1].values("Host"))
        self.assertEqual([header_value(self.honest)], self.back_end.requests[-1].values(HEADER))


class Faults(AttackTestCase):
    async def expect_closed(self, target: Any, name: str, failure: type[BaseException]) -> None:
        """Check that a failing callback rejects clients in each version, while it fails."""

        def fail(*_: object, **__: object) -> Any:
            raise failure("injected")

        patch = self.patch(target, name, fail)
        for version in VERSIONS:
            heard = await self.attack(
                Attack(shown=[pair().der], key=real_key(pair()), version=version)
            )
            self.assertFalse(heard.answer.startswith(b"HTTP/1.1 2"), (name, heard))
        patch.restore()
        # Twisted logs an error too where there was no TLS state to close.
        self.flushLoggedErrors(failure, AttributeError)
        self.expect_silence()

    async def test_door(self) -> None:
        """A certificate that cannot become a value is answered 401, without a log of it."""
        self.start()
        for failure in (ValueError, MemoryError, RecursionError, NotImplementedError):

            def fail(*_: object, failure: type[Exception] = failure, **__: object) -> Any:
                raise failure("injected")

            patch = self.patch(ClientCertificate, "from_der", fail)
            for version in VERSIONS:
                heard = await self.attack(
                    Attack(shown=[pair().der], key=real_key(pair()), version=version)
                )
                self.assertEqual(b"HTTP/1.1 401", heard.answer[:12])
                self.assertIn(b"invalid_client", heard.answer)
            patch.restore()
        self.expect_silence()
        await self.expect_service()

    async def test_everywhere(self) -> None:
        """A failure on the way from handshake to header sends nothing to the back end (L3)."""
        self.start()
        for target, name in (
            ("x509proxy.transport.tls_context", "_read"),
            ("x509proxy.transport.peer", "client_auth_of"),
            ("x509proxy.forwarding.decision", "admit"),
            ("x509proxy.forwarding.decision", "_certificate_fields"),
            ("x509proxy.forwarding.decision", "sanitize_request"),
            ("x509proxy.forwarding.decision", "write_fields"),
            ("x509proxy.relay", "write_head"),
        ):
            module = __import__(target, fromlist=["_"])
            for failure in (ValueError, MemoryError):
                await self.expect_closed(module, name, failure)
        await self.expect_service()

    async def test_connection_not_made(self) -> None:
        """A TLS state that cannot be made costs that one client its connection."""
        self.start()
        await self.expect_closed(tls_context, "_Connection", MemoryError)
        await self.expect_service()

    async def test_alpn(self) -> None:
        """A failure in the choice of the protocol ends the handshake."""
        self.start()

        class Odd:
            def __eq__(self, _: object) -> bool:
                raise ValueError("injected")

            __hash__ = None  # type: ignore[assignment]

        patch = self.patch(tls_context, "_HTTP_1_1", Odd())
        for version in VERSIONS:
            heard = await self.attack(Attack(version=version))
            self.assertEqual(b"", heard.answer)
        patch.restore()
        self.flushLoggedErrors(ValueError)
        self.expect_silence()
        await self.expect_service()

    async def test_certificate_not_given(self) -> None:
        """A certificate that OpenSSL does not hand out is not taken for none (invariant L3)."""
        self.start()
        await self.expect_closed(SSL.Connection, "get_peer_certificate", ValueError)
        await self.expect_service()

    async def test_chain_not_given(self) -> None:
        """A trusted client whose chain OpenSSL does not hand out is not passed on without it."""
        authority = pair(subject="CN=authority", ca=True)
        self.start(authorities=[authority.certificate])
        client = pair(issuer=authority)

        def fail(*_: object, **__: object) -> Any:
            raise ValueError("injected")

        patch = self.patch(SSL.Connection, "get_peer_cert_chain", fail)
        heard = await self.attack(Attack(shown=[client.der], key=real_key(client)))
        self.assertEqual(b"HTTP/1.1 401", heard.answer[:12])
        self.expect_silence()
        patch.restore()
        heard = await self.attack(Attack(shown=[client.der], key=real_key(client)))
        self.assertEqual(b"HTTP/1.1 200", heard.answer[:12])


class Records(AttackTestCase):
    async def test_one_byte_each(self) -> None:
        """A request, and a handshake, in records of one byte is one request of one client."""
        self.start()
        found = pair()

        def in_bytes(connection: Any) -> None:
            connection.recordSize = 1
            connection.write(get("/" + "x" * 500))

        for version in VERSIONS:
            attack = Attack(shown=[found.der], key=real_key(found), version=version, then=in_bytes)
            await self.expect_identity(attack, found.der)

    async def test_handshake_in_bytes(self) -> None:
        """A client's whole second flight in records of one byte each is the same flight."""
        self.start()
        found = pair()
        for version in VERSIONS:
            attack = Attack(
                shown=[found.der],
                key=real_key(found),
                version=version,
                settings={"record_bytes": 1},
            )
            await self.expect_identity(attack, found.der)

    async def test_empty_records(self) -> None:
        """Empty records in a request are nothing, and a flood of them is ended."""
        self.start()

        def sprinkle(count: int) -> Callable[[Any], None]:
            def send(connection: Any) -> None:
                for piece in (
                    b"GET / HTTP/1.1\r\n",
                    b"Host: localhost\r\nConnection: close\r\n\r\n",
                ):
                    for _ in range(count):
                        send_all(
                            connection._sendMsg(Message(ContentType.application_data, bytearray()))
                        )
                    connection.write(piece)

            return send

        for version in VERSIONS:
            await self.expect_identity(Attack(version=version, then=sprinkle(3)), None)
        before = len(self.back_end.requests)
        for version in VERSIONS:
            heard = await self.attack(Attack(version=version, then=sprinkle(2000)))
            self.assertIn(heard.alert, ("unexpected_message", "cut"), version)
        self.assertEqual(before, len(self.back_end.requests))
        await self.expect_service()

    async def test_key_updates(self) -> None:
        """Key updates between two requests do not change the client's identity.

        Two thousand of them do not stop the proxy.
        """
        self.start()
        found = pair()
        for count in (1, 2000):

            def update(connection: Any, count: int = count) -> None:
                for number in range(count):
                    send_all(connection.send_keyupdate_request(number % 2))
                connection.write(get())

            attack = Attack(shown=[found.der], key=real_key(found), then=update)
            heard = await self.attack(attack)
            self.assertTrue(
                heard.answer.startswith(b"HTTP/1.1 200") or (count > 1 and heard.alert),
                (count, heard),
            )
        for request in self.back_end.requests:
            self.assertEqual([pem_header(found.der)], request.values(HEADER))
        await self.expect_service()

    async def test_warning_alerts(self) -> None:
        """A flood of warning alerts is ended."""
        self.start()

        def warn(connection: Any) -> None:
            for _ in range(50):
                send_all(connection._sendMsg(Message(ContentType.alert, bytearray(b"\x01\x64"))))
            connection.write(get())

        for version in VERSIONS:
            heard = await self.attack(Attack(version=version, then=warn))
            self.assertEqual(b"", heard.answer, version)
        self.expect_silence()
        await self.expect_service()

    async def test_damaged_record(self) -> None:
        """A changed record ends the connection, and no half of a request is served."""
        self.start()

        def damage(connection: Any) -> None:
            connection.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
            connection.sock.send(record(23, os.urandom(40), b"\x03\x03"))
            connection.sock.flush()

        for version in VERSIONS:
            await self.expect_refused(Attack(version=version, then=damage), "bad_record_mac", "cut")
        await self.expect_service()


class Held(SynchronousTestCase):
    def test_small_pieces(self) -> None:
        """A body of two bytes at a time takes 64 KiB for each connection, not 1.4 MB (L7)."""
        serves: Any = SimpleNamespace(observe=lambda _: None, serve=accept)
        channel: Any = ProxyFactory(serves, Deadlines(Clock())).buildProtocol(None)
        channel.makeConnection(StringTransport())
        channel.dataReceived(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(ClientSettings().request_buffer_bytes // 2 - 1):
            channel.dataReceived(bytes(bytearray(b"ab")))
        after, _ = tracemalloc.get_traced_memory()
        self.assertLess(after - before, 4 * ClientSettings().request_buffer_bytes)


CLOSE_NOTIFY = bytearray(b"\x01\x00")


class CloseNotify(AttackTestCase):
    async def test_before_the_request(self) -> None:
        """Bytes after a client's ``close_notify`` are ignored."""
        self.start()

        def close_first(connection: Any) -> None:
            send_all(connection._sendMsg(Message(ContentType.alert, CLOSE_NOTIFY)))
            connection.write(get())

        for version in VERSIONS:
            heard = await self.attack(
                Attack(shown=[pair().der], key=real_key(pair()), version=version, then=close_first)
            )
            self.assertEqual(b"", heard.answer)
        self.expect_silence()
        await self.expect_service()

    async def test_within_the_request(self) -> None:
        """A request cut short by ``close_notify`` is none, in its head or in its body."""
        self.start()

        def close_within(said: bytes) -> Callable[[Any], None]:
            def send(connection: Any) -> None:
                connection.write(said)
                send_all(connection._sendMsg(Message(ContentType.alert, CLOSE_NOTIFY)))

            return send

        for version in VERSIONS:
            for said in (
                b"GET / HTTP/1.1\r\nHost: a\r\n",
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab",
            ):
                heard = await self.attack(Attack(version=version, then=close_within(said)))
                self.assertNotIn(b"200", heard.answer[:12])
        self.expect_silence()
        await self.expect_service()

    async def test_behind_the_request(self) -> None:
        """A whole request with ``close_notify`` behind it is served at most once."""
        self.start()

        def close_behind(connection: Any) -> None:
            connection.write(get())
            send_all(connection._sendMsg(Message(ContentType.alert, CLOSE_NOTIFY)))
            connection.write(get("/after"))

        for version in VERSIONS:
            await self.attack(Attack(version=version, then=close_behind))
        self.assertLessEqual(
            {request.start for request in self.back_end.requests}, {b"GET / HTTP/1.1"}
        )
        await self.expect_service()

    async def test_cut(self) -> None:
        """A connection reset after the handshake, or after the request, leaves nothing behind."""
        self.start()

        def reset(said: bytes) -> Callable[[Any], None]:
            def cut(connection: Any) -> None:
                if said:
                    connection.write(said)
                plain = connection.sock.socket
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                plain.close()

            return cut

        for said in (b"", b"GET / HT"):
            await self.attack(Attack(then=reset(said)))
        self.expect_silence()
        await self.expect_service()
