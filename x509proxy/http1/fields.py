"""Header fields as (name, value) pairs: order and repeats are kept."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Pairs"]

Pairs = Sequence[tuple[bytes, bytes]]
