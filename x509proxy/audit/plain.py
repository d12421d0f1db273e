"""Requests without TLS: to an unencrypted port, or to the back end itself."""

from __future__ import annotations

import contextlib
import socket

from x509proxy.audit.client import Address, Ending
from x509proxy.audit.lab import Exchange, Field, Lab, parse_responses

__all__ = ["open_plain"]


def open_plain(
    lab: Lab, address: Address, template: bytes, field: Field | None = None
) -> Exchange | None:
    """Send a template without TLS; return the exchange, or ``None`` if nothing listens there."""
    token = lab.token()
    sent = lab.fill(template, field, token)
    reply = bytearray()
    try:
        server = address.host, address.port
        with socket.create_connection(server, lab.pace.response_seconds) as connection:
            connection.sendall(sent)
            with contextlib.suppress(TimeoutError, ConnectionError):
                while data := connection.recv(65536):
                    reply += data
    except OSError:
        return None
    responses = parse_responses(bytes(reply), sent)
    arrived = lab.arrivals(token, responses)
    made = Exchange(sent, bytes(reply), responses, arrived, Ending.CLOSED)
    lab.transcript.append(made)
    return made
