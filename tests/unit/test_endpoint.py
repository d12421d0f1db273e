"""Tests of :mod:`x509proxy.endpoint`: strings in memory, then real sockets and ``curl``."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks
from twisted.internet.endpoints import quoteStringArgument, serverFromString
from twisted.internet.interfaces import IStreamServerEndpointStringParser
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.plugin import getPlugins
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from tests.support.certificates import Pair, pair
from tests.support.endpoints import TLS_VERSIONS, curl, reactor, server_files, write_private
from x509proxy.certificates.client_certificate import thumbprint
from x509proxy.endpoint import X509EndpointParser, x509_endpoint
from x509proxy.settings import SettingsError
from x509proxy.transport.tls_context import client_certificate


class EndpointTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.file = write_private(self.mktemp(), pair(subject="CN=localhost").pem)


class Descriptions(EndpointTestCase):
    def listen(self, description: str) -> tuple[Any, tuple[Any, ...]]:
        """Listen in memory; return the factory, and the arguments of the reactor's call."""
        self.reactor = MemoryReactorClock()
        serverFromString(self.reactor, description).listen(Factory.forProtocol(Protocol))
        servers: list[tuple[Any, ...]] = [*self.reactor.tcpServers, *self.reactor.unixServers]
        (server,) = servers
        address, factory, *rest = server
        return factory, (address, *rest)

    def where(self, description: str) -> tuple[Any, ...]:
        """Check that only TLS wraps the factory; return the place of the listener."""
        factory, place = self.listen(description)
        self.assertIsInstance(factory, TLSMemoryBIOFactory)
        return place

    def test_not_escaped(self) -> None:
        """The inner endpoint may be written unescaped, between the outer arguments."""
        self.assertEqual(
            (8443, 7, "127.0.0.1"),
            self.where(f"x509:tcp:8443:interface=127.0.0.1:certificate={self.file}:backlog=7"),
        )

    def test_escaped(self) -> None:
        """The inner endpoint may be escaped, as one value."""
        self.assertEqual((8443, 50, ""), self.where(rf"x509:tcp\:8443:certificate={self.file}"))

    def test_escaped_with_equals_signs(self) -> None:
        """An escaped endpoint may have named arguments, with escaped equals signs or without."""
        for equals in ("=", r"\="):
            description = (
                rf"x509:tcp\:8443\:interface{equals}127.0.0.1\:backlog{equals}7"
                f":certificate={self.file}"
            )
            self.assertEqual((8443, 7, "127.0.0.1"), self.where(description))

    def test_quoted(self) -> None:
        """Twisted's ``quoteStringArgument`` of an endpoint is read as the endpoint."""
        within = r"tcp6:8443:interface=\:\:1"
        self.assertEqual(
            (8443, 50, "::1"),
            self.where(f"x509:{quoteStringArgument(within)}:certificate={self.file}"),
        )

    def test_colons_in_values(self) -> None:
        """Colons in values survive, in the outer and the inner endpoint."""
        odd = write_private(self.mktemp() + ":1=2", pair(subject="CN=localhost").pem)
        self.assertEqual(
            (8443, 50, "::1"),
            self.where(rf"x509:tcp6:8443:interface=\:\:1:certificate={quoteStringArgument(odd)}"),
        )
        (path, *_) = self.where(rf"x509:unix:/run/a\:b:certificate={self.file}")
        self.assertEqual("/run/a:b", path)

    def test_nested_wrapper(self) -> None:
        """The inner endpoint may wrap one itself, such as ``haproxy:``: TLS comes on top of it."""
        for within in (
            "haproxy:tcp:8443:interface=127.0.0.1",
            r"haproxy\:tcp\:8443\:interface\=127.0.0.1",
        ):
            factory, place = self.listen(f"x509:{within}:certificate={self.file}")
            self.assertEqual((8443, 50, "127.0.0.1"), place)
            self.assertNotIsInstance(factory, TLSMemoryBIOFactory)
            self.assertIsInstance(factory.wrappedFactory, TLSMemoryBIOFactory)

    def test_by_hand(self) -> None:
        """The function does the same without a string."""
        x509_endpoint(self.reactor, "tcp", "8443", certificate=self.file).listen(
            Factory.forProtocol(Protocol)
        )
        self.assertEqual(8443, self.reactor.tcpServers[0][0])


class BadArguments(EndpointTestCase):
    def expect(self, description: str, *texts: str) -> None:
        """Check that the description is rejected in one line with these texts.

        No port is bound.
        """
        error = self.assertRaises(SettingsError, serverFromString, self.reactor, description)
        for text in texts:
            self.assertIn(text, str(error))
        self.assertNotIn("\n", str(error))
        self.assertEqual([], [*self.reactor.tcpServers, *self.reactor.unixServers])

    def test_files(self) -> None:
        """The error names a file that cannot be read, or has other contents."""
        self.expect("x509:tcp:1:certificate=/nowhere", "certificate: /nowhere", "cannot be read")
        self.expect(
            f"x509:tcp:1:certificate={self.file}:privateKey=/nowhere", "private-key: /nowhere"
        )
        self.expect(f"x509:tcp:1:certificate={self.file}:ca=/nowhere", "ca: /nowhere")
        self.expect(
            f"x509:tcp:1:certificate={write_private(self.mktemp(), b'nothing')}", "no certificate"
        )

    def test_keys(self) -> None:
        """The key of another certificate, and a key that others can read, are rejected."""
        other = write_private(self.mktemp(), pair(subject="CN=other", kind="RSA 2048").pem)
        self.expect(f"x509:tcp:1:certificate={self.file}:privateKey={other}", "another public key")
        Path(self.file).chmod(0o644)
        self.expect(f"x509:tcp:1:certificate={self.file}", "found mode 0644")

    def test_client_certificate(self) -> None:
        """An unknown mode of client certificates is rejected with the known ones."""
        for word in ("maybe", "", "Required"):
            description = f"x509:tcp:1:certificate={self.file}:clientCertificate={word}"
            self.expect(description, f"found {word!r}, expected optional, required or none")

    def test_no_certificate(self) -> None:
        """A missing certificate is an error that names the argument."""
        self.expect("x509:tcp:1", "certificate")

    def test_no_endpoint(self) -> None:
        """A missing inner endpoint is an error."""
        self.expect(f"x509:certificate={self.file}", "expected")
        self.expect(f"x509::certificate={self.file}", "expected")

    def test_bad_endpoint(self) -> None:
        """A mistake of the inner endpoint is reported too, including an unknown option."""
        for within in ("nonsense:1", "tcp", "tcp:x", "tcp:1:clientcertificate=required"):
            self.expect(
                f"x509:{within}:certificate={self.file}", within.partition(":")[0], "expected"
            )


class Plugin(SynchronousTestCase):
    def test_found(self) -> None:
        """Twisted finds the parser by its prefix, so that each ``--listen`` accepts ``x509:``."""
        parsers = [
            parser
            for parser in getPlugins(IStreamServerEndpointStringParser)
            if parser.prefix == "x509"
        ]
        self.assertEqual([X509EndpointParser], [type(parser) for parser in parsers])


# Real sockets, and another implementation of TLS.


class Tells(Resource):
    """A resource that sends the client's identity to the client."""

    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        found = client_certificate(request)
        if found is None:
            return b"nobody"
        flags = sorted(flag.value for flag in found.flags_at(time.time()))
        return " ".join([found.thumbprint, found.verdict.value, *flags]).encode()


class RealSockets(TestCase):
    def setUp(self) -> None:
        self.certificate, self.key = self.mktemp(), self.mktemp()
        server_files(self.certificate, self.key)

    @inlineCallbacks
    def listen(
        self, more: str = "", within: str = r"tcp\:0\:interface\=127.0.0.1"
    ) -> Generator[Any, Any, int]:
        """Start a stock Site behind the endpoint; return its port."""
        description = f"x509:{within}:certificate={self.certificate}:privateKey={self.key}{more}"
        port = yield serverFromString(reactor, description).listen(Site(Tells()))
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    def ask(
        self, port: int, found: Pair | None, version: str = "TLSv1.3"
    ) -> Deferred[tuple[bytes, bytes, int]]:
        shown: tuple[str, ...] = ()
        if found is not None:
            path = write_private(self.mktemp(), found.pem)
            shown = ("--cert", path, "--key", path)
        where = (
            "--resolve",
            f"localhost:{port}:127.0.0.1",
            "--cacert",
            self.certificate,
            f"https://localhost:{port}/",
        )
        return curl(*TLS_VERSIONS[version], *shown, *where)

    @inlineCallbacks
    def expect(self, port: int, found: Pair | None, said: str) -> Generator[Any, Any, None]:
        answers = yield gatherResults([self.ask(port, found, version) for version in TLS_VERSIONS])
        self.assertEqual([(said.encode(), b"", 0)] * 2, answers)

    @inlineCallbacks
    def test_who(self) -> Generator[Any, Any, None]:
        """A stock ``Site`` identifies clients by certificate, in TLS 1.2 and 1.3, EC and RSA."""
        port = yield self.listen()
        for found in (pair("EC P-256"), pair("RSA 2048")):
            yield self.expect(port, found, f"{thumbprint(found.der)} SELF_SIGNED")
        yield self.expect(port, None, "nobody")

    @inlineCallbacks
    def test_equals_sign_not_escaped(self) -> Generator[Any, Any, None]:
        r"""The unescaped equals sign, as in ``tcp\:0\:interface=127.0.0.1``, is accepted."""
        port = yield self.listen(within=r"tcp\:0\:interface=127.0.0.1")
        yield self.expect(port, pair(), f"{thumbprint(pair().der)} SELF_SIGNED")

    @inlineCallbacks
    def test_none(self) -> Generator[Any, Any, None]:
        """With ``none`` no certificate is requested."""
        port = yield self.listen(":clientCertificate=none")
        yield self.expect(port, pair(), "nobody")

    @inlineCallbacks
    def test_required(self) -> Generator[Any, Any, None]:
        """With ``required`` a client without a certificate gets no response."""
        port = yield self.listen(":clientCertificate=required")
        yield self.expect(port, pair(), f"{thumbprint(pair().der)} SELF_SIGNED")
        answers = yield gatherResults([self.ask(port, None, version) for version in TLS_VERSIONS])
        for output, complaint, code in answers:
            self.assertEqual(b"", output)
            self.assertNotEqual(0, code, complaint)

    @inlineCallbacks
    def test_expired(self) -> Generator[Any, Any, None]:
        """An expired certificate arrives, with ``required`` too: applications check its flags."""
        port = yield self.listen(":clientCertificate=required")
        found = pair(years=(2020, 2021))
        yield self.expect(port, found, f"{thumbprint(found.der)} SELF_SIGNED EXPIRED")

    @inlineCallbacks
    def test_authorities(self) -> Generator[Any, Any, None]:
        """With ``ca`` its certificates are trusted, and those of another authority are not."""
        authority, other = pair(subject="CN=authority", ca=True), pair(subject="CN=other", ca=True)
        port = yield self.listen(f":ca={write_private(self.mktemp(), authority.pem)}")
        for issuer, verdict in ((authority, "TRUSTED"), (other, "UNTRUSTED")):
            found = pair(issuer=issuer)
            yield self.expect(port, found, f"{thumbprint(found.der)} {verdict}")
