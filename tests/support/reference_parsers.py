"""Other parsers for the bytes that a back end or a client receives, independent of the product.

Each reader of requests receives one connection's bytes. It returns the complete requests, in order,
and whether bytes are left over; it raises :class:`HttpError` for rejected bytes. Three readers, of
applications with CGI variables, return these variables as well.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, lru_cache
from http.client import HTTPException, HTTPResponse
from types import SimpleNamespace
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler

import attrs
import gunicorn.http.wsgi  # type: ignore[import-untyped]
import h11
import httptools
from gunicorn.config import Config  # type: ignore[import-untyped]
from gunicorn.http import RequestParser
from gunicorn.http.errors import ChunkMissingTerminator, NoMoreData, ParseException  # type: ignore[import-untyped]
from waitress.adjustments import Adjustments  # type: ignore[import-untyped]
from waitress.parser import HTTPRequestParser  # type: ignore[import-untyped]
from waitress.task import WSGITask  # type: ignore[import-untyped]

__all__ = [
    "CLIENTS",
    "SERVERS",
    "Answer",
    "CertificateUsage",
    "HttpError",
    "Reading",
    "cgi_name",
    "fold",
    "pointed_answers",
    "pointed_requests",
    "read_answers",
    "read_requests",
]

_NUMBER = ("127.0.0.1", 40000)
_HUGE = 1 << 24


class HttpError(Exception):
    """A foreign parser rejects these bytes."""


@attrs.frozen
class CertificateUsage:
    """One request in a parser's reading. ``environ``: the variables of a CGI-like application."""

    method: bytes
    target: bytes
    pairs: list[tuple[bytes, bytes]]
    body: bytes
    environ: dict[str, str] = attrs.field(factory=dict, eq=False)

    @property
    def core(self) -> tuple[bytes, bytes, bytes]:
        """The properties on which all readers must agree, except for the header fields."""
        return self.method, self.target, self.body

    def named(self, name: bytes) -> list[bytes]:
        """Return all values of the fields whose names fold to that of ``name``."""
        return [value for other, value in self.pairs if fold(other) == fold(name)]


@attrs.frozen
class Reading:
    """All requests of one connection; ``whole``: no bytes are left over after the last."""

    requests: list[CertificateUsage]
    whole: bool


@lru_cache(maxsize=4096)
def fold(name: bytes) -> bytes:
    """Fold a name as CGI, WSGI and servlets do, without the product's function."""
    return re.sub(rb"[^a-z0-9]", b"-", name.lower())


@lru_cache(maxsize=4096)
def cgi_name(name: bytes) -> str:
    """Return the variable for a field of that name."""
    return "HTTP_" + re.sub(r"[^A-Z0-9]", "_", name.decode("ascii").upper())


# Requests: one reader for each foreign server.


def _by_h11(data: bytes) -> Reading:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_HUGE)
    connection.receive_data(data)
    seen: list[CertificateUsage] = []
    head, body = None, b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                head, body = event, b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                seen.append(
                    CertificateUsage(
                        head.method,
                        head.target,
                        [(name, value) for name, value in head.headers.raw_items()],
                        body,
                    )
                )
                head = None
                connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                    return Reading(seen, not connection.trailing_data[0])
                connection.start_next_cycle()
            else:
                return Reading(seen, head is None and not connection.trailing_data[0])
    except h11.RemoteProtocolError as error:
        raise HttpError(str(error)) from error


class _Collector:
    """The callbacks of httptools."""

    def __init__(self) -> None:
        self.seen: list[CertificateUsage] = []
        self.parser: Any = None
        self.begun = False
        self._pairs: list[tuple[bytes, bytes]] = []
        self._target = self._body = b""
        self._trailing = False

    def on_message_begin(self) -> None:
        self.begun = True
        self._pairs, self._target, self._body, self._trailing = [], b"", b"", False

    def on_url(self, piece: bytes) -> None:
        self._target += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._trailing:
            self._pairs.append((name, value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self._trailing = True

    def on_body(self, piece: bytes) -> None:
        self._body += piece

    def on_message_complete(self) -> None:
        self.begun = False
        self.seen.append(
            CertificateUsage(self.parser.get_method(), self._target, self._pairs, self._body)
        )


def _by_httptools(data: bytes) -> Reading:
    collector = _Collector()
    collector.parser = httptools.HttpRequestParser(collector)
    try:
        collector.parser.feed_data(data)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
        raise HttpError(str(error)) from error
    return Reading(collector.seen, not collector.begun)


class _File(io.BytesIO):
    def close(self) -> None:
        """Do nothing: after ``http.client`` has read a body to its end, reading continues."""


class _Chunks(HTTPResponse):
    """A chunked body, read by ``http.client``."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        self.fp: Any = file
        self.chunked = True
        self.chunk_left = None
        self.length = None
        self._method = "POST"

    def __del__(self) -> None:
        """Do nothing: there is nothing to close."""


class _Handler(WSGIRequestHandler):
    """``http.server``, with the variables of ``wsgiref``, on bytes instead of a socket."""

    def __init__(self, file: io.BytesIO) -> None:
        self.rfile: Any = file
        self.wfile: Any = io.BytesIO()
        self.client_address = _NUMBER
        self.server: Any = SimpleNamespace(
            base_environ={"SERVER_NAME": "as.example", "SERVER_PORT": "8080"}
        )
        self.requestline = self.request_version = self.command = ""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Do nothing: the log is not used."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        raise HttpError(f"{code} {message}")

    def read(self) -> CertificateUsage | None:
        """Return the next request, if there is a complete one."""
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            return None
        pairs = [
            (name.encode("latin-1"), value.strip(" \t").encode("latin-1"))
            for name, value in self.headers.items()
        ]
        body = self._body()
        if body is None:
            return None
        return CertificateUsage(
            self.command.encode(), self.path.encode("latin-1"), pairs, body, self.get_environ()
        )

    def _body(self) -> bytes | None:
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            try:
                return _Chunks(self.rfile).read()
            except HTTPException:
                return None
        length = int(self.headers.get("content-length", "0"))
        body: bytes = self.rfile.read(length)
        return body if len(body) == length else None


def _by_http_server(data: bytes) -> Reading:
    file = _File(data)
    seen: list[CertificateUsage] = []
    while file.tell() < len(data):
        start = file.tell()
        if b"\r\n\r\n" not in data[start:]:
            return Reading(seen, whole=False)
        request = _Handler(file).read()
        if request is None:
            return Reading(seen, whole=False)
        seen.append(request)
    return Reading(seen, whole=True)


@cache
def _waitress_settings() -> Any:
    return Adjustments(max_request_header_size=_HUGE)


def _by_waitress(data: bytes) -> Reading:
    seen: list[CertificateUsage] = []
    while data:
        request = HTTPRequestParser(_waitress_settings())
        while data and not request.completed:
            data = data[request.received(data) :]
        if request.error is not None:
            raise HttpError(str(request.error.body))
        if not request.completed:
            return Reading(seen, whole=False)
        if not request.empty:
            seen.append(_waitress_request(request))
    return Reading(seen, whole=True)


def _waitress_request(request: Any) -> CertificateUsage:
    server = SimpleNamespace(
        adj=_waitress_settings(), effective_port=8080, server_name="as.example"
    )
    channel = SimpleNamespace(server=server, addr=_NUMBER, check_client_disconnected=None)
    environ = WSGITask(channel, request).get_environment()
    pairs = [
        (name.replace("_", "-").encode(), value.encode("latin-1"))
        for name, value in request.headers.items()
    ]
    body = request.get_body_stream().read()
    return CertificateUsage(
        request.command.encode(), request.request_uri.encode("latin-1"), pairs, body, _text(environ)
    )


@cache
def _gunicorn_settings() -> Any:
    settings = Config()
    settings.set("limit_request_fields", 1000)
    settings.set("limit_request_field_size", 0)
    # The fold of versions before 22, which many other servers have too.
    settings.set("header_map", "dangerous")
    return settings


def _by_gunicorn(data: bytes) -> Reading:
    settings = _gunicorn_settings()
    parser = RequestParser(settings, iter([data]), _NUMBER)
    seen: list[CertificateUsage] = []
    try:
        for request in parser:
            # It detects a truncated body only by its length.
            body = request.body.read()
            environ = _text(gunicorn.http.wsgi.create(request, None, _NUMBER, _NUMBER, settings)[1])
            if len(body) < int(environ.get("CONTENT_LENGTH") or "0"):
                return Reading(seen, whole=False)
            pairs = [
                (name.encode("latin-1"), value.encode("latin-1")) for name, value in request.headers
            ]
            seen.append(
                CertificateUsage(
                    request.method.encode(), request.uri.encode("latin-1"), pairs, body, environ
                )
            )
    except (NoMoreData, StopIteration):
        return Reading(seen, whole=False)
    except ParseException as error:
        if (
            isinstance(error, ChunkMissingTerminator)
            and data.endswith((error.term, b"\r"))
            and len(error.term) < 2
        ):
            # A chunk that is cut between CR and LF.
            return Reading(seen, whole=False)
        raise HttpError(str(error)) from error
    return Reading(seen, whole=True)


def _text(environ: dict[str, Any]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if isinstance(value, str)}


SERVERS: dict[str, Callable[[bytes], Reading]] = {
    "h11": _by_h11,
    "httptools": _by_httptools,
    "http.server": _by_http_server,
    "waitress": _by_waitress,
    "gunicorn": _by_gunicorn,
}
"""Readers of requests, from the bytes of one connection."""


def _comparable(target: bytes) -> bytes:
    # http.server reduces slashes at the beginning of a path to one, since it would redirect to
    # them.
    return re.sub(rb"\A/+", b"/", target)


def read_requests(data: bytes) -> tuple[Reading, list[str]]:
    """Return the requests of all readers, or of the first, and their disagreements."""
    seen: dict[str, Reading] = {}
    wrong = []
    for name, read in SERVERS.items():
        try:
            seen[name] = read(data)
        except HttpError as error:
            wrong.append(f"{name} refuses: {error}")
    if not seen:
        return Reading([], whole=False), wrong
    first = next(iter(seen.values()))
    cores = [
        [(one.method, _comparable(one.target), one.body) for one in reading.requests]
        for reading in seen.values()
    ]
    if cores.count(cores[0]) != len(cores):
        wrong.append(f"they see different requests: {dict(zip(seen, cores, strict=True))}")
    # For some readers a truncated request is nothing, for others it is incomplete.
    if (
        len({len(core) for core in cores}) == 1
        and len({reading.whole for reading in seen.values()}) != 1
    ):
        wrong.append(
            f"they see different ends: {[(name, reading.whole) for name, reading in seen.items()]}"
        )
    return first, wrong


def pointed_requests(
    data: bytes, name: bytes, genuine: bytes | None, claims: Iterable[bytes] = ()
) -> list[str]:
    """Return the faults in the bytes of one connection to a back end.

    ``name``: the secret header; ``genuine``: its one value, ``None`` for none; ``claims``: names
    that must be absent.
    """
    reading, wrong = read_requests(data)
    folds = {fold(claim) for claim in claims} - {fold(name)}
    expected = [] if genuine is None else [genuine]
    for reader, read in SERVERS.items():
        try:
            requests = read(data).requests
        except HttpError:
            continue
        for request in requests:
            wrong.extend(f"{reader}: {fault}" for fault in _faults(request, name, expected, folds))
    if not reading.whole and b"\r\n\r\n" in data and not reading.requests:
        # No request is complete: a lenient server sees only the head, which is checked here.
        wrong.extend(_head_faults(data, name, expected))
    return wrong


def _faults(
    request: CertificateUsage, name: bytes, expected: Sequence[bytes], folds: set[bytes]
) -> Iterator[str]:
    if request.named(name) != list(expected):
        yield f"certificate header {request.named(name)}"
    if folds & {fold(other) for other, _ in request.pairs}:
        yield f"a sibling: {sorted(folds & {fold(other) for other, _ in request.pairs})}"
    if request.environ:
        told = request.environ.get(cgi_name(name))
        if told != (expected[0].decode("ascii") if expected else None):
            yield f"CGI variable {told!r}"
        variables = {cgi_name(claim.upper()) for claim in folds} & set(request.environ)
        if variables:
            yield f"CGI variables of siblings: {sorted(variables)}"


def _head_faults(data: bytes, name: bytes, expected: Sequence[bytes]) -> Iterator[str]:
    lines = data.partition(b"\r\n\r\n")[0].splitlines()[1:]
    values = [
        value.strip()
        for field, _, value in (line.partition(b":") for line in lines)
        if fold(field) == fold(name)
    ]
    if values != list(expected):
        yield f"certificate header {values} in a head without its body"


# Responses: one reader for each foreign client.


@attrs.frozen
class Answer:
    """One response in a parser's reading; names are in lower case."""

    status: int
    reason: bytes
    pairs: list[tuple[bytes, bytes]]
    body: bytes


# Errors of h11 for a response that ends too early, or is missing.
_CUT_SHORT = (
    "without sending complete message body",
    "incomplete chunked",
    "unexpectedly closed",
    "can't handle event type",
)


def _answers_by_h11(data: bytes, methods: Sequence[bytes], closed: bool) -> list[Answer]:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HUGE)
    if data:
        connection.receive_data(data)
    if closed:
        connection.receive_data(b"")
    answers: list[Answer] = []
    try:
        for method in methods:
            connection.send(
                h11.Request(method=method, target="/", headers=[("Host", "as.example")])
            )
            connection.send(h11.EndOfMessage())
            answer = _next_by_h11(connection)
            if answer is None:
                return answers
            answers.append(answer)
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                break
            connection.start_next_cycle()
    except h11.RemoteProtocolError as error:
        if any(words in str(error) for words in _CUT_SHORT):
            return answers
        raise HttpError(str(error)) from error
    if connection.trailing_data[0]:
        raise HttpError(f"left over: {connection.trailing_data[0]!r}")
    return answers


def _next_by_h11(connection: h11.Connection) -> Answer | None:
    head, body = None, b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif not isinstance(event, h11.InformationalResponse):
            return None
    assert head is not None
    return Answer(head.status_code, bytes(head.reason), list(head.headers), body)


class _AnswerCollector:
    def __init__(self) -> None:
        self.parser: Any = None
        self.heads: list[Answer] = []
        self.complete = 0
        self.begun = False
        self._reason = b""
        self._pairs: list[tuple[bytes, bytes]] = []
        self._trailing = False

    def on_message_begin(self) -> None:
        self.begun, self._trailing = True, False
        self._reason, self._pairs = b"", []

    def on_status(self, piece: bytes) -> None:
        self._reason += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._trailing:
            self._pairs.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self._trailing = True
        self.heads.append(Answer(self.parser.get_status_code(), self._reason, self._pairs, b""))

    def on_body(self, piece: bytes) -> None:
        self.heads[-1] = attrs.evolve(self.heads[-1], body=self.heads[-1].body + piece)

    def on_message_complete(self) -> None:
        self.begun = False
        self.complete += 1


def _answers_by_httptools(data: bytes, methods: Sequence[bytes], closed: bool) -> list[Answer]:
    answers: list[Answer] = []
    waiting = list(methods)
    while data and waiting:
        collector = _AnswerCollector()
        parser: Any = httptools.HttpResponseParser(collector)
        collector.parser = parser
        method = waiting[0]
        # It reports no end of a message, and has no parameter for HEAD: it is fed one message
        # alone.
        size = _size_by_httptools(data, parser, collector, alone=method == b"HEAD")
        if not collector.heads:
            return answers
        head = collector.heads[0]
        if not (100 <= head.status <= 199):
            waiting.pop(0)
            if method != b"HEAD" and collector.begun and not (closed and _until_close(head)):
                return answers
            answers.append(head)
        data = data[size:]
    if data:
        raise HttpError(f"left over: {data!r}")
    return answers


def _until_close(head: Answer) -> bool:
    names = {name for name, _ in head.pairs}
    return not names & {b"content-length", b"transfer-encoding"}


def _size_by_httptools(
    data: bytes, parser: Any, collector: _AnswerCollector, *, alone: bool
) -> int:
    """Return the size of the first message. ``alone``: it consists of its head."""
    end = data.find(b"\r\n\r\n") + 4
    place = len(data) if end < 4 else end
    try:
        parser.feed_data(data[:place])
        while place < len(data) and not alone and not collector.complete:
            parser.feed_data(data[place : place + 1])
            place += 1
    except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
        raise HttpError(str(error)) from error
    return place


class _Socket:
    """The part of a socket that ``http.client`` uses: one file, shared by all responses."""

    def __init__(self, file: io.BytesIO) -> None:
        self._file = file

    def makefile(self, mode: str) -> io.BytesIO:
        return self._file


def _answers_by_http_client(data: bytes, methods: Sequence[bytes], closed: bool) -> list[Answer]:
    file = _File(data)
    answers: list[Answer] = []
    for method in methods:
        if file.tell() == len(data) or b"\r\n\r\n" not in data[file.tell() :]:
            return answers
        response: Any = HTTPResponse(_Socket(file), method=method.decode("ascii"))  # type: ignore[arg-type]
        try:
            response.begin()
        except HTTPException as error:
            raise HttpError(str(error)) from error
        if response.length is None and not response.chunked and not closed:
            return answers
        try:
            body = response.read()
        except HTTPException:
            return answers
        pairs = [
            (name.lower().encode("latin-1"), value.strip(" \t").encode("latin-1"))
            for name, value in response.getheaders()
        ]
        answers.append(Answer(response.status, response.reason.encode("latin-1"), pairs, body))
    if file.tell() < len(data):
        raise HttpError(f"left over: {data[file.tell() :]!r}")
    return answers


CLIENTS: dict[str, Callable[[bytes, Sequence[bytes], bool], list[Answer]]] = {
    "h11": _answers_by_h11,
    "httptools": _answers_by_httptools,
    "http.client": _answers_by_http_client,
}
"""Readers of responses: bytes, the requests' methods, whether the connection closed cleanly."""


def read_answers(
    data: bytes, methods: Sequence[bytes], *, closed: bool = False
) -> tuple[list[Answer], list[str]]:
    """Return the complete responses of all readers, or of the first, and their disagreements."""
    seen: dict[str, list[Answer]] = {}
    wrong = []
    for name, read in CLIENTS.items():
        try:
            seen[name] = read(data, methods, closed)
        except HttpError as error:
            wrong.append(f"{name} refuses: {error}")
    if not seen:
        return [], wrong
    first = next(iter(seen.values()))
    if any(_without_space(answers) != _without_space(first) for answers in seen.values()):
        wrong.append(f"they see different answers: {seen}")
    return first, wrong


def _without_space(answers: Sequence[Answer]) -> list[Answer]:
    # They differ about spaces around the reason phrase.
    return [attrs.evolve(answer, reason=answer.reason.strip()) for answer in answers]


def pointed_answers(
    data: bytes, methods: Sequence[bytes], secret: bytes, *, closed: bool = False
) -> list[str]:
    """Return the faults in the bytes that a client received."""
    _, wrong = read_answers(data, methods, closed=closed)
    if fold(secret) in fold(data.partition(b"\r\n\r\n")[0]):
        wrong.append("the secret name")
    return wrong
