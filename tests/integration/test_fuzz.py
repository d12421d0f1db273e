"""A few seconds of fuzzing in each direction, always the same; ``python -m tests.fuzz`` goes on for longer."""

from __future__ import annotations

import sys

from twisted.trial.unittest import SynchronousTestCase

from tests.fuzz.campaign import run
from tests.fuzz.mutator import LARGEST, Mutator, read_seeds
from tests.fuzz.play import cut
from x509proxy.forwarding import forwarded_fields as forwarding
from x509proxy.forwarding import sanitizer as headers
from x509proxy.forwarding.certificate_formats import Pairs
from x509proxy.http1.head_cache import known_answers, known_heads
from x509proxy.upstream import connection as upstream

SECONDS = 2.5


class Campaigns(SynchronousTestCase):
    def expect_nothing(self, direction: str) -> None:
        report = run(direction, SECONDS, seed=1)
        sys.stdout.write(
            f"{direction}: {report.executions / report.seconds:.0f} executions per second "
        )
        self.assertEqual((), report.findings, str(report))

    def test_requests(self) -> None:
        """Whatever a client sends: one genuine header or none, agreement, nothing of what is refused, no secret, no traceback."""
        self.expect_nothing("requests")

    def test_answers(self) -> None:
        """Whatever a back end sends: one answer that all understand alike or a cut, no secret, no traceback."""
        self.expect_nothing("answers")


class GoingRed(SynchronousTestCase):
    """The campaigns find what is to be found."""

    def setUp(self) -> None:
        # Heads that the right function has cleaned would hide the wrong one, and those of the wrong one, the right.
        for known in (known_heads, known_answers):
            known.cache_clear()
            self.addCleanup(known.cache_clear)

    def expect_found(self, direction: str, word: str) -> None:
        report = run(direction, 20.0, seed=1, executions=400)
        self.assertTrue(
            any(word in fault for finding in report.findings for fault in finding.faults),
            str(report),
        )

    def test_forgeries(self) -> None:
        """A proxy that does not remove what clients claim is found out."""
        self.patch(headers, "drop_claims", lambda pairs, _: (list(pairs), 0))
        self.expect_found("requests", "certificate header")

    def test_missing_header(self) -> None:
        """So is one that forgets the certificate."""
        self.patch(forwarding, "identity", lambda *_: ())
        self.expect_found("requests", "certificate header")

    def test_framing(self) -> None:
        """So is one that passes on the client's framing beside its own."""

        def drop_nothing(pairs: Pairs) -> Pairs:
            return pairs

        self.patch(headers, "drop_hop_by_hop", drop_nothing)
        self.expect_found("requests", "refuses")

    def test_secrets(self) -> None:
        """So is one that hands on whatever the back end says."""
        self.patch(headers, "contains_secret", lambda *_: False)
        self.expect_found("answers", "the secret name")

    def test_cut_short(self) -> None:
        """So is one that takes half an answer for a whole one."""

        def fail(connection: upstream.Connection, *_: object, **__: object) -> None:
            taker, connection._taker = connection._taker, None
            connection._abort()
            assert taker is not None
            taker.response_end()

        self.patch(upstream.Connection, "_fail", fail)
        self.expect_found("answers", "answers: []")


class Mutations(SynchronousTestCase):
    def test_repeatable(self) -> None:
        """The same seed gives the same inputs, another one others."""
        first, again, other = (Mutator(read_seeds("requests"), seed) for seed in (1, 1, 2))
        inputs = [first.next() for _ in range(50)]
        self.assertEqual(inputs, [again.next() for _ in range(50)])
        self.assertNotEqual(inputs, [other.next() for _ in range(50)])

    def test_small(self) -> None:
        """Seeds are small, and so is what is made of them."""
        seeds = [*read_seeds("requests"), *read_seeds("answers")]
        mutator = Mutator(seeds, 1)
        self.assertLessEqual(
            max(map(len, (*seeds, *(mutator.next() for _ in range(500))))), LARGEST
        )

    def test_pieces(self) -> None:
        """However bytes are cut, they are all there."""
        for data in (b"", b"a", b"a\r\nb\0\n\n", bytes(range(256)) * 9):
            for mode in range(4):
                self.assertEqual(data, b"".join(cut(data, mode)))
