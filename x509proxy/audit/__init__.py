"""Probes for any TLS terminator whose back end trusts a header with the client's certificate.

``x509proxy audit`` starts a recording back end behind the terminator, sends requests through it,
and compares each request that arrived with the one that was sent. A :class:`~.probe.Probe` is one
promise with its script. :mod:`~.probes` has them by group, and :mod:`~.lab` runs them.

**Independent checks.** This package imports neither the proxy's HTTP parsers nor its sanitizer. The
client writes raw bytes over pyOpenSSL, the recorder parses with h11, and the certificate's formats
have separate parsers here. So an error of the proxy is not repeated by its auditor.
"""
