"""A back end that records the bytes of each request, and sends configurable responses.

h11 parses the requests, with a new parser for each, so that any response can be sent. A request
that h11 rejects is recorded as malformed, with its fields split at line ends, because other servers
might accept it.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from typing import Any

import attrs
import h11

from x509proxy.settings import SettingsError

__all__ = [
    "INCOMPLETE",
    "Arrival",
    "Listener",
    "Recorder",
    "Reply",
    "from_echo",
    "parse_listen",
    "usual",
]

INCOMPLETE = "the connection ended inside the message"
Pairs = tuple[tuple[bytes, bytes], ...]


@attrs.frozen
class Arrival:
    """A request as received. ``fault`` is the reason why it is malformed, or ``""``."""

    method: bytes
    target: bytes
    pairs: Pairs
    body: bytes = b""
    raw: bytes = attrs.field(default=b"", repr=False)
    connection: int = 0
    fault: str = ""

    def values(self, name: bytes) -> list[bytes]:
        """Return the values of a field, ignoring the case of its name."""
        return [value for other, value in self.pairs if other.lower() == name.lower()]


@attrs.frozen
class Reply:
    """The bytes of a response."""

    data: bytes
    close: bool = False
    """Close the connection after them."""


Responder = Callable[[Arrival], Reply | None]
"""A function that returns the response to a request, or ``None`` for the usual one."""


@attrs.frozen
class Listener:
    """The address and port of a listener, or the path of its unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""


_TCP = re.compile(r"tcp:(?:port=)?(\d{1,5})(?::interface=((?:[^:\\]|\\:)+))?")
_COVERED = b"(secret header name)"  # written by x509proxy.service.echo
_UNIX = re.compile(r"unix:(?:address=)?([^:]+)")


def parse_listen(text: str) -> Listener:
    """Parse ``tcp:PORT[:interface=ADDRESS]`` or ``unix:PATH``.

    :raises SettingsError: the text is neither.
    """
    if (found := _TCP.fullmatch(text)) and int(found[1]) < 65536:
        host = (found[2] or "127.0.0.1").replace("\\:", ":")
        return Listener(host=host, port=int(found[1]))
    if found := _UNIX.fullmatch(text):
        return Listener(path=found[1])
    raise SettingsError(
        f"listen: found {text!r}, expected tcp:8080:interface=127.0.0.1 or unix:/path"
    )


class Recorder:
    """A recording back end in threads, from construction until :meth:`stop`."""

    def __init__(self, listener: Listener) -> None:
        self._lock = threading.Lock()
        self._arrivals: list[Arrival] = []
        self._last = 0.0
        self._connections = 0
        self.responder: Responder = lambda _: None
        self._server = _server(listener, self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """Return the port, or 0 for a unix socket."""
        address: object = self._server.server_address
        return int(address[1]) if isinstance(address, tuple) else 0

    def stop(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def accept(self) -> int:
        """Count a new connection, and return its number."""
        with self._lock:
            self._connections += 1
            self._last = time.monotonic()
            return self._connections

    def touch(self) -> None:
        """Record the time of received bytes."""
        self._last = time.monotonic()

    def record(self, arrival: Arrival) -> Reply:
        """Store a request, and return the response."""
        with self._lock:
            self._arrivals.append(arrival)
            self._last = time.monotonic()
        return self.responder(arrival) or usual(arrival)

    def collect(self, token: bytes, quiet: float) -> tuple[Arrival, ...]:
        """Return the requests with a token, after ``quiet`` seconds without received bytes."""
        end = time.monotonic() + 20 * quiet
        time.sleep(quiet / 4)
        while (left := self._last + quiet - time.monotonic()) > 0 and time.monotonic() < end:
            time.sleep(left)
        with self._lock:
            found = tuple(each for each in self._arrivals if token in each.raw)
            # Requests without a token do not belong to an audit, such as health checks.
            self._arrivals = [each for each in self._arrivals if token not in each.raw][-1000:]
        return found


def _server(listener: Listener, recorder: Recorder) -> _Server:
    if listener.path:
        return _UnixServer(listener.path, recorder)
    if ":" in listener.host:
        return _Server6((listener.host, listener.port), recorder)
    return _Server((listener.host, listener.port), recorder)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: Any, recorder: Recorder) -> None:
        self.recorder = recorder
        super().__init__(address, _Conversation)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore connections that the terminator closed."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class _UnixServer(_Server):
    address_family = socket.AF_UNIX
    allow_reuse_address = False


class _Conversation(socketserver.BaseRequestHandler):
    """A connection, with one request after another until a side closes it."""

    server: _Server
    request: socket.socket

    def handle(self) -> None:
        number, left = self.server.recorder.accept(), b""
        self.request.settimeout(120)
        while True:
            arrival, left = self._next(number, left)
            if arrival is None:
                return
            reply = self.server.recorder.record(arrival)
            with contextlib.suppress(OSError):
                self.request.sendall(reply.data)
            if reply.close or arrival.fault:
                return

    def _next(self, number: int, left: bytes) -> tuple[Arrival | None, bytes]:
        """Read a request, and return it with the bytes after it."""
        reader = _Reader(left, number)
        while not reader.done:
            if reader.wants_continue():
                self.request.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            try:
                data = self.request.recv(65536)
            except OSError:
                data = b""
            self.server.recorder.touch()
            reader.receive(data)
        return reader.arrival, reader.left


class _Reader:
    """The h11 parser of a single request."""

    def __init__(self, data: bytes, number: int) -> None:
        self.done = False
        self.arrival: Arrival | None = None
        self.left = b""
        self._number = number
        self._raw = bytearray()
        self._body = bytearray()
        self._request: h11.Request | None = None
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        self._continued = False
        if data:
            self.receive(data)

    def wants_continue(self) -> bool:
        """Return True, only once, if the client waits for ``100 Continue``."""
        waits = self._parser.they_are_waiting_for_100_continue and not self._continued
        self._continued = self._continued or waits
        return waits

    def receive(self, data: bytes) -> None:
        """Process received bytes. ``b""`` is the end of the connection."""
        if not data:
            self._finish(INCOMPLETE)
            return
        self._raw += data
        try:
            self._parser.receive_data(data)
            while not self.done:
                event = self._parser.next_event()
                if event is h11.NEED_DATA:
                    break
                self._take(event)
        except h11.RemoteProtocolError as error:
            self._finish(str(error))

    def _take(self, event: Any) -> None:
        if isinstance(event, h11.Request):
            self._request = event
        elif isinstance(event, h11.Data):
            self._body += event.data
        else:
            self.left = self._parser.trailing_data[0]
            del self._raw[len(self._raw) - len(self.left) :]
            # Trailer fields count too, since a server may merge them with the head.
            self._finish("", tuple(event.headers.raw_items()))

    def _finish(self, fault: str, trailers: Pairs = ()) -> None:
        self.done = True
        raw = bytes(self._raw)
        if self._request is not None:
            pairs = (*self._request.headers.raw_items(), *trailers)
            method, target = self._request.method, self._request.target
        elif raw:
            method, target, pairs = _split(raw)
        else:
            return
        body = bytes(self._body)
        self.arrival = Arrival(method, target, pairs, body, raw, self._number, fault)


def _split(raw: bytes) -> tuple[bytes, bytes, Pairs]:
    """Return the parts of a malformed request, as a tolerant server would parse them."""
    first, *lines = re.split(rb"\r\n|\n|\r", raw)
    method, _, rest = first.partition(b" ")
    pairs = (line.partition(b":") for line in lines if b":" in line)
    fields = tuple((name.strip(), value.strip()) for name, _, value in pairs)
    return method, rest.rpartition(b" ")[0] or rest, fields


def usual(arrival: Arrival) -> Reply:
    """Return a short 200 for a valid request, and a 400 for a malformed one."""
    if arrival.fault:
        return Reply(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", close=True)
    tokens = b",".join(arrival.values(b"connection")).lower()
    start = arrival.raw.partition(b"\r\n")[0]
    close = b"close" in tokens or (start.endswith(b"HTTP/1.0") and b"keep-alive" not in tokens)
    ending = b"Connection: close\r\n" if close else b"Connection: keep-alive\r\n"
    body = b"" if arrival.method == b"HEAD" else b"ok\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n"
    return Reply(head + ending + b"\r\n" + body, close)


def from_echo(body: bytes) -> Arrival | None:
    """Return the request that ``x509proxy echo`` reports; ``None`` for another body.

    :raises SettingsError: it covers the secret header name, so nothing could be judged.
    """
    try:
        found = json.loads(body)
        pairs = tuple((_bytes(name), _bytes(value)) for name, value in found["headers"])
        method, target = _bytes(found["method"]), _bytes(found["target"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if any(name == _COVERED for name, _ in pairs):
        raise SettingsError(
            "url: found an echo that covers the secret header name, "
            "expected one with --show-secret-name"
        )
    raw = b"\r\n".join([method + b" " + target, *(b": ".join(pair) for pair in pairs)])
    return Arrival(method, target, pairs, raw=raw)


def _bytes(text: object) -> bytes:
    if not isinstance(text, str):
        raise TypeError(f"found {type(text).__name__}, expected a string")
    return text.encode("utf-8", "surrogatepass")
