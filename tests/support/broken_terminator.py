"""A small TLS terminator without faults, except for the one that a test selects.

It is strict, slow and short: one back-end connection for each request, and 400 for every deviation.
Each :class:`Fault` is one failure class of a real product; the audit must find it.
"""

from __future__ import annotations

import contextlib
import enum
import re
import socket
import threading
from collections.abc import Callable
from typing import Any, cast

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded, TrailersReceived
from OpenSSL import SSL

from x509proxy.audit import formats
from x509proxy.audit.corpus import KNOWN_CLAIMS, SIBLINGS
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.settings import Format

__all__ = ["HEADER", "Fault", "Terminator"]

HEADER = b"Sec-Client-X509-Cert-q8Zr2LxW0vTn5KdYb7HcJm3PfAs9GeUi"
Pairs = list[tuple[bytes, bytes]]


class Fault(enum.Enum):
    """One failure class."""

    ALERTS = "rejects certificates that OpenSSL complains of, with an alert"
    ANSWERS_HTML = "rejects expired, misused and huge certificates with HTML"
    APPENDS_TRAILERS = "merges trailer fields with the head"
    AUTHORITIES = "names authorities in the CertificateRequest, of TLS 1.3 alone"
    BODIES_OF_GET = "forgets the length of a body"
    BROKEN_VALUE = "cuts the certificate"
    CASE_SENSITIVE = "removes one spelling alone"
    CHAIN_FOR_LEAF = "passes on the last certificate of the chain"
    CONTINUES_BAD_HEADS = "completes a rejected head with later bytes"
    CONTINUES_AFTER_ERROR = "serves the rest of a connection after an error response"
    CONTROL_CHARACTERS = "passes control characters in values"
    DASH = "writes - without a certificate"
    EARLY_HEADS = "forwards a head before its body has been judged"
    ECHOES_NAME = "lets the header's name through in responses"
    EMPTY = "writes an empty header without a certificate"
    FIRST_COPY = "removes the first copy alone"
    FOLDED = "folds the value over several lines"
    HTTP2_ANONYMOUS = "passes no certificate on over HTTP/2"
    HTTP2_NAIVE = "translates HTTP/2 without a check"
    KEEPS = "keeps the client's header where it has none of its own"
    KEEPS_ON_HOSTS = "has no rules for other hosts"
    KEEPS_ON_METHODS = "has no rules for other methods"
    KEEPS_ON_PATHS = "has no rules for other paths"
    KEEPS_ON_PIECES = "has no rules where it cannot read the server name at once"
    KEEPS_ON_SERVER_NAMES = "has no rules for other server names"
    KEEPS_ON_VERSION_1_2 = "has no rules for TLS 1.2"
    KEEPS_ON_VERSION_1_3 = "has no rules for TLS 1.3"
    KEEPS_ON_VERSIONS = "has no rules for other versions of HTTP"
    LOSES_ODD = "makes clients with odd certificates anonymous"
    MARKS = "passes names with other marks"
    NOMINATED = "removes its own header where Connection names it"
    NULL = "writes (null) without a certificate"
    OLD_TLS = "offers TLS 1.0"
    PLACEHOLDER = "writes its own variable without a certificate"
    PLAIN = "forwards from the unencrypted port"
    PLUS = "leaves a literal plus"
    RAW_HEADS = "forwards heads as they are"
    RENEGOTIATES = "renegotiates"
    RESUMES = "resumes sessions, under any name, and remembers the certificate"
    RESUMES_ANONYMOUS = "resumes sessions, and forgets the certificate"
    SHARES = "shares one back-end connection, and reads it carelessly"
    SIBLINGS = "passes other certificate headers"
    SPACES = "writes white space into the value"
    STICKY = "remembers the last certificate"
    SUBJECT = "writes the subject's name into a header"
    TRACES = "responds to TRACE with what it would forward"
    TUNNELS = "pipes all that follows the first head"
    UNBOUNDED = "has no limits"
    UNDERSCORES = "passes names with underscores"
    UPGRADES = "forwards upgrades as they are"
    VERIFIED = "reports 0 for no certificate"


_FORGED = (name for _, _, names in SIBLINGS for name in names)
_SIBLINGS = {formats.folds(name) for name in (*_FORGED, *KNOWN_CLAIMS)}
_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"http2-settings",
    b"expect",
}
_LINE = re.compile(rb"[A-Za-z0-9-]+:[ \t]*[\t -~]*")
_START = re.compile(rb"([A-Z]+) ([!-~]+) HTTP/1\.([01])")
_MISUSED = {9, 10, 26, 34, 66}  # not yet valid, expired, usage, critical extension, weak key


class _Rejected(Exception):
    def __init__(self, status: int, body: bytes = b"") -> None:
        super().__init__(status)
        self.status = status
        self.body = body


@attrs.define
class _Client:
    """One connection's view of its client."""

    der: bytes = b""
    subject: bytes = b""
    errors: set[int] = attrs.field(factory=set)
    server_name: bytes = b""
    in_pieces: bool = False
    version: str = ""
    resumed: bool = False
    rsa_bits: int = 4096


class Terminator:
    """A terminator that listens from construction until :meth:`stop`.

    ``port`` is for TLS, ``plain_port`` for plain connections.
    """

    def __init__(
        self, back_end: int, *faults: Fault, form: Format = Format.PEM_URL, deadline: float = 1.0
    ) -> None:
        self.faults = frozenset(faults)
        self.form = form
        self.deadline = deadline
        self._back_end = back_end
        self._last = b""
        self._shared: socket.socket | None = None
        self._context = self._make_context()
        self._listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.port, self.plain_port = (each.getsockname()[1] for each in self._listeners)
        for listener, serve in zip(
            self._listeners, (self._serve_tls, self._serve_plain), strict=True
        ):
            threading.Thread(target=self._accept, args=(listener, serve), daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        if self._shared is not None:
            self._shared.close()

    def has(self, fault: Fault) -> bool:
        return fault in self.faults

    def _make_context(self) -> SSL.Context:
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        made = make_self_signed(KeyKind.EC, "localhost", server=True)
        context.use_certificate(made.certificate)
        context.use_privatekey(cast("ec.EllipticCurvePrivateKey", made.private_key))
        old = self.has(Fault.OLD_TLS)
        context.set_cipher_list(b"ALL:@SECLEVEL=0" if old else b"HIGH:@SECLEVEL=0")
        context.set_min_proto_version(SSL.TLS1_VERSION if old else SSL.TLS1_2_VERSION)
        context.set_verify(SSL.VERIFY_PEER, self._verify)
        if self.faults & {Fault.RESUMES, Fault.RESUMES_ANONYMOUS}:
            context.set_session_id(b"broken")
        else:
            context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
            context.set_options(SSL.OP_NO_TICKET)
        if self.has(Fault.RENEGOTIATES):
            context.set_options(1 << 8)  # SSL_OP_ALLOW_CLIENT_RENEGOTIATION
        if self.has(Fault.AUTHORITIES):
            context.add_client_ca(made.certificate)
            context.set_min_proto_version(SSL.TLS1_3_VERSION)
        if self.faults & {Fault.HTTP2_NAIVE, Fault.HTTP2_ANONYMOUS}:
            context.set_alpn_select_callback(
                lambda _, offered: b"h2" if b"h2" in offered else SSL.NO_OVERLAPPING_PROTOCOLS
            )
        return context

    def _verify(
        self, connection: SSL.Connection, _: object, error: int, depth: int, __: int
    ) -> bool:
        client = connection.get_app_data()
        if error and depth == 0:
            client.errors.add(error)
        return not self.has(Fault.ALERTS)

    def _accept(self, listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._quietly, args=(serve, connection), daemon=True).start()

    def _quietly(self, serve: Callable[[socket.socket], None], connection: socket.socket) -> None:
        with contextlib.suppress(OSError, SSL.Error, ValueError):
            serve(connection)
        connection.close()

    def _serve_tls(self, raw: socket.socket) -> None:
        first = raw.recv(5, socket.MSG_PEEK)
        seen = raw.recv(65536, socket.MSG_PEEK)
        length = int.from_bytes(first[3:5], "big")
        client = _Client(in_pieces=len(seen) < length + 5 or length < 200)
        connection = SSL.Connection(self._context, raw)
        connection.set_app_data(client)
        connection.set_accept_state()
        connection.do_handshake()
        self._inspect(client, connection)
        if connection.get_alpn_proto_negotiated() == b"h2":
            _Http2(self, client, connection).run()
        else:
            _Conversation(self, client, connection).run()
        with contextlib.suppress(SSL.Error):
            connection.shutdown()

    def _inspect(self, client: _Client, connection: SSL.Connection) -> None:
        client.server_name = connection.get_servername() or b""
        client.version = connection.get_protocol_version_name()
        found = connection.get_peer_certificate(as_cryptography=True)
        chain = connection.get_peer_cert_chain(as_cryptography=True) or []
        resumed = SSL._lib.SSL_session_reused(connection._ssl)  # type: ignore[attr-defined]
        if found is None or (resumed and self.has(Fault.RESUMES_ANONYMOUS)):
            return
        if self.has(Fault.CHAIN_FOR_LEAF) and chain:
            found = chain[-1]
        client.der = found.public_bytes(Encoding.DER)
        key = found.public_key()
        client.rsa_bits = key.key_size if isinstance(key, rsa.RSAPublicKey) else 4096
        self._last = client.der
        if self.has(Fault.SUBJECT):
            client.subject = b"".join(str(part.value).encode() for part in found.subject)

    def _serve_plain(self, connection: socket.socket) -> None:
        head = connection.recv(65536)
        if self.has(Fault.PLAIN):
            connection.sendall(self.exchange(head))
        else:
            connection.sendall(
                b"HTTP/1.1 301 Moved\r\nLocation: https://localhost/\r\nContent-Length: 0\r\n\r\n"
            )

    # The back end.

    def exchange(self, request: bytes) -> bytes:
        """Send a request to the back end; return its response."""
        if self.has(Fault.SHARES):
            return self._exchange_shared(request)
        with socket.create_connection(("127.0.0.1", self._back_end), 5) as back_end:
            back_end.sendall(request)
            back_end.settimeout(0.3)
            return self._read_one(back_end)

    def _read_one(self, back_end: socket.socket) -> bytes:
        """Read one response, skip interim ones, and require a sound framing."""
        data = b""
        with contextlib.suppress(TimeoutError):
            while piece := back_end.recv(65536):
                data += piece
                while re.match(rb"HTTP/1.1 1\d\d [^\r]*\r\n(?:[^\r]+\r\n)*\r\n", data):
                    data = data.partition(b"\r\n\r\n")[2]
                head, end, body = data.partition(b"\r\n\r\n")
                size = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
                if end and size and len(body) >= int(size[1]) and b"ransfer-" not in head:
                    return head + end + body[: int(size[1])]
        return (
            b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"
            if b"ransfer-" in data or not data.startswith(b"HTTP/1.1 ")
            else data
        )

    def _exchange_shared(self, request: bytes) -> bytes:
        if self._shared is None:
            self._shared = socket.create_connection(("127.0.0.1", self._back_end), 5)
            self._shared.settimeout(0.5)
        with contextlib.suppress(OSError):
            self._shared.sendall(request)
        data = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            # The length of one response with its head: the bytes after it are left for the next
            # client.
            while b"\r\n\r\n" not in data and (piece := self._shared.recv(1)):
                data += piece
            size = re.search(rb"(?i)content-length: (\d+)", data)
            body = (
                self._shared.recv(int(size[1]), socket.MSG_WAITALL)
                if size and int(size[1])
                else b""
            )
            data += body
        if not data.startswith(b"HTTP/"):
            self._shared.close()
            self._shared = None
        return data or b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"

    # The fields.

    def identity(self, client: _Client) -> Pairs:
        """Return the fields with properties of the certificate."""
        der = self._last if self.has(Fault.STICKY) and not client.der else client.der
        pairs: Pairs = [(b"X-SSL-Client-Verify", b"0")] if self.has(Fault.VERIFIED) else []
        if client.subject:
            pairs.append((b"X-Subject", client.subject))
        if der:
            return [*pairs, (HEADER, self._value(der))]
        words = {
            Fault.EMPTY: b"",
            Fault.NULL: b"(null)",
            Fault.DASH: b"-",
            Fault.PLACEHOLDER: b"{client_certificate}",
        }
        return [*pairs, *((HEADER, word) for fault, word in words.items() if self.has(fault))]

    def _value(self, der: bytes) -> bytes:
        value = formats.encode(self.form, der)
        if self.has(Fault.BROKEN_VALUE):
            return value[:-40]
        if self.has(Fault.PLUS):
            return value.replace(b"%2B", b"+")
        if self.has(Fault.SPACES):
            return value[:100] + b" " + value[100:]
        return value.replace(b"%0A", b"\r\n\t") if self.has(Fault.FOLDED) else value

    def is_odd(self, client: _Client) -> bool:
        """Return whether a certificate is expired, misused, weak or large, or its name is empty."""
        if not client.der:
            return False
        certificate = x509.load_der_x509_certificate(client.der)
        mldsa = "2.16.840.1.101.3.4.3" in certificate.signature_algorithm_oid.dotted_string
        issued = certificate.issuer != certificate.subject
        large = len(client.der) > 3500
        return (
            bool(client.errors & _MISUSED)
            or client.rsa_bits < 2048
            or large
            or mldsa
            or issued
            or not certificate.subject
        )

    def sanitized(self, client: _Client, start: bytes, pairs: Pairs) -> Pairs:
        """Return the client's fields that pass, with the terminator's own after them."""
        own = self.identity(client)
        named = b",".join(
            value
            for name, value in pairs
            if name.lower() in {b"connection", b"keep-alive", b"proxy-connection"}
        )
        nominated = {token.strip().lower() for token in named.split(b",")}
        kept = (
            [pair for pair in pairs if self._passes(pair[0], nominated)]
            if not self._unruled(client, start, pairs)
            else pairs
        )
        if self.has(Fault.NOMINATED):
            own = [pair for pair in own if pair[0].lower() not in nominated]
        if self.has(Fault.FIRST_COPY):
            kept = [*kept, *[pair for pair in pairs if pair[0].lower() == HEADER.lower()][1:]]
        return [*(pair for pair in kept if pair[0].lower() not in _HOP), *own]

    def _passes(self, name: bytes, nominated: set[bytes]) -> bool:
        if name.lower() in nominated and not self.has(Fault.KEEPS):
            return False
        if formats.folds(name) == formats.folds(HEADER):
            if self.has(Fault.CASE_SENSITIVE):
                return name != HEADER
            return any(
                self.has(fault) and re.search(marks, name)
                for fault, marks in ((Fault.UNDERSCORES, rb"_"), (Fault.MARKS, rb"[^A-Za-z0-9_-]"))
            ) or self.has(Fault.KEEPS)
        return self.has(Fault.SIBLINGS) or formats.folds(name) not in _SIBLINGS

    def _unruled(self, client: _Client, start: bytes, pairs: Pairs) -> bool:
        """Return whether a fault disables the rules for this request."""
        method, target, version = [*start.split(b" "), b"", b""][:3]
        hosts = [value for name, value in pairs if name.lower() == b"host"]
        return any(
            self.has(fault) and holds
            for fault, holds in (
                (Fault.KEEPS_ON_METHODS, method != b"GET"),
                (Fault.KEEPS_ON_PATHS, target != b"/"),
                (Fault.KEEPS_ON_VERSIONS, version != b"HTTP/1.1"),
                (Fault.KEEPS_ON_HOSTS, hosts != [b"localhost"]),
                (Fault.KEEPS_ON_SERVER_NAMES, client.server_name != b"localhost"),
                (Fault.KEEPS_ON_PIECES, client.in_pieces),
                (Fault.KEEPS_ON_VERSION_1_2, client.version == "TLSv1.2"),
                (Fault.KEEPS_ON_VERSION_1_3, client.version == "TLSv1.3"),
            )
        )


class _Conversation:
    """One connection of HTTP/1.1."""

    def __init__(self, terminator: Terminator, client: _Client, connection: SSL.Connection) -> None:
        self._terminator = terminator
        self._client = client
        self._connection = connection
        self._data = b""
        self._told = False

    def run(self) -> None:
        has = self._terminator.has
        for _ in range(100_000 if has(Fault.UNBOUNDED) else 100):
            try:
                keeps = self._one()
            except _Rejected as rejected:
                kind = b"text/html" if rejected.body else b"application/json"
                lines = b"Content-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (
                    kind,
                    len(rejected.body),
                    rejected.body,
                )
                self._connection.sendall(b"HTTP/1.1 %d Rejected\r\n%b" % (rejected.status, lines))
                keeps = has(Fault.CONTINUES_AFTER_ERROR)
            if not keeps:
                return

    def _fill(self) -> bool:
        self._connection.get_app_data()
        end = self._terminator.deadline
        if not _readable(self._connection, None if self._terminator.has(Fault.UNBOUNDED) else end):
            return False
        try:
            piece = self._connection.recv(65536)
        except (SSL.ZeroReturnError, SSL.SysCallError):
            return False
        self._data += piece
        return bool(piece)

    def _head(self) -> tuple[bytes, list[bytes]]:
        bounded = not self._terminator.has(Fault.UNBOUNDED)
        reads = 0
        while b"\r\n\r\n" not in self._data:
            reads += 1
            if (bounded and (len(self._data) > 16384 or reads > 4)) or not self._fill():
                raise _Rejected(408)
            self._tell_early()
        if bounded and self._data.index(b"\r\n\r\n") > 16384:
            raise _Rejected(431)
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        start, *lines = head.split(b"\r\n")
        if bounded and len(lines) > 100:
            raise _Rejected(431)
        return start, lines

    def _tell_early(self) -> None:
        bad = any(b" " in line.partition(b":")[0] for line in self._data.split(b"\r\n")[1:-1])
        if self._terminator.has(Fault.CONTINUES_BAD_HEADS) and bad and not self._told:
            self._told = True
            self._connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    def _one(self) -> bool:
        has = self._terminator.has
        start, lines = self._head()
        if self._told:
            self._terminator.exchange(b"\r\n".join([start, *lines, b"", b""]))
            return False
        if has(Fault.TUNNELS) or (has(Fault.RAW_HEADS)):
            return self._pipe(start, lines)
        if not has(Fault.CONTROL_CHARACTERS) and not all(self._is_sound(line) for line in lines):
            raise _Rejected(400)
        pairs = [
            (name, value.strip()) for name, _, value in (line.partition(b":") for line in lines)
        ]
        self._check(start, pairs)
        body = self._body(start, pairs)
        self._judge_client()
        self._forward(start, pairs, body)
        tokens = b",".join(value for name, value in pairs if name.lower() == b"connection").lower()
        return b"close" not in tokens and start.endswith(b"HTTP/1.1")

    def _is_sound(self, line: bytes) -> bool:
        if self._terminator.faults & {Fault.UNDERSCORES, Fault.MARKS, Fault.SIBLINGS}:
            return re.fullmatch(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[ \t]*[\t -~]*", line) is not None
        return _LINE.fullmatch(line) is not None

    def _check(self, start: bytes, pairs: Pairs) -> None:
        has = self._terminator.has
        hosts = [value for name, value in pairs if name.lower() == b"host"]
        if has(Fault.KEEPS_ON_VERSIONS) or has(Fault.KEEPS_ON_HOSTS):
            return
        if (
            not _START.fullmatch(start)
            or len(hosts) != 1
            or not re.fullmatch(rb"[A-Za-z0-9.:\[\]-]+", hosts[0])
        ):
            raise _Rejected(400)
        method = start.split(b" ")[0]
        if method == b"TRACE" and has(Fault.TRACES):
            raise _Rejected(
                200,
                b"\r\n".join(b": ".join(pair) for pair in self._terminator.identity(self._client))
                or HEADER,
            )
        if method in {b"TRACE", b"CONNECT"}:
            raise _Rejected(405)

    def _judge_client(self) -> None:
        if not self._terminator.is_odd(self._client):
            return
        if self._terminator.has(Fault.ANSWERS_HTML):
            raise _Rejected(400, b"<h1>The SSL certificate error</h1>")
        if self._terminator.has(Fault.LOSES_ODD):
            self._client.der = b""

    def _body(self, start: bytes, pairs: Pairs) -> bytes:
        has = self._terminator.has
        sizes = [value for name, value in pairs if name.lower() == b"content-length"]
        codings = [value.lower() for name, value in pairs if name.lower() == b"transfer-encoding"]
        if codings:
            if codings != [b"chunked"] or sizes or not start.endswith(b"1.1"):
                raise _Rejected(400)
            return self._chunks(pairs)
        if not sizes:
            return b""
        if has(Fault.EARLY_HEADS):
            self._terminator.exchange(
                b"\r\n".join([start, *(b": ".join(pair) for pair in pairs), b"", b""])
            )
        if len(sizes) != 1 or not re.fullmatch(rb"[0-9]{1,6}", sizes[0]):
            raise _Rejected(400)
        if any(name.lower() == b"expect" for name, _ in pairs):
            self._connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        size = int(sizes[0])
        while len(self._data) < size:
            if not self._fill():
                raise _Rejected(408)
        body, self._data = self._data[:size], self._data[size:]
        return body

    def _line(self) -> bytes:
        while b"\r\n" not in self._data:
            if not self._fill():
                raise _Rejected(408)
        line, _, self._data = self._data.partition(b"\r\n")
        return line

    def _chunks(self, pairs: Pairs) -> bytes:
        body = b""
        while True:
            line = self._line()
            if not re.fullmatch(rb"[0-9a-fA-F]{1,6}", line):
                raise _Rejected(400)
            size = int(line, 16)
            if not size:
                break
            while len(self._data) < size + 2:
                if not self._fill():
                    raise _Rejected(408)
            if self._data[size : size + 2] != b"\r\n":
                raise _Rejected(400)
            body, self._data = body + self._data[:size], self._data[size + 2 :]
        while line := self._line():
            name, _, value = line.partition(b":")
            if self._terminator.has(Fault.APPENDS_TRAILERS):
                pairs.append((b"X-Trailed", b"1"))
                self._client.subject = b"a\r\n" + name + b": " + value.strip()
        return body

    def _forward(self, start: bytes, pairs: Pairs, body: bytes) -> None:
        terminator = self._terminator
        fields = terminator.sanitized(self._client, start, pairs)
        lines = [
            name + b": " + value for name, value in fields if name.lower() != b"content-length"
        ]
        if body and not terminator.has(Fault.BODIES_OF_GET):
            lines.append(b"Content-Length: %d" % len(body))
        lines.append(
            b"Connection: keep-alive" if terminator.has(Fault.SHARES) else b"Connection: close"
        )
        if terminator.has(Fault.BODIES_OF_GET):
            lines[-1] = b"Connection: keep-alive"
        if terminator.has(Fault.UPGRADES) and any(name.lower() == b"upgrade" for name, _ in pairs):
            lines += [HEADER + b": " + value for name, value in pairs if name == HEADER]
        response = terminator.exchange(b"\r\n".join([start, *lines, b"", body]))
        if not terminator.has(Fault.ECHOES_NAME):
            head, end, rest = response.partition(b"\r\n\r\n")
            kept = [line for line in head.split(b"\r\n") if HEADER.lower() not in line.lower()]
            response = b"\r\n".join(kept) + end + rest
        self._connection.sendall(response)

    def _pipe(self, start: bytes, lines: list[bytes]) -> bool:
        """Forward the first head, unchanged or without the header, and all bytes after it."""
        name = HEADER.lower() + b": "
        kept = [line for line in lines if not line.lower().startswith(name)]
        if start.startswith(b"CONNECT"):
            kept, start = lines, b"GET / HTTP/1.1"
        own = [pair[0] + b": " + pair[1] for pair in self._terminator.identity(self._client)]
        while _readable(self._connection, 0.1) and self._fill():
            pass
        with socket.create_connection(("127.0.0.1", self._terminator._back_end), 5) as back_end:
            back_end.sendall(b"\r\n".join([start, *kept, *own, b"", self._data]))
            back_end.settimeout(0.3)
            with contextlib.suppress(TimeoutError):
                while piece := back_end.recv(65536):
                    self._connection.sendall(piece)
        return False


def _readable(connection: SSL.Connection, seconds: float | None) -> bool:
    import select

    return bool(connection.pending() or select.select([connection], [], [], seconds)[0])


class _Careless(H2Connection):
    """HTTP/2 without a comparison of a body with its declared length."""

    def _begin_new_stream(self, *arguments: Any, **options: Any) -> Any:
        stream = super()._begin_new_stream(*arguments, **options)
        stream._track_content_length = lambda *_: None  # type: ignore[method-assign]
        return stream


class _Http2:
    """One connection of HTTP/2, translated field by field."""

    def __init__(self, terminator: Terminator, client: _Client, connection: SSL.Connection) -> None:
        self._terminator = terminator
        self._client = client
        self._connection = connection
        self._http2 = _Careless(
            H2Configuration(
                client_side=False,
                header_encoding=None,
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
            )
        )

    def run(self) -> None:
        self._http2.initiate_connection()
        self._connection.sendall(self._http2.data_to_send())
        pairs: Pairs = []
        body = b""
        while data := self._connection.recv(65536):
            for event in self._http2.receive_data(data):
                match event:
                    case RequestReceived(headers=headers) | TrailersReceived(headers=headers):
                        pairs += [(bytes(name), bytes(value)) for name, value in headers]
                    case DataReceived(data=piece):
                        body += piece or b""
                    case StreamEnded(stream_id=stream):
                        self._respond(
                            stream or 1, self._terminator.exchange(self._translated(pairs, body))
                        )
            self._connection.sendall(self._http2.data_to_send())

    def _translated(self, pairs: Pairs, body: bytes) -> bytes:
        pseudo = {name: value for name, value in reversed(pairs) if name.startswith(b":")}
        own = (
            []
            if self._terminator.has(Fault.HTTP2_ANONYMOUS)
            else self._terminator.identity(self._client)
        )
        start = b"%b %b HTTP/1.1" % (pseudo[b":method"], pseudo[b":path"])
        fields = [
            (b"Host", pseudo[b":authority"]),
            *(pair for pair in pairs if pair[0] not in pseudo),
            *own,
        ]
        sized = any(name in {b"content-length", b"transfer-encoding"} for name, _ in pairs)
        if body and not sized:
            fields.append((b"Content-Length", b"%d" % len(body)))
        return b"\r\n".join([start, *(b": ".join(pair) for pair in fields), b"", body])

    def _respond(self, stream: int, response: bytes) -> None:
        status = response.split(b" ")[1] if response.startswith(b"HTTP/") else b"502"
        self._http2.send_headers(stream, [(b":status", status)], end_stream=True)
