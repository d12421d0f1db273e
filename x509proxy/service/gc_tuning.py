"""Settings of Python's garbage collector for a process that serves for months.

Facts
-----
* The objects of a connection and of a request have no cycles
  (``tests/integration/test_no_cycles.py``), so reference counting frees them at once. The collector
  would only traverse objects in use: the young ones after 700 allocations (Python 3.11), and
  sometimes all of them.
* With the imported modules frozen and fewer collections, connections cost less, and no request
  waits for a full collection.
"""

from __future__ import annotations

import gc

__all__ = ["relax_collector", "restore_collector"]

_DEFAULTS = gc.get_threshold()
# Allocations without a deallocation until a collection. Cycles of a library hold some MiB until
# then.
_THRESHOLD = 10_000


def relax_collector() -> None:
    """Exclude all existing objects from collections, and run collections less often.

    It is called when everything that stays in memory has been imported and made.
    """
    if gc.get_threshold() == _DEFAULTS:
        gc.collect()
        gc.freeze()
        gc.set_threshold(_THRESHOLD, *_DEFAULTS[1:])


def restore_collector() -> None:
    """Undo :func:`relax_collector`."""
    if gc.get_threshold() == (_THRESHOLD, *_DEFAULTS[1:]):
        gc.unfreeze()
        gc.set_threshold(*_DEFAULTS)
