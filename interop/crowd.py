"""Many well-behaved clients: they keep a connection or open new ones, and retry as in RFC 9112.

``python -m interop.crowd ADDRESS PORT AUTHORITY CERTIFICATE KEY ROWS`` runs until SIGTERM,
two minutes at the most, and writes each request's fate to the file ROWS, one JSON array
a line (:class:`Fate`).

A connection that a server keeps open may be closed by it at any time, also while the next request
is on its way. A client without an octet of the response then repeats the request on a new
connection, if that is safe (section 9.3.1). Browsers and libraries do the same. Nothing else is
repeated: a request that fails on a new connection is lost.
"""

from __future__ import annotations

import http.client
import itertools
import json
import signal
import ssl
import sys
import threading
import time
from hashlib import sha256
from pathlib import Path
from typing import TextIO

import attrs

__all__ = ["Fate", "fates"]

_WORKERS = 12  # of which every second one keeps its connections
_PAUSE = 0.05  # seconds between two requests of one worker
_LONGEST = 120.0
_TIMEOUT = 15.0
# What a client meets on a connection that the server has closed since the last answer.
_CLOSED = (
    http.client.RemoteDisconnected,
    BrokenPipeError,
    ConnectionResetError,
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
)


@attrs.frozen
class Fate:
    """The result of one request.

    ``begun``, ``ended``: on the machine's one monotonic clock, in seconds; ``begun`` is before a
    connection is made. From the back end: ``node``, the proxy's machine; ``peer``, the client's
    address; ``thumbprint``, that of the client's certificate. ``server``: digest of the server's
    certificate. ``again``: it was sent a second time, since a kept connection had been closed.
    ``error``: the error, if it failed.
    """

    begun: float
    ended: float
    node: str = ""
    peer: str = ""
    thumbprint: str = ""
    server: str = ""
    again: bool = False
    error: str = ""


def fates(rows: Path) -> list[Fate]:
    """Return the rows that the crowd has written so far."""
    return [
        Fate(*json.loads(line))
        for line in rows.read_text().splitlines(keepends=True)
        if line.endswith("\n")
    ]


class _Worker(threading.Thread):
    """One client. ``keeps``: it uses a connection for as long as the server lets it."""

    def __init__(
        self,
        target: tuple[str, int],
        context: ssl.SSLContext,
        keeps: bool,
        rows: TextIO,
        ending: threading.Event,
    ) -> None:
        super().__init__()
        self._target = target
        self._context = context
        self._keeps = keeps
        self._rows = rows
        self._ending = ending
        self._connection: http.client.HTTPSConnection | None = None

    def run(self) -> None:
        while not self._ending.wait(_PAUSE):
            self._rows.write(json.dumps(attrs.astuple(self._fate())) + "\n")
            self._rows.flush()

    def _fate(self) -> Fate:
        begun = time.monotonic()
        again = False
        try:
            if self._connection is not None:
                try:
                    return attrs.evolve(self._ask(self._connection), begun=begun)
                except _CLOSED:
                    again = True
            return attrs.evolve(self._ask(self._connect()), begun=begun, again=again)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._close()
            return Fate(
                begun, time.monotonic(), again=again, error=f"{type(error).__name__}: {error}"
            )

    def _connect(self) -> http.client.HTTPSConnection:
        self._close()
        connection = http.client.HTTPSConnection(
            *self._target, timeout=_TIMEOUT, context=self._context
        )
        connection.connect()
        return connection

    def _ask(self, connection: http.client.HTTPSConnection) -> Fate:
        server = sha256(connection.sock.getpeercert(binary_form=True) or b"").hexdigest()[:16]
        connection.request("GET", "/token")
        answer = connection.getresponse()
        told = _told(answer)
        self._connection = connection
        if not self._keeps or answer.will_close:
            self._close()
        return attrs.evolve(told, ended=time.monotonic(), server=server)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _told(answer: http.client.HTTPResponse) -> Fate:
    try:
        report = json.loads(answer.read())
    except (OSError, http.client.HTTPException) as error:
        # The answer had begun: no second time.
        raise ValueError(f"the answer broke off: {error}") from None
    if answer.status != 200:
        raise ValueError(f"status {answer.status}")
    fields = {name.lower(): value for name, value in report["headers"]}
    thumbprints = [found["x5t#S256"] for found in report["certificates"]]
    return Fate(0.0, 0.0, fields["x-node"], fields["x-forwarded-for"], ",".join(thumbprints))


def main(address: str, port: str, authority: str, certificate: str, key: str, rows: str) -> None:
    """Run the clients until SIGTERM, two minutes at the most."""
    context = ssl.create_default_context(cafile=authority)
    context.load_cert_chain(certificate, key)
    ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    with Path(rows).open("a") as file:
        keeps = itertools.cycle((True, False))
        workers = [
            _Worker((address, int(port)), context, next(keeps), file, ending)
            for _ in range(_WORKERS)
        ]
        for worker in workers:
            worker.start()
        ending.wait(_LONGEST)
        ending.set()
        for worker in workers:
            worker.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
