"""Proofs that a subject does the job. A subject that fails one is not measured."""

from __future__ import annotations

import json
import re
import socket
import ssl
from base64 import b64decode
from binascii import Error
from contextlib import ExitStack
from http.client import HTTPException, HTTPSConnection
from urllib.parse import unquote

from bench.backend import RESPONSE
from bench.stage import BenchError, Files
from bench.subjects import Subject

__all__ = ["certificate_in", "hold", "prove", "received_certificate"]

_PATIENCE = 15.0  # seconds
_REQUEST = b"GET /token HTTP/1.1\r\nHost: localhost\r\n\r\n"
_BODY = RESPONSE.partition(b"\r\n\r\n")[2]


def certificate_in(value: str) -> bytes:
    """Decode the certificate header: base64 or PEM, with or without white space or ``%``.

    :returns: DER; nothing for an empty value, or for "(null)", which Apache sends instead.
    """
    text = re.sub(r"-----[A-Z ]+-----|\s", "", unquote(value))
    try:
        return b"" if text == "(null)" else b64decode(text, validate=True)
    except Error:
        raise BenchError(f"a header of {len(value)} characters holds no certificate") from None


def received_certificate(fields: list[list[str]], name: str) -> bytes:
    """Find the certificate in the one field of that name, with "_" or "-".

    :returns: DER; nothing without the field, or if it is empty.
    """
    folded = re.sub(r"[^a-z0-9]", "-", name.lower())
    values = [
        value for found, value in fields if re.sub(r"[^a-z0-9]", "-", found.lower()) == folded
    ]
    if len(values) > 1:
        raise BenchError(f"the back end received {len(values)} certificate headers")
    return certificate_in(values[0]) if values else b""


def _context(files: Files, certificate: bool = True) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=files.server)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if certificate:
        context.load_cert_chain(files.client, files.client_key)
    return context


def _received(subject: Subject, files: Files, certificate: bool) -> tuple[bytes, bool]:
    """Send a request with a forged header.

    :returns: the certificate that the back end received, and whether the connection is kept.
    """
    connection = HTTPSConnection(
        "localhost", subject.port, timeout=_PATIENCE, context=_context(files, certificate)
    )
    try:
        connection.request("GET", "/headers", headers={files.header_name: "forged"})
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise BenchError(f"{subject.name} responds {response.status}")
        return received_certificate(json.loads(body), files.header_name), not response.will_close
    finally:
        connection.close()


def _resumes(subject: Subject, files: Files) -> bool:
    context = _context(files)
    with _connect(subject, context) as first:
        _ask(first)
        session = first.session
    with _connect(subject, context, session) as second:
        return bool(second.session_reused)


def prove(subject: Subject, files: Files) -> bool:
    """Check that the back end receives the client's certificate and no forged one.

    No session may be resumed either.

    :returns: whether the subject keeps a connection after a response.
    :raises BenchError: it fails one of the checks.
    """
    try:
        certificate, keeps = _received(subject, files, certificate=True)
        if certificate != files.client_der:
            raise BenchError(f"{subject.name} does not pass the client's certificate on")
        if _resumes(subject, files):
            raise BenchError(f"{subject.name} resumes sessions")
    except (OSError, HTTPException) as error:
        raise BenchError(f"{subject.name} does not respond: {error}") from None
    try:
        forged, _ = _received(subject, files, certificate=False)
    except (OSError, HTTPException):
        forged = b""  # it rejects a client without a certificate
    if forged:
        raise BenchError(f"{subject.name} passes on a forged certificate header")
    return keeps


def _connect(
    subject: Subject, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", subject.port), _PATIENCE)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(plain, server_hostname="localhost", session=session)


def _ask(connection: ssl.SSLSocket) -> None:
    connection.sendall(_REQUEST)
    response = b""
    while not response.endswith(_BODY):
        piece = connection.recv(65536)
        if not piece:
            raise BenchError("a connection ended before its response")
        response += piece


def hold(subject: Subject, files: Files, keeps: bool, count: int, stack: ExitStack) -> None:
    """Open connections that stay until the stack is closed.

    Each has had one request. A subject that closes a connection after a response (``keeps`` is
    false) has had its handshake only.
    """
    context = _context(files)
    for _ in range(count):
        connection = stack.enter_context(_connect(subject, context))
        if keeps:
            _ask(connection)
