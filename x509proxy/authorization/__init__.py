"""The check of access tokens before a request goes on (RFC 8705 section 3).

A rule's ``token`` says where. :class:`~.token_check.TokenCheck` takes the token from the head, has
a verifier read it, and compares the certificate that the token is bound to with the one of this
connection. That comparison is made for every request; only the token's contents are remembered.

``[tokens] level`` chooses the verifier: ``unverified`` reads ``cnf`` and leaves the signature to
the back end. The parsing and the comparison are pure (:mod:`x509proxy.forwarding.bound_tokens`).
"""
