"""Requests as the back end of an audited terminator records them."""

from __future__ import annotations

import json

from x509proxy.audit.recorder import Arrival, Reply


def arrival(*pairs: tuple[bytes, bytes]) -> Arrival:
    """Return a request with these fields."""
    return Arrival(b"GET", b"/", pairs)


def echo(arrival: Arrival) -> Reply:
    """Respond as ``x509proxy echo`` does."""
    pairs = [[name.decode(), value.decode()] for name, value in arrival.pairs]
    document = {"method": arrival.method.decode(), "target": "/", "headers": pairs}
    body = json.dumps(document).encode()
    return Reply(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body), close=True)
