"""A few seconds of fuzzing in each direction, always with the same seed.

``python -m tests.fuzz`` runs for longer.
"""

from __future__ import annotations

import io
import re
import sys
from random import Random

import attrs
from twisted.trial.unittest import SynchronousTestCase

from tests.fuzz import differential, worlds
from tests.fuzz.campaign import run
from tests.fuzz.mutator import LARGEST, Mutator, read_seeds
from tests.fuzz.play import cut
from x509proxy import relay
from x509proxy.certificates.client_certificate import ClientCertificate
from x509proxy.forwarding import decision as forwarding
from x509proxy.forwarding import sanitizer as headers
from x509proxy.forwarding.header_rules import HeaderRules, identity
from x509proxy.http1 import body, messages, request_parser, response_parser
from x509proxy.http1.fields import write_fields
from x509proxy.upstream import connection as upstream
from x509proxy.upstream import endpoints

SECONDS = 2.5


class Campaigns(SynchronousTestCase):
    def expect_nothing(self, direction: str) -> None:
        report = run(direction, SECONDS, seed=1)
        sys.stdout.write(
            f"{direction}: {report.executions / report.seconds:.0f} executions per second "
        )
        self.assertEqual((), report.findings, str(report))

    def test_requests(self) -> None:
        """No input of a client is a finding.

        The back end receives one genuine header or none, and nothing of a rejected request. All
        parsers agree. There is no secret in a response and no traceback.
        """
        self.expect_nothing("requests")

    def test_answers(self) -> None:
        """No input of a back end is a finding.

        The client receives one response that all parsers read alike, or a cut connection. There
        is no secret in it and no traceback.
        """
        self.expect_nothing("answers")


class GoingRed(SynchronousTestCase):
    """The campaigns find each of these faults."""

    def expect_found(self, direction: str, word: str) -> None:
        report = run(direction, 20.0, seed=1, executions=400)
        self.assertTrue(
            any(word in fault for finding in report.findings for fault in finding.faults),
            str(report),
        )

    def ignore_kinds(self, *kinds: headers._Kind) -> None:
        """Let fields of these kinds pass."""
        kind_of = headers._request_kind

        def careless(name: bytes, own: frozenset[bytes]) -> headers._Kind:
            kind = kind_of(name, own)
            return headers._END_TO_END if kind in kinds else kind

        self.patch(headers, "_request_kind", careless)

    def test_forgeries(self) -> None:
        """A proxy that does not remove forged headers is a finding."""
        self.ignore_kinds(headers._CLAIM, headers._FORGED)
        self.expect_found("requests", "certificate header")

    def test_missing_header(self) -> None:
        """So is a proxy that omits the certificate."""
        self.patch(forwarding, "_certificate_fields", lambda *_: b"")
        self.expect_found("requests", "certificate header")

    def test_framing(self) -> None:
        """So is a proxy that passes on the client's framing beside its own."""
        self.ignore_kinds(headers._HOP)
        self.expect_found("requests", "refuses")

    def test_secrets(self) -> None:
        """So is a proxy that passes on a secret in the back end's response."""
        self.patch(headers, "contains_secret", lambda *_: False)
        self.expect_found("answers", "the secret name")

    def test_cut_short(self) -> None:
        """So is a proxy that takes an incomplete response for a complete one."""

        def fail(connection: upstream.Connection, *_: object, **__: object) -> None:
            taker, connection._handler = connection._handler, None
            connection._abort()
            assert taker is not None
            taker.response_end()

        self.patch(upstream.Connection, "_fail", fail)
        self.expect_found("answers", "answers: []")


class Worlds(SynchronousTestCase):
    """Several clients and back ends at once; ``python -m tests.fuzz.worlds`` runs for longer."""

    def test_nothing(self) -> None:
        """No world has a fault."""
        self.assertEqual([], [*worlds.search(range(200), SECONDS)])

    def expect_found(self, word: str) -> None:
        """Check that one of many worlds has this fault; the sizes of handshakes vary."""
        self.assertTrue(any(word in fault for _, fault in worlds.search(range(1500))), word)

    def test_certificates(self) -> None:
        """A proxy that sends the certificate of another connection is a fault."""
        seen = [b""]

        def careless(certificate: ClientCertificate | None, rules: HeaderRules) -> bytes:
            fields = write_fields(identity(certificate, rules))
            seen.append(fields or seen[-1])
            return seen[-2]

        self.patch(forwarding, "_certificate_fields", careless)
        self.expect_found("of the owner of certificate")

    def test_records(self) -> None:
        """So is one that lends a connection with a record that has not been delivered."""
        self.patch(endpoints, "_has_record", lambda _: False)
        self.expect_found("octets of no response")

    def test_order(self) -> None:
        """So is one that reads on before it has sent the head."""

        def send_streamed(transfer: relay.Relay, connection: upstream.Connection) -> None:
            begun = transfer._head + transfer._framed(transfer._request.take_body())
            transfer._request.stream_body()
            connection.send_head(transfer._request.head.method, begun, transfer)

        self.patch(relay.Relay, "_send_streamed", send_streamed)
        self.expect_found("no response to")

    def test_command(self) -> None:
        """The command prints both counts; its exit status is 0 without a fault."""
        output = io.StringIO()
        self.patch(sys, "stdout", output)
        self.assertEqual(0, worlds.main(["--worlds", "2"]))
        self.patch(worlds, "faults_of", lambda seed: [f"fault {seed}"])
        self.assertEqual(1, worlds.main(["--first", "7", "--worlds", "1"]))
        self.assertEqual(
            "2 worlds, 0 with faults\nseed 7: fault 7\n1 worlds, 1 with faults\n",
            output.getvalue(),
        )


class Mutations(SynchronousTestCase):
    def test_repeatable(self) -> None:
        """The same seed gives the same inputs, and another seed gives others."""
        first, again, other = (Mutator(read_seeds("requests"), seed) for seed in (1, 1, 2))
        inputs = [first.next() for _ in range(50)]
        self.assertEqual(inputs, [again.next() for _ in range(50)])
        self.assertNotEqual(inputs, [other.next() for _ in range(50)])

    def test_small(self) -> None:
        """Seeds are small, and so are the inputs made from them."""
        seeds = [*read_seeds("requests"), *read_seeds("answers")]
        mutator = Mutator(seeds, 1)
        self.assertLessEqual(
            max(map(len, (*seeds, *(mutator.next() for _ in range(500))))), LARGEST
        )

    def test_pieces(self) -> None:
        """No way of cutting loses a byte."""
        for data in (b"", b"a", b"a\r\nb\0\n\n", bytes(range(256)) * 9):
            for mode in range(4):
                self.assertEqual(data, b"".join(cut(data, mode)))


class Differential(SynchronousTestCase):
    """The parsers beside llhttp and h11; ``python -m tests.fuzz.differential`` runs for longer."""

    def test_agree(self) -> None:
        """Both others accept each input that the parsers accept, and read it alike."""
        for kind in differential.KINDS:
            report = differential.campaign(kind, 4000, seed=2)
            self.assertEqual((), report.findings, str(report))
            self.assertGreater(report.accepted, 400)

    def expect_found(self, kind: str, word: str) -> None:
        report = differential.campaign(kind, 6000, seed=2)
        self.assertTrue(any(word in fault for _, fault in report.findings), str(report))

    def test_lenient_grammar(self) -> None:
        """A grammar that accepts a bare LF in a value is a finding, in both directions."""
        for name, parser, kind in (
            ("REQUEST", request_parser, "requests"),
            ("RESPONSE", response_parser, "responses"),
        ):
            grammar = getattr(parser, name)
            pattern = grammar.head.pattern.replace(rb"++:[\t", rb"++:[\t\n")
            self.assertNotEqual(grammar.head.pattern, pattern)
            self.patch(parser, name, attrs.evolve(grammar, head=re.compile(pattern)))
            self.expect_found(kind, "llhttp")

    def test_two_framings(self) -> None:
        """So is a parser that uses the last of two lengths."""
        self.patch(messages, "_SINGLE", frozenset())
        self.expect_found("requests", "h11")

    def test_lenient_chunks(self) -> None:
        """So is a parser that accepts a chunk's size with a sign."""
        size = body._FIRST_SIZE
        pattern = size.whole.pattern.replace(rb"([0-9", rb"([+0-9", 1)
        self.patch(body, "_FIRST_SIZE", attrs.evolve(size, whole=re.compile(pattern)))
        head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunks = b"@1\r\na\r\n0\r\n\r\n"
        inputs = [head + chunks.replace(b"@", bytes([octet])) for octet in range(256)]
        report = differential.read_all("requests", inputs, Random(1))
        self.assertEqual(2, len(report.findings), str(report))

    def test_lost_octets(self) -> None:
        """So is a parser whose events depend on the division of the octets."""
        keep = request_parser.RequestParser._keep

        def forget(parser: request_parser.RequestParser, data: bytes, new: int) -> None:
            keep(parser, data, new)
            parser._part = parser._part[:-1]

        self.patch(request_parser.RequestParser, "_keep", forget)
        self.expect_found("requests", "in pieces")

    def test_sweep(self) -> None:
        """A sweep replaces, follows and omits every octet."""
        found = list(differential.sweep([b"ab"]))
        self.assertEqual(2 * (1 + 2 * 256), len(found))
        self.assertLessEqual({b"a", b"b", b"xb", b"ax", b"axb", b"abx", b"a\0"}, set(found))

    def test_command(self) -> None:
        """The command prints both counts; its exit status is 0 if all agreed."""
        output = io.StringIO()
        self.patch(sys, "stdout", output)
        self.patch(differential, "sweep", lambda _: [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"])
        self.assertEqual(0, differential.main(["--heads", "200", "--sweep", "--kind", "requests"]))
        self.assertRegex(
            output.getvalue(),
            r"\Arequests, every change of one octet: 1 heads, 1 accepted, 0 disagreements\n"
            r"requests: \d+ heads, \d+ accepted, 0 disagreements\n\Z",
        )
        report = differential.Report(3, 1, ((b"x", "y"),))
        self.assertEqual("3 heads, 1 accepted, 1 disagreements\n    b'x'\n        y", str(report))
