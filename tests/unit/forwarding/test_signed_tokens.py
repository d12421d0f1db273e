"""Tests of :mod:`x509proxy.forwarding.signed_tokens`."""

from __future__ import annotations

import hmac
import json
import sys
from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import Any
from unittest.mock import patch

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jwk
from joserfc.jwk import import_key
from twisted.trial.unittest import SynchronousTestCase

from tests.support.certificates import NOON
from tests.support.tokens import AUDIENCE, ISSUER, claims, key, key_set, part, public, raw, signed
from x509proxy.forwarding.bound_tokens import parse_jws
from x509proxy.forwarding.signed_tokens import (
    SigningKey,
    SigningKeys,
    check_claims,
    check_signature,
    parse_key_set,
    read_algorithm,
    require_joserfc,
)
from x509proxy.http1.errors import Code, HttpError
from x509proxy.settings import SettingsError, TokenAlgorithm, TokenLevel, TokenSettings

SETTINGS = TokenSettings(level=TokenLevel.JWT, issuer=ISSUER, audience=(AUDIENCE, "other"))
ES256, RS256 = TokenAlgorithm.ES256, TokenAlgorithm.RS256


def _rsa_of(p: int, q: int) -> rsa.RSAPrivateKey:
    """Make a key of known primes, since large ones take seconds to find."""
    e = 65537
    d = pow(e, -1, (p - 1) * (q - 1))
    parts = rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q)
    numbers = rsa.RSAPrivateNumbers(p, q, d, *parts, rsa.RSAPublicNumbers(e, p * q))
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)


class KeySets(SynchronousTestCase):
    def keys(self, *members: object) -> list[SigningKey]:
        return [*parse_key_set(key_set(*members)).keys]

    def expect_none(self, *members: object) -> None:
        error = self.assertRaises(ValueError, parse_key_set, key_set(*members))
        self.assertIn("found no usable key", str(error))

    def test_kinds(self) -> None:
        """RSA, EC, Ed25519 and Ed448 keys are read, with their ids and algorithms."""
        signers = [key(name) for name in ("RS256", "ES256", "ES384", "ES512", "EdDSA", "Ed448")]
        found = self.keys(*public(*signers, alg="ES256", use="sig", key_ops=["verify"], x5c=["x"]))
        kinds = [
            ("RSA", ""),
            ("EC", "P-256"),
            ("EC", "P-384"),
            ("EC", "P-521"),
            ("OKP", "Ed25519"),
            ("OKP", "Ed448"),
        ]
        self.assertEqual(kinds, [one.kind for one in found])
        self.assertEqual({("one", "ES256")}, {(one.kid, one.algorithm) for one in found})

    def test_others_are_skipped(self) -> None:
        """Keys of other types or uses, and invalid ones, are skipped.

        A valid key beside them is used.
        """
        (good,) = public(key())
        bad: list[object] = [
            None, "x", [], {}, {"kty": "oct", "k": "c2VjcmV0"}, {"kty": ["EC"]},
            {"kty": "AKP", "alg": "ML-DSA-44", "pub": "x"},
            {**good, "use": "enc"}, {**good, "use": ["sig"]}, {**good, "key_ops": ["encrypt"]},
            {**good, "key_ops": "verify"},
            {**good, "kid": 1}, {**good, "alg": {}}, {**good, "x": 1}, {**good, "x": None},
            {**good, "x": "AAAA"}, {**good, "crv": "P-999"},
            {**good, "y": good["x"]}, {"kty": "OKP", "crv": "Ed25519", "x": "AA"},
            {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
            {"kty": "RSA", "n": "!", "e": "AQAB"}, {**good, "crv": ["P-256"]},
        ]  # fmt: skip
        for member in bad:
            self.expect_none(member)
        self.assertEqual(1, len(self.keys(*bad, good)))

    def test_weak(self) -> None:
        """RSA keys below 2048 bits, or with an expensive exponent, are not used."""
        numbers = rsa.generate_private_key(65537, 1024).public_key()
        pem = numbers.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.expect_none(import_key(pem, "RSA").as_dict())
        (good,) = public(key("RS256"))
        self.expect_none({**good, "e": "AQAAAAAB"})

    def test_private(self) -> None:
        """Of a private key that was published, the public part alone is used."""
        (found,) = self.keys(key().as_dict(private=True))
        self.assertFalse(found.key.is_private)
        self.assertNotIn(key().as_dict(private=True)["d"], repr(found))

    def test_lies(self) -> None:
        """A response that is no JWK set is one sentence that repeats nothing of it."""
        for data in (
            b"",
            b"<html>secret",
            b"[]",
            b'"secret"',
            b"{}",
            b'{"keys": {}}',
            b'{"keys": null}',
            b"\xff",
            b"[" * 50000,
            b"{" * 9,
        ):
            error = self.assertRaises(ValueError, parse_key_set, data)
            self.assertRegex(str(error), r"\Afound no (JSON|list of keys), expected a JWK set\Z")
        self.expect_none({"kty": "secret"})
        error = self.assertRaises(ValueError, parse_key_set, key_set(*public(key()) * 65))
        self.assertEqual("found 65 keys, expected 64 or less", str(error))

    def test_find(self) -> None:
        """A key is found by id and algorithm; two keys with one id by what fits."""
        found = parse_key_set(key_set(*public(key(), key("RS256"), key("ES256", "two"))))
        for kid, algorithm, kind in (
            ("one", ES256, "EC"),
            ("one", RS256, "RSA"),
            ("two", ES256, "EC"),
        ):
            one = found.find(kid, algorithm)
            assert one is not None
            self.assertEqual((kid, kind), (one.kid, one.kind[0]))
        for kid in ("three", "", "ONE", "../one", "one' OR '1'='1", "one\0"):
            self.assertIsNone(found.find(kid, ES256))

    def test_no_kid(self) -> None:
        """A token without an id is verified by the only key that fits, if it is the only one."""
        one = parse_key_set(key_set(*public(key(), key("RS256"))))
        self.assertIsNotNone(one.find(None, ES256))
        two = parse_key_set(key_set(*public(key(), key("ES256", "two"))))
        self.assertIsNone(two.find(None, ES256))

    def test_fits(self) -> None:
        """A key verifies the algorithms of its kind and curve, and only its own if it names one."""
        fitting = {
            "RS256": {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}, "ES256": {"ES256"},
            "ES384": {"ES384"},
            "ES512": {"ES512"}, "EdDSA": {"EdDSA", "Ed25519"}, "Ed448": {"EdDSA", "Ed448"},
        }  # fmt: skip
        for name, expected in fitting.items():
            (one,) = self.keys(*public(key(name)))
            self.assertEqual(expected, {found.value for found in TokenAlgorithm if one.fits(found)})
        (one,) = self.keys(*public(key("RS256"), alg="PS256"))
        self.assertEqual(["PS256"], [found.value for found in TokenAlgorithm if one.fits(found)])


class TokenTestCase(SynchronousTestCase):
    def expect(self, code: Code, step: Any, *arguments: Any) -> str:
        error: HttpError = self.assertRaises(HttpError, step, *arguments)
        self.assertIs(code, error.response.code)
        return error.response.detail

    def verify(
        self, token: bytes, keys: SigningKeys | None = None, settings: TokenSettings = SETTINGS
    ) -> None:
        """Every step of a verification but the claims."""
        parsed = parse_jws(token)
        assert parsed is not None
        algorithm, kid = read_algorithm(parsed, settings)
        found = (keys or parse_key_set(key_set())).find(kid, algorithm)
        assert found is not None
        check_signature(token, found, algorithm)


class Signatures(TokenTestCase):
    def test_algorithms(self) -> None:
        """A token of each allowed algorithm is verified."""
        names = ("RS256", "PS256", "ES256", "ES384", "ES512", "EdDSA", "Ed25519", "Ed448")
        settings = TokenSettings(
            level=TokenLevel.JWT,
            issuer=ISSUER,
            audience=("a",),
            algorithms=tuple(map(TokenAlgorithm, names)),
        )
        for name in names:
            keys = parse_key_set(key_set(*public(key(name))))
            self.verify(signed(algorithm=name), keys, settings)
            token = signed(algorithm=name)
            changed = token[:-6] + (b"AAAAAA" if token[-6:] != b"AAAAAA" else b"BBBBBB")
            with self.assertRaises(HttpError):
                self.verify(changed, keys, settings)

    def test_not_allowed(self) -> None:
        """Other algorithms are 401.

        These include shared secrets, and ``none`` in any case.
        """
        for name in ("ES384", "HS256", "HS512", "es256", "RS1", "ES256K", "dir", "", "NoNe "):
            header = part({"alg": name, "typ": "at+jwt"})
            parsed = parse_jws(b".".join((header, part({}), b"AAAA")))
            self.expect(Code.TOKEN_INVALID, read_algorithm, parsed, SETTINGS)

    def test_hmac_with_public_key(self) -> None:
        """A token with an HMAC whose secret is the public key is rejected (CVE-2015-9235)."""
        signer = key("RS256")
        pem = signer.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        for secret in (pem, pem.strip(), json.dumps(public(signer)[0]).encode()):
            begin = b".".join((part({"alg": "HS256", "kid": "one"}), part(claims())))
            mac = urlsafe_b64encode(hmac.digest(secret, begin, sha256)).rstrip(b"=")
            self.expect(
                Code.TOKEN_INVALID,
                self.verify,
                begin + b"." + mac,
                parse_key_set(key_set(*public(signer))),
            )

    def test_keys_in_the_header(self) -> None:
        """A key in a token is never used.

        These are ``jwk``, ``jku``, ``x5u`` and ``x5c`` (CVE-2018-0114).
        """
        own = jwk.generate_key("EC", "P-256", {"kid": "one"})
        for header in ({"jwk": own.as_dict(private=False)}, {"jku": "https://evil.example/jwks"},
                       {"x5u": "https://evil.example/x"}, {"x5c": ["AAAA"]}):  # fmt: skip
            self.expect(Code.TOKEN_INVALID, self.verify, signed(signer=own, **header))
            # With the issuer's signature such a header does no harm.
            self.verify(signed(**header))

    def test_long_header(self) -> None:
        """A header with the issuer's certificates is read: ``max-token-bytes`` is the limit."""
        self.verify(signed(x5c=["A" * 3000]))

    def test_large_key(self) -> None:
        """Signatures by RSA keys of up to 8192 bits are verified."""
        private = _rsa_of(2**4423 - 1, 2**3217 - 1)
        pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        signer = import_key(pem, "RSA", {"kid": "one"})
        begin = b".".join((part({"alg": "RS256", "kid": "one"}), part(claims())))
        signature = raw(private.sign(begin, PKCS1v15(), SHA256()))
        self.assertGreater(len(signature), 1024)
        self.verify(begin + b"." + signature, parse_key_set(key_set(*public(signer))))

    def test_changed(self) -> None:
        """A token with other claims, header or signature than the issuer's is rejected."""
        header, content, signature = signed().split(b".")
        other = part(claims(sub="admin"))
        for token in ((header, other, signature),
        (part({"alg": "ES256", "kid": "one"}), content, signature),
                      (header, content, signed(claims(sub="x")).split(b".")[2]),
                      (header, content, b"AAAA")):  # fmt: skip
            self.expect(Code.TOKEN_INVALID, self.verify, b".".join(token))
        self.verify(b".".join((header, content, signature)))

    def test_further_members(self) -> None:
        """A header may have members that are not registered."""
        self.verify(signed(tenant="a", version=2))

    def test_zero_signature(self) -> None:
        """A signature of zeros is none (CVE-2022-21449)."""
        header, content, _ = signed().split(b".")
        self.expect(Code.TOKEN_INVALID, self.verify, b".".join((header, content, b"A" * 86)))

    def test_kid(self) -> None:
        """A ``kid`` that is no string, or a long one, is rejected; any other is but compared."""
        for kid in (1, ["one"], {"a": 1}, True, "x" * 257):
            parsed = parse_jws(b".".join((part({"alg": "ES256", "kid": kid}), part({}), b"AAAA")))
            self.expect(Code.TOKEN_INVALID, read_algorithm, parsed, SETTINGS)
        for kid in ("../../etc/passwd", "' OR 1=1 --", "\0", "http://evil.example/"):
            parsed = parse_jws(b".".join((part({"alg": "ES256", "kid": kid}), part({}), b"AAAA")))
            assert parsed is not None
            self.assertEqual((ES256, kid), read_algorithm(parsed, SETTINGS))

    def test_typ(self) -> None:
        """A ``typ`` must be that of an access token.

        ID tokens and logout tokens are rejected.
        """
        for typ in ("at+jwt", "AT+JWT", "application/at+jwt", None):
            self.verify(signed(typ=typ))
        for typ in ("JWT", "logout+jwt", "dpop+jwt", "", "at+jwt ", "text/at+jwt"):
            self.expect(Code.TOKEN_INVALID, self.verify, signed(typ=typ))
        parsed = parse_jws(
            b".".join((part({"alg": "ES256", "typ": ["at+jwt"]}), part({}), b"AAAA"))
        )
        self.expect(Code.TOKEN_INVALID, read_algorithm, parsed, SETTINGS)
        more = TokenSettings(
            level=TokenLevel.JWT, issuer=ISSUER, audience=("a",), types=("at+jwt", "JWT")
        )
        self.verify(signed(typ="jwt"), settings=more)

    def test_details(self) -> None:
        """A detail for the log names what was found and expected."""
        for header, detail in (
            ({"typ": "JWT"}, "found typ 'JWT', expected at+jwt (tokens.types)"),
            ({"kid": 1}, "found kid 1, expected a string of 256 characters or less"),
            (
                {"alg": "HS256"},
                "found alg 'HS256', expected RS256, PS256, ES256, EdDSA (tokens.algorithms)",
            ),
        ):
            parsed = parse_jws(b".".join((part({"alg": "ES256", **header}), part({}), b"AAAA")))
            found = self.expect(Code.TOKEN_INVALID, read_algorithm, parsed, SETTINGS)
            self.assertEqual(f"access token: {detail}", found)


class Claims(TokenTestCase):
    def check(
        self, now: float = NOON, settings: TokenSettings = SETTINGS, **changes: object
    ) -> float:
        return check_claims(claims(**changes), settings, now)

    def test_good(self) -> None:
        """A good token ends at its ``exp``."""
        self.assertEqual(NOON + 60, self.check())

    def test_issuer(self) -> None:
        """The issuer is the configured one, as a string, to the last character."""
        for iss in (None, ISSUER + "/", ISSUER.upper(), [ISSUER], {"iss": ISSUER}, 1, ""):
            self.expect(Code.TOKEN_INVALID, lambda value=iss: self.check(iss=value))

    def test_audience(self) -> None:
        """An audience is a string or an array of them, and one of them is configured."""
        for aud in (AUDIENCE, [AUDIENCE], ["x", AUDIENCE], "other", ["other", AUDIENCE]):
            self.check(aud=aud)
        bad: tuple[object, ...] = (
            None, "x", [], ["x"], AUDIENCE + "/", f"{AUDIENCE} x", {AUDIENCE: 1}, [[AUDIENCE]],
            [AUDIENCE, 1],
            [None], 1, True,
        )  # fmt: skip
        for value in bad:
            self.expect(Code.TOKEN_INVALID, lambda found=value: self.check(aud=found))

    def test_details(self) -> None:
        """A detail for the log names what was found and expected."""
        for claim, value, detail in (
            ("iss", "x", "found iss 'x', expected https://as.example (tokens.issuer)"),
            (
                "aud",
                ["x"],
                "found aud ['x'], expected https://api.example, other (tokens.audience)",
            ),
            ("exp", None, "found no exp, expected one"),
            ("exp", "1", "found exp '1', expected a number"),
        ):
            change = {claim: value}
            found = self.expect(Code.TOKEN_INVALID, lambda given=change: self.check(**given))
            self.assertEqual(f"access token: {detail}", found)

    def test_expired(self) -> None:
        """A token is expired from its last second on (RFC 7519 section 4.1.4)."""
        self.check(NOON + 59.999)
        for now in (NOON + 60, NOON + 61, NOON + 1e9):
            found = f"found exp {NOON + 60}, expected a time after {now:.0f} (tokens.clock-skew)"
            self.assertIn(found, self.expect(Code.TOKEN_EXPIRED, self.check, now))

    def test_not_yet(self) -> None:
        """A token is not valid before ``nbf``."""
        self.check(nbf=NOON)
        self.check(nbf=NOON - 1)
        self.expect(Code.TOKEN_EXPIRED, lambda: self.check(nbf=NOON + 1))

    def test_skew(self) -> None:
        """Clocks may differ by as much as is configured, and no more."""
        settings = TokenSettings(
            level=TokenLevel.JWT, issuer=ISSUER, audience=(AUDIENCE,), clock_skew=5.0
        )
        self.assertEqual(NOON + 65, self.check(NOON + 64.9, settings))
        self.expect(Code.TOKEN_EXPIRED, self.check, NOON + 65, settings)
        self.check(NOON, settings, nbf=NOON + 5)
        self.expect(Code.TOKEN_EXPIRED, lambda: self.check(NOON, settings, nbf=NOON + 5.1))

    def test_times(self) -> None:
        """Times are finite numbers; a token without an end is none."""
        self.expect(Code.TOKEN_INVALID, lambda: self.check(exp=None))
        bad: tuple[object, ...] = ("1783944060", True, [NOON + 60], {}, float("inf"), float("nan"))
        for value in bad:
            self.expect(Code.TOKEN_INVALID, lambda found=value: self.check(exp=found))
            self.expect(Code.TOKEN_INVALID, lambda found=value: self.check(nbf=found))
        self.check(exp=10**25)


class Library(SynchronousTestCase):
    def test_missing(self) -> None:
        """Without joserfc the error is one sentence with the command that installs it."""
        require_joserfc("jwt")
        with patch.dict(sys.modules, {"joserfc": None}):
            error = self.assertRaises(SettingsError, require_joserfc, "jwt")
        self.assertEqual(
            "tokens.level: found jwt without joserfc, expected it: pip install joserfc",
            str(error),
        )
