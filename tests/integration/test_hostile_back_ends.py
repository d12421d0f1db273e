"""Back ends that violate HTTP, behind a whole proxy.

The tests check the result for the client of the exchange, and that no other client is affected.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.fuzz.play import play_answer
from tests.support.memory import CUT, GET, HEADER, OK, Proxy, RequestTransport, post
from tests.support.reference_parsers import Answer, fold, read_answers
from tests.support.streams import pieces, single_bytes
from tests.support.tls_back_end import TlsServer, over_tls
from x509proxy.exchange import Outcome
from x509proxy.settings import Backend, UpstreamSettings
from x509proxy.upstream.endpoints import PendingInput
from x509proxy.upstream.pool import Pool

HEAD = GET.replace(b"GET", b"HEAD")
START = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: 2\r\n\r\nok"
CODED = START + b"Transfer-Encoding: chunked\r\n\r\n"
# A response that looks like one to another client's request.
STRAY = b"HTTP/1.1 200 OK\r\nX-Stray: yes\r\nContent-Length: 5\r\n\r\nSTRAY"


class HostileTestCase(SynchronousTestCase):
    def start(self, *requests: bytes, connections: int = 1) -> list[RequestTransport]:
        """Start one client for each request; they share the connections to the back end."""
        self.proxy = Proxy(upstream=UpstreamSettings(max_connections=connections))
        return [self.proxy.client(request) for request in requests]

    @property
    def wires(self) -> list[RequestTransport]:
        return self.proxy.back_end.wires

    def turn(self) -> None:
        self.proxy.clock.advance(0)

    def answers(self, client: RequestTransport, *methods: bytes) -> list[Answer]:
        """Return the responses that a client received, as all reference parsers read them."""
        data = client.sent()
        seen, wrong = read_answers(
            data, methods or [b"GET"], closed=client.disconnecting and not client.aborted
        )
        self.assertEqual([], wrong, data)
        return seen

    def expect_next_is_served(self, *, reused: bool) -> None:
        """Check that the next client gets its own response, and on which connection."""
        before = len(self.wires)
        client = self.proxy.client(GET)
        self.assertEqual(before + (not reused), len(self.wires), "connections")
        self.wires[-1].deliver(OK)
        self.assertEqual(
            [(200, b"ok")], [(answer.status, answer.body) for answer in self.answers(client)]
        )

    def expect_failure(self, *given: bytes, request: bytes = GET, status: int = 502) -> None:
        """Check that the client gets one error, and that the connection is not used again.

        Each input is also delivered in single bytes.
        """
        for data, cut_up in product(given, (lambda data: [data], single_bytes)):
            (client,) = self.start(request)
            self.wires[0].deliver(*cut_up(data))
            self.turn()
            seen = self.answers(client, request.partition(b" ")[0])
            self.assertEqual([status], [answer.status for answer in seen], data)
            self.assertEqual(
                [Outcome.REJECTED], [exchange.outcome for exchange in self.proxy.exchanges], data
            )
            self.expect_next_is_served(reused=False)

    def expect_cut(
        self, *given: bytes, request: bytes = GET, end: Exception | None = None, ends: bool = True
    ) -> None:
        """Check that the client's connection is cut, so that no parser reads a whole response."""
        for data, cut_up in product(given, (lambda data: [data], single_bytes)):
            (client,) = self.start(request)
            self.wires[0].deliver(*cut_up(data))
            if ends:
                self.wires[0].lose(end)
            self.turn()
            self.assertTrue(client.aborted, data)
            self.assertEqual([], self.answers(client), data)
            self.assertEqual(
                [Outcome.ABORTED], [exchange.outcome for exchange in self.proxy.exchanges], data
            )
            self.expect_next_is_served(reused=False)

    def expect_answer(
        self,
        data: bytes,
        status: int,
        body: bytes,
        *,
        request: bytes = GET,
        reused: bool = True,
        cut_up: bool = True,
    ) -> list[tuple[bytes, bytes]]:
        """Check that all reference parsers read this one response; return its fields."""
        found: list[tuple[bytes, bytes]] = []
        for feeds in ([data], list(single_bytes(data))) if cut_up else ([data],):
            (client,) = self.start(request)
            self.wires[0].deliver(*feeds)
            self.turn()
            (answer,) = self.answers(client, request.partition(b" ")[0])
            self.assertEqual((status, body), (answer.status, answer.body), data)
            found = answer.pairs
            self.expect_next_is_served(reused=reused)
        return found


class NoAnswer(HostileTestCase):
    """Threats 0.5: without a response from the back end there is no 200."""

    def test_closed(self) -> None:
        """A back end that closes without a byte has not responded: 502."""
        for end in (None, CUT):
            (client,) = self.start(GET)
            self.wires[0].lose(end)
            self.turn()
            self.assertEqual([502], [answer.status for answer in self.answers(client)])
            self.expect_next_is_served(reused=False)

    def test_silent(self) -> None:
        """A back end that sends nothing is 504 after ``response-timeout``."""
        (client,) = self.start(GET)
        self.proxy.clock.advance(29)
        self.assertEqual(b"", client.value())
        self.proxy.clock.advance(2)
        self.assertEqual([504], [answer.status for answer in self.answers(client)])
        self.assertTrue(self.wires[0].aborted)
        self.expect_next_is_served(reused=False)

    def test_refused(self) -> None:
        """A failed connection is 502, and one that is not accepted in time is 504."""
        for fails, status in ((True, 502), (False, 504)):
            self.proxy = Proxy(at_once=False)
            client = self.proxy.client(GET)
            if fails:
                self.proxy.back_end.attempts[0].fail()
            self.proxy.clock.advance(6)
            self.assertEqual([status], [answer.status for answer in self.answers(client)])

    def test_slow_head(self) -> None:
        """A head that arrives byte by byte has the same deadline as a missing one."""
        (client,) = self.start(GET)
        for octet in single_bytes(b"HTTP/1.1 200 OK\r\nX-A: abcdefghijklmnopqrstuvwxyz"):
            self.wires[0].deliver(octet)
            self.proxy.clock.advance(1)
        self.assertEqual([504], [answer.status for answer in self.answers(client)])
        self.assertTrue(self.wires[0].aborted)

    def test_slow_interim_answers(self) -> None:
        """Interim responses, one after the other, do not extend the deadline."""
        (client,) = self.start(GET)
        for _ in range(12):
            self.wires[0].deliver(b"HTTP/1.1 102 Processing\r\n\r\n")
            self.proxy.clock.advance(3)
        self.assertEqual([504], [answer.status for answer in self.answers(client)])

    def test_stops_in_the_body(self) -> None:
        """A body that stops is cut after its deadline, and the client's connection with it."""
        for head in (
            START + b"Content-Length: 9\r\n\r\nabc",
            CODED + b"9\r\nabc",
            START + b"\r\nabc",
        ):
            (client,) = self.start(GET)
            self.wires[0].deliver(head)
            self.proxy.clock.advance(29)
            self.assertFalse(client.aborted)
            self.proxy.clock.advance(2)
            self.assertTrue(client.aborted)
            self.assertEqual([], self.answers(client))

    def test_empty_lines_for_ever(self) -> None:
        """Empty lines are no response, in any number."""
        (client,) = self.start(GET)
        for _ in range(31):
            self.wires[0].deliver(b"\r\n" * 100)
            self.proxy.clock.advance(1)
        self.assertIn([answer.status for answer in self.answers(client)], ([502], [504]))


class Garbage(HostileTestCase):
    """Data that is no response, or could be read in two ways, is 502."""

    def test_no_http(self) -> None:
        """Garbage is 502."""
        self.expect_failure(
            b"garbage\r\n\r\n",
            b"\0" * 20,
            b"\x16\x03\x03\0\x31nonsense",
            b"<html>hello</html>\r\n\r\n",
            b"HTTP/1.1\r\n\r\n",
        )

    def test_other_protocols(self) -> None:
        """A response in another protocol that llhttp reads is rejected."""
        self.expect_failure(
            b"RTSP/1.0 200 OK\r\n" + LENGTH,
            b"RTSP/1.1 200 OK\r\n" + LENGTH,
            b"ICE/1.0 200 OK\r\n" + LENGTH,
        )

    def test_versions(self) -> None:
        """Versions other than HTTP/1.0 and 1.1 are rejected."""
        self.expect_failure(
            *(
                b"HTTP/%b 200 OK\r\n" % version + LENGTH
                for version in (b"0.9", b"1.2", b"2.0", b"11.1", b"1", b"1.1.1")
            )
        )

    def test_status(self) -> None:
        """A status is three digits, from 100 to 599."""
        odd = (
            b"20",
            b"0200",
            b"2000",
            b"2x0",
            b"-20",
            b"600",
            b"999",
            b"000",
            b"099",
            b"200OK",
            b"",
            b" 200",
        )
        self.expect_failure(*(b"HTTP/1.1 %b OK\r\n" % status + LENGTH for status in odd))

    def test_bare_line_ends(self) -> None:
        """Bare LF and bare CR end no line."""
        whole = START + b"X-A: b\r\n" + LENGTH
        self.expect_failure(
            whole.replace(b"\r\n", b"\n"),
            whole.replace(b"\r\n", b"\r"),
            whole.replace(b"\r\n", b"\n", 1),
        )
        self.expect_failure(
            START + b"X-A: a\nX-B: b\r\n" + LENGTH, START + b"X-A: a\rX-B: b\r\n" + LENGTH
        )
        self.expect_failure(
            b"HTTP/1.1 200 a\rSet-Cookie: b\r\n" + LENGTH,
            b"HTTP/1.1 200 a\nSet-Cookie: b\r\n" + LENGTH,
        )
        self.expect_failure(
            START + b"Content-Length: 2\n\nok",
            START + b"Content-Length: 2\r\n\nok",
            START + b"Content-Length: 2\r\r\nok",
        )

    def test_fields(self) -> None:
        """Folds, spaces before the colon, no colon, no name, NUL and controls are malformed."""
        odd = (
            b"X-A: a\r\n b",
            b"X-A : b",
            b" X-A: b",
            b"X-A",
            b": b",
            b"X-A: a\0b",
            b"X-A: a\x0bb",
            b"X-A: a\x7f",
            b"X\xe4: b",
            b"X A: b",
        )
        self.expect_failure(*(START + line + b"\r\n" + LENGTH for line in odd))

    def test_two_framings(self) -> None:
        """Two lengths, equal or not, two codings, or one of each, are rejected."""
        two = (
            b"Content-Length: 2\r\n",
            b"Content-Length: 3\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"content-length:2\r\n",
            b"Transfer-Encoding: identity\r\n",
        )
        self.expect_failure(*(START + line + LENGTH for line in two))
        self.expect_failure(
            START + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        )

    def test_odd_framings(self) -> None:
        """A length that is no plain number, and a coding other than ``chunked``, are rejected."""
        for length in (b"+2", b"-2", b"0x2", b"", b"2, 2", b"2 2", b"9" * 20, b"2.0", b"\xb2"):
            self.expect_failure(START + b"Content-Length: " + length + b"\r\n\r\nok")
        for coding in (
            b"gzip",
            b"gzip, chunked",
            b"identity",
            b"chunked, chunked",
            b"xchunked",
            b"",
            b"chunked;a=b",
        ):
            self.expect_failure(START + b"Transfer-Encoding: " + coding + b"\r\n\r\n0\r\n\r\n")
        self.expect_failure(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")

    def test_large_heads(self) -> None:
        """A head above the limits is rejected: a value, 5000 fields, a reason or a name."""
        self.expect_failure(
            START + b"X-A: " + b"a" * 40000 + b"\r\n" + LENGTH,
            START + b"X-A: b\r\n" * 5000 + LENGTH,
        )
        self.expect_failure(
            b"HTTP/1.1 200 " + b"a" * 40000 + b"\r\n" + LENGTH,
            START + b"a" * 40000 + b": b\r\n" + LENGTH,
        )

    def test_head_without_end(self) -> None:
        """A head without an end is 502, and its connection is aborted."""
        for start, more in (
            (START, b"X-A: b\r\n"),
            (START + b"X-A: ", b"a" * 100),
            (START, b"a" * 100),
            (b"HTTP/1.1 200 ", b"a" * 100),
        ):
            (client,) = self.start(GET)
            self.wires[0].deliver(start)
            for _ in range(1000):
                self.wires[0].deliver(more)
            self.assertTrue(self.wires[0].aborted)
            self.assertEqual([502], [answer.status for answer in self.answers(client)])

    def test_switched_protocols(self) -> None:
        """101 is 502, since no request asks for another protocol."""
        upgrade = b"Connection: upgrade\r\nUpgrade: h2c\r\n"
        self.expect_failure(
            b"HTTP/1.1 101 S\r\n" + upgrade + b"\r\nabc",
            b"HTTP/1.1 101 S\r\n\r\n",
            b"HTTP/1.1 101 S\r\n" + LENGTH,
        )


class Interim(HostileTestCase):
    """1xx (RFC 9110 section 15.2), threats 0.6: never the response, and no obstacle to it."""

    def test_dropped(self) -> None:
        """Interim responses are dropped, and the final one is passed on."""
        interim = (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n"
            + HEADER
            + b": a\r\n\r\n"
        )
        pairs = self.expect_answer(interim + START + LENGTH, 200, b"ok")
        self.assertNotIn(b"link", [name for name, _ in pairs])

    def test_flood(self) -> None:
        """A flood of interim responses is 502."""
        self.expect_failure(
            b"HTTP/1.1 102 P\r\n\r\n" * 100,
            (b"HTTP/1.1 103 E\r\nLink: %b\r\n\r\n" % (b"a" * 4000)) * 10,
        )

    def test_with_a_body(self) -> None:
        """An interim response with a body is 502: some readers would take it for a response."""
        for framing in (
            b"Content-Length: %d\r\n\r\n" % len(STRAY),
            b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(STRAY),
        ):
            self.expect_failure(
                b"HTTP/1.1 100 C\r\n" + framing + STRAY,
                b"HTTP/1.1 103 E\r\n" + framing + STRAY + OK,
            )

    def test_alone(self) -> None:
        """An interim response without a final one is 502."""
        self.start(GET)
        for end in (None, CUT):
            (client,) = self.start(GET)
            self.wires[0].deliver(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.wires[0].lose(end)
            self.assertEqual([502], [answer.status for answer in self.answers(client)])


class Truncated(HostileTestCase):
    """An incomplete response is never passed on as a complete one."""

    def test_in_the_head(self) -> None:
        """A response that is cut anywhere in its head is 502."""
        head = b"HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: 2\r\n\r\n"
        for size, end in product(range(1, len(head)), (None, CUT)):
            (client,) = self.start(GET)
            self.wires[0].deliver(head[:size])
            self.wires[0].lose(end)
            self.turn()
            self.assertEqual([502], [answer.status for answer in self.answers(client)], size)

    def test_in_the_body(self) -> None:
        """A response that is cut anywhere in its body cuts the client's connection."""
        chunks = b"2;a=b\r\nok\r\n3\r\nabc\r\n0\r\nX-A: b\r\n\r\n"
        for end in (None, CUT):
            self.expect_cut(
                *(START + b"Content-Length: 4\r\n\r\n" + b"abcd"[:size] for size in range(4)),
                end=end,
            )
            self.expect_cut(*(CODED + chunks[:size] for size in range(len(chunks))), end=end)

    def test_without_length(self) -> None:
        """A body without a length is complete at an orderly end, and cut at any other."""
        for end, aborted in ((None, False), (CUT, True)):
            (client,) = self.start(GET)
            self.wires[0].deliver(START + b"\r\nabc")
            self.wires[0].lose(end)
            self.turn()
            self.assertEqual(aborted, client.aborted)
            self.assertEqual(
                [] if aborted else [b"abc"], [answer.body for answer in self.answers(client)]
            )

    def test_old_client(self) -> None:
        """A client of HTTP/1.0, which has no chunks, detects the cut as well."""
        old = GET.replace(b"1.1", b"1.0")
        for data in (CODED + b"9\r\nabc", START + b"\r\nabc"):
            (client,) = self.start(old)
            self.wires[0].deliver(data)
            self.wires[0].lose(CUT)
            self.turn()
            self.assertTrue(client.aborted)

    def test_odd_chunks(self) -> None:
        """An ambiguous chunk cuts the client's connection, and is not corrected."""
        odd = (
            b"2 \r\nok\r\n",
            b"0x2\r\nok\r\n",
            b"+2\r\nok\r\n",
            b"2\nok\r\n",
            b"2\r\nok\n",
            b"2\r\nok",
            b"g\r\n",
            b"2\r\nokk\r\n",
            b"2;\nok\r\n",
            b"8000000000000000\r\nok\r\n",
            b"2\r\nok\r\nffffffffffffffff\r\nok\r\n",
        )
        self.expect_cut(*(CODED + chunk + b"0\r\n\r\n" for chunk in odd), ends=False)


class Mixed(HostileTestCase):
    """No client receives another client's response."""

    def expect_not_mixed(self, first: bytes, *feeds: bytes, status: int = 200) -> None:
        """Check that data behind the first client's response does not reach the second.

        Both clients share one connection to the back end.
        """
        one, two = self.start(first, GET)
        self.wires[0].deliver(*feeds)
        self.turn()
        self.assertEqual(
            [status],
            [answer.status for answer in self.answers(one, first.partition(b" ")[0])],
            feeds,
        )
        self.assertEqual([], self.answers(two), feeds)
        self.assertEqual(2, len(self.wires), "the connection has been used again")
        self.wires[1].deliver(OK)
        self.assertEqual(
            [(200, b"ok")], [(answer.status, answer.body) for answer in self.answers(two)], feeds
        )

    def test_two_answers(self) -> None:
        """A second response to one request is dropped, and the connection is closed."""
        self.expect_not_mixed(GET, OK + STRAY)
        self.expect_not_mixed(GET, START + b"Content-Length: 2\r\n\r\no", b"k" + STRAY)
        self.expect_not_mixed(GET, CODED + b"2\r\nok\r\n0\r\n\r\n" + STRAY)
        self.expect_not_mixed(GET, OK + STRAY[:1])

    def test_answer_behind_no_body(self) -> None:
        """Data behind a head that has no body reaches no client."""
        for start in (
            b"HTTP/1.1 204 N\r\n\r\n",
            b"HTTP/1.1 304 N\r\n\r\n",
            b"HTTP/1.1 304 N\r\nContent-Length: 5\r\n\r\n",
        ):
            self.expect_not_mixed(GET, start + STRAY, status=int(start[9:12]))
        self.expect_not_mixed(HEAD, START + b"Content-Length: 2\r\n\r\n" + STRAY)

    def test_body_that_may_not_be(self) -> None:
        """A response that announces a forbidden body is the last on its connection."""
        size = b"Content-Length: %d\r\n\r\n" % len(STRAY)
        for start in (
            b"HTTP/1.1 204 N\r\n" + size,
            b"HTTP/1.1 204 N\r\nTransfer-Encoding: chunked\r\n\r\n",
        ):
            # The announced body comes later, when it must not be taken for a response.
            self.expect_not_mixed(GET, start, STRAY, status=204)
        self.expect_not_mixed(
            GET, b"HTTP/1.1 304 N\r\nTransfer-Encoding: chunked\r\n\r\n", STRAY, status=304
        )

    def test_late_body(self) -> None:
        """A response that may have no body is the last on its connection.

        A body that comes late reaches no client.
        """
        for start in (b"HTTP/1.1 204 N\r\n", b"HTTP/1.1 205 N\r\n", b"HTTP/1.1 304 N\r\n"):
            status = int(start[9:12])
            for field in (b"", b"Content-Length: 0\r\n", b"ETag: a\r\n"):
                if status == 205 and b"Length" not in field:
                    continue  # Its body ends with the connection.
                self.expect_not_mixed(GET, start + field + b"\r\n", STRAY, status=status)
                self.expect_answer(start + field + b"\r\n", status, b"", reused=False)
        for field in (b"", b"Content-Length: 0\r\n", b"Content-Length: 5\r\n", b"ETag: a\r\n"):
            self.expect_not_mixed(HEAD, START + field + b"\r\n", STRAY)
            self.expect_answer(START + field + b"\r\n", 200, b"", request=HEAD, reused=False)

    def test_extra_bytes(self) -> None:
        """Any data behind a response that could begin another closes the connection."""
        for extra in (b"X", b"\0", b"H", b"HTTP/1.1 ", b"\r\nX", b"\r\n" + STRAY):
            self.expect_not_mixed(GET, OK + extra)

    def test_empty_lines(self) -> None:
        """Empty lines behind a response, which some servers send, are not part of any."""
        for extra in (b"\r\n", b"\n", b"\r", b"\r\n\r\n"):
            one, two = self.start(GET, GET)
            self.wires[0].deliver(OK + extra)
            self.assertEqual([b"ok"], [answer.body for answer in self.answers(one)])
            self.assertEqual([], self.answers(two))
            self.wires[-1].deliver(OK)
            self.assertEqual([b"ok"], [answer.body for answer in self.answers(two)])

    def test_pending_bytes(self) -> None:
        """A connection with unread data is not given to a client that waits for one."""
        one, two = self.start(GET, GET)
        # As the kernel reports it after a response that ends exactly where a read ends.
        self.patch(PendingInput, "is_empty", lambda _: False)
        self.wires[0].deliver(OK)
        self.assertEqual([b"ok"], [answer.body for answer in self.answers(one)])
        self.wires[0].deliver(STRAY)
        self.assertEqual([], self.answers(two))
        self.wires[-1].deliver(OK)
        self.assertEqual([b"ok"], [answer.body for answer in self.answers(two)])

    def test_late_bytes(self) -> None:
        """Bytes on an idle connection close it, before another client can receive them."""
        (client,) = self.start(GET)
        self.wires[0].deliver(OK)
        self.assertEqual([200], [answer.status for answer in self.answers(client)])
        self.wires[0].deliver(STRAY)
        self.turn()
        self.assertTrue(self.wires[0].aborted)
        self.expect_next_is_served(reused=False)

    def test_unasked(self) -> None:
        """A response to a request whose client has left reaches no client."""
        one, two = self.start(GET, GET)
        one.lose(CUT)
        self.wires[0].deliver(STRAY)
        self.turn()
        self.assertEqual([], self.answers(two))
        self.wires[1].deliver(OK)
        self.assertEqual([b"ok"], [answer.body for answer in self.answers(two)])

    def test_early_answer(self) -> None:
        """A response to an incomplete request ends both connections.

        The rest of the request could be read as another request.
        """
        (client,) = self.start(post(b"a" * 100000, length=200000))
        self.wires[0].deliver(OK)
        self.turn()
        self.assertEqual([200], [answer.status for answer in self.answers(client, b"POST")])
        self.assertEqual((True, True), (client.disconnecting, self.wires[0].aborted))
        client.deliver(b"a" * 100000 + GET)
        self.turn()
        self.assertEqual(1, len(self.wires))

    def test_order(self) -> None:
        """Pipelined requests get their responses in order."""
        (client,) = self.start(GET + HEAD + GET)
        for body in (b"one", b"", b"three"):
            self.wires[-1].deliver(START + b"Content-Length: %d\r\n\r\n%b" % (len(body) or 9, body))
        self.assertEqual(
            [b"one", b"", b"three"],
            [answer.body for answer in self.answers(client, b"GET", b"HEAD", b"GET")],
        )

    def test_close(self) -> None:
        """A connection whose end the back end announces is not used again."""
        for line in (b"Connection: close\r\n", b"connection: x, Close\r\n"):
            self.expect_answer(START + line + LENGTH, 200, b"ok", reused=False)
        self.expect_answer(b"HTTP/1.0 200 OK\r\n" + LENGTH, 200, b"ok", reused=False)


class MixedOverTls(HostileTestCase):
    """The same over TLS, where one packet can hold records that are delivered one by one."""

    def start_over_tls(self) -> None:
        self.proxy = Proxy(upstream=UpstreamSettings(max_connections=1))
        self.proxy.pools = [
            Pool(
                Backend.parse("https://localhost"),
                over_tls(self.proxy.back_end, self.proxy.clock),
                self.proxy.deadlines,
                UpstreamSettings(max_connections=1),
            )
        ]

    def expect_not_mixed(
        self, client: RequestTransport, other: RequestTransport, *behind: bytes, ends: bool = False
    ) -> None:
        """Check that ``other`` gets none of what is behind the response to ``client``."""
        server = TlsServer(self.wires[0], self.proxy.clock)
        self.assertTrue(server.receive().startswith(b"GET "))
        server.send(OK, *behind, ends=ends)
        self.turn()
        self.assertEqual(1, (client.sent() + other.sent()).count(b"HTTP/1.1 "))
        self.assertEqual(2, len(self.wires), "the connection has been used again")
        server = TlsServer(self.wires[1], self.proxy.clock)
        self.assertTrue(server.receive().startswith(b"GET "))
        server.send(OK)
        self.assertTrue(other.sent().endswith(b"\r\n\r\nok"))

    def test_waiting(self) -> None:
        """The connection is not lent to a client that waits for one."""
        self.start_over_tls()
        self.expect_not_mixed(self.proxy.client(GET), self.proxy.client(GET), STRAY)

    def test_pipelined(self) -> None:
        """Nor is it used for the next request of the same client."""
        self.start_over_tls()
        client = self.proxy.client(GET + GET)
        self.expect_not_mixed(client, client, STRAY)

    def test_ended(self) -> None:
        """A connection that ends with the response is not lent either."""
        self.start_over_tls()
        self.expect_not_mixed(self.proxy.client(GET), self.proxy.client(GET), ends=True)

    def test_reused(self) -> None:
        """A response alone leaves a connection that is lent again."""
        self.start_over_tls()
        clients = [self.proxy.client(GET) for _ in range(2)]
        server = TlsServer(self.wires[0], self.proxy.clock)
        for client in clients:
            self.assertTrue(server.receive().startswith(b"GET "))
            server.send(OK[:-2], b"ok")
            self.assertTrue(client.sent().endswith(b"\r\n\r\nok"))
        self.assertEqual(1, len(self.wires))


class Relayed(HostileTestCase):
    """Each response that is passed on is the same response to all reference parsers."""

    def test_reused(self) -> None:
        """After a valid response with a known end of the body the connection is used again."""
        self.expect_answer(START + LENGTH, 200, b"ok")
        self.expect_answer(CODED + b"2\r\nok\r\n0\r\n\r\n", 200, b"ok")
        self.expect_answer(b"HTTP/1.1 404 N\r\nContent-Length: 0\r\n\r\n", 404, b"")

    def test_hop_by_hop(self) -> None:
        """Hop-by-hop fields, and those that ``Connection`` names, are removed."""
        lines = (
            b"Connection: X-A\r\nX-A: b\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\n"
            b"Trailer: X\r\nTE: a\r\nContent_Length: 7\r\n"
        )
        pairs = self.expect_answer(START + lines + LENGTH, 200, b"ok")
        self.assertEqual({b"x-request-id", b"date", b"content-length"}, {name for name, _ in pairs})

    def test_trailers(self) -> None:
        """Trailers are removed, and do not change the response's framing."""
        trailers = b"X-A: b\r\n" + HEADER + b": a\r\n"
        pairs = self.expect_answer(CODED + b"2\r\nok\r\n0\r\n" + trailers + b"\r\n", 200, b"ok")
        self.assertEqual(
            {b"x-request-id", b"date", b"transfer-encoding"}, {name for name, _ in pairs}
        )

    def test_reason_phrase(self) -> None:
        """A reason phrase that is not printable is not passed on."""
        for phrase in (b"a\x01b", b"a\x80b", b"\xe4"):
            data = b"HTTP/1.1 200 " + phrase + b"\r\n" + LENGTH
            play = play_answer([data])
            self.assertEqual([], play.faults())
            self.assertNotIn(phrase, play.sent)


class Secrets(HostileTestCase):
    """No response of a back end reveals the secret name (threats 1F)."""

    def expect_kept(self, *lines: bytes, start: bytes = START) -> bytes:
        """Check that no line reveals the name in any spelling; return the last response."""
        sent = b""
        for line in lines:
            (client,) = self.start(GET)
            self.wires[0].deliver(start + line + b"\r\n" * bool(line) + LENGTH)
            sent = client.value()
            self.assertEqual([200], [answer.status for answer in self.answers(client)], line)
            letters = fold(sent).replace(b"-", b"").replace(b" ", b"")
            self.assertNotIn(fold(HEADER).replace(b"-", b""), letters, line)
        return sent

    def test_name(self) -> None:
        """A field of that name, in any spelling, is removed."""
        names = (
            HEADER,
            HEADER.lower(),
            HEADER.replace(b"-", b"_"),
            b"X-Echo-" + HEADER,
            HEADER + b"-2",
            b"HTTP_" + HEADER.upper(),
        )
        self.expect_kept(*(name + b": a" for name in names))

    def test_lists(self) -> None:
        """A list loses the member with the name, and keeps the others; ``Vary`` gets a star."""
        for name in (
            b"Vary",
            b"Access-Control-Allow-Headers",
            b"Access-Control-Expose-Headers",
            b"Connection",
            b"Allow",
        ):
            sent = self.expect_kept(
                name + b": Accept, " + HEADER,
                name + b": " + HEADER.lower(),
                name + b": " + HEADER + b",Accept",
            )
            if name != b"Connection":
                self.assertIn(
                    name + (b": *, Accept\r\n" if name == b"Vary" else b": Accept\r\n"), sent
                )

    def test_split_lists(self) -> None:
        """A name that is split over members, or over name and value, is removed too."""
        parts = HEADER.split(b"-")
        self.expect_kept(
            *(
                b"Vary: " + separator.join(parts)
                for separator in (b",", b", ", b" ", b".", b"/", b"%2D"[:1])
            )
        )
        self.expect_kept(b"-".join(parts[:2]) + b": " + b"-".join(parts[2:]))

    def test_values(self) -> None:
        """Cookies, locations and any other fields with the name are removed."""
        self.expect_kept(
            b"Set-Cookie: a=" + HEADER + b"; Expires=Wed, 21 Oct 2026 07:28:00 GMT",
            b"Location: /?" + HEADER.lower(),
        )
        self.expect_kept(
            b'WWW-Authenticate: Bearer error="x", error_description="' + HEADER + b' missing"',
            b"X-A: \xe4" + HEADER,
        )

    def test_reason_phrase(self) -> None:
        """A reason phrase with the name is removed."""
        self.expect_kept(b"", start=b"HTTP/1.1 200 no " + HEADER + b"\r\n")

    def test_random_part(self) -> None:
        """The random part of the name alone is secret, and is not passed on either."""
        random = HEADER.rpartition(b"-")[2]
        for line in (
            b"X-A: " + random,
            b"Vary: Accept, " + random,
            b"Set-Cookie: a=" + random.lower(),
        ):
            (client,) = self.start(GET)
            self.wires[0].deliver(START + line + b"\r\n" + LENGTH)
            self.assertNotIn(random.lower(), client.sent().lower(), line)

    def test_failures(self) -> None:
        """Neither the proxy's own responses nor its records reveal the name."""
        for data in (
            HEADER + b"\r\n\r\n",
            START + HEADER + b" : a\r\n" + LENGTH,
            b"HTTP/1.1 200 " + HEADER + b"\x00\r\n" + LENGTH,
        ):
            play = play_answer([data])
            self.assertEqual([], play.faults())
            self.assertNotIn(fold(HEADER), fold(play.sent + str(play.exchanges).encode()))


FRAGMENTS = st.sampled_from(
    [
        START,
        b"HTTP/1.0 200 OK\r\n",
        b"HTTP/1.1 204 N\r\n",
        b"HTTP/1.1 304 N\r\n",
        b"HTTP/1.1 100 C\r\n\r\n",
        b"HTTP/1.1 103 E\r\n",
        b"\r\n",
        b"HTTP/1.1 101 S\r\n",
        b"HTTP/1.1 500 " + HEADER + b"\r\n",
        b"Content-Length: 2\r\n",
        b"Content-Length: 0\r\n",
        LENGTH,
        OK,
        STRAY,
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"Connection: keep-alive\r\n",
        b"2\r\nok\r\n",
        b"0\r\n\r\n",
        b"0\r\n",
        b"Vary: " + HEADER + b"\r\n",
        HEADER + b": a\r\n",
        b"Vary: Accept\r\n",
        b"X: \xe4\r\n",
        b"X: a\r\n b\r\n",
        b"X",
        b": ",
        b"\n",
        b"\r",
        b"\0",
        b"Upgrade: h2c\r\nConnection: upgrade\r\n",
        b"RTSP/1.0 200 OK\r\n",
        b"Trailer: X\r\n",
        b"ok",
        b"Transfer-Encoding: gzip\r\n",
    ]
)
HEADS = st.lists(FRAGMENTS, max_size=4).map(lambda lines: START + b"".join(lines) + b"\r\nok")
ANSWERS = st.one_of(
    st.lists(FRAGMENTS, max_size=8).map(b"".join),
    HEADS,
    st.binary(max_size=60),
    HEADS.map(lambda head: head + OK),
)


class Anything(SynchronousTestCase):
    """Any input from a back end."""

    @given(
        ANSWERS,
        st.lists(st.integers(0, 300), max_size=5),
        st.sampled_from([b"GET", b"HEAD", b"POST", b"OLD"]),
        st.sampled_from(["silence", "close", "cut"]),
    )
    @example(OK + STRAY, [], b"GET", "silence")
    @example(START + b"\r\nok", [], b"OLD", "cut")
    @settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def test_answers(self, data: bytes, cuts: Sequence[int], method: bytes, end: str) -> None:
        """The client gets one unambiguous response, or a cut connection, and no secret."""
        self.assertEqual([], play_answer(list(pieces(data, cuts)), method, end).faults())
