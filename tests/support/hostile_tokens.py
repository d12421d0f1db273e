"""Hostile requests with access tokens, sent through a whole proxy in memory, and their table.

``python -m tests.support.hostile_tokens`` prints the table of ``docs/protect-an-api.rst``.
"""

from __future__ import annotations

import hmac
import json
import sys
import time
from base64 import b64encode, urlsafe_b64decode
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc import jwk
from twisted.internet.task import Clock

from tests.support.certificates import certificate
from tests.support.memory import Proxy
from tests.support.tokens import (
    AUDIENCE,
    ISSUER,
    OTHER,
    OWN,
    SIGNATURE,
    bound,
    claims,
    key,
    key_set,
    part,
    public,
    raw,
    request,
    signed,
)
from x509proxy.authorization.token_check import TokenCheck
from x509proxy.config.token_files import TokenFiles
from x509proxy.settings import (
    PolicySettings,
    RuleSettings,
    TokenLevel,
    TokenRequirement,
    TokenSettings,
    Validity,
)

__all__ = ["LEVELS", "Case", "cases", "table"]

LEVELS = (TokenLevel.UNVERIFIED, TokenLevel.JWT)
_OWN = {"x5t#S256": OWN.thumbprint}
_KEYS = public(key(), key("RS256", "rsa"))
_GOOD_HEADER: dict[str, object] = {"alg": "ES256", "typ": "at+jwt", "kid": "one"}


@attrs.frozen
class Case:
    """One request; its client has the certificate OWN, or none.

    ``fields``: its header fields; ``changes``: to the settings of ``[tokens]``.
    """

    name: str
    fields: tuple[bytes, ...]
    target: bytes = b"/api"
    has_certificate: bool = True
    changes: Mapping[str, Any] = attrs.field(factory=dict)

    def result(self, level: TokenLevel) -> str:
        """Send the request to a proxy with the rule ``bound``; return "passes", or the error."""
        proxy = self._proxy(level)
        shown = certificate() if self.has_certificate else None
        sent = request(None, self.target, *self.fields)
        # Each request is sent twice: the second one uses the cached result of the first.
        clients = [proxy.tls_client(shown, sent) for _ in range(2)]
        if proxy.back_end.attempts:
            assert len(proxy.back_end.attempts) == len(clients)
            return "passes"
        codes = {exchange.code for exchange in proxy.exchanges}
        (status,) = {client.sent()[9:12].decode() for client in clients}
        (code,) = codes
        assert code is not None
        return f"{status} ``{code.label}``"

    def _proxy(self, level: TokenLevel) -> Proxy:
        more: dict[str, Any] = {"issuer": ISSUER, "audience": (AUDIENCE,), "jwks_file": "keys"}
        settings = TokenSettings(level=level, **{**more, **self.changes})
        rules = (RuleSettings(path="/api", token=TokenRequirement.BOUND),)
        return Proxy(
            policy=PolicySettings(rules=rules, validity=Validity.IGNORE),
            tokens=TokenCheck.from_files(TokenFiles(settings, key_set(*_KEYS)), Clock()),
        )


def _bearer(token: bytes, scheme: bytes = b"Bearer") -> tuple[bytes, ...]:
    return (b"Authorization: " + scheme + b" " + token,)


def _claims(**changes: object) -> dict[str, Any]:
    return claims(**{"exp": int(time.time()) + 3600, **changes})


def _good(**changes: object) -> bytes:
    return signed(_claims(**changes))


def _header(**members: object) -> bytes:
    """Make a good token with other members in its header."""
    return _written({**_GOOD_HEADER, **members}, _claims())


def _assembled(header: object, content: object, signature: bytes = SIGNATURE) -> bytes:
    segments = [one if isinstance(one, bytes) else part(one) for one in (header, content)]
    return b".".join((*segments, signature))


def _written(header: object, content: object, signer: Any = None) -> bytes:
    """Sign a token that no library would sign; other values than ``bytes`` are written as JSON."""
    segments = [raw(one) if isinstance(one, bytes) else part(one) for one in (header, content)]
    text = b".".join(segments)
    signature = (signer or key()).private_key.sign(text, ECDSA(SHA256()))
    numbers = [number.to_bytes(32, "big") for number in decode_dss_signature(signature)]
    return text + b"." + raw(b"".join(numbers))


def _text(text: str) -> tuple[bytes, ...]:
    """Make a token with claims that no encoder writes."""
    return _bearer(_written(_GOOD_HEADER, text.encode()))


def _hmac_with_public_key() -> bytes:
    """Make the token of CVE-2015-9235: the RSA public key's PEM is the secret of an HMAC."""
    secret = key("RS256", "rsa").as_pem(private=False)
    text = part({"alg": "HS256", "typ": "at+jwt", "kid": "rsa"}) + b"." + part(_claims())
    return text + b"." + raw(hmac.digest(secret, text, "sha256"))


def cases() -> Iterator[Case]:
    """Yield each case, with times that are valid now."""
    yield Case("a good token (for comparison)", _bearer(_good()))
    yield Case("the scheme in lower case", _bearer(_good(), b"bearer"))
    yield from _bindings()
    yield from _signatures()
    yield from _contents()
    yield from _spellings()
    yield from _places()


def _bindings() -> Iterator[Case]:
    others = {"x5t#S256": OTHER.thumbprint}
    digest = urlsafe_b64decode(OWN.thumbprint + "=")
    yield Case("another client's token, with a valid certificate", _bearer(_good(cnf=others)))
    yield Case("its own token, without a certificate", _bearer(_good()), has_certificate=False)
    yield Case("an unbound token", _bearer(_good(cnf=None)))
    for name, found in (
        ("hexadecimal", digest.hex()),
        ("base64 with padding", f"{OWN.thumbprint}="),
        ("base64 with ``+`` and ``/``", b64encode(digest).decode().rstrip("=") + "/"),
        ("in an array", [OWN.thumbprint]),
        ("empty", ""),
    ):
        yield Case(f"a thumbprint, {name}", _bearer(_good(cnf={"x5t#S256": found})))
    yield Case("``cnf`` that is no object", _bearer(_good(cnf=OWN.thumbprint)))
    yield Case("a DPoP key's token, sent as ``Bearer``", _bearer(_good(cnf={"jkt": "a"})))
    yield Case("a DPoP key's token, sent as ``DPoP``", _bearer(_good(cnf={"jkt": "a"}), b"DPoP"))
    both = {"jkt": "a", **others}
    yield Case("both bindings, another certificate's", _bearer(_good(cnf=both), b"DPoP"))


def _signatures() -> Iterator[Case]:
    stranger = jwk.generate_key("EC", "P-256", {"kid": "one"})
    for name in ("none", "nOnE"):
        header = {**_GOOD_HEADER, "alg": name}
        yield Case(f"``alg`` ``{name}``", _bearer(_assembled(header, _claims())))
        yield Case(f"``alg`` ``{name}``, no signature", _bearer(_assembled(header, _claims(), b"")))
    yield Case("HS256, the secret is the RSA public key", _bearer(_hmac_with_public_key()))
    yield Case(
        "an algorithm that is not allowed", _bearer(signed(_claims(), key("ES384"), "ES384"))
    )
    yield Case("a signature of zeros", _bearer(_assembled(_GOOD_HEADER, _claims(), raw(bytes(64)))))
    yield Case("another key under a known ``kid``", _bearer(signed(_claims(), stranger)))
    inside = public(stranger)[0]
    for name, member in (
        ("jwk", inside),
        ("jku", "https://evil.example/keys"),
        ("x5u", "https://evil.example/x"),
        ("x5c", ["MIIB"]),
    ):
        token = _written({**_GOOD_HEADER, name: member}, _claims(), stranger)
        yield Case(f"its own key, in ``{name}``", _bearer(token))
    for name, kid in (
        ("a path", "../../../dev/null"),
        ("SQL", "x' UNION SELECT 'k"),
        ("unknown", "two"),
        ("no string", ["one"]),
        ("of 300 characters", "a" * 300),
    ):
        yield Case(f"``kid``, {name}", _bearer(_header(kid=kid)))
    whole, other = _good().split(b"."), _good(sub="admin").split(b".")
    yield Case(
        "claims of one token, signature of another", _bearer(b".".join((*other[:2], whole[2])))
    )
    yield Case("``crit``", _bearer(_header(crit=["exp"])))
    yield Case("``typ`` of an ID token", _bearer(_header(typ="JWT")))


def _contents() -> Iterator[Case]:
    now = int(time.time())
    yield Case("another issuer", _bearer(_good(iss="https://evil.example")))
    for name, audience in (
        ("in an array, among others (for comparison)", ["x", AUDIENCE]),
        ("of another API", "https://other.example"),
        ("an array without this API", ["x", "y"]),
        ("a number in the array", [AUDIENCE, 1]),
        ("absent", None),
    ):
        yield Case(f"``aud``, {name}", _bearer(_good(aud=audience)))
    yield Case("expired a second ago", _bearer(_good(exp=now - 1)))
    yield Case(
        "expired a second ago, ``clock-skew`` 600 (for comparison)",
        _bearer(_good(exp=now - 1)),
        changes={"clock_skew": 600.0},
    )
    yield Case("``exp`` absent", _bearer(_good(exp=None)))
    yield Case("``exp`` in a string", _bearer(_good(exp=str(now + 60))))
    yield Case("``nbf`` in an hour", _bearer(_good(nbf=now + 3600)))
    text = json.dumps(_claims())[:-1]
    yield Case("a claim twice", _text(text + ', "sub": "admin"}'))
    yield Case("``cnf`` twice", _text(f'{text}, "cnf": {json.dumps(_OWN)}}}'))
    yield Case("an infinite number", _text(text + ', "x": Infinity}'))
    yield Case("a number of 5,000 digits", _text(f'{text}, "x": {"9" * 5000}}}'))
    deep = '{"a":' * 500 + "1" + "}" * 500
    yield Case("claims 500 levels deep", _text(f'{text}, "x": {deep}}}'))
    yield Case(
        "a token of 4,097 bytes, ``max-token-bytes`` 4096",
        _bearer(b"a" * 4097),
        changes={"max_token_bytes": 4096},
    )


def _spellings() -> Iterator[Case]:
    header, content, signature = _good().split(b".")
    for name, segments in (
        ("base64url with padding", (header + b"=", content, signature)),
        (
            "base64url with ``/`` for ``_``",
            (header, part({**_claims(), "x": "???"}).replace(b"_", b"/"), signature),
        ),
        (
            "base64url with stray bits at its end",
            (header, raw(b'{"a":1234}')[:-1] + b"R", signature),
        ),
        ("a fourth segment", (header, content, signature, b"YQ")),
        ("two segments", (header, content)),
        ("a header in UTF-16", (raw('{"alg":"ES256"}'.encode("utf-16")), content, signature)),
        (
            "a header with a byte order mark",
            (raw(b"\xef\xbb\xbf" + urlsafe_b64decode(header + b"==")), content, signature),
        ),
    ):
        yield Case(name, _bearer(b".".join(segments)))
    yield Case(
        "an encrypted token (JWE)",
        _bearer(b".".join((part({"alg": "dir", "enc": "A128GCM"}), b"", b"YQ", b"YQ", b"YQ"))),
    )
    yield Case("an opaque token", _bearer(b"2YotnFZFEjr1zCsicMWpAA"))


def _places() -> Iterator[Case]:
    good = _good()
    yield Case("no token", ())
    yield Case("two ``Authorization`` fields", _bearer(good) + _bearer(bound(OTHER.thumbprint)))
    yield Case("two tokens in one field", _bearer(good + b", Bearer " + good))
    yield Case("a tab after ``Bearer``", (b"Authorization: Bearer\t" + good,))
    yield Case("``Bearer`` without a token", (b"Authorization: Bearer",))
    yield Case("in the query", (), b"/api?access_token=" + good)
    yield Case("in the query beside the field", _bearer(good), b"/api?access%5Ftoken=x")
    yield Case("under another scheme", _bearer(good, b"Token"))
    yield Case("without a scheme", (b"Authorization: " + good,))
    yield Case("under ``Basic``, in base64", (b"Authorization: Basic " + b64encode(b"a:" + good),))


def table() -> str:
    """Return the table: each request with its result at each level."""
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: 50 25 25", ""]
    rows = [("token", *(f"``{level.value}``" for level in LEVELS))]
    rows += [(case.name, *map(case.result, LEVELS)) for case in cases()]
    for first, *others in rows:
        lines += [f"   * - {first}", *(f"     - {other}" for other in others)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table())
