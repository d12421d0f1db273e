"""Tests of :mod:`x509proxy.audit.options`."""

from __future__ import annotations

import argparse
import contextlib
import io

import attrs
from twisted.trial.unittest import SynchronousTestCase

from x509proxy.audit.options import Options, configure
from x509proxy.settings import Format


class Audit(SynchronousTestCase):
    def setUp(self) -> None:
        self.parser = argparse.ArgumentParser()
        configure(self.parser)

    def parse(self, *arguments: str) -> Options:
        return Options(**vars(self.parser.parse_args(arguments)))

    def test_fields(self) -> None:
        """Each option has its field, and the defaults run every harmless probe."""
        options = self.parse()
        self.assertEqual(
            (None, [], [], False, 100.0, "low"),
            (
                options.url,
                options.only,
                options.path,
                options.hostile,
                options.rate,
                options.fail_on,
            ),
        )

    def test_secret(self) -> None:
        """The secret header name does not stand in the options' representation."""
        self.assertNotIn("Sec-Secret", repr(self.parse("--header", "Sec-Secret")))
        self.assertFalse(attrs.fields_dict(Options)["header"].repr)

    def test_formats(self) -> None:
        """Each format for a certificate is accepted, and no other."""
        for form in set(Format) - {Format.TOKEN_CLAIMS}:
            self.assertEqual(form.value, self.parse("--format", form.value).format)
        with contextlib.redirect_stderr(io.StringIO()), self.assertRaises(SystemExit):
            self.parse("--format", "der")
