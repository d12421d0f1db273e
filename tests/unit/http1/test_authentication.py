"""Tests of :mod:`x509proxy.http1.authentication`.

They are about credentials and challenges that may bind a connection.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from x509proxy.http1.authentication import announces_binding, binds_connection


class Credentials(SynchronousTestCase):
    """Schemes that are known to be per request bind nothing; every other one may."""

    def test_per_request(self) -> None:
        for value in (b"Basic YTpi", b"BEARER abc", b"DPoP abc", b'OAuth realm="a"', b"digest"):
            self.assertFalse(binds_connection(value), value)

    def test_any_other(self) -> None:
        for value in (
            b"", b"NTLM TlRM", b"negotiate YIIZ", b"Kerberos", b"CredSSP a", b"Bearer\tabc",
            b" Basic a", b"Basic, NTLM a",
            b"eyJhbGciOi.J9", b"Basically a",
        ):  # fmt: skip
            self.assertTrue(binds_connection(value), value)


class Challenges(SynchronousTestCase):
    """A word in any challenge counts, wherever it stands; in other fields it does not."""

    def expect(self, name: bytes, value: bytes, *, told: bool) -> None:
        self.assertEqual(told, announces_binding([(b"Date", b"x"), (name, value)]), (name, value))

    def test_words(self) -> None:
        for name in (b"WWW-Authenticate", b"proxy-authenticate", b"Authentication-INFO"):
            for value in (
                b"NTLM",
                b"a, nEgOtIaTe",
                b"Kerberos x",
                b'Basic realm="ntlm"',
                b"CredSSP",
            ):
                self.expect(name, value, told=True)
            for value in (b"", b'Bearer realm="a"', b'Basic realm="a", Digest nonce="b"'):
                self.expect(name, value, told=False)

    def test_fields(self) -> None:
        self.expect(b"Persistent-Auth", b"", told=True)
        self.expect(b"proxy-support", b"Session-Based-Authentication", told=True)
        # Of the same length as fields that count.
        self.expect(b"Permanent-Authx", b"NTLM", told=False)
        self.expect(b"X-Something-Else", b"NTLM", told=False)
