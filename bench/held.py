"""Memory that one connection of each kind holds in the proxy, for as long as a client keeps it.

``python -m bench.hostile --memory`` opens some hundred connections of each kind to a proxy of its
own, and divides the growth of its resident memory by their number.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from bench.measure import resident_kib

__all__ = ["KINDS", "kib_each"]

_WARM, _COUNT = 50, 300
_SETTLED = 1.0
_TIMEOUT = 20.0

Opener = Callable[[int], Any]


def _plain(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), _TIMEOUT)


def _certificate(names: int) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "held")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
    )
    if names:
        found = [x509.DNSName(f"{number:04}.example.com") for number in range(names)]
        builder = builder.add_extension(x509.SubjectAlternativeName(found), critical=False)
    return builder.sign(key, hashes.SHA256()), key


def _context(names: int = 0, issuers: int = 0) -> SSL.Context:
    certificate, key = _certificate(names)
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.use_certificate(certificate)
    context.use_privatekey(key)
    for _ in range(issuers):
        context.add_extra_chain_cert(certificate)
    return context


def _begin(context: SSL.Context, port: int) -> tuple[SSL.Connection, socket.socket, bytes]:
    """Complete the client's side of a handshake; return its last flight without sending it."""
    tls, wire = SSL.Connection(context, None), _plain(port)
    tls.set_connect_state()
    while True:
        with suppress(SSL.WantReadError):
            tls.do_handshake()
            return tls, wire, tls.bio_read(1 << 20)
        with suppress(SSL.WantReadError):
            wire.sendall(tls.bio_read(1 << 20))
        tls.bio_write(wire.recv(65536))


def _shaken(context: SSL.Context, after: bytes = b"") -> Opener:
    def open_one(port: int) -> Any:
        tls, wire, flight = _begin(context, port)
        if after:
            tls.send(after)
            flight += tls.bio_read(1 << 20)
        wire.sendall(flight)
        return wire

    return open_one


def _withheld(context: SSL.Context) -> Opener:
    """Send the client's last flight without its end.

    The proxy has parsed the certificates then, and the handshake is not complete.
    """

    def open_one(port: int) -> Any:
        _, wire, flight = _begin(context, port)
        wire.sendall(flight[:-150])
        return wire

    return open_one


def _hello(port: int) -> Any:
    """Announce a ClientHello of 131,000 octets, and send it up to the limit."""
    wire = _plain(port)
    part = b"\x01" + (131000).to_bytes(3, "big") + bytes(16380)
    records = b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for _ in range(2))
    wire.sendall(records[:32700])
    return wire


_HEAD = b"GET /token HTTP/1.1\r\nHost: localhost\r\nX-Field: " + b"x" * 8000
_BODY = b"POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Length: 65536\r\n\r\n" + bytes(65500)
_READER = b"GET /bytes/16000000 HTTP/1.1\r\nHost: localhost\r\n\r\n"

KINDS: dict[str, Callable[[], Opener]] = {
    "TCP only": lambda: _plain,
    "idle, handshake complete": lambda: _shaken(_context()),
    "idle, ten issuers": lambda: _shaken(_context(issuers=10)),
    "idle, ten issuers of 2.5 KB": lambda: _shaken(_context(100, issuers=10)),
    "idle, a certificate of 27 KB": lambda: _shaken(_context(1500)),
    "handshake: a ClientHello of 32 KB": lambda: _hello,
    "handshake: 80 certificates": lambda: _withheld(_context(issuers=80)),
    "handshake: ten issuers of 2.5 KB": lambda: _withheld(_context(100, issuers=10)),
    "handshake: a certificate of 27 KB": lambda: _withheld(_context(1500)),
    "half a head": lambda: _shaken(_context(), _HEAD),
    "a body of 64 KiB, but for its end": lambda: _shaken(_context(), _BODY),
    "a client that does not read": lambda: _shaken(_context(), _READER),
}


def kib_each(kind: str, port: int, pid: int) -> float:
    """Return the KiB of resident memory for each connection of a kind."""
    open_one = KINDS[kind]()
    held = []

    def hold(count: int) -> None:
        for _ in range(count):
            with suppress(OSError, SSL.Error):
                held.append(open_one(port))

    try:
        hold(_WARM)
        time.sleep(_SETTLED)
        before = resident_kib(pid)
        hold(_COUNT)
        time.sleep(_SETTLED)
        return (resident_kib(pid) - before) / _COUNT
    finally:
        for wire in held:
            wire.close()
