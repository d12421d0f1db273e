"""Promises about names in this repository: they are public, so none is accepted as a secret."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from x509proxy.forwarding.secret_name import check_header_name
from x509proxy.settings import SettingsError

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"Sec-Client-X509-Cert-[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*", re.IGNORECASE)


class Published(SynchronousTestCase):
    def test_refused(self) -> None:
        """No name of this repository's documentation, examples and tests is accepted."""
        found = {
            name
            for folder in (
                "docs",
                "tests",
                "contrib",
                "interop",
                "bench",
                "x509proxy",
                "changelog.d",
            )
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and path.suffix != ".pyc"
            for name in NAME.findall(path.read_bytes().decode("utf-8", "replace"))
        } | set(NAME.findall((ROOT / "README.rst").read_text("utf-8")))
        self.assertGreater(len(found), 3)
        for name in found:
            self.assertRaises(SettingsError, check_header_name, name, "header")
