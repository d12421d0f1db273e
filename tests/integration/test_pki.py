"""Clients of authorities, revoked or not, and servers with several names: real sockets."""

from __future__ import annotations

import os
import signal
import socket
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from tests.support.certificate_parts import certificate, costly_chain, handshake_cost
from tests.support.certificates import Pair, pair
from tests.support.crls import crl_pem, make_crl
from tests.support.pki import ROOT, VERSIONS, PkiTestCase, value_of
from tests.support.raw_tls import HEADER, get, read_reply, until
from tests.support.services import tls_context_of
from x509proxy.certificates.pem_files import Identity
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.certificates.trust_store import TrustStore
from x509proxy.settings import ClientAuth
from x509proxy.transport.tls_context import make_context

BETWEEN = pair(subject="CN=between", issuer=ROOT, ca=True)
BELOW = pair("RSA 2048", "CN=below", issuer=BETWEEN, ca=True)


class Authorities(PkiTestCase):
    NO_AUTHORITY = "must be issued by a certificate authority that this server trusts"

    async def test_chain(self) -> None:
        """A client's chain is followed within ``ca-depth``, and a longer one is not."""
        self.start(f"{self.MORE}ca-depth = 1")
        for version in VERSIONS:
            await self.passes(pair(issuer=ROOT), version=version)
            await self.passes(pair(issuer=BETWEEN), [BETWEEN], version=version)
            await self.refused(self.NO_AUTHORITY, pair(issuer=BETWEEN), version=version)
            await self.refused(
                self.NO_AUTHORITY, pair(issuer=BELOW), [BELOW, BETWEEN], version=version
            )
            await self.refused(self.NO_AUTHORITY, pair(), version=version)

    async def test_default_depth(self) -> None:
        """Unless it is set, two intermediate certificates are not too many."""
        self.start()
        await self.passes(pair(issuer=BELOW), [BELOW, BETWEEN])

    async def test_either(self) -> None:
        """``either`` passes on self-signed certificates too, with the verdict, lists or none."""
        self.write("crl.pem", crl_pem(make_crl(ROOT)))
        verdict = '[[headers]]\nname = "X-Verdict"\nformat = "verdict"'
        self.start(f'trust = "either"\nca = "ca.pem"\ncrl = "crl.pem"\n{verdict}')
        for client, word in (
            (pair(), b"SELF_SIGNED"),
            (pair("RSA 2048"), b"SELF_SIGNED"),
            (pair(issuer=ROOT), b"TRUSTED"),
        ):
            await self.passes(client)
            self.assertEqual([word], self.back_end.requests[-1].values("X-Verdict"))
        await self.refused("must be self-signed, or issued by", pair(issuer=BETWEEN))
        await self.ask(None)
        self.assertEqual([b"NONE"], self.back_end.requests[-1].values("X-Verdict"))


class ListsTestCase(PkiTestCase):
    """With a list of each authority."""

    MORE = 'trust = "ca"\nca = "ca.pem"\ncrl = ["root.crl", "between.crl"]\n'
    REVOKED = "The client certificate, or that of one of its issuers, has been revoked"

    def setUp(self) -> None:
        super().setUp()
        self.write_ca(ROOT, BETWEEN)
        self.write_lists()

    def write_lists(
        self,
        root: Sequence[Pair] = (),
        between: Sequence[Pair] = (),
        days: tuple[float, float] = (-1, 7),
    ) -> None:
        self.write("root.crl", crl_pem(make_crl(ROOT, *root)))
        self.write("between.crl", make_crl(BETWEEN, *between, days=days).public_bytes(Encoding.DER))


class Lists(ListsTestCase):
    async def test_revoked(self) -> None:
        """A revoked client is refused, in every mode, and its neighbour is not."""
        gone, stays = (
            pair(subject="CN=gone", issuer=BETWEEN),
            pair(subject="CN=stays", issuer=BETWEEN),
        )
        self.write_lists(between=[gone])
        for trust in ("ca", "either", "any"):
            self.start(self.MORE.replace('"ca"', f'"{trust}"', 1))
            for version in VERSIONS:
                for chain in ([], [BETWEEN]):
                    await self.refused(self.REVOKED, gone, chain, version=version)
                    await self.passes(stays, chain, version=version)

    async def test_revoked_intermediate(self) -> None:
        """Certificates that a revoked intermediate has issued are rejected, in every mode.

        What the root has issued itself is not.
        """
        self.write_lists(root=[BETWEEN])
        for trust in ("ca", "either", "any"):
            self.start(self.MORE.replace('"ca"', f'"{trust}"', 1))
            await self.refused(self.REVOKED, pair(issuer=BETWEEN), [BETWEEN])
            await self.passes(pair(issuer=ROOT))

    async def test_expired_list(self) -> None:
        """With an expired list its clients are rejected, with a warning; others are served."""
        self.write_lists(days=(-3, -1))
        [warning] = self.start().reloading.configuration.warnings
        self.assertIn("crl: the list of 'CN=between' expired at ", warning)
        await self.refused(Authorities.NO_AUTHORITY, pair(issuer=BETWEEN))
        await self.passes(pair(issuer=ROOT))


class Reload(ListsTestCase):
    CLIENT = pair(subject="CN=leaves soon", issuer=ROOT)

    def reload(self) -> list[str]:
        """Return the log's lines of a reload."""
        with capturedLogs() as events:
            self.service.reload()
        return [event["log_format"].format(**event) for event in events]

    async def test_hangup(self) -> None:
        """A client that is revoked meanwhile is rejected from the next connection after SIGHUP."""
        self.start()
        await self.passes(self.CLIENT)
        self.write_lists(root=[self.CLIENT])
        await self.passes(self.CLIENT)
        before = tls_context_of(self.service)
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: tls_context_of(self.service) is not before)
        await self.refused(self.REVOKED, self.CLIENT)

    async def test_open_connection(self) -> None:
        """An open connection stays as it is: its client has been judged by the earlier lists."""
        self.start()
        connection = await deferToThread(self.connect, self.CLIENT)
        self.addCleanup(connection.close)
        self.write_lists(root=[self.CLIENT])
        self.reload()
        connection.sendall(get())
        self.assertEqual(200, (await deferToThread(read_reply, connection)).status)

    async def test_authorities(self) -> None:
        """Authorities are read again too."""
        self.start('trust = "ca"\nca = "ca.pem"\n')
        await self.passes(self.CLIENT)
        self.write_ca(pair(subject="CN=successor", ca=True))
        self.reload()
        await self.refused(Authorities.NO_AUTHORITY, self.CLIENT)

    async def test_broken(self) -> None:
        """Any one broken file leaves everything as it was, and the log names it."""
        second = make_self_signed(KeyKind.EC, "second", names=["second.example"], server=True)
        self.write_server("second", second)
        self.start(
            f'{self.MORE}\n[[certificates]]\ncertificate = "second.pem"\nprivate-key = "second.key"'
        )
        # All of it is changed, so that a part that took effect would show.
        self.write_lists(root=[self.CLIENT])
        changed = {name: (self.folder / name).read_bytes() for name in ("root.crl", "ca.pem")}
        stranger = make_crl(pair(subject="CN=stranger", ca=True))
        for name, content in (
            ("root.crl", b"broken"),
            ("root.crl", crl_pem(stranger)),
            ("root.crl", crl_pem(make_crl(ROOT, signer=BETWEEN))),
            ("between.crl", b""),
            ("ca.pem", b"broken"),
            ("second.pem", self.server.certificate_pem),
            ("second.key", self.server.key_pem),
            ("server.key", second.key_pem),
        ):
            good = (self.folder / name).read_bytes()
            self.write(name, content)
            [line] = self.reload()
            self.write(name, changed.get(name, good))
            self.assertIn("the old files go on serving", line)
            self.assertIn(name.replace(".key", "."), line)
            await self.passes(self.CLIENT)
        self.reload()
        await self.refused(self.REVOKED, self.CLIENT)

    async def test_names_that_clash(self) -> None:
        """A renewed certificate that claims another's name leaves the old one serving."""
        second = make_self_signed(KeyKind.EC, "second", names=["second.example"], server=True)
        self.write_server("second", second)
        self.start(
            f'{self.MORE}\n[[certificates]]\ncertificate = "second.pem"\nprivate-key = "second.key"'
        )
        self.write_server(
            "second", make_self_signed(KeyKind.EC, "x", names=["main.example"], server=True)
        )
        [line] = self.reload()
        self.assertIn(
            "certificates[0].certificate: found the name 'main.example' of certificate", line
        )
        _, shown = await self.ask(self.CLIENT, name="second.example")
        self.assertEqual(second.certificate.public_bytes(Encoding.DER), shown)

    async def test_warnings(self) -> None:
        """The warnings after a reload are in the log."""
        self.start()
        self.write_lists(days=(-3, -1))
        warning, done = self.reload()
        self.assertIn("reload: crl: the list of 'CN=between' expired at ", warning)
        self.assertEqual("reload: the files are used as they are now", done)


class ServerNames(PkiTestCase):
    SECOND = '[[certificates]]\ncertificate = "second.pem"\nprivate-key = "second.key"\n'

    def start_two(self, kind: KeyKind) -> tuple[x509.Certificate, x509.Certificate]:
        """Start with two certificates, the second of this kind of key.

        The first is of the other.
        """
        self.server = make_self_signed(
            {KeyKind.EC: KeyKind.RSA}.get(kind, KeyKind.EC),
            "m",
            names=["main.example"],
            server=True,
        )
        second = make_self_signed(
            kind, "second", names=["second.example", "*.wild.example"], server=True
        )
        self.write_server("server", self.server)
        self.write_server("second", second)
        self.start(f'trust = "either"\nca = "ca.pem"\n{self.SECOND}')
        return self.server.certificate, second.certificate

    async def test_table(self) -> None:
        """In each version, with each kind of key: the name's certificate, and the client's."""
        for kind in (KeyKind.EC, KeyKind.RSA):
            main, second = self.start_two(kind)
            for version in VERSIONS:
                for name, expected in (
                    ("main.example", main),
                    ("second.example", second),
                    ("SECOND.example", second),
                    ("x.wild.example", second),
                    ("unknown.example", main),
                    (None, main),
                ):
                    for client in (
                        pair(),
                        pair("RSA 2048"),
                        pair(issuer=ROOT),
                        pair("RSA 2048", "CN=rsa", issuer=ROOT),
                    ):
                        reply, shown = await self.ask(client, name=name, version=version)
                        self.assertEqual(
                            (200, expected.public_bytes(Encoding.DER)),
                            (reply.status, shown),
                            (version, name),
                        )
                        self.assertEqual(
                            [value_of(client)], self.back_end.requests[-1].values(HEADER)
                        )

    async def test_refused_under_every_name(self) -> None:
        """No name makes a certificate trusted that is not."""
        self.start_two(KeyKind.EC)
        for name in ("main.example", "second.example", "unknown.example", None):
            await self.refused("must be self-signed, or issued by", pair(issuer=BETWEEN), name=name)

    async def test_intermediate(self) -> None:
        """A further certificate comes with the rest of its own chain."""
        made = make_self_signed(KeyKind.EC, "second", names=["second.example"], server=True)
        old = made.certificate
        times = old.not_valid_before_utc, old.not_valid_after_utc
        builder = x509.CertificateBuilder(
            BETWEEN.certificate.subject, old.subject, old.public_key(), old.serial_number, *times
        )
        for extension in old.extensions:
            builder = builder.add_extension(extension.value, extension.critical)
        issued = builder.sign(BETWEEN.private_key, old.signature_hash_algorithm)  # type: ignore[arg-type]
        self.write(
            "second.pem",
            issued.public_bytes(Encoding.PEM) + BETWEEN.certificate.public_bytes(Encoding.PEM),
        )
        self.write("second.key", made.key_pem)
        self.start(self.SECOND)
        context = ssl.create_default_context(
            cadata=ROOT.certificate.public_bytes(Encoding.PEM).decode()
        )
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        port: Any = self.service.addresses[0]

        def run() -> bytes | None:
            with context.wrap_socket(
                socket.create_connection(("127.0.0.1", port.port), 10),
                server_hostname="second.example",
            ) as connection:
                return connection.getpeercert(binary_form=True)

        self.assertEqual(issued.public_bytes(Encoding.DER), await deferToThread(run))

    async def test_warnings(self) -> None:
        """A further certificate's validity is watched like the first one's."""
        late = make_self_signed(KeyKind.EC, "second", 10, names=["second.example"], server=True)
        self.write_server("second", late)
        [warning] = self.start(self.SECOND).reloading.configuration.warnings
        self.assertRegex(warning, r"\Acertificates\[0\]\.certificate: expires soon, at ")


def long_list(issuer: Pair, entries: int) -> x509.CertificateRevocationList:
    """Make a list with so many entries of usual length, 38 bytes."""
    now = datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder(
        issuer.certificate.subject, now, now + timedelta(7)
    )
    for number in range(entries):
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder((1 << 158) + number, now).build()
        )
    return builder.sign(issuer.private_key, hashes.SHA256())


def server_context(trusted: TrustStore) -> SSL.Context:
    made = make_self_signed(KeyKind.EC, "localhost", server=True)
    return make_context(Identity(made.certificate, made.private_key), ClientAuth.OPTIONAL, trusted)


def list_cost(entries: int) -> tuple[int, float, float, int]:
    """Return the costs of a list: its size, seconds without and with it, and its memory.

    The size is in bytes of DER; the seconds are those of a handshake; the memory is the resident
    memory of a context.
    """
    crl, issued = long_list(ROOT, entries), certificate("CN=issued", "CN=root")
    bare, begun = server_context(TrustStore((ROOT.certificate,))), memory()
    context = server_context(TrustStore((ROOT.certificate,), (crl,)))
    taken = memory() - begun
    costs = [handshake_cost((issued,), 10, each) for each in (bare, context)]
    return len(crl.public_bytes(Encoding.DER)), costs[0], costs[1], taken


def memory() -> int:
    """Return the size of the resident memory in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


class Cost(SynchronousTestCase):
    def test_long_list(self) -> None:
        """A list of ten thousand, whose issuer any client can name, makes no handshake slow."""
        _, bare, cost, _ = list_cost(10000)
        self.assertLess(cost / bare, 8.0, f"{cost * 1000:.2f} ms, without it {bare * 1000:.2f} ms")

    # Measured: 47 to 49 times an ordinary cost with a depth of 4, with or without lists;
    # 102 with 10.
    def test_chain(self) -> None:
        """With lists of every name of a hostile chain, its cost is bounded by ``ca-depth``."""
        ordinary = handshake_cost((certificate("CN=a", "CN=a"),), 10)
        named = [pair(subject=f"CN={number}", ca=True) for number in range(12)]
        authorities, crls = tuple(one.certificate for one in named), tuple(map(make_crl, named))
        for depth, most in ((4, 120.0), (10, 240.0)):
            context = server_context(TrustStore(authorities, crls, depth))
            dear = handshake_cost(costly_chain(), server_context=context)
            self.assertLess(
                dear / ordinary,
                most,
                f"{dear * 1000:.1f} ms, an ordinary one {ordinary * 1000:.2f} ms",
            )
