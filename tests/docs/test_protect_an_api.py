"""Promises of ``docs/protect-an-api.rst``: its table of hostile tokens is what the proxy does."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.hostile_tokens import CASES, table
from x509proxy.settings import TokenLevel

PAGE = Path(__file__).parents[2] / "docs/protect-an-api.rst"
_PASS = (
    "the scheme in lower case",
    "a DPoP key's token, sent as ``DPoP``",
)


class Hostile(SynchronousTestCase):
    def test_table(self) -> None:
        """The table is up to date: ``python -m tests.support.hostile_tokens`` prints it."""
        self.assertIn(table(), PAGE.read_text())

    def test_verified(self) -> None:
        """With level ``jwt`` no hostile token reaches the back end."""
        passed = [case.name for case in CASES if case.result(TokenLevel.JWT) == "passes"]
        hostile = [name for name in passed if not name.endswith("(for comparison)")]
        self.assertEqual([*_PASS], hostile)

    def test_names(self) -> None:
        """No row hides another one."""
        names = [case.name for case in CASES]
        self.assertEqual(len(set(names)), len(names))
