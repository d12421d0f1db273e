"""Tests of invariant L4: the secret name, certificates and keys are in no output."""

from __future__ import annotations

import io
import os
import random
import signal
import ssl
import stat
import string
import subprocess
import sys
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import attrs
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.internet.testing import MemoryReactorClock
from twisted.internet.threads import deferToThread
from twisted.logger import ILogObserver, LogEvent, eventAsJSON, eventAsText, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Site
from zope.interface import implementer

from tests.support.daemons import ROOT, TWIST, TWISTD, Daemon, DaemonTestCase, is_running
from tests.support.memory import HEADER as NAME
from tests.support.memory import OK, Proxy, RequestTransport, undated
from tests.support.names import secret_name
from tests.support.raw_tls import HEADER, ProxyTestCase, get, read_to_end, until
from tests.support.services import ProxyFiles, parse_options, server_of
from x509proxy import relay
from x509proxy.certificates.client_certificate import ClientCertificate
from x509proxy.certificates.self_signed import KeyKind, SelfSigned, make_self_signed
from x509proxy.downstream import base_request, channel, request
from x509proxy.exchange import Exchange, Outcome
from x509proxy.forwarding import decision
from x509proxy.http1 import request_parser, response_parser
from x509proxy.monitoring.access_log_format import access_line
from x509proxy.service.options import makeService
from x509proxy.service.proxy_service import ProxyService
from x509proxy.settings import (
    ClientAuth,
    ClientSettings,
    PolicySettings,
    SettingsError,
    UpstreamSettings,
)
from x509proxy.testing import Answer, client_identity
from x509proxy.upstream import connection as upstream
from x509proxy.upstream import pool

# A wrong name, as long as the secret one.
WRONG = secret_name("wrong")
PIECE = 32


def fold(text: str) -> str:
    """Fold a name like the least strict server, without the product's function."""
    return "".join(mark if mark.isascii() and mark.isalnum() else "-" for mark in text.lower())


def secret_forms(octets: bytes) -> Iterator[str]:
    """Yield the forms in which bytes occur in a text."""
    yield b64encode(octets).decode()
    yield urlsafe_b64encode(octets).decode()
    yield octets.hex()
    yield repr(octets)[2:-1]


def private_forms(made: SelfSigned) -> Iterator[str]:
    """Yield the forms of a private key, and its number."""
    yield from secret_forms(
        made.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    )
    assert isinstance(made.private_key, ec.EllipticCurvePrivateKey)
    number = made.private_key.private_numbers().private_value
    yield from (str(number), f"{number:x}")


@implementer(ILogObserver)
@attrs.define
class OutputRecorder:
    """All output, and the forms of the secrets in it.

    ``recorded`` pairs each text with its origin.
    """

    name: str = HEADER
    recorded: list[tuple[str, str]] = attrs.field(factory=list)
    forms: list[str] = attrs.field(factory=list)

    def record(self, where: str, text: str | bytes) -> None:
        self.recorded.append((where, text.decode("latin-1") if isinstance(text, bytes) else text))

    def __call__(self, event: LogEvent) -> None:
        """Record an event of the log as text, as JSON, and with its raw values."""
        self.record("log", eventAsText(event, includeTraceback=True))
        self.record("log as JSON", eventAsJSON(event))
        self.record("raw log event", repr(event))
        self.record(
            "values of a log event", " ".join(f"{value!r} {value}" for value in event.values())
        )

    def exchange(self, exchange: Exchange) -> None:
        self.record("access log", access_line(exchange))
        self.record("repr of an exchange", repr(exchange))

    def keep_secret(self, *made: SelfSigned, private: bool = False) -> None:
        """Add certificates to the secrets; with ``private``, keys."""
        for each in made:
            forms = (
                private_forms(each)
                if private
                else secret_forms(each.certificate.public_bytes(Encoding.DER))
            )
            self.forms.extend(forms)

    def leaks(self) -> list[str]:
        """Return each record with a secret, or a piece of one."""
        name = fold(self.name)
        pieces = {
            form[place : place + PIECE]
            for form in self.forms
            for place in range(0, max(1, len(form) - PIECE), PIECE // 2)
        }
        found = []
        for where, text in self.recorded:
            joined = "".join(text.replace("\\n", "").split())
            if name in fold(text) or name in fold(joined):
                found.append(f"{where}: the name: {text[:300]}")
            elif "-----BEGIN" in text or any(piece in joined for piece in pieces):
                found.append(f"{where}: a certificate or key: {text[:300]}")
        return found


def spellings(name: str) -> list[str]:
    """Return the name in the spellings that an attacker may try."""
    random_case = "".join(random.Random(3).choice([mark.lower(), mark.upper()]) for mark in name)
    others = [name.replace("-", mark) for mark in "_.!~*'`|^"]
    return [
        name,
        name.lower(),
        name.upper(),
        random_case,
        *others,
        name.replace("-", "_", 1),
        f"{name}_",
        f"_{name}",
    ]


def forgeries(name: str) -> list[list[str]]:
    """Return header lines, one list for each request."""
    lines = [[f"{spelling}: EVIL"] for spelling in spellings(name)]
    lines += [
        [f"{name}: a", f"{name}: b", f"{name.lower()}: c"],
        [f"{name}:"],
        [f"{name}: -----BEGIN CERTIFICATE-----MIIB-----END CERTIFICATE-----"],
        [f"Connection: {name}", f"{name}: EVIL"],
        [f"Connection: close, {name.replace('-', '_')}"],
        [f"Trailer: {name}", f"TE: {name}", f"Upgrade: {name}", f"Via: 1.1 {name}"],
        [
            f"Cookie: {name}=1",
            f"Referer: https://localhost/{name}",
            f"User-Agent: {name}",
            f"Authorization: {name} x",
        ],
    ]
    return lines


def bad_request(name: str) -> list[bytes]:
    """Yield requests that are rejected, with the name in the part at fault."""
    host = "Host: localhost"
    texts = [
        f"{name}\r\n\r\n",
        f"{name} / HTTP/1.1\r\n{host}\r\n\r\n",
        f"GET /{name} HTTP/{name}\r\n{host}\r\n\r\n",
        f"GET {name} HTTP/1.1\r\n{host}\r\n\r\n",
        f"GET http://{name}/ HTTP/1.1\r\n{host}\r\n\r\n",
        f"GET /\x7f{name} HTTP/1.1\r\n{host}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: {name}, {name}\r\n\r\n",
        f"GET / HTTP/1.1\r\n{host}\r\n{name}\r\n\r\n",
        f"GET / HTTP/1.1\r\n{host}\r\n{name} : x\r\n\r\n",
        f"GET / HTTP/1.1\r\n{host}\r\n {name}: x\r\n\r\n",
        f"GET / HTTP/1.1\r\n{host}\r\nA: b\r\n {name}: x\r\n\r\n",
        f"GET / HTTP/1.1\r\n{host}\r\n{name}: \x01\r\n\r\n",
        f"GET / HTTP/1.1\r\n{host}\r\n{name}\xff: x\r\n\r\n",
        f"GET / HTTP/1.1\r\n{host}\r\nA: b\n{name}: x\r\n\r\n",
        f"GET / HTTP/1.1\r\n{host}\r\nExpect: {name}\r\n\r\n",
        f"GET / HTTP/1.1\r\n{host}\r\nConnection: Host, {name}\r\n\r\n",
        f"GET / HTTP/1.1\r\n{host}\r\n{name}: {'x' * 9000}\r\n\r\n",
        f"GET / HTTP/1.1\r\n{host}\r\n" + f"{name}: x\r\n" * 120 + "\r\n",
        f"POST / HTTP/1.1\r\n{host}\r\nContent-Length: {name}\r\n\r\n",
        f"POST / HTTP/1.1\r\n{host}\r\nTransfer-Encoding: {name}\r\n\r\n",
        f"POST / HTTP/1.1\r\n{host}\r\nContent-Type: a\r\nContent-Type: {name}\r\n\r\n",
        f"POST / HTTP/1.1\r\n{host}\r\nTransfer-Encoding: chunked\r\n\r\n{name}\r\n",
        f"POST / HTTP/1.1\r\n{host}\r\nTransfer-Encoding: chunked\r\n\r\n"
        f"1\r\nx\r\n0\r\n{name}\x01: x\r\n\r\n",
        f"POST / HTTP/1.1\r\n{host}\r\nContent-Length: 9999999\r\n{name}: x\r\n\r\n",
        f"TRACE / HTTP/1.1\r\n{host}\r\n{name}: x\r\n\r\n",
        f"CONNECT {name}:443 HTTP/1.1\r\nHost: {name}:443\r\n\r\n",
    ]
    return [text.encode("latin-1") for text in texts]


def back_end_faults(name: bytes) -> list[Answer]:
    """Return responses of a faulty back end that contain the name."""
    ok = b"HTTP/1.1 200 OK\r\n"
    length = b"Content-Length: 5\r\n"
    texts = [
        name + b"\r\n\r\n",
        b"HTTP/1.1 " + name + b"\r\n\r\n",
        b"HTTP/" + name + b" 200 OK\r\n\r\n",
        b"HTTP/1.1 700 " + name + b"\r\nContent-Length: 0\r\n\r\n",
        ok + name + b"\r\n\r\n",
        ok + name + b" : x\r\n\r\n",
        ok + name + b": \x01\r\n\r\n",
        ok + b"A: b\n" + name + b": x\r\n\r\n",
        ok + b"Content-Length: " + name + b"\r\n\r\n",
        ok + b"Transfer-Encoding: " + name + b"\r\n\r\n",
        ok + length + b"Content-Length: 6\r\n" + name + b": x\r\n\r\nhello",
        ok + name + b": " + b"x" * 40000 + b"\r\n\r\n",
        ok + (name + b": x\r\n") * 300 + b"\r\n",
        ok + b"Transfer-Encoding: chunked\r\n\r\n" + name + b"\r\n",
        b"HTTP/1.1 101 " + name + b"\r\nUpgrade: " + name + b"\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 103 Early\r\n"
        + name
        + b": x\r\nContent-Length: 5\r\n\r\nhello"
        + ok
        + b"Content-Length: 0\r\n\r\n",
    ]

    def cut(after: bytes) -> Callable[[Any], None]:
        def act(transport: Any) -> None:
            transport.write(after)
            transport.loseConnection()

        return act

    partial = [b"", ok, ok + name + b": x", ok + length + name + b": x\r\n\r\nhel"]
    return [
        *texts,
        *map(cut, partial),
        lambda transport: transport.abortConnection(),
        lambda _: None,
    ]


def site(resource: Any) -> Any:
    """Make a stock ``Site`` with a short timeout for the rest of a malformed request."""
    made: Any = Site(resource, timeout=0.5)
    # Its own access log repeats the target, Referer and User-Agent of any client
    # (docs/threat-model.rst).
    made.log = id
    return made


class RecordedTestCase(ProxyTestCase):
    """A test with a proxy, and a recorder of all its output."""

    patience: ClassVar[float] = 5.0
    strict: ClassVar[bool] = True

    stock: ClassVar[bool] = False

    def listen(self, *back_end: Answer, **options: Any) -> None:
        self.recorder = OutputRecorder()
        self.client = client_identity()
        self.recorder.keep_secret(self.client)
        globalLogPublisher.addObserver(self.recorder)
        self.addCleanup(globalLogPublisher.removeObserver, self.recorder)
        options.setdefault("upstream", UpstreamSettings(response_timeout=0.3, read_timeout=0.3))
        options.setdefault("client", ClientSettings(idle_timeout=0.3))
        self.start(*back_end, factory=site if self.stock else None, **options)

    async def say(self, *requests: bytes, client: SelfSigned | None = None) -> list[bytes]:
        """Return the response to each request, on a new connection each.

        The recorder has these responses.
        """

        def run() -> list[bytes]:
            answers_ = []
            for said in requests:
                with self.proxy.connect(client or self.client, timeout=self.patience) as connection:
                    connection.sendall(said)
                    answers_.append(read_to_end(connection))
            return answers_

        recorded: list[bytes] = await deferToThread(run)
        for answer in recorded:
            self.recorder.record("answer", answer)
        return recorded

    def expect_silence(self) -> None:
        for exchange in self.proxy.exchanges:
            self.recorder.exchange(exchange)
        self.flushLoggedErrors()
        self.assertEqual([], self.recorder.leaks())


class Said(RecordedTestCase):
    """Logs, records and responses contain no secret.

    This class runs under the proxy's own factory.
    """

    async def test_good_exchanges(self) -> None:
        """Good requests disclose nothing, with and without a certificate."""
        self.listen()
        for version in ("1.1", "1.0"):
            for method in ("GET", "HEAD", "DELETE", "OPTIONS"):
                self.assertEqual(
                    [b"200"],
                    [
                        answer[9:12]
                        for answer in await self.say(get(method=method, version=version))
                    ],
                )
        post = (
            b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Length: 2\r\n\r\nhi"
        )
        await self.say(post)
        self.assertEqual(9, len(self.back_end.requests))
        self.expect_silence()

    async def test_forged_headers(self) -> None:
        """Forged headers, in each spelling and place, are counted, and disclosed nowhere."""
        self.listen()
        recorded = await self.say(*(get("/", *lines) for lines in forgeries(HEADER)))
        self.assertEqual({b"200"}, {answer[9:12] for answer in recorded})
        self.assertGreater(sum(exchange.forged for exchange in self.proxy.exchanges), 5)
        self.expect_silence()

    async def test_malformed_requests(self) -> None:
        """A malformed request is rejected without any part of it in the output."""
        self.listen()
        recorded = await self.say(*bad_request(HEADER))
        if self.strict:
            self.assertNotIn(b"200", [answer[9:12] for answer in recorded])
            self.assertEqual([], self.back_end.requests)
        self.expect_silence()

    async def test_refused_certificates(self) -> None:
        """The log names rejected certificates by thumbprint and subject only."""
        old = make_self_signed(KeyKind.EC, "old", days=1, now=datetime.now(UTC) - timedelta(days=9))
        large = make_self_signed(
            KeyKind.EC, "large", names=[f"{number}.example" for number in range(800)]
        )
        self.listen(policy=PolicySettings(client_certificate=ClientAuth.REQUIRED))
        self.recorder.keep_secret(old, large)
        statuses = [
            (await self.say(get("/", f"{HEADER}: EVIL"), client=client))[0][9:12]
            for client in (old, large)
        ]
        self.assertEqual([b"401", b"400"], statuses)

        def step(connection: ssl.SSLSocket) -> bytes:
            connection.sendall(get())
            return read_to_end(connection)

        recorded = await self.dialogue(step)
        self.assertEqual(b"401", recorded[9:12])
        self.recorder.record("answer", recorded)
        self.assertEqual([], self.back_end.requests)
        self.expect_silence()

    async def test_failing_back_ends(self) -> None:
        """A failing back end, with the name in its output, is 502, 504 or an abort."""
        faults = back_end_faults(HEADER.encode())
        self.listen(*faults)
        recorded = await self.say(*[get("/", f"{HEADER}: EVIL")] * len(faults))
        self.assertEqual(
            set(), {answer[9:12] for answer in recorded} - {b"502", b"504", b"200", b""}
        )
        # Only responses whose body is cut short may begin; the head is lost if both arrive
        # together.
        self.assertLessEqual([answer[9:12] for answer in recorded].count(b"200"), 2)
        self.expect_silence()

    async def test_no_back_end(self) -> None:
        """Without a reachable back end, the response discloses nothing, not even its address."""
        self.listen()
        await self.back_end.stop()
        [recorded] = await self.say(get("/", f"{HEADER}: EVIL"))
        self.assertEqual(b"502", recorded[9:12])
        self.assertNotIn(b":%d" % self.back_end.port, recorded)
        self.assertNotIn(b"127.0.0.1", recorded)
        self.expect_silence()


class SaidUnderStockSite(Said):
    """The same under ``twisted.web.server.Site``, whose channel accepts some malformed requests."""

    strict = False

    stock = True


# The functions that fail in turn: a module or a class, and the name in it.
STAGES: list[tuple[Any, str]] = [
    (decision, "sanitize_request"),
    (decision, "admit"),
    (decision, "_certificate_fields"),
    (decision, "write_fields"),
    (relay, "decide"),
    (relay, "write_head"),
    (relay, "sanitize_response"),
    (relay.Relay, "body_end"),
    (relay.Relay, "response_end"),
    (relay.Relay, "response_data"),
    (pool, "plan"),
    (pool.Pool, "acquire"),
    (pool.Pool, "release"),
    (upstream.Connection, "send"),
    (upstream.Connection, "open"),
    (upstream.Connection, "close"),
    (response_parser.ResponseParser, "feed"),
    (response_parser, "response_head"),
    (request_parser, "request_head"),
    (request_parser.RequestParser, "feed"),
    (channel, "client_of"),
    (channel, "Request"),
    (request, "write_response_head"),
    (request.Request, "accept"),
    (request.Request, "begin"),
    (request.Request, "write"),
    (request.Request, "finish"),
    (request.Request, "take_body"),
    (base_request.BaseRequest, "exchange"),
    (ClientCertificate, "from_x509"),
]
# After these the response may be complete: only the record, or the end of the connection, fails.
LATE = {"BaseRequest.exchange", "Pool.release", "Connection.close"}
CLOSING = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"


def stage_name(place: Any, name: str) -> str:
    return f"{place.__name__.removeprefix('x509proxy.')}.{name}"


class Broken(RecordedTestCase):
    """No exception discloses a secret, delays its client, or prevents the next request."""

    patience = 1.2

    async def outcome(self, place: Any, name: str, said: bytes) -> str:
        raised: list[str] = []

        def broken(*_: object, **__: object) -> Any:
            raised.append(name)
            raise RuntimeError("injected")

        patcher = self.patch(place, name, broken)
        try:
            [recorded] = await self.say(said)
        except TimeoutError:
            return "left waiting"
        finally:
            patcher.restore()
        if raised and recorded.endswith(b"ok") and stage_name(place, name) not in LATE:
            return "served as if nothing had happened"
        [after] = await self.say(get())
        return "" if after[9:12] == b"200" else f"the next one got {after[:12]!r}"

    async def expect_end(self, said: bytes, answer: bytes) -> None:
        self.listen(*[answer] * (2 * len(STAGES)))
        wrong = {}
        for place, name in STAGES:
            outcome = await self.outcome(place, name, said)
            if outcome:
                wrong[stage_name(place, name)] = outcome
        self.expect_silence()
        self.assertEqual({}, wrong)

    async def test_everywhere(self) -> None:
        """Any function may raise for a request with a forged header: the client sees no success."""
        await self.expect_end(get("/", f"{HEADER}: EVIL", "Authorization: Basic x"), OK)

    async def test_with_a_body(self) -> None:
        """The same holds with a body, over connections that serve one request each."""
        head = (
            f"POST / HTTP/1.1\r\nHost: localhost\r\n{HEADER}: EVIL\r\n"
            "Connection: close\r\nContent-Length: 2\r\n\r\nhi"
        )
        await self.expect_end(head.encode(), CLOSING)


REQUIRED = PolicySettings(client_certificate=ClientAuth.REQUIRED)


class Oracle(SynchronousTestCase):
    """The response to a guessed name is the same for each name (invariant L4)."""

    def answers(
        self, said: bytes, back_end: bytes = OK, **options: Any
    ) -> tuple[bytes, bool, bool]:
        """Return the response without dates, and whether the connection closes or is cut."""
        proxy = Proxy(**options)
        wire = proxy.client()
        wire.deliver(said)
        if proxy.back_end.attempts:
            proxy.back_end.wire.deliver(back_end)
        return undated(wire.sent()), bool(wire.disconnecting), wire.aborted

    def expect_same(self, write: Callable[[str], bytes], **options: Any) -> None:
        right, wrong = write(NAME.decode()), write(WRONG)
        self.assertEqual(len(right), len(wrong))
        self.assertEqual(self.answers(wrong, **options), self.answers(right, **options), right)

    def test_wrong_name_is_as_long(self) -> None:
        """The wrong name differs from the right one in its random part only."""
        self.assertEqual((len(NAME), NAME[:21].decode()), (len(WRONG), WRONG[:21]))
        self.assertNotEqual(NAME.decode(), WRONG)

    def test_every_forgery(self) -> None:
        """The response to each forged header is the same with a wrong name."""
        for number in range(len(forgeries(WRONG))):
            self.expect_same(lambda name, number=number: get("/", *forgeries(name)[number]))  # type: ignore[misc]

    def test_none(self) -> None:
        """The response to a forged header of the right name is that without a header."""
        for lines in forgeries(NAME.decode()):
            self.assertEqual(self.answers(get("/")), self.answers(get("/", *lines)), lines)

    def test_recorded_afterwards(self) -> None:
        """The count and the log of a request, which differ, follow its response (invariant L4)."""
        said = get("/", f"{NAME.decode()}: EVIL")
        stays = said.replace(b"Connection: close\r\n", b"")
        for sent, back_end, policy in (
            (said, OK, PolicySettings()),
            (stays, OK, PolicySettings()),
            (said, b"nonsense\r\n\r\n", PolicySettings()),
            (said, OK, REQUIRED),
            (stays * 3, OK, REQUIRED),
        ):
            proxy = Proxy(policy=policy)
            left: list[int] = []
            wires: list[RequestTransport] = []

            def observe(
                _: Exchange, left: list[int] = left, wires: list[RequestTransport] = wires
            ) -> None:
                left.append(wires[0].value().count(b"\r\n\r\n"))

            proxy.observe = observe
            wires.append(proxy.client())
            wires[0].deliver(sent)
            if proxy.back_end.attempts:
                proxy.back_end.wire.deliver(back_end)
            self.assertEqual([1], left, sent)

    def test_malformed(self) -> None:
        """The response to a malformed request with the right name is that with a wrong name."""
        for number in range(len(bad_request(WRONG))):
            self.expect_same(lambda name, number=number: bad_request(name)[number])  # type: ignore[misc]

    def test_policy(self) -> None:
        """Where a certificate is required, a forged header counts as none, with any name."""
        policy = PolicySettings(client_certificate=ClientAuth.REQUIRED)
        self.expect_same(lambda name: get("/", f"{name}: EVIL"), policy=policy)
        self.assertIn(b" 401 ", self.answers(get("/", f"{NAME.decode()}: EVIL"), policy=policy)[0])

    def test_limits(self) -> None:
        """At each limit, the right name counts as much as a wrong one."""
        for room in range(4):
            settings = ClientSettings(
                max_head_bytes=140 + room, max_header_fields=3 + room, max_line_bytes=60 + room
            )
            self.expect_same(
                lambda name: get("/", f"{name}: EVIL", f"{name}: EVIL"), client=settings
            )
            self.expect_same(lambda name: get("/", f"{name}: EVIL"), client=settings)

    def test_back_ends(self) -> None:
        """With each response of the back end, the right name makes no difference."""
        for answer in back_end_faults(NAME)[:16]:
            assert isinstance(answer, bytes)
            self.expect_same(lambda name: get("/", f"{name}: EVIL"), back_end=answer)

    def test_refused_odd_names(self) -> None:
        """Where odd names are rejected, a variant of the right name is rejected like any other."""
        from x509proxy.settings import InvalidNames

        settings = ClientSettings(invalid_header_names=InvalidNames.REFUSE)
        for number in range(len(forgeries(WRONG))):
            self.expect_same(
                lambda name, number=number: get("/", *forgeries(name)[number]),  # type: ignore[misc]
                client=settings,
            )


class OracleForReal(RecordedTestCase):
    """The same over TLS, with a certificate."""

    async def test_same_bytes(self) -> None:
        """The connection has the same bytes with the right name, a wrong name and no name."""
        self.listen()
        recorded = await self.say(get("/"), get("/", f"{WRONG}: EVIL"), get("/", f"{HEADER}: EVIL"))
        self.assertEqual(1, len({undated(answer) for answer in recorded}), recorded)
        self.assertEqual([0, 0, 1], [exchange.forged for exchange in self.proxy.exchanges])


class OracleUnderStockSite(OracleForReal):
    """The same under ``twisted.web.server.Site``."""

    stock = True


class Cleaned(RecordedTestCase):
    """A back end that sends the name in its response's head does not disclose it to the client."""

    echoes: ClassVar[list[str]] = [
        "{0}: x",
        "{0}:",
        "{1}: x",
        "{2}: x",
        "X-{0}: x",
        "X-Echo: {0}",
        "X-Echo: {1}",
        "X-Echo: a{0}b",
        "X-Echo: HTTP_{1}",
        "Vary: {0}",
        "Vary: Accept, {2}, Cookie",
        "Vary: {0},{0} ,Accept",
        "Access-Control-Allow-Headers: Content-Type, {0}",
        "Access-Control-Expose-Headers: {0}",
        "Access-Control-Request-Headers: {2}",
        "Connection: {0}",
        "Connection: keep-alive, {0}",
        "Keep-Alive: {0}",
        "Trailer: {0}",
        "Set-Cookie: {0}=1; Path=/",
        "Location: https://localhost/?{0}",
        'WWW-Authenticate: Bearer realm="{0}"',
        'Link: <https://a/{0}>; rel="next", <https://b/>; rel="prev"',
        "Content-Type: text/plain; a={0}",
        "Server: {0}",
        "Date: {0}",
    ]

    def answer(self, *lines: str, reason: str = "OK", status: int = 200) -> bytes:
        body = "" if status == 304 else "ok"
        forms = HEADER, HEADER.replace("-", "_").upper(), HEADER.lower()
        told = [line.format(*forms) for line in lines]
        head = [f"HTTP/1.1 {status} {reason}", *told, "X-Kept: yes", "Content-Length: 2", "", ""]
        return ("\r\n".join(head) + body).encode()

    async def test_fields(self) -> None:
        """The name is removed from each field: as its name, in its value or in a list."""
        self.listen(*(self.answer(line) for line in self.echoes))
        recorded = await self.say(*[get()] * len(self.echoes))
        self.assertEqual(
            {b"HTTP/1.1 200 OK"}, {answer.partition(b"\r\n")[0] for answer in recorded}
        )
        self.assertTrue(
            all(
                b"\r\nX-Kept: yes\r\n" in answer and answer.endswith(b"\r\n\r\nok")
                for answer in recorded
            )
        )
        self.assertTrue(all(answer.count(b"\r\nDate: ") == 1 for answer in recorded))
        self.expect_silence()

    async def test_lists_keep_the_rest(self) -> None:
        """A list loses one member only, so that caches keep the others of ``Vary``."""
        self.listen(self.answer("Vary: Accept, {0}, Cookie"))
        [recorded] = await self.say(get())
        self.assertIn(b"\r\nVary: Accept, *, Cookie\r\n", recorded)

    async def test_reason(self) -> None:
        """The name is removed from the reason phrase, and the status stays."""
        reasons = [f"Bad {HEADER}", HEADER.lower(), f"missing {HEADER.replace('-', '_')}!"]
        self.listen(*(self.answer(reason=reason, status=400) for reason in reasons))
        recorded = await self.say(*[get()] * len(reasons))
        self.assertEqual({b"HTTP/1.1 400"}, {answer[:12] for answer in recorded})
        self.expect_silence()

    async def test_heads_alone(self) -> None:
        """The heads of responses to HEAD, 304 and HTTP/1.0 are cleaned too."""
        lines = ["Vary: {0}", "ETag: {0}", "{0}: x"]
        self.listen(
            self.answer(*lines, status=304),
            self.answer(*lines),
            self.answer(*lines).partition(b"ok")[0],
        )
        await self.say(get(), get(version="1.0"), get(method="HEAD"))
        self.expect_silence()

    async def test_interim_and_trailers(self) -> None:
        """Interim responses and trailer fields with the name never arrive."""
        early = f"HTTP/1.1 103 Early Hints\r\n{HEADER}: x\r\nLink: {HEADER}\r\n\r\n".encode()
        chunked = (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            f"2;{HEADER}=1\r\nok\r\n0\r\n{HEADER}: x\r\n\r\n"
        ).encode()
        self.listen(early + self.answer(), chunked)
        recorded = await self.say(get(), get())
        self.assertEqual(
            [b"HTTP/1.1 200 OK"] * 2, [answer.partition(b"\r\n")[0] for answer in recorded]
        )
        self.expect_silence()


class CleanedUnderStockSite(Cleaned):
    """The same under ``twisted.web.server.Site``."""

    stock = True


def ours(thing: Any, seen: dict[int, Any], depth: int = 8) -> None:
    """Collect the objects of this package that ``thing`` reaches."""
    if id(thing) in seen or depth == 0:
        return
    if isinstance(thing, tuple | list | set | frozenset):
        for each in thing:
            ours(each, seen, depth)
    elif isinstance(thing, dict):
        for each in [*thing.values(), *thing]:
            ours(each, seen, depth)
    elif type(thing).__module__.startswith("x509proxy."):
        seen[id(thing)] = thing
        slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
        for name in [
            *getattr(thing, "__dict__", ()),
            *slots,
            *getattr(thing, "__struct_fields__", ()),
        ]:
            ours(getattr(thing, name, None), seen, depth - 1)


class Texts(SynchronousTestCase):
    """The representations of values in a traceback or debugger contain no secret."""

    def setUp(self) -> None:
        self.files = ProxyFiles(self.mktemp())
        self.recorder = OutputRecorder()
        self.recorder.keep_secret(self.files.server, private=True)

    def service(self, *more: str) -> ProxyService:
        options = parse_options(*self.files.arguments("--listen", "tcp:0", *more))
        assert options.configuration is not None
        return ProxyService(options.configuration, MemoryReactorClock())

    def test_values(self) -> None:
        """The ``repr`` of each object in a service, from settings to pools, has no secret."""
        service = self.service("--client-certificate", "required")
        client = client_identity()
        self.recorder.keep_secret(client)
        chain = (client.certificate.public_bytes(Encoding.DER),)
        certificate = attrs.evolve(ClientCertificate.from_x509(client.certificate, ()), chain=chain)
        found = Exchange(
            started=0.0,
            duration=0.0,
            peer="",
            method="GET",
            target="/",
            outcome=Outcome.COMPLETED,
            certificate=certificate,
        )
        seen: dict[int, Any] = {}
        ours([service, certificate, found, client, self.files.server], seen)
        kinds = {type(thing).__name__ for thing in seen.values()}
        wanted = {
            "ProxySettings",
            "HeaderRules",
            "Configuration",
            "ClientCertificate",
            "Identity",
            "X509ProxyResource",
            "Pool",
        }
        self.assertLessEqual(wanted, kinds)
        for thing in seen.values():
            self.recorder.record(f"repr of {type(thing).__name__}", repr(thing))
            self.recorder.record(f"str of {type(thing).__name__}", str(thing))
        self.assertEqual([], self.recorder.leaks())

    def test_name_in_the_settings_themselves(self) -> None:
        """With ``header`` instead of ``header-file``, the ``repr`` of the settings is clean."""
        arguments = self.files.arguments("--header", HEADER)
        place = arguments.index("--header-file")
        options = parse_options(*arguments[:place], *arguments[place + 2 :])
        self.recorder.record(
            "settings", f"{options.settings!r} {options.settings} {options.configuration!r}"
        )
        self.assertEqual([], self.recorder.leaks())

    def test_reload_with_broken_files(self) -> None:
        """A reload with broken, swapped or open files logs a sentence without their content."""
        service = self.service()
        globalLogPublisher.addObserver(self.recorder)
        self.addCleanup(globalLogPublisher.removeObserver, self.recorder)
        files = self.files
        key, certificate = files.key.read_bytes(), files.certificate.read_bytes()
        for path, content, mode in (
            (files.key, b"nothing", 0o600),
            (files.key, key[:-60], 0o600),
            (files.key, key + key, 0o600),
            (files.key, key, 0o644),
            (files.key, HEADER.encode(), 0o600),
            (files.key, key.replace(b"M", b"!", 1), 0o600),
            (files.certificate, certificate[:-60], 0o600),
            (files.certificate, key, 0o600),
            (files.certificate, HEADER.encode(), 0o600),
            (files.certificate, make_self_signed(KeyKind.EC, "other").certificate_pem, 0o600),
        ):
            before = path.read_bytes()
            path.write_bytes(content)
            path.chmod(mode)
            service.reload()
            path.write_bytes(before)
            path.chmod(0o600)
        logged = [text for where, text in self.recorder.recorded if where == "log"]
        self.assertEqual([True] * 10, ["the old files go on serving" in text for text in logged])
        self.assertEqual([], self.recorder.leaks())


class WrongPlaces(SynchronousTestCase):
    """The error that ends the start does not repeat a name in a wrong place."""

    def setUp(self) -> None:
        self.files = ProxyFiles(self.mktemp())
        self.recorder = OutputRecorder()
        self.recorder.keep_secret(self.files.server, private=True)
        self.patch(sys, "stderr", io.StringIO())
        self.patch(sys, "excepthook", sys.excepthook)

    def told(self, *arguments: str) -> str:
        """Return the whole error of a start with these arguments, which must fail."""
        try:
            service = makeService(
                parse_options(*self.files.arguments("--listen", "tcp:0", *arguments))
            )
            assert isinstance(service, ProxyService)
            service.privilegedStartService()
        except (SystemExit, SettingsError) as error:
            code = error.code if isinstance(error, SystemExit) else error
            return f"{code} {error!r}"
        raise AssertionError(f"{arguments} is taken")

    def record(self, *arguments: str) -> None:
        self.recorder.record(" ".join(arguments), self.told(*arguments))

    def test_settings_of_words(self) -> None:
        """The name replaces a setting of fixed words, a file or another name."""
        for option in (
            "preset",
            "trust",
            "client-certificate",
            "ca",
            "certificate",
            "private-key",
            "header-file",
            "config",
        ):
            for value in (HEADER, f"/nowhere/{HEADER}", f"{HEADER}: x", HEADER.lower()):
                self.record(f"--{option}", value)
        self.record("--header", f"{HEADER}:")
        self.record("--header", f"{HEADER} ")
        self.assertEqual([], self.recorder.leaks())

    def test_back_ends(self) -> None:
        """The name replaces a back end, or is part of an invalid one."""
        for value in (
            "{0}",
            "{0}: x",
            "unix:{0}",
            "http://127.0.0.1/{0}?a",
            "ftp://{0}",
            "http://a/#{0}",
            "http://{0}:0",
        ):
            self.record("--backend", value.format(HEADER))
        self.assertEqual([], self.recorder.leaks())

    def test_listeners(self) -> None:
        """The name replaces an endpoint, or is part of an invalid one."""
        # The memory reactor cannot fail to open a unix socket; Processes.test_unix_listener does.
        for value in (
            HEADER,
            f"tcp:{HEADER}",
            f"{HEADER}:8443",
            f"tcp:8443:{HEADER}=1",
            f"systemd:domain={HEADER}",
        ):
            self.record("--listen", value)
        self.assertEqual([], self.recorder.leaks())

    def test_access_log(self) -> None:
        """The name is part of the access log's path."""
        self.record("--access-log", f"/nowhere/{HEADER}")
        self.record("--access-log", f"/{HEADER}/access.log")
        self.assertEqual([], self.recorder.leaks())

    def test_files_of_each_other(self) -> None:
        """The files of key and name are swapped."""
        files = self.files
        for option, path in (
            ("header-file", files.key),
            ("private-key", files.header),
            ("certificate", files.header),
        ):
            self.record(f"--{option}", str(path))
        self.record("--ca", str(files.header))
        self.record("--config", str(files.header))
        self.record("--config", str(files.key))
        self.assertEqual([], self.recorder.leaks())

    def test_toml(self) -> None:
        """The name is a key or a value of a configuration file, whole or broken.

        So is a private key.
        """
        key = self.files.key.read_text()
        whole = self.files.arguments("--listen", "tcp:0")
        for text in (
            f"{HEADER} = 1",
            f"listen = '{HEADER}'",
            f"backend = '{HEADER}'",
            f"backend = ['http://a', '{HEADER}']",
            f"access-log = '/nowhere/{HEADER}'",
            f"header = '{HEADER}\n",
            f"header = {HEADER}",
            f"header-file = '''{HEADER}\n{HEADER}'''",
            f"client.allowed-hosts = '{HEADER}'",
            f"client.allowed-hosts = ['{HEADER}']",
            f"admin = {{listen = 'tcp:1:interface=127.0.0.1', allowed-hosts = ['{HEADER}']}}",
            f"admin.listen = '{HEADER}'",
            f"rules = [{{path = '/{HEADER}*', client-certificate = 'required'}}]",
            f"rules = [{{server-name = '{HEADER}', client-certificate = 'required'}}]",
            f"listeners = [{{endpoint = 'haproxy:tcp:1', trusted-proxies = ['{HEADER}']}}]",
            f"upstream.ca = '{HEADER}'",
            f"upstream.private-key = '{HEADER}'",
            f"private-key = '''{key}'''",
            f"private-key = {key}",
            key,
        ):
            path = self.files.write("wrong.toml", text.encode())
            # The file's setting counts where the command line has none.
            given = zip(whole[::2], whole[1::2], strict=True)
            rest = [
                part
                for option, value in given
                if not text.startswith(option[2:])
                for part in (option, value)
            ]
            try:
                makeService(parse_options("--config", str(path), *rest))
            except (SystemExit, SettingsError) as error:
                self.recorder.record(
                    text[:40], f"{error.code if isinstance(error, SystemExit) else error} {error!r}"
                )
            else:
                self.fail(text)
        self.assertEqual([], self.recorder.leaks())


class AccessLog(SynchronousTestCase):
    """The access log holds text of clients, and more people read it than have the name."""

    def test_name_in_a_target_or_subject(self) -> None:
        """The name in a target or in a certificate's subject is masked in the access log."""
        files = ProxyFiles(self.mktemp())
        path = files.folder / "access.log"
        options = parse_options(*files.arguments("--listen", "tcp:0", "--access-log", str(path)))
        assert options.configuration is not None
        service = ProxyService(options.configuration, MemoryReactorClock())
        recorder = OutputRecorder()
        self.addCleanup(service.stopService)
        for text in (HEADER, HEADER.lower(), HEADER.replace("-", "_")):
            client = make_self_signed(KeyKind.EC, text)
            certificate = ClientCertificate.from_x509(client.certificate, ())
            base = {
                "started": 0.0,
                "duration": 0.0,
                "peer": "192.0.2.1",
                "method": "GET",
                "outcome": Outcome.COMPLETED,
            }
            server_of(service).observe(Exchange(**{**base, "target": f"/{text}/x"}))  # type: ignore[arg-type]
            server_of(service).observe(
                Exchange(**{**base, "target": "/", "certificate": certificate})  # type: ignore[arg-type]
            )
        lines = path.read_text().splitlines()
        self.assertEqual(6, len(lines))
        for line in lines:
            self.assertIn("method=GET", line)
            recorder.record("access log", line)
        self.assertEqual([], recorder.leaks())


def run(command: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    """Run a process of this checkout that ends without a signal."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, timeout=20, check=False
    )


class Processes(DaemonTestCase):
    """Daemons: their output, their command lines and environments, and their files."""

    def ears_for(self, daemon: Daemon, client: SelfSigned) -> OutputRecorder:
        recorder = OutputRecorder()
        recorder.keep_secret(client, daemon.files.server)
        recorder.keep_secret(daemon.files.server, private=True)
        return recorder

    async def through_everything(
        self, daemon: Daemon, recorder: OutputRecorder, client: SelfSigned
    ) -> None:
        """Send good, forged, malformed and failing requests, and cause a failing reload."""
        for folder in ("cmdline", "environ"):
            recorder.record(
                folder, Path(f"/proc/{daemon.pid}/{folder}").read_bytes().replace(b"\0", b" ")
            )
        faults = [fault for fault in back_end_faults(HEADER.encode()) if isinstance(fault, bytes)]
        daemon.back_end.answers.extend([OK, OK, *faults])
        lines = [["A: b"], [f"{HEADER}: EVIL"], *[[f"{HEADER.lower()}: EVIL"]] * len(faults)]
        requests = [*(get("/", *each) for each in lines), *bad_request(HEADER)]

        def run() -> list[bytes]:
            recorded = []
            for said in requests:
                with daemon.connect(client=client) as connection:
                    connection.sendall(said)
                    recorded.append(read_to_end(connection))
            return recorded

        recorded: list[bytes] = await deferToThread(run)
        self.assertEqual([b"200", b"200"], [answer[9:12] for answer in recorded[:2]])
        for answer in recorded:
            recorder.record("answer", answer)
        daemon.files.key.write_bytes(b"nothing")
        os.kill(daemon.pid, signal.SIGHUP)
        await until(lambda: "reload: " in daemon.log, pause=0.05)

    async def expect_silence(self, runner: Sequence[str]) -> None:
        client = client_identity()
        daemon = self.prepare()
        daemon.spawn([*runner, *daemon.arguments("--access-log", str(daemon.access_log))])
        await until(daemon.listens, pause=0.05)
        recorder = self.ears_for(daemon, client)
        await self.through_everything(daemon, recorder, client)
        os.kill(daemon.pid, signal.SIGTERM)
        await until(lambda: daemon.process and daemon.process.poll() is not None, pause=0.05)
        recorder.record("log", daemon.log)
        recorder.record("access log", daemon.access_log.read_text())
        self.assertIn("1 forged header from 127.0.0.1 removed", daemon.log)
        self.assertGreater(len(daemon.access_log.read_text().splitlines()), 30)
        self.assertEqual([], recorder.leaks())

    async def test_twistd(self) -> None:
        """A daemon of ``twistd`` has no secret in logs, arguments and responses."""
        await self.expect_silence([*TWISTD, "-n", "--pidfile="])

    async def test_twist_at_debug(self) -> None:
        """A daemon of ``twist --log-level=debug`` has none either."""
        await self.expect_silence([*TWIST, "--log-level=debug", "--log-format=text"])

    async def test_loose_permissions(self) -> None:
        """A key, header file or configuration that others can read prevents the start."""
        files = ProxyFiles(self.mktemp())
        config = files.write("proxy.toml", f"header = '{HEADER}'\n".encode())
        whole = [
            *TWISTD,
            "-n",
            "--pidfile=",
            "x509proxy",
            *files.arguments("--listen", "tcp:0:interface=127.0.0.1"),
        ]
        commands = [
            (files.key, whole),
            (files.header, whole),
            (config, [*whole, "--config", str(config)]),
        ]
        for mode in (0o640, 0o604):
            for path, command in commands:
                path.chmod(mode)
                done = await deferToThread(run, command)
                path.chmod(0o600)
                [sentence] = done.stderr.decode().splitlines()
                self.assertEqual((1, b""), (done.returncode, done.stdout))
                self.assertIn(path.name, sentence)
                self.assertIn(f"found mode {mode:04o}, expected 0600", sentence)
                self.assertNotIn(fold(HEADER), fold(sentence))

    async def started(self, mask: int, *options: str) -> dict[str, int]:
        """Return the modes of a daemon's files, started with this umask."""
        daemon = self.prepare()
        there = {path.name for path in daemon.files.folder.iterdir()} | {"stdout", "stderr"}
        log = daemon.files.folder / "twistd.log"
        command = [*TWISTD, "--pidfile", str(daemon.pid_file), "--logfile", str(log), *options]
        umask = ["sh", "-c", f'umask {mask:03o}; exec "$@"', "sh"]
        spawned = daemon.spawn(
            [*umask, *command, *daemon.arguments("--access-log", str(daemon.access_log))]
        )
        await until(
            lambda: daemon.pid_file.exists() and daemon.pid_file.read_text().strip(), pause=0.05
        )
        if "-n" not in options:
            await until(lambda: spawned.poll() is not None, pause=0.05)
            daemon.process = None
        daemon.pid = int(daemon.pid_file.read_text())
        await until(
            lambda: log.exists() and daemon.access_log.exists() and daemon.listens(), pause=0.05
        )
        new = {path.name for path in daemon.files.folder.iterdir()} - there
        modes = {name: stat.S_IMODE((daemon.files.folder / name).stat().st_mode) for name in new}
        os.kill(daemon.pid, signal.SIGTERM)
        await until(lambda: not is_running(daemon.pid), pause=0.05)
        return modes

    async def test_modes(self) -> None:
        """With each umask, only the owner can read the files of a daemon."""
        expected = dict.fromkeys(["twistd.pid", "twistd.log", "access.log"], 0o600)
        found = {
            "background": await self.started(0o022),
            "foreground": await self.started(0o000, "-n"),
        }
        self.assertEqual({"background": expected, "foreground": expected}, found)

    async def test_unix_listener(self) -> None:
        """The error of a unix socket does not repeat the name in its path."""
        files = ProxyFiles(self.mktemp())
        command = [
            *TWISTD,
            "-n",
            "--pidfile=",
            "x509proxy",
            *files.arguments("--listen", f"unix:/nowhere/{HEADER}"),
        ]
        done = await deferToThread(run, command)
        self.assertEqual(1, done.returncode)
        self.assertNotIn(fold(HEADER), fold(done.stderr.decode()))


class Hearing(SynchronousTestCase):
    """The tests above can fail: the recorder detects secrets."""

    def test_every_form(self) -> None:
        """The recorder detects each spelling of the name, and each form of certificate and key."""
        made = client_identity()
        der = made.certificate.public_bytes(Encoding.DER)
        number = made.private_key.private_numbers().private_value  # type: ignore[union-attr]
        pem = made.certificate_pem.decode()
        body = "".join(pem.splitlines()[1:-1])
        texts = [
            *spellings(HEADER)[:14],
            f"HTTP_{HEADER.replace('-', '_').upper()}",
            HEADER[:30] + "\n" + HEADER[30:],
            pem,
            repr(pem),
            body[40:140],
            f"{der!r}",
            der.hex(),
            made.key_pem.decode(),
            str(number),
            hex(number),
        ]
        for text in texts:
            recorder = OutputRecorder()
            recorder.keep_secret(made)
            recorder.keep_secret(made, private=True)
            recorder.record("somewhere", text)
            self.assertEqual(1, len(recorder.leaks()), text)

    def test_silence(self) -> None:
        """The recorder ignores a wrong name, a thumbprint, and other printable text."""
        recorder = OutputRecorder()
        recorder.keep_secret(client_identity())
        recorder.record(
            "somewhere",
            f"{WRONG} {string.printable} x5t#S256=SgXm9QvRLoRzY0N3dOWcCYx4-yGzkQkY2zJ5Cw8vC1I",
        )
        self.assertEqual([], recorder.leaks())
