"""Tests of :mod:`x509proxy.forwarding.oauth_metadata`: metadata are found, and only added to."""

from __future__ import annotations

import json
from itertools import takewhile
from typing import Any

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from x509proxy.forwarding.oauth_metadata import (
    for_whole_document,
    is_metadata,
    may_be_document,
    with_aliases,
    without_validators,
)
from x509proxy.settings import DiscoverySettings, ProxySettings, SettingsError

MTLS = "https://mtls.example.com:8443"
ISSUER = "https://as.example.com"
NAMES = (
    "token_endpoint",
    "revocation_endpoint",
    "introspection_endpoint",
    "pushed_authorization_request_endpoint",
    "device_authorization_endpoint",
    "backchannel_authentication_endpoint",
    "userinfo_endpoint",
    "registration_endpoint",
)
ALIASES = "mtls_endpoint_aliases"
BOUND = "tls_client_certificate_bound_access_tokens"
JSON = (b"Content-Type", b"application/json")


class Paths(SynchronousTestCase):
    """Which targets are a metadata document's."""

    def test_plain(self) -> None:
        """The well-known paths are, with an issuer's path before or after, and with any query."""
        for target in (
            b"/.well-known/openid-configuration",
            b"/.well-known/oauth-authorization-server",
            b"/tenant/.well-known/openid-configuration",
            b"/realms/a.b~c_d-e/.well-known/openid-configuration",
            b"/.well-known/oauth-authorization-server/tenant",
            b"/.well-known/oauth-authorization-server/realms/2",
            b"/.well-known/openid-configuration/tenant",
            b"/realms/x/.well-known/oauth-authorization-server",
            b"/.well-known/openid-configuration?a=/../b",
            b"/.well-known/openid-configuration/tenant?",
        ):
            self.assertTrue(is_metadata(target), target)

    def test_odd(self) -> None:
        """Other spellings are not, nor targets with a well-known path elsewhere."""
        for target in (
            b"*",
            b"/",
            b"/token",
            b"/.well-known/jwks.json",
            b"/.well-known/openid-configuration/",
            b"//.well-known/openid-configuration",
            b"/.well-known//openid-configuration",
            b"/./.well-known/openid-configuration",
            b"/a/../.well-known/openid-configuration",
            b"/.well-known/openid-configuration/..",
            b"/.well-known/openid-configuration/../token",
            b"/.well-known/openid-configuration;a",
            b"/.well-known/openid-configuration%3F",
            b"/%2Ewell-known/openid-configuration",
            b"/a%20b/.well-known/openid-configuration",
            b"/.Well-Known/openid-configuration",
            b"/.well-known/OPENID-configuration",
            b"/.well-known/openid-configurations",
            b"/.well-known/openid-configuration\n",
            b"/.well-known/oauth-authorization-server.json",
            b"/a/.well-known/openid-configuration/b",
            b"/xwell-known/openid-configuration",
            b"/token?/.well-known/openid-configuration",
        ):
            self.assertFalse(is_metadata(target), target)


class Fields(SynchronousTestCase):
    """The heads around a document."""

    def test_request(self) -> None:
        """The whole document is asked for, uncoded, whatever the client has already.

        All else stays in its place.
        """
        sent = [
            (b"A", b"1"),
            (b"aCCept-enCoding", b"gzip"),
            (b"RANGE", b"bytes=0-1"),
            (b"Accept", b"*/*"),
        ]
        conditions = (
            b"If-Range",
            b"If-Match",
            b"If-None-Match",
            b"If-Modified-Since",
            b"If-Unmodified-Since",
        )
        wishes = (b"Want-Digest", b"Want-Content-Digest", b"Want-Repr-Digest")
        sent += [(name, b"x") for name in conditions + wishes]
        expected = [(b"A", b"1"), (b"Accept", b"*/*"), (b"Accept-Encoding", b"identity")]
        self.assertEqual(expected, for_whole_document(sent))

    def test_document(self) -> None:
        """A response is read if it is a 200 and one ``application/json``, with any parameters."""
        for value in (
            b"application/json",
            b"application/json;charset=UTF-8",
            b"APPLICATION/Json ; a=b",
        ):
            self.assertTrue(may_be_document(200, [(b"X", b"y"), (b"content-TYPE", value)]), value)

    def test_no_document(self) -> None:
        """Another status, type or coding is not read, nor two types or none, nor a part."""
        for status in (201, 203, 206, 304, 404, 500):
            self.assertFalse(may_be_document(status, [JSON]), status)
        for value in (
            b"text/html",
            b"application/jwt",
            b"application/jsonp",
            b"application/x+json",
            b"",
            b"text/json",
        ):
            self.assertFalse(may_be_document(200, [(b"Content-Type", value)]), value)
        for more in (
            JSON,
            (b"content-encoding", b"gzip"),
            (b"Content-Encoding", b""),
            (b"Content-Range", b"bytes 0-1/2"),
        ):
            self.assertFalse(may_be_document(200, [JSON, more]), more)
        self.assertFalse(may_be_document(200, []))

    def test_validators(self) -> None:
        """Fields about the old body are removed; all others stay in their place."""
        gone = (
            b"ETag", b"last-modified", b"Content-MD5", b"DIGEST", b"Content-Digest", b"Repr-Digest",
            b"Accept-Ranges"
        )  # fmt: skip
        kept = [JSON, (b"Cache-Control", b"no-store"), (b"Vary", b"Origin"), (b"X-ETag", b"x")]
        self.assertEqual(
            kept, without_validators([*kept[:2], *((name, b"x") for name in gone), *kept[2:]])
        )


def document(**members: object) -> bytes:
    return json.dumps({"issuer": ISSUER, **members}).encode()


def read(body: bytes | None) -> Any:
    assert body is not None
    return json.loads(body)


def aliases(**members: object) -> Any:
    """Return the aliases of a document with these members, or ``None``."""
    body = with_aliases(document(**members), MTLS)
    return body and json.loads(body)[ALIASES]


class Aliases(SynchronousTestCase):
    """The members that are added."""

    def test_all(self) -> None:
        """Every endpoint of clients with certificates has an alias, with its path and query."""
        endpoints = {name: f"{ISSUER}/x/{name}?a=b&c=%2F" for name in NAMES}
        others = dict.fromkeys(
            ("authorization_endpoint", "jwks_uri", "end_session_endpoint", "check_session_iframe"),
            ISSUER,
        )
        changed = read(with_aliases(document(**others, **endpoints), MTLS))
        self.assertEqual(
            {name: f"{MTLS}/x/{name}?a=b&c=%2F" for name in NAMES}, changed.pop(ALIASES)
        )
        self.assertIs(True, changed.pop(BOUND))
        self.assertEqual({"issuer": ISSUER, **others, **endpoints}, changed)

    def test_text(self) -> None:
        """It stands behind the last member, whatever the spacing."""
        before = b'\r\n{ "issuer" :"https://a", "token_endpoint":\t"https://a/t"'
        added = (
            b', "mtls_endpoint_aliases": {"token_endpoint": "https://m/t"}, '
            b'"tls_client_certificate_bound_access_tokens": true'
        )
        self.assertEqual(before + added + b"\n}\n", with_aliases(before + b"\n}\n", "https://m"))

    def test_told(self) -> None:
        """The server's own aliases stay, name by name.

        What it leaves out comes in addition.
        """
        told = {"token_endpoint": "https://own.example/t", "userinfo_endpoint": None, "x": [1]}
        endpoints = {name: f"{ISSUER}/{name}" for name in NAMES[:2]} | {
            "userinfo_endpoint": f"{ISSUER}/u"
        }
        expected = {**told, "revocation_endpoint": f"{MTLS}/revocation_endpoint"}
        self.assertEqual(expected, aliases(**{ALIASES: told}, **endpoints, z=1))

    def test_told_text(self) -> None:
        """It stands behind theirs, inside the same braces, be there any or none."""
        for inside, comma in (('"x": "}" ', ", "), (" ", ""), ("", "")):
            body = (
                f'{{"{ALIASES}":{{{inside}}},"{BOUND}":0,'
                '"token_endpoint":"https://a/t","issuer":"https://a"}'
            )
            place = body.index(f'}},"{BOUND}')
            added = f'{comma}"token_endpoint": "https://m/t"'
            expected = (body[:place] + added + body[place:]).encode()
            self.assertEqual(expected, with_aliases(body.encode(), "https://m"))

    def test_told_last(self) -> None:
        """So it does when theirs are the last member, with what comes behind them."""
        body = (
            b'{"issuer":"https://a","token_endpoint":"https://a/t",'
            b'"mtls_endpoint_aliases":{"x":"y"}}'
        )
        added = (
            b', "token_endpoint": "https://m/t"}, '
            b'"tls_client_certificate_bound_access_tokens": true}'
        )
        self.assertEqual(body[:-2] + added, with_aliases(body, "https://m"))

    def test_bound(self) -> None:
        """The server's word on bound tokens stays, with any value."""
        for said in (False, True, None, "no"):
            changed = read(
                with_aliases(document(token_endpoint=f"{ISSUER}/t", **{BOUND: said}), MTLS)
            )
            self.assertEqual(said, changed[BOUND])
            self.assertEqual({"token_endpoint": f"{MTLS}/t"}, changed[ALIASES])

    def test_bound_alone(self) -> None:
        """A server with all aliases, and nothing of bound tokens, gets that."""
        told = {"token_endpoint": "https://own.example/t"}
        changed = read(
            with_aliases(document(token_endpoint=f"{ISSUER}/t", **{ALIASES: told}), MTLS)
        )
        self.assertEqual((told, True), (changed[ALIASES], changed[BOUND]))

    def test_nothing(self) -> None:
        """A document without anything to add stays unchanged."""
        self.assertIsNone(aliases())
        self.assertIsNone(aliases(authorization_endpoint=f"{ISSUER}/a"))
        self.assertIsNone(aliases(**{ALIASES: {}}))
        told = {"token_endpoint": "https://own.example/t"}
        self.assertIsNone(aliases(token_endpoint=f"{ISSUER}/t", **{ALIASES: told, BOUND: False}))


class Origins(SynchronousTestCase):
    """Only an endpoint at the issuer's origin has an alias: others may be elsewhere."""

    def test_same(self) -> None:
        """The default port may be written or not, scheme and host in any case.

        The issuer has a path or none.
        """
        for issuer, endpoint in (
            ("https://as.example", "https://as.example/t"),
            ("https://as.example/realms/x", "https://as.example/t"),
            ("https://as.example/?a", "HTTPS://AS.Example:443/t"),
            ("http://as.example:080", "http://as.example/t"),
            ("http://[2001:DB8::1]:8080", "http://[2001:db8::1]:8080/t"),
        ):
            self.assertEqual(
                {"token_endpoint": f"{MTLS}/t"}, aliases(issuer=issuer, token_endpoint=endpoint)
            )

    def test_no_path(self) -> None:
        """An endpoint without a path, or with a query alone, has an alias without one."""
        for rest in ("", "/", "?a=b", "/?"):
            self.assertEqual({"token_endpoint": MTLS + rest}, aliases(token_endpoint=ISSUER + rest))

    def test_other(self) -> None:
        """An endpoint of another scheme, host or port is left out."""
        for endpoint in (
            "http://as.example.com/t",
            "https://as.example.com:8443/t",
            "https://login.as.example.com/t",
            "https://as.example.com.evil.example/t",
        ):
            self.assertIsNone(aliases(token_endpoint=endpoint), endpoint)
            both = aliases(token_endpoint=endpoint, userinfo_endpoint=f"{ISSUER}/u")
            self.assertEqual({"userinfo_endpoint": f"{MTLS}/u"}, both)

    def test_other_letters(self) -> None:
        """So is one whose host only looks like the issuer's: the Kelvin sign is no K."""
        self.assertIsNone(
            aliases(issuer="https://k.example", token_endpoint="https://\u212a.example/t")
        )

    def test_odd(self) -> None:
        """So is one that is no URL of the usual form, or no string."""
        for endpoint in (
            "", "/t", "as.example.com/t", "https:/as.example.com/t", "https://as.example.com\\t",
            "https://as.example.com/t#f",
            "https://as.example.com/\u00fc", "https://as.example.com/a b",
            "https://as.example.com/a\n", 'https://as.example.com/"',
            "https://u@as.example.com/t", "https://as.example.com:/t", "https://as.example.com:x/t",
            " https://as.example.com/t",
            None, 5, True, ["https://as.example.com/t"], {"a": "https://as.example.com/t"},
        ):  # fmt: skip
            self.assertIsNone(aliases(token_endpoint=endpoint), endpoint)

    def test_issuer(self) -> None:
        """Without a valid issuer no endpoint has an alias."""
        issuers: tuple[object, ...] = (None, 5, [], {}, "", "as.example.com", "urn:x")
        for issuer in issuers:
            self.assertIsNone(aliases(issuer=issuer, token_endpoint=f"{ISSUER}/t"), issuer)
        self.assertIsNone(with_aliases(b'{"token_endpoint":"https://a/t"}', MTLS))


TOKEN = b'"issuer":"https://a","token_endpoint":"https://a/t"'


class Unfit(SynchronousTestCase):
    """A body that is not exactly one JSON object stays unchanged."""

    def expect_untouched(self, *bodies: bytes) -> None:
        self.assertIsNotNone(with_aliases(b"{%b}" % TOKEN, MTLS))
        for body in bodies:
            self.assertIsNone(with_aliases(body, MTLS), body[:80])

    def test_no_object(self) -> None:
        """Neither is any other value, nor anything before or after it."""
        body = b"{%b}" % TOKEN
        self.expect_untouched(
            b"", b" ", b"{", b"{}", b"[]", b"[%b]" % body, b"null", b'"issuer"', b"1", b"x",
            body[:-1], body + b",", body + body, body + b"\0", b"\xef\xbb\xbf" + body, b"x" + body,
            body + b" x", body + b"\x0c",
        )  # fmt: skip

    def test_malformed(self) -> None:
        """Nor is what only a forgiving reader takes for one."""
        self.expect_untouched(
            b"{%b,}" % TOKEN, b"{,%b}" % TOKEN, b"{%b,,}" % TOKEN, b"{%b]" % TOKEN,
            b'{%b "a":1}' % TOKEN,
            b'{%b,"a"}' % TOKEN, b'{%b,"a":}' % TOKEN, b'{%b,"a"=1}' % TOKEN,
            b'{%b,"a":1}/**/' % TOKEN,
            b'{%b,/**/"a":1}' % TOKEN, b"{%b,a:1}" % TOKEN, b"{%b,1:1}" % TOKEN,
            b"{%b,null:1}" % TOKEN, b"{%b,'a':1}" % TOKEN,
            b'{%b,"a":01}' % TOKEN, b'{%b,"a":1.}' % TOKEN, b'{%b,"a":.5}' % TOKEN,
            b'{%b,"a":+1}' % TOKEN,
            b'{%b,"a":0x1}' % TOKEN, b'{%b,"a":"\n"}' % TOKEN, b'{%b,"a":"\\x"}' % TOKEN,
            b'{%b,"a":[1,]}' % TOKEN,
            b'{%b,"a":tru}' % TOKEN,
        )  # fmt: skip

    def test_constants(self) -> None:
        """Nor is what has a number that JSON does not have."""
        self.expect_untouched(
            *(b'{%b,"a":[%b]}' % (TOKEN, word) for word in (b"NaN", b"Infinity", b"-Infinity"))
        )

    def test_repeats(self) -> None:
        """So does one with a repeated name, in any spelling: readers differ about which counts."""
        self.expect_untouched(
            b'{%b,"issuer":"https://a"}' % TOKEN,
            b'{%b,"issu\\u0065r":"https://a"}' % TOKEN,
            b'{%b,"a":{"b":1,"c":2,"b":1}}' % TOKEN,
            b'{%b,"a":[{"b":1,"\\u0062":1}]}' % TOKEN,
            b'{%b,"mtls_endpoint_aliases":{"x":1,"x":1}}' % TOKEN,
            b'{%b,"mtls_endpoint_aliases":{},"mtls_endpoint_aliases":{}}' % TOKEN,
        )

    def test_encoding(self) -> None:
        """Nor is what is not UTF-8, strictly: no other encoding, no surrogates, no long forms."""
        whole = b"{%b}" % TOKEN
        self.expect_untouched(
            whole.decode().encode("utf-16"), whole.decode().encode("utf-32-le"),
            b'{%b,"a":"\xfc"}' % TOKEN, b'{%b,"a":"\xed\xa0\x80"}' % TOKEN,
            b'{%b,"a":"\xc0\x80"}' % TOKEN,
        )  # fmt: skip

    def test_depth(self) -> None:
        """Nor is what is nested without end, and nothing is harmed by looking at it."""
        for opened in (b"[", b'{"a":'):
            self.expect_untouched(b'{%b,"a":%b' % (TOKEN, opened * 30000), opened * 60000)

    def test_aliases_of_another_kind(self) -> None:
        """Nor is a document whose aliases are no object."""
        self.expect_untouched(
            *(
                b'{%b,"mtls_endpoint_aliases":%b}' % (TOKEN, value)
                for value in (b"null", b"[]", b'"x"', b"1")
            )
        )


class Numbers(SynchronousTestCase):
    """Numbers that no reader keeps are kept."""

    def test_exact(self) -> None:
        """Digits without end, fractions, exponents and minus zero stand as they stood."""
        for number in (
            b"9" * 20000,
            b"-0",
            b"1E400",
            b"0.1000000000000000000000001",
            b"-1.0e-400",
            b"1e+05",
        ):
            body = b'{"a":%b,%b}' % (number, TOKEN)
            changed = with_aliases(body, MTLS)
            assert changed is not None
            self.assertTrue(changed.startswith(body[:-1]), number[:20])


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=10,
)
TEXTS = {
    "indent": st.sampled_from([None, 0, 1, "\t"]),
    "ensure_ascii": st.booleans(),
    "separators": st.sampled_from([(",", ":"), (", ", ": "), ("\n,\r", " : ")]),
}
OWN = st.sampled_from([*NAMES, ALIASES, BOUND])
URLS = st.sampled_from([ISSUER, f"{ISSUER}/a?b", "https://elsewhere.example/a"]) | JSON_VALUES
DOCUMENTS = st.fixed_dictionaries(
    {"issuer": st.just(ISSUER), "userinfo_endpoint": st.just(f"{ISSUER}/u")},
    optional=dict.fromkeys(NAMES[:3], URLS)
    | {
        ALIASES: st.dictionaries(OWN | st.text(), URLS),
        BOUND: JSON_VALUES,
        "\u00fc\n": JSON_VALUES,
    },
)


class Everything(SynchronousTestCase):
    """Each member of a document is still there afterwards."""

    @given(DOCUMENTS, st.permutations(range(12)), st.fixed_dictionaries(TEXTS))
    def test_only_added(self, members: dict[str, Any], order: list[int], layout: Any) -> None:
        """Without the additions the document is the same: members, order and bytes."""
        members = {name: members[name] for _, name in sorted(zip(order, members, strict=False))}
        text = json.dumps(members, **layout)
        body = with_aliases(text.encode(), MTLS)
        if body is None:
            self.assertTrue(members[ALIASES].keys() >= {"userinfo_endpoint"} and BOUND in members)
            return
        changed = json.loads(body)
        self.assertEqual([*members], [name for name in changed if name in members])
        self.assertLessEqual(changed.keys() - members.keys(), {ALIASES, BOUND})
        told = members.get(ALIASES, {})
        self.assertEqual([*told.items()], [*changed[ALIASES].items()][: len(told)])
        for name, value in members.items():
            if name != ALIASES:
                self.assertEqual(json.dumps(value), json.dumps(changed[name]))
        self.assertTrue(has_two_runs_more(text, body.decode()))

    @given(st.text(alphabet='{}[]",:\\ue0123.-ntrfalse\n \u00fc', max_size=40))
    @example('"\\ud800":"\\udfff"')
    def test_no_more_forgiving(self, text: str) -> None:
        """A body that a strict reader rejects stays unchanged.

        What is touched, it takes for JSON.
        """
        body = f'{{"issuer":"https://a","token_endpoint":"https://a/t",{text}}}'.encode()
        changed = with_aliases(body, MTLS)
        if changed is not None:
            before, after = (json.loads(part, parse_constant=forbidden) for part in (body, changed))
            after.pop(ALIASES)
            after.pop(BOUND)
            self.assertEqual(before, after)

    @given(st.binary(max_size=64))
    def test_anything(self, body: bytes) -> None:
        """Bytes of any kind raise nothing, and have nothing to add to."""
        self.assertIsNone(with_aliases(body, MTLS))


def forbidden(name: str) -> None:
    raise AssertionError(name)


def common(one: str, other: str) -> int:
    """Return the length of the common beginning of two texts."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def has_two_runs_more(short: str, long: str) -> bool:
    """Return whether ``long`` without one or two runs of characters is ``short``."""
    begin = common(short, long)
    short, long = short[begin:], long[begin:]
    end = common(short[::-1], long[::-1])
    return short[: len(short) - end] in long[: len(long) - end]


class Settings(SynchronousTestCase):
    """The origin that the aliases have for clients with certificates."""

    def test_origins(self) -> None:
        """An https origin is, with a port or without."""
        for origin in (
            "https://mtls.example.com",
            MTLS,
            "https://127.0.0.1:1",
            "https://[::1]:65535",
            "https://localhost",
        ):
            self.assertEqual(origin, DiscoverySettings(mtls=origin).mtls)

    def test_others(self) -> None:
        """Anything more or less is refused, in a sentence that does not repeat it."""
        for wrong in (
            "", "mtls.example.com", "http://mtls.example.com", "https://",
            "https://mtls.example.com/", "https://a/b", "https://a?b",
            "https://a#b", "https://u@a", "https://u:pw@a", "https://a:0", "https://a:65536",
            "https://a:", "https://a:x", "https://:1",
            "https://a b", "https://a\n", "https://\u00fc", "https://[a", "HTTPS://a",
            "https://a,b", 'https://a"b', "https://a\\b",
        ):  # fmt: skip
            raised = self.assertRaises(SettingsError, DiscoverySettings, mtls=wrong)
            self.assertIn(
                "found no https origin, expected one such as https://mtls.example.com:8443",
                str(raised),
            )

    def test_place(self) -> None:
        """Read from a file, the sentence has the place."""
        raised = self.assertRaises(
            msgspec.ValidationError, msgspec.convert, {"discovery": {"mtls": "x"}}, ProxySettings
        )
        self.assertIn("mtls: found no https origin", str(raised))
        self.assertIn("$.discovery", str(raised))

    def test_size(self) -> None:
        """Nothing of no size is looked at (invariant L7)."""
        self.assertRaises(SettingsError, DiscoverySettings, mtls=MTLS, max_body_bytes=0)
