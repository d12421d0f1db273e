"""The size of parameter products: samples in the suite, all of them in the session ``fuzz``.

``X509PROXY_EXHAUSTIVE=1`` selects all.
"""

from __future__ import annotations

import os

__all__ = ["EXHAUSTIVE", "examples"]

EXHAUSTIVE = os.environ.get("X509PROXY_EXHAUSTIVE") == "1"


def examples(few: int, many: int) -> int:
    """Return the number of random examples of this run."""
    return many if EXHAUSTIVE else few
