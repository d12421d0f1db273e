"""Probes for any TLS terminator whose back end trusts a header with the client's certificate.

``x509proxy audit`` starts a recording back end behind the terminator, sends requests through it,
and compares each request that arrived with the one that was sent. A :class:`~.probe.Probe` is one
promise with its script; :mod:`~.probes` holds them by group, and :mod:`~.lab` runs them.

``x509proxy export`` writes a configuration for another product from the same TOML; it is in
:mod:`~.export`.

**An independent judge.** This package imports neither the proxy's HTTP parsers nor its sanitizer.
The client writes raw bytes over pyOpenSSL, the recorder reads with h11, and the certificate's
formats are decoded here again. An error of the proxy is therefore not repeated by its auditor.
"""
