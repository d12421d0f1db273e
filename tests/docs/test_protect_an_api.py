"""Promises of ``docs/protect-an-api.rst``: its blocks work, and its table is up to date."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.hostile_tokens import cases, table
from tests.support.toml_files import TomlTestCase
from x509proxy.certificates.client_certificate import ClientCertificate
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.config.loader import load_configuration, override
from x509proxy.forwarding.bound_tokens import Binding, parse_jws, read_binding
from x509proxy.forwarding.path_rules import requirement_for
from x509proxy.forwarding.secret_name import new_header_name
from x509proxy.http1.messages import Framing, RequestHead
from x509proxy.settings import CertificateRequirement, Format, PolicySettings, TokenLevel

PAGE = Path(__file__).parents[2] / "docs/protect-an-api.rst"
_BLOCK = re.compile(
    r"^\.\. test: (\w+)\n\n\.\. code-block:: \w+\n\n((?:    .*\n|\n)+)", re.MULTILINE
)
_TABLE = re.compile(r"^\.\. list-table::\n(?:   .*\n|\n(?= ))+", re.MULTILINE)
_PASS = (
    "the scheme in lower case",
    "a DPoP key's token, sent as ``DPoP``",
)


class Hostile(SynchronousTestCase):
    def test_table(self) -> None:
        """The table is up to date: ``python -m tests.support.hostile_tokens`` prints it."""
        (found,) = _TABLE.findall(PAGE.read_text())
        self.assertEqual(table().splitlines(), found.splitlines())

    def test_verified(self) -> None:
        """With level ``jwt`` no hostile token reaches the back end."""
        passed = [case.name for case in cases() if case.result(TokenLevel.JWT) == "passes"]
        hostile = [name for name in passed if not name.endswith("(for comparison)")]
        self.assertEqual([*_PASS], hostile)

    def test_names(self) -> None:
        """No row hides another one."""
        names = [case.name for case in cases()]
        self.assertEqual(len(set(names)), len(names))


class Blocks(TomlTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.blocks = {
            name: textwrap.dedent(text) for name, text in _BLOCK.findall(PAGE.read_text())
        }
        made = make_self_signed(KeyKind.EC, "api.example", server=True)
        self.write(made.certificate_pem, name="server.pem")
        self.write(made.key_pem, name="server.key")
        self.header = self.write(f"{new_header_name()}\n", name="header.txt")

    def test_first(self) -> None:
        """The first configuration is whole, and warns of its level alone."""
        (warning,) = load_configuration(self.load(self.blocks["first"])).warnings
        self.assertTrue(warning.startswith("tokens.level: unverified reads cnf"), warning)

    def test_claims(self) -> None:
        """The header for claims can be added to another preset."""
        needed = {
            "certificate": str(self.folder / "server.pem"),
            "private_key": str(self.folder / "server.key"),
            "backend": "http://127.0.0.1:1",
            "header_file": self.header,
        }
        found = load_configuration(override(self.load(self.blocks["claims"]), needed))
        self.assertEqual((), found.warnings)
        plan = found.rules.plans[-1]
        self.assertEqual((Format.TOKEN_CLAIMS, 4096), (plan.form, plan.maximum))

    def test_preflight(self) -> None:
        """A preflight passes without a certificate; the request that follows needs one."""
        policy = self.load(self.blocks["preflight"])
        self.assertEqual(
            [CertificateRequirement.OPTIONAL, CertificateRequirement.REQUIRED],
            [self.required(method, policy) for method in (b"OPTIONS", b"GET")],
        )

    def required(self, method: bytes, policy: PolicySettings) -> CertificateRequirement:
        """Return the requirement of a request for the API."""
        head = RequestHead(method, b"/api/orders", "1.1", (), b"localhost", Framing.NONE)
        return requirement_for(head, policy)

    def test_trial(self) -> None:
        """The token for trials is bound to the certificate of the file."""
        script = self.write(self.blocks["trial"], name="trial.py")
        made = make_self_signed(KeyKind.EC, "my-client")
        pem = self.write(made.certificate_pem, name="my-client.pem")
        done = subprocess.run(
            [sys.executable, script, pem], capture_output=True, check=True, timeout=60
        )
        parsed = parse_jws(done.stdout.strip())
        assert parsed is not None
        thumbprint = ClientCertificate.from_x509(made.certificate, ()).thumbprint
        self.assertEqual(Binding(thumbprint), read_binding(parsed.claims))
