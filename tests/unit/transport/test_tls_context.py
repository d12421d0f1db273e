"""Tests of :mod:`x509proxy.transport.tls_context`: OpenSSL at both ends, in memory."""

from __future__ import annotations

import gc
import hashlib
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.test.iosim import FakeTransport, IOPump, connect
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import Request, Site
from zope.interface import implementer

from tests.support import certificates as samples
from tests.support.certificates import Pair, pair
from tests.support.crls import make_crl
from tests.support.tls_memory import LARGEST, accept, identity_of, pump, server_context, server_pair
from x509proxy.certificates.client_certificate import ClientCertificate, Flag, Verdict, unreadable
from x509proxy.certificates.pem_files import Identity
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.certificates.sni import ServerNames
from x509proxy.certificates.trust_store import EMPTY, TrustStore
from x509proxy.settings import ClientAuth, SettingsError, TlsSettings, TlsVersion, Usage
from x509proxy.transport import tls_context
from x509proxy.transport.tls_context import (
    ServerConnections,
    asks_for_certificate,
    client_auth_of,
    client_certificate,
    has_long_chain,
    key_exchange_of,
    make_context,
    peer_certificate,
    pyopenssl_key,
    require_certificate,
)

VERSIONS = {"TLSv1.2": SSL.TLS1_2_VERSION, "TLSv1.3": SSL.TLS1_3_VERSION}


def foreign_options(**arguments: Any) -> CertificateOptions:
    """Twisted's own TLS for a server; its types know only what is deprecated."""
    arguments |= {"certificate": server_pair().certificate, "privateKey": server_pair().private_key}
    return CertificateOptions(**arguments)


@attrs.frozen
class Shaken:
    """Both ends after a handshake, and what each of them had to object to."""

    server: SSL.Connection
    client: SSL.Connection
    server_error: str = ""
    client_error: str = ""

    @property
    def certificate(self) -> ClientCertificate | None:
        return peer_certificate(self.server)


def step(connection: SSL.Connection) -> str:
    """Shake hands as far as possible; what went wrong."""
    try:
        connection.do_handshake()
    except SSL.WantReadError:
        pass
    except SSL.Error as error:
        return str(error)
    return ""


def shake(server: SSL.Connection, client: SSL.Connection) -> Shaken:
    server.set_accept_state()
    client.set_connect_state()
    return carry_on(server, client)


def carry_on(server: SSL.Connection, client: SSL.Connection) -> Shaken:
    """Do the rest of a handshake that has begun."""
    server_error = client_error = ""
    while True:
        client_error = client_error or step(client)
        moved = pump(server, client)
        server_error = server_error or step(server)
        if not pump(server, client) and not moved:
            return Shaken(server, client, server_error, client_error)


def receive(connection: SSL.Connection) -> bytes:
    try:
        return connection.recv(LARGEST)
    except SSL.WantReadError:
        return b""


class TlsTestCase(SynchronousTestCase):
    def client_context(
        self, found: Pair | None = None, version: str = "TLSv1.3", chain: Sequence[Pair] = ()
    ) -> SSL.Context:
        """Return a client's context, read from files by OpenSSL alone."""
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        # Clients may show what we are to call weak.
        context.set_cipher_list(b"ALL:@SECLEVEL=0")
        context.set_min_proto_version(VERSIONS[version])
        context.set_max_proto_version(VERSIONS[version])
        if found is not None:
            path = Path(self.mktemp())
            path.write_bytes(found.pem)
            context.use_certificate_file(str(path))
            context.use_privatekey_file(str(path))
            for other in chain:
                context.add_extra_chain_cert(other.certificate)
        return context

    def shake(self, server: SSL.Context, client: SSL.Context) -> Shaken:
        return shake(accept(ServerConnections(server)), SSL.Connection(client, None))

    def certificate_of(
        self,
        found: Pair,
        version: str = "TLSv1.3",
        authorities: Sequence[Pair] = (),
        chain: Sequence[Pair] = (),
    ) -> ClientCertificate:
        """Return the server's view of a client with this certificate."""
        handshake_succeeded = self.shake(
            server_context(authorities=authorities), self.client_context(found, version, chain)
        )
        self.assertEqual(
            ("", ""), (handshake_succeeded.server_error, handshake_succeeded.client_error)
        )
        self.assertEqual(version, handshake_succeeded.server.get_protocol_version_name())
        certificate = handshake_succeeded.certificate
        assert certificate is not None
        return certificate

    def expect(
        self,
        verdict: Verdict,
        flags: set[Flag],
        found: Pair,
        authorities: Sequence[Pair] = (),
        chain: Sequence[Pair] = (),
    ) -> None:
        """Check this verdict on this certificate, in both versions of TLS."""
        for version in VERSIONS:
            certificate = self.certificate_of(found, version, authorities, chain)
            self.assertEqual(
                (found.der, verdict, flags),
                (certificate.der, certificate.verdict, certificate.flags_at(samples.NOON)),
            )


class EveryKind(TlsTestCase):
    def test_every_kind(self) -> None:
        """Every kind of key works in every version, and the certificate is the client's."""
        names = {"RSA-PSS": "RSA 2048"}
        for kind in samples.KINDS:
            self.expect(Verdict.SELF_SIGNED, set(), pair(kind))
            self.assertEqual(names.get(kind, kind), self.certificate_of(pair(kind)).key)

    def test_server_of_every_kind(self) -> None:
        """The server itself may be of every kind too."""
        for kind in samples.KINDS:
            identity = pair(kind, "CN=localhost", usage=ExtendedKeyUsageOID.SERVER_AUTH)
            if kind == "RSA-PSS":
                # Such a key is read as a plain one, which is not its certificate's.
                with self.assertRaises(SettingsError):
                    make_context(identity_of(identity), ClientAuth.OPTIONAL)
                continue
            for version in VERSIONS:
                context = make_context(identity_of(identity), ClientAuth.OPTIONAL)
                handshake_succeeded = self.shake(context, self.client_context(pair(), version))
                self.assertEqual(
                    (pair().der, ""),
                    (
                        getattr(handshake_succeeded.certificate, "der", None),
                        handshake_succeeded.client_error,
                    ),
                )

    def test_ml_dsa(self) -> None:
        """A client with an ML-DSA certificate proves possession in TLS 1.3.

        The certificate arrives byte for byte.
        """
        for kind in samples.ML_DSA_KINDS:
            found = self.certificate_of(pair(kind))
            self.assertEqual(
                (pair(kind).der, kind, Verdict.SELF_SIGNED, frozenset()),
                (found.der, found.key, found.verdict, found.flags),
            )

    def test_ml_dsa_authority(self) -> None:
        """Authorities and clients may have ML-DSA keys, in each combination."""
        for root, leaf in (("ML-DSA-87", "EC P-256"), ("EC P-256", "ML-DSA-65")):
            authority = pair(root, "CN=authority", ca=True)
            issued = pair(leaf, issuer=authority)
            found = self.certificate_of(issued, authorities=[authority])
            self.assertEqual((issued.der, Verdict.TRUSTED), (found.der, found.verdict))
            self.assertIs(Verdict.UNTRUSTED, self.certificate_of(issued).verdict)

    def test_ml_dsa_server(self) -> None:
        """The server's own key may be one of ML-DSA, passed to OpenSSL in memory."""
        self.patch(SSL.Context, "use_privatekey_file", lambda *_: self.fail("a file was written"))
        for kind in samples.ML_DSA_KINDS:
            identity = pair(kind, "CN=localhost", usage=ExtendedKeyUsageOID.SERVER_AUTH)
            context = make_context(identity_of(identity), ClientAuth.OPTIONAL)
            shaken = self.shake(context, SSL.Context(SSL.TLS_CLIENT_METHOD))
            self.assertEqual(("", ""), (shaken.server_error, shaken.client_error))
            shown = shaken.client.get_peer_certificate(as_cryptography=True)
            self.assertEqual(identity.certificate, shown)
        # PKey; Python's default filters hide it.
        self.assertEqual(
            {DeprecationWarning}, {found["category"] for found in self.flushWarnings()}
        )

    def test_ml_dsa_server_of_another(self) -> None:
        """An ML-DSA key that is not the certificate's stops the start in one sentence."""
        identity = identity_of(pair("ML-DSA-44"))
        other = attrs.evolve(identity, private_key=pair("ML-DSA-44", "CN=other").private_key)
        self.assertRaises(SettingsError, make_context, other, ClientAuth.OPTIONAL)
        self.flushWarnings()

    def test_no_certificate(self) -> None:
        """A client without a certificate shakes hands, and has none."""
        for version in VERSIONS:
            handshake_succeeded = self.shake(server_context(), self.client_context(version=version))
            self.assertEqual(
                (None, "", ""),
                (
                    handshake_succeeded.certificate,
                    handshake_succeeded.server_error,
                    handshake_succeeded.client_error,
                ),
            )

    def test_not_asked(self) -> None:
        """With ``none`` a client is not asked for the certificate it has."""
        for version in VERSIONS:
            handshake_succeeded = self.shake(
                server_context(ClientAuth.NONE), self.client_context(pair(), version)
            )
            self.assertEqual(
                (None, "", ""),
                (
                    handshake_succeeded.certificate,
                    handshake_succeeded.server_error,
                    handshake_succeeded.client_error,
                ),
            )

    def test_required_does_not_judge(self) -> None:
        """``required`` is judged at the request: the handshake without a certificate succeeds."""
        for version in VERSIONS:
            handshake_succeeded = self.shake(
                server_context(ClientAuth.REQUIRED), self.client_context(version=version)
            )
            self.assertEqual(
                (None, "", ""),
                (
                    handshake_succeeded.certificate,
                    handshake_succeeded.server_error,
                    handshake_succeeded.client_error,
                ),
            )

    def test_read_once(self) -> None:
        """A connection's certificate is parsed once, also where there is none."""
        for found in (pair(), None):
            handshake_succeeded = self.shake(server_context(), self.client_context(found))
            first = handshake_succeeded.certificate
            self.patch(
                SSL.Connection, "get_peer_certificate", lambda *_, **__: self.fail("read again")
            )
            self.assertIs(first, handshake_succeeded.certificate)
            self.doCleanups()


class Groups(TlsTestCase):
    """The key exchanges that are offered (RFC 8446 section 4.2.7)."""

    def group(self, name: bytes) -> str | None:
        """Return the group that was agreed upon with a client that has one."""
        client = SSL.Context(SSL.TLS_CLIENT_METHOD)
        client.set_min_proto_version(SSL.TLS1_3_VERSION)
        assert tls_context._set_groups is not None
        self.assertEqual(1, tls_context._set_groups(client._context, name))
        server = accept(ServerConnections(self.server_context()))
        found = shake(server, SSL.Connection(client, None))
        return None if found.server_error else server.get_group_name()

    def server_context(self) -> SSL.Context:
        return server_context()

    def test_offered(self) -> None:
        """ML-KEM with X25519, X25519 alone and the three NIST curves are agreed upon.

        Nothing that is slow.
        """
        taken = [b"X25519MLKEM768", b"X25519", b"P-256", b"P-384", b"P-521"]
        self.assertEqual(
            ["X25519MLKEM768", "x25519", "secp256r1", "secp384r1", "secp521r1"],
            [self.group(name) for name in taken],
        )
        for name in (b"ffdhe2048", b"ffdhe3072", b"ffdhe8192", b"X448"):
            self.assertIs(None, self.group(name), name)

    def test_certificate_on_p521(self) -> None:
        """A client with a certificate on P-521 is accepted in TLS 1.2 too."""
        client = pair("EC P-521")
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        context.use_certificate(client.certificate)
        context.use_privatekey(pyopenssl_key(client.private_key))
        found = shake(accept(ServerConnections(server_context())), SSL.Connection(context, None))
        self.assertEqual(
            ("", "TLSv1.2"), (found.server_error, found.server.get_protocol_version_name())
        )

    def test_no_binding(self) -> None:
        """Where pyOpenSSL's binding has no such function, OpenSSL's own list is offered."""
        set_groups = tls_context._set_groups
        self.patch(tls_context, "_set_groups", None)
        context = server_context()
        self.patch(tls_context, "_set_groups", set_groups)
        self.patch(self, "server_context", lambda: context)
        self.assertEqual("ffdhe3072", self.group(b"ffdhe3072"))


class Verdicts(TlsTestCase):
    def test_nobody_has_looked(self) -> None:
        """A certificate that OpenSSL has not verified in this handshake counts as none."""
        for found, authorities in (
            (pair(), []),
            (pair(issuer=(authority := pair(subject="CN=a", ca=True))), [authority]),
        ):
            context = server_context(authorities=authorities)
            context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
            handshake_succeeded = self.shake(context, self.client_context(found))
            self.assertEqual(unreadable(found.der), handshake_succeeded.certificate)

    def test_issued(self) -> None:
        """An authority's certificate is trusted where the authority is named, only there."""
        authority, other = pair(subject="CN=authority", ca=True), pair(subject="CN=other", ca=True)
        issued = pair(issuer=authority)
        self.expect(Verdict.TRUSTED, set(), issued, [authority])
        self.expect(Verdict.TRUSTED, set(), issued, [other, authority])
        self.expect(Verdict.UNTRUSTED, set(), issued)
        self.expect(Verdict.UNTRUSTED, set(), issued, [other])
        self.expect(Verdict.UNTRUSTED, set(), issued, chain=[authority])

    def test_intermediate(self) -> None:
        """A client's chain is followed to the named authority, and kept as it came."""
        authority = pair(subject="CN=authority", ca=True)
        between = pair(subject="CN=between", issuer=authority, ca=True)
        issued = pair(issuer=between)
        self.expect(Verdict.TRUSTED, set(), issued, [authority], [between])
        self.expect(Verdict.UNTRUSTED, set(), issued, [authority])
        self.assertEqual(
            (between.der,),
            self.certificate_of(issued, authorities=[authority], chain=[between]).chain,
        )
        self.assertEqual((), self.certificate_of(issued, chain=[between]).chain)

    def test_authority_of_the_same_name(self) -> None:
        """An authority's name is not its key: another one of that name is untrusted."""
        authority = pair(subject="CN=authority", ca=True)
        forged = pair(issuer=pair("RSA 2048", "CN=authority", ca=True))
        self.expect(Verdict.UNTRUSTED, set(), forged, [authority])

    def test_self_signed_beside_authorities(self) -> None:
        """With authorities, a self-signed certificate is still self-signed."""
        self.expect(Verdict.SELF_SIGNED, set(), pair(), [pair(subject="CN=authority", ca=True)])

    def test_times(self) -> None:
        """Expired and not yet valid are flags: the handshake succeeds and the verdict stays."""
        authority = pair(subject="CN=authority", ca=True)
        for years, flag in (((2020, 2021), Flag.EXPIRED), ((2090, 2100), Flag.NOT_YET_VALID)):
            self.expect(Verdict.SELF_SIGNED, {flag}, pair(years=years))
            self.expect(Verdict.TRUSTED, {flag}, pair(issuer=authority, years=years), [authority])

    def test_expired_authority(self) -> None:
        """A certificate of an expired authority is untrusted."""
        authority = pair(subject="CN=authority", years=(2020, 2021), ca=True)
        self.expect(Verdict.UNTRUSTED, set(), pair(issuer=authority), [authority])

    def test_usage(self) -> None:
        """A server's certificate of a client is flagged, and an authority's is not trusted."""
        usage = ExtendedKeyUsageOID.SERVER_AUTH
        self.expect(Verdict.SELF_SIGNED, {Flag.WRONG_USAGE}, pair(usage=usage))
        authority = pair(subject="CN=authority", ca=True)
        issued = pair(issuer=authority, usage=usage)
        self.expect(Verdict.UNTRUSTED, {Flag.WRONG_USAGE}, issued, [authority])

    def test_weak(self) -> None:
        """RSA of 1024 bits completes the handshake, with a flag."""
        self.expect(Verdict.SELF_SIGNED, {Flag.WEAK}, pair("RSA 1024"))

    def test_garbage_signature(self) -> None:
        """A self-signed certificate's signature is not verified: the handshake proves the key."""
        found = pair()
        self.expect(
            Verdict.SELF_SIGNED, set(), attrs.evolve(found, der=found.der[:-8] + b"12345678")
        )

    def test_unreadable(self) -> None:
        """A certificate that only OpenSSL reads, such as version 7, is unreadable and untrusted."""
        found = pair()
        for part in (samples.tlv(0xA0, b"\x02\x01\x06"), samples.tlv(0xA0, b"\x02\x01\x05")):
            odd = attrs.evolve(found, der=samples.with_part(found.der, samples.VERSION, part))
            for version in VERSIONS:
                certificate = self.certificate_of(odd, version)
                self.assertEqual(
                    (Verdict.UNTRUSTED, {Flag.UNREADABLE}), (certificate.verdict, certificate.flags)
                )

    def test_unreadable_inside(self) -> None:
        """A repeated extension is found, even if a library overlooks it."""
        found = pair()
        extensions = samples.tlv(0x30, samples.oid("2.5.29.19"), b"\x04\x02\x30\x00")
        doubled = samples.tlv(0xA3, samples.tlv(0x30, extensions, extensions))
        odd = attrs.evolve(found, der=samples.with_part(found.der, samples.EXTENSIONS, doubled))
        self.expect(Verdict.UNTRUSTED, {Flag.UNREADABLE}, odd)

    def test_anything_goes_wrong(self) -> None:
        """With any error in reading it there was a certificate, which is not passed on."""
        handshake_succeeded = self.shake(server_context(), self.client_context(pair()))
        self.patch(SSL.Connection, "get_peer_certificate", lambda *_, **__: 1 / 0)
        self.assertEqual({Flag.UNREADABLE}, getattr(handshake_succeeded.certificate, "flags", None))


class PkiTestCase(TlsTestCase):
    def expect_of(
        self,
        verdict: Verdict,
        flags: set[Flag],
        found: Pair,
        authorities: Sequence[Pair],
        crls: Sequence[x509.CertificateRevocationList] = (),
        chain: Sequence[Pair] = (),
        depth: int = 4,
    ) -> None:
        """Check this verdict with these authorities and lists, in both versions of TLS."""
        trusted = TrustStore(
            tuple(authority.certificate for authority in authorities), tuple(crls), depth
        )
        for version in VERSIONS:
            context = make_context(identity_of(server_pair()), ClientAuth.OPTIONAL, trusted)
            handshake_succeeded = self.shake(context, self.client_context(found, version, chain))
            self.assertEqual(
                ("", ""), (handshake_succeeded.server_error, handshake_succeeded.client_error)
            )
            certificate = handshake_succeeded.certificate
            assert certificate is not None
            self.assertEqual(
                (found.der, verdict, flags),
                (certificate.der, certificate.verdict, certificate.flags_at(samples.NOON)),
            )


class IgnoredUsage(PkiTestCase):
    """``usage = "ignore"``: certificates for servers identify clients, and nothing else changes."""

    def verdict_of(self, found: Pair, *authorities: Pair, chain: Sequence[Pair] = ()) -> Verdict:
        trusted = TrustStore(
            tuple(authority.certificate for authority in authorities), usage=Usage.IGNORE
        )
        context = make_context(identity_of(server_pair()), ClientAuth.OPTIONAL, trusted)
        shaken = self.shake(context, self.client_context(found, chain=chain))
        self.assertEqual(("", ""), (shaken.server_error, shaken.client_error))
        assert shaken.certificate is not None
        self.assertNotIn(Flag.WRONG_USAGE, shaken.certificate.flags)
        return shaken.certificate.verdict

    def setUp(self) -> None:
        self.root = pair(subject="CN=root", ca=True)
        self.usage = ExtendedKeyUsageOID.SERVER_AUTH

    def test_server(self) -> None:
        """An authority's certificate for servers is trusted, also under an intermediate."""
        between = pair(subject="CN=between", issuer=self.root, ca=True, usages=(self.usage,))
        issued = pair(issuer=self.root, usage=self.usage)
        below = pair(issuer=between, usage=self.usage)
        self.assertIs(Verdict.TRUSTED, self.verdict_of(issued, self.root))
        self.assertIs(Verdict.TRUSTED, self.verdict_of(below, self.root, chain=[between]))

    def test_issuer_that_is_no_authority(self) -> None:
        """A certificate for servers still vouches for no other: its holder cannot make clients."""
        server = pair(subject="CN=server", issuer=self.root, usage=self.usage)
        forged = pair(subject="CN=victim", issuer=server)
        self.assertIs(Verdict.UNTRUSTED, self.verdict_of(forged, self.root, chain=[server]))

    def test_others(self) -> None:
        """An unknown issuer stays unknown, and a self-signed certificate self-signed."""
        self.assertIs(Verdict.UNTRUSTED, self.verdict_of(pair(issuer=self.root, usage=self.usage)))
        self.assertIs(Verdict.SELF_SIGNED, self.verdict_of(pair(usage=self.usage), self.root))

    def test_enforced(self) -> None:
        """Without that setting the intermediate for servers is flagged."""
        between = pair(subject="CN=between", issuer=self.root, ca=True, usages=(self.usage,))
        self.expect_of(
            Verdict.UNTRUSTED, {Flag.WRONG_USAGE}, pair(issuer=between), [self.root], (), [between]
        )


class KeyExchange(TlsTestCase):
    def test_name(self) -> None:
        """The group that OpenSSL negotiates by default withstands quantum computers in TLS 1.3.

        In 1.2 there is none that does.
        """
        for version, group in (("TLSv1.3", "X25519MLKEM768"), ("TLSv1.2", "x25519")):
            shaken = self.shake(server_context(), self.client_context(version=version))
            self.assertEqual(group, key_exchange_of(shaken.server))

    def test_before_the_handshake(self) -> None:
        """Before there is one, its name is empty."""
        self.assertEqual("", key_exchange_of(accept(ServerConnections(server_context()))))

    def test_old_openssl(self) -> None:
        """Where OpenSSL cannot name it, its name is empty."""

        def absent(_: SSL.Connection) -> None:
            raise NotImplementedError

        shaken = self.shake(server_context(), self.client_context())
        self.patch(SSL.Connection, "get_group_name", absent)
        self.assertEqual("", key_exchange_of(shaken.server))


class Revocation(PkiTestCase):
    def setUp(self) -> None:
        self.root = pair(subject="CN=root", ca=True)
        self.between = pair(subject="CN=between", issuer=self.root, ca=True)
        self.direct = pair(subject="CN=direct", issuer=self.root)
        self.indirect = pair(subject="CN=indirect", issuer=self.between)
        self.both = [self.root, self.between]
        self.lists = [make_crl(self.root), make_crl(self.between)]

    def test_on_the_list(self) -> None:
        """A certificate on the list is revoked, its neighbour is not."""
        crls = [make_crl(self.root, self.direct)]
        self.expect_of(Verdict.UNTRUSTED, {Flag.REVOKED}, self.direct, [self.root], crls)
        self.expect_of(
            Verdict.TRUSTED,
            set(),
            pair(subject="CN=neighbour", issuer=self.root),
            [self.root],
            crls,
        )

    def test_new_list_beside_an_old_one(self) -> None:
        """Of two lists the newer counts, in any order."""
        old, new = make_crl(self.root, days=(-3, 3)), make_crl(self.root, self.direct)
        for crls in ([old, new], [new, old]):
            self.expect_of(Verdict.UNTRUSTED, {Flag.REVOKED}, self.direct, [self.root], crls)

    def test_untimely_list(self) -> None:
        """A list that has expired, or is not yet valid, leaves no client trusted.

        Who is on it is revoked all the same.
        """
        for days in ((-3, -1), (1, 3)):
            self.expect_of(
                Verdict.UNTRUSTED, set(), self.direct, [self.root], [make_crl(self.root, days=days)]
            )
            crls = [make_crl(self.root, self.direct, days=days)]
            self.expect_of(Verdict.UNTRUSTED, {Flag.REVOKED}, self.direct, [self.root], crls)

    def test_missing_list(self) -> None:
        """Once there are lists, an authority without one makes no client trusted."""
        other = pair(subject="CN=other", ca=True)
        self.expect_of(Verdict.UNTRUSTED, set(), self.direct, [self.root, other], [make_crl(other)])
        self.expect_of(Verdict.UNTRUSTED, set(), self.indirect, self.both, self.lists[:1])
        self.expect_of(Verdict.UNTRUSTED, set(), self.indirect, self.both, self.lists[1:])

    def test_intermediate(self) -> None:
        """With a list of each authority a chain is trusted, with or without its intermediate."""
        for chain in ([], [self.between]):
            self.expect_of(Verdict.TRUSTED, set(), self.indirect, self.both, self.lists, chain)

    def test_revoked_intermediate(self) -> None:
        """A certificate of a revoked intermediate is revoked with it."""
        crls = [make_crl(self.root, self.between), make_crl(self.between)]
        for chain in ([], [self.between]):
            self.expect_of(Verdict.UNTRUSTED, {Flag.REVOKED}, self.indirect, self.both, crls, chain)

    def test_nothing_hides_it(self) -> None:
        """A revoked certificate is revoked with any others beside it."""
        crls = [make_crl(self.root), make_crl(self.between, self.indirect)]
        false = pair("EC P-384", "CN=between", ca=True)
        strangers = [pair(subject=f"CN={number}", ca=True) for number in range(5)]
        for chain in ([], [false], [self.between, self.root], [false, self.between], strangers):
            for depth in (1, 4):
                self.expect_of(
                    Verdict.UNTRUSTED, {Flag.REVOKED}, self.indirect, self.both, crls, chain, depth
                )

    def test_self_signed(self) -> None:
        """Lists do not apply to a self-signed certificate, even with an authority's name."""
        for found in (pair(), pair("RSA 2048"), pair("EC P-384", "CN=root")):
            self.expect_of(
                Verdict.SELF_SIGNED, set(), found, [self.root], [make_crl(self.root, self.direct)]
            )
        late = pair(years=(2020, 2021))
        self.expect_of(
            Verdict.SELF_SIGNED, {Flag.EXPIRED}, late, [self.root], [make_crl(self.root)]
        )

    def test_without_lists(self) -> None:
        """Without lists no certificate needs one."""
        self.expect_of(Verdict.TRUSTED, set(), self.indirect, self.both)

    def test_unfit(self) -> None:
        """A list that OpenSSL does not take ends the start with a sentence."""

        def refuse(*_: object) -> None:
            raise crypto.Error([])

        self.patch(crypto.X509Store, "add_crl", refuse)
        trusted = TrustStore((self.root.certificate,), (make_crl(self.root),))
        error = self.assertRaises(
            SettingsError, make_context, identity_of(server_pair()), ClientAuth.OPTIONAL, trusted
        )
        self.assertEqual(
            "ca: found a certificate or a revocation list that OpenSSL rejects, "
            "expected those of an authority",
            str(error),
        )


class Depth(PkiTestCase):
    def chain(self, links: int) -> tuple[Pair, Pair, list[Pair]]:
        """Make a root, a leaf, and so many certificates between them."""
        root = issuer = pair(subject="CN=root", ca=True)
        between: list[Pair] = []
        for link in range(links):
            issuer = pair(subject=f"CN=link {link}", issuer=issuer, ca=True)
            between.insert(0, issuer)
        return root, pair(subject=f"CN=leaf below {links}", issuer=issuer), between

    def test_depth(self) -> None:
        """A chain is followed over as many certificates as are set, and not over one more."""
        for depth in (1, 2, 4, 10):
            root, leaf, between = self.chain(depth)
            self.expect_of(Verdict.TRUSTED, set(), leaf, [root], chain=between, depth=depth)
            root, leaf, between = self.chain(depth + 1)
            self.expect_of(Verdict.UNTRUSTED, set(), leaf, [root], chain=between, depth=depth)

    def test_chain_is_kept(self) -> None:
        """The whole followed chain is kept, and strangers are not."""
        root, leaf, between = self.chain(10)
        strangers = [pair(subject=f"CN={number}") for number in range(3)]
        context = make_context(
            identity_of(server_pair()), ClientAuth.OPTIONAL, TrustStore((root.certificate,), (), 10)
        )
        certificate = self.shake(
            context, self.client_context(leaf, chain=[*between, *strangers])
        ).certificate
        assert certificate is not None
        self.assertEqual(tuple(one.der for one in between), certificate.chain)


class ByName(PkiTestCase):
    """Several certificates, chosen by the name that the client asks for."""

    FIRST, SECOND = (
        make_self_signed(kind, "common.example", names=names, server=True)
        for kind, names in (
            (KeyKind.EC, ["first.example"]),
            (KeyKind.RSA, ["second.example", "*.wild.example"]),
        )
    )

    def context(
        self, trusted: TrustStore = EMPTY, ask: ClientAuth = ClientAuth.OPTIONAL
    ) -> SSL.Context:
        first, second = (
            Identity(made.certificate, made.private_key) for made in (self.FIRST, self.SECOND)
        )
        return make_context(first, ask, trusted, extra_identities=[second])

    def ask(self, server: SSL.Connection, client: SSL.Context, name: bytes | None) -> Shaken:
        connection = SSL.Connection(client, None)
        if name is not None:
            connection.set_tlsext_host_name(name)
        return shake(server, connection)

    def shown(self, handshake_succeeded: Shaken) -> x509.Certificate | None:
        return handshake_succeeded.client.get_peer_certificate(as_cryptography=True)

    def test_choice(self) -> None:
        """Each name gets its certificate, any other the first; who the client is stays the same."""
        authority = pair(subject="CN=authority", ca=True)
        issued, revoked = (
            pair(subject=f"CN={word}", issuer=authority) for word in ("issued", "revoked")
        )
        trusted = TrustStore((authority.certificate,), (make_crl(authority, revoked),))
        table = [
            (b"first.example", self.FIRST),
            (b"second.example", self.SECOND),
            (b"SECOND.Example", self.SECOND),
        ]
        others = [
            (b"x.wild.example", self.SECOND),
            (b"unknown.example", self.FIRST),
            (None, self.FIRST),
        ]
        for version in VERSIONS:
            for name, made in [*table, *others]:
                for found, verdict, flags in (
                    (pair(), Verdict.SELF_SIGNED, set()),
                    (pair("RSA 2048"), Verdict.SELF_SIGNED, set()),
                    (issued, Verdict.TRUSTED, set()),
                    (revoked, Verdict.UNTRUSTED, {Flag.REVOKED}),
                ):
                    server = accept(ServerConnections(self.context(trusted)))
                    handshake_succeeded = self.ask(
                        server, self.client_context(found, version), name
                    )
                    certificate = handshake_succeeded.certificate
                    assert certificate is not None
                    self.assertEqual(
                        ("", "", made.certificate),
                        (
                            handshake_succeeded.server_error,
                            handshake_succeeded.client_error,
                            self.shown(handshake_succeeded),
                        ),
                    )
                    self.assertEqual(
                        (found.der, verdict, flags),
                        (certificate.der, certificate.verdict, certificate.flags),
                    )

    def test_not_asked(self) -> None:
        """Where no certificate is asked for, it is asked for under no name."""
        for name in (b"first.example", b"second.example"):
            server = accept(ServerConnections(self.context(ask=ClientAuth.NONE)))
            self.assertIsNone(self.ask(server, self.client_context(pair()), name).certificate)

    def test_depth(self) -> None:
        """A chain is followed as far under one name as under the other."""
        root, leaf, between = Depth.chain(self, 2)  # type: ignore[arg-type]
        for depth, verdict in ((1, Verdict.UNTRUSTED), (2, Verdict.TRUSTED)):
            for name in (b"first.example", b"second.example"):
                server = accept(
                    ServerConnections(self.context(TrustStore((root.certificate,), (), depth)))
                )
                handshake_succeeded = self.ask(
                    server, self.client_context(leaf, chain=between), name
                )
                self.assertEqual(verdict, getattr(handshake_succeeded.certificate, "verdict", None))

    def test_protocol(self) -> None:
        """``http/1.1`` is settled on under every name."""
        for name in (b"first.example", b"second.example"):
            client = self.client_context()
            client.set_alpn_protos([b"h2", b"http/1.1"])
            handshake_succeeded = self.ask(accept(ServerConnections(self.context())), client, name)
            self.assertEqual(b"http/1.1", handshake_succeeded.client.get_alpn_proto_negotiated())

    def test_no_resumption(self) -> None:
        """A session of one name is resumed under no name (invariant L6, nginx CVE-2025-23419)."""
        names = (b"first.example", b"second.example")
        for version in VERSIONS:
            for first, again in ((first, again) for first in names for again in names):
                self.assertFalse(
                    self.resumes(self.context(), version, first, again), (version, first, again)
                )

    def test_it_could(self) -> None:
        """With session caches they would be resumed: so the test above tests something."""
        self.patch(SSL, "SESS_CACHE_OFF", SSL.SESS_CACHE_SERVER)
        for version in VERSIONS:
            self.assertTrue(
                self.resumes(self.context(), version, b"second.example", b"second.example")
            )

    def resumes(self, context: SSL.Context, version: str, first: bytes, again: bytes) -> bool:
        client, connections = self.client_context(pair(), version), ServerConnections(context)
        begun = self.ask(accept(connections), client, first)
        begun.server.send(b"x")
        pump(begun.server, begun.client)
        self.assertEqual(b"x", receive(begun.client))
        session = begun.client.get_session()
        assert session is not None
        connection = SSL.Connection(client, None)
        connection.set_session(session)
        connection.set_tlsext_host_name(again)
        found = shake(accept(connections), connection)
        self.assertEqual(pair().der, getattr(found.certificate, "der", None))
        library: Any = SSL
        return bool(library._lib.SSL_session_reused(found.server._ssl))

    def test_options(self) -> None:
        """No renegotiation under another name's certificate either."""
        handshake_succeeded = self.ask(
            accept(ServerConnections(self.context())),
            self.client_context(pair(), "TLSv1.2"),
            b"second.example",
        )
        handshake_succeeded.client.renegotiate()
        step(handshake_succeeded.client)
        pump(handshake_succeeded.server, handshake_succeeded.client)
        self.assertEqual(b"", receive(handshake_succeeded.server))
        pump(handshake_succeeded.server, handshake_succeeded.client)
        self.assertIn("no renegotiation", step(handshake_succeeded.client))

    def test_exceptions(self) -> None:
        """An error in the choice ends the handshake: no name gets another's certificate."""
        self.patch(sys, "excepthook", lambda *_: None)
        for failure in (ValueError, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):

            def fail(*_: object, failure: type[BaseException] = failure) -> None:
                raise failure

            for version in VERSIONS:
                server = accept(ServerConnections(self.context()))
                self.patch(server, "set_context", fail)
                handshake_succeeded = self.ask(
                    server, self.client_context(pair(), version), b"second.example"
                )
                self.assertIn("callback failed", handshake_succeeded.server_error)
                self.assertIsNone(self.shown(handshake_succeeded))

    def test_first_context_is_kept(self) -> None:
        """A connection keeps its first context, since OpenSSL may call back after a reload."""
        connections = ServerConnections(self.context())
        first = weakref.ref(connections._context)
        server = accept(connections)
        handshake_succeeded = self.ask(server, self.client_context(pair()), b"second.example")
        connections.swap(server_context())
        gc.collect()
        self.assertIsNotNone(first())
        self.assertIsNot(first(), server.get_context())
        del server, handshake_succeeded
        gc.collect()
        self.assertIsNone(first())

    def test_second_hello(self) -> None:
        """A client with two hellos gets its name's certificate, with a reload in between."""
        client, library = self.client_context(pair()), SSL
        # The first group, for which the key share is, is none of the server's.
        library._lib.SSL_CTX_set1_curves_list(client._context, b"brainpoolP256r1tls13:P-256")  # type: ignore[attr-defined]
        connection = SSL.Connection(client, None)
        connection.set_tlsext_host_name(b"second.example")
        asked: list[bytes | None] = []

        def index_for(_: ServerNames, name: bytes | None) -> int:
            asked.append(name)
            return 1

        self.patch(ServerNames, "index_for", index_for)
        connections = ServerConnections(self.context())
        server = accept(connections)
        server.set_accept_state()
        connection.set_connect_state()
        step(connection)
        pump(connection, server)
        step(server)
        self.assertEqual([b"second.example"], asked)
        connections.swap(server_context())
        gc.collect()
        handshake_succeeded = carry_on(server, connection)
        self.assertEqual(
            ("", "", self.SECOND.certificate),
            (
                handshake_succeeded.server_error,
                handshake_succeeded.client_error,
                self.shown(handshake_succeeded),
            ),
        )
        self.assertEqual([b"second.example"] * 2, asked)
        self.assertEqual(pair().der, getattr(handshake_succeeded.certificate, "der", None))

    def test_names_clash(self) -> None:
        """Two certificates with the same name end the start with a sentence."""
        first = Identity(self.FIRST.certificate, self.FIRST.private_key)
        error = self.assertRaises(
            SettingsError, make_context, first, ClientAuth.OPTIONAL, extra_identities=[first]
        )
        self.assertIn(
            "certificates[0].certificate: found the name 'first.example' of certificate", str(error)
        )


class Leaf(TlsTestCase):
    def test_victim_in_the_chain(self) -> None:
        """An attacker with the victim's certificate behind its own is itself (CVE-2023-2422)."""
        attacker, victim = pair(subject="CN=attacker"), pair("EC P-384", "CN=victim")
        self.expect(Verdict.SELF_SIGNED, set(), attacker, chain=[victim])
        found = self.certificate_of(attacker, chain=[victim])
        self.assertEqual(("CN=attacker", ()), (found.subject, found.chain))

    def test_trusted_victim_in_the_chain(self) -> None:
        """A trusted certificate behind an untrusted one lends it nothing."""
        authority = pair(subject="CN=authority", ca=True)
        victim = pair("EC P-384", "CN=victim", issuer=authority)
        self.expect(Verdict.SELF_SIGNED, set(), pair(subject="CN=attacker"), [authority], [victim])
        self.expect(
            Verdict.UNTRUSTED,
            set(),
            pair(issuer=pair(subject="CN=nobody", ca=True)),
            [authority],
            [victim],
        )

    def test_leaf_as_authority(self) -> None:
        """A client's certificate makes no authority: what it has signed is untrusted."""
        authority = pair(subject="CN=authority", ca=True)
        client = pair(subject="CN=client", issuer=authority)
        forged = self.certificate_of(
            pair(subject="CN=victim", issuer=client), authorities=[authority], chain=[client]
        )
        self.assertEqual(Verdict.UNTRUSTED, forged.verdict)

    def test_stranger_in_a_trusted_chain(self) -> None:
        """A trusted client's other certificates are dropped, and the chain is in order."""
        authority = pair(subject="CN=authority", ca=True)
        between = pair(subject="CN=between", issuer=authority, ca=True)
        victim, mallory = (
            pair("EC P-384", "CN=victim", issuer=authority),
            pair(subject="CN=mallory", issuer=between),
        )
        for chain in (
            [victim, between],
            [between, victim],
            [victim, between, authority],
            [between],
        ):
            found = self.certificate_of(mallory, authorities=[authority], chain=chain)
            kept = (between.der, authority.der) if authority in chain else (between.der,)
            self.assertEqual((Verdict.TRUSTED, kept), (found.verdict, found.chain))


class Possession(TlsTestCase):
    def steal(self, victim: Pair) -> Pair:
        """Let the attacker's key claim the victim's public key, which OpenSSL accepts."""
        attacker = pair(subject="CN=attacker").private_key
        scalar = attacker.private_numbers().private_value.to_bytes(32, "big")  # type: ignore[union-attr]
        point = victim.private_key.public_key().public_bytes(
            Encoding.X962, PublicFormat.UncompressedPoint
        )
        key = samples.tlv(
            0x30,
            b"\x02\x01\x01",
            samples.tlv(0x04, scalar),
            samples.tlv(0xA1, samples.tlv(0x03, b"\0", point)),
        )
        curve = samples.tlv(
            0x30, samples.oid("1.2.840.10045.2.1"), samples.oid("1.2.840.10045.3.1.7")
        )
        return attrs.evolve(
            victim, key_der=samples.tlv(0x30, b"\x02\x01\x00", curve, samples.tlv(0x04, key))
        )

    def test_stolen_certificate(self) -> None:
        """A certificate alone proves nothing: with another key the handshake ends."""
        authority = pair(subject="CN=authority", ca=True)
        for victim in (pair(subject="CN=victim"), pair(subject="CN=victim", issuer=authority)):
            for version in VERSIONS:
                context = server_context(authorities=[authority])
                handshake_succeeded = self.shake(
                    context, self.client_context(self.steal(victim), version)
                )
                self.assertIn("bad signature", handshake_succeeded.server_error)
                self.assertEqual(b"", self.heard(handshake_succeeded), "not a byte of it is read")

    def test_the_same_with_its_key(self) -> None:
        """The same key in the same way, with a right signature, is accepted."""
        owner = pair(subject="CN=attacker")
        self.expect(Verdict.SELF_SIGNED, set(), self.steal(owner))

    def heard(self, handshake_succeeded: Shaken) -> bytes:
        try:
            handshake_succeeded.client.send(b"GET / HTTP/1.1\r\n")
            pump(handshake_succeeded.server, handshake_succeeded.client)
            return handshake_succeeded.server.recv(LARGEST)
        except SSL.Error:
            return b""


class Options(TlsTestCase):
    def test_options(self) -> None:
        """OpenSSL's defaults are set too: no tickets, no renegotiation, no compression."""
        asked = server_context().set_options(0)
        for option in (
            SSL.OP_NO_TICKET,
            SSL.OP_NO_RENEGOTIATION,
            SSL.OP_NO_COMPRESSION,
            SSL.OP_CIPHER_SERVER_PREFERENCE,
        ):
            self.assertTrue(asked & option, option)


class Resumption(TlsTestCase):
    def reused(self, context: SSL.Context, version: str) -> bool:
        """Return whether a client resumes its session, with everything it was given."""
        client = self.client_context(pair(), version)
        first = self.shake(context, client)
        first.server.send(b"x")
        pump(first.server, first.client)
        self.assertEqual(b"x", receive(first.client))
        session = first.client.get_session()
        assert session is not None
        again = SSL.Connection(client, None)
        again.set_session(session)
        server = accept(ServerConnections(context))
        found = shake(server, again)
        self.assertEqual(("", ""), (found.server_error, found.client_error))
        self.assertEqual(pair().der, getattr(found.certificate, "der", None))
        library: Any = SSL
        resumed = [bool(library._lib.SSL_session_reused(end._ssl)) for end in (server, again)]
        self.assertEqual(resumed[0], resumed[1])
        return resumed[0]

    def test_never(self) -> None:
        """A client that offers a session proves its key anew (invariant L6)."""
        for version in VERSIONS:
            self.assertFalse(self.reused(server_context(), version))

    def test_it_could(self) -> None:
        """With a session cache it would resume, in spite of ``OP_NO_TICKET``."""
        for version in VERSIONS:
            context = server_context()
            context.set_session_cache_mode(SSL.SESS_CACHE_SERVER)
            self.assertTrue(self.reused(context, version))

    def test_session_of_another_server(self) -> None:
        """A session of another context is no use here either."""
        client = self.client_context(pair(), "TLSv1.2")
        first = shake(
            SSL.Connection(foreign_options().getContext(), None), SSL.Connection(client, None)
        )
        session = first.client.get_session()
        assert session is not None
        again = SSL.Connection(client, None)
        again.set_session(session)
        found = shake(accept(ServerConnections(server_context())), again)
        self.assertEqual(
            (pair().der, ""), (getattr(found.certificate, "der", None), found.server_error)
        )


class Protocols(TlsTestCase):
    def test_renegotiation(self) -> None:
        """A client that tries to renegotiate, perhaps with another certificate, is rejected."""
        handshake_succeeded = self.shake(server_context(), self.client_context(pair(), "TLSv1.2"))
        handshake_succeeded.client.renegotiate()
        step(handshake_succeeded.client)
        pump(handshake_succeeded.server, handshake_succeeded.client)
        self.assertEqual(b"", receive(handshake_succeeded.server))
        pump(handshake_succeeded.server, handshake_succeeded.client)
        self.assertIn("no renegotiation", step(handshake_succeeded.client))
        self.assertEqual(0, handshake_succeeded.server.total_renegotiations())
        self.assertEqual(pair().der, getattr(handshake_succeeded.certificate, "der", None))

    def test_old_versions(self) -> None:
        """TLS 1.0 and 1.1 are refused by name."""
        for version in (SSL.TLS1_VERSION, SSL.TLS1_1_VERSION):
            client = self.client_context()
            client.set_min_proto_version(version)
            client.set_max_proto_version(version)
            handshake_succeeded = self.shake(server_context(), client)
            self.assertIn("unsupported protocol", handshake_succeeded.server_error)
            self.assertIn("protocol version", handshake_succeeded.client_error)

    def test_minimum_version(self) -> None:
        """With a minimum of 1.3 a client of 1.2, which sends its certificate, is rejected."""
        context = server_context(settings=TlsSettings(minimum_version=TlsVersion.TLS_1_3))
        self.assertIn(
            "unsupported protocol",
            self.shake(context, self.client_context(version="TLSv1.2")).server_error,
        )
        self.assertEqual("", self.shake(context, self.client_context()).server_error)

    def test_suites(self) -> None:
        """Every suite on offer has forward secrecy and is authenticated encryption."""
        suites = SSL.Connection(server_context(), None).get_cipher_list()
        self.assertIn("ECDHE-ECDSA-AES128-GCM-SHA256", suites)
        self.assertIn("ECDHE-RSA-AES256-GCM-SHA384", suites)
        for suite in suites:
            self.assertRegex(suite, r"\A(TLS_|ECDHE-(ECDSA|RSA)-).*(GCM|CHACHA20)")

    def test_other_suites(self) -> None:
        """A client that knows only CBC, or no forward secrecy, finds nothing in common."""
        for suites in (
            b"ECDHE-ECDSA-AES128-SHA256:@SECLEVEL=0",
            b"ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0",
            b"AES128-GCM-SHA256",
        ):
            client = self.client_context(version="TLSv1.2")
            client.set_cipher_list(suites)
            self.assertIn("no shared cipher", self.shake(server_context(), client).server_error)

    def test_order(self) -> None:
        """The server's order of suites holds, not the client's: AES-128, AES-256, ChaCha20."""
        backwards = (
            b"ECDHE-ECDSA-CHACHA20-POLY1305",
            b"ECDHE-ECDSA-AES256-GCM-SHA384",
            b"ECDHE-ECDSA-AES128-GCM-SHA256",
        )
        for offered in (backwards, backwards[:2]):
            client = self.client_context(version="TLSv1.2")
            client.set_cipher_list(b":".join(offered))
            handshake_succeeded = self.shake(server_context(), client)
            self.assertEqual(offered[-1].decode(), handshake_succeeded.server.get_cipher_name())

    def test_order_in_tls_1_3(self) -> None:
        """So it does in TLS 1.3, where each of the three suites can be had."""
        backwards = (
            b"TLS_CHACHA20_POLY1305_SHA256",
            b"TLS_AES_256_GCM_SHA384",
            b"TLS_AES_128_GCM_SHA256",
        )
        for count in (3, 2, 1):
            client = self.client_context(version="TLSv1.3")
            client.set_tls13_ciphersuites(b":".join(backwards[:count]))
            handshake_succeeded = self.shake(server_context(), client)
            self.assertEqual(
                backwards[count - 1].decode(), handshake_succeeded.server.get_cipher_name()
            )

    def test_no_authorities_named(self) -> None:
        """The client receives no list of authorities, or it would send no self-signed one."""
        for version in VERSIONS:
            handshake_succeeded = self.shake(
                server_context(authorities=[pair(ca=True)]), self.client_context(pair(), version)
            )
            self.assertEqual([], handshake_succeeded.client.get_client_ca_list())

    def test_chain_of_the_server(self) -> None:
        """The server sends its whole chain."""
        authority = pair(subject="CN=authority", ca=True)
        own = pair(subject="CN=localhost", issuer=authority, usage=ExtendedKeyUsageOID.SERVER_AUTH)
        context = make_context(
            Identity(own.certificate, own.private_key, (authority.certificate,)),
            ClientAuth.OPTIONAL,
        )
        handshake_succeeded = self.shake(context, self.client_context())
        chain = handshake_succeeded.client.get_peer_cert_chain(as_cryptography=True)
        self.assertEqual([own.certificate, authority.certificate], chain)


class Alpn(TlsTestCase):
    def negotiated(self, context: SSL.Context, *offered: bytes) -> bytes:
        client = self.client_context()
        if offered:
            client.set_alpn_protos(list(offered))
        handshake_succeeded = self.shake(context, client)
        self.assertEqual(
            ("", ""), (handshake_succeeded.server_error, handshake_succeeded.client_error)
        )
        self.assertEqual(
            handshake_succeeded.client.get_alpn_proto_negotiated(),
            handshake_succeeded.server.get_alpn_proto_negotiated(),
        )
        return handshake_succeeded.client.get_alpn_proto_negotiated()

    def test_http_1_1(self) -> None:
        """``http/1.1`` is chosen wherever it is offered."""
        self.assertEqual(b"http/1.1", self.negotiated(server_context(), b"http/1.1"))
        self.assertEqual(b"http/1.1", self.negotiated(server_context(), b"h2", b"http/1.1"))

    def test_nothing(self) -> None:
        """A client that offers nothing goes on without ALPN."""
        self.assertEqual(b"", self.negotiated(server_context()))

    def test_others(self) -> None:
        """A client that offers only other protocols gets an alert (RFC 7301 section 3.2)."""
        for version in VERSIONS:
            client = self.client_context(version=version)
            client.set_alpn_protos([b"h2", b"grpc-exp"])
            done = self.shake(server_context(), client)
            self.assertIn("no application protocol", done.server_error)
            self.assertIn("no application protocol", done.client_error)

    def test_not_http(self) -> None:
        """A server of something else settles on nothing."""
        self.assertEqual(b"", self.negotiated(server_context(http=False), b"http/1.1"))


class Required(TlsTestCase):
    def test_without(self) -> None:
        """A client without a required certificate receives a TLS alert."""
        for version in VERSIONS:
            context = server_context()
            require_certificate(context)
            handshake_succeeded = self.shake(context, self.client_context(version=version))
            self.assertIn("peer did not return a certificate", handshake_succeeded.server_error)

    def test_with(self) -> None:
        """The handshake accepts any certificate."""
        for found in (
            pair(),
            pair(issuer=pair(subject="CN=authority", ca=True)),
            pair(years=(2020, 2021)),
        ):
            context = server_context()
            require_certificate(context)
            handshake_succeeded = self.shake(context, self.client_context(found))
            self.assertEqual(
                (found.der, ""),
                (
                    getattr(handshake_succeeded.certificate, "der", None),
                    handshake_succeeded.server_error,
                ),
            )


class Faults(TlsTestCase):
    def test_exception_while_recording(self) -> None:
        """An objection that cannot be recorded ends the handshake (invariant L3)."""

        class Full(set[object]):
            def add(self, _: object) -> None:
                raise MemoryError

        for version in VERSIONS:
            server = accept(ServerConnections(server_context()))
            self.patch(server, "verify_errors", Full())
            handshake_succeeded = shake(
                server, SSL.Connection(self.client_context(pair(), version), None)
            )
            self.assertIn("certificate verify failed", handshake_succeeded.server_error)

    def test_base_exception_while_recording(self) -> None:
        """Not even an exit or an interrupt lets the handshake go on."""

        class Interrupted(set[object]):
            def add(self, _: object) -> None:
                raise KeyboardInterrupt

        server = accept(ServerConnections(server_context()))
        self.patch(server, "verify_errors", Interrupted())
        handshake_succeeded = shake(server, SSL.Connection(self.client_context(pair()), None))
        self.assertIn("certificate verify failed", handshake_succeeded.server_error)

    def test_our_context_in_foreign_hands(self) -> None:
        """A context under a connection that cannot record ends handshakes with certificates."""
        foreign = SSL.Connection(server_context(), None)
        handshake_succeeded = shake(foreign, SSL.Connection(self.client_context(pair()), None))
        self.assertIn("certificate verify failed", handshake_succeeded.server_error)

    def test_trusted_certificate_needs_no_record(self) -> None:
        """To which nothing is objected, that has nothing recorded."""
        authority = pair(subject="CN=authority", ca=True)
        server = accept(ServerConnections(server_context(authorities=[authority])))
        shake(server, SSL.Connection(self.client_context(pair(issuer=authority)), None))
        self.assertEqual(set(), getattr(server, "verify_errors", None))


class BadIdentities(SynchronousTestCase):
    def expect(self, text: str, identity: Identity) -> None:
        error = self.assertRaises(SettingsError, make_context, identity, ClientAuth.OPTIONAL)
        self.assertIn(
            "certificate: found a certificate or a key that OpenSSL rejects: ", str(error)
        )
        self.assertIn(", expected one that it can sign with", str(error))
        self.assertIn(text, str(error))
        self.assertNotIn("PRIVATE", str(error))

    def test_key_of_another(self) -> None:
        """A key that is not the certificate's stops the start with one sentence."""
        self.expect("key values mismatch", Identity(server_pair().certificate, pair().private_key))
        self.expect(
            "no certificate assigned",
            Identity(server_pair().certificate, pair("RSA 2048").private_key),
        )

    def test_weak_key(self) -> None:
        """A key that OpenSSL finds too small stops the start with one sentence."""
        self.expect("key too small", identity_of(pair("RSA 1024")))

    def test_additional(self) -> None:
        """The sentence names the key of the certificate that OpenSSL rejects."""
        weak = identity_of(pair("RSA 1024"))
        error = self.assertRaises(
            SettingsError,
            make_context,
            identity_of(server_pair()),
            ClientAuth.OPTIONAL,
            extra_identities=(identity_of(pair()), weak),
        )
        self.assertTrue(str(error).startswith("certificates[1].certificate: found"), error)

    def test_no_reason(self) -> None:
        """OpenSSL's error may have no reason, and then the sentence has none."""

        def refuse(*_: object) -> None:
            raise SSL.Error([])

        self.patch(SSL.Context, "check_privatekey", refuse)
        self.expect("no reason given", identity_of(server_pair()))


class Swap(TlsTestCase):
    def test_swap(self) -> None:
        """After a swap new connections have the new context, and others keep the old one."""
        old, new = (
            server_pair(),
            pair("RSA 2048", "CN=localhost", usage=ExtendedKeyUsageOID.SERVER_AUTH),
        )
        connections = ServerConnections(make_context(identity_of(old), ClientAuth.OPTIONAL))
        done = shake(accept(connections), SSL.Connection(self.client_context(), None))
        begun = accept(connections)
        connections.swap(make_context(identity_of(new), ClientAuth.OPTIONAL))
        late = shake(begun, SSL.Connection(self.client_context(), None))
        fresh = shake(accept(connections), SSL.Connection(self.client_context(), None))
        shown = [
            handshake_succeeded.client.get_peer_certificate(as_cryptography=True)
            for handshake_succeeded in (done, late, fresh)
        ]
        self.assertEqual([old.certificate, old.certificate, new.certificate], shown)
        done.client.send(b"still here")
        pump(done.server, done.client)
        self.assertEqual(b"still here", receive(done.server))


# Under a stock Site, both ends Twisted's.


@implementer(IOpenSSLClientConnectionCreator)
class ClientConnections:
    def __init__(self, context: SSL.Context) -> None:
        self.context = context

    def clientConnectionForTLS(self, _: TLSMemoryBIOProtocol) -> SSL.Connection:
        return SSL.Connection(self.context, None)


class Asking(Protocol):
    def __init__(self) -> None:
        self.received = b""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")

    def dataReceived(self, data: bytes) -> None:
        self.received += data


class Remembers(Resource):
    isLeaf = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[ClientCertificate | None] = []
        self.asked: list[bool] = []

    def render_GET(self, request: Request) -> bytes:
        self.asked.append(asks_for_certificate(request))
        self.found.append(client_certificate(request))
        return b"ok"


class UnderSite(TlsTestCase):
    def ask(
        self, creator: Any = None, client: SSL.Context | None = None
    ) -> ClientCertificate | None:
        """Return ``client_certificate`` in a resource under a stock ``Site``, over TLS or plain."""
        clock, resource, asking = Clock(), Remembers(), Asking()
        server_factory: Any = Site(resource, reactor=clock)
        client_factory: Any = Factory.forProtocol(lambda: asking)
        if client is not None:
            server_factory = TLSMemoryBIOFactory(creator, False, server_factory, clock)
            client_factory = TLSMemoryBIOFactory(
                ClientConnections(client), True, client_factory, clock
            )
        server, client_protocol = (
            server_factory.buildProtocol(None),
            client_factory.buildProtocol(None),
        )
        pump: IOPump = connect(
            server,
            FakeTransport(server, isServer=True),
            client_protocol,
            FakeTransport(client_protocol, isServer=False),
        )
        for _ in range(10):
            clock.advance(0)
            pump.flush()
        self.assertTrue(asking.received.startswith(b"HTTP/1.1 200"), asking.received)
        (found,) = resource.found
        self.asked = resource.asked
        return found

    def test_asked(self) -> None:
        """A resource finds out if its listener requests certificates: without TLS none does."""
        for creator, client, expected in (
            (ServerConnections(server_context()), self.client_context(), True),
            (ServerConnections(server_context(ClientAuth.NONE)), self.client_context(), False),
            (None, None, False),
        ):
            self.ask(creator, client)
            self.assertEqual([expected], self.asked)

    def test_our_context(self) -> None:
        """An application asks for its client's certificate, and has it with its verdict."""
        found = self.ask(ServerConnections(server_context()), self.client_context(pair()))
        assert found is not None
        self.assertEqual((pair().der, Verdict.SELF_SIGNED), (found.der, found.verdict))
        self.assertIsNone(self.ask(ServerConnections(server_context()), self.client_context()))

    def test_without_tls(self) -> None:
        """Over plain TCP there is none."""
        self.assertIsNone(self.ask())

    def foreign(self, found: Pair) -> ClientCertificate:
        """As seen through Twisted's own TLS context, with an authority that accepts it."""
        authority = pair(subject="CN=authority", ca=True)
        accepted = [
            crypto.X509.from_cryptography(found.certificate) for found in (authority, pair())
        ]
        options = foreign_options(verify=True, requireCertificate=True, caCerts=accepted)
        certificate = self.ask(options, self.client_context(found))
        assert certificate is not None
        return certificate

    def test_foreign_context(self) -> None:
        """Under another TLS context the certificate is there, and never trusted."""
        issued = pair(subject="CN=issued", issuer=pair(subject="CN=authority", ca=True))
        for found, verdict in ((pair(), Verdict.SELF_SIGNED), (issued, Verdict.UNTRUSTED)):
            certificate = self.foreign(found)
            self.assertEqual((found.der, verdict), (certificate.der, certificate.verdict))

    def test_foreign_context_without(self) -> None:
        """Under another TLS context that asks for nothing there is none."""
        self.assertIsNone(self.ask(foreign_options(), self.client_context(pair())))

    def test_http_2(self) -> None:
        """Over HTTP/2, where a request has no transport of its own, the connection's is asked."""
        handshake_succeeded = self.shake(server_context(), self.client_context(pair()))
        transport = SimpleNamespace(getHandle=lambda: handshake_succeeded.server)
        stream = SimpleNamespace(_conn=SimpleNamespace(transport=transport))
        found = client_certificate(SimpleNamespace(transport=None, channel=stream))
        self.assertEqual(
            hashlib.sha256(pair().der).digest(),
            hashlib.sha256(found.der if found else b"").digest(),
        )

    def test_odd_transport(self) -> None:
        """A transport with no handle, or with one that is no TLS connection, has no certificate."""
        for transport in (
            SimpleNamespace(),
            SimpleNamespace(getHandle=lambda: None),
            SimpleNamespace(getHandle=object),
        ):
            self.assertIsNone(client_certificate(SimpleNamespace(transport=transport)))


class Names(TlsTestCase):
    def test_samples_are_what_they_say(self) -> None:
        """The RSA-PSS sample has a key for RSASSA-PSS alone."""
        certificate = x509.load_der_x509_certificate(pair("RSA-PSS").der)
        self.assertEqual(
            "1.2.840.113549.1.1.10", certificate.public_key_algorithm_oid.dotted_string
        )


class Listeners(TlsTestCase):
    def test_asked(self) -> None:
        """A connection keeps what its own listener asks for.

        OpenSSL's own has nothing of the kind.
        """
        context = server_context()
        for asked in (None, ClientAuth.REQUIRED):
            connection = accept(ServerConnections(context, asked))
            self.assertIs(asked, client_auth_of(connection))
        self.assertIsNone(client_auth_of(SSL.Connection(context, None)))


class LongChains(TlsTestCase):
    def sent(self, issuers: int) -> SSL.Connection:
        """Return the server's side of a handshake in which a client sends so many issuers."""
        chain = [pair(subject=f"CN={number}", ca=True) for number in range(issuers)]
        client = self.client_context(pair(), chain=chain)
        return self.shake(server_context(), client).server

    def test_limit(self) -> None:
        """Ten issuers are the most; the client's own certificate comes on top."""
        self.assertFalse(has_long_chain(self.sent(9)))
        self.assertTrue(has_long_chain(self.sent(11)))

    def test_before_the_certificate(self) -> None:
        """Before a certificate has come there is no chain."""
        self.assertFalse(has_long_chain(accept(ServerConnections(server_context()))))

    def test_unreadable(self) -> None:
        """A chain that cannot be read is the certificate's own error later."""
        connection = self.sent(0)

        def fail() -> None:
            raise ValueError("unreadable")

        self.patch(connection, "get_peer_cert_chain", fail)
        self.assertFalse(has_long_chain(connection))
