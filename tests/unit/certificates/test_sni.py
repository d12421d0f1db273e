"""Tests of :mod:`x509proxy.certificates.sni`."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import attrs
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support import certificates as samples
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.certificates.sni import ServerNames
from x509proxy.settings import SettingsError


@functools.cache
def certificate(*names: str) -> x509.Certificate:
    """One of a server's with these DNS names; its common name is no name of it."""
    return make_self_signed(
        KeyKind.EC, "common.example", names=names or ["192.0.2.1"], server=True
    ).certificate


class Choice(SynchronousTestCase):
    def expect(
        self, certificates: Sequence[Sequence[str]], **places: Sequence[bytes | None]
    ) -> None:
        names = ServerNames.of([certificate(*each) for each in certificates])
        for place, asked in places.items():
            self.assertEqual(
                dict.fromkeys(asked, int(place[-1])),
                {name: names.index_for(name) for name in asked},
            )

    def test_exact(self) -> None:
        """Each name gets its certificate."""
        self.expect(
            [["a.example"], ["b.example", "c.example"], ["d.example"]],
            place_0=[b"a.example"],
            place_1=[b"b.example", b"c.example"],
            place_2=[b"d.example"],
        )

    def test_any_other(self) -> None:
        """An unknown name, an odd one and none at all get the first certificate."""
        odd = [
            b"x.b.example",
            b"b",
            b"",
            b".",
            b"b.example.",
            b"b.example\0",
            b"192.0.2.1",
            b"common.example",
            b"\xff" * 255,
        ]
        self.expect([["a.example"], ["b.example"]], place_0=[None, *odd])
        self.expect([[], ["b.example"]], place_0=[None, *odd])

    def test_case(self) -> None:
        """Upper and lower case make no difference, on either side (RFC 4343)."""
        self.expect(
            [["a.example"], ["B.Example", "*.C.example"]],
            place_1=[b"b.example", b"B.EXAMPLE", b"X.c.Example"],
        )

    def test_wildcard(self) -> None:
        """A wildcard stands for one label, which is not empty, and for the first one only."""
        self.expect(
            [["a.example"], ["*.b.example"], ["c.*.example", "*"]],
            place_1=[b"x.b.example", b"xn--nxasmq6b.b.example"],
            place_0=[
                b"b.example",
                b"x.y.b.example",
                b".b.example",
                b"c.x.example",
                b"z",
                b"z.example",
            ],
        )

    def test_exact_before_wildcard(self) -> None:
        """A name of its own comes before another certificate's wildcard, whichever is the first."""
        for certificates, exact in (
            ([["*.b.example"], ["x.b.example"]], 1),
            ([["x.b.example"], ["*.b.example"]], 0),
        ):
            self.expect(
                certificates,
                **{f"exact_{exact}": [b"x.b.example"], f"wild_{1 - exact}": [b"y.b.example"]},
            )

    @given(st.binary(max_size=300))
    def test_never_raises(self, name: bytes) -> None:
        """Each name gets one of the certificates."""
        self.assertIn(
            ServerNames.of([certificate("a.example"), certificate("*.b.example")]).index_for(name),
            (0, 1),
        )


class Refusals(SynchronousTestCase):
    def refusal(self, *certificates: x509.Certificate) -> str:
        return str(self.assertRaises(SettingsError, ServerNames.of, certificates))

    def test_twice(self) -> None:
        """Two certificates with one name are an error that names both.

        One that has it twice is none.
        """
        sentence = "found the name 'b.example' of {}, expected each name in one certificate"
        first, b, other = (
            certificate("a.example", "b.example"),
            certificate("b.example"),
            certificate("x.example", "B.example"),
        )
        self.assertEqual(
            f"certificates[0].certificate: {sentence.format('certificate')}", self.refusal(first, b)
        )
        third = f"certificates[1].certificate: {sentence.format('certificates[0].certificate')}"
        self.assertEqual(third, self.refusal(certificate("a.example"), b, other))
        ServerNames.of(
            [certificate("a.example"), certificate("b.example", "B.example", "b.example")]
        )

    def test_none(self) -> None:
        """A further certificate without a DNS name is one that no client could get."""
        sentence = (
            "certificates[0].certificate: found no DNS name in it, "
            "expected one or more (subjectAltName)"
        )
        for nameless in (certificate(), samples.certificate()):
            self.assertEqual(sentence, self.refusal(certificate("a.example"), nameless))
            ServerNames.of([nameless, certificate("a.example")])

    def test_unreadable(self) -> None:
        """A certificate with an extension that cannot be read is an error."""
        broken = attrs.evolve(samples.pair(), der=samples.malformed_extension()).certificate
        sentence = "found an extension that cannot be read, expected valid DER"
        self.assertEqual(
            f"certificates[0].certificate: {sentence}",
            self.refusal(certificate("a.example"), broken),
        )
        self.assertEqual(f"certificate: {sentence}", self.refusal(broken, certificate("a.example")))
