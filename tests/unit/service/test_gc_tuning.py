"""Tests of :mod:`x509proxy.service.gc_tuning`."""

from __future__ import annotations

import gc

from twisted.trial.unittest import SynchronousTestCase

from x509proxy.service.gc_tuning import relax_collector, restore_collector

# Objects: Python 3.12 freezes some hundred that are immortal, of its own accord.
MANY = 10_000


class Settings(SynchronousTestCase):
    def setUp(self) -> None:
        self.usual = gc.get_threshold()
        self.addCleanup(gc.set_threshold, *self.usual)
        self.addCleanup(gc.unfreeze)

    def test_relaxed(self) -> None:
        """Existing objects are not examined any more, and new ones less often.

        At the end all is as it was.
        """
        relax_collector()
        self.assertGreater(gc.get_freeze_count(), MANY)
        self.assertGreater(gc.get_threshold()[0], self.usual[0])
        restore_collector()
        self.assertEqual(self.usual, gc.get_threshold())
        self.assertLess(gc.get_freeze_count(), MANY)

    def test_not_ours(self) -> None:
        """Settings of another program are left alone, at the start and at the end."""
        gc.set_threshold(123, 4, 5)
        relax_collector()
        self.assertEqual((123, 4, 5), gc.get_threshold())
        self.assertLess(gc.get_freeze_count(), MANY)
        gc.freeze()
        restore_collector()
        self.assertGreater(gc.get_freeze_count(), MANY)
