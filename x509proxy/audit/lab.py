"""The bench of one audit: it sends what a probe asks for, and pairs it with what arrived."""

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

__all__ = ["Exchange", "Field", "Lab", "Pace", "Response", "Target", "get", "message"]

_LONGEST_REPLY = 1 << 22


@attrs.frozen
class Field:
    """A field in which the back end reads the certificate."""

    name: bytes = attrs.field(repr=False)
    form: Format


@attrs.frozen
class Target:
    """The terminator, and its other doors. ``paths``: further targets that the back end serves."""

    address: Address
    fields: tuple[Field, ...]
    direct: Address | None = None
    plain: Address | None = None
    paths: tuple[bytes, ...] = ()
    other_names: tuple[str, ...] = ()


@attrs.frozen
class Pace:
    """Bounds: connections a second and in all, seconds to wait for a response and for silence."""

    rate: float = 100.0
    connections: int = 3000
    patience: float = 3.0
    quiet: float = 0.04


@attrs.frozen
class Response:
    """One response, as h11 reads it."""

    status: int
    pairs: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""

    def values(self, name: bytes) -> list[bytes]:
        """Return the values of a field, by its name in lower case."""
        return [value for other, value in self.pairs if other.lower() == name]


@attrs.frozen
class Exchange:
    """Bytes that were sent on one connection, the reply, and the requests that arrived."""

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
        """The status of the first response, 0 without one."""
        return self.responses[0].status if self.responses else 0


class Source(Protocol):
    """Where the requests that arrived are read from."""

    def arrivals(
        self, token: bytes, responses: Iterable[Response], quiet: float
    ) -> tuple[Arrival, ...]:
        """Return the requests with a token."""
        ...


@attrs.frozen
class Recording:
    """The requests are read from a recorder of this audit's own."""

    recorder: Recorder

    def arrivals(
        self, token: bytes, responses: Iterable[Response], quiet: float
    ) -> tuple[Arrival, ...]:
        """Return the requests with a token, however they arrived."""
        return self.recorder.collect(token, quiet)


@attrs.frozen
class Echoes:
    """The requests are read from the responses of an ``x509proxy echo`` that runs elsewhere."""

    def arrivals(
        self, token: bytes, responses: Iterable[Response], quiet: float
    ) -> tuple[Arrival, ...]:
        """Return the requests with a token whose responses came back."""
        found = (from_echo(response.body) for response in responses)
        return tuple(each for each in found if each is not None and token in each.raw)


class Lab:
    """One audit's means. A probe sends with :meth:`send`, and reads the exchange."""

    slow_seconds = 65.0
    """Seconds for which an unfinished head is kept up, and"""
    many_requests = 5000
    """requests on one connection, before a bound is found missing."""

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
        """Return the value by which a client would pass as the victim."""
        return self._forged[field.name]

    def is_forged(self, value: bytes) -> bool:
        """Return whether a forged value is in this one."""
        return any(forged in value for forged in self._forged.values())

    @property
    def identifying(self) -> tuple[Field, ...]:
        """The fields that hold a certificate, or one value that identifies it."""
        return tuple(field for field in self.target.fields if field.form in formats.CERTIFICATES)

    def holds(self, value: bytes, der: bytes) -> bool:
        """Return whether a certificate is in a value, in any of the formats."""
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
        """The recorder.

        :raises NotApplicable: the back end is an echo elsewhere.
        """
        self.require_recorder()
        assert isinstance(self._source, Recording)
        return self._source.recorder

    def fill(self, template: bytes, field: Field | None = None, token: bytes = b"") -> bytes:
        """Return a template with its places filled: names, the forged value, host and token."""
        field = field or self.target.fields[0]
        name = field.name
        places = {
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
        for place, text in places.items():
            template = template.replace(place, text)
        return template

    # Connections.

    def connect(self, tls: Tls, address: Address | None = None) -> Connection:
        """Open a connection, at the pace and within the number that this audit has.

        :raises SettingsError: the number is used up, or nothing listens there.
        """
        self._count += 1
        if self._count > self.pace.connections:
            raise SettingsError(
                f"found {self._count} connections, expected {self._count - 1} or fewer"
            )
        now = time.monotonic()
        time.sleep(max(0.0, self._next - now))
        self._next = max(now, self._next) + 1 / self.pace.rate
        place = address or self.target.address
        try:
            return Connection(place, tls)
        except OSError as error:
            where = f"{place.host}:{place.port}"
            raise SettingsError(f"{where}: found no connection ({error}), expected one") from None

    def tls(self, client: str | Credentials = "", **options: object) -> Tls:
        """Return the parameters of a handshake with the client certificate of that name."""
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
        """Send the bytes of a template on a new connection; return all that came of it."""
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
        """Send the bytes of a template on this connection, and read the responses."""
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
        """Return the exchange, and keep it for the report."""
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
        """Return a new token, by which a request is recognised when it arrives."""
        return b"audit" + secrets.token_hex(8).encode("ascii")


# Requests.


def get(
    *lines: bytes, target: bytes = b"/", method: bytes = b"GET", version: bytes = b"1.1"
) -> bytes:
    """Return the template of a request without a body, on a connection that ends with it."""
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
    wait = pace.patience
    while connection.ending is Ending.OPEN and len(data) < _LONGEST_REPLY:
        piece = connection.read(wait)
        if not piece:
            break
        data += piece
        # Then only for another response, which a smuggled request would have.
        wait = 2 * pace.quiet if parse_responses(bytes(data), sent) else pace.patience
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
    # A body that ends with the connection, or is cut: the head alone is a response too.
    complete = status and not any(name.lower() == b"content-length" for name, _ in pairs)
    return Response(status, pairs, bytes(body)) if complete else None
