"""The environment of a run: a folder, files of server and client, processes, until its end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import attrs
from cryptography.hazmat.primitives.serialization import Encoding

from bench.measure import descendants, read_parents
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.forwarding.secret_name import new_header_name

__all__ = ["ROOT", "BenchError", "Files", "Stage", "make_files"]

ROOT = Path(__file__).parent.parent
_PATIENCE = 30.0  # seconds for a program to start, and to end
_PROGRAMS = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


class BenchError(Exception):
    """A measurement is impossible; the message is one sentence without its full stop."""


@attrs.frozen
class Files:
    """Keys and certificates of server and client, made for this run.

    ``…_both``: certificate and key in one file.
    ``header_name``: the header that carries the certificate, the same for all subjects.
    """

    server: Path
    server_key: Path
    server_both: Path
    client: Path
    client_key: Path
    client_both: Path
    client_der: bytes
    header: Path
    header_name: str


def make_files(folder: Path) -> Files:
    """Write P-256 keys, self-signed certificates and a secret header name, for this user only."""
    server = make_self_signed(
        KeyKind.EC, "localhost", names=("localhost", "127.0.0.1"), server=True
    )
    client = make_self_signed(KeyKind.EC, "bench")
    name = new_header_name()

    def write(file: str, data: bytes) -> Path:
        path = folder / file
        path.touch(0o600)
        path.write_bytes(data)
        return path

    return Files(
        server=write("server.pem", server.certificate_pem),
        server_key=write("server.key", server.key_pem),
        server_both=write("server-both.pem", server.certificate_pem + server.key_pem),
        client=write("client.pem", client.certificate_pem),
        client_key=write("client.key", client.key_pem),
        client_both=write("client-both.pem", client.certificate_pem + client.key_pem),
        client_der=client.certificate.public_bytes(Encoding.DER),
        header=write("header.txt", name.encode() + b"\n"),
        header_name=name,
    )


class Stage:
    """A context manager that ends its processes and removes its files, on any exit.

    ``autogroup``: nice value for the session of each process. Linux shares CPU between sessions
    first (sched(7), "the autogroup feature"). On a busy machine a subject with much work waits for
    its turn, and nice(1) has no effect on that.
    """

    def __init__(self, autogroup: str | None = None) -> None:
        self._exits = ExitStack()
        self._autogroup = autogroup
        self.folder = Path()

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="x509proxy-bench-"))
        self._exits.callback(shutil.rmtree, self.folder, ignore_errors=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._exits.close()

    def find(self, program: str) -> str:
        """Find a program's path; :raises BenchError: it is not installed."""
        found = shutil.which(program, path=_PROGRAMS)
        if found is None:
            raise BenchError(f"{program} is not installed")
        return found

    def start(
        self,
        name: str,
        command: Sequence[str],
        port: int,
        environment: Mapping[str, str] | None = None,
    ) -> int:
        """Start a program that listens on ``port``, and wait until it does.

        Its output goes to ``NAME.log``.

        :returns: its process id.
        :raises BenchError: it has ended, or does not listen in time.
        """
        with (self.folder / f"{name}.log").open("wb") as log:
            # A session of its own: Ctrl-C ends the benchmark, which then ends its processes.
            process = subprocess.Popen(
                command, cwd=self.folder, env={**os.environ, **(environment or {})},
                start_new_session=True, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
        self._exits.callback(_end, process)
        self.prefer(process.pid)
        self._wait_for(port, process, name)
        return process.pid

    def prefer(self, pid: int) -> None:
        """Set the nice value of a session of this run; :raises BenchError: this user may not."""
        if self._autogroup is not None:
            try:
                Path(f"/proc/{pid}/autogroup").write_text(self._autogroup, "ascii")
            except OSError as error:
                raise BenchError(
                    f"--priority: it takes root and a kernel with autogroups: {error}"
                ) from None

    def _wait_for(self, port: int, process: subprocess.Popen[bytes], name: str) -> None:
        end = time.monotonic() + _PATIENCE
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            if process.poll() is not None or time.monotonic() > end:
                lines = (
                    (self.folder / f"{name}.log").read_text("utf-8", "replace").strip().splitlines()
                )
                raise BenchError(
                    f"{name} does not start: {' / '.join(lines[-3:]) or 'it prints nothing'}"
                )
            time.sleep(0.05)

    def run(
        self,
        command: Sequence[str],
        seconds: float = 60.0,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """Return the output of a program; :raises BenchError: it fails, or takes too long."""
        try:
            done = subprocess.run(
                command, cwd=self.folder, env={**os.environ, **(environment or {})},
                timeout=seconds, check=False,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise BenchError(f"{Path(command[0]).name} took more than {seconds:.0f} s") from None
        output = done.stdout.decode("utf-8", "replace")
        if done.returncode:
            raise BenchError(
                f"{Path(command[0]).name} failed: {' / '.join(output.strip().splitlines()[-3:])}"
            )
        return output


def _end(process: subprocess.Popen[bytes]) -> None:
    children = descendants(process.pid, read_parents())
    process.terminate()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
