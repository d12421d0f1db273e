"""HTTP authentication schemes that authenticate a connection instead of a request.

Facts
-----
* NTLM and Negotiate authenticate the connection they arrive on (RFC 4559 section 6, [MS-N2HT]). IIS and
  Kestrel serve what follows on it as the same user, without credentials; a pool would lend it to others.
* A request with such credentials may succeed at once: no challenge announces that the connection is bound.
* Windows has more of them: Kerberos, CredSSP, Nego2. So the schemes known to be safe are listed, not the others:
  those of IANA's registry but Negotiate, and those of well-known products that sign or name each request.
* A challenge is a list whose members have parameters and blanks. It is not parsed: a word anywhere in it counts.
"""

from __future__ import annotations

from x509proxy.http1.fields import Pairs

__all__ = ["binds_connection", "tells_of_binding"]

_PER_REQUEST = frozenset(
    {
        b"apikey", b"aws4-hmac-sha256", b"basic", b"bearer", b"concealed", b"digest", b"dpop", b"gnap", b"hawk", b"hoba",
        b"mutual", b"oauth", b"privatetoken", b"scram-sha-1", b"scram-sha-256", b"token", b"vapid",
    }
)  # fmt: skip
_CHALLENGES = frozenset(
    {
        b"www-authenticate",
        b"proxy-authenticate",
        b"authentication-info",
        b"proxy-authentication-info",
    }
)
# IIS says by the first that the connection is authenticated, and by the second what a proxy must be able to do.
_BINDING_FIELDS = frozenset({b"persistent-auth", b"proxy-support"})
_BINDING_WORDS = (b"ntlm", b"nego", b"kerberos", b"credssp", b"gss")
# Most responses have no field of these lengths, and a length costs less than a lower-case copy of the name.
_LENGTHS = frozenset(map(len, _CHALLENGES | _BINDING_FIELDS))


def binds_connection(credentials: bytes | None) -> bool:
    """Decide whether an ``Authorization`` field's value may authenticate the connection it is sent on."""
    return credentials is not None and credentials.split(b" ", 1)[0].lower() not in _PER_REQUEST


def tells_of_binding(pairs: Pairs) -> bool:
    """Decide whether a response's fields ask for such credentials, or report that they have been accepted."""
    return any(
        _tells_of_binding(name.lower(), value) for name, value in pairs if len(name) in _LENGTHS
    )


def _tells_of_binding(name: bytes, value: bytes) -> bool:
    if name in _BINDING_FIELDS:
        return True
    lower = value.lower()
    return name in _CHALLENGES and any(word in lower for word in _BINDING_WORDS)
