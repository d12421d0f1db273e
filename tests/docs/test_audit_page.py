"""The page on audits: its table is that of the recorded runs, and its commands exist."""

from __future__ import annotations

import argparse
import re

from twisted.trial.unittest import SynchronousTestCase

from tests.support.audit_table import PAGE, page_with_tables, read_rows
from x509proxy.audit.options import configure
from x509proxy.audit.probes import PROBES
from x509proxy.export.command import RENDERERS

EXPORT_PAGE = PAGE.with_name("export.rst")


class Table(SynchronousTestCase):
    def test_current(self) -> None:
        """The page shows what is recorded."""
        text = PAGE.read_text()
        self.assertEqual(text, page_with_tables(text, read_rows()))

    def test_complete(self) -> None:
        """Each run has each probe that is not hostile, and x509proxy has no failure."""
        gentle = {probe.id for probe in PROBES if not probe.hostile}
        rows = read_rows()
        for row in rows:
            self.assertEqual(gentle, {*row.passed, *row.failed, *row.not_applicable}, row.product)
        kinds = {(row.product, row.kind) for row in rows}
        peers = {
            (name, kind)
            for name in RENDERERS
            if name != "envoy"
            for kind in ("published", "exported")
        }
        self.assertEqual({*peers, ("x509proxy", "default")}, kinds)
        (own,) = (row for row in rows if row.product == "x509proxy")
        self.assertEqual((), own.failed)

    def test_exports_are_better(self) -> None:
        """No exported configuration has a critical failure."""
        critical = {probe.id for probe in PROBES if probe.severity.value == "critical"}
        for row in read_rows():
            if row.kind == "exported":
                self.assertEqual(set(), critical & set(row.failed), row.product)


class Page(SynchronousTestCase):
    def test_sample(self) -> None:
        """The failure that the page shows has the words of its probe."""
        promises = {f"{one.id} ({one.severity.value}): {one.promise}" for one in PROBES}
        pattern = r"^ +([a-z-]+ \((?:critical|high|medium|low)\): .+) …$"
        (shown,) = re.findall(pattern, PAGE.read_text(), re.MULTILINE)
        self.assertTrue([text for text in promises if text.startswith(shown)])

    def test_options(self) -> None:
        """Each option of the command is on the page, and no other."""
        parser = argparse.ArgumentParser()
        configure(parser)
        options = set(re.findall(r"--[a-z-]+", parser.format_help())) - {"--help"}
        named = set(re.findall(r"``(--[a-z-]+)", PAGE.read_text()))
        self.assertEqual(options, named)

    def test_products(self) -> None:
        """Each product of ``export`` is on its page."""
        for product in RENDERERS:
            self.assertIn(f"``{product}``", EXPORT_PAGE.read_text())
