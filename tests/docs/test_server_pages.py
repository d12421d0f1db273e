"""Promises of the pages in ``docs/servers``: each preset has one, with what an administrator needs."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from x509proxy.forwarding.presets import PRESETS

ROOT = Path(__file__).parents[2]


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
