"""Tests of :mod:`x509proxy.http1.request_id`, and of the use of an id."""

from __future__ import annotations

import re

from twisted.trial.unittest import SynchronousTestCase

from tests.support.memory import GET, OK, Proxy
from x509proxy.http1.request_id import given_request_id, new_request_id
from x509proxy.settings import ClientSettings, RequestIds

_ID = re.compile(rb"\r\nX-Request-Id: ([^\r]*)", re.IGNORECASE)


class Own(SynchronousTestCase):
    def test_form(self) -> None:
        """An id is 32 hexadecimal digits: 128 random bits."""
        self.assertRegex(new_request_id(), rb"^[0-9a-f]{32}$")

    def test_once(self) -> None:
        """No id is made twice."""
        self.assertEqual(1000, len({new_request_id() for _ in range(1000)}))


class Given(SynchronousTestCase):
    def test_well_formed(self) -> None:
        """A valid id has 1 to 64 letters, digits and hyphens.

        The case of the field's name is free.
        """
        for name, value in ((b"X-Request-Id", b"a"), (b"x-request-id", b"0123-Ab" * 9)):
            self.assertEqual(value, given_request_id([(b"X", b"y"), (name, value)]))

    def test_unfit(self) -> None:
        """Anything else is no id, and two ids are none."""
        for value in (b"", b"a" * 65, b"a b", b"a=b", b'a"', b"a_b", b"\xe4"):
            self.assertIsNone(given_request_id([(b"X-Request-Id", value)]), value)
        self.assertIsNone(given_request_id([(b"X-Request-Id", b"a"), (b"x-request-ID", b"a")]))
        self.assertIsNone(given_request_id([]))


class Way(SynchronousTestCase):
    def ids(
        self, request: bytes, answer: bytes = OK, ids: RequestIds = RequestIds.GENERATE
    ) -> tuple[list[bytes], list[bytes], bytes]:
        """Return the ids that the back end and the client received, and the recorded one."""
        proxy = Proxy(client=ClientSettings(request_id=ids))
        wire = proxy.client(request)
        asked = proxy.back_end.wire.sent() if proxy.back_end.attempts else b""
        if asked:
            proxy.back_end.wire.deliver(answer)
        [exchange] = proxy.exchanges
        return _ID.findall(asked), _ID.findall(wire.sent()), exchange.request_id.encode()

    def asking(self, *values: bytes, name: bytes = b"X-Request-Id") -> bytes:
        return GET[:-2] + b"".join(name + b": " + value + b"\r\n" for value in values) + b"\r\n"

    def test_everywhere(self) -> None:
        """Back end, client and record have the same id of a request."""
        sent, got, recorded = self.ids(GET)
        self.assertEqual(([recorded], [recorded]), (sent, got))
        self.assertEqual(32, len(recorded))

    def test_clients_own(self) -> None:
        """The client's own id is not forwarded, in any spelling that a server could read."""
        for name in (b"X-Request-Id", b"x-request-ID", b"X_Request_Id"):
            sent, got, recorded = self.ids(self.asking(b"mine", b"too", name=name))
            self.assertEqual(([recorded], [recorded], 32), (sent, got, len(recorded)))

    def test_back_ends_own(self) -> None:
        """The proxy's id replaces the back end's in the response."""
        _, got, recorded = self.ids(GET, OK.replace(b"\r\n", b"\r\nX-Request-ID: theirs\r\n", 1))
        self.assertEqual([recorded], got)

    def test_error_response(self) -> None:
        """An error response has an id too, even without a valid request."""
        for request in (GET.replace(b"GET", b"TRACE"), b"nonsense\r\n\r\n"):
            sent, got, recorded = self.ids(request)
            self.assertEqual(([], [recorded], 32), (sent, got, len(recorded)))

    def test_kept(self) -> None:
        """``trust`` forwards a valid id, which is then used everywhere."""
        self.assertEqual(
            ([b"hop-1"], [b"hop-1"], b"hop-1"),
            self.ids(self.asking(b"hop-1"), ids=RequestIds.TRUST),
        )

    def test_not_kept(self) -> None:
        """An invalid, duplicate or missing id is replaced all the same."""
        for values in ((), (b"a b",), (b"a", b"a")):
            sent, got, recorded = self.ids(self.asking(*values), ids=RequestIds.TRUST)
            self.assertEqual(([recorded], [recorded], 32), (sent, got, len(recorded)))
