"""Tests of :mod:`x509proxy.export.command`, for each product."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout

import attrs

from tests.support.export_plans import (
    PLAN,
    ExportFilesTestCase,
    ExportTestCase,
    plan_fields,
    rendered,
)
from x509proxy import cli
from x509proxy.export.command import RENDERERS
from x509proxy.forwarding.presets import HeaderPlan
from x509proxy.settings import Backend, Format, SettingsError


class Every(ExportTestCase):
    def test_common(self) -> None:
        """Each removes the header and its siblings, and has its limits in comments."""
        for product in RENDERERS:
            text, limits = rendered(product)
            self.contains(
                text, "X-My-Cert", "X-Forwarded-Tls-Client-Cert", "ssl-client-verify", "/a.pem"
            )
            for limit in limits.split("\n"):
                self.assertIn(f"# - {limit}\n", text)

    def test_base_path(self) -> None:
        """A base path of the back end is an error where it would be lost."""
        backends = (Backend.parse("http://a/base"),)
        for product in ("nginx", "haproxy", "apache", "caddy"):
            with self.assertRaisesRegex(SettingsError, "backend: found a base path"):
                rendered(product, backends=backends)

    def test_formats(self) -> None:
        """A format that a product cannot write is an error that lists those it can."""
        for product, form in (
            ("nginx", Format.RFC9440), ("haproxy", Format.RFC9440_CHAIN), ("apache", Format.XFCC),
            ("caddy", Format.PEM_URL), ("envoy", Format.PEM),
        ):  # fmt: skip
            with self.assertRaisesRegex(SettingsError, f"format: found {form.value}, expected one"):
                rendered(product, fields=plan_fields(form))

    def test_own_siblings(self) -> None:
        """A header that is written is not among those that are removed."""
        for product in ("nginx", "haproxy", "apache", "envoy"):
            text, _ = rendered(product, fields=(HeaderPlan(Format.SERIAL, b"Client-Cert"),))
            self.assertIn("Client-Cert", text)
        self.assertNotIn(
            "Client-Cert",
            attrs.evolve(PLAN, fields=(HeaderPlan(Format.PEM, b"client-cert"),)).removed,
        )


class Command(ExportFilesTestCase):
    def test_command(self) -> None:
        """The configuration goes to standard output, the limits to standard error."""
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            status = cli.main(
                ["export", "nginx", self.toml('listen = "tcp:1"\nheader-file = "header.txt"\n')]
            )
        self.assertEqual(0, status)
        self.assertIn(f"proxy_set_header {self.name} $ssl_client_escaped_cert;", out.getvalue())
        self.assertIn("nginx: a forged header is removed and not counted\n", err.getvalue())
        self.assertNotIn(self.name, err.getvalue())
