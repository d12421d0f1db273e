"""Tests of :mod:`x509proxy.http1.path_readings`.

Every lenient reading is found, and a target beyond them is ambiguous.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.call_counts import count_calls
from x509proxy.http1.path_readings import is_ambiguous, normalized_paths, written_path


def steps(target: bytes) -> int:
    return count_calls(lambda: (is_ambiguous(target), normalized_paths(target)))


class Readings(SynchronousTestCase):
    def test_plain(self) -> None:
        """A plain path is its own only reading; the server as a whole is below the root."""
        for path in ("/", "/token", "/a/b", "/a:b", "/v1/tokens:introspect", "/a.b/.c"):
            self.assertEqual((path,), normalized_paths(path.encode()))
        self.assertEqual(("/*",), normalized_paths(b"*"))
        self.assertEqual(("/a",), normalized_paths(b"/a?/b"))

    def test_lenient(self) -> None:
        """Every spelling that some server takes for ``/token`` is read so."""
        for target in (
            "/token.", "/token%20", "/token..", "/token%20.%20.", "/%20token", "/token:$data",
            "/token::$DATA", "/TOKEN/.",
            "/token/%2e", "/token;x/", "/a%2f/token", "/index.php/token", "/a/index.php/token",
            "/to%E2%84%AAen",
            "/%EF%BD%94oken", "/tok%C4%99n", "/t%C3%B8ken", "/tok%C3%A9en", "/toke%CC%81n",
            "/token%C2%A0", "/%CE%A9token",
        ):  # fmt: skip
            paths = normalized_paths(target.encode())
            self.assertTrue({"/token", "/a/token"} & set(paths), (target, paths))

    def test_not_too_lenient(self) -> None:
        """Paths that no server takes for it are different.

        They have a colon without a stream, a dot in the middle, or a blank.
        """
        for target in ("/token:a", "/to.ken", "/token$data", "/to%20ken", "/%D0%BBtoken-a"):
            self.assertNotIn("/token", normalized_paths(target.encode()), target)

    def test_dot_segments(self) -> None:
        """Dot segments are resolved in the first reading, and left in the second one."""
        self.assertEqual(("/b/c", "/a/../b/c"), normalized_paths(b"/a/../b/./c"))
        self.assertEqual(("/b", "/../b"), normalized_paths(b"/../b"))

    def test_scripts(self) -> None:
        """The first and the last script are removed, with and without their folder."""
        self.assertEqual(
            ("/a/x.php/b/y.cgi/c", "/b/y.cgi/c", "/a/b/y.cgi/c", "/c", "/a/x.php/b/c"),
            normalized_paths(b"/a/x.php/b/y.cgi/c"),
        )

    @given(
        st.lists(st.sampled_from(["", ".", "..", "a;b", "x", "token", "%20", "b.", "%E2%80%A6"]))
    )
    def test_nothing_is_left(self, names: list[str]) -> None:
        """No reading has an empty name or a parameter, and the first one has no dot segment."""
        paths = normalized_paths(("/" + "/".join(names)).encode())
        for path in paths:
            self.assertTrue(path.startswith("/"))
            self.assertNotIn(";", path)
            self.assertFalse(
                {"", "."} & set(path.split("/")[1:]) - ({""} if path == "/" else set()), path
            )
        self.assertNotIn("..", paths[0].split("/"))

    def test_written(self) -> None:
        """The path as it came has neither a query nor another case."""
        self.assertEqual("/A;b%2f", written_path(b"/A;b%2f?c"))
        self.assertEqual("/*", written_path(b"*"))


class Ambiguous(SynchronousTestCase):
    def test_ambiguous(self) -> None:
        """A target is ambiguous where real servers read it beyond every lenient reading."""
        for target in (
            # An authority for Node.js and Java.
            "//x/token", "//token", "/%2fx/token", "/.//x/token", "/a/..//x/token", "///token",
            "/\\x/token", "/%5cx/token", "/a\\token", "/token%5c",
            # Escapes that are none, or not UTF-8; overlong ones; surrogates.
            "/tok%ffen", "/%a0token", "/tok%85en", "/tok%c0%afen", "/tok%c1%a5n", "/tok%e0%80%afen",
            "/tok%ed%a0%80en",
            "/token%", "/token%zz", "/%u0074oken", "/%u00zz",
            # Delimiters for a server that decodes before it parses; decoded twice.
            "/token%3f", "/token%3fx", "/token%23", "/token%23x", "/%2574oken", "/token%25",
            "/token%253f",
            # Controls.
            "/token%00", "/token%00x", "/token%09", "/token%0a", "/%0dtoken", "/%7ftoken",
            "/token%C2%85", "/token%E2%80%A8",
            # Format characters, fillers, private use, unassigned.
            "/tok%C2%ADen", "/tok%E2%80%8Ben", "/tok%EF%BB%BFen", "/tok%E3%85%A4en",
            "/tok%EE%80%80en", "/tok%CD%B8en",
            "/%E2%80%AEtoken", "/tok%F3%A0%81%A1en",
            # Characters that become delimiters.
            "/a%EF%BC%8Ftoken", "/a%EF%BC%8E%EF%BC%8E/token", "/token%EF%BC%9F", "/token%CD%BEx",
            "/a%E2%80%A5/token",
            "/a%E2%88%95token", "/a%E2%81%84token", "/a%C2%A5token", "/token%EF%BC%85",
            "/a%E2%84%80token",
            # ASP.NET's session in a path.
            "/(S(x))/token", "/tok/(S(x))en", "/(a(b)s(c))/token", "/%28S(x))/token",
        ):  # fmt: skip
            self.assertTrue(is_ambiguous(target.encode()), target)

    def test_unambiguous(self) -> None:
        """Ordinary targets are not: nothing is rejected that a client has reason to send."""
        for target in (
            "/", "/token", "/token/", "*", "/a//b", "/a/./b", "/a/../b", "/a.b/.well-known/x",
            "/a%20b", "/a%2fb", "/a;b=c",
            "/caf%C3%A9", "/%D0%BB%D0%BE", "/%E6%97%A5%E6%9C%AC", "/%F0%9F%98%80", "/a?//b\\%ff",
            "/x(1)", "/a(S(x))",
            "/O'Brien,(x)!", "/%C2%BD", "/%e2%82%ac", "/a@b:c", "/%7e%41",
        ):  # fmt: skip
            self.assertFalse(is_ambiguous(target.encode()), target)

    def test_cost(self) -> None:
        """However odd a path is, it is read in a time that grows with its length alone."""
        for piece in (
            "/",
            "/..",
            "/a.php",
            ";",
            ":$",
            "/. ",
            "%C3%A9",
            "%EF%BF%BD",
            "/%EF%B7%BA",
            "%E2%84%AA/",
        ):
            few, many = (steps(f"/{piece}".encode() * count) for count in (200, 400))
            self.assertLessEqual(many, 2.2 * few + 50, piece)
