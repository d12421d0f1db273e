"""Hostile loads on one proxy, with the latency of honest requests and ``/readyz``, and its memory.

``python -m bench.hostile`` starts a back end and the proxy, runs each load for a bounded time in a
process of its own, and prints one table. ``--root DIR`` runs the proxy of another checkout, for
figures from before and after a change. ``--subject nginx`` runs nginx, which has no ``/readyz``.

Facts
-----
* The honest client opens a connection with a certificate for each request, so that a slow handshake
  counts too.
* A load is a function that :func:`load` registers. It sends until its time is up, and returns the
  number of octets that it has sent.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPSConnection
from pathlib import Path

import attrs
from OpenSSL import SSL

from bench.held import KINDS, kib_each
from bench.measure import resident_kib
from bench.stage import ROOT, BenchError, Files, Stage, make_files
from bench.subjects import NAMES, start_back_end, start_subject
from tests.support.ports import free_port
from tests.support.tls13 import RecordClient
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.transport.tls_context import pyopenssl_key

__all__ = ["LOADS", "Honest", "Load", "Target", "load", "main", "quantile", "row"]

_CLIENTS = 4
_PAUSE = 0.05  # seconds between two requests of an honest client
_PATIENCE = 30.0
_PIECE = 131072
_SETTLED = 1.0


@attrs.frozen
class Target:
    """The proxy under load: its ports, its process, the client's files. ``admin``: 0 if none."""

    port: int
    admin: int
    pid: int
    certificate: Path
    key: Path


@attrs.frozen
class Load:
    """A hostile load.

    ``attack`` sends for so many seconds, in a process of its own; ``settings``: TOML lines that the
    proxy needs for it.
    """

    name: str
    description: str
    attack: Callable[[Target, float], int]
    settings: str = ""


LOADS: dict[str, Load] = {}


def load(
    name: str, description: str, settings: str = ""
) -> Callable[[Callable[[Target, float], int]], Callable[[Target, float], int]]:
    """Register a load."""

    def register(attack: Callable[[Target, float], int]) -> Callable[[Target, float], int]:
        LOADS[name] = Load(name, description, attack, settings)
        return attack

    return register


# Loads on TLS.


def _connect(target: Target) -> socket.socket:
    return socket.create_connection(("127.0.0.1", target.port), _PATIENCE)


def _records(
    target: Target, seconds: float, first: bytes, make: Callable[[RecordClient], bytes]
) -> int:
    """Send pieces of records for as long as the proxy accepts them, on one connection at a time."""
    end, sent = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        client = RecordClient()
        with _connect(target) as wire, suppress(OSError, SSL.Error):
            _shake(client, wire)
            if first:
                wire.sendall(client.seal(first))
            while time.monotonic() < end:
                piece = bytearray()
                while len(piece) < _PIECE:
                    piece += make(client)
                wire.sendall(piece)
                sent += len(piece)
                _swallow(wire)
    return sent


def _shake(client: RecordClient, wire: socket.socket) -> None:
    wire.sendall(client.step())
    while not client.tls.get_state_string().startswith(b"SSL negotiation finished"):
        data = wire.recv(65536)
        if not data:
            raise ConnectionError("the handshake was cut")
        wire.sendall(client.step(data))


def _swallow(wire: socket.socket) -> None:
    while select.select([wire], [], [], 0)[0]:
        if not wire.recv(65536):
            raise ConnectionError("the connection was cut")


_UPLOAD = b"POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"


@load("key-updates", "one connection of KeyUpdates without an end")
def key_updates(target: Target, seconds: float) -> int:
    """Send KeyUpdates."""
    return _records(target, seconds, b"", RecordClient.key_update)


@load("key-update-requests", "the same, each demanding a KeyUpdate")
def key_update_requests(target: Target, seconds: float) -> int:
    """Send KeyUpdates that demand one in return."""
    return _records(target, seconds, b"", lambda client: client.key_update(answered=True))


@load("empty-records", "records without an octet of content")
def empty_records(target: Target, seconds: float) -> int:
    """Send records without content."""
    return _records(target, seconds, b"", lambda client: client.seal(b""))


@load("one-byte-records", "a body of which each octet is a record")
def one_byte_records(target: Target, seconds: float) -> int:
    """Send a body in records of one octet."""
    return _records(target, seconds, _UPLOAD, lambda client: client.seal(b"x"))


def _many(target: Target, seconds: float, first: bytes) -> int:
    """Open 250 connections in a second, each with a part of a handshake, and keep them open."""
    end, sent = time.monotonic() + seconds, 0
    held: list[socket.socket] = []
    try:
        while time.monotonic() < end:
            with suppress(OSError):
                wire = _connect(target)
                held.append(wire)
                wire.settimeout(0)
                sent += wire.send(first)
            time.sleep(0.004)
    finally:
        for wire in held:
            wire.close()
    return sent


@load("client-hellos", "250 ClientHellos of 130,000 octets in a second, and not their end")
def client_hellos(target: Target, seconds: float) -> int:
    """Send long ClientHellos without their end."""
    length = 131000
    hello = b"\x01" + length.to_bytes(3, "big") + bytes(length)
    records = b"".join(
        b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part
        for part in (hello[at : at + 16384] for at in range(0, 130000, 16384))
    )
    return _many(target, seconds, records[:130000])


def _chain_context(length: int) -> SSL.Context:
    own = make_self_signed(KeyKind.EC, "hostile")
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.use_certificate(own.certificate)
    context.use_privatekey(pyopenssl_key(own.private_key))
    for _ in range(length):
        context.add_extra_chain_cert(own.certificate)
    return context


@load("long-chains", "finished handshakes with chains of 150 certificates, held")
def long_chains(target: Target, seconds: float) -> int:
    """Complete handshakes with long chains, and keep the connections."""
    end, sent = time.monotonic() + seconds, 0
    context = _chain_context(150)
    held: list[socket.socket] = []
    try:
        while time.monotonic() < end:
            tls = SSL.Connection(context, None)
            tls.set_connect_state()
            with suppress(OSError, SSL.Error):
                wire = _connect(target)
                held.append(wire)
                sent += _finish(tls, wire)
    finally:
        for wire in held:
            wire.close()
    return sent


def _finish(tls: SSL.Connection, wire: socket.socket) -> int:
    sent = 0
    while True:
        with suppress(SSL.WantReadError):
            tls.do_handshake()
            break
        sent += _send_out(tls, wire)
        data = wire.recv(65536)
        if not data:
            raise ConnectionError("the handshake was cut")
        tls.bio_write(data)
    return sent + _send_out(tls, wire)


def _send_out(tls: SSL.Connection, wire: socket.socket) -> int:
    with suppress(SSL.WantReadError):
        data = tls.bio_read(1 << 20)
        wire.sendall(data)
        return len(data)
    return 0


@load(
    "slow-readers",
    "32 clients that read 64 KiB/s of responses of 4 MB",
    "[upstream]\nmax-connections = 64\n",
)
def slow_readers(target: Target, seconds: float) -> int:
    """Read long responses slowly."""
    end = time.monotonic() + seconds
    readers = [_SlowReader(target, 4_000_000) for _ in range(32)]
    while time.monotonic() < end:
        for reader in readers:
            reader.read(6554)
        time.sleep(0.1)
    for reader in readers:
        reader.close()
    return sum(reader.received for reader in readers)


class _SlowReader:
    """A client with a certificate and a small receive buffer: the kernels hold little for it."""

    def __init__(self, target: Target, size: int) -> None:
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        plain.settimeout(_PATIENCE)
        plain.connect(("127.0.0.1", target.port))
        self._tls = client_context(target).wrap_socket(plain)
        self._tls.sendall(b"GET /bytes/%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % size)
        self._tls.settimeout(0)
        self.received = 0
        self.is_over = False

    def read(self, size: int) -> None:
        """Read up to so many octets, if there are any."""
        if self.is_over:
            return
        try:
            data = self._tls.recv(size)
        except (ssl.SSLWantReadError, BlockingIOError):
            return
        except OSError:
            data = b""
        self.is_over = not data
        self.received += len(data)

    def close(self) -> None:
        self._tls.close()


# The honest clients.


def client_context(target: Target) -> ssl.SSLContext:
    """Make a client's context, with its certificate and without verification of the server's."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(target.certificate, target.key)
    return context


@attrs.define
class Honest:
    """Milliseconds of each honest request and of each ``/readyz``, and the numbers of failures."""

    requests: list[float] = attrs.Factory(list)
    readyz: list[float] = attrs.Factory(list)
    failed: int = 0
    not_ready: int = 0


def _ask(target: Target, context: ssl.SSLContext) -> bool:
    connection = HTTPSConnection("127.0.0.1", target.port, timeout=_PATIENCE, context=context)
    try:
        connection.request("GET", "/token")
        response = connection.getresponse()
        response.read()
        return response.status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _ask_admin(target: Target) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", target.admin), _PATIENCE) as wire:
            wire.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return b" 200 " in wire.recv(65536)
    except OSError:
        return False


def honest(target: Target, seconds: float) -> Honest:
    """Send honest requests for a number of seconds, with several clients in parallel."""
    found, end = Honest(), time.monotonic() + seconds
    context = client_context(target)

    def client() -> None:
        while time.monotonic() < end:
            begun = time.monotonic()
            found.failed += not _ask(target, context)
            found.requests.append((time.monotonic() - begun) * 1000)
            time.sleep(_PAUSE)

    def admin() -> None:
        while time.monotonic() < end:
            begun = time.monotonic()
            found.not_ready += not _ask_admin(target)
            found.readyz.append((time.monotonic() - begun) * 1000)
            time.sleep(_PAUSE)

    threads = [threading.Thread(target=client, daemon=True) for _ in range(_CLIENTS)]
    if target.admin:
        threads.append(threading.Thread(target=admin, daemon=True))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def quantile(values: Sequence[float], part: float) -> float:
    """Return the value that ``part`` of all do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


# One run.


def _configuration(files: Files, folder: Path, ports: tuple[int, int, int], further: str) -> str:
    port, admin, back_end = ports
    return f"""
listen = ["tcp:{port}:interface=127.0.0.1:backlog=1024"]
certificate = "{files.server}"
private-key = "{files.server_key}"
backend = ["http://127.0.0.1:{back_end}"]
preset = "connect2id"
header-file = "{files.header}"
access-log = "{folder}/access.log"
[admin]
listen = "tcp:{admin}:interface=127.0.0.1"
{further}
"""


@contextmanager
def running(files: Files, root: Path, back_end: int, further: str) -> Iterator[Target]:
    """Run the proxy of the checkout ``root``."""
    with Stage() as stage:
        port, admin = free_port(), free_port()
        path = stage.folder / "hostile.toml"
        path.touch(0o600)
        path.write_text(_configuration(files, stage.folder, (port, admin, back_end), further))
        command = [
            str(Path(sys.executable).parent / "twistd"), "-n", "--pidfile=",
            "x509proxy", "--config", str(path),
        ]  # fmt: skip
        pid = stage.start("x509proxy", command, port, {"PYTHONPATH": str(root)})
        yield Target(port, admin, pid, files.client, files.client_key)


@contextmanager
def _other(files: Files, name: str, back_end: int) -> Iterator[Target]:
    """Run another subject of the benchmarks."""
    with Stage() as stage:
        subject = start_subject(stage, name, files, back_end)
        yield Target(subject.port, 0, _serving(subject.pid), files.client, files.client_key)


def _serving(pid: int) -> int:
    """Return the process that serves: the child, if there is one."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else pid


class _Peak(threading.Thread):
    """The largest resident memory of a process while it is watched, in KiB."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid, self._over = pid, threading.Event()
        self.peak = 0

    def run(self) -> None:
        while not self._over.wait(0.1):
            self.peak = max(self.peak, resident_kib(self._pid))

    def stop(self) -> int:
        self._over.set()
        self.join()
        return self.peak


def row(name: str, sent: int, found: Honest, memory: Sequence[float]) -> str:
    """Format a line of the table. ``memory``: MiB before, at the peak, and after."""
    times = " ".join(f"{quantile(found.requests, part):7.0f}" for part in (0.5, 0.99, 1))
    kept = " ".join(f"{size:6.0f}" for size in memory)
    return (
        f"{name:22} {len(found.requests):6} {found.failed:6} {times} "
        f"{quantile(found.readyz, 1):8.0f} {found.not_ready:5} {kept} {sent / 1e6:9.1f}"
    )


_HEAD = (
    f"{'load':22} {'honest':>6} {'failed':>6} {'p50 ms':>7} {'p99':>7} {'max':>7} "
    f"{'/readyz':>8} {'fail':>5} {'before':>6} {'peak':>6} {'after':>6} {'MB sent':>9}"
)


def _child(name: str, target: Target, seconds: float) -> subprocess.Popen[str]:
    """Start an attack in its own process, so that it does not delay the honest clients."""
    words = [str(part) for part in attrs.astuple(target)]
    return subprocess.Popen(
        [sys.executable, "-m", "bench.hostile", "--attack", name, str(seconds), *words],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def measure(name: str, target: Target, seconds: float) -> str:
    """Run one load, or none; return its line of the table."""
    before = resident_kib(target.pid)
    peak = _Peak(target.pid)
    peak.start()
    attack = _child(name, target, seconds) if name in LOADS else None
    found = honest(target, seconds)
    sent = 0
    if attack is not None:
        out, _ = attack.communicate(timeout=_PATIENCE)
        sent = json.loads(out or "0")
    time.sleep(_SETTLED)
    memory = [kib / 1024 for kib in (before, peak.stop(), resident_kib(target.pid))]
    return row(name, sent, found, memory)


def drain(target: Target, seconds: float) -> str:
    """Send SIGTERM while 8 clients read at 256 kbit/s; return a sentence about their responses."""
    size = 200_000
    readers = [_SlowReader(target, size) for _ in range(8)]
    end, ended = time.monotonic() + max(seconds, 40.0), False
    begun = time.monotonic()
    while time.monotonic() < end and not all(reader.is_over for reader in readers):
        for reader in readers:
            reader.read(3200)
        if not ended and time.monotonic() > begun + 1:
            ended = True
            os.kill(target.pid, signal.SIGTERM)
        time.sleep(0.1)
    whole = sum(reader.received > size for reader in readers)
    least = min(reader.received for reader in readers)
    return (
        f"drain: {whole} of 8 clients at 256 kbit/s have the whole response of {size} octets, "
        f"the least {least}"
    )


_PATIENT = (
    "[client]\nhandshake-timeout = 60\nhead-timeout = 60\nbody-timeout = 60\nidle-timeout = 60\n"
)


def _memory(files: Files, root: Path, back_end: int) -> None:
    for kind in KINDS:
        with running(
            files, root, back_end, _PATIENT + "[upstream]\nmax-connections = 512\n"
        ) as target:
            print(f"{kind:36} {kib_each(kind, target.port, target.pid):6.0f} KiB", flush=True)


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench.hostile", description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="NAMES", help=f"some of none,{','.join(LOADS)},drain")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each load (default 8)")
    parser.add_argument("--root", type=Path, default=ROOT, help="checkout of the proxy to run")
    parser.add_argument(
        "--subject", choices=NAMES, default="x509proxy", help="what to run (default x509proxy)"
    )
    parser.add_argument("--memory", action="store_true", help="memory of each kind of connection")
    parser.add_argument("--attack", nargs=7, help=argparse.SUPPRESS)
    return parser.parse_args(words)


def _attack(name: str, seconds: str, *target: str) -> int:
    port, admin, pid, certificate, key = target
    aim = Target(int(port), int(admin), int(pid), Path(certificate), Path(key))
    print(json.dumps(LOADS[name].attack(aim, float(seconds))))
    return 0


def main(words: Sequence[str] | None = None) -> int:
    """Run the loads; :returns: the exit status."""
    arguments = _arguments(words)
    if arguments.attack:
        return _attack(*arguments.attack)
    names = arguments.only.split(",") if arguments.only else ["none", *LOADS, "drain"]
    try:
        with Stage() as stage:
            files = make_files(stage.folder)
            back_end, _ = start_back_end(stage)
            if arguments.memory:
                _memory(files, arguments.root, back_end)
                return 0
            print(_HEAD, flush=True)
            for name in names:
                further = LOADS[name].settings if name in LOADS else ""
                subject = (
                    running(files, arguments.root, back_end, further)
                    if arguments.subject == "x509proxy"
                    else _other(files, arguments.subject, back_end)
                )
                with subject as target:
                    step = drain if name == "drain" else lambda *given: measure(name, *given)  # noqa: B023
                    print(step(target, arguments.seconds), flush=True)
    except BenchError as error:
        print(f"{error}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    # Other modules register their loads with the imported module, so the imported one must run.
    import bench.hostile_availability  # noqa: F401 - registers its loads
    from bench.hostile import main as run

    sys.exit(run())
