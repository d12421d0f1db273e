"""Counters, the access-log format, snapshots, Prometheus and the status page.

Observers receive a frozen :class:`~x509proxy.exchange.Exchange` for each request, after its end,
and counters add it up. A :class:`~.snapshot.Snapshot` copies all state at one moment. Workers send
it through a pipe, and their parent adds theirs up. Prometheus and the status page are rendered from
it.

Clients choose no label, so an attack makes no table grow. All text is redacted (invariant L4).

There is no Twisted and no I/O here. :mod:`x509proxy.service.admin` has the listener.
"""
