"""Tests of :mod:`x509proxy.forwarding.claim_headers`."""

from __future__ import annotations

from itertools import chain

from twisted.trial.unittest import SynchronousTestCase

from x509proxy.forwarding.claim_headers import (
    CERTIFICATE_CLAIMS,
    HOP_CLAIMS,
    WRITTEN_BY_THE_PROXY,
    is_claim,
)


class KnownClaims(SynchronousTestCase):
    def test_names(self) -> None:
        """Each entry is the name of a header field (RFC 9110 section 5.1), and stands once."""
        names = [*CERTIFICATE_CLAIMS, *HOP_CLAIMS, *WRITTEN_BY_THE_PROXY]
        for name in names:
            self.assertRegex(name, rb"\A[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
        lower = [name.lower() for name in names]
        self.assertEqual([], sorted({name for name in lower if lower.count(name) > 1}))

    def test_own_fields(self) -> None:
        """The well-known headers of the presets' products are among them."""
        known = set(chain(CERTIFICATE_CLAIMS))
        for name in (b"Client-Cert", b"X-Forwarded-Client-Cert", b"Sec-Client-X509-Cert"):
            self.assertIn(name, known)

    def test_families(self) -> None:
        """So are fields of the same products whose names are not in the lists."""
        for name in (
            b"OIDC-Claim-Preferred-Username",
            b"X-Forwarded-Script-Name",
            b"X-ProxyContextPathPrefix",
            b"X-Pomerium-Claim-Groups",
            b"X-MS-Token-Facebook-Access-Token",
            b"Shib-Authentication-Instant",
            b"X-Amzn-Request-Context-Userinfo",
        ):
            self.assertTrue(is_claim(name), name)

    def test_absent_on_purpose(self) -> None:
        """Fields that clients have reason to send are not among them."""
        for name in (
            b"TPP-Signature-Certificate",
            b"PSU-IP-Address",
            b"X-FAPI-Customer-IP-Address",
            b"X-FAPI-Interaction-Id",
            b"X-Auth-User",
            b"X-User-Agent",
            b"X-Proxy-Cache-Control",
            b"X-HTTP-Method-Override",
            b"Ship-To",
            b"X-JWT",
        ):
            self.assertFalse(is_claim(name), name)

    def test_spellings(self) -> None:
        """Each name is a claim, whatever stands between its letters."""
        for name in (*CERTIFICATE_CLAIMS, *HOP_CLAIMS, *WRITTEN_BY_THE_PROXY):
            for spelled in (name, name.swapcase(), name.replace(b"-", b"_")):
                self.assertTrue(is_claim(spelled), spelled)
            self.assertTrue(is_claim(name.replace(b"-", b"")), name)
