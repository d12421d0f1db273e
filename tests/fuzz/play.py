"""Bytes played through a whole proxy in memory, and the faults of its output.

I1: one genuine header, or none. I2: foreign parsers agree. I3: no byte of a refused request reaches
the back end. I4: no secret in any other place. I5: no traceback, and the proxy serves a good
request afterwards.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import attrs
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.logger import ILogObserver, LogEvent, eventAsText, globalLogPublisher

from tests.support.certificates import certificate
from tests.support.memory import CUT, HEADER, OK, Proxy, RequestTransport
from tests.support.reference_parsers import (
    SERVERS,
    HttpError,
    fold,
    pointed_requests,
    read_answers,
    read_requests,
)
from x509proxy.exchange import Exchange, Outcome
from x509proxy.forwarding.claim_headers import CERTIFICATE_CLAIMS, HOP_CLAIMS
from x509proxy.settings import ClientSettings, PolicySettings, UpstreamSettings, Validity

__all__ = ["FORGED_NAMES", "GENUINE", "GOOD", "BackEndPlay", "ClientPlay", "cut", "log_faults"]
__all__ += ["play_answer", "play_answers", "play_client", "play_requests", "recorded_log"]

FORGED_NAMES = (*CERTIFICATE_CLAIMS, *HOP_CLAIMS)
"""Names by which one server or another identifies a client."""

GOOD = b"GET /good HTTP/1.1\r\nHost: as.example\r\n" + HEADER + b": EVIL\r\n\r\n"
_POLICY = PolicySettings(validity=Validity.IGNORE)
_CLIENT = certificate()
GENUINE = (
    b"-----BEGIN CERTIFICATE-----"
    + b64encode(_CLIENT.public_bytes(Encoding.DER))
    + b"-----END CERTIFICATE-----"
)


@contextmanager
def recorded_log() -> Iterator[list[LogEvent]]:
    events: list[LogEvent] = []
    observer = cast(ILogObserver, events.append)
    globalLogPublisher.addObserver(observer)
    try:
        yield events
    finally:
        globalLogPublisher.removeObserver(observer)


def log_faults(events: Sequence[LogEvent]) -> Iterator[str]:
    for event in events:
        text = eventAsText(event, includeTraceback=True)
        if event.get("log_failure"):
            yield f"a traceback: {text}"
        if fold(HEADER) in fold(text.encode("utf-8", "replace")) or "BEGIN CERTIFICATE" in text:
            yield f"a secret in the log: {text}"


class _Answering:
    """The other end of all connections to the back end: it responds to every complete request.

    httptools parses the requests.
    """

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._answered: dict[RequestTransport, int] = {}
        self.received: dict[RequestTransport, bytes] = {}

    def turn(self) -> None:
        """Respond until no more requests arrive."""
        wires = self._proxy.back_end.wires
        while sum(self._turn(wire) for wire in wires):
            # Responses may have led to new connections.
            wires = self._proxy.back_end.wires

    def _turn(self, wire: RequestTransport) -> bool:
        data = wire.sent()
        if not data:
            return False
        self.received[wire] = self.received.get(wire, b"") + data
        try:
            requests = SERVERS["httptools"](self.received[wire]).requests
        except HttpError:
            # The faults include this rejection later.
            return True
        for request in requests[self._answered.get(wire, 0) :]:
            wire.deliver(OK[:-2] if request.method == b"HEAD" else OK)
        self._answered[wire] = len(requests)
        return True


@attrs.frozen
class ClientPlay:
    """The result of one client's bytes.

    ``received``: by each connection of the back end; ``late``: after a refusal.

    ``exchanges``: those that ended by themselves; ``ended``: with those that ended when the client
    left.
    """

    received: list[bytes]
    sent: bytes
    late: bytes
    exchanges: list[Exchange]
    ended: list[Exchange]
    aborted: bool
    closed: bool
    genuine: bytes | None
    log: list[LogEvent]
    afterwards: list[str]

    @property
    def targets(self) -> list[bytes]:
        """The targets of all complete requests that reached the back end."""
        return [
            request.target for data in self.received for request in read_requests(data)[0].requests
        ]

    @property
    def refused(self) -> list[int]:
        """The statuses of the proxy's own responses."""
        return [
            exchange.status for exchange in self.exchanges if exchange.outcome is Outcome.REJECTED
        ]

    def faults(self) -> list[str]:
        """Return all faults of the output."""
        wrong = [
            fault
            for data in self.received
            for fault in pointed_requests(data, HEADER, self.genuine, FORGED_NAMES)
        ]
        wrong.extend(self._count_faults())
        wrong.extend(self._answer_faults())
        wrong.extend(log_faults(self.log))
        return wrong + self.afterwards

    def _count_faults(self) -> Iterator[str]:
        readings = [read_requests(data)[0] for data in self.received]
        complete = sum(len(reading.requests) for reading in readings)
        asked = [exchange for exchange in self.ended if exchange.backend]
        answered = sum(exchange.outcome is Outcome.COMPLETED for exchange in asked)
        torn = sum(not reading.whole for reading in readings)
        if complete > len(asked) or answered > complete:
            yield (
                f"{complete} requests reached the back end, {len(asked)} were sent, "
                f"{answered} answered"
            )
        if torn > len(asked) - answered:
            yield f"{torn} torn requests, of {len(asked) - answered} that may be"
        if self.late:
            yield f"bytes after a refusal: {self.late!r}"

    def _answer_faults(self) -> Iterator[str]:
        methods = [
            b"GET" if one.method == "-" else one.method.encode("ascii") for one in self.exchanges
        ]
        if fold(HEADER) in fold(self.sent):
            yield "the secret name in an answer"
        sent = self.sent
        if len(self.ended) > len(self.exchanges):
            # The last request's body is still awaited.
            sent = sent.removesuffix(b"HTTP/1.1 100 Continue\r\n\r\n")
        answers, wrong = read_answers(sent, methods, closed=self.closed)
        yield from wrong
        statuses = [
            exchange.status
            for exchange in self.exchanges
            if exchange.outcome is not Outcome.ABORTED
        ]
        if [answer.status for answer in answers] != statuses:
            yield f"answers {[answer.status for answer in answers]} for {statuses}"


def play_client(
    pieces: Sequence[bytes],
    *,
    shows_certificate: bool = True,
    request_buffer_bytes: int = 65536,
    pump_each: bool = True,
    more: bytes = GOOD,
) -> ClientPlay:
    """Let one client send ``pieces``, and ``more`` after an error response.

    A back end sends a short 200 in response to each request.
    """
    with recorded_log() as log:
        proxy = Proxy(
            client=ClientSettings(request_buffer_bytes=request_buffer_bytes), policy=_POLICY
        )
        back_end = _Answering(proxy)
        shown = _CLIENT if shows_certificate else None
        client = proxy.tls_client(shown)
        for piece in pieces:
            client.deliver(piece)
            if pump_each:
                back_end.turn()
        back_end.turn()
        proxy.clock.advance(0)
        late = _go_on(proxy, client, back_end, more)
        received = list(back_end.received.values())
        exchanges = list(proxy.exchanges)
        sent, aborted, closed = (
            client.sent(),
            client.aborted,
            client.disconnecting and not client.aborted,
        )
        # The exchanges that are still open are not compared.
        client.lose(CUT)
        proxy.clock.advance(0)
        ended = list(proxy.exchanges)
        afterwards = list(_serves(proxy, shown))
    return ClientPlay(
        received,
        sent,
        late,
        exchanges,
        ended,
        aborted,
        closed,
        GENUINE if shown else None,
        log,
        afterwards,
    )


def _go_on(proxy: Proxy, client: RequestTransport, back_end: _Answering, more: bytes) -> bytes:
    """Return the requests that arrive if a rejected client continues, immediately and later."""
    if not any(exchange.outcome is not Outcome.COMPLETED for exchange in proxy.exchanges):
        return b""
    before = b"".join(back_end.received.values())
    for seconds in (0, 1):
        proxy.clock.advance(seconds)
        client.deliver(more)
        back_end.turn()
    return b"".join(back_end.received.values())[len(before) :]


def _serves(proxy: Proxy, shown: object) -> Iterator[str]:
    """Yield the faults of the next client's exchange."""
    client = proxy.tls_client(_CLIENT if shown is None else None, GOOD)
    received = b""
    for wire in proxy.back_end.wires:
        if data := wire.sent():
            received += data
            wire.deliver(OK)
    # The next client is another: it shows a certificate if the one before showed none.
    genuine = GENUINE if shown is None else None
    yield from pointed_requests(received, HEADER, genuine, FORGED_NAMES)
    answers, wrong = read_answers(client.sent(), [b"GET"])
    yield from wrong
    if [(answer.status, answer.body) for answer in answers] != [(200, b"ok")]:
        yield f"the next client gets {answers}"


@attrs.frozen
class BackEndPlay:
    """The result of a back end's bytes."""

    given: bytes
    sent: bytes
    method: bytes
    aborted: bool
    closed: bool
    exchanges: list[Exchange]
    log: list[LogEvent]
    afterwards: list[str]

    def faults(self) -> list[str]:
        """Return all faults of the output."""
        answers, wrong = read_answers(self.sent, [self.method], closed=self.closed)
        if self.aborted:
            # A response cut short need not be complete, but must not appear complete either.
            wrong = (
                [f"cut, and yet whole: {answers}"]
                if answers and not _is_early_end(self.sent)
                else []
            )
        elif len(answers) != 1:
            wrong.append(f"answers: {answers}")
        heads = self.sent.partition(b"\r\n\r\n")[0]
        if fold(HEADER) in fold(heads):
            wrong.append("the secret name in an answer's head")
        if len(self.exchanges) != 1:
            wrong.append(f"{len(self.exchanges)} exchanges")
        statuses = {answer.status for answer in answers} - {502, 504}
        if any(not re.search(rb"HTTP/1\.[01] %d\b" % status, self.given) for status in statuses):
            wrong.append(f"a status that the back end did not send: {statuses}")
        if self.sent.startswith(b"HTTP/1.1 1"):
            wrong.append("an interim answer of the back end's")
        return wrong + list(log_faults(self.log)) + self.afterwards


def _is_early_end(sent: bytes) -> bool:
    # A response that ends with its connection: only the reset shows that it was cut.
    head = sent.partition(b"\r\n\r\n")[0].lower()
    return b"\r\ncontent-length" not in head and b"\r\ntransfer-encoding" not in head


_REQUESTS = {
    b"GET": b"GET / HTTP/1.1\r\nHost: as.example\r\n\r\n",
    b"HEAD": b"HEAD / HTTP/1.1\r\nHost: as.example\r\n\r\n",
    b"POST": b"POST / HTTP/1.1\r\nHost: as.example\r\nContent-Length: 2\r\n\r\nab",
    b"OLD": b"GET / HTTP/1.0\r\nHost: as.example\r\nConnection: keep-alive\r\n\r\n",
}


def play_answer(
    pieces: Sequence[bytes], method: bytes = b"GET", end: str = "silence"
) -> BackEndPlay:
    """Let a back end send ``pieces``; then it is silent, or ends by ``close`` or ``cut``."""
    with recorded_log() as log:
        proxy = Proxy(policy=_POLICY, upstream=UpstreamSettings(max_connections=2))
        client = proxy.tls_client(_CLIENT, _REQUESTS[method])
        wire = proxy.back_end.wire
        wire.sent()
        wire.deliver(*pieces)
        if end != "silence" and not wire.gone and not wire.aborted:
            wire.lose(None if end == "close" else CUT)
        for _ in range(4):
            # A deadline of 30 s expires within a quarter of a second more.
            proxy.clock.advance(0)
            if proxy.exchanges:
                break
            proxy.clock.advance(31)
        sent, aborted, closed = (
            client.sent(),
            client.aborted,
            client.disconnecting and not client.aborted,
        )
        exchanges = list(proxy.exchanges)
        client.lose(CUT)
        proxy.clock.advance(0)
        afterwards = list(_serves(proxy, _CLIENT))
    sent_method = b"GET" if method == b"OLD" else method
    return BackEndPlay(
        b"".join(pieces), sent, sent_method, aborted, closed, exchanges, log, afterwards
    )


# One byte string for each play: six bits of the first byte select the way, the rest is the data.


def cut(data: bytes, mode: int) -> list[bytes]:
    """Return the data whole, in single bytes, in pieces of seven, or in lines."""
    match mode & 3:
        case 0:
            return [data]
        case 1:
            size = 1 + len(data) // 512
            return [data[place : place + size] for place in range(0, len(data), size)]
        case 2:
            return [data[place : place + 7] for place in range(0, len(data), 7)]
    return data.splitlines(keepends=True)


def play_requests(data: bytes) -> list[str]:
    """Play a client's bytes.

    Bits from the lowest: a certificate, a small hold, a late back end, the reaction to a refusal;
    two for the pieces.
    """
    options, stream = data[0] if data else 0, data[1:]
    play = play_client(
        cut(stream, options >> 4),
        shows_certificate=bool(options & 1),
        request_buffer_bytes=16 if options & 2 else 65536,
        pump_each=not options & 4,
        more=b"\r\n\r\n" + GOOD if options & 8 else GOOD,
    )
    return play.faults()


def play_answers(data: bytes) -> list[str]:
    """Play a back end's bytes.

    Two bits each: the request, the connection's end, the pieces.
    """
    options, stream = data[0] if data else 0, data[1:]
    method = (b"GET", b"HEAD", b"POST", b"OLD")[options & 3]
    return play_answer(
        cut(stream, options >> 4), method, ("silence", "close", "cut", "close")[options >> 2 & 3]
    ).faults()
