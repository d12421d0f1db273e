"""HTTP authentication schemes that authenticate a connection instead of a request.

Facts
-----
* NTLM and Negotiate authenticate the connection that they arrive on (RFC 4559 section 6, MS-N2HT).
  IIS and Kestrel serve later requests on it as the same user, without credentials. A pool would
  lend that connection to other clients.
* A request with such credentials may succeed at once: no challenge shows that the connection is
  bound. So the request decides, and its response only adds to that.
* Windows has more of these schemes: Kerberos, CredSSP, Nego2. So the list below has the schemes
  that are safe: IANA's registry without Negotiate, and schemes of products that sign each request.
* A challenge is a list whose members have parameters and blanks. It is not parsed: a word anywhere
  in it counts.
"""

from __future__ import annotations

from x509proxy.http1.fields import Pairs

__all__ = ["BINDING_NAMES", "announces_binding", "binds_connection"]

_PER_REQUEST = frozenset(
    {
        b"apikey", b"aws4-hmac-sha256", b"basic", b"bearer", b"concealed", b"digest", b"dpop",
        b"gnap", b"hawk", b"hoba", b"mutual", b"oauth", b"privatetoken", b"scram-sha-1",
        b"scram-sha-256", b"token", b"vapid",
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
# IIS reports by the first that a connection is authenticated; the second is RFC 4559 section 6.
_BINDING_FIELDS = frozenset({b"persistent-auth", b"proxy-support"})
_BINDING_WORDS = (b"ntlm", b"nego", b"kerberos", b"credssp", b"gss")
BINDING_NAMES = _CHALLENGES | _BINDING_FIELDS
"""The names, in lower case, of all fields that :func:`announces_binding` reads."""


def binds_connection(credentials: bytes) -> bool:
    """Decide whether the value of an ``Authorization`` field may authenticate its connection."""
    return credentials.split(b" ", 1)[0].lower() not in _PER_REQUEST


def announces_binding(pairs: Pairs) -> bool:
    """Decide whether a response requests those credentials, or reports that they are accepted."""
    return any(_announces_binding(name.lower(), value) for name, value in pairs)


def _announces_binding(name: bytes, value: bytes) -> bool:
    if name in _BINDING_FIELDS:
        return True
    lower = value.lower()
    return name in _CHALLENGES and any(word in lower for word in _BINDING_WORDS)
