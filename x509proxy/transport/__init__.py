"""Between the socket and HTTP: TLS, the PROXY protocol, deadlines and direct writes.

TLS is pyOpenSSL over memory BIOs, with a layer of our own in place of Twisted's, because the
handshake must not judge the certificate (invariant L5), no session may be resumed (L6), and each
connection's share of a turn of the reactor and of memory is bounded (L7). :mod:`~.peer` turns a
transport into a frozen :class:`~x509proxy.forwarding.client.Client`; above it nobody sees an
OpenSSL object.
"""
