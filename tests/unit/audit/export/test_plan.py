"""Promises of :mod:`x509proxy.audit.export.plan`."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from tests.support.export_plans import (
    ExportTestCase,
)
from x509proxy import cli
from x509proxy.audit.export.command import export
from x509proxy.audit.export.plan import Place, read_plan
from x509proxy.certificates.pem_files import new_header_name
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.settings import SettingsError


class Files(ExportTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        made = make_self_signed(KeyKind.EC, "localhost", server=True)
        self.write("both.pem", made.certificate_pem + made.key_pem)
        self.name = new_header_name()
        self.write("header.txt", self.name.encode())

    def write(self, name: str, data: bytes) -> str:
        path = self.folder / name
        path.write_bytes(data)
        path.chmod(0o600)
        return str(path)

    def toml(self, text: str) -> str:
        return self.write(
            "x509proxy.toml",
            f'certificate = "both.pem"\nbackend = "http://127.0.0.1:8080"\n{text}'.encode(),
        )

    def test_read(self) -> None:
        """The plan has the file's places, files, header and limits."""
        plan = read_plan(
            "nginx",
            self.toml(
                'listen = ["tcp:1", "tcp:2:interface=\\\\:\\\\:1", "unix:/s"]\nheader-file = "header.txt"\n'
            ),
        )
        self.assertEqual((Place(1), Place(2, "::1")), plan.places)
        self.assertEqual(str(self.folder / "both.pem"), plan.identities[0].key)
        self.assertEqual(self.name.encode(), plan.fields[0].name)
        self.assertEqual(
            ("the endpoint unix: is left out, since only tcp is exported",), plan.limits
        )
        self.assertNotIn(self.name, repr(plan))

    def test_left_out(self) -> None:
        """The limits name each setting that is left out."""
        text = (
            'listen = "tcp:1"\npreset = "auth0"\n[[headers]]\nname = "X-Chain"\nformat = "pem-url"\nchain-index = 2\n'
            '[[rules]]\npath = "/token"\nclient-certificate = "required"\n[[certificates]]\ncertificate = "both.pem"\n'
            '[health]\npath = "/h"\n'
        )  # fmt: skip
        made = make_self_signed(KeyKind.EC, "other", server=True)
        self.write("other.pem", made.certificate_pem + made.key_pem)
        plan = read_plan(
            "nginx",
            self.toml(text.replace('certificate = "both.pem"', 'certificate = "other.pem"')),
        )
        limits = "\n".join(plan.limits)
        self.contains(
            limits,
            "rules by path",
            "health checks",
            "other certificates of a chain",
            "largest value",
        )
        self.assertEqual(2, len(plan.identities))

    def test_unfit(self) -> None:
        """Text that another product could misread is an error."""
        place = 'listen = "tcp:1"\nheader-file = "header.txt"\n'
        mixed = self.toml(place)
        text = (
            Path(mixed).read_text().replace('"http://127.0.0.1:8080"', '["http://a", "https://b"]')
        )
        with self.assertRaisesRegex(SettingsError, "backend: found some with https"):
            export("nginx", self.write("mixed.toml", text.encode()))
        self.write("bo th.pem", (self.folder / "both.pem").read_bytes())
        spaced = Path(mixed).read_text().replace("both.pem", "bo th.pem")
        with self.assertRaisesRegex(SettingsError, "export: found white space or a mark"):
            export("nginx", self.write("spaced.toml", spaced.encode()))

    def test_shown_certificate(self) -> None:
        """The proxy's own certificate for back ends is left out, and that is told."""
        text = (
            'listen = "tcp:1"\nheader-file = "header.txt"\n[upstream]\ncertificate = "both.pem"\n'
        )
        plan = read_plan("nginx", self.toml(text))
        self.assertIn("the certificate that is shown to back ends is left out", plan.limits)

    def test_no_place(self) -> None:
        """Without a tcp endpoint there is nothing to export."""
        with self.assertRaisesRegex(SettingsError, "listen: found no tcp endpoint"):
            export("nginx", self.toml('listen = "unix:/s"\nheader-file = "header.txt"\n'))

    def test_command(self) -> None:
        """The configuration goes to standard output, the limits to standard error."""
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            status = cli.main(
                ["export", "nginx", self.toml('listen = "tcp:1"\nheader-file = "header.txt"\n')]
            )
        self.assertEqual(0, status)
        self.assertIn(f"proxy_set_header {self.name} $ssl_client_escaped_cert;", out.getvalue())
        self.assertIn("nginx: a forged header is removed, and not counted\n", err.getvalue())
        self.assertNotIn(self.name, err.getvalue())
