"""The stage of a test: a folder, processes that end with it, a proxy, and clients' files."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
from twisted.trial.unittest import SynchronousTestCase

from x509proxy.certificates.self_signed import KeyKind, SelfSigned, make_self_signed
from x509proxy.forwarding.secret_name import new_header_name

__all__ = ["ClientFiles", "Proxy", "Stage"]

_PATIENCE = 90.0  # seconds for a server to start; Java on a busy machine needs most of them


@attrs.frozen
class ClientFiles:
    """A client's certificate and key: in files for programs, and parsed to compare with."""

    certificate: Path
    key: Path
    made: SelfSigned


@attrs.frozen
class Proxy:
    """A running ``twistd x509proxy``.

    ``header_name``: the secret one, if the recipe has a ``header-file``.
    """

    port: int
    authority: Path
    header_name: str
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"


class Stage(SynchronousTestCase):
    """A test whose processes have ended, and whose files are removed, when it is over."""

    timeout = 300

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="x509proxy-proof-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def require(self, *programs: str) -> None:
        """Skip where a program is missing.

        In CI, which installs them all, fail instead: a skipped test proves nothing.
        """
        missing = [
            program
            for program in programs
            if shutil.which(program) is None and not Path(program).exists()
        ]
        if missing:
            reason = f"not installed: {', '.join(missing)}"
            if os.environ.get("CI"):
                self.fail(reason)
            self.skipTest(reason)

    # Processes.

    def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program; its output goes to ``NAME.log`` in the folder."""
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.addCleanup(self._end, process)
        return process

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def run_program(
        self,
        *command: str,
        environment: Mapping[str, str] | None = None,
        seconds: float = 60,
        status: int = 0,
    ) -> str:
        """Return a program's standard output; it must end with 0, or with this ``status``."""
        done = subprocess.run(
            command, cwd=self.folder, env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True, timeout=seconds, check=False,
        )  # fmt: skip
        self.assertEqual(
            status, done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace")
        )
        return done.stdout.decode("utf-8")

    def wait_for(self, port: int, process: subprocess.Popen[bytes], name: str) -> None:
        """Wait until a program listens on the port; fail at once if the process has ended."""
        end = time.monotonic() + _PATIENCE
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            log = (self.folder / f"{name}.log").read_text(errors="replace")
            self.assertIsNone(process.poll(), log)
            self.assertLess(time.monotonic(), end, log)
            time.sleep(0.1)

    def wait_for_log(self, proxy: Proxy, text: str) -> None:
        """Wait for a line in the proxy's log, which collects what is frequent."""
        end = time.monotonic() + 60
        while text not in (log := proxy.log.read_text()):
            self.assertLess(time.monotonic(), end, log)
            time.sleep(0.1)

    # The proxy and its clients.

    def write(self, name: str, data: str | bytes, mode: int = 0o600) -> Path:
        path = self.folder / name
        path.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
        path.chmod(mode)
        return path

    def server_files(self, *names: str) -> Path:
        """Make ``server.pem`` and ``server.key``, for ``localhost``, and ``header.txt``."""
        made = make_self_signed(
            KeyKind.EC, "localhost", names=("localhost", "127.0.0.1", *names), server=True
        )
        self.write("server.key", made.key_pem)
        self.write("header.txt", new_header_name() + "\n")
        return self.write("server.pem", made.certificate_pem)

    def start_proxy(self, toml: str, port: int, name: str = "proxy") -> Proxy:
        """Start ``twistd -n x509proxy``.

        Its configuration names files of :meth:`server_files` and listens on ``port``.
        """
        path = self.write(f"{name}.toml", toml)
        command = [
            str(Path(sys.executable).parent / "twistd"),
            "-n",
            "--pidfile=",
            "x509proxy",
            "--config",
            str(path),
        ]
        process = self.start(name, command)
        self.wait_for(port, process, name)
        secret = (self.folder / "header.txt").read_text().split()[0]
        return Proxy(port, self.folder / "server.pem", secret, self.folder / f"{name}.log", process)

    def client(self, kind: KeyKind = KeyKind.EC, common_name: str = "client") -> ClientFiles:
        """Make a new self-signed client certificate, in files."""
        return self.client_files(make_self_signed(kind, common_name), f"{common_name}-{kind.value}")

    def client_files(self, made: SelfSigned, name: str) -> ClientFiles:
        return ClientFiles(
            self.write(f"{name}.pem", made.certificate_pem),
            self.write(f"{name}.key", made.key_pem),
            made,
        )

    def context(self, proxy: Proxy, client: ClientFiles | None = None) -> ssl.SSLContext:
        """Return a context for Python clients, with the client's certificate if given."""
        context = ssl.create_default_context(cafile=proxy.authority)
        if client is not None:
            context.load_cert_chain(client.certificate, client.key)
        return context
