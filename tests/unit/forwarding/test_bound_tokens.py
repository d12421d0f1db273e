"""Tests of :mod:`x509proxy.forwarding.bound_tokens`."""

from __future__ import annotations

import json
import re
from base64 import b64encode

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.tokens import OTHER, OWN, SIGNATURE, bound, part, raw, unsigned
from x509proxy.exchange import TokenVerdict
from x509proxy.forwarding.bound_tokens import (
    UNBOUND,
    Binding,
    PresentedToken,
    Scheme,
    authorization_of,
    check_binding,
    check_certificate,
    check_missing,
    name_scheme,
    no_match,
    parse_jws,
    read_binding,
    read_credentials,
)
from x509proxy.http1.errors import Code, ErrorResponse, HttpError
from x509proxy.http1.messages import Framing, RequestHead
from x509proxy.settings import TokenRequirement

BOUND, WHEN_BOUND = TokenRequirement.BOUND, TokenRequirement.WHEN_BOUND
HEADER = {"alg": "ES256"}
MAX_BYTES = 8192


def head(*credentials: bytes, target: bytes = b"/api") -> RequestHead:
    pairs = [(b"Accept", b"*/*"), *((b"authorization", value) for value in credentials)]
    return RequestHead(b"GET", target, "1.1", pairs, b"as.example", Framing.NONE)


class TokenTestCase(SynchronousTestCase):
    def expect(self, code: Code, step: object, *arguments: object) -> str:
        """Expect a rejection; return the detail for the log."""
        error: HttpError = self.assertRaises(HttpError, step, *arguments)
        self.assertIs(code, error.response.code)
        # In a quoted string of a challenge, and in a log.
        self.assertTrue(re.fullmatch(r"[ !#-\[\]-~]+", error.response.description))
        return error.response.detail


class Extraction(TokenTestCase):
    """A token comes from ``Authorization``, and from nowhere else."""

    def read(self, *credentials: bytes, target: bytes = b"/api") -> PresentedToken | None:
        value = authorization_of(head(*credentials, target=target))
        return None if value is None else read_credentials(value, MAX_BYTES)

    def test_scheme(self) -> None:
        """The scheme is compared without case, and spaces after it are ignored.

        See RFC 9110 section 11.1.
        """
        for scheme in (b"Bearer ", b"bearer ", b"BEARER ", b"Bearer   "):
            self.assertEqual(PresentedToken(b"abc"), self.read(scheme + b"abc"))
        for scheme in (b"DPoP ", b"dpop "):
            self.assertEqual(PresentedToken(b"abc", Scheme.DPOP), self.read(scheme + b"abc"))

    def test_alphabet(self) -> None:
        """Every token of RFC 6750 section 2.1 is read as it is."""
        token = b"azAZ09-._~+/=="
        self.assertEqual(PresentedToken(token), self.read(b"Bearer " + token))

    def test_none(self) -> None:
        """Another scheme, or no field, has no token."""
        self.assertIsNone(self.read())
        for value in (b"Basic YmVhcmVyOmJlYXJlcg==", b"Digest username=x", b"Bearers abc", b""):
            self.assertIsNone(self.read(value), value)

    def test_malformed(self) -> None:
        """A token that a lenient server could still find is 400, not overlooked."""
        for value in (
            b"Bearer", b"Bearer ", b"bearer\tabc", b"Bearer abc def", b"Bearer abc, Bearer def",
            b"Bearer abc,def",
            b'Bearer "abc"', b"Bearer a=b", b"Bearer ab=c", b"Bearer: abc", b"Bearer=abc",
            b"Basic eA==, Bearer abc",
            b"Token bearer abc", b'Custom token="Bearer abc"', b"Bearer a%62c", b"Bearer a\\b",
            b"DPoP", b"x, dpop y",
        ):  # fmt: skip
            self.expect(Code.TOKEN_MALFORMED, self.read, value)

    def test_jwt_without_scheme(self) -> None:
        """A JWT under another scheme, or without one, is 400: some back ends take it from there."""
        jws, jwe = (
            bound(),
            b".".join((part({"alg": "dir", "enc": "A256GCM"}), b"", b"a", b"b", b"c")),
        )
        for token in (jws, jwe, jws + b".more", raw(b' {\n "alg":"ES256"}') + b".e30.AAAA"):
            for form in (
                b"%b", b"Token %b", b"JWT %b", b"Basic %b", b"Digest %b", b"Token\t%b",
                b'Token token="%b"', b"Token token=%b, other=1", b"Custom a,%b", b"JWT:%b",
                b"JWT <%b>", b"SD-JWT %b~e30~",
            ):  # fmt: skip
                value = form % token
                self.assertIn("another scheme", self.expect(Code.TOKEN_MALFORMED, self.read, value))
        padded = jws.replace(b".", b"==.")
        self.expect(Code.TOKEN_MALFORMED, self.read, b"Token " + padded)

    def test_other_credentials(self) -> None:
        """Other credentials pass, with dots in them, too."""
        for value in (
            b"Basic " + b64encode(b"a:" + bound()),
            b'Digest username="a", realm="eyes.example.com", uri="/eyJ.html", response="0a1b"',
            b"Negotiate YIIJvwYGKwYBBQUCoIIJszCCCa+gMDAuBgkqhkiC9xIBAgI=",
            b"AWS4-HMAC-SHA256 Credential=AKIA/20261204/eu/s3/aws4_request, "
            b"SignedHeaders=host;x-amz-date, Signature=fe5f80f77d5fa3beca038a248ff027",
            b"Token a.b.c", b"Token eyJhbGciOiJub25lIn0", b"Token eyJhbGciOiJub25lIn0.x",
            b"Custom 192.0.2.1", b"Custom ey.ex.am.ple",
        ):  # fmt: skip
            self.assertIsNone(self.read(value), value)

    def test_large(self) -> None:
        """A token above the limit is 400 before it is parsed.

        The detail has its size, and no part of it.
        """
        self.assertEqual(PresentedToken(b"a" * MAX_BYTES), self.read(b"Bearer " + b"a" * MAX_BYTES))
        detail = self.expect(Code.TOKEN_TOO_LARGE, self.read, b"Bearer " + b"a" * (MAX_BYTES + 1))
        self.assertEqual("access token of 8193 bytes", detail)

    def test_query(self) -> None:
        """A second token in the query is 400, however its name is written."""
        for query in (
            b"access_token=a", b"b=c&access_token=a", b"b;access_token=a", b"ACCESS_TOKEN=a",
            b"access%5ftoken",
            b"%61ccess_token=a", b"access.token=a", b"access+token=a", b"access_token[]=a",
            b"+access_token=a",
            b"access%2Etoken=",
        ):  # fmt: skip
            for value in ((), (b"Bearer abc",)):
                found = self.expect(
                    Code.TOKEN_MALFORMED, lambda v=value, q=query: self.read(*v, target=b"/a?" + q)
                )
                self.assertEqual("access_token in the query", found)

    def test_other_queries(self) -> None:
        """Other parameters are none of its business."""
        for query in (
            b"",
            b"a=access_token",
            b"token=a",
            b"access_token_hint=a",
            b"a%20b=c",
            b"id_token=x",
        ):
            self.assertIsNone(self.read(target=b"/a?" + query), query)
        self.assertIsNone(self.read(target=b"/access_token=a"))

    def test_repr(self) -> None:
        """A token is in no traceback."""
        self.assertNotIn("abc", repr(PresentedToken(b"abc")) + repr(parse_jws(bound(abc="abc"))))


class Parsing(TokenTestCase):
    """A JWT is parsed strictly: nothing that another parser could read in another way passes."""

    def malformed(self, *segments: bytes) -> str:
        return self.expect(Code.TOKEN_MALFORMED, parse_jws, b".".join(segments))

    def test_claims(self) -> None:
        """Header and claims are those of the token."""
        found = parse_jws(unsigned({"a": [1, {"b": None}]}, HEADER))
        assert found is not None
        self.assertEqual((HEADER, {"a": [1, {"b": None}]}), (found.header, found.claims))

    def test_opaque(self) -> None:
        """A token in which no reader sees JSON is opaque."""
        for token in (
            b"abc", b"a.b.c", b"a.b", b"SlAV32hkKG", b"ya29.a0Af-x_y.z.w", b"...", b"~", b"ab",
            b"a", b"2YotnFZFEjr1zCsicMWpAA",
        ):  # fmt: skip
            self.assertIsNone(parse_jws(token), token)

    def test_encrypted(self) -> None:
        """An encrypted token (JWE) cannot be read here either."""
        header = part({"alg": "RSA-OAEP", "enc": "A256GCM"})
        self.assertIsNone(parse_jws(b".".join((header, b"a", b"b", b"c", b"d"))))
        # A signed one with two segments more is none.
        self.malformed(*bound().split(b"."), b"a", b"b")

    def test_segments(self) -> None:
        """A token that begins as a JWT has three segments.

        A server may use the first three of any number.
        """
        header, claims, signature = bound().split(b".")
        for segments in ((header,), (header, claims), (header, claims, signature, b"x"),
                         (header, claims, signature, b""), (header, b"", claims, signature),
                         (header, claims, signature, b"x", b"y", b"z")):  # fmt: skip
            self.malformed(*segments)

    def test_signature_missing(self) -> None:
        """A signature is there, whatever the header claims."""
        header, claims, _ = bound().split(b".")
        self.malformed(header, claims, b"")

    def test_alg_none(self) -> None:
        """``alg`` ``none``, in any case, is 401 even where no signature is checked."""
        for algorithm in ("none", "None", "NONE", "nOnE"):
            token = unsigned({}, {"alg": algorithm})
            self.expect(Code.TOKEN_INVALID, parse_jws, token)
            self.expect(Code.TOKEN_INVALID, parse_jws, token.removesuffix(SIGNATURE))

    def test_no_alg(self) -> None:
        """A header without ``alg``, or with one that is no string, is malformed."""
        for header in ({"typ": "JWT"}, {"alg": None}, {"alg": ["ES256"]}, {"alg": 1}):
            self.malformed(part(header), part({}), SIGNATURE)

    def test_critical(self) -> None:
        """A critical extension, such as ``b64`` of RFC 7797, is 401.

        It would change the meaning of the claims.
        """
        self.expect(
            Code.TOKEN_INVALID, parse_jws, unsigned({}, {**HEADER, "crit": ["b64"], "b64": False})
        )

    def test_base64_variants(self) -> None:
        """Each segment has one spelling.

        Padding, the standard alphabet, stray bits and other octets are rejected.
        """
        header, claims, signature = (
            part({"alg": "ES256", "a": ""}),
            part({"a": "?~>"}),
            raw(b"\xfb\xff\xfe"),
        )
        self.assertIsNotNone(parse_jws(b".".join((header, claims, signature))))
        self.assertRegex(claims.decode(), "[_-]")
        for variant in (
            (header + b"=", claims, signature), (header, claims + b"==", signature),
            (header, claims, signature + b"="),
            (header, claims.replace(b"-", b"+").replace(b"_", b"/"), signature),
            (header, claims, b"+/+/"), (header, claims, b"a"), (header, claims, b"ab~c"),
            (header, claims, b"ab\nc"),
        ):  # fmt: skip
            self.malformed(*variant)

    def test_stray_bits(self) -> None:
        """Bits that the last character has over must be zero."""
        header, claims, _ = bound().split(b".")
        # Q, R, S and up to f decode to the same octet; only Q is canonical.
        self.assertIsNotNone(parse_jws(b".".join((header, claims, b"AQ"))))
        for character in (b"R", b"S", b"f"):
            self.assertIn("canonical", self.malformed(header, claims, b"A" + character))

    def test_lenient_beginnings(self) -> None:
        """White space, a byte order mark, or padding before the JSON do not make a token opaque."""
        self.malformed(raw(b'\xef\xbb\xbf{"alg":"ES256"}'), part({}), SIGNATURE)
        for start in (b"=", b"~", b"==~"):
            self.malformed(start + part(HEADER), part({}), SIGNATURE)
        for space in (b" ", b"\n", b"\t\r"):
            self.malformed(raw(space + b'{"alg":"ES256"}'), part({}))
        self.malformed(b"e30", b"e30", SIGNATURE)

    def test_json(self) -> None:
        """JSON that parsers read differently is malformed.

        It has duplicate names, bad UTF-8, constants, or text after its end.
        """
        for claims in (
            b'{"cnf":{},"cnf":{}}', b'{"a":{"b":1,"b":1}}', b'{"cnf":1,"\\u0063nf":2}',
            b'{"a":"\xff"}', b'{"a":NaN}',
            b'{"a":-Infinity}', b"{} {}", b"{'a':1}", b'{"a":1,}', b"\xef\xbb\xbf{}", b'{"a":\x00}',
            b"", b"[]", b'"a"', b"1",
            b"null", b'{"a":' + b"9" * 31 + b"}", b'{"a":"\n"}', b'{"a":01}', b"{", b'{"a" 1}',
            b"/**/{}",
        ):  # fmt: skip
            self.malformed(part(HEADER), raw(claims), SIGNATURE)
        self.malformed(raw(b'{"alg":"ES256","alg":"none"}'), part({}), SIGNATURE)

    def test_nesting(self) -> None:
        """JSON is nested twelve times at most; a deeper document costs little."""

        def nested(depth: int, opening: str = '{"a":', closing: str = "}") -> bytes:
            return b".".join(
                (
                    part(HEADER),
                    raw(b'{"b":' + (opening * depth + "1" + closing * depth).encode() + b"}"),
                    SIGNATURE,
                )
            )

        self.assertIsNotNone(parse_jws(nested(11)))
        for depth in (12, 1000, 20000):
            self.expect(Code.TOKEN_MALFORMED, parse_jws, nested(depth))
            self.expect(Code.TOKEN_MALFORMED, parse_jws, nested(depth, "[", "]"))

    @given(st.binary(max_size=80), st.sampled_from(["", ".", "header", "claims", "signature"]))
    def test_anything(self, data: bytes, place: str) -> None:
        """A token of any octets is parsed, opaque or rejected."""
        segments = {"header": part(HEADER), "claims": part({}), "signature": SIGNATURE}
        token = (
            b".".join({**segments, place: data}.values())
            if place in segments
            else data + place.encode()
        )
        try:
            parse_jws(token)
        except HttpError as error:
            self.assertIn(error.response.status, (400, 401))

    @given(st.recursive(st.none() | st.booleans() | st.integers(-(10**15),
    10**15) | st.text(max_size=8),
                        lambda inner: st.lists(inner,
                        max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
                        max_leaves=8))  # fmt: skip
    def test_round_trip(self, value: object) -> None:
        """Claims are read as any other JSON parser reads them."""
        found = parse_jws(unsigned({"value": value}))
        assert found is not None
        self.assertEqual(json.loads(json.dumps(value)), found.claims["value"])


class Bindings(TokenTestCase):
    def test_read(self) -> None:
        """``cnf`` has a certificate's thumbprint, a DPoP key's, both, or neither."""
        for claims, binding in (
            ({}, UNBOUND),
            ({"cnf": {}}, UNBOUND),
            ({"cnf": {"kid": "a"}}, UNBOUND),
            ({"cnf": {"x5t#S256": "a" * 43}}, Binding("a" * 43)),
            ({"cnf": {"jkt": "b"}}, Binding(None, True)),
            ({"cnf": {"jkt": "b", "x5t#S256": "a" * 43}}, Binding("a" * 43, True)),
        ):  # fmt: skip
            self.assertEqual(binding, read_binding(claims))

    def test_odd_thumbprints(self) -> None:
        """A thumbprint that is no string of 43 characters is one that no certificate has.

        So no cache keeps a long one (L7).
        """
        odd = ("", "a", OWN.thumbprint[1:], OWN.thumbprint + "=", "a" * 6000, ["a"] * 43)
        for value in (None, 1, [OWN.thumbprint], {"a": OWN.thumbprint}, True, *odd):
            self.assertEqual(Binding(""), read_binding({"cnf": {"x5t#S256": value}}), value)

    def test_no_object(self) -> None:
        """A ``cnf`` that is no object is malformed, not absent."""
        for value in (None, "a", [], 1, [{"x5t#S256": OWN.thumbprint}]):
            self.expect(Code.TOKEN_MALFORMED, read_binding, {"cnf": value})


class Comparison(TokenTestCase):
    def test_own(self) -> None:
        """The token of this certificate is accepted, with either scheme.

        It may be bound to a DPoP key too.
        """
        for requirement in (BOUND, WHEN_BOUND):
            for scheme in Scheme:
                for is_dpop in (False, True):
                    binding = Binding(OWN.thumbprint, is_dpop)
                    self.assertIs(
                        TokenVerdict.BOUND, check_binding(binding, scheme, OWN, requirement)
                    )

    def test_another(self) -> None:
        """With another certificate, or none, it is 401, bound to a DPoP key too or not."""
        for requirement in (BOUND, WHEN_BOUND):
            for scheme in Scheme:
                for certificate in (OTHER, None):
                    for is_dpop in (False, True):
                        binding = Binding(OWN.thumbprint, is_dpop)
                        self.expect(
                            Code.TOKEN_MISMATCH,
                            check_binding,
                            binding,
                            scheme,
                            certificate,
                            requirement,
                        )

    def test_spellings(self) -> None:
        """The thumbprint has one spelling.

        Hexadecimal, padding, another case, spaces or an empty one never match.
        """
        own = OWN.thumbprint
        standard = own.replace("-", "+").replace("_", "/")
        for text in (own + "=", own.lower(), own.upper(), f" {own}", own[:-1], own + "A", "",
        standard + "=",
                     OWN.der.hex(), "00" * 32):  # fmt: skip
            self.expect(
                Code.TOKEN_MISMATCH, check_binding, Binding(text), Scheme.BEARER, OWN, BOUND
            )
            self.expect(
                Code.TOKEN_MISMATCH, check_binding, Binding(text), Scheme.BEARER, OWN, WHEN_BOUND
            )

    def test_unbound(self) -> None:
        """A token without a binding is 401 where one is needed, and passes elsewhere."""
        self.expect(Code.TOKEN_NOT_BOUND, check_binding, UNBOUND, Scheme.BEARER, OWN, BOUND)
        self.expect(Code.TOKEN_NOT_BOUND, check_binding, UNBOUND, Scheme.DPOP, OWN, BOUND)
        self.assertIs(TokenVerdict.UNBOUND, check_binding(UNBOUND, Scheme.BEARER, None, WHEN_BOUND))

    def test_unreadable(self) -> None:
        """So it is with a token whose binding cannot be read."""
        self.expect(Code.TOKEN_INVALID, check_binding, None, Scheme.BEARER, OWN, BOUND)
        self.assertIs(TokenVerdict.UNBOUND, check_binding(None, Scheme.BEARER, OWN, WHEN_BOUND))

    def test_dpop(self) -> None:
        """A token of a DPoP key is forwarded with its scheme.

        As a bearer token it is not bound (RFC 9449).
        """
        binding = Binding(None, is_dpop=True)
        for requirement in (BOUND, WHEN_BOUND):
            self.assertIs(TokenVerdict.DPOP, check_binding(binding, Scheme.DPOP, None, requirement))
        self.expect(Code.TOKEN_NOT_BOUND, check_binding, binding, Scheme.BEARER, OWN, BOUND)
        error: HttpError = self.assertRaises(
            HttpError, check_binding, binding, Scheme.BEARER, OWN, BOUND
        )
        self.assertEqual("DPoP", error.response.scheme)
        self.assertIs(TokenVerdict.DPOP, check_binding(binding, Scheme.BEARER, OWN, WHEN_BOUND))

    def test_details(self) -> None:
        """A detail for the log names what was found and expected, and not the token's value."""
        other = f"access token: found another x5t#S256, expected {OWN.thumbprint}"
        for binding, shown, code, detail in (
            (Binding("A" * 43), OWN, Code.TOKEN_MISMATCH, other),
            (
                Binding("A" * 43),
                None,
                Code.TOKEN_MISMATCH,
                "access token: found no client certificate, expected that of x5t#S256",
            ),
            (
                UNBOUND,
                OWN,
                Code.TOKEN_NOT_BOUND,
                "access token: found no x5t#S256, expected one in cnf",
            ),
        ):
            found = self.expect(code, check_binding, binding, Scheme.BEARER, shown, BOUND)
            self.assertEqual(detail, found)

    def test_no_certificate(self) -> None:
        """Without a certificate no bearer token can be bound to it."""
        self.expect(Code.TOKEN_MISMATCH, check_certificate, Scheme.BEARER, None, BOUND)
        check_certificate(Scheme.BEARER, OWN, BOUND)
        check_certificate(Scheme.BEARER, None, WHEN_BOUND)
        check_certificate(Scheme.DPOP, None, BOUND)

    def test_missing(self) -> None:
        """A request without a token is 401 where one is needed."""
        self.expect(Code.TOKEN_MISSING, check_missing, BOUND)
        self.assertIs(TokenVerdict.ABSENT, check_missing(WHEN_BOUND))


class Texts(SynchronousTestCase):
    def test_no_match(self) -> None:
        """A client's value is one short line of ASCII in the log, without secret names (L4)."""
        for value, shown in (
            ("JWT", "typ 'JWT'"),
            (None, "no typ"),
            (["a", 1], "typ ['a', 1]"),
            ("a\nb\u2028\xe9\ud800", r"typ 'a\nb\u2028\xe9\ud800'"),
            ("x" * 64, f"typ '{'x' * 63}..."),
            ("X-Client-Cert-7f3k9q2m8w4z6t1v5y0bxx", "typ '…'"),
        ):
            self.assertEqual(
                f"access token: found {shown}, expected at+jwt (tokens.types)",
                no_match("typ", value, "at+jwt", "types"),
            )
        self.assertEqual("access token: found b 1, expected c", no_match("b", 1, "c"))

    def test_scheme(self) -> None:
        """The challenge has the scheme of the request's token, in any case."""
        response = ErrorResponse(Code.TOKEN_INVALID, "")
        for credentials, scheme in (
            ((b"DPoP a",), "DPoP"),
            ((b"dpop",), "DPoP"),
            ((b"DPOP,a",), "DPoP"),
            ((b"Bearer a",), "Bearer"),
            ((b"dpops a",), "Bearer"),
            ((b"a dpop",), "Bearer"),
            ((), "Bearer"),
        ):
            self.assertEqual(scheme, name_scheme(response, head(*credentials)).scheme)
