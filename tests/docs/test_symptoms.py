"""Promises of ``docs/operations/symptoms.rst``: it names what the proxy writes."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from x509proxy.http1.errors import Code
from x509proxy.settings import ClientSettings, ProxySettings, Settings, UpstreamSettings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations" / "symptoms.rst").read_text("utf-8")
METRICS = (ROOT / "docs" / "operations" / "metrics.rst").read_text("utf-8")
SOURCES = "".join(path.read_text("utf-8") for path in (ROOT / "x509proxy").rglob("*.py"))


class Names(SynchronousTestCase):
    def test_codes(self) -> None:
        """Each symptom of an error response is a code, and most codes are there."""
        section = PAGE.partition("gets an error response\n")[2].partition("sees no certificate\n")[
            0
        ]
        first = "".join(re.findall(r"^   \* - ((?:.|\n)*?)\n     - ", section, re.MULTILINE))
        named = set(re.findall(r"``(\w+)``", first))
        self.assertEqual(set(), named - {code.label for code in Code})
        self.assertGreater(len(named), 15)

    def test_reasons(self) -> None:
        """Each reason for a failed handshake is one that the metrics have."""
        named = re.findall(r"reason=(\w+)", PAGE)
        self.assertGreater(len(named), 3)
        for reason in named:
            self.assertIn(f"``{reason}``", METRICS)

    def test_settings(self) -> None:
        """Each setting with its table exists."""
        tables: dict[str, type[Settings]] = {
            "client": ClientSettings,
            "upstream": UpstreamSettings,
        }
        named = re.findall(r"``(client|upstream)\.([a-z-]+)``", PAGE)
        self.assertGreater(len(named), 4)
        for table, name in named:
            keys = {field.encode_name for field in msgspec.structs.fields(tables[table])}
            self.assertIn(name, keys)
        for name in ("max-certificate-bytes", "key-types", "header-file", "usage", "validity"):
            self.assertIn(f"``{name}", PAGE)
            self.assertIn(name, {one.encode_name for one in msgspec.structs.fields(ProxySettings)})

    def test_sentences(self) -> None:
        """Each sentence that the page quotes is one of the proxy's."""
        for sentence in ("found a change that needs a restart", "the old files go on serving"):
            self.assertIn(f"``{sentence}``", PAGE)
            self.assertIn(sentence, SOURCES)
