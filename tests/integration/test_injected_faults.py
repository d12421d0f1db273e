"""Tests with an exception at each call of the relay's path (invariant L3).

Wherever it comes from, each client is served, or its connection ends, within its deadlines. No
connection to a back end stays lent, and no request is sent twice.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from twisted.trial.unittest import SynchronousTestCase

import x509proxy
from tests.support.memory import GET, OK, Proxy, RequestTransport, post
from x509proxy.settings import ClientSettings, UpstreamSettings

_PACKAGE = str(Path(x509proxy.__file__).parent)
_PATH = tuple(f"{_PACKAGE}/{name}" for name in ("relay.py", "downstream/", "upstream/", "http1/"))
_CLIENT = ClientSettings(
    handshake_timeout=1,
    head_timeout=1,
    body_timeout=1,
    idle_timeout=1,
    send_timeout=1,
    request_buffer_bytes=4,
)
_UPSTREAM = UpstreamSettings(
    connect_timeout=1, response_timeout=1, read_timeout=1, idle_timeout=1, queue_timeout=1,
    max_connections=1, retry_delay=0.25, max_retry_delay=0.25,
)  # fmt: skip
# Longer than all deadlines of one exchange together, with two back ends.
_TURNS = 64


class Injected(Exception):
    """The exception that a test injects."""


class _Calls:
    """The calls of the path, counted; the one with the number ``fails`` raises."""

    def __init__(self, fails: int = -1) -> None:
        self.count = 0
        self.where = ""
        self._fails = fails

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        # Not generators: their end is a call too, and nobody sees an exception in it.
        if (
            event == "call"
            and code.co_filename.startswith(_PATH)
            and not code.co_flags & inspect.CO_GENERATOR
        ):
            self.count += 1
            if self.count == self._fails:
                self.where = f"{Path(code.co_filename).name}:{code.co_qualname}"
                raise Injected


class _World:
    """A proxy in memory, whose reactor survives exceptions as a real one does."""

    def __init__(self, fails: int = -1) -> None:
        self.calls = _Calls(fails)
        urls = ("http://127.0.0.1:8081", "http://127.0.0.1:8082")
        self.proxy = Proxy(client=_CLIENT, upstream=_UPSTREAM, urls=urls, at_once=False)
        self.clients: list[RequestTransport] = []
        self.requests = 0

    def client(self) -> RequestTransport:
        wire = RequestTransport(self.proxy.clock)
        self.clients.append(wire)
        self.turn(wire, lambda: wire.attach(self.proxy.factory.buildProtocol(None)))
        return wire

    def turn(self, wire: RequestTransport | None, step: Callable[[], object]) -> None:
        """Do a step with the fault; after an exception the reactor ends the connection."""
        before = sys.getprofile()
        sys.setprofile(self.calls)
        try:
            step()
        except Injected:
            sys.setprofile(before)
            if wire is not None and wire.protocol is None:
                # A port closes a connection that no protocol was made for.
                wire.gone = True
            elif wire is not None:
                wire.lose()
        finally:
            sys.setprofile(before)

    def deliver(self, wire: RequestTransport, *pieces: bytes) -> None:
        for piece in pieces:
            self.turn(wire, lambda piece=piece: wire.deliver(piece))  # type: ignore[misc]

    @property
    def wires(self) -> list[RequestTransport]:
        """The connections to back ends that have been made."""
        return [wire for one in self.proxy.back_ends for wire in one.wires if wire.protocol]

    def connect(self, *, refuses: Sequence[int] = ()) -> None:
        """Accept what the proxy connects to, except at the back ends with these numbers."""
        for number, back_end in enumerate(self.proxy.back_ends):
            for attempt in back_end.attempts:
                if attempt.wire.protocol is None and not attempt.deferred.called:
                    step = attempt.fail if number in refuses else attempt.succeed
                    self.turn(attempt.wire, step)

    def answer(self) -> None:
        """Accept connections, and respond to each request that a back end has received."""
        self.connect()
        for wire in self.wires:
            if self.hear(wire).endswith((b"\r\n\r\n", b"0123456789")):
                self.deliver(wire, OK)

    def hear(self, wire: RequestTransport) -> bytes:
        """Return what a back end has received, and count its requests."""
        sent = wire.sent()
        self.requests += sent.count(b" HTTP/1.1\r\n")
        return sent

    def end(self) -> None:
        """Let all deadlines pass; both sides close what the proxy closes."""
        for _ in range(_TURNS):
            self.turn(None, lambda: self.proxy.clock.advance(0.25))
            for wire in (*self.clients, *self.wires):
                if wire.disconnecting and not wire.gone:
                    self.turn(None, wire.lose)
        for wire in self.wires:
            self.hear(wire)


def simple(world: _World) -> None:
    """Play two requests without a body, on the same connections."""
    client = world.client()
    for _ in range(2):
        world.deliver(client, GET)
        world.answer()


def streamed(world: _World) -> None:
    """Play a request whose body is larger than the buffer."""
    client = world.client()
    world.deliver(client, post(b"01234", length=10), b"56789")
    world.answer()


def pipelined(world: _World) -> None:
    """Play two requests that arrive in one piece."""
    client = world.client()
    world.deliver(client, GET + GET)
    world.answer()
    world.answer()


def queued(world: _World) -> None:
    """Play three clients, for one connection to each of two back ends."""
    for _ in range(3):
        world.deliver(world.client(), GET)
    for _ in range(3):
        world.answer()


def second_back_end(world: _World) -> None:
    """Play a back end that refuses the connection, and one that serves the request."""
    world.deliver(world.client(), GET)
    for _ in range(2):
        world.connect(refuses=[0])
    world.answer()


def refused(world: _World) -> None:
    """Play back ends that refuse the connection."""
    world.deliver(world.client(), GET)
    for _ in range(2):
        world.connect(refuses=[0, 1])


class EachCall(SynchronousTestCase):
    def inject(self, play: Callable[[_World], None], requests: int) -> None:
        whole = _World()
        play(whole)
        self.assertEqual(requests, whole.requests)
        faults = []
        for number in range(1, whole.calls.count + 1):
            world = _World(number)
            play(world)
            world.end()
            self.assertTrue(world.calls.where)
            # A request that may have been sent is never sent again.
            self.assertLessEqual(world.requests, requests, world.calls.where)
            if left := self.left(world):
                faults.append(f"{number} {world.calls.where}: {left}")
        self.flushLoggedErrors(Injected)
        self.assertEqual([], faults)

    def left(self, world: _World) -> str:
        """Return what has not ended."""
        proxy = world.proxy
        left = [f"{proxy.factory.connections} clients"] if proxy.factory.connections else []
        left += [repr(pool) for pool in proxy.pools if pool.load or pool._uploads or pool._idle]
        left += ["a client hangs" for wire in world.clients if not (wire.aborted or wire.gone)]
        left += ["a back end hangs" for wire in world.wires if not (wire.aborted or wire.gone)]
        return ", ".join(left)

    def test_simple(self) -> None:
        """A request without a body."""
        self.inject(simple, 2)

    def test_streamed(self) -> None:
        """A body that is streamed."""
        self.inject(streamed, 1)

    def test_pipelined(self) -> None:
        """A request that arrives together with another one."""
        self.inject(pipelined, 2)

    def test_queued(self) -> None:
        """A request that waits for a connection."""
        self.inject(queued, 3)

    def test_second_back_end(self) -> None:
        """A request whose first back end refuses the connection."""
        self.inject(second_back_end, 1)

    def test_refused(self) -> None:
        """A request that no back end accepts."""
        self.inject(refused, 0)
