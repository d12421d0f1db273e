"""The probes by group. :data:`PROBES` has all of them, in the order in which they run."""

from __future__ import annotations

from x509proxy.audit.probe import Probe
from x509proxy.audit.probes import forgery, framing, handshakes, hostile, http2, identity

__all__ = ["PROBES"]

PROBES: tuple[Probe, ...] = (
    *identity.PROBES,
    *forgery.PROBES,
    *framing.PROBES,
    *handshakes.PROBES,
    *http2.PROBES,
    *hostile.PROBES,
)
