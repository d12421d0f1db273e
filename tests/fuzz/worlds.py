"""Clients and back ends around one proxy in memory, whose events are a matter of chance.

W1: a back end receives each request once, in order, with the certificate of its own connection.
W2: no octet of one exchange appears in another. W3: nothing of a malformed request is complete, and
nothing follows it. W4: a response is complete for its client only if it was for the back end. W5:
no traceback, no secret in a log or a response, and no connection is left over.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import attrs
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from twisted.protocols.tls import TLSMemoryBIOFactory

from tests.fuzz.play import log_faults, recorded_log
from tests.support.memory import CUT, HEADER, BackEnd, Proxy, RequestTransport
from tests.support.reference_parsers import CLIENTS, SERVERS, Answer, HttpError, fold
from tests.support.tls_back_end import BACK_END_CONTEXT, over_tls
from x509proxy.certificates.pem_files import Identity
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.downstream.factory import TlsFactory
from x509proxy.settings import Backend, ClientAuth, ClientSettings, UpstreamSettings
from x509proxy.transport.tls_context import ServerConnections, make_context, pyopenssl_key
from x509proxy.upstream.pool import Pool

__all__ = ["World", "faults_of", "search"]

_SERVER = make_self_signed(KeyKind.EC, "localhost", server=True)
_CONNECTIONS = ServerConnections(
    make_context(Identity(_SERVER.certificate, _SERVER.private_key), ClientAuth.OPTIONAL)
)
_PEOPLE = [make_self_signed(KeyKind.EC, f"client {number}") for number in range(3)]
_PEMS = [
    b"-----BEGIN CERTIFICATE-----%b-----END CERTIFICATE-----"
    % b64encode(one.certificate.public_bytes(Encoding.DER))
    for one in _PEOPLE
]
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_STRAY = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nSTRAY"
_HEADS = re.compile(rb"[A-Z]+ /(\d+)\.(\d+) HTTP/1\.1\r\n(?:[^\r]+\r\n)*\r\n")
_OWN = re.compile(rb"\r\n%b: ([^\r]*)" % HEADER, re.IGNORECASE)
_SIZES = (0, 1, 20, 900, 1500, 20000, 70000)
_BAD_FIELDS = (b"Host: b", b"X Y: z", b" folded", b"Content-Length: 1, 1", b"Connection: host")
_BAD_CHUNKS = (b"zz\r\n", b"-1\r\n", b"1\na\r\n", b"0x1\r\na\r\n")
_BAD_RESPONSES = (
    b"\0",
    b"HTTP/1.1 101 S\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\na",
)


def _client_context(who: int | None, version: int) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    if who is not None:
        context.use_certificate(_PEOPLE[who].certificate)
        context.use_privatekey(pyopenssl_key(_PEOPLE[who].private_key))
    return context


_CLIENT_CONTEXTS = {
    who: [_client_context(who, version) for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION)]
    for who in (None, *range(len(_PEOPLE)))
}


def _in_chunks(data: bytes, random: Random) -> list[bytes]:
    chunks = []
    while data:
        size = random.choice((1, 50, 1000)) if len(data) < 2000 else random.choice((3000, 40000))
        chunks.append(b"%x\r\n%b\r\n" % (len(data[:size]), data[:size]))
        data = data[size:]
    return chunks


@attrs.define(eq=False)
class Script:
    """One request of a client.

    ``bad``: malformed in its ``head`` or in its ``body``; ``response``: the status and the body
    that a back end has sent completely.
    """

    name: bytes
    method: bytes
    body: bytes
    data: bytes
    is_last: bool
    bad: str
    response: tuple[int, bytes] | None = None

    @classmethod
    def made(cls, name: bytes, random: Random) -> Script:
        """Make a request by chance; its body has its name."""
        kind = random.choice(("GET", "GET", "HEAD", "POST", "POST", "CHUNKS", "CHUNKS", "BAD"))
        bad = random.choice(("head", "body")) if kind == "BAD" else ""
        method = {"GET": b"GET", "HEAD": b"HEAD"}.get(kind, b"POST")
        is_chunked = kind == "CHUNKS" or bad == "body"
        version = b"1.1" if is_chunked else random.choice((b"1.1", b"1.1", b"1.1", b"1.0"))
        closes = random.random() < 0.1
        body = b""
        if kind in ("POST", "CHUNKS"):
            body = (b"<%b>" % name * 20000)[: random.choice(_SIZES)]
        fields = [b"Host: as.example", b"%b: %b" % (HEADER.lower(), random.choice(_PEMS))]
        if random.random() < 0.2:
            fields.append(b"Expect: 100-continue")
        if closes:
            fields.append(b"Connection: close")
        if bad == "head":
            fields.append(random.choice(_BAD_FIELDS))
        pieces = [body]
        if is_chunked:
            fields.append(b"Transfer-Encoding: chunked")
            pieces = _in_chunks(body or b"<%b>" % name * 300, random) if bad or body else []
            if bad:
                pieces.insert(random.randrange(len(pieces)), random.choice(_BAD_CHUNKS))
            pieces.append(b"0\r\n%b: forged\r\n\r\n" % HEADER)
        elif method == b"POST":
            fields.append(b"Content-Length: %d" % len(body))
        head = [b"%b /%b HTTP/%b" % (method, name, version), *fields, b"", b""]
        is_last = closes or version == b"1.0" or bool(bad)
        return cls(name, method, body, b"\r\n".join(head) + b"".join(pieces), is_last, bad)


class Peer:
    """The test's end of one connection, plain or over TLS. ``pending``: octets to deliver."""

    def __init__(self, wire: RequestTransport, tls: SSL.Connection | None) -> None:
        self.wire = wire
        self.received = b""
        self.pending = b""
        self.is_full = self.has_end = False
        # Before the handshake is complete, OpenSSL takes no data.
        self.is_ready = tls is None
        self._tls = tls

    @property
    def is_over(self) -> bool:
        """True if the proxy has ended or cut the connection, or the other side has."""
        return self.wire.gone or self.wire.aborted

    def receive(self) -> bool:
        """Take what the proxy has written; return true if there was anything."""
        data = b"" if self.is_full else self.wire.sent()
        if self._tls is None:
            self.received += data
            self.has_end = self.wire.disconnecting and not self.wire.aborted
            return bool(data)
        before = len(self.received)
        if data:
            self._tls.bio_write(data)
        try:
            self._tls.do_handshake()
            self.is_ready = True
            while True:
                self.received += self._tls.recv(1 << 16)
        except SSL.ZeroReturnError:
            self.has_end = not self.wire.aborted
        except SSL.Error:
            pass
        self._collect()
        return len(self.received) > before

    def send(self, records: Sequence[bytes]) -> None:
        """Encrypt the records, if the connection is over TLS, and keep them for delivery."""
        if self._tls is None:
            self.pending += b"".join(records)
            return
        with contextlib.suppress(SSL.Error):
            for record in records:
                rest = record
                while rest:
                    rest = rest[self._tls.send(rest) :]
        self._collect()

    def deliver(self, size: int) -> None:
        """Deliver up to ``size`` octets, if the proxy reads."""
        if self.pending and self.wire.reading and not (self.is_over or self.wire.disconnecting):
            data, self.pending = self.pending[:size], self.pending[size:]
            self.wire.deliver(data)

    def end_tls(self) -> None:
        """Send close_notify behind all that is pending."""
        if self._tls is not None:
            with contextlib.suppress(SSL.Error):
                self._tls.shutdown()
            self._collect()
        self.deliver(1 << 30)

    def end(self) -> None:
        """End the connection cleanly."""
        self.end_tls()
        self.wire.lose()

    def fill(self, *, is_full: bool) -> None:
        """Stop reading, or read again."""
        if not self.is_over and self.is_full is not is_full:
            self.is_full = is_full
            (self.wire.fill if is_full else self.wire.drain)()

    def _collect(self) -> None:
        assert self._tls is not None
        with contextlib.suppress(SSL.WantReadError):
            self.pending += self._tls.bio_read(1 << 24)


class Client(Peer):
    """A client with its requests; ``who``: the number of its certificate."""

    def __init__(self, number: int, proxy: Proxy, random: Random) -> None:
        wire, kind = RequestTransport(proxy.clock), random.choice(("plain", "own", "stock"))
        self.who = None if kind == "plain" else random.choice((None, *range(len(_PEOPLE))))
        tls, factory = None, proxy.factory
        if kind != "plain":
            tls = SSL.Connection(random.choice(_CLIENT_CONTEXTS[self.who]), None)
            tls.set_connect_state()
            factory = _over(kind, proxy)
        super().__init__(wire.attach(factory.buildProtocol(None)), tls)
        self.is_stock = kind == "stock"
        self.scripts = [
            Script.made(b"%d.%d" % (number, count), random) for count in range(random.randint(1, 6))
        ]
        self.left = False
        self._unsent = b"".join(script.data for script in self.scripts)
        self._random = random

    def act(self, size: int) -> None:
        """Send up to ``size`` octets in records, and deliver some or all of what is pending."""
        if self.is_ready and self._unsent:
            piece, self._unsent = self._unsent[:size], self._unsent[size:]
            step = self._random.choice((1, 40, 2000, 16384)) if size < 3000 else 9000
            self.send([piece[place : place + step] for place in range(0, len(piece), step)])
        self.deliver(self._random.choice((7, 600, 30000, 1 << 30)))

    def responses(self) -> tuple[list[Answer], list[str]]:
        """Return the complete responses in the reading of h11, and its objections."""
        methods = [script.method for script in self.scripts]
        try:
            data = self.received.replace(_CONTINUE, b"")
            return CLIENTS["h11"](data, methods, self.has_end), []
        except HttpError as error:
            # The method of a head that does not come in time is unknown.
            return [], [] if b"HTTP/1.1 408 " in self.received else [str(error)]


def _over(kind: str, proxy: Proxy) -> Any:
    if kind == "own":
        return TlsFactory(_CONNECTIONS, proxy.factory, proxy.clock)
    return TLSMemoryBIOFactory(_CONNECTIONS, False, proxy.factory, proxy.clock)


class Server(Peer):
    """A back end's end of a connection: it responds to each request in its own way."""

    def __init__(self, wire: RequestTransport, world: World, *, is_tls: bool) -> None:
        tls = SSL.Connection(BACK_END_CONTEXT, None) if is_tls else None
        if tls is not None:
            tls.set_accept_state()
        super().__init__(wire, tls)
        self.heads: list[bytes] = []
        self._world = world
        self._script: Script | None = None
        # The packets of a response, each with its records; then perhaps the connection's end.
        self._packets: list[list[bytes]] = []
        self._then = ""
        self._is_mute = self._responds = False
        self._early = world.random.random() < 0.3

    def act(self) -> None:
        """Read the requests, and send one packet of a response."""
        self.read()
        if self._packets and self.wire.reading:
            self.send(self._packets.pop(0))
        elif self._then and not self._packets:
            then, self._then = self._then, ""
            self._is_mute = True
            if then == "end":
                self.end()
            elif then == "cut":
                self.cut()
        self.deliver(1 << 30)
        if not self._packets:
            self._responds = False
            self._next()

    def read(self) -> None:
        """Read the requests that have arrived."""
        if not self.receive() or self._is_mute:
            return
        for head in _HEADS.finditer(self.received):
            if head[0] not in self.heads:
                self.heads.append(head[0])
                self._world.arrived(self, head)
        self._next()

    def cut(self) -> None:
        """Cut the connection, perhaps within a response."""
        if self._packets and self._script is not None:
            self._script.response = None
        self.wire.lose(CUT)

    def _next(self) -> None:
        """Respond to the next request, if it is complete, or at once."""
        if self._is_mute or self._responds or len(self.heads) <= self._world.served.get(self, 0):
            return
        complete = SERVERS["httptools"](self.received).requests
        served = self._world.served.get(self, 0)
        if served < len(complete) or self._early:
            self._world.served[self] = served + 1
            self._responds = True
            head = _HEADS.match(self.heads[served])
            assert head is not None
            self._respond(self._world.script(head))

    def _respond(self, script: Script) -> None:
        random = self._world.random
        status = random.choice((200, 201, 400, 500))
        body = (b"{%b}" % script.name * 20000)[: random.choice(_SIZES)]
        kind = random.choice(_KINDS if self._world.is_hostile else _KINDS[:7])
        start = b"HTTP/1.1 %d X\r\nX-Name: %b\r\nVary: %b\r\n" % (status, script.name, HEADER)
        records = [start + b"Content-Length: %d\r\n\r\n" % len(body), body]
        if kind == "chunks":
            chunks = _in_chunks(body, random)
            records = [start + b"Transfer-Encoding: chunked\r\n\r\n", *chunks, b"0\r\n\r\n"]
        elif kind == "close":
            records = [start + b"\r\n", body]
        elif kind in ("204", "304"):
            status, body = int(kind), b""
            records = [start.replace(start[9:12], kind.encode("ascii"), 1) + b"\r\n"]
        elif kind == "interim":
            records[0] = b"HTTP/1.1 103 Early\r\nLink: a\r\n\r\n" + records[0]
        elif kind == "garbage":
            # The last one is malformed in its body.
            records = [random.choice(_BAD_RESPONSES[: -1 if script.method == b"HEAD" else None])]
        if script.method == b"HEAD":
            records, body = records[:1], b""
        if kind == "stray":
            records.append(_STRAY)
        script.response = None if kind in ("garbage", "cut") else (status, body)
        if kind == "cut":
            text = b"".join(records)
            records = [text[: random.randrange(1, len(text))]]
        self._then = {"close": "end", "cut": "cut", "garbage": "mute", "stray": "mute"}.get(
            kind, ""
        )
        self._packets = self._in_packets([record for record in records if record], kind)

    def _in_packets(self, records: list[bytes], kind: str) -> list[list[bytes]]:
        """Divide the records into packets; what is behind a response comes with its end."""
        if kind == "stray" or self._world.random.random() < 0.4:
            return [records]
        if self._world.random.random() < 0.3:
            text = b"".join(records)
            place = self._world.random.randrange(len(text))
            return [[text[:place]], [text[place:]]]
        return [[record] for record in records]


_KINDS = (
    "length", "length", "chunks", "close", "204", "304", "interim", "garbage", "cut", "stray",
)  # fmt: skip


_THEN = {"close": "end", "cut": "cut", "garbage": "mute", "stray": "mute"}


class World:
    """A proxy, its clients and its back ends; ``served``: how many responses have begun."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        self.is_hostile, self.is_wild = random.random() < 0.5, random.random() < 0.5
        upstream = UpstreamSettings(
            max_connections=random.choice((1, 1, 2, 8)), max_queued_requests=random.choice((1, 50))
        )
        self.proxy = proxy = Proxy(
            client=ClientSettings(
                request_buffer_bytes=1024, max_requests_per_connection=random.choice((2, 1000))
            ),
            upstream=upstream,
        )
        self._back_ends = [
            (BackEnd(proxy.clock, at_once=random.random() < 0.7), random.random() < 0.5)
            for _ in range(random.choice((1, 1, 2)))
        ]
        proxy.pools = [
            Pool(
                Backend.parse("https://localhost" if is_tls else "http://localhost"),
                over_tls(back_end, proxy.clock) if is_tls else back_end,
                proxy.deadlines,
                upstream,
            )
            for back_end, is_tls in self._back_ends
        ]
        self._servers: dict[RequestTransport, Server] = {}
        self.served: dict[Server, int] = {}
        self.clients = [Client(number, proxy, random) for number in range(random.randint(1, 4))]
        self._latest: dict[int, int] = {}
        self._found: list[str] = []

    # The back ends call.

    def script(self, head: re.Match[bytes]) -> Script:
        """Return the request of this name."""
        return self.clients[int(head[1])].scripts[int(head[2])]

    def arrived(self, server: Server, head: re.Match[bytes]) -> None:
        """Check the head of a request that has reached a back end."""
        client, number = int(head[1]), int(head[2])
        scripts, who = self.clients[client].scripts, self.clients[client].who
        expected = [] if who is None else [_PEMS[who]]
        if _OWN.findall(head[0]) != expected or head[0].count(b"CERTIFICATE") != 2 * len(expected):
            self._found.append(f"{head[0]!r} of the owner of certificate {who}")
        if scripts[number].bad == "head" or any(script.is_last for script in scripts[:number]):
            self._found.append(f"{head[0]!r} is malformed, or behind a last request")
        if number <= self._latest.get(client, -1) and not server.is_over:
            self._found.append(f"{head[0]!r} came twice, or late")
        self._latest[client] = number

    # Events.

    def step(self) -> None:
        """Let one thing happen."""
        weights = (34, 20, 45, 6, 4, 8, 3 if self.is_wild else 0)
        acts = (
            self._send, self._receive, self._serve, self._wait, self._accept, self._fill,
            self._disturb,
        )  # fmt: skip
        self.random.choices(acts, weights)[0]()
        self._end_connections()
        for server in self._all_servers():
            server.read()

    def _client(self) -> Client:
        return self.random.choice(self.clients)

    def _send(self) -> None:
        self._client().act(self.random.choice((3, 50, 400, 5000, 60000, 200000)))

    def _receive(self) -> None:
        self._client().receive()

    def _serve(self) -> None:
        if servers := self._all_servers():
            server = self.random.choice(servers[-4:])
            for _ in range(self.random.choice((1, 1, 40))):
                server.act()

    def _wait(self) -> None:
        self.proxy.clock.advance(self.random.choice((0, 0, 0.3)))

    def _fill(self) -> None:
        peer = self.random.choice([*self.clients, *self._all_servers()])
        peer.fill(is_full=not peer.is_full)

    def _disturb(self) -> None:
        client, servers = self._client(), self._all_servers()
        match self.random.randrange(5):
            case 0:
                client.left = True
                client.end()
            # Twisted's own TLS answers each close_notify.
            case 3 if not client.is_stock:
                client.left = True
                client.end_tls()
            case 1:
                client.left = True
                client.wire.lose(CUT)
            case 2 if servers:
                self.random.choice(servers).cut()
            case _:
                self.proxy.clock.advance(self.random.choice((1, 3, 40)))

    def _all_servers(self) -> list[Server]:
        for back_end, is_tls in self._back_ends:
            for wire in back_end.wires:
                if wire.protocol is not None and wire not in self._servers:
                    self._servers[wire] = Server(wire, self, is_tls=is_tls)
        return [*self._servers.values()]

    def _accept(self) -> None:
        for back_end, _ in self._back_ends:
            for attempt in back_end.attempts:
                if attempt.wire.protocol is None and not attempt.deferred.called:
                    attempt.succeed()

    def _end_connections(self) -> None:
        """End the connections that the proxy closes, as TCP does when all is sent."""
        for peer in (*self.clients, *self._servers.values()):
            if peer.wire.disconnecting and not (peer.is_full or peer.is_over):
                peer.receive()
                peer.wire.lose()

    def run(self) -> list[str]:
        """Let many things happen, and then everything come to its end; return the faults."""
        for _ in range(self.random.choice((60, 200, 400))):
            self.step()
        for _ in range(600):
            self._calm_turn()
        self._check_responses()
        for client in self.clients:
            client.wire.lose()
        for _ in range(8):
            self.proxy.clock.advance(100)
            self._end_connections()
        self._check_servers()
        if self.proxy.factory.connections or any(
            pool.load or pool.status().idle for pool in self.proxy.pools
        ):
            self._found.append(f"left over: {self.proxy.pools}")
        return self._found

    def _calm_turn(self) -> None:
        self._accept()
        for peer in (*self._all_servers(), *self.clients):
            peer.fill(is_full=False)
        for server in self._all_servers():
            server.act()
        for client in self.clients:
            client.act(200000)
            client.receive()
        self.proxy.clock.advance(0.01)
        self._end_connections()

    # Faults.

    def _check_responses(self) -> None:
        for client in self.clients:
            found, wrong = client.responses()
            self._found.extend(wrong)
            if fold(HEADER) in fold(client.received) or b"STRAY" in client.received:
                self._found.append("a secret, or octets of no response, for a client")
            for response, script in zip(found, client.scripts, strict=False):
                self._check_response(response, script)
            is_stuck = len(found) < len(client.scripts) and not any(
                script.is_last for script in client.scripts[: len(found)]
            )
            gentle = not (self.is_hostile or self.is_wild or client.left)
            is_ended = client.is_over or client.has_end or client.wire.disconnecting
            if is_stuck and gentle and not is_ended:
                self._found.append(f"no response to {client.scripts[len(found)].name!r}")

    def _check_response(self, response: Answer, script: Script) -> None:
        if (b"cache-control", b"no-store") in response.pairs:
            return  # the proxy's own
        names = [value for name, value in response.pairs if name == b"x-name"]
        if names != [script.name] or script.response != (response.status, response.body):
            self._found.append(f"{response} in response to {script.name!r}, not {script.response}")

    def _check_servers(self) -> None:
        for server in self._servers.values():
            for request in SERVERS["httptools"](server.received).requests:
                found = re.fullmatch(rb"/(\d+)\.(\d+)", request.target)
                script = None if found is None else self.script(found)
                if script is None or script.bad or request.body != script.body:
                    self._found.append(f"{request} is not {script}")


def faults_of(seed: int) -> list[str]:
    """Return the faults of the world with this number."""
    with recorded_log() as log:
        try:
            found = World(seed).run()
        except Exception as error:
            # Any exception comes from this seed, and the report needs it.
            found = [f"{type(error).__name__}: {error}"]
    return [*found, *log_faults(log)]


def search(seeds: Sequence[int], seconds: float = 1e9) -> Iterator[tuple[int, str]]:
    """Yield the seeds with faults, and the first fault of each, until the time is over."""
    end = time.monotonic() + seconds
    for seed in seeds:
        if time.monotonic() > end:
            return
        if found := faults_of(seed):
            yield seed, found[0]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.worlds", description=__doc__)
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--worlds", type=int, default=1000, help="how many (default: 1000)")
    options = parser.parse_args(arguments)
    found = [*search(range(options.first, options.first + options.worlds))]
    for seed, fault in found:
        sys.stdout.write(f"seed {seed}: {fault[:1000]}\n")
    sys.stdout.write(f"{options.worlds} worlds, {len(found)} with faults\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
