"""X.509 as values: client certificates, PEM files, trust stores and server names.

Everything about a certificate is decided from its DER, once, when the handshake is over. What
leaves this package is frozen: a :class:`~.client_certificate.ClientCertificate` with its verdict,
its flags and its thumbprint, an identity of the server's own, a store of trusted authorities and
revocation lists. Nothing here does I/O except :mod:`~.config_files`, which reads the files that the
configuration names, and nothing here uses HTTP or Twisted.

A certificate is never accepted or rejected here (invariant L5). The package reports what OpenSSL
objected to and what it found itself; :mod:`x509proxy.forwarding` decides what follows from it.
"""
