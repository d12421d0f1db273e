"""Promises of :mod:`x509proxy.presets`."""

from __future__ import annotations

import re

from twisted.trial.unittest import SynchronousTestCase

from x509proxy.encoding import Format
from x509proxy.headers import HeaderRules
from x509proxy.presets import PRESETS, HeaderPlan, Preset, find_preset
from x509proxy.settings import ProxySettings, SettingsError


class Table(SynchronousTestCase):
    def test_names(self) -> None:
        """A preset is found under its own name, and has a title."""
        for name, preset in PRESETS.items():
            self.assertEqual(name, preset.name)
            self.assertTrue(preset.title)

    def test_default(self) -> None:
        """The default preset exists: Connect2id's, one header whose name is the administrator's, PEM without white space."""
        preset = find_preset(ProxySettings().preset)
        self.assertEqual("connect2id", preset.name)
        self.assertEqual((HeaderPlan(Format.PEM, b""),), preset.plans)

    def test_rfc9440(self) -> None:
        """RFC 9440 has two headers with names of its own."""
        self.assertEqual(
            (HeaderPlan(Format.RFC9440, b"Client-Cert"), HeaderPlan(Format.RFC9440_CHAIN, b"Client-Cert-Chain")),
            find_preset("rfc9440").plans,
        )

    def test_names_are_of_plain_characters(self) -> None:
        """Every name in the table is one that passes this proxy's own rules: letters, digits and hyphens."""
        for preset in PRESETS.values():
            for plan in preset.plans:
                self.assertTrue(not plan.name or re.fullmatch(rb"[A-Za-z0-9-]+", plan.name), plan)

    def test_no_header_twice(self) -> None:
        """No preset sends two headers of the same name (law L1)."""
        for preset in PRESETS.values():
            self.assertEqual(len(preset.plans), len(HeaderRules.for_preset(preset, b"X-Secret").folds))

    def test_server_line(self) -> None:
        """The line for the server's configuration takes the chosen name; a preset that needs a name has such a line."""
        self.assertEqual("op.tls.clientX509CertHeader = X-Name", PRESETS["connect2id"].server_line.format(name="X-Name"))
        for preset in PRESETS.values():
            self.assertEqual(preset.needs_name, "{name}" in preset.server_line, preset.name)


class NeedsName(SynchronousTestCase):
    def test_open_name(self) -> None:
        """A preset with one name left open needs it."""
        plans = (HeaderPlan(Format.PEM, b"X-Fixed"), HeaderPlan(Format.PEM))
        self.assertTrue(Preset("name", "Title", plans).needs_name)

    def test_all_fixed(self) -> None:
        """A preset whose names are all known needs none."""
        self.assertFalse(Preset("name", "Title", (HeaderPlan(Format.PEM, b"X-Fixed"),)).needs_name)


class Unknown(SynchronousTestCase):
    def test_sentence(self) -> None:
        """A name that is not there is answered with what was found and those that are there."""
        raised = self.assertRaises(SettingsError, find_preset, "connect3id")
        self.assertTrue(str(raised).startswith("preset: found 'connect3id', expected one of connect2id, "), str(raised))
        for name in PRESETS:
            self.assertIn(name, str(raised))
