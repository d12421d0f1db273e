"""Claims of an access token, passed on to a back end that cannot parse tokens.

Facts
-----
* A header of format ``token-claims`` is one of the header rules. So the sanitizer removes its name
  from every request, in every spelling, with or without a token and a rule (L1).
* The value is base64url of the JSON. It is ASCII without line ends, whatever the claims hold (L2).
* Claims come from a verified token alone, and belong to the client that sent it: the token is bound
  to this connection's certificate, or is a bearer token. The back end verifies the proof of a DPoP
  key (RFC 9449 section 4.3), so the claims of its token are not passed on.
* Claims that are too large are an error response (L3). A back end could take a request without the
  field for one without a token.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Iterator

import attrs

from x509proxy.exchange import TokenVerdict
from x509proxy.forwarding.bound_tokens import rejected
from x509proxy.forwarding.header_rules import HeaderRules
from x509proxy.http1.errors import Code, HttpError
from x509proxy.http1.fields import write_fields
from x509proxy.settings import (
    Format,
    RuleSettings,
    SettingsError,
    TokenLevel,
    TokenRequirement,
    TokenSettings,
)

__all__ = ["CheckedToken", "check_claims_header", "claims_fields"]

_TOKEN_CLAIMS = Format.TOKEN_CLAIMS


@attrs.frozen
class CheckedToken:
    """The result of the check of an access token. ``claims``: JSON that the back end may trust."""

    verdict: TokenVerdict
    claims: bytes = attrs.field(default=b"", repr=False)


def claims_fields(claims: bytes, rules: HeaderRules) -> bytes:
    """Write the fields with a token's claims; none without claims, or without a header for them.

    :raises HttpError: 400, the claims are larger than the header takes.
    """
    return write_fields([*_pairs(claims, rules)]) if claims else b""


def _pairs(claims: bytes, rules: HeaderRules) -> Iterator[tuple[bytes, bytes]]:
    for plan in rules.plans:
        if plan.form is _TOKEN_CLAIMS:
            value = urlsafe_b64encode(claims).rstrip(b"=")
            if len(value) > plan.maximum:
                raise _too_large(len(value), plan.maximum)
            yield plan.name, value


def _too_large(size: int, maximum: int) -> HttpError:
    found = f"their header would have {size} bytes, {maximum} allowed"
    return rejected(
        Code.TOKEN_CLAIMS_TOO_LARGE,
        f"claims header of {size} bytes",
        f"The claims of the access token are too large: {found}",
    )


def check_claims_header(
    headers: HeaderRules, rules: tuple[RuleSettings, ...], tokens: TokenSettings | None
) -> None:
    """Check that a header for claims gets verified ones.

    :raises SettingsError: no rule has a token checked, or its signature is not.
    """
    if all(plan.form is not _TOKEN_CLAIMS for plan in headers.plans):
        return
    if all(rule.token in {None, TokenRequirement.IGNORED} for rule in rules):
        raise SettingsError(
            "rules: found none with token, expected one, since a header has the format token-claims"
        )
    if tokens is not None and tokens.level is TokenLevel.UNVERIFIED:
        raise SettingsError(
            "tokens.level: found unverified beside a header of format token-claims, expected jwt "
            "or introspection: the back end trusts these claims, and anyone can write unverified "
            "ones"
        )
