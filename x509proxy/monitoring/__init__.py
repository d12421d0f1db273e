"""Counters, the access-log format, snapshots, Prometheus and the status page.

Observers receive one frozen :class:`~x509proxy.exchange.Exchange` for each request, after its end.
Counters add it up; a :class:`~.snapshot.Snapshot` copies everything at one moment, can be sent
through a pipe and added to those of other workers, and is what Prometheus and the status page are
rendered from. No label is chosen by a client, so nothing grows with an attack, and no text leaves
without being redacted (invariant L4).

Pure: no Twisted, no I/O. The listener that serves the pages is in :mod:`x509proxy.service.admin`.
"""
