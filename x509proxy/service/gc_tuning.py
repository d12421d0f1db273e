"""Python's garbage collector, as a process that serves for months needs it.

Facts
-----
* What the proxy makes for a connection and for a request has no cycles (``tests/integration/test_no_cycles.py``), so reference counting frees
  it at once, and the collector only walks over what is in use: every 700 objects (Python 3.11), and now and then all of them.
* With what is there frozen, and its rounds rarer, connections cost less, and no request waits while all that was imported is
  looked through.
"""

from __future__ import annotations

import gc

__all__ = ["relax_collector", "restore_collector"]

_USUAL = gc.get_threshold()
# Objects made and not freed, until the youngest are looked at: some MiB at the most, should a library leave cycles after all.
_AFTER = 10_000


def relax_collector() -> None:
    """Once all is there that stays: leave it alone from now on, and look at what is new less often."""
    if gc.get_threshold() == _USUAL:
        gc.collect()
        gc.freeze()
        gc.set_threshold(_AFTER, *_USUAL[1:])


def restore_collector() -> None:
    """As it was before."""
    if gc.get_threshold() == (_AFTER, *_USUAL[1:]):
        gc.unfreeze()
        gc.set_threshold(*_USUAL)
