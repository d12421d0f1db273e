"""The layer between the socket and HTTP: TLS, the PROXY protocol, deadlines and direct writes.

TLS is pyOpenSSL over memory BIOs, with a layer in place of Twisted's own. It does not judge the
certificate (invariant L5), resumes no session (L6), and limits the memory of each connection and
its share of a turn of the reactor (L7).

:mod:`~.peer` turns a transport into a frozen :class:`~x509proxy.forwarding.client.Client`.
"""
