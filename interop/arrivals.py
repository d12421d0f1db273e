"""Requests as they arrive: a back end that is no HTTP server, and the tests of one preset."""

from __future__ import annotations

import contextlib
import http.client
import socketserver
import threading
from base64 import b64encode
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPSConnection

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from interop.consumers import CONSUMERS, Consumer, Fields, Read, Unreadable
from interop.recipes import filled, recipe
from interop.stage import ClientFiles, Proxy, Stage
from tests.support.ports import free_port
from x509proxy.certificates.self_signed import KeyKind, SelfSigned, make_self_signed
from x509proxy.forwarding.presets import PRESETS
from x509proxy.http1.fields import fold
from x509proxy.testing import ThrowAwayAuthority

__all__ = [
    "API_KEY",
    "ArrivalStage",
    "ChainedStage",
    "PresetStage",
    "RawBackEnd",
    "der",
    "spellings",
]

API_KEY = "0123456789abcdef0123456789abcdef"
# A name full of what lists, pairs and quoted strings are made of.
_AWKWARD = 'a",;=\\ +%0A"b; c="x", ö€ #<>'
# What the pages write for their readers.
_LISTEN, _BACKEND = '"tcp:8443"', '"http://127.0.0.1:8080"'


def der(made: SelfSigned) -> bytes:
    return made.certificate.public_bytes(Encoding.DER)


def spellings(name: str) -> list[str]:
    """Return a field's name in each spelling that a forger may choose."""
    cases = [name, name.lower(), name.upper(), name.title(), name.swapcase()]
    twins = [case.replace(old, new) for case in cases for old, new in ("-_", "_-")]
    return list(dict.fromkeys([*cases, *twins]))


class _Conversation(socketserver.StreamRequestHandler):
    server: RawBackEnd

    def handle(self) -> None:
        """Read one head after another; the requests here have no body."""
        # HAProxy resets a connection that it closes for its client.
        with contextlib.suppress(ConnectionResetError):
            while head := self._head():
                self.server.requests.append(head)
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    def _head(self) -> Fields:
        lines: list[str] = []
        while line := self.rfile.readline().decode("latin-1").rstrip("\r\n"):
            lines.append(line)
        pairs = (line.partition(":") for line in lines[1:])
        return [(name, value.strip(" ")) for name, _, value in pairs]


class RawBackEnd(socketserver.ThreadingTCPServer):
    """It listens at a port of the loopback's until :meth:`stop`.

    ``requests``: the fields of each, in order, untouched.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Conversation)
        self.requests: list[Fields] = []
        self.port: int = self.socket.getsockname()[1]
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        self.shutdown()
        self._thread.join(10)
        self.server_close()


class ArrivalStage(Stage):
    """A back end that keeps what arrives, files for a proxy in front of it, and questions."""

    def setUp(self) -> None:
        super().setUp()
        self.back_end = RawBackEnd()
        self.addCleanup(self.back_end.stop)
        self.authority = ThrowAwayAuthority()
        self.server_files()
        self.write("ca.pem", self.authority.certificate.public_bytes(Encoding.PEM))
        self.write("cname-api-key.txt", API_KEY + "\n")

    def behind(self, toml: str, backend: str = _BACKEND) -> Proxy:
        """Start the proxy of a page's configuration, in front of the back end here."""
        port = free_port()
        here = {
            _LISTEN: f'"tcp:{port}:interface=127.0.0.1"',
            backend: f'"http://127.0.0.1:{self.back_end.port}"',
        }
        return self.start_proxy(filled(toml, here), port)

    def ask(
        self, proxy: Proxy, client: ClientFiles | None = None, *fields: tuple[str, str]
    ) -> tuple[int, Fields]:
        """Return the status of the response, and the request's fields as they arrived, or none."""
        return self._ask(
            HTTPSConnection(
                "localhost", proxy.port, context=self.context(proxy, client), timeout=30
            ),
            fields,
        )

    def ask_past_the_proxy(self, *fields: tuple[str, str]) -> Fields:
        """Return the fields of a request that reaches the back end past the proxy."""
        return self._ask(HTTPConnection("127.0.0.1", self.back_end.port, timeout=30), fields)[1]

    def _ask(self, connection: http.client.HTTPConnection, fields: Fields) -> tuple[int, Fields]:
        before = len(self.back_end.requests)
        try:
            connection.putrequest("GET", "/")
            for name, value in fields:
                connection.putheader(name, value)
            connection.endheaders()
            status = connection.getresponse().status
        finally:
            connection.close()
        arrived = self.back_end.requests[before:]
        return status, arrived[0] if arrived else ()

    def files(self, made: SelfSigned, name: str, *chain: x509.Certificate) -> ClientFiles:
        """Write a client's files; ``chain`` is sent after its own certificate."""
        files = self.client_files(made, name)
        files.certificate.write_bytes(
            made.certificate_pem + b"".join(each.public_bytes(Encoding.PEM) for each in chain)
        )
        return files


class PresetStage(ArrivalStage):
    """The promises that are the same for each preset; a class for each names it.

    ``issued``: the page's proxy passes on certificates of an authority alone. ``chained``: the
    server gets the certificates that a client sends after its own. ``backend``: the value that the
    page has in place of this back end.
    """

    preset = ""
    issued = False
    chained = False
    backend = _BACKEND

    def setUp(self) -> None:
        super().setUp()
        self.proxy = self.behind(recipe(f"servers/{self.preset}", "x509proxy.toml"), self.backend)

    def make(self, kind: KeyKind = KeyKind.EC) -> SelfSigned:
        """Make a certificate whose base64 has every character that form decoders change."""
        while True:
            made = (
                self.authority.client(_AWKWARD, kind)
                if self.issued
                else make_self_signed(kind, _AWKWARD)
            )
            text = b64encode(der(made))
            if b"+" in text and b"/" in text and text.endswith(b"="):
                return made

    def reads(self, fields: Fields) -> list[Read | str | None]:
        """Return the result of each of the preset's readers."""
        return [self._read(consumer, fields) for consumer in CONSUMERS[self.preset]]

    def _read(self, consumer: Consumer, fields: Fields) -> Read | str | None:
        try:
            read = consumer(fields)
        except Unreadable as error:
            return f"unreadable: {error}"
        return Read(read.der, read.chain) if read else None

    def everybody(self, read: Read | None) -> list[Read | str | None]:
        """Check that each of the preset's readers returns the same."""
        return [read for _ in CONSUMERS[self.preset]]

    def test_exactly_the_certificate(self) -> None:
        """The server reads the certificate of the handshake, byte for byte.

        The chain is read only where the server is configured for one.
        """
        above = self.authority.certificate
        for kind in (KeyKind.EC, KeyKind.RSA):
            made = self.make(kind)
            status, fields = self.ask(self.proxy, self.files(made, kind.value))
            self.assertEqual((200, self.everybody(Read(der(made)))), (status, self.reads(fields)))
        made = self.authority.client()
        status, fields = self.ask(self.proxy, self.files(made, "issued", above))
        chain = (above.public_bytes(Encoding.DER),) if self.chained and self.issued else ()
        self.assertEqual(
            (200, self.everybody(Read(der(made), chain))), (status, self.reads(fields))
        )

    def test_not_issued(self) -> None:
        """A self-signed certificate arrives only where the server verifies it, by the page."""
        made = make_self_signed(KeyKind.EC, _AWKWARD)
        status, fields = self.ask(self.proxy, self.files(made, "own"))
        expected = (
            (401, self.everybody(None)) if self.issued else (200, self.everybody(Read(der(made))))
        )
        self.assertEqual(expected, (status, self.reads(fields)))

    def test_none(self) -> None:
        """Without a certificate the server reads none."""
        self.assertEqual(self.everybody(None), self.reads(self.ask(self.proxy)[1]))

    def test_forged(self) -> None:
        """No forged header that the server would read passes: in no spelling, once or twice."""
        victim, mallory = self.make(), self.make()
        genuine = list(self.of_the_preset(self.ask(self.proxy, self.files(victim, "victim"))[1]))
        files = self.files(mallory, "mallory")
        # Past the proxy the forgery works: so these readers detect one that passes.
        self.assertEqual(
            self.everybody(Read(der(victim))), self.reads(self.ask_past_the_proxy(*genuine))
        )
        for forged in zip(*(self._rewritten(name, value) for name, value in genuine), strict=True):
            for repeats in (1, 2):
                fields = [pair for pair in forged for _ in range(repeats)]
                self.assertEqual(
                    self.everybody(None),
                    self.reads(self.ask(self.proxy, None, *fields)[1]),
                    forged[0][0],
                )
                arrived = self.ask(self.proxy, files, *fields)[1]
                self.assertEqual(
                    self.everybody(Read(der(mallory))), self.reads(arrived), forged[0][0]
                )
                names = [name for name, _ in self.of_the_preset(arrived)]
                self.assertEqual(sorted(set(names)), sorted(names))

    def _rewritten(self, name: str, value: str) -> list[tuple[str, str]]:
        found = spellings(name)
        return [(found[at % len(found)], value) for at in range(15)]

    def of_the_preset(self, fields: Fields) -> Iterator[tuple[str, str]]:
        """Return the fields that the preset sends, in any spelling."""
        folds = {fold(plan.name) for plan in PRESETS[self.preset].plans}
        return ((name, value) for name, value in fields if fold(name.encode("latin-1")) in folds)


class UnverifiedStage(PresetStage):
    """The page's proxy verifies no chain, and so passes none on."""

    chained = True

    def test_chain_of_a_trusted_client(self) -> None:
        """With authorities, as on the page, issued chains and self-signed certificates arrive."""
        trusting = 'trust = "either"\nca = "ca.pem"'
        toml = filled(
            recipe(f"servers/{self.preset}", "x509proxy.toml"), {'trust = "any"': trusting}
        )
        proxy = self.behind(toml, self.backend)
        above, made, own = self.authority.certificate, self.authority.client(), self.make()
        fields = self.ask(proxy, self.files(made, "issued", above))[1]
        self.assertEqual(
            self.everybody(Read(der(made), (above.public_bytes(Encoding.DER),))), self.reads(fields)
        )
        self.assertEqual(
            self.everybody(Read(der(own))), self.reads(self.ask(proxy, self.files(own, "own"))[1])
        )


class ChainedStage(PresetStage):
    """Keycloak before 21.1.2 accepts a client by any certificate of the chain (CVE-2023-2422)."""

    chained = issued = True

    def test_not_of_the_chain(self) -> None:
        """Another client's certificate, which a client sends beside its chain, does not arrive."""
        victim, mallory = self.authority.client("victim"), self.authority.client("mallory")
        above = self.authority.certificate
        for chain in (
            [victim.certificate],
            [victim.certificate, above],
            [above, victim.certificate],
        ):
            fields = self.ask(self.proxy, self.files(mallory, "mallory", *chain))[1]
            (read,) = self.reads(fields)
            assert isinstance(read, Read)
            self.assertEqual((der(mallory), False), (read.der, der(victim) in read.chain))
