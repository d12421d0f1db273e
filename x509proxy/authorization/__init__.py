"""The check of access tokens before a request goes on (RFC 8705 section 3).

It is made where a rule has ``token``. :class:`~.token_check.TokenCheck` takes the token from the
head, has a verifier read it, and compares the certificate that the token is bound to with the one
of this connection. That comparison is made for every request; only the token's contents are cached.

``[tokens] level`` chooses the verifier. ``unverified`` reads ``cnf`` and leaves the signature to
the back end, ``jwt`` verifies it with the issuer's keys, and ``introspection`` has the
authorization server verify the token. The parsing and the comparison are pure
(:mod:`x509proxy.forwarding.bound_tokens`).
"""
