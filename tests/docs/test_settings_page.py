"""Promises of ``docs/settings.rst``: it is made from the keys of the code."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.settings_page import settings_page

PAGE = Path(__file__).parents[2] / "docs" / "settings.rst"


class Page(SynchronousTestCase):
    def test_up_to_date(self) -> None:
        """The page was made from these keys (``python -m tests.support.settings_page``)."""
        self.assertEqual(settings_page(), PAGE.read_text())
