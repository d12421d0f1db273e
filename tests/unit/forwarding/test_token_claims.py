"""Tests of :mod:`x509proxy.forwarding.token_claims`."""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from x509proxy.exchange import TokenVerdict
from x509proxy.forwarding.header_rules import HeaderRules
from x509proxy.forwarding.presets import HeaderPlan, find_preset
from x509proxy.forwarding.token_claims import CheckedToken, check_claims_header, claims_fields
from x509proxy.http1.errors import Code, HttpError
from x509proxy.settings import (
    CertificateRequirement,
    Format,
    RuleSettings,
    SettingsError,
    TokenLevel,
    TokenRequirement,
    TokenSettings,
)

NAME = b"X-Token-Claims"
CERTIFICATE = HeaderPlan(Format.PEM, b"X-Cert")


def rules(maximum: int = 8192, *names: bytes) -> HeaderRules:
    plans = [HeaderPlan(Format.TOKEN_CLAIMS, name, maximum=maximum) for name in names or (NAME,)]
    return HeaderRules((CERTIFICATE, *plans))


RULES = rules()
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda members: st.lists(members) | st.dictionaries(st.text(), members),
    max_leaves=20,
)


class Fields(SynchronousTestCase):
    def test_value(self) -> None:
        """The value is base64url of the JSON, without padding."""
        self.assertEqual(
            b"X-Token-Claims: eyJhIjoiPz8_In0\r\n", claims_fields(b'{"a":"???"}', RULES)
        )

    def test_none(self) -> None:
        """Without claims there is no field; and none without a header for them."""
        self.assertEqual(b"", claims_fields(b"", RULES))
        self.assertEqual(b"", claims_fields(b"{}", HeaderRules((CERTIFICATE,))))

    def test_several(self) -> None:
        """While a name changes, both have the claims."""
        found = claims_fields(b"{}", rules(8192, b"X-Old", b"X-New"))
        self.assertEqual(b"X-Old: e30\r\nX-New: e30\r\n", found)

    @given(st.dictionaries(st.text(), _JSON), st.booleans())
    def test_any(self, claims: dict[str, object], is_ascii: bool) -> None:
        """Control characters, line ends and all of Unicode are one line of ASCII."""
        text = json.dumps(claims, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
        line = claims_fields(text, rules(1 << 20))
        found = re.fullmatch(rb"X-Token-Claims: ([A-Za-z0-9_-]+)\r\n", line)
        assert found is not None
        self.assertEqual(text, urlsafe_b64decode(found[1] + b"=="))

    def test_size(self) -> None:
        """A value of the largest size goes on; one octet more is 400, never cut or left out."""
        text = b'{"a":"' + b"b" * 292 + b'"}'
        self.assertEqual(NAME + b": ", claims_fields(text, rules(400))[:16])
        for maximum in (399, 1, 0):
            with self.assertRaises(HttpError) as raised:
                claims_fields(text, rules(maximum))
            response = raised.exception.response
            self.assertIs(Code.TOKEN_CLAIMS_TOO_LARGE, response.code)
            self.assertIn(f"400 bytes, {maximum} allowed", response.description)

    def test_one_of_several(self) -> None:
        """The smallest limit decides: there is no request with some of the fields."""
        plans = [
            HeaderPlan(Format.TOKEN_CLAIMS, name, maximum=size)
            for name, size in ((b"A", 99), (b"B", 2))
        ]
        self.assertRaises(HttpError, claims_fields, b"{}", HeaderRules(tuple(plans)))

    def test_repr(self) -> None:
        """Claims are personal: they are in no text of an object."""
        self.assertNotIn("alice", repr(CheckedToken(TokenVerdict.BOUND, b"alice")))


class Settings(SynchronousTestCase):
    """A header for claims is allowed where something verifies them."""

    def refused(
        self, level: TokenLevel | None, *found: RuleSettings, headers: HeaderRules = RULES
    ) -> str:
        more = {
            "issuer": "https://as.example",
            "audience": ("a",),
            "client_id": "a",
            "certificate": "a",
        }
        tokens = None if level is None else TokenSettings(level=level, **more)  # type: ignore[arg-type]
        try:
            check_claims_header(headers, found, tokens)
        except SettingsError as error:
            return str(error)
        return ""

    def test_levels(self) -> None:
        """Verified claims may be passed on; unverified ones are a mistake, in one sentence."""
        rule = RuleSettings(token=TokenRequirement.WHEN_BOUND)
        for level in (TokenLevel.JWT, TokenLevel.INTROSPECTION):
            self.assertEqual("", self.refused(level, rule))
        self.assertEqual(
            "tokens.level: found unverified beside a header of format token-claims, expected jwt "
            "or introspection: the back end trusts these claims, and anyone can write unverified "
            "ones",
            self.refused(TokenLevel.UNVERIFIED, rule),
        )

    def test_no_rule(self) -> None:
        """Where no token is checked there are no claims."""
        sentence = (
            "rules: found none with token, expected one, since a header has the format token-claims"
        )
        for found in (
            (),
            (RuleSettings(token=TokenRequirement.IGNORED),),
            (RuleSettings(client_certificate=CertificateRequirement.REQUIRED),),
        ):
            self.assertEqual(sentence, self.refused(TokenLevel.JWT, *found))
        self.assertEqual(sentence, self.refused(None))

    def test_no_table(self) -> None:
        """A missing table is another check's; without the header every level is allowed."""
        rule = RuleSettings(token=TokenRequirement.BOUND)
        self.assertEqual("", self.refused(None, rule))
        others = HeaderRules((CERTIFICATE,))
        self.assertEqual("", self.refused(TokenLevel.UNVERIFIED, rule, headers=others))

    def test_preset(self) -> None:
        """The preset has one header, under a customary name or the administrator's."""
        preset = find_preset("token-claims")
        self.assertEqual(
            b"X-Token-Claims: e30\r\n", claims_fields(b"{}", HeaderRules.for_preset(preset))
        )
        named = HeaderRules.for_preset(preset, b"X-Secret")
        self.assertEqual(b"X-Secret: e30\r\n", claims_fields(b"{}", named))
