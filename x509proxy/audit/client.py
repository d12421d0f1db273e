"""A TLS client over memory buffers, which can send any bytes and split its first message."""

from __future__ import annotations

import contextlib
import enum
import socket
import time

import attrs
from OpenSSL import SSL
from OpenSSL._util import lib

from x509proxy.audit.certificates import Credentials

__all__ = ["Address", "Connection", "Ending", "Tls", "Version"]


@attrs.frozen
class Address:
    """The address of a server."""

    host: str
    port: int
    name: str
    """The server's name in the handshake and in ``Host``."""


class Version(enum.Enum):
    """A version of TLS that a probe insists on."""

    TLS_1_0 = SSL.TLS1_VERSION
    TLS_1_1 = SSL.TLS1_1_VERSION
    TLS_1_2 = SSL.TLS1_2_VERSION
    TLS_1_3 = SSL.TLS1_3_VERSION


class Ending(enum.Enum):
    """The end of a connection, as the client observed it."""

    OPEN = "open"
    """The connection is open, and no more data was received in time."""
    CLOSED = "closed"
    ALERT = "TLS alert"
    REFUSED = "handshake refused"


@attrs.frozen
class Tls:
    """The parameters of a handshake."""

    client: Credentials | None = None
    server_name: str | None = None
    """Name for SNI. ``None`` stands for that of the address, and ``""`` for no SNI."""
    version: Version | None = None
    protocols: tuple[bytes, ...] = ()
    """Application protocols for ALPN."""
    segment: int = 0
    """Bytes of each TCP segment of the first message. 0 stands for one segment."""
    fragment: int = 0
    """Bytes of each TLS record of the first message. 0 stands for one record."""
    session: SSL.Session | None = attrs.field(default=None, repr=False)
    context: SSL.Context | None = attrs.field(default=None, repr=False)

    def shared(self) -> Tls:
        """Return the parameters with a context whose sessions can be resumed."""
        context = _context(attrs.evolve(self, client=None))
        return attrs.evolve(self, context=context)

    def resume(self, session: SSL.Session, context: SSL.Context | None) -> Tls:
        """Return the parameters with a session to resume, and its context."""
        return attrs.evolve(self, session=session, context=context)


_HANDSHAKE_SECONDS = 5.0
_SEGMENT_PAUSE = 0.02
_RECORD_HEAD = 5


class Connection:
    """A TLS connection. ``ending`` is its state, and ``alert`` is OpenSSL's reason for an end."""

    def __init__(self, address: Address, tls: Tls) -> None:
        self.ending = Ending.OPEN
        self.alert = ""
        self._tls = tls
        self._socket = socket.create_connection((address.host, address.port), _HANDSHAKE_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._openssl = SSL.Connection(tls.context or _context(tls), None)
        if tls.context is not None and tls.client is not None:
            # A shared context has no certificate: each of its connections may have another.
            self._openssl.use_certificate(tls.client.x509)
            self._openssl.use_privatekey(tls.client.private_key)
        name = address.name if tls.server_name is None else tls.server_name
        if name:
            self._openssl.set_tlsext_host_name(name.encode("ascii"))
        if tls.session is not None:
            self._openssl.set_session(tls.session)
        self._openssl.set_connect_state()
        self._shake_hands()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def protocol(self) -> bytes:
        """Return the application protocol that ALPN selected."""
        return self._openssl.get_alpn_proto_negotiated()

    @property
    def version(self) -> str:
        """Return the name of the TLS version."""
        return self._openssl.get_protocol_version_name()

    @property
    def authorities(self) -> int:
        """Return the number of authorities in the server's CertificateRequest."""
        return len(self._openssl.get_client_ca_list())

    @property
    def session(self) -> SSL.Session | None:
        """Return the session for a resumption."""
        return self._openssl.get_session()

    @property
    def resumed(self) -> bool:
        """Return True if the server resumed the offered session."""
        return bool(lib.SSL_session_reused(self._openssl._ssl))  # noqa: SLF001

    def _shake_hands(self) -> None:
        first = True
        while self.ending is Ending.OPEN:
            try:
                self._openssl.do_handshake()
            except SSL.WantReadError:
                self._flush(first=first)
                first = False
                self._fill(_HANDSHAKE_SECONDS, Ending.REFUSED)
            except SSL.Error as error:
                self._fail(error, Ending.REFUSED)
            else:
                break
        self._flush()

    def renegotiate(self) -> bool:
        """Start another handshake on this connection, and return True if the server accepts it."""
        try:
            self._openssl.renegotiate()
            self._openssl.do_handshake()
        except SSL.WantReadError:
            self._flush()
        except SSL.Error:
            return False
        self.read(0.5)
        return self.ending is Ending.OPEN and self._openssl.total_renegotiations() > 0

    def send(self, data: bytes) -> None:
        """Send bytes, unless the connection has ended."""
        if self.ending is not Ending.OPEN:
            return
        try:
            for at in range(0, len(data), 16000):
                self._openssl.sendall(data[at : at + 16000])
                self._flush()
        except SSL.Error as error:
            self._fail(error, Ending.ALERT)

    def read(self, seconds: float) -> bytes:
        """Return the next bytes, or ``b""`` after that time or at the end."""
        end = time.monotonic() + seconds
        while self.ending is Ending.OPEN:
            try:
                return self._openssl.recv(65536)
            except SSL.WantReadError:
                self._flush()
                left = end - time.monotonic()
                if left <= 0 or not self._fill(left, Ending.CLOSED):
                    break
            except SSL.ZeroReturnError:
                self.ending = Ending.CLOSED
            except SSL.Error as error:
                self._fail(error, Ending.ALERT)
        return b""

    def close(self) -> None:
        """Close both directions, without waiting for the server."""
        with contextlib.suppress(SSL.Error):
            self._openssl.shutdown()
        self._flush()
        self._socket.close()

    def _fail(self, error: SSL.Error, ending: Ending) -> None:
        self.ending = ending
        reasons = error.args[0] if error.args and isinstance(error.args[0], list) else []
        self.alert = ", ".join(reason for *_, reason in reasons) or type(error).__name__
        self._flush()

    def _flush(self, *, first: bool = False) -> None:
        try:
            while data := self._pending():
                for at, piece in enumerate(_cut(data, self._tls) if first else [data]):
                    # Without a pause, the kernel would merge the segments.
                    time.sleep(_SEGMENT_PAUSE if at else 0)
                    self._socket.sendall(piece)
        except OSError:
            if self.ending is Ending.OPEN:
                self.ending = Ending.CLOSED

    def _pending(self) -> bytes:
        try:
            return self._openssl.bio_read(1 << 20)
        except SSL.WantReadError:
            return b""

    def _fill(self, seconds: float, ending: Ending) -> bool:
        """Read from the socket, and return True if there was data."""
        self._socket.settimeout(max(seconds, 0.001))
        try:
            data = self._socket.recv(65536)
        except TimeoutError:
            if ending is Ending.REFUSED:
                self.ending, self.alert = ending, "no response in time"
            return False
        except OSError:
            data = b""
        if not data:
            self.ending = ending
            return False
        self._openssl.bio_write(data)
        return True


def _context(tls: Tls) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    # The audit is about the terminator's treatment of clients, not about its own certificate.
    context.set_verify(SSL.VERIFY_NONE)
    context.set_options(SSL.OP_LEGACY_SERVER_CONNECT)
    # Old versions and short keys are the subject of some probes.
    context.set_cipher_list(b"ALL:@SECLEVEL=0")
    if tls.version is not None:
        context.set_min_proto_version(tls.version.value)
        context.set_max_proto_version(tls.version.value)
    else:
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
    if tls.protocols:
        context.set_alpn_protos(list(tls.protocols))
    if tls.client is not None:
        context.use_certificate_chain_file(str(tls.client.certificate))
        context.use_privatekey_file(str(tls.client.key))
    return context


def _cut(data: bytes, tls: Tls) -> list[bytes]:
    """Return the first flight in pieces, as the parameters specify."""
    if tls.fragment:
        head, body = data[:3], data[_RECORD_HEAD:]
        parts = [body[at : at + tls.fragment] for at in range(0, len(body), tls.fragment)]
        data = b"".join(head + len(part).to_bytes(2, "big") + part for part in parts)
    size = tls.segment or len(data)
    return [data[at : at + size] for at in range(0, len(data), size)]
