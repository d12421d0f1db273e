"""Promises of ``docs/howto/python-applications.rst``: its programs are run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support import certificates as samples
from tests.support.names import secret_name
from tests.support.pages import PageTests
from x509proxy.forwarding.certificate_formats import encode
from x509proxy.settings import Format

CLIENT = samples.client("CN=client")
((_, VALUE),) = encode(CLIENT, Format.PEM, b"X-Cert")


class Applications(PageTests):
    """In a Python web application."""

    page = "howto/python-applications"

    def application(self, block: str) -> Any:
        """Return the application of a block, behind a proxy with a secret header name."""
        self.name = secret_name("people")
        path = Path(self.mktemp())
        path.write_text(f"{self.name}\n")
        names: dict[str, Any] = {}
        fields = self.block("fields").replace("header.txt", str(path))
        exec(f"{fields}\n{self.block(block)}", names)  # noqa: S102 - the page's own program
        return names["application"]

    def test_wsgi(self) -> None:
        """The WSGI application answers with the thumbprint, or 401 without a certificate."""
        application = self.application("wsgi")
        key = "HTTP_" + self.name.upper().replace("-", "_")
        for fields, status, text in (
            ({key: VALUE.decode()}, "200 OK", CLIENT.thumbprint),
            ({}, "401 Unauthorized", "no certificate"),
        ):
            statuses: list[str] = []
            environ = {"REMOTE_ADDR": "127.0.0.1", **fields}
            body = application(environ, lambda line, _, to=statuses: to.append(line))
            self.assertEqual(([status], [text.encode()]), (statuses, body))

    def test_asgi(self) -> None:
        """The ASGI application answers with the thumbprint, or 401 without a certificate."""
        application = self.application("asgi")
        field = (self.name.lower().encode(), VALUE)
        for headers, status, text in (
            ([field], 200, CLIENT.thumbprint),
            ([], 401, "no certificate"),
        ):
            sent: list[Any] = []

            async def send(event: Any, to: list[Any] = sent) -> None:
                to.append(event)

            scope = {"type": "http", "headers": headers, "client": ("127.0.0.1", 1)}
            self.assertRaises(StopIteration, application(scope, None, send).send, None)
            self.assertEqual((status, text.encode()), (sent[0]["status"], sent[1]["body"]))
