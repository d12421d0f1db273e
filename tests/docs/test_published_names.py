"""Promises about names in this repository: none is a secret, and none is a package."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from x509proxy.forwarding.secret_name import check_header_name
from x509proxy.settings import SettingsError

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"Sec-Client-X509-Cert-[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*", re.IGNORECASE)


# What pip takes for a package of the index: the name without a path before it.
INSTALLS = re.compile(r"pip3? install[^\n`\"]*?[\s'\"]x509proxy\b(?!-)")


class Packages(SynchronousTestCase):
    def test_not_on_the_index(self) -> None:
        """No page or message installs the name of this project, which anyone may register."""
        found = [
            f"{path.relative_to(ROOT)}: {match[0]}"
            for folder in ("docs", "contrib", "x509proxy", "changelog.d", "tests", "interop", ".ci")
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and path.suffix != ".pyc"
            for match in INSTALLS.finditer(path.read_bytes().decode("utf-8", "replace"))
        ]
        for name in ("README.rst", "CONTRIBUTING.rst", "CHANGELOG.rst", "SECURITY.md"):
            found += INSTALLS.findall((ROOT / name).read_text("utf-8"))
        self.assertEqual([], found)
        self.assertTrue(INSTALLS.search("pip install 'x" + "509proxy[jwt]'"))
        self.assertFalse(INSTALLS.search("/opt/x509proxy/bin/pip install '.[jwt]'"))


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
