"""Header fields as CGI, WSGI and servlet servers name them."""

from __future__ import annotations

import email.parser
import email.policy
import http.client
import io

import httptools

from x509proxy.http1.fields import (
    Framing,
    Pairs,
    write_head,
)


class Request:
    """The fields of a head as llhttp reads them."""

    def __init__(self, data: bytes) -> None:
        self.pairs: list[tuple[bytes, bytes]] = []
        self.complete = False
        httptools.HttpRequestParser(self).feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.pairs.append((name, value))

    def on_headers_complete(self) -> None:
        self.complete = True


def as_others_read(pairs: Pairs) -> list[tuple[bytes, bytes]]:
    """Return the fields, as parsed alike by llhttp, ``http.client`` and ``email``."""
    data = write_head(b"POST / HTTP/1.1", pairs, Framing.LENGTH, 0)
    request = Request(data)
    assert request.complete
    fields = data.partition(b"\r\n")[2]
    for message in (
        http.client.parse_headers(io.BytesIO(fields)),
        email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(fields),
    ):
        assert request.pairs == [
            (name.encode(), value.encode()) for name, value in message.raw_items()
        ]
    return request.pairs
