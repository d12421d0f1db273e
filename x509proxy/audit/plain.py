"""Requests without TLS: to an unencrypted port, or to the back end itself."""

from __future__ import annotations

import contextlib
import socket

from x509proxy.audit.client import Address, Ending
from x509proxy.audit.lab import Exchange, Field, Lab, parse_responses
from x509proxy.settings import SettingsError

__all__ = ["open_plain"]


def open_plain(
    lab: Lab, address: Address, template: bytes, field: Field | None = None
) -> Exchange | None:
    """Send a template without TLS; return the exchange, or ``None`` if nothing listens there.

    :raises SettingsError: the address has a name that does not exist, so it shows nothing.
    """
    token = lab.token()
    sent = lab.fill(template, field, token)
    reply = bytearray()
    try:
        server = address.host, address.port
        connection = socket.create_connection(server, lab.pace.response_seconds)
    except (socket.gaierror, UnicodeError):
        raise SettingsError(
            f"{address.host}: found no address of this name, expected one"
        ) from None
    except OSError:
        return None
    with connection, contextlib.suppress(OSError):
        connection.sendall(sent)
        while data := connection.recv(65536):
            reply += data
    responses = parse_responses(bytes(reply), sent)
    arrived = lab.arrivals(token, responses)
    made = Exchange(sent, bytes(reply), responses, arrived, Ending.CLOSED)
    lab.transcript.append(made)
    return made
