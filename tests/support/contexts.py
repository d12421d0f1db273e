"""A run of trial with each test's module as the context of its coverage.

``python -m coverage run -m tests.support.contexts tests`` runs it, as ``twisted.trial`` does. The
data then distinguish the test modules that executed a line (``.ci/individual_coverage.py``).
"""

from __future__ import annotations

import sys
from typing import Any

import coverage
from twisted.scripts import trial
from twisted.trial.unittest import SynchronousTestCase

__all__ = ["record_contexts"]


def record_contexts(measure: Any) -> None:
    """Switch to the context of a test's module for as long as the test runs."""
    run = SynchronousTestCase.run

    def run_in_context(self: SynchronousTestCase, result: Any) -> Any:
        measure.switch_context(type(self).__module__)
        try:
            return run(self, result)  # type: ignore[no-untyped-call]
        finally:
            measure.switch_context("")

    SynchronousTestCase.run = run_in_context  # type: ignore[method-assign]


if __name__ == "__main__":
    current = coverage.Coverage.current()
    if current is not None:
        record_contexts(current)
    sys.exit(trial.run())
