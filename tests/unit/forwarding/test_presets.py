"""Tests of :mod:`x509proxy.forwarding.presets`."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from x509proxy.forwarding.header_rules import HeaderRules
from x509proxy.forwarding.presets import PRESETS, HeaderPlan, Naming, Preset, find_preset
from x509proxy.settings import Format, ProxySettings, SettingsError


class Table(SynchronousTestCase):
    def test_names(self) -> None:
        """A preset is found under its own name, and has a title."""
        for name, preset in PRESETS.items():
            self.assertEqual(name, preset.name)
            self.assertTrue(preset.title)

    def test_pages(self) -> None:
        """The page about each preset's server exists."""
        root = Path(__file__).parents[3]
        for name in set(PRESETS) - {"none"}:
            self.assertTrue((root / find_preset(name).page).exists(), name)

    def test_default(self) -> None:
        """The default preset is Connect2id's.

        It has one header with a configured name, and PEM without white space.
        """
        preset = find_preset(ProxySettings().preset)
        self.assertEqual("connect2id", preset.name)
        self.assertEqual((HeaderPlan(Format.PEM, b""),), preset.plans)

    def test_rfc9440(self) -> None:
        """RFC 9440 has two headers with names of its own."""
        self.assertEqual(
            (
                HeaderPlan(Format.RFC9440, b"Client-Cert"),
                HeaderPlan(Format.RFC9440_CHAIN, b"Client-Cert-Chain"),
            ),
            find_preset("rfc9440").plans,
        )

    def test_names_are_of_plain_characters(self) -> None:
        """Every name has letters, digits, hyphens and underscores.

        Some servers' own manuals use underscores.
        """
        for preset in PRESETS.values():
            for plan in preset.plans:
                self.assertTrue(
                    not plan.name or re.fullmatch(rb"[A-Za-z0-9_-]+", plan.name), preset.name
                )

    def test_naming(self) -> None:
        """Only the first header may be without a name, if the administrator chooses one."""
        for preset in PRESETS.values():
            unnamed = [not plan.name for plan in preset.plans]
            self.assertEqual(
                [preset.naming is Naming.SECRET, *[False] * len(unnamed[1:])],
                unnamed or [False],
                preset.name,
            )

    def test_no_header_twice(self) -> None:
        """No preset sends two headers of the same name (invariant L1)."""
        for preset in PRESETS.values():
            self.assertEqual(
                len(preset.plans), len(HeaderRules.for_preset(preset, b"X-Secret").folds)
            )

    def test_server_lines(self) -> None:
        """The lines for the server's configuration have the configured name, if there is one."""
        self.assertEqual(
            ("op.tls.clientX509CertHeader = {name}",), PRESETS["connect2id"].server_lines
        )
        for preset in PRESETS.values():
            self.assertEqual(
                preset.takes_name, "{name}" in " ".join(preset.server_lines), preset.name
            )


class TheName(SynchronousTestCase):
    def test_who_chooses(self) -> None:
        """A secret name has to be chosen, a customary one may be, a fixed one may not."""
        plans = (HeaderPlan(Format.PEM, b"X-Cert"),)
        rows = [(Preset("name", "Title", plans, (), naming), naming) for naming in Naming]
        self.assertEqual(
            {
                Naming.SECRET: (True, True),
                Naming.CHOSEN: (False, True),
                Naming.FIXED: (False, False),
            },
            {naming: (preset.needs_name, preset.takes_name) for preset, naming in rows},
        )


class Unknown(SynchronousTestCase):
    def test_sentence(self) -> None:
        """A name that is not there is answered with what was found and those that are there."""
        raised = self.assertRaises(SettingsError, find_preset, "connect3id")
        self.assertTrue(
            str(raised).startswith("preset: found 'connect3id', expected one of connect2id, "),
            str(raised),
        )
        for name in PRESETS:
            self.assertIn(name, str(raised))
