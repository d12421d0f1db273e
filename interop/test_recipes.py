"""Promises of the recipes."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from interop.recipes import DOCS, filled, recipe
from x509proxy.forwarding.presets import PRESETS

# Pages of servers that read the headers of several presets, or of another one's.
_SEVERAL = ("authority", "hops", "keycloak", "spring")


class Recipes(SynchronousTestCase):
    def test_place_not_found(self) -> None:
        """A page without a text that a test replaces is an error."""
        self.assertEqual("a = 2", filled("a = 1", {"1": "2"}))
        self.assertRaises(LookupError, filled, "a = 1", {"3": "2"})

    def test_unknown(self) -> None:
        """A recipe that is not there is an error, not an empty text."""
        self.assertRaises(LookupError, recipe, "servers/connect2id", "no such block")


class Pages(SynchronousTestCase):
    def test_one_for_each(self) -> None:
        """Each preset has its page."""
        pages = {path.stem for path in (DOCS / "servers").glob("*.rst")}
        self.assertEqual(set(PRESETS) - {"none"}, pages - {"index", *_SEVERAL})
