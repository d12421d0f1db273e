"""Token requests of the tests, by hand: forms, answers, and the confirmation claim."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode

import attrs

__all__ = ["Answer", "confirmation", "credentials", "exchange"]

_FORM = "application/x-www-form-urlencoded"


@attrs.frozen
class Answer:
    """Status, JSON (or text) and ``WWW-Authenticate`` of a response."""

    status: int
    body: Any
    challenge: str


def credentials(name: str, **more: str) -> dict[str, str]:
    """Return the form of a client that requests a token of its own."""
    return {"grant_type": "client_credentials", "client_id": name, **more}


def exchange(
    connection: HTTPConnection,
    method: str,
    path: str,
    form: Mapping[str, str] | None = None,
    fields: Mapping[str, str] | None = None,
) -> Answer:
    """Send one request, and close the connection."""
    body = None if form is None else urlencode(form)
    head = {"Content-Type": _FORM, **(fields or {})}
    try:
        connection.request(method, path, body, head)
        response = connection.getresponse()
        text = response.read()
        document = json.loads(text) if text.startswith(b"{") else text.decode("utf-8", "replace")
        return Answer(response.status, document, response.headers.get("WWW-Authenticate", ""))
    finally:
        connection.close()


def confirmation(token: str) -> object:
    """Return the claim ``cnf`` of an access token that is a JWT."""
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return claims["cnf"]
