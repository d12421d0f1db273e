"""Promises of the pages in ``docs/servers``: each preset has one, and their commands work."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from interop.recipes import recipe
from tests.support.raw_tls import get, read_reply
from x509proxy.certificates.self_signed import KeyKind, SelfSigned, make_self_signed
from x509proxy.forwarding.presets import PRESETS
from x509proxy.forwarding.secret_name import new_header_name
from x509proxy.service.config_check import Severity, review
from x509proxy.settings import PolicySettings, Trust
from x509proxy.testing import RecordingBackEnd, running_proxy

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "servers"
NEEDS_AUTHORITY = [
    page
    for page in sorted(FOLDER.glob("*.rst"))
    if page.name != "authority.rst" and re.search(r'ca = "ca\.pem"|/ca\.pem', page.read_text())
]


class Presets(SynchronousTestCase):
    def test_pages(self) -> None:
        """Each preset has the page that the notes of ``check`` name."""
        for preset in PRESETS.values():
            if preset.name != "none":
                self.assertIn(preset.name, (ROOT / preset.page).read_text("utf-8"))

    def test_limits(self) -> None:
        """A page has its server's limit of a head: the setting, and the status of the response."""
        for preset in PRESETS.values():
            if preset.max_head_bytes:
                text = (ROOT / preset.page).read_text("utf-8")
                self.assertIn(preset.head_setting, text, preset.name)
                self.assertIn(str(preset.head_status), text, preset.name)


class Authority(TestCase):
    """The recipe that the pages with ``ca`` share."""

    timeout = 60

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        (self.folder / "authority.cnf").write_text(recipe("servers/authority", "authority.cnf"))
        for name in ("authority", "client"):
            self.run_recipe(name)

    def run_recipe(self, name: str) -> str:
        done = subprocess.run(
            ["bash", "-euc", recipe("servers/authority", name)],
            cwd=self.folder, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        self.assertEqual(0, done.returncode, done.stderr)
        return done.stdout

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def test_linked(self) -> None:
        """Each page that needs an authority links the recipe."""
        self.assertGreaterEqual(len(NEEDS_AUTHORITY), 17)
        for page in NEEDS_AUTHORITY:
            self.assertIn(":doc:`authority`", page.read_text("utf-8"), page.name)

    def test_commands(self) -> None:
        """The commands print what the page states, and only the owner can read the keys."""
        self.assertEqual("my-client.pem: OK\n", self.run_recipe("verify"))
        self.assertEqual("subject=CN=my-client\n", self.run_recipe("subject"))
        for name in ("ca.key", "my-client.key"):
            self.assertEqual(0o600, (self.folder / name).stat().st_mode & 0o777, name)

    def test_configurations(self) -> None:
        """The configurations of these pages are good with the authority of the recipe."""
        server = make_self_signed(KeyKind.EC, "localhost", names=["localhost"], server=True)
        (self.folder / "server.pem").write_bytes(server.certificate_pem)
        for name, content in (
            ("server.key", server.key_pem),
            ("header.txt", new_header_name().encode()),
            ("cname-api-key.txt", new_header_name().encode()),
        ):
            (self.folder / name).write_bytes(content)
            (self.folder / name).chmod(0o600)
        checked = 0
        for page in NEEDS_AUTHORITY:
            for text in re.findall(
                r"^\.\. recipe: [\w-]+\.toml\n\n\.\. code-block:: toml\n\n((?:    .*\n|\n)+)",
                page.read_text("utf-8"),
                re.MULTILINE,
            ):
                if "\n    backend = " not in text:
                    # A part of a configuration.
                    continue
                path = self.folder / "x509proxy.toml"
                path.write_text(re.sub(r"^    ", "", text, flags=re.MULTILINE))
                found = [one for one in review(str(path)) if one.severity is not Severity.NOTE]
                self.assertEqual([], found, page.name)
                checked += 1
        self.assertGreaterEqual(checked, 17)

    async def test_request(self) -> None:
        """The proxy passes the client certificate of the recipe on with ``trust = "ca"``."""
        back_end = RecordingBackEnd(reactor)
        self.addCleanup(back_end.stop)
        proxy = running_proxy(
            reactor, back_end.port,
            authorities=x509.load_pem_x509_certificates(self.read("ca.pem")),
            policy=PolicySettings(trust=Trust.CA),
        )  # fmt: skip
        self.addCleanup(proxy.stop)
        [certificate] = x509.load_pem_x509_certificates(self.read("my-client.pem"))
        key: Any = load_pem_private_key(self.read("my-client.key"), None)
        made = SelfSigned(certificate, key)
        self_signed = make_self_signed(KeyKind.EC, "my-client")

        def ask(client: SelfSigned) -> int:
            with proxy.connect(client) as connection:
                connection.sendall(get("/token"))
                return read_reply(connection).status

        statuses: list[Any] = [await deferToThread(ask, one) for one in (made, self_signed)]
        self.assertEqual([200, 401], statuses)
        [request] = back_end.requests
        value = self.read("my-client.pem").decode().replace("\n", "").encode()
        self.assertEqual([value], request.values(proxy.header_name))
