"""Tests of :mod:`x509proxy.forwarding.known_claims`."""

from __future__ import annotations

from itertools import chain

from twisted.trial.unittest import SynchronousTestCase

from x509proxy.forwarding.known_claims import CERTIFICATE_CLAIMS, HOP_CLAIMS, WRITTEN_BY_THE_PROXY


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

    def test_absent_on_purpose(self) -> None:
        """Fields that clients have reason to send are not among them."""
        names = {name.lower() for name in (*CERTIFICATE_CLAIMS, *HOP_CLAIMS)}
        for name in (
            b"tpp-signature-certificate",
            b"psu-ip-address",
            b"x-fapi-customer-ip-address",
        ):
            self.assertNotIn(name, names)
