"""Mutated messages, parsed by the product, by llhttp (``httptools``) and by h11.

``python -m tests.fuzz.differential --heads 1000000 --seed 1 --jobs 2 [--sweep] [--kind requests]``

Both others must accept each message that the product accepts, with equal results: method, target,
version, fields, framing, body and end of the message. A message that the product rejects is not
compared. Each input is also parsed in random pieces, which must not change the result. Every
disagreement is printed, and the exit status is 1 if there is one.

The first message of an input is compared; h11 also reports its end. The parser llhttp does not, so
some inputs have a second message behind the first.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from random import Random
from typing import Any

import attrs
import h11
import httptools

from tests.fuzz.mutator import WORDS, read_seeds, stretched
from tests.support.streams import joined, pieces
from x509proxy.http1.errors import ErrorResponse
from x509proxy.http1.messages import END, Framing, RequestHead, ResponseHead
from x509proxy.http1.request_parser import RequestParser
from x509proxy.http1.response_parser import ResponseParser
from x509proxy.settings import ClientSettings, UpstreamSettings

__all__ = ["KINDS", "Message", "Report", "campaign", "main", "mutations", "read_all", "sweep"]

_CLIENT = ClientSettings()
_UPSTREAM = UpstreamSettings()
_HUGE = 1 << 24
_NEXT = b"GET /next HTTP/1.1\r\nHost: next\r\n\r\n"
_NEXT_RESPONSE = b"HTTP/1.1 299 Next\r\nContent-Length: 0\r\n\r\n"
_PLAIN_NAME = re.compile(rb"[A-Za-z0-9-]+")
_ABSOLUTE = re.compile(rb"https?://[^/?]*(.*)", re.IGNORECASE)

_REQUESTS = (
    b"POST /token HTTP/1.1\r\nHost: as.example\r\nAuthorization: Basic YTpi\r\n"
    b"Content-Length: 5\r\n\r\na=b&c",
    b"POST /token HTTP/1.1\r\nHost: as.example\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n0\r\n\r\n",
    b"POST /t HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'2;x=y;z="q"\r\nab\r\n0A\r\n0123456789\r\n0\r\nX: y\r\n\r\n',
    b"GET /a/b?c=d HTTP/1.1\r\nHost: as.example:8443\r\nAccept: */*\r\n"
    b"Traceparent: 00-4bf9-00f0-01\r\n\r\n",
    b"GET https://as.example/x?y HTTP/1.1\r\nHost: as.example\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    b"PUT /x HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\nExpect: 100-continue\r\n"
    b"Connection: close\r\n\r\nabc",
    b"GET / HTTP/1.1\r\nHost:a\r\nX_Odd: b\r\nX-Empty:\r\nX-Wide: \t c d \t\r\n"
    b"Cookie: a\r\nCookie: b\r\n\r\n",
)
_RESPONSES = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    b"2;x=y\r\nab\r\n0A\r\n0123456789\r\n0\r\nX: y\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n"
    b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nX-High: caf\xe9\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nServer: old\r\n\r\nuntil the end",
    b'HTTP/1.1 304\r\nETag: "x"\r\nContent-Length: 9\r\n\r\n',
    b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nX:b\r\nX-Wide: \t c d \t\r\nContent-Length: 1\r\n\r\nx",
)


@attrs.frozen
class Message:
    """The first message in one parser's reading. ``end``: it is complete."""

    start: tuple[bytes, ...]
    pairs: list[tuple[bytes, bytes]]
    body: bytes
    end: bool


@attrs.frozen
class _Ours:
    """The first message in the product's reading.

    ``rejected``: its body was rejected; ``rest``: the bytes after it.
    """

    message: Message
    framing: Framing
    rejected: bool
    rest: bytes = b""
    reusable: bool = False

    def differs(self, other: Message) -> bool:
        """Return whether another reading is another message.

        The product may be stricter about a body: then all that it accepted before must be the same.
        """
        mine = self.message
        if (mine.start, mine.pairs) != (other.start, other.pairs):
            return True
        if self.rejected:
            shorter, longer = sorted((mine.body, other.body), key=len)
            return not longer.startswith(shorter)
        return (mine.body, mine.end) != (other.body, other.end)


def _ours(data: bytes) -> _Ours | None:
    """Return the first request, if its head is accepted."""
    parser = RequestParser(_CLIENT)
    events = parser.feed(data)
    if not events or not isinstance(head := events[0], RequestHead):
        return None
    body = b"".join([event for event in events if isinstance(event, bytes)])
    message = Message(
        (head.method, head.target, head.version.encode()), _normal(head.pairs), body, END in events
    )
    rejected = isinstance(events[-1], ErrorResponse)
    return _Ours(message, head.body, rejected, parser.rest)


class _Collector:
    """Callbacks of httptools: the complete messages, and the one in progress."""

    def __init__(self) -> None:
        self.parser: Any = None
        self.messages: list[Message] = []
        self._target = self._reason = self._body = b""
        self._pairs: list[tuple[bytes, bytes]] = []
        self._in_body = False

    def on_message_begin(self) -> None:
        self._target = self._reason = self._body = b""
        self._pairs, self._in_body = [], False

    def on_url(self, piece: bytes) -> None:
        self._target += piece

    def on_status(self, piece: bytes) -> None:
        self._reason += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_body:
            self._pairs.append((name, value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self._in_body = True
        self.messages.append(self._message(end=False))

    def on_body(self, piece: bytes) -> None:
        self._body += piece
        self.messages[-1] = self._message(end=False)

    def on_message_complete(self) -> None:
        self.messages[-1] = self._message(end=True)

    def _message(self, *, end: bool) -> Message:
        version = self.parser.get_http_version().encode()
        start: tuple[bytes, ...]
        if isinstance(self.parser, httptools.HttpRequestParser):
            start = (self.parser.get_method(), self._target, version)
        else:
            start = (b"%d" % self.parser.get_status_code(), self._reason, version)
        return Message(start, self._pairs, self._body, end)


def _llhttp(data: bytes, kind: Callable[[object], Any]) -> tuple[list[Message], str]:
    """Return the messages until the first error, and that error."""
    collector = _Collector()
    collector.parser = kind(collector)
    try:
        collector.parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        return collector.messages, ""
    except httptools.HttpParserError as error:
        return collector.messages, str(error) or "error"
    return collector.messages, ""


def _h11(
    connection: h11.Connection, data: bytes, *, eof: bool = False
) -> tuple[Any, bytes, bool, str]:
    """Return the first final head, its body, whether it ends, and an error."""
    head, body = None, b""
    try:
        connection.receive_data(data)
        if eof:
            connection.receive_data(b"")
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request | h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return head, body, True, ""
            elif not isinstance(event, h11.InformationalResponse):
                return head, body, False, ""
    except h11.RemoteProtocolError as error:
        return head, body, False, str(error)


def _normal(pairs: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the fields that the product keeps; h11 writes codings in lower case."""
    return [
        (name, value.lower() if name.lower() == b"transfer-encoding" else value)
        for name, value in pairs
        if _PLAIN_NAME.fullmatch(name)
    ]


def _origin(method: bytes, target: bytes) -> bytes:
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        return target
    rest = absolute[1]
    if not rest and method == b"OPTIONS":
        return b"*"
    return rest if rest.startswith(b"/") else b"/" + rest


def check_request(data: bytes) -> tuple[bool, list[str]]:
    """Return whether the product accepts the first head in the data, and the others' objections."""
    ours = _ours(data)
    if ours is None:
        return False, []
    faults = []
    messages, error = _llhttp(data, httptools.HttpRequestParser)
    theirs = _comparable(messages[0]) if messages else None
    if theirs is None or ours.differs(theirs):
        faults.append(f"llhttp: {error} {theirs}, not {ours}")
    # h11 does not skip empty lines.
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_HUGE)
    head, body, end, error = _h11(connection, data.lstrip(b"\r\n"))
    if head is None:
        return True, [*faults, f"h11: {error}"]
    start = (head.method, head.target, head.http_version)
    other = _comparable(Message(start, list(head.headers.raw_items()), body, end))
    if ours.differs(other):
        faults.append(f"h11: {error} {other}, not {ours}")
    left = connection.trailing_data[0]
    if ours.rest and left != ours.rest:
        faults.append(f"h11 leaves {left!r}, not {ours}")
    if _framing(head.headers) is not ours.framing:
        faults.append(f"h11 frames by {_framing(head.headers)}, not {ours}")
    return True, faults


def _framing(headers: Any) -> Framing:
    fields = dict(headers)
    if b"transfer-encoding" in fields:
        return Framing.CHUNKED
    return Framing.LENGTH if int(fields.get(b"content-length", b"0")) else Framing.NONE


def _comparable(message: Message) -> Message:
    method, target, version = message.start
    return attrs.evolve(
        message, start=(method, _origin(method, target), version), pairs=_normal(message.pairs)
    )


_ASKED = (b"GET", b"HEAD", b"POST")


def check_response(data: bytes) -> tuple[bool, list[str]]:
    """Check the response to one of three methods, with the end of its connection.

    The result is that of :func:`check_request`.
    """
    method = _ASKED[len(data) % 3]
    parser = ResponseParser(method, _UPSTREAM)
    events = parser.feed(data)
    reusable = parser.reusable
    events += parser.end_of_stream(clean=True)
    if not isinstance(head := events[0], ResponseHead):
        return False, []
    body = b"".join([event for event in events if isinstance(event, bytes)])
    start = (b"%d" % head.status, _reason(head.reason))
    message = Message(start, _lowered(head.pairs), body, END in events)
    rejected = isinstance(events[-1], ErrorResponse)
    ours = _Ours(message, head.body, rejected, b"", reusable)
    return True, list(_response_faults(data, method, ours))


def _reason(phrase: bytes) -> bytes:
    """Return the phrase without spaces around it, or nothing if it is not ASCII.

    The product drops a phrase that is not ASCII.
    """
    return phrase.strip() if phrase.isascii() else b""


def _lowered(pairs: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [
        (name.lower(), value.lower() if name.lower() == b"transfer-encoding" else value)
        for name, value in pairs
    ]


def _response_faults(data: bytes, method: bytes, ours: _Ours) -> Iterator[str]:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HUGE)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    head, body, end, error = _h11(connection, data, eof=True)
    if head is None:
        yield f"h11: {error}"
        return
    start = (b"%d" % head.status_code, _reason(bytes(head.reason)))
    other = Message(start, _lowered(list(head.headers.raw_items())), body, end)
    if ours.differs(other):
        yield f"h11: {error} {other}, not {ours}"
    if ours.reusable and connection.trailing_data[0]:
        yield f"h11 leaves {connection.trailing_data[0]!r}"
    if method == b"HEAD":
        # llhttp has no parameter for the method of the request.
        return
    messages, error = _llhttp(data, httptools.HttpResponseParser)
    final = [one for one in messages if not one.start[0].startswith(b"1")][:1]
    if not final:
        yield f"llhttp: {error}"
        return
    # llhttp is not informed of the connection's end.
    ended = final[0].end or ours.framing is Framing.CLOSE
    status, reason, _ = final[0].start
    other = Message((status, _reason(reason)), _lowered(final[0].pairs), final[0].body, ended)
    if ours.differs(other):
        yield f"llhttp: {error} {other}, not {ours}"


def check_pieces(data: bytes, kind: str, random: Random) -> list[str]:
    """Compare the events of the whole data with those of its pieces.

    Of two faults, either may be reported.
    """
    cuts = [random.randrange(1, len(data) + 1) for _ in range(random.choice((1, 2, 5)))]
    results = []
    for feeds in ([data], pieces(data, cuts)):
        parser = RequestParser(_CLIENT) if kind == "requests" else ResponseParser(b"GET", _UPSTREAM)
        events: list[Any] = []
        for piece in feeds:
            events += parser.feed(piece)
        results.append(
            ["rejected" if isinstance(event, ErrorResponse) else event for event in joined(events)]
        )
    if results[0] != results[1] and not _stopped_at_end(results):
        return [f"in pieces {cuts}: {results[1]}, not {results[0]}"]
    return []


def _stopped_at_end(results: list[list[Any]]) -> bool:
    """Return whether the readings differ by a pipelined request only, which a later call reads."""
    whole, cut = results
    return END in whole and cut[: len(whole)] == whole


def mutations(seeds: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """Yield endless inputs, equal for an equal seed: one to three changes to a seed."""
    random = Random(seed)
    choice, below = random.choice, random.randrange
    octets = [bytes([octet]) for octet in range(256)]
    odd = [
        *WORDS,
        *octets[:33],
        *octets[0x7F:0x82],
        b"\xff",
        b",",
        b";",
        b'"',
        b"\\",
        b"%",
        b"..",
        b"  ",
        b"\r\n\r\n",
    ]
    while True:
        data = choice(seeds)
        if not below(200):
            data = stretched(data, random)
        for _ in range(below(1, 4)):
            place = below(len(data) + 1)
            way = below(8)
            if way < 2:
                data = data[:place] + choice(octets) + data[place + 1 :]
            elif way == 2:
                data = data[:place] + choice(odd) + data[place:]
            elif way == 3:
                data = data[:place] + data[place + below(1, 4) :]
            elif way == 4:
                lines = data.split(b"\r\n")
                line = below(len(lines))
                lines.insert(below(len(lines)), lines[line])
                data = b"\r\n".join(lines)
            elif way == 5:
                line_start = data.rfind(b"\r\n", 0, place) + 2
                data = data[:line_start] + choice(odd) + data[line_start:]
            elif way == 6:
                other = choice(seeds)
                data = data[:place] + other[below(len(other) + 1) :]
            else:
                data = (
                    data[:place]
                    + data[place : place + below(1, 12)].swapcase()
                    + data[place + 11 :]
                )
        yield data


@attrs.frozen
class Report:
    """The numbers of heads and of accepted ones, and the distinct disagreements."""

    heads: int
    accepted: int
    findings: tuple[tuple[bytes, str], ...]

    def __str__(self) -> str:
        lines = [
            f"{self.heads} heads, {self.accepted} accepted, {len(self.findings)} disagreements"
        ]
        return "\n".join(
            [*lines, *(f"    {data!r}\n        {fault}" for data, fault in self.findings)]
        )


KINDS: dict[
    str, tuple[Callable[[bytes], tuple[bool, list[str]]], tuple[bytes, ...], str, bytes]
] = {
    "requests": (check_request, _REQUESTS, "requests", _NEXT),
    "responses": (check_response, _RESPONSES, "answers", _NEXT_RESPONSE),
}
"""The kinds of message: check, seeds, folder of more seeds, and bytes that may follow."""

_MOST_FINDINGS = 20


def sweep(seeds: Sequence[bytes]) -> Iterator[bytes]:
    """Yield every change of one octet.

    It is removed, replaced by each of the 256, or followed by each of them.
    """
    octets = [bytes([octet]) for octet in range(256)]
    for data in seeds:
        for place in range(len(data)):
            before, after = data[:place], data[place + 1 :]
            yield before + after
            for octet in octets:
                yield before + octet + after
                yield data[: place + 1] + octet + after


def campaign(kind: str, heads: int, seed: int) -> Report:
    """Check a number of mutated messages of one kind."""
    _, seeds, folder, following = KINDS[kind]
    corpus = [*seeds * 4, *(data[1:] for data in read_seeds(folder))]
    corpus += [data + following for data in seeds]
    return read_all(kind, islice(mutations(corpus, seed), heads), Random(seed))


def read_all(kind: str, inputs: Iterable[bytes], random: Random) -> Report:
    """Check the inputs with all parsers, and each eighth in pieces too."""
    check = KINDS[kind][0]
    heads = accepted = 0
    findings: dict[str, bytes] = {}
    for data in filter(None, inputs):
        heads += 1
        is_accepted, faults = check(data)
        accepted += is_accepted
        if not heads % 8:
            faults += check_pieces(data, kind, random)
        for fault in faults:
            # One of the faults with an equal beginning is enough.
            if len(findings) < _MOST_FINDINGS and fault[:48] not in {
                text[:48] for text in findings
            }:
                findings[fault] = data
    return Report(heads, accepted, tuple((data, fault) for fault, data in findings.items()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaigns that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.differential", description=__doc__)
    parser.add_argument("--heads", type=int, default=100_000, help="of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes, each with its share")
    parser.add_argument("--sweep", action="store_true", help="every change of one octet first")
    parser.add_argument("--kind", choices=(*KINDS, "both"), default="both")
    options = parser.parse_args(arguments)
    failed = False
    for kind in KINDS if options.kind == "both" else (options.kind,):
        if options.sweep:
            reports = [read_all(kind, sweep(KINDS[kind][1]), Random(options.seed))]
            failed = _print(f"{kind}, every change of one octet", reports) or failed
        shares = [
            (kind, options.heads // options.jobs, options.seed + 1000 * job)
            for job in range(options.jobs)
        ]
        if options.jobs == 1:
            # A forked child of a process with threads, such as the suite's, can wait forever for a
            # lock.
            reports = [campaign(*shares[0])]
        else:
            with multiprocessing.Pool(options.jobs) as pool:
                reports = pool.starmap(campaign, shares)
        failed = _print(kind, reports) or failed
    return int(failed)


def _print(title: str, reports: Sequence[Report]) -> bool:
    """Print the reports as one; return whether there is a disagreement."""
    findings = tuple(finding for report in reports for finding in report.findings)
    heads, accepted = (
        sum(getattr(report, name) for report in reports) for name in ("heads", "accepted")
    )
    sys.stdout.write(f"{title}: {Report(heads, accepted, findings)}\n")
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main())
