"""Tests of :mod:`x509proxy.http1.request_target`.

A path above the root, or with different meanings for different servers, is rejected.
"""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.call_counts import count_calls
from x509proxy.http1.errors import HttpError
from x509proxy.http1.path_readings import normalized_paths
from x509proxy.http1.request_target import check_method, loggable, read_target

# Ways to write a step up, and what makes one name of two, or two of one.
UP = (
    "..",
    "%2e%2e",
    ".%2E",
    "%252e%252e",
    "%25252e.",
    "..;a",
    "..%00",
    "..%20",
    "..%3bx",
    "%u002e.",
    "...",
    "..:$DATA",
    ".. .",
)


def read(target: str) -> bytes:
    return read_target(b"GET", target.replace(" ", "%20").encode(), b"as.example")[0]


# Spellings that IIS 4 (MS00-078), Tomcat 6 (CVE-2008-2938) and others read as two dots, with
# full-width and leader dots.
OVERLONG = (
    "%c0%ae%c0%ae", "%c0%ae.", ".%c0%ae", "%c0%2e%c0%2e", "%e0%80%ae%e0%80%ae",
    "%f0%80%80%ae%f0%80%80%ae",
    "%f8%80%80%80%ae%f8%80%80%80%ae", "%fc%80%80%80%80%ae.", "%25c0%25ae%25c0%25ae",
    "%c0%a52e%c0%a52e",
    "%ef%bc%8e%ef%bc%8e", "%e2%80%a5", "%e2%80%a4.", "%uff0e%uff0e", "%u2024.",
    "%c0%ae%c0%ae%c0%af", "%c0%ae%c0%ae;x",
    ".%ff.", ".%c0%c0%ae", "%fe..",
)  # fmt: skip


class Strays(SynchronousTestCase):
    def expect_error(self, target: str) -> None:
        error = self.assertRaises(HttpError, read, target).response
        self.assertEqual((400, "Malformed request"), (error.status, error.description), target)

    def test_above_the_root(self) -> None:
        """A path that climbs above the root is 400, wherever it goes then.

        It would leave a back end's base path.
        """
        for target in (
            "/..", "/../as/token", "/../manager/html", "/x/../../as/token", "/./../x",
            "/a/b/../../../c", "/..?a", "/../",
            "https://as.example/../as/token",
        ):  # fmt: skip
            self.expect_error(target)

    def test_in_disguise(self) -> None:
        """Every ``..`` in another spelling is 400 too, even if it does not climb.

        Some servers read it as ``..`` and others do not.
        """
        for up in UP[1:]:
            for target in (f"/{up}/as/token", f"/a/{up}/token", f"/a/b/{up}/../c", f"/a/{up}"):
                self.expect_error(target)

    def test_in_disguise_of_unicode(self) -> None:
        """So is one in overlong UTF-8, or in characters that a server maps to dots and slashes."""
        for up in OVERLONG:
            for target in (f"/{up}/as/token", f"/a/{up}/token", f"/a/{up}", f"/{up.upper()}/x"):
                self.expect_error(target)
        for target in (
            "/..%c0%afadmin",
            "/..%c1%9cadmin",
            "/a/..%e0%80%afb",
            "/..%ef%bc%8fadmin",
            "/..%u2215admin",
        ):
            self.expect_error(target)

    def test_unicode(self) -> None:
        """Other characters beyond ASCII go on, well formed or not."""
        for target in (
            "/%c3%a9",
            "/%c0%80",
            "/%c0",
            "/%ff.%fe",
            "/caf%e9/.",
            "/%e2%80%a6x",
            "/%u20ac",
            "/%ef%bc%8e/x",
        ):
            self.assertEqual(target.encode(), read(target), target)

    def test_two_ways(self) -> None:
        """So is a detour over what is one name to one server and two, or none, to another."""
        for target in (
            "/x%2fy/../token", "/x%2Fy/../../as/token", "/x%252fy/../token", "/x\\y/../token",
            "/x%5cy/../token", "/a//../token",
            "/a/b;%2fc/../../d", "/token%00/../login", "/token;/../login", "/a\\..\\b", "/..\\a",
            "/a%2f../b", "/a/::$DATA/../b",
            "/a/%20/../b", "/a/.../../b",
        ):  # fmt: skip
            self.expect_error(target)

    def test_plain(self) -> None:
        """A detour that all servers read alike is unchanged, and so is what only resembles one."""
        for target in (
            "/a/../b", "/a/./../b", "//a/../", "/a/b/../../", "/a/..", "/a..b/..c/d..", "/a?/../..",
            "/.", "/./", "/.a/x",
            "/%2e/x", "/a%2fb", "/a//b", "/a...b", "/a;b=..", "/%", "/%zz/%u12", "/a:b",
        ):  # fmt: skip
            self.assertEqual(target.encode(), read(target), target)

    @given(
        st.lists(
            st.sampled_from(["", ".", "a", "b;c", "x%2fy", "%5c", *UP]), min_size=1, max_size=6
        )
    )
    def test_base_path(self, names: list[str]) -> None:
        """After a base path, an accepted target stays below the base.

        This holds for the standard resolution and for the most lenient one.
        """
        target = "/" + "/".join(names)
        try:
            passed = read(target).decode()
        except HttpError:
            return
        way = ["as"]
        for name in passed[1:].split("/"):
            if name == "..":
                way.pop()
            elif name != ".":
                way.append(name)
            self.assertEqual(["as"], way[:1], target)
        self.assertEqual(
            normalized_paths(passed.encode())[0],
            normalized_paths(b"/as" + passed.encode())[0].removeprefix("/as") or "/",
        )

    def test_cost(self) -> None:
        """The time to check a path grows with its length alone."""
        for piece in ("/", "/..", "%25", "/a/..", ";", ":$", "%2525", "/. ", "%u00", "."):
            few, many = (self.steps("/" + piece * count) for count in (125, 250))
            self.assertLessEqual(many, 2.2 * few + 50, piece)

    def test_escapes(self) -> None:
        """A path has at most 256 escapes, in whatever form the target has; a query has any."""
        for before in ("/", "https://as.example/", "/?"):
            target = before + "%C3%A9" * 128
            self.assertTrue(read(target))
        self.assertTrue(read("/" + "%41" * 256 + "?" + "%41" * 1000))
        for before in ("/", "https://as.example/", "/a/", "/%zz"):
            self.expect_error(before + "%41" * 257)

    def steps(self, target: str) -> int:
        return count_calls(lambda: self.tried(target))

    def tried(self, target: str) -> None:
        with contextlib.suppress(HttpError):
            read(target)


class Methods(SynchronousTestCase):
    def test_methods(self) -> None:
        """TRACE and CONNECT are 405, any other method that is not served is 501."""
        for status, method in ((405, b"TRACE"), (405, b"CONNECT"), (501, b"BREW"), (501, b"get")):
            error = self.assertRaises(HttpError, check_method, method)
            self.assertEqual(status, error.response.status, method)


class Loggable(SynchronousTestCase):
    def test_well_formed(self) -> None:
        """A valid line is logged: an absolute-form without its authority, an unknown method too."""
        for line, expected in (
            (b"POST /token HTTP/1.1", (b"POST", b"/token", "1.1")),
            (b"BREW /pot?a HTTP/1.0", (b"BREW", b"/pot?a", "1.0")),
            (b"OPTIONS * HTTP/1.1", (b"OPTIONS", b"*", "1.1")),
            (b"GET https://as.example:8443/jwks HTTP/1.1", (b"GET", b"/jwks", "1.1")),
        ):
            self.assertEqual(expected, loggable(line, 8192))

    def test_malformed(self) -> None:
        """Nothing of a malformed request line is logged."""
        for line in (
            b"",
            b"GET  / HTTP/1.1",
            b"GET /\xff HTTP/1.1",
            b"\x16\x03\x01",
            b"GET / HTTP/2.0",
        ):
            self.assertEqual((b"-", b"-", "1.1"), loggable(line, 8192), line)

    def test_secrets(self) -> None:
        """An unfit target is not logged: it may hold a password or a token."""
        for target in (
            b"https://me:SECRET@as.example/",
            b"/cb#access_token=SECRET",
            b"as.example:443",
            b"SECRET",
        ):
            self.assertEqual(
                (b"GET", b"-", "1.1"), loggable(b"GET " + target + b" HTTP/1.1", 8192), target
            )

    def test_too_long(self) -> None:
        """A target above its limit is not logged, nor a long method: a record is bounded (L7)."""
        self.assertEqual(
            (b"GET", b"/" + b"a" * 7, "1.1"), loggable(b"GET /" + b"a" * 7 + b" HTTP/1.1", 8)
        )
        self.assertEqual((b"GET", b"-", "1.1"), loggable(b"GET /" + b"a" * 8 + b" HTTP/1.1", 8))
        self.assertEqual((b"-", b"/", "1.1"), loggable(b"A" * 33 + b" / HTTP/1.1", 8))


class Forms(SynchronousTestCase):
    def test_asterisk(self) -> None:
        """``*`` is a target of OPTIONS alone (RFC 9112 section 3.2.4)."""
        self.assertEqual((b"*", b"as.example"), read_target(b"OPTIONS", b"*", b"as.example"))
        self.assertRaises(HttpError, read_target, b"GET", b"*", b"as.example")

    def test_absolute(self) -> None:
        """The absolute form names the same host as the host field, if there is one."""
        target = b"https://as.example/token"
        for host in (b"as.example", b"AS.example", b""):
            self.assertEqual((b"/token", b"as.example"), read_target(b"GET", target, host))
        self.assertRaises(HttpError, read_target, b"GET", target, b"other.example")

    def test_absolute_without_a_path(self) -> None:
        """Without a path it is the root, and for OPTIONS the server itself.

        See RFC 9112 section 3.2.4.
        """
        target = b"https://as.example"
        self.assertEqual((b"/", b"as.example"), read_target(b"GET", target, b""))
        self.assertEqual((b"/?a", b"as.example"), read_target(b"GET", target + b"?a", b""))
        self.assertEqual((b"*", b"as.example"), read_target(b"OPTIONS", target, b""))


class MethodStatus(SynchronousTestCase):
    def test_never(self) -> None:
        """TRACE and CONNECT are 405, an unknown method is 501."""
        check_method(b"POST")
        for method, status in ((b"TRACE", 405), (b"CONNECT", 405), (b"post", 501), (b"X", 501)):
            error: HttpError = self.assertRaises(HttpError, check_method, method)
            self.assertEqual(status, error.response.status)
