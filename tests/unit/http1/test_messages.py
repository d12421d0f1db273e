"""Tests of :mod:`x509proxy.http1.messages`.

A head with one meaning becomes a value, and any other head an error.
"""

from __future__ import annotations

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.names import NAME
from x509proxy.http1.errors import ErrorResponse, HttpError
from x509proxy.http1.fields import Pairs
from x509proxy.http1.messages import (
    Framing,
    RequestHead,
    ResponseHead,
    check_interim,
    read_request_head,
    rejected_head,
    response_head,
)
from x509proxy.settings import ClientSettings, InvalidNames

HOST = (b"Host", b"as.example")
SETTINGS = ClientSettings()

METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS")
NAMES = (
    st.sampled_from(
        [b"Host", b"hOST", b"Content-Length", b"Transfer-Encoding", b"Expect", b"X-A", b"x_a", b""]
    )
    | st.binary()
)
VALUES = (
    st.sampled_from([b"as.example", b"5", b"chunked", b"100-continue", b"", b"\x7f", b"\xff"])
    | st.binary()
)


def read(
    *pairs: tuple[bytes, bytes],
    method: bytes = b"GET",
    target: bytes = b"/",
    version: str = "1.1",
    settings: ClientSettings = SETTINGS,
) -> RequestHead:
    return read_request_head(method, target, version, list(pairs), settings)


def post(
    *pairs: tuple[bytes, bytes], version: str = "1.1", settings: ClientSettings = SETTINGS
) -> RequestHead:
    return read(HOST, *pairs, method=b"POST", version=version, settings=settings)


class HeadTestCase(SynchronousTestCase):
    def expect_error(
        self,
        status: int,
        *pairs: tuple[bytes, bytes],
        method: bytes = b"GET",
        target: bytes = b"/",
        version: str = "1.1",
        settings: ClientSettings = SETTINGS,
    ) -> ErrorResponse:
        error: ErrorResponse = self.assertRaises(
            HttpError,
            read,
            *pairs,
            method=method,
            target=target,
            version=version,
            settings=settings,
        ).response
        self.assertEqual(status, error.status, error.detail)
        return error


class Whole(HeadTestCase):
    def test_literal(self) -> None:
        """A valid request keeps its fields in order, and has its framing."""
        pairs = (HOST, (b"Content-Length", b"3"), (b"Cookie", b"a"), (b"Cookie", b"b"))
        self.assertEqual(
            RequestHead(
                b"POST", b"/token?a=%2f", "1.1", list(pairs), b"as.example", Framing.LENGTH, 3
            ),
            read(*pairs, method=b"POST", target=b"/token?a=%2f"),
        )

    def test_keep_alive(self) -> None:
        """``Connection`` is a list, in one field or in several.

        HTTP/1.0 closes unless the list has keep-alive.
        """
        for version, values, expected in (
            ("1.1", [], True), ("1.0", [], False), ("1.1", [b"close"], False),
            ("1.1", [b"x, \tCLOSE "], False),
            ("1.1", [b"close", b"x"], False), ("1.1", [b"x", b"close"], False),
            ("1.1", [b"closed"], True),
            ("1.0", [b"Keep-Alive"], True), ("1.0", [b"x", b"keep-alive"], True),
            ("1.0", [b"keep-alive, close"], False),
            ("1.0", [b"x"], False), ("1.1", [b"upgrade"], True), ("1.1", [b""], True),
        ):  # fmt: skip
            pairs = [(b"Connection", value) for value in values]
            self.assertEqual(expected, read(HOST, *pairs, version=version).keep_alive, values)

    def test_upgrade(self) -> None:
        """A request for an upgrade is the client's last.

        ``Upgrade`` alone requests nothing (RFC 9110 section 7.8).
        """
        upgrade = (b"Upgrade", b"h2c")
        for values, expected in (
            ([], True), ([b"x"], True), ([b"Upgrade"], False),
            ([b"HTTP2-Settings, upgrade"], False), ([b"x", b"upgrade"], False),
        ):  # fmt: skip
            pairs = [(b"connection", value) for value in values]
            self.assertEqual(expected, read(HOST, upgrade, *pairs).keep_alive, values)

    def test_upgrade_with_a_body(self) -> None:
        """An upgrade with a body is 400: llhttp parses the body as the other protocol."""
        upgrade = (HOST, (b"Connection", b"upgrade"), (b"Upgrade", b"h2c"))
        self.assertEqual(Framing.NONE, read(*upgrade).body)
        self.expect_error(400, *upgrade, (b"Content-Length", b"1"), method=b"POST")

    @given(
        st.sampled_from([*METHODS, b"TRACE", b"get"]) | st.binary(),
        st.sampled_from([b"/", b"*", b"http://as.example/"]) | st.binary(),
        st.sampled_from(["1.1", "1.0", "0.9", "2.0"]),
        st.lists(st.tuples(NAMES, VALUES), max_size=6),
    )
    def test_parses_or_rejects(
        self, method: bytes, target: bytes, version: str, pairs: Pairs
    ) -> None:
        """Every input gives a defined error, or a head of which every part is plain."""
        try:
            found = read_request_head(method, target, version, pairs, SETTINGS)
        except HttpError as error:
            self.assertIn(error.response.status, (400, 405, 413, 414, 417, 431, 501))
            self.assertTrue(error.response.detail.isascii())
            return
        self.assertIn(found.method, METHODS)
        self.assertRegex(found.target, rb"\A(/[!-\"$-~]*|\*)\Z")
        for name, value in found.pairs:
            self.assertRegex(name, rb"\A[A-Za-z0-9-]+\Z")
            self.assertRegex(value, rb"\A[\t -~]*\Z")


class Method(HeadTestCase):
    def test_known(self) -> None:
        """Seven methods are accepted."""
        for method in METHODS:
            self.assertEqual(method, read(HOST, method=method).method)

    def test_never(self) -> None:
        """TRACE would return the secret header, and CONNECT is not for a reverse proxy: 405."""
        for method in (b"TRACE", b"CONNECT"):
            self.expect_error(405, HOST, method=method)

    def test_unknown(self) -> None:
        """Any other method is 501, also a known one in another case."""
        for method in (b"get", b"PROPFIND", b"PRI", b"", b"GET\n", b"\xff"):
            self.expect_error(501, HOST, method=method)


class Version(HeadTestCase):
    def test_others(self) -> None:
        """Only HTTP/1.1 and 1.0 are accepted."""
        for version in ("0.9", "1.2", "2.0", ""):
            self.expect_error(400, HOST, version=version)


class Fields(HeadTestCase):
    def test_number(self) -> None:
        """More fields than the limit are 431; as many as the limit are accepted."""
        pairs = [HOST, (b"A", b""), (b"B", b"")]
        self.assertEqual(3, len(read(*pairs, settings=ClientSettings(max_header_fields=3)).pairs))
        self.expect_error(431, *pairs, settings=ClientSettings(max_header_fields=2))

    def test_odd_names_are_dropped(self) -> None:
        """Names that a CGI-like server would fold into another are dropped and counted."""
        for name in (
            b"X_Cert",
            b"X.Cert",
            b"X-Cert!",
            b"X~Cert",
            b"X'Cert",
            b"X*Cert",
            b"X Cert",
            b"X-Cert\xff",
            b"X-Cert\0",
        ):
            found = read(HOST, (name, b"forged"))
            self.assertEqual(([HOST], 1), (found.pairs, found.invalid_header_names), name)

    def test_invalid_names_are_rejected(self) -> None:
        """With ``refuse`` they are 400."""
        self.expect_error(
            400,
            HOST,
            (b"X_Cert", b"forged"),
            settings=ClientSettings(invalid_header_names=InvalidNames.REFUSE),
        )

    def test_no_name(self) -> None:
        """A field without a name is 400, whatever the setting (HAProxy CVE-2023-25725)."""
        self.expect_error(400, HOST, (b"", b"value"))
        self.expect_error(
            400,
            HOST,
            (b"", b"value"),
            settings=ClientSettings(invalid_header_names=InvalidNames.REFUSE),
        )

    def test_odd_framing_does_not_frame(self) -> None:
        """A length or coding with an invalid name is dropped like any other, and frames nothing."""
        found = post((b"Content_Length", b"5"), (b"Transfer_Encoding", b"chunked"))
        self.assertEqual(
            (Framing.NONE, 2, [HOST]), (found.body, found.invalid_header_names, found.pairs)
        )

    def test_values(self) -> None:
        """A value contains tabs and printable ASCII only.

        Line ends of any alphabet, control characters and other octets are rejected.
        """
        self.assertEqual(b"a\tb ~", read(HOST, (b"X", b"a\tb ~")).pairs[1][1])
        for octet in {*range(0x20), *range(0x7F, 0x100)} - {9}:
            for name in (b"X", b"X_Dropped"):
                self.expect_error(400, HOST, (name, b"a" + bytes([octet]) + b"b"))

    def test_single(self) -> None:
        """Fields of which servers would use different ones occur once.

        Case does not matter, and equal values are rejected too.
        """
        for name in (
            b"Host",
            b"Content-Length",
            b"Transfer-Encoding",
            b"Expect",
            b"Content-Type",
            b"Authorization",
        ):
            pairs = [pair for pair in (HOST,) if name != b"Host"]
            error = self.expect_error(
                400, *pairs, (name, b"1"), (name.swapcase(), b"1"), method=b"POST"
            )
            self.assertEqual(f"two {name.decode().lower()} fields", error.detail)

    def test_repeats(self) -> None:
        """Every other field may be repeated and keeps its place."""
        pairs = [HOST, (b"Cookie", b"a"), (b"X", b"1"), (b"Cookie", b"b")]
        self.assertEqual(pairs, read(*pairs).pairs)


class RefusedHeads(SynchronousTestCase):
    def test_words(self) -> None:
        """A request that is rejected before it has a head is logged with its request line.

        The connection ends with it.
        """
        head = rejected_head(b"POST /token?code=SECRET HTTP/1.0", 8192)
        self.assertEqual(("POST", "/token", "HTTP/1.0"), head.words)
        self.assertEqual((Framing.NONE, False, ()), (head.body, head.keep_alive, head.pairs))

    def test_without_a_line(self) -> None:
        """Without a request line nothing is logged of it."""
        self.assertEqual(("-", "-", "HTTP/1.1"), rejected_head(b"", 8192).words)


class Served(HeadTestCase):
    def test_hosts(self) -> None:
        """With allowed hosts, a request for another one is misdirected.

        Port, case and a final dot do not matter.
        """
        settings = ClientSettings(allowed_hosts=("as.example", "[::1]"))
        for host in (
            b"as.example",
            b"AS.example:8443",
            b"as.example.",
            b"as.example.:8443",
            b"[::1]:8443",
            b"[::1]",
        ):
            self.assertEqual(host, read((b"Host", host), settings=settings).host)
        for host in (b"other.example", b"as.example.evil", b"xas.example", b"[::2]"):
            error = self.assertRaises(HttpError, read, (b"Host", host), settings=settings)
            self.assertEqual(421, error.response.status, host)
            self.assertEqual(
                f"host not among the allowed hosts: '{host.decode()}'", error.response.detail
            )

    def test_logged(self) -> None:
        """The log has the requested name, shortened and without the secret header's name.

        The client does not receive it.
        """
        settings = ClientSettings(allowed_hosts=("as.example",))
        for host in (b"x" * 300, NAME.encode(), b"a" * 75 + NAME.encode()):
            error = self.assertRaises(HttpError, read, (b"Host", host), settings=settings).response
            self.assertLess(len(error.detail), 120)
            self.assertNotIn(NAME.lower()[21:], error.detail)
            self.assertNotIn(host, error.body)

    def test_no_host(self) -> None:
        """A request of HTTP/1.0 without a host is for none of them."""
        error = self.assertRaises(
            HttpError, read, version="1.0", settings=ClientSettings(allowed_hosts=("as.example",))
        )
        self.assertEqual(421, error.response.status)


class Host(HeadTestCase):
    def test_valid(self) -> None:
        """Names, IPv4 and bracketed IPv6 addresses, with or without a port, are unchanged."""
        for host in (
            b"as.example",
            b"AS.Example:8443",
            b"192.0.2.1",
            b"[2001:db8::1]:443",
            b"a_b~c",
        ):
            self.assertEqual(host, read((b"Host", host)).host)

    def test_malformed(self) -> None:
        """Anything else is 400: credentials, lists, paths, half a port."""
        for host in (
            b"", b"a b", b"a,b", b"user@a", b"a/b", b":1", b"a::", b"a:123456", b"a:b", b"[::1",
            b"2001:db8::1", b'a"', b"a;b",
        ):  # fmt: skip
            self.expect_error(400, (b"Host", host))

    def test_empty_port(self) -> None:
        """An empty port is removed (RFC 3986 section 6.2.3), since some servers reject it."""
        for host in (b"as.example", b"[::1]", b"as.example."):
            for target in (b"/", b"http://" + host + b"/", b"http://" + host + b":/"):
                found = read(
                    (b"Host", host + b":"),
                    target=target,
                    settings=ClientSettings(allowed_hosts=("as.example", "[::1]")),
                )
                self.assertEqual(host, found.host)
        self.assertEqual(b"as.example", read(HOST, target=b"http://as.example:/").host)

    def test_missing(self) -> None:
        """HTTP/1.1 without ``Host`` is 400 (RFC 9112 section 3.2); in HTTP/1.0 it may be absent."""
        self.expect_error(400)
        self.assertEqual(b"", read(version="1.0").host)


class Target(HeadTestCase):
    def test_byte_for_byte(self) -> None:
        """An origin-form is unchanged: dots, doubled slashes, escapes and all."""
        for target in (
            b"/",
            b"/a/../b",
            b"//a",
            b"/%2e/%2E/%00",
            b"/a;p=1?q=/?&%0d%0a",
            b"/:@!$&'()*+,=[]|^`{}<>\\\"",
        ):
            self.assertEqual(target, read(HOST, target=target).target)

    def test_malformed(self) -> None:
        """Invalid targets are 400.

        These have spaces, control characters, fragments, octets above 0x7E, other forms, or a path
        above the root.
        """
        for target in (
            b"",
            b"token",
            b"/a b",
            b"/a\t",
            b"/a\n",
            b"/a#b",
            b"/\x7f",
            b"/\x80",
            b"/\xff",
            b"*",
            b"a:443",
            b"/..",
        ):
            self.expect_error(400, HOST, target=target)

    def test_asterisk(self) -> None:
        """``*`` is for OPTIONS, and so is an absolute-form without path and query.

        See RFC 9112 section 3.2.4.
        """
        for target in (b"*", b"https://as.example", b"HTTP://AS.example"):
            self.assertEqual(b"*", read(HOST, method=b"OPTIONS", target=target).target)
        for rest, origin in ((b"/", b"/"), (b"?a", b"/?a"), (b"/*", b"/*")):
            self.assertEqual(
                origin, read(HOST, method=b"OPTIONS", target=b"https://as.example" + rest).target
            )

    def test_length(self) -> None:
        """A target above its limit is 414; one at the limit is accepted."""
        self.assertEqual(
            b"/abc", read(HOST, target=b"/abc", settings=ClientSettings(max_target_bytes=4)).target
        )
        self.expect_error(414, HOST, target=b"/abcd", settings=ClientSettings(max_target_bytes=4))

    def test_absolute(self) -> None:
        """An absolute-form becomes an origin-form, and its authority the host.

        See RFC 9112 section 3.2.2.
        """
        for target, origin in (
            (b"https://as.example/token?a=b", b"/token?a=b"),
            (b"HTTP://AS.example", b"/"),
            (b"http://as.example?a", b"/?a"),
            (b"http://as.example/", b"/"),
        ):
            found = read(HOST, target=target)
            self.assertEqual((origin, b"as.example"), (found.target, found.host.lower()))

    def test_absolute_without_host(self) -> None:
        """In HTTP/1.0 the authority is used as the host."""
        self.assertEqual(b"as.example", read(target=b"http://as.example/", version="1.0").host)

    def test_absolute_elsewhere(self) -> None:
        """An authority that differs from ``Host``, or no authority, is 400."""
        for target in (
            b"http://evil.example/", b"http://as.example:80/", b"http://user@as.example/",
            b"http:///", b"ftp://as.example/",
            b"http://as.example/a#b", b"http://as.example/\xff", b"http://as.example?\x80",
        ):  # fmt: skip
            self.expect_error(400, HOST, target=target)


class BodyFraming(HeadTestCase):
    def test_none(self) -> None:
        """Without framing, or with a length of zero, there is no body."""
        self.assertEqual((Framing.NONE, 0), (post().body, post().length))
        self.assertEqual(
            (Framing.NONE, 0),
            (post((b"Content-Length", b"0")).body, post((b"Content-Length", b"0")).length),
        )
        self.assertEqual(Framing.NONE, read(HOST, (b"Content-Length", b"0")).body)

    def test_chunked(self) -> None:
        """``chunked`` alone, in any case, is the one coding."""
        self.assertEqual((Framing.CHUNKED, 0), (post((b"Transfer-Encoding", b"Chunked")).body, 0))

    def test_other_codings(self) -> None:
        """Any other coding is 400, also beside a length, or in HTTP/1.0."""
        for coding in (
            b"identity",
            b"gzip",
            b"gzip, chunked",
            b"chunked, chunked",
            b"xchunked",
            b"chunked;a",
            b"\tchunked",
            b"",
        ):
            self.expect_error(400, HOST, (b"Transfer-Encoding", coding), method=b"POST")
        chunked = (b"Transfer-Encoding", b"chunked")
        self.expect_error(400, HOST, chunked, (b"Content-Length", b"5"), method=b"POST")
        self.expect_error(400, HOST, (b"Content-Length", b"0"), chunked, method=b"POST")
        self.expect_error(400, HOST, chunked, method=b"POST", version="1.0")

    def test_malformed_length(self) -> None:
        """A length is digits, at most eighteen of them."""
        for length in (
            b"",
            b"+2",
            b"-1",
            b"0x2",
            b"2, 2",
            b"1_0",
            b" 2",
            b"2\t",
            b"1" * 19,
            b"2.0",
        ):
            self.expect_error(400, HOST, (b"Content-Length", length), method=b"POST")

    def test_body_limit(self) -> None:
        """An announced body above the limit is 413; one at the limit is accepted."""
        settings = ClientSettings(max_body_bytes=5)
        self.assertEqual(5, post((b"Content-Length", b"5"), settings=settings).length)
        self.expect_error(413, HOST, (b"Content-Length", b"6"), method=b"POST", settings=settings)

    def test_methods_without_a_body(self) -> None:
        """A body where the method gives it no meaning is 400; POST, PUT and PATCH have one."""
        for pair, body in (
            ((b"Content-Length", b"5"), Framing.LENGTH),
            ((b"Transfer-Encoding", b"chunked"), Framing.CHUNKED),
        ):
            for method in (b"GET", b"HEAD", b"DELETE", b"OPTIONS"):
                self.expect_error(400, HOST, pair, method=method)
            for method in (b"POST", b"PUT", b"PATCH"):
                self.assertEqual(body, read(HOST, pair, method=method).body)


class Expectation(HeadTestCase):
    def test_continue(self) -> None:
        """``100-continue`` is accepted in any case; HTTP/1.0 ignores it.

        See RFC 9110 section 10.1.1.
        """
        self.assertTrue(post((b"Expect", b"100-Continue")).expects_continue)
        self.assertFalse(post((b"Expect", b"100-continue"), version="1.0").expects_continue)
        self.assertFalse(post().expects_continue)

    def test_others(self) -> None:
        """Any other expectation is 417."""
        for value in (b"", b"200-ok", b"100-continue, x"):
            self.expect_error(417, HOST, (b"Expect", value), method=b"POST")


def answer(
    *pairs: tuple[bytes, bytes],
    status: int = 200,
    reason: bytes = b"OK",
    version: str = "1.1",
    method: bytes = b"GET",
) -> ResponseHead:
    return response_head(status, reason, version, pairs, method, 4)


class Answer(SynchronousTestCase):
    def expect_error(self, *pairs: tuple[bytes, bytes], version: str = "1.1") -> None:
        error: ErrorResponse = self.assertRaises(
            HttpError, answer, *pairs, version=version
        ).response
        self.assertEqual(502, error.status)

    def test_literal(self) -> None:
        """A valid response keeps its fields in order, and has its framing."""
        pairs = ((b"Content-Length", b"5"), (b"X_Odd", b"caf\xe9"))
        self.assertEqual(ResponseHead(200, b"OK", pairs, Framing.LENGTH, 5), answer(*pairs))

    def test_framing(self) -> None:
        """The end of a body is known by length, by chunks or by the end of the connection.

        See RFC 9112 section 6.3.
        """
        for pair, expected in (
            ((b"content-length", b"0"), (Framing.LENGTH, 0)),
            ((b"TRANSFER-ENCODING", b"Chunked"), (Framing.CHUNKED, -1)),
            ((b"X", b""), (Framing.CLOSE, -1)),
        ):
            found = answer(pair)
            self.assertEqual(expected, (found.body, found.length))

    def test_no_body(self) -> None:
        """A response to HEAD, a 204 and a 304 have no body, whatever their fields are.

        Only 204 cannot have a length.
        """
        length = (b"Content-Length", b"5")
        for method, status, expected in ((b"HEAD", 200, 5), (b"GET", 304, 5), (b"GET", 204, -1)):
            found = answer(length, method=method, status=status)
            self.assertEqual((Framing.NONE, expected), (found.body, found.length))
        self.assertEqual(
            Framing.NONE, answer((b"Transfer-Encoding", b"chunked"), method=b"HEAD").body
        )

    def test_two_framings(self) -> None:
        """Ambiguous framing is 502."""
        length, chunked = (b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked")
        for pairs in ((length, chunked), (length, length), (chunked, chunked)):
            self.expect_error(*pairs)

    def test_odd_framing(self) -> None:
        """A length with a sign or another coding is 502, also ``chunked`` in HTTP/1.0."""
        for value in (b"", b"+5", b"-5", b"5, 5", b"0x5", b"1" * 19):
            self.expect_error((b"Content-Length", value))
        for value in (b"identity", b"gzip, chunked", b""):
            self.expect_error((b"Transfer-Encoding", value))
        self.expect_error((b"Transfer-Encoding", b"chunked"), version="1.0")

    def test_fields(self) -> None:
        """Too many fields are 502."""
        self.expect_error(*[(b"X", b"")] * 5)

    def test_reason(self) -> None:
        """A reason phrase of printable ASCII is kept, any other is dropped."""
        self.assertEqual(b"All right", answer(reason=b"All right").reason)
        for reason in (b"O\nK", b"O\x0bK", b"caf\xe9", b"\x7f"):
            self.assertEqual(b"", answer(reason=reason).reason)

    @given(
        st.integers(0, 999),
        st.binary(),
        st.lists(st.tuples(NAMES, VALUES), max_size=5),
        st.sampled_from(METHODS),
    )
    def test_parses_or_rejects(
        self, status: int, reason: bytes, pairs: Pairs, method: bytes
    ) -> None:
        """Every response gives a head with one framing, or 502."""
        try:
            found = response_head(status, reason, "1.1", pairs, method, 4)
        except HttpError as error:
            self.assertEqual(502, error.response.status)
            return
        self.assertEqual(found, attrs.evolve(found, status=status, pairs=pairs))
        self.assertTrue(found.body is not Framing.LENGTH or found.length >= 0)


class Interim(SynchronousTestCase):
    def test_good(self) -> None:
        """An interim response without a body, on a connection that stays open, is dropped."""
        link = (b"Link", b"</a>; rel=preload")
        for status, pairs in ((100, []), (103, [link]), (102, [(b"Content-Length", b"0")])):
            check_interim(status, "1.1", pairs)

    def test_rejected(self) -> None:
        """One that switches protocols, has a body, or ends the connection is 502.

        See RFC 9110 section 15.2.
        """
        for status, version, pairs, detail in (
            (101, "1.1", [(b"Upgrade", b"h2c")], "status 101"),
            (100, "1.1", [(b"Transfer-Encoding", b"chunked")], "interim response with a body"),
            (100, "1.1", [(b"Content-Length", b"1")], "interim response with a body"),
            (100, "1.1", [(b"Connection", b"close")], "that ends the connection"),
            (100, "1.0", [], "that ends the connection"),
        ):
            error: HttpError = self.assertRaises(HttpError, check_interim, status, version, pairs)
            self.assertEqual(502, error.response.status)
            self.assertIn(detail, error.response.detail)
