"""The environment of an audit, which sends requests and pairs them with those that arrived."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable, Iterator
from typing import Protocol

import attrs
import h11

from x509proxy.audit import formats
from x509proxy.audit.certificates import Credentials, Store
from x509proxy.audit.client import Address, Connection, Ending, Tls
from x509proxy.audit.probe import NotApplicable
from x509proxy.audit.recorder import Arrival, Recorder, from_echo
from x509proxy.settings import Format, SettingsError

__all__ = [
    "Echoes",
    "Exchange",
    "Field",
    "Lab",
    "Pace",
    "Recording",
    "Response",
    "Source",
    "Target",
    "get",
    "message",
    "parse_responses",
]

_MAX_REPLY_BYTES = 1 << 22


@attrs.frozen
class Field:
    """A field in which the back end reads the certificate."""

    name: bytes = attrs.field(repr=False)
    form: Format


@attrs.frozen
class Target:
    """The terminator, with other ways to the back end."""

    address: Address
    fields: tuple[Field, ...]
    direct: Address | None = None
    """The back end's own address."""
    plain: Address | None = None
    """The terminator's port without TLS."""
    paths: tuple[bytes, ...] = ()
    """Additional targets that the back end serves."""
    other_names: tuple[str, ...] = ()
    """Other server names of the terminator."""


@attrs.frozen
class Pace:
    """The limits of an audit."""

    rate: float = 100.0
    """Connections per second."""
    connections: int = 3000
    """Connections in all."""
    response_seconds: float = 3.0
    """Time to wait for a response."""
    quiet: float = 0.04
    """Time without data, in seconds, after which nothing more is expected."""


@attrs.frozen
class Response:
    """A response, as parsed by h11."""

    status: int
    pairs: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""

    def values(self, name: bytes) -> list[bytes]:
        """Return the values of a field, by its name in lower case."""
        return [value for other, value in self.pairs if other.lower() == name]


@attrs.frozen
class Exchange:
    """The bytes sent on a connection, the reply, and the requests that arrived."""

    sent: bytes = attrs.field(repr=False)
    reply: bytes = attrs.field(repr=False)
    responses: tuple[Response, ...]
    arrived: tuple[Arrival, ...]
    ending: Ending
    client: Credentials | None = None
    alert: str = ""
    resumed: bool = False

    @property
    def status(self) -> int:
        """Return the status of the first response, or 0."""
        return self.responses[0].status if self.responses else 0


class Source(Protocol):
    """A source of the requests that arrived at the back end."""

    def arrivals(
        self, token: bytes, responses: Iterable[Response], quiet: float
    ) -> tuple[Arrival, ...]:
        """Return the requests with a token."""
        ...


@attrs.frozen
class Recording:
    """A source that reads the requests from the recorder of this audit."""

    recorder: Recorder

    def arrivals(
        self, token: bytes, responses: Iterable[Response], quiet: float
    ) -> tuple[Arrival, ...]:
        """Return the recorded requests with a token."""
        return self.recorder.collect(token, quiet)


@attrs.frozen
class Echoes:
    """A source that reads the requests from the responses of an ``x509proxy echo``."""

    def arrivals(
        self, token: bytes, responses: Iterable[Response], quiet: float
    ) -> tuple[Arrival, ...]:
        """Return the requests with a token in the responses."""
        found = (from_echo(response.body) for response in responses)
        return tuple(each for each in found if each is not None and token in each.raw)


class Lab:
    """The environment of an audit. A probe calls :meth:`send` and checks the exchange."""

    slow_seconds = 65.0
    """Time for an unfinished head after which a missing deadline is a fault."""
    many_requests = 5000
    """Requests on a connection after which a missing limit is a fault."""

    def __init__(self, target: Target, source: Source, store: Store, pace: Pace = Pace()) -> None:
        self.target = target
        self.store = store
        self.pace = pace
        self.transcript: list[Exchange] = []
        self._source = source
        self._count = 0
        self._next = 0.0
        self.folded = frozenset(formats.folds(field.name) for field in target.fields)
        victim = store.get("victim").der
        self._forged = {field.name: formats.encode(field.form, victim) for field in target.fields}

    # The fields.

    def forged_value(self, field: Field) -> bytes:
        """Return the value by which a client would impersonate the victim."""
        return self._forged[field.name]

    def is_forged(self, value: bytes) -> bool:
        """Return True if the value contains a forged one."""
        return any(forged in value for forged in self._forged.values())

    @property
    def identifying(self) -> tuple[Field, ...]:
        """Return the fields with a certificate, or with a value that identifies it."""
        return tuple(field for field in self.target.fields if field.form in formats.CERTIFICATES)

    @property
    def results(self) -> frozenset[bytes]:
        """Return the folded names of the fields with the result of the verification."""
        fields = self.target.fields
        return frozenset(
            formats.folds(each.name) for each in fields if each.form in formats.RESULTS
        )

    def holds(self, value: bytes, der: bytes) -> bool:
        """Return True if the value contains a certificate in any format."""
        forms = formats.CERTIFICATES | {Format.RFC9440_CHAIN}
        return any(formats.encode(form, der).strip(b":") in value for form in forms)

    def stolen(self) -> Credentials:
        """Return the victim's certificate with a key that is not its own."""
        return self.store.stolen()

    def require_recorder(self) -> None:
        """Check that this audit has a recorder.

        :raises NotApplicable: the back end is an echo elsewhere.
        """
        if not isinstance(self._source, Recording):
            raise NotApplicable("needs the recording back end: give --listen")

    @property
    def recorder(self) -> Recorder:
        """Return the recorder.

        :raises NotApplicable: the back end is an echo elsewhere.
        """
        self.require_recorder()
        assert isinstance(self._source, Recording)
        return self._source.recorder

    def fill(self, template: bytes, field: Field | None = None, token: bytes = b"") -> bytes:
        """Return a template with values for its names, the forged value, host and token."""
        field = field or self.target.fields[0]
        name = field.name
        values = {
            b"{name}": name,
            b"{lower}": name.lower(),
            b"{upper}": name.upper(),
            b"{swapped}": name.swapcase(),
            b"{twin}": re.sub(rb"[^A-Za-z0-9]", b"_", name),
            b"{lowertwin}": re.sub(rb"[^a-z0-9]", b"_", name.lower()),
            b"{hyphens}": re.sub(rb"[^A-Za-z0-9]", b"-", name),
            b"{first}": name.replace(b"-", b"_", 1)
            if b"-" in name
            else name.replace(b"_", b"-", 1),
            b"{forged}": self.forged_value(field),
            b"{HOST}": self.target.address.name.upper().encode("ascii"),
            b"{host}": self.target.address.name.encode("ascii"),
            b"{token}": token,
        }
        for placeholder, text in values.items():
            template = template.replace(placeholder, text)
        return template

    # Connections.

    def connect(self, tls: Tls, address: Address | None = None) -> Connection:
        """Open a connection, within the limits of this audit.

        :raises SettingsError: the number of connections is exceeded, or the connection fails.
        """
        self._count += 1
        if self._count > self.pace.connections:
            raise SettingsError(
                f"found {self._count} connections, expected {self._count - 1} or fewer"
            )
        now = time.monotonic()
        time.sleep(max(0.0, self._next - now))
        self._next = max(now, self._next) + 1 / self.pace.rate
        server = address or self.target.address
        try:
            return Connection(server, tls)
        except OSError as error:
            where = f"{server.host}:{server.port}"
            raise SettingsError(f"{where}: found no connection ({error}), expected one") from None

    def tls(self, client: str | Credentials = "", **options: object) -> Tls:
        """Return the parameters of a handshake with the client certificate that has that name."""
        found = self.store.get(client) if isinstance(client, str) and client else client or None
        return Tls(client=found, **options)  # type: ignore[arg-type]

    def send(
        self,
        template: bytes,
        client: str | Credentials = "",
        field: Field | None = None,
        tls: Tls | None = None,
        address: Address | None = None,
    ) -> Exchange:
        """Send a template on a new connection, and return the exchange."""
        parameters = tls or self.tls(client)
        with self.connect(parameters, address) as connection:
            return self.ask(connection, template, parameters.client, field)

    def ask(
        self,
        connection: Connection,
        template: bytes,
        client: Credentials | None,
        field: Field | None = None,
    ) -> Exchange:
        """Send a template on this connection, and return the exchange."""
        token = self.token()
        sent = self.fill(template, field, token)
        connection.send(sent)
        reply = read_reply(connection, sent, self.pace)
        return self.exchange(connection, sent, reply, client, token)

    def exchange(
        self,
        connection: Connection,
        sent: bytes,
        reply: bytes,
        client: Credentials | None,
        token: bytes,
    ) -> Exchange:
        """Return an exchange, after storing it for the report."""
        responses = parse_responses(reply, sent)
        made = Exchange(
            sent,
            reply,
            responses,
            self.arrivals(token, responses),
            connection.ending,
            client,
            connection.alert,
            connection.resumed,
        )
        self.transcript.append(made)
        return made

    def arrivals(self, token: bytes, responses: Iterable[Response]) -> tuple[Arrival, ...]:
        """Return the requests with a token."""
        return self._source.arrivals(token, responses, self.pace.quiet)

    @staticmethod
    def token() -> bytes:
        """Return a new token, which identifies a request at the back end."""
        return b"audit" + secrets.token_hex(8).encode("ascii")


# Requests.


def get(
    *lines: bytes, target: bytes = b"/", method: bytes = b"GET", version: bytes = b"1.1"
) -> bytes:
    """Return the template of a request without a body and with ``Connection: close``."""
    return message(*lines, b"Connection: close", target=target, method=method, version=version)


def message(
    *lines: bytes,
    body: bytes = b"",
    target: bytes = b"/",
    method: bytes = b"GET",
    version: bytes = b"1.1",
) -> bytes:
    """Return the template of a request: its start, ``Host``, the token, these lines, the body."""
    start = b"%b %b HTTP/%b" % (method, target, version)
    return b"\r\n".join([start, b"Host: {host}", b"X-Audit: {token}", *lines, b"", body])


# Responses.


def read_reply(connection: Connection, sent: bytes, pace: Pace) -> bytes:
    """Read until the end, or until a complete response is followed by silence."""
    data = bytearray()
    wait = pace.response_seconds
    while connection.ending is Ending.OPEN and len(data) < _MAX_REPLY_BYTES:
        piece = connection.read(wait)
        if not piece:
            break
        data += piece
        # A short wait then, for the response of a smuggled request.
        wait = 2 * pace.quiet if parse_responses(bytes(data), sent) else pace.response_seconds
    return bytes(data)


def parse_responses(data: bytes, sent: bytes) -> tuple[Response, ...]:
    """Return the final responses that are complete."""
    return tuple(each for each in _responses(data, sent) if each.status >= 200)


def _responses(data: bytes, sent: bytes) -> Iterator[Response]:
    method = b"HEAD" if sent.startswith(b"HEAD ") else b"GET"
    while data:
        parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        parser.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"audit")]))
        parser.send(h11.EndOfMessage())
        found = _one(parser, data)
        if found is None:
            return
        yield found
        data = parser.trailing_data[0]


def _one(parser: h11.Connection, data: bytes) -> Response | None:
    status, body = 0, bytearray()
    pairs: tuple[tuple[bytes, bytes], ...] = ()
    try:
        parser.receive_data(data)
        while True:
            match parser.next_event():
                case h11.Response() as head:
                    status, pairs = head.status_code, tuple(head.headers.raw_items())
                case h11.Data(data=piece):
                    body += piece
                case h11.EndOfMessage():
                    return Response(status, pairs, bytes(body))
                case h11.InformationalResponse():
                    continue
                case _:
                    break
    except h11.RemoteProtocolError:
        pass
    # The body may end with the connection, so a head without Content-Length is a response too.
    complete = status and not any(name.lower() == b"content-length" for name, _ in pairs)
    return Response(status, pairs, bytes(body)) if complete else None
