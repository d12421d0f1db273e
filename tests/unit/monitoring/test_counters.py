"""Tests of :mod:`x509proxy.monitoring.counters`: one count per event, no growth, sums."""

from __future__ import annotations

import attrs
from twisted.trial.unittest import SynchronousTestCase

from tests.support import certificates as samples
from tests.support.exchanges import BACK_END, exchange, refused
from x509proxy.certificates.client_certificate import ClientCertificate, Verdict
from x509proxy.exchange import Outcome, TokenVerdict
from x509proxy.http1.errors import Code
from x509proxy.monitoring.counters import BOUNDS, NULL_METRICS, Counters, Counts


def certificate(number: int, verdict: Verdict = Verdict.SELF_SIGNED) -> ClientCertificate:
    return attrs.evolve(
        samples.client(f"CN=client {number % 3}"),
        thumbprint=f"thumbprint {number}",
        verdict=verdict,
    )


class Exchanges(SynchronousTestCase):
    def setUp(self) -> None:
        self.counters = Counters()

    def test_answered(self) -> None:
        """An answered one counts by back end and status; its bytes and seconds are added."""
        for status in (200, 200, 500):
            self.counters.exchange(exchange(status=status))
        counts = self.counters.counts()
        self.assertEqual({BACK_END: {"completed": {200: 2, 500: 1}}}, counts.exchanges)
        self.assertEqual((87, 180), (counts.bytes_in, counts.bytes_out))
        self.assertAlmostEqual(0.012, counts.seconds)
        self.assertEqual({}, counts.refusals)

    def test_others(self) -> None:
        """Rejected and aborted requests count apart, by a code, and not among the durations."""
        self.counters.exchange(refused())
        self.counters.exchange(
            refused(outcome=Outcome.ABORTED, status=200, code=Code.CLIENT_LEFT, backend=BACK_END)
        )
        counts = self.counters.counts()
        self.assertEqual(
            {"": {"rejected": {401: 1}}, BACK_END: {"aborted": {200: 1}}}, counts.exchanges
        )
        self.assertEqual({"no_certificate": 1, "client_left": 1}, counts.refusals)
        self.assertEqual(0, sum(counts.durations))
        self.assertEqual(["no client certificate"], [one.detail for one in self.counters.rejected])

    def test_durations(self) -> None:
        """Each duration is in one bin, whose end it does not exceed.

        There is one for what takes longest.
        """
        for seconds in (0.0, BOUNDS[0], BOUNDS[0] + 1e-9, BOUNDS[-1], 1000.0):
            self.counters.exchange(exchange(duration=seconds))
        self.assertEqual((2, 1, *[0] * (len(BOUNDS) - 3), 1, 1), self.counters.counts().durations)

    def test_verdicts(self) -> None:
        """Each request counts by its certificate's verdict, one without as NONE."""
        same = certificate(1)
        for shown in (None, same, same, certificate(2, Verdict.TRUSTED)):
            self.counters.exchange(exchange(certificate=shown))
        expected = {"NONE": 1, "SELF_SIGNED": 2, "TRUSTED": 1, "UNTRUSTED": 0}
        self.assertEqual(expected, self.counters.counts().verdicts)

    def test_tokens(self) -> None:
        """Each request whose token was checked counts by the verdict."""
        for verdict in (TokenVerdict.UNCHECKED, TokenVerdict.BOUND, TokenVerdict.BOUND):
            self.counters.exchange(exchange(token=verdict))
        expected = {"ABSENT": 0, "BOUND": 2, "UNBOUND": 0, "DPOP": 0, "REJECTED": 0}
        self.assertEqual(expected, self.counters.counts().tokens)

    def test_fields(self) -> None:
        """Forged headers and odd names are added up."""
        self.counters.exchange(exchange(forged=2))
        self.counters.exchange(exchange(invalid_header_names=3))
        counts = self.counters.counts()
        self.assertEqual((2, 3), (counts.forged, counts.invalid_header_names))


class Bounds(SynchronousTestCase):
    def setUp(self) -> None:
        self.counters = Counters()

    def test_refusals(self) -> None:
        """The latest fifty refusals are kept."""
        for number in range(60):
            self.counters.exchange(refused(started=float(number)))
        self.assertEqual(
            [float(number) for number in range(10, 60)],
            [one.started for one in self.counters.rejected],
        )

    def test_certificates(self) -> None:
        """Fifty certificates are kept; the one that has not come for longest makes room."""
        for number in range(50):
            self.counters.exchange(exchange(started=float(number), certificate=certificate(number)))
        self.counters.exchange(exchange(started=50.0, certificate=certificate(0)))
        self.counters.exchange(exchange(started=51.0, certificate=certificate(50)))
        self.assertEqual(50, len(self.counters.certificates))
        self.assertNotIn("thumbprint 1", self.counters.certificates)
        self.assertEqual(
            (2, 50.0),
            (
                self.counters.certificates["thumbprint 0"].requests,
                self.counters.certificates["thumbprint 0"].last,
            ),
        )

    def test_another_verdict(self) -> None:
        """A certificate with another verdict since a reload keeps its count, with the new one."""
        self.counters.exchange(exchange(certificate=certificate(1)))
        self.counters.exchange(exchange(certificate=certificate(1, Verdict.TRUSTED)))
        self.assertEqual(
            ("TRUSTED", 2),
            (
                self.counters.certificates["thumbprint 1"].verdict,
                self.counters.certificates["thumbprint 1"].requests,
            ),
        )

    def test_uncounted(self) -> None:
        """Without a reader the pending events are counted by themselves."""
        for _ in range(1000):
            self.counters.exchange(exchange())
        self.assertLess(len(self.counters._uncounted), 64)
        self.assertEqual(1000, self.counters.counts().total())

    def test_no_words_of_a_clients(self) -> None:
        """No client makes a new key, anywhere."""
        for number in range(200):
            target, method = f"/{number}", f"M{number}"
            self.counters.exchange(
                refused(
                    target=target,
                    method=method,
                    peer=f"peer {number}",
                    code=Code.BODY_TOO_LARGE,
                    detail=f"body of {number} bytes",
                    status=413,
                )
            )
        counts = self.counters.counts()
        self.assertEqual(
            ({"": {"rejected": {413: 200}}}, {"body_too_large": 200}),
            (counts.exchanges, counts.refusals),
        )


class Connections(SynchronousTestCase):
    def test_handshakes(self) -> None:
        """Handshakes count by version and key exchange group, failures and limits by word."""
        counters = Counters()
        for version, group in (
            (0x0304, "X25519MLKEM768"),
            (0x0304, "X25519MLKEM768"),
            (0x0303, "x25519"),
            (0x0305, "of a client's choosing"),
        ):
            counters.handshake_succeeded(version, group)
        counters.handshake_failed("no_client_hello")
        counters.limited("client.max-connections")
        counts = counters.counts()
        self.assertEqual({"TLSv1.3": 2, "TLSv1.2": 1, "other": 1}, counts.handshakes)
        self.assertEqual({"X25519MLKEM768": 2, "x25519": 1, "other": 1}, counts.key_exchanges)
        self.assertEqual(
            ({"no_client_hello": 1}, {"client.max-connections": 1}),
            (counts.handshake_failures, counts.limits),
        )

    def test_reloads(self) -> None:
        """A failed reload has its reason until the next good one, and keeps that one's time."""
        counters = Counters()
        loaded, counters.loaded_at = counters.loaded_at, 5.0
        self.assertGreater(loaded, 0)
        counters.reloaded("certificate: broken")
        self.assertEqual(("certificate: broken", 5.0), (counters.reload_error, counters.loaded_at))
        failed = counters.reload_failed_at
        self.assertGreater(failed, 5.0)
        counters.reloaded(note="key: restart needed")
        self.assertEqual(("", failed), (counters.reload_error, counters.reload_failed_at))
        self.assertEqual("key: restart needed", counters.reload_note)
        self.assertGreaterEqual(counters.loaded_at, failed)
        self.assertEqual({"success": 1, "failure": 1}, counters.counts().reloads)

    def test_nobody(self) -> None:
        """The null implementation takes the same calls and returns nothing."""
        NULL_METRICS.exchange(exchange())
        NULL_METRICS.handshake_succeeded(0x0304, "X25519MLKEM768")
        NULL_METRICS.handshake_failed("no_client_hello")
        NULL_METRICS.limited("client.max-connections")
        NULL_METRICS.reloaded()


class Sums(SynchronousTestCase):
    def test_add(self) -> None:
        """Two processes' numbers are added, key by key and bin by bin."""
        counters = Counters()
        counters.exchange(exchange(certificate=certificate(1), forged=1))
        counters.exchange(refused())
        counters.handshake_succeeded(0x0304, "X25519MLKEM768")
        one = counters.counts()
        counters.exchange(exchange(status=500))
        two = counters.counts()
        both = one + two
        self.assertEqual(
            {BACK_END: {"completed": {200: 2, 500: 1}}, "": {"rejected": {401: 2}}}, both.exchanges
        )
        self.assertEqual(
            (2, {"TLSv1.3": 2}, 3), (both.forged, both.handshakes, sum(both.durations))
        )
        self.assertEqual(one, one + Counts())
        self.assertEqual((5, 3, 2), (both.total(), both.total("completed"), both.total("rejected")))


class LimitsMet(SynchronousTestCase):
    def test_both(self) -> None:
        """A limit that is met counts by its setting, at a connection as well as at a request."""
        counters = Counters()
        counters.limited("client.max-connections")
        counters.exchange(refused(code=Code.HEAD_TOO_LARGE, status=431))
        counters.exchange(refused())
        expected = {"client.max-connections": 1, "client.max-head-bytes": 1}
        self.assertEqual(expected, counters.counts().exceeded_limits())

    def test_dropped_lines(self) -> None:
        """Lines that a log could not take count by the log."""
        counters = Counters()
        counters.log_lines_dropped("access", 2)
        counters.log_lines_dropped("access", 3)
        self.assertEqual(5, counters.counts().log_lines_dropped["access"])
