"""A proxy in front of an authorization server on Authlib."""

from __future__ import annotations

import json
import sys
from base64 import b64encode
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPSConnection
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from interop.arrivals import der, spellings
from interop.recipes import filled, recipe
from interop.stage import ClientFiles, Stage
from tests.support.ports import free_port
from x509proxy.certificates.self_signed import KeyKind, jwk_set

_ROOT = Path(__file__).parent.parent


class AuthlibStage(Stage):
    """The server, the proxy of the page about RFC 9440 in front of it, and two clients."""

    def setUp(self) -> None:
        super().setUp()
        self.require_packages("authlib", "flask", "gunicorn")
        self.server_files()
        self.ec, self.rsa = self.client(KeyKind.EC, "ec"), self.client(KeyKind.RSA, "rsa")
        files = {"ec": self.ec, "rsa": self.rsa, **self.more_clients()}
        clients = {name: jwk_set(client.made.certificate) for name, client in files.items()}
        self.write("clients.json", json.dumps(clients))
        self.back_end = free_port()
        self.serve()
        port = free_port()
        here = {
            '"tcp:8443"': f'"tcp:{port}:interface=127.0.0.1"',
            "127.0.0.1:8080": f"127.0.0.1:{self.back_end}",
        }
        self.proxy = self.start_proxy(
            filled(recipe("servers/rfc9440", "x509proxy.toml"), here), port
        )

    def more_clients(self) -> Mapping[str, ClientFiles]:
        """Return further clients to register; there are none by default."""
        return {}

    def require_packages(self, *names: str) -> None:
        """Skip where a package of this Python is missing, like :meth:`require`."""
        self.require(*(name for name in names if find_spec(name) is None))

    def serve(self) -> None:
        command = [
            sys.executable,
            "-m",
            "gunicorn",
            "--bind",
            f"127.0.0.1:{self.back_end}",
            "--header-map",
            "dangerous",
        ]
        application = f"interop.authlib_server:create_app('{self.folder / 'clients.json'}')"
        process = self.start("gunicorn", [*command, "--chdir", str(_ROOT), application])
        self.wait_for(self.back_end, process, "gunicorn")

    def ask(
        self, path: str, client: ClientFiles | None, *fields: tuple[str, str], **form: str
    ) -> tuple[int, dict[str, Any]]:
        """Send a form through the proxy; return the status and the JSON."""
        connection = HTTPSConnection(
            "localhost", self.proxy.port, context=self.context(self.proxy, client), timeout=30
        )
        return self._ask(connection, path, fields, form)

    def token(
        self, name: str, client: ClientFiles | None, *fields: tuple[str, str]
    ) -> tuple[int, dict[str, Any]]:
        return self.ask("/token", client, *fields, grant_type="client_credentials", client_id=name)

    def past_the_proxy(self, name: str, *fields: tuple[str, str]) -> tuple[int, dict[str, Any]]:
        """Send the same to the server itself, with the field by which Authlib detects ``https``."""
        connection = HTTPConnection("127.0.0.1", self.back_end, timeout=30)
        form = {"grant_type": "client_credentials", "client_id": name}
        return self._ask(connection, "/token", (("X-Forwarded-Proto", "https"), *fields), form)

    def _ask(
        self,
        connection: HTTPConnection,
        path: str,
        fields: tuple[tuple[str, str], ...],
        form: dict[str, str],
    ) -> tuple[int, dict[str, Any]]:
        body = urlencode(form).encode("ascii")
        try:
            connection.putrequest("POST", path)
            plain = (
                ("Content-Type", "application/x-www-form-urlencoded"),
                ("Content-Length", str(len(body))),
            )
            for name, value in (*plain, *fields):
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def refused(self, answer: tuple[int, dict[str, Any]]) -> None:
        status, content = answer
        self.assertEqual("invalid_client", content.get("error"), content)
        self.assertGreaterEqual(status, 400)

    def forged(self, name: str) -> list[list[tuple[str, str]]]:
        """Return the EC client's certificate in each spelling of a name, once and twice."""
        value = f":{b64encode(der(self.ec.made)).decode('ascii')}:"
        return [[(spelling, value)] * repeats for spelling in spellings(name) for repeats in (1, 2)]
